"""Units and cron lines: what systemd-analyze and a reader of cron's fields make of them, and what is left alone."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from kit.profiles import Desk
from pogfast import schedule
from pogfast.config import load
from pogfast.config.calendar import Calendar
from pogfast.config.schema import When
from pogfast.errors import PogfastError, UsageError

PROFILE = """\
[stores.one]
address = "${PLACE}/one"
[profiles.home]
stores = ["one"]
key = { file = "k.encrypt" }
sources = ["${PLACE}/tree"]
schedule = "Mon..Fri 02:30"
"""
ANALYZE = shutil.which("systemd-analyze")
# Notes how it is called; crontab stores what it is given in a file.
NOTE = 'env >> "$PLACE/environment"'  # what each got
SYSTEMCTL = f'#!/bin/sh\n{NOTE}\necho "$@" >> "$PLACE/systemctl.log"\n'
CRONTAB = f"""\
#!/bin/sh
{NOTE}
if [ -f "$PLACE/broken" ]; then echo "crontab: you may not" >&2; exit 1; fi
if [ "$1" = - ]; then cat > "$PLACE/crontab"; echo >> "$PLACE/written"; exit; fi
if [ ! -f "$PLACE/crontab" ]; then echo "no crontab for me" >&2; exit 1; fi
cat "$PLACE/crontab"
"""


class Unattended(Desk):
    """A configuration without variables, which nobody sets for a scheduled run."""

    def write(self, text: str, name: str = "pogfast.toml") -> Path:
        return super().write(text.replace("${PLACE}", str(self.place)), name)


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    made = Unattended(tmp_path)
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in (("systemctl", SYSTEMCTL), ("crontab", CRONTAB)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    mine = {"HOME": tmp_path / "home", "XDG_CONFIG_HOME": tmp_path / "xdg", "PATH": f"{programs}:{os.environ['PATH']}"}
    made.environ |= {name: str(value) for name, value in mine.items()}
    for name, value in made.environ.items():
        if name in mine or name == "PLACE" or name.startswith("POGFAST_"):
            monkeypatch.setenv(name, value)
    made.write(PROFILE)
    return made


def job(desk: Desk) -> schedule.Job:
    config = load(str(desk.config))
    return schedule.Job(config, config.profiles["home"])


def units(desk: Desk, *, user: bool = False) -> tuple[str, str]:
    service, timer = schedule.Systemd(user=user).planned(job(desk)).values()
    return service, timer


def crontab(desk: Desk) -> str:
    return (desk.place / "crontab").read_text()


# ---- when ------------------------------------------------------------------------------------------------------------

EXPRESSIONS = {
    "daily": "0 0 * * *",
    "hourly": "0 * * * *",
    "Weekly": "0 0 * * 1",
    "monthly": "0 0 1 * *",
    "quarterly": "0 0 1 1,4,7,10 *",
    "semiannually": "0 0 1 1,7 *",
    "yearly": "0 0 1 1 *",
    "annually": "0 0 1 1 *",
    "02:30": "30 2 * * *",
    "2:05:00": "5 2 * * *",
    "Mon..Fri 02:30": "30 2 * * 1-5",
    "Sat,sunday *-*-* 3:00": "0 3 * * 6,7",
    "Sun": "0 0 * * 7",
    "*-*-01,15 04:00": "0 4 1,15 * *",
    "12-25": "0 0 25 12 *",
    "*-*-10..14/2 00:01": "1 0 10-14/2 * *",
    "*:0/15": "0-59/15 * * * *",
    "00/6:30": "30 0-23/6 * * *",
    "8..17:05": "5 8-17 * * *",
}


@pytest.mark.parametrize("text", EXPRESSIONS)
def test_a_calendar_expression_in_the_words_of_cron(text: str) -> None:
    assert Calendar.parse(text).cron == EXPRESSIONS[text]


def matches(field: str, number: int, lowest: int, highest: int) -> bool:
    """What crontab(5) says of a field."""
    for item in field.split(","):
        span, _, step = item.partition("/")
        first, _, last = span.partition("-")
        begin, end = (lowest, highest) if span == "*" else (int(first), int(last or first))
        if number in range(begin, end + 1, int(step or 1)):
            return True
    return False


def due(line: str, time: datetime) -> bool:
    minute, hour, day, month, weekday = line.split()[:5]
    return (
        matches(minute, time.minute, 0, 59)
        and matches(hour, time.hour, 0, 23)
        and matches(day, time.day, 1, 31)
        and matches(month, time.month, 1, 12)
        and matches(weekday, time.isoweekday(), 1, 7)
    )


@pytest.mark.skipif(not ANALYZE, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("text", EXPRESSIONS)
def test_systemd_and_cron_run_it_at_the_same_times(text: str) -> None:
    begin = datetime(2027, 1, 30, 23, 50, 30)
    command = ["systemd-analyze", "calendar", "--iterations=4", f"--base-time={begin:%Y-%m-%d %H:%M:%S} UTC"]
    ran = subprocess.run(
        [*command, Calendar.parse(text).text], env={**os.environ, "TZ": "UTC"}, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    lines = [line.partition(": ")[2].split() for line in ran.stdout.splitlines() if "elapse" in line or "Iter" in line]
    times = [datetime.fromisoformat(" ".join(words[1:3])) for words in lines]
    assert len(times) == 4
    time = begin.replace(second=0)
    found: list[datetime] = []
    while time < times[-1]:
        time += timedelta(minutes=1)
        if due(EXPRESSIONS[text], time):
            found.append(time)
    assert found == times
    assert upcoming(text, begin.astimezone()) == times


def upcoming(text: str, moment: datetime) -> list[datetime]:
    """The next four times, on the clock of this machine."""
    found = []
    for _ in range(4):
        following = Calendar.parse(text).after(moment)
        assert following is not None
        assert following > moment
        found.append(following.replace(tzinfo=None))
        moment = following
    return found


def test_a_time_that_never_comes() -> None:
    begin = datetime(2027, 1, 30).astimezone()
    assert Calendar.parse("*-02-30").after(begin) is None
    with pytest.raises(ValueError, match=r"\*-02-30 never comes"):
        When.read("*-02-30")
    monday = Calendar.parse("Mon *-02-29 04:00").after(begin)
    assert monday is not None
    assert monday.replace(tzinfo=None) == datetime(2044, 2, 29, 4)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "dayli",
            "",
            "25:00",
            "10:60",
            "Fri..Mon",
            "Mon 2",
            "*-13-01",
            "2027-01-01",
            "10:00:30",
            "*:*/5",
            "1..2..3:00",
        ),
        *("02:30 UTC", "5..2:00", "10:00\nExecStart=/bin/sh", "Mon..", "*-*-0", "%h:00", "٣:00", "0/0:00"),
    ],
)
def test_what_is_no_calendar_expression_is_refused(desk: Desk, text: str) -> None:
    [problem] = desk.problems(PROFILE.replace('"Mon..Fri 02:30"', repr(text).replace("'", '"')))
    assert problem.line == 7
    assert "is no calendar expression such as" in problem.message


def test_cron_is_not_told_what_it_understands_in_another_way(desk: Desk) -> None:
    desk.write(PROFILE.replace("Mon..Fri 02:30", "Sun *-*-1..7 04:00"))
    assert "OnCalendar=Sun *-*-1..7 04:00\n" in units(desk)[1]
    ran = desk.pogfast("schedule", "enable", "home", "--manager", "cron")
    assert ran.code == 2
    assert "cron cannot be told" in ran.err


# ---- systemd ---------------------------------------------------------------------------------------------------------

HOSTILE = """\
[stores.one]
address = '${PLACE}/100%n "$HOME" \\ é;one'
[stores.two]
address = "s3://bucket/x"
[profiles."home.-_1"]
stores = ["one", "two"]
key = { credential = "a%nb" }
sources = ["/home"]
schedule = "*-*-1..7 04:00"
spread = "90m"
priority = { nice = 5, io = "low" }
"""


def check_units(desk: Desk, profile: str, *, user: bool) -> None:
    """Has systemd-analyze read the units of a profile."""
    config = load(str(desk.config))
    directory = desk.place / "units"
    directory.mkdir()
    for path, text in schedule.Systemd(user=user).planned(schedule.Job(config, config.profiles[profile])).items():
        (directory / os.path.basename(path)).write_text(text)
    command = ["systemd-analyze", "verify", "--man=no", *(["--user"] if user else []), *map(str, directory.iterdir())]
    environ = {**os.environ, "XDG_RUNTIME_DIR": str(desk.place)}
    ran = subprocess.run(command, capture_output=True, text=True, env=environ)
    said = [line for line in ran.stderr.splitlines() if f"pogfast-{profile}" in line or str(directory) in line]
    assert (ran.returncode, said) == (0, []), ran.stderr


@pytest.mark.skipif(not ANALYZE, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("user", [False, True])
@pytest.mark.parametrize("text", [PROFILE, HOSTILE])
def test_systemd_has_nothing_to_say_against_the_units(desk: Desk, text: str, user: bool) -> None:
    desk.write(text)
    check_units(desk, "home" if text == PROFILE else "home.-_1", user=user)


@pytest.mark.skipif(not ANALYZE, reason="systemd-analyze is not installed")
def test_systemd_analyze_would_find_a_faulty_unit(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pogfast.schedule.units.OF_SYSTEM", ("ProtectSystem=very",))
    with pytest.raises(AssertionError, match="very"):
        check_units(desk, "home", user=False)


def test_what_systemd_would_replace_is_doubled(desk: Desk) -> None:
    moved = desk.place / 'a "$b" %h \\ c.toml'
    desk.config.rename(moved)
    config = load(str(moved))
    service = schedule.Systemd(user=False).planned(schedule.Job(config, config.profiles["home"]))
    [line] = [line for text in service.values() for line in text.splitlines() if line.startswith("ExecStart=")]
    assert line.endswith(f'"--config" "{desk.place}/a \\"$$b\\" %%h \\\\ c.toml"')


@pytest.mark.parametrize("letter", ["\n", "\r", "\x1b", "\udcff"])
@pytest.mark.parametrize("word", ["system", "cron"])
def test_a_path_that_cannot_be_told_is_refused(desk: Desk, letter: str, word: str) -> None:
    moved = desk.place / f"a{letter}[Service].toml"
    desk.config.rename(moved)
    config = load(str(moved))
    with pytest.raises(UsageError, match="cannot be scheduled"):
        schedule.manager(word).planned(schedule.Job(config, config.profiles["home"]))


def test_a_unit_may_write_where_a_run_writes(desk: Desk) -> None:
    desk.write(PROFILE.replace("${PLACE}/one", "/mnt/disk/one").replace("${PLACE}/tree", "/home"))
    service, _ = units(desk)
    for path in (desk.place / "cache", desk.place / "state", "/mnt/disk"):
        assert f'ReadWritePaths="-{path}"\n' in service
    assert "ProtectSystem=strict\n" in service
    assert "ProtectHome" not in service
    assert "NoNewPrivileges=yes\n" in service


def test_a_unit_has_a_tmp_of_its_own_if_a_run_needs_no_other(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pogfast.schedule.units.TEMPORARY", ("/nowhere/tmp",))
    assert "PrivateTmp=yes\n" in units(desk)[0]
    for source in ("/", "/nowhere", "/nowhere/tmp/x"):
        desk.write(PROFILE.replace("${PLACE}/tree", source))
        service, _ = units(desk)
        assert "PrivateTmp" not in service
        assert 'ReadWritePaths="-/nowhere/tmp"\n' in service


@pytest.mark.parametrize(
    "more",
    [
        '[profiles.home.hooks]\nbefore = [["sudo", "true"]]\n',
        '[profiles.home.hooks.create]\nfinally = [["sudo", "true"]]\n',
        '[profiles.home.needs]\ncommands = [["true"]]\n',
        'sources = [{ command = ["true"], name = "x" }]\n',
        'key = { command = ["true"] }\n',
    ],
)
def test_programs_of_the_user_are_not_restricted(desk: Desk, more: str) -> None:
    text = PROFILE
    if more.startswith(("sources", "key")):
        text = "\n".join(line for line in PROFILE.splitlines() if not line.startswith(more.split()[0])) + "\n"
    desk.write(text + more)
    service, _ = units(desk)
    assert "NoNewPrivileges" not in service
    assert "ProtectSystem" not in service


def test_units_of_the_user_see_who_owns_a_file(desk: Desk) -> None:
    """ProtectSystem and its like would put them in a user namespace."""
    service, _ = units(desk, user=True)
    assert "NoNewPrivileges=yes\n" in service
    assert not any(word in service for word in ("Protect", "PrivateTmp", "ReadWritePaths"))


def test_settings_become_those_of_units(desk: Desk) -> None:
    desk.write(PROFILE + 'spread = "30m"\npriority = { nice = 7, io = "idle" }\n')
    service, timer = units(desk)
    assert "Nice=7\nIOSchedulingClass=idle\n" in service
    assert "network-online" not in service
    assert "OnCalendar=Mon..Fri 02:30\nPersistent=true\nRandomizedDelaySec=1800s\n" in timer
    desk.write(PROFILE.replace("${PLACE}/one", "s3://bucket/one"))
    assert "After=network-online.target\n" in units(desk)[0]


def test_a_credential_is_passed_on(desk: Desk) -> None:
    desk.write(PROFILE.replace('{ file = "k.encrypt" }', '{ credential = "backup" }'))
    assert "LoadCredential=backup:/etc/credstore/backup\n" in units(desk)[0]
    ran = desk.pogfast("schedule", "enable", "home", "--manager", "user")
    place = desk.place / "xdg" / "credstore"
    assert ran.code == 2
    assert f"there is no credential backup: {place}/backup is missing" in ran.err
    assert not (desk.place / "xdg" / "systemd").exists()
    sealed = place.with_name("credstore.encrypted")
    for directory in (place, sealed):
        directory.mkdir(parents=True)
    (place / "backup").write_text("a key")
    assert desk.pogfast("schedule", "enable", "home", "--manager", "user").code == 0
    assert schedule.is_enabled("home", str(desk.config)) is False, "systemctl makes the link, and is not here"
    wanted = desk.place / "xdg" / "systemd" / "user" / "timers.target.wants"
    wanted.mkdir()
    (wanted / "pogfast-home.timer").symlink_to("../pogfast-home.timer")
    assert schedule.is_enabled("home", str(desk.config))
    assert not schedule.is_enabled("home", "/another/pogfast.toml")
    (sealed / "backup").write_text("a sealed key")
    assert f"LoadCredentialEncrypted=backup:{sealed}/backup\n" in units(desk, user=True)[0]
    ran = desk.pogfast("schedule", "show", "home", "--manager", "cron")
    assert ran.code == 2
    assert "cron cannot pass on" in ran.err


def called(desk: Desk) -> list[str]:
    log = desk.place / "systemctl.log"
    lines = log.read_text().splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    return lines


def test_units_are_written_once_and_removed(desk: Desk) -> None:
    place = desk.place / "xdg" / "systemd" / "user"
    place.mkdir(parents=True)
    (place / "other.timer").write_text("mine\n")
    shown = desk.pogfast("schedule", "show", "home", "--manager", "user").lines
    assert [*place.iterdir()] == [place / "other.timer"]
    ran = desk.pogfast("schedule", "enable", "home", "--manager", "user")
    assert ran.code == 0, ran.err
    assert "home is scheduled: Mon..Fri 02:30, by systemd (user units)" in ran.err
    assert called(desk) == ["--user daemon-reload", "--user enable --now pogfast-home.timer"]
    made = {path.name: (path.read_text(), path.stat().st_mtime_ns) for path in place.iterdir()}
    assert set(made) == {"other.timer", "pogfast-home.service", "pogfast-home.timer"}
    written = [line for text, _ in made.values() for line in text.splitlines() if line and line != "mine"]
    assert sorted(line.strip() for line in shown if line.startswith(" ") and line.strip()) == sorted(written)
    assert (desk.place / "state").is_dir()  # what is missing could not be made writable
    ran = desk.pogfast("schedule", "enable", "home", "--manager", "user")
    assert "home is scheduled already" in ran.err
    assert {path.name: (path.read_text(), path.stat().st_mtime_ns) for path in place.iterdir()} == made
    desk.write(PROFILE.replace("02:30", "03:30"))
    assert "home is scheduled: Mon..Fri 03:30" in desk.pogfast("schedule", "enable", "home", "--manager", "user").err
    assert "OnCalendar=Mon..Fri 03:30\n" in (place / "pogfast-home.timer").read_text()
    called(desk)
    desk.write(PROFILE.replace("profiles.home", "profiles.other"))  # also when the profile is gone
    ran = desk.pogfast("schedule", "disable", "home", "--manager", "user")
    assert (ran.code, [*place.iterdir()]) == (0, [place / "other.timer"])
    assert called(desk) == ["--user disable --now pogfast-home.timer", "--user daemon-reload"]
    assert "home was not scheduled" in desk.pogfast("schedule", "disable", "home", "--manager", "user").err
    assert called(desk) == []


@pytest.mark.parametrize("verb", ["enable", "disable"])
def test_units_of_others_are_left_alone(desk: Desk, verb: str) -> None:
    place = desk.place / "xdg" / "systemd" / "user"
    place.mkdir(parents=True)
    of_other = units(desk, user=True)[0].replace(str(desk.config), "/elsewhere/pogfast.toml")
    for text in ("[Service]\nExecStart=/bin/true\n", of_other):
        (place / "pogfast-home.service").write_text(text)
        ran = desk.pogfast("schedule", verb, "home", "--manager", "user")
        assert ran.code == 2
        assert "pogfast-home.service was not written for this profile" in ran.err
        assert [*place.iterdir()] == [place / "pogfast-home.service"]
        assert (place / "pogfast-home.service").read_text() == text


def test_a_systemctl_that_fails_is_quoted(desk: Desk) -> None:
    (desk.place / "bin" / "systemctl").write_text("#!/bin/sh\necho 'Failed to connect to bus' >&2; exit 1\n")
    ran = desk.pogfast("schedule", "enable", "home", "--manager", "user")
    assert ran.code == 1
    assert "systemctl --user daemon-reload: Failed to connect to bus" in ran.err


# ---- cron ------------------------------------------------------------------------------------------------------------


def test_the_line_of_cron_runs_the_profile(desk: Desk) -> None:
    """As cron does: the rest of the line in sh, with the environment that cron has."""
    moved = desk.config.with_name("a 'b' %d.toml")
    desk.config.rename(moved)
    ran = desk.pogfast("schedule", "enable", "home", "--manager", "cron", "--config", str(moved))
    assert ran.code == 0, ran.err
    [line] = [line for line in crontab(desk).splitlines() if not line.startswith("#")]
    fields = line.split(" ", 5)
    assert fields[:5] == ["30", "2", "*", "*", "1-5"]
    assert "%" not in fields[5].replace("\\%", "")
    ran_by_cron = subprocess.run(
        ["/bin/sh", "-c", fields[5].replace("\\%", "%")],
        env={"HOME": str(desk.place), "PATH": "/usr/bin:/bin"},
        cwd=desk.place,
        capture_output=True,
        text=True,
    )
    assert (ran_by_cron.returncode, ran_by_cron.stdout, ran_by_cron.stderr) == (0, "", "")
    assert [*(desk.place / "one").glob("*.mfn")]
    assert (desk.place / "state" / "runs" / "home.jsonl").exists()


@pytest.mark.parametrize("others", ["", "MAILTO=me\n0 1 * * * true  # %\n", "@daily true", "\xe9\r\n\n#\n\n"])
def test_other_lines_of_the_crontab_stay_as_they_are(desk: Desk, others: str) -> None:
    path = desk.place / "crontab"
    if others:
        path.write_text(others, encoding="latin-1", newline="")
    before = path.read_bytes() if others else b""
    for _ in range(2):
        assert desk.pogfast("schedule", "enable", "home", "--manager", "cron").code == 0
    assert schedule.is_enabled("home", str(desk.config))
    made = path.read_bytes()
    assert made.startswith(before)
    assert made.count(b" run home --config ") == 1
    assert len((desk.place / "written").read_text()) == 1, "written once"
    path.write_bytes(made + b"0 5 * * * later\n")
    desk.write(PROFILE.replace("02:30", "03:30"))
    assert desk.pogfast("schedule", "enable", "home", "--manager", "cron").code == 0
    assert b"\n30 3 * * 1-5 " in path.read_bytes()
    assert path.read_bytes().endswith(b": end\n0 5 * * * later\n")
    for _ in range(2):
        assert desk.pogfast("schedule", "disable", "home", "--manager", "cron").code == 0
    end = b"" if not before or before.endswith(b"\n") else b"\n"
    assert path.read_bytes() == before + end + b"0 5 * * * later\n"


def test_half_a_block_is_not_replaced(desk: Desk) -> None:
    assert desk.pogfast("schedule", "enable", "home", "--manager", "cron").code == 0
    text = crontab(desk)
    cut = text[: text.rindex("#")]
    for faulty in (cut, text + text):
        (desk.place / "crontab").write_text(faulty)
        for verb in ("enable", "disable"):
            ran = desk.pogfast("schedule", verb, "home", "--manager", "cron")
            assert (ran.code, crontab(desk)) == (1, faulty)
            assert "the crontab has half a block of pogfast" in ran.err


def test_a_crontab_that_cannot_be_read_is_not_replaced(desk: Desk) -> None:
    (desk.place / "crontab").write_text("0 1 * * * true\n")
    (desk.place / "broken").touch()
    ran = desk.pogfast("schedule", "enable", "home", "--manager", "cron")
    assert (ran.code, crontab(desk)) == (1, "0 1 * * * true\n")
    assert "crontab -l: crontab: you may not" in ran.err


@pytest.mark.parametrize("word", ["user", "cron"])
def test_programs_get_no_secrets(desk: Desk, word: str) -> None:
    secrets = {"POGFAST_PASSWORD": "s3cr3t", "AWS_SECRET_ACCESS_KEY": "s3cr3t"}
    assert desk.pogfast("schedule", "enable", "home", "--manager", word, **secrets).code == 0
    got = (desk.place / "environment").read_text()
    assert "PLACE=" in got
    assert "s3cr3t" not in got


def test_lines_are_shown_where_there_is_no_cron(desk: Desk) -> None:
    (desk.place / "bin" / "crontab").unlink()
    desk.write(PROFILE + '[profiles.home.hooks]\nbefore = [["true"]]\n')
    ran = desk.pogfast("schedule", "show", "home", "--manager", "cron")
    assert (ran.code, ran.err) == (0, "")
    assert len(ran.lines) == 4
    if not shutil.which("crontab", path=desk.environ["PATH"]):
        ran = desk.pogfast("schedule", "enable", "home", "--manager", "cron")
        assert (ran.code, "cannot run crontab: No such file or directory" in ran.err) == (1, True)


def test_a_spread_is_a_wait_of_this_machine(desk: Desk) -> None:
    desk.write(PROFILE + 'spread = "30m"\n')
    [line] = [line for line in job_lines(desk) if not line.startswith("#")]
    words = shlex.split(line)
    assert words[5] == "sleep"
    assert 0 < int(words[6].rstrip(";")) < 1800
    assert job_lines(desk) == job_lines(desk)


def job_lines(desk: Desk) -> list[str]:
    return schedule.Cron().planned(job(desk))["crontab"].splitlines()


# ---- what a run would lack -------------------------------------------------------------------------------------------


def refused(desk: Desk, more: str, *, manager: str, name: str = "home") -> list[str]:
    """The problems that keep a profile from being scheduled."""
    desk.write(PROFILE + more)
    ran = desk.pogfast("schedule", "enable", name, "--manager", manager)
    assert ran.code == 2
    assert not (desk.place / "crontab").exists()
    assert not (desk.place / "xdg" / "systemd").exists()
    shown = desk.pogfast("schedule", "show", name, "--manager", manager)
    assert (shown.code, shown.err) == (2, ran.err)
    return [line.removeprefix("pogfast: error: ") for line in ran.err.splitlines() if not line.startswith(" ")]


@pytest.mark.parametrize("manager", ["user", "cron"])
def test_files_and_programs_that_a_run_would_lack(desk: Desk, manager: str) -> None:
    """One line each."""
    (desk.place / "home" / "bin").mkdir(parents=True)
    (desk.place / "home" / "bin" / "mine").write_text("#!/bin/sh\n")
    (desk.place / "home" / "bin" / "mine").chmod(0o755)
    (desk.place / "idle").write_text("#!/bin/sh\n")  # which cannot be run
    more = """\
ping = { file = "${PLACE}/ping" }
exclude-from = ["${PLACE}/patterns"]
metrics = "${PLACE}/nowhere/pogfast.prom"
[profiles.home.hooks]
before = [["true"], ["mine", "x"], ["${PLACE}/idle"], ["bin/relative"]]
finally = [["${PLACE}/home/bin/mine"]]
[profiles.home.hooks.create]
after = [["mine", "y"]]
[profiles.home.needs]
commands = [["no-such-command"]]
"""
    (desk.config.parent / "k.encrypt").unlink()
    path = {"user": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "cron": "/usr/bin:/bin"}[manager]
    desk.environ["PATH"] += f":{desk.place}/home/bin"  # of the shell only
    assert refused(desk, more, manager=manager) == [
        f"there is no program mine in {path}",
        f"there is no program {desk.place}/idle",
        "bin/relative is a relative path of a program",
        f"there is no program no-such-command in {path}",
        f"{desk.config.parent}/k.encrypt is missing: home needs it",
        f"{desk.place}/patterns is missing: home needs it",
        f"{desk.place}/ping is missing: home needs it",
        f"there is no directory {desk.place}/nowhere: home writes to it",
    ]


@pytest.mark.parametrize("manager", ["user", "cron"])
def test_variables_that_a_run_would_lack(desk: Desk, manager: str) -> None:
    more = 'comment = "of ${WHERE} and ${HOME}"\nping = { variable = "PING_URL" }\n'
    desk.environ |= {"WHERE": "here", "PING_URL": "https://example.org/s3cr3t"}
    assert refused(desk, more, manager=manager) == [
        f"{desk.config}:8 uses the variable WHERE, which no scheduled run of home has",
        "a URL is in the variable PING_URL, which no scheduled run of home has",
    ]
    if manager == "user":
        told = desk.place / "xdg/systemd/user/pogfast-home.service.d/environment.conf"
        told.parent.mkdir(parents=True)
        told.write_text("[Service]\nEnvironment=WHERE=there PING_URL=https://example.org/s3cr3t\n")
    else:
        told = desk.place / "crontab"
        told.write_text("WHERE = there\nPING_URL=https://example.org/s3cr3t\n")
    ran = desk.pogfast("schedule", "enable", "home", "--manager", manager)
    assert ran.code == 0, ran.err
    written = [path for path in desk.place.rglob("pogfast-home.*") if path.is_file()]
    texts = [path.read_text() for path in written] or [crontab(desk).partition(" begin\n")[2]]
    assert all(texts)
    assert not [text for text in texts if "s3cr3t" in text or "WHERE" in text]
    assert desk.pogfast("schedule", "enable", "home", "--manager", manager).code == 0
    told.write_text(told.read_text().replace("WHERE", "OTHER"))
    assert desk.pogfast("schedule", "enable", "home", "--manager", manager).code == 2


def test_a_program_in_a_temporary_directory_is_not_hidden(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter, as in an environment there, and a file with a URL."""
    monkeypatch.setattr("pogfast.schedule.units.TEMPORARY", ("/nowhere/tmp",))
    assert "PrivateTmp=yes\n" in units(desk)[0]
    desk.write(PROFILE + 'ping = { file = "/nowhere/tmp/ping" }\n')
    assert "PrivateTmp" not in units(desk)[0]
    desk.write(PROFILE)
    monkeypatch.setattr("sys.executable", "/nowhere/tmp/venv/bin/python")
    assert "PrivateTmp" not in units(desk)[0]


# ---- both ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["enable", "show"])
def test_a_profile_that_is_only_inherited_from_is_not_scheduled(desk: Desk, verb: str) -> None:
    desk.write(PROFILE + '[profiles.base]\nschedule = "daily"\n[profiles.more]\ninherit = ["base", "home"]\n')
    ran = desk.pogfast("schedule", verb, "base", "--manager", "user")
    assert ran.code == 2
    assert "profile base cannot be run: there is nothing to do" in ran.err


def test_a_group_stands_for_its_profiles(desk: Desk) -> None:
    more = '[profiles.more]\ninherit = "home"\nschedule = "weekly"\n[groups.all]\nprofiles = ["home", "more"]\n'
    desk.write(PROFILE + more)
    shown = desk.pogfast("schedule", "show", "all", "home", "--manager", "cron").lines
    assert [line for line in shown if line.endswith(": begin")] == [
        f"    # pogfast schedule: profile {name} of {desk.config}: begin" for name in ("home", "more")
    ]
    ran = desk.pogfast("schedule", "enable", "all", "--manager", "user")
    assert ran.code == 0, ran.err
    place = desk.place / "xdg" / "systemd" / "user"
    assert {path.name for path in place.iterdir()} == {
        f"pogfast-{name}.{kind}" for name in ("home", "more") for kind in ("service", "timer")
    }
    desk.write(PROFILE + more.replace('schedule = "weekly"', 'schedul = "weekly"'))  # it can be disabled nevertheless
    assert desk.pogfast("schedule", "disable", "all", "--manager", "user").code == 0
    assert [*place.iterdir()] == []
    ran = desk.pogfast("schedule", "enable", "al", "--manager", "user")
    assert ran.code == 2
    desk.write(PROFILE + more)
    assert "did you mean all?" in desk.pogfast("schedule", "enable", "al", "--manager", "user").err


def test_a_profile_without_a_schedule_is_refused(desk: Desk) -> None:
    desk.write(PROFILE + '[profiles.never]\ninherit = "home"\n' + "[profiles.none.check]\nstores = ['one']\n")
    for word in ("user", "cron"):
        ran = desk.pogfast("schedule", "enable", "home", "none", "--manager", word)
        assert ran.code == 2
        assert "profile none has no schedule" in ran.err
    assert not (desk.place / "crontab").exists(), "nothing is changed if something is wrong"
    assert not (desk.place / "xdg").exists()


@pytest.mark.parametrize("name", ["../../etc/x", "a b", "", "x" * 65])
def test_a_name_that_can_be_none_is_not_disabled(desk: Desk, name: str) -> None:
    assert desk.pogfast("schedule", "disable", "--manager", "user", "--", name).code == 2
    with pytest.raises(PogfastError):
        schedule.checked(name)


def test_who_runs_profiles_follows_the_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(schedule, "BOOTED", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert schedule.manager().word == "system"
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert schedule.manager().word == "user"
    monkeypatch.setattr(schedule, "BOOTED", str(tmp_path / "nowhere"))
    assert schedule.manager().word == "cron"

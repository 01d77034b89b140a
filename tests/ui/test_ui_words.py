"""Names as tokens, shell lines, allowed directories, filters and verdicts: functions of text, for any text."""

from __future__ import annotations

import os
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pogfast import keys
from pogfast.archives.overview import ArchiveInfo
from pogfast.config import Profile
from pogfast.config.schema import Seconds, When
from pogfast.errors import CorruptManifest, UsageError
from pogfast.runs import Record
from pogfast.ui import shell, verdicts, words
from pogfast.ui.forms import Form, link
from pogfast.ui.pages.archives import matches
from pogfast.ui.roots import Roots
from pogfast.ui.schedules import lateness, next_run
from pogfast.ui.sessions import KEYS_FOR, GivenKey, Sessions
from pogfast.upkeep.reads import ReadShare

ANY = st.text(st.characters(exclude_categories=()), max_size=20)


@given(ANY)
def test_a_token_is_printable_and_means_its_name(name: str) -> None:
    found = words.token(name)
    assert found.isprintable()
    assert words.harmless(found) == found
    assert words.name_of(found) == name


@given(ANY)
def test_links_and_forms_bring_a_name_back(name: str) -> None:
    query = link("/page", path=name).partition("?")[2]
    assert Form.parse(query.encode()).name("path") == name


@given(ANY)
def test_whatever_is_shown_is_harmless(name: str) -> None:
    assert str(words.harmless(name)).isprintable() or not name
    shown = words.name(name)
    assert "<" not in shown.removeprefix("<bdi>").removesuffix("</bdi>")


@pytest.mark.parametrize("text", ["%", "%zz.", "%41", "%110000.", "\n", "a\u202eb", "%41."])
def test_what_is_no_token_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        words.name_of(text)


NAMES = [
    "plain",
    "a b",
    "",
    "-x",
    "it's",
    'q"`$(id)\\',
    "new\nline",
    "\x1b[31m",
    os.fsdecode(b"\xff\xfe"),
    "ü\u202e",
    "*?[",
]


def test_a_shell_reads_the_words_that_were_meant() -> None:
    line = shell.line(["printf", "%s\\0", *NAMES])
    assert line.isprintable()
    ran = subprocess.run(["bash", "-c", line], capture_output=True, check=True)
    assert ran.stdout == b"".join(os.fsencode(name) + b"\0" for name in NAMES)


def test_nothing_outside_of_the_roots(tmp_path: Path) -> None:
    root, other = tmp_path / "root", tmp_path / "rooted"
    (root / "inner").mkdir(parents=True)
    other.mkdir()
    (root / "out").symlink_to(other)
    roots = Roots([str(root)])
    assert roots.inside(str(root / "inner" / "new")) == str(root / "inner" / "new")
    for path in (other, root / "out", root / ".." / "rooted", root / "out" / "x", Path("/"), "relative", "", "/\0"):
        with pytest.raises(UsageError):
            roots.inside(str(path))
    assert roots.parent(str(root)) is None
    assert [each.name for each in roots.listing(str(root), files=True)[0]] == ["inner"]


def test_filters_of_months_and_years_have_ends() -> None:
    info = ArchiveInfo("x.mfn", datetime(2026, 5, 31, 12).astimezone(), host="laptop", tags=["a"], paths=["/etc/ssh"])
    for wanted in (
        "after:2026-05",
        "after:2026-05-31",
        "before:2026-06",
        "on:2026",
        "on:2026-05",
        "path:/etc",
        "LAP ssh",
    ):
        assert matches(wanted, info), wanted
    for wanted in ("after:2026-06", "before:2026-05-31", "on:2025", "path:/et", "tag:b", "host:x"):
        assert not matches(wanted, info), wanted
    for wanted in ("after:x", "on:2026-13", "before:0000", "after:99999"):
        with pytest.raises(UsageError):
            matches(wanted, info)


NOW = datetime(2026, 11, 30, tzinfo=UTC)


def info(**more: object) -> ArchiveInfo:
    return ArchiveInfo("x.mfn", NOW - timedelta(hours=3), files=1, **more)  # type: ignore[arg-type]


READ = [ReadShare(0.3, NOW - timedelta(days=12)), ReadShare(0.7, None)]


def test_verdicts() -> None:
    broken = info(problem="damaged", error=CorruptManifest("damaged"))
    assert verdicts.judge([info()], READ, NOW).words == "Protected"
    assert verdicts.judge([info()], READ[1:], NOW).words == "Not proven"
    assert verdicts.judge([], READ, NOW).words == "Empty"
    assert verdicts.judge([info(), broken], READ, NOW).words == "Damaged"
    assert verdicts.judge([info(unreadable=2)], READ, NOW).words == "Protected, with warnings"
    assert "2 files could not be read" in verdicts.judge([info(unreadable=2)], READ, NOW).why
    ahead = ArchiveInfo("y.mfn", NOW + timedelta(days=400))
    assert verdicts.judge([info(), ahead], READ, NOW).words == "Dated in the future"
    for infos in ([], [broken], [ahead]):
        assert "Protected" not in verdicts.judge(infos, READ, NOW).words


DAILY = Profile(name="home", sources=["/home"], schedule=When("daily"), spread=Seconds(1800))


def at(day: int, hour: int, minute: int = 0) -> datetime:
    """A time in November 2026, on the clock of this machine. The 1st is a Sunday."""
    return datetime(2026, 11, day, hour, minute).astimezone()


def ran(end: datetime) -> Record:
    return Record("home", "", "", "", end=end.isoformat(), seconds=600)


def test_a_profile_is_late_when_its_next_run_should_have_ended() -> None:
    """At midnight, half an hour of spread, ten minutes for the run, and a tenth of a day."""
    last = ran(at(10, 0, 10))
    assert lateness(DAILY, last, at(11, 3, 4)) is None
    late = lateness(DAILY, last, at(11, 3, 5))
    assert late is not None
    assert late.since == at(11, 0)
    assert late.why == "home: no archive for 1 day; expected daily"
    hourly = Profile(name="home", schedule=When("hourly"))
    assert lateness(hourly, ran(at(10, 1)), at(10, 3, 10)) is None
    late = lateness(hourly, ran(at(10, 1)), at(10, 3, 11))
    assert late is not None
    assert late.why == "home: no run for 2 hours; expected hourly"


def test_nobody_is_late_on_a_weekend() -> None:
    weekdays = Profile(name="home", schedule=When("Mon..Fri 12:00"))
    friday = ran(at(6, 12, 10))
    assert lateness(weekdays, friday, at(9, 11, 59)) is None
    assert lateness(weekdays, friday, at(9, 15)) is not None


def test_without_a_schedule_nothing_is_late_and_without_a_run_all_is() -> None:
    plain = Profile(name="home", sources=["/home"])
    assert lateness(plain, None, at(10, 0)) is None
    assert lateness(plain, ran(at(1, 0)), at(30, 0)) is None
    assert next_run([plain], at(10, 0)) is None
    assert next_run([plain, DAILY], at(10, 12)) == at(11, 0)
    late = lateness(DAILY, None, at(10, 0))
    assert late is not None
    assert late.why == "home: no archive yet; expected daily"
    assert late.since is None


@pytest.mark.parametrize(
    ("now", "moment", "said"),
    [
        (at(10, 10), at(10, 14), "today 14:00"),
        (at(10, 10), at(11, 2), "tonight 02:00"),
        (at(10, 1), at(10, 2), "tonight 02:00"),
        (at(10, 1), at(11, 2), "tomorrow 02:00"),
        (at(10, 10), at(11, 9), "tomorrow 09:00"),
        (at(10, 10), at(13, 2), "Fri 2026-11-13 02:00"),
    ],
)
def test_a_time_to_come_by_its_day(now: datetime, moment: datetime, said: str) -> None:
    shown = words.upcoming(moment, now)
    assert f">{said}</time>" in shown
    assert f'<time datetime="{moment.isoformat()}"' in shown


def test_keys_expire_without_another_request() -> None:
    sessions = Sessions()
    cookie = sessions.begin(sessions.new_token())
    assert cookie is not None
    session = sessions.find(cookie)
    assert session is not None
    session.keys["store"] = GivenKey(keys.Key("keyfile", bytes(range(32))))
    assert not sessions.expire()
    assert session.keys
    session.used -= KEYS_FOR + 1
    assert sessions.expire()
    assert not session.keys
    assert not sessions.expire()


def test_nothing_shows_a_key_that_was_given() -> None:
    given = GivenKey(keys.Key("keyfile", b"secret of 32 bytes, ASCII letters"[:32]), ("--keyfile=x",))
    assert "secret" not in repr(given)

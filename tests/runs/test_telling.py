"""What others are told of runs: verdicts, metrics that Prometheus' own parser reads, and a log."""

from __future__ import annotations

import json
import os
import threading
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from kit.profiles import Desk
from pogfast import runs
from pogfast.config import load
from pogfast.errors import UsageError
from pogfast.runs import metrics
from pogfast.runs.records import Outcome, Record, append

PROFILE = """\
[stores]
one = { address = "${PLACE}/one" }
[profiles.base]
stores = ["one"]
key = { file = "k.encrypt" }
log = "${PLACE}/log"
metrics = "${PLACE}/pogfast.prom"
[profiles.home]
inherit = "base"
sources = ["${PLACE}/tree"]
check = {}
[profiles.other]
inherit = "base"
sources = ["${PLACE}/tree"]
[groups.both]
profiles = ["home", "other"]
"""


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    made = Desk(tmp_path)
    for name, value in made.environ.items():
        if name == "PLACE" or name.startswith("POGFAST_"):
            monkeypatch.setenv(name, value)
    made.write(PROFILE)
    return made


def samples(desk: Desk) -> dict[tuple[str, str, str, str], float]:
    """(name, profile, verb, figure) -> value, as Prometheus reads it."""
    families = text_string_to_metric_families((desk.place / "pogfast.prom").read_text())
    found = {}
    for family in families:
        assert family.type == "gauge"
        assert family.documentation
        for sample in family.samples:
            words = tuple(sample.labels.get(word, "") for word in ("profile", "verb", "figure"))
            key = (sample.name.removeprefix("pogfast_"), *words)
            assert key not in found
            found[key] = sample.value
    return found  # type: ignore[return-value]


def add(desk: Desk, profile: str, outcome: Outcome, code: int, hours: float, **more: Any) -> None:
    """Records a run that ended some hours ago."""
    time = (datetime.now().astimezone() - timedelta(hours=hours)).isoformat()
    append(Record(profile, str(desk.config), "host", time, end=time, outcome=outcome, exit_code=code, **more))


def verdicts(desk: Desk, *names: str, **more: Any) -> list[tuple[str, str, int]]:
    found = runs.status(load(str(desk.config)), names, **more)
    return [(one.profile, one.verdict, one.code) for one in found]


# ---- status ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "code", "hours", "verdict"),
    [
        ("success", 0, 25, ("ok", 0)),
        ("success", 0, 27, ("late", 3)),
        ("incomplete", 3, 1, ("incomplete", 3)),
        ("incomplete", 3, 27, ("late", 3)),
        ("failed", 12, 1, ("failed", 1)),
        ("failed", 12, 27, ("failed", 1)),
        ("failed", 4, 1, ("damage", 4)),
        ("interrupted", 130, 1, ("failed", 1)),
    ],
)
def test_a_verdict_on_a_run(desk: Desk, outcome: Outcome, code: int, hours: float, verdict: tuple[str, int]) -> None:
    add(desk, "home", "success", 0, 100)
    add(desk, "home", outcome, code, hours)
    add(desk, "home", "unmet", 75, 0)
    add(desk, "home", "busy", 75, 0)
    assert verdicts(desk, "home") == [("home", *verdict)]


@pytest.mark.parametrize(
    ("setting", "hours", "verdict"),
    [
        ('max-age = "8d"', 190, "ok"),
        ('max-age = "8d"', 193, "late"),
        ('max-age = "1h"\nschedule = "weekly"', 2, "late"),
        ('schedule = "hourly"', 1, "ok"),
        ('schedule = "hourly"', 4, "late"),
        ('schedule = "monthly"', 60, "ok"),  # a tenth of a month is more
        ('schedule = "weekly"', 24 * 15, "late"),
        ('schedule = "yearly"', 24 * 30, "ok"),
    ],
)
def test_each_profile_has_an_age_of_its_own(desk: Desk, setting: str, hours: float, verdict: str) -> None:
    desk.write(PROFILE.replace("[profiles.other]", f"{setting}\n[profiles.other]").replace("check = {}\n", ""))
    add(desk, "home", "success", 0, hours)
    add(desk, "other", "success", 0, 20)
    assert dict(one[:2] for one in verdicts(desk)) == {"home": verdict, "other": "ok"}
    assert [one[1] for one in verdicts(desk, "home", max_age=1.5 * hours * 3600)] == ["ok"]
    assert [one[1] for one in verdicts(desk, "home", max_age=0.5 * hours * 3600)] == ["late"]


def test_verdicts_of_all_profiles_the_worst_first(desk: Desk) -> None:
    assert verdicts(desk) == [("home", "never", 3), ("other", "never", 3)]
    add(desk, "home", "success", 0, 1)
    assert verdicts(desk) == [("other", "never", 3), ("home", "ok", 0)]
    add(desk, "other", "incomplete", 3, 1)
    assert verdicts(desk, "both") == [("other", "incomplete", 3), ("home", "ok", 0)]
    add(desk, "base", "failed", 1, 1)
    assert [name for name, _, _ in verdicts(desk)] == ["base", "other", "home"]
    assert verdicts(desk, "home", max_age=60) == [("home", "late", 3)]
    with pytest.raises(UsageError):
        verdicts(desk, "nosuch")


def test_a_profile_that_others_inherit_from_may_be_run_too(desk: Desk) -> None:
    desk.write(PROFILE.replace("[profiles.other]", '[profiles.more]\ninherit = "home"\n[profiles.other]'))
    assert verdicts(desk) == [(name, "never", 3) for name in ("home", "more", "other")]


def test_a_configuration_without_profiles_has_no_status(desk: Desk) -> None:
    desk.write(PROFILE.partition("[profiles.base]")[0])
    with pytest.raises(UsageError, match="has no profile that can be run"):
        verdicts(desk)


def test_runs_of_another_configuration_do_not_count(desk: Desk) -> None:
    append(Record("home", "/elsewhere/pogfast.toml", "host", "2026-01-01T00:00:00+00:00"))
    assert verdicts(desk, "home") == [("home", "never", 3)]


def test_status_after_runs(desk: Desk) -> None:
    ran = desk.pogfast("status")
    assert ran.code == 3
    assert "2 of 2 profiles are not ok: home, other" in ran.err
    assert desk.pogfast("run", "both").code == 0
    ran = desk.pogfast("status", "--max-age", "26h")
    assert (ran.code, ran.err) == (0, "")
    assert [line.split()[:3] for line in ran.lines[1:]] == [["home", "ok", "0.0"], ["other", "ok", "0.0"]]
    [blob] = (desk.place / "one" / "data").rglob("*=")
    (desk.tree / "notes").write_text("other\n")
    blob.unlink()
    assert desk.pogfast("run", "home").code == 4
    ran = desk.pogfast("status", "--json")
    assert ran.code == 4
    first, second = map(json.loads, ran.lines)
    assert (first["profile"], first["verdict"], first["code"]) == ("home", "damage", 4)
    assert first["success"] < first["end"]
    assert first["message"]
    assert second["message_type"] == "status"


# ---- metrics and log -------------------------------------------------------------------------------------------------


def test_metrics_and_log_of_runs_and_of_failures(desk: Desk) -> None:
    assert desk.pogfast("run", "both").code == 0
    found = samples(desk)
    assert found["run_success", "home", "", ""] == found["run_success", "other", "", ""] == 1
    assert found["verb_figure", "home", "create", "files_new"] == 1
    assert found["verb_exit_code", "home", "check", ""] == 0
    last = found["last_success_timestamp_seconds", "home", "", ""]
    assert abs(last - datetime.now().timestamp()) < 600
    (desk.place / "one" / "pogfast.store").unlink(missing_ok=True)
    (desk.config.parent / "k.encrypt").write_bytes(b"no key")
    assert desk.pogfast("run", "home").code == 1
    failed = samples(desk)
    assert failed["run_success", "home", "", ""] == 0
    assert failed["run_exit_code", "home", "", ""] == 1
    assert failed["verb_exit_code", "home", "create", ""] == 1
    assert failed["verb_run", "home", "check", ""] == 0
    assert ("verb_exit_code", "home", "check", "") not in failed
    assert failed["last_success_timestamp_seconds", "home", "", ""] == last
    assert failed["run_success", "other", "", ""] == 1
    path = desk.place / "pogfast.prom"
    assert path.stat().st_mode & 0o777 == 0o644
    assert not [*desk.place.glob("*.tmp")]
    lines = [json.loads(line) for line in (desk.place / "log").read_text().splitlines()]
    assert [(line["message_type"], line["profile"], line["outcome"]) for line in lines] == [
        ("run", "home", "success"),
        ("run", "other", "success"),
        ("run", "home", "failed"),
    ]
    assert lines[-1] == {"message_type": "run", **runs.history("home")[-1].as_dict()}


def test_a_run_that_does_not_take_place_leaves_the_metrics_of_the_last(desk: Desk) -> None:
    assert desk.pogfast("run", "home").code == 0
    before = samples(desk)
    desk.write(PROFILE + '[profiles.home.needs]\nmounted = ["/nowhere"]\n')
    assert desk.pogfast("run", "home").code == 75
    assert samples(desk) == before
    assert json.loads((desk.place / "log").read_text().splitlines()[-1])["outcome"] == "unmet"


def test_names_are_escaped_in_metrics(desk: Desk) -> None:
    text = 'a"b\\c\nd\udcff'
    desk.write(PROFILE.replace("[profiles.other]", "[profiles.x]").replace('"other"', '"x"'))
    verb = runs.VerbRecord("create", ["one"], source=text, start="now", figures={"files_new": 10**15 + 1})
    add(desk, "x", "success", 0, 1, verbs=[verb])
    record = runs.last("x")
    assert record is not None
    metrics.write(load(str(desk.config)), str(desk.place / "pogfast.prom"), record)
    families = text_string_to_metric_families((desk.place / "pogfast.prom").read_text())
    sources = {sample.labels["source"] for family in families for sample in family.samples if "source" in sample.labels}
    assert sources == {text.replace("\udcff", "?")}
    assert samples(desk)["verb_figure", "x", "create", "files_new"] == 10**15 + 1


def test_readers_never_see_half_of_the_metrics(desk: Desk) -> None:
    add(desk, "home", "success", 0, 1, verbs=[runs.VerbRecord("create", ["one"], start="now") for _ in range(300)])
    config, path, record = load(str(desk.config)), desk.place / "pogfast.prom", runs.last("home")
    assert record is not None
    metrics.write(config, str(path), record)
    whole = path.read_text()

    def write() -> None:
        for _ in range(50):
            metrics.write(config, str(path), record)

    writers = [threading.Thread(target=write) for _ in range(2)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        assert path.read_text() == whole
    for writer in writers:
        writer.join()


def test_what_cannot_be_told_is_a_warning(desk: Desk) -> None:
    desk.write(PROFILE.replace("/log", "/nowhere/log").replace("/pogfast.prom", "/nowhere/pogfast.prom"))
    ran = desk.pogfast("run", "home")
    assert ran.code == 0
    for what in ("the log", "the metrics"):
        assert f"warning: {what} {desk.place}/nowhere/" in ran.err
    assert "cannot be written: No such file or directory" in ran.err


def test_a_log_that_a_full_disk_has_cut_short(desk: Desk) -> None:
    """The next line is one of its own."""
    log = desk.place / "log"
    assert desk.pogfast("run", "home").code == 0
    log.write_text(log.read_text()[:100])
    assert desk.pogfast("run", "home").code == 0
    half, whole = log.read_text().splitlines()
    assert len(half) == 100
    assert json.loads(whole)["profile"] == "home"


def test_a_log_that_nobody_reads_is_a_warning(desk: Desk) -> None:
    """So is one on a full disk."""
    for log, said in (("fifo", "No such device or address"), ("/dev/full", "No space left on device")):
        path = Path("/dev/full") if log == "/dev/full" else desk.place / log
        if not path.exists():
            os.mkfifo(path)
        desk.write(PROFILE.replace("${PLACE}/log", str(path)))
        ran = desk.pogfast("run", "home")
        assert ran.code == 0
        assert f"warning: the log {path} cannot be written: {said}" in ran.err


def test_a_run_that_cannot_be_recorded_is_told(desk: Desk) -> None:
    assert desk.pogfast("run", "home").code == 0
    path = desk.place / "state" / "runs" / "home.jsonl"
    path.unlink()
    path.mkdir()
    ran = desk.pogfast("run", "home")
    assert ran.code == 1
    assert "the run is not recorded" in ran.err
    assert len((desk.place / "log").read_text().splitlines()) == 2

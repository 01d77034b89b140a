"""Which archives a policy keeps: restic itself is the reference."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pogfast.errors import UsageError
from pogfast.system.clock import is_future
from pogfast.upkeep.retention import UNLIMITED, Policy, Span, judge, keeps_nothing

BEGINNING = datetime(2024, 1, 1, tzinfo=UTC)
NOW = datetime(2027, 1, 1, tzinfo=UTC)


@dataclass
class Made:
    name: str
    time: datetime | None
    tags: list[str] = field(default_factory=list)


def kept(archives: list[Made], **policy: object) -> dict[str, list[str]]:
    return {one.archive.name: one.reasons for one in judge(archives, Policy(**policy), NOW) if one.reasons}


def daily(days: int) -> list[Made]:
    return [Made(f"{day:03}", BEGINNING + timedelta(days=day)) for day in range(days)]


def test_the_newest_are_kept_and_it_is_said_why() -> None:
    assert kept(daily(9), last=2) == {"008": ["last"], "007": ["last"]}
    assert kept(daily(3), last=UNLIMITED).keys() == {"000", "001", "002"}
    assert kept(daily(40), monthly=5) == {"039": ["monthly"], "030": ["monthly"], "000": ["oldest monthly"]}
    assert kept(daily(3), everything=True, last=1) == {
        "002": ["all are kept", "last"],
        "001": ["all are kept"],
        "000": ["all are kept"],
    }
    assert kept([], last=1) == {}


@pytest.mark.parametrize("order", [1, -1])
def test_of_the_same_second_the_newer_is_kept(order: int) -> None:
    """Of the same moment it is always the same one, in whatever order a store lists them."""
    moments = [Made(f"{number}", BEGINNING + timedelta(microseconds=number)) for number in range(3)]
    assert kept(moments[::order], last=1) == {"2": ["last"]}
    assert kept(moments[::order], daily=1) == {"2": ["daily"]}
    same = [Made(name, BEGINNING) for name in "abc"]
    assert kept(same[::order], last=1) == {"a": ["last"]}
    assert kept(same[::order], within=Span(days=1)).keys() == set("abc")


def test_what_is_of_the_future_is_kept_and_counts_for_no_rule() -> None:
    days = daily(5)
    ahead = [Made(f"forged {number}", NOW + timedelta(days=number)) for number in (2, 3000)]
    kept_days = {"004": ["last", "within 2d"], "003": ["within 2d"]}
    kept_ahead = {one.name: ["dated in the future"] for one in ahead}
    assert kept([*ahead, *days], last=1, within=Span(days=2)) == kept_days | kept_ahead
    assert kept(ahead, last=1) == kept_ahead
    assert kept([*ahead, *days], tags=(frozenset({"typo"}),)) == kept_ahead


@pytest.mark.parametrize(("hours", "ahead"), [(-5, False), (0, False), (23, False), (25, True)])
def test_a_day_is_allowed_for_clocks_and_zones(hours: int, ahead: bool) -> None:
    assert is_future(NOW + timedelta(hours=hours), NOW) is ahead


def test_a_group_keeps_something_that_is_not_of_the_future() -> None:
    ahead, typo = Made("forged", NOW + timedelta(days=900)), Policy(tags=(frozenset({"typo"}),))
    assert keeps_nothing(judge([ahead, *daily(3)], typo, NOW))
    assert not keeps_nothing(judge([ahead, *daily(3)], Policy(last=1), NOW))
    assert not keeps_nothing(judge([ahead], typo, NOW))
    assert not keeps_nothing(judge([], typo, NOW))


def test_tags() -> None:
    archives = [Made("a", BEGINNING, ["x", "y"]), Made("b", BEGINNING, ["x"]), Made("c", BEGINNING, ["y"])]
    assert kept(archives, tags=(frozenset({"x", "y"}),)) == {"a": ["tag x,y"]}
    assert kept(archives, tags=(frozenset({"x", "y"}), frozenset({"y"}))) == {"a": ["tag x,y", "tag y"], "c": ["tag y"]}


def test_within_a_span_of_the_newest() -> None:
    assert kept(daily(30), within=Span(days=3)).keys() == {"029", "028", "027"}
    assert kept(daily(60), within_weekly=Span(months=1)).keys() == {"059", "055", "048", "041", "034"}


@pytest.mark.parametrize(("text", "meant"), [("2y5m7d3h", Span(2, 5, 7, 3)), ("1d", Span(days=1)), ("3m", Span(0, 3))])
def test_a_span_is_written_as_restic_does(text: str, meant: Span) -> None:
    assert Span.parse(text) == meant
    assert str(meant) == text


@pytest.mark.parametrize("text", ["", "1", "d", "1w", "1h1d", "-1d", "1.5d", " 1d"])
def test_what_is_no_span(text: str) -> None:
    with pytest.raises(UsageError):
        Span.parse(text)


def test_months_of_different_lengths_and_the_beginning_of_time() -> None:
    assert Span(months=1).before(datetime(2024, 3, 31, tzinfo=UTC)) == datetime(2024, 3, 2, tzinfo=UTC)
    assert Span(years=1).before(datetime(2024, 2, 29, tzinfo=UTC)) == datetime(2023, 3, 1, tzinfo=UTC)
    assert Span(years=3000).before(BEGINNING).year == 1
    assert Span(days=10**7).before(BEGINNING).year == 1


def test_what_has_no_time_is_not_judged() -> None:
    with pytest.raises(UsageError, match="x has no time"):
        judge([Made("x", None)], Policy(last=1), NOW)


counts = st.integers(-1, 4)
spans = st.none() | st.builds(Span, st.integers(0, 1), st.integers(0, 2), st.integers(0, 40), st.integers(0, 30))


@given(
    hours=st.lists(st.integers(0, 24 * 500), max_size=20),
    policy=st.builds(Policy, counts, counts, counts, counts, counts, counts, spans, spans, spans, spans, spans, spans),
)
def test_a_rule_only_ever_keeps_more(hours: list[int], policy: Policy) -> None:
    archives = [Made(f"{number}", BEGINNING + timedelta(hours=hour)) for number, hour in enumerate(hours)]
    judged = judge(archives, policy, NOW)
    assert [one.archive for one in judged] == sorted(archives, key=lambda one: (-one.time.timestamp(), one.name))
    assert len(judged) == len(archives)
    if policy.last:
        most = len(archives) if policy.last == UNLIMITED else policy.last
        assert all("last" in one.reasons for one in judged[:most])
    if policy.is_empty:
        assert not any(one.reasons for one in judged)
    elif archives and any(count for count in (policy.last, policy.hourly, policy.daily, policy.weekly)):
        assert judged[0].reasons, "the newest is kept by every rule"


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], list[Made]]:
    """restic's own command on a repository with snapshots over two years."""
    if shutil.which("restic") is None:
        pytest.skip("restic is not installed")
    place = tmp_path_factory.mktemp("restic")
    (place / "file").write_text("the same in every snapshot")
    os.environ.setdefault("RESTIC_PASSWORD", "of a test")
    command = ["restic", "--repo", str(place / "repository"), "--no-cache", "--quiet"]
    subprocess.run([*command, "init"], check=True, env={**os.environ, "TZ": "UTC"})
    made = []
    for number in range(24):
        time = BEGINNING + timedelta(hours=[1, 2, 30, 55, 200, 900][number % 6] * (number + 1), minutes=number)
        tags = [tag for tag, every in (("x", 3), ("y", 4)) if number % every == 0]
        words = [word for tag in tags for word in ("--tag", tag)]
        stamp = f"{time:%Y-%m-%d %H:%M:%S}"
        backup = ["backup", "--time", stamp, *words, str(place / "file")]
        subprocess.run([*command, *backup], check=True, env={**os.environ, "TZ": "UTC"})
        made.append(Made(stamp, time, tags))
    return command, made


@pytest.mark.parametrize(
    "words",
    [
        "--keep-last 3",
        "--keep-hourly 4",
        "--keep-daily 5",
        "--keep-weekly 6",
        "--keep-monthly 7 --keep-last 1",
        "--keep-yearly 9",
        "--keep-daily 2 --keep-weekly 2 --keep-monthly 2 --keep-yearly 1",
        "--keep-within 2m5d",
        "--keep-within-daily 1m --keep-last 1",
        "--keep-within-weekly 1y2m --keep-hourly 2",
        "--keep-within-monthly 2y",
        "--keep-tag x,y --keep-last 2",
        "--keep-tag x --keep-tag y",
    ],
)
def test_as_restic_does(repository: tuple[list[str], list[Made]], words: str) -> None:
    command, made = repository
    policy: dict[str, object] = {}
    tags = []
    options = words.split()
    for name, value in zip(options[::2], options[1::2], strict=True):
        word = name.removeprefix("--keep-").replace("-", "_")
        if word == "tag":
            tags.append(frozenset(value.split(",")))
        else:
            policy[word] = Span.parse(value) if "within" in word else int(value)
    judged = kept(made, **policy, tags=tuple(tags))
    # Later releases of restic keep the oldest too while a rule has some left; 0.14 does not.
    without = {name for name, reasons in judged.items() if not all(reason.startswith("oldest") for reason in reasons)}
    forget = [*command, "forget", "--dry-run", "--json", *options]
    said = subprocess.run(forget, check=True, capture_output=True, env={**os.environ, "TZ": "UTC"}).stdout
    [group] = json.loads(said.splitlines()[-1] if b"\n[" not in said else said)
    theirs = {datetime.fromisoformat(one["time"][:19]).strftime("%Y-%m-%d %H:%M:%S") for one in group["keep"] or []}
    assert theirs in (judged.keys(), without)


def test_an_empty_policy() -> None:
    assert Policy().is_empty
    assert not Policy(everything=True).is_empty
    assert not Policy(tags=(frozenset({"x"}),)).is_empty
    assert not Policy(within=Span()).is_empty

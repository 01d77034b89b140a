"""Which archives are kept: restic's policy, as a pure function over times and tags.

Archives are looked at from the newest to the oldest. A rule like `daily` keeps the newest of each day, for as many days
as its number says that have an archive at all; while it has some left, it keeps the oldest archive as well. An archive
of the future is kept, and no rule counts it. Knows no store and no manifest.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from typing import NamedTuple, Protocol

from pogfast.errors import UsageError
from pogfast.system.clock import is_future

UNLIMITED = -1

# How a rule tells periods apart.
PERIODS: dict[str, Callable[[datetime], object]] = {
    "hourly": lambda time: (time.date(), time.hour),
    "daily": lambda time: time.date(),
    "weekly": lambda time: time.isocalendar()[:2],
    "monthly": lambda time: (time.year, time.month),
    "yearly": lambda time: time.year,
}


class Dated(Protocol):
    """What is judged."""

    name: str
    time: datetime | None
    tags: list[str]


class Span(NamedTuple):
    """A length of time, in the calendar's units."""

    years: int = 0
    months: int = 0
    days: int = 0
    hours: int = 0

    @classmethod
    def parse(cls, text: str) -> Span:
        """2y5m7d3h. Raises UsageError."""
        found = re.fullmatch("".join(rf"(?:(\d{{1,9}}){unit})?" for unit in "ymdh"), text)
        if not text or found is None:
            raise UsageError(f"{text} is no length of time", hint="write years, months, days and hours: 2y5m7d3h")
        return cls(*(int(number or 0) for number in found.groups()))

    def before(self, time: datetime) -> datetime:
        """So long before a time. A day that a month has not is so many days into the next, as restic reckons."""
        months = time.year * 12 + time.month - 1 - self.years * 12 - self.months
        if months < 12:
            return datetime.min.replace(tzinfo=time.tzinfo)
        first = time.replace(year=months // 12, month=months % 12 + 1, day=1)
        try:
            return first + timedelta(days=time.day - 1 - self.days, hours=-self.hours)
        except OverflowError:
            return datetime.min.replace(tzinfo=time.tzinfo)

    def __str__(self) -> str:
        return "".join(f"{number}{unit}" for number, unit in zip(self, "ymdh", strict=True) if number) or "0h"


@dataclass(frozen=True)
class Policy:
    """How many of what are kept; UNLIMITED: all. `tags`: archives that have all of one of these sets."""

    last: int = 0
    hourly: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    yearly: int = 0
    within: Span | None = None
    within_hourly: Span | None = None
    within_daily: Span | None = None
    within_weekly: Span | None = None
    within_monthly: Span | None = None
    within_yearly: Span | None = None
    tags: tuple[frozenset[str], ...] = ()
    everything: bool = False

    @property
    def is_empty(self) -> bool:
        return all(getattr(self, rule.name) == rule.default for rule in fields(self))


@dataclass
class Decision:
    """An archive, and why it is kept; no reasons: it goes."""

    archive: Dated
    reasons: list[str] = field(default_factory=list)
    of_future: bool = False


def judge(archives: Sequence[Dated], policy: Policy, now: datetime) -> list[Decision]:
    """Judges the archives of one group, the newest first. Raises UsageError for one without a time."""
    ordered = sorted(archives, key=_age)
    ahead = [archive for archive in ordered if is_future(archive.time, now)]
    return [Decision(archive, ["dated in the future"], of_future=True) for archive in ahead] + _judge_present(
        ordered[len(ahead) :], policy
    )


def keeps_nothing(judged: Sequence[Decision]) -> bool:
    """Returns True if every archive of a group goes, but for those of the future: anybody can have made those."""
    present = [one for one in judged if not one.of_future]
    return bool(present) and not any(one.reasons for one in present)


def _judge_present(ordered: Sequence[Dated], policy: Policy) -> list[Decision]:
    judged = [Decision(archive) for archive in ordered]
    if not judged:
        return judged
    times = [_time(one.archive) for one in judged]
    for one in judged:
        if policy.everything:
            one.reasons.append("all are kept")
        one.reasons += [f"tag {','.join(sorted(tags))}" for tags in policy.tags if tags <= set(one.archive.tags)]
    _keep(judged, policy.last, list(range(len(judged))), "last")
    for rule, period in PERIODS.items():
        _keep(judged, getattr(policy, rule), [period(time) for time in times], rule)
    _keep_within(judged, times, policy.within, None, "within")
    for rule, period in PERIODS.items():
        _keep_within(judged, times, getattr(policy, f"within_{rule}"), period, f"{rule} within")
    return judged


def _age(archive: Dated) -> tuple[float, str]:
    return -_time(archive).timestamp(), archive.name


def _time(archive: Dated) -> datetime:
    if archive.time is None:
        raise UsageError(f"{archive.name} has no time: it can be neither kept nor removed by one")
    return archive.time


def _keep(judged: Sequence[Decision], number: int, periods: Sequence[object], rule: str) -> None:
    left, before = number, object()
    for index, (one, period) in enumerate(zip(judged, periods, strict=True)):
        is_oldest = index == len(judged) - 1
        if left == 0 or (period == before and not is_oldest):
            continue
        one.reasons.append(f"oldest {rule}" if period == before else rule)
        before = period
        left -= left != UNLIMITED


def _keep_within(
    judged: Sequence[Decision],
    times: Sequence[datetime],
    span: Span | None,
    period: Callable[[datetime], object] | None,
    rule: str,
) -> None:
    if span is None:
        return
    begins, before = span.before(times[0]), object()
    for one, time in zip(judged, times, strict=True):
        of = period(time) if period else time
        if time > begins and (period is None or of != before):
            one.reasons.append(f"{rule} {span}")
            before = of

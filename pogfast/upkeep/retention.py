"""Which archives a policy keeps, by restic's rules: a pure function of times and tags.

Archives are judged from the newest to the oldest. A rule such as `daily` keeps the newest archive of each day, for its
number of days, counting only days that have an archive. If there are fewer such days, it also keeps the oldest archive.
Archives dated in the future are kept, and no rule counts them. Nothing here knows of stores or manifests.
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

# Each rule keeps one archive for each different value of its function.
PERIODS: dict[str, Callable[[datetime], object]] = {
    "hourly": lambda time: (time.date(), time.hour),
    "daily": lambda time: time.date(),
    "weekly": lambda time: time.isocalendar()[:2],
    "monthly": lambda time: (time.year, time.month),
    "yearly": lambda time: time.year,
}


class Dated(Protocol):
    """An archive, as far as a policy looks at it."""

    name: str
    time: datetime | None
    tags: list[str]


class Span(NamedTuple):
    """A length of time in calendar units, such as 2y5m7d3h."""

    years: int = 0
    months: int = 0
    days: int = 0
    hours: int = 0

    @classmethod
    def parse(cls, text: str) -> Span:
        """Reads text such as 2y5m7d3h. Raises UsageError."""
        found = re.fullmatch("".join(rf"(?:(\d{{1,9}}){unit})?" for unit in "ymdh"), text)
        if not text or found is None:
            raise UsageError(f"{text} is not a length of time", hint="write years, months, days and hours: 2y5m7d3h")
        return cls(*(int(number or 0) for number in found.groups()))

    def before(self, time: datetime) -> datetime:
        """Returns `time` minus this span. Days beyond the end of a month roll over into the next, as in restic."""
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
    """How many archives each rule keeps; UNLIMITED: all. `tags` keeps archives with all tags of one of the sets."""

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
    """An archive, and why it is kept; without a reason it is removed."""

    archive: Dated
    reasons: list[str] = field(default_factory=list)
    of_future: bool = False


def judge(archives: Sequence[Dated], policy: Policy, now: datetime) -> list[Decision]:
    """Applies a policy to the archives of one group, and returns them with the newest first. Raises UsageError for an
    archive without a time."""
    ordered = sorted(archives, key=_age)
    ahead = [archive for archive in ordered if is_future(archive.time, now)]
    return [Decision(archive, ["dated in the future"], of_future=True) for archive in ahead] + _judge_present(
        ordered[len(ahead) :], policy
    )


def keeps_nothing(judged: Sequence[Decision]) -> bool:
    """Returns True if no archive of a group is kept, apart from those dated in the future, which may be forged."""
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
        raise UsageError(f"{archive.name} has no time: a policy cannot be applied to it")
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

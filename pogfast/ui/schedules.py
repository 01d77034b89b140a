"""What the schedules of profiles say of a store: when the next run is, and which profiles are late.

A profile is late when its next run should have ended: at its time, plus `spread`, plus as long as the last run took,
plus some slack. Only runs that succeeded count. A profile without a schedule is never late.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from pogfast.config import Profile
from pogfast.runs import Record
from pogfast.ui.configuration import ended_at
from pogfast.ui.words import span

SLACK = 0.1  # of the interval, as for `every`
LEAST_SLACK = timedelta(hours=1)  # for a machine that was asleep


@dataclass(frozen=True)
class Late:
    """A profile that is late. `since`: when it should have run; None if no run ever succeeded."""

    why: str
    since: datetime | None = None


def next_run(profiles: Iterable[Profile], now: datetime) -> datetime | None:
    """Returns when the first of the profiles runs next, apart from its spread; None if none has a schedule."""
    times = [profile.schedule.calendar.after(now) for profile in profiles if profile.schedule is not None]
    return min((time for time in times if time is not None), default=None)


def lateness(profile: Profile, success: Record | None, now: datetime) -> Late | None:
    """Says whether a profile is late, by its last run that succeeded."""
    if profile.schedule is None:
        return None
    missing, expected = f"{profile.name}: no {'archive' if profile.creates else 'run'}", f"expected {profile.schedule}"
    ended = ended_at(success) if success else None
    if success is None or ended is None:
        return Late(f"{missing} yet; {expected}")
    due = profile.schedule.calendar.after(ended) if ended < now else None
    following = due and profile.schedule.calendar.after(due)
    if due is None or following is None:
        return None
    slack = max(LEAST_SLACK, (following - due) * SLACK)
    if now <= due + timedelta(seconds=(profile.spread or 0) + success.seconds) + slack:
        return None
    return Late(f"{missing} for {span((now - ended).total_seconds())}; {expected}", due)

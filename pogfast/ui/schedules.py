"""What the schedules of profiles say of a store: when the next run is, whose timer is off, which profiles are late.

runs/lateness.py says when the next run is due. Only runs that succeeded count. A profile that does not say how often it
is run is never late.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from pogfast.config import Profile
from pogfast.runs import Record
from pogfast.runs.lateness import expected, next_due
from pogfast.schedule import is_enabled
from pogfast.ui.configuration import ended_at
from pogfast.ui.words import span


@dataclass(frozen=True)
class Late:
    """A profile that is late. `since`: when it should have run; None if no run ever succeeded."""

    why: str
    since: datetime | None = None


def next_run(profiles: Iterable[Profile], now: datetime) -> datetime | None:
    """Returns when the first of the profiles should run next, apart from its spread; None if none has a schedule."""
    times = [profile.schedule.calendar.after(now) for profile in profiles if profile.schedule is not None]
    return min((time for time in times if time is not None), default=None)


def with_timer(profiles: Iterable[Profile], config_file: str) -> tuple[list[Profile], list[Profile]]:
    """Returns the profiles with a schedule: those that something runs by it, and those whose timer is not enabled."""
    told: tuple[list[Profile], list[Profile]] = [], []
    for profile in profiles:
        if profile.schedule is not None:
            told[not is_enabled(profile.name, config_file)].append(profile)
    return told


def lateness(profile: Profile, success: Record | None, now: datetime) -> Late | None:
    """Says whether a profile is late, by its last run that succeeded."""
    often = expected(profile)
    if not often:
        return None
    missing = f"{profile.name}: no {'archive' if profile.creates else 'run'}"
    ended = ended_at(success) if success else None
    if success is None or ended is None:
        return Late(f"{missing} yet; {often}")
    due = next_due(profile, ended, success.seconds) if ended < now else None
    if due is None or now <= due.end:
        return None
    return Late(f"{missing} for {span((now - ended).total_seconds())}; {often}", due.begin)

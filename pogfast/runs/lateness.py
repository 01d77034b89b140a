"""When a profile is late: its next run should have ended, by the end of the last one.

What the profile says counts first (`max-age`), then its schedule: from the time of the next run on it has `spread`, as
long as the last run took, and some slack. Nothing is judged here: status.py and the pages do.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import NamedTuple

from pogfast.config.schema import Profile
from pogfast.sizes import show_seconds

SLACK = 0.1  # of the interval, as for `every`
LEAST_SLACK = timedelta(hours=1)  # for a machine that was asleep


class Due(NamedTuple):
    """`begin` is when the next run should begin, `end` when it should have ended."""

    begin: datetime
    end: datetime


def expected(profile: Profile) -> str:
    """Returns how often a profile should be run, in words; "" if it does not say."""
    if profile.max_age is not None:
        return f"expected every {show_seconds(profile.max_age)}"
    return f"expected {profile.schedule}" if profile.schedule is not None else ""


def next_due(profile: Profile, ended: datetime, seconds: float) -> Due | None:
    """Returns when the run after one that `ended` then, and took so many seconds, is due; None if the profile does not
    say how often it is run."""
    if profile.max_age is not None:
        time = ended + timedelta(seconds=profile.max_age)
        return Due(time, time)
    if profile.schedule is None:
        return None
    begin = profile.schedule.calendar.after(ended)
    following = begin and profile.schedule.calendar.after(begin)
    if begin is None or following is None:
        return None
    slack = max(LEAST_SLACK, (following - begin) * SLACK)
    return Due(begin, begin + timedelta(seconds=(profile.spread or 0) + seconds) + slack)

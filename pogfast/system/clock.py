"""Measures elapsed time, including time in suspend.

Monotonic clocks stop during suspend, and all clocks of a virtual machine while it is paused; the wall clock can be set.
For deadlines that must not be missed, `Stopwatch` takes whichever clock says that more time has passed.
"""

from __future__ import annotations

import time
from datetime import datetime, timedelta

_COUNTS_SUSPEND = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # on macOS the latter counts suspend


def now() -> float:
    """Returns seconds since 1970 by this machine's clock."""
    return time.time()


def uptime() -> float:
    """Returns seconds since an arbitrary moment, including suspend."""
    return time.clock_gettime(_COUNTS_SUSPEND)


class Stopwatch:
    """Starts when it is made."""

    def __init__(self) -> None:
        self._began = uptime(), now()

    def seconds(self) -> float:
        """Returns an upper bound of the seconds that have passed; never negative."""
        up, wall = self._began
        return max(uptime() - up, now() - wall, 0.0)


# A time further ahead is in the future: a clock was wrong, or somebody with the public key forged it. One day, since
# some times are local times of another zone.
FUTURE = timedelta(days=1)


def is_future(time: datetime | None, now: datetime) -> bool:
    """Returns True if an archive's time is in the future, so that it cannot be right."""
    return time is not None and time - now > FUTURE

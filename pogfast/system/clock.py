"""How much time has passed, also while the machine was suspended.

The clock that programs measure with stands still in suspend, and that of a virtual machine while it is paused; the
clock on the wall can be set. What may not take too long is measured by whichever of them says that it took longer.
"""

from __future__ import annotations

import time
from datetime import datetime, timedelta

_COUNTS_SUSPEND = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # on macOS the latter does


def now() -> float:
    """Seconds since 1970, by this machine."""
    return time.time()


def uptime() -> float:
    """Seconds since some moment, suspend included."""
    return time.clock_gettime(_COUNTS_SUSPEND)


class Stopwatch:
    """Runs from when it is made."""

    def __init__(self) -> None:
        self._began = uptime(), now()

    def seconds(self) -> float:
        """The seconds that have passed, at most; never negative."""
        up, wall = self._began
        return max(uptime() - up, now() - wall, 0.0)


# What is dated further ahead is of the future: a clock was wrong, or somebody forged it with the public key. A day,
# since some times are local ones of another zone.
FUTURE = timedelta(days=1)


def is_future(time: datetime | None, now: datetime) -> bool:
    """Returns True if an archive cannot have been made at its time."""
    return time is not None and time - now > FUTURE

"""Limits of the bytes a second that are sent to services and received from them.

A limit is a token bucket, shared by all transfers that are given it, usually those of the process. Transfers ask it
before each small piece, so a body flows evenly, and no connection is silent for long enough to be closed.

It is our own since none that is kept well fits: pyrate-limiter, limits and aiolimiter count requests, not the bytes of
pieces in threads, and the leaky bucket of s3transfer, which comes with boto3 only, has a fixed rate and no bound of its
bursts.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import datetime

from pogfast.errors import UsageError
from pogfast.sizes import MIN_RATE, parse_rate
from pogfast.stores.timetable import Timetable

# Seconds for which a piece lasts: with 64 transfers at a time, each gets one every four seconds.
PIECE = 1 / 16
# Seconds for which a limit that was not used up is made up for.
BURST = 1 / 4
# Seconds between two looks at a timetable.
LOOK_EVERY = 1.0


class Interrupted(OSError):
    """The run that a transfer belongs to has ended."""


class RateLimit:
    """A limit in bytes a second; None: unlimited. In t seconds no more than t + BURST + PIECE seconds' worth passes."""

    def __init__(
        self,
        rate: float | Timetable | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        today: Callable[[], datetime] = datetime.now,
    ) -> None:
        """`clock` and `sleep` are in seconds, `today` returns the local time. Raises UsageError."""
        self.services = 0  # that use it
        self._clock = clock
        self._sleep = sleep
        self._today = today
        self._lock = threading.Lock()
        self._due = -float("inf")  # when all that was allowed has passed at this rate, by the clock
        self.set_rate(rate)

    @classmethod
    def parse(cls, option: str, text: str) -> RateLimit:
        """Parses a rate such as 5MB. Raises UsageError."""
        return cls(parse_rate(option, text))

    def __reduce__(self) -> tuple[type[RateLimit], tuple[float | Timetable | None]]:
        """A process that it is sent to has one of its own."""
        return RateLimit, (self._timetable or self._rate,)

    def set_rate(self, rate: float | Timetable | None) -> None:
        """Changes the rate, also while transfers run: they follow within seconds. Raises UsageError."""
        if not isinstance(rate, Timetable | None) and not rate >= MIN_RATE:
            raise UsageError(f"a limit must be at least {MIN_RATE:,} bytes a second, not {rate}")
        with self._lock:
            self._timetable = rate if isinstance(rate, Timetable) else None
            self._rate = None if isinstance(rate, Timetable) else rate
            self._looked = -float("inf")

    @property
    def rate(self) -> float | None:
        """Bytes a second now; None: unlimited."""
        with self._lock:
            return self._now()

    def _now(self) -> float | None:
        if self._timetable is not None and self._clock() - self._looked >= LOOK_EVERY:
            self._looked, self._rate = self._clock(), self._timetable.rate(self._today())
        return self._rate

    def take(self, most: int) -> int:
        """Waits until bytes may pass, and returns how many: at most `most`, and at least one if that is not 0."""
        with self._lock:
            rate = self._now()
            if rate is None:
                return most
            count = min(most, int(rate * PIECE))
            now = self._clock()
            self._due = max(self._due, now - BURST) + count / rate
            wait = self._due - now
        if wait > 0:
            self._sleep(wait)
        return count

    def give_back(self, count: int) -> None:
        """Returns what was taken and has not passed."""
        with self._lock:
            if count and self._rate is not None:
                self._due -= count / self._rate

    def spend(self, count: int) -> None:
        """Waits for bytes that pass, or have passed, all at once."""
        while count:
            count -= self.take(count)


class Limits:
    """The limits of one store, and the transfers that they slow down."""

    def __init__(self, upload: RateLimit | None = None, download: RateLimit | None = None) -> None:
        self.upload = upload
        self.download = download
        self.interruptions = 0
        for limit in (upload, download):
            if limit is not None:
                limit.services += 1

    def interrupt(self) -> None:
        """Ends the transfers that have begun, as far as they are limited: nobody waits for a slow one."""
        self.interruptions += 1

    def sending(self) -> Transfer:
        """Begins an upload."""
        return Transfer(self, self.upload)

    def receiving(self) -> Transfer:
        """Begins a download."""
        return Transfer(self, self.download)


class Transfer:
    """The body of one request. Its methods raise Interrupted if the limits are interrupted."""

    def __init__(self, limits: Limits, limit: RateLimit | None) -> None:
        self.limits = limits
        self.limit = limit
        self.begun = limits.interruptions

    def take(self, most: int) -> int:
        """As `RateLimit.take`."""
        if self.limit is None:
            return most
        count = self.limit.take(most)
        if self.begun != self.limits.interruptions:
            raise Interrupted("the run has ended")
        return count

    def give_back(self, count: int) -> None:
        """As `RateLimit.give_back`."""
        if self.limit is not None:
            self.limit.give_back(count)

    def spend(self, count: int) -> None:
        """As `RateLimit.spend`."""
        while count:
            count -= self.take(count)

"""One run of a profile at a time: a lock on a file in the user's state directory, which the kernel releases with the
process.

The file has the number of the process that holds the lock, for messages only.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator

from pogfast.errors import PogfastError
from pogfast.runs.records import state_path
from pogfast.sizes import show_seconds

PAUSE = 0.5  # seconds between two tries: a wait that a signal, or another thread, can end


class StillRunning(PogfastError):
    """Another run of the profile has not ended for so long that something is wrong."""


@contextlib.contextmanager
def only_run(profile: str, *, wait: float | None, waiting: Callable[[str], None]) -> Iterator[str]:
    """Gives "" while entered, once no other run of the profile is under way; without `wait` at once, the other process
    in words if there is one. `waiting` is called with that when the wait begins. Raises StillRunning after `wait`
    seconds, UsageError and OSError."""
    path = state_path("locks", f"{profile}.lock")
    with open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+", encoding="ascii") as file:
        ends: float | None = None
        while not _take(file.fileno()):
            holder = _holder(file.fileno())
            if wait is None:
                yield holder
                return
            if ends is None:
                ends = time.monotonic() + wait
                waiting(holder)
            if time.monotonic() > ends:
                raise StillRunning(f"another run of {profile} has not ended within {show_seconds(wait)}: {holder}")
            time.sleep(PAUSE)
        os.ftruncate(file.fileno(), 0)
        os.pwrite(file.fileno(), str(os.getpid()).encode(), 0)
        yield ""


def _take(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(descriptor: int) -> str:
    number = os.pread(descriptor, 20, 0).decode("ascii", "replace")
    return f"process {number}" if number.isdecimal() else "another process"

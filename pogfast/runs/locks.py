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
from typing import TextIO

from pogfast.errors import PogfastError
from pogfast.runs.records import state_path
from pogfast.sizes import show_seconds

PAUSE = 0.5  # seconds between two tries: a wait that a signal, or another thread, can end


class StillRunning(PogfastError):
    """Another run of the profile has not ended for so long that something is wrong."""


class CannotLock(PogfastError):
    """The directory of locks cannot be used: another run might be under way."""


@contextlib.contextmanager
def only_run(profile: str, *, wait: float | None, waiting: Callable[[str], None]) -> Iterator[str]:
    """Gives "" while entered, once no other run of the profile is under way; without `wait` at once, the other process
    in words if there is one. `waiting` is called with that when the wait begins. Raises StillRunning after `wait`
    seconds, CannotLock and UsageError."""
    with _opened(profile) as file:
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
        with contextlib.suppress(OSError):  # a full disk: archives matter more than who makes them
            os.ftruncate(file.fileno(), 0)
            os.pwrite(file.fileno(), str(os.getpid()).encode(), 0)
        yield ""


def _opened(profile: str) -> TextIO:
    """Opens the file of a lock. Raises UsageError and CannotLock."""
    try:
        path = state_path("locks", f"{profile}.lock")
        return open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+", encoding="ascii")
    except OSError as error:
        text = f"cannot lock the runs of {profile}: {error.filename}: {error.strerror}: nothing was run"
        raise CannotLock(text, hint="POGFAST_STATE_DIR can name another directory") from error


def _take(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(descriptor: int) -> str:
    number = os.pread(descriptor, 20, 0).decode("ascii", "replace")
    return f"process {number}" if number.isdecimal() else "another process"

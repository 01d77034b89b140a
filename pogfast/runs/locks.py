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

from pogfast.runs.records import state_path

PAUSE = 0.5  # seconds between two tries: a wait that a signal, or another thread, can end


@contextlib.contextmanager
def only_run(profile: str, *, wait: bool, waiting: Callable[[str], None]) -> Iterator[str]:
    """Gives "" while entered, once no other run of the profile is under way; without `wait` at once, the other process
    in words if there is one. `waiting` is called with that when the wait begins. Raises UsageError and OSError."""
    path = state_path("locks", f"{profile}.lock")
    with open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+", encoding="ascii") as file:
        told = False
        while not _take(file.fileno()):
            holder = _holder(file.fileno())
            if not wait:
                yield holder
                return
            if not told:
                waiting(holder)
                told = True
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

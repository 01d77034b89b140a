"""Modification times of restored files: they are set after a sync, so that a file that looks complete is complete.

After a power cut a file may have its name, size and time, but zeros instead of its bytes. A file therefore gets a time
that nobody else would choose until its bytes are on the disk: the next run recognizes it and restores it again.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable

from pogfast._engine import Wanted
from pogfast.files.directories import Directories
from pogfast.files.metadata import is_same_time
from pogfast.manifest import Entry
from pogfast.recovery.plan import Place

# Seconds between two syncs of the files restored so far: what an interrupted run has to do again.
SYNC_EVERY = 5.0
# Times, in seconds, that can be altered by a few and still be expressed in 2^63 ns.
MAX_SECONDS = 9 * 10**9


class Times:
    """Sets the modification times of files once their bytes are on the disk. Until then they have `unfinished_time`."""

    def __init__(self, directories: Directories, mtimes: dict[str, int], tell: Callable[[str], None]) -> None:
        self.directories = directories
        self.mtimes = mtimes  # by archived name, ns
        self.tell = tell
        self.pending: list[tuple[str, Wanted]] = []
        self.synced_at = time.monotonic()

    def add(self, place: Place, wanted: Wanted) -> None:
        """Adds a file that is complete. Raises StoreError."""
        self.pending.append((place.name, wanted))
        if time.monotonic() - self.synced_at > SYNC_EVERY:
            self.flush()

    def flush(self) -> None:
        """Syncs the files that were added, and sets their times. Raises StoreError."""
        if self.pending:
            self.directories.make_durable()
        for name, wanted in self.pending:
            times = wanted.atime_ns, self.mtimes.pop(name)
            try:
                os.utime(wanted.leaf, ns=times, dir_fd=wanted.directory, follow_symlinks=False)
            except OSError as error:
                self.tell(f"{name}: its times cannot be set: {error.strerror}")
        self.pending.clear()
        self.synced_at = time.monotonic()


def unfinished_time(mtime_ns: int) -> int:
    """Returns the modification time of a file that may not be on the disk yet, made from its own: another second, four
    away because FAT keeps only every other one, and nanoseconds that no file has by chance."""
    seconds = max(-MAX_SECONDS, min(mtime_ns // 10**9, MAX_SECONDS))
    return (seconds ^ 4) * 10**9 + 506_070_708


def is_unfinished(entry: Entry, found: os.stat_result) -> bool:
    """Returns True if an interrupted restore left this file, which may not be on the disk, and may be too short.

    A file system may keep only the second of the mark. That counts only if it keeps whole seconds of every time, as its
    ctime shows, which nobody can set.
    """
    if not stat.S_ISREG(found.st_mode) or found.st_size > (found.st_size if entry.size is None else entry.size):
        return False
    mark = unfinished_time(entry.mtime_ns)
    is_coarse = found.st_ctime_ns % 10**9 == found.st_mtime_ns % 10**9 == 0
    return is_same_time(found.st_mtime_ns, mark) and (is_coarse or found.st_mtime_ns % 10**9 != 0)

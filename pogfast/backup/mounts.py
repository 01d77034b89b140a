"""How far the stamps of a file system can be trusted: it may be a snapshot, and another one may take its place.

A snapshot is taken at a moment that nobody tells. A file in it that was changed just before may have been changed again
just after, within one tick of the clock: in the next snapshot it has other content and the same stamps. But whatever
was changed a tick before the newest stamp that was seen shows every later change. borg's rule, for each device. A file
system that this run writes to is live; there the time of reading counts, as before. Knows no file's content and no
cache.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable

SECOND_NS = 1_000_000_000


class Mounts:
    """What one run learns of the file systems that it walks through. `live`: devices that the run itself writes to."""

    def __init__(self, live: Iterable[int]) -> None:
        self._live = set(live)
        self._newest: dict[int, int] = {}
        self._systems: dict[int, int] = {}

    def see(self, stat: os.stat_result) -> None:
        """Takes in the stamps of something that was found. A ctime cannot be set: it proves how new the rest is."""
        if stat.st_ctime_ns > self._newest.get(stat.st_dev, 0):
            self._newest[stat.st_dev] = stat.st_ctime_ns

    def time_of(self, stat: os.stat_result, read_at_ns: int) -> int:
        """The moment, in nanoseconds since 1970, up to which changes of a file would show in its stamps."""
        if stat.st_dev in self._live:
            return read_at_ns
        return min(read_at_ns, self._newest.get(stat.st_dev, 0))

    def identity(self, path: str, stat: os.stat_result) -> int:
        """Tells file systems apart whose clocks have whole seconds, by device and by what statfs calls f_fsid; 0 where
        clocks are finer.

        Two file systems, made by one script say, can easily agree in inodes and in whole seconds. With nanoseconds they
        do not, and snapshots of one file system, each of which has numbers of its own, are to be recognized.
        """
        if stat.st_ctime_ns % SECOND_NS:
            return 0
        if stat.st_dev not in self._systems:
            system = 0
            with contextlib.suppress(OSError):
                system = os.statvfs(path).f_fsid
            self._systems[stat.st_dev] = (system << 64 | stat.st_dev) + 1
        return self._systems[stat.st_dev]

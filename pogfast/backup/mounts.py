"""How far the timestamps of a file system can be trusted: it may be a snapshot, to be replaced by a later one.

Nobody tells when a snapshot was taken. A file that was changed just before may have been changed again just after,
within one tick of the clock: in the next snapshot it has other content and the same timestamps. But a file that was
last changed more than a tick before the newest timestamp of the file system shows every later change. This is borg's
rule, applied to each device. A file system that this run writes to is live and no snapshot: there the time of reading
counts. Reads no file's content and no cache.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable

from pogfast._engine import Stat

SECOND_NS = 1_000_000_000


class Mounts:
    """The newest timestamps of the file systems that a run walks through. `live`: devices that the run writes to."""

    def __init__(self, live: Iterable[int]) -> None:
        self._live = set(live)
        self._newest: dict[int, int] = {}
        self._systems: dict[int, int] = {}

    def see(self, device: int, ctime_ns: int) -> None:
        """Notes a timestamp of a file. Only the ctime counts, since nobody can set it."""
        if ctime_ns > self._newest.get(device, 0):
            self._newest[device] = ctime_ns

    def time_of(self, device: int, read_at_ns: int) -> int:
        """Returns the time, in nanoseconds since 1970, up to which a change of a file shows in its timestamps."""
        if device in self._live:
            return read_at_ns
        return min(read_at_ns, self._newest.get(device, 0))

    def identity(self, path: str, stat: Stat | os.stat_result) -> int:
        """Returns a number for a file system that keeps whole seconds only, from its device and statfs's f_fsid; 0 for
        one with finer timestamps.

        Two file systems, say from the same script, can easily have files with equal inodes and equal whole seconds.
        Nanoseconds differ, so they need no number; and a number would keep files in snapshots of one file system, each
        of which has another, from being recognized.
        """
        if stat.st_ctime_ns % SECOND_NS:
            return 0
        if stat.st_dev not in self._systems:
            system = 0
            with contextlib.suppress(OSError):
                system = os.statvfs(path).f_fsid
            self._systems[stat.st_dev] = (system << 64 | stat.st_dev) + 1
        return self._systems[stat.st_dev]

"""Large files that several workers write, each a range of it: the unfinished file that they share, and its name.

The coordinator makes the unfinished file, workers write ranges of it, and when all of these are authenticated, written
and on the disk, the coordinator gives it metadata and name, as one machine does. What can go wrong:

- A range is damaged, cannot be read or kills its workers: the unfinished file is removed at once, so that the ranges
  that are left fail, and the file is reported once, with the first range that is bad.
- The sizes in the archive are wrong: a worker writes nothing beyond what its blobs should have, so never into the range
  of another one, and reports the blob.
- A worker is lost. Another one writes the range again: the same bytes, as blobs are authenticated before a byte of them
  is written. But the lost one may be alive, and write them once more when the file has its name and its user has begun
  to change it. So each worker has a shared lock on the file while it is open there, and the coordinator waits for an
  exclusive one before the file gets its name. The lock of a worker that died is released by the system, of one whose
  machine died by the file server. Who comes later does not find the file under the name that it had.
- Somebody puts another file in the place of the unfinished one, such as a link to a file that is not to be changed.
  Links are not followed, and a file with another inode number is not written to.
- The file cannot be made, has no room, or cannot be locked: then one worker writes it, and says what is wrong.
- The coordinator dies: the unfinished file is left, and the next run on this machine removes it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import stat
import time
from collections.abc import Iterator

from pogfast._engine import VERDICT, Opened, Wanted, give_room_to, publish_written
from pogfast.cluster.units import Asked, FileRange, Into

RANGE_SIZE = 256_000_000  # uncompressed bytes, about
PATIENCE = 120.0  # seconds in which a worker that is lost ends, or its lock does: with NFS 90 after its machine died
TICK = 0.1
GOOD, BAD_WRITE = VERDICT["good"], VERDICT["bad write"]


def can_be_divided(wanted: Wanted) -> bool:
    """Returns True for a large file of which it is known what its blobs hold."""
    sizes = wanted.sizes
    if sizes is None or len(sizes) < 2 or wanted.size <= RANGE_SIZE:
        return False
    return len(sizes) == len(wanted.blobs) and sum(sizes) == wanted.size and min(sizes) >= 0


class RangedFile:
    """A file that workers write in ranges, as the coordinator knows it."""

    def __init__(self, asked: Asked, draft: str, inode: int) -> None:
        self.asked = asked
        self.draft = draft
        self.inode = inode
        self.has_ended = False

    @classmethod
    def begin(cls, asked: Asked, into: Into) -> RangedFile | None:
        """Makes the unfinished file. Returns None if that fails, or it cannot be locked."""
        wanted, draft = asked.wanted, f"{into.temporary}{secrets.randbits(62)}-0.part"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        try:
            fd = os.open(draft, flags, 0o600 if wanted.mode >= 0 else 0o666, dir_fd=wanted.directory)
        except OSError:
            return None
        try:
            made = cls(asked, draft, os.fstat(fd).st_ino)
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            if wanted.sparse:
                os.ftruncate(fd, wanted.size)
            else:
                give_room_to(fd, wanted.size)
        except OSError:
            made.end()
            return None
        finally:
            os.close(fd)
        return made

    def ranges(self) -> Iterator[Asked]:
        """Yields the ranges, until one has failed."""
        whole = self.asked.wanted
        assert whole.sizes is not None
        first = start = size = 0
        for blob, length in enumerate(whole.sizes, 1):
            size += length
            is_last = blob == len(whole.blobs)
            if size < RANGE_SIZE and not is_last:
                continue
            if self.has_ended:
                return
            blobs, sizes = whole.blobs[first:blob], whole.sizes[first:blob]
            wanted = Wanted(-1, b"", blobs, sizes, size, 0, 0, sparse=whole.sparse, start=start)
            yield Asked(self.asked.directory, wanted, part=FileRange(self.draft, self.inode, first, is_last))
            first, start, size = blob, start + size, 0

    def take(self, asked: Asked, event: Opened) -> Opened | None:
        """Takes what has become of a range, in their order. Returns what has become of the file, once it is known."""
        assert asked.part is not None
        if self.has_ended:
            return None
        if event.verdict != GOOD:
            self.end()
            offset = event.offset if event.offset < 0 else asked.wanted.start + event.offset
            return event._replace(blob=asked.part.first + event.blob, offset=offset)
        if not asked.part.is_last:
            return None
        try:
            return self._publish()
        except OSError as error:
            return Opened(0, True, BAD_WRITE, 0, error.errno or errno.EIO, -1, 0)
        finally:
            self.end()

    def _publish(self) -> Opened:
        """Gives the file its metadata and its name. Its bytes are on the disk, so it gets its own times at once. Raises
        OSError."""
        wanted = self.asked.wanted
        atime_ns, mtime_ns = self.asked.times or (wanted.atime_ns, wanted.mtime_ns)
        with opened_draft(wanted.directory, self.draft, self.inode, alone=True) as fd:
            if os.fstat(fd).st_size != wanted.size:
                raise OSError(errno.EIO, "it has another size than what was written")
            whole = wanted._replace(blobs=[], sizes=None, atime_ns=atime_ns, mtime_ns=mtime_ns)
            return publish_written(whole, fd, os.fsencode(self.draft))

    def end(self) -> None:
        """Removes the unfinished file, unless it has become the file."""
        if not self.has_ended:
            self.has_ended = True
            with contextlib.suppress(OSError):
                os.unlink(self.draft, dir_fd=self.asked.wanted.directory)


@contextlib.contextmanager
def opened_draft(directory: int, draft: str, inode: int, *, alone: bool = False) -> Iterator[int]:
    """Gives a descriptor of an unfinished file, which is locked: with `alone`, nobody else has it open any more. Raises
    OSError, also if it is not there any more."""
    fd = os.open(draft, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory)
    try:
        if alone:
            _wait_for_lock(fd)
        else:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        for found in os.fstat(fd), os.stat(draft, dir_fd=directory, follow_symlinks=False):  # it may have its name now
            if found.st_ino != inode or not stat.S_ISREG(found.st_mode):
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        yield fd
    finally:
        os.close(fd)


def _wait_for_lock(fd: int) -> None:
    """Waits until no worker has a file open. Raises OSError if that takes too long."""
    ends = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > ends:
                raise OSError(errno.EBUSY, os.strerror(errno.EBUSY)) from None
            time.sleep(TICK)
        else:
            return

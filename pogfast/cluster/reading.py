"""What a worker has for the units of a restore or a check: the store and the key, and the directory that is restored
into.

Directories are opened below that one without following links, as the coordinator does. All that a unit wrote is on the
disk before the unit is reported.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import time
from collections.abc import Iterable, Iterator

from pogfast._engine import VERDICT, Opened, Opener, Wanted, sync_file_system
from pogfast.cluster.limits import limits_of
from pogfast.cluster.ranges import opened_draft
from pogfast.cluster.units import Asked, Into, OpeningJob, OpeningResult, OpeningUnit, Unsuitable
from pogfast.errors import NoSuchArchive, PogfastError
from pogfast.files.directories import Directories
from pogfast.files.metadata import is_same_time
from pogfast.stores import open_store, settings
from pogfast.stores.addresses import is_service
from pogfast.stores.fetching import prefetch
from pogfast.stores.protocols import Target
from pogfast.stores.service import AccessDenied

MAX_OPEN = 256  # directories: more than a unit's files are in
GOOD = VERDICT["good"]
BAD_WRITE = VERDICT["bad write"]


def check_sees(word: str, mark: str) -> None:
    """Raises Unsuitable for a directory that is not the coordinator's store, which has a file of the name `mark`."""
    if is_service(word) or os.path.exists(os.path.join(word, mark)):
        return
    what = "does not see" if not os.path.isdir(word) else "sees another directory at"
    raise Unsuitable(f"it {what} the store {word}: is the same file system mounted there?")


def check_is_theirs(store: Target, mark: str) -> None:
    """Raises Unsuitable for a store on a service that is not the coordinator's, which has an object of the name `mark`:
    the environment of a worker may name another service. Without permission to list it, that cannot be told."""
    if store.own_directories():
        return  # check_sees has looked
    with contextlib.suppress(AccessDenied):
        if mark in {found.name for found in store.named(mark)}:
            return
        try:
            store.get_manifest(mark)  # a listing may be late
        except NoSuchArchive as error:
            raise Unsuitable(f"it sees another store at {store.label}: has it the same endpoint?") from error


class OpeningDesk:
    """The store and the key of a restore or a check."""

    def __init__(self, job: OpeningJob) -> None:
        self.job = job
        self.used = time.monotonic()
        job.check_release()
        check_sees(job.to, job.mark)
        if job.into is not None:
            with _directories(job.into):
                pass
        self.key = job.key.resolve()
        self.limits = limits_of(job)
        with settings.using(**vars(job.settings) | self.limits.settings):
            self.store = open_store(job.to)
        try:
            check_is_theirs(self.store, job.mark)
        except BaseException:
            self.close()
            raise

    def do(self, unit: OpeningUnit) -> OpeningResult:
        """Does a unit. Raises StoreError, and Unsuitable if the store or the directory is not there any more."""
        started = time.monotonic()
        self.limits.share(unit.share)
        into = self.job.into
        if into is None:
            result = self._open([asked.wanted for asked in unit.files])
        else:
            with _directories(into) as directories:
                result = self._restore(unit.files, into, directories)
        if any(event.verdict != GOOD for event in result.events):
            check_sees(self.job.to, self.job.mark)  # nothing is damaged or missing because a file system is gone
        self.used = time.monotonic()
        result.seconds = self.used - started
        return result

    def _restore(self, files: tuple[Asked, ...], into: Into, directories: Directories) -> OpeningResult:
        """Restores files and ranges. Those in directories that cannot be opened are not even begun."""
        with contextlib.ExitStack() as stack:
            opened = [_opened(directories, asked, stack) for asked in files]
            return self._restore_in(files, into, opened)

    def _restore_in(self, files: tuple[Asked, ...], into: Into, opened: list[tuple[int, int]]) -> OpeningResult:
        """Restores files. `opened` has the descriptor of the directory of each, of a range that of its file."""
        systems: dict[int, int] = {}  # device -> a directory on it, opened before anything is written to it
        for directory, _ in opened:
            if directory >= 0:
                systems.setdefault(os.fstat(directory).st_dev, directory)
        there = [number for number, (directory, _) in enumerate(opened) if directory >= 0]
        wanted = {number: files[number].wanted._replace(directory=opened[number][0]) for number in there}
        result = self._open(list(wanted.values()), _prefix(into))
        events = dict(zip(there, result.events, strict=True))
        left = {
            number: each._replace(replace=True)
            for number, each in wanted.items()
            if _is_left(events[number], each, files[number])
        }
        if left:
            second = self._open(list(left.values()), _prefix(into))
            events.update(zip(left, second.events, strict=True))
            result.written += second.written
            result.read += second.read
        if into.sync:
            code = _synced(systems.values())
            for number in there:
                if events[number].verdict == GOOD:
                    events[number] = _settled(events[number], files[number], opened[number][0], code)
        result.events = [
            events[number] if directory >= 0 else Opened(number, True, BAD_WRITE, 0, code, -1, 0)
            for number, (directory, code) in enumerate(opened)
        ]
        return result

    def _open(self, wanted: list[Wanted], prefix: bytes = b"") -> OpeningResult:
        key, source = self.key, self.store.source
        prefetch(source, (blob for each in wanted for blob in each.blobs))
        opener = Opener(key.secret, key.private, key.asymmetric, wanted, source, jobs=self.job.jobs, temporary=prefix)
        with contextlib.closing(opener.run()) as run:
            events = list(run)
        return OpeningResult(events, opener.written(), opener.read())

    def close(self) -> None:
        with contextlib.suppress(PogfastError):
            self.store.close()


@contextlib.contextmanager
def _directories(into: Into) -> Iterator[Directories]:
    """Gives the directories below the one that is restored into. Raises Unsuitable if it is not the coordinator's."""
    if os.geteuid() != into.user:
        raise Unsuitable(f"it runs as user {os.geteuid()}, not {into.user}: files would belong to somebody else")
    if not os.path.isdir(into.path):
        raise Unsuitable(f"it does not see {into.path}: is the same file system mounted there?")
    with Directories(into.path, MAX_OPEN, make=False) as directories:
        if _content(directories.root, into.token) != into.content:
            raise Unsuitable(f"it sees another directory at {into.path}: is the same file system mounted there?")
        if not os.access(".", os.W_OK | os.X_OK, dir_fd=directories.root, effective_ids=True):
            raise Unsuitable(f"it has no permission to write to {into.path}")
        yield directories


def _content(directory: int, name: str) -> bytes:
    try:
        file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory)
    except OSError:
        return b""
    with open(file, "rb") as opened:
        return opened.read(1024)


def _prefix(into: Into) -> bytes:
    """Returns the beginning of the names of unfinished files, which no other attempt at a unit has."""
    return f"{into.temporary}{secrets.randbits(62)}-".encode()


def _opened(directories: Directories, asked: Asked, stack: contextlib.ExitStack) -> tuple[int, int]:
    """Returns a descriptor of a file's directory, for a range that of its unfinished file; else -1 and why it cannot be
    opened, as an errno."""
    try:
        directory = directories.find(asked.directory)
        if directory is None:
            return -1, errno.ENOENT
        if asked.part is None:
            return directory, 0
        return stack.enter_context(opened_draft(directory, asked.part.draft, asked.part.inode)), 0
    except OSError as error:
        return -1, error.errno or errno.EIO
    except PogfastError as error:
        return -1, getattr(error.__cause__, "errno", None) or errno.ENOTDIR


def _is_left(event: Opened, wanted: Wanted, asked: Asked) -> bool:
    """Returns True if an earlier attempt at this unit, whose worker died, has left the file that is in the way."""
    if event.verdict != BAD_WRITE or event.errno != errno.EEXIST:
        return False
    try:
        found = os.stat(wanted.leaf, dir_fd=wanted.directory, follow_symlinks=False)
    except OSError:
        return False
    times = {wanted.mtime_ns, *(asked.times or ())[1:]}
    is_same = wanted.size in (-1, found.st_size) and any(is_same_time(found.st_mtime_ns, time) for time in times)
    return stat.S_ISREG(found.st_mode) and is_same


def _synced(directories: Iterable[int]) -> int:
    """Syncs the file systems of directories. Returns the errno of what failed, 0 if nothing did."""
    try:
        for directory in directories:
            sync_file_system(directory)
    except OSError as error:
        return error.errno or errno.EIO
    return 0


def _settled(event: Opened, asked: Asked, directory: int, code: int) -> Opened:
    """Returns what has become of a file that was written and synced with `code`. It gets its times if it is there."""
    if code:
        return event._replace(verdict=BAD_WRITE, errno=code)
    try:
        if asked.times is not None:
            os.utime(asked.wanted.leaf, ns=asked.times, dir_fd=directory, follow_symlinks=False)
    except OSError as error:
        return event._replace(soft=event.soft or error.errno or errno.EIO)
    return event

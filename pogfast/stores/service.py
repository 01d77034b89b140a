"""The protocol of object services: requests for objects by path, and how they fail.

s3.py and b2.py implement it for `RemoteStore`; the functions below parse what both get over HTTP.
"""

from __future__ import annotations

import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, NamedTuple, Protocol

from pogfast.errors import NoSuchArchive, StoreError, UsageError
from pogfast.stores.limits import Interrupted

if TYPE_CHECKING:
    from pogfast._engine import Buffer
    from pogfast.stores.limits import Transfer
    from pogfast.stores.protocols import Finding, ThawState
    from pogfast.stores.settings import Lock


# Bytes of one read: what is lost if the connection breaks in it. HTTP libraries read into a buffer of their own, which
# stays in the processor's cache if it is small, and from 1 MiB on would be mapped anew for each read.
PIECE = 256 << 10
CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")
PARTIAL_CONTENT = 206


class TransientError(StoreError):
    """A transient error: the connection broke, or the service is busy.

    `answered`: the service itself refused the request, so nothing was stored. `after`: seconds that the service asks to
    wait. `slow_down`: it asks for fewer requests."""

    def __init__(
        self, message: str, hint: str = "", *, answered: bool = False, after: float = 0.0, slow_down: bool = False
    ) -> None:
        super().__init__(message, hint)
        self.answered = answered
        self.after = after
        self.slow_down = slow_down


class InvalidResponse(TransientError):
    """An invalid response about one object, such as a malformed Content-Range."""


class NoSuchBucket(StoreError, NoSuchArchive):
    """The bucket does not exist; the exit code is NoSuchArchive's."""

    exit_code = NoSuchArchive.exit_code


class AccessDenied(StoreError):
    """The credentials lack the permission."""


class ObjectInfo(NamedTuple):
    """An object in a listing; `path` is below the bucket and prefix, `modified` seconds since 1970. `version` changes
    when the object is rewritten, at least with other bytes; "" if the service has none. What `is_cold` has to be thawed
    before it can be read."""

    path: str
    size: int
    modified: float
    version: str = ""
    is_cold: bool = False


class Body(Protocol):
    """An object that is being read, from the requested byte on."""

    size: int | None  # bytes of the whole object according to the service; None if it does not say

    def readinto(self, view: memoryview) -> int:
        """Reads the next bytes and returns how many; 0 at the end. Raises TransientError."""

    def close(self) -> None: ...


class LimitedBody:
    """A body that is read no faster than a limit allows."""

    def __init__(self, transfer: Transfer) -> None:
        self.transfer = transfer

    def readinto(self, view: memoryview) -> int:
        try:
            allowed = self.transfer.take(len(view))
        except Interrupted as error:
            raise TransientError("a download was given up: the run has ended") from error
        got = self._readinto(view[:allowed])
        self.transfer.give_back(allowed - got)
        return got

    def _readinto(self, view: memoryview) -> int:
        raise NotImplementedError


class Service(Protocol):
    """What a vendor implements. Paths are below bucket and prefix. All methods raise StoreError, and TransientError for
    transient errors; they retry nothing, and are called from several threads at once."""

    label: str  # for messages
    identity: str  # identifies the objects, however the address was written
    requests: Counter[str]  # so far, by kind

    def put(self, path: str, data: Buffer, *, absent: bool) -> None:
        """Stores an object atomically, and replaces an existing one; with `absent` raises Exists instead, if the
        service can do that. Many cannot, or only pretend to."""

    def open(self, path: str, start: int, end: int | None = None) -> Body | None:
        """Opens an object at byte `start`, and requests it up to `end` (exclusive; None: all of the rest). A service
        without ranges sends more. Returns None if the object is missing. Raises InvalidResponse."""

    def size(self, path: str) -> int | None:
        """Returns the bytes of an object; None if it is missing."""

    def page(self, prefix: str, token: str, *, deep: bool, start: str = "") -> tuple[list[ObjectInfo], str]:
        """Returns a page of the objects that start with `prefix`, sorted by path, and the token of the next page. The
        first page has the token "", and the last returns "". Unless `deep`, objects with a / after the prefix are left
        out. Objects before `start`, which starts with `prefix`, may be left out."""

    def delete(self, paths: Iterable[str]) -> None:
        """Deletes objects; missing ones are no error."""

    def delete_old(self, found: Sequence[ObjectInfo], before: float, go_on: Callable[[], bool]) -> list[str]:
        """Deletes objects as they were listed, all written before some time; an object that was rewritten since stays,
        if the service can tell. Returns the paths of those that are gone, including those that were gone already.
        `go_on` is called right before each deletion, in several threads; if it returns False, that object stays."""

    def close(self) -> None: ...

    # What only some services can do; `BasicService` has the defaults.

    def examine(self) -> Iterator[Finding]:
        """Yields what doctor reports about this kind of service. Leaves nothing behind."""

    def copy(self, path: str, source: Service) -> bool:
        """Copies an object from another bucket or prefix within the service; False: it has to be downloaded."""

    def locked_until(self, path: str) -> float:
        """Returns until when an object is locked, in seconds since 1970; 0 if it has no lock or is missing."""

    def has_locks(self) -> bool:
        """Returns True if objects here can have a lock."""

    def can_lock(self) -> None:
        """Raises StoreError or UsageError if nothing can be locked here. To be called first: a service without locks
        may take the request for an object."""

    def lock(self, path: str, lock: Lock) -> bool:
        """Locks an object for at least that long; returns False if it is already. Raises MissingBlob."""

    def thaw(self, path: str, tier: str, days: int) -> ThawState:
        """Requests that an object in cold storage becomes readable for some days, and returns its state."""


class BasicService:
    """The defaults: a service without locks, cold storage and copying."""

    label: str

    def examine(self) -> Iterator[Finding]:
        return iter(())

    def copy(self, path: str, source: Service) -> bool:
        return False

    def locked_until(self, path: str) -> float:
        return 0.0

    def has_locks(self) -> bool:
        return False

    def can_lock(self) -> None:
        raise UsageError(f"{self.label}: only S3 has object lock")

    def lock(self, path: str, lock: Lock) -> bool:
        raise UsageError(f"{self.label}: only S3 has object lock")

    def thaw(self, path: str, tier: str, days: int) -> ThawState:
        raise UsageError(f"{self.label}: only S3 has cold storage")


def byte_range(start: int, end: int | None) -> str:
    """Returns the Range header of a request; "" for a whole object."""
    if end is not None:
        return f"bytes={start}-{end - 1}"
    return f"bytes={start}-" if start else ""


def extent(
    length: str | int | None, content_range: str | None, start: int, end: int | None = None, *, status: int = 0
) -> tuple[int, int | None]:
    """Returns the offset at which a response starts, and the bytes of the whole object (None: unknown), from its
    Content-Length and Content-Range. `start` is the requested offset; if there is an `end`, the response has to be
    exactly that range. `status` is HTTP's: some servers send a range with 200. Raises InvalidResponse."""
    if content_range is None and status == PARTIAL_CONTENT:
        raise InvalidResponse(f"requested the bytes from {start} on, but the service does not say which it sends")
    if content_range is None:  # the whole object, whatever was requested
        try:
            whole = int(length) if length is not None else -1
        except ValueError:
            whole = -1
        return 0, whole if 0 <= whole < sys.maxsize else None
    found = CONTENT_RANGE.fullmatch(content_range.strip())
    if not found or int(found[1]) > start:
        raise InvalidResponse(
            f"requested the bytes from {start} on, but the service responded with {content_range[:60]!r}"
        )
    size = None if found[3] == "*" else int(found[3])
    if end is not None and not _is_exactly(int(found[1]), int(found[2]), start, end, size, length):
        said = f"{content_range[:60]!r} and {str(length)[:20]} bytes"
        raise InvalidResponse(f"requested the bytes from {start} to {end - 1}, but the service responded with {said}")
    return int(found[1]), size


def _is_exactly(first: int, last: int, start: int, end: int, size: int | None, length: str | int | None) -> bool:
    """Returns True if a response is the requested range, or what an object of `size` bytes has of it."""
    most = end if size is None else min(end, size)
    return (first, last + 1) == (start, most) and length in (None, most - start, str(most - start))


def skip(body: Body, n: int) -> None:
    """Skips the first `n` bytes, if a service sends more than was requested. Raises TransientError."""
    scratch = memoryview(bytearray(min(n, PIECE)))
    while n:
        got = body.readinto(scratch[:n])
        if not got:
            raise TransientError("the response ends before the requested byte")
        n -= got


def http_time(text: str | None) -> float | None:
    """Parses an HTTP date into seconds since 1970; returns None if it is invalid."""
    try:
        return parsedate_to_datetime(text).timestamp() if text else None
    except (ValueError, TypeError, OverflowError, OSError):
        return None


def seconds_to_wait(retry_after: str | None) -> float:
    """Parses a Retry-After header, seconds or a date, into seconds to wait; returns 0 if there is none or it is
    invalid."""
    if retry_after and re.fullmatch(r"\d{1,9}", retry_after.strip()):
        return float(retry_after.strip())
    then = http_time(retry_after)
    return max(then - time.time(), 0.0) if then is not None else 0.0

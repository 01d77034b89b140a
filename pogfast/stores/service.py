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

if TYPE_CHECKING:
    from pogfast._engine import Buffer
    from pogfast.stores.protocols import Finding, ThawState
    from pogfast.stores.settings import Lock


# Bytes of one read: what is lost if the connection breaks in it.
PIECE = 1 << 20
CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18}|\*)")


class TransientError(StoreError):
    """A transient error: the connection broke, or the service is busy.

    `answered`: the service itself refused the request, so nothing was stored. `after`: seconds that the service asks to
    wait."""

    def __init__(self, message: str, hint: str = "", *, answered: bool = False, after: float = 0.0) -> None:
        super().__init__(message, hint)
        self.answered = answered
        self.after = after


class InvalidResponse(TransientError):
    """An invalid response about one object, such as a malformed Content-Range."""


class NoSuchBucket(StoreError, NoSuchArchive):
    """The bucket does not exist; the exit code is NoSuchArchive's."""

    exit_code = NoSuchArchive.exit_code


class ObjectInfo(NamedTuple):
    """An object in a listing; `path` is below the bucket and prefix, `modified` seconds since 1970. `version` changes
    when the object is rewritten, at least with other bytes; "" if the service has none."""

    path: str
    size: int
    modified: float
    version: str = ""


class Body(Protocol):
    """An object that is being read, from the requested byte on."""

    size: int | None  # bytes of the whole object according to the service; None if it does not say

    def readinto(self, view: memoryview) -> int:
        """Reads the next bytes and returns how many; 0 at the end. Raises TransientError."""

    def close(self) -> None: ...


class Service(Protocol):
    """What a vendor implements. Paths are below bucket and prefix. All methods raise StoreError, and TransientError for
    transient errors; they retry nothing, and are called from several threads at once."""

    label: str  # for messages
    identity: str  # identifies the objects, however the address was written
    requests: Counter[str]  # so far, by kind

    def put(self, path: str, data: Buffer, *, absent: bool) -> None:
        """Stores an object atomically, and replaces an existing one; with `absent` raises Exists instead, if the
        service can do that. Many cannot, or only pretend to."""

    def open(self, path: str, start: int) -> Body | None:
        """Opens an object at byte `start`; returns None if it is missing. Raises InvalidResponse."""

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


def extent(length: str | int | None, content_range: str | None, start: int) -> tuple[int, int | None]:
    """Returns the offset at which a response starts, and the bytes of the whole object (None: unknown), from its
    Content-Length and Content-Range. `start` is the requested offset. Raises InvalidResponse."""
    if content_range is None:  # the whole object, whatever was requested
        try:
            size = int(length) if length is not None else -1
        except ValueError:
            size = -1
        return 0, size if 0 <= size < sys.maxsize else None
    found = CONTENT_RANGE.fullmatch(content_range.strip())
    if not found or int(found[1]) > start:
        raise InvalidResponse(
            f"requested the bytes from {start} on, but the service responded with {content_range[:60]!r}"
        )
    return int(found[1]), None if found[2] == "*" else int(found[2])


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

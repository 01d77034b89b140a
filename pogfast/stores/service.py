"""What a service is to `RemoteStore`: requests for objects by their paths, and how a request fails.

The protocols that s3.py and b2.py fulfil, and what both need to read an answer of HTTP.
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
    from pogfast.stores.protocols import Finding, Warmth
    from pogfast.stores.settings import Lock


# A read's piece: what is lost when a connection breaks within it.
PIECE = 1 << 20
CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18}|\*)")


class TryAgain(StoreError):
    """A transient failure: a connection that broke, a service that is busy.

    `answered` says that the service itself refused, so that nothing was stored; `after` is how many seconds it wants to
    be left alone."""

    def __init__(self, message: str, hint: str = "", *, answered: bool = False, after: float = 0.0) -> None:
        super().__init__(message, hint)
        self.answered = answered
        self.after = after


class Garbled(TryAgain):
    """An answer about one object that makes no sense, such as a Content-Range that is none."""


class NoSuchBucket(StoreError, NoSuchArchive):
    """There is no such store; the exit code is NoSuchArchive's."""

    exit_code = NoSuchArchive.exit_code


class Found(NamedTuple):
    """An object in a listing; `path` is below the bucket and prefix, `modified` seconds since 1970. `version` changes
    when it is written anew, with other bytes at least; "" where the service does not say."""

    path: str
    size: int
    modified: float
    version: str = ""


class Body(Protocol):
    """An object that is being read, from the byte on that was asked for."""

    size: int | None  # bytes of the whole object, as the service says; None when it does not

    def readinto(self, view: memoryview) -> int:
        """The next bytes; 0 at the end. Raises TryAgain."""

    def close(self) -> None: ...


class Service(Protocol):
    """What a vendor does. Paths are below bucket and prefix. Everything raises StoreError, and TryAgain for transient
    failures; nothing is tried again here. Called from several threads at once."""

    label: str  # for messages
    identity: str  # the same for the same objects, whatever they were called by whom
    requests: Counter[str]  # so far, by kind

    def put(self, path: str, data: Buffer, *, absent: bool) -> None:
        """Stores an object, whole or not at all, in place of what is there; with `absent` it raises Exists instead,
        where the service can do that. Many cannot, or only pretend to."""

    def open(self, path: str, start: int) -> Body | None:
        """Begins to read an object from byte `start` on; None when there is none. Raises Garbled."""

    def size(self, path: str) -> int | None:
        """Bytes of an object; None when there is none."""

    def page(self, prefix: str, token: str, *, deep: bool, start: str = "") -> tuple[list[Found], str]:
        """Returns a page of what begins with `prefix`, in the order of the paths, and the token of the next page. The
        first page has the token "", and behind the last comes "". Unless `deep`, only what has no / behind it.
        What is before `start`, which begins with `prefix`, may be left out."""

    def delete(self, paths: Iterable[str]) -> None:
        """What is gone already is fine."""

    def delete_old(self, found: Sequence[Found], before: float, go_on: Callable[[], bool]) -> list[str]:
        """Deletes objects as they were when they were listed, all written before some time; what was written anew
        meanwhile stays where the service can tell. Returns the paths of those that are gone, also of what was gone
        already. `go_on` is asked right before each of them is deleted, in several threads; one of which it says no
        stays."""

    def close(self) -> None: ...

    # What not every service can: `Plain` says so.

    def examine(self) -> Iterator[Finding]:
        """What only it can say of itself. Leaves nothing behind."""

    def copy(self, path: str, source: Service) -> bool:
        """Copies an object of another place in the same service without it coming here; False: it has to come."""

    def locked_until(self, path: str) -> float:
        """Seconds since 1970 before which nobody can delete an object; 0: it has no such lock, or is not there."""

    def has_locks(self) -> bool:
        """Whether objects here can have a lock."""

    def can_lock(self) -> None:
        """To be asked first: who does not know locks may take the request for an object. Raises StoreError and
        UsageError."""

    def lock(self, path: str, lock: Lock) -> bool:
        """Locks an object for so long at least; False when it is already. Raises MissingBlob."""

    def thaw(self, path: str, tier: str, days: int) -> Warmth:
        """Asks for an object in cold storage to be readable for so many days."""


class Plain:
    """A service without locks, cold storage and copies of its own."""

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
        raise UsageError(f"{self.label}: objects are locked in S3 only")

    def lock(self, path: str, lock: Lock) -> bool:
        raise UsageError(f"{self.label}: objects are locked in S3 only")

    def thaw(self, path: str, tier: str, days: int) -> Warmth:
        raise UsageError(f"{self.label}: only S3 has cold storage that is thawed")


def extent(length: str | int | None, content_range: str | None, start: int) -> tuple[int, int | None]:
    """The byte that an answer begins with, and the bytes of the whole object (None: the service does not say), from
    its Content-Length and Content-Range. `start` is the byte that was asked for. Raises Garbled."""
    if content_range is None:  # all of it, whatever was asked for
        try:
            size = int(length) if length is not None else -1
        except ValueError:
            size = -1
        return 0, size if 0 <= size < sys.maxsize else None
    found = CONTENT_RANGE.fullmatch(content_range.strip())
    if not found or int(found[1]) > start:
        raise Garbled(f"asked for what follows byte {start}, the service answers with {content_range[:60]!r}")
    return int(found[1]), None if found[2] == "*" else int(found[2])


def skip(body: Body, n: int) -> None:
    """Passes over the beginning of an object, where a service sends more than it was asked for. Raises TryAgain."""
    scratch = memoryview(bytearray(min(n, PIECE)))
    while n:
        got = body.readinto(scratch[:n])
        if not got:
            raise TryAgain("an answer breaks off before the byte that was asked for")
        n -= got


def http_time(text: str | None) -> float | None:
    """Seconds since 1970 of an HTTP date; None for what is none."""
    try:
        return parsedate_to_datetime(text).timestamp() if text else None
    except (ValueError, TypeError, OverflowError, OSError):
        return None


def seconds_to_wait(retry_after: str | None) -> float:
    """What a Retry-After asks for: seconds, or a date. 0 where it asks for nothing, or for nonsense."""
    if retry_after and re.fullmatch(r"\d{1,9}", retry_after.strip()):
        return float(retry_after.strip())
    then = http_time(retry_after)
    return max(then - time.time(), 0.0) if then is not None else 0.0

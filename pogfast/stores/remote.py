"""A store over an object service: one listing says what is there, uploads run beside the engine, breaks are mended.

A vendor is a `Service`: a few verbs on whole objects below a bucket and a prefix. This room knows none of them, and no
key. A write is repeated until its answer is there, or a listing shows the object with its size: names say
what is in a blob, so the same blob twice does no harm. A read that breaks goes on where it broke, and bytes that are
fewer than promised never pass for an object; whether they are the right ones is for the engine to say.
"""

from __future__ import annotations

import itertools
import math
import random
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

from pogfast._engine import MOST_BLOB
from pogfast.errors import CorruptBlob, CorruptManifest, Exists, MissingBlob, NoSuchArchive, StoreError, UsageError
from pogfast.retries import RETRIED
from pogfast.stores.local import (
    CONDEMNED,
    LIKE_A_BLOB,
    MOST_MANIFEST,
    REMOVED,
    SWEEP,
    Stored,
    check_size,
    is_mark,
)

if TYPE_CHECKING:
    from pogfast._engine import Buffer
    from pogfast.stores.findings import Finding, Warmth
    from pogfast.stores.settings import Lock

Result = TypeVar("Result")

# Of retries, one thread at a time.
TELLING = threading.Lock()

# Bytes of blobs that are on their way at a time, in either direction; one may always be.
IN_FLIGHT = 150 * 10**6
# Bytes that S3 copies in one request.
MOST_COPIED = 5 << 30
# A read's piece: what is lost when a connection breaks within it.
PIECE = 1 << 20
# Bytes that memory is set apart for because a service promises them; more only as they come.
TRUSTED = 128 << 20
# Answers in a row that bring no new byte of an object, after which it is damaged: no network fails in just this way.
STALLS = 5
# Seconds of the longest pause between two attempts, and of the longest that a service can ask for.
LONGEST_PAUSE = 30.0
LONGEST_ASKED = 120.0
# Objects that are deleted before it is known that they are.
DELETED_AT_ONCE = 1000
# Blobs that are asked for by name, and not looked for in a listing, which is a request for each thousand there are.
FEW = 50
# Pages without an object after which a listing has no end: each stands for a thousand folders.
EMPTY_PAGES = 10_000
CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18}|\*)")
MANIFEST_NAME = re.compile(r"[^/]+\.mfn")


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


def blob_path(name: str) -> str:
    return f"data/{name[:2]}/{name}"


def _path(name: str) -> str:
    """Of a blob or a manifest."""
    return blob_path(name) if LIKE_A_BLOB.fullmatch(name) else name


class RemoteStore:
    """A store, to write to and to read from. `path` is as it was given."""

    def __init__(self, service: Service, path: str, *, parallel: int, retry_for: float) -> None:
        """At most `parallel` requests at a time; transient failures are retried for `retry_for` seconds."""
        self.service = service
        self.path = path
        self.label = service.label
        self.parallel = parallel
        self.retry_for = retry_for
        self.blobs = _Uploads(self)
        self.source = _Downloads(self)
        self._known: dict[str, int] | None = None
        self._doubted: frozenset[str] = frozenset()
        self._lock = threading.Lock()
        self._flow = _Flow(IN_FLIGHT)
        self._ahead = _Ahead(self._fetch_blob, self._flow, parallel)
        self._over = threading.Event()
        self._retried = RETRIED.get()

    @property
    def identity(self) -> str:
        return self.service.identity

    @property
    def requests(self) -> dict[str, int]:
        """How many of each kind so far."""
        return dict(self.service.requests)

    # ---- what is there ----

    def look(self) -> None:
        """Makes one request, to see whether it can be listed. Raises StoreError and NoSuchArchive."""
        self._again(lambda: self.service.page("", "", deep=False))

    @property
    def known(self) -> dict[str, int]:
        """Bytes of every blob: listed at the first question, and from then on what this run has added."""
        with self._lock:
            if self._known is None:
                self._known = {blob.name: blob.size for blob in self.blob_names() if blob.name not in self._doubted}
            return self._known

    def doubt(self, names: Iterable[str]) -> None:
        with self._lock:
            self._doubted = frozenset(names)
            known = self._known or {}
            for name in self._doubted:
                known.pop(name, None)

    def size_of(self, name: str) -> int | None:
        return self.known.get(name)

    def blob_names(self) -> Iterator[Stored]:
        for found in self._listed("data/", deep=True):
            folder, _, name = found.path.removeprefix("data/").partition("/")
            if LIKE_A_BLOB.fullmatch(name) and name[:2] == folder:
                yield Stored(name, *found[1:])

    def manifests(self) -> list[Stored]:
        return [Stored(*found) for found in self._listed("", deep=False) if MANIFEST_NAME.fullmatch(found.path)]

    def marks(self) -> list[Stored]:
        return [Stored(*found) for found in self._listed("", deep=False) if is_mark(found.path)]

    def missing(self, names: Iterable[str]) -> list[str]:
        wanted = list(names)
        if len(wanted) <= FEW:
            return [name for name, size in self._each(wanted, self.service.size) if size is None]
        there = set(wanted).intersection(blob.name for blob in self.blob_names())
        return [name for name in wanted if name not in there]

    def _listed(self, prefix: str, *, deep: bool, start: str = "") -> Iterator[Found]:
        """Yields what is listed, page by page; one that breaks is asked for anew. Raises StoreError, also for a listing
        that goes round in circles."""
        seen: set[str] = set()
        token, empty = "", 0
        while True:
            page, token = self._again(partial(self.service.page, prefix, token, deep=deep, start=start))
            yield from page
            if not token:
                return
            empty = 0 if page else empty + 1
            marks = {f"token {token}", *(f"path {first.path}" for first in page[:1])}
            if marks & seen or empty > EMPTY_PAGES:
                raise StoreError(f"{self.label}: the service's listing has no end: it repeats itself")
            seen |= marks

    # ---- reading ----

    def expect(self, names: Iterable[str]) -> None:
        """These blobs will be asked for next, in this order: they are fetched ahead, as much as memory is set apart
        for. What was expected before is not any more."""
        self._ahead.expect(names)

    def get_manifest(self, name: str) -> bytes:
        try:
            data = self._fetch(name, MOST_MANIFEST)
        except CorruptBlob as error:
            raise CorruptManifest(str(error)) from error
        if data is None:
            raise NoSuchArchive(f"no such archive: {name} in {self.label}")
        return bytes(data)

    def get_blob(self, name: str) -> Buffer:
        """What is stored under a blob's name. Raises MissingBlob, StoreError, and CorruptBlob for what cannot be one:
        larger than any, or its end never comes."""
        data = self._ahead.take(name)
        if data is None:
            raise MissingBlob(f"blob {name} is missing from {self.label}")
        return data

    def _fetch_blob(self, name: str, urgent: Callable[[], bool]) -> bytearray | None:
        return self._fetch(blob_path(name), MOST_BLOB, urgent)

    def _fetch(self, path: str, most: int, urgent: Callable[[], bool] = lambda: True) -> bytearray | None:
        """A whole object of at most `most` bytes; None when there is none. Unless it is `urgent` there has to be room
        for it."""
        reading = _Reading(self.service, path, self._flow, most, urgent)
        return self._again(reading.go_on, lambda: reading.reached)

    # ---- writing ----

    def begin_durable(self) -> None:
        """What is sent is stored."""

    def own_places(self) -> dict[tuple[int, int], tuple[str, Callable[[str], bool]]]:
        """Nothing of it lies in a directory that could be archived, as far as can be known."""
        return {}

    def make_durable(self) -> None:
        self.blobs.drain()

    def put_blob(self, name: str, blob: Buffer) -> None:
        """Returns when the blob is there. Raises StoreError."""
        size = len(blob)
        absent = self.size_of(name) is None and name not in self._doubted
        try:
            self._put(blob_path(name), blob, absent=absent)
        except Exists:
            if self.service.size(blob_path(name)) != size:  # what is there is not it
                self._put(blob_path(name), blob, absent=False)
        self._note(name, size)

    def put_manifest(self, name: str, data: bytes) -> None:
        check_size(name, data)
        self.blobs.drain()
        try:
            self._put(name, data, absent=True)
        except Exists:
            if self.service.size(name) != len(data):  # else it is this one, and only an answer was lost
                raise

    def put_mark(self, name: str, data: bytes) -> None:
        check_size(name, data)
        self._put(name, data, absent=False)

    def _put(self, path: str, data: Buffer, *, absent: bool) -> None:
        size = len(data)

        def attempt() -> None:
            try:
                self.service.put(path, data, absent=absent)
            except TryAgain as error:
                # What was there before may be as long as what has lost its answer.
                if error.answered or not absent or self.service.size(path) != size:
                    raise

        self._again(attempt)

    def copy_blob(self, name: str, source: object) -> bool:
        """Whether the service could copy a blob by itself, from another store in it. Raises StoreError."""
        if not isinstance(source, RemoteStore) or type(source.service) is not type(self.service):
            return False
        size = source.size_of(name)
        if size is None or size > MOST_COPIED:
            return False
        copied = self._again(lambda: self.service.copy(blob_path(name), source.service))
        if copied:
            self._note(name, size)
        return copied

    def _note(self, name: str, size: int) -> None:
        """A blob has been stored."""
        with self._lock:
            if self._known is not None:
                self._known[name] = size

    def delete_blobs(self, names: Iterable[str]) -> None:
        waiting = iter(names)
        while gone := list(itertools.islice(waiting, DELETED_AT_ONCE)):
            self._again(partial(self.service.delete, list(map(blob_path, gone))))
            with self._lock:
                if self._known is not None:
                    for name in gone:
                        self._known.pop(name, None)

    def delete_old_blobs(self, blobs: Iterable[Stored], before: float, go_on: Callable[[], bool]) -> Iterator[Stored]:
        waiting = iter(blobs)
        while go_on() and (some := list(itertools.islice(waiting, DELETED_AT_ONCE))):
            found = [Found(blob_path(blob.name), *blob[1:]) for blob in some]
            gone = set(self._again(partial(self.service.delete_old, found, before, go_on)))
            yield from (blob for blob in some if blob_path(blob.name) in gone)

    def begin_sweep(self) -> None:
        """Nothing is moved aside here."""

    def delete_as_listed(self, marks: Iterable[Stored], go_on: Callable[[], bool]) -> None:
        waiting = iter(marks)
        while go_on() and (some := list(itertools.islice(waiting, DELETED_AT_ONCE))):
            found = [Found(*mark) for mark in some]
            newest = max(mark.modified for mark in some)
            self._again(partial(self.service.delete_old, found, math.nextafter(newest, math.inf), go_on))

    def forget_removed(self, removed: Stored) -> None:
        """Removed again it has the same bytes, and so the same version."""

    def remove_manifest(self, name: str) -> None:
        data = self.get_manifest(name)
        self.put_mark(name + REMOVED, data)
        self.delete_manifests([name])
        if not self.named(name + REMOVED):  # so much later that a prune took it for what an undelete has left
            self.put_mark(name + REMOVED, data)

    def delete_manifests(self, names: Iterable[str]) -> None:
        waiting = iter(names)
        while gone := list(itertools.islice(waiting, DELETED_AT_ONCE)):
            self._again(partial(self.service.delete, gone))

    def signs(self) -> list[Stored]:
        """One listing, in the order of names: lists come first."""
        found = self._listed("", deep=False, start=CONDEMNED)
        return [Stored(*each) for each in found if each.path.startswith((CONDEMNED, SWEEP))]

    def named(self, prefix: str) -> list[Stored]:
        return [Stored(*found) for found in self._listed(prefix, deep=False)]

    def examine(self) -> Iterator[Finding]:
        return self.service.examine()

    # ---- locks and cold storage ----

    def locked(self, names: Iterable[str]) -> dict[str, float]:
        """Those of some blobs and manifests that cannot be deleted yet, and until when. Raises StoreError."""
        if not self._again(self.service.has_locks):
            return {}
        return {name: until for name, until in self._each(names, self.service.locked_until) if until > time.time()}

    def lock(self, names: Iterable[str], lock: Lock) -> Iterator[tuple[str, bool | None]]:
        """Locks blobs and manifests; of each whether it had to be, and None when it is not there. Raises StoreError and
        UsageError."""

        self._again(self.service.can_lock)

        def act(path: str) -> bool | None:
            try:
                return self.service.lock(path, lock)
            except MissingBlob:
                return None

        return self._each(names, act)

    def thaw(self, names: Iterable[str], tier: str, days: int) -> Iterator[tuple[str, Warmth]]:
        """Asks for blobs in cold storage, and says of each how far it is. Raises StoreError and UsageError."""
        return self._each(names, lambda path: self.service.thaw(path, tier, days))

    def _each(self, names: Iterable[str], act: Callable[[str], Result]) -> Iterator[tuple[str, Result]]:
        """Several at a time. A result that is not looked at is not waited for."""
        threads = ThreadPoolExecutor(self.parallel, "pogfast-ask")
        try:
            results = [(name, threads.submit(self._again, partial(act, _path(name)))) for name in names]
            for name, result in results:
                yield name, result.result()
        finally:
            threads.shutdown(wait=True, cancel_futures=True)

    def abandon(self) -> None:
        """A run has ended early: nobody waits for the service any longer than for an answer that is on its way."""
        self._over.set()
        self._flow.open()
        self.blobs.give_up()

    def close(self) -> None:
        self.abandon()
        self.blobs.stop()
        self._ahead.stop()
        self.service.close()

    def _again(self, act: Callable[[], Result], reached: Callable[[], int] = lambda: 0) -> Result:
        """Retries transient failures until they have lasted for `retry_for` seconds; what is `reached` meanwhile starts
        the clock anew. Raises StoreError."""
        began, attempts, far = 0.0, 0, -1
        while True:
            try:
                return act()
            except TryAgain as error:
                now = time.monotonic()
                if reached() > far:
                    began, attempts, far = now, 0, reached()
                attempts += 1
                left = self.retry_for - (now - began)
                if left <= 0 or self._over.is_set():
                    raise self._given_up(error, attempts, now - began) from error
                pause = random.uniform(0, min(0.1 * 2**attempts, LONGEST_PAUSE))
                pause = min(max(pause, min(error.after, LONGEST_ASKED)), left)
                with TELLING:
                    self._retried(f"{error}: attempt {attempts + 1} follows in {pause:.1f} s")
                if self._over.wait(pause):
                    raise

    def _given_up(self, error: TryAgain, attempts: int, seconds: float) -> TryAgain:
        if attempts == 1:
            return error
        tried = f"{attempts} attempts in {seconds:.0f} s; --retry-for says for how long"
        return type(error)(str(error), f"{error.hint}; {tried}" if error.hint else tried)


class _Reading:
    """An object that is read to its end, in several attempts when it must be."""

    def __init__(self, service: Service, path: str, flow: _Flow, most: int, urgent: Callable[[], bool]) -> None:
        self.service = service
        self.path = path
        self.flow = flow
        self.most = most
        self.urgent = urgent
        self.data: _Held | None = None
        self.size: int | None = None
        self.got = 0
        self.reached = 0  # the most that `got` has been
        self.stalls = 0

    def go_on(self) -> bytearray | None:
        """The whole object; None when there is none. Raises TryAgain, CorruptBlob and StoreError."""
        try:
            body = self.service.open(self.path, self.got)
        except Garbled as error:
            self._stall(str(error))
            self.data, self.size, self.got = None, None, 0
            raise
        if body is None:
            return None
        before = self.reached
        try:
            return self._read(body)
        except TryAgain as error:
            if self.reached == before:
                self._stall(str(error))
            raise
        finally:
            body.close()

    def _read(self, body: Body) -> bytearray:
        if self.data is None or self.size != body.size:
            self._begin(body.size)
        assert self.data is not None
        while self.size is None or self.got < self.size:
            self._make_room(self.data)
            with memoryview(self.data) as view:
                n = body.readinto(view[self.got : self.got + PIECE])
            if n == 0 and self.size is None:
                break
            if n == 0:
                raise TryAgain(f"{self.path} in {self.service.label} breaks off at byte {self.got}")
            self.got += n
            self.reached = max(self.reached, self.got)
        del self.data[self.got :]
        return self.data

    def _begin(self, size: int | None) -> None:
        if size is not None and size > self.most:
            raise CorruptBlob(f"{self.path} in {self.service.label} has {size:,} bytes, more than could be opened")
        if self.got:  # it is another object now: its beginning was not asked for
            self.data, self.size, self.got = None, None, 0
            raise TryAgain(f"{self.path} in {self.service.label} changes while it is read")
        self.flow.take(size or 0, self.urgent)  # before there is memory for it: to make it touches all of it
        self.data, self.size = _Held(self.flow, size or 0), size

    def _make_room(self, data: bytearray) -> None:
        """For the next piece. What a service promises is not believed to any length."""
        if len(data) - self.got >= PIECE or len(data) == self.size:
            return
        room = max(2 * len(data), self.got + PIECE) if data or self.size is None else TRUSTED
        data += bytes(min(room, self.size or room) - len(data))
        if self.got > self.most:
            raise CorruptBlob(f"{self.path} in {self.service.label} has no end")

    def _stall(self, why: str) -> None:
        """Another attempt has brought nothing."""
        self.stalls += 1
        if self.stalls >= STALLS:
            raise CorruptBlob(f"{why}, {STALLS} times")


class _Held(bytearray):
    """Bytes that count as on their way for as long as somebody has them."""

    def __init__(self, flow: _Flow, size: int) -> None:
        self.flow, self.size = flow, size
        super().__init__()

    def __del__(self) -> None:
        self.flow.give_back(self.size)


class _Flow:
    """Bounds the bytes that are on their way."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.bytes = 0
        self.changed = threading.Condition()

    def take(self, size: int, urgent: Callable[[], bool] = lambda: False) -> None:
        """Returns when there is room, or what it is for cannot wait any longer."""
        with self.changed:
            self.changed.wait_for(lambda: self.bytes == 0 or self.bytes + size <= self.most or urgent())
            self.bytes += size

    def look_again(self) -> None:
        """Something has become urgent."""
        with self.changed:
            self.changed.notify_all()

    def open(self) -> None:
        """Bounds nothing any more."""
        with self.changed:
            self.most = sys.maxsize
            self.changed.notify_all()

    def give_back(self, size: int) -> None:
        with self.changed:
            self.bytes -= size
            self.changed.notify_all()


class _Ahead:
    """Blobs that are fetched before they are asked for. Who asks never waits for room: it may be taken by what comes
    later."""

    def __init__(self, fetch: Callable[[str, Callable[[], bool]], bytearray | None], flow: _Flow, parallel: int):
        self.fetch = fetch
        self.flow = flow
        self.parallel = parallel
        self.lock = threading.Lock()
        self.line: Iterator[str] = iter(())
        self.coming: dict[str, Future[bytearray | None]] = {}
        self.asked: set[str] = set()
        self.threads: ThreadPoolExecutor | None = None

    def expect(self, names: Iterable[str]) -> None:
        with self.lock:
            for future in self.coming.values():
                future.cancel()
            self.coming.clear()
            self.asked.clear()
            self.line = iter(dict.fromkeys(names))
            self.threads = self.threads or ThreadPoolExecutor(self.parallel, "pogfast-download")
            self._fill(self.threads)

    def take(self, name: str) -> bytearray | None:
        with self.lock:
            self.asked.add(name)
            future = self.coming.pop(name, None)
            if self.threads:
                self._fill(self.threads)
        self.flow.look_again()
        if future is None or future.cancel():  # nobody has begun with it
            return self.fetch(name, lambda: True)
        return future.result()

    def _fill(self, threads: ThreadPoolExecutor) -> None:
        while len(self.coming) < 2 * self.parallel:
            name = next((name for name in self.line if name not in self.asked), None)
            if name is None:
                return
            self.coming[name] = threads.submit(self.fetch, name, partial(self.asked.__contains__, name))

    def stop(self) -> None:
        if self.threads is not None:
            self.threads.shutdown(wait=True, cancel_futures=True)
            self.threads = None


class _Downloads:
    """The engine's source."""

    def __init__(self, store: RemoteStore) -> None:
        self.store = store

    def __call__(self, name: str) -> Buffer:
        return self.store.get_blob(name)

    def expect(self, names: Iterable[str]) -> None:
        self.store.expect(names)

    def abandon(self) -> None:
        self.store.abandon()


class _Uploads:
    """The engine's sink: hands each blob to a thread and returns, as long as not too much is on its way."""

    def __init__(self, store: RemoteStore) -> None:
        self.store = store
        self.flow = _Flow(IN_FLIGHT)
        self.places = threading.Semaphore(4 * store.parallel)  # some wait in line, so that no thread waits for work
        self.threads: ThreadPoolExecutor | None = None
        self.failure: BaseException | None = None
        self.stopping = False

    def holds(self, name: str) -> int | None:
        return self.store.size_of(name)

    def __call__(self, name: str, blob: memoryview) -> None:
        self._check()
        self.places.acquire()
        self.flow.take(len(blob))
        if self.threads is None:
            self.threads = ThreadPoolExecutor(self.store.parallel, "pogfast-upload")
        self.threads.submit(self._put, name, blob)

    def _put(self, name: str, blob: memoryview) -> None:
        size = len(blob)
        try:
            if self.failure is None and not self.stopping:
                self.store.put_blob(name, blob)
        except Exception as error:  # noqa: BLE001 (it is raised where the engine waits for this thread)
            self.failure = self.failure or error
        finally:
            blob.release()
            self.flow.give_back(size)
            self.places.release()

    def _check(self) -> None:
        if self.failure is not None:
            raise self.failure

    def drain(self) -> None:
        """Returns when all that was handed over is stored. Raises StoreError."""
        if self.threads is not None:
            self.threads.shutdown(wait=True)
            self.threads = None
        self._check()

    def abandon(self) -> None:
        self.store.abandon()

    def give_up(self) -> None:
        """What is in line is dropped, and who waits for a place has one."""
        self.stopping = True
        self.flow.open()
        self.places.release(4 * self.store.parallel)

    def stop(self) -> None:
        """Waits for what is being sent."""
        if self.threads is not None:
            self.threads.shutdown(wait=True, cancel_futures=True)
            self.threads = None

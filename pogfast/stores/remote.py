"""A store on an object service: one listing shows what exists, uploads run in threads, transient errors are retried.

A vendor is a `Service`: a few operations on whole objects below a bucket and a prefix. This module knows no vendor and
no key. A write is retried until it is confirmed, or until a listing shows the object with its size: a name determines a
blob's content, so writing a blob twice does no harm. An interrupted read resumes at its offset, and an object that is
shorter than announced is never accepted; the engine verifies the bytes.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import random
import re
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from pogfast._engine import MAX_BLOB
from pogfast.errors import CorruptBlob, CorruptManifest, Exists, MissingBlob, NoSuchArchive
from pogfast.stores.concurrency import Concurrency, RequestPool
from pogfast.stores.listing import Lister
from pogfast.stores.local import MAX_MANIFEST, check_size
from pogfast.stores.names import CONDEMNED, LIKE_A_BLOB, PACKS, REMOVED, SWEEP, Stored, is_like_a_blob, is_mark, is_path
from pogfast.stores.packs.layout import DEFAULT_LIMIT as SMALL
from pogfast.stores.packs.layout import DEFAULT_SIZE, is_pack
from pogfast.stores.service import AccessDenied, ObjectInfo, Service, TransientError
from pogfast.stores.traffic import (
    MAX_IN_FLIGHT,
    Download,
    InFlightLimit,
    Prefetcher,
    PrefetchingSource,
    RangeDownload,
    UploadQueue,
)
from pogfast.system.notices import RETRIED

if TYPE_CHECKING:
    from pogfast._engine import Buffer
    from pogfast.stores.protocols import Finding, ThawState
    from pogfast.stores.settings import Lock

Result = TypeVar("Result")

# Held while a retry is reported: the callback runs in one thread at a time.
REPORT_LOCK = threading.Lock()

# The largest object that S3 copies in one request.
MAX_COPIED = 5 << 30
# The longest pause between two attempts, and the longest that a service can ask for, in seconds.
MAX_PAUSE = 30.0
MAX_RETRY_AFTER = 120.0
# Objects that are deleted in one batch, of which the results are then read.
DELETE_BATCH = 1000
# Up to this many blobs are looked up by name; beyond that, in a listing, which is a request per thousand blobs stored.
MAX_BY_NAME = 50
# Small blobs that a run may send one by one before its summary mentions packs.
MANY_SMALL = 1000
# Objects below packs/ among which is a pack, if there are any.
LOOKED_AT = 1000
MANIFEST_NAME = re.compile(r"[^/]+\.mfn")


def blob_path(name: str) -> str:
    return f"data/{name[:2]}/{name}"


def _path(name: str) -> str:
    """Returns the path of a blob, a manifest or another object."""
    return blob_path(name) if LIKE_A_BLOB.fullmatch(name) else name


def _stored_at(name: str) -> str:
    """Returns the path of a blob, or of an object that is named by its path; manifests have no place among them."""
    return name if is_path(name) else blob_path(name)


def _top(path: str) -> str:
    """Returns the first folder of a path with its /, or the path of an object that is in no folder."""
    folder, slash, _ = path.partition("/")
    return folder + slash


def _drop_frames(error: BaseException | None) -> None:
    """Frees what an error and its causes keep: the memory that was read into would count until it is collected."""
    while error is not None:
        cause = error.__cause__ or error.__context__
        error.__traceback__ = error.__context__ = error.__cause__ = None
        error = cause


class RemoteStore:
    """A store that can be read and written. `path` is the address as the user wrote it."""

    def __init__(
        self,
        service: Service,
        path: str,
        *,
        concurrency: Concurrency,
        retry_for: float,
        interrupt: Callable[[], None] = lambda: None,
    ) -> None:
        """Makes as many requests at a time as `concurrency` says. Retries transient errors for `retry_for` seconds.
        `interrupt` ends the service's slow transfers."""
        self.service = service
        self.path = path
        self.label = service.label
        self.concurrency = concurrency
        self.retry_for = retry_for
        self._interrupt = interrupt
        self.blobs = UploadQueue(self)
        self.source = PrefetchingSource(self)
        self._lister = Lister(service, concurrency, self._with_retries)
        self._known: dict[str, int] | None = None
        self._doubted: frozenset[str] = frozenset()
        self._lock = threading.Lock()
        self._in_flight = InFlightLimit(MAX_IN_FLIGHT)
        self._prefetcher = Prefetcher(self._fetch_blob, self._in_flight, concurrency)
        self._abandoned = threading.Event()
        self._report_retry = RETRIED.get()
        self._small_blobs = self._small_size = 0  # put by this run
        self._has_locks: bool | None = None  # objects here can have one; asked once

    @property
    def identity(self) -> str:
        return self.service.identity

    @property
    def parallel(self) -> int:
        return self.concurrency.number

    @property
    def in_flight(self) -> InFlightLimit:
        """Limits the bytes of downloads."""
        return self._in_flight

    @property
    def requests(self) -> dict[str, int]:
        """Requests made so far, by kind."""
        return dict(self.service.requests)

    # ---- what is there ----

    def check_listing(self) -> None:
        """Checks with one request that the store can be listed. Raises StoreError and NoSuchArchive."""
        self._with_retries(partial(self._lister.page, "", "", deep=False))

    @property
    def known(self) -> dict[str, int]:
        """The size of every blob: listed on first use, then updated by this run."""
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

    def sizes_of(self, names: Sequence[str]) -> list[int | None]:
        return list(map(self.known.get, names))

    def blob_names(self) -> Iterator[Stored]:
        for found in self._lister.listed("data/", deep=True):
            folder, _, name = found.path.removeprefix("data/").partition("/")
            if LIKE_A_BLOB.fullmatch(name) and name[:2] == folder:
                yield Stored(name, *found[1:])

    holders = blob_names

    def unneeded(
        self, objects: Iterable[Stored] | None, is_needed: Callable[[str], bool], going: Collection[str] = ()
    ) -> list[Stored]:
        blobs = self.blob_names() if objects is None else objects
        return [blob for blob in blobs if not is_needed(blob.name)]

    def manifests(self) -> list[Stored]:
        return [Stored(*found) for found in self._lister.listed("", deep=False) if MANIFEST_NAME.fullmatch(found.path)]

    def marks(self) -> list[Stored]:
        return [Stored(*found) for found in self._lister.listed("", deep=False) if is_mark(found.path)]

    def missing(self, names: Iterable[str]) -> list[str]:
        wanted = list(names)
        if len(wanted) <= MAX_BY_NAME:
            return [name for name, size in self._in_parallel(wanted, self.service.size) if size is None]
        paths = {name for name in wanted if is_path(name)}
        listed: list[Iterable[Stored]] = [self.objects(prefix) for prefix in sorted({_top(path) for path in paths})]
        if len(paths) < len(wanted):
            listed.append(self.blob_names())
        there = set(wanted).intersection(found.name for found in itertools.chain(*listed))
        return [name for name in wanted if name not in there]

    def objects(self, prefix: str) -> Iterator[Stored]:
        for found in self._lister.listed(prefix, deep=prefix.endswith("/")):
            if prefix.endswith("/") or found.path == prefix:
                yield Stored(*found)

    def has_packs(self) -> bool:
        with contextlib.suppress(AccessDenied):
            listed = self._lister.listed(PACKS, deep=True)
            return any(is_pack(found.path) for found in itertools.islice(listed, LOOKED_AT))
        return False

    def blobs_only_in(self, objects: Collection[str], listed: Collection[str]) -> set[str]:
        return set(filter(is_like_a_blob, objects))

    # ---- reading ----

    def prefetch(self, names: Iterable[str]) -> None:
        """Prefetches these blobs, which will be read in this order, as far as memory allows. Replaces the names of an
        earlier call."""
        self._prefetcher.prefetch(names)

    def get_manifest(self, name: str) -> bytes:
        try:
            data = self._fetch(name, MAX_MANIFEST)
        except CorruptBlob as error:
            raise CorruptManifest(str(error)) from error
        if data is None:
            raise NoSuchArchive(f"no such archive: {name} in {self.label}")
        return bytes(data)

    def get_blob(self, name: str) -> Buffer:
        """Returns all bytes stored under a blob's name. Raises MissingBlob, StoreError, and CorruptBlob for an object
        that is larger than any blob or has no end."""
        data = self._prefetcher.take(name)
        if data is None:
            raise MissingBlob(f"blob {name} is missing from {self.label}")
        return data

    def get_object(self, path: str, limit: int) -> Buffer:
        return self._found(path, self._fetch(path, limit))

    def read_range(self, path: str, start: int, size: int) -> Buffer:
        return self._found(path, self.fetch_range(path, start, size, lambda: True)) if size else b""

    def _found(self, path: str, data: bytearray | None) -> bytearray:
        if data is None:
            raise MissingBlob(f"{path} is missing from {self.label}")
        return data

    def fetch_range(
        self,
        path: str,
        start: int,
        size: int,
        urgent: Callable[[], bool],
        exceed: Callable[[], bool] = lambda: True,
    ) -> bytearray | None:
        """Reads a range of an object; returns None if the object is missing. Waits for memory until it is `urgent` and
        may `exceed` the limit, and ends after abandon unless it is urgent. Raises CorruptBlob, StoreError, and what the
        two functions raise."""

        def check() -> None:
            if self._abandoned.is_set() and not urgent():
                raise TransientError(f"{self.label}: {path} is not read any further")

        within = start, start + size
        reading = RangeDownload(self.service, path, self._in_flight, within, urgent, exceed, check)
        try:
            return self._with_retries(reading.go_on, lambda: reading.reached)
        finally:
            reading.data = None  # the frames of an error would keep it

    def _fetch_blob(self, name: str, urgent: Callable[[], bool]) -> bytearray | None:
        return self._fetch(blob_path(name), MAX_BLOB, urgent)

    def _fetch(self, path: str, limit: int, urgent: Callable[[], bool] = lambda: True) -> bytearray | None:
        """Reads a whole object of at most `limit` bytes; returns None if it is missing. Unless it is `urgent`, waits
        for memory."""
        reading = Download(self.service, path, self._in_flight, limit, urgent)
        return self._with_retries(reading.go_on, lambda: reading.reached)

    # ---- writing ----

    def begin_durable(self) -> None:
        """Does nothing: an object that was sent is durable."""

    def own_directories(self) -> dict[tuple[int, int], tuple[str, Callable[[str], bool]]]:
        """Returns none: a service has no directory that could be archived."""
        return {}

    def make_durable(self) -> None:
        self.blobs.drain()

    def put_blob(self, name: str, blob: Buffer) -> None:
        """Returns when the blob is stored. Raises StoreError."""
        self._put_once(blob_path(name), blob, absent=self.size_of(name) is None and name not in self._doubted)
        self._note(name, len(blob))
        if len(blob) <= SMALL:
            with self._lock:
                self._small_blobs += 1
                self._small_size += len(blob)

    def advice(self) -> str:
        if self._small_blobs <= MANY_SMALL:
            return ""
        packs = 1 + self._small_size // DEFAULT_SIZE
        return (
            f"{self.label}: {self._small_blobs:,} small blobs took a request each; in packs (--packs) they would have "
            f"taken about {packs + 1}"
        )

    def put_object(self, path: str, data: Buffer, *, replace: bool = False) -> None:
        self._put_once(path, data, absent=not replace)

    def _put_once(self, path: str, data: Buffer, *, absent: bool) -> None:
        """Stores an object. If it should be `absent`, one of that size is kept where the service has conditions."""
        try:
            self._put(path, data, absent=absent)
        except Exists:
            if self.service.size(path) != len(data):  # another object has the name
                self._put(path, data, absent=False)

    def put_manifest(self, name: str, data: bytes) -> None:
        check_size(name, data)
        self.blobs.drain()
        try:
            self._put(name, data, absent=True)
        except Exists:
            if self.service.size(name) != len(data):  # else it is this one: only the response was lost
                raise

    def put_mark(self, name: str, data: bytes) -> None:
        check_size(name, data)
        self._put(name, data, absent=False)

    def _put(self, path: str, data: Buffer, *, absent: bool) -> None:
        size = len(data)

        def attempt() -> None:
            try:
                self.service.put(path, data, absent=absent)
            except TransientError as error:
                # Without a response the size shows whether it is stored, unless an object of that size was there
                # before.
                if error.answered or not absent or self.service.size(path) != size:
                    raise

        self._with_retries(attempt)

    def copy_blob(self, name: str, source: object) -> bool:
        """Copies a blob from another store on the same service without a download. Returns False if the service cannot.
        Raises StoreError."""
        size = source.size_of(name) if isinstance(source, RemoteStore) else None
        copied = size is not None and self.copy_object(blob_path(name), size, source)
        if copied and size is not None:
            self._note(name, size)
        return copied

    def copy_object(self, path: str, size: int, source: object) -> bool:
        if not isinstance(source, RemoteStore) or type(source.service) is not type(self.service) or size > MAX_COPIED:
            return False
        return self._with_retries(lambda: self.service.copy(path, source.service))

    def _note(self, name: str, size: int) -> None:
        """Records that a blob is stored."""
        with self._lock:
            if self._known is not None:
                self._known[name] = size

    def delete_blobs(self, names: Iterable[str]) -> None:
        waiting = iter(names)
        while gone := list(itertools.islice(waiting, DELETE_BATCH)):
            self._with_retries(partial(self.service.delete, list(map(_stored_at, gone))))
            with self._lock:
                if self._known is not None:
                    for name in gone:
                        self._known.pop(name, None)

    def delete_old_blobs(self, blobs: Iterable[Stored], before: float, go_on: Callable[[], bool]) -> Iterator[Stored]:
        waiting = iter(blobs)
        while go_on() and (some := list(itertools.islice(waiting, DELETE_BATCH))):
            found = [ObjectInfo(_stored_at(blob.name), *blob[1:]) for blob in some]
            gone = set(self._with_retries(partial(self.service.delete_old, found, before, go_on)))
            yield from (blob for blob in some if _stored_at(blob.name) in gone)

    def begin_sweep(self) -> None:
        """Does nothing: blobs are not moved aside here."""

    def drop_empty_folders(self) -> None:
        """Does nothing: a service has no folders."""

    def delete_as_listed(self, marks: Iterable[Stored], go_on: Callable[[], bool]) -> None:
        waiting = iter(marks)
        while go_on() and (some := list(itertools.islice(waiting, DELETE_BATCH))):
            found = [ObjectInfo(*mark) for mark in some]
            newest = max(mark.modified for mark in some)
            self._with_retries(partial(self.service.delete_old, found, math.nextafter(newest, math.inf), go_on))

    def forget_removed(self, removed: Stored) -> None:
        """Does nothing: if it was removed again, it has the same bytes and so the same version; prune deletes it."""

    def remove_manifest(self, name: str) -> None:
        if not self.remove_manifests([name]):
            raise NoSuchArchive(f"no such archive: {name} in {self.label}")

    def remove_manifests(self, names: Collection[str]) -> set[str]:
        def rename(name: str) -> bytes | None:
            with contextlib.suppress(NoSuchArchive):
                data = self.get_manifest(name)
                self.put_mark(name + REMOVED, data)
                return data
            return None

        with RequestPool(self.concurrency, "pogfast-remove") as threads:
            results = {name: threads.submit(rename, name) for name in names}
        renamed = {name: data for name, result in results.items() if (data := result.result()) is not None}
        if renamed:
            self.delete_manifests(renamed)
            there = {mark.name for mark in self.named("")}
            for name, data in renamed.items():
                if name + REMOVED not in there:  # a slow run: a prune has deleted it as the remains of an undelete
                    self.put_mark(name + REMOVED, data)
        return set(renamed)

    def delete_manifests(self, names: Iterable[str]) -> None:
        waiting = iter(names)
        while gone := list(itertools.islice(waiting, DELETE_BATCH)):
            self._with_retries(partial(self.service.delete, gone))

    def prune_marks(self) -> list[Stored]:
        """Returns one listing, sorted by name, so that lists come first."""
        found = self._lister.listed("", deep=False, start=CONDEMNED)
        return [Stored(*each) for each in found if each.path.startswith((CONDEMNED, SWEEP))]

    def named(self, prefix: str) -> list[Stored]:
        return [Stored(*found) for found in self._lister.listed(prefix, deep=False)]

    def examine(self) -> Iterator[Finding]:
        return self.service.examine()

    # ---- locks and cold storage ----

    def locked(self, names: Iterable[str]) -> dict[str, float]:
        """Returns the locked ones among these blobs and manifests, and until when. Raises StoreError."""
        if self._has_locks is None:
            self._has_locks = self._with_retries(self.service.has_locks)
        if not self._has_locks:
            return {}
        return {
            name: until for name, until in self._in_parallel(names, self.service.locked_until) if until > time.time()
        }

    def lock(self, names: Iterable[str], lock: Lock) -> Iterator[tuple[str, bool | None]]:
        """Locks blobs and manifests; see Store. Raises StoreError and UsageError."""

        self._with_retries(self.service.can_lock)

        def act(path: str) -> bool | None:
            try:
                return self.service.lock(path, lock)
            except MissingBlob:
                return None

        return self._in_parallel(names, act)

    def thaw(self, names: Iterable[str], tier: str, days: int) -> Iterator[tuple[str, ThawState]]:
        """Requests blobs from cold storage and yields the state of each. Raises StoreError and UsageError."""
        return self._in_parallel(names, lambda path: self.service.thaw(path, tier, days))

    def _in_parallel(self, names: Iterable[str], act: Callable[[str], Result]) -> Iterator[tuple[str, Result]]:
        """Calls `act` for each name, several at a time, and yields the results in order."""
        threads = RequestPool(self.concurrency, "pogfast-ask")
        try:
            results = [(name, threads.submit(self._with_retries, partial(act, _path(name)))) for name in names]
            for name, result in results:
                yield name, result.result()
        finally:
            threads.shutdown(cancel=True)

    def abandon(self) -> None:
        """Ends retries and queued transfers when a run ends early: callers wait only for requests that were sent, and
        not for those that a limit makes slow."""
        self._abandoned.set()
        self._interrupt()
        self._in_flight.lift()
        self.blobs.give_up()

    def close(self) -> None:
        self.abandon()
        self.blobs.stop()
        self._prefetcher.stop()
        self.service.close()

    def _with_retries(self, act: Callable[[], Result], reached: Callable[[], int] = lambda: 0) -> Result:
        """Retries transient errors until they have lasted for `retry_for` seconds; progress in `reached` (bytes)
        restarts the clock. Raises StoreError."""
        began, attempts, far = 0.0, 0, -1
        while True:
            started = time.monotonic()
            try:
                return act()
            except TransientError as error:
                now = time.monotonic()
                if error.slow_down:
                    self.concurrency.slow_down(started)
                if reached() > far:
                    began, attempts, far = now, 0, reached()
                attempts += 1
                left = self.retry_for - (now - began)
                if left <= 0 or self._abandoned.is_set():
                    raise self._given_up(error, attempts, now - began) from error
                pause = random.uniform(0, min(0.1 * 2**attempts, MAX_PAUSE))
                pause = min(max(pause, min(error.after, MAX_RETRY_AFTER)), left)
                with REPORT_LOCK:
                    self._report_retry(f"{error}: attempt {attempts + 1} follows in {pause:.1f} s")
                if self._abandoned.wait(pause):
                    raise
                _drop_frames(error)

    def _given_up(self, error: TransientError, attempts: int, seconds: float) -> TransientError:
        if attempts == 1:
            return error
        tried = f"{attempts} attempts in {seconds:.0f} s; --retry-for says for how long"
        return type(error)(str(error), f"{error.hint}; {tried}" if error.hint else tried)

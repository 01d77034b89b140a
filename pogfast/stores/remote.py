"""A store over an object service: one listing says what is there, uploads run beside the engine, breaks are mended.

A vendor is a `Service`: a few verbs on whole objects below a bucket and a prefix. This room knows none of them, and no
key. A write is repeated until its answer is there, or a listing shows the object with its size: names say
what is in a blob, so the same blob twice does no harm. A read that breaks goes on where it broke, and bytes that are
fewer than promised never pass for an object; whether they are the right ones is for the engine to say.
"""

from __future__ import annotations

import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

from tenacity import (
    Retrying,
    retry_if_exception_type,
    sleep_using_event,
    stop_after_delay,
    stop_when_event_set,
    wait_random_exponential,
)

from pogfast.errors import MissingBlob, NoSuchArchive, StoreError, UsageError
from pogfast.stores.local import LIKE_A_BLOB, MANIFEST, Stored, is_mark

if TYPE_CHECKING:
    from pogfast._engine import Buffer
    from pogfast.stores.findings import Finding, Warmth
    from pogfast.stores.settings import Lock

Result = TypeVar("Result")

# Bytes of blobs that are on their way at a time, in either direction; one may always be.
IN_FLIGHT = 150 * 10**6
# Bytes that S3 copies in one request.
MOST_COPIED = 5 << 30
# A read's piece: what is lost when a connection breaks within it.
PIECE = 1 << 20
MANIFEST_NAME = re.compile(r"[^/]+\.mfn")


class TryAgain(StoreError):
    """A failure that may pass: a connection that broke, a service that is busy."""


class Exists(StoreError):
    """There is an object of that name already."""


class NoSuchBucket(StoreError, NoSuchArchive):
    """There is no such store; the exit code is NoSuchArchive's."""

    exit_code = NoSuchArchive.exit_code


class Found(NamedTuple):
    """An object in a listing; `path` is below the bucket and prefix, `modified` seconds since 1970."""

    path: str
    size: int
    modified: float


class Body(Protocol):
    """An object that is being read."""

    size: int  # bytes of the whole object

    def readinto(self, view: memoryview) -> int:
        """The next bytes; 0 at the end. Raises TryAgain."""

    def close(self) -> None: ...


class Service(Protocol):
    """What a vendor does. Paths are below bucket and prefix. Everything raises StoreError, and TryAgain for what may
    pass. Called from several threads at once."""

    label: str  # for messages
    identity: str  # the same for the same objects, whatever they were called by whom
    requests: Counter[str]  # so far, by kind

    def put(self, path: str, data: Buffer, *, absent: bool) -> None:
        """Stores an object, whole or not at all, in place of what is there; with `absent` it raises Exists instead,
        where the service can do that. Many cannot, or only pretend to."""

    def open(self, path: str, start: int) -> Body | None:
        """Begins to read an object from byte `start` on; None when there is none."""

    def size(self, path: str) -> int | None:
        """Bytes of an object; None when there is none."""

    def list(self, prefix: str, *, deep: bool) -> Iterator[Found]:
        """What begins with `prefix`, in the order of the paths; unless `deep`, only what has no / behind it."""

    def delete(self, paths: Iterable[str]) -> None:
        """What is gone already is fine."""

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


def blob_path(name: str) -> str:
    return f"data/{name[:2]}/{name}"


def _path(name: str) -> str:
    """Of a blob or a manifest."""
    return blob_path(name) if LIKE_A_BLOB.fullmatch(name) else name


class RemoteStore:
    """A store, to write to and to read from. `path` is as it was given."""

    def __init__(self, service: Service, path: str, *, parallel: int, retry_for: float) -> None:
        """At most `parallel` requests at a time; what may pass is tried again for `retry_for` seconds."""
        self.service = service
        self.path = path
        self.label = service.label
        self.parallel = parallel
        self.retry_for = retry_for
        self.blobs = _Uploads(self)
        self.source = _Downloads(self)
        self._known: dict[str, int] | None = None
        self._lock = threading.Lock()
        self._flow = _Flow(IN_FLIGHT)
        self._ahead = _Ahead(lambda name, urgent: self._fetch(blob_path(name), urgent), self._flow, parallel)
        self._over = threading.Event()

    @property
    def identity(self) -> str:
        return self.service.identity

    @property
    def requests(self) -> dict[str, int]:
        """How many of each kind so far."""
        return dict(self.service.requests)

    # ---- what is there ----

    def look(self) -> None:
        """Whether it can be reached: one request. Raises StoreError and NoSuchArchive."""
        self._again(lambda: next(iter(self.service.list("", deep=False)), None))

    @property
    def known(self) -> dict[str, int]:
        """Bytes of every blob: listed at the first question, and from then on what this run has added."""
        with self._lock:
            if self._known is None:
                self._known = {blob.name: blob.size for blob in self.blob_names()}
            return self._known

    def size_of(self, name: str) -> int | None:
        return self.known.get(name)

    def blob_names(self) -> Iterator[Stored]:
        for found in self._listed("data/", deep=True):
            folder, _, name = found.path.removeprefix("data/").partition("/")
            if LIKE_A_BLOB.fullmatch(name) and name[:2] == folder:
                yield Stored(name, found.size, found.modified)

    def manifests(self) -> list[Stored]:
        return [Stored(*found) for found in self._listed("", deep=False) if MANIFEST_NAME.fullmatch(found.path)]

    def marks(self) -> list[Stored]:
        return [Stored(*found) for found in self._listed("", deep=False) if is_mark(found.path)]

    def missing(self, names: Iterable[str]) -> list[str]:
        there = {blob.name for blob in self.blob_names()}
        return [name for name in names if name not in there]

    def _listed(self, prefix: str, *, deep: bool) -> list[Found]:
        """A listing that breaks is asked for anew."""
        return self._again(lambda: list(self.service.list(prefix, deep=deep)))

    # ---- reading ----

    def expect(self, names: Iterable[str]) -> None:
        """These blobs will be asked for next, in this order: they are fetched ahead, as much as memory is set apart
        for. What was expected before is not any more."""
        self._ahead.expect(names)

    def get_manifest(self, name: str) -> bytes:
        data = self._fetch(name)
        if data is None:
            raise NoSuchArchive(f"no such archive: {name} in {self.label}")
        return bytes(data)

    def get_blob(self, name: str) -> Buffer:
        data = self._ahead.take(name)
        if data is None:
            raise MissingBlob(f"blob {name} is missing from {self.label}")
        return data

    def _fetch(self, path: str, urgent: Callable[[], bool] = lambda: True) -> bytearray | None:
        """A whole object; None when there is none. Unless it is `urgent` there has to be room for it."""
        return self._again(_Reading(self.service, path, self._flow, urgent).go_on)

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
        try:
            self._put(blob_path(name), blob, absent=self.size_of(name) is None)
        except Exists:
            if self.service.size(blob_path(name)) != size:  # what is there is not it
                self._put(blob_path(name), blob, absent=False)
        self._note(name, size)

    def put_manifest(self, name: str, data: bytes) -> None:
        self.blobs.drain()
        try:
            self._put(name, data, absent=name.endswith(MANIFEST))  # what is no archive is written again at will
        except Exists:
            if self.service.size(name) != len(data):  # else it is this one, and only an answer was lost
                raise

    def _put(self, path: str, data: Buffer, *, absent: bool) -> None:
        size = len(data)

        def attempt() -> None:
            try:
                self.service.put(path, data, absent=absent)
            except TryAgain:
                if self.service.size(path) != size:  # else only the answer was lost
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
        gone = list(names)
        self._again(lambda: self.service.delete(map(blob_path, gone)))
        with self._lock:
            if self._known is not None:
                for name in gone:
                    self._known.pop(name, None)

    def delete_manifests(self, names: Iterable[str]) -> None:
        gone = list(names)
        self._again(lambda: self.service.delete(gone))

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

    def _again(self, act: Callable[[], Result]) -> Result:
        """Tries until it works, for `retry_for` seconds. Raises StoreError."""
        retrying = Retrying(
            retry=retry_if_exception_type(TryAgain),
            stop=stop_after_delay(self.retry_for) | stop_when_event_set(self._over),
            sleep=sleep_using_event(self._over),
            wait=wait_random_exponential(multiplier=0.2, max=30),
            reraise=True,
        )
        return retrying(act)


class _Reading:
    """An object that is read to its end, in several goes when it must be."""

    def __init__(self, service: Service, path: str, flow: _Flow, urgent: Callable[[], bool]) -> None:
        self.service = service
        self.path = path
        self.flow = flow
        self.urgent = urgent
        self.data: _Held | None = None
        self.got = 0

    def go_on(self) -> bytearray | None:
        body = self.service.open(self.path, self.got)
        if body is None:
            return None
        try:
            if self.data is None or len(self.data) != body.size:
                if self.got:  # it is another object now: its beginning was not asked for
                    self.data, self.got = None, 0
                    raise TryAgain(f"{self.path} in {self.service.label} changes while it is read")
                self.flow.take(body.size, self.urgent)  # before there is memory for it: to make it touches all of it
                self.data = _Held(self.flow, body.size)
            view = memoryview(self.data)
            while self.got < body.size:
                n = body.readinto(view[self.got : self.got + PIECE])
                if n == 0:
                    raise TryAgain(f"{self.path} in {self.service.label} breaks off at byte {self.got}")
                self.got += n
            return self.data
        finally:
            body.close()


class _Held(bytearray):
    """Bytes that count as on their way for as long as somebody has them."""

    def __init__(self, flow: _Flow, size: int) -> None:
        self.flow, self.size = flow, size
        super().__init__(size)

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

    def holds(self, name: str, size: int) -> bool:
        return self.store.size_of(name) == size

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

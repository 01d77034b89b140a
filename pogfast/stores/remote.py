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
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

from tenacity import (
    Retrying,
    retry_if_exception_type,
    sleep_using_event,
    stop_after_delay,
    stop_when_event_set,
    wait_random_exponential,
)

from pogfast.errors import MissingBlob, NoSuchArchive, StoreError
from pogfast.stores.local import LIKE_A_BLOB, Stored, is_mark

if TYPE_CHECKING:
    from pogfast._engine import Buffer

Result = TypeVar("Result")

# Bytes of blobs that are on their way at a time, in either direction; one may always be.
IN_FLIGHT = 150 * 10**6
# A read's piece: what is lost when a connection breaks within it.
PIECE = 1 << 20
MANIFEST_NAME = re.compile(r"[^/]+\.mfn")


class TryAgain(StoreError):
    """A failure that may pass: a connection that broke, a service that is busy."""


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

    def put(self, path: str, data: Buffer) -> None:
        """Stores an object, whole or not at all, in place of what is there."""

    def open(self, path: str, start: int) -> Body | None:
        """Begins to read an object from byte `start` on; None when there is none."""

    def size(self, path: str) -> int | None:
        """Bytes of an object; None when there is none."""

    def list(self, prefix: str, *, deep: bool) -> Iterator[Found]:
        """What begins with `prefix`, in the order of the paths; unless `deep`, only what has no / behind it."""

    def delete(self, paths: Iterable[str]) -> None:
        """What is gone already is fine."""

    def close(self) -> None: ...


def blob_path(name: str) -> str:
    return f"data/{name[:2]}/{name}"


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

    def get_manifest(self, name: str) -> bytes:
        data = self._fetch(name)
        if data is None:
            raise NoSuchArchive(f"no such archive: {name} in {self.label}")
        return bytes(data)

    def get_blob(self, name: str) -> Buffer:
        data = self._fetch(blob_path(name))
        if data is None:
            raise MissingBlob(f"blob {name} is missing from {self.label}")
        return data

    def _fetch(self, path: str) -> bytearray | None:
        """A whole object; None when there is none."""
        return self._again(_Reading(self.service, path, self._flow).go_on)

    # ---- writing ----

    def make_durable(self) -> None:
        self.blobs.drain()

    def put_manifest(self, name: str, data: bytes) -> None:
        self.blobs.drain()
        self.put(name, data)

    def put(self, path: str, data: Buffer) -> None:
        """Returns when the object is there. Raises StoreError."""
        size = len(data)

        def attempt() -> None:
            try:
                self.service.put(path, data)
            except TryAgain:
                if self.service.size(path) != size:  # else only the answer was lost
                    raise

        self._again(attempt)

    def note(self, name: str, size: int) -> None:
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

    def abandon(self) -> None:
        """A run has ended early: nobody waits for the service any longer than for an answer that is on its way."""
        self._over.set()
        self._flow.open()
        self.blobs.give_up()

    def close(self) -> None:
        self.abandon()
        self.blobs.stop()
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

    def __init__(self, service: Service, path: str, flow: _Flow) -> None:
        self.service = service
        self.path = path
        self.flow = flow
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
                self.data = _Held(body.size)
                self.data.hold(self.flow)
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

    flow: _Flow | None = None

    def hold(self, flow: _Flow) -> None:
        flow.take(len(self))
        self.flow = flow

    def __del__(self) -> None:
        if self.flow is not None:
            self.flow.give_back(len(self))


class _Flow:
    """Bounds the bytes that are on their way."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.bytes = 0
        self.changed = threading.Condition()

    def take(self, size: int) -> None:
        with self.changed:
            self.changed.wait_for(lambda: self.bytes == 0 or self.bytes + size <= self.most)
            self.bytes += size

    def open(self) -> None:
        """Bounds nothing any more."""
        with self.changed:
            self.most = sys.maxsize
            self.changed.notify_all()

    def give_back(self, size: int) -> None:
        with self.changed:
            self.bytes -= size
            self.changed.notify_all()


class _Downloads:
    """The engine's source."""

    def __init__(self, store: RemoteStore) -> None:
        self.store = store

    def __call__(self, name: str) -> Buffer:
        return self.store.get_blob(name)

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
                self.store.put(blob_path(name), blob)
                self.store.note(name, size)
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

"""Transfers of blobs from and to a service: prefetched, resumed where a connection broke, and bounded in memory.

Memory is bounded by the bytes in flight, whatever a service says about an object's size.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from pogfast.errors import CorruptBlob
from pogfast.stores.concurrency import Concurrency, RequestPool
from pogfast.stores.protocols import BlobSink, CanAbandon, CanPrefetch
from pogfast.stores.service import PIECE, Body, InvalidResponse, Service, TransientError

if TYPE_CHECKING:
    from pogfast._engine import Buffer


Key = TypeVar("Key")

# Bytes in flight at most, in either direction; a single larger blob may always be.
MAX_IN_FLIGHT = 150 * 10**6
# Responses without a new byte after which an object counts as damaged: no network fails in just this way.
MAX_STALLS = 5
ZEROS = memoryview(bytes(PIECE))


class Download:
    """The download of an object, which resumes after interruptions."""

    def __init__(
        self,
        service: Service,
        path: str,
        in_flight: InFlightLimit,
        limit: int,
        urgent: Callable[[], bool],
    ) -> None:
        """Reads at most `limit` bytes."""
        self.service = service
        self.path = path
        self.in_flight = in_flight
        self.limit = limit
        self.urgent = urgent
        self.start = 0
        self.end: int | None = None  # of a range
        self.whole: int | None = None  # bytes of the whole object
        self.data: InFlightBuffer | None = None
        self.size: int | None = None
        self.got = 0
        self.reached = 0  # the maximum of `got`
        self.stalls = 0

    def go_on(self) -> bytearray | None:
        """Continues the download. Returns all bytes, or None if the object is missing. Raises TransientError,
        CorruptBlob and StoreError."""
        try:
            body = self.service.open(self.path, self.start + self.got, self.end)
        except InvalidResponse as error:
            self._stall(str(error))
            self._restart()
            raise
        if body is None:
            return None
        before = self.reached
        try:
            return self._read(body)
        except TransientError as error:
            if self.reached == before:
                self._stall(str(error))
            raise
        finally:
            body.close()

    def _read(self, body: Body) -> bytearray:
        if self.data is None or self.whole != body.size:
            self._begin(body.size)
        assert self.data is not None
        while self.size is None or self.got < self.size:
            self._check()
            self._make_room(self.data)
            with memoryview(self.data) as view:
                n = body.readinto(view[self.got : self.got + PIECE])
            if n == 0 and self.size is None:
                break
            if n == 0:
                where = f"{self.path} in {self.service.label}"
                raise TransientError(f"{where} ends early, at byte {self.start + self.got}")
            self.got += n
            self.reached = max(self.reached, self.got)
        del self.data[self.got :]
        return self.data

    def _begin(self, size: int | None) -> None:
        if size is not None and size > self.limit:
            what = f"has {size:,} bytes, more than the {self.limit:,} that are read"
            raise CorruptBlob(f"{self.path} in {self.service.label} {what}")
        self._check_unchanged()
        self.in_flight.acquire(size or 0, self.urgent)  # before memory is allocated
        self.data, self.size, self.whole = InFlightBuffer(self.in_flight, size or 0), size, size

    def _check(self) -> None:
        """Is called before each read."""

    def _check_unchanged(self) -> None:
        """Raises TransientError if this is another object than the one of which the beginning was read."""
        if self.got:
            self._restart()
            raise TransientError(f"{self.path} in {self.service.label} changes while it is read")

    def _restart(self) -> None:
        """Drops what was read."""
        self.data, self.size, self.got = None, None, 0

    def _make_room(self, data: bytearray) -> None:
        """Allocates memory for the next piece, and for no more: a size that a service announces is not trusted. The
        piece is then in the processor's cache when it is read into."""
        if len(data) - self.got >= PIECE or len(data) == self.size:
            return
        room = self.got + PIECE
        data += ZEROS[: min(room, self.size or room) - len(data)]
        if self.got > self.limit:
            raise CorruptBlob(f"{self.path} in {self.service.label} has no end")

    def _stall(self, why: str) -> None:
        """Counts an attempt without a new byte. Raises CorruptBlob after MAX_STALLS of them."""
        self.stalls += 1
        if self.stalls >= MAX_STALLS:
            raise CorruptBlob(f"{why}, {MAX_STALLS} times")


class RangeDownload(Download):
    """The download of a range of an object. Its memory is waited for before anything is requested."""

    def __init__(
        self,
        service: Service,
        path: str,
        in_flight: InFlightLimit,
        within: tuple[int, int],
        urgent: Callable[[], bool],
        exceed: Callable[[], bool],
        check: Callable[[], None],
    ) -> None:
        """Reads the bytes from `within[0]` up to `within[1]`, exclusive. `check` raises if nobody wants them any
        more; `urgent` and `exceed` are for the memory."""
        self.check = check
        size = within[1] - within[0]
        super().__init__(service, path, in_flight, size, urgent)
        self.start, self.end = within
        in_flight.acquire(size, urgent, exceed)
        self.data, self.size = InFlightBuffer(in_flight, size), size
        self.whole = None

    def go_on(self) -> bytearray | None:
        self.check()
        return super().go_on()

    def _begin(self, size: int | None) -> None:
        assert self.end is not None
        if size is not None and size < self.end:
            what = f"ends at byte {size:,}, and has to have {self.end:,}"
            raise CorruptBlob(f"{self.path} in {self.service.label} {what}")
        self._check_unchanged()
        self.whole = size

    def _check(self) -> None:
        self.check()

    def _restart(self) -> None:
        """Starts again in the same memory."""
        self.whole, self.got = None, 0


class InFlightBuffer(bytearray):
    """A buffer that counts as in flight until it is freed."""

    def __init__(self, in_flight: InFlightLimit, size: int) -> None:
        self.in_flight, self.size = in_flight, size
        super().__init__()

    def __del__(self) -> None:
        self.in_flight.release(self.size)


class InFlightLimit:
    """Limits the bytes in flight. Those who wait get memory in the order in which they came."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.bytes = 0
        self.changed = threading.Condition()
        self.waiting: list[object] = []

    def acquire(
        self,
        size: int,
        urgent: Callable[[], bool] = lambda: False,
        exceed: Callable[[], bool] = lambda: True,
    ) -> None:
        """Waits until `size` more bytes are within the limit. Once `urgent` returns True, it takes them before others
        who wait, and beyond the limit if `exceed` returns True. Raises what the two raise."""
        ticket = object()

        def is_ready() -> bool:
            is_urgent = urgent()
            if self._has_room(size) and (is_urgent or self.waiting[0] is ticket):
                return True
            return is_urgent and exceed()

        with self.changed:
            self.waiting.append(ticket)
            try:
                self.changed.wait_for(is_ready)
                self.bytes += size
            finally:
                self.waiting.remove(ticket)
                self.changed.notify_all()

    def _has_room(self, size: int) -> bool:
        return self.bytes == 0 or self.bytes + size <= self.limit

    def recheck(self) -> None:
        """Has those who wait check again whether they are urgent."""
        with self.changed:
            self.changed.notify_all()

    def lift(self) -> None:
        """Removes the limit."""
        with self.changed:
            self.limit = sys.maxsize
            self.changed.notify_all()

    def release(self, size: int) -> None:
        with self.changed:
            self.bytes -= size
            self.changed.notify_all()


class Prefetcher(Generic[Key]):
    """Prefetches blobs, or pieces of packs. One that is asked for does not wait for memory: those that are needed later
    may have it. With `size_of`, no more of them wait to be asked for than have `ahead` bytes together, and one more."""

    def __init__(
        self,
        fetch: Callable[[Key, Callable[[], bool]], bytearray | None],
        in_flight: InFlightLimit,
        concurrency: Concurrency,
        *,
        size_of: Callable[[Key], int] = lambda key: 0,
        ahead: int = MAX_IN_FLIGHT,
    ):
        self.fetch = fetch
        self.in_flight = in_flight
        self.concurrency = concurrency
        self.size_of = size_of
        self.ahead = ahead
        self.lock = threading.Lock()
        self.waiting: Iterator[Key] = iter(())
        self.futures: dict[Key, Future[bytearray | None]] = {}
        self.requested: set[Key] = set()
        self.threads: RequestPool | None = None

    def prefetch(self, names: Iterable[Key]) -> None:
        """Replaces the blobs to prefetch by these, in this order."""
        with self.lock:
            for future in self.futures.values():
                future.cancel()
            self.futures.clear()
            self.requested.clear()
            self.waiting = iter(dict.fromkeys(names))
            self.threads = self.threads or RequestPool(self.concurrency, "pogfast-download")
            self._fill(self.threads)

    def take(self, name: Key) -> bytearray | None:
        """Returns a blob, prefetched or not; None if it is missing."""
        with self.lock:
            self.requested.add(name)
            future = self.futures.pop(name, None)
            if self.threads:
                self._fill(self.threads)
        self.in_flight.recheck()
        if future is None or future.cancel():  # no thread has started on it
            return self.fetch(name, lambda: True)
        return future.result()

    def _fill(self, threads: RequestPool) -> None:
        while len(self.futures) < 2 * self.concurrency.number and sum(map(self.size_of, self.futures)) < self.ahead:
            name = next((name for name in self.waiting if name not in self.requested), None)
            if name is None:
                return
            self.futures[name] = threads.submit(self.fetch, name, partial(self.requested.__contains__, name))

    def stop(self) -> None:
        if self.threads is not None:
            self.threads.shutdown(cancel=True)
            self.threads = None


class Blobs(Protocol):
    """The store of `PrefetchingSource` and `UploadQueue`: one blob per call; `concurrency` says how many at a time."""

    concurrency: Concurrency

    def get_blob(self, name: str) -> Buffer: ...

    def put_blob(self, name: str, blob: memoryview) -> None: ...

    def size_of(self, name: str) -> int | None: ...

    def prefetch(self, names: Iterable[str]) -> None: ...

    def abandon(self) -> None: ...


class PrefetchingSource(CanPrefetch, CanAbandon):
    """The source that the engine reads from."""

    def __init__(self, store: Blobs) -> None:
        self.store = store

    def __call__(self, name: str) -> Buffer:
        return self.store.get_blob(name)

    def prefetch(self, names: Iterable[str]) -> None:
        self.store.prefetch(names)

    def abandon(self) -> None:
        self.store.abandon()


class UploadQueue(BlobSink):
    """The sink that the engine writes to: a call queues a blob for an upload thread and returns, unless too many bytes
    are in flight."""

    def __init__(self, store: Blobs) -> None:
        self.store = store
        self.in_flight = InFlightLimit(MAX_IN_FLIGHT)
        self.slots = threading.Semaphore(4 * store.concurrency.most)  # more than threads, so that none is ever idle
        self.threads: RequestPool | None = None
        self.failure: BaseException | None = None
        self.stopping = False

    def holds(self, name: str) -> int | None:
        return self.store.size_of(name)

    def __call__(self, name: str, blob: memoryview) -> None:
        self._check()
        self.slots.acquire()
        self.in_flight.acquire(len(blob))
        if self.threads is None:
            self.threads = RequestPool(self.store.concurrency, "pogfast-upload")
        self.threads.submit(self._put, name, blob)

    def _put(self, name: str, blob: memoryview) -> None:
        size = len(blob)
        try:
            if self.failure is None and not self.stopping:
                self.store.put_blob(name, blob)
        except Exception as error:  # noqa: BLE001 (raised in the next call, or by drain)
            self.failure = self.failure or error
        finally:
            try:
                blob.release()
            finally:  # whatever holds a view of it: a caller may wait for these
                self.in_flight.release(size)
                self.slots.release()

    def _check(self) -> None:
        if self.failure is not None:
            raise self.failure

    def drain(self) -> None:
        """Waits until all queued blobs are stored. Raises StoreError."""
        if self.threads is not None:
            self.threads.shutdown()
            self.threads = None
        self._check()

    def abandon(self) -> None:
        self.store.abandon()

    def give_up(self) -> None:
        """Drops the queue, and lets callers that wait for a slot continue."""
        self.stopping = True
        self.in_flight.lift()
        self.slots.release(4 * self.store.concurrency.most)

    def stop(self) -> None:
        """Waits for uploads that have started, and drops the others."""
        if self.threads is not None:
            self.threads.shutdown(cancel=True)
            self.threads = None

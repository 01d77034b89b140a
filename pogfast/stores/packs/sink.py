"""Writing packs: the engine fills them, threads store them, and an index object says what is in them.

Order: packs are durable before the index object that names them, and that before the manifest.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pogfast._engine import BlobDirectory, Pack, Packer, PackIndex
from pogfast.stores.names import Stored
from pogfast.stores.packs import layout
from pogfast.stores.packs.catalog import Catalog
from pogfast.stores.protocols import put_blob

if TYPE_CHECKING:
    from pogfast.stores.protocols import HoldsPacks, Target

# Packs that are stored at a time, beside the one that is filled: each is in memory until then. A disk is no faster with
# two.
IN_FLIGHT = 2
IN_FLIGHT_TO_DISK = 1
# Fewer blobs, or fewer bytes, are no pack: they are stored plain.
MIN_BLOBS = 16
MIN_SIZE = 256 << 10
# Seconds after which an open pack is stored although it is not full: without a new blob, and with.
IDLE, MAX_AGE = 60.0, 600.0


class PackSink:
    """Stores the packs of one run. `plain` says which small blobs lie plain in a store on a service; `added`, which
    tells the catalog, is called with each pack and its table."""

    def __init__(
        self,
        base: Target,
        objects: HoldsPacks,
        catalog: Catalog,
        plain: PackIndex | None,
        added: Callable[[Stored, bytes], None],
        *,
        size: int,
        limit: int,
    ) -> None:
        self.base = base
        self.objects = objects
        self.catalog = catalog
        self.added = added
        self.packer = Packer(base.blobs, catalog.index, self._take, size=size, limit=limit, plain=plain)
        self._lock = threading.Lock()
        self._in_flight = IN_FLIGHT_TO_DISK if isinstance(base.blobs, BlobDirectory) else IN_FLIGHT
        self._slots = threading.Semaphore(self._in_flight)
        self._threads: ThreadPoolExecutor | None = None
        self._waiting: list[Future[None]] = []
        self._failure: BaseException | None = None  # the first: blobs that the run relies on may not be stored
        self._stopped = False

    # ---- from the engine's threads ----

    def _take(self, pack: Pack) -> None:
        """Has a pack stored by another thread; waits while too many are. A tiny one becomes plain blobs."""
        self._check()
        with self._noting_failures():
            if pack.blobs < MIN_BLOBS or len(memoryview(pack)) < MIN_SIZE:
                self._put_plain(pack)
            else:
                self._put_later(pack)

    @contextlib.contextmanager
    def _noting_failures(self) -> Iterator[None]:
        """Keeps an error, which all later calls raise: the blobs of the pack are stored nowhere."""
        try:
            yield
        except BaseException as error:
            self._failure = self._failure or error
            raise

    def _put_later(self, pack: Pack) -> None:
        self._slots.acquire()
        try:
            with self._lock:
                if self._threads is None:
                    self._threads = ThreadPoolExecutor(self._in_flight, "pogfast-packs")
                self._waiting = [each for each in self._waiting if not each.done()]
                self._waiting.append(self._threads.submit(self._put, pack))
        except BaseException:
            self._slots.release()
            raise

    def _put_plain(self, pack: Pack) -> None:
        data = memoryview(pack)
        for row in layout.read_table(data, len(data), "a new pack"):
            blob = data[row.offset : row.offset + row.size]
            put_blob(self.base, row.name, blob)

    def _put(self, pack: Pack) -> None:
        try:
            if self._stopped or self._failure is not None:
                return
            with self._noting_failures():
                data = memoryview(pack)
                path = layout.pack_path(hashlib.sha256(data).digest(), datetime.now(UTC).date())
                # What a prune has condemned under this name counts as stored anew, as a blob does.
                self.objects.put_object(path, data, replace=True)
                self.added(Stored(path, len(data), 0.0), bytes(pack.table))
                if self.catalog.has_enough():
                    self.catalog.write_index()
        finally:
            del pack
            self._slots.release()

    def _check(self) -> None:
        """Raises what went wrong with a pack."""
        if self._failure is not None:
            raise self._failure

    # ---- from the run ----

    def close_idle(self) -> None:
        """Has an open pack stored to which nothing was added for a while, or that is old. What goes wrong is raised by
        `finish`."""
        idle, age = self.packer.idle(), self.packer.age()
        if (idle is not None and idle > IDLE) or (age is not None and age > MAX_AGE):
            with contextlib.suppress(Exception), self._noting_failures():
                self.packer.flush()

    def finish(self) -> None:
        """Returns when all packs are durable. Raises StoreError."""
        with self._noting_failures():
            self.packer.flush()
        with self._lock:
            waiting = list(self._waiting)
        wait(waiting)
        self._check()

    def doubt(self, names: Iterable[str]) -> None:
        self.packer.doubt(names)

    def stop(self) -> None:
        """Drops the packs that no thread has begun to store, and waits for the others."""
        self._stopped = True
        if self._threads is not None:
            self._threads.shutdown(wait=True, cancel_futures=True)

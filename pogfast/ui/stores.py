"""The stores that the pages show, and what is kept in memory of them: lists of archives, and opened archives.

Lists count as long as the store lists the same manifests, which is asked again after a few seconds. Opened archives are
few; one that is dropped while a page or a download uses it is closed when that has ended.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TypeVar

from pogfast.archives.catalog import Catalog
from pogfast.archives.lookup import open_archive
from pogfast.archives.manifests import locked_until
from pogfast.archives.overview import ArchiveInfo, archives
from pogfast.archives.tree import Tree
from pogfast.errors import NoSuchArchive, PogfastError
from pogfast.keys import Key
from pogfast.stores import REMOVED, Stored, open_store, settings
from pogfast.stores.addresses import below, is_service, parse_service
from pogfast.ui.jobs import Place
from pogfast.upkeep.reads import Reads, ReadShare

Result = TypeVar("Result")

PROVEN_FRESH = 60.0  # seconds, likewise, for what was read back
FRESH = 5.0  # seconds for which a listing is not asked for again
RETRY_FOR = 10.0  # seconds that a page waits for a service that fails
MAX_TREES = 6  # opened archives
MAX_ENTRIES = 1_500_000  # in all of them, unless one alone has more


@dataclass
class Listing:
    """The manifests of a store, and what else lies beside them."""

    manifests: list[Stored] = field(default_factory=list)
    removed: list[Stored] = field(default_factory=list)


class KnownStore:
    """A store by the name that pages have for it."""

    def __init__(self, name: str, address: str) -> None:
        self.name = name
        self.address = address
        self._lock = threading.Lock()
        self._reading = threading.Lock()  # so that manifests are read once, however many pages wait for them
        self._listing: tuple[float, Listing] | None = None
        self._new: dict[str, int] = {}  # what an archive has never changes
        self._proven: tuple[float, list[ReadShare]] | None = None
        self._coming: dict[tuple[str, bool], Future[list[ArchiveInfo]]] = {}  # what archives_within waits for
        self._infos: dict[tuple[str, bool], tuple[list[Stored], list[ArchiveInfo]]] = {}

    @property
    def label(self) -> str:
        """The address without its settings."""
        return parse_service(self.address).label if is_service(self.address) else self.address

    def archive(self, name: str) -> str:
        """Returns the address of an archive."""
        return below(self.address, name) if is_service(self.address) else os.path.join(self.address, name)

    def at_work(self, done: str = "") -> Place:
        """Returns this store for a job in which it is `done`: read, written."""
        return Place(self.name, self.address, self.label, done)

    def listing(self) -> Listing:
        """Lists the manifests. Raises NoSuchArchive, StoreError and UsageError."""
        with self._lock:
            if self._listing is not None and time.monotonic() - self._listing[0] < FRESH:
                return self._listing[1]
            with settings.using(retry_for=RETRY_FOR), contextlib.closing(open_store(self.address)) as store:
                removed = [mark for mark in store.marks() if mark.name.endswith(REMOVED)]
                found = Listing(store.manifests(), removed)
            self._listing = time.monotonic(), found
            return found

    def archives(self, key: Key) -> list[ArchiveInfo]:
        """Returns the archives, the newest last. Raises as `overview.archives`."""
        seen = self.listing().manifests
        which = (key.fingerprint, key.can_open)
        with self._reading:
            known = self._infos.get(which)
            if known is not None and known[0] == seen:
                return known[1]
            with settings.using(retry_for=RETRY_FOR), contextlib.closing(open_store(self.address)) as store:
                infos = archives(store, key)
            self._infos[which] = seen, infos
            return infos

    def archives_within(self, key: Key, seconds: float) -> list[ArchiveInfo] | None:
        """Returns the archives as `archives` does, None if that takes longer: it goes on, for who asks again."""
        which = (key.fingerprint, key.can_open)
        coming = self._coming.get(which)
        if coming is None or coming.done():
            coming = self._coming[which] = in_thread(lambda: self.archives(key), f"pogfast-archives-{self.name}")
        with contextlib.suppress(TimeoutError):
            return coming.result(seconds)
        return None

    def new_bytes(self, key: Key, name: str) -> int | None:
        """Returns the bytes of the blobs that an archive needs and the one before it, of the same host and paths, does
        not. None if there is no such archive. Raises as `archives`."""
        if name not in self._new:
            infos = self.archives(key)
            info = next((info for info in infos if info.name == name), None)
            if info is None or info.problem is not None:
                return None
            alike = [each.name for each in infos if (each.host, each.paths) == (info.host, info.paths)]
            before = alike[max(0, alike.index(name) - 1) : alike.index(name)]
            manifests = [each for each in self.listing().manifests if each.name in (name, *before)]
            with settings.using(retry_for=RETRY_FOR), contextlib.closing(open_store(self.address)) as store:
                # Not closed: what it would save are these two archives alone.
                found = {}
                for each in Catalog(store, key).read(manifests, blobs=True):
                    found[each.name] = set(each.blobs or ())
                new = found.get(name, set()).difference(*(found.get(each, set()) for each in before))
                self._new[name] = sum(store.size_of(blob) or 0 for blob in new)
        return self._new[name]

    def locked_until(self, name: str) -> str:
        """Returns until when an archive is locked, "" if it is not. Raises StoreError."""
        with settings.using(retry_for=RETRY_FOR), contextlib.closing(open_store(self.address)) as store:
            return "".join(locked_until(until) for until in store.locked([name]).values())

    def proven(self, key: Key) -> list[ReadShare]:
        """Returns how much of the data was last read back, and was good, when: the newest first; shares add up to 1.
        Raises as `listing`."""
        if self._proven is None or time.monotonic() - self._proven[0] > PROVEN_FRESH:
            with settings.using(retry_for=RETRY_FOR), contextlib.closing(open_store(self.address)) as store:
                self._proven = time.monotonic(), Reads(store, key).summary()
        return self._proven[1]

    def forget(self) -> None:
        """Drops what was read with a key."""
        self._infos.clear()
        self._coming.clear()
        self._new.clear()
        self._proven = None

    def changed(self) -> None:
        """Has the next page list the store again."""
        self._listing = self._proven = None


class _Opened:
    """An opened archive, and how many use it."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.users = 0
        self.dropped = False


class Trees:
    """Opened archives, the last used ones."""

    def __init__(self) -> None:
        self._opened: OrderedDict[tuple[str, str, str], _Opened] = OrderedDict()
        self._lock = threading.Lock()
        self._opening = threading.Lock()  # so that two requests for an archive do not both decode it

    @contextlib.contextmanager
    def opened(self, store: KnownStore, name: str, key: Key) -> Iterator[Tree]:
        """Gives the tree of an archive while the block runs. Raises as `open_archive`."""
        which = (store.address, name, key.fingerprint + str(key.can_open))
        used = self._take(which)
        if used is None:
            with self._opening:
                used = self._take(which)
                if used is None:
                    with settings.using(retry_for=RETRY_FOR):
                        tree = Tree(open_archive(store.archive(name), key))
                    used = self._add(which, tree)
        try:
            yield used.tree
        finally:
            with self._lock:
                used.users -= 1
            self._close([used])

    def _take(self, which: tuple[str, str, str]) -> _Opened | None:
        with self._lock:
            used = self._opened.get(which)
            if used is not None:
                self._opened.move_to_end(which)
                used.users += 1
            return used

    def _add(self, which: tuple[str, str, str], tree: Tree) -> _Opened:
        used = _Opened(tree)
        used.users = 1
        dropped = []
        with self._lock:
            self._opened[which] = used
            while len(self._opened) > 1 and (len(self._opened) > MAX_TREES or self._entries() > MAX_ENTRIES):
                _, old = self._opened.popitem(last=False)
                old.dropped = True
                dropped.append(old)
        self._close(dropped)
        return used

    def _entries(self) -> int:
        return sum(len(used.tree.archive) for used in self._opened.values())

    def _close(self, candidates: Sequence[_Opened]) -> None:
        for used in candidates:
            with self._lock:
                close = used.dropped and used.users == 0
            if close:
                used.tree.archive.close()

    def forget(self) -> None:
        """Drops all opened archives."""
        with self._lock:
            dropped = list(self._opened.values())
            self._opened.clear()
            for used in dropped:
                used.dropped = True
        self._close(dropped)


class Shelf:
    """All stores of the pages, by name."""

    def __init__(self) -> None:
        self._stores: dict[str, KnownStore] = {}

    def add(self, address: str, name: str = "") -> KnownStore:
        """Adds a store under a name, else under one that is made from its address, and returns it; one that is there
        already is not added twice."""
        address = shelved(address)
        for store in self._stores.values():
            if store.address == address:
                return store
        store = KnownStore(name if name and name not in self._stores else self._name_for(address), address)
        self._stores[store.name] = store
        return store

    def _name_for(self, address: str) -> str:
        """Returns the last part of an address as a name that links can have."""
        place = parse_service(address).label.partition("://")[2] if is_service(address) else address
        base = re.sub(r"[^A-Za-z0-9._-]+", "-", place.rstrip("/").rpartition("/")[2]).strip(".-") or "store"
        name, number = base, 1
        while name in self._stores:
            number += 1
            name = f"{base}-{number}"
        return name

    def remove(self, name: str) -> None:
        self._stores.pop(name, None)

    def __iter__(self) -> Iterator[KnownStore]:
        return iter(list(self._stores.values()))

    def __len__(self) -> int:
        return len(self._stores)

    @property
    def names(self) -> list[str]:
        return list(self._stores)

    def find(self, name: str) -> KnownStore:
        """Raises NoSuchArchive."""
        if name not in self._stores:
            raise NoSuchArchive(f"no store {name} on these pages")
        return self._stores[name]


def shelved(address: str) -> str:
    """Returns an address as the shelf has it: that of a directory is absolute."""
    return address if is_service(address) else os.path.abspath(address.removeprefix("local:"))


def in_thread(call: Callable[[], Result], name: str) -> Future[Result]:
    """Calls a function in a thread of its own, for which nobody has to wait."""
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # noqa: BLE001 - raised again where the result is asked for
            future.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future


def why(error: PogfastError) -> str:
    """Returns an error and its hint as one text."""
    return f"{error}; {error.hint}" if error.hint else str(error)

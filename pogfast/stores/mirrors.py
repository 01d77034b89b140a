"""Several stores with the same archives, read as one: what is missing or damaged in the first comes from the next.

Knows no key: the caller passes functions that verify manifests and blobs. A store that can no longer be read is
reported once, and not used again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

from pogfast.errors import DamageError, MissingBlob, NoSuchArchive, StoreError, StoreLost
from pogfast.stores.fetching import prefetch
from pogfast.stores.names import Stored
from pogfast.stores.protocols import CanAbandon

if TYPE_CHECKING:
    from pogfast._engine import Buffer
    from pogfast.stores.protocols import Store

Result = TypeVar("Result")
IsGood = Callable[[str, "Buffer"], bool]


class Mirrors:
    """Stores as one, in the order of `stores`. `tell` is called for each store that is lost, and for each blob that was
    taken from another store."""

    def __init__(
        self, stores: Sequence[Store], is_manifest: IsGood, is_blob: IsGood, tell: Callable[[StoreLost | str], None]
    ) -> None:
        self.stores = list(stores)
        self.path = self.label = ",".join(store.path for store in stores)
        self.parallel = max(store.parallel for store in stores)
        self._is_manifest = is_manifest
        self._is_blob = is_blob
        self._tell = tell

    def manifests(self) -> list[Stored]:
        """Lists the manifests of all stores, sorted by name; a manifest that several stores have is listed once."""
        found: dict[str, Stored] = {}
        for store in list(self.stores):
            for stored in self._ask(store, store.manifests) or ():
                found.setdefault(stored.name, stored)
        return sorted(found.values())

    @property
    def identity(self) -> str:
        return ",".join(store.identity for store in self.stores)

    def own_directories(self) -> dict[tuple[int, int], tuple[str, Callable[[str], bool]]]:
        """Returns the directories of all stores: see Target."""
        return {identity: place for store in self.stores for identity, place in store.own_directories().items()}

    def blob_names(self) -> Iterator[Stored]:
        """Yields the blobs of all stores; a blob that several stores have is yielded several times."""
        for store in list(self.stores):
            yield from store.blob_names()

    def marks(self) -> list[Stored]:
        """Lists the marks of all stores, in no order."""
        return [mark for store in list(self.stores) for mark in self._ask(store, store.marks) or ()]

    def get_manifest(self, name: str) -> bytes:
        """Returns the first intact copy, or the first copy if none is. Raises NoSuchArchive, CorruptManifest if in
        every store it is something that cannot be a manifest, and StoreError."""
        first: bytes | None = None
        damage: DamageError | None = None
        for store in list(self.stores):
            try:
                data = self._ask(store, lambda store=store: store.get_manifest(name))  # type: ignore[misc]
            except NoSuchArchive:
                continue
            except DamageError as error:
                damage = damage or error
                continue
            if data is not None and self._is_manifest(name, data):
                return bytes(data)
            first = data if first is None else first
        if first is None:
            raise damage or NoSuchArchive(f"no such archive: {name} in {self.label}")
        return first

    def size_of(self, name: str) -> int | None:
        """Returns the size in the first store that has the blob."""
        sizes = (self._ask(store, lambda store=store: store.size_of(name)) for store in list(self.stores))  # type: ignore[misc]
        return next((size for size in sizes if size is not None), None)

    def sizes_of(self, names: Sequence[str]) -> list[int | None]:
        return [self.size_of(name) for name in names]

    def get_blob(self, name: str) -> Buffer:
        """Returns the blob of the first store that has it, intact or not. Raises MissingBlob, CorruptBlob if no copy
        can be a blob, and StoreError."""
        return next(self._copies(name))[1]

    def good_blob(self, name: str) -> Buffer:
        """Returns the first intact copy, or the first copy if none is. Raises as get_blob does."""
        first: Buffer | None = None
        for store, data in self._copies(name):
            if self._is_blob(name, data):
                if first is not None:
                    self._tell(f"blob {name} is damaged in {self.stores[0].label}: using the copy in {store.label}")
                return data
            first = data if first is None else first
        assert first is not None, "a copy, or MissingBlob"
        return first

    def _copies(self, name: str) -> Iterator[tuple[Store, Buffer]]:
        there = False
        damage: DamageError | None = None
        for store in list(self.stores):
            try:
                data = self._ask(store, lambda store=store: store.get_blob(name))  # type: ignore[misc]
            except MissingBlob:
                continue
            except DamageError as error:
                self._tell(f"{error}: the other stores are read")
                damage = damage or error
                continue
            if data is not None:
                there = True
                yield store, data
        if not there:
            raise damage or MissingBlob(f"blob {name} is missing from {self.label}")

    def _ask(self, store: Store, act: Callable[[], Result]) -> Result | None:
        """Returns None if the store cannot be read; it is dropped then. Raises StoreError if it was the last one."""
        try:
            return act()
        except (NoSuchArchive, MissingBlob):
            raise
        except StoreError as error:
            if self.stores == [store]:
                raise
            if store in self.stores:
                self.stores.remove(store)
                self._tell(StoreLost(f"{error}: the other stores are read", path=store.label))
            return None

    @property
    def source(self) -> Callable[[str], Buffer]:
        return _Source(self)

    def close(self) -> None:
        for store in self.stores:
            store.close()


class _Source:
    """The source that the engine reads from."""

    def __init__(self, mirrors: Mirrors) -> None:
        self.mirrors = mirrors

    def __call__(self, name: str) -> Buffer:
        return self.mirrors.get_blob(name)

    def prefetch(self, names: Iterable[str]) -> None:
        """Has the first store download ahead, if it can."""
        for store in self.mirrors.stores[:1]:
            prefetch(store.source, names)

    def abandon(self) -> None:
        for store in self.mirrors.stores:
            if isinstance(store.source, CanAbandon):
                store.source.abandon()

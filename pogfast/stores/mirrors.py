"""Several stores that hold the same archives, to read from: what one does not have, or has damaged, the next gives.

Knows no key: whether a manifest or a blob is good is for a function to say that the caller brings. A store that cannot
be read any more is named once, and not asked again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

from pogfast.errors import DamageError, MissingBlob, NoSuchArchive, StoreError, StoreLost
from pogfast.stores.fetching import expect
from pogfast.stores.names import Stored
from pogfast.stores.protocols import CanAbandon

if TYPE_CHECKING:
    from pogfast._engine import Buffer
    from pogfast.stores.protocols import Store

Result = TypeVar("Result")
IsGood = Callable[[str, "Buffer"], bool]


class Mirrors:
    """As one store, in the order of `stores`. `tell` hears of each store that is lost, and of what another gave."""

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
        """Of all of them, by name."""
        found: dict[str, Stored] = {}
        for store in list(self.stores):
            for stored in self._ask(store, store.manifests) or ():
                found.setdefault(stored.name, stored)
        return sorted(found.values())

    @property
    def identity(self) -> str:
        return ",".join(store.identity for store in self.stores)

    def own_places(self) -> dict[tuple[int, int], tuple[str, Callable[[str], bool]]]:
        """The directories of all of them: see Target."""
        return {identity: place for store in self.stores for identity, place in store.own_places().items()}

    def blob_names(self) -> Iterator[Stored]:
        """Of all of them; what lies in several comes as often."""
        for store in list(self.stores):
            yield from store.blob_names()

    def marks(self) -> list[Stored]:
        """Of all of them, in no order."""
        return [mark for store in list(self.stores) for mark in self._ask(store, store.marks) or ()]

    def get_manifest(self, name: str) -> bytes:
        """The first that is good; where there is none, the first. Raises NoSuchArchive, CorruptManifest for what cannot
        be one in any store, and StoreError."""
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
        """Of the first that has it."""
        sizes = (self._ask(store, lambda store=store: store.size_of(name)) for store in list(self.stores))  # type: ignore[misc]
        return next((size for size in sizes if size is not None), None)

    def get_blob(self, name: str) -> Buffer:
        """Of the first that has it, good or not. Raises MissingBlob, CorruptBlob where none can be a blob, and
        StoreError."""
        return next(self._copies(name))[1]

    def good_blob(self, name: str) -> Buffer:
        """The first that is good; where there is none, the first. Raises as get_blob does."""
        first: Buffer | None = None
        for store, data in self._copies(name):
            if self._is_blob(name, data):
                if first is not None:
                    self._tell(f"blob {name} is damaged in {self.stores[0].label}: it is taken from {store.label}")
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
        """None when the store cannot be read, and is not asked again. Raises StoreError when it was the last."""
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
    """The engine's."""

    def __init__(self, mirrors: Mirrors) -> None:
        self.mirrors = mirrors

    def __call__(self, name: str) -> Buffer:
        return self.mirrors.get_blob(name)

    def expect(self, names: Iterable[str]) -> None:
        """Has the first store download ahead, if it can."""
        for store in self.mirrors.stores[:1]:
            expect(store.source, names)

    def abandon(self) -> None:
        for store in self.mirrors.stores:
            if isinstance(store.source, CanAbandon):
                store.source.abandon()

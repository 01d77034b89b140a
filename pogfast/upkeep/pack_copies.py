"""What `copy` does with packs: it reads blobs in the order in which they lie there, and copies whole packs.

A pack of which most is wanted is copied under its own name, by the service itself if it can. What is downloaded is
checked on the way: the name of a pack is its sha256, and its table says how to recognize each blob without a key.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from pogfast.errors import DamageError, WrongKey
from pogfast.stores import Stored
from pogfast.stores.packs import layout
from pogfast.stores.packs.catalog import Span
from pogfast.stores.packs.reading import read_table
from pogfast.stores.packs.store import PackedStore
from pogfast.stores.protocols import CanCopy, CanPrefetch, Store

if TYPE_CHECKING:
    from pogfast._engine import Buffer
    from pogfast.stores.packs.layout import TableRow

# The part of a pack that has to be wanted for it to be copied whole.
MOST = 0.8
# Bytes of a pack that is held in memory, and how many are at a time.
MAX_WHOLE = 64 << 20
DOWNLOADS = 4
# Tables that are kept.
TABLES = 16

Check = Callable[[str, "Buffer"], None]  # raises DamageError and WrongKey for a blob that is not what its name says


class PackRows:
    """The rows of blobs in packs, as the tables of the packs say."""

    def __init__(self, store: PackedStore) -> None:
        self.store = store
        self._rows = lru_cache(TABLES)(self._read)

    def row(self, name: str, span: Span) -> TableRow | None:
        """Returns the row of a blob; None if the pack is not there, or its table does not say what the index says.
        Raises StoreError."""
        row = self._rows(span.path, span.pack_size).get(name)
        return row if row is not None and row.size == span.size else None

    def _read(self, path: str, size: int) -> Mapping[str, TableRow]:
        try:
            table: Buffer = read_table(self.store.base, Stored(path, size, 0.0))
        except DamageError:
            whole = self.store.catalog.healed(path)
            if whole is None:
                return {}
            table = layout.raw_table(whole, size, path)
        return {row.name: row for row in layout.read_rows(table)}


class Reading:
    """The blobs of a store with packs, downloaded ahead if it is on a service."""

    def __init__(self, store: PackedStore) -> None:
        self.store = store
        self.rows = PackRows(store)
        source = store.source
        self.get_blob = source if callable(source) else store.get_blob
        self.copies = store.copies
        self.forget = store.forget

    def in_order(self, names: Collection[str]) -> list[str]:
        """Returns names in the order in which to read them: as they lie in packs, then those that lie plain. What is
        in packs is downloaded ahead."""
        wanted = sorted(names)
        spans = dict(zip(wanted, self.store.catalog.locate(wanted), strict=True))
        places = {name: (span.path, span.offset) for name, span in spans.items() if span is not None}
        packed = sorted(places, key=lambda name: places[name])
        if isinstance(self.store.source, CanPrefetch):
            self.store.source.prefetch(packed)
        return [*packed, *(name for name in wanted if name not in places)]

    def is_packed(self, name: str, data: Buffer) -> bool:
        """Returns False if a blob lies in a pack, and is not what the pack's own table says. Raises StoreError."""
        rows = [self.rows.row(name, span) for span in self.store.catalog.holders(name)]
        if not any(rows):
            return self.store.catalog.locate([name]) == [None]
        return any(layout.is_good_blob(row, data) for row in rows if row is not None)


class WholePacks:
    """Copies packs from store to store. `check` is called with each wanted blob; without one the service may copy."""

    def __init__(self, source: PackedStore, target: PackedStore, check: Check | None) -> None:
        self.source = source
        self.target = target
        self.check = check
        self.unread = 0  # wanted blobs in packs that the service has copied: only the tables were read
        self._lock = threading.Lock()
        self._room = threading.Semaphore(DOWNLOADS)

    def wanted(self, names: Sequence[str]) -> dict[str, dict[str, Span]]:
        """Returns the packs that are to be copied whole, with the blobs that are wanted of each."""
        packs: dict[str, dict[str, Span]] = {}
        for name, span in zip(names, self.source.catalog.locate(names), strict=True):
            if span is not None and span.size <= self.target.limit:
                packs.setdefault(span.path, {})[name] = span
        return {path: blobs for path, blobs in packs.items() if self._is_most(blobs)}

    def _is_most(self, blobs: Mapping[str, Span]) -> bool:
        size = next(iter(blobs.values())).pack_size
        return sum(span.size + layout.TABLE_ROW for span in blobs.values()) >= MOST * (size - layout.FOOTER)

    def copy(self, path: str, blobs: Mapping[str, Span]) -> bool:
        """Copies a pack. Returns False if it is not what its name or the index says, or if one of its blobs is damaged:
        then each is to be copied for itself. Raises StoreError."""
        size = next(iter(blobs.values())).pack_size
        try:
            table = self._copied_there(path, size, blobs) or self._sent(path, size, blobs)
        except (DamageError, WrongKey):
            return False
        if table is None:
            return False
        self.target.catalog.added(Stored(path, size, 0.0), table)
        if self.target.catalog.has_enough():
            self.target.catalog.write_index()
        return True

    def _copied_there(self, path: str, size: int, blobs: Mapping[str, Span]) -> bytes | None:
        """Has the service copy a pack, and returns its table; None if it does not."""
        base = self.target.base
        if self.check is not None or not isinstance(base, CanCopy):
            return None
        table = read_table(self.source.base, Stored(path, size, 0.0))
        if not _has(table, blobs) or not base.copy_object(path, size, self.source.base):
            return None
        with self._lock:
            self.unread += len(blobs)
        return table

    def _sent(self, path: str, size: int, blobs: Mapping[str, Span]) -> bytes | None:
        """Downloads a pack, checks it, sends it, and returns its table; None if it is not what it should be."""
        if size > MAX_WHOLE:
            return None
        with self._room:
            data = memoryview(self.source.base.get_object(path, size))
            if hashlib.sha256(data).digest() != layout.raw_name(path):
                return None
            table = bytes(layout.raw_table(data, len(data), path))
            if not _has(table, blobs):
                return None
            if self.check is not None:
                for name, span in blobs.items():
                    self.check(name, data[span.offset : span.offset + span.size])
            # One of this name may be there and condemned: a prune spares what is newer than its list.
            self.target.base.put_object(path, data, replace=True)
            return table


def _has(table: bytes, blobs: Mapping[str, Span]) -> bool:
    """Returns True if a table says of some blobs what the index says."""
    rows = {(row.name, row.offset, row.size) for row in layout.read_rows(table)}
    return all((name, span.offset, span.size) in rows for name, span in blobs.items())


def plain_parts(source: Store, target: object, size: int) -> tuple[object, Store]:
    """Returns where the service copies a blob of this size to and from, if it lies plain in both: below the packs."""
    if isinstance(target, PackedStore) and size > target.limit:
        target = target.base
    return target, source.base if isinstance(source, PackedStore) else source

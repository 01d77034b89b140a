"""Which packs and plain blobs can go, if certain blobs have to stay.

A blob may be in several packs, and plain as well. A holder goes only if each needed blob in it has a *later* holder
that stays: one that was written after it, or at the same time and has the greater name. So whatever several prunes
decide at the same time, and however old what they know is when they delete, the latest holder of a needed blob never
goes. What a pack holds is believed only if its own table says so: an index is a cache, which may be wrong.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

from pogfast.errors import DamageError
from pogfast.stores.names import Stored
from pogfast.stores.packs import layout
from pogfast.stores.packs.catalog import PARALLEL, Catalog, Span
from pogfast.stores.packs.reading import read_table

if TYPE_CHECKING:
    from pogfast.stores.protocols import HoldsPacks, PackableStore

# Packs whose tables are in memory in a form that can be searched.
PARSED = 64
Rows = frozenset[tuple[str, int, int]]  # name, offset and size of the blobs in a pack


class Tables:
    """The tables of packs, each read once: a pack never changes. May be used by several threads."""

    def __init__(self, base: HoldsPacks) -> None:
        self.base = base
        self._raw: dict[str, bytes | None] = {}
        self._lock = threading.Lock()
        self.rows = lru_cache(PARSED)(self._rows)

    def read(self, packs: Iterable[Stored]) -> None:
        """Reads the tables of some packs, several at a time. Raises StoreError."""
        new = [pack for pack in packs if pack.name not in self._raw]
        with ThreadPoolExecutor(PARALLEL, "pogfast-tables") as threads:
            list(threads.map(self.raw, new))

    def raw(self, pack: Stored) -> bytes | None:
        """Returns the table of a pack; None if there is none, or it is damaged. Raises StoreError."""
        if pack.name not in self._raw:
            table = self._read(pack)
            with self._lock:
                self._raw[pack.name] = table
        return self._raw[pack.name]

    def _read(self, pack: Stored) -> bytes | None:
        try:
            return read_table(self.base, pack)
        except DamageError:
            return None

    def _rows(self, pack: Stored) -> Rows | None:
        table = self.raw(pack)
        if table is None:
            return None
        return frozenset((row.name, row.offset, row.size) for row in layout.read_rows(table))


class Decision:
    """One decision, with what is in the store as it begins. What is in `going` counts as gone."""

    def __init__(
        self,
        base: PackableStore,
        catalog: Catalog,
        is_needed: Callable[[str], bool],
        going: Collection[str],
        tables: Tables | None = None,
    ) -> None:
        self.base = base
        self.catalog = catalog
        self.is_needed = is_needed
        self.gone = set(going)
        self.tables = tables or Tables(base)

    def of(self, objects: Sequence[Stored]) -> list[Stored]:
        """Returns those of the objects that can go, in their order. Raises StoreError."""
        self.catalog.refresh()
        staying = self._staying({each.name for each in objects})
        left = [each for each in objects if each.name not in staying]
        self.tables.read(self.catalog.packs[each.name] for each in left if layout.is_pack(each.name))
        going = []
        for each in left:
            blobs = self._needed_in(each)
            if blobs is not None and all(self.is_elsewhere(blob, each.name) for blob in blobs):
                self.gone.add(each.name)
                going.append(each)
        return going

    def _staying(self, objects: Collection[str]) -> set[str]:
        """Returns the packs that stay whatever else goes, by what the index says. A pack that was listed and is not
        now may come back: a prune moves aside what it looks at."""
        staying = {name for name in objects if layout.is_pack(name) and name not in self.catalog.packs}
        for blob, span in self.catalog.blobs():
            is_open = span.path in objects and span.path not in staying
            if is_open and self.is_needed(blob) and not self.is_elsewhere(blob, span.path):
                staying.add(span.path)
        return staying

    def _needed_in(self, holder: Stored) -> list[str] | None:
        """Returns the needed blobs that an object holds, by its own table; None for a pack without one."""
        if not layout.is_pack(holder.name):
            return [holder.name] if self.is_needed(holder.name) else []
        rows = self.tables.rows(self.catalog.packs[holder.name])
        return None if rows is None else [name for name, _, _ in rows if self.is_needed(name)]

    def is_elsewhere(self, blob: str, holder: str) -> bool:
        """Returns True if a later object holds a blob, and stays."""
        rank = self._rank(holder)
        for span in self.catalog.holders(blob):
            if span.path not in self.gone and self._rank(span.path) > rank and self._has(blob, span):
                return True
        return blob not in self.gone and blob in self._plain and self._rank(blob) > rank

    def _rank(self, holder: str) -> tuple[float, str]:
        """Returns what holders are ordered by: no two prunes may see two of them in another order."""
        pack = self.catalog.packs.get(holder)
        return (self._plain.get(holder, 0.0) if pack is None else pack.modified), holder

    def _has(self, blob: str, span: Span) -> bool:
        rows = self.tables.rows(self.catalog.packs[span.path])
        return rows is not None and (blob, span.offset, span.size) in rows

    @cached_property
    def _plain(self) -> dict[str, float]:
        """When each plain blob was written."""
        return {blob.name: blob.modified for blob in self.base.blob_names()}

"""Which packs and plain blobs can go, if certain blobs have to stay.

A blob may be in several packs, and plain as well. Holders are decided one after the other, and each that goes counts as
gone for the next ones, so that the last holder of a needed blob stays. That another pack holds a blob is believed only
if its own table says so: an index is a cache, which may be wrong.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from pogfast.errors import DamageError
from pogfast.stores.names import Stored
from pogfast.stores.packs import layout
from pogfast.stores.packs.catalog import Catalog, read_table

if TYPE_CHECKING:
    from pogfast.stores.protocols import PackableStore


class Decision:
    """One decision, with what is in the store as it begins. What is in `going` counts as gone."""

    def __init__(
        self, base: PackableStore, catalog: Catalog, is_needed: Callable[[str], bool], going: Collection[str]
    ) -> None:
        self.base = base
        self.catalog = catalog
        self.is_needed = is_needed
        self.gone = set(going)
        self._tables: dict[str, set[tuple[str, int, int]]] = {}  # name, offset and size of the blobs in a pack

    def of(self, objects: Sequence[Stored]) -> list[Stored]:
        """Returns those of the objects that can go, in their order. Raises StoreError."""
        self.catalog.refresh()
        needed = self._needed_in({each.name for each in objects})
        going = []
        for each in objects:
            blobs = needed.get(each.name, [each.name] if self.is_needed(each.name) else [])
            if blobs is not None and all(self._is_elsewhere(blob, each.name) for blob in blobs):
                self.gone.add(each.name)
                going.append(each)
        return going

    def _needed_in(self, packs: Collection[str]) -> dict[str, list[str] | None]:
        """Returns the needed blobs in each of these packs; None for one that has to stay whatever else goes."""
        found: dict[str, list[str] | None] = {name: [] for name in packs if name in self.catalog.packs}
        for blob, span in self.catalog.blobs():
            blobs = found.get(span.path)
            if blobs is not None and self.is_needed(blob):
                if self._is_elsewhere(blob, span.path):
                    blobs.append(blob)
                else:
                    found[span.path] = None
        return found

    def _is_elsewhere(self, blob: str, holder: str) -> bool:
        """Returns True if another object holds a blob, and stays."""
        for span in self.catalog.holders(blob):
            stays = span.path != holder and span.path not in self.gone
            if stays and (blob, span.offset, span.size) in self._table(span.path):
                return True
        return blob != holder and blob not in self.gone and blob in self._plain

    def _table(self, path: str) -> set[tuple[str, int, int]]:
        """Returns what the table of a pack says; nothing if it cannot be read."""
        if path not in self._tables:
            rows: list[layout.TableRow] = []
            with contextlib.suppress(DamageError):
                rows = layout.read_rows(read_table(self.base, self.catalog.packs[path]))
            self._tables[path] = {(row.name, row.offset, row.size) for row in rows}
        return self._tables[path]

    @cached_property
    def _plain(self) -> set[str]:
        return {blob.name for blob in self.base.blob_names()}

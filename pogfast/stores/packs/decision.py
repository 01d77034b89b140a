"""Which packs and plain blobs can go, if certain blobs have to stay.

A blob may be in several packs, and plain as well. A holder goes only if each needed blob in it has a *later* holder
that stays: one that was written after it, or at the same time and has the greater name. So whatever several prunes
decide at the same time, and however old what they know is when they delete, the latest holder of a needed blob never
goes. What a pack holds is believed only if its own table says so: an index is a cache, which may be wrong. And before
an object goes, the packs that hold its blobs from then on are read: the later one may be the one that rotted.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType
from typing import TYPE_CHECKING

from pogfast._engine import BlobDirectory, PackIndex, build_index
from pogfast.errors import DamageError, PogfastError, StoreError
from pogfast.stores.names import Stored
from pogfast.stores.packs import layout
from pogfast.stores.packs.catalog import PARALLEL, THERE, Catalog, Span
from pogfast.stores.packs.reading import read_table, read_whole
from pogfast.stores.protocols import InColdStorage
from pogfast.stores.service import AccessDenied

if TYPE_CHECKING:
    from pogfast.stores.protocols import PackableStore


def list_holders(base: PackableStore, catalog: Catalog) -> dict[str, Stored]:
    """Lists packs and plain blobs at the same time, and returns the plain ones by name. They are durable then: what is
    read of one in a directory is on the disk. Raises StoreError."""

    def plain() -> dict[str, Stored]:
        base.make_durable()
        return {blob.name: blob for blob in base.blob_names()}

    with ThreadPoolExecutor(1, "pogfast-list") as thread:
        listed = thread.submit(plain)
        catalog.refresh()
        return listed.result()


class Tables:
    """The tables of packs, each read once: a pack never changes. May be used by several threads."""

    def __init__(self, base: PackableStore) -> None:
        self.base = base
        self._raw: dict[str, bytes | None] = {}
        self.unreadable: dict[str, StoreError] = {}  # packs whose tables may be intact
        self._indexes: dict[str, PackIndex] = {}
        self._compared: dict[tuple[Stored, bytes], bool] = {}
        self._broken: dict[str, bool] = {}
        self._intact: dict[str, frozenset[str]] = {}  # packs that were read whole, and their blobs that are intact
        self._lock = threading.Lock()

    def read(self, packs: Iterable[Stored], blobs: Mapping[str, int] = MappingProxyType({})) -> None:
        """Reads the tables of some packs, several at a time. `blobs` says how many are in a pack, as the index says,
        so that one request reads its table. Raises StoreError."""
        new = {pack.name: pack for pack in packs if pack.name not in self._raw}
        if new:
            with ThreadPoolExecutor(PARALLEL, "pogfast-tables") as threads:
                list(threads.map(lambda pack: self.raw(pack, blobs.get(pack.name, 0)), new.values()))

    def written(self, pack: Stored, table: bytes) -> None:
        """Notes a pack that this process has just stored. Before anything goes, `is_intact` reads it back."""
        with self._lock:
            self._raw[pack.name] = table

    def raw(self, pack: Stored, blobs: int = 0) -> bytes | None:
        """Returns the table of a pack; None if there is none, it is damaged, or it cannot be read. Raises
        StoreError."""
        if pack.name not in self._raw:
            table = self._read(pack, blobs)
            with self._lock:
                self._raw[pack.name] = table
        return self._raw[pack.name]

    def _read(self, pack: Stored, blobs: int) -> bytes | None:
        try:
            return read_table(self.base, pack, blobs)
        except DamageError:
            return None
        except (AccessDenied, InColdStorage) as error:
            self.unreadable[pack.name] = error
            return None

    def is_broken(self, pack: Stored) -> bool:
        """Returns True if a pack can be read, and is not what its name stands for: it no longer tells what was in it.
        Raises StoreError."""
        if pack.name not in self._broken:
            try:
                reads = (read_whole(self.base, pack.name) for _ in range(2))  # a second time: the first may have failed
                raw = layout.raw_name(pack.name)
                self._broken[pack.name] = all(hashlib.sha256(data).digest() != raw for data in reads)
            except (DamageError, AccessDenied, InColdStorage):  # gone, forbidden, cold, or on a bad sector
                self._broken[pack.name] = False
        return self._broken[pack.name]

    def has(self, pack: Stored, blob: str, span: Span) -> bool:
        """Returns True if a pack has a blob at this place, as its table says. Raises StoreError."""
        table = self.raw(pack)
        if table is None:
            return False
        if pack.name not in self._indexes:
            index = PackIndex()
            one = layout.raw_name(pack.name), layout.day_of(pack.name), pack.size
            index.replace([(build_index([one], [table]), bytes([THERE]))])
            self._indexes[pack.name] = index
        places = self._indexes[pack.name].find_all(blob)
        return any((place.offset, place.size) == (span.offset, span.size) for place in places)

    def is_intact(self, pack: Stored, blob: str) -> bool:
        """Returns True if the bytes of a blob in a pack are what was packed. The first call for a pack reads it whole:
        what has been repacked takes its place. Raises StoreError if nothing can be read."""
        if pack.name not in self._intact:
            try:
                found = layout.check_pack(read_whole(self.base, pack.name), pack.name)
            except (DamageError, AccessDenied, InColdStorage):  # gone, forbidden, cold, or on a bad sector
                found = layout.PackCheck("", [], [])
            damaged = {row.name for row in found.damaged}
            self._intact[pack.name] = frozenset(row.name for row in found.rows if row.name not in damaged)
        return blob in self._intact[pack.name]

    def is_copy(self, plain: Stored, pack: Stored) -> bool:
        """Returns True if a plain blob is the one in a pack, as the pack's table says. A service has blobs that are
        whole, but in a directory another program may have been killed, or the power cut, while it wrote one. Raises
        StoreError."""
        table = self.raw(pack)
        row = None if table is None else layout.find_row(table, plain.name)
        if row is None or row.size != plain.size:
            return False
        return not isinstance(self.base.source, BlobDirectory) or self._is_good(plain, row)

    def _is_good(self, plain: Stored, row: layout.TableRow) -> bool:
        compared = plain, row.check
        if compared not in self._compared:
            try:
                self._compared[compared] = layout.is_good_blob(row, self.base.get_blob(plain.name))
            except PogfastError:  # gone, damaged, or on a bad sector
                self._compared[compared] = False
        return self._compared[compared]


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
        self._plain_blobs: dict[str, Stored] | None = None

    def look(self) -> None:
        """Lists packs and plain blobs. Raises StoreError."""
        self._plain_blobs = list_holders(self.base, self.catalog)

    @property
    def holders(self) -> list[Stored]:
        """Packs and plain blobs. A pack of which nobody knows what is in it holds nothing, and stays."""
        packs = [pack for path, pack in self.catalog.packs.items() if path not in self.catalog.unreadable]
        return [*packs, *self.plain.values()]

    def of_all(self) -> list[Stored]:
        """Returns those of all holders that can go, the oldest first. Raises StoreError."""
        self.look()
        return self._of(sorted(self.holders, key=lambda each: each.modified))

    def of(self, objects: Sequence[Stored]) -> list[Stored]:
        """Returns those of the objects that can go, in their order. Raises StoreError."""
        self.catalog.refresh()
        return self._of(objects)

    def _of(self, objects: Sequence[Stored]) -> list[Stored]:
        staying = self._staying({each.name for each in objects})
        left = [each for each in objects if each.name not in staying]
        self.tables.read(self.catalog.packs[each.name] for each in left if layout.is_pack(each.name))
        going = []
        for each in left:
            blobs = self._needed_in(each)
            if blobs is not None and all(self._is_safe(blob, each.name) for blob in blobs):
                self.gone.add(each.name)
                going.append(each)
        return going

    def _staying(self, objects: Collection[str]) -> set[str]:
        """Returns the packs that stay whatever else goes, by what the index says. A pack that was listed and is not
        now may come back: a prune moves aside what it looks at."""
        staying = {name for name in objects if layout.is_pack(name) and name not in self.catalog.packs}

        def is_open(path: str) -> bool:
            return path in objects and path not in staying

        blobs = ((blob, span) for blob, span in self.catalog.blobs() if is_open(span.path) and self.is_needed(blob))
        for _, span in self.only_there(blobs, is_open):
            staying.add(span.path)
        return staying

    def only_there(
        self, blobs: Iterable[tuple[str, Span]], is_open: Callable[[str], bool] = lambda path: True
    ) -> Iterator[tuple[str, Span]]:
        """Yields those of some blobs in packs that no later object holds which stays, first those of which the index
        knows none. For the others tables are read, several at a time, as long as their own pack `is_open`."""
        doubtful = []
        for blob, span in blobs:
            if self._later_spans(blob, span.path) or self._later_plain(blob, span.path):
                doubtful.append((blob, span))
            else:
                yield blob, span
        doubtful = [(blob, span) for blob, span in doubtful if is_open(span.path)]
        later = {each.path for blob, span in doubtful for each in self._later_spans(blob, span.path)}
        self.tables.read(self.catalog.packs[path] for path in later)
        for blob, span in doubtful:
            if is_open(span.path) and not self.is_elsewhere(blob, span.path):
                yield blob, span

    def _needed_in(self, holder: Stored) -> list[str] | None:
        """Returns the needed blobs that an object holds, by its own table; None for a pack that has to stay, since its
        table cannot be read. What is in one that is not what its name stands for is told by index objects: nobody finds
        any other blob in it."""
        if not layout.is_pack(holder.name):
            return [holder.name] if self.is_needed(holder.name) else []
        pack = self.catalog.packs[holder.name]
        table = self.tables.raw(pack)
        if table is not None:
            return [row.name for row in layout.read_rows(table) if self.is_needed(row.name)]
        indexed = self.catalog.blobs_in({pack.name})
        return list(filter(self.is_needed, indexed)) if indexed and self.tables.is_broken(pack) else None

    def _is_safe(self, blob: str, holder: str) -> bool:
        """Returns True if a later object holds a blob, stays, and is intact: it may be the only one from now on."""
        return self.is_elsewhere(blob, holder, self.tables.is_intact)

    def is_elsewhere(
        self, blob: str, holder: str, is_good: Callable[[Stored, str], bool] = lambda pack, blob: True
    ) -> bool:
        """Returns True if a later object holds a blob, and stays; a pack only if it `is_good`."""
        for span in self._later_spans(blob, holder):
            pack = self.catalog.packs[span.path]
            if self.tables.has(pack, blob, span) and is_good(pack, blob):
                return True
        plain = self._later_plain(blob, holder)
        return plain is not None and self.tables.is_copy(plain, self.catalog.packs[holder])

    def _later_spans(self, blob: str, holder: str) -> list[Span]:
        """Returns where a blob lies in later packs that stay, as the index says."""
        spans = [span for span in self.catalog.holders(blob) if span.path != holder and span.path not in self.gone]
        rank = self._rank(holder) if spans else (0.0, "")
        return [span for span in spans if self._rank(span.path) > rank]

    def _later_plain(self, blob: str, holder: str) -> Stored | None:
        """Returns the plain blob of this name if it is later, and stays."""
        plain = self.plain.get(blob)
        return plain if plain and blob not in self.gone and self._rank(blob) > self._rank(holder) else None

    def _rank(self, holder: str) -> tuple[float, str]:
        """Returns what holders are ordered by: no two prunes may see two of them in another order."""
        stored = self.catalog.packs.get(holder) or self.plain.get(holder)
        return stored.modified if stored else 0.0, holder

    @property
    def plain(self) -> dict[str, Stored]:
        """The plain blobs. They are durable then: what is read of one in a directory is on the disk."""
        # Not a cached_property: before Python 3.12 these share one lock, which a second store would wait for.
        if self._plain_blobs is None:
            self.base.make_durable()
            self._plain_blobs = {blob.name: blob for blob in self.base.blob_names()}
        return self._plain_blobs

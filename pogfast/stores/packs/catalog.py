"""Which packs a store has, and which blobs are in them.

A listing says which packs there are. Index objects say what is in them; the packs of no index object are read from
their tables, which are the truth. What an index object says of a pack that is not listed counts for nothing, and of one
that is listed with another size only for reading. FORMAT.md, "Packs".
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from pogfast._engine import IndexFile, PackIndex, Place, Row, build_index, check_index, merge_indexes
from pogfast.errors import CorruptPack, DamageError, MissingBlob, StoreError
from pogfast.stores.names import PACKS, Stored
from pogfast.stores.packs import layout
from pogfast.stores.packs.index_cache import IndexCache
from pogfast.stores.packs.reading import read_table, read_whole
from pogfast.stores.protocols import InColdStorage
from pogfast.stores.service import AccessDenied
from pogfast.system.clock import Stopwatch

if TYPE_CHECKING:
    from pogfast._engine import Buffer
    from pogfast.stores.protocols import HoldsPacks

# Packs whose tables are read at a time.
PARALLEL = 8
# Index objects of one tier that are merged; a tier has up to this many times as many blobs as the one below.
FAN_IN = 8
# How often everything is listed again because an index object vanished.
ATTEMPTS = 5
# Packs, and bytes of their tables, that get an index object of their own before a run ends: if it is killed, the tables
# of the others are read. So many tables also make an index object that others can be merged with.
ENOUGH_PACKS, ENOUGH_TABLES = 256, 16 << 20
# Listings in a row that showed nothing new, after which `look_again` makes one only every so many seconds.
FRUITLESS, PAUSE = 3, 5.0
ABSENT, THERE, OTHER_SIZE = 0, 1, 2
Found = TypeVar("Found")


class Span(NamedTuple):
    """Where a blob lies: bytes [offset, offset + size) of a pack, which has `pack_size` bytes."""

    path: str
    pack_size: int
    offset: int
    size: int


class IndexPart(NamedTuple):
    """An index object; one without a path was made of the tables of packs that are in no other."""

    path: str
    data: Buffer | IndexFile
    header: layout.IndexHeader

    @property
    def has_failed(self) -> bool:
        """True if it is in a file that could not be read: what was not found may be in it."""
        return isinstance(self.data, IndexFile) and self.data.failed

    def whole(self) -> Buffer:
        """Returns the index object. Raises StoreError."""
        try:
            return self.data.read() if isinstance(self.data, IndexFile) else self.data
        except OSError as error:
            raise StoreError(f"index object {self.path}: {error.strerror}") from error

    def rows(self, index: PackIndex, start: int) -> list[Row]:
        """Returns ROWS rows of an `index` that has this index object alone. Raises StoreError."""
        try:
            return index.rows(0, start, start + ROWS)
        except (OSError, ValueError) as error:
            raise StoreError(f"index object {self.path}: {error}") from error


class Catalog:
    """The packs of one store. It is loaded on first use and when `refresh` is called; `warn` gets what is ignored.
    Methods may raise StoreError, and may be called by several threads."""

    def __init__(self, base: HoldsPacks, cache: IndexCache, warn: Callable[[str], None]) -> None:
        self.base = base
        self.cache = cache
        self.warn = warn
        self.packs: dict[str, Stored] = {}  # as listed, and those that this process has put since
        self.index_objects: dict[str, Stored] = {}
        self.unreadable: dict[str, DamageError] = {}  # packs and index objects that are no such thing
        self.left_out: dict[str, StoreError] = {}  # packs in no index object that cannot be read, which were reported
        self.put = 0  # packs that this process has stored
        self._uncached: set[str] = set()  # index objects whose files in the cache could not be read
        self._index = PackIndex()
        self._parts: list[IndexPart] = []
        self._states: list[bytes] = []  # of the packs of each part, as the engine has them
        self._tables: dict[str, bytes] = {}  # of packs that no index object covers
        self._mine: set[str] = set()  # packs that this process has put, and not handed over
        self._found = 0  # how many of the tables the engine searches
        self._is_loaded = False
        self._is_searched = False  # the engine knows all that is in `packs`
        self._fruitless = 0
        self._listed = Stopwatch()
        self._lock = threading.RLock()

    @property
    def index(self) -> PackIndex:
        """What the engine searches; it stays the same object."""
        self._load()
        return self._index

    def _load(self) -> None:
        if not self._is_loaded:
            self.refresh()

    # ---- what there is ----

    def refresh(self) -> bool:
        """Lists packs and index objects again, and reads those that are new. Returns True if there is a change."""
        with self._lock:
            before = self._sizes() if self._is_searched else None
            self._is_searched = False  # until the end: an error leaves the search behind what is listed
            for attempt in range(ATTEMPTS):
                self._list()
                try:
                    parts = self._index_parts()
                    break
                except MissingBlob as error:  # a prune has deleted a superseded one since it was listed
                    if attempt == ATTEMPTS - 1:
                        raise StoreError(f"{error}: it is listed again and again, and not there") from error
            if before == self._sizes():
                self._is_searched = True
                return False
            self._read_tables(parts)
            self._parts = parts
            self._search()
            self.cache.keep_only(self.index_objects)
            return True

    def look_again(self) -> bool:
        """Refreshes for a blob that was not where it should be. Returns False if nothing can have changed."""
        with self._lock:
            if self._reread():
                return True
            if self._fruitless >= FRUITLESS and self._listed.seconds() < PAUSE:
                return False  # many blobs are missing: one listing is enough for them
            self._fruitless = 0 if self.refresh() else self._fruitless + 1
            self._listed = Stopwatch()
            return True

    def _reread(self) -> bool:
        """Reads index objects again, into memory, whose files in the cache cannot be read any more. Returns False if
        there are none. Called with the lock held."""
        failed = {part.path for part in self._parts if part.has_failed}
        if failed:
            self._uncached |= failed
            self._is_searched = False
            self.refresh()
        return bool(failed)

    def _searched(self, look: Callable[[], Found]) -> Found:
        """Returns what `look` finds in the index, all of which could be read. Called with the lock held."""
        found = look()
        while self._reread():
            found = look()
        return found

    def _sizes(self) -> dict[str, int]:
        return {stored.name: stored.size for stored in (*self.packs.values(), *self.index_objects.values())}

    def _list(self) -> None:
        packs, index_objects = {}, {}
        for stored in self.base.objects(PACKS):
            if layout.is_pack(stored.name):
                packs[stored.name] = stored
            elif layout.is_index_object(stored.name):
                index_objects[stored.name] = stored
        self.packs, self.index_objects = packs, index_objects

    def _index_parts(self) -> list[IndexPart]:
        """Returns the index objects that no other one supersedes, the newest first, so that few have to be fetched.
        Raises MissingBlob for one that has vanished."""
        known = {part.path: part for part in self._parts if not part.has_failed}
        superseded: set[str] = set()
        parts = []
        for stored in sorted(self.index_objects.values(), key=lambda found: found.modified, reverse=True):
            if stored.name in superseded or stored.name in self.unreadable:
                continue
            part = known.get(stored.name) or self._read_index(stored)
            if part is not None:
                superseded.update(part.header.supersedes)
                parts.append(part)
        return [part for part in parts if part.path not in superseded]

    def _read_index(self, stored: Stored) -> IndexPart | None:
        """Reads an index object; returns None, with a warning, if it is damaged: its packs have tables."""
        path = stored.name
        try:
            data = (None if path in self._uncached else self.cache.get(path)) or self._fetch_index(path)
            return IndexPart(path, data, _header(data))
        except MissingBlob:
            raise
        except DamageError as error:
            self.unreadable[path] = error
            self.warn(f"{error}: its packs are read instead; `pogfast check --repair` writes a new one")
            return None

    def _fetch_index(self, path: str) -> Buffer | IndexFile:
        """Fetches an index object into the cache; it stays in memory only if it is small, or there is no cache that can
        be read."""
        data = self.base.get_object(path, layout.MAX_INDEX)
        if hashlib.sha256(data).digest() != layout.raw_name(path):
            raise CorruptPack(f"index object {path} is damaged: its name is not that of its content")
        _check(path, data)
        if path in self._uncached:
            return data
        self.cache.put(path, data)
        return self.cache.get(path) or data

    def _read_tables(self, parts: Sequence[IndexPart]) -> None:
        """Reads the tables of packs that are in no index object, or in one that gives them another size."""
        covered = {_leaf(pack.path) for part in parts for pack in part.header.packs if self._state(pack) == THERE}
        left = [pack for path, pack in self.packs.items() if _leaf(path) not in covered and path not in self.unreadable]
        self._tables = {pack.name: self._tables[pack.name] for pack in left if pack.name in self._tables}
        new = [pack for pack in left if pack.name not in self._tables]
        if not new:
            return
        with ThreadPoolExecutor(PARALLEL, "pogfast-tables") as threads:
            for pack, table in zip(new, threads.map(self._table_of, new), strict=True):
                if isinstance(table, DamageError):
                    self.unreadable[pack.name] = table
                    self.warn(f"{table}: it is left out")
                elif table is None or isinstance(table, StoreError):
                    self._leave_out(pack.name, table)
                else:
                    self._tables[pack.name] = table

    def _leave_out(self, path: str, error: StoreError | None) -> None:
        """Treats a pack as absent that has vanished, or that cannot be read."""
        del self.packs[path]
        if error is not None and path not in self.left_out:
            self.left_out[path] = error
            self.warn(f"{error}: no index object covers this pack, so its blobs count as missing")

    def _table_of(self, pack: Stored) -> bytes | DamageError | StoreError | None:
        """Returns the table at the end of a pack; the damage if it has none; why these credentials, or nobody, can
        read it now; None if the pack has vanished."""
        try:
            return read_table(self.base, pack)
        except MissingBlob:
            return None
        except (DamageError, AccessDenied, InColdStorage) as error:
            return error

    def _search(self) -> None:
        """Has the engine search what is there now."""
        parts = self._all_parts()
        self._states = [bytes(map(self._state, part.header.packs)) for part in parts]
        self._index.replace([(part.data, states) for part, states in zip(parts, self._states, strict=True)])
        self._found = len(self._tables)
        self._is_loaded = self._is_searched = True

    def _all_parts(self) -> list[IndexPart]:
        """Returns the parts in the order of the engine's, the index object of uncovered packs last."""
        self._parts = [part for part in self._parts if part.path]
        if self._tables:
            data = self._index_of(self._tables)
            self._parts.append(IndexPart("", data, layout.read_header(data)))
        return self._parts

    def _index_of(self, tables: Mapping[str, bytes], supersedes: Sequence[bytes] = ()) -> bytearray:
        once = {layout.raw_name(path): path for path in tables}  # a pack may lie there under two days
        packs = [(raw, layout.day_of(path), self.packs[path].size) for raw, path in once.items()]
        return build_index(packs, [tables[path] for path in once.values()], supersedes)

    def _state(self, pack: layout.PackInfo) -> int:
        listed = self.packs.get(pack.path)
        if listed is None:
            return ABSENT
        return THERE if listed.size == pack.size else OTHER_SIZE

    # ---- look-ups ----

    def locate(self, names: Sequence[str]) -> list[Span | None]:
        """Returns where each blob lies; None for those in no pack."""
        self._load()
        with self._lock:
            places = self._searched(lambda: self._index.find_many(names))
            return [self._span(place) if place else None for place in places]

    def holders(self, name: str) -> list[Span]:
        """Returns each place where a blob lies whole, as far as the index says: a pack once."""
        self._load()
        with self._lock:
            spans = dict.fromkeys(map(self._span, self._searched(lambda: self._index.find_all(name))))
            there = {path: self.packs[path].size for span in spans if (path := span.path) in self.packs}
            return [span for span in spans if there.get(span.path) == span.pack_size]

    def size_of(self, name: str) -> int | None:
        """Returns the bytes of a blob in a pack, None if no pack that is whole has it."""
        self._load()
        with self._lock:
            place = self._searched(lambda: self._index.find(name))
            return place.size if place and self._states[place.part][place.pack] == THERE else None

    def sizes_of(self, names: Sequence[str]) -> list[int | None]:
        """Returns what `size_of` does, of many blobs."""
        self._load()
        with self._lock:
            places = self._searched(lambda: self._index.find_many(names))
            states = self._states
            return [each.size if each and states[each.part][each.pack] == THERE else None for each in places]

    def blobs(self) -> Iterator[tuple[str, Span]]:
        """Yields each blob of each pack that is there, a blob in several packs several times, and no pack twice."""
        self._load()
        with self._lock:
            self._reread()
            parts = list(self._parts)
        seen: set[str] = set()
        for part in parts:
            index = PackIndex()  # of its own: the other may be replaced meanwhile
            index.replace([(part.data, bytes([THERE]) * len(part.header.packs))])
            first = [pack.path not in seen and self._state(pack) == THERE for pack in part.header.packs]
            for start in range(0, part.header.blobs, ROWS):
                for row in part.rows(index, start):
                    if first[row.pack]:
                        pack = part.header.packs[row.pack]
                        yield row.name, Span(pack.path, pack.size, row.offset, row.size)
            seen.update(pack.path for pack, is_first in zip(part.header.packs, first, strict=True) if is_first)

    def blobs_in(self, packs: Collection[str]) -> set[str]:
        """Returns the blobs in some packs: whatever any index object says of one. Raises StoreError."""
        self._load()
        with self._lock:
            self._reread()
            parts = list(self._parts)

        def is_wanted(pack: layout.PackInfo) -> bool:
            return pack.path in packs and self._state(pack) == THERE

        return {row.name for part in parts for row, _ in self._rows_in(part, is_wanted)}

    def absent(self) -> dict[str, str]:
        """Returns blobs in packs that index objects name and that are not there, each with such a pack. Raises
        StoreError."""
        return {
            row.name: pack.path
            for part in self.parts()
            for row, pack in self._rows_in(part, lambda pack: self._state(pack) == ABSENT)
        }

    def _rows_in(
        self, part: IndexPart, is_wanted: Callable[[layout.PackInfo], bool]
    ) -> Iterator[tuple[Row, layout.PackInfo]]:
        """Yields the rows of some packs in an index object, each with its pack. Raises StoreError."""
        wanted = bytes(map(is_wanted, part.header.packs))
        if not any(wanted):
            return
        try:
            data = merge_indexes([(part.whole(), wanted)], ())
        except ValueError as error:
            raise StoreError(f"index object {part.path}: {error}") from error
        only = IndexPart(part.path, data, layout.read_header(data))
        index = PackIndex()
        index.replace([(data, bytes([THERE]) * len(only.header.packs))])
        for start in range(0, only.header.blobs, ROWS):
            yield from ((row, only.header.packs[row.pack]) for row in only.rows(index, start))

    def healed(self, path: str) -> bytes | None:
        """Returns a pack whose table is damaged as it was, if an index object and its blobs tell; else None. Raises
        StoreError."""
        self._load()
        with self._lock:
            parts = list(self._parts)
        try:
            data = read_whole(self.base, path)
        except (DamageError, AccessDenied, InColdStorage):
            return None
        for part in parts:
            rows = self._rows_in(part, lambda pack: pack.path == path and self._state(pack) == THERE)
            blobs = [(row.name, row.offset, row.size) for row, _ in rows]
            if blobs and (whole := layout.heal(data, path, blobs)) is not None:
                return whole
        return None

    def _span(self, place: Place) -> Span:
        pack = self._parts[place.part].header.packs[place.pack]
        return Span(pack.path, pack.size, place.offset, place.size)

    # ---- what this process adds ----

    def added(self, pack: Stored, table: bytes) -> None:
        """Notes a pack that this process has put. Its blobs are found only after `write_index` or `refresh`."""
        with self._lock:
            self.put += 1
            self.packs[pack.name] = pack
            self._tables[pack.name] = table
            self._mine.add(pack.name)
            self._is_searched = False

    def hand_over(self) -> list[tuple[Stored, bytes]]:
        """Returns the packs that this process has put and that are in no index object, with the table of each: another
        process indexes them. The blobs of most are found here from then on."""
        with self._lock:
            mine = [(self.packs[path], table) for path, table in self._tables.items() if path in self._mine]
            self._mine.clear()
            if len(self._tables) > self._found * 5 // 4:  # each time it takes as long as all together
                self._search()
            return mine

    def deleted(self, path: str) -> None:
        """Notes a pack that has been deleted."""
        with self._lock:
            self.packs.pop(path, None)
            self._tables.pop(path, None)
            self._is_searched = False

    def has_enough(self) -> bool:
        """Returns True if so many packs are in no index object that one is worth it."""
        with self._lock:
            return len(self._tables) >= ENOUGH_PACKS or sum(map(len, self._tables.values())) >= ENOUGH_TABLES

    def uncovered(self) -> int:
        """Returns how many packs are in no index object."""
        with self._lock:
            return len(self._tables)

    def parts(self) -> list[IndexPart]:
        """Returns the index objects that are in use."""
        self._load()
        with self._lock:
            return [part for part in self._parts if part.path]

    def mend(self, wrong: Collection[str], tables: Mapping[str, bytes]) -> int:
        """Stores index objects that supersede wrong ones, of the packs in these, whose right `tables` are given, and of
        those in none. Returns how many packs they are."""
        with self._lock:
            self._tables.update((path, table) for path, table in tables.items() if path in self.packs)
            mended = len(self._tables)
            groups = list(self._together()) or [{}]
            for number, group in enumerate(groups, 1):
                gone = sorted(map(layout.raw_name, wrong)) if number == len(groups) else []
                self._put_index(self._index_of(group, gone), covers=group)
            self._parts = [part for part in self._parts if part.path not in wrong]
            self._search()
            return mended

    def write_index(self) -> None:
        """Stores an index object of the packs that are in none, and merges those of which there are many."""
        with self._lock:
            try:
                for tables in list(self._together()):
                    self._put_index(self._index_of(tables), covers=tables)
                while together := self._to_merge():
                    self._merge(together)
            finally:
                self._search()

    def _together(self) -> Iterator[dict[str, bytes]]:
        """Yields the tables of uncovered packs, as many as an index object can have. One that is too large even for an
        index object of its own stays in none."""
        together: dict[str, bytes] = {}
        size = 0
        for path, table in self._tables.items():
            if len(table) > layout.MAX_INDEX // 2:
                continue
            if size + len(table) > layout.MAX_INDEX // 2:
                yield together
                together, size = {}, 0
            together[path] = table
            size += len(table)
        if together:
            yield together

    def obsolete(self, before: float) -> list[Stored]:
        """Returns the index objects that nobody needs any more, and that were written before a time: those that others
        supersede which were written before it, too, and those none of whose packs is there."""
        with self._lock:
            self.refresh()
            old = [stored for stored in self.index_objects.values() if stored.modified <= before]
            read = {part.path: part for part in self._parts}
            gone: set[str] = set()
            for stored in old:
                with contextlib.suppress(MissingBlob):  # another prune has deleted it
                    part = read.get(stored.name) or self._read_index(stored)
                    if part is not None:
                        gone.update(part.header.supersedes)
                        gone.update([] if any(map(self._state, part.header.packs)) else [part.path])
            return [stored for stored in old if stored.name in gone]

    def _put_index(self, data: bytearray, covers: Iterable[str] = ()) -> None:
        """Stores an index object; its packs are durable."""
        check_index(data)
        path = layout.index_path(hashlib.sha256(data).digest())
        self.base.put_object(path, data, replace=path in self.unreadable)  # a damaged one may have this very size
        self.unreadable.pop(path, None)
        self.cache.put(path, data)
        self.index_objects[path] = Stored(path, len(data), 0.0)
        header = layout.read_header(data)
        self._parts = [part for part in self._parts if part.path and part.path not in header.supersedes]
        self._parts.append(IndexPart(path, self.cache.get(path) or data, header))
        for pack in covers:
            del self._tables[pack]

    def _to_merge(self) -> list[IndexPart]:
        """Returns FAN_IN index objects of about the same size, if there are as many, whose union is not too large."""
        tiers: dict[int, list[IndexPart]] = {}
        for part in self._parts:
            if part.path:
                tier = tiers.setdefault(_tier(part.header.blobs), [])
                tier.append(part)
        for tier in tiers.values():
            smallest = sorted(tier, key=lambda part: len(part.data))[:FAN_IN]
            if len(smallest) == FAN_IN and sum(len(part.data) for part in smallest) <= layout.MAX_INDEX:
                return smallest
        return []

    def _merge(self, parts: Sequence[IndexPart]) -> None:
        absent = {pack.path for part in parts for pack in part.header.packs if self._state(pack) == ABSENT}
        if absent:
            # They may have been put after their folder was listed, and before the index objects were.
            self.packs.update((found.name, found) for found in self.base.objects(PACKS) if found.name in absent)
        objects = [(part.whole(), bytes(map(self._state, part.header.packs))) for part in parts]
        self._put_index(merge_indexes(objects, sorted(layout.raw_name(part.path) for part in parts)))


# Rows that are asked of the engine at a time.
ROWS = 10_000


def _tier(blobs: int) -> int:
    """Returns which power of FAN_IN a number of blobs reaches."""
    tier = 0
    while blobs >= FAN_IN:
        blobs //= FAN_IN
        tier += 1
    return tier


def _leaf(path: str) -> str:
    return path.rpartition("/")[2]


def _header(data: Buffer | IndexFile) -> layout.IndexHeader:
    if isinstance(data, IndexFile):
        return layout.read_header(data.beginning, size=len(data))
    return layout.read_header(data)


def _check(path: str, data: Buffer) -> None:
    """Raises CorruptPack for an index object that contradicts itself."""
    try:
        check_index(data)
    except ValueError as error:
        raise CorruptPack(f"index object {path} is malformed: {error}") from error

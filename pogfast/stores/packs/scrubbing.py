"""Checks packs and index objects without a key, and makes index objects again.

A pack's name is the sha256 of its bytes, its table has 8 bytes of the sha256 of each blob, and index objects repeat
tables. So whoever can read a store finds what is damaged in it, and which blobs that are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from pogfast._engine import build_index, merge_indexes
from pogfast.errors import CorruptPack, DamageError, MissingBlob, PogfastError
from pogfast.stores.names import Stored
from pogfast.stores.packs import layout
from pogfast.stores.packs.catalog import ABSENT, THERE, Catalog, IndexPart
from pogfast.stores.packs.reading import read_table, read_whole
from pogfast.stores.protocols import Found, HoldsPacks, InColdStorage
from pogfast.stores.service import AccessDenied

Item = TypeVar("Item")
Result = TypeVar("Result")

# Tables that are read at a time, and whole packs, which take memory.
TABLES = 8
WHOLE = 3


class Scrub:
    """A check of the packs of one store, as they were listed when it began."""

    def __init__(self, base: HoldsPacks, catalog: Catalog) -> None:
        self.base = base
        self.catalog = catalog
        self.catalog.refresh()
        self.wrong: set[str] = set()  # index objects that are malformed, or say something else than tables do
        self._tables: dict[str, bytes] = {}  # of the packs that only these list

    @property
    def packs(self) -> list[Stored]:
        """The packs whose tables can be read, as listed."""
        return [pack for path, pack in self.catalog.packs.items() if path not in self.catalog.unreadable]

    @property
    def index_objects(self) -> int:
        return len(self.catalog.index_objects)

    @property
    def uncovered(self) -> int:
        """How many packs are in no index object, as after a run that was killed."""
        return self.catalog.uncovered()

    @property
    def absent(self) -> int:
        """How many packs of index objects are not there, as after a prune."""
        there = {layout.raw_name(path) for path in self.catalog.packs}
        named = {layout.raw_name(pack.path) for part in self.catalog.parts() for pack in part.header.packs}
        return len(named - there)

    @property
    def indexed(self) -> set[str]:
        """The packs that index objects name."""
        return {pack.path for part in self.catalog.parts() for pack in part.header.packs}

    def lost(self) -> dict[str, str]:
        """Returns the blobs that were in these, each with its pack. Raises StoreError."""
        return self.catalog.absent()

    # ---- structure ----

    def listed(self) -> Iterator[Found]:
        """Yields what is known without reading more: malformed packs and index objects, packs that could not be read,
        and index objects that give packs another size. Raises StoreError."""
        for path, error in list(self.catalog.unreadable.items()):
            is_index = layout.is_index_object(path)
            if is_index:
                self.wrong.add(path)
            yield Found(path, error, is_index=is_index)
        for path, unread in self.catalog.left_out.items():
            yield Found(path, unread)
        for part in self.catalog.parts():
            if any(self._sizes_differ(pack) for pack in part.header.packs):
                yield self._wrong(part)

    def compare(self) -> Iterator[Found]:
        """Yields what `listed` does, malformed tables, and index objects that do not repeat the tables of their packs.
        Raises StoreError."""
        yield from self.listed()
        for part in self.catalog.parts():
            yield from self._compare(part)

    def _sizes_differ(self, pack: layout.PackInfo) -> bool:
        there = self.catalog.packs.get(pack.path)
        return there is not None and there.size != pack.size

    def _wrong(self, part: IndexPart) -> Found:
        self.wrong.add(part.path)
        what = f"index object {part.path} is wrong: it does not say what is in its packs"
        return Found(part.path, CorruptPack(what), is_index=True)

    def _compare(self, part: IndexPart) -> Iterator[Found]:
        tables: dict[str, bytes] = {}
        packs = [pack.path for pack in part.header.packs if not self._sizes_differ(pack)]
        there = [self.catalog.packs[path] for path in packs if path in self.catalog.packs]
        for pack, result in _in_order(TABLES, self._table, there):
            if isinstance(result, PogfastError):
                yield Found(pack.name, result)
            elif result is not None:
                tables[pack.name] = result
        if part.path not in self.wrong and not _says(part, tables):
            yield self._wrong(part)
        if part.path in self.wrong:
            self._tables.update(tables)

    def _table(self, pack: Stored) -> bytes | PogfastError | None:
        """Returns the table of a pack, None if the pack has vanished."""
        try:
            return read_table(self.base, pack)
        except MissingBlob:
            return None
        except (DamageError, AccessDenied, InColdStorage) as error:
            return error

    # ---- content ----

    def read(self, packs: Iterable[Stored]) -> Iterator[tuple[Stored, list[Found]]]:
        """Reads whole packs, and yields each with what is damaged in it, or that access is denied. What seems damaged
        is read once more. Raises StoreError."""
        yield from _in_order(WHOLE, self._read, packs)

    def _read(self, pack: Stored) -> list[Found]:
        try:
            return self._look(pack) and self._look(pack)
        except MissingBlob:  # a prune has deleted it
            return []
        except (DamageError, AccessDenied, InColdStorage) as error:
            return [Found(pack.name, error)]

    def _look(self, pack: Stored) -> list[Found]:
        found = layout.check_pack(read_whole(self.base, pack.name), pack.name)
        if not found.problem:
            return []
        blobs = [
            Found(
                pack.name,
                CorruptPack(f"blob {row.name} is damaged, from byte {row.offset:,} on in {pack.name}"),
                row.name,
            )
            for row in found.damaged
        ]
        return blobs or [Found(pack.name, CorruptPack(found.problem))]

    # ---- repair ----

    def heal(self, path: str) -> bool:
        """Stores a pack with a damaged table again as it was, as its name proves; False if nothing tells how that was.
        Raises StoreError."""
        whole = self.catalog.healed(path) if path in self.catalog.packs else None
        if whole is not None:
            self.base.put_object(path, whole, replace=True)
        return whole is not None

    def mend(self) -> int:
        """Stores index objects of the packs in none, and of those in wrong ones, which they supersede. Returns how many
        packs these are. Raises StoreError."""
        return self.catalog.mend(self.wrong, self._tables) if self.wrong or self.uncovered else 0


def _says(part: IndexPart, tables: dict[str, bytes]) -> bool:
    """Returns True if an index object says exactly what these tables do; it is determined by them. Packs without a
    table here count as absent."""
    states = bytes(THERE if pack.path in tables else ABSENT for pack in part.header.packs)
    supersedes = [layout.raw_name(path) for path in part.header.supersedes]
    packs = [pack for pack in part.header.packs if pack.path in tables]
    rows = [(layout.raw_name(pack.path), layout.day_of(pack.path), pack.size) for pack in packs]
    right = build_index(rows, [tables[pack.path] for pack in packs], supersedes)
    return right == merge_indexes([(part.whole(), states)], supersedes)


def _in_order(at_once: int, act: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[tuple[Item, Result]]:
    """Yields each item and the result of `act`, in order; at most `at_once` results are waiting."""
    left = iter(items)
    with ThreadPoolExecutor(at_once, "pogfast-scrub") as threads:
        waiting: deque[tuple[Item, Future[Result]]] = deque()
        try:
            while True:
                waiting.extend((item, threads.submit(act, item)) for item in islice(left, at_once - len(waiting)))
                if not waiting:
                    return
                item, result = waiting.popleft()
                yield item, result.result()
        finally:
            threads.shutdown(wait=True, cancel_futures=True)

"""Repacking: what is still needed in packs with much waste is stored anew, so that a prune can condemn the old packs.

Nothing is deleted here. Which packs are chosen is told by the index; what is copied from one by its own table. Bytes
are compared with the checks in it, which need no key: a damaged blob is not copied, and its pack stays.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

from pogfast.errors import DamageError, MissingBlob
from pogfast.sizes import Share
from pogfast.stores.names import Stored
from pogfast.stores.packs import layout
from pogfast.stores.packs.catalog import PARALLEL
from pogfast.stores.packs.decision import Decision, Tables
from pogfast.stores.packs.reading import MAX_PIECE, pieces, read_piece, span_of
from pogfast.stores.protocols import InColdStorage, Repacked, Store

if TYPE_CHECKING:
    from pogfast._engine import Packer
    from pogfast.stores.packs.catalog import Catalog, Span
    from pogfast.stores.protocols import PackableStore

# What is read of a piece of a pack.
Read = Callable[[], Sequence[tuple[layout.TableRow, memoryview | None]]]

# Bytes that may be stored again by a prune that is not told how many: a small store is cleaned as well.
MIN_REPACK = 128 << 20
SHARE_REPACK = 10  # percent of the store, if that is more


class Repackable(Store, Protocol):
    """A store with packs."""

    base: PackableStore
    catalog: Catalog
    tables: Tables

    @property
    def blobs(self) -> Packer: ...

    def keep_up(self) -> None: ...


class Usage(NamedTuple):
    """Bytes of blobs in a pack that are needed and in no later holder, and of all others."""

    pack: Stored
    kept: int
    dead: int
    blobs: int = 0  # in all, as the index says
    dead_blobs: int = 0

    @property
    def waste(self) -> float:
        return self.dead / (self.kept + self.dead)


@dataclass
class Repacking:
    """One repacking. `listed` are the objects that are condemned already; packs written after `before` stay."""

    store: Repackable
    is_kept: Callable[[str], bool]
    listed: Collection[str]
    before: float
    max_unused: Share
    max_repack: Share | None
    done: Repacked = field(default_factory=Repacked)

    def __post_init__(self) -> None:
        self.catalog = self.store.catalog
        self.decision = Decision(self.store.base, self.catalog, self.is_kept, self.listed, self.store.tables)

    # ---- which packs ----

    def choose(self) -> list[Usage]:
        """Returns the packs to repack, the one with most waste first; counts those that cannot be."""
        self.decision.look()
        usages = self._usages()
        old = [usage for usage in usages if usage.pack.modified <= self.before]
        self._note_unreadable([usage for usage in old if not usage.kept])
        partly = [usage for usage in old if usage.kept and usage.dead]
        warm = [usage for usage in partly if not usage.pack.is_cold]
        self.done.cold += len(partly) - len(warm)
        unused = sum(usage.dead for usage in usages if usage.kept)
        possible = sorted(warm, key=lambda usage: usage.waste, reverse=True)
        total = sum(each.size for each in self.decision.holders)
        asked: set[str] = set()
        while True:
            chosen = self._worth_it(possible, unused, total)
            new = {usage.pack.name for usage in chosen} - asked
            if not new:
                return chosen
            # Rule: the old pack can be deleted afterwards. To ask takes a request for each.
            locked = self.store.locked(new)
            asked |= new
            self.done.locked += len(locked)
            possible = [usage for usage in possible if usage.pack.name not in locked]

    def _worth_it(self, usages: Sequence[Usage], unused: int, total: int) -> list[Usage]:
        """Returns those of some packs to repack if all of them can be, and notes what stays unused then. `total` are
        the bytes of the store, `unused` those of the unneeded blobs in packs with needed ones."""
        budget = max(MIN_REPACK, SHARE_REPACK * total // 100) if self.max_repack is None else self.max_repack.of(total)
        chosen = []
        for usage in usages:
            is_too_much = unused > self.max_unused.of(total)
            if (is_too_much or (usage.waste >= 0.5 and self.max_unused.size < math.inf)) and usage.kept <= budget:
                chosen.append(usage)
                budget -= usage.kept
                unused -= usage.dead
        self.done.unused_size = unused
        return chosen

    def _usages(self) -> list[Usage]:
        kept: defaultdict[str, int] = defaultdict(int)
        all_: defaultdict[str, int] = defaultdict(int)
        blobs: Counter[str] = Counter()
        kept_blobs: Counter[str] = Counter()
        for _, span in self.decision.only_there(self._counted(all_, blobs)):
            kept[span.path] += span.size
            kept_blobs[span.path] += 1
        packs = [self.catalog.packs[path] for path in all_]
        return [
            Usage(
                pack,
                kept[pack.name],
                all_[pack.name] - kept[pack.name],
                blobs[pack.name],
                blobs[pack.name] - kept_blobs[pack.name],
            )
            for pack in packs
        ]

    def _counted(self, sizes: defaultdict[str, int], blobs: Counter[str]) -> Iterator[tuple[str, Span]]:
        """Yields the needed blobs in packs that are not condemned, and adds up all blobs in each, and their sizes."""
        before = ("", "")
        for name, span in self.catalog.blobs():
            if span.path in self.listed:
                continue
            sizes[span.path] += span.size
            blobs[span.path] += 1
            # The rows of an index object are sorted: a blob that is twice in a pack counts once.
            is_new, before = (name, span.path) != before, (name, span.path)
            if is_new and self.is_kept(name):
                yield name, span

    def _note_unreadable(self, usages: Sequence[Usage]) -> None:
        """Notes those packs that stay since their tables cannot be read. Raises StoreError."""
        tables, packs = self.store.tables, [usage.pack for usage in usages]
        tables.read(packs, {usage.pack.name: usage.blobs for usage in usages})
        errors = [tables.unreadable[pack.name] for pack in packs if pack.name in tables.unreadable]
        self.done.unreadable += [error for error in errors if not isinstance(error, InColdStorage)]
        self.done.cold += sum(isinstance(error, InColdStorage) for error in errors)

    # ---- what is in them ----

    def predict(self, chosen: Sequence[Usage]) -> None:
        self.done.packs, self.done.size = len(chosen), sum(usage.kept for usage in chosen)
        self.done.old_size = sum(usage.pack.size for usage in chosen)
        self.done.old_unneeded = sum(usage.dead_blobs for usage in chosen)

    def run(self, chosen: Sequence[Usage]) -> None:
        """Stores the needed blobs of some packs anew; they are durable, and in an index object. Raises StoreError."""
        self._note_unreadable(chosen)
        self.decision.gone.update(usage.pack.name for usage in chosen)
        rows = {usage.pack.name: self._rows(usage.pack) for usage in chosen}
        self.store.doubt({row.name for some in rows.values() for row in some})  # else they count as stored
        try:
            failed = self._copy(rows)
            self.done.packs += sum(bool(some) and path not in failed for path, some in rows.items())
            self.store.make_durable()
        finally:
            self.store.doubt(())

    def _rows(self, pack: Stored) -> list[layout.TableRow]:
        """Returns the blobs of a pack, by its own table, that are needed and that no later holder has."""
        table = self.store.tables.raw(pack)
        if table is None:
            return []
        found = {row.name: row for row in layout.read_rows(table) if self.is_kept(row.name)}
        return [row for row in found.values() if not self.decision.is_elsewhere(row.name, pack.name)]

    def _copy(self, rows: Mapping[str, Sequence[layout.TableRow]]) -> set[str]:
        """Stores blobs of packs anew, each once. A damaged one is noted, and left out. Returns the packs of which not
        all blobs were stored."""
        copied: set[str] = set()
        failed: set[str] = set()  # with damaged blobs
        gone: set[str] = set()  # that cannot be read any further
        put = self.store.blobs
        for path, read in self._read_ahead(rows):
            if path in gone:
                continue
            try:
                for row, blob in read():
                    if row.name in copied:
                        continue
                    if blob is None:
                        failed.add(path)
                        self.done.damaged.append((row.name, path))
                        continue
                    put(row.name, blob)
                    self.done.size += row.size
                    copied.add(row.name)
                    self.store.keep_up()
            except MissingBlob:  # another prune has deleted it
                gone.add(path)
            except DamageError as error:
                gone.add(path)
                self.done.unreadable.append(error)
        return failed | gone

    def _read_ahead(self, rows: Mapping[str, Sequence[layout.TableRow]]) -> Iterator[tuple[str, Read]]:
        """Yields the pieces of packs that are to be read, several of which are read ahead: for each its pack, and a
        function that returns its blobs, as read_blobs does, and raises what that raises."""
        todo = deque((path, piece) for path, some in rows.items() for piece in pieces(some))
        ahead: deque[tuple[str, int, Future[list[tuple[layout.TableRow, memoryview | None]]]]] = deque()
        with ThreadPoolExecutor(PARALLEL, "pogfast-repack") as threads:
            try:
                while todo or ahead:
                    while todo and (not ahead or sum(size for _, size, _ in ahead) < MAX_PIECE):
                        path, piece = todo.popleft()
                        start, end = span_of(piece)
                        reading = threads.submit(read_piece, self.store.base, path, piece)
                        ahead.append((path, end - start, reading))
                    path, _, reading = ahead.popleft()
                    yield path, reading.result
            finally:
                for _, _, reading in ahead:
                    reading.cancel()

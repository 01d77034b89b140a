"""A store with packs: another store, in which small blobs lie together in packs and larger ones by themselves.

Whoever uses it sees blobs under names, as in any other store; only prune also sees the objects that hold them.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, cast

from pogfast._engine import BlobDirectory, Packer, PackIndex, build_plain_index
from pogfast.errors import DamageError, MissingBlob
from pogfast.stores.names import LIKE_A_BLOB, SETTINGS, Stored
from pogfast.stores.packs import layout
from pogfast.stores.packs.catalog import ENOUGH_PACKS, Catalog, Span
from pogfast.stores.packs.decision import Decision, Tables
from pogfast.stores.packs.index_cache import IndexCache
from pogfast.stores.packs.repacking import Repacking
from pogfast.stores.packs.sink import MIN_BLOBS, MIN_SIZE, PackSink
from pogfast.stores.packs.source import PackSource, Ranges
from pogfast.stores.protocols import (
    CanDistrust,
    CanDropCache,
    CanRepack,
    Finding,
    PackableStore,
    PackFigures,
    PackShare,
    Repacked,
    ThawState,
)
from pogfast.system.notices import IGNORED
from pogfast.system.user_dirs import cache_directory

if TYPE_CHECKING:
    from pogfast._engine import Buffer
    from pogfast.sizes import Share
    from pogfast.stores.packs.scrubbing import Scrub
    from pogfast.stores.settings import Lock


class PackedStore(CanRepack):
    """The store; `base` has its objects."""

    def __init__(self, base: PackableStore, settings: layout.StoreSettings, *, lacks_settings: bool = False) -> None:
        """With `lacks_settings` nothing in the store says that it has packs."""
        self.lacks_settings = lacks_settings
        self.base = base
        self.settings = settings
        self.path = base.path
        self.label = base.label
        self.parallel = base.parallel
        self.limit = settings.limit if settings.is_packing else 0  # bytes of a blob that is packed
        self.catalog = Catalog(base, IndexCache(cache_directory(), base.identity), IGNORED.get())
        self.tables = Tables(base)
        self._opening = threading.Lock()  # of the sink and of the source: several threads may ask first
        self._sink: PackSink | None = None
        self._source: BlobDirectory | PackSource | None = None
        self._doubted: frozenset[str] = frozenset()

    @property
    def identity(self) -> str:
        return self.base.identity

    @property
    def requests(self) -> Mapping[str, int]:
        return self.base.requests

    @property
    def pack_size(self) -> int | None:
        return self.settings.size if self.settings.is_packing else None

    @property
    def packs_put(self) -> int:
        return self.catalog.put

    def requests_for(self, blobs: int, size: int) -> int:
        if not self.limit:
            return blobs
        packs = 1 + size // self.settings.size + blobs // layout.MAX_BLOBS
        index = 1 + packs // ENOUGH_PACKS
        rest = max(MIN_BLOBS, blobs * MIN_SIZE // max(size, 1))  # what would be a tiny pack
        return min(blobs, packs + index + rest + size // self.limit)

    # ---- what is there ----

    def blob_names(self) -> Iterator[Stored]:
        """Yields each blob once; it is as old as what holds it."""
        seen: set[str] = set()
        for name, span in self.catalog.blobs():
            if name not in seen:
                seen.add(name)
                yield Stored(name, span.size, self.catalog.packs[span.path].modified)
        for blob in self.base.blob_names():
            if blob.name not in seen:
                yield blob

    def size_of(self, name: str) -> int | None:
        """Returns the stored bytes of a blob; None if it is missing, treated as absent, or suspect."""
        if name in self._doubted:
            return None
        size = self.catalog.size_of(name)
        return self.base.size_of(name) if size is None else size

    def sizes_of(self, names: Sequence[str]) -> list[int | None]:
        sizes = self.catalog.sizes_of(names)
        plain = iter(self.base.sizes_of([name for name, size in zip(names, sizes, strict=True) if size is None]))
        sizes = [next(plain) if size is None else size for size in sizes]
        if not self._doubted:
            return sizes
        return [None if name in self._doubted else size for name, size in zip(names, sizes, strict=True)]

    def missing(self, names: Iterable[str]) -> list[str]:
        wanted = list(names)
        if not wanted:
            return []
        self.catalog.refresh()
        return self.base.missing([name for name in wanted if self.catalog.size_of(name) is None])

    def doubt(self, names: Iterable[str]) -> None:
        self._doubted = frozenset(names)
        self.base.doubt(self._doubted)
        if self._sink is not None:
            self._sink.doubt(self._doubted)

    def blobs_only_in(self, objects: Collection[str], listed: Collection[str]) -> set[str]:
        """Returns the blobs in these objects that no object but the `listed` ones has."""
        packs = {name for name in objects if layout.is_pack(name)}
        names = {name for name in objects if LIKE_A_BLOB.fullmatch(name)}
        if not packs and not names:
            return names
        self.catalog.refresh()  # a prune stores blobs anew before it condemns the pack that they were in
        names |= self.catalog.blobs_in(packs)
        names -= self._in_packs(names, listed)
        # The table of a pack is read only if one of its blobs lies plain as well.
        plain = [Stored(name, size, 0.0) for name in names - set(listed) if (size := self.base.size_of(name))]
        places = [(blob, self.catalog.packs[span.path]) for blob in plain for span in self.catalog.holders(blob.name)]
        self.tables.read(pack for _, pack in places)
        return names - {blob.name for blob, pack in places if self.tables.is_copy(blob, pack)}

    def _in_packs(self, names: Iterable[str], listed: Collection[str]) -> set[str]:
        """Returns the blobs among these that are in packs which are not `listed`, as the tables of these say."""
        places = [(name, span) for name in names for span in self.catalog.holders(name) if span.path not in listed]
        self.tables.read(self.catalog.packs[path] for path in {span.path for _, span in places})
        return {name for name, span in places if self.tables.has(self.catalog.packs[span.path], name, span)}

    # ---- reading ----

    @property
    def source(self) -> BlobDirectory | PackSource:
        with self._opening:
            if self._source is None:
                self._source = self._new_source()
            return self._source

    def _new_source(self) -> BlobDirectory | PackSource:
        source = self.base.source
        if isinstance(source, BlobDirectory):
            source.read_packs(self.catalog.index, self.catalog.look_again)
            return source
        return PackSource(cast(Ranges, self.base), self.catalog.locate, self.catalog.look_again, self.copies)

    def get_blob(self, name: str) -> Buffer:
        """Returns all bytes stored under a blob's name. Raises MissingBlob, StoreError, and CorruptBlob."""
        before = self.catalog.locate([name])
        try:
            return self._get(name, before)
        except MissingBlob:  # it may be in another pack by now, or plain; another thread may have found that out
            if not self.catalog.look_again() and self.catalog.locate([name]) == before:
                raise
        return self._get(name, self.catalog.locate([name]))

    def _get(self, name: str, spans: Sequence[Span | None]) -> Buffer:
        [span] = spans
        return self._read(span) if span else self.base.get_blob(name)

    def copies(self, name: str) -> Iterator[Buffer]:
        """Yields the bytes of each copy of a blob, in packs and by itself."""
        for span in self.catalog.holders(name):
            with contextlib.suppress(DamageError):
                yield self._read(span)
        with contextlib.suppress(DamageError):
            yield self.base.get_blob(name)

    def _read(self, span: Span) -> Buffer:
        return self.base.read_range(span.path, span.offset, span.size)

    def forget(self, name: str) -> None:
        """Has the system drop its cached copy of a blob, if it lies plain."""
        if isinstance(self.base, CanDropCache):
            self.base.forget(name)

    # ---- writing ----

    @property
    def blobs(self) -> Packer:
        return self._open_sink(self.catalog.added, self.base.blob_names).packer

    def _open_sink(self, added: Callable[[Stored, bytes], None], plain: Callable[[], Iterable[Stored]]) -> PackSink:
        """Returns the sink; `added` is called with each pack that is stored, `plain` returns the plain blobs."""
        with self._opening:
            if self._sink is None:
                index, size = self._plain(plain), self.settings.size
                self._sink = PackSink(self.base, self.base, self.catalog, index, added, size=size, limit=self.limit)
                self._sink.doubt(self._doubted)
            return self._sink

    def _plain(self, blobs: Callable[[], Iterable[Stored]]) -> PackIndex | None:
        """Returns which small blobs lie plain on a service, for the engine. None for a directory, where it looks."""
        if isinstance(self.base.blobs, BlobDirectory):
            return None
        small = (blob for blob in blobs() if 0 < blob.size <= self.limit and layout.is_name(blob.name))
        index = PackIndex()
        index.replace([(build_plain_index((blob.name, blob.size) for blob in small), b"\1")])
        return index

    def begin_durable(self) -> None:
        """Does nothing: packs are on disk once they have a name."""

    def keep_up(self) -> None:
        if self._sink is not None:
            self._sink.close_idle()

    def make_durable(self) -> None:
        """Returns when every blob that was put is durable, and in an index object if it is in a pack."""
        if self._sink is not None:
            self._sink.finish()
        self.base.make_durable()
        if self.catalog.uncovered():
            self.catalog.write_index()

    def hand_over(self) -> list[tuple[Stored, bytes]]:
        if self._sink is not None:
            self._sink.finish()
        self.base.make_durable()
        return self.catalog.hand_over()

    def take_over(self, packs: Iterable[tuple[Stored, bytes]]) -> None:
        for pack, table in packs:
            self.catalog.added(pack, table)
        if self.catalog.has_enough():
            self.catalog.write_index()

    def distrust_all(self) -> None:
        if isinstance(self.base, CanDistrust):
            self.base.distrust_all()

    # ---- prune ----

    def holders(self) -> Iterator[Stored]:
        """Yields blobs by themselves and packs. A pack of which nobody knows what is in it holds nothing, and stays."""
        decision = Decision(self.base, self.catalog, lambda name: True, (), self.tables)
        decision.look()
        yield from decision.holders

    def unneeded(
        self, objects: Iterable[Stored] | None, is_needed: Callable[[str], bool], going: Collection[str] = ()
    ) -> list[Stored]:
        """Returns the holders that can go: see Store. Most packs hold a blob that nothing else does, and are done with
        at the first."""
        decision = Decision(self.base, self.catalog, is_needed, going, self.tables)
        return decision.of_all() if objects is None else decision.of(list(objects))

    def repack(
        self,
        is_kept: Callable[[str], bool],
        listed: Collection[str],
        *,
        before: float,
        max_unused: Share,
        max_repack: Share | None,
        dry_run: bool,
    ) -> Repacked:
        repacking = Repacking(self, is_kept, listed, before, max_unused, max_repack)
        chosen = repacking.choose()
        if dry_run:
            repacking.predict(chosen)
        elif chosen:
            self._open_sink(self._repacked, repacking.decision.plain.values)
            repacking.run(chosen)
        return repacking.done

    def _repacked(self, pack: Stored, table: bytes) -> None:
        self.tables.written(pack, table)
        self.catalog.added(pack, table)

    def tidy(self, before: float) -> int:
        gone = self.base.delete_old_blobs(self.catalog.obsolete(before), math.inf, lambda: True)
        return sum(1 for _ in gone)

    def unneeded_in(self, holder: Stored, is_kept: Callable[[str], bool]) -> int:
        if not layout.is_pack(holder.name):
            return int(not is_kept(holder.name))
        return sum(not is_kept(row.name) for row in layout.read_rows(self.tables.raw(holder) or b""))

    def delete_blobs(self, names: Iterable[str]) -> None:
        self.base.delete_blobs(names)

    def delete_old_blobs(self, blobs: Iterable[Stored], before: float, go_on: Callable[[], bool]) -> Iterator[Stored]:
        for gone in self.base.delete_old_blobs(blobs, before, go_on):
            self.catalog.deleted(gone.name)
            yield gone

    def begin_sweep(self) -> None:
        self.base.begin_sweep()

    def pack_figures(self, is_needed: Callable[[str], bool]) -> PackFigures:
        needed = {name: span for name, span in self.catalog.blobs() if is_needed(name)}
        useful = sum(span.size + layout.TABLE_ROW for span in needed.values())
        useful += layout.FOOTER * len({span.path for span in needed.values()})
        sizes = [pack.size for pack in self.catalog.packs.values()]
        objects, uncovered = len(self.catalog.index_objects), self.catalog.uncovered()
        return PackFigures(len(sizes), sum(sizes), objects, uncovered, useful)

    # ---- check ----

    def scrub(self) -> Scrub:
        """Begins a check of the packs, as they are listed now. Raises StoreError."""
        from pogfast.stores.packs.scrubbing import Scrub  # imported here: only check needs it

        return Scrub(self.base, self.catalog)

    def write_settings(self, settings: layout.StoreSettings | None = None) -> None:
        """Writes `pogfast.store`, as it was read or with other settings. Raises StoreError."""
        self.settings = settings or self.settings
        self.base.put_object(SETTINGS, self.settings.serialize(), replace=True)
        self.lacks_settings = False

    # ---- locks and cold storage: of what holds the blobs ----

    def locked(self, names: Iterable[str]) -> dict[str, float]:
        return self.base.locked(names)

    def lock(self, names: Iterable[str], lock: Lock) -> Iterator[tuple[str, bool | None]]:
        return self.base.lock(self._objects_of(names), lock)

    def thaw(self, names: Iterable[str], tier: str, days: int) -> Iterator[tuple[str, ThawState]]:
        return self.base.thaw(self._objects_of(names), tier, days)

    def _objects_of(self, names: Iterable[str]) -> list[str]:
        """Returns what holds blobs, each once; other names stay as they are."""
        wanted = list(names)
        blobs = [name for name in wanted if LIKE_A_BLOB.fullmatch(name)]
        spans = dict(zip(blobs, self.catalog.locate(blobs), strict=True))
        return list(dict.fromkeys(span.path if (span := spans.get(name)) else name for name in wanted))

    def packs_with(self, names: Iterable[str]) -> dict[str, PackShare]:
        shares: dict[str, PackShare] = {}
        for span in filter(None, self.catalog.locate(list(dict.fromkeys(names)))):
            _, wanted = shares.get(span.path, (0, 0))
            shares[span.path] = PackShare(span.pack_size, wanted + span.size)
        return shares

    # ---- the rest lies beside the blobs ----

    def own_directories(self) -> Mapping[tuple[int, int], tuple[str, Callable[[str], bool]]]:
        return self.base.own_directories()

    def put_manifest(self, name: str, data: bytes) -> None:
        self.base.put_manifest(name, data)

    def delete_manifests(self, names: Iterable[str]) -> None:
        self.base.delete_manifests(names)

    def manifests(self) -> list[Stored]:
        return self.base.manifests()

    def marks(self) -> list[Stored]:
        return self.base.marks()

    def prune_marks(self) -> list[Stored]:
        return self.base.prune_marks()

    def named(self, prefix: str) -> list[Stored]:
        return self.base.named(prefix)

    def get_manifest(self, name: str) -> bytes:
        return self.base.get_manifest(name)

    def put_mark(self, name: str, data: bytes) -> None:
        self.base.put_mark(name, data)

    def remove_manifest(self, name: str) -> None:
        self.base.remove_manifest(name)

    def remove_manifests(self, names: Collection[str]) -> set[str]:
        return self.base.remove_manifests(names)

    def delete_as_listed(self, marks: Iterable[Stored], go_on: Callable[[], bool]) -> None:
        self.base.delete_as_listed(marks, go_on)

    def forget_removed(self, removed: Stored) -> None:
        self.base.forget_removed(removed)

    def examine(self) -> Iterator[Finding]:
        yield from self.base.examine()

    def close(self) -> None:
        if self._sink is not None:
            self._sink.stop()
        if isinstance(self._source, PackSource):
            self._source.close()
        self.base.close()

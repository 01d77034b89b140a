"""`pogfast pack` and `pogfast unpack`: small blobs move into packs, and out of them. No key is needed.

A blob is deleted where it was only after it is durable in its new place. Prunes, and runs in the other direction, may
delete at the same time: so nothing is deleted but under a heartbeat, when nobody else has one, and what a deletion
relies on is verified after that. Nor does anything rely on a pack that a list of a prune names: backups take what it
holds for absent. FORMAT.md, "Packs".
"""

from __future__ import annotations

import contextlib
import math
import random
import time
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeVar

from pogfast._engine import cores
from pogfast.archives.lookup import Reports
from pogfast.errors import CorruptBlob, DamageError, MissingBlob, NoSuchArchive, PogfastError, StoreError, worst_code
from pogfast.sizes import many
from pogfast.stores import Stored, look_for_store, open_store, refuse_flat, settings
from pogfast.stores.fetching import fetched
from pogfast.stores.names import CONDEMNED, MAX_SETTINGS, PACKS, SETTINGS, SWEEP, SWEEPING, SWEPT
from pogfast.stores.packs import layout
from pogfast.stores.packs.catalog import Span
from pogfast.stores.packs.reading import read_blobs, read_part, read_table
from pogfast.stores.packs.sink import MIN_BLOBS, MIN_SIZE
from pogfast.stores.packs.store import PackedStore
from pogfast.stores.protocols import HoldsPacks, PackableStore, put_blob
from pogfast.stores.reliance import MAX_PAUSE, PAUSE, STALE, names_in
from pogfast.system.clock import Stopwatch
from pogfast.upkeep.heartbeat import Heartbeat, beating
from pogfast.upkeep.pack_copies import PackRows

if TYPE_CHECKING:
    from pogfast._engine import Buffer

Item = TypeVar("Item")

# Packs that are written or taken apart between two syncs.
AT_ONCE = 8
# Blobs that are read ahead.
AHEAD = 64
# Blobs that are deleted between two looks at what prunes condemn, and for how many seconds such a look is good.
BATCH = 1000
MAX_AGE = 300.0
# How often a pack is taken apart whose blobs somebody deletes again.
ATTEMPTS = 3


@dataclass
class Summary:
    """Counters, which another thread may read meanwhile. Sizes are bytes."""

    dry_run: bool = False
    packs: int = 0  # written, or taken apart and deleted
    packs_left: int = 0  # that are damaged or locked, and so stay
    total_blobs: int = 0
    total_size: int = 0
    blobs: int = 0  # of these, those that were moved
    size: int = 0
    locked: int = 0  # objects that cannot be deleted
    problems: list[PogfastError] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        return worst_code(problem.exit_code for problem in self.problems)

    def count(self, size: int) -> None:
        self.blobs += 1
        self.size += size


class Report(Reports, Protocol):
    """Receives what happens. Every method does nothing unless it is overridden."""

    def started(self, progress: Summary) -> None:
        """Called before anything is moved. The run goes on counting in `progress`."""
        return


class Silent(Report):
    """Reports nothing."""


def pack(store: str, *, dry_run: bool = False, report: Report | None = None) -> Summary:
    """Moves the small blobs of a store into packs, and has later backups into it pack. The size of packs is that in the
    settings, else that of the store, else the usual one. A second run continues the first. Raises UsageError,
    NoSuchArchive and StoreError."""
    summary = Summary(dry_run)
    with contextlib.closing(open_store(store)) as there:
        look_for_store(there)
        refuse_flat(there)
        now = there.pack_size if isinstance(there, PackedStore) else None
        size = settings.current().packs or now or layout.DEFAULT_SIZE
        if dry_run:
            chosen = layout.StoreSettings().packing(size)
            packed = there if isinstance(there, PackedStore) else PackedStore(_base_of(there), chosen)
            _Packing(packed, chosen, summary, report or Silent()).predict()
            return summary
    with settings.using(packs=size), contextlib.closing(open_store(store, create=True)) as opened:
        assert isinstance(opened, PackedStore)
        _Packing(opened, opened.settings, summary, report or Silent()).run()
    return summary


def unpack(store: str, *, dry_run: bool = False, report: Report | None = None) -> Summary:
    """Stores the blobs in packs as objects of their own, as later backups do, and deletes the packs. A damaged blob
    stays in its pack. A second run continues the first. Raises UsageError, NoSuchArchive and StoreError."""
    summary = Summary(dry_run)
    with contextlib.closing(open_store(store)) as opened:
        look_for_store(opened)
        if isinstance(opened, PackedStore):
            run = _Unpacking(opened, summary, report or Silent())
            run.predict() if dry_run else run.run()
    return summary


def _base_of(store: object) -> PackableStore:
    assert isinstance(store, HoldsPacks)
    return store  # type: ignore[return-value]  # both kinds of stores that hold packs are such


class _Lists:
    """Which packs and blobs prunes have condemned. What was once in a list counts as condemned."""

    def __init__(self, store: PackableStore) -> None:
        self.store = store
        self._known: set[str] = set()
        self._names: set[str] = set()

    def names(self) -> set[str]:
        """Returns what is condemned now. Raises StoreError."""
        for mark in self.store.prune_marks():
            if mark.name.startswith(CONDEMNED) and mark.name not in self._known:
                with contextlib.suppress(NoSuchArchive):  # what it named has just been deleted
                    self._names.update(names_in(self.store.get_manifest(mark.name)))
                    self._known.add(mark.name)
        return self._names


class _Run:
    """What both directions share."""

    def __init__(self, store: PackedStore, summary: Summary, report: Report) -> None:
        self.store = store
        self.base = store.base
        self.catalog = store.catalog
        self.summary = summary
        self.report = report

    def problem(self, error: PogfastError) -> None:
        self.summary.problems.append(error)
        self.report.problem(error)

    @contextlib.contextmanager
    def alone(self, *, is_packing: bool) -> Iterator[Heartbeat]:
        """Waits until nobody else deletes blobs or packs, and has others wait for the duration of a with-block. Raises
        StoreError, also if somebody converts the store in the other direction, and if this process was suspended."""
        pause = PAUSE
        while True:
            with beating(self.base, 0.0) as heartbeat:
                if heartbeat.is_alone():
                    self._check_settings(is_packing=is_packing)
                    yield heartbeat
                    if heartbeat.is_alive():
                        return
                    hint = "run it again: what is stored is kept"
                    raise StoreError(f"{self.base.label}: this run was suspended for too long to delete safely", hint)
            if pause == PAUSE:
                self.report.warning(
                    f"{self.base.label}: waiting until nobody else deletes blobs or packs; if that run was killed, "
                    f"this takes up to {STALE / 60:.0f} minutes"
                )
            time.sleep(random.uniform(pause / 2, pause))  # two that wait for each other must not stay in step
            pause = min(2 * pause, MAX_PAUSE)

    def _check_settings(self, *, is_packing: bool) -> None:
        """Raises StoreError if somebody converts the store in the other direction."""
        found = layout.StoreSettings.parse(self.base.get_object(SETTINGS, MAX_SETTINGS), self.base.label)
        if found.is_packing != is_packing:
            verb = "unpack" if is_packing else "pack"
            raise StoreError(f"{self.base.label}: `pogfast {verb}` has begun meanwhile", "run one of them at a time")


class _Packing(_Run):
    """Plain blobs move into packs."""

    def __init__(self, store: PackedStore, chosen: layout.StoreSettings, summary: Summary, report: Report) -> None:
        super().__init__(store, summary, report)
        self.size = chosen.size
        self.limit = chosen.limit
        self.lists = _Lists(store.base)
        self.written: set[str] = set()  # packs of this run

    def predict(self) -> None:
        """Counts what a run would do."""
        held, groups = self._chosen()
        self.summary.packs = len(groups)
        self._begin([*held, *(blob for group in groups for blob in group)])

    def run(self) -> None:
        held, groups = self._chosen()
        self._begin([*held, *(blob for group in groups for blob in group)])
        self._delete(held)
        before = set(self.catalog.packs)
        with ThreadPoolExecutor(max(cores(), self.base.parallel), "pogfast-pack") as threads:
            for some in _slices(groups, AT_ONCE):
                blobs = [blob for group in some for blob in group]
                for ahead in _slices(blobs, AHEAD):
                    for blob, data in zip(ahead, threads.map(self._read, ahead), strict=True):
                        if data is not None:
                            self.store.blobs(blob.name, memoryview(data))
                self.store.make_durable()
                self.written = set(self.catalog.packs) - before
                self.summary.packs = len(self.written)
                self._delete(blobs)
        self.base.drop_empty_folders()

    def _begin(self, blobs: Sequence[Stored]) -> None:
        self.summary.total_blobs = len(blobs)
        self.summary.total_size = sum(blob.size for blob in blobs)
        self.report.started(self.summary)

    def _chosen(self) -> tuple[list[Stored], list[list[Stored]]]:
        """Returns the small blobs that lie plain, in the order in which they were written: those that are in packs as
        well, and the others divided among new packs. What is left for a tiny pack stays, and so does what is locked,
        since it cannot be deleted, and what a power cut may have damaged: a pack would make it look intact."""
        listed = self.lists.names()
        small = [blob for blob in self.base.blob_names() if 0 < blob.size <= self.limit]
        locked = self.base.locked(blob.name for blob in small)
        self.summary.locked = len(locked)
        held: list[Stored] = []
        left: list[Stored] = []
        suspect = 0
        for blob in sorted(small, key=lambda blob: (blob.modified, blob.name)):
            if blob.name in locked:
                continue
            if self._spans(blob, listed):
                held.append(blob)
            elif self.base.size_of(blob.name) == blob.size:
                left.append(blob)
            else:
                suspect += 1
        if suspect:
            what = many(suspect, "blob")
            self.report.warning(f"{self.base.label}: {what} written just before a power cut or reboot: not packed")
        return held, self._groups(left)

    def _groups(self, blobs: Sequence[Stored]) -> list[list[Stored]]:
        """Divides blobs as the engine does."""
        groups: list[list[Stored]] = []
        size = self.size
        for blob in blobs:
            if size >= self.size or len(groups[-1]) >= layout.MAX_BLOBS:
                groups.append([])
                size = 0
            groups[-1].append(blob)
            size += blob.size
        if groups and (len(groups[-1]) < MIN_BLOBS or size < MIN_SIZE):
            del groups[-1]
        return groups

    def _spans(self, blob: Stored, listed: Collection[str]) -> list[Span]:
        """Returns the places of a blob in packs that are not condemned."""
        spans = self.catalog.holders(blob.name)
        return [span for span in spans if span.path not in listed and span.size == blob.size]

    def _read(self, blob: Stored) -> Buffer | None:
        """Returns a plain blob; None if it has vanished or is damaged, which is reported."""

        def look(data: Buffer) -> Buffer:
            if len(data) != blob.size:
                raise CorruptBlob(f"blob {blob.name} in {self.base.label} is cut short: it is not packed")
            return data

        try:
            return fetched(self.base, blob.name, look)
        except MissingBlob:
            return None
        except DamageError as error:
            self.problem(error)
            return None

    def _delete(self, blobs: Sequence[Stored]) -> None:
        """Deletes those plain blobs that lie in a durable pack."""
        for some in _slices(blobs, BATCH):
            with self.alone(is_packing=True) as heartbeat:
                watch = Stopwatch()
                listed = self.lists.names()
                tables = PackRows(self.store)
                going = [
                    blob for blob in some if any(self._is_in(blob, span, tables) for span in self._spans(blob, listed))
                ]
                newest = max((blob.modified for blob in going), default=0.0)
                before = math.nextafter(newest, math.inf)  # one that was stored again meanwhile stays
                may_delete = partial(_may_delete, watch, heartbeat)
                for gone in self.base.delete_old_blobs(going, before, may_delete):
                    self.summary.count(gone.size)

    def _is_in(self, blob: Stored, span: Span, tables: PackRows) -> bool:
        """Returns True if a pack has a blob, as its own table says. In a pack of another run the blob is read, too."""
        row = tables.row(blob.name, span)
        if row is None or span.path in self.written:
            return row is not None
        try:
            return layout.is_good_blob(row, read_part(self.base, span.path, row.offset, row.size))
        except DamageError:
            return False


class _Unpacking(_Run):
    """Blobs in packs become plain ones."""

    def predict(self) -> None:
        """Counts what a run would do."""
        sizes = {name: span.size for name, span in self.catalog.blobs()}
        self.summary.packs = len(self.catalog.packs)
        self.summary.total_blobs = len(sizes)
        self.summary.total_size = sum(sizes.values())
        self.report.started(self.summary)

    def run(self) -> None:
        if self.store.settings.is_packing:  # first, so that backups which begin now write no packs
            self.store.write_settings(self.store.settings.not_packing())
        self.catalog.refresh()
        packs = sorted(self.catalog.packs.values())
        self.locked = set(self.base.locked(pack.name for pack in packs))
        self.summary.locked = len(self.locked)
        self.summary.total_size = sum(pack.size for pack in packs)
        self.report.started(self.summary)
        for some in _slices(packs, AT_ONCE):
            deleted = self._unpack(some)
            self.summary.packs += deleted
            self.summary.packs_left += len(some) - deleted
        self._delete_indexes()

    def _unpack(self, packs: Sequence[Stored]) -> int:
        """Takes packs apart, and deletes those of which every blob lies plain, and durably so. Returns how many."""
        left, deleted = packs, 0
        for _ in range(ATTEMPTS):
            marks = self._sweeps()
            blobs = {pack: names for pack in left if (names := self._take_apart(pack)) is not None}
            self.base.make_durable()
            with self.alone(is_packing=False) as heartbeat:
                gone = self._deleted_since(marks, heartbeat, set().union(*blobs.values()))
                whole = [pack for pack, names in blobs.items() if names.isdisjoint(gone)]
                deleted += self._delete([pack for pack in whole if pack.name not in self.locked], heartbeat)
            left = [pack for pack, names in blobs.items() if not names.isdisjoint(gone)]
            if not left:
                return deleted
        raise StoreError(f"{self.base.label} is pruned at the same time", "run it again: what is stored is kept")

    def _sweeps(self) -> set[str]:
        """Returns the marks of those who delete blobs, which change when one begins and when it ends."""
        return {mark.name for mark in self.base.named(SWEEP) if mark.name.startswith((SWEEPING, SWEPT))}

    def _deleted_since(self, marks: Collection[str], heartbeat: Heartbeat, names: Collection[str]) -> set[str]:
        """Returns the blobs among these that somebody has deleted since there were these marks: a prune, or a run in
        the other direction, may have looked at the old plain copy of one right before the new one replaced it."""
        is_quiet = self._sweeps() - {SWEEPING + heartbeat.own} == marks
        if is_quiet and not any(mark.startswith(SWEEPING) for mark in marks):
            return set()
        return set(self.base.missing(names))

    def _delete(self, packs: Sequence[Stored], heartbeat: Heartbeat) -> int:
        """Deletes packs as they were listed. Returns how many are gone."""
        before = math.nextafter(max((pack.modified for pack in packs), default=0.0), math.inf)
        return sum(1 for _ in self.base.delete_old_blobs(packs, before, heartbeat.is_alive))

    def _take_apart(self, pack: Stored) -> set[str] | None:
        """Stores the blobs of a pack plain, and returns their names; None if the pack has to stay."""
        is_whole = True
        try:
            rows = layout.read_rows(read_table(self.base, pack))
            for row, blob in read_blobs(self.base, pack.name, rows):
                if blob is None:
                    is_whole = False
                    self.problem(
                        CorruptBlob(f"blob {row.name} in {pack.name} is damaged, and left there", path=pack.name)
                    )
                else:
                    put_blob(self.base, row.name, blob)
                    self.summary.count(row.size)
        except MissingBlob:  # somebody else has deleted it
            return None
        except DamageError as error:
            self.problem(type(error)(f"{pack.name} is left as it is: {error}", error.hint, path=pack.name))
            return None
        return {row.name for row in rows} if is_whole else None

    def _delete_indexes(self) -> None:
        """Deletes the index objects that are of no pack which is there."""
        there = {stored.name for stored in self.base.objects(PACKS)}
        packs = set(filter(layout.is_pack, there))
        paths = list(filter(layout.is_index_object, there))
        self.base.delete_blobs(path for path in paths if not self._covers(path, packs))

    def _covers(self, path: str, packs: Collection[str]) -> bool:
        """Returns True if an index object is of one of these packs, or if nobody knows."""
        if not packs:
            return False
        try:
            header = layout.read_header(self.base.get_object(path, layout.MAX_INDEX), path)
        except DamageError:
            return True
        return any(pack.path in packs for pack in header.packs)


def _may_delete(watch: Stopwatch, heartbeat: Heartbeat) -> bool:
    return watch.seconds() < MAX_AGE and heartbeat.is_alive()


def _slices(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    return (items[start : start + size] for start in range(0, len(items), size))

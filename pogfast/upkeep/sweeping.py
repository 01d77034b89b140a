"""Deletes blobs that no archive needs, while other processes write to the store, without a lock.

The prune that finds an unneeded blob does not delete it: it writes its name into a list, `condemned-...`, which writers
look for (stores/reliance.py). A prune that finds such a list after the grace period deletes the blobs that still no
manifest names and nobody has written again. Manifests must have been read within the five minutes before a deletion.
FORMAT.md, "Pruning and writing at the same time", has the rules and why they hold.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial

from pogfast.archives.manifests import needed_blobs
from pogfast.archives.refusals import hint_for_prune
from pogfast.errors import DamageError, MissingBlob, NoArchives, NoSuchArchive, PogfastError, StoreError, WrongKey
from pogfast.keys import Key
from pogfast.sizes import many
from pogfast.stores import REMOVED, Stored, is_partial, is_removed
from pogfast.stores.names import CONDEMNED, STAMP, SWEEP, SWEEPING, SWEPT, is_manifest, is_mark
from pogfast.stores.protocols import Store
from pogfast.stores.reliance import STALE
from pogfast.system.background import in_background
from pogfast.system.clock import Stopwatch, now

DAY = 24 * 3600.0
# Seconds that a run which was killed can be gone on with: then nobody minds its partial manifest any more.
PARTIAL_LIFE = 7 * DAY
FENCE = 300.0  # seconds that what was read of the manifests is believed before anything is deleted
SILENT = STALE / 3  # seconds without a sign of life that another prune cannot have taken for a crash
ATTEMPTS, PAUSE = 11, 0.2  # at what a moment may mend, and seconds between two
BATCH = 500  # blobs that are deleted at a time
MAX_NAMES = 100_000  # in a list: 4.5 MB
# A grace period that a run could sleep through between its last look for lists and its manifest.
SHORT = 3600.0


@dataclass
class Swept:
    """What was deleted, or would be. Sizes are bytes."""

    expired: int = 0  # archives that went earlier and cannot be brought back any more
    blobs: int = 0
    size: int = 0
    waiting: int = 0  # blobs that no archive needs, and that are still there: too young, or for a grace period
    waiting_size: int = 0
    locked: int = 0  # blobs that no archive needs, and nobody can delete yet
    deleted: list[str] = field(default_factory=list)


@dataclass
class _Held:
    """What lies in a store beside its blobs, and the names of the blobs that it needs, as it was read after `watch` was
    started. Of which archive each is is not kept: hundreds of archives need mostly the same millions of blobs."""

    watch: Stopwatch
    names: dict[str, Stored]
    archives: set[str] = field(default_factory=set)  # needed by archives that stay
    runs: set[str] = field(default_factory=set)  # by runs that go on
    removed: set[str] = field(default_factory=set)  # by removed archives, which can be brought back

    def is_fresh(self) -> bool:
        """Whether it was read so shortly ago that it can be believed before something is deleted."""
        return self.watch.seconds() < FENCE

    def is_live(self, blob: Stored) -> bool:
        """Whether an archive needs a blob, or a run that goes on."""
        return blob.name in self.archives or blob.name in self.runs

    def is_kept(self, blob: Stored) -> bool:
        """The same, or a removed archive."""
        return self.is_live(blob) or blob.name in self.removed

    def lists(self) -> list[Stored]:
        """Of condemned blobs, the oldest first."""
        return sorted((mark for name, mark in self.names.items() if name.startswith(CONDEMNED)), key=_written)


class Sweep:
    """One run over a store. `grace` are seconds; 0: at once, for who knows that nobody else writes. `warn` hears what
    the user should know. Everything raises StoreError, and what a manifest raises that cannot be read."""

    def __init__(
        self,
        store: Store,
        key: Key,
        grace: float,
        *,
        dry_run: bool = False,
        allow_missing: bool = False,
        warn: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.store = store
        self.key = key
        self.grace = grace
        self.dry_run = dry_run
        self.allow_missing = allow_missing
        self.warn = warn
        self.swept = Swept()
        self.own = ""  # the end of this run's marks
        self._passed_over: set[str] = set()  # removed archives that cannot be read
        self._said = Stopwatch()  # since it was last said that blobs are being deleted
        self._was_silent = False  # for so long that another prune may have begun
        self.time = 0.0  # of the store, when this run began

    def run(self, going: Sequence[str]) -> Swept:
        """Removes the archives of these manifests' names, and deletes what nothing needs. Raises NoArchives where that
        is everything, and MissingBlob where an archive that stays lacks a blob, unless that is allowed."""
        if self.dry_run:
            self.time = now()
        else:
            self.store.begin_sweep()
            self.time = self._time()
        held = self._read(going)
        self._check(held, going)
        if self.dry_run:
            self._foretell(held, going)
            return self.swept
        if not self.grace:
            self.warn("without a grace period, a backup that runs now, or begins before this ends, can lose blobs")
        elif self.grace < SHORT:
            self.warn(f"a grace period of less than {SHORT / 3600:.0f} h is safe only while nobody else writes")
        gone = set()
        for name in going:
            with contextlib.suppress(NoSuchArchive):  # another prune was faster
                self.store.remove_manifest(name)
                gone.add(name + REMOVED)
        self.swept.expired = len(self._delete_condemned() - gone)
        self._condemn()
        if not self.grace:
            self._delete_condemned()
            self.swept.waiting, self.swept.waiting_size = 0, 0
        return self.swept

    # ---- what there is ----

    def _time(self) -> float:
        """The time by the store's own clock, or an earlier one where nothing can be written. Raises StoreError."""
        own = STAMP + _unique()
        try:
            self.store.put_mark(own, b"")
        except StoreError:  # it is full: it is not earlier there than when anything in it was written
            return max((stored.modified for stored in self.store.named("")), default=0.0)
        marks = {mark.name: mark.modified for mark in self.store.named(SWEEP)}
        if own not in marks:
            raise StoreError(f"what was written to {self.store.label} does not show there: nothing was deleted")
        left = [name for name, modified in marks.items() if modified < marks[own] - DAY and not name.startswith(SWEPT)]
        self._delete_marks([own, *left])  # of prunes that were killed
        return marks[own]

    def _read(self, going: Collection[str] = ()) -> _Held:
        """Reads every manifest, the removed ones that can be brought back and those of runs that go on. Those of some
        names count as removed. Raises NoSuchArchive for one that is listed and never there."""
        for _ in range(ATTEMPTS):
            with contextlib.suppress(NoSuchArchive):  # it has another name now
                return self._read_once(frozenset(going))
            time.sleep(PAUSE)
        return self._read_once(frozenset(going))

    def _read_once(self, going: Collection[str]) -> _Held:
        """An archive changes its name when it is removed or brought back, and a listing that goes on meanwhile may show
        it under neither: so it is listed until two listings agree."""
        watch = Stopwatch()
        names: dict[str, Stored] = {}
        before: set[str] | None = None
        while True:
            listed = self._named()
            archives = {name for name in listed if _stands_for_archive(name)}
            names.update(listed)
            if archives == before:
                break
            before = archives
        counted = [stored for name, stored in sorted(names.items()) if self._counts(stored)]
        held = _Held(watch, names)
        for name, blobs in needed_blobs(self.store, self.key, counted, self._unreadable):
            if is_partial(name):
                held.runs.update(blobs)
            elif is_removed(name) or name in going:
                held.removed.update(blobs)
            else:
                held.archives.update(blobs)
        return held

    def _unreadable(self, name: str, error: PogfastError) -> None:
        """Raises why a manifest cannot be read, unless its archive was removed and it may be passed over."""
        if not isinstance(error, DamageError | WrongKey):
            raise error
        if not (is_removed(name) and self.allow_missing):
            error.hint = hint_for_prune(name, error)
            raise error
        if name not in self._passed_over:
            self._passed_over.add(name)
            self.warn(f"{error}: this removed archive is passed over, and goes with what it alone needs")

    def _named(self) -> dict[str, Stored]:
        """What is ours beside the blobs, by name; in a flat store blobs lie there, too."""
        listed = self.store.named("")
        return {each.name: each for each in listed if is_manifest(each.name) or is_mark(each.name)}

    def _counts(self, stored: Stored) -> bool:
        """Whether blobs are kept for what lies beside them: for an archive, one that was removed unless there is no
        grace period, and a run that was not killed too long ago."""
        return _stands_for_archive(stored.name) and not self._is_over(stored)

    def _is_over(self, stored: Stored) -> bool:
        """Whether it can go at once. A removed archive goes with a list, as blobs do: how old its name is says nothing
        of how long it could have been brought back."""
        if is_partial(stored.name):
            return not self.grace or stored.modified <= self.time - PARTIAL_LIFE
        return is_removed(stored.name) and not self.grace

    def _is_due(self, mark: Stored) -> bool:
        return not self.grace or mark.modified <= self.time - self.grace

    def _check(self, held: _Held, going: Collection[str]) -> None:
        archives = [stored for name, stored in sorted(held.names.items()) if is_manifest(name)]
        absent = set(held.archives)
        blobs = 0
        for blob in self.store.blob_names():
            blobs += 1
            absent.discard(blob.name)
        if blobs and not archives:  # manifests that are not where they belong would name these
            if not any(map(is_removed, held.names)):
                raise NoSuchArchive(
                    f"{self.store.label} has no archive yet: nothing was deleted",
                    hint="`pogfast list --partial` shows a run that goes on or was killed: run it again",
                )
            raise NoArchives(
                f"{self.store.label} has no archive but removed ones: nothing was deleted",
                hint="`pogfast undelete` brings them back; if nothing here is needed, delete the store itself",
            )
        if absent and not self.allow_missing:
            stay = [stored for stored in archives if stored.name not in going]
            needed = needed_blobs(self.store, self.key, stay)
            broken = [name for name, blobs in needed if not absent.isdisjoint(blobs)] or ["an archive"]
            raise MissingBlob(
                f"nothing was removed: {many(len(absent), 'blob')} that {broken[0]} needs are missing"
                + (f", and {many(len(broken) - 1, 'other archive')} lack some, too" if broken[1:] else ""),
                hint="`pogfast check` says which; --allow-missing prunes all the same",
            )

    def _foretell(self, held: _Held, going: Collection[str]) -> None:
        """Counts what a run would do now."""
        is_kept = held.is_kept if self.grace else held.is_live
        due = {} if not self.grace else self._names_of([mark for mark in held.lists() if self._is_due(mark)])
        unneeded = [blob for blob in self.store.blob_names() if not held.is_live(blob)]
        gone = [
            blob
            for blob in unneeded
            if not is_kept(blob) and (not self.grace or blob.modified < due.get(blob.name, -math.inf))
        ]
        locked = self.store.locked(blob.name for blob in gone)
        for blob in gone:
            if blob.name not in locked:
                self._count(blob)
        self.swept.locked = len(locked)
        counted = {*self.swept.deleted, *locked}
        self._count_waiting(blob for blob in unneeded if blob.name not in counted)
        self.swept.expired = sum(
            is_removed(name) and (not self.grace or mark.modified < due.get(name, -math.inf))
            for name, mark in held.names.items()
        )

    def _names_of(self, lists: Iterable[Stored]) -> dict[str, float]:
        """What is in lists, each name with when its newest one was written."""
        names: dict[str, float] = {}
        for mark in sorted(lists, key=_written):
            with contextlib.suppress(NoSuchArchive):  # another prune has seen to it
                listed = self.store.get_manifest(mark.name).decode("utf-8", "surrogateescape").split("\n")
                names.update(dict.fromkeys(listed, mark.modified))
        return names

    # ---- the second visit ----

    def _delete_condemned(self) -> set[str]:
        """Deletes what cannot be brought back any more, and what was condemned a grace period ago and nothing needs.
        Returns the names of the archives that cannot be brought back any more."""
        watch = Stopwatch()
        marks = self._named()
        due = [mark for name, mark in marks.items() if name.startswith(CONDEMNED) and self._is_due(mark)]
        listed = {mark.name: self._names_of([mark]) for mark in due}
        over = {name: mark for name, mark in marks.items() if self._is_over(mark)}
        for names in listed.values():
            over |= {name: marks[name] for name, when in names.items() if self._has_waited(marks.get(name), when)}

        def is_fresh() -> bool:
            return watch.seconds() < FENCE

        # Before the manifests are read: whoever brings one of these back looks afterwards whether it is still here.
        self.store.delete_as_listed(over.values(), is_fresh)
        if over and not is_fresh():  # one that is left may have been brought back, and removed again, since
            self._warn_of_pause()
            left = self._named()
            return {name for name in over if is_removed(name) and name not in left}
        if due:
            with self._announced() as alone:
                done = alone and self._delete_each(sorted(due, key=_written), listed)
                # While another prune deletes what is in a list it has to stay: backups that begin now look for it.
                done = done and self._is_heard()
            if done:
                self._delete_marks(mark.name for mark in due)
        return set(filter(is_removed, over))

    @staticmethod
    def _has_waited(mark: Stored | None, listed: float) -> bool:
        """Whether a removed archive has been one ever since a list was written."""
        return mark is not None and is_removed(mark.name) and mark.modified < listed

    @contextlib.contextmanager
    def _announced(self) -> Iterator[bool]:
        """Says in the store that blobs are being deleted, again and again, and afterwards that they have been. False:
        another prune is at it, or was killed a moment ago; it is best left alone, as some services cannot delete on
        condition."""
        self.own = _unique()
        self._said, self._was_silent = Stopwatch(), False

        def renew(ended: threading.Event) -> None:
            while not ended.wait(STALE / 10):
                with contextlib.suppress(StoreError):
                    self._say()

        self._say()
        try:
            with in_background(renew, "pogfast-sweep"):
                alone = self._is_alone()
                if not alone:
                    self.warn(f"{self.store.label}: another prune deletes blobs, or was killed: the next one goes on")
                yield alone
        except BaseException:
            with contextlib.suppress(StoreError):  # what was raised first is what should be heard
                self._say_over()
            raise
        self._say_over()

    def _say_over(self) -> None:
        """Says in the store that blobs have been deleted. Raises StoreError."""
        own = SWEPT + self.own
        self.store.put_mark(own, b"")
        old = {mark.name for mark in self.store.named(SWEPT)}
        self._delete_marks([SWEEPING + self.own, *(old - {own})])

    def _say(self) -> None:
        """Says in the store that blobs are being deleted. Raises StoreError."""
        said = Stopwatch()
        self._was_silent = self._was_silent or self._said.seconds() >= SILENT
        self.store.put_mark(SWEEPING + self.own, b"")
        self._said = said

    def _is_heard(self) -> bool:
        """Whether that was said so often that no other prune can have begun meanwhile, as it could beside one that was
        frozen. In this order: another thread says it."""
        return not self.grace or (self._said.seconds() < SILENT and not self._was_silent)

    def _may_delete(self, held: _Held) -> bool:
        """Asked right before anything is deleted."""
        return held.is_fresh() and self._is_heard()

    def _is_alone(self) -> bool:
        """Whether no other prune has said that it deletes blobs, a short while ago by the store's clock."""
        marks = {mark.name: mark.modified for mark in self.store.named(SWEEP)}
        latest = marks.pop(SWEEPING + self.own, self.time) - STALE
        return not self.grace or not any(
            name.startswith(SWEEPING) and modified > latest and SWEPT + name.removeprefix(SWEEPING) not in marks
            for name, modified in marks.items()
        )

    def _delete_each(self, due: Sequence[Stored], listed: Mapping[str, Mapping[str, float]]) -> bool:
        """Deletes what is in some lists, as `_delete` does. Blobs are listed once, and before the manifests are read:
        with ten million of them it takes longer than manifests are believed."""
        names = set().union(*listed.values())
        there = {blob.name: blob for blob in self.store.blob_names() if blob.name in names}
        for mark in due:
            blobs = [there[name] for name in listed[mark.name] if name in there]
            if not self._delete([blob for blob in blobs if blob.modified < mark.modified], mark.modified):
                return False
        return True

    def _delete(self, there: list[Stored], before: float) -> bool:
        """Deletes those of some blobs that nothing needs, unless they were written anew after some time; False: not all
        of them, since this run was frozen, or cannot read the manifests fast enough."""
        locked: dict[str, float] | None = None
        idle = 0
        while there:
            held = self._read()
            there = [blob for blob in there if not held.is_kept(blob)]
            if locked is None:
                locked = self.store.locked(blob.name for blob in there)
                self.swept.locked += len(locked)
                there = [blob for blob in there if blob.name not in locked]
            gone: set[str] = set()
            for start in range(0, len(there), BATCH):
                batch = there[start : start + BATCH]
                for blob in self.store.delete_old_blobs(batch, before, partial(self._may_delete, held)):
                    gone.add(blob.name)
                    self._count(blob)
            if not self._is_heard():
                self._warn_of_pause()
                return False
            if held.is_fresh():
                return True  # what is left was written anew
            there = [blob for blob in there if blob.name not in gone]
            idle = 0 if gone else idle + 1
            if idle > 1:
                self.warn(f"{self.store.label}: to read the manifests takes longer than {FENCE:.0f} s: blobs stay")
                return False
        return True

    def _warn_of_pause(self) -> None:
        self.warn(f"{self.store.label}: this prune has stood still too long to go on: the next one does")

    # ---- the first ----

    def _condemn(self) -> None:
        """Lists what no archive needs."""
        held = self._read()
        pending = self._names_of(held.lists())
        unneeded = [blob for blob in self.store.blob_names() if not held.is_live(blob)]
        old = [blob for blob in unneeded if not self.grace or blob.modified <= self.time - self.grace]
        fresh = [blob for blob in old if blob.name not in pending]
        locked = self.store.locked(blob.name for blob in fresh)
        self.swept.locked += len(locked)
        removed = [mark for name, mark in held.names.items() if is_removed(name)]
        going = [each for each in [*fresh, *removed] if each.name not in locked and each.name not in pending]
        listed = self._list(sorted(each for each in going if "\n" not in each.name))  # others are nobody's archives
        if not self.grace and not listed:  # there is no room
            with self._announced():
                self._delete([blob for blob in fresh if blob.name not in locked], math.inf)
        self._count_waiting(blob for blob in unneeded if blob.name not in locked)

    def _list(self, going: Sequence[Stored]) -> bool:
        """Writes lists of names; False: they cannot be written."""
        try:
            for start in range(0, len(going), MAX_NAMES):
                some = going[start : start + MAX_NAMES]
                self._put_list(b"".join(map(_line, some)), max(map(_written, some)))
        except StoreError as error:
            later = "" if not self.grace else ", and will not be deleted by the next prune: --now deletes at once"
            self.warn(f"{error}: what nothing needs could not be listed{later}")
            return False
        return True

    def _put_list(self, data: bytes, newest: float) -> None:
        """Writes a list that is newer than all that it names, by a clock that may tell whole seconds only."""
        name = CONDEMNED + _unique()
        for _ in range(ATTEMPTS):
            self.store.put_mark(name, data)
            if any(mark.modified > newest for mark in self.store.named(name)):
                return
            time.sleep(PAUSE)

    # ---- counting ----

    def _count(self, blob: Stored) -> None:
        self.swept.blobs += 1
        self.swept.size += blob.size
        self.swept.deleted.append(blob.name)

    def _count_waiting(self, blobs: Iterable[Stored]) -> None:
        for blob in blobs:
            self.swept.waiting += 1
            self.swept.waiting_size += blob.size

    def _delete_marks(self, names: Iterable[str]) -> None:
        """Who may not delete leaves them: they are in nobody's way."""
        with contextlib.suppress(StoreError):
            self.store.delete_manifests(names)


def _stands_for_archive(name: str) -> bool:
    return is_manifest(name) or is_removed(name) or is_partial(name)


def _unique() -> str:
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{os.urandom(4).hex()}"


def _written(mark: Stored) -> float:
    return mark.modified


def _line(stored: Stored) -> bytes:
    """A name in a list: those of archives may be any that a file can have."""
    return stored.name.encode("utf-8", "surrogateescape") + b"\n"

"""Deletes blobs that no archive needs, while other processes write to the store, without a lock.

A prune does not delete an unneeded blob that it finds: it writes the blob's name into a list, `condemned-...`, which
writers look for (stores/reliance.py). A later prune, a grace period after that, deletes the blobs of the list that are
still unneeded and have not been written again. needed.py reads what is needed, heartbeat.py tells others that blobs are
being deleted. FORMAT.md, "Pruning and writing at the same time", has the rules, numbered as here, and why they hold.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from pogfast.archives.catalog import Catalog
from pogfast.archives.manifests import needed_blobs
from pogfast.errors import CorruptBlob, MissingBlob, NoArchives, NoSuchArchive, PogfastError, StoreError
from pogfast.keys import Key
from pogfast.sizes import Share, many
from pogfast.stores import REMOVED, Stored, is_partial, is_removed
from pogfast.stores.names import CONDEMNED, STAMP, SWEEP, SWEPT, is_manifest, is_path
from pogfast.stores.protocols import CanRepack, Repacked, Store
from pogfast.stores.reliance import names_in
from pogfast.system.clock import Stopwatch, now
from pogfast.upkeep.heartbeat import Heartbeat, beating, delete_marks, unique
from pogfast.upkeep.needed import MAX_AGE, ManifestReader, Needed, written

DAY = 24 * 3600.0
# Of the store, at most: unneeded blobs that stay in packs with needed ones.
MAX_UNUSED = Share(percent=10)
# Seconds within which a killed backup can be continued; after that its partial manifest no longer counts.
PARTIAL_LIFE = 7 * DAY
# How often a list is written until it is newer than what it names, and the pause in seconds.
ATTEMPTS, PAUSE = 11, 0.2
BATCH = 500  # blobs that are deleted at a time
MAX_NAMES = 100_000  # in a list: 4.5 MB
# A grace period, in seconds, that a backup could be suspended for between its last look for lists and its manifest.
SHORT = 3600.0


@dataclass
class Swept:
    """What was deleted, or in a dry run would be. Sizes are bytes."""

    expired: int = 0  # removed archives that undelete can no longer restore
    blobs: int = 0
    size: int = 0
    waiting: int = 0  # unneeded blobs that are still there: too young, or within the grace period
    waiting_size: int = 0
    locked: int = 0  # unneeded blobs that nobody can delete yet
    packs: int = 0  # packs of blobs among what is deleted; `blobs` counts the unneeded ones in them
    waiting_packs: int = 0
    locked_packs: int = 0
    repacked: Repacked = field(default_factory=Repacked)
    until: float = 0.0  # what waits is deleted by the first prune after this time
    deleted: list[str] = field(default_factory=list)
    problems: list[PogfastError] = field(default_factory=list)


class Sweep:
    """One prune of a store. `grace` is in seconds; 0 deletes at once, for users who know that nobody else writes.

    `warn` gets what a user should know. Every method raises StoreError, and what a manifest raises that cannot be read.
    """

    def __init__(
        self,
        store: Store,
        key: Key,
        grace: float,
        *,
        dry_run: bool = False,
        allow_missing: bool = False,
        max_unused: Share = MAX_UNUSED,
        max_repack: Share | None = None,
        warn: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.store = store
        self.key = key
        self.grace = grace
        self.dry_run = dry_run
        self.allow_missing = allow_missing
        self.max_unused = max_unused
        self.max_repack = max_repack
        self.warn = warn
        self.swept = Swept()
        self.time = 0.0  # of the store's clock, when this run began
        self.catalog = Catalog(store, key)
        self._manifests = ManifestReader(store, self.catalog, self._counts, allow_missing=allow_missing, warn=warn)
        self._own_lists: dict[str, list[str]] = {}  # names in lists that this prune has written

    def run(self, going: Sequence[str]) -> Swept:
        """Removes the archives whose manifests are in `going`, and deletes what is unneeded.

        Raises NoArchives if no archive would be left to tell what is needed, and MissingBlob if an archive that stays
        lacks a blob, unless `allow_missing`.
        """
        with self.catalog:
            return self._run(going)

    def _run(self, going: Sequence[str]) -> Swept:
        self._begin()
        needed = self._read(going)
        self._refuse_without_archives(needed, going)
        if self.dry_run:
            self._predict(needed, going)
            return self.swept
        if not self.grace:  # _store_time has not
            marks = {name: mark.modified for name, mark in needed.marks.items()}
            self._delete_marks(marks, max(marks.values(), default=0.0))
        self._warn_of_short_grace()
        removed = self._remove(going)  # step 1 of FORMAT.md's
        self.swept.expired = len(self._delete_condemned() - removed)  # step 2
        needed = self._repack()  # step 3
        self._condemn(needed)  # step 4
        if isinstance(self.store, CanRepack):
            self.store.tidy(self.time - self.grace if self.grace else math.inf)
        if not self.grace:
            self._delete_condemned()  # its own list
            self.swept.waiting, self.swept.waiting_size, self.swept.waiting_packs = 0, 0, 0
        return self.swept

    # ---- before anything is deleted ----

    def _begin(self) -> None:
        if not self.dry_run:
            self.store.begin_sweep()
        # Without a grace period nothing depends on how old it is by the store's clock.
        self.time = now() if self.dry_run or not self.grace else self._store_time()
        self.swept.until = self.time + self.grace

    def _store_time(self) -> float:
        """Returns the time of the store's clock, or an earlier one if nothing can be written there."""
        own = STAMP + unique()
        try:
            self.store.put_mark(own, b"")
        except StoreError:  # full, for example: it cannot be earlier than what was last written
            return max((stored.modified for stored in self.store.named("")), default=0.0)
        marks = {mark.name: mark.modified for mark in self.store.named(SWEEP)}
        if own not in marks:
            raise StoreError(f"{self.store.label} does not list what was just written there: nothing was deleted")
        self._delete_marks(marks, marks[own], [own])
        return marks[own]

    def _delete_marks(self, marks: Mapping[str, float], time: float, own: Collection[str] = ()) -> None:
        """Deletes its own marks, and those that prunes have left which were killed a day before `time`."""
        sweeps = {name: modified for name, modified in marks.items() if name.startswith(SWEEP)}
        left = [name for name, modified in sweeps.items() if modified < time - DAY and not name.startswith(SWEPT)]
        if own or left:
            delete_marks(self.store, [*own, *left])

    def _read(self, going: Collection[str] = ()) -> Needed:
        return self._manifests.read(going)

    def _counts(self, mark: Stored) -> bool:
        """Returns True if the blobs that a manifest needs are kept for it."""
        return not self._is_over(mark)

    def _is_over(self, mark: Stored) -> bool:
        """Returns True if a partial manifest, or without a grace period a removed one, can be deleted at once.

        With a grace period a removed manifest is condemned by a list, as blobs are: the age of its name does not say
        for how long undelete could have restored it.
        """
        if is_partial(mark.name):
            return not self.grace or mark.modified <= self.time - PARTIAL_LIFE
        return is_removed(mark.name) and not self.grace

    def _is_due(self, condemned: Stored) -> bool:
        """Returns True if a list is at least a grace period old."""
        return not self.grace or condemned.modified <= self.time - self.grace

    def _refuse_without_archives(self, needed: Needed, going: Collection[str]) -> None:
        """Raises NoSuchArchive or NoArchives for blobs without an archive: manifests that are misplaced or lost would
        need them. Raises MissingBlob if archives need blobs that are missing, unless `allow_missing`."""
        archives = [mark for name, mark in sorted(needed.marks.items()) if is_manifest(name)]
        missing = set(needed.archives)
        blobs = 0
        for blob in self.store.blob_names():
            blobs += 1
            missing.discard(blob.name)
        if blobs and not archives:
            if not any(map(is_removed, needed.marks)):
                raise NoSuchArchive(
                    f"{self.store.label} has no archive yet: nothing was deleted",
                    hint="`pogfast list --partial` shows a backup that is running or was killed: run it again",
                )
            raise NoArchives(
                f"{self.store.label} has no archive but removed ones: nothing was deleted",
                hint="`pogfast undelete` restores them; if nothing here is needed, delete the store itself",
            )
        if missing and not self.allow_missing:
            staying = [stored for stored in archives if stored.name not in going]
            found = needed_blobs(self.catalog, staying)
            broken = [name for name, names in found if not missing.isdisjoint(names)] or ["an archive"]
            raise MissingBlob(
                f"nothing was removed: {many(len(missing), 'blob')} missing from {broken[0]}"
                + (f" and {many(len(broken) - 1, 'other archive')}" if broken[1:] else ""),
                hint="`pogfast check` lists them; --allow-missing prunes anyway",
            )

    def _warn_of_short_grace(self) -> None:
        if not self.grace:
            self.warn("without a grace period, a backup that runs now, or begins before this ends, can lose blobs")
        elif self.grace < SHORT:
            self.warn(f"a grace period of less than {SHORT / 3600:.0f} h is safe only while nobody else writes")

    def _predict(self, needed: Needed, archives_going: Sequence[str]) -> None:
        """Counts for a dry run what a run would do now."""
        lists = [] if not self.grace else [mark for mark in needed.lists() if self._is_due(mark)]
        listed = self._names_in(lists)

        def goes(stored: Stored) -> bool:
            """Without a grace period at once, else if a list that is due names it, and it is older than the list."""
            return not self.grace or stored.modified < listed.get(stored.name, -math.inf)

        is_kept = needed.is_kept if self.grace else needed.is_live
        unneeded = self.store.unneeded(None, needed.is_live)
        gone = self._without(filter(goes, unneeded), is_kept)
        locked = self.store.locked(blob.name for blob in gone)
        for blob in gone:
            if blob.name not in locked:
                self._count(blob, is_kept)
            else:
                self._count_locked([blob], is_kept)
        counted = {*self.swept.deleted, *locked}
        self._count_waiting((blob for blob in unneeded if blob.name not in counted), is_kept)
        expired = {name for name, mark in needed.marks.items() if is_removed(name) and goes(mark)}
        self.swept.expired = len(expired)
        if isinstance(self.store, CanRepack):
            if expired and self.grace:
                needed = self._manifests.read(archives_going, expired)
            going = listed.keys() | {blob.name for blob in unneeded}
            self._call_repack(needed.is_kept if self.grace else needed.is_live, going, dry_run=True)
            self._count_repacked()

    def _count_repacked(self) -> None:
        """Counts for a dry run the packs that a run would repack, and then delete or condemn."""
        done = self.swept.repacked
        if self.grace:
            self.swept.waiting += done.old_unneeded
            self.swept.waiting_packs += done.packs
            self.swept.waiting_size += done.old_size
        else:
            self.swept.blobs += done.old_unneeded
            self.swept.packs += done.packs
            self.swept.size += done.old_size

    # ---- step 1: archives become removed ones ----

    def _remove(self, going: Collection[str]) -> set[str]:
        """Removes archives, as far as no other prune has. Returns the names of their removed manifests."""
        if not self.grace:  # nobody could bring them back
            self.store.delete_manifests(going)
            return set()
        return {name + REMOVED for name in self.store.remove_manifests(going)}

    # ---- step 2: deletes what was condemned a grace period ago ----

    def _delete_condemned(self) -> set[str]:
        """Deletes the removed archives and the blobs in lists that are due, as far as no manifest needs the blobs.
        Returns the names of the removed manifests that are deleted."""
        watch = Stopwatch()
        marks = self._manifests.marks()
        due = sorted((mark for name, mark in marks.items() if self._is_due_list(name, mark)), key=written)
        listed = {mark.name: self._names_in([mark]) for mark in due}
        over = {name: mark for name, mark in marks.items() if self._is_over(mark)}
        for names in listed.values():
            over |= {
                name: marks[name] for name, when in names.items() if self._was_removed_before(marks.get(name), when)
            }

        # The manifests first, and only then those that stay are read: undelete looks, after it has stored a manifest
        # again, whether the removed one is still there. If it is, it has been in time for this reading.
        self.store.delete_as_listed(over.values(), lambda: watch.seconds() < MAX_AGE)
        if over and watch.seconds() >= MAX_AGE:
            # Too late: a manifest that is left may have been restored, and removed again, since it was listed.
            self._warn_of_pause()
            left = self._manifests.marks()
            return {name for name in over if is_removed(name) and name not in left}
        if due and self._delete_listed(due, listed):
            # Last: a list stays as long as anybody deletes its blobs, since backups that begin now look for it.
            delete_marks(self.store, [mark.name for mark in due])
        return set(filter(is_removed, over))

    def _is_due_list(self, name: str, mark: Stored) -> bool:
        return name.startswith(CONDEMNED) and self._is_due(mark)

    @staticmethod
    def _was_removed_before(mark: Stored | None, listed: float) -> bool:
        """Returns True if a removed archive has been one ever since a list of that time was written."""
        return mark is not None and is_removed(mark.name) and mark.modified < listed

    def _names_in(self, lists: Iterable[Stored]) -> dict[str, float]:
        """Returns the names in lists, each with the time of the newest list that has it."""
        names: dict[str, float] = {}
        for mark in sorted(lists, key=written):
            with contextlib.suppress(NoSuchArchive):  # another prune has deleted its blobs, and then the list
                listed = self._own_lists.get(mark.name) or names_in(self.store.get_manifest(mark.name))
                names.update(dict.fromkeys(listed, mark.modified))
        return names

    def _delete_listed(self, due: Sequence[Stored], listed: Mapping[str, Mapping[str, float]]) -> bool:
        """Deletes the blobs in lists. Returns True if all that could be deleted are, so that the lists can go."""
        with self._announced() as heartbeat:
            if heartbeat is None:
                return False
            # Blobs are listed once, and before the manifests are read: for ten million blobs that takes longer than a
            # reading of the manifests may be used.
            names = set().union(*listed.values())
            there = {blob.name: blob for blob in self.store.holders() if blob.name in names}
            for mark in due:
                blobs = [there[name] for name in listed[mark.name] if name in there]
                older = [blob for blob in blobs if blob.modified < mark.modified]
                if not self._delete(older, mark.modified, heartbeat):
                    return False
            return self._may_go_on(heartbeat)

    @contextlib.contextmanager
    def _announced(self) -> Iterator[Heartbeat | None]:
        """Keeps up the heartbeat while blobs are deleted. Yields None if another prune deletes, or was killed a moment
        ago: two are kept apart, since some services cannot delete on the condition that a blob is still the old one."""
        with beating(self.store, self.time) as heartbeat:
            alone = not self.grace or heartbeat.is_alone()
            if not alone:
                self.warn(
                    f"{self.store.label}: another prune or pack deletes blobs, or was killed: the next one continues"
                )
            yield heartbeat if alone else None

    def _delete(self, blobs: Sequence[Stored], before: float, heartbeat: Heartbeat) -> bool:
        """Deletes the unneeded ones of some blobs, unless they were written again after the time `before`.

        Returns False if not all are deleted, since this process was suspended or reads the manifests too slowly.
        """
        left = list(blobs)
        locked: dict[str, float] | None = None
        fruitless = 0  # rounds without a deletion
        while left:
            # Rule: no manifest needs the blob, as read less than five minutes ago.
            needed = self._read()
            left = self._without(left, needed.is_kept)
            # Rule: nobody can delete a locked blob.
            if locked is None:
                locked = self.store.locked(blob.name for blob in left)
                self._count_locked((blob for blob in left if blob.name in locked), needed.is_kept)
                left = [blob for blob in left if blob.name not in locked]
            # Rule: it was not written again. The store looks at each, right before it deletes it.
            gone = self._delete_old(left, before, needed, heartbeat)
            # Rule: after a silence of the heartbeat nothing more is deleted: another prune may have begun.
            if not self._may_go_on(heartbeat):
                self._warn_of_pause()
                return False
            if needed.is_fresh():
                return True  # what is left was written again
            # Rule: when the five minutes are over, the manifests are read again.
            left = [blob for blob in left if blob.name not in gone]
            fruitless = 0 if gone else fruitless + 1
            if fruitless > 1:
                self.warn(
                    f"{self.store.label}: reading the manifests takes longer than {MAX_AGE:.0f} s: the other blobs stay"
                )
                return False
        return True

    def _delete_old(self, blobs: Sequence[Stored], before: float, needed: Needed, heartbeat: Heartbeat) -> set[str]:
        """Deletes blobs that were written before a time, as long as that is allowed. Returns the names of those."""
        gone: set[str] = set()
        for start in range(0, len(blobs), BATCH):
            batch = blobs[start : start + BATCH]
            for blob in self.store.delete_old_blobs(batch, before, partial(self._may_delete, needed, heartbeat)):
                gone.add(blob.name)
                self._count(blob, needed.is_kept)
        return gone

    def _may_delete(self, needed: Needed, heartbeat: Heartbeat) -> bool:
        """The store asks this right before each deletion."""
        return needed.is_fresh() and self._may_go_on(heartbeat)

    def _may_go_on(self, heartbeat: Heartbeat) -> bool:
        return not self.grace or heartbeat.is_alive()

    def _warn_of_pause(self) -> None:
        self.warn(f"{self.store.label}: this prune was suspended for too long to continue safely: the next one will")

    # ---- step 3: stores anew what is needed in packs with much waste ----

    def _repack(self) -> Needed:
        """Stores blobs anew whose old packs are condemned next. A full disk is no reason not to condemn those. Returns
        what is needed."""
        needed = self._read()
        if not isinstance(self.store, CanRepack):
            return needed
        try:
            # Rule: what a removed archive needs stays as well, since undelete can restore it.
            self._call_repack(needed.is_kept, self._names_in(needed.lists()), dry_run=False)
        except StoreError as error:
            self.swept.problems.append(error)
        self.swept.problems += self.swept.repacked.unreadable
        self._tell_damage(needed)
        # What is condemned by an older reading is not lost: step 2 reads again. But writers would store it again.
        return needed if needed.is_fresh() else self._read()

    def _call_repack(self, is_kept: Callable[[str], bool], listed: Collection[str], *, dry_run: bool) -> None:
        if isinstance(self.store, CanRepack):
            self.swept.repacked = self.store.repack(
                is_kept,
                listed,
                before=self.time - self.grace if self.grace else math.inf,
                max_unused=self.max_unused,
                max_repack=self.max_repack,
                dry_run=dry_run,
            )

    def _tell_damage(self, needed: Needed) -> None:
        """Notes which archives need the blobs that are damaged."""
        damaged = dict(self.swept.repacked.damaged)
        if not damaged:
            return
        archives = [mark for name, mark in sorted(needed.marks.items()) if is_manifest(name)]
        of: dict[str, str] = {}
        for name, blobs in needed_blobs(self.catalog, archives):
            of.update((blob, of.get(blob, name)) for blob in damaged.keys() & set(blobs))
        for blob, pack in sorted(damaged.items()):
            said = f"{pack}: blob {blob} is damaged, which {of.get(blob, 'an archive')} needs: the pack stays"
            self.swept.problems.append(CorruptBlob(said, hint="`pogfast check --read-data` lists what is damaged"))

    # ---- step 4: condemns what is unneeded ----

    def _condemn(self, needed: Needed) -> None:
        """Writes the names of unneeded blobs, and of removed archives, into new lists."""
        pending = self._names_in(needed.lists())
        # Rule: no archive and no running backup needs it. What only a removed archive needs is condemned with it.
        # Nothing is taken to stay that is in a list: it goes first.
        unneeded = self.store.unneeded(None, needed.is_live, pending)
        # Rule: it is older than the grace period. A younger one may be of a backup that has not said what it needs.
        old = [blob for blob in unneeded if not self.grace or blob.modified <= self.time - self.grace]
        # Rule: it is in no list yet, so that its grace period does not begin again.
        fresh = [blob for blob in old if blob.name not in pending]
        # Rule: it can be deleted.
        locked = self.store.locked(blob.name for blob in fresh)
        self._count_locked((blob for blob in fresh if blob.name in locked), needed.is_live)
        removed = [mark for name, mark in needed.marks.items() if is_removed(name) and name not in pending]
        going = [each for each in [*fresh, *removed] if each.name not in locked]
        # A name with a line feed would become two in a list; pogfast gives no archive such a name.
        listed = self._write_lists(sorted(each for each in going if "\n" not in each.name))
        if not self.grace and not listed:  # the store is full: what is unneeded is deleted without a list
            with self._announced() as heartbeat:
                if heartbeat:
                    self._delete([blob for blob in fresh if blob.name not in locked], math.inf, heartbeat)
        self._count_waiting((blob for blob in unneeded if blob.name not in locked), needed.is_live)

    def _write_lists(self, going: Sequence[Stored]) -> bool:
        """Writes lists of names. Returns False if they cannot be written."""
        try:
            for start in range(0, len(going), MAX_NAMES):
                some = going[start : start + MAX_NAMES]
                self._write_list(some)
        except StoreError as error:
            later = "" if not self.grace else ", and the next prune will not delete them: --now deletes at once"
            self.warn(f"{error}: unneeded blobs could not be listed{later}")
            return False
        return True

    def _write_list(self, going: Sequence[Stored]) -> None:
        """Writes a list that is newer than all that it names, by a clock that may tell whole seconds only."""
        name, data, newest = CONDEMNED + unique(), b"".join(map(_line, going)), max(map(written, going))
        self._own_lists[name] = [each.name for each in going]
        for _ in range(ATTEMPTS):
            self.store.put_mark(name, data)
            if any(mark.modified > newest for mark in self.store.named(name)):
                return
            time.sleep(PAUSE)

    def _without(self, objects: Iterable[Stored], is_needed: Callable[[str], bool]) -> list[Stored]:
        """Returns those of some objects that can go: the oldest first, so that of two which hold the same blob the
        younger one stays."""
        return self.store.unneeded(sorted(objects, key=written), is_needed)

    # ---- counting ----

    def _count(self, holder: Stored, is_kept: Callable[[str], bool]) -> None:
        self.swept.blobs += self._blobs_in(holder, is_kept)
        self.swept.packs += is_path(holder.name)
        self.swept.size += holder.size
        self.swept.deleted.append(holder.name)

    def _count_waiting(self, holders: Iterable[Stored], is_kept: Callable[[str], bool]) -> None:
        for holder in holders:
            self.swept.waiting += self._blobs_in(holder, is_kept)
            self.swept.waiting_packs += is_path(holder.name)
            self.swept.waiting_size += holder.size

    def _count_locked(self, holders: Iterable[Stored], is_kept: Callable[[str], bool]) -> None:
        for holder in holders:
            self.swept.locked += self._blobs_in(holder, is_kept)
            self.swept.locked_packs += is_path(holder.name)

    def _blobs_in(self, holder: Stored, is_kept: Callable[[str], bool]) -> int:
        """Returns how many unneeded blobs an object has. In a pack are also some that lie elsewhere as well."""
        if not is_path(holder.name) or not isinstance(self.store, CanRepack):
            return 1
        return self.store.unneeded_in(holder, is_kept)


def _line(stored: Stored) -> bytes:
    """A name as it stands in a list. Archives may have any name that a file can have."""
    return stored.name.encode("utf-8", "surrogateescape") + b"\n"

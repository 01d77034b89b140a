"""Which blobs a backup may rely on in a store that is pruned at the same time, without a lock.

A prune does not delete unneeded blobs at once: it writes their names into a list, `condemned-...`, and a later prune,
after the grace period, deletes those that still no archive needs. A backup treats condemned blobs as absent and stores
them again. It reads the lists when it begins and again before it publishes its manifest; only a run that is suspended
for a whole grace period between that check and its manifest could miss one. Blobs that a prune is deleting right now
are in lists older than that. FORMAT.md, "Pruning and writing at the same time".
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, TypeVar

from pogfast.errors import DamageError, MissingBlob, NoSuchArchive, StoreError
from pogfast.sizes import many
from pogfast.stores.names import CONDEMNED, SWEEP, SWEEPING, SWEPT
from pogfast.system.clock import Stopwatch

if TYPE_CHECKING:
    from pogfast.stores.protocols import Store, Target

Result = TypeVar("Result")
Tell = Callable[[str], None]
Needed = Callable[[], Collection[str]]  # returns names of blobs; called only if they matter, since they may be many

PAUSE = 0.2  # seconds between checks whether a prune is deleting, at first; doubles each time
MAX_PAUSE = 10.0
STALE = 900.0  # seconds without a heartbeat after which a prune that was deleting counts as killed
# Seconds from the last check of the lists to the manifest, at most: a small fraction of any grace period.
MAX_UNCHECKED = 1800.0
PARTIAL_EVERY = 600.0  # seconds between two partial manifests of a run, and before the first
# The same where many machines share a run, so that one that dies costs seconds.
PARTIAL_OFTEN = 5.0
UNREADABLE = "no prune can read this list of blobs either: delete it while none runs"
ATTEMPTS = 5  # to store pruned blobs again before the run gives up


class Condemned(StoreError):
    """A prune has condemned or deleted blobs that a run relied on, `names`: the run has to store those it needs
    again."""

    def __init__(self, target: str, names: Collection[str]) -> None:
        said = f"{target}: a prune has removed {many(len(names), 'blob')} that this run needs"
        super().__init__(said, "run it again: what is stored is kept")
        self.names = frozenset(names)


class Reliance:
    """Tracks which blobs of one target a run may rely on. To be made before the run assumes that any blob exists.
    `tell` is called with what the run waits for. All methods raise StoreError."""

    def __init__(self, target: Target, tell: Tell = lambda text: None) -> None:
        self.target = target
        self.tell = tell
        self.doubted: set[str] = set()  # names that count as absent until this run stores them
        self._condemned: set[str] = set()  # blobs in newer lists that no archive has needed so far
        self._listed: set[str] = set()  # the objects that all lists name: blobs, and packs of blobs
        self._lists: set[str] = set()
        self._marks: frozenset[str] = frozenset()
        self._looked = Stopwatch()
        self._doubt(self._look()[0])

    def lacking(self, needed: Needed) -> set[str]:
        """Returns the blobs that an archive needs and that have to be stored again, since a prune condemned or deleted
        them; they count as absent from then on. To be repeated until there are none, directly before `publish`."""
        while True:
            fresh, swept = self._look()
            self._condemned |= fresh
            gone = self._condemned.intersection(needed()) if self._condemned else set()
            if swept:
                gone.update(self.target.missing(needed()))
            renewed = self.doubted.intersection(needed()) if self.doubted and not gone else set()
            # A running prune may have been about to delete the old copy of one when the new copy replaced it.
            waited = bool(renewed) and await_no_sweep(self.target, self.tell)
            gone.update(self.target.missing(renewed))
            if gone:
                self._condemned -= gone
                self._doubt(gone)
                return gone
            self.doubted -= renewed
            if not waited:
                return set()

    def publish(self, name: str, data: bytes, needed: Needed) -> None:
        """Stores the manifest of an archive that lacks no blob. Raises Condemned if it lacks one by then, because
        storing took long or a prune without a grace period has begun; the manifest is deleted then."""
        self.target.put_manifest(name, data)
        is_late = self._looked.seconds() > MAX_UNCHECKED
        if (is_late or self._sweeps() != self._marks) and (gone := self.lacking(needed)):
            # Without permission to delete, storing the blobs again makes this archive complete, too.
            with contextlib.suppress(StoreError):
                self.target.delete_manifests([name])
            raise Condemned(self.target.label, gone)

    def _look(self) -> tuple[set[str], bool]:
        """Returns (blobs in lists that are new, True if blobs may have been deleted since the last call). A blob that
        is also in an object which no list names is not among them.

        A prune deletes blobs, stores a mark, and then deletes their list: so lists are read before marks."""
        swept = False
        gone: set[str] = set()
        while True:
            self._looked = Stopwatch()
            found = [mark.name for mark in self.target.prune_marks()]
            lists = {name for name in found if name.startswith(CONDEMNED)}
            marks = frozenset(name for name in found if name.startswith((SWEEPING, SWEPT)))
            fresh: set[str] = set()
            late: set[str] = set()
            for name in lists - self._lists - gone:
                try:
                    fresh.update(names_in(self.target.get_manifest(name)))
                except NoSuchArchive:  # its blobs have just been deleted
                    late.add(name)
                except DamageError as error:  # only this target is given up
                    raise StoreError(f"{self.target.label}: {error}", UNREADABLE) from error
            if late:  # again: the mark has been stored since; some services list deleted objects for a while
                swept, gone = True, gone | late
                continue
            swept = swept or marks != self._marks
            self._lists, self._marks = lists, marks
            self._listed |= fresh
            return self.target.blobs_only_in(fresh, self._listed) if fresh else fresh, swept

    def _sweeps(self) -> frozenset[str]:
        """Returns the marks of prunes, which change when one begins to delete blobs and when it ends."""
        return frozenset(mark.name for mark in self.target.named(SWEEP) if mark.name.startswith((SWEEPING, SWEPT)))

    def _doubt(self, names: set[str]) -> None:
        if names:
            self.doubted |= names
            self.target.doubt(self.doubted)


def stored_again(conclude: Callable[[], Result], store: Callable[[Collection[str]], None]) -> Result:
    """Calls `conclude` and returns its result. Whenever it raises Condemned, `store` stores those blobs again, and
    `conclude` is called again. Raises Condemned after ATTEMPTS times, and what the two raise."""
    for _ in range(ATTEMPTS):
        try:
            return conclude()
        except Condemned as error:
            store(error.names)
    return conclude()


def publish_while(target: Store, name: str, data: bytes, others: Collection[str]) -> None:
    """Stores a manifest whose blobs are protected by one of `others`, names beside the manifests that prunes respect.
    If one of them still exists afterwards, no prune can have missed the new manifest. Otherwise makes the archive a
    removed one and raises MissingBlob. Raises StoreError, and its subclass Exists."""
    target.put_manifest(name, data)
    there = {mark.name for other in others for mark in target.named(other)}
    if not there.intersection(others):
        target.remove_manifest(name)  # another run may have restored it in time
        raise MissingBlob(f"{name}: its grace period is over: a prune deletes its blobs")


def names_in(data: bytes) -> list[str]:
    """Returns the names in a list of what is condemned: blobs, packs, and removed archives."""
    return data.decode("utf-8", "surrogateescape").split("\n")


def await_no_sweep(target: Target, tell: Tell = lambda text: None) -> bool:
    """Waits until no prune is deleting blobs; one without a heartbeat for STALE seconds counts as killed. Returns True
    if it had to wait. Raises StoreError."""
    seen: dict[str, tuple[float, Stopwatch]] = {}
    waited, pause = False, PAUSE
    while True:
        marks = {mark.name: mark.modified for mark in target.named(SWEEP)}
        seen = {
            name: seen[name] if name in seen and seen[name][0] == modified else (modified, Stopwatch())
            for name, modified in marks.items()
            if name.startswith(SWEEPING) and SWEPT + name.removeprefix(SWEEPING) not in marks
        }
        if not any(watch.seconds() < STALE for _, watch in seen.values()):
            return waited
        if not waited:
            tell(f"{target.label} is being pruned: waiting until no more blobs are deleted")
            waited = True
        time.sleep(pause)
        pause = min(2 * pause, MAX_PAUSE)

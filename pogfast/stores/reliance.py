"""What a backup may rely on in a store that somebody else prunes at the same time, without a lock.

A prune deletes no blob that it has only just chosen: it writes the names into a list, `condemned-...`, and a later
prune, a grace period after that, deletes what still nothing names. Whoever writes an archive takes condemned blobs for
absent and stores them anew; it looks for lists when it begins and again before its manifest appears, and only a run
that would sleep through a whole grace period between that look and its manifest could miss one. What a prune is
deleting right now lies in lists that are older than that. FORMAT.md, "Pruning and writing at the same time".
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, TypeVar

from pogfast.errors import DamageError, MissingBlob, NoSuchArchive, StoreError
from pogfast.sizes import many
from pogfast.stores.names import CONDEMNED, LIKE_A_BLOB, SWEEP, SWEEPING, SWEPT
from pogfast.system.clock import Stopwatch

if TYPE_CHECKING:
    from pogfast.stores.protocols import Store, Target

Result = TypeVar("Result")
Tell = Callable[[str], None]
Needed = Callable[[], Collection[str]]  # names of blobs, which may be many: only asked for where they matter

PAUSE = 0.2  # seconds between two looks at whether blobs are being deleted, at first; twice as many each time
LONGEST_PAUSE = 10.0
STALE = 900.0  # seconds without a sign of life after which whoever was deleting them was killed
# Seconds that a manifest may take to appear after the last look for lists: a small part of any grace period.
LONGEST = 1800.0
PARTIAL_EVERY = 600.0  # seconds between two partial manifests of a run, and before the first
UNREADABLE = "no prune can read this list of blobs either: delete it while none runs"
ATTEMPTS = 5  # to store again what has been pruned meanwhile, before a store is not believed any more


class Condemned(StoreError):
    """Blobs that a run relied on, of these `names`, have been condemned or deleted meanwhile: what it needs of them is
    to be stored again."""

    def __init__(self, target: str, names: Collection[str]) -> None:
        said = f"{target}: {many(len(names), 'blob')} that this archive needs have been pruned meanwhile"
        super().__init__(said, "run it again: what is stored is kept")
        self.names = frozenset(names)


class Reliance:
    """What one writer may rely on in one target, from when this is made: before the first blob is thought to be there.
    `tell` hears of what is waited for. Everything raises StoreError."""

    def __init__(self, target: Target, tell: Tell = lambda text: None) -> None:
        self.target = target
        self.tell = tell
        self.doubted: set[str] = set()  # names that count as absent until this run has stored them
        self._condemned: set[str] = set()  # names in lists that came since, and that no archive has needed so far
        self._lists: set[str] = set()
        self._marks: frozenset[str] = frozenset()
        self._looked = Stopwatch()
        self._doubt(self._look()[0])

    def lacking(self, needed: Needed) -> set[str]:
        """Which of the blobs that an archive needs are to be stored again, since they were condemned or deleted. They
        count as absent from then on; to be asked until there are none, and then `publish` at once."""
        while True:
            fresh, swept = self._look()
            self._condemned |= fresh
            gone = self._condemned.intersection(needed()) if self._condemned else set()
            if swept:
                gone.update(self.target.missing(needed()))
            renewed = self.doubted.intersection(needed()) if self.doubted and not gone else set()
            # A prune that deletes old ones of these may have been about to when the new one took its place.
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
        """Stores the manifest of an archive that lacks nothing. Raises Condemned if it does by then, since that took
        long, or a prune without a grace period has begun; there is no manifest then."""
        self.target.put_manifest(name, data)
        is_late = self._looked.seconds() > LONGEST
        if (is_late or self._sweeps() != self._marks) and (gone := self.lacking(needed)):
            # Who may not delete stores the blobs again all the same: then both archives are whole.
            with contextlib.suppress(StoreError):
                self.target.delete_manifests([name])
            raise Condemned(self.target.label, gone)

    def _look(self) -> tuple[set[str], bool]:
        """(names in lists that were not there before, whether blobs may have been deleted since the look before).

        A prune deletes blobs, says that it has, and then deletes the list that they were in: so lists come first."""
        swept = False
        gone: set[str] = set()
        while True:
            self._looked = Stopwatch()
            signs = [mark.name for mark in self.target.signs()]
            lists = {name for name in signs if name.startswith(CONDEMNED)}
            marks = frozenset(name for name in signs if name.startswith((SWEEPING, SWEPT)))
            fresh: set[str] = set()
            late: set[str] = set()
            for name in lists - self._lists - gone:
                try:
                    fresh.update(blobs_in(self.target.get_manifest(name)))
                except NoSuchArchive:  # its blobs have just been deleted
                    late.add(name)
                except DamageError as error:  # of this target alone: it is not relied on, others are
                    raise StoreError(f"{self.target.label}: {error}", UNREADABLE) from error
            if late:  # once more, as it has been said since; some services go on listing what is gone for a while
                swept, gone = True, gone | late
                continue
            swept = swept or marks != self._marks
            self._lists, self._marks = lists, marks
            return fresh, swept

    def _sweeps(self) -> frozenset[str]:
        """What prunes say of themselves: it changes when one begins to delete blobs, and when it ends."""
        return frozenset(mark.name for mark in self.target.named(SWEEP) if mark.name.startswith((SWEEPING, SWEPT)))

    def _doubt(self, names: set[str]) -> None:
        if names:
            self.doubted |= names
            self.target.doubt(self.doubted)


def stored_again(conclude: Callable[[], Result], store: Callable[[Collection[str]], None]) -> Result:
    """What `conclude` returns, after `store` has stored anew what a prune has condemned or deleted meanwhile. Raises
    Condemned when that never ends, and what the two raise."""
    for _ in range(ATTEMPTS):
        try:
            return conclude()
        except Condemned as error:
            store(error.names)
    return conclude()


def publish_while(target: Store, name: str, data: bytes, others: Collection[str]) -> None:
    """Stores a manifest of blobs that no prune deletes while it finds one of some `others` beside the manifests: if
    there is one afterwards, none has read the manifests too early. Raises StoreError, of these Exists, and MissingBlob
    if there is none; then the archive is a removed one."""
    target.put_manifest(name, data)
    there = {mark.name for other in others for mark in target.named(other)}
    if not there.intersection(others):
        target.remove_manifest(name)  # another run may have brought it back in time
        raise MissingBlob(f"{name}: its grace period is over: a prune deletes its blobs")


def blobs_in(data: bytes) -> list[str]:
    """The blobs in a list of what is condemned."""
    lines = data.decode("ascii", "replace").splitlines()
    return [line for line in lines if LIKE_A_BLOB.fullmatch(line)]


def await_no_sweep(target: Target, tell: Tell = lambda text: None) -> bool:
    """Returns when no blobs are being deleted, or whoever did has given no sign for a while: whether it had to wait.
    Raises StoreError."""
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
        pause = min(2 * pause, LONGEST_PAUSE)

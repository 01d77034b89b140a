"""Several stores that are written to at once: if one fails, the others still get the archive.

A target that fails is reported once and gets nothing more, not even the manifest: the archive must not appear there
before the next run has completed it. The run fails only if no target is left. Knows no kind of store.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from pogfast.errors import StoreError, StoreLost
from pogfast.stores.protocols import CanKeepUp, hint_of
from pogfast.stores.reliance import PARTIAL_EVERY, Condemned, Needed, Reliance
from pogfast.system.background import in_background
from pogfast.system.clock import Stopwatch

if TYPE_CHECKING:
    from pogfast._engine import Sink
    from pogfast.stores.protocols import Target


SYNC_EVERY = 0.5  # seconds between two checks whether enough new blobs wait for a sync
MIN_SYNCED = 1000  # new blobs that are worth a sync
PARTIAL_SHARE = 20  # the pause after a partial manifest is this many times what making and storing it took
MAX_PARTIAL_EVERY = 6 * 3600.0  # seconds between two of them at most: a fraction of a day's grace period


class Targets:
    """The targets of one run. `lost` is called for each target that is given up, `tell` with what the run waits for.
    When the last target fails, its StoreError is raised."""

    def __init__(
        self,
        targets: Sequence[Target],
        lost: Callable[[StoreLost], None],
        tell: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.left = list(targets)
        self._lost = lost
        self._tell = tell
        self._numbered: list[Target] = []
        self._reliance: dict[int, Reliance] = {}
        self.each(self._rely)

    def _rely(self, target: Target) -> None:
        self._reliance[id(target)] = Reliance(target, self._tell)

    def check_reliance(self, needed: Needed) -> None:
        """Raises Condemned if a prune has condemned or deleted blobs in a target that the archive needs: they count as
        absent from then on and have to be stored again. To be called right before `publish`. Raises StoreError."""
        gone: set[str] = set()
        self.each(lambda target: gone.update(self._reliance[id(target)].lacking(needed)))
        if gone:
            raise Condemned(", ".join(target.label for target in self.left), gone)

    def publish(self, name: str, data: bytes, needed: Needed) -> None:
        """Stores a manifest that names the blobs `needed` in every remaining target. Raises StoreError."""
        self.each(lambda target: self._reliance[id(target)].publish(name, data, needed))

    def put_partial(self, name: str, data: bytes) -> None:
        """Stores a partial manifest: the blobs that a running backup has stored or relies on, so that no prune deletes
        them. Raises StoreError."""

        def put(target: Target) -> None:
            target.begin_durable()  # another machine may go on from it, which does not know when this one was booted
            target.put_mark(name, data)

        self.each(put)

    def delete_partial(self, name: str) -> None:
        """Deletes the partial manifest once the archive exists. Without permission to delete it stays: prune ignores it
        after a week."""
        for target in self.left:
            with contextlib.suppress(StoreError):
                target.delete_manifests([name])

    @property
    def sinks(self) -> list[Sink]:
        """The sinks of the remaining targets, in order. Raises StoreError."""
        sinks: list[Sink] = []
        self.each(lambda target: sinks.append(target.blobs))
        self._numbered = list(self.left)
        return sinks

    @contextlib.contextmanager
    def written_to(self, blobs: Callable[[], int]) -> Iterator[None]:
        """Syncs the targets in the background while the block puts blobs; `blobs` returns how many were put so far.
        Without it 20,000 small files would take a quarter of a second to sync at the end. (Large blobs are written out
        as they are made: a sync would only slow them down.)"""

        def sync(ended: threading.Event) -> None:
            synced = 0
            while not ended.wait(SYNC_EVERY):
                for target in list(self.left):
                    if isinstance(target, CanKeepUp):
                        target.keep_up()
                if blobs() - synced >= MIN_SYNCED:
                    synced = blobs()
                    for target in list(self.left):
                        target.begin_durable()

        with in_background(sync, "pogfast-sync"):
            yield

    def each(self, act: Callable[[Target], object]) -> None:
        """Calls `act` for every remaining target. Raises StoreError."""
        for target in list(self.left):
            try:
                act(target)
            except StoreError as error:
                self._give_up(target, error)

    def drop(self, lost: Mapping[int, BaseException]) -> None:
        """Gives up the targets that the engine has lost, by their index in the last `sinks`. Raises StoreError."""
        for number, error in list(lost.items()):
            target = self._numbered[number]
            if target in self.left:
                self._give_up(target, _as_store_error(target, error))

    def _give_up(self, target: Target, error: StoreError) -> None:
        if self.left == [target]:
            raise error
        self.left.remove(target)
        hint = error.hint or "the next run completes it"
        self._lost(StoreLost(f"{error}: the archive is not in {target.label}", hint, path=target.label))


class Partial:
    """The partial manifest of a run: what the run has stored or relies on so far. No prune deletes those blobs for a
    week, and a killed run can be resumed. It is stored every so many seconds, by default from the tenth minute on."""

    def __init__(self, targets: Targets, name: str, every: float | None = None) -> None:
        self.targets = targets
        self.name = name
        self._watch = Stopwatch()
        self._least = PARTIAL_EVERY if every is None else every
        self._every = self._least
        self._is_there = False

    def is_due(self) -> bool:
        """Returns True when the next one has to be stored."""
        return self._watch.seconds() >= self._every

    def put(self, seal: Callable[[], bytes]) -> None:
        """Stores what `seal` returns. Raises StoreError."""
        took = Stopwatch()
        self.targets.put_partial(self.name, seal())
        # For ten million files it has a gigabyte: a run would do nothing but make and upload it.
        self._every = min(max(self._least, took.seconds() * PARTIAL_SHARE), MAX_PARTIAL_EVERY)
        self._watch, self._is_there = Stopwatch(), True

    def delete(self) -> None:
        """Deletes it, once the archive exists."""
        if self._is_there:
            self.targets.delete_partial(self.name)


def _as_store_error(target: Target, error: BaseException) -> StoreError:
    if isinstance(error, StoreError):
        return error
    said = error.strerror if isinstance(error, OSError) else None
    return StoreError(f"cannot write to {target.label}: {said or error}", hint_of(error))

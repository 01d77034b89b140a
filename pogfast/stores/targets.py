"""Several stores that are written to at once: what one of them cannot take, the others still get.

A target that fails is named once, gets nothing more, and no manifest: the archive is not to be seen there before the
next run has brought it up to date. Only when none is left does the run end. Knows no store by its kind.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from pogfast.errors import StoreError, StoreLost
from pogfast.stores.protocols import hint_of
from pogfast.stores.reliance import PARTIAL_EVERY, Condemned, Needed, Reliance
from pogfast.system.background import in_background
from pogfast.system.clock import Stopwatch

if TYPE_CHECKING:
    from pogfast._engine import Sink
    from pogfast.stores.protocols import Target


SETTLE = 0.5  # seconds between two looks after what is not on the disk yet
MANY = 1000  # blobs that are worth that
SPARE = 20  # times as long as a partial manifest took to store passes before the next
MAX_SELDOM = 6 * 3600.0  # seconds between two of them: a part of a day's grace period


class Targets:
    """The targets of one run. `lost` hears of each that is given up, `tell` what is waited for; StoreError is raised
    for the last one."""

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
        """Right before `publish`: raises Condemned for blobs that an archive needs and that are to be stored again in
        one of the targets, since a prune has condemned or deleted them there; they count as absent from then on. Raises
        StoreError."""
        gone: set[str] = set()
        self.each(lambda target: gone.update(self._reliance[id(target)].lacking(needed)))
        if gone:
            raise Condemned(", ".join(target.label for target in self.left), gone)

    def publish(self, name: str, data: bytes, needed: Needed) -> None:
        """Stores a manifest that names the blobs `needed` in every target that is left. Raises StoreError."""
        self.each(lambda target: self._reliance[id(target)].publish(name, data, needed))

    def put_partial(self, name: str, data: bytes) -> None:
        """Stores what a run that goes on has stored or relied on so far, so that no prune takes it. Raises
        StoreError."""
        self.each(lambda target: target.put_mark(name, data))

    def delete_partial(self, name: str) -> None:
        """When the archive is there. Who may not delete leaves it: it is for a week only."""
        for target in self.left:
            with contextlib.suppress(StoreError):
                target.delete_manifests([name])

    @property
    def sinks(self) -> list[Sink]:
        """Of the targets that are left, in their order. Raises StoreError."""
        sinks: list[Sink] = []
        self.each(lambda target: sinks.append(target.blobs))
        self._numbered = list(self.left)
        return sinks

    @contextlib.contextmanager
    def written_to(self, blobs: Callable[[], int]) -> Iterator[None]:
        """While blobs are put, of which `blobs` is the number so far: now and then what is there goes to the disk,
        beside the work. 20,000 small files would else be waited for a quarter of a second in the end. (Large blobs go
        there as they are made: a sync would only be in their way.)"""

        def settle(ended: threading.Event) -> None:
            settled = 0
            while not ended.wait(SETTLE):
                if blobs() - settled >= MANY:
                    settled = blobs()
                    for target in list(self.left):
                        target.begin_durable()

        with in_background(settle, "pogfast-settle"):
            yield

    def each(self, act: Callable[[Target], object]) -> None:
        """Does something with every target that is left. Raises StoreError."""
        for target in list(self.left):
            try:
                act(target)
            except StoreError as error:
                self._give_up(target, error)

    def drop(self, lost: Mapping[int, BaseException]) -> None:
        """Gives up those that the engine has lost, by their numbers among the last `sinks`. Raises StoreError."""
        for number, error in list(lost.items()):
            target = self._numbered[number]
            if target in self.left:
                self._give_up(target, _as_store_error(target, error))

    def _give_up(self, target: Target, error: StoreError) -> None:
        if self.left == [target]:
            raise error
        self.left.remove(target)
        hint = error.hint or "the next run brings it up to date"
        self._lost(StoreLost(f"{error}: the archive is not in {target.label}", hint, path=target.label))


class Partial:
    """What a run says of itself in its stores while it goes on, from its tenth minute: what it has stored or relied on
    so far, sealed as a manifest. So no prune takes that for as long as a week, and a run that was killed can be gone on
    with."""

    def __init__(self, targets: Targets, name: str) -> None:
        self.targets = targets
        self.name = name
        self._watch = Stopwatch()
        self._every = PARTIAL_EVERY
        self._is_there = False

    def is_due(self) -> bool:
        """Whether it is time to say it, again."""
        return self._watch.seconds() >= self._every

    def put(self, data: bytes) -> None:
        """Raises StoreError."""
        took = Stopwatch()
        self.targets.put_partial(self.name, data)
        # Of ten million files it has a gigabyte: a run would do nothing but send that.
        self._every = min(max(PARTIAL_EVERY, took.seconds() * SPARE), MAX_SELDOM)
        self._watch, self._is_there = Stopwatch(), True

    def delete(self) -> None:
        """The archive is there."""
        if self._is_there:
            self.targets.delete_partial(self.name)


def _as_store_error(target: Target, error: BaseException) -> StoreError:
    if isinstance(error, StoreError):
        return error
    said = error.strerror if isinstance(error, OSError) else None
    return StoreError(f"cannot write to {target.label}: {said or error}", hint_of(error))

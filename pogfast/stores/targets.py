"""Several stores that are written to at once: what one of them cannot take, the others still get.

A target that fails is named once, gets nothing more, and no manifest: the archive is not to be seen there before the
next run has brought it up to date. Only when none is left does the run end. Knows no store by its kind.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from pogfast.beside import beside
from pogfast.errors import StoreError, StoreLost
from pogfast.stores.local import SWEEPING, SWEPT

if TYPE_CHECKING:
    from pogfast._engine import Sink
    from pogfast.stores import Target


SETTLE = 0.5  # seconds between two looks after what is not on the disk yet
MANY = 1000  # blobs that are worth that
PAUSE = 0.2  # seconds between two looks at a sweep
STALE = 900.0  # seconds after which a sweep that has not said again that it runs was killed


def sweeps(target: Target) -> frozenset[str]:
    """What sweeps have said of themselves: when this changes, blobs may have been deleted. Raises StoreError."""
    return frozenset(mark.name for mark in target.marks() if mark.name.startswith((SWEEPING, SWEPT)))


def await_no_sweep(target: Target, tell: Callable[[str], None] = lambda text: None) -> frozenset[str]:
    """Returns when no blobs are being deleted, with what `sweeps` gave at that very look; `tell` hears that this takes
    a while. Raises StoreError."""
    told = False
    while True:
        marks = [mark for mark in target.marks() if mark.name.startswith((SWEEPING, SWEPT))]
        if not any(mark.name.startswith(SWEEPING) and time.time() - mark.modified < STALE for mark in marks):
            return frozenset(mark.name for mark in marks)
        if not told:
            tell(f"{target.label} is being pruned: waiting for its end, at most {STALE / 60:.0f} minutes")
            told = True
        time.sleep(PAUSE)


def publish(
    target: Target,
    name: str,
    data: bytes,
    blobs: Callable[[], Collection[str]],
    seen: frozenset[str],
    tell: Callable[[str], None] = lambda text: None,
) -> None:
    """Stores a manifest that can be relied on, whatever a sweep does meanwhile.

    A sweep announces itself before it reads the manifests. So either it reads this one, or its announcement shows here,
    before or after the manifest is there; then every blob is looked for. `seen` is what `sweeps` gave before the first
    blob was believed to be there; `tell` hears what is waited for. Raises StoreError; then there is no manifest.
    """
    now = await_no_sweep(target, tell)
    killed = any(mark.startswith(SWEEPING) for mark in now)
    if (now != seen or killed) and target.missing(blobs()):
        raise _swept(target)
    target.put_manifest(name, data)
    while sweeps(target) != now:
        now = await_no_sweep(target, tell)
        if target.missing(blobs()):
            target.delete_manifests([name])
            raise _swept(target)


def _swept(target: Target) -> StoreError:
    return StoreError(
        f"{target.label}: blobs that were there have been pruned meanwhile", "run it again: what is stored is kept"
    )


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
        self._seen: dict[int, frozenset[str]] = {}
        self.each(self._look)

    def _look(self, target: Target) -> None:
        self._seen[id(target)] = sweeps(target)

    def publish(self, name: str, data: bytes, blobs: Callable[[], Collection[str]]) -> None:
        """Stores a manifest that names `blobs` in every target that is left. Raises StoreError."""
        self.each(lambda target: publish(target, name, data, blobs, self._seen[id(target)], self._tell))

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

        with beside(settle, "pogfast-settle"):
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


def _as_store_error(target: Target, error: BaseException) -> StoreError:
    if isinstance(error, StoreError):
        return error
    said = error.strerror if isinstance(error, OSError) else None
    return StoreError(f"cannot write to {target.label}: {said or error}")

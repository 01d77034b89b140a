"""Several stores that are written to at once: what one of them cannot take, the others still get.

A target that fails is named once, gets nothing more, and no manifest: the archive is not to be seen there before the
next run has brought it up to date. Only when none is left does the run end. Knows no store by its kind.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from pogfast.errors import StoreError, StoreLost

if TYPE_CHECKING:
    from pogfast._engine import Sink
    from pogfast.stores import Target


class Targets:
    """The targets of one run. `lost` hears of each that is given up; StoreError is raised for the last one."""

    def __init__(self, targets: Sequence[Target], lost: Callable[[StoreLost], None]) -> None:
        self.left = list(targets)
        self._lost = lost
        self._numbered: list[Target] = []

    @property
    def sinks(self) -> list[Sink]:
        """Of the targets that are left, in their order. Raises StoreError."""
        sinks: list[Sink] = []
        self.each(lambda target: sinks.append(target.blobs))
        self._numbered = list(self.left)
        return sinks

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

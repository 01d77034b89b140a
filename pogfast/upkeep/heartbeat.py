"""A prune's heartbeat: a mark in the store that says that blobs are being deleted, written anew every 90 seconds.

Backups and other prunes take 15 minutes of silence for a crash. So a prune that was suspended for a while must not go
on deleting: by then another may have begun, or a backup may rely on the blobs. stores/reliance.py is the reader of
these marks, FORMAT.md has the rules ("Pruning and writing at the same time").
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

from pogfast.errors import StoreError
from pogfast.stores.names import SWEEP, SWEEPING, SWEPT
from pogfast.stores.protocols import Store
from pogfast.stores.reliance import STALE
from pogfast.system.background import in_background
from pogfast.system.clock import Stopwatch

# Seconds of silence after which this prune stops deleting: well before others take it for dead.
MAX_SILENCE = STALE / 3


class Heartbeat:
    """The heartbeat of one prune, while it deletes blobs. `now` is the store's time."""

    def __init__(self, store: Store, now: float) -> None:
        self.store = store
        self.now = now
        self.own = unique()  # the end of this run's marks
        self._beat = Stopwatch()  # since the mark was last written
        self._missed = False  # it once was not written for too long

    def beat(self) -> None:
        """Writes the mark. Raises StoreError."""
        started = Stopwatch()
        self._missed = self._missed or self._beat.seconds() >= MAX_SILENCE
        self.store.put_mark(SWEEPING + self.own, b"")
        self._beat = started

    def is_alive(self) -> bool:
        """Returns True if the mark has never been silent for too long, so that no other prune can have begun."""
        # In this order: another thread writes the mark, and sets _missed first.
        return self._beat.seconds() < MAX_SILENCE and not self._missed

    def is_alone(self) -> bool:
        """Returns True if no other prune has a heartbeat, by the store's clock. Raises StoreError."""
        marks = {mark.name: mark.modified for mark in self.store.named(SWEEP)}
        oldest = marks.pop(SWEEPING + self.own, self.now) - STALE
        return not any(
            name.startswith(SWEEPING) and modified > oldest and SWEPT + name.removeprefix(SWEEPING) not in marks
            for name, modified in marks.items()
        )

    def end(self) -> None:
        """Writes the mark that this prune has deleted blobs, and deletes its older ones. Raises StoreError."""
        own = SWEPT + self.own
        self.store.put_mark(own, b"")
        old = {mark.name for mark in self.store.named(SWEPT)}
        delete_marks(self.store, [SWEEPING + self.own, *(old - {own})])


@contextlib.contextmanager
def beating(store: Store, now: float) -> Iterator[Heartbeat]:
    """Keeps a heartbeat up for the duration of a with-block, in a thread. Raises StoreError."""
    heartbeat = Heartbeat(store, now)

    def renew(ended: threading.Event) -> None:
        while not ended.wait(STALE / 10):
            with contextlib.suppress(StoreError):
                heartbeat.beat()

    heartbeat.beat()
    try:
        with in_background(renew, "pogfast-sweep"):
            yield heartbeat
    except BaseException:
        with contextlib.suppress(StoreError):  # the first error is the one to report
            heartbeat.end()
        raise
    heartbeat.end()


def delete_marks(store: Store, names: Iterable[str]) -> None:
    """Deletes marks that have served; without the right to delete they stay, which does no harm."""
    with contextlib.suppress(StoreError):
        store.delete_manifests(names)


def unique() -> str:
    """Returns the end of a mark's name that no other process will take."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{os.urandom(4).hex()}"

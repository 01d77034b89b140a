"""Files from blobs: places and entries become files under temporary names, and then under their own.

The way that `pogfast restore` and `pog --decrypt` share: directories.py says where an entry may lie, and the engine
opens, checks and writes. What becomes of each is told in the order of the places.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Literal, Protocol

from pogfast._engine import VERDICT, BlobDirectory, Opened, Opener, Wanted
from pogfast.archives.verdicts import DAMAGE
from pogfast.errors import (
    CorruptManifest,
    PogfastError,
    StoreError,
    TargetError,
)
from pogfast.files.directories import FATAL_ERRNOS, Directories, no_more
from pogfast.files.paths import parent_of
from pogfast.files.unfinished import temporary_prefix
from pogfast.keys import Key
from pogfast.recovery.plan import Place
from pogfast.stores.fetching import prefetch

if TYPE_CHECKING:
    from pogfast._engine import Buffer

# Files that the engine is given at a time: what is known of them is in memory.
MAX_FILES = 32_768
# And at first, where a blob that is fetched again costs nothing: so soon the engine begins.
FIRST_FILES = 1024

# What became of something in an archive. "metadata": it was there with the right content, and only that was set.
# "differs": that may not be changed. "deleted": it lay below the directory and is not in the archive.
Outcome = Literal["restored", "metadata", "unchanged", "differs", "refused", "deleted"]


class Finisher(Protocol):
    """What is left to do for files that are whole and have their names."""

    def add(self, place: Place, wanted: Wanted) -> None:
        """Takes note of one. Raises StoreError."""

    def settle(self) -> None:
        """Does it for those that were added. Raises StoreError."""


def restore_places(
    places: Iterable[Place],
    ask: Callable[[Place], Wanted | Outcome],
    key: Key,
    blobs: BlobDirectory | Callable[[str], Buffer],
    jobs: int,
    directories: Directories,
    watch: Callable[[Callable[[], int]], None] = lambda written: None,
    finisher: Finisher | None = None,
) -> Generator[Opened | Outcome | PogfastError, None, None]:
    """For each place in its turn what became of it: Opened when the file is whole and has its name now.

    `ask` says what the engine is to do, or that nothing is to be done; a batch is asked for while the engine is at work
    on the one before. `watch` gets a function that tells how many plain bytes are written so far of a batch, in
    unfinished files as well. `finisher` gets each file that is whole, and settles them before their directories are
    closed; not when the caller closes this before its end. To be closed before the directories are, whatever happens:
    workers write through their descriptors.
    """
    running: _Batch | None = None
    files = FIRST_FILES if isinstance(blobs, BlobDirectory) else MAX_FILES
    try:
        for batch in _batches(places, max(1, directories.most // 2), files):
            asked = [_asked(ask, place) for place in batch]
            if running is not None:
                yield from running.results(finisher)
            running = _Batch(batch, asked, key, blobs, jobs)
            watch(running.opener.written)
            if finisher is not None:
                finisher.settle()
            directories.close(keep={parent_of(place.path) for place in batch})
        if running is not None:
            yield from running.results(finisher)
        if finisher is not None:
            finisher.settle()
    finally:
        if running is not None:
            running.opener.stop()
        watch(lambda: 0)
    directories.close()


def _batches(places: Iterable[Place], most_directories: int, files: int) -> Iterator[list[Place]]:
    """Cuts a restore where it would hold too many directories open, or too many files in memory. Each batch has twice
    as many files as the one before, from `files` on, so that the engine begins soon."""
    batch: list[Place] = []
    parents: set[str] = set()
    for place in places:
        parents.add(parent_of(place.path))
        if len(parents) > most_directories or len(batch) == files:
            yield batch
            batch, parents, files = [], {parent_of(place.path)}, min(2 * files, MAX_FILES)
        batch.append(place)
    if batch:
        yield batch


class _Batch:
    """Files that the engine is at work on."""

    def __init__(
        self,
        places: Sequence[Place],
        asked: Sequence[Wanted | Outcome | PogfastError],
        key: Key,
        blobs: BlobDirectory | Callable[[str], Buffer],
        jobs: int,
    ) -> None:
        self.places = places
        self.asked = asked
        files = [wanted for wanted in asked if isinstance(wanted, Wanted)]
        prefetch(blobs, (blob for wanted in files for blob in wanted.blobs))
        temporary = temporary_prefix()
        self.opener = Opener(key.secret, key.private, key.asymmetric, files, blobs, jobs=jobs, temporary=temporary)
        self.opener.start()

    def results(self, finisher: Finisher | None) -> Iterator[Opened | Outcome | PogfastError]:
        with contextlib.closing(self.opener.run()) as run:
            for place, wanted in zip(self.places, self.asked, strict=True):
                if not isinstance(wanted, Wanted):
                    yield wanted
                    continue
                result = _judged(place.name, wanted.blobs, next(run))
                if finisher is not None and isinstance(result, Opened):
                    finisher.add(place, wanted)
                yield result


def _asked(ask: Callable[[Place], Wanted | Outcome], place: Place) -> Wanted | Outcome | PogfastError:
    try:
        if place.problem:
            raise place.problem
        return ask(place)
    except StoreError:
        raise
    except PogfastError as error:
        return error


def _judged(name: str, blobs: Sequence[str], opened: Opened) -> Opened | PogfastError:
    """Raises StoreError when no further file can be restored."""
    if opened.verdict == VERDICT["good"]:
        return opened
    if opened.verdict in DAMAGE and not blobs:
        return CorruptManifest(f"{name}: it has a size and no blobs")
    blob = blobs[opened.blob] if blobs else ""
    if opened.verdict in DAMAGE:
        kind, text = DAMAGE[opened.verdict]
        return kind(f"{name}: blob {blob} {text}")
    if opened.verdict == VERDICT["no room"]:  # for as many bytes as the archive says that it has, which may be wrong
        return TargetError(f"{name}: there is no room for it: {os.strerror(opened.errno)}")
    if opened.verdict == VERDICT["bad read"] and opened.errno not in FATAL_ERRNOS - {
        errno.ENOMEM
    }:  # for this blob alone
        return TargetError(f"{name}: cannot read blob {blob}: {os.strerror(opened.errno)}")
    return cannot_write(name, opened.errno)


def cannot_write(name: str, code: int) -> TargetError:
    """Why something could not be made, from an errno. Raises StoreError when no further one could be."""
    if code in FATAL_ERRNOS:
        raise no_more(f"cannot restore {name}", code)
    return TargetError(f"{name}: cannot be written: {os.strerror(code)}")

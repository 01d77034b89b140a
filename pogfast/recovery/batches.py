"""Restores files from blobs, in batches: the engine writes each under a temporary name and then renames it.

Used by `pogfast restore` and `pog --decrypt`. The caller says what to do with each file, files/directories.py opens the
directories, and the engine decrypts, verifies and writes. Results come in the order of the places, or in that in which
the source is read fastest.
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
from pogfast.manifest import Entry
from pogfast.recovery.plan import Place
from pogfast.stores.fetching import prefetch
from pogfast.stores.protocols import CanOrder
from pogfast.stores.publish import why_not_read

if TYPE_CHECKING:
    from pogfast._engine import Buffer

# Files in a batch: everything known about them is in memory.
MAX_FILES = 32_768
# And in the first one, so that the engine begins soon: where fetching a blob twice costs nothing, and in packs, where a
# batch costs a few requests.
FIRST_FILES = 1024
FIRST_FILES_IN_PACKS = 4096

# The result for an entry. "metadata": the content existed already, only the metadata was set. "differs": the metadata
# differs, but may not be changed. "deleted": it existed below the target directory and is not in the archive.
Outcome = Literal["restored", "metadata", "unchanged", "differs", "refused", "deleted"]


class Finisher(Protocol):
    """Finishes files that are complete and have their names."""

    def add(self, place: Place, wanted: Wanted) -> None:
        """Adds a file. Raises StoreError."""

    def flush(self) -> None:
        """Finishes the files that were added. Raises StoreError."""


class Opens(Protocol):
    """Opens files: the engine's Opener, or the workers of an executor."""

    def start(self) -> None: ...
    def run(self) -> Generator[Opened, None, None]: ...
    def written(self) -> int: ...
    def stop(self) -> None: ...


OpenBatch = Callable[[Sequence[tuple[Place, Wanted]]], Opens]


def restore_places(
    places: Iterable[Place],
    prepare: Callable[[Place], Wanted | Outcome],
    key: Key,
    blobs: BlobDirectory | Callable[[str], Buffer],
    jobs: int,
    directories: Directories,
    watch: Callable[[Callable[[], int]], None] = lambda written: None,
    finisher: Finisher | None = None,
    open_batch: OpenBatch | None = None,
) -> Generator[tuple[Place, Opened | Outcome | PogfastError], None, None]:
    """Restores files. Yields each place with its result: Opened if the file is complete and has its name.

    `prepare` returns what the engine is to do, or an outcome if nothing is to be done. A batch is prepared while the
    engine works on the one before. `watch` is called with a function that returns how many uncompressed bytes of the
    batch are written so far, including unfinished files. `finisher` gets each complete file, and is flushed before the
    directories are closed, unless the caller closes this generator early. Close the generator before `directories` in
    any case, since workers write through their descriptors. `open_batch` has files opened by others than the engine
    here. Raises StoreError if no further file could be restored.
    """

    def open_here(batch: Sequence[tuple[Place, Wanted]]) -> Opens:
        prefetch(blobs, (blob for _, wanted in batch for blob in wanted.blobs))
        asked = [wanted for _, wanted in batch]
        temporary = temporary_prefix()
        return Opener(key.secret, key.private, key.asymmetric, asked, blobs, jobs=jobs, temporary=temporary)

    running: _Batch | None = None
    files = MAX_FILES
    if open_batch is not None:
        pass
    elif isinstance(blobs, BlobDirectory):
        files = FIRST_FILES
    elif isinstance(blobs, CanOrder):
        files = FIRST_FILES_IN_PACKS
    try:
        for batch in _batches(places, max(1, directories.max_open // 2), files):
            prepared = _in_order(blobs, [(place, _prepared(prepare, place)) for place in batch])
            if running is not None:
                yield from running.results(finisher)
            running = _Batch(prepared, open_batch or open_here)
            watch(running.opener.written)
            if finisher is not None:
                finisher.flush()
            directories.close(keep={parent_of(place.path) for place in batch})
        if running is not None:
            yield from running.results(finisher)
        if finisher is not None:
            finisher.flush()
    finally:
        if running is not None:
            running.opener.stop()
        watch(lambda: 0)
    directories.close()


def restore_to_nowhere(
    name: str, entry: Entry, key: Key, blobs: BlobDirectory | Callable[[str], Buffer], jobs: int
) -> tuple[int, PogfastError | None]:
    """Does everything that restoring a file takes but writing it. Returns its uncompressed bytes, and what kept it from
    being restored. Raises StoreError."""
    size = -1 if entry.size is None else entry.size
    wanted = Wanted(-1, b"", entry.blobs, entry.sizes, size, entry.atime_ns, entry.mtime_ns)
    opener = Opener(key.secret, key.private, key.asymmetric, [wanted], blobs, jobs=jobs)
    with contextlib.closing(opener.run()) as run:
        result = _result(name, entry.blobs, next(run))
        return opener.written(), result if isinstance(result, PogfastError) else None


def _batches(places: Iterable[Place], most_directories: int, files: int) -> Iterator[list[Place]]:
    """Divides places into batches, so that not too many directories are open and not too many files in memory. The
    first has `files` files, each further one twice as many, so that the engine begins soon."""
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


def _in_order(
    blobs: BlobDirectory | Callable[[str], Buffer], prepared: list[tuple[Place, Wanted | Outcome | PogfastError]]
) -> list[tuple[Place, Wanted | Outcome | PogfastError]]:
    """Returns the files of a batch in the order in which their blobs are read fastest."""
    if not isinstance(blobs, CanOrder):
        return prepared
    groups = [wanted.blobs if isinstance(wanted, Wanted) else () for _, wanted in prepared]
    return [prepared[position] for position in blobs.order(groups)]


class _Batch:
    """Files that are being opened."""

    def __init__(
        self, prepared: Sequence[tuple[Place, Wanted | Outcome | PogfastError]], open_batch: OpenBatch
    ) -> None:
        self.prepared = prepared
        self.opener = open_batch([(place, wanted) for place, wanted in prepared if isinstance(wanted, Wanted)])
        self.opener.start()

    def results(self, finisher: Finisher | None) -> Iterator[tuple[Place, Opened | Outcome | PogfastError]]:
        """Yields each place with its result. Raises StoreError."""
        with contextlib.closing(self.opener.run()) as run:
            for place, wanted in self.prepared:
                if not isinstance(wanted, Wanted):
                    yield place, wanted
                    continue
                result = _result(place.name, wanted.blobs, next(run))
                if finisher is not None and isinstance(result, Opened):
                    finisher.add(place, wanted)
                yield place, result


def _prepared(prepare: Callable[[Place], Wanted | Outcome], place: Place) -> Wanted | Outcome | PogfastError:
    """Calls `prepare`. Returns its error, except a StoreError, which is raised."""
    try:
        if place.problem:
            raise place.problem
        return prepare(place)
    except StoreError:
        raise
    except PogfastError as error:
        return error


def _result(name: str, blobs: Sequence[str], opened: Opened) -> Opened | PogfastError:
    """Returns the engine's result for a file, as an error if it failed. Raises StoreError if no further file could be
    restored."""
    if opened.verdict == VERDICT["good"]:
        return opened
    if opened.verdict in DAMAGE and not blobs:
        return CorruptManifest(f"{name}: it has a size but no blobs")
    blob = blobs[opened.blob] if blobs else ""
    if opened.verdict in DAMAGE:
        kind, text = DAMAGE[opened.verdict]
        return kind(f"{name}: blob {blob} {text}")
    if opened.verdict == VERDICT["no room"]:  # for the size in the archive, which may be wrong
        return TargetError(f"{name}: not enough space for it: {os.strerror(opened.errno)}")
    fatal = FATAL_ERRNOS - {errno.ENOMEM}  # memory may be missing for this blob only
    if opened.verdict == VERDICT["bad read"] and opened.errno not in fatal:
        return TargetError(f"{name}: cannot read blob {blob}: {why_not_read(opened.errno)}")
    return cannot_write(name, opened.errno)


def cannot_write(name: str, code: int) -> TargetError:
    """Returns the error for an errno of creating something. Raises StoreError if nothing more could be created."""
    if code in FATAL_ERRNOS:
        raise no_more(f"cannot restore {name}", code)
    return TargetError(f"{name}: cannot be written: {os.strerror(code)}")

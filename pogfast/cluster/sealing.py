"""The files of a create, sealed by a crew: what the engine's Sealer is on one machine, with the same events in the same
order, so that the archive is the same.

Small files travel together, up to a number and a size; a large file that is cut in fixed sizes is divided into parts,
which any workers read. If the parts are not of one version of the file, it counts as changed while it was read.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from pogfast._engine import FilePart, Known, Sealed, Tallied
from pogfast.cluster import worker
from pogfast.cluster.crews import Crew
from pogfast.cluster.line import Line
from pogfast.cluster.tally import WorkerTally
from pogfast.cluster.units import Piece, SealingJob, SealingResult, SealingUnit
from pogfast.errors import PogfastError
from pogfast.manifest import is_blob_name

UNIT_FILES = 1024
UNIT_SIZE = 64_000_000  # bytes of small files
# Bytes of a part of a large file, about. Those of a very large one are longer, so that a scheduler, which takes some
# milliseconds for each, keeps up with many workers.
PART_SIZE, MAX_PART_SIZE = 256_000_000, 1_000_000_000
PARTS = 4096  # before they are longer
NOT_READ = Sealed(0, [], [], [], [], True, 0, True, 0, 0, 0, 0, 0, False)  # changed: it is read again


class _Place(NamedTuple):
    """Where a piece belongs."""

    piece: Piece
    size: int  # bytes, about
    known: Known | None  # what was stored before the first part of a file
    is_first: bool
    is_last: bool


@dataclass
class _Batch:
    places: list[_Place] = field(default_factory=list)
    size: int = 0

    def takes(self, size: int) -> bool:
        """Returns True unless a piece of so many bytes has to begin another unit."""
        return not self.places or (len(self.places) < UNIT_FILES and self.size + size <= UNIT_SIZE)

    def add(self, place: _Place) -> None:
        self.places.append(place)
        self.size += place.size

    @property
    def is_full(self) -> bool:
        return len(self.places) >= UNIT_FILES or self.size >= UNIT_SIZE


class ClusterSealer:
    """Seals `sources` by a crew. They are as a Sealer's, except that a file may come as a FilePart that has all of it:
    so its size is known. `take` gets each result, before its events are reported.

    With `last`, no file is divided, and one whose workers die is reported with EOWNERDEAD; else as changed.
    """

    def __init__(
        self,
        crew: Crew,
        job: SealingJob,
        sources: Iterator[bytes | int | Known | FilePart | None],
        take: Callable[[SealingResult], None],
        *,
        last: bool,
    ) -> None:
        self.crew = crew
        self.job = job
        self.last = last
        self.lost: dict[int, BaseException] = {}  # as a Sealer's: a store that fails ends the run
        self.workers: dict[str, WorkerTally] = {}
        self._sources = sources
        self._take = take
        self._tallied = Tallied(0, 0, 0, 0)
        self._placed: deque[list[_Place]] = deque()
        self._line: Line[SealingUnit, SealingResult] = Line(crew, worker.seal, job, self._units(), certain=last)

    @property
    def retries(self) -> int:
        """How many units were given to another worker."""
        return self._line.retries

    def progress(self) -> Tallied:
        """Returns what has been done so far. May be called from any thread."""
        return self._tallied

    def run(self) -> Generator[Sealed, None, None]:
        """Yields events in the order of the sources. To be closed if it is not read to its end. Raises as Line.run."""
        file = 0
        whole = NOT_READ
        for unit, result in self._line.run():
            events = [self._not_done()] * len(unit.pieces) if result is None else self._taken(unit, result)
            for place, event in zip(self._placed.popleft(), events, strict=True):
                if place.is_first:
                    whole = _begun(place.known)
                whole = _with(whole, event, first=place.is_first)
                if place.is_first and place.known is not None:
                    event = _after(place.known, event)
                yield whole._replace(
                    file=file,
                    names=event.names,
                    stored=event.stored,
                    sizes=event.sizes,
                    plain_names=event.plain_names,
                    done=place.is_last,
                )
                file += place.is_last

    def _not_done(self) -> Sealed:
        """Returns the event of a piece whose workers died."""
        return NOT_READ._replace(error=errno.EOWNERDEAD, changed=False) if self.last else NOT_READ

    def _taken(self, unit: SealingUnit, result: SealingResult) -> list[Sealed]:
        """Counts a result, and returns its events."""
        _check(unit, result)
        self._tallied = Tallied(*map(sum, zip(self._tallied, result.tallied, strict=True)))
        tally = self.workers.setdefault(result.worker, WorkerTally())
        tally.units += 1
        tally.bytes_read += result.tallied.bytes_read
        tally.seconds += result.seconds
        self._take(result)
        return result.events

    # ---- units ----

    def _units(self) -> Iterator[SealingUnit | None]:
        """Yields units; None: the sources say that an older file has to be finished first."""
        batch = _Batch()
        for source in self._sources:
            if source is None:
                if batch.places:
                    yield self._unit(batch)
                    batch = _Batch()
                yield None
                continue
            assert not isinstance(source, int), "a descriptor cannot be sent to a worker"
            for place in self._pieces(source):
                if not batch.takes(place.size):
                    yield self._unit(batch)
                    batch = _Batch()
                batch.add(place)
                if batch.is_full or self.last:
                    yield self._unit(batch)
                    batch = _Batch()
        if batch.places:
            yield self._unit(batch)

    def _unit(self, batch: _Batch) -> SealingUnit:
        self._placed.append(batch.places)
        return SealingUnit(tuple(place.piece for place in batch.places), batch.size, self.crew.share())

    def _pieces(self, source: bytes | Known | FilePart) -> Iterator[_Place]:
        """Yields a file, or its parts if it is large and they can be told apart."""
        known, at, size, facts = None, 0, 0, None
        if isinstance(source, FilePart):
            size, facts = source.length, source.facts
        elif isinstance(source, Known) and source.facts is not None:
            known, at, facts = source, sum(source.sizes), source.facts
            size = facts[0] - at
        chunk = self.job.chunk_size
        part = part_size(at + size, chunk)
        whole = self.last or size <= part or not self.job.frames or self.job.by_content is not None or at % chunk
        if isinstance(source, bytes) or facts is None or whole:
            piece = source.path if isinstance(source, FilePart) else source
            yield _Place(piece, size, None, is_first=True, is_last=True)
            return
        assert isinstance(source.path, bytes), "a descriptor cannot be sent to a worker"
        end = at + size
        for start in range(at, end, part):
            length = min(part, end - start)
            of_file = FilePart(source.path, start, length, facts)
            yield _Place(of_file, length, known, is_first=start == at, is_last=start + length == end)


def part_size(size: int, chunk: int) -> int:
    """Returns the bytes of a part of a file of `size` bytes: a multiple of `chunk`."""
    return max(1, min(max(PART_SIZE, size // PARTS), MAX_PART_SIZE) // chunk) * chunk


def _begun(known: Known | None) -> Sealed:
    """Returns the event of a file of which nothing has been read, but some is known."""
    return NOT_READ._replace(changed=False, size=sum(known.sizes) if known else 0)


def _with(whole: Sealed, event: Sealed, *, first: bool) -> Sealed:
    """Returns what is known of a file once a further part has been read. All parts have the same status, or it has
    changed."""
    status = event if first else whole
    return status._replace(
        error=whole.error or event.error,
        changed=whole.changed or event.changed,
        size=whole.size + event.size,
    )


def _after(known: Known, event: Sealed) -> Sealed:
    """Returns an event with the blobs that were known before those of its own."""
    return event._replace(
        names=[*known.names, *event.names],
        stored=[*known.stored, *event.stored],
        sizes=[*known.sizes, *event.sizes],
        plain_names=[*known.plain_names, *event.plain_names],
    )


def _check(unit: SealingUnit, result: SealingResult) -> None:
    """Raises PogfastError for a result that cannot be: nothing is believed that would make an archive which cannot be
    restored."""
    for piece, event in zip(unit.pieces, result.events, strict=False):
        fits = len(event.names) == len(event.stored) == len(event.sizes) and all(map(is_blob_name, event.names))
        read = event.done and not event.error and not event.changed
        if isinstance(piece, FilePart) and read:
            fits = fits and event.size == sum(event.sizes) == piece.length
        if not fits:
            raise PogfastError(f"worker {result.worker} says what cannot be of {piece!r}: nothing it says is used")
    if len(result.events) != len(unit.pieces):
        raise PogfastError(f"worker {result.worker} says nothing of some of its files: nothing it says is used")

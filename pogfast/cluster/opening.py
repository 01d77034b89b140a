"""Files of a restore or a check, opened by a crew: what the engine's Opener is on one machine, with the same results in
the same order.

Small files travel together, up to a number and a size; large ones are written in ranges (ranges.py).
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from functools import partial

from pogfast._engine import VERDICT, Opened, Wanted
from pogfast.cluster import worker
from pogfast.cluster.crews import Crew, CrewOptions
from pogfast.cluster.executors import open_crew
from pogfast.cluster.line import Line
from pogfast.cluster.ranges import RangedFile, can_be_divided
from pogfast.cluster.tally import Tallies, WorkerTally
from pogfast.cluster.units import Asked, Into, KeyReference, OpeningJob, OpeningResult, OpeningUnit
from pogfast.errors import PogfastError
from pogfast.files.directories import Directories, no_more
from pogfast.files.unfinished import HOST, temporary_prefix
from pogfast.keys import Key
from pogfast.stores import settings
from pogfast.stores.protocols import Store

UNIT_FILES = 1024
UNIT_SIZE = 64_000_000  # uncompressed bytes
UNIT_DIRECTORIES = 128
UNITS = 4  # at least, for each unit that can be done at a time, if there are so many files
VERDICTS = frozenset(VERDICT.values())

OpenBy = Callable[[Sequence[Asked]], "ClusterOpener"]


class Readers:
    """The workers of an executor that read stores with a key. It is sent to none: each finds it by a reference."""

    def __init__(
        self, executor: object, options: CrewOptions | None, key: Key, tell: Callable[[str], None], jobs: int | None
    ) -> None:
        """`jobs` is the number of threads for one unit. Raises UsageError and PogfastError."""
        options = options or CrewOptions()
        self.reference = KeyReference.of(key, options.worker_key, writing=False)
        self.crew = open_crew(executor, options, tell)
        self.jobs = jobs or 1
        self.tallies = Tallies()

    def __enter__(self) -> Readers:
        return self

    def __exit__(self, *why: object) -> None:
        self.crew.close()

    @contextlib.contextmanager
    def of(self, store: Store, mark: str, into: Into | None = None) -> Iterator[OpenBy]:
        """Gives a function that has files of a store opened, which has an object `mark` beside its blobs. Afterwards
        no worker keeps the key. Raises PogfastError if nobody can do it."""
        path = store.path.removeprefix("local:")
        to = os.path.abspath(path) if store.own_directories() else store.path
        number, said = secrets.token_hex(8), settings.current()
        job = OpeningJob(number, to, mark, self.reference, said, (), jobs=self.jobs, into=into)
        try:
            self.crew.begin(job)
            yield partial(ClusterOpener, self.crew, job, self.tallies)
        finally:
            self.crew.tell_all(worker.end, job)


@contextlib.contextmanager
def shared(directories: Directories, *, sync: bool) -> Iterator[Into]:
    """Gives what workers have to know of a directory that is restored into: with a file in it, for the duration of a
    with-block, by which they see that theirs is the same. Raises StoreError."""
    token, content = temporary_prefix().decode() + "0.part", secrets.token_bytes(32)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    try:
        with open(os.open(token, flags, 0o600, dir_fd=directories.root), "wb") as file:
            file.write(content)
    except OSError as error:
        raise no_more(f"cannot restore into {directories.into}", error.errno or 0) from error
    begin = f".pogfast-{HOST}-{os.getpid()}-{secrets.randbits(60)}"
    try:
        yield Into(os.path.realpath(directories.into), token, content, os.geteuid(), begin, sync)
    finally:
        with contextlib.suppress(OSError):
            os.unlink(token, dir_fd=directories.root)


class ClusterOpener:
    """Opens files by a crew, with the methods of an Opener. Directories are descriptors of this machine, too, so that
    what workers that died have left in them is removed. `tallies` counts what each worker does."""

    def __init__(self, crew: Crew, job: OpeningJob, tallies: Tallies, files: Sequence[Asked]) -> None:
        self.crew = crew
        self.job = job
        self.tallies = tallies
        self.files = files
        self._written = self._read = 0
        self._ranged: dict[str, RangedFile] = {}  # by the names of their unfinished files
        self._line = self._line_of(self._units(), certain=False)

    def _line_of(self, units: Iterator[OpeningUnit | None], *, certain: bool) -> Line[OpeningUnit, OpeningResult]:
        return Line(self.crew, worker.open_blobs, self.job, units, certain=certain)

    def start(self) -> None:
        """Has the first files opened before `run` does. Then `stop` must be called, unless this raises."""
        try:
            self._line.start()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        self._line.stop()
        for file in self._ranged.values():
            file.end()

    def written(self) -> int:
        """Returns the uncompressed bytes of units that are done. May be called from any thread."""
        return self._written

    def read(self) -> int:
        """Returns the bytes of blobs that were read for these."""
        return self._read

    def run(self) -> Generator[Opened, None, None]:
        """Yields one result per file, in their order. To be closed if it is not read to its end. Raises as
        Line.run."""
        for file, event in enumerate(self._events()):
            yield event._replace(file=file)

    def _events(self) -> Iterator[Opened]:
        held: list[tuple[OpeningUnit, list[Opened] | None]] = []  # from the first unit on whose workers died
        try:
            for unit, result in self._line.run():
                events = None if result is None else self._taken(unit, result)
                if events is None or held:
                    held.append((unit, events))
                else:
                    yield from self._of_files(unit, events)
            alone = self._each_alone([asked for unit, events in held if events is None for asked in unit.files])
            for unit, events in held:
                yield from self._of_files(unit, alone if events is None else events)
        finally:
            self.stop()
            self.tallies.retries += self._line.retries
            if self.job.into is not None and (held or self._line.retries or self.crew.has_lost()):
                self._remove_left(self.job.into)

    def _of_files(self, unit: OpeningUnit, events: Iterable[Opened]) -> Iterator[Opened]:
        """Yields what has become of each file of a unit, of one in ranges as soon as it is known."""
        for asked, event in zip(unit.files, events, strict=False):  # there may be events of the next unit
            of_file = event if asked.part is None else self._ranged[asked.part.draft].take(asked, event)
            if of_file is not None:
                yield of_file

    def _each_alone(self, files: Sequence[Asked]) -> Iterator[Opened]:
        """Opens files whose workers died, each by itself, so that the one that they die of is known."""
        for unit, result in self._line_of((self._unit([asked]) for asked in files), certain=True).run():
            if result is None:
                yield Opened(0, True, VERDICT["bad read"], 0, errno.EOWNERDEAD, -1, 0)
            else:
                yield from self._taken(unit, result)

    def _taken(self, unit: OpeningUnit, result: OpeningResult) -> list[Opened]:
        """Counts a result, and returns its events."""
        _check(unit, result)
        self._written += result.written
        self._read += result.read
        tally = self.tallies.workers.setdefault(result.worker, WorkerTally())
        tally.units += 1
        tally.bytes_read += result.read
        tally.seconds += result.seconds
        return result.events

    def _units(self) -> Iterator[OpeningUnit]:
        """Divides files and ranges into units, smaller ones if there are few files for all workers."""
        most = max(1, min(UNIT_FILES, len(self.files) // (UNITS * max(1, self.crew.capacity()))))
        unit: list[Asked] = []
        directories: set[str] = set()
        size = 0
        for asked in self._pieces():
            more = UNIT_SIZE if asked.wanted.size < 0 else asked.wanted.size
            directories.add(asked.directory)
            if unit and (len(unit) >= most or size + more > UNIT_SIZE or len(directories) > UNIT_DIRECTORIES):
                yield self._unit(unit)
                unit, directories, size = [], {asked.directory}, 0
            unit.append(asked)
            size += more
        if unit:
            yield self._unit(unit)

    def _pieces(self) -> Iterator[Asked]:
        """Yields the files, of large ones that are restored the ranges."""
        for asked in self.files:
            file = None
            if self.job.into is not None and can_be_divided(asked.wanted):
                file = RangedFile.begin(asked, self.job.into)
            if file is None:
                yield asked
            else:
                self._ranged[file.draft] = file
                yield from file.ranges()

    def _unit(self, files: Sequence[Asked]) -> OpeningUnit:
        sent = tuple(asked._replace(wanted=asked.wanted._replace(directory=-1)) for asked in files)
        return OpeningUnit(sent, self.crew.share())

    def _remove_left(self, into: Into) -> None:
        """Removes unfinished files of workers that died."""
        for directory in {asked.wanted.directory for asked in self.files}:
            for name in os.listdir(directory):
                if name.startswith(into.temporary):
                    with contextlib.suppress(OSError):
                        os.unlink(name, dir_fd=directory)


def _check(unit: OpeningUnit, result: OpeningResult) -> None:
    """Raises PogfastError for a result that cannot be."""
    fits = len(result.events) == len(unit.files) and result.written >= 0 and result.read >= 0
    for asked, event in zip(unit.files, result.events, strict=False):
        fits = fits and _can_be(asked.wanted, event)
    if not fits:
        raise PogfastError(f"worker {result.worker} says what cannot be of its files: nothing it says is used")


def _can_be(wanted: Wanted, event: Opened) -> bool:
    blobs = max(1, len(wanted.blobs))
    return event.verdict in VERDICTS and 0 <= event.blob < blobs and event.errno >= 0 and event.offset >= -1

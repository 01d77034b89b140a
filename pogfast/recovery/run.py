"""One restore: files, then hard links to them, then links and FIFOs, deletions, and the metadata of directories last.

batches.py passes the files to the engine; this module says what the engine is to do with each and reports the result.
destination.py decides what may be replaced, hard_links.py and special.py restore what has no blobs.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from pogfast._engine import BlobDirectory, Opened, Wanted, cores
from pogfast.errors import DamageError, PogfastError, StoreError, TargetError, UnsafePath
from pogfast.files.directories import Directories
from pogfast.files.paths import basename, parent_of
from pogfast.keys import Key
from pogfast.recovery.batches import Outcome, restore_places
from pogfast.recovery.destination import Destination, is_same_file
from pogfast.recovery.hard_links import HardLinks
from pogfast.recovery.options import Options
from pogfast.recovery.plan import Place, Plan
from pogfast.recovery.report import Progress, Report, Reporter, Summary
from pogfast.recovery.special import Special
from pogfast.recovery.times import Times, is_unfinished, unfinished_time

if TYPE_CHECKING:
    from pogfast._engine import Buffer
    from pogfast.cluster.opening import ClusterOpener, OpenBy
    from pogfast.cluster.units import Into

ByWorkers = Callable[["Into"], contextlib.AbstractContextManager["OpenBy"]]
REPLACES = "--overwrite=if-changed replaces it"


class _Blocked(TargetError):
    """A directory exists where a file is to be restored. It may make way once no worker writes."""


class Run:
    """Carries out a plan."""

    def __init__(
        self,
        plan: Plan,
        blobs: BlobDirectory | Callable[[str], Buffer],
        good: Callable[[str], Buffer] | None,
        key: Key,
        directories: Directories,
        options: Options,
        report: Report,
        by_workers: ByWorkers | None = None,
    ) -> None:
        """`by_workers` has files restored by the workers of an executor."""
        self.plan = plan
        self.entries = plan.entries
        self.blobs = blobs
        self.good = good
        self.key = key
        self.directories = directories
        self.options = options
        self.by_workers = by_workers
        self.open_files: OpenBy | None = None
        self.jobs = options.jobs or cores()
        self.reporter = Reporter(report)
        self.destination = Destination(plan, directories, options, self.reporter)
        self.hard_links = HardLinks(plan, directories, options, self.destination)
        self.special = Special(plan, directories, options, self.destination, self.reporter)
        self.files = 0  # that need no more work
        self.bytes_done = 0  # of these
        self.written: Callable[[], int] = lambda: 0  # uncompressed bytes that the engine has written in this batch
        self.written_done = 0  # of these, those of finished files
        self.mtimes: dict[str, int] = {}  # of files by name, ns, until these are on the disk

    @property
    def summary(self) -> Summary:
        return self.reporter.summary

    def restore(self) -> Summary:
        """Restores everything, each kind after those that it depends on."""
        self._start()
        with self._workers():
            self._restore_all_files()
        self.special.restore_links_and_fifos()
        if self.options.delete:
            self.destination.delete_extra()
        self.special.restore_directories()
        self.reporter.report_in_the_way()
        self.destination.report_stripped()
        if not self.options.no_sync and not self.options.dry_run:
            self.directories.make_durable()
        return self.summary

    def _start(self) -> None:
        files = self.plan.places["file"]
        total_files, total_bytes = len(files), sum(place.size for place in files)

        def progress() -> Progress:
            unfinished = max(0, self.written() - self.written_done)
            done, written = self.bytes_done + unfinished, self.summary.bytes_written + unfinished
            return Progress(self.files, done, written, total_files, total_bytes)

        self.reporter.report.started(progress)
        for problem in self.plan.missing():
            self.reporter.problem(problem, problem.path)
        if self.plan.vanished:
            self.reporter.warn(f"{self.plan.vanished} names have no more parts than are stripped: not restored")

    # ---- files ----

    @contextlib.contextmanager
    def _workers(self) -> Iterator[None]:
        """Has files restored by the workers, if there are any, for the duration of a with-block."""
        if self.by_workers is None:
            yield
            return
        from pogfast.cluster.opening import shared  # imported here: most runs need no workers

        with (
            shared(self.directories, sync=not self.options.no_sync) as into,
            self.by_workers(into) as self.open_files,
        ):
            yield

    def _restore_all_files(self) -> None:
        """Restores files, then hard links to them, then those that could not be linked, as copies."""
        files, hard_links = self.hard_links.sort()
        self._restore_files(files)
        copies = []
        for place, outcome in self.hard_links.link(hard_links):
            if outcome is None:
                copies.append(place)
            else:
                self._finish(place, outcome, 0)
        self._restore_files(copies)

    def _restore_files(self, places: Sequence[Place]) -> None:
        """Restores files from their blobs: damaged ones once more from other stores, and those that a directory blocks
        after it has made way."""
        damaged: list[Place] = []
        blocked: list[Place] = []
        with contextlib.closing(self._restored(places, self.blobs)) as results:
            for place, result in results:  # to its end: the last files get their times there
                if self.good and isinstance(result, DamageError):
                    damaged.append(place)
                elif isinstance(result, _Blocked):
                    blocked.append(place)
                else:
                    self._finish(place, result, place.size)
        if self.good:
            with contextlib.closing(self._restored(damaged, self.good)) as results:
                for place, result in results:
                    self._finish(place, result, place.size)
        if blocked:
            self._restore_files(list(self._unblocked(blocked)))

    def _restored(
        self, places: Sequence[Place], blobs: BlobDirectory | Callable[[str], Buffer]
    ) -> Generator[tuple[Place, Opened | Outcome | PogfastError], None, None]:
        if self.open_files is not None:
            return restore_places(
                places,
                self._prepare,
                self.key,
                blobs,
                self.jobs,
                self.directories,
                self._watch,
                open_batch=self._open_by_workers,
            )
        times = None if self.options.no_sync else Times(self.directories, self.mtimes, self.reporter.missed)
        return restore_places(places, self._prepare, self.key, blobs, self.jobs, self.directories, self._watch, times)

    def _open_by_workers(self, batch: Sequence[tuple[Place, Wanted]]) -> ClusterOpener:
        """Has files opened by workers. They also set the times, since they know when what they wrote is on the disk."""
        from pogfast.cluster.units import Asked

        assert self.open_files is not None
        files = []
        for place, wanted in batch:
            mtime_ns = self.mtimes.pop(place.name, None)
            times = None if mtime_ns is None else (wanted.atime_ns, mtime_ns)
            files.append(Asked(parent_of(place.path), wanted, times))
        return self.open_files(files)

    def _watch(self, written: Callable[[], int]) -> None:
        self.written, self.written_done = written, 0

    def _prepare(self, place: Place) -> Wanted | Outcome:
        """Returns what the engine is to do for a file, or why nothing is to be done."""
        entry, options = self.entries[place.name], self.options
        size, sizes = entry.size, entry.sizes
        found = self.destination.existing(place)
        if found is not None and stat.S_ISDIR(found.st_mode) and options.overwrite != "never":
            raise _Blocked(place.name)
        unfinished = found is not None and is_unfinished(entry, found)
        if not unfinished:
            outcome = self.destination.decide(place, found, entry.more, lambda it: is_same_file(entry, it))
            if outcome:
                return outcome
        metadata = self.destination.metadata(place, entry.more)
        if options.dry_run:
            return "restored"
        mtime_ns = entry.mtime_ns
        if not options.no_sync:
            self.mtimes[place.name], mtime_ns = mtime_ns, unfinished_time(mtime_ns)
        return Wanted(
            self.directories.open(parent_of(place.path)),
            os.fsencode(basename(place.path)),
            entry.blobs,
            sizes,
            -1 if size is None else size,
            entry.atime_ns,
            mtime_ns,
            metadata.mode,
            metadata.uid,
            metadata.gid,
            metadata.xattrs,
            entry.more.get("sparse") is True,
            options.overwrite != "never" or unfinished,
        )

    def _unblocked(self, places: Iterable[Place]) -> Iterator[Place]:
        """Removes directories that block files. Yields the files that can be restored now."""
        for place in places:
            try:
                self.destination.make_way(place)
            except StoreError:
                raise
            except PogfastError as error:
                self._finish(place, error, 0)
            else:
                yield place

    def _finish(self, place: Place, result: Opened | Outcome | PogfastError, written: int) -> None:
        """Counts and reports a file that needs no more work. `written`: its uncompressed bytes, if it was restored."""
        self.files += 1
        self.bytes_done += place.size
        if isinstance(result, PogfastError):
            self.reporter.problem(result, place.name)
            return
        if isinstance(result, Opened) and result.soft:
            self._set_again(place)
        if isinstance(result, Opened) and not place.size and self.entries[place.name].size is None:
            written = self._size_on_disk(place)
        outcome: Outcome = "restored" if isinstance(result, Opened) else result
        if outcome == "restored":
            self.written_done += written
            self.summary.files += 1
            self.summary.bytes_written += written
        if outcome != "refused":
            self.hard_links.completed(place)
        self.reporter.outcome(place, outcome)

    def _size_on_disk(self, place: Place) -> int:
        """Returns the bytes of a restored file whose size the archive does not say."""
        try:
            found = self.directories.look(place.path)
        except (TargetError, UnsafePath):  # somebody has moved it
            found = None
        return found.st_size if found else 0

    def _set_again(self, place: Place) -> None:
        """Sets the metadata of a file that the engine could not give all of it, to learn what failed. Not of a file
        with another name, which may be an older file: whoever may write to a directory can create links in it."""
        try:
            found = self.directories.look(place.path)
            directory = self.directories.open(parent_of(place.path))
        except (TargetError, UnsafePath) as error:
            self.reporter.problem(error, place.name)
            return
        if found is None or found.st_nlink != 1:
            self.reporter.missed(f"{place.name}: not all of its metadata can be set")
            return
        entry = self.entries[place.name]
        late = not self.options.no_sync and self.open_files is None  # `Times` sets them later
        times = None if late else (entry.atime_ns, entry.mtime_ns)
        metadata = self.destination.metadata_again(place, entry.more)._replace(times=times)
        self.destination.set_metadata(place, directory, basename(place.path), metadata, found)

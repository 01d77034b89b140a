"""pogfast's restore: an archive -> everything that was kept of its files, directories, links and FIFOs.

Story 2 as `pogfast restore` tells it. plan.py says what is meant and where it goes, opening.py has the road that files
take through the engine; here is decided what may be replaced, and the order of it all: files, hard links to them, links
(so that nothing is written through them), what is to be deleted, and the metadata of directories last. A second run
goes on where the first ended. It knows neither flags nor printing.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, get_args

from pogfast._engine import BlobDirectory, Opened, Wanted, cores
from pogfast.archive import open_archive
from pogfast.directories import Directories, leaf_of, many_open_files, parent_of
from pogfast.errors import CorruptManifest, DamageError, PogfastError, StoreError, TargetError, UsageError
from pogfast.keys import Key
from pogfast.manifest import Entry
from pogfast.metadata import Metadata, metadata_of, set_metadata
from pogfast.opening import Outcome, cannot_write, restore_places
from pogfast.plan import Contents, Place, Plan

if TYPE_CHECKING:
    from pogfast._engine import Buffer

# What file systems keep of a time, in ns: all, NTFS's and SMB's ticks, whole seconds.
TIME_STEPS = (1, 100, 10**9)

Overwrite = Literal["never", "if-changed", "always"]


class Progress(NamedTuple):
    """Where a run stands. Bytes are plain ones of files: `done` needs no more work, `written` was restored for it."""

    files: int
    bytes_done: int
    bytes_written: int
    total_files: int
    total_bytes: int


class Report(Protocol):
    """What the caller wants to hear."""

    def started(self, progress: Callable[[], Progress]) -> None:
        """`progress` may be called from any thread until the run ends. The totals are known from the first."""

    def entry(self, name: str, outcome: Outcome, size: int) -> None:
        """Of every file, link and FIFO without a problem, of directories that are made, and of what is deleted, which
        has its path below the directory. `size` is the plain bytes of a file."""

    def warning(self, text: str) -> None: ...

    def problem(self, error: PogfastError) -> None: ...


class Silent:
    """A report to nobody."""

    def started(self, progress: Callable[[], Progress]) -> None: ...

    def entry(self, name: str, outcome: Outcome, size: int) -> None: ...

    def warning(self, text: str) -> None: ...

    def problem(self, error: PogfastError) -> None: ...


@dataclass
class Summary:
    """What was done, or with a dry run would be."""

    files: int = 0  # restored, hard links among them
    directories: int = 0  # made
    links: int = 0
    fifos: int = 0
    unchanged: int = 0  # was there already: files, links, FIFOs
    refused: list[str] = field(default_factory=list)  # something else is there and may not be replaced
    deleted: int = 0
    bytes_written: int = 0
    warnings: int = 0
    seconds: float = 0.0
    problems: list[PogfastError] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """DESIGN.md's: damage before all else."""
        codes = {problem.exit_code for problem in self.problems} | ({3} if self.refused else set())
        return 4 if 4 in codes else max(codes, default=0)


@dataclass(frozen=True)
class Options:
    """How to restore. `jobs` None: as many as there are cores."""

    exclude: Collection[str] = ()  # patterns
    overwrite: Overwrite = "never"
    strip_components: int = 0  # parts that every path loses in front; what has no more is not restored
    delete: bool = False  # what lies below the selected directories and is not in the archive
    dry_run: bool = False
    numeric_owner: bool = False
    jobs: int | None = None

    def __post_init__(self) -> None:
        if self.overwrite not in get_args(Overwrite):
            raise UsageError(f"no such way to overwrite: {self.overwrite}", hint=", ".join(get_args(Overwrite)))
        if self.strip_components < 0:
            raise UsageError("parts to strip must be at least 0")
        if self.jobs is not None and self.jobs < 1:
            raise UsageError(f"jobs must be at least 1, not {self.jobs}")


def restore(
    archive: str,
    key: Key,
    into: str,
    *,
    names: Collection[str] = (),
    host: str | None = None,
    tags: Collection[str] = (),
    path: str | None = None,
    stores: Sequence[str] = (),
    report: Report | None = None,
    options: Options | None = None,
    **more: Any,
) -> Summary:
    """Restores the archive that `archive` names; `host`, `tags` and `path` choose among those of STORE/latest.

    With `stores` the archive is NAME.mfn or latest alone, and lies in each of them: what the first does not have, or
    has damaged, the next gives. Everything else is restore_archive's. Raises NoSuchArchive, WrongKey,
    CorruptManifest, UsageError and StoreError.
    """
    options = _chosen(options, more)
    heard = report or Silent()
    lost: list[PogfastError] = []

    def tell(what: PogfastError | str) -> None:
        if isinstance(what, str):
            heard.warning(what)
        else:
            lost.append(what)
            heard.problem(what)

    with open_archive(archive, key, host=host, tags=tags, path=path, stores=stores, tell=tell) as opened:
        good = getattr(opened.store, "good_blob", None)
        summary = restore_archive(
            opened, opened.store.source, key, into, names=names, good=good, report=heard, options=options
        )
    summary.problems += lost
    return summary


def restore_archive(
    opened: Contents,
    blobs: BlobDirectory | Callable[[str], Buffer],
    key: Key,
    into: str,
    *,
    names: Collection[str] = (),
    good: Callable[[str], Buffer] | None = None,
    report: Report | None = None,
    options: Options | None = None,
    **more: Any,
) -> Summary:
    """Restores what `names` and patterns select (none: everything) below `into`; `more` are fields of Options.

    Files with blobs that are missing or damaged are tried once more with what `good` gives for their blobs.
    What is there already and the same (kind, size and mtime; a link's target) is left as it is. What differs stays
    with overwrite "never" and is in the summary's `refused`; it is replaced with "if-changed"; "always" replaces both.
    A directory is never replaced by anything else, nor anything else by one. Directories get their metadata always.
    Raises UsageError, CorruptManifest (the trailer) and StoreError; what is wrong with one entry is in the problems.
    """
    options = _chosen(options, more)
    started = time.monotonic()
    plan = Plan(opened, names, options.exclude, options.strip_components)
    if options.delete:
        plan.check_delete()
    with (
        many_open_files() as most,
        Directories(into, most, private=plan.directories, ours=plan.selected, make=not options.dry_run) as directories,
    ):
        run = _Run(plan, blobs, good, key, directories, options, report or Silent())
        run.start()
        run.restore_all_files()
        run.restore_links_and_fifos()
        if options.delete:
            run.delete()
        run.restore_directories()
    run.summary.seconds = time.monotonic() - started
    return run.summary


def _chosen(options: Options | None, more: dict[str, Any]) -> Options:
    if options is not None and more:
        raise UsageError("give options, or single ones, not both")
    return options or Options(**more)


class _Run:
    """Carries a plan out."""

    def __init__(
        self,
        plan: Plan,
        blobs: BlobDirectory | Callable[[str], Buffer],
        good: Callable[[str], Buffer] | None,
        key: Key,
        directories: Directories,
        options: Options,
        report: Report,
    ) -> None:
        self.plan = plan
        self.entries = plan.entries
        self.blobs = blobs
        self.good = good
        self.key = key
        self.directories = directories
        self.options = options
        self.jobs = options.jobs or cores()
        self.report = report
        self.summary = Summary()
        self.files = 0  # that need no more work
        self.bytes_done = 0  # of these
        self.written: Callable[[], int] = lambda: 0  # plain bytes that the engine has written in this batch
        self.settled = 0  # of these, those of files that are done
        # Archived name of the first file of an inode -> path of one of its files that is there, or will be.
        self.first: dict[str, str] = {}
        self.awaited: set[str] = set()  # these paths
        self.whole: set[str] = set()  # those that are there

    def start(self) -> None:
        files = self.plan.places["file"]
        total_files, total_bytes = len(files), sum(place.size for place in files)

        def progress() -> Progress:
            unfinished = max(0, self.written() - self.settled)
            done, written = self.bytes_done + unfinished, self.summary.bytes_written + unfinished
            return Progress(self.files, done, written, total_files, total_bytes)

        self.report.started(progress)
        for problem in self.plan.missing():
            self._problem(problem, problem.path)
        if self.plan.vanished:
            self._warn(f"{self.plan.vanished} names have no more parts than are stripped: not restored")

    # ---- files ----

    def restore_all_files(self) -> None:
        """Files, then hard links to them, then those that could not be linked, as copies."""
        files, hard_links = self._sorted_out()
        self.restore_files(files)
        self.restore_files(list(self._linked(hard_links)))

    def restore_files(self, places: Sequence[Place]) -> None:
        damaged: list[Place] = []
        with contextlib.closing(self._restored(places, self.blobs)) as results:
            for place in places:
                result = next(results)
                if self.good and isinstance(result, DamageError):
                    damaged.append(place)
                else:
                    self._settle(place, result, place.size)
        if self.good:
            with contextlib.closing(self._restored(damaged, self.good)) as results:
                for place in damaged:
                    self._settle(place, next(results), place.size)

    def _restored(
        self, places: Sequence[Place], blobs: BlobDirectory | Callable[[str], Buffer]
    ) -> Generator[Opened | Outcome | PogfastError, None, None]:
        return restore_places(places, self._ask, self.key, blobs, self.jobs, self.directories, self._watch)

    def _watch(self, written: Callable[[], int]) -> None:
        self.written, self.settled = written, 0

    def _ask(self, place: Place) -> Wanted | Outcome:
        entry = self.entries[place.name]
        size, sizes = entry.size, entry.sizes
        outcome = self._outcome(place, lambda there: _is_same_file(entry, there))
        if outcome or self.options.dry_run:
            return outcome or "restored"
        metadata = metadata_of(place.name, entry.more, numeric_owner=self.options.numeric_owner)
        return Wanted(
            self.directories.open(parent_of(place.path)),
            os.fsencode(leaf_of(place.path)),
            entry.blobs,
            sizes,
            -1 if size is None else size,
            entry.atime_ns,
            entry.mtime_ns,
            metadata.mode,
            metadata.uid,
            metadata.gid,
            metadata.xattrs,
            entry.more.get("sparse") is True,
            self.options.overwrite != "never",
        )

    def _outcome(self, place: Place, is_same: Callable[[os.stat_result], bool]) -> Outcome | None:
        """None when it is to be restored. Raises TargetError and UnsafePath."""
        # What lies in a directory that this run has made is its own, and of other paths.
        there = None if parent_of(place.path) in self.directories.made else self.directories.look(place.path)
        if there is None:
            return None
        if stat.S_ISDIR(there.st_mode):
            raise TargetError(f"{place.name}: not restored, a directory is in its place")
        if self.options.overwrite != "always" and is_same(there):
            return "unchanged"
        return "refused" if self.options.overwrite == "never" else None

    def _settle(self, place: Place, result: Opened | Outcome | PogfastError, written: int) -> None:
        """A file needs no more work. `written` is its plain bytes, if it was restored."""
        self.files += 1
        self.bytes_done += place.size
        if isinstance(result, PogfastError):
            self._problem(result, place.name)
            return
        if isinstance(result, Opened) and result.soft:
            self._warn(f"{place.name}: not all of its metadata can be set: {os.strerror(result.soft)}")
        outcome: Outcome = "restored" if isinstance(result, Opened) else result
        if outcome == "restored":
            self.settled += written
            self.summary.files += 1
            self.summary.bytes_written += written
        if outcome != "refused" and place.path in self.awaited:
            self.whole.add(place.path)
        self._tell(place, outcome)

    # ---- hard links ----

    def _sorted_out(self) -> tuple[list[Place], list[Place]]:
        """(files to restore from their blobs, hard links to one of these or to a file that is there).

        Where the first file of an inode is neither selected nor there, the first that is selected takes its part.
        """
        files: list[Place] = []
        others: list[Place] = []
        for place in self.plan.places["file"]:
            (others if self._is_hard_link(place) else files).append(place)
        wanted = {place.first for place in others}
        self.first = {place.name: place.path for place in files if place.name in wanted and not place.problem}
        hard_links = []
        for place in others:
            if place.first in self.first or self._lies_there(place.first):
                hard_links.append(place)
            else:
                self.first[place.first] = place.path
                files.append(place)
        self.awaited = set(self.first.values())
        return files, hard_links

    def _is_hard_link(self, place: Place) -> bool:
        """Of a file that the archive has, with the same content."""
        if place.problem or place.first not in self.entries:
            return False
        try:
            first = self.entries[place.first]
            return first.blobs == self.entries[place.name].blobs and "hardlink" not in first.more
        except CorruptManifest:  # either is told of when it is its turn
            return False

    def _lies_there(self, name: str) -> bool:
        """Whether a file that is not selected is in the directory all the same, as the archive has it."""
        self.directories.make_room()
        try:
            path = self.plan.target(name, "file")
            there = self.directories.look(path) if path else None
            same = there is not None and _is_same_file(self.entries[name], there)
        except PogfastError:
            return False
        if path is None or not same:
            return False
        self.first[name] = path
        self.whole.add(path)
        return True

    def _linked(self, places: Iterable[Place]) -> Iterator[Place]:
        """Links files. Gives those that have to be restored from their blobs."""
        for place in places:
            self.directories.make_room()
            try:
                outcome = self._hard_link(place)
            except StoreError:
                raise
            except PogfastError as error:
                self._settle(place, error, 0)
                continue
            if outcome is None:
                yield place
            else:
                self._settle(place, outcome, 0)

    def _hard_link(self, place: Place) -> Outcome | None:
        """None when it cannot be one."""
        entry = self.entries[place.name]
        path = self.first[place.first]
        if path not in self.whole:
            return None
        outcome = self._outcome(place, lambda there: _is_same_file(entry, there))
        if outcome or self.options.dry_run:
            return outcome or "restored"
        source, there = self.directories.look(path), self.directories.look(place.path)
        if source is None:
            return None
        if there and os.path.samestat(source, there):
            return "unchanged"

        def link(name: str, directory: int) -> None:
            at = self.directories.open(parent_of(path))
            os.link(leaf_of(path), name, src_dir_fd=at, dst_dir_fd=directory, follow_symlinks=False)

        try:
            self.directories.put(place.path, there is not None, link, lambda directory, name: None)
        except OSError:
            return None  # no hard links here, or no more of them
        return "restored"

    # ---- links, FIFOs and directories ----

    def restore_links_and_fifos(self) -> None:
        for place in self.plan.places["link"]:
            self.summary.links += self._guarded(place, self._link)
        for place in self.plan.places["fifo"]:
            self.summary.fifos += self._guarded(place, self._fifo)

    def restore_directories(self) -> None:
        """Makes those that are not there, and gives all their metadata, the deepest first: nothing is written any more.

        Those that were made on the way to something get theirs, too. They are above all that is selected.
        """
        known, selected = self.plan.directories, self.plan.selected
        for place in _deepest_first(self.plan.places["directory"]):
            self.summary.directories += self._guarded(place, self._directory)
        on_the_way = [path for path in self.directories.made if path in known and path not in selected]
        for place in _deepest_first(Place(-1, known[path], path) for path in on_the_way):
            self._guarded(place, self._directory_on_the_way)

    def _guarded(self, place: Place, restore: Callable[[Place], Outcome | None]) -> bool:
        """Whether something that is no file was restored. Tells what became of it."""
        self.directories.make_room()
        try:
            if place.problem:
                raise place.problem
            outcome = restore(place)
        except StoreError:
            raise
        except OSError as error:
            outcome = None
            self._problem(cannot_write(place.name, error.errno or 0), place.name)
        except PogfastError as error:
            outcome = None
            self._problem(error, place.name)
        if outcome:
            self._tell(place, outcome)
        return outcome == "restored"

    def _link(self, place: Place) -> Outcome:
        facts = self.plan.facts["link"][place.name]
        target = facts.get("target") if isinstance(facts, dict) else None
        if not isinstance(target, str) or not _is_target(target):
            raise CorruptManifest(f"{place.name}: the target of the link is malformed")
        parent, leaf = parent_of(place.path), leaf_of(place.path)

        def is_same(there: os.stat_result) -> bool:
            return stat.S_ISLNK(there.st_mode) and os.readlink(leaf, dir_fd=self.directories.find(parent)) == target

        return self._put(place, facts, is_same, lambda name, directory: os.symlink(target, name, dir_fd=directory))

    def _fifo(self, place: Place) -> Outcome:
        def make(name: str, directory: int) -> None:
            os.mkfifo(name, 0o600, dir_fd=directory)

        return self._put(place, self.plan.facts["fifo"][place.name], lambda there: stat.S_ISFIFO(there.st_mode), make)

    def _put(
        self,
        place: Place,
        facts: dict[str, Any],
        is_same: Callable[[os.stat_result], bool],
        make: Callable[[str, int], None],
    ) -> Outcome:
        metadata = metadata_of(place.name, facts, numeric_owner=self.options.numeric_owner)
        outcome = self._outcome(place, is_same)
        if outcome is None and not self.options.dry_run:
            replace = self.directories.look(place.path) is not None

            def finish(directory: int, name: str) -> None:
                self._set_metadata(place, directory, name, metadata)

            self.directories.put(place.path, replace, make, finish)
        return outcome or "restored"

    def _directory(self, place: Place) -> Outcome | None:
        """None when it was there. The directory that is restored into is not the archive's."""
        metadata = metadata_of(
            place.name, self.plan.facts["directory"][place.name], numeric_owner=self.options.numeric_owner
        )
        if not place.path:
            return None
        if self.options.dry_run:
            there = self.directories.look(place.path)
            self.directories.find(place.path)
            return "restored" if there is None else None
        self._set_metadata(place, self.directories.open(place.path), ".", metadata)
        return "restored" if place.path in self.directories.made else None

    def _directory_on_the_way(self, place: Place) -> None:
        """It was not asked for, so nothing is told of it."""
        self._directory(place)

    def _set_metadata(self, place: Place, directory: int, name: str, metadata: Metadata) -> None:
        for failed in set_metadata(directory, name, metadata):
            self._warn(f"{place.name}: {failed}")

    # ---- what is not in the archive ----

    def delete(self) -> None:
        """Removes what lies below selected directories and is not in the archive, unless it must stay."""
        kept, must_stay = self.plan.kept(), self.plan.must_stay
        for top in self.plan.tops():
            if must_stay(top):
                continue
            for path, is_directory in self.directories.others(top, kept, must_stay, self._warn):
                try:
                    if not self.options.dry_run:
                        self.directories.make_room()
                        self.directories.remove(path, is_directory)
                except OSError as error:
                    self._problem(TargetError(f"{path}: cannot be deleted: {error.strerror}"), path)
                else:
                    self.summary.deleted += 1
                    self.report.entry(path, "deleted", 0)

    # ---- what is told ----

    def _tell(self, place: Place, outcome: Outcome) -> None:
        if outcome == "unchanged":
            self.summary.unchanged += 1
        elif outcome == "refused":
            self.summary.refused.append(place.name)
        self.report.entry(place.name, outcome, place.size)

    def _problem(self, problem: PogfastError, path: str) -> None:
        problem.path = problem.path or path
        self.summary.problems.append(problem)
        self.report.problem(problem)

    def _warn(self, text: str) -> None:
        self.summary.warnings += 1
        self.report.warning(text)


def _deepest_first(places: Iterable[Place]) -> list[Place]:
    return sorted(places, key=lambda place: place.path.count("/"), reverse=True)


def _is_same_file(entry: Entry, there: os.stat_result) -> bool:
    """By size, where the archive knows it, and mtime, as far as the file system keeps it."""
    if not stat.S_ISREG(there.st_mode) or entry.size not in (None, there.st_size):
        return False
    return any(there.st_mtime_ns == entry.mtime_ns // step * step for step in TIME_STEPS)


def _is_target(text: str) -> bool:
    """Whether a link here can have this target."""
    try:
        return b"\0" not in os.fsencode(text) != b""
    except UnicodeEncodeError:
        return False

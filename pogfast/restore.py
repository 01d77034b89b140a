"""Story 2, the mirror of create.py: manifest -> blobs -> files under temporary names -> their own names.

Decides what may be replaced and what is reported; plan.py says what is meant, directories.py where it may lie, and the
engine opens, checks and writes. One story, two policies: pog's (files and their times, always replaced) and
pogfast's (everything that was kept). A file that cannot be restored is reported and the rest comes back. Links are made
after all files, so that nothing is written through them; directories get their metadata last. Blobs are consumed only
when every file that needs them is on the disk.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import os
import stat
from collections import Counter
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Literal, NamedTuple, Protocol

from pogfast import manifest
from pogfast._engine import VERDICT, BlobDirectory, Opened, Opener, Wanted, open_blob
from pogfast.directories import HOPELESS, Directories, leaf_of, many_open_files, parent_of, safe_path
from pogfast.errors import (
    CorruptBlob,
    CorruptManifest,
    MissingBlob,
    NoSuchArchive,
    NoSuchEntry,
    PogfastError,
    StoreError,
    TargetError,
    UnsafePath,
    WrongBlob,
    WrongKey,
)
from pogfast.keys import Key
from pogfast.manifest import Entry
from pogfast.metadata import MOST_NS, Metadata, metadata_of, set_metadata
from pogfast.plan import Place, Plan, superseded
from pogfast.stores import Source, open_archive
from pogfast.stores.local import temporary_prefix

# Files that the engine is given at a time: what is known of them is in memory.
MOST_FILES = 32_768
# Blobs that wait to be consumed: each batch costs one sync.
CONSUME_BATCH = 256
# What file systems keep of a time, in ns: all, NTFS's and SMB's ticks, whole seconds.
TIME_STEPS = (1, 100, 10**9)

Overwrite = Literal["never", "if-changed", "always"]
# What became of something in the archive; "deleted" is what lay in the directory and is not in the archive.
Outcome = Literal["restored", "unchanged", "refused", "deleted"]


class PogReport(Protocol):
    """What pog wants to hear, in the order of the manifest whatever the number of workers."""

    def file(self, index: int, total: int, name: str) -> None: ...

    def problem(self, error: PogfastError) -> None: ...


@dataclass
class Progress:
    """Counters that another thread may read while a restore runs. Sizes are plain bytes of files."""

    total_files: int = 0
    total_size: int = 0
    files: int = 0  # restored or not: all that need no more work
    size: int = 0  # of these
    written: int = 0  # of those that were restored


class Report(Protocol):
    """What the caller wants to hear."""

    def started(self, progress: Progress) -> None:
        """Before the first file; the same object is counted up."""

    def file(self, name: str, outcome: Outcome) -> None:
        """Of every file, link and FIFO without a problem, of directories that are made, and of what is deleted."""

    def problem(self, error: PogfastError) -> None: ...

    def warning(self, text: str) -> None: ...


@dataclass
class Summary:
    """What was done, or with a dry run would be."""

    files: int = 0  # restored
    size: int = 0  # plain bytes written into them
    links: int = 0
    fifos: int = 0
    directories: int = 0  # made
    unchanged: int = 0  # was there already: files, links, FIFOs
    refused: list[str] = field(default_factory=list)  # something else is there and may not be replaced
    deleted: int = 0
    warnings: int = 0
    problems: list[PogfastError] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """DESIGN.md's: damage before all else."""
        codes = {problem.exit_code for problem in self.problems} | ({3} if self.refused else set())
        return 4 if 4 in codes else max(codes, default=0)


def read_archive(archive: str, key: Key) -> manifest.Manifest:
    """The manifest at a path or `local:` URL. Raises NoSuchArchive, WrongKey, CorruptManifest."""
    store, name = open_archive(archive)
    with contextlib.closing(store):
        return manifest.open(store.get_manifest(name), key, archive)


def read_index(archive: str, key: Key) -> list[str]:
    """The names of the blobs that an archive needs; a public key is enough. Raises as read_archive does."""
    store, name = open_archive(archive)
    with contextlib.closing(store):
        return manifest.open_index(store.get_manifest(name), key, archive)


# ---- what both do with files ---------------------------------------------------------------------------------------


def _batches(places: Iterable[Place], most_directories: int) -> Iterator[list[Place]]:
    """Cuts a restore where it would hold too many directories open, or too many files in memory."""
    batch: list[Place] = []
    parents: set[str] = set()
    for place in places:
        parents.add(parent_of(place.path))
        if len(parents) > most_directories or len(batch) == MOST_FILES:
            yield batch
            batch, parents = [], {parent_of(place.path)}
        batch.append(place)
    if batch:
        yield batch


def _restore_batch(
    batch: Sequence[Place],
    ask: Callable[[Place], Wanted | Outcome],
    key: Key,
    blobs: BlobDirectory | Callable[[str], bytes],
    jobs: int,
) -> Generator[Opened | Outcome | PogfastError, None, None]:
    """For each place in its turn what became of it: Opened when the file is whole and has its name now.

    `ask` says what the engine is to do, or that nothing is to be done. To be closed before the directories are,
    whatever happens: workers write through their descriptors.
    """
    asked = [_asked(ask, place) for place in batch]
    files = [wanted for wanted in asked if isinstance(wanted, Wanted)]
    opener = Opener(key.secret, key.private, key.asymmetric, files, blobs, jobs=jobs, temporary=temporary_prefix())
    with contextlib.closing(opener.run()) as run:
        for place, wanted in zip(batch, asked, strict=True):
            yield _judged(place.name, wanted.blobs, next(run)) if isinstance(wanted, Wanted) else wanted


def _asked(ask: Callable[[Place], Wanted | Outcome], place: Place) -> Wanted | Outcome | PogfastError:
    try:
        if place.problem:
            raise place.problem
        return ask(place)
    except StoreError:
        raise
    except PogfastError as error:
        return error


# What the engine found, as an error. A header that does not unwrap is damage here: the key has opened the manifest.
DAMAGE: dict[int, tuple[type[PogfastError], str]] = {
    VERDICT["bad header"]: (CorruptBlob, "is damaged: its header does not unwrap"),
    VERDICT["bad body"]: (CorruptBlob, "is damaged or cut short"),
    VERDICT["bad name"]: (WrongBlob, "holds the content of another blob"),
    VERDICT["bad frame"]: (CorruptBlob, "does not decompress to the end of the file"),
    VERDICT["not there"]: (MissingBlob, "is missing"),
}


def _judged(name: str, blobs: Sequence[str], opened: Opened) -> Opened | PogfastError:
    """Raises StoreError when no further file can be restored."""
    if opened.verdict == VERDICT["good"]:
        return opened
    blob = blobs[opened.blob] if blobs else ""
    if opened.verdict in DAMAGE:
        kind, text = DAMAGE[opened.verdict]
        return kind(f"{name}: blob {blob} {text}")
    if opened.verdict == VERDICT["bad read"] and opened.errno not in HOPELESS:
        return TargetError(f"{name}: cannot read blob {blob}: {os.strerror(opened.errno)}")
    return _cannot_write(name, opened.errno)


def _cannot_write(name: str, code: int) -> TargetError:
    if code in HOPELESS:
        raise StoreError(f"cannot restore {name}: {os.strerror(code)}")
    return TargetError(f"{name}: cannot be written: {os.strerror(code)}")


def _sizes(name: str, entry: Entry) -> list[int] | None:
    """FORMAT.md: they stand only where every blob is a frame of its own."""
    sizes = entry.more.get("sizes")
    if sizes is not None and not _are_sizes(sizes, len(entry.blobs)):
        raise CorruptManifest(f"{name}: the sizes of its blobs are malformed")
    return sizes


def _are_sizes(sizes: object, count: int) -> bool:
    return (
        isinstance(sizes, list)
        and len(sizes) == count
        and all(isinstance(size, int) and 0 <= size < 2**63 for size in sizes)
        and sum(sizes) < 2**63
    )


def _ns(seconds: float) -> int:
    """Nanoseconds, cut as os.utime cuts them, so that a file gets the time that pog would give it."""
    whole = math.floor(seconds)
    return max(-MOST_NS, min(whole * 10**9 + math.floor((seconds - whole) * 1e9), MOST_NS))


# ---- pog's policy: files and their times ---------------------------------------------------------------------------


def restore(
    archive: str,
    key: Key,
    into: str,
    *,
    names: Collection[str] | None,
    consume: bool,
    jobs: int,
    report: PogReport,
) -> Summary:
    """As pog does: the entries that `names` selects (None: all) below `into`, in the order of the manifest, in place of
    files that are there.

    With `consume` a blob is deleted when every entry that needs it is on the disk, and the manifest when all are.
    Raises NoSuchArchive, WrongKey, CorruptManifest and StoreError; what is wrong with one entry is reported.
    """
    store, manifest_name = open_archive(archive)
    summary = Summary()
    with contextlib.closing(store), many_open_files() as most, Directories(into, most) as directories:
        opened = manifest.open(store.get_manifest(manifest_name), key, archive)
        consumer = _Consumer(opened, store, directories) if consume else None

        def ask(place: Place) -> Wanted:
            entry = opened.entries[place.name]
            directory, leaf = directories.open(parent_of(place.path)), os.fsencode(leaf_of(place.path))
            times = _ns(entry.atime), _ns(entry.mtime)
            return Wanted(directory, leaf, entry.blobs, _sizes(place.name, entry), -1, *times)

        def tell(problem: PogfastError) -> None:
            summary.problems.append(problem)
            report.problem(problem)

        for batch in _batches(_places(opened, names), most):
            with contextlib.closing(_restore_batch(batch, ask, key, store.blobs, jobs)) as results:
                for place in batch:
                    report.file(place.number + 1, len(opened.entries), place.name)
                    result = next(results)
                    if isinstance(result, PogfastError):
                        tell(result)
                        continue
                    summary.files += 1
                    if consumer:
                        consumer.restored(opened.entries[place.name])
            directories.close()
        for name in names or ():
            if name not in opened.entries:
                tell(NoSuchEntry(f"{name}: no such file in the archive"))
        if consumer:
            consumer.finish(manifest_name if summary.files == len(opened.entries) else None)
    return summary


def _places(opened: manifest.Manifest, names: Collection[str] | None) -> list[Place]:
    """Every selected entry with the path where it goes. Of different files that would lie at one path the last is
    kept."""
    wanted = None if names is None else set(names)
    places: list[Place] = []
    last: dict[str, str] = {}
    for index, name in enumerate(opened.entries):
        if wanted is not None and name not in wanted:
            continue
        try:
            places.append(Place(index, name, safe_path(name)))
            last[places[-1].path] = name
        except UnsafePath as error:
            places.append(Place(index, name, "", problem=error))

    def is_other(name: str, kept: str) -> bool:
        return name != kept and opened.entries[name].blobs != opened.entries[kept].blobs

    return [superseded(place) if place.path and is_other(place.name, last[place.path]) else place for place in places]


# ---- pogfast's policy: everything that was kept --------------------------------------------------------------------


def restore_archive(
    opened: manifest.Manifest,
    blobs: BlobDirectory | Callable[[str], bytes],
    key: Key,
    into: str,
    *,
    names: Collection[str] = (),
    exclude: Collection[str] = (),
    overwrite: Overwrite = "never",
    strip_components: int = 0,
    delete: bool = False,
    dry_run: bool = False,
    numeric_owner: bool = False,
    jobs: int,
    report: Report,
) -> Summary:
    """Restores what `names` and patterns select (none: everything) and `exclude` does not match, below `into`.

    What is there already and the same (kind, size and mtime; a link's target) is left as it is, so a second run
    continues the first. What differs stays with "never" and is listed in the summary, and is replaced with
    "if-changed"; "always" replaces both. A directory is never replaced, nor is anything replaced by one. Of every path
    the first `strip_components` parts are dropped, and what has no more than these is not restored. `delete` removes
    what lies below the selected directories and is not in the archive. `dry_run` touches nothing.
    Raises UsageError, CorruptManifest (the trailer) and StoreError; what is wrong with one entry is reported.
    """
    plan = Plan(opened, names, exclude, strip_components)
    if delete:
        plan.check_delete()
    with (
        many_open_files() as most,
        Directories(into, most, private=plan.directories, make=not dry_run) as directories,
    ):
        run = _Run(plan, blobs, key, directories, _Rules(overwrite, dry_run, numeric_owner, jobs), report)
        run.start()
        run.restore_all_files()
        run.restore_links_and_fifos()
        if delete:
            run.delete()
        run.restore_directories()
    return run.summary


class _Rules(NamedTuple):
    overwrite: Overwrite
    dry_run: bool
    numeric_owner: bool
    jobs: int


class _Run:
    """Carries a plan out."""

    def __init__(
        self,
        plan: Plan,
        blobs: BlobDirectory | Callable[[str], bytes],
        key: Key,
        directories: Directories,
        rules: _Rules,
        report: Report,
    ) -> None:
        self.plan = plan
        self.entries = plan.entries
        self.blobs = blobs
        self.key = key
        self.directories = directories
        self.rules = rules
        self.report = report
        self.summary = Summary()
        self.progress = Progress()
        self.first: dict[
            str, str
        ] = {}  # archived name of the first file of an inode -> path of one that is there, or will be
        self.awaited: set[str] = set()  # these paths
        self.whole: set[str] = set()  # those that are there

    def start(self) -> None:
        files = self.plan.places["file"]
        self.progress.total_files = len(files)
        self.progress.total_size = sum(place.size for place in files)
        self.report.started(self.progress)
        for problem in self.plan.missing():
            self._problem(problem)
        if self.plan.vanished:
            self._warn(f"{self.plan.vanished} names have no more parts than are stripped: not restored")

    # ---- files ----

    def restore_all_files(self) -> None:
        """Files, then hard links to them, then those that could not be linked, as copies."""
        files, hard_links = self._sorted_out()
        self.restore_files(files)
        self.restore_files(self._linked(hard_links))

    def restore_files(self, places: Iterable[Place]) -> None:
        for batch in _batches(places, self.directories.most):
            run = _restore_batch(batch, self._ask, self.key, self.blobs, self.rules.jobs)
            with contextlib.closing(run) as results:
                for place in batch:
                    self._settle(place, next(results), place.size)
            self.directories.close()

    def _ask(self, place: Place) -> Wanted | Outcome:
        entry = self.entries[place.name]
        outcome = self._outcome(place, lambda there: _is_same_file(entry, there))
        if outcome or self.rules.dry_run:
            return outcome or "restored"
        metadata = metadata_of(place.name, entry.more, numeric_owner=self.rules.numeric_owner)
        return Wanted(
            self.directories.open(parent_of(place.path)),
            os.fsencode(leaf_of(place.path)),
            entry.blobs,
            _sizes(place.name, entry),
            -1 if entry.size is None else entry.size,
            entry.atime_ns,
            entry.mtime_ns,
            metadata.mode,
            metadata.uid,
            metadata.gid,
            metadata.xattrs,
            entry.more.get("sparse") is True,
            self.rules.overwrite != "never",
        )

    def _outcome(self, place: Place, is_same: Callable[[os.stat_result], bool]) -> Outcome | None:
        """None when it is to be restored. Raises TargetError and UnsafePath."""
        there = self.directories.look(place.path)
        if there is None:
            return None
        if stat.S_ISDIR(there.st_mode):
            raise TargetError(f"{place.name}: not restored, a directory is in its place")
        if self.rules.overwrite != "always" and is_same(there):
            return "unchanged"
        return "refused" if self.rules.overwrite == "never" else None

    def _settle(self, place: Place, result: Opened | Outcome | PogfastError, written: int) -> None:
        """A file needs no more work. `written` is its plain bytes, if it was restored."""
        self.progress.files += 1
        self.progress.size += place.size
        if isinstance(result, PogfastError):
            self._problem(result)
            return
        if isinstance(result, Opened) and result.soft:
            self._warn(f"{place.name}: not all of its metadata can be set: {os.strerror(result.soft)}")
        outcome: Outcome = "restored" if isinstance(result, Opened) else result
        if outcome == "restored":
            self.summary.files += 1
            self.summary.size += written
            self.progress.written += written
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
        first = self.entries[place.first]
        return first.blobs == self.entries[place.name].blobs and "hardlink" not in first.more

    def _lies_there(self, name: str) -> bool:
        """Whether a file that is not selected is in the directory all the same, as the archive has it."""
        self.directories.make_room()
        try:
            path = self.plan.target(name, "file")
            there = self.directories.look(path) if path else None
        except PogfastError:
            return False
        if path is None or there is None or not _is_same_file(self.entries[name], there):
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
        if outcome or self.rules.dry_run:
            return outcome or "restored"
        source, there = self.directories.look(path), self.directories.look(place.path)
        if source is None or not _is_same_file(entry, source):
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
        places = self.plan.places["directory"]
        selected = {place.path for place in places}
        self._restore_deepest_first(places)
        known = self.plan.directories
        on_the_way = [path for path in self.directories.made if path in known and path not in selected]
        self._restore_deepest_first([Place(-1, known[path], path) for path in on_the_way])

    def _restore_deepest_first(self, places: Iterable[Place]) -> None:
        for place in sorted(places, key=lambda place: place.path.count("/"), reverse=True):
            self.summary.directories += self._guarded(place, self._directory)

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
            self._problem(_cannot_write(place.name, error.errno or 0))
        except PogfastError as error:
            outcome = None
            self._problem(error)
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
        metadata = metadata_of(place.name, facts, numeric_owner=self.rules.numeric_owner)
        outcome = self._outcome(place, is_same)
        if outcome is None and not self.rules.dry_run:
            replace = self.directories.look(place.path) is not None

            def finish(directory: int, name: str) -> None:
                self._set_metadata(place, directory, name, metadata)

            self.directories.put(place.path, replace, make, finish)
        return outcome or "restored"

    def _directory(self, place: Place) -> Outcome | None:
        """None when it was there. The directory that is restored into is not the archive's."""
        metadata = metadata_of(
            place.name, self.plan.facts["directory"][place.name], numeric_owner=self.rules.numeric_owner
        )
        if not place.path:
            return None
        if self.rules.dry_run:
            there = self.directories.look(place.path)
            self.directories.find(place.path)
            return "restored" if there is None else None
        self._set_metadata(place, self.directories.open(place.path), ".", metadata)
        return "restored" if place.path in self.directories.made else None

    def _set_metadata(self, place: Place, directory: int, name: str, metadata: Metadata) -> None:
        for failed in set_metadata(directory, name, metadata):
            self._warn(f"{place.name}: {failed}")

    # ---- what is not in the archive ----

    def delete(self) -> None:
        """Removes what lies below selected directories and is not in the archive, unless it must stay."""
        kept, must_stay = self.plan.kept(), self.plan.must_stay
        for top in self.plan.tops():
            if must_stay(top, True):
                continue
            for path, is_directory in self.directories.others(top, kept, must_stay, self._warn):
                try:
                    if not self.rules.dry_run:
                        self.directories.make_room()
                        self.directories.remove(path, is_directory)
                except OSError as error:
                    self._problem(TargetError(f"{path}: cannot be deleted: {error.strerror}"))
                else:
                    self.summary.deleted += 1
                    self.report.file(path, "deleted")

    # ---- what is told ----

    def _tell(self, place: Place, outcome: Outcome) -> None:
        if outcome == "unchanged":
            self.summary.unchanged += 1
        elif outcome == "refused":
            self.summary.refused.append(place.name)
        self.report.file(place.name, outcome)

    def _problem(self, problem: PogfastError) -> None:
        self.summary.problems.append(problem)
        self.report.problem(problem)

    def _warn(self, text: str) -> None:
        self.summary.warnings += 1
        self.report.warning(text)


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


class _Consumer:
    """Deletes each blob when every entry that needs it is on the disk."""

    def __init__(self, opened: manifest.Manifest, store: Source, directories: Directories) -> None:
        self.needed = Counter(blob for entry in opened.entries.values() for blob in set(entry.blobs))
        self.store = store
        self.directories = directories
        self.done: list[str] = []

    def restored(self, entry: Entry) -> None:
        for blob in set(entry.blobs):
            self.needed[blob] -= 1
            if not self.needed[blob]:
                self.done.append(blob)
        if len(self.done) >= CONSUME_BATCH:
            self.finish(None)

    def finish(self, manifest_name: str | None) -> None:
        """Deletes what may go, after a sync of what was restored."""
        self.directories.make_durable()
        self.store.delete(self.done, manifest_name)
        self.done = []


def cat_blobs(paths: Sequence[str], key: Key, out: BinaryIO, *, consume: bool) -> None:
    """Decompresses blobs, given by their files' paths in order, as one stream into `out`.

    A blob whose file has a blob's name must be the one that it is named after. Raises NoSuchArchive, WrongKey,
    CorruptBlob and WrongBlob; what was written before is whole blobs' content. With `consume` each file is deleted
    when its content was written and flushed.
    """
    from zstandard import ZstdDecompressor, ZstdError

    stream = ZstdDecompressor().decompressobj(read_across_frames=True)
    for path in paths:
        chunk = _open_blob_file(path, key)
        try:
            out.write(stream.decompress(chunk))
        except ZstdError as error:
            hint = "are all blobs of the file given, in their order?"
            raise CorruptBlob(f"{path}: does not decompress", hint) from error
        out.flush()
        if consume:
            os.unlink(path)


def _open_blob_file(path: str, key: Key) -> bytes:
    name = os.path.basename(path)
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if not size:
                raise CorruptBlob("it is empty")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as blob:
                return open_blob(key.secret, key.private, blob, name if manifest.is_blob_name(name) else None)
    except WrongKey as error:
        raise WrongKey(f"{path}: this key does not open it, or it is not a blob") from error
    except CorruptBlob as error:
        raise CorruptBlob(f"{path} is damaged or cut short, or it is not a blob") from error
    except FileNotFoundError as error:
        raise NoSuchArchive(f"no such blob: {path}") from error
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror}") from error

"""One restore, step by step: files, hard links to them, links and FIFOs, deletions, the metadata of directories last.

Decides what may be replaced. Links come after files, so that nothing is written through them.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pogfast._engine import BlobDirectory, Opened, Wanted, cores
from pogfast.errors import CorruptManifest, DamageError, PogfastError, StoreError, TargetError, UnsafePath
from pogfast.files.directories import IN_THE_WAY, Directories
from pogfast.files.metadata import (
    SET_ID,
    Metadata,
    is_other_metadata,
    is_other_owner,
    is_same_time,
    metadata_of,
    set_metadata,
    without_rights,
)
from pogfast.files.paths import basename, parent_of
from pogfast.keys import Key
from pogfast.manifest import Entry
from pogfast.recovery.batches import Outcome, cannot_write, restore_places
from pogfast.recovery.options import Options
from pogfast.recovery.plan import Place, Plan
from pogfast.recovery.report import Progress, Report, Summary
from pogfast.sizes import many

if TYPE_CHECKING:
    from pogfast._engine import Buffer


# Seconds between two syncs of the files restored so far: what an interrupted run has to do again.
SETTLE_AFTER = 5.0
# Times, in seconds, that can be altered by a few and still be told in 2^63 ns.
MAX_SECONDS = 9 * 10**9
REPLACES = "--overwrite=if-changed replaces it"


class Times:
    """Gives files their modification times when their bytes are on the disk, and not before.

    Until then they have `unfinished_time`: after a power cut a file may have its name, size and time, and zeros for
    bytes, and the next run must not take it for restored.
    """

    def __init__(self, directories: Directories, mtimes: dict[str, int], tell: Callable[[str], None]) -> None:
        self.directories = directories
        self.mtimes = mtimes  # by archived name, ns
        self.tell = tell
        self.pending: list[tuple[str, Wanted]] = []
        self.settled_at = time.monotonic()

    def add(self, place: Place, wanted: Wanted) -> None:
        self.pending.append((place.name, wanted))
        if time.monotonic() - self.settled_at > SETTLE_AFTER:
            self.settle()

    def settle(self) -> None:
        if self.pending:
            self.directories.make_durable()
        for name, wanted in self.pending:
            times = wanted.atime_ns, self.mtimes.pop(name)
            try:
                os.utime(wanted.leaf, ns=times, dir_fd=wanted.directory, follow_symlinks=False)
            except OSError as error:
                self.tell(f"{name}: its times cannot be set: {error.strerror}")
        self.pending.clear()
        self.settled_at = time.monotonic()


def unfinished_time(mtime_ns: int) -> int:
    """The modification time of a file that may not be on the disk yet, made from its own: another second, four away
    because FAT keeps only every other one, and nanoseconds that no file has by chance."""
    seconds = max(-MAX_SECONDS, min(mtime_ns // 10**9, MAX_SECONDS))
    return (seconds ^ 4) * 10**9 + 506_070_708


class _Blocked(TargetError):
    """A directory lies where a file is to be restored. It may make way when no worker writes."""


class Run:
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
        self.stripped = 0  # files and directories that would have got rights
        # What is no directory where one would have to be -> what to say of it, and of how many names.
        self.in_the_way: dict[str, tuple[PogfastError, int]] = {}
        self.mtimes: dict[str, int] = {}  # of files by name, ns, until these are on the disk
        self.gone: set[str] = set()  # directories that have made way for something else, and what was in them
        # Archived name of the first file of an inode -> path of one of its files that is there, or will be.
        self.first: dict[str, str] = {}
        self.awaited: set[str] = set()  # these paths
        self.whole: set[str] = set()  # those that are there
        self.absent: set[str] = set()  # directories that are not there at the beginning

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
        blocked: list[Place] = []
        with contextlib.closing(self._restored(places, self.blobs)) as results:
            for place, result in zip(places, results, strict=True):  # to its end: the last files are settled there
                if self.good and isinstance(result, DamageError):
                    damaged.append(place)
                elif isinstance(result, _Blocked):
                    blocked.append(place)
                else:
                    self._settle(place, result, place.size)
        if self.good:
            with contextlib.closing(self._restored(damaged, self.good)) as results:
                for place, result in zip(damaged, results, strict=True):
                    self._settle(place, result, place.size)
        if blocked:
            self.restore_files(list(self._cleared(blocked)))

    def _restored(
        self, places: Sequence[Place], blobs: BlobDirectory | Callable[[str], Buffer]
    ) -> Generator[Opened | Outcome | PogfastError, None, None]:
        times = None if self.options.no_sync else Times(self.directories, self.mtimes, self._miss)
        return restore_places(places, self._ask, self.key, blobs, self.jobs, self.directories, self._watch, times)

    def _watch(self, written: Callable[[], int]) -> None:
        self.written, self.settled = written, 0

    def _ask(self, place: Place) -> Wanted | Outcome:
        entry = self.entries[place.name]
        size, sizes = entry.size, entry.sizes
        there = self._there(place)
        if there is not None and stat.S_ISDIR(there.st_mode) and self.options.overwrite != "never":
            raise _Blocked(place.name)
        unfinished = there is not None and _is_unfinished(entry, there)
        outcome = None if unfinished else self._outcome(place, there, entry.more, lambda it: _is_same_file(entry, it))
        if outcome:
            return outcome
        metadata = self._metadata(place, entry.more)
        if self.options.dry_run:
            return "restored"
        mtime_ns = entry.mtime_ns
        if not self.options.no_sync:
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
            self.options.overwrite != "never" or unfinished,
        )

    def _there(self, place: Place) -> os.stat_result | None:
        """What lies where something is to be restored. Raises TargetError and UnsafePath."""
        # What lies in a directory that this run has made is its own, and of other paths; or a directory of this one.
        made = self.directories.made
        if place.path in self.gone or (parent_of(place.path) in made and place.path not in made):
            return None
        return self.directories.look(place.path)

    def _outcome(
        self,
        place: Place,
        there: os.stat_result | None,
        facts: Mapping[str, Any],
        is_same: Callable[[os.stat_result], bool],
    ) -> Outcome | None:
        """None when it is to be restored, over what is `there`. Raises TargetError and UnsafePath."""
        if there is None:
            return None
        if stat.S_ISDIR(there.st_mode):
            self._make_way(place)
            return None
        if self.options.overwrite != "always" and is_same(there):
            return self._kept(place, there, facts)
        return "refused" if self.options.overwrite == "never" else None

    def _kept(self, place: Place, there: os.stat_result, facts: Mapping[str, Any]) -> Outcome | None:
        """What is there stays; it gets the metadata that it should have, unless nothing may be changed.

        None if it has to be restored anew for that: what has other names may be another file of the archive, or lie
        outside, and these names would get the metadata, too."""
        metadata = self._metadata(place, facts, there)
        directory, leaf = self.directories.find(parent_of(place.path)), basename(place.path)
        if directory is None or not is_other_metadata(directory, leaf, there, metadata):
            return "unchanged"
        if self.options.overwrite == "never":
            return "differs"
        if there.st_nlink > 1:
            return None
        if not self.options.dry_run:
            self._set_metadata(place, self.directories.open(parent_of(place.path)), leaf, metadata, there)
        return "metadata"

    def _metadata(
        self, place: Place, facts: Mapping[str, Any], there: os.stat_result | None = None, kept: int = 0
    ) -> Metadata:
        """Of set-id bits, without set_id, only those that are `kept` and those that what is `there` has already, if its
        owner stays the same. Raises CorruptManifest."""
        metadata = self._metadata_of(place, facts)
        if self.options.set_id:
            return metadata
        if there is not None and not is_other_owner(metadata, there):
            kept = there.st_mode & SET_ID
        safe = without_rights(metadata, kept)
        self.stripped += safe != metadata and (there is None or self.options.overwrite != "never")
        return safe

    def _metadata_of(self, place: Place, facts: Mapping[str, Any]) -> Metadata:
        options = self.options
        return metadata_of(place.name, facts, numeric_owner=options.numeric_owner, no_owner=options.no_owner)

    # ---- directories in the way ----

    def _cleared(self, places: Iterable[Place]) -> Iterator[Place]:
        """Makes way for files. Gives those that can be restored now."""
        for place in places:
            try:
                self._make_way(place)
            except StoreError:
                raise
            except PogfastError as error:
                self._settle(place, error, 0)
            else:
                yield place

    def _make_way(self, place: Place) -> None:
        """Removes a directory where something else is to be restored: an empty one, with `delete` also what is in it.
        All of it, or nothing. Raises TargetError and UnsafePath."""
        problem = f"{place.name}: not restored, a directory is in its place"
        if self.options.overwrite == "never":
            raise TargetError(problem)
        if self.directories.is_mount(place.path):
            raise TargetError(problem, "it is another file system")
        surplus = self._surplus(place.path) if self.options.delete else []
        going = {path for path, _ in surplus}
        try:
            if any(f"{place.path}/{leaf}" not in going for leaf in self.directories.names(place.path)):
                stays = "something in it has to stay" if self.options.delete else "--delete removes what is in it"
                raise TargetError(problem, f"it is not empty: {stays}")
            for path, is_directory in surplus:
                self._delete(path, is_directory)
            if not self.options.dry_run:
                self.directories.remove(place.path, True)
        except OSError as error:
            raise TargetError(f"{problem}: {error.strerror}") from error
        self.gone.add(place.path)

    def _settle(self, place: Place, result: Opened | Outcome | PogfastError, written: int) -> None:
        """A file needs no more work. `written` is its plain bytes, if it was restored."""
        self.files += 1
        self.bytes_done += place.size
        if isinstance(result, PogfastError):
            self._problem(result, place.name)
            return
        if isinstance(result, Opened) and result.soft:
            self._set_again(place)
        if isinstance(result, Opened) and not place.size and self.entries[place.name].size is None:
            written = self._size_there(place)
        outcome: Outcome = "restored" if isinstance(result, Opened) else result
        if outcome == "restored":
            self.settled += written
            self.summary.files += 1
            self.summary.bytes_written += written
        if outcome != "refused" and place.path in self.awaited:
            self.whole.add(place.path)
        self._tell(place, outcome)

    def _size_there(self, place: Place) -> int:
        """Bytes of a file that was restored and whose size the archive does not say."""
        try:
            there = self.directories.look(place.path)
        except (TargetError, UnsafePath):  # somebody has moved it
            there = None
        return there.st_size if there else 0

    def _set_again(self, place: Place) -> None:
        """Sets the metadata of a file that the engine could not give all of it, to learn what that was. Not of one that
        has another name by now, which may be an older one: whoever may write to a directory can make links in it."""
        try:
            there = self.directories.look(place.path)
            directory = self.directories.open(parent_of(place.path))
        except (TargetError, UnsafePath) as error:
            self._problem(error, place.name)
            return
        if there is None or there.st_nlink != 1:
            self._miss(f"{place.name}: not all of its metadata can be set")
            return
        entry = self.entries[place.name]
        metadata = self._metadata_of(place, entry.more)
        if not self.options.set_id:
            metadata = without_rights(metadata)
        times = (entry.atime_ns, entry.mtime_ns) if self.options.no_sync else None  # else they come when all is durable
        self._set_metadata(place, directory, basename(place.path), metadata._replace(times=times), there)

    # ---- hard links ----

    def _sorted_out(self) -> tuple[list[Place], list[Place]]:
        """(files to restore from their blobs, hard links to one of these or to a file that is there).

        Of the files of an inode the first is restored, or a later one if it is there already; the others become links.
        All of them do if another one that is not selected is there, as the archive has it.
        """
        files: list[Place] = []
        others: dict[str, list[Place]] = {}
        for place in self.plan.places["file"]:
            if self._is_hard_link(place):
                others.setdefault(place.first, []).append(place)
            else:
                files.append(place)
        selected = {place.name: place for place in files if not place.problem}
        elsewhere = self._not_selected(selected.keys() | others.keys())
        for name in elsewhere:
            others.setdefault(name, [])
        hard_links = []
        for name, links in others.items():
            if name in selected:
                links.insert(0, selected[name])
            lying = next(filter(self._is_there, elsewhere.get(name, ())), None)
            if lying:
                self.first[name] = lying.path
                self.whole.add(lying.path)
                hard_links += links
                continue
            source = links[0] if self.options.overwrite == "always" else next(filter(self._is_there, links), links[0])
            self.first[name] = source.path
            hard_links += [place for place in links if place is not source]
            if source is not selected.get(name):
                files.append(source)
        linked = {place.name for place in hard_links}
        self.awaited = set(self.first.values())
        return [place for place in files if place.name not in linked], hard_links

    def _not_selected(self, firsts: Collection[str]) -> dict[str, list[Place]]:
        """First files of inodes -> names of these that are not selected, and may lie in the directory all the same."""
        found: dict[str, list[Place]] = {}
        if self.plan.choice.everything or not self.directories.names(""):
            return found
        for place in self.plan.other_files():
            first = place.first if self._is_hard_link(place) else place.name
            if first in firsts and place.path not in self.plan.things:
                found.setdefault(first, []).append(place)
        return found

    def _is_hard_link(self, place: Place) -> bool:
        """Of a file that the archive has, with the same content."""
        if place.problem or not place.first or place.first not in self.entries:
            return False
        try:
            first = self.entries[place.first]
            return first.blobs == self.entries[place.name].blobs and "hardlink" not in first.more
        except CorruptManifest:  # either is told of when it is its turn
            return False

    def _is_there(self, place: Place) -> bool:
        parent = parent_of(place.path)
        if parent in self.absent:
            return False
        self.directories.make_room()
        try:
            if self.directories.find(parent) is None:
                self.absent.add(parent)
                return False
            there = self.directories.look(place.path)
            return there is not None and _is_same_file(self.entries[place.name], there)
        except PogfastError:
            return False

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
        path = self.first[place.first or place.name]
        if path not in self.whole:
            return None
        source, there = self.directories.look(path), self._there(place)
        linked = source is not None and there is not None and os.path.samestat(source, there)
        if linked and self.options.overwrite != "always":
            return "unchanged"
        outcome = self._outcome(place, there, entry.more, lambda it: _is_same_file(entry, it))
        if outcome and (outcome == "refused" or self.options.overwrite == "never"):
            return outcome
        if self.options.dry_run:
            return "restored"
        if source is None:
            return outcome
        if linked:
            return "unchanged"

        def link(name: str, directory: int) -> None:
            at = self.directories.open(parent_of(path))
            os.link(basename(path), name, src_dir_fd=at, dst_dir_fd=directory, follow_symlinks=False)

        try:
            replace = self.directories.look(place.path) is not None
            self.directories.put(place.path, replace, link, lambda directory, name: None)
        except OSError:
            return outcome  # no hard links here, or no more of them
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
        on_the_way = [path for path in self.directories.owed if path in known and path not in selected]
        for place in _deepest_first(Place(-1, known[path], path) for path in on_the_way):
            self._guarded(place, self._directory_on_the_way)
        if self.plan.top is not None:
            self._guarded(self.plan.top, self._directory_on_the_way)

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
        parent, leaf = parent_of(place.path), basename(place.path)

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
        outcome = self._outcome(place, self._there(place), facts, is_same)
        if outcome:
            return outcome
        metadata = self._metadata(place, facts)
        if not self.options.dry_run:
            replace = self.directories.look(place.path) is not None

            def finish(directory: int, name: str) -> None:
                self._set_metadata(place, directory, name, metadata)

            self.directories.put(place.path, replace, make, finish)
        return "restored"

    def _directory(self, place: Place) -> Outcome | None:
        """None when it was there. A directory whose name is stripped is not the one that is restored into."""
        metadata = self._metadata(place, self.plan.directory_facts[place.name], kept=SET_ID)
        if not place.path and place is not self.plan.top:
            return None
        if self.options.dry_run:
            return "restored" if self.directories.find(place.path) is None else None
        directory = self.directories.open(place.path)
        if place.path in self.directories.owed:
            self._set_metadata(place, directory, ".", metadata)
        elif self.options.overwrite != "never" or self.options.delete:
            if is_other_metadata(directory, ".", os.fstat(directory), metadata):
                self._set_metadata(place, directory, ".", metadata)
        else:  # whoever adds a file to a directory changes its time
            self.summary.differing += is_other_metadata(
                directory, ".", os.fstat(directory), metadata._replace(times=None)
            )
        return "restored" if place.path in self.directories.made else None

    def _directory_on_the_way(self, place: Place) -> None:
        """It was not asked for, so nothing is told of it."""
        self._directory(place)

    def _set_metadata(
        self, place: Place, directory: int, name: str, metadata: Metadata, there: os.stat_result | None = None
    ) -> None:
        for failed in set_metadata(directory, name, metadata, there):
            self._miss(f"{place.name}: {failed}")

    # ---- what is not in the archive ----

    def delete(self) -> None:
        """Removes what lies below selected directories and is not in the archive, unless it must stay."""
        for top in self.plan.tops():
            if self.plan.must_stay(top):
                continue
            for path, is_directory in self._surplus(top):
                try:
                    self.directories.make_room()
                    self._delete(path, is_directory)
                except OSError as error:
                    self._problem(TargetError(f"{path}: cannot be deleted: {error.strerror}"), path)

    def _surplus(self, top: str) -> list[tuple[str, bool]]:
        """What is to be deleted below a directory, the deepest first, and whether it is a directory."""
        found = self.directories.others(top, self.plan.kept, self.plan.must_stay, self._warn)
        return [(path, is_directory) for path, is_directory in found if path not in self.gone]

    def _delete(self, path: str, is_directory: bool) -> None:
        """Raises OSError, UnsafePath and TargetError."""
        if not self.options.dry_run:
            self.directories.remove(path, is_directory)
        self.gone.add(path)
        self.summary.deleted += 1
        self.report.entry(path, "deleted", 0)

    # ---- what is told ----

    def tell_in_the_way(self) -> None:
        """Says once of a link or a file what could not be restored below it."""
        for problem, count in self.in_the_way.values():
            problem.args = (f"{problem} ({many(count, 'name')})",)
            self._tell_problem(problem)

    def tell_stripped(self) -> None:
        if self.stripped:
            what = f"set-id bits or capabilities were left out ({self.stripped:,})"
            option = "--set-id --overwrite=if-changed"
            self._warn(f"{what}: {option} restores them, from an archive that you trust")

    def _tell(self, place: Place, outcome: Outcome) -> None:
        if outcome in ("unchanged", "differs"):
            self.summary.unchanged += 1
            self.summary.differing += outcome == "differs"
        elif outcome == "metadata":
            self.summary.metadata += 1
        elif outcome == "refused":
            self.summary.refused.append(place.name)
        self.report.entry(place.name, outcome, place.size)

    def _problem(self, problem: PogfastError, path: str) -> None:
        if problem.reason == IN_THE_WAY:
            first, count = self.in_the_way.get(problem.path, (problem, 0))
            self.in_the_way[problem.path] = first, count + 1
            return
        problem.path = problem.path or path
        self._tell_problem(problem)

    def _tell_problem(self, problem: PogfastError) -> None:
        self.summary.problems.append(problem)
        self.report.problem(problem)

    def _miss(self, text: str) -> None:
        """Tells of metadata that something should have got."""
        self.summary.missed += 1
        self._warn(text)

    def _warn(self, text: str) -> None:
        self.summary.warnings += 1
        self.report.warning(text)


def _deepest_first(places: Iterable[Place]) -> list[Place]:
    return sorted(places, key=lambda place: place.path.count("/"), reverse=True)


def _is_same_file(entry: Entry, there: os.stat_result) -> bool:
    """By size, where the archive knows it, and mtime, as far as the file system keeps it."""
    if not stat.S_ISREG(there.st_mode) or entry.size not in (None, there.st_size):
        return False
    return is_same_time(there.st_mtime_ns, entry.mtime_ns)


def _is_unfinished(entry: Entry, there: os.stat_result) -> bool:
    """Whether an interrupted restore has left a file that may not be on the disk: it may be shorter than it was, too.

    Where only the second of the mark is left of it, the file system must be one that keeps no more of any time: nobody
    sets the time of the last change.
    """
    if not stat.S_ISREG(there.st_mode) or there.st_size > (there.st_size if entry.size is None else entry.size):
        return False
    mark = unfinished_time(entry.mtime_ns)
    is_coarse = there.st_ctime_ns % 10**9 == there.st_mtime_ns % 10**9 == 0
    return is_same_time(there.st_mtime_ns, mark) and (is_coarse or there.st_mtime_ns % 10**9 != 0)


def _is_target(text: str) -> bool:
    """Whether a link here can have this target."""
    try:
        return b"\0" not in os.fsencode(text) != b""
    except UnicodeEncodeError:
        return False

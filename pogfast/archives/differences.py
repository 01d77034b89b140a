"""Differences between two archives (`diff`), or between an archive and the disk (`check --against`).

Two archives are compared by their manifests alone: equal blobs are equal content. Files on the disk are compared with
the archive's blobs byte by byte. Nothing is changed or printed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from bisect import bisect_right
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Literal, Protocol

from pogfast import manifest
from pogfast.archives.archive import Archive
from pogfast.archives.listing import in_order, members, sorted_names
from pogfast.archives.members import Member
from pogfast.archives.records import Record
from pogfast.archives.trailer import TOP, Kind
from pogfast.errors import CorruptManifest, DamageError, PogfastError, SourceError, UnsafePath, worst_code
from pogfast.files.directories import Directories, many_open_files
from pogfast.files.metadata import facts_of
from pogfast.files.paths import basename, normal_path, parent_of, safe_path
from pogfast.manifest import Entry, in_order_of_paths

# Metadata that is compared if both sides have it. A file's times are in its entry.
METADATA = ("mode", "uid", "gid", "user", "group", "mtime_ns", "xattrs")
# Errors that mean that there is no such file.
NOT_THERE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG}
# Bytes that are compared at a time.
PIECE = 1 << 18


# ---- two archives ----------------------------------------------------------------------------------------------------

# Names in an archive, and the entries of those that are files.
Some = tuple[list[str], manifest.LazyEntries]
What = Literal["added", "removed", "modified", "uncertain", "metadata", "type"]


@dataclass(slots=True)
class Change(Record):
    """How a name differs between two archives. Sizes are uncompressed bytes; None if unknown, or if there is no file.

    "uncertain": the files were cut into chunks differently, so that blobs cannot be compared, and the times differ.
    """

    name: str
    change: What
    kind: Kind  # in the later archive; in the earlier one if it was removed
    kind_before: Kind
    size_before: int | None = None
    size: int | None = None
    metadata: list[str] = field(default_factory=list)  # which metadata differs, if it is in both


def diff(before: Archive, after: Archive, problem: Callable[[PogfastError], None] | None = None) -> Iterator[Change]:
    """Yields the changes between two archives, in the order of paths. Reads no blob.

    Calls `problem` with each malformed entry; without it, raises CorruptManifest.
    """
    comparable = _cut(before) == _cut(after)
    was, now = _top(before), _top(after)
    if was and now and (change := _change(TOP, was, now, comparable)):
        yield change
    others = before.not_files | after.not_files
    for first, last in _side_by_side(before, after):
        for name in _maybe_changed(first, last, others):
            try:
                change = _change(name, members(before, name, first[1]), members(after, name, last[1]), comparable)
            except CorruptManifest as error:
                if problem is None:
                    raise
                problem(error)
            else:
                if change:
                    yield change


def _side_by_side(before: Archive, after: Archive) -> Iterator[tuple[Some, Some]]:
    """Yields what two archives have between the same names, in the order of paths."""
    one, other = in_order(before), in_order(after)
    nothing: Some = [], manifest.LazyEntries({}, "")
    was, now = next(one, nothing), next(other, nothing)
    while was[0] or now[0]:
        last = min(in_order_of_paths(names[-1]) for names, _ in (was, now) if names)
        (first_was, was), (first_now, now) = _split(was, last), _split(now, last)
        yield first_was, first_now
        was, now = was if was[0] else next(one, nothing), now if now[0] else next(other, nothing)


def _split(some: Some, last: str) -> tuple[Some, Some]:
    """Splits behind a place in the order of paths."""
    names, entries = some
    end = bisect_right(names, last, key=in_order_of_paths)
    return (names[:end], entries), (names[end:], entries)


def _maybe_changed(was: Some, now: Some, others: Container[str]) -> list[str]:
    """Returns the names under which two archives may not have the same: all but those of files with the same entry, in
    its usual form, as most of a million. `others` are names that have something else than a file."""
    plain = now[1].plain(now[0])
    were, are = was[1].members, now[1].members
    names = [name for name in now[0] if name not in plain or were.get(name) != are[name] or name in others]
    gone = set(was[0]).difference(now[0])
    return sorted(gone.union(names), key=in_order_of_paths) if gone else names


def _change(name: str, was: list[Member], now: list[Member], comparable: bool) -> Change | None:
    first, last = (was or now)[0], (now or was)[0]
    change = Change(name, "type", last.kind, first.kind, was[0].size if was else None, now[0].size if now else None)
    if not was or not now:
        change.change = "added" if now else "removed"
    elif [member.kind for member in was] == [member.kind for member in now]:
        change.metadata = _changed_metadata(first, last)
        content = _content(first, last, comparable)
        if not content and not change.metadata:
            return None
        change.change = content or "metadata"
    return change


def _top(archive: Archive) -> list[Member]:
    """Returns the directory that was archived as `.` or `/`, if an archive has it."""
    top = archive.described.top
    return [] if top is None else [Member(TOP, "directory", top)]


def _cut(archive: Archive) -> tuple[object, ...]:
    """Returns how files were cut and compressed: if it is the same, equal content has equal blobs."""
    return archive.layout, archive.chunk_size, archive.chunker, archive.described.level


def _content(was: Member, now: Member, comparable: bool) -> What | None:
    """Returns how the content of a file, or the target of a link, differs; None if it is the same."""
    if was.kind == "link":
        return None if was.metadata.get("target") == now.metadata.get("target") else "modified"
    if was.entry is None or now.entry is None or was.entry.blobs == now.entry.blobs:
        return None
    if comparable or (was.size is not None and now.size is not None and was.size != now.size):
        return "modified"
    return "uncertain" if _times_differ(was.entry, now.entry) else None


def _times_differ(was: Entry, now: Entry) -> bool:
    """Compares modification times, in ns if both have them: pog's are rounded."""
    if "mtime_ns" in was.more and "mtime_ns" in now.more:
        return was.mtime_ns != now.mtime_ns
    return was.mtime != now.mtime


def _changed_metadata(was: Member, now: Member) -> list[str]:
    changed = differing(was.metadata, now.metadata)
    if was.entry and now.entry and "mtime_ns" not in changed and _times_differ(was.entry, now.entry):
        changed.append("mtime_ns")
    return changed


def differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Which metadata both have, and not the same. No extended attributes are written down as none."""
    return [
        word
        for word in METADATA
        if (word if word != "xattrs" else "mode") in one.keys() & other.keys() and one.get(word) != other.get(word)
    ]


# ---- an archive and the disk -----------------------------------------------------------------------------------------

Which = Literal["missing", "extra", "type", "content", "metadata"]


@dataclass(slots=True)
class Difference(Record):
    """Something that differs between an archive and the disk."""

    name: str
    difference: Which
    kind: str  # in the archive; on the disk if it is only there
    size: int | None = None  # uncompressed bytes of a file in the archive
    size_on_disk: int | None = None
    offset: int | None = None  # of the first byte that differs, in files of the same size
    metadata: list[str] = field(default_factory=list)  # which metadata differs


@dataclass(slots=True)
class Compared:
    """Counters, which another thread may read during the comparison."""

    total_files: int = 0
    files: int = 0
    size: int = 0  # bytes that were compared
    differences: int = 0
    problems: list[PogfastError] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """1 for differences alone, as of cmp and diff; a file that could not be read and damage are worse."""
        return worst_code([int(self.differences > 0), *(problem.exit_code for problem in self.problems)])


class Report(Protocol):
    """Receives what happens during a comparison."""

    def started(self, progress: Compared) -> None:
        """Called before the first file. The comparison goes on counting in `progress`."""

    def difference(self, difference: Difference) -> None:
        """Called for each difference."""

    def problem(self, error: PogfastError) -> None:
        """Called for damage in the archive, and for a file that cannot be read; the comparison continues."""


def compare(archive: Archive, path: str, report: Report) -> Compared:
    """Compares an archive with the disk. An archived name is looked for below the directory `path`.

    Files that are only on the disk are found in the directories that the archive has; if it has none, in the parents of
    its files. Symbolic links below `path` are never followed: files behind one are missing. Raises StoreError if the
    store cannot be read.
    """
    with many_open_files() as max_open, Directories(path, max_open, make=False) as disk:
        return _Comparison(archive, path, disk, report).run()


class _Comparison:
    def __init__(self, archive: Archive, path: str, disk: Directories, report: Report) -> None:
        self.archive = archive
        self.path = path
        self.disk = disk
        self.report = report
        self.done = Compared(total_files=len(archive))

    def run(self) -> Compared:
        self.report.started(self.done)
        names = sorted_names(self.archive)
        for member in _top(self.archive):
            with self._telling():
                self._one(member)
        for name in names:
            with self._telling():
                for member in members(self.archive, name, self.archive.entries):
                    self._one(member)
            self.done.files += name in self.archive.entries
        self._extra(names)
        return self.done

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except (DamageError, SourceError, UnsafePath) as error:
            self._problem(error)

    def _one(self, member: Member) -> None:
        path = self._path(member.name)
        try:
            found = self._look(member, path)
        except OSError as error:
            if error.errno not in NOT_THERE:
                raise SourceError(f"cannot read {os.path.join(self.path, path)}: {error.strerror}") from error
            found = Difference(member.name, "missing", member.kind, member.size)
        if found:
            self._tell(found)

    def _path(self, name: str) -> str:
        """Returns the path of a name below the directory; "" is the directory itself. Raises UnsafePath."""
        try:
            return safe_path(name) if normal_path(name) else ""
        except UnsafePath as error:
            raise UnsafePath(f"{name}: not compared, nothing below {self.path} can have this name") from error

    def _directory(self, path: str) -> int:
        """Opens a directory of the disk without following links. Raises OSError."""
        self.disk.make_room()
        try:
            directory = self.disk.find(path)
        except UnsafePath as error:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)) from error
        except PogfastError as error:
            raise error.__cause__ if isinstance(error.__cause__, OSError) else error from None
        if directory is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return directory

    def _look(self, member: Member, path: str) -> Difference | None:
        """Returns how a path on the disk differs from the archive, None if it does not. Raises OSError."""
        parent, leaf = self._directory(parent_of(path)), basename(path) or "."
        there = os.stat(leaf, dir_fd=parent, follow_symlinks=False)
        found = Difference(member.name, "type", member.kind, member.size)
        found.size_on_disk = there.st_size if stat.S_ISREG(there.st_mode) else None
        if _kind_on_disk(there) != member.kind:
            return found
        found.difference = "content"
        found.metadata = self._metadata(member, f"/proc/self/fd/{parent}/{leaf}", there)
        if member.kind == "file" and self._content_differs(found, path, parent):
            return found
        if member.kind == "link" and os.readlink(leaf, dir_fd=parent) != member.metadata.get("target"):
            return found
        found.difference = "metadata"
        return found if found.metadata else None

    def _metadata(self, member: Member, path: str, there: os.stat_result) -> list[str]:
        """Returns which metadata differs. `path` goes through the open directory, so that no link is followed."""
        changed = differing(member.metadata, facts_of(path, there))
        if member.entry and "mtime_ns" not in member.metadata and member.entry.mtime != there.st_mtime:
            changed.append("mtime_ns")
        if member.entry and self._is_unlinked(member.entry, there):
            changed.append("hardlink")
        return changed

    def _is_unlinked(self, entry: Entry, there: os.stat_result) -> bool:
        """Returns True if a file is no longer a hard link of the file that the archive says. If that file is missing,
        it is reported by itself."""
        first = entry.more.get("hardlink")
        if not isinstance(first, str) or first not in self.archive.entries:
            return False
        known = self.archive.entries[first]
        if known.blobs != entry.blobs or "hardlink" in known.more:
            return False
        try:
            path = self._path(first)
            other = os.stat(basename(path), dir_fd=self._directory(parent_of(path)), follow_symlinks=False)
        except (OSError, UnsafePath):
            return False
        return stat.S_ISREG(other.st_mode) and not os.path.samestat(other, there)

    def _content_differs(self, found: Difference, path: str, parent: int) -> bool:
        """Returns True if the content differs, and notes the first byte that differs in files of the same size."""
        if found.size not in (None, found.size_on_disk):
            return True
        at = 0

        def opener(_: str, flags: int) -> int:
            return os.open(basename(path), flags | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=parent)

        with open(os.path.join(self.path, path), "rb", opener=opener) as file:
            for piece in self.archive.read(found.name):
                same = _same(file, piece)
                self.done.size += len(piece)
                if same < len(piece):
                    found.offset = at + same
                    return True
                at += same
            found.offset = at if file.read(1) else None
        return found.offset is not None

    def _extra(self, names: list[str]) -> None:
        """Reports what is only on the disk, and was not left out of the archive. Of a directory only itself."""
        known: set[str] = set()
        for name in self._safe(names):
            while name not in known:
                known.add(name)
                name = parent_of(name)
        left_out = {*self.archive.described.names("skipped"), *self.archive.described.names("unreadable")}
        directories = set(self._safe(self.archive.directories)) or {parent_of(name) for name in known} - {""}
        for directory in sorted(directories):
            path = os.path.join(self.path, directory)
            try:
                opened = self._directory(directory)
                for leaf in sorted(os.listdir(opened)):
                    name = f"{directory}/{leaf}" if directory else leaf
                    if name not in known and os.path.abspath(os.path.join(path, leaf)) not in left_out:
                        there = os.stat(leaf, dir_fd=opened, follow_symlinks=False)
                        if _kind_on_disk(there) in ("socket", "device"):
                            continue  # never archived
                        size = there.st_size if stat.S_ISREG(there.st_mode) else None
                        self._tell(Difference(name, "extra", _kind_on_disk(there), None, size))
            except OSError as error:
                if error.errno not in NOT_THERE:
                    self._problem(SourceError(f"cannot read {path}: {error.strerror}"))

    def _safe(self, names: Iterable[str]) -> Iterator[str]:
        """Yields the paths of the names that are safe to look for."""
        for name in names:
            with contextlib.suppress(UnsafePath):
                yield self._path(name)

    def _tell(self, difference: Difference) -> None:
        self.done.differences += 1
        self.report.difference(difference)

    def _problem(self, problem: PogfastError) -> None:
        self.done.problems.append(problem)
        self.report.problem(problem)


def _kind_on_disk(there: os.stat_result) -> str:
    kinds = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "link", stat.S_IFIFO: "fifo"}
    return kinds.get(stat.S_IFMT(there.st_mode), "socket" if stat.S_ISSOCK(there.st_mode) else "device")


def _same(file: BinaryIO, piece: memoryview) -> int:
    """Returns how many bytes of `piece` the file has at its current position."""
    for at in range(0, len(piece), PIECE):
        ours = bytes(piece[at : at + PIECE])
        theirs = file.read(len(ours))
        if ours != theirs:
            differ = (index for index, (one, other) in enumerate(zip(ours, theirs, strict=False)) if one != other)
            return at + next(differ, len(theirs))
    return len(piece)

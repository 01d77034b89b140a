"""Differences between two archives (`diff`), or between an archive and the disk (`check --against`).

Two archives are compared by their manifests alone: equal blobs are equal content. The disk is read and compared with
the archive's blobs byte by byte. Nothing is changed or printed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Literal, Protocol

from pogfast.archives.archive import Archive
from pogfast.archives.listing import Thing, sorted_names, things
from pogfast.archives.records import Record
from pogfast.archives.trailer import TOP, Kind
from pogfast.errors import CorruptManifest, DamageError, PogfastError, SourceError, UnsafePath, worst_code
from pogfast.files.directories import Directories, many_open_files
from pogfast.files.metadata import facts_of
from pogfast.files.paths import basename, parent_of, plain_path, safe_path
from pogfast.manifest import Entry

# Facts that are compared where both sides have them; a file's times are those of its entry.
METADATA = ("mode", "uid", "gid", "user", "group", "mtime_ns", "xattrs")
# What the system says where nothing can lie under a name.
NOT_THERE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG}
# Bytes that are compared at a time.
PIECE = 1 << 18


# ---- two archives ----------------------------------------------------------------------------------------------------

What = Literal["added", "removed", "modified", "uncertain", "metadata", "type"]


@dataclass(slots=True)
class Change(Record):
    """What became of a name between two archives. Sizes are plain bytes, None where an archive does not say, or there
    is no file.

    "uncertain": the archives are cut differently, so that their blobs tell nothing, and the times differ.
    """

    name: str
    change: What
    kind: Kind  # in the later archive; of what was removed, in the earlier one
    kind_before: Kind
    size_before: int | None = None
    size: int | None = None
    metadata: list[str] = field(default_factory=list)  # which facts differ, of what is in both


def diff(before: Archive, after: Archive, problem: Callable[[PogfastError], None] | None = None) -> Iterator[Change]:
    """What differs between two archives, in the order of paths. Reads no blob.

    An entry that is malformed goes to `problem`; without it, raises CorruptManifest there.
    """
    comparable = _cut(before) == _cut(after)
    was, now = _top(before), _top(after)
    if was and now and (change := _change(TOP, was, now, comparable)):
        yield change
    for name in sorted_names(before, after):
        try:
            change = _change(name, things(before, name), things(after, name), comparable)
        except CorruptManifest as error:
            if problem is None:
                raise
            problem(error)
        else:
            if change:
                yield change


def _change(name: str, was: list[Thing], now: list[Thing], comparable: bool) -> Change | None:
    first, last = (was or now)[0], (now or was)[0]
    change = Change(name, "type", last.kind, first.kind, was[0].size if was else None, now[0].size if now else None)
    if not was or not now:
        change.change = "added" if now else "removed"
    elif [thing.kind for thing in was] == [thing.kind for thing in now]:
        change.metadata = _changed_facts(first, last)
        content = _content(first, last, comparable)
        if not content and not change.metadata:
            return None
        change.change = content or "metadata"
    return change


def _top(archive: Archive) -> list[Thing]:
    """The directory that was archived as `.` or `/`, where an archive tells of it."""
    top = archive.described.top
    return [] if top is None else [Thing(TOP, "directory", top)]


def _cut(archive: Archive) -> tuple[object, ...]:
    """How files became blobs: where this is the same, the same content has the same blobs."""
    return archive.layout, archive.chunk_size, archive.chunker, archive.described.level


def _content(was: Thing, now: Thing, comparable: bool) -> What | None:
    """Whether the content of something differs that both have: that of a file, or the target of a link."""
    if was.kind == "link":
        return None if was.facts.get("target") == now.facts.get("target") else "modified"
    if was.entry is None or now.entry is None or was.entry.blobs == now.entry.blobs:
        return None
    if comparable or (was.size is not None and now.size is not None and was.size != now.size):
        return "modified"
    return "uncertain" if _times_differ(was.entry, now.entry) else None


def _times_differ(was: Entry, now: Entry) -> bool:
    """In ns where both know them; a time that pog wrote is rounded."""
    if "mtime_ns" in was.more and "mtime_ns" in now.more:
        return was.mtime_ns != now.mtime_ns
    return was.mtime != now.mtime


def _changed_facts(was: Thing, now: Thing) -> list[str]:
    changed = differing(was.facts, now.facts)
    if was.entry and now.entry and "mtime_ns" not in changed and _times_differ(was.entry, now.entry):
        changed.append("mtime_ns")
    return changed


def differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Which facts both have, and not the same. No extended attributes are written down as none."""
    return [
        word
        for word in METADATA
        if (word if word != "xattrs" else "mode") in one.keys() & other.keys() and one.get(word) != other.get(word)
    ]


# ---- an archive and the disk -----------------------------------------------------------------------------------------

Which = Literal["missing", "extra", "type", "content", "metadata"]


@dataclass(slots=True)
class Difference(Record):
    """Something that is not on the disk as it is in an archive."""

    name: str
    difference: Which
    kind: str  # in the archive; of what is only on the disk, there
    size: int | None = None  # plain bytes of a file in the archive
    size_on_disk: int | None = None
    offset: int | None = None  # the first byte that differs, of files of one size
    metadata: list[str] = field(default_factory=list)  # which facts differ


@dataclass(slots=True)
class Compared:
    """Counters that another thread may read while files are compared; at the end what was found."""

    total_files: int = 0
    files: int = 0
    size: int = 0  # plain bytes that were compared
    differences: int = 0
    problems: list[PogfastError] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """1 for differences alone, as of cmp and diff; a file that could not be read and damage are worse."""
        return worst_code([int(self.differences > 0), *(problem.exit_code for problem in self.problems)])


class Report(Protocol):
    """What the caller wants to hear."""

    def started(self, progress: Compared) -> None:
        """Before the first file; the same object is counted up."""

    def difference(self, difference: Difference) -> None: ...

    def problem(self, error: PogfastError) -> None:
        """Damage in the archive, or a file that cannot be read: the rest is compared."""


def compare(archive: Archive, path: str, report: Report) -> Compared:
    """Compares an archive with what is on the disk: `path` and an archived name are where something should lie.

    What is only on the disk is looked for in the archive's directories; where it does not know of any, in those of its
    files. Nothing is reached through a link below `path`: what lies behind one is missing. Raises StoreError when the
    store cannot be read.
    """
    with many_open_files() as most, Directories(path, most, make=False) as disk:
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
        for thing in _top(self.archive):
            with self._telling():
                self._one(thing)
        for name in names:
            with self._telling():
                for thing in things(self.archive, name):
                    self._one(thing)
            self.done.files += name in self.archive.entries
        self._extra(names)
        return self.done

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except (DamageError, SourceError, UnsafePath) as error:
            self._problem(error)

    def _one(self, thing: Thing) -> None:
        path = self._path(thing.name)
        try:
            found = self._look(thing, path)
        except OSError as error:
            if error.errno not in NOT_THERE:
                raise SourceError(f"cannot read {os.path.join(self.path, path)}: {error.strerror}") from error
            found = Difference(thing.name, "missing", thing.kind, thing.size)
        if found:
            self._tell(found)

    def _path(self, name: str) -> str:
        """Where something should lie below the directory; "" is the directory itself. Raises UnsafePath."""
        try:
            return safe_path(name) if plain_path(name) else ""
        except UnsafePath as error:
            raise UnsafePath(f"{name}: not compared, nothing below {self.path} can have this name") from error

    def _directory(self, path: str) -> int:
        """A directory of the disk, not reached through a link. Raises OSError."""
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

    def _look(self, thing: Thing, path: str) -> Difference | None:
        """Raises OSError where nothing lies."""
        parent, leaf = self._directory(parent_of(path)), basename(path) or "."
        there = os.stat(leaf, dir_fd=parent, follow_symlinks=False)
        found = Difference(thing.name, "type", thing.kind, thing.size)
        found.size_on_disk = there.st_size if stat.S_ISREG(there.st_mode) else None
        if _kind_on_disk(there) != thing.kind:
            return found
        found.difference = "content"
        found.metadata = self._metadata(thing, f"/proc/self/fd/{parent}/{leaf}", there)
        if thing.kind == "file" and self._content_differs(found, path, parent):
            return found
        if thing.kind == "link" and os.readlink(leaf, dir_fd=parent) != thing.facts.get("target"):
            return found
        found.difference = "metadata"
        return found if found.metadata else None

    def _metadata(self, thing: Thing, path: str, there: os.stat_result) -> list[str]:
        """`path` is by the open directory, so that attributes are not read through a link either."""
        changed = differing(thing.facts, facts_of(path, there))
        if thing.entry and "mtime_ns" not in thing.facts and thing.entry.mtime != there.st_mtime:
            changed.append("mtime_ns")
        if thing.entry and self._has_come_apart(thing.entry, there):
            changed.append("hardlink")
        return changed

    def _has_come_apart(self, entry: Entry, there: os.stat_result) -> bool:
        """Returns True if a file is not the one on the disk that it is a hard link of. Where that is missing, it is
        told of by itself."""
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
        """Of files of one size the first byte that differs is noted."""
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
        """What is on the disk only, and could be archived. Of a directory that is only there, nothing below it."""
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
                            continue  # these are in no archive
                        size = there.st_size if stat.S_ISREG(there.st_mode) else None
                        self._tell(Difference(name, "extra", _kind_on_disk(there), None, size))
            except OSError as error:
                if error.errno not in NOT_THERE:
                    self._problem(SourceError(f"cannot read {path}: {error.strerror}"))

    def _safe(self, names: Iterable[str]) -> Iterator[str]:
        """The paths of those names that can be below the directory."""
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
    """How many of these bytes the file goes on with."""
    for at in range(0, len(piece), PIECE):
        ours = bytes(piece[at : at + PIECE])
        theirs = file.read(len(ours))
        if ours != theirs:
            differ = (index for index, (one, other) in enumerate(zip(ours, theirs, strict=False)) if one != other)
            return at + next(differ, len(theirs))
    return len(piece)

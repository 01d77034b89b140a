"""What differs: two archives (`diff`), or an archive and the disk (`check --against`).

Two archives are told apart by their manifests alone: the same blobs are the same content. The disk is read, and the
archive's blobs beside it, byte for byte. Nothing is changed anywhere, and nothing is printed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Literal, Protocol

from pogfast.archive import Archive, Record
from pogfast.directories import plain_path
from pogfast.errors import DamageError, PogfastError, SourceError, UnsafePath
from pogfast.manifest import Entry
from pogfast.metadata import facts_of
from pogfast.survey import Kind, Thing, sorted_names, things

# Facts that are compared where both sides have them; a file's times are those of its entry.
METADATA = ("mode", "uid", "gid", "user", "group", "mtime_ns", "xattrs")
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


def diff(before: Archive, after: Archive) -> Iterator[Change]:
    """What differs between two archives, in the order of paths. Reads no blob."""
    comparable = _cut(before) == _cut(after)
    for name in sorted_names(before, after):
        was, now = things(before, name), things(after, name)
        first, last = (was or now)[0], (now or was)[0]
        change = Change(name, "type", last.kind, first.kind, was[0].size if was else None, now[0].size if now else None)
        if not was or not now:
            change.change = "added" if now else "removed"
        elif [thing.kind for thing in was] == [thing.kind for thing in now]:
            change.metadata = _changed_facts(first, last)
            content = _content(first, last, comparable)
            if not content and not change.metadata:
                continue
            change.change = content or "metadata"
        yield change


def _cut(archive: Archive) -> tuple[object, ...]:
    """How files became blobs: where this is the same, the same content has the same blobs."""
    return archive.layout, archive.chunk_size, archive.chunker, archive.trailer.get("level")


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
        """Damage before what could not be read, and that before what differs: 1, as of cmp and diff."""
        return max([int(self.differences > 0), *(problem.exit_code for problem in self.problems)])


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
    files. Raises StoreError when the store cannot be read.
    """
    return _Comparison(archive, path, report).run()


class _Comparison:
    def __init__(self, archive: Archive, path: str, report: Report) -> None:
        self.archive = archive
        self.path = path
        self.report = report
        self.done = Compared(total_files=len(archive))

    def run(self) -> Compared:
        self.report.started(self.done)
        names = sorted_names(self.archive)
        for name in names:
            for thing in things(self.archive, name):
                try:
                    self._one(thing)
                except (DamageError, SourceError, UnsafePath) as error:
                    self._problem(error)
            self.done.files += name in self.archive.entries
        self._extra(names)
        return self.done

    def _one(self, thing: Thing) -> None:
        path = self._path(thing.name)
        try:
            there = os.lstat(path)
            found = self._look(thing, path, there)
        except (FileNotFoundError, NotADirectoryError):
            found = Difference(thing.name, "missing", thing.kind, thing.size)
        except OSError as error:
            raise SourceError(f"cannot read {path}: {error.strerror}") from error
        if found:
            self._tell(found)

    def _path(self, name: str) -> str:
        if ".." in name.split("/") or "\0" in name:
            raise UnsafePath(f"{name}: not compared, its path leads out of the directory")
        return os.path.join(self.path, plain_path(name))

    def _look(self, thing: Thing, path: str, there: os.stat_result) -> Difference | None:
        found = Difference(thing.name, "type", thing.kind, thing.size)
        found.size_on_disk = there.st_size if stat.S_ISREG(there.st_mode) else None
        if _kind_on_disk(there) != thing.kind:
            return found
        found.difference = "content"
        found.metadata = self._metadata(thing, path, there)
        if thing.kind == "file" and self._content_differs(found, path):
            return found
        if thing.kind == "link" and os.readlink(path) != thing.facts.get("target"):
            return found
        found.difference = "metadata"
        return found if found.metadata else None

    def _metadata(self, thing: Thing, path: str, there: os.stat_result) -> list[str]:
        changed = differing(thing.facts, facts_of(path, there))
        if thing.entry and "mtime_ns" not in thing.facts and thing.entry.mtime != there.st_mtime:
            changed.append("mtime_ns")
        return changed

    def _content_differs(self, found: Difference, path: str) -> bool:
        """Of files of one size the first byte that differs is noted."""
        if found.size not in (None, found.size_on_disk):
            return True
        at = 0
        with open(path, "rb") as file:
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
        """What is on the disk only. Of a directory that is only there, nothing below it."""
        known: set[str] = set()
        for name in map(plain_path, names):
            while name not in known:
                known.add(name)
                name = name.rpartition("/")[0]
        left_out = {*_keys(self.archive, "skipped"), *_keys(self.archive, "unreadable")}
        for directory in self._directories(known):
            path = os.path.join(self.path, directory)
            try:
                for leaf in sorted(os.listdir(path)):
                    name = f"{directory}/{leaf}" if directory else leaf
                    if name not in known and os.path.abspath(os.path.join(path, leaf)) not in left_out:
                        there = os.lstat(os.path.join(path, leaf))
                        size = there.st_size if stat.S_ISREG(there.st_mode) else None
                        self._tell(Difference(name, "extra", _kind_on_disk(there), None, size))
            except OSError as error:
                self._problem(SourceError(f"cannot read {path}: {error.strerror}"))

    def _directories(self, known: set[str]) -> Iterator[str]:
        """Those of the archive that are directories on the disk as well, and not reached through a link."""
        named = {plain_path(name) for name in self.archive.directories}
        above = {name.rpartition("/")[0] for name in known} - {""}
        elsewhere: set[str] = set()
        for name in sorted(named or above):
            path = os.path.join(self.path, name)
            if name.rpartition("/")[0] in elsewhere or os.path.islink(path) or not os.path.isdir(path):
                elsewhere.add(name)
            else:
                yield name

    def _tell(self, difference: Difference) -> None:
        self.done.differences += 1
        self.report.difference(difference)

    def _problem(self, problem: PogfastError) -> None:
        self.done.problems.append(problem)
        self.report.problem(problem)


def _keys(archive: Archive, word: str) -> list[str]:
    section = archive.trailer.get(word)
    return list(section) if isinstance(section, dict) else []


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

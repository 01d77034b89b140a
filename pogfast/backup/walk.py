"""Walks the inputs of an archive: yields everything at and below the given paths, with names as tar gives them.

Reads names and stat results (one lstat each), and opens only directories and tag files. Plain files that follow each
other in a directory come as one FileRun, which the engine has read: most of a tree, at a fraction of the time. Keeps
nothing of what was yielded, so memory depends only on the names in the widest directory: the stat results of a million
files would take a gigabyte. Links are not followed, except a given path that ends with `/`. Files that cannot be read
are reported, and the walk continues.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, NamedTuple

from pogfast._engine import FileRun, Listing, Stat
from pogfast.errors import MissingSource, NoSuchInput, PogfastError, SourceError, UsageError
from pogfast.files.patterns import Patterns

Kind = Literal["file", "directory", "link", "fifo", "socket", "device"]
# Receives problems with single inputs, after which the walk continues (errors), and warnings and notes (text).
Tell = Callable[[PogfastError | str], None]


class Note(str):
    """Information that is no warning: the same in every run, so quiet runs do not show it."""


KINDS: dict[int, Kind] = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "link",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}
# The first bytes of a CACHEDIR.TAG that counts: https://bford.info/cachedir/
CACHE_TAG = "CACHEDIR.TAG:Signature: 8a477f597d28d172789f06886806bc55"


class Node(NamedTuple):
    """Something in the file system, and its name in the archive."""

    path: str  # to open it with
    name: str
    kind: Kind
    stat: Stat | os.stat_result  # of a link itself, not of its target


@dataclass(frozen=True)
class Selection:
    """What is left out. An excluded directory is not entered. One that is excluded by a tag file or is another file
    system is archived without its contents (except the tag file).

    exclude, iexclude: restic's patterns for absolute paths, the latter ignoring case.
    exclude_if_present: NAME or NAME:HEADER, a file that marks its directory, and the bytes that it must begin with.
    exclude_caches: the same for CACHEDIR.TAG with its signature. exclude_larger_than: in bytes, for files only.
    one_file_system: stays on the file system of each given path. Only directories are compared, as in tar, since
    overlayfs gives files other device numbers.
    """

    exclude: Sequence[str] = ()
    iexclude: Sequence[str] = ()
    exclude_if_present: Sequence[str] = ()
    exclude_caches: bool = False
    exclude_larger_than: int | None = None
    one_file_system: bool = False


class Own(NamedTuple):
    """What a run itself writes, and must not archive: the archive would grow with each run."""

    # Directories by device and inode, whatever links and bind mounts lead there: what each is, and a function that says
    # which names in it are left out.
    directories: Mapping[tuple[int, int], tuple[str, Callable[[str], bool]]] = MappingProxyType({})
    prefix: str = "\0"  # directories whose names begin with this are left out everywhere


NOTHING = Own()


def _ignore(node: Node) -> None:
    """For callers that need nothing of the directories above the paths."""


def walk(
    paths: Iterable[str],
    selection: Selection,
    *,
    base: str | None = None,
    own: Own = NOTHING,
    tell: Tell,
    on_parent: Callable[[Node], None] = _ignore,
) -> Iterator[Node | FileRun]:
    """Yields everything at and below `paths`, sorted by the bytes of the names, directories before their contents.

    `base`: the directory that relative paths start from; `own`: what is left out, with a note. Each name is yielded
    once. `on_parent` is called for directories that are part of a name but are not yielded: those above a path, and,
    with an empty name, a path like `.` of which only the contents are archived. Raises UsageError for a wrong selection
    and NoSuchInput if `base` does not exist, both at once; NoSuchInput while walking if no path exists.
    """
    if base is not None and not os.path.isdir(base):
        raise NoSuchInput(f"{base}: no such directory")
    return _Walk(list(paths), selection, base, own, tell, on_parent).found()


def nodes_in(found: Iterable[Node | FileRun]) -> Iterator[Node]:
    """Yields what a walk yields, with runs of files as single nodes."""
    for each in found:
        if isinstance(each, FileRun):
            for number in range(len(each)):
                yield file_in(each, number)
        else:
            yield each


def file_in(run: FileRun, number: int) -> Node:
    path, name, found = run.node(number)
    return Node(path, name, "file", found)


def archived_name(path: str) -> str:
    """Returns the archived name of a given path: without everything up to its last `..`, without `/` at its beginning
    and end, and without `.`. Empty for a path of which only the contents are archived, like `.` and `/`."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts:
        parts = parts[len(parts) - parts[::-1].index("..") :]
    return "/".join(parts)


def _leading_to(path: str, name: str) -> Iterator[tuple[str, str]]:
    """Yields (path, archived name) of each directory in the name of a given path, the nearest first."""
    parts = path.split("/")
    while "/" in name:
        while parts[-1] in ("", "."):
            parts.pop()
        parts.pop()
        name = name.rpartition("/")[0]
        yield "/".join(parts), name


@dataclass(slots=True)
class _Level:
    """A directory that is being walked."""

    listing: Listing
    left: Sequence[int]  # positions in it that are walked
    path: str  # these three are put before a leaf
    name: str
    absolute: str  # empty if there are no patterns
    shared: bool  # another given path has names in this directory as well
    at: int = 0  # how many of them are done


class _Walk:
    """One walk: its rules, the names that are taken, the notes that were reported."""

    def __init__(
        self,
        paths: Sequence[str],
        selection: Selection,
        base: str | None,
        own: Own,
        tell: Tell,
        on_parent: Callable[[Node], None],
    ) -> None:
        self.own = own
        self.paths = paths
        self.base = base or ""
        self.tell = tell
        self.on_parent = on_parent
        self.passed: set[str] = set()  # names of directories that were given to `on_parent`
        self.names = _Names(archived_name(path) for path in paths)
        self.said: set[str] = set()
        patterns = [Patterns(selection.exclude), Patterns(selection.iexclude, ignore_case=True)]
        self.excluding = [some.matches for some in patterns if some]
        tags = [*selection.exclude_if_present, *[CACHE_TAG] * selection.exclude_caches]
        self.tags = [_parse_tag(tag) for tag in tags]
        self.largest = sys.maxsize if selection.exclude_larger_than is None else selection.exclude_larger_than
        self.one_file_system = selection.one_file_system

    def found(self) -> Iterator[Node | FileRun]:
        for given, absolute, node in self._given():
            self._say_what_is_stripped(given)
            if self._excludes(absolute):
                self.tell(f"{node.path} was given, but is also excluded: left out")
            elif node.kind != "file" or node.stat.st_size <= self.largest:
                yield from self._below(node, absolute)

    def _given(self) -> Iterator[tuple[str, str, Node]]:
        """Yields the given paths that exist: as given, absolute, and as a node. Missing ones are reported once another
        exists; if none does, the run fails. Raises NoSuchInput."""
        missing: list[MissingSource] = []
        none = True
        for given in self.paths:
            path = os.path.join(self.base, given) if given else ""  # joined with nothing, it would be the base
            try:
                found = os.lstat(path)
                absolute = "/" + os.path.abspath(path).lstrip("/") if self.excluding else ""
            except (FileNotFoundError, NotADirectoryError, ValueError) as error:
                reason = str(error.strerror) if isinstance(error, OSError) else "a path cannot have these characters"
                shown = path or "an empty path"
                missing.append(MissingSource(f"{shown}: {reason}", path=shown, reason=reason))
                continue
            except OSError as error:
                none = False
                reason = error.strerror or ""
                self.tell(MissingSource(f"cannot read {path}: {reason}", path=path, reason=reason))
                continue
            none = False
            self._tell_all(missing)
            yield given, absolute, Node(path, archived_name(given), _kind(found), found)
        if none and len(missing) == 1:
            raise NoSuchInput(str(missing[0]))
        self._tell_all(missing)
        if none and self.paths:
            raise NoSuchInput("none of the inputs exists: nothing to archive")

    def _tell_all(self, errors: list[MissingSource]) -> None:
        for error in errors:
            self.tell(error)
        errors.clear()

    def _unreadable(self, path: str, error: OSError) -> None:
        self.tell(SourceError(f"cannot read {path}: {error.strerror}", path=path, reason=error.strerror or ""))

    def _say_what_is_stripped(self, given: str) -> None:
        """Notes, once for each kind, what archived names lose, as tar does."""
        what = "everything up to .." if ".." in given.split("/") else "the leading /" if given[:1] == "/" else ""
        if what and what not in self.said:
            self.said.add(what)
            self.tell(Note(f"removing {what} from names in the archive"))

    def _excludes(self, absolute: str) -> bool:
        return any(excludes(absolute) for excludes in self.excluding)

    def _below(self, top: Node, absolute: str) -> Iterator[Node | FileRun]:
        """Yields a given path and everything below it."""
        names, device = self.names, top.stat.st_dev
        watched = top.name in names.watched
        claim = self._claim(top, names.claim_top(top)) if watched else "new"
        if claim != "clash":
            self._pass_through(top)
        if claim == "new" and top.name:
            yield top
        levels: list[_Level] = []
        if claim != "clash" and self._enters(top, device, watched):
            self._open(levels, top, absolute, top.name in names.contested)
        while levels:
            level = levels[-1]
            if level.at == len(level.left):
                levels.pop()
                continue
            if (files := self._files(level)) is not None:
                yield files
                continue
            node = self._look(level)
            if node is None:
                continue
            watched = level.shared or node.name in names.watched
            claim = self._claim(node, names.claim(node)) if watched else "new"
            if claim == "new":
                yield node
            if node.kind == "directory" and claim != "clash" and self._enters(node, device, watched):
                shared = level.shared or node.name in names.contested
                self._open(levels, node, level.absolute + node.name.rpartition("/")[2], shared)

    def _pass_through(self, top: Node) -> None:
        """Passes the directories in the name of a given path to `on_parent`. Links among them are followed, as in the
        path."""
        if not top.name and "" not in self.passed:
            self.passed.add("")
            self.on_parent(top)
        for path, name in _leading_to(top.path, top.name):
            if name in self.passed:  # and those above it
                break
            self.passed.add(name)
            with contextlib.suppress(OSError):  # it was removed, and with it everything below
                self.on_parent(Node(f"{path}/.", name, "directory", os.stat(path)))

    def _files(self, level: _Level) -> FileRun | None:
        """Returns the plain files that come next in a directory; None if there are none, or if one may have a name that
        another path leads to."""
        if self.names.watched:
            return None
        first = level.left[level.at]
        last = level.listing.end_of_files(first, self.largest)
        if isinstance(level.left, list):
            there = level.at
            while there < len(level.left) and level.left[there] == first + there - level.at < last:
                there += 1
            last = first + there - level.at
        if last == first:
            return None
        level.at += last - first
        return FileRun(level.listing, first, last, level.name)

    def _look(self, level: _Level) -> Node | None:
        """Returns the node that comes next in a directory; None if it is too large or its stat fails."""
        number = level.left[level.at]
        level.at += 1
        leaf = level.listing.name(number)
        path = level.path + leaf
        try:
            found = level.listing.stat(number)
        except OSError as error:
            self._unreadable(path, error)
            return None
        kind = _kind(found)
        if kind == "file" and found.st_size > self.largest:
            return None
        return Node(path, level.name + leaf, kind, found)

    def _claim(self, node: Node, claim: Claim) -> Claim:
        """Returns `claim`, after reporting what is wrong with it."""
        if claim == "clash":
            hint = "archive it separately, or from another directory (-C)"
            what = f"cannot archive {node.path}: another input has the archived name {node.name}"
            self.tell(SourceError(what, hint, path=node.path))
        elif claim == "joined" and node.name:
            self.tell(f"{node.path} and another directory are merged in the archive: {node.name}")
        return claim

    def _enters(self, node: Node, device: int, watched: bool) -> bool:
        if node.kind != "directory" or (self.one_file_system and node.stat.st_dev != device):
            return False
        return not watched or self.names.enter(node)

    def _open(self, levels: list[_Level], node: Node, absolute: str, shared: bool) -> None:
        """Lists a directory and adds it to the levels, only with its tag files if it has any; not if it cannot be
        read."""
        path = node.path if node.path.endswith("/") else f"{node.path}/"
        try:
            listing = Listing(os.fsencode(node.path))
        except OSError as error:
            self._unreadable(node.path, error)
            return
        left = self._without_own(node, listing)
        if tags := self._tags_in(listing, path):
            left = [number for number in tags if number in left]
        absolute = f"{absolute.rstrip('/')}/" if self.excluding else ""
        if self.excluding:
            left = [number for number in left if not self._excludes(absolute + listing.name(number))]
        name = f"{node.name}/" if node.name else ""
        levels.append(_Level(listing, left, path, name, absolute, shared))

    def _tags_in(self, listing: Listing, path: str) -> list[int]:
        """Returns where the tag files of a directory are, each once."""
        found = set()
        for name, header in self.tags:
            number = listing.position(os.fsencode(name))
            if number < len(listing) and listing.name(number) == name and self._begins(path + name, header):
                found.add(number)
        return sorted(found)

    def _without_own(self, node: Node, listing: Listing) -> Sequence[int]:
        """Returns which entries of a directory are not of the run itself."""
        everything = range(len(listing))
        what, belongs = self.own.directories.get((node.stat.st_dev, node.stat.st_ino), ("", None))
        if belongs is not None:
            others = [number for number in everything if not belongs(listing.name(number))]
            if len(others) < len(listing):
                self.tell(Note(f"{node.path} is {what}: its own files are left out"))
            return others
        first = last = listing.position(os.fsencode(self.own.prefix))
        while last < len(listing) and (leaf := listing.name(last)).startswith(self.own.prefix):
            self.tell(Note(f"{os.path.join(node.path, leaf)} belongs to a running or killed pogfast tune: left out"))
            last += 1
        return [*range(first), *range(last, len(listing))] if last > first else everything

    def _begins(self, path: str, header: bytes) -> bool:
        """Returns True if a tag file begins with its header. Does not wait for a FIFO of that name."""
        if not header:
            return True
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            try:
                return os.read(descriptor, len(header)) == header
            finally:
                os.close(descriptor)
        except OSError as error:
            self.tell(f"cannot read the tag {path}, so its directory is archived: {error.strerror}")
            return False


# new: nothing has this name yet. known: the same file has it. joined: both are directories. clash: one cannot have it.
Claim = Literal["new", "known", "joined", "clash"]


class _Holder(NamedTuple):
    """What has an archived name."""

    is_directory: bool
    identity: tuple[int, int] | None  # device and inode; None: only something below it was walked so far


IMPLIED = _Holder(True, None)


class _Names:
    """Which file has an archived name that several given paths lead to. Only such names are kept."""

    def __init__(self, tops: Iterable[str]) -> None:
        times = Counter(tops)
        # Contested names and all below them can occur twice. Watched are also the directories that they need.
        self.contested = {name for name in times if times[name] > 1 or any(above in times for above in _above(name))}
        self.watched = self.contested.union(*map(_above, self.contested))
        self.holders: dict[str, _Holder] = {}
        self.entered: set[tuple[str, int, int]] = set()

    def claim_top(self, node: Node) -> Claim:
        """Claims the name of a given path, and the names of the directories above it."""
        for name in _above(node.name):
            if not self.holders.setdefault(name, IMPLIED).is_directory:
                return "clash"
        return self.claim(node)

    def claim(self, node: Node) -> Claim:
        """Claims the name of a node. Returns whether it gets it."""
        mine = _Holder(node.kind == "directory", (node.stat.st_dev, node.stat.st_ino))
        holder = self.holders.get(node.name)
        if holder is None or (holder is IMPLIED and mine.is_directory):
            self.holders[node.name] = mine
            return "new"
        if holder == mine:
            return "known"
        return "joined" if holder.is_directory and mine.is_directory else "clash"

    def enter(self, node: Node) -> bool:
        """Returns True if this directory was not walked under this name before. Lists made by `find` contain each
        directory and then everything in it: without this check they would be walked once for each level."""
        key = (node.name, node.stat.st_dev, node.stat.st_ino)
        new = key not in self.entered
        self.entered.add(key)
        return new


def _above(name: str) -> Iterator[str]:
    """Yields the names of the directories above `name`, the nearest first; the last is "", the top."""
    while name:
        name = name.rpartition("/")[0]
        yield name


def _kind(found: Stat | os.stat_result) -> Kind:
    return KINDS.get(stat.S_IFMT(found.st_mode), "device")


def _parse_tag(text: str) -> tuple[str, bytes]:
    """Parses NAME or NAME:HEADER. Raises UsageError."""
    name, _, header = text.partition(":")
    if not name or "/" in name:
        raise UsageError(f"not a name for a tag file: {text}", hint="NAME or NAME:HEADER")
    return name, os.fsencode(header)

"""The inputs of an archive: given paths become a stream of everything below them, named as tar names it.

Reads names and stat results (one lstat each) and opens only directories, tag files and lists of inputs. Nothing is kept
of what was yielded, so that memory depends on the widest directory, and only on its names: the stat results of a
million files would take a gigabyte. Links are not followed, except a given path that ends with `/`. What cannot be read
is reported, and the walk continues.
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

from pogfast.errors import NoSuchInput, PogfastError, SourceError, UsageError
from pogfast.files.patterns import Patterns

Kind = Literal["file", "directory", "link", "fifo", "socket", "device"]
# Receives what is wrong with a part of the inputs while the rest goes on (errors), and what is worth knowing (text).
Tell = Callable[[PogfastError | str], None]


class Note(str):
    """Text that is information and no warning: the same in every run, so that a quiet one does not say it."""


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
    """Something in the file system, and the name that it gets in the archive."""

    path: str  # as it is opened
    name: str
    kind: Kind
    stat: os.stat_result  # of the link itself, where it is one


@dataclass(frozen=True)
class Selection:
    """What is left out. An excluded directory is not entered; one that is excluded by a tag or lies on another file
    system is kept, without its content (but for the tag).

    exclude, iexclude: restic's patterns, the latter without regard to case, held against absolute paths.
    exclude_if_present: NAME or NAME:HEADER, a file that marks its directory, and the bytes that it must begin with.
    exclude_caches: the same for CACHEDIR.TAG with its signature. exclude_larger_than: bytes; files only.
    one_file_system: that of each given path. Only directories count, as for tar: overlayfs numbers files otherwise.
    """

    exclude: Sequence[str] = ()
    iexclude: Sequence[str] = ()
    exclude_if_present: Sequence[str] = ()
    exclude_caches: bool = False
    exclude_larger_than: int | None = None
    one_file_system: bool = False


class Own(NamedTuple):
    """What a run itself writes, and must not archive: it would grow with each run."""

    # Directories by device and inode, whatever links and bind mounts lead there: what each is, and the names in it that
    # are left out.
    places: Mapping[tuple[int, int], tuple[str, Callable[[str], bool]]] = MappingProxyType({})
    prefix: str = "\0"  # directories whose names begin so are left out wherever they lie


NOTHING = Own()


def _ignore(node: Node) -> None:
    """For callers who keep nothing of the directories above the paths."""


def walk(
    paths: Iterable[str],
    selection: Selection,
    *,
    base: str | None = None,
    own: Own = NOTHING,
    tell: Tell,
    above: Callable[[Node], None] = _ignore,
) -> Iterator[Node]:
    """Everything that `paths` stand for, sorted by the bytes of the names, directories before what they hold.

    `base`: the directory that relative paths start from; `own`: what is left out, with a note. A name is given out
    once. `above` hears of directories that names pass through and that are not given out for it: those above a path,
    and, with an empty name, one that stands for its content only. Raises UsageError for a wrong selection and
    NoSuchInput when there is no `base`, at once; NoSuchInput while walking when not one path is there.
    """
    if base is not None and not os.path.isdir(base):
        raise NoSuchInput(f"{base}: no such directory")
    return _Walk(list(paths), selection, base, own, tell, above).nodes()


def archived_name(path: str) -> str:
    """The name of a given path: without what is up to its last `..`, without `/` in front or at its end, without `.`.
    Empty for a directory that stands for its content only, like `.` and `/`."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts:
        parts = parts[len(parts) - parts[::-1].index("..") :]
    return "/".join(parts)


def _leading_to(path: str, name: str) -> Iterator[tuple[str, str]]:
    """(path, archived name) of each directory above a given path that its name passes through, the nearest first."""
    parts = path.split("/")
    while "/" in name:
        while parts[-1] in ("", "."):
            parts.pop()
        parts.pop()
        name = name.rpartition("/")[0]
        yield "/".join(parts), name


class _Level(NamedTuple):
    """A directory that is being walked through."""

    leaves: list[str]  # what is left of it, the next one last
    path: str  # these three stand before a leaf
    name: str
    absolute: str  # empty when there are no patterns
    shared: bool  # whether another given path reaches the names here as well


class _Walk:
    """One walk: the rules, the names that are taken, what was said."""

    def __init__(
        self,
        paths: Sequence[str],
        selection: Selection,
        base: str | None,
        own: Own,
        tell: Tell,
        above: Callable[[Node], None],
    ) -> None:
        self.own = own
        self.paths = paths
        self.base = base or ""
        self.tell = tell
        self.above = above
        self.passed: set[str] = set()  # names of directories that `above` heard of
        self.names = _Names(archived_name(path) for path in paths)
        self.said: set[str] = set()
        patterns = [Patterns(selection.exclude), Patterns(selection.iexclude, ignore_case=True)]
        self.excluding = [some.matches for some in patterns if some]
        tags = [*selection.exclude_if_present, *[CACHE_TAG] * selection.exclude_caches]
        self.tags = [_parse_tag(tag) for tag in tags]
        self.largest = sys.maxsize if selection.exclude_larger_than is None else selection.exclude_larger_than
        self.one_file_system = selection.one_file_system

    def nodes(self) -> Iterator[Node]:
        for given, absolute, node in self._given():
            self._say_what_is_stripped(given)
            if self._excludes(absolute):
                self.tell(f"{node.path} is given, but excluded as well: left out")
            elif node.kind != "file" or node.stat.st_size <= self.largest:
                yield from self._below(node, absolute)

    def _given(self) -> Iterator[tuple[str, str, Node]]:
        """The given paths that are there, as given, made absolute, and what they are. Those that are not there wait
        until another is; when none is, that is an error of the whole run."""
        missing: list[SourceError] = []
        none = True
        for given in self.paths:
            path = os.path.join(self.base, given) if given else ""  # joined with nothing, it would be the base
            try:
                facts = os.lstat(path)
                absolute = "/" + os.path.abspath(path).lstrip("/") if self.excluding else ""
            except (FileNotFoundError, NotADirectoryError, ValueError) as error:
                reason = str(error.strerror) if isinstance(error, OSError) else "no path has such characters"
                shown = path or "an empty path"
                missing.append(SourceError(f"{shown}: {reason}", path=shown, reason=reason))
                continue
            except OSError as error:
                none = False
                self._unreadable(path, error)
                continue
            none = False
            self._tell_all(missing)
            yield given, absolute, Node(path, archived_name(given), _kind(facts), facts)
        if none and len(missing) == 1:
            raise NoSuchInput(str(missing[0]))
        self._tell_all(missing)
        if none and self.paths:
            raise NoSuchInput("not one of the inputs is there: nothing to archive")

    def _tell_all(self, errors: list[SourceError]) -> None:
        for error in errors:
            self.tell(error)
        errors.clear()

    def _unreadable(self, path: str, error: OSError) -> None:
        self.tell(SourceError(f"cannot read {path}: {error.strerror}", path=path, reason=error.strerror or ""))

    def _say_what_is_stripped(self, given: str) -> None:
        """Once for each kind, as tar does."""
        what = "what leads up to .." if ".." in given.split("/") else "the leading /" if given[:1] == "/" else ""
        if what and what not in self.said:
            self.said.add(what)
            self.tell(Note(f"names in the archive are without {what}"))

    def _excludes(self, absolute: str) -> bool:
        return any(excludes(absolute) for excludes in self.excluding)

    def _below(self, top: Node, absolute: str) -> Iterator[Node]:
        """A given path and all that is below it."""
        names, device = self.names, top.stat.st_dev
        watched = top.name in names.watched
        claim = self._claim(top, names.claim_top(top)) if watched else "new"
        if claim != "clash":
            self._pass_through(top)
        if claim == "new" and top.name:
            yield top
        levels: list[_Level] = []
        if claim != "clash" and self._enters(top, device, watched):
            levels.append(self._open(top, absolute, top.name in names.contested))
        while levels:
            level = levels[-1]
            while level.leaves:
                leaf = level.leaves.pop()
                node = self._look(level, leaf)
                if node is None:
                    continue
                watched = level.shared or node.name in names.watched
                claim = self._claim(node, names.claim(node)) if watched else "new"
                if claim == "new":
                    yield node
                if claim != "clash" and self._enters(node, device, watched):
                    shared = level.shared or node.name in names.contested
                    levels.append(self._open(node, level.absolute + leaf, shared))
                    break
            else:
                levels.pop()

    def _pass_through(self, top: Node) -> None:
        """Tells of the directories above a given path; a link among them is what it leads to, as in the path."""
        if not top.name and "" not in self.passed:
            self.passed.add("")
            self.above(top)
        for path, name in _leading_to(top.path, top.name):
            if name in self.passed:  # and those above it
                break
            self.passed.add(name)
            with contextlib.suppress(OSError):  # it was taken away, as what is below it
                self.above(Node(f"{path}/.", name, "directory", os.stat(path)))

    def _look(self, level: _Level, leaf: str) -> Node | None:
        """What a leaf is; None when it is excluded or cannot be asked."""
        if self.excluding and self._excludes(level.absolute + leaf):
            return None
        path = level.path + leaf
        try:
            facts = os.lstat(path)
        except OSError as error:
            self._unreadable(path, error)
            return None
        kind = _kind(facts)
        if kind == "file" and facts.st_size > self.largest:
            return None
        return Node(path, level.name + leaf, kind, facts)

    def _claim(self, node: Node, claim: Claim) -> Claim:
        """`claim`, after what is wrong with it was told."""
        if claim == "clash":
            hint = "archive it in a run of its own, or from another directory (-C)"
            what = f"cannot archive {node.path}: its archived name {node.name} is another's"
            self.tell(SourceError(what, hint, path=node.path))
        elif claim == "joined" and node.name:
            self.tell(f"{node.path} and another directory are one in the archive: {node.name}")
        return claim

    def _enters(self, node: Node, device: int, watched: bool) -> bool:
        if node.kind != "directory" or (self.one_file_system and node.stat.st_dev != device):
            return False
        return not watched or self.names.enter(node)

    def _open(self, node: Node, absolute: str, shared: bool) -> _Level:
        """A directory's leaves, sorted; none when it cannot be read, only the tags when it holds one."""
        path = node.path if node.path.endswith("/") else f"{node.path}/"
        try:
            leaves = os.listdir(node.path)
        except OSError as error:
            self._unreadable(node.path, error)
            leaves = []
        leaves = self._without_own(node, leaves)
        tags = {name for name, header in self.tags if name in leaves and self._begins(path + name, header)}
        leaves = list(tags) or leaves
        leaves.sort(key=os.fsencode, reverse=True)
        name = f"{node.name}/" if node.name else ""
        return _Level(leaves, path, name, f"{absolute.rstrip('/')}/" if self.excluding else "", shared)

    def _without_own(self, node: Node, leaves: list[str]) -> list[str]:
        """The leaves of a directory but for those that the run itself has written."""
        what, belongs = self.own.places.get((node.stat.st_dev, node.stat.st_ino), ("", None))
        if belongs is not None:
            others = [leaf for leaf in leaves if not belongs(leaf)]
            if len(others) < len(leaves):
                self.tell(Note(f"{node.path} is {what}: what belongs to it is left out"))
            return others
        for leaf in [leaf for leaf in leaves if leaf.startswith(self.own.prefix)]:
            self.tell(Note(f"{os.path.join(node.path, leaf)} is of a tune that runs, or was killed: left out"))
            leaves.remove(leaf)
        return leaves

    def _begins(self, path: str, header: bytes) -> bool:
        """Whether a tag file begins with its header. A FIFO of that name is not waited for."""
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


# new: nothing has this name. known: it has it already. joined: both are directories. clash: only one can have it.
Claim = Literal["new", "known", "joined", "clash"]


class _Holder(NamedTuple):
    is_directory: bool
    identity: tuple[int, int] | None  # device and inode; None: no given path has come to it yet, only to what is below


IMPLIED = _Holder(True, None)


class _Names:
    """Who has an archived name that more than one given path reaches. Only such names are remembered."""

    def __init__(self, tops: Iterable[str]) -> None:
        times = Counter(tops)
        # Reached twice: these and all below them. Worth watching also: what must be a directory for these.
        self.contested = {name for name in times if times[name] > 1 or any(above in times for above in _above(name))}
        self.watched = self.contested.union(*map(_above, self.contested))
        self.holders: dict[str, _Holder] = {}
        self.entered: set[tuple[str, int, int]] = set()

    def claim_top(self, node: Node) -> Claim:
        """A given path's claim, which is one to directories above it as well."""
        for name in _above(node.name):
            if not self.holders.setdefault(name, IMPLIED).is_directory:
                return "clash"
        return self.claim(node)

    def claim(self, node: Node) -> Claim:
        mine = _Holder(node.kind == "directory", (node.stat.st_dev, node.stat.st_ino))
        holder = self.holders.get(node.name)
        if holder is None or (holder is IMPLIED and mine.is_directory):
            self.holders[node.name] = mine
            return "new"
        if holder == mine:
            return "known"
        return "joined" if holder.is_directory and mine.is_directory else "clash"

    def enter(self, node: Node) -> bool:
        """Whether a directory's content was not given out below this name before. Lists made by `find` name every
        directory and then all that it holds: without this they would be walked once for each level."""
        key = (node.name, node.stat.st_dev, node.stat.st_ino)
        new = key not in self.entered
        self.entered.add(key)
        return new


def _above(name: str) -> Iterator[str]:
    """The names of the directories above `name`, the nearest first; the last is the top, which has none."""
    while name:
        name = name.rpartition("/")[0]
        yield name


def _kind(facts: os.stat_result) -> Kind:
    return KINDS.get(stat.S_IFMT(facts.st_mode), "device")


def _parse_tag(text: str) -> tuple[str, bytes]:
    """NAME or NAME:HEADER."""
    name, _, header = text.partition(":")
    if not name or "/" in name:
        raise UsageError(f"not the name of a file that marks directories: {text}", hint="NAME or NAME:HEADER")
    return name, os.fsencode(header)

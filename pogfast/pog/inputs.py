"""Expands pog's inputs: files, directories and patterns become (path, archived name) pairs, in pog's order.

Opens nothing but directories. A directory stands for every file below it, links followed and hidden files included; a
pattern for the files that it matches. FORMAT.md, "What pogfast does differently", lists where pog would lose a file.
"""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Callable, Iterator, Sequence

from pogfast.errors import NoSuchInput, PogfastError, SourceError
from pogfast.pog.create import Source

# Receives problems with a part of an input, after which the run goes on, and warnings.
Tell = Callable[[PogfastError | str], None]

KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def find_sources(inputs: Sequence[str], *, absolute: bool, tell: Tell) -> list[Source]:
    """Returns every file of `inputs` once, sorted by path; with `absolute`, archived names are absolute paths.

    Raises NoSuchInput if an input matches nothing. Problems with a part of a directory go to `tell`.
    """
    below: dict[str, str] = {}  # a file's path -> the input that it came from
    for given in inputs:
        for path in _expand(given, tell):
            below.setdefault(path, given)
    paths = sorted(below)
    if absolute:
        return [Source(path, os.path.abspath(path)) for path in paths]
    return _name([(path, below[path]) for path in paths], tell)


def _expand(given: str, tell: Tell) -> Iterator[str]:
    """Yields the files of one input. The name of an existing file is not treated as a pattern."""
    if os.path.isdir(given):
        yield from _walk(given.rstrip("/") or "/", tell)
    elif os.path.lexists(given):
        reason = _why_not_a_file(given)
        if reason:
            raise NoSuchInput(f"{given}: {reason}")
        yield given
    else:
        matches = [path for path in glob.glob(given, recursive=True) if os.path.isfile(path)]
        if not matches:
            raise NoSuchInput(f"{given}: no such file or directory, and no file matches it as a pattern")
        yield from matches


def _walk(top: str, tell: Tell) -> Iterator[str]:
    """Yields every file below a directory, unordered. Links to a directory above themselves are not followed."""
    waiting: list[tuple[str, frozenset[tuple[int, int]]]] = [(top, frozenset())]
    while waiting:
        directory, above = waiting.pop()
        try:
            status = os.stat(directory)
            with os.scandir(directory) as entries:
                found = list(entries)
        except OSError as error:
            tell(SourceError(f"cannot read {directory}: {error.strerror}"))
            continue
        here = (status.st_dev, status.st_ino)
        if here in above:
            tell(f"{directory} is a link to a directory above it: skipped")
            continue
        for entry in found:
            path = os.path.join(directory, entry.name)
            try:
                if entry.is_dir():
                    waiting.append((path, above | {here}))
                elif entry.is_file():
                    yield path
                else:
                    tell(f"{path}: {_why_not_a_file(path)}: skipped")
            except OSError as error:
                tell(SourceError(f"cannot read {path}: {error.strerror}"))


def _why_not_a_file(path: str) -> str:
    """Returns what a path is if it is neither a file nor a link to one, else ""."""
    try:
        kind = stat.S_IFMT(os.stat(path).st_mode)
    except FileNotFoundError:
        return "a link to nothing" if os.path.islink(path) else "it has vanished"
    except OSError as error:
        return error.strerror or "cannot be read"
    return "" if kind == stat.S_IFREG else f"{KINDS.get(kind, 'no file')}, not a file"


def _name(paths: Sequence[tuple[str, str]], tell: Tell) -> list[Source]:
    """Assigns archived names as pog does: the path as given, or its last component if it is absolute or contains `..`.

    If different files would get the same name (or one that is a directory of another), later ones get their path below
    their input, with as many of its parents as needed.
    """
    taken = _Names()
    sources: list[Source] = []
    clashing: list[tuple[int, str]] = []
    for path, given in paths:
        parts = path.split("/")
        name = parts[-1] if path.startswith("/") or ".." in parts else path
        if taken.add(name, path):
            sources.append(Source(path, name))
        else:
            clashing.append((len(sources), given))
            sources.append(Source(path, ""))
    for index, given in clashing:
        path = sources[index].path
        name = next(name for name in _longer_names(path, given) if taken.add(name, path))
        tell(f"{path} is archived as {name}: another file has its short name")
        sources[index] = Source(path, name)
    return sources


Parts = tuple[str, ...]


class _Names:
    """The archived names in use, compared by the paths to which they would be restored."""

    def __init__(self) -> None:
        self.files: dict[Parts, str] = {}
        self.directories: set[Parts] = {()}

    def add(self, name: str, path: str) -> bool:
        """Reserves `name` for the file at `path`. Returns False if it collides with another name."""
        parts = tuple(part for part in name.split("/") if part not in ("", "."))
        if parts in self.files:
            return os.path.abspath(self.files[parts]) == os.path.abspath(path)
        if parts in self.directories or not self._add_directory(parts[:-1]):
            return False
        self.files[parts] = path
        return True

    def _add_directory(self, parts: Parts) -> bool:
        """Reserves `parts` and all above it as directories. Returns False if one of them is a file."""
        new = [parts[:depth] for depth in range(len(parts), 0, -1) if parts[:depth] not in self.directories]
        if any(parent in self.files for parent in new):
            return False
        self.directories.update(new)
        return True


def _longer_names(path: str, given: str) -> Iterator[str]:
    """Yields the path below the input, then with more and more parents, then numbered."""
    whole = os.path.abspath(path).split("/")[1:]
    depth = len(os.path.relpath(path, given).split("/")) if os.path.isdir(given) else 1
    for length in range(min(depth, len(whole)), len(whole) + 1):
        yield "/".join(whole[-length:])
    number = 2
    while True:
        yield f"{'/'.join(whole)} ({number})"
        number += 1

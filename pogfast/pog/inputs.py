"""What pog's inputs mean: files, directories and patterns become (path, archived name) pairs, in pog's order.

Looks at names and kinds of files only; opens nothing but directories. A directory stands for every file below it,
links followed and hidden files included; a pattern for the files that it matches. FORMAT.md, "What pogfast does
differently", lists where pog would have lost a file.
"""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Callable, Iterator, Sequence

from pogfast.errors import NoSuchInput, PogfastError, SourceError
from pogfast.pog.create import Source

# Receives what is wrong with a part of an input while the rest goes on, and what was skipped.
Tell = Callable[[PogfastError | str], None]

KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def find_sources(inputs: Sequence[str], *, absolute: bool, tell: Tell) -> list[Source]:
    """Every file that `inputs` stand for, once, sorted by path; `absolute` keeps whole paths as archived names.

    Raises NoSuchInput when an input stands for nothing. Problems with a part of a directory go to `tell`.
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
    """The files of one input. What is there under its literal name is not a pattern."""
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
    """Every file below a directory, in no order. A link that leads back up is not followed round and round."""
    waiting: list[tuple[str, frozenset[tuple[int, int]]]] = [(top, frozenset())]
    while waiting:
        directory, above = waiting.pop()
        try:
            facts = os.stat(directory)
            with os.scandir(directory) as entries:
                found = list(entries)
        except OSError as error:
            tell(SourceError(f"cannot read {directory}: {error.strerror}"))
            continue
        here = (facts.st_dev, facts.st_ino)
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
    """Empty for a file and for a link to one."""
    try:
        kind = stat.S_IFMT(os.stat(path).st_mode)
    except FileNotFoundError:
        return "a link to nothing" if os.path.islink(path) else "it has vanished"
    except OSError as error:
        return error.strerror or "cannot be read"
    return "" if kind == stat.S_IFREG else f"{KINDS.get(kind, 'no file')}, not a file"


def _name(paths: Sequence[tuple[str, str]], tell: Tell) -> list[Source]:
    """Archived names: a path as it is given, or its last part when it is absolute or goes up, as pog names them.

    Of different files with one such name (or one that is a directory of another) the later ones get their path
    below their input, or as many of its parents as it takes.
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
    for place, given in clashing:
        path = sources[place].path
        name = next(name for name in _longer_names(path, given) if taken.add(name, path))
        tell(f"{path} is archived as {name}: another file has its short name")
        sources[place] = Source(path, name)
    return sources


Place = tuple[str, ...]


class _Names:
    """Archived names that are in use, compared as the places where they would be restored."""

    def __init__(self) -> None:
        self.files: dict[Place, str] = {}
        self.directories: set[Place] = {()}

    def add(self, name: str, path: str) -> bool:
        """Whether the file at `path` can have `name` beside all others; then it has it."""
        place = tuple(part for part in name.split("/") if part not in ("", "."))
        if place in self.files:
            return os.path.abspath(self.files[place]) == os.path.abspath(path)
        if place in self.directories or not self._add_directory(place[:-1]):
            return False
        self.files[place] = path
        return True

    def _add_directory(self, place: Place) -> bool:
        """Whether `place` and all above it can be directories; then they are. No file is ever named like one."""
        new = [place[:depth] for depth in range(len(place), 0, -1) if place[:depth] not in self.directories]
        if any(parent in self.files for parent in new):
            return False
        self.directories.update(new)
        return True


def _longer_names(path: str, given: str) -> Iterator[str]:
    """The path below the input, then with ever more parents, then numbered."""
    whole = os.path.abspath(path).split("/")[1:]
    depth = len(os.path.relpath(path, given).split("/")) if os.path.isdir(given) else 1
    for length in range(min(depth, len(whole)), len(whole) + 1):
        yield "/".join(whole[-length:])
    number = 2
    while True:
        yield f"{'/'.join(whole)} ({number})"
        number += 1

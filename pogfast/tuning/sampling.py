"""Selects what tune measures with: all files of a tree, or a representative sample if they are too large.

A sample consists of files, and of long parts of large files. Each is selected with the same probability, so that small
and large files have the same share as in the whole tree. Parts are copied; whole files are read in place.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from pogfast.backup import walk
from pogfast.backup.walk import Node, Selection
from pogfast.errors import NoSuchInput, PogfastError, SourceError, UsageError

MIN_UNITS = 4  # in a sample: a file that is larger than a quarter of it is cut into parts
PIECE = 1 << 20


class Unit(NamedTuple):
    """A file, or bytes [start, start + size) of it."""

    path: str
    start: int
    size: int
    whole: bool


class Sample(NamedTuple):
    """The files to measure with. Sizes in bytes; `read_seconds` is how long the first reading took."""

    paths: list[str]
    files: int
    size: int
    largest: int  # of these files and parts
    of_files: int  # in the whole tree
    of_size: int
    parts: int  # of `files`, those that are copies of a part
    read_seconds: float

    @property
    def is_all(self) -> bool:
        return self.size == self.of_size


def regular_files(paths: Sequence[str], tell: Callable[[PogfastError], None]) -> Iterator[Node]:
    """Returns the regular files at and below `paths`. Calls `tell` for what cannot be read. Raises NoSuchInput."""

    def hear(what: PogfastError | str) -> None:
        if not isinstance(what, str):  # warnings are about names in archives
            tell(what)

    return (node for node in walk.nodes_in(walk.walk(paths, Selection(), tell=hear)) if node.kind == "file")


def sample(paths: Sequence[str], limit: int, scratch: str, tell: Callable[[PogfastError], None]) -> Sample:
    """Returns a sample of about `limit` bytes of the files at `paths`, which has been read once, so that it is in
    memory. Parts of large files are copied to `scratch`.

    The sample is the same for the same tree. Calls `tell` for what cannot be read. Raises NoSuchInput, UsageError if
    there is no data, and OSError if `scratch` cannot be written.
    """
    nodes = list(regular_files(paths, tell))
    total = sum(node.stat.st_size for node in nodes)
    if not total:
        raise UsageError("there is nothing to measure with: no file, or only empty ones")
    if total <= limit:
        units = [Unit(node.path, 0, node.stat.st_size, True) for node in nodes]
    else:
        longest = max(limit // MIN_UNITS, 1)
        units = [
            Unit(node.path, start, min(longest, node.stat.st_size - start), node.stat.st_size <= longest)
            for node in nodes
            for start in range(0, max(node.stat.st_size, 1), longest)
        ]
        random.Random(0).shuffle(units)  # the same sample again for the same tree
        units = _up_to(units, limit)
    started = time.perf_counter()
    kept = [(path, unit) for number, unit in enumerate(units) if (path := _fetch(unit, scratch, number, tell))]
    if not kept:
        raise NoSuchInput("none of the files could be read")
    whole = total <= limit and len(kept) == len(nodes)
    return Sample(
        list(paths) if whole else [path for path, _ in kept],
        len(kept),
        sum(unit.size for _, unit in kept),
        max(unit.size for _, unit in kept),
        len(nodes),
        total,
        sum(not unit.whole for _, unit in kept),
        time.perf_counter() - started,
    )


def _up_to(units: Sequence[Unit], limit: int) -> list[Unit]:
    kept, size = [], 0
    for unit in units:
        if size >= limit:
            break
        kept.append(unit)
        size += unit.size
    return kept


def _fetch(unit: Unit, scratch: str, number: int, tell: Callable[[PogfastError], None]) -> str:
    """Reads a unit into the page cache. Returns its path, "" if it cannot be read."""
    try:
        with open(unit.path, "rb", buffering=0) as source:
            if unit.whole:
                while source.read(PIECE):
                    pass
                return unit.path
            source.seek(unit.start)
            return _copy(source.read, unit.size, os.path.join(scratch, f"part-{number}"))
    except OSError as error:
        if error.filename != unit.path:
            raise
        tell(SourceError(f"cannot read {unit.path}: {error.strerror}", path=unit.path))
        return ""


def _copy(read: Callable[[int], bytes], size: int, path: str) -> str:
    with open(path, "wb") as target:
        while size > 0 and (piece := read(min(size, PIECE))):
            target.write(piece)
            size -= len(piece)
    return path

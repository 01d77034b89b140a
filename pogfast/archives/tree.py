"""The directory tree of an opened archive: what is in a directory, how large it is, and which names match a text.

listing.py goes through a whole archive in order; this module answers for one directory at a time, however many entries
the archive has. Names are sorted, and sizes added up, when a directory is asked for. Reads no blob.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass

from pogfast import manifest
from pogfast.archives.archive import Archive
from pogfast.archives.listing import Item, items_of, names_of
from pogfast.errors import CorruptManifest, NoSuchEntry
from pogfast.files.paths import basename, normal_path, parent_of
from pogfast.files.patterns import Patterns


@dataclass(frozen=True, slots=True)
class Total:
    """The files below a path. Sizes are uncompressed bytes, as far as the archive has them."""

    files: int = 0
    size: int = 0


class Tree:
    """The paths of an archive, in normal form. Any thread may use it."""

    def __init__(self, archive: Archive) -> None:
        self.archive = archive
        self._names: dict[str, str] = {}  # path -> archived name, where that is another
        self._below: dict[str, list[str]] = {"": []}  # directory -> the paths in it
        self._sorted: set[str] = set()  # directories whose paths are in order
        self._totals: dict[str, Total] = {}
        self._lock = threading.Lock()
        for name in archive.directories:
            path = self._path(name)
            if path not in self._below:
                self._below[path] = []
                self._put(path)
        for name in names_of(archive):
            path = self._path(name)
            if path not in self._below:
                self._put(path)

    def _path(self, name: str) -> str:
        path = normal_path(name) if name else ""
        if path != name:
            self._names.setdefault(path, name)
        return path

    def _put(self, path: str) -> None:
        """Puts a path into its directory. Directories that are not entries themselves are put into theirs."""
        while path:
            directory = parent_of(path)
            if directory in self._below:
                self._below[directory].append(path)
                return
            self._below[directory] = [path]
            path = directory

    def is_directory(self, path: str) -> bool:
        """Returns True if there can be something below a path; "" is the top of the archive."""
        return path in self._below

    def count(self, path: str) -> int:
        """Returns how many paths are in a directory itself."""
        return len(self._paths_in(path))

    def children(self, path: str, start: int = 0, stop: int | None = None) -> list[tuple[str, Item]]:
        """Returns (path, entry) of what is in a directory: directories first, then by name; a slice of it."""
        return [(each, self.item(each)) for each in self._paths_in(path)[start:stop]]

    def item(self, path: str) -> Item:
        """Returns the entry of a path; of a directory that the archive only implies, nothing but the kind. Raises
        NoSuchEntry and CorruptManifest."""
        found = next(items_of(self.archive, [self._names.get(path, path)], self.archive.entries, None), None)
        if path in self._below and (found is None or found.kind != "directory"):
            return Item(path, "directory")
        if found is None:
            raise NoSuchEntry(f"{path}: no such entry in the archive", path=path)
        return found

    def _paths_in(self, path: str) -> list[str]:
        if path not in self._below:
            raise NoSuchEntry(f"{path}: no such directory in the archive", path=path)
        with self._lock:
            if path not in self._sorted:
                found = set(self._below[path])  # a malformed archive may have a file and a directory of one name
                directories = {each for each in found if each in self._below}
                self._below[path] = sorted(directories) + sorted(found - directories)
                self._sorted.add(path)
        return self._below[path]

    def total(self, path: str) -> Total:
        """Returns the files and bytes below a path, or of a file. Malformed entries count as empty."""
        if path not in self._below:
            return Total(1, self._size(path)) if self._names.get(path, path) in self.archive.entries else Total()
        if path not in self._totals:
            files = size = 0
            for each in self.walk(path):
                if self._names.get(each, each) in self.archive.entries:
                    files += 1
                    size += self._size(each)
            self._totals[path] = Total(files, size)
        return self._totals[path]

    def _size(self, path: str) -> int:
        try:
            return manifest.outline(self.archive.entries, self._names.get(path, path))[0] or 0
        except CorruptManifest:
            return 0

    def walk(self, path: str) -> Iterator[str]:
        """Yields a path and, if it is a directory, every path below it, in order."""
        stack = [path]
        while stack:
            each = stack.pop()
            if each:
                yield each
            if each in self._below:
                stack += reversed(self._paths_in(each))

    def search(self, text: str, below: str = "") -> Iterator[str]:
        """Yields the paths whose last part contains a text, in any case; with `*`, `?` or `[`, those that match it as a
        pattern. Raises UsageError for an invalid pattern."""
        if any(wild in text for wild in "*?["):
            patterns = Patterns([text], ignore_case=True)
            leaf = "/" not in text
            yield from (each for each in self.walk(below) if patterns.matches(basename(each) if leaf else each))
            return
        wanted = text.casefold()
        yield from (each for each in self.walk(below) if wanted in basename(each).casefold())

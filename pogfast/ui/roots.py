"""The directories of this machine that pages may show, restore into and take files from.

Everything else is refused, with symbolic links resolved first. A file inside is read or written by the packages below,
with their own rules about links.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass

from pogfast.errors import UsageError

MAX_LISTED = 2000  # entries of a directory that the picker shows


@dataclass(frozen=True, slots=True)
class Listed:
    """An entry of a directory in the picker."""

    path: str
    name: str
    is_directory: bool
    size: int


class Roots:
    """The allowed directories. `paths` are absolute and without symbolic links."""

    def __init__(self, paths: Sequence[str]) -> None:
        """Raises UsageError for a path that is no directory."""
        for path in paths:
            if not os.path.isdir(path):
                raise UsageError(f"{path} is not a directory", hint="--root names directories that pages may use")
        self.paths = list(dict.fromkeys(os.path.realpath(path) for path in paths))

    def inside(self, path: str) -> str:
        """Returns an absolute path below a root, symbolic links resolved. Raises UsageError for any other."""
        if not path:
            raise UsageError("no path given")
        if "\0" in path or not os.path.isabs(path):
            raise UsageError(f"{path}: not an absolute path")
        found = os.path.realpath(path)
        if not any(self._is_below(found, root) for root in self.paths):
            raise UsageError(
                f"{path} is outside of the directories that this page may use: {', '.join(self.paths)}",
                hint="start `pogfast ui` with --root DIR for others",
            )
        return found

    @staticmethod
    def _is_below(path: str, root: str) -> bool:
        return path == root or path.startswith(root.rstrip("/") + "/")

    def parent(self, path: str) -> str | None:
        """Returns the directory above a path, None at a root."""
        return None if path in self.paths else os.path.dirname(path)

    def listing(self, path: str, *, files: bool) -> tuple[list[Listed], int]:
        """Returns what is in a directory below a root, directories first, and how many entries were left out. Raises
        UsageError."""
        found: list[Listed] = []
        try:
            with os.scandir(self.inside(path)) as entries:
                for entry in entries:
                    if listed := _listed(entry, files=files):
                        found.append(listed)
        except OSError as error:
            raise UsageError(f"cannot list {path}: {error.strerror}") from error
        found.sort(key=lambda each: (not each.is_directory, each.name.startswith("."), each.name.casefold()))
        return found[:MAX_LISTED], max(0, len(found) - MAX_LISTED)


def _listed(entry: os.DirEntry[str], *, files: bool) -> Listed | None:
    try:
        status = entry.stat(follow_symlinks=False)
    except OSError:
        return None  # it has vanished
    if stat.S_ISDIR(status.st_mode):
        return Listed(entry.path, entry.name, True, 0)
    return Listed(entry.path, entry.name, False, status.st_size) if files and stat.S_ISREG(status.st_mode) else None

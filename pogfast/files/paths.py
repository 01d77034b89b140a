"""Archived names as paths, as text only: nothing here accesses a file system.

A path is relative, with `/` between its parts, and "" is the directory that everything lies in.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from pogfast.errors import UnsafePath


def normal_path(name: str) -> str:
    """Returns an archived name in normal form: without `/` at its ends, doubled `/`, and `.` parts."""
    if name[:1] not in "/." and name[-1] != "/" and "//" not in name and "/." not in name:
        return name  # the usual case, and there may be a million names
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def safe_path(name: str) -> str:
    """Returns the path of an entry below the target directory. Raises UnsafePath if it would be outside."""
    path = normal_path(name)
    if not path or "\0" in path or (".." in path and ".." in path.split("/")):
        raise UnsafePath(f"{name}: not restored, its path leads out of the directory")
    try:
        os.fsencode(path)
    except UnicodeEncodeError as error:
        raise UnsafePath(f"{name}: not restored, no file on this system can have this name") from error
    return path


def parent_of(path: str) -> str:
    return path.rpartition("/")[0]


def basename(path: str) -> str:
    return path.rpartition("/")[2]


def ancestors(path: str) -> Iterator[str]:
    """Yields the directories that contain a path, the nearest first, "" last."""
    while path:
        path = parent_of(path)
        yield path

"""Archived names as paths, as text only: nothing here looks at a file system.

A path is relative, with `/` between its parts, and "" is the directory that everything lies in.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from pogfast.errors import UnsafePath


def plain_path(name: str) -> str:
    """An archived name without what means nothing in a path: `/` in front and behind, doubled, and `.` parts."""
    if name[:1] not in "/." and name[-1] != "/" and "//" not in name and "/." not in name:
        return name  # nearly all are so, and there may be a million of them
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def safe_path(name: str) -> str:
    """The path of an entry below the directory that is restored into. Raises UnsafePath when it has none there."""
    path = plain_path(name)
    if not path or "\0" in path or (".." in path and ".." in path.split("/")):
        raise UnsafePath(f"{name}: not restored, its path leads out of the directory")
    try:
        os.fsencode(path)
    except UnicodeEncodeError as error:
        raise UnsafePath(f"{name}: not restored, no file here can have this name") from error
    return path


def parent_of(path: str) -> str:
    return path.rpartition("/")[0]


def basename(path: str) -> str:
    return path.rpartition("/")[2]


def ancestors(path: str) -> Iterator[str]:
    """The directories that a path is in, the nearest first, "" the last."""
    while path:
        path = parent_of(path)
        yield path

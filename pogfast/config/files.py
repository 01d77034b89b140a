"""Reads configuration files: only regular ones, of a sane size, that no other user can have written.

A configuration names commands to run and keys to encrypt with, so whoever writes it can do what its user can: as ssh
does, one that others can write is refused. Knows no schema.
"""

from __future__ import annotations

import os
import re
import stat
import tomllib
from typing import Any, NamedTuple

from pogfast.config.lines import KeyPath, lines_of
from pogfast.config.problems import ConfigError, Problem
from pogfast.system.access import trusted_owners, who_can_enter

MAX_SIZE = 1 << 20  # bytes: far more than anybody writes, and parsed in a second


class Parsed(NamedTuple):
    """The content of a file, and the lines of its keys."""

    path: str
    tables: dict[str, Any]
    lines: dict[KeyPath, int]


def parse(path: str, text: str | None = None) -> Parsed:
    """Reads and parses a file, or instead the `text` that it is to have. Raises ConfigError."""
    text = _read(path) if text is None else text
    try:
        return Parsed(path, tomllib.loads(text), lines_of(text))
    except tomllib.TOMLDecodeError as error:
        found = re.fullmatch(r"(.*) \(at line (\d+), column (\d+)\)", str(error))
        said, line = (f"{found[1]}, in column {found[3]}", int(found[2])) if found else (str(error), 0)
        raise _error(path, line, f"this is not TOML: {said[:1].lower()}{said[1:]}") from error
    except RecursionError:
        raise _error(path, 0, "values are nested too deeply") from None


def _error(path: str, line: int, message: str, hint: str = "") -> ConfigError:
    return ConfigError([Problem(path, line, message, hint)])


def _read(path: str) -> str:
    """Returns the text of a file. Raises ConfigError."""
    try:
        # Without O_NONBLOCK, opening a FIFO waits for somebody to write to it.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                kind = "a directory" if stat.S_ISDIR(found.st_mode) else "not a regular file"
                raise _error(path, 0, f"this is {kind}: a configuration is a file")
            _check_access(path, found)
        except BaseException:
            os.close(descriptor)
            raise
        with open(descriptor, "rb") as file:
            raw = file.read(MAX_SIZE + 1)
    except OSError as error:
        raise _error(path, 0, f"cannot read the configuration: {error.strerror}") from error
    if len(raw) > MAX_SIZE:
        raise _error(path, 0, f"a configuration has at most {MAX_SIZE:,} bytes")
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise _error(path, raw.count(b"\n", 0, error.start) + 1, "this is not UTF-8, which TOML requires") from error


def _check_access(path: str, found: os.stat_result) -> None:
    """Raises ConfigError if another user can write the file, or put another one in its place. Raises OSError."""
    if found.st_uid not in trusted_owners():
        raise _error(path, 0, "this configuration belongs to another user, who can change it")
    reach = who_can_enter(path) * 2
    if found.st_mode & reach:
        raise _error(path, 0, "other users can write this configuration", f"run chmod go-w {path}")
    for folder in _folders_of(path):
        mode = os.stat(folder).st_mode
        if mode & who_can_enter(os.path.join(folder, "any")) * 2 and not mode & stat.S_ISVTX:
            raise _error(path, 0, "other users can replace this configuration", f"run chmod go-w {folder}")


def _folders_of(path: str) -> list[str]:
    """Returns the directories above a file: those that it is in, and if there are links those by which it is found."""
    found: dict[str, None] = {}
    for each in (os.path.realpath(path), os.path.abspath(path)):
        while each != (each := os.path.dirname(each)):
            found[each] = None
    return [*found]

"""Files that list paths or patterns, as restic reads them: `--files-from` and `--exclude-from`.

Each list becomes paths for walk.py, or patterns for files/patterns.py. Patterns in a list of paths are expanded here,
with restic's rules, and so they do look at the file system.
"""

from __future__ import annotations

import codecs
import os
import re
import sys
from collections.abc import Iterator

from pogfast.errors import NoSuchInput, UsageError
from pogfast.files.patterns import is_wild, translate
from pogfast.system.encoding import local, portable

# What Go's os.Expand takes for a variable: $name, ${anything}, $ and a special character; a lone `${` is eaten.
VARIABLE = re.compile(r"\$(?:\{([^}]*)\}|(\{)|([*#$@!?0-9-]|[A-Za-z_][A-Za-z0-9_]*))")


def read_list(path: str, *, nul: bool, base: str | None = None) -> list[str]:
    """Returns the paths that a file lists (`-`: standard input), as restic reads such lists.

    Lines are stripped of white space; empty lines and those that begin with # are skipped. Each line is a pattern for
    files below `base`; if nothing matches, it is taken literally. With `nul`, the file has literal paths, each ended by
    a NUL. Raises NoSuchInput and UsageError, which name the file.
    """
    data = _read(path)
    if nul:
        *names, rest = data.split(b"\0")
        if rest or b"" in names:
            reason = "truncated: no NUL after the last name" if rest else "it contains an empty name"
            raise UsageError(f"{path}: {reason}")
        return [os.fsdecode(name) for name in names]
    found = []
    for line in _lines(data, path):
        try:
            found += _expand(line, base or "") or [line]
        except UsageError as error:
            raise UsageError(f"{path}: not a pattern: {line}", error.hint) from None
    return found


def read_patterns(path: str) -> list[str]:
    """Returns the patterns that a file lists (`-`: standard input), as restic reads them: lines as in `read_list`, with
    `$NAME` and `${NAME}` replaced by environment variables (or nothing), `$$` by a `$`. Raises as `read_list` does."""
    return [VARIABLE.sub(_variable, line) for line in _lines(_read(path), path)]


def _variable(found: re.Match[str]) -> str:
    """Returns the value of a variable that VARIABLE has matched."""
    name = found[1] or found[3] or ""
    return "$" if name == "$" else os.environ.get(name, "")


def _read(path: str) -> bytes:
    """Reads a list. Raises NoSuchInput and UsageError."""
    try:
        if path == "-":
            return sys.stdin.buffer.read()
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError as error:
        raise NoSuchInput(f"{path}: {error.strerror}") from error
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error


def _lines(data: bytes, path: str) -> list[str]:
    """Returns the lines that are neither empty nor comments. The encoding is UTF-8, or UTF-16 with its byte order mark.
    Raises UsageError."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        try:
            text = data.decode("utf-16")
        except UnicodeDecodeError as error:
            raise UsageError(f"{path}: has a UTF-16 byte order mark, but is not UTF-16") from error
    else:
        text = data.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape")
    lines = [line.strip() for line in text.split("\n")]
    return [local(line) for line in lines if line and not line.startswith("#")]


def _expand(pattern: str, base: str) -> list[str]:
    """Returns existing paths that match a pattern, hidden files too; nothing if `pattern` is a literal path. Raises
    UsageError."""
    if not is_wild(pattern):
        return []
    found = ["/" if pattern.startswith("/") else ""]
    for part in pattern.split("/"):
        if part == "**":
            found = [below for path in found for below in _directories(path, base)]
        elif is_wild(part):
            fits = re.compile(translate(portable(part)), re.DOTALL).fullmatch
            found = [os.path.join(path, leaf) for path in found for leaf in _leaves(path, base) if fits(portable(leaf))]
        elif part:
            found = [os.path.join(path, part) for path in found]
    if pattern.endswith("/"):
        found = [f"{path}/" for path in found]
    return [path or "." for path in found if os.path.lexists(os.path.join(base, path or "."))]


def _leaves(path: str, base: str) -> list[str]:
    """Returns the names in a directory, sorted; none if it is not a directory or cannot be read."""
    try:
        return sorted(os.listdir(os.path.join(base, path) or "."), key=os.fsencode)
    except OSError:
        return []


def _directories(path: str, base: str) -> Iterator[str]:
    """Yields a directory and those below it. Does not follow links."""
    waiting = [path]
    while waiting:
        directory = waiting.pop()
        yield directory
        below = [os.path.join(directory, leaf) for leaf in _leaves(directory, base)]
        whole = [os.path.join(base, path) for path in below]
        waiting += [
            path for path, at in zip(below, whole, strict=True) if os.path.isdir(at) and not os.path.islink(at)
        ][::-1]

"""Changes a configuration: one store, profile or group at a time, in the file that has it.

What is not changed stays as it is written: comments, order, white space (tomlkit keeps them). The result is examined
before it is written, and refused if that brings new problems. A file is replaced whole, or not at all.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Mapping
from typing import Any, Literal

from pogfast.config.files import parse
from pogfast.config.loading import examine
from pogfast.config.problems import ConfigError
from pogfast.errors import UsageError

MAX_SIZE = (
    1 << 15
)  # bytes of a file that is changed: tomlkit takes seconds for it, and four times as long for twice as much
Section = Literal["stores", "profiles", "groups"]


def edit(path: str, section: Section, name: str, settings: Mapping[str, Any]) -> None:
    """Sets settings of a store, profile or group, which is made if it is not there; so is the file.

    `settings` are as they stand in the file, by their names there: text, numbers, lists, and mappings for tables, of
    which again only what is given is set. None removes a setting or a table. Raises ConfigError, and OSError.
    """

    def change(document: Any) -> None:
        if section not in document:
            import tomlkit

            document.add(section, tomlkit.table(is_super_table=True))
        _set(document[section], {name: settings})

    _change(path, change)


def remove(path: str, section: Section, name: str) -> None:
    """Removes a store, profile or group. Raises UsageError if it is not in this file, ConfigError if others still need
    it, and OSError."""

    def change(document: Any) -> None:
        if name not in document.get(section, {}):
            raise UsageError(f"{path} has no {section.removesuffix('s')} {name}")
        del document[section][name]

    _change(path, change)


def _set(table: Any, settings: Mapping[str, Any]) -> None:
    import tomlkit

    for word, value in settings.items():
        if value is None:
            table.pop(word, None)
        elif isinstance(value, Mapping):
            if not isinstance(table.get(word), Mapping):
                table.pop(word, None)
                table.append(word, tomlkit.table())
            _set(table[word], value)
        else:
            table[word] = value


def _change(path: str, change: Callable[[Any], None]) -> None:
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    path = os.path.realpath(path)  # a link stays one
    before = ""
    if os.path.lexists(path):
        parse(path)  # refuses what is no configuration, or can be written by others
        with open(path, encoding="utf-8", newline="") as file:
            before = file.read()
    if len(before) > MAX_SIZE:
        raise UsageError(
            f"{path} is too long to be changed: {len(before):,} bytes", hint="edit it, or move parts to others"
        )
    try:
        document = tomlkit.parse(before)
        change(document)
        after = tomlkit.dumps(document)
    except (TOMLKitError, ValueError, TypeError) as error:
        raise UsageError(f"{path} cannot be changed so: {error}") from error
    old = {problem.message for problem in examine(path, text=before)[1]}
    new = [problem for problem in examine(path, text=after)[1] if problem.message not in old]
    if new:
        raise ConfigError(new)
    if after != before:
        _replace(path, after.encode())


def _replace(path: str, data: bytes) -> None:
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    try:
        mode = stat.S_IMODE(os.stat(path).st_mode)
    except FileNotFoundError:
        mode = 0o600
    draft = f"{path}.{os.getpid()}.tmp"
    try:
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(draft)
        raise

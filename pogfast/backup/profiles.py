"""Profiles: named settings for create, written by `tune --save` and used by `create --profile`.

A profile is a small TOML file that a person can read and edit. This module knows which settings it can have, but not
what they do.
"""

from __future__ import annotations

import contextlib
import os
import tomllib

from pogfast.errors import UsageError
from pogfast.system.user_dirs import config_directory

# The settings that a profile can have, named like create's options.
WORDS: dict[str, type] = {
    "chunker": str,
    "chunk_size": int,
    "level": int,
    "jobs": int,
    "pad": bool,
    "must_exist": bool,
    "packs": str,
}
SUFFIX = ".toml"
CONFIGURATION = "pogfast.toml"  # the file of all other profiles: see the package `config`


def path_of(name: str) -> str:
    """Returns the path of a profile, given its name or its path. Raises UsageError."""
    if "/" in name or name.endswith(SUFFIX):
        return name
    parent = config_directory()
    if not name or name.startswith(".") or not parent:
        raise UsageError(f"not a name for a profile: {name}", hint="write a word, or a path to a file")
    return os.path.join(parent, name + SUFFIX)


def load(name: str) -> dict[str, str | int]:
    """Returns the settings of a profile. Raises UsageError."""
    path = path_of(name)
    try:
        with open(path, "rb") as file:
            found = tomllib.load(file)
    except OSError as error:
        hint = "pogfast tune --save NAME writes one"
        raise UsageError(f"cannot read profile {name}: {path}: {error.strerror}", hint=hint) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not a profile: {error}") from error
    for word, value in found.items():
        if type(value) is not WORDS.get(word):
            known = ", ".join(f"{word} ({kind.__name__})" for word, kind in WORDS.items())
            raise UsageError(f"{path}: {word} is not a setting of a profile, or has the wrong type", hint=known)
    return found


def save(name: str, settings: dict[str, str | int], comment: str) -> str:
    """Writes a profile, replacing an older one. Returns its path. Raises UsageError and OSError."""
    path = path_of(name)
    if os.path.basename(path) == CONFIGURATION:
        raise UsageError(f"{path} would be the configuration, which has all profiles", hint="choose another name")
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    lines = [f"# {line}" for line in comment.splitlines()]
    # No value needs escaping: the only text is a chunker's.
    lines += [
        f'{word} = "{value}"' if isinstance(value, str) else f"{word} = {value}" for word, value in settings.items()
    ]
    draft = f"{path}.{os.getpid()}.tmp"  # an existing profile is replaced by a complete one, or not at all
    try:
        with open(draft, "w", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(draft)
        raise
    return path

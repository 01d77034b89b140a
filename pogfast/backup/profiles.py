"""Profiles: settings of create under a name, as `tune --save` finds them and `create --profile` takes them.

A profile is a small TOML file that a person can read and change. It knows which settings there can be, not what they
do.
"""

from __future__ import annotations

import contextlib
import os
import tomllib

from pogfast.errors import UsageError
from pogfast.system.user_dirs import of_user

# What a profile can hold, by create's words.
WORDS: dict[str, type] = {
    "chunker": str,
    "chunk_size": int,
    "level": int,
    "jobs": int,
    "pad": bool,
    "must_exist": bool,
}
SUFFIX = ".toml"


def directory() -> str:
    """$POGFAST_CONFIG_DIR, else pogfast's place among the user's settings; empty for a user without a home."""
    return of_user("POGFAST_CONFIG_DIR", "XDG_CONFIG_HOME", "~/Library/Application Support", "~/.config")


def path_of(name: str) -> str:
    """Where the profile of a name lies; a path to a file is that file. Raises UsageError."""
    if "/" in name or name.endswith(SUFFIX):
        return name
    place = directory()
    if not name or name.startswith(".") or not place:
        raise UsageError(f"no name for a profile: {name}", hint="write a word, or a path to a file")
    return os.path.join(place, name + SUFFIX)


def load(name: str) -> dict[str, str | int]:
    """The settings of a profile. Raises UsageError."""
    path = path_of(name)
    try:
        with open(path, "rb") as file:
            found = tomllib.load(file)
    except OSError as error:
        hint = "pogfast tune --save NAME makes one"
        raise UsageError(f"no profile {name}: {path}: {error.strerror}", hint=hint) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is no profile: {error}") from error
    for word, value in found.items():
        if type(value) is not WORDS.get(word):
            known = ", ".join(f"{word} ({kind.__name__})" for word, kind in WORDS.items())
            raise UsageError(f"{path}: {word} is no setting of a profile, or not of its kind", hint=known)
    return found


def save(name: str, settings: dict[str, str | int], comment: str) -> str:
    """Writes a profile in place of one that may be there. Returns its path. Raises UsageError, OSError."""
    path = path_of(name)
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    lines = [f"# {line}" for line in comment.splitlines()]
    # JSON's strings are TOML's.
    lines += [
        f'{word} = "{value}"' if isinstance(value, str) else f"{word} = {value}" for word, value in settings.items()
    ]
    draft = f"{path}.{os.getpid()}.tmp"  # whole or not at all: one that is there may be wanted
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

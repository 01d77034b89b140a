"""Commands of the shell: what a page does, as a line that does the same when it is copied into a terminal.

Nothing here is ever run. Secrets have no place in a command: a password is asked for when the line runs.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable


def line(words: Iterable[str]) -> str:
    """Returns a command as a POSIX shell reads it; words that are not printable are quoted with $'...', as bash, zsh
    and POSIX 2024 read them."""
    return " ".join(map(word, words))


def word(text: str) -> str:
    if text.isprintable():
        return shlex.quote(text)
    return "$'" + "".join(map(_quoted, text)) + "'"


def _quoted(character: str) -> str:
    if character in "'\\":
        return "\\" + character
    if character.isprintable():
        return character
    return "".join(f"\\{byte:03o}" for byte in os.fsencode(character))


def option(name: str, value: object) -> list[str]:
    """Returns `--name=value`; nothing for None, False and "", the option alone for True."""
    if value is None or value is False or value == "":
        return []
    flag = f"--{name.replace('_', '-')}"
    return [flag] if value is True else [f"{flag}={value}"]


def options(name: str, values: Iterable[object]) -> list[str]:
    """Returns the option once for each value."""
    return [text for value in values for text in option(name, value)]


def names(given: Iterable[str]) -> list[str]:
    """Returns names as arguments, behind `--` if one begins with a dash."""
    found = list(given)
    return ["--", *found] if any(each.startswith("-") for each in found) else found

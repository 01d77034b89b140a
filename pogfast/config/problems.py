"""What is wrong with a configuration: each problem with its file and line, and the error that holds them all.

Nothing here knows what is in the files.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from difflib import get_close_matches
from typing import NamedTuple

from pogfast.errors import UsageError
from pogfast.sizes import many


class Problem(NamedTuple):
    """Something that is wrong in a file. `line` counts from 1; 0: the file as a whole."""

    file: str
    line: int
    message: str
    hint: str = ""

    @property
    def where(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


class ConfigError(UsageError):
    """The configuration cannot be used. `problems` are all that were found; the message is the first."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = list(problems)
        more = len(problems) - 1
        others = f"{many(more, 'more problem')}: see `pogfast config check`" if more else ""
        super().__init__(str(problems[0]), hint="; ".join(filter(None, (problems[0].hint, others))))


def did_you_mean(word: str, known: Collection[str]) -> str:
    """Returns a hint with the nearest known word, else with all of them if they are few; "" if there are none."""
    near = get_close_matches(word.replace("_", "-"), known, 1)
    if near:
        return f"did you mean {near[0]}?"
    return f"known: {', '.join(sorted(known))}" if 0 < len(known) <= 12 else ""

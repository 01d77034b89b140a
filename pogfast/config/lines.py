"""The lines of a TOML file on which its keys are: tomllib does not tell.

Works on text that tomllib has accepted, so it need not check anything. A key is the path to it: the names of tables and
indexes of arrays, as in ("profiles", "home", "sources", 0, "command").
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right
from collections.abc import Iterator

KeyPath = tuple[str | int, ...]

# Bare and quoted keys, and strings: the multi-line ones may have one or two quotes before the three at their end.
BARE = re.compile(r"[A-Za-z0-9_-]+")
STRING = re.compile(
    r'"""(?:[^\\]|\\.)*?"""(?:""?(?!"))?'
    r"|'''.*?'''(?:''?(?!'))?"
    r'|"(?:[^"\\\n]|\\.)*"'
    r"|'[^'\n]*'",
    re.DOTALL,
)
BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
SCALAR = re.compile(r"[^,\]}#\n]*")


def lines_of(text: str) -> dict[KeyPath, int]:
    """Returns the line, from 1 on, of each key, table and element of an array. Tables that are only named in the header
    of another have the line of the first such header."""
    scan = _Scan(text)
    ends = [match.end() for match in re.finditer("\n", text)]
    lines: dict[KeyPath, int] = {}
    for path, position in scan.document():
        lines.setdefault(path, bisect_right(ends, position) + 1)
    return lines


class _Scan:
    """A position in the text, and the generators that move it on."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.last: dict[KeyPath, int] = {}  # array of tables -> the index of its last one

    def document(self) -> Iterator[tuple[KeyPath, int]]:
        table: KeyPath = ()
        self.skip()
        while self.at < len(self.text):
            begin = self.at
            if self.text.startswith("[", begin):
                of_array = self.text.startswith("[[", begin)
                self.at += 1 + of_array
                names = self.key()
                self.at = self.text.index("]", self.at) + 1 + of_array
                table = ()
                for depth, name in enumerate(names):
                    table += (name,)
                    yield table, begin
                    if of_array and depth == len(names) - 1:
                        self.last[table] = self.last.get(table, -1) + 1
                    if table in self.last:
                        table += (self.last[table],)
                        yield table, begin
            else:
                yield from self.pair(table)
            self.skip()

    def pair(self, table: KeyPath) -> Iterator[tuple[KeyPath, int]]:
        """A key, = and a value."""
        begin = self.at
        for name in self.key():
            table += (name,)
            yield table, begin
        self.at = self.text.index("=", self.at) + 1
        self.skip()
        yield from self.value(table)

    def key(self) -> list[str]:
        """The names of a dotted key."""
        names: list[str] = []
        while True:
            self.skip()
            found = STRING.match(self.text, self.at) or BARE.match(self.text, self.at)
            assert found is not None
            self.at = found.end()
            names.append(tomllib.loads(f"name = {found[0]}")["name"] if found[0][0] in "\"'" else found[0])
            self.skip()
            if not self.text.startswith(".", self.at):
                return names
            self.at += 1

    def value(self, path: KeyPath) -> Iterator[tuple[KeyPath, int]]:
        first = self.text[self.at : self.at + 1]
        if first == "[":
            yield from self.items(path, "]")
        elif first == "{":
            yield from self.items(path, "}")
        else:
            found = STRING.match(self.text, self.at) or SCALAR.match(self.text, self.at)
            assert found is not None
            self.at = found.end()

    def items(self, path: KeyPath, end: str) -> Iterator[tuple[KeyPath, int]]:
        """The elements of an array, or the pairs of an inline table."""
        self.at += 1
        self.skip()
        index = 0
        while not self.text.startswith(end, self.at):
            if end == "]":
                yield (*path, index), self.at
                yield from self.value((*path, index))
            else:
                yield from self.pair(path)
            index += 1
            self.skip()
            if self.text.startswith(",", self.at):
                self.at += 1
                self.skip()
        self.at += 1

    def skip(self) -> None:
        """Moves on past white space and comments."""
        found = BLANK.match(self.text, self.at)
        assert found is not None
        self.at = found.end()

"""The lines of keys in TOML: of documents that are written by hand, and of ones that are drawn."""

from __future__ import annotations

import tomllib
from typing import Any

import tomlkit
from hypothesis import given
from hypothesis import strategies as st

from pogfast.config.lines import KeyPath, lines_of

WRITTEN = '''\
# a comment with [brackets] and = signs
top = 1  # another
"quoted \\u00e9" = "a # b"

[a.b] # header
dotted . key = [1, 2,
  3, # three
]
text = """
[not.a.table]
x = 1 \\""" """"
literal = \'\'\'
y = 2\'\'\'\'
inline = {one = {two = "}"}, 'th ree' = [{four = 4}]}
when = 1979-05-27 07:32:00
[[list]]
x = 1
  [list.below]
  y = 2
[[list]]
  [[list.more]]
z = 3
'''


def paths(value: Any, at: KeyPath = ()) -> list[KeyPath]:
    """All keys, tables and elements in parsed TOML."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path for word, inner in items for path in ((*at, word), *paths(inner, (*at, word)))]


def test_lines_of_a_document() -> None:
    found = lines_of(WRITTEN)
    assert found.keys() == set(paths(tomllib.loads(WRITTEN)))
    assert found["top",] == 2
    assert found["quoted é",] == 3
    assert found["a", "b"] == 5
    assert found["a", "b", "dotted", "key"] == 6
    assert found["a", "b", "dotted", "key", 2] == 7
    assert found["a", "b", "text"] == 9
    assert found["a", "b", "literal"] == 12
    assert found["a", "b", "inline", "th ree", 0, "four"] == 14
    assert found["a", "b", "when"] == 15
    assert found["list", 0, "x"] == 17
    assert found["list", 0, "below", "y"] == 19
    assert found["list", 1, "more", 0, "z"] == 22


VALUES = st.recursive(
    st.one_of(st.integers(-(2**63), 2**63 - 1), st.booleans(), st.text(max_size=8), st.floats(allow_nan=False)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)),
    max_leaves=12,
)


@given(st.dictionaries(st.text(max_size=5), VALUES, max_size=5), st.booleans())
def test_every_key_has_a_line(drawn: dict[str, Any], crlf: bool) -> None:
    text = tomlkit.dumps(drawn)
    try:
        parsed = tomllib.loads(text)
    except tomllib.TOMLDecodeError:  # tomlkit writes control characters that TOML does not allow
        return
    found = lines_of(text.replace("\n", "\r\n") if crlf and "\r" not in text else text)
    assert found.keys() == set(paths(parsed))
    lines = text.split("\n")
    for path, line in found.items():
        assert 1 <= line <= len(lines)
        if isinstance(path[-1], str) and path[-1].isalnum() and path[-1].isascii():
            assert path[-1] in lines[line - 1]

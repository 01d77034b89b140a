"""Reads the tables of a file by the schema: each setting becomes a value with the file and line that it comes from.

All problems are collected, not just the first. A table becomes a flat mapping from paths such as ("retention",
"keep-daily") to values, so that profiles are merged by merging mappings. Knows nothing of inheritance.
"""

from __future__ import annotations

import os
import re
import types
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin

import msgspec
from msgspec.structs import FieldInfo, fields

from pogfast.config.files import Parsed
from pogfast.config.lines import KeyPath
from pogfast.config.problems import Problem, did_you_mean
from pogfast.config.schema import Address, Limit, Path, Secret, Stream, Table
from pogfast.errors import UsageError
from pogfast.stores import check_stores
from pogfast.stores.addresses import is_service

SomeTable = TypeVar("SomeTable", bound=Table)
# The path of a setting within a profile or store.
SettingPath = tuple[str, ...]
# ${NAME}, $$ for $, and a ${ that begins neither. Any other $ stands for itself.
VARIABLE = re.compile(r"\$(?:(\$)|\{([A-Za-z_][A-Za-z0-9_]*)\}|(\{))")
# A table that is replaced whole: half of one key and half of another would be none.
WHOLE = "key"
HIDDEN = "(not shown)"  # in place of a URL
IN_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "text in quotes",
    "bool": "true or false",
    "array": "a list",
    "object": "a table",
    "null": "nothing",
}


class Value(NamedTuple):
    """A setting: its value, and where it is written. The value of a table is that it is there: {}."""

    value: Any
    file: str
    line: int

    @property
    def where(self) -> str:
        return f"{self.file}:{self.line}"

    @property
    def plain(self) -> Any:
        """The value as numbers, text, lists and mappings: times are seconds, sizes are bytes."""
        return msgspec.to_builtins(self.value, enc_hook=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, Limit):
        return value.given
    if isinstance(value, Secret):
        return value.given if isinstance(value.given, dict) else HIDDEN
    return next(kind(value) for kind in (str, int, float) if isinstance(value, kind))


Values = dict[SettingPath, Value]


@dataclass(frozen=True)
class Section:
    """A table of a file that has a name: a store, a profile or a group."""

    name: str
    file: str
    line: int
    values: Values

    def line_of(self, *path: str) -> int:
        """Returns the line of a setting, else of its table."""
        while path and path not in self.values:
            path = path[:-1]
        return self.values[path].line if path else self.line


class Reader:
    """Reads the tables of one file. Problems are added to `problems`."""

    def __init__(self, parsed: Parsed, environ: Mapping[str, str], problems: list[Problem]) -> None:
        self.file = parsed.path
        self.lines = parsed.lines
        self.environ = environ
        self.problems = problems
        self.variables: dict[str, str] = {}  # those that are used -> where first, as FILE:LINE

    def report(self, path: KeyPath, message: str, hint: str = "") -> None:
        self.problems.append(Problem(self.file, self.line(path), message, hint))

    def line(self, path: KeyPath) -> int:
        """Returns the line of a key, else of what it is in."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 0)

    def section(self, path: KeyPath, table: object, kind: type[Table]) -> Section:
        """Reads a table that has a name, the last word of its path."""
        values: Values = {}
        if isinstance(table, dict):
            self._table(path, (), table, kind, values)
        else:
            self.report(path, f"{path[-1]} must be a table")
        return Section(str(path[-1]), self.file, self.line(path), values)

    def _table(self, at: KeyPath, within: SettingPath, table: dict[str, Any], kind: type[Table], into: Values) -> None:
        known = settings_of(kind)
        for word, given in table.items():
            path, setting = (*at, word), (*within, word)
            if word not in known:
                self.report(path, f"unknown setting {'.'.join(setting)}", did_you_mean(word, known))
                continue
            inner = table_type(known[word].type)
            if inner is None:
                self.value(path, given, known[word], setting, into)
            elif isinstance(given, dict):
                into[setting] = Value({}, self.file, self.line(path))
                self._table(path, setting, given, inner, into)
            else:
                self.report(path, f"{'.'.join(setting)} must be a table")
        missing = [word for word, each in known.items() if each.required and word not in table]
        for word in missing:
            self.report(at, f"{'.'.join((*within, word))} is missing")

    def value(self, path: KeyPath, given: Any, field: FieldInfo, setting: SettingPath, into: Values) -> None:
        """Reads one setting that is no table."""
        name = ".".join(setting)
        before = len(self.problems)
        given = self._expanded(path, given, name)
        if isinstance(given, list):
            for index, item in enumerate(given):
                if isinstance(item, dict) and Stream in _alternatives(field.type):
                    known = settings_of(Stream)
                    for word in item.keys() - known.keys():
                        self.report((*path, index, word), f"unknown setting {name}.{word}", did_you_mean(word, known))
        if len(self.problems) > before:
            return
        try:
            into[setting] = Value(self._converted(given, field.type), self.file, self.line(path))
        except msgspec.ValidationError as error:
            said, _, place = str(error).partition(" - at `$")
            item = re.match(r"\[(\d+)\]", place)
            where = (*path, int(item[1])) if item else path
            self.report(where, f"{name}{' has an item that' if item else ''} {_in_words(said, field.type, given)}")

    def _expanded(self, path: KeyPath, given: Any, name: str) -> Any:
        """Returns a value with its variables replaced, in all text in it."""
        if isinstance(given, str):
            return VARIABLE.sub(lambda found: self._variable(path, found, name), given) if "$" in given else given
        if isinstance(given, list):
            return [self._expanded((*path, index), item, name) for index, item in enumerate(given)]
        if isinstance(given, dict):
            return {word: self._expanded((*path, word), item, name) for word, item in given.items()}
        return given

    def _variable(self, path: KeyPath, found: re.Match[str], name: str) -> str:
        if found[1]:
            return "$"
        if found[2] is None:
            self.report(path, f"{name}: ${{ begins no variable", "write ${NAME}, or $${ for these two characters")
            return ""
        if found[2] not in self.environ:
            self.report(path, f"{name}: the variable {found[2]} is not set", "$$ is a dollar sign")
            return ""
        self.variables.setdefault(found[2], f"{self.file}:{self.line(path)}")
        return self.environ[found[2]]

    def _converted(self, given: Any, kind: Any) -> Any:
        """Converts a value to its type. Raises msgspec.ValidationError."""

        def read(wanted: type[Any], given: Any) -> Any:
            if wanted is Path:
                return Path(self._located(given))
            if wanted is Address:
                return self._address(given)
            return wanted.read(given)

        return msgspec.convert(given, kind, dec_hook=read)

    def _located(self, given: object) -> str:
        if not isinstance(given, str) or not given or "\0" in given:
            raise ValueError("must be a path, in quotes")
        return os.path.normpath(os.path.join(os.path.dirname(os.path.abspath(self.file)), os.path.expanduser(given)))

    def _address(self, given: object) -> Address:
        if not isinstance(given, str) or not given:
            raise ValueError("must be the address of a store, in quotes")
        text = given
        if "," in text:
            raise ValueError("is the address of one store: no commas")
        try:
            if not is_service(text) and not text.startswith("local:"):
                check_stores(os.path.expanduser(text))
                text = self._located(text)
            check_stores(text)
        except UsageError as error:
            raise ValueError(f"is not usable: {error}{f': {error.hint}' if error.hint else ''}") from error
        return Address(text)


def settings_of(kind: type[Table]) -> dict[str, FieldInfo]:
    """Returns the settings of a table by their names in files."""
    return {field.encode_name: field for field in fields(kind) if field.name not in kind.NOT_IN_FILES}


def table_type(kind: Any) -> type[Table] | None:
    """Returns the type of a setting that is a table, None for other settings."""
    found = [each for each in _alternatives(kind) if isinstance(each, type) and issubclass(each, Table)]
    return found[0] if found and get_origin(kind) is not list else None


def _alternatives(kind: Any) -> tuple[Any, ...]:
    """Returns the types that a type is a union of; of a list, those of its elements."""
    if get_origin(kind) is list:
        kind = get_args(kind)[0]
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


def built(kind: type[SomeTable], values: Values, **more: Any) -> SomeTable:
    """Makes a table of its values."""
    return kind(**_arguments(kind, values), **more)


def _arguments(kind: type[Table], values: Values) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for word, field in settings_of(kind).items():
        inner = table_type(field.type)
        if (word,) not in values:
            continue
        if inner is None:
            found[field.name] = values[word,].value
        else:
            below = {path[1:]: value for path, value in values.items() if path[0] == word and len(path) > 1}
            found[field.name] = built(inner, below)
    return found


def merged(parent: Values, child: Values) -> Values:
    """Returns the values of a parent, with those of a child in front."""
    if (WHOLE,) in child:
        parent = {path: value for path, value in parent.items() if path[0] != WHOLE}
    return {**parent, **child}


def _in_words(said: str, kind: Any, given: Any) -> str:
    """Returns a message of msgspec in words that somebody knows who knows TOML."""
    found = re.fullmatch(r"Expected `(.+?)`(?: of length)?(?: (>=|<=) (\S+))?(?:, got `(.+)`)?", said)
    if found and found[2]:
        if found[1] in ("str", "array"):
            return "must not be empty"
        return f"must be {'at least' if found[2] == '>=' else 'at most'} {found[3]}"
    if found:
        wanted = " or ".join(IN_WORDS.get(word, word) for word in found[1].split(" | ") if word != "null")
        hint = ""
        if isinstance(given, list) and all(isinstance(item, str) for item in given) and wanted == "a list":
            hint = f": a list of commands, each a list of words: [[{', '.join(map(_quoted, given))}]]"
        return f"must be {wanted}{hint}"
    choices = _choices(kind)
    if said.startswith("Invalid enum value") and choices:
        return f"must be one of {', '.join(map(_quoted, choices))}"
    missing = re.fullmatch(r"Object missing required field `(.+)`", said)
    return f"has no {missing[1]}" if missing else said


def _quoted(text: object) -> str:
    return f'"{text}"'


def _choices(kind: Any) -> list[str]:
    """Returns the words of a Literal somewhere in a type."""
    if get_origin(kind) is Literal:
        return [*get_args(kind)]
    return [word for inner in get_args(kind) for word in _choices(inner)]

"""Decodes entries from JSON, each when it is accessed, so that a million of them cost little.

msgspec parses the JSON. Names that are not UTF-8 are in it as lone surrogates, which only the standard library parses.
JSON that does not parse is CorruptManifest.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import zstandard

from pogfast.errors import CorruptManifest
from pogfast.manifest.entry import (
    BLOB_NAME,
    MAX_NS,
    MAX_SIZE,
    MAX_TIME,
    Entry,
    are_blob_names,
    check_names,
    is_time,
)
from pogfast.manifest.frames import Frame, Parsing, text_of
from pogfast.system.encoding import IS_UTF8, local, local_all

MAX_OTHER = 4 << 20  # bytes of JSON that an entry may have besides its blobs
DECODER = msgspec.json.Decoder()
ENTRIES = OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
STRINGS = msgspec.json.Decoder(list[str])
JSON = json.JSONDecoder()
# What separates the values in JSON.
MARK = re.compile(r"[ \t\n\r]*([{}:,])[ \t\n\r]*")


class _Needed(msgspec.Struct):
    blobs: list[str]


NEEDED = msgspec.json.Decoder(_Needed)
NAMES = msgspec.json.Decoder(dict[str, _Needed])


class _Outline(msgspec.Struct):
    size: int = -1
    hardlink: Any = None


OUTLINES = msgspec.json.Decoder(_Outline)


class PlainEntry(msgspec.Struct, gc=False):
    """An entry as `pogfast create` writes it: the part of it that is shown."""

    blobs: list[str]
    atime: float
    mtime: float
    size: int
    mtime_ns: int
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    user: str | None = None
    group: str | None = None
    target: str | None = None
    hardlink: str | None = None


PLAIN = msgspec.json.Decoder(PlainEntry)


def entries_in(frames: list[Frame], name: str) -> Mapping[str, Entry]:
    """Returns the entries in these frames, and clears the list to free memory."""
    with Parsing(name):
        text = text_of(frames)
        frames.clear()
        members: Mapping[str, msgspec.Raw | bytes]
        try:
            members = ENTRIES.decode(text)
        except (ValueError, RecursionError):  # a name that is not UTF-8, or invalid JSON
            latin = text.decode("latin-1")
            del text
            members = _scan(latin)
        check_names(members.keys(), name)
        if not IS_UTF8:
            members = {local(name): member for name, member in members.items()}
    return _LazyEntries(members, name)


def names_in(frames: list[Frame], name: str) -> list[str]:
    """Returns the blobs of all entries in order. Of each entry only the list of blobs has to be well formed."""
    with contextlib.suppress(ValueError, RecursionError, zstandard.ZstdError):
        names = [blob for entry in NAMES.decode(text_of(frames)).values() for blob in entry.blobs]
        if all(map(BLOB_NAME.fullmatch, names)):
            return names
    return [blob for entry in entries_in(frames, name).values() for blob in entry.blobs]


class _LazyEntries(Mapping[str, Entry]):
    """Entries as JSON, each decoded at each access."""

    __slots__ = ("_manifest", "_members")

    def __init__(self, members: Mapping[str, msgspec.Raw | bytes], manifest: str) -> None:
        self._members = members
        self._manifest = manifest

    def __getitem__(self, name: str) -> Entry:
        """Decodes an entry. Raises CorruptManifest if it is malformed."""
        return parse_entry(self._members[name], f"{self._manifest}: the entry {name}")

    def text(self, name: str) -> msgspec.Raw | bytes:
        """Returns an entry's JSON."""
        return self._members[name]

    def __contains__(self, name: object) -> bool:
        return name in self._members

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)


def outline(entries: Mapping[str, Entry], name: str) -> tuple[int | None, str]:
    """Returns (bytes of the file, the archived name that a hard link refers to or ""). Takes a quarter of the time of
    decoding the entry if both are in their usual form. Raises CorruptManifest, but not for everything that is
    malformed."""
    if isinstance(entries, _LazyEntries):
        with contextlib.suppress(ValueError, RecursionError):
            found = OUTLINES.decode(entries.text(name))
            if 0 <= found.size <= MAX_SIZE:
                return found.size, local(found.hardlink) if isinstance(found.hardlink, str) else ""
    entry = entries[name]
    first = entry.more.get("hardlink")
    return entry.size, first if isinstance(first, str) else ""


def entry_texts(entries: Mapping[str, Entry]) -> Iterator[tuple[str, bytes]]:
    """Yields the names of an opened manifest's entries, each with the entry's JSON, for `parse_entry`."""
    if not isinstance(entries, _LazyEntries):
        raise TypeError("only the entries of an opened manifest have been JSON")
    for name in entries:
        yield name, bytes(entries.text(name))


def plain_entry(text: msgspec.Raw | bytes) -> PlainEntry | None:
    """Decodes an entry in a fifth of the time of `parse_entry`; returns None if it is malformed, or in any other form
    than pogfast's, as in a locale that is not UTF-8."""
    if not IS_UTF8 or len(memoryview(text)) > MAX_OTHER:
        return None
    try:
        found = PLAIN.decode(text)
    except (ValueError, RecursionError):
        return None
    sizes = 0 <= found.size <= MAX_SIZE and -MAX_NS <= found.mtime_ns <= MAX_NS
    times = abs(found.atime) <= MAX_TIME and abs(found.mtime) <= MAX_TIME
    return found if sizes and times and all(map(BLOB_NAME.fullmatch, found.blobs)) else None


def entry_text(entries: Mapping[str, Entry], name: str) -> msgspec.Raw | bytes | None:
    """Returns an entry's JSON, None if the entries are not those of an opened manifest."""
    return entries.text(name) if isinstance(entries, _LazyEntries) else None


def parse_entry(text: msgspec.Raw | bytes, origin: str) -> Entry:
    """Decodes an entry; `origin` is for messages. Raises CorruptManifest if it is malformed."""
    try:
        if len(memoryview(text)) > MAX_OTHER:
            _check_other(text)
        more = local_all(loads(text))
    except (ValueError, RecursionError) as error:
        raise CorruptManifest(f"{origin} does not parse: {error}") from error
    if not isinstance(more, dict):
        raise CorruptManifest(f"{origin} is malformed")
    blobs, atime, mtime = more.pop("blobs", None), more.pop("atime", None), more.pop("mtime", None)
    if not are_blob_names(blobs):
        raise CorruptManifest(f"{origin}: its list of blobs is malformed")
    if not is_time(atime) or not is_time(mtime):
        raise CorruptManifest(f"{origin}: one of its times is malformed")
    return Entry(blobs, atime, mtime, more, origin)


def _check_other(text: msgspec.Raw | bytes) -> None:
    """Raises ValueError if a long entry has too many bytes besides its blobs, or these are not strings: other objects
    would take thirty times their text in memory."""
    values = OBJECT.decode(text)
    STRINGS.decode(values.get("blobs", b"[]"))
    lists = sum(len(memoryview(values.get(word, b""))) for word in ("blobs", "sizes", "stored"))
    if len(memoryview(text)) - lists > MAX_OTHER:
        raise ValueError(f"it has more than {MAX_OTHER:,} bytes besides its blobs")


def decoded(text: bytes) -> Any:
    """Parses JSON as `encoded` returns it."""
    return local_all(loads(text))


def blobs_of(entries: Mapping[str, Entry]) -> list[str]:
    """Returns the blobs of all entries in order, with repetitions. Of each entry only the list of blobs has to be well
    formed: else raises CorruptManifest."""
    if isinstance(entries, _LazyEntries):
        with contextlib.suppress(ValueError, RecursionError):
            names = [blob for file in entries for blob in NEEDED.decode(entries.text(file)).blobs]
            if all(map(BLOB_NAME.fullmatch, names)):
                return names
    return [blob for entry in entries.values() for blob in entry.blobs]


def loads(text: bytes | msgspec.Raw) -> Any:
    """Parses JSON. Raises ValueError and RecursionError."""
    try:
        return DECODER.decode(text)
    except (ValueError, RecursionError):  # lone surrogates, NaN: only the standard library parses these
        return json.loads(bytes(text))


def _scan(text: str) -> dict[str, bytes]:
    """Splits a JSON object into its members' bytes, as ENTRIES does, for a text with lone surrogates.

    The text is UTF-8 decoded as Latin-1, so that a character takes one byte in memory whatever the names are. Members
    are scanned one by one, since a million entries as dictionaries would take gigabytes. Raises ValueError.
    """
    members: dict[str, bytes] = {}
    mark, at = _mark(text, 0, "{")
    if text.startswith("}", at):
        mark, at = _mark(text, at, "}")
    while mark != "}":
        name, at = _value(text, at)
        if not name.startswith(b'"'):
            raise ValueError(f"a name is expected at byte {at - len(name)}")
        _, at = _mark(text, at, ":")
        members[json.loads(name)], at = _value(text, at)
        mark, at = _mark(text, at, ",}")
    if at < len(text):
        raise ValueError(f"it continues after its end at byte {at}")
    return members


def _mark(text: str, at: int, wanted: str) -> tuple[str, int]:
    found = MARK.match(text, at)
    if not found or found[1] not in wanted:
        raise ValueError(f"one of {wanted} is expected at byte {at}")
    return found[1], found.end()


def _value(text: str, at: int) -> tuple[bytes, int]:
    """Returns (the bytes of the JSON value at `at`, where it ends)."""
    _, end = JSON.raw_decode(text, at)
    return text[at:end].encode("latin-1"), end

"""Decodes entries from JSON, each when it is accessed, so that a million of them cost little.

The JSON is decompressed and parsed in pieces of some hundred entries. That of a large manifest is not kept: what goes
through its entries in the order of paths decompresses them again (`in_order`), and only what looks for single entries
has all of them in memory. msgspec parses the JSON. Names that are not UTF-8 are in it as lone surrogates, which only
the standard library parses. JSON that does not parse is CorruptManifest.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from operator import lt
from typing import Annotated, Any, TypeVar

import msgspec
import zstandard
from msgspec import Meta

from pogfast.errors import CorruptManifest
from pogfast.manifest.entry import (
    MAX_NS,
    MAX_SIZE,
    MAX_TIME,
    Entry,
    are_blob_names,
    check_names,
    in_order_of_paths,
    is_time,
)
from pogfast.manifest.frames import Frame, Parsing, texts_of
from pogfast.system.encoding import IS_UTF8, local, local_all

Parsed = TypeVar("Parsed")

MAX_OTHER = 4 << 20  # bytes of JSON that an entry may have besides its blobs
PIECE = 1 << 17  # bytes of JSON that are parsed at a time
KEPT = 16 << 20  # bytes of JSON up to which all of it stays in memory
FEW = 1000  # entries that are passed on at a time
DECODER = msgspec.json.Decoder()
ENTRIES = OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
STRINGS = msgspec.json.Decoder(list[str])
JSON = json.JSONDecoder()
# What separates the values in JSON.
MARK = re.compile(r"[ \t\n\r]*([{}:,])[ \t\n\r]*")
BEGIN = b'{"blobs":'  # of an entry, as pogfast and pogcli write it
ENDS = b'},"', b'}, "'  # of the one before it, and the first character of the name
LONG = 4096  # bytes before the beginning of an entry in which the end of the one before is looked for


class _Needed(msgspec.Struct):
    blobs: list[str]


NEEDED = msgspec.json.Decoder(_Needed)
NAMES = msgspec.json.Decoder(dict[str, _Needed])


class _Outline(msgspec.Struct):
    size: int = -1
    hardlink: Any = None


OUTLINES = msgspec.json.Decoder(_Outline)


Time = Annotated[float, Meta(ge=-MAX_TIME, le=MAX_TIME)]


class PlainEntry(msgspec.Struct, gc=False):
    """An entry as `pogfast create` writes it: the part of it that is shown."""

    blobs: list[str]
    atime: Time
    mtime: Time
    size: Annotated[int, Meta(ge=0, le=MAX_SIZE)]
    mtime_ns: Annotated[int, Meta(ge=-MAX_NS, le=MAX_NS)]
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    user: str | None = None
    group: str | None = None
    target: str | None = None
    hardlink: str | None = None


PLAIN = msgspec.json.Decoder(PlainEntry)
ALL_PLAIN = msgspec.json.Decoder(dict[str, PlainEntry])


def entries_in(frames: list[Frame], name: str) -> LazyEntries:
    """Returns the entries in these frames, after all have been parsed, and clears the list if it is not needed any
    more. Raises CorruptManifest."""
    members: dict[str, msgspec.Raw | bytes] = {}
    size, last, ordered = 0, "", True
    for piece in _pieces(frames, name):
        check_names(piece, name)
        paths = [in_order_of_paths(each) for each in piece]
        ordered = ordered and (size == 0 or last < paths[0]) and all(map(lt, paths, paths[1:]))
        last = paths[-1]
        size += len(piece.json)
        if size <= KEPT:
            members.update(piece.members)
        else:
            members.clear()
    if size > KEPT:
        return StreamedEntries(frames[:], name, ordered)
    frames.clear()  # frees memory
    return LazyEntries(members, name)


def names_in(frames: list[Frame], name: str) -> list[str]:
    """Returns the blobs of all entries in order. Of each entry only the list of blobs has to be well formed."""
    with contextlib.suppress(ValueError, RecursionError, zstandard.ZstdError):
        needed: dict[str, _Needed] = {}
        for found, _ in _parsed(texts_of(frames), NAMES.decode):
            needed.update(found)
        names = [blob for entry in needed.values() for blob in entry.blobs]
        if are_blob_names(names):
            return names
    return [blob for entry in entries_in(frames, name).values() for blob in entry.blobs]


def _pieces(frames: list[Frame], name: str) -> Iterator[LazyEntries]:
    """Yields the entries in these frames, some hundred at a time. Raises CorruptManifest."""
    with Parsing(name):
        try:
            for members, text in _parsed(texts_of(frames), _members):
                if not IS_UTF8:
                    members = {local(each): member for each, member in members.items()}
                if members:
                    yield LazyEntries(members, name, text)
        except (ValueError, RecursionError):
            _members(b"".join(texts_of(frames)))  # raises what tells the place in the whole text
            raise


def _parsed(texts: Iterable[bytes], parse: Callable[[bytes], Parsed]) -> Iterator[tuple[Parsed, bytes]]:
    """Cuts a JSON object into many that have its members, and yields what `parse` returns for each, and its text.

    It is cut where an entry seems to end. If that is somewhere else, the piece is no JSON, `parse` raises ValueError or
    RecursionError, and a longer one is tried. So what is raised in the end is right: nothing else makes it JSON.
    """
    waiting: list[bytes] = []
    size, enough = 0, PIECE
    for text in texts:
        waiting.append(text)
        size += len(text)
        if size < enough:
            continue
        text = b"".join(waiting)
        end = _end_of_entry(text)
        piece = text[:end] + b"}"
        try:
            found = parse(piece)
        except (ValueError, RecursionError):
            waiting, enough = [text], 2 * size
        else:
            yield found, piece
            waiting = [b"{" + text[end + 1 :]]
            size, enough = len(waiting[0]), PIECE
    text = b"".join(waiting)
    yield parse(text), text


def _end_of_entry(text: bytes) -> int:
    """Returns where the last entry but one seems to end."""
    last = text.rfind(BEGIN)
    return max(text.rfind(end, max(0, last - LONG), max(0, last)) for end in ENDS) + 1


def _members(text: bytes) -> Mapping[str, msgspec.Raw | bytes]:
    """Splits a JSON object into its members. Raises ValueError and RecursionError."""
    try:
        return ENTRIES.decode(text)
    except (ValueError, RecursionError):  # a name that is not UTF-8, or invalid JSON
        return _scan(text.decode("latin-1"))


class LazyEntries(Mapping[str, Entry]):
    """Entries as JSON, each decoded at each access. `json` is one object of all of them, or empty."""

    __slots__ = ("_manifest", "_members", "_plain", "json")

    def __init__(self, members: Mapping[str, msgspec.Raw | bytes], manifest: str, json: bytes = b"") -> None:
        self._members = members
        self._manifest = manifest
        self._plain: Mapping[str, PlainEntry] | None = None
        self.json = json

    @property
    def members(self) -> Mapping[str, msgspec.Raw | bytes]:
        """The JSON of each."""
        return self._members

    def __getitem__(self, name: str) -> Entry:
        """Decodes an entry. Raises CorruptManifest if it is malformed."""
        return parse_entry(self.members[name], f"{self._manifest}: the entry {name}")

    def __contains__(self, name: object) -> bool:
        return name in self.members

    def __iter__(self) -> Iterator[str]:
        return iter(self.members)

    def __len__(self) -> int:
        return len(self.members)

    def plain(self, names: Collection[str]) -> Mapping[str, PlainEntry]:
        """Decodes entries as `plain_entry` does, if it can: those of these names, perhaps others."""
        if self._plain is not None:
            return self._plain
        if IS_UTF8 and 0 < len(self.json) <= MAX_OTHER and 2 * len(names) > len(self.members):
            with contextlib.suppress(ValueError, RecursionError):
                found = ALL_PLAIN.decode(self.json)
                if are_blob_names([blob for entry in found.values() for blob in entry.blobs]):
                    self._plain = found
                    return found
        decoded = ((name, plain_entry(self.members[name])) for name in names if name in self.members)
        return {name: entry for name, entry in decoded if entry is not None}

    def in_order(self) -> Iterator[LazyEntries]:
        """Yields all entries in the order of paths, some at a time."""
        names = sorted(self.members, key=in_order_of_paths)
        for at in range(0, len(names), FEW):
            yield LazyEntries({name: self.members[name] for name in names[at : at + FEW]}, self._manifest)


class StreamedEntries(LazyEntries):
    """The entries of a large manifest, decompressed and parsed when they are accessed."""

    __slots__ = ("_frames", "_ordered")

    def __init__(self, frames: list[Frame], manifest: str, ordered: bool) -> None:
        """`ordered`: they are in the order of paths, and each name occurs once."""
        super().__init__({}, manifest)
        self._frames = frames
        self._ordered = ordered

    @property
    def members(self) -> Mapping[str, msgspec.Raw | bytes]:
        if self._frames:
            members: dict[str, msgspec.Raw | bytes] = {}
            for piece in _pieces(self._frames, self._manifest):
                members.update(piece.members)
            self._members = members
            self._frames = []  # another one, since somebody may be going through the frames
        return self._members

    def in_order(self) -> Iterator[LazyEntries]:
        return _pieces(self._frames, self._manifest) if self._frames and self._ordered else super().in_order()


def outline(entries: Mapping[str, Entry], name: str) -> tuple[int | None, str]:
    """Returns (bytes of the file, the archived name that a hard link refers to or ""). Takes a quarter of the time of
    decoding the entry if both are in their usual form. Raises CorruptManifest, but not for everything that is
    malformed."""
    if isinstance(entries, LazyEntries):
        with contextlib.suppress(ValueError, RecursionError):
            found = OUTLINES.decode(entries.members[name])
            if 0 <= found.size <= MAX_SIZE:
                return found.size, local(found.hardlink) if isinstance(found.hardlink, str) else ""
    entry = entries[name]
    first = entry.more.get("hardlink")
    return entry.size, first if isinstance(first, str) else ""


def in_order(entries: Mapping[str, Entry]) -> Iterator[LazyEntries]:
    """Yields the entries of an opened manifest in the order of paths, some at a time."""
    return _opened(entries).in_order()


def entry_texts(entries: Mapping[str, Entry]) -> Iterator[tuple[str, bytes]]:
    """Yields the names of an opened manifest's entries, each with the entry's JSON, for `parse_entry`."""
    for name, text in _opened(entries).members.items():
        yield name, bytes(text)


def plain_entries(entries: Mapping[str, Entry], names: Collection[str]) -> Mapping[str, PlainEntry]:
    """Decodes entries of an opened manifest as `plain_entry` does, if it can: those of these names, perhaps others."""
    return _opened(entries).plain(names)


def entry_text(entries: Mapping[str, Entry], name: str) -> msgspec.Raw | bytes:
    """Returns the JSON of an opened manifest's entry."""
    return _opened(entries).members[name]


def _opened(entries: Mapping[str, Entry]) -> LazyEntries:
    if not isinstance(entries, LazyEntries):
        raise TypeError("only the entries of an opened manifest have been JSON")
    return entries


def plain_entry(text: msgspec.Raw | bytes) -> PlainEntry | None:
    """Decodes an entry in a fifth of the time of `parse_entry`; returns None if it is malformed, or in any other form
    than pogfast's, as in a locale that is not UTF-8."""
    if not IS_UTF8 or len(memoryview(text)) > MAX_OTHER:
        return None
    try:
        found = PLAIN.decode(text)
    except (ValueError, RecursionError):
        return None
    return found if are_blob_names(found.blobs) else None


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
    if isinstance(entries, LazyEntries):
        with contextlib.suppress(ValueError, RecursionError):
            names = [blob for text in entries.members.values() for blob in NEEDED.decode(text).blobs]
            if are_blob_names(names):
                return names
    return [blob for entry in entries.values() for blob in entry.blobs]


def loads(text: bytes | bytearray | msgspec.Raw) -> Any:
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

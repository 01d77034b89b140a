"""Decodes the trailer of a manifest, the metadata of the whole archive: all of it, or what lists of archives show.

It may have a million names, so lists of archives decode only the part that they show.
"""

from __future__ import annotations

from typing import Any, cast

import msgspec

from pogfast.errors import CorruptManifest
from pogfast.manifest.decoding import loads
from pogfast.manifest.entry import check_names
from pogfast.manifest.frames import TRAILER_MAGIC, Frame, Parsing, contents, frames_of, room_for
from pogfast.system.encoding import local_all

SECTIONS = ("parents", "directories", "links", "fifos")
ABSENT = msgspec.Raw(b"")


class _Facts(msgspec.Struct):
    """The part of a trailer that lists of archives show. The rest, which may be a million names, is skipped and takes
    no memory."""

    time: msgspec.Raw = ABSENT
    host: msgspec.Raw = ABSENT
    comment: msgspec.Raw = ABSENT
    tags: msgspec.Raw = ABSENT
    paths: msgspec.Raw = ABSENT
    totals: msgspec.Raw = ABSENT
    skipped: msgspec.Raw = ABSENT
    unreadable: msgspec.Raw = ABSENT
    changed: msgspec.Raw = ABSENT
    layout: msgspec.Raw = ABSENT
    chunk_size: msgspec.Raw = ABSENT


FACTS = msgspec.json.Decoder(_Facts)
# The types that each of them can have: nothing else is decoded.
TYPES = str | int | list[str] | dict[str, str | int]
FACT = msgspec.json.Decoder(TYPES)


def trailer_in(frames: list[Frame], name: str) -> dict[str, Any] | None:
    """Returns the trailer in these frames, None if there is none."""
    text = trailer_text(frames, name)
    return None if text is None else _trailer_of(text, name)


def facts_of(text: bytes, name: str) -> dict[str, Any]:
    """Returns the part of a trailer's JSON that lists of archives show, without values of the wrong type."""
    found: Any
    try:
        found = msgspec.structs.asdict(FACTS.decode(text))
    except (ValueError, RecursionError):
        found = _trailer_of(text, name)
        return {word: found[word] for word in _Facts.__struct_fields__ if word in found}
    return {word: local_all(_fact(value)) for word, value in found.items() if value is not ABSENT}


def facts_in(trailer: dict[str, Any]) -> dict[str, Any]:
    """Returns the part of a decoded trailer that lists of archives show, without values of the wrong type."""
    return {word: _converted(trailer[word]) for word in _Facts.__struct_fields__ if word in trailer}


def _converted(value: Any) -> Any:
    try:
        return msgspec.convert(value, TYPES)
    except (ValueError, RecursionError):
        return None


def _fact(text: msgspec.Raw) -> Any:
    """Decodes one of them; returns None if it has the wrong type."""
    try:
        return FACT.decode(text)
    except (ValueError, RecursionError):  # the standard library parses names that are not UTF-8
        return loads(text) if b"\\ud" in bytes(text).lower() else None


def trailer_text(frames: list[Frame], name: str) -> bytes | None:
    """Returns the JSON of the trailer in these frames, None if there is none. Raises CorruptManifest."""
    for frame in frames:
        if frame.magic == TRAILER_MAGIC:
            with Parsing(name):
                return b"".join(contents(frames_of(frame.data), room_for(frames)))
    return None


def _trailer_of(text: bytes, name: str) -> dict[str, Any]:
    with Parsing(name):
        trailer = loads(text)
    if not isinstance(trailer, dict):
        raise CorruptManifest(f"{name}: its trailer is malformed")
    for section in SECTIONS:
        names = trailer.get(section)
        if isinstance(names, dict):
            check_names(names, name)
    with Parsing(name):
        return cast(dict[str, Any], local_all(trailer))

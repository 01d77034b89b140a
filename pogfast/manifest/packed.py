"""Entries of an opened manifest in a tenth of their memory: as JSON, some thousand at a time compressed.

So the entries of many manifests can be read side by side, in order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from pogfast._engine import compress, decompress
from pogfast.errors import CorruptManifest
from pogfast.manifest.decoding import parse_entry
from pogfast.manifest.entry import are_blob_names, is_length
from pogfast.system.encoding import local

MANY = 2048  # entries that are compressed together
ENCODER = msgspec.msgpack.Encoder()
DECODER = msgspec.msgpack.Decoder(list[tuple[bytes, bytes]])


class Content(msgspec.Struct):
    """What an entry says of its blobs, and whether it is a further name."""

    blobs: list[str]
    stored: list[int]
    size: int
    hardlink: Any = None


CONTENT = msgspec.json.Decoder(Content)


class Packed:
    """Pairs of a name and an entry's JSON; can be iterated over several times."""

    def __init__(self, entries: Iterable[tuple[str, bytes]]) -> None:
        self._pieces: list[bytes] = []
        waiting: list[tuple[bytes, bytes]] = []
        for name, text in entries:
            waiting.append((name.encode("utf-8", "surrogateescape"), text))
            if len(waiting) == MANY:
                self._pieces.append(compress(ENCODER.encode(waiting)))
                waiting.clear()
        self._pieces.append(compress(ENCODER.encode(waiting)))

    def __iter__(self) -> Iterator[tuple[str, bytes]]:
        for piece in self._pieces:
            for name, text in DECODER.decode(decompress(piece)):
                yield name.decode("utf-8", "surrogateescape"), text


def content_of(text: bytes, origin: str) -> Content:
    """Returns what an entry that pogfast wrote says of its blobs. Raises CorruptManifest; `origin` is for messages."""
    try:
        found = CONTENT.decode(text)
    except (ValueError, RecursionError):
        entry = parse_entry(text, origin)
        found = Content(entry.blobs, entry.stored or [], entry.size or 0, entry.more.get("hardlink"))
    if isinstance(found.hardlink, str):
        found.hardlink = local(found.hardlink)
    fits = len(found.stored) == len(found.blobs) and is_length(found.size) and all(map(is_length, found.stored))
    if not fits or not are_blob_names(found.blobs):
        raise CorruptManifest(f"{origin} is malformed")
    return found

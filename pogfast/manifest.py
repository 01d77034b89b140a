"""Manifests: which blobs make which files, as sealed bytes and back. No I/O, no policy.

FORMAT.md, "The manifest" and "The trailer". create.py collects entries and gets the bytes to store; restore.py gets
the entries of bytes that it fetched. With a key pair an index of all blob names stands in front, which the public
key alone opens; the entries need the private key. What does not parse or authenticate is CorruptManifest; only a
header that does not unwrap is WrongKey.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pogfast._engine import compress, decompress, random_bytes, secretbox, secretbox_open
from pogfast.errors import CorruptManifest, WrongKey
from pogfast.keys import KEY_SIZE, Key

BOX = 40
INDEX_HEADER = BOX + 4 + KEY_SIZE
PADDING_MAGIC = bytes.fromhex("502a4d18")
TRAILER_MAGIC = bytes.fromhex("5e2a4d18")
# 43 letters of urlsafe base64 for 32 bytes; the last carries 4 bits, so its low 2 are zero.
BLOB_NAME = re.compile(r"[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]=")


@dataclass(slots=True)
class Entry:
    """One file: its blobs in order, its times in seconds, and whatever further keys its writer gave it."""

    blobs: list[str]
    atime: float
    mtime: float
    more: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Manifest:
    """An archive's entries by archived name, in order, and its trailer."""

    entries: dict[str, Entry] = field(default_factory=dict)
    trailer: dict[str, Any] | None = None

    def blob_names(self) -> list[str]:
        """In the order of the entries, repeats kept."""
        return [name for entry in self.entries.values() for name in entry.blobs]


def is_blob_name(text: str) -> bool:
    return BLOB_NAME.fullmatch(text) is not None


def seal(manifest: Manifest, key: Key) -> bytes:
    """The bytes of the manifest's file; with a key pair the index stands in front."""
    entries = {
        path: {"blobs": entry.blobs, "atime": entry.atime, "mtime": entry.mtime, **entry.more}
        for path, entry in manifest.entries.items()
    }
    frames = compress(json.dumps(entries).encode())
    if manifest.trailer is not None:
        content = compress(json.dumps(manifest.trailer).encode())
        frames += TRAILER_MAGIC + len(content).to_bytes(4, "little") + content
    file_key = random_bytes(KEY_SIZE)
    full = key.wrap(file_key) + secretbox(file_key, _padded(frames))
    return _seal_index(manifest, key) + full if key.asymmetric else full


def _seal_index(manifest: Manifest, key: Key) -> bytes:
    file_key = random_bytes(KEY_SIZE)
    box = secretbox(file_key, _padded(compress(json.dumps(sorted(manifest.blob_names())).encode())))
    return secretbox(key.secret, len(box).to_bytes(4, "big") + file_key) + box


def _padded(frames: bytes) -> bytes:
    n = len(frames) % 256
    return frames + PADDING_MAGIC + n.to_bytes(4, "little") + random_bytes(n)


def open(data: bytes, key: Key, name: str) -> Manifest:
    """The manifest in the bytes of its file; `name` is for messages. Raises WrongKey and CorruptManifest."""
    if not key.can_open:
        raise WrongKey(f"{name}: an encryption key cannot open it", hint="use --decryption-keyfile")
    full = data
    if key.asymmetric:
        _, length = _index_header(data, key, name)
        full = data[INDEX_HEADER + length :]
    if len(full) < key.header_size + BOX:
        raise CorruptManifest(f"{name} is too short to be a manifest")
    try:
        file_key = key.unwrap(full[: key.header_size])
    except WrongKey as error:
        if key.asymmetric:  # the index opened, so the key is right
            raise CorruptManifest(f"{name} is damaged: its header does not unwrap") from error
        raise WrongKey(f"{name}: this key does not open it, or it is not a manifest") from error
    payload = secretbox_open(file_key, full[key.header_size :])
    if payload is None:
        raise CorruptManifest(f"{name} is damaged or cut short")
    return Manifest(_entries(_json(payload, name), name), _trailer(payload, name))


def open_index(data: bytes, key: Key, name: str) -> list[str]:
    """The names of the blobs that an archive needs, repeats kept: with a key pair from the index (sorted; the public
    key is enough), else from the entries, in their order. Raises WrongKey and CorruptManifest."""
    if not key.asymmetric:
        return open(data, key, name).blob_names()
    file_key, length = _index_header(data, key, name)
    payload = secretbox_open(file_key, data[INDEX_HEADER : INDEX_HEADER + length])
    if payload is None:
        raise CorruptManifest(f"{name}: its index is damaged or cut short")
    return _blob_names(_json(payload, name), name)


def _index_header(data: bytes, key: Key, name: str) -> tuple[bytes, int]:
    """(file key of the index, bytes of its box)."""
    if len(data) < INDEX_HEADER:
        raise CorruptManifest(f"{name} is too short to be a manifest")
    header = secretbox_open(key.secret, data[:INDEX_HEADER])
    if header is None:
        raise WrongKey(f"{name}: this key does not open it, or it is not a manifest")
    return header[4:], int.from_bytes(header[:4], "big")


def _json(payload: bytes, name: str) -> Any:
    try:
        return json.loads(decompress(payload))
    except (ValueError, RecursionError) as error:
        raise CorruptManifest(f"{name} does not parse: {error}") from error


def _entries(content: Any, name: str) -> dict[str, Entry]:
    if not isinstance(content, dict):
        raise CorruptManifest(f"{name} is not a manifest: it holds no entries")
    return {path: _entry(path, facts, name) for path, facts in content.items()}


def _entry(path: str, facts: Any, name: str) -> Entry:
    if not isinstance(facts, dict):
        raise CorruptManifest(f"{name}: the entry {path} is malformed")
    more = dict(facts)
    blobs = _blob_names(more.pop("blobs", None), name)
    return Entry(blobs, _time(more.pop("atime", None), name), _time(more.pop("mtime", None), name), more)


def _blob_names(content: Any, name: str) -> list[str]:
    if not isinstance(content, list) or not all(isinstance(blob, str) and is_blob_name(blob) for blob in content):
        raise CorruptManifest(f"{name}: a list of blobs is malformed")
    return content


def _time(value: Any, name: str) -> float:
    # JSON has NaN, infinities, and integers beyond what a float holds: not one of them is a time.
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
        raise CorruptManifest(f"{name}: an entry's time is malformed")
    return value


def _trailer(payload: bytes, name: str) -> dict[str, Any] | None:
    """The object between the entries' frame and the padding."""
    for magic, content in _skippable_frames(payload):
        if magic == TRAILER_MAGIC:
            trailer = _json(content, name)
            if not isinstance(trailer, dict):
                raise CorruptManifest(f"{name}: its trailer is malformed")
            return trailer
    return None


def _skippable_frames(payload: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(magic, content) of the skippable frames at the end. The first frame's length is not written anywhere, so a
    frame counts when it and all behind it reach exactly to the end."""
    at = payload.find(TRAILER_MAGIC)
    while at >= 0:
        frames = _frames_to_end(payload, at)
        if frames:
            yield from frames
            return
        at = payload.find(TRAILER_MAGIC, at + 1)


def _frames_to_end(payload: bytes, at: int) -> list[tuple[bytes, bytes]]:
    frames = []
    while at < len(payload):
        magic, size = payload[at : at + 4], int.from_bytes(payload[at + 4 : at + 8], "little")
        if magic not in (TRAILER_MAGIC, PADDING_MAGIC) or at + 8 + size > len(payload):
            return []
        frames.append((magic, payload[at + 8 : at + 8 + size]))
        at += 8 + size
    return frames

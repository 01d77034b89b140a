"""Writes manifests: `Writer` collects entries as compressed JSON, and returns the bytes to store.

pog and pogcli open what it writes: entries in one zstd frame, the trailer in a skippable frame, and padding that hides
the exact size, all in one box; with a key pair the index precedes them.
"""

from __future__ import annotations

import base64
import json
from array import array
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import zstandard

from pogfast._engine import compress, random_bytes, secretbox
from pogfast.errors import PogfastError
from pogfast.keys import KEY_SIZE, Key
from pogfast.manifest.entry import Entry, Manifest, is_name
from pogfast.manifest.frames import TRAILER_MAGIC, pad, pad_to_ratio
from pogfast.system.encoding import IS_UTF8, portable, portable_all

LEVEL = 3
# An empty last block, which ends a zstd frame (RFC 8878, 3.1.1.2).
LAST_BLOCK = bytes.fromhex("010000")
# JSON is compressed in pieces of this size: a call for each entry would cost as much as the work.
PIECE = 1 << 18
ENCODER = msgspec.json.Encoder()
LONG = 2048  # characters of a directory, in which every name is within the limits
SHORT = 1024  # characters of a name that is within the limits in any encoding


class Writer:
    """A manifest that is being written. Keeps the compressed JSON of the entries.

    With a key pair it also keeps the names of all blobs and their stored sizes, for the index.
    """

    def __init__(self, key: Key) -> None:
        self._key = key
        self._count = 0
        self._blobs = bytearray()  # names, one per line
        self._sizes = array("q")  # their stored bytes; 0: unknown
        self._compressor = zstandard.ZstdCompressor(level=LEVEL).compressobj()
        self._frame = bytearray()
        self._size = 0
        self._waiting = bytearray()

    def __len__(self) -> int:
        return self._count

    def add(self, name: str, entry: Entry) -> None:
        """Adds an entry, of a name that has none yet. Raises PogfastError for a name beyond the limits."""
        if len(name) >= SHORT and not is_name(portable(name)):
            raise PogfastError(f"the name is too long for an archive: {name[:60]}...")
        if self._key.asymmetric:
            _note_blobs(entry.blobs, entry.stored, self._blobs, self._sizes)
        self._add(_member(name, entry), 1)

    def add_text(self, name: str, text: bytes, blobs: Sequence[str], stored: Sequence[int]) -> None:
        """Adds an entry as the JSON that another manifest has of it; these are its blobs, and the bytes of each in a
        store."""
        if self._key.asymmetric:
            _note_blobs(blobs, stored, self._blobs, self._sizes)
        self._add(b"%b:%b" % (encoded(name), text), 1)

    @staticmethod
    def takes_encoded(above: str) -> bool:
        """Returns True if names that begin with `above`, a directory, can be added as FileRun encodes them."""
        return IS_UTF8 and len(above) <= LONG

    def add_encoded(self, members: bytes, blobs: Sequence[str], stored: Sequence[int]) -> None:
        """Adds entries of one blob each, as FileRun encodes them; these are their blobs, and the bytes of each in a
        store."""
        if self._key.asymmetric:
            _note_blobs(blobs, stored, self._blobs, self._sizes)
        self._add(members, len(blobs))

    def _add(self, members: bytes, count: int) -> None:
        self._waiting += b"," if self._count else b"{"
        self._waiting += members
        self._count += count
        if len(self._waiting) >= PIECE:
            self._compress()

    def seal(self, trailer: dict[str, Any] | None = None) -> bytes:
        """Returns the bytes of the manifest's file, with a key pair including the index. The writer cannot be used
        afterwards."""
        self._waiting += b"}" if self._count else b"{}"
        self._compress()
        frames = self._frame
        frames += self._compressor.flush()
        _write_size(frames, self._size)
        return _sealed(frames, self._size, trailer, self._blobs, self._sizes, self._key)

    def snapshot(self, more: Mapping[str, Entry], trailer: dict[str, Any]) -> bytes:
        """Returns the bytes of a partial manifest with the entries so far and `more`; the writer can still be used. Its
        entries are in two frames, which pogfast opens, but pogcli never writes. Of a key pair the public key opens it:
        see `open_partial`."""
        blobs, sizes = bytearray(self._blobs), self._sizes[:]
        last = bytearray(b"" if self._count else b"{")
        for name, entry in more.items():
            last += (b"," if self._count or len(last) > 1 else b"") + _member(name, entry)
            if self._key.asymmetric:
                _note_blobs(entry.blobs, entry.stored, blobs, sizes)
        last += b"}"
        frames = self._closed_frame()
        frames += compress(last, LEVEL)
        return _sealed(frames, self._size + len(last), trailer, blobs, sizes, self._key, partial=True)

    def _closed_frame(self) -> bytearray:
        """Returns a frame with all entries so far."""
        if not self._count:
            return bytearray()
        self._compress()
        self._frame += self._compressor.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
        frame = self._frame + LAST_BLOCK
        _write_size(frame, self._size)
        return frame

    def _compress(self) -> None:
        self._size += len(self._waiting)
        self._frame += self._compressor.compress(self._waiting)
        self._waiting.clear()


def _member(name: str, entry: Entry) -> bytes:
    """Encodes an entry as a member of the JSON object of all entries."""
    keys = {"blobs": entry.blobs, "atime": entry.atime, "mtime": entry.mtime, **entry.more}
    if len(keys) < 3 + len(entry.more):
        keys |= {"blobs": entry.blobs, "atime": entry.atime, "mtime": entry.mtime}
    return b"%b:%b" % (encoded(name), encoded(keys))


def _note_blobs(names: Sequence[str], stored: Sequence[int] | None, blobs: bytearray, sizes: array[int]) -> None:
    """Adds blobs and their stored sizes to those for the index."""
    for blob in names:
        blobs += blob.encode() + b"\n"
    sizes.extend(stored or [0] * len(names))


def _sealed(
    frames: bytearray,
    size: int,
    trailer: dict[str, Any] | None,
    blobs: bytearray,
    sizes: array[int],
    key: Key,
    *,
    partial: bool = False,
) -> bytes:
    """Seals frames with `size` bytes of JSON into the bytes of a manifest's file, and clears them to free memory. With
    a key pair the index of a `partial` one has the file key of the entries."""
    text = size
    if trailer is not None:
        words = encoded(trailer)
        text = max(text, len(words))
        content = compress(words, LEVEL)
        frames += TRAILER_MAGIC + len(content).to_bytes(4, "little") + content
    file_key = random_bytes(KEY_SIZE)
    pad(frames)
    pad_to_ratio(frames, text)
    box = secretbox(file_key, frames)
    frames.clear()
    index = seal_index(blobs, sizes, key, file_key if partial else None) if key.asymmetric else b""
    return b"".join((index, key.wrap(file_key), box))


def seal(manifest: Manifest, key: Key) -> bytes:
    """Returns the bytes of a manifest's file, with a key pair including the index."""
    writer = Writer(key)
    for name, entry in manifest.entries.items():
        writer.add(name, entry)
    return writer.seal(manifest.trailer)


def encoded(value: Any) -> bytes:
    """Returns JSON as manifests have it."""
    if not IS_UTF8:
        value = portable_all(value)
    try:
        return ENCODER.encode(value)
    except UnicodeEncodeError:  # a name that is not UTF-8: surrogates are escaped, as by pogcli
        return json.dumps(value, separators=(",", ":")).encode()


def _write_size(frame: bytearray, size: int) -> None:
    """Inserts the content's size into the header of a frame that was begun without it: pog requires it."""
    assert frame[4] == 0, "zstd's header says: no size, no checksum, no dictionary; a window follows"
    frame[4] = 0b11 << 6  # the size has 8 bytes
    frame[6:6] = size.to_bytes(8, "little")


def seal_index(blobs: bytearray, sizes: array[int], key: Key, entries_key: bytes | None = None) -> bytes:
    """Seals the index. `blobs` are names, one per line, `sizes` their stored bytes; 0 is unknown. `entries_key` lets
    whoever opens the index open the entries as well."""
    file_key = random_bytes(KEY_SIZE)
    names = blobs.decode().split()
    order = sorted(range(len(names)), key=names.__getitem__)
    names = [names[number] for number in order]
    frame = bytearray(compress(ENCODER.encode(names), LEVEL))
    names.clear()  # frees memory: a hundred bytes per blob of the archive
    words: dict[str, Any] = {"stored": [sizes[number] for number in order]} if sizes and all(sizes) else {}
    if entries_key is not None:
        words["entries_key"] = base64.b64encode(entries_key).decode()
    if words:
        content = compress(ENCODER.encode(words), LEVEL)
        frame += TRAILER_MAGIC + len(content).to_bytes(4, "little") + content
    pad(frame)
    pad_to_ratio(frame, len(order) * 48)
    box = secretbox(file_key, frame)
    return secretbox(key.secret, len(box).to_bytes(4, "big") + file_key) + box

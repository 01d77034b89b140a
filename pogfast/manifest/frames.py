"""The zstd frames in a manifest's payload: found, bounded in size, decompressed, padded. FORMAT.md, "Limits".

Knows bytes only. A manifest that claims more than the limits is damage, and no memory is allocated for it. What does
not parse raises ValueError, which `Parsing` turns into CorruptManifest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import zstandard

from pogfast._engine import random_bytes
from pogfast.errors import CorruptManifest

ZSTD_MAGIC = bytes.fromhex("28b52ffd")
PADDING_MAGIC = bytes.fromhex("502a4d18")
TRAILER_MAGIC = bytes.fromhex("5e2a4d18")
# FORMAT.md, "Limits": a manifest that claims more is damage, and no memory is allocated for it.
# JSON at most this many times as long as its compressed manifest. Ordinary manifests stay below 30 times.
MAX_RATIO = 128
SMALL_TEXT = 16 << 20  # bytes of JSON that any manifest may have, whatever the ratio
# But a file of zeros has equal blobs, which zstd compresses 10,900 times, and pogcli and pogfast until 0.5.3 wrote them
# so. Entries and indexes may have that ratio if their values are as long as blob names, which take at most four times
# their text in memory: 60 bytes per blob with its sizes, ten million blobs.
DENSE_TEXT = 640 << 20
DENSE_VALUES = 20, 128  # bytes of such text per value in it: a blob's name and its two sizes have 60
MAX_TEXT = 16 << 30
MAX_FRAMES = 256  # in a payload: pog writes two, pogfast three
AT_ONCE = 1 << 20  # bytes of JSON up to which a frame is decompressed at once
MAX_WINDOW = 1 << 27  # bytes of text that zstd keeps for a frame that is decompressed a little at a time
FEED = 2048  # bytes that are decompressed at a time: 4 bytes can become 128 KiB, so at worst 64 MiB
TOO_DENSE = "it decompresses to more JSON than a manifest of its size may hold"


class Frame(NamedTuple):
    """One zstd frame: `data` is all of it, or the content of a skippable one."""

    magic: bytes
    data: memoryview
    size: int  # bytes of all of it


class Parsing:
    """Turns errors of parsing JSON or frames into CorruptManifest. (As a generator with contextlib it would take a
    tenth of the time of a small manifest.)"""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, ValueError | RecursionError | zstandard.ZstdError):
            raise CorruptManifest(f"{self.name} does not parse: {error}") from error


def frames_of(payload: bytes | memoryview) -> Iterator[Frame]:
    """Yields the frames of a payload. Raises ValueError if one is truncated, or if it is not made of frames."""
    view, at, count = memoryview(payload), 0, 0
    while at < len(view):
        count += 1
        if count > MAX_FRAMES:
            raise ValueError(f"it has more than {MAX_FRAMES} frames")
        magic = bytes(view[at : at + 4])
        if magic == ZSTD_MAGIC:
            begin, end = at, _frame_end(view, at)
        elif magic[1:] == PADDING_MAGIC[1:] and magic[0] >> 4 == PADDING_MAGIC[0] >> 4:  # 50 to 5F: skippable
            begin, end = at + 8, at + 8 + int.from_bytes(view[at + 4 : at + 8], "little")
        else:
            raise ValueError("it is not made of zstd frames")
        if end > len(view):
            raise ValueError("a zstd frame is cut short")
        yield Frame(magic, view[begin:end], end - at)
        at = end


def _frame_end(payload: memoryview, at: int) -> int:
    """Returns where the zstd frame at `at` ends (RFC 8878, 3.1.1: header, blocks, checksum); beyond the payload if its
    end is truncated."""
    descriptor = payload[at + 4] if at + 4 < len(payload) else 0
    single = descriptor >> 5 & 1  # a single segment: no window, and always a size
    at += 5 + (1 - single) + (0, 1, 2, 4)[descriptor & 3] + (single, 2, 4, 8)[descriptor >> 6]
    last = 0
    while not last and at < len(payload):
        block = int.from_bytes(payload[at : at + 3], "little")
        last, repeats, size = block & 1, block >> 1 & 3 == 1, block >> 3
        at += 3 + (1 if repeats else size)
    if not last:
        raise ValueError("a zstd frame is cut short")
    return at + 4 * (descriptor >> 2 & 1)


def contents(frames: Iterable[Frame], room: int) -> Iterator[bytes]:
    """Yields the content of the zstd frames among these, a little at a time. Raises ValueError if one is truncated, or
    if they have more than `room` bytes together."""
    for frame in frames:
        if frame.magic == ZSTD_MAGIC:
            for piece in _content(frame.data, room):
                room -= len(piece)
                if room < 0:
                    raise ValueError(TOO_DENSE)
                yield piece


def _content(frame: memoryview, room: int) -> Iterator[bytes]:
    size = zstandard.frame_content_size(frame)
    if size > room:
        raise ValueError(TOO_DENSE)
    if size >= 0 and (size <= AT_ONCE or zstandard.get_frame_parameters(frame).window_size > MAX_WINDOW):
        yield zstandard.ZstdDecompressor().decompress(frame)
        return
    reader = zstandard.ZstdDecompressor().decompressobj()
    for at in range(0, len(frame), FEED):
        yield reader.decompress(frame[at : at + FEED])
    if not reader.eof:
        raise ValueError("a zstd frame is cut short")


def texts_of(frames: list[Frame]) -> Iterator[bytes]:
    """Yields the JSON of the entries or of the index, a little at a time. Raises ValueError if its ratio is above the
    limits, before anybody has parsed any of it."""
    room = room_for(frames)
    if size_of_text(frame for frame in frames if frame.magic == ZSTD_MAGIC) > room:
        room = _room_for_dense(frames, room)
    return contents(frames, room)


def _room_for_dense(frames: list[Frame], room: int) -> int:
    """Returns the bytes of the JSON in these frames. Raises ValueError if they are more than `room`, and not dense."""
    size = values = 0
    for text in contents(frames, max(room, DENSE_TEXT)):
        size += len(text)
        values += sum(map(text.count, (b",", b"[", b"{")))
    minimum, maximum = DENSE_VALUES
    if size > room and not minimum * values <= size <= maximum * values:
        raise ValueError(TOO_DENSE)
    return size


def text_of(frames: list[Frame]) -> bytearray:
    """Returns the JSON of the index. Raises ValueError if its ratio is above the limits."""
    text = bytearray()
    for piece in texts_of(frames):
        text += piece
    return text


def size_of_text(frames: Iterable[Frame]) -> int:
    """Returns how many bytes of JSON are in these frames and in the trailer among them; MAX_TEXT if one does not say.
    Raises ValueError."""
    total = 0
    for frame in frames:
        if frame.magic == TRAILER_MAGIC:
            total += size_of_text(frames_of(frame.data))
        elif frame.magic == ZSTD_MAGIC:
            size = zstandard.frame_content_size(frame.data)
            total += size if size >= 0 else MAX_TEXT
    return min(total, MAX_TEXT)


def room_for(frames: list[Frame]) -> int:
    """Returns how many bytes of JSON one of these frames may have."""
    return min(MAX_TEXT, max(SMALL_TEXT, MAX_RATIO * sum(frame.size for frame in frames)))


def pad(frames: bytearray) -> None:
    """Appends the padding of FORMAT.md."""
    n = len(frames) % 256
    frames += PADDING_MAGIC + n.to_bytes(4, "little") + random_bytes(n)


def pad_to_ratio(frames: bytearray, text: int) -> None:
    """Pads frames until `text` bytes of JSON in them are within the ratio: a file of zeros has a million equal
    blobs."""
    missing = -(-text // MAX_RATIO) - len(frames) if text > SMALL_TEXT else 0
    if missing > 0:
        frames += PADDING_MAGIC + missing.to_bytes(4, "little") + bytes(missing)

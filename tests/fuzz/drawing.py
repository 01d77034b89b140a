"""Bytes of a fuzzer become hostile things: names, numbers, JSON, zstd frames, entries, trailers.

The same bytes always give the same things, a change of one byte changes little, and bytes that are used up give zeros.
So a fuzzer that only knows bytes finds its way, and what it finds is kept as a file. The corpus was drawn with these
tables and in this order: where they change, what is kept means something else.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import zstandard

Thing = TypeVar("Thing")

# Numbers beside limits. None is between 64 MiB and 1 TiB: a restore may reserve room of such a size.
NUMBERS = (0, 1, -1, 2, 7, 255, 4096, 65_535, 65_536, 1 << 20, 1 << 40, (1 << 63) - 1, 1 << 63, 1 << 64, -(1 << 63))
NUMBERS += (-(1 << 63) - 1, 10**20, 10**400)
# Parts of names that mean something to a file system, a terminal, JSON or this harness.
PARTS = ("a", "b", "a.txt", "d", "link", "hard", "..", ".", "", "x" * 256, "é", "\udc80", "\ud800", "\0", "\n")
PARTS += ("\x1b[31m", "\u202e", "latest", "data", ".pogfast-x", "A" * 43 + "=", "*", "[", "\\", "outside")
PARTS += ("inside", "~", "-rf", "'")
TARGETS = ("a", "..", "../..", "../../outside", "../../outside/kept", "/", "/missing", "link", "", ".", "x" * 70_000)
MAX_BENT = 1 << 22  # bytes that something may get by being repeated
# Keys of entries and of trailers.
ENTRY_WORDS = ("size", "sizes", "stored", "mode", "uid", "gid", "user", "group", "mtime_ns", "atime_ns", "xattrs")
ENTRY_WORDS += ("sparse", "hardlink", "changed", "blobs", "atime", "mtime", "x")
FACTS_WORDS = ("mode", "uid", "gid", "user", "group", "mtime_ns", "atime_ns", "xattrs", "target")
TRAILER_WORDS = ("program", "time", "ended", "host", "user", "tags", "comment", "paths", "layout", "chunk_size")
TRAILER_WORDS += ("chunker", "level", "directories", "links", "fifos", "skipped", "unreadable", "changed")
TRAILER_WORDS += ("totals", "stored")
TEXTS = ("", "a", "root", "2026-01-02T03:04:05+00:00", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00")
TEXTS += ("fastcdc:1,2,3", "frames", "stream", "nobody", "AQID", "AA==", "A", "user.x", "security.capability")
TEXTS += ("system.posix_acl_access", "\x1b]0;x\x07", "\u202e", "\ud800", "\udcff", "\0", "9" * 5000)


class Raw(bytes):
    """JSON that is put in as it is."""


class Draw:
    """Takes things off the front of some bytes."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1] if self.at <= len(self.data) else 0

    def below(self, n: int) -> int:
        return self.byte() % n

    def pick(self, things: Sequence[Thing]) -> Thing:
        return things[self.below(len(things))]

    def few(self, most: int, make: Callable[[], Thing]) -> list[Thing]:
        return [make() for _ in range(self.below(most + 1))]

    def piece(self) -> bytes:
        """As many of the bytes as the first says."""
        n = self.byte()
        piece = self.data[self.at : self.at + n]
        self.at += n
        return piece

    def rest(self) -> bytes:
        rest = self.data[self.at :]
        self.at = len(self.data)
        return rest

    # ---- text and numbers ----

    def number(self) -> int:
        kind = self.byte()
        return NUMBERS[kind % len(NUMBERS)] if kind < 128 else kind - 160 if kind < 192 else kind << 8 | self.byte()

    def text(self) -> str:
        kind = self.byte()
        if kind < 128:
            return TEXTS[kind % len(TEXTS)]
        return self.piece().decode("utf-8", "surrogateescape" if kind % 2 else "replace")

    def name(self) -> str:
        """An archived name."""
        if self.below(16) == 15:
            return self.text()
        name = "/".join(self.few(4, lambda: self.pick(PARTS))) or self.pick(PARTS)
        return f"/{name}" if self.below(8) == 7 else name

    # ---- JSON ----

    def value(self, depth: int = 3) -> Any:
        """Any value, and some bytes that are none."""
        kind = self.below(12)
        if kind < 4:
            return self.number()
        if kind < 7:
            return self.text()
        if kind == 7:
            return self.pick((None, True, False, 0.5, -0.0, 1e300, *map(Raw, (b"NaN", b"-Infinity", b"1e999", b"-"))))
        if kind == 8:
            return Raw(self.piece())
        if depth == 0:
            return []
        if kind == 9:
            return {self.text(): self.value(depth - 1) for _ in range(self.below(4))}
        return self.few(4, lambda: self.value(depth - 1))

    def changed(self, facts: dict[str, Any], words: Sequence[str]) -> dict[str, Any]:
        """Some of the facts given other values, or none."""
        for _ in range(self.below(4)):
            word = self.pick(words)
            if self.below(8) == 0:
                facts.pop(word, None)
            else:
                facts[word] = self.value()
        return facts

    def facts(self) -> dict[str, Any]:
        """Of a directory, a link or a FIFO."""
        return self.changed({"mode": 0o755, "mtime_ns": 10**18, "target": self.pick(TARGETS)}, FACTS_WORDS)

    def section(self) -> Any:
        """One of a trailer."""
        return {self.name(): self.facts() for _ in range(self.below(4))} if self.below(8) else self.value()

    def trailer(self) -> Any:
        if self.below(16) == 15:
            return self.value()
        trailer: dict[str, Any] = {"program": "fuzz", "host": "h", "time": "2026-01-02T03:04:05+00:00"}
        for word in ("directories", "links", "fifos"):
            if self.below(2):
                trailer[word] = self.section()
        return self.changed(trailer, TRAILER_WORDS)

    # ---- zstd ----

    def frame(self, content: bytes) -> bytes:
        """A frame of some content, of this or that kind."""
        kind = self.below(4)
        compressor = zstandard.ZstdCompressor(level=1, write_checksum=kind == 1, write_content_size=kind < 2)
        if kind < 2:
            return compressor.compress(content)
        streaming = compressor.compressobj()
        return streaming.compress(content) + streaming.flush()

    def bent(self, data: bytes) -> bytes:
        """Bytes with some of them changed, left out or put in; most often as they are."""
        kind = self.below(12)
        at = (self.byte() << 8 | self.byte()) % (len(data) + 1) if kind >= 6 else 0
        if kind < 6:
            return data
        if kind < 8:
            return data[:at] + bytes([self.byte()]) + data[at + 1 :]
        if kind == 8:
            return data[:at]
        if kind == 9:
            return data[:at] + self.piece() + data[at:]
        if kind == 10:
            return data + b"\x50\x2a\x4d\x18" + self.below(4).to_bytes(4, "little") + self.piece()
        return (data * (1 + self.below(255)))[: max(len(data), MAX_BENT)]


def dumps(value: Any) -> bytes:
    """JSON, with Raw bytes put in and lone surrogates as the bytes that a careless writer makes of them."""
    if isinstance(value, Raw):
        return bytes(value)
    if isinstance(value, dict):
        return b"{" + b",".join(dumps(word) + b":" + dumps(each) for word, each in value.items()) + b"}"
    if isinstance(value, list):
        return b"[" + b",".join(map(dumps, value)) + b"]"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 1 << 64:
        return b"1" + b"0" * 400
    return json.dumps(value).encode()


def members(pairs: Sequence[tuple[str, Any]]) -> bytes:
    """A JSON object in which a name may stand twice."""
    return b"{" + b",".join(dumps(name) + b":" + dumps(value) for name, value in pairs) + b"}"

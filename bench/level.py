"""Compares pogfast's settings of zstd's level 3 with the plain level, on several kinds of data.

    python bench/level.py [--write] [--only tar,python,...] [--runs 5] [--scale 1] [--dir DIR]

Compresses chunks of 50 MB one after the other with the libzstd that pogfast uses, both ways in alternation, and reports
CPU time. Some kinds of data are taken from this machine, others are generated: lines of a log, a random walk of floats,
a database, a noisy picture. test_micro.py checks that the settings are those of `_Queue.tune` in ext/write/queue.pxi.
"""

from __future__ import annotations

import json
import mmap
import random
import sqlite3
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from data import files_below, usr_tar
from machine import make_tables
from zstandard._cffi import ffi, lib

CHUNK = 50_000_000
PIECE = 256 << 10  # bytes passed to zstd at a time
SIZE = 200_000_000  # maximum bytes of a kind
LEVEL, WINDOW, CHAIN, CHECKSUM, STABLE_IN, SPLITTER = 100, 101, 103, 201, 1006, 1017  # zstd.h
POG = {LEVEL: 3}
PLAIN = {LEVEL: 3, CHECKSUM: 1, STABLE_IN: 1}
OURS = {**PLAIN, WINDOW: 23, CHAIN: 14, SPLITTER: 1}


class Compressor:
    """Compresses chunks to frames with content size and checksum, piece by piece and without copying, as the engine
    does. zstandard's own compressor does not offer every setting."""

    def __init__(self, settings: dict[int, int]) -> None:
        self.context = ffi.gc(lib.ZSTD_createCCtx(), lib.ZSTD_freeCCtx)
        self.room = ffi.new("char[]", lib.ZSTD_compressBound(CHUNK))
        for setting, value in settings.items():
            lib.ZSTD_CCtx_setParameter(
                self.context, setting, value
            )  # a setting that this release does not know is ignored

    def compress(self, chunk: bytes | mmap.mmap, known: bool = True) -> memoryview:
        """Returns a frame, valid until the next call. Unless `known`, it has no content size, as pog makes it."""
        source, out = ffi.new("ZSTD_inBuffer *"), ffi.new("ZSTD_outBuffer *")
        held = ffi.from_buffer(chunk)
        source.src = held
        out.dst, out.size = self.room, len(self.room)
        if known:
            lib.ZSTD_CCtx_setPledgedSrcSize(self.context, len(chunk))
        for end in range(PIECE, len(chunk) + PIECE, PIECE):
            source.size = min(end, len(chunk))
            left = lib.ZSTD_compressStream2(self.context, out, source, lib.ZSTD_e_continue)
            assert not lib.ZSTD_isError(left)
        assert lib.ZSTD_compressStream2(self.context, out, source, lib.ZSTD_e_end) == 0
        return memoryview(ffi.buffer(self.room, out.pos))


# ---- kinds of data -------------------------------------------------------------------------------------------------


def below(*places: str, ends: tuple[str, ...]) -> Iterator[bytes]:
    """Yields the files below some directories whose names have this ending."""
    for place in places:
        for file in files_below(Path(place)):
            if file.name.endswith(ends):
                with file.open("rb") as opened:
                    yield from iter(lambda: opened.read(1 << 20), b"")


def log() -> Iterator[bytes]:
    source = random.Random(1)
    paths = [f"/api/v{source.randrange(3)}/{source.randbytes(4).hex()}" for _ in range(300)]
    for second in range(1_700_000_000, 1_800_000_000):
        line = {
            "at": second,
            "from": ".".join(str(source.randrange(256)) for _ in range(4)),
            "path": source.choice(paths),
        }
        line |= {"status": source.choice([200] * 9 + [404]), "ms": round(source.expovariate(0.01), 2)}
        yield json.dumps(line).encode() + b"\n"


def floats() -> Iterator[bytes]:
    source = np.random.default_rng(1)
    while True:
        yield np.cumsum(source.normal(size=1 << 20)).astype("f4").tobytes()


def picture() -> Iterator[bytes]:
    source = np.random.default_rng(1)
    across = np.cos(np.arange(6000) / 70) * 60
    for line in range(1 << 20):
        grey = across + np.sin(line / 50) * 60 + 128 + source.normal(0, 2, across.size)
        yield np.stack([grey, grey * 0.9, grey * 0.8], -1).clip(0, 255).astype("u1").tobytes()


def database(size: int) -> Iterator[bytes]:
    """Makes a database of about `size` bytes."""
    source = random.Random(1)
    base = sqlite3.connect(":memory:")
    base.execute("create table things (id integer primary key, name text, value real, mark blob)")
    rows = (
        ("".join(source.choices("etaoin shrdlu", k=source.randrange(5, 40))), source.random(), source.randbytes(8))
        for _ in range(size // 50)
    )
    base.executemany("insert into things (name, value, mark) values (?, ?, ?)", rows)
    yield base.serialize()


def begin(pieces: Iterator[bytes], size: int) -> bytes:
    data = bytearray()
    while len(data) < size and (piece := next(pieces, b"")):
        data += piece
    return bytes(data[:size])


CODE = (".so", ".so.0", ".so.1", ".so.6")
TEXT = (".h", ".html", ".txt", ".md", ".json", ".js", ".xml")
KINDS: dict[
    str, tuple[str, Callable[[int], Iterator[bytes]]]
] = {  # title, and pieces of at least so many bytes if the machine has them
    "tar": ("a tar of /usr", usr_tar),
    "python": ("Python's sources", lambda _: below(sysconfig.get_path("stdlib"), sys.prefix, ends=(".py",))),
    "code": ("shared libraries", lambda _: below("/usr/lib", sys.prefix, ends=CODE)),
    "text": ("headers and documents", lambda _: below("/usr/include", "/usr/share", ends=TEXT)),
    "log": ("lines of a log", lambda _: log()),
    "floats": ("a random walk of floats", lambda _: floats()),
    "database": ("a database", database),
    "picture": ("a noisy picture", lambda _: picture()),
}


# ---- the table -----------------------------------------------------------------------------------------------------


def measure(_: Path, kinds: list[str], runs: int, scale: float) -> str:
    lines = [
        "### Level 3 for chunks",
        "",
        "| | level 3: CPU s/GB | pogfast | ratio | level 3: bytes of 100 | pogfast | ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind in kinds:
        name, make = KINDS[kind]
        size = int(SIZE * scale)
        data = begin(make(size), size)
        chunks = [data[at : at + CHUNK] for at in range(0, len(data), CHUNK)]
        seconds, stored = compare(chunks, runs)
        a, b = (1e9 * best / len(data) for best in seconds)
        x, y = (100 * size / len(data) for size in stored)
        megabytes = f"{len(data) / 1e6:.0f} MB"
        lines.append(f"| {name}, {megabytes} | {a:.2f} | {b:.2f} | {b / a:.2f} | {x:.1f} | {y:.1f} | {y / x:.3f} |")
    return "\n".join(lines) + "\n"


def compare(chunks: list[bytes], runs: int) -> tuple[list[float], list[int]]:
    """Returns the best CPU seconds, and the compressed bytes, of both settings."""
    sides = [Compressor(settings) for settings in (PLAIN, OURS)]
    best, stored = [float("inf")] * 2, [0] * 2
    for _ in range(runs):
        for number, side in enumerate(sides):
            started = time.process_time()
            stored[number] = sum(len(side.compress(chunk)) for chunk in chunks)
            best[number] = min(best[number], max(time.process_time() - started, 1e-9))
    return best, stored


if __name__ == "__main__":
    make_tables(__doc__, "level", tuple(KINDS), measure)

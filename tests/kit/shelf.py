"""Files sealed in the `frames` layout into memory, and read by the oracle."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kit import oracle
from pogfast._engine import FilePart, Known, Sealed, Sealer

SECRET = bytes(range(32))
KEY = oracle.OracleKey(SECRET)
CHUNK = 600_000  # more than a small file may have, so that all three ways through the engine are tried


@dataclass
class Shelf:
    """A sink that keeps blobs in memory, and counts how often each came."""

    blobs: dict[str, bytes] = field(default_factory=dict)
    puts: int = 0

    def __call__(self, name: str, blob: memoryview) -> None:
        self.puts += 1
        self.blobs[name] = bytes(blob)


@dataclass
class Result:
    names: list[str] = field(default_factory=list)
    stored: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    plain_names: list[bytes] = field(default_factory=list)
    last: Sealed | None = None


def seal(
    source: Iterable[bytes | int | Known | FilePart | None], shelf: Shelf, chunk_size: int = CHUNK, **more: Any
) -> list[Result]:
    settings: dict[str, Any] = {"chunk_size": chunk_size, "level": 3, "jobs": 2, "frames": True, **more}
    sealer = Sealer(SECRET, False, source, [shelf], **settings)
    results: list[Result] = []
    for news in sealer.run():
        if news.file == len(results):
            results.append(Result())
        result = results[news.file]
        result.names += news.names
        result.stored += news.stored
        result.sizes += news.sizes
        result.plain_names += news.plain_names
        result.last = news
    assert all(result.last is not None and result.last.done for result in results)
    return results


def chunks(result: Result, shelf: Shelf) -> list[bytes]:
    return [oracle.chunk_of(KEY, KEY.open(shelf.blobs[name]), name) for name in result.names]


def content(result: Result, shelf: Shelf) -> bytes:
    return b"".join(oracle.decompress_all(chunk) for chunk in chunks(result, shelf))


def file_of(tmp_path: Path, data: bytes, name: str = "file") -> bytes:
    (tmp_path / name).write_bytes(data)
    return os.fsencode(tmp_path / name)


def text(size: int) -> bytes:
    """Compressible, and no two pieces of it are alike."""
    return b"".join(b"%d a line\n" % number for number in range(size // 10))[:size].ljust(size, b".")

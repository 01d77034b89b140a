"""Times the engine's kernels one at a time: `pytest bench/`, or with --benchmark-disable once each.

compare.py times whole commands; this shows which kernel is responsible. Random data, because they cost the ciphers and
the hash as much as any, and a text, because random data cost the compressor nothing. MB/s is size / the time shown.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from level import OURS, Compressor
from pytest_benchmark.fixture import BenchmarkFixture

from pogfast._engine import Sealer, blob_name, compress, decompress, open_blob, read_chunk, seal_blob

SECRET = bytes(range(32))
SIZES = {"64KB": 64_000, "4MB": 4_000_000}
CHUNK_SIZE = 100_000_000  # larger than all data: every blob is padded, as most are in practice


def text(size: int) -> bytes:
    """Returns lines that compress about as well as a log."""
    lines = (f"{number:08} {number * 2654435761 % 2**32:08x} GET /item/{number % 977} 200\n" for number in range(size))
    content = bytearray()
    while len(content) < size:
        content += next(lines).encode()
    return bytes(content[:size])


CONTENTS: dict[str, Callable[[int], bytes]] = {"random": os.urandom, "text": text}


@pytest.fixture(params=SIZES)
def size(request: pytest.FixtureRequest) -> int:
    return SIZES[request.param]


@pytest.fixture(params=CONTENTS)
def content(request: pytest.FixtureRequest, size: int) -> bytes:
    return CONTENTS[request.param](size)


@pytest.fixture
def chunk(size: int) -> bytes:
    return os.urandom(size)


def test_blob_name(benchmark: BenchmarkFixture, chunk: bytes) -> None:
    assert len(benchmark(blob_name, SECRET, chunk)) == 44


def test_seal_blob(benchmark: BenchmarkFixture, chunk: bytes) -> None:
    name, blob = benchmark(seal_blob, SECRET, False, chunk, CHUNK_SIZE)
    assert open_blob(SECRET, None, blob, name) == chunk


def test_open_blob(benchmark: BenchmarkFixture, chunk: bytes) -> None:
    name, blob = seal_blob(SECRET, False, chunk, CHUNK_SIZE)
    assert benchmark(open_blob, SECRET, None, blob, name) == chunk


def test_compress(benchmark: BenchmarkFixture, content: bytes) -> None:
    assert decompress(benchmark(compress, content)) == content


def test_decompress(benchmark: BenchmarkFixture, content: bytes) -> None:
    frame = compress(content)
    assert benchmark(decompress, frame) == content


def test_read_chunk(benchmark: BenchmarkFixture, content: bytes) -> None:
    """open_blob and decompress in one, with lengths checked: the cost of reading a part of an archive."""
    name, blob = seal_blob(SECRET, False, compress(content), CHUNK_SIZE)
    assert benchmark(read_chunk, SECRET, None, blob, name, len(content)) == content


def test_large_chunks_are_compressed_as_the_benches_do(tmp_path: Path) -> None:
    lines = text(5_000_000)
    # Its content changes within blocks, so that it matters where they end.
    chunk = b"".join(lines[at : at + 50_000] + os.urandom(25_000).hex().encode() for at in range(0, len(lines), 50_000))
    (tmp_path / "two").write_bytes(chunk * 2)
    blobs: list[bytes] = []
    sealer = Sealer(
        SECRET,
        False,
        [os.fsencode(tmp_path / "two")],
        [lambda name, blob: blobs.append(bytes(blob))],
        chunk_size=len(chunk),
        level=3,
        jobs=1,
        frames=True,
    )
    list(sealer.run())
    assert [bytes(open_blob(SECRET, None, blob)) for blob in blobs] == [bytes(Compressor(OURS).compress(chunk))]

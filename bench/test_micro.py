"""Micro-benchmarks of the kernels: `pytest bench`. Throughput is size / time; memory is warm."""

from __future__ import annotations

import os
from typing import Any

import pytest

from pogfast._engine import blob_name, compress, decompress, open_blob, seal_blob

SECRET = bytes(range(32))
SIZES = [pytest.param(64 << 10, id="64KiB"), pytest.param(4 << 20, id="4MiB")]


@pytest.mark.parametrize("size", SIZES)
def test_name(benchmark: Any, size: int) -> None:
    assert len(benchmark(blob_name, SECRET, os.urandom(size))) == 44


@pytest.mark.parametrize("size", SIZES)
def test_seal(benchmark: Any, size: int) -> None:
    name, blob = benchmark(seal_blob, SECRET, False, os.urandom(size), size)
    assert len(blob) == size + 112


@pytest.mark.parametrize("size", SIZES)
def test_open_and_check_the_name(benchmark: Any, size: int) -> None:
    chunk = os.urandom(size)
    name, blob = seal_blob(SECRET, False, chunk, size)
    assert benchmark(open_blob, SECRET, None, blob, name) == chunk


@pytest.mark.parametrize("size", SIZES)
def test_compress(benchmark: Any, size: int) -> None:
    data = os.urandom(size // 2) + bytes(size // 2)
    assert decompress(benchmark(compress, data)) == data


@pytest.mark.parametrize("size", SIZES)
def test_decompress(benchmark: Any, size: int) -> None:
    frame = compress(os.urandom(size // 2) + bytes(size // 2))
    assert len(benchmark(decompress, frame)) == size

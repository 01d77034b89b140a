"""Files that tests plant, damage and look at."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path


def plant_socket(path: Path) -> None:
    """A socket of this name, bound from within its directory: an address of one has at most 107 bytes."""
    with socket.socket(socket.AF_UNIX) as listening, contextlib.chdir(path.parent):
        listening.bind(path.name)


@contextlib.contextmanager
def opened(directory: Path) -> Iterator[int]:
    """Gives a descriptor of a directory, which is closed afterwards."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def text(length: int, seed: int = 0) -> bytes:
    """Bytes that compress, but are nowhere the same."""
    return b"".join(b"%09d\n" % number for number in range(seed, seed + length // 10 + 1))[:length]


def manifest_in(directory: Path) -> str:
    [found] = [name for name in os.listdir(directory) if name.endswith(".mfn")]
    return found


def restored(directory: Path) -> dict[str, bytes]:
    """The files that are neither blobs nor manifests."""
    return {
        str(file.relative_to(directory)): file.read_bytes()
        for file in sorted(directory.rglob("*"))
        if file.is_file() and not (file.name.endswith((".mfn", "=")) and file.parent == directory)
    }

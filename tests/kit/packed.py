"""Small stores with packs, in directories, and a look at what is in them."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

import pogfast
from pogfast import keys
from pogfast.stores import local
from pogfast.stores.packs import layout

KEYFILE = b"what is in the keyfile of these tests"
KEY = keys.Key("keyfile", hashlib.sha256(KEYFILE).digest())


def make_tree(root: Path, count: int = 300, seed: int = 16, size: int = 9000) -> Path:
    """Makes small files of random bytes in a few directories, one large and one empty file."""
    some = random.Random(seed)
    for number in range(count):
        file = root / f"d{number % 7}" / f"f{number}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(some.randbytes(some.randrange(1, size)))
    (root / "large").write_bytes(some.randbytes(5_000_000))
    (root / "empty").write_bytes(b"")
    return root


def make_files(root: Path, count: int, folders: int = 7) -> Path:
    """Makes small files of 4,000 to 9,000 random bytes, no two alike, and one of 3 MB: each is one blob."""
    some = random.Random(16)
    for number in range(count):
        file = root / f"d{number % folders}" / f"f{number}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(some.randbytes(some.randrange(4000, 9000)))
    (root / "large").write_bytes(some.randbytes(3_000_000))
    return root


def create(tree: Path, store: Path | str, packs: int | str | None = None, **more: Any) -> pogfast.backup.Summary:
    with pogfast.services(packs=packs):
        return pogfast.create([tree.name], str(store), KEY, directory=tree.parent, **more)


def packs_of(store: Path) -> list[Path]:
    return sorted(store.glob("packs/2*/*"))


def indexes_of(store: Path) -> list[Path]:
    return sorted(store.glob("packs/index/*"))


def plain_of(store: Path) -> list[Path]:
    return sorted(store.glob("data/*/*"))


def restored(store: Path | str, target: Path) -> dict[str, bytes]:
    """Restores the newest archive; returns the files by their paths."""
    shutil.rmtree(target, ignore_errors=True)
    summary = pogfast.restore(f"{store}/latest", KEY, into=str(target))
    assert not summary.problems, summary.problems
    return contents(target)


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def archived(tree: Path) -> dict[str, bytes]:
    """What `restored` returns if the tree comes back whole."""
    return {f"{tree.name}/{name}": data for name, data in contents(tree).items()}


def rows_of(pack: Path) -> list[layout.TableRow]:
    data = pack.read_bytes()
    return layout.read_table(data, len(data), "a pack")


def damage(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def make_unreadable(monkeypatch: pytest.MonkeyPatch, path: Path, at: int, code: int = errno.EIO) -> None:
    """From now on no byte of a file is read together with byte `at`, as if the disk had a bad sector there."""
    inode, read_at = path.stat().st_ino, local._read_at

    def read(file: int, start: int, size: int) -> bytearray:
        if os.fstat(file).st_ino == inode and start <= at < start + size:
            raise OSError(code, os.strerror(code))
        return read_at(file, start, size)

    monkeypatch.setattr(local, "_read_at", read)

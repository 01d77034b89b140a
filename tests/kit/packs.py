"""Makes packs and index objects, whole or broken, without the code that is tested: FORMAT.md, "Packs"."""

from __future__ import annotations

import base64
import hashlib
import struct
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import NamedTuple

DAY = 20260131


class Listed(NamedTuple):
    """A pack in an index object, and the rows of its table: raw name and length of each blob."""

    raw: bytes
    size: int
    rows: Sequence[tuple[bytes, int]]
    day: int = DAY


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def name_of(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode()


def raw_of(name: str) -> bytes:
    return base64.urlsafe_b64decode(name)


def make_table(blobs: Iterable[tuple[str, bytes]]) -> bytes:
    """Returns the rows of a table of blobs, each with its name."""
    return b"".join(raw_of(name) + struct.pack("<I", len(blob)) + sha256(blob)[:8] for name, blob in blobs)


def make_tail(table: bytes, *, count: int | None = None, version: int = 1, flags: int = 0) -> bytes:
    """Returns a table and its footer."""
    count = len(table) // 44 if count is None else count
    return table + sha256(table) + struct.pack("<IHH", count, version, flags) + b"pogpack1"


def make_pack(blobs: Sequence[tuple[str, bytes]]) -> bytes:
    """Returns a pack of blobs, each with its name."""
    return b"".join(blob for _, blob in blobs) + make_tail(make_table(blobs))


def listed(blobs: Sequence[tuple[str, bytes]], day: int = DAY) -> Listed:
    """Returns what an index object says about the pack of these blobs."""
    pack = make_pack(blobs)
    return Listed(sha256(pack), len(pack), [(raw_of(name), len(blob)) for name, blob in blobs], day)


def make_index(packs: Iterable[Listed], supersedes: Iterable[bytes] = (), *, bits: int | None = None) -> bytes:
    """Returns the index object of some packs that supersedes index objects of these raw names; with `bits` its fan-out
    has another size than it must have."""
    packs, old = sorted(packs), sorted(supersedes)
    rows = []
    for number, pack in enumerate(packs):
        offset = 0
        for raw, size in pack.rows:
            rows.append((raw, number, offset, size))
            offset += size
    rows.sort()
    names = [row[0] for row in rows]
    if bits is None:
        bits = next((b for b in range(17) if len(rows) <= 32 << b), 16)
    starts = [(slot << (256 - bits)).to_bytes(33, "big")[1:] for slot in range(1 << bits)]
    fan_out = [*(bisect_left(names, start) for start in starts), len(rows)]
    parts = [
        b"pogindx1" + struct.pack("<IIQII", 1, len(packs), len(rows), len(old), bits),
        *(pack.raw + struct.pack("<QII", pack.size, pack.day, 0) for pack in packs),
        *old,
        struct.pack(f"<{len(fan_out)}Q", *fan_out),
        *names,
        *(struct.pack(f"<{len(rows)}I", *(row[column] for row in rows)) for column in (1, 2, 3)),
    ]
    return b"".join(parts)

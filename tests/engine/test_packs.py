"""Packs in the engine: index objects, the Packer under a Sealer, and an Opener that reads packs of a directory."""

from __future__ import annotations

import base64
import bisect
import hashlib
import mmap
import os
import random
import struct
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from pogfast._engine import (
    PackIndex,
    Place,
    Row,
    build_index,
    build_plain_index,
    check_index,
    merge_indexes,
)

DAY = 20261130
HEADER, ROW, FOOTER = 32, 44, 48


def name_of(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode()


# ---- index objects ----


class Described(NamedTuple):
    """A pack as its table describes it."""

    raw: bytes
    blobs: list[tuple[bytes, int]]  # raw name, length

    @property
    def size(self) -> int:
        return sum(length for _, length in self.blobs) + ROW * len(self.blobs) + FOOTER

    @property
    def table(self) -> bytes:
        return b"".join(name + struct.pack("<I", length) + bytes(8) for name, length in self.blobs)


def described(seed: int, *counts: int) -> list[Described]:
    chance = random.Random(seed)
    return [
        Described(chance.randbytes(32), [(chance.randbytes(32), chance.randrange(1, 5000)) for _ in range(count)])
        for count in counts
    ]


def built(packs: Sequence[Described], supersedes: Sequence[bytes] = ()) -> bytearray:
    return build_index([(pack.raw, DAY, pack.size) for pack in packs], [pack.table for pack in packs], supersedes)


def by_hand(packs: Sequence[Described], supersedes: Sequence[bytes] = ()) -> bytes:
    """An index object, by FORMAT.md."""
    ordered = sorted(packs)
    rows = []
    for number, pack in enumerate(ordered):
        offset = 0
        for name, length in pack.blobs:
            rows.append((name, number, offset, length))
            offset += length
    rows.sort()
    bits = 0
    while bits < 16 and len(rows) > 32 << bits:
        bits += 1
    firsts = [int.from_bytes(row[0][:4], "big") >> (32 - bits) for row in rows]
    fans = [bisect.bisect_left(firsts, i) for i in range((1 << bits) + 1)]
    return b"".join(
        [
            struct.pack("<8sIIQII", b"pogindx1", 1, len(ordered), len(rows), len(supersedes), bits),
            *(pack.raw + struct.pack("<QII", pack.size, DAY, 0) for pack in ordered),
            *sorted(supersedes),
            struct.pack(f"<{len(fans)}Q", *fans),
            *(row[0] for row in rows),
            *(struct.pack(f"<{len(rows)}I", *column) for column in list(zip(*rows, strict=True))[1:]),
        ]
    )


def searched(*parts: tuple[bytes | bytearray | memoryview, bytes]) -> PackIndex:
    index = PackIndex()
    index.replace(parts)
    return index


@pytest.mark.parametrize("counts", [(1,), (32,), (33,), (7, 1, 500), (1500, 1500)])
def test_an_index_object_is_what_the_format_says(counts: tuple[int, ...]) -> None:
    packs = described(1, *counts)
    older = [bytes([i]) * 32 for i in (9, 1, 5)]
    assert built(packs, older) == by_hand(packs, older)
    assert built(packs[::-1], older[::-1]) == by_hand(packs, older)
    check_index(built(packs))


def test_every_blob_is_found() -> None:
    packs = described(2, 800, 20, 3)
    order = sorted(range(3), key=lambda i: packs[i].raw)
    index = searched((built(packs), b"\1\1\1"))
    names, places = [], []
    for i, pack in enumerate(packs):
        offset = 0
        for raw, length in pack.blobs:
            names.append(name_of(raw))
            places.append(Place(0, order.index(i), offset, length))
            offset += length
    assert [index.find(name) for name in names] == places
    assert index.find_many(names) == places
    assert [index.find_all(name) for name in names] == [[place] for place in places]
    strange = [name_of(hashlib.sha256(name.encode()).digest()) for name in names]
    assert index.find_many([*strange, names[5], *strange])[len(strange)] == places[5]
    assert not any(index.find(name) for name in strange)
    rows = index.rows(0, 0, 1 << 40)
    assert [row.name for row in rows] == sorted(names, key=base64.urlsafe_b64decode)
    assert {row.name: (0, row.pack, row.offset, row.size) for row in rows} == dict(zip(names, places, strict=True))
    assert index.rows(0, 10, 12) == rows[10:12]
    assert isinstance(rows[0], Row)
    with pytest.raises(IndexError):
        index.rows(1, 0, 1)
    with pytest.raises(ValueError, match="not a blob's name"):
        index.find("a")


def test_an_empty_index_finds_nothing() -> None:
    index = PackIndex()
    name = name_of(bytes(32))
    assert index.find(name) is None
    assert index.find_all(name) == []
    assert index.find_many([name]) == [None]
    index.replace([])
    assert index.find(name) is None
    index.replace([(build_index([], []), b"")])
    assert index.find(name) is None


def test_a_pack_that_is_there_comes_first() -> None:
    """A blob with four holders: packs that are absent (0), there (1), and there with another size (2)."""
    raw = hashlib.sha256(b"blob").digest()
    packs = [Described(bytes([i]) * 32, [(bytes([i]) * 32, 10 + i), (raw, 100)]) for i in range(4)]
    data, other = built(packs[:2]), built(packs[2:])
    name = name_of(raw)
    assert searched((data, b"\0\2"), (other, b"\2\1")).find(name) == Place(1, 1, 13, 100)
    assert searched((data, b"\0\2"), (other, b"\2\1")).find_many([name]) == [Place(1, 1, 13, 100)]
    assert searched((data, b"\1\1"), (other, b"\1\1")).find(name) == Place(0, 0, 10, 100)
    for states in (b"\0\2", b"\2\0"), (b"\0\2", b"\0\0"), (b"\2\2", b"\2\2"):
        index = searched((data, states[0]), (other, states[1]))
        place = index.find(name)
        assert place is not None
        assert (data, other)[place.part] is data
        assert index.find_many([name]) == [place]
    index = searched((data, b"\0\2"), (other, b"\2\1"))
    assert index.find_all(name) == [Place(0, 1, 11, 100), Place(1, 0, 12, 100), Place(1, 1, 13, 100)]
    assert searched((data, b"\0\0"), (other, b"\0\3")).find(name) is None


def test_a_blob_may_be_in_one_pack_twice() -> None:
    raw = bytes(range(32))
    pack = Described(bytes(32), [(raw, 5), (bytes(32), 1), (raw, 7)])
    data = built([pack])
    check_index(data)
    assert data == by_hand([pack])
    assert searched((data, b"\1")).find_all(name_of(raw)) == [Place(0, 0, 0, 5), Place(0, 0, 6, 7)]


def test_tables_that_do_not_match_their_packs_are_refused() -> None:
    pack = described(3, 5)[0]
    for packs, tables, said in (
        ([(pack.raw, DAY, pack.size + 1)], [pack.table], "not all that is in a pack"),
        ([(pack.raw, DAY, pack.size)], [pack.table[:-ROW]], "beyond its pack|not all"),
        ([(pack.raw, DAY, pack.size)], [pack.table[:-1]], "whole rows"),
        ([(pack.raw, DAY, pack.size)], [], "a table for each pack"),
        ([(pack.raw, DAY, pack.size)] * 2, [pack.table] * 2, "packs are not sorted"),
        ([(pack.raw, 20261330, pack.size)], [pack.table], "day"),
        ([(pack.raw, DAY, FOOTER)], [b""], "not all that is in a pack"),
        ([(pack.raw[:-1], DAY, pack.size)], [pack.table], "32"),
        ([(pack.raw, DAY, 1 << 32)], [(bytes(32) + struct.pack("<I", 0xFFFFFFFF) + bytes(8)) * 2], "longer|malformed"),
    ):
        with pytest.raises(ValueError, match=said):
            build_index(packs, tables)


def broken(data: bytearray, at: int, new: bytes) -> bytes:
    return bytes(data[:at]) + new + bytes(data[at + len(new) :])


def test_malformed_index_objects_are_refused() -> None:
    """Each byte that says how the object is divided, and every shorter or longer object."""
    data = built(described(4, 40, 3), [bytes([7]) * 32])
    check_index(data)
    fans = HEADER + 2 * 48 + 32
    for at in [*range(32), *range(fans, fans + 24)]:
        with pytest.raises(ValueError, match="index object"):
            searched((broken(data, at, bytes([data[at] ^ 0x55])), b"\1\1"))
    for size in [*range(0, len(data), 7), len(data) - 1]:
        with pytest.raises(ValueError, match="index object"):
            searched((data[:size], b"\1\1"))
    with pytest.raises(ValueError, match="length"):
        searched((data + b"\0", b"\1\1"))
    with pytest.raises(ValueError, match="states"):
        searched((data, b"\1"))
    huge = struct.pack("<8sIIQII", b"pogindx1", 1, 0xFFFFFFFF, (1 << 64) - 1, 0xFFFFFFFF, 16)
    with pytest.raises(ValueError, match="header"):
        searched((huge + bytes(100), b""))


def test_whatever_is_changed_is_noticed_or_harmless() -> None:
    """A byte anywhere: check_index refuses the object, or it is as good as before (a name, a day)."""
    packs = described(5, 30, 10)
    data = built(packs)
    names, rows = HEADER + 2 * 48 + 3 * 8, 40
    for at in range(len(data)):
        for bit in (1, 0x80):
            bad = broken(data, at, bytes([data[at] ^ bit]))
            try:
                check_index(bad)
            except ValueError:
                continue
            in_pack_row = (at - HEADER) % 48 < 32 or (at - HEADER) % 48 >= 40
            assert (HEADER <= at < HEADER + 96 and in_pack_row) or names <= at < names + 32 * rows, at


def test_spans_that_cannot_be_are_never_found() -> None:
    """Pack numbers and spans beyond their packs, also where the sum overflows 32 bits."""
    pack = described(6, 1)[0]
    data = built([pack])
    [(raw, length)] = pack.blobs
    name, columns = name_of(raw), len(data) - 12
    assert searched((data, b"\1")).find(name) == Place(0, 0, 0, length)
    for column, value in ((0, 1), (0, 0xFFFFFFFF), (4, 1), (4, 0xFFFFFFFF), (8, length + 1), (8, 0xFFFFFFFF)):
        index = searched((broken(data, columns + column, struct.pack("<I", value)), b"\1"))
        assert index.find(name) is None
        assert index.find_all(name) == []
        assert index.find_many([name]) == [None]
        with pytest.raises(ValueError, match="lies in no pack"):
            index.rows(0, 0, 1)
    for size in (0, length, length + ROW + FOOTER - 1, 1 << 32, (1 << 64) - 1):
        assert searched((broken(data, HEADER + 32, struct.pack("<Q", size)), b"\1")).find(name) is None


def test_rows_that_overlap_or_leave_gaps_are_refused() -> None:
    pack = Described(bytes(32), [(bytes([i]) * 32, 10) for i in range(4)])
    data = built([pack])
    offsets = len(data) - 2 * 16
    assert struct.unpack_from("<4I", data, offsets) == (0, 10, 20, 30)
    for wrong in ((0, 10, 20, 20), (0, 0, 20, 30), (0, 10, 21, 30), (10, 0, 20, 31), (5, 10, 20, 30)):
        with pytest.raises(ValueError, match=r"overlap|beyond"):
            check_index(broken(data, offsets, struct.pack("<4I", *wrong)))
    check_index(broken(data, offsets, struct.pack("<4I", 30, 20, 10, 0)))


def test_index_objects_merge() -> None:
    packs = described(7, 300, 1, 20, 50)
    one, other = built(packs[:3]), built(packs[1:])
    ordered = [sorted(packs[:3]), sorted(packs[1:])]

    def states(part: int, *there: int) -> bytes:
        return bytes(packs.index(pack) in there for pack in ordered[part])

    everything = [(one, states(0, 0, 1, 2)), (other, states(1, 1, 2, 3))]
    assert merge_indexes(everything, [bytes(32)]) == by_hand(packs, [bytes(32)])
    assert merge_indexes(everything[::-1], [bytes(32)]) == by_hand(packs, [bytes(32)])
    some = [(one, states(0, 0, 2)), (other, states(1, 1).replace(b"\0", b"\2"))]
    assert merge_indexes(some, []) == by_hand(packs[:3])
    assert merge_indexes([(one, b"\0\0\0")], []) == build_index([], [])
    bad = broken(one, len(one) - 4, b"\xff\xff\xff\xff")
    with pytest.raises(ValueError, match="beyond its pack"):
        merge_indexes([(bad, b"\1\1\1")], [])
    rows = 321
    bad = broken(one, len(one) - 8 * rows, struct.pack("<I", 3))  # an offset
    with pytest.raises(ValueError, match=r"overlap|beyond"):
        merge_indexes([(bad, b"\1\1\1")], [])


def test_a_plain_index_knows_lengths() -> None:
    blobs = [(name_of(random.Random(i).randbytes(32)), (i * 1_000_003) % (1 << 32)) for i in range(3000)]
    index = searched((build_plain_index(blobs), b"\1"))
    most = (1 << 32) - 1 - ROW - FOOTER
    for name, size in blobs:
        place = index.find(name)
        assert (place is None) == (size > most)
        assert place is None or place.size == size


def test_an_index_is_replaced_while_others_search() -> None:
    packs = described(8, 2000, 2000)
    parts = [(built([pack]), b"\1") for pack in packs]
    names = [name_of(raw) for raw, _ in packs[0].blobs]
    index = searched(*parts)
    over = threading.Event()

    def replace() -> None:
        while not over.is_set():
            index.replace(parts[::-1])
            index.replace(parts)

    thread = threading.Thread(target=replace)
    thread.start()
    try:
        for _ in range(50):
            assert all(index.find_many(names))
    finally:
        over.set()
        thread.join()


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """Ten index objects of 200,000 rows, together more than 64 MiB, and 2,000 of their names."""
    place = tmp_path_factory.mktemp("index")
    names = []
    for number in range(10):
        tables = []
        for _ in range(20):
            table = bytearray(os.urandom(ROW * 10_000))
            for i, byte in enumerate((100, 0, 0, 0)):
                table[32 + i :: ROW] = bytes([byte]) * 10_000
            tables.append(table)
        packs = [(os.urandom(32), DAY, (100 + ROW) * 10_000 + FOOTER) for _ in tables]
        (place / str(number)).write_bytes(build_index(packs, tables))
        names += [name_of(bytes(table[:32])) for table in tables for _ in range(10)]
    return place, names


@pytest.mark.parametrize("mapped", [True, False])
def test_memory_that_is_taken_away_comes_back(large: tuple[Path, list[str]], mapped: bool) -> None:
    """Look-ups in large index objects, whether they are mapped files, which are forgotten, or bytes, which are not."""
    place, names = large
    parts: list[tuple[bytes | memoryview, bytes]] = []
    for number in range(10):
        with open(place / str(number), "rb") as file:
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)) if mapped else file.read()
        check_index(data)
        parts.append((data, b"\1" * 20))
    index = searched(*parts)
    for _ in range(4):
        assert all(index.find(name) for name in names)
    found = index.find_many(names)
    assert found == [index.find(name) for name in names]
    assert [place.part for place in found if place] == [number for number in range(10) for _ in range(200)]
    assert len(index.rows(3, 0, 100_000)) == 100_000

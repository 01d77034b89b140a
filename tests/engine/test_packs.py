"""Packs in the engine: index objects, the Packer under a Sealer, and an Opener that reads packs of a directory."""

from __future__ import annotations

import base64
import bisect
import contextlib
import errno
import gc
import hashlib
import itertools
import mmap
import os
import random
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from pickle import PickleBuffer
from typing import Any, ClassVar, NamedTuple

import pytest

from kit import oracle
from kit.files import flip, opened
from pogfast._engine import (
    VERDICT,
    BlobDirectory,
    IndexFile,
    Opened,
    Opener,
    Pack,
    Packer,
    PackIndex,
    Place,
    Row,
    Sealer,
    Wanted,
    build_index,
    build_plain_index,
    check_index,
    merge_indexes,
)
from pogfast.errors import StoreError
from pogfast.stores import protocols, traffic
from pogfast.stores.concurrency import Concurrency

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


def searched(*parts: tuple[bytes | bytearray | memoryview | IndexFile, bytes]) -> PackIndex:
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
        ([(pack.raw, DAY, ROW + FOOTER)], [bytes(ROW)], "beyond its pack"),
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
    for column, value in ((0, 1), (0, 0xFFFFFFFF), (4, 1), (4, 0xFFFFFFFF), (8, length + 1), (8, 0), (8, 0xFFFFFFFF)):
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
    blobs = [(name_of(random.Random(i).randbytes(32)), (i * 1_000_003) % (1 << 32)) for i in range(1, 3000)]
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


@pytest.mark.parametrize("in_file", [True, False])
def test_several_large_index_objects(large: tuple[Path, list[str]], in_file: bool) -> None:
    place, names = large
    parts: list[tuple[bytes | IndexFile, bytes]] = []
    for number in range(10):
        data = (place / str(number)).read_bytes()
        check_index(data)
        parts.append((index_file(place / str(number)) if in_file else data, b"\1" * 20))
    index = searched(*parts)
    for _ in range(4):
        assert all(index.find(name) for name in names)
    found = index.find_many(names)
    assert found == [index.find(name) for name in names]
    assert [place.part for place in found if place] == [number for number in range(10) for _ in range(200)]
    assert len(index.rows(3, 0, 100_000)) == 100_000


# ---- index objects in files ----


def index_file(path: Path) -> IndexFile:
    with open(path, "rb") as file:
        return IndexFile(file.fileno())


def written(path: Path, data: bytes | bytearray) -> IndexFile:
    path.write_bytes(data)
    return index_file(path)


def near(name: str) -> str:
    """Another name, of which all but the last byte are the same."""
    raw = base64.urlsafe_b64decode(name)
    return name_of(raw[:31] + bytes([raw[31] ^ 1]))


@pytest.fixture(scope="module")
def held() -> list[Described]:
    """20 packs of 10,000 blobs each; packs 3, 9 and 15 have the first 500 in common, and pack 15 has these twice."""
    packs = described(16, *[10_000] * 20)
    shared = packs[3].blobs[:500]
    packs[9] = Described(packs[9].raw, packs[9].blobs[:-500] + shared)
    packs[15] = Described(packs[15].raw, shared + packs[15].blobs[1000:] + shared)
    return packs


@pytest.fixture(scope="module")
def held_data(held: list[Described]) -> bytearray:
    return built(held)


def places_in(packs: Sequence[Described]) -> dict[str, list[Place]]:
    """Where each blob lies in the index object of these packs."""
    found: dict[str, list[Place]] = {}
    for number, pack in enumerate(sorted(packs)):
        offset = 0
        for raw, length in pack.blobs:
            found.setdefault(name_of(raw), []).append(Place(0, number, offset, length))
            offset += length
    return found


def test_a_file_says_what_its_index_object_does(held: list[Described], held_data: bytearray, tmp_path: Path) -> None:
    file = written(tmp_path / "index", held_data)
    places = places_in(held)
    names = list(places)
    assert len(file) == len(held_data)
    assert file.read() == held_data
    assert held_data.startswith(file.beginning)
    assert len(held_data) - len(file.beginning) == 200_000 * ROW
    index = searched((file, b"\1" * 20))
    assert sorted(set(map(len, places.values()))) == [1, 4]
    assert [index.find_all(name) for name in names] == list(places.values())
    assert [index.find(name) for name in names] == [found[0] for found in places.values()]
    assert index.find_many(names) == [found[0] for found in places.values()]
    assert not any(index.find(near(name)) for name in names)
    assert not any(index.find_many(list(map(near, names))))
    assert not any(index.find_all(near(name)) for name in names)
    strange = [name_of(hashlib.sha256(name.encode()).digest()) for name in names[:50_000]]
    assert not any(index.find(name) for name in strange)
    assert not any(index.find_many(strange))


def test_rows_of_a_file(held_data: bytearray, tmp_path: Path) -> None:
    index = searched((written(tmp_path / "index", held_data), b"\1" * 20))
    rows = searched((held_data, b"\1" * 20)).rows(0, 0, 1 << 40)
    assert len(rows) == 200_000
    for start, stop in ((0, 1 << 40), (0, 1), (77_777, 99_999), (199_999, 200_001), (200_000, 200_001), (-5, 3)):
        assert index.rows(0, start, stop) == rows[max(start, 0) : stop]


def test_a_file_prefers_packs_that_are_there(held: list[Described], held_data: bytearray, tmp_path: Path) -> None:
    """Of four rows with the same name in one index object, and of two index objects."""
    file = written(tmp_path / "index", held_data)
    name = name_of(held[3].blobs[0][0])
    places = places_in(held)[name]
    numbers = sorted({place.pack for place in places})
    for there in numbers:
        states = bytes(1 if number == there else 2 if number in numbers else 0 for number in range(20))
        wanted = next(place for place in places if place.pack == there)
        assert searched((file, states)).find(name) == wanted
        assert searched((file, states)).find_many([name]) == [wanted]
        other = searched((file, states.replace(b"\1", b"\0")), (file, states))
        assert other.find(name) == wanted._replace(part=1)
        assert other.find_many([name]) == [wanted._replace(part=1)]
    assert searched((file, bytes(20))).find_all(name) == []


@pytest.mark.parametrize("counts", [(1,), (32,), (33,), (7, 1, 500), (1500, 1500)])
def test_a_small_file(counts: tuple[int, ...], tmp_path: Path) -> None:
    """Its fan-out counts few bits of a name, or none."""
    packs = described(17, *counts)
    index = searched((written(tmp_path / "index", built(packs)), bytes([1]) * len(packs)))
    places = places_in(packs)
    assert [index.find_all(name) for name in places] == list(places.values())
    assert not any(index.find(near(name)) for name in places)
    assert [row.name for row in index.rows(0, 0, 3000)] == sorted(places, key=base64.urlsafe_b64decode)


def test_a_file_without_rows(tmp_path: Path) -> None:
    index = searched((written(tmp_path / "index", build_index([], [])), b""))
    assert index.find(name_of(bytes(32))) is None
    assert index.rows(0, 0, 10) == []


def test_a_file_that_becomes_shorter_has_no_rows_there(
    held: list[Described], held_data: bytearray, tmp_path: Path
) -> None:
    """Wherever it ends: among the names, the pack numbers, the offsets, the lengths."""
    path = tmp_path / "index"
    names = list(places_in(held))[::50]
    beginning = len(written(path, held_data).beginning)
    for size in (0, beginning, beginning + 32 * 200_000, beginning + 36 * 200_000, beginning + 40 * 200_000):
        file = written(path, held_data)
        index = searched((file, b"\1" * 20))
        assert all(index.find_many(names))
        os.truncate(path, size)
        assert not any(index.find(name) for name in names)
        assert not any(index.find_many(names))
        assert not any(index.find_all(name) for name in names)
        assert file.failed
        with pytest.raises(OSError, match="cannot be read"):
            index.rows(0, 0, 1)
        with pytest.raises(OSError, match="cannot be read"):
            file.read()
    file = written(path, held_data)
    index = searched((file, b"\1" * 20))
    row = index.rows(0, 1000, 1001)[0]
    os.truncate(path, beginning + 40 * 200_000 + 4 * 1001)
    assert index.find(row.name) == Place(0, *row[1:])
    assert index.rows(0, 1000, 1001) == [row]
    assert not file.failed
    with pytest.raises(OSError, match="cannot be read"):
        index.rows(0, 1000, 1002)
    assert file.failed
    file = written(path, held_data)
    os.truncate(path, beginning)
    with pytest.raises(OSError, match="cannot be read"):
        file.read()
    assert file.failed


def test_a_file_that_changes_is_not_believed(held: list[Described], held_data: bytearray, tmp_path: Path) -> None:
    """Random rows, and packs that are none: whatever is found then lies in a pack, and nothing is read elsewhere."""
    path = tmp_path / "index"
    index = searched((written(path, held_data), b"\1" * 20))
    names = list(places_in(held))[::20]
    beginning = len(held_data) - ROW * 200_000
    sizes = [pack.size for pack in sorted(held)]
    chance = random.Random(18)
    with open(path, "r+b") as file:
        for start, width in ((40, 4), (36, 8), (32, 12), (0, ROW)):
            file.seek(beginning + start * 200_000)
            file.write(chance.randbytes(width * 200_000))
            file.flush()
            for place in filter(None, [*map(index.find, names), *index.find_many(names)]):
                assert place.offset + place.size + ROW + FOOTER <= sizes[place.pack]
    assert not any(index.find_many(names))


def test_malformed_files_are_refused(tmp_path: Path) -> None:
    data = built(described(4, 40, 3), [bytes([7]) * 32])
    path = tmp_path / "index"
    fans = HEADER + 2 * 48 + 32
    for at in [*range(32), *range(fans, fans + 24)]:
        with pytest.raises(ValueError, match="index object"):
            written(path, broken(data, at, bytes([data[at] ^ 0x55])))
    for size in [*range(0, len(data), 7), len(data) - 1]:
        with pytest.raises(ValueError, match="index object"):
            written(path, data[:size])
    with pytest.raises(ValueError, match="length"):
        written(path, data + b"\0")
    with pytest.raises(ValueError, match="states"):
        searched((written(path, data), b"\1"))
    with pytest.raises(OSError, match=r"."):
        IndexFile(-1)
    before = len(os.listdir("/dev/fd"))
    with pytest.raises(ValueError, match="length"):
        written(path, data + b"\0")
    file = written(path, data)
    assert len(os.listdir("/dev/fd")) == before + 1
    del file
    assert len(os.listdir("/dev/fd")) == before


def test_files_are_replaced_while_others_search(held: list[Described], held_data: bytearray, tmp_path: Path) -> None:
    index = searched((written(tmp_path / "index", held_data), b"\1" * 20))
    names = list(places_in(held))[::20]
    over = threading.Event()

    def replace() -> None:
        while not over.is_set():
            index.replace([(index_file(tmp_path / "index"), b"\1" * 20)])
            over.wait(0.01)

    thread = threading.Thread(target=replace)
    thread.start()
    try:
        for _ in range(20):
            assert all(index.find_many(names))
            assert all(map(index.find, names))
            assert all(map(index.find_all, names[:1000]))
            assert len(index.rows(0, 0, 5000)) == 5000
    finally:
        over.set()
        thread.join()


def test_what_was_replaced_is_freed(tmp_path: Path) -> None:
    """A run of weeks replaces index objects again and again; each in a file has a descriptor."""
    data = built(described(19, 100))
    index = PackIndex()
    before = len(os.listdir("/dev/fd"))
    for number in range(20):
        index.replace([(written(tmp_path / str(number % 2), data), b"\1")])
        assert len(index.rows(0, 0, 1000)) == 100
        index.find_many([name_of(bytes(32))])
        index.find_all(name_of(bytes(32)))
        index.find(name_of(bytes(32)))
        with contextlib.suppress(IndexError):
            index.rows(1, 0, 1)
        assert len(os.listdir("/dev/fd")) == before + 1


def test_an_error_names_the_row_of_a_file(tmp_path: Path) -> None:
    data = built(described(20, 100))
    bad = broken(data, len(data) - 4 * 30, bytes(4))  # a length of row 70
    for part in (bad, written(tmp_path / "index", bad)):
        with pytest.raises(ValueError, match="its row 70 lies"):
            searched((part, b"\1")).rows(0, 50, 100)


@pytest.mark.parametrize("states", [b"\1", b"\2"])
def test_searches_of_engines_end(directory_at: DirectoryAt, tmp_path: Path, states: bytes) -> None:
    """What a Sealer and an Opener have searched is freed when it is replaced, whatever came of the search."""
    path = tmp_path / "file"
    path.write_bytes(b"content")
    put, blobs, index = Packs(), directory_at(tmp_path / "store"), PackIndex()
    packer = Packer(blobs, index, put, size=SIZE, limit=LIMIT)
    [names], _ = seal([path], [packer])
    packer.flush()
    put.write(tmp_path / "store")
    pack = tmp_path / "store" / "packs" / "2026-11-30" / name_of(put.packs[0].raw)
    before = len(os.listdir("/dev/fd"))
    blobs.read_packs(index)

    def replace() -> int:
        index.replace([(written(tmp_path / "index", put.index()), states)])
        return len(os.listdir("/dev/fd")) - before

    wanted = [Wanted(-1, b"", names, None, 7, 0, 0), Wanted(-1, b"", [name_of(bytes(32))], None, 7, 0, 0)]
    for damage in (lambda: None, lambda: flip(pack, 5), lambda: os.truncate(pack, 5), pack.unlink):
        damage()
        assert replace() == 1
        seal([path], [packer])
        packer.holds(name_of(bytes(32)))
        assert replace() == 1
        list(Opener(SECRET, None, False, wanted, blobs, jobs=1).run())
    assert replace() == 1


# ---- packs, made by a Packer ----

SECRET = bytes(range(32))
KEY = oracle.OracleKey(SECRET)
SIZE, LIMIT = 64 << 10, 8 << 10
DirectoryAt = Callable[..., BlobDirectory]
STEP = 1 << 20  # write/writer.pxi: bytes that are worth a write of a large blob


class Read(NamedTuple):
    """A pack, read by FORMAT.md."""

    blobs: list[tuple[str, bytes]]
    data: bytes

    @property
    def table(self) -> bytes:
        return self.data[-FOOTER - ROW * len(self.blobs) : -FOOTER]

    @property
    def raw(self) -> bytes:
        return hashlib.sha256(self.data).digest()


def read_pack(view: memoryview) -> Read:
    data = bytes(view)
    digest, count, version, flags, magic = struct.unpack("<32sIHH8s", data[-FOOTER:])
    assert (version, flags, magic) == (1, 0, b"pogpack1")
    table = data[-FOOTER - ROW * count : -FOOTER]
    assert digest == hashlib.sha256(table).digest()
    blobs, at = [], 0
    for raw, length, check in struct.iter_unpack("<32sI8s", table):
        blobs.append((name_of(raw), data[at : at + length]))
        assert hashlib.sha256(blobs[-1][1]).digest()[:8] == check
        at += length
    assert at + ROW * count + FOOTER == len(data)
    return Read(blobs, data)


class Packs:
    """What `put` gets. Packs are read at once, since their memory is used again."""

    def __init__(self) -> None:
        self.packs: list[Read] = []

    def __call__(self, pack: Pack) -> None:
        read = read_pack(memoryview(pack))
        assert (pack.blobs, pack.table) == (len(read.blobs), read.table)
        self.packs.append(read)

    @property
    def blobs(self) -> dict[str, bytes]:
        return {name: blob for pack in self.packs for name, blob in pack.blobs}

    def index(self) -> bytearray:
        return build_index(
            [(pack.raw, DAY, len(pack.data)) for pack in self.packs], [pack.table for pack in self.packs]
        )

    def write(self, store: Path) -> None:
        folder = store / "packs" / "2026-11-30"
        folder.mkdir(parents=True, exist_ok=True)
        for pack in self.packs:
            (folder / name_of(pack.raw)).write_bytes(pack.data)


def ones(packs: Packs) -> bytes:
    return b"\1" * len(packs.packs)


@pytest.fixture
def tree(tmp_path: Path) -> dict[Path, bytes]:
    """Files of many lengths around the limit, most of them small, and one that has several chunks."""
    chance = random.Random(11)
    (tmp_path / "tree").mkdir()
    sizes = [0, 1, LIMIT - 200, LIMIT, LIMIT + 1, 3 * STEP + 5, *(chance.randrange(1, LIMIT // 2) for _ in range(300))]
    files = {tmp_path / "tree" / str(i): chance.randbytes(size) for i, size in enumerate(sizes)}
    for path, content in files.items():
        path.write_bytes(content)
    return files


def seal(
    source: Iterable[Path], sinks: Sequence[Any], *, jobs: int = 4, frames: bool = True, chunk_size: int = 2 * STEP
) -> tuple[list[list[str]], Sealer]:
    paths = [os.fsencode(path) for path in source]
    sealer = Sealer(SECRET, False, paths, sinks, chunk_size=chunk_size, level=1, jobs=jobs, frames=frames)
    names: list[list[str]] = [[] for _ in paths]
    with contextlib.closing(sealer.run()) as run:
        for news in run:
            names[news.file] += news.names
    return names, sealer


def assert_opens(names: list[list[str]], blobs: dict[str, bytes], files: dict[Path, bytes]) -> None:
    for file_names, content in zip(names, files.values(), strict=True):
        assert b"".join(oracle.open_file(KEY, [blobs[name]]) for name in file_names) == content


@pytest.fixture
def directory_at() -> Iterator[DirectoryAt]:
    """Opens a directory for blobs, or a file that is none."""
    with contextlib.ExitStack() as stack:

        def open_(place: Path, path: str = "") -> BlobDirectory:
            if not place.exists():
                place.mkdir()
            return BlobDirectory(stack.enter_context(opened(place)), True, path=path or str(place))

        yield open_


def files_in(store: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (store / "data").rglob("*") if path.is_file()}


@pytest.mark.parametrize("under", ["directory", "function"])
@pytest.mark.parametrize("jobs", [1, 4])
def test_small_blobs_are_packed_and_large_ones_passed_on(
    directory_at: DirectoryAt, tmp_path: Path, tree: dict[Path, bytes], jobs: int, under: str
) -> None:
    put, kept = Packs(), {}
    function = lambda name, view: kept.update({name: bytes(view)})  # noqa: E731
    sink = directory_at(tmp_path / "store") if under == "directory" else function
    packer = Packer(sink, PackIndex(), put, size=SIZE, limit=LIMIT)
    names, _ = seal(tree, [packer], jobs=jobs)
    assert all(sum(len(blob) for _, blob in pack.blobs) >= SIZE for pack in put.packs)
    assert all(sum(len(blob) for _, blob in pack.blobs[:-1]) < SIZE for pack in put.packs)
    before = len(put.packs)
    idle = packer.idle()
    assert idle is not None
    assert 0 <= idle < 60
    packer.flush()
    packer.flush()
    assert packer.idle() is None
    assert len(put.packs) == before + 1 > 5
    large = kept if under == "function" else files_in(tmp_path / "store")
    assert all(len(blob) <= LIMIT for blob in put.blobs.values())
    assert all(len(blob) > LIMIT for blob in large.values())
    assert len(large) == 4  # two files that are longer with their headers, and two chunks
    assert_opens(names, put.blobs | large, tree)
    if jobs == 1:
        order = [name for pack in put.packs for name, _ in pack.blobs]
        small = [name for [name, *rest] in names if not rest and name in put.blobs]
        assert order == small


@pytest.mark.parametrize("frames", [True, False], ids=["frames", "stream"])
@pytest.mark.parametrize("limit", [0, STEP + STEP // 2, 3 * STEP, 30 * STEP])
def test_a_blob_with_a_draft_is_never_packed(
    directory_at: DirectoryAt, tmp_path: Path, limit: int, frames: bool
) -> None:
    """Chunks of two and three MiB, on both sides of the limit, with plain sinks beside the packed ones."""
    files = {}
    largest = 24 if limit > 16 * STEP else 5  # memory beyond 16 MiB is given back once it is written
    for i, size in enumerate((STEP, 2 * STEP - 4000, largest * STEP, 20)):
        files[tmp_path / str(i)] = os.urandom(size)
    for path, content in files.items():
        path.write_bytes(content)
    for number, (chunk_size, mixed) in enumerate(itertools.product((2 * STEP, 32 * STEP), (True, False))):
        put, other, kept = Packs(), Packs(), {}
        function = lambda name, view, kept=kept: kept.update({name: bytes(view)})  # noqa: E731
        one, two, three = (directory_at(tmp_path / f"{name}{number}") for name in ("one", "two", "three"))
        packer = Packer(one, PackIndex(), put, size=8 * STEP, limit=limit)
        other_packer = Packer(two, PackIndex(), other, size=SIZE, limit=LIMIT)
        sinks = [packer, three, function, other_packer] if mixed else [packer, other_packer]
        names, _ = seal(files, sinks, frames=frames, chunk_size=chunk_size, jobs=2)
        packer.flush()
        other_packer.flush()
        assert all(len(blob) <= limit for blob in put.blobs.values())
        assert all(len(blob) <= LIMIT for blob in other.blobs.values())
        packed = put.blobs | files_in(tmp_path / f"one{number}")
        assert packed == other.blobs | files_in(tmp_path / f"two{number}")
        if mixed:
            assert packed == kept == files_in(tmp_path / f"three{number}")
        if frames:
            assert_opens(names, packed, files)
        else:
            opens = [oracle.open_file(KEY, [packed[name] for name in file_names]) for file_names in names]
            assert opens == list(files.values())


def test_packed_and_plain_sinks_get_the_same_blobs(
    directory_at: DirectoryAt, tmp_path: Path, tree: dict[Path, bytes]
) -> None:
    put, other, kept = Packs(), Packs(), {}
    packers = [
        Packer(directory_at(tmp_path / "one"), PackIndex(), put, size=SIZE, limit=LIMIT),
        Packer(
            lambda name, view: kept.update({name: bytes(view)}), PackIndex(), other, size=SIZE // 3, limit=LIMIT // 2
        ),
    ]
    names, _ = seal(tree, [packers[0], directory_at(tmp_path / "two"), packers[1]])
    for packer in packers:
        packer.flush()
    everything = put.blobs | files_in(tmp_path / "one")
    assert everything == other.blobs | kept == files_in(tmp_path / "two")
    assert_opens(names, everything, tree)


def test_what_packs_have_is_not_stored_again(
    directory_at: DirectoryAt, tmp_path: Path, tree: dict[Path, bytes]
) -> None:
    put, again = Packs(), Packs()
    store = directory_at(tmp_path / "store")
    packer = Packer(store, PackIndex(), put, size=SIZE, limit=LIMIT)
    names, sealer = seal(tree, [packer])
    packer.flush()
    new = sealer.progress().blobs_new
    index = PackIndex()
    index.replace([(put.index(), ones(put))])
    second = Packer(store, index, again, size=SIZE, limit=LIMIT)
    assert all(second.holds(name) == len(blob) for name, blob in (put.blobs | files_in(tmp_path / "store")).items())
    assert second.holds(name_of(bytes(32))) is None
    found, sealer = seal(tree, [second])
    assert found == names
    assert (sealer.progress().blobs_new, sealer.progress().blobs_known) == (0, new)
    second.flush()
    assert again.packs == []
    doubted = [name for name, _ in put.packs[0].blobs]
    second.doubt(doubted)
    assert second.holds(doubted[0]) is None
    seal(tree, [second])
    second.flush()
    assert sorted(again.blobs) == sorted(doubted)
    index.replace([(put.index(), ones(put)[:-1] + b"\2")])  # of another size: not relied on
    second.doubt([])
    assert second.holds(doubted[0]) in (None, len(put.blobs[doubted[0]]))
    assert [second.holds(row.name) for row in index.rows(0, 0, 1 << 30)].count(None) > 0


def test_a_blob_of_another_size_does_not_count(tmp_path: Path) -> None:
    """An index that says a wrong length for a blob: it is stored."""
    path = tmp_path / "file"
    path.write_bytes(b"content")
    put = Packs()
    packer = Packer(lambda name, view: None, PackIndex(), put, size=SIZE, limit=LIMIT)
    [[name]], _ = seal([path], [packer])
    packer.flush()
    [blob] = put.blobs.values()
    wrong = Described(bytes(32), [(base64.urlsafe_b64decode(name), len(blob) + 7)])
    right = Described(bytes(31) + b"1", [(base64.urlsafe_b64decode(name), len(blob))])
    for packs, stored in (([wrong], 1), ([right], 0), ([wrong, right], 0)):
        index = searched((built(packs), b"\1" * len(packs)))
        again = Packs()
        packer = Packer(lambda name, view: None, index, again, size=SIZE, limit=LIMIT)
        seal([path], [packer])
        packer.flush()
        assert len(again.packs) == stored


def test_a_plain_index_is_asked_in_place_of_the_sink(tmp_path: Path, tree: dict[Path, bytes]) -> None:
    class Asked:
        def __init__(self) -> None:
            self.blobs: dict[str, bytes] = {}
            self.asked = 0

        def __call__(self, name: str, view: memoryview) -> None:
            self.blobs[name] = bytes(view)

        def holds(self, name: str) -> int | None:
            self.asked += 1
            return len(self.blobs[name]) if name in self.blobs else None

    sink, put = Asked(), Packs()
    names, _ = seal(tree, [Packer(sink, PackIndex(), put, size=SIZE, limit=0)])
    assert put.packs == []
    assert sink.asked > 0
    assert_opens(names, sink.blobs, tree)
    again = Packer(sink, PackIndex(), put, size=SIZE, limit=LIMIT)
    assert all(again.holds(name) == len(blob) for name, blob in sink.blobs.items())
    seal(tree, [again])
    again.flush()
    assert put.packs == []
    sink.asked = 0
    some = dict(list(sink.blobs.items())[: len(sink.blobs) // 2])
    plain = searched((build_plain_index([(name, len(blob)) for name, blob in some.items()]), b"\1"))
    packer = Packer(sink, PackIndex(), put, size=SIZE, limit=1 << 30, plain=plain)
    seal(tree, [packer])
    packer.flush()
    assert put.blobs.keys() == sink.blobs.keys() - some.keys()
    assert sink.asked == 0
    assert all(packer.holds(name) == len(blob) for name, blob in sink.blobs.items())
    empty = searched((build_plain_index([]), b"\1"))
    packer = Packer(sink, PackIndex(), put, size=SIZE, limit=LIMIT, plain=empty)
    sink.asked, before = 0, dict(sink.blobs)
    seal(tree, [packer])
    assert sink.asked == sum(len(blob) > LIMIT for blob in before.values())
    assert sink.blobs == before


@pytest.mark.parametrize("error", [StoreError("no space"), OSError(28, "no space"), ZeroDivisionError("oops")])
def test_a_put_that_raises_loses_the_sink(
    directory_at: DirectoryAt, tmp_path: Path, tree: dict[Path, bytes], error: Exception
) -> None:
    def put(pack: Pack) -> None:
        raise error

    bad = Packer(directory_at(tmp_path / "bad"), PackIndex(), put, size=SIZE, limit=LIMIT)
    good = Packs()
    packer = Packer(directory_at(tmp_path / "good"), PackIndex(), good, size=SIZE, limit=LIMIT)
    if isinstance(error, ZeroDivisionError):
        with pytest.raises(ZeroDivisionError):
            seal(tree, [bad, packer])
    else:
        names, sealer = seal(tree, [bad, packer])
        assert sealer.lost == {0: error}
        packer.flush()
        assert_opens(names, good.blobs | files_in(tmp_path / "good"), tree)
    with pytest.raises(type(error)):
        seal(tree, [Packer(directory_at(tmp_path / "alone"), PackIndex(), put, size=SIZE, limit=LIMIT)])
    for blob in (bytes(LIMIT), bytes(LIMIT - 1)):
        alone = Packer(directory_at(tmp_path / "alone"), PackIndex(), put, size=SIZE, limit=LIMIT)
        alone(name_of(bytes(32)), blob)
        with pytest.raises(type(error)):
            alone.flush()
        alone.flush()


def test_a_sink_beneath_that_fails_is_lost(directory_at: DirectoryAt, tmp_path: Path, tree: dict[Path, bytes]) -> None:
    def refuse(name: str, view: memoryview) -> None:
        raise StoreError("full")

    put, good = Packs(), Packs()
    packers = [
        Packer(refuse, PackIndex(), put, size=SIZE, limit=LIMIT),
        Packer(directory_at(tmp_path / "good"), PackIndex(), good, size=SIZE, limit=LIMIT),
    ]
    store = tmp_path / "file"
    store.write_bytes(b"")
    packers.append(Packer(directory_at(store, "there"), PackIndex(), Packs(), size=SIZE, limit=LIMIT))
    names, sealer = seal(tree, packers)
    assert sorted(sealer.lost) == [0, 2]
    assert isinstance(sealer.lost[0], StoreError)
    assert "there" in str(sealer.lost[2])
    packers[1].flush()
    assert_opens(names, good.blobs | files_in(tmp_path / "good"), tree)


def test_a_queue_beneath_may_release_what_it_gets(monkeypatch: pytest.MonkeyPatch) -> None:
    """The upload queue of a service, which lets no more bytes in until it has released others."""

    class Store:
        concurrency = Concurrency(2)
        stored: ClassVar[list[str]] = []

        def put_blob(self, name: str, blob: memoryview) -> None:
            assert type(blob) is memoryview
            if name == names[0]:
                kept.append(PickleBuffer(blob))  # until then the blob cannot be released
            self.stored.append(name)

    monkeypatch.setattr(traffic, "MAX_IN_FLIGHT", 3 * LIMIT)
    names = [name_of(bytes([i]) * 32) for i in range(40)]
    kept: list[PickleBuffer] = []
    queue = traffic.UploadQueue(Store())  # type: ignore[arg-type]
    packer = Packer(queue, PackIndex(), print, size=SIZE, limit=LIMIT)

    def put() -> None:
        for name in names:
            packer(name, bytes(LIMIT + 1))

    thread = threading.Thread(target=put, daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive(), "it waits for ever"
    queue.drain()
    assert sorted(Store.stored) == sorted(names)
    assert queue.in_flight.bytes == 0


@pytest.mark.parametrize("packed", [True, False])
def test_a_blob_that_cannot_be_put_is_an_error_of_the_store(
    directory_at: DirectoryAt, tmp_path: Path, packed: bool
) -> None:
    (tmp_path / "file").touch()
    beneath = directory_at(tmp_path / "file")

    class Target:
        label = "the store"
        blobs = Packer(beneath, PackIndex(), print, size=SIZE, limit=LIMIT) if packed else beneath

    with pytest.raises(StoreError, match="cannot write to the store: Not a directory"):
        protocols.put_blob(Target(), name_of(bytes(32)), memoryview(bytes(LIMIT + 1)))  # type: ignore[arg-type]


@pytest.mark.parametrize("raises", [False, True])
def test_few_packs_wait_to_be_put(raises: bool) -> None:
    """Workers would each fill a pack while `put` waits for a slow store."""
    gate, lock = threading.Event(), threading.Lock()
    inside, most, done = 0, 0, 0

    def put(pack: Pack) -> None:
        nonlocal inside, most, done
        with lock:
            inside += 1
            most = max(most, inside)
        gate.wait(30)
        with lock:
            inside -= 1
            done += 1
        if raises:
            raise StoreError("no")

    packer = Packer(lambda name, view: None, PackIndex(), put, size=SIZE, limit=LIMIT, max_blobs=1)

    def add(number: int) -> None:
        for i in range(5):
            with contextlib.suppress(StoreError):
                packer(name_of(bytes([number, i]) * 16), b"blob")

    threads = [threading.Thread(target=add, args=(number,), daemon=True) for number in range(8)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    assert inside == 1
    gate.set()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert (most, done) == (1, 40)


def test_a_pack_knows_how_old_it_is() -> None:
    packer = Packer(lambda name, view: None, PackIndex(), lambda pack: None, size=SIZE, limit=LIMIT)
    assert packer.age() is None
    for i in range(2):
        time.sleep(0.1 * i)
        packer(name_of(bytes([i]) * 32), b"blob")
    age, idle = packer.age(), packer.idle()
    assert age is not None
    assert idle is not None
    assert 0.09 < age - idle < 60
    packer.flush()
    assert packer.age() is None


def test_packs_are_ended_while_workers_add(directory_at: DirectoryAt, tmp_path: Path, tree: dict[Path, bytes]) -> None:
    """`flush` at any moment: no blob is lost, none is in two packs."""
    put, over = Packs(), threading.Event()
    packer = Packer(directory_at(tmp_path / "store"), PackIndex(), put, size=SIZE, limit=LIMIT, max_blobs=50)

    def flush() -> None:
        while not over.is_set():
            packer.flush()
            packer.idle()

    threads = [threading.Thread(target=flush) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        names, _ = seal(tree, [packer])
    finally:
        over.set()
        for thread in threads:
            thread.join()
    packer.flush()
    packed = [name for pack in put.packs for name, _ in pack.blobs]
    assert len(packed) == len(set(packed)) == 303
    assert max(len(pack.blobs) for pack in put.packs) <= 50
    assert_opens(names, put.blobs | files_in(tmp_path / "store"), tree)


def test_a_pack_is_ended_only_when_its_blobs_are_whole() -> None:
    """Blobs that take long to copy, from four threads, while a fifth ends packs."""
    put, over = Packs(), threading.Event()
    packer = Packer(lambda name, view: None, PackIndex(), put, size=16 * STEP, limit=2 * STEP)
    blobs = {name_of(bytes([i]) * 32): bytes([i]) * (2 * STEP - i) for i in range(1, 61)}

    def add(some: Iterable[str]) -> None:
        for name in some:
            packer(name, blobs[name])

    def flush() -> None:
        while not over.is_set():
            packer.flush()

    flushing = threading.Thread(target=flush)
    adding = [threading.Thread(target=add, args=(list(blobs)[i::4],)) for i in range(4)]
    for thread in [flushing, *adding]:
        thread.start()
    for thread in adding:
        thread.join()
    over.set()
    flushing.join()
    packer.flush()
    packed = [(name, blob) for pack in put.packs for name, blob in pack.blobs]
    assert len(packed) == len(blobs)
    assert dict(packed) == blobs


def test_memory_of_a_pack_is_used_again_when_nobody_sees_it() -> None:
    kept: list[Pack] = []
    views: list[memoryview] = []
    packer = Packer(lambda name, view: None, PackIndex(), kept.append, size=10_000, limit=1000, max_blobs=3)
    written = {}
    for i in range(30):
        blob = bytes([i]) * 999
        written[i] = blob
        packer(name_of(bytes([i]) * 32), blob)
        if len(kept) == 2:
            views.append(memoryview(kept.pop()))  # the view keeps the pack
            views.append(kept.pop().table)
    for i, view in enumerate(views):
        assert len(view) == (3 * 999 + 3 * ROW + FOOTER if i % 2 == 0 else 3 * ROW)
    seen = [read_pack(view) for view in views[::2]]
    del packer
    assert [[blob for _, blob in pack.blobs] for pack in seen] == [
        [written[i] for i in range(3 * first, 3 * first + 3)] for first in range(1, 10, 2)
    ]
    assert [read_pack(view) for view in views[::2]] == seen
    with pytest.raises(TypeError):
        views[0][0] = 1
    with pytest.raises(TypeError):
        Pack()


def test_memory_of_packs_does_not_grow() -> None:
    def mapped() -> int:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * mmap.PAGESIZE

    packer = Packer(lambda name, view: None, PackIndex(), lambda pack: None, size=8 * STEP, limit=STEP, max_blobs=2)
    before = mapped()
    for i in range(200):
        packer(name_of(bytes([i]) * 32), b"blob")
    assert mapped() < before + 8 * 9 * STEP


def test_a_packer_that_cannot_be_is_refused() -> None:
    sink = lambda name, view: None  # noqa: E731
    index = PackIndex()
    for sizes in (
        {"size": 0, "limit": 1},
        {"size": 1, "limit": 1, "max_blobs": 0},
        {"size": 1 << 32, "limit": 1},
        {"size": 1 << 31, "limit": 1 << 31},
        {"size": 1 << 31, "limit": 1 << 30, "max_blobs": 1 << 25},
        {"size": 1, "limit": (1 << 64) - 1},
        {"size": 1, "limit": 1, "max_blobs": (1 << 64) - 1},
    ):
        with pytest.raises(ValueError, match="4 GiB"):
            Packer(sink, index, print, **sizes)
    packer = Packer(sink, index, print, size=SIZE, limit=LIMIT)
    packer(name_of(bytes(32)), b"")  # no blob of a pack is empty
    assert packer.idle() is None
    with pytest.raises(ValueError, match="another one"):
        Packer(packer, index, print, size=SIZE, limit=LIMIT)
    with pytest.raises(ValueError, match="another index"):
        Packer(sink, index, print, size=SIZE, limit=LIMIT, plain=index)
    with pytest.raises(ValueError, match="not a blob's name"):
        packer("a", b"")
    with pytest.raises(TypeError):
        Packer(sink, None, print, size=SIZE, limit=LIMIT)  # type: ignore[arg-type]


def test_a_sealer_that_is_stopped_or_freed_early_leaves_nothing(tmp_path: Path, tree: dict[Path, bytes]) -> None:
    told = []

    class Sink:
        def __call__(self, name: str, view: memoryview) -> None: ...

        def abandon(self) -> None:
            told.append("abandoned")

    put = Packs()
    descriptors = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        packer = Packer(Sink(), PackIndex(), put, size=SIZE, limit=LIMIT)
        paths = itertools.cycle([os.fsencode(path) for path in tree])
        sealer = Sealer(SECRET, False, paths, [packer], chunk_size=STEP, level=1, jobs=4, frames=True)
        with contextlib.closing(sealer.run()) as run:
            next(run)
        assert told.pop() == "abandoned"
        packer.flush()  # what was added is whole
        del sealer, packer
        packer = Packer(Sink(), PackIndex(), put, size=SIZE, limit=LIMIT)
        sealer = Sealer(SECRET, False, paths, [packer], chunk_size=STEP, level=1, jobs=4, frames=True)
        run = sealer.run()
        next(run)
        del packer
        run.close()
        del sealer, run
        gc.collect()
        told.clear()
    assert len(os.listdir("/proc/self/fd")) <= descriptors


# ---- reading packs of a directory ----

NAMED = {value: name for name, value in VERDICT.items()}
DAMAGE = {"bad header", "bad body", "bad name"}


def restore(
    source: BlobDirectory, target: Path, names: list[list[str]], contents: Iterable[bytes], *, jobs: int = 2
) -> list[str]:
    """Restores each file under its number, and returns the verdicts. No file may hold anything but its content."""
    target.mkdir(exist_ok=True)
    contents = list(contents)
    with opened(target) as descriptor:
        wanted = []
        for i, (blobs, content) in enumerate(zip(names, contents, strict=True)):
            sizes = [len(content[at : at + 2 * STEP]) for at in range(0, max(len(content), 1), 2 * STEP)]
            assert len(sizes) == len(blobs)
            wanted.append(Wanted(descriptor, str(i).encode(), blobs, sizes, len(content), 0, 0))
        opener = Opener(SECRET, None, False, wanted, source, jobs=jobs)
        with contextlib.closing(opener.run()) as run:
            verdicts = [NAMED[news.verdict] for news in run]
    for i, (verdict, content) in enumerate(zip(verdicts, contents, strict=True)):
        path = target / str(i)
        assert path.exists() == (verdict == "good")
        assert not path.exists() or path.read_bytes() == content
    return verdicts


class Stored(NamedTuple):
    """The tree in a store with packs, and what is needed to restore it."""

    place: Path
    blobs: BlobDirectory
    packs: Packs
    names: list[list[str]]
    files: dict[Path, bytes]

    def restored(self, parts: Sequence[tuple[bytes | bytearray, bytes]], **options: Any) -> list[str]:
        refresh = options.pop("refresh", None)
        self.blobs.read_packs(searched(*parts), refresh)
        target = self.place / f"restored{len(list(self.place.iterdir()))}"
        return restore(self.blobs, target, self.names, self.files.values(), **options)

    def pack(self, number: int) -> Path:
        return self.place / "packs" / "2026-11-30" / name_of(self.packs.packs[number].raw)

    def lost_with(self, number: int) -> list[str]:
        """The verdicts of a restore that lacks a pack, "-" where a file needs it."""
        there = {name for name, _ in self.packs.packs[number].blobs}
        return ["-" if there & set(names) else "good" for names in self.names]


@pytest.fixture
def stored(directory_at: DirectoryAt, tmp_path: Path, tree: dict[Path, bytes]) -> Stored:
    put = Packs()
    blobs = directory_at(tmp_path / "store")
    packer = Packer(blobs, PackIndex(), put, size=SIZE, limit=LIMIT)
    names, _ = seal(tree, [packer])
    packer.flush()
    put.write(tmp_path / "store")
    return Stored(tmp_path / "store", blobs, put, names, tree)


@pytest.mark.parametrize("jobs", [1, 4])
def test_files_come_back_from_packs(stored: Stored, jobs: int) -> None:
    index = stored.packs.index()
    assert set(stored.restored([(index, ones(stored.packs))], jobs=jobs)) == {"good"}
    assert set(stored.restored([(index, b"\2" * len(stored.packs.packs))], jobs=jobs)) == {"good"}
    packed = stored.packs.blobs
    without = ["not there" if names[0] in packed else "good" for names in stored.names]
    assert stored.restored([(index, b"\0" * len(stored.packs.packs))], jobs=jobs) == without
    assert stored.restored([], jobs=jobs) == without
    stored.blobs.read_packs(None)
    assert restore(stored.blobs, stored.place / "none", stored.names, stored.files.values()) == without


@pytest.mark.parametrize("frames", [True, False], ids=["frames", "stream"])
def test_large_blobs_come_back_from_packs(directory_at: DirectoryAt, tmp_path: Path, frames: bool) -> None:
    """Chunks that are read in many pieces, and ahead, out of packs of several MiB."""
    contents = {tmp_path / str(i): os.urandom(size) for i, size in enumerate((5 * STEP, STEP, 7 * STEP + 3))}
    for path, content in contents.items():
        path.write_bytes(content)
    put, blobs = Packs(), directory_at(tmp_path / "store")
    packer = Packer(blobs, PackIndex(), put, size=5 * STEP, limit=4 * STEP)
    names, _ = seal(contents, [packer], frames=frames)
    packer.flush()
    put.write(tmp_path / "store")
    assert not files_in(tmp_path / "store")
    blobs.read_packs(searched((put.index(), ones(put))))
    if frames:
        assert restore(blobs, tmp_path / "out", names, contents.values()) == ["good"] * 3
        return
    wanted = [
        Wanted(-1, b"", name, None, len(content), 0, 0) for name, content in zip(names, contents.values(), strict=True)
    ]
    assert [NAMED[news.verdict] for news in Opener(SECRET, None, False, wanted, blobs, jobs=3).run()] == ["good"] * 3


def test_a_wrong_index_never_gives_wrong_bytes(stored: Stored) -> None:
    """Offsets, lengths and pack numbers of other blobs, by chance: each file is right, or known to be lost."""
    index, chance = stored.packs.index(), random.Random(5)
    rows, packs = len(stored.packs.blobs), len(stored.packs.packs)
    columns = len(index) - 12 * rows
    lost = 0
    for _ in range(12):
        bad = bytearray(index)
        for row in range(rows):
            column, other = chance.randrange(3), chance.randrange(rows)
            if chance.random() < 0.5:
                at = columns + 4 * (column * rows + row)
                near = struct.unpack_from("<I", bad, at)[0] + chance.choice([1, 8, 100])
                far = struct.unpack_from("<I", index, columns + 4 * (column * rows + other))[0]
                struct.pack_into("<I", bad, at, chance.choice([near, far, 0, chance.getrandbits(32)]))
        with pytest.raises(ValueError, match="index object"):
            check_index(bad)
        verdicts = stored.restored([(bad, b"\1" * packs)])
        assert set(verdicts) <= {"good", "not there", *DAMAGE}
        lost += sum(verdict != "good" for verdict in verdicts)
    assert lost > 100


def test_an_index_that_exchanges_two_blobs_is_damage(stored: Stored) -> None:
    index = stored.packs.index()
    rows, at = len(stored.packs.blobs), HEADER + len(stored.packs.packs) * 48
    fans = (len(index) - at - 44 * rows) // 8
    names = at + 8 * fans
    one, other = index[names : names + 32], index[names + 32 : names + 64]
    assert other < index[names + 64 : names + 96]
    swapped = bytearray(index)
    for column in range(3):  # each has the other's span
        first = names + 32 * rows + 4 * column * rows
        swapped[first : first + 8] = index[first + 4 : first + 8] + index[first : first + 4]
    verdicts = stored.restored([(swapped, ones(stored.packs))])
    bad = {name_of(bytes(one)), name_of(bytes(other))}
    assert verdicts == ["bad name" if names[0] in bad else "good" for names in stored.names]


def test_a_pack_that_is_gone_is_looked_for_once_more(stored: Stored) -> None:
    index = PackIndex()
    stored.pack(0).rename(stored.place / "elsewhere")
    lost = stored.lost_with(0)
    asked: list[int] = []
    stored_index, there = stored.packs.index(), ones(stored.packs)

    def refresh() -> bool:
        asked.append(1)
        return False

    gone = [verdict.replace("-", "not there") for verdict in lost]
    assert stored.restored([(stored_index, there)], refresh=refresh) == gone
    assert len(asked) == lost.count("-")
    second = Described(stored.packs.packs[0].raw[::-1], [])
    moved = stored.place / "packs" / "2027-01-02"
    moved.mkdir()
    (stored.place / "elsewhere").rename(moved / name_of(second.raw))
    pack = stored.packs.packs[0]
    new = build_index([(second.raw, 20270102, len(pack.data))], [pack.table])

    def find() -> bool:
        asked.append(1)
        states = bytes(raw != pack.raw for raw in sorted(pack.raw for pack in stored.packs.packs))
        index.replace([(stored_index, states), (new, b"\1")])
        return True

    asked.clear()
    index.replace([(stored_index, there)])
    stored.blobs.read_packs(index, find)
    target = stored.place / "found"
    assert set(restore(stored.blobs, target, stored.names, stored.files.values(), jobs=1)) == {"good"}
    assert asked == [1]


def test_one_worker_lists_for_all_that_miss_a_pack(stored: Stored) -> None:
    """As a Catalog, which lists nothing for a while after it has found nothing new."""
    stored_index, there = stored.packs.index(), ones(stored.packs)
    pack = stored.packs.packs[0]
    new = build_index([(pack.raw[::-1], 20270102, len(pack.data))], [pack.table])
    moved = stored.place / "packs" / "2027-01-02"
    moved.mkdir()
    stored.pack(0).rename(moved / name_of(pack.raw[::-1]))
    index, arrived = searched((stored_index, there)), threading.Barrier(4)
    asked: list[int] = []

    def find() -> bool:
        """Four workers have looked in vain before the first of them lists."""
        with contextlib.suppress(threading.BrokenBarrierError):
            arrived.wait(5)
        arrived.abort()
        with lock:
            asked.append(1)
            if len(asked) == 1:
                states = bytes(raw != pack.raw for raw in sorted(pack.raw for pack in stored.packs.packs))
                index.replace([(stored_index, states), (new, b"\1")])
            return len(asked) == 1

    stored.blobs.read_packs(index, find)
    target, lock = stored.place / "found", threading.Lock()
    assert set(restore(stored.blobs, target, stored.names, stored.files.values(), jobs=4)) == {"good"}
    assert len(asked) == 4


def packed_file(directory_at: DirectoryAt, tmp_path: Path) -> tuple[Packs, BlobDirectory, Packer, list[str]]:
    """Packs a file of one blob; returns the names of its blobs last."""
    path = tmp_path / "file"
    path.write_bytes(b"content")
    put, blobs = Packs(), directory_at(tmp_path / "store")
    packer = Packer(blobs, PackIndex(), put, size=SIZE, limit=LIMIT)
    [names], _ = seal([path], [packer])
    packer.flush()
    return put, blobs, packer, names


def verdicts_of(blobs: BlobDirectory, names: list[str]) -> tuple[list[Opened], int]:
    """Restores that file to nowhere; returns what the engine says of it, and how many bytes it has read."""
    opener = Opener(SECRET, None, False, [Wanted(-1, b"", names, None, 7, 0, 0)], blobs, jobs=1)
    return list(opener.run()), opener.read()


@pytest.mark.parametrize("states", [b"\1\1", b"\2\2", b"\1\2", b"\2\1"])
def test_a_pack_that_cannot_be_opened_is_not_the_last_holder(
    directory_at: DirectoryAt, tmp_path: Path, states: bytes
) -> None:
    """A blob in two packs. EIO: a pipe in place of a pack."""
    put, blobs, packer, names = packed_file(directory_at, tmp_path)
    [(name, blob)] = put.packs[0].blobs
    packer(name, blob)
    packer(name_of(bytes(32)), b"another one")
    packer.flush()
    put.write(tmp_path / "store")
    blobs.read_packs(searched((put.index(), states)))
    paths = [tmp_path / "store" / "packs" / "2026-11-30" / name_of(pack.raw) for pack in put.packs]

    def verdict() -> str:
        [news], _ = verdicts_of(blobs, names)
        assert (news.errno == errno.EIO) == (NAMED[news.verdict] == "bad read")
        return NAMED[news.verdict]

    assert verdict() == "good"
    for one, other in (paths, paths[::-1]):
        one.rename(tmp_path / "one")
        assert verdict() == "good"
        os.mkfifo(one)
        assert verdict() == "good"
        other.rename(tmp_path / "other")
        assert verdict() == "bad read"
        blobs.put(name, blob)
        assert verdict() == "good"
        [plain] = (tmp_path / "store" / "data").rglob(name)
        plain.unlink()
        one.unlink()
        assert verdict() == "not there"
        (tmp_path / "one").rename(one)
        (tmp_path / "other").rename(other)


def test_a_damaged_holder_is_not_read_again(directory_at: DirectoryAt, tmp_path: Path) -> None:
    """What seems damaged is read twice, and small files are tried before other holders are looked for."""
    put, blobs, _, names = packed_file(directory_at, tmp_path)
    put.write(tmp_path / "store")
    [(name, blob)] = put.packs[0].blobs
    flip(tmp_path / "store" / "packs" / "2026-11-30" / name_of(put.packs[0].raw), len(blob) // 2)
    for index in (searched((put.index(), b"\1")), PackIndex()):
        blobs.read_packs(index)
        [news], read = verdicts_of(blobs, names)
        assert (NAMED[news.verdict], read) == ("bad body", 4 * len(blob))
        blobs.put(name, blob[:-1] + bytes([blob[-1] ^ 1]))


@pytest.mark.parametrize("error", [StoreError("cannot list"), ZeroDivisionError("oops")])
def test_a_refresh_that_raises_finds_nothing(stored: Stored, error: Exception) -> None:
    def refresh() -> bool:
        raise error

    stored.pack(1).unlink()
    gone = [verdict.replace("-", "not there") for verdict in stored.lost_with(1)]
    assert stored.restored([(stored.packs.index(), ones(stored.packs))], refresh=refresh) == gone


def test_a_blob_of_a_lost_pack_is_read_by_itself(stored: Stored) -> None:
    """As `unpack` leaves it: the index still names the pack."""
    stored.pack(0).unlink()
    for name, blob in stored.packs.packs[0].blobs:
        stored.blobs.put(name, blob)
    asked: list[int] = []
    index = stored.packs.index()
    assert set(stored.restored([(index, ones(stored.packs))], refresh=lambda: bool(asked.append(1)))) == {"good"}
    assert asked == []


def test_damage_in_a_pack_costs_that_blob_alone(stored: Stored) -> None:
    path = stored.pack(1)
    (first, blob), (second, _) = stored.packs.packs[1].blobs[:2]
    flip(path, len(blob) // 2)
    verdicts = stored.restored([(stored.packs.index(), ones(stored.packs))])
    assert verdicts == ["bad body" if names[0] == first else "good" for names in stored.names]
    path.write_bytes(path.read_bytes()[: len(blob) + 20])  # cut within the second one
    verdicts = stored.restored([(stored.packs.index(), ones(stored.packs))])
    cut = {name for name, _ in stored.packs.packs[1].blobs[1:]}
    assert second in cut
    for names, verdict in zip(stored.names, verdicts, strict=True):
        assert verdict == ("bad body" if names[0] == first else "not there" if names[0] in cut else "good")


def test_only_regular_files_that_no_link_leads_to_are_packs(stored: Stored) -> None:
    index = stored.packs.index()
    expected = [verdict.replace("-", "bad read") for verdict in stored.lost_with(0)]
    path = stored.pack(0)
    path.rename(stored.place / "elsewhere")
    path.symlink_to(stored.place / "elsewhere")
    parts = [(index, ones(stored.packs))]
    assert stored.restored(parts) == expected
    path.unlink()
    path.mkdir()
    assert stored.restored(parts) == expected
    path.rmdir()
    os.mkfifo(path)
    assert stored.restored(parts) == expected
    path.unlink()
    (stored.place / "elsewhere").rename(path)
    assert set(stored.restored(parts)) == {"good"}
    path.parent.rename(stored.place / "day")
    path.parent.symlink_to(stored.place / "day")
    packed = stored.packs.blobs
    assert stored.restored(parts) == ["bad read" if names[0] in packed else "good" for names in stored.names]

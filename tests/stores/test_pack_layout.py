"""The bytes of packs: what is whole is read, and what is altered, cut short or impossible is not."""

from __future__ import annotations

import contextlib
import json
import struct
from datetime import UTC, date, datetime
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.packs import DAY, Listed, listed, make_index, make_pack, make_table, make_tail, name_of, sha256
from pogfast.errors import CorruptPack, DamageError, StoreError
from pogfast.stores.packs import layout
from pogfast.stores.packs.layout import StoreSettings

Blobs = list[tuple[str, bytes]]
RANDOM = Random(5)
BLOBS: Blobs = [(name_of(sha256(bytes([i]))), RANDOM.randbytes(size)) for i, size in enumerate((1, 300, 2, 70_000))]
PACK = make_pack(BLOBS)
PATH = layout.pack_path(sha256(PACK), DAY)
TAIL = len(BLOBS) * 44 + 48


# ---- paths


def test_paths() -> None:
    assert f"packs/2026-01-31/{name_of(sha256(PACK))}" == PATH
    assert layout.pack_path(sha256(PACK), date(2026, 1, 31)) == PATH
    assert layout.pack_path(sha256(PACK), datetime(2026, 1, 31, 23, 59, tzinfo=UTC)) == PATH
    assert layout.day_of(PATH) == DAY
    assert layout.raw_name(PATH) == sha256(PACK)
    assert layout.is_pack(PATH)
    assert not layout.is_index_object(PATH)


def test_paths_of_index_objects() -> None:
    path = layout.index_path(bytes(32))
    assert path == f"packs/index/{'A' * 43}="
    assert layout.raw_name(path) == bytes(32)
    assert layout.is_index_object(path)
    assert not layout.is_pack(path)


@pytest.mark.parametrize("last", range(64))
def test_every_name_has_one_path(last: int) -> None:
    raw = bytes(31) + bytes([last])
    for path in (layout.pack_path(raw, DAY), layout.index_path(raw)):
        assert layout.raw_name(path) == layout.raw_name(name_of(raw)) == raw
        assert layout.is_pack(path) != layout.is_index_object(path)


GOOD = "A" * 43 + "="


@pytest.mark.parametrize(
    "path",
    [
        *(f"packs/{day}/{GOOD}" for day in ("2026-99-99", "2026-02-29", "0000-01-01", "20260131", "2026-1-31")),
        *(f"packs/{day}/{GOOD}" for day in ("٢٠٢٦-01-31", "2026-01-31 ", "2026-W05-6", "../2026-01-31", "index")),
        *(f"packs/2026-01-31/{name}" for name in ("", "A" * 44, GOOD + "\n", GOOD[1:], "A" * 42 + "B=", GOOD + ".x")),
        *(f"packs/2026-01-31{between}{GOOD}" for between in ("", "//", "/x/")),
        *(f"{prefix}2026-01-31/{GOOD}" for prefix in ("", "/packs/", "x/packs/", "Packs/")),
        "",
    ],
)
def test_what_is_not_the_path_of_a_pack(path: str) -> None:
    assert not layout.is_pack(path)
    with pytest.raises(ValueError):
        layout.day_of(path)


@pytest.mark.parametrize(
    "path", ["packs/index/", f"packs/index/x/{GOOD}", f"packs/files/{GOOD}", "packs/index/" + "A" * 44]
)
def test_what_is_not_the_path_of_an_index_object(path: str) -> None:
    assert not layout.is_index_object(path)


@pytest.mark.parametrize(
    "path", ["", "packs/", f"x{GOOD}", f"{GOOD}x", f"{GOOD}\n", "A" * 42 + "B=", f"packs/2026-01-31/{GOOD[:-1]}"]
)
def test_a_name_is_exact(path: str) -> None:
    with pytest.raises(ValueError):
        layout.raw_name(path)


@pytest.mark.parametrize("day", [0, 20260230, 202601311, -1])
def test_a_number_that_is_no_day(day: int) -> None:
    with pytest.raises(ValueError):
        layout.pack_path(bytes(32), day)


# ---- packs


def test_a_table_is_read() -> None:
    rows = layout.read_table(PACK, len(PACK), PATH)
    assert [(row.name, PACK[row.offset : row.offset + row.size]) for row in rows] == BLOBS
    assert [row.check for row in rows] == [sha256(blob)[:8] for _, blob in BLOBS]
    assert layout.read_table(memoryview(PACK)[-TAIL:], len(PACK), PATH) == rows
    assert bytes(layout.raw_table(PACK[-TAIL:], len(PACK), PATH)) == make_table(BLOBS)
    assert layout.table_size(PACK[-48:], len(PACK), PATH) == layout.table_size(PACK, len(PACK), PATH) == TAIL - 48


@pytest.mark.parametrize("cut", [1, 44, TAIL - 1, TAIL])
def test_a_tail_that_is_too_short(cut: int) -> None:
    with pytest.raises(CorruptPack):
        layout.read_table(PACK[len(PACK) - TAIL + cut :], len(PACK), PATH)


@pytest.mark.parametrize("at", range(TAIL))
def test_each_bit_of_a_tail_counts(at: int) -> None:
    tail = bytearray(PACK[-TAIL:])
    tail[at] ^= 1 << RANDOM.randrange(8)
    with pytest.raises(CorruptPack):
        layout.read_table(tail, len(PACK), PATH)


@pytest.mark.parametrize("off", [-1, 1, 44, -len(PACK), 2**32])
def test_the_lengths_add_up(off: int) -> None:
    with pytest.raises(CorruptPack):
        layout.read_table(PACK[-TAIL:], len(PACK) + off, PATH)


@pytest.mark.parametrize(
    ("tail", "what"),
    [
        (make_tail(make_table(BLOBS), version=2), "version 2"),
        (make_tail(make_table(BLOBS), version=0), "version 0"),
        (make_tail(make_table(BLOBS), flags=1), "flags 0x1"),
        (make_tail(b""), "hold 0 blobs"),
        (make_tail(make_table(BLOBS), count=2**32 - 1), "hold 4294967295 blobs"),
    ],
)
def test_a_footer_that_is_not_ours(tail: bytes, what: str) -> None:
    with pytest.raises(CorruptPack, match=what) as caught:
        layout.table_size(tail, len(PACK), PATH)
    assert isinstance(caught.value, DamageError)
    assert str(caught.value).startswith(PATH)
    assert caught.value.path == PATH


def test_no_blob_is_empty() -> None:
    data = make_pack([BLOBS[0], (BLOBS[1][0], b"")])
    with pytest.raises(CorruptPack, match="do not add up"):
        layout.read_table(data, len(data), PATH)


def test_a_pack_has_at_most_four_gigabytes() -> None:
    tail = make_tail(bytes(32) + struct.pack("<I", 2**32 - 1 - 92) + bytes(8))
    assert layout.read_table(tail, 2**32 - 1, PATH)[0].size == 2**32 - 1 - 92
    tail = make_tail(bytes(32) + struct.pack("<I", 2**32 - 92) + bytes(8))
    with pytest.raises(CorruptPack):
        layout.read_table(tail, 2**32, PATH)


def test_no_footer_makes_a_reader_take_gigabytes() -> None:
    """A table that no index object could hold is refused before it is read."""
    count = layout.MAX_INDEX // 44
    assert layout.table_size(make_tail(b"", count=count), 2**32 - 1, PATH) == count * 44
    with pytest.raises(CorruptPack):
        layout.table_size(make_tail(b"", count=count + 1), 2**32 - 1, PATH)


def test_a_blob_is_known_by_its_size_and_its_check() -> None:
    row = layout.read_table(PACK, len(PACK), PATH)[1]
    blob = BLOBS[1][1]
    assert layout.is_good_blob(row, memoryview(blob))
    assert not layout.is_good_blob(row, blob[:-1] + b"x")
    assert not layout.is_good_blob(row._replace(size=299), blob)


# ---- scrubbing


def test_a_whole_pack() -> None:
    assert layout.check_pack(PACK, PATH) == ("", layout.read_table(PACK, len(PACK), PATH), [])


def test_the_damaged_blob_is_named() -> None:
    data = bytearray(PACK)
    data[200] ^= 1
    problem, rows, damaged = layout.check_pack(data, PATH)
    assert problem == f"{PATH}: it has damaged blobs, 1 of 4"
    assert len(rows) == 4
    assert damaged == [rows[1]]


def test_a_new_name_does_not_hide_a_damaged_blob() -> None:
    """As of a pack that was copied by a program that did not look at what it copied."""
    data = bytearray(PACK)
    data[200:300] = bytes(100)
    data[400] ^= 1
    found = layout.check_pack(data, layout.pack_path(sha256(data), DAY))
    assert found.problem.endswith("it has damaged blobs, 2 of 4")
    assert [row.name for row in found.damaged] == [BLOBS[1][0], BLOBS[3][0]]


def test_a_pack_of_another_name() -> None:
    found = layout.check_pack(PACK, layout.pack_path(bytes(32), DAY))
    assert "its name is not its sha256" in found.problem
    assert len(found.rows) == 4
    assert found.damaged == []


@pytest.mark.parametrize("data", [b"", PACK[:-1], PACK[1:], PACK[:-60] + bytes(12) + PACK[-48:]])
def test_a_pack_without_its_table(data: bytes) -> None:
    found = layout.check_pack(data, PATH)
    assert found.problem.startswith(PATH)
    assert (found.rows, found.damaged) == ([], [])


# ---- headers of index objects

OLD = [sha256(b"one"), sha256(b"two")]
PACKS = [listed(BLOBS), listed(BLOBS[:1], 20251224), listed(BLOBS[1:])]
INDEXED = make_index(PACKS, OLD)


def test_a_header_is_read() -> None:
    header = layout.read_header(memoryview(INDEXED))
    assert header.blobs == 8
    assert header.packs == [(layout.pack_path(pack.raw, pack.day), pack.size) for pack in sorted(PACKS)]
    assert header.supersedes == sorted(map(layout.index_path, OLD), key=layout.raw_name)


def test_an_index_of_nothing() -> None:
    assert layout.read_header(make_index([])) == ([], [], 0)


def test_a_fan_out_of_several_bits() -> None:
    rows = [(sha256(bytes([i])), 1) for i in range(33)]
    assert layout.read_header(make_index([Listed(bytes(32), 33 * 45 + 48, rows)])).blobs == 33


@pytest.mark.parametrize(("blobs", "bits"), [(0, 0), (1, 0), (32, 0), (33, 1), (64, 1), (65, 2), (32 << 15, 15)])
def test_how_the_fan_out_grows(blobs: int, bits: int) -> None:
    assert layout.fan_out_bits(blobs) == bits


@pytest.mark.parametrize("blobs", [(32 << 15) + 1, 32 << 16, 2**40])
def test_the_fan_out_has_16_bits_at_most(blobs: int) -> None:
    assert layout.fan_out_bits(blobs) == 16


@pytest.mark.parametrize("at", [*range(32), *(64 + i for i in range(4, 8)), *(64 + 12 + i for i in range(4))])
def test_the_header_of_an_index_object_is_strict(at: int) -> None:
    """Each byte of the header, and of the first pack the upper bytes of its size, and the zeros."""
    data = bytearray(INDEXED)
    data[at] ^= 1
    with pytest.raises(CorruptPack, match=r"^x: it is not an index of packs"):
        layout.read_header(data, "x")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        INDEXED[:31],
        INDEXED[:-1],
        INDEXED + b"x",
        make_index(PACKS, bits=1),
        make_index([PACKS[0], PACKS[0]]),
        make_index(PACKS, [OLD[0], OLD[0]]),
        make_index(PACKS)[:32] + make_index(PACKS)[80:128] + make_index(PACKS)[32:80] + make_index(PACKS)[128:],
        make_index([PACKS[0]._replace(day=20260230)]),
        make_index([PACKS[0]._replace(day=0)]),
        make_index([PACKS[0]._replace(day=2**32 - 1)]),
        make_index([PACKS[0]._replace(size=92)]),
        make_index([PACKS[0]._replace(size=2**32)]),
    ],
)
def test_what_is_not_an_index_object(data: bytes) -> None:
    with pytest.raises(CorruptPack):
        layout.read_header(data)


@given(st.binary(max_size=300))
def test_no_bytes_raise_anything_else(data: bytes) -> None:
    for prefix, suffix in ((b"", b""), (b"pogindx1\x01\0\0\0", b""), (b"", b"\x01\0\0\0pogpack1")):
        given_data = prefix + data + suffix
        for act in (
            lambda it: layout.read_header(it),
            lambda it: layout.read_table(it, len(it), PATH),
            lambda it: StoreSettings.parse(it, "store"),
        ):
            with contextlib.suppress(CorruptPack, StoreError):
                act(given_data)


# ---- pogfast.store


def test_what_is_written_is_read() -> None:
    settings = StoreSettings()
    assert json.loads(settings.serialize()) == {
        "layout": 1,
        "packs": {"size": 16777216, "limit": 2097152},
        "requires": ["packs1"],
    }
    assert StoreSettings.parse(settings.serialize(), "store") == settings


def test_a_store_that_is_no_longer_packed() -> None:
    settings = StoreSettings().not_packing()
    assert json.loads(settings.serialize()) == {"layout": 1, "packs": None, "requires": ["packs1"]}
    assert StoreSettings.parse(settings.serialize(), "store") == settings
    assert not settings.is_packing
    assert settings.packing(8 << 20) == StoreSettings(size=8 << 20)


def test_the_limit_is_at_most_the_size() -> None:
    assert StoreSettings().packing(1 << 20).limit == 1 << 20
    assert StoreSettings().packing(1 << 30).limit == 2 << 20
    assert StoreSettings.parse(b'{"layout": 1, "requires": [], "packs": {"size": 1048576}}', "s").limit == 1 << 20


def test_unknown_keys_are_kept() -> None:
    words = {"layout": 1, "packs": {"size": 2 << 20, "limit": 0, "x": 2}, "requires": ["packs1"], "y": {"\ud800": [1]}}
    settings = StoreSettings.parse(json.dumps(words).encode(), "store")
    assert json.loads(settings.serialize()) == words
    assert settings.limit == 0


@pytest.mark.parametrize(
    "words",
    [{"layout": 2}, {"requires": ["packs1", "packs2"]}, {"requires": [{}]}, {"layout": 3, "packs": 5}],
)
def test_a_store_of_a_newer_version(words: dict[str, object]) -> None:
    with pytest.raises(StoreError, match=r"^/store: it was made by a newer pogfast") as caught:
        StoreSettings.parse(json.dumps({"layout": 1, "requires": ["packs1"], **words}).encode(), "/store")
    assert caught.value.hint == "upgrade pogfast"


@pytest.mark.parametrize(
    "packs",
    [
        *({"size": size} for size in (0, (1 << 20) - 1, (1 << 30) + 1, None, True, 2e6, "32M")),
        *({"limit": limit} for limit in (-1, (32 << 20) + 1, None, False, 1.0)),
        *(5, [], "x", False),
    ],
)
def test_sizes_that_no_store_has(packs: object) -> None:
    text = json.dumps({"layout": 1, "requires": ["packs1"], "packs": packs})
    with pytest.raises(CorruptPack, match=r"^store: pogfast\.store does not parse"):
        StoreSettings.parse(text.encode(), "store")


@pytest.mark.parametrize(
    "text",
    [
        b'{"layout": 1, "requires": ["packs1"], "x": ' + b"[" * 300 + b"]" * 300 + b"}",
        *(b"", b"x", b"[]", b"1", b"null", b"\xff", b"[" * 100_000, b"{}", b'{"layout": 1}', b'{"requires": []}'),
        *(b'{"layout": 0, "requires": []}', b'{"layout": true, "requires": []}', b'{"layout": 1, "requires": {}}'),
        b'{"layout": ' + b"9" * 5000 + b"}",
    ],
)
def test_what_is_not_settings(text: bytes) -> None:
    with pytest.raises(CorruptPack, match=r"^store: pogfast\.store does not parse"):
        StoreSettings.parse(text, "store")

"""The bytes of packs, of the index objects' headers, and of `pogfast.store`. FORMAT.md, "Packs".

    pack   = blob || blob || ... || table || footer
    table  = a row of 44 bytes for each blob, in order: 32 B raw name || u32 length || first 8 B of sha256(blob)
    footer = 32 B sha256(table) || u32 count || u16 version || u16 flags || 8 B magic

Bytes and text only: nothing here accesses a store, and nothing needs a key. A name is raw (32 bytes) in packs and index
objects, and 44 characters of urlsafe base64 in paths and everywhere else. The engine reads the rows of index objects.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from pogfast.errors import CorruptPack, StoreError
from pogfast.stores.names import PACKS, SETTINGS

if TYPE_CHECKING:
    from pogfast._engine import Buffer

PACK_MAGIC = b"pogpack1"
PACK_VERSION = 1
INDEX_MAGIC = b"pogindx1"
INDEX_VERSION = 1
RAW_NAME = 32  # bytes of a sha256
CHECK = 8  # bytes of a blob's sha256 in its row
TABLE_ROW = 44
FOOTER = 48
MAX_PACK = 2**32 - 1  # bytes: offsets have 32 bits
MIN_PACK = TABLE_ROW + FOOTER + 1
# Bytes of an index object: no merge makes a larger one. A table is no longer either, since all blobs of a pack stand in
# one index object.
MAX_INDEX = 64 << 20
DEFAULT_SIZE = 16 << 20  # bytes of blobs at which a pack is closed
MIN_SIZE = 1 << 20
MAX_SIZE = 1 << 30
DEFAULT_LIMIT = 2 << 20  # bytes that a blob in a pack may have
MAX_BLOBS = 10_000  # at which a pack is closed

INDEX = PACKS + "index/"
_MAX_BRACKETS = 256  # in `pogfast.store`: what is nested more deeply can be read, but perhaps not written again
STORE_LAYOUT = 1
PACKS_WORD = "packs1"  # in `requires`: a program has to know packs

# The last letter of a name has two bits that are 0. So 32 bytes have one name only.
_NAME = re.compile(r"[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]=")
_PACK = re.compile(f"{PACKS}([0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}})/{_NAME.pattern}")
_ROW = struct.Struct("<32sI8s")
_FOOTER = struct.Struct("<32sIHH8s")
_HEADER = struct.Struct("<8sIIQII")
_INDEXED = struct.Struct("<32sQII")
_MAX_BITS = 16  # of the fan-out
_PER_SLOT = 32  # names in a slot of the fan-out, on average, before it grows
_COLUMNS = 12  # bytes of an index row beside its name: pack number, offset, length


class TableRow(NamedTuple):
    """A blob in a pack: its name, its place in bytes, and the first 8 bytes of its sha256."""

    name: str
    offset: int
    size: int
    check: bytes


class PackInfo(NamedTuple):
    """A pack as an index object lists it: its path and its size in bytes."""

    path: str
    size: int


class IndexHeader(NamedTuple):
    """What an index object covers: its packs in order, paths of the index objects that it supersedes, and how many rows
    it has."""

    packs: list[PackInfo]
    supersedes: list[str]
    blobs: int


class PackCheck(NamedTuple):
    """What is wrong with a pack. `problem` is "" for an intact one; `rows` are those of its table, none if the table is
    damaged; `damaged` are the rows whose blobs are not what they were when they were packed."""

    problem: str
    rows: list[TableRow]
    damaged: list[TableRow]


# ---- paths


def name_of(raw: Buffer) -> str:
    """Returns the name of 32 raw bytes, as blobs, packs and index objects have it."""
    return base64.urlsafe_b64encode(raw).decode()


def raw_name(path: str) -> bytes:
    """Returns the 32 bytes in the name at the end of a path. Raises ValueError if it is not exactly the name of such
    bytes."""
    name = path.rpartition("/")[2]
    if not is_name(name):
        raise ValueError(f"{path} does not end with a name of 32 bytes")
    return base64.urlsafe_b64decode(name)


def is_name(text: str) -> bool:
    """Returns True for exactly the name of some 32 bytes."""
    return _NAME.fullmatch(text) is not None


def pack_path(raw: Buffer, day: date | int) -> str:
    """Returns the path of the pack whose sha256 is `raw`, written on a day (UTC; a number is 20260131). Raises
    ValueError for a number that is no day."""
    written = _day_text(day) if isinstance(day, int) else day.isoformat()[:10]
    return f"{PACKS}{written}/{name_of(raw)}"


def index_path(raw: Buffer) -> str:
    """Returns the path of the index object whose sha256 is `raw`."""
    return INDEX + name_of(raw)


def is_pack(path: str) -> bool:
    """Returns True for the path of a pack."""
    try:
        return day_of(path) > 0
    except ValueError:
        return False


def is_index_object(path: str) -> bool:
    """Returns True for the path of an index object."""
    return path.startswith(INDEX) and _NAME.fullmatch(path, len(INDEX)) is not None


def day_of(path: str) -> int:
    """Returns the day in the path of a pack as a number, 20260131. Raises ValueError if it is not such a path."""
    found = _PACK.fullmatch(path)
    if not found:
        raise ValueError(f"{path} is not the path of a pack")
    return _day_number(found[1])


@lru_cache(1024)  # a store has many packs of few days
def _day_number(text: str) -> int:
    """Raises ValueError if it is no day."""
    day = date.fromisoformat(text)
    return day.year * 10_000 + day.month * 100 + day.day


@lru_cache(1024)
def _day_text(number: int) -> str:
    """Raises ValueError if it is no day."""
    return date(number // 10_000, number // 100 % 100, number % 100).isoformat()


# ---- packs


def table_size(footer: Buffer, size: int, path: str) -> int:
    """Returns the bytes of the table of a pack of `size` bytes, as its footer says: the last 48 bytes of `footer`.
    Raises CorruptPack, which names `path`."""
    return _read_footer(footer, size, path)[1] * TABLE_ROW


def raw_table(tail: Buffer, size: int, path: str) -> memoryview:
    """Returns the rows of the table of a pack of `size` bytes, 44 bytes each. `tail` is the end of the pack, at least
    the table and the footer. Raises CorruptPack, which names `path`, unless the table is intact and the blobs in it
    fill the pack exactly."""
    digest, count = _read_footer(tail, size, path)
    view = memoryview(tail)
    if len(view) < count * TABLE_ROW + FOOTER:
        raise CorruptPack(f"{path}: its end is cut short", path=path)
    table = view[len(view) - FOOTER - count * TABLE_ROW : len(view) - FOOTER]
    if hashlib.sha256(table).digest() != digest:
        raise CorruptPack(f"{path}: its table does not match its footer", path=path)
    lengths = [length for _, length, _ in _ROW.iter_unpack(table)]
    if min(lengths) == 0 or sum(lengths) + len(table) + FOOTER != size:
        raise CorruptPack(f"{path}: its blobs and their table do not add up to its {size} bytes", path=path)
    return table


def read_table(tail: Buffer, size: int, path: str) -> list[TableRow]:
    """Returns the blobs in a pack of `size` bytes, in order. Takes and raises what raw_table does."""
    return read_rows(raw_table(tail, size, path))


def read_rows(table: Buffer) -> list[TableRow]:
    """Returns the blobs in a table, rows of 44 bytes."""
    rows, offset = [], 0
    for raw, length, check in _ROW.iter_unpack(table):
        rows.append(TableRow(name_of(raw), offset, length, check))
        offset += length
    return rows


def find_row(table: Buffer, name: str) -> TableRow | None:
    """Returns the first row of a blob in a table, without its offset (-1); None if there is none."""
    raw, rows = raw_name(name), bytes(table)
    at = rows.find(raw)
    while at % TABLE_ROW and at >= 0:
        at = rows.find(raw, at + 1)
    if at < 0:
        return None
    _, size, check = _ROW.unpack_from(rows, at)
    return TableRow(name, -1, size, check)


def is_good_blob(row: TableRow, data: Buffer) -> bool:
    """Returns True if `data` is the blob that was packed."""
    return len(data) == row.size and hashlib.sha256(data).digest()[:CHECK] == row.check


def check_pack(data: Buffer, path: str) -> PackCheck:
    """Checks a whole pack without a key: its table, each blob, and its name. Raises ValueError if `path` has no
    name."""
    view = memoryview(data)
    try:
        rows = read_table(view, len(view), path)
    except CorruptPack as error:
        return PackCheck(str(error), [], [])
    damaged = [row for row in rows if not is_good_blob(row, view[row.offset : row.offset + row.size])]
    if damaged:
        return PackCheck(f"{path}: it has damaged blobs, {len(damaged)} of {len(rows)}", rows, damaged)
    is_named = hashlib.sha256(view).digest() == raw_name(path)
    return PackCheck("" if is_named else f"{path}: its name is not its sha256", rows, [])


def heal(data: Buffer, path: str, blobs: Iterable[tuple[str, int, int]]) -> bytes | None:
    """Returns a whole pack with its table and footer made anew, from its blobs and what an index says of them: name,
    offset, size. Only if that gives what the pack's name is the sha256 of, else None."""
    view, table, end = memoryview(data), bytearray(), 0
    for name, offset, size in sorted(blobs, key=lambda blob: blob[1]):
        if offset != end:
            return None
        end += size
        table += _ROW.pack(raw_name(name), size, hashlib.sha256(view[offset:end]).digest()[:CHECK])
    footer = _FOOTER.pack(hashlib.sha256(table).digest(), len(table) // TABLE_ROW, PACK_VERSION, 0, PACK_MAGIC)
    healed = b"".join((view[:end], table, footer))
    return healed if hashlib.sha256(healed).digest() == raw_name(path) else None


def _read_footer(tail: Buffer, size: int, path: str) -> tuple[bytes, int]:
    """Returns the sha256 of the table, and how many rows it has."""
    if len(tail) < FOOTER or size > MAX_PACK:
        raise CorruptPack(f"{path}: {size} bytes are no pack", path=path)
    digest, count, version, flags, magic = _FOOTER.unpack(memoryview(tail)[-FOOTER:])
    if magic != PACK_MAGIC:
        raise CorruptPack(f"{path}: it does not end as a pack does", path=path)
    if (version, flags) != (PACK_VERSION, 0):
        raise CorruptPack(f"{path}: a pack of version {version}, flags {flags:#x}", "upgrade pogfast", path=path)
    if not 0 < count * TABLE_ROW <= min(size - FOOTER, MAX_INDEX):
        raise CorruptPack(f"{path}: it cannot hold {count} blobs, as its footer says", path=path)
    return digest, count


# ---- index objects


def read_header(data: Buffer, path: str = "an index object", *, size: int | None = None) -> IndexHeader:
    """Reads what an index object says about packs, from all of it, or from its beginning if `size` is what it has in
    all. Its rows are not read: `check_index` of the engine checks them. Raises CorruptPack, which names `path`, unless
    everything before the rows and the length are as FORMAT.md says."""
    view = memoryview(data)
    try:
        return _parse_header(view, len(view) if size is None else size)
    except (ValueError, struct.error) as error:
        raise CorruptPack(f"{path}: it is not an index of packs: {error}", path=path) from error


def _parse_header(view: memoryview, size: int) -> IndexHeader:
    """Raises ValueError and struct.error."""
    magic, version, packs, blobs, superseded, bits = _HEADER.unpack_from(view)
    if (magic, version) != (INDEX_MAGIC, INDEX_VERSION):
        raise ValueError("another magic or version")
    if bits != fan_out_bits(blobs):
        raise ValueError(f"a fan-out of {bits} bits for {blobs} blobs")
    rows = _HEADER.size + packs * _INDEXED.size + superseded * RAW_NAME
    if size != rows + ((1 << bits) + 1) * 8 + blobs * (RAW_NAME + _COLUMNS):
        raise ValueError(f"it has {size} bytes, not what its header says")
    between = _HEADER.size + packs * _INDEXED.size
    return IndexHeader(
        _listed_packs(view[_HEADER.size : between]),
        [index_path(raw) for raw in _ascending(_raw_names(view[between:rows]))],
        blobs,
    )


def fan_out_bits(blobs: int) -> int:
    """Returns by how many bits of a name the fan-out of an index of so many blobs is indexed."""
    return min(_MAX_BITS, max(0, -(-blobs // _PER_SLOT) - 1).bit_length())


def _listed_packs(table: memoryview) -> list[PackInfo]:
    rows = list(_INDEXED.iter_unpack(table))
    _ascending([row[0] for row in rows])
    if not all(MIN_PACK <= size <= MAX_PACK and zero == 0 for _, size, _, zero in rows):
        raise ValueError("a pack of an impossible size")
    return [PackInfo(pack_path(raw, day), size) for raw, size, day, _ in rows]


def _raw_names(table: memoryview) -> list[bytes]:
    return [bytes(table[at : at + RAW_NAME]) for at in range(0, len(table), RAW_NAME)]


def _ascending(names: list[bytes]) -> list[bytes]:
    if any(one >= other for one, other in pairwise(names)):
        raise ValueError("its packs or superseded indexes are not in order")
    return names


# ---- pogfast.store


@dataclass(frozen=True)
class StoreSettings:
    """What `pogfast.store` says: whether new small blobs are packed, and how. What it says besides is kept."""

    is_packing: bool = True  # False: packs may be there, but new blobs are stored as objects of their own
    size: int = DEFAULT_SIZE  # bytes of blobs at which a pack is closed
    limit: int = DEFAULT_LIMIT  # bytes that a blob in a pack may have
    others: Mapping[str, Any] = field(default_factory=dict)  # keys that this version does not know
    pack_others: Mapping[str, Any] = field(default_factory=dict)  # the same in "packs"

    @classmethod
    def parse(cls, data: Buffer, store: str) -> StoreSettings:
        """Parses the object; `store` is for messages. Raises StoreError for one that a newer pogfast wrote, and
        CorruptPack for one that does not parse."""
        try:
            text = bytes(data)
            words = json.loads(text) if text.count(b"[") + text.count(b"{") <= _MAX_BRACKETS else None
            if not isinstance(words, dict):
                raise ValueError("it is not a JSON object of a few words")
            _check_age(words.pop("layout", None), words.pop("requires", None), store)
            return cls._of_packs(words.pop("packs", None), words)
        except ValueError as error:
            raise CorruptPack(f"{store}: {SETTINGS} does not parse: {error}", path=SETTINGS) from error

    @classmethod
    def _of_packs(cls, packs: object, others: Mapping[str, Any]) -> StoreSettings:
        """Raises ValueError."""
        if packs is None:
            return cls(False, others=others)
        if not isinstance(packs, dict):
            raise ValueError('"packs" is not an object')
        size = _whole("size", packs.pop("size", DEFAULT_SIZE), MIN_SIZE, MAX_SIZE)
        limit = _whole("limit", packs.pop("limit", min(DEFAULT_LIMIT, size)), 0, size)
        return cls(True, size, limit, others, packs)

    def serialize(self) -> bytes:
        """Returns the object."""
        packs = {"size": self.size, "limit": self.limit, **self.pack_others} if self.is_packing else None
        words = {"layout": STORE_LAYOUT, "packs": packs, "requires": [PACKS_WORD], **self.others}
        return json.dumps(words).encode() + b"\n"

    def packing(self, size: int) -> StoreSettings:
        """Returns these settings with packs of `size` bytes; the limit is at most that."""
        return replace(self, is_packing=True, size=size, limit=min(self.limit, size))

    def not_packing(self) -> StoreSettings:
        """Returns these settings for a store whose new blobs are objects of their own."""
        return replace(self, is_packing=False)


def _whole(key: str, value: object, minimum: int, maximum: int) -> int:
    """Returns a value from JSON. Raises ValueError unless it is a whole number from `minimum` to `maximum`."""
    if type(value) is not int or not minimum <= value <= maximum:
        raise ValueError(f'"{key}" in "packs" is not {minimum} to {maximum} bytes')
    return value


def _check_age(layout: object, requires: object, store: str) -> None:
    """Raises StoreError for what a newer version wrote, ValueError for what no version writes."""
    if type(layout) is not int or layout < STORE_LAYOUT or not isinstance(requires, list):
        raise ValueError('"layout" is not a version, or "requires" is not a list')
    if layout != STORE_LAYOUT or not all(word == PACKS_WORD for word in requires):
        words = f"layout {layout}, requires {requires}"[:100]
        raise StoreError(f"{store}: it was made by a newer pogfast: {words}", hint="upgrade pogfast")

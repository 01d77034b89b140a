"""Reading packs: their tables, and blobs, which are compared with the checks in the tables. No key is needed.

A pack that cannot be read, as on a bad sector, is damage of that pack alone, so that commands go on with the others. A
StoreError of another kind than denied access or cold storage says that the store cannot be read at all.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from pogfast.errors import CorruptPack, DamageError, MissingBlob, StoreError
from pogfast.stores.packs import layout
from pogfast.stores.protocols import InColdStorage
from pogfast.stores.service import AccessDenied

if TYPE_CHECKING:
    from pogfast._engine import Buffer
    from pogfast.stores.names import Stored
    from pogfast.stores.packs.layout import TableRow
    from pogfast.stores.protocols import HoldsPacks

# Bytes of a pack's end that are read first: a table of 1,400 blobs and the footer.
TAIL = 64 << 10
# Bytes between two blobs that are read with them: they take less time than another request.
MAX_GAP = 1 << 20
# Bytes that are read at a time: several pieces have to fit into memory.
MAX_PIECE = 64 << 20


def read_table(base: HoldsPacks, pack: Stored, blobs: int = 0) -> bytes:
    """Reads the table of a pack, by one request if it has no more than so many blobs. Raises what read_part does."""
    tail = min(max(TAIL, blobs * layout.TABLE_ROW + layout.FOOTER), pack.size)
    data = read_part(base, pack.name, pack.size - tail, tail)
    whole = layout.table_size(data[-layout.FOOTER :], pack.size, pack.name) + layout.FOOTER
    if whole > tail:
        more = read_part(base, pack.name, pack.size - whole, whole - tail)
        data = memoryview(b"".join((more, data)))
    return bytes(layout.raw_table(data[-whole:], pack.size, pack.name))


def read_blobs(base: HoldsPacks, path: str, rows: Iterable[TableRow]) -> Iterator[tuple[TableRow, memoryview | None]]:
    """Yields blobs of a pack, in its order, each with its bytes; None for a damaged one, which has been read a second
    time. Raises what read_part does."""
    for piece in pieces(rows):
        yield from read_piece(base, path, piece)


def read_piece(base: HoldsPacks, path: str, piece: Sequence[TableRow]) -> list[tuple[TableRow, memoryview | None]]:
    """Reads one of the `pieces` of a pack. Returns and raises what read_blobs does."""
    start, end = span_of(piece)
    data = read_part(base, path, start, end - start)
    blobs = ((row, data[row.offset - start : row.offset - start + row.size]) for row in piece)
    return [(row, blob if layout.is_good_blob(row, blob) else _read_again(base, path, row)) for row, blob in blobs]


def span_of(piece: Sequence[TableRow]) -> tuple[int, int]:
    """Returns the offsets in the pack at which a piece begins and ends."""
    return piece[0].offset, piece[-1].offset + piece[-1].size


def read_part(base: HoldsPacks, path: str, start: int, size: int) -> memoryview:
    """Reads bytes of a pack. Raises MissingBlob, CorruptBlob if the pack ends before, CorruptPack if it is there and
    cannot be read, AccessDenied, and StoreError."""
    with _telling_apart(base, path):
        return memoryview(base.read_range(path, start, size))


def read_whole(base: HoldsPacks, path: str) -> Buffer:
    """Reads a pack, whatever its size is. Raises what read_part does."""
    with _telling_apart(base, path):
        return base.get_object(path, layout.MAX_PACK)


@contextlib.contextmanager
def _telling_apart(base: HoldsPacks, path: str) -> Iterator[None]:
    """Raises a StoreError only if it is about the whole store; CorruptPack, MissingBlob, AccessDenied and
    InColdStorage are about one pack."""
    try:
        yield
    except (AccessDenied, InColdStorage):  # which is no damage
        raise
    except StoreError as error:
        if isinstance(error.__cause__, PermissionError):  # of a file
            raise AccessDenied(str(error), error.hint) from error
        if next(iter(base.objects(path)), None) is None:  # raises StoreError if nothing can be read
            raise MissingBlob(f"{path} cannot be read, and is not listed: {error}") from error
        raise CorruptPack(str(error), error.hint, path=path) from error


def _read_again(base: HoldsPacks, path: str, row: TableRow) -> memoryview | None:
    """Reads a blob alone; returns None if it is damaged. Raises MissingBlob and StoreError."""
    try:
        data = read_part(base, path, row.offset, row.size)
    except MissingBlob:
        raise
    except DamageError:
        return None
    return data if layout.is_good_blob(row, data) else None


def pieces(rows: Iterable[TableRow]) -> Iterator[list[TableRow]]:
    """Yields blobs of a pack that are read together, in the order of the pack."""
    piece: list[TableRow] = []
    for row in sorted(rows, key=lambda row: row.offset):
        if piece and (
            row.offset - (piece[-1].offset + piece[-1].size) > MAX_GAP
            or row.offset + row.size - piece[0].offset > MAX_PIECE
        ):
            yield piece
            piece = []
        piece.append(row)
    if piece:
        yield piece

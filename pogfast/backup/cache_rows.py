"""What a row of the cache says of a file, and how it is packed into the columns of the database.

Also the rule by which a file counts as unchanged: git's, for what git calls racy files. No database is opened here.
"""

from __future__ import annotations

import binascii
import struct
from collections.abc import Sequence
from typing import NamedTuple

DIGEST_SIZE = 32
NOT_NAMED = bytes(DIGEST_SIZE)  # for a chunk without a plain name
# Names are in urlsafe base64. Through binascii itself it takes a third of the time of the module base64.
STANDARD, URL_SAFE = bytes.maketrans(b"-_", b"+/"), bytes.maketrans(b"+/", b"-_")
# How long a file's timestamps may stay the same while it changes. Kernels take them from a tick of at most 10 ms, which
# comes late on a busy virtual machine; file systems without fractions of a second keep 1 s or (FAT) 2 s.
TICK_NS = 100_000_000
COARSE_NS = 2_000_000_000


class StatData(NamedTuple):
    """What stays the same while a file does not change: its size in bytes, times in nanoseconds since 1970 and inode.
    `system` identifies the file system, or is 0 where timestamps and inode are enough."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    system: int = 0


class KnownBlobs(NamedTuple):
    """A file's blobs in order, and the bytes of each in the store; only the first ones if not `complete`.

    `sizes` are the uncompressed bytes in each, unless they follow from how files are cut. `plain_names` are names of
    the uncompressed chunks, 32 bytes or empty; of all blobs or of none.
    """

    names: list[str]
    stored: list[int]
    complete: bool
    sizes: Sequence[int] = ()
    plain_names: Sequence[bytes] = ()


def is_racy(data: StatData, read_at_ns: int) -> bool:
    """Returns True if the file may have changed after `read_at_ns` and kept its timestamps.

    An mtime in the future was set by somebody and says nothing; a ctime cannot be set.
    """
    blind = TICK_NS if data.ctime_ns % 1_000_000_000 else COARSE_NS
    return read_at_ns - data.ctime_ns < blind or 0 <= read_at_ns - data.mtime_ns < blind


def packed_digests(names: list[str]) -> bytes:
    """Returns the digests that blob names encode, joined."""
    return b"".join([binascii.a2b_base64(name.encode().translate(STANDARD)) for name in names])


def unpacked_names(digests: bytes) -> list[str]:
    """Returns the blob names that `packed_digests` was given."""
    if len(digests) == DIGEST_SIZE:
        return [_name(digests)]
    return [_name(digests[i : i + DIGEST_SIZE]) for i in range(0, len(digests), DIGEST_SIZE)]


def _name(digest: bytes) -> str:
    return binascii.b2a_base64(digest, newline=False).translate(URL_SAFE).decode()


def packed_sizes(stored: list[int], sizes: Sequence[int]) -> bytes:
    """Packs sizes into 8 bytes each, first those in the store, then the uncompressed ones; into only 16 bytes if there
    are no uncompressed ones and all but the last are equal."""
    if not sizes and len(stored) > 2 and stored[:-1].count(stored[0]) == len(stored) - 1:
        stored = [stored[0], stored[-1]]
    return struct.pack(f"<{len(stored) + len(sizes)}Q", *stored, *sizes)


def unpacked_sizes(packed: bytes, n: int) -> tuple[list[int], tuple[int, ...]]:
    """Returns (sizes in the store, uncompressed sizes if there are any) of the `n` blobs of a file."""
    if len(packed) == 8:
        return [int.from_bytes(packed, "little")], ()
    numbers = list(struct.unpack(f"<{len(packed) // 8}Q", packed))
    if len(numbers) in (n, 2 * n):
        return numbers[:n], tuple(numbers[n:])
    return [numbers[0]] * (n - 1) + [numbers[1]], ()

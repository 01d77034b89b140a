"""How files are cut into chunks in the `frames` layout: every so many bytes, or by their content.

What a user writes, `fixed` or `fastcdc:1MB,4MB,16MB`, becomes the numbers by which the engine cuts
(ext/write/fastcdc.pxi). Cuts by content depend on the key: without it nobody can tell from the sizes of the chunks
whether a file that he has is among them. With key pairs, whoever has the public key can.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from pogfast.errors import UsageError
from pogfast.keys import Key
from pogfast.sizes import parse_size

LEAST = 64  # bytes; the hash depends on so many
# A mean of 4 MB: a terabyte is 250,000 blobs, and an edit costs 4 MB. Least and most are as far from it as with restic.
MEAN = 4_000_000
SPREAD = 4  # from the least size to the mean, and from there to the most, where only the mean is given
GEARS = 256
# Bytes that a user can ask for at least: a page of a disk. A gigabyte in smaller chunks is a million files and more.
SMALLEST = 4096


class Chunker(NamedTuple):
    """Sizes of chunks in bytes; all the same where files are not cut by content."""

    least: int
    mean: int
    most: int

    @classmethod
    def parse(cls, text: str, chunk_size: int) -> Chunker:
        """`fixed`, `fixed:SIZE` (instead of `chunk_size`), `fastcdc`, `fastcdc:MEAN` or `fastcdc:LEAST,MEAN,MOST`.
        Raises UsageError."""
        kind, colon, sizes = text.partition(":")
        if kind == "fixed":
            size = parse_size("--chunker", sizes) if colon else chunk_size
            return cls(size, size, size)
        given = [parse_size("--chunker", size) for size in sizes.split(",")] if sizes else [MEAN]
        if len(given) == 1:
            given = [max(given[0] // SPREAD, LEAST), given[0], given[0] * SPREAD]
        if kind != "fastcdc" or len(given) != 3 or text.endswith(":"):
            raise UsageError(
                f"no such chunker: {text}", hint="fixed, fixed:16MB, fastcdc, fastcdc:4MB or fastcdc:1MB,4MB,16MB"
            )
        chunker = cls(*given)
        if not LEAST <= chunker.least < chunker.mean < chunker.most < 2**40:
            raise UsageError(
                f"{text}: the least size ({LEAST} or more), the mean and the most must ascend, below 1 TiB"
            )
        return chunker

    def check(self) -> Chunker:
        """Returns these sizes. Raises UsageError for chunks so small that nobody can want them."""
        if self.least < SMALLEST:
            raise UsageError(
                f"chunks of {self.least:,} bytes are too small: at least {SMALLEST:,}",
                hint="each chunk is a file or an object of its own, with 150 bytes of overhead; 4MB to 50MB is usual",
            )
        return self

    @property
    def by_content(self) -> bool:
        return self.least != self.most

    def __str__(self) -> str:
        """As a manifest keeps it, and `parse` reads it; where it is `fixed`, the size is kept beside it."""
        return "fastcdc:" + ",".join(map(str, self)) if self.by_content else "fixed"

    def content(self, key: Key) -> tuple[int, int, bytes] | None:
        """What the engine is told: minimum and mean size, and the table of the hash; None where cuts are fixed."""
        if not self.by_content:
            return None
        table = hashlib.shake_256(key.derive("fastcdc gear table")).digest(GEARS * 8)
        return self.least, self.mean, table

"""How files are cut into chunks in the `frames` layout: at fixed sizes, or by content (FastCDC).

Turns what a user writes, `fixed` or `fastcdc:1MB,4MB,16MB`, into the numbers that the engine cuts by. Content-defined
cuts depend on the key: without it, nobody can tell from the sizes of the chunks whether a known file is in the archive.
With key pairs, anybody who has the public key can.
"""

from __future__ import annotations

from typing import NamedTuple

from pogfast.errors import UsageError
from pogfast.keys import Key
from pogfast.sizes import parse_size

MIN_SIZE = 64  # bytes: the rolling hash depends on this many
# A mean of 4 MB: a terabyte is 250,000 blobs, and an edit costs 4 MB. Minimum and maximum are in restic's ratio.
MEAN = 4_000_000
SPREAD = 4  # minimum to mean, and mean to maximum, if only the mean is given
# The smallest size in bytes that a user may ask for: a disk page. A gigabyte in smaller chunks is a million files.
MIN_USEFUL_SIZE = 4096


class Chunker(NamedTuple):
    """Sizes of chunks in bytes; all three are equal unless files are cut by content."""

    minimum: int
    mean: int
    maximum: int

    @classmethod
    def parse(cls, text: str, chunk_size: int) -> Chunker:
        """Parses `fixed`, `fixed:SIZE` (instead of `chunk_size`), `fastcdc`, `fastcdc:MEAN` or `fastcdc:MIN,MEAN,MAX`.
        Raises UsageError."""
        kind, colon, sizes = text.partition(":")
        if kind == "fixed":
            size = parse_size("--chunker", sizes) if colon else chunk_size
            return cls(size, size, size)
        given = [parse_size("--chunker", size) for size in sizes.split(",")] if sizes else [MEAN]
        if len(given) == 1:
            given = [max(given[0] // SPREAD, MIN_SIZE), given[0], given[0] * SPREAD]
        if kind != "fastcdc" or len(given) != 3 or text.endswith(":"):
            raise UsageError(
                f"no such chunker: {text}", hint="fixed, fixed:16MB, fastcdc, fastcdc:4MB or fastcdc:1MB,4MB,16MB"
            )
        chunker = cls(*given)
        if not MIN_SIZE <= chunker.minimum < chunker.mean < chunker.maximum < 2**40:
            raise UsageError(f"{text}: minimum ({MIN_SIZE} or more), mean and maximum must ascend, and be below 1 TiB")
        return chunker

    def check(self) -> Chunker:
        """Returns these sizes. Raises UsageError if chunks would be uselessly small."""
        if self.minimum < MIN_USEFUL_SIZE:
            raise UsageError(
                f"chunks of {self.minimum:,} bytes are too small: at least {MIN_USEFUL_SIZE:,}",
                hint="each chunk is a file or an object of its own, with 150 bytes of overhead; 4MB to 50MB is usual",
            )
        return self

    @property
    def by_content(self) -> bool:
        """True for FastCDC, False for fixed sizes."""
        return self.minimum != self.maximum

    def __str__(self) -> str:
        """Returns the text for the manifest, which `parse` reads; for `fixed` the manifest has the size separately."""
        return "fastcdc:" + ",".join(map(str, self)) if self.by_content else "fixed"

    def content(self, key: Key) -> tuple[int, int, bytes] | None:
        """Returns the engine's parameters: minimum and mean size, and the table of the hash; None for fixed cuts."""
        if not self.by_content:
            return None
        return self.minimum, self.mean, key.gears()

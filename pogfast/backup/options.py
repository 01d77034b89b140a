"""Options of create: layout, chunk sizes, level, memory, exclusions, and the description stored in the archive.

Sizes are in bytes. Impossible values and combinations raise UsageError.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from pogfast._engine import LEVELS
from pogfast.backup.chunker import Chunker
from pogfast.backup.shards import Shard, span_size
from pogfast.backup.walk import Selection
from pogfast.errors import UsageError
from pogfast.sizes import check_jobs

CHUNK_SIZE = 50_000_000
# Memory for a chunk in flight, in chunk sizes: its compressed form, by zstd's bound for incompressible data; in the
# `frames` layout its uncompressed bytes as well.
CHUNK_MEMORY = {"stream": 1 + 1 / 128, "frames": 2 + 1 / 128}
SLACK = 320 * 1024  # bytes: read-ahead, headers and padding
Layout = Literal["frames", "stream"]


@dataclass(frozen=True)
class Options:
    """Options of create, sizes in bytes. None: the default (`jobs`: the cores; `memory`: a chunk for each job)."""

    layout: Layout = "frames"
    chunk_size: int = CHUNK_SIZE
    chunker: str = "fixed"  # cuts every chunk_size bytes; fastcdc has its own sizes: see Chunker.parse
    level: int = 3
    jobs: int | None = None
    readers: int | None = None
    memory: int | None = None
    selection: Selection = field(default_factory=Selection)
    base: str | None = None
    tags: Sequence[str] = ()
    host: str | None = None
    comment: str = ""
    cache_directory: str | None = None  # None: the user's; "": none
    force: bool = False  # read every file and store every blob again, whatever the cache and the stores have
    pad: bool = False  # pad new blobs to sizes that hide how long their content is
    must_exist: bool = False  # never create a store
    dry_run: bool = False
    shard: Shard | None = None  # archive this part of the tree only, for `merge`
    count_ahead: bool = False  # count files and bytes in the background, for a display of what is left

    def __post_init__(self) -> None:
        if self.layout not in ("frames", "stream"):
            raise UsageError(f"no such layout: {self.layout}", hint="frames or stream")
        if not LEVELS[0] <= self.level <= LEVELS[1]:
            raise UsageError(f"no such level: {self.level}", hint=f"zstd has {LEVELS[0]} to {LEVELS[1]}")
        if not 1 <= self.chunk_size <= 2**62:
            raise UsageError(f"chunk size must be 1 to {2**62}, not {self.chunk_size}")
        check_jobs(self.jobs)
        check_jobs(self.readers, "readers")
        if self.cuts.by_content and self.layout == "stream":
            raise UsageError("the stream layout cuts as pog does: fastcdc needs the frames layout")
        if self.memory is not None and self.memory < self.chunk_memory:
            raise UsageError(
                f"one chunk needs {self.chunk_memory} bytes of memory, more than the budget of {self.memory}",
                hint="allow more memory, or choose a smaller chunk size",
            )

    @property
    def cuts(self) -> Chunker:
        """Returns how files are cut. Raises UsageError."""
        return Chunker.parse(self.chunker, self.chunk_size)

    @property
    def cut(self) -> str:
        """Returns how files are cut, as text: blobs that were cut otherwise do not fit together."""
        return f"{self.layout} {self.cuts if self.cuts.by_content else self.cuts.maximum}"

    @property
    def span_size(self) -> int | None:
        """Returns how many bytes of a large file a shard takes; None if a file is never shared."""
        if self.shard is None or self.cuts.by_content or self.layout == "stream":
            return None
        return span_size(self.cuts.maximum)

    @property
    def chunk_memory(self) -> int:
        """Returns the most bytes of memory that a chunk in flight can take."""
        return int(self.cuts.maximum * (CHUNK_MEMORY[self.layout] + self.pad / 32)) + SLACK

    def slabs(self, jobs: int) -> int:
        """Returns how many chunks may be in flight."""
        if self.memory is not None:
            return self.memory // self.chunk_memory
        return jobs + (self.layout == "stream")

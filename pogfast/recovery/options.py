"""How to restore: what replaces what, which metadata is set, and how many cores work.

Refuses what cannot be meant.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, get_args

from pogfast.errors import UsageError
from pogfast.sizes import check_jobs

Overwrite = Literal["never", "if-changed", "always"]


@dataclass(frozen=True)
class Options:
    """How to restore. `jobs` None: as many as there are cores."""

    exclude: Collection[str] = ()  # patterns
    overwrite: Overwrite = "never"
    strip_components: int = 0  # parts that every path loses in front; what has no more is not restored
    delete: bool = False  # what lies below the selected directories and is not in the archive
    dry_run: bool = False
    numeric_owner: bool = False
    no_owner: bool = False  # everything belongs to whoever restores it
    set_id: bool = False  # restore set-id bits of files, capabilities, and what else gives rights
    no_sync: bool = False  # do not wait for the disk: a power cut may then leave files that seem to be restored
    jobs: int | None = None

    def __post_init__(self) -> None:
        if self.overwrite not in get_args(Overwrite):
            raise UsageError(f"no such way to overwrite: {self.overwrite}", hint=", ".join(get_args(Overwrite)))
        if self.strip_components < 0:
            raise UsageError("parts to strip must be at least 0")
        check_jobs(self.jobs)

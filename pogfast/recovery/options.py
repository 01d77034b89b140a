"""Options of restore: what may be replaced or deleted, which metadata is set, and how many cores work.

Impossible values raise UsageError.
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
    """Options of restore."""

    exclude: Collection[str] = ()  # patterns
    overwrite: Overwrite = "never"
    strip_components: int = 0  # leading parts that every path loses; paths without more parts are not restored
    delete: bool = False  # delete what lies below the selected directories and is not in the archive
    dry_run: bool = False
    numeric_owner: bool = False
    no_owner: bool = False  # everything belongs to the user who restores it
    set_id: bool = False  # restore set-id bits of files, capabilities, and other attributes that give privileges
    no_sync: bool = False  # do not wait for the disk: a power cut may then leave files that only look complete
    jobs: int | None = None  # None: as many as there are cores

    def __post_init__(self) -> None:
        if self.overwrite not in get_args(Overwrite):
            raise UsageError(f"not a value for overwrite: {self.overwrite}", hint=", ".join(get_args(Overwrite)))
        if self.strip_components < 0:
            raise UsageError("the number of components to strip must be at least 0")
        check_jobs(self.jobs)

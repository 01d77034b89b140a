"""What a restore reports while it runs, and what it returns.

No text is printed here: the command line and `pogfast ui` show it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from pogfast.errors import PogfastError, TargetError, worst_code
from pogfast.recovery.batches import Outcome


class Progress(NamedTuple):
    """Where a run stands. Bytes are plain ones of files: `done` needs no more work, `written` was restored for it."""

    files: int
    bytes_done: int
    bytes_written: int
    total_files: int
    total_bytes: int


class Report(Protocol):
    """What the caller wants to hear."""

    def started(self, progress: Callable[[], Progress]) -> None:
        """`progress` may be called from any thread until the run ends. The totals are known from the first."""

    def entry(self, name: str, outcome: Outcome, size: int) -> None:
        """Of every file, link and FIFO without a problem, of directories that are made, and of what is deleted, which
        has its path below the directory. `size` is the plain bytes of a file."""

    def warning(self, text: str) -> None: ...

    def problem(self, error: PogfastError) -> None: ...


class Silent:
    """A report to nobody."""

    def started(self, progress: Callable[[], Progress]) -> None: ...

    def entry(self, name: str, outcome: Outcome, size: int) -> None: ...

    def warning(self, text: str) -> None: ...

    def problem(self, error: PogfastError) -> None: ...


@dataclass
class Summary:
    """What was done, or with a dry run would be."""

    files: int = 0  # restored, hard links among them
    directories: int = 0  # made
    links: int = 0
    fifos: int = 0
    metadata: int = 0  # files, links, FIFOs that were there already, and got their owner, permissions or attributes
    unchanged: int = 0  # those that were there already, and stay as they are
    differing: int = 0  # of these, and of directories, those with other metadata than in the archive
    refused: list[str] = field(default_factory=list)  # something else is there and may not be replaced
    deleted: int = 0
    bytes_written: int = 0
    missed: int = 0  # owners, permissions, attributes and times that could not be set
    warnings: int = 0  # these among them
    seconds: float = 0.0
    problems: list[PogfastError] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        not_restored = [TargetError.exit_code] if self.refused or self.missed else []
        return worst_code([*not_restored, *(problem.exit_code for problem in self.problems)])

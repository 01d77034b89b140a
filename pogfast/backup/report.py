"""What a create reports while it runs, and what it returns.

No text is printed here: the command line and `pogfast ui` show it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

from pogfast.errors import PogfastError

Outcome = Literal["new", "unchanged", "hardlink", "directory", "link", "fifo", "skipped"]


class Progress(NamedTuple):
    """Where a run stands. `bytes_done` are plain bytes that were read or need not be; totals are None until known."""

    files: int
    bytes_done: int
    bytes_read: int
    bytes_stored: int
    blobs_new: int
    total_files: int | None
    total_bytes: int | None


class Report(Protocol):
    """What the caller wants to hear. Files come in the order of the archive, other kinds as they are found."""

    def started(self, progress: Callable[[], Progress]) -> None:
        """`progress` may be called from any thread until the run ends."""

    def entry(self, name: str, path: str, outcome: Outcome, size: int) -> None: ...

    def detail(self, text: str) -> None:
        """For those who want to know how it is done."""

    def note(self, text: str) -> None:
        """Information that is the same in every run: never shown by a quiet one."""

    def warning(self, text: str) -> None: ...

    def problem(self, error: PogfastError) -> None: ...

    def concluding(self, manifest: str) -> None:
        """All blobs are stored; the manifest of this name comes next. What is raised here keeps it from appearing."""


@dataclass
class Summary:
    """What was done. Sizes are bytes; `added` went into the first target, `stored` is what the archive takes there.
    After a dry run `manifest` is "", and new blobs and requests are the most that there would be."""

    manifest: str = ""
    files_new: int = 0
    files_unchanged: int = 0
    directories: int = 0
    skipped: int = 0  # sockets and devices
    others: int = 0  # links, FIFOs and further names of a file
    bytes_source: int = 0
    bytes_read: int = 0
    bytes_stored: int = 0
    bytes_added: int = 0
    bytes_repeated: int = 0  # that blobs which come again in the archive did not take again
    blobs_new: int = 0
    blobs_known: int = 0
    seconds: float = 0.0
    requests: dict[str, int] = field(default_factory=dict)  # to services, by kind
    problems: list[PogfastError] = field(default_factory=list)


class Silent:
    """A report to nobody."""

    def started(self, progress: Callable[[], Progress]) -> None: ...

    def entry(self, name: str, path: str, outcome: Outcome, size: int) -> None: ...

    def detail(self, text: str) -> None: ...

    def note(self, text: str) -> None: ...

    def warning(self, text: str) -> None: ...

    def problem(self, error: PogfastError) -> None: ...

    def concluding(self, manifest: str) -> None: ...

"""What a create reports while it runs, and what it returns.

No text is printed here: the command line shows it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

from pogfast.cluster.tally import WorkerTally
from pogfast.errors import PogfastError

Outcome = Literal["new", "unchanged", "hardlink", "directory", "link", "fifo", "skipped"]


class Progress(NamedTuple):
    """How far a run is. `bytes_done` are uncompressed bytes that were read or did not need to be; totals are None until
    they are known."""

    files: int
    bytes_done: int
    bytes_read: int
    bytes_stored: int
    blobs_new: int
    total_files: int | None
    total_bytes: int | None
    workers: int | None = None  # threads of an executor's workers; None without one


class Report(Protocol):
    """Receives what happens during a create. Every method does nothing unless it is overridden.

    Files come in the order of the archive, everything else as it is found.
    """

    def started(self, progress: Callable[[], Progress]) -> None:
        """Called first. `progress` may be called from any thread until the run ends."""
        return

    def entry(self, name: str, path: str, outcome: Outcome, size: int) -> None:
        """Called for each entry. `name` is its archived name, `size` the uncompressed bytes of a file."""
        return

    def entries(self, found: Iterable[tuple[str, str, Outcome, int]]) -> None:
        """Called in place of `entry` for many files. Who does not need them does not iterate."""
        for each in found:
            self.entry(*each)

    def detail(self, text: str) -> None:
        """Called for how the work is done, as the number of workers: for verbose output."""
        return

    def note(self, text: str) -> None:
        """Called for information that is the same in every run: quiet runs do not show it."""
        return

    def warning(self, text: str) -> None:
        """Called for what a user should know, although it is no failure."""
        return

    def problem(self, error: PogfastError) -> None:
        """Called for each source that cannot be read and each store that is lost; the run continues."""
        return

    def concluding(self, manifest: str) -> None:
        """Called when all blobs are stored, before the manifest of this name is. An exception aborts publication."""
        return


class Silent(Report):
    """Reports nothing."""

    def entries(self, found: Iterable[tuple[str, str, Outcome, int]]) -> None:
        if type(self).entry is not Silent.entry:  # else nobody needs their names
            super().entries(found)


@dataclass
class Summary:
    """What was done. Sizes are in bytes. `bytes_added` were written to the first store, `bytes_stored` is what the
    archive takes there. After a dry run `manifest` is "", and new blobs and requests are upper limits."""

    manifest: str = ""
    part: str = ""  # of a shard: then there is no manifest yet
    files_new: int = 0
    files_unchanged: int = 0
    directories: int = 0
    skipped: int = 0  # sockets and devices
    others: int = 0  # links, FIFOs and hard links
    bytes_source: int = 0
    bytes_read: int = 0
    bytes_stored: int = 0
    bytes_added: int = 0
    bytes_repeated: int = 0  # saved because blobs that occur in the archive several times are stored once
    blobs_new: int = 0
    blobs_known: int = 0
    seconds: float = 0.0
    packs_new: int = 0  # in which new blobs are
    workers: dict[str, WorkerTally] = field(default_factory=dict)  # of an executor: what each has done
    retries: int = 0  # units of work that were given to another worker
    requests: dict[str, int] = field(default_factory=dict)  # to object services, by kind
    advice: list[str] = field(default_factory=list)  # what would make later runs take fewer requests
    problems: list[PogfastError] = field(default_factory=list)
    stores: list[str] = field(default_factory=list)  # the addresses of those that have the archive

"""What a restore reports while it runs, and what it returns.

No text is printed here: the command line shows it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from pogfast.cluster.tally import Tallies
from pogfast.errors import PogfastError, TargetError, worst_code
from pogfast.files.directories import IN_THE_WAY
from pogfast.recovery.batches import Outcome
from pogfast.recovery.plan import Place
from pogfast.sizes import many


class Progress(NamedTuple):
    """How far a restore is. Bytes are uncompressed bytes of files: those of `bytes_done` need no more work, those of
    `bytes_written` had to be written for that."""

    files: int
    bytes_done: int
    bytes_written: int
    total_files: int
    total_bytes: int


class Report(Protocol):
    """Receives what happens during a restore. Every method does nothing unless it is overridden."""

    def started(self, progress: Callable[[], Progress]) -> None:
        """Called first. `progress` may be called from any thread until the run ends; it knows the totals."""
        return

    def entry(self, name: str, outcome: Outcome, size: int) -> None:
        """Called for each file, link and FIFO without a problem, each directory that is created, and each deletion
        (with the path below the target directory as its name). `size` is the uncompressed bytes of a file."""
        return

    def warning(self, text: str) -> None:
        """Called for what a user should know, although it is no failure."""
        return

    def problem(self, error: PogfastError) -> None:
        """Called for each entry that cannot be restored; the run continues."""
        return


class Silent(Report):
    """Reports nothing."""


@dataclass
class Summary:
    """What was done, or in a dry run would be done."""

    files: int = 0  # restored, including hard links
    directories: int = 0  # created
    links: int = 0
    fifos: int = 0
    metadata: int = 0  # files, links, FIFOs that existed already, and got their owner, permissions or attributes
    unchanged: int = 0  # those that existed already, and stay as they are
    differing: int = 0  # of these, and of directories, those with other metadata than in the archive
    refused: list[str] = field(default_factory=list)  # something else exists there and may not be replaced
    deleted: int = 0
    bytes_written: int = 0
    missed: int = 0  # owners, permissions, attributes and times that could not be set
    warnings: int = 0  # including the missed ones
    seconds: float = 0.0
    tallies: Tallies = field(default_factory=Tallies)  # of the workers of an executor
    problems: list[PogfastError] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """The exit code of the command: damage counts more than anything else."""
        not_restored = [TargetError.exit_code] if self.refused or self.missed else []
        return worst_code([*not_restored, *(problem.exit_code for problem in self.problems)])


class Reporter:
    """Counts in the summary whatever is passed on to the caller's report."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self.summary = Summary()
        # Path of a file or link where a directory should be -> the first problem with it, and how many names have it.
        self._in_the_way: dict[str, tuple[PogfastError, int]] = {}

    def outcome(self, place: Place, outcome: Outcome) -> None:
        """Reports the outcome of an entry without a problem."""
        if outcome in ("unchanged", "differs"):
            self.summary.unchanged += 1
            self.summary.differing += outcome == "differs"
        elif outcome == "metadata":
            self.summary.metadata += 1
        elif outcome == "refused":
            self.summary.refused.append(place.name)
        self.report.entry(place.name, outcome, place.size)

    def deleted(self, path: str) -> None:
        """Reports a deletion."""
        self.summary.deleted += 1
        self.report.entry(path, "deleted", 0)

    def problem(self, problem: PogfastError, path: str) -> None:
        """Reports a problem with a path; one that every path below a file or link has waits for `report_in_the_way`."""
        if problem.reason == IN_THE_WAY:
            first, count = self._in_the_way.get(problem.path, (problem, 0))
            self._in_the_way[problem.path] = first, count + 1
            return
        problem.path = problem.path or path
        self._report(problem)

    def report_in_the_way(self) -> None:
        """Reports, once for each link or file, what could not be restored below it."""
        for problem, count in self._in_the_way.values():
            problem.args = (f"{problem} ({many(count, 'name')})",)
            self._report(problem)

    def _report(self, problem: PogfastError) -> None:
        self.summary.problems.append(problem)
        self.report.problem(problem)

    def missed(self, text: str) -> None:
        """Reports metadata that could not be set."""
        self.summary.missed += 1
        self.warn(text)

    def warn(self, text: str) -> None:
        """Reports a warning."""
        self.summary.warnings += 1
        self.report.warning(text)

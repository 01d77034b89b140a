"""What the packages below report while they work, as counters and lists of a job, and their summaries in words.

The words are those of the command line. Names that are not interesting, such as files that were restored, are counted
and not listed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from pogfast import backup, recovery
from pogfast.errors import PogfastError
from pogfast.sizes import many, show_size
from pogfast.ui.jobs import DAMAGE, Counters, Job
from pogfast.upkeep import checking, copying


class RestoreReport(recovery.Silent):
    """Shows a restore."""

    def __init__(self, job: Job) -> None:
        self.warning = job.warning  # type: ignore[method-assign]
        self.problem = job.problem  # type: ignore[method-assign]
        self._job = job

    def started(self, progress: Callable[[], recovery.Progress]) -> None:
        def counters() -> Counters:
            now = progress()
            return Counters(now.files, now.total_files, now.bytes_done, now.total_bytes, now.bytes_written)

        self._job.counters = counters

    def entry(self, name: str, outcome: str, size: int) -> None:
        if outcome == "refused":
            self._job.note("Left as they are: something else exists there", name)


def restored(job: Job, summary: recovery.Summary) -> None:
    """Shows the summary of a restore."""
    job.exit_code = summary.exit_code
    speed = show_size(summary.bytes_written / summary.seconds if summary.seconds else 0)
    others = many(summary.links + summary.fifos, "other")
    directories = many(summary.directories, "directory", "directories")
    job.summary = [
        ("Restored", f"{many(summary.files, 'file')}, {show_size(summary.bytes_written)} ({speed}/s)"),
        ("Besides", f"{directories}, {others}; {summary.unchanged:,} unchanged"),
    ]
    if summary.metadata:
        job.summary.append(("Metadata", f"restored for {many(summary.metadata, 'file')} that existed already"))
    if summary.refused:
        job.summary.append(("Not restored", f"{many(len(summary.refused), 'name')}: something else exists there"))
    if summary.missed:
        job.summary.append(("Could not be set", f"owners, permissions, attributes or times: {summary.missed:,}"))
    if summary.problems:
        job.summary.append(("Errors", f"{len(summary.problems):,}"))


class CreateReport(backup.Silent):
    """Shows a backup."""

    def __init__(self, job: Job) -> None:
        self.warning = job.warning  # type: ignore[method-assign]
        self._job = job

    def started(self, progress: Callable[[], backup.Progress]) -> None:
        def counters() -> Counters:
            now = progress()
            return Counters(now.files, now.total_files, now.bytes_done, now.total_bytes, now.bytes_read)

        self._job.counters = counters

    def entries(self, found: Iterable[tuple[str, str, backup.Outcome, int]]) -> None:
        for each in found:
            self.entry(*each)

    def entry(self, name: str, path: str, outcome: backup.Outcome, size: int) -> None:
        if outcome == "new":
            self._job.note("New and changed", name)
        elif outcome == "skipped":
            self._job.note("Sockets and devices, left out", path)

    def problem(self, error: PogfastError) -> None:
        self._job.problem(error)


def created(job: Job, summary: backup.Summary) -> None:
    """Shows the summary of a backup."""
    files = summary.files_new + summary.files_unchanged
    speed = show_size(summary.bytes_read / summary.seconds if summary.seconds else 0)
    directories = many(summary.directories, "directory", "directories")
    packed = f", {summary.bytes_source / summary.bytes_stored:.2f} : 1" if summary.bytes_stored else ""
    blobs, taken = many(summary.blobs_new, "blob"), show_size(summary.bytes_stored)
    job.exit_code = max((error.exit_code for error in summary.problems), default=0)
    job.summary = [
        ("Archive", summary.manifest),
        ("Files", f"{files:,}: {summary.files_new:,} new, {summary.files_unchanged:,} unchanged; {directories}"),
        ("Read", f"{show_size(summary.bytes_read)} of {show_size(summary.bytes_source)} ({speed}/s)"),
        ("Stored", f"{show_size(summary.bytes_added)} new in {blobs}; the archive takes {taken}{packed}"),
    ]
    if summary.problems:
        job.summary.append(("Errors", f"{len(summary.problems):,}, listed below"))
    for advice in summary.advice:
        job.note("Hints", advice)


class CheckReport(checking.Silent):
    """Shows a check."""

    def __init__(self, job: Job) -> None:
        self.warning = job.warning  # type: ignore[method-assign]
        self.problem = job.problem  # type: ignore[method-assign]
        self._job = job

    def started(self, progress: checking.Summary) -> None:
        def counters() -> Counters:
            read = progress.read_size + progress.in_progress()
            if progress.to_read_size:
                return Counters(progress.read, None, read, progress.to_read_size, read, "blob")
            return Counters(progress.archives, progress.total_archives or None, 0, None, 0, "archive")

        self._job.counters = counters

    def damage(self, damage: checking.Damage) -> None:
        start = f", from byte {damage.offset:,} on" if damage.offset else ""
        origin = "" if damage.archive in damage.error else f"{damage.archive}: "
        self._job.note(DAMAGE, f"{origin}{damage.error}{start}")


def checked(job: Job, summary: checking.Summary) -> None:
    """Shows the summary of a check."""
    job.exit_code = summary.exit_code
    files = {damage.name for damage in summary.damage if damage.name is not None}
    archives = {damage.archive for damage in summary.damage if damage.archive}
    blobs = f"{many(summary.blobs, 'blob')}, {show_size(summary.stored)}"
    found = "no damage found"
    if summary.damage:
        found = f"{many(len(files), 'file')} in {many(len(archives), 'archive')} damaged"
    read = f"{many(summary.read, 'blob')}, {show_size(summary.read_size)}" if summary.to_read else "no data was read"
    job.summary = [
        ("Result", found),
        ("Checked", ", ".join([many(summary.archives, "archive"), many(summary.files, "file"), blobs])),
        ("Read", read),
    ]


class CopyReport(copying.Silent):
    """Shows a copy of archives."""

    def __init__(self, job: Job) -> None:
        self.warning = job.warning  # type: ignore[method-assign]
        self.problem = job.problem  # type: ignore[method-assign]
        self._job = job

    def started(self, progress: copying.Summary) -> None:
        def counters() -> Counters:
            now = progress
            return Counters(now.blobs, now.total_blobs or None, now.size, now.total_size, now.size, "blob")

        self._job.counters = counters


def copied(job: Job, summary: copying.Summary) -> None:
    """Shows the summary of a copy."""
    job.exit_code = max((error.exit_code for error in summary.problems), default=0)
    job.summary = [
        ("Copied", f"{many(summary.archives, 'archive')}, {many(summary.blobs, 'blob')}, {show_size(summary.size)}"),
    ]

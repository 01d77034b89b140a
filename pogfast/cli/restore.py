"""`pogfast restore`: its options, and its results as lines or JSON.

The package `recovery` defines what the options mean and restores; thawing.py in it requests blobs from cold storage.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from pogfast.cli.command import PATH, Whole, verb
from pogfast.cli.formatting import lines_of_workers, workers_as_json
from pogfast.cli.options import (
    archive_filter_options,
    displayed,
    executor_of,
    executor_options,
    jobs_option,
    key_of,
    key_options,
    require_archive,
    service_options,
)
from pogfast.cli.output import Output
from pogfast.errors import UsageError
from pogfast.sizes import many, show_size

if TYPE_CHECKING:
    from pogfast.cli.progress import Display
    from pogfast.keys import Key
    from pogfast.recovery import Progress, Summary


@verb(
    "restore",
    exit_codes={
        3: "a file was not restored, or not all are readable yet (--thaw)",
        4: "a file or the manifest is damaged",
        10: "no such store or archive",
        12: "wrong key",
    },
    examples=(
        "pogfast restore /mnt/backup/latest --into restored",
        "pogfast restore /mnt/backup/latest home/u/mail '*.jpg' --into restored --overwrite if-changed",
        "pogfast restore latest --from /mnt/backup,s3://bucket/laptop --into restored",
        "pogfast restore /shared/backup/latest --into /shared/restored --executor dask:tls://head:8786",
    ),
)
@click.argument("archive", metavar="ARCHIVE", type=PATH)
@click.argument("names", nargs=-1, metavar="[NAME|PATTERN]...")
@click.option("--into", required=True, metavar="DIR", type=PATH, help="Directory to restore into; created if needed.")
@click.option(
    "--from",
    "stores",
    metavar="STORE,STORE",
    help="Stores that have the archive; ARCHIVE is its name alone. Damaged data is taken from the next.",
)
@click.option("--exclude", metavar="PATTERN", multiple=True, help="Exclude what matches; may be repeated.")
@click.option(
    "--overwrite",
    type=click.Choice(["never", "if-changed", "always"]),
    default="never",
    show_default=True,
    help="Replace existing files: never, if different, or always.",
)
@click.option("--delete", is_flag=True, help="Delete what is in restored directories but not in the archive.")
@click.option(
    "--strip-components",
    metavar="N",
    type=Whole(0, 4096),
    default=0,
    help="Drop the first N components of each path.",
)
@click.option("--numeric-owner", is_flag=True, help="Restore owners by number, ignoring their names.")
@click.option("--no-owner", is_flag=True, help="Do not restore owners.")
@click.option(
    "--set-id", is_flag=True, help="Restore set-id bits of files and capabilities; only for trusted archives."
)
@click.option("--no-sync", is_flag=True, help="Do not sync to disk at the end.")
@click.option("-n", "--dry-run", is_flag=True, help="Write nothing; print what would be restored.")
@click.option(
    "--thaw",
    metavar="WAY",
    type=click.Choice(["standard", "bulk", "expedited"]),
    is_flag=False,
    flag_value="standard",
    help="Request blobs in cold storage; restore when all are readable.",
)
@click.option(
    "--thaw-days", metavar="N", type=Whole(1, 36500), help="Days for which thawed blobs stay readable.  [default: 7]"
)
@jobs_option
@archive_filter_options
@key_options
@service_options
@executor_options
def restore(output: Output, archive: str, names: tuple[str, ...], into: str, **options: Any) -> None:
    """Restore an archive, or parts of it.

    A NAME is an archived name, as shown by `pogfast ls`, with everything below it; anything else is a pattern. Files
    that exist and are the same are left alone: a second run continues an interrupted one.
    """
    from pogfast import recovery

    stores, tier, days = _stores(archive, options.pop("stores")), options.pop("thaw"), options.pop("thaw_days")
    executor, crew_options = executor_of(options)
    if days is not None and tier is None:
        raise UsageError("--thaw-days needs --thaw")
    if tier is not None and stores:
        raise UsageError("--thaw takes one store: it cannot be combined with --from")
    if not stores:
        require_archive(archive)
    with displayed(output, "restore", "restore") as display:
        key = key_of(options)
        choice = {word: options.pop(word) for word in ("host", "tags", "path")}
        settings = recovery.Options(**options)
        if tier is not None and not _request_thaw(
            output, display, archive, key, into, tier=tier, days=days or 7, names=names, options=settings, **choice
        ):
            return
        report = RestoreReport(output, display, settings.dry_run)
        summary = recovery.restore(
            archive,
            key,
            into,
            names=names,
            stores=stores,
            report=report,
            options=settings,
            executor=executor,
            crew_options=crew_options,
            **choice,
        )
    output.raise_exit_code(summary.exit_code)
    _print_summary(output, summary, settings.dry_run)


def _stores(archive: str, given: str | None) -> list[str]:
    """Returns the stores of --from. Raises UsageError."""
    if given is None:
        return []
    from pogfast.stores import check_stores, names_archive

    check_stores(given)
    if "/" in archive or not names_archive(archive):
        raise UsageError(f"with --from, ARCHIVE must be a name alone, not {archive}", hint="write latest, or NAME.mfn")
    return given.split(",")


def _request_thaw(
    output: Output, display: Display, archive: str, key: Key, into: str, *, tier: Any, **more: Any
) -> bool:
    """Requests blobs in cold storage. Returns True if all are readable, otherwise prints what to do next."""
    from pogfast.recovery.thawing import TAKES, thaw

    summary = thaw(archive, key, into, tier=tier, **more)
    display.stop()
    output.emit(
        "thaw",
        readable=summary.readable,
        asked=summary.asked,
        coming=summary.coming,
        missing=summary.missing,
        packs=summary.packs,
        pack_bytes=summary.pack_bytes,
        needed_bytes=summary.needed_bytes,
        tier=tier,
    )
    if not summary.waiting:
        return True
    output.exit_code = 3
    what = "object" if summary.packs else "blob"
    output.info(
        f"requested {many(summary.asked, what)} from cold storage; {summary.coming:,} requested earlier, "
        f"{summary.readable:,} readable"
    )
    if summary.packs:
        size, needed = show_size(summary.pack_bytes), show_size(summary.needed_bytes)
        output.info(f"{many(summary.packs, 'pack')} among these: thaws {size} for {needed} that the restore needs")
    output.info(f"retrieval takes {TAKES[tier]}; after that, run the same command again")
    return False


class RestoreReport:
    """Prints what a restore reports, as lines or JSON."""

    def __init__(self, output: Output, display: Display, dry_run: bool) -> None:
        self.output = output
        self.display = display
        self.dry_run = dry_run
        self.warning = output.warning
        self.problem = output.problem

    def started(self, progress: Callable[[], Progress]) -> None:
        from pogfast.cli.progress import Counters

        def counters() -> Counters:
            now = progress()
            figures = {"restored": now.bytes_written}
            return Counters(now.files, now.total_files, now.bytes_done, now.total_bytes, figures)

        self.display.watch(counters)

    def entry(self, name: str, outcome: str, size: int) -> None:
        if outcome == "refused":
            self.output.refused(name, "something else exists there and is not replaced")
        else:
            self.output.item(outcome, name, size, self.dry_run)


def _print_summary(output: Output, summary: Summary, dry_run: bool) -> None:
    output.emit(
        "summary",
        dry_run=dry_run,
        files_restored=summary.files,
        metadata_restored=summary.metadata,
        metadata_missed=summary.missed,
        metadata_differs=summary.differing,
        files_skipped=summary.unchanged,
        files_refused=len(summary.refused),
        files_deleted=summary.deleted,
        dirs_restored=summary.directories,
        links_restored=summary.links,
        fifos_restored=summary.fifos,
        bytes_restored=summary.bytes_written,
        seconds_elapsed=round(summary.seconds, 3),
        error_count=len(summary.problems),
        **workers_as_json(summary.tallies.workers, summary.tallies.retries),
    )
    verb = "would restore" if dry_run else "restored"
    speed = show_size(summary.bytes_written / summary.seconds if summary.seconds else 0)
    output.info(
        f"{verb} {many(summary.files, 'file')}, {show_size(summary.bytes_written)} in {summary.seconds:.1f} s "
        f"({speed}/s); "
        f"{many(summary.directories, 'directory', 'directories')}, {many(summary.links + summary.fifos, 'other')}; "
        f"{summary.unchanged:,} unchanged"
    )
    for line in lines_of_workers(summary.tallies.workers, summary.tallies.retries):
        output.info(line)
    if summary.metadata:
        lacked = "existing files that had other permissions, owners or attributes"
        output.info(f"{verb} the metadata of {summary.metadata:,} {lacked}")
    if summary.differing:
        have = "existing entries with other permissions, owners or attributes, left unchanged"
        output.info(f"{have}: {summary.differing:,} (--overwrite=if-changed restores these)")
    if summary.deleted:
        output.info(f"{'would delete' if dry_run else 'deleted'} {summary.deleted:,} that are not in the archive")
    if summary.refused:
        hint = "--overwrite=if-changed replaces them"
        output.info(f"not restored, because something else exists there: {len(summary.refused):,} ({hint})")
    if summary.missed:
        output.info(f"owners, permissions, attributes or times that could not be set: {summary.missed:,}, named above")
    if summary.problems:
        output.info(f"{many(len(summary.problems), 'error')}, named above")


VERBS = {"restore": restore}

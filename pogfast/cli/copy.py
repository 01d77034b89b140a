"""`pogfast copy`: its options, and its results as lines or JSON.

upkeep/copying.py does the work.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from pogfast.cli.command import PATH, verb
from pogfast.cli.options import (
    archive_filter_options,
    displayed,
    jobs_option,
    key_options,
    object_lock_option,
    optional_key,
    packs_option,
    require_archive,
    require_store,
    service_options,
    storage_class_option,
    store_of,
)
from pogfast.cli.output import Output
from pogfast.sizes import many, show_size

if TYPE_CHECKING:
    from pogfast.cli.progress import Display
    from pogfast.upkeep.copying import Summary


@verb(
    "copy",
    exit_codes={
        3: "some archives need another key",
        4: "damaged archives or blobs were not copied",
        10: "no such store or archive",
        12: "no archive opens with this key",
    },
    examples=(
        "pogfast copy /mnt/backup s3://bucket/laptop",
        "pogfast copy /mnt/backup/latest /mnt/second",
    ),
)
@click.argument("source", metavar="FROM", type=PATH)
@click.argument("target", metavar="TO", type=PATH, required=False)
@click.argument("archives", nargs=-1, metavar="[NAME.mfn]...")
@jobs_option
@click.option("--verify", is_flag=True, help="Also read what TO already has, and store damaged data again.")
@click.option("-n", "--dry-run", is_flag=True, help="Copy nothing; print how much would be copied.")
@archive_filter_options
@key_options
@service_options
@storage_class_option
@object_lock_option
@packs_option
def copy(output: Output, source: str, target: str | None, archives: tuple[str, ...], **options: Any) -> None:
    """Copy archives from one store to another.

    FROM is a store or an archive. Copies all archives, or those named. Only blobs missing in TO are sent, and verified
    as far as a key allows; without a key, only a whole store can be copied.
    """
    from pogfast.stores import MANIFEST, check_stores, names_archive
    from pogfast.upkeep import copying

    output.during = "copy"
    if target is None or target.endswith(MANIFEST):  # only TO, or TO and names: FROM is POGFAST_STORE
        archives = (*([] if target is None else [target]), *archives)
        source, target = store_of(None), source
    check_stores(target)
    (require_archive if names_archive(source) else require_store)(source)
    key = optional_key(options)
    with displayed(output, "copy", "copy") as display:
        summary = copying.copy(source, target, archives, key, report=Report(output, display), **options)
    output.raise_exit_code(summary.exit_code)
    _print_summary(output, summary)


class Report:
    """Prints what a copy reports, as lines or JSON."""

    def __init__(self, output: Output, display: Display) -> None:
        self.output = output
        self.display = display
        self.note = self.warning = output.warning
        self.problem = output.problem

    def started(self, progress: Summary) -> None:
        from pogfast.cli.progress import of_blobs

        self.display.watch(lambda: of_blobs(progress))

    def archive(self, name: str) -> None:
        self.display.check()
        if self.output.json:
            self.output.emit("snapshot", id=name)
        else:
            self.output.answer(name)


def _print_summary(output: Output, summary: Summary) -> None:
    output.emit(
        "summary",
        dry_run=summary.dry_run,
        snapshots_copied=summary.archives,
        snapshots_skipped=summary.archives_there,
        data_blobs=summary.total_blobs if summary.dry_run else summary.blobs,
        packs_new=summary.packs,
        data_added_packed=summary.total_size if summary.dry_run else summary.size,
        blobs_unread=summary.unread,
        blobs_known=summary.blobs_there,
        blobs_verified=summary.verified,
        blobs_mended=summary.mended,
        error_count=len(summary.problems),
    )
    blobs, size = (summary.total_blobs, summary.total_size) if summary.dry_run else (summary.blobs, summary.size)
    packs = f", small ones in {many(summary.packs, 'pack')}" if summary.packs else ""
    would = "would be copied" if summary.dry_run else "copied"
    output.info(
        f"{many(summary.archives, 'archive')} {would}, {summary.archives_there:,} there already; "
        f"{many(blobs, 'blob')}{packs}, {show_size(size)}; {summary.blobs_there:,} there already"
    )
    if summary.unread:
        output.info(
            f"{many(summary.unread, 'blob')} copied by the service itself, unread: damage in them was copied as well"
        )
    if summary.verified:
        output.info(f"{many(summary.verified, 'blob')} in the target read, {summary.mended:,} damaged and stored again")


VERBS = {"copy": copy}

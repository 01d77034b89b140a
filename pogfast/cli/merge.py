"""`pogfast merge`: its options, and its summary as lines or JSON.

backup/merging.py makes the archive.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from pogfast.cli.command import verb
from pogfast.cli.options import (
    key_of,
    key_options,
    object_lock_option,
    service_options,
    store_argument,
)
from pogfast.cli.output import Output
from pogfast.sizes import many, show_size

if TYPE_CHECKING:
    from pogfast.backup.merging import Merged


@verb(
    "merge",
    exit_codes={
        1: "a shard has to be run first, or again",
        3: "a file was left out, or one of several stores failed",
        4: "a part is damaged",
        10: "no such store, or no parts in it",
        12: "wrong key",
    },
    examples=(
        "pogfast merge s3://bucket/data --encryption-keyfile mine.encrypt",
        "pogfast merge /mnt/backup --set nightly --encryption-keyfile mine.encrypt",
    ),
)
@store_argument
@click.option("--set", "set_name", metavar="NAME", help="Merge the shards of this set, where there are several.")
@key_options
@service_options
@object_lock_option
def merge(output: Output, store: str, set_name: str | None, **options: Any) -> None:
    """Make the archive of what the shards of create have stored.

    Every shard of the set must have stored its part; those that are missing are named. The public key is enough.
    Several stores are separated by commas. Prints the name of the archive.
    """
    from pogfast.backup import merging
    from pogfast.cli.create import print_archive

    output.during = "merge"
    key = key_of(options, writing=True)
    merged = merging.merge(store, key, set_name=set_name, report=Report(output))
    _emit(output, merged)
    output.info(
        f"merged   {many(merged.shards, 'shard')}: {many(merged.files, 'file')}, {show_size(merged.bytes_source)}; "
        f"{many(merged.directories, 'directory', 'directories')}, {many(merged.others, 'other')}"
    )
    new, size = show_size(merged.bytes_added), show_size(merged.bytes_stored)
    output.info(f"stored   {new} new by the shards; the archive takes {size}")
    if not output.json:
        print_archive(output, merged.manifest)


def _emit(output: Output, merged: Merged) -> None:
    output.emit(
        "summary",
        snapshot_id=merged.manifest,
        shards=merged.shards,
        dirs=merged.directories,
        others=merged.others,
        data_added_packed=merged.bytes_added,
        total_files_processed=merged.files,
        total_bytes_processed=merged.bytes_source,
        total_bytes_stored=merged.bytes_stored,
        error_count=len(merged.problems),
        total_duration=round(merged.seconds, 3),
    )


class Report:
    """Prints what a merge reports."""

    def __init__(self, output: Output) -> None:
        self.output = output
        self.warning = output.warning
        self.problem = output.problem

    def concluding(self, manifest: str) -> None:
        """Aborts the merge if nobody reads standard output."""
        self.output.flush()


VERBS = {"merge": merge}

"""`pogfast pack` and `pogfast unpack`: their options, and their results as lines or JSON.

upkeep/packing.py does the work.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pogfast.cli.command import verb
from pogfast.cli.options import (
    displayed,
    object_lock_option,
    packs_option,
    service_options,
    storage_class_option,
    store_argument,
)
from pogfast.cli.output import Output
from pogfast.sizes import many, show_size

if TYPE_CHECKING:
    from pogfast.cli.progress import Display
    from pogfast.upkeep.packing import Summary

dry_run_option = click.option("-n", "--dry-run", is_flag=True, help="Move nothing; print how much would be moved.")


@verb(
    "pack",
    exit_codes={4: "blobs that are cut short were left as they are", 10: "no such store"},
    examples=("pogfast pack s3://bucket/laptop", "pogfast pack /mnt/backup --packs=64MiB"),
)
@store_argument
@packs_option
@dry_run_option
@service_options
@storage_class_option
@object_lock_option
def pack(output: Output, store: str, dry_run: bool) -> None:
    """Move small blobs of a store into packs.

    Later backups into the store pack as well. Needs no key; an interrupted run is continued by the same command.
    """
    from pogfast.stores.packs.sink import MIN_BLOBS, MIN_SIZE
    from pogfast.upkeep import packing

    with displayed(output, "pack", "pack") as display:
        summary = packing.pack(store, dry_run=dry_run, report=Report(output, display))
    output.raise_exit_code(summary.exit_code)
    _emit(output, summary)
    would = "would be moved" if dry_run else "moved"
    output.info(
        f"{many(summary.total_blobs if dry_run else summary.blobs, 'blob')} {would} into "
        f"{many(summary.packs, 'pack')}, {_size(summary)}" + _locked(summary)
    )
    if not summary.total_blobs and not summary.locked:
        output.info(
            f"nothing to move: fewer than {MIN_BLOBS} small blobs, or less than {MIN_SIZE >> 10} KiB of them, lie by "
            "themselves, and that few get no pack"
        )


@verb(
    "unpack",
    exit_codes={4: "damaged blobs were left in their packs", 10: "no such store"},
    examples=("pogfast unpack /mnt/backup",),
)
@store_argument
@dry_run_option
@service_options
@storage_class_option
@object_lock_option
def unpack(output: Output, store: str, dry_run: bool) -> None:
    """Move blobs out of packs.

    Each blob becomes an object of its own, as pog reads it; later backups into the store do not pack. Needs no key; an
    interrupted run is continued by the same command.
    """
    from pogfast.upkeep import packing

    with displayed(output, "unpack", "unpack") as display:
        summary = packing.unpack(store, dry_run=dry_run, report=Report(output, display))
    output.raise_exit_code(summary.exit_code)
    _emit(output, summary)
    would = "would be taken apart" if dry_run else "taken apart"
    left = f"; {many(summary.packs_left, 'pack')} left" if summary.packs_left else ""
    output.info(
        f"{many(summary.packs, 'pack')} {would}, {many(summary.total_blobs if dry_run else summary.blobs, 'blob')}, "
        f"{_size(summary)}{left}" + _locked(summary)
    )


class Report:
    """Shows the progress of a run, and prints its problems."""

    def __init__(self, output: Output, display: Display) -> None:
        self.display = display
        self.warning = output.warning
        self.problem = output.problem

    def started(self, progress: Summary) -> None:
        from pogfast.cli.progress import of_blobs

        self.display.watch(lambda: of_blobs(progress))


def _emit(output: Output, summary: Summary) -> None:
    output.emit(
        "summary",
        dry_run=summary.dry_run,
        packs=summary.packs,
        packs_left=summary.packs_left,
        data_blobs=summary.total_blobs if summary.dry_run else summary.blobs,
        data_added_packed=summary.total_size if summary.dry_run else summary.size,
        objects_locked=summary.locked,
        error_count=len(summary.problems),
    )


def _size(summary: Summary) -> str:
    return show_size(summary.total_size if summary.dry_run else summary.size)


def _locked(summary: Summary) -> str:
    return f"; {many(summary.locked, 'object')} locked, and left where they are" if summary.locked else ""


VERBS = {"pack": pack, "unpack": unpack}

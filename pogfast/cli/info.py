"""`pogfast info` and `stats`: print the figures of an archive and of a store, as lines or JSON.

archives/figures.py computes them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from pogfast.cli.command import PATH, verb
from pogfast.cli.formatting import left_out_text, number_text, size_text, time_text, without
from pogfast.cli.options import (
    archive_filter_options,
    key_of,
    key_options,
    open_archive,
    service_options,
    store_argument,
)
from pogfast.cli.output import Output
from pogfast.errors import MissingBlob
from pogfast.sizes import many

if TYPE_CHECKING:
    from pogfast.archives.figures import Info, Stats


@verb(
    "info",
    exit_codes={
        3: "a newer archive than latest does not open",
        4: "the manifest is damaged, or blobs are missing",
        10: "no such store or archive",
        12: "wrong key",
    },
    examples=("pogfast info /mnt/backup/latest",),
)
@click.argument("archive", metavar="ARCHIVE", type=PATH)
@archive_filter_options
@key_options
@service_options
def info(output: Output, archive: str, **options: Any) -> None:
    """Show the size and origin of an archive.

    When, where and how it was made, its contents, the size of its blobs in the store, and duplicate files.
    """
    from pogfast.archives.figures import info as figures
    from pogfast.archives.trailer import is_local

    with open_archive(output, archive, options) as opened:
        found = figures(opened, output.problem)
    _report_missing(output, found.missing, found.name)
    if output.json:
        output.emit("info", id=found.name, hostname=found.host, **without(found, "name"))
        return
    is_unknown = 0 < found.files == found.unknown
    _print_pairs(
        output,
        {
            "archive": found.name,
            "time": time_text(found.time, local=is_local(opened.described, found.name)),
            "host": found.host,
            "tags": ", ".join(found.tags),
            "comment": found.comment,
            "paths": ", ".join(found.paths),
            "made by": found.program,
            "layout": found.layout + _cut(found),
            "files": f"{found.files:,}" + (f", {found.unknown:,} of unknown size" if found.unknown else ""),
            "directories": f"{found.directories:,}",
            "links": f"{found.links:,}",
            "fifos": f"{found.fifos:,}",
            "size": size_text(None if is_unknown else found.size),
            "stored": f"{size_text(found.stored)} in {many(found.blobs, 'blob')}" + _ratio(found.ratio),
            "missing": many(found.missing, "blob") if found.missing else "",
            "duplicates": many(found.duplicates, "file")
            + ("" if is_unknown else f", {size_text(found.duplicate_size)}"),
            "left out": left_out_text(found),
            "largest": f"{found.largest}, {size_text(found.largest_size)}" if found.largest else "",
        },
    )


@verb(
    "stats",
    exit_codes={
        3: "some archives need another key",
        4: "some archives are damaged, or blobs are missing",
        10: "no such store, or an empty one",
        12: "no archive opens with this key",
    },
    examples=("pogfast stats /mnt/backup",),
)
@store_argument
@key_options
@service_options
def stats(output: Output, store: str, **options: Any) -> None:
    """Show the size of a store and how much of it is unneeded.

    Archives, files and blobs, their sizes, and blobs that no archive needs.
    """
    from pogfast.archives.figures import stats as figures
    from pogfast.stores import open_store

    output.during = "stats"
    key = key_of(options, store=store)
    opened = open_store(store)
    try:
        found = figures(opened, key, output.problem)
    finally:
        opened.close()
    _report_missing(output, found.missing, store)
    if output.json:
        output.emit("stats", **found.as_dict())
        return
    _print_pairs(
        output,
        {
            "archives": f"{found.archives:,}"
            + (f", {found.unreadable:,} that do not open" if found.unreadable else ""),
            "files": number_text(found.files),
            "size": size_text(found.size),
            "stored": f"{size_text(found.stored)} in {many(found.blobs, 'blob')}" + _ratio(found.ratio),
            "manifests": size_text(found.manifests),
            "packs": _packs(found),
            "not needed": f"{size_text(found.orphaned)} in {many(found.orphans, 'blob')}"
            + (" by the archives that open" if found.unreadable else ""),
            "missing": many(found.missing, "blob") if found.missing else "",
        },
    )


def _packs(found: Stats) -> str:
    if not found.packs:
        return ""
    packs, objects = many(found.packs, "pack"), many(found.index_objects, "index object")
    return f"{size_text(found.packed)} in {packs}, {size_text(found.wasted)} of it waste; {objects}"


def _report_missing(output: Output, missing: int, where: str) -> None:
    """Reports missing blobs, without which some files cannot be restored."""
    if missing:
        error = MissingBlob(f"{where}: {many(missing, 'blob')} missing", hint="pogfast check names the files")
        error.path = where
        output.problem(error)


def _cut(found: Info) -> str:
    """Returns how the files of an archive were cut into chunks."""
    if found.chunker:
        return f", cut by content, {found.chunker}"
    return f", chunks of {size_text(found.chunk_size)}" if found.chunk_size else ""


def _ratio(ratio: float | None) -> str:
    return "" if ratio is None else f", {ratio:.2f} : 1"


def _print_pairs(output: Output, pairs: dict[str, str]) -> None:
    """Prints the pairs that have a value."""
    for word, text in pairs.items():
        if text:
            output.answer(f"{word:12} {text}")


VERBS = {"info": info, "stats": stats}

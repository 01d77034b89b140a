"""`pogfast list`: prints the archives of a store as a table or JSON.

archives/overview.py reads them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from pogfast.cli.command import PATH, verb
from pogfast.cli.formatting import left_out_text, number_text, size_text, time_text, without
from pogfast.cli.options import key_of, key_options, service_options, store_argument, tag_option
from pogfast.cli.output import Output

if TYPE_CHECKING:
    from pogfast.archives.overview import ArchiveInfo


@verb(
    "list",
    exit_codes={
        3: "some archives need another key",
        4: "some archives are damaged",
        10: "no such store, or an empty one",
        12: "no archive opens with this key",
    },
    examples=("pogfast list /mnt/backup --host laptop --tag weekly",),
)
@store_argument
@click.option("--host", metavar="NAME", help="Only archives of this host.")
@tag_option("Only archives with all of these tags.")
@click.option("--path", metavar="PATH", type=PATH, help="Only archives of PATH.")
@click.option("--partial", is_flag=True, help="List unfinished runs, running or killed, instead.")
@key_options
@service_options
def list_archives(output: Output, store: str, partial: bool, **options: Any) -> None:
    """List the archives of a store.

    One line per archive, the newest last: time, host, files, their size, the size of its blobs in the store, name,
    tags, paths and comment.
    """
    from pogfast.archives.overview import archives
    from pogfast.archives.trailer import Filter
    from pogfast.stores import open_store

    key = key_of(options, store=store)
    wanted = Filter.of(**options)
    opened = open_store(store)
    try:
        wanted.require(key)
        infos = archives(opened, key, partial=partial)
    finally:
        opened.close()
    shown = [info for info in infos if info.problem or info.fits(wanted)]
    for info in shown if output.json else ():
        output.emit("snapshot", id=info.name, hostname=info.host, **without(info, "name"))
    if not output.json:
        none = f"no {'partial ' if partial else ''}archives {wanted}".rstrip()
        _print_table(output, [_row(info) for info in shown], none)
    _report_problems(output, infos)


HEAD = ["time", "host", "files", "size", "stored", "archive", "tags", "paths", "comment", "notes"]
RIGHT = {2, 3, 4}
# Columns that are omitted if they are empty for all archives.
MAY_BE_EMPTY = {6, 7, 8, 9}


def _row(info: ArchiveInfo) -> list[str]:
    return [
        time_text(info.time, local=info.local),
        info.host,
        number_text(info.files),
        size_text(info.size),
        size_text(info.stored),
        info.name,
        ", ".join(info.tags),
        ", ".join(info.paths),
        info.comment,
        PROBLEMS.get(info.code, info.problem) if info.problem else left_out_text(info),
    ]


# Exit code of an archive that does not open -> the note in its row; otherwise its error message is shown.
PROBLEMS = {12: "not opened by this key", 4: "damaged"}


def _report_problems(output: Output, infos: list[ArchiveInfo]) -> None:
    """Reports why archives do not open. Raises WrongKey if the key opens none."""
    from pogfast.archives.refusals import those_that_open

    for _ in those_that_open(
        ((info.name, info.error or info) for info in infos), lambda _, error: output.problem(error)
    ):
        pass


def _print_table(output: Output, rows: list[list[str]], none: str) -> None:
    """Prints the table, or `none` if it is empty: all were removed, a first run is going on, or no archive matches."""
    if not rows:
        output.info(none)
        return
    columns = [i for i in range(len(HEAD)) if i not in MAY_BE_EMPTY or any(row[i] for row in rows)]
    shown = [[row[i] for i in columns] for row in rows]
    output.table([HEAD[i] for i in columns], shown, {at for at, i in enumerate(columns) if i in RIGHT})


VERBS = {"list": list_archives}

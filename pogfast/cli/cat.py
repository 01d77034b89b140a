"""`pogfast cat`: writes a file of an archive to standard output.

archives/archive.py reads the blobs; nothing but the file's bytes is printed, so there is no JSON.
"""

from __future__ import annotations

from typing import Any

import click

from pogfast.cli.command import PATH, Size, verb
from pogfast.cli.options import archive_filter_options, jobs_option, key_options, open_archive, service_options
from pogfast.cli.output import Output
from pogfast.errors import UsageError


@verb(
    "cat",
    exit_codes={
        3: "no such file",
        4: "the file is damaged",
        10: "no such store or archive",
        12: "wrong key",
    },
    examples=(
        "pogfast cat /mnt/backup/latest home/u/notes.txt",
        "pogfast cat /mnt/backup/latest db.sql | psql db",
    ),
)
@click.argument("archive", metavar="ARCHIVE", type=PATH)
@click.argument("name", metavar="NAME")
@click.option("--offset", metavar="SIZE", type=Size(0), default=0, help="Skip SIZE bytes.")
@click.option("--length", metavar="SIZE", type=Size(0), help="Print at most SIZE bytes.")
@jobs_option
@archive_filter_options
@key_options
@service_options
def cat(output: Output, archive: str, name: str, offset: int, length: int | None, **options: Any) -> None:
    """Print a file from an archive.

    Its content goes to standard output. Only the blobs that are needed are read.
    """
    if output.json:
        raise UsageError("cat prints the file itself: it has no --json")
    with open_archive(output, archive, options) as opened:
        for piece in opened.read(name, offset, length):
            output.write(piece)


VERBS = {"cat": cat}

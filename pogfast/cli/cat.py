"""`pogfast cat`: prints a file of an archive."""

from __future__ import annotations

from typing import Any

import click

from pogfast.cli.frame import PATH, Size, verb
from pogfast.cli.options import choice_options, jobs_option, key_options, open_archive, service_options
from pogfast.cli.output import Output
from pogfast.errors import UsageError


@verb("cat")
@click.argument("archive", metavar="ARCHIVE", type=PATH)
@click.argument("name", metavar="NAME")
@click.option("--offset", metavar="SIZE", type=Size(0), default=0, help="Start behind so many bytes.")
@click.option("--length", metavar="SIZE", type=Size(0), help="Print at most SIZE.")
@jobs_option
@choice_options
@key_options
@service_options
def cat(output: Output, archive: str, name: str, offset: int, length: int | None, **options: Any) -> None:
    """Print a file of an archive, or a part of it.

    Only the blobs that the part lies in are read.
    """
    if output.json:
        raise UsageError("what cat prints is the file itself: there is no --json")
    with open_archive(output, archive, options) as opened:
        for piece in opened.read(name, offset, length):
            output.write(piece)


VERBS = {"cat": cat}

"""`pogfast diff`: prints what differs between two archives, as lines or JSON.

archives/differences.py compares the entries; blobs are not read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import click

from pogfast.cli.command import PATH, verb
from pogfast.cli.formatting import without
from pogfast.cli.options import archive_filter_options, key_of, key_options, reporter, require_archive, service_options
from pogfast.cli.output import Output

if TYPE_CHECKING:
    from pogfast.archives.archive import Archive
    from pogfast.archives.differences import Change
    from pogfast.keys import Key

# Kind of change -> restic's modifier; ? is ours: the archives are cut differently, so only reading would tell.
MODIFIERS = {"added": "+", "removed": "-", "modified": "M", "metadata": "U", "type": "T", "uncertain": "?"}


@verb(
    "diff",
    exit_codes={
        3: "a newer archive than latest does not open",
        4: "a manifest is damaged",
        10: "no such store or archive",
        12: "wrong key",
    },
    examples=("pogfast diff /mnt/backup/2026-11-25T12:00:00.000000.mfn /mnt/backup/latest",),
)
@click.argument("before", metavar="ARCHIVE", type=PATH)
@click.argument("after", metavar="ARCHIVE", type=PATH)
@click.option(
    "--metadata/--no-metadata", default=True, help="Show or hide entries that differ only in metadata.  [default: show]"
)
@archive_filter_options
@key_options
@service_options
def diff(output: Output, before: str, after: str, metadata: bool, **options: Any) -> None:
    """Show the differences between two archives.

    + added, - removed, M content modified, U only metadata modified, T type changed, ? content may differ, since the
    archives are cut differently. No blob is read.
    """
    from pogfast.archives.differences import diff as differences

    require_archive(before)
    require_archive(after)
    key = key_of(options)
    counts: Counter[str] = Counter()

    def shown(changes: Iterable[Change]) -> Iterator[Change]:
        for change in changes:
            if change.change != "metadata" or metadata:
                counts[change.change] += 1
                yield change

    with _one(output, before, key, options) as one, _one(output, after, key, options) as other:
        changes = shown(differences(one, other, output.problem))
        if output.json:
            for change in changes:
                output.emit("change", path=change.name, modifier=MODIFIERS[change.change], **without(change, "name"))
        else:
            output.answers(map(_line, changes))
    output.emit("statistics", source_snapshot=one.name, target_snapshot=other.name, **{w: counts[w] for w in MODIFIERS})
    if counts:
        output.info(", ".join(f"{count:,} {word}" for word, count in counts.items()))
    else:
        output.info("no difference")


def _one(output: Output, text: str, key: Key, options: dict[str, Any]) -> Archive:
    """Opens an archive; --host, --tag and --path apply to STORE/latest only."""
    from pogfast.stores import LATEST

    chosen = options if text.rpartition("/")[2] == LATEST else {}
    from pogfast.archives.lookup import open_archive

    return open_archive(text, key, **chosen, tell=reporter(output))


def _line(change: Change) -> str:
    why = f"  ({', '.join(change.metadata)})" if change.change == "metadata" else ""
    return f"{MODIFIERS[change.change]} {change.name}{why}"


VERBS = {"diff": diff}

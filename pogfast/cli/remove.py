"""`pogfast remove` and `rewrite`: remove single archives, and paths from archives.

upkeep/removing.py does the work; this module prints lines or JSON.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from pogfast.cli.command import PATH, verb
from pogfast.cli.options import (
    archive_filter_options,
    key_of,
    key_options,
    optional_key,
    require_archive,
    service_options,
)
from pogfast.cli.output import Output
from pogfast.sizes import many, show_size

if TYPE_CHECKING:
    from pogfast.upkeep.removing import Choice, Rewritten

yes_option = click.option("--yes", is_flag=True, help="Do it; otherwise only print what would be done.")


@verb(
    "remove",
    exit_codes={
        3: "an archive is locked",
        4: "the store has blobs but no archives",
        10: "no such store or archive",
        12: "wrong key (for latest)",
    },
    examples=("pogfast remove /mnt/backup/2026-11-25T12:00:00.000000.mfn --yes",),
)
@click.argument("archives", nargs=-1, required=True, metavar="ARCHIVE...", type=PATH)
@click.option("--allow-empty", is_flag=True, help="Allow removing the last archive of a store.")
@yes_option
@archive_filter_options
@key_options
@service_options
def remove(output: Output, archives: tuple[str, ...], yes: bool, **options: Any) -> None:
    """Remove single archives.

    Nothing is removed without --yes. A removed archive can be brought back with `undelete` until its grace period ends;
    `prune` then deletes its blobs. A key is needed only for STORE/latest.
    """
    from pogfast.upkeep import removing

    output.during = "remove"
    for archive in archives:
        require_archive(archive)
    key = optional_key(options)
    done = removing.remove(archives, key, dry_run=not yes, tell=output.problem, warn=output.warning, **options)
    for choice in done.choices:
        _print_choice(output, choice)
    output.raise_exit_code(done.exit_code)
    output.emit(
        "summary",
        dry_run=done.dry_run,
        snapshots_removed=done.removed,
        snapshots_kept=len(done.choices) - done.removed,
        error_count=len(done.problems),
    )
    if done.dry_run:
        output.info(f"{many(done.removed, 'archive')} would be removed; add --yes to do it")
    else:
        back = "; undo with `pogfast undelete`" if done.removed else ""
        output.info(f"{many(done.removed, 'archive')} removed{back}")


def _print_choice(output: Output, choice: Choice) -> None:
    if output.json:
        reasons = [choice.reason] if choice.reason else []
        words = {word: value for word, value in choice.as_dict().items() if word not in ("name", "host", "reason")}
        output.emit(
            "snapshot", id=choice.name, hostname=choice.host, keep=bool(choice.reason), reasons=reasons, **words
        )
        return
    time = "" if choice.time is None else f"{choice.time:%Y-%m-%d %H:%M:%S}"
    columns = filter(None, [time, choice.host, ", ".join(choice.paths), choice.reason])
    output.answer("  ".join([f"{'keep' if choice.reason else 'remove':6}", choice.name, *columns]))


@verb(
    "rewrite",
    exit_codes={
        3: "nothing matches, or an old archive is locked",
        4: "the manifest is damaged",
        10: "no such store or archive",
        12: "wrong key",
    },
    examples=("pogfast rewrite /mnt/backup/2026-11-25T12:00:00.000000.mfn --exclude secrets.txt --yes",),
)
@click.argument("archives", nargs=-1, required=True, metavar="ARCHIVE...", type=PATH)
@click.option(
    "--exclude", metavar="PATTERN", multiple=True, required=True, help="Exclude what matches; may be repeated."
)
@click.option("--keep", is_flag=True, help="Keep the old archives as well.")
@yes_option
@archive_filter_options
@key_options
@service_options
def rewrite(output: Output, archives: tuple[str, ...], exclude: tuple[str, ...], yes: bool, **options: Any) -> None:
    """Remove paths from archives.

    Writes a new archive without what matches and removes the old one, which can be brought back with `undelete` until
    its grace period ends. Reads no files and no blobs. Nothing is written without --yes.
    """
    from pogfast.upkeep import removing

    output.during = "rewrite"
    for archive in archives:
        require_archive(archive)
    key = key_of(options)
    done = removing.rewrite(
        archives, key, exclude, dry_run=not yes, tell=output.problem, warn=output.warning, **options
    )
    for each in done.archives:
        _print_rewritten(output, each)
    output.raise_exit_code(done.exit_code)
    changed = [each for each in done.archives if each.left_out]
    output.emit(
        "summary",
        dry_run=done.dry_run,
        snapshots_rewritten=len(changed),
        snapshots_unchanged=len(done.archives) - len(changed),
        snapshots_removed=sum(not each.kept for each in done.archives),
        error_count=len(done.problems),
    )
    would = "would be " if done.dry_run else ""
    size = show_size(sum(each.size for each in changed))
    output.info(
        f"{many(len(changed), 'archive')} {would}rewritten without "
        f"{many(sum(len(each.left_out) for each in changed), 'name')}, {size}"
    )
    if done.dry_run and changed:
        output.info("nothing was written; add --yes to do it")


def _print_rewritten(output: Output, done: Rewritten) -> None:
    """Prints the new name; in a dry run, or with -vv, also the names that are left out."""
    if output.json:
        output.emit("snapshot", id=done.new or None, original=done.name, keep=done.kept, left_out=done.left_out)
        return
    shown = output.answer if not done.new else lambda line: output.info(line, 2)
    for name in done.left_out:
        shown(f"left out  {done.name}  {name}")
    if done.new:
        output.answer(done.new)


VERBS = {"remove": remove, "rewrite": rewrite}

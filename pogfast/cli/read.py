"""`pogfast restore`, `cat` and `check`: the verbs that read blobs, and what they tell.

What is restored, read and checked is in the libraries; here their reports become lines and objects.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from pogfast.cli.frame import PATH, Size, Whole, verb
from pogfast.cli.options import (
    choice_options,
    displayed,
    jobs_option,
    key_of,
    key_options,
    look_for_archive,
    look_for_store,
    open_archive,
    raise_worst,
    service_options,
    store_of,
)
from pogfast.cli.output import Output
from pogfast.cli.write import tell_item
from pogfast.errors import UsageError
from pogfast.sizes import many, show_size

if TYPE_CHECKING:
    from pogfast.archives.differences import Compared, Difference
    from pogfast.cli.progress import Counters, Display
    from pogfast.keys import Key
    from pogfast.recovery import Progress, Summary
    from pogfast.upkeep.checking import Damage
    from pogfast.upkeep.checking import Summary as Checked


# ---- restore ---------------------------------------------------------------------------------------------------------


@verb("restore")
@click.argument("archive", metavar="ARCHIVE", type=PATH)
@click.argument("names", nargs=-1, metavar="[NAME|PATTERN]...")
@click.option("--into", required=True, metavar="DIR", type=PATH, help="Directory to restore into; created if needed.")
@click.option(
    "--from",
    "stores",
    metavar="STORE,STORE",
    help="ARCHIVE is a name alone: the first store that has good data gives it.",
)
@click.option("--exclude", metavar="PATTERN", multiple=True, help="Exclude what matches; may be repeated.")
@click.option(
    "--overwrite",
    type=click.Choice(["never", "if-changed", "always"]),
    default="never",
    show_default=True,
    help="Where a different file exists: report it, or replace it (always: identical files as well).",
)
@click.option("--delete", is_flag=True, help="Delete what is in restored directories and not in the archive.")
@click.option(
    "--strip-components",
    metavar="N",
    type=Whole(0, 4096),
    default=0,
    help="Drop the first N parts of each path.",
)
@click.option("--numeric-owner", is_flag=True, help="Restore owners by number, not by name.")
@click.option("--no-owner", is_flag=True, help="Restore no owners: all files belong to the user who restores.")
@click.option("--set-id", is_flag=True, help="Restore set-id bits of files, and capabilities. Trust the archive first.")
@click.option("--no-sync", is_flag=True, help="Do not wait until all is on the disk.")
@click.option("-n", "--dry-run", is_flag=True, help="Write nothing; list what would be restored.")
@click.option(
    "--thaw",
    metavar="WAY",
    type=click.Choice(["standard", "bulk", "expedited"]),
    is_flag=False,
    flag_value="standard",
    help="Ask for the blobs that lie in cold storage; restore when all can be read.",
)
@click.option("--thaw-days", metavar="N", type=Whole(1, 36500), help="Days for which they stay readable.  [default: 7]")
@jobs_option
@choice_options
@key_options
@service_options
def restore(output: Output, archive: str, names: tuple[str, ...], into: str, **options: Any) -> None:
    """Restore an archive, or parts of it.

    A NAME is one that `pogfast ls` shows, with all that is below it; anything else is a pattern. Files that are there
    already and the same are left alone: a second run goes on where the first one ended.
    """
    from pogfast import recovery

    stores, tier, days = _stores(archive, options.pop("stores")), options.pop("thaw"), options.pop("thaw_days")
    if days is not None and tier is None:
        raise UsageError("--thaw-days goes with --thaw")
    if tier is not None and stores:
        raise UsageError("--thaw asks one store: it does not go with --from")
    if not stores:
        look_for_archive(archive)
    with displayed(output, "restore", "restore") as display:
        key = key_of(options)
        choice = {word: options.pop(word) for word in ("host", "tags", "path")}
        settings = recovery.Options(**options)
        if tier is not None and not _is_thawed(
            output, display, archive, key, into, tier=tier, days=days or 7, names=names, options=settings, **choice
        ):
            return
        report = RestoreReport(output, display, settings.dry_run)
        summary = recovery.restore(
            archive, key, into, names=names, stores=stores, report=report, options=settings, **choice
        )
    raise_worst(output, summary.exit_code)
    _tell_restored(output, summary, settings.dry_run)


def _stores(archive: str, given: str | None) -> list[str]:
    """Those of --from. Raises UsageError."""
    if given is None:
        return []
    from pogfast.stores import check_stores, names_archive

    check_stores(given)
    if "/" in archive or not names_archive(archive):
        raise UsageError(f"with --from, ARCHIVE is a name alone: {archive} is none", hint="write latest, or NAME.mfn")
    return given.split(",")


def _is_thawed(output: Output, display: Display, archive: str, key: Key, into: str, *, tier: Any, **more: Any) -> bool:
    """Whether everything can be read. Else it was asked for, and it is said what to do next."""
    from pogfast.recovery.thawing import TAKES, thaw

    summary = thaw(archive, key, into, tier=tier, **more)
    display.stop()
    output.emit(
        "thaw",
        readable=summary.readable,
        asked=summary.asked,
        coming=summary.coming,
        missing=summary.missing,
        tier=tier,
    )
    if not summary.waiting:
        return True
    output.exit_code = 3
    output.info(
        f"asked for {many(summary.asked, 'blob')} in cold storage; {summary.coming:,} were asked for before, "
        f"{summary.readable:,} can be read"
    )
    output.info(f"this takes {TAKES[tier]} from Deep Archive: run the same command again then")
    return False


class RestoreReport:
    """What a restore reports, as lines and objects."""

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
            self.output.refused(name, "something else is there, and is not replaced")
        else:
            tell_item(self.output, self.display, outcome, name, size, self.dry_run)


def _tell_restored(output: Output, summary: Summary, dry_run: bool) -> None:
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
    )
    verb = "would restore" if dry_run else "restored"
    speed = show_size(summary.bytes_written / summary.seconds if summary.seconds else 0)
    output.info(
        f"{verb} {many(summary.files, 'file')}, {show_size(summary.bytes_written)} in {summary.seconds:.1f} s "
        f"({speed}/s); "
        f"{many(summary.directories, 'directory', 'directories')}, {many(summary.links + summary.fifos, 'other')}; "
        f"{summary.unchanged:,} were there already"
    )
    if summary.metadata:
        lacked = "that were there already, and had other permissions, owners or attributes"
        output.info(f"{verb} the metadata of {summary.metadata:,} {lacked}")
    if summary.differing:
        have = "there already with other permissions, owners or attributes, left as they are"
        output.info(f"{have}: {summary.differing:,} (--overwrite=if-changed restores these)")
    if summary.deleted:
        output.info(f"{'would delete' if dry_run else 'deleted'} {summary.deleted:,} that the archive does not have")
    if summary.refused:
        hint = "--overwrite=if-changed replaces them"
        output.info(f"not restored, since something else is there: {len(summary.refused):,} ({hint})")
    if summary.missed:
        output.info(f"owners, permissions, attributes or times that could not be set: {summary.missed:,}, named above")
    if summary.problems:
        output.info(f"{many(len(summary.problems), 'error')}, named above")


# ---- cat -------------------------------------------------------------------------------------------------------------


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


# ---- check -----------------------------------------------------------------------------------------------------------


@verb("check")
@click.argument("archives", nargs=-1, metavar="ARCHIVE|STORE...", type=PATH)
@click.option("--read-data", is_flag=True, help="Read all blobs: authentic, complete, of the right content.")
@click.option("--read-data-subset", metavar="PART", help="Read a part: 10%, 1/30, or 50G.")
@click.option(
    "--against", metavar="PATH", type=PATH, help="Compare an archive with what lies below PATH, byte for byte."
)
@jobs_option
@choice_options
@key_options
@service_options
def check(output: Output, archives: tuple[str, ...], against: str | None, **options: Any) -> None:
    """Check that archives can be restored, or compare one with the disk.

    Without an option: that every blob is there and has a size that it can have.
    """
    archives = archives or (store_of(None),)
    whole, part = options.pop("read_data"), options.pop("read_data_subset")
    if sum((whole, part is not None, against is not None)) > 1:
        raise UsageError("--read-data, --read-data-subset and --against do not go together")
    if against is not None:
        if len(archives) > 1:
            raise UsageError("--against compares one archive")
        _compare(output, archives[0], against, options)
        return
    from pogfast.stores import names_archive
    from pogfast.upkeep.checking import EVERYTHING, Subset
    from pogfast.upkeep.checking import check as check_archives

    wanted = EVERYTHING if whole else None if part is None else Subset.parse(part)
    if len(archives) == 1:  # of several the others are checked
        (look_for_archive if names_archive(archives[0]) else look_for_store)(archives[0])
    with displayed(output, "check", "check") as display:
        key = key_of(options)
        report = CheckReport(output, display)
        try:
            summary = check_archives(archives, key, read_data=wanted, report=report, **options)
        finally:
            report.tell_blobs()
    raise_worst(output, summary.exit_code)
    _tell_checked(output, summary)


class CheckReport:
    """What a check or a comparison reports, as lines and objects."""

    def __init__(self, output: Output, display: Display) -> None:
        self.output = output
        self.display = display
        self.warning = output.warning
        self.problem = output.problem
        self.blobs: dict[str, list[Damage]] = {}  # that are damaged, and where they are needed: told of at the end

    def started(self, progress: Checked | Compared) -> None:
        self.display.watch(lambda: _counters(progress))

    def damage(self, damage: Damage) -> None:
        """An object, or a line, that names archive, file and offset. For people a blob has one line, whatever needs
        it."""
        self.display.check()
        if damage.blob is None or self.output.json:
            self._tell(damage)
        else:
            self.blobs.setdefault(damage.blob, []).append(damage)

    def tell_blobs(self) -> None:
        from pogfast.archives.refusals import some_of

        for needed in self.blobs.values():
            if len(needed) == 1:
                self._tell(needed[0])
                continue
            archives = sorted({damage.archive for damage in needed})
            names = sorted({damage.name for damage in needed if damage.name is not None})
            what = needed[0].error.removeprefix(f"{needed[0].name}: ")
            files = f"{many(len(names), 'file')} in " if names else ""
            self.output.damage(f"{what}: {files}{many(len(archives), 'archive')}: {some_of(names or archives)}")

    def _tell(self, damage: Damage) -> None:
        place = f", from byte {damage.offset:,} on" if damage.offset else ""
        origin = "" if damage.archive in damage.error else f"{damage.archive}: "  # a manifest's error names it
        self.output.damage(
            f"{origin}{damage.error}{place}",
            archive=damage.archive,
            item=damage.name,
            blob=damage.blob,
            offset=damage.offset,
        )

    def difference(self, difference: Difference) -> None:
        self.display.check()
        if self.output.json:
            self.output.emit("difference", **difference.as_dict())
        else:
            self.output.answer(f"{difference.difference:9} {difference.name}{_detail(difference)}")


def _counters(progress: Checked | Compared) -> Counters:
    from pogfast.archives.differences import Compared
    from pogfast.cli.progress import Counters

    if isinstance(progress, Compared):
        return Counters(progress.files, progress.total_files, progress.size, None, {"compared": progress.size})
    size, total = progress.read_size + progress.unsettled(), progress.to_read_size
    return Counters(progress.files, None, size, total or None, {"read": size})


def _detail(difference: Difference) -> str:
    if difference.difference == "content" and difference.offset is not None:
        return f" (from byte {difference.offset:,} on)"
    if difference.difference == "content" and difference.size != difference.size_on_disk:
        return f" ({difference.size} bytes in the archive, {difference.size_on_disk} on the disk)"
    return f" ({', '.join(difference.metadata)})" if difference.metadata else ""


def _compare(output: Output, archive: str, path: str, options: dict[str, Any]) -> None:
    from pogfast.archives.differences import compare

    with displayed(output, "check", "check") as display, open_archive(output, archive, options) as opened:
        compared = compare(opened, path, CheckReport(output, display))
    raise_worst(output, compared.exit_code)
    output.emit(
        "summary",
        num_errors=len(compared.problems),
        num_differences=compared.differences,
        files=compared.files,
        bytes_compared=compared.size,
    )
    output.info(
        f"compared {many(compared.files, 'file')}, {show_size(compared.size)}: "
        f"{many(compared.differences, 'difference')}, {many(len(compared.problems), 'error')}"
    )


def _tell_checked(output: Output, summary: Checked) -> None:
    output.emit(
        "summary",
        num_errors=len(summary.damage) + len(summary.problems),
        archives=summary.archives,
        files=summary.files,
        blobs=summary.blobs,
        bytes_stored=summary.stored,
        blobs_read=summary.read,
        bytes_read=summary.read_size,
    )
    read = f"; {summary.read:,} of them read, {show_size(summary.read_size)}" if summary.to_read else ""
    output.info(
        f"checked {many(summary.archives, 'archive')}, {many(summary.files, 'file')}, {many(summary.blobs, 'blob')}, "
        f"{show_size(summary.stored)}{read}"
    )
    blobs = {damage.blob for damage in summary.damage if damage.blob is not None}
    archives = {damage.archive for damage in summary.damage if damage.blob is None}
    found = [many(len(each), word) for each, word in ((blobs, "blob"), (archives, "archive")) if each]
    none = "no damage found in what could be read" if summary.problems else "no damage found"
    output.info(f"damaged: {', '.join(found)}, named above" if found else none)
    if blobs:
        output.info(
            "to mend blobs: `pogfast create --force` stores anew what is still on the disk, "
            "`pogfast copy --verify GOOD BAD` what another store has"
        )
    if archives:
        output.info(
            "to mend archives: `pogfast copy --verify GOOD BAD` stores anew the manifests that another store has"
        )


VERBS = {"restore": restore, "cat": cat, "check": check}

"""`pogfast check`: its options, and its results as lines or JSON.

upkeep/checking.py looks for damage, archives/differences.py compares an archive with files on disk. A damaged blob is
printed once, however many files need it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from pogfast.cli.command import PATH, Duration, Whole, apply, verb
from pogfast.cli.formatting import lines_of_workers, workers_as_json
from pogfast.cli.options import (
    displayed,
    executor_of,
    executor_options,
    jobs_option,
    key_of,
    key_options,
    open_archive,
    optional_key,
    require_archive,
    require_store,
    service_options,
    store_of,
    tag_option,
)
from pogfast.cli.output import Output
from pogfast.errors import UsageError
from pogfast.sizes import many, show_size

if TYPE_CHECKING:
    from pogfast.archives.differences import Compared, Difference
    from pogfast.cli.progress import Counters, Display
    from pogfast.keys import Key
    from pogfast.upkeep.checking import Damage
    from pogfast.upkeep.checking import Summary as Checked


filter_options = apply(
    [
        click.option("--host", metavar="NAME", help="Only archives of this host; for STORE/latest, the newest."),
        tag_option("Only archives with all of these tags; for STORE/latest, the newest."),
        click.option("--path", metavar="PATH", type=PATH, help="Only archives of PATH; for STORE/latest, the newest."),
    ]
)


@verb(
    "check",
    exit_codes={
        1: "--against: there are differences",
        3: "some archives need another key; --max-age: not all was read",
        4: "damage found",
        10: "no such store or archive, or an empty store",
        12: "no archive opens with this key",
    },
    examples=(
        "pogfast check /mnt/backup",
        "pogfast check /mnt/backup --read-data-subset 5% --max-age 90d",
        "pogfast check s3://bucket/laptop --restore-test 20",
        "pogfast check s3://bucket/laptop --repair",
        "pogfast check /mnt/backup/latest --against /",
        "pogfast check /shared/backup --read-data --decryption-keyfile mine.decrypt --executor dask:tls://head:8786",
    ),
)
@click.argument("archives", nargs=-1, metavar="ARCHIVE|STORE...", type=PATH)
@click.option("--read-data", is_flag=True, help="Read and verify all blobs.")
@click.option(
    "--read-data-subset",
    metavar="PART",
    help="Read and verify a part of the blobs: 10% or 50G, those first that were not read for the longest time; 1/30.",
)
@click.option(
    "--max-age",
    metavar="TIME",
    type=Duration(bare=False),
    help="Fail (3) if part of the data was not read by a check for TIME, such as 90d.",
)
@click.option(
    "--restore-test",
    metavar="N",
    type=Whole(1, 10**6),
    help="Restore N files to nowhere, chosen at random, by all steps but writing.",
)
@click.option(
    "--seed",
    metavar="N",
    type=Whole(0, 2**32 - 1),
    help="Test the same files as the --restore-test that printed N.",
)
@click.option(
    "--repair",
    is_flag=True,
    help="Write missing and wrong index objects, tables of packs, and pogfast.store again.",
)
@click.option(
    "--against",
    metavar="PATH",
    type=PATH,
    help="Compare an archive with the files below PATH, where the archived names begin, byte for byte.",
)
@jobs_option
@filter_options
@key_options
@service_options
@executor_options
def check(output: Output, archives: tuple[str, ...], against: str | None, **options: Any) -> None:
    """Check archives for damage, or compare one with files on disk.

    By default, checks that every blob exists and has its recorded size, without reading blobs. Without a key, checks
    the packs of a store.
    """
    archives = archives or (store_of(None),)
    executor, crew_options = executor_of(options)
    whole, part = options.pop("read_data"), options.pop("read_data_subset")
    if sum((whole, part is not None, against is not None)) > 1:
        raise UsageError("--read-data, --read-data-subset and --against cannot be combined")
    if executor is not None and not (whole or part):
        raise UsageError("--executor is for --read-data and --read-data-subset")
    if against is not None:
        for option in ("max_age", "restore_test", "seed"):
            if options.pop(option) is not None:
                raise UsageError(f"--against and --{option.replace('_', '-')} cannot be combined")
        if len(archives) > 1:
            raise UsageError("--against compares one archive")
        if options.pop("repair"):
            raise UsageError("--against and --repair cannot be combined")
        _compare(output, archives[0], against, options)
        return
    if options["seed"] is not None and options["restore_test"] is None:
        raise UsageError("--seed is for --restore-test")
    from pogfast.stores import names_archive
    from pogfast.upkeep.checking import EVERYTHING, Subset
    from pogfast.upkeep.checking import check as check_archives

    wanted = EVERYTHING if whole else None if part is None else Subset.parse(part)
    if len(archives) == 1:  # one of several is reported later, and the others are checked
        (require_archive if names_archive(archives[0]) else require_store)(archives[0])
    with displayed(output, "check", "check") as display:
        key = _key_for(output, archives, options)
        report = CheckReport(output, display)
        try:
            summary = check_archives(
                archives,
                key,
                read_data=wanted,
                report=report,
                executor=executor,
                crew_options=crew_options,
                **options,
            )
        finally:
            report.print_blobs()
    output.raise_exit_code(summary.exit_code)
    if key is None:
        _print_packs(output, summary)
    else:
        _print_summary(output, summary, key.can_open)


def _is_pipe(file: int) -> bool:
    try:
        return stat.S_ISFIFO(os.fstat(file).st_mode)
    except OSError:
        return False


def _key_for(output: Output, archives: tuple[str, ...], options: dict[str, Any]) -> Key | None:
    """Returns the key; None if none is given and the packs of all these stores can be checked without one."""
    from pogfast.errors import PogfastError
    from pogfast.stores import names_archive
    from pogfast.upkeep.scrubbing import is_packed

    given = dict(options)
    key = optional_key(given)
    if key is None:
        try:
            others = [each for each in archives if names_archive(each) or not is_packed(each)]
        except PogfastError:  # reported when it is opened again
            return key_of(options)
        if others:
            try:
                return key_of(options)
            except UsageError as error:
                if others != list(archives):
                    error.hint = f"{others[0]} has no packs, so it takes a key to check it; {error.hint}"
                raise
        if _is_pipe(0):
            output.warning(
                "no key is given, so packs are checked without one; standard input was not read: to give a password "
                "there, use --password-file=/dev/stdin"
            )
    options.clear()
    options.update(given)
    return key


class CheckReport:
    """Prints what a check or a comparison reports, as lines or JSON."""

    def __init__(self, output: Output, display: Display) -> None:
        self.output = output
        self.display = display
        self.note = self.warning = output.warning
        self.problem = output.problem
        self.blobs: dict[str, list[Damage]] = {}  # damaged blob -> where it is needed; printed at the end

    def started(self, progress: Checked | Compared) -> None:
        self.display.watch(lambda: counters_of_check(progress))

    def damage(self, damage: Damage) -> None:
        """Reports damage with archive, file and offset. For people, a blob is collected and printed once."""
        self.display.check()
        if damage.blob is None or damage.pack is not None or self.output.json:
            self._print_damage(damage)
        else:
            self.blobs.setdefault(damage.blob, []).append(damage)

    def print_blobs(self) -> None:
        from pogfast.archives.refusals import some_of

        lost: dict[str, list[Damage]] = {}  # missing pack -> where its blobs are needed
        for needed in self.blobs.values():
            if pack := needed[0].lost_pack:
                lost.setdefault(pack, []).extend(needed)
                continue
            if len(needed) == 1:
                self._print_damage(needed[0])
                continue
            names, archives, where = _needed_by(needed)
            what = needed[0].error.removeprefix(f"{needed[0].name}: ")
            self.output.damage(f"{what}: {where}: {some_of(names or archives)}")
        for pack, needed in lost.items():
            blobs = many(len({damage.blob for damage in needed}), "blob")
            self.output.damage(f"{pack} is missing, with {blobs} of {_needed_by(needed)[2]}")

    def _print_damage(self, damage: Damage) -> None:
        start = f", from byte {damage.offset:,} on" if damage.offset else ""
        origin = "" if damage.archive in damage.error else f"{damage.archive}: "
        self.output.damage(
            f"{origin}{damage.error}{start}",
            archive=damage.archive or None,
            item=damage.name,
            blob=damage.blob,
            offset=damage.offset,
            pack=damage.pack or damage.lost_pack,
        )

    def difference(self, difference: Difference) -> None:
        self.display.check()
        if self.output.json:
            self.output.emit("difference", **difference.as_dict())
        else:
            self.output.answer(f"{difference.difference:9} {difference.name}{_detail(difference)}")


def _needed_by(damages: Sequence[Damage]) -> tuple[list[str], list[str], str]:
    """Returns the files and the archives that are damaged, and how many these are."""
    archives = sorted({damage.archive for damage in damages})
    names = sorted({damage.name for damage in damages if damage.name is not None})
    files = f"{many(len(names), 'file')} in " if names else ""
    return names, archives, f"{files}{many(len(archives), 'archive')}"


def counters_of_check(progress: Checked | Compared) -> Counters:
    """Returns how far a check or a comparison is, for the display."""
    from pogfast.archives.differences import Compared
    from pogfast.cli.progress import Counters

    if isinstance(progress, Compared):
        return Counters(progress.files, progress.total_files, progress.size, None, {"compared": progress.size})
    size, total = progress.read_size + progress.in_progress(), progress.to_read_size
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
    output.raise_exit_code(compared.exit_code)
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


def _print_packs(output: Output, summary: Checked) -> None:
    """Prints the summary of a check without a key."""
    output.emit(
        "summary",
        num_errors=len(summary.damage) + len(summary.problems),
        packs=summary.packs,
        index_objects=summary.index_objects,
        packs_absent=summary.packs_absent,
        packs_read=summary.read,
        bytes_read=summary.read_size,
        bytes_unproven=summary.unproven,
    )
    read = f"; {many(summary.read, 'pack')} read, {show_size(summary.read_size)}" if summary.to_read else ""
    output.info(
        f"checked {many(summary.packs, 'pack')}, {many(summary.index_objects, 'index object')}, without a key{read}"
    )
    if summary.packs_absent:
        output.info(
            f"{many(summary.packs_absent, 'pack')} of index objects not there: as after a prune, "
            "but if there was none, check with a key whether archives lack blobs"
        )
    none = "no damage found in what could be read of packs" if summary.problems else "no damage found in packs"
    output.info("damaged: named above" if summary.damage else f"{none}; other blobs need a key")


def _print_summary(output: Output, summary: Checked, sees_files: bool) -> None:
    from pogfast.stores.names import SETTINGS

    tested = summary.rehearsal
    output.emit(
        "summary",
        num_errors=len(summary.damage) + len(summary.problems),
        archives=summary.archives,
        files=summary.files,
        blobs=summary.blobs,
        bytes_stored=summary.stored,
        blobs_read=summary.read,
        bytes_read=summary.read_size,
        packs=summary.packs,
        index_objects=summary.index_objects,
        bytes_unproven=summary.unproven,
        files_tested=tested and tested.files,
        bytes_tested=tested and tested.size,
        seed=tested and tested.seed,
        **workers_as_json(summary.tallies.workers, summary.tallies.retries),
    )
    read = f"; {summary.read:,} of them read, {show_size(summary.read_size)}" if summary.to_read else ""
    files = f"{many(summary.files, 'file')}, " if sees_files else ""
    output.info(
        f"checked {many(summary.archives, 'archive')}, {files}{many(summary.blobs, 'blob')}, "
        f"{show_size(summary.stored)}{read}"
    )
    for line in lines_of_workers(summary.tallies.workers, summary.tallies.retries):
        output.info(line)
    if tested:
        what = f"{many(tested.files, 'file')} of {many(tested.archives, 'archive')}, {show_size(tested.size)}"
        output.info(f"restored {what}, to nowhere; --seed {tested.seed} tests the same files")
    blobs = {damage.blob for damage in summary.damage if damage.blob is not None}
    archives = {damage.archive for damage in summary.damage if damage.blob is None and damage.pack is None}
    packs = {damage.pack for damage in summary.damage if damage.pack is not None}
    words = ((blobs, "blob"), (archives, "archive"), (packs - {SETTINGS}, "pack or index object"))
    found = [many(len(each), word) for each, word in words if each] + [SETTINGS] * (SETTINGS in packs)
    none = "no damage found in what could be read" if summary.problems else "no damage found"
    output.info(f"damaged: {', '.join(found)}, named above" if found else none)
    if blobs:
        output.info(
            "to repair blobs: `pogfast create --force` stores again what is still on disk, "
            "`pogfast copy --verify GOOD BAD` what another store has"
        )
    if archives:
        output.info(
            "to repair archives: `pogfast copy --verify GOOD BAD` stores again the manifests that another store has"
        )


VERBS = {"check": check}

"""`pogfast create`: its options, and its results as lines or JSON.

The package `backup` defines what the options mean.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from pogfast.cli.command import PATH, SIZE, Whole, verb
from pogfast.cli.formatting import lines_of_workers, workers_as_json
from pogfast.cli.options import (
    displayed,
    executor_of,
    executor_options,
    is_given,
    jobs_option,
    key_of,
    key_options,
    object_lock_option,
    packs_option,
    service_options,
    storage_class_option,
    tag_option,
)
from pogfast.cli.output import Output
from pogfast.errors import PogfastError, ReaderGone, UsageError
from pogfast.sizes import LEVELS, MAX_JOBS, many, show_size

if TYPE_CHECKING:
    from pogfast.backup import Options, Progress, Summary
    from pogfast.backup.shards import Shard
    from pogfast.backup.walk import Selection
    from pogfast.cli.progress import Counters, Display

LIKE_A_SIZE = re.compile(r"[0-9.]+ ?[kMGT]?i?B?", re.IGNORECASE)


@verb(
    "create",
    exit_codes={
        3: "a source was not read, or one of several stores failed",
        10: "the store does not exist (with --must-exist)",
    },
    examples=(
        "pogfast create ~/photos ~/mail --to /mnt/backup --exclude '*.tmp' --tag weekly",
        "pogfast create / --to s3://bucket/laptop --one-file-system --exclude-caches",
        "pogfast create --from-command 'pg_dump db' --name db.sql --to /mnt/backup",
    ),
)
@click.argument("paths", nargs=-1, metavar="PATH...", type=PATH)
@click.option(
    "--to", metavar="STORE[,STORE]", type=PATH, help="Stores to write the archive to.  [default: POGFAST_STORE]"
)
@click.option(
    "--name", metavar="NAME", help="Archived name of standard input (PATH is -) or of the output of --from-command."
)
@click.option("--from-command", metavar="COMMAND", help="Archive the output of COMMAND; create no archive if it fails.")
@click.option(
    "-C",
    "--directory",
    metavar="DIR",
    type=PATH,
    help="Take relative paths, also those of --files-from, relative to DIR.",
)
@click.option("--exclude", metavar="PATTERN", multiple=True, help="Exclude what matches; may be repeated.")
@click.option(
    "--iexclude", metavar="PATTERN", multiple=True, help="Exclude what matches, ignoring case; may be repeated."
)
@click.option(
    "--exclude-from", metavar="FILE", type=PATH, multiple=True, help="Read exclude patterns from FILE, one per line."
)
@click.option(
    "--exclude-if-present",
    metavar="NAME",
    multiple=True,
    help="Exclude contents of directories that contain a file NAME.",
)
@click.option(
    "--exclude-caches", is_flag=True, help="Exclude contents of cache directories (marked by a CACHEDIR.TAG)."
)
@click.option("--exclude-larger-than", metavar="SIZE", type=SIZE, help="Exclude files larger than SIZE.")
@click.option("-x", "--one-file-system", is_flag=True, help="Do not cross into other file systems.")
@click.option(
    "--files-from",
    metavar="FILE",
    type=PATH,
    multiple=True,
    help="Read paths from FILE (-: standard input), one per line; wildcards are expanded.",
)
@click.option("-0", "--null", is_flag=True, help="Paths of --files-from end with a zero byte, and are no patterns.")
@tag_option("Tags to record.")
@click.option("--host", metavar="NAME", help="Host name to record.  [default: this machine's]")
@click.option("--comment", metavar="TEXT", default="", help="Comment to record.")
@click.option(
    "--chunk-size",
    metavar="SIZE",
    type=SIZE,
    default="50MB",
    show_default=True,
    help="Size of chunks.",
)
@click.option(
    "--chunker",
    metavar="CHUNKER",
    default="fixed",
    show_default=True,
    help="How to cut files: fixed[:SIZE], or fastcdc[:MIN,AVG,MAX] by content, for files modified in place.",
)
@click.option(
    "--level",
    metavar="N",
    type=Whole(*LEVELS),
    default=3,
    show_default=True,
    help="zstd compression level, up to 22; negative levels are faster.",
)
@click.option(
    "--layout",
    type=click.Choice(["frames", "stream"]),
    default="frames",
    show_default=True,
    help="frames: chunks are compressed independently. stream: one compressed stream per file, as pog.",
)
@click.option("--profile", metavar="NAME", help="Use the settings saved by tune --save NAME, or those of a file.")
@jobs_option
@click.option(
    "--readers", metavar="N", type=Whole(1, MAX_JOBS), help="Files read at the same time.  [default: as many as --jobs]"
)
@click.option("--memory", metavar="SIZE", type=SIZE, help="Limit on memory for chunks in flight.")
@click.option("--no-cache", is_flag=True, help="Neither use nor write the cache of unchanged files.")
@click.option("--cache-dir", metavar="DIR", type=PATH, help="Directory of the cache of unchanged files.")
@click.option("--force", is_flag=True, help="Read every file and store every chunk again; repairs damaged blobs.")
@click.option("--pad", is_flag=True, help="Pad new blobs, so that their sizes reveal less about the files.")
@click.option("--must-exist", is_flag=True, help="Fail if the store does not exist, as on a disk that is not mounted.")
@click.option("-n", "--dry-run", is_flag=True, help="Write nothing; print what would be archived.")
@click.option(
    "--shard", metavar="N/OF", help="Archive only part N of OF, as on many machines; `pogfast merge` joins them."
)
@click.option(
    "--set", "set_name", metavar="NAME", help="Name of this set of shards.  [default: from paths and options]"
)
@key_options
@service_options
@storage_class_option
@object_lock_option
@packs_option
@executor_options
def create(output: Output, paths: tuple[str, ...], to: str | None, **options: Any) -> None:
    """Create an archive of files and directories.

    Permissions, owners, times, links, extended attributes, ACLs and holes are archived as well. Files that have not
    changed since the last run into the same store are not read again. Prints the name of the archive. Patterns are
    those of restic: *.tmp, /srv/**/cache, !keep.tmp.
    """
    from pogfast import backup
    from pogfast.backup.chunker import Chunker
    from pogfast.stores import STORE_VARIABLE, check_stores

    to = os.environ.get(STORE_VARIABLE) if to is None else to
    if to is None:
        raise UsageError("no store given", hint=f"name it with --to, or set {STORE_VARIABLE}")
    check_stores(to)
    if profile := options.pop("profile"):
        _take_profile(profile, options)
    if options["chunker"] != "fixed" and is_given("chunk_size"):
        raise UsageError(
            f"--chunk-size cannot be combined with --chunker={options['chunker']}",
            hint="a chunker takes sizes of its own: --chunker=fixed:16MB, --chunker=fastcdc:1MB,4MB,16MB",
        )
    Chunker.parse(options["chunker"], options["chunk_size"]).check()
    name, command = options.pop("name"), options.pop("from_command")
    stream = _is_stream(paths, name, command, options["files_from"])
    stdin_is_data = (stream and command is None) or "-" in options["files_from"] + options["exclude_from"]
    if stdin_is_data and sys.stdin is None:
        raise UsageError("cannot read standard input: it is closed")
    _check_no_size_of_packs(paths, options["directory"])
    sources = () if stream else _paths(paths, options)
    shard = _shard(options.pop("shard"), options.pop("set_name"), stream)
    cache = "" if options.pop("no_cache") else options.pop("cache_dir", None)
    with displayed(output, "create", "archival") as display:
        executor, crew_options = executor_of(options)
        key = key_of(options, writing=True, stdin_is_data=stdin_is_data)
        settings = backup.Options(
            selection=_selection(options),
            base=options["directory"],
            cache_directory=cache,
            count_ahead=display.style != "none",
            shard=shard,
            **_settings(options),
        )
        report = Report(output, display, settings.dry_run)
        summary = backup.create(
            sources,
            to,
            key,
            report=report,
            stdin_name=name if stream else None,
            command=command,
            options=settings,
            executor=executor,
            crew_options=crew_options,
        )
    print_summary(output, summary, settings)
    if (name := summary.manifest or summary.part) and not output.json:
        print_archive(output, name)


def _shard(text: str | None, set_name: str | None, stream: bool) -> Shard | None:
    """Returns the shard that is to be archived. Raises UsageError."""
    from pogfast.backup.shards import Shard

    if text is None and set_name is not None:
        raise UsageError("--set names a set of shards", hint="give --shard=1/16 as well")
    if text is None:
        return None
    if stream:
        raise UsageError("a stream has no shards", hint="--shard is for files and directories")
    return Shard.parse(text, set_name)


def print_archive(output: Output, manifest: str) -> None:
    """Prints the name of the archive, which is stored. Raises PogfastError with that name if it cannot be printed."""
    try:
        output.answer(manifest)
        output.flush()
    except ReaderGone:
        raise
    except PogfastError as error:
        error.hint, error.exit_code = f"the archive is stored: {manifest}", 3
        raise


def _take_profile(name: str, options: dict[str, Any]) -> None:
    """Takes settings from a profile, except those given on the command line. Raises UsageError."""
    from pogfast.config import create_settings
    from pogfast.config.settings import of_command_line
    from pogfast.stores import settings

    found = of_command_line(create_settings(name))
    if is_given("chunker") or is_given("chunk_size"):
        found = {word: value for word, value in found.items() if word not in ("chunker", "chunk_size")}
    packs = found.pop("packs", None)
    if packs is not None and not is_given("packs"):
        settings.change(packs=packs)
    options.update((word, value) for word, value in found.items() if not is_given(word))


def _is_stream(paths: tuple[str, ...], name: str | None, command: str | None, lists: tuple[str, ...]) -> bool:
    """Returns True if a stream is archived, False for files. Raises UsageError for arguments that contradict."""
    stream = command is not None or "-" in paths
    if command is not None and (paths or lists):
        raise UsageError("--from-command archives the output of a program: no PATHs or --files-from beside it")
    if "-" in paths and (len(paths) > 1 or lists):
        raise UsageError(
            "- archives standard input: no other PATHs beside it", hint="write ./- for a file of that name"
        )
    if stream and not name:
        raise UsageError("the archived stream needs a name", hint="give --name=NAME")
    if name is not None and not stream:
        raise UsageError("--name is for standard input (PATH is -) and --from-command")
    if not (stream or paths or lists):
        raise UsageError("nothing to archive: no PATH given", hint="see pogfast create --help")
    return stream


def _check_no_size_of_packs(paths: Sequence[str], directory: str | None) -> None:
    """Raises UsageError for `--packs 64MiB`: that is a path, which would be reported when all else has been archived,
    in packs of another size."""
    from pogfast.stores import settings

    for path in paths if settings.current().packs else ():
        if LIKE_A_SIZE.fullmatch(path) and not os.path.lexists(os.path.join(directory or "", path)):
            raise UsageError(f"{path}: no such file", hint=f"--packs={path}, with =, sets the size of packs")


def _paths(given: tuple[str, ...], options: dict[str, Any]) -> Iterator[str]:
    from pogfast.backup.input_lists import read_list

    yield from given
    for file in options["files_from"]:
        yield from read_list(file, nul=options["null"], base=options["directory"])


def _selection(options: dict[str, Any]) -> Selection:
    from pogfast.backup.input_lists import read_patterns
    from pogfast.backup.walk import Selection

    exclude = [*options["exclude"], *(line for file in options["exclude_from"] for line in read_patterns(file))]
    words = ("iexclude", "exclude_if_present", "exclude_caches", "exclude_larger_than", "one_file_system")
    return Selection(exclude=exclude, **{word: options[word] for word in words})


def _settings(options: dict[str, Any]) -> dict[str, Any]:
    words = (
        "layout",
        "chunk_size",
        "chunker",
        "level",
        "jobs",
        "readers",
        "memory",
        "tags",
        "host",
        "comment",
        "force",
        "pad",
        "must_exist",
        "dry_run",
    )
    return {word: options[word] for word in words}


def counters_of_create(now: Progress) -> Counters:
    """Returns how far a create is, for the display."""
    from pogfast.cli.progress import Counters

    figures = {"read": now.bytes_read, "stored": now.bytes_stored}
    return Counters(now.files, now.total_files, now.bytes_done, now.total_bytes, figures, workers=now.workers)


class Report:
    """Prints what a backup reports, as lines or JSON."""

    def __init__(self, output: Output, display: Display, dry_run: bool) -> None:
        self.output = output
        self.display = display
        self.dry_run = dry_run
        self.note = output.remark
        self.warning = output.warning
        self.problem = output.problem

    def started(self, progress: Callable[[], Progress]) -> None:
        self.display.watch(lambda: counters_of_create(progress()))

    def entry(self, name: str, path: str, outcome: str, size: int) -> None:
        self.output.item(outcome, name, size, self.dry_run)

    def entries(self, found: Iterable[tuple[str, str, str, int]]) -> None:
        self.display.check()
        if self.output.shows_items(self.dry_run):
            for each in found:
                self.entry(*each)

    def detail(self, text: str) -> None:
        self.output.info(f"pogfast: {text}", 1)

    def concluding(self, manifest: str) -> None:
        """Aborts the run if nobody reads standard output: a script would take the run for failed."""
        self.display.check()
        self.output.flush()


def print_summary(output: Output, summary: Summary, settings: Options) -> None:
    """Prints the summary; JSON keys are restic's as far as it has them."""
    ratio = summary.bytes_source / summary.bytes_stored if summary.bytes_stored else None
    files = summary.files_new + summary.files_unchanged
    output.emit(
        "summary",
        snapshot_id=summary.manifest or None,
        part=summary.part or None,
        dry_run=settings.dry_run,
        files_new=summary.files_new,
        files_unmodified=summary.files_unchanged,
        dirs=summary.directories,
        others=summary.others,
        skipped=summary.skipped,
        data_blobs=summary.blobs_new,
        packs_new=summary.packs_new,
        blobs_known=summary.blobs_known,
        bytes_read=summary.bytes_read,
        data_added_packed=summary.bytes_added,
        total_files_processed=files,
        total_bytes_processed=summary.bytes_source,
        total_bytes_stored=summary.bytes_stored,
        bytes_repeated=summary.bytes_repeated,
        ratio=ratio,
        **workers_as_json(summary.workers, summary.retries),
        requests=summary.requests,
        advice=summary.advice,
        error_count=output.errors,
        total_duration=round(summary.seconds, 3),
    )
    if settings.dry_run:
        output.info(
            f"would archive {many(files, 'file')}, {show_size(summary.bytes_source)}, with at most "
            f"{many(summary.blobs_new, 'new blob')}; nothing was written"
        )
        _print_requests(output, "would be about ", summary.requests)
        return
    speed = show_size(summary.bytes_read / summary.seconds if summary.seconds else 0)
    packed = f", {ratio:.2f} : 1" if ratio else ""
    output.info(
        f"files    {files:,}: {summary.files_new:,} new, {summary.files_unchanged:,} unchanged; "
        f"{many(summary.directories, 'directory', 'directories')}, {many(summary.others, 'other')}"
    )
    output.info(
        f"read     {show_size(summary.bytes_read)} of {show_size(summary.bytes_source)} "
        f"in {summary.seconds:.1f} s ({speed}/s)"
    )
    output.info(
        f"stored   {show_size(summary.bytes_added)} new in {many(summary.blobs_new, 'blob')}{_packs(summary)}; "
        f"the archive takes {show_size(summary.bytes_stored)}{packed}"
    )
    for line in lines_of_workers(summary.workers, summary.retries):
        output.info(line)
    if reused := _reused(summary):
        output.info(f"reused   {reused}")
    _print_requests(output, "", summary.requests)
    if summary.part and settings.shard:
        output.info(
            f"shard    {settings.shard.number} of {settings.shard.of}: `pogfast merge` makes the archive of all"
        )
    for advice in summary.advice:
        output.info(f"hint     {advice}")
    if output.errors:
        output.info(f"errors   {output.errors:,}, named above")


def _packs(summary: Summary) -> str:
    return f", small ones in {many(summary.packs_new, 'pack')}" if summary.packs_new else ""


def _reused(summary: Summary) -> str:
    """Returns what deduplication saved, or "" if nothing."""
    there = max(0, summary.bytes_stored - summary.bytes_added)
    parts = {f"{show_size(there)} already in the store": there}
    parts[f"{show_size(summary.bytes_repeated)} repeated within the archive"] = summary.bytes_repeated
    return "; ".join(text for text, size in parts.items() if size)


def _print_requests(output: Output, would: str, requests: dict[str, int]) -> None:
    if requests:
        counts = ", ".join(f"{number:,} {kind}" for kind, number in sorted(requests.items()))
        output.info(f"requests {would}{counts}")


VERBS = {"create": create}

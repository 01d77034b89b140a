"""`pogfast restore`: files, directories, links and FIFOs of an archive, with their metadata.

plan.py says what is selected and where it goes, and destination.py what may be replaced. run.py keeps the order: files
(through batches.py, by the engine), hard links, symbolic links (so that nothing is written through them), deletions,
and the metadata of directories last. A second run continues where the first stopped. This package handles no flags and
prints nothing.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from pogfast._engine import BlobDirectory
from pogfast.archives.lookup import open_archive, telling
from pogfast.errors import PogfastError, UsageError
from pogfast.files.directories import NOTHING, Directories, Own, many_open_files
from pogfast.keys import Key
from pogfast.recovery.options import Options, Overwrite
from pogfast.recovery.plan import Contents, Plan
from pogfast.recovery.report import Progress, Report, Silent, Summary
from pogfast.recovery.run import REPLACES, ByWorkers, Run
from pogfast.stores.addresses import check_restored_to
from pogfast.stores.protocols import CanMirror, Store

if TYPE_CHECKING:
    from pogfast._engine import Buffer
    from pogfast.cluster.crews import CrewOptions


def restore(
    archive: str,
    key: Key,
    into: str,
    *,
    names: Collection[str] = (),
    host: str | None = None,
    tags: Collection[str] = (),
    path: str | None = None,
    stores: Sequence[str] = (),
    report: Report | None = None,
    options: Options | None = None,
    executor: object = None,
    crew_options: CrewOptions | None = None,
    **more: Any,
) -> Summary:
    """Restores the archive that `archive` names; `host`, `tags` and `path` filter the archives for STORE/latest.

    With `stores`, `archive` is only NAME.mfn or latest, and each of them has it: blobs that are missing or damaged in
    the first are read from the next. `executor` has other processes and machines write the files
    (cluster/executors.py). For everything else see restore_archive. Raises NoSuchArchive, WrongKey,
    CorruptManifest, UsageError and StoreError.
    """
    options = _chosen(options, more)
    check_restored_to(into)
    if executor is not None and stores:
        raise UsageError("workers read one store: --from cannot be combined with --executor")
    heard = report or Silent()
    lost: list[PogfastError] = []

    tell = telling(heard, lost)
    with contextlib.ExitStack() as stack:
        opened = stack.enter_context(
            open_archive(archive, key, host=host, tags=tags, path=path, stores=stores, tell=tell)
        )
        by_workers, tallies = None, None
        if executor is not None and not options.dry_run:
            from pogfast.cluster.opening import Readers  # imported here: most runs need no workers

            readers = stack.enter_context(Readers(executor, crew_options, key, heard.warning, options.jobs))
            by_workers, tallies = partial(readers.of, cast(Store, opened.store), opened.name), readers.tallies
        good = opened.store.good_blob if isinstance(opened.store, CanMirror) else None
        summary = restore_archive(
            opened,
            opened.store.source,
            key,
            into,
            names=names,
            good=good,
            own=opened.store.own_directories(),
            report=heard,
            options=options,
            by_workers=by_workers,
        )
        summary.tallies = tallies or summary.tallies
    summary.problems += lost
    return summary


def restore_archive(
    opened: Contents,
    blobs: BlobDirectory | Callable[[str], Buffer],
    key: Key,
    into: str,
    *,
    names: Collection[str] = (),
    good: Callable[[str], Buffer] | None = None,
    own: Own = NOTHING,
    report: Report | None = None,
    options: Options | None = None,
    by_workers: ByWorkers | None = None,
    **more: Any,
) -> Summary:
    """Restores what `names` and patterns select (none: everything) below `into`; `more` are fields of Options.

    Files with missing or damaged blobs are restored again with the blobs that `good` returns. Files of the store itself
    (`own`) are never deleted.

    Existing files that are the same (kind, size and mtime; a link's target) stay. Existing ones that differ stay with
    overwrite "never", and are in the summary's `refused`; "if-changed" replaces them; "always" replaces both. With
    these two a file makes way for a directory, and a directory for a file if it is empty or `delete` is given, and
    files that are the same get the metadata that they lack. "never" changes nothing that exists, unless `delete`
    restores the metadata of directories. That includes `into`, unless it is empty, but no directories above the
    selected ones: they get their metadata only if they are created.

    A file gets its modification time when its bytes are on the disk, and everything is on the disk when this returns,
    unless `no_sync`. Raises UsageError, CorruptManifest (for the trailer) and StoreError; problems with single entries
    are in the summary.
    """
    options = _chosen(options, more)
    started = time.monotonic()
    plan = Plan(opened, names, options.exclude, options.strip_components)
    if options.delete:
        plan.check_delete()
    with (
        many_open_files() as max_open,
        Directories(
            into,
            max_open,
            private=plan.directories,
            selected=plan.selected if plan.top else plan.selected - {""},
            may_replace=lambda path: options.overwrite != "never" and path not in plan.things,
            hint=lambda path: REPLACES if options.overwrite == "never" and path not in plan.things else "",
            make=not options.dry_run,
            own=own,
        ) as directories,
    ):
        summary = Run(plan, blobs, good, key, directories, options, report or Silent(), by_workers).restore()
    summary.seconds = time.monotonic() - started
    return summary


def _chosen(options: Options | None, more: dict[str, Any]) -> Options:
    if options is not None and more:
        raise UsageError("pass either an Options object or single options, not both")
    return options or Options(**more)


__all__ = ["Options", "Overwrite", "Progress", "Report", "Silent", "Summary", "restore", "restore_archive"]

"""`pogfast restore`: files, directories, links and FIFOs of an archive, with their metadata.

plan.py says what is selected and where it goes, batches.py passes files to the engine, run.py decides what may be
replaced and in which order: files, hard links, symbolic links (so that nothing is written through them), deletions, and
the metadata of directories last. A second run continues where the first stopped. This package handles no flags and
prints nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

from pogfast._engine import BlobDirectory
from pogfast.archives.lookup import open_archive, telling
from pogfast.errors import PogfastError, UsageError
from pogfast.files.directories import NOTHING, Directories, Own, many_open_files
from pogfast.keys import Key
from pogfast.recovery.options import Options, Overwrite
from pogfast.recovery.plan import Contents, Plan
from pogfast.recovery.report import Progress, Report, Silent, Summary
from pogfast.recovery.run import REPLACES, Run
from pogfast.stores.addresses import check_restored_to
from pogfast.stores.protocols import CanMirror

if TYPE_CHECKING:
    from pogfast._engine import Buffer


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
    **more: Any,
) -> Summary:
    """Restores the archive that `archive` names; `host`, `tags` and `path` choose among those of STORE/latest.

    With `stores` the archive is NAME.mfn or latest alone, and lies in each of them: what the first does not have, or
    has damaged, the next gives. Everything else is restore_archive's. Raises NoSuchArchive, WrongKey,
    CorruptManifest, UsageError and StoreError.
    """
    options = _chosen(options, more)
    check_restored_to(into)
    heard = report or Silent()
    lost: list[PogfastError] = []

    tell = telling(heard, lost)
    with open_archive(archive, key, host=host, tags=tags, path=path, stores=stores, tell=tell) as opened:
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
        )
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
    **more: Any,
) -> Summary:
    """Restores what `names` and patterns select (none: everything) below `into`; `more` are fields of Options.

    Files with blobs that are missing or damaged are tried once more with what `good` gives for their blobs. What is
    `own`, the store itself, is never deleted.
    What is there already and the same (kind, size and mtime; a link's target) is left as it is. What differs stays
    with overwrite "never" and is in the summary's `refused`; it is replaced with "if-changed"; "always" replaces both.
    With these two a file makes way for a directory, and a directory for a file if it is empty or `delete` is given;
    and what is the same gets the metadata that it lacks. "never" changes nothing that was there, unless `delete` makes
    directories what they were. That holds for `into`, too, unless it is empty, and never for directories above what is
    selected: they get their metadata only if they are made. A file gets its modification time when its bytes are on the
    disk, and all of it is there when this returns, unless `no_sync`.
    Raises UsageError, CorruptManifest (the trailer) and StoreError; what is wrong with one entry is in the problems.
    """
    options = _chosen(options, more)
    started = time.monotonic()
    plan = Plan(opened, names, options.exclude, options.strip_components)
    if options.delete:
        plan.check_delete()
    with (
        many_open_files() as most,
        Directories(
            into,
            most,
            private=plan.directories,
            ours=plan.selected if plan.top else plan.selected - {""},
            may_replace=lambda path: options.overwrite != "never" and path not in plan.things,
            hint=lambda path: REPLACES if options.overwrite == "never" and path not in plan.things else "",
            make=not options.dry_run,
            own=own,
        ) as directories,
    ):
        summary = Run(plan, blobs, good, key, directories, options, report or Silent()).restore()
    summary.seconds = time.monotonic() - started
    return summary


def _chosen(options: Options | None, more: dict[str, Any]) -> Options:
    if options is not None and more:
        raise UsageError("give options, or single ones, not both")
    return options or Options(**more)


__all__ = ["Options", "Overwrite", "Progress", "Report", "Silent", "Summary", "restore", "restore_archive"]

"""`pogfast create`: archives files, directories, links and FIFOs with their metadata.

walk.py finds the files, known.py says which have not changed, run.py passes the others to the engine, and the manifest
is published last. A source that cannot be read is reported and left out. A file that changes while it is read is read
once more. If no store can be written to, the run ends, and the next one continues where it stopped. This package
handles no flags and prints nothing.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any, cast

from pogfast.backup.options import CHUNK_MEMORY, CHUNK_SIZE, SLACK, Layout, Options
from pogfast.backup.report import Outcome, Progress, Report, Silent, Summary
from pogfast.backup.run import Run
from pogfast.errors import NoSuchArchive, StoreLost, UsageError
from pogfast.keys import Key
from pogfast.stores import check_stores, open_store, open_stores
from pogfast.stores.protocols import CanAdvise, HasPacks, Target
from pogfast.stores.reliance import Condemned, stored_again

if TYPE_CHECKING:
    from pogfast.cluster.crews import CrewOptions


def create(
    paths: Iterable[str],
    to: str,
    key: Key,
    *,
    report: Report | None = None,
    stdin_name: str | None = None,
    command: str | None = None,
    timeout: float | None = None,
    options: Options | None = None,
    executor: object = None,
    crew_options: CrewOptions | None = None,
    **more: Any,
) -> Summary:
    """Archives the files and directories at `paths` in every store that `to` names; `more` are fields of Options.

    With `stdin_name`, archives standard input under that name instead; with `command` also, the output of that program,
    which is ended after `timeout` seconds. `executor` has other processes and machines do the work
    (cluster/executors.py). Raises UsageError, NoSuchInput, StoreError, and PogfastError if nothing could be archived;
    then no manifest is stored. Single sources that cannot be read are in the summary's problems.
    """
    key.check_writes()
    check_stores(to)
    options = options or Options(**more)
    if more and options != Options(**more):
        raise UsageError("pass either an Options object or single options, not both")
    report = report or Silent()
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        crew, reference = None, None
        if executor is not None and not options.dry_run:
            from pogfast.cluster.crews import CrewOptions  # imported here: most runs need no crew
            from pogfast.cluster.executors import open_crew
            from pogfast.cluster.units import KeyReference

            how = crew_options or CrewOptions()
            _check_executor(options, stdin_name)
            reference = KeyReference.of(key, how.worker_key, writing=True)
            crew = open_crew(executor, how, report.warning)
            stack.callback(crew.close)
        missing: list[StoreLost] = []
        targets = _look_at(to) if options.dry_run else open_stores(to, missing.append, must_exist=options.must_exist)
        for target in targets:
            stack.callback(target.close)
        identities = [target.identity for target in targets if not target.identity.startswith("program:")]
        if len(set(identities)) < len(identities):
            raise UsageError(f"{to}: two of these are the same store")
        run = Run(key, targets, options, report, list(paths), crew, reference)
        stack.callback(run.close)
        for lost in missing:
            run.problem(lost)
        if stdin_name is not None:
            run.archive_stream(stdin_name, command, timeout)
        else:
            run.archive_trees()
            run.known.warn_of_lost()

        def archive_again(names: Collection[str]) -> None:
            if stdin_name is not None:
                raise Condemned(to, names)
            run.begin_again(len(names))
            run.archive_trees()

        if not options.dry_run:
            words = [word for word in to.split(",") if word not in {lost.path for lost in missing}]
            addresses = dict(zip(map(id, targets), words, strict=True))
            stored_again(run.conclude, archive_again)
            run.summary.stores = [addresses[id(target)] for target in run.targets.left]
        run.summary.requests = dict(sum((Counter(target.requests) for target in targets), run.requests))
        advised = [target.advice() for target in targets if isinstance(target, CanAdvise)]
        run.summary.advice = list(filter(None, advised))
        if options.dry_run and run.summary.requests:
            run.summary.requests["put"] = sum(
                1 + _requests_for(target, run.summary) for target in targets if target.requests
            )
        run.summary.packs_new = sum(target.packs_put for target in targets if isinstance(target, HasPacks))
    run.summary.seconds = time.monotonic() - started
    return run.summary


def _check_executor(options: Options, stdin_name: str | None) -> None:
    """Raises UsageError for what only this machine can do, or what is each worker's own affair."""
    if stdin_name is not None:
        raise UsageError("a stream cannot be read by other machines", hint="archive it without --executor")
    if options.shard is not None:
        raise UsageError("--shard is for work without an executor")
    if options.memory is not None or options.readers is not None:
        raise UsageError("--memory and --readers cannot be combined with --executor")


def _requests_for(target: Target, summary: Summary) -> int:
    """Returns how many objects would be stored for the new blobs: at most, or with packs about."""
    blobs = summary.blobs_new
    return target.requests_for(blobs, summary.bytes_source) if isinstance(target, HasPacks) else blobs


def _look_at(to: str) -> list[Target]:
    """Opens the stores that exist and can be read, for a dry run."""
    opened: list[Target] = []
    for word in to.split(","):
        with contextlib.suppress(NoSuchArchive, UsageError):
            opened.append(cast(Target, open_store(word)))  # a dry run only reads it
    return opened


__all__ = [
    "CHUNK_MEMORY",
    "CHUNK_SIZE",
    "SLACK",
    "Layout",
    "Options",
    "Outcome",
    "Progress",
    "Report",
    "Silent",
    "Summary",
    "create",
]

"""The verbs of a run: each calls the function of its package with what a profile says, and returns what it did.

Warnings and problems go to the run (`Tell`); figures of summaries become those of a record.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from pogfast import backup
from pogfast.backup.input_lists import read_list, read_patterns
from pogfast.config.loading import Config
from pogfast.config.schema import Profile, Stream
from pogfast.config.settings import check_options, create_options, prune_options
from pogfast.errors import DamageError, MissingSource, PogfastError, StoreLost, worst_code
from pogfast.keys import Key
from pogfast.runs.records import MAX_MESSAGES, MAX_TEXT, VerbRecord
from pogfast.stores import settings
from pogfast.stores.limits import RateLimit
from pogfast.upkeep import checking, copying, pruning

# Figures of summaries that a record has; sizes are bytes.
CREATED = (
    *("files_new", "files_unchanged", "directories", "others", "skipped", "bytes_source", "bytes_read"),
    *("bytes_stored", "bytes_added", "blobs_new", "packs_new"),
)
COPIED = ("archives", "archives_there", "blobs", "size", "blobs_there")
PRUNED = ("kept", "removed", "expired", "blobs", "size", "waiting", "waiting_size")
CHECKED = ("archives", "files", "blobs", "stored", "read", "read_size", "packs")


class Tell(Protocol):
    """Who hears of a verb."""

    def warning(self, text: str) -> None: ...
    def note(self, text: str) -> None: ...
    def problem(self, error: PogfastError) -> None: ...
    def progress(self, progress: Callable[[], Any]) -> None: ...


def _figures(summary: object, words: tuple[str, ...]) -> dict[str, float]:
    return {word: getattr(summary, word) for word in words}


@contextmanager
def settings_of_stores(config: Config, profile: Profile) -> Iterator[None]:
    """Puts the settings of stores, and limits, into force."""
    sizes = {name: config.stores[name].packs or profile.packs for name in profile.all_stores}
    packs = {config.stores[name].address: size for name, size in sizes.items() if size is not None}
    limits = {"limit_upload": profile.limit_upload, "limit_download": profile.limit_download}
    given = {word: RateLimit(limit.rate) for word, limit in limits.items() if limit is not None}
    with settings.using(packs_of=packs, **given):
        yield


class _Passing:
    """Passes on what verbs report."""

    def __init__(self, tell: Tell) -> None:
        self.tell = tell

    def warning(self, text: str) -> None:
        self.tell.warning(text)

    def note(self, text: str) -> None:
        self.tell.note(text)

    def problem(self, error: PogfastError) -> None:
        self.tell.problem(error)


class _CreateReport(_Passing, backup.Silent):
    def started(self, progress: Callable[[], backup.Progress]) -> None:
        self.tell.progress(progress)


class _CopyReport(_Passing, copying.Silent):
    def started(self, progress: copying.Summary) -> None:
        self.tell.progress(lambda: progress)


class _CheckReport(_Passing, checking.Silent):
    def __init__(self, tell: Tell) -> None:
        super().__init__(tell)
        self.blobs: set[str] = set()  # that are damaged, and were reported

    def started(self, progress: checking.Summary) -> None:
        self.tell.progress(lambda: progress)

    def damage(self, damage: checking.Damage) -> None:
        """Reports damage, a blob once, however many files and archives need it."""
        if damage.blob in self.blobs:
            return
        if damage.blob is not None:
            self.blobs.add(damage.blob)
        where = "" if damage.archive in damage.error else f"{damage.archive}: "
        self.tell.problem(DamageError(f"{where}{damage.error}", path=damage.name or ""))


def create(config: Config, profile: Profile, key: Key, stream: Stream | None, record: VerbRecord, tell: Tell) -> None:
    """Archives the files of a profile, or the output of a command."""
    patterns = [line for file in profile.exclude_from for line in read_patterns(file)]
    options = create_options(profile, patterns, count_ahead=True)
    paths: list[str] = []
    if stream is None:
        listed = (read_list(file, nul=profile.null, base=profile.directory) for file in profile.files_from)
        paths = [*profile.paths, *(path for found in listed for path in found)]
    addresses = dict(zip(config.addresses(profile.stores), profile.stores, strict=True))
    summary = backup.create(
        paths,
        ",".join(addresses),
        key,
        report=_CreateReport(tell),
        stdin_name=stream.name if stream else None,
        command=shlex.join(stream.command) if stream else None,
        timeout=stream.timeout if stream else None,
        options=options,
    )
    record.archives = {addresses[address]: summary.manifest for address in summary.stores}
    record.figures = _figures(summary, CREATED)
    lacking = [one.path[:MAX_TEXT] for one in summary.problems if isinstance(one, MissingSource | StoreLost)]
    record.lacking = lacking[:MAX_MESSAGES]
    record.exit_code = worst_code(problem.exit_code for problem in summary.problems)


def copy(config: Config, profile: Profile, key: Key | None, record: VerbRecord, tell: Tell) -> None:
    """Copies all archives from the first store of the record to the second."""
    assert profile.copy is not None
    source, target = config.addresses(record.stores)
    summary = copying.copy(
        source, target, (), key, jobs=profile.jobs, verify=profile.copy.verify, report=_CopyReport(tell)
    )
    record.figures = _figures(summary, COPIED)
    record.exit_code = summary.exit_code


def prune(config: Config, profile: Profile, key: Key, record: VerbRecord, tell: Tell) -> None:
    """Applies the retention of a profile to the store of the record."""
    [store] = config.addresses(record.stores)
    summary = pruning.prune(store, key, dry_run=False, warn=tell.warning, **prune_options(profile))
    for problem in summary.problems:
        tell.problem(problem)
    record.figures = _figures(summary, PRUNED)
    record.exit_code = worst_code(problem.exit_code for problem in summary.problems)


def check(config: Config, profile: Profile, key: Key | None, record: VerbRecord, tell: Tell) -> None:
    """Checks the store of the record."""
    summary = checking.check(
        config.addresses(record.stores),
        key,
        **check_options(profile),
        jobs=profile.jobs,
        report=_CheckReport(tell),
    )
    record.figures = {**_figures(summary, CHECKED), "damage": len(summary.damage)}
    if summary.unproven is not None:
        record.figures["unproven"] = summary.unproven
    if summary.rehearsal is not None:
        record.figures["files_tested"] = summary.rehearsal.files
    record.exit_code = summary.exit_code

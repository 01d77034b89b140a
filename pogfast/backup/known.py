"""What is known from earlier runs, so that it need not be read again: files by the cache, blobs by the stores.

The cache says which blobs an unchanged file had; they count only as far as every store holds them. Of a file that has
changed, the cache gives the chunks of its earlier version. What this run reads is remembered for the next one.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from pogfast._engine import FilePart, FileRun, Known, Sealed
from pogfast.backup import cache
from pogfast.backup.cache_rows import KnownBlobs, StatData, is_racy
from pogfast.backup.going_on import Earlier
from pogfast.backup.mounts import Mounts
from pogfast.backup.options import Options
from pogfast.backup.report import Outcome, Report
from pogfast.backup.shards import Span
from pogfast.backup.walk import Node, file_in
from pogfast.errors import StoreError
from pogfast.files.metadata import kept_time
from pogfast.keys import Key
from pogfast.sizes import many
from pogfast.stores.protocols import Target
from pogfast.stores.targets import Targets

# Rows that wait until newer files are seen: 1 kB each. Those beyond them are read again in the next run.
MAX_POSTPONED = 10_000
# What the cache is told of a stream, which has no timestamps: it is never taken for unchanged.
OF_A_STREAM = StatData(-1, 0, 0, 0)
Source = TypeVar("Source", bytes, int)


@dataclass(slots=True)
class PendingFiles:
    """Files that follow each other, none of them doubtful: those from `begin` to `end` of a run. The engine has read
    the fresh ones among them up to `at`."""

    files: FileRun
    begin: int
    end: int
    read_at: int
    at: int

    def __len__(self) -> int:
        return self.end - self.begin

    def listed(self, end: int) -> Iterator[tuple[str, str, Outcome, int]]:
        """Yields what is reported of each, up to `end`."""
        for number in range(self.begin, end):
            node = file_in(self.files, number)
            yield node.name, node.path, "unchanged" if self.files.is_unchanged(number) else "new", node.stat.st_size


@dataclass(slots=True)
class PendingFile:
    """A file that the run has found and not yet finished; these are kept in the order of the archive."""

    node: Node
    facts: dict[str, Any]
    known: KnownBlobs | None = None  # all of its blobs, from the cache
    first: str | None = None  # of a further hard link: archived name of the first one
    read_at: int = 0
    blobs: list[str] = field(default_factory=list)
    stored: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    plain_names: list[bytes] = field(default_factory=list)
    cache_path: str = ""  # what the cache knows it by; empty until that is asked
    span: Span | None = None  # only this part of the file

    def add(self, sealed: Sealed) -> None:
        """Adds blobs that the engine has stored."""
        if not self.blobs:  # of a small file these are all
            self.blobs, self.stored, self.sizes, self.plain_names = sealed[1:5]
            return
        self.blobs += sealed.names
        self.stored += sealed.stored
        self.sizes += sealed.sizes
        self.plain_names += sealed.plain_names

    def __len__(self) -> int:
        return 1

    @property
    def is_stream(self) -> bool:
        return self.node.path == "-"

    @property
    def size(self) -> int:
        """Returns the bytes of the file, or of the span, when it was found."""
        return self.span.length if self.span else self.node.stat.st_size

    @property
    def is_first(self) -> bool:
        """True but for further spans of a file: each file is counted once."""
        return self.span is None or self.span.number == 0

    def span_facts(self, inode: int) -> dict[str, Any]:
        """Returns what the entry of a span says besides that of a file."""
        return {"span": [self.span.offset, self.node.stat.st_size, inode]} if self.span else {}


class _Row(NamedTuple):
    """What the cache is to know of a file."""

    path: str  # absolute
    file: PendingFile
    data: StatData
    known: KnownBlobs


def directory_of(options: Options) -> str:
    """Returns the directory of the caches."""
    return options.cache_directory or cache.default_directory()


def open_cache(options: Options, store: Target | None, key: Key, report: Report) -> cache.Cache | None:
    """Opens the cache of a store and a key; None if the options want none."""
    if options.cache_directory == "":
        return None
    opened = cache.Cache.open(directory_of(options), store.identity if store else "", key)
    if opened.warning:
        report.warning(opened.warning)
    return opened


class KnownFiles:
    """Looks files up in the cache and the stores, and remembers what was read.

    With several stores the cache is the first one's, `store`: what it knows is believed if all of them hold it.
    """

    def __init__(
        self,
        opened: cache.Cache | None,
        store: Target | None,
        targets: Targets,
        options: Options,
        mounts: Mounts,
        report: Report,
        earlier: Earlier | None = None,
    ) -> None:
        self.cache = opened
        self.earlier = earlier  # an interrupted run that this one goes on from
        self.store = store
        self.targets = targets
        self.options = options
        self.cuts = options.cuts
        self.mounts = mounts
        self.report = report
        self.cut = options.cut
        self.cache_warning = opened.warning if opened else ""
        self.lost: set[str] = set()  # blobs that the store should have and does not have
        self.last_directory = "", ""  # of the last file that was looked up: as it was given, and absolute
        self.postponed: list[_Row] = []

    def look_up(self, file: PendingFile) -> bytes | Known | None:
        """Returns what the engine is to read of a file; None, and sets `file.known`, if nothing, since the cache or an
        interrupted run knows all of it and the stores hold it."""
        node = file.node
        path = os.fsencode(node.path)
        if self.options.force or not self.targets.left:
            return path
        data = self._stat_data(node)
        known = self.cache.find(self._cache_path(file), data, self.cut) if self.cache else None
        stored = self.earlier.blobs_of(node.name, node.stat) if self.earlier else None
        goes_on = stored is not None and (known is None or len(known.names) < len(stored.names))
        if goes_on:
            known = stored
        if known is None:
            return self.with_earlier_chunks(file, path)
        held = self._held_by_all(known)
        if held == len(known.names) and known.complete:
            file.known = known
            if goes_on and self.cache:
                self._tell_cache(self.cache, _Row(self._cache_path(file), file, data, known))
            return None
        if held < len(known.names) and not goes_on:  # a run that was killed may not have stored all that it names
            self._note_lost(file, known)
        sizes = known.sizes or [self.cuts.maximum] * min(held, data.size // self.cuts.maximum)
        full = min(held, len(sizes))
        if self.options.layout == "stream" or not full or sum(sizes[:full]) >= data.size:
            return path
        return Known(path, known.names[:full], known.stored[:full], sizes[:full], data[:4], known.plain_names[:full])

    def look_up_span(self, file: PendingFile, span: Span) -> FilePart | None:
        """Returns what the engine is to read of a span of a file; None, and sets `file.known`, if nothing, since an
        interrupted run has stored it and the stores hold it. The cache knows only whole files."""
        stat = file.node.stat
        known = self.earlier.blobs_of(file.node.name, stat, span) if self.earlier and not self.options.force else None
        if known is not None and self._held_by_all(known) == len(known.names):
            file.known = known
            return None
        return FilePart(os.fsencode(file.node.path), span.offset, span.length, self._stat_data(file.node)[:4])

    def look_up_all(self, files: FileRun) -> None:
        """Has `files` note which are unchanged, and held by every store. `look_up` says more of the doubtful ones."""
        if self.options.force or not self.targets.left:
            return
        if self.cache is not None:
            self.cache.match(files, self._directory(os.fsdecode(files.path)), self.cut)
        known = files.known()
        if self.earlier:
            unchanged = {number for number, _, _ in known}
            for number in range(len(files)):
                if number not in unchanged and files.above + os.fsdecode(files.leaf(number)) in self.earlier:
                    files.doubt(number)
        names = [name for _, name, _ in known]
        for target in self.targets.left:
            for (number, _, stored), size in zip(known, target.sizes_of(names), strict=True):
                if size != stored:
                    files.doubt(number)

    def with_earlier_chunks(self, file: PendingFile, source: Source) -> Source | Known:
        """Returns `source` with the chunks that the cache knows of an earlier version, which it may contain again."""
        if self.cache is None or not self.cuts.by_content:
            return source
        known = self.cache.find_earlier(self._cache_path(file))
        if known is None:
            return source
        return Known(source, known.names, known.stored, known.sizes, None, known.plain_names)

    def _cache_path(self, file: PendingFile) -> str:
        """Returns what the cache knows a file by."""
        if not file.cache_path:
            file.cache_path = self._absolute(file.node)
        return file.cache_path

    def _absolute(self, node: Node) -> str:
        if node.path == "-":
            return f"stream:{node.name}"  # no absolute path
        given, slash, leaf = node.path.rpartition("/")
        return self._directory(given + slash) + leaf

    def _directory(self, given: str) -> str:
        """Returns the absolute path of a directory, with a slash at its end. `given` has one as well, or is empty."""
        if self.last_directory[0] != given or not given:
            self.last_directory = given, os.path.abspath(given).rstrip("/") + "/"
        return self.last_directory[1]

    def _held_by_all(self, known: KnownBlobs) -> int:
        """Returns how many of a file's blobs, from the first on, every store holds with the right size."""
        held = len(known.names)
        for target in self.targets.left:
            sizes = target.sizes_of(known.names[:held])
            rows = enumerate(zip(sizes, known.stored[:held], strict=True))
            held = next((number for number, (size, stored) in rows if size != stored), held)
        return held

    def _note_lost(self, file: PendingFile, known: KnownBlobs) -> None:
        """Notes which blobs of a file are lost. A run that was killed may not have stored them at all: they were in a
        pack, or in the queue of a service."""
        is_durable = self.cache is not None and self.cache.is_durable(self._cache_path(file))
        if is_durable and self.store in self.targets.left:
            sizes = self.store.sizes_of(known.names)
            rows = zip(known.names, known.stored, sizes, strict=True)
            self.lost.update(name for name, stored, size in rows if size != stored)

    def warn_of_lost(self) -> None:
        """Warns of blobs that the store should have and does not have, if archives there may need them."""
        if self.lost and self.store in self.targets.left and not self.options.dry_run:
            with contextlib.suppress(StoreError):  # a writer may have no right to list
                if self.store.manifests():
                    were = "was" if len(self.lost) == 1 else "were"
                    self.report.warning(
                        f"{self.store.label}: {many(len(self.lost), 'blob')} of earlier runs {were} missing or damaged "
                        f"and {were} stored again; other archives may lack blobs, too, unless a prune removed them: "
                        "run `pogfast check`"
                    )

    def forget(self, name: str) -> None:
        """Tells the interrupted run's files of one that this run has come to the end of."""
        if self.earlier:
            self.earlier.forget(name)

    def forget_all(self, files: FileRun, begin: int, end: int) -> None:
        """Does this for some files of a run."""
        if self.earlier:
            for number in range(begin, end):
                self.earlier.forget(files.above + os.fsdecode(files.leaf(number)))

    # ---- for the next run ----

    def remember(self, file: PendingFile, sealed: Sealed) -> None:
        """Tells the cache of a file that was read."""
        if self.cache is None or sealed.changed or file.span or (file.is_stream and not any(file.plain_names)):
            return
        seen = OF_A_STREAM if file.is_stream else self._stat_as_read(file, sealed, sealed.size)
        self._tell_cache(self.cache, _Row(self._cache_path(file), file, seen, self._known(file, True)))

    def remember_all(self, files: FileRun, begin: int, end: int, read_at: int) -> None:
        """Tells the cache of those of some files that were read, after `read_at`, in ns since 1970."""
        if self.cache is None:
            return
        directory, by_content = self._directory(os.fsdecode(files.path)), self.cuts.by_content
        until = self.mounts.time_of(files.device, read_at)
        late = self.cache.remember_all(files, begin, end, directory, self.cut, by_content=by_content, until_ns=until)
        for number in late:
            node = file_in(files, number)
            file = PendingFile(node, {}, read_at=read_at)
            file.blobs, file.stored = files.blobs(number, number + 1)
            file.sizes, file.plain_names = [node.stat.st_size], files.plain_names(number)
            row = _Row(self._cache_path(file), file, self._stat_data(node), self._known(file, True))
            self._tell_cache(self.cache, row)

    def save(self, partial: tuple[PendingFile, Sealed] | None) -> None:
        """Saves the cache, with the part of a large file, the `partial` one, that is stored."""
        if self.cache is None:
            return
        if partial is not None and self.options.layout == "frames":
            file, sealed = partial
            if file.blobs and not file.is_stream:
                data = self._stat_as_read(file, sealed, file.node.stat.st_size)
                row = _Row(self._cache_path(file), file, data, self._known(file, False))
                self.cache.remember(row.path, data, self.cut, row.known, read_at_ns=self._trusted_until(row))
        self._tell_postponed(self.cache)
        self.cache.save(durable=False)

    def end(self) -> None:
        """Saves and closes the cache after a complete run, when all blobs are durable."""
        if self.cache is not None:
            self._tell_postponed(self.cache)
            self.cache.save(durable=True)
            self.close(complete=True)

    def close(self, *, complete: bool = False) -> None:
        """Closes the cache, if it is open."""
        opened, self.cache = self.cache, None
        if opened is not None:
            opened.close(complete=complete)
            if opened.warning != self.cache_warning:
                self.report.warning(opened.warning)

    def _stat_data(self, node: Node) -> StatData:
        """Returns what the cache is asked for, and told, of a file as it was found."""
        stat = node.stat
        times = kept_time(stat.st_mtime_ns), kept_time(stat.st_ctime_ns)
        return StatData(stat.st_size, *times, stat.st_ino, self.mounts.identity(node.path, stat))

    def _stat_as_read(self, file: PendingFile, sealed: Sealed, size: int) -> StatData:
        """Returns what the cache is told of a file as it was read."""
        node = file.node
        system = self.mounts.identity(node.path, node.stat)
        return StatData(size, sealed.mtime_ns, sealed.ctime_ns, sealed.inode, system)

    def _known(self, file: PendingFile, complete: bool) -> KnownBlobs:
        if not self.cuts.by_content:
            return KnownBlobs(file.blobs, file.stored, complete)
        return KnownBlobs(file.blobs, file.stored, complete, file.sizes, file.plain_names)

    def _tell_cache(self, opened: cache.Cache, row: _Row) -> None:
        """Tells the cache of a file, or holds it back while a later change might not show in its timestamps."""
        time = self._trusted_until(row)
        if not row.file.is_stream and is_racy(row.data, time) and len(self.postponed) < MAX_POSTPONED:
            self.postponed.append(row)
        else:
            opened.remember(row.path, row.data, self.cut, row.known, read_at_ns=time)

    def _tell_postponed(self, opened: cache.Cache) -> None:
        """Tells the cache of files that were postponed, now that newer ones have been seen."""
        postponed, self.postponed = self.postponed, []
        for row in postponed:
            self._tell_cache(opened, row)

    def _trusted_until(self, row: _Row) -> int:
        """Returns the time, in ns, up to which a change of the file would show in its timestamps."""
        file = row.file
        # A part of a large file is for a run that continues soon; only a clock of whole seconds is too coarse for that.
        if file.is_stream or not (row.known.complete or row.data.system):
            return file.read_at
        return self.mounts.time_of(file.node.stat.st_dev, file.read_at)

"""One create, from the walk to the manifest: which files are read, and what becomes of each.

known.py says which files are unchanged; the engine reads, encrypts and stores the others. Files come in the order of
the walk, whatever the number of workers. A file that changes while it is read is read once more at the end.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, cast

from pogfast import manifest
from pogfast._engine import FilePart, FileRun, Known, Sealed, Sealer, Tallied, cores
from pogfast.backup import shards, walk
from pogfast.backup.cache import Cache
from pogfast.backup.cache_rows import KnownBlobs
from pogfast.backup.command import output_of
from pogfast.backup.contents import Contents, host_name
from pogfast.backup.going_on import BEGINS, Earlier, find, identity_of, read, words_of
from pogfast.backup.known import KnownFiles, PendingFile, PendingFiles, directory_of, open_cache
from pogfast.backup.mounts import Mounts
from pogfast.backup.options import Options
from pogfast.backup.report import Outcome, Progress, Report, Silent, Summary
from pogfast.backup.shards import SET_LENGTH, Part, Span, job_of
from pogfast.backup.walk import Node
from pogfast.cluster.tally import WorkerTally
from pogfast.errors import CorruptManifest, NoSuchArchive, PogfastError, SourceError, StoreError, UsageError, WrongKey
from pogfast.files import metadata
from pogfast.keys import Key
from pogfast.sizes import many
from pogfast.stores import PARTIAL, settings
from pogfast.stores.names import MEASURING
from pogfast.stores.protocols import HasPacks, Store, Target
from pogfast.stores.publish import conclude, name_now, store_errors, why_not_read
from pogfast.stores.reliance import PARTIAL_OFTEN
from pogfast.stores.targets import Partial, Targets
from pogfast.system.background import in_background

if TYPE_CHECKING:
    from pogfast.cluster.crews import Crew
    from pogfast.cluster.sealing import ClusterSealer
    from pogfast.cluster.units import KeyReference, SealingResult

# Seconds between two saves of the cache, in case the run is killed.
SAVE_EVERY = 0.5
SAVE_BLOB = 2e-5  # more for each blob of an unfinished file: saving all of them takes a twentieth of that
# Files that may wait for an older one to be finished, including unchanged ones: 2 kB each.
MAX_PENDING = 4096
UNITS_WAITING = 8  # units of small files, for each thread of a crew, that may wait so
# Kind of a node -> section of the trailer, and what is reported.
OTHER_KINDS: dict[str, tuple[str, Outcome]] = {
    "directory": ("directories", "directory"),
    "link": ("links", "link"),
    "fifo": ("fifos", "fifo"),
}


class _Again(Silent):
    """The report of a run that begins again: what was reported of each file is not repeated."""

    def __init__(self, report: Report) -> None:
        self.report = report

    def warning(self, text: str) -> None:
        self.report.warning(text)

    def concluding(self, manifest: str) -> None:
        self.report.concluding(manifest)


class Run:
    """One run: the files that were found, those in the engine, and the archive so far."""

    def __init__(
        self,
        key: Key,
        targets: Sequence[Target],
        options: Options,
        report: Report,
        paths: Sequence[str],
        crew: Crew | None = None,
        reference: KeyReference | None = None,
    ) -> None:
        self.key = key
        self.crew = crew
        self.reference = reference
        self.report = report
        self.summary = Summary()
        self.begun = datetime.now().astimezone()
        self.targets = Targets(targets, self.problem, report.warning)
        self.options = options
        self.shard = options.shard
        here = "" if self.shard else host_name()  # a shard goes on from another machine
        self.identity = identity_of(key, options, paths, options.host if options.host is not None else here)
        self.job = job_of(key, options.selection, self.identity, self.shard.of) if self.shard else ""
        if self.shard:
            part = Part(self.shard.set or self.job[:SET_LENGTH], self.shard.number, self.shard.of)
            self.partial = Partial(self.targets, part.name, PARTIAL_OFTEN)
        else:
            name = name_now() + PARTIAL
            self.partial = Partial(self.targets, name) if crew is None else Partial(self.targets, name, PARTIAL_OFTEN)
        self.cuts = options.cuts
        self.paths = paths
        self.jobs = options.jobs or cores()
        self.tallied = Tallied(0, 0, 0, 0)
        self.requests: Counter[str] = Counter()  # of workers
        self.directory = os.fsencode(os.getcwd()) if crew is not None else b""
        self.first_target = next(iter(targets), None)  # whose cache is used
        self.job_targets: list[Target] = []  # those that a crew's workers write to
        self._begin()
        self._warn_of_other_keys()
        report.started(self.progress)

    def _begin(self) -> None:
        self.contents = Contents(self.key, self.options, self.paths, self.begun, self.summary)
        self.again: list[PendingFile] = []
        self.pending: deque[PendingFile | PendingFiles] = deque()
        self.waiting = 0  # files in these
        self.most_waiting = MAX_PENDING
        self.inodes: dict[tuple[int, int], str] = {}  # of files with several names: the first of these
        self.sealer: Sealer | ClusterSealer | None = None
        self.unread = 0  # bytes that did not need to be read: of unchanged files, and of holes
        self.saved_at = time.monotonic()
        self.totals: tuple[int, int] | None = None
        self.partial_file: tuple[PendingFile, Sealed] | None = None  # the oldest in the engine, if a part is stored
        opened = open_cache(self.options, self.first_target, self.key, self.report)  # makes its directory
        self.own = self._own()
        self.mounts = Mounts(device for device, _ in self.own.directories)
        earlier = self._interrupted(opened)
        self.known = KnownFiles(
            opened, self.first_target, self.targets, self.options, self.mounts, self.report, earlier
        )
        self.superseded = earlier.name if earlier is not None else ""  # a partial manifest

    def _interrupted(self, opened: Cache | None) -> Earlier | None:
        """Returns what an interrupted run of the same paths has stored, if the cache does not know it."""
        if self.options.force or self.first_target is None:
            return None
        if self.shard:
            found = read(self.first_target, self.partial.name, self.key, self.options, self.identity)
        elif self.crew is None and (opened is None or not opened.is_first):
            return None
        else:
            found = find(self.first_target, self.key, self.options, self.identity)
        if found is not None:
            count = many(len(found.files), "file")
            self.report.note(f"going on from {found.name}, of an earlier run that has {count}")
        return found

    def begin_again(self, pruned: int) -> None:
        """Begins again when a prune has condemned or deleted blobs that this run relies on. What the cache knows and
        the stores hold is not read again."""
        self.close()
        self.report.warning(f"a prune has removed {many(pruned, 'blob')} that this run needs: stored again")
        self.report = _Again(self.report)
        self.summary = Summary()
        self._begin()

    def _warn_of_other_keys(self) -> None:
        """Warns of stores whose newest archive this key does not open.

        That costs a listing and a manifest, so it is done only where no earlier run with this key is known. A password,
        which may be mistyped every night, is checked in each run and against the oldest archive, since the newest would
        be the one of the night before."""
        if self.shard is not None and not self.shard.takes_others:  # once is enough
            return
        by_password = self.key.kind == "password"
        opened = self.known.cache
        if not by_password and opened is not None and not opened.is_first:
            return
        pick = min if by_password else max
        for target in self.targets.left:
            with contextlib.suppress(NoSuchArchive, CorruptManifest, StoreError):  # a writer may have no right to read
                there = target.manifests()
                if not there:
                    continue
                archive = pick(there, key=lambda stored: stored.modified)
                try:
                    manifest.check_key(target.get_manifest(archive.name), self.key, archive.name)
                except WrongKey:
                    self.report.warning(
                        f"{target.label} has archives created with another key than this one (fingerprint "
                        f"{self.key.fingerprint}), or with damaged headers: {archive.name}"
                        + ("; is the password right? Only this one will open this archive" if by_password else "")
                    )

    def _own(self) -> walk.Own:
        """Returns what this run writes to, so that it is not archived into itself."""
        directories = dict(pair for target in self.targets.left for pair in target.own_directories().items())
        directory = directory_of(self.options)
        with contextlib.suppress(OSError):
            found = os.stat(directory)
            directories[found.st_dev, found.st_ino] = (f"the cache {directory}", lambda name: True)
        return walk.Own(directories, MEASURING)

    def _walk(self, tell: walk.Tell, **more: Any) -> Iterator[Node | FileRun]:
        options = self.options
        return walk.walk(self.paths, options.selection, base=options.base, own=self.own, tell=tell, **more)

    def progress(self) -> Progress:
        """Returns how far the run is. May be called from any thread."""
        now = self._tally()
        files = self.summary.files_new + self.summary.files_unchanged
        total_files, total_bytes = self.totals or (None, None)
        workers = None if self.crew is None else self.crew.capacity()
        return Progress(
            files,
            self.unread + now.bytes_read,
            now.bytes_read,
            now.bytes_stored,
            now.blobs_new,
            total_files,
            total_bytes,
            workers,
        )

    def _tally(self) -> Tallied:
        """Returns the engine's counts of all passes so far."""
        sealer = self.sealer
        if sealer is None:
            return self.tallied
        return Tallied(*map(sum, zip(self.tallied, sealer.progress(), strict=True)))

    def tell(self, what: PogfastError | str) -> None:
        """Passes on a problem, note or warning of the walk."""
        if isinstance(what, walk.Note):
            self.report.note(what)
        elif isinstance(what, str):
            self.report.warning(what)
        else:
            self.problem(what)

    def problem(self, error: PogfastError) -> None:
        """Reports a problem; one with a source is also noted in the archive."""
        self.summary.problems.append(error)
        if isinstance(error, SourceError):
            self.contents.sections["unreadable"][error.path or str(error)] = error.reason or str(error)
        self.report.problem(error)

    # ---- trees ----

    def archive_trees(self) -> None:
        """Archives the given paths. Raises PogfastError if nothing could be archived."""
        with self._counting():
            self._run_engine(self._sources())
            changed, self.again = self.again, []
            if changed and not self.options.dry_run:
                self._run_engine(self._sources_again(changed), last=True)
        if self.contents.is_empty and not self.options.dry_run and not self.shard:
            raise PogfastError("nothing could be archived: no archive was made")

    @contextlib.contextmanager
    def _counting(self) -> Iterator[None]:
        """Counts files and bytes in the background, if the options ask for it."""
        if not self.options.count_ahead or self.shard:
            yield
            return

        def count(ended: threading.Event) -> None:
            files = size = 0
            # The run itself reports problems with sources; then there are no totals.
            with contextlib.suppress(PogfastError, OSError):
                for found in self._walk(_ignore):
                    if ended.is_set():
                        return
                    if isinstance(found, FileRun):
                        files += len(found)
                        size += sum(found.outcomes(0, len(found))[1::2])
                    elif found.kind == "file":
                        files += 1
                        size += found.stat.st_size
                self.totals = files, size

        with in_background(count, "pogfast-count"):
            yield

    def _sources(self) -> Iterator[bytes | Known | FilePart | None]:
        """Yields what the engine is to read, in the order of the archive, and handles everything else. None asks the
        engine to wait."""
        for found in self._walk(self.tell, on_parent=self._add_parent):
            if isinstance(found, FileRun):
                yield from self._sources_in(found)
                continue
            self.mounts.see(found.stat.st_dev, found.stat.st_ctime_ns)
            if found.kind == "file":
                largest = self.options.span_size
                if largest is not None and found.stat.st_size > largest and found.stat.st_nlink == 1:
                    yield from self._spans_of(found)
                elif self._is_own(found):
                    yield from self._source_of(found)
            elif self.shard is None or self.shard.takes_others:
                self._add_special(found)

    def _is_own(self, node: Node) -> bool:
        """Returns True if a file belongs to this shard. All names of a file belong to one."""
        if self.shard is None:
            return True
        if node.stat.st_nlink == 1:
            return self.shard.owns(node.name)
        return self.shard.owns(self.inodes.setdefault((node.stat.st_dev, node.stat.st_ino), node.name))

    def _sources_in(self, files: FileRun) -> Iterator[bytes | Known | FilePart | None]:
        """Yields those of some files that the engine is to read."""
        self.mounts.see(files.device, files.newest_ns)
        together = self.contents.writer.takes_encoded(files.above) and not self.options.dry_run
        if together:
            self.known.look_up_all(files)
        shared = self._shared_in(files)
        for begin, end in [(0, len(files))] if self.shard is None else self.shard.stretches(files, shared):
            if begin in shared:
                yield from self._spans_of(walk.file_in(files, begin))
            else:
                yield from self._sources_between(files, begin, end, together)

    def _shared_in(self, files: FileRun) -> set[int]:
        """Returns those of some files that are so large that shards share them."""
        largest = self.options.span_size
        if largest is None or sum(files.outcomes(0, len(files))[1::2]) <= largest:
            return set()
        return {number for number in range(len(files)) if files.node(number)[2].st_size > largest}

    def _spans_of(self, node: Node) -> Iterator[FilePart | None]:
        """Yields the spans of a large file that belong to this shard and that the engine is to read."""
        assert self.shard is not None
        assert self.options.span_size is not None
        for span in self.shard.spans(node.name, node.stat.st_size, self.options.span_size):
            yield from self._room()
            named = node._replace(name=shards.span_name(node.name, span.number))
            pending = PendingFile(named, self._facts_of(node), read_at=time.time_ns(), span=span)
            self._wait(pending)
            source = self.known.look_up_span(pending, span)
            if source is None or self.options.dry_run:
                self._finish_known()
            else:
                yield source

    def _sources_between(
        self, files: FileRun, at: int, stop: int, together: bool
    ) -> Iterator[bytes | Known | FilePart | None]:
        """Yields those of the files from `at` to `stop` that the engine is to read; `together`: many at a time."""
        while at < stop:
            end = min(files.ordinary_until(at), stop) if together else at
            if end == at:
                yield from self._source_of(walk.file_in(files, at))
                at += 1
                continue
            yield from self._room()
            end = min(end, at + MAX_PENDING)
            self._wait(PendingFiles(files, at, end, time.time_ns(), at=files.next_fresh(at)))
            self._finish_known()
            while (at := files.next_fresh(at)) < end:
                path = files.path + files.leaf(at)
                yield path if self.crew is None else self._for_workers(path, files.node(at)[2])
                at += 1
            at = end

    def _room(self) -> Iterator[None]:
        """Asks the engine to wait while many files wait for an older one."""
        while self.waiting >= self.most_waiting:
            yield None

    def _source_of(self, node: Node) -> Iterator[bytes | Known | FilePart | None]:
        """Yields a file if the engine is to read it."""
        yield from self._room()
        pending = PendingFile(node, self._facts_of(node), read_at=time.time_ns())
        self._wait(pending)
        if node.stat.st_nlink > 1:
            inode = (node.stat.st_dev, node.stat.st_ino)
            pending.first = self.inodes.setdefault(inode, node.name)
            if pending.first != node.name:
                self._finish_known()
                return
            pending.first = None
        source = self.known.look_up(pending)
        if source is None or self.options.dry_run:
            self._finish_known()
        else:
            stat = node.stat
            yield self._known_for_workers(source) if isinstance(source, Known) else self._for_workers(source, stat)

    def _wait(self, pending: PendingFile | PendingFiles) -> None:
        """Has files wait for their turn in the archive."""
        self.pending.append(pending)
        self.waiting += len(pending)

    def _end_wait(self) -> None:
        ended = self.pending.popleft()
        self.waiting -= len(ended)
        if isinstance(ended, PendingFile):
            self.known.forget(ended.node.name)

    def _facts_of(self, node: Node) -> dict[str, Any]:
        """Returns a node's metadata. Parts that cannot be read are reported, and noted in the archive."""

        def missed(reason: str) -> None:
            self.problem(SourceError(f"{node.path}: {reason}", path=node.path, reason=reason))

        facts = metadata.facts_of(node.path, node.stat, missed)
        if (facts["mtime_ns"], facts["atime_ns"]) != (node.stat.st_mtime_ns, node.stat.st_atime_ns):
            self.report.warning(f"{node.path}: times outside of 1677 to 2262 are archived as the nearest ones")
        return facts

    def _add_parent(self, node: Node) -> None:
        """Adds the metadata of a directory that is not archived itself, but is part of archived names."""
        if self.shard is not None and not self.shard.takes_others:
            return
        if node.name:
            self.contents.sections["parents"][node.name] = self._facts_of(node)
        else:
            self.contents.sections["top"] = self._facts_of(node)

    def _add_special(self, node: Node) -> None:
        """Adds a directory, link or FIFO; leaves out sockets and devices."""
        if node.kind not in OTHER_KINDS:
            self.contents.sections["skipped"][node.path] = f"a {node.kind}"
            self.summary.skipped += 1
            self.report.note(f"{node.path} is a {node.kind}: left out")
            self.report.entry(node.name, node.path, "skipped", 0)
            return
        section, outcome = OTHER_KINDS[node.kind]
        facts = self._facts_of(node)
        if node.kind == "link":
            try:
                facts["target"] = os.readlink(node.path)
            except OSError as error:
                self.problem(_unreadable(node.path, error.strerror or "cannot be read"))
                return
        self.contents.sections[section][node.name] = facts
        if node.kind == "directory":
            self.summary.directories += 1
        else:
            self.summary.others += 1
        self.report.entry(node.name, node.path, outcome, 0)

    def _sources_again(self, changed: Sequence[PendingFile]) -> Iterator[bytes | Known | FilePart]:
        """Yields files that changed while they were read, to be read once more."""
        for old in changed:
            if old.first is None:
                try:
                    stat = os.lstat(old.node.path)
                except OSError as error:
                    self.problem(_unreadable(old.node.path, error.strerror or "it has vanished"))
                    continue
                node = old.node._replace(stat=stat)
                if old.span is not None:
                    yield from self._span_again(old.span, node)
                    continue
                facts = metadata.facts_of(node.path, stat)  # parts that cannot be read were reported the first time
                self._wait(PendingFile(node, facts, read_at=time.time_ns()))
                path = os.fsencode(node.path)
                if any(old.plain_names):
                    earlier = Known(path, old.blobs, old.stored, old.sizes, None, old.plain_names)
                    yield self._known_for_workers(earlier)
                else:
                    yield self._for_workers(path, stat)
            else:
                self._wait(PendingFile(old.node, old.facts, first=old.first))
                self._finish_known()

    def _span_again(self, span: Span, node: Node) -> Iterator[FilePart]:
        """Yields a span of a file that has changed, as far as the file still has it."""
        length = min(self.options.span_size or 0, node.stat.st_size - span.offset)
        if length > 0:
            span = span._replace(length=length)
            pending = PendingFile(node, metadata.facts_of(node.path, node.stat), read_at=time.time_ns(), span=span)
            self._wait(pending)
            source = self.known.look_up_span(pending, span)
            if source is None:
                self._finish_known()
            else:
                yield source

    # ---- a stream ----

    def archive_stream(self, name: str, command: str | None, timeout: float | None) -> None:
        """Archives standard input, or the output of `command`, as one file. Raises UsageError, and PogfastError if it
        cannot be read, or the command fails or takes longer than `timeout` seconds."""
        name = walk.archived_name(name)
        if not name:
            raise UsageError("standard input needs a name in the archive", hint="--name=dump.sql")
        self.contents.paths = [os.path.join("/", name)]  # so that archives of two dumps are two series
        now = time.time_ns()
        owner = {"mode": 0o600, "uid": os.getuid(), "gid": os.getgid()}
        facts = {**owner, "mtime_ns": now, "atime_ns": now}
        node = Node("-", name, "file", os.stat_result((0o100600, 0, 0, 1, 0, 0, 0, 0, 0, 0)))
        if self.options.dry_run:
            return
        pending = PendingFile(node, facts, read_at=now)
        self._wait(pending)
        if command is None:
            self._run_engine(iter([self._stream(pending, 0)]), last=True)
        else:
            with output_of(command, timeout) as descriptor:
                self._run_engine(iter([self._stream(pending, descriptor)]), last=True)
        if self.contents.is_empty:
            raise PogfastError("standard input could not be read: no archive was made")

    def _stream(self, pending: PendingFile, descriptor: int) -> int | Known:
        return descriptor if self.options.force else self.known.with_earlier_chunks(pending, descriptor)

    # ---- through the engine ----

    def _run_engine(self, sources: Iterator[bytes | int | Known | FilePart | None], *, last: bool = False) -> None:
        """Archives `sources`. Files that change while they are read go to `again`, unless this is the `last` pass."""
        if self.crew is None:
            sealer = self._sealer(sources)
            with self.targets.written_to(lambda: sealer.progress().blobs_new):
                self._take_results(sealer, last)
        else:  # each worker syncs what it writes
            from pogfast.cluster import worker  # imported here: most runs need no crew

            by_crew = self._sealer_of(self.crew, sources, last)
            try:
                self._take_results(by_crew, last)
            finally:
                self.crew.tell_all(worker.end, by_crew.job)
            self._count_workers(by_crew)
        self.tallied, self.sealer = self._tally(), None
        self.summary.bytes_read = self.tallied.bytes_read

    def _take_results(self, sealer: Sealer | ClusterSealer, last: bool) -> None:
        self.sealer = sealer
        with store_errors(), contextlib.closing(sealer.run()) as run:
            for sealed in run:
                if sealer.lost:
                    self.targets.drop(sealer.lost)
                self._take_result(sealed, last)
            self.targets.drop(sealer.lost)

    def _sealer(self, sources: Iterator[bytes | int | Known | FilePart | None]) -> Sealer:
        """Returns the engine that archives sources on this machine."""
        slabs = self.options.slabs(self.jobs)
        self.report.detail(
            f"{self.jobs} workers, at most {slabs} chunks in flight, {slabs * self.options.chunk_memory / 1e6:.0f} MB"
        )
        return Sealer(
            self.key.secret,
            self.key.asymmetric,
            sources,
            self.targets.sinks,
            chunk_size=self.cuts.maximum,
            level=self.options.level,
            jobs=self.jobs,
            frames=self.options.layout == "frames",
            content=self.cuts.content(self.key),
            slabs=0 if self.options.memory is None else slabs,
            readers=self.options.readers or self.jobs,
            follow=False,
            anew=self.options.force,
            even=self.options.pad,
        )

    def _sealer_of(
        self, crew: Crew, sources: Iterator[bytes | int | Known | FilePart | None], last: bool
    ) -> ClusterSealer:
        """Returns what has sources archived by a crew."""
        from pogfast.cluster.sealing import UNIT_FILES, ClusterSealer  # imported here: most runs need no crew
        from pogfast.cluster.units import SealingJob, sources_of

        assert self.reference is not None
        self._put_partial(now=True)  # the workers look for it in the stores
        paths = (os.path.abspath(os.path.join(self.options.base or ".", path)) for path in self.paths)
        job = SealingJob(
            secrets.token_hex(8),
            ",".join(map(_address_for_all, self.targets.left)),
            self.partial.name,
            self.reference,
            settings.current(),
            sources_of(paths),
            chunk_size=self.cuts.maximum,
            level=self.options.level,
            jobs=self.options.jobs or 1,
            frames=self.options.layout == "frames",
            by_content=(self.cuts.minimum, self.cuts.mean) if self.cuts.by_content else None,
            anew=self.options.force,
            even=self.options.pad,
        )
        self.job_targets = list(self.targets.left)
        crew.begin(job)
        self.most_waiting = max(MAX_PENDING, crew.capacity() * UNITS_WAITING * UNIT_FILES)
        return ClusterSealer(crew, job, sources, self._take_from_worker, last=last)

    def _count_workers(self, sealer: ClusterSealer) -> None:
        self.summary.retries += sealer.retries
        for worker, tally in sealer.workers.items():
            so_far = self.summary.workers.get(worker, WorkerTally())
            self.summary.workers[worker] = so_far.plus(tally)

    def _take_from_worker(self, result: SealingResult) -> None:
        packs_of = {id(target): packs for target, packs in zip(self.job_targets, result.packs, strict=True)}

        def take_over(target: Target) -> None:
            if isinstance(target, HasPacks):
                target.take_over(packs_of[id(target)])

        self.targets.each(take_over)
        self.requests.update(result.requests)

    def _for_workers(self, path: bytes, stat: Any) -> bytes | FilePart:
        """Returns a file as the workers are to get it: with its size, and with a path that they understand."""
        if self.crew is None:
            return path
        facts = (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)
        path = os.path.join(self.directory, path)
        return FilePart(path, 0, stat.st_size, facts) if stat.st_size else path

    def _known_for_workers(self, known: Known) -> Known:
        if self.crew is None or isinstance(known.path, int):
            return known
        return known._replace(path=os.path.join(self.directory, known.path))

    def _take_result(self, sealed: Sealed, last: bool) -> None:
        """Takes a result of the engine, which is of the oldest pending file: some of its blobs, or its end."""
        pending = self.pending[0]
        if isinstance(pending, PendingFiles):
            if pending.files.take(pending.at, sealed):
                pending.at = pending.files.next_fresh(pending.at)
                self._note_progress(None, None)
                self._finish_known()
                return
            pending = self._single_out(pending)
        pending.add(sealed)
        if not sealed.done:
            self._note_progress(pending, sealed)
            return
        self._end_wait()
        another = _is_another(pending.node, sealed)
        if sealed.error:
            self.problem(_unreadable(pending.node.path, why_not_read(sealed.error)))
        elif sealed.changed and last and pending.span:
            self.problem(_unreadable(pending.node.path, "it changes while shards read it"))
        elif (sealed.changed or another) and not last:
            self.again.append(pending)
        else:
            self._finish(pending, sealed._replace(changed=sealed.changed or another))
        self._note_progress(None, None)
        self._finish_known()

    def _finish(self, pending: PendingFile, sealed: Sealed) -> None:
        """Adds a file that the engine has read to the archive, and to the cache."""
        node, facts = pending.node, pending.facts
        if node.path != "-":
            facts["mtime_ns"], facts["atime_ns"] = sealed.mtime_ns, sealed.atime_ns
            if sealed.sparse:  # the holes of a stream are read
                self.unread += max(0, sealed.size - node.stat.st_blocks * 512)
        more = {"size": sealed.size, **facts, **pending.span_facts(sealed.inode)}
        if sealed.sparse:
            more["sparse"] = True
        if sealed.changed:
            more["changed"] = True
            self.contents.changed.append(node.name)
            self.problem(
                SourceError(f"{node.path} changed while it was read, twice: archived as it was read", path=node.path)
            )
        if self.options.layout == "frames" and len(pending.blobs) > 1:
            more["sizes"] = pending.sizes
        self.contents.add(node, pending.blobs, pending.stored, more)
        self.summary.files_new += pending.is_first
        self.summary.bytes_source += sealed.size
        self.report.entry(node.name, node.path, "new", sealed.size)
        self.known.remember(pending, sealed)

    def _finish_known(self) -> None:
        """Adds the oldest pending files to the archive, up to the first that the engine has to read."""
        while self.pending:
            pending = self.pending[0]
            if isinstance(pending, PendingFiles):
                if pending.at < pending.end:
                    return
                self._finish_up_to(pending, pending.end)
            elif pending.known is not None:
                self._finish_unchanged(pending, pending.known)
            elif pending.first is not None:
                self._finish_hardlink(pending, pending.first)
            elif self.options.dry_run:
                self.summary.files_new += pending.is_first
                self.summary.bytes_source += pending.size
                self.summary.blobs_new += -(-pending.size // self.cuts.minimum) or 1
                self.report.entry(pending.node.name, pending.node.path, "new", pending.size)
            else:
                return
            self._end_wait()

    def _finish_unchanged(self, pending: PendingFile, known: KnownBlobs) -> None:
        if self.summary.files_unchanged % MAX_PENDING == 0:
            self._put_partial()
        node, size = pending.node, pending.size
        more = {"size": size, **pending.facts, **pending.span_facts(node.stat.st_ino)}
        if node.stat.st_blocks * 512 < node.stat.st_size:
            more["sparse"] = True
        if self.options.layout == "frames" and len(known.names) > 1:
            chunk = self.cuts.maximum
            more["sizes"] = list(known.sizes) or [min(chunk, size - at) for at in range(0, size, chunk)]
        self.contents.add(node, known.names, known.stored, more)
        self.summary.files_unchanged += pending.is_first
        self.summary.bytes_source += size
        self.unread += size
        self.report.entry(node.name, node.path, "unchanged", size)

    def _finish_up_to(self, pending: PendingFiles, end: int) -> None:
        """Adds some of the oldest files to the archive, and to the cache those that the engine has read."""
        begin, files = pending.begin, pending.files
        if end == begin:
            return
        self._put_partial()
        new, new_size, unchanged, unchanged_size = files.outcomes(begin, end)
        self.contents.add_files(files, begin, end)
        self.known.remember_all(files, begin, end, pending.read_at)
        self.known.forget_all(files, begin, end)
        self.summary.files_new += new
        self.summary.files_unchanged += unchanged
        self.summary.bytes_source += new_size + unchanged_size
        self.unread += unchanged_size
        self.report.entries(pending.listed(end))
        self.waiting -= end - begin
        pending.begin = end

    def _single_out(self, pending: PendingFiles) -> PendingFile:
        """Takes the file that the engine has read out of the oldest ones, and returns it."""
        self._finish_up_to(pending, pending.at)
        node = walk.file_in(pending.files, pending.at)
        file = PendingFile(node, self._facts_of(node), read_at=pending.read_at)
        pending.begin += 1
        if not len(pending):
            self.pending.popleft()
        pending.at = pending.files.next_fresh(pending.begin)
        self.pending.appendleft(file)
        return file

    def _finish_hardlink(self, pending: PendingFile, first: str) -> None:
        node = pending.node
        if self.contents.add_hard_link(node.name, first):
            self.summary.others += 1
            self.report.entry(node.name, node.path, "hardlink", 0)
        elif any(waiting.node.name == first for waiting in self.again):
            self.again.append(pending)
        elif self.options.dry_run:
            self.summary.others += 1
            self.report.entry(node.name, node.path, "hardlink", 0)
        else:
            self.problem(_unreadable(node.path, f"it is the same file as {first}, which could not be read"))

    def _note_progress(self, pending: PendingFile | None, sealed: Sealed | None) -> None:
        """Notes which file is partly stored, if one is. Saves the cache now and then, in case the run is killed."""
        self.partial_file = None if pending is None or sealed is None or pending.span else (pending, sealed)
        every = SAVE_EVERY + (len(pending.blobs) * SAVE_BLOB if pending else 0)
        if time.monotonic() - self.saved_at >= every:
            first = self.pending[0] if self.pending else None
            if isinstance(first, PendingFiles):
                self._finish_up_to(first, min(first.at, first.end))
            self.known.save(self.partial_file)
            self._put_partial()
            self.saved_at = time.monotonic()

    def _put_partial(self, *, now: bool = False) -> None:
        """Stores a partial manifest, if one is due or `now`: it tells prune which blobs this run has stored or relies
        on."""
        if not (now or self.partial.is_due()):
            return
        entries: dict[str, manifest.Entry] = {}
        if self.partial_file is not None:
            pending, _ = self.partial_file
            more = {**pending.facts, "size": sum(pending.sizes), "sizes": pending.sizes, "stored": pending.stored}
            more[BEGINS] = pending.node.stat.st_size
            entries[pending.node.name + PARTIAL] = manifest.Entry(pending.blobs, 0.0, 0.0, more)

        def seal() -> bytes:
            since = self.begun
            if (earlier := self.known.earlier) is not None:
                left = {name: entry for name, entry in earlier.left if name not in entries}
                entries.update(left)
                since = min(since, earlier.since) if left else since
            return self.contents.writer.snapshot(entries, self._partial_trailer(since, complete=False))

        self.partial.put(seal)
        self._supersede()

    def _partial_trailer(self, since: datetime, *, complete: bool) -> dict[str, Any]:
        """Returns the trailer of a partial manifest, whose files were all read after `since`."""
        words = words_of(self.identity, since)
        if self.shard:
            words |= shards.words_of(self.shard, self.job, self.paths, complete=complete)
        return {**self.contents.trailer(), **words}

    def _supersede(self) -> None:
        """Deletes the partial manifest that this run goes on from, now that another manifest names the same blobs."""
        if self.superseded not in ("", self.partial.name):
            self.targets.delete_partial(self.superseded)
        self.superseded = ""

    # ---- the end ----

    def conclude(self) -> None:
        """Stores the manifest, or the part of a shard, once all blobs that it names are durable."""
        self.summary.bytes_added = self.tallied.bytes_stored
        self.summary.blobs_new, self.summary.blobs_known = self.tallied.blobs_new, self.tallied.blobs_known
        if self.shard:
            self._conclude_part()
        else:
            self.summary.manifest = conclude(
                self.targets,
                lambda: self.contents.writer.seal(self.contents.trailer()),
                self._blobs_in,
                self.report.concluding,
            )
            self.partial.delete()
            self._supersede()
        self.known.end()

    def _conclude_part(self) -> None:
        """Stores the part of a shard, once all blobs that it names are durable. `merge` looks at the blobs again."""
        self.targets.each(lambda target: target.make_durable())
        data = self.contents.writer.snapshot({}, self._partial_trailer(self.begun, complete=True))
        self.targets.check_reliance(lambda: self._blobs_in(data))
        self.report.concluding(self.partial.name)
        self.targets.put_partial(self.partial.name, data)
        self.summary.part = self.partial.name

    def _blobs_in(self, data: bytes) -> set[str]:
        return set(manifest.blob_names(data, self.key, "the manifest"))

    def close(self) -> None:
        """Closes the cache. After a failure it contains what was stored so far, for the next run."""
        if not self.options.dry_run:
            self.known.save(self.partial_file)
        self.known.close()


def _address_for_all(target: Target) -> str:
    """Returns the address of a store for other machines. Raises UsageError for one that has none."""
    if target.identity.startswith("program:"):
        raise UsageError(f"{target.label} is a program: workers can write to directories and services only")
    path = cast(Store, target).path
    address = os.path.abspath(path) if target.own_directories() else path
    if "," in address:
        raise UsageError(f"{address}: workers cannot be told of a store with a comma in its path")
    return address


def _is_another(node: Node, sealed: Sealed) -> bool:
    """Returns True if another file had the name by the time that it was read: mode, owner and attributes are not of
    that one. Some network file systems give a file another inode number at any time, but no other ctime."""
    return node.path != "-" and sealed.inode != node.stat.st_ino and sealed.ctime_ns != node.stat.st_ctime_ns


def _ignore(what: PogfastError | str) -> None:
    """For a walk that only counts."""


def _unreadable(path: str, reason: str) -> SourceError:
    return SourceError(f"cannot read {path}: {reason}", path=path, reason=reason)

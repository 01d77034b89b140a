"""One create, from the walk to the manifest: which files are known, what the engine makes of the others.

Files come in the order of the walk, whatever the number of workers. What changes while it is read is read once more.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple, TypeVar

from pogfast import __version__, manifest
from pogfast._engine import Known, Sealed, Sealer, Tallied, cores
from pogfast.backup import cache, walk
from pogfast.backup.mounts import Mounts
from pogfast.backup.options import Options
from pogfast.backup.report import Outcome, Progress, Report, Silent, Summary
from pogfast.backup.walk import Node
from pogfast.errors import CorruptManifest, NoSuchArchive, PogfastError, SourceError, StoreError, UsageError, WrongKey
from pogfast.files import metadata
from pogfast.keys import Key
from pogfast.sizes import many
from pogfast.stores import PARTIAL
from pogfast.stores.names import MEASURING
from pogfast.stores.protocols import Target
from pogfast.stores.publish import conclude, name_now, seconds_of, store_errors, why_not_read
from pogfast.stores.targets import Partial, Targets
from pogfast.system.background import in_background
from pogfast.system.environment import for_child

# Seconds between two times that progress is written down, for the case that the run is killed.
SAVE_EVERY = 0.5
SAVE_BLOB = 2e-5  # more for each blob of a file that is not done: to write them all down takes a twentieth of that
# Files that wait for an older one to be done, known ones among them: 2 kB each.
MAX_PENDING = 4096
# Rows that wait until newer files are seen: 1 kB each. Those beyond them are read again in the next run.
MAX_HELD = 10_000
# What the cache is told of a stream, which has no stamps: it is never taken for unchanged.
OF_A_STREAM = cache.Facts(-1, 0, 0, 0)
Source = TypeVar("Source", bytes, int)


class _Again(Silent):
    """The report of a run that begins again: what was said of each file is not said again."""

    def __init__(self, report: Report) -> None:
        self.warning = report.warning  # type: ignore[method-assign]
        self.concluding = report.concluding  # type: ignore[method-assign]


@dataclass(slots=True)
class _Pending:
    """A file on its way through the engine or past it, in the order of the archive."""

    node: Node
    facts: dict[str, Any]
    known: cache.Known | None = None  # all of its blobs, from the cache
    first: str | None = None  # archived name of the file that this is a further name of
    read_at: int = 0
    blobs: list[str] = field(default_factory=list)
    stored: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    plain_names: list[bytes] = field(default_factory=list)


class _Row(NamedTuple):
    """What the cache is to know of a file."""

    place: str
    pending: _Pending
    facts: cache.Facts
    known: cache.Known


class Run:
    """One run: what has been found, what is on its way, what is done."""

    def __init__(
        self, key: Key, targets: Sequence[Target], options: Options, report: Report, paths: Sequence[str]
    ) -> None:
        self.key = key
        self.report = report
        self.summary = Summary()
        self.begun = datetime.now().astimezone()
        self.targets = Targets(targets, self.problem, report.warning)
        self.partial = Partial(self.targets, name_now() + PARTIAL)
        self.options = options
        self.cuts = options.cuts
        self.paths = paths
        self.jobs = options.jobs or cores()
        self.tallied = Tallied(0, 0, 0, 0)
        # The store that the cache is of, and blobs that should be there and are not.
        self.remembered = next(iter(targets), None)
        self.lost: set[str] = set()
        # How files are cut: blobs that were cut otherwise do not fit together.
        self.cut = f"{options.layout} {self.cuts if self.cuts.by_content else self.cuts.most}"
        self._begin()
        self._tell_other_keys()
        report.started(self.progress)

    def _begin(self) -> None:
        self.writer = manifest.Writer(self.key)
        self.trailer: dict[str, dict[str, Any]] = {
            kind: {} for kind in ("top", "parents", "directories", "links", "fifos", "skipped", "unreadable")
        }
        self.changed: list[str] = []
        self.again: list[_Pending] = []
        self.pending: deque[_Pending] = deque()
        self.inodes: dict[tuple[int, int], str] = {}  # of files with several names: the first of these
        self.shared: dict[str, manifest.Entry] = {}  # archived names in `inodes`, once they are done
        self.distinct: set[int] = set()
        self.sealer: Sealer | None = None
        self.unread = 0  # bytes that needed no reading: of unchanged files, and of holes
        self.saved_at = time.monotonic()
        self.totals: tuple[int, int] | None = None
        self.directory = "", ""  # as it was given, and absolute: of the last file that the cache was asked for
        self.held: list[_Row] = []
        self.begun_file: tuple[_Pending, Sealed] | None = None  # the oldest in the engine, with what is stored of it
        self.cache = self._open_cache()  # makes its directory
        self.own = self._own()
        self.mounts = Mounts(device for device, _ in self.own.places)

    def begin_again(self, pruned: int) -> None:
        """For a run whose blobs a prune has condemned or deleted meanwhile: what the cache knows, and the stores have,
        is not read again. What was said of files is not said again."""
        self.close()
        self.report.warning(f"{many(pruned, 'blob')} that this archive needs have been pruned meanwhile: stored again")
        self.report = _Again(self.report)
        self.summary = Summary()
        self._begin()

    def _open_cache(self) -> cache.Cache | None:
        if self.options.cache_directory == "":
            return None
        directory = self.options.cache_directory or cache.default_directory()
        # Of several stores the first: what is known of a file is asked of every one before it is believed.
        label = self.remembered.identity if self.remembered else ""
        opened = cache.Cache.open(directory, label, self.key)
        if opened.warning:
            self.report.warning(opened.warning)
        self.cache_warning = opened.warning
        return opened

    def _tell_other_keys(self) -> None:
        """Warns of stores whose newest archive this key does not open. That costs a listing and a manifest, and is done
        where no earlier run with this key is known; with a password, which may be mistyped every night, in each run and
        of the oldest archive, since the newest would be the one of the night before."""
        by_password = self.key.kind == "password"
        if not by_password and self.cache is not None and not self.cache.is_first:
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
                        f"{target.label} has archives of another key than this one (fingerprint "
                        f"{self.key.fingerprint}), or with damaged first bytes: {archive.name}"
                        + ("; is the password right? Only this one will open this archive" if by_password else "")
                    )

    def _own(self) -> walk.Own:
        """What this run writes to, so that it is not archived into itself."""
        places = {
            identity: place for target in self.targets.left for identity, place in target.own_directories().items()
        }
        directory = self.options.cache_directory or cache.default_directory()
        with contextlib.suppress(OSError):
            found = os.stat(directory)
            places[found.st_dev, found.st_ino] = (f"the cache {directory}", lambda name: True)
        return walk.Own(places, MEASURING)

    def _walk(self, tell: walk.Tell, **more: Any) -> Iterator[Node]:
        options = self.options
        return walk.walk(self.paths, options.selection, base=options.base, own=self.own, tell=tell, **more)

    def _place(self, node: Node) -> str:
        """What the cache knows a file by."""
        if node.path == "-":
            return f"stream:{node.name}"  # no absolute path
        given, _, leaf = node.path.rpartition("/")
        if self.directory[0] != given or not given:
            self.directory = given, os.path.abspath(node.path[: -len(leaf)]).rstrip("/")
        return f"{self.directory[1]}/{leaf}"

    def progress(self) -> Progress:
        now = self._tally()
        files = self.summary.files_new + self.summary.files_unchanged
        total_files, total_bytes = self.totals or (None, None)
        return Progress(
            files,
            self.unread + now.bytes_read,
            now.bytes_read,
            now.bytes_stored,
            now.blobs_new,
            total_files,
            total_bytes,
        )

    def _tally(self) -> Tallied:
        """Of all passes so far."""
        sealer = self.sealer
        if sealer is None:
            return self.tallied
        return Tallied(*map(sum, zip(self.tallied, sealer.progress(), strict=True)))

    def tell(self, what: PogfastError | str) -> None:
        """Passes on what walk.py reports: a problem, a note or a warning."""
        if isinstance(what, walk.Note):
            self.report.note(what)
        elif isinstance(what, str):
            self.report.warning(what)
        else:
            self.problem(what)

    def problem(self, error: PogfastError) -> None:
        self.summary.problems.append(error)
        if isinstance(error, SourceError):
            self.trailer["unreadable"][error.path or str(error)] = error.reason or str(error)
        self.report.problem(error)

    # ---- trees ----

    def archive_trees(self) -> None:
        with self._counting():
            self._pass(self._sources())
            postponed, self.again = self.again, []
            if postponed and not self.options.dry_run:
                self._pass(self._sources_again(postponed), last=True)
        kept = [len(self.writer), *(len(self.trailer[kind]) for kind in ("directories", "links", "fifos"))]
        if not any(kept) and not self.options.dry_run:
            raise PogfastError("nothing could be archived: no archive was made")

    @contextlib.contextmanager
    def _counting(self) -> Iterator[None]:
        """Counts what there is beside the work, where somebody wants to see what is left."""
        if not self.options.count_ahead:
            yield
            return

        def count(ended: threading.Event) -> None:
            files = size = 0
            # The work itself reports what is wrong with the sources; then there are no totals.
            with contextlib.suppress(PogfastError, OSError):
                for node in self._walk(_ignore):
                    if ended.is_set():
                        return
                    if node.kind == "file":
                        files += 1
                        size += node.stat.st_size
                self.totals = files, size

        with in_background(count, "pogfast-count"):
            yield

    def _sources(self) -> Iterator[bytes | Known | None]:
        """What the engine is to read, in the order of the archive; the rest is dealt with here. None: wait."""
        for node in self._walk(self.tell, above=self._keep_above):
            while len(self.pending) >= MAX_PENDING:
                yield None
            self.mounts.see(node.stat)
            if node.kind != "file":
                self._keep_other(node)
                continue
            pending = _Pending(node, self._facts_of(node), read_at=time.time_ns())
            self.pending.append(pending)
            if node.stat.st_nlink > 1:
                inode = (node.stat.st_dev, node.stat.st_ino)
                pending.first = self.inodes.setdefault(inode, node.name)
                if pending.first != node.name:
                    self._settle_known()
                    continue
                pending.first = None
            source = self._look_up(pending)
            if source is None or self.options.dry_run:
                self._settle_known()
                continue
            yield source

    def _facts_of(self, node: Node) -> dict[str, Any]:
        """A node's metadata. What of it cannot be read is reported, and noted in the archive."""

        def missed(reason: str) -> None:
            self.problem(SourceError(f"{node.path}: {reason}", path=node.path, reason=reason))

        facts = metadata.facts_of(node.path, node.stat, missed)
        if (facts["mtime_ns"], facts["atime_ns"]) != (node.stat.st_mtime_ns, node.stat.st_atime_ns):
            self.report.warning(f"{node.path}: its times are archived as the nearest ones from 1677 to 2262")
        return facts

    def _keep_above(self, node: Node) -> None:
        """Keeps the metadata of a directory that is not archived itself, as names pass through it."""
        if node.name:
            self.trailer["parents"][node.name] = self._facts_of(node)
        else:
            self.trailer["top"] = self._facts_of(node)

    def _keep_other(self, node: Node) -> None:
        kinds: dict[str, tuple[str, Outcome]] = {
            "directory": ("directories", "directory"),
            "link": ("links", "link"),
            "fifo": ("fifos", "fifo"),
        }
        if node.kind not in kinds:
            self.trailer["skipped"][node.path] = f"a {node.kind}"
            self.summary.skipped += 1
            self.report.note(f"{node.path} is a {node.kind}: left out")
            self.report.entry(node.name, node.path, "skipped", 0)
            return
        place, outcome = kinds[node.kind]
        facts = self._facts_of(node)
        if node.kind == "link":
            try:
                facts["target"] = os.readlink(node.path)
            except OSError as error:
                self.problem(_unreadable(node.path, error.strerror or "cannot be read"))
                return
        self.trailer[place][node.name] = facts
        if node.kind == "directory":
            self.summary.directories += 1
        else:
            self.summary.others += 1
        self.report.entry(node.name, node.path, outcome, 0)

    def _look_up(self, pending: _Pending) -> bytes | Known | None:
        """None when the cache knows all of a file and the stores hold it; else what the engine is to read."""
        node = pending.node
        path = os.fsencode(node.path)
        if self.cache is None or self.options.force or not self.targets.left:
            return path
        stat = node.stat
        system = self.mounts.identity(node.path, stat)
        times = metadata.kept_time(stat.st_mtime_ns), metadata.kept_time(stat.st_ctime_ns)
        facts = cache.Facts(stat.st_size, *times, stat.st_ino, system)
        known = self.cache.find(self._place(node), facts, self.cut)
        if known is None:
            return self._look_up_earlier(pending, path)
        held = self._held(known)
        if held == len(known.names):
            if known.complete:
                pending.known = known
                return None
        elif self.remembered in self.targets.left:
            size_of = self.remembered.size_of
            self.lost.update(
                name for name, size in zip(known.names, known.stored, strict=True) if size_of(name) != size
            )
        sizes = known.sizes or [self.cuts.most] * min(held, facts.size // self.cuts.most)
        full = min(held, len(sizes))
        if self.options.layout == "stream" or not full or sum(sizes[:full]) >= facts.size:
            return path
        return Known(path, known.names[:full], known.stored[:full], sizes[:full], facts[:4], known.plain_names[:full])

    def _look_up_earlier(self, pending: _Pending, source: Source) -> Source | Known:
        """`source`, with the chunks that the cache knows of an earlier version, where it may have them again."""
        if self.cache is None or not self.cuts.by_content:
            return source
        known = self.cache.find_earlier(self._place(pending.node))
        if known is None:
            return source
        return Known(source, known.names, known.stored, known.sizes, None, known.plain_names)

    def _held(self, known: cache.Known) -> int:
        """How many of a file's blobs, from the first on, every store holds with the right size."""
        for number, (name, stored) in enumerate(zip(known.names, known.stored, strict=True)):
            for target in self.targets.left:
                if target.size_of(name) != stored:
                    return number
        return len(known.names)

    def tell_lost(self) -> None:
        """Warns of blobs that are not where the cache knew them, if archives there may need them."""
        if self.lost and self.remembered in self.targets.left and not self.options.dry_run:
            with contextlib.suppress(StoreError):  # a writer may have no right to list
                if self.remembered.manifests():
                    self.report.warning(
                        f"{self.remembered.label}: {many(len(self.lost), 'blob')} of earlier runs missing or damaged, "
                        "stored anew; unless a prune removed them, other archives may lack some: pogfast check tells"
                    )

    def _sources_again(self, postponed: Sequence[_Pending]) -> Iterator[bytes | Known]:
        """Files that changed while they were read, once more."""
        for old in postponed:
            if old.first is None:
                try:
                    stat = os.lstat(old.node.path)
                except OSError as error:
                    self.problem(_unreadable(old.node.path, error.strerror or "it has vanished"))
                    continue
                node = old.node._replace(stat=stat)
                facts = metadata.facts_of(node.path, stat)  # what cannot be read was reported the first time
                self.pending.append(_Pending(node, facts, read_at=time.time_ns()))
                path = os.fsencode(node.path)
                known = any(old.plain_names)
                yield Known(path, old.blobs, old.stored, old.sizes, None, old.plain_names) if known else path
            else:
                self.pending.append(_Pending(old.node, old.facts, first=old.first))
                self._settle_known()

    # ---- a stream ----

    def archive_stream(self, name: str, command: str | None) -> None:
        """Standard input, or what `command` prints, as one file. Raises PogfastError when the command fails."""
        name = walk.archived_name(name)
        if not name:
            raise UsageError("what is read from standard input needs a name", hint="--name=dump.sql")
        now = time.time_ns()
        owner = {"mode": 0o600, "uid": os.getuid(), "gid": os.getgid()}
        facts = {**owner, "mtime_ns": now, "atime_ns": now}
        node = Node("-", name, "file", os.stat_result((0o100600, 0, 0, 1, 0, 0, 0, 0, 0, 0)))
        self.pending.append(_Pending(node, facts, read_at=now))
        if self.options.dry_run:
            self.pending.clear()
            return
        if command is None:
            self._pass(iter([self._stream(0)]), last=True)
        else:
            self._pass_command(command)
        if not self.writer:
            raise PogfastError("standard input could not be read: no archive was made")

    def _stream(self, descriptor: int) -> int | Known:
        return descriptor if self.options.force else self._look_up_earlier(self.pending[0], descriptor)

    def _pass_command(self, command: str) -> None:
        import shlex  # here, because most runs need neither, and both take time
        import subprocess

        try:
            words = shlex.split(command)
        except ValueError as error:
            raise UsageError(f"cannot understand the command {command}: {error}") from error
        if not words:
            raise UsageError("the command is empty")
        try:
            process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=for_child(credentials=False)
            )
        except OSError as error:
            raise PogfastError(f"cannot run {words[0]}: {error.strerror}") from error
        assert process.stdout is not None
        try:
            with process.stdout:
                self._pass(iter([self._stream(process.stdout.fileno())]), last=True)
        except BaseException:
            process.kill()
            process.wait()
            raise
        if process.wait():
            ended = process.returncode
            how = f"was killed by signal {-ended}" if ended < 0 else f"ended with exit status {ended}"
            raise PogfastError(f"{words[0]} {how}: no archive was made")

    # ---- through the engine ----

    def _pass(self, sources: Iterator[bytes | int | Known | None], *, last: bool = False) -> None:
        """Archives `sources`. Unless it is the `last` pass, what changes while it is read goes to `again`."""
        slabs = self.options.slabs(self.jobs)
        self.report.detail(
            f"{self.jobs} workers, at most {slabs} chunks in flight, {slabs * self.options.chunk_memory / 1e6:.0f} MB"
        )
        sealer = Sealer(
            self.key.secret,
            self.key.asymmetric,
            sources,
            self.targets.sinks,
            chunk_size=self.cuts.most,
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
        self.sealer = sealer
        with (
            self.targets.written_to(lambda: sealer.progress().blobs_new),
            store_errors(),
            contextlib.closing(sealer.run()) as run,
        ):
            for sealed in run:
                self.targets.drop(sealer.lost)
                self._take(sealed, last)
            self.targets.drop(sealer.lost)
        self.tallied, self.sealer = self._tally(), None
        self.summary.bytes_read = self.tallied.bytes_read

    def _take(self, sealed: Sealed, last: bool) -> None:
        """News of the oldest file that is in the engine, which is the oldest one pending."""
        pending = self.pending[0]
        pending.blobs += sealed.names
        pending.stored += sealed.stored
        pending.sizes += sealed.sizes
        pending.plain_names += sealed.plain_names
        if not sealed.done:
            self._note_progress(pending, sealed)
            return
        self.pending.popleft()
        if sealed.error:
            self.problem(_unreadable(pending.node.path, why_not_read(sealed.error)))
        elif sealed.changed and not last:
            self.again.append(pending)
        else:
            self._finish(pending, sealed)
        self._note_progress(None, None)
        self._settle_known()

    def _finish(self, pending: _Pending, sealed: Sealed) -> None:
        node, facts = pending.node, pending.facts
        if node.path != "-":
            facts["mtime_ns"], facts["atime_ns"] = sealed.mtime_ns, sealed.atime_ns
            if sealed.sparse:  # the holes of a stream are read
                self.unread += max(0, sealed.size - node.stat.st_blocks * 512)
        more = {"size": sealed.size, **facts}
        if sealed.sparse:
            more["sparse"] = True
        if sealed.changed:
            more["changed"] = True
            self.changed.append(node.name)
            self.problem(
                SourceError(f"{node.path} changed while it was read, twice: archived as it was found", path=node.path)
            )
        if self.options.layout == "frames" and len(pending.blobs) > 1:
            more["sizes"] = pending.sizes
        self._add(node.name, pending.blobs, pending.stored, more, node)
        self.summary.files_new += 1
        self.summary.bytes_source += sealed.size
        self.report.entry(node.name, node.path, "new", sealed.size)
        if self.cache is not None and not sealed.changed and (node.path != "-" or any(pending.plain_names)):
            seen = self._sealed_facts(pending, sealed, sealed.size) if node.path != "-" else OF_A_STREAM
            self._remember(self.cache, _Row(self._place(node), pending, seen, self._known(pending, True)))

    def _sealed_facts(self, pending: _Pending, sealed: Sealed, size: int) -> cache.Facts:
        """What the cache is told of a file as it was read."""
        node = pending.node
        system = self.mounts.identity(node.path, node.stat)
        return cache.Facts(size, sealed.mtime_ns, sealed.ctime_ns, sealed.inode, system)

    def _remember(self, opened: cache.Cache, row: _Row) -> None:
        """Tells the cache of a file; later, where its stamps do not yet prove that every change will show."""
        time = self._settled_at(row)
        if row.pending.node.path != "-" and cache.could_change_unseen(row.facts, time) and len(self.held) < MAX_HELD:
            self.held.append(row)
        else:
            opened.remember(row.place, row.facts, self.cut, row.known, read_at_ns=time)

    def _settled_at(self, row: _Row) -> int:
        pending = row.pending
        # A part of a large file is for a run that goes on soon; only a clock of whole seconds is too coarse for that.
        if pending.node.path == "-" or not (row.known.complete or row.facts.system):
            return pending.read_at
        return self.mounts.time_of(pending.node.stat, pending.read_at)

    def _release(self, opened: cache.Cache) -> None:
        """Tells the cache of files that were held back, now that newer ones have been seen."""
        held, self.held = self.held, []
        for row in held:
            self._remember(opened, row)

    def _settle_known(self) -> None:
        """Writes down what stands at the head of the line and needs no engine."""
        while self.pending:
            pending = self.pending[0]
            if pending.known is not None:
                self._finish_unchanged(pending, pending.known)
            elif pending.first is not None:
                self._finish_hardlink(pending, pending.first)
            elif self.options.dry_run:
                self.summary.files_new += 1
                self.summary.bytes_source += pending.node.stat.st_size
                self.summary.blobs_new += -(-pending.node.stat.st_size // self.cuts.least) or 1
                self.report.entry(pending.node.name, pending.node.path, "new", pending.node.stat.st_size)
            else:
                return
            self.pending.popleft()

    def _finish_unchanged(self, pending: _Pending, known: cache.Known) -> None:
        if self.summary.files_unchanged % MAX_PENDING == 0:
            self._put_partial()
        node = pending.node
        size = node.stat.st_size
        more = {"size": size, **pending.facts}
        if node.stat.st_blocks * 512 < size:
            more["sparse"] = True
        if self.options.layout == "frames" and len(known.names) > 1:
            chunk = self.cuts.most
            more["sizes"] = list(known.sizes) or [min(chunk, size - at) for at in range(0, size, chunk)]
        self._add(node.name, known.names, known.stored, more, node)
        self.summary.files_unchanged += 1
        self.summary.bytes_source += size
        self.unread += size
        self.report.entry(node.name, node.path, "unchanged", size)

    def _known(self, pending: _Pending, complete: bool) -> cache.Known:
        """What the cache is told of a file."""
        if not self.cuts.by_content:
            return cache.Known(pending.blobs, pending.stored, complete)
        return cache.Known(pending.blobs, pending.stored, complete, pending.sizes, pending.plain_names)

    def _finish_hardlink(self, pending: _Pending, first: str) -> None:
        node = pending.node
        entry = self.shared.get(first)
        if entry is not None:
            self.writer.add(
                node.name,
                manifest.Entry(entry.blobs, entry.atime, entry.mtime, {**entry.more, "hardlink": first}),
            )
            self.summary.others += 1
            self.report.entry(node.name, node.path, "hardlink", 0)
        elif any(waiting.node.name == first for waiting in self.again):
            self.again.append(pending)
        elif self.options.dry_run:
            self.summary.others += 1
            self.report.entry(node.name, node.path, "hardlink", 0)
        else:
            self.problem(_unreadable(node.path, f"it is the same file as {first}, which could not be read"))

    def _add(self, name: str, blobs: Sequence[str], stored: Sequence[int], more: dict[str, Any], node: Node) -> None:
        more["stored"] = list(stored)
        entry = manifest.Entry(list(blobs), seconds_of(more["atime_ns"]), seconds_of(more["mtime_ns"]), more)
        self.writer.add(name, entry)
        if node.stat.st_nlink > 1:
            self.shared[name] = entry
        for blob, size in zip(blobs, stored, strict=True):
            identity = hash(blob)
            if identity in self.distinct:
                self.summary.bytes_repeated += size
            else:
                self.distinct.add(identity)
                self.summary.bytes_stored += size

    def _note_progress(self, pending: _Pending | None, sealed: Sealed | None) -> None:
        """Saves the cache now and then, in case the run is killed. Of a large file a part may be stored."""
        self.begun_file = None if pending is None or sealed is None else (pending, sealed)
        every = SAVE_EVERY + (len(pending.blobs) * SAVE_BLOB if pending else 0)
        if time.monotonic() - self.saved_at >= every:
            if self.cache is not None:
                self._save(self.cache)
            self._put_partial()
            self.saved_at = time.monotonic()

    def _put_partial(self) -> None:
        """Says in the stores what has been stored or relied on so far, when it is time to."""
        if not self.partial.is_due():
            return
        begun: dict[str, manifest.Entry] = {}
        if self.begun_file is not None:
            pending, _ = self.begun_file
            more = {**pending.facts, "size": sum(pending.sizes), "sizes": pending.sizes, "stored": pending.stored}
            begun[pending.node.name + PARTIAL] = manifest.Entry(pending.blobs, 0.0, 0.0, more)
        self.partial.put(self.writer.snapshot(begun, self._trailer()))

    def _save(self, opened: cache.Cache) -> None:
        """Saves the cache, with the part of a large file that is stored."""
        if self.begun_file is not None and self.options.layout == "frames":
            pending, sealed = self.begun_file
            if pending.blobs and pending.node.path != "-":
                facts = self._sealed_facts(pending, sealed, pending.node.stat.st_size)
                row = _Row(self._place(pending.node), pending, facts, self._known(pending, False))
                opened.remember(row.place, facts, self.cut, row.known, read_at_ns=self._settled_at(row))
        self._release(opened)
        opened.save(durable=False)

    # ---- the end ----

    def conclude(self) -> None:
        """The manifest, when all that it names is durable."""
        self.summary.bytes_added = self.tallied.bytes_stored
        self.summary.blobs_new, self.summary.blobs_known = self.tallied.blobs_new, self.tallied.blobs_known
        self.summary.manifest = conclude(
            self.targets,
            lambda: self.writer.seal(self._trailer()),
            lambda data: set(manifest.blob_names(data, self.key, "the manifest")),
            self.report.concluding,
        )
        self.partial.delete()
        if self.cache is not None:
            self._release(self.cache)
            self.cache.save(durable=True)
            self._close_cache(self.cache, complete=True)

    def _trailer(self) -> dict[str, Any]:
        summary, options, directories = self.summary, self.options, self.trailer["directories"]
        said = {
            "program": f"pogfast {__version__}",
            "time": self.begun.isoformat(),
            "ended": datetime.now().astimezone().isoformat(),
            "host": options.host if options.host is not None else os.uname().nodename,
            "user": _user(),
            "tags": list(options.tags),
            "comment": options.comment,
            "paths": [os.path.abspath(os.path.join(options.base or ".", path)) for path in self.paths],
            "layout": options.layout,
            "chunk_size": self.cuts.most,
            "chunker": str(self.cuts) if self.cuts.by_content else "",
            "level": options.level,
            **self.trailer,
            "parents": {name: facts for name, facts in self.trailer["parents"].items() if name not in directories},
            "changed": self.changed,
        }
        totals = {
            "files": len(self.writer),
            "directories": len(self.trailer["directories"]),
            "links": len(self.trailer["links"]),
            "fifos": len(self.trailer["fifos"]),
            "size": summary.bytes_source,
            "stored": summary.bytes_stored,
            "added": summary.bytes_added,
        }
        return {**{word: value for word, value in said.items() if value not in ("", [], {})}, "totals": totals}

    def close(self) -> None:
        """After a failure: what was stored so far is written down for the next run."""
        if self.cache is not None:
            if not self.options.dry_run:
                self._save(self.cache)
            self._close_cache(self.cache, complete=False)

    def _close_cache(self, opened: cache.Cache, *, complete: bool) -> None:
        opened.close(complete=complete)
        self.cache = None
        if opened.warning != self.cache_warning:
            self.report.warning(opened.warning)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def _ignore(what: PogfastError | str) -> None:
    """For a walk that only counts."""


def _unreadable(path: str, reason: str) -> SourceError:
    return SourceError(f"cannot read {path}: {reason}", path=path, reason=reason)

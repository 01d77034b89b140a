"""`pogfast copy`: copies archives from one store to another. Only missing blobs are copied, and manifests come last.

Blobs are copied as they are stored, encrypted. A key that opens them also authenticates each and compares content and
name; with a public key or without a key only sizes can be checked. Damaged blobs are not copied, nor are the archives
that need them; the other archives are.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Protocol, cast

from pogfast import manifest
from pogfast._engine import cores, open_blob
from pogfast.archives.catalog import in_parallel
from pogfast.archives.lookup import Reports, latest_of, telling
from pogfast.archives.manifests import manifests_of
from pogfast.archives.refusals import those_that_open
from pogfast.archives.trailer import Filter
from pogfast.archives.verdicts import BAD_HEADER
from pogfast.errors import (
    CorruptBlob,
    DamageError,
    NoSuchArchive,
    PogfastError,
    StoreError,
    UsageError,
    WrongKey,
    worst_code,
)
from pogfast.keys import Key
from pogfast.sizes import check_jobs, many
from pogfast.stores import LATEST, PARTIAL, Stored, find_manifest, is_partial, names_archive, open_store
from pogfast.stores.fetching import fetched, fetched_manifest
from pogfast.stores.packs.store import PackedStore
from pogfast.stores.protocols import CanCopy, Store, Target, put_blob
from pogfast.stores.reliance import PARTIAL_EVERY, Condemned, Reliance, stored_again
from pogfast.system.background import in_background
from pogfast.upkeep.pack_copies import Reading, WholePacks, plain_parts

if TYPE_CHECKING:
    from pogfast._engine import Buffer

NEEDED_BY = "with a key (the public one is enough) the archives are copied that need none of them"
DAY = 24 * 3600.0  # seconds after which a long copy renews its partial manifests


@dataclass
class Summary:
    """Counters, which another thread may read during the copy. Sizes are bytes."""

    dry_run: bool = False
    archives: int = 0  # copied
    archives_there: int = 0  # that the target has already
    total_blobs: int = 0  # that the target lacks
    total_size: int = 0
    blobs: int = 0  # of these, those that were copied
    size: int = 0
    packs: int = 0  # in which they are
    unread: int = 0  # of these, those that the service copied by itself: damage is copied as well
    blobs_there: int = 0  # that the target has already
    verified: int = 0  # of these, those that were read and are intact now
    mended: int = 0  # of these, those that were damaged, and were replaced
    problems: list[PogfastError] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        return worst_code(problem.exit_code for problem in self.problems)


class Report(Reports, Protocol):
    """Receives what happens during a copy. Every method does nothing unless it is overridden."""

    def note(self, text: str) -> None:
        """Called for what the kind of the key does not allow, which is the same in every run: a warning, unless it is
        overridden."""
        self.warning(text)

    def started(self, progress: Summary) -> None:
        """Called before anything is copied. The copy goes on counting in `progress`."""
        return

    def archive(self, name: str) -> None:
        """Called for each archive that has been copied, with its manifest's name."""
        return


class Silent(Report):
    """Reports nothing."""


def copy(
    source: str,
    target: str,
    archives: Collection[str] = (),
    key: Key | None = None,
    *,
    host: str | None = None,
    tags: Collection[str] = (),
    path: str | None = None,
    jobs: int | None = None,
    verify: bool = False,
    dry_run: bool = False,
    report: Report | None = None,
) -> Summary:
    """Copies archives, given by the names of their manifests (none: all), from one store to another. `source` may also
    be one archive: STORE/NAME.mfn, or STORE/latest, which `host`, `tags` and `path` select; `latest` among `archives`
    is the same. A second run continues the first.

    With `verify`, blobs and manifests that the target has already are read there, and damaged ones are replaced; this
    needs a key that opens them. Without a key all blobs and all archives of the source are copied. Raises UsageError,
    NoSuchArchive, NoArchives, StoreError, and WrongKey if no archive opens.
    """
    check_jobs(jobs)
    report = report or Silent()
    if (archives or names_archive(source)) and key is None:
        hint = "give a key (the public one is enough), or copy the whole store"
        raise UsageError("without a key it cannot be told which blobs an archive needs", hint=hint)
    if verify and (key is None or not key.can_open):
        raise UsageError("to verify blobs takes a key that opens them", hint="give the key that restores")
    summary = Summary(dry_run)

    with contextlib.ExitStack() as stack:
        opened, name = find_manifest(source) if names_archive(source) else (open_store(source), "")
        stack.callback(opened.close)
        manifests_of(opened)
        names = {*archives, name} - {""}
        for name in filter(is_partial, names):
            hint = "run the backup again to complete it, or `pogfast restore` what it has stored"
            raise UsageError(f"{name} is of an unfinished backup: only complete archives are copied", hint=hint)
        wanted = Filter.of(host, tags, path)
        if LATEST in names and key is not None:
            names = names - {LATEST} | {latest_of(opened, key, wanted, telling(report, summary.problems))}
        elif wanted != Filter():
            raise UsageError(f"host, tags and path choose among those of STORE/{LATEST}")
        there = _look_at(target) if dry_run else open_store(target, create=True)
        if there is not None:
            stack.callback(there.close)
        if there is not None and there.identity == opened.identity:
            raise UsageError(f"{source} and {target} are the same store")
        run = _Copy(opened, there, key, jobs or max(cores(), opened.parallel), summary, report)
        run.run(names, verify)
        return run.summary


def _look_at(target: str) -> Target | None:
    """Opens the target of a dry run, which need not exist."""
    try:
        return open_store(target)
    except (NoSuchArchive, UsageError):
        return None


class _Copy:
    """One run."""

    def __init__(
        self, source: Store, target: Target | None, key: Key | None, jobs: int, summary: Summary, report: Report
    ) -> None:
        self.source = source
        self.target = target
        self.key = key
        self.jobs = jobs
        self.summary = summary
        self.report = report
        self.reading = Reading(source) if isinstance(source, PackedStore) else None
        blobs = source.blob_names()
        if isinstance(target, PackedStore):  # what was written together is packed together
            blobs = iter(sorted(blobs, key=lambda blob: (blob.modified, blob.name)))
        self.stored = {blob.name: blob.size for blob in blobs}
        self.bad: set[str] = set()
        self.lock = threading.Lock()
        self.over = False

    def run(self, archives: Collection[str], verify: bool) -> None:
        writes = self.target is not None and not self.summary.dry_run
        reliance = Reliance(self.target, self.report.warning) if self.target and writes else None
        needed = self._needed(self._chosen(archives))
        wanted = set().union(*needed.values()) if self.key else set(self.stored)
        if self.key is None:
            self.report.note("without a key only the sizes of blobs are checked")
        elif not self.key.can_open:
            self.report.note(
                "a public key cannot open archives: the blobs that their indexes name are copied, and only their "
                "sizes are checked"
            )
        missing = sorted(name for name in wanted if not self._is_there(name))
        there = sorted(wanted.difference(missing))
        self.summary.blobs_there = len(there)
        self.summary.total_blobs = len(missing)
        self.summary.total_size = sum(self.stored.get(name, 0) for name in missing)
        self.report.started(self.summary)
        if reliance is None:
            self.summary.archives = len(needed)
            return
        with self._partial(reliance.target, needed):
            self._each(self._copy_blob, self._in_order(self._without_whole_packs(missing)))
            if verify:
                self._each(self._verify_blob, there)
            reliance.target.make_durable()
            self.summary.packs = reliance.target.packs_put if isinstance(reliance.target, PackedStore) else 0
            for name, blobs in needed.items():
                self._copy_manifest(reliance, name, blobs if self.key else wanted, verify)

    @contextlib.contextmanager
    def _partial(self, target: Target, names: Collection[str]) -> Iterator[None]:
        """Keeps partial manifests in the target during a long copy, so that no prune deletes what has been copied."""
        put: list[str] = []

        def renew(ended: threading.Event) -> None:
            wait = PARTIAL_EVERY
            while not ended.wait(wait):
                with contextlib.suppress(PogfastError):  # the copy itself reports what is wrong
                    there = {stored.name for stored in target.manifests()}
                    for name in names:
                        if name in there:
                            continue
                        if ended.is_set():
                            return
                        target.put_mark(name + PARTIAL, self.source.get_manifest(name))
                        put.append(name + PARTIAL)
                wait = DAY

        with in_background(renew, "pogfast-partial"):
            yield
        with contextlib.suppress(StoreError):  # without the right to delete they stay: they expire after a week
            target.delete_manifests(set(put))

    def _chosen(self, archives: Collection[str]) -> list[Stored]:
        there = self.source.manifests()
        for name in archives:
            if name not in {stored.name for stored in there}:
                raise NoSuchArchive(f"no such archive: {name} in {self.source.label}")
        return [stored for stored in there if not archives or stored.name in archives]

    def _needed(self, manifests: Sequence[Stored]) -> dict[str, set[str]]:
        """Returns the blobs that each archive needs. Reports archives that cannot be read. Raises WrongKey if the key
        opens none."""
        key = self.key
        if key is None:
            return {stored.name: set() for stored in manifests}

        def look(stored: Stored) -> tuple[str, set[str] | PogfastError]:
            name = stored.name
            try:
                names = fetched_manifest(self.source, name, partial(manifest.blob_names, key=key, name=name))
                return name, set(names)
            except (DamageError, WrongKey) as error:
                return name, error

        found = in_parallel(look, manifests, self.source.parallel)
        return dict(those_that_open(found, lambda _, error: self._problem(error)))

    def _is_there(self, name: str) -> bool:
        return self.target is not None and self.target.sizes_of([name]) == [self.stored.get(name, -1)]

    # ---- blobs ----

    def _each(self, act: Callable[[str], None], names: Iterable[str]) -> None:
        """Calls `act` with each name, in several threads."""
        room = threading.Semaphore(2 * self.jobs)

        def one(name: str) -> None:
            try:
                if not self.over:
                    act(name)
            finally:
                room.release()

        with ThreadPoolExecutor(self.jobs, "pogfast-copy") as threads:
            try:
                results: deque[Future[None]] = deque()
                for name in names:
                    room.acquire()
                    results.append(threads.submit(one, name))
                    while results and results[0].done():
                        results.popleft().result()
                for result in results:
                    result.result()
            except BaseException:
                self.over = True
                raise

    def _without_whole_packs(self, names: Sequence[str]) -> list[str]:
        """Copies the packs of which most is among these blobs, and returns the other blobs."""
        if not isinstance(self.source, PackedStore) or not isinstance(self.target, PackedStore):
            return list(names)
        opens = self.key is not None and self.key.can_open
        whole = WholePacks(self.source, self.target, self._check_opens if opens else None)
        wanted = whole.wanted(names)
        done: set[str] = set()

        def one(path: str) -> None:
            blobs = wanted[path]
            if whole.copy(path, blobs):
                with self.lock:
                    done.update(blobs)
                for span in blobs.values():
                    self._count(span.size)

        self._each(one, wanted)
        self.summary.unread += whole.unread
        return [name for name in names if name not in done]

    def _in_order(self, names: Sequence[str]) -> Sequence[str]:
        """Returns blobs in the order in which they are to be read."""
        if self.reading is not None:
            return self.reading.in_order(names)
        if isinstance(self.target, PackedStore):
            wanted = set(names)
            return [*filter(wanted.__contains__, self.stored), *sorted(wanted.difference(self.stored))]
        return names

    def _check_opens(self, name: str, data: Buffer) -> None:
        """Raises DamageError and WrongKey for a blob that the key does not open."""
        assert self.key is not None
        open_blob(self.key.secret, self.key.private, data, name)

    def _copy_blob(self, name: str) -> None:
        if self._copied_there(name):
            return
        data = self._good(name)
        if data is not None:
            self._put(name, memoryview(data))
            self._count(len(data))

    def _verify_blob(self, name: str) -> None:
        """Reads a blob in the target, and replaces it if it is damaged."""
        target = cast(Store, self.target)  # a program, which cannot be read, has no known blobs
        with contextlib.suppress(DamageError):
            self._fetch(target, name)
            with self.lock:
                self.summary.verified += 1
            return
        data = self._good(name)
        if data is not None:
            self._put(name, memoryview(data))
            self._count(len(data))
            with self.lock:
                self.summary.verified += 1
                self.summary.mended += 1

    def _good(self, name: str) -> Buffer | None:
        """Returns a blob of the source, checked as far as the key allows. Reports a damaged one, and returns None."""
        try:
            return self._fetch(self.source, name)
        except DamageError as error:
            self._problem(error)
            with self.lock:
                self.bad.add(name)
            return None

    def _fetch(self, store: Store, name: str) -> Buffer:
        """Returns a blob, checked as far as the key allows. Raises DamageError and StoreError."""

        def look(data: Buffer) -> Buffer:
            if store is self.source and self.stored.get(name, len(data)) != len(data):
                raise CorruptBlob(f"blob {name} in {store.label} is cut short")
            if self.key is not None and self.key.can_open:
                self._check_opens(name, data)
            elif reading is not None and not reading.is_packed(name, data):
                raise CorruptBlob(f"blob {name} in {store.label} is not what was packed")
            return data

        reading = self.reading if store is self.source else None
        try:
            return fetched(reading or store, name, look)
        except WrongKey as error:
            kind, text = BAD_HEADER
            raise kind(f"blob {name} {text}") from error

    def _copied_there(self, name: str) -> bool:
        """Returns True if the service has copied a blob within itself. Not if the key can check blobs on the way."""
        target, source = plain_parts(self.source, self.target, self.stored.get(name, 0))
        if not isinstance(target, CanCopy) or (self.key is not None and self.key.can_open):
            return False
        if not target.copy_blob(name, source):
            return False
        self._count(self.stored.get(name, 0))
        with self.lock:
            self.summary.unread += 1
        return True

    def _count(self, size: int) -> None:
        with self.lock:
            self.summary.blobs += 1
            self.summary.size += size

    def _put(self, name: str, data: memoryview) -> None:
        assert self.target is not None
        put_blob(self.target, name, data)

    # ---- manifests ----

    def _good_manifest(self, name: str) -> bytes:
        """Returns a manifest of the source, checked as far as the key allows. Raises DamageError and StoreError."""

        def look(data: bytes) -> bytes:
            if self.key is not None:
                manifest.blob_names(data, self.key, name)
            return data

        return fetched_manifest(self.source, name, look)

    def _copy_manifest(self, reliance: Reliance, name: str, blobs: set[str], verify: bool) -> None:
        target = reliance.target
        try:
            self._check_good(name, blobs)
            data = self._good_manifest(name)
        except DamageError as error:
            self._problem(error)
            return
        there = self._size_of_manifest(name)
        if there is not None:
            if there == len(data) and (not verify or cast(Store, target).get_manifest(name) == data):
                self.summary.archives_there += 1
                return
            if not verify:
                said = f"{name}: {target.label} has another archive of that name, or a damaged one"
                self._problem(StoreError(said, "--verify replaces it", path=name))
                return
            target.delete_manifests([name])

        def conclude() -> str:
            self._check_good(name, blobs)  # a blob that was to be copied again may be damaged
            if gone := reliance.lacking(lambda: blobs):
                raise Condemned(target.label, gone)
            reliance.publish(name, data, lambda: blobs)
            return name

        try:
            stored_again(conclude, self._copy_again)
        except CorruptBlob as error:
            self._problem(error)
            return
        self.summary.archives += 1
        self.report.archive(name)

    def _check_good(self, name: str, blobs: set[str]) -> None:
        """Raises CorruptBlob for an archive that needs a blob which is missing or damaged in the source."""
        if lost := blobs & self.bad:
            said = f"{name}: not copied: {many(len(lost), 'blob')} damaged or missing"
            raise CorruptBlob(said, "" if self.key else NEEDED_BY, path=name)

    def _copy_again(self, names: Collection[str]) -> None:
        self._each(self._copy_blob, sorted(names))
        cast(Target, self.target).make_durable()

    def _size_of_manifest(self, name: str) -> int | None:
        """Returns the size of a manifest in the target; None if it does not exist, or is unknown."""
        listed = self.target.named(name) if self.target is not None else []
        return next((stored.size for stored in listed if stored.name == name), None)

    def _problem(self, error: PogfastError) -> None:
        with self.lock:
            self.summary.problems.append(error)
            self.report.problem(error)

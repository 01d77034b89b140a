"""Archives from one store to another: only the blobs that are missing there, and manifests last.

Nothing is decrypted to be sent: blobs go as they lie. With a key that opens them each is authenticated, and held
against its name, on the way; with a public key or none at all only its size can be. What is damaged is not copied, nor
the archives that need it; the others are.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

from pogfast import manifest
from pogfast._engine import BlobDirectory, cores, open_blob
from pogfast.errors import CorruptBlob, DamageError, NoSuchArchive, PogfastError, StoreError, UsageError, WrongKey
from pogfast.keys import Key
from pogfast.stores import Store, Target, open_store
from pogfast.stores.targets import publish, sweeps


@dataclass
class Summary:
    """Counters that another thread may read while a copy runs. Sizes are bytes."""

    dry_run: bool = False
    archives: int = 0  # copied
    archives_there: int = 0  # already
    total_blobs: int = 0  # that are missing in the target
    total_size: int = 0
    blobs: int = 0  # of these, copied
    size: int = 0
    blobs_there: int = 0
    problems: list[PogfastError] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """Damage before all else."""
        codes = [problem.exit_code for problem in self.problems]
        return DamageError.exit_code if DamageError.exit_code in codes else max(codes, default=0)


class Report(Protocol):
    """What the caller wants to hear."""

    def started(self, progress: Summary) -> None:
        """Before anything is copied; the same object is counted up."""

    def archive(self, name: str) -> None:
        """One that is in the target now."""

    def problem(self, error: PogfastError) -> None: ...

    def warning(self, text: str) -> None: ...


class Silent:
    """A report to nobody."""

    def started(self, progress: Summary) -> None: ...

    def archive(self, name: str) -> None: ...

    def problem(self, error: PogfastError) -> None: ...

    def warning(self, text: str) -> None: ...


def copy(
    source: str,
    target: str,
    archives: Collection[str] = (),
    key: Key | None = None,
    *,
    jobs: int | None = None,
    dry_run: bool = False,
    report: Report | None = None,
) -> Summary:
    """Copies archives by the names of their manifests (none: all) from a store to another. Sources that are read twice
    are copied once; a second run continues the first.

    Without a key all blobs of the source are copied, and it must be all archives. Raises UsageError, NoSuchArchive and
    StoreError.
    """
    if archives and key is None:
        hint = "give a key (the public one is enough), or copy the whole store"
        raise UsageError("without a key it cannot be told which blobs an archive needs", hint=hint)
    with contextlib.ExitStack() as stack:
        opened = open_store(source)
        stack.callback(opened.close)
        there = _look_at(target) if dry_run else open_store(target, create=True)
        if there is not None:
            stack.callback(there.close)
        if there is not None and there.identity == opened.identity:
            raise UsageError(f"{source} and {target} are the same store")
        run = _Copy(opened, there, key, jobs or max(cores(), opened.parallel), Summary(dry_run), report or Silent())
        run.run(archives)
        return run.summary


def _look_at(target: str) -> Target | None:
    """For a dry run: a target that need not be there yet."""
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
        self.stored = {blob.name: blob.size for blob in source.blob_names()}
        self.bad: set[str] = set()
        self.lock = threading.Lock()
        self.over = False

    def run(self, archives: Collection[str]) -> None:
        seen = sweeps(self.target) if self.target else frozenset()
        needed = self._needed(self._chosen(archives))
        wanted = set().union(*needed.values()) if self.key else set(self.stored)
        if self.key is None:
            self.report.warning("without a key blobs are copied unseen: only their sizes are checked")
        missing = sorted(name for name in wanted if not self._is_there(name))
        self.summary.blobs_there = len(wanted) - len(missing)
        self.summary.total_blobs = len(missing)
        self.summary.total_size = sum(self.stored.get(name, 0) for name in missing)
        self.report.started(self.summary)
        if self.target is None or self.summary.dry_run:
            self.summary.archives = len(needed)
            return
        self._copy_blobs(missing)
        self.target.make_durable()
        for name, blobs in needed.items():
            self._copy_manifest(self.target, name, blobs if self.key else wanted, seen)

    def _chosen(self, archives: Collection[str]) -> list[str]:
        there = [stored.name for stored in self.source.manifests()]
        for name in archives:
            if name not in there:
                raise NoSuchArchive(f"no such archive: {name} in {self.source.label}")
        return [name for name in there if not archives or name in archives]

    def _needed(self, names: Iterable[str]) -> dict[str, set[str]]:
        """What each archive needs. One that cannot be read is a problem, and not copied."""
        needed: dict[str, set[str]] = {}
        for name in names:
            try:
                data = self.source.get_manifest(name)
                needed[name] = set(manifest.blob_names(data, self.key, name)) if self.key else set()
            except (DamageError, WrongKey) as error:
                self._problem(error)
        return needed

    def _is_there(self, name: str) -> bool:
        return self.target is not None and self.target.size_of(name) == self.stored.get(name, -1)

    # ---- blobs ----

    def _copy_blobs(self, names: Iterable[str]) -> None:
        room = threading.Semaphore(2 * self.jobs)
        with ThreadPoolExecutor(self.jobs, "pogfast-copy") as threads:
            try:
                results: deque[Future[None]] = deque()
                for name in names:
                    room.acquire()
                    results.append(threads.submit(self._copy_blob, name, room))
                    while results and results[0].done():
                        results.popleft().result()
                for result in results:
                    result.result()
            except BaseException:
                self.over = True
                raise

    def _copy_blob(self, name: str, room: threading.Semaphore) -> None:
        try:
            if self.over or self._copied_there(name):
                return
            data = self.source.get_blob(name)
            if self.stored.get(name, len(data)) != len(data):
                raise CorruptBlob(f"blob {name} in {self.source.label} is cut short")
            if self.key is not None and self.key.can_open:
                open_blob(self.key.secret, self.key.private, data, name)
            self._put(name, memoryview(data))
            self._count(len(data))
        except (DamageError, WrongKey) as error:
            # The key has opened the manifest: a header that does not unwrap is damage.
            damage = CorruptBlob(f"blob {name} is damaged: its header does not unwrap")
            self._problem(damage if isinstance(error, WrongKey) else error)
            with self.lock:
                self.bad.add(name)
        finally:
            room.release()

    def _copied_there(self, name: str) -> bool:
        """Whether a service has copied a blob by itself. What can be checked on the way is not left to it."""
        copy_blob = getattr(self.target, "copy_blob", None)
        if copy_blob is None or (self.key is not None and self.key.can_open) or not copy_blob(name, self.source):
            return False
        self._count(self.stored.get(name, 0))
        return True

    def _count(self, size: int) -> None:
        with self.lock:
            self.summary.blobs += 1
            self.summary.size += size

    def _put(self, name: str, data: memoryview) -> None:
        assert self.target is not None
        sink = self.target.blobs
        if not isinstance(sink, BlobDirectory):
            sink(name, data)
            return
        try:
            sink.put(name, data)
        except OSError as error:
            raise StoreError(f"cannot write to {self.target.label}: {error.strerror}") from error

    # ---- manifests ----

    def _copy_manifest(self, target: Target, name: str, blobs: set[str], seen: frozenset[str]) -> None:
        lost = blobs & self.bad
        if lost:
            self._problem(
                CorruptBlob(f"{name}: not copied, {len(lost)} of its blobs are damaged or missing", path=name)
            )
            return
        data = self.source.get_manifest(name)
        if self._has_manifest(name, len(data)):
            self.summary.archives_there += 1
            return
        publish(target, name, data, lambda: blobs, seen, self.report.warning)
        self.summary.archives += 1
        self.report.archive(name)

    def _has_manifest(self, name: str, size: int) -> bool:
        listed: Callable[[], Iterable[tuple[str, int, float]]] = getattr(self.target, "manifests", list)
        return any(stored[:2] == (name, size) for stored in listed())

    def _problem(self, error: PogfastError) -> None:
        with self.lock:
            self.summary.problems.append(error)
            self.report.problem(error)

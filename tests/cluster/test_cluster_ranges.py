"""Large files that several workers restore, each ranges of it: they are whole, as from one machine, or not there."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from kit import dask
from kit.commands import Runner
from kit.dask import Cluster
from kit.files import flip, text
from pogfast import keys, recovery
from pogfast._engine import Opened
from pogfast.archives.lookup import open_archive
from pogfast.cluster import ranges, worker
from pogfast.cluster.crews import CrewOptions
from pogfast.errors import PogfastError

CHUNK = 100_000
SIZE = 40 * CHUNK + 5  # of a large file
RANGES = 9  # of it
LARGE = {"first", "holes", "twice"}


@pytest.fixture(autouse=True)
def small_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the coordinator has to know."""
    monkeypatch.setattr(ranges, "RANGE_SIZE", 5 * CHUNK - 1)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Three large files, one with holes and one with the same blobs again and again, between small ones."""
    top = tmp_path / "tree"
    (top / "middle").mkdir(parents=True)
    for name in ("early", "middle/small", "zero"):
        (top / name).write_bytes(text(5000, len(name)))
    (top / "first").write_bytes(os.urandom(SIZE))
    with open(top / "holes", "wb") as file:
        for number in range(0, 40, 4):
            file.seek(number * CHUNK)
            file.write(os.urandom(CHUNK // 2))
        file.truncate(SIZE)
    (top / "middle" / "twice").write_bytes(10 * (os.urandom(3 * CHUNK) + bytes(CHUNK)) + b"12345")
    os.chmod(top / "first", 0o4711)
    os.chmod(top / "middle" / "twice", 0o440)
    os.utime(top / "first", ns=(10**18 + 7, 10**18 + 5))
    os.link(top / "first", top / "other name")
    with contextlib.suppress(OSError):
        os.setxattr(top / "first", "user.colour", b"blue")
    return top


def restore(store: Path, pair: Path, into: Path, executor: object = None, **more: Any) -> recovery.Summary:
    how = CrewOptions(worker_key=f"file:{pair}.decrypt", worker_timeout=20)
    key = keys.from_decryption_keyfile(f"{pair}.decrypt")
    return recovery.restore(f"{store}/latest", key, str(into), executor=executor, crew_options=how, **more)


def facts(top: Path) -> dict[str, Any]:
    """Everything that a restore brings back, and whether it has holes."""
    found = {}
    for path in sorted(path for path in top.rglob("*") if path.is_file()):
        status = path.stat()
        attributes = {name: os.getxattr(path, name) for name in os.listxattr(path)}
        has_holes = status.st_blocks * 512 < status.st_size * 3 // 4
        kept = (status.st_mode, status.st_nlink, status.st_uid, status.st_gid, status.st_mtime_ns, status.st_size)
        found[str(path.relative_to(top))] = (*kept, attributes, has_holes, path.read_bytes())
    return found


def left_in(top: Path) -> list[str]:
    return [path.name for path in top.rglob("*") if path.name.startswith(".pogfast")]


class Here(Executor):
    """Does each unit at once. `before` is called with each range, and may do it itself."""

    def __init__(self, before: Callable[[Any], Any] = lambda asked: None) -> None:
        self.before = before
        self.ranges: list[Any] = []

    def submit(self, act: Any, *arguments: Any, **more: Any) -> Future[Any]:  # type: ignore[override]
        future: Future[Any] = Future()
        if act is worker.open_blobs:
            for asked in arguments[1].files:
                if asked.part is not None:
                    self.ranges.append(asked)
                    self.before(asked)
        try:
            future.set_result(act(*arguments))
        except Exception as error:  # noqa: BLE001
            future.set_exception(error)
        return future


@pytest.mark.parametrize("kind", ["dask", "threads", "without a sync"])
def test_the_files_are_the_same(running: Cluster, tree: Path, store: Path, pair: Path, kind: str) -> None:
    into, alone = store.parent / "restored", store.parent / "alone"
    by_one = restore(store, pair, alone, set_id=True)
    (into / "middle").mkdir(parents=True)
    (into / "middle" / "twice").write_bytes(b"to be replaced")
    with ThreadPoolExecutor(2) as threads:
        executor = running.executor if kind == "dask" else threads
        more: dict[str, Any] = {"overwrite": "always", "set_id": True, "no_sync": kind == "without a sync"}
        summary = restore(store, pair, into, executor, **more)
    assert summary.problems == by_one.problems == []
    assert sum(tally.units for tally in summary.tallies.workers.values()) > 3 * RANGES - 3
    assert facts(into) == facts(alone)
    assert facts(into)["holes"][-2], "its holes are some"
    for word in ("files", "links", "bytes_written", "missed", "warnings"):
        assert getattr(summary, word) == getattr(by_one, word), word
    assert left_in(into) == []
    assert restore(store, pair, into, running.executor, set_id=True).files == 0


# Run in a worker: half of a range is written, and then the worker dies.
DIES = """
import os, signal
from pogfast.cluster import reading
def dies(self, wanted, prefix=b"", do=reading.OpeningDesk._open):
    if wanted[0].start > 0 and not os.path.exists(MARK):
        open(MARK, "w").close()
        half = len(wanted[0].blobs) // 2
        blobs, sizes = wanted[0].blobs[:half], wanted[0].sizes[:half]
        do(self, [wanted[0]._replace(blobs=blobs, sizes=sizes, size=sum(sizes))], prefix)
        os.kill(os.getpid(), signal.SIGKILL)
    return do(self, wanted, prefix)
reading.OpeningDesk._open = dies
"""


def test_a_worker_that_is_killed_in_a_range(tmp_path: Path, tree: Path, store: Path, pair: Path) -> None:
    preload, mark = tmp_path / "dies.py", tmp_path / "mark"
    preload.write_text(DIES.replace("MARK", repr(str(mark))))
    into, alone = tmp_path / "restored", tmp_path / "alone"
    restore(store, pair, alone)
    with dask.cluster(tmp_path / "cluster", workers=0) as made:
        made.start_worker(preload=preload)
        made.start_worker(preload=preload)
        summary = restore(store, pair, into, made.executor)
    assert mark.exists()
    assert (summary.problems, summary.refused) == ([], [])
    assert facts(into) == facts(alone)
    assert left_in(into) == []


def blob_of(store: Path, pair: Path, name: str, number: int) -> str:
    with open_archive(f"{store}/latest", keys.from_decryption_keyfile(f"{pair}.decrypt")) as opened:
        return str(opened.entries[name].blobs[number])


def test_a_damaged_blob_is_told_as_by_one_machine(
    running: Cluster, tree: Path, store: Path, pair: Path, pogfast: Runner
) -> None:
    blob = blob_of(store, pair, "first", 17)
    [damaged] = [path for path in (store / "data").rglob("*") if path.name == blob]
    flip(damaged, 500)
    into, alone = store.parent / "restored", store.parent / "alone"
    summary, by_one = restore(store, pair, into, running.executor), restore(store, pair, alone)
    assert [str(problem) for problem in summary.problems] == [str(problem) for problem in by_one.problems]
    assert f"first: blob {blob} is damaged" in str(summary.problems[0])
    assert summary.exit_code == by_one.exit_code == 4
    assert facts(into) == facts(alone)
    assert not (into / "first").exists()
    assert left_in(into) == []


def test_nothing_more_is_read_for_a_file_that_is_damaged(
    tree: Path, store: Path, pair: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranges, "RANGE_SIZE", 1)
    blob = blob_of(store, pair, "first", 1)
    [damaged] = [path for path in (store / "data").rglob("*") if path.name == blob]
    damaged.unlink()
    into = store.parent / "restored"
    with ThreadPoolExecutor(1) as executor:
        summary = restore(store, pair, into, executor, names=["first", "zero"])
    assert f"first: blob {blob} is missing" in str(summary.problems[0])
    assert (into / "zero").exists()
    [tally] = summary.tallies.workers.values()
    assert tally.units < 10, "of 41"
    assert left_in(into) == []


POISON = """
import os, signal
from pogfast.cluster import worker
def poisoned(job, unit, do=worker.open_blobs):
    if any(BLOB in asked.wanted.blobs for asked in unit.files):
        os.kill(os.getpid(), signal.SIGKILL)
    return do(job, unit)
worker.open_blobs = poisoned
"""


def test_a_range_that_kills_its_workers_is_named(tmp_path: Path, tree: Path, store: Path, pair: Path) -> None:
    """The file is not there; the others are."""
    preload, into = tmp_path / "poison.py", tmp_path / "restored"
    preload.write_text(POISON.replace("BLOB", repr(blob_of(store, pair, "first", 17))))
    with dask.cluster(tmp_path / "cluster", workers=0) as made:
        made.start_worker(preload=preload)
        summary = restore(store, pair, into, made.executor)
    [problem, *others] = [str(problem) for problem in summary.problems]
    assert problem.startswith("first: cannot read blob ")
    assert "each worker that read it died" in problem
    assert all("other name" in other for other in others)
    whole = facts(into)
    assert whole.keys() == {"early", "holes", "middle/small", "middle/twice", "zero"}
    assert all(whole[name][-1] == (tree / name).read_bytes() for name in whole)
    assert left_in(into) == []


def test_a_name_that_somebody_takes_meanwhile(tree: Path, store: Path, pair: Path) -> None:
    into = store.parent / "restored"

    def take(asked: Any) -> None:
        if asked.part.is_last:
            (into / "holes").write_bytes(b"mine")

    summary = restore(store, pair, into, Here(take))
    assert [str(problem) for problem in summary.problems] == ["holes: cannot be written: File exists"]
    assert (into / "holes").read_bytes() == b"mine"
    assert (into / "first").read_bytes() == (tree / "first").read_bytes()
    assert left_in(into) == []


def test_no_room_for_a_file(tmp_path: Path, store: Path, pair: Path, running: Cluster) -> None:
    """It is told as by one machine, and the others are restored."""
    said = []
    for executor in (None, Here()):
        into = tmp_path / f"restored by {'all' if executor else 'one'}"
        into.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "none", str(into)]
        if subprocess.run(mount, capture_output=True).returncode:
            pytest.skip("no permission to mount")
        try:
            summary = restore(store, pair, into, executor)
            said.append([str(problem) for problem in summary.problems])
            assert (into / "zero").exists()
            assert left_in(into) == []
        finally:
            subprocess.run(["umount", str(into)], check=True)
    assert said[0] == said[1]
    assert "first: not enough space for it: No space left on device" in said[0]


# ---- who else has the unfinished file ----


def test_a_file_gets_its_name_when_nobody_writes_to_it_any_more(tree: Path, store: Path, pair: Path) -> None:
    """Not even a worker that counts as lost: it might write when the user already does. Nor can it begin later."""
    into = store.parent / "restored"
    seen: list[bool] = []
    late: list[int] = []

    def write_late(asked: Any) -> None:
        if asked.part.is_last and not late:
            fd = os.open(into / asked.part.draft, os.O_RDWR)
            late.append(fd)
            fcntl.flock(fd, fcntl.LOCK_SH)
            threading.Timer(1.0, leave, [fd]).start()

    def leave(fd: int) -> None:
        seen.append((into / "first").exists())
        os.close(fd)

    executor = Here(write_late)
    summary = restore(store, pair, into, executor, names=["first"])
    assert summary.problems == []
    assert seen == [False]
    assert (into / "first").read_bytes() == (tree / "first").read_bytes()
    part = executor.ranges[0].part
    directory = os.open(into, os.O_RDONLY)
    os.link(into / "first", into / "its old name")
    try:
        with pytest.raises(FileNotFoundError), ranges.opened_draft(directory, part.draft, part.inode):
            pass
        with (
            ranges.opened_draft(directory, "its old name", part.inode, alone=True),
            pytest.raises(BlockingIOError),
            ranges.opened_draft(directory, "its old name", part.inode),
        ):
            pass
    finally:
        os.close(directory)


def test_a_worker_that_never_lets_go(tree: Path, store: Path, pair: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "PATIENCE", 0.3)
    into = store.parent / "restored"
    held: list[int] = []

    def hold(asked: Any) -> None:
        if not held:
            held.append(os.open(into / asked.part.draft, os.O_RDWR))
            fcntl.flock(held[0], fcntl.LOCK_SH)

    summary = restore(store, pair, into, Here(hold), names=["first"])
    os.close(held[0])
    assert [str(problem) for problem in summary.problems] == ["first: cannot be written: Device or resource busy"]
    assert [*into.iterdir()] == []


@pytest.mark.parametrize("kind", ["link", "symlink", "fifo", "gone"])
def test_another_file_in_its_place_is_not_written_to(tree: Path, store: Path, pair: Path, kind: str) -> None:
    into, other = store.parent / "restored", store.parent / "other"
    other.write_bytes(bytes(SIZE))

    def swap(asked: Any) -> None:
        draft = into / asked.part.draft
        if asked.part.first and not os.path.samefile(draft, other):
            draft.unlink()
            if kind == "link":
                os.link(other, draft)
            elif kind == "symlink":
                draft.symlink_to(other)
            elif kind == "fifo":
                os.mkfifo(draft)

    def swap_once(asked: Any) -> None:
        if os.path.lexists(into / asked.part.draft):
            swap(asked)

    summary = restore(store, pair, into, Here(swap_once), names=["first"])
    assert [str(problem)[:24] for problem in summary.problems] == ["first: cannot be written"]
    assert other.read_bytes() == bytes(SIZE)
    assert [path for path in into.iterdir() if path.name == "first"] == []


def test_a_file_that_is_cut_short_meanwhile_gets_no_name(tree: Path, store: Path, pair: Path) -> None:
    into = store.parent / "restored"

    def cut(asked: Any) -> None:
        if asked.part.is_last and asked.wanted.sparse:
            os.truncate(into / asked.part.draft, 100)

    summary = restore(store, pair, into, Here(cut), names=["holes"])
    assert [str(problem) for problem in summary.problems] == ["holes: cannot be written: Input/output error"]
    assert [*into.iterdir()] == []


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS])
def test_where_nothing_can_be_locked_one_worker_writes_a_file(
    tree: Path, store: Path, pair: Path, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(fd: int, how: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    into, executor = store.parent / "restored", Here()
    assert restore(store, pair, into, executor).problems == []
    assert executor.ranges == []
    assert (into / "first").read_bytes() == (tree / "first").read_bytes()
    assert left_in(into) == []


@pytest.mark.parametrize("begun", [1, 4, 12])
def test_nothing_is_left_of_a_run_that_ends(tree: Path, store: Path, pair: Path, begun: int) -> None:
    into = store.parent / "restored"

    class Ends(Here):
        def submit(self, act: Any, *arguments: Any, **more: Any) -> Future[Any]:
            if act is worker.open_blobs and len(self.ranges) == begun:
                raise RuntimeError("shut down")
            return super().submit(act, *arguments, **more)

    with pytest.raises(PogfastError, match="the executor takes no more work"):
        restore(store, pair, into, Ends())
    assert left_in(into) == []
    assert not (into / "first").exists()
    assert restore(store, pair, into, Here(), overwrite="if-changed").problems == []
    assert (into / "first").read_bytes() == (tree / "first").read_bytes()


def test_a_range_that_is_reported_twice_or_late_changes_nothing(tree: Path, store: Path, pair: Path) -> None:
    """Once a file has failed, what becomes of its other ranges is not reported."""
    good = Opened(0, True, ranges.GOOD, 0, 0, -1, 0)
    into = store.parent / "restored"
    executor = Here()
    restore(store, pair, into, executor, names=["first"])
    first, *_, last = executor.ranges
    directory = os.open(into, os.O_RDONLY)
    try:
        whole = first._replace(wanted=first.wanted._replace(directory=directory, leaf=b"other"))
        file = ranges.RangedFile(whole, ".pogfast-none", 1)
        bad = file.take(last, good._replace(verdict=ranges.BAD_WRITE, errno=5, offset=3))
        assert bad is not None
        assert (bad.blob, bad.offset) == (last.part.first, last.wanted.start + 3)
        assert file.take(last, good) is None
        assert file.take(last, bad) is None
    finally:
        os.close(directory)
    assert {path.name for path in into.iterdir()} == {"first"}


def test_time_stays_after_a_range_is_written_again(tree: Path, store: Path, pair: Path) -> None:
    """A worker did a range and was not heard: another does it again, and the file has its own time."""
    into = store.parent / "restored"

    class Twice(Here):
        def submit(self, act: Any, *arguments: Any, **more: Any) -> Future[Any]:
            if act is worker.open_blobs:
                act(*arguments)
            return super().submit(act, *arguments, **more)

    summary = restore(store, pair, into, Twice(), names=["first", "holes"])
    assert summary.problems == []
    for name in ("first", "holes"):
        assert (into / name).stat().st_mtime_ns == (tree / name).stat().st_mtime_ns
        assert (into / name).read_bytes() == (tree / name).read_bytes()
    assert (into / "holes").stat().st_blocks * 512 < SIZE * 3 // 4

"""`restore --executor` with a real scheduler and workers: what is restored is what one machine restores, whoever dies
or differs meanwhile; or the run ends clearly, and a second one completes it."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import pogfast
from kit import dask
from kit.commands import Runner
from kit.dask import Cluster
from kit.files import flip, text
from pogfast import keys, recovery
from pogfast.cluster import opening, worker
from pogfast.cluster.crews import CrewOptions
from pogfast.errors import PogfastError, StoreError, UsageError
from pogfast.keys import Key

CHUNK = 100_000


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Small files in several directories, a large one with a hole, links of both kinds."""
    top = tmp_path / "tree"
    for number in range(300):
        (top / f"{number % 7}").mkdir(parents=True, exist_ok=True)
        (top / f"{number % 7}" / f"{number:03}").write_bytes(text(100 + number, number))
    with open(top / "large", "wb") as file:
        file.write(os.urandom(20 * CHUNK + 5))
        file.truncate(40 * CHUNK)
    os.link(top / "large", top / "other name")
    (top / "link").symlink_to("large")
    os.mkfifo(top / "fifo")
    (top / "empty").touch()
    (top / "b\udcff").write_bytes(b"not UTF-8")
    os.chmod(top / "3" / "003", 0o640)
    os.chmod(top / "5", 0o550)
    os.utime(top / "empty", ns=(1, 10**18 + 5))
    return top


def private(pair: Path) -> Key:
    return keys.from_decryption_keyfile(f"{pair}.decrypt")


def restore(store: Path, pair: Path, into: Path, executor: object = None, **more: Any) -> recovery.Summary:
    how = CrewOptions(worker_key=f"file:{pair}.decrypt", worker_timeout=20)
    return recovery.restore(f"{store}/latest", private(pair), str(into), executor=executor, crew_options=how, **more)


def command(store: Path, pair: Path, into: Path, cluster: Cluster, *more: str) -> list[str]:
    words = ["restore", f"{store}/latest", "--into", str(into), "--decryption-keyfile", f"{pair}.decrypt"]
    return [*words, "--executor", cluster.executor, *more]


def content(top: Path) -> dict[str, Any]:
    """Everything below a directory: kind and mode, size, time, and what is in it."""
    found = {}
    for path in sorted(top.rglob("*")):
        status = path.lstat()
        data: Any = None
        if path.is_symlink():
            data = os.readlink(path)
        elif path.is_file():
            data = path.read_bytes()
        time_ns = None if path.is_symlink() else status.st_mtime_ns
        links = 1 if path.is_dir() else status.st_nlink
        found[str(path.relative_to(top))] = (status.st_mode, links, time_ns, data)
    return found


@pytest.mark.parametrize("kind", ["dask", "threads"])
def test_the_files_are_the_same(
    running: Cluster, tree: Path, store: Path, pair: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "UNIT_DIRECTORIES", 2)
    into = store.parent / "restored"
    with ThreadPoolExecutor(2) as threads:
        executor = running.executor if kind == "dask" else threads
        summary = restore(store, pair, into, executor)
        again = restore(store, pair, into, executor)
    assert summary.problems == []
    assert content(into) == content(tree)
    assert (into / "large").stat().st_blocks * 512 < 30 * CHUNK, "its hole is one"
    alone = restore(store, pair, store.parent / "alone")
    for word in ("files", "directories", "links", "fifos", "bytes_written", "missed", "warnings"):
        assert getattr(summary, word) == getattr(alone, word), word
    assert sum(tally.units for tally in summary.tallies.workers.values()) >= 4
    assert (again.files, again.unchanged) == (0, summary.files + summary.links + summary.fifos)
    assert worker._idle == []


def test_the_command_line(running: Cluster, tree: Path, store: Path, pair: Path, pogfast: Runner) -> None:
    into = store.parent / "restored"
    ran = pogfast(*command(store, pair, into, running, "--json"))
    assert ran.code == 0, ran.err
    [summary] = [json.loads(line) for line in ran.out.splitlines() if b'"summary"' in line]
    assert sum(tally["units"] for tally in summary["workers"].values()) >= 1
    assert content(into) == content(tree)
    found = pogfast(*command(store, pair, into, running, "--dry-run"))
    assert found.code == 0


def test_what_may_be_replaced(running: Cluster, tree: Path, store: Path, pair: Path) -> None:
    into = store.parent / "restored"
    (into / "1").mkdir(parents=True)
    (into / "1" / "001").write_bytes(b"mine")
    (into / "empty").symlink_to(store.parent / "outside")
    outside = store.parent / "elsewhere"
    outside.mkdir()
    (into / "2").symlink_to(outside)
    first = restore(store, pair, into, running.executor)
    assert first.refused == ["1/001", "empty"]
    assert (into / "1" / "001").read_bytes() == b"mine"
    assert [*outside.iterdir()] == [], "nothing is restored through a link"
    assert not (store.parent / "outside").exists()
    second = restore(store, pair, into, running.executor, overwrite="if-changed", delete=True)
    assert (second.problems, second.refused) == ([], [])
    assert content(into) == content(tree)


def test_a_damaged_blob_is_named_once(running: Cluster, store: Path, pair: Path, pogfast: Runner) -> None:
    damaged = max(
        (path for path in (store / "data").rglob("*") if path.is_file()), key=lambda path: path.stat().st_size
    )
    flip(damaged, 500)
    into = store.parent / "restored"
    ran = pogfast(*command(store, pair, into, running))
    assert ran.code == 4, ran.err
    assert ran.err.count(damaged.name) <= 2  # the file, and its other name
    assert "large: blob" in ran.err
    assert not (into / "large").exists()
    assert left_in(into) == []
    assert (into / "6" / "006").exists()


def left_in(top: Path) -> list[str]:
    return [path.name for path in top.rglob("*") if path.name.startswith(".pogfast")]


# Run in a worker: the first unit is written, and then not reported; drafts with names are left.
DIES = """
import os, signal
from pogfast import _engine
from pogfast.cluster import reading
_engine.use_nameless_files(False)
def dies(self, wanted, prefix=b"", do=reading.OpeningDesk._open):
    if prefix and not os.path.exists(MARK):
        open(MARK, "w").close()
        do(self, wanted, prefix)
        os.close(os.open(prefix + b"0.part", os.O_WRONLY | os.O_CREAT | os.O_EXCL, dir_fd=wanted[0].directory))
        os.kill(os.getpid(), signal.SIGKILL)
    return do(self, wanted, prefix)
reading.OpeningDesk._open = dies
"""


def test_a_worker_that_is_killed_costs_nothing(tmp_path: Path, tree: Path, store: Path, pair: Path) -> None:
    """Another one restores its files, also if they are there and were not reported, and nothing is left."""
    preload, mark = tmp_path / "dies.py", tmp_path / "mark"
    preload.write_text(DIES.replace("MARK", repr(str(mark))))
    into = tmp_path / "restored"
    with dask.cluster(tmp_path / "cluster", workers=0) as made:
        made.start_worker(preload=preload)
        made.start_worker(preload=preload)
        summary = restore(store, pair, into, made.executor)
    assert mark.exists()
    assert (summary.problems, summary.refused) == ([], [])
    assert content(into) == content(tree)
    assert left_in(into) == []


def test_the_scheduler_dies(
    tmp_path: Path, tree: Path, store: Path, pair: Path, running: Cluster, pogfast: Runner
) -> None:
    into = tmp_path / "restored"
    slow = tmp_path / "slow.py"
    slow.write_text(
        "import time\nfrom pogfast.cluster import worker\n"
        "def slow(job, unit, do=worker.open_blobs):\n    done = do(job, unit)\n    time.sleep(1)\n    return done\n"
        "worker.open_blobs = slow\n"
    )
    with dask.cluster(tmp_path / "cluster", workers=0) as made:
        made.start_worker(preload=slow)
        words = command(store, pair, into, made)
        process = subprocess.Popen([sys.executable, "-m", "pogfast", *words], stderr=subprocess.PIPE, text=True)
        ends = time.monotonic() + 60
        while not [path for path in into.rglob("*") if re.fullmatch(r"\d\d\d", path.name)]:
            assert time.monotonic() < ends
            time.sleep(0.01)
        dask.kill(made.scheduler)
        _, said = process.communicate(timeout=120)
    assert process.returncode == 1, said
    assert "Traceback" not in said
    assert "the connection to the scheduler is lost" in said
    ran = pogfast(*command(store, pair, into, running, "--overwrite", "if-changed"))
    assert ran.code == 0, ran.err
    assert content(into) == content(tree)
    assert left_in(into) == []


def test_a_worker_without_the_mount_is_left_out(
    tmp_path: Path, tree: Path, store: Path, pair: Path, pogfast: Runner
) -> None:
    apart = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"']
    if subprocess.run([*apart, str(tmp_path), "true"], capture_output=True).returncode:
        pytest.skip("no permission to mount")
    into = tmp_path / "restored"
    into.mkdir()
    with dask.cluster(tmp_path / "cluster", workers=1) as made:
        made.start_worker(before=[*apart, str(into)])
        while "Registered to" not in made.log("worker2"):
            time.sleep(0.05)
        ran = pogfast(*command(store, pair, into, made))
    assert ran.code == 0, ran.err
    assert f"it sees another directory at {into}: is the same file system mounted there?" in ran.err
    assert content(into) == content(tree)


class Here(Executor):
    """Does each unit at once, after something else."""

    def __init__(self, before: Callable[[], None], after: Callable[[Any], Any] = lambda result: result) -> None:
        self.before, self.after = before, after

    def submit(self, act: Any, *arguments: Any, **more: Any) -> Future[Any]:  # type: ignore[override]
        future: Future[Any] = Future()
        if act is worker.open_blobs:
            self.before()
            future.set_result(self.after(act(*arguments)))
        else:
            future.set_result(act(*arguments))
        return future


def test_the_target_is_full(tmp_path: Path, store: Path, pair: Path) -> None:
    into = tmp_path / "restored"
    into.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(into)], capture_output=True).returncode:
        pytest.skip("no permission to mount")
    try:
        with ThreadPoolExecutor(2) as threads, pytest.raises(StoreError, match="No space left on device") as raised:
            restore(store, pair, into, threads)
        assert "make room and run it again" in raised.value.hint
        assert left_in(into) == []
    finally:
        subprocess.run(["umount", str(into)], check=True)


def test_a_link_that_takes_the_place_of_a_directory(tmp_path: Path, store: Path, pair: Path) -> None:
    """Workers do not follow it, whenever it comes."""
    into, outside = tmp_path / "restored", tmp_path / "outside"
    outside.mkdir()

    def swap() -> None:
        if (into / "4").is_dir() and not (into / "4").is_symlink():
            os.rename(into / "4", into / "moved")
            (into / "4").symlink_to(outside)

    summary = restore(store, pair, into, Here(swap))
    assert [*outside.iterdir()] == []
    assert summary.problems
    assert summary.exit_code == 3


def test_a_worker_that_sees_another_directory_writes_nothing(tmp_path: Path, store: Path, pair: Path) -> None:
    """Also if that changes between two units."""
    into, other = tmp_path / "restored", tmp_path / "other"

    def unmount() -> None:
        if not other.exists():
            os.rename(into, other)
            into.mkdir()

    with pytest.raises(PogfastError, match="it sees another directory at"):
        restore(store, pair, into, Here(unmount))
    assert [*into.iterdir()] == []


def test_what_cannot_be(tmp_path: Path, store: Path, pair: Path) -> None:
    def lie(result: Any) -> Any:
        result.events[0] = result.events[0]._replace(verdict=77)
        return result

    with pytest.raises(PogfastError, match="says what cannot be"):
        restore(store, pair, tmp_path / "restored", Here(lambda: None, lie))
    with ThreadPoolExecutor(1) as threads:
        with pytest.raises(UsageError, match="workers must read the key themselves"):
            recovery.restore(f"{store}/latest", private(pair), str(tmp_path / "restored"), executor=threads)
        with pytest.raises(UsageError, match="--from cannot be combined with --executor"):
            recovery.restore("latest", private(pair), str(tmp_path), stores=[str(store)], executor=threads)


def test_python(running: Cluster, tree: Path, store: Path, pair: Path) -> None:
    into = store.parent / "restored"
    found = pogfast.restore(
        store / "latest",
        private(pair),
        into,
        executor=running.executor,
        worker_key=f"file:{pair}.decrypt",
        no_sync=True,
    )
    assert found.problems == []
    assert content(into) == content(tree)
    assert stat.S_IMODE((into / "3" / "003").stat().st_mode) == 0o640

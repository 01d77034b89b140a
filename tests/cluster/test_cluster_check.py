"""`check --read-data --executor` with a real scheduler and workers: the verdicts are those of one machine, and the key
is where it has to be, and nowhere else."""

from __future__ import annotations

import base64
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import threading
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
from pogfast import backup, keys
from pogfast.cluster import opening, worker
from pogfast.cluster.crews import CrewOptions
from pogfast.errors import PogfastError, UsageError
from pogfast.keys import Key
from pogfast.stores import settings
from pogfast.upkeep import checking

CHUNK = 100_000


@pytest.fixture
def store(tmp_path: Path, pair: Path) -> Path:
    """An archive of 300 small files and a large one, with the public key."""
    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(300):
        (tree / f"{number:03}").write_bytes(text(100 + number, number))
    (tree / "large").write_bytes(os.urandom(40 * CHUNK + 1))
    key = keys.from_encryption_keyfile(f"{pair}.encrypt")
    backup.create([str(tree)], str(tmp_path / "store"), key, chunk_size=CHUNK, cache_directory="")
    return tmp_path / "store"


def private(pair: Path) -> Key:
    return keys.from_decryption_keyfile(f"{pair}.decrypt")


def blobs_of(store: Path) -> list[Path]:
    return sorted(path for path in (store / "data").rglob("*") if path.is_file())


def check(store: Path, pair: Path, executor: object, **more: Any) -> checking.Summary:
    how = CrewOptions(worker_key=f"file:{pair}.decrypt", worker_timeout=20)
    return checking.check(
        [str(store)], private(pair), read_data=checking.EVERYTHING, executor=executor, crew_options=how, **more
    )


def command(store: Path, pair: Path, cluster: Cluster, *more: str) -> list[str]:
    words = ["check", str(store), "--read-data", "--decryption-keyfile", f"{pair}.decrypt"]
    return [*words, "--executor", cluster.executor, *more]


@pytest.mark.parametrize("kind", ["dask", "threads"])
def test_the_verdicts_are_the_same(
    running: Cluster, store: Path, pair: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "UNIT_SIZE", 10 * CHUNK)
    blobs = blobs_of(store)
    sizes = {path: path.stat().st_size for path in blobs}
    largest = max(blobs, key=lambda path: sizes[path])
    flip(largest, 60_000)
    flip(blobs[0] if blobs[0] != largest else blobs[1], 90)
    blobs[-1].unlink()
    with ThreadPoolExecutor(2) as threads:
        by_all = check(store, pair, running.executor if kind == "dask" else threads)
    by_one = checking.check([str(store)], private(pair), read_data=checking.EVERYTHING)
    assert len(by_one.damage) == 3
    assert by_all.damage == by_one.damage
    assert by_all.problems == by_one.problems == []
    assert (by_all.read, by_all.read_size) == (by_one.read, by_one.read_size)
    assert by_all.exit_code == 4
    assert sum(tally.units for tally in by_all.tallies.workers.values()) >= 5


def test_the_command_line_names_a_damaged_blob_once(running: Cluster, store: Path, pair: Path, pogfast: Runner) -> None:
    ran = pogfast(*command(store, pair, running))
    assert ran.code == 0, ran.err
    assert "no damage found" in ran.err
    damaged = blobs_of(store)[5]
    flip(damaged, 90)
    ran = pogfast(*command(store, pair, running, "--json"))
    assert ran.code == 4, ran.err
    lines = [json.loads(line) for line in ran.out.splitlines()]
    assert ran.err.count(damaged.name) == 1
    [summary] = [line for line in lines if line["message_type"] == "summary"]
    assert sum(tally["units"] for tally in summary["workers"].values()) >= 1


def test_packs_and_a_part(running: Cluster, tmp_path: Path, pair: Path) -> None:
    tree, store = tmp_path / "files", tmp_path / "packed"
    tree.mkdir()
    for number in range(400):
        (tree / f"{number:03}").write_bytes(os.urandom(20_000))
    key = keys.from_encryption_keyfile(f"{pair}.encrypt")
    with settings.using(packs=1 << 20):
        backup.create([str(tree)], str(store), key, cache_directory="")
    found = check(store, pair, running.executor)
    assert (found.damage, found.problems, found.read) == ([], [], 400)
    pack = max(store.rglob("*"), key=lambda path: path.stat().st_size)
    flip(pack, 300_000)
    found = check(store, pair, running.executor)
    assert found.exit_code == 4
    assert len({damage.blob for damage in found.damage if damage.blob}) == 1


def test_a_worker_that_is_killed_costs_nothing(
    tmp_path: Path, store: Path, pair: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "UNIT_SIZE", CHUNK)
    with dask.cluster(tmp_path / "cluster") as made:
        while len(pids := made.pids()) < 2:
            pass
        taken = opening.ClusterOpener._taken

        def kill(self: Any, unit: Any, result: Any) -> Any:
            monkeypatch.setattr(opening.ClusterOpener, "_taken", taken)
            os.kill(pids[0], signal.SIGKILL)
            return taken(self, unit, result)

        monkeypatch.setattr(opening.ClusterOpener, "_taken", kill)
        found = check(store, pair, made.executor)
    assert (found.damage, found.problems) == ([], [])
    assert found.read == found.blobs


POISON = """
import os, signal
from pogfast.cluster import worker
def poisoned(job, unit, do=worker.open_blobs):
    if any(blob.startswith(BLOB) for asked in unit.files for blob in asked.wanted.blobs):
        os.kill(os.getpid(), signal.SIGKILL)
    return do(job, unit)
worker.open_blobs = poisoned
"""


def test_a_blob_that_kills_its_workers_is_named(tmp_path: Path, store: Path, pair: Path, pogfast: Runner) -> None:
    blob = blobs_of(store)[7].name
    preload = tmp_path / "poison.py"
    preload.write_text(POISON.replace("BLOB", repr(blob)))
    with dask.cluster(tmp_path / "cluster", workers=0) as made:
        made.start_worker(preload=preload)
        made.start_worker(preload=preload)
        ran = pogfast(*command(store, pair, made, "--worker-timeout", "20s"))
    assert ran.code == 1, ran.err
    assert ran.err.count(blob) == 1
    assert f"cannot read blob {blob}" in ran.err
    assert "each worker that read it died" in ran.err


class Lying(Executor):
    """Has each unit done, and changes what is said of it."""

    def __init__(self, change: Callable[[Any], None]) -> None:
        self.change = change

    def submit(self, act: Any, *arguments: Any, **more: Any) -> Future[Any]:  # type: ignore[override]
        future: Future[Any] = Future()
        result = pickle.loads(pickle.dumps(act(*arguments)))
        if act is worker.open_blobs:
            self.change(result)
        future.set_result(result)
        return future


@pytest.mark.parametrize(
    "change",
    [
        lambda result: result.events.pop(),
        lambda result: result.events.__setitem__(0, result.events[0]._replace(verdict=99)),
        lambda result: result.events.__setitem__(0, result.events[0]._replace(blob=5)),
        lambda result: result.events.__setitem__(0, result.events[0]._replace(offset=-9)),
        lambda result: setattr(result, "read", -1),
    ],
)
def test_a_worker_that_says_what_cannot_be(store: Path, pair: Path, change: Callable[[Any], None]) -> None:
    with pytest.raises(PogfastError, match="says what cannot be"):
        check(store, pair, Lying(change))


def test_a_worker_that_loses_the_store_says_nothing_of_blobs(store: Path, pair: Path) -> None:
    """A file system that is gone makes no damage."""

    class Loses(Lying):
        units = 0

        def submit(self, act: Any, *arguments: Any, **more: Any) -> Future[Any]:
            self.units += act is worker.open_blobs
            if self.units == 2:
                shutil.rmtree(store)
                store.mkdir()
            return super().submit(act, *arguments, **more)

    with pytest.raises(PogfastError, match="a worker cannot do its part: it sees another directory at"):
        check(store, pair, Loses(lambda result: None))


# ---- the key ----


def memory_of(pid: int) -> bytes:
    """Returns what a process has in memory."""
    found = []
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb") as memory:
        for line in maps:
            start, end = (int(number, 16) for number in re.split("[- ]", line)[:2])
            if line.split()[1].startswith("rw"):
                memory.seek(start)
                try:
                    found.append(memory.read(end - start))
                except (OSError, OverflowError):
                    continue  # of the kernel
    return b"\0".join(found)


def written_by(secret: bytes) -> list[bytes]:
    """Returns the ways in which a secret can be written."""
    return [secret, secret.hex().encode(), secret.hex().upper().encode(), base64.b64encode(secret)]


def children_of(process: subprocess.Popen[bytes]) -> list[int]:
    listed = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return [process.pid, *map(int, listed.split())]


def test_the_key_reaches_the_workers_alone(
    tmp_path: Path, store: Path, pair: Path, pogfast: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the memory of the scheduler and of nannies has it, nor a log, nor a folder in which workers keep data,
    nor what is sent."""
    secret = Path(f"{pair}.decrypt").read_bytes()
    assert len(secret) == 32
    sent: list[bytes] = []

    class Listening(Executor):
        def submit(self, act: Any, *arguments: Any, **more: Any) -> Future[Any]:  # type: ignore[override]
            result = act(*arguments)
            sent.extend((pickle.dumps(arguments), pickle.dumps(result), repr(arguments).encode(errors="replace")))
            future: Future[Any] = Future()
            future.set_result(result)
            return future

    assert check(store, pair, Listening()).damage == []
    assert len(sent) >= 6
    with dask.cluster(tmp_path / "cluster") as made:
        assert pogfast(*command(store, pair, made)).code == 0
        memory = [memory_of(pid) for pid in [*children_of(made.scheduler), *(nanny.pid for nanny in made.workers)]]
        assert any(str(store).encode() in each for each in memory), "this would find what was sent"
        files = [path.read_bytes() for path in made.directory.rglob("*") if path.is_file()]
    assert len(files) >= 4
    for way in written_by(secret):
        assert not [each for each in [*sent, *memory, *files] if way in each]


def test_no_worker_keeps_the_key(store: Path, pair: Path) -> None:
    with ThreadPoolExecutor(2) as threads:
        check(store, pair, threads)
    assert worker._idle == []


def test_a_desk_in_use_is_closed_when_it_is_given_back(store: Path, pair: Path) -> None:
    """The run ends while a worker is still at a unit."""
    begun, go_on = threading.Event(), threading.Event()

    class Late(ThreadPoolExecutor):
        def submit(self, act: Any, *arguments: Any, **more: Any) -> Future[Any]:
            if act is not worker.open_blobs:
                return super().submit(act, *arguments, **more)
            job = arguments[0]

            def wait() -> Any:
                with worker._borrowed(job):
                    begun.set()
                    go_on.wait(60)

            super().submit(wait)
            begun.wait(60)
            raise PogfastError("interrupted")

    threading.Timer(1, go_on.set).start()
    with Late(1) as late, pytest.raises(PogfastError, match="interrupted"):
        check(store, pair, late)
    assert worker._idle == []


def test_another_key_than_the_coordinators(running: Cluster, tmp_path: Path, store: Path, pair: Path) -> None:
    keys.create_pair("other", str(tmp_path))
    how = CrewOptions(worker_key=f"file:{tmp_path}/other.decrypt", worker_timeout=1)
    told: list[str] = []

    class Report(checking.Silent):
        def warning(self, text: str) -> None:
            told.append(text)

    with pytest.raises(PogfastError, match="all 2 workers are left out"):
        checking.check(
            [str(store)],
            private(pair),
            read_data=checking.EVERYTHING,
            executor=running.executor,
            crew_options=how,
            report=Report(),
        )
    assert len(told) == 2
    assert all("is left out: it finds another key at file:" in each for each in told)


def test_what_cannot_be(store: Path, pair: Path, pogfast: Runner) -> None:
    with ThreadPoolExecutor(1) as threads, pytest.raises(UsageError, match="workers must read the key themselves"):
        checking.check([str(store)], private(pair), read_data=checking.EVERYTHING, executor=threads)
    ran = pogfast("check", str(store), "--decryption-keyfile", f"{pair}.decrypt", "--executor", "dask:tcp://[::1]:1")
    assert ran.code == 2
    assert "--executor is for --read-data" in ran.err


def test_python(running: Cluster, store: Path, pair: Path) -> None:
    found = pogfast.check(
        [store], private(pair), read_data=True, executor=running.executor, worker_key=f"file:{pair}.decrypt"
    )
    assert found.damage == []
    assert found.tallies.workers

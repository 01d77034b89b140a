"""`create --executor` with a real scheduler and workers: the archive is the one that a single machine makes, whoever
dies or differs meanwhile; or the run ends clearly, and a second one completes it."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import distributed
import pytest

import pogfast
from kit import dask
from kit.commands import Runner
from kit.dask import Cluster
from kit.files import manifest_in, text
from kit.servers import Certificate
from pogfast import backup, keys, manifest
from pogfast.cluster import dask as dask_crew
from pogfast.cluster import sealing, units, worker
from pogfast.cluster.crews import CrewOptions
from pogfast.cluster.executors import open_crew
from pogfast.cluster.units import KeyReference, OpeningJob, SealingJob, sources_of
from pogfast.errors import PogfastError, StoreError, UsageError
from pogfast.keys import Key
from pogfast.stores import settings, targets
from pogfast.stores.limits import RateLimit
from pogfast.stores.local import LocalStore
from pogfast.stores.settings import Settings

CHUNK = 4_000_000  # so that a part of a large file is 64 of them


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Small files, a large one with a hole, links of both kinds."""
    top = tmp_path / "tree"
    (top / "small").mkdir(parents=True)
    for number in range(1500):
        (top / "small" / f"{number:04}").write_bytes(text(number % 700, number))
    with open(top / "large", "wb") as file:
        file.write(os.urandom(3 * CHUNK + 5))
        file.truncate(300_000_000)
        file.seek(299_000_000)
        file.write(b"end")
    os.link(top / "large", top / "other name")
    (top / "link").symlink_to("large")
    os.mkfifo(top / "fifo")
    (top / "empty").touch()
    (top / "b\udcff").write_bytes(b"not UTF-8")
    return top


def public(pair: Path) -> Key:
    return keys.from_encryption_keyfile(f"{pair}.encrypt")


def private(pair: Path) -> Key:
    return keys.from_decryption_keyfile(f"{pair}.decrypt")


def create(tree: Path, store: Path, key: Key, executor: object = None, **more: Any) -> backup.Summary:
    return backup.create([str(tree)], str(store), key, executor=executor, chunk_size=CHUNK, cache_directory="", **more)


def content(store: Path, name: str, key: Key) -> tuple[list[tuple[str, Any]], dict[str, Any]]:
    """What an archive says, but for times of access and of the run."""
    opened = manifest.open((store / name).read_bytes(), key, name)
    entries = []
    for entry_name, entry in opened.entries.items():
        facts = {word: value for word, value in entry.more.items() if word != "atime_ns"}
        entries.append((entry_name, (entry.blobs, entry.mtime, facts)))
    assert opened.trailer is not None
    trailer = {word: value for word, value in opened.trailer.items() if word not in ("time", "ended")}
    trailer["totals"] = {word: value for word, value in trailer["totals"].items() if word != "added"}
    for section in ("directories", "links", "fifos", "parents"):
        for facts in trailer.get(section, {}).values():
            facts.pop("atime_ns", None)
    for facts in trailer["parents"].values():  # the stores are made in one of them
        del facts["mtime_ns"]
    return entries, trailer


def assert_clean(store: Path, key: Key) -> None:
    checked = pogfast.check([store], key, read_data=True)
    assert (checked.damage, checked.problems) == ([], [])
    assert checked.archives >= 1


def command(tree: Path, store: Path, pair: Path, executor: str, *more: str) -> list[str]:
    words = ["create", str(tree), "--to", str(store), "--encryption-keyfile", f"{pair}.encrypt", "--no-cache"]
    return [*words, "--chunk-size", str(CHUNK), "--executor", executor, *more]


@pytest.mark.parametrize("packs", [None, 1 << 20])
@pytest.mark.parametrize("kind", ["dask", "threads"])
def test_the_archive_is_the_same(running: Cluster, tree: Path, pair: Path, kind: str, packs: int | None) -> None:
    store, alone = tree.parent / "store", tree.parent / "alone"
    with settings.using(packs=packs), ThreadPoolExecutor(2) as threads:
        by_all = create(tree, store, public(pair), running.executor if kind == "dask" else threads)
        by_one = create(tree, alone, public(pair))
    assert content(store, by_all.manifest, private(pair)) == content(alone, by_one.manifest, private(pair))
    assert_clean(store, private(pair))
    assert [name for name in os.listdir(store) if "partial" in name] == []
    assert by_all.problems == by_one.problems == []
    assert (by_all.files_new, by_all.bytes_source) == (by_one.files_new, by_one.bytes_source)
    assert by_all.retries == 0
    assert sum(tally.units for tally in by_all.workers.values()) >= 3
    if packs:
        assert by_all.packs_new >= 1
        assert len(os.listdir(store / "packs" / "index")) == 1, "the coordinator's, for all packs"


@pytest.mark.parametrize("kind", ["client", "processes"])
def test_executors_of_the_caller(running: Cluster, tree: Path, pair: Path, kind: str) -> None:
    """They stay open."""
    connect: Any = distributed.Client
    made: Any = (
        ProcessPoolExecutor(2, multiprocessing.get_context("spawn"))
        if kind == "processes"
        else connect(running.address, set_as_default=False)
    )
    with made as executor:
        for name in ("one", "two"):
            summary = create(tree, tree.parent / name, public(pair), executor)
            assert (summary.problems, summary.files_new) == ([], 1503)
        assert executor.submit(abs, -3).result() == 3
    assert_clean(tree.parent / "two", private(pair))


def test_the_command_line(running: Cluster, tree: Path, pair: Path, pogfast: Runner, pogcli: Runner) -> None:
    store = tree.parent / "store"
    ran = pogfast(*command(tree, store, pair, running.executor, "--json", "--verbose"))
    assert ran.code == 0, ran.err
    lines = [json.loads(line) for line in ran.out.splitlines()]
    [summary] = [line for line in lines if line["message_type"] == "summary"]
    assert summary["files_new"] == 1503
    assert summary["retries"] == 0
    assert all(re.fullmatch(r"tcp://127\.0\.0\.1:\d+", worker) for worker in summary["workers"])
    assert sum(tally["bytes_read"] for tally in summary["workers"].values()) == summary["bytes_read"]
    ran = pogfast(*command(tree, store, pair, running.executor, "--verbose"))
    assert "workers  tcp://127.0.0.1:" in ran.err
    place = tree.parent / "by pogcli"
    place.mkdir()
    (place / "data").symlink_to(store / "data")  # where it looks for what a manifest names
    name = summary["snapshot_id"]
    ran = pogcli("--decryption-keyfile", f"{pair}.decrypt", "--decrypt", f"local:../store/{name}", cwd=place)
    assert ran.code == 0, ran.err
    found = place / str(tree / "large").lstrip("/")
    assert found.read_bytes() == (tree / "large").read_bytes()


def test_a_second_run_reads_only_what_is_new(running: Cluster, tree: Path, pair: Path) -> None:
    time.sleep(0.15)
    store, cache = tree.parent / "store", str(tree.parent / "cache")

    def again() -> backup.Summary:
        return backup.create(
            [str(tree)],
            str(store),
            public(pair),
            executor=running.executor,
            chunk_size=CHUNK,
            cache_directory=cache,
        )

    again()
    time.sleep(0.15)
    (tree / "small" / "new").write_bytes(b"new")
    second = again()
    assert (second.files_new, second.files_unchanged, second.bytes_read) == (1, 1503, 3)
    assert_clean(store, private(pair))


def test_what_is_stored_of_a_large_file_is_not_read_again(
    running: Cluster, tmp_path: Path, pair: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parts begin behind the chunks that an interrupted run has stored."""
    monkeypatch.setattr(sealing, "PART_SIZE", 2 * CHUNK)
    monkeypatch.setattr(sealing, "UNIT_SIZE", 2 * CHUNK)
    file = tmp_path / "large"
    file.write_bytes(os.urandom(9 * CHUNK))
    time.sleep(0.15)
    store, cache = tmp_path / "store", str(tmp_path / "cache")

    class Ended(Exception):
        pass

    class Breaks(ThreadPoolExecutor):
        units = 0

        def submit(self, act: Any, *arguments: Any, **more: Any) -> Future[Any]:
            self.units += 1
            if self.units == 5:  # when the first has been reported
                raise Ended
            return super().submit(act, *arguments, **more)

    words = {"chunk_size": CHUNK, "cache_directory": cache}
    with Breaks(1) as threads, pytest.raises(Ended):
        backup.create([str(file)], str(store), public(pair), executor=threads, **words)
    found = backup.create([str(file)], str(store), public(pair), executor=running.executor, **words)
    assert found.bytes_read == 7 * CHUNK
    assert_clean(store, private(pair))


def test_a_killed_worker_costs_nothing(tmp_path: Path, tree: Path, pair: Path) -> None:
    store = tree.parent / "store"
    with dask.cluster(tmp_path / "cluster") as made:
        result: list[backup.Summary] = []
        run = threading.Thread(target=lambda: result.append(create(tree, store, public(pair), made.executor)))
        run.start()
        _await(lambda: len(os.listdir(store / "data")) > 3 if (store / "data").exists() else False)
        os.kill(made.pids()[0], signal.SIGKILL)
        run.join(120)
        assert len(result) == 1, made.log("scheduler")
    alone = create(tree, tree.parent / "alone", public(pair))
    assert content(store, result[0].manifest, private(pair)) == content(
        tree.parent / "alone", alone.manifest, private(pair)
    )
    assert_clean(store, private(pair))


def _await(is_so: Callable[[], bool], seconds: float = 60.0) -> None:
    ends = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < ends
        time.sleep(0.005)


@pytest.mark.parametrize("killed", ["scheduler", "workers"])
def test_the_end_is_clear_and_a_second_run_completes(
    tmp_path: Path, tree: Path, pair: Path, running: Cluster, killed: str, pogfast: Runner
) -> None:
    store = tree.parent / "store"
    with dask.cluster(tmp_path / "cluster") as made:
        words = command(tree, store, pair, made.executor, "--worker-timeout", "3s")
        process = subprocess.Popen([sys.executable, "-m", "pogfast", *words], stderr=subprocess.PIPE, text=True)
        _await(lambda: len(os.listdir(store / "data")) > 3 if (store / "data").exists() else False)
        for victim in [made.scheduler] if killed == "scheduler" else made.workers:
            dask.kill(victim)
        _, said = process.communicate(timeout=120)
    assert process.returncode == 1, said
    assert "Traceback" not in said
    assert ("the connection to the scheduler is lost" if killed == "scheduler" else "no worker for 3 s") in said
    assert "run the same command again: it goes on where this one ended" in said
    ran = pogfast(*command(tree, store, pair, running.executor))
    assert ran.code == 0, ran.err
    assert_clean(store, private(pair))


# Run in a worker, perhaps twice.
POISON = """
import os, signal
from pogfast.cluster import worker
def poisoned(job, unit, seal=worker.seal):
    for piece in unit.pieces:
        if b"poison" in (piece if isinstance(piece, bytes) else piece.path):
            os.kill(os.getpid(), signal.SIGKILL)
    return seal(job, unit)
worker.seal = poisoned
"""


def test_a_file_that_kills_its_workers_is_named(tmp_path: Path, pair: Path) -> None:
    tree, store = tmp_path / "tree", tmp_path / "store"
    tree.mkdir()
    for number in range(30):
        (tree / f"{number:02}").write_bytes(os.urandom(1000))
    (tree / "15 poison").write_bytes(b"deadly")
    preload = tmp_path / "poison.py"
    preload.write_text(POISON)
    with dask.cluster(tmp_path / "cluster", workers=0) as made:
        made.start_worker(preload=preload)
        made.start_worker(preload=preload)
        words = [sys.executable, "-m", "pogfast", *command(tree, store, pair, made.executor)]
        ran = subprocess.run(words, capture_output=True, text=True, timeout=170)  # workers start a dozen times
    assert ran.returncode == 3, ran.stderr
    assert f"cannot read {tree}/15 poison: each worker that read it died" in ran.stderr
    [name] = [name for name in os.listdir(store) if name.endswith(".mfn")]
    entries, trailer = content(store, name, private(pair))
    assert len(entries) == 30
    assert list(trailer["unreadable"]) == [str(tree / "15 poison")]
    assert_clean(store, private(pair))


OTHER = """
from pogfast.cluster import units
units.RELEASE = "pogfast 0.1, zstd 1.4.0"
"""
NONE = """
import sys
class Without:
    def find_spec(self, name, path=None, target=None):
        if name.startswith("pogfast.cluster"):
            raise ModuleNotFoundError("No module named " + repr(name))
sys.meta_path.insert(0, Without())
"""


def test_a_worker_with_another_release_is_named_and_left_out(
    tmp_path: Path, tree: Path, pair: Path, pogfast: Runner
) -> None:
    """Also one from before there were units, which knows nothing of what it is sent."""
    with dask.cluster(tmp_path / "cluster", workers=1) as made:
        for name, text_of in (("other", OTHER), ("none", NONE)):
            preload = tmp_path / f"{name}.py"
            preload.write_text(text_of)
            made.start_worker(preload=preload)
        _await(lambda: all("Registered to" in made.log(f"worker{number}") for number in (2, 3)))
        ran = pogfast(*command(tree, tree.parent / "store", pair, made.executor))
    assert ran.code == 0, ran.err
    assert re.search(r"worker tcp://127.0.0.1:\d+ is left out: it has pogfast 0.1, zstd 1.4.0, not pogfast", ran.err)
    left_out = "is left out: it cannot import pogfast.cluster.worker: No module named 'pogfast.cluster'"
    assert left_out in ran.err
    assert_clean(tree.parent / "store", private(pair))


def test_nobody_can_do_it(tmp_path: Path, tree: Path, pair: Path, pogfast: Runner) -> None:
    preload = tmp_path / "other.py"
    preload.write_text(OTHER)
    with dask.cluster(tmp_path / "cluster", workers=0) as made:
        made.start_worker(preload=preload)
        ran = pogfast(*command(tree, tree.parent / "store", pair, made.executor, "--worker-timeout", "4s"))
    assert ran.code == 1
    assert "the only worker is left out" in ran.err


def test_a_worker_without_the_mount_is_left_out(tmp_path: Path, tree: Path, pair: Path, pogfast: Runner) -> None:
    """Of the source, or of the store: an empty directory in its place would take blobs that nobody finds again. And a
    worker that may only read the store."""
    apart = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"']
    read_only = [*apart[:4], 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"']
    if subprocess.run([*apart, str(tmp_path), "true"], capture_output=True).returncode:
        pytest.skip("no permission to mount")
    store = tmp_path / "stores" / "store"
    store.parent.mkdir()
    with dask.cluster(tmp_path / "cluster", workers=1) as made:
        made.start_worker(before=[*apart, str(tree)])
        made.start_worker(before=[*apart, str(store.parent)])
        made.start_worker(before=[*read_only, str(store.parent)])
        _await(lambda: all("Registered to" in made.log(f"worker{number}") for number in (2, 3, 4)))
        ran = pogfast(*command(tree, store, pair, made.executor))
    assert ran.code == 0, ran.err
    assert f"it sees something else at {tree}: is the same file system mounted there?" in ran.err
    assert f"it does not see the store {store}: is the same file system mounted there?" in ran.err
    assert f"it has no permission to write to {store}" in ran.err
    assert_clean(store, private(pair))


class Changing(Executor):
    """Does each unit at once, after it has changed a file."""

    def __init__(self, change: Callable[[int], None]) -> None:
        self.change = change
        self.units = 0

    def submit(self, act: Any, *arguments: Any, **more: Any) -> Future[Any]:  # type: ignore[override]
        self.units += 1
        self.change(self.units)
        future: Future[Any] = Future()
        try:
            future.set_result(act(*arguments, **more))
        except Exception as error:  # noqa: BLE001 (all of them are the future's)
            future.set_exception(error)
        return future


def test_parts_of_two_versions_are_not_mixed(tmp_path: Path, pair: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing, "PART_SIZE", 2 * CHUNK)
    monkeypatch.setattr(sealing, "UNIT_SIZE", 2 * CHUNK)
    file, store = tmp_path / "large", tmp_path / "store"
    file.write_bytes(os.urandom(5 * CHUNK + 1))

    def change(unit: int) -> None:
        if unit == 2:
            with open(file, "r+b") as opened:
                opened.write(b"another beginning")

    summary = create(file, store, public(pair), Changing(change))
    assert summary.problems == []
    [(_, (blobs, _, facts))], trailer = content(store, summary.manifest, private(pair))
    assert facts["size"] == sum(facts["sizes"]) == 5 * CHUNK + 1
    assert "changed" not in trailer
    alone = create(file, tmp_path / "alone", public(pair))
    [(_, (expected, _, _))], _ = content(tmp_path / "alone", alone.manifest, private(pair))
    assert blobs == expected


def test_a_source_that_always_changes_is_archived_as_it_was_read(
    tmp_path: Path, pair: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sealing, "PART_SIZE", 2 * CHUNK)
    monkeypatch.setattr(sealing, "UNIT_SIZE", 2 * CHUNK)
    file, store = tmp_path / "large", tmp_path / "store"
    file.write_bytes(os.urandom(5 * CHUNK + 1))

    def change(unit: int) -> None:
        with open(file, "ab") as opened:
            opened.write(b"more")

    summary = create(file, store, public(pair), Changing(change))
    assert summary.problems == []  # each unit read one version; the last pass reads the file as a whole
    assert_clean(store, private(pair))


def test_a_service_as_store(tree: Path, pair: Path, server: Any, tmp_path: Path) -> None:
    """Workers have credentials of their own; where the service is, the address says, to them as well."""
    with dask.cluster(tmp_path / "cluster", workers=0) as made, pytest.MonkeyPatch.context() as patch:
        for word, value in server.environment.items():
            patch.setenv(word, value)
        patch.delenv("POGFAST_S3_ENDPOINT")
        made.start_worker()
        boto3.client("s3", endpoint_url=server.url).create_bucket(Bucket="cluster")
        to = f"s3://cluster/store?endpoint={server.url}"
        summary = backup.create(
            [str(tree)], to, public(pair), executor=made.executor, chunk_size=CHUNK, cache_directory=""
        )
        checked = pogfast.check([to], private(pair), read_data=True)
        assert (checked.damage, checked.problems, summary.problems) == ([], [], [])
        assert summary.requests["put"] > 100
        reference = KeyReference.of(public(pair), "", writing=True)
        another = SealingJob("a job", to, "another.mfn.partial", reference, Settings(), ())
        assert worker.probe(another) == "it sees another store at s3://cluster/store: has it the same endpoint?"
        reference = KeyReference.of(private(pair), f"file:{pair}.decrypt", writing=False)
        assert "it sees another store" in worker.probe(OpeningJob("b", to, "another.mfn", reference, Settings(), ()))


def test_a_worker_with_two_jobs_keeps_each_ones_limit(running: Cluster, tmp_path: Path, pair: Path) -> None:
    """At the same time, and also when one of them has ended."""

    def rates() -> dict[str, float | None]:
        import gc

        from pogfast.cluster import limits

        gc.collect()
        found = {number: held.settings["limit_upload"] for number, held in limits._known.items()}
        return {number: limit.rate for number, limit in found.items() if limit is not None}

    store = tmp_path / "store"
    store.mkdir()
    (store / "mark").touch()
    reference = KeyReference.of(public(pair), "", writing=True)
    one, other = (
        SealingJob(
            number, str(store), "mark", reference, Settings(limit_upload=RateLimit(rate)), (), chunk_size=CHUNK, level=1
        )
        for number, rate in (("limits one", 1_000_000), ("limits other", 8_000_000))
    )
    connect: Any = distributed.Client
    with connect(running.address, set_as_default=False) as client:
        client.wait_for_workers(1)
        first = min(client.nthreads())

        def do(act: Callable[..., Any], *arguments: Any) -> Any:
            return client.submit(act, *arguments, workers=[first], pure=False).result(60)

        for job, share in ((one, 0.5), (other, 0.25), (one, 0.5)):
            assert isinstance(do(worker.seal, job, units.SealingUnit((), 0, share)), units.SealingResult)
        assert do(rates) == {"limits one": 500_000, "limits other": 2_000_000}
        do(worker.end, one)
        assert do(rates) == {"limits other": 2_000_000}
        do(worker.end, other)
        assert do(rates) == {}


def test_where_paths_begin(running: Cluster, tree: Path, pair: Path, pogfast: Runner) -> None:
    """Sources relative to a directory, and the working directory as the store: workers have another one."""
    store = tree.parent / "store"
    store.mkdir()
    (tree.parent / "list").write_bytes(b"small\nlarge\n")
    words = ["create", "-C", "../tree", "--files-from", "../list", "--to", ".", "--no-cache"]
    words += ["--encryption-keyfile", f"{pair}.encrypt", "--executor", running.executor]
    ran = pogfast(*words, cwd=store)
    assert ran.code == 0, ran.err
    assert_clean(store, private(pair))
    name = manifest_in(store)
    assert len(manifest.open((store / name).read_bytes(), private(pair), name).entries) == 1501


def test_a_comma_in_the_path_of_a_store(tree: Path, pair: Path) -> None:
    (tree.parent / "a,b").mkdir()
    with ThreadPoolExecutor(1) as threads, pytest.MonkeyPatch.context() as patch:
        patch.chdir(tree.parent / "a,b")
        with pytest.raises(UsageError, match="a,b/store: workers cannot be told of a store with a comma in its path"):
            create(tree, Path("store"), public(pair), threads)


def test_a_named_file_that_vanishes(tmp_path: Path, pair: Path) -> None:
    """It is what is not read, and no sign that a worker lacks a file system."""
    files = [tmp_path / "files" / name for name in ("a", "b", "c")]
    files[0].parent.mkdir()
    for file in files:
        file.write_bytes(os.urandom(10))
    vanishes = Changing(lambda unit: files[1].unlink(missing_ok=True))
    summary = backup.create(
        list(map(str, files)), str(tmp_path / "store"), public(pair), executor=vanishes, cache_directory=""
    )
    assert [problem.path for problem in summary.problems] == [str(files[1])]
    assert summary.files_new == 2


def test_what_workers_look_for(tmp_path: Path) -> None:
    """Directories; of very many not all."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    paths = [str(tmp_path / word) for word in ("a", "a/file", "b/file", "gone", "a/gone")]
    assert [source.path for source in sources_of(paths)] == [f"{tmp_path}/a", f"{tmp_path}/b"]
    many = [tmp_path / f"{number}" for number in range(units.MAX_SOURCES + 9)]
    for path in many:
        path.mkdir()
    found = sources_of([*map(str, many), "/proc"])
    assert len(found) == units.MAX_SOURCES + 1
    assert found[-1].path == "/proc", "the first of its file system"


def test_what_a_machine_lost_that_died_is_stored_again(tree: Path, pair: Path) -> None:
    """It may have lost power when its blobs had names and sizes on the disk, but no bytes yet."""
    store = tree.parent / "store"

    class Dies(Executor):
        units = 0

        def submit(self, act: Any, *arguments: Any, **more: Any) -> Future[Any]:  # type: ignore[override]
            done = act(*arguments)
            self.units += act is worker.seal
            if self.units == 4:
                raise RuntimeError("no answer")
            future: Future[Any] = Future()
            if act is not worker.seal:
                future.set_result(done)
            return future

    with pytest.raises(PogfastError, match="no answer"):
        create(tree, store, public(pair), Dies())
    blobs = [path for path in (store / "data").rglob("*") if path.is_file()]
    assert len(blobs) > 100
    for path in blobs[::10]:
        times = path.stat().st_atime_ns, path.stat().st_mtime_ns
        path.write_bytes(bytes(path.stat().st_size))
        os.utime(path, ns=times)
    with ThreadPoolExecutor(2) as threads:
        create(tree, store, public(pair), threads)
    assert_clean(store, private(pair))


def test_tls_asks_for_the_right_certificate(tmp_path: Path, tree: Path, pair: Path, pogfast: Runner) -> None:
    for name in ("ours", "theirs"):
        (tmp_path / name).mkdir()
    ours, theirs = Certificate.make(tmp_path / "ours"), Certificate.make(tmp_path / "theirs")

    def options(certificate: Certificate, ca: Certificate) -> list[str]:
        words = ["--cluster-ca", str(ca.cert), "--cluster-cert", str(certificate.cert)]
        return [*words, "--cluster-key", str(certificate.key)]

    store = tree.parent / "store"
    with dask.cluster(tmp_path / "cluster", workers=1, certificate=ours) as made:
        executor = f"dask:{made.address}"
        assert made.address.startswith("tls://")
        none = pogfast(*command(tree, store, pair, executor))
        assert none.code == 2
        assert "a scheduler at tls:// asks for a client's certificate" in none.err
        assert "give it with --cluster-ca and --cluster-cert and --cluster-key" in none.err
        for wrong in (options(theirs, ours), options(ours, theirs)):
            ran = pogfast(*command(tree, store, pair, executor, *wrong))
            assert ran.code == 1, ran.err
            assert "cannot reach the scheduler at tls://" in ran.err
        assert [name for name in os.listdir(store) if name.endswith(".mfn")] == [] if store.exists() else True
        right = pogfast(*command(tree, store, pair, executor, *options(ours, ours)))
        assert right.code == 0, right.err
    assert_clean(store, private(pair))


@pytest.mark.parametrize(
    ("executor", "said"),
    [
        ("ray:auto", "ray:auto is no executor"),
        ("dask:", "is no executor"),
        ("dask:127.0.0.1:8786", "is no scheduler's address"),
        ("dask:tcp://127.0.0.1", "is no scheduler's address"),
        ("dask:tcp://127.0.0.1:99999", "is no scheduler's address"),
        ("dask:tcp://127.0.0.1:8786/", "is no scheduler's address"),
        ("dask:tcp://127.0.0.1:1@example.com:8786", "whoever reaches it can run code on every worker"),
        ("dask:tcp://10.0.0.1:8786", "whoever reaches it can run code on every worker"),
        ("dask:tcp://127.0.0.1.example.com:8786", "whoever reaches it can run code on every worker"),
        ("dask:scheduler-file=/nowhere", "cannot read the scheduler's file"),
    ],
)
def test_what_is_no_executor(tmp_path: Path, pair: Path, pogfast: Runner, executor: str, said: str) -> None:
    (tmp_path / "tree").mkdir()
    ran = pogfast(*command(tmp_path / "tree", tmp_path / "store", pair, executor))
    assert ran.code in (1, 2)
    assert said in ran.err


@pytest.mark.parametrize(
    "words",
    [
        ["--worker-key", "file:/k"],
        ["--worker-timeout", "5m"],
        ["--cluster-ca", "ca.pem"],
        ["--cluster-cert", "cert.pem"],
        ["--cluster-key", "key.pem"],
        ["--insecure-cluster"],
    ],
)
def test_options_of_a_cluster_are_for_executors(tmp_path: Path, pair: Path, pogfast: Runner, words: list[str]) -> None:
    ran = pogfast("create", str(tmp_path), "--to", str(tmp_path), "--encryption-keyfile", f"{pair}.encrypt", *words)
    assert ran.code == 2
    assert f"{words[0]} is for work with --executor" in ran.err


def test_what_is_no_file_of_a_scheduler(tmp_path: Path, pair: Path) -> None:
    file = tmp_path / "file"
    os.mkfifo(file)
    with pytest.raises(UsageError, match="is no file of a Dask scheduler"):
        open_crew(f"dask:scheduler-file={file}", CrewOptions(), print)
    file.unlink()
    for written in (b"", b"\xff", b"[]", b"{}", b"null", b"[" * 100_000, b'{"address": "tcp://10.0.0.1:8786"}'):
        file.write_bytes(written)
        with pytest.raises(UsageError, match=r"is no file of a Dask scheduler|can run code on every worker"):
            open_crew(f"dask:scheduler-file={file}", CrewOptions(), print)
    file.write_bytes(b'{"address": {"a": 1}}')
    with pytest.raises(UsageError, match="is no scheduler's address"):
        open_crew(f"dask:scheduler-file={file}", CrewOptions(), print)


def test_no_scheduler_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask_crew, "CONNECT", 1.0)
    with pytest.raises(PogfastError, match=r"cannot reach the scheduler at tcp://127\.0\.0\.1:1"):
        open_crew("dask:tcp://127.0.0.1:1", CrewOptions(), print)


def test_what_cannot_be_sent(tmp_path: Path, pair: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with ThreadPoolExecutor(1) as threads:
        with pytest.raises(UsageError, match="a stream cannot be read by other machines"):
            backup.create([], str(tmp_path / "store"), public(pair), stdin_name="x", executor=threads)
        with pytest.raises(UsageError, match="workers must read the key themselves"):
            create(tmp_path / "file", tmp_path / "store", keys.from_password("secret"), threads)
        with pytest.raises(UsageError, match="--memory"):
            create(tmp_path / "file", tmp_path / "store", public(pair), threads, memory=1 << 30)
        with pytest.raises(UsageError, match=r"the executor is a dask\.distributed\.Client"):
            create(tmp_path / "file", tmp_path / "store", public(pair), object())
    threads.shutdown()
    with pytest.raises(PogfastError, match="the executor takes no more work"):
        create(tmp_path / "file", tmp_path / "store", public(pair), threads)


def test_what_is_another_file_each_time_is_named(tmp_path: Path, pair: Path) -> None:
    """Or workers see another file system than the coordinator: bytes of one file are not archived as another's."""
    (tmp_path / "tree").mkdir()
    file, store = tmp_path / "tree" / "file", tmp_path / "store"
    file.write_bytes(b"first")

    def change(unit: int) -> None:
        (tmp_path / "new").write_bytes(b"another %d" % unit)
        os.replace(tmp_path / "new", file)

    summary = create(tmp_path / "tree", store, public(pair), Changing(change))
    [problem] = summary.problems
    assert "changed while it was read, twice" in str(problem)
    _, trailer = content(store, summary.manifest, private(pair))
    assert trailer["changed"] == [str(file).lstrip("/")]


def test_one_of_two_stores_is_lost_on_the_way(tree: Path, pair: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The coordinator gives it up; the workers go on writing to both."""
    put_mark, marks = LocalStore.put_mark, 0

    def put(self: LocalStore, name: str, data: bytes) -> None:
        nonlocal marks
        marks += self.label.endswith("b")
        if marks > 1 and self.label.endswith("b"):
            raise StoreError("no room")
        put_mark(self, name, data)

    monkeypatch.setattr(LocalStore, "put_mark", put)
    monkeypatch.setattr(targets.Partial, "is_due", lambda self: True)
    a, b = tree.parent / "a", tree.parent / "b"
    with ThreadPoolExecutor(2) as threads, settings.using(packs=1 << 20):
        summary = create(tree, f"{a},{b}", public(pair), threads)  # type: ignore[arg-type]
    assert [str(problem) for problem in summary.problems] == [f"no room: the archive is not in {b}"]
    assert_clean(a, private(pair))


def test_cuts_by_content_need_the_key(running: Cluster, tree: Path, tmp_path: Path, pogfast: Runner) -> None:
    """The table of cuts, which comes from the key, does not travel."""
    key = tmp_path / "secret"
    key.write_bytes(os.urandom(100))
    words = ["create", str(tree), "--keyfile", str(key), "--no-cache", "--chunker", "fastcdc:1MB,4MB,16MB"]
    assert pogfast(*words, "--to", str(tmp_path / "all"), "--executor", running.executor).code == 0
    assert pogfast(*words, "--to", str(tmp_path / "one")).code == 0
    opened = keys.from_keyfile(str(key))
    found = [content(store, manifest_in(store), opened) for store in (tmp_path / "all", tmp_path / "one")]
    assert found[0] == found[1]
    job = SealingJob(
        "", "", "", KeyReference.of(opened, f"file:{key}", writing=True), Settings(), (), by_content=(1, 2)
    )
    for secret in (opened.secret, opened.gears(), key.read_bytes()):
        assert secret[:32] not in pickle.dumps(job)
        assert secret.hex()[:32] not in repr(job)

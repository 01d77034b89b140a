"""Stores with packs come through: killed runs, lost and lying index objects, and servers that do what they want."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import pytest

import pogfast
from kit.commands import Runner
from kit.faultproxy import Fault, Proxy
from kit.packed import (
    KEY,
    KEYFILE,
    archived,
    contents,
    create,
    damage,
    indexes_of,
    make_tree,
    packs_of,
    restored,
    rows_of,
)
from kit.packs import Listed, make_index, name_of, raw_of
from kit.servers import KEY as SERVER_KEY
from kit.servers import SECRET, Server
from pogfast.errors import PogfastError
from pogfast.stores.packs import layout

pytestmark = pytest.mark.usefixtures("index_files")

# Kills its own process after the so-many-th object whose path begins with a text, or right before the manifest.
DIES = """
import os, signal, sys
from pogfast.cli import main
from pogfast.stores.local import LocalStore

prefix, after = sys.argv.pop(1), int(sys.argv.pop(1))
put, publish = LocalStore.put_object, LocalStore.put_manifest

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def put_object(self, path, data, **more):
    global after
    put(self, path, data, **more)
    if path.startswith(prefix):
        after -= 1
        if not after:
            die()

def put_manifest(self, name, data):
    if prefix == "manifest":
        die()
    publish(self, name, data)

LocalStore.put_object, LocalStore.put_manifest = put_object, put_manifest
sys.exit(main())
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("POGFAST_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return make_tree(tmp_path / "tree")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


def assert_whole(tree: Path, store: Path | str, tmp_path: Path) -> None:
    summary = pogfast.check(str(store), KEY, read_data=True)
    assert (summary.exit_code, summary.damage) == (0, [])
    assert restored(store, tmp_path / "out") == archived(tree)


def assert_only_index_damaged(tree: Path, store: Path, tmp_path: Path) -> None:
    summary = pogfast.check(str(store), KEY, read_data=True)
    assert summary.exit_code == 4
    assert summary.damage
    assert all(str(found.pack).startswith("packs/index/") for found in summary.damage), summary.damage
    assert restored(store, tmp_path / "out") == archived(tree)


# ---- killed runs ----


@pytest.mark.parametrize(
    ("prefix", "after"), [("packs/2", 1), ("packs/2", 2), ("packs/index/", 1), ("manifest", 0)], ids=str
)
@pytest.mark.parametrize("is_first", [True, False], ids=["a new store", "the second archive"])
def test_what_a_killed_run_has_packed_is_used(
    tree: Path, store: Path, tmp_path: Path, prefix: str, after: int, is_first: bool
) -> None:
    (tmp_path / "key").write_bytes(KEYFILE)
    make_tree(tree / "more", 700, seed=5)
    if not is_first:
        create(tree / "d1", store, packs="1MiB")
    before, indexes = set(packs_of(store)), set(indexes_of(store))
    arguments = ["create", "tree", f"--to={store}", "--keyfile=key", "--packs=1MiB", "--no-cache"]
    killed = subprocess.run(
        [sys.executable, "-c", DIES, prefix, str(after), *arguments], cwd=tmp_path, check=False, capture_output=True
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    left = set(packs_of(store)) - before
    assert len(left) >= (after if prefix == "packs/2" else 3)
    assert bool(set(indexes_of(store)) - indexes) == (prefix in ("packs/index/", "manifest"))
    packed = sum(len(rows_of(pack)) for pack in left)

    summary = create(tree, store, no_cache=True)
    assert summary.blobs_known >= packed
    assert left <= set(packs_of(store))
    assert_whole(tree, store, tmp_path)
    covered = {pack.path for index in indexes_of(store) for pack in layout.read_header(index.read_bytes()).packs}
    assert covered == {str(pack.relative_to(store)) for pack in packs_of(store)}


# ---- index objects that are lost or lie ----


def test_without_index_objects_everything_comes_back(tree: Path, store: Path, tmp_path: Path, cache: Path) -> None:
    create(tree, store, packs="1MiB")
    assert len(packs_of(store)) > 1
    shutil.rmtree(store / "packs/index")
    assert_whole(tree, store, tmp_path)
    shutil.rmtree(cache)
    assert_whole(tree, store, tmp_path)
    again = create(tree, store, no_cache=True)
    assert (again.blobs_new, len(indexes_of(store))) == (0, 1)


Rows = list[tuple[bytes, int]]


def listed(store: Path) -> list[Listed]:
    """What a right index object says of the packs of a store."""
    found = []
    for pack in packs_of(store):
        rows = [(raw_of(row.name), row.size) for row in rows_of(pack)]
        found.append(Listed(raw_of(pack.name), pack.stat().st_size, rows, int(pack.parent.name.replace("-", ""))))
    return found


def replace_index(store: Path, data: bytes) -> None:
    for index in indexes_of(store):
        index.unlink()
    (store / "packs/index" / name_of(hashlib.sha256(data).digest())).write_bytes(data)


def beyond(packs: list[Listed]) -> bytes:
    first, *others = packs
    (name, size), *rows = first.rows
    return make_index([first._replace(rows=[(name, size + (1 << 20)), *rows]), *others])


def overlapping(packs: list[Listed]) -> bytes:
    data = bytearray(make_index(packs))
    rows = sum(len(pack.rows) for pack in packs)
    data[-8 * rows + 400 : -8 * rows + 404] = (7).to_bytes(4, "little")  # an offset
    return bytes(data)


def absent_pack(packs: list[Listed]) -> bytes:
    return make_index([*packs, packs[0]._replace(raw=bytes(32))])


def other_size(packs: list[Listed]) -> bytes:
    return make_index([packs[0]._replace(size=packs[0].size + 1), *packs[1:]])


def exchanged(packs: list[Listed]) -> bytes:
    first, *others = packs
    (one, size), (two, other), *rows = first.rows
    return make_index([first._replace(rows=[(two, size), (one, other), *rows]), *others])


def shifted(packs: list[Listed]) -> bytes:
    first, *others = packs
    (one, size), (two, other), *rows = first.rows
    return make_index([first._replace(rows=[(one, size - 1), (two, other + 1), *rows]), *others])


def test_an_index_may_name_a_pack_that_is_gone(tree: Path, store: Path, tmp_path: Path, cache: Path) -> None:
    create(tree, store, packs="1MiB")
    replace_index(store, absent_pack(listed(store)))
    shutil.rmtree(cache)
    assert_whole(tree, store, tmp_path)


@pytest.mark.parametrize("lie", [beyond, overlapping, other_size])
def test_an_index_that_can_be_seen_to_lie_harms_nothing(
    tree: Path, store: Path, tmp_path: Path, cache: Path, lie: Callable[[list[Listed]], bytes]
) -> None:
    create(tree, store, packs="1MiB")
    replace_index(store, lie(listed(store)))
    shutil.rmtree(cache)
    assert_only_index_damaged(tree, store, tmp_path)


def test_an_index_that_is_no_index_harms_nothing(tree: Path, store: Path, tmp_path: Path, cache: Path) -> None:
    create(tree, store, packs="1MiB")
    data = indexes_of(store)[0].read_bytes()
    for changed in (data[:-1], data[:100], b"", data + b"\0", os.urandom(len(data)), b"\0" * 40):
        replace_index(store, changed)
        shutil.rmtree(cache, ignore_errors=True)
        assert_only_index_damaged(tree, store, tmp_path)
    indexes_of(store)[0].write_bytes(data)  # a right one with another's name
    assert_only_index_damaged(tree, store, tmp_path)


@pytest.mark.parametrize("lie", [exchanged, shifted])
def test_an_index_that_names_other_bytes_never_gives_wrong_ones(
    tree: Path, store: Path, tmp_path: Path, cache: Path, pogfast: Runner, lie: Callable[[list[Listed]], bytes]
) -> None:
    (tmp_path / "key").write_bytes(KEYFILE)
    create(tree, store, packs="1MiB")
    replace_index(store, lie(listed(store)))
    shutil.rmtree(cache)
    ran = pogfast("restore", f"{store}/latest", "--into=out", "--keyfile=key")
    assert ran.code == 4, ran.err
    wanted = archived(tree)
    came = contents(tmp_path / "out")
    assert len(came) == len(wanted) - 2
    assert all(wanted[name] == data for name, data in came.items())
    assert pogfast("check", str(store), "--read-data", "--keyfile=key").code == 4


@pytest.mark.parametrize("other", ["a blob by itself", "another pack"])
@pytest.mark.parametrize("on_service", [False, True])
def test_of_several_copies_a_good_one_is_read(
    tree: Path, store: Path, tmp_path: Path, request: pytest.FixtureRequest, other: str, on_service: bool
) -> None:
    """What `create --force` stores again is found, wherever the damaged copies are."""
    create(tree, store, packs="1MiB")
    first = packs_of(store)[0]
    data = first.read_bytes()
    row = rows_of(first)[3]
    damage(first, row.offset + row.size // 2)
    assert pogfast.check(str(store), KEY, read_data=True).exit_code == 4
    if other == "another pack":
        create(tree, store, force=True, no_cache=True)
        os.utime(indexes_of(store)[0], (0, 0))
    else:
        plain = store / "data" / row.name[:2] / row.name
        plain.parent.mkdir(exist_ok=True)
        plain.write_bytes(data[row.offset : row.offset + row.size])
    if not on_service:
        assert_whole(tree, store, tmp_path)
        return
    bucket = request.getfixturevalue("bucket")
    upload(store, bucket)
    assert_whole(tree, bucket, tmp_path)


# ---- servers ----


@pytest.fixture
def bucket(server: Server, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr("pogfast.stores.remote.MAX_PAUSE", 0.001)
    for name, value in (server.environment | {"POGFAST_S3_ENDPOINT": proxy.url, "POGFAST_RETRY_FOR": "20"}).items():
        monkeypatch.setenv(name, value)
    name = f"bucket-{time.monotonic_ns()}"
    client_of(server.url).create_bucket(Bucket=name)
    return f"s3://{name}"


def client_of(url: str) -> Any:
    said = {"aws_access_key_id": SERVER_KEY, "aws_secret_access_key": SECRET, "region_name": "us-east-1"}
    return boto3.client("s3", endpoint_url=url, **said)


def upload(store: Path, bucket: str) -> None:
    client = client_of(os.environ["POGFAST_S3_ENDPOINT"])
    for path in filter(Path.is_file, sorted(store.rglob("*"), key=lambda path: path.stat().st_mtime)):
        client.put_object(Bucket=bucket.removeprefix("s3://"), Key=str(path.relative_to(store)), Body=path.read_bytes())


GET = "GET .*/packs/2"


@pytest.mark.parametrize(
    "fault",
    [
        Fault(GET, times=-1, whole=True),
        Fault(GET, times=2, headers={"Content-Range": "bytes 0-9/10"}),
        Fault(GET, times=3, status=503, code="SlowDown"),
        Fault(GET, times=3, cut_answer=70_000),
        Fault(GET, times=1, flip=100),
        Fault("GET .*/packs/index/", times=1, flip=100),
        Fault("GET .*/packs/index/", times=1, cut_answer=100),
        Fault("PUT .*/packs/", times=3, status=503, code="SlowDown"),
        Fault("PUT .*/packs/", times=2, lose_answer=True),
        Fault("PUT .*/packs/", times=2, cut_request=True),
    ],
    ids=[
        "no ranges",
        "another range",
        "503",
        "cut",
        "flipped",
        "index flipped",
        "index cut",
        "puts 503",
        "lost",
        "half",
    ],
)
def test_whatever_a_server_does_the_files_come_back(
    tree: Path, tmp_path: Path, bucket: str, proxy: Proxy, cache: Path, fault: Fault
) -> None:
    proxy.faults.append(fault)
    create(tree, bucket, packs="1MiB")
    shutil.rmtree(cache)
    assert restored(bucket, tmp_path / "out") == archived(tree)
    assert fault.times <= 0, "it has happened"
    proxy.faults.clear()
    summary = pogfast.check(bucket, KEY, read_data=True)
    assert (summary.exit_code, summary.damage) == (0, [])


def test_a_range_that_stays_wrong_is_an_error(tree: Path, bucket: str, proxy: Proxy, tmp_path: Path) -> None:
    create(tree, bucket, packs="1MiB")
    proxy.faults.append(Fault(GET, times=-1, headers={"Content-Range": "bytes 0-9/10"}))
    with pogfast.services(retry_for="0"):
        try:
            assert pogfast.restore(f"{bucket}/latest", KEY, into=str(tmp_path / "out")).problems
        except PogfastError as error:
            assert "but the service responded with" in str(error)
    wanted = archived(tree)
    assert all(wanted[name] == data for name, data in contents(tmp_path / "out").items())


# ---- requests ----


def test_few_requests_for_many_small_files(tmp_path: Path, bucket: str, proxy: Proxy) -> None:
    """20,000 files take two requests more than these: that many blobs are two packs instead of one."""
    tree = make_tree(tmp_path / "many", count=1500, size=4096)
    summary = create(tree, bucket, packs="yes")
    assert sum(summary.requests.values()) <= 18, summary.requests
    proxy.seen.clear()
    assert restored(bucket, tmp_path / "out") == archived(tree)
    assert len(proxy.seen) <= 18, proxy.seen


def test_a_dry_run_counts_requests_as_a_run_with_packs_makes_them(tree: Path, bucket: str) -> None:
    create(tree / "d1", bucket, packs="1MiB")
    planned = create(tree, bucket, dry_run=True).requests["put"]
    made = create(tree, bucket).requests["put"]
    assert made / 2 <= planned <= 2 * made


def test_a_command_opens_a_store_once_unless_it_asks_for_a_password(
    tree: Path, bucket: str, proxy: Proxy, pogfast: Runner
) -> None:
    create(tree / "d1", bucket, packs="1MiB")
    (tree / "key").write_bytes(KEYFILE)
    for words in (["list"], ["stats"], ["prune", "--keep-all"], ["undelete"]):
        proxy.seen.clear()
        assert pogfast(words[0], bucket, *words[1:], "--keyfile", str(tree / "key")).code == 0
        assert proxy.count("GET .*pogfast.store") == 1, words


def test_a_prune_that_repacks_takes_few_requests(tmp_path: Path, bucket: str, proxy: Proxy) -> None:
    tree = make_tree(tmp_path / "tree", count=300, size=4096)
    for _ in range(4):
        create(tree, bucket, packs="yes")
        for path in sorted(tree.rglob("*"))[::3]:
            if path.is_file():
                path.write_bytes(os.urandom(4096))
    create(tree, bucket, packs="yes")
    proxy.seen.clear()
    done = pogfast.prune(bucket, KEY, keep_last=1, group_by=(), grace=0, max_unused=0, dry_run=False)
    assert (done.removed, bool(done.packs), bool(done.repacked.packs)) == (4, True, True)
    # A list is written until it is newer than what it names, by a clock of whole seconds.
    made = [request for request, *_ in proxy.seen if "condemned" not in request]
    assert len(made) <= 46, made
    packs = [request for request, *_ in proxy.seen if request.startswith("GET") and "/packs/2" in request]
    assert len(packs) <= done.packs + done.repacked.packs + 1, "tables, blobs, and what is relied on from then on"
    manifests = [request for request, *_ in proxy.seen if request.startswith("GET") and ".mfn" in request]
    assert len(manifests) == len(set(manifests)) == 5
    assert restored(bucket, tmp_path / "out") == archived(tree)


def test_a_prune_removes_archives_together(tmp_path: Path, bucket: str, proxy: Proxy) -> None:
    tree = make_tree(tmp_path / "tree", count=1)
    for _ in range(5):
        create(tree, bucket)
    proxy.seen.clear()
    assert pogfast.prune(bucket, KEY, keep_last=1, group_by=(), dry_run=False).removed == 4
    assert proxy.count("^PUT .*mfn.removed") == 4
    assert proxy.count("^POST .*delete") == 2, "of manifests, and of a mark"
    assert pogfast.undelete(bucket, KEY, everything=True)


def test_a_run_without_packs_says_what_they_would_have_saved(
    tree: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pogfast.stores.remote.MANY_SMALL", 100)
    [advice] = create(tree, f"{bucket}/plain").advice
    assert "301 small blobs took a request each" in advice
    assert "about 2" in advice
    assert create(tree, f"{bucket}/packed", packs="yes").advice == []
    assert create(tree, f"{bucket}/plain").advice == []


def test_stats_and_doctor_count_packs(tree: Path, store: Path) -> None:
    create(tree, store, packs="1MiB")
    create(tree, store, packs="1MiB", force=True)
    found = pogfast.stats(str(store), KEY)
    assert (found.packs, found.index_objects) == (len(packs_of(store)), len(indexes_of(store)))
    assert found.packed == sum(path.stat().st_size for path in packs_of(store))
    assert found.packed / 2 <= found.wasted < found.packed * 0.6
    indexes_of(store)[0].unlink()
    said = [f"{finding.what} {finding.state}" for finding in pogfast.doctor(str(store))]
    assert said.count("packs good") == said.count("packs note") == 1

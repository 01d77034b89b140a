"""`check` of stores with packs, without a key and with one, and what `--repair` mends."""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
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
    create,
    damage,
    indexes_of,
    make_tree,
    make_unreadable,
    packs_of,
    restored,
    rows_of,
)
from kit.packs import Listed, make_index, name_of, raw_of, sha256
from kit.servers import Server
from pogfast.errors import StoreError
from pogfast.stores.local import LocalStore
from pogfast.stores.packs.scrubbing import Scrub
from pogfast.upkeep import reads, scrubbing

pytestmark = pytest.mark.usefixtures("index_objects")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("POGFAST_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "key").write_bytes(KEYFILE)
    return tmp_path / "cache"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return make_tree(tmp_path / "tree", 350)


@pytest.fixture
def store(tmp_path: Path, tree: Path) -> Path:
    create(tree, tmp_path / "store", packs="1MiB")
    assert len(packs_of(tmp_path / "store")) == 2
    return tmp_path / "store"


def prune(store: Path, **words: Any) -> None:
    pogfast.prune(str(store), KEY, **words)


def check_(store: Path) -> pogfast.upkeep.checking.Summary:
    return pogfast.check(str(store), KEY, read_data=True)


def checked(store: Path, **more: object) -> tuple[int, int, int]:
    """The exit code without a key, and how much damage was found, and packs."""
    summary = pogfast.check(str(store), None, **more)
    return summary.exit_code, len(summary.damage), summary.packs


def test_a_good_store_is_good_without_a_key(store: Path, pogfast: Runner) -> None:
    assert checked(store) == (0, 0, 2)
    assert checked(store, read_data=True) == (0, 0, 2)
    ran = pogfast("check", "store", "--read-data", "--json")
    assert ran.code == 0, ran.err
    summary = json.loads(ran.lines[-1])
    assert (summary["packs"], summary["packs_read"], summary["index_objects"]) == (2, 2, 1)
    assert summary["bytes_read"] == sum(pack.stat().st_size for pack in packs_of(store))
    assert pogfast("check", "store", "--read-data", "--keyfile=key").code == 0


def test_a_flipped_bit_is_found_without_a_key(store: Path, pogfast: Runner) -> None:
    pack = packs_of(store)[1]
    row = rows_of(pack)[5]
    damage(pack, row.offset + 1)
    assert checked(store) == (0, 0, 2)
    assert checked(store, read_data=True) == (4, 1, 2)
    ran = pogfast("check", "store", "--read-data", "--json")
    assert ran.code == 4
    [error] = [found for found in map(json.loads, ran.lines) if found["message_type"] == "error"]
    assert (error["blob"], error["pack"], error["archive"]) == (row.name, str(pack.relative_to(store)), None)
    assert row.name in pogfast("check", "store", "--read-data").err


@pytest.mark.parametrize("key", [KEY, None], ids=["with the key", "without a key"])
@pytest.mark.parametrize("at", [-1, -40, -100])
def test_a_damaged_table_is_found_and_mended(store: Path, cache: Path, at: int, key: Any) -> None:
    """The name of the pack proves that it is as it was."""
    pack = packs_of(store)[0]
    good = pack.read_bytes()
    damage(pack, len(good) + at)
    assert checked(store)[0] == 4
    found = pogfast.check(str(store), KEY, read_data=True)
    assert found.exit_code == 4
    assert any("--repair" in damage.error for damage in found.damage)
    assert pogfast.check(str(store), key, repair=True).exit_code == 0
    assert pack.read_bytes() == good
    assert pogfast.check(str(store), KEY, read_data=True).exit_code == 0


@pytest.mark.parametrize("harm", ["a blob as well", "in no index object"])
def test_a_damaged_table_that_nothing_tells_is_not_mended(store: Path, cache: Path, pogfast: Runner, harm: str) -> None:
    pack = packs_of(store)[0]
    if harm == "a blob as well":
        damage(pack, 100)
    else:
        shutil.rmtree(store / "packs" / "index")
        shutil.rmtree(cache, ignore_errors=True)
    damage(pack, pack.stat().st_size - 100)
    bad = pack.read_bytes()
    ran = pogfast("check", "store", "--repair")
    way = "`prune` then deletes the pack" if harm == "a blob as well" else "delete the pack; else"
    assert (ran.code, way in ran.err) == (4, True), ran.err
    assert pack.read_bytes() == bad


def test_a_prune_deletes_a_damaged_pack_whose_blobs_are_stored_again(store: Path, tree: Path, pogfast: Runner) -> None:
    pack = packs_of(store)[0]
    damage(pack, 100)
    damage(pack, pack.stat().st_size - 100)
    words: dict[str, Any] = {"keep_last": 1, "group_by": (), "grace": 0, "dry_run": False}
    prune(store, **words)
    assert pack.exists(), "needed blobs are only in it"
    create(tree, store, force=True)
    prune(store, **words)
    assert not pack.exists()
    assert check_(store).exit_code == 0
    assert restored(store, store.parent / "out") == archived(tree)


def test_a_prune_keeps_a_damaged_pack_that_may_be_intact(
    store: Path, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It cannot be read where the table is: on another day, or from another machine, it may be."""
    pack = packs_of(store)[0]
    create(tree, store, force=True)
    with monkeypatch.context() as bad:
        make_unreadable(bad, pack, pack.stat().st_size - 100)
        prune(store, keep_last=1, group_by=(), grace=0, dry_run=False)
    assert pack.exists()


@pytest.mark.parametrize("is_covered", [True, False])
def test_a_pack_on_a_bad_sector_is_found(store: Path, monkeypatch: pytest.MonkeyPatch, is_covered: bool) -> None:
    """What an index object says of it is compared with nothing else."""
    if not is_covered:
        shutil.rmtree(store / "packs" / "index")
    pack = packs_of(store)[0]
    make_unreadable(monkeypatch, pack, pack.stat().st_size - 1)
    summary = pogfast.check(str(store), None, read_data=True)
    assert summary.exit_code == 4
    assert {damage.pack for damage in summary.damage} >= {str(pack.relative_to(store))}


def test_a_pack_whose_blobs_are_on_a_bad_sector_is_found(
    store: Path, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is forbidden is no damage, and keeps nobody from checking the others."""
    one, other = packs_of(store)
    damage(other, 1)
    with monkeypatch.context() as bad:
        make_unreadable(bad, one, 5000)
        summary = pogfast.check(str(store), None, read_data=True)
        assert (summary.exit_code, len(summary.damage), summary.problems) == (4, 2, [])
        assert "Input/output error" in " ".join(damage.error for damage in summary.damage)
    make_unreadable(monkeypatch, one, 5000, errno.EACCES)
    summary = pogfast.check(str(store), None, read_data=True)
    assert (summary.exit_code, len(summary.damage)) == (4, 1)
    assert [one.name in str(problem) for problem in summary.problems] == [True]


@pytest.fixture
def bucket(server: Server, proxy: Proxy, tree: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A store of two packs, which the proxy leads to."""
    for name, value in (server.environment | {"POGFAST_S3_ENDPOINT": proxy.url, "POGFAST_RETRY_FOR": "0"}).items():
        monkeypatch.setenv(name, value)
    name = f"bucket-{time.monotonic_ns()}"
    said = {"aws_access_key_id": server.key, "aws_secret_access_key": server.secret, "region_name": "us-east-1"}
    boto3.client("s3", endpoint_url=server.url, **said).create_bucket(Bucket=name)
    create(tree, f"s3://{name}", packs="1MiB")
    return f"s3://{name}"


def test_packs_that_could_not_be_read_are_not_called_intact(bucket: str, proxy: Proxy, pogfast: Runner) -> None:
    ran = pogfast("check", bucket)
    assert (ran.code, "no damage found in packs;" in ran.err) == (0, True)
    proxy.faults = [Fault("GET .*/packs/2", times=-1, status=403, code="AccessDenied")]
    ran = pogfast("check", bucket)
    assert ran.code == 1
    assert "no damage found in packs" not in ran.err
    assert "no damage found in what could be read" in ran.err


def test_a_service_that_is_down_is_reported_once(bucket: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    choose = scrubbing.choose

    def choose_then(*words: Any) -> Any:
        proxy.faults = [Fault("", times=-1, status=503)]
        return choose(*words)

    monkeypatch.setattr(scrubbing, "choose", choose_then)
    with pytest.raises(StoreError, match="busy"):
        pogfast.check(bucket, None, read_data=True)


def test_a_pack_that_is_cut_short_is_found(store: Path) -> None:
    pack = packs_of(store)[0]
    os.truncate(pack, pack.stat().st_size - 1)
    assert checked(store)[0] == 4
    assert pogfast.check(str(store), KEY).exit_code == 4


def test_packs_in_no_index_are_a_note(store: Path, tree: Path, tmp_path: Path, pogfast: Runner) -> None:
    shutil.rmtree(store / "packs/index")
    ran = pogfast("check", "store")
    assert (ran.code, "2 packs in no index object" in ran.err) == (0, True)
    assert pogfast("check", "store", "--repair").code == 0
    assert len(indexes_of(store)) == 1
    assert "no index object" not in pogfast("check", "store").err
    assert restored(store, tmp_path / "out") == archived(tree)


def exchanged(store: Path) -> bytes:
    """An index object in which two blobs are at each other's place."""
    packs = []
    for pack in packs_of(store):
        rows = [(raw_of(row.name), row.size) for row in rows_of(pack)]
        packs.append(Listed(raw_of(pack.name), pack.stat().st_size, rows, int(pack.parent.name.replace("-", ""))))
    (one, size), (two, other), *rows = packs[0].rows
    return make_index([packs[0]._replace(rows=[(two, size), (one, other), *rows]), *packs[1:]])


@pytest.mark.parametrize("lie", ["exchanged", "malformed", "renamed", "another size"])
def test_a_wrong_index_is_found_and_mended(
    store: Path, tree: Path, tmp_path: Path, cache: Path, pogfast: Runner, lie: str
) -> None:
    [index] = indexes_of(store)
    data = index.read_bytes()
    if lie == "exchanged":
        data = exchanged(store)
    elif lie == "malformed":
        data = data[:-5]
    elif lie == "another size":
        data = data[:64] + (int.from_bytes(data[64:72], "little") + 1).to_bytes(8, "little") + data[72:]
    index.unlink()
    name = sha256(data) if lie != "renamed" else bytes(32)
    (store / "packs/index" / name_of(name)).write_bytes(data)
    shutil.rmtree(cache, ignore_errors=True)
    for more in ([], ["--keyfile=key", "--read-data"]):
        assert pogfast("check", "store", *more).code == 4
    ran = pogfast("check", "store", "--repair")
    assert (ran.code, "mended" in ran.err) == (0, True), ran.err
    assert len(indexes_of(store)) == 2, "the wrong one is superseded, and goes with a prune"
    again = pogfast("check", "store", "--read-data", "--keyfile=key")
    assert (again.code, "wrong" in again.err) == (0, False), again.err
    assert restored(store, tmp_path / "out") == archived(tree)


def test_packs_without_pogfast_store(store: Path, tree: Path, tmp_path: Path, pogfast: Runner) -> None:
    """Everything is read from them, and check, unpack and doctor say what is missing."""
    (store / "pogfast.store").unlink()
    assert restored(store, tmp_path / "before") == archived(tree)
    assert b"pogfast.store is missing" in pogfast("doctor", "store").out
    assert pogfast("check", "store").code == 4
    assert pogfast("check", "store", "--keyfile=key").code == 4
    assert pogfast("check", "store", "--repair").code == 0
    assert b"missing" not in pogfast("doctor", "store").out
    assert pogfast("check", "store", "--keyfile=key", "--read-data").code == 0
    assert restored(store, tmp_path / "out") == archived(tree)


def test_a_plain_store_needs_a_key(tree: Path, tmp_path: Path, pogfast: Runner) -> None:
    create(tree, tmp_path / "plain")
    with_key = pogfast("check", "plain", "--keyfile=key", "--repair")
    assert (with_key.code, "no packs" in with_key.err) == (2, True)
    ran = pogfast("check", "plain")
    assert ran.code
    assert len(ran.err.splitlines()) <= 2


def test_the_longest_unread_packs_come_first(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [pack.stat().st_size for pack in packs_of(store)]
    read: list[str] = []
    look = Scrub._look
    monkeypatch.setattr(Scrub, "_look", lambda self, pack: read.append(pack.name) or look(self, pack))
    for number in range(4):
        monkeypatch.setattr(reads, "now", lambda number=number: 1e9 + number)
        assert pogfast.check(str(store), None, read_data_subset=str(max(sizes))).read == 1
    assert read[0] != read[1]
    assert read[2:] == read[:2]
    parts = [pogfast.check(str(store), None, read_data_subset=f"{part}/3").read for part in (1, 2, 3)]
    assert sum(parts) == 2
    assert pogfast.check(str(store), None, read_data_subset="1%").read == 1


def test_a_check_with_a_key_reads_no_tables_unless_it_reads_data(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    read_range = LocalStore.read_range

    def counted(self: LocalStore, path: str, start: int, size: int) -> object:
        read.append(path)
        return read_range(self, path, start, size)

    monkeypatch.setattr(LocalStore, "read_range", counted)
    assert pogfast.check(str(store), KEY).exit_code == 0
    assert read == []
    assert pogfast.check(str(store), KEY, repair=True).exit_code == 0
    assert len(read) == 2


def test_a_pack_on_a_bad_sector_ends_nothing(
    store: Path, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is in no index object, and what is at its end cannot be read: its blobs are stored again."""
    bad = packs_of(store)[0]
    make_unreadable(monkeypatch, bad, bad.stat().st_size - 1)
    shutil.rmtree(store / "packs/index")
    summary = pogfast.check(str(store), None)
    assert [found.pack for found in summary.damage] == [str(bad.relative_to(store))]
    assert summary.packs == 1
    assert create(tree, store, packs="1MiB", no_cache=True).blobs_new == len(rows_of(bad))
    assert restored(store, tmp_path / "out") == archived(tree)
    assert pogfast.prune(str(store), KEY, keep_last=1, grace=0, dry_run=False).problems == []
    assert bad.exists()


def test_packs_that_are_gone_are_counted(store: Path, pogfast: Runner) -> None:
    """A prune leaves their names in index objects, so it is no damage without a key."""
    assert b"not there" not in pogfast("check", "store").out
    packs_of(store)[0].unlink()
    ran = pogfast("check", "store", "--json")
    assert (ran.code, json.loads(ran.lines[-1])["packs_absent"]) == (0, 1)
    assert "1 pack of index objects not there" in pogfast("check", "store").err
    assert pogfast("check", "store", "--keyfile=key").code == 4


def test_packs_are_not_switched_off_by_a_size(pogfast: Runner) -> None:
    for word in ("no", "0", "off"):
        ran = pogfast("create", "tree", "--to=other", f"--packs={word}", "--keyfile=key")
        assert (ran.code, "pogfast unpack" in ran.err) == (2, True), ran.err

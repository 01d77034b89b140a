"""What a store remembers of checks: which parts were read when, across machines, clocks, damage and forgery."""

from __future__ import annotations

import hashlib
import json
import os
import random
import time
from array import array
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pogfast
from kit.built import CHUNK, KEY, Built
from kit.commands import Runner
from kit.files import flip, text
from kit.packed import KEY as PACKED_KEY
from kit.packed import create, make_tree, packs_of
from kit.servers import Server
from pogfast import keys
from pogfast._engine import secretbox, secretbox_open
from pogfast.errors import UsageError, WrongKey
from pogfast.stores import open_store
from pogfast.stores.local import LocalStore
from pogfast.upkeep import checking, reads
from pogfast.upkeep.reads import SHARES, Reads, share_of

DAY = 86400
NOON = 1_790_000_000  # seconds since 1970


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("POGFAST_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Clock:
    """The clock of the machine that checks."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = float(NOON)
        monkeypatch.setattr(reads, "now", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def built(tmp_path: Path) -> Built:
    made = Built(tmp_path / "store")
    made.add("f", text(60 * CHUNK))
    made.seal("2026-01-02T03:04:05.000000.mfn", {"host": "h"})
    return made


def tables(store: Path) -> list[Path]:
    return sorted(store.glob("verified.*"))


def forget_cache(cache: Path) -> None:
    """Makes this another machine."""
    for path in cache.glob("*.verified"):
        path.unlink()


def checked(store: Path, part: str | None = None, **more: Any) -> checking.Summary:
    return pogfast.check(str(store), KEY, read_data_subset=part, **more)


def times_of(store: Path, key: keys.Key | None = KEY) -> list[int]:
    with_store = open_store(str(store))
    try:
        return list(Reads(with_store, key).times)
    finally:
        with_store.close()


def when(share: float, seconds: float | None) -> tuple[float, datetime | None]:
    return pytest.approx(share), None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def test_a_share_is_a_folder_of_a_directory() -> None:
    names = [f"{first}{second}{'-' * 41}=" for first in reads.LETTERS for second in reads.LETTERS]
    assert sorted(map(share_of, names)) == list(range(SHARES)) == sorted(range(4096))
    assert share_of(f"packs/2026-01-31/{names[77]}") == 77


# ---- what is read first, and what counts -----------------------------------------------------------------------------


def test_what_was_not_read_for_the_longest_time_is_read_first(
    built: Built, clock: Clock, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four machines read a quarter each, and a fifth what the first has read."""
    read: list[set[str]] = []
    judge = checking._Check._judge

    def judged(self: Any, unit: Any, opened: Any) -> None:
        read[-1].update(unit.blobs)
        judge(self, unit, opened)

    monkeypatch.setattr(checking._Check, "_judge", judged)
    for _ in range(5):
        read.append(set())
        assert checked(built.path, "25%").exit_code == 0
        clock.now += DAY
        forget_cache(cache)
    names = {path.name for path in built.path.glob("data/*/*")}
    assert len(names) == 60
    assert set.union(*read[:4]) == names
    assert sum(map(len, read[:4])) < 60 + 4 * 3, "a share may have more than one of them"
    assert len(read[4] & read[0]) >= 14
    assert len(tables(built.path)) == 1


def test_only_shares_count_of_which_everything_was_read_and_good(built: Built, clock: Clock, cache: Path) -> None:
    blobs = sorted(path.name for path in built.path.glob("data/*/*"))
    flip(built.blob(blobs[3]), -1)
    built.blob(blobs[5]).unlink()
    bad = {share_of(blobs[3]), share_of(blobs[5])}
    assert checked(built.path, read_data=True).exit_code == 4
    assert {share for share, read in enumerate(times_of(built.path)) if read != NOON} == bad
    forget_cache(cache)
    summary = checked(built.path, "1%")
    assert {damage.blob for damage in summary.damage} == {blobs[3], blobs[5]}, "read first"


def test_what_is_read_of_one_archive_is_not_remembered(built: Built, clock: Clock) -> None:
    pogfast.check(f"{built.path}/latest", KEY, read_data=True)
    pogfast.check(str(built.path), KEY, read_data=True, host="h")
    pogfast.check(str(built.path), KEY)
    assert tables(built.path) == []
    pogfast.check([f"{built.path}/latest", str(built.path)], KEY, read_data=True)
    assert times_of(built.path) == [NOON] * SHARES


def test_nothing_is_remembered_if_an_archive_does_not_say_what_it_needs(built: Built, clock: Clock) -> None:
    built.add("g", text(CHUNK))
    flip(Path(built.seal("b.mfn")), -1)
    summary = checked(built.path, read_data=True)
    assert summary.exit_code == 4
    assert tables(built.path) == []
    (built.path / "b.mfn").unlink()
    (built.path / "c.mfn").write_bytes(b"of another key" * 30)
    assert checked(built.path, read_data=True).exit_code == 3
    assert times_of(built.path) == [NOON] * SHARES, "of all that this key opens"


def test_parts_make_the_whole(built: Built, clock: Clock) -> None:
    for part in range(1, 4):
        assert set(times_of(built.path)) != {NOON}
        checked(built.path, f"{part}/3")
    assert times_of(built.path) == [NOON] * SHARES


def test_a_part_smaller_than_a_share_is_read_at_random(built: Built, clock: Clock, monkeypatch: Any) -> None:
    monkeypatch.setattr(reads, "share_of", lambda name: 7)
    summary = checked(built.path, str(5 * (CHUNK + 500)))
    assert 5 <= summary.read < 60
    assert times_of(built.path)[7] == 0


def test_what_was_read_before_an_interruption_is_remembered(built: Built, clock: Clock, monkeypatch: Any) -> None:
    judge, count = checking._Check._judge, 0

    def judged(self: Any, unit: Any, opened: Any) -> None:
        nonlocal count
        count += 1
        if count > 30:
            raise KeyboardInterrupt
        judge(self, unit, opened)

    monkeypatch.setattr(checking._Check, "_judge", judged)
    with pytest.raises(KeyboardInterrupt):
        checked(built.path, read_data=True)
    full = {share_of(path.name) for path in built.path.glob("data/*/*")}
    done = [share for share in full if times_of(built.path)[share] == NOON]
    assert 20 < len(done) <= 30


def test_a_store_that_cannot_be_written_to(built: Built, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was read is remembered on this machine."""

    def put_mark(self: LocalStore, name: str, data: bytes) -> None:
        raise pogfast.errors.StoreError("cannot write: read-only file system")

    class Heard(checking.Report):
        def warning(self, text: str) -> None:
            warned.append(text)

    warned: list[str] = []
    monkeypatch.setattr(LocalStore, "put_mark", put_mark)
    assert checked(built.path, read_data=True, report=Heard()).exit_code == 0
    assert warned == ["cannot write: read-only file system: what was read is remembered on this machine only"]
    assert tables(built.path) == []
    assert times_of(built.path) == [NOON] * SHARES


def test_nothing_is_left_in_a_working_directory_of_pog(
    tmp_path: Path, clock: Clock, pog: Runner, pogfast: Runner
) -> None:
    (tmp_path / "flat").mkdir()
    (tmp_path / "key").write_bytes(b"key")
    assert pog("--keyfile=../key", "../key", cwd=tmp_path / "flat").code == 0
    there = sorted(os.listdir(tmp_path / "flat"))
    for words, code in (([], 3), (["--read-data"], 0), ([], 0)):
        assert pogfast("check", "flat", "--keyfile=key", "--max-age=1h", *words).code == code
    assert sorted(os.listdir(tmp_path / "flat")) == there


# ---- what others have written ----------------------------------------------------------------------------------------


def box_of(times: list[int], key: keys.Key = KEY) -> bytes:
    """A table as FORMAT.md says, without the module."""
    secret = key.private if key.private is not None else key.secret
    sealing = hashlib.blake2b(b"verified", key=secret, digest_size=32, person=b"pogfast derive").digest()
    return secretbox(sealing, b"pogread1" + b"".join(each.to_bytes(4, "little") for each in times))


def test_the_bytes_are_those_of_the_format(built: Built, clock: Clock) -> None:
    checked(built.path, read_data=True)
    [table] = tables(built.path)
    sealing = hashlib.blake2b(b"verified", key=KEY.secret, digest_size=32, person=b"pogfast derive").digest()
    plain = secretbox_open(sealing, table.read_bytes())
    assert plain == b"pogread1" + NOON.to_bytes(4, "little") * 4096
    times = [NOON - share for share in range(SHARES)]
    (built.path / "verified.blobs-other").write_bytes(box_of(times))
    table.unlink()
    assert times_of(built.path, keys.Key("keyfile", b"x" * 32))[1] == 0, "of another key"


def test_times_of_the_future_are_ignored(built: Built, clock: Clock, cache: Path) -> None:
    """One clock may be a little ahead of another."""
    for said, known in ((NOON + 30 * DAY, 0), (2**32 - 1, 0), (NOON + 3600, NOON), (NOON - 5, NOON - 5)):
        (built.path / "verified.blobs-other").write_bytes(box_of([said] * SHARES))
        assert times_of(built.path) == [known] * SHARES
    (built.path / "verified.blobs-later").write_bytes(box_of([NOON + 30 * DAY] * SHARES))
    assert times_of(built.path) == [NOON - 5] * SHARES, "and what else is known is not lost"


def test_forged_and_broken_tables_are_ignored(built: Built, clock: Clock, tmp_path: Path) -> None:
    good = box_of([NOON] * SHARES)
    pair = [Path(each) for each in pogfast.keygen(str(tmp_path / "pair"))]
    private, public = pogfast.open_key(decryption_keyfile=pair[1]), pogfast.open_key(encryption_keyfile=pair[0])
    for forged in (b"", good[:-1], good + b"x", good[:100] + b"?" + good[101:], b"\0" * len(good)):
        (built.path / "verified.blobs-other").write_bytes(forged)
        assert times_of(built.path) == [0] * SHARES
        checked(built.path, "5%")
        assert (built.path / "verified.blobs-other").exists(), "what cannot be read is left alone"
        for table in tables(built.path):
            table.unlink()
        forget_cache(tmp_path / "cache")
    (built.path / "verified.blobs-other").write_bytes(box_of([NOON] * SHARES, public))
    assert times_of(built.path, private) == [0] * SHARES, "the public key is not enough to write one"
    (built.path / "verified.blobs-other").write_bytes(box_of([NOON] * SHARES, private))
    assert times_of(built.path, private) == [NOON] * SHARES
    with pytest.raises(WrongKey):
        pogfast.last_reads(built.path, public)
    (built.path / "verified.blobs-fifo").symlink_to("/dev/zero")
    (built.path / "verified.blobs-directory").mkdir()
    assert times_of(built.path, private) == [NOON] * SHARES


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["look", "read"]), st.integers(0, 9)), max_size=30))
def test_machines_that_check_at_the_same_time_lose_nothing(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, str, int]]
) -> None:
    """Each looks, and some time later adds what it has read; between these the others do."""
    path = tmp_path_factory.mktemp("store")
    (path / "data").mkdir()
    names = [f"{letter}A{'-' * 41}=" for letter in "ABCDEFGHIJ"]
    stores, looked = [open_store(str(path)) for _ in range(3)], {}
    now, latest = [NOON], dict.fromkeys(names, 0)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.delenv("POGFAST_CACHE_DIR")
        monkeypatch.setattr(reads, "cache_directory", lambda: "")
        monkeypatch.setattr(reads, "now", lambda: now[0])
        for machine, what, number in steps:
            now[0] += 1
            if what == "look":
                looked[machine] = Reads(stores[machine], KEY)
            elif machine in looked:
                mine = looked.pop(machine)
                with mine.remembered(names):
                    mine.good(names[number])
                latest[names[number]] = max(latest[names[number]], mine.began)
            found = Reads(stores[0], KEY).times
            assert {name: found[share_of(name)] for name in names} == latest
        assert len(tables(path)) <= 3
        with Reads(stores[0], KEY).remembered(names):
            pass
        assert len(tables(path)) == 1
    for store in stores:
        store.close()


def test_many_tables_are_not_all_read(built: Built, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(130):
        table = built.path / f"verified.blobs-{number}"
        table.write_bytes(box_of([NOON - 1000 + number] * SHARES))
        os.utime(table, (number, number))
    fetched: list[str] = []
    get_manifest = LocalStore.get_manifest
    monkeypatch.setattr(LocalStore, "get_manifest", lambda self, name: fetched.append(name) or get_manifest(self, name))
    assert times_of(built.path) == [NOON - 1000 + 129] * SHARES
    assert len(fetched) == 100


# ---- the age that is allowed -----------------------------------------------------------------------------------------


def test_what_was_not_read_for_long_is_a_problem(built: Built, clock: Clock, pogfast: Runner) -> None:
    [problem] = checked(built.path, max_age="90d").problems
    assert "100 % of the data" in str(problem)
    assert "was not read for 90 days, some of it never" in str(problem)
    assert problem.exit_code == 3
    assert checked(built.path, read_data=True, max_age="90d").exit_code == 0
    clock.now += 89 * DAY
    summary = checked(built.path, max_age="90d")
    assert (summary.exit_code, summary.unproven) == (0, 0)
    clock.now += 2 * DAY
    [problem] = checked(built.path, max_age="90d").problems
    assert f"some of it since {datetime.fromtimestamp(NOON, UTC):%Y-%m-%d}" in str(problem)
    summary = checked(built.path, "50%", max_age="90d")
    assert summary.unproven is not None
    assert 0.4 < summary.unproven / summary.stored < 0.6
    assert summary.exit_code == 3
    newest, oldest = __import__("pogfast").last_reads(built.path, KEY)
    assert newest.read == datetime.fromtimestamp(NOON + 91 * DAY, UTC)
    assert oldest.read == datetime.fromtimestamp(NOON, UTC)
    assert newest.share + oldest.share == 1


def test_last_reads(built: Built, clock: Clock) -> None:
    assert pogfast.last_reads(built.path, KEY) == [when(1, None)]
    checked(built.path, read_data=True)
    assert pogfast.last_reads(str(built.path), KEY) == [when(1, NOON)]
    assert pogfast.last_reads(built.path, None) == [when(1, None)]


def test_max_age_is_of_whole_stores_and_for_those_who_can_read(built: Built, tmp_path: Path) -> None:
    for wrong in ({"archives": f"{built.path}/latest"}, {"archives": str(built.path), "host": "h"}):
        with pytest.raises(UsageError):
            pogfast.check(key=KEY, max_age="90d", **wrong)
    public = pogfast.open_key(encryption_keyfile=pogfast.keygen(str(tmp_path / "pair"))[0])
    with pytest.raises(WrongKey):
        pogfast.check(str(built.path), public, max_age="90d")


def test_the_command(tmp_path: Path, pogfast: Runner) -> None:
    (tmp_path / "key").write_bytes(b"key")
    (tmp_path / "f").write_bytes(random.randbytes(5000))
    assert pogfast("create", "f", "--to", "store", "--keyfile=key").code == 0
    ran = pogfast("check", "store", "--keyfile=key", "--max-age=30d")
    assert ran.code == 3
    assert "was not read for 30 days, some of it never" in ran.err
    ran = pogfast("check", "store", "--keyfile=key", "--max-age=30d", "--read-data-subset=5%", "--json")
    assert (ran.code, json.loads(ran.lines[-1])["bytes_unproven"]) == (0, 0), "the one blob there is"
    ran = pogfast("check", "store", "--keyfile=key", "--json")
    assert json.loads(ran.lines[-1])["bytes_unproven"] is None
    for words in (["--max-age=90"], ["--against=.", "--max-age=90d"], ["--max-age="]):
        assert pogfast("check", "store/latest", "--keyfile=key", *words).code == 2


# ---- without a key ---------------------------------------------------------------------------------------------------


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    create(make_tree(tmp_path / "tree", 700), tmp_path / "packed", packs="1MiB")
    assert len(packs_of(tmp_path / "packed")) >= 3
    return tmp_path / "packed"


def test_packs_are_remembered_apart_from_blobs(packed: Path, clock: Clock, cache: Path) -> None:
    assert pogfast.check(str(packed), None, max_age="1d").exit_code == 3
    first = pogfast.check(str(packed), None, read_data_subset="1%")
    assert first.read == 1
    clock.now += DAY
    forget_cache(cache)
    for _ in range(len(packs_of(packed)) - 1):
        assert pogfast.check(str(packed), None, read_data_subset="1%").read == 1
    assert pogfast.check(str(packed), None, max_age="25h").exit_code == 0
    clock.now += DAY
    assert pogfast.check(str(packed), None, max_age="25h").unproven == first.read_size
    assert pogfast.last_reads(packed, PACKED_KEY) == [when(1, None)]
    [table] = tables(packed)
    data = table.read_bytes()
    assert hashlib.sha256(data[:-32]).digest() == data[-32:]
    assert (data[:8], len(array("I", data[8:-32]))) == (b"pogread1", SHARES)
    assert pogfast.check(str(packed), PACKED_KEY, read_data=True).exit_code == 0
    assert len(tables(packed)) == 2


def test_damaged_packs_do_not_count(packed: Path, clock: Clock) -> None:
    pack, other, third = packs_of(packed)[:3]
    flip(pack, 500)  # in a blob
    flip(other, -10)  # in the table
    flip(third, -60)
    assert pogfast.check(str(packed), None, read_data=True).exit_code == 4
    bad = {share for share, read in enumerate(times_of(packed, None)) if read != NOON}
    assert bad == {share_of(each.name) for each in (pack, other, third)}


# ---- other commands and programs -------------------------------------------------------------------------------------


def test_no_other_command_minds(built: Built, clock: Clock, tmp_path: Path) -> None:
    checked(built.path, read_data=True)
    [table] = tables(built.path)
    before = table.read_bytes()
    pogfast.copy(built.path, tmp_path / "copy", key=KEY)
    assert tables(tmp_path / "copy") == [], "nobody has read the copy"
    pogfast.prune(built.path, KEY, keep_last=1, group_by=(), dry_run=False, grace=0)
    pogfast.create(built.path, built.path, KEY, no_cache=True)
    assert [item.kind for item in pogfast.ls(f"{built.path}/latest", KEY) if item.kind == "file"] == []
    assert table.read_bytes() == before
    assert {finding.state for finding in pogfast.doctor(built.path)} <= {"good", "note"}


def test_a_bucket_remembers(server: Server, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    bucket = f"bucket-{time.monotonic_ns()}"
    said = {"aws_access_key_id": server.key, "aws_secret_access_key": server.secret, "region_name": "us-east-1"}
    client = boto3.client("s3", endpoint_url=server.url, **said)
    client.create_bucket(Bucket=bucket)
    create(make_tree(tmp_path / "tree", 20), f"s3://{bucket}")
    for _ in range(3):
        assert pogfast.check(f"s3://{bucket}", PACKED_KEY, read_data_subset="40%").exit_code == 0
        forget_cache(cache)
    found = pogfast.last_reads(f"s3://{bucket}", PACKED_KEY)
    assert all(share.read for share in found)
    listed = client.list_objects_v2(Bucket=bucket, Prefix="verified.")
    assert listed["KeyCount"] == 1


@pytest.mark.parametrize("name", ["x", "", "?" * 44, "é" * 44, "../" + "A" * 41])
def test_names_that_no_blob_can_have(built: Built, clock: Clock, name: str) -> None:
    """A manifest may say anything."""
    built.add("g", text(CHUNK), blobs=[name])
    built.seal("b.mfn")
    summary = checked(built.path, read_data=True)
    assert (summary.exit_code, summary.read) == (4, 60)

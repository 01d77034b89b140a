"""`pack` and `unpack`: no blob is ever without a durable holder, whatever is killed or damaged meanwhile."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import boto3
import pytest

import pogfast
from kit.commands import Runner
from kit.faultproxy import Fault, Proxy
from kit.packed import contents, indexes_of, make_files, make_unreadable, packs_of, plain_of, rows_of
from kit.servers import Server
from pogfast.errors import NoSuchArchive, StoreError, UsageError
from pogfast.keys import Key, create_pair, from_decryption_keyfile, from_keyfile, from_password
from pogfast.stores import local, open_store
from pogfast.stores.packs import layout
from pogfast.stores.packs.store import PackedStore
from pogfast.stores.service import AccessDenied
from pogfast.upkeep import heartbeat, packing

KEY = Key("keyfile", bytes(range(32)))
COUNT = 400

pytestmark = pytest.mark.usefixtures("index_files")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POGFAST_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return make_files(tmp_path / "tree", COUNT)


@pytest.fixture
def store(tree: Path, tmp_path: Path) -> Path:
    """A plain one."""
    made = tmp_path / "store"
    pogfast.create("tree", made, KEY)
    return made


@pytest.fixture
def packed(tree: Path, tmp_path: Path) -> Path:
    made = tmp_path / "packed"
    with pogfast.services(packs="1MiB"):
        pogfast.create("tree", made, KEY)
    assert len(packs_of(made)) == 3
    return made


def assert_whole(store: Path | str, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    summary = pogfast.restore(f"{store}/latest", KEY, tmp_path / "out")
    assert not summary.problems, summary.problems
    assert contents(tmp_path / "out" / "tree") == contents(tmp_path / "tree")
    assert pogfast.check(str(store), KEY, read_data=True).exit_code == 0


def pack(store: Path | str, size: str | None = "1MiB", **more: Any) -> packing.Summary:
    with pogfast.services(packs=size):
        return pogfast.pack(store, **more)


# ---- pack ------------------------------------------------------------------------------------------------------------


def test_small_blobs_move_into_packs(store: Path, tmp_path: Path) -> None:
    summary = pack(store)
    assert (summary.exit_code, summary.packs, len(packs_of(store))) == (0, 3, 3)
    assert summary.blobs == summary.total_blobs == COUNT
    assert [path.stat().st_size > 2 << 20 for path in plain_of(store)] == [True]
    assert_whole(store, tmp_path)
    assert pack(store, None).blobs == 0, "a second run has nothing to do"
    (tmp_path / "tree" / "d0" / "more").mkdir()
    for number in range(100):
        (tmp_path / "tree" / "d0" / "more" / str(number)).write_bytes(os.urandom(4000))
    assert pogfast.create("tree", store, KEY).blobs_new == 100
    assert len(packs_of(store)) == 4, "later backups pack, too"
    assert_whole(store, tmp_path)


def test_a_dry_run_moves_nothing(store: Path, packed: Path) -> None:
    before = contents(store), contents(packed)
    one = pack(store, dry_run=True)
    assert (one.packs, one.total_blobs, one.blobs) == (3, COUNT, 0)
    other = pogfast.unpack(packed, dry_run=True)
    assert (other.packs, other.total_blobs, other.blobs) == (3, COUNT, 0)
    assert (contents(store), contents(packed)) == before


def test_what_would_be_a_tiny_pack_stays(tmp_path: Path) -> None:
    (tmp_path / "few").mkdir()
    for number in range(8):
        (tmp_path / "few" / str(number)).write_bytes(os.urandom(100))
    pogfast.create("few", "store", KEY)
    before = {path: path.stat().st_mtime_ns for path in plain_of(tmp_path / "store")}
    summary = pack("store")
    assert (summary.packs, summary.blobs) == (0, 0)
    assert {path: path.stat().st_mtime_ns for path in plain_of(tmp_path / "store")} == before


def test_only_a_store_that_can_have_packs_is_packed(tmp_path: Path, store: Path) -> None:
    (tmp_path / "home").mkdir()
    for verb in (pogfast.pack, pogfast.unpack):
        with pytest.raises(NoSuchArchive):
            verb("home")
        with pytest.raises(NoSuchArchive):
            verb("nosuch")
    assert list((tmp_path / "home").iterdir()) == []
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in [*plain_of(store), *store.glob("*.mfn")]:
        shutil.copy(path, flat)
    for dry_run in (True, False):
        with pytest.raises(UsageError, match="flat store"):
            pogfast.pack(flat, dry_run=dry_run)
    assert pogfast.unpack(flat).packs == 0
    assert not (flat / "pogfast.store").exists()


def test_a_blob_that_is_cut_short_is_not_packed(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After it was listed: here, each time that it is read."""
    cut = plain_of(store)[5]
    get = local.LocalStore.get_blob

    def get_blob(self: local.LocalStore, name: str) -> Any:
        return memoryview(get(self, name))[: -1 if name == cut.name else None]

    monkeypatch.setattr(local.LocalStore, "get_blob", get_blob)
    summary = pack(store)
    assert (summary.exit_code, summary.blobs) == (4, COUNT - 1)
    assert cut.name in str(summary.problems[0])
    assert cut.exists()


def test_what_a_power_cut_may_have_damaged_is_not_packed(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such blobs may have their size and no content. In a pack they would have a valid check."""
    booted = time.time() + 100
    monkeypatch.setattr(local, "booted_ns", lambda: int(booted * 1e9))
    suspects = [path for path in plain_of(store) if path.stat().st_size < 2 << 20][7:9]
    for path in suspects:
        path.chmod(0o600)
        path.write_bytes(bytes(path.stat().st_size))
        os.utime(path, (booted - 50, booted - 50))

    class Report(packing.Silent):
        said: ClassVar[list[str]] = []

        def warning(self, said: str) -> None:
            self.said.append(said)

    assert pack(store, report=Report()).blobs == COUNT - 2
    assert ["2 blobs written just before a power cut" in said for said in Report.said] == [True]
    assert all(path.exists() for path in suspects)
    assert not {path.name for path in suspects}.intersection(
        row.name for one in packs_of(store) for row in rows_of(one)
    )
    pogfast.create("tree", store, KEY, force=True)
    assert_whole(store, tmp_path)


def test_a_plain_copy_stays_if_the_pack_has_it_no_longer(store: Path, tmp_path: Path) -> None:
    """A pack that another run wrote is read before anybody relies on it."""
    plain = tmp_path / "plain"
    shutil.copytree(store / "data", plain)
    pack(store)
    shutil.copytree(plain, store / "data", dirs_exist_ok=True)
    [first, *_] = packs_of(store)
    data = bytearray(first.read_bytes())
    row = layout.read_table(data, len(data), "a pack")[3]
    data[row.offset + 50] ^= 1
    first.chmod(0o600)
    first.write_bytes(data)
    assert pack(store).blobs == COUNT - 1
    assert [path.name for path in plain_of(store) if path.stat().st_size < 2 << 20] == [row.name]


def test_nothing_relies_on_a_pack_that_a_prune_has_condemned(store: Path, tmp_path: Path) -> None:
    """It was condemned because its blobs lie plain as well."""
    plain = tmp_path / "plain"
    shutil.copytree(store / "data", plain)
    pack(store)
    old = packs_of(store)
    shutil.copytree(plain, store / "data", dirs_exist_ok=True)
    for number, path in enumerate(plain_of(store)):
        os.utime(path, (number, number))  # another order, so that the packs have other names
    listed = "".join(f"{path.relative_to(store)}\n" for path in old)
    (store / "condemned-1").write_text(listed)
    assert pack(store).packs == 3
    for path in old:
        path.unlink()
    assert_whole(store, tmp_path)


def test_a_list_that_comes_later_counts(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_durable = PackedStore.make_durable

    def condemned_then(self: PackedStore) -> None:
        make_durable(self)
        (store / "condemned-1").write_text("".join(f"{path.relative_to(store)}\n" for path in packs_of(store)))

    monkeypatch.setattr(PackedStore, "make_durable", condemned_then)
    assert pack(store).blobs == 0
    assert len(plain_of(store)) == COUNT + 1


@pytest.mark.parametrize("verb", ["pack", "unpack"])
def test_one_direction_at_a_time(verb: str, store: Path, packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = store if verb == "pack" else packed
    before = contents(where / "data"), contents(where / "packs")
    make_durable = local.LocalStore.make_durable
    other = layout.StoreSettings(is_packing=verb == "unpack")

    def turned(self: local.LocalStore) -> None:
        make_durable(self)
        self.put_object("pogfast.store", other.serialize(), replace=True)

    monkeypatch.setattr(local.LocalStore, "make_durable", turned)
    with pytest.raises(StoreError, match="has begun meanwhile"):
        pack(where) if verb == "pack" else pogfast.unpack(where)
    after = contents(where / "data"), contents(where / "packs")
    assert all(now.items() >= then.items() for now, then in zip(after, before, strict=True)), "nothing was deleted"


# ---- unpack ----------------------------------------------------------------------------------------------------------


def test_all_blobs_lie_plain_again(packed: Path, store: Path, tmp_path: Path) -> None:
    summary = pogfast.unpack(packed)
    assert (summary.exit_code, summary.packs, summary.packs_left, summary.blobs) == (0, 3, 0, COUNT)
    assert packs_of(packed) == indexes_of(packed) == []
    assert json.loads((packed / "pogfast.store").read_text())["packs"] is None
    assert {path.name for path in plain_of(packed)} == {path.name for path in plain_of(store)}
    assert_whole(packed, tmp_path)
    again = pogfast.unpack(packed)
    assert (again.packs, again.blobs) == (0, 0)
    (tmp_path / "tree" / "new").mkdir()
    for number in range(100):
        (tmp_path / "tree" / "new" / str(number)).write_bytes(os.urandom(4000))
    pogfast.create("tree", packed, KEY)
    assert packs_of(packed) == [], "later backups do not pack"


def test_packs_without_a_word_about_them_are_unpacked(packed: Path, tmp_path: Path) -> None:
    (packed / "pogfast.store").unlink()
    shutil.rmtree(packed / "packs" / "index")
    assert pogfast.unpack(packed, dry_run=True).packs == 3
    assert not (packed / "pogfast.store").exists()
    assert pogfast.unpack(packed).blobs == COUNT
    assert_whole(packed, tmp_path)


def test_a_damaged_blob_is_left_in_its_pack(packed: Path) -> None:
    [first, second, _] = packs_of(packed)
    data = bytearray(first.read_bytes())
    row = layout.read_table(data, len(data), "a pack")[7]
    data[row.offset] ^= 1
    first.chmod(0o600)
    first.write_bytes(data)
    footless = bytearray(second.read_bytes())
    footless[-1] ^= 1
    second.chmod(0o600)
    second.write_bytes(footless)
    summary = pogfast.unpack(packed)
    assert (summary.exit_code, summary.packs, summary.packs_left) == (4, 1, 2)
    assert [row.name in str(problem) or second.name in str(problem) for problem in summary.problems] == [True, True]
    assert packs_of(packed) == [first, second]
    assert len(indexes_of(packed)) == 1, "it is of packs that are there"
    assert row.name not in {path.name for path in plain_of(packed)}
    problems = pogfast.restore(f"{packed}/latest", KEY, "out").problems
    assert len(problems) == 1, "what is not damaged is restored, from wherever it is"


@pytest.mark.parametrize("part", ["blobs", "table"])
def test_a_pack_on_a_bad_sector_is_left_as_it_is(
    part: str, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, second, _ = packs_of(packed)
    with monkeypatch.context() as bad:
        make_unreadable(bad, second, 5000 if part == "blobs" else second.stat().st_size - 1)
        summary = pogfast.unpack(packed)
    assert (summary.exit_code, summary.packs, summary.packs_left) == (4, 2, 1)
    assert [second.name in str(problem) and "error" in str(problem) for problem in summary.problems] == [True]
    assert packs_of(packed) == [second]
    assert pogfast.unpack(packed).packs == 1, "it could be read again"
    assert_whole(packed, tmp_path)


def test_a_blob_that_lies_plain_and_is_condemned_is_written_again(packed: Path, store: Path, tmp_path: Path) -> None:
    """So that a prune which deletes the old one leaves the new one alone."""
    shutil.copytree(store / "data", packed / "data", dirs_exist_ok=True)
    for path in plain_of(packed):
        os.utime(path, (1, 1))
    (packed / "condemned-1").write_text("".join(f"{path.name}\n" for path in plain_of(packed)))
    pogfast.unpack(packed)
    assert sum(path.stat().st_mtime == 1 for path in plain_of(packed)) == 1, "the large one"
    assert_whole(packed, tmp_path)


@pytest.mark.parametrize("when", ["before", "meanwhile", "killed"])
def test_what_a_prune_deletes_meanwhile_is_moved_again(
    when: str, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The prune begins before this run or while it stores blobs; once it has deleted one, it ends, or is killed."""
    with contextlib.closing(open_store(str(packed))) as opened:
        assert isinstance(opened, PackedStore)
        names = [name for name, _ in opened.catalog.blobs()]
    running, done = packed / "sweep.running-1", packed / "sweep.done-1"
    if when != "meanwhile":
        running.touch()
    make_durable = local.LocalStore.make_durable
    victims = iter([names[3], None])

    def deleted_then(self: local.LocalStore) -> None:
        make_durable(self)
        if victim := next(victims, None):
            running.touch()
            (packed / "data" / victim[:2] / victim).unlink()
            if when == "killed":
                os.utime(running, (1, 1))
            else:
                done.touch()
                running.unlink()

    monkeypatch.setattr(local.LocalStore, "make_durable", deleted_then)
    summary = pogfast.unpack(packed)
    assert summary.packs == 3
    monkeypatch.undo()
    monkeypatch.setenv("POGFAST_CACHE_DIR", str(tmp_path / "cache"))
    assert_whole(packed, tmp_path)


# ---- nobody else deletes meanwhile -----------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["pack", "unpack"])
def test_a_run_waits_while_another_deletes(verb: str, store: Path, packed: Path, tmp_path: Path) -> None:
    """Nothing is deleted until the other has ended, and what it has deleted by then is noticed."""
    where = store if verb == "pack" else packed
    before = contents(where / "data"), contents(where / "packs")
    (where / "sweep.running-1").touch()

    class Report(packing.Silent):
        waited = 0

        def warning(self, said: str) -> None:
            assert "waiting until nobody else deletes" in said
            after = contents(where / "data"), contents(where / "packs")
            assert all(now.items() >= then.items() for now, then in zip(after, before, strict=True))
            assert [path.name for path in where.glob("sweep.running-*")] == ["sweep.running-1"], "it stands back"
            self.waited += 1
            (where / "sweep.running-1").unlink()

    report = Report()
    if verb == "pack":
        pack(where, report=report)
    else:
        pogfast.unpack(where, report=report)
    assert report.waited == 1
    small = [path for path in plain_of(where) if path.stat().st_size < 2 << 20]
    assert (len(small), len(packs_of(where))) == ((0, 3) if verb == "pack" else (COUNT, 0))
    assert not list(where.glob("sweep.running-*"))
    assert_whole(where, tmp_path)


def test_packs_that_are_deleted_in_the_other_direction(store: Path, tmp_path: Path) -> None:
    """`unpack` has verified that all blobs lie plain, and deletes the packs as `pack` is about to delete blobs."""
    plain = tmp_path / "plain"
    shutil.copytree(store / "data", plain)
    pack(store)
    shutil.copytree(plain, store / "data", dirs_exist_ok=True)
    (store / "sweep.running-1").touch()

    class Report(packing.Silent):
        def warning(self, said: str) -> None:
            for path in packs_of(store):
                path.unlink()
            (store / "sweep.running-1").unlink()

    assert pack(store, report=Report()).blobs == 0
    assert_whole(store, tmp_path)


@pytest.mark.parametrize("verb", ["pack", "unpack"])
def test_a_prune_does_not_delete_meanwhile(
    verb: str, store: Path, packed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = store if verb == "pack" else packed
    alone: list[bool] = []
    delete = local.LocalStore.delete_old_blobs

    def look_then(self: local.LocalStore, *words: Any) -> Any:
        with heartbeat.beating(self, 0.0) as prune:
            alone.append(prune.is_alone())
        return delete(self, *words)

    monkeypatch.setattr(local.LocalStore, "delete_old_blobs", look_then)
    pack(where) if verb == "pack" else pogfast.unpack(where)
    assert alone
    assert not any(alone)


@pytest.mark.parametrize("verb", ["pack", "unpack"])
def test_a_run_that_was_suspended_deletes_nothing(
    verb: str, store: Path, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = store if verb == "pack" else packed
    monkeypatch.setattr(heartbeat, "MAX_SILENCE", 0.0)
    with pytest.raises(StoreError, match="was suspended"):
        pack(where) if verb == "pack" else pogfast.unpack(where)
    assert len(plain_of(where)) == COUNT + 1
    assert len(packs_of(where)) == 3
    monkeypatch.undo()
    monkeypatch.setenv("POGFAST_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    assert_whole(where, tmp_path)


# ---- kills, and readers in the middle --------------------------------------------------------------------------------


KILL = """
import os, signal, sys
import pogfast
from pogfast.stores import local
left = int(sys.argv[3])
def counted(name):
    act = getattr(local.LocalStore, name)
    def call(*words, **more):
        global left
        result = act(*words, **more)
        result = list(result) if name == "delete_old_blobs" else result
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    setattr(local.LocalStore, name, call)
for name in ("put_object", "delete_old_blobs", "delete_blobs", "make_durable", "get_object"):
    counted(name)
with pogfast.services(packs="1MiB"):
    print(getattr(pogfast, sys.argv[1])(sys.argv[2]).exit_code)
"""


@pytest.mark.parametrize("verb", ["pack", "unpack"])
def test_a_run_that_is_killed_is_continued(verb: str, store: Path, packed: Path, tmp_path: Path) -> None:
    """kill -9 after each of its steps."""
    where = store if verb == "pack" else packed
    step, killed = 0, True
    while killed:
        one = tmp_path / f"killed-{step}"
        shutil.copytree(where, one)
        ran = subprocess.run([sys.executable, "-c", KILL, verb, str(one), str(step)], capture_output=True, check=False)
        killed = ran.returncode != 0
        assert ran.returncode in (0, -9), ran.stderr
        if killed:
            for mark in one.glob("sweep.running-*"):
                os.utime(mark, (1, 1))  # a quarter of an hour later
            problems = pogfast.restore(f"{one}/latest", KEY, tmp_path / f"between-{step}").problems
            assert not problems, f"after step {step}"
            if verb == "pack":
                pack(one)
            else:
                pogfast.unpack(one)
        small = [path for path in plain_of(one) if path.stat().st_size < 2 << 20]
        assert (len(small), len(packs_of(one))) == ((0, 3) if verb == "pack" else (COUNT, 0))
        assert_whole(one, tmp_path)
        step += 1
    assert step > 5


@pytest.mark.parametrize("where", ["directory", "service"])
@pytest.mark.parametrize("verb", ["pack", "unpack"])
def test_a_reader_in_the_middle_reads_on(
    verb: str, where: str, packed: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """It has listed the packs before they go, or before they come."""
    if where == "service":
        address = str(request.getfixturevalue("bucket"))
        with pogfast.services(packs="1MiB"):
            pogfast.create("tree/d1", address, KEY)
    else:
        address = str(packed)
    if verb == "pack":
        pogfast.unpack(address)
    with contextlib.closing(open_store(address)) as opened:
        names = [blob.name for blob in opened.blob_names()]
        assert bytes(opened.get_blob(names[0]))
        if verb == "pack":
            pack(address)
        else:
            pogfast.unpack(address)
        for name in names:
            assert bytes(opened.get_blob(name))
    with pogfast.open_archive(f"{address}/latest", KEY) as archive:
        for _ in range(2):
            some = archive.open("tree/d1/f1")
            assert some.read(4) == (tmp_path / "tree" / "d1" / "f1").read_bytes()[:4]
            pack(address) if verb == "unpack" else pogfast.unpack(address)
            verb = "pack" if verb == "unpack" else "unpack"
        for name in list(archive)[:50]:
            with archive.open(name) as file:
                assert file.read() == (tmp_path / name).read_bytes()


# ---- the commands ----------------------------------------------------------------------------------------------------


def test_the_commands_say_what_they_did(store: Path, pogfast: Runner) -> None:
    ran = pogfast("pack", "store", "--packs=1MiB", "--dry-run")
    assert (ran.code, ran.out) == (0, b"")
    assert "400 blobs would be moved into 3 packs" in ran.err
    assert not (store / "pogfast.store").exists()
    ran = pogfast("pack", "store", "--packs=1MiB")
    assert "400 blobs moved into 3 packs" in ran.err
    ran = pogfast("unpack", "store", "--json")
    summary = json.loads(ran.lines[-1])
    assert (summary["packs"], summary["packs_left"], summary["data_blobs"]) == (3, 0, 400)
    assert (summary["dry_run"], summary["objects_locked"], summary["error_count"]) == (False, 0, 0)
    assert pogfast("pack", "store", "--packs=1MiB").code == 0
    [first, *_] = packs_of(store)
    data = bytearray(first.read_bytes())
    data[0] ^= 1
    first.chmod(0o600)
    first.write_bytes(data)
    ran = pogfast("unpack", "store")
    assert ran.code == 4
    assert "1 pack left" in ran.err
    assert first.exists()


MODES: dict[str, Callable[[Path], tuple[Key, list[str]]]] = {}


def mode(make: Callable[[Path], tuple[Key, list[str]]]) -> Callable[[Path], tuple[Key, list[str]]]:
    MODES[make.__name__] = make
    return make


@mode
def keyfile(place: Path) -> tuple[Key, list[str]]:
    (place / "key").write_bytes(b"a secret")
    return from_keyfile(str(place / "key")), ["--keyfile=../key"]


@mode
def password(place: Path) -> tuple[Key, list[str]]:
    return from_password("a word"), []


@mode
def pair(place: Path) -> tuple[Key, list[str]]:
    return from_decryption_keyfile(create_pair("pair", str(place))[1]), ["--decryption-keyfile=../pair.decrypt"]


@pytest.mark.parametrize("kind", MODES)
def test_pogcli_restores_what_was_unpacked(kind: str, tree: Path, tmp_path: Path, pogcli: Runner) -> None:
    key, words = MODES[kind](tmp_path)
    with pogfast.services(packs="1MiB"):
        name = pogfast.create("tree", "store", key).manifest
    assert packs_of(tmp_path / "store")
    pogfast.unpack("store")
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "data").symlink_to(tmp_path / "store" / "data")
    ran = pogcli(*words, "--decrypt", f"local:../store/{name}", cwd=tmp_path / "theirs", stdin=2 * b"a word\n")
    assert ran.code == 0, ran.err
    assert contents(tmp_path / "theirs" / "tree") == contents(tree)


# ---- services --------------------------------------------------------------------------------------------------------


@pytest.fixture
def client(server: Server) -> Any:
    said = {"aws_access_key_id": server.key, "aws_secret_access_key": server.secret, "region_name": "us-east-1"}
    return boto3.client("s3", endpoint_url=server.url, **said)


@pytest.fixture
def bucket(server: Server, client: Any, tree: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    name = f"bucket-{time.monotonic_ns()}"
    client.create_bucket(Bucket=name, ObjectLockEnabledForBucket=True)
    return f"s3://{name}"


def keys_of(client: Any, address: str) -> list[str]:
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=address.removeprefix("s3://"))
    return [item["Key"] for page in pages for item in page.get("Contents", ())]


def test_on_a_service(bucket: str, client: Any, tmp_path: Path) -> None:
    pogfast.create("tree", bucket, KEY)
    summary = pack(bucket)
    assert (summary.packs, summary.blobs, summary.locked) == (3, COUNT, 0)
    keys = keys_of(client, bucket)
    assert (sum(map(layout.is_pack, keys)), sum(key.startswith("data/") for key in keys)) == (3, 1)
    assert_whole(bucket, tmp_path)
    assert pogfast.unpack(bucket).blobs == COUNT
    keys = keys_of(client, bucket)
    assert (sum(key.startswith("packs/") for key in keys), sum(key.startswith("data/") for key in keys)) == (
        0,
        COUNT + 1,
    )
    assert_whole(bucket, tmp_path)


def test_a_pack_that_a_service_cannot_read(
    bucket: str, client: Any, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are taken apart; but if the service is down, that is said once."""
    with pogfast.services(packs="1MiB"):
        pogfast.create("tree", bucket, KEY)
    bad = next(filter(layout.is_pack, keys_of(client, bucket)))
    monkeypatch.setenv("POGFAST_S3_ENDPOINT", proxy.url)
    monkeypatch.setenv("POGFAST_RETRY_FOR", "0")

    class Down(packing.Silent):
        def started(self, progress: packing.Summary) -> None:
            proxy.faults = [Fault("", times=-1, status=503)]

    with pytest.raises(StoreError, match="busy"):
        pogfast.unpack(bucket, report=Down())
    assert sum(map(layout.is_pack, keys_of(client, bucket))) == 3
    proxy.faults = [Fault(f"GET .*{bad.rstrip('=')}", times=-1, status=500)]
    summary = pogfast.unpack(bucket)
    assert (summary.exit_code, summary.packs, summary.packs_left, len(summary.problems)) == (4, 2, 1, 1)
    assert list(filter(layout.is_pack, keys_of(client, bucket))) == [bad]
    proxy.faults = [Fault(f"GET .*{bad.rstrip('=')}", times=-1, status=403, code="AccessDenied")]
    with pytest.raises(AccessDenied):
        pogfast.unpack(bucket)
    proxy.faults = []
    assert_whole(bucket, tmp_path)


def test_what_is_locked_stays(bucket: str, client: Any, tmp_path: Path) -> None:
    with pogfast.services(object_lock="governance:1d"):
        pogfast.create("tree/d1", bucket, KEY)
    pogfast.create("tree", bucket, KEY)
    locked = sum(1 for _ in (tmp_path / "tree" / "d1").iterdir())
    before = set(keys_of(client, bucket))
    summary = pack(bucket)
    packs, left = summary.packs, COUNT - locked - summary.blobs
    assert (summary.locked, packs) == (locked, 2)
    assert left < 50, "too few for a pack"
    plain = {key for key in keys_of(client, bucket) if key.startswith("data/")}
    assert len(plain) == locked + 1 + left
    assert plain <= before
    pogfast.lock(bucket, KEY, "governance:2d")
    summary = pogfast.unpack(bucket)
    assert (summary.locked, summary.packs, summary.packs_left) == (packs, 0, packs)
    assert sum(map(layout.is_pack, keys_of(client, bucket))) == packs
    assert_whole(bucket, tmp_path)

"""copy between stores with and without packs: whole packs, in order, checked on the way, and with few requests."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections import Counter
from pathlib import Path
from typing import Any

import boto3
import pytest

import pogfast
from kit.commands import Runner
from kit.packed import make_files
from kit.servers import Server
from pogfast._engine import build_index
from pogfast.keys import Key, create_pair, from_decryption_keyfile, from_keyfile, from_password
from pogfast.stores import open_store
from pogfast.stores.packs import layout
from pogfast.stores.packs.store import PackedStore
from pogfast.upkeep import copying

KEY = Key("keyfile", bytes(range(32)))
COUNT = 300


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POGFAST_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return make_files(tmp_path / "tree", COUNT, folders=3)


def create(store: str, key: Key = KEY, *, packs: str | None = None) -> str:
    with pogfast.services(packs=packs):
        return pogfast.create("tree", store, key).manifest


def copy(source: str, target: str, key: Key | None, *, packs: str | None = None, **more: Any) -> copying.Summary:
    with pogfast.services(packs=packs):
        return pogfast.copy(source, target, key=key, **more)


def packs_of(store: str | Path) -> list[Path]:
    return sorted(Path(store).glob("packs/2*/*"))


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def assert_whole(store: str, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    summary = pogfast.restore(f"{store}/latest", KEY, tmp_path / "out")
    assert not summary.problems, summary.problems
    assert contents(tmp_path / "out" / "tree") == contents(tmp_path / "tree")


def flip(pack: Path, number: int) -> str:
    """Flips a bit in a blob, and returns its name."""
    data = bytearray(pack.read_bytes())
    row = layout.read_table(data, len(data), "a pack")[number]
    data[row.offset + row.size // 2] ^= 1
    pack.chmod(0o600)
    pack.write_bytes(data)
    return row.name


@pytest.mark.parametrize("target", [None, "1MiB"], ids=["to plain", "to packed"])
def test_what_is_in_a_pack_with_a_damaged_table_is_copied(tree: Path, tmp_path: Path, target: str | None) -> None:
    """The index object and the pack's name prove what the table was."""
    create("one", packs="1MiB")
    pack = packs_of("one")[0]
    data = bytearray(pack.read_bytes())
    data[-100] ^= 1
    pack.write_bytes(data)
    summary = copy("one", "two", None, packs=target)
    assert (summary.exit_code, summary.archives) == (0, 1), summary.problems
    assert pogfast.check("two", KEY, read_data=True).exit_code == 0
    assert_whole("two", tmp_path)


def test_without_a_key_damage_keeps_all_archives_and_the_message_says_why(tree: Path) -> None:
    """Nobody knows which archive needs the blob."""
    create("one", packs="1MiB")
    flip(packs_of("one")[0], 3)
    summary = copy("one", "two", None)
    assert (summary.exit_code, summary.archives) == (4, 0)
    assert "the public one is enough" in summary.problems[-1].hint


@pytest.mark.parametrize("key", [KEY, None], ids=["with the key", "without a key"])
@pytest.mark.parametrize("target", [None, "1MiB"], ids=["to plain", "to packed"])
@pytest.mark.parametrize("source", [None, "1MiB"], ids=["from plain", "from packed"])
def test_each_direction(source: str | None, target: str | None, key: Key | None, tree: Path, tmp_path: Path) -> None:
    create("one", packs=source)
    dry = copy("one", "two", key, dry_run=True)
    assert (dry.total_blobs, dry.archives) == (COUNT + 1, 1)
    done = copy("one", "two", key, packs=target)
    assert (done.exit_code, done.blobs, done.archives) == (0, COUNT + 1, 1)
    assert len(packs_of("two")) == (2 if target else 0)
    small = [path for path in Path("two").glob("data/*/*") if path.stat().st_size < 2 << 20]
    assert len(small) == (0 if target else COUNT)
    if source and target:
        assert [path.name for path in packs_of("two")] == [path.name for path in packs_of("one")]
    assert_whole("two", tmp_path)
    assert pogfast.check("two", KEY, read_data=True).exit_code == 0
    again = copy("one", "two", key)
    assert (again.blobs, again.blobs_there, again.archives_there) == (0, COUNT + 1, 1)
    with contextlib.closing(open_store("two")) as opened:
        assert not isinstance(opened, PackedStore) or opened.catalog.has_enough() is False
    if target:
        shutil.rmtree(tmp_path / "cache")
        assert len(list(Path("two").glob("packs/index/*"))) == 1
        assert_whole("two", tmp_path)


def test_a_pack_of_which_little_is_wanted_is_not_copied(tree: Path, tmp_path: Path) -> None:
    create("one", packs="4MiB")
    for path in (tree / "d0", tree / "d1"):
        shutil.rmtree(path)
    kept = create("one")
    with pogfast.services(packs="4MiB"):
        done = pogfast.copy("one", "two", kept, KEY)
    assert done.blobs == COUNT // 3 + 1
    assert len(packs_of("two")) == 1
    assert packs_of("two")[0].name != packs_of("one")[0].name
    assert_whole("two", tmp_path)


@pytest.mark.parametrize("key", [KEY, None], ids=["with the key", "without a key"])
@pytest.mark.parametrize("target", [None, "1MiB"], ids=["to plain", "to packed"])
def test_a_damaged_blob_is_refused(target: str | None, key: Key | None, tree: Path, tmp_path: Path) -> None:
    """Its archive is named, and the others are copied, if a key says which need it."""
    create("one", packs="1MiB")
    (tree / "d0" / "more").write_bytes(os.urandom(5000))
    shutil.rmtree(tree / "d1")
    create("one")
    with pogfast.open_archive("one/latest", KEY) as archive:
        needed = {blob for entry in archive.entries.values() for blob in entry.blobs}
    names = sorted(info.name for info in pogfast.list_archives("one", KEY))
    [first, *_] = packs_of("one")
    rows = layout.read_table(first.read_bytes(), first.stat().st_size, "a pack")
    number = next(number for number, row in enumerate(rows) if row.name not in needed)
    bad = flip(first, number)
    done = copy("one", "two", key, packs=target)
    assert done.exit_code == 4
    assert bad in str(done.problems[0])
    assert any(names[0] in str(problem) for problem in done.problems)
    with contextlib.closing(open_store("two")) as opened:
        there = {blob.name for blob in opened.blob_names()}
    with contextlib.closing(open_store("one")) as opened:
        assert there == {blob.name for blob in opened.blob_names()} - {bad}
    assert first.name not in {path.name for path in packs_of("two")}
    assert sorted(path.name for path in Path("two").glob("*.mfn")) == (names[1:] if key else [])
    if key:
        assert_whole("two", tmp_path)


@pytest.mark.parametrize("opens", [True, False])
def test_an_index_that_lies_brings_no_wrong_blob(opens: bool, tree: Path, tmp_path: Path) -> None:
    """Two blobs of one size, which the index confuses."""
    create("one", packs="1MiB")
    [first, *_] = packs_of("one")
    data = first.read_bytes()
    table = bytearray(layout.raw_table(data, len(data), "a pack"))
    table[:32], table[44:76] = table[44:76], table[:32]
    rows = layout.read_table(data, len(data), "a pack")
    shutil.rmtree("one/packs/index")
    Path("one/packs/index").mkdir()
    packs, tables = [], []
    for path in packs_of("one"):
        whole = path.read_bytes()
        raw = layout.raw_name(path.name)
        packs.append((raw, layout.day_of(str(path.relative_to("one"))), len(whole)))
        tables.append(bytes(table) if path == first else bytes(layout.raw_table(whole, len(whole), "a pack")))
    index = build_index(packs, tables)
    Path("one", layout.index_path(hashlib.sha256(index).digest())).write_bytes(index)
    shutil.rmtree("cache", ignore_errors=True)
    done = copy("one", "two", KEY if opens else None, packs="1MiB")
    assert first.name not in {path.name for path in packs_of("two")}, "it was not copied whole"
    with contextlib.closing(open_store("two")) as opened:
        for blob in opened.blob_names():
            found = bytes(opened.get_blob(blob.name))
            for row in [row for row in rows[:2] if row.name == blob.name]:
                assert found == data[row.offset : row.offset + row.size], done.problems


def test_a_condemned_pack_of_that_name_is_written_again(tree: Path, tmp_path: Path) -> None:
    """A prune spares what is newer than the list that names it."""
    create("one", packs="1MiB")
    copy("one", "two", KEY, packs="1MiB")
    for manifest in Path("two").glob("*.mfn"):
        manifest.unlink()
    for path in packs_of("two"):
        os.utime(path, (1, 1))
    listed = "".join(f"{path.relative_to('two')}\n" for path in packs_of("two"))
    (tmp_path / "two" / "condemned-1").write_text(listed)
    assert copy("one", "two", KEY).archives == 1
    assert all(path.stat().st_mtime > 1 for path in packs_of("two"))


MODES = ("keyfile", "password", "pair")


@pytest.mark.parametrize("mode", MODES)
def test_pogcli_restores_the_plain_copy(mode: str, tree: Path, tmp_path: Path, pogcli_014: Runner) -> None:
    (tmp_path / "key").write_bytes(b"a secret")
    key, words = {
        "keyfile": lambda: (from_keyfile("key"), ["--keyfile=../key"]),
        "password": lambda: (from_password("a word"), []),
        "pair": lambda: (
            from_decryption_keyfile(create_pair("pair", str(tmp_path))[1]),
            ["--decryption-keyfile=../pair.decrypt"],
        ),
    }[mode]()
    name = create("one", key, packs="1MiB")
    assert packs_of("one")
    copy("one", "two", None)
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "data").symlink_to(tmp_path / "two" / "data")
    where = tmp_path / "theirs"
    ran = pogcli_014(*words, "--decrypt", f"local:../two/{name}", cwd=where, stdin=2 * b"a word\n")
    assert ran.code == 0, ran.err
    assert contents(where / "tree") == contents(tree)


# ---- services --------------------------------------------------------------------------------------------------------


@pytest.fixture
def bucket(server: Server, tree: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    said = {"aws_access_key_id": server.key, "aws_secret_access_key": server.secret, "region_name": "us-east-1"}
    name = f"bucket-{time.monotonic_ns()}"
    boto3.client("s3", endpoint_url=server.url, **said).create_bucket(Bucket=name)
    return f"s3://{name}"


@pytest.mark.parametrize("key", [KEY, None], ids=["with the key", "without a key"])
def test_few_requests(bucket: str, key: Key | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two places of a service it copies packs itself, unless a key can check each blob on the way."""
    create(f"{bucket}/one", packs="1MiB")
    used: list[Any] = []

    def recording(*words: Any, **more: Any) -> Any:
        used.append(open_store(*words, **more))
        return used[-1]

    monkeypatch.setattr(copying, "open_store", recording)
    done = copy(f"{bucket}/one", f"{bucket}/two", key, packs="1MiB")
    assert (done.exit_code, done.blobs) == (0, COUNT + 1)
    assert done.unread == (0 if key else COUNT + 1)
    requests = Counter(used[0].requests) + Counter(used[1].requests)
    assert requests.total() <= 40, requests
    used.clear()
    assert copy(f"{bucket}/one", str(tmp_path / "down"), key).exit_code == 0
    assert Counter(used[0].requests).total() <= 25, used[0].requests
    assert_whole(f"{bucket}/two", tmp_path)
    assert_whole(str(tmp_path / "down"), tmp_path)


def test_what_nobody_has_read_is_said(bucket: str, pogfast: Runner) -> None:
    create(f"{bucket}/one", packs="1MiB")
    ran = pogfast("copy", f"{bucket}/one", f"{bucket}/two", "--packs=1MiB")
    assert ran.code == 0
    assert f"{COUNT + 1} blobs copied by the service itself, unread" in ran.err
    ran = pogfast("copy", f"{bucket}/one", f"{bucket}/three", "--json")
    assert json.loads(ran.lines[-1])["blobs_unread"] == 1, "the large one: the others are taken out of packs"

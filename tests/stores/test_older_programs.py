"""Programs that know no packs, in a store with packs: what they write comes back, they delete nothing that is needed,
and what they cannot read they report. An earlier pogfast is tried if POGFAST_BEFORE is the interpreter of an
environment that has one."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import pytest
import zstandard

import pogfast as ours
from kit.commands import Ran, Runner, run
from kit.environments import RELEASES, installed, pogcli_python
from kit.packed import KEY, KEYFILE, archived, contents, create, make_tree, packs_of
from kit.servers import Server

COUNT = 120  # of small files: enough for a pack


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POGFAST_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return make_tree(tmp_path / "tree", COUNT)


@pytest.fixture
def their(tmp_path: Path) -> Path:
    """A tree with the small files of the first, and as many others."""
    (tmp_path / "key").write_bytes(KEYFILE)
    return make_tree(tmp_path / "their", 2 * COUNT)


@pytest.fixture
def store(tree: Path, tmp_path: Path) -> Path:
    create(tree, tmp_path / "store", packs="yes")
    assert packs_of(tmp_path / "store")
    for key in (KEY, None):  # writes what was read
        assert ours.check(str(tmp_path / "store"), key, read_data=True).exit_code == 0
    assert len(list((tmp_path / "store").glob("verified.*"))) == 2
    return tmp_path / "store"


def manifests(store: Path) -> list[str]:
    return sorted(path.name for path in store.glob("*.mfn"))


def from_archive(store: Path | str, name: str, into: Path) -> dict[str, bytes]:
    summary = ours.restore(f"{store}/{name}", KEY, into=str(into))
    assert not summary.problems, summary.problems
    return contents(into)


def without_folders(tree: Path) -> dict[str, bytes]:
    """The files as pogcli names those of a folder that is not below the working directory."""
    return {path.name: path.read_bytes() for path in tree.rglob("*") if path.is_file()}


# ---- pogcli ----------------------------------------------------------------------------------------------------------


def test_what_pogcli_writes_into_a_store_with_packs_comes_back(
    store: Path, tree: Path, their: Path, tmp_path: Path, pogcli: Runner, pogfast: Runner
) -> None:
    [first], packs = manifests(store), contents(store / "packs")
    ran = pogcli("--keyfile=../key", "--save-to=local", "../their", cwd=store)
    assert ran.code == 0, ran.err
    assert contents(store / "packs") == packs
    [second] = set(manifests(store)) - {first}
    assert ours.check(str(store), KEY, read_data=True).exit_code == 0
    for visit in range(3):
        assert from_archive(store, first, tmp_path / f"first{visit}") == archived(tree)
        assert from_archive(store, second, tmp_path / f"second{visit}") == without_folders(their)
        ran = pogfast("prune", "store", "--keep-all", "--yes", "--now", "--keyfile=key")
        assert ran.code == 0, ran.err


def test_pogcli_says_that_blobs_in_packs_are_missing(store: Path, their: Path, tmp_path: Path, pogcli: Runner) -> None:
    [name] = manifests(store)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "data").symlink_to(store / "data")
    ran = pogcli("--keyfile=../key", "--decrypt", f"local:../store/{name}", cwd=tmp_path / "out")
    assert ran.code == 1
    assert "FileNotFoundError" in ran.err
    assert "data/" in ran.err


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("words", [[], ["--reckless-abandon"]])
def test_pogs_cleanup_of_a_directory_leaves_packs_alone(
    release: str, words: list[str], store: Path, tree: Path, their: Path, tmp_path: Path
) -> None:
    """With --reckless-abandon it fails at the first folder that it takes for a blob, in any store."""
    python = pogcli_python(release)
    environment = {**os.environ, "PATH": f"{python.parent}:{os.environ['PATH']}"}
    there = [python, "-m", "pog.pog", "--keyfile=../key", "--save-to=local", "../their"]
    assert run(there, store, env=environment).code == 0
    before = contents(store)
    command = [python, "-m", "pog.cloud_cleanup", "--keyfile=../key", "--backup=local", *words]
    assert run(command, store, env=environment).code == len(words)
    assert contents(store) == before
    first, second = manifests(store)
    assert from_archive(store, first, tmp_path / "first") == archived(tree)
    assert from_archive(store, second, tmp_path / "second") == without_folders(their)


def test_pogs_cleanup_of_a_bucket_leaves_packs_alone(
    server: Server, tree: Path, their: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = installed(
        f"pogcli-s3-{zstandard.__version__}", "pogcli==0.1.4", f"zstandard=={zstandard.__version__}", "boto3"
    )
    for word, value in {**server.environment, "AWS_ENDPOINT_URL": server.url, "S3_BUCKET_NAME": "shared"}.items():
        monkeypatch.setenv(word, value)
    client: Any = boto3.client("s3")
    client.create_bucket(Bucket="shared")
    first = create(tree, "s3://shared", packs="yes").manifest
    monkeypatch.setenv("PATH", f"{python}:{os.environ['PATH']}")
    ran = run([python / "python", "-m", "pog.pog", "--keyfile=key", "--save-to=s3", str(their)], tmp_path)
    assert ran.code == 0, ran.err
    before = {item["Key"] for item in client.list_objects_v2(Bucket="shared")["Contents"]}
    unneeded = f"data/AA/{'A' * 43}="
    client.put_object(Bucket="shared", Key=unneeded, Body=b"of no archive")
    words = ["--keyfile=key", "--backup=s3", "--reckless-abandon"]
    ran = run([python / "python", "-m", "pog.cloud_cleanup", *words], tmp_path)
    assert ran.code == 0, ran.err
    assert f"would remove {unneeded}" in ran.lines
    assert {item["Key"] for item in client.list_objects_v2(Bucket="shared")["Contents"]} == before
    [second] = {key for key in before if key.endswith(".mfn")} - {first}
    assert from_archive("s3://shared", first, tmp_path / "first") == archived(tree)
    assert from_archive("s3://shared", second, tmp_path / "second") == without_folders(their)


# ---- an earlier pogfast ----------------------------------------------------------------------------------------------


@pytest.fixture
def earlier(tmp_path: Path) -> Callable[..., Ran]:
    python = os.environ.get("POGFAST_BEFORE")
    if not python:
        pytest.skip("POGFAST_BEFORE is not set")

    def call(*words: str, key: str = "--keyfile=key") -> Ran:
        environment = {**os.environ, "POGFAST_CACHE_DIR": str(tmp_path / "earlier")}
        ran = run([python, "-m", "pogfast", *words, key], tmp_path, env=environment)
        assert "Traceback" not in ran.err, ran.err
        return ran

    return call


def test_what_an_earlier_pogfast_writes_into_a_store_with_packs_comes_back(
    earlier: Callable[..., Ran], store: Path, tree: Path, their: Path, tmp_path: Path
) -> None:
    packs = contents(store / "packs")
    for name in ("their", "tree", "their"):
        ran = earlier("create", name, "--to", "store")
        assert ran.code == 0, ran.err
    assert contents(store / "packs") == packs
    assert ours.check(str(store), KEY, read_data=True).exit_code == 0
    first, second, third, fourth = manifests(store)
    for name, root in ((first, tree), (second, their), (third, tree), (fourth, their)):
        assert from_archive(store, name, tmp_path / name) == archived(root)
    fifth = create(make_tree(tree, COUNT, seed=4), store).manifest
    for words in (["check", "store"], ["check", "store", "--read-data"], ["restore", f"store/{fifth}", "--into", "x"]):
        ran = earlier(*words)
        assert ran.code == 4, (words, ran.err)
        assert "missing" in ran.err


def test_an_earlier_pogfast_takes_parts_of_shards_for_unfinished_runs(
    earlier: Callable[..., Ran], tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ignores what the index says of the key of the entries, and its prune leaves their blobs."""
    monkeypatch.chdir(tmp_path)
    ours.keygen("pair")
    public, private = ours.open_key(encryption_keyfile="pair.encrypt"), "--decryption-keyfile=pair.decrypt"
    ours.create("pair.encrypt", "parts", public, no_cache=True)
    for shard in ("1/2", "2/2"):
        ours.create("tree", "parts", public, shard=shard, no_cache=True)
    ran = earlier("list", "parts", "--partial", key=private)
    assert (ran.code, ran.out.count(b".mfn.partial")) == (0, 2), ran.err
    [part, _] = sorted(Path("parts").glob("shards-*"))
    for key in (private, "--encryption-keyfile=pair.encrypt"):
        ran = earlier("check", f"parts/{part.name}", key=key)
        assert ran.code == 0, ran.err
    assert earlier("restore", f"parts/{part.name}", "--into", "part", key=private).code == 0
    for path in Path("parts", "data").rglob("*="):
        os.utime(path, (time.time() - 30 * 24 * 3600,) * 2)
    ran = earlier("prune", "parts", "--keep-all", "--yes", key="--encryption-keyfile=pair.encrypt")
    assert ran.code == 0, ran.err
    assert not list(Path("parts").glob("condemned-*"))
    name = ours.merge("parts", public).manifest
    assert earlier("restore", f"parts/{name}", "--into", "out", key=private).code == 0
    assert contents(Path("out", "tree")) == contents(tree)


@pytest.mark.parametrize("words", [[], ["--allow-missing"]])
def test_a_prune_of_an_earlier_pogfast_deletes_no_pack(
    words: list[str],
    earlier: Callable[..., Ran],
    store: Path,
    tree: Path,
    their: Path,
    tmp_path: Path,
    pogfast: Runner,
) -> None:
    """Also if a prune of this version has condemned packs before. Since 0.6.0 it refuses to prune what lacks blobs."""
    refuses = b"--allow-missing" in earlier("prune", "--help").out
    if words and not refuses:
        pytest.skip("it has no such option")
    assert earlier("create", "their", "--to", "store").code == 0
    going = create(make_tree(tmp_path / "other", COUNT, seed=3), store).manifest
    assert pogfast("remove", f"store/{going}", "--yes", "--keyfile=key").code == 0
    time.sleep(1.1)
    assert pogfast("prune", "store", "--keep-all", "--yes", "--grace", "1s", "--keyfile=key").code == 0
    assert any(b"packs/" in path.read_bytes() for path in store.glob("condemned-*"))
    time.sleep(1.1)
    first, second = manifests(store)
    wanted = {first: archived(tree), second: archived(their)}
    third = create(make_tree(tree, COUNT, seed=4), store).manifest
    wanted[third], packs = archived(tree), contents(store / "packs")
    ran = earlier("prune", "store", "--keep-last", "1", "--yes", "--grace", "0", *words)
    refuses = refuses and not words
    assert ran.code == (4 if refuses else 0), ran.err
    assert ("missing" in ran.err) == refuses
    assert contents(store / "packs") == packs
    there = manifests(store)
    assert there == ([first, second, third] if refuses else [second, third])
    for name in there:
        assert from_archive(store, name, tmp_path / name) == wanted[name]
    assert ours.check(str(store), KEY, read_data=True).exit_code == 0


def test_an_earlier_pogfast_goes_on_after_its_store_was_packed(
    earlier: Callable[..., Ran], tree: Path, their: Path, tmp_path: Path
) -> None:
    """Its cache knows the blobs as objects of their own."""
    assert earlier("create", "tree", "--to", "store").code == 0
    ours.pack(str(tmp_path / "store"))
    assert packs_of(tmp_path / "store")
    (tree / "more").write_bytes(b"more")
    ran = earlier("create", "tree", "--to", "store")
    assert ran.code == 0, ran.err
    last = manifests(tmp_path / "store")[-1]
    assert from_archive(tmp_path / "store", last, tmp_path / "out") == archived(tree)

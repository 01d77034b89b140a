"""Every command that reads says of a store with packs what it says of a plain one: both have the same archives, in a
directory and in S3."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import pytest

import pogfast
from kit.commands import Ran, run
from kit.faultproxy import Fault, Proxy
from kit.packed import KEY, KEYFILE, archived, contents, create, damage, make_tree, packs_of, plain_of, rows_of
from kit.servers import Server

MANIFEST = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+\.mfn")


@dataclass
class Pair:
    """A plain store and one with packs, into which its two archives were copied."""

    work: Path
    plain: str
    packed: str
    environment: dict[str, str]
    names: list[str] = field(default_factory=list)  # of the archives
    client: Any = None

    def command(self, *words: str, code: int = 0, module: str = "pogfast", **more: Any) -> Ran:
        ran = run([sys.executable, "-m", module, *words], self.work, env=self.environment, **more)
        assert "Traceback" not in ran.err, ran.err
        assert ran.code == code, (words, ran.code, ran.err)
        return ran

    def both(self, *words: str, code: int = 0) -> tuple[Ran, Ran]:
        """Runs a command on each store, for which {} stands."""
        keyed = (*words, "--keyfile=key")
        plain, packed = (
            self.command(*(word.format(store) for word in keyed), code=code) for store in (self.plain, self.packed)
        )
        return plain, packed

    def same(self, *words: str, code: int = 0) -> bytes:
        """Asserts that a command says the same of both; returns what it says."""
        plain, packed = self.both(*words, code=code)
        assert packed.out == plain.out.replace(self.plain.encode(), self.packed.encode())
        return packed.out


@pytest.fixture(scope="module")
def stores(server: Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pair]:
    """Both pairs, made once: no test writes into them."""
    work = tmp_path_factory.mktemp("readers")
    (work / "key").write_bytes(KEYFILE)
    tree = make_tree(work / "tree", 250)
    (work / "empty").mkdir()
    environment = {**os.environ, **server.environment, "POGFAST_S3_ENDPOINT": server.url}
    environment |= {"POGFAST_CACHE_DIR": str(work / "cache"), "POGFAST_CONFIG_DIR": str(work / "config")}
    said = {"aws_access_key_id": server.key, "aws_secret_access_key": server.secret, "region_name": "us-east-1"}
    client = boto3.client("s3", endpoint_url=server.url, **said)
    for bucket in ("plain", "packed"):
        client.create_bucket(Bucket=bucket)
    pairs = {
        "directory": Pair(work, "plain", "packed", environment),
        "s3": Pair(work, "s3://plain/a", "s3://packed/b", environment, client=client),
    }
    create(tree, work / "plain")
    for number in range(40):
        (tree / f"d{number % 7}" / f"new {number}").write_bytes(b"the second time %d" % number * 50)
    (tree / "d3" / "f3").write_bytes(b"changed")
    (tree / "d4" / "f4").unlink()
    create(tree, work / "plain")
    for pair in pairs.values():
        if pair.plain != "plain":
            pair.command("copy", "plain", pair.plain, "--keyfile=key")
        pair.command("copy", "plain", pair.packed, "--packs=1MiB")
        pair.names = sorted(path.name for path in (work / "plain").glob("*.mfn"))
        assert len(pair.names) == 2
    assert packs_of(work / "packed")
    assert len(plain_of(work / "packed")) < 100 < 250 < len(plain_of(work / "plain"))
    return pairs


@pytest.fixture(params=["directory", "s3"])
def pair(request: pytest.FixtureRequest, stores: dict[str, Pair], monkeypatch: pytest.MonkeyPatch) -> Pair:
    chosen = stores[request.param]
    for word, value in chosen.environment.items():
        monkeypatch.setenv(word, value)
    monkeypatch.chdir(chosen.work)
    return chosen


# ---- commands


def test_list_and_info(pair: Pair) -> None:
    assert len(pair.same("list", "{}").splitlines()) >= 2
    pair.same("list", "{}", "--json")
    plain, packed = pair.both("info", "{}/latest", "--json")
    ours, theirs = ({**json.loads(ran.lines[0]), "archive": ""} for ran in (packed, plain))
    assert ours == theirs


def test_ls_and_find(pair: Pair) -> None:
    said = pair.same("ls", "{}/latest", "--long") + pair.same("ls", "{}/latest", "tree/d2")
    assert b"tree/d2/f2" in said
    found = pair.same("find", "{}", "new 1*")
    assert found.count(b"tree/d1/new 1") >= 1


def test_diff(pair: Pair) -> None:
    first, second = pair.names
    said = pair.same("diff", f"{{}}/{first}", f"{{}}/{second}")
    assert b"tree/d3/f3" in said
    assert b"tree/d4/f4" in said
    assert said.count(b"new ") == 40


def test_cat(pair: Pair) -> None:
    for name in ("tree/d5/f5", "tree/d3/f3", "tree/large", "tree/empty"):
        assert pair.same("cat", "{}/latest", name) == (pair.work / name).read_bytes()
    large = (pair.work / "tree/large").read_bytes()
    assert pair.same("cat", "{}/latest", "tree/large", "--offset=1234567", "--length=4321") == large[1234567:][:4321]
    pair.both("cat", "{}/latest", "tree/none", code=3)


def test_check(pair: Pair, tmp_path: Path) -> None:
    for words in (["{}"], ["{}", "--read-data"], ["{}/latest", "--against", "."]):
        plain, packed = pair.both("check", *words, "--json")
        ours, theirs = (json.loads(ran.lines[-1]) for ran in (packed, plain))
        for word in ("archives", "files", "blobs"):
            assert ours.get(word) == theirs.get(word), word
    other = tmp_path / "other"
    shutil.copytree(pair.work / "tree", other / "tree")
    (other / "tree/d1/f1").write_bytes(b"of another content")
    for ran in pair.both("check", "{}/latest", "--against", str(other), code=1):
        assert "tree/d1/f1" in os.fsdecode(ran.out) + ran.err


def test_restore(pair: Pair, tmp_path: Path) -> None:
    pair.command("restore", f"{pair.packed}/latest", "--keyfile=key", "--into", str(tmp_path / "all"))
    assert contents(tmp_path / "all") == archived(pair.work / "tree")
    some = ("tree/d2", "tree/d3/f38")
    pair.command("restore", f"{pair.packed}/latest", *some, "--keyfile=key", "--into", str(tmp_path / "some"))
    expected = {name: data for name, data in archived(pair.work / "tree").items() if name.startswith(some)}
    assert contents(tmp_path / "some") == expected
    plain, packed = pair.both("restore", "{}/latest", "--into", str(tmp_path / "none"), "--dry-run", "--json")
    ours, theirs = ({**json.loads(ran.lines[-1]), "seconds": 0, "archive": ""} for ran in (packed, plain))
    assert {key: ours[key] for key in ("files", "bytes_written") if key in ours} == {
        key: theirs[key] for key in ("files", "bytes_written") if key in theirs
    }


# ---- pog


def test_pog_decrypts(pair: Pair, tmp_path: Path) -> None:
    into = tmp_path / "into"
    into.mkdir()
    where = pair.packed if "://" in pair.packed else f"local:{pair.work / pair.packed}"
    words = [f"--keyfile={pair.work / 'key'}", "--decrypt", f"{where}/{pair.names[0]}"]
    ran = run([sys.executable, "-m", "pogfast.pog", *words], into, env=pair.environment)
    assert ran.code == 0, ran.err
    with pogfast.open_archive(f"{pair.plain}/{pair.names[0]}", KEY) as archive:
        assert {name: b"".join(archive.read(name)) for name in archive} == contents(into)


# ---- Python


def test_an_archive_in_python(pair: Pair) -> None:
    source = (pair.work / "tree/large").read_bytes()
    with pogfast.open_archive(f"{pair.packed}/latest", KEY) as archive:
        with archive.open("tree/large") as file:
            for at in (4_900_000, 0, 2_500_000, 17):
                file.seek(at)
                assert file.read(1000) == source[at : at + 1000]
            file.seek(-10, os.SEEK_END)
            assert file.read() == source[-10:]
        for name in reversed(list(archive)):
            assert b"".join(archive.read(name)) == (pair.work / name).read_bytes()


# ---- rights


def test_settings_that_may_not_be_read(stores: dict[str, Pair], proxy: Proxy) -> None:
    """A store is not taken for one that has lost them."""
    pair = stores["s3"]
    through = dataclasses.replace(pair, environment={**pair.environment, "POGFAST_S3_ENDPOINT": proxy.url})
    proxy.faults = [Fault("GET .*/pogfast.store", times=-1, status=403, code="AccessDenied")]
    for words in (["check", "--repair"], ["unpack"], ["list", "--keyfile=key"]):
        ran = through.command(*words, pair.packed, code=1)
        assert "permission to read pogfast.store" in ran.err
    assert proxy.count("PUT") == 0


# ---- several stores


@pytest.fixture
def broken(pair: Pair, tmp_path: Path) -> str:
    """A copy of the packed directory in which a blob of each pack is damaged."""
    shutil.copytree(pair.work / "packed", tmp_path / "broken")
    for pack in packs_of(tmp_path / "broken"):
        pack.chmod(0o600)
        damage(pack, rows_of(pack)[3].offset + 100)
    return str(tmp_path / "broken")


def test_mirrors(pair: Pair, broken: str, tmp_path: Path) -> None:
    """What is damaged in a pack is read from another store, plain or packed."""
    into = str(tmp_path / "alone")
    pair.command("restore", f"{broken}/latest", "--keyfile=key", "--into", into, code=4)
    for number, other in enumerate((pair.plain, pair.packed)):
        into = tmp_path / f"into{number}"
        words = ("restore", "latest", "--from", broken, "--from", other, "--keyfile=key", "--into", str(into))
        pair.command(*words)
        assert contents(into) == archived(pair.work / "tree")


# ---- tune


@pytest.mark.parametrize("how", ["as the store is", "as it is said"])
def test_tune_measures_with_packs(pair: Pair, tmp_path: Path, how: str) -> None:
    pytest.importorskip("numpy")
    there = pair.packed if how == "as the store is" else pair.plain
    before = everything(pair, there)
    quick = ("--levels=1", "--jobs=2", "--chunker=1MB", "--json")
    environment = {**pair.environment, **({} if there == pair.packed else {"POGFAST_PACKS": "1MiB"})}
    ran = run([sys.executable, "-m", "pogfast", "tune", "tree", "--to", there, *quick], pair.work, env=environment)
    assert ran.code == 0, ran.err
    [tried] = [told for told in map(json.loads, ran.lines) if told["message_type"] == "setting"]
    assert tried["blobs"] > 200
    if pair.client:
        assert tried["requests"]["put"] < 30
    assert everything(pair, there) == before


def everything(pair: Pair, store: str) -> list[str]:
    """All that lies in a store, and in the cache."""
    cached = [str(path) for path in (pair.work / "cache").rglob("*")]
    if pair.client:
        bucket = store.removeprefix("s3://").partition("/")[0]
        return cached + [item["Key"] for item in pair.client.list_objects_v2(Bucket=bucket)["Contents"]]
    return cached + sorted(map(str, (pair.work / store).rglob("*")))

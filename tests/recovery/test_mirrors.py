"""Several stores with the same archive: blobs that are missing or damaged in one are read from the next."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

import pogfast
import pogfast.recovery
from kit.commands import Ran, Runner
from pogfast.errors import NoSuchArchive, StoreLost
from pogfast.keys import from_keyfile


@pytest.fixture
def work(tmp_path: Path, pogfast: Runner) -> Path:
    """Two stores, a and b, with the same archive."""
    (tmp_path / "key").write_bytes(bytes(range(32)))
    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(6):
        (tree / str(number)).write_bytes(os.urandom(30_000 + number))
    (tree / "large").write_bytes(os.urandom(900_000))
    ran = pogfast("create", "tree", "--to", "a,b", "--keyfile", "key", "--chunk-size", "200kB")
    assert ran.code == 0, ran.err
    return tmp_path


def restore(pogfast: Runner, *more: str, name: str = "latest", stores: str = "a,b") -> Ran:
    return pogfast("restore", name, "--from", stores, "--into", "out", "--keyfile", "key", *more)


def restored(work: Path) -> bool:
    return all((work / "out/tree" / path.name).read_bytes() == path.read_bytes() for path in (work / "tree").iterdir())


def blobs(work: Path, store: str) -> list[Path]:
    return sorted((work / store / "data").rglob("*="))


def damage(path: Path, how: str) -> None:
    data = path.read_bytes()
    if how in ("missing", "link", "fifo"):
        path.unlink()
    if how == "link":
        path.symlink_to("/dev/zero")
    elif how == "fifo":
        os.mkfifo(path)
    elif how == "grown":
        os.truncate(path, 1 << 40)
    elif how != "missing":
        path.write_bytes(
            {"cut": data[:-9], "flipped": data[:200] + bytes([data[200] ^ 1]) + data[201:], "empty": b""}[how]
        )


@pytest.mark.parametrize("how", ["missing", "cut", "flipped", "empty", "grown", "link", "fifo"])
def test_each_blob_comes_from_a_store_that_has_it_good(work: Path, pogfast: Runner, how: str) -> None:
    """Every blob is bad in one of the two, also those of one file."""
    for number, (one, other) in enumerate(zip(blobs(work, "a"), blobs(work, "b"), strict=True)):
        damage(other if number % 2 else one, how)
    ran = restore(pogfast)
    assert ran.code == 0, ran.err
    assert restored(work)
    assert ("is damaged in a: using the copy in b" in ran.err) == (how in ("cut", "flipped", "empty"))
    assert ("the other stores are read" in ran.err) == (how in ("grown", "link", "fifo"))


def test_what_no_store_has_good_is_damage(work: Path, pogfast: Runner) -> None:
    # Of two files: a file that has lost one blob is not read on.
    first, second, *_ = [path for path in blobs(work, "a") if path.stat().st_size < 50_000]
    for store in "ab":
        damage(work / store / first.relative_to(work / "a"), "flipped")
        damage(work / store / second.relative_to(work / "a"), "missing")
    ran = restore(pogfast)
    assert ran.code == 4
    assert f"blob {first.name} is damaged or cut short" in ran.err
    assert f"blob {second.name} is missing" in ran.err


def test_a_manifest_that_is_damaged_or_missing_in_one(work: Path, pogfast: Runner) -> None:
    [manifest] = (work / "a").glob("*.mfn")
    good = manifest.read_bytes()
    for how in ("flipped", "grown", "link", "fifo"):
        manifest.unlink()
        manifest.write_bytes(good)
        damage(manifest, how)
        assert restore(pogfast).code == 0, how
        assert restored(work)
        shutil.rmtree(work / "out")
    manifest.unlink()
    assert restore(pogfast, name=manifest.name).code == 0
    assert restored(work)


def test_the_newest_of_all(work: Path, pogfast: Runner) -> None:
    (work / "tree" / "newer").write_bytes(b"newer")
    assert pogfast("create", "tree", "--to", "b", "--keyfile", "key").code == 0
    assert restore(pogfast).code == 0
    assert restored(work)


def test_a_store_that_is_not_there(work: Path, pogfast: Runner) -> None:
    ran = restore(pogfast, stores="nowhere,b")
    assert ran.code == 3
    assert "no store at nowhere" in ran.err
    assert restored(work)
    assert restore(pogfast, stores="nowhere,neither").code == 10


def test_a_store_that_fails_meanwhile_is_named_once(work: Path, tmp_path: Path) -> None:
    for blob in blobs(work, "a"):
        blob.unlink()
        blob.mkdir()  # what is there and cannot be read
    told: list[object] = []

    class Report(pogfast.recovery.Silent):
        def problem(self, error: Exception) -> None:
            told.append(error)

    key = from_keyfile(str(work / "key"))
    stores = [str(work / "a"), str(work / "b")]
    summary = pogfast.restore("latest", key, str(work / "out"), stores=stores, report=Report())
    assert [type(error) for error in told] == [StoreLost]
    assert summary.exit_code == 3
    assert restored(work)
    with pytest.raises(NoSuchArchive):
        pogfast.restore("x.mfn", key, str(work / "out"), stores=stores)


def test_words_that_do_not_go_together(work: Path, pogfast: Runner) -> None:
    assert restore(pogfast, name="a/latest").code == 2
    assert restore(pogfast, name="tree").code == 2
    assert restore(pogfast, stores="a,,b").code == 2

"""What commands say about packs, so that somebody who has just met them understands it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import pogfast
from kit.commands import Ran, Runner
from kit.packed import KEY, KEYFILE, create, indexes_of, make_files, packs_of

Command = Callable[..., Ran]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("POGFAST_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "key").write_bytes(KEYFILE)
    (tmp_path / "key").chmod(0o600)
    return tmp_path


@pytest.fixture
def tree(place: Path) -> Path:
    return make_files(place / "tree", 300)


@pytest.fixture
def store(place: Path, tree: Path) -> Path:
    create(tree, place / "store", packs="1MiB")
    return place / "store"


def test_summaries_count_packs(tree: Path, place: Path, pogfast: Runner) -> None:
    ran = pogfast("create", "tree", "--to", "one", "--packs=1MiB", "--keyfile", "key")
    packs = len(packs_of(place / "one"))
    assert f"in 301 blobs, small ones in {packs} packs; " in ran.err
    again = pogfast("create", "tree", "--to", "one", "--keyfile", "key", "--json")
    assert json.loads(again.lines[-1])["packs_new"] == 0
    for words, count in ((["--packs"], packs), ([], 0)):
        ran = pogfast("copy", "one", f"two{count}", *words)
        assert (f"301 blobs, small ones in {count} packs, " in ran.err) == bool(count), ran.err


def test_no_byte_of_a_new_store_is_waste(store: Path) -> None:
    assert pogfast.stats(str(store), KEY).wasted == 0


def test_a_store_that_lacks_its_settings_alone_has_no_damaged_archive(store: Path, pogfast: Runner) -> None:
    (store / "pogfast.store").unlink()
    ran = pogfast("check", "store", "--keyfile", "key")
    assert (ran.code, "damaged: pogfast.store, named above" in ran.err) == (4, True), ran.err


def test_a_missing_pack_is_reported_once(store: Path, pogfast: Runner) -> None:
    pack = packs_of(store)[0]
    pack.unlink()
    ran = pogfast("check", "store", "--keyfile", "key")
    [line] = [line for line in ran.err.splitlines() if "missing" in line]
    assert f"{pack.relative_to(store)} is missing, with " in line
    assert "files in 1 archive" in line
    said = [json.loads(line) for line in pogfast("check", "store", "--keyfile", "key", "--json").lines]
    errors = [each for each in said if each["message_type"] == "error"]
    assert len(errors) > 50
    assert {each["pack"] for each in errors} == {str(pack.relative_to(store))}


def test_a_folder_in_place_of_an_index_object_is_damage(store: Path, pogfast: Runner) -> None:
    index = indexes_of(store)[0]
    shutil.rmtree(os.environ["POGFAST_CACHE_DIR"], ignore_errors=True)
    index.unlink()
    index.mkdir()
    for words in (["--keyfile", "key"], []):
        ran = pogfast("check", "store", *words, "--repair")
        assert (ran.code, "delete the directory" in ran.err) == (4, True), ran.err
    index.rmdir()
    assert pogfast("check", "store", "--repair").code == 0


def test_a_check_without_a_key_says_what_it_does_not_read(store: Path, place: Path, tree: Path) -> None:
    def check(*words: str, given: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, "-m", "pogfast", "check", *words]
        place_of = {"input": given} if given is not None else {"stdin": subprocess.DEVNULL}
        return subprocess.run(command, capture_output=True, check=False, start_new_session=True, **place_of)

    ran = check("store", given=b"a password\n")
    assert (ran.returncode, b"standard input was not read" in ran.stderr) == (0, True), ran.stderr
    assert b"standard input" not in check("store").stderr
    create(tree, place / "plain")
    ran = check("store", "plain")
    assert (ran.returncode, b"plain has no packs" in ran.stderr) == (2, True), ran.stderr


def test_pack_says_why_it_moves_nothing(place: Path, pogfast: Runner) -> None:
    create(make_files(place / "few", 5), place / "plain")
    ran = pogfast("pack", "plain")
    assert "fewer than 16 small blobs" in ran.err


def test_pack_leaves_no_empty_folders(place: Path, tree: Path, pogfast: Runner) -> None:
    create(tree, place / "plain")
    assert pogfast("pack", "plain").code == 0
    assert all(any(folder.iterdir()) for folder in (place / "plain" / "data").iterdir())
    assert pogfast("check", "plain", "--keyfile", "key", "--read-data").code == 0

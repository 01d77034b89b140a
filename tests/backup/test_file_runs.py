"""Files that a create handles many at a time, in the engine: they become what each by itself would have become."""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pogfast
from kit.files import flip
from pogfast import backup, keys, manifest
from pogfast._engine import BlobSet, FileRun, Listing
from pogfast.backup import Silent, Summary
from pogfast.keys import Key

NAMES = [
    b"a",
    b"a.txt",
    b"a/b",
    b"a/c",
    b"a0",
    b'quote"d',
    b"back\\slash",
    b"new\nline",
    b"\x01",
    "é".encode(),
    b"b\xff",
    b"~",
]
OLD_ENOUGH = 0.15  # seconds after which a file's timestamps are believed


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files of all kinds, old enough for the cache to believe their timestamps."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("POGFAST_CACHE_DIR", str(tmp_path / "cache"))
    top = tmp_path / "tree"
    rng = random.Random(3)
    for number, name in enumerate(NAMES):
        path = os.fsencode(top) + b"/" + name
        if os.path.isfile(os.path.dirname(path)):
            path = os.fsencode(top) + b"/under-" + name
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(rng.randbytes(100 * number))
    (top / "empty").touch()
    (top / "large").write_bytes(rng.randbytes(700_000))
    (top / "same").write_bytes(b"same" * 100)
    (top / "same again").write_bytes(b"same" * 100)
    os.link(top / "same", top / "same file")
    (top / "link").symlink_to("same")
    with open(top / "sparse", "wb") as file:
        file.truncate(1 << 20)
    (top / "old").write_bytes(b"old")
    os.utime(top / "old", ns=(-5 * 10**17, -(10**18) - 1))
    (top / "mode").write_bytes(b"mode")
    (top / "mode").chmod(0o4751)
    (top / "attribute").write_bytes(b"attribute")
    try:
        os.setxattr(top / "attribute", "user.colour", b"red")
    except OSError:
        pytest.skip("no extended attributes here")
    time.sleep(OLD_ENOUGH)
    return top


@pytest.fixture(params=["keyfile", "pair"])
def key(request: pytest.FixtureRequest, tmp_path: Path) -> Key:
    if request.param == "pair":
        _, decrypt = keys.create_pair("pair", str(tmp_path))
        return keys.from_decryption_keyfile(decrypt)
    (tmp_path / "key").write_bytes(b"a secret")
    return keys.from_keyfile(str(tmp_path / "key"))


@pytest.fixture(params=["frames", "stream", "by content"])
def options(request: pytest.FixtureRequest) -> dict[str, Any]:
    if request.param == "by content":
        return {"layout": "frames", "chunker": "fastcdc"}
    return {"layout": request.param, "chunk_size": 1 << 18, "chunker": "fixed"}


class Heard(Silent):
    def __init__(self) -> None:
        self.outcomes: list[tuple[str, str, str, int]] = []

    def entry(self, name: str, path: str, outcome: str, size: int) -> None:
        self.outcomes.append((name, path, outcome, size))


@pytest.fixture
def one_by_one(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Has the next run handle each file by itself, or not."""

    def set_to(wanted: bool) -> None:
        takes = staticmethod(lambda above: not wanted)
        monkeypatch.setattr("pogfast.manifest.writing.Writer.takes_encoded", takes)

    return set_to


def create(key: Key, options: dict[str, Any], store: str, **more: Any) -> tuple[Summary, Heard]:
    heard = Heard()
    done = backup.create(["tree"], store, key, report=heard, **options, **more)
    assert done.problems == []
    return done, heard


def opened(store: str, name: str, key: Key) -> tuple[list[tuple[str, Any]], dict[str, Any]]:
    """The entries of an archive in order, and its trailer without what differs between two runs."""
    found = manifest.open((Path(store) / name).read_bytes(), key, name)
    assert found.trailer is not None
    trailer = {word: value for word, value in found.trailer.items() if word not in ("time", "ended", "host")}
    return [(name, entry) for name, entry in found.entries.items()], trailer


def without_access_times(entries: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    return [(name, (e.blobs, e.mtime, {w: v for w, v in e.more.items() if w != "atime_ns"})) for name, e in entries]


def same(one: tuple[Summary, Heard], other: tuple[Summary, Heard], key: Key, *stores: str) -> None:
    (first, first_heard), (second, second_heard) = one, other
    entries, trailer = opened(stores[0], first.manifest, key)
    others, other_trailer = opened(stores[-1], second.manifest, key)
    assert [name for name, _ in entries] == [name for name, _ in others]
    assert without_access_times(entries) == without_access_times(others)
    for word in ("added",):  # padding is random
        trailer["totals"].pop(word), other_trailer["totals"].pop(word)
    trailer.pop("directories"), other_trailer.pop("directories")
    trailer["totals"].pop("stored"), other_trailer["totals"].pop("stored")
    assert trailer == other_trailer
    assert sorted(first_heard.outcomes) == sorted(second_heard.outcomes)
    words = [
        "files_new",
        "files_unchanged",
        "directories",
        "others",
        "skipped",
        "bytes_source",
        "bytes_read",
        "blobs_new",
        "blobs_known",
    ]
    assert [getattr(first, word) for word in words] == [getattr(second, word) for word in words]


def test_both_ways_make_the_same_archive(
    tree: Path, tmp_path: Path, key: Key, options: dict[str, Any], one_by_one: Any
) -> None:
    """First runs into two stores, then second runs into one: what either way has written into the cache, the other
    believes."""
    one_by_one(True)
    first = create(key, options, "general")
    one_by_one(False)
    second = create(key, options, "store")
    assert second[0].files_new == len(NAMES) + 8
    # Blobs have random padding, so that their stored sizes differ; everything else is the same.
    entries, _ = opened("general", first[0].manifest, key)
    others, _ = opened("store", second[0].manifest, key)
    drop = {"atime_ns", "stored"}
    assert [(n, e.blobs, e.mtime, {w: v for w, v in e.more.items() if w not in drop}) for n, e in entries] == [
        (n, e.blobs, e.mtime, {w: v for w, v in e.more.items() if w not in drop}) for n, e in others
    ]
    assert [e.more.keys() for _, e in entries] == [e.more.keys() for _, e in others], "in one order"
    assert sorted(first[1].outcomes) == sorted(second[1].outcomes)
    runs = []
    for wanted in (True, False, False):
        one_by_one(wanted)
        runs.append(create(key, options, "store"))
        assert runs[-1][0].files_unchanged == len(NAMES) + 8
        same(runs[0], runs[-1], key, "store")
    one_by_one(True)
    shutil.rmtree(tmp_path / "cache")
    create(key, options, "store")
    one_by_one(False)
    same(runs[0], create(key, options, "store"), key, "store")


def test_what_has_changed_is_read(tree: Path, key: Key, options: dict[str, Any]) -> None:
    create(key, options, "store")
    flip(tree / "a.txt", 5)
    (tree / "a0").unlink()
    (tree / "a new one").write_bytes(b"new")
    os.utime(tree / "mode", ns=(1, 1))
    done, heard = create(key, options, "store")
    new = {name for name, _, outcome, _ in heard.outcomes if outcome == "new"}
    assert new == {"tree/a.txt", "tree/a new one", "tree/mode"}
    assert (done.files_new, done.files_unchanged) == (3, len(NAMES) + 5)


@pytest.mark.parametrize("packs", [False, True])
def test_blobs_that_are_gone_are_stored_again(tree: Path, key: Key, packs: bool) -> None:
    with pogfast.services(packs="16MiB" if packs else None):
        create(key, {}, "store")
    for path in [*Path("store", "data").rglob("*="), *Path("store").glob("packs/2*/*")]:
        path.unlink()
    done, _ = create(key, {}, "store")
    assert done.files_unchanged + done.files_new == len(NAMES) + 8
    assert done.files_unchanged <= 2, "as large as another one that was stored before its turn came"
    done, _ = create(key, {}, "store")
    assert done.files_unchanged == len(NAMES) + 8


def test_a_damaged_row_is_not_believed(tree: Path, key: Key, tmp_path: Path) -> None:
    import sqlite3

    create(key, {}, "store")
    [path] = (tmp_path / "cache").glob("*.sqlite")
    for column, value in (("digests", bytes(32)), ("stored", (7).to_bytes(8, "little")), ("proof", bytes(16)),
                          ("digests", "text"), ("stored", None), ("proof", 5), ("complete", 7), ("run", 2**70 % 2**63),
                          ("digests", bytes(33)), ("stored", b""), ("proof", b"")):  # fmt: skip
        database = sqlite3.connect(path)
        database.execute(f"UPDATE files SET {column} = ? WHERE path = ?", (value, os.fsencode(tree / "a.txt")))
        database.commit()
        database.close()
        done, heard = create(key, {}, "store")
        assert [name for name, _, outcome, _ in heard.outcomes if outcome == "new"] == ["tree/a.txt"], column
        assert done.files_unchanged == len(NAMES) + 7


# ---- the engine's part -----------------------------------------------------------------------------------------------


def test_a_listing_has_what_the_system_says(tree: Path) -> None:
    listing = Listing(os.fsencode(tree))
    names = sorted(os.listdir(os.fsencode(tree)))
    assert [os.fsencode(listing.name(number)) for number in range(len(listing))] == names
    assert [listing.position(name) for name in names] == list(range(len(names)))
    assert listing.position(b"") == 0
    assert listing.position(b"\xff\xff") == len(names)
    for number, name in enumerate(names):
        stat, right = listing.stat(number), os.lstat(os.path.join(os.fsencode(tree), name))
        for word in ["mode", "uid", "gid", "dev", "ino", "nlink", "size", "blocks", "mtime_ns", "ctime_ns"]:
            assert getattr(stat, f"st_{word}") == getattr(right, f"st_{word}"), (name, word)
    for number in (-1, len(names)):
        with pytest.raises(IndexError):
            listing.stat(number)
        with pytest.raises(IndexError):
            listing.name(number)
        with pytest.raises(IndexError):
            listing.end_of_files(number, 1)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Listing(b"nowhere")
    with pytest.raises(NotADirectoryError):
        Listing(os.fsencode(tree / "same"))
    with pytest.raises(ValueError, match="null"):
        Listing(b"a\0b")


def test_runs_are_of_plain_files(tree: Path) -> None:
    listing = Listing(os.fsencode(tree))
    at, runs = 0, set()
    while at < len(listing):
        end = listing.end_of_files(at, 600_000)
        runs |= {listing.name(number) for number in range(at, end)}
        at = max(end, at + 1)
    others = {"under-a", "attribute", "large", "link", "same", "same file", "sparse"}
    assert runs == {*os.listdir(tree)} - others
    for first, last in ((0, 0), (1, 1), (3, 2), (-1, 2), (0, 10_000)):
        with pytest.raises(IndexError):
            FileRun(listing, first, last, "")


def test_a_wide_directory_is_looked_at_in_parts(tmp_path: Path) -> None:
    for number in range(9000):
        (tmp_path / f"{number:05}").touch()
    listing = Listing(os.fsencode(tmp_path))
    ends = [listing.end_of_files(0, 1)]
    while ends[-1] < len(listing):
        ends.append(listing.end_of_files(ends[-1], 1))
    assert ends == [4096, 8192, 9000]
    (tmp_path / "00003").unlink()
    run = FileRun(listing, 8192, 9000, "above/")
    assert run.node(3)[:2] == (f"{tmp_path}/08195", "above/08195")
    with pytest.raises(FileNotFoundError, match="00003"):
        listing.stat(3)


def test_a_file_that_was_not_read_has_no_entry(tree: Path) -> None:
    listing = Listing(os.fsencode(tree / "under-a"))
    run = FileRun(listing, 0, 1, "")
    with pytest.raises(ValueError, match="not known"):
        run.entries(0, 1, b'"', {}, lambda uid, gid: b"", manifest.encoded)
    for number in (-1, 1):
        with pytest.raises(IndexError):
            run.node(number)


def test_a_set_of_blobs() -> None:
    seen = BlobSet()
    names = [os.urandom(32) for _ in range(3000)]
    text = [manifest_name(name) for name in names]
    assert seen.add(text, list(range(3000))) == sum(range(3000))
    assert seen.add(text, [1] * 3000) == 0
    assert seen.add([text[0], manifest_name(os.urandom(32))], [5, 7]) == 7
    with pytest.raises(ValueError, match="not a blob's name"):
        seen.add(["no name"], [1])
    with pytest.raises(ValueError, match="size"):
        seen.add(text, [])


def manifest_name(digest: bytes) -> str:
    import base64

    return base64.urlsafe_b64encode(digest).decode()

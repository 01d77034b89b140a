"""Directories and programs as stores: addresses, listings, and errors for missing, unreadable and planted files."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import threading
import time
from pathlib import Path

import pytest

import pogfast
from kit import oracle
from kit.files import plant_socket
from pogfast import keys, stores
from pogfast.errors import (
    CorruptBlob,
    CorruptManifest,
    MissingBlob,
    NoSuchArchive,
    PogfastError,
    StoreError,
    UsageError,
)
from pogfast.files import unfinished
from pogfast.pog.addresses import check_targets, open_archive
from pogfast.stores import LocalStore, check_stores, find_manifest, names_archive, open_store, protocols
from pogfast.stores import local as local_module

KEY = oracle.OracleKey.of_keyfile(b"k")
NAMES = sorted(KEY.name(bytes([number])) for number in range(40))


def put(store: Path, name: str, data: bytes, *, flat: bool = False) -> None:
    path = store / name if flat else store / "data" / name[:2] / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def local(store: protocols.Store | protocols.Target) -> LocalStore:
    assert isinstance(store, LocalStore)
    return store


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "program"
    path.write_text('#!/bin/sh\ncp "$2" "$(dirname "$0")/stored"\n')
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("flat", [False, True])
def test_listing_a_store(tmp_path: Path, flat: bool) -> None:
    for length, name in enumerate(NAMES):
        put(tmp_path, name, bytes(length), flat=flat)
    for noise in ("note.txt", "b.mfn.tmp", "._b.mfn", ".pogfast-h-1-1-1.tmp", NAMES[0][:-1], "data/README", "data/x"):
        if not flat or "/" not in noise:
            (tmp_path / noise).write_bytes(b"noise")
    for number, name in enumerate(("b.mfn", "a.mfn")):
        (tmp_path / name).write_bytes(bytes(number + 1))
    (tmp_path / "directory.mfn").mkdir()
    if not flat:
        put(tmp_path, "xx/misplaced", b"")
        (tmp_path / "data" / "AA" / NAMES[-1]).parent.mkdir(exist_ok=True)
        (tmp_path / "data" / "AA" / NAMES[-1]).write_bytes(b"in a folder that is not its own")
    store = open_store(str(tmp_path))
    assert [stored[:2] for stored in store.manifests()] == [("a.mfn", 2), ("b.mfn", 1)]
    assert sorted(stored[:2] for stored in store.blob_names()) == [(name, length) for length, name in enumerate(NAMES)]
    assert {stored[:3] for stored in (*store.blob_names(), *store.manifests())} == {
        (path.name, path.stat().st_size, path.stat().st_mtime)
        for path in tmp_path.rglob("*")
        if path.name in {*NAMES, "a.mfn", "b.mfn"} and "noise" not in str(path) and path.parent.name != "AA"
    }
    assert [store.size_of(name) for name in NAMES] == list(range(40))
    assert [bytes(store.get_blob(name)) for name in NAMES] == [bytes(length) for length in range(40)]
    store.close()


def test_missing_objects(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "data"):
        path.mkdir(exist_ok=True)
        store = open_store(str(tmp_path))
        assert store.manifests() == []
        assert list(store.blob_names()) == []
        assert store.size_of(NAMES[0]) is None
        with pytest.raises(MissingBlob, match=f"blob {NAMES[0]} is missing from {tmp_path}"):
            store.get_blob(NAMES[0])
        with pytest.raises(NoSuchArchive, match=r"no such archive: x\.mfn"):
            store.get_manifest("x.mfn")
        store.close()


def test_an_unreadable_blob_is_not_a_missing_one(tmp_path: Path) -> None:
    put(tmp_path, NAMES[0], b"")
    folder = tmp_path / "data" / NAMES[1][:2]
    folder.write_bytes(b"a file")
    store = open_store(str(tmp_path))
    for name in (NAMES[1],):
        with pytest.raises(StoreError, match=name):
            store.get_blob(name)
        with pytest.raises(StoreError, match=name):
            store.size_of(name)
    put(tmp_path, NAMES[2] + "/is a directory", b"")
    with pytest.raises(StoreError, match=NAMES[2]):
        store.get_blob(NAMES[2])
    store.close()


@pytest.mark.parametrize("flat", [False, True])
def test_a_listing_goes_on_while_blobs_come_and_go(tmp_path: Path, flat: bool) -> None:
    """Also if a blob vanishes between the listing and its stat."""
    names = [f"xx{number:041}=" for number in range(500)]
    for name in names:
        put(tmp_path, name, b"x", flat=flat)
    (tmp_path / "a.mfn").touch()
    store = open_store(str(tmp_path))
    stop = threading.Event()

    def churn() -> None:
        while not stop.is_set():
            for name in names[250:]:
                (tmp_path / name if flat else tmp_path / "data" / "xx" / name).unlink()
            for name in names[250:]:
                put(tmp_path, name, b"x", flat=flat)

    other = threading.Thread(target=churn)
    other.start()
    try:
        for _ in range(100):
            assert set(names[:250]) <= {stored.name for stored in store.blob_names()}
    finally:
        stop.set()
        other.join()
    store.close()


def test_no_descriptor_is_left(tmp_path: Path) -> None:
    put(tmp_path, NAMES[0], b"x")
    before = len(os.listdir("/proc/self/fd"))
    store = open_store(str(tmp_path))
    next(store.blob_names())
    blob = store.get_blob(NAMES[0])
    store.manifests()
    with pytest.raises(MissingBlob):
        store.get_blob(NAMES[1])
    store.close()
    assert bytes(blob) == b"x", "what was got stays when the store is closed"
    del blob
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("written", ["{}", "{}/", "local:{}", "local:{}//"])
def test_a_directory_is_a_store(tmp_path: Path, written: str) -> None:
    target = tmp_path / "new" / "store"
    with pytest.raises(NoSuchArchive, match="no store at"):
        open_store(written.format(target))
    assert not target.exists()
    made = local(open_store(written.format(target), create=True))
    assert (made.path, made.fan_out) == (str(target), True)
    made.put_manifest("only-directories.mfn", b"no blob")
    made.close()
    for again in (open_store(written.format(target)), open_store(written.format(target), create=True)):
        assert local(again).fan_out, "also while it has no blob"
        again.close()


def test_relative_stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for word in ("local", "store", "local:other", "./s3", "latest/"):
        open_store(word, create=True).close()
    assert sorted(os.listdir(tmp_path)) == ["latest", "local", "other", "s3", "store"]
    store, name = find_manifest("store/x.mfn")
    assert (store.path, name) == ("store", "x.mfn")
    store.close()
    for word in ("latest", "local:latest", "./latest"):
        store, name = find_manifest(word)
        assert (store.path, name) == (".", "latest")
        store.close()


def test_a_flat_store_stays_flat(tmp_path: Path) -> None:
    put(tmp_path, NAMES[0], b"x", flat=True)
    (tmp_path / "a.mfn").write_bytes(b"m")
    for make in (lambda: open_store(str(tmp_path)), lambda: open_store(str(tmp_path), create=True)):
        store = local(make())
        assert not store.fan_out
        store.close()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "somebody's").mkdir()
    for archive in (f"{tmp_path}/a.mfn", f"local:{tmp_path}/a.mfn"):
        found, name = find_manifest(archive)
        assert (name, found.size_of(NAMES[0]), local(found).fan_out) == ("a.mfn", 1, False)
        found.close()
    put(tmp_path, NAMES[1], b"xy")
    found, _ = find_manifest(f"{tmp_path}/latest")
    assert (found.size_of(NAMES[0]), found.size_of(NAMES[1])) == (None, 2)
    found.close()


def test_a_program_is_written_to(tmp_path: Path, program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for word in (str(program), "program"):
        monkeypatch.chdir(tmp_path)
        with contextlib.closing(open_store(word, create=True)) as store:
            store.put_manifest("x.mfn", word.encode())
        assert (tmp_path / "stored").read_bytes() == word.encode()
    with pytest.raises(UsageError, match="can be written to, but not read"):
        open_store(str(program))
    program.chmod(0o644)
    with pytest.raises(StoreError, match="is a file, not a store"):
        open_store(str(program), create=True)
    with pytest.raises(NoSuchArchive, match="is a file, not a store"):
        open_store(str(program))


@pytest.mark.parametrize("word", ["s3://", "s3:///x", "b2://", "b2:///latest"])
def test_invalid_addresses_of_services(word: str) -> None:
    for call in (lambda: open_store(word), lambda: open_store(word, create=True), lambda: check_stores(f"x,{word}")):
        with pytest.raises(UsageError, match="names no bucket"):
            call()
    if names_archive(word):
        with pytest.raises(UsageError, match="names no bucket"):
            find_manifest(word)


def test_pogs_addresses_of_services(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("S3_BUCKET_NAME", raising=False)
    for word in ("s3", "s3:", "s3://", "local,s3"):
        with pytest.raises(UsageError, match="names no bucket"):
            check_targets(word)
    monkeypatch.setenv("S3_BUCKET_NAME", "bucket")
    for word in ("s3", "s3:bucket", "s3://bucket/prefix"):
        check_targets(word)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s3").mkdir()
    store, name = open_archive("s3/x.mfn")
    assert (store.path, name) == (".", "s3/x.mfn"), "a directory of that name is one"
    store.close()


@pytest.mark.parametrize("word", ["", "local:", "store", "store/", "store/.mfn", "x.mfn/", "latest/", "/"])
def test_addresses_that_are_not_an_archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError):
        find_manifest(word)
    assert not names_archive(word) or word.endswith("/.mfn")


@pytest.mark.parametrize(
    ("word", "path"),
    [("/x.mfn", "/"), ("local:/x.mfn", "/"), ("//latest", "/"), ("local:x.mfn", "."), ("x.mfn", "."), ("./x.mfn", ".")],
)
def test_unusual_addresses_of_archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str, path: str) -> None:
    monkeypatch.chdir(tmp_path)
    store, name = find_manifest(word)
    assert (store.path, name) == (path, word.rpartition("/")[2].removeprefix("local:"))
    store.close()


def test_a_deleted_store(tmp_path: Path) -> None:
    put(tmp_path / "store", NAMES[0], b"x")
    store = open_store(str(tmp_path / "store"))
    shutil.rmtree(tmp_path / "store")
    calls = [
        lambda: list(store.blob_names()),
        lambda: store.manifests(),
        lambda: store.get_manifest("x.mfn"),
        lambda: store.get_blob(NAMES[0]),
    ]
    for call in calls:
        try:
            assert call() == []
        except PogfastError as error:
            assert "\n" not in str(error)
    store.close()


# ---- what somebody else who can write to the directory has put there -----------------------------------------------


def plant(path: Path, kind: str, elsewhere: Path) -> None:
    """Plants something other than a file under a name in a store. `elsewhere` is the target of links."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif kind == "socket":
        plant_socket(path)
    else:
        path.symlink_to(elsewhere)


PLANTED = ("fifo", "directory", "link", "socket")


@pytest.mark.parametrize("kind", PLANTED)
def test_a_planted_manifest_is_neither_followed_nor_waited_for(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").write_bytes(b"secret")
    plant(tmp_path / "store" / "x.mfn", kind, tmp_path / "elsewhere")
    with contextlib.closing(local(open_store("store"))) as store:
        # It is not passed over: prune would take the blobs of what it stands for as needed by nobody.
        assert [stored.name for stored in store.manifests()] == ([] if kind == "directory" else ["x.mfn"])
        expected = StoreError if kind == "directory" else CorruptManifest
        with pytest.raises(expected, match=r"cannot read x\.mfn: (it is|Is a)"):
            store.get_manifest("x.mfn")
    with contextlib.closing(open_store("store", create=True)) as target:
        if kind == "directory":
            with pytest.raises(StoreError, match=r"cannot write x\.mfn to store: Is a directory"):
                target.put_manifest("x.mfn", b"ours")
        else:
            target.put_manifest("x.mfn", b"ours")
            assert (tmp_path / "store" / "x.mfn").read_bytes() == b"ours"
    assert (tmp_path / "elsewhere").read_bytes() == b"secret"
    assert os.listdir(tmp_path / "store").count("x.mfn") == 1


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("kind", PLANTED)
def test_a_planted_blob_is_neither_followed_nor_waited_for(
    tmp_path: Path, kind: str, flat: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").write_bytes(b"secret")
    blob = tmp_path / "store" / NAMES[0] if flat else tmp_path / "store" / "data" / NAMES[0][:2] / NAMES[0]
    plant(blob, kind, tmp_path / "elsewhere")
    (tmp_path / "store" / "a.mfn").touch()
    put(tmp_path / "store", NAMES[1], b"good", flat=flat)
    with contextlib.closing(local(open_store("store"))) as store:
        assert [stored.name for stored in store.blob_names()] == [NAMES[1]]
        assert store.size_of(NAMES[0]) is None
        expected = StoreError if kind == "directory" else CorruptBlob
        with pytest.raises(expected, match=f"cannot read blob {NAMES[0]} in store: (it is|Is a)"):
            store.get_blob(NAMES[0])


@pytest.mark.parametrize("which", ["data", "folder"])
@pytest.mark.parametrize("kind", ["fifo", "link", "socket"])
def test_a_planted_folder_is_not_entered(
    tmp_path: Path, kind: str, which: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    there = tmp_path / "there"
    put(there, NAMES[0], b"not ours")
    folder = NAMES[0][:2]
    if which == "data":
        plant(tmp_path / "store" / "data", kind, there / "data")
    else:
        plant(tmp_path / "store" / "data" / folder, kind, there / "data" / folder)
    with contextlib.closing(local(LocalStore.open("store", fan_out=True))) as store:
        said = "is a symbolic link, which is not followed" if kind == "link" else "Not a directory"
        for act in (lambda: store.get_blob(NAMES[0]), lambda: store.size_of(NAMES[0])):
            with pytest.raises(StoreError, match=f"{NAMES[0]} in store: .*{said}"):
                act()
        with pytest.raises(StoreError, match=f"cannot delete {NAMES[0]} from store: .*{said}"):
            store.delete_blobs([NAMES[0]])
        if which == "data" or kind == "link":
            with pytest.raises(StoreError, match=said):
                list(store.blob_names())
    if which == "data":
        with pytest.raises(StoreError, match=f"cannot write to store: .*{said}"):
            open_store("store", create=True)
    assert (there / "data" / folder / NAMES[0]).read_bytes() == b"not ours"


def test_a_temporary_name_is_unpredictable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a file that has it is not written to."""
    (tmp_path / "elsewhere").write_bytes(b"secret")
    (tmp_path / "store").mkdir()
    monkeypatch.setattr("pogfast.stores.local.temporary_prefix", lambda: b".pogfast-host-1-1-")
    monkeypatch.setattr("os.urandom", bytes)
    (tmp_path / "store" / f".pogfast-host-1-1-{'00' * 8}.tmp").symlink_to(tmp_path / "elsewhere")
    with (
        contextlib.closing(open_store(str(tmp_path / "store"), create=True)) as store,
        pytest.raises(StoreError, match=r"cannot write x\.mfn"),
    ):
        store.put_manifest("x.mfn", b"ours")
    assert (tmp_path / "elsewhere").read_bytes() == b"secret"
    assert (tmp_path / "store" / f".pogfast-host-1-1-{'00' * 8}.tmp").is_symlink()


def test_leftovers_that_cannot_be_removed_do_no_harm(tmp_path: Path) -> None:
    (tmp_path / f".pogfast-{unfinished.HOST}-{2**22 + 1}-1-1.tmp" / "full").mkdir(parents=True)
    (tmp_path / f".pogfast-{unfinished.HOST}-{2**22 + 1}-1-2.tmp").touch()
    open_store(str(tmp_path), create=True).close()
    assert [name for name in os.listdir(tmp_path) if name.endswith(".tmp")] == [
        f".pogfast-{unfinished.HOST}-{2**22 + 1}-1-1.tmp"
    ]


def test_a_sparse_file_takes_no_memory(tmp_path: Path) -> None:
    put(tmp_path, NAMES[0], b"")
    blob = tmp_path / "data" / NAMES[0][:2] / NAMES[0]
    for path in (tmp_path / "x.mfn", blob):
        with open(path, "wb") as file:
            file.truncate(10**13)
    with contextlib.closing(local(open_store(str(tmp_path)))) as store:
        with pytest.raises(CorruptManifest, match=r"cannot read x\.mfn: it has 10,000,000,000,000 bytes"):
            store.get_manifest("x.mfn")
        with pytest.raises(CorruptBlob, match=f"cannot read blob {NAMES[0]}"):
            store.get_blob(NAMES[0])


# ---- names that must not be taken from anybody ---------------------------------------------------------------------


@pytest.fixture(params=["links", "no links"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalStore:
    """A store whose file system has hard links, or refuses them as FAT does."""
    if request.param == "no links":

        def refused(*arguments: object, **more: object) -> None:
            raise PermissionError(errno.EPERM, "Operation not permitted")

        monkeypatch.setattr(os, "link", refused)
    return LocalStore.create(str(tmp_path / "store"), fan_out=True)


def test_a_manifest_never_replaces_another(store: LocalStore) -> None:
    store.put_manifest("a.mfn", b"first")
    with pytest.raises(StoreError, match=r"an archive a\.mfn exists already"):
        store.put_manifest("a.mfn", b"second")
    assert store.get_manifest("a.mfn") == b"first"
    store.put_mark("sweep.running-1", b"first")
    store.put_mark("sweep.running-1", b"second")
    assert store.get_manifest("sweep.running-1") == b"second"
    assert sorted(os.listdir(store.path)) == ["a.mfn", "sweep.running-1"], "nothing unfinished is left"


def test_a_manifest_too_large_to_read_is_not_stored(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_module, "MAX_MANIFEST", 10)
    with pytest.raises(StoreError, match=r"a\.mfn has 11 bytes"):
        store.put_manifest("a.mfn", bytes(11))
    with pytest.raises(StoreError, match=r"condemned-1 has 11 bytes"):
        store.put_mark("condemned-1", bytes(11))
    assert os.listdir(store.path) == []
    store.put_manifest("a.mfn", bytes(10))


def test_the_first_error_is_reported(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if the temporary file cannot be removed."""

    def interrupted(file: int) -> None:
        for left in Path(store.path).glob(".pogfast-*"):
            left.unlink()
        raise KeyboardInterrupt

    monkeypatch.setattr("pogfast.stores.local.sync_file_system", interrupted)
    with pytest.raises(KeyboardInterrupt):
        store.put_manifest("a.mfn", b"manifest")


def placed(store: LocalStore, name: str, data: bytes, written: int) -> Path:
    path = Path(store.path, "data", name[:2], name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    os.utime(path, (written, written))
    return path


@pytest.mark.parametrize("written", [999, 1000, 1001])
def test_only_old_blobs_are_deleted(store: LocalStore, written: int) -> None:
    path = placed(store, NAMES[0], b"blob", written)
    listed = list(store.blob_names())
    assert list(store.delete_old_blobs(listed, 1000.0, lambda: True)) == (listed if written < 1000 else [])
    assert path.exists() == (written >= 1000)
    gone = [stores.Stored(NAMES[1], 4, 0.0)]
    assert list(store.delete_old_blobs(gone, 1000.0, lambda: True)) == gone, "it was gone already"
    assert not list(store.delete_old_blobs(gone, 1000.0, lambda: False))


@pytest.mark.parametrize("meanwhile", ["once", "twice"])
def test_a_blob_that_is_stored_again_while_it_is_deleted_stays(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, meanwhile: str
) -> None:
    path = placed(store, NAMES[0], b"old", 999)
    real, looks = os.rename, []

    def rename(old: str, new: str, **more: int) -> None:
        if not looks:
            placed(store, NAMES[0], b"new", 1000)
        looks.append(old)
        real(old, new, **more)
        if len(looks) == 1 and meanwhile == "twice":
            placed(store, NAMES[0], b"newer", 2000)

    monkeypatch.setattr(os, "rename", rename)
    assert list(store.delete_old_blobs(store.blob_names(), 1000.0, lambda: True)) == []
    assert path.read_bytes() == (b"new" if meanwhile == "once" else b"newer")
    assert os.listdir(store.path) == ["data"]


def test_blobs_that_a_killed_prune_moved_aside_are_put_back(store: LocalStore) -> None:
    there = placed(store, NAMES[1], b"there", 999)
    aside = {name: Path(store.path, f".pogfast-trash-0123456789abcdef-{name}") for name in (*NAMES[:2], "note")}
    aside[NAMES[0]].write_bytes(b"aside")
    aside[NAMES[1]].write_bytes(b"older")
    aside["note"].write_bytes(b"note")
    path = placed(store, NAMES[0], b"", 999)
    path.unlink()
    store.begin_sweep()
    assert path.read_bytes() == b"aside"
    assert there.read_bytes() == b"there"
    assert sorted(os.listdir(store.path)) == [aside["note"].name, "data"]


def test_a_removed_manifest_is_deleted_only_as_it_was_listed(store: LocalStore) -> None:
    store.put_manifest("a.mfn", b"manifest")
    store.remove_manifest("a.mfn")
    with pytest.raises(NoSuchArchive):
        store.remove_manifest("a.mfn")
    [listed] = store.marks()
    store.forget_removed(listed._replace(modified=listed.modified - 1))
    assert [mark.name for mark in store.marks()] == ["a.mfn.removed"], "it was removed again meanwhile"
    store.forget_removed(listed)
    store.forget_removed(listed)
    assert os.listdir(store.path) == []


def test_doubted_blobs_count_as_absent(store: LocalStore) -> None:
    placed(store, NAMES[0], b"blob", int(time.time()))
    store.doubt([NAMES[0]])
    assert store.size_of(NAMES[0]) is None
    assert store.missing(NAMES[:2]) == [NAMES[1]], "it is there"
    store.doubt([])
    assert store.size_of(NAMES[0]) == 4


def test_unsynced_blobs_count_as_absent(store: LocalStore) -> None:
    """Blobs newer than every manifest and older than the last boot."""
    for name, written in zip(NAMES[:3], (999, 1001, int(time.time())), strict=True):
        placed(store, name, b"blob", written)

    def sizes() -> list[int | None]:
        opened = LocalStore.create(store.path, fan_out=True)
        return [opened.size_of(name) for name in NAMES[:3]]

    assert sizes() == [None, None, 4]
    manifest = Path(store.path, "a.mfn")
    manifest.touch()
    os.utime(manifest, (1000, 1000))
    assert sizes() == [4, None, 4]
    os.utime(manifest, (1001, 1001))
    assert sizes() == [4, 4, 4]
    later = time.time() + 10**6
    os.utime(manifest, (later, later))
    assert sizes() == [4, 4, 4]


def test_a_blob_emptied_by_a_power_cut_is_stored_again(tmp_path: Path) -> None:
    """It still has its size, and a machine with only the public key cannot open it."""
    keys.create_pair("k", str(tmp_path))
    public = keys.from_encryption_keyfile(str(tmp_path / "k.encrypt"))
    (tmp_path / "file").write_bytes(os.urandom(5000))

    def create() -> None:
        pogfast.create([str(tmp_path / "file")], str(tmp_path / "store"), public, cache_dir="")

    create()
    [blob] = (tmp_path / "store" / "data").rglob("*=")
    [archive] = (tmp_path / "store").glob("*.mfn")
    archive.unlink()
    blob.write_bytes(bytes(blob.stat().st_size))
    os.utime(blob, (1000, 1000))
    create()
    private = keys.from_decryption_keyfile(str(tmp_path / "k.decrypt"))
    assert pogfast.check(str(tmp_path / "store"), private, read_data=True).exit_code == 0

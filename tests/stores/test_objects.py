"""Objects in a directory that are named by their paths: planted links, failed writes, killed prunes, backups beside."""

from __future__ import annotations

import array
import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

import pogfast
from kit import oracle
from pogfast import keys, stores
from pogfast.errors import CorruptBlob, MissingBlob, NoSuchArchive, StoreError
from pogfast.stores import LocalStore, local, open_stores

DAY = "packs/2026-11-30"
KEY = oracle.OracleKey.of_keyfile(b"k")
NAMES = sorted(KEY.name(bytes([number])) for number in range(3))
PACK = f"{DAY}/{NAMES[0]}"
INDEX = f"packs/index/{NAMES[1]}"
SETTINGS = b'{"layout": 1, "packs": null, "requires": ["packs1"]}'


@pytest.fixture(params=[True, False], ids=["fan-out", "flat"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> LocalStore:
    return LocalStore.create(str(tmp_path / "store"), fan_out=request.param)


def placed(store: LocalStore, path: str, data: bytes, written: int) -> Path:
    store.put_object(path, data, replace=True)
    file = Path(store.path, path)
    os.utime(file, (written, written))
    return file


@pytest.mark.parametrize("linked", ["packs", DAY])
def test_folders_that_are_links_are_not_followed(store: LocalStore, tmp_path: Path, linked: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "2026-11-30").mkdir(parents=True)
    for folder in (elsewhere, elsewhere / "2026-11-30"):
        (folder / NAMES[0]).write_bytes(b"theirs")
    link = Path(store.path, linked)
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(elsewhere)
    attempts: list[Callable[[], object]] = [
        lambda: store.put_object(PACK, b"ours!!"),
        lambda: store.put_object(PACK, b"ours!!", replace=True),
        lambda: store.get_object(PACK, 100),
        lambda: store.read_range(PACK, 0, 3),
        lambda: store.missing([PACK]),
        lambda: list(store.objects("packs/")),
        lambda: list(store.objects(f"{DAY}/")),
        lambda: list(store.objects(PACK)),
        lambda: store.delete_blobs([PACK]),
        lambda: list(store.delete_old_blobs([stores.Stored(PACK, 6, 0.0)], 1e12, lambda: True)),
    ]
    for attempt in attempts:
        with pytest.raises(StoreError, match="is a symbolic link, which is not followed"):
            attempt()
    assert [path.read_bytes() for path in elsewhere.rglob("*=")] == [b"theirs"] * 2
    assert [path for path in os.listdir(store.path) if path.startswith(".pogfast-")] == []


def test_what_is_no_file_is_no_object(store: LocalStore, tmp_path: Path) -> None:
    store.put_object(PACK, b"a pack")
    folder = Path(store.path, DAY)
    os.mkfifo(folder / "fifo")
    (folder / "link").symlink_to(folder / NAMES[0])
    assert [found.name for found in store.objects("packs/")] == [PACK]
    for name, said in (("fifo", "it is not a regular file"), ("link", "it is a symbolic link, which is not followed")):
        for read in (lambda path: store.get_object(path, 100), lambda path: store.read_range(path, 0, 3)):
            with pytest.raises(CorruptBlob, match=f"cannot read {DAY}/{name} in .*: {said}"):
                read(f"{DAY}/{name}")
        assert store.missing([f"{DAY}/{name}"]) == [f"{DAY}/{name}"]
        store.put_object(f"{DAY}/{name}", b"replaced")
        assert bytes(store.get_object(f"{DAY}/{name}", 100)) == b"replaced"
    assert bytes(store.get_object(PACK, 6)) == b"a pack", "what the link led to"
    Path(store.path, "pogfast.store").mkdir()
    with pytest.raises(StoreError, match=r"cannot read pogfast\.store in "):
        store.get_object("pogfast.store", 100)


@pytest.mark.parametrize("path", ["packs/../../x", "../x", "/x", "packs//x", "./x"])
def test_no_path_leads_out_of_the_store(store: LocalStore, tmp_path: Path, path: str) -> None:
    (tmp_path / "x").write_bytes(b"theirs")
    with pytest.raises(StoreError, match="leads out of the store"):
        store.put_object(path, b"ours")
    with pytest.raises(CorruptBlob, match="leads out of the store"):
        store.get_object(path, 100)
    with pytest.raises(StoreError, match="leads out of the store"):
        store.delete_blobs([path])
    assert (tmp_path / "x").read_bytes() == b"theirs"


@pytest.mark.parametrize("size", [0, 1, local.PIECE - 1, local.PIECE, local.PIECE + 1, 32 << 20])
def test_an_object_is_written_whole(store: LocalStore, size: int) -> None:
    data = os.urandom(size)
    store.put_object(PACK, data)
    assert Path(store.path, PACK).read_bytes() == data == bytes(store.get_object(PACK, size))
    if size:
        assert bytes(store.read_range(PACK, size // 2, size - size // 2)) == data[size // 2 :]
    with pytest.raises(CorruptBlob, match="ends at byte"):
        store.read_range(PACK, size, 1)
    assert sorted(os.listdir(store.path)) == ["packs"]


def test_a_buffer_of_larger_items(store: LocalStore) -> None:
    items = array.array("Q", range(1000))
    for _ in range(2):
        store.put_object(PACK, memoryview(items))
        assert bytes(store.get_object(PACK, 8000)) == items.tobytes()


def test_an_object_of_that_size_is_neither_written_nor_touched(store: LocalStore) -> None:
    file = placed(store, PACK, b"first", 1000)
    store.put_object(PACK, b"again")
    assert (file.read_bytes(), file.stat().st_mtime) == (b"first", 1000)
    store.put_object(PACK, b"again", replace=True)
    assert file.read_bytes() == b"again"


def test_a_full_disk_leaves_nothing(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    written = os.write

    def full(file: int, data: memoryview) -> int:
        if len(data) < local.PIECE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return written(file, data)

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StoreError, match=f"cannot write {PACK} to .*: No space left on device") as failed:
        store.put_object(PACK, bytes(local.PIECE + 1))
    assert failed.value.hint.startswith("make room")
    assert [path.name for path in Path(store.path).rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("written", [999, 1000])
def test_only_old_objects_are_deleted(store: LocalStore, written: int) -> None:
    files = [placed(store, path, b"pack", written) for path in (PACK, INDEX)]
    listed = list(store.objects("packs/"))
    assert list(store.delete_old_blobs(listed, 1000.0, lambda: True)) == (listed if written < 1000 else [])
    assert [file.exists() for file in files] == [written >= 1000] * 2
    assert os.listdir(store.path) == ["packs"]


def test_an_object_that_is_stored_again_while_it_is_deleted_stays(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = placed(store, PACK, b"old", 999)
    renamed = os.rename

    def rename(old: str, new: str, **more: int) -> None:
        monkeypatch.setattr(os, "rename", renamed)
        placed(store, PACK, b"new", 1000)
        renamed(old, new, **more)

    monkeypatch.setattr(os, "rename", rename)
    assert list(store.delete_old_blobs(list(store.objects("packs/")), 1000.0, lambda: True)) == []
    assert file.read_bytes() == b"new"
    assert os.listdir(store.path) == ["packs"]


def killed_in(store: LocalStore, monkeypatch: pytest.MonkeyPatch, path: str) -> str:
    """Has a prune die while it deletes an object; returns the name that it leaves at the root."""

    def killed(*words: object, **more: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "unlink", killed)
        deleting = store.delete_old_blobs([stores.Stored(path, 0, 0.0)], 1000.0, lambda: True)
        with pytest.raises(KeyboardInterrupt):
            next(deleting)
    [left] = [name for name in os.listdir(store.path) if name.startswith(".pogfast-trash-")]
    return left


def test_objects_that_a_killed_prune_moved_aside_are_put_back(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in (PACK, INDEX):
        file = placed(store, path, b"pack", 999)
        left = killed_in(store, monkeypatch, path)
        assert not file.exists()
        assert not left.endswith("="), "a release without packs puts what ends like a blob's name back into data/"
        store.begin_sweep()
        assert file.read_bytes() == b"pack"
    assert os.listdir(store.path) == ["packs"]


def test_a_planted_name_puts_nothing_back_elsewhere(store: LocalStore, tmp_path: Path) -> None:
    for name in ("packs+..+..+x+", "..+x+", "+x+", "packs+", "a.mfn+", "packs+x+y"):
        Path(store.path, f".pogfast-trash-0123456789abcdef-{name}").touch()
    there = sorted(tmp_path.rglob("*"))
    store.begin_sweep()
    assert sorted(tmp_path.rglob("*")) == there


def test_a_store_of_packs_alone_exists(tmp_path: Path) -> None:
    for number, path in enumerate((PACK, "pogfast.store")):
        place = tmp_path / str(number)
        place.mkdir()
        with pytest.raises(NoSuchArchive, match="and it must exist"):
            open_stores(str(place), lambda lost: None, must_exist=True)
        LocalStore.open(str(place), fan_out=True).put_object(path, SETTINGS)
        [opened] = open_stores(str(place), lambda lost: None, must_exist=True)
        opened.close()


def test_packs_do_not_make_a_store_flat(tmp_path: Path) -> None:
    store = LocalStore.create(str(tmp_path), fan_out=True)
    for path in (PACK, INDEX, "pogfast.store"):
        store.put_object(path, b"{}")
    store.put_manifest("a.mfn", b"")
    assert not local.is_flat(str(tmp_path))
    (tmp_path / NAMES[0]).touch()
    assert local.is_flat(str(tmp_path)), "a blob beside the manifests does"


def archived(tmp_path: Path) -> set[str]:
    key = keys.from_keyfile(str(tmp_path / "k"))
    target = str(tmp_path / "elsewhere" / "store")
    here = tmp_path / "here"
    made = pogfast.create([str(here)], [str(here), target], key, cache_dir="").manifest
    paths = set(pogfast.open_archive(f"{target}/{made}", key))
    return {path.partition("here/")[2] for path in paths} - {""}


@pytest.mark.parametrize("packed", [True, False])
def test_a_backup_of_what_the_store_lies_in_leaves_out_packs(tmp_path: Path, packed: bool) -> None:
    """But not a user's directory of that name."""
    (tmp_path / "k").write_bytes(bytes(range(32)))
    (tmp_path / "elsewhere").mkdir()
    store = LocalStore.create(str(tmp_path / "here"), fan_out=True)
    (tmp_path / "here" / "note").write_bytes(b"note")
    own = PACK if packed else "packs/2026-11-30/notes"
    store.put_object(own, b"a pack")
    if packed:
        store.put_object("pogfast.store", SETTINGS)
    assert archived(tmp_path) == {"note"} | (set() if packed else {own})


def test_a_missing_object(store: LocalStore) -> None:
    for path in (PACK, INDEX, "pogfast.store"):
        with pytest.raises(MissingBlob, match=f"{path} is missing from {store.label}"):
            store.get_object(path, 100)
        store.delete_blobs([path])
        assert list(store.delete_old_blobs([stores.Stored(path, 1, 0.0)], 1.0, lambda: True)) == [
            stores.Stored(path, 1, 0.0)
        ]

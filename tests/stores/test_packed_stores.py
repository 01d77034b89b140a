"""Stores with packs: what is stored in them comes back, whatever was killed, deleted or added in between."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

import pogfast
from kit.commands import Runner
from kit.packed import (
    KEY,
    KEYFILE,
    archived,
    contents,
    create,
    indexes_of,
    make_tree,
    packs_of,
    plain_of,
    restored,
    rows_of,
)
from kit.packs import Listed, make_index, name_of
from pogfast.errors import CorruptPack, StoreError, UsageError
from pogfast.stores import open_store
from pogfast.stores.local import LocalStore
from pogfast.stores.names import Stored
from pogfast.stores.packs import layout
from pogfast.stores.packs.catalog import IndexPart
from pogfast.stores.packs.index_cache import IndexCache
from pogfast.stores.packs.store import PackedStore
from pogfast.stores.protocols import put_blob

COUNT = 300

pytestmark = pytest.mark.usefixtures("index_objects")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("POGFAST_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return make_tree(tmp_path / "tree", COUNT)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


@contextmanager
def opened(store: Path, *, create: bool = False) -> Iterator[PackedStore]:
    one = open_store(str(store), create=create)
    assert isinstance(one, PackedStore)
    try:
        yield one
    finally:
        one.close()


def test_small_files_lie_in_a_pack_and_large_ones_by_themselves(tree: Path, store: Path, tmp_path: Path) -> None:
    create(tree, store, packs="yes")
    assert len(packs_of(store)) == 1
    assert len(indexes_of(store)) == 1
    assert [path.stat().st_size > 2 << 20 for path in plain_of(store)] == [True]
    assert restored(store, tmp_path / "out") == {f"{tree.name}/{name}": data for name, data in contents(tree).items()}
    summary = pogfast.check(str(store), KEY, read_data=True)
    assert (summary.exit_code, summary.blobs) == (0, COUNT + 2)


def test_threads_that_store_blobs_first_share_a_packer(
    tree: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`copy` stores blobs with several: a blob that went to a packer of its own was lost."""
    create(tree, store, packs="yes")

    def slowly(self: PackedStore, blobs: object) -> None:
        time.sleep(0.2)  # as long as a service takes to list

    monkeypatch.setattr(PackedStore, "_plain", slowly)
    with opened(store, create=True) as one, ThreadPoolExecutor(8) as threads:
        assert len(set(threads.map(lambda _: one.blobs, range(8)))) == 1
        assert len(set(threads.map(lambda _: one.source, range(8)))) == 1


@pytest.mark.parametrize("blobs", [3, 100], ids=["too few for a pack", "a pack"])
def test_what_could_not_be_stored_in_the_background_fails_the_run(
    store: Path, monkeypatch: pytest.MonkeyPatch, blobs: int
) -> None:
    """An idle pack is stored by a thread whose errors nobody sees."""
    monkeypatch.setattr("pogfast.stores.packs.sink.IDLE", -1.0)
    names = [name_of(hashlib.sha256(b"%d" % number).digest()) for number in range(blobs)]
    with pogfast.services(packs="1MiB"), opened(store, create=True) as one:
        for name in names:
            one.blobs(name, os.urandom(4000))
        for name in names:
            (store / "data" / name[:2]).write_bytes(b"where the directory of the blob has to be")
        (store / "packs").write_bytes(b"where the directory of packs has to be")
        one.keep_up()
        for _ in range(2):
            with pytest.raises(StoreError):
                one.make_durable()


def test_a_listing_that_fails_is_made_up_for(tree: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it found before is not forgotten, and the next one tells what is new."""
    create(tree, store, packs="yes")
    with opened(store) as one:
        name = rows_of(packs_of(store)[0])[0].name
        assert one.size_of(name)
        make_tree(tree / "more", COUNT, seed=3)
        create(tree, store)
        new = next(row.name for pack in packs_of(store) for row in rows_of(pack) if one.size_of(row.name) is None)
        listed = LocalStore.objects

        def fails(self: LocalStore, prefix: str) -> Iterator[Stored]:
            yield next(listed(self, prefix))
            raise StoreError("the disk is gone for a moment")

        def unreadable(self: LocalStore, path: str, limit: int) -> bytes:
            raise StoreError("the disk is gone for a moment")

        with monkeypatch.context() as patched:
            patched.setattr(LocalStore, "objects", fails)
            with pytest.raises(StoreError):
                one.catalog.refresh()
        assert one.size_of(name)
        with monkeypatch.context() as patched:
            patched.setattr(IndexCache, "get", lambda self, path: None)
            patched.setattr(LocalStore, "get_object", unreadable)
            with pytest.raises(StoreError):
                one.catalog.refresh()
        assert one.size_of(name)
        assert one.catalog.refresh()
        assert one.size_of(new)


@pytest.mark.usefixtures("index_files")
@pytest.mark.parametrize("way", ["size_of", "missing", "locate", "holders", "get_blob", "blobs", "look_again"])
def test_a_cached_file_that_breaks_hides_no_blob(tree: Path, store: Path, cache: Path, way: str) -> None:
    """Its index object is fetched again, and stays in memory: the cache may be on a bad disk."""
    create(tree, store, packs="yes")
    with opened(store) as one:
        name, span = next(one.catalog.blobs())
        index = one.catalog.index
        while one.catalog.look_again():
            pass
        [file] = cache.glob("*.packs/*")
        os.truncate(file, 500)
        if way == "size_of":
            assert one.size_of(name) == span.size
        elif way == "missing":
            assert one.missing([name]) == []
        elif way == "locate":
            assert one.catalog.locate([name]) == [span]
        elif way == "holders":
            assert one.catalog.holders(name) == [span]
        elif way == "get_blob":
            assert len(one.get_blob(name)) == span.size
        elif way == "blobs":
            with pytest.raises(StoreError, match="cannot be read"):
                next(one.catalog.blobs())
            assert len(list(one.catalog.blobs())) > COUNT - 10
        else:
            assert index.find(name) is None
            assert one.catalog.look_again()
        assert index.find(name) is not None
        assert file.stat().st_size == 500
    with opened(store) as one:
        assert one.catalog.locate([name]) == [span]
        assert file.stat().st_size > 500


def test_a_pack_does_not_stay_open_for_ever(tree: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that adds a blob now and then: what is in an open pack would be lost with it."""
    monkeypatch.setattr("pogfast.stores.packs.sink.MAX_AGE", 0.2)
    with pogfast.services(packs="1MiB"), opened(store, create=True) as one:
        for number in range(100):
            one.blobs(name_of(hashlib.sha256(b"%d" % number).digest()), os.urandom(4000))
        one.keep_up()
        assert one.blobs.idle() is not None
        time.sleep(0.3)
        one.blobs(name_of(bytes(32)), b"another one")
        one.keep_up()
        assert one.blobs.idle() is None
        one.make_durable()
        assert len(packs_of(store)) == 1


def test_a_blob_that_another_thread_has_found_elsewhere(
    tree: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has listed the packs in between, and a further listing shows nothing new."""
    create(tree, store, packs="yes")
    with opened(store) as one:
        name, _ = next(one.catalog.blobs())
        blob = bytes(one.get_blob(name))
        packs_of(store)[0].unlink()
        put_blob(one.base, name, memoryview(blob))
        monkeypatch.setattr(one.catalog, "look_again", lambda: one.catalog.refresh() and False)
        assert bytes(one.get_blob(name)) == blob


def test_a_damaged_index_object_is_written_again(tree: Path, store: Path, cache: Path) -> None:
    """Under the same name, since its bytes follow from the packs; of the same size, so that only its name tells."""
    create(tree, store, packs="yes")
    [index] = indexes_of(store)
    good = index.read_bytes()
    index.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    shutil.rmtree(cache)
    assert create(tree, store).blobs_new == 0
    assert indexes_of(store) == [index]
    assert index.read_bytes() == good


def test_a_store_remembers_that_it_has_packs(tree: Path, store: Path, tmp_path: Path) -> None:
    create(tree, store, packs="yes")
    (tree / "more").mkdir()
    for number in range(100):
        (tree / "more" / str(number)).write_bytes(os.urandom(4000))
    summary = create(tree, store)
    assert summary.blobs_new == 100
    assert len(packs_of(store)) == 2
    again = create(tree, store, no_cache=True)
    assert again.blobs_new == 0
    assert len(packs_of(store)) == 2
    assert restored(store, tmp_path / "out") == {f"{tree.name}/{name}": data for name, data in contents(tree).items()}


def test_a_profile_a_variable_and_the_option_ask_for_packs(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = tmp_path / "small.toml"
    profile.write_text('packs = "8MiB"\n')
    create(tree, tmp_path / "one", profile=str(profile))
    monkeypatch.setenv("POGFAST_PACKS", "yes")
    create(tree, tmp_path / "two")
    sizes = []
    for name in ("one", "two"):
        with opened(tmp_path / name) as store:
            sizes.append(store.settings.size)
    assert sizes == [8 << 20, 16 << 20]


def test_a_plain_and_a_packed_store_in_one_run(tree: Path, tmp_path: Path) -> None:
    packed, plain = tmp_path / "packed", tmp_path / "plain"
    with pogfast.services(packs="1MiB"):
        pogfast.create(["large"], str(packed), KEY, directory=tree)
    summary = pogfast.create([tree.name], [str(plain), str(packed)], KEY, directory=tree.parent)
    assert not summary.problems
    assert len(packs_of(packed)) == 2
    assert packs_of(plain) == []
    assert len(plain_of(plain)) == COUNT + 2
    wanted = {f"{tree.name}/{name}": data for name, data in contents(tree).items()}
    assert restored(packed, tmp_path / "out") == restored(plain, tmp_path / "out") == wanted


def test_a_pack_under_two_days_counts_once(tree: Path, store: Path, cache: Path, tmp_path: Path) -> None:
    """Two prunes around midnight may make the same one."""
    create(tree, store, packs="yes")
    [pack] = packs_of(store)
    (store / "packs/2026-01-31").mkdir()
    shutil.copy2(pack, store / "packs/2026-01-31" / pack.name)
    assert pogfast.check(str(store), None).exit_code == 0
    for index in indexes_of(store):
        index.unlink()
    shutil.rmtree(cache)
    assert restored(store, tmp_path / "out") == archived(tree)
    make_tree(tree / "more", COUNT, seed=3)
    create(tree, store)
    count = len(indexes_of(store))
    for _ in range(2):
        create(tree, store)
        assert len(indexes_of(store)) == count, "nothing is left to write"
    pack.unlink()
    assert restored(store, tmp_path / "out") == archived(tree)


def test_files_in_a_directory_named_packs_beside_a_plain_store(tree: Path, store: Path, tmp_path: Path) -> None:
    create(tree, store)
    (store / "packs/2026-01-31").mkdir(parents=True)
    (store / "packs/2026-01-31/notes").write_bytes(b"a user's own")
    (store / "packs/link").symlink_to(tmp_path)
    assert restored(store, tmp_path / "out") == archived(tree)
    with pytest.raises(UsageError, match="no packs"):
        pogfast.check(str(store), None)


def test_a_tier_with_a_large_index_object_is_merged(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The smallest ones of it, if the others would make them too large."""
    parts = []
    for number, rows in enumerate([4000, *[600] * 8]):
        blobs = [(hashlib.sha256(b"%d %d" % (number, row)).digest(), 1000) for row in range(rows)]
        data = make_index([Listed(bytes([number]) * 32, 1044 * rows + 48, blobs)])
        parts.append(IndexPart(str(number), data, layout.read_header(data)))
    monkeypatch.setattr(layout, "MAX_INDEX", sum(len(part.data) for part in parts) - 1)
    with pogfast.services(packs="1MiB"), opened(store, create=True) as one:
        one.catalog._parts = parts
        assert [part.path for part in one.catalog._to_merge()] == [str(number) for number in range(1, 9)]


@pytest.mark.parametrize("damage", ["missing", "empty", "not JSON", "too large", "a FIFO"])
def test_settings_that_are_damaged(tree: Path, store: Path, tmp_path: Path, damage: str) -> None:
    """Everything is read without them; only `check --repair` writes them again, unless they are gone."""
    create(tree, store, packs="1MiB")
    settings = store / "pogfast.store"
    settings.unlink()
    if damage == "a FIFO":
        os.mkfifo(settings)
    elif damage != "missing":
        settings.write_bytes({"empty": b"", "not JSON": b'{"layout"', "too large": bytes(1 << 20)}[damage])
    assert restored(store, tmp_path / "out") == archived(tree)
    if damage == "missing":
        assert create(tree, store, no_cache=True).blobs_new == 0
        assert settings.exists()
        settings.unlink()
    else:
        with pytest.raises(CorruptPack, match="does not parse") as raised:
            create(tree, store)
        assert "--repair" in raised.value.hint
    for key in (None, KEY):
        assert pogfast.check(str(store), key).exit_code == 4
    assert pogfast.check(str(store), None, repair=True).exit_code == 0
    assert create(tree, store, no_cache=True).blobs_new == 0
    assert restored(store, tmp_path / "out") == archived(tree)


def test_a_size_of_packs_without_an_equals_sign(tree: Path, tmp_path: Path, pogfast: Runner) -> None:
    (tmp_path / "key").write_bytes(KEYFILE)
    for word in ("64MiB", "5"):
        ran = pogfast("create", "tree", "--to=new", "--packs", word, "--keyfile=key")
        assert (ran.code, f"--packs={word}" in ran.err) == (2, True), ran.err
        assert not (tmp_path / "new").exists()
        (tmp_path / word).write_bytes(b"a file of that name")
    assert pogfast("create", "tree", "5", "--to=new", "--packs", "64MiB", "--keyfile=key").code == 0

"""Prunes that repack: what is needed of packs with much waste is stored anew, and the old packs go later."""

from __future__ import annotations

import hashlib
import json
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import pogfast
from kit.commands import Runner
from kit.packed import make_unreadable, rows_of
from pogfast import keys
from pogfast.errors import CorruptBlob, CorruptPack, StoreError
from pogfast.stores.local import LocalStore
from pogfast.stores.packs import layout, repacking
from pogfast.upkeep.pruning import Summary

SECRET = b"the content of a keyfile"
KEY = keys.Key("keyfile", hashlib.sha256(SECRET).digest())
DAY = 24 * 3600
SIZE = 6000


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POGFAST_CACHE_DIR", str(tmp_path / "cache"))


class Shop:
    """A store of packs of 1 MiB, in which files come and go."""

    def __init__(self, root: Path) -> None:
        self.tree, self.store, self.root = root / "tree", root / "store", root
        self.tree.mkdir()
        self.some = random.Random(5)

    def fill(self, count: int, prefix: str = "f") -> None:
        for number in range(count):
            (self.tree / f"{prefix}{number:04}").write_bytes(self.some.randbytes(SIZE))

    def drop(self, wanted: float) -> None:
        """Deletes a share of the files."""
        for path in sorted(self.tree.iterdir()):
            if self.some.random() < wanted:
                path.unlink()

    def create(self) -> pogfast.backup.Summary:
        with pogfast.services(packs="1MiB"):
            return pogfast.create([self.tree.name], str(self.store), KEY, directory=self.tree.parent)

    def age(self, days: float) -> None:
        """Makes everything in the store older."""
        for path in self.store.rglob("*"):
            if path.is_file():
                when = path.stat().st_mtime - days * DAY
                os.utime(path, (when, when))

    def prune(self, **more: object) -> Summary:
        words = {"keep_last": 1, "group_by": (), "dry_run": False, **more}
        return pogfast.prune(str(self.store), KEY, **words)

    def packs(self) -> set[str]:
        return {path.name for path in self.store.glob("packs/2*/*")}

    def wanted(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.tree.iterdir()}

    def restored(self, archive: str = "latest") -> dict[str, bytes]:
        target = self.root / f"out{self.some.random()}"
        summary = pogfast.restore(f"{self.store}/{archive}", KEY, into=str(target))
        assert not summary.problems, summary.problems
        return {path.name: path.read_bytes() for path in target.rglob("*") if path.is_file()}

    def held(self) -> dict[str, int]:
        """Returns how many packs have each blob, by their tables."""
        found: dict[str, int] = {}
        for path in self.store.glob("packs/2*/*"):
            data = path.read_bytes()
            for row in layout.read_table(data, len(data), "a pack"):
                found[row.name] = found.get(row.name, 0) + 1
        return found


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """Two archives in ten packs; the newer one needs a third of the files of the older one."""
    shop = Shop(tmp_path)
    shop.fill(800)
    shop.create()
    shop.drop(2 / 3)
    shop.create()
    shop.age(10)
    return shop


def test_packs_with_much_waste_are_repacked_and_deleted_a_grace_period_later(shop: Shop) -> None:
    before = shop.packs()
    would = shop.prune(dry_run=True)
    assert shop.packs() == before
    first = shop.prune()
    assert first.repacked.packs == would.repacked.packs == 0, "the removed archive can be brought back"
    shop.age(2)
    would = shop.prune(dry_run=True)
    second = shop.prune()
    assert second.expired == 1
    assert second.repacked.packs == would.repacked.packs == len(before)
    assert second.repacked.size == would.repacked.size
    assert before < shop.packs()
    shop.age(2)
    third = shop.prune()
    assert third.packs == len(before)
    assert third.blobs == 800 - len(shop.wanted())
    assert not before & shop.packs()
    assert set(shop.held().values()) == {1}
    assert len(shop.held()) == len(shop.wanted())
    assert shop.restored() == shop.wanted()
    assert pogfast.check(str(shop.store), KEY, read_data=True).exit_code == 0
    shop.age(2)
    assert shop.prune().repacked.packs == 0


def test_without_a_grace_period_old_packs_go_at_once(shop: Shop) -> None:
    before = shop.packs()
    summary = shop.prune(grace=0)
    assert (summary.packs, summary.repacked.packs) == (len(before), len(before))
    assert not before & shop.packs()
    assert shop.restored() == shop.wanted()


def test_young_packs_stay(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    shop.fill(300)
    shop.create()
    shop.drop(0.7)
    shop.create()
    removed = sorted(path.name for path in shop.store.glob("*.mfn"))[0]
    (shop.store / removed).unlink()
    assert shop.prune().repacked.packs == 0
    shop.age(2)
    assert shop.prune().repacked.packs > 0


@pytest.mark.parametrize(("words", "share"), [({"max_repack": 0}, 0.0), ({"max_repack": 400_000}, 0.3)])
def test_no_more_is_stored_again_than_allowed(shop: Shop, words: dict[str, object], share: float) -> None:
    before = shop.packs()
    summary = shop.prune(grace=0, **words)
    assert summary.repacked.packs <= share * len(before)
    assert (summary.repacked.packs > 0) == (share > 0)
    assert summary.repacked.unused_size > 0
    assert shop.restored() == shop.wanted()


def test_some_waste_is_allowed(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    shop.fill(600)
    shop.create()
    shop.drop(0.2)
    shop.create()
    shop.age(10)
    assert shop.prune(grace=0, max_unused="25%").repacked.packs == 0
    assert shop.prune(grace=0, max_unused="unlimited").repacked.packs == 0
    unused = shop.prune(grace=0, max_unused="15%").repacked
    assert 0 < unused.packs < len(shop.packs())
    assert 0 < unused.unused_size <= 0.15 * 600 * SIZE
    assert shop.prune(grace=0, max_unused=0).repacked.unused_size == 0
    assert shop.restored() == shop.wanted()


def test_a_removed_archive_can_be_brought_back_after_a_repack(shop: Shop) -> None:
    full = shop.restored(sorted(path.name for path in shop.store.glob("*.mfn"))[0])
    shop.drop(0.5)
    shop.create()
    shop.age(3)
    shop.prune(keep_last=1)
    shop.age(0.5)
    again = shop.prune(max_unused=0)
    assert again.expired == 0
    [old, _] = sorted(path.name.removesuffix(".removed") for path in shop.store.glob("*.removed"))
    assert pogfast.undelete(str(shop.store), KEY, [old]).done == [old]
    for _ in range(3):
        shop.age(2)
        shop.prune(keep_last=2)
    assert shop.restored(old) == full


def test_a_blob_that_is_damaged_is_not_copied_and_its_pack_stays(shop: Shop) -> None:
    [newest] = sorted(shop.store.glob("*.mfn"))[-1:]
    needed = set(pogfast.manifest.blob_names(newest.read_bytes(), KEY, newest.name))
    path = sorted(shop.store.glob("packs/2*/*"))[0]
    data = bytearray(path.read_bytes())
    row = next(row for row in layout.read_table(data, len(data), "a pack") if row.name in needed)
    data[row.offset + 50] ^= 1
    path.write_bytes(data)
    os.utime(path, (time.time() - 10 * DAY,) * 2)
    summary = shop.prune(grace=0)
    assert [type(problem) for problem in summary.problems] == [CorruptBlob]
    assert row.name in str(summary.problems[0])
    assert newest.name in str(summary.problems[0])
    assert path.name in shop.packs()
    assert row.name in shop.held()
    assert needed <= shop.held().keys()
    again = shop.prune(grace=0)
    assert (len(again.problems), again.repacked.packs) == (1, 0)


def test_a_pack_on_a_bad_sector_stays_and_the_others_are_repacked(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    before = shop.packs()
    path = sorted(shop.store.glob("packs/2*/*"))[0]
    needed = needed_of(shop)
    bad = next(row for row in rows_of(path) if row.name in needed)
    make_unreadable(monkeypatch, path, bad.offset)
    summary = shop.prune(grace=0)
    monkeypatch.undo()
    assert [type(problem) for problem in summary.problems] == [CorruptPack]
    assert path.name in str(summary.problems[0])
    assert summary.repacked.packs == len(before) - 1
    assert before & shop.packs() == {path.name}
    assert needed <= shop.held().keys()


def test_a_table_on_a_bad_sector_keeps_its_pack(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    before = shop.packs()
    path = sorted(shop.store.glob("packs/2*/*"))[0]
    make_unreadable(monkeypatch, path, path.stat().st_size - 1)
    summary = shop.prune(grace=0)
    monkeypatch.undo()
    assert summary.repacked.packs == len(before) - 1
    assert before & shop.packs() == {path.name}
    assert needed_of(shop) <= shop.held().keys()


def test_a_disk_that_is_full_does_not_keep_a_prune_from_condemning(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*words: object, **more: object) -> None:
        raise StoreError("no space left on device")

    shop.prune()
    shop.age(2)
    monkeypatch.setattr(LocalStore, "put_object", full)
    summary = shop.prune()
    assert [problem.exit_code for problem in summary.problems] == [StoreError.exit_code]
    monkeypatch.undo()
    assert set(shop.held()) >= needed_of(shop)


def needed_of(shop: Shop) -> set[str]:
    [newest] = sorted(shop.store.glob("*.mfn"))[-1:]
    return set(pogfast.manifest.blob_names(newest.read_bytes(), KEY, newest.name))


@pytest.mark.parametrize("where", ["pack", "index"])
def test_a_repack_that_is_killed_is_finished_by_the_next(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """After the packs and before the index, or in the middle of the packs."""
    put, count = LocalStore.put_object, iter(range(1000))

    class Killed(BaseException): ...

    def dies(self: LocalStore, path: str, data: bytes, **more: bool) -> None:
        if layout.is_index_object(path) if where == "index" else next(count) == 2:
            raise Killed
        put(self, path, data, **more)

    before = shop.packs()
    shop.prune()
    shop.age(2)
    monkeypatch.setattr(LocalStore, "put_object", dies)
    with pytest.raises(Killed):
        shop.prune()
    monkeypatch.undo()
    assert before < shop.packs()
    for _ in range(2):
        assert needed_of(shop) <= shop.held().keys()
        shop.age(2)
        shop.prune()
    assert not before & shop.packs()
    assert set(shop.held().values()) == {1}
    assert shop.restored() == shop.wanted()


def test_two_repacks_at_once(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one runs from end to end in the middle of the first one."""
    shop.prune()
    shop.age(2)
    run_, others = repacking.Repacking.run, iter([shop])

    def runs(self: repacking.Repacking, chosen: list[repacking.Usage]) -> None:
        for other in others:
            other.prune()
            other.prune(grace=1e-3)
        run_(self, chosen)

    monkeypatch.setattr(repacking.Repacking, "run", runs)
    shop.prune()
    monkeypatch.undo()
    for _ in range(3):
        assert needed_of(shop) <= shop.held().keys()
        assert shop.restored() == shop.wanted()
        shop.age(2)
        shop.prune()
    assert set(shop.held().values()) == {1}


def test_a_few_blobs_are_stored_by_themselves_in_place_of_older_copies(tmp_path: Path) -> None:
    """Only a later holder is a reason to delete a pack."""
    shop = Shop(tmp_path)
    shop.fill(400)
    shop.create()
    shop.drop(0.98)
    shop.create()
    shop.age(10)
    before, needed = shop.packs(), needed_of(shop)
    for path in shop.store.glob("packs/2*/*"):
        data = path.read_bytes()
        for row in layout.read_table(data, len(data), "a pack"):
            if row.name in needed:
                plain = shop.store / "data" / row.name[:2] / row.name
                plain.parent.mkdir(parents=True, exist_ok=True)
                plain.write_bytes(data[row.offset : row.offset + row.size])
                os.utime(plain, (time.time() - 20 * DAY,) * 2)
    summary = shop.prune(grace=0)
    assert summary.packs == len(before)
    assert not shop.packs()
    assert shop.restored() == shop.wanted()


@pytest.mark.parametrize(
    "torn", [lambda blob: blob[: len(blob) // 2], lambda blob: bytes(len(blob))], ids=["cut", "zeros"]
)
def test_torn_plain_blobs_are_no_reason_to_delete_packs(shop: Shop, torn: Callable[[bytes], bytes]) -> None:
    """pogcli was killed while it wrote them into the store, or the power was cut while `unpack` did."""
    for path in shop.store.glob("packs/2*/*"):
        data = path.read_bytes()
        for row in rows_of(path):
            plain = shop.store / "data" / row.name[:2] / row.name
            plain.parent.mkdir(parents=True, exist_ok=True)
            plain.write_bytes(torn(data[row.offset : row.offset + row.size]))
            os.utime(plain, (time.time() - 5 * DAY,) * 2)
    for _ in range(3):
        shop.prune(max_repack=0)
        shop.age(2)
    assert shop.restored() == shop.wanted()


def test_what_prune_says(shop: Shop, pogfast: Runner) -> None:
    (shop.root / "key").write_bytes(SECRET)
    words = ["prune", "store", "--keep-last", "1", "--group-by", "", "--keyfile", "key"]
    packs, kept = len(shop.packs()), len(shop.wanted())
    ran = pogfast(*words, "--now", "--max-unused", "unlimited")
    assert ran.code == 0
    assert "unused " in ran.err
    ran = pogfast(*words, "--now", "--json")
    said = json.loads(ran.out.splitlines()[-1])
    assert (said["packs_repacked"], said["packs_removed"], said["bytes_unused"]) == (packs, packs, 0)
    assert said["blobs_removed"] == 800 - kept, "as it will say when that is done"
    ran = pogfast(*words, "--yes")
    assert (ran.code, len(shop.packs())) == (0, packs)
    shop.age(2)
    ran = pogfast(*words, "--yes")
    assert f"{packs} repacked" in ran.err
    assert f"0 deleted, {packs} later" in ran.err
    assert "first prune after 20" in ran.err
    shop.age(2)
    said = json.loads(pogfast(*words, "--yes", "--json").out.splitlines()[-1])
    assert (said["packs_removed"], said["blobs_removed"], said["packs_waiting"]) == (packs, 800 - kept, 0)
    for wrong in ("101%", "x", "-1"):
        assert pogfast(*words, "--max-unused", wrong).code == 2


def indexes_of(shop: Shop) -> set[str]:
    return {path.name for path in shop.store.glob("packs/index/*")}


def test_index_objects_that_nobody_needs_go_a_grace_period_later(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    for number in range(10):
        shop.fill(50, f"{number}-")
        shop.create()
    old = indexes_of(shop)
    assert len(old) == 11, "eight were merged"
    shop.prune(keep_last=99)
    assert indexes_of(shop) == old
    shop.age(2)
    shop.prune(keep_last=99, dry_run=True)
    assert indexes_of(shop) == old
    shop.prune(keep_last=99)
    assert len(indexes_of(shop)) == 3
    assert indexes_of(shop) < old
    assert shop.restored() == shop.wanted()


def test_an_index_object_stays_as_long_as_the_one_that_supersedes_it_is_young(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    for number in range(10):
        if number == 7:
            shop.age(2)
        shop.fill(50, f"{number}-")
        shop.create()
    old = indexes_of(shop)
    shop.prune(keep_last=99)
    assert indexes_of(shop) == old


def test_an_index_object_without_packs_goes(shop: Shop) -> None:
    old = indexes_of(shop)
    shop.prune(grace=0)
    assert old & indexes_of(shop), "its packs went after it was looked at"
    shop.prune(grace=0)
    assert not old & indexes_of(shop)
    assert shop.restored() == shop.wanted()


def test_a_later_pack_that_has_rotted_is_no_reason_to_delete_the_earlier(shop: Shop) -> None:
    """As after `create --force`, and a copy of the store without its times."""
    first = shop.packs()
    shop.age(2)
    with pogfast.services(packs="1MiB"):
        pogfast.create([shop.tree.name], str(shop.store), KEY, directory=shop.tree.parent, force=True)
    second = next(path for path in shop.store.glob("packs/2*/*") if path.name not in first)
    row = rows_of(second)[7]
    data = bytearray(second.read_bytes())
    data[row.offset + 9] ^= 1
    second.chmod(0o600)
    second.write_bytes(data)
    for _ in range(2):
        shop.age(2)
        shop.prune(keep_last=9)
    kept = first & shop.packs()
    assert shop.restored() == shop.wanted()
    second.write_bytes(bytes(data[: row.offset + 9]) + bytes([data[row.offset + 9] ^ 1]) + data[row.offset + 10 :])
    for _ in range(2):
        shop.age(2)
        shop.prune(keep_last=9)
    assert len(first & shop.packs()) < len(kept), "the one with the blob that is whole again in the later one"
    assert shop.restored() == shop.wanted()

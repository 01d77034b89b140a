"""Prunes of stores with packs: no needed blob loses its last holder, whatever holds it, whatever an index says, and
however many prunes decide at the same time."""

from __future__ import annotations

import itertools
import os
import random
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kit import packs
from pogfast.errors import StoreError
from pogfast.stores import open_store
from pogfast.stores.local import LocalStore
from pogfast.stores.names import Stored
from pogfast.stores.packs import layout
from pogfast.stores.packs.store import PackedStore

OLD = 1_700_000_000
A, B = (packs.name_of(packs.sha256(letter)) for letter in (b"a", b"b"))
BLOBS = {A: b"first" * 3, B: b"second" * 2}
CONTENTS = [(), (A,), (B,), (A, B), (B, A), (A, A)]
TIMES = [(0, 1, 2), (2, 1, 0), (1, 1, 1)]  # when the first pack, the second one and the plain blobs were written
SETTINGS = layout.StoreSettings().serialize()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POGFAST_CACHE_DIR", str(tmp_path / "cache"))


def put(path: Path, data: bytes, when: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    os.utime(path, (when, when))


class Shelf:
    """A store in a directory, made by hand."""

    def __init__(self, root: Path) -> None:
        self.root = root
        put(root / "pogfast.store", SETTINGS, OLD)

    def put_pack(self, names: Sequence[str], when: float = 0, salt: bytes = b"") -> packs.Listed:
        """Stores a pack of some blobs, and one that nobody needs, so that packs of the same blobs differ."""
        extra = (packs.name_of(packs.sha256(b"extra" + salt)), b"extra" + salt)
        blobs = [*((name, BLOBS[name]) for name in names), extra]
        listed = packs.listed(blobs)
        put(self.root / "packs/2026-01-31" / packs.name_of(listed.raw), packs.make_pack(blobs), OLD + when)
        return listed

    def put_plain(self, name: str, when: float = 0, data: bytes | None = None) -> None:
        put(self.root / "data" / name[:2] / name, BLOBS[name] if data is None else data, OLD + when)

    def put_index(self, listed: Sequence[packs.Listed]) -> None:
        data = packs.make_index(listed)
        put(self.root / "packs/index" / packs.name_of(packs.sha256(data)), data, OLD)

    def held(self) -> set[str]:
        """Returns the blobs that are there, by the tables of packs."""
        found = {path.name for path in self.root.glob("data/*/*")}
        for path in self.root.glob("packs/2*/*"):
            data = path.read_bytes()
            found.update(row.name for row in layout.read_table(data, len(data), "a pack"))
        return found

    def opened(self) -> PackedStore:
        store = open_store(str(self.root))
        assert isinstance(store, PackedStore)
        return store


def chosen(
    store: PackedStore, needed: Collection[str], order: Callable[[Sequence[Stored]], Sequence[Stored]]
) -> list[Stored]:
    """What a prune decides to delete."""
    return store.unneeded(order(sorted(store.holders(), key=lambda each: each.modified)), needed.__contains__)


def delete(store: PackedStore, objects: Sequence[Stored]) -> None:
    assert len(list(store.delete_old_blobs(objects, OLD + 1000, lambda: True))) == len(objects)


def layouts() -> Iterator[tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...], tuple[int, int, int]]]:
    """What two packs hold, what is plain, and when these were written."""
    plain = [(), (A,), (B,), (A, B)]
    yield from itertools.product(CONTENTS, CONTENTS, plain, TIMES)


def test_a_store_that_is_down_has_no_damaged_packs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would count as damaged for the rest of the prune."""
    shelf = Shelf(tmp_path)
    shelf.put_index([shelf.put_pack((A,), 0, b"1"), shelf.put_pack((A,), 1, b"2")])
    store = shelf.opened()

    objects = LocalStore.objects

    def fail(self: LocalStore, path: str, limit: int = 0) -> Iterator[Stored]:
        if path.endswith("/"):
            return objects(self, path)
        raise StoreError("the store is down")

    holders = list(store.holders())
    with monkeypatch.context() as down:
        down.setattr(LocalStore, "get_object", fail)
        down.setattr(LocalStore, "objects", fail)
        with pytest.raises(StoreError, match="is down"):
            store.unneeded(holders, {A}.__contains__)
    assert len(store.unneeded(holders, {A}.__contains__)) == 1


@pytest.mark.parametrize("needed", [(), (A,), (A, B)], ids=["none", "one", "both"])
def test_two_prunes_at_once_leave_a_holder_of_each_blob(tmp_path: Path, needed: tuple[str, ...]) -> None:
    some = random.Random(len(needed))
    for number, (first, second, plain, times) in enumerate(layouts()):
        shelf = Shelf(tmp_path / str(number))
        listed = [shelf.put_pack(first, times[0], b"1"), shelf.put_pack(second, times[1], b"2")]
        for name in plain:
            shelf.put_plain(name, times[2])
        shelf.put_index([each for each in listed if some.random() < 0.7])
        wanted = shelf.held().intersection(needed)
        one, two = shelf.opened(), shelf.opened()
        for visit in range(2):
            by_one = chosen(one, needed, list)
            done = some.randrange(len(by_one) + 1)
            delete(one, by_one[:done])
            by_two = chosen(two, needed, lambda objects: objects[::-1])
            delete(one, by_one[done:])
            delete(two, by_two)
            assert wanted <= shelf.held(), (first, second, plain, times, visit)
        assert not chosen(one, needed, list)
        left = [*shelf.root.glob("packs/2*/*"), *shelf.root.glob("data/*/*")]
        assert len(left) <= len(wanted), (first, second, plain, times)
        one.close()
        two.close()


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "store")


def goes(shelf: Shelf, needed: Collection[str]) -> set[str]:
    """Returns what a prune would delete."""
    store = shelf.opened()
    try:
        return {each.name for each in chosen(store, needed, list)}
    finally:
        store.close()


def lying(listed: packs.Listed, names: Sequence[str]) -> packs.Listed:
    """What an index object could say of a pack instead: other names, with the same lengths."""
    raw = [packs.raw_of(name) for name in names] + [packs.sha256(bytes([n])) for n in range(len(listed.rows))]
    return listed._replace(rows=[(raw[number], size) for number, (_, size) in enumerate(listed.rows)])


def path_of(listed: packs.Listed) -> str:
    return f"packs/2026-01-31/{packs.name_of(listed.raw)}"


def test_an_index_that_leaves_out_a_blob_deletes_nothing(shelf: Shelf) -> None:
    first = shelf.put_pack([A])
    shelf.put_index([lying(first, [])])
    assert goes(shelf, [A]) == set()
    assert goes(shelf, []) == {path_of(first)}


def test_an_index_that_invents_a_holder_deletes_nothing(shelf: Shelf) -> None:
    first, second = shelf.put_pack([A], 1), shelf.put_pack([], 2)
    shelf.put_index([first, lying(second, [A])])
    assert goes(shelf, [A]) == set()


def test_a_place_that_an_index_has_wrong_does_not_count(shelf: Shelf) -> None:
    first, second = shelf.put_pack([A], 1), shelf.put_pack([B, A], 2)
    shelf.put_index([first, lying(second, [A, B])])
    assert path_of(first) not in goes(shelf, [A])


def test_a_pack_of_another_size_than_the_index_says_is_no_holder(shelf: Shelf) -> None:
    first, second = shelf.put_pack([A], 1), shelf.put_pack([A], 2, b"2")
    shelf.put_index([first, second])
    put(shelf.root / path_of(second), b"x" * (second.size - 1), OLD + 2)
    assert goes(shelf, [A]) == set()


@pytest.mark.parametrize("is_indexed", [True, False])
def test_a_damaged_pack_is_no_holder_and_goes_by_what_index_objects_say(shelf: Shelf, is_indexed: bool) -> None:
    first, second = shelf.put_pack([A], 1), shelf.put_pack([A, B], 2, b"2")
    shelf.put_index([first, *([second] if is_indexed else [])])
    put(shelf.root / path_of(second), bytes(second.size), OLD + 2)
    assert goes(shelf, [A]) == set()
    assert goes(shelf, []) == {path_of(first), *([path_of(second)] if is_indexed else [])}
    third = shelf.put_pack([A], 3, b"3")
    assert goes(shelf, [A]) == {path_of(first), *([path_of(second)] if is_indexed else [])}
    assert goes(shelf, [A, B]) == {path_of(first)}
    assert path_of(third) not in goes(shelf, [A])


def test_a_pack_that_is_moved_aside_for_a_moment_stays(shelf: Shelf) -> None:
    first = shelf.put_pack([A])
    shelf.put_index([first])
    store = shelf.opened()
    holders = list(store.holders())
    (shelf.root / path_of(first)).rename(shelf.root / "aside")
    assert store.unneeded(holders, {A}.__contains__) == []
    store.close()


def test_a_pack_that_a_killed_prune_had_moved_aside_is_put_back(shelf: Shelf) -> None:
    first = shelf.put_pack([A])
    aside = f".pogfast-trash-{bytes(8).hex()}-{path_of(first).replace('/', '+')}+"
    (shelf.root / path_of(first)).rename(shelf.root / aside)
    store = shelf.opened()
    store.begin_sweep()
    store.close()
    assert shelf.held() >= {A}


def test_what_an_index_invents_is_no_reason_to_rely_on_a_condemned_blob(shelf: Shelf) -> None:
    """A backup asks which blobs it has to store again."""
    first, second, third = shelf.put_pack([A, B], 1), shelf.put_pack([], 2), shelf.put_pack([B], 3)
    shelf.put_index([lying(first, [A]), lying(second, [A]), third])
    shelf.put_index([first])
    store = shelf.opened()
    assert A in store.blobs_only_in([path_of(first)], [path_of(first)])
    assert B not in store.blobs_only_in([path_of(first)], [path_of(first)])
    assert B in store.blobs_only_in([path_of(third)], [path_of(first), path_of(third)])
    store.close()


def test_a_plain_blob_goes_when_a_later_pack_has_it(shelf: Shelf) -> None:
    shelf.put_plain(A, 1)
    first = shelf.put_pack([A], 2)
    assert goes(shelf, [A]) == {A}
    shelf.put_plain(A, 3)
    assert goes(shelf, [A]) == {path_of(first)}


@pytest.mark.parametrize(
    "data",
    [b"", BLOBS[A][:-1], BLOBS[A] + b"x", bytes(len(BLOBS[A])), b"x" + BLOBS[A][1:]],
    ids=["empty", "torn", "longer", "zeros", "other bytes"],
)
def test_a_plain_blob_that_is_not_whole_is_no_holder(shelf: Shelf, data: bytes) -> None:
    """Another program was killed while it wrote it, or the power was cut."""
    first = shelf.put_pack([A, B], 1)
    shelf.put_index([first])
    for name in (A, B):
        shelf.put_plain(name, 2, data if name == A else None)
    assert path_of(first) not in goes(shelf, [A])
    assert path_of(first) in goes(shelf, [B])
    store = shelf.opened()
    assert store.blobs_only_in([path_of(first)], [path_of(first)]) >= {A}
    assert B not in store.blobs_only_in([path_of(first)], [path_of(first)])
    store.close()


def test_a_plain_blob_that_cannot_be_read_is_no_holder(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    first = shelf.put_pack([A], 1)
    shelf.put_plain(A, 2)
    plain = shelf.root / "data" / A[:2] / A
    assert goes(shelf, [A]) == {path_of(first)}
    listed, count = LocalStore.blob_names, iter(range(10))

    def vanishes(self: LocalStore) -> Iterator[Stored]:
        yield from listed(self)
        if next(count) == 1:  # the holders, and then those that may be later
            plain.unlink()

    monkeypatch.setattr(LocalStore, "blob_names", vanishes)
    assert goes(shelf, [A]) == set()


def test_a_plain_blob_is_compared_with_each_pack_that_has_it(shelf: Shelf) -> None:
    """Two writers may have stored the same chunk with other bytes: a plain blob is whole if it is what one pack has."""
    first = shelf.put_pack([A], 1)
    other = BLOBS[A] + b" and padding"
    blobs = [(A, other)]
    second = packs.listed(blobs)
    put(shelf.root / path_of(second), packs.make_pack(blobs), OLD + 1)
    shelf.put_index([first, second])
    shelf.put_plain(A, 2, other)
    both = [path_of(first), path_of(second)]
    assert path_of(second) in goes(shelf, [A])
    store = shelf.opened()
    assert A not in store.blobs_only_in(both, both)
    assert A in store.blobs_only_in([*both, A], [*both, A])
    store.close()


def test_a_prune_whose_listing_stands_still_holds_up_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two stores in one process."""
    shelves = [Shelf(tmp_path / "one"), Shelf(tmp_path / "other")]
    for shelf in shelves:
        shelf.put_plain(A, 1)
        shelf.put_pack([A], 2)
    listed, count = LocalStore.blob_names, iter(range(10))
    stands, go_on = threading.Event(), threading.Event()

    def stands_still(self: LocalStore) -> Iterator[Stored]:
        for blob in listed(self):
            yield blob
            if self.path == str(shelves[0].root) and next(count) == 1:  # the holders, and then those that may be later
                stands.set()
                go_on.wait()

    monkeypatch.setattr(LocalStore, "blob_names", stands_still)
    with ThreadPoolExecutor() as threads:
        one = threads.submit(goes, shelves[0], [A])
        try:
            assert stands.wait(60)
            assert threads.submit(goes, shelves[1], [A]).result(60) == {A}
            assert not one.done()
        finally:
            go_on.set()
        assert one.result() == {A}

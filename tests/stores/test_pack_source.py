"""Reading from packs on a service: how many requests there are, how much memory, and what is read if packs go away."""

from __future__ import annotations

import base64
import hashlib
import os
import random
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import boto3
import pytest

from kit.faultproxy import Fault, Proxy
from kit.servers import Server
from pogfast._engine import MAX_BLOB
from pogfast.errors import CorruptBlob, MissingBlob, StoreError
from pogfast.stores import open_service
from pogfast.stores.packs import source as source_module
from pogfast.stores.packs.reading import MAX_GAP, MAX_PIECE
from pogfast.stores.packs.source import PackSource, Span, plan
from pogfast.stores.remote import RemoteStore

THREADS = 8
GET = "GET .*/packs/"
PLAIN = "GET .*/data/"


def name_of(number: int) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(b"%d" % number).digest()).decode()


def packed(blobs: Sequence[tuple[str, bytes]]) -> bytes:
    """A pack by hand."""
    rows = [
        base64.urlsafe_b64decode(name) + struct.pack("<I", len(blob)) + hashlib.sha256(blob).digest()[:8]
        for name, blob in blobs
    ]
    table = b"".join(rows)
    footer = hashlib.sha256(table).digest() + struct.pack("<IHH8s", len(rows), 1, 0, b"pogpack1")
    return b"".join(blob for _, blob in blobs) + table + footer


class Packs:
    """Packs in a store, an index of them, and the source that reads from both."""

    def __init__(self, store: RemoteStore) -> None:
        self.store = store
        self.content: dict[str, bytes] = {}
        self.index: dict[str, Span] = {}
        self.refreshed = 0
        self.on_refresh: Callable[[], bool] = lambda: False
        self.source = PackSource(store, self.locate, self.refresh)

    def locate(self, names: Sequence[str]) -> list[Span | None]:
        return [self.index.get(name) for name in names]

    def refresh(self) -> bool:
        self.refreshed += 1
        return self.on_refresh()

    def add(self, names: Sequence[str], size: int, path: str = "") -> str:
        """Stores a pack of blobs of `size` bytes each."""
        for name in names:
            self.content.setdefault(name, os.urandom(size))
        data = packed([(name, self.content[name]) for name in names])
        sha = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode()
        path = path or f"packs/2026-11-30/{sha}"
        self.store.put_object(path, data)
        offset = 0
        for name in names:
            self.index[name] = (path, len(data), offset, len(self.content[name]))
            offset += len(self.content[name])
        return path

    def read(self, names: Sequence[str], threads: int = THREADS) -> None:
        """Has all of them asked for in this order, as by the workers of the engine."""
        with ThreadPoolExecutor(threads) as pool:
            for name, blob in zip(names, pool.map(self.taken, names), strict=True):
                assert blob == self.content[name]

    def taken(self, name: str) -> bytes:
        return bytes(self.source(name))


@pytest.fixture
def store(server: Server, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[RemoteStore]:
    monkeypatch.setattr("pogfast.stores.remote.MAX_PAUSE", 0.001)
    environment = {"POGFAST_S3_ENDPOINT": proxy.url, "POGFAST_RETRY_FOR": "20", "POGFAST_PARALLEL": "4"}
    for name, value in (server.environment | environment).items():
        monkeypatch.setenv(name, value)
    bucket = f"bucket-{time.monotonic_ns()}"
    said = {"aws_access_key_id": server.key, "aws_secret_access_key": server.secret, "region_name": "us-east-1"}
    boto3.client("s3", endpoint_url=server.url, **said).create_bucket(Bucket=bucket)
    made = open_service(f"s3://{bucket}")
    yield made
    made.close()


@pytest.fixture
def packs(store: RemoteStore) -> Iterator[Packs]:
    made = Packs(store)
    yield made
    made.source.close()
    assert store.in_flight.bytes == 0, "no piece is left in memory"


def many(first: int, count: int) -> list[str]:
    return [name_of(number) for number in range(first, first + count)]


def requests_for(proxy: Proxy, path: str) -> int:
    return proxy.count(f"GET .*{path.rstrip('=')}")  # which is quoted in an address


def put_plain(store: RemoteStore, name: str, data: bytes) -> None:
    store.blobs(name, memoryview(data))
    store.make_durable()


# ---- plans ---------------------------------------------------------------------------------------------------------


def pieces_of(spans: Sequence[Span | None]) -> list[tuple[str, int, int, int]]:
    names = [str(number) for number in range(len(spans))]
    pieces = dict.fromkeys(planned.piece for planned in plan(names, spans, threading.Lock()).values())
    return [(piece.path, piece.start, piece.end, piece.left) for piece in pieces]


def test_near_blobs_are_one_request() -> None:
    far = 100 * MAX_GAP
    for gap, count in ((0, 1), (MAX_GAP - 1, 1), (MAX_GAP, 1), (MAX_GAP + 1, 2)):
        pieces = pieces_of([("p", far, 0, 10), ("p", far, 10 + gap, 10)])
        assert len(pieces) == count
        assert (pieces[0][1], pieces[-1][2]) == (0, 20 + gap)
    assert pieces_of([("p", far, 500, 5), ("q", far, 0, 7), ("p", far, 400, 5), None]) == [
        ("p", 400, 505, 2),
        ("q", 0, 7, 1),
    ]


def test_half_of_a_pack_is_the_whole_pack() -> None:
    gap = MAX_GAP + 1
    for size, pieces in ((gap, 1), (gap - 1, 2)):
        assert len(pieces_of([("p", 4 * gap, 0, size), ("p", 4 * gap, 3 * gap - 1, size + 1)])) == pieces
    overlapping = [("p", 4 * gap, 0, gap), ("p", 4 * gap, 1, gap), ("p", 4 * gap, 3 * gap, 5)]
    assert len(pieces_of(overlapping)) == 2, "bytes count once"


def test_pieces_have_at_most_64_MiB() -> None:
    size = 1 << 20
    pieces = pieces_of([("p", 1 << 30, number * size, size) for number in range(130)])
    assert [(end - start, left) for _, start, end, left in pieces] == [
        (MAX_PIECE, 64),
        (MAX_PIECE, 64),
        (2 * size, 2),
    ]
    assert pieces_of([("p", 1 << 30, 0, MAX_PIECE)]) == [("p", 0, MAX_PIECE, 1)]
    assert pieces_of([("p", 1 << 30, 0, MAX_PIECE + 1)]) == [], "it is read alone"


def test_impossible_places_are_not_planned() -> None:
    assert pieces_of([("p", 100, -1, 5), ("p", 100, 0, 0), ("p", 100, 96, 5), ("p", 100, 1 << 60, 5)]) == []
    assert pieces_of([("p", 100, 95, 5)]) == [("p", 95, 100, 1)]


def test_the_order_of_groups(packs: Packs) -> None:
    names = many(0, 8)
    places = {0: ("b", 50), 1: ("b", 10), 2: ("a", 0), 3: None, 4: ("a", 5), 5: ("b", 0), 6: None, 7: ("b", 20)}
    packs.index = {names[n]: (place[0], 1000, place[1], 5) for n, place in places.items() if place}
    groups = [[names[0]], [], [names[2]], [names[3], names[1]], [names[6]], [names[4], names[5]], [names[5]]]
    assert packs.source.order(groups) == [6, 3, 0, 2, 5, 1, 4]
    assert packs.source.order([]) == []
    assert packs.source.order([[name] for name in names]) == [5, 1, 7, 0, 2, 4, 3, 6]


def test_more_groups_than_are_located_at_a_time(packs: Packs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_module, "LOCATED", 3)
    names = many(0, 20)
    packs.index = {name: ("p", 1000, 40 - number, 1) for number, name in enumerate(names)}
    assert packs.source.order([names[:7], names[7:13], names[13:]]) == [2, 1, 0]


# ---- requests ------------------------------------------------------------------------------------------------------


def test_whole_packs_are_a_request_each(packs: Packs, proxy: Proxy) -> None:
    names = many(0, 600)
    for start in range(0, 600, 200):
        packs.add(names[start : start + 200], 3000)
    packs.source.prefetch(names)
    packs.read(names)
    assert proxy.count(GET) == 3
    assert packs.refreshed == 0


def test_few_blobs_of_a_pack_are_a_few_requests(packs: Packs, proxy: Proxy) -> None:
    names = many(0, 50)
    packs.add(names, 200_000)
    wanted = [names[number] for number in (40, 3, 2, 8, 41, 20)]  # 200 kB, 200 kB, 800 kB, 2.2 MB and more apart
    packs.source.prefetch(wanted)
    packs.read(wanted)
    assert sorted(proxy.ranges) == sorted(
        f"bytes={first * 200_000}-{last * 200_000 - 1}" for first, last in ((2, 9), (20, 21), (40, 42))
    )


def test_without_a_plan_each_blob_is_a_request(packs: Packs, proxy: Proxy) -> None:
    names = many(0, 10)
    packs.add(names, 1000)
    packs.read(names)
    assert proxy.count(GET) == 10


def test_a_blob_that_is_asked_for_again_is_read_again(packs: Packs, proxy: Proxy) -> None:
    """It did not authenticate: it may have been damaged on its way."""
    names = many(0, 20)
    packs.add(names, 1000)
    proxy.faults = [Fault(GET, flip=5 * 1000 + 7)]
    packs.source.prefetch(names)
    packs.read(names[:5])
    assert packs.taken(names[5]) != packs.content[names[5]]
    assert packs.taken(names[5]) == packs.content[names[5]]
    packs.read(names[6:])
    assert len(proxy.ranges) == 2
    assert proxy.ranges[1] == "bytes=5000-5999"


def test_names_that_are_given_twice(packs: Packs, proxy: Proxy) -> None:
    names = many(0, 20)
    packs.add(names, 1000)
    packs.source.prefetch([*names, *names])
    packs.read(names)
    assert proxy.count(GET) == 1


def test_plain_blobs_come_from_the_base_store(packs: Packs, proxy: Proxy) -> None:
    names, plain = many(0, 20), many(100, 10)
    packs.add(names, 1000)
    for name in plain:
        packs.content[name] = os.urandom(500)
        put_plain(packs.store, name, packs.content[name])
    mixed = [*plain[:5], *names, *plain[5:]]
    packs.source.prefetch(mixed)
    packs.read(mixed)
    assert (proxy.count(GET), proxy.count(PLAIN)) == (1, 10)


def test_a_second_plan_replaces_the_first(packs: Packs, proxy: Proxy) -> None:
    names = many(0, 40)
    for start in (0, 20):
        packs.add(names[start : start + 20], 1000)
    packs.source.prefetch(names)
    packs.read(names[:3])
    packs.source.prefetch(names[20:])
    packs.read([*names[20:], names[3]])
    assert proxy.count(GET) <= 4


# ---- memory --------------------------------------------------------------------------------------------------------


class Watched:
    """The most bytes that were in flight."""

    def __init__(self, store: RemoteStore, limit: int) -> None:
        self.most = 0
        store.in_flight.limit = limit
        has_room = store.in_flight._has_room

        def watched(size: int) -> bool:
            self.most = max(self.most, store.in_flight.bytes)
            return has_room(size)

        store.in_flight._has_room = watched  # type: ignore[method-assign]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("way", ["interleaved", "shuffled", "backwards", "other than planned"])
def test_a_bad_order_takes_no_more_memory(packs: Packs, proxy: Proxy, way: str, seed: int) -> None:
    """And not many times the bytes."""
    names = many(0, 400)
    for start in range(0, 400, 40):
        packs.add(names[start : start + 40], 1000)
    size = 40_000
    watched = Watched(packs.store, 3 * size)
    order = list(names)
    if way == "interleaved":
        order = [names[pack * 40 + number] for number in range(40) for pack in range(10)]
    elif way == "backwards":
        order.reverse()
    else:
        random.Random(seed).shuffle(order)
    packs.source.prefetch(names if way == "other than planned" else order)
    packs.read(order)
    assert watched.most <= 3 * size + size + THREADS * 1000
    assert sum(length for request, _, length in proxy.seen if "packs" in request) <= 2 * 400_000
    assert proxy.count(GET) <= (10 if way == "backwards" else 400)


def test_an_orderly_run_in_little_memory_needs_no_more_requests(packs: Packs, proxy: Proxy) -> None:
    names = many(0, 1200)
    for start in range(0, 1200, 40):
        packs.add(names[start : start + 40], 1000)
    watched = Watched(packs.store, 100_000)
    packs.source.prefetch(names)
    packs.read(names)
    assert watched.most <= 100_000 + 40_000 + THREADS * 1000
    assert proxy.count(GET) <= 30 + 6


def test_blobs_that_nobody_asks_for_block_no_others(packs: Packs) -> None:
    names = many(0, 200)
    for start in range(0, 200, 20):
        packs.add(names[start : start + 20], 1000)
    packs.store.in_flight.limit = 50_000
    packs.source.prefetch(names)
    asked = [name for number, name in enumerate(names) if number % 20 != 3]
    packs.read(asked)
    packs.source.prefetch(names[:20])
    packs.read(names[:20])
    assert packs.store.in_flight.bytes <= 50_000


@pytest.mark.parametrize(("alone", "requests"), [(10, 2 + 10 + 1), (11, 2 + 20)])
def test_a_piece_that_found_no_room_is_downloaded_later(packs: Packs, proxy: Proxy, alone: int, requests: int) -> None:
    """Unless most of its blobs were read alone by then."""
    names = many(0, 60)
    first, beyond, third = (names[start : start + 20] for start in range(0, 60, 20))
    for blobs in (first, beyond, third):
        packs.add(blobs, 1000)
    packs.store.in_flight.limit = 1000
    packs.source.prefetch(names)
    packs.read([first[0], beyond[0], *third[:alone]], threads=1)
    assert proxy.count(GET) == 2 + alone
    packs.read([*first[1:], *beyond[1:], *third[alone:]], threads=1)
    assert proxy.count(GET) == requests


def test_a_blob_larger_than_memory_is_read(packs: Packs) -> None:
    names = many(0, 4)
    for name in names:
        packs.add([name], 300_000)
    packs.store.in_flight.limit = 1000
    packs.source.prefetch(names)
    packs.read(names)


def test_a_view_keeps_its_piece(packs: Packs) -> None:
    [name] = many(0, 1)
    packs.add([name], 1000)
    packs.source.prefetch([name])
    view = packs.source(name)
    assert packs.store.in_flight.bytes == 1000
    assert view == packs.content[name]
    del view
    assert packs.store.in_flight.bytes == 0


# ---- what is not where it should be --------------------------------------------------------------------------------


def test_a_pack_that_was_repacked(packs: Packs, proxy: Proxy) -> None:
    """It is listed once; the blobs come from the new pack with few requests."""
    names = many(0, 200)
    old = packs.add(names, 1000)
    before = dict(packs.index)
    new = packs.add(list(reversed(names)), 1000)
    after = dict(packs.index)
    packs.index = before
    packs.store.delete_blobs([old])

    def refresh() -> bool:
        time.sleep(0.2)  # others find meanwhile that the pack is gone
        packs.index = after
        return True

    packs.on_refresh = refresh
    packs.source.prefetch(names)
    packs.read(names)
    assert packs.refreshed == 1
    assert 1 <= requests_for(proxy, new) <= 1 + THREADS
    assert 1 <= requests_for(proxy, old) <= 1 + THREADS


def test_a_pack_that_goes_away_in_the_middle(packs: Packs) -> None:
    names = many(0, 200)
    paths = [packs.add(names[start : start + 50], 1000) for start in range(0, 200, 50)]
    packs.source.prefetch(names[:100])
    packs.read(names[:100])
    packs.store.delete_blobs(paths)
    for name in names[100:]:
        put_plain(packs.store, name, packs.content[name])
    packs.on_refresh = lambda: packs.index.clear() or True  # type: ignore[func-returns-value]
    packs.read(names[100:])
    assert packs.refreshed == 1


@pytest.mark.parametrize("helps", [True, False])
@pytest.mark.parametrize("planned", [True, False])
def test_a_pack_that_is_nowhere(packs: Packs, proxy: Proxy, helps: bool, planned: bool) -> None:
    names, others = many(0, 100), many(100, 20)
    gone = packs.add(names, 1000)
    packs.add(others, 1000)
    packs.store.delete_blobs([gone])
    packs.on_refresh = lambda: helps  # but the index still names it
    if planned:
        packs.source.prefetch([*names, *others])

    def missing(name: str) -> bool:
        with pytest.raises(MissingBlob, match=f"blob {name} is missing from s3://"):
            packs.source(name)
        return True

    with ThreadPoolExecutor(THREADS) as pool:
        assert all(pool.map(missing, names))
    packs.read(others)
    assert packs.refreshed <= 2
    assert 1 <= requests_for(proxy, gone) <= 2 + THREADS


def test_missing_plain_blobs_are_looked_for_in_one_listing(packs: Packs, monkeypatch: pytest.MonkeyPatch) -> None:
    names = many(0, 30)
    for name in names:
        with pytest.raises(MissingBlob, match=f"blob {name} is missing from s3://"):
            packs.source(name)
    assert packs.refreshed == 1
    monkeypatch.setattr(source_module, "FRESH", -1.0)

    def refresh() -> bool:
        packs.add(names, 1000)
        return True

    packs.on_refresh = refresh
    packs.read(names)
    assert packs.refreshed == 2


def test_an_index_that_is_wrong(packs: Packs, proxy: Proxy) -> None:
    """What is right in it is read."""
    names, bad = many(0, 40), many(100, 6)
    path = packs.add(names, 1000)
    size = packs.index[names[0]][1]
    places = [(size - 5, 6), (size, 1), (1 << 40, 5), (-1, 5), (0, MAX_BLOB + 1), (0, -1)]
    packs.index |= {name: (path, size, *place) for name, place in zip(bad, places, strict=True)}
    packs.source.prefetch([*bad, *names])
    for name in bad:
        for _ in range(2):
            with pytest.raises(CorruptBlob, match=f"is wrong: blob {name} has "):
                packs.source(name)
    packs.read(names)
    assert proxy.count(GET) == 1


def test_an_index_that_says_that_packs_are_longer(packs: Packs) -> None:
    """A piece that the pack cannot have: its blobs are read alone, and those that are there are."""
    names, beyond = many(0, 20), many(100, 1)
    path = packs.add(names, 1000)
    size = packs.index[names[0]][1]
    packs.index |= {name: (path, 10 * size, *packs.index[name][2:]) for name in names}
    packs.index[beyond[0]] = (path, 10 * size, size - 100, 101)
    packs.source.prefetch([*names, *beyond])
    packs.read(names)
    with pytest.raises(CorruptBlob, match="ends at byte"):
        packs.source(beyond[0])
    assert packs.refreshed == 0


def test_a_bad_network_and_a_bad_server(packs: Packs, proxy: Proxy) -> None:
    """Each kind of wrong response to one piece or another."""
    names = many(0, 240)
    for start in range(0, 240, 20):
        packs.add(names[start : start + 20], 1000)
    proxy.faults = [
        Fault(GET, cut_answer=5000, skip=1),
        Fault(GET, status=503, code="SlowDown", times=2),
        Fault(GET, whole=True, times=2),
        Fault(GET, headers={"Content-Range": "bytes 0-9/20000"}),
        Fault(GET, change=lambda body: body[:-1]),
        Fault(GET, lose_answer=True),
    ]
    packs.source.prefetch(names)
    packs.read(names)
    assert all(fault.times == 0 for fault in proxy.faults)
    assert packs.refreshed == 0


def test_a_service_that_refuses_is_no_damage(packs: Packs, proxy: Proxy) -> None:
    names = many(0, 20)
    packs.add(names, 1000)
    proxy.faults = [Fault(GET, status=403, code="AccessDenied", times=-1)]
    packs.source.prefetch(names)
    for _ in range(2):
        with pytest.raises(StoreError, match="access denied"):
            packs.source(names[0])
    with pytest.raises(StoreError, match="access denied"):
        packs.source(names[1])


def test_a_refresh_that_fails_is_no_damage(packs: Packs) -> None:
    names = many(0, 2)
    packs.store.delete_blobs([packs.add(names, 1000)])

    def fail() -> bool:
        raise StoreError("cannot list")

    packs.on_refresh = fail
    packs.source.prefetch(names[:1])
    for name in names:
        with pytest.raises(StoreError, match="cannot list"):
            packs.source(name)


# ---- the end of a run ----------------------------------------------------------------------------------------------


def test_abandon_while_downloads_run(packs: Packs, proxy: Proxy) -> None:
    """Nothing more is requested than what is on its way, and a later read succeeds."""
    names = many(0, 400)
    for start in range(0, 400, 20):
        packs.add(names[start : start + 20], 1000)
    packs.store.in_flight.limit = 60_000  # one more waits for memory
    proxy.faults = [Fault(GET, delay=0.3, times=-1)]
    packs.source.prefetch(names)
    asked = threading.Thread(target=lambda: packs.taken(names[0]))
    asked.start()
    time.sleep(0.1)
    packs.source.abandon()
    asked.join(60)
    assert not asked.is_alive()
    packs.source._prefetcher.stop()
    assert proxy.count(GET) <= packs.store.parallel
    proxy.faults = []
    packs.source.prefetch(names)
    packs.read(names[100:110])


def test_close_while_nobody_reads(packs: Packs) -> None:
    names = many(0, 200)
    for start in range(0, 200, 20):
        packs.add(names[start : start + 20], 1000)
    packs.store.in_flight.limit = 50_000
    packs.source.prefetch(names)
    time.sleep(0.2)
    assert packs.store.in_flight.bytes > 0
    closes = threading.Thread(target=packs.source.close, daemon=True)
    closes.start()
    closes.join(60)
    assert not closes.is_alive()
    packs.source.prefetch([])
    packs.source._prefetcher.stop()


def test_pieces_of_an_earlier_plan_do_not_wait_for_memory(packs: Packs, proxy: Proxy) -> None:
    old, new = many(0, 200), many(200, 200)
    paths = [packs.add(names[start : start + 20], 1000) for names in (old, new) for start in range(0, 200, 20)]
    packs.store.in_flight.limit = 40_000
    packs.source.prefetch(old)
    time.sleep(0.3)
    packs.source.prefetch(new)
    packs.read(new)
    assert [requests_for(proxy, path) for path in paths[:10]] == [1, 1, *[0] * 8]

"""How many requests run at a time: what latency asks for, within bounds, and fewer where a service is busy."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError

import boto3
import pytest

from kit.faultproxy import Fault, Proxy, proxied
from kit.servers import Server, environment_of, moto
from pogfast.sizes import MAX_PARALLEL
from pogfast.stores import concurrency, open_store, traffic
from pogfast.stores.concurrency import START, Concurrency, RequestPool
from pogfast.stores.remote import RemoteStore

FAR = 0.1  # seconds
NAMES = [f"{number:0>42}A=" for number in range(400)]


# ---- the rule ------------------------------------------------------------------------------------------------------


def after(number: Concurrency, seconds: float, *, times: int = 1, others_wait: bool = True) -> int:
    for _ in range(times):
        number.answered(time.monotonic() - seconds, others_wait=others_wait)
    return number.number


def test_the_number_grows_while_latency_is_most_of_a_transfer() -> None:
    number = Concurrency()
    assert after(number, 1.0, others_wait=False) == START
    assert after(number, 2.5, times=10) == START + 10
    assert after(number, 1.2, times=10, others_wait=False) == START + 10, "no other waits"
    assert after(number, 1.2, times=1000) == MAX_PARALLEL
    assert after(number, 3.5, times=10) == MAX_PARALLEL - 10, "the line is full"
    assert after(number, 3.5, times=1000) == START


def test_a_service_that_asks_for_fewer_requests_gets_half() -> None:
    number = Concurrency()
    began = time.monotonic()
    after(number, 1.0, times=100)
    for _ in range(MAX_PARALLEL):
        number.slow_down(began)
    assert number.number == MAX_PARALLEL // 2, "all of them began before the first was refused"
    assert after(number, 1.0, times=MAX_PARALLEL // 2 - 1) == MAX_PARALLEL // 2
    assert after(number, 1.0, times=2) == MAX_PARALLEL // 2 + 1
    for _ in range(10):
        number.slow_down(time.monotonic())
    assert number.number == 1
    assert after(number, 50.0, times=100) == START, "it is not left with less than it began with"


def test_a_given_number_stays() -> None:
    number = Concurrency(3)
    after(number, 1.0, times=100)
    number.slow_down(time.monotonic())
    assert (number.number, number.most) == (3, 3)


# ---- the threads ---------------------------------------------------------------------------------------------------


def test_a_pool_runs_in_order_and_no_more_at_a_time() -> None:
    pool, go_on = RequestPool(Concurrency(3), "test"), threading.Event()
    order: list[int] = []

    def act(number: int) -> int:
        order.append(number)
        go_on.wait()
        if number == 5:
            raise ValueError(number)
        return number

    futures = [pool.submit(act, number) for number in range(20)]
    assert futures[19].cancel(), "it has not begun"
    while len(order) < 3:
        time.sleep(0.01)
    assert sorted(order) == [0, 1, 2]
    go_on.set()
    assert [future.result() for future in futures[:5]] == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="5"):
        futures[5].result()
    with pytest.raises(CancelledError):
        futures[19].result()
    pool.shutdown()
    assert sorted(order) == list(range(19))


def test_a_pool_that_is_shut_down_drops_what_waits() -> None:
    pool, go_on = RequestPool(Concurrency(1), "test"), threading.Event()
    first, second = pool.submit(go_on.wait), pool.submit(go_on.wait)
    while not first.running():
        time.sleep(0.01)
    ended = threading.Thread(target=pool.shutdown, kwargs={"cancel": True})
    ended.start()
    while not second.cancelled():
        time.sleep(0.01)
    assert ended.is_alive(), "it waits for what has begun"
    go_on.set()
    ended.join()
    assert first.result() is True


# ---- through a proxy -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with moto() as made:
        yield made


@contextlib.contextmanager
def opened(proxy: Proxy, bucket: str, monkeypatch: pytest.MonkeyPatch, **more: str) -> Iterator[RemoteStore]:
    for name, value in {**environment_of(proxy.url), **more}.items():
        monkeypatch.setenv(name, value)
    store = open_store(f"s3://{bucket}", create=True)
    assert isinstance(store, RemoteStore)
    yield store
    store.close()


@pytest.fixture
def bucket(server: Server, request: pytest.FixtureRequest) -> str:
    name = f"b{abs(hash(request.node.nodeid)) % 10**12}"
    secrets = {"aws_access_key_id": server.key, "aws_secret_access_key": server.secret}
    boto3.client("s3", endpoint_url=server.url, region_name="us-east-1", **secrets).create_bucket(Bucket=name)
    return name


def store_all(store: RemoteStore, size: int = 100, names: list[str] = NAMES) -> None:
    for name in names:
        store.blobs(name, memoryview(bytes(size)))
    store.make_durable()


def most_of(proxy: Proxy) -> int:
    most, proxy.most = proxy.most, 0
    return most


def test_latency_asks_for_more_requests(server: Server, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    most = {"put": [], "get": [], "delete": []}
    for delay in (0.0, FAR):
        with proxied(server.url) as proxy:
            proxy.faults = [Fault("", times=-1, delay=delay)]
            with opened(proxy, bucket, monkeypatch) as store:
                store_all(store)
            most["put"].append(most_of(proxy))
            with opened(proxy, bucket, monkeypatch) as store:
                store.prefetch(NAMES)
                assert all(len(store.get_blob(name)) == 100 for name in NAMES)
            most["get"].append(most_of(proxy))
            with opened(proxy, bucket, monkeypatch) as store:
                assert len(list(store.delete_old_blobs(store.blob_names(), time.time() + 60, lambda: True))) == 400
            most["delete"].append(most_of(proxy))
    for near, far in most.values():
        assert near < far
        assert 2 * START < far <= MAX_PARALLEL + 1, "one is asked for, beside those that are prefetched"


def test_a_given_number_of_requests(server: Server, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with proxied(server.url) as proxy:
        proxy.faults = [Fault("", times=-1, delay=FAR)]
        with opened(proxy, bucket, monkeypatch, POGFAST_PARALLEL="5") as store:
            store_all(store, names=NAMES[:100])
        assert most_of(proxy) == 5


def test_never_more_than_the_bound(server: Server, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(concurrency, "MAX_PARALLEL", 20)
    with proxied(server.url) as proxy:
        proxy.faults = [Fault("", times=-1, delay=3 * FAR)]
        with opened(proxy, bucket, monkeypatch) as store:
            store_all(store)
        assert most_of(proxy) == 20


def test_never_more_than_memory_allows(server: Server, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traffic, "MAX_IN_FLIGHT", 500_000)
    monkeypatch.setattr("pogfast.stores.remote.MAX_IN_FLIGHT", 500_000)
    names = NAMES[:60]
    with proxied(server.url) as proxy:
        proxy.faults = [Fault("", times=-1, delay=FAR)]
        with opened(proxy, bucket, monkeypatch) as store:
            store_all(store, 100_000, names)
            assert most_of(proxy) <= 5
        with opened(proxy, bucket, monkeypatch) as store:
            store.prefetch(names)
            assert len(store.get_blob(names[0])) == 100_000
            assert store.in_flight.bytes <= 500_000
            assert all(len(store.get_blob(name)) == 100_000 for name in names)


@pytest.mark.parametrize(("status", "code"), [(503, "SlowDown"), (429, "TooManyRequests")])
def test_a_busy_service_gets_fewer_requests(
    server: Server, bucket: str, monkeypatch: pytest.MonkeyPatch, told: list[str], status: int, code: str
) -> None:
    with proxied(server.url) as proxy:
        proxy.faults = [Fault("^PUT", times=30, status=status, code=code, delay=FAR)]
        with opened(proxy, bucket, monkeypatch) as store:
            store_all(store, names=NAMES[:12])
            assert len(told) == 30
            assert store.parallel < START
            assert {stored.name for stored in store.blob_names()} == set(NAMES[:12])


def test_an_error_of_one_request_slows_nothing_down(
    server: Server, bucket: str, monkeypatch: pytest.MonkeyPatch, told: list[str]
) -> None:
    with proxied(server.url) as proxy:
        proxy.faults = [Fault("^PUT", times=5, status=500), Fault("^PUT", times=5, lose_answer=True)]
        with opened(proxy, bucket, monkeypatch) as store:
            store_all(store, names=NAMES[:40])
            assert len(told) >= 5
            assert store.parallel >= START

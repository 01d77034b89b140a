"""Limits of bytes a second: what the bucket allows by a clock of the test's own, and that all bodies pass it."""

from __future__ import annotations

import os
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pogfast
from kit.commands import Runner
from kit.servers import KEY, SECRET, Server, b2, b2_environment, environment_of, moto, rclone
from pogfast.errors import StoreError, UsageError
from pogfast.stores import open_store
from pogfast.stores.limits import BURST, PIECE, Interrupted, Limits, RateLimit
from pogfast.stores.service import LimitedBody
from pogfast.stores.settings import Settings

NAME = f"A{'-' * 42}="


class Clock:
    """Stands still but for those who sleep; keeps what was allowed, and when."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.lock = threading.Lock()

    def sleep(self, seconds: float) -> None:
        with self.lock:
            self.now += seconds

    def limit(self, rate: float | None) -> RateLimit:
        return RateLimit(rate, clock=lambda: self.now, sleep=self.sleep)


# ---- the bucket ------------------------------------------------------------------------------------------------------

RATES = st.integers(1000, 10**9)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("take"), st.integers(1, 1 << 20)),
        st.tuples(st.just("pause"), st.floats(0, 5)),
        st.tuples(st.just("rate"), RATES),
    ),
    max_size=60,
)


@given(RATES, STEPS)
def test_no_window_has_more_than_the_limit_and_the_burst(rate: int, steps: list[tuple[str, Any]]) -> None:
    clock = Clock()
    limit = clock.limit(rate)
    rates, passed = [(clock.now, rate)], []
    for what, value in steps:
        if what == "pause":
            clock.now += value
        elif what == "rate":
            limit.set_rate(value)
            rates.append((clock.now, value))
        else:
            count = limit.take(value)
            assert 1 <= count <= max(1, min(value, int(rates[-1][1] * PIECE)))
            passed.append((clock.now, count))

    def worth(begin: float, end: float) -> float:
        """Bytes that the rates of a window are worth."""
        until = [*(moment for moment, _ in rates[1:]), float("inf")]
        spans = [(max(begin, at), min(end, to), each) for (at, each), to in zip(rates, until, strict=True)]
        return sum((to - at) * each for at, to, each in spans if to > at)

    for first, (begin, _) in enumerate(passed):
        for last in range(first, len(passed)):
            end = passed[last][0]
            most = max(each for at, each in rates if at <= end)
            total = sum(count for _, count in passed[first : last + 1])
            assert total <= worth(begin, end) + most * (BURST + PIECE) + 1


def test_what_is_not_used_is_made_up_for_no_longer_than_the_burst() -> None:
    clock = Clock()
    limit = clock.limit(16_000)
    clock.now += 3600
    began = clock.now
    limit.spend(4000)
    assert clock.now == began, "a quarter of a second's worth"
    limit.spend(16_000)
    assert clock.now == pytest.approx(began + 1)


def test_threads_share_one_limit() -> None:
    waits: list[tuple[float, int]] = []
    told = threading.local()
    limit = RateLimit(10_000, clock=lambda: 0.0, sleep=lambda seconds: setattr(told, "wait", seconds))

    def transfer() -> None:
        for _ in range(40):
            told.wait = 0.0
            count = limit.take(1 << 20)
            waits.append((told.wait, count))

    threads = [threading.Thread(target=transfer) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    total = 0
    for wait, count in sorted(waits):
        total += count
        assert total <= 10_000 * (wait + BURST) + 1
    assert total == 8 * 40 * 625


def test_what_is_given_back_is_not_lost() -> None:
    clock = Clock()
    limit = clock.limit(8000)
    for _ in range(100):
        limit.give_back(limit.take(500) - 5)
    assert clock.now - 1000.0 <= 500 / 8000


def test_a_body_that_comes_in_crumbs_takes_no_longer() -> None:
    class Crumbs(LimitedBody):
        def _readinto(self, view: memoryview) -> int:
            view[:5] = b"crumb"
            return 5

    clock = Clock()
    body, view = Crumbs(Limits(None, clock.limit(8000)).receiving()), memoryview(bytearray(1 << 20))
    assert [body.readinto(view) for _ in range(100)] == [5] * 100
    assert clock.now - 1000.0 <= 500 / 8000


def test_a_rate_can_be_changed_and_lifted() -> None:
    clock = Clock()
    limit = clock.limit(1000)
    limit.spend(10_000)
    limit.set_rate(10**6)
    now = clock.now
    limit.spend(10**6)
    assert clock.now - now <= 1.01
    limit.set_rate(None)
    assert limit.take(10**12) == 10**12
    limit.give_back(5)
    for wrong in (0, -5, 999, float("nan")):
        with pytest.raises(UsageError):
            limit.set_rate(wrong)
    assert pickle.loads(pickle.dumps(RateLimit(5000))).rate == 5000


def test_an_interruption_ends_the_transfers_that_have_begun() -> None:
    limits = Limits(Clock().limit(1000), None)
    before, unlimited = limits.sending(), limits.receiving()
    limits.interrupt()
    with pytest.raises(Interrupted):
        before.take(10)
    assert (limits.sending().take(10), unlimited.take(10)) == (10, 10)


# ---- options ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "rate"),
    [("5MB", 5 * 10**6), ("500KB", 500_000), ("1.5MiB/s", 1_572_864), ("1k", 1000), ("unlimited", None)],
)
def test_rates(text: str, rate: int | None) -> None:
    assert RateLimit.parse("--limit-upload", text).rate == rate


@pytest.mark.parametrize("text", ["500", "1024", "0", "999B", "", "5Mbit", "-5MB", "fast", "5 MB/h"])
def test_what_is_no_rate(text: str) -> None:
    """restic takes a number for KiB: one without a unit would be a thousandth of what is meant."""
    with pytest.raises(UsageError, match="--limit-upload="):
        RateLimit.parse("--limit-upload", text)


def test_stores_share_the_limit_of_a_variable() -> None:
    environ = {"POGFAST_LIMIT_UPLOAD": "5MB", "POGFAST_LIMIT_DOWNLOAD": "5MB"}
    one, other = Settings.of(environ), Settings.of(environ)
    assert one.limit_upload is other.limit_upload is not one.limit_download
    assert one.limit_upload is not None
    assert (one.limit_upload.rate, Settings.of({}).limit_upload) == (5 * 10**6, None)
    with pytest.raises(UsageError, match="POGFAST_LIMIT_DOWNLOAD=5: "):
        Settings.of({"POGFAST_LIMIT_DOWNLOAD": "5"})


def test_a_limit_that_limits_nothing_is_told(pogfast: Runner, tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b"key")
    ran = pogfast("create", "key", "--to", "store", "--keyfile=key", "--limit-upload=5MB")
    assert ran.code == 0
    assert "--limit-upload limits services, and no store here is on one" in ran.err
    assert "--limit-download" not in ran.err
    ran = pogfast("create", "key", "--to", "store", "--keyfile=key", "--limit-upload=5")
    assert (ran.code, "needs a unit" in ran.err) == (2, True)


# ---- services --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Server]]:
    with (
        moto() as one,
        rclone(tmp_path_factory.mktemp("rclone")) as two,
        b2(tmp_path_factory.mktemp("b2")) as three,
    ):
        yield {"moto": one, "rclone": two, "b2": three}


@pytest.fixture(params=["moto", "rclone", "b2"])
def place(servers: dict[str, Server], request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a new bucket, which the environment reaches."""
    server, bucket = servers[request.param], f"bucket-{time.monotonic_ns()}"
    if request.param == "b2":
        import b2sdk.v2 as sdk

        api = sdk.B2Api(sdk.InMemoryAccountInfo())
        api.authorize_account(server.url, KEY, SECRET)
        api.create_bucket(bucket, "allPrivate")
        variables = b2_environment(server.url)
    else:
        client = boto3.client(
            "s3", endpoint_url=server.url, aws_access_key_id=KEY, aws_secret_access_key=SECRET, region_name="us-east-1"
        )
        client.create_bucket(Bucket=bucket)
        variables = environment_of(server.url)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return f"{'b2' if request.param == 'b2' else 's3'}://{bucket}"


@pytest.mark.parametrize("size", [5, 100_000, 3_000_000])
def test_each_body_passes_once(place: str, size: int) -> None:
    """boto3 reads a body twice, the first time to sign it."""
    up, down, data = Clock(), Clock(), os.urandom(size)
    with pogfast.services(limit_upload=up.limit(50_000), limit_download=down.limit(50_000)):
        store = open_store(place, create=True)
        listed = down.now
        store.put_object("packs/2026-01-01/x", data)  # type: ignore[attr-defined]
        assert size / 50_000 - BURST - 0.01 <= up.now - 1000 <= size / 50_000 + 0.01
        assert bytes(store.get_object("packs/2026-01-01/x", size)) == data  # type: ignore[attr-defined]
        assert size / 50_000 - 2 * BURST - 0.01 <= down.now - listed <= size / 50_000 + 0.1
        before = down.now
        assert bytes(store.read_range("packs/2026-01-01/x", 1, size - 2)) == data[1:-1]  # type: ignore[attr-defined]
        assert size / 50_000 - 2 * BURST - 0.01 <= down.now - before <= size / 50_000 + 0.1
        store.close()


def test_pages_of_listings_count(place: str) -> None:
    if place.startswith("b2"):
        return
    with pogfast.services():
        store = open_store(place, create=True)
        for number in range(30):
            store.put_mark(f"condemned-{number}", b"")
        store.close()
    clock = Clock()
    with pogfast.services(limit_download=clock.limit(1000)):
        store = open_store(place)
        before = clock.now
        assert len(store.named("condemned-")) == 30
        assert clock.now - before > 3, "a page has at least 100 bytes for each object"
        store.close()


def test_what_waits_for_a_limit_ends_with_the_run(place: str) -> None:
    """It would take five minutes."""
    with pogfast.services(limit_upload=10_000, limit_download=10_000, retry_for=0):
        store = open_store(place, create=True)
    failed: list[BaseException] = []
    store.blobs(NAME, memoryview(os.urandom(3_000_000)))  # type: ignore[operator]

    def drain() -> None:
        try:
            store.make_durable()
        except StoreError as error:
            failed.append(error)

    thread = threading.Thread(target=drain)
    thread.start()
    time.sleep(0.3)
    began = time.monotonic()
    store.blobs.abandon()  # type: ignore[union-attr]
    thread.join()
    assert time.monotonic() - began < 100
    assert failed
    store.close()


def test_a_backup_and_a_restore_within_limits(
    servers: dict[str, Server], place: str, pogfast: Runner, tmp_path: Path
) -> None:
    if not place.startswith("s3"):
        return
    (tmp_path / "key").write_bytes(b"key")
    (tmp_path / "tree").mkdir()
    for number in range(4):
        (tmp_path / "tree" / f"{number}").write_bytes(os.urandom(250_000))

    def timed(act: Callable[[], Any]) -> float:
        began = time.monotonic()
        assert act().code == 0
        return time.monotonic() - began

    env = {**os.environ, "POGFAST_CACHE_DIR": str(tmp_path / "cache")}
    with_key = ["--keyfile=key", "--jobs=2"]
    limited = timed(lambda: pogfast("create", "tree", "--to", place, *with_key, "--limit-upload=500KB", env=env))
    assert limited > 1.7
    command = ["restore", f"{place}/latest", "--into", "out", *with_key, "--limit-download=500KB"]
    assert timed(lambda: pogfast(*command, env=env)) > 1.5
    for number in range(4):
        assert (tmp_path / "out/tree" / f"{number}").read_bytes() == (tmp_path / "tree" / f"{number}").read_bytes()

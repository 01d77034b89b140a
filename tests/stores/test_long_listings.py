"""Listings of many pages: complete and without repetition, whatever a service makes of the names at which it is asked
to begin a page. On real servers; the one in memory is for stores whose objects are spread in many ways."""

from __future__ import annotations

import hashlib
import random
import re
from base64 import urlsafe_b64encode
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import b2sdk.v2 as b2sdk
import boto3
import pytest

from kit.faultproxy import Fault, Proxy, proxied
from kit.servers import KEY, SECRET, Server, b2, b2_environment, environment_of, moto, rclone
from pogfast.stores import listing, open_service
from pogfast.stores.concurrency import Concurrency
from pogfast.stores.listing import SCALES, Lister
from pogfast.stores.remote import RemoteStore, blob_path
from pogfast.stores.service import BasicService, ObjectInfo

PAGE = 100
BLOBS = [urlsafe_b64encode(hashlib.sha256(b"%d" % number).digest()).decode() for number in range(1200)]
BEGAN = datetime(2024, 1, 1)
# Hourly for a month, then daily for two years: guesses are wrong where it changes.
TIMES = [BEGAN + timedelta(hours=hour) for hour in range(500)] + [
    BEGAN + timedelta(days=30 + day) for day in range(200)
]
MANIFESTS = [f"{time.isoformat()}.000000.mfn" for time in TIMES]
MARKS = [
    "2024-01-05T05:30:00.000000.mfn.partial",
    "2026-01-01T00:00:00.000000.mfn.removed",
    "condemned-x",
    "sweep.done-5",
]
GUESS = "GET .*start-after"


@dataclass
class Place:
    """A bucket, its proxy, and its objects below the store's prefix."""

    proxy: Proxy
    address: str
    manifests: list[str]
    blobs: list[str]


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A bucket with pages of PAGE objects, with a store at its top and one below a prefix."""
    with moto(MOTO_S3_DEFAULT_MAX_KEYS=str(PAGE)) as server:
        client = boto3.client(
            "s3", endpoint_url=server.url, aws_access_key_id="key", aws_secret_access_key="x", region_name="us-east-1"
        )
        client.create_bucket(Bucket="filled")
        paths = [*map(blob_path, BLOBS), *MANIFESTS, *MARKS, "data/noise", "2024-02-02"]
        keys = [*paths, *(f"below/this/{path}" for path in [*MANIFESTS[::2], *map(blob_path, BLOBS[::3])])]
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda key: client.put_object(Bucket="filled", Key=key, Body=b"content"), keys))
        yield server


@pytest.fixture
def proxy(filled: Server) -> Iterator[Proxy]:
    with proxied(filled.url) as made:
        yield made


@pytest.fixture
def store(proxy: Proxy, told: list[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[RemoteStore]:
    """The store at the bucket's top."""
    yield from opened(proxy.url, "s3://filled", monkeypatch)


def opened(url: str, address: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[RemoteStore]:
    for name, value in environment_of(url).items():
        monkeypatch.setenv(name, value)
    made = open_service(address)
    yield made
    made.close()


def listed(store: RemoteStore) -> tuple[list[str], list[str]]:
    return [blob.name for blob in store.blob_names()], [found.name for found in store.manifests()]


def test_pages_are_requested_at_the_same_time(store: RemoteStore, proxy: Proxy) -> None:
    proxy.faults = [Fault("", times=-1, delay=0.05)]
    assert [blob.name for blob in store.blob_names()] == sorted(BLOBS, key=blob_path)
    pages = len(BLOBS) / PAGE + 1
    assert 4 <= proxy.most <= listing.AT_A_TIME
    assert proxy.count("GET") <= 1.25 * pages + 1
    assert [found.name for found in store.manifests()] == sorted(MANIFESTS)
    assert [mark.name for mark in store.marks()] == sorted(MARKS)


def test_a_store_below_a_prefix(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    [store] = opened(proxy.url, "s3://filled/below/this", monkeypatch)
    assert listed(store) == (sorted(BLOBS[::3], key=blob_path), sorted(MANIFESTS[::2]))
    assert proxy.count(GUESS) > 2


def test_what_needs_a_page_gets_a_page(store: RemoteStore, proxy: Proxy) -> None:
    assert next(store.blob_names()).name == min(BLOBS, key=blob_path)
    assert [mark.name for mark in store.named("sweep")] == ["sweep.done-5"]
    assert proxy.count("GET") == 2


# What a service may send for a page that it was asked for at a name.
WRONG: dict[str, dict[str, Any]] = {
    "an error": {"status": 501, "code": "NotImplemented"},
    "an error that would be retried": {"status": 500},
    "nothing": {"status": 200, "body": b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>"},
    "no listing": {"status": 200, "body": b"<html>log in</html>"},
    "too late": {
        "change": lambda body: re.sub(rb"(<Contents>.*?</Contents>\s*){40}", b"", body, count=1, flags=re.DOTALL)
    },
    "a gap": {"change": lambda body: re.sub(rb"<Contents>.*?</Contents>", b"", body, count=1, flags=re.DOTALL)},
    "holes": {"change": lambda body: arranged(body, lambda found: [one for at, one in enumerate(found) if at % 3])},
    "another order": {"change": lambda body: arranged(body, lambda found: found[::-1])},
    "another order at its end": {"change": lambda body: arranged(body, lambda found: found[:40] + found[:39:-1])},
    "the first page": {"change": lambda body: first_page.pop()},
}
first_page: list[bytes] = []


def without(body: bytes, count: int) -> bytes:
    """A listing without its first objects."""
    return re.sub(rb"<Contents>.*?</Contents>", b"", body, count=count, flags=re.DOTALL)


def arranged(body: bytes, choose: Callable[[list[bytes]], list[bytes]]) -> bytes:
    """A listing with other objects, or in another order."""
    found = re.findall(rb"<Contents>.*?</Contents>", body, re.DOTALL)
    return body.split(found[0])[0] + b"".join(choose(found)) + body.split(found[-1])[-1]


@pytest.mark.parametrize("wrong", WRONG)
def test_a_page_that_is_wrong_is_not_used(
    filled: Server, store: RemoteStore, proxy: Proxy, told: list[str], wrong: str
) -> None:
    with urlopen(f"{filled.url}/filled?list-type=2&prefix=data/") as answer:
        first_page[:] = [answer.read()]
    proxy.faults = [Fault(GUESS, times=-1, **WRONG[wrong])]
    assert listed(store) == (sorted(BLOBS, key=blob_path), sorted(MANIFESTS))
    assert told == []
    if wrong not in ("a gap", "holes"):  # objects may have been deleted just then: the next guess may be right
        assert proxy.count(GUESS) <= 2, "it is not asked for more: a second one may be under way"


@pytest.mark.parametrize("wrong", ["too late", "a gap", "holes", "another order", "another order at its end"])
def test_a_page_that_is_wrong_after_others_were_right(store: RemoteStore, proxy: Proxy, wrong: str) -> None:
    proxy.faults = [Fault(GUESS, times=-1, skip=3, **WRONG[wrong])]
    assert listed(store) == (sorted(BLOBS, key=blob_path), sorted(MANIFESTS))
    assert proxy.count(GUESS) > 3


def test_a_service_that_is_busy_for_a_moment(store: RemoteStore, proxy: Proxy, told: list[str]) -> None:
    proxy.faults = [Fault("GET", times=3, skip=4, status=503, code="SlowDown")]
    assert [blob.name for blob in store.blob_names()] == sorted(BLOBS, key=blob_path)
    assert told


def test_rclone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its pages have a thousand objects."""
    hourly = [f"{(BEGAN + timedelta(hours=hour)).isoformat()}.mfn" for hour in range(3500)]
    for name in [*map(blob_path, BLOBS), *hourly, *MARKS]:
        (tmp_path / "bucket" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "bucket" / name).touch()
    with rclone(tmp_path) as server:
        for store in opened(server.url, "s3://bucket", monkeypatch):
            assert listed(store) == (sorted(BLOBS, key=blob_path), hourly)


def test_b2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pogfast.stores.b2.PAGE", PAGE)
    with b2(tmp_path) as server:
        for name, value in b2_environment(server.url).items():
            monkeypatch.setenv(name, value)
        api = b2sdk.B2Api(b2sdk.InMemoryAccountInfo())
        api.authorize_account(server.url, KEY, SECRET)
        bucket = api.create_bucket("a-bucket", "allPrivate")
        with ThreadPoolExecutor(8) as threads:
            paths = [*map(blob_path, BLOBS), *MANIFESTS, *MARKS]
            list(threads.map(lambda path: bucket.upload_bytes(b"content", path), paths))
        store = open_service("b2://a-bucket")
        assert listed(store) == (sorted(BLOBS, key=blob_path), sorted(MANIFESTS))
        assert store._lister.is_sorted
        store.close()


# ---- in memory -------------------------------------------------------------------------------------------------------


class Sorted(BasicService):
    """Pages of 7 objects, sorted; what is in `going` is deleted one by one while pages are requested."""

    identity = label = "memory:"

    def __init__(self, paths: list[str], going: list[str]) -> None:
        self.paths, self.going = sorted(paths), going
        self.requests: Counter[str] = Counter()

    def page(self, prefix: str, token: str, *, deep: bool, start: str = "") -> tuple[list[ObjectInfo], str]:
        self.requests["list"] += 1
        if self.going:
            self.paths.remove(self.going.pop())
        at = bisect_right(self.paths, token or start)
        found = [ObjectInfo(path, 1, 0.0) for path in self.paths[at : at + 7]]
        return found, found[-1].path if at + 7 < len(self.paths) else ""


def hashed(source: random.Random) -> str:
    return urlsafe_b64encode(source.randbytes(32)).decode()


SPREAD: dict[str, Callable[[random.Random], str]] = {
    "blobs": lambda source: blob_path(hashed(source)),
    "a corner": lambda source: blob_path("AA" + hashed(source)[2:]),
    "times": lambda source: f"{BEGAN + timedelta(days=1000 * source.random() ** 9):%Y-%m-%dT%H:%M:%S}.mfn",
    "the future": lambda source: f"{BEGAN + timedelta(days=99999 * source.random()):%Y-%m-%dT%H:%M:%S}.mfn",
    "any names": lambda source: source.choice(["", "2024-01-", "data/"]) + hashed(source)[: source.randrange(1, 9)],
    "packs": lambda source: f"packs/2026-11-{source.choice(['01', '02', '03', '30', 'xx'])}/{hashed(source)}",
}


@pytest.mark.parametrize("spread", SPREAD)
@pytest.mark.parametrize("kind", SCALES)
def test_every_object_is_listed_once(kind: tuple[str, bool], spread: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "ENOUGH", 3)
    source = random.Random(f"{kind} {spread}")
    for number in range(60):
        paths = sorted({SPREAD[spread](source) for _ in range(source.randrange(300))})
        going = source.sample(paths, number % 2 * len(paths) // 20)
        service = Sorted(paths, going.copy())
        lister = Lister(service, Concurrency(), lambda act: act())
        found = [each.path for each in lister.listed(kind[0], deep=kind[1])]
        assert found == sorted(set(found))
        assert set(paths) - set(going) <= set(found) <= set(paths)
        assert going or lister.is_sorted is not False
        assert service.requests["list"] <= 4 * (len(paths) / 7 + listing.AT_A_TIME)

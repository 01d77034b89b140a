"""Ranges of objects, from a server behind a proxy that does to the responses what servers and networks do to them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import boto3
import pytest

from kit.faultproxy import Fault, Proxy
from kit.servers import Server
from pogfast.errors import CorruptBlob, MissingBlob, StoreError
from pogfast.stores import open_service
from pogfast.stores.remote import RemoteStore
from pogfast.stores.service import PIECE
from pogfast.stores.traffic import MAX_STALLS

PACK = "packs/2026-11-30/pack"
DATA = os.urandom(3 * PIECE)
START, SIZE = 1000, 2 * PIECE + 5
WANTED = DATA[START : START + SIZE]
GET = "GET .*/packs/"


@pytest.fixture
def store(server: Server, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[RemoteStore]:
    monkeypatch.setattr("pogfast.stores.remote.MAX_PAUSE", 0.001)
    for name, value in (server.environment | {"POGFAST_S3_ENDPOINT": proxy.url, "POGFAST_RETRY_FOR": "20"}).items():
        monkeypatch.setenv(name, value)
    bucket = f"bucket-{time.monotonic_ns()}"
    said = {"aws_access_key_id": server.key, "aws_secret_access_key": server.secret, "region_name": "us-east-1"}
    boto3.client("s3", endpoint_url=server.url, **said).create_bucket(Bucket=bucket)
    made = open_service(f"s3://{bucket}")
    made.put_object(PACK, DATA)
    yield made
    made.close()


def range_of(start: int) -> str:
    return f"bytes={start}-{START + SIZE - 1}"


@pytest.mark.parametrize(
    "fault",
    [
        Fault(GET, whole=True),
        Fault(GET, whole=True, times=-1),
        Fault(GET, headers={"Content-Range": f"bytes {START}-{START + SIZE - 1}/*"}),
        Fault(GET, headers={"Content-Range": f"bytes 0-{START + SIZE - 1}/{len(DATA)}"}),
        Fault(GET, headers={"Content-Range": f"bytes {START}-{START + SIZE}/{len(DATA)}"}),
        Fault(GET, headers={"Content-Range": f"bytes {START}-{START + 4}/{len(DATA)}"}),
        Fault(GET, headers={"Content-Range": f"bytes {START + 1}-{START + SIZE - 1}/{len(DATA)}"}),
        Fault(GET, headers={"Content-Range": "nonsense"}),
        Fault(GET, headers={"Content-Range": ""}),
        Fault(GET, change=lambda body: body[:-1]),
        Fault(GET, change=lambda body: body[1:]),
        Fault(GET, change=lambda body: body + b"more"),
        Fault(GET, change=lambda body: b""),
        Fault(GET, cut_answer=0),
        Fault(GET, cut_answer=SIZE - 1),
        Fault(GET, status=503, code="SlowDown", times=3),
        Fault(GET, status=416, code="InvalidRange"),
        Fault(GET, lose_answer=True),
    ],
    ids=[
        "without ranges once", "without ranges", "of unknown size", "from the start", "to beyond", "of less",
        "of later", "nonsense", "no Content-Range", "too short", "shifted", "too long", "empty", "cut at once",
        "cut at the end", "busy", "out of range", "lost",
    ],
)  # fmt: skip
def test_a_wrong_response_to_a_range_gives_the_right_bytes(store: RemoteStore, proxy: Proxy, fault: Fault) -> None:
    fault.times, fault.skip = (fault.times, 0) if fault.times < 0 or fault.status else (1, 0)
    proxy.faults = [fault]
    assert bytes(store.read_range(PACK, START, SIZE)) == WANTED
    assert proxy.ranges[0] == range_of(START)


@pytest.mark.parametrize(
    "fault",
    [
        Fault(GET, times=-1, headers={"Content-Range": f"bytes 0-{SIZE - 1}/{len(DATA)}"}),
        Fault(GET, times=-1, headers={"Content-Range": ""}),
        Fault(GET, times=-1, change=lambda body: body[:-1]),
        Fault(GET, times=-1, cut_answer=0),
        Fault(GET, times=-1, status=416, code="InvalidRange"),
    ],
    ids=["from the start", "no Content-Range", "too short", "cut at once", "out of range"],
)
def test_a_server_that_never_sends_the_range(store: RemoteStore, proxy: Proxy, fault: Fault) -> None:
    fault.times = -1
    proxy.faults = [fault]
    with pytest.raises(CorruptBlob, match=f", {MAX_STALLS} times$"):
        store.read_range(PACK, START, SIZE)
    assert proxy.count(GET) == MAX_STALLS


def test_a_range_that_breaks_off_resumes_where_it_was(store: RemoteStore, proxy: Proxy) -> None:
    """With a busy service in between."""
    cut = PIECE + 7
    proxy.faults = [
        Fault(GET, cut_answer=cut),
        Fault(GET, status=503, code="SlowDown", times=2),
        Fault(GET, cut_answer=PIECE - 20),
    ]
    assert bytes(store.read_range(PACK, START, SIZE)) == WANTED
    first, *others, last = proxy.ranges
    assert first == range_of(START)
    assert others == [others[0]] * 3
    begins = [int(text.removeprefix("bytes=").partition("-")[0]) for text in (first, others[0], last)]
    assert begins == sorted(set(begins))
    assert begins[1] in (START + PIECE, START + cut), "whole reads, and what came of the one that broke"


def test_a_server_without_ranges_that_breaks_off(store: RemoteStore, proxy: Proxy) -> None:
    proxy.faults = [
        Fault(GET, whole=True, cut_answer=START + PIECE + 7),
        Fault(GET, whole=True, cut_answer=10),
        Fault(GET, whole=True),
    ]
    assert bytes(store.read_range(PACK, START, SIZE)) == WANTED
    assert len(proxy.ranges) == 3


def test_an_object_that_ends_before(store: RemoteStore, proxy: Proxy) -> None:
    with pytest.raises(CorruptBlob, match=f"ends at byte {len(DATA):,}, and has to have {len(DATA) + 1:,}"):
        store.read_range(PACK, START, len(DATA) + 1 - START)
    proxy.faults = [Fault(GET, whole=True, times=-1)]
    with pytest.raises(CorruptBlob, match=f"ends at byte {len(DATA):,}, and has to have {len(DATA) + 1:,}"):
        store.read_range(PACK, START, len(DATA) + 1 - START)
    with pytest.raises(CorruptBlob, match=f"ends at byte {len(DATA):,}"):
        store.read_range(PACK, 1 << 50, 1 << 50)
    assert len(proxy.ranges) == 3


def test_what_is_missing_or_refused_is_no_damage(store: RemoteStore, proxy: Proxy) -> None:
    with pytest.raises(MissingBlob):
        store.read_range(PACK + "x", START, SIZE)
    proxy.faults = [Fault(GET, status=403, code="AccessDenied")]
    with pytest.raises(StoreError, match="access denied"):
        store.read_range(PACK, START, SIZE)
    proxy.faults = [Fault(GET, status=404, code="NoSuchKey")]
    with pytest.raises(MissingBlob):
        store.read_range(PACK, START, SIZE)


@pytest.mark.parametrize(
    ("fault", "state"),
    [
        (Fault("nothing"), "good"),
        (Fault("GET .*/doctor", times=-1, whole=True), "note"),
        (Fault("GET .*/doctor", times=-1, change=lambda body: body[::-1]), "bad"),
    ],
    ids=["ranges", "without ranges", "wrong bytes"],
)
def test_doctor_says_whether_ranges_work(store: RemoteStore, proxy: Proxy, fault: Fault, state: str) -> None:
    proxy.faults = [fault]
    assert [found.state for found in store.examine() if found.what == "ranges"] == [state]
    assert store.named("doctor") == []

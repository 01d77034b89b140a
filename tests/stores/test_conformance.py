"""One suite for every store. A new one is a file in pogfast/stores/, a row of this table, and a parameter here.

KNOWN lists what a server is known not to support; there the suite asserts exactly that, so that a change is noticed.
Every store that can be read is tried twice: with each blob as an object, and with packs ("moto, packed").
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import b2sdk.v2 as b2sdk
import boto3
import pytest

from kit.commands import Runner
from kit.servers import KEY, SECRET, Server, b2, b2_environment, moto, rclone
from kit.swift import swift
from pogfast._engine import BlobDirectory
from pogfast.errors import CorruptBlob, MissingBlob, NoSuchArchive, StoreError, UsageError
from pogfast.stores import open_store
from pogfast.stores.protocols import HoldsPacks
from pogfast.stores.settings import Lock

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
NAMES = [f"{letter}{other}{'-_' * 20}A=" for letter, other in zip("ABab0-_Z", "a-_9ZzA_", strict=True)]
MANIFEST = "2026-11-23T12:34:56.012345.mfn"

# store: what it does not do, of
#   read: give back, list or delete what it was given
#   condition: refuse to write over a manifest
#   checksum: refuse what was altered on its way
#   lock, cold: S3's object lock and cold storage
#   alone: delete or replace a blob by itself; in a pack it lies with others
KNOWN: dict[str, set[str]] = {
    "local": {"checksum", "lock", "cold"},
    "program": {"read", "condition", "checksum", "lock", "cold"},
    "moto": {"checksum"},
    "swift": {"lock", "cold"},
    "rclone": {"condition", "checksum", "lock", "cold"},
    "b2": {"condition", "checksum", "lock", "cold"},
}
KNOWN |= {f"{kind}, packed": known | {"alone"} for kind, known in KNOWN.items() if "read" not in known}
SERVICES = ("moto", "swift", "rclone", "b2")


@dataclass
class Place:
    """Where a new store is, and the environment that a command needs to reach it."""

    kind: str
    text: str
    environment: dict[str, str]
    packs: bool = False

    def does(self, what: str) -> bool:
        return what not in KNOWN[f"{self.kind}, packed" if self.packs else self.kind]

    @contextlib.contextmanager
    def opened(self, *, create: bool = False) -> Iterator[Any]:
        store = open_store(self.text, create=create)
        try:
            yield store
        finally:
            store.close()

    def put(self, store: Any, name: str, data: bytes) -> None:
        """Stores a blob as the engine and `copy` do."""
        sink = store.blobs
        if isinstance(sink, BlobDirectory):
            sink.put(name, data)
        else:
            sink(name, memoryview(data))

    def base(self, store: Any) -> Any:
        """Returns the store that makes the requests."""
        return store.base if self.packs else store

    def object_of(self, store: Any) -> str:
        """Returns the one object that holds blobs."""
        [holder] = store.holders()
        assert holder.name.startswith("packs/") == self.packs
        return str(holder.name)


Maker = Callable[[str], Server]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Maker]:
    """The servers; each is started on first use."""
    started: dict[str, Server] = {}
    with contextlib.ExitStack() as stack:

        def of(kind: str) -> Server:
            if kind not in started:
                home = tmp_path_factory.mktemp(kind)
                makers = {"moto": moto, "swift": lambda: swift(home), "rclone": lambda: rclone(home)}
                makers["b2"] = lambda: b2(home)
                started[kind] = stack.enter_context(makers[kind]())
            return started[kind]

        yield of


def client_of(server: Server) -> Any:
    said = {"aws_access_key_id": server.key, "aws_secret_access_key": server.secret, "region_name": "us-east-1"}
    return boto3.client("s3", endpoint_url=server.url, **said)


def new_place(kind: str, server: Maker, tmp_path: Path) -> Place:
    name = f"bucket-{time.monotonic_ns()}"
    if kind == "b2":
        made = server(kind)
        api = b2sdk.B2Api(b2sdk.InMemoryAccountInfo())
        api.authorize_account(made.url, KEY, SECRET)
        api.create_bucket(name, "allPrivate")
        return Place(kind, f"b2://{name}", b2_environment(made.url))
    if kind in SERVICES:
        made = server(kind)
        client_of(made).create_bucket(Bucket=name, ObjectLockEnabledForBucket=kind == "moto")
        return Place(kind, f"s3://{name}", made.environment)
    if kind == "program":
        program = tmp_path / "program"
        program.write_text(f'#!{sys.executable}\nimport shutil, sys\nshutil.copy(sys.argv[2], "{tmp_path}/given")\n')
        program.chmod(0o755)
        return Place(kind, str(program), {})
    home = tmp_path / "store"
    home.mkdir()
    return Place(kind, str(home), {})


@pytest.fixture(params=KNOWN)
def place(request: pytest.FixtureRequest, server: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    kind, comma, _ = request.param.partition(",")
    made = new_place(kind, server, tmp_path)
    if comma:
        made.packs = True
        made.environment |= {"POGFAST_PACKS": "1MiB", "POGFAST_CACHE_DIR": str(tmp_path / "cache")}
        monkeypatch.setattr("pogfast.stores.packs.sink.MIN_BLOBS", 1)  # the few blobs here are worth a pack
        monkeypatch.setattr("pogfast.stores.packs.sink.MIN_SIZE", 0)
    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)
    return made


@pytest.fixture(params=["", "/deep/er"], ids=["top", "below"])
def below(request: pytest.FixtureRequest, place: Place) -> Place:
    """The same stores, and a prefix in a bucket."""
    if request.param and place.kind in SERVICES:
        place.text += request.param
    return place


def test_stored_objects_exist(below: Place) -> None:
    content = {name: os.urandom(1000 + number) for number, name in enumerate(NAMES)}
    with below.opened(create=True) as store:
        for name, data in content.items():
            below.put(store, name, data)
        store.make_durable()
        store.put_manifest(MANIFEST, b"a manifest")
        if not below.does("read"):
            assert list(store.sizes_of(NAMES[:2])) == [None, None]
            assert store.missing(NAMES) == []
            assert store.marks() == []
            return
    with below.opened() as store:
        assert sorted(stored[:2] for stored in store.blob_names()) == sorted(
            (name, len(data)) for name, data in content.items()
        )
        assert all(abs(stored.modified - time.time()) < 60 for stored in [*store.blob_names(), *store.manifests()])
        assert [stored[:2] for stored in store.manifests()] == [(MANIFEST, 10)]
        assert store.get_manifest(MANIFEST) == b"a manifest"
        assert [bytes(store.get_blob(name)) for name in NAMES] == list(content.values())
        assert [store.size_of(name) for name in NAMES] == [len(data) for data in content.values()]
        absent = "Z" * 42 + "Q="
        assert store.size_of(absent) is None
        assert list(store.sizes_of([*NAMES, absent])) == [*map(len, content.values()), None]
        assert store.missing([*NAMES, absent]) == [absent]


def test_old_blobs_are_deleted_while_the_callback_allows_it(place: Place) -> None:
    """Exactly the reported blobs are gone: none that was stored again, and none after the callback said no."""
    if not place.does("read") or not place.does("alone"):
        pytest.skip("no blob can be deleted by itself")
    with place.opened(create=True) as store:
        for name in NAMES:
            place.put(store, name, name.encode())
        store.make_durable()
        listed = list(store.blob_names())
    with place.opened(create=True) as store:
        before = max(blob.modified for blob in listed) + 0.001
        time.sleep(1.1)  # some tell whole seconds
        store.delete_blobs([NAMES[0]])
        place.put(store, NAMES[0], b"stored anew")
        store.make_durable()
        allowed = threading.Semaphore(5)
        gone = {blob.name for blob in store.delete_old_blobs(listed, before, lambda: allowed.acquire(blocking=False))}
        assert gone == set(store.missing(NAMES))
        assert 3 <= len(gone) <= 5
        assert (NAMES[0] in gone) <= (place.kind not in ("local", "b2", "moto"))


def test_missing_objects(place: Place) -> None:
    with place.opened(create=True) as store:
        if not place.does("read"):
            with pytest.raises(UsageError, match="it can be written to, but not read"):
                open_store(place.text)
            return
        assert (list(store.blob_names()), store.manifests(), store.marks()) == ([], [], [])
        with pytest.raises(MissingBlob, match=f"blob {NAMES[0]} is missing from "):
            store.get_blob(NAMES[0])
        with pytest.raises(NoSuchArchive, match=r"no such archive: x\.mfn"):
            store.get_manifest("x.mfn")


def test_deleted_objects_are_gone(place: Place) -> None:
    if not place.does("read") or not place.does("alone"):
        pytest.skip("a program only stores: there is nothing to delete. Packs go as a whole")
    with place.opened(create=True) as store:
        for name in NAMES:
            place.put(store, name, b"content")
        store.make_durable()
        for name in (MANIFEST, "b.mfn", MANIFEST + ".removed", "sweep.done-1"):
            store.put_manifest(name, b"")
        store.delete_blobs([NAMES[0], NAMES[3], "Z" * 42 + "Q="])
        store.delete_blobs([NAMES[0]])
        store.delete_manifests([MANIFEST, "never.mfn"])
        assert {stored.name for stored in store.blob_names()} == {*NAMES} - {NAMES[0], NAMES[3]}
        assert [stored.name for stored in store.manifests()] == ["b.mfn"]
        assert sorted(mark.name for mark in store.marks()) == [MANIFEST + ".removed", "sweep.done-1"]
        assert store.size_of(NAMES[0]) is None
        assert [one.name for one in store.named("sweep.")] == ["sweep.done-1"]


def test_marks_can_be_replaced(place: Place) -> None:
    with place.opened(create=True) as store:
        for data in (b"", b"longer"):
            store.put_mark("sweep.running-1", data)
        if place.does("read"):
            assert [mark[:2] for mark in store.marks()] == [("sweep.running-1", 6)]


def test_an_archive_is_not_replaced(place: Place) -> None:
    with place.opened(create=True) as store:
        store.put_manifest(MANIFEST, b"the first")
        if place.kind != "local":
            store.put_manifest(MANIFEST, b"the first")  # as when an answer was lost
        if place.does("condition"):
            with pytest.raises(StoreError, match=MANIFEST):
                store.put_manifest(MANIFEST, b"another one")
        else:
            store.put_manifest(MANIFEST, b"another one")
        if place.does("read"):
            assert store.get_manifest(MANIFEST) == (b"the first" if place.does("condition") else b"another one")


def test_a_blob_that_is_cut_short_is_replaced(place: Place) -> None:
    """Whoever truncated it."""
    if not place.does("read"):
        pytest.skip("a program cannot be asked what it has")
    with place.opened(create=True) as store:
        place.put(store, NAMES[0], b"cut")
        store.make_durable()
    with place.opened(create=True) as store:
        place.put(store, NAMES[0], b"the whole blob")
        store.make_durable()
    with place.opened() as store:
        # In packs it lies twice, and services tell only seconds apart: readers ask for all copies of a damaged blob.
        copies = store.copies(NAMES[0]) if place.packs else [store.get_blob(NAMES[0])]
        assert b"the whole blob" in map(bytes, copies)


def test_many_write_the_same_blob_at_once(place: Place) -> None:
    data = os.urandom(200_000)
    stores = [open_store(place.text, create=True) for _ in range(4)]

    def put(store: Any) -> None:
        place.put(store, NAMES[0], data)
        store.make_durable()

    with ThreadPoolExecutor(len(stores)) as threads:
        list(threads.map(put, stores))
    for store in stores:
        store.close()
    if place.does("read"):
        with place.opened() as store:
            assert [stored[:2] for stored in store.blob_names()] == [(NAMES[0], len(data))]
            assert bytes(store.get_blob(NAMES[0])) == data


def test_many_read_and_write_at_once(place: Place) -> None:
    if not place.does("read"):
        pytest.skip("a program cannot be read from")
    content = {f"{LETTERS[n]}{LETTERS[n + 1]}{'q' * 40}A=": os.urandom(20_000 + n) for n in range(40)}
    with place.opened(create=True) as store:
        for name, data in content.items():
            place.put(store, name, data)
        store.make_durable()
    with place.opened() as store, ThreadPoolExecutor(16) as threads:
        prefetch = getattr(store.source, "prefetch", None)
        if prefetch:
            prefetch(reversed(content))  # whatever the order is that they are asked for in
        assert dict(zip(content, map(bytes, threads.map(store.get_blob, content)), strict=True)) == content
        if prefetch:
            prefetch(content)
        assert {name: bytes(store.get_blob(name)) for name in reversed(content)} == content


def test_bytes_in_flight_are_limited_without_a_deadlock(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blobs that nobody reads take all memory that is allowed."""
    if place.kind not in SERVICES:
        pytest.skip("nothing is fetched ahead from here")
    content = {f"{LETTERS[n]}{LETTERS[n + 1]}{'q' * 40}A=": os.urandom(50_000) for n in range(20)}
    with place.opened(create=True) as store:
        for name, data in content.items():
            place.put(store, name, data)
        store.make_durable()
    monkeypatch.setattr("pogfast.stores.remote.MAX_IN_FLIGHT", 120_000)
    monkeypatch.setattr("pogfast.stores.packs.source.MAX_PIECE", 100_000)
    spare = 100_000 if place.packs else 0  # one piece of a pack may be beyond the limit
    with place.opened() as store:
        store.source.prefetch(content)
        last = list(content)[-1]
        assert bytes(store.get_blob(last)) == content[last]
        time.sleep(0.3)
        assert place.base(store)._in_flight.bytes <= 120_000 + spare
        assert {name: bytes(store.get_blob(name)) for name in content} == content
        assert threading.active_count() < 40


@pytest.mark.parametrize("altered", [False, True])
def test_a_body_altered_in_transit_is_refused(place: Place, altered: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not place.text.startswith("s3:"):
        pytest.skip("only S3 is told a checksum by us")
    if altered:
        monkeypatch.setattr("pogfast.stores.s3.checksum", lambda data: {"ChecksumCRC32": "AAAwOQ=="})
        monkeypatch.setenv("POGFAST_RETRY_FOR", "0.5")  # an altered body is refused each time
    refused = altered and place.does("checksum")
    with place.opened(create=True) as store, pytest.raises(StoreError) if refused else contextlib.nullcontext():
        place.base(store).service.checksums = True  # over http a service has to ask for them
        place.put(store, NAMES[0], b"content")
        store.make_durable()


def test_locks(place: Place) -> None:
    if not place.does("read"):
        pytest.skip("a program only stores")
    with place.opened(create=True) as store:
        place.put(store, NAMES[0], b"content")
        store.make_durable()
        assert store.locked([NAMES[0]]) == {}
        if place.does("lock"):
            found = place.object_of(store)
            assert dict(store.lock([NAMES[0], NAMES[1]], Lock("compliance", 3600))) == {found: True, NAMES[1]: None}
            assert list(store.lock([NAMES[0]], Lock("compliance", 1800))) == [(found, False)]
            [until] = store.locked([found, *NAMES[1:]]).values()
            assert until == pytest.approx(time.time() + 3600, abs=60)
        else:
            with pytest.raises((StoreError, UsageError)):
                list(store.lock([NAMES[0]], Lock("compliance", 3600)))


def test_cold_storage(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    if not place.does("read"):
        pytest.skip("a program only stores")
    if place.does("cold"):
        monkeypatch.setenv("POGFAST_STORAGE_CLASS", "DEEP_ARCHIVE")
    with place.opened(create=True) as store:
        place.put(store, NAMES[0], b"content")
        store.make_durable()
        if place.does("cold"):
            with pytest.raises(StoreError, match="cold storage"):
                store.get_blob(NAMES[0])
            found = place.object_of(store)
            assert dict(store.thaw([NAMES[0], NAMES[1]], "bulk", 3)) == {found: "asked", NAMES[1]: "missing"}
            assert dict(store.thaw([NAMES[0]], "bulk", 3)) == {found: "readable"}  # moto takes no time
            assert bytes(store.get_blob(NAMES[0])) == b"content"
        elif place.kind in ("swift", "rclone"):
            assert dict(store.thaw([NAMES[0]], "bulk", 3)) == {place.object_of(store): "readable"}
        else:
            with pytest.raises(UsageError):
                list(store.thaw([NAMES[0]], "bulk", 3))


# ---- objects that are named by their paths -------------------------------------------------------------------------

DAY = "packs/2026-11-30/"
PACK, OTHER_PACK, INDEX = DAY + NAMES[0], f"packs/2026-12-01/{NAMES[1]}", f"packs/index/{NAMES[2]}"


@pytest.fixture
def readable(below: Place) -> Place:
    """Places of which objects can be read by their paths."""
    if not below.does("read") or below.packs:
        pytest.skip("a program only stores, and a store with packs is one of these and no other")
    return below


def paths(store: Any, prefix: str) -> list[tuple[str, int]]:
    return sorted(found[:2] for found in store.objects(prefix))


def test_objects_by_their_paths(readable: Place) -> None:
    content = {PACK: os.urandom(3000), OTHER_PACK: b"other", INDEX: b"index"}
    with readable.opened(create=True) as store:
        assert isinstance(store, HoldsPacks)
        assert paths(store, "packs/") == paths(store, DAY) == []
        for path, data in content.items():
            store.put_object(path, data)
        readable.put(store, NAMES[3], b"a plain blob")
        store.make_durable()
        store.put_mark("pogfast.store-2", b"")  # begins with the path of another
    with readable.opened() as packed:
        store = packed.base  # that there is a pack makes it a store with packs
        assert paths(store, "packs/") == sorted((path, len(data)) for path, data in content.items())
        assert paths(store, DAY) == [(PACK, 3000)]
        assert paths(store, "packs/index/") == [(INDEX, 5)]
        assert paths(store, "packs/20/") == paths(store, "packs/2026-11-30") == []
        assert all(abs(found.modified - time.time()) < 60 for found in store.objects("packs/"))
        assert {path: bytes(store.get_object(path, 3000)) for path in content} == content
        with pytest.raises(CorruptBlob):
            store.get_object(PACK, 2999)
        with pytest.raises(MissingBlob, match=f"{DAY}x is missing from "):
            store.get_object(f"{DAY}x", 10)
        assert [found.name for found in store.blob_names()] == [NAMES[3]]
        assert store.manifests() == []
        store.put_object("pogfast.store", b"{}")
        assert paths(store, "pogfast.store") == [("pogfast.store", 2)]


def test_ranges_of_objects(readable: Place) -> None:
    data = os.urandom(300_000)
    with readable.opened(create=True) as store:
        store.put_object(PACK, data)
        for start, size in ((0, 1), (0, 300_000), (1, 299_999), (299_999, 1), (123, 150_000), (7, 0)):
            assert bytes(store.read_range(PACK, start, size)) == data[start : start + size]
        with pytest.raises(CorruptBlob):
            store.read_range(PACK, 299_999, 2)
        with pytest.raises(MissingBlob, match=f"{INDEX} is missing from "):
            store.read_range(INDEX, 0, 5)


def test_only_the_bytes_of_a_range_are_sent(readable: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also by rclone, which sends them with status 200."""
    if not readable.text.startswith("s3:"):
        pytest.skip("b2sdk makes its requests elsewhere")
    lengths: list[int] = []
    with readable.opened(create=True) as store:
        store.put_object(PACK, bytes(100_000))
        store.service.client.meta.events.register(
            "after-call.s3.GetObject", lambda parsed, **_: lengths.append(parsed["ContentLength"])
        )
        store.read_range(PACK, 50_000, 1000)
    assert lengths == [1000]


def test_a_range_beyond_the_end(readable: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pogfast.stores.remote.MAX_PAUSE", 0.001)
    with readable.opened(create=True) as store:
        store.put_object(PACK, bytes(1000))
        for start in (1000, 2000, 1 << 40):
            with pytest.raises(CorruptBlob):
                store.read_range(PACK, start, 5)


def test_an_object_of_the_same_size_is_kept(readable: Place) -> None:
    with readable.opened(create=True) as store:
        store.put_object(PACK, b"first")
        store.put_object(PACK, b"again")
        kept = readable.does("condition")
        assert bytes(store.get_object(PACK, 9)) == (b"first" if kept else b"again")
        store.put_object(PACK, b"longer")
        assert bytes(store.get_object(PACK, 9)) == b"longer"
        store.put_object(PACK, b"forced", replace=True)
        assert bytes(store.get_object(PACK, 9)) == b"forced"
        assert paths(store, "packs/") == [(PACK, 6)]


def test_paths_among_names(readable: Place) -> None:
    """What takes names of blobs takes paths."""
    with readable.opened(create=True) as store:
        for path in (PACK, OTHER_PACK, INDEX):
            store.put_object(path, path.encode())
        readable.put(store, NAMES[0], b"content")
        store.make_durable()
        wanted = [PACK, NAMES[0], f"{DAY}none", NAMES[1], INDEX, "pogfast.store"]
        gone = [f"{DAY}none", NAMES[1], "pogfast.store"]
        assert store.missing(wanted) == gone
        absent = [f"{DAY}absent-{number}" for number in range(60)]  # more than are asked for one by one
        assert store.missing([*wanted[:-1], *absent]) == [*gone[:-1], *absent]
        assert store.missing([*absent, PACK]) == absent
        store.delete_blobs([INDEX, f"packs/never/{NAMES[0]}", NAMES[1], f"{DAY}none"])
        assert store.missing([PACK, OTHER_PACK, INDEX, NAMES[0]]) == [INDEX]
        listed = [*store.objects("packs/"), *store.blob_names()]
        before = max(found.modified for found in listed) + 0.001
        assert list(store.delete_old_blobs(listed, min(found.modified for found in listed) - 1, lambda: False)) == []
        assert {found.name for found in store.delete_old_blobs(listed[:2], before, lambda: True)} == {PACK, OTHER_PACK}
        assert paths(store, "packs/") == []
        assert store.missing([NAMES[0]]) == []
        assert store.locked([PACK, NAMES[0]]) == {}


def test_packs_are_locked_and_cold_and_their_index_is_neither(readable: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    if not (readable.does("lock") and readable.does("cold")):
        pytest.skip("there are no locks and no cold storage")
    monkeypatch.setenv("POGFAST_STORAGE_CLASS", "DEEP_ARCHIVE")
    with readable.opened(create=True) as store:
        store.service.object_lock = Lock("governance", 3600)
        for path in (PACK, INDEX, "pogfast.store"):
            store.put_object(path, b"content")
        [(locked, until)] = store.locked([PACK, INDEX, "pogfast.store"]).items()
        assert (locked, until) == (PACK, pytest.approx(time.time() + 3600, abs=60))
        assert dict(store.lock([INDEX, OTHER_PACK], Lock("governance", 60))) == {INDEX: True, OTHER_PACK: None}
        assert bytes(store.get_object(INDEX, 9)) == bytes(store.get_object("pogfast.store", 9)) == b"content"
        with pytest.raises(StoreError, match="cold storage"):
            store.read_range(PACK, 0, 3)
        assert dict(store.thaw([PACK, INDEX, OTHER_PACK], "bulk", 3)) == {
            PACK: "asked",
            INDEX: "readable",
            OTHER_PACK: "missing",
        }
        assert bytes(store.read_range(PACK, 1, 3)) == b"ont"


def test_doctor_examines_the_store(place: Place, pogfast: Runner) -> None:
    if not place.does("read"):
        pytest.skip("a program cannot be asked")
    with place.opened(create=True) as store:
        place.put(store, NAMES[0], b"content")
    ran = pogfast("doctor", place.text, env={**os.environ, **place.environment})
    assert ran.code == 0, ran.err
    found = {line.split()[1]: line.split()[0] for line in ran.lines if not line.startswith(" ")}
    assert {found[what] for what in ("reach", "list", "write", "read", "delete", "clock")} == {"good"}
    assert found.get("conditions") == (
        {True: "good", False: "note"}[place.does("condition")] if "s3:" in place.text else None
    )
    assert found.get("ranges") == ("good" if "s3:" in place.text else None)
    assert found.get("lock") == ({True: "good", False: "note"}[place.does("lock")] if "s3:" in place.text else None)
    with place.opened() as store:
        assert store.named("doctor") == []


def test_all_commands(place: Place, pogfast: Runner, tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(bytes(range(32)))
    tree = tmp_path / "tree"
    (tree / "d").mkdir(parents=True)
    files = 30 if place.packs else 5  # enough for a pack
    for number in range(files):
        (tree / "d" / str(number)).write_bytes(os.urandom(1000 * number))
    (tree / "large").write_bytes(os.urandom(700_000))
    environment = {**os.environ, **place.environment, "POGFAST_CACHE_DIR": str(tmp_path / "cache")}

    def run(*words: str, code: int = 0) -> list[str]:
        ran = pogfast(*words, "--keyfile", "key", env=environment)
        assert ran.code == code, ran.err
        return ran.lines

    [first] = run("create", "tree", "--to", place.text, "--chunk-size", "200kB")
    if not place.does("read"):
        assert (tmp_path / "given").stat().st_size > 0
        run("list", place.text, code=2)
        return
    run("restore", f"{place.text}/{first}", "--into", "out")
    assert {path.relative_to(tree): path.read_bytes() for path in tree.rglob("*") if path.is_file()} == {
        path.relative_to(tmp_path / "out/tree"): path.read_bytes()
        for path in (tmp_path / "out/tree").rglob("*")
        if path.is_file()
    }
    (tree / "large").unlink()
    run("create", "tree", "--to", place.text)
    run("check", place.text, "--read-data")
    assert len(run("prune", place.text, "--keep-last", "1", "--yes", "--grace", "0")) == 3
    time.sleep(1.1)  # what S3 says of times are whole seconds
    run("prune", place.text, "--keep-last", "1", "--yes", "--grace", "0")
    run("check", place.text, "--read-data")
    with place.opened() as store:
        assert len(list(store.blob_names())) == files or not place.does("alone")
        assert any(holder.name.startswith("packs/") for holder in store.holders()) == place.packs
    assert len(run("copy", place.text, str(tmp_path / "copy"))) == 1
    run("check", str(tmp_path / "copy"), "--read-data")

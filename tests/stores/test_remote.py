"""RemoteStore, over a service in memory that fails exactly when and how a test wants.

test_s3.py, test_b2.py and test_conformance.py use real servers. Here is the rest: responses that no server can be made
to send at the right moment.
"""

from __future__ import annotations

import contextlib
import threading
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from email.utils import formatdate

import pytest

from pogfast._engine import MAX_BLOB
from pogfast.errors import CorruptBlob, CorruptManifest, MissingBlob, NoSuchArchive, StoreError, UsageError
from pogfast.stores import listing, remote, traffic
from pogfast.stores import service as service_module
from pogfast.stores.concurrency import Concurrency
from pogfast.stores.names import Stored
from pogfast.stores.protocols import ThawState
from pogfast.stores.remote import Exists, RemoteStore
from pogfast.stores.service import BasicService, Body, InvalidResponse, ObjectInfo, TransientError
from pogfast.stores.settings import Lock

A, B, C = (f"{letter}{'-' * 42}=" for letter in "ABC")
MOMENT = 1_700_000_000.0


class Reader:
    """The rest of an object, at most `most` bytes per read; the connection breaks at byte `breaks`, if there is one."""

    def __init__(self, data: bytes, start: int, size: int | None, breaks: int, most: int) -> None:
        self.data, self.at, self.size, self.breaks, self.most = data, start, size, breaks, most
        self.closed = False

    def readinto(self, view: memoryview) -> int:
        assert not self.closed
        if self.at >= self.breaks:
            raise TransientError("the connection broke")
        piece = self.data[self.at : min(self.at + min(len(view), self.most), self.breaks)]
        view[: len(piece)] = piece
        self.at += len(piece)
        return len(piece)

    def close(self) -> None:
        self.closed = True


class Memory(BasicService):
    """Objects by path. `faults` are raised one after the other by the next calls of a verb; those in `lost` when it has
    been done."""

    identity = label = "memory:"

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.requests: Counter[str] = Counter()
        self.faults: dict[str, list[Exception]] = {}
        self.lost: dict[str, list[Exception]] = {}
        self.puts: list[tuple[str, bool]] = []
        self.deleted: list[int] = []
        self.pages: Callable[[str, str], tuple[list[ObjectInfo], str]] | None = None
        self.breaks: list[int] = []  # of the next bodies
        self.sizes: list[int | None] = []  # as the next bodies say them
        self.most = 1 << 30
        self.has_ranges = True
        self.started: list[int] = []
        self.ranges: list[tuple[int, int | None]] = []
        self.bodies: list[Reader] = []
        self.closed = False

    @contextlib.contextmanager
    def asked(self, verb: str) -> Iterator[None]:
        self.requests[verb] += 1
        if faults := self.faults.get(verb):
            raise faults.pop(0)
        yield
        if lost := self.lost.get(verb):
            raise lost.pop(0)

    def put(self, path: str, data: bytes, *, absent: bool) -> None:
        with self.asked("put"):
            self.puts.append((path, absent))
            if absent and path in self.objects:
                raise Exists(f"{path} exists")
            self.objects[path] = bytes(data)

    def open(self, path: str, start: int, end: int | None = None) -> Body | None:
        with self.asked("get"):
            data = self.objects.get(path)
            if data is None:
                return None
            self.started.append(start)
            self.ranges.append((start, end))
            size = self.sizes.pop(0) if self.sizes else len(data)
            breaks = self.breaks.pop(0) if self.breaks else 1 << 60
            data = data[:end] if self.has_ranges else data
            self.bodies.append(Reader(data, start, size, breaks, self.most))
            return self.bodies[-1]
        raise AssertionError

    def size(self, path: str) -> int | None:
        self.requests["size"] += 1
        return len(self.objects[path]) if path in self.objects else None

    def page(self, prefix: str, token: str, *, deep: bool, start: str = "") -> tuple[list[ObjectInfo], str]:
        """Pages of two objects."""
        with self.asked("list"):
            if self.pages is not None:
                return self.pages(prefix, token)
            paths = sorted(path for path in self.objects if path.startswith(prefix) and path > token)
            paths = [path for path in paths if deep or "/" not in path.removeprefix(prefix)]
            found = [ObjectInfo(path, len(self.objects[path]), MOMENT) for path in paths[:2]]
            return found, paths[1] if len(paths) > 2 else ""
        raise AssertionError

    def delete(self, paths: Iterable[str]) -> None:
        with self.asked("delete"):
            paths = list(paths)
            self.deleted.append(len(paths))
            for path in paths:
                self.objects.pop(path, None)

    def delete_old(self, found: Sequence[ObjectInfo], before: float, go_on: Callable[[], bool]) -> list[str]:
        """Deletes the objects that are as they were listed."""
        with self.asked("delete old"):
            gone = []
            for listed in found:
                assert listed.modified < before
                if len(self.objects.get(listed.path, b"")) in (0, listed.size) and go_on():
                    self.objects.pop(listed.path, None)
                    gone.append(listed.path)
            return gone
        raise AssertionError

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Memory:
    monkeypatch.setattr("pogfast.stores.remote.random.uniform", lambda least, most: min(most, 0.001))
    return Memory()


@pytest.fixture
def store(service: Memory, told: list[str]) -> Iterator[RemoteStore]:
    made = RemoteStore(service, "memory:", concurrency=Concurrency(2), retry_for=20)
    yield made
    made.close()
    assert service.closed
    assert all(body.closed for body in service.bodies)


def path(name: str) -> str:
    return f"data/{name[:2]}/{name}"


# ---- what headers say ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("length", "content_range", "start", "told"),
    [
        ("5", None, 0, (0, 5)),
        (5, None, 3, (0, 5)),
        ("0", None, 0, (0, 0)),
        (None, None, 0, (0, None)),
        ("x", None, 0, (0, None)),
        ("-1", None, 0, (0, None)),
        (str(2**63 - 1), None, 0, (0, None)),
        (str(2**63 - 2), None, 0, (0, 2**63 - 2)),
        ("5", "bytes 3-7/8", 3, (3, 8)),
        ("5", " bytes 3-7/8 ", 4, (3, 8)),
        ("5", "bytes 0-7/*", 4, (0, None)),
    ],
)
def test_the_extent_of_a_response(
    length: str | int | None, content_range: str | None, start: int, told: tuple[int, int | None]
) -> None:
    assert service_module.extent(length, content_range, start) == told


@pytest.mark.parametrize("content_range", ["", "bytes", "bytes 4-7/8", "bytes a-7/8", "items 0-7/8", "bytes */8"])
def test_an_invalid_content_range(content_range: str) -> None:
    with pytest.raises(InvalidResponse, match="requested the bytes from 3 on"):
        service_module.extent("5", content_range, 3)


def test_bytes_before_the_requested_one_are_skipped() -> None:
    for n in (0, 1, service_module.PIECE, 2 * service_module.PIECE + 5):
        body = Reader(bytes(3 * service_module.PIECE), 0, None, 1 << 60, 300_000)
        service_module.skip(body, n)
        assert body.at == n
    with pytest.raises(TransientError, match="ends before the requested byte"):
        service_module.skip(Reader(bytes(5), 0, 5, 1 << 60, 3), 6)


def test_retry_after() -> None:
    assert (
        service_module.seconds_to_wait(None)
        == service_module.seconds_to_wait("")
        == service_module.seconds_to_wait("soon")
        == 0
    )
    assert service_module.seconds_to_wait(" 30\x1d") == 30, "which str.strip takes for a blank, and float does not"
    assert (
        service_module.seconds_to_wait("-5")
        == service_module.seconds_to_wait("1e3")
        == service_module.seconds_to_wait("9" * 10)
        == 0
    )
    assert service_module.seconds_to_wait(" 17 ") == 17
    assert service_module.seconds_to_wait("9" * 9) == 999_999_999
    assert service_module.seconds_to_wait(formatdate(time.time() - 500, usegmt=True)) == 0
    assert 400 < service_module.seconds_to_wait(formatdate(time.time() + 500, usegmt=True)) <= 500
    assert service_module.http_time("Thu, 01 Jan 1970 00:00:05 GMT") == 5
    assert service_module.http_time("Thu, 41 Jan 1970 00:00:05 GMT") is None


# ---- what is there -------------------------------------------------------------------------------------------------


def test_listing_a_bucket(service: Memory, store: RemoteStore) -> None:
    for number, name in enumerate((A, B, C)):
        service.objects[path(name)] = bytes(number + 5)
    for noise in (f"data/xx/{A}", f"data/{A[:2]}/x", f"data/{A}", A, "x.mfn.tmp", "folder/y.mfn", "data/z.mfn"):
        service.objects[noise] = b"noise"
    for name in ("b.mfn", "a.mfn", "c.mfn.removed", "sweep.done-5", "note"):
        service.objects[name] = name.encode()
    assert list(store.blob_names()) == [Stored(name, number + 5, MOMENT) for number, name in enumerate((A, B, C))]
    assert store.manifests() == [Stored("a.mfn", 5, MOMENT), Stored("b.mfn", 5, MOMENT)]
    assert [mark.name for mark in store.marks()] == ["c.mfn.removed", "sweep.done-5"]
    assert [found.name for found in store.named("sweep.")] == ["sweep.done-5"]
    assert store.missing([A, C, "D"]) == ["D"]
    assert [store.size_of(name) for name in (A, C, "D")] == [5, 7, None]
    asked = service.requests["list"]
    assert store.size_of(B) == 6
    assert service.requests["list"] == asked, "it is listed once"
    assert store.requests["list"] == asked
    assert store.identity == store.path == store.label == "memory:"


def test_a_listing_that_repeats_itself_ends(service: Memory, store: RemoteStore) -> None:
    endless = "the service's listing repeats itself without end"
    service.pages = lambda prefix, token: ([ObjectInfo(f"{token}x.mfn", 1, 0.0)], "next")
    with pytest.raises(StoreError, match=endless):
        store.manifests()
    service.pages = lambda prefix, token: ([ObjectInfo("same.mfn", 1, 0.0)], token + "x")
    with pytest.raises(StoreError, match=endless):
        store.manifests()


@pytest.mark.parametrize("empty", [3, 4])
def test_a_listing_of_empty_pages_ends(
    service: Memory, store: RemoteStore, monkeypatch: pytest.MonkeyPatch, empty: int
) -> None:
    monkeypatch.setattr(listing, "MAX_EMPTY_PAGES", 3)

    def pages(prefix: str, token: str) -> tuple[list[ObjectInfo], str]:
        """Twice that many empty pages, then one with objects."""
        number = len(token)
        found = [ObjectInfo(f"{number}.mfn", 1, 0.0)] if number % (empty + 1) == empty else []
        return found, token + "x" if number < 2 * empty + 1 else ""

    service.pages = pages
    if empty > 3:
        with pytest.raises(StoreError, match="the service's listing repeats itself without end"):
            store.manifests()
    else:
        assert len(store.manifests()) == 2


# ---- retries -------------------------------------------------------------------------------------------------------


def test_transient_errors_are_retried(service: Memory, store: RemoteStore, told: list[str]) -> None:
    service.faults["list"] = [TransientError("it is busy"), TransientError("it is busy", after=0.01)]
    store.check_listing()
    assert [line.partition(" follows in ")[0] for line in told] == [
        "it is busy: attempt 2",
        "it is busy: attempt 3",
    ]
    assert told[1].endswith("0.0 s")
    service.faults["list"] = [StoreError("access denied")]
    with pytest.raises(StoreError, match="access denied"):
        store.check_listing()
    assert len(told) == 2


def test_a_pause_respects_retry_after_up_to_the_deadline(service: Memory, told: list[str]) -> None:
    hurried = RemoteStore(service, "memory:", concurrency=Concurrency(1), retry_for=0.3)
    service.faults["list"] = [TransientError("it is busy", after=1e9), TransientError("it is busy", "wait", after=1e9)]
    with pytest.raises(TransientError, match="it is busy") as failed:
        hurried.check_listing()
    assert failed.value.hint == "wait; 2 attempts in 0 s; --retry-for says for how long"
    assert len(told) == 1
    assert told[0].endswith("0.3 s")
    impatient = RemoteStore(service, "memory:", concurrency=Concurrency(1), retry_for=0)
    service.faults["list"] = [TransientError("it is busy", "wait")]
    with pytest.raises(TransientError, match="it is busy") as failed:
        impatient.check_listing()
    assert failed.value.hint == "wait", "nothing was tried again"
    assert len(told) == 1


def test_an_abandoned_run_stops_retrying(service: Memory, store: RemoteStore, told: list[str]) -> None:
    service.faults["list"] = [TransientError("it is busy", after=100.0)] * 2
    threading.Timer(0.05, store.abandon).start()
    with pytest.raises(TransientError):
        store.check_listing()
    assert service.requests["list"] == 1
    with pytest.raises(TransientError):
        store.check_listing()
    assert service.requests["list"] == 2
    assert len(told) == 1


# ---- writing -------------------------------------------------------------------------------------------------------


def test_a_blob_is_stored_if_it_is_absent(service: Memory, store: RemoteStore) -> None:
    store.put_blob(A, b"content")
    assert service.puts == [(path(A), True)]
    assert store.size_of(A) == 7
    assert store.blobs.holds(A) == 7
    store.put_blob(A, b"another")  # it is known that there is one
    assert service.puts[1:] == [(path(A), False)]
    assert service.objects == {path(A): b"another"}


@pytest.mark.parametrize(("there", "put"), [(b"content", 1), (b"cont", 2), (b"", 2)])
def test_a_blob_that_another_run_stored_meanwhile(service: Memory, store: RemoteStore, there: bytes, put: int) -> None:
    assert store.size_of(A) is None
    service.objects[path(A)] = there
    store.put_blob(A, b"content")
    assert service.puts == [(path(A), True), (path(A), False)][:put]
    assert service.objects[path(A)] == b"content"
    assert store.size_of(A) == 7


@pytest.mark.parametrize(
    ("answered", "stored", "requests"),
    [(False, True, 1), (False, False, 2), (True, True, 2), (True, False, 2)],
)
def test_an_upload_without_a_response(
    service: Memory, store: RemoteStore, answered: bool, stored: bool, requests: int
) -> None:
    """The object is looked up before it is sent again, unless the service itself refused it."""
    assert store.size_of(A) is None
    (service.lost if stored else service.faults)["put"] = [TransientError("no answer", answered=answered)]
    store.put_blob(A, b"content")
    assert service.requests["put"] == requests
    assert service.objects[path(A)] == b"content"


def test_a_manifest_never_replaces_another(
    service: Memory, store: RemoteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put_manifest("a.mfn", b"manifest")
    store.put_manifest("a.mfn", b"manifest")  # an answer was lost
    with pytest.raises(Exists):
        store.put_manifest("a.mfn", b"another manifest")
    assert service.objects["a.mfn"] == b"manifest"
    store.put_mark("sweep.running-1", b"1")
    store.put_mark("sweep.running-1", b"12")
    assert service.puts == [*[("a.mfn", True)] * 3, *[("sweep.running-1", False)] * 2]
    monkeypatch.setattr("pogfast.stores.local.MAX_MANIFEST", 10)
    with pytest.raises(StoreError, match=r"b\.mfn has 11 bytes"):
        store.put_manifest("b.mfn", bytes(11))
    with pytest.raises(StoreError, match=r"condemned-1 has 11 bytes"):
        store.put_mark("condemned-1", bytes(11))
    store.put_manifest("b.mfn", bytes(10))


def test_a_mark_that_replaces_another_is_sent_until_a_response_arrives(service: Memory, store: RemoteStore) -> None:
    """The old one may have the same size."""
    store.put_mark("sweep.running-1", b"1")
    service.faults["put"] = [TransientError("no answer")]
    store.put_mark("sweep.running-1", b"2")
    assert service.objects["sweep.running-1"] == b"2"


def test_a_manifest_is_stored_after_its_blobs(service: Memory, store: RemoteStore) -> None:
    for name in (A, B, C):
        store.blobs(name, memoryview(b"content"))
    store.put_manifest("a.mfn", b"manifest")
    assert service.puts[-1] == ("a.mfn", True)
    assert len(service.puts) == 4
    service.faults["put"] = [StoreError("it is full")]
    store.blobs(A, memoryview(b"content"))
    for act in (store.make_durable, lambda: store.put_manifest("b.mfn", b""), lambda: store.blobs(B, memoryview(b"x"))):
        with pytest.raises(StoreError, match="it is full"):
            act()
    assert "b.mfn" not in service.objects


def test_nothing_is_sent_after_a_run_was_abandoned(service: Memory, store: RemoteStore) -> None:
    store.blobs.abandon()
    for name in (A, B, C):
        store.blobs(name, memoryview(b"content"))
    store.make_durable()
    assert not service.objects


def test_abandoning_wakes_callers_that_wait_for_a_slot(service: Memory, store: RemoteStore) -> None:
    stuck, entered = threading.Event(), threading.Semaphore(0)
    real = service.put

    def put(path: str, data: bytes, *, absent: bool) -> None:
        entered.release()
        stuck.wait(120)
        real(path, data, absent=absent)

    service.put = put  # type: ignore[method-assign]
    names = [f"{letter}{'-' * 42}=" for letter in "ABCDEFGHIJKL"]
    handed: list[str] = []

    def hand_all() -> None:
        for name in names:
            store.blobs(name, memoryview(b"content"))
            handed.append(name)

    thread = threading.Thread(target=hand_all)
    thread.start()
    for _ in range(2):
        assert entered.acquire(timeout=30)
    time.sleep(0.05)
    assert len(handed) <= 8, "four times as many wait as are sent"
    store.abandon()
    thread.join(30)
    assert len(handed) == 12, "while the service still keeps its threads waiting"
    stuck.set()
    store.blobs.stop()
    assert len(service.objects) <= 2, "what waited is dropped"


@pytest.mark.parametrize("way", ["up", "down"])
def test_abandoning_wakes_callers_that_wait_for_memory(store: RemoteStore, way: str) -> None:
    limit = store.blobs.in_flight if way == "up" else store._in_flight
    limit.acquire(limit.limit)
    thread = threading.Thread(target=limit.acquire, args=(1,))
    thread.start()
    thread.join(0.05)
    assert thread.is_alive()
    store.abandon()
    thread.join(30)
    assert not thread.is_alive()


def test_slots_and_memory_are_released(service: Memory, store: RemoteStore) -> None:
    """Many more blobs than slots, and one after a failure."""
    names = [f"{number:04}{'-' * 39}=" for number in range(40)]
    for name in names:
        store.blobs(name, memoryview(b"content"))
    store.make_durable()
    assert len(service.objects) == 40
    service.faults["put"] = [StoreError("it is full")]
    store.blobs(A, memoryview(b"content"))
    with pytest.raises(StoreError):
        store.make_durable()
    assert store.blobs.in_flight.bytes == 0
    store.prefetch(names)
    for name in names:
        assert store.get_blob(name) == b"content"
    assert store._in_flight.bytes == 0


def test_no_thread_outlives_a_store(service: Memory) -> None:
    used = RemoteStore(service, "memory:", concurrency=Concurrency(2), retry_for=20)
    used.blobs(A, memoryview(b"content"))
    used.prefetch([A])
    used.close()
    used.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("pogfast-")]


def test_bytes_in_flight_are_limited() -> None:
    limit = traffic.InFlightLimit(100)
    limit.acquire(500)  # one may always be
    for size, fits in ((1, False), (600, False)):
        assert not fits
        thread = threading.Thread(target=limit.acquire, args=(size,))
        thread.start()
        thread.join(0.05)
        assert thread.is_alive()
        limit.release(limit.bytes)
        thread.join(30)
        assert limit.bytes == size
    limit.release(600)
    limit.acquire(60)
    limit.acquire(40)
    assert limit.bytes == 100
    limit.acquire(1, lambda: True)  # it cannot wait
    limit.lift()
    limit.acquire(10**9)


def test_a_copy_within_a_service(service: Memory, store: RemoteStore, told: list[str]) -> None:
    class Copying(Memory):
        def copy(self, path: str, source: Memory) -> bool:  # type: ignore[override]
            with self.asked("copy"):
                self.objects[path] = source.objects[path]
            return True

    far, near = (RemoteStore(Copying(), "memory:", concurrency=Concurrency(1), retry_for=20) for _ in range(2))
    far.put_blob(A, b"content")
    assert near.size_of(A) is None
    near.service.faults["copy"] = [TransientError("it is busy")]  # type: ignore[attr-defined]
    assert near.copy_blob(A, far)
    assert near.size_of(A) == 7
    assert not near.copy_blob(B, far), "it is not there"
    assert not near.copy_blob(A, store), "it is another service"
    assert not store.copy_blob(A, near), "it is another service"
    assert not near.copy_blob(A, object())
    far._note(B, remote.MAX_COPIED)
    far._note(C, remote.MAX_COPIED + 1)
    far.service.objects[path(B)] = far.service.objects[path(C)] = b""  # type: ignore[attr-defined]
    assert near.copy_blob(B, far)
    assert not near.copy_blob(C, far), "it is larger than what is copied in one request"
    assert not store.copy_blob(A, RemoteStore(Memory(), "memory:", concurrency=Concurrency(1), retry_for=0)), (
        "it is not there"
    )


def test_deleting(service: Memory, store: RemoteStore) -> None:
    names = [f"{number:04}{'-' * 39}=" for number in range(1500)]
    for name in names:
        service.objects[path(name)] = b"x"
        service.objects[f"{name[:4]}.mfn"] = b"x"
    assert store.size_of(names[0]) == 1
    service.faults["delete"] = [TransientError("it is busy")]
    store.delete_blobs(names[:1200])
    assert service.deleted == [1000, 200]
    assert store.missing(names) == names[:1200]
    assert [store.size_of(name) for name in (names[0], names[1199], names[1200])] == [None, None, 1]
    store.delete_manifests([f"{name[:4]}.mfn" for name in names[:1100]])
    assert service.deleted[2:] == [1000, 100]
    assert len(store.manifests()) == 400


def test_a_few_blobs_are_looked_up_without_a_listing(service: Memory, store: RemoteStore) -> None:
    names = [f"{number:04}{'-' * 39}=" for number in range(200)]
    for name in names[1:]:
        service.objects[path(name)] = b"x"
    assert store.missing([]) == []
    assert store.missing(names[:50]) == names[:1]
    assert service.requests == {"size": 50}
    assert store.missing(names[:51]) == names[:1]
    assert service.requests == {"size": 50, "list": 100}, "two at a time"


def test_a_listing_is_read_page_by_page(service: Memory, store: RemoteStore) -> None:
    """Ten million blobs are never in memory at a time."""
    for number in range(100):
        service.objects[path(f"{number:04}{'-' * 39}=")] = b"x"
    listing = store.blob_names()
    assert [next(listing).name[:4] for _ in range(3)] == ["0000", "0001", "0002"]
    assert service.requests == {"list": 2}


def test_deleting_objects_as_they_were_listed(service: Memory, store: RemoteStore) -> None:
    """Rewritten objects stay and are not reported, and the callback is called before each deletion."""
    names = [f"{number:04}{'-' * 39}=" for number in range(2500)]
    for name in names:
        service.objects[path(name)] = b"x"
    listed = [Stored(name, 1, MOMENT) for name in names]
    service.objects[path(names[5])] = b"written anew"
    service.faults["delete old"] = [TransientError("it is busy")]
    left = [1] * 1802  # two of them for whether there is another thousand
    gone = [blob for blob in listed[:1801] if blob.name != names[5]]
    assert list(store.delete_old_blobs(listed, MOMENT + 1, lambda: bool(left and left.pop()))) == gone
    assert store.missing(names) == [blob.name for blob in gone]


def test_doubted_blobs_are_stored_again(service: Memory, store: RemoteStore) -> None:
    for name in (A, B):
        service.objects[path(name)] = b"content"
    store.doubt([A])
    assert store.size_of(A) is None
    assert store.size_of(B) == 7
    assert store.blobs.holds(A) is None
    assert store.missing([A, B]) == [], "they are there"
    store.put_blob(A, b"content")
    assert service.puts == [(path(A), False)]
    assert store.blobs.holds(A) == 7
    store.doubt([B])
    assert store.size_of(B) is None, "when all are known already"


def test_a_removed_manifest(service: Memory, store: RemoteStore) -> None:
    store.put_manifest("a.mfn", b"manifest")
    store.remove_manifest("a.mfn")
    assert service.objects == {"a.mfn.removed": b"manifest"}
    with pytest.raises(NoSuchArchive):
        store.remove_manifest("a.mfn")


@pytest.mark.parametrize(("taken", "puts"), [(False, 1), (True, 2)])
def test_a_removed_manifest_that_a_prune_deleted_meanwhile_is_stored_again(
    service: Memory, store: RemoteStore, monkeypatch: pytest.MonkeyPatch, taken: bool, puts: int
) -> None:
    """Both names existed for so long that it looked like the remains of an undelete."""
    service.objects["a.mfn"] = b"manifest"
    delete = service.delete

    def delete_late(paths: Iterable[str]) -> None:
        delete([*paths, *(["a.mfn.removed"] if taken else [])])

    monkeypatch.setattr(service, "delete", delete_late)
    store.remove_manifest("a.mfn")
    assert service.objects == {"a.mfn.removed": b"manifest"}
    assert len(service.puts) == puts


# ---- locks and cold storage ----------------------------------------------------------------------------------------


class Locking(Memory):
    def has_locks(self) -> bool:
        with self.asked("has locks"):
            return True
        raise AssertionError

    def locked_until(self, path: str) -> float:
        return {"a.mfn": time.time() + 1000, "data/A-/" + A: time.time() - 1000}.get(path, 0.0)

    def can_lock(self) -> None:
        with self.asked("can lock"):
            pass

    def lock(self, path: str, lock: Lock) -> bool:
        if path not in self.objects:
            raise MissingBlob(path)
        return path != "a.mfn"

    def thaw(self, path: str, tier: str, days: int) -> ThawState:
        assert (path, tier, days) == ("data/A-/" + A, "Bulk", 5)
        return "warm"


def test_locks(service: Memory, store: RemoteStore, told: list[str]) -> None:
    locking = Locking()
    locking.objects = {"a.mfn": b"", path(A): b""}
    locking.faults = {"has locks": [TransientError("it is busy")], "can lock": [UsageError("it has no locks")]}
    locked = RemoteStore(locking, "memory:", concurrency=Concurrency(2), retry_for=20)
    assert list(locked.locked(["a.mfn", A, B])) == ["a.mfn"]
    with pytest.raises(UsageError, match="it has no locks"):
        locked.lock(["a.mfn"], object())  # type: ignore[arg-type]
    assert list(locked.lock(["a.mfn", A, B], object())) == [("a.mfn", False), (A, True), (B, None)]  # type: ignore[arg-type]
    assert list(locked.thaw([A], "Bulk", 5)) == [(A, "warm")]
    assert store.locked([A]) == {}
    with pytest.raises(UsageError, match="only S3 has object lock"):
        store.lock([A], object())  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="only S3 has object lock"):
        service.lock(A, object())  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="only S3"):
        list(store.thaw([A], "Bulk", 5))
    assert list(store.examine()) == []


# ---- reading -------------------------------------------------------------------------------------------------------

DATA = bytes(range(256)) * 10_000


def test_an_interrupted_read_resumes(service: Memory, store: RemoteStore, told: list[str]) -> None:
    service.objects[path(A)] = DATA
    service.breaks = [1_500_000, 2_000_000]
    assert store.get_blob(A) == DATA
    assert service.started == [0, 1_500_000, 2_000_000]
    assert ["attempt 2" in line for line in told] == [True, True], "each has brought something"


@pytest.mark.parametrize("sizes", [[], [None] * 9])
@pytest.mark.parametrize(
    "length", [0, 1, service_module.PIECE - 1, service_module.PIECE, service_module.PIECE + 1, len(DATA)]
)
def test_objects_of_any_length(service: Memory, store: RemoteStore, length: int, sizes: list[int | None]) -> None:
    service.objects[path(A)] = service.objects["a.mfn"] = DATA[:length]
    service.sizes = list(sizes)
    service.most = 100_000
    assert store.get_blob(A) == DATA[:length]
    assert store.get_manifest("a.mfn") == DATA[:length]


def test_memory_is_allocated_as_bytes_arrive(service: Memory, store: RemoteStore, told: list[str]) -> None:
    """A service may announce more than it has."""
    service.objects[path(A)] = b"content"
    service.sizes = [MAX_BLOB] * 9
    tracemalloc.start()
    try:
        with pytest.raises(CorruptBlob, match="ends early"):
            store.get_blob(A)
        assert tracemalloc.get_traced_memory()[1] < 4 * service_module.PIECE
    finally:
        tracemalloc.stop()


def test_a_read_without_progress_is_damage(service: Memory, store: RemoteStore, told: list[str]) -> None:
    service.objects[path(A)] = DATA
    service.breaks = [1000] * 20
    with pytest.raises(CorruptBlob, match="the connection broke, 5 times"):
        store.get_blob(A)
    assert service.started == [0] + [1000] * 5
    service.faults["get"] = [InvalidResponse("it makes no sense")] * 5
    with pytest.raises(CorruptBlob, match="it makes no sense, 5 times"):
        store.get_blob(A)
    service.faults["get"] = [InvalidResponse("it makes no sense")] * 4
    service.breaks = []
    assert store.get_blob(A) == DATA
    service.sizes = [len(DATA) + 1] * 20
    with pytest.raises(CorruptBlob, match=f"ends early, at byte {len(DATA)}, 5 times"):
        store.get_blob(A)


def test_an_object_that_changes_is_read_again(service: Memory, store: RemoteStore, told: list[str]) -> None:
    service.objects[path(A)] = DATA
    service.breaks = [1000]
    service.sizes = [len(DATA) + 7]
    assert store.get_blob(A) == DATA
    assert service.started == [0, 1000, 0]
    assert "changes while it is read" in told[1]


def test_an_invalid_response_restarts_the_read(service: Memory, store: RemoteStore) -> None:
    service.objects[path(A)] = DATA
    service.breaks = [1000]
    opened = service.open
    faults: list[Exception] = [InvalidResponse("it makes no sense")]

    def garbled(path: str, start: int, end: int | None = None) -> Body | None:
        if start and faults:
            raise faults.pop()
        return opened(path, start, end)

    service.open = garbled  # type: ignore[method-assign]
    assert store.get_blob(A) == DATA
    assert service.started == [0, 0]


@pytest.mark.parametrize("has_ranges", [True, False])
def test_a_range_breaks_off_and_goes_on(service: Memory, store: RemoteStore, has_ranges: bool) -> None:
    service.objects["packs/x"] = DATA
    service.has_ranges, service.most = has_ranges, 7
    service.breaks = [19, 30]
    assert store.read_range("packs/x", 10, 50) == DATA[10:60]
    assert service.ranges == [(10, 60), (17, 60), (24, 60)] or service.ranges == [(10, 60), (19, 60), (30, 60)]
    assert service.bodies[-1].at == 60, "no more is read than that"


def test_a_range_of_an_object_that_changes(service: Memory, store: RemoteStore) -> None:
    """Nothing of the first object is left in it."""
    service.objects["packs/x"] = DATA
    service.sizes, service.breaks = [len(DATA) + 1], [19]
    assert store.read_range("packs/x", 10, 50) == DATA[10:60]
    assert [start for start, _ in service.ranges] == [10, 19, 10]


@pytest.mark.parametrize("size", [MAX_BLOB + 1, 2**62])
def test_an_object_that_is_too_large_is_damage(service: Memory, store: RemoteStore, size: int) -> None:
    service.objects[path(A)] = service.objects["a.mfn"] = DATA
    service.sizes = [size] * 2
    with pytest.raises(CorruptBlob, match=r"more than the [\d,]+ that are read"):
        store.get_blob(A)
    with pytest.raises(CorruptManifest, match=r"more than the [\d,]+ that are read"):
        store.get_manifest("a.mfn")


def test_an_object_without_end_is_damage(service: Memory, store: RemoteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "MAX_BLOB", 2_000_000)
    monkeypatch.setattr(remote, "MAX_MANIFEST", len(DATA))
    service.objects[path(A)] = service.objects["a.mfn"] = DATA
    service.sizes = [None] * 3
    with pytest.raises(CorruptBlob, match="has no end"):
        store.get_blob(A)
    assert store.get_manifest("a.mfn") == DATA
    monkeypatch.setattr(remote, "MAX_BLOB", len(DATA))
    for sizes in ([None], []):
        service.sizes = [*sizes]
        assert store.get_blob(A) == DATA


def test_missing_objects(service: Memory, store: RemoteStore) -> None:
    with pytest.raises(MissingBlob, match=f"blob {A} is missing from memory:"):
        store.get_blob(A)
    with pytest.raises(NoSuchArchive, match=r"no such archive: a\.mfn in memory:"):
        store.get_manifest("a.mfn")


def test_blobs_are_prefetched_in_order(service: Memory, store: RemoteStore) -> None:
    names = [f"{letter}{'-' * 42}=" for letter in "ABCDEFGHIJ"]
    for name in names:
        service.objects[path(name)] = name.encode()
    store.prefetch([*names[:8], *names[:8]])
    deadline = time.monotonic() + 30
    while service.requests["get"] < 4 and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(0.05)
    assert service.requests["get"] == 4, "twice as many as there are threads"
    assert store.source(names[0]) == names[0].encode()
    while service.requests["get"] < 5 and time.monotonic() < deadline:
        time.sleep(0.005)
    assert service.requests["get"] == 5, "the next one follows by itself"
    assert store.get_blob(names[9]) == names[9].encode(), "it was not expected"
    for name in names[1:8]:
        assert store.get_blob(name) == name.encode()
    assert service.requests["get"] == 9, "each once"
    store.prefetch(names[:8])
    assert store.get_blob(names[6]) == names[6].encode()
    store.prefetch([])
    assert store.get_blob(names[0]) == names[0].encode()


def test_a_requested_blob_never_waits_for_memory(service: Memory, store: RemoteStore) -> None:
    """Although later blobs have taken all memory that is allowed."""
    store._in_flight.limit = len(DATA)
    for name in (A, B, C):
        service.objects[path(name)] = DATA
    store.prefetch([A, B])
    held = store.get_blob(A)
    assert store.get_blob(C) == store.get_blob(B) == held
    del held

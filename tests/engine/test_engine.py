"""Sealer and Opener: many files, many workers, both layouts, against the oracle."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit import oracle
from kit.files import opened
from pogfast._engine import (
    VERDICT,
    BlobDirectory,
    Opened,
    Opener,
    Sealer,
    Wanted,
    public_key,
    seal_blob,
    use_nameless_files,
)
from pogfast.errors import MissingBlob, StoreError, WrongKey

SECRET = bytes(range(32))
KEY = oracle.OracleKey(SECRET)


@pytest.fixture(autouse=True, params=[True, False], ids=["nameless", "named"])
def unfinished_files(request: pytest.FixtureRequest) -> Iterator[None]:
    """Everything here holds for both kinds of unfinished files."""
    use_nameless_files(request.param)
    yield
    use_nameless_files(True)


NAMED = {value: name for name, value in VERDICT.items()}


def seal(
    files: list[Path],
    sinks: list[BlobDirectory | Callable[[str, memoryview], None]],
    *,
    chunk_size: int = 100_000,
    level: int = 3,
    jobs: int = 2,
    secret: bytes = SECRET,
    asymmetric: bool = False,
) -> list[tuple[list[str], int]]:
    """[(names, error)] of each file."""
    paths = [os.fsencode(file) for file in files]
    sealer = Sealer(secret, asymmetric, paths, sinks, chunk_size=chunk_size, level=level, jobs=jobs)
    found: list[tuple[list[str], int]] = [([], 0) for _ in files]
    last = 0
    for news in sealer.run():
        assert news.file >= last, "in order"
        last = news.file
        found[news.file] = (found[news.file][0] + news.names, news.error)
    return found


def restore(
    store: Path,
    out: Path,
    files: list[tuple[list[str], list[int] | None]],
    *,
    jobs: int = 2,
    key: oracle.OracleKey = KEY,
) -> list[Opened]:
    """Restores each (names, sizes) to out/0, out/1 ..."""
    out.mkdir(exist_ok=True)
    with opened(store) as source, opened(out) as target:
        asked = [
            Wanted(target, str(number).encode(), names, sizes, -1, 0, 0) for number, (names, sizes) in enumerate(files)
        ]
        opener = Opener(key.secret, key.private, key.public, asked, BlobDirectory(source, False), jobs=jobs)
        return list(opener.run())


def sizes_of(data: bytes, chunk_size: int) -> list[int]:
    return [len(data[at : at + chunk_size]) for at in range(0, len(data), chunk_size)]


def mixed(size: int, seed: int = 0) -> bytes:
    """Bytes of which some compress."""
    source = random.Random(seed)
    parts = []
    while sum(map(len, parts)) < size:
        parts.append(source.randbytes(source.randrange(1, 5000)) * source.choice((1, 1, 20)))
    return b"".join(parts)[:size]


def write_store(store: Path, sealed: tuple[list[str], dict[str, bytes]]) -> list[str]:
    names, blobs = sealed
    store.mkdir(exist_ok=True)
    for name, blob in blobs.items():
        (store / name).write_bytes(blob)
    return names


@pytest.mark.parametrize("jobs", [1, 2, 7])
@pytest.mark.parametrize("chunk_size", [1, 100, 65536, 262144, 1_000_000, 10**8])
def test_files_of_all_sizes_come_back(tmp_path: Path, chunk_size: int, jobs: int) -> None:
    sizes = [0, 1, 500] if chunk_size == 1 else [0, 1, 131071, 131072, 524287, 524288, 524289, 3_000_000]
    if chunk_size == 100:
        sizes = [0, 1, 99, 100, 101, 20_000]
    contents = [mixed(size, seed) for seed, size in enumerate(sizes)]
    files = [tmp_path / f"in{number}" for number in range(len(sizes))]
    for file, content in zip(files, contents, strict=True):
        file.write_bytes(content)
    store = tmp_path / "store"
    store.mkdir()
    with opened(store) as directory:
        sealed = seal(files, [BlobDirectory(directory, False)], chunk_size=chunk_size, jobs=jobs)
    assert [names for names, _ in sealed] == [oracle.names_of(KEY, content, chunk_size) for content in contents]
    assert {blob.name for blob in store.iterdir()} == {name for names, _ in sealed for name in names}
    outcome = restore(store, tmp_path / "out", [(names, None) for names, _ in sealed], jobs=jobs)
    assert [told.verdict for told in outcome] == [0] * len(sizes)
    assert [(tmp_path / "out" / str(number)).read_bytes() for number in range(len(sizes))] == contents


@given(st.integers(0, 2000), st.integers(1, 300), st.integers(-5, 22), st.integers(1, 3), st.integers(0, 3))
def test_any_length_chunk_size_and_level(
    tmp_path: Path, size: int, chunk: int, level: int, jobs: int, seed: int
) -> None:
    content = mixed(size, seed)
    file = tmp_path / "file"
    file.write_bytes(content)
    blobs: dict[str, bytes] = {}

    def put(name: str, view: memoryview) -> None:
        blobs[name] = bytes(view)

    [(names, error)] = seal([file], [put], chunk_size=chunk, level=level, jobs=jobs)
    assert (names, error) == (oracle.names_of(KEY, content, chunk, level), 0)
    assert oracle.open_file(KEY, [blobs[name] for name in names]) == content


@pytest.mark.parametrize("offset", [-1, 0, 1])
@pytest.mark.parametrize("chunks", [1, 2])
def test_a_stream_that_ends_at_a_chunks_end(tmp_path: Path, chunks: int, offset: int) -> None:
    """The compressed length meets the chunk size exactly: no empty chunk behind, no padding."""
    content = os.urandom(700_000)
    length = len(oracle.compress_as_pog(content))
    chunk_size = length // chunks + offset if length % chunks == 0 else length // chunks + 1 + offset
    file = tmp_path / "file"
    file.write_bytes(content)
    blobs: dict[str, bytes] = {}
    [(names, _)] = seal([file], [lambda name, view: blobs.update({name: bytes(view)})], chunk_size=chunk_size)
    assert names == oracle.names_of(KEY, content, chunk_size)
    assert oracle.open_file(KEY, [blobs[name] for name in names]) == content


@pytest.mark.parametrize("chunk_size", [1000, 65536, 600_000])
@pytest.mark.parametrize("jobs", [1, 2, 5])
def test_the_frames_layout_is_read_in_parallel_and_in_order(tmp_path: Path, chunk_size: int, jobs: int) -> None:
    contents = [mixed(size, size) for size in (0, 1, 999, 65537, 2_500_000)]
    store = tmp_path / "store"
    chunked = [write_store(store, oracle.seal_file(KEY, data, chunk_size, layout="frames")) for data in contents]
    with_sizes = [(names, sizes_of(data, chunk_size) or [0]) for names, data in zip(chunked, contents, strict=True)]
    without = [(names, None) for names in chunked]
    for out, asked in (("a", with_sizes), ("b", without)):
        told = [(NAMED[one.verdict], one.errno, one.blob) for one in restore(store, tmp_path / out, asked, jobs=jobs)]
        assert [verdict for verdict, _, _ in told] == ["good"] * 5, told
    for out in ("a", "b"):
        assert [(tmp_path / out / str(number)).read_bytes() for number in range(len(contents))] == contents


def test_a_frame_of_another_length_than_its_entry_says_is_damage(tmp_path: Path) -> None:
    data = mixed(10_000)
    names = write_store(tmp_path / "store", oracle.seal_file(KEY, data, 1000, layout="frames"))
    wrong = sizes_of(data, 1000)
    wrong[3], wrong[4] = wrong[3] + 1, wrong[4] - 1
    [told] = restore(tmp_path / "store", tmp_path / "out", [(names, wrong)])
    assert NAMED[told.verdict] == "bad frame"
    assert list((tmp_path / "out").iterdir()) == []


def test_one_blob_may_stand_often_in_a_file(tmp_path: Path) -> None:
    data = b"\0" * 5000
    names = write_store(tmp_path / "store", oracle.seal_file(KEY, data, 1000, layout="frames"))
    assert len(names) == 5
    assert len(set(names)) == 1
    for sizes in (None, [1000] * 5):
        [told] = restore(tmp_path / "store", tmp_path / "out", [(names, sizes)])
        assert told.verdict == 0
        assert (tmp_path / "out" / "0").read_bytes() == data


def damaged_cases() -> dict[str, Callable[[Path, list[str]], None]]:
    def flip(store: Path, names: list[str]) -> None:
        blob = bytearray((store / names[1]).read_bytes())
        blob[-1] ^= 1
        (store / names[1]).write_bytes(blob)

    def swap(store: Path, names: list[str]) -> None:
        (store / names[1]).write_bytes((store / names[0]).read_bytes())

    def cut(store: Path, names: list[str]) -> None:
        (store / names[1]).write_bytes((store / names[1]).read_bytes()[:-1])

    def empty(store: Path, names: list[str]) -> None:
        (store / names[1]).write_bytes(b"")

    def header(store: Path, names: list[str]) -> None:
        blob = bytearray((store / names[1]).read_bytes())
        blob[30] ^= 1
        (store / names[1]).write_bytes(blob)

    def missing(store: Path, names: list[str]) -> None:
        (store / names[1]).unlink()

    def folder(store: Path, names: list[str]) -> None:
        (store / names[1]).unlink()
        (store / names[1]).mkdir()

    return {
        "bad body": flip,
        "bad name": swap,
        "bad body 2": cut,
        "bad body 3": empty,
        "bad header": header,
        "not there": missing,
        "bad read": folder,
    }


@pytest.mark.parametrize("jobs", [1, 3])
@pytest.mark.parametrize("case", damaged_cases())
@pytest.mark.parametrize("chunk_size", [2000, 700_000])
def test_damage_is_found_and_the_other_files_come_back(tmp_path: Path, case: str, jobs: int, chunk_size: int) -> None:
    contents = [os.urandom(size) for size in (100, 3 * chunk_size, 5000)]
    files = [tmp_path / f"in{number}" for number in range(3)]
    for file, content in zip(files, contents, strict=True):
        file.write_bytes(content)
    store = tmp_path / "store"
    store.mkdir()
    with opened(store) as directory:
        sealed = seal(files, [BlobDirectory(directory, False)], chunk_size=chunk_size)
    damaged_cases()[case](store, sealed[1][0])
    told = restore(store, tmp_path / "out", [(names, None) for names, _ in sealed], jobs=jobs)
    assert [NAMED[one.verdict] for one in told] == ["good", case.rstrip(" 23"), "good"]
    assert told[1].blob == 1
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["0", "2"]


def test_a_stream_that_stops_early_is_damage(tmp_path: Path) -> None:
    names = write_store(tmp_path / "store", oracle.seal_file(KEY, os.urandom(10_000), 1000))
    [told] = restore(tmp_path / "store", tmp_path / "out", [(names[:-1], None)])
    assert NAMED[told.verdict] == "bad frame"
    assert list((tmp_path / "out").iterdir()) == []


def test_files_that_cannot_be_read_do_not_stop_the_others(tmp_path: Path) -> None:
    good = tmp_path / "good"
    good.write_bytes(b"good")
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    blobs: dict[str, bytes] = {}
    files = [tmp_path / "missing", good, tmp_path, fifo, good]
    sealed = seal(files, [lambda name, view: blobs.update({name: bytes(view)})])
    assert [bool(error) for _, error in sealed] == [True, False, True, True, False]
    assert list(blobs) == oracle.names_of(KEY, b"good", 1000)


def test_equal_files_are_stored_once(tmp_path: Path) -> None:
    files = [tmp_path / str(number) for number in range(50)]
    for file in files:
        file.write_bytes(b"the same")
    calls: list[str] = []
    sealed = seal(files, [lambda name, view: calls.append(name)], jobs=4)
    assert len(calls) == 1
    assert all(names == calls for names, _ in sealed)


def test_a_view_that_lives_on_keeps_its_buffer(tmp_path: Path) -> None:
    """What a sink was handed does not change, however long it keeps it; and it cannot be written to."""
    sizes = (10, 5000, 2_000_000, 20)
    files = [tmp_path / str(number) for number in range(len(sizes))]
    contents = [mixed(size, size) for size in sizes]
    for file, content in zip(files, contents, strict=True):
        file.write_bytes(content)
    kept: dict[str, memoryview] = {}
    sealed = seal(files, [lambda name, view: kept.update({name: view})], chunk_size=50_000, jobs=3)
    assert all(view.readonly for view in kept.values())
    for content, (names, _) in zip(contents, sealed, strict=True):
        assert oracle.open_file(KEY, [bytes(kept[name]) for name in names]) == content


def test_every_sink_gets_every_blob(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(mixed(400_000))
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    kept: dict[str, memoryview] = {}
    with opened(first) as one, opened(second) as two:
        sinks = [BlobDirectory(one, False), lambda name, view: kept.update({name: view}), BlobDirectory(two, True)]
        [(names, _)] = seal([file], sinks, chunk_size=10_000)
    for name in names:
        blob = (first / name).read_bytes()
        assert blob == kept[name] == (second / "data" / name[:2] / name).read_bytes()


def test_a_failing_sink_ends_the_run_with_its_error(tmp_path: Path) -> None:
    files = [tmp_path / str(number) for number in range(20)]
    for file in files:
        file.write_bytes(os.urandom(10))
    calls = threading.Semaphore(5)

    def put(name: str, view: memoryview) -> None:
        if not calls.acquire(blocking=False):
            raise StoreError("no more")

    with pytest.raises(StoreError, match="no more"):
        seal(files, [put], jobs=2)


@pytest.mark.parametrize("jobs", [1, 2, 4])
def test_stored_blobs_of_large_files_are_not_written_again(tmp_path: Path, jobs: int) -> None:
    files = [tmp_path / str(number) for number in range(5)]
    for number, file in enumerate(files):
        file.write_bytes(mixed(3_000_000, number))
    store = tmp_path / "store"
    store.mkdir()
    with opened(store) as directory:
        first = seal(files, [BlobDirectory(directory, False)], jobs=jobs)
        before = {blob.name: blob.stat().st_ino for blob in store.iterdir()}
        files[2].write_bytes(b"new" + files[2].read_bytes())
        second = seal(files, [BlobDirectory(directory, False)], jobs=jobs)
    assert [a == b for a, b in zip(first, second, strict=True)] == [True, True, False, True, True]
    after = {blob.name: blob.stat().st_ino for blob in store.iterdir()}
    assert before.items() <= after.items()
    assert len(after) > len(before)


@pytest.mark.parametrize("damage", ["short", "flipped", "empty", "good"])
@pytest.mark.parametrize("asymmetric", [False, True])
def test_a_torn_blob_is_repaired_and_a_good_one_kept(tmp_path: Path, damage: str, asymmetric: bool) -> None:
    secret = public_key(SECRET) if asymmetric else SECRET
    key = oracle.OracleKey(secret, SECRET) if asymmetric else KEY
    file = tmp_path / "file"
    file.write_bytes(os.urandom(1000))
    store = tmp_path / "store"
    store.mkdir()
    with opened(store) as directory:
        options = {"secret": secret, "asymmetric": asymmetric}
        [([name], _)] = seal([file], [BlobDirectory(directory, False)], **options)
        blob = (store / name).read_bytes()
        before = {"short": blob[:-7], "empty": b"", "good": blob, "flipped": blob[:-1] + bytes([blob[-1] ^ 1])}[damage]
        (store / name).write_bytes(before)
        seal([file], [BlobDirectory(directory, False)], **options)
    after = (store / name).read_bytes()
    # The public key alone cannot tell a blob of the right size from a good one; docs/guide.md says so.
    if damage == "good" or (damage == "flipped" and asymmetric):
        assert after == before
    else:
        assert oracle.decompress_all(key.open(after)) == file.read_bytes()


def test_a_source_may_be_a_function(tmp_path: Path) -> None:
    contents = [mixed(size, size) for size in (0, 10, 300_000)]
    blobs: dict[str, bytes] = {}
    files = [oracle.seal_file(KEY, content, 10_000) for content in contents]
    for _, sealed in files:
        blobs.update(sealed)
    del blobs[files[2][0][0]]

    def fetch(name: str) -> bytes:
        try:
            return blobs[name]
        except KeyError:
            raise MissingBlob(name) from None

    with opened(tmp_path) as target:
        asked = [Wanted(target, str(number).encode(), names, None, -1, 0, 0) for number, (names, _) in enumerate(files)]
        told = list(Opener(SECRET, None, False, asked, fetch, jobs=2).run())
    assert [NAMED[one.verdict] for one in told] == ["good", "good", "not there"]
    assert [(tmp_path / str(number)).read_bytes() for number in (0, 1)] == contents[:2]
    assert not (tmp_path / "2").exists()


@pytest.mark.parametrize("size", [10, 5_000_000])
def test_stopping_in_the_middle_leaves_no_unfinished_file(tmp_path: Path, size: int) -> None:
    files = [tmp_path / f"in{number}" for number in range(30)]
    for number, file in enumerate(files):
        file.write_bytes(mixed(size, number))
    store, out = tmp_path / "store", tmp_path / "out"
    store.mkdir()
    out.mkdir()
    with opened(store) as directory, opened(out) as target:
        sink = BlobDirectory(directory, False)
        paths = [os.fsencode(file) for file in files]
        run = Sealer(SECRET, False, paths, [sink], chunk_size=50_000, level=3, jobs=2).run()
        next(run)
        run.close()
        assert not [name for name in os.listdir(store) if name.startswith(".")]
        sealed = seal(files, [sink], chunk_size=50_000)
        asked = [Wanted(target, str(n).encode(), names, None, -1, 0, 0) for n, (names, _) in enumerate(sealed)]
        back = Opener(SECRET, None, False, asked, sink, jobs=2).run()
        next(back)
        back.close()
        assert not [name for name in os.listdir(out) if name.startswith(".")]


def test_a_run_that_is_stopped_from_outside_ends(tmp_path: Path) -> None:
    files = [tmp_path / str(number) for number in range(200)]
    for number, file in enumerate(files):
        file.write_bytes(bytes([number]))
    sealer = Sealer(
        SECRET, False, [os.fsencode(file) for file in files], [lambda name, view: None], chunk_size=100, level=3, jobs=2
    )
    run = sealer.run()
    next(run)
    sealer.stop()
    assert len(list(run)) < 200


def test_nonsense_is_refused_before_work() -> None:
    for options in ({"chunk_size": 0}, {"level": 23}, {"jobs": 0}):
        with pytest.raises(ValueError):
            seal([], [], **options)
    with pytest.raises(ValueError, match="32 bytes"):
        seal([], [], secret=b"short")
    with pytest.raises(ValueError):
        Opener(SECRET, None, True, [], lambda name: b"", jobs=1)


def test_a_chunk_that_does_not_fit_the_memory_is_one_clear_error(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(os.urandom(1_000_000))
    with pytest.raises(MemoryError, match="smaller chunk size"):
        seal([file], [lambda name, view: None], chunk_size=2**62)


def test_a_stored_blob_may_be_put_by_hand(tmp_path: Path) -> None:
    name, blob = seal_blob(SECRET, False, b"chunk", 100)
    with opened(tmp_path) as directory:
        BlobDirectory(directory, True).put(name, blob)
        assert (tmp_path / "data" / name[:2] / name).read_bytes() == blob
        with pytest.raises(ValueError):
            BlobDirectory(directory, True).put("../../etc/passwd", blob)


@pytest.mark.parametrize("size", [0, 10, 100_000, 3_000_000])
def test_a_public_key_of_low_order_ends_the_run(tmp_path: Path, size: int) -> None:
    """Everybody could open what is sealed for it: nothing is stored."""
    (tmp_path / "file").write_bytes(os.urandom(size))
    stored: list[str] = []
    with pytest.raises(WrongKey, match="not an X25519 public key"):
        seal([tmp_path / "file"], [lambda name, blob: stored.append(name)], secret=bytes(32), asymmetric=True)
    assert not stored

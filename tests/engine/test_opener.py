"""Opener: what is asked of it beyond bytes into files: lengths, blobs that many share, holes, modes, verifying."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import resource
import stat
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import zstandard
from hypothesis import example, given
from hypothesis import strategies as st

from kit import oracle
from kit.files import opened
from pogfast._engine import (
    VERDICT,
    BlobDirectory,
    Opened,
    Opener,
    Wanted,
    compress,
    decompress,
    give_room_to,
    open_blob,
    publish_written,
    read_chunk,
    seal_blob,
    use_nameless_files,
)
from pogfast.errors import CorruptBlob, MissingBlob, StoreError, WrongBlob, WrongKey

SECRET = bytes(range(32))
KEY = oracle.OracleKey(SECRET)
NAMED = {value: name for name, value in VERDICT.items()}
BLOCK = 4096


@pytest.fixture(params=[True, False], ids=["nameless", "named"])
def drafts(request: pytest.FixtureRequest) -> Iterator[bool]:
    """For both kinds of unfinished files."""
    yield use_nameless_files(request.param)
    use_nameless_files(True)


class Made(NamedTuple):
    """A file as it is stored: what it holds, and what an entry says of it."""

    content: bytes
    blobs: list[str]
    sizes: list[int] | None

    def wanted(self, directory: int, leaf: int | bytes, **more: object) -> Wanted:
        leaf = b"%d" % leaf if isinstance(leaf, int) else leaf
        return Wanted(directory, b"" if directory < 0 else leaf, self.blobs, self.sizes, -1, 0, 0)._replace(**more)


class Blobs:
    """A store in memory that counts. It is a source, and writes itself into a directory."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.fetched: Counter[str] = Counter()
        self.lock = threading.Lock()

    def __call__(self, name: str) -> bytes:
        with self.lock:
            self.fetched[name] += 1
        if name not in self.blobs:
            raise MissingBlob(name)
        return self.blobs[name]

    def frames(self, *pieces: bytes) -> Made:
        """A file whose blobs hold these pieces, each a frame of its own."""
        names = []
        for piece in pieces:
            frame = zstandard.ZstdCompressor(write_checksum=True).compress(piece)
            names.append(KEY.name(frame))
            if names[-1] not in self.blobs:
                self.blobs[names[-1]] = KEY.seal(oracle.pad(frame))
        return Made(b"".join(pieces), names, [len(piece) for piece in pieces])

    def stream(self, content: bytes, chunk_size: int) -> Made:
        names, blobs = oracle.seal_file(KEY, content, chunk_size)
        self.blobs |= blobs
        return Made(content, names, None)

    def in_directory(self, path: Path) -> Path:
        path.mkdir()
        for name, blob in self.blobs.items():
            (path / name).write_bytes(blob)
        return path


def restore(
    source: Blobs | Path, out: Path, files: list[Made], *, jobs: int = 2, verify: bool = False, **more: object
) -> list[Opened]:
    """Restores each to out/0, out/1 ..., or looks whether it could."""
    out.mkdir(exist_ok=True)
    with contextlib.ExitStack() as stack:
        target = -1 if verify else stack.enter_context(opened(out))
        wanted = [file.wanted(target, number, **more) for number, file in enumerate(files)]
        if isinstance(source, Path):
            source = BlobDirectory(stack.enter_context(opened(source)), False)
        return list(Opener(SECRET, None, False, wanted, source, jobs=jobs).run())


def verdicts(told: list[Opened]) -> list[str]:
    return [NAMED[one.verdict] for one in told]


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir()}


def unfinished(out: Path) -> list[os.stat_result]:
    """The drafts of this process: files below a directory that have no name, or a temporary one."""
    found = [os.stat(path) for path in out.iterdir() if path.name.startswith(".")]
    device = os.stat(out).st_dev
    for fd in os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else []:
        with contextlib.suppress(OSError):
            seen = os.stat(f"/proc/self/fd/{fd}")
            nameless = stat.S_ISREG(seen.st_mode) and seen.st_nlink == 0 and seen.st_dev == device
            if nameless and os.readlink(f"/proc/self/fd/{fd}").startswith(str(out)):
                found.append(seen)
    return found


# ---- lengths ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verify", [False, True])
@pytest.mark.parametrize("length", [0, 1, 4095, 4096, 524287, 524288, 524289, 1_500_000])
@pytest.mark.parametrize("off", [-1, 0, 1])
def test_one_blob_has_exactly_the_length_that_was_said(tmp_path: Path, length: int, off: int, verify: bool) -> None:
    blobs = Blobs()
    made = blobs.frames(os.urandom(length))
    store = blobs.in_directory(tmp_path / "store")
    if length + off < 0:
        return
    for said in ({"sizes": [length + off]}, {"sizes": None, "size": length + off}, {"size": length + off}):
        for source in (store, blobs):
            [told] = restore(source, tmp_path / "out", [made], verify=verify, **said)
            assert NAMED[told.verdict] == ("good" if off == 0 else "bad frame")
            assert told.offset == (-1 if off == 0 else told.offset)
            if off or verify:
                assert contents(tmp_path / "out") == {}
            else:
                assert contents(tmp_path / "out") == {"0": made.content}
                (tmp_path / "out" / "0").unlink()


@pytest.mark.parametrize("verify", [False, True])
@pytest.mark.parametrize("off", [-1, 0, 1])
@pytest.mark.parametrize("chunk_size", [100, 10_000, 10**6])
def test_a_stream_has_exactly_the_length_that_was_said(tmp_path: Path, off: int, chunk_size: int, verify: bool) -> None:
    blobs = Blobs()
    made = blobs.stream(os.urandom(300) * 5 + os.urandom(30_000), chunk_size)
    [told] = restore(blobs, tmp_path / "out", [made], verify=verify, size=len(made.content) + off)
    assert NAMED[told.verdict] == ("good" if off == 0 else "bad frame")
    assert contents(tmp_path / "out") == ({} if off or verify else {"0": made.content})
    if off:
        assert told.blob == len(made.blobs) - 1


@pytest.mark.parametrize("verify", [False, True])
@pytest.mark.parametrize("off", [-1, 1])
def test_the_blob_whose_length_is_wrong_is_named_with_its_offset(tmp_path: Path, off: int, verify: bool) -> None:
    blobs = Blobs()
    made = blobs.frames(b"a" * 1000, b"b" * 700_000, b"c" * 50)
    sizes = [1000, 700_000 + off, 50 - off]
    [told] = restore(blobs, tmp_path / "out", [made], verify=verify, sizes=sizes, jobs=1)
    assert (NAMED[told.verdict], told.blob, told.offset) == ("bad frame", 1, 1000)
    assert contents(tmp_path / "out") == {}


def test_a_blob_that_goes_on_and_on_is_not_written_beyond_its_length(tmp_path: Path) -> None:
    """64 GB of zeros in a blob of 6 MB; said to be 100 bytes."""
    blobs = Blobs()
    compressor = zstandard.ZstdCompressor().compressobj()
    frame = b"".join(compressor.compress(bytes(1 << 22)) for _ in range(100)) + compressor.flush()
    chunk = frame * 160
    name = KEY.name(chunk)
    blobs.blobs[name] = KEY.seal(oracle.pad(chunk))
    made = Made(b"", [name], None)
    started = time.process_time()
    for said in ({"sizes": [100]}, {"size": 100}):
        for verify in (False, True):
            [told] = restore(blobs, tmp_path / "out", [made], verify=verify, **said)
            assert NAMED[told.verdict] == "bad frame"
    [told] = restore(blobs, tmp_path / "out", [Made(b"", [name, name], [100, 100])])
    assert (NAMED[told.verdict], told.blob) == ("bad frame", 0)
    assert time.process_time() - started < 20


@pytest.mark.parametrize("count", [0, 1, 2])
def test_sizes_that_contradict_the_size_are_damage(tmp_path: Path, count: int) -> None:
    blobs = Blobs()
    made = blobs.frames(*[b"abc"] * count)
    other = blobs.frames(b"other")
    told = restore(blobs, tmp_path / "out", [made, other], size=7)
    assert verdicts(told) == ["bad frame", "bad frame"]
    assert contents(tmp_path / "out") == {}
    assert verdicts(restore(blobs, tmp_path / "out", [made], size=3 * count)) == ["good"]


@pytest.mark.parametrize("sizes", [[1], [1, 2, 3], [-1, 7], [2**62, 2**62]])
def test_sizes_that_no_entry_can_have_are_refused(tmp_path: Path, sizes: list[int]) -> None:
    blobs = Blobs()
    with pytest.raises(ValueError):
        restore(blobs, tmp_path / "out", [blobs.frames(b"abc", b"def")], sizes=sizes)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=5), st.integers(1, 4), st.booleans(), st.data())
def test_files_of_any_lengths_come_back(
    tmp_path_factory: pytest.TempPathFactory, units: list[int], jobs: int, sparse: bool, data: st.DataObject
) -> None:
    """Pieces around the engine's own boundaries: a block, a write, nothing at all."""
    unit = data.draw(st.sampled_from([1, BLOCK, 262_144]))
    lengths = [max(unit * n + data.draw(st.sampled_from([-1, 0, 1])), 0) for n in units]
    pieces = [random.Random(index).randbytes(length) for index, length in enumerate(lengths)]
    blobs = Blobs()
    made = [blobs.frames(*pieces), blobs.frames(*pieces)._replace(sizes=None), blobs.stream(b"".join(pieces), 50_000)]
    out = tmp_path_factory.mktemp("out")
    told = restore(blobs, out, made, jobs=jobs, size=len(made[0].content), sparse=sparse)
    assert verdicts(told) == ["good"] * 3
    assert contents(out) == {str(number): made[0].content for number in range(3)}
    assert verdicts(restore(blobs, out, made, jobs=jobs, verify=True, size=len(made[0].content))) == ["good"] * 3


# ---- each blob once --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jobs", [1, 2, 5])
@pytest.mark.parametrize("verify", [False, True])
def test_a_blob_that_stands_often_in_a_file_is_fetched_once(tmp_path: Path, jobs: int, verify: bool) -> None:
    blobs = Blobs()
    made = blobs.frames(*([b"x" * 700, b"y" * 3, b"z" * 600_000] + [b"x" * 700] * 1000 + [b"y" * 3]))
    assert verdicts(restore(blobs, tmp_path / "out", [made], jobs=jobs, verify=verify)) == ["good"]
    assert set(blobs.fetched.values()) == {1}
    assert contents(tmp_path / "out") == ({} if verify else {"0": made.content})


@pytest.mark.parametrize("jobs", [1, 2, 6])
@pytest.mark.parametrize("size", [0, 5000, 600_000])
def test_equal_files_of_one_blob_are_fetched_once(tmp_path: Path, jobs: int, size: int, drafts: bool) -> None:
    blobs = Blobs()
    same, other = blobs.frames(os.urandom(size)), blobs.frames(b"other")
    made = [other, same, same, other, same] + [blobs.frames(b"%d" % number) for number in range(50)] + [same] * 20
    assert verdicts(restore(blobs, tmp_path / "out", made, jobs=jobs)) == ["good"] * len(made)
    assert set(blobs.fetched.values()) == {1}
    assert contents(tmp_path / "out") == {str(number): one.content for number, one in enumerate(made)}


POOL = [b"", b"a", b"b" * 5000, bytes(BLOCK * 3), random.Random(1).randbytes(20_000), b"c" * 700_000]


@given(st.data(), st.integers(1, 6))
def test_any_files_that_share_blobs(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, jobs: int) -> None:
    """Whatever shares what, restored or only verified: one fetch a blob, and one for each blob of a stream."""
    blobs, once, streams = Blobs(), set(), Counter()
    out = tmp_path_factory.mktemp("out")
    pieces = st.lists(st.sampled_from(POOL), max_size=6)
    expected = {}
    with opened(out) as target:
        wanted = []
        for number in range(data.draw(st.integers(1, 12))):
            made = blobs.frames(*data.draw(pieces))
            if data.draw(st.integers(0, 3)) == 0:
                made = made._replace(sizes=None)
            if made.sizes is None and len(made.blobs) > 1:
                streams.update(made.blobs)
            else:
                once.update(made.blobs)
            verify = data.draw(st.booleans())
            size = len(made.content) if data.draw(st.booleans()) else -1
            sparse = data.draw(st.booleans())
            wanted.append(made.wanted(-1 if verify else target, number, size=size, sparse=sparse))
            if not verify:
                expected[str(number)] = made.content
        told = list(Opener(SECRET, None, False, wanted, blobs, jobs=jobs).run())
    assert verdicts(told) == ["good"] * len(wanted)
    assert [one.file for one in told] == list(range(len(wanted)))
    assert contents(out) == expected
    assert blobs.fetched == streams + Counter(once)


def test_more_files_than_may_be_open_share_a_blob(tmp_path: Path, drafts: bool) -> None:
    blobs = Blobs()
    made = [blobs.frames(b"shared" * 1000, b"%d" % number, b"too" * 500) for number in range(600)]
    most = 0

    def fetch(name: str) -> bytes:
        nonlocal most
        most = max(most, len(os.listdir("/proc/self/fd")))
        return blobs(name)

    before = len(os.listdir("/proc/self/fd"))
    with opened(tmp_path) as target:
        wanted = [file.wanted(target, number) for number, file in enumerate(made)]
        told = list(Opener(SECRET, None, False, wanted, fetch, jobs=2).run())
    assert verdicts(told) == ["good"] * 600
    assert contents(tmp_path) == {str(number): file.content for number, file in enumerate(made)}
    assert most - before < 256 + 3
    for name in (made[0].blobs[0], made[0].blobs[2]):
        assert 600 / 256 <= blobs.fetched[name] <= 40


@pytest.mark.parametrize("called", [False, True])
def test_files_begun_early_leave_descriptors_to_the_others(tmp_path: Path, called: bool, drafts: bool) -> None:
    """With 60 descriptors, files that share a blob are restored a few at a time, and small ones between them."""
    blobs = Blobs()
    shared = b"shared" * 1000
    made = [blobs.frames(*[shared, b"%d" % number][number % 2 :]) for number in range(0, 300, 3)]
    source = blobs if called else blobs.in_directory(tmp_path / "store")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(fd) for fd in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 60, limits[1]))
    try:
        told = restore(source, tmp_path / "out", made)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert verdicts(told) == ["good"] * 100
    assert contents(tmp_path / "out") == {str(number): file.content for number, file in enumerate(made)}
    assert not called or blobs.fetched[made[0].blobs[0]] < 50 / 2


# ---- damage ----------------------------------------------------------------------------------------------------------


def flip(blobs: dict[str, bytes], name: str, at: int) -> None:
    damaged = bytearray(blobs[name])
    damaged[at] ^= 1
    blobs[name] = bytes(damaged)


DAMAGE: dict[str, Callable[[dict[str, bytes], str], object]] = {
    "bad header": lambda blobs, name: flip(blobs, name, 30),
    "bad body": lambda blobs, name: flip(blobs, name, -1),
    "bad name": lambda blobs, name: blobs.update({name: KEY.seal(oracle.pad(b"another"))}),
    "not there": lambda blobs, name: blobs.pop(name),
}


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("verify", [False, True])
@pytest.mark.parametrize("jobs", [1, 4])
def test_a_damaged_blob_is_told_of_every_file_that_needs_it(
    tmp_path: Path, kind: str, verify: bool, jobs: int, drafts: bool
) -> None:
    """In frames, in a stream, alone; with the offset in each. The other files come back."""
    blobs = Blobs()
    bad = os.urandom(3000)
    stream = blobs.stream(os.urandom(100_000), 10_000)
    made = [
        blobs.frames(b"a" * 10, b"b" * 20, bad),
        blobs.frames(bad),
        blobs.frames(b"good"),
        blobs.frames(bad, b"c"),
        stream,
        blobs.frames(b"a" * 10, b"c"),
        blobs.frames(bad),
        blobs.frames(b"d", bad, bad, b"d"),
    ]
    needs = {0: (2, 30), 1: (0, 0), 3: (0, 0), 6: (0, 0), 7: (1, 1)}
    DAMAGE[kind](blobs.blobs, made[1].blobs[0])
    DAMAGE[kind](blobs.blobs, stream.blobs[4])
    for source in (blobs, blobs.in_directory(tmp_path / "store")):
        told = restore(source, tmp_path / "out", made, jobs=jobs, verify=verify)
        assert verdicts(told) == [kind if number in {*needs, 4} else "good" for number in range(len(made))]
        for number, where in needs.items():
            assert (told[number].blob, told[number].offset) == where
        assert told[4].blob == 4
        assert told[4].offset == len(decompressible([blobs.blobs[name] for name in stream.blobs[:4]]))
        assert contents(tmp_path / "out") == ({} if verify else {str(n): made[n].content for n in (2, 5)})
        assert not unfinished(tmp_path / "out")
        for path in (tmp_path / "out").iterdir():
            path.unlink()


@pytest.mark.parametrize("kind", ["bad header", "bad body", "bad name"])
@pytest.mark.parametrize("verify", [False, True])
def test_what_is_damaged_once_is_fetched_again(tmp_path: Path, kind: str, verify: bool) -> None:
    blobs = Blobs()
    made = [blobs.frames(b"a", os.urandom(300_000)), blobs.frames(b"alone"), blobs.stream(os.urandom(100_000), 30_000)]

    def fetch(name: str) -> bytes:
        good = blobs(name)
        if blobs.fetched[name] > 1:
            return good
        spoiled = {name: good}
        DAMAGE[kind](spoiled, name)
        return spoiled[name]

    assert verdicts(restore(fetch, tmp_path / "out", made, verify=verify)) == ["good"] * 3  # type: ignore[arg-type]
    assert set(blobs.fetched.values()) == {2}
    assert contents(tmp_path / "out") == ({} if verify else {str(n): one.content for n, one in enumerate(made)})


@pytest.mark.parametrize("verify", [False, True])
def test_a_blob_without_room_is_its_files_problem(tmp_path: Path, verify: bool) -> None:
    """A source that says so, and one that gives far more than the file's length allows: that is not looked at."""
    blobs = Blobs()
    made = [blobs.frames(b"one"), blobs.frames(b"two", b"three"), blobs.frames(b"four"), blobs.stream(b"five", 100)]
    huge = bytes(64 << 20) + bytes(1 << 20)

    def fetch(name: str) -> bytes:
        if name == made[1].blobs[1]:
            raise MemoryError
        return huge if name == made[2].blobs[0] else blobs(name)

    told = restore(fetch, tmp_path / "out", made, verify=verify)  # type: ignore[arg-type]
    assert verdicts(told) == ["good", "bad read", "bad body", "good"]
    assert told[1].errno == errno.ENOMEM


def decompressible(blobs: list[bytes]) -> bytes:
    """What a stream's first blobs decompress to."""
    stream = zstandard.ZstdDecompressor().decompressobj()
    return b"".join(stream.decompress(open_blob(SECRET, None, blob)) for blob in blobs)


@pytest.mark.parametrize("verify", [False, True])
def test_a_blob_that_does_not_decompress(tmp_path: Path, verify: bool) -> None:
    """Authentic, of the right name, and no frame; or a frame that ends too early, or goes on."""
    whole = zstandard.ZstdCompressor().compress(os.urandom(1000))
    for chunk in (b"no frame at all", whole[:-5], whole + b"more"):
        blobs = Blobs()
        name = KEY.name(chunk)
        blobs.blobs[name] = KEY.seal(oracle.pad(chunk))
        good = blobs.frames(b"x" * 77)
        made = [
            Made(b"", [name], [1000]),
            Made(b"", [good.blobs[0], name], [77, 1000]),
            Made(b"", [name], None),
            Made(b"", [good.blobs[0], name], None),
            good,
        ]
        told = restore(blobs, tmp_path / "out", made, verify=verify)
        assert verdicts(told) == ["bad frame"] * 4 + ["good"]
        assert [(one.blob, one.offset) for one in told[:4]] == [(0, 0), (1, 77), (0, 0), (1, 77)]
        assert list(contents(tmp_path / "out")) == ([] if verify else ["4"])


def test_the_first_bad_blob_of_a_stream_is_the_one_that_is_told(tmp_path: Path) -> None:
    """A later one may be seen first: here the first takes its time."""
    blobs = Blobs()
    made = blobs.stream(os.urandom(50_000), 5_000)
    flip(blobs.blobs, made.blobs[2], -1)
    del blobs.blobs[made.blobs[3]]

    def fetch(name: str) -> bytes:
        if name == made.blobs[2]:
            time.sleep(0.2)
        return blobs(name)

    [told] = Opener(SECRET, None, False, [made.wanted(-1, 0)], fetch, jobs=4).run()
    assert (NAMED[told.verdict], told.blob) == ("bad body", 2)
    assert told.offset == len(decompressible([blobs.blobs[name] for name in made.blobs[:2]]))
    assert [blobs.fetched[name] for name in made.blobs[:4]] == [1, 1, 2, 1]  # what is damaged is fetched once more
    assert len(blobs.fetched) < 6, "nothing is fetched far behind damage"


def test_a_source_that_fails_ends_the_run(tmp_path: Path) -> None:
    blobs = Blobs()
    made = [blobs.frames(b"%d" % number, b"tail") for number in range(20)]

    def fetch(name: str) -> bytes:
        if name == made[7].blobs[0]:
            raise StoreError("the line is dead")
        return blobs(name)

    with opened(tmp_path) as target:
        wanted = [file.wanted(target, number) for number, file in enumerate(made)]
        run = Opener(SECRET, None, False, wanted, fetch, jobs=3).run()
        with pytest.raises(StoreError, match="the line is dead"):
            list(run)
    assert not unfinished(tmp_path)


# ---- verifying -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jobs", [1, 3])
def test_verifying_writes_nothing_and_shares_what_it_opens(tmp_path: Path, jobs: int) -> None:
    blobs = Blobs()
    made = [blobs.frames(b"one"), blobs.frames(b"one", b"two" * 9000), blobs.frames(), blobs.frames(b"one")]
    made += [blobs.frames(os.urandom(700_000)), blobs.frames(*[os.urandom(50_000) for _ in range(9)])]
    made += [blobs.stream(os.urandom(300_000), 50_000), *made]
    store = blobs.in_directory(tmp_path / "store")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with opened(store) as directory:
        wanted = [file.wanted(-1, b"") for file in made]
        told = list(Opener(SECRET, None, False, wanted, BlobDirectory(directory, False), jobs=jobs).run())
        assert verdicts(told) == ["good"] * len(made)
        told = list(Opener(SECRET, None, False, wanted, blobs, jobs=jobs).run())
        assert verdicts(told) == ["good"] * len(made)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert {blobs.fetched[name] for file in made if file.sizes is not None for name in file.blobs} == {1}


# ---- holes and room --------------------------------------------------------------------------------------------------


def data_blocks(path: Path) -> set[int]:
    """Numbers of the blocks that are not holes. Skips where the file system cannot tell."""
    found: set[int] = set()
    with open(path, "rb") as file:
        at, size = 0, os.fstat(file.fileno()).st_size
        while at < size:
            try:
                start = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    break
                raise
            at = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            found |= set(range(start // BLOCK, -(-at // BLOCK)))
    return found


@pytest.fixture(scope="session")
def holes(tmp_path_factory: pytest.TempPathFactory) -> None:
    probe = tmp_path_factory.mktemp("probe") / "probe"
    with open(probe, "wb") as file:
        file.truncate(1 << 20)
    if data_blocks(probe):
        pytest.skip("this file system does not tell where holes are")


RUNS = st.lists(st.tuples(st.booleans(), st.integers(1, 4 * BLOCK)), max_size=12)


@given(RUNS, st.integers(1, 3 * BLOCK), st.integers(1, 3), st.sampled_from(["frames", "stream", "one"]))
@example([(True, 3 * BLOCK)], BLOCK, 1, "frames")
@example([(False, 1), (True, 4 * BLOCK), (False, 1)], BLOCK - 1, 2, "frames")
@example([(True, 1)], 5, 1, "stream")
def test_every_zero_block_becomes_a_hole(
    tmp_path_factory: pytest.TempPathFactory,
    holes: None,
    runs: list[tuple[bool, int]],
    chunk_size: int,
    jobs: int,
    layout: str,
) -> None:
    source = random.Random(repr(runs))
    content = b"".join(bytes(n) if zero else bytes(source.choices(range(1, 256), k=n)) for zero, n in runs)
    blobs = Blobs()
    if layout == "stream":
        made = blobs.stream(content, chunk_size)
    else:
        step = chunk_size if layout == "frames" else max(len(content), 1)
        made = blobs.frames(*[content[at : at + step] for at in range(0, len(content), step)] or [b""])
    out = tmp_path_factory.mktemp("out")
    assert verdicts(restore(blobs, out, [made], jobs=jobs, sparse=True)) == ["good"]
    assert contents(out) == {"0": content}
    full = {at // BLOCK for at in range(0, len(content), BLOCK) if any(content[at : at + BLOCK])}
    assert data_blocks(out / "0") == full


@pytest.mark.parametrize("size", [3_000_000, 600_000])
def test_holes_in_a_large_file(tmp_path: Path, size: int) -> None:
    """Through more than one write, whole and in frames; without `sparse` there are none."""
    blobs = Blobs()
    content = os.urandom(BLOCK) + bytes(size) + os.urandom(BLOCK) + bytes(size)
    made = [blobs.frames(content), blobs.frames(content[:700_001], content[700_001:]), blobs.stream(content, 4000)]
    assert verdicts(restore(blobs, tmp_path / "out", made, sparse=True)) == ["good"] * 3
    assert contents(tmp_path / "out") == {str(number): content for number in range(3)}
    os.sync()
    assert all((tmp_path / "out" / str(number)).stat().st_blocks * 512 <= 8 * BLOCK for number in range(3))
    assert verdicts(restore(blobs, tmp_path / "out", made)) == ["good"] * 3
    os.sync()
    assert all((tmp_path / "out" / str(number)).stat().st_blocks * 512 >= len(content) for number in range(3))


def test_a_huge_file_of_one_zero_blob_takes_seconds(tmp_path: Path) -> None:
    """80,000 places of a blob of 20 MB: 1.6 TB."""
    blobs = Blobs()
    zero = blobs.frames(bytes(20_000_000))
    end = blobs.frames(b"the end")
    count = 80_000
    names, sizes = zero.blobs * count + end.blobs, [20_000_000] * count + [7]
    started = time.process_time()
    with opened(tmp_path) as target:
        wanted = [Wanted(target, b"huge", names, sizes, sum(sizes), 0, 0, sparse=True)]
        told = list(Opener(SECRET, None, False, wanted, blobs, jobs=2).run())
    assert verdicts(told) == ["good"]
    assert time.process_time() - started < 15
    assert set(blobs.fetched.values()) == {1}
    found = (tmp_path / "huge").stat()
    assert found.st_size == sum(sizes)
    assert found.st_blocks * 512 <= 64 * BLOCK
    with open(tmp_path / "huge", "rb") as file:
        file.seek(-10, os.SEEK_END)
        assert file.read() == b"\0\0\0the end"


@pytest.mark.parametrize("layout", ["frames", "stream"])
@pytest.mark.parametrize("size", [(1 << 20) - 1, 1 << 20])
def test_a_large_file_has_its_room_before_it_is_written(tmp_path: Path, layout: str, size: int, drafts: bool) -> None:
    """Seen when its first blob is fetched."""
    blobs = Blobs()
    content = os.urandom(size)
    half = size // 2
    made = blobs.frames(content[:half], content[half:]) if layout == "frames" else blobs.stream(content, half)
    seen: list[int] = []

    def fetch(name: str) -> bytes:
        seen.extend(draft.st_size for draft in unfinished(tmp_path))
        return blobs(name)

    with opened(tmp_path) as target:
        [told] = Opener(SECRET, None, False, [made.wanted(target, 0, size=size)], fetch, jobs=1).run()
    assert NAMED[told.verdict] == "good"
    assert contents(tmp_path) == {"0": content}
    assert (seen[0] == size) == (size >= 1 << 20)


@pytest.mark.skipif(sys.platform != "linux", reason="room is only kept on Linux")
@pytest.mark.parametrize("names", [1, 2])
def test_a_file_that_the_disk_has_no_room_for_fails_at_once(tmp_path: Path, names: int) -> None:
    """It is not tried: a file system that is asked for more than it has is full for a moment, for all."""
    free = os.statvfs(tmp_path)
    size = free.f_frsize * free.f_blocks * 2
    blobs = Blobs()
    made = blobs.frames(*[b"a" * 5, b"b" * 5][:names])._replace(sizes=None)
    other = blobs.frames(b"other")
    with opened(tmp_path) as target:
        wanted = [made.wanted(target, 0, size=size), other.wanted(target, 1)]
        told = list(Opener(SECRET, None, False, wanted, blobs, jobs=1).run())
    assert verdicts(told) == ["no room", "good"]
    assert told[0].errno == errno.ENOSPC
    assert contents(tmp_path) == {"1": b"other"}
    assert names == 1 or not {*made.blobs} & {*blobs.fetched}


# ---- ranges of a file that others write, too -------------------------------------------------------------------------


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("lengths", [[7], [600_000], [5, 0, 9], [BLOCK, 700_000, 300_000], []])
def test_a_range_is_written_where_it_belongs(tmp_path: Path, lengths: list[int], in_memory: bool, drafts: bool) -> None:
    """Nothing before and behind it changes, and the file keeps its name, mode and descriptor."""
    blobs = Blobs()
    made = blobs.frames(*[os.urandom(length) for length in lengths])
    path = tmp_path / "out" / "file"
    path.parent.mkdir()
    path.write_bytes(b"x" * 3_000_000)
    path.chmod(0o640)
    source = blobs if in_memory else blobs.in_directory(tmp_path / "blobs")
    with open(path, "r+b") as file, contextlib.ExitStack() as stack:
        wanted = [made.wanted(file.fileno(), b"", start=start, mode=0o777, mtime_ns=5) for start in (0, 1_500_000)]
        at = source if isinstance(source, Blobs) else BlobDirectory(stack.enter_context(opened(source)), False)
        told = list(Opener(SECRET, None, False, wanted, at, jobs=2).run())
        assert verdicts(told) == ["good", "good"]
        assert os.fstat(file.fileno()).st_nlink == 1
    rest = b"x" * (1_500_000 - len(made.content))
    assert contents(path.parent) == {"file": 2 * (made.content + rest)}
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert path.stat().st_mtime > 1e9


@pytest.mark.parametrize("pieces", [1, 3])
@pytest.mark.parametrize("off", [-100_000, -1, 1, 100_000])
def test_a_range_is_not_written_beyond_what_was_said(tmp_path: Path, pieces: int, off: int) -> None:
    blobs = Blobs()
    made = blobs.frames(*[os.urandom(600_000) for _ in range(pieces)])
    assert made.sizes is not None
    sizes = [*made.sizes[:-1], made.sizes[-1] + off]
    path = tmp_path / "file"
    path.write_bytes(b"x" * 3_000_000)
    with open(path, "r+b") as file:
        wanted = made._replace(sizes=sizes).wanted(file.fileno(), b"", start=1000)
        [told] = Opener(SECRET, None, False, [wanted], blobs, jobs=2).run()
    assert (NAMED[told.verdict], told.blob) == ("bad frame", pieces - 1)
    found = path.read_bytes()
    assert set(found[:1000] + found[1000 + sum(sizes) :]) == {ord("x")}
    assert contents(tmp_path).keys() == {"file"}


def test_a_range_keeps_holes_and_what_is_bad_removes_nothing(tmp_path: Path) -> None:
    blobs = Blobs()
    made = blobs.frames(bytes(1 << 20), os.urandom(BLOCK), bytes(1 << 20))
    path = tmp_path / "file"
    with open(path, "w+b") as file:
        os.ftruncate(file.fileno(), 4 << 20)
        whole = made.wanted(file.fileno(), b"", start=1 << 20, sparse=True)
        bad = whole._replace(blobs=[*made.blobs[:2], KEY.name(b"none")])
        told = list(Opener(SECRET, None, False, [whole, bad], blobs, jobs=1).run())
    assert verdicts(told) == ["good", "not there"]
    found = path.stat()
    assert (found.st_size, found.st_blocks * 512 <= 16 * BLOCK) == (4 << 20, True)
    assert path.read_bytes() == bytes(1 << 20) + made.content + bytes((1 << 20) - BLOCK)


def test_a_range_of_a_closed_file_is_a_bad_write(tmp_path: Path) -> None:
    made = (blobs := Blobs()).frames(b"one", b"two")
    told = Opener(SECRET, None, False, [made.wanted(1 << 20, b"", start=0)], blobs, jobs=1).run()
    assert [(NAMED[one.verdict], one.errno) for one in told] == [("bad write", errno.EBADF)]


@pytest.mark.parametrize("replace", [True, False])
def test_a_written_file_gets_its_metadata_and_its_name(tmp_path: Path, replace: bool) -> None:
    with opened(tmp_path) as directory, open(tmp_path / "draft", "w+b") as file:
        os.ftruncate(file.fileno(), 10)
        wanted = Wanted(directory, b"name", [], None, 10, 10**18, 10**18 + 1, mode=0o444, replace=replace)
        (tmp_path / "name").write_bytes(b"there")
        told = publish_written(wanted, file.fileno(), b"draft")
        if not replace:
            assert (NAMED[told.verdict], told.errno) == ("bad write", errno.EEXIST)
            assert contents(tmp_path) == {"name": b"there", "draft": bytes(10)}
            (tmp_path / "name").unlink()
            told = publish_written(wanted, file.fileno(), b"draft")
        assert (NAMED[told.verdict], told.soft) == ("good", 0)
        assert os.fstat(file.fileno()).st_nlink == 1
    found = (tmp_path / "name").stat()
    assert (stat.S_IMODE(found.st_mode), found.st_atime_ns, found.st_mtime_ns) == (0o444, 10**18, 10**18 + 1)
    assert contents(tmp_path) == {"name": bytes(10)}


@pytest.mark.skipif(sys.platform != "linux", reason="room is only kept on Linux")
def test_room_is_given_or_there_is_none(tmp_path: Path) -> None:
    free = os.statvfs(tmp_path)
    with open(tmp_path / "file", "w+b") as file:
        with pytest.raises(OSError, match="No space left on device"):
            give_room_to(file.fileno(), free.f_frsize * free.f_blocks * 2)
        assert os.fstat(file.fileno()).st_size == 0
        give_room_to(file.fileno(), 3 << 20)
        assert os.fstat(file.fileno()).st_size == 3 << 20


# ---- what a file is beyond its bytes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o600, 0o444, 0o000, 0o755, 0o4711, 0o2750, 0o1666])
def test_mode_and_times_are_those_that_were_asked_for(tmp_path: Path, mode: int, drafts: bool) -> None:
    blobs = Blobs()
    made = [blobs.frames(b"x"), blobs.frames(b"x", b"y"), blobs.frames(), blobs.stream(os.urandom(5000), 1000)]
    told = restore(
        blobs, tmp_path / "out", made, mode=mode, atime_ns=10**18 + 1, mtime_ns=-(10**9) - 7, jobs=3, sparse=True
    )
    assert [(NAMED[one.verdict], one.soft) for one in told] == [("good", 0)] * 4
    for number in range(4):
        found = (tmp_path / "out" / str(number)).stat()
        assert stat.S_IMODE(found.st_mode) == mode
        assert (found.st_atime_ns, found.st_mtime_ns) == (10**18 + 1, -(10**9) - 7)


def test_without_a_mode_the_umask_decides(tmp_path: Path, drafts: bool) -> None:
    blobs = Blobs()
    before = os.umask(0o027)
    try:
        restore(blobs, tmp_path / "out", [blobs.frames(b"x"), blobs.frames(b"x", b"y")])
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "out").iterdir()} == {0o640}


@pytest.mark.parametrize("layout", ["frames", "stream"])
def test_an_unfinished_file_is_for_its_owner_alone(tmp_path: Path, layout: str, drafts: bool) -> None:
    blobs = Blobs()
    content = os.urandom(5000)
    made = blobs.frames(content[:2000], content[2000:]) if layout == "frames" else blobs.stream(content, 2000)
    seen: set[int] = set()

    def fetch(name: str) -> bytes:
        seen.update(stat.S_IMODE(draft.st_mode) for draft in unfinished(tmp_path))
        return blobs(name)

    with opened(tmp_path) as target:
        [told] = Opener(SECRET, None, False, [made.wanted(target, 0, mode=0o666)], fetch, jobs=1).run()
    assert NAMED[told.verdict] == "good"
    assert seen == {0o600}
    assert stat.S_IMODE((tmp_path / "0").stat().st_mode) == 0o666


@pytest.fixture
def attributes(tmp_path: Path) -> Path:
    """A directory whose files may have user attributes."""
    probe = tmp_path / "probe"
    probe.touch()
    try:
        os.setxattr(probe, "user.probe", b"")
    except (OSError, AttributeError) as error:
        pytest.skip(f"this file system keeps no attributes: {error}")
    probe.unlink()
    return tmp_path


def test_attributes_are_set_also_where_nobody_may_write(attributes: Path, drafts: bool) -> None:
    blobs = Blobs()
    xattrs = [(b"user.one", b"1"), (b"user.empty", b""), (b"user.binary", bytes(range(256)))]

    def run() -> list[list[int]]:
        told = restore(blobs, attributes / "out", [blobs.frames(b"x"), blobs.frames(b"x", b"y")], **asked)
        return [[one.verdict, one.soft] for one in told]

    asked = {"mode": 0o444, "xattrs": xattrs}
    (attributes / "out").mkdir()
    assert as_nobody(attributes / "out", run) == [[0, 0], [0, 0]]
    for path in (attributes / "out" / "0", attributes / "out" / "1"):
        assert {os.fsencode(name): os.getxattr(path, name) for name in os.listxattr(path)} == dict(xattrs)
        assert stat.S_IMODE(path.stat().st_mode) == 0o444


def test_an_attribute_that_cannot_be_set_is_told_and_the_file_is_there(attributes: Path) -> None:
    blobs = Blobs()
    xattrs = [(b"nowhere.one", b"1"), (b"user.two", b"2")]
    told = restore(blobs, attributes / "out", [blobs.frames(b"x"), blobs.frames(b"x", b"y")], xattrs=xattrs)
    assert [(NAMED[one.verdict], one.soft) for one in told] == [("good", errno.EOPNOTSUPP)] * 2
    assert contents(attributes / "out") == {"0": b"x", "1": b"xy"}
    assert all(os.listxattr(path) == ["user.two"] for path in (attributes / "out").iterdir())


def as_nobody(out: Path, run: Callable[[], object]) -> object:
    """What `run` returns (JSON) for a user without rights, who owns `out`."""
    if os.geteuid():
        return run()
    nobody = 65534
    os.chown(out, nobody, nobody)
    for parent in [out, *out.parents][:-1]:
        if not parent.stat().st_mode & 0o001 and parent != out:
            parent.chmod(parent.stat().st_mode | 0o011)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(nobody)
            os.setuid(nobody)
            os.write(write, json.dumps(run()).encode())
        finally:
            os._exit(0)
    os.close(write)
    with open(read, "rb") as answer:
        text = answer.read()
    os.waitpid(child, 0)
    return json.loads(text)


def test_an_owner_that_cannot_be_set_takes_setuid_away(tmp_path: Path, drafts: bool) -> None:
    blobs = Blobs()
    (tmp_path / "out").mkdir()

    def run() -> list[list[int]]:
        made = [blobs.frames(b"x"), blobs.frames(b"x", b"y")]
        told = restore(blobs, tmp_path / "out", made, uid=0, gid=0, mode=0o6755)
        return [[one.verdict, one.soft] for one in told]

    assert as_nobody(tmp_path / "out", run) == [[0, errno.EPERM]] * 2
    for path in (tmp_path / "out").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o755
        assert path.stat().st_uid != 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_root_sets_owner_and_keeps_setuid(tmp_path: Path, drafts: bool) -> None:
    blobs = Blobs()
    made = [blobs.frames(b"x"), blobs.frames(b"x", b"y")]
    for uid, gid, owner in ((1234, 4321, (1234, 4321)), (2**32 - 2, -1, (2**32 - 2, 0)), (-1, 7, (0, 7))):
        told = restore(blobs, tmp_path / "out", made, uid=uid, gid=gid, mode=0o4755)
        assert [(NAMED[one.verdict], one.soft) for one in told] == [("good", 0)] * 2
        for path in (tmp_path / "out").iterdir():
            assert (path.stat().st_uid, path.stat().st_gid) == owner
            assert stat.S_IMODE(path.stat().st_mode) == 0o4755


# ---- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("there", ["file", "link", "dangling link", "directory"])
def test_what_has_the_name_stays_when_nothing_may_be_replaced(tmp_path: Path, there: str, drafts: bool) -> None:
    blobs = Blobs()
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "precious").write_bytes(b"precious")
    for name in ("0", "1", "2"):
        if there == "directory":
            (out / name).mkdir()
        elif there == "file":
            (out / name).write_bytes(b"precious")
        else:
            (out / name).symlink_to(tmp_path / ("precious" if there == "link" else "nothing"))
    made = [blobs.frames(b"x"), blobs.frames(b"x", b"y"), blobs.frames(), blobs.frames(b"x")]
    told = restore(blobs, out, made, replace=False)
    assert verdicts(told) == ["bad write"] * 3 + ["good"]
    assert [one.errno for one in told] == [errno.EEXIST] * 3 + [0]
    assert sorted(os.listdir(out)) == ["0", "1", "2", "3"], "no draft is left"
    assert (out / "3").read_bytes() == b"x"
    assert (out / "3").stat().st_nlink == 1
    assert (tmp_path / "precious").read_bytes() == b"precious"
    assert not (tmp_path / "nothing").exists()
    if there == "file":
        assert (out / "0").read_bytes() == (out / "1").read_bytes() == b"precious"
    if there != "directory":
        assert verdicts(restore(blobs, out, made)) == ["good"] * 4
        assert contents(out) == {"0": b"x", "1": b"xy", "2": b"", "3": b"x"}
        assert (tmp_path / "precious").read_bytes() == b"precious"


# ---- manners ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def long_frame() -> bytes:
    compressor = zstandard.ZstdCompressor().compressobj()
    return b"".join(compressor.compress(bytes(1 << 22)) for _ in range(1024)) + compressor.flush()


@pytest.mark.parametrize("layout", ["frames", "stream", "one"])
@pytest.mark.parametrize("called", [False, True])
def test_a_stop_does_not_wait_for_the_end_of_a_large_blob(
    tmp_path: Path, long_frame: bytes, layout: str, called: bool, drafts: bool
) -> None:
    """A blob of 4 GB of zeros takes seconds; a stop in the middle of it does not."""
    blobs = Blobs()
    name = KEY.name(long_frame)
    blobs.blobs[name] = KEY.seal(oracle.pad(long_frame))
    store = blobs.in_directory(tmp_path / "store")
    out = tmp_path / "out"
    out.mkdir()
    first = blobs.frames(b"first")
    (store / first.blobs[0]).write_bytes(blobs.blobs[first.blobs[0]])
    names = {"frames": [name, first.blobs[0]], "stream": [name, first.blobs[0]], "one": [name]}[layout]
    sizes = [1 << 32, 5] if layout == "frames" else None
    with opened(out) as target, opened(store) as directory:
        wanted = [first.wanted(target, 0), Made(b"", names, sizes).wanted(target, 1, sparse=True)]
        source = blobs if called else BlobDirectory(directory, False)
        run = Opener(SECRET, None, False, wanted, source, jobs=2).run()
        next(run)
        time.sleep(0.05)
        started = time.process_time()
        run.close()
        assert time.process_time() - started < 0.5
        assert contents(out) == {"0": b"first"}
        assert not unfinished(out)


def test_workers_that_have_nothing_to_do_do_not_spin(tmp_path: Path) -> None:
    blobs = Blobs()
    made = [blobs.frames(b"a", b"b"), blobs.frames(b"a"), blobs.stream(os.urandom(5000), 4000)]

    def fetch(name: str) -> bytes:
        time.sleep(0.5)
        return blobs(name)

    with opened(tmp_path) as target:
        wanted = [file.wanted(target, number) for number, file in enumerate(made)]
        started = time.process_time()
        told = list(Opener(SECRET, None, False, wanted, fetch, jobs=16).run())
    assert verdicts(told) == ["good"] * 3
    assert time.process_time() - started < 0.25


# ---- one chunk at a time ---------------------------------------------------------------------------------------------


def frames_of(pieces: list[bytes], sized: bool) -> bytes:
    compressor = zstandard.ZstdCompressor(write_content_size=sized)
    return b"".join(compressor.compress(piece) if sized else oracle.compress_as_pog(piece) for piece in pieces)


@given(st.lists(st.binary(max_size=2000), min_size=1, max_size=4), st.booleans(), st.integers(0, 3))
@example([b"x" * (1 << 20)], False, 0)
@example([b"x" * (1 << 20), b"y"], True, 2)
@example([b"", b"", b"z" * 3_000_000], False, 1)
def test_decompress_takes_every_frame(pieces: list[bytes], sized: bool, skipped: int) -> None:
    padding = oracle.PADDING + (5).to_bytes(4, "little") + b"12345"
    data = frames_of(pieces, sized)
    for frames in (data + padding * skipped, padding * skipped + data):
        assert decompress(frames) == b"".join(pieces)
    for cut in (1, len(frames_of(pieces[-1:], sized)) - 1):
        with pytest.raises(ValueError):
            decompress(data[:-cut])


def test_decompress_does_not_believe_what_cannot_be() -> None:
    """A frame's header that says 2^60 bytes costs no memory."""
    frame = bytearray(compress(bytes(300)))
    lie = bytes.fromhex("28b52ffd") + b"\xe0" + (2**60).to_bytes(8, "little") + bytes(frame[7:])
    with pytest.raises(ValueError):
        decompress(lie)


@given(st.binary(max_size=3000), st.booleans(), st.integers(-3, 3))
@example(b"", False, 0)
@example(b"", True, 1)
@example(b"a" * 5_000_000, False, 0)
@example(b"a" * 5_000_000, False, -1)
@example(b"a" * 5_000_000, True, 1)
def test_a_chunk_is_read_with_exactly_its_length(content: bytes, sized: bool, off: int) -> None:
    chunk = frames_of([content], sized)
    name, blob = KEY.name(chunk), KEY.seal(oracle.pad(chunk))
    assert read_chunk(SECRET, None, blob, name, len(content)) == content
    assert read_chunk(SECRET, None, memoryview(bytearray(blob)), name, -1) == content
    if off and len(content) + off >= 0:
        with pytest.raises(CorruptBlob, match=name):
            read_chunk(SECRET, None, blob, name, len(content) + off)
    with pytest.raises(CorruptBlob, match=name):
        read_chunk(SECRET, None, blob, name, 2**62)


@pytest.mark.parametrize("key", [KEY, oracle.OracleKey.of_private(SECRET)], ids=["secret", "pair"])
def test_a_bad_blob_is_not_read_as_a_chunk(key: oracle.OracleKey) -> None:
    chunk = compress(b"content")
    name, blob = key.name(chunk), key.seal(oracle.pad(chunk))
    other = key.name(b"other")
    assert read_chunk(key.secret, key.private, blob, name, 7) == b"content"
    for bad, kind in (
        (blob[:-1] + bytes([blob[-1] ^ 1]), CorruptBlob),
        (blob[:-1], CorruptBlob),
        (blob[:100], CorruptBlob),
        (b"", CorruptBlob),
        (bytes([blob[0] ^ 1]) + blob[1:], WrongKey),
        (key.seal(b"other"), WrongBlob),
        (key.seal(oracle.pad(compress(b"other"))), WrongBlob),
    ):
        with pytest.raises(kind) as error:
            read_chunk(key.secret, key.private, bad, name, 7)
        assert name in str(error.value)
    with pytest.raises(WrongBlob):
        read_chunk(key.secret, key.private, blob, other, 7)
    no_frame = key.seal(oracle.pad(b"no frame"))
    with pytest.raises(CorruptBlob):
        read_chunk(key.secret, key.private, no_frame, key.name(b"no frame"), 7)


def test_a_chunk_is_read_without_the_gil() -> None:
    """Another thread runs while 200 MB are opened."""
    chunk = compress(bytes(200_000_000), 1)
    name, blob = seal_blob(SECRET, False, chunk, len(chunk) + 1)
    ticks: list[float] = []
    done = threading.Event()

    def tick() -> None:
        while not done.is_set():
            ticks.append(time.monotonic())
            time.sleep(0.001)

    thread = threading.Thread(target=tick)
    thread.start()
    time.sleep(0.02)
    started = time.monotonic()
    read_chunk(SECRET, None, blob, name, 200_000_000)
    ended = time.monotonic()
    done.set()
    thread.join()
    assert sum(started < tick < ended for tick in ticks) >= 3


def test_names_are_read_as_base64_reads_them() -> None:
    blobs = Blobs()
    made = blobs.frames(b"x")
    [told] = Opener(SECRET, None, False, [made.wanted(-1, 0)], blobs, jobs=1).run()
    assert NAMED[told.verdict] == "good"
    name = made.blobs[0]
    for bad in (
        name[:-1],
        name[:-1] + "A",
        name + "=",
        "+" + name[1:],
        "é" + name[1:],
        "\udc80" + name[1:],
        "",
        "=" * 44,
    ):
        with pytest.raises(ValueError):
            Opener(SECRET, None, False, [Wanted(-1, b"", [bad], None, -1, 0, 0)], blobs, jobs=1)


@given(st.binary(min_size=32, max_size=32))
def test_any_name_is_the_one_that_is_fetched(digest: bytes) -> None:
    import base64

    name = base64.urlsafe_b64encode(digest).decode()
    asked: list[str] = []

    def fetch(name: str) -> bytes:
        asked.append(name)
        raise MissingBlob(name)

    [told] = Opener(SECRET, None, False, [Wanted(-1, b"", [name], None, -1, 0, 0)], fetch, jobs=1).run()
    assert (NAMED[told.verdict], asked) == ("not there", [name])


def test_bytes_are_counted_while_a_file_is_not_done(tmp_path: Path) -> None:
    """What a display of one huge file needs."""
    data = [os.urandom(10_000) for _ in range(8)]
    blobs = dict(seal_blob(SECRET, False, oracle.frame_chunks(piece, 10_000)[0], 10**6) for piece in data)
    seen: list[tuple[int, int]] = []

    def fetch(name: str) -> bytes:
        seen.append((opener.written(), opener.read()))
        return blobs[name]

    wanted = Wanted(-1, b"", list(blobs), [10_000] * 8, -1, 0, 0)
    opener = Opener(SECRET, None, False, [wanted], fetch, jobs=1)
    [told] = opener.run()
    assert told.verdict == VERDICT["good"]
    read = [sum(map(len, list(blobs.values())[:number])) for number in range(9)]
    assert seen == [(10_000 * number, read[number]) for number in range(8)]
    assert (opener.written(), opener.read()) == (80_000, read[8])
    for name, blob in blobs.items():
        (tmp_path / name).write_bytes(blob)
    with opened(tmp_path) as directory:
        opener = Opener(SECRET, None, False, [wanted], BlobDirectory(directory, False), jobs=2)
        assert [told.verdict for told in opener.run()] == [VERDICT["good"]]
    assert (opener.written(), opener.read()) == (80_000, read[8])

"""Sealer in the `frames` layout: what is cut, read in order, known already, sparse, or changes under its hands."""

from __future__ import annotations

import errno
import itertools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from kit import oracle
from kit.shelf import CHUNK, KEY, SECRET, Result, Shelf, chunks, content, file_of, seal, text
from pogfast._engine import FilePart, Known, Sealer

boundaries = st.sampled_from([0, 1, 2, 511, 512, 513]).flatmap(
    lambda more: st.sampled_from([0, CHUNK - 512, CHUNK, 2 * CHUNK - 512, 2 * CHUNK, 524_288 - 512, 524_288]).map(
        lambda base: base + more
    )
)


@given(data=st.data(), size=boundaries, compressible=st.booleans(), holes=st.booleans())
def test_the_parts_of_a_file_have_its_blobs(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, size: int, compressible: bool, holes: bool
) -> None:
    file = file_of(tmp_path_factory.mktemp("parts"), text(size) if compressible else os.urandom(size))
    if holes:
        os.truncate(file, size := size + 3 * CHUNK)
    [whole] = seal([file], Shelf())
    facts = (size, whole.last.mtime_ns, whole.last.ctime_ns, whole.last.inode)
    step = CHUNK * data.draw(st.integers(1, 4))
    parts = [FilePart(file, at, min(step, size - at), facts) for at in range(0, size, step)]
    shuffled = data.draw(st.permutations(parts))
    results = seal(shuffled, shelf := Shelf(), jobs=data.draw(st.integers(1, 3)))
    pairs = sorted(zip(shuffled, results, strict=True), key=lambda pair: pair[0].offset)
    assert [result.last.size for _, result in pairs] == [part.length for part in parts]
    assert [name for _, result in pairs for name in result.names] == (whole.names if size else [])
    assert [plain for _, result in pairs for plain in result.sizes] == (whole.sizes if size else [])
    assert b"".join(content(result, shelf) for _, result in pairs) == Path(os.fsdecode(file)).read_bytes()
    assert not any(result.last.changed or result.last.error for _, result in pairs)


def test_no_part_is_read_of_a_file_that_is_another(tmp_path: Path) -> None:
    file = file_of(tmp_path, os.urandom(3 * CHUNK))
    found = os.stat(file)
    facts = (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
    for number in range(4):
        other = tuple(value + (place == number) for place, value in enumerate(facts))
        [result] = seal([FilePart(file, 0, CHUNK, other)], shelf := Shelf())  # type: ignore[arg-type]
        assert result.last.changed
        assert (result.last.error, result.names, shelf.blobs) == (0, [], {})
    [gone] = seal([FilePart(file + b".gone", 0, CHUNK, facts)], Shelf())
    assert gone.last.error == errno.ENOENT


@pytest.mark.parametrize(
    ("offset", "length", "more"),
    [
        (1, CHUNK, {}),
        (0, 0, {}),
        (-CHUNK, CHUNK, {}),
        (CHUNK, 2 * CHUNK + 1, {}),
        (2**62, 2**62, {}),
        (0, CHUNK, {"frames": False}),
        (0, CHUNK, {"content": (CHUNK // 4, CHUNK // 2, bytes(2048))}),
    ],
)
def test_a_part_lies_in_a_file_that_is_cut_in_fixed_sizes(
    tmp_path: Path, offset: int, length: int, more: dict[str, Any]
) -> None:
    file = file_of(tmp_path, os.urandom(3 * CHUNK))
    found = os.stat(file)
    facts = (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
    with pytest.raises(ValueError, match="a part"):
        seal([FilePart(file, offset, length, facts)], Shelf(), **more)


@given(size=boundaries, jobs=st.integers(1, 3), compressible=st.booleans(), known=st.integers(0, 3))
def test_what_is_cut_comes_back(
    tmp_path_factory: pytest.TempPathFactory, size: int, jobs: int, compressible: bool, known: int
) -> None:
    place = tmp_path_factory.mktemp("cut")
    data = text(size) if compressible else os.urandom(size)
    shelf = Shelf()
    [result] = seal([file_of(place, data)], shelf, jobs=jobs)
    assert content(result, shelf) == data
    assert result.sizes == [min(CHUNK, size - at) for at in range(0, max(size, 1), CHUNK)]
    assert result.stored == [len(shelf.blobs[name]) for name in result.names]
    assert result.last.size == size
    assert not result.last.changed
    # In order through a descriptor: the same blobs.
    with open(place / "file", "rb") as opened:
        [in_order] = seal([opened.fileno()], again := Shelf(), jobs=jobs)
    assert in_order.names == result.names
    assert in_order.sizes == result.sizes
    # And again, with the first chunks known: these are not made again.
    full = size // CHUNK - (size % CHUNK == 0)
    known = max(0, min(known, full))
    facts = (size, result.last.mtime_ns, result.last.ctime_ns, result.last.inode)
    [continued] = seal(
        [Known(os.fsencode(place / "file"), result.names[:known], result.stored[:known], [CHUNK] * known, facts)],
        again := Shelf(),
    )
    assert (continued.names, continued.sizes, continued.stored) == (result.names, result.sizes, result.stored)
    assert again.blobs.keys() == set(result.names[known:])
    assert continued.last.size == size


@pytest.mark.parametrize("level", [-5, 3, 9])
@pytest.mark.parametrize("kind", ["random", "text", "random then text", "text then random"])
def test_chunks_large_enough_to_be_tried_first(tmp_path: Path, kind: str, level: int) -> None:
    """A chunk whose first megabyte does not compress is made another way than one that does."""
    half = 9_000_000
    parts = {"random": os.urandom(half), "text": text(half)}
    first, _, second = kind.partition(" then ")
    data = (parts[first] + parts[second or first]) * 2
    shelf = Shelf()
    path = file_of(tmp_path, data)
    [result] = seal([path], shelf, chunk_size=2 * half, level=level)
    assert content(result, shelf) == data
    assert result.sizes == [2 * half] * 2
    assert len(set(result.names)) == 1, "what is the same gets the same name"
    for chunk in chunks(result, shelf):
        parameters = zstandard.get_frame_parameters(chunk)
        assert (parameters.content_size, parameters.has_checksum) == (2 * half, kind != "random")
        assert len(chunk) < 2 * half * (1.0001 if kind == "random" else 0.7)
    with open(path, "rb") as opened:
        [in_order] = seal([opened.fileno()], Shelf(), chunk_size=2 * half, level=level)
    assert in_order.names == result.names


def test_a_file_of_one_chunk_is_written_as_pog_does(tmp_path: Path) -> None:
    for size in (0, 1, 100_000, CHUNK - 1, CHUNK):
        data = text(size)
        [result] = seal([file_of(tmp_path, data)], Shelf())
        assert result.names == [KEY.name(oracle.compress_as_pog(data))]


def test_other_chunks_are_frames_with_size_and_checksum(tmp_path: Path) -> None:
    shelf = Shelf()
    [result] = seal([file_of(tmp_path, text(2 * CHUNK + 1))], shelf)
    for chunk, size in zip(chunks(result, shelf), [CHUNK, CHUNK, 1], strict=True):
        parameters = zstandard.get_frame_parameters(chunk)
        assert (parameters.content_size, parameters.has_checksum) == (size, True)


def test_a_chunk_size_below_the_smallest_file(tmp_path: Path) -> None:
    data = os.urandom(1000)
    shelf = Shelf()
    [result] = seal([file_of(tmp_path, data)], shelf, chunk_size=64)
    assert content(result, shelf) == data
    assert result.sizes == [64] * 15 + [40]


def test_many_files_in_order_as_they_are_asked_for(tmp_path: Path) -> None:
    paths = [file_of(tmp_path, text(17 * number), str(number)) for number in range(3000)]
    paths.insert(0, file_of(tmp_path, os.urandom(5 * CHUNK), "large"))
    asked = itertools.count()

    def source() -> Iterator[bytes]:
        for path in paths:
            next(asked)
            yield path

    shelf = Shelf()
    results = seal(source(), shelf)
    assert len(results) == len(paths) == next(asked)
    assert [content(result, shelf) for result in results] == [Path(os.fsdecode(path)).read_bytes() for path in paths]


def test_what_the_source_raises_ends_the_run(tmp_path: Path) -> None:
    def source() -> Iterator[bytes]:
        yield file_of(tmp_path, b"x")
        raise RuntimeError("the walk fell over")

    with pytest.raises(RuntimeError, match="fell over"):
        seal(source(), Shelf())


def test_a_path_with_a_nul_is_refused() -> None:
    with pytest.raises(ValueError):
        seal([b"a\0b"], Shelf())


@pytest.mark.parametrize("frames", [True, False])
def test_a_pipe_is_read_to_its_end(tmp_path: Path, frames: bool) -> None:
    data = os.urandom(3 * CHUNK + 5)
    reader, writer = os.pipe()

    def write() -> None:
        with open(writer, "wb") as out:
            for at in range(0, len(data), 100_001):
                out.write(data[at : at + 100_001])
                out.flush()
                time.sleep(0.001)

    thread = threading.Thread(target=write)
    thread.start()
    shelf = Shelf()
    [result] = seal([reader], shelf, frames=frames)
    thread.join()
    os.close(reader)
    assert result.last.size == len(data)
    if frames:
        assert content(result, shelf) == data
        assert result.sizes == [CHUNK] * 3 + [5]
    else:
        assert oracle.decompress_all(b"".join(chunks(result, shelf))) == data


def test_a_silent_pipe_does_not_hold_up_a_stop() -> None:
    reader, writer = os.pipe()
    sealer = Sealer(SECRET, False, [reader], [Shelf()], chunk_size=CHUNK, level=3, jobs=2, frames=True)
    run = sealer.run()
    threading.Timer(0.1, sealer.stop).start()
    assert list(run) == []
    os.close(writer)
    os.close(reader)


def test_a_known_prefix_is_dropped_when_the_file_is_another(tmp_path: Path) -> None:
    first = os.urandom(3 * CHUNK)
    path = file_of(tmp_path, first)
    [result] = seal([path], Shelf())
    facts = (3 * CHUNK, result.last.mtime_ns, result.last.ctime_ns, result.last.inode)
    second = file_of(tmp_path, os.urandom(3 * CHUNK))
    shelf = Shelf()
    [again] = seal([Known(second, result.names[:2], result.stored[:2], result.sizes[:2], facts)], shelf)
    assert content(again, shelf) == (tmp_path / "file").read_bytes()
    assert not set(again.names) & set(result.names)


@pytest.mark.parametrize("frames", [True, False])
def test_a_file_that_grows_while_it_is_read_is_marked(tmp_path: Path, frames: bool) -> None:
    path = file_of(tmp_path, os.urandom(3 * CHUNK))

    def grow(name: str, blob: memoryview) -> None:
        with (tmp_path / "file").open("ab") as out:
            out.write(b"more")

    [result] = seal([path], grow, frames=frames)  # type: ignore[arg-type]
    assert result.last.changed


@pytest.mark.parametrize("left", [0, 5, CHUNK, CHUNK + 5])
def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path, left: int) -> None:
    data = os.urandom(6 * CHUNK)
    path = file_of(tmp_path, data)
    shelf = Shelf()

    def shrink(name: str, blob: memoryview) -> None:
        shelf(name, blob)
        os.truncate(path, left)

    [result] = seal([path], shrink, jobs=1)  # type: ignore[arg-type]
    assert result.last.changed
    assert content(result, shelf) == data[: max(left, CHUNK)]
    assert sum(result.sizes) == result.last.size == max(left, CHUNK)


# A file of which the system gives fewer bytes than it says there are, although nothing has changed, as on a network; or
# of which it cannot read the rest, as on a disk with bad sectors.
SHORT = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
static ssize_t cut(const char *name, int fd, void *p, size_t n, off64_t at) {
    off64_t end = atoll(getenv("SHORT_AT"));
    ssize_t (*real)(int, void *, size_t, off64_t) = dlsym(RTLD_NEXT, name);
    if (at >= end && getenv("BAD_SECTORS")) { errno = EIO; return -1; }
    return at >= end ? 0 : real(fd, p, at + (off64_t)n > end ? (size_t)(end - at) : n, at);
}
ssize_t pread(int fd, void *p, size_t n, off_t at) { return cut("pread", fd, p, n, at); }
ssize_t pread64(int fd, void *p, size_t n, off64_t at) { return cut("pread64", fd, p, n, at); }
ssize_t read(int fd, void *p, size_t n) {
    ssize_t (*real)(int, void *, size_t) = dlsym(RTLD_NEXT, "read");
    struct stat facts;
    if (!getenv("BAD_SECTORS") || fstat(fd, &facts) || facts.st_size != 6000000) return real(fd, p, n);
    return cut("pread", fd, p, n, lseek(fd, 0, SEEK_CUR)) < 0 ? -1 : real(fd, p, n);
}
"""
READ_SHORT = """
import sys
from pogfast._engine import Sealer
table = b"".join((n * 0x9E3779B97F4A7C15 % 2**64).to_bytes(8, "little") for n in range(256))
content = (65536, 262144, table) if sys.argv[3] == "content" else None
blobs = {}
sealer = Sealer(bytes(range(32)), False, [sys.argv[1].encode()], [lambda name, blob: blobs.update({name: len(blob)})],
                chunk_size=int(sys.argv[2]), level=3, jobs=1, frames=sys.argv[3] != "stream", content=content)
*_, last = sealer.run()
print(last.changed, last.size, last.error)
"""


def preloaded(shim: Path) -> str:
    """Behind what is preloaded already, as a sanitizer is, which must come first."""
    return " ".join(filter(None, [os.environ.get("LD_PRELOAD"), str(shim)]))


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if sys.platform != "linux":
        pytest.skip("the shim is for Linux")
    folder = tmp_path_factory.mktemp("short")
    (folder / "short.c").write_text(SHORT)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", folder / "short.so", folder / "short.c", "-ldl"], check=True)
    return folder / "short.so"


@pytest.mark.parametrize("cuts", ["fixed", "alone", "content"])
@pytest.mark.parametrize("random", [True, False])
def test_a_file_that_is_shorter_than_it_says_is_marked(tmp_path: Path, short: Path, random: bool, cuts: str) -> None:
    """By the short read itself: size, times and inode stay what they were."""
    data = os.urandom(6_000_000) if random else text(6_000_000)
    file_of(tmp_path, data)
    chunk = {"fixed": 3_000_000, "alone": 8_000_000, "content": 1_000_000}[cuts]
    for end in (5_000_000, 5_111_808, 3_000_000):
        environment = {**os.environ, "LD_PRELOAD": preloaded(short), "SHORT_AT": str(end)}
        command = [sys.executable, "-c", READ_SHORT, tmp_path / "file", str(chunk), cuts]
        told = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split()
        assert told == ["True", str(end), "0"], end


@pytest.mark.parametrize("cuts", ["fixed", "alone", "content", "stream"])
@pytest.mark.parametrize("random", [True, False])
def test_a_file_that_cannot_be_read_to_its_end_is_an_error(
    tmp_path: Path, short: Path, random: bool, cuts: str
) -> None:
    file_of(tmp_path, os.urandom(6_000_000) if random else text(6_000_000))
    chunk = {"fixed": 3_000_000, "alone": 8_000_000, "content": 1_000_000, "stream": 1_000_000}[cuts]
    for end in (0, 5_111_808):
        environment = {**os.environ, "LD_PRELOAD": preloaded(short), "SHORT_AT": str(end), "BAD_SECTORS": "1"}
        command = [sys.executable, "-c", READ_SHORT, tmp_path / "file", str(chunk), cuts]
        told = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split()
        assert told[2] == str(errno.EIO), (end, told)


def test_holes_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as out:
        out.truncate(100 * CHUNK + 7)
        out.seek(50 * CHUNK + 1000)
        out.write(b"data")
    shelf = Shelf()
    sealer = Sealer(SECRET, False, [os.fsencode(path)], [shelf], chunk_size=CHUNK, level=3, jobs=2, frames=True)
    news = list(sealer.run())
    names = [name for told in news for name in told.names]
    assert news[-1].sparse
    assert news[-1].size == 100 * CHUNK + 7
    assert len(names) == 101
    assert len(set(names)) == len(shelf.blobs) == 3, "zeros, zeros with data in them, and the last few zeros"
    assert sealer.progress().bytes_read <= 600_000
    result = Result(names)
    assert content(result, shelf) == path.read_bytes()


def test_terabytes_of_nothing_take_no_time(tmp_path: Path) -> None:
    path = tmp_path / "huge"
    with path.open("wb") as out:
        out.truncate(4 * 10**12)
    [result] = seal([os.fsencode(path)], shelf := Shelf(), chunk_size=50_000_000)
    assert len(result.names) == 80_000
    assert set(result.names) == shelf.blobs.keys()
    assert result.last.size == 4 * 10**12


def test_what_has_no_size_is_read_to_its_end(tmp_path: Path) -> None:
    """/proc says that its files are empty."""
    path = Path("/proc/self/status")
    if not path.exists():
        pytest.skip("there is no /proc")
    shelf = Shelf()
    [result] = seal([os.fsencode(path)], shelf)
    assert content(result, shelf).startswith(b"Name:")


def test_links_are_followed_only_where_asked(tmp_path: Path) -> None:
    file_of(tmp_path, b"secret", "target")
    (tmp_path / "link").symlink_to("target")
    link = os.fsencode(tmp_path / "link")
    [followed] = seal([link], Shelf())
    [refused] = seal([link], Shelf(), follow=False)
    assert (followed.last.error, len(followed.names)) == (0, 1)
    assert refused.last.error
    assert not refused.names


@pytest.mark.parametrize("readers", [1, 2, 3])
def test_fewer_readers_than_workers(tmp_path: Path, readers: int) -> None:
    data = [os.urandom(3 * CHUNK + number) for number in range(5)]
    shelf = Shelf()
    paths = [file_of(tmp_path, piece, str(number)) for number, piece in enumerate(data)]
    assert [content(result, shelf) for result in seal(paths, shelf, jobs=3, readers=readers)] == data


def test_never_more_chunks_in_flight_than_slabs(tmp_path: Path) -> None:
    lock = threading.Lock()
    held: list[int] = []
    most = 0

    def slow(name: str, blob: memoryview) -> None:
        nonlocal most
        with lock:
            held.append(1)
            most = max(most, len(held))
        time.sleep(0.01)
        with lock:
            held.pop()

    paths = [file_of(tmp_path, os.urandom(4 * CHUNK), str(number)) for number in range(3)]
    seal(paths, slow, jobs=4, slabs=2)  # type: ignore[arg-type]
    assert most == 2


def test_counters_add_up(tmp_path: Path) -> None:
    paths = [file_of(tmp_path, os.urandom(2 * CHUNK), "a"), file_of(tmp_path, b"small", "b")]
    shelf = Shelf()
    sealer = Sealer(SECRET, False, paths, [shelf], chunk_size=CHUNK, level=3, jobs=2, frames=True)
    list(sealer.run())
    told = sealer.progress()
    assert told.bytes_read == 2 * CHUNK + 5
    assert told.blobs_new == 3 == shelf.puts
    assert told.bytes_stored == sum(map(len, shelf.blobs.values()))
    assert told.blobs_known == 0


def test_a_failing_sink_never_passes_for_done(tmp_path: Path) -> None:
    def full(name: str, blob: memoryview) -> None:
        raise OSError(28, "No space left on device")

    for size in (5, 2 * CHUNK):
        for _ in range(50):
            with pytest.raises(OSError, match="space"):
                seal([file_of(tmp_path, os.urandom(size))], full)  # type: ignore[arg-type]

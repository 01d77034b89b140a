"""Large blobs that are written while they are made: the same blobs everywhere, and nothing left of what was dropped."""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit import oracle
from pogfast._engine import BlobDirectory, Sealer, read_chunk, seal_blob, use_nameless_files

SECRET = bytes(range(32))
KEY = oracle.OracleKey(SECRET)
STEP = 1 << 20  # write/writer.pxi
HANDED = 8 << 20  # write/writer.pxi: blobs of at most so many bytes are finished by the writer
PAGE = 4096
CHUNK = 3 * STEP


@pytest.fixture(params=["nameless", "named", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """Both kinds of unfinished files, and a file system in memory, which has no page cache to go around."""
    if request.param != "memory":
        use_nameless_files(request.param == "nameless")
        yield tmp_path
        use_nameless_files(True)
        return
    if not os.path.isdir("/dev/shm"):
        pytest.skip("no file system in memory here")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        yield Path(directory)


@contextlib.contextmanager
def shelves(*places: Path) -> Iterator[list[BlobDirectory]]:
    descriptors = []
    for directory in places:
        directory.mkdir(exist_ok=True)
        descriptors.append(os.open(directory, os.O_RDONLY))
    yield [
        BlobDirectory(descriptor, True, path=str(place)) for descriptor, place in zip(descriptors, places, strict=True)
    ]
    for descriptor in descriptors:
        os.close(descriptor)


def seal(source: list[Path], sinks: list[object], *, frames: bool, chunk_size: int = CHUNK) -> list[list[str]]:
    paths = [os.fsencode(path) for path in source]
    sealer = Sealer(SECRET, False, paths, sinks, chunk_size=chunk_size, level=1, jobs=2, frames=frames)
    names: list[list[str]] = [[] for _ in source]
    with contextlib.closing(sealer.run()) as run:
        for news in run:
            names[news.file] += news.names
    return names


def files_in(store: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in store.rglob("*") if path.is_file()}


@pytest.mark.parametrize("frames", [True, False], ids=["frames", "stream"])
@pytest.mark.parametrize("random", [1.0, 0.3])
@pytest.mark.parametrize("chunk_size", [CHUNK, HANDED + STEP], ids=["handed on", "large"])
def test_every_sink_has_the_same_blobs(place: Path, chunk_size: int, random: float, frames: bool) -> None:
    size = 2 * chunk_size + 12345
    data = os.urandom(int(random * size)).rjust(size, b".")
    source = place / "source"
    source.write_bytes(data)
    kept: dict[str, bytes] = {}
    descriptors = len(os.listdir("/proc/self/fd"))
    with shelves(place / "one", place / "two") as (one, two):
        function = lambda name, view: kept.update({name: bytes(view)})  # noqa: E731
        [names] = seal([source], [one, function, two], frames=frames, chunk_size=chunk_size)
        assert seal([source], [one], frames=frames, chunk_size=chunk_size) == [names]
    with shelves(place / "three") as sinks:
        assert seal([source], sinks, frames=frames, chunk_size=chunk_size) == [names]
    assert files_in(place / "one") == files_in(place / "two") == kept
    assert files_in(place / "three").keys() == kept.keys() == set(names)
    assert oracle.open_file(KEY, [files_in(place / "three")[name] for name in names]) == data
    assert oracle.open_file(KEY, [kept[name] for name in names]) == data
    assert len(os.listdir("/proc/self/fd")) <= descriptors  # other tests may have left some to the collector


@pytest.mark.parametrize("frames", [True, False], ids=["frames", "stream"])
def test_memory_is_given_back_only_when_no_sink_needs_it(place: Path, frames: bool) -> None:
    """Of a blob beyond 16 MiB, once it is in its drafts: a function is handed all of it."""
    data = os.urandom(24 << 20)
    (place / "source").write_bytes(data)
    kept: dict[str, bytes] = {}
    function = lambda name, view: kept.update({name: bytes(view)})  # noqa: E731
    with shelves(place / "store") as (directory,):
        [names] = seal([place / "source"], [directory, function], frames=frames, chunk_size=32 << 20)
    assert files_in(place / "store") == kept
    assert oracle.open_file(KEY, [kept[name] for name in names]) == data


MB = 1 << 20


@pytest.mark.parametrize("level", [3, 1])
@pytest.mark.parametrize("kind", ["random", "text", "far", "mixed", "mixed, otherwise"])
def test_memory_that_is_used_again_within_a_chunk(tmp_path: Path, kind: str, level: int) -> None:
    """Chunks larger than what is kept of them. To a directory their memory is moved on as they are made, to a function
    it is not. The frames are the same, and what is in them comes back."""
    random, block = os.urandom(7 * MB + 4321), b"".join(b"%015d\n" % number for number in range(MB))
    parts = {
        "random": [os.urandom(90 * MB + 77)],
        "text": [block] * 6,
        "far": [random[:MB], *[random] * 12],  # matches that are nearly as far as zstd looks
        "mixed": [os.urandom(20 * MB), block, random, block[: 9 * MB], os.urandom(11 * MB), block * 2],
        "mixed, otherwise": [block, os.urandom(30 * MB), block[:MB], random, block, os.urandom(9 * MB)],
    }
    data = b"".join(parts[kind])
    source = tmp_path / "source"
    source.write_bytes(data)
    kept: dict[str, bytes] = {}
    with shelves(tmp_path / "store") as sinks:
        moved, plain = (
            [
                name
                for news in Sealer(
                    SECRET, False, [os.fsencode(source)], to, chunk_size=40 * MB, level=level, jobs=2, frames=True
                ).run()
                for name in news.names
            ]
            for to in (sinks, [lambda name, view: kept.update({name: b""})])
        )
    assert moved == plain
    stored = files_in(tmp_path / "store")
    restored = b"".join(read_chunk(SECRET, None, stored[name], name, -1) for name in moved)
    assert restored == data


def half(size: int) -> bytes:
    """Bytes that compress to about half."""
    return os.urandom(size // 2 + 1).hex().encode()[:size]


def restored_from(sources: list[bytes | int], store: Path, chunk_size: int, **more: Any) -> list[bytes]:
    """What comes back of files that one worker has sealed."""
    names: list[list[str]] = [[] for _ in sources]
    with shelves(store) as sinks:
        sealer = Sealer(SECRET, False, sources, sinks, chunk_size=chunk_size, level=3, jobs=1, frames=True, **more)
        for news in sealer.run():
            assert not news.error
            names[news.file] += news.names
    stored = files_in(store)
    return [b"".join(read_chunk(SECRET, None, stored[name], name, -1) for name in some) for some in names]


def test_no_memory_is_moved_of_a_chunk_that_is_kept_whole(tmp_path: Path) -> None:
    """What is read in order, here from a pipe, lies whole in memory that chunks of another file have let go of. Which
    pages these are depends on the size, and on where the memory lies."""
    for chunk_size in range(38 * MB, 42 * MB, 350_000):
        contents = [half(2 * chunk_size), half(chunk_size - 7)]
        (tmp_path / "file").write_bytes(contents[0])
        out, into = os.pipe()
        with open(into, "wb") as feed, open(out, "rb"):
            thread = threading.Thread(target=lambda: (feed.write(contents[1]), feed.close()))  # noqa: B023
            thread.start()
            sources: list[bytes | int] = [os.fsencode(tmp_path / "file"), out]
            assert restored_from(sources, tmp_path / f"store{chunk_size}", chunk_size) == contents
            thread.join()
        shutil.rmtree(tmp_path / f"store{chunk_size}")


# A system that cannot move memory, and has taken away what lay at its target before it says so.
CANNOT_MOVE = """
#define _GNU_SOURCE
#include <errno.h>
#include <stdarg.h>
#include <sys/mman.h>
void *mremap(void *from, size_t old, size_t n, int flags, ...) {
    va_list more;
    va_start(more, flags);
    munmap(va_arg(more, void *), n);
    va_end(more);
    errno = ENOMEM;
    return MAP_FAILED;
}
"""
SEAL = """
import os, sys
from pogfast._engine import BlobDirectory, Sealer
os.mkdir("store")
sink = BlobDirectory(os.open("store", os.O_RDONLY), True)
sealer = Sealer(bytes(range(32)), False, [b"source"], [sink], chunk_size=40 << 20, level=3, jobs=2, frames=True)
for news in sealer.run():
    print(*news.names)
"""


def test_a_system_that_cannot_move_memory(tmp_path: Path) -> None:
    (tmp_path / "shim.c").write_text(CANNOT_MOVE)
    made = subprocess.run(["cc", "-shared", "-fPIC", "-o", "shim.so", "shim.c"], cwd=tmp_path, check=False)
    if made.returncode or sys.platform != "linux":
        pytest.skip("no C compiler for a shim")
    data = os.urandom(45 * MB) + b"".join(b"%015d\n" % number for number in range(3 * MB))
    (tmp_path / "source").write_bytes(data)
    environment = {**os.environ, "LD_PRELOAD": str(tmp_path / "shim.so")}
    ran = subprocess.run([sys.executable, "-c", SEAL], cwd=tmp_path, env=environment, check=True, capture_output=True)
    stored = files_in(tmp_path / "store")
    assert b"".join(read_chunk(SECRET, None, stored[n], n, -1) for n in ran.stdout.decode().split()) == data


def test_a_blob_is_written_while_it_is_made(place: Path) -> None:
    """Its first part lies in a draft while the rest has not been read yet."""
    reader, writer = os.pipe()
    data = os.urandom(12 << 20)

    def drafts() -> int:
        """The bytes of the largest file in the store that is open, or was unlinked."""
        found = 0
        for descriptor in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                facts = os.stat(f"/proc/self/fd/{descriptor}")
                if stat.S_ISREG(facts.st_mode) and facts.st_dev == os.stat(place).st_dev:
                    found = max(found, facts.st_size)
        return found

    def feed() -> None:
        with open(writer, "wb") as out:
            out.write(data[: 8 << 20])
            out.flush()
            ends = time.monotonic() + 60
            while drafts() < 5 << 20 and time.monotonic() < ends:
                time.sleep(0.005)
            seen.append(drafts())
            out.write(data[8 << 20 :])

    seen: list[int] = []
    before = drafts()
    assert before < 5 << 20
    feeder = threading.Thread(target=feed)
    feeder.start()
    with shelves(place / "store") as sinks:
        sealer = Sealer(SECRET, False, [reader], sinks, chunk_size=16 << 20, level=1, jobs=1, frames=False)
        names = [name for news in sealer.run() for name in news.names]
    feeder.join()
    assert seen[0] >= 5 << 20
    assert oracle.open_file(KEY, [files_in(place / "store")[name] for name in names]) == data


@settings(max_examples=20)
@given(
    sizes=st.lists(
        st.builds(
            lambda steps, more: max(0, steps * STEP + more),
            st.integers(0, 4),
            st.sampled_from([-PAGE - 113, -PAGE - 112, -113, -112, -1, 0, 1, PAGE - 112, 2 * PAGE, 300_000]),
        ),
        max_size=3,
    ),
    frames=st.booleans(),
)
def test_lengths_around_every_write(tmp_path_factory: pytest.TempPathFactory, sizes: list[int], frames: bool) -> None:
    place = tmp_path_factory.mktemp("lengths")
    contents = [os.urandom(size) for size in sizes]
    source = [place / str(number) for number in range(len(sizes))]
    for path, data in zip(source, contents, strict=True):
        path.write_bytes(data)
    with shelves(place / "store") as sinks:
        sealed = seal(source, sinks, frames=frames, chunk_size=3 * STEP)
    blobs = files_in(place / "store")
    assert blobs.keys() == {name for names in sealed for name in names}
    for data, names in zip(contents, sealed, strict=True):
        assert oracle.open_file(KEY, [blobs[name] for name in names]) == data


@pytest.mark.parametrize("sizes", [(2, 16), (9, 9), (16, 2)], ids=lambda sizes: "{} MB of {} and text".format(*sizes))
@pytest.mark.parametrize("made", ["random", "text"])
def test_a_chunk_that_is_begun_again_has_drafts_of_its_own(place: Path, sizes: tuple[int, int], made: str) -> None:
    """Random bytes are taken as they are, and text further on makes the engine begin the chunk anew when some
    megabytes of it are in a draft; what was written of it must not be left in the blob."""
    random, text = (
        os.urandom(sizes[0] << 20),
        b"".join(b"%d a line\n" % n for n in range(sizes[1] << 17))[: sizes[1] << 20],
    )
    data = random + text if made == "random" else text + random
    (place / "source").write_bytes(data)
    with shelves(place / "store") as sinks:
        [names] = seal([place / "source"], sinks, frames=True, chunk_size=len(data) // 2 * 2 - 4096)
    stored = files_in(place / "store")
    assert stored.keys() == set(names)
    assert oracle.open_file(KEY, [stored[name] for name in names]) == data


def test_what_is_stored_already_is_written_once(place: Path) -> None:
    """Three equal files, side by side: their drafts are begun before anyone knows."""
    data = os.urandom(3 * CHUNK)
    source = [place / str(number) for number in range(3)]
    for path in source:
        path.write_bytes(data)
    with shelves(place / "store") as sinks:
        first, *others = seal(source, sinks, frames=True)
        before = {path: path.stat().st_ino for path in (place / "store").rglob("*")}
        assert seal(source[:1], sinks, frames=True) == [first]
    assert others == [first, first]
    assert files_in(place / "store").keys() == set(first)
    assert {path: path.stat().st_ino for path in (place / "store").rglob("*")} == before


@pytest.mark.parametrize("seen", range(5))
def test_a_run_that_is_left_leaves_nothing_unfinished(place: Path, seen: int) -> None:
    source = [place / str(number) for number in range(3)]
    for path in source:
        path.write_bytes(os.urandom(4 * CHUNK))
    paths = [os.fsencode(path) for path in source]
    descriptors = len(os.listdir("/proc/self/fd"))
    with shelves(place / "store") as sinks:
        sealer = Sealer(SECRET, False, paths, sinks, chunk_size=CHUNK, level=1, jobs=2, frames=True)
        with contextlib.closing(sealer.run()) as run:
            while sealer.progress().blobs_new < seen:
                next(run)
        del sealer, run
        for name, blob in files_in(place / "store").items():
            assert name == KEY.name(oracle.chunk_of(KEY, KEY.open(blob), name))
    assert len(os.listdir("/proc/self/fd")) <= descriptors  # other tests may have left some to the collector


def test_many_files_of_one_blob_each(place: Path) -> None:
    """More than there are workers wait for the disk: others begin meanwhile."""
    contents = [os.urandom(STEP + number * 100_000) for number in range(20)]
    source = [place / str(number) for number in range(20)]
    for path, data in zip(source, contents, strict=True):
        path.write_bytes(data)
    with shelves(place / "store") as sinks:
        sealed = seal(source, sinks, frames=True)
    blobs = files_in(place / "store")
    assert [oracle.open_file(KEY, [blobs[name] for name in names]) for names in sealed] == contents


def test_a_store_that_fails_when_a_blob_gets_its_name(place: Path) -> None:
    """The writer finds out, and goes on with the others."""
    source = place / "source"
    source.write_bytes(os.urandom(4 * CHUNK))
    (place / "bad").mkdir()
    (place / "bad" / "data").write_text("in the way")
    with shelves(place / "bad", place / "good") as (bad, good):
        sealer = Sealer(
            SECRET, False, [os.fsencode(source)], [bad, good], chunk_size=CHUNK, level=1, jobs=2, frames=True
        )
        names = [name for news in sealer.run() for name in news.names]
        assert isinstance(sealer.lost[0], OSError)
        assert sealer.lost.keys() == {0}
        with pytest.raises(OSError, match="Not a directory"):
            seal([source], [bad], frames=True)
    assert files_in(place / "bad") == {"data": b"in the way"}
    assert files_in(place / "good").keys() == set(names)


@pytest.mark.parametrize("frames", [True, False], ids=["frames", "stream"])
def test_a_store_in_which_no_file_can_be_begun_says_why(place: Path, frames: bool) -> None:
    source = place / "source"
    source.write_bytes(os.urandom(4 * CHUNK))
    descriptors = len(os.listdir("/proc/self/fd"))
    with shelves(place / "bad") as sinks:
        (place / "bad").rmdir()
        with pytest.raises(FileNotFoundError):
            seal([source], sinks, frames=frames)
    gc.collect()  # what was raised knows the frames that it came through
    assert len(os.listdir("/proc/self/fd")) <= descriptors


@pytest.mark.parametrize("frames", [True, False], ids=["frames", "stream"])
def test_the_drafts_of_failed_runs_are_closed(place: Path, frames: bool) -> None:
    """What a run raised refers to its Sealer, so the collector frees both, in an order of its own."""
    source = place / "source"
    source.write_bytes(os.urandom(4 * CHUNK))
    (place / "bad").mkdir()
    (place / "bad" / "data").write_text("in the way")
    gc.collect()
    descriptors = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        with shelves(place / "bad") as sinks, pytest.raises(OSError, match="Not a directory"):
            seal([source], sinks, frames=frames)
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= descriptors


def test_memory_that_the_disk_cannot_take_from(tmp_path: Path) -> None:
    """A write around the page cache is refused where the memory is not aligned, and goes through the cache then."""
    name, blob = seal_blob(SECRET, False, os.urandom(3_000_000), CHUNK)
    with shelves(tmp_path) as (shelf,):
        for shift in (0, 1, 511, 512):
            (tmp_path / "data" / name[:2] / name).unlink(missing_ok=True)
            shelf.put(name, memoryview(bytes(shift) + blob)[shift:])
            assert files_in(tmp_path) == {name: blob}


@pytest.mark.parametrize("layout", ["frames", "stream"])
@pytest.mark.parametrize(("full", "chunk"), [("no room", "50MB"), ("no room", "4MB"), ("too large", "50MB")])
def test_a_disk_that_is_full_in_the_middle_of_a_blob(tmp_path: Path, full: str, chunk: str, layout: str) -> None:
    (tmp_path / "source").write_bytes(os.urandom(40_000_000))
    (tmp_path / "key").write_bytes(SECRET)
    store = tmp_path / "store"
    store.mkdir()
    limit: list[str] = []
    most = resource.RLIM_INFINITY
    if full == "no room":
        limit = [
            "unshare",
            "-rm",
            "sh",
            "-c",
            f'mount -t tmpfs -o size=14m none {store} && "$@"; c=$?; find {store} -type f; exit $c',
        ]
        if subprocess.run([*limit, "sh", "true"], capture_output=True, check=False).returncode:
            pytest.skip("no file system can be mounted here")
        limit.append("sh")
    else:  # not by a shell: TSan's library, preloaded, makes each of them crash
        most = 14000 * 512
    words = ["create", "source", "--to", str(store), "--keyfile", "key", "--no-cache", "-q", f"--layout={layout}"]
    words.append(f"--chunk-size={chunk}")
    command = [sys.executable, "-m", "pogfast", *words]
    ended = subprocess.run(
        [*limit, *command],
        cwd=tmp_path,
        capture_output=True,
        check=False,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most)),
    )
    assert ended.returncode == 1
    said = "No space left on device" if full == "no room" else "File too large"
    assert ended.stderr.splitlines()[0] == f"pogfast: error: cannot write to {store}: {said}"
    stored = [os.path.basename(path) for path in [*ended.stdout.splitlines(), *files_in(store)]]
    assert len(stored) <= (3 if chunk == "4MB" else 0)
    assert all(len(name) == 44 for name in stored), "only whole blobs, which the next run need not make"

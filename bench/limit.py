"""Measures the machine's limit, step by step, and how close `pogfast` comes to it on one core and on all.

    python bench/limit.py [--write] [--only random,tar] [--runs 5] [--scale 1] [--dir DIR]

Each step is measured alone, with the same libraries and in pieces that stay in a core's cache: reading from memory and
from the disk, zstd (with pogfast's settings, on the data itself; nothing if the data do not compress), sha256, the box
by the fastest kernels that are loaded (kernels.py), writing. The limit of a workload is the CPU time of its steps,
shared by the cores, or the time that the disk takes to write, whichever is longer. In this limit nothing waits, no page
is touched for the first time, and no interpreter starts. The time to start is measured separately, with an archive of
one empty file.

Each small file has a blob of its own. floor.c, a C program that runs in alternation with pogfast, reads each file
and writes as many bytes as its blob has to a new file. The limit is the CPU time of that, plus the time for frames,
names and boxes.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import kernels
import zstandard
from data import files_below, make_data, title
from level import CHUNK, OURS, PIECE, POG, Compressor
from machine import cores, make_tables
from runs import Bench, Figures, Row
from sides import Pogfast, Side, our
from tables import spread

LARGE = ("random", "tar")
WORKLOADS = (*LARGE, "small")
SAMPLE = 20  # maximum number of chunks of a workload that zstd is measured on, spread over the data
WRITTEN = 1 << 29  # bytes written to measure the disk
DIRECT = 4 << 20  # bytes of one write around the page cache
RUNS = 5
BLOB = 72 + 40 + 8  # bytes of a blob in addition to the chunk and its random padding
FLOOR = 1.03  # minimum compression ratio: below it the engine stores data uncompressed


@dataclass
class Steps:
    """Bytes per second of each step on one core: per wall second for the disk, per CPU second for all others."""

    read: float
    copy: float
    sha256: float
    box: float
    open_box: float
    write: float
    disk_read: float
    disk_write: float


@dataclass
class Content:
    """Sizes of a workload, and plain bytes per second of zstd on one core; infinite if zstd is not used."""

    size: int
    stored: int
    compress: float
    decompress: float


def fastest(act: Callable[[], object], size: int, clock: Callable[[], float] = time.process_time) -> float:
    """Returns bytes per second, the best of RUNS."""
    best = 0.0
    for _ in range(RUNS):
        started = clock()
        act()
        best = max(best, size / max(clock() - started, 1e-9))
    return best


def measure_steps(place: Path) -> Steps:
    rounds = 400
    source = os.urandom(PIECE)

    def sha256() -> None:
        digest = hashlib.sha256()
        for _ in range(rounds):
            digest.update(source)

    far, near = bytearray(os.urandom(WRITTEN)), bytearray(PIECE)

    def copy() -> None:
        view = memoryview(far)
        for at in range(0, len(far), PIECE):
            near[:] = view[at : at + PIECE]

    size = rounds * PIECE
    file = place / "limit"
    disk_write, write = measure_writing(file)
    disk_read = fastest(lambda: read_cold(file), WRITTEN, time.perf_counter)
    read = fastest(lambda: read_all(file), WRITTEN)
    file.unlink()
    # A box is XSalsa20 and Poly1305, each from the library in which it is faster; opening one is the same.
    box = PIECE / sum(min(kernels.fastest(kernel).values()) for kernel in ("xsalsa20", "poly1305"))
    return Steps(
        read,
        fastest(copy, len(far)),
        fastest(sha256, size),
        box,
        box,
        write,
        disk_read,
        disk_write,
    )


def read_all(file: Path) -> None:
    buffer = bytearray(PIECE)
    with file.open("rb", buffering=0) as source:
        while source.readinto(buffer):
            pass


def read_cold(file: Path) -> None:
    """Reads from the disk: drops the file from the page cache first."""
    with file.open("rb") as source:
        os.fsync(source.fileno())
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(source.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    read_all(file)


def measure_writing(file: Path) -> tuple[float, float]:
    """Returns bytes per (wall second, CPU second) of writing to the disk, around the page cache if possible."""
    buffer = mmap.mmap(-1, DIRECT)
    buffer.write(os.urandom(DIRECT))
    direct = getattr(os, "O_DIRECT", 0)

    def write() -> None:
        try:
            target = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | direct)
        except OSError:
            target = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for _ in range(WRITTEN // DIRECT):
            os.write(target, buffer)
        os.fsync(target)
        os.close(target)

    return fastest(write, WRITTEN, time.perf_counter), fastest(write, WRITTEN)


def measure_content(source: Path) -> Content:
    """Measures a workload of one large file."""
    [file] = files_below(source)
    size = file.stat().st_size
    with file.open("rb") as opened:
        places = range(0, size, max(CHUNK, size // SAMPLE))
        chunks = [huge(os.pread(opened.fileno(), CHUNK, at)) for at in places]
    compressor = Compressor(OURS)
    pairs = [(chunk, bytes(compressor.compress(chunk))) for chunk in chunks]
    read, stored = sum(map(len, chunks)), sum(len(frame) for _, frame in pairs)
    # The engine does not use zstd for the others.
    pairs = [(chunk, frame) for chunk, frame in pairs if len(chunk) >= len(frame) * FLOOR]
    if not pairs:
        return Content(size, size, float("inf"), float("inf"))
    compress = fastest(lambda: [compressor.compress(chunk) for chunk, _ in pairs], read)
    decompress = fastest(lambda: [decompress_all(frame) for _, frame in pairs], read)
    return Content(size, size * stored // read, compress, decompress)


def huge(data: bytes) -> mmap.mmap:
    """Returns a copy in memory like the engine's: in huge pages, if available."""
    memory = mmap.mmap(-1, len(data))
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    memory.write(data)
    return memory


def decompress_all(frame: bytes) -> None:
    """Decompresses into a small buffer that is reused."""
    piece = bytearray(PIECE)
    with zstandard.ZstdDecompressor().stream_reader(frame) as reader:
        while reader.readinto(piece):
            pass


def measure_small(source: Path) -> Content:
    """Measures a workload of small files, each a frame as pog makes it, stored in a blob."""
    data = [file.read_bytes() for file in files_below(source)]
    size, compressor = sum(map(len, data)), Compressor(POG)
    frames = [len(compressor.compress(content, known=False)) for content in data]
    compress = fastest(lambda: [compressor.compress(content, known=False) for content in data], size)
    return Content(size, sum(frame + BLOB + frame % 256 for frame in frames), compress, float("inf"))


def limit_of_small(steps: Steps, content: Content, floor: Figures, cores: int) -> float:
    """Returns the minimum seconds to write small files. They are few bytes, so the disk's speed does not count."""
    sealing = content.size / content.compress + content.stored * (1 / steps.sha256 + 1 / steps.box)
    return (min(floor.cpu) + sealing) / cores


def limit_of_writing(steps: Steps, content: Content, cores: int) -> float:
    """Returns the minimum seconds to write a large file."""
    plain = 1 / steps.read + 1 / content.compress
    stored = 1 / steps.sha256 + 1 / steps.box + 1 / steps.write
    return max((content.size * plain + content.stored * stored) / cores, content.stored / steps.disk_write)


def limit_of_restoring(steps: Steps, content: Content, cores: int) -> float:
    """Returns the minimum seconds to restore a large file. Uncompressed data are copied once, or written from where
    they were decrypted."""
    stored = 1 / steps.read + 1 / steps.open_box + 1 / steps.sha256
    plain = 1 / content.decompress + 1 / steps.write
    return max((content.stored * stored + content.size * plain) / cores, content.size / steps.disk_write)


# ---- pogfast in comparison -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OnCores(Pogfast):
    """pogfast, restricted to some cores."""

    cores: int = 1

    def write(self, source: Path, store: Path) -> list[list[str]]:
        return [self.kept(command) for command in super().write(source, store)]

    def restore(self, store: Path, into: Path) -> list[list[str]]:
        return [self.kept(command) for command in super().restore(store, into)]

    def kept(self, command: list[str]) -> list[str]:
        return ["taskset", "-c", f"0-{self.cores - 1}", *command] if shutil.which("taskset") else command


@dataclass(frozen=True)
class Floor(Side):
    """floor.c, which only writes."""

    parts: int = 100  # percent of the bytes read that are written

    def write(self, source: Path, store: Path) -> list[list[str]]:
        words = [*self.command, str(cores()), str(store), str(self.parts)]
        return [["find", str(source), "-type", "f"], words]


def floor(home: Path, content: Content) -> Side:
    """Compiles floor.c, and returns it as a side."""
    program = home / "floor"
    subprocess.run(["cc", "-O2", "-pthread", "-o", program, Path(__file__).with_name("floor.c")], check=True)
    return Floor("floor.c", (str(program),), home, parts=min(100 * content.stored // max(content.size, 1), 100))


def measure_floor(home: Path, source: Path, content: Content, runs: int) -> Figures:
    """Measures floor.c alone."""
    return written_by((floor(home, content),), home, source, runs)["floor.c"]


def written_by(sides: tuple[Side, ...], home: Path, source: Path, runs: int) -> Row:
    """Measures writing, and deletes the outputs."""
    bench = Bench(home, sides, runs)
    try:
        return bench.write(source)[0]
    finally:
        shutil.rmtree(bench.outputs)


def measure(home: Path, workloads: list[str], runs: int, scale: float) -> str:
    sides = [OnCores(f"pogfast, cores: {n}", our("pogfast"), home, cores=n) for n in sorted({1, cores()})]
    bench = Bench(home, tuple(sides), runs)
    try:
        steps = measure_steps(bench.outputs)
        text = steps_table(steps) + FAR
        starts = {name: min(figures.wall) for name, figures in start_up(bench).items()}
        for workload in workloads:
            source = make_data(home, workload, scale)
            if workload == "small":
                text += small_rows(sides[-1], source, runs, steps, title(workload, scale), starts)
            else:
                text += large_rows(bench, sides, source, steps, title(workload, scale), starts)
    finally:
        shutil.rmtree(bench.outputs)
    return text


FAR = """
### How far from the limit

| | cores | limit s | pogfast s, min (median) | share of the limit | without starting |
|---|---|---|---|---|---|
"""


def large_rows(
    bench: Bench, sides: list[OnCores], source: Path, steps: Steps, name: str, starts: dict[str, float]
) -> str:
    content = measure_content(source)
    written, stores = bench.write(source)
    restored = bench.restore(source, stores)
    for store in stores.values():
        bench.clear(store)
    rows = ""
    for what, row, limit in (("writing", written, limit_of_writing), ("restoring", restored, limit_of_restoring)):
        for side in sides:
            best = limit(steps, content, side.cores)
            rows += far_row(f"{name}: {what}", side.cores, best, row[side.name], starts[side.name])
    zstd = "zstd is not asked" if content.compress == float("inf") else f"zstd {speed(content.compress)}"
    back = "" if content.compress == float("inf") else f", back {speed(content.decompress)}"
    return f"{rows}| {name}: {zstd}{back} | | | | | |\n"


def small_rows(side: OnCores, source: Path, runs: int, steps: Steps, name: str, starts: dict[str, float]) -> str:
    content = measure_small(source)
    written = written_by((floor(side.home, content), side), side.home, source, runs)
    plain, ours, start = written["floor.c"], written[side.name], starts[side.name]
    least = limit_of_small(steps, content, plain, side.cores)
    return (
        far_row(f"{name}: writing, beside floor.c", side.cores, min(plain.wall), ours, start)
        + far_row(f"{name}: writing", side.cores, least, ours, start)
        + f"| {name}: zstd {speed(content.compress)} | | | | | |\n"
    )


def far_row(what: str, number: int, best: float, figures: Figures, started: float) -> str:
    least = min(figures.wall)
    shares = f"{best / least:.2f} | {best / max(least - started, best / 10):.2f}"
    return f"| {what} | {number} | {best:.2f} | {spread(figures.wall)} | {shares} |\n"


def start_up(bench: Bench) -> dict[str, Figures]:
    """Measures an archive of one empty file."""
    source = bench.fresh()
    (source / "empty").touch()
    figures, _ = bench.write(source)
    return figures


def steps_table(steps: Steps) -> str:
    names = [
        "read from memory",
        "copy",
        "sha256",
        "box",
        "open a box",
        "write (CPU)",
        "read from the disk",
        "write to it",
    ]
    values = " | ".join(speed(value) for value in vars(steps).values())
    return f"### The steps alone, on one core\n\n| {' | '.join(names)} |\n{'|---' * len(names)}|\n| {values} |\n"


def speed(value: float) -> str:
    return f"{value / 1e9:.2f} GB/s"


if __name__ == "__main__":
    make_tables(__doc__, "limit", WORKLOADS, measure)

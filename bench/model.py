"""Predicts the bottleneck on larger machines and with more data, from measurements on this one.

    python bench/model.py [--write] [--runs 5] [--scale 1] [--dir DIR]

Measured here: the steps of limit.py, what a chunk of a large file costs the one Python thread that is notified of it (a
sparse file in many chunks: holes need no other work), what an unchanged small file costs it, and how fast one core
finds cuts by content. Computed: the cores' steps in parallel (they share nothing but a lock under which no work is
done), compared with that thread, a disk and a network of a given speed, and memory. So a figure for 64 cores is not a
measurement: it says what would be the bottleneck. Memory is assumed to have this machine's speed for every four cores.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data import FILES, make_data, title
from limit import CHUNK, LARGE, Content, Steps, limit_of_restoring, limit_of_writing, measure_content, measure_steps
from machine import make_tables
from runs import Bench
from sides import Pogfast, our

from pogfast._engine import cut

CORES = (2, 4, 8, 16, 32, 64)
TERABYTES = (1, 10, 100)
DISK = 7e9  # bytes per second: one PCIe 4 NVMe disk
NETWORKS = {"25 Gbit/s": 25e9 / 8, "10 Gbit/s": 10e9 / 8}
PASSES = 6  # maximum passes of a byte through memory: read, in and out of the compressor, hash, box, write
HOLES = 40_000  # chunks of a file that is one hole
HOLE = 1_000_000  # bytes of each
TINY = 1e-7  # seconds, the least that is believed
MANIFEST_ENTRY = 62  # bytes of a blob in a manifest's JSON: its name and its length


@dataclass
class Thread:
    """Seconds that the one Python thread of a run needs for each."""

    chunk: float
    known_file: float
    cut: float  # bytes per second of finding cuts by content, on one core


def measure_thread(bench: Bench, home: Path, scale: float) -> Thread:
    side = Pogfast("pogfast", our("pogfast"), home)
    place = bench.fresh()
    (place / "empty").touch()
    start = least(bench, side, side.write(place, bench.fresh() / "store"))
    sparse = bench.fresh()
    count = max(int(HOLES * scale), 100)
    with (sparse / "holes").open("wb") as file:
        file.truncate(count * HOLE)
    command = [*side.write(sparse, bench.fresh() / "store")[0], f"--chunk-size={HOLE}"]
    holes = least(bench, side, [command])
    small, store = make_data(home, "small", scale), bench.fresh() / "store"
    time.sleep(0.5)
    bench.run(side, side.write_on(small, store, 0), home)
    known = least(bench, side, side.write_on(small, store, 1))
    data = os.urandom(64 << 20)
    table = hashlib.shake_256(b"a table").digest(2048)
    started = time.process_time()
    cut(data, 16_000_000, (1_000_000, 4_000_000, table))
    speed = len(data) / (time.process_time() - started)
    files = max(int(FILES * scale), 10)
    # With tiny data the difference may vanish in the time to start.
    return Thread(max((holes - start) / count, TINY), max((known - start) / files, TINY), speed)


def least(bench: Bench, side: Pogfast, commands: list[list[str]]) -> float:
    return min(bench.run(side, commands, bench.home)[0] for _ in range(bench.runs))


def bounds(steps: Steps, content: Content, thread: Thread, cores: int, network: float) -> dict[str, float]:
    """Returns the plain bytes per second that each resource allows when a large file is written."""
    return {
        "cores": content.size / limit_of_writing(steps, content, 1) * cores,
        "memory": steps.copy * 2 * max(cores / 4, 1) / PASSES,
        "the disk read": DISK,
        "the network": network * content.size / content.stored,
        "the Python thread": CHUNK / thread.chunk,
    }


def rows(steps: Steps, contents: dict[str, Content], thread: Thread) -> Iterator[str]:
    for name, content in contents.items():
        for label, network in NETWORKS.items():
            cells = []
            for cores in CORES:
                found = bounds(steps, content, thread, cores, network)
                what = min(found, key=lambda each: found[each])
                cells.append(f"{found[what] / 1e9:.1f}, {what}")
            yield f"| {name}, {label} | {' | '.join(cells)} |"


def sizes(steps: Steps, content: Content, thread: Thread) -> Iterator[str]:
    """Yields a row for each size of an archive of large files, with default chunks, 16 cores and the faster network."""
    speed = min(bounds(steps, content, thread, 16, max(NETWORKS.values())).values())
    for terabytes in TERABYTES:
        blobs = terabytes * 1e12 / CHUNK
        hours = terabytes * 1e12 / speed / 3600
        files = terabytes * 1e12 / 1e6 * thread.known_file / 60
        yield (
            f"| {terabytes} TB | {blobs:,.0f} | {blobs * MANIFEST_ENTRY / 1e6:,.1f} MB | {blobs * thread.chunk:.1f} s "
            f"| {hours:.1f} h | {files:.1f} min |"
        )


def measure(home: Path, workloads: list[str], runs: int, scale: float) -> str:
    bench = Bench(home, (), runs)
    try:
        steps = measure_steps(bench.outputs)
        thread = measure_thread(bench, home, scale)
        contents = {title(each, scale): measure_content(make_data(home, each, scale)) for each in workloads}
    finally:
        shutil.rmtree(bench.outputs)
    return report(steps, thread, contents)


def report(steps: Steps, thread: Thread, contents: dict[str, Content]) -> str:
    back = [
        f"{name} at {content.size / limit_of_restoring(steps, content, 1) / 1e9:.2f} GB/s"
        for name, content in contents.items()
    ]
    said = (
        f"Measured here: {thread.chunk * 1e6:.1f} us of the Python thread a chunk, {thread.known_file * 1e6:.0f} us an "
        f"unchanged file; one core finds cuts by content at {thread.cut / 1e9:.1f} GB/s, and restores at best "
        f"{', '.join(back)}. Below: GB/s of plain data of one large file at best, and what binds, with a disk of "
        f"{DISK / 1e9:g} GB/s."
    )
    heads = ["of large files", "blobs of 50 MB", "their part of the manifest", "of the Python thread"]
    heads += ["written on 16 cores", "a second run, were they unchanged files of 1 MB"]
    lines = [
        "### What would bind on more cores (a model)",
        "",
        said,
        "",
        f"| | {' | '.join(f'{cores} cores' for cores in CORES)} |",
        "|---" * (len(CORES) + 1) + "|",
        *rows(steps, contents, thread),
        "",
        f"| {' | '.join(heads)} |",
        "|---" * len(heads) + "|",
        *sizes(steps, list(contents.values())[-1], thread),
        "",
        f"The Python thread binds first where files are small: {1 / thread.known_file:,.0f} unchanged files a second, "
        f"however many cores there are. One file that is cut by content is read by one core at a time, at "
        f"{thread.cut / 1e9:.1f} GB/s at most.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    make_tables(__doc__, "model", LARGE, measure)

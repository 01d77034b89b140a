"""Compares `create` and `restore` on one machine with those of `--executor`, and predicts what binds on more workers.

    python bench/cluster.py [--write] [--only random,tar,small,units] [--runs 5] [--scale 1] [--dir DIR]

A Dask scheduler and two workers of one thread run on this machine for all of it; beside them one process with two
threads (`--jobs 2`), with the same key pair, in alternation. The efficiency is the time of that process divided by the
time of the cluster. `random` is twice the usual file. `one empty file` is what it takes to start, and the efficiency
without starting counts what is beyond that. `units` archives a sparse file in many units with nearly no work: what is
left is what a unit costs the coordinator and the scheduler, by their CPU times. From these, and from what one thread
reads and writes here, the model computes what binds first; it is no measurement.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from data import make_data
from machine import make_tables
from runs import Bench, Figures
from sides import Pipeline, Pogfast, our
from tables import ratio, spread

from pogfast.cluster.sealing import MAX_PART_SIZE, part_size

WORKLOADS = {"random": "2 GB random", "tar": "1 GB tar of /usr", "small": "20,000 small files"}
CHUNK = 50_000_000
UNITS = 4096
WORKERS = (2, 8, 16, 32, 64)
THREADS = 8  # of each worker in the model
PETABYTE = 10**15
ENTRY = 62  # bytes of a blob in a manifest's JSON: its name and its length


@dataclass
class Cluster:
    """A scheduler and two workers of one thread; `file` says where it is."""

    file: Path
    processes: list[subprocess.Popen[bytes]]

    def scheduler_seconds(self) -> float:
        """Returns the CPU seconds of the scheduler so far."""
        words = Path(f"/proc/{self.processes[0].pid}/stat").read_text().rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def running(place: Path) -> Iterator[Cluster]:
    file = place / "scheduler.json"
    command = [sys.executable, "-m"]
    quiet = ["--dashboard-address", "127.0.0.1:0"]
    scheduler = ["distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(file)]
    worker = ["distributed.cli.dask_worker", "--scheduler-file", str(file), "--nthreads", "1", "--no-nanny"]
    with open(place / "cluster.log", "wb") as log:
        made = Cluster(file, [subprocess.Popen([*command, *scheduler, *quiet], stdout=log, stderr=log, cwd=place)])
        try:
            while not file.exists():
                time.sleep(0.1)
            for _ in range(2):
                words = [*command, *worker, *quiet]
                made.processes.append(subprocess.Popen(words, stdout=log, stderr=log, cwd=place))
            yield made
        finally:
            for process in reversed(made.processes):
                process.terminate()
                process.wait()


def compare(home: Path, workloads: list[str], runs: int, scale: float) -> str:
    bench = Bench(home, (), runs)
    try:
        with running(bench.fresh()) as cluster:
            jobs = ("--jobs", "2")
            one = Pogfast("one process", our("pogfast"), home, options=jobs, restoring=jobs, pair=True)
            executor = f"dask:scheduler-file={cluster.file}"
            crew = ("--executor", executor)
            two = Pogfast("two workers", our("pogfast"), home, options=crew, restoring=crew, pair=True)
            rows = [each for each in workloads if each != "units"]
            lines = list(_efficiency(bench, one, two, rows, scale)) if rows else []
            if "units" in workloads:
                lines += _units(bench, cluster, one, two, scale)
            return "\n".join(lines) + "\n"
    finally:
        shutil.rmtree(bench.outputs)


def _efficiency(bench: Bench, one: Pogfast, two: Pogfast, workloads: list[str], scale: float) -> Iterator[str]:
    empty = bench.fresh()
    (empty / "empty").touch()
    sources = {WORKLOADS[each]: _source(bench.home, each, scale) for each in workloads}
    for word, way in {"writing": _writing, "restoring": _restoring}.items():
        yield f"### Two workers beside one process of two threads ({word})\n"
        yield (
            "| | one process: wall s, min (median) | two workers | efficiency, minima (medians) | without starting "
            "| coordinator CPU s |"
        )
        yield "|---" * 6 + "|"
        starts = _alternated(bench, (one, two), way(bench, one, empty))
        for name, source in {"one empty file": empty, **sources}.items():
            sides = starts if source == empty else _alternated(bench, (one, two), way(bench, one, source))
            a, b = sides
            row = name + ("" if scale == 1 or source == empty else f", times {scale:g}")
            alone = "" if source == empty else ratio(_without(b, starts[1]), _without(a, starts[0]))
            walls = f"{spread(a.wall)} | {spread(b.wall)} | {ratio(b.wall, a.wall)}"
            yield f"| {row} | {walls} | {alone} | {spread(b.cpu)} |"
        yield ""


Way = Callable[[Pogfast, Path], Pipeline]  # what a side does with a new directory


def _writing(bench: Bench, one: Pogfast, source: Path) -> Way:
    return lambda side, place: side.write(source, place)


def _restoring(bench: Bench, one: Pogfast, source: Path) -> Way:
    store = bench.fresh()
    bench.run(one, one.write(source, store), bench.outputs)
    return lambda side, place: side.restore(store, place)


def _alternated(bench: Bench, sides: tuple[Pogfast, ...], way: Way) -> list[Figures]:
    figures = [Figures() for _ in sides]
    for number in range(bench.runs + 1):
        for side, its in zip(sides, figures, strict=True):
            place = bench.fresh()
            # In the first run the workers import what they need.
            bench.timed(side, way(side, place), bench.outputs, its if number else Figures())
            shutil.rmtree(place)
    return figures


def _without(its: Figures, start: Figures) -> list[float]:
    """Returns the wall seconds without what an archive of one empty file takes."""
    return [max(each - median(start.wall), 1e-9) for each in its.wall]


def _source(home: Path, workload: str, scale: float) -> Path:
    return make_data(home, workload, scale * (2 if workload == "random" else 1))


def _units(bench: Bench, cluster: Cluster, one: Pogfast, two: Pogfast, scale: float) -> Iterator[str]:
    place, size = bench.fresh(), max(int(UNITS * scale), 10) * MAX_PART_SIZE
    unit = part_size(size, CHUNK)
    count = size // unit
    (place / "empty").touch()
    start = _least(bench, two, place)
    source = bench.fresh()
    with open(source / "holes", "wb") as file:
        file.truncate(size)
    figures, scheduler = Figures(), []
    for _ in range(bench.runs):
        before = cluster.scheduler_seconds()
        bench.timed(two, two.write(source, bench.fresh()), bench.outputs, figures)
        scheduler.append((cluster.scheduler_seconds() - before) / count)
    coordinator = (min(figures.cpu) - start) / count
    reading = make_data(bench.home, "random", scale)
    single = Pogfast("one thread", our("pogfast"), bench.home, options=("--jobs", "1"), pair=True)
    alone = Figures()
    for _ in range(bench.runs):
        bench.timed(single, single.write(reading, bench.fresh()), bench.outputs, alone)
    speed = sum(path.stat().st_size for path in reading.iterdir()) / min(alone.wall)
    yield from _model(coordinator, min(scheduler), speed, max(figures.memory), count, unit)


def _least(bench: Bench, side: Pogfast, source: Path) -> float:
    return min(bench.run(side, side.write(source, bench.fresh()), bench.outputs)[1] for _ in range(bench.runs))


def _model(coordinator: float, scheduler: float, speed: float, memory: int, count: int, unit: int) -> Iterator[str]:
    yield "### What would bind with more workers (a model)\n"
    yield (
        f"Measured here: a unit of {unit / 1e6:.0f} MB costs the coordinator {coordinator * 1e3:.2f} ms of CPU and the "
        f"scheduler {scheduler * 1e3:.2f} ms; a thread of a worker writes {speed / 1e9:.2f} GB/s; the coordinator had "
        f"{memory / 1e6:.0f} MB with {count:,} units. Computed, for one large file and workers of {THREADS} threads:\n"
    )
    yield "| workers | their GB/s | coordinator busy | scheduler busy | binds | hours for 1 PB | manifest of 1 PB |"
    yield "|---" * 7 + "|"
    for workers in WORKERS:
        theirs = workers * THREADS * speed
        slowest = {"the workers": theirs, "the coordinator": unit / coordinator, "the scheduler": unit / scheduler}
        what = min(slowest, key=lambda each: slowest[each])
        units = slowest[what] / unit
        yield (
            f"| {workers} | {theirs / 1e9:.1f} | {units * coordinator:.0%} | {units * scheduler:.0%} | {what} "
            f"| {PETABYTE / slowest[what] / 3600:.1f} | {PETABYTE / CHUNK * ENTRY / 1e6:,.0f} MB |"
        )


if __name__ == "__main__":
    make_tables(__doc__, "cluster", (*WORKLOADS, "units"), compare)

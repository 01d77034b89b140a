"""Compares `pog` and `pogfast` with pogcli 0.1.4, `zstd | age`, restic and borg, in alternation, on the same data.

    python bench/compare.py [--write] [--only random,tar,small,memory,help] [--sides pogfast,pog,pogcli,age,restic,borg]
                            [--runs 5] [--scale 1] [--dir DIR]
    python bench/compare.py --readme

Whole processes from warm input into an empty directory of their own. Wall and CPU seconds and peak memory are the
kernel's own figures for the finished processes (wait4); a pipeline has the sum of its processes' CPU seconds and peaks.
Every restored file is compared with its source outside the timing, pog and pogcli must make the same blobs, and
nothing is reported of a run that failed or differs. The disk is synced before each run, outside the timing, so that
nobody's sync pays for what the other has written. Ours sync the disk before they end and check names when they
restore; pogcli and age do neither. What is not installed is named and left out.

With --write the tables go into RESULTS.md, and the README's tables are made anew from them; --readme does only that.
Small outputs are removed when all is done, not between runs: ext4 makes new files slowly for minutes after many
were deleted, which would measure the previous run.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import shutil
import sys
import tempfile
from pathlib import Path

from data import make_data, title
from runs import Bench, Figures, Row
from sides import SIDES, Side
from tables import OURS, RESTORING, WRITING, help_table, pair_table, peers_table, put_into_readme, put_into_results

COMPARISONS = ("random", "tar", "small", "memory", "help")
HELPFUL = ("pogfast", "pog", "pogcli")  # whose --help is timed


def measure_speed(bench: Bench, workloads: list[str], scale: float) -> tuple[dict[str, Row], dict[str, Row]]:
    """(writing, restoring) of each workload."""
    written, restored = {}, {}
    for workload in workloads:
        name = title(workload, scale)
        source = make_data(bench.home, workload, scale)
        print(f"{name}: writing", file=sys.stderr)
        written[name], stores = bench.write(source)
        print(f"{name}: restoring", file=sys.stderr)
        restored[name] = bench.restore(source, stores)
        for store in stores.values():
            bench.clear(store)
    return written, restored


def measure_memory(bench: Bench, scale: float) -> dict[str, Row]:
    """Peak memory of one large file and of eight at once; the times are by the way."""
    rows = {}
    for workload in ("one", "eight"):
        name = title(workload, scale)
        print(f"{name}: memory", file=sys.stderr)
        rows[name], stores = bench.write(make_data(bench.home, workload, scale))
        for store in stores.values():
            bench.clear(store)
    return rows


def measure_help(bench: Bench, sides: list[Side]) -> str:
    """How long a user waits for --help, next to the interpreter itself."""
    nothing = Side("python -c pass", (sys.executable, "-c", "pass"), bench.home)
    figures = {side.name: Figures() for side in (*sides, nothing)}
    for _ in range(bench.runs * 4):
        for side in (*sides, nothing):
            command = [*side.command] if side is nothing else [*side.command, "--help"]
            bench.timed(side, [command], bench.outputs, figures[side.name])
    return help_table(figures, nothing.name)


def machine(options: argparse.Namespace, program: str = "bench/compare.py") -> str:
    """When, on what and how it was measured; without the places where this machine keeps its data."""
    import zstandard

    models = [line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    release = ".".join(map(str, zstandard.ZSTD_VERSION))
    scale = "" if options.scale == 1 else f" --scale {options.scale:g}"
    return (
        f"{datetime.date.today().isoformat()}, {models[0] if models else platform.machine()}, {cores} cores, "
        f"{platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}, zstd {release} (zstandard {zstandard.__version__}), "
        f"{options.runs} runs of each side in alternation. Command: `python {program} "
        f"--only {options.only} --sides {options.sides} --runs {options.runs}{scale}`\n"
    )


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def measure(bench: Bench, sides: dict[str, Side], only: list[str], scale: float) -> dict[str, str]:
    """The parts of RESULTS.md that can be told of these sides."""
    parts: dict[str, list[str]] = {"speed": [], "memory": [], "help": [], "peers": []}
    measured: list[tuple[str, str, str, dict[str, Row]]] = []  # part, its title, the title beside peers, rows
    if workloads := [workload for workload in only if workload not in ("memory", "help")]:
        written, restored = measure_speed(bench, workloads, scale)
        measured += [("speed", "Writing", WRITING, written), ("speed", "Restoring", RESTORING, restored)]
    if "memory" in only:
        memory = measure_memory(bench, scale)
        measured.append(("memory", "Memory (writing)", "Memory (writing), beside its peers", memory))
    for part, heading, beside, rows in measured:
        if "pog" in sides and "pogcli" in sides:
            parts[part].append(pair_table(heading, rows, sides["pog"].name, sides["pogcli"].name))
        if OURS in sides:
            parts["peers"].append(peers_table(beside, rows))
    if "help" in only:
        parts["help"].append(measure_help(bench, [side for key, side in sides.items() if key in HELPFUL]))
    return {part: "\n".join(tables) for part, tables in parts.items() if tables}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(COMPARISONS), help="which comparisons, separated by commas")
    parser.add_argument("--sides", default=",".join(SIDES), help="whom to compare, separated by commas")
    parser.add_argument("--runs", type=int, default=5, help="of each side")
    parser.add_argument("--scale", type=float, default=1, help="of the data; 1 is what RESULTS.md shows")
    parser.add_argument("--dir", type=Path, default=Path(tempfile.gettempdir()) / "pogfast-bench", help="for data")
    parser.add_argument("--write", action="store_true", help="put the tables into RESULTS.md")
    parser.add_argument("--readme", action="store_true", help="measure nothing, make the README's tables anew")
    options = parser.parse_args()
    if options.readme:
        put_into_readme()
        return
    if options.write and options.scale != 1:
        parser.error("--write is for the whole data: RESULTS.md shows what a user would see")
    if options.runs < 1:
        parser.error("--runs is at least 1")
    only, wanted = options.only.split(","), options.sides.split(",")
    for given, known in ((only, COMPARISONS), (wanted, SIDES)):
        if unknown := set(given) - set(known):
            parser.error(f"not one of {', '.join(known)}: {', '.join(sorted(unknown))}")
    home = options.dir.absolute()
    home.mkdir(parents=True, exist_ok=True)
    found = {key: SIDES[key](home) for key in wanted}
    sides = {key: side for key, side in found.items() if side is not None}
    missing = ", ".join(key for key in wanted if key not in sides)
    bench = Bench(home, tuple(sides.values()), options.runs)
    try:
        parts = measure(bench, sides, only, options.scale)
    finally:
        shutil.rmtree(bench.outputs)
    for part, text in parts.items():
        text = machine(options) + "\n" + text
        if missing and part == "peers":
            text += f"\nNot installed, and left out: {missing}.\n"
        print(text)
        if options.write:
            put_into_results(part, text)
    if options.write:
        put_into_readme()


if __name__ == "__main__":
    main()

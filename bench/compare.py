"""Compares `pog` and `pogfast` with pogcli 0.1.4, `zstd | age`, restic, borg and rclone, in alternation.

    python bench/compare.py [--write] [--only random,tar,small,memory,again,help,large,sync,before]
                            [--runs 5] [--scale 1]
                            [--sides pogfast,fastcdc,pog,pogcli,age,restic,borg,rclone] [--dir DIR]
    python bench/compare.py --readme

POGFAST_BEFORE is the interpreter of an environment with an earlier release, for `--only before`.

Measures whole processes, which read cached input and write into an empty directory of their own. Wall and CPU seconds
and peak memory are the kernel's figures for the finished processes (wait4); for a pipeline, CPU seconds and peaks are
summed. Every restored file is compared with its source outside the timing, pog and pogcli must make the same blobs, and
a run that failed or differs is not reported. The disk is synced before each run, outside the timing, so that no side's
sync pays for what another has written. pog and pogfast sync the disk before they end, when writing and when restoring,
and check names when restoring; pogcli and age do neither. Tools that are not installed are reported and left out.

--write puts the tables into RESULTS.md and updates those of README.md and docs/pog.md; --readme does only the latter.
Small outputs are removed at the end, not between runs: ext4 makes new files slowly for minutes after many
were deleted, which would measure the previous run.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence

import limit
from data import Change, make_data, title
from machine import check, cores, machine, parser_of
from picture import draw
from runs import Bench, Figures, Row
from sides import SIDES, Side, before, no_sync, pogfast
from tables import (
    AGAIN,
    BEFORE,
    LIMIT,
    OURS,
    RESTORING,
    SYNC,
    WRITING,
    help_table,
    pair_table,
    peers_table,
    put_into_pages,
    put_into_results,
)

COMPARISONS = ("random", "tar", "small", "memory", "again", "help")
# Only on request: 10 GB, and as much again for every side; what a restore's syncs cost; an earlier release.
MORE = ("large", "sync", "before")
DATA = ("random", "tar", "small", "large")
SYNCED = ("random", "small")
HELPFUL = ("pogfast", "pog", "pogcli")  # whose --help is timed


def measure_speed(bench: Bench, workloads: list[str], scale: float) -> tuple[dict[str, Row], dict[str, Row]]:
    """Returns the figures of (writing, restoring) for each workload."""
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
    """Measures the peak memory for one large file and for eight; times are measured too, but are not the point."""
    rows = {}
    for workload in ("one", "eight"):
        name = title(workload, scale)
        print(f"{name}: memory", file=sys.stderr)
        rows[name], stores = bench.write(make_data(bench.home, workload, scale))
        for store in stores.values():
            bench.clear(store)
    return rows


def measure_again(bench: Bench, scale: float) -> dict[str, Row]:
    """Measures second runs, over unchanged data and after one percent has changed."""
    rows = {}
    for workload in ("tar", "small"):
        source = make_data(bench.home, workload, scale)
        change = Change(source)
        for what, changed in (("unchanged", None), ("1 % changed", change)):
            name = f"{title(workload, scale)}, {what}"
            print(f"{name}: a second run", file=sys.stderr)
            rows[name] = bench.write_again(source, changed)
    return rows


def add_limits(
    bench: Bench, workloads: list[str], scale: float, written: dict[str, Row], restored: dict[str, Row]
) -> None:
    """Adds the limit that limit.py computes as one more side."""
    steps = limit.measure_steps(bench.outputs)
    for workload in workloads:
        source, name = make_data(bench.home, workload, scale), title(workload, scale)
        if workload == "small":
            content = limit.measure_small(source)
            floor = limit.measure_floor(bench.home, source, content, bench.runs)
            least, cpu = (limit.limit_of_small(steps, content, floor, number) for number in (cores(), 1))
            written[name][LIMIT] = Figures([least], [cpu], [0])
        if workload in limit.LARGE:
            content = limit.measure_content(source)
            for rows, of in ((written, limit.limit_of_writing), (restored, limit.limit_of_restoring)):
                least, cpu = of(steps, content, cores()), of(steps, content, 1)
                rows[name][LIMIT] = Figures([least], [cpu], [0])


def measure_ours(
    bench: Bench, others: Sequence[Side], workloads: Sequence[str], scale: float
) -> tuple[dict[str, Row], dict[str, Row]]:
    """Returns the figures of (writing, restoring) for pogfast and for variants of it."""
    ours = Bench(bench.home, (pogfast(bench.home), *others), bench.runs)
    try:
        return measure_speed(ours, list(workloads), scale)
    finally:
        shutil.rmtree(ours.outputs)


def measure_help(bench: Bench, sides: list[Side]) -> str:
    """Measures how long --help takes, and the bare interpreter for comparison."""
    nothing = Side("python -c pass", (sys.executable, "-c", "pass"), bench.home)
    figures = {side.name: Figures() for side in (*sides, nothing)}
    for _ in range(bench.runs * 4):
        for side in (*sides, nothing):
            command = [*side.command] if side is nothing else [*side.command, "--help"]
            bench.timed(side, [command], bench.outputs, figures[side.name])
    return help_table(figures, nothing.name)


def measure(bench: Bench, sides: dict[str, Side], only: list[str], scale: float) -> dict[str, str]:
    """Returns the parts of RESULTS.md that these sides are enough for, by name."""
    parts: dict[str, list[str]] = {"speed": [], "memory": [], "help": [], "peers": [], "again": [], "sync": []}
    parts["before"] = []
    measured: list[tuple[str, str, str, dict[str, Row]]] = []  # part, its title, the title beside peers, rows
    if workloads := [workload for workload in only if workload in DATA]:
        written, restored = measure_speed(bench, workloads, scale)
        measured += [("speed", "Writing", WRITING, written), ("speed", "Restoring", RESTORING, restored)]
    if "memory" in only:
        memory = measure_memory(bench, scale)
        measured.append(("memory", "Memory (writing)", "Memory (writing), beside its peers", memory))
    if "again" in only and OURS in sides:
        parts["again"] = [peers_table(AGAIN, measure_again(bench, scale))]
    if workloads and OURS in sides:  # last, since it leaves many deleted files behind
        add_limits(bench, workloads, scale, written, restored)
    for part, heading, beside, rows in measured:
        if "pog" in sides and "pogcli" in sides:
            parts[part].append(pair_table(heading, rows, sides["pog"].name, sides["pogcli"].name))
        if OURS in sides:
            parts["peers"].append(peers_table(beside, rows))
    if "sync" in only:
        restored = measure_ours(bench, [no_sync(bench.home)], SYNCED, scale)[1]
        parts["sync"].append(peers_table(SYNC, restored))
    if "before" in only:
        others = [before(bench.home), no_sync(bench.home)]
        for heading, rows in zip(BEFORE, measure_ours(bench, others, DATA[:3], scale), strict=True):
            parts["before"].append(peers_table(heading, rows))
    if "help" in only:
        parts["help"].append(measure_help(bench, [side for key, side in sides.items() if key in HELPFUL]))
    return {part: "\n".join(tables) for part, tables in parts.items() if tables}


def main() -> None:
    parser = parser_of(__doc__, COMPARISONS, SIDES)
    parser.add_argument("--readme", action="store_true", help="measure nothing, update README.md and docs/pog.md")
    options = parser.parse_args()
    if options.readme:
        put_into_pages()
        return
    home = check(parser, options, only=COMPARISONS + MORE, sides=SIDES)
    only, wanted = options.only.split(","), options.sides.split(",")
    found = {key: SIDES[key](home) for key in wanted}
    sides = {key: side for key, side in found.items() if side is not None}
    missing = ", ".join(key for key in wanted if key not in sides)
    bench = Bench(home, tuple(sides.values()), options.runs)
    try:
        parts = measure(bench, sides, only, options.scale)
    finally:
        shutil.rmtree(bench.outputs)
    for part, text in parts.items():
        text = machine(options, "bench/compare.py") + "\n" + text
        if missing and part == "peers":
            text += f"\nNot installed, and left out: {missing}.\n"
        print(text)
        if options.write:
            put_into_results(part, text)
    if options.write:
        draw()
        put_into_pages()


if __name__ == "__main__":
    main()

"""Measures what it costs that archives and restored files survive a power cut, and compares it with an earlier release.

    python bench/durability.py [--write] [--only random,small] [--runs 5] [--scale 1] [--dir DIR]

POGFAST_BEFORE is the interpreter of an environment with the earlier release; without it that column is empty. --dir
must be on a disk, because a sync costs nothing in memory. Sides run in alternation, each into a directory of its own,
with a key pair and without a cache.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from data import make_data, title, warm
from machine import make_tables

NOW, BEFORE = sys.executable, os.environ.get("POGFAST_BEFORE", "")
Timed = Callable[..., None]
PAIR = "key"  # name of the key files


def sides(source: Path, place: Path, timed: Timed) -> None:
    """Runs each side once."""
    keys = {
        "write": ("--encryption-keyfile", str(place.parent / f"{PAIR}.encrypt")),
        "read": ("--decryption-keyfile", str(place.parent / f"{PAIR}.decrypt")),
    }
    for name, python in (("before", BEFORE), ("now", NOW)):
        if python:
            store = place / name
            create = ("create", str(source), "--to", str(store), "--no-cache", *keys["write"])
            restore = ("restore", f"{store}/latest", *keys["read"], "--into")
            timed("create", name, python, *create)
            warm(store)
            timed("restore", name, python, *restore, str(place / f"from-{name}"))
    timed("restore --no-sync", "now", NOW, *restore, str(place / "unsynced"), "--no-sync")
    timed("create --force over it", "now", NOW, *create, "--force")


def measure(home: Path, workloads: list[str], runs: int, scale: float) -> str:
    lines = ["### Durability", "", "| | before: wall s, min (median) | now | ratio of medians |", "|---|---|---|---|"]
    for workload in workloads:
        source = make_data(home, workload, scale)
        for what, seconds in figures(home, source, runs).items():
            before, now = seconds.get("before"), seconds["now"]
            ratio = f"{statistics.median(now) / statistics.median(before):.2f}" if before else ""
            lines.append(f"| {title(workload, scale)}: {what} | {told(before)} | {told(now)} | {ratio} |")
    return "\n".join(lines) + "\n"


def figures(home: Path, source: Path, runs: int) -> dict[str, dict[str, list[float]]]:
    """Returns wall seconds by command and by side."""
    found: dict[str, dict[str, list[float]]] = {}

    def timed(what: str, side: str, python: str, *command: str) -> None:
        warm(source)
        os.sync()
        started = time.perf_counter()
        subprocess.run([python, "-m", "pogfast", *command, "--quiet"], cwd=work, check=True, stdout=subprocess.DEVNULL)
        found.setdefault(what, {}).setdefault(side, []).append(time.perf_counter() - started)

    with tempfile.TemporaryDirectory(prefix="durability-", dir=home) as directory:
        work = Path(directory)
        subprocess.run([NOW, "-m", "pogfast", "keygen", PAIR], cwd=work, check=True, stdout=subprocess.DEVNULL)
        for number in range(runs):
            (work / str(number)).mkdir()
            sides(source, work / str(number), timed)
    return found


def told(seconds: list[float] | None) -> str:
    return f"{min(seconds):.2f} ({statistics.median(seconds):.2f})" if seconds else ""


if __name__ == "__main__":
    make_tables(__doc__, "durability", ("random", "small"), measure)

"""Runs the sides of compare.py in alternation, and measures each run from outside. It knows no tool and makes no table.

The input is in the page cache before the clock starts. After it has stopped, the output of a side is compared with the
input, or with another side's output. If a run fails or differs, the program ends without reporting it.
"""

from __future__ import annotations

import filecmp
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from data import Change, files_below, size_of, warm
from sides import Pipeline, Side


@dataclass
class Figures:
    """Measurements of the runs of one side: seconds, peak memory, requests and stored bytes."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)  # bytes
    stored: int = 0  # bytes
    user: list[float] = field(default_factory=list)  # the part of `cpu` that is not the kernel's
    requests: list[int] = field(default_factory=list)  # if something counted them


Row = dict[str, Figures]  # by the name of the side
SETTLED = 0.5  # seconds after which tools trust a file's time stamps


# The kernel never reports a peak memory below that of the parent process, so a small process starts and measures them.
LAUNCHER = """
import os, sys, time
measured, *words = sys.argv[1:]
commands = [[]]
for word in words:
    if word == "|":
        commands.append([])
    else:
        commands[-1].append(word)
started = time.perf_counter()
children, source = [], os.dup(0)
for command in commands:
    following, sink = os.pipe() if command is not commands[-1] else (None, os.dup(1))
    actions = [(os.POSIX_SPAWN_DUP2, source, 0), (os.POSIX_SPAWN_DUP2, sink, 1)]
    children.append(os.posix_spawnp(command[0], command, os.environ, file_actions=actions))
    os.close(source)
    os.close(sink)
    source = following
ended = [os.wait4(child, 0) for child in children]
wall = time.perf_counter() - started
codes = [os.waitstatus_to_exitcode(status) for _, status, _ in ended]
user = sum(usage.ru_utime for _, _, usage in ended)
cpu = user + sum(usage.ru_stime for _, _, usage in ended)
memory = sum(usage.ru_maxrss for _, _, usage in ended)
with open(measured, "w") as out:
    print(next(filter(None, codes), 0), wall, cpu, memory, user, file=out)
"""


@dataclass
class Bench:
    """One comparison: its directory, its sides and the number of runs."""

    home: Path
    sides: tuple[Side, ...]
    runs: int

    def __post_init__(self) -> None:
        self.outputs = Path(tempfile.mkdtemp(prefix="runs-", dir=self.home))

    def fresh(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self.outputs))

    def run(self, side: Side, commands: Pipeline, cwd: Path) -> tuple[float, float, int, float]:
        """Runs commands to their end and returns (wall seconds, CPU seconds, peak bytes, user CPU seconds). Their
        output goes to a file, as under cron."""
        log, measured = self.outputs / "log", self.outputs / "measured"
        words = [word for command in commands for word in ("|", *command)][1:]
        with log.open("wb") as out:
            subprocess.run(
                [sys.executable, "-I", "-S", "-c", LAUNCHER, measured, *words],
                cwd=cwd,
                env={**os.environ, **side.environment()},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                check=True,
            )
        code, wall, cpu, memory, user = measured.read_text().split()
        if code != "0":
            said = log.read_text(errors="replace")[-2000:]
            sys.exit(f"not reported: {' '.join(words)} ended with {code}\n{said}")
        return float(wall), float(cpu), int(memory) * (1 if sys.platform == "darwin" else 1024), float(user)

    def timed(self, side: Side, commands: Pipeline, cwd: Path, figures: Figures) -> None:
        os.sync()
        wall, cpu, memory, user = self.run(side, commands, cwd)
        figures.wall.append(wall)
        figures.cpu.append(cpu)
        figures.memory.append(memory)
        figures.user.append(user)

    def write(self, source: Path) -> tuple[Row, dict[str, Path]]:
        """Measures writing; returns the figures and a store of each side."""
        figures = {side.name: Figures() for side in self.sides}
        stores: dict[str, Path] = {}
        blobs: dict[str, set[str]] = {}
        for _ in range(self.runs):
            for side in self.sides:
                store = self.fresh()
                if commands := side.prepare(store):
                    self.run(side, commands, store)
                warm(source)
                self.timed(side, side.write(source, store), store, figures[side.name])
                files = files_below(store)
                figures[side.name].stored = size_of(store)
                written = {file.name for file in files if file.suffix != ".mfn"}
                if side.naming and blobs.setdefault(side.naming, written) != written:
                    sys.exit(f"not reported: {side.name} made other blobs than the run before it")
                if stores.setdefault(side.name, store) != store:
                    self.clear(store)
        return figures, stores

    def write_again(self, source: Path, change: Change | None) -> Row:
        """Measures a second run into the same store, of the same or of changed data, for tools that remember the first.
        `stored` is what the second run added."""
        sides = [side for side in self.sides if side.remembers]
        figures = {side.name: Figures() for side in sides}
        for number in range(self.runs):
            for side in sides:
                store = self.fresh()
                if commands := side.prepare(store):
                    self.run(side, commands, store)
                warm(source)
                time.sleep(SETTLED)  # tools that compare time stamps trust only older ones
                self.run(side, side.write_on(source, store, 0), store)
                before = size_of(store)
                try:
                    if change:
                        change.make()
                        time.sleep(SETTLED)
                    self.timed(side, side.write_on(source, store, 1), store, figures[side.name])
                    figures[side.name].stored = size_of(store) - before
                    if number == 0:
                        self.restore_once(side, source, store, Figures())
                finally:
                    if change:
                        change.undo()
                self.clear(store)
        return figures

    def restore(self, source: Path, stores: dict[str, Path]) -> Row:
        figures = {side.name: Figures() for side in self.sides}
        for _ in range(self.runs):
            for side in self.sides:
                self.restore_once(side, source, stores[side.name], figures[side.name])
        return figures

    def restore_once(self, side: Side, source: Path, store: Path, figures: Figures) -> None:
        wanted = {file.name: file for file in files_below(source)}
        into = self.fresh()
        side.lay_out(store, into)
        laid_out = set(files_below(into))
        warm(store)
        self.timed(side, side.restore(store, into), into, figures)
        restored = {file.name: file for file in files_below(into) if file not in laid_out}
        if restored.keys() != wanted.keys() or any(
            not filecmp.cmp(file, restored[name], shallow=False) for name, file in wanted.items()
        ):
            sys.exit(f"not reported: what {side.name} restored differs from its source")
        self.clear(into)

    def clear(self, place: Path) -> None:
        """Deletes large outputs; many small files are kept until the end."""
        for file in files_below(place):
            if file.stat().st_size > 10**6:
                file.unlink()

"""Compares our `pog` with pogcli 0.1.4, as whole processes, in alternation, on the same data.

    python bench/compare.py [--write] [--only random,tar,small,memory,help] [--runs 5] [--scale 1] [--dir DIR]
    python bench/compare.py --readme

Both sides run with pogcli's defaults and a keyfile, from warm input into an empty directory of their own. Wall and CPU
seconds and peak memory are the kernel's own figures for the finished process (wait4). Both sides must make the same
blobs, every restored file is compared with its source outside the timing, and nothing is reported of a run that failed
or differs. Ours syncs the disk before it ends and checks names when it restores; pogcli does neither. The disk is
synced before each run, outside the timing, so that nobody's sync pays for what the other has written.

With --write the tables go into RESULTS.md, and the README's table is made anew from them; --readme does only that.
Small outputs are removed when all is done, not between runs: ext4 makes new files slowly for minutes after many
were deleted, which would measure the previous run.
"""

from __future__ import annotations

import argparse
import datetime
import filecmp
import os
import platform
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
RESULTS = HERE / "RESULTS.md"
README = HERE.parent / "README.md"
WORKLOADS = ("random", "tar", "small", "memory", "help")
BIG = 10**9  # bytes of random and of the tar
FILES = 20_000  # small files, in 200 directories, log-normal sizes around 5 KB
MEMORY_FILES, MEMORY_SIZE = 8, 200_000_000


@dataclass
class Figures:
    """What the runs of one side took."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)  # bytes


@dataclass(frozen=True)
class Side:
    name: str
    command: tuple[str, ...]


def ours() -> Side:
    script = Path(sys.executable).with_name("pog")
    return Side("pogfast", (str(script),) if script.exists() else (sys.executable, "-m", "pogfast.pog"))


def pogcli(cache: Path) -> Side:
    """pogcli in an environment of its own, with the zstandard that we use: its release decides the work."""
    home = cache / "pogcli-0.1.4"
    if not (home / "ready").exists():
        from importlib.metadata import version

        subprocess.run([sys.executable, "-m", "venv", "--clear", home], check=True)
        wanted = ["pogcli==0.1.4", f"zstandard=={version('zstandard')}"]
        subprocess.run([home / "bin" / "python", "-m", "pip", "install", "-q", *wanted], check=True)
        (home / "ready").touch()
    return Side("pogcli 0.1.4", (str(home / "bin" / "pog"),))


# ---- data ----------------------------------------------------------------------------------------------------------


def make_data(home: Path, workload: str, scale: float) -> Path:
    """The input of a workload, made once for each scale."""
    place = home / f"{workload}-{scale:g}"
    if not (place / "made").exists():
        shutil.rmtree(place, ignore_errors=True)
        (place / "data").mkdir(parents=True)
        {"random": _random, "tar": _tar, "small": _small, "memory": _memory}[workload](place / "data", scale)
        (place / "made").touch()
    return place / "data"


def _write(path: Path, pieces: Iterator[bytes]) -> None:
    with path.open("wb") as out:
        for piece in pieces:
            out.write(piece)


def _random(place: Path, scale: float) -> None:
    _write(place / "random", _random_pieces(int(BIG * scale)))


def _random_pieces(size: int) -> Iterator[bytes]:
    while size > 0:
        yield os.urandom(min(size, 1 << 20))
        size -= 1 << 20


def _tar(place: Path, scale: float) -> None:
    _write(place / "usr.tar", _usr(int(BIG * scale)))


def _usr(size: int) -> Iterator[bytes]:
    """The first bytes of a tar of /usr."""
    with subprocess.Popen(["tar", "cf", "-", "/usr"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as tar:
        assert tar.stdout is not None
        while size > 0 and (piece := tar.stdout.read(min(size, 1 << 20))):
            yield piece
            size -= len(piece)
        tar.kill()


def _small(place: Path, scale: float) -> None:
    count = max(int(FILES * scale), 10)
    source = random.Random(1)
    sizes = [int(source.lognormvariate(8.5, 1.3)) for _ in range(count)]
    _write(place.with_name("source"), _usr(sum(sizes)))
    with place.with_name("source").open("rb") as source_file:
        for number, size in enumerate(sizes):
            directory = place / f"{number % 200:03}"
            directory.mkdir(exist_ok=True)
            (directory / f"{number}").write_bytes(source_file.read(size))
    place.with_name("source").unlink()


def _memory(place: Path, scale: float) -> None:
    for number in range(MEMORY_FILES):
        _write(place / f"{number}", _random_pieces(int(MEMORY_SIZE * scale)))


def warm(data: Path) -> None:
    for file in files_below(data):
        with file.open("rb") as source:
            while source.read(1 << 20):
                pass


def files_below(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())


# ---- runs ----------------------------------------------------------------------------------------------------------


# A process's peak memory is never seen below that of the one that started it, so a small one starts and measures them.
LAUNCHER = """
import os, sys, time
started = time.perf_counter()
_, status, usage = os.wait4(os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ), 0)
wall = time.perf_counter() - started
with open(".measured", "w") as out:
    print(os.waitstatus_to_exitcode(status), wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss, file=out)
"""


def timed(command: Sequence[str], cwd: Path, figures: Figures) -> None:
    """Runs a command to its end; its standard output is read by nobody, as under cron."""
    os.sync()
    log, measured = cwd / ".log", cwd / ".measured"
    with log.open("wb") as out:
        launcher = [sys.executable, "-I", "-S", "-c", LAUNCHER]
        subprocess.run([*launcher, *command], cwd=cwd, stdin=subprocess.DEVNULL, stdout=out, stderr=out, check=True)
    code, wall, cpu, memory = measured.read_text().split()
    if code != "0":
        said = log.read_text(errors="replace")[-2000:]
        sys.exit(f"not reported: {' '.join(command)} ended with {code}\n{said}")
    log.unlink()
    measured.unlink()
    figures.wall.append(float(wall))
    figures.cpu.append(float(cpu))
    figures.memory.append(int(memory) * (1 if sys.platform == "darwin" else 1024))


@dataclass
class Bench:
    """One comparison: where it works, with which key and how often."""

    home: Path
    sides: tuple[Side, ...]
    runs: int

    def __post_init__(self) -> None:
        self.key = self.home / "key"
        if not self.key.exists():
            self.key.write_bytes(os.urandom(32))
        self.outputs = Path(tempfile.mkdtemp(prefix="runs-", dir=self.home))

    def fresh(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self.outputs))

    def write(self, inputs: list[Path]) -> tuple[dict[str, Figures], dict[str, Path]]:
        """(figures, an archive's directory) of each side."""
        figures = {side.name: Figures() for side in self.sides}
        archives: dict[str, Path] = {}
        blobs: set[str] = set()
        for number in range(self.runs):
            for side in self.sides:
                place = self.fresh()
                arguments = [f"--keyfile={self.key}", *map(str, inputs)]
                timed([*side.command, *arguments], place, figures[side.name])
                written = {blob.name for blob in place.iterdir() if blob.suffix != ".mfn"}
                blobs = blobs or written
                if written != blobs:
                    sys.exit(f"not reported: {side.name} made other blobs than the run before it")
                if number == 0:
                    archives[side.name] = place
                else:
                    self.clear(place)
        return figures, archives

    def restore(self, inputs: Path, archives: dict[str, Path]) -> dict[str, Figures]:
        figures = {side.name: Figures() for side in self.sides}
        wanted = {file.name: file for file in files_below(inputs)}
        for _ in range(self.runs):
            for side in self.sides:
                place = self.fresh()
                blobs = list(archives[side.name].iterdir())
                for blob in blobs:
                    os.link(blob, place / blob.name)
                [manifest] = place.glob("*.mfn")
                timed([*side.command, f"--keyfile={self.key}", "--decrypt", manifest.name], place, figures[side.name])
                restored = {file.name: file for file in files_below(place)}
                for blob in blobs:
                    restored.pop(blob.name, None)
                if restored.keys() != wanted.keys() or any(
                    not filecmp.cmp(file, restored[name], shallow=False) for name, file in wanted.items()
                ):
                    sys.exit(f"not reported: what {side.name} restored differs from its source")
                self.clear(place)
        return figures

    def clear(self, place: Path) -> None:
        """Removes what is large; many small files stay until the end."""
        for file in files_below(place):
            if file.stat().st_size > 10**6:
                file.unlink()


# ---- tables --------------------------------------------------------------------------------------------------------


def table(title: str, rows: dict[str, dict[str, Figures]], sides: tuple[Side, ...]) -> str:
    mine, theirs = (side.name for side in sides)
    lines = [
        f"### {title}",
        "",
        f"| | {mine}: wall s, min (median) | {theirs} | ratio of minima (medians) "
        f"| {mine}: CPU s, min (median) | {theirs} | ratio | {mine}: peak MB | {theirs} |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, figures in rows.items():
        a, b = figures[mine], figures[theirs]
        lines.append(
            f"| {name} | {spread(a.wall)} | {spread(b.wall)} | {ratio(a.wall, b.wall)} "
            f"| {spread(a.cpu)} | {spread(b.cpu)} | {ratio(a.cpu, b.cpu)} "
            f"| {max(a.memory) / 1e6:.0f} | {max(b.memory) / 1e6:.0f} |"
        )
    return "\n".join(lines) + "\n"


def spread(values: list[float]) -> str:
    digits = 3 if min(values) < 0.2 else 2
    return f"{min(values):.{digits}f} ({statistics.median(values):.{digits}f})"


def ratio(a: list[float], b: list[float]) -> str:
    return f"{min(b) / min(a):.2f} ({statistics.median(b) / statistics.median(a):.2f})"


def machine(options: argparse.Namespace) -> str:
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
        f"{options.runs} runs of each side in alternation. "
        f"Command: `python bench/compare.py --only {options.only} --runs {options.runs}{scale}`\n"
    )


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def put_into_results(part: str, text: str) -> None:
    """Replaces what stands between this part's markers, or appends it."""
    begin, end = f"<!-- {part} -->", f"<!-- /{part} -->"
    old = RESULTS.read_text() if RESULTS.exists() else "# Measured\n"
    if begin in old:
        head, rest = old.split(begin)
        old = head + begin + "\n" + text + end + rest.split(end)[1]
    else:
        old += f"\n{begin}\n{text}{end}\n"
    RESULTS.write_text(old)


# ---- the README's table ------------------------------------------------------------------------------------------


def rows_of(results: str, title: str) -> dict[str, list[str]]:
    """The rows of one table in RESULTS.md, by their first cell."""
    _, _, rest = results.partition(f"### {title}\n")
    lines = rest.lstrip("\n").partition("\n\n")[0].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return {row[0]: row[1:] for row in cells[2:]}


def readme_table(results: str) -> str:
    """What the README shows of RESULTS.md: the minima of wall seconds, and peak memory."""
    written, restored, memory = (rows_of(results, title) for title in ("Writing", "Restoring", "Memory (writing)"))
    lines = [
        "| seconds, the best runs | pogfast writes | pogcli 0.1.4 | ratio | pogfast restores | pogcli 0.1.4 | ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in written.items():
        lines.append(f"| {name} | {minima(row)} | {minima(restored[name])} |")
    for name, row in memory.items():
        mine, theirs = row[6:8]
        lines.append(f"| peak memory, {name} | {mine} MB | {theirs} MB | **{float(theirs) / float(mine):.1f}** | | | |")
    if measured := re.search(r"<!-- speed -->\n(.*?)\. Command:", results):
        lines += ["", f"{measured[1]}: [bench/RESULTS.md](bench/RESULTS.md) has the medians and CPU seconds."]
    return "\n".join(lines) + "\n"


def minima(row: list[str]) -> str:
    mine, theirs, times = (cell.split()[0] for cell in row[:3])
    return f"{mine} | {theirs} | **{float(times):.1f}**"


def put_into_readme() -> None:
    begin, end = "<!-- measured -->\n", "<!-- /measured -->"
    head, _, rest = README.read_text().partition(begin)
    README.write_text(head + begin + readme_table(RESULTS.read_text()) + end + rest.partition(end)[2])


# ---- the comparisons -----------------------------------------------------------------------------------------------

TITLES = {"random": "1 GB random", "tar": "1 GB tar of /usr", "small": "20,000 small files"}


def scaled(scale: float) -> str:
    """What a title says of data that is not whole."""
    return "" if scale == 1 else f", times {scale:g}"


def compare_speed(bench: Bench, data: Path, workloads: list[str], scale: float) -> str:
    written, restored = {}, {}
    for workload in workloads:
        title = TITLES[workload] + scaled(scale)
        inputs = make_data(data, workload, scale)
        warm(inputs)
        print(f"{title}: writing", file=sys.stderr)
        written[title], archives = bench.write([inputs])
        print(f"{title}: restoring", file=sys.stderr)
        restored[title] = bench.restore(inputs, archives)
    return table("Writing", written, bench.sides) + "\n" + table("Restoring", restored, bench.sides)


def compare_memory(bench: Bench, data: Path, scale: float) -> str:
    """Peak memory of one large file and of eight at once; the times are by the way."""
    one = make_data(data, "random", scale)
    eight = make_data(data, "memory", scale)
    rows = {}
    for title, inputs in (("one file of 1 GB", [one]), ("eight files of 200 MB", [eight])):
        title += scaled(scale)
        warm(inputs[0])
        rows[title], archives = bench.write(inputs)
        for place in archives.values():
            bench.clear(place)
    return table("Memory (writing)", rows, bench.sides)


def compare_help(bench: Bench) -> str:
    """How long a user waits for --help, next to the interpreter itself."""
    sides = (*bench.sides, Side("python -c pass", (sys.executable, "-c", "pass")))
    figures = {side.name: Figures() for side in sides}
    for _ in range(max(bench.runs, 1) * 4):
        for side in sides:
            command = side.command if side.name == "python -c pass" else (*side.command, "--help")
            timed(command, bench.outputs, figures[side.name])
    lines = ["### --help", "", "| | wall s, min (median) | times `python -c pass` |", "|---|---|---|"]
    base = min(figures["python -c pass"].wall)
    lines += [f"| {name} | {spread(f.wall)} | {min(f.wall) / base:.1f} |" for name, f in figures.items()]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(WORKLOADS), help="which comparisons, separated by commas")
    parser.add_argument("--runs", type=int, default=5, help="of each side")
    parser.add_argument("--scale", type=float, default=1, help="of the data; 1 is what RESULTS.md shows")
    parser.add_argument("--dir", type=Path, default=Path(tempfile.gettempdir()) / "pogfast-bench", help="for data")
    parser.add_argument("--write", action="store_true", help="put the tables into RESULTS.md")
    parser.add_argument("--readme", action="store_true", help="measure nothing, make the README's table anew")
    options = parser.parse_args()
    if options.readme:
        put_into_readme()
        return
    if options.write and options.scale != 1:
        parser.error("--write is for the whole data: RESULTS.md shows what a user would see")
    only = options.only.split(",")
    if unknown := set(only) - set(WORKLOADS):
        parser.error(f"no such comparison: {', '.join(sorted(unknown))}")
    options.dir.mkdir(parents=True, exist_ok=True)
    bench = Bench(options.dir, (ours(), pogcli(options.dir)), options.runs)
    parts: dict[str, str] = {}
    try:
        if workloads := [workload for workload in only if workload in TITLES]:
            parts["speed"] = compare_speed(bench, options.dir, workloads, options.scale)
        if "memory" in only:
            parts["memory"] = compare_memory(bench, options.dir, options.scale)
        if "help" in only:
            parts["help"] = compare_help(bench)
    finally:
        shutil.rmtree(bench.outputs)
    for part, text in parts.items():
        text = machine(options) + "\n" + text
        print(text)
        if options.write:
            put_into_results(part, text)
    if options.write:
        put_into_readme()


if __name__ == "__main__":
    main()

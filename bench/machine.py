"""Describes in a line when, where and how something was measured, and defines the options that all benchmarks share.

The line does not reveal paths of this machine.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import tempfile
from collections.abc import Callable, Collection
from pathlib import Path

from tables import put_into_results

TOLD = ("tls", "latency", "only", "sides", "runs", "scale")  # options that are part of the command that is shown


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine(options: argparse.Namespace, program: str) -> str:
    import zstandard

    models = [line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    release = ".".join(map(str, zstandard.ZSTD_VERSION))
    said = {word: value for word, value in vars(options).items() if word in TOLD and (word, value) != ("scale", 1)}
    words = [f"--{word}" if value is True else f"--{word} {value}" for word, value in said.items() if value]
    command = " ".join([f"python {program}", *words])
    return (
        f"{datetime.date.today().isoformat()}, {models[0] if models else platform.machine()}, {cores()} cores, "
        f"{platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}, zstd {release} (zstandard {zstandard.__version__}), "
        f"{options.runs} runs of each side in alternation. Command: `{command}`\n"
    )


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def parser_of(description: str | None, only: Collection[str], sides: Collection[str] = ()) -> argparse.ArgumentParser:
    """Returns a parser of the shared options. `only` and `sides` are all possible values, and the defaults."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(only), help="measure only these, separated by commas")
    if sides:
        parser.add_argument("--sides", default=",".join(sides), help="tools to compare, separated by commas")
    parser.add_argument("--runs", type=int, default=5, help="runs of each side")
    parser.add_argument("--scale", type=float, default=1, help="scale of the data; RESULTS.md has 1")
    parser.add_argument(
        "--dir", type=Path, default=Path(tempfile.gettempdir()) / "pogfast-bench", help="directory for data"
    )
    parser.add_argument("--write", action="store_true", help="put the tables into RESULTS.md")
    return parser


def check(parser: argparse.ArgumentParser, options: argparse.Namespace, **known: Collection[str]) -> Path:
    """Exits with a usage error for invalid options. Returns the directory for data, and creates it."""
    for word, all_of_them in known.items():
        if unknown := set(getattr(options, word).split(",")) - set(all_of_them):
            parser.error(f"--{word} {','.join(sorted(unknown))}: choose from {', '.join(all_of_them)}")
    if options.write and options.scale != 1:
        parser.error("--write needs --scale 1: RESULTS.md shows what a user would see")
    if options.runs < 1:
        parser.error("--runs must be at least 1")
    home: Path = options.dir.absolute()
    home.mkdir(parents=True, exist_ok=True)
    return home


def make_tables(
    description: str | None, part: str, only: Collection[str], measure: Callable[[Path, list[str], int, float], str]
) -> None:
    """The main function of a benchmark without other tools: prints the tables that `measure` returns for some
    workloads; with --write it also stores them in the part of RESULTS.md that has the program's name."""
    parser = parser_of(description, only)
    options = parser.parse_args()
    home = check(parser, options, only=only)
    text = measure(home, options.only.split(","), options.runs, options.scale)
    text = f"{machine(options, f'bench/{part}.py')}\n{text}"
    print(text)
    if options.write:
        put_into_results(part, text)

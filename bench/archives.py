"""Measures the commands that look at every archive of a store, where archives are many, and those that look at one of a
million entries.

    python bench/archives.py [--write] [--only directory,s3,million] [--runs 5] [--scale 1] [--dir DIR]

Each archive has 20 files, one of them new, and is an hour younger than the one before it. `cold` is the first run on a
machine, without the cache of manifests, `warm` one after another run of the same command. `s3` is rclone's server
behind the proxy of the tests, which adds 20 ms to each request and counts them; both share the cores with pogfast.
`million` has the files in the order in which `create` stores them, that of their paths. `written` is what the manifest
alone costs whoever writes it, with the interpreter's start and the making of the entries. `diff` compares the archive
with one in which one file in a hundred is new; `find` has a store with one archive. `--scale 10`: ten million files.
"""

from __future__ import annotations

import os
import random
import shutil
import sys
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from machine import check, machine, parser_of
from packs import LATENCY, cleared
from runs import Bench, Figures
from services import KEY, RCLONE, SECRET, Server, ServiceBench, serving
from sides import Pogfast, environment_with, keyfile, our
from tables import put_into_results, spread

from pogfast import keys, manifest
from pogfast._engine import seal_blob

ARCHIVES, FILES = 10_000, 20
MILLION, CHANGED, TOGETHER = 1_000_000, 100, 500  # files; one of how many is new in the other; files in a directory
BEGAN = datetime(2024, 1, 1, 12, tzinfo=UTC)
CHUNK = 50_000_000
PLAIN = 4000  # bytes of a file
# What is measured, with the words that follow the store's address.
COMMANDS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "list": ("list", "", ()),
    "ls STORE/latest": ("ls", "/latest", ()),
    "prune, dry": ("prune", "", ("--keep-daily", "7")),
    "find": ("find", "", ("file-7",)),
    "check": ("check", "", ()),
    "stats": ("stats", "", ()),
}


# ---- the data ------------------------------------------------------------------------------------------------------


def number(of_all: int, scale: float) -> int:
    return max(int(of_all * scale), 10)


def make_store(home: Path, scale: float) -> Path:
    """Returns a store with many small archives, and makes it if it does not exist."""
    count = number(ARCHIVES, scale)
    place = home / f"archives-{count}"
    if not (place / "made").exists():
        shutil.rmtree(place, ignore_errors=True)
        (place / "store" / "data").mkdir(parents=True)
        archive_hourly(place / "store", keys.from_keyfile(str(keyfile(home))), count)
        (place / "made").touch()
    return place / "store"


def archive_hourly(store: Path, key: keys.Key, count: int) -> None:
    entries: dict[str, manifest.Entry] = {}
    for index in range(count + FILES - 1):
        name, sealed = seal_blob(key.secret, False, random.randbytes(PLAIN), CHUNK)
        blob = store / "data" / name[:2] / name
        blob.parent.mkdir(exist_ok=True)
        blob.write_bytes(sealed)
        time = BEGAN + timedelta(hours=index)
        entries[f"home/user/documents/file-{index % FILES}"] = entry(name, len(sealed), time)
        if len(entries) == FILES:
            put_archive(store, key, entries.items(), time)


def entry(blob: str, stored: int, time: datetime) -> manifest.Entry:
    ns = int(time.timestamp()) * 10**9
    facts = {"mode": 0o644, "uid": 1000, "gid": 1000, "mtime_ns": ns, "atime_ns": ns, "user": "user", "group": "user"}
    return manifest.Entry([blob], ns / 1e9, ns / 1e9, {"size": PLAIN, **facts, "stored": [stored]})


def put_archive(store: Path, key: keys.Key, entries: Iterable[tuple[str, manifest.Entry]], time: datetime) -> None:
    """Writes a manifest, as old as it says."""
    writer = manifest.Writer(key)
    files = stored = 0
    above: set[str] = set()
    for name, each in entries:
        writer.add(name, each)
        files += 1
        stored += each.stored[0] if each.stored else 0
        above.add(os.path.dirname(name))
    totals = {"files": files, "size": PLAIN * files, "stored": stored}
    directories = sorted(above | {str(each) for name in above for each in Path(name).parents} - {"."})
    trailer = {
        "program": "pogfast",
        "time": time.isoformat(),
        "host": "laptop",
        "paths": ["/home/user"],
        "layout": "frames",
        "chunk_size": CHUNK,
        "level": 3,
        "directories": {name: {"mode": 0o755, "uid": 1000, "gid": 1000} for name in directories},
        "totals": totals,
    }
    path = store / f"{time:%Y-%m-%dT%H:%M:%S.%f}.mfn"
    path.write_bytes(writer.seal(trailer))
    os.utime(path, (time.timestamp(), time.timestamp()))


def make_million(home: Path, scale: float) -> tuple[Path, Path]:
    """Returns two stores with one archive each, and makes them if they do not exist. They have no blobs, which none of
    the commands read."""
    place = home / f"million-{number(MILLION, scale)}"
    stores = place / "one", place / "other"
    if not (place / "made").exists():
        shutil.rmtree(place, ignore_errors=True)
        for index, store in enumerate(stores):
            put_million(store, keyfile(home), index, scale)
        (place / "made").touch()
    return stores


def put_million(store: Path, keyfile: Path, changed: int, scale: float) -> None:
    (store / "data").mkdir(parents=True, exist_ok=True)
    key = keys.from_keyfile(str(keyfile))
    put_archive(store, key, million_entries(number(MILLION, scale), changed), BEGAN + timedelta(hours=changed))


def million_entries(count: int, changed: int) -> Iterator[tuple[str, manifest.Entry]]:
    wide, narrow = len(str(count - 1)), len(str((count - 1) // TOGETHER))  # so that names are in order
    for index in range(count):
        source = random.Random(index + (changed and index % CHANGED == 0) * count)
        blob = urlsafe_b64encode(source.randbytes(32)).decode()
        time = BEGAN + timedelta(microseconds=source.getrandbits(30))
        yield f"home/user/{index // TOGETHER:0{narrow}}/file-{index:0{wide}}", entry(blob, PLAIN, time)


# ---- the runs ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Looker(Pogfast):
    """pogfast at one place; `server` is where its store is, if that is a bucket."""

    server: Server | None = None

    def environment(self) -> dict[str, str]:
        return {**super().environment(), **(self.server.environment() if self.server else {})}

    def ask(self, verb: str, *words: str) -> list[list[str]]:
        return [[*self.command, verb, *words, *self.key("decrypt")]]


def many(bench: Bench, side: Looker, where: str, address: str) -> str:
    lines = [f"### {where}", "", *HEAD]
    for name, (verb, suffix, words) in COMMANDS.items():
        commands = side.ask(verb, f"{address}{suffix}", *words)
        cold, warm = Figures(), Figures()
        for _ in range(bench.runs):
            shutil.rmtree(side.cache, ignore_errors=True)
            bench.timed(side, commands, bench.outputs, cold)
            bench.timed(side, commands, bench.outputs, warm)
        lines += [row(f"{name}, cold", cold), row(f"{name}, warm", warm)]
    return "\n".join(lines) + "\n"


def million(home: Path, runs: int, scale: float) -> str:
    one, other = make_million(home, scale)
    lines = [f"### One archive of {number(MILLION, scale):,} files", "", *HEAD]
    with cleared(Bench(home, (), runs)) as bench:
        side = Looker("pogfast", our("pogfast"), home)
        figures = Figures()
        for _ in range(runs):
            arguments = str(bench.fresh()), str(keyfile(home)), str(scale)
            bench.timed(side, [[sys.executable, "-c", WRITING, *arguments]], Path(__file__).parent, figures)
        lines.append(row("written", figures))
        for verb, words in {
            "ls": (f"{one}/latest",),
            "ls --long": (f"{one}/latest", "--long"),
            "diff": (f"{one}/latest", f"{other}/latest"),
            "find": (str(one), "file-77*7"),
        }.items():
            figures = Figures()
            for _ in range(runs):
                bench.timed(side, side.ask(verb.split()[0], *words), bench.outputs, figures)
            lines.append(row(verb, figures))
    return "\n".join(lines) + "\n"


WRITING = "import sys, pathlib, archives as a; a.put_million(*map(pathlib.Path, sys.argv[1:3]), 0, float(sys.argv[3]))"
HEAD = ["| | wall s, min (median) | CPU s, min (median) | peak MB | requests |", "|---" * 5 + "|"]


def row(name: str, its: Figures) -> str:
    requests = max(its.requests, default="")
    return f"| {name} | {spread(its.wall)} | {spread(its.cpu)} | {max(its.memory) / 1e6:.0f} | {requests} |"


def title(scale: float) -> str:
    return f"{number(ARCHIVES, scale):,} archives of {FILES} files"


def in_directory(home: Path, runs: int, scale: float) -> str:
    store = make_store(home, scale)
    with cleared(Bench(home, (), runs)) as bench:
        where = f"{title(scale)} in a directory"
        return many(bench, Looker("pogfast", our("pogfast"), home), where, str(store))


def on_service(home: Path, runs: int, scale: float) -> str:
    store = make_store(home, scale)
    rclone = environment_with(home, "rclone-1.75.2", RCLONE) / "rclone"
    with (
        cleared(ServiceBench(home, (), runs)) as bench,
        serving(rclone, store.parent, "--auth-key", f"{KEY},{SECRET}") as near,
        bench.far(near, LATENCY) as server,
    ):
        side = Looker("pogfast", our("pogfast"), home, server=server)
        return many(bench, side, f"{title(scale)} on S3 {LATENCY} ms away", f"s3://{store.name}")


MEASURES: dict[str, Callable[[Path, int, float], str]]
MEASURES = {"directory": in_directory, "s3": on_service, "million": million}


def main() -> None:
    parser = parser_of(__doc__, MEASURES)
    options = parser.parse_args()
    home = check(parser, options, only=MEASURES)
    for name in options.only.split(","):
        text = f"{machine(options, 'bench/archives.py')}\n{MEASURES[name](home, options.runs, options.scale)}"
        print(text)
        if options.write:
            put_into_results(f"archives-{name}", text)


if __name__ == "__main__":
    main()

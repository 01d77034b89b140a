"""Compares stores with packs and stores without, and other tools, where files are small and many.

    python bench/packs.py [--write] [--only directory,again,s3,s3-again,latency,releases,releases-s3,millions]
                          [--sides packs,plain,packs-pair,plain-pair,restic,borg,age,copy] [--latency 20]
                          [--runs 5] [--scale 1] [--dir DIR]

`latency` and `releases-s3` go through the proxy of the tests, which adds so many milliseconds to each request and
counts them. `copy`, only on request, is rclone's copy of the plain files. For
`releases`, five releases of botocore take each other's place in one directory, as an upgrade does it: each is archived,
the last is restored and compared, and all others are pruned. `millions`, only on request, writes 2 million files once,
once more, and restores them.

A side with "pair" has a key pair instead of a keyfile. restic has its cache here, without which its requests would be
many, and every restore begins with an empty one. What compare.py and services.py say about their figures holds here
too.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from compare import measure_speed
from data import Change, make_data, releases, size_of, title
from machine import check, machine, parser_of
from runs import Bench, Figures, Row
from services import KEY, RCLONE, SECRET, PogfastS3, RcloneCopy, ResticS3, Server, ServiceBench, serving
from sides import Pogfast, Restic, Side, age, borg, environment_with, our, released
from tables import OURS, peers_table, put_into_pages, put_into_results

TABLES = ("directory", "again", "s3", "s3-again", "latency", "releases", "releases-s3")
MORE = ("millions",)
FAR = ("latency", "releases-s3")
LATENCY = 20  # milliseconds
AnyBench = TypeVar("AnyBench", bound=Bench)
# Name, options of create, whether with a key pair.
OUR_SIDES: dict[str, tuple[str, tuple[str, ...], bool]] = {
    "packs": (f"{OURS} --packs", ("--packs",), False),
    "plain": (OURS, (), False),
    "packs-pair": (f"{OURS} --packs, key pair", ("--packs",), True),
    "plain-pair": (f"{OURS}, key pair", (), True),
}
SIDES = (*OUR_SIDES, "restic", "borg", "age")


def local_sides(home: Path, wanted: Sequence[str]) -> tuple[Side, ...]:
    ours = [
        Pogfast(name, our("pogfast"), home, options=words, pair=pair)
        for name, words, pair in (OUR_SIDES[key] for key in wanted if key in OUR_SIDES)
    ]
    restic = released("restic", "restic", "version")
    others: dict[str, Side | None] = {"restic": Restic(restic, ("restic",), home, cached=True) if restic else None}
    others |= {"borg": borg(home), "age": age(home)}
    return (*ours, *filter(None, (others.get(key) for key in wanted)))


def service_sides(home: Path, server: Server, rclone: Path, wanted: Sequence[str]) -> tuple[Side, ...]:
    found: list[Side] = [
        PogfastS3(name, our("pogfast"), home, options=words, pair=pair, server=server)
        for name, words, pair in (OUR_SIDES[key] for key in wanted if key in OUR_SIDES)
    ]
    restic = released("restic", "restic", "version") if "restic" in wanted else ""
    if restic:
        found.append(ResticS3(restic, ("restic",), home, server=server, cached=True))
    if "copy" in wanted:
        found.append(RcloneCopy("rclone 1.75.2 copy", (str(rclone), "--config", os.devnull), home, server=server))
    return tuple(found)


# ---- an S3 server, and how far it is ------------------------------------------------------------------------------


@contextlib.contextmanager
def service(home: Path, runs: int, wanted: Sequence[str], latency: int = 0) -> Iterator[ServiceBench]:
    """A comparison on rclone's server, so many milliseconds away."""
    rclone = environment_with(home, "rclone-1.75.2", RCLONE) / "rclone"
    with cleared(ServiceBench(home, (), runs)) as bench, contextlib.ExitStack() as stack:
        bench.buckets.mkdir()
        server = stack.enter_context(serving(rclone, bench.buckets, "--auth-key", f"{KEY},{SECRET}"))
        bench.servers = (server,)
        if latency:
            server = stack.enter_context(bench.far(server, latency))
        bench.sides = service_sides(home, server, rclone, wanted)
        yield bench


@contextlib.contextmanager
def cleared(bench: AnyBench) -> Iterator[AnyBench]:
    """Has the outputs deleted at the end of the program: ext4 makes new files slowly for minutes after many were
    deleted, which would measure the table before."""
    atexit.register(shutil.rmtree, bench.outputs, ignore_errors=True)
    yield bench


# ---- the tables ----------------------------------------------------------------------------------------------------


def speed(bench: Bench, where: str, scale: float) -> str:
    rows = zip(("writing", "restoring"), measure_speed(bench, ["small"], scale), strict=True)
    return "\n".join(table(f"Packs {where}: {what}", row) for what, row in rows)


def again(bench: Bench, where: str, scale: float) -> str:
    source, rows = make_data(bench.home, "small", scale), {}
    for what, change in (("unchanged", None), ("1 % changed", Change(source))):
        rows[f"{title('small', scale)}, {what}"] = bench.write_again(source, change)
    return table(f"Packs {where}: a second run", rows)


def table(heading: str, rows: dict[str, Row]) -> str:
    """A table whose ratios are to pogfast with packs, or to the first side where that was not measured."""
    sides = list(next(iter(rows.values())))
    base = OUR_SIDES["packs"][0]
    return peers_table(heading, rows, base if base in sides else sides[0])


STEPS = ("archiving the first", "archiving four more", "restoring the last", "pruning the others")


def upgrades(bench: Bench, where: str) -> str:
    """Archives the releases, each under the path of the one before it; restores the last, and prunes the others."""
    trees = releases(bench.home)
    sides = [side for side in bench.sides if side.remembers]
    rows: dict[str, Row] = {f"botocore, {step}": {side.name: Figures() for side in sides} for step in STEPS}
    for _ in range(bench.runs):
        for side in sides:
            upgrade(bench, side, trees, [row[side.name] for row in rows.values()])
    return table(f"Packs {where}: five releases of a package", rows)


def upgrade(bench: Bench, side: Side, trees: list[Path], figures: list[Figures]) -> None:
    first, more, restored, pruned = figures
    store = bench.fresh()
    if commands := side.prepare(store):
        bench.run(side, commands, store)
    four = Figures()
    for number, tree in enumerate(trees, 2 - len(trees)):
        with in_place(tree) as source:
            bench.timed(side, side.write_on(source, store, number), store, four if number > 2 - len(trees) else first)
        if tree is trees[0]:
            first.stored = size_of(store)
    add_sum(four, more)
    more.stored = size_of(store)
    restore_tree(bench, side, trees[-1], store, restored)
    bench.timed(side, side.prune(store), store, pruned)
    pruned.stored = size_of(store)
    restore_tree(bench, side, trees[-1], store, Figures())


@contextlib.contextmanager
def in_place(tree: Path) -> Iterator[Path]:
    source = tree.with_name("package")
    tree.rename(source)
    try:
        yield source
    finally:
        source.rename(tree)


def add_sum(runs: Figures, to: Figures) -> None:
    """Adds several runs, as if they were one."""
    to.wall.append(sum(runs.wall))
    to.cpu.append(sum(runs.cpu))
    to.user.append(sum(runs.user))
    to.memory.append(max(runs.memory))
    if runs.requests:
        to.requests.append(sum(runs.requests))


def restore_tree(bench: Bench, side: Side, tree: Path, store: Path, figures: Figures) -> None:
    into = bench.fresh()
    side.lay_out(store, into)
    bench.timed(side, side.restore(store, into), into, figures)
    [restored] = into.rglob("package")
    same(side, tree, restored)


def same(side: Side, source: Path, restored: Path) -> None:
    if subprocess.run(["diff", "-rq", source, restored], stdout=subprocess.DEVNULL).returncode:
        sys.exit(f"not reported: what {side.name} restored differs from its source")


def millions(bench: Bench, scale: float) -> str:
    """Writes very many files once, in a store in a directory; `index MB` are the index objects, `manifest MB` the last
    manifest."""
    name = title("millions", scale)
    source = make_data(bench.home, "millions", scale)
    lines = [
        f"### Packs in a directory: {name}",
        "",
        "| | wall s | user CPU s | CPU s | peak MB | stored MB | index MB | manifest MB |",
    ]
    lines.append("|---" * 8 + "|")
    for side in (side for side in bench.sides if side.remembers):
        store, into = bench.fresh(), bench.fresh()
        if commands := side.prepare(store):
            bench.run(side, commands, store)
        for what, number in (("writing", 0), ("a second run", 1)):
            figures = Figures()
            bench.timed(side, side.write_on(source, store, number), store, figures)
            lines.append(of_millions(f"{side.name}: {what}", figures, store))
        figures = Figures()
        side.lay_out(store, into)
        bench.timed(side, side.restore(store, into), into, figures)
        lines.append(of_millions(f"{side.name}: restoring", figures, None))
        same(side, source, next(into.rglob("data")))
    return "\n".join(lines) + "\n"


def of_millions(name: str, figures: Figures, store: Path | None) -> str:
    cells = [f"{figures.wall[0]:.1f}", f"{figures.user[0]:.1f}", f"{figures.cpu[0]:.1f}"]
    cells.append(f"{figures.memory[0] / 1e6:.0f}")
    sizes = ["", "", ""]
    if store is not None:
        manifests = sorted(store.glob("*.mfn"))
        index = size_of(store / "packs" / "index")
        sizes = [f"{megabytes / 1e6:.1f}" for megabytes in (size_of(store), index)]
        sizes.append(f"{manifests[-1].stat().st_size / 1e6:.1f}" if manifests else "")
    return f"| {name} | {' | '.join(cells + sizes)} |"


def measure(home: Path, wanted: Sequence[str], runs: int, scale: float, latency: int) -> dict[str, Callable[[], str]]:
    """Returns what makes each table, by its name."""

    def local(of: Callable[[Bench], str]) -> Callable[[], str]:
        def made() -> str:
            with cleared(Bench(home, local_sides(home, wanted), runs)) as bench:
                return of(bench)

        return made

    def served(of: Callable[[Bench], str], latency: int = 0) -> Callable[[], str]:
        def made() -> str:
            with service(home, runs, wanted, latency) as bench:
                return of(bench)

        return made

    here, there = "in a directory", "on S3"
    distant = f"{there} {latency} ms away"
    return {
        "directory": local(lambda bench: speed(bench, here, scale)),
        "again": local(lambda bench: again(bench, here, scale)),
        "s3": served(lambda bench: speed(bench, there, scale)),
        "s3-again": served(lambda bench: again(bench, there, scale)),
        "latency": served(lambda bench: speed(bench, distant, scale), latency),
        "releases": local(lambda bench: upgrades(bench, here)),
        "releases-s3": served(lambda bench: upgrades(bench, distant), latency),
        "millions": local(lambda bench: millions(bench, scale)),
    }


def main() -> None:
    parser = parser_of(__doc__, TABLES, SIDES)
    parser.add_argument(
        "--latency", type=int, default=LATENCY, metavar="MS", help="what the proxy adds to each request"
    )
    options = parser.parse_args()
    home = check(parser, options, only=TABLES + MORE, sides=(*SIDES, "copy"))
    only, wanted = options.only.split(","), options.sides.split(",")
    for name, made in measure(home, wanted, options.runs, options.scale, options.latency).items():
        if name in only:
            print(name, file=sys.stderr)
            text = f"{machine(options, 'bench/packs.py')}\n{made()}"
            print(text)
            if options.write:
                far = name in FAR and options.latency != LATENCY
                put_into_results(f"packs-{name}-{options.latency}" if far else f"packs-{name}", text)
                put_into_pages()


if __name__ == "__main__":
    main()

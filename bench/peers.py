"""`pogfast` beside what else does such work: pogcli, `zstd -T0 | age`, restic and borg, in one run, in alternation.

    python bench/peers.py [--write] [--only random,tar,small] [--runs 5] [--scale 1] [--dir DIR]
    python bench/peers.py --readme

The data, the timing and its rules are compare.py's: warm input, whole processes, the disk synced before each run and
outside the timing, every restored file compared with its source, nothing reported of a run that failed. Everybody
writes into an empty store of its own, which restic and borg initialise outside the timing, with level 3 of zstd where
there is a choice; caches are off. CPU seconds are those of all processes of a side, memory is that of its largest.
`zstd | age` neither names nor deduplicates nor syncs what it writes; of the others only pogfast syncs the disk. Peers
that are not installed are named and left out (Debian: apt-get install restic borgbackup age zstd).
"""

from __future__ import annotations

import argparse
import filecmp
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import compare
from compare import TITLES, Figures, files_below, make_data, pogcli, scaled, spread, timed, warm

WORKLOADS = ("random", "tar", "small")


@dataclass(frozen=True)
class Peer:
    """One way to write an archive of `data` into `place`, and to bring it back into `out`. Commands run in `place` and
    in `out`; what they need beforehand is done outside the timing."""

    name: str
    write: Callable[[Path, Path], Sequence[str]]
    restore: Callable[[Path, Path], Sequence[str]]
    prepare: Callable[[Path], None] = lambda place: None
    before_restore: Callable[[Path, Path], None] = lambda place, out: None


def peers(home: Path) -> list[Peer]:
    """Those that can be had, ours first."""
    key = home / "key"
    if not key.exists():
        key.write_bytes(os.urandom(32))
    found = [_pogfast(key), _pogcli(home, key)]
    for needs, make in ((("zstd", "age", "age-keygen"), _age), (("restic",), _restic), (("borg",), _borg)):
        missing = [program for program in needs if shutil.which(program) is None]
        if missing:
            print(f"left out, because {' and '.join(missing)} is not installed: {make.__name__[1:]}", file=sys.stderr)
        else:
            found.append(make(home))
    return found


def _pogfast(key: Path) -> Peer:
    script = Path(sys.executable).with_name("pogfast")
    command = [str(script)] if script.exists() else [sys.executable, "-m", "pogfast"]
    return Peer(
        "pogfast",
        lambda data, place: [*command, "create", str(data), "--to=store", f"--keyfile={key}", "--no-cache", "-q"],
        lambda place, out: [*command, "restore", f"{place}/store/latest", "--into=.", f"--keyfile={key}", "-q"],
    )


def _pogcli(home: Path, key: Path) -> Peer:
    [command] = pogcli(home).command

    def link(place: Path, out: Path) -> None:
        for blob in place.iterdir():
            os.link(blob, out / blob.name)

    def restore(place: Path, out: Path) -> list[str]:
        [manifest] = place.glob("*.mfn")
        return [command, f"--keyfile={key}", "--decrypt", manifest.name]

    def write(data: Path, place: Path) -> list[str]:
        return [command, f"--keyfile={key}", str(data)]

    return Peer("pogcli 0.1.4", write, restore, before_restore=link)


def _age(home: Path) -> Peer:
    key = home / "age.key"
    if not key.exists():
        subprocess.run(["age-keygen", "-o", key], check=True, stderr=subprocess.DEVNULL)
    [public] = [line.split()[-1] for line in key.read_text().splitlines() if "public key" in line]

    def write(data: Path, place: Path) -> list[str]:
        return _pipe(f"tar cf - -C {data.parent} {data.name} | zstd -T0 -3 -q | age -r {public} -o archive.age")

    def restore(place: Path, out: Path) -> list[str]:
        return _pipe(f"age -d -i {key} {place}/archive.age | zstd -d -q | tar xf -")

    return Peer("tar, zstd -T0, age", write, restore)


def _pipe(line: str) -> list[str]:
    return [shutil.which("bash") or "bash", "-o", "pipefail", "-c", line]


def _restic(home: Path) -> Peer:
    command = [shutil.which("env") or "env", "RESTIC_PASSWORD=bench", "restic", "--no-cache", "-q"]
    return Peer(
        "restic",
        lambda data, place: [*command, "-r", "repository", "backup", str(data)],
        lambda place, out: [*command, "-r", f"{place}/repository", "restore", "latest", "--target=."],
        lambda place: _run([*command, "-r", "repository", "init"], place),
    )


def _borg(home: Path) -> Peer:
    settings = ("BORG_PASSPHRASE=bench", f"BORG_BASE_DIR={home}/borg", "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK=yes")
    command = [shutil.which("env") or "env", *settings, "BORG_RELOCATED_REPO_ACCESS_IS_OK=yes", "borg"]
    return Peer(
        "borg",
        lambda data, place: [*command, "create", "-C", "zstd,3", "repository::archive", str(data)],
        lambda place, out: [*command, "extract", f"{place}/repository::archive"],
        lambda place: _run([*command, "init", "-e", "repokey", "repository"], place),
    )


def _run(command: Sequence[str], place: Path) -> None:
    subprocess.run(command, cwd=place, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


# ---- runs ----------------------------------------------------------------------------------------------------------


@dataclass
class Row:
    """A workload: the figures of each peer."""

    written: dict[str, Figures]
    restored: dict[str, Figures]
    stored: dict[str, int]  # bytes


def measure(home: Path, outputs: Path, sides: Sequence[Peer], workload: str, scale: float, runs: int) -> Row:
    data = make_data(home, workload, scale)
    warm(data)
    row = Row({peer.name: Figures() for peer in sides}, {peer.name: Figures() for peer in sides}, {})
    archives: dict[str, Path] = {}
    for number in range(runs):
        for peer in sides:
            place = Path(tempfile.mkdtemp(dir=outputs))
            peer.prepare(place)
            timed(peer.write(data, place), place, row.written[peer.name])
            if number == 0:
                archives[peer.name] = place
                row.stored[peer.name] = sum(file.stat().st_size for file in files_below(place))
            else:
                clear(place)
    wanted = {file.name: file for file in files_below(data)}
    for _ in range(runs):
        for peer in sides:
            out = Path(tempfile.mkdtemp(dir=outputs))
            peer.before_restore(archives[peer.name], out)
            timed(peer.restore(archives[peer.name], out), out, row.restored[peer.name])
            restored = {file.name: file for file in files_below(out)}
            missing = wanted.keys() - restored.keys()
            if missing or not all(filecmp.cmp(file, restored[name], False) for name, file in wanted.items()):
                sys.exit(f"not reported: what {peer.name} restored differs from its source")
            clear(out)
    for place in archives.values():
        clear(place)
    return row


def clear(place: Path) -> None:
    """Removes what is large; many small files stay until the end (see compare.py)."""
    for file in files_below(place):
        if file.stat().st_size > 10**6:
            file.unlink()


# ---- tables --------------------------------------------------------------------------------------------------------


def tables(rows: dict[str, Row]) -> str:
    names = list(next(iter(rows.values())).written)
    parts = []
    for what, pick in (("Writing", lambda row: row.written), ("Restoring", lambda row: row.restored)):
        figures = {title: pick(row) for title, row in rows.items()}
        parts += [
            f"### {what} beside others: wall seconds, minimum (median), and how many times ours",
            _table(names, figures, lambda f, ours: f"{spread(f.wall)} **{min(f.wall) / min(ours.wall):.2f}**"),
            f"### {what} beside others: CPU seconds, minimum (median), and how many times ours",
            _table(names, figures, lambda f, ours: f"{spread(f.cpu)} **{min(f.cpu) / min(ours.cpu):.2f}**"),
            f"### {what} beside others: peak memory, MB",
            _table(names, figures, lambda f, ours: f"{max(f.memory) / 1e6:.0f}"),
        ]
    parts.append("### Stored, MB")
    lines = [_head(names)]
    lines += [f"| {t} | {' | '.join(f'{row.stored[name] / 1e6:.0f}' for name in names)} |" for t, row in rows.items()]
    parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _head(names: Sequence[str]) -> str:
    return f"| | {' | '.join(names)} |\n|{'---|' * (len(names) + 1)}"


def _table(
    names: Sequence[str], rows: dict[str, dict[str, Figures]], cell: Callable[[Figures, Figures], str]
) -> str:
    lines = [_head(names)]
    for title, figures in rows.items():
        cells = [cell(figures[name], figures[names[0]]) for name in names]
        cells[0] = cells[0].partition(" **")[0]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def readme_table(results: str) -> str:
    """What the README shows: the minima of wall seconds, and how many times ours they are."""
    lines: list[str] = []
    for what in ("Writing", "Restoring"):
        title = f"{what} beside others: wall seconds, minimum (median), and how many times ours"
        rows = compare.rows_of(results, title)
        if not lines:
            names = results.partition(f"### {title}\n\n| | ")[2].partition("\n")[0].strip("| ").split(" | ")
            lines = [_head(names).replace("| |", "| seconds, the best runs |", 1)]
        for name, cells in rows.items():
            lines.append(f"| {what.lower()} {name} | {' | '.join(map(_short, cells))} |")
    measured = results.partition("<!-- peers -->\n")[2].partition(". Command:")[0]
    source = "[bench/RESULTS.md](bench/RESULTS.md) has the medians, CPU seconds, memory and sizes."
    return "\n".join([*lines, "", f"{measured}: {source}"]) + "\n"


def _short(cell: str) -> str:
    """`1.20 (1.30) **2.00**` -> `1.20 (2.0x)`."""
    seconds, _, times = cell.partition(" (")
    factor = times.partition("**")[2].strip("*")
    return f"{seconds} ({float(factor):.1f}x)" if factor else f"**{seconds}**"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(WORKLOADS), help="which data, separated by commas")
    parser.add_argument("--runs", type=int, default=5, help="of each side")
    parser.add_argument("--scale", type=float, default=1, help="of the data; 1 is what RESULTS.md shows")
    parser.add_argument("--dir", type=Path, default=Path(tempfile.gettempdir()) / "pogfast-bench", help="for data")
    parser.add_argument("--write", action="store_true", help="put the tables into RESULTS.md and the README")
    parser.add_argument("--readme", action="store_true", help="measure nothing, make the README's table anew")
    options = parser.parse_args()
    if options.readme:
        put_into_readme()
        return
    if options.write and options.scale != 1:
        parser.error("--write is for the whole data: RESULTS.md shows what a user would see")
    only = options.only.split(",")
    if unknown := set(only) - set(WORKLOADS):
        parser.error(f"no such data: {', '.join(sorted(unknown))}")
    options.dir.mkdir(parents=True, exist_ok=True)
    outputs = Path(tempfile.mkdtemp(prefix="runs-", dir=options.dir))
    sides = peers(options.dir)
    rows: dict[str, Row] = {}
    try:
        for workload in only:
            title = TITLES[workload] + scaled(options.scale)
            print(title, file=sys.stderr)
            rows[title] = measure(options.dir, outputs, sides, workload, options.scale, options.runs)
    finally:
        shutil.rmtree(outputs)
    text = compare.machine(options, "peers.py") + "\n" + tables(rows)
    print(text)
    if options.write:
        compare.put_into_results("peers", text)
        put_into_readme()


def put_into_readme() -> None:
    compare.put_between("peers", readme_table(compare.RESULTS.read_text()))


if __name__ == "__main__":
    main()

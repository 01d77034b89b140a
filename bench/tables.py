"""Formats measurements as tables in RESULTS.md, and derives the tables of README.md and docs/pog.md from that file.

It runs nothing, and knows tools only by their names in the figures.
Ratios are of minima, because other work on the machine only ever adds time. Ratios of medians follow in brackets.
"""

from __future__ import annotations

import re
import statistics
from pathlib import Path

from runs import Row

HERE = Path(__file__).parent
RESULTS = HERE / "RESULTS.md"
README = HERE.parent / "README.md"
POG = HERE.parent / "docs" / "pog.md"
OURS = "pogfast"  # the side that all others are compared with
LIMIT = "limit"  # of the machine, as limit.py computes it
# README.md shows the workloads where pogfast is least ahead, and the tools that a reader may be using now.
NOT_IN_README = ("1 GB random ", "pog ", "pogfast fastcdc ", "rclone ", f"{LIMIT} ")
AGAIN = "A second run into the same store"
SYNC = "Restoring, with its syncs and without"
BEFORE = "Writing, beside an earlier release", "Restoring, beside an earlier release"


def pair_table(title: str, rows: dict[str, Row], mine: str, theirs: str) -> str:
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


def peers_table(title: str, rows: dict[str, Row], base: str = OURS) -> str:
    """A row for each side of each workload, with its ratio to the side `base`."""
    lines = [
        f"### {title}",
        "",
        f"| | wall s, min (median) | times {base}'s, minima (medians) | CPU s, min (median) | times {base}'s "
        "| peak MB | stored MB | user CPU s | requests |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for workload, figures in rows.items():
        ours = figures[base]
        for side, its in figures.items():
            stored = f"{its.stored / 1e6:.1f}" if its.stored else ""
            lines.append(
                f"| {workload}: {side} | {spread(its.wall)} | {ratio(ours.wall, its.wall)} "
                f"| {spread(its.cpu)} | {ratio(ours.cpu, its.cpu)} | {max(its.memory) / 1e6:.0f} | {stored} "
                f"| {spread(its.user) if its.user else ''} | {max(its.requests, default='')} |"
            )
    return "\n".join(lines) + "\n"


def help_table(row: Row, base: str) -> str:
    lines = ["### --help", "", f"| | wall s, min (median) | times `{base}` |", "|---|---|---|"]
    shortest = min(row[base].wall)
    lines += [f"| {name} | {spread(f.wall)} | {min(f.wall) / shortest:.1f} |" for name, f in row.items()]
    return "\n".join(lines) + "\n"


def spread(values: list[float]) -> str:
    digits = 3 if min(values) < 0.2 else 2
    return f"{min(values):.{digits}f} ({statistics.median(values):.{digits}f})"


def ratio(a: list[float], b: list[float]) -> str:
    return f"{min(b) / min(a):.2f} ({statistics.median(b) / statistics.median(a):.2f})"


# ---- RESULTS.md ----------------------------------------------------------------------------------------------------


def put_into_results(part: str, text: str) -> None:
    """Replaces the text between this part's markers, or appends the part."""
    old = RESULTS.read_text() if RESULTS.exists() else "# Measured\n"
    RESULTS.write_text(between_markers(old, part, text) or f"{old}\n<!-- {part} -->\n{text}<!-- /{part} -->\n")


def between_markers(page: str, part: str, text: str) -> str | None:
    """Returns the page with `text` between the markers of `part`, or None if it has no such markers."""
    begin, end = f"<!-- {part} -->\n", f"<!-- /{part} -->"
    head, found, rest = page.partition(begin)
    return head + begin + text + end + rest.partition(end)[2] if found else None


def rows_of(results: str, title: str) -> dict[str, list[str]]:
    """Returns the rows of one table in RESULTS.md, by their first cell."""
    _, _, rest = results.partition(f"### {title}\n")
    lines = rest.lstrip("\n").partition("\n\n")[0].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return {row[0]: row[1:] for row in cells[2:]}


# ---- the tables of README.md and docs/pog.md -----------------------------------------------------------------------


def pog_table(results: str) -> str:
    """Returns docs/pog.md's comparison of pog with pogcli: minima of wall seconds, and peak memory."""
    written, restored, memory = (rows_of(results, title) for title in ("Writing", "Restoring", "Memory (writing)"))
    lines = [
        "| seconds, the best runs | `pog` writes | pogcli 0.1.4 | ratio | `pog` restores | pogcli 0.1.4 | ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in written.items():
        lines.append(f"| {name} | {minima(row)} | {minima(restored[name])} |")
    for name, row in memory.items():
        mine, theirs = row[6:8]
        lines.append(f"| peak memory, {name} | {mine} MB | {theirs} MB | **{float(theirs) / float(mine):.1f}** | | | |")
    if where := measured_on(results, "speed"):
        lines += ["", f"{where}: [bench/RESULTS.md](../bench/RESULTS.md) has the medians and CPU seconds."]
    return "\n".join(lines) + "\n"


def minima(row: list[str]) -> str:
    mine, theirs, times = (first(cell) for cell in row[:3])
    return f"{mine} | {theirs} | **{float(times):.1f}**"


def first(cell: str) -> str:
    """Returns the minimum from a cell `minimum (median)`."""
    return cell.split()[0]


WRITING, RESTORING = "Writing, beside its peers", "Restoring, beside its peers"


def readme_peers(results: str) -> str:
    """Returns README.md's comparison of pogfast with its peers: seconds of the best runs; "" if none was measured."""
    written, restored = (rows_of(results, title) for title in (WRITING, RESTORING))
    if not written:
        return ""
    names = zip(*(row.split(": ") for row in written), strict=True)
    workloads, sides = (
        [name for name in dict.fromkeys(part) if not f"{name} ".startswith(NOT_IN_README)] for part in names
    )
    heads = [f"{workload}: {what}" for workload in workloads for what in ("writing", "restoring")]
    lines = [f"| seconds, the best runs | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for side in sides:
        cells = [peer(rows[f"{workload}: {side}"]) for workload in workloads for rows in (written, restored)]
        lines.append(f"| {side} | {' | '.join(cells)} |")
    lines += [
        "",
        f"In brackets: multiples of {OURS}'s time. zstd and age do not deduplicate and do not sync to disk. "
        f"{measured_on(results, 'peers')}: [bench/RESULTS.md](bench/RESULTS.md) has all workloads, tools and figures.",
    ]
    return "\n".join(lines) + "\n"


PACKS_IN_README = {
    "directory": "Packs in a directory",
    "S3": "Packs on S3",
    "S3, 20 ms away": "Packs on S3 20 ms away",
}


def readme_packs(results: str) -> str:
    """Returns README.md's comparison of stores with packs: seconds of the best runs; "" if none was measured."""
    columns: dict[str, dict[str, list[str]]] = {}
    for where, title in PACKS_IN_README.items():
        for what in ("writing", "restoring"):
            rows = rows_of(results, f"{title}: {what}")
            if rows:
                columns[f"{where}: {what}"] = {name.partition(": ")[2]: row for name, row in rows.items()}
    sides = list(
        dict.fromkeys(
            side
            for rows in columns.values()
            for side in rows
            if not side.endswith("key pair") and not side.startswith(("borg", "zstd"))
        )
    )
    if not sides:
        return ""
    lines = [f"| 20,000 small files | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for side in sides:
        cells = [peer(rows[side]) if side in rows else "" for rows in columns.values()]
        lines.append(f"| {side} | {' | '.join(cells)} |")
    measured = measured_on(results, "packs-s3") or measured_on(results, "packs-latency")
    lines += ["", f"Multiples of the time with packs. {measured}."]
    return "\n".join(lines) + "\n"


def peer(row: list[str]) -> str:
    wall, times = (first(cell) for cell in row[:2])
    return f"{wall} (**{float(times):.1f}**)"


def measured_on(results: str, part: str) -> str:
    """Returns the day and machine of a part of RESULTS.md."""
    found = re.search(rf"<!-- {part} -->\n(.*?)\. Command:", results)
    return found[1] if found else ""


def put_into_pages() -> None:
    results = RESULTS.read_text()
    for page, part, text in (
        (POG, "measured", pog_table(results)),
        (README, "peers", readme_peers(results)),
        (README, "packs", readme_packs(results)),
    ):
        changed = between_markers(page.read_text(), part, text)
        assert changed is not None, f"{page.name} has no markers for {part}"
        page.write_text(changed)

"""Draws RESULTS.md's comparison with other tools: the time of each as a multiple of pogfast's.

It measures nothing; call `draw` after changing the tables in RESULTS.md. Matplotlib is optional: without it the picture
is not updated.
"""

from __future__ import annotations

import sys

from tables import AGAIN, HERE, LIMIT, OURS, RESTORING, RESULTS, WRITING, first, rows_of

PICTURE = HERE / "results.svg"


def draw() -> None:
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        print("matplotlib is not installed: results.svg is not updated", file=sys.stderr)
        return
    results = RESULTS.read_text()
    parts = {name: rows_of(results, name) for name in (WRITING, RESTORING, AGAIN)}
    times: dict[str, dict[str, float]] = {}  # workload -> side -> multiple of pogfast's time
    for part, rows in parts.items():
        for row, cells in rows.items():
            workload, _, side = row.rpartition(": ")
            what = {WRITING: "writing", RESTORING: "restoring", AGAIN: "again"}[part]
            times.setdefault(f"{workload}: {what}", {})[side] = float(first(cells[1]))
    sides = list(dict.fromkeys(side for row in times.values() for side in row if side != OURS))
    with matplotlib.rc_context({"font.size": 9, "svg.hashsalt": "pogfast", "svg.fonttype": "none"}):
        sheet = Figure(figsize=(10, 0.55 * len(times) + 2), layout="constrained")
        axes = sheet.subplots()
        height = 0.8 / max(len(sides), 1)
        for number, side in enumerate(sides):
            places = [index + number * height for index, row in enumerate(times.values()) if side in row]
            style = {"color": "black"} if side == LIMIT else {}
            axes.barh(places, [row[side] for row in times.values() if side in row], height, label=side, **style)
        axes.axvline(1, color="tab:red")
        axes.set_yticks([index + 0.4 for index in range(len(times))], list(times))
        axes.invert_yaxis()
        axes.set(xscale="log", xlabel=f"seconds, times those of {OURS} (red): left of it is faster")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.legend(fontsize=8, loc="lower right")
        axes.grid(axis="x", alpha=0.3)
        sheet.savefig(PICTURE, metadata={"Date": None})

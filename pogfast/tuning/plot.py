"""Plots what tune measured: speed by chunk size, and compression ratio by speed.

Matplotlib is imported here and nowhere else, and needs no display.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pogfast.errors import UsageError
from pogfast.tuning import Figures

try:
    import matplotlib
    from matplotlib.figure import Figure
except ImportError as error:
    raise UsageError(
        "plots need matplotlib, which is not installed", hint="pip install '.[plot]' in the source"
    ) from error

SUFFIXES = (".png", ".svg")
MARKS = {"fixed": "o", "fastcdc": "s"}


def check(path: str) -> None:
    """Raises UsageError unless a path ends in .png or .svg."""
    if not path.lower().endswith(SUFFIXES):
        raise UsageError(f"{path} is neither a .png nor a .svg")


def draw(figures: Sequence[Figures], best: Figures, path: str) -> None:
    """Writes a PNG or an SVG, by the suffix of the path. Raises UsageError and OSError."""
    check(path)
    with matplotlib.rc_context({"font.size": 9, "svg.hashsalt": "pogfast"}):
        sheet = Figure(figsize=(11, 4.5), layout="constrained")
        left, right = sheet.subplots(1, 2)
        _speeds(left, figures)
        _front(right, figures, best)
        sheet.savefig(path, dpi=150)


def _speeds(axes: Any, figures: Sequence[Figures]) -> None:
    """Plots speed by chunk size, of the settings with the level and jobs of the first."""
    first = figures[0].setting
    alike = [each for each in figures if each.setting[2:] == first[2:]]
    for kind, mark in MARKS.items():
        those = sorted((e for e in alike if e.setting.kind == kind), key=lambda e: e.setting.cuts.mean)
        if not those:
            continue
        sizes = [each.setting.cuts.mean / 1e6 for each in those]
        for what, style in (("write_speed", "-"), ("restore_speed", "--")):
            speeds = [getattr(each, what) / 1e6 for each in those]
            axes.plot(sizes, speeds, style, marker=mark, label=f"{kind}, {what.partition('_')[0]}")
    axes.set(xscale="log", xlabel="size of chunks, MB (the mean of fastcdc's)", ylabel="MB/s", ylim=(0, None))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_title(f"Level {first.level}, jobs {first.jobs}")
    axes.legend()
    axes.grid(alpha=0.3)


def _front(axes: Any, figures: Sequence[Figures], best: Figures) -> None:
    """Plots ratio by speed; a line joins the settings that no other beats in both."""
    front = unbeaten(figures)
    for each in figures:
        axes.plot(
            each.write_speed / 1e6,
            each.ratio,
            MARKS[each.setting.kind],
            color="tab:red" if each is best else "tab:blue",
        )
        if each in front or each is best:
            label = f"{each.setting.chunks}, level {each.setting.level}"
            at = (each.write_speed / 1e6, each.ratio)
            axes.annotate(label, at, (-4, -10), textcoords="offset points", fontsize=7, ha="right")
    axes.plot([each.write_speed / 1e6 for each in front], [each.ratio for each in front], ":", color="grey", zorder=0)
    axes.set(xlabel="writing, MB/s", ylabel="uncompressed bytes per stored byte", xlim=(0, None))
    axes.set_title("Ratio by speed (red: the best)")
    axes.grid(alpha=0.3)


def unbeaten(figures: Sequence[Figures]) -> list[Figures]:
    """Returns the settings that no other beats in both speed and ratio (the Pareto front), by speed."""
    front: list[Figures] = []
    for each in sorted(figures, key=lambda each: (-each.write_speed, -each.ratio)):
        if not front or each.ratio > front[-1].ratio:
            front.append(each)
    return front[::-1]

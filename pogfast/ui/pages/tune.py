"""Tune: measures which settings suit some data and a store, as a job; its table, its plot, and keeping the best.

The package `tuning` measures, in processes of its own. The plot needs matplotlib; without it there is the table.
"""

from __future__ import annotations

import os
import tempfile
from typing import TYPE_CHECKING, Literal, cast

from starlette.requests import Request
from starlette.responses import Response

from pogfast.errors import NoSuchEntry, UsageError
from pogfast.sizes import LEVELS, many, parse_size, parse_whole, show_size
from pogfast.ui import shell
from pogfast.ui.forms import Form
from pogfast.ui.jobs import Counters, Job
from pogfast.ui.pages import picker
from pogfast.ui.pages.download import SANDBOX
from pogfast.ui.site import Site, go_to_job

if TYPE_CHECKING:
    from pogfast.tuning import Figures, Outcome
    from pogfast.tuning.sampling import Sample
    from pogfast.tuning.trial import Setting

Aim = Literal["both", "speed", "size"]
AIMS = ("both", "speed", "size")
SAMPLE = "100MB"
HEAD = ["chunks", "level", "jobs", "writes", "restores", "ratio", "repeats", "peak"]


def page(request: Request) -> Response:
    """Shows the form."""
    site = Site.of(request)
    return site.page(request, "tune.html", sample=SAMPLE, **picker.listed(site, site.roots.paths[0], files=True))


def start(request: Request, form: Form) -> Response:
    """Measures, as a job."""
    site = Site.of(request)
    paths = [site.roots.inside(path) for path in form.names("path")]
    if not paths:
        raise UsageError("nothing to measure with is chosen", hint="add directories or files")
    aim, sample = cast(Aim, form.choice("aim", AIMS)), form.text("sample", SAMPLE)
    size = parse_size("sample", sample)
    levels = [parse_whole("levels", text.strip(), *LEVELS) for text in form.text("levels", "1,3,6,9").split(",")]
    chunkers = form.text("chunkers").split()
    to = site.shelf.find(form.text("store")).address if form.text("store") else None

    def work(job: Job) -> None:
        from pogfast import tuning

        outcome = tuning.tune(
            paths,
            to,
            report=_Trials(job, tuning.MIN_ROUNDS),
            sample_size=size,
            aim=aim,
            levels=levels,
            chunkers=chunkers,
        )
        best = outcome.best
        job.summary = [("Best", str(best.setting)), ("Why", outcome.why)]
        job.table = (HEAD, [_row(figures, figures is best) for figures in outcome.figures])
        job.pictures = _plot(outcome)
        job.settings = _settings(best.setting)

    words = [*shell.option("to", to), *shell.option("sample", sample), *shell.option("aim", aim)]
    words += [*shell.option("levels", ",".join(map(str, levels))), *shell.options("chunker", chunkers)]
    job = site.jobs.start(
        "Tune", work, command=shell.line(["pogfast", "tune", *words, *shell.names(paths)]), keeps="Nothing is kept."
    )
    return go_to_job(job)


class _Trials:
    """A tuning.Report: counts trials."""

    def __init__(self, job: Job, rounds: int) -> None:
        self._job = job
        self._rounds = rounds
        self._done = self._planned = 0
        self.problem = job.problem

    def sampled(self, sample: Sample) -> None:
        what = "all" if sample.is_all else "a sample"
        self._job.note("Measured with", f"{what}: {many(sample.files, 'file')}, {show_size(sample.size)}")

    def stage(self, what: str, settings: int) -> None:
        self._planned = self._done + settings * self._rounds
        self._job.note("Stages", f"{what}: {many(settings, 'setting')} to try")

    def trial(self, figures: Figures) -> None:
        self._done += 1
        done, planned = self._done, max(self._planned, self._done)
        self._job.counters = lambda: Counters(done, planned, noun="trial")


def _row(figures: Figures, is_best: bool) -> list[str]:
    setting = figures.setting
    return [
        f"{setting.chunks}{' (best)' if is_best else ''}",
        str(setting.level),
        str(setting.jobs),
        f"{show_size(figures.write_speed)}/s",
        f"{show_size(figures.restore_speed)}/s",
        f"{figures.ratio:.3f}",
        f"{figures.repeated:.1%}",
        show_size(figures.memory),
    ]


def _plot(outcome: Outcome) -> dict[str, bytes]:
    """Returns the plot, nothing where matplotlib is missing."""
    try:
        from pogfast.tuning import plot
    except UsageError:
        return {}
    with tempfile.TemporaryDirectory(prefix="pogfast-ui-") as directory:
        path = os.path.join(directory, "plot.svg")
        plot.draw(outcome.figures, outcome.best, path)
        with open(path, "rb") as file:
            return {"plot.svg": file.read()}


def _settings(setting: Setting) -> dict[str, str | int]:
    cut: dict[str, str | int] = {"chunker": setting.chunker}
    if not setting.cuts.by_content:
        cut = {"chunk_size": setting.chunk_size}
    return {**cut, "level": setting.level, "jobs": setting.jobs}


def plot(request: Request) -> Response:
    """Sends the plot of a job."""
    picture = _job(request).pictures.get("plot.svg")
    if picture is None:
        raise NoSuchEntry("this job has no plot")
    return Response(picture, media_type="image/svg+xml", headers={"Content-Security-Policy": SANDBOX})


def save(request: Request, form: Form) -> Response:
    """Keeps the best settings as a profile of `create`."""
    from pogfast.backup import profiles

    job = _job(request)
    if not job.settings:
        raise UsageError("this job has no settings to keep")
    name = form.text("name")
    if not name or "/" in name:
        raise UsageError("the name of a profile is a word, without /")
    profiles.save(name, job.settings, "made by: pogfast ui, Tune")
    return Site.of(request).page(request, "tune_saved.html", name=name)


def _job(request: Request) -> Job:
    found = Site.of(request).jobs.find(int(request.path_params["number"]))
    if found is None:
        raise NoSuchEntry("no such job")
    return found

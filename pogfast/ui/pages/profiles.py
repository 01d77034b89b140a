"""Profiles of the configuration: what they do, how their runs have ended, and Run now.

A run is that of `pogfast run`: the same function, with hooks, needs and a record, which the command line sees as well.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response

from pogfast.errors import NoSuchEntry, PogfastError
from pogfast.sizes import many, show_size
from pogfast.ui import shell
from pogfast.ui.configuration import Seen, ended_at, verdict_of_run
from pogfast.ui.forms import Form
from pogfast.ui.jobs import CHECKED, Counters, Job
from pogfast.ui.site import Site, go_to_job
from pogfast.ui.stores import KnownStore, shelved

if TYPE_CHECKING:
    from pogfast import backup
    from pogfast.runs import Record, VerbRecord
    from pogfast.runs.report import Progress
    from pogfast.upkeep import checking, copying

DONE = {"create": "written", "copy": "written", "prune": "pruned", "check": CHECKED}  # what verbs do to stores


def profiles(request: Request) -> Response:
    """Shows all profiles with their last runs."""
    site = Site.of(request)
    seen = site.refresh()
    rows = [_row(seen, name) for name in seen.profiles]
    return site.page(request, "profiles.html", seen=seen, rows=rows)


def _row(seen: Seen, name: str) -> dict[str, object]:
    record = seen.last_run(name)
    return {
        "profile": seen.profiles[name],
        "record": record,
        "time": ended_at(record) if record else None,
        "verdict": verdict_of_run(record) if record else None,
    }


def profile(request: Request) -> Response:
    """Shows one profile: what it does, and its runs."""
    site, seen, name = _named(request)
    runs = [(record, ended_at(record), verdict_of_run(record)) for record in reversed(seen.history(name))]
    assert seen.config is not None
    command = shell.line(["pogfast", "run", name, *shell.option("config", seen.config.file)])
    return site.page(
        request,
        "profile.html",
        profile=seen.profiles[name],
        settings=seen.config.settings(name),
        runs=runs,
        command=command,
    )


def _named(request: Request) -> tuple[Site, Seen, str]:
    site, name = Site.of(request), str(request.path_params["name"])
    seen = site.refresh()
    if name not in seen.profiles:
        raise NoSuchEntry(f"the configuration has no profile {name}")
    return site, seen, name


def start(request: Request, form: Form) -> Response:
    """Runs a profile, as a job."""
    site, seen, name = _named(request)
    config, profile = seen.config, seen.profiles[name]
    assert config is not None

    def work(job: Job) -> None:
        from pogfast import runs

        record = runs.run(config, name, report=_Report(job))
        job.exit_code = record.exit_code
        job.summary = [("Outcome", verdict_of_run(record).words)]
        if record.message:
            job.summary.append(("Why", record.message))
        job.summary += [(verb.verb, _figures(verb)) for verb in record.verbs]

    def end(job: Job) -> None:
        for store in site.shelf:
            store.changed()

    job = site.jobs.start(
        f"Run {name}",
        work,
        stores=[
            KnownStore(each, shelved(config.stores[each].address)).at_work()
            for each in dict.fromkeys([*profile.all_stores, *profile.pruned, *profile.checked])
        ],
        command=shell.line(["pogfast", "run", name, *shell.option("config", config.file)]),
        keeps="What is done stays; run it again to continue.",
        finally_=end,
    )
    job.link = (f"/profiles/{name}", f"Runs of {name}")
    return go_to_job(job)


def _figures(verb: VerbRecord) -> str:
    """Returns what a verb did, in words."""
    if verb.error:
        return verb.error
    if verb.skipped:
        return "skipped"
    figures = {word: int(number) for word, number in verb.figures.items()}
    match verb.verb:
        case "create":
            files = f"{many(figures['files_new'], 'file')} new, {figures['files_unchanged']:,} unchanged"
            said = f"{files}; {show_size(figures['bytes_added'])} stored"
        case "copy":
            said = f"{many(figures['archives'], 'archive')}, {show_size(figures['size'])}"
        case "prune":
            said = f"{figures['kept']:,} kept, {figures['removed']:,} removed"
        case _:
            said = f"{many(figures['archives'], 'archive')}, {show_size(figures['read_size'])} read"
    return f"{said} ({', '.join(verb.stores)})"


class _Report:
    """A runs.Report that shows a run as a job."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self.warning = job.warning

    def started(self, record: Record) -> None:
        """The record is shown when the run has ended."""

    def verb(self, verb: VerbRecord) -> None:
        self._job.note("Steps", f"{verb.verb} {', '.join(verb.stores)}")
        for place in self._job.stores:
            if place.name in verb.stores:
                is_source = verb.verb == "copy" and place.name == verb.stores[0]
                place.done = "read" if is_source else DONE[verb.verb]

    def progress(self, verb: VerbRecord, progress: Callable[[], Progress]) -> None:
        self._job.counters = lambda: _counters(progress())

    def verb_ended(self, verb: VerbRecord) -> None:
        last = self._job.counters()
        self._job.counters = lambda: last

    def waiting(self, text: str) -> None:
        self._job.note("Steps", text)

    def hook(self, line: str) -> None:
        self._job.note("Output of hooks", line)

    def note(self, text: str) -> None:
        self._job.note("Notes", text)

    def problem(self, error: PogfastError) -> None:
        self._job.problem(error)

    def ended(self, record: Record) -> None:
        """The record is shown when the run has ended."""


def _counters(now: Progress | backup.Progress | copying.Summary | checking.Summary) -> Counters:
    from pogfast import backup
    from pogfast.upkeep import copying

    if isinstance(now, backup.Progress):
        return Counters(now.files, now.total_files, now.bytes_done, now.total_bytes, now.bytes_read)
    if isinstance(now, copying.Summary):
        return Counters(now.blobs, now.total_blobs or None, now.size, now.total_size, now.size, "blob")
    read = now.read_size + now.in_progress()
    return Counters(now.read, None, read, now.to_read_size or None, read, "blob")

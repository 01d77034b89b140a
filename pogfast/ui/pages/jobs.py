"""Running and past jobs: their progress as server-sent events, what happened, and Cancel.

A page shows the same state, made by the same template, with or without scripts: these only replace it.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from pogfast.errors import NoSuchEntry
from pogfast.ui.forms import Form
from pogfast.ui.jobs import KEPT, Job
from pogfast.ui.site import Site

AGAIN = 700  # milliseconds after which the browser asks for the next event


def jobs(request: Request) -> Response:
    """Shows all jobs, the newest first."""
    site = Site.of(request)
    return site.page(request, "jobs.html", jobs=site.jobs.all())


def count(request: Request) -> Response:
    """Says how many jobs are running; nothing for none."""
    running = len(Site.of(request).jobs.running())
    return PlainTextResponse(f"{running} running" if running else "")


def job(request: Request) -> Response:
    """Shows one job."""
    found = _job(request)
    return Site.of(request).page(request, "job.html", job=found)


def _job(request: Request) -> Job:
    found = Site.of(request).jobs.find(int(request.path_params["number"]))
    if found is None:
        raise NoSuchEntry(f"no job {request.path_params['number']}: the last {KEPT} are kept")
    return found


def events(request: Request) -> Response:
    """Sends the state of a job as one event, with which the answer ends; the browser asks again.

    Browsers keep six connections to a server at most: answers that stayed open would leave the seventh tab without one.
    """
    site, found = Site.of(request), _job(request)
    state = site.page(request, "job_state.html", job=found).body
    lines = b"".join(b"data: " + line + b"\n" for line in bytes(state).splitlines())
    event = b"event: ended\n" if found.ended else b""
    return Response(b"retry: %d\n%s%s\n" % (AGAIN, event, lines), media_type="text/event-stream")


def cancel(request: Request, form: Form) -> Response:
    """Asks a job to stop."""
    found = _job(request)
    found.cancel()
    return Site.of(request).page(request, "job_state.html", job=found)

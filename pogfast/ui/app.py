"""The application: the table of pages, and the one middleware around them.

A page that only reads is a GET and works without scripts; whatever changes something is a POST, whose form is read
here, with a limit.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from pogfast.errors import PogfastError, UsageError
from pogfast.ui.forms import Form
from pogfast.ui.guard import MAX_BODY, Guard
from pogfast.ui.pages import (
    archives,
    browse,
    create,
    download,
    enter,
    home,
    jobs,
    keypairs,
    keys,
    picker,
    profiles,
    restore,
    settings,
    tune,
    upkeep,
)
from pogfast.ui.site import HERE, Site

Page = Callable[[Request], Response]
Action = Callable[[Request, Form], Response]
STORE = "/stores/{store}"
ARCHIVE = "/stores/{store}/{archive}"


def get(path: str, page: Page) -> Route:
    """Returns the route of a page, which runs in a thread."""
    return Route(path, page, methods=["GET"])


def post(path: str, action: Action) -> Route:
    """Returns the route of an action. It gets the form, and runs in a thread."""

    async def endpoint(request: Request) -> Response:
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > MAX_BODY:
                raise UsageError("the form is too large")
        return await run_in_threadpool(action, request, Form.parse(bytes(body)))

    return Route(path, endpoint, methods=["POST"])


ROUTES = [
    get("/", home.home),
    get("/enter", enter.enter),
    post("/enter", enter.with_password),
    post("/theme", home.theme),
    get("/jobs", jobs.jobs),
    get("/jobs/count", jobs.count),
    get("/jobs/{number:int}", jobs.job),
    get("/jobs/{number:int}/events", jobs.events),
    post("/jobs/{number:int}/cancel", jobs.cancel),
    get("/create", create.form),
    post("/create", create.start),
    post("/create/preview", create.preview),
    post("/create/save", create.save),
    get("/pick", picker.pick),
    get("/pick/add", picker.added),
    get("/profiles", profiles.profiles),
    get("/profiles/{name}", profiles.profile),
    post("/profiles/{name}/run", profiles.start),
    get("/settings", settings.page),
    post("/settings/add", settings.add),
    post("/settings/test", settings.test),
    post("/settings/hide", settings.hide),
    post("/settings/sign-in", settings.sign_in),
    get("/tune", tune.page),
    post("/tune", tune.start),
    get("/jobs/{number:int}/plot.svg", tune.plot),
    post("/jobs/{number:int}/save", tune.save),
    get("/keys", keypairs.page),
    post("/keys/make", keypairs.make),
    post("/keys/show", keypairs.show),
    post("/keys/sheet", keypairs.sheet),
    post("/keys/forget", keys.forget_all),
    get(STORE, archives.archives),
    get(f"{STORE}/card", home.card),
    get(f"{STORE}/key", keys.ask),
    post(f"{STORE}/key", keys.give),
    post(f"{STORE}/forget", keys.forget),
    get(f"{STORE}/find", browse.find),
    get(f"{STORE}/compare", archives.compare),
    get(f"{STORE}/check", upkeep.check),
    post(f"{STORE}/check", upkeep.start_check),
    get(f"{STORE}/retention", upkeep.retention),
    post(f"{STORE}/prune", upkeep.start_prune),
    post(f"{STORE}/undelete", upkeep.undelete),
    post(f"{STORE}/lock", upkeep.start_lock),
    get(f"{STORE}/remove", upkeep.remove),
    post(f"{STORE}/remove", upkeep.start_remove),
    get(f"{STORE}/copy", upkeep.copy),
    post(f"{STORE}/copy", upkeep.start_copy),
    get(ARCHIVE, browse.browse),
    get(f"{ARCHIVE}/search", browse.search),
    get(f"{ARCHIVE}/file", browse.file),
    get(f"{ARCHIVE}/new", archives.new),
    get(f"{ARCHIVE}/lock", archives.lock),
    post(f"{ARCHIVE}/tick", browse.tick),
    get(f"{ARCHIVE}/restore", restore.form),
    post(f"{ARCHIVE}/restore", restore.start),
    post(f"{ARCHIVE}/restore/preview", restore.preview),
    post(f"{ARCHIVE}/restore/thaw", restore.thaw),
    get(f"{ARCHIVE}/preview", download.preview),
    get(f"{ARCHIVE}/download", download.download),
    get(f"{ARCHIVE}/diff/{{other}}", browse.diff),
]


def make_app(site: Site, hosts: Iterable[str], cookie: str, scheme: str) -> Guard:
    """Returns the application for a server that is called by `hosts`."""
    static = Mount("/static", StaticFiles(directory=os.path.join(HERE, "static")), name="static")
    app = Starlette(routes=[*ROUTES, static], exception_handlers={PogfastError: _failed, HTTPException: _no_page})
    app.state.site = site
    app.state.cookie = cookie
    app.state.scheme = scheme
    return Guard(app, site.sessions, hosts, cookie, scheme)


def _failed(request: Request, error: Exception) -> Response:
    assert isinstance(error, PogfastError)
    return Site.of(request).failed(request, error)


def _no_page(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    said = PogfastError(f"{request.url.path}: {error.detail.lower()}")
    return Site.of(request).page(request, "error.html", error.status_code, error=said)

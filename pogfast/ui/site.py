"""What all pages share: stores, sessions, jobs, allowed directories, and the templates.

A page is a function that gets a request and returns a response; `Site.of(request)` is where it finds the rest. Errors
of the packages below become messages on the page, with the words of the command line.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from pogfast import __version__
from pogfast.errors import NoSuchArchive, NoSuchEntry, PogfastError, UsageError, WrongKey
from pogfast.files.paths import normal_path
from pogfast.keys import Key
from pogfast.sizes import many
from pogfast.ui import words
from pogfast.ui.configuration import Configuration, Seen
from pogfast.ui.forms import Form, link
from pogfast.ui.history import StateFile
from pogfast.ui.jobs import Job, Jobs
from pogfast.ui.roots import Roots
from pogfast.ui.sessions import GivenKey, Session, Sessions
from pogfast.ui.stores import KnownStore, Shelf, Trees
from pogfast.ui.verdicts import SHAPES
from pogfast.ui.words import name_of

MENU = [
    ("/", "Home"),
    ("/create", "Create"),
    ("/profiles", "Profiles"),
    ("/jobs", "Jobs"),
    ("/tune", "Tune"),
    ("/keys", "Keys"),
    ("/settings", "Settings"),
]
HERE = os.path.dirname(__file__)
LOCAL_PATH = re.compile(r"/(?![/\\])[!-\[\]-~]*")  # a path of this server: printable, and no backslash
STATUS: dict[type[PogfastError], int] = {NoSuchArchive: 404, NoSuchEntry: 404, UsageError: 400}


class Locked(PogfastError):
    """A page needs a key that reads, and this session has none. The answer asks for it."""

    exit_code = WrongKey.exit_code

    def __init__(self, store: KnownStore, reason: str) -> None:
        super().__init__(reason)
        self.store = store


class Site:
    """The state of one server."""

    def __init__(
        self,
        shelf: Shelf,
        roots: Roots,
        sessions: Sessions,
        *,
        reading: GivenKey | None = None,
        writing: GivenKey | None = None,
        configuration: Configuration | None = None,
    ) -> None:
        """`reading` and `writing` are the keys of the command line or its environment; they are never forgotten."""
        self.shelf = shelf
        self.roots = roots
        self.sessions = sessions
        self.reading = reading
        self.writing = writing
        self.configuration = configuration or Configuration()
        self.jobs = Jobs(StateFile())
        self.trees = Trees()
        self.templates = _templates()
        self.machine = socket.gethostname()
        self.menu = MENU
        self.enter = ""  # the address of the page that signs in, without a token

    @classmethod
    def of(cls, request: Request) -> Site:
        site: Site = request.app.state.site
        return site

    def refresh(self) -> Seen:
        """Returns the configuration as it is now, with its stores on the shelf."""
        seen = self.configuration.read()
        for name, store in seen.config.stores.items() if seen.config else ():
            self.shelf.add(store.address, name)
        return seen

    # ---- keys ----

    def given_key(self, request: Request, store: KnownStore) -> GivenKey | None:
        """Returns the key that this session has for reading a store, None if there is none."""
        given = session_of(request).keys.get(store.name) or self.reading
        return given if given is not None and given.key.can_open else None

    def need_key(self, request: Request, store: KnownStore) -> GivenKey:
        """Returns the key for reading a store. Raises Locked, whose answer asks for it."""
        given = self.given_key(request, store)
        if given is None:
            raise Locked(store, f"{store.name} is locked: its archives can be read with a key")
        return given

    def key(self, request: Request, store: KnownStore) -> Key:
        return self.need_key(request, store).key

    def forget(self) -> None:
        """Closes what was opened with keys that have been forgotten, and drops what was read with them."""
        self.trees.forget()
        for store in self.shelf:
            store.forget()

    # ---- answers ----

    def page(self, request: Request, template: str, status: int = 200, **more: Any) -> Response:
        """Returns a page."""
        context = {
            "site": self,
            "here": request.url.path,
            "theme": theme_of(request),
            "running": len(self.jobs.running()),
            **more,
        }
        return HTMLResponse(self.templates.get_template(template).render(context), status)

    def failed(self, request: Request, error: PogfastError) -> Response:
        """Returns an error as a page, or into the place for errors of the page that sent an action."""
        if isinstance(error, Locked):
            return self._ask_for_key(request, error)
        status = next((code for kind, code in STATUS.items() if isinstance(error, kind)), 500)
        if not is_action(request):
            return self.page(request, "error.html", status, error=error)
        answer = self.page(request, "problem.html", status, error=error)
        answer.headers.update({"HX-Retarget": "#problem", "HX-Reswap": "innerHTML", "HX-Reselect": "#said"})
        return answer

    def _ask_for_key(self, request: Request, error: Locked) -> Response:
        if request.method != "GET":
            return go(link(f"/stores/{error.store.name}/key"))
        return self.page(request, "key.html", 423, store=error.store, reason=str(error), next=whole_path(request))


def session_of(request: Request) -> Session:
    session: Session = request.scope["state"]["session"]
    return session


def is_action(request: Request) -> bool:
    """Returns True for a request of htmx, whose answer goes into a page."""
    return "hx-request" in request.headers


def form_of(request: Request) -> Form:
    """Returns the query of a link. Raises UsageError."""
    return Form.parse(request.scope["query_string"])


def store_of(request: Request) -> KnownStore:
    """Returns the store in a page's path. Raises NoSuchArchive."""
    return Site.of(request).shelf.find(request.path_params["store"])


def archive_of(request: Request) -> str:
    """Returns the archive in a page's path. Raises UsageError."""
    return name_of(str(request.path_params["archive"]))


def path_of(form: Form) -> str:
    """Returns the path in an archive that a page is about, in normal form; "" is the top. Raises UsageError."""
    name = form.name("path")
    return normal_path(name) if name else ""


def theme_of(request: Request) -> str:
    theme = request.cookies.get("pogfast-theme", "")
    return theme if theme in ("light", "dark") else ""


def whole_path(request: Request) -> str:
    """Returns the path and the query of a request, as they came."""
    raw: bytes = request.scope.get("raw_path") or request.url.path.encode()
    query: bytes = request.scope["query_string"]
    return (raw + (b"?" + query if query else b"")).decode("ascii", "replace")


def local_path(text: str, default: str = "/") -> str:
    """Returns a path of this server, or the default for anything else."""
    return text if LOCAL_PATH.fullmatch(text) else default


def go(path: str) -> Response:
    """Has the page that sent an action go to another."""
    return Response(headers={"HX-Redirect": path})


def go_to_job(job: Job) -> Response:
    return go(f"/jobs/{job.number}")


def _templates() -> Environment:
    env = Environment(
        loader=FileSystemLoader(os.path.join(HERE, "templates")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=words.harmless,
        auto_reload=False,
    )
    filters: dict[str, Callable[..., Any]] = {
        "ago": words.ago,
        "duration": words.duration,
        "exact": words.exact,
        "fact": words.fact,
        "number": words.number,
        "mode": words.mode,
        "modified": words.modified,
        "name": words.name,
        "part": words.part,
        "plain": words.plain,
        "size": words.size,
        "stamp": words.stamp,
        "token": words.token,
        "upcoming": words.upcoming,
    }
    env.filters.update(filters)
    env.globals.update(link=link, version=__version__, shapes=SHAPES, many=many)
    return env

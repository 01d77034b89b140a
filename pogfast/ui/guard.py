"""The middleware that every request passes: host, origin, session, and the headers of every response.

A page of another site can make a browser send requests here, and another user of this machine can connect to the port.
So a request must name this server as its host (else a name could be rebound to 127.0.0.1), carry the cookie of a
session, and, to do something, come from a page of this origin with a header that no form can send. Answers may not be
kept, framed, or run anything but our own files.
"""

from __future__ import annotations

from collections.abc import Iterable

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import HTMLResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pogfast.ui.sessions import Sessions

ENTER = "/enter"
STATIC = "/static/"
ACTION_HEADER = "hx-request"  # htmx sends it; a form, a link and a picture cannot
SAFE = ("GET", "HEAD")
ELSEWHERE = ("cross-site", "same-site")  # also another port of this machine, which gets our cookie
MAX_BODY = 8 << 20  # bytes of a form
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "frame-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors {ancestors}"
)
SIGN_IN = (
    "Not signed in. Each address that `pogfast ui` prints works once, in one browser. In a browser that is signed in, "
    "Settings makes another; or end the command with Ctrl-C and start it again."
)


class Guard:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, sessions: Sessions, hosts: Iterable[str], cookie: str, scheme: str) -> None:
        """`hosts` are HOST:PORT by which this server may be called, `cookie` is the name of the session's."""
        self.app = app
        self.sessions = sessions
        self.hosts = set(hosts)
        self.cookie = cookie
        self.scheme = scheme

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # no websocket is ever accepted
            await send({"type": "websocket.close", "code": 1008})
            return
        path: str = scope["path"]
        refusal = self._refusal(scope, path)
        answer: ASGIApp = self.app if refusal is None else refusal

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["Content-Security-Policy"] = headers.get("Content-Security-Policy") or POLICY.format(
                    ancestors="'none'"
                )
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Referrer-Policy"] = "same-origin"
                headers["Cross-Origin-Opener-Policy"] = "same-origin"
                headers["Cross-Origin-Resource-Policy"] = "same-origin"
                headers["Cache-Control"] = "no-store"
            await send(message)

        await answer(scope, receive, with_headers)

    def _refusal(self, scope: Scope, path: str) -> Response | None:
        """Returns the answer to a request that goes no further, None for others; their scope gets the session."""
        headers = Headers(scope=scope)
        host = headers.get("host", "").lower()
        if host not in self.hosts:
            return _refused(421, "This server is called by another name: open the address that `pogfast ui` printed.")
        if scope["method"] not in SAFE:
            if headers.get("origin") != f"{self.scheme}://{host}":
                return _refused(403, "The request comes from a page of another site.")
            if ACTION_HEADER not in headers:
                return _refused(403, "Actions are sent by the scripts of these pages; are scripts disabled?")
            if not headers.get("content-length", "0").isdigit() or int(headers.get("content-length", "0")) > MAX_BODY:
                return _refused(413, "The form is too large.")
        if headers.get("sec-fetch-site") in ELSEWHERE and headers.get("sec-fetch-mode") != "navigate":
            return _refused(403, "The request comes from a page of another site.")
        scope.setdefault("state", {})["session"] = session = self.sessions.find(self._cookie_of(headers))
        if session is None and path != ENTER and not path.startswith(STATIC):
            return _refused(403, SIGN_IN)
        return None

    def _cookie_of(self, headers: Headers) -> str:
        return cookie_parser(headers.get("cookie", "")).get(self.cookie, "")


def _refused(status: int, text: str) -> Response:
    return HTMLResponse(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>pogfast</title><h1>{status}</h1><p>{text}</p>',
        status,
    )

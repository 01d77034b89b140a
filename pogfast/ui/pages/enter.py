"""Signing in: with the token of the printed address, or with the password of a server that others can reach.

The cookie is sent with requests from our own pages only (SameSite=Strict), and scripts cannot read it. The answer is a
page that leads on, not a redirect: with the latter the browser would not send the new cookie, since the chain began
elsewhere.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from pogfast.ui.forms import Form
from pogfast.ui.site import Site, form_of, go

SIGNED_IN_FOR = 7 * 86400  # seconds, if the server runs that long


def enter(request: Request) -> Response:
    """Spends a token; without one, asks for the password if this server has one."""
    site = Site.of(request)
    token = form_of(request).text("token")
    cookie = site.sessions.begin(token) if token else None
    if cookie is not None:
        return _with_cookie(request, site.page(request, "entered.html"), cookie)
    if site.sessions.wants_password:
        return site.page(request, "enter.html")
    return site.page(request, "refused.html", 403)


def with_password(request: Request, form: Form) -> Response:
    """Signs in with the password."""
    site = Site.of(request)
    cookie = site.sessions.begin_with_password(form.secret("password"))
    if cookie is None:
        answer = site.page(request, "problem.html", 403, error="That is not the password.")
        answer.headers.update({"HX-Retarget": "#problem", "HX-Reswap": "innerHTML", "HX-Reselect": "#said"})
        return answer
    return _with_cookie(request, go("/"), cookie)


def _with_cookie(request: Request, answer: Response, cookie: str) -> Response:
    answer.set_cookie(
        request.app.state.cookie,
        cookie,
        max_age=SIGNED_IN_FOR,
        path="/",
        httponly=True,
        samesite="strict",
        secure=request.app.state.scheme == "https",
    )
    return answer

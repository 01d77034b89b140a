"""Choosing directories and files of this machine, below the allowed roots.

A picker is a part of a form: a field with a path, and below it what is in that directory. It lists names only; what is
done with a path is checked again there.
"""

from __future__ import annotations

import os
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from pogfast.ui.site import Site, form_of


def pick(request: Request) -> Response:
    """Returns a picker that shows a directory."""
    site, form = Site.of(request), form_of(request)
    path = site.roots.inside(form.name("path") or form.name("into") or site.roots.paths[0])
    if not os.path.isdir(path):
        path = os.path.dirname(path)
    return site.page(request, "pick.html", **listed(site, path, files=form.on("files")))


def added(request: Request) -> Response:
    """Returns a path that was chosen, as a line of a form."""
    site, form = Site.of(request), form_of(request)
    return site.page(request, "picked.html", path=site.roots.inside(form.name("path")))


def listed(site: Site, path: str, *, files: bool) -> dict[str, Any]:
    """Returns what a picker's template shows of a directory."""
    entries, more = site.roots.listing(path, files=files)
    return {"path": path, "above": site.roots.parent(path), "entries": entries, "more": more, "files": files}

"""The archives of a store as a table, a page of it at a time.

The list is filtered and sorted in memory, so that ten thousand archives open at once. The first time each manifest has
to be read: the page comes with what their names say, and asks again. A filter is a text such as
`host:laptop after:2026-05 evening`; an archive has to have all of it.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from pogfast.archives.lookup import FIRST
from pogfast.archives.overview import ArchiveInfo
from pogfast.archives.trailer import Trailer, time_of
from pogfast.errors import NoSuchArchive, UsageError
from pogfast.ui import shell
from pogfast.ui.forms import link
from pogfast.ui.site import Site, archive_of, form_of, session_of, store_of, whole_path
from pogfast.ui.words import part

PAGE = 100  # rows
PATIENCE = 0.5  # seconds that the page waits for what archives say
SORTS: dict[str, tuple[str, Callable[[ArchiveInfo], Any]]] = {
    "time": ("Time", lambda info: (info.time or FIRST, info.name)),
    "host": ("Host", lambda info: info.host.casefold()),
    "paths": ("Paths", lambda info: info.paths),
    "tags": ("Tags", lambda info: info.tags),
    "files": ("Files", lambda info: info.files or 0),
    "size": ("Size", lambda info: info.size or 0),
    "stored": ("Stored", lambda info: info.stored or 0),
    "flags": ("Notes", lambda info: (info.problem is not None, info.unreadable + info.changed)),
}
HELP = "host:laptop tag:evening path:/etc after:2026-05 before:2026-06-15 text"


def archives(request: Request) -> Response:
    """Shows the table; without a key that reads, and until manifests are read, what the names of manifests say."""
    site, store = Site.of(request), store_of(request)
    form = form_of(request)
    given = site.given_key(request, store)
    try:
        manifests = store.listing().manifests
    except NoSuchArchive as error:
        return site.page(request, "archives_none.html", store=store, error=error)
    if not manifests and not store.listing().removed:
        return site.page(request, "archives_none.html", store=store, error=None)
    infos = store.archives_within(given.key, PATIENCE) if given else None
    is_bare = infos is None
    infos = _by_name(manifests) if infos is None else infos
    wanted = form.text("filter")
    try:
        found, problem = [info for info in infos if matches(wanted, info)], ""
    except UsageError as error:
        found, problem = [], str(error)
    sort = form.choice("sort", tuple(SORTS))
    descending = form.choice("order", ("down", "up")) == "down"
    found.sort(key=SORTS[sort][1], reverse=descending)
    start = form.number("start", 0)
    command = shell.line(["pogfast", "list", store.address, *(given.options if given else ())])
    return site.page(
        request,
        "archives.html",
        store=store,
        is_locked=given is None,
        is_bare=is_bare,
        again=whole_path(request),
        can_lock=store.address.startswith("s3://"),
        can_forget=store.name in session_of(request).keys,
        removed=len(store.listing().removed),
        shown=found[start : start + PAGE],
        found=len(found),
        total=len(infos),
        filter=wanted,
        problem=problem,
        help=HELP,
        heads=_heads(request, sort, descending, wanted),
        start=start,
        following=_here(request, wanted, sort, descending, start + PAGE) if start + PAGE < len(found) else "",
        before=_here(request, wanted, sort, descending, max(0, start - PAGE)) if start else "",
        command=command,
    )


def new(request: Request) -> Response:
    """Returns the cell with the bytes that an archive added."""
    site, store = Site.of(request), store_of(request)
    return site.page(request, "archives_new.html", new=store.new_bytes(site.key(request, store), archive_of(request)))


def lock(request: Request) -> Response:
    """Returns the part of a cell that says until when an archive in S3 is locked."""
    return Site.of(request).page(
        request, "archives_lock.html", locked=store_of(request).locked_until(archive_of(request))
    )


def compare(request: Request) -> Response:
    """Leads from two ticked archives to their differences, the older one first. Raises UsageError."""
    store, chosen = store_of(request), form_of(request).names("archive")
    if len(chosen) != 2:
        raise UsageError(f"{len(chosen)} archives are ticked", hint="tick two to compare them")
    infos = store.archives(Site.of(request).key(request, store))
    order = [info.name for info in infos]
    first, second = sorted(chosen, key=lambda name: order.index(name) if name in order else -1)
    return RedirectResponse(f"/stores/{store.name}/{part(first)}/diff/{part(second)}", 303)


def _by_name(manifests: Sequence[Any]) -> list[ArchiveInfo]:
    return [ArchiveInfo(each.name, time_of(Trailer(None), each.name), local=True) for each in manifests]


def _here(request: Request, wanted: str, sort: str, descending: bool, start: int = 0) -> str:
    order = "" if descending else "up"
    return link(request.url.path, filter=wanted, sort="" if sort == "time" else sort, order=order, start=start or "")


def _heads(request: Request, sort: str, descending: bool, wanted: str) -> list[dict[str, Any]]:
    """Returns the heads of the columns, each with the link that sorts by it."""
    heads = []
    for word, (title, _) in SORTS.items():
        is_sorted = word == sort
        down = not descending if is_sorted else word in ("time", "files", "size", "stored", "flags")
        state = ("descending" if descending else "ascending") if is_sorted else "none"
        heads.append({"word": word, "title": title, "link": _here(request, wanted, word, down), "state": state})
    return heads


# ---- the filter ------------------------------------------------------------------------------------------------------


def matches(wanted: str, info: ArchiveInfo) -> bool:
    """Returns True if an archive has all words of a filter, such as `host:laptop after:2026-05 evening`. Raises
    UsageError."""
    return all(_has(word, info) for word in wanted.split())


def _has(word: str, info: ArchiveInfo) -> bool:
    field, colon, value = word.partition(":")
    if not (colon and value):
        field = ""
    match field:
        case "host":
            return value.casefold() in info.host.casefold()
        case "tag":
            return value in info.tags
        case "path":
            return any(path == value or path.startswith(value.rstrip("/") + "/") for path in info.paths)
        case "after":
            return info.time is not None and info.time >= _days(value)[0]
        case "before":
            return info.time is not None and info.time < _days(value)[0]
        case "on":
            first, after = _days(value)
            return info.time is not None and first <= info.time < after
        case _:
            said = " ".join([info.name, info.host, info.comment, *info.tags, *info.paths])
            return word.casefold() in said.casefold()


def _days(text: str) -> tuple[datetime, datetime]:
    """Returns the begin of a year, month or day and of the next. Raises UsageError."""
    found = re.fullmatch(r"(\d{4})(?:-(\d{1,2}))?(?:-(\d{1,2}))?", text)
    with contextlib.suppress(ValueError, OverflowError):
        if found is not None:
            year, month, day = (int(number or 1) for number in found.groups())
            first = datetime(year, month, day).astimezone()
            if found[3]:
                return first, first + timedelta(days=1)
            months = year * 12 + month - 1 + (1 if found[2] else 12)
            return first, datetime(months // 12, months % 12 + 1, 1).astimezone()
    raise UsageError(f"{text}: not a date", hint="write 2026, 2026-05 or 2026-05-31")

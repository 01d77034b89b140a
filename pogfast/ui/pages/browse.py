"""One archive: its directories page by page, its files with all their versions, searches, and differences.

The decoded archive stays in memory for a while, so that a directory of a hundred thousand entries opens at once. What
is ticked is remembered by the session, archive by archive.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter
from datetime import datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from pogfast.archives import differences, listing
from pogfast.archives.listing import Item
from pogfast.archives.tree import Tree
from pogfast.errors import PogfastError, UsageError
from pogfast.files.paths import basename
from pogfast.stores import open_store
from pogfast.ui import shell
from pogfast.ui.forms import Form, link
from pogfast.ui.pages.download import previews
from pogfast.ui.site import Site, archive_of, form_of, path_of, session_of, store_of
from pogfast.ui.stores import KnownStore
from pogfast.ui.words import name_of

PAGE = 500  # rows
MAX_FOUND = 500
ESCAPES = str.maketrans({wild: "\\" + wild for wild in "*?[\\"})


def browse(request: Request) -> Response:
    """Shows a directory of an archive."""
    site, store, archive, form = Site.of(request), store_of(request), archive_of(request), form_of(request)
    path, start = path_of(form), form.number("start", 0)
    given = site.need_key(request, store)
    with site.trees.opened(store, archive, given.key) as tree:
        items = tree.children(path, start, start + PAGE)
        count = tree.count(path)
        return site.page(
            request,
            "browse.html",
            store=store,
            archive=about(tree),
            path=path,
            crumbs=crumbs(path),
            rows=items,
            start=start,
            count=count,
            following=link(request.url.path, path=path, start=start + PAGE) if start + PAGE < count else "",
            page=PAGE,
            ticked=session_of(request).ticked(store.name, archive),
            tray=tray(request, store, archive, tree),
            command=shell.line(
                ["pogfast", "ls", store.archive(archive), *given.options, *shell.names([path] if path else [])]
            ),
        )


def tick(request: Request, form: Form) -> Response:
    """Ticks the path in the query, or takes the tick away; answers with the tray. `none` takes all away."""
    site, store, archive = Site.of(request), store_of(request), archive_of(request)
    ticked = session_of(request).ticked(store.name, archive)
    path = path_of(form_of(request))
    if form.on("none"):
        ticked.clear()
        return Response(headers={"HX-Refresh": "true"})
    with site.trees.opened(store, archive, site.key(request, store)) as tree:
        if not form.on("on"):
            ticked.pop(path, None)
        elif tree.is_directory(path) or tree.item(path):
            ticked[path] = None
        return site.page(
            request, "tray.html", store=store, archive=about(tree), tray=tray(request, store, archive, tree)
        )


def tray(request: Request, store: KnownStore, archive: str, tree: Tree) -> dict[str, Any]:
    """Returns how much is ticked; what is below another ticked path counts once."""
    ticked = session_of(request).ticked(store.name, archive)
    tops = [path for path in ticked if not any(above in ticked for above in _above(path))]
    totals = [tree.total(path) for path in tops]
    return {
        "items": len(ticked),
        "files": sum(each.files for each in totals),
        "size": sum(each.size for each in totals),
    }


def _above(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:end]) for end in range(1, len(parts))]


def about(tree: Tree) -> dict[str, Any]:
    """Returns what a page's head says of an archive."""
    archive = tree.archive
    return {"name": archive.name, "time": archive.time, "host": archive.host, "paths": archive.paths}


def crumbs(path: str) -> list[tuple[str, str]]:
    """Returns (name, path) of each directory on the way to a path, itself last."""
    return [(basename(each), each) for each in [*_above(path), path] if each]


def search(request: Request) -> Response:
    """Shows the names in an archive that contain a text, or match a pattern."""
    site, store, archive, form = Site.of(request), store_of(request), archive_of(request), form_of(request)
    text, below = form.text("q"), path_of(form)
    given = site.need_key(request, store)
    with site.trees.opened(store, archive, given.key) as tree:
        found = list(itertools.islice(tree.search(text, below), MAX_FOUND + 1)) if text else []
        rows = [(path, tree.item(path)) for path in found[:MAX_FOUND]]
        return site.page(
            request,
            "search.html",
            store=store,
            archive=about(tree),
            path=below,
            crumbs=crumbs(below),
            q=text,
            rows=rows,
            more=len(found) > MAX_FOUND,
            limit=MAX_FOUND,
            command=shell.line(
                ["pogfast", "ls", store.archive(archive), *given.options, *shell.names([_pattern(text, below)])]
            ),
        )


def _pattern(text: str, below: str) -> str:
    """Returns the pattern with which a command finds what a search finds: a text in any case."""
    pattern = text
    if not any(wild in text for wild in "*?["):
        pattern = f"*{''.join(map(_in_any_case, text))}*"
    return f"/{below.translate(ESCAPES)}/**/{pattern}" if below and "/" not in text else pattern


def _in_any_case(letter: str) -> str:
    both = {letter.lower(), letter.upper()}
    return f"[{''.join(sorted(both))}]" if len(both) == 2 else letter.translate(ESCAPES)


def find(request: Request) -> Response:
    """Shows names in all archives of a store: each name once, with how many archives have it."""
    site, store, form = Site.of(request), store_of(request), form_of(request)
    text = form.text("q")
    given = site.need_key(request, store)
    rows: dict[str, dict[str, Any]] = {}
    problems: list[PogfastError] = []
    more = False
    pattern = text if any(wild in text for wild in "*?[") or "/" in text else f"*{text}*"
    if text:
        with contextlib.closing(open_store(store.address)) as opened:
            for found in listing.find(opened, given.key, [pattern], problems.append):
                row = rows.get(found.item.name)
                if row is None:
                    if len(rows) == MAX_FOUND:
                        more = True
                        continue
                    row = rows[found.item.name] = {"count": 0}
                row.update(item=found.item, archive=found.archive, time=found.time, count=row["count"] + 1)
    return site.page(
        request,
        "find.html",
        store=store,
        q=text,
        rows=list(rows.values()),
        more=more,
        limit=MAX_FOUND,
        problems=problems,
        command=shell.line(["pogfast", "find", store.address, *given.options, *shell.names([pattern])]) if text else "",
    )


def file(request: Request) -> Response:
    """Shows a file, link or FIFO: what the archive says of it, all its versions, and a preview."""
    site, store, archive, form = Site.of(request), store_of(request), archive_of(request), form_of(request)
    path = path_of(form)
    given = site.need_key(request, store)
    with site.trees.opened(store, archive, given.key) as tree:
        item = tree.item(path)
        return site.page(
            request,
            "file.html",
            store=store,
            archive=about(tree),
            path=path,
            crumbs=crumbs(path),
            item=item,
            versions=_versions(store, given.key, item) if item.kind == "file" else [],
            previews=previews(item),
            command=shell.line(["pogfast", "cat", store.archive(archive), *given.options, *shell.names([item.name])]),
        )


def _versions(store: KnownStore, key: Any, item: Item) -> list[dict[str, Any]]:
    """Returns the archives that have a file of this name, the newest first, each with what changed since the one
    before."""
    pattern = "/" + item.name.lstrip("/").translate(ESCAPES)
    versions: list[dict[str, Any]] = []
    with contextlib.closing(open_store(store.address)) as opened:
        for found in listing.find(opened, key, [pattern], lambda error: None):
            if found.item.name == item.name and found.item.kind == "file":
                versions.append({"archive": found.archive, "time": found.time, "item": found.item})
    versions.sort(key=lambda each: (each["time"] is not None, each["time"] or datetime.min, each["archive"]))
    before = None
    for each in versions:
        each["change"] = _change(before, each["item"])
        before = each["item"]
    return versions[::-1]


def _change(before: Item | None, now: Item) -> str:
    if before is None:
        return "first"
    if before.size == now.size and before.mtime_ns == now.mtime_ns:
        return ""
    if before.size is None or now.size is None or before.size == now.size:
        return "changed"
    return "larger" if now.size > before.size else "smaller"


def diff(request: Request) -> Response:
    """Shows the differences between two archives."""
    site, store, archive, form = Site.of(request), store_of(request), archive_of(request), form_of(request)
    other, start = name_of(str(request.path_params["other"])), form.number("start", 0)
    only = form.choice("only", ("", "added", "removed", "modified", "metadata", "type", "uncertain"))
    if archive == other:
        raise UsageError("an archive does not differ from itself", hint="choose two")
    given = site.need_key(request, store)
    problems: list[PogfastError] = []
    with (
        site.trees.opened(store, archive, given.key) as before,
        site.trees.opened(store, other, given.key) as after,
    ):
        changes = list(differences.diff(before.archive, after.archive, problems.append))
        counts = Counter(change.change for change in changes)
        shown = [change for change in changes if only in ("", change.change)]
        return site.page(
            request,
            "diff.html",
            store=store,
            before=about(before),
            after=about(after),
            changes=shown[start : start + PAGE],
            found=len(shown),
            total=len(changes),
            counts=counts,
            only=only,
            start=start,
            following=link(request.url.path, only=only, start=start + PAGE) if start + PAGE < len(shown) else "",
            problems=problems,
            command=shell.line(["pogfast", "diff", store.archive(archive), store.archive(other), *given.options]),
        )

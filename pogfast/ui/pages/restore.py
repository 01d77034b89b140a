"""Restoring what is ticked: where to, what to do with files that are there, a dry run with counts, and the job.

The dry run and the restore are the same call of `recovery.restore`; nothing is written below a directory that is not
allowed.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from starlette.requests import Request
from starlette.responses import Response

from pogfast.errors import UsageError
from pogfast.sizes import many, show_size
from pogfast.ui import shell
from pogfast.ui.forms import Form
from pogfast.ui.jobs import Counters, Job
from pogfast.ui.pages.browse import about
from pogfast.ui.sessions import GivenKey
from pogfast.ui.site import Site, archive_of, form_of, go_to_job, path_of, session_of, store_of
from pogfast.ui.stores import KnownStore

if TYPE_CHECKING:
    from pogfast.recovery.thawing import Cold, Tier

TIERS = ("standard", "bulk", "expedited")
OVERWRITE = ("never", "if-changed", "always")
KEEPS = "Restored files are kept; run it again to continue."


@dataclass(frozen=True)
class Wanted:
    """What a form asks for."""

    store: KnownStore
    archive: str
    names: list[str]
    into: str
    overwrite: str
    given: GivenKey

    @property
    def command(self) -> str:
        return self.line([])

    def line(self, more: list[str]) -> str:
        """Returns the command, with further options."""
        words = ["pogfast", "restore", self.store.archive(self.archive), *shell.option("into", self.into)]
        words += shell.option("overwrite", self.overwrite if self.overwrite != "never" else None)
        return shell.line([*words, *more, *self.given.options, *shell.names(self.names)])


def form(request: Request) -> Response:
    """Asks where to restore what is ticked, or one path, and how."""
    site, store, archive = Site.of(request), store_of(request), archive_of(request)
    path = path_of(form_of(request))
    with site.trees.opened(store, archive, site.key(request, store)) as tree:
        names = [path] if path else list(session_of(request).ticked(store.name, archive))
        totals = [tree.total(name) for name in names or [""]]
        return site.page(
            request,
            "restore.html",
            store=store,
            archive=about(tree),
            names=names,
            files=sum(total.files for total in totals),
            size=sum(total.size for total in totals),
            into=site.roots.paths[0],
        )


def preview(request: Request, form: Form) -> Response:
    """Shows a dry run: counts of what is new, different and the same. Nothing is written."""
    from pogfast import recovery
    from pogfast.recovery import thawing

    wanted = _wanted(request, form)
    new = Counter[str]()

    class Count(recovery.Silent):
        def entry(self, name: str, outcome: str, size: int) -> None:
            new[outcome] += 1
            new["bytes"] += size if outcome == "restored" else 0

    summary = recovery.restore(
        wanted.store.archive(wanted.archive),
        wanted.given.key,
        wanted.into,
        names=wanted.names,
        overwrite="never",
        dry_run=True,
        report=Count(),
    )
    return Site.of(request).page(
        request,
        "restore_preview.html",
        wanted=wanted,
        counts=new,
        problems=summary.problems,
        cold=_cold(wanted),
        takes=thawing.TAKES,
        command=wanted.command,
    )


def _cold(wanted: Wanted) -> Cold | None:
    """Returns what has to be thawed first, None if that is nothing."""
    from pogfast.recovery import thawing

    if not wanted.store.address.startswith("s3://"):
        return None
    found = thawing.cold(wanted.store.archive(wanted.archive), wanted.given.key, wanted.into, names=wanted.names)
    return found if found.objects else None


def thaw(request: Request, form: Form) -> Response:
    """Requests what the restore needs of cold storage, as a job."""
    site, wanted = Site.of(request), _wanted(request, form)
    tier, days = cast("Tier", form.choice("tier", TIERS)), form.number("days", 7, 1, 36500)

    def work(job: Job) -> None:
        from pogfast.recovery import thawing

        def tell(done: int) -> None:
            job.counters = lambda: Counters(done, noun="object")

        archive = wanted.store.archive(wanted.archive)
        found = thawing.thaw(
            archive, wanted.given.key, wanted.into, tier=tier, days=days, names=wanted.names, tell=tell
        )
        for problem in found.problems:
            job.problem(problem)
        asked, coming = many(found.asked, "object"), many(found.coming, "object")
        job.summary = [
            ("Requested", f"{asked}; {coming} requested earlier, {found.readable:,} readable"),
            ("Takes", thawing.TAKES[tier] if found.waiting else "nothing: all is readable, and can be restored"),
        ]
        if found.packs:
            size, needed = show_size(found.pack_bytes), show_size(found.needed_bytes)
            job.summary.append(("Packs", f"{many(found.packs, 'pack')}: thaws {size} for {needed} that are needed"))

    words = [*shell.option("thaw", tier), *shell.option("thaw_days", days if days != 7 else None)]
    job = site.jobs.start(
        f"Thaw for a restore from {wanted.store.name}",
        work,
        stores=[wanted.store.at_work("thawed")],
        command=wanted.line(words),
        keeps="What has been requested thaws; run it again to request the rest.",
    )
    return go_to_job(job)


def start(request: Request, form: Form) -> Response:
    """Restores, as a job."""
    site, session, wanted = Site.of(request), session_of(request), _wanted(request, form)

    def work(job: Job) -> None:
        from pogfast import recovery
        from pogfast.ui import reports

        summary = recovery.restore(
            wanted.store.archive(wanted.archive),
            wanted.given.key,
            wanted.into,
            names=wanted.names,
            overwrite=wanted.overwrite,
            report=reports.RestoreReport(job),
        )
        reports.restored(job, summary)

    def end(job: Job) -> None:
        if wanted.given.once:
            session.forget(wanted.store.name)
            site.forget()

    job = site.jobs.start(
        f"Restore from {wanted.store.name} into {wanted.into}",
        work,
        stores=[wanted.store.at_work("read")],
        command=wanted.command,
        keeps=KEEPS,
        finally_=end,
    )
    session.ticked(wanted.store.name, wanted.archive).clear()
    return go_to_job(job)


def _wanted(request: Request, form: Form) -> Wanted:
    """Raises UsageError for a directory that is not allowed, and NoSuchEntry for a name that the archive lacks."""
    site, store, archive = Site.of(request), store_of(request), archive_of(request)
    names, into = form.names("name"), site.roots.inside(os.path.join(form.name("into"), form.text("new")))
    given = site.need_key(request, store)
    with site.trees.opened(store, archive, given.key) as tree:
        for name in names:
            if not tree.is_directory(name):
                tree.item(name)
        if not names and form.text("everything") != "1":
            raise UsageError("nothing is ticked", hint="tick files and directories in the archive")
    return Wanted(store, archive, names, into, form.choice("overwrite", OVERWRITE), given)

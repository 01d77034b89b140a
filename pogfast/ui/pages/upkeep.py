"""What is done to a store's archives: check, retention with a preview of every fate, remove, bring back, copy.

Previews are links and change nothing; what removes something is an action, names what it removes, and says until when
it can be brought back.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from pogfast.errors import PogfastError, UsageError
from pogfast.sizes import many, parse_seconds, show_size
from pogfast.stores import REMOVED
from pogfast.ui import shell
from pogfast.ui.forms import Form
from pogfast.ui.jobs import CHECKED, Job
from pogfast.ui.sessions import GivenKey
from pogfast.ui.site import Site, form_of, go, go_to_job, session_of, store_of
from pogfast.ui.stores import KnownStore

RULES = ("last", "hourly", "daily", "weekly", "monthly", "yearly")
USUAL = {"daily": 7, "weekly": 5, "monthly": 12, "yearly": 3}
GRACE = "24h"
STEPS_KEEP = "What has been removed so far can be brought back; run it again to continue."


# ---- check -----------------------------------------------------------------------------------------------------------


def check(request: Request) -> Response:
    """Asks how much of a store is to be checked."""
    site, store = Site.of(request), store_of(request)
    given = site.given_key(request, store)
    proven = store.proven(given.key) if given else []
    return site.page(request, "check.html", store=store, can_read=given is not None, proven=proven)


def start_check(request: Request, form: Form) -> Response:
    """Checks a store, as a job. A public key is enough if no data is read."""
    site, store = Site.of(request), store_of(request)
    share = form.text("share")
    given = site.given_key(request, store) or (site.writing if not share else None) or site.need_key(request, store)

    def work(job: Job) -> None:
        from pogfast.ui import reports
        from pogfast.upkeep import checking

        part = checking.Subset.parse(share) if share else None
        summary = checking.check([store.address], given.key, read_data=part, report=reports.CheckReport(job))
        reports.checked(job, summary)

    if share:
        from pogfast.upkeep.checking import Subset

        Subset.parse(share)
    whole = ["--read-data"] if share == "100%" else shell.option("read_data_subset", share)
    job = site.jobs.start(
        f"Check {store.name}",
        work,
        stores=[store.at_work(CHECKED)],
        command=shell.line(["pogfast", "check", store.address, *whole, *given.options]),
        keeps="A check changes nothing in the archives.",
        finally_=lambda job: store.changed(),
    )
    return go_to_job(job)


# ---- retention -------------------------------------------------------------------------------------------------------


def retention(request: Request) -> Response:
    """Shows the rules, what would become of each archive if some are given, and removed archives."""
    site, store, form = Site.of(request), store_of(request), form_of(request)
    given = site.need_key(request, store)
    asked = form.on("preview")
    profile = site.refresh().pruning(store)
    usual = {rule: USUAL.get(rule, 0) for rule in RULES}
    if profile is not None and profile.retention is not None:
        policy = profile.retention.policy()
        usual = {rule: getattr(policy, rule) for rule in RULES}
    rules = _rules(form) if asked else usual
    words: dict[str, Any] = {"summary": None, "problem": None, "command": ""}
    if asked:
        warnings: list[str] = []
        try:
            words["summary"] = _prune(store, given, rules, dry_run=True, warn=warnings.append)
        except PogfastError as error:
            words["problem"] = error
        words.update(warnings=warnings, command=_prune_command(store, given, rules, yes=False))
    return site.page(
        request,
        "retention.html",
        store=store,
        rules=rules,
        profile=profile,
        can_lock=store.address.startswith("s3://"),
        removed=[_removed(mark) for mark in store.listing().removed],
        grace=GRACE,
        **words,
    )


def _rules(form: Form) -> dict[str, int]:
    return {rule: form.number(rule, 0, -1) for rule in RULES}


def _removed(mark: Any) -> dict[str, Any]:
    until = datetime.fromtimestamp(mark.modified + parse_seconds("grace", GRACE), UTC)
    return {"name": mark.name.removesuffix(REMOVED), "until": until}


def _prune(store: KnownStore, given: GivenKey, rules: dict[str, int], **more: Any) -> Any:
    from pogfast.upkeep import pruning
    from pogfast.upkeep.retention import Policy

    last, hourly, daily, weekly, monthly, yearly = (rules[rule] for rule in RULES)
    policy = Policy(last, hourly, daily, weekly, monthly, yearly)
    return pruning.prune(store.address, given.key, policy, grace=parse_seconds("grace", GRACE), **more)


def _prune_command(store: KnownStore, given: GivenKey, rules: dict[str, int], *, yes: bool) -> str:
    words = [text for rule, number in rules.items() for text in shell.option(f"keep_{rule}", number or None)]
    return shell.line(["pogfast", "prune", store.address, *words, *(["--yes"] if yes else []), *given.options])


def start_prune(request: Request, form: Form) -> Response:
    """Removes what the rules do not keep, as a job."""
    site, store = Site.of(request), store_of(request)
    given = site.need_key(request, store)
    rules = _rules(form)

    def work(job: Job) -> None:
        summary = _prune(store, given, rules, dry_run=False, warn=job.warning)
        for problem in summary.problems:
            job.problem(problem)
        job.exit_code = max((error.exit_code for error in summary.problems), default=0)
        for choice in summary.choices:
            if not choice.reasons:
                job.note("Removed; they can be brought back for a day", choice.name)
        waiting = f"{many(summary.waiting, 'blob')}, {show_size(summary.waiting_size)}, by a prune after a day"
        job.summary = [
            ("Archives", f"{summary.kept:,} kept, {summary.removed:,} removed"),
            ("Deleted", f"{many(summary.blobs, 'blob')}, {show_size(summary.size)}"),
            ("Later", waiting),
        ]

    job = site.jobs.start(
        f"Prune {store.name}",
        work,
        stores=[store.at_work("pruned")],
        command=_prune_command(store, given, rules, yes=True),
        keeps=STEPS_KEEP,
        finally_=lambda job: store.changed(),
    )
    job.link = (f"/stores/{store.name}/retention", "Removed archives")
    return go_to_job(job)


def undelete(request: Request, form: Form) -> Response:
    """Brings back removed archives, as a job."""
    site, store, names = Site.of(request), store_of(request), form.names("archive")
    if not names:
        raise UsageError("nothing is ticked", hint="tick the archives that are to come back")
    given = site.need_key(request, store)

    def work(job: Job) -> None:
        from pogfast.upkeep import pruning

        found = pruning.undelete(store.address, given.key, names, tell=job.problem)
        job.exit_code = max((error.exit_code for error in found.problems), default=0)
        job.summary = [("Brought back", many(len(found.done), "archive"))]

    job = site.jobs.start(
        f"Bring back archives of {store.name}",
        work,
        stores=[store.at_work("written")],
        command=shell.line(["pogfast", "undelete", store.address, *given.options, *shell.names(names)]),
        keeps="What was brought back stays.",
        finally_=lambda job: store.changed(),
    )
    job.link = (f"/stores/{store.name}", f"Archives in {store.name}")
    return go_to_job(job)


# ---- single archives -------------------------------------------------------------------------------------------------


def remove(request: Request) -> Response:
    """Shows what removing the ticked archives would do."""
    site, store, names = Site.of(request), store_of(request), _ticked(form_of(request))
    summary = _remove(store, site.given_key(request, store), names, dry_run=True)
    return site.page(
        request,
        "remove.html",
        store=store,
        summary=summary,
        until=datetime.now(UTC).timestamp() + parse_seconds("grace", GRACE),
        command=_remove_command(store, names),
    )


def start_remove(request: Request, form: Form) -> Response:
    """Removes archives. Raises UsageError, and why the first of them stays, if one does."""
    store, names = store_of(request), _ticked(form)
    summary = _remove(store, Site.of(request).given_key(request, store), names, dry_run=False)
    store.changed()
    if summary.problems:
        raise summary.problems[0]
    for name in names:
        session_of(request).ticks.pop((store.name, name), None)
    return go(f"/stores/{store.name}")


def _ticked(form: Form) -> list[str]:
    names = form.names("archive")
    if not names:
        raise UsageError("no archive is ticked")
    return names


def _remove(store: KnownStore, given: GivenKey | None, names: Iterable[str], *, dry_run: bool) -> Any:
    from pogfast.upkeep import removing

    return removing.remove([store.archive(name) for name in names], given.key if given else None, dry_run=dry_run)


def _remove_command(store: KnownStore, names: Iterable[str]) -> str:
    return shell.line(["pogfast", "remove", *(store.archive(name) for name in names), "--yes"])


def copy(request: Request) -> Response:
    """Asks where the ticked archives are to be copied to; none: all."""
    site, store, names = Site.of(request), store_of(request), form_of(request).names("archive")
    targets = [other for other in site.shelf if other.name != store.name]
    return site.page(request, "copy.html", store=store, names=names, targets=targets)


def start_copy(request: Request, form: Form) -> Response:
    """Copies archives to another store, as a job."""
    site, store, names = Site.of(request), store_of(request), form.names("archive")
    target = site.shelf.find(form.text("target"))
    given = site.given_key(request, store) or site.writing or site.need_key(request, store)

    def work(job: Job) -> None:
        from pogfast.ui import reports
        from pogfast.upkeep import copying

        summary = copying.copy(store.address, target.address, names, given.key, report=reports.CopyReport(job))
        reports.copied(job, summary)

    job = site.jobs.start(
        f"Copy from {store.name} to {target.name}",
        work,
        stores=[store.at_work("read"), target.at_work("written")],
        command=shell.line(["pogfast", "copy", store.address, target.address, *given.options, *shell.names(names)]),
        keeps="Copied data is kept; run it again to continue.",
        finally_=lambda job: target.changed(),
    )
    job.link = (f"/stores/{target.name}", f"Archives in {target.name}")
    return go_to_job(job)


def start_lock(request: Request, form: Form) -> Response:
    """Locks all archives of a store in S3 and what they need, as a job. A public key is enough."""
    from pogfast.stores.settings import Lock

    site, store = Site.of(request), store_of(request)
    given = site.given_key(request, store) or site.writing or site.need_key(request, store)
    text = f"{form.choice('mode', ('governance', 'compliance'))}:{form.number('days', 30, 1, 36500)}d"
    lock = Lock.parse(text)

    def work(job: Job) -> None:
        from pogfast.upkeep import locking

        summary = locking.extend(store.address, given.key, lock, tell=job.problem)
        job.exit_code = summary.exit_code
        job.summary = [
            ("Archives", f"{summary.archives:,}"),
            ("Objects", f"{summary.locked:,} locked, {summary.already:,} were locked as long"),
        ]

    job = site.jobs.start(
        f"Lock {store.name}",
        work,
        stores=[store.at_work("locked")],
        command=shell.line(["pogfast", "lock", "extend", store.address, text, *given.options]),
        keeps="What is locked stays locked.",
    )
    return go_to_job(job)

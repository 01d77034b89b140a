"""`pogfast prune` and `undelete`: their options, and their results as lines or JSON.

upkeep/retention.py evaluates policies, upkeep/pruning.py removes, deletes and brings back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from pogfast.cli.command import PATH, Duration, apply, verb, words_of
from pogfast.cli.options import (
    is_given,
    key_of,
    key_options,
    service_options,
    store_argument,
    store_of,
    tag_option,
)
from pogfast.cli.output import Output
from pogfast.errors import UsageError
from pogfast.sizes import many, show_size

if TYPE_CHECKING:
    from pogfast.upkeep.pruning import Choice, Summary

PERIOD = {"hourly": "hour", "daily": "day", "weekly": "week", "monthly": "month", "yearly": "year"}


class Count(click.ParamType):  # type: ignore[type-arg]
    """A number of archives, or `unlimited`."""

    name = "count"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        from pogfast.sizes import parse_whole
        from pogfast.upkeep.retention import UNLIMITED

        if isinstance(value, int):
            return value
        if value == "unlimited":
            return UNLIMITED
        return parse_whole(param.opts[-1] if param else "count", value, 0, 10**9)


class ShareOf(click.ParamType):  # type: ignore[type-arg]
    """A size, a percentage of the store, or `unlimited`."""

    name = "share"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from pogfast.sizes import parse_share

        return parse_share(param.opts[-1] if param else "share", value) if isinstance(value, str) else value


def _keep(name: str, what: str) -> list[Callable[[Any], Any]]:
    return [
        click.option(f"--keep-{name}", metavar="N", type=Count(), default=0, help=what),
    ]


def _tag_sets(context: click.Context, parameter: click.Parameter, given: tuple[str, ...]) -> tuple[frozenset[str], ...]:
    return tuple(frozenset(words_of(parameter.opts[-1], text)) for text in given)


policy_options = apply(
    [
        *_keep("last", "Keep the newest N archives; N may be unlimited."),
        *(
            option
            for rule in PERIOD
            for option in _keep(rule, f"Keep the newest archive of each of the last N {PERIOD[rule]}s that have one.")
        ),
        click.option("--keep-within", metavar="TIME", help="Keep archives within TIME of the newest: 2y5m7d3h."),
        *(
            click.option(
                f"--keep-within-{rule}",
                metavar="TIME",
                help=f"Keep the newest of each {PERIOD[rule]} within TIME of the newest.",
            )
            for rule in PERIOD
        ),
        click.option(
            "--keep-tag",
            "keep_tags",
            metavar="TAG[,TAG]",
            multiple=True,
            callback=_tag_sets,
            help="Keep archives with all of these tags; may be repeated.",
        ),
        click.option("--keep-all", is_flag=True, help="Keep every archive; only delete unneeded blobs."),
    ]
)


@verb(
    "prune",
    exit_codes={
        4: "a manifest is damaged, or a kept archive lacks blobs: nothing was removed; or a needed blob in a pack is "
        "damaged: the pack stays",
        10: "no such store, or an empty one",
        12: "an archive needs another key: nothing was removed",
    },
    examples=(
        "pogfast prune /mnt/backup --keep-daily 7 --keep-weekly 4 --keep-monthly 12",
        "pogfast prune /mnt/backup --keep-within 1y --keep-tag forever --yes",
    ),
)
@store_argument
@policy_options
@click.option(
    "--group-by",
    metavar="WORDS",
    default="host,paths",
    show_default=True,
    help="Apply the policy to groups of archives with the same host, paths, tags.",
)
@click.option("--host", metavar="NAME", help="Consider only archives of this host.")
@tag_option("Consider only archives with all of these tags.")
@click.option("--path", metavar="PATH", type=PATH, help="Consider only archives of PATH.")
@click.option("--allow-empty", is_flag=True, help="Allow removing all archives of a group.")
@click.option(
    "--allow-missing", is_flag=True, help="Prune even if a kept archive lacks blobs, or a removed one does not open."
)
@click.option(
    "--grace",
    metavar="TIME",
    type=Duration(bare=False),
    default="24h",
    show_default=True,
    help="How long removed archives can be brought back and unneeded blobs are kept.",
)
@click.option(
    "--max-unused",
    metavar="PERCENT|SIZE",
    type=ShareOf(),
    default="10%",
    show_default=True,
    help="How much of the store may be unneeded blobs in packs with needed ones; or unlimited.",
)
@click.option(
    "--max-repack",
    metavar="SIZE|unlimited",
    type=ShareOf(),
    help="How much to store again at most to repack packs (default: 10% of the store, at least 128 MiB).",
)
@click.option("--now", is_flag=True, help="Same as --grace 0; safe only while nobody else writes.")
@click.option("--yes", is_flag=True, help="Remove and delete; otherwise only print what would be done.")
@key_options
@service_options
def prune(output: Output, store: str, **options: Any) -> None:
    """Remove archives by a retention policy and delete unneeded blobs.

    Policies are those of restic. Nothing is removed without --yes. Removed archives can be brought back with `undelete`
    during the grace period. Unneeded blobs are deleted by the first prune after it, so that concurrent backups are
    safe: run prune regularly. A public key alone needs --group-by '' or --keep-all.
    """
    from pogfast.upkeep import pruning

    policy = _policy(options)
    if options.pop("now"):
        if is_given("grace"):
            raise UsageError("give --grace or --now, not both")
        options["grace"] = 0.0
    group_by = words_of("--group-by", text) if (text := options.pop("group_by")) else []
    if unknown := set(group_by) - set(pruning.GROUPS):
        raise UsageError(f"--group-by takes {', '.join(pruning.GROUPS)}, not {sorted(unknown)[0]}")
    output.during = "prune"
    key, dry_run = key_of(options, store=store), not options.pop("yes")
    summary = pruning.prune(store, key, policy, group_by=group_by, dry_run=dry_run, warn=output.warning, **options)
    _print_choices(output, summary.choices)
    _print_summary(output, summary)
    for problem in summary.problems:
        output.problem(problem)


def _policy(options: dict[str, Any]) -> Any:
    from pogfast.upkeep.retention import Policy, Span

    words: dict[str, Any] = {rule: options.pop(f"keep_{rule}") for rule in ("last", *PERIOD)}
    for rule in ("", *PERIOD):
        name = f"within_{rule}".rstrip("_")
        text = options.pop(f"keep_{name}")
        words[name] = None if text is None else Span.parse(text)
    words["tags"] = options.pop("keep_tags")
    return Policy(**words, everything=options.pop("keep_all"))


def _print_choices(output: Output, choices: list[Choice]) -> None:
    """Prints a line per archive, under a line for its group, since rules count within each group."""
    group = ""
    for choice in choices:
        if choice.group != group and not output.json:
            group = choice.group
            output.answer(group)
        if output.json:
            words = choice.as_dict()
            output.emit(
                "snapshot", id=words.pop("name"), hostname=words.pop("host"), keep=bool(choice.reasons), **words
            )
            continue
        time = "" if choice.time is None else f"{choice.time:%Y-%m-%d %H:%M:%S}  "
        what = f"keep    {choice.name}  {time}{', '.join(choice.reasons)}"
        output.answer(what if choice.reasons else f"remove  {choice.name}  {time}".rstrip())


def _print_summary(output: Output, summary: Summary) -> None:
    output.emit(
        "summary",
        dry_run=summary.dry_run,
        snapshots_kept=summary.kept,
        snapshots_removed=summary.removed,
        snapshots_expired=summary.expired,
        blobs_removed=summary.blobs,
        bytes_removed=summary.size,
        blobs_waiting=summary.waiting,
        bytes_waiting=summary.waiting_size,
        blobs_locked=summary.locked,
        packs_removed=summary.packs,
        packs_waiting=summary.waiting_packs,
        packs_locked=summary.locked_packs + summary.repacked.locked,
        packs_cold=summary.repacked.cold,
        packs_repacked=summary.repacked.packs,
        bytes_repacked=summary.repacked.size,
        bytes_unused=int(summary.repacked.unused_size),
    )
    would = "would be " if summary.dry_run else ""
    output.info(f"archives {summary.kept} kept, {summary.removed} {would}removed")
    output.info(
        f"blobs    {summary.blobs} {would}deleted, {show_size(summary.size)}; "
        f"{summary.waiting} more, {show_size(summary.waiting_size)}, by a prune after the grace period"
    )
    _print_packs(output, summary, would)
    if summary.locked:
        output.info(f"locked   {summary.locked} unneeded blobs that cannot be deleted yet")
    if summary.dry_run:
        output.info("nothing was removed; add --yes to do it")


def _print_packs(output: Output, summary: Summary, would: str) -> None:
    done = summary.repacked
    if not (summary.packs or summary.waiting_packs or done.packs or done.unused_size or done.locked or done.cold):
        return
    output.info(
        f"packs    {summary.packs} {would}deleted, {summary.waiting_packs} later; "
        f"{done.packs} {would}repacked, {show_size(done.size)} of their blobs stored again"
    )
    if summary.waiting:
        output.info(f"         what waits goes with the first prune after {_day_of(summary.until)}")
    if done.unused_size:
        output.info(f"unused   {show_size(done.unused_size)} stay in packs with needed blobs (--max-unused)")
    if done.locked or done.cold:
        output.info(
            f"         {done.locked} locked packs and {done.cold} in cold storage are neither repacked nor deleted"
        )


def _day_of(seconds: float) -> str:
    from datetime import datetime

    return f"{datetime.fromtimestamp(seconds):%Y-%m-%d %H:%M}"


@verb(
    "undelete",
    exit_codes={
        4: "blobs of the archive are gone",
        10: "no such store or removed archive",
        12: "wrong key",
    },
    examples=(
        "pogfast undelete /mnt/backup",
        "pogfast undelete /mnt/backup 2026-11-25T12:00:00.000000.mfn",
    ),
)
@click.argument("store", metavar="STORE", type=PATH, required=False)
@click.argument("names", nargs=-1, metavar="[NAME.mfn]...")
@click.option("--all", "everything", is_flag=True, help="Bring back all of them.")
@key_options
@service_options
def undelete(output: Output, store: str | None, names: tuple[str, ...], everything: bool, **options: Any) -> None:
    """Bring back removed archives.

    This is possible until their grace period ends. Without a name, lists the archives that can be brought back.
    """
    from pogfast.stores import MANIFEST, REMOVED
    from pogfast.upkeep import pruning

    if names and everything:
        raise UsageError("give names or --all, not both")
    output.during = "undelete"
    if store is not None and store.endswith(MANIFEST):  # a name: the store is POGFAST_STORE
        names, store = (store, *names), None
    store = store_of(store)
    key = key_of(options, store=store)
    found = pruning.undelete(store, key, names, everything=everything, tell=output.problem)
    shown = found.done if names or everything else [mark.name.removesuffix(REMOVED) for mark in found.there]
    for name in shown:
        if output.json:
            output.emit("snapshot", id=name)
        else:
            output.answer(name)
    if found.done:
        output.info(f"{many(len(found.done), 'archive')} brought back")


VERBS = {"prune": prune, "undelete": undelete}

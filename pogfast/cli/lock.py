"""`pogfast lock extend`: locks objects in S3."""

from __future__ import annotations

from typing import Any

import click

from pogfast.cli.frame import PATH, Group, verb
from pogfast.cli.options import key_of, key_options, look_for_store, raise_worst, service_options, store_of, tag_option
from pogfast.cli.output import Output
from pogfast.errors import UsageError
from pogfast.sizes import many


@verb("extend")
@click.argument("store", metavar="STORE", type=PATH, required=False)
@click.argument("lock", metavar="MODE:TIME", required=False)
@click.option("--host", metavar="NAME", help="Only archives of this host.")
@tag_option("Only archives with these tags.")
@click.option("--path", metavar="PATH", type=PATH, help="Only archives of PATH.")
@key_options
@service_options
def extend(output: Output, store: str | None, lock: str | None, **options: Any) -> None:
    """Lock archives in S3, and all blobs that they need, for some time from now on.

    A lock is only ever made longer. compliance:90d cannot be taken away by anybody for 90 days, governance:90d by those
    who have the right. The public key is enough.
    """
    from pogfast.stores.settings import Lock
    from pogfast.upkeep import locking

    output.during = "lock"
    if lock is None:  # a single word: the store is that of POGFAST_STORE
        store, lock = None, store
    if lock is None:
        raise UsageError("no MODE:TIME is given", hint="write compliance:90d or governance:1y")
    wanted, store = Lock.parse(lock), store_of(store)
    look_for_store(store)
    key = key_of(options)
    summary = locking.extend(store, key, wanted, tell=output.problem, **options)
    raise_worst(output, summary.exit_code)
    output.emit(
        "summary",
        snapshots=summary.archives,
        objects_locked=summary.locked,
        objects_locked_already=summary.already,
        error_count=len(summary.problems),
    )
    output.info(
        f"{many(summary.archives, 'archive')}: {many(summary.locked, 'object')} locked, {summary.already:,} already are"
    )


lock = Group(
    "lock",
    no_args_is_help=False,
    help="Lock archives in S3, so that nobody can delete them for a time.",
    subcommand_metavar="COMMAND ...",
)
lock.add_command(extend)


VERBS = {"lock": lock}

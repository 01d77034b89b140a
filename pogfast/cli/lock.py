"""`pogfast lock extend`: its options and its summary.

upkeep/locking.py extends the object locks.
"""

from __future__ import annotations

from typing import Any

import click

from pogfast.cli.command import PATH, Group, verb
from pogfast.cli.options import key_of, key_options, service_options, store_of, tag_option
from pogfast.cli.output import Output
from pogfast.errors import UsageError
from pogfast.sizes import many


@verb(
    "extend",
    exit_codes={
        3: "some archives need another key",
        4: "an archive is damaged, or a blob is missing",
        10: "no such store, or no archive",
        12: "wrong key",
    },
    examples=("pogfast lock extend s3://bucket/laptop compliance:90d",),
)
@click.argument("store", metavar="STORE", type=PATH, required=False)
@click.argument("lock", metavar="MODE:TIME", required=False)
@click.option("--host", metavar="NAME", help="Only archives of this host.")
@tag_option("Only archives with all of these tags.")
@click.option("--path", metavar="PATH", type=PATH, help="Only archives of PATH.")
@key_options
@service_options
def extend(output: Output, store: str | None, lock: str | None, **options: Any) -> None:
    """Extend the object locks of archives in S3.

    Locks archives, and all blobs that they need, for TIME from now on; locks are never shortened. Nobody can remove
    compliance:90d before it ends; users with a special permission can remove governance:90d. The public key is enough.
    """
    from pogfast.stores.settings import Lock
    from pogfast.upkeep import locking

    output.during = "lock"
    if lock is None:  # a single argument: the store is POGFAST_STORE
        store, lock = None, store
    if lock is None:
        raise UsageError("no MODE:TIME given", hint="write compliance:90d or governance:1y")
    wanted, store = Lock.parse(lock), store_of(store)
    key = key_of(options, store=store)
    summary = locking.extend(store, key, wanted, tell=output.problem, **options)
    output.raise_exit_code(summary.exit_code)
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
    help="Lock archives in S3 against deletion.",
    subcommand_metavar="COMMAND ...",
)
lock.add_command(extend)


VERBS = {"lock": lock}

"""The Python interface, with the words of the command line, where it takes more than one room to do what a verb does.

`pogfast.create`, `open_archive`, `open_store` and `Key` are other rooms' own; what is here only brings them together.
Prints nothing, asks nothing.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from pogfast import archive as archives
from pogfast import check as checking
from pogfast import restore as restoring
from pogfast.keys import Key
from pogfast.manifest import Manifest

if TYPE_CHECKING:
    from pogfast.errors import PogfastError


class Silent:
    """A report to nobody."""

    def started(self, progress: object) -> None: ...

    def file(self, name: str, outcome: str) -> None: ...

    def damage(self, damage: checking.Damage) -> None: ...

    def problem(self, error: PogfastError) -> None: ...

    def warning(self, text: str) -> None: ...


def restore(
    archive: str,
    key: Key,
    into: str,
    *,
    host: str | None = None,
    tags: Collection[str] = (),
    path: str | None = None,
    jobs: int | None = None,
    report: restoring.Report | None = None,
    **more: Any,
) -> restoring.Summary:
    """Restores an archive (STORE/NAME.mfn, or STORE/latest of `host`, `tags` and `path`) below the directory `into`.

    `more` are `names`, `exclude`, `overwrite`, `strip_components`, `delete`, `dry_run` and `numeric_owner` of
    `restore.restore_archive`. Raises as that and `open_archive` do; what is wrong with one entry is in the summary.
    """
    with archives.open_archive(archive, key, host=host, tags=tags, path=path, jobs=jobs) as opened:
        return restoring.restore_archive(
            Manifest(opened.entries, opened.trailer),
            opened.store.blobs,
            key,
            into,
            jobs=opened.jobs,
            report=report or Silent(),
            **more,
        )


def check(
    *archives: str, key: Key, read_data: str | None = None, report: checking.Report | None = None, **more: Any
) -> checking.Summary:
    """Checks archives, or all of a store: the presence and size of blobs, and with `read_data` their content.

    `read_data` is a part like 10%, 1/30 or 50G; 100% is all. `more` are `host`, `tags`, `path` and `jobs`. Raises as
    `check.check`.
    """
    part = None if read_data is None else checking.Subset.parse(read_data)
    return checking.check(archives, key, read_data=part, report=report or Silent(), **more)

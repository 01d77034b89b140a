"""`pogfast lock extend`: locks archives and their blobs, so that no credentials can delete them for a time.

The manifests name the blobs, so the public key is enough. Only S3's object lock can do this; a lock is never made
shorter. create locks what it stores by itself, and prune respects locks.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import partial

from pogfast import manifest
from pogfast.archives.overview import archives
from pogfast.archives.refusals import those_that_open
from pogfast.archives.trailer import Filter
from pogfast.errors import MissingBlob, NoSuchArchive, PogfastError, worst_code
from pogfast.keys import Key
from pogfast.stores import open_store
from pogfast.stores.fetching import fetched_manifest
from pogfast.stores.settings import Lock


@dataclass
class Summary:
    """What was locked. Objects are blobs and manifests."""

    archives: int = 0
    locked: int = 0  # objects
    already: int = 0  # objects with a lock at least as long
    problems: list[PogfastError] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        return worst_code(problem.exit_code for problem in self.problems)


def extend(
    store: str,
    key: Key,
    lock: Lock,
    *,
    host: str | None = None,
    tags: Collection[str] = (),
    path: str | None = None,
    tell: Callable[[PogfastError], None] = lambda error: None,
) -> Summary:
    """Locks the archives of a store that `host`, `tags` and `path` select (none: all), and every blob that they need.
    `lock` says for how long from now on.

    Calls `tell` with missing blobs, and with archives that cannot be read; the others are locked. Raises NoSuchArchive,
    StoreError, UsageError, and WrongKey if a public key would have to select, or if the key opens no archive.
    """
    wanted = Filter.of(host, tags, path)
    wanted.require(key)
    summary = Summary()

    def problem(error: PogfastError) -> None:
        summary.problems.append(error)
        tell(error)

    def not_locked(_: str, error: PogfastError) -> None:
        problem(type(error)(f"not locked: {error}", error.hint, path=error.path))

    opened = open_store(store)
    try:
        needed: dict[str, None] = {}
        infos = ((info.name, info.error or info) for info in archives(opened, key))
        for _, info in those_that_open(infos, not_locked):
            if info.fits(wanted):
                summary.archives += 1
                index = fetched_manifest(opened, info.name, partial(manifest.blob_names, key=key, name=info.name))
                needed.update(dict.fromkeys(index))
                needed[info.name] = None
        if not summary.archives and not summary.problems:
            raise NoSuchArchive(f"no archive to lock in {opened.label}")
        for name, locked in opened.lock(needed, lock):
            if locked is None:
                problem(MissingBlob(f"{name} is missing from {opened.label}", path=name))
            elif locked:
                summary.locked += 1
            else:
                summary.already += 1
    finally:
        opened.close()
    return summary

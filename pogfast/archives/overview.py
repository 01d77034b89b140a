"""All archives of a store: when, of what and by whom each was made, and how large it is.

What `pogfast list` shows, and what prune judges.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pogfast.archives.catalog import Catalog, Seen
from pogfast.archives.lookup import FIRST
from pogfast.archives.manifests import manifests_of
from pogfast.archives.records import Record
from pogfast.archives.trailer import Filter, is_local, time_of
from pogfast.errors import PogfastError
from pogfast.keys import Key
from pogfast.stores import is_partial
from pogfast.stores.protocols import Store


@dataclass(slots=True)
class ArchiveInfo(Record):
    """An archive in a list. What could not be found out is None; `problem` says why."""

    name: str  # its manifest's
    time: datetime | None = None
    host: str = ""
    tags: list[str] = field(default_factory=list)
    comment: str = ""
    paths: list[str] = field(default_factory=list)
    files: int | None = None
    size: int | None = None  # plain bytes
    stored: int | None = None  # bytes of its distinct blobs
    blobs: int | None = None  # distinct ones, where they were looked at
    skipped: int = 0  # sockets and devices that were left out
    unreadable: int = 0  # files and directories that could not be read
    changed: int = 0  # files that changed while they were read
    problem: str | None = None
    code: int = 0  # the exit code that `problem` stands for
    error: PogfastError | None = field(default=None, compare=False)  # `problem` as it was raised; not in JSON
    local: bool = False  # `time` is what its writer's clock showed, taken for one of this machine's zone

    def as_dict(self) -> dict[str, Any]:
        words = Record.as_dict(self)
        del words["error"]
        if self.local and self.time:
            words["time"] = self.time.replace(tzinfo=None).isoformat()
        return words

    def fits(self, wanted: Filter) -> bool:
        return wanted.fits(self)


def archives(store: Store, key: Key, *, partial: bool = False, blobs: bool = False) -> list[ArchiveInfo]:
    """The archives of a store, by time; with `partial` those of runs that go on, or were killed, instead. One that this
    key does not open or that is damaged is in the list as such.

    With a public key alone there are names, times, blobs and stored bytes. With `blobs` it is remembered as well what
    each archive needs, for `needed_blobs`, and not counted. Raises as `manifests_of` does.
    """
    manifests = manifests_of(store)
    if partial:
        manifests = [mark for mark in store.marks() if is_partial(mark.name)]
    catalog = Catalog(store, key)
    infos = [_info(store, seen, counted=not blobs) for seen in catalog.look(manifests, blobs=blobs)]
    if not partial:  # what is remembered is of all that was looked at, and of nothing else
        catalog.close()
    return sorted(infos, key=lambda info: (info.time or FIRST, info.name))


def _info(store: Store, seen: Seen, *, counted: bool) -> ArchiveInfo:
    info = ArchiveInfo(seen.name, time_of(seen.trailer, seen.name), local=is_local(seen.trailer, seen.name))
    if seen.problem is not None:
        info.problem, info.code, info.error = str(seen.problem), seen.problem.exit_code, seen.problem
        info.error.path = info.error.path or seen.name
        return info
    trailer, totals = seen.trailer, seen.trailer.totals
    info.host, info.comment = trailer.host, trailer.comment
    info.tags, info.paths = trailer.tags, trailer.paths
    info.files, info.size, info.stored = totals.get("files"), totals.get("size"), totals.get("stored")
    for word in ("skipped", "unreadable", "changed"):
        setattr(info, word, trailer.number(word) or 0)
    if seen.blobs is not None and counted:
        info.blobs = len(seen.blobs)
        info.stored = sum(store.size_of(name) or 0 for name in seen.blobs)
    return info

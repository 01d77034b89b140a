"""All archives of a store: when, of what and by whom each was made, and how large it is.

`pogfast list` shows this, and prune applies its policy to it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pogfast.archives.catalog import Catalog
from pogfast.archives.catalog_file import CatalogedArchive
from pogfast.archives.lookup import FIRST
from pogfast.archives.manifests import manifests_of
from pogfast.archives.records import Record
from pogfast.archives.trailer import Filter, is_local, time_of
from pogfast.errors import PogfastError
from pogfast.keys import Key
from pogfast.stores import is_partial
from pogfast.stores.protocols import Store


@dataclass(slots=True)
class Described(Record):
    """What a user tells archives apart by."""

    name: str  # its manifest's
    time: datetime | None
    host: str
    tags: list[str]
    paths: list[str]


@dataclass(slots=True)
class ArchiveInfo(Record):
    """An archive in a list. Values that are not known are None; `problem` says why an archive does not open."""

    name: str  # its manifest's
    time: datetime | None = None
    host: str = ""
    tags: list[str] = field(default_factory=list)
    comment: str = ""
    paths: list[str] = field(default_factory=list)
    files: int | None = None
    size: int | None = None  # uncompressed bytes of its files
    stored: int | None = None  # bytes of its distinct blobs
    blobs: int | None = None  # distinct ones, where they were counted
    skipped: int = 0  # sockets and devices, which are not archived
    unreadable: int = 0  # files and directories that could not be read
    changed: int = 0  # files that changed while they were read
    problem: str | None = None
    code: int = 0  # the exit code of `problem`
    error: PogfastError | None = field(default=None, compare=False)  # `problem` as it was raised; not in JSON
    local: bool = (
        False  # `time` is the local time of its writer, whose zone is unknown; it is read as one of this machine's zone
    )

    def as_dict(self) -> dict[str, Any]:
        words = Record.as_dict(self)
        del words["error"]
        if self.local and self.time:
            words["time"] = self.time.replace(tzinfo=None).isoformat()
        return words

    def fits(self, wanted: Filter) -> bool:
        return wanted.fits(self)


def archives(store: Store, key: Key, *, partial: bool = False) -> list[ArchiveInfo]:
    """Returns the archives of a store, by time; with `partial` the unfinished ones of backups that are running or were
    killed instead. Archives that are damaged or that this key does not open are in the list, with a `problem`.

    A public key alone tells names, times, blobs and stored bytes. Raises as `manifests_of` does.
    """
    manifests = manifests_of(store)
    if partial:
        manifests = [mark for mark in store.marks() if is_partial(mark.name)]
    catalog = Catalog(store, key)
    infos = _by_time(_info(store, archive, counted=True) for archive in catalog.read(manifests))
    if not partial:  # the catalog keeps those archives that it was asked for, and must not lose the others
        catalog.close()
    return infos


def archives_for_prune(store: Store, catalog: Catalog) -> list[ArchiveInfo]:
    """Returns the archives of a store, by time, without counting blobs. The catalog then also knows which blobs each
    archive needs. Raises as `manifests_of` does."""
    return _by_time(_info(store, archive, counted=False) for archive in catalog.read(manifests_of(store), blobs=True))


def _by_time(infos: Iterable[ArchiveInfo]) -> list[ArchiveInfo]:
    return sorted(infos, key=lambda info: (info.time or FIRST, info.name))


def _info(store: Store, archive: CatalogedArchive, *, counted: bool) -> ArchiveInfo:
    info = ArchiveInfo(
        archive.name, time_of(archive.trailer, archive.name), local=is_local(archive.trailer, archive.name)
    )
    if archive.problem is not None:
        info.problem, info.code, info.error = str(archive.problem), archive.problem.exit_code, archive.problem
        info.error.path = info.error.path or archive.name
        return info
    trailer = archive.trailer
    info.host, info.comment = trailer.host, trailer.comment
    info.tags, info.paths = trailer.tags, trailer.paths
    info.files, info.size, info.stored = trailer.total("files"), trailer.total("size"), trailer.total("stored")
    for word in ("skipped", "unreadable", "changed"):
        setattr(info, word, trailer.number(word) or 0)
    if archive.blobs is not None and counted:
        info.blobs = len(archive.blobs)
        info.stored = sum(store.size_of(name) or 0 for name in archive.blobs)
    return info

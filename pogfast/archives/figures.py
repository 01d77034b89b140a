"""Statistics of an archive (`info`) and of a store (`stats`): counts, sizes and duplicates.

They come from manifests alone: no blob is read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from pogfast.archives.archive import Archive
from pogfast.archives.catalog import Catalog
from pogfast.archives.catalog_file import CatalogedArchive
from pogfast.archives.manifests import manifests_of
from pogfast.archives.records import Record
from pogfast.archives.refusals import those_that_open
from pogfast.errors import CorruptManifest, PogfastError
from pogfast.keys import Key
from pogfast.manifest import Entry
from pogfast.stores.protocols import HasPacks, Store


@dataclass(slots=True)
class Info(Record):
    """Statistics of one archive. Sizes are bytes."""

    name: str
    time: datetime | None
    host: str
    tags: list[str]
    comment: str
    paths: list[str]
    program: str
    layout: str
    chunk_size: int | None
    chunker: str
    files: int = 0
    directories: int = 0
    links: int = 0
    fifos: int = 0
    size: int = 0  # uncompressed, of all files whose size is known
    unknown: int = 0  # files whose size is unknown: pog does not write it
    blobs: int = 0  # distinct
    missing: int = 0  # of these, those that are not in the store
    stored: int = 0  # bytes of the others
    skipped: int = 0  # sockets and devices, which are not archived
    unreadable: int = 0  # files and directories that could not be read
    changed: int = 0  # files that changed while they were read
    duplicates: int = 0  # files with the same content as an earlier one
    duplicate_size: int = 0  # uncompressed bytes of these, which were not stored again
    largest: str | None = None
    largest_size: int = 0
    ratio: float | None = None  # uncompressed to stored bytes; None if a size is unknown, or nothing is stored


def info(archive: Archive, problem: Callable[[PogfastError], None] | None = None) -> Info:
    """Counts the entries of an archive and looks up the sizes of its blobs. Calls `problem` with each malformed entry;
    without it, raises CorruptManifest. Raises StoreError."""
    found = Info(
        archive.name,
        archive.time,
        archive.host,
        archive.tags,
        archive.comment,
        archive.paths,
        archive.described.program,
        archive.layout,
        archive.chunk_size,
        archive.chunker,
        len(archive),
        len(archive.directories),
        len(archive.links),
        len(archive.fifos),
    )
    for word in ("skipped", "unreadable", "changed"):
        setattr(found, word, archive.described.count(word))
    contents: set[str | tuple[str, ...]] = set()
    blobs: set[str] = set()
    for name in archive:
        try:
            entry = archive[name]
            _count(found, name, entry, contents)
            blobs.update(entry.blobs)
        except CorruptManifest as error:
            if problem is None:
                raise
            problem(error)
    found.blobs = len(blobs)
    for blob in blobs:
        size = archive.store.size_of(blob)
        found.missing += size is None
        found.stored += size or 0
    if not found.unknown and found.stored:
        found.ratio = found.size / found.stored
    return found


def _count(found: Info, name: str, entry: Entry, contents: set[str | tuple[str, ...]]) -> None:
    size = entry.size or 0
    found.size += size
    found.unknown += entry.size is None
    if size > found.largest_size:
        found.largest, found.largest_size = name, size
    if entry.blobs:
        content = entry.blobs[0] if len(entry.blobs) == 1 else tuple(entry.blobs)
        if content in contents:
            found.duplicates += 1
            found.duplicate_size += size
        contents.add(content)


@dataclass(slots=True)
class Stats(Record):
    """Statistics of one store. Sizes are bytes."""

    archives: int = 0  # that this key opens
    unreadable: int = 0  # that it does not open, or that are damaged
    blobs: int = 0
    stored: int = 0  # bytes of the blobs
    manifests: int = 0  # bytes of the manifests
    orphans: int = 0  # blobs that no readable archive needs
    orphaned: int = 0  # bytes of these
    missing: int = 0  # distinct blobs that are needed and absent
    packs: int = 0
    packed: int = 0  # bytes of the packs
    wasted: int = 0  # of these, bytes that no readable archive needs, or that are there twice
    index_objects: int = 0  # of packs
    files: int | None = 0  # of all readable archives; None with a public key alone
    size: int | None = 0  # uncompressed bytes of these; None if an archive does not say
    ratio: float | None = None  # uncompressed bytes to stored bytes that are needed


def stats(store: Store, key: Key, problem: Callable[[PogfastError], None]) -> Stats:
    """Counts all blobs and archives of a store. Calls `problem` with each archive that does not open; its blobs count
    as orphans if no other archive needs them. Raises as `manifests_of` does, and WrongKey if no archive opens."""
    found = Stats()
    manifests = manifests_of(store)
    there = {blob.name: blob.size for blob in store.blob_names()}
    found.blobs, found.stored = len(there), sum(there.values())
    found.manifests = sum(stored.size for stored in manifests)
    needed: set[str] = set()
    with Catalog(store, key) as catalog:
        looks = ((archive.name, archive.problem or archive) for archive in catalog.read(manifests, blobs=True))
        for _, archive in those_that_open(looks, lambda _, error: problem(error)):
            needed.update(archive.blobs or ())
            _count_archive(found, archive, key)
    found.unreadable = len(manifests) - found.archives
    found.missing = len(needed - there.keys())
    for blob, size in there.items():
        if blob not in needed:
            found.orphans += 1
            found.orphaned += size
    if isinstance(store, HasPacks):
        packs = store.pack_figures(needed.__contains__)
        found.packs, found.packed, found.index_objects = packs.packs, packs.size, packs.index_objects
        found.wasted = packs.size - packs.needed
    if found.size and found.stored > found.orphaned:
        found.ratio = found.size / (found.stored - found.orphaned)
    return found


def _count_archive(found: Stats, archive: CatalogedArchive, key: Key) -> None:
    found.archives += 1
    if not key.can_open:
        found.files = found.size = None
        return
    size = archive.trailer.total("size")
    found.size = None if found.size is None or size is None else found.size + size
    found.files = (found.files or 0) + (archive.trailer.total("files") or 0)

"""What is in archives and stores, counted and listed: for `ls`, `find`, `info` and `stats`.

Looks at manifests and at the sizes of blobs; reads no blob. Goes through a million entries one at a time, so that
what is held is names, not records. What a manifest says of its files is believed as far as it is well formed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, NamedTuple

from pogfast import manifest
from pogfast.archive import Archive, Record
from pogfast.directories import plain_path
from pogfast.errors import NoSuchEntry, PogfastError
from pogfast.keys import Key
from pogfast.manifest import Entry
from pogfast.patterns import Patterns
from pogfast.plan import Choice
from pogfast.stores import Store

Kind = Literal["file", "directory", "link", "fifo"]


# ---- what is in an archive -------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Item(Record):
    """Something in an archive. What its archive does not say is None."""

    name: str
    kind: Kind
    size: int | None = None  # plain bytes of a file
    mode: int | None = None  # permission bits
    uid: int | None = None
    gid: int | None = None
    user: str | None = None
    group: str | None = None
    mtime_ns: int | None = None
    target: str | None = None  # of a link
    hardlink: str | None = None  # the archived name of the first file of the same inode


class Thing(NamedTuple):
    """Something in an archive, as it is written there. `entry` is a file's."""

    name: str
    kind: Kind
    facts: Mapping[str, Any]
    entry: Entry | None = None

    @property
    def size(self) -> int | None:
        """Plain bytes of a file."""
        return self.entry.size if self.entry else None


def listing(archive: Archive) -> Iterator[Item]:
    """Everything in an archive, in the order of paths: a directory, what is below it, then what follows.

    Raises CorruptManifest at an entry that is malformed.
    """
    for name in sorted_names(archive):
        for thing in things(archive, name):
            yield _item(thing)


def select(archive: Archive, words: Collection[str], problem: Callable[[PogfastError], None]) -> Iterator[Item]:
    """Those of `listing` that `words` mean, as in `restore`: a name, and all below it, or else a pattern of restic's
    rules. No words: all. A word that means nothing goes to `problem`, behind the last item."""
    choice = Choice(words, (), (plain_path(name) for name in sorted_names(archive)))
    for item in listing(archive):
        if choice.picks(plain_path(item.name)):
            yield item
    for word in words:
        if word in choice.unmatched:
            problem(NoSuchEntry(f"{word}: no such file in the archive"))


def sorted_names(*archives: Archive) -> list[str]:
    """The names of all that is in archives, once each, in the order of paths."""
    names: set[str] = set()
    for archive in archives:
        names.update(archive, archive.directories, archive.links, archive.fifos)
    return sorted(names, key=in_order_of_paths)


def in_order_of_paths(name: str) -> str:
    """What to sort by. No name holds a zero byte, and it sorts before all else, as a part's end must."""
    return name.replace("/", "\0")


def things(archive: Archive, name: str) -> list[Thing]:
    """What an archive has under a name: one in a sound archive."""
    found: list[Thing] = []
    if name in archive.entries:
        entry = archive.entries[name]
        found.append(Thing(name, "file", entry.more, entry))
    if name in archive.directories:
        found.append(Thing(name, "directory", archive.directories[name]))
    if name in archive.links:
        found.append(Thing(name, "link", archive.links[name]))
    if name in archive.fifos:
        found.append(Thing(name, "fifo", archive.fifos[name]))
    return found


def _item(thing: Thing) -> Item:
    facts, entry = thing.facts, thing.entry
    return Item(
        thing.name,
        thing.kind,
        thing.size,
        _number(facts, "mode"),
        _number(facts, "uid"),
        _number(facts, "gid"),
        _text(facts, "user"),
        _text(facts, "group"),
        entry.mtime_ns if entry else _number(facts, "mtime_ns"),
        _text(facts, "target"),
        _text(facts, "hardlink"),
    )


def _number(facts: Mapping[str, Any], word: str) -> int | None:
    value = facts.get(word)
    return value if type(value) is int else None


def _text(facts: Mapping[str, Any], word: str) -> str | None:
    value = facts.get(word)
    return value if isinstance(value, str) else None


# ---- in all archives -------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Found(Record):
    """Something in one of a store's archives."""

    archive: str  # its manifest's name
    time: datetime | None
    item: Item


def find(store: Store, key: Key, patterns: Iterable[str], problem: Callable[[PogfastError], None]) -> Iterator[Found]:
    """What matches one of `patterns` in the archives of a store, in the order of their manifests' names.

    A pattern with a `/` is matched with whole names, any other with their last part. An archive that does not open goes
    to `problem`. Raises StoreError, and UsageError for what is no pattern.
    """
    given = list(patterns)
    leaves = Patterns([pattern for pattern in given if "/" not in pattern])
    paths = Patterns([pattern for pattern in given if "/" in pattern])

    def is_meant(name: str) -> bool:
        parent, _, leaf = name.rpartition("/")
        # What matches includes all below it: that alone is no reason to be found.
        return leaves.matches(leaf) or (paths.matches(name) and not paths.matches(parent))

    for archive in _opened(store, key, problem):
        for item in listing(archive):
            if is_meant(item.name):
                yield Found(archive.name, archive.time, item)


def _opened(store: Store, key: Key, problem: Callable[[PogfastError], None]) -> Iterator[Archive]:
    """The archives of a store, one after the other. They are not to be closed: the store is the caller's."""
    for stored in store.manifests():
        try:
            data = store.get_manifest(stored.name)
            opened = manifest.open(data, key, stored.name)
        except PogfastError as error:
            problem(error)
            continue
        yield Archive(store, stored.name, opened, key)


# ---- figures ---------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Info(Record):
    """One archive in figures. Sizes are bytes."""

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
    size: int = 0  # plain, of all files whose size is known
    unknown: int = 0  # files whose size is not: pog does not write it
    blobs: int = 0  # distinct
    missing: int = 0  # of these, not in the store
    stored: int = 0  # bytes of those that are
    duplicates: int = 0  # files with the content of one before
    duplicate_size: int = 0  # plain bytes of these: not stored again
    largest: str | None = None
    largest_size: int = 0
    ratio: float | None = None  # plain to stored; None where a size is not known, or nothing is stored


def info(archive: Archive) -> Info:
    """Counts through an archive and looks up the sizes of its blobs. Raises StoreError."""
    program = archive.trailer.get("program")
    found = Info(
        archive.name,
        archive.time,
        archive.host,
        archive.tags,
        archive.comment,
        archive.paths,
        program if isinstance(program, str) else "",
        archive.layout,
        archive.chunk_size,
        archive.chunker,
        len(archive),
        len(archive.directories),
        len(archive.links),
        len(archive.fifos),
    )
    contents: set[str | tuple[str, ...]] = set()
    blobs: set[str] = set()
    for name, entry in archive.items():
        _count(found, name, entry, contents)
        blobs.update(entry.blobs)
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
    """One store in figures. Sizes are bytes."""

    archives: int = 0  # that this key opens
    unreadable: int = 0  # that it does not, or that are damaged
    blobs: int = 0
    stored: int = 0  # bytes of the blobs
    manifests: int = 0  # bytes of the manifests
    orphans: int = 0  # blobs that no readable archive needs
    orphaned: int = 0  # bytes of these
    missing: int = 0  # distinct blobs that are needed and not there
    files: int | None = 0  # of all readable archives; None with a public key alone
    size: int | None = 0  # plain bytes of these; None where an archive does not say
    ratio: float | None = None  # plain bytes to stored ones that are needed


def stats(store: Store, key: Key, problem: Callable[[PogfastError], None]) -> Stats:
    """Goes through all blobs and archives of a store. An archive that does not open goes to `problem`. While there is
    one, its blobs may count as orphans. Raises StoreError."""
    found = Stats()
    there = {blob.name: blob.size for blob in store.blob_names()}
    found.blobs, found.stored = len(there), sum(there.values())
    needed: set[str] = set()
    for stored in store.manifests():
        found.manifests += stored.size
        try:
            _count_archive(found, store.get_manifest(stored.name), key, stored.name, needed)
        except PogfastError as error:
            found.unreadable += 1
            problem(error)
    found.missing = len(needed - there.keys())
    for blob, size in there.items():
        if blob not in needed:
            found.orphans += 1
            found.orphaned += size
    if found.size and found.stored > found.orphaned:
        found.ratio = found.size / (found.stored - found.orphaned)
    return found


def _count_archive(found: Stats, data: bytes, key: Key, name: str, needed: set[str]) -> None:
    if not key.can_open:
        needed.update(manifest.blob_names(data, key, name))
        found.files = found.size = None
    else:
        opened = manifest.open(data, key, name)
        for entry in opened.entries.values():
            needed.update(entry.blobs)
            found.size = None if found.size is None or entry.size is None else found.size + entry.size
        found.files = (found.files or 0) + len(opened.entries)
    found.archives += 1

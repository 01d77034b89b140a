"""What is in archives and stores, counted and listed: for `ls`, `find`, `info` and `stats`.

Looks at manifests and at the sizes of blobs; reads no blob. Goes through a million entries one at a time, so that
what is held is names, not records. What a manifest says of its files is believed as far as it is well formed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, NamedTuple

from pogfast import manifest
from pogfast.archive import Archive, Filter, Record, Refused, manifests_of, totals_of
from pogfast.catalog import Catalog, Seen, in_parallel
from pogfast.directories import plain_path
from pogfast.errors import CorruptManifest, NoSuchEntry, PogfastError, WrongKey
from pogfast.fetching import fetched_manifest
from pogfast.keys import Key
from pogfast.manifest import Entry
from pogfast.patterns import Patterns
from pogfast.plan import Choice
from pogfast.stores import Store, Stored

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


def listing(archive: Archive, problem: Callable[[PogfastError], None] | None = None) -> Iterator[Item]:
    """Everything in an archive, in the order of paths: a directory, what is below it, then what follows.

    An entry that is malformed goes to `problem`; without it, raises CorruptManifest there.
    """
    for name in sorted_names(archive):
        yield from _items(archive, name, problem)


def _items(archive: Archive, name: str, problem: Callable[[PogfastError], None] | None) -> Iterator[Item]:
    for kind in _kinds(archive, name):
        try:
            item = _item(_thing(archive, name, kind))
        except CorruptManifest as error:
            if problem is None:
                raise
            problem(error)
        else:
            yield item


def select(archive: Archive, words: Collection[str], problem: Callable[[PogfastError], None]) -> Iterator[Item]:
    """Those of `listing` that `words` mean, as in `restore`: a name, and all below it, or else a pattern of restic's
    rules. No words: all. A word that means nothing goes to `problem`, behind the last item."""
    choice = Choice(words, (), (plain_path(name) for name in sorted_names(archive)))
    for name in sorted_names(archive):
        if choice.picks(plain_path(name)):
            yield from _items(archive, name, problem)
    for word in words:
        if word in choice.unmatched:
            problem(NoSuchEntry(f"{word}: no such file in the archive", path=word))


def sorted_names(*archives: Archive) -> list[str]:
    """The names of all that is in archives, once each, in the order of paths."""
    return sorted(set().union(*map(names_of, archives)), key=in_order_of_paths)


def names_of(archive: Archive) -> set[str]:
    """The names of all that is in an archive."""
    return set().union(archive, archive.directories, archive.links, archive.fifos)


def in_order_of_paths(name: str) -> str:
    """What to sort by. No name holds a zero byte, and it sorts before all else, as a part's end must."""
    return name.replace("/", "\0")


def things(archive: Archive, name: str) -> list[Thing]:
    """What an archive has under a name: one in a sound archive. Raises CorruptManifest if an entry is malformed."""
    return [_thing(archive, name, kind) for kind in _kinds(archive, name)]


def _kinds(archive: Archive, name: str) -> list[Kind]:
    kinds: list[Kind] = ["file"] if name in archive.entries else []
    sections: list[tuple[Kind, Mapping[str, Any]]] = [
        ("directory", archive.directories),
        ("link", archive.links),
        ("fifo", archive.fifos),
    ]
    return kinds + [kind for kind, section in sections if name in section]


def _thing(archive: Archive, name: str, kind: Kind) -> Thing:
    if kind == "file":
        entry = archive.entries[name]
        return Thing(name, kind, entry.more, entry)
    return Thing(name, kind, archive.others[kind][name])


def _item(thing: Thing) -> Item:
    facts, entry = thing.facts, thing.entry
    return Item(
        thing.name,
        thing.kind,
        thing.size,
        _permissions(facts),
        _number(facts, "uid"),
        _number(facts, "gid"),
        _text(facts, "user"),
        _text(facts, "group"),
        entry.mtime_ns if entry else _number(facts, "mtime_ns"),
        _text(facts, "target"),
        _text(facts, "hardlink"),
    )


def _permissions(facts: Mapping[str, Any]) -> int | None:
    mode = _number(facts, "mode")
    return mode if mode is not None and 0 <= mode <= 0o7777 else None


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


def find(
    store: Store,
    key: Key,
    patterns: Iterable[str],
    problem: Callable[[PogfastError], None],
    *,
    host: str | None = None,
    tags: Collection[str] = (),
) -> Iterator[Found]:
    """What matches one of `patterns` in the archives of a store, in the order of their manifests' names; only in those
    of `host` and with all `tags`, if they are given.

    A pattern with a `/` is matched with whole names, any other with their last part. An archive that does not open goes
    to `problem`, as does an entry that is malformed. Raises as `manifests_of` does, WrongKey if not one opens, and
    UsageError for what is no pattern.
    """
    given = list(patterns)
    leaves = Patterns([pattern for pattern in given if "/" not in pattern])
    paths = Patterns([pattern for pattern in given if "/" in pattern])

    def is_meant(name: str) -> bool:
        parent, _, leaf = name.rpartition("/")
        # What matches includes all below it: that alone is no reason to be found.
        return leaves.matches(leaf) or (paths.matches(name) and not paths.matches(parent))

    manifests = manifests_of(store)
    wanted = Filter.of(host, tags, None)
    wanted.require(key)
    if wanted != Filter():
        manifests = _those_that_fit(store, key, manifests, wanted)
    for archive in _opened(store, key, manifests, problem):
        for name in sorted(filter(is_meant, names_of(archive)), key=in_order_of_paths):
            for item in _items(archive, name, problem):
                yield Found(archive.name, archive.time, item)


def _those_that_fit(store: Store, key: Key, manifests: Sequence[Stored], wanted: Filter) -> list[Stored]:
    """One that does not open may be meant: it is opened once more, and told of, with the others."""
    with Catalog(store, key) as catalog:
        looks = zip(manifests, catalog.look(manifests), strict=True)
        return [stored for stored, seen in looks if seen.problem is not None or wanted.fits(seen.facts)]


def _opened(
    store: Store, key: Key, manifests: Sequence[Stored], problem: Callable[[PogfastError], None]
) -> Iterator[Archive]:
    """The archives of a store, one after the other. They are not to be closed: the store is the caller's."""

    def fetch(stored: Stored) -> manifest.Manifest | PogfastError:
        try:
            return fetched_manifest(store, stored.name, lambda data: manifest.open(data, key, stored.name))
        except PogfastError as error:
            return error

    refused = Refused()
    for stored, opened in zip(manifests, in_parallel(fetch, manifests, store.parallel), strict=True):
        if isinstance(opened, WrongKey):
            refused.add(stored.name, opened)
            continue
        refused.others += 1
        if isinstance(opened, PogfastError):
            problem(opened)
        else:
            yield Archive(store, stored.name, opened, key)
    refused.tell(problem)


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
    skipped: int = 0  # sockets and devices that were left out
    unreadable: int = 0  # files and directories that could not be read
    changed: int = 0  # files that changed while they were read
    duplicates: int = 0  # files with the content of one before
    duplicate_size: int = 0  # plain bytes of these: not stored again
    largest: str | None = None
    largest_size: int = 0
    ratio: float | None = None  # plain to stored; None where a size is not known, or nothing is stored


def info(archive: Archive, problem: Callable[[PogfastError], None] | None = None) -> Info:
    """Counts through an archive and looks up the sizes of its blobs. An entry that is malformed goes to `problem`;
    without it, raises CorruptManifest there. Raises StoreError."""
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
    for word in ("skipped", "unreadable", "changed"):
        left_out = archive.trailer.get(word)
        setattr(found, word, len(left_out) if isinstance(left_out, dict | list) else 0)
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
    one, its blobs may count as orphans. Raises as `manifests_of` does, and WrongKey if not one opens."""
    found = Stats()
    manifests = manifests_of(store)
    there = {blob.name: blob.size for blob in store.blob_names()}
    found.blobs, found.stored = len(there), sum(there.values())
    found.manifests = sum(stored.size for stored in manifests)
    needed: set[str] = set()
    refused = Refused()
    with Catalog(store, key) as catalog:
        for seen in catalog.look(manifests, blobs=True):
            if isinstance(seen.problem, WrongKey):
                refused.add(seen.name, seen.problem)
            elif seen.problem is not None:
                refused.others += 1
                problem(seen.problem)
            else:
                refused.others += 1
                needed.update(seen.blobs or ())
                _count_archive(found, seen, key)
    refused.tell(problem)
    found.unreadable = len(manifests) - found.archives
    found.missing = len(needed - there.keys())
    for blob, size in there.items():
        if blob not in needed:
            found.orphans += 1
            found.orphaned += size
    if found.size and found.stored > found.orphaned:
        found.ratio = found.size / (found.stored - found.orphaned)
    return found


def _count_archive(found: Stats, seen: Seen, key: Key) -> None:
    found.archives += 1
    if not key.can_open:
        found.files = found.size = None
        return
    totals = totals_of(seen.facts)
    size = totals.get("size")
    found.size = None if found.size is None or size is None else found.size + size
    found.files = (found.files or 0) + totals.get("files", 0)

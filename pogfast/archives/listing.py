"""Entries of archives, listed and searched: for `ls` and `find`.

Reads manifests, not blobs. Entries are processed one at a time, so that memory holds names, not records. A manifest is
believed as far as it is well formed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from pogfast import manifest
from pogfast.archives.archive import Archive
from pogfast.archives.catalog import Catalog, in_parallel
from pogfast.archives.manifests import manifests_of
from pogfast.archives.records import Record
from pogfast.archives.refusals import those_that_open
from pogfast.archives.selection import Choice
from pogfast.archives.trailer import Filter, Kind
from pogfast.errors import CorruptManifest, NoSuchEntry, PogfastError
from pogfast.files.paths import plain_path
from pogfast.files.patterns import Patterns
from pogfast.keys import Key
from pogfast.manifest import Entry
from pogfast.stores import Stored
from pogfast.stores.fetching import fetched_manifest
from pogfast.stores.protocols import Store

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


def list_items(archive: Archive, problem: Callable[[PogfastError], None] | None = None) -> Iterator[Item]:
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
        return [stored for stored, seen in looks if seen.problem is not None or wanted.fits(seen.trailer)]


def _opened(
    store: Store, key: Key, manifests: Sequence[Stored], problem: Callable[[PogfastError], None]
) -> Iterator[Archive]:
    """The archives of a store, one after the other. They are not to be closed: the store is the caller's."""

    def fetch(stored: Stored) -> tuple[str, manifest.Manifest | PogfastError]:
        try:
            return stored.name, fetched_manifest(store, stored.name, lambda data: manifest.open(data, key, stored.name))
        except PogfastError as error:
            return stored.name, error

    found = in_parallel(fetch, manifests, store.parallel)
    for name, opened in those_that_open(found, lambda _, error: problem(error)):
        yield Archive(store, name, opened, key)

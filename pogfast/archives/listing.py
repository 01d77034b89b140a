"""What is in archives, for `ls` and `find`: everything in one, or what matches patterns in all.

Reads manifests, not blobs. Entries are processed some hundred at a time: a million of them are in memory only if their
manifest does not have them in the order of paths.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pogfast import manifest
from pogfast.archives.archive import Archive
from pogfast.archives.catalog import Catalog
from pogfast.archives.catalog_file import CatalogedArchive
from pogfast.archives.manifests import manifests_of
from pogfast.archives.members import Member, MemberTable
from pogfast.archives.records import Record
from pogfast.archives.refusals import those_that_open
from pogfast.archives.selection import Choice
from pogfast.archives.trailer import Filter, Kind, time_of
from pogfast.errors import CorruptManifest, NoSuchEntry, PogfastError
from pogfast.files.paths import normal_path
from pogfast.files.patterns import Patterns
from pogfast.keys import Key
from pogfast.manifest import Entry, in_order_of_paths
from pogfast.stores import Stored
from pogfast.stores.protocols import Store

# ---- one archive -----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Item(Record):
    """A file, directory, link or FIFO in an archive, to be shown. What the archive does not say is None."""

    name: str
    kind: Kind
    size: int | None = None  # uncompressed bytes of a file
    mode: int | None = None  # permission bits
    uid: int | None = None
    gid: int | None = None
    user: str | None = None
    group: str | None = None
    mtime_ns: int | None = None
    target: str | None = None  # of a link
    hardlink: str | None = None  # of all but the first of several hard links: the archived name of the first


def list_items(archive: Archive, problem: Callable[[PogfastError], None] | None = None) -> Iterator[Item]:
    """Yields everything in an archive, in the order of paths: a directory, what is below it, then what follows.

    Calls `problem` with each malformed entry; without it, raises CorruptManifest.
    """
    for names, entries in in_order(archive):
        yield from items_of(archive, names, entries, problem)


def items_of(
    archive: Archive,
    names: Sequence[str],
    entries: Mapping[str, Entry],
    problem: Callable[[PogfastError], None] | None,
) -> Iterator[Item]:
    """Yields what an archive has under these names; the entries of files are among `entries`."""
    plain = manifest.plain_entries(entries, names)
    others = archive.not_files
    for name in names:
        its = plain.get(name)
        if its is not None and name not in others:
            yield _plain_item(name, its)
            continue
        for kind in _kinds(archive, name, entries):
            try:
                item = _item(_member(archive, name, kind, entries))
            except CorruptManifest as error:
                if problem is None:
                    raise
                problem(error)
            else:
                yield item


def select(archive: Archive, words: Collection[str], problem: Callable[[PogfastError], None]) -> Iterator[Item]:
    """Yields the items that `words` select, by the same rules as `restore`: a name, with everything below it, or else a
    pattern. Without words yields all. Calls `problem` at the end with each word that matches nothing."""
    choice = Choice(words, (), (normal_path(name) for names, _ in in_order(archive) for name in names))
    for names, entries in in_order(archive):
        picked = names if choice.everything else [name for name in names if choice.picks(normal_path(name))]
        yield from items_of(archive, picked, entries, problem)
    for word in words:
        if word in choice.unmatched:
            problem(NoSuchEntry(f"{word}: matches nothing in the archive", path=word))


def in_order(archive: Archive) -> Iterator[tuple[list[str], manifest.LazyEntries]]:
    """Yields the names of everything in an archive in the order of paths, some at a time, with the entries of the
    files."""
    others = sorted(archive.not_files, key=in_order_of_paths)
    at = 0
    for entries in manifest.in_order(archive.entries):
        names = list(entries)
        end = bisect_right(others, in_order_of_paths(names[-1]), at, key=in_order_of_paths)
        if end > at:
            names += (name for name in others[at:end] if name not in entries)
            names.sort(key=in_order_of_paths)
            at = end
        yield names, entries
    if at < len(others):
        yield others[at:], manifest.LazyEntries({}, archive.name)


def names_of(archive: Archive) -> set[str]:
    """Returns the names of everything in an archive."""
    return {*archive, *archive.not_files}


def sorted_names(archive: Archive) -> list[str]:
    """Returns the names of everything in an archive, in the order of paths."""
    return [name for names, _ in in_order(archive) for name in names]


def members(archive: Archive, name: str, entries: Mapping[str, Entry]) -> list[Member]:
    """Returns what an archive has under a name: more than one only in a malformed archive. `entries` are those of its
    files, at least the one of this name. Raises CorruptManifest if that is malformed."""
    return [_member(archive, name, kind, entries) for kind in _kinds(archive, name, entries)]


def _kinds(archive: Archive, name: str, entries: Mapping[str, Entry]) -> list[Kind]:
    kinds: list[Kind] = ["file"] if name in entries else []
    sections: list[tuple[Kind, Mapping[str, Any]]] = [
        ("directory", archive.directories),
        ("link", archive.links),
        ("fifo", archive.fifos),
    ]
    return kinds + [kind for kind, section in sections if name in section]


def _member(archive: Archive, name: str, kind: Kind, entries: Mapping[str, Entry]) -> Member:
    if kind == "file":
        entry = entries[name]
        return Member(name, kind, entry.more, entry)
    return Member(name, kind, archive.others[kind][name])


def _item(member: Member) -> Item:
    metadata, entry = member.metadata, member.entry
    return Item(
        member.name,
        member.kind,
        member.size,
        _permissions(metadata),
        _number(metadata, "uid"),
        _number(metadata, "gid"),
        _text(metadata, "user"),
        _text(metadata, "group"),
        entry.mtime_ns if entry else _number(metadata, "mtime_ns"),
        _text(metadata, "target"),
        _text(metadata, "hardlink"),
    )


def _plain_item(name: str, its: manifest.PlainEntry) -> Item:
    """Returns a file as `_item` does, if it is one in its usual form: most of a million are."""
    mode = its.mode if its.mode is not None and 0 <= its.mode <= 0o7777 else None
    owner = its.uid, its.gid, its.user, its.group
    return Item(name, "file", its.size, mode, *owner, its.mtime_ns, its.target, its.hardlink)


def _permissions(metadata: Mapping[str, Any]) -> int | None:
    mode = _number(metadata, "mode")
    return mode if mode is not None and 0 <= mode <= 0o7777 else None


def _number(metadata: Mapping[str, Any], word: str) -> int | None:
    value = metadata.get(word)
    return value if type(value) is int else None


def _text(metadata: Mapping[str, Any], word: str) -> str | None:
    value = metadata.get(word)
    return value if isinstance(value, str) else None


# ---- all archives ----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Found(Record):
    """A match in one of a store's archives."""

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
    """Yields what matches one of `patterns` in the archives of a store, in the order of their manifests' names; only in
    those of `host` and with all `tags`, if given.

    A pattern with a `/` is matched with whole names, any other with their last part. Calls `problem` with each archive
    that does not open and each malformed entry. Raises as `manifests_of` does, WrongKey if no archive opens, and
    UsageError for an invalid pattern.
    """
    given = list(patterns)
    leaves = Patterns([pattern for pattern in given if "/" not in pattern])
    paths = Patterns([pattern for pattern in given if "/" in pattern])

    def is_meant(name: str) -> bool:
        parent, _, leaf = name.rpartition("/")
        # A pattern also matches everything below a matching directory; only the directory itself is found.
        return leaves.matches(leaf) or (bool(paths) and paths.matches(name) and not paths.matches(parent))

    manifests = manifests_of(store)
    wanted = Filter.of(host, tags, None)
    wanted.require(key)
    with Catalog(store, key) as catalog:
        if wanted != Filter():
            manifests = _those_that_fit(catalog, manifests, wanted)
        matches = _Matches(catalog.members, is_meant)
        looks = ((archive.name, archive.problem or archive) for archive in catalog.read(manifests, members=True))
        for name, archive in those_that_open(looks, lambda _, error: problem(error)):
            if archive.whole is None:
                items = matches.items(archive, problem)
            else:  # the store is the caller's, so this must not be closed
                items = _matching(Archive(store, name, archive.whole[1], key), is_meant, problem)
            time = time_of(archive.trailer, name)
            for item in items:
                yield Found(name, time, item)


def _matching(
    archive: Archive, is_meant: Callable[[str], bool], problem: Callable[[PogfastError], None]
) -> Iterator[Item]:
    """Yields the matches in an archive, in the order of paths. Calls `problem` with each malformed entry."""
    for names, entries in in_order(archive):
        if found := list(filter(is_meant, names)):
            yield from items_of(archive, found, entries, problem)


def _those_that_fit(catalog: Catalog, manifests: Sequence[Stored], wanted: Filter) -> list[Stored]:
    """Returns the manifests that fit, and those that do not open: these may fit, and are reported later."""
    looks = zip(manifests, catalog.read(manifests), strict=True)
    return [stored for stored, archive in looks if archive.problem is not None or wanted.fits(archive.trailer)]


class _Matches:
    """The matches among the members of archives that the catalog knows. A member of many archives is tested once."""

    def __init__(self, table: MemberTable, is_meant: Callable[[str], bool]) -> None:
        self.table = table
        self.is_meant = is_meant
        self._tested = 0  # how many members were
        self._order: dict[int, tuple[str, int]] = {}  # those that match, with their places in the order of paths
        self._items: dict[int, Item] = {}

    def items(self, archive: CatalogedArchive, problem: Callable[[PogfastError], None]) -> Iterator[Item]:
        """Yields the matches in an archive, in the order of paths. Calls `problem` with each malformed entry."""
        for number in range(self._tested, len(self.table)):  # it grows with each archive that is new
            if self.is_meant(name := self.table[number].name):
                self._order[number] = in_order_of_paths(name), self.table[number].kind
        self._tested = len(self.table)
        for number in sorted(filter(self._order.__contains__, archive.members or ()), key=self._order.__getitem__):
            try:
                if number not in self._items:
                    self._items[number] = _item(self.table[number].parsed(archive.name))
            except CorruptManifest as error:
                problem(error)
            else:
                yield self._items[number]

"""What is in archives, for `ls` and `find`: everything in one, or what matches patterns in all.

Reads manifests, not blobs. Entries are processed one at a time, so that memory holds names, not records.
"""

from __future__ import annotations

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
    for name in sorted_names(archive):
        yield from items_of(archive, name, problem)


def items_of(archive: Archive, name: str, problem: Callable[[PogfastError], None] | None) -> Iterator[Item]:
    if item := _plain_file(archive, name):
        yield item
        return
    for kind in _kinds(archive, name):
        try:
            item = _item(_member(archive, name, kind))
        except CorruptManifest as error:
            if problem is None:
                raise
            problem(error)
        else:
            yield item


def select(archive: Archive, words: Collection[str], problem: Callable[[PogfastError], None]) -> Iterator[Item]:
    """Yields the items that `words` select, by the same rules as `restore`: a name, with everything below it, or else a
    pattern. Without words yields all. Calls `problem` at the end with each word that matches nothing."""
    names = sorted_names(archive)
    choice = Choice(words, (), map(normal_path, names))
    for name in names:
        if choice.picks(normal_path(name)):
            yield from items_of(archive, name, problem)
    for word in words:
        if word in choice.unmatched:
            problem(NoSuchEntry(f"{word}: matches nothing in the archive", path=word))


def sorted_names(*archives: Archive) -> list[str]:
    """Returns the distinct names in archives, in the order of paths."""
    return sorted(set().union(*map(names_of, archives)), key=in_order_of_paths)


def names_of(archive: Archive) -> set[str]:
    """Returns the names of everything in an archive."""
    return set().union(archive, archive.directories, archive.links, archive.fifos)


def in_order_of_paths(name: str) -> str:
    """Returns a sort key. The end of a part must sort before all else; no name has a zero byte, which does."""
    return name.replace("/", "\0")


def members(archive: Archive, name: str) -> list[Member]:
    """Returns what an archive has under a name: more than one only in a malformed archive. Raises CorruptManifest if an
    entry is malformed."""
    return [_member(archive, name, kind) for kind in _kinds(archive, name)]


def _kinds(archive: Archive, name: str) -> list[Kind]:
    kinds: list[Kind] = ["file"] if name in archive.entries else []
    sections: list[tuple[Kind, Mapping[str, Any]]] = [
        ("directory", archive.directories),
        ("link", archive.links),
        ("fifo", archive.fifos),
    ]
    return kinds + [kind for kind, section in sections if name in section]


def _member(archive: Archive, name: str, kind: Kind) -> Member:
    if kind == "file":
        entry = archive.entries[name]
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


def _plain_file(archive: Archive, name: str) -> Item | None:
    """Returns a file as `_item` does, if it is one in its usual form, and the archive has nothing else of its name:
    most of a million are."""
    if name not in archive.entries or name in archive.directories or name in archive.links or name in archive.fifos:
        return None
    text = manifest.entry_text(archive.entries, name)
    its = None if text is None else manifest.plain_entry(text)
    if its is None:
        return None
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
        return leaves.matches(leaf) or (paths.matches(name) and not paths.matches(parent))

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
                opened = Archive(store, name, archive.whole[1], key)
                names = sorted(filter(is_meant, names_of(opened)), key=in_order_of_paths)
                items = (item for each in names for item in items_of(opened, each, problem))
            time = time_of(archive.trailer, name)
            for item in items:
                yield Found(name, time, item)


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

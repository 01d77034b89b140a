"""An archive as it is looked at: a mapping of archived names to entries, whose files open; and which a store has.

Takes manifests from a store, opens them with a key, and believes no more of a trailer than fits its words: it may be
another program's, or none at all. reading.py turns an entry into bytes. Nothing is restored or printed here, and
nothing is changed.
"""

from __future__ import annotations

import io
import os
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from pogfast import manifest
from pogfast._engine import cores, open_blob
from pogfast.errors import (
    CorruptManifest,
    DamageError,
    NoSuchArchive,
    NoSuchEntry,
    PogfastError,
    StoreError,
    StoreLost,
    UsageError,
    WrongKey,
)
from pogfast.keys import Key
from pogfast.manifest import Entry
from pogfast.reading import EntryFile
from pogfast.stores import LATEST, MANIFEST, Store, Stored, find_manifest, open_store

if TYPE_CHECKING:
    from pogfast._engine import Buffer
    from pogfast.stores.mirrors import Mirrors

    Readable = TypeVar("Readable", Store, Mirrors)

# The time in a manifest's name is its writer's local one, without a zone: in UTC it is at most so much later.
MOST_WEST = timedelta(hours=12)
FIRST = datetime.min.replace(tzinfo=UTC)
# Archives that are named to somebody who asked for one that is not there.
SHOWN = 5
BUFFER = 1 << 16


class Record:
    """A dataclass that can be shown as JSON."""

    __slots__ = ()

    def as_dict(self) -> dict[str, Any]:
        """Its fields; a time as ISO 8601 text, records within as dictionaries."""
        return {item.name: _shown(getattr(self, item.name)) for item in fields(self)}  # type: ignore[arg-type]


def _shown(value: Any) -> Any:
    if isinstance(value, Record):
        return value.as_dict()
    if isinstance(value, datetime):
        return value.isoformat()
    return [_shown(item) for item in value] if isinstance(value, list | tuple) else value


class Archive(Mapping[str, Entry]):
    """An opened archive: archived names and their entries, in the manifest's order. To be closed.

    `trailer` is as it was written; the properties are what of it is well formed.
    """

    def __init__(
        self, store: Store | Mirrors, name: str, opened: manifest.Manifest, key: Key, jobs: int | None = None
    ) -> None:
        """The store is closed with the archive. `jobs` threads read ahead in a file (None: as many as cores)."""
        self.store = store
        self.name = name
        self.key = key
        self.jobs = jobs or cores()
        self.manifest = opened
        self.entries = opened.entries
        self.trailer: dict[str, Any] = opened.trailer or {}
        self._threads: Executor | None = None
        self._files: weakref.WeakSet[io.BufferedReader[EntryFile]] = weakref.WeakSet()

    def __getitem__(self, name: str) -> Entry:
        return self.entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __contains__(self, name: object) -> bool:
        return name in self.entries

    def __repr__(self) -> str:
        return f"<Archive {os.path.join(self.store.path, self.name)}>"

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the files that were opened, ends their threads, and closes the store."""
        for file in list(self._files):
            file.close()
        if self._threads:
            self._threads.shutdown(cancel_futures=True)
            self._threads = None
        self.store.close()

    # ---- what is in it ----

    def open(self, name: str) -> io.BufferedReader[EntryFile]:
        """The content of a file, to be read anywhere: only the blobs that are looked at are fetched.

        Raises NoSuchEntry; reading raises MissingBlob, CorruptBlob, WrongBlob and StoreError.
        """
        file = io.BufferedReader(self._raw(name), BUFFER)
        self._files.add(file)
        return file

    def read(self, name: str, offset: int = 0, length: int | None = None) -> Iterator[memoryview]:
        """The bytes of a file from `offset` on, at most `length` (None: to its end), in pieces as they come: on every
        core, in order, and without a blob that has none of them. Raises as `open` and reading do."""
        with self._raw(name) as file:
            yield from file.pieces(offset, None if length is None else offset + length)

    def _raw(self, name: str) -> EntryFile:
        if name not in self.entries:
            kind = next((kind for kind, names in self.others.items() if name in names), "")
            raise NoSuchEntry(f"{name}: a {kind}, not a file" if kind else f"{name}: no such file in the archive")
        return EntryFile(name, self.entries[name], self.key, self.store, self._pool, self.jobs)

    def _pool(self) -> Executor:
        if self._threads is None:
            from concurrent.futures import ThreadPoolExecutor  # here, because a small file needs none

            self._threads = ThreadPoolExecutor(self.jobs, "pogfast-read")
        return self._threads

    # ---- what its trailer says ----

    @property
    def time(self) -> datetime | None:
        """When it was begun; where no trailer says so, the time in the manifest's name, which is local."""
        return time_of(self.trailer, self.name)

    @property
    def host(self) -> str:
        return _text(self.trailer, "host")

    @property
    def comment(self) -> str:
        return _text(self.trailer, "comment")

    @property
    def tags(self) -> list[str]:
        return _texts(self.trailer, "tags")

    @property
    def paths(self) -> list[str]:
        """What was archived, as absolute paths."""
        return _texts(self.trailer, "paths")

    @property
    def totals(self) -> dict[str, int]:
        return _totals(self.trailer)

    @property
    def layout(self) -> str:
        """`frames` or `stream`; where no trailer says so it is pog's."""
        return _text(self.trailer, "layout") or "stream"

    @property
    def chunk_size(self) -> int | None:
        return _number(self.trailer, "chunk_size")

    @property
    def chunker(self) -> str:
        """Where files were cut by content: how, as Chunker.parse reads it. Else ""."""
        return _text(self.trailer, "chunker")

    @cached_property
    def directories(self) -> dict[str, dict[str, Any]]:
        return _section(self.trailer, "directories")

    @cached_property
    def links(self) -> dict[str, dict[str, Any]]:
        return _section(self.trailer, "links")

    @cached_property
    def fifos(self) -> dict[str, dict[str, Any]]:
        return _section(self.trailer, "fifos")

    @property
    def others(self) -> dict[str, dict[str, dict[str, Any]]]:
        """What is no file, by kind: names and facts."""
        return {"directory": self.directories, "link": self.links, "fifo": self.fifos}


# ---- words of a trailer, as far as they are what FORMAT.md says ------------------------------------------------------


def time_of(trailer: Mapping[str, Any], name: str) -> datetime | None:
    """When an archive was made, with a zone. None when neither its trailer nor its manifest's name say so."""
    return _time(_text(trailer, "time")) or _time(name.removesuffix(MANIFEST))


def _time(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError, OSError):
        return None


def _text(trailer: Mapping[str, Any], key: str) -> str:
    value = trailer.get(key)
    return value if isinstance(value, str) else ""


def _texts(trailer: Mapping[str, Any], key: str) -> list[str]:
    value = trailer.get(key)
    return [text for text in value if isinstance(text, str)] if isinstance(value, list) else []


def _number(trailer: Mapping[str, Any], key: str) -> int | None:
    value = trailer.get(key)
    return value if type(value) is int and value >= 0 else None


def _totals(trailer: Mapping[str, Any]) -> dict[str, int]:
    value = trailer.get("totals")
    return {key: n for key, n in value.items() if type(n) is int} if isinstance(value, dict) else {}


def _section(trailer: Mapping[str, Any], key: str) -> dict[str, dict[str, Any]]:
    value = trailer.get(key)
    return value if isinstance(value, dict) and all(isinstance(facts, dict) for facts in value.values()) else {}


# ---- which archive ---------------------------------------------------------------------------------------------------


def open_archive(
    text: str,
    key: Key,
    *,
    host: str | None = None,
    tags: Collection[str] = (),
    path: str | None = None,
    jobs: int | None = None,
    stores: Sequence[str] = (),
    tell: Callable[[StoreLost | str], None] = lambda what: None,
) -> Archive:
    """The archive that `text` names: STORE/NAME.mfn, or STORE/latest, the newest of these `host`, `tags` (all of them)
    and archived `path`.

    With `stores` it is NAME.mfn or latest alone, and lies in each of them: what the first does not have, or has
    damaged, the next gives, and `tell` hears of that. Raises UsageError, NoSuchArchive, WrongKey, CorruptManifest,
    StoreError.
    """
    store: Store | Mirrors
    if stores:
        store, name = _find_in(_open_mirrors(stores, key, tell), text, key, Filter.of(host, tags, path))
    else:
        store, name = find_archive(text, key, host=host, tags=tags, path=path)
    try:
        return Archive(store, name, manifest.open(store.get_manifest(name), key, name), key, jobs)
    except BaseException:
        store.close()
        raise


def find_archive(
    text: str, key: Key, *, host: str | None = None, tags: Collection[str] = (), path: str | None = None
) -> tuple[Store, str]:
    """The store, opened, and the manifest's name of the archive that `text` names, as `open_archive` finds it.

    A public key alone finds the newest of all by the times in the manifests' names. Raises as `open_archive` does.
    """
    store, name = find_manifest(text)
    return _find_in(store, name, key, Filter.of(host, tags, path))


def _find_in(store: Readable, name: str, key: Key, wanted: Filter) -> tuple[Readable, str]:
    """The store is closed when there is none."""
    try:
        if name == LATEST:
            return store, _latest(store, key, wanted)
        if wanted != Filter():
            raise UsageError(f"{name} is one archive: host, tag and path choose among those of STORE/{LATEST}")
        return store, name
    except BaseException:
        store.close()
        raise


def _open_mirrors(texts: Sequence[str], key: Key, tell: Callable[[StoreLost | str], None]) -> Mirrors:
    """One that cannot be opened is told of, and passed over. Raises what opening the last one raises."""
    from pogfast.stores.mirrors import Mirrors  # here, because most archives lie in one store

    opened: list[Store] = []
    failed: list[StoreError | NoSuchArchive] = []
    for text in texts:
        try:
            opened.append(open_store(text))
        except (StoreError, NoSuchArchive) as error:
            failed.append(error)
    if not opened:
        raise failed[0]
    for failure in failed:
        tell(StoreLost(f"{failure}: the other stores are read", failure.hint))

    def is_manifest(name: str, data: Buffer) -> bool:
        return _opens(lambda: manifest.open_trailer(bytes(data), key, name))

    def is_blob(name: str, data: Buffer) -> bool:
        return _opens(lambda: open_blob(key.secret, key.private, data, name))

    return Mirrors(opened, is_manifest, is_blob, tell)


def _opens(act: Callable[[], object]) -> bool:
    try:
        act()
    except (DamageError, WrongKey):
        return False
    return True


@dataclass(frozen=True)
class Filter:
    """Which archives are meant: of this host, with all these tags, of this absolute path. Empty: all."""

    host: str | None = None
    tags: frozenset[str] = frozenset()
    path: str | None = None

    @classmethod
    def of(cls, host: str | None, tags: Collection[str], path: str | None) -> Filter:
        return cls(host, frozenset(tags), None if path is None else os.path.abspath(path))

    def fits(self, trailer: Mapping[str, Any]) -> bool:
        return (
            self.host in (None, _text(trailer, "host"))
            and self.tags <= set(_texts(trailer, "tags"))
            and (self.path is None or self.path in _texts(trailer, "paths"))
        )

    def __str__(self) -> str:
        words = [f"of host {self.host}"] if self.host is not None else []
        words += [f"with tag {tag}" for tag in sorted(self.tags)]
        return " ".join(words + ([f"of {self.path}"] if self.path is not None else []))


def _latest(store: Store | Mirrors, key: Key, wanted: Filter) -> str:
    """The manifest's name of the newest archive that fits. Those of other keys are passed over.

    Raises NoSuchArchive, which says what there is; WrongKey when no manifest opens; and CorruptManifest when a newer
    one than any that fits is damaged: an older archive in its place would not be what was asked for.
    """
    newest: tuple[datetime, str] | None = None
    refused: WrongKey | None = None
    there: list[tuple[Stored, Mapping[str, Any]]] = []
    for stored in sorted(store.manifests(), key=lambda stored: _could_be_from(stored.name), reverse=True):
        if newest and _could_be_from(stored.name) < newest[0]:
            break
        try:
            trailer = _read_trailer(store, key, stored.name, wanted)
        except WrongKey as error:
            refused = error
            continue
        except CorruptManifest as error:
            if newest:
                continue
            raise CorruptManifest(str(error), hint="an older archive can be named: see `pogfast list`") from error
        there.append((stored, trailer))
        time = time_of(trailer, stored.name) or FIRST
        if wanted.fits(trailer) and (newest is None or (time, stored.name) > newest):
            newest = time, stored.name
    if newest:
        return newest[1]
    if refused and not there:
        raise refused
    raise _nothing(store, wanted, there)


def _could_be_from(name: str) -> datetime:
    """A time that the archive of a manifest is not younger than: the latest that the name's can be in any zone."""
    try:
        time = datetime.fromisoformat(name.removesuffix(MANIFEST))
        return time if time.tzinfo else time.replace(tzinfo=UTC) + MOST_WEST
    except (ValueError, OverflowError):
        return datetime.max.replace(tzinfo=UTC)


def _read_trailer(store: Store | Mirrors, key: Key, name: str, wanted: Filter) -> Mapping[str, Any]:
    data = store.get_manifest(name)
    if key.can_open:
        return manifest.open_trailer(data, key, name) or {}
    if wanted != Filter():
        raise WrongKey("an encryption key alone cannot tell hosts, tags and paths", hint="use --decryption-keyfile")
    manifest.blob_names(data, key, name)
    return {}


def _nothing(
    store: Store | Mirrors, wanted: Filter, there: Iterable[tuple[Stored, Mapping[str, Any]]]
) -> NoSuchArchive:
    lines = [
        f"{stored.name} ({', '.join(filter(None, [_text(trailer, 'host'), *_texts(trailer, 'tags')])) or 'no host'})"
        for stored, trailer in there
    ]
    more = [f"{len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    hint = f"there are {', '.join(lines[:SHOWN] + more)}" if lines else ""
    return NoSuchArchive(f"no archive {wanted} in {store.path}".replace("  ", " "), hint)


# ---- all archives ----------------------------------------------------------------------------------------------------


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
    problem: str | None = None


def archives(store: Store, key: Key) -> list[ArchiveInfo]:
    """The archives of a store, by time. One that this key does not open or that is damaged is in the list as such.

    With a public key alone there are names, times, blobs and stored bytes. Raises StoreError.
    """
    from concurrent.futures import ThreadPoolExecutor  # here, because opening one archive needs none

    with ThreadPoolExecutor(store.parallel) as threads:  # each manifest of a service has to be waited for
        infos = list(threads.map(lambda stored: _info(store, key, stored.name), store.manifests()))
    return sorted(infos, key=lambda info: (info.time or FIRST, info.name))


def _info(store: Store, key: Key, name: str) -> ArchiveInfo:
    info = ArchiveInfo(name, time_of({}, name))
    try:
        data = store.get_manifest(name)
        if not key.can_open:
            _add_blobs(info, store, manifest.blob_names(data, key, name))
            return info
        trailer = manifest.open_trailer(data, key, name) or {}
        info.time = time_of(trailer, name)
        info.host, info.comment = _text(trailer, "host"), _text(trailer, "comment")
        info.tags, info.paths = _texts(trailer, "tags"), _texts(trailer, "paths")
        totals = _totals(trailer)
        info.files, info.size, info.stored = (totals.get(word) for word in ("files", "size", "stored"))
        if info.files is None or info.stored is None:  # pog writes no trailer
            opened = manifest.open(data, key, name)
            info.files = len(opened.entries)
            _add_blobs(info, store, opened.blob_names())
    except PogfastError as error:
        info.problem = str(error)
    return info


def _add_blobs(info: ArchiveInfo, store: Store, names: Iterable[str]) -> None:
    distinct = set(names)
    info.blobs = len(distinct)
    info.stored = sum(store.size_of(name) or 0 for name in distinct)

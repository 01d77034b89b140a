"""An archive as it is looked at: a mapping of archived names to entries, whose files open; and which a store has.

Takes manifests from a store, opens them with a key, and believes no more of a trailer than fits its words: it may be
another program's, or none at all. reading.py turns an entry into bytes. Nothing is restored or printed here, and
nothing is changed.
"""

from __future__ import annotations

import io
import math
import os
import warnings
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from pogfast import manifest
from pogfast._engine import cores, open_blob
from pogfast.catalog import Catalog, Seen
from pogfast.errors import (
    CorruptManifest,
    DamageError,
    NoArchives,
    NoSuchArchive,
    NoSuchEntry,
    OtherKey,
    PassedOver,
    PogfastError,
    StoreError,
    StoreLost,
    UsageError,
    WrongKey,
)
from pogfast.fetching import fetched_manifest
from pogfast.keys import Key
from pogfast.manifest import Entry
from pogfast.reading import EntryFile
from pogfast.retention import is_future
from pogfast.sizes import check_jobs
from pogfast.stores import (
    LATEST,
    MANIFEST,
    PARTIAL,
    Store,
    Stored,
    find_manifest,
    is_partial,
    is_removed,
    open_store,
)

if TYPE_CHECKING:
    from pogfast._engine import Buffer
    from pogfast.stores.mirrors import Mirrors

    Readable = TypeVar("Readable", Store, Mirrors)

# Hears of what a caller should know: a warning, or a problem that was got round.
Tell = Callable[[PogfastError | str], None]


class Hears(Protocol):
    """A report, as far as what goes wrong is told to it."""

    def problem(self, error: PogfastError) -> None: ...

    def warning(self, text: str) -> None: ...


def telling(report: Hears, problems: list[PogfastError]) -> Tell:
    """A Tell that hands everything on to a report, and problems to a list as well."""

    def tell(what: PogfastError | str) -> None:
        if isinstance(what, str):
            report.warning(what)
        else:
            problems.append(what)
            report.problem(what)

    return tell


def _warn(what: PogfastError | str) -> None:
    """For callers who do not say who is to hear."""
    warnings.warn(str(what), stacklevel=2)


# The time in a manifest's name is its writer's local one, without a zone: in UTC it is at most so much later.
MOST_WEST = timedelta(hours=12)
FIRST = datetime.min.replace(tzinfo=UTC)
# Archives that are named to somebody who asked for one that is not there.
SHOWN = 5
AHEAD = "in the future: a clock was wrong, or somebody forged it"
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
        if name not in self.entries:  # with a slash in front, as `ls` and `restore` take it
            name = "/".join(part for part in name.split("/") if part not in ("", "."))
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
        return totals_of(self.trailer)

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
    return _time(_text(trailer, "time")) or _time(_stem(name))


def is_local(trailer: Mapping[str, Any], name: str) -> bool:
    """Returns True if all that is known of an archive's time is what its writer's clock showed, in whatever zone."""
    try:
        return not _time(_text(trailer, "time")) and datetime.fromisoformat(_stem(name)).tzinfo is None
    except ValueError:
        return False


def _stem(name: str) -> str:
    return name.removesuffix(PARTIAL).removesuffix(MANIFEST)


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


def totals_of(trailer: Mapping[str, Any]) -> dict[str, int]:
    """What a trailer counts."""
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
    tell: Tell = _warn,
) -> Archive:
    """The archive that `text` names: STORE/NAME.mfn, or STORE/latest, the newest of these `host`, `tags` (all of them)
    and archived `path`.

    `tell` hears, as PassedOver, of archives newer than the latest that can be opened. With `stores` it is NAME.mfn or
    latest alone, and lies in each of them: what the first does not have, or has damaged, the next gives, and `tell`
    hears of that too. Raises UsageError, NoSuchArchive, WrongKey, CorruptManifest,
    StoreError.
    """
    check_jobs(jobs)
    store: Store | Mirrors
    if stores:
        store, name = _open_mirrors(stores, key, tell), text
    else:
        store, name = find_manifest(text)
    try:
        names = _names(store, name, key, Filter.of(host, tags, path), tell)
        name, opened = _first_that_opens(store, key, names, tell)
        return Archive(store, name, opened, key, jobs)
    except BaseException:
        store.close()
        raise


def _first_that_opens(
    store: Store | Mirrors, key: Key, names: Iterator[str], tell: Tell
) -> tuple[str, manifest.Manifest]:
    """(its name, what is in it). Raises what the last of these raises."""
    name = next(names)
    while True:
        try:
            return name, fetched_manifest(store, name, partial(manifest.open, key=key, name=name))
        except (CorruptManifest, WrongKey) as error:
            following = next(names, None)
            if following is None or not key.can_open:  # no older one opens either
                raise
            tell(PassedOver(f"a newer archive is passed over: {error}", path=name))
            name = following


def find_archive(
    text: str,
    key: Key,
    *,
    host: str | None = None,
    tags: Collection[str] = (),
    path: str | None = None,
    tell: Tell = _warn,
) -> tuple[Store, str]:
    """The store, opened, and the manifest's name of the archive that `text` names, as `open_archive` finds it.

    A public key alone finds the newest of all by the times in the manifests' names. Raises as `open_archive` does.
    """
    store, name = find_manifest(text)
    try:
        return store, next(_names(store, name, key, Filter.of(host, tags, path), tell))
    except BaseException:
        store.close()
        raise


def latest_of(store: Store, key: Key, wanted: Filter, tell: Tell = _warn) -> str:
    """The manifest's name of the newest archive that fits, as `open_archive` finds it, which says what is raised."""
    return next(_newest(store, key, wanted, tell))


def _names(store: Store | Mirrors, name: str, key: Key, wanted: Filter, tell: Tell) -> Iterator[str]:
    """The manifests that a name means: itself, or of LATEST the newest first."""
    if name == LATEST:
        return _newest(store, key, wanted, tell)
    if wanted != Filter():
        raise UsageError(f"{name} is one archive: host, tag and path choose among those of STORE/{LATEST}")
    return iter([name])


def _open_mirrors(texts: Sequence[str], key: Key, tell: Tell) -> Mirrors:
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

    def require(self, key: Key) -> None:
        """Raises WrongKey if archives are to be chosen by what this key cannot see."""
        if self != Filter() and not key.can_open:
            raise WrongKey("an encryption key alone cannot tell hosts, tags and paths", hint="use --decryption-keyfile")

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


def _newest(store: Store | Mirrors, key: Key, wanted: Filter, tell: Tell) -> Iterator[str]:
    """Yields the manifests' names of the archives that fit, the newest first and none of the future; `tell` hears of
    those, and, as PassedOver, of newer ones that cannot be opened. If none fits raises NoSuchArchive, which says what
    there is, CorruptManifest or WrongKey."""
    wanted.require(key)
    manifests = sorted(manifests_of(store), key=lambda stored: _could_be_from(stored.name), reverse=True)
    there: list[Seen] = []
    fitting: list[tuple[datetime, str]] = []
    broken: list[Seen] = []
    ahead: list[str] = []
    found = False
    now = datetime.now(UTC)

    def take(until: datetime | None) -> Iterator[str]:
        """Those that are known to be newer than all that has not been looked at."""
        fitting.sort()
        while fitting and (until is None or fitting[-1][0] > until):
            _, name = fitting.pop()
            for seen in broken:
                if not _is_older(seen.name, name):
                    tell(_passed_over(seen))
            broken.clear()
            yield name

    with Catalog(store, key) as catalog:
        looks = _lazily(catalog, manifests)
        for stored in manifests:
            yield from take(_could_be_from(stored.name))
            seen = next(looks)
            if seen.problem is not None:
                broken.append(seen)
                continue
            there.append(seen)
            if not wanted.fits(seen.facts):
                continue
            time = time_of(seen.facts, seen.name) or FIRST
            if is_future(time, now):
                ahead.append(seen.name)
                tell(f"{seen.name} is passed over: it is dated {time:%Y-%m-%d}, {AHEAD}")
                continue
            found = True
            fitting.append((time, seen.name))
    yield from take(None)
    if not found:
        raise _none_fits(store, wanted, there, broken, ahead)


def _lazily(catalog: Catalog, manifests: Sequence[Stored]) -> Iterator[Seen]:
    """The first one alone, since most often it is the one."""
    yield from catalog.look(manifests[:1])
    yield from catalog.look(manifests[1:])


def _is_older(name: str, other: str) -> bool:
    """Returns True if a manifest is older than another by the times in their names, as far as those are times."""
    return name < other and _could_be_from(name) < _could_be_from(other)


def _passed_over(seen: Seen) -> PassedOver:
    return PassedOver(f"a newer archive is passed over: {seen.problem}", path=seen.name)


def _could_be_from(name: str) -> datetime:
    """A time that the archive of a manifest is not younger than: the latest that the name's can be in any zone."""
    try:
        time = datetime.fromisoformat(name.removesuffix(MANIFEST))
        return time if time.tzinfo else time.replace(tzinfo=UTC) + MOST_WEST
    except (ValueError, OverflowError):
        return datetime.max.replace(tzinfo=UTC)


def _none_fits(
    store: Store | Mirrors, wanted: Filter, there: Sequence[Seen], broken: Sequence[Seen], ahead: Sequence[str]
) -> PogfastError:
    for seen in broken:
        if isinstance(seen.problem, DamageError):
            hint = "an older archive can be named: see `pogfast list`" if there else ""
            return CorruptManifest(str(seen.problem), hint)
    if broken and not there:
        return broken[0].problem or PogfastError("")
    if ahead:
        hint = f"set the clock, if it is not {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, or name an archive"
        return NoSuchArchive(f"every archive {wanted} in {store.path} is dated in the future".replace("  ", " "), hint)
    words = ([_text(seen.facts, "host"), *_texts(seen.facts, "tags")] for seen in there)
    lines = [f"{seen.name} ({', '.join(filter(None, of)) or 'no host'})" for seen, of in zip(there, words, strict=True)]
    hint = f"there are {some_of(lines)}" if lines else ""
    return NoSuchArchive(f"no archive {wanted} in {store.path}".replace("  ", " "), hint)


def some_of(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    return ", ".join([*names[:SHOWN], *([f"{len(names) - SHOWN} more"] if len(names) > SHOWN else [])])


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
    skipped: int = 0  # sockets and devices that were left out
    unreadable: int = 0  # files and directories that could not be read
    changed: int = 0  # files that changed while they were read
    problem: str | None = None
    code: int = 0  # the exit code that `problem` stands for
    local: bool = False  # `time` is what its writer's clock showed, taken for one of this machine's zone

    def as_dict(self) -> dict[str, Any]:
        words = Record.as_dict(self)
        if self.local and self.time:
            words["time"] = self.time.replace(tzinfo=None).isoformat()
        return words

    def fits(self, wanted: Filter) -> bool:
        return wanted.fits({"host": self.host, "tags": self.tags, "paths": self.paths})


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


def _refuse(name: str, error: PogfastError) -> None:
    raise error


def needed_blobs(
    store: Store,
    key: Key,
    manifests: Sequence[Stored],
    unreadable: Callable[[str, PogfastError], None] = _refuse,
) -> Iterator[tuple[str, list[str]]]:
    """Yields (manifest's name, distinct names of the blobs that it needs) of archives, in their order; manifests are
    fetched in parallel, and those that were opened before are not fetched. `unreadable` hears of one that cannot be
    opened, and raises that unless it may be passed over."""
    with Catalog(store, key) as catalog:
        for seen in catalog.look(manifests, blobs=True):
            if seen.problem is not None:
                unreadable(seen.name, seen.problem)
            else:
                yield seen.name, seen.blobs or []


@dataclass(slots=True)
class Refused:
    """The archives of a store that a key did not open. `others`: how many were dealt with, or are damaged."""

    names: list[str] = field(default_factory=list)
    first: WrongKey | None = None
    others: int = 0

    def add(self, name: str, error: WrongKey) -> None:
        self.names.append(name)
        self.first = self.first or error

    def tell(self, problem: Callable[[PogfastError], None]) -> None:
        """Says once which they are, as OtherKey. Raises WrongKey if they are all that there is."""
        if self.first is None:
            return
        if not self.others:
            raise self.first
        problem(other_key(self.names))


def other_key(names: Sequence[str]) -> OtherKey:
    """What is said of the archives that a key does not open, where it opens others."""
    return OtherKey(
        f"this store has archives of another key, or with damaged first bytes: {some_of(names)}",
        hint="their own key opens them, if they are whole",
    )


def manifests_of(store: Store | Mirrors) -> list[Stored]:
    """The manifests of a store, by name; none where all archives were removed and can be brought back.

    Raises NoSuchArchive if there is no store: neither an archive nor a blob. Raises NoArchives for blobs of which no
    archive is left; and StoreError.
    """
    manifests = store.manifests()
    if manifests or any(is_removed(mark.name) or is_partial(mark.name) for mark in store.marks()):
        return manifests
    if next(iter(store.blob_names()), None) is None:
        hint = "is the path right, and the disk mounted?" if os.path.isdir(store.path) else "is the name right?"
        raise NoSuchArchive(f"no store at {store.label}: there is neither an archive nor a blob", hint)
    raise NoArchives(
        f"{store.label} has blobs and no archive: its manifests are gone, or its first backup goes on or was killed",
        hint=f"nothing but the manifests (*{MANIFEST}) says what the blobs are: a copy of the store may have them",
    )


def locked_until(until: float) -> str:
    """`locked until ...` of a time in seconds since 1970."""
    return "locked" if until == math.inf else f"locked until {datetime.fromtimestamp(until, UTC):%Y-%m-%d %H:%M} UTC"


def _info(store: Store, seen: Seen, *, counted: bool) -> ArchiveInfo:
    info = ArchiveInfo(seen.name, time_of(seen.facts, seen.name), local=is_local(seen.facts, seen.name))
    if seen.problem is not None:
        info.problem, info.code = str(seen.problem), seen.problem.exit_code
        return info
    facts, totals = seen.facts, totals_of(seen.facts)
    info.host, info.comment = _text(facts, "host"), _text(facts, "comment")
    info.tags, info.paths = _texts(facts, "tags"), _texts(facts, "paths")
    info.files, info.size, info.stored = totals.get("files"), totals.get("size"), totals.get("stored")
    for word in ("skipped", "unreadable", "changed"):
        setattr(info, word, _number(facts, word) or 0)
    if seen.blobs is not None and counted:
        info.blobs = len(seen.blobs)
        info.stored = sum(store.size_of(name) or 0 for name in seen.blobs)
    return info

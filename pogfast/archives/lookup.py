"""Which archive an address means, and opening it: STORE/NAME.mfn, STORE/latest, or one that lies in several stores.

The latest is the newest that can be opened and is not of the future; what is passed over is told of.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Protocol

from pogfast import manifest
from pogfast._engine import open_blob
from pogfast.archives.archive import Archive
from pogfast.archives.catalog import Catalog, Seen
from pogfast.archives.manifests import manifests_of
from pogfast.archives.refusals import some_of
from pogfast.archives.trailer import Filter, time_of
from pogfast.errors import (
    CorruptManifest,
    DamageError,
    NoSuchArchive,
    PassedOver,
    PogfastError,
    StoreError,
    StoreLost,
    UsageError,
    WrongKey,
)
from pogfast.keys import Key
from pogfast.sizes import check_jobs
from pogfast.stores import LATEST, MANIFEST, Stored, find_manifest, open_store
from pogfast.stores.fetching import fetched_manifest
from pogfast.stores.protocols import Store
from pogfast.system.clock import is_future

if TYPE_CHECKING:
    from pogfast._engine import Buffer
    from pogfast.stores.mirrors import Mirrors


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
MAX_WEST = timedelta(hours=12)
FIRST = datetime.min.replace(tzinfo=UTC)
AHEAD = "in the future: a clock was wrong, or somebody forged it"


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
            if not wanted.fits(seen.trailer):
                continue
            time = time_of(seen.trailer, seen.name) or FIRST
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
        return time if time.tzinfo else time.replace(tzinfo=UTC) + MAX_WEST
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
    words = ([seen.trailer.host, *seen.trailer.tags] for seen in there)
    lines = [f"{seen.name} ({', '.join(filter(None, of)) or 'no host'})" for seen, of in zip(there, words, strict=True)]
    hint = f"there are {some_of(lines)}" if lines else ""
    return NoSuchArchive(f"no archive {wanted} in {store.path}".replace("  ", " "), hint)

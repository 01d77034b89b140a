"""Finds and opens the archive that an address means: STORE/NAME.mfn, STORE/latest, or one that is in several stores.

`latest` is the newest archive that opens and is not dated in the future. Newer ones that are skipped are reported.
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
from pogfast.archives.catalog import Catalog
from pogfast.archives.catalog_file import CatalogedArchive
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


# Receives a warning, or a problem that did not stop the caller.
Tell = Callable[[PogfastError | str], None]


class Reports(Protocol):
    """The part of every report that problems and warnings go to."""

    def problem(self, error: PogfastError) -> None:
        """Called for each failure that does not end the run."""
        return

    def warning(self, text: str) -> None:
        """Called for what a user should know, although it is no failure."""
        return


def telling(report: Reports, problems: list[PogfastError]) -> Tell:
    """Returns a Tell that passes everything on to a report, and adds problems to a list."""

    def tell(what: PogfastError | str) -> None:
        if isinstance(what, str):
            report.warning(what)
        else:
            problems.append(what)
            report.problem(what)

    return tell


def _warn(what: PogfastError | str) -> None:
    """The default Tell: a Python warning."""
    warnings.warn(str(what), stacklevel=2)


# The time in a manifest's name is its writer's local time, without a zone. UTC is at most this much later.
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
    """Opens the archive `text`: STORE/NAME.mfn, or STORE/latest, the newest of this `host` with all these `tags` and
    this archived `path`.

    Calls `tell` with PassedOver for each newer archive that does not open. With `stores`, `text` is NAME.mfn or
    `latest`, and the archive is in each of these stores: what is missing or damaged in one is read from the next, and
    `tell` is called for that too. Raises UsageError, NoSuchArchive, WrongKey, CorruptManifest and StoreError.
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
    """Returns (manifest's name, content) of the first that opens. Raises why the last does not."""
    name = next(names)
    while True:
        try:
            return name, fetched_manifest(store, name, partial(manifest.open, key=key, name=name))
        except (CorruptManifest, WrongKey) as error:
            following = next(names, None)
            if following is None or not key.can_open:  # then no older one opens either
                raise
            tell(PassedOver(f"a newer archive is skipped: {error}", path=name))
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
    """Returns (the opened store, the manifest's name) of the archive that `text` means, as `open_archive` finds it.

    A public key alone finds the newest of all by the times in the manifests' names. Raises as `open_archive` does.
    """
    store, name = find_manifest(text)
    try:
        return store, next(_names(store, name, key, Filter.of(host, tags, path), tell))
    except BaseException:
        store.close()
        raise


def latest_of(store: Store, key: Key, wanted: Filter, tell: Tell = _warn) -> str:
    """Returns the manifest's name of the newest archive that fits, as `open_archive` finds it. Raises as that does."""
    return next(_newest(store, key, wanted, tell))


def _names(store: Store | Mirrors, name: str, key: Key, wanted: Filter, tell: Tell) -> Iterator[str]:
    """Yields the manifests that a name can mean: itself, or for LATEST all that fit, the newest first."""
    if name == LATEST:
        return _newest(store, key, wanted, tell)
    if wanted != Filter():
        raise UsageError(f"{name} is one archive: host, tag and path choose among those of STORE/{LATEST}")
    return iter([name])


def _open_mirrors(texts: Sequence[str], key: Key, tell: Tell) -> Mirrors:
    """Opens several stores as one. Stores that cannot be opened are reported and skipped. If none can be, raises the
    first error."""
    from pogfast.stores.mirrors import Mirrors  # imported here, since most archives are in one store

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
    """Yields the manifests' names of the archives that fit, the newest first, without those dated in the future.

    Calls `tell` for those, and with PassedOver for newer ones that do not open. If no archive fits, raises
    NoSuchArchive, which lists those there are, CorruptManifest or WrongKey.
    """
    wanted.require(key)
    manifests = sorted(manifests_of(store), key=lambda stored: _could_be_from(stored.name), reverse=True)
    there: list[CatalogedArchive] = []
    fitting: list[tuple[datetime, str]] = []
    broken: list[CatalogedArchive] = []
    ahead: list[str] = []
    found = False
    now = datetime.now(UTC)

    def take(until: datetime | None) -> Iterator[str]:
        """Yields those that are known to be newer than every archive that has not been read."""
        fitting.sort()
        while fitting and (until is None or fitting[-1][0] > until):
            _, name = fitting.pop()
            for archive in broken:
                if not _is_older(archive.name, name):
                    tell(_passed_over(archive))
            broken.clear()
            yield name

    with Catalog(store, key) as catalog:
        looks = _lazily(catalog, manifests)
        for stored in manifests:
            yield from take(_could_be_from(stored.name))
            archive = next(looks)
            if archive.problem is not None:
                broken.append(archive)
                continue
            there.append(archive)
            if not wanted.fits(archive.trailer):
                continue
            time = time_of(archive.trailer, archive.name) or FIRST
            if is_future(time, now):
                ahead.append(archive.name)
                tell(f"{archive.name} is skipped: it is dated {time:%Y-%m-%d}, {AHEAD}")
                continue
            found = True
            fitting.append((time, archive.name))
    yield from take(None)
    if not found:
        raise _none_fits(store, wanted, there, broken, ahead)


def _lazily(catalog: Catalog, manifests: Sequence[Stored]) -> Iterator[CatalogedArchive]:
    """Reads the first one alone, since it is most often the one that is wanted."""
    yield from catalog.read(manifests[:1])
    yield from catalog.read(manifests[1:])


def _is_older(name: str, other: str) -> bool:
    """Returns True if a manifest is older than another by the times in their names, as far as those are times."""
    return name < other and _could_be_from(name) < _could_be_from(other)


def _passed_over(archive: CatalogedArchive) -> PassedOver:
    return PassedOver(f"a newer archive is skipped: {archive.problem}", path=archive.name)


def _could_be_from(name: str) -> datetime:
    """Returns the latest time that an archive can have, by its manifest's name: its time in the westernmost zone."""
    try:
        time = datetime.fromisoformat(name.removesuffix(MANIFEST))
        return time if time.tzinfo else time.replace(tzinfo=UTC) + MAX_WEST
    except (ValueError, OverflowError):
        return datetime.max.replace(tzinfo=UTC)


def _none_fits(
    store: Store | Mirrors,
    wanted: Filter,
    there: Sequence[CatalogedArchive],
    broken: Sequence[CatalogedArchive],
    ahead: Sequence[str],
) -> PogfastError:
    for archive in broken:
        if isinstance(archive.problem, DamageError):
            hint = "an older archive can be named: see `pogfast list`" if there else ""
            return CorruptManifest(str(archive.problem), hint)
    if broken and not there:
        return broken[0].problem or PogfastError("")
    if ahead:
        hint = f"set the clock, if it is not {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, or name an archive"
        return NoSuchArchive(f"every archive {wanted} in {store.path} is dated in the future".replace("  ", " "), hint)
    words = ([archive.trailer.host, *archive.trailer.tags] for archive in there)
    lines = [
        f"{archive.name} ({', '.join(filter(None, of)) or 'no host'})" for archive, of in zip(there, words, strict=True)
    ]
    hint = f"there are {some_of(lines)}" if lines else ""
    return NoSuchArchive(f"no archive {wanted} in {store.path}".replace("  ", " "), hint)

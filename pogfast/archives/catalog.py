"""The catalog: a local cache of what manifests say, so that each is fetched and opened once.

`list`, `latest`, `find`, `stats`, `prune` and `check` use it: ten thousand archives take a second, and each manifest is
downloaded once. It is one file for each store and key in the cache directory, encrypted under a key derived from that
key, so that only who can open the manifests can read it. It is bounded, holds nothing that is not in the store, and can
be deleted at any time. What it says of a manifest counts only as long as the store lists one of the same name, size,
time and version.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from array import array
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

from pogfast import manifest
from pogfast.archives.catalog_file import MAX_BLOBS, CatalogedArchive, CatalogFile
from pogfast.archives.members import MemberTable, raw_members
from pogfast.archives.trailer import Trailer
from pogfast.errors import CorruptManifest, DamageError, PogfastError, without_frames
from pogfast.keys import Key
from pogfast.stores import Stored
from pogfast.stores.fetching import fetched_manifest

Result = TypeVar("Result")

# Bytes of a manifest, and of the JSON in it, whose members are cached: a longer one is decoded as fast as the cache.
SMALL = 256 << 10
# Bytes of a manifest that is opened before the caller asks for it: an opened one takes ten times its size.
MAX_AHEAD = 1 << 20
# Seconds: a younger manifest is not cached, since a replacement within a second may have the same time of change.
MIN_AGE = 5.0
COUNTED = ("skipped", "unreadable", "changed")


class HoldsManifests(Protocol):
    """The methods of a store that the catalog uses."""

    @property
    def identity(self) -> str: ...

    @property
    def parallel(self) -> int: ...

    def get_manifest(self, name: str) -> bytes:
        """Raises NoSuchArchive and StoreError."""


class Catalog:
    """The archives of one store, as a key opens them. Must be closed, which saves what is new."""

    def __init__(self, store: HoldsManifests, key: Key) -> None:
        self.store = store
        self.key = key
        self.members = MemberTable()
        self._cache = CatalogFile(store.identity, key)
        self._known: dict[str, CatalogedArchive] | None = None
        self._has_members = False
        self._names: list[str] = []
        self._numbers: dict[str, int] = {}  # name -> its index in _names
        self._room = MAX_BLOBS
        self._changed = False
        self._asked: set[str] = set()  # manifests that were asked for: the others are dropped

    def __enter__(self) -> Catalog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(
        self,
        manifests: Sequence[Stored],
        *,
        blobs: bool = False,
        members: bool = False,
        again: Callable[[Stored], bool] = lambda stored: False,
    ) -> Iterator[CatalogedArchive]:
        """Yields what is known of these archives, in order; with `blobs` also the names of the blobs that they need,
        with `members` what is in them. A manifest that `again` returns True for is fetched, and opened if its bytes
        are not those that were opened before; this needs `members`.

        An archive that does not open has a `problem`; with `blobs` also one whose index disagrees with its entries."""
        self._asked.update(stored.name for stored in manifests)
        known = self._remembered() if len(manifests) > 1 else self._known or {}
        if members and known:
            self._load_members()

        def remembered(stored: Stored) -> CatalogedArchive | None:
            found = known.get(stored.name)
            if found is None or not found.is_of(stored):
                return None
            if members:
                return found if found.members is not None else None
            # Without totals in the trailer, entries were counted, and blobs are cached as well.
            return found if (not blobs and found.says_enough) or self._name_blobs(found) else None

        def at_once(stored: Stored) -> CatalogedArchive | None:
            return None if again(stored) else remembered(stored)

        def look(stored: Stored) -> CatalogedArchive:
            found = remembered(stored) if again(stored) else None
            return found if found and self._is_unchanged(found) else self._open(stored, blobs, members)

        for archive in in_parallel(look, manifests, self.store.parallel, at_once):
            if self._known is not None and known.get(archive.name) is not archive:
                self._note(archive)
            if not blobs and archive.says_enough:
                archive.blobs = None  # for the next time only
            yield archive
            archive.blobs = archive.whole = None

    def _note(self, archive: CatalogedArchive) -> None:
        """Remembers what was opened just now."""
        known = self._remembered()
        before = known.get(archive.name)
        if archive.problem is not None:
            if before is not None and isinstance(archive.problem, DamageError):
                del known[archive.name]
                self._changed = True
            return
        self._number_all(archive)
        if before is None or not before.says_as_much_as(archive):
            known.pop(archive.name, None)
            if archive.version or archive.modified < time.time() - MIN_AGE:
                known[archive.name] = archive
            self._changed = True

    def close(self) -> None:
        """Saves the cache if there is something new, and if it can be written."""
        if self._changed:
            self._load_members()
            before = time.time() - MIN_AGE
            keep = [each for each in self._remembered().values() if each.name in self._asked and each.modified < before]
            for archive in keep:
                self._name_blobs(archive)
            with contextlib.suppress(OSError, ValueError):
                self._cache.write(keep, self.members)

    def _is_unchanged(self, known: CatalogedArchive) -> bool:
        """Returns True if a manifest has the same bytes as when it was opened."""
        try:
            return _digest(self.store.get_manifest(known.name)) == known.digest
        except PogfastError:
            return False

    def _open(self, stored: Stored, blobs: bool, members: bool) -> CatalogedArchive:
        try:
            return fetched_manifest(self.store, stored.name, lambda data: self._seen(stored, data, blobs, members))
        except PogfastError as error:
            return CatalogedArchive(stored, Trailer(None), without_frames(error))

    def _seen(self, stored: Stored, data: bytes, blobs: bool, members: bool) -> CatalogedArchive:
        """Raises CorruptManifest and WrongKey."""
        if self.key.can_open and (opened := self._short(stored, data)):
            archive = self._seen_whole(stored, data, opened, blobs=blobs, strict=not members)
            if archive.blobs is not None:  # else something is malformed
                archive.digest = _digest(data)
                with contextlib.suppress(OverflowError):
                    archive.raw = raw_members(opened)
        elif members:  # a public key raises WrongKey here
            opened = manifest.open(data, self.key, stored.name)
            archive = self._seen_whole(stored, data, opened, blobs=blobs, strict=False)
        else:
            return self._seen_in_part(stored, data, blobs)
        archive.whole = (data, opened) if members else None
        return archive

    def _short(self, stored: Stored, data: bytes) -> manifest.Manifest | None:
        """Opens a manifest whose members are remembered. Returns None for others. Raises CorruptManifest and
        WrongKey."""
        return manifest.open_short(data, self.key, stored.name, SMALL) if len(data) <= SMALL else None

    def _seen_whole(
        self, stored: Stored, data: bytes, opened: manifest.Manifest, *, blobs: bool, strict: bool
    ) -> CatalogedArchive:
        """Takes all from a manifest, so that it need not be fetched again for what it was not fetched for now.

        Without `blobs` the names of blobs are only taken from a small manifest, if they are all well formed, and those
        of the index. Unless `strict`, entries may be malformed. Raises CorruptManifest."""
        archive = CatalogedArchive(stored, _counted(opened.trailer and manifest.facts_in(opened.trailer)))
        try:
            if not archive.says_enough:
                archive.trailer = _with_totals(archive.trailer, opened.entries)
        except CorruptManifest:
            if strict:
                raise
            return archive
        if not blobs and len(data) > SMALL:  # a million names
            return archive
        try:
            names = manifest.blobs_of(opened.entries)
            manifest.check_index(names, data, self.key, stored.name)
            archive.blobs = list(dict.fromkeys(names))
        except CorruptManifest:
            if blobs:
                raise
        return archive

    def _seen_in_part(self, stored: Stored, data: bytes, blobs: bool) -> CatalogedArchive:
        """Takes what is asked for from a manifest that may be large. Raises CorruptManifest and WrongKey."""
        archive = CatalogedArchive(stored, Trailer(None))
        if self.key.can_open:
            archive.trailer = _counted(manifest.open_facts(data, self.key, stored.name))
        if self.key.can_open and not archive.says_enough:
            entries = manifest.open_entries(data, self.key, stored.name)
            archive.trailer = _with_totals(archive.trailer, entries)
            archive.blobs = list(dict.fromkeys(blob for entry in entries.values() for blob in entry.blobs))
        if blobs or not self.key.can_open:
            archive.blobs = list(dict.fromkeys(manifest.blob_names(data, self.key, stored.name)))
        return archive

    def _number_all(self, archive: CatalogedArchive) -> None:
        """Replaces the names of blobs by numbers: archives need mostly the same blobs, and names are 25 times as
        long. Members likewise."""
        if archive.blobs is not None and len(archive.blobs) <= self._room:
            self._room -= len(archive.blobs)
            archive.numbers = array("I", map(self._number, archive.blobs)).tobytes()
        if archive.raw is not None:
            self._load_members()
            archive.members = self.members.add(archive.raw)
            archive.raw = None

    def _number(self, blob: str) -> int:
        if len(self._numbers) < len(self._names):
            self._numbers = {name: number for number, name in enumerate(self._names)}
        number = self._numbers.setdefault(blob, len(self._names))
        if number == len(self._names):
            self._names.append(blob)
        return number

    def _name_blobs(self, archive: CatalogedArchive) -> bool:
        """Returns True if it is known which blobs an archive needs."""
        if archive.blobs is None and archive.numbers is not None:
            with contextlib.suppress(IndexError, ValueError):  # malformed: the manifest is opened instead
                archive.blobs = [self._names[number] for number in array("I", archive.numbers)]
        return archive.blobs is not None

    def _remembered(self) -> dict[str, CatalogedArchive]:
        if self._known is None:
            self._known, self._names = self._cache.read()
        return self._known

    def _load_members(self) -> None:
        """Reads what is in the known archives."""
        if not self._has_members:
            self._has_members = True
            self._cache.read_members(self.members)


def _counted(words: dict[str, Any] | None) -> Trailer:
    """Returns a trailer with counts in place of the names of what was not archived, which may be many."""
    trailer = Trailer(words)
    return Trailer({**(words or {}), **{word: trailer.count(word) for word in COUNTED if word in (words or {})}})


def _with_totals(trailer: Trailer, entries: Mapping[str, manifest.Entry]) -> Trailer:
    """Returns a trailer with the totals `files`, and `size` if every entry says how large it is. Raises
    CorruptManifest."""
    sizes = [entry.size for entry in entries.values()]
    known = [size for size in sizes if size is not None]
    totals = {"files": len(sizes), **({"size": sum(known)} if len(known) == len(sizes) else {})}
    return Trailer({**(trailer.words or {}), "totals": totals})


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def in_parallel(
    act: Callable[[Stored], Result],
    manifests: Sequence[Stored],
    threads: int,
    at_once: Callable[[Stored], Result | None] = lambda stored: None,
) -> Generator[Result, None, None]:
    """Yields `act` of each manifest, in order. Runs this number of threads, and only a little ahead of the caller;
    large manifests wait for their turn. What `at_once` returns needs no thread."""
    coming: deque[tuple[Stored, Future[Result] | None]] = deque()

    def first() -> Result:
        stored, future = coming.popleft()
        return act(stored) if future is None else future.result()

    with ThreadPoolExecutor(threads, "pogfast-manifests") as pool:
        try:
            for stored in manifests:
                found = at_once(stored)
                if found is not None and not coming:
                    yield found
                    continue
                future: Future[Result] | None = None
                if found is not None:
                    future = Future()
                    future.set_result(found)
                elif threads > 1 and stored.size <= MAX_AHEAD:
                    future = pool.submit(act, stored)
                coming.append((stored, future))
                while len(coming) > (2 * threads if threads > 1 else 0):
                    yield first()
            while coming:
                yield first()
        finally:
            for _, future in coming:
                if future is not None:
                    future.cancel()

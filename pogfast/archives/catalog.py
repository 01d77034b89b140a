"""The catalog: a local cache of what manifests say, so that each is fetched and opened once.

`list`, `latest`, `find`, `stats` and `prune` use it: ten thousand archives take a second, and each manifest is
downloaded once. It is one file for each store and key in the cache directory, encrypted under a key derived from that
key, so that only who can open the manifests can read it. It is bounded, holds nothing that is not in the store, and can
be deleted at any time. `check` does not use it, since it checks what is in the store.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from array import array
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol, TypeVar

import msgspec
import zstandard

from pogfast import manifest
from pogfast._engine import random_bytes, secretbox, secretbox_open
from pogfast.archives.trailer import Trailer
from pogfast.errors import PogfastError, without_frames
from pogfast.keys import Key
from pogfast.stores import Stored
from pogfast.stores.fetching import fetched_manifest
from pogfast.system.encoding import bytes_of, local_all, portable_all
from pogfast.system.user_dirs import cache_directory, make_cache_directory

Result = TypeVar("Result")

VERSION = 1
# Limits of the cache: bytes of the trailer of one archive; names of blobs of all archives together (4 bytes for each,
# and 32 once for each distinct blob); bytes of the file, and of its content before compression.
MAX_TRAILER = 1 << 16
MAX_BLOBS = 1 << 22
MAX_FILE = 256 << 20
MAX_UNCOMPRESSED = 1 << 30
# Seconds: a younger manifest is not cached, since a replacement within a second may have the same time of change.
MIN_AGE = 5.0
DIGEST = 32
COUNTED = ("skipped", "unreadable", "changed")


class HoldsManifests(Protocol):
    """The methods of a store that the catalog uses."""

    @property
    def identity(self) -> str: ...

    @property
    def parallel(self) -> int: ...

    def get_manifest(self, name: str) -> bytes:
        """Raises NoSuchArchive and StoreError."""


@dataclass(slots=True)
class CatalogedArchive:
    """What the catalog knows of an archive.

    `trailer` has no sections, and counts in place of the names of what was not archived. For an archive without a
    trailer it has the totals of the entries; with a public key it is empty. `blobs` are the distinct names of the blobs
    that the archive needs, if the caller asked for them, and only until the next archive is read; the cache keeps
    `numbers`, 4 bytes for each. `problem` is why the archive could not be opened. `version` is the manifest's, "" for
    one that is known from the cache.
    """

    name: str
    size: int
    modified: float
    trailer: Trailer
    blobs: list[str] | None = None
    numbers: bytes | None = None
    problem: PogfastError | None = None
    version: str = ""


class Catalog:
    """The archives of one store, as a key opens them. Must be closed, which saves what is new."""

    def __init__(self, store: HoldsManifests, key: Key) -> None:
        self.store = store
        self.key = key
        self._path, self._sealing = _cache_file(store.identity, key)
        self._known: dict[str, CatalogedArchive] | None = None
        self._names: list[str] = []
        self._numbers: dict[str, int] = {}  # name -> its index in _names
        self._room = MAX_BLOBS
        self._changed = False
        self._asked: set[str] = set()  # manifests that were asked for: the others are dropped

    def __enter__(self) -> Catalog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self, manifests: Sequence[Stored], *, blobs: bool = False) -> Iterator[CatalogedArchive]:
        """Yields what is known of these archives, in order; with `blobs` also the names of the blobs that they need.

        An archive that does not open has a `problem`; with `blobs` also one whose index disagrees with its entries."""
        self._asked.update(stored.name for stored in manifests)
        known = self._remembered() if len(manifests) > 1 else self._known or {}

        def one(stored: Stored) -> CatalogedArchive:
            found = known.get(stored.name)
            # Without totals in the trailer, entries were counted, and blobs are cached as well.
            if (
                found
                and _is_same(found, stored)
                and ((not blobs and _says_enough(found.trailer)) or self._name_blobs(found))
            ):
                return found
            return self._open(stored, blobs)

        for archive in in_parallel(one, manifests, self.store.parallel):
            if archive.problem is None and known.get(archive.name) is not archive and self._known is not None:
                self._known.pop(archive.name, None)
                if archive.version or archive.modified < time.time() - MIN_AGE:
                    self._known[archive.name] = archive
                self._changed = True
            yield archive
            self._fold(archive)

    def close(self) -> None:
        """Saves the cache if there is something new, and if it can be written."""
        if self._changed and self._path:
            with contextlib.suppress(OSError, ValueError):
                self._save()

    def _open(self, stored: Stored, blobs: bool) -> CatalogedArchive:
        try:
            return fetched_manifest(self.store, stored.name, lambda data: self._seen(stored, data, blobs))
        except PogfastError as error:
            problem = without_frames(error)
            return CatalogedArchive(stored.name, stored.size, stored.modified, Trailer(None), problem=problem)

    def _seen(self, stored: Stored, data: bytes, blobs: bool) -> CatalogedArchive:
        """Raises CorruptManifest and WrongKey."""
        archive = CatalogedArchive(stored.name, stored.size, stored.modified, Trailer(None), version=stored.version)
        if self.key.can_open:
            archive.trailer = _counted(manifest.open_facts(data, self.key, stored.name))
        if self.key.can_open and not _says_enough(archive.trailer):
            entries = manifest.open_entries(data, self.key, stored.name)
            archive.trailer = Trailer({**(archive.trailer.words or {}), "totals": _totals(entries)})
            archive.blobs = list(dict.fromkeys(blob for entry in entries.values() for blob in entry.blobs))
        if blobs or not self.key.can_open:
            archive.blobs = list(dict.fromkeys(manifest.blob_names(data, self.key, stored.name)))
        return archive

    def _name_blobs(self, archive: CatalogedArchive) -> bool:
        """Returns True if it is known which blobs an archive needs."""
        if archive.blobs is None and archive.numbers is not None:
            with contextlib.suppress(IndexError, ValueError):  # malformed: the manifest is opened instead
                archive.blobs = [self._names[number] for number in array("I", archive.numbers)]
        return archive.blobs is not None

    def _fold(self, archive: CatalogedArchive) -> None:
        """Replaces the names of blobs by numbers: archives need mostly the same blobs, and names are 25 times as
        long."""
        if archive.blobs is not None and archive.numbers is None and len(archive.blobs) <= self._room:
            self._room -= len(archive.blobs)
            archive.numbers = array("I", map(self._number, archive.blobs)).tobytes()
        archive.blobs = None

    def _number(self, blob: str) -> int:
        if len(self._numbers) < len(self._names):
            self._numbers = {name: number for number, name in enumerate(self._names)}
        number = self._numbers.setdefault(blob, len(self._names))
        if number == len(self._names):
            self._names.append(blob)
        return number

    # ---- the cache file ----

    def _remembered(self) -> dict[str, CatalogedArchive]:
        if self._known is None:
            self._known, self._names, self._numbers = {}, [], {}
            if self._path:
                with contextlib.suppress(OSError, ValueError, RecursionError, zstandard.ZstdError, MemoryError):
                    self._known, self._names = _read(self._path, self._sealing)
        return self._known

    def _save(self) -> None:
        now = time.time()
        keep = [
            archive
            for name, archive in (self._known or {}).items()
            if name in self._asked and archive.modified < now - MIN_AGE
        ]
        for archive in keep:
            self._name_blobs(archive)
        data = secretbox(self._sealing, zstandard.compress(_packed(keep), 1))
        if len(data) > MAX_FILE:
            return
        make_cache_directory(os.path.dirname(self._path))
        unfinished = f"{self._path}.{os.getpid()}-{random_bytes(4).hex()}"
        file = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            with open(file, "wb") as out:
                out.write(data)
            os.rename(unfinished, self._path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(unfinished)
            raise


def in_parallel(
    act: Callable[[Stored], Result], manifests: Sequence[Stored], threads: int
) -> Generator[Result, None, None]:
    """Yields `act` of each manifest, in order. Runs this number of threads, and only a little ahead of the caller."""
    if threads <= 1 or len(manifests) <= 1:
        yield from map(act, manifests)
        return
    with ThreadPoolExecutor(threads, "pogfast-manifests") as pool:
        rest = iter(manifests)
        coming = deque(pool.submit(act, stored) for stored in islice(rest, 2 * threads))
        try:
            while coming:
                yield coming.popleft().result()
                coming.extend(pool.submit(act, stored) for stored in islice(rest, 1))
        finally:
            for future in coming:
                future.cancel()


def _is_same(known: CatalogedArchive, stored: Stored) -> bool:
    same = (known.size, known.modified) == (stored.size, stored.modified)
    return same and known.version in ("", stored.version)


def _counted(words: dict[str, Any] | None) -> Trailer:
    """Returns a trailer with counts in place of the names of what was not archived, which may be many."""
    trailer = Trailer(words)
    return Trailer({**(words or {}), **{word: trailer.count(word) for word in COUNTED if word in (words or {})}})


def _totals(entries: Mapping[str, manifest.Entry]) -> dict[str, int]:
    """Returns `files`, and `size` if every entry says how large it is. Raises CorruptManifest."""
    sizes = [entry.size for entry in entries.values()]
    known = [size for size in sizes if size is not None]
    return {"files": len(sizes), **({"size": sum(known)} if len(known) == len(sizes) else {})}


def _cache_file(identity: str, key: Key) -> tuple[str, bytes]:
    """Returns (path of the cache file, "" without a cache directory; the key that it is encrypted with).

    The public key of a pair opens no entries. So what the private key has opened is encrypted under a key derived from
    the private one.
    """
    secret = key.private if key.private is not None else key.secret
    sealing = hashlib.blake2b(b"catalog", key=secret, digest_size=32, person=b"pogfast derive").digest()
    directory = cache_directory()
    name = hashlib.blake2b(bytes_of(identity), key=sealing, digest_size=16).hexdigest()
    return os.path.join(directory, f"{name}.archives") if directory else "", sealing


class _Row(msgspec.Struct, array_like=True):
    """An archive in the cache file; `blobs` are numbers of 4 bytes each."""

    name: bytes
    size: int
    modified: float
    trailer: bytes
    blobs: bytes | None


class _File(msgspec.Struct, array_like=True):
    """The content of the cache file: `names` are the digests of blobs, which archives refer to by number."""

    version: int
    names: bytes
    archives: list[_Row]


READER = msgspec.msgpack.Decoder(_File)


def _packed(archives: Iterable[CatalogedArchive]) -> bytes:
    numbers: dict[str, int] = {}
    room = MAX_BLOBS
    rows = []
    for archive in archives:
        blobs: bytes | None = None
        trailer = json.dumps(portable_all(archive.trailer.words or {})).encode()
        if archive.blobs is not None and len(archive.blobs) <= room:
            room -= len(archive.blobs)
            blobs = array("I", sorted(numbers.setdefault(blob, len(numbers)) for blob in archive.blobs)).tobytes()
        if (blobs is not None or _says_enough(archive.trailer)) and len(trailer) <= MAX_TRAILER:
            rows.append(_Row(os.fsencode(archive.name), archive.size, archive.modified, trailer, blobs))
    names = b"".join(map(urlsafe_b64decode, numbers))
    return msgspec.msgpack.encode(_File(VERSION, names, rows))


def _says_enough(trailer: Trailer) -> bool:
    """Returns True if a trailer has the totals that `list` shows. pog writes no trailers."""
    return trailer.total("files") is not None and trailer.total("stored") is not None


def _read(path: str, sealing: bytes) -> tuple[dict[str, CatalogedArchive], list[str]]:
    """Returns (archives by name, the names of blobs that they refer to by number). Raises OSError, ValueError,
    RecursionError, ZstdError and MemoryError."""
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
        if os.fstat(file.fileno()).st_size > MAX_FILE:
            raise ValueError("too large")
        data = file.read()
    plain = secretbox_open(sealing, data)
    if plain is None:
        raise ValueError("damaged, or another key's")
    if not 0 <= zstandard.frame_content_size(plain) <= MAX_UNCOMPRESSED:
        raise ValueError("of unknown size, or too large")
    found = READER.decode(zstandard.decompress(plain))
    if found.version != VERSION or len(found.names) % DIGEST:
        raise ValueError("another version, or malformed")
    digests = (found.names[at : at + DIGEST] for at in range(0, len(found.names), DIGEST))
    names = [urlsafe_b64encode(digest).decode() for digest in digests]
    known = {}
    for row in found.archives:
        name, trailer = os.fsdecode(row.name), json.loads(row.trailer)
        if not isinstance(trailer, dict):
            raise ValueError("malformed trailer")
        known[name] = CatalogedArchive(name, row.size, row.modified, Trailer(local_all(trailer)), numbers=row.blobs)
    return known, names

"""The file in which the catalog remembers archives: read when the first is asked for, and replaced when it is saved.

It is two boxes, each msgpack, compressed: the first says what archives are and which blobs they need, the second what
is in small ones. The second is opened only for those who ask, and only if it is the one that the first was saved with.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from array import array
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable, Sequence

import msgspec
import zstandard

from pogfast import manifest
from pogfast._engine import random_bytes, secretbox, secretbox_open
from pogfast.archives.members import KINDS, MemberTable, RawMember
from pogfast.archives.trailer import Trailer
from pogfast.errors import PogfastError
from pogfast.keys import Key
from pogfast.stores import Stored
from pogfast.system.encoding import bytes_of
from pogfast.system.user_dirs import cache_directory, make_cache_directory

VERSION = 2
# Limits of the cache: bytes of the trailer of one archive; names of blobs of all archives together (4 bytes for each,
# and 32 once for each distinct blob); bytes of the file, and of its content before compression.
MAX_TRAILER = 1 << 16
MAX_BLOBS = 1 << 22
MAX_FILE = 256 << 20
MAX_UNCOMPRESSED = 1 << 30
DIGEST = 32


class CatalogedArchive:
    """What the catalog knows of an archive.

    `trailer` has no sections, and counts in place of the names of what was not archived. For an archive without a
    trailer it has the totals of the entries; with a public key it is empty. `blobs` are the distinct names of the blobs
    that the archive needs, if the caller asked for them; the cache keeps `numbers`, 4 bytes for each. `members` are the
    numbers of what is in the archive, in the catalog's table. If the caller asked for them, and the table does not have
    them or the manifest was fetched anyway, `whole` is the manifest as it was fetched, and opened. `blobs` and `whole`
    are there until the next archive is read. `problem` is why the archive could not be opened.
    """

    __slots__ = (
        "_facts",
        "blobs",
        "digest",
        "members",
        "modified",
        "name",
        "numbers",
        "problem",
        "raw",
        "size",
        "trailer",
        "version",
        "whole",
    )

    def __init__(self, stored: Stored, trailer: Trailer | None = None, problem: PogfastError | None = None) -> None:
        self.name, self.size, self.modified, self.version, _ = stored
        self.problem = problem
        self.blobs: list[str] | None = None
        self.numbers: bytes | None = None
        self.members: Sequence[int] | None = None
        self.digest = b""  # of the manifest, if its members are known
        self.raw: list[RawMember] | None = None  # members that have no numbers yet
        self.whole: tuple[bytes, manifest.Manifest] | None = None
        self._facts = b""
        self.trailer = trailer or Trailer(None)

    def is_of(self, listed: Stored | CatalogedArchive) -> bool:
        """Returns True if a manifest is listed as it was when it was opened."""
        here, there = (self.size, self.modified, self.version), (listed.size, listed.modified, listed.version)
        return self.name == listed.name and here == there

    @classmethod
    def remembered(cls, row: _Row) -> CatalogedArchive:
        """Returns what a row says. Raises ValueError."""
        archive = cls(Stored(os.fsdecode(row.name), row.size, row.modified, row.version))
        archive.numbers, archive._facts = row.blobs, row.trailer
        words = manifest.decoded(row.trailer)
        if not isinstance(words, dict):
            raise ValueError("malformed trailer")
        archive.trailer = Trailer(words)
        return archive

    @property
    def facts(self) -> bytes:
        """The trailer as JSON. Raises OverflowError for a number that JSON does not have."""
        self._facts = self._facts or manifest.encoded(self.trailer.words or {})
        return self._facts

    @property
    def says_enough(self) -> bool:
        """True if the trailer has the totals that `list` shows. pog writes no trailers."""
        return self.trailer.total("files") is not None and self.trailer.total("stored") is not None

    def says_as_much_as(self, other: CatalogedArchive) -> bool:
        """Returns True if the other knows nothing more of the same manifest."""
        more = (other.numbers, self.numbers), (other.members, self.members)
        same = self.is_of(other) and (not other.digest or self.digest == other.digest)
        return same and all(mine is not None or theirs is None for theirs, mine in more)


class _Row(msgspec.Struct, array_like=True):
    """An archive in the cache file; `blobs` are numbers of 4 bytes each."""

    name: bytes
    size: int
    modified: float
    version: str
    trailer: bytes
    blobs: bytes | None


class _Archives(msgspec.Struct, array_like=True):
    """The first box: `names` are the digests of blobs, which archives refer to by number; `members` is the sha256 of
    the second box."""

    version: int
    names: bytes
    members: bytes
    archives: list[_Row]


class _Members(msgspec.Struct, array_like=True):
    """The second box. `archives` has an item for each in the first: the manifest's digest, and the numbers of its
    members, 4 bytes each; None for an archive whose members are not kept."""

    members: list[RawMember]
    archives: list[tuple[bytes, bytes] | None]


ARCHIVES = msgspec.msgpack.Decoder(_Archives)
MEMBERS = msgspec.msgpack.Decoder(_Members)
# What a cache file that cannot be used raises.
UNUSABLE = (OSError, ValueError, RecursionError, zstandard.ZstdError, MemoryError)
LENGTH = 8  # bytes before the first box: how many it has


class CatalogFile:
    """The cache file of a store and a key.

    The public key of a pair opens no entries. So what the private key has opened is encrypted under a key derived from
    the private one.
    """

    def __init__(self, identity: str, key: Key) -> None:
        secret = key.private if key.private is not None else key.secret
        self.sealing = hashlib.blake2b(b"catalog", key=secret, digest_size=32, person=b"pogfast derive").digest()
        directory = cache_directory()
        name = hashlib.blake2b(bytes_of(identity), key=self.sealing, digest_size=16).hexdigest()
        self.path = os.path.join(directory, f"{name}.archives") if directory else ""
        self._order: list[CatalogedArchive] = []
        self._members = b""

    def read(self) -> tuple[dict[str, CatalogedArchive], list[str]]:
        """Returns (archives by name, the names of blobs that they refer to by number); neither if there is no cache
        that can be used."""
        with contextlib.suppress(*UNUSABLE):
            return self._read()
        return {}, []

    def _read(self) -> tuple[dict[str, CatalogedArchive], list[str]]:
        with open(os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            if os.fstat(file.fileno()).st_size > MAX_FILE:
                raise ValueError("too large")
            data = memoryview(file.read())
        end = LENGTH + int.from_bytes(data[:LENGTH], "little")
        found = ARCHIVES.decode(self._open(data[LENGTH:end]))
        if found.version != VERSION or len(found.names) % DIGEST:
            raise ValueError("another version, or malformed")
        digests = (found.names[at : at + DIGEST] for at in range(0, len(found.names), DIGEST))
        names = [urlsafe_b64encode(digest).decode() for digest in digests]
        self._order = [CatalogedArchive.remembered(row) for row in found.archives]
        if hashlib.sha256(data[end:]).digest() == found.members:
            self._members = bytes(data[end:])
        return {archive.name: archive for archive in self._order}, names

    def read_members(self, table: MemberTable) -> None:
        """Fills the table, and tells the archives that were read which members they have."""
        with contextlib.suppress(*UNUSABLE):
            found = MEMBERS.decode(self._open(self._members))
            numbers = [None if each is None else array("I", each[1]) for each in found.archives]
            if len(numbers) != len(self._order) or not all(map(_is_sound, found.members)):
                raise ValueError("malformed members")
            if max(map(max, filter(None, numbers)), default=-1) >= len(found.members):
                raise ValueError("members that are not there")
            for archive, each, its in zip(self._order, found.archives, numbers, strict=True):
                archive.digest, archive.members = each[0] if each else b"", its
            table.fill(found.members, sum(len(its) for its in numbers if its is not None))
        self._members = b""

    def _open(self, box: memoryview | bytes) -> bytes:
        plain = secretbox_open(self.sealing, box)
        if plain is None:
            raise ValueError("damaged, or another key's")
        if not 0 <= zstandard.frame_content_size(plain) <= MAX_UNCOMPRESSED:
            raise ValueError("of unknown size, or too large")
        return zstandard.decompress(plain)

    def write(self, archives: Sequence[CatalogedArchive], table: MemberTable) -> None:
        """Writes what is known of these archives. Raises OSError and ValueError."""
        if not self.path:
            return
        rows, names = _rows(archives)
        members = self._seal(_members_of([archive for archive, _ in rows], table))
        found = _Archives(VERSION, names, hashlib.sha256(members).digest(), [row for _, row in rows])
        first = self._seal(found)
        data = b"".join((len(first).to_bytes(LENGTH, "little"), first, members))
        if len(data) > MAX_FILE:
            return
        make_cache_directory(os.path.dirname(self.path))
        unfinished = f"{self.path}.{os.getpid()}-{random_bytes(4).hex()}"
        file = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            with open(file, "wb") as out:
                out.write(data)
            os.rename(unfinished, self.path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(unfinished)
            raise

    def _seal(self, content: _Archives | _Members) -> bytes:
        return secretbox(self.sealing, zstandard.compress(msgspec.msgpack.encode(content), 1))


def _is_sound(member: RawMember) -> bool:
    """Returns False for a kind that there is not. Raises ValueError for a path that is not UTF-8."""
    return 0 <= member.kind < len(KINDS) and member.name is not None


def _rows(archives: Iterable[CatalogedArchive]) -> tuple[list[tuple[CatalogedArchive, _Row]], bytes]:
    """Returns (the archives that can be kept, each with its row; the digests of their blobs)."""
    numbers: dict[str, int] = {}
    room = MAX_BLOBS
    rows = []
    for archive in archives:
        blobs: bytes | None = None
        if archive.blobs is not None and len(archive.blobs) <= room:
            room -= len(archive.blobs)
            blobs = array("I", sorted(numbers.setdefault(blob, len(numbers)) for blob in archive.blobs)).tobytes()
        with contextlib.suppress(OverflowError):
            if (blobs is not None or archive.says_enough) and len(archive.facts) <= MAX_TRAILER:
                name, stamp = os.fsencode(archive.name), (archive.size, archive.modified, archive.version)
                rows.append((archive, _Row(name, *stamp, archive.facts, blobs)))
    return rows, b"".join(map(urlsafe_b64decode, numbers))


def _members_of(archives: Sequence[CatalogedArchive], table: MemberTable) -> _Members:
    """Returns what is known of the members of archives, numbered anew: some are of archives that are gone."""
    fresh = MemberTable()
    kept: list[tuple[bytes, bytes] | None] = []
    for archive in archives:
        numbers = None if archive.members is None else fresh.add([table[number] for number in archive.members])
        kept.append(None if numbers is None else (archive.digest, numbers.tobytes()))
    return _Members(list(fresh), kept)

"""What travels between the coordinator and its workers: the job, its units, and what has become of each.

All of it can be pickled, and a unit can be done twice: blobs are named by their content. The job says what is the same
for all units. It has no secret but what the public key of a pair is; other keys are references, which each worker
resolves itself.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from pogfast import __version__
from pogfast._engine import ZSTD_VERSION, FilePart, Known, Opened, Sealed, Tallied, Wanted
from pogfast.errors import PogfastError, StoreError, UsageError
from pogfast.keys import Key, Kind, check_reference, from_reference
from pogfast.stores.names import Stored
from pogfast.stores.settings import Settings

RELEASE = f"pogfast {__version__}, zstd {ZSTD_VERSION}"
Piece = bytes | Known | FilePart
MAX_SOURCES = 64  # directories that workers look for, as the job travels with each unit


class Unsuitable(PogfastError):
    """This worker cannot do units of a job: another release, no source, no store. Others may."""


@dataclass(frozen=True)
class Failed:
    """What a worker returns instead of a result. Exceptions stay where they are: what an executor makes of one that
    cannot be pickled is not to be relied on."""

    kind: Literal["unsuitable", "store", "other"]
    text: str
    hint: str
    worker: str

    @classmethod
    def of(cls, error: Exception, worker: str) -> Failed:
        if isinstance(error, Unsuitable):
            return cls("unsuitable", str(error), error.hint, worker)
        if isinstance(error, StoreError):
            return cls("store", str(error), error.hint, worker)
        if isinstance(error, PogfastError):
            return cls("other", str(error), error.hint, worker)
        return cls("other", f"worker {worker} failed: {type(error).__name__}: {error}"[:2000], "", worker)

    def error(self) -> PogfastError:
        """Returns the exception of the coordinator."""
        return (StoreError if self.kind == "store" else PogfastError)(self.text, self.hint)


class Source(NamedTuple):
    """A directory that every worker must see as the coordinator does."""

    path: str
    inode: int
    mtime_ns: int


def sources_of(paths: Iterable[str]) -> tuple[Source, ...]:
    """Returns the directories among absolute paths, and those that the files are in, which may be gone by the time that
    a worker looks. Of many, it returns the first ones, and one in each file system."""
    found: dict[str, Source] = {}
    devices: set[int] = set()
    for path in paths:
        with contextlib.suppress(OSError):
            status = os.lstat(path)
            if not stat.S_ISDIR(status.st_mode):
                path = os.path.dirname(path)
                status = os.stat(path)
            if len(found) < MAX_SOURCES or status.st_dev not in devices:
                found[path] = Source(path, status.st_ino, status.st_mtime_ns)
                devices.add(status.st_dev)
    return tuple(found.values())


@dataclass(frozen=True, repr=False)
class KeyReference:
    """A key, as a worker gets it: the public key itself, or the word that says where it is (keys.from_reference)."""

    kind: Kind
    fingerprint: str
    public: bytes = b""
    word: str = ""

    def __repr__(self) -> str:
        return f"<KeyReference {self.kind} {self.fingerprint}>"

    @classmethod
    def of(cls, key: Key, word: str, *, writing: bool) -> KeyReference:
        """Returns what workers get of a key. Raises UsageError if they need a `word` that says where it is."""
        if writing and key.asymmetric:
            return cls(key.kind, key.fingerprint, public=key.secret)
        if not word:
            raise UsageError(
                "workers must read the key themselves, and it cannot be sent to them",
                hint="say where each finds it: --worker-key=file:PATH, or command:COMMAND that prints it",
            )
        check_reference(word)
        return cls(key.kind, key.fingerprint, word=word)

    def resolve(self) -> Key:
        """Returns the key. Raises Unsuitable if it cannot be read here, or is another one than the coordinator's."""
        try:
            key = Key("x25519", self.public) if self.public else from_reference(self.word, self.kind)
        except PogfastError as error:
            raise Unsuitable(str(error), error.hint) from error
        if key.fingerprint != self.fingerprint:
            raise Unsuitable(f"it finds another key at {self.word}: {key.fingerprint}, not {self.fingerprint}")
        return key


@dataclass(frozen=True)
class Job:
    """What is the same for all units. `mark` is an object in every store, by which a worker sees that it is the
    coordinator's."""

    number: str  # unique
    to: str
    mark: str
    key: KeyReference
    settings: Settings
    sources: tuple[Source, ...]
    release: str = RELEASE

    def check_release(self) -> None:
        """Raises Unsuitable for another release than the coordinator's: it may cut or compress otherwise."""
        if self.release != RELEASE:
            raise Unsuitable(f"it has {RELEASE}, not {self.release}")

    def check_sources(self) -> None:
        """Raises Unsuitable if a source is missing or another one."""
        for source in self.sources:
            try:
                found = os.stat(source.path)
            except OSError as error:
                raise Unsuitable(f"it does not see {source.path}: {error.strerror}") from error
            if found.st_ino != source.inode and found.st_mtime_ns != source.mtime_ns:
                raise Unsuitable(f"it sees something else at {source.path}: is the same file system mounted there?")


@dataclass(frozen=True)
class SealingJob(Job):
    """A job of create: how files become blobs, as the engine's Sealer takes it."""

    chunk_size: int = 0
    level: int = 0
    jobs: int = 1
    frames: bool = True
    by_content: tuple[int, int] | None = None  # minimum and mean size; the table of cuts comes from the key
    anew: bool = False
    even: bool = False


@dataclass(frozen=True)
class SealingUnit:
    """Files, or parts of files, in the order of the archive."""

    pieces: tuple[Piece, ...]
    size: int  # bytes, about
    share: float = 1.0  # of the job's limits, for the process that does it


@dataclass
class SealingResult:
    """What has become of a unit: an event for each piece, which has all of its blobs and is `done`."""

    events: list[Sealed]
    tallied: Tallied
    packs: list[list[tuple[Stored, bytes]]]  # of each store: new packs, and the table of each
    requests: dict[str, int] = field(default_factory=dict)
    worker: str = ""
    seconds: float = 0.0


class Into(NamedTuple):
    """The directory that files are restored into. `token` is a file in it that only the coordinator's has."""

    path: str
    token: str
    content: bytes  # of that file
    user: int  # who restores: whom files belong to, and what may be done
    temporary: str  # begins the names of unfinished files, so that the coordinator can remove them
    sync: bool  # what was written is on the disk before it is reported


@dataclass(frozen=True)
class OpeningJob(Job):
    """A job of restore or check: blobs become files below a directory, or are only verified."""

    jobs: int = 1
    into: Into | None = None


class FileRange(NamedTuple):
    """A range of a file that several workers write."""

    draft: str  # the name of the unfinished file
    inode: int  # of that
    first: int  # number of its first blob in the file
    is_last: bool


class Asked(NamedTuple):
    """A file as the engine's Opener takes it, but for its directory, which the worker opens; or a range of one."""

    directory: str  # below that of the job
    wanted: Wanted
    times: tuple[int, int] | None = None  # of access and modification, set when its bytes are on the disk
    part: FileRange | None = None


@dataclass(frozen=True)
class OpeningUnit:
    """Files, or ranges of files, that are restored or verified."""

    files: tuple[Asked, ...]
    share: float = 1.0  # of the job's limits, for the process that does it


@dataclass
class OpeningResult:
    """What has become of a unit: an event for each file or range."""

    events: list[Opened]
    written: int  # uncompressed bytes
    read: int  # bytes of blobs
    worker: str = ""
    seconds: float = 0.0

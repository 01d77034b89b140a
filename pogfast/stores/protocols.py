"""The protocols of stores, and `Finding`, in which a store reports its state to doctor.

`Target` is written to, `Source` is read from, `Store` can also be listed. What only some stores can do has a protocol
of its own (`HoldsPacks`, `CanPrefetch`, `CanAbandon`, `CanDropCache`, `HasCopies`, `CanMirror`, `CanCopy`,
`CanRepack`): callers ask isinstance.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, runtime_checkable

from pogfast._engine import BlobDirectory
from pogfast.errors import PogfastError, StoreError
from pogfast.stores.names import Stored

if TYPE_CHECKING:
    from pogfast._engine import Buffer, Sink
    from pogfast.sizes import Share
    from pogfast.stores.settings import Lock


class InColdStorage(StoreError):
    """An object that has to be thawed before it can be read."""


class Target(Protocol):
    """A store that an archive is written to."""

    label: str

    @property
    def identity(self) -> str:
        """Identifies the store, however its address was written."""

    @property
    def requests(self) -> Mapping[str, int]:
        """Requests made to a service so far, by kind; empty if the store is not on a service."""

    def sizes_of(self, names: Sequence[str]) -> Sequence[int | None]:
        """Returns the stored bytes of each blob; None if it is missing or the store cannot tell. Raises StoreError."""

    def own_directories(self) -> Mapping[tuple[int, int], tuple[str, Callable[[str], bool]]]:
        """Returns the store's own directories by device and inode, each with a description and a function that tells
        which names in it belong to the store: backups leave these out. Empty if the store is in no directory."""

    @property
    def blobs(self) -> Sink:
        """Where the engine puts blobs: atomically, and intact ones that exist are kept. Raises StoreError."""

    def begin_durable(self) -> None:
        """Syncs what was put so far, so that make_durable has less to wait for. Called during the run by one thread;
        make_durable reports the errors."""

    def make_durable(self) -> None:
        """Returns when every blob that was put is on disk, as far as the store can tell. Raises StoreError."""

    def put_manifest(self, name: str, data: bytes) -> None:
        """Stores a manifest atomically; it is durable when this returns. Raises StoreError."""

    def delete_manifests(self, names: Iterable[str]) -> None:
        """Deletes manifests; missing ones are no error. Raises StoreError."""

    def manifests(self) -> list[Stored]:
        """Lists the manifests, sorted by name; empty if the store cannot be listed. Raises StoreError."""

    def marks(self) -> list[Stored]:
        """Lists our other files beside the manifests (see `names.is_mark`). Raises StoreError."""

    def prune_marks(self) -> list[Stored]:
        """Lists the marks of prunes: first the lists of condemned blobs, then the marks of running and finished sweeps,
        which must not be older. Raises StoreError."""

    def named(self, prefix: str) -> list[Stored]:
        """Lists what lies beside the manifests and starts with `prefix`. Raises StoreError."""

    def get_manifest(self, name: str) -> bytes:
        """Returns a manifest or a mark. Raises NoSuchArchive if it is missing, StoreError if it cannot be read."""

    def put_mark(self, name: str, data: bytes) -> None:
        """Stores a mark and replaces one of that name; it is durable when this returns. May be called while blobs are
        put. Raises StoreError."""

    def missing(self, names: Iterable[str]) -> list[str]:
        """Returns the blobs among these that are missing now; `doubt` makes no difference. Raises StoreError."""

    def doubt(self, names: Iterable[str]) -> None:
        """Treats these blobs as absent until they are put again: a prune may delete them, so nobody may rely on them.
        Replaces the names of an earlier call. Not while an engine puts blobs."""

    def blobs_only_in(self, objects: Collection[str], listed: Collection[str]) -> set[str]:
        """Returns the blobs that are in these objects, and in no other object of the store except the `listed` ones,
        which include `objects`. A blob by itself is an object of its name, a pack one of its path; names of other
        things are ignored. Raises StoreError."""

    def close(self) -> None: ...


class Source(Protocol):
    """A store that an archive is read from."""

    label: str

    @property
    def source(self) -> BlobDirectory | Callable[[str], Buffer]:
        """Where the engine gets blobs from."""

    @property
    def parallel(self) -> int:
        """How many blobs to request at a time: on a service more than there are cores, since each has to be waited
        for."""

    def get_manifest(self, name: str) -> bytes:
        """Returns a manifest or a mark. Raises NoSuchArchive if it is missing, StoreError if it cannot be read."""

    def delete_blobs(self, names: Iterable[str]) -> None:
        """Deletes blobs; missing ones are no error. Raises StoreError."""

    def delete_manifests(self, names: Iterable[str]) -> None:
        """Deletes manifests; missing ones are no error. Raises StoreError."""

    def close(self) -> None: ...


class Store(Source, Target, Protocol):
    """A store that can be listed. `path` is the address as the user wrote it; manifests are shown below it."""

    path: str

    def blob_names(self) -> Iterator[Stored]:
        """Yields the blobs, in no order. Raises StoreError."""

    def size_of(self, name: str) -> int | None:
        """Returns the stored bytes of a blob, None if it is missing. Raises StoreError."""

    def get_blob(self, name: str) -> Buffer:
        """Returns all bytes stored under a blob's name. Raises MissingBlob, and StoreError if it cannot be read."""

    def named(self, prefix: str) -> list[Stored]:
        """Lists what lies beside the manifests and starts with `prefix`. Raises StoreError."""

    def holders(self) -> Iterator[Stored]:
        """Yields the objects that hold blobs: blobs by themselves, and packs. Raises StoreError."""

    def unneeded(
        self, objects: Iterable[Stored] | None, is_needed: Callable[[str], bool], going: Collection[str] = ()
    ) -> list[Stored]:
        """Returns those of some holders, or with None of all, without which the store still has every blob that
        `is_needed`. It decides one after the other, of all the oldest first, so that of two objects that hold the same
        blob one stays; what is in `going` is not taken to stay. Raises StoreError."""

    def remove_manifest(self, name: str) -> None:
        """Renames a manifest to the name of a removed archive, and restarts its age. Raises NoSuchArchive and
        StoreError."""

    def remove_manifests(self, names: Collection[str]) -> set[str]:
        """Does this to several manifests; returns those that were there. Raises StoreError."""

    def delete_as_listed(self, marks: Iterable[Stored], go_on: Callable[[], bool]) -> None:
        """Deletes marks as they were when they were listed: one that was rewritten since stays, if the store can tell.
        `go_on` is called right before each deletion; False ends it. Raises StoreError."""

    def forget_removed(self, removed: Stored) -> None:
        """Deletes the removed archive's name after the archive was restored, unless it was removed again meanwhile. A
        store that cannot tell leaves it to a later prune. Raises StoreError."""

    def begin_sweep(self) -> None:
        """Finishes what a killed delete_old_blobs left undone; to be called before the next one. Raises StoreError."""

    def delete_old_blobs(self, blobs: Iterable[Stored], before: float, go_on: Callable[[], bool]) -> Iterator[Stored]:
        """Deletes the blobs, as `blob_names` listed them, that were written earlier than `before` (seconds since 1970
        by the store's clock), and yields those that are gone. One that was rewritten meanwhile stays. `go_on` is called
        right before each deletion; False ends it. Raises StoreError."""

    def examine(self) -> Iterator[Finding]:
        """Yields what doctor reports about this kind of store."""

    def locked(self, names: Iterable[str]) -> dict[str, float]:
        """Returns the blobs and manifests among these that have an object lock, and until when (seconds since 1970).
        Raises StoreError."""

    def lock(self, names: Iterable[str], lock: Lock) -> Iterator[tuple[str, bool | None]]:
        """Locks blobs and manifests. Yields each name with True if the lock was set or extended, False if the lock was
        long enough, None if the object is missing. Raises StoreError, and UsageError if the store has no locks."""

    def thaw(self, names: Iterable[str], tier: str, days: int) -> Iterator[tuple[str, ThawState]]:
        """Requests that blobs in cold storage become readable for some days, and yields the state of each. Raises
        StoreError, and UsageError if the store has no cold storage."""


@runtime_checkable
class HoldsPacks(Protocol):
    """A store of objects that are named by their paths: pogfast.store, packs/2026-11-30/NAME, packs/index/NAME. Its
    methods that take names of blobs (missing, locked, lock, thaw, delete_blobs, delete_old_blobs) take paths, too."""

    def objects(self, prefix: str) -> Iterator[Stored]:
        """Yields the objects below a folder, at any depth, named by their paths, in no order; none if it is missing.
        `prefix` ends in /, or is the path of one object. Raises StoreError."""

    def has_packs(self) -> bool:
        """Returns True if there is a pack, as far as the credentials may list the store; in a directory of that name,
        there may be a user's own files. Raises StoreError."""

    def put_object(self, path: str, data: Buffer, *, replace: bool = False) -> None:
        """Stores an object atomically; it is durable when this returns. Unless `replace`, an object of that path and
        size is kept, if the store can tell: paths are made from the bytes. Raises StoreError."""

    def get_object(self, path: str, limit: int) -> Buffer:
        """Returns all bytes of an object. Raises MissingBlob, CorruptBlob for more than `limit` bytes, and
        StoreError."""

    def read_range(self, path: str, start: int, size: int) -> Buffer:
        """Returns exactly `size` bytes of an object. Raises MissingBlob, CorruptBlob if the object ends before, and
        StoreError."""


@runtime_checkable
class CanPrefetch(Protocol):
    """A source of blobs that downloads ahead."""

    def prefetch(self, names: Iterable[str]) -> None:
        """Starts to download these blobs, which will be asked for in this order, as far as memory allows. Replaces the
        names of an earlier call."""


@runtime_checkable
class CanOrder(Protocol):
    """A source in which some orders of reading are faster than others."""

    def order(self, groups: Sequence[Sequence[str]]) -> list[int]:
        """Returns the positions of groups of blobs, such as those of files, in the order in which to read them."""


@runtime_checkable
class CanAbandon(Protocol):
    """A source or sink of the engine that may wait for a network. The engine calls it when a run ends early."""

    def abandon(self) -> None:
        """Ends retries and queued transfers, so that no worker waits longer than for a request that was sent."""


@runtime_checkable
class CanKeepUp(Protocol):
    """A target that collects blobs before it stores them."""

    def keep_up(self) -> None:
        """Stores what has been waiting for long. Called every half second while blobs are put, by one thread;
        make_durable reports the errors."""


@runtime_checkable
class CanDistrust(Protocol):
    """A store whose blobs may lose their bytes in a power cut."""

    def distrust_all(self) -> None:
        """Treats blobs that no archive has yet as absent, unless the key shows that they are intact: other machines may
        have written them."""


class BlobSink(CanAbandon, Protocol):
    """A function as the engine's sink, with the methods that the engine looks for in it."""

    def __call__(self, name: str, blob: memoryview, /) -> None: ...

    def holds(self, name: str) -> int | None:
        """Returns the stored bytes of a blob that need not be put again; None if it has to be."""


@runtime_checkable
class CanDropCache(Protocol):
    """A store whose blobs the operating system caches."""

    def forget(self, name: str) -> None:
        """Has the system drop its cached copy of a blob, so that the next read comes from the disk."""


class Found(NamedTuple):
    """What is wrong with a pack or an index object. `blob` is the damaged blob in it, if it is one."""

    path: str
    error: PogfastError
    blob: str | None = None
    is_index: bool = False  # it can be made again


class Scrub(Protocol):
    """A check of the packs of one store, as they were listed when it began. Methods raise StoreError."""

    @property
    def packs(self) -> list[Stored]: ...

    @property
    def index_objects(self) -> int: ...

    @property
    def uncovered(self) -> int:
        """How many packs are in no index object."""

    @property
    def absent(self) -> int:
        """How many packs of index objects are not there, as after a prune."""

    @property
    def indexed(self) -> set[str]:
        """The packs that index objects name."""

    def lost(self) -> dict[str, str]:
        """Returns the blobs that were in these, each with its pack."""

    def listed(self) -> Iterator[Found]:
        """Compares sizes with index objects, and reads nothing more; yields what is wrong."""

    def compare(self) -> Iterator[Found]:
        """Compares sizes, tables and index objects; yields what is wrong, and what cannot be read."""

    def read(self, packs: Iterable[Stored]) -> Iterator[tuple[Stored, list[Found]]]:
        """Reads whole packs; yields each with what is damaged in it."""

    def heal(self, path: str) -> bool:
        """Stores a pack with a damaged table again as it was; returns False if it cannot be known."""

    def mend(self) -> int:
        """Writes index objects for packs that are in none, or in a wrong one; returns of how many packs."""


@runtime_checkable
class CanScrub(Protocol):
    """A store with packs, which can be checked without a key. It is a Store as well."""

    label: str
    lacks_settings: bool  # nothing in the store says that it has packs

    @property
    def identity(self) -> str: ...

    def scrub(self) -> Scrub:
        """Begins a check of the packs, as they are listed now. Raises StoreError."""

    def write_settings(self) -> None:
        """Writes what says that the store has packs. Raises StoreError."""


class PackFigures(NamedTuple):
    """What is in the packs of a store. Sizes are bytes."""

    packs: int
    size: int
    index_objects: int
    uncovered: int  # packs in no index object, as after a run that was killed
    needed: int  # bytes of the needed blobs in packs, each counted once, and of what the packs say of them


class PackShare(NamedTuple):
    """A pack with wanted blobs in it. Sizes are bytes."""

    size: int
    wanted: int  # of the wanted blobs


class PackableStore(Store, HoldsPacks, Protocol):
    """A store that packs can lie in."""

    def drop_empty_folders(self) -> None:
        """Deletes folders for blobs in which there is none. Who stores a blob makes its folder again."""


@runtime_checkable
class HasPacks(Protocol):
    """A store with packs, which can count them."""

    base: PackableStore  # the store of the packs, which sees plain blobs only
    lacks_settings: bool  # nothing in the store says that it has packs

    @property
    def pack_size(self) -> int | None:
        """Bytes of a new pack; None if new blobs are stored plain."""

    @property
    def packs_put(self) -> int:
        """How many packs this process has stored."""

    def hand_over(self) -> list[tuple[Stored, bytes]]:
        """Returns when every blob that was put is durable, with the packs that this process has stored since the last
        time and that are in no index object, and the table of each: another process writes it. Raises StoreError."""

    def take_over(self, packs: Iterable[tuple[Stored, bytes]]) -> None:
        """Notes packs that another process has handed over, which go into the next index object. Raises StoreError."""

    def requests_for(self, blobs: int, size: int) -> int:
        """Returns about how many objects are stored for so many new blobs of so many bytes in all."""

    def packs_with(self, names: Iterable[str]) -> dict[str, PackShare]:
        """Returns the packs, by path, that `lock` and `thaw` take for these blobs; blobs in no pack are ignored. Raises
        StoreError."""

    def pack_figures(self, is_needed: Callable[[str], bool]) -> PackFigures:
        """Counts packs, and the blobs in them that are needed. Raises StoreError."""


@runtime_checkable
class CanAdvise(Protocol):
    """A target that knows how later runs would take fewer requests."""

    def advice(self) -> str:
        """Returns a sentence for the summary of a run that is over; "" if there is nothing to say."""


@runtime_checkable
class HasCopies(Protocol):
    """A store, or a source of the engine, in which several objects may hold a blob. The engine looks for the method."""

    def copies(self, name: str) -> Iterator[Buffer]:
        """Yields the bytes of each copy of a blob that can be read, since the one that was returned is damaged. Raises
        StoreError."""


@runtime_checkable
class CanMirror(Protocol):
    """Several stores as one, which can choose among copies of a blob."""

    def good_blob(self, name: str) -> Buffer:
        """Returns the first copy that is intact, or the first of all if none is. Raises as `Store.get_blob` does."""


@runtime_checkable
class CanCopy(Protocol):
    """A store on a service that copies objects by itself."""

    def copy_blob(self, name: str, source: object) -> bool:
        """Copies a blob from another store without a download. Returns False if the service cannot. Raises
        StoreError."""

    def copy_object(self, path: str, size: int, source: object) -> bool:
        """Does the same for an object of so many bytes that is named by its path, as in both stores."""


@dataclass
class Repacked:
    """What a repacking did, or would do. Sizes are bytes."""

    packs: int = 0  # whose needed blobs were stored anew, all of them
    size: int = 0  # of these blobs
    old_size: int = 0  # of the packs that were chosen for that, which can be deleted then
    old_unneeded: int = 0  # unneeded blobs in those
    unused_size: float = 0  # of unneeded blobs that stay in packs with needed ones
    locked: int = 0  # packs with both that cannot be repacked: nobody can delete them yet
    cold: int = 0  # ... or read them; also packs without needed blobs of which nobody can read what is in them
    damaged: list[tuple[str, str]] = field(default_factory=list)  # blobs that were not stored anew, and their packs
    unreadable: list[PogfastError] = field(default_factory=list)  # one for each pack that cannot be read


@runtime_checkable
class CanRepack(Protocol):
    """A store in which unneeded blobs lie in one object with needed ones."""

    def repack(
        self,
        is_kept: Callable[[str], bool],
        listed: Collection[str],
        *,
        before: float,
        max_unused: Share,
        max_repack: Share | None,
        dry_run: bool,
    ) -> Repacked:
        """Stores the needed blobs of objects with much waste anew, durably, so that the objects can be deleted: enough
        of them that no more than `max_unused` is waste, as far as `max_repack` bytes suffice for that (None: 10 % of
        the store). Objects in `listed`, which are condemned already, and those written after `before` stay. Raises
        StoreError."""

    def tidy(self, before: float) -> int:
        """Deletes index objects, written before a time, that nobody needs, and returns how many. Raises StoreError."""

    def unneeded_in(self, holder: Stored, is_kept: Callable[[str], bool]) -> int:
        """Returns how many unneeded blobs are in an object, as far as that is known."""


State = Literal["good", "note", "bad"]
ThawState = Literal["readable", "asked", "coming", "missing"]
MAKE_ROOM = "make room and run it again: what is stored is kept"


def hint_of(error: BaseException) -> str:
    """Returns the hint for a failed write: what to do about a full disk or quota; "" for other errors."""
    return MAKE_ROOM if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT) else ""


def put_blob(target: Target, name: str, blob: memoryview) -> None:
    """Stores one blob as the target's sink does. Raises StoreError."""
    sink = target.blobs
    try:
        if isinstance(sink, BlobDirectory):
            sink.put(name, blob)
        else:
            sink(name, blob)  # of a Packer a directory may be beneath
    except OSError as error:
        raise StoreError(f"cannot write to {target.label}: {error.strerror or error}", hint_of(error)) from error


class Finding(NamedTuple):
    """One line of doctor's report: a `bad` one has to be repaired, a `note` is worth knowing."""

    what: str
    state: State
    said: str
    advice: str = ""

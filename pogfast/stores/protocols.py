"""The protocols of stores, and `Finding`, in which a store reports its state to doctor.

`Target` is written to, `Source` is read from, `Store` can also be listed. What only some stores can do has a protocol
of its own (`CanPrefetch`, `CanAbandon`, `CanDropCache`, `CanMirror`, `CanCopy`): callers ask isinstance. No code here.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, runtime_checkable

from pogfast._engine import BlobDirectory
from pogfast.stores.names import Stored

if TYPE_CHECKING:
    from pogfast._engine import Buffer, Sink
    from pogfast.stores.settings import Lock


class Target(Protocol):
    """A store that an archive is written to."""

    label: str

    @property
    def identity(self) -> str:
        """The same for the same store, whatever it was called by whom."""

    @property
    def requests(self) -> Mapping[str, int]:
        """How many were made so far to a service, by kind; none to what is none."""

    def size_of(self, name: str) -> int | None:
        """The bytes of a blob that is there; None when it is not, or the store cannot tell. Raises StoreError."""

    def own_places(self) -> Mapping[tuple[int, int], tuple[str, Callable[[str], bool]]]:
        """The store's directories by device and inode, with what each is and which names in it are the store's: not to
        be archived into it. None where it lies in no directory."""

    @property
    def blobs(self) -> Sink:
        """Where the engine puts blobs: whole or not at all, good ones that are there are kept. Raises StoreError."""

    def begin_durable(self) -> None:
        """Has what was put so far written to the disk, so that make_durable finds less to wait for. Called beside the
        run, by one thread; what goes wrong is told by make_durable."""

    def make_durable(self) -> None:
        """Returns when every blob that was put is on the disk, as far as the store can tell. Raises StoreError."""

    def put_manifest(self, name: str, data: bytes) -> None:
        """Stores a manifest, whole or not at all, durable when this returns. Raises StoreError."""

    def delete_manifests(self, names: Iterable[str]) -> None:
        """Those that are gone already are fine. Raises StoreError."""

    def manifests(self) -> list[Stored]:
        """The manifests, by name; none where a store cannot tell. Raises StoreError."""

    def marks(self) -> list[Stored]:
        """What else of ours lies beside the manifests, as it is now. Raises StoreError."""

    def signs(self) -> list[Stored]:
        """What prunes say to those who write: lists of condemned blobs, as of no later than what is said of deleting
        them. Raises StoreError."""

    def named(self, prefix: str) -> list[Stored]:
        """What lies beside the manifests and begins so. Raises StoreError."""

    def get_manifest(self, name: str) -> bytes:
        """A manifest, or a mark. Raises NoSuchArchive, or StoreError when it is there and cannot be read."""

    def put_mark(self, name: str, data: bytes) -> None:
        """Stores what is no archive, in place of what has the name, durable when this returns; a run that puts blobs
        may go on beside it. Raises StoreError."""

    def missing(self, names: Iterable[str]) -> list[str]:
        """Those of some blobs that are not there now, whatever is in doubt. Raises StoreError."""

    def doubt(self, names: Iterable[str]) -> None:
        """From now on these blobs, in place of those of an earlier call, count as absent until they are put: nobody
        may rely on them. Not while an engine puts blobs."""

    def close(self) -> None: ...


class Source(Protocol):
    """A store that an archive is read from."""

    label: str

    @property
    def source(self) -> BlobDirectory | Callable[[str], Buffer]:
        """Where the engine gets blobs from."""

    @property
    def parallel(self) -> int:
        """Blobs that are worth asking for at a time: more than there are cores where each has to be waited for."""

    def get_manifest(self, name: str) -> bytes:
        """A manifest, or a mark. Raises NoSuchArchive, or StoreError when it is there and cannot be read."""

    def delete_blobs(self, names: Iterable[str]) -> None:
        """Those that are gone already are fine. Raises StoreError."""

    def delete_manifests(self, names: Iterable[str]) -> None:
        """As delete_blobs."""

    def close(self) -> None: ...


class Store(Source, Target, Protocol):
    """A store that says what is in it. `path` is as it was given: manifests are named below it."""

    path: str

    def blob_names(self) -> Iterator[Stored]:
        """The blobs, in no order. Raises StoreError."""

    def size_of(self, name: str) -> int | None:
        """The bytes of a blob, None when it is not there. Raises StoreError."""

    def get_blob(self, name: str) -> Buffer:
        """What is stored under a blob's name, whole. Raises MissingBlob, and StoreError when it cannot be read."""

    def named(self, prefix: str) -> list[Stored]:
        """What lies beside the manifests and begins so. Raises StoreError."""

    def remove_manifest(self, name: str) -> None:
        """Gives a manifest its removed archive's name; its age begins anew. Raises NoSuchArchive and StoreError."""

    def delete_as_listed(self, marks: Iterable[Stored], go_on: Callable[[], bool]) -> None:
        """Deletes what lies beside the manifests, as delete_manifests does, unless it was written anew since it was
        listed, where that can be told. It ends early when `go_on`, which is asked right before anything is deleted,
        says so. Raises StoreError."""

    def forget_removed(self, removed: Stored) -> None:
        """Deletes the removed archive's name of one that was brought back, unless it was removed again meanwhile; where
        that cannot be told, a prune deletes it some time. Raises StoreError."""

    def begin_sweep(self) -> None:
        """To be called before delete_old_blobs: sees to what an earlier one has left undone. Raises StoreError."""

    def delete_old_blobs(self, blobs: Iterable[Stored], before: float, go_on: Callable[[], bool]) -> Iterator[Stored]:
        """Deletes blobs, as `blob_names` has found them, that were written before some time by the store's clock, and
        yields those that are gone; one that is written anew meanwhile stays. It ends early when `go_on`, which is asked
        right before anything is deleted, says so. Raises StoreError."""

    def examine(self) -> Iterator[Finding]:
        """What only a store of this kind can say of itself."""

    def locked(self, names: Iterable[str]) -> dict[str, float]:
        """Those of some blobs and manifests that nobody can delete before a time (seconds since 1970), and that time.
        Raises StoreError."""

    def lock(self, names: Iterable[str], lock: Lock) -> Iterator[tuple[str, bool | None]]:
        """Locks blobs and manifests for so long; of each whether it had to be, None when it is not there. Raises
        StoreError, and UsageError where nothing can be locked."""

    def thaw(self, names: Iterable[str], tier: str, days: int) -> Iterator[tuple[str, Warmth]]:
        """Asks for blobs in cold storage to be readable for some days, and says of each how far it is. Raises
        StoreError, and UsageError where nothing is cold."""


@runtime_checkable
class CanPrefetch(Protocol):
    """A source of blobs that downloads ahead."""

    def expect(self, names: Iterable[str]) -> None:
        """Starts to download these blobs, which will be asked for in this order, as far as memory allows. Replaces the
        names of an earlier call."""


@runtime_checkable
class CanAbandon(Protocol):
    """A source or sink of the engine that may wait for a network. The engine calls it when a run ends early."""

    def abandon(self) -> None:
        """Ends retries and queued transfers, so that no worker waits longer than for a request that was sent."""


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


State = Literal["good", "note", "bad"]
Warmth = Literal["readable", "asked", "coming", "missing"]
MAKE_ROOM = "make room and run it again: what is stored is kept"


def hint_of(error: BaseException) -> str:
    """What to do about a system's refusal to write; "" where nothing can be said."""
    return MAKE_ROOM if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT) else ""


class Finding(NamedTuple):
    """`bad` has to be mended, a `note` is to be known."""

    what: str
    state: State
    said: str
    advice: str = ""

"""Stores: bytes under names, and how stores and archives are written on command lines.

A store knows no key, no manifest's content and no compression. What it gives the engine, `blobs`, is a
`BlobDirectory`, which the engine reaches without the GIL, or a function of a blob's name. A byte comes here from the
engine (blobs) or from sealing.py (manifests), and goes back to the engine and to those who read. `open_targets`,
`check_targets` and `open_archive` read pog's words, `open_store` and `find_manifest` pogfast's.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, Protocol, overload

from pogfast._engine import BlobDirectory
from pogfast.errors import NoSuchArchive, StoreError, StoreLost, UsageError
from pogfast.stores import settings
from pogfast.stores.addresses import check_directory, is_service, parse_service
from pogfast.stores.local import MANIFEST, PARTIAL, REMOVED, LocalStore, Stored, is_flat, is_partial, is_removed

if TYPE_CHECKING:
    from pogfast._engine import Buffer, Sink
    from pogfast.stores.findings import Finding, Warmth
    from pogfast.stores.remote import RemoteStore, Service
    from pogfast.stores.settings import Lock

# Services, and where pog finds the name of a bucket that is not given.
CLOUDS = {"s3": "S3_BUCKET_NAME", "b2": "B2_BUCKET_NAME"}
# The store of commands that name none.
STORE_VARIABLE = "POGFAST_STORE"
# The newest archive of a store, as the last part of an archive's name.
LATEST = "latest"


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


def open_targets(text: str | None, lost: Callable[[StoreLost], None]) -> list[Target]:
    """The stores that `text` names, separated by commas; none named: the working directory, flat, as pog writes.

    One of several that cannot be used is left out, and `lost` hears of it. Raises UsageError for what cannot be meant
    or is not supported, StoreError for a store that cannot be used; both before anything is written.
    """
    check_targets(text)
    if not text:
        return [LocalStore.create(".", fan_out=False)]
    return _open_each(_words(text), _open_target, lost)


def check_targets(text: str | None) -> None:
    """What open_targets would say of the words alone. Touches nothing. Raises UsageError."""
    for word in _words(text) if text else []:
        if not word:
            raise UsageError("--save-to has an empty target between its commas")
        if not _pogs_cloud(word) and not shutil.which(word):
            check_directory(word)  # a program that there is not, or a directory that pog would write as local:DIR


def _words(text: str) -> list[str]:
    """pog's targets: blanks around a comma mean nothing."""
    return [word.strip() for word in text.split(",")]


def _open_target(word: str) -> Target:
    cloud = _pogs_cloud(word)
    if cloud:
        return _open_cloud(cloud, create=True)
    if word in ("local", "local:"):
        return LocalStore.create(".", fan_out=True)
    if word.startswith("local:"):
        return LocalStore.create(_local_path(word), fan_out=True)
    from pogfast.stores.program import ProgramStore  # here, because what it needs takes 6 ms to import

    return ProgramStore(word)


def open_archive(text: str) -> tuple[Source, str]:
    """The store that holds an archive, and its manifest's name there.

    `local:DIR/NAME.mfn` has its blobs in DIR/data, as a bucket has; the manifest of any other path, which may be a
    link, has them in the working directory, flat, as pog reads. Raises UsageError, StoreError and NoSuchArchive.
    """
    return open_stored(text) or (LocalStore.open(".", fan_out=False, follow=True), text)


def open_stored(text: str) -> tuple[Store, str] | None:
    """The store that holds a manifest or a blob in pog's words for services and `local:`, and its name there; None for
    the path of a file. Raises UsageError, StoreError and NoSuchArchive."""
    scheme, _, rest = text.partition(":")
    if rest and scheme in CLOUDS:
        place, _, name = rest.rpartition("/")
        return _open_cloud(_pogs_cloud(f"{scheme}:{place}") or ""), name
    if not text.startswith("local:"):
        return None
    directory, name = _find_local(text)
    return LocalStore.open(directory, fan_out=True), name


def _find_local(text: str) -> tuple[str, str]:
    """(directory, name) of what `local:` names. pog takes local:///X.mfn and local:/X.mfn for X.mfn in the working
    directory: that is what is meant when there is none in /. Raises UsageError and NoSuchArchive."""
    path = _local_path(text)
    paths = [path]
    if path.startswith("/"):
        paths.append(path.strip("/"))
        if path.startswith("//") and not path.startswith("///"):
            paths.append(path[2:].partition("/")[2].strip("/"))  # what pog takes for the name of a bucket
    places = []
    for each in paths:
        directory, _, name = each.rpartition("/")
        directory = directory or ("/" if each.startswith("/") else ".")
        stored = name if name.endswith(MANIFEST) else f"data/{name[:2]}/{name}"
        if name and os.path.lexists(os.path.join(directory, stored)):
            return directory, name
        places.append(directory)
    looked = ", ".join(dict.fromkeys("the working directory" if place == "." else place for place in places))
    what = "archive" if path.endswith(MANIFEST) else "blob"
    raise NoSuchArchive(f"no such {what}: {path.rpartition('/')[2] or text} (looked in {looked})")


def check_stores(text: str) -> None:
    """What open_stores would say of the words alone. Touches nothing. Raises UsageError."""
    for word in text.split(","):
        if not word:
            raise UsageError(f"{text}: there is an empty store between the commas")
        _check_address(word)


def open_stores(text: str, lost: Callable[[StoreLost], None], *, must_exist: bool = False) -> list[Target]:
    """The stores that `text` names, separated by commas, opened to write to. One of several that cannot be used is left
    out, and `lost` hears of it. With `must_exist` none is made: a disk that is not mounted is no store. Raises as
    open_store does; with `must_exist` NoSuchArchive for what is no store."""
    check_stores(text)
    words = text.split(",")
    said = settings.current()
    if not any(word.startswith("s3://") for word in words):
        for option, given in (("--storage-class", said.storage_class), ("--object-lock", said.object_lock)):
            if given:
                raise UsageError(f"{option} is for S3, and no store here is in S3")

    def open_one(word: str) -> Target:
        if must_exist:
            _look_for_store(word)
        return open_store(word, create=True)

    return _open_each(words, open_one, lost)


def _look_for_store(word: str) -> None:
    """Raises NoSuchArchive if there is no archive, no blob and no folder for blobs."""
    if os.path.isfile(word):
        return  # a program, which cannot be asked
    store = open_store(word)
    with contextlib.closing(store):
        if store.manifests() or store.marks() or next(iter(store.blob_names()), None) is not None:
            return
        if not isinstance(store, LocalStore) or not store.has_folder():
            raise NoSuchArchive(f"no store at {store.label}, and it must exist", hint="is the disk mounted?")


def _open_each(
    words: Sequence[str], open_one: Callable[[str], Target], lost: Callable[[StoreLost], None]
) -> list[Target]:
    opened: list[Target] = []
    failed: list[StoreError | NoSuchArchive] = []
    try:
        for word in words:
            try:
                opened.append(open_one(word))
            except (StoreError, NoSuchArchive) as error:
                failed.append(error)
        if not opened:
            raise failed[0]
        for failure in failed:
            lost(StoreLost(str(failure), failure.hint or "the next run brings it up to date"))
    except BaseException:
        for target in opened:
            target.close()
        raise
    return opened


@overload
def open_store(text: str, *, create: Literal[True]) -> Target: ...


@overload
def open_store(text: str, *, create: Literal[False] = False) -> Store: ...


def open_store(text: str, *, create: bool = False) -> Target | Store:
    """The store that `text` names in pogfast's grammar: DIRECTORY, local:/DIRECTORY, s3://BUCKET[/PREFIX][?WORD=VALUE],
    b2://BUCKET[/PREFIX], or a program to write to.

    A directory is a fan-out store, unless it holds manifests and no data/: then it is flat, as pog writes, also for
    what is added. With `create` it is opened to write to, and made if need be. Raises UsageError for what cannot be
    meant; to write StoreError, to read NoSuchArchive.
    """
    if not text:
        raise UsageError("a store without a name", hint="name a directory")
    _check_address(text)
    if is_service(text):
        return _open_cloud(text, create=create)
    path = _local_path(text) if text.startswith("local:") else text
    path = path.rstrip("/") or "/"
    if os.path.isfile(path):
        return _open_program(text, path, create)
    flat = is_flat(path)
    if not create:
        return LocalStore.open(path, fan_out=not flat)
    store = LocalStore.create(path, fan_out=not flat)
    if not flat:
        store.make_folder()
    return store


def _open_program(text: str, path: str, create: bool) -> Target:
    if not os.access(path, os.X_OK):
        raise (StoreError if create else NoSuchArchive)(f"{text} is a file, not a store")
    if not create:
        raise UsageError(f"{text} is a program: it can be written to, but not read")
    from pogfast.stores.program import ProgramStore  # here, because what it needs takes 6 ms to import

    return ProgramStore(path if "/" in path else f"./{path}")


def open_backup(word: str) -> Store:
    """The store that pog-cleanup's --backup means. Raises UsageError, StoreError and NoSuchArchive."""
    cloud = _pogs_cloud(word)
    return _open_cloud(cloud) if cloud else open_store("." if word == "local" else word)


def names_archive(text: str) -> bool:
    """Whether `text` is written as an archive: STORE/latest or a path to a .mfn, or to the .mfn.partial of a run that
    has not ended. With a / at its end it is a store."""
    return _is_archive(_split(text)[1])


def _is_archive(name: str) -> bool:
    return name.endswith(MANIFEST) or is_partial(name) or name == LATEST


def find_manifest(text: str) -> tuple[Store, str]:
    """The store that holds an archive, opened, and its manifest's name there, or `LATEST`: which one that is, is for
    who has the key to say. Pogfast's grammar: STORE/NAME.mfn, STORE/latest.

    Blobs are in STORE/data if there is such a directory or no manifest but in there, else flat in STORE. Raises
    UsageError and NoSuchArchive.
    """
    store, name = _split(text)
    if not names_archive(text) or name == MANIFEST:
        raise UsageError(
            f"{text} names no archive", hint=f"write STORE/{LATEST}, or STORE/NAME{MANIFEST} as `pogfast list` shows it"
        )
    if store == "":
        store = default_store() or "."
    return open_store(f"{store}." if store == "local:" else store), name


def default_store() -> str:
    """The store of POGFAST_STORE, for commands that name none; "" if it is not set. Raises UsageError for several."""
    given = os.environ.get(STORE_VARIABLE, "")
    if "," in given:
        raise UsageError(f"{STORE_VARIABLE} names several stores", hint="name the one to read from")
    return given


def _split(text: str) -> tuple[str, str]:
    """(store, last part) of what may be an archive's address. Settings of a service may stand before or behind it."""
    place, question, query = text.partition("?")
    if question and is_service(text) and "/" in place.partition("://")[2] and _is_archive(place.rpartition("/")[2]):
        store, _, name = place.rpartition("/")
        return f"{store}?{query}", name
    name = text.removeprefix("local:").rpartition("/")[2]
    return text[: len(text) - len(name)], name


def _local_path(text: str) -> str:
    path = text.removeprefix("local:")
    if not path:
        raise UsageError(f"{text} names no directory", hint="write local:/DIR, or local for the working directory")
    return path


def _check_address(text: str) -> None:
    """Raises UsageError for what can be no store."""
    if is_service(text):
        parse_service(text)
    else:
        check_directory(text)


def _pogs_cloud(word: str) -> str | None:
    """A service in pog's words, written as pogfast writes it: s3 and s3:BUCKET are s3://BUCKET. Raises UsageError."""
    scheme, colon, rest = word.partition(":")
    if scheme not in CLOUDS:
        return None
    place = rest.removeprefix("//") if colon else ""
    place = place if place.strip("/") else os.environ.get(CLOUDS[scheme], "")
    if not place.strip("/"):
        hint = f"write {scheme}://BUCKET, or set {CLOUDS[scheme]}"
        raise UsageError(f"{word} names no bucket", hint=hint)
    parse_service(f"{scheme}://{place}")
    return f"{scheme}://{place}"


def _open_cloud(text: str, *, create: bool = False) -> RemoteStore:
    """Raises UsageError, StoreError and NoSuchArchive. To be written to, one request shows whether the bucket can be
    reached and listed; to read an archive needs no right to list."""
    place = parse_service(text)
    from pogfast.stores.remote import RemoteStore

    said = replace(settings.current(), **place.settings)
    service: Service
    if place.scheme == "s3":
        from pogfast.stores.s3 import S3Service

        service = S3Service(
            place.bucket,
            place.prefix,
            endpoint=said.s3_endpoint,
            storage_class=said.storage_class,
            object_lock=said.object_lock,
            parallel=said.parallel,
            profile=said.profile,
            region=said.region,
        )
    else:
        from pogfast.stores.b2 import B2Service

        service = B2Service(
            place.bucket, place.prefix, realm=said.b2_realm, profile=said.profile, parallel=said.parallel
        )
    store = RemoteStore(service, text.rstrip("/"), parallel=said.parallel, retry_for=said.retry_for)
    if create:
        store.look()
    return store


__all__ = [
    "LATEST",
    "MANIFEST",
    "PARTIAL",
    "REMOVED",
    "STORE_VARIABLE",
    "LocalStore",
    "Source",
    "Store",
    "Stored",
    "Target",
    "check_stores",
    "check_targets",
    "default_store",
    "find_manifest",
    "is_partial",
    "is_removed",
    "names_archive",
    "open_archive",
    "open_backup",
    "open_store",
    "open_stored",
    "open_stores",
    "open_targets",
]

"""Stores: bytes under names. This module opens them by their addresses.

A store knows no key, no manifest's content and no compression. The engine writes blobs to its `blobs`: a
`BlobDirectory`, which it uses without the GIL, or a function that is called with a name and a blob. publish.py stores
manifests. pog/addresses.py opens the same stores by pog's addresses.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, overload

from pogfast._engine import map_large_buffers
from pogfast.errors import DamageError, MissingBlob, NoSuchArchive, StoreError, StoreLost, UsageError
from pogfast.stores import settings
from pogfast.stores.addresses import check_directory, is_service, parse_service
from pogfast.stores.local import LocalStore, is_flat
from pogfast.stores.names import (
    MANIFEST,
    MAX_SETTINGS,
    PACKS,
    PARTIAL,
    REMOVED,
    SETTINGS,
    Stored,
    is_partial,
    is_removed,
)
from pogfast.stores.protocols import HoldsPacks, Store, Target
from pogfast.stores.service import AccessDenied

if TYPE_CHECKING:
    from pogfast.stores.remote import RemoteStore
    from pogfast.stores.service import Service

# Names the store for commands that get none.
STORE_VARIABLE = "POGFAST_STORE"
# The newest archive of a store, as the last part of an archive's name.
LATEST = "latest"


def check_stores(text: str) -> None:
    """Checks addresses as open_stores does, without accessing anything. Raises UsageError."""
    for word in text.split(","):
        if not word:
            raise UsageError(f"{text}: the name of a store between the commas is empty")
        _check_address(word)


def open_stores(text: str, lost: Callable[[StoreLost], None], *, must_exist: bool = False) -> list[Target]:
    """Opens the stores in `text`, separated by commas, for writing. If one of several cannot be used, `lost` is called
    and it is left out. With `must_exist` no store is created, so that a disk that is not mounted is an error. Raises as
    open_store does, and with `must_exist` NoSuchArchive."""
    check_stores(text)
    words = text.split(",")
    said = settings.current()
    if not any(word.startswith("s3://") for word in words):
        for option, given in (("--storage-class", said.storage_class), ("--object-lock", said.object_lock)):
            if given:
                raise UsageError(f"{option} is for S3, and no store here is in S3")

    def open_one(word: str) -> Target:
        if must_exist and not os.path.isfile(word):  # a program: it cannot be asked
            with contextlib.closing(open_store(word)) as store:
                look_for_store(store)
        return open_store(word, create=True)

    return open_each(words, open_one, lost)


def look_for_store(store: Store) -> None:
    """Raises NoSuchArchive unless there is an archive, a blob, a pack, or a directory for blobs."""
    if store.manifests() or store.marks() or next(iter(store.blob_names()), None) is not None:
        return
    if not isinstance(store, HoldsPacks):
        return  # it says of itself that it has packs
    if next(store.objects(PACKS), None) is not None:
        return
    if not isinstance(store, LocalStore) or not store.has_folder():
        raise NoSuchArchive(f"no store at {store.label}, and it must exist", hint="is the disk mounted?")


def open_each(
    words: Sequence[str], open_one: Callable[[str], Target], lost: Callable[[StoreLost], None]
) -> list[Target]:
    opened: list[Target] = []
    failed: dict[str, StoreError | NoSuchArchive] = {}
    try:
        for word in words:
            try:
                opened.append(open_one(word))
            except (StoreError, NoSuchArchive) as error:
                failed[word] = error
        if not opened:
            raise next(iter(failed.values()))
        for word, failure in failed.items():
            lost(StoreLost(str(failure), failure.hint or "the next run completes it", path=word))
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
    """Opens the store that `text` names: DIRECTORY, local:/DIRECTORY, s3://BUCKET[/PREFIX][?WORD=VALUE],
    b2://BUCKET[/PREFIX], or a program, which can only be written to.

    A directory is a fan-out store (data/ab/NAME), unless it has manifests and no data/: then it is flat, as pog writes
    it, and stays so. With `create` the store is opened for writing, and made if need be. Raises UsageError for an
    invalid address; StoreError when writing, NoSuchArchive when reading.
    """
    if not text:
        raise UsageError("the name of the store is empty", hint="name a directory")
    if (size := settings.current().packs_of.get(text)) is not None:
        with settings.using(packs=size, packs_of={}):
            return open_store(text, create=True) if create else open_store(text)
    _check_address(text)
    if is_service(text):
        return with_packs(open_service(text, create=create), create=create)
    path = local_path(text) if text.startswith("local:") else text
    path = path.rstrip("/") or "/"
    if os.path.isfile(path):
        return _open_program(text, path, create)
    flat = is_flat(path)
    if not create:
        return with_packs(LocalStore.open(path, fan_out=not flat))
    store = LocalStore.create(path, fan_out=not flat)
    if not flat:
        store.make_folder()
    return with_packs(store, create=True)


def with_packs(store: LocalStore | RemoteStore, *, create: bool = False) -> Store:
    """Returns an opened store as one with packs, if it has any, also if it lost its `pogfast.store`; with `create` it
    gets them if the settings say so. Raises StoreError, and UsageError for a flat store, which has none."""
    size = settings.current().packs if create else None
    if size is not None:
        refuse_flat(store)
    if isinstance(store, LocalStore) and not store.fan_out:
        return store
    found = _settings_of(store)
    if size is None and found is None and not store.has_packs():
        return store
    from pogfast.stores.packs import opening  # imported here: most stores have no packs

    return opening.with_packs(store, found, size, create=create)


def refuse_flat(store: object) -> None:
    """Raises UsageError for a store that can have no packs."""
    if isinstance(store, LocalStore) and not store.fan_out:
        raise UsageError(f"{store.label} is a flat store, as pog writes it: it cannot have packs")


def _settings_of(store: LocalStore | RemoteStore) -> bytes | None:
    """Returns what a store says of its packs, None if it has none; "" for what is no such object. Raises
    StoreError."""
    try:
        return bytes(store.get_object(SETTINGS, MAX_SETTINGS))
    except MissingBlob:
        return None
    except DamageError:
        return b""
    except AccessDenied as error:
        # Without permission to list, S3 says this of a missing object. Without permission to read, a listing tells.
        with contextlib.suppress(AccessDenied):
            if store.named(SETTINGS):
                hint = "a store with packs needs permission to read pogfast.store and packs/index/"
                raise StoreError(f"{store.label} has packs: {error}", hint) from error
        return None


def _open_program(text: str, path: str, create: bool) -> Target:
    if not os.access(path, os.X_OK):
        raise (StoreError if create else NoSuchArchive)(f"{text} is a file, not a store")
    if not create:
        raise UsageError(f"{text} is a program: it can be written to, but not read")
    from pogfast.stores.program import ProgramStore  # imported here: its imports take 6 ms

    return ProgramStore(path if "/" in path else f"./{path}")


def names_archive(text: str) -> bool:
    """Returns True if `text` is the address of an archive: STORE/latest, or a path to a .mfn, or to the .mfn.partial
    of an unfinished run. With a trailing / it is a store."""
    return _is_archive(_split(text)[1])


def _is_archive(name: str) -> bool:
    return name.endswith(MANIFEST) or is_partial(name) or name == LATEST


def find_manifest(text: str) -> tuple[Store, str]:
    """Opens the store of an archive, STORE/NAME.mfn or STORE/latest. Returns it with the manifest's name there, or with
    `LATEST`: only a caller with the key can tell which archive that is.

    Blobs are in STORE/data, or flat in STORE; see open_store. Raises UsageError and NoSuchArchive.
    """
    store, name = _split(text)
    if not names_archive(text) or name == MANIFEST:
        raise UsageError(
            f"{text} is not the address of an archive",
            hint=f"write STORE/{LATEST}, or STORE/NAME{MANIFEST} as `pogfast list` shows it",
        )
    if store == "":
        store = default_store() or "."
    return open_store(f"{store}." if store == "local:" else store), name


def default_store() -> str:
    """Returns the store in POGFAST_STORE, "" if it is not set. Raises UsageError if it names several."""
    given = os.environ.get(STORE_VARIABLE, "")
    if "," in given:
        raise UsageError(f"{STORE_VARIABLE} names several stores", hint="name the one to read from")
    return given


def _split(text: str) -> tuple[str, str]:
    """Splits an archive's address into store and last part. A service's settings may precede or follow that part."""
    place, question, query = text.partition("?")
    if question and is_service(text) and "/" in place.partition("://")[2] and _is_archive(place.rpartition("/")[2]):
        store, _, name = place.rpartition("/")
        return f"{store}?{query}", name
    name = text.removeprefix("local:").rpartition("/")[2]
    return text[: len(text) - len(name)], name


def local_path(text: str) -> str:
    path = text.removeprefix("local:")
    if not path:
        raise UsageError(f"{text} names no directory", hint="write local:/DIR, or local for the working directory")
    return path


def _check_address(text: str) -> None:
    """Raises UsageError for an invalid address."""
    if is_service(text):
        parse_service(text)
    else:
        check_directory(text)


def open_service(text: str, *, create: bool = False) -> RemoteStore:
    """Opens a store on a service. With `create` one request checks that the bucket can be reached and listed; reading
    an archive needs no permission to list. Raises UsageError, StoreError and NoSuchArchive."""
    place = parse_service(text)
    from pogfast.stores.concurrency import Concurrency
    from pogfast.stores.limits import Limits
    from pogfast.stores.remote import RemoteStore

    said = replace(settings.current(), **place.settings)
    concurrency = Concurrency(said.parallel)
    limits = Limits(said.limit_upload, said.limit_download)
    service: Service
    if place.scheme == "s3":
        from pogfast.stores.s3 import S3Service

        service = S3Service(
            place.bucket,
            place.prefix,
            endpoint=said.s3_endpoint,
            storage_class=said.storage_class,
            object_lock=said.object_lock,
            concurrency=concurrency,
            limits=limits,
            profile=said.profile,
            region=said.region,
        )
    else:
        from pogfast.stores.b2 import B2Service

        service = B2Service(
            place.bucket,
            place.prefix,
            realm=said.b2_realm,
            profile=said.profile,
            concurrency=concurrency,
            limits=limits,
        )
    store = RemoteStore(
        service, text.rstrip("/"), concurrency=concurrency, retry_for=said.retry_for, interrupt=limits.interrupt
    )
    if create:
        store.check_listing()
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
    "default_store",
    "find_manifest",
    "is_partial",
    "is_removed",
    "local_path",
    "look_for_store",
    "map_large_buffers",
    "names_archive",
    "open_each",
    "open_service",
    "open_store",
    "open_stores",
    "refuse_flat",
]

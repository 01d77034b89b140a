"""Addresses of stores and archives in pog's syntax: --save-to, `local:DIR/NAME.mfn`, `s3:BUCKET`, buckets by variables.

The stores are the same as pogfast's; only the addresses differ.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable

from pogfast.errors import NoSuchArchive, StoreLost, UsageError
from pogfast.stores import local_path, open_each, open_service, open_store, with_packs
from pogfast.stores.addresses import check_directory, parse_service
from pogfast.stores.local import LocalStore
from pogfast.stores.names import MANIFEST
from pogfast.stores.protocols import Source, Store, Target

# Service -> the variable with pog's default bucket.
CLOUDS = {"s3": "S3_BUCKET_NAME", "b2": "B2_BUCKET_NAME"}


def open_targets(text: str | None, lost: Callable[[StoreLost], None]) -> list[Target]:
    """Opens the comma-separated stores of --save-to; by default the working directory, without subdirectories, as pog.

    If one of several cannot be used, `lost` is called and it is left out. Raises UsageError for a wrong or unsupported
    address, StoreError for a store that cannot be used; both before anything is written.
    """
    check_targets(text)
    if not text:
        return [LocalStore.create(".", fan_out=False)]
    return open_each(_words(text), _open_target, lost)


def check_targets(text: str | None) -> None:
    """Raises UsageError for wrong addresses, as open_targets does, without touching any store."""
    for word in _words(text) if text else []:
        if not word:
            raise UsageError("--save-to: empty target between commas")
        if not service_of(word) and not shutil.which(word):
            check_directory(word)  # neither a service nor a program: a directory, which pog would write as local:DIR


def _words(text: str) -> list[str]:
    """Splits at commas; spaces around them are ignored."""
    return [word.strip() for word in text.split(",")]


def _open_target(word: str) -> Target:
    cloud = service_of(word)
    if cloud:
        return open_service(cloud, create=True)
    if word in ("local", "local:"):
        return LocalStore.create(".", fan_out=True)
    if word.startswith("local:"):
        return LocalStore.create(local_path(word), fan_out=True)
    from pogfast.stores.program import ProgramStore  # not at the top, since its imports take 6 ms

    return ProgramStore(word)


def open_archive(text: str) -> tuple[Source, str]:
    """Returns the store of an archive, and the name of its manifest there.

    The blobs of `local:DIR/NAME.mfn` are in DIR/data, as in a bucket; those of a manifest at any other path, which may
    be a link, are in the working directory itself, as for pog. Raises UsageError, StoreError and NoSuchArchive.
    """
    return open_stored(text) or (LocalStore.open(".", fan_out=False, follow=True), text)


def open_stored(text: str) -> tuple[Store, str] | None:
    """Returns the store of a manifest or blob that is addressed by a service or `local:`, and its name there; None for
    the path of a file. Raises UsageError, StoreError and NoSuchArchive."""
    scheme, _, rest = text.partition(":")
    if rest and scheme in CLOUDS:
        bucket, _, name = rest.rpartition("/")
        return with_packs(open_service(service_of(f"{scheme}:{bucket}") or "")), name
    if not text.startswith("local:"):
        return None
    directory, name = _find_local(text)
    return with_packs(LocalStore.open(directory, fan_out=True)), name


def _find_local(text: str) -> tuple[str, str]:
    """Returns (directory, name) of a `local:` address. Raises UsageError and NoSuchArchive.

    pog reads local:///X.mfn and local:/X.mfn as X.mfn in the working directory; so does this if there is none in /.
    """
    path = local_path(text)
    paths = [path]
    if path.startswith("/"):
        paths.append(path.strip("/"))
        if path.startswith("//") and not path.startswith("///"):
            paths.append(path[2:].partition("/")[2].strip("/"))  # without what pog takes for the name of a bucket
    searched = []
    for each in paths:
        directory, _, name = each.rpartition("/")
        directory = directory or ("/" if each.startswith("/") else ".")
        stored = name if name.endswith(MANIFEST) else f"data/{name[:2]}/{name}"
        if name and os.path.lexists(os.path.join(directory, stored)):
            return directory, name
        searched.append(directory)
    looked = ", ".join(dict.fromkeys("the working directory" if each == "." else each for each in searched))
    what = "archive" if path.endswith(MANIFEST) else "blob"
    raise NoSuchArchive(f"no such {what}: {path.rpartition('/')[2] or text} (looked in {looked})")


def open_backup(word: str) -> Store:
    """Opens the store of pog-cleanup's --backup. Raises UsageError, StoreError and NoSuchArchive."""
    cloud = service_of(word)
    return with_packs(open_service(cloud)) if cloud else open_store("." if word == "local" else word)


def service_of(word: str) -> str | None:
    """Returns pogfast's address for pog's address of a service, such as s3://BUCKET for s3 and s3:BUCKET; None for any
    other address. Raises UsageError."""
    scheme, colon, rest = word.partition(":")
    if scheme not in CLOUDS:
        return None
    bucket = rest.removeprefix("//") if colon else ""
    bucket = bucket if bucket.strip("/") else os.environ.get(CLOUDS[scheme], "")
    if not bucket.strip("/"):
        hint = f"write {scheme}://BUCKET, or set {CLOUDS[scheme]}"
        raise UsageError(f"{word} names no bucket", hint=hint)
    parse_service(f"{scheme}://{bucket}")
    return f"{scheme}://{bucket}"

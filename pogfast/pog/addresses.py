"""Stores and archives as pog writes them: --save-to, `local:DIR/NAME.mfn`, `s3:BUCKET`, and buckets by variables.

What is opened are the same stores as pogfast's; only the words differ.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable

from pogfast.errors import NoSuchArchive, StoreLost, UsageError
from pogfast.stores import local_path, open_each, open_service, open_store
from pogfast.stores.addresses import check_directory, parse_service
from pogfast.stores.local import LocalStore
from pogfast.stores.names import MANIFEST
from pogfast.stores.protocols import Source, Store, Target

# Services, and where pog finds the name of a bucket that is not given.
CLOUDS = {"s3": "S3_BUCKET_NAME", "b2": "B2_BUCKET_NAME"}


def open_targets(text: str | None, lost: Callable[[StoreLost], None]) -> list[Target]:
    """The stores that `text` names, separated by commas; none named: the working directory, flat, as pog writes.

    One of several that cannot be used is left out, and `lost` hears of it. Raises UsageError for what cannot be meant
    or is not supported, StoreError for a store that cannot be used; both before anything is written.
    """
    check_targets(text)
    if not text:
        return [LocalStore.create(".", fan_out=False)]
    return open_each(_words(text), _open_target, lost)


def check_targets(text: str | None) -> None:
    """What open_targets would say of the words alone. Touches nothing. Raises UsageError."""
    for word in _words(text) if text else []:
        if not word:
            raise UsageError("--save-to: empty target between commas")
        if not service_of(word) and not shutil.which(word):
            check_directory(word)  # a program that there is not, or a directory that pog would write as local:DIR


def _words(text: str) -> list[str]:
    """pog's targets: blanks around a comma mean nothing."""
    return [word.strip() for word in text.split(",")]


def _open_target(word: str) -> Target:
    cloud = service_of(word)
    if cloud:
        return open_service(cloud, create=True)
    if word in ("local", "local:"):
        return LocalStore.create(".", fan_out=True)
    if word.startswith("local:"):
        return LocalStore.create(local_path(word), fan_out=True)
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
        return open_service(service_of(f"{scheme}:{place}") or ""), name
    if not text.startswith("local:"):
        return None
    directory, name = _find_local(text)
    return LocalStore.open(directory, fan_out=True), name


def _find_local(text: str) -> tuple[str, str]:
    """(directory, name) of what `local:` names. pog takes local:///X.mfn and local:/X.mfn for X.mfn in the working
    directory: that is what is meant when there is none in /. Raises UsageError and NoSuchArchive."""
    path = local_path(text)
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


def open_backup(word: str) -> Store:
    """The store that pog-cleanup's --backup means. Raises UsageError, StoreError and NoSuchArchive."""
    cloud = service_of(word)
    return open_service(cloud) if cloud else open_store("." if word == "local" else word)


def service_of(word: str) -> str | None:
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

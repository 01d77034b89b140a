"""Stores: bytes under names, and how a target is written on a command line.

A store knows no key, no manifest's content and no compression. What it gives the engine, `blobs`, is a
`BlobDirectory`, which the engine reaches without the GIL, or a function of a blob's name. A byte comes here from the
engine (blobs) or from create.py (manifests), and goes back to the engine and to restore.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from pogfast._engine import BlobDirectory
from pogfast.errors import UsageError
from pogfast.stores.local import LocalStore

CLOUDS = {"s3": "S3", "b2": "Backblaze B2"}


class Target(Protocol):
    """A store that an archive is written to."""

    label: str

    @property
    def blobs(self) -> BlobDirectory | Callable[[str, memoryview], None]:
        """Where the engine puts blobs: whole or not at all, good ones that are there are kept. Raises StoreError."""

    def make_durable(self) -> None:
        """Returns when every blob that was put is on the disk, as far as the store can tell. Raises StoreError."""

    def put_manifest(self, name: str, data: bytes) -> None:
        """Stores a manifest, whole or not at all, durable when this returns. Raises StoreError."""

    def close(self) -> None: ...


class Source(Protocol):
    """A store that an archive is read from."""

    label: str

    @property
    def blobs(self) -> BlobDirectory: ...

    def get_manifest(self, name: str) -> bytes:
        """Raises NoSuchArchive, or StoreError when it is there and cannot be read."""

    def delete(self, blobs: Iterable[str], manifest: str | None = None) -> None:
        """Deletes blobs, then a manifest; those that are gone already are fine. Raises StoreError."""

    def close(self) -> None: ...


def open_targets(text: str | None) -> list[Target]:
    """The stores that `text` names, separated by commas; none named: the working directory, flat, as pog writes.

    Raises UsageError for what cannot be meant or is not supported, StoreError for a store that cannot be used; both
    before anything is written.
    """
    check_targets(text)
    if not text:
        return [LocalStore.create(".", fan_out=False)]
    return [_open_target(word) for word in text.split(",")]


def check_targets(text: str | None) -> None:
    """What open_targets would say of the words alone. Touches nothing. Raises UsageError."""
    for word in text.split(",") if text else []:
        if not word:
            raise UsageError("--save-to has an empty target between its commas")
        _refuse_clouds(word)


def _open_target(word: str) -> Target:
    if word == "local":
        return LocalStore.create(".", fan_out=True)
    if word.startswith("local:"):
        return LocalStore.create(_local_path(word), fan_out=True)
    from pogfast.stores.program import ProgramStore  # here, because what it needs takes 6 ms to import

    return ProgramStore(word)


def open_archive(text: str) -> tuple[Source, str]:
    """The store that holds an archive, and its manifest's name there.

    `local:DIR/NAME.mfn` has its blobs in DIR/data; the manifest of any other path has them in the working directory,
    flat, as pog reads. Raises UsageError and NoSuchArchive.
    """
    _refuse_clouds(text)
    if text.startswith("local:"):
        directory, _, name = _local_path(text).rpartition("/")
        return LocalStore.open(directory or ("/" if text.startswith("local:/") else "."), fan_out=True), name
    return LocalStore.open(".", fan_out=False), text


def _local_path(text: str) -> str:
    path = text.removeprefix("local:")
    if not path:
        raise UsageError(f"{text} names no directory", hint="write local:/DIR, or local for the working directory")
    return path


def _refuse_clouds(text: str) -> None:
    scheme = text.partition(":")[0]
    if scheme in CLOUDS:
        raise UsageError(
            f"{text}: this release does not reach {CLOUDS[scheme]} yet",
            hint="use local:/DIR, or a program that uploads what it is given",
        )


__all__ = ["Source", "Target", "check_targets", "open_archive", "open_targets"]

"""Reads blobs and manifests: what seems damaged is fetched once more, since the damage may have happened in transit.

Knows no key and no kind of store: the caller passes a function that verifies the bytes. The engine does the same for
what it reads through Opener.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Protocol, TypeVar

from pogfast.errors import DamageError, MissingBlob, WrongKey
from pogfast.stores.protocols import CanDropCache, CanPrefetch, HasCopies

if TYPE_CHECKING:
    from pogfast._engine import BlobDirectory, Buffer

Result = TypeVar("Result")


class Holds(Protocol):
    """A store that blobs are read from."""

    def get_blob(self, name: str) -> Buffer: ...


class HoldsManifests(Protocol):
    """A store that manifests are read from."""

    def get_manifest(self, name: str) -> bytes: ...


def prefetch(source: BlobDirectory | Callable[[str], Buffer], names: Iterable[str]) -> None:
    """Tells a source which blobs it will be asked for, in this order, if it can download ahead."""
    if isinstance(source, CanPrefetch):
        source.prefetch(names)


def fetched(store: Holds, name: str, look: Callable[[Buffer], Result]) -> Result:
    """Returns what `look` returns for a blob. If `look` raises DamageError or WrongKey, the blob is fetched a second
    time, from disk rather than from the page cache, which may be what is damaged; then other copies are tried, if the
    store has any. Raises what `get_blob` and `look` raise."""
    try:
        return look(store.get_blob(name))
    except MissingBlob:
        raise
    except (DamageError, WrongKey):
        if isinstance(store, CanDropCache):
            store.forget(name)
    try:
        return look(store.get_blob(name))
    except (DamageError, WrongKey):
        for other in store.copies(name) if isinstance(store, HasCopies) else ():
            with contextlib.suppress(DamageError, WrongKey):
                return look(other)
        raise


def fetched_manifest(store: HoldsManifests, name: str, look: Callable[[bytes], Result]) -> Result:
    """Does the same for a manifest: because of one flipped bit in it an older archive would become the latest."""
    try:
        return look(store.get_manifest(name))
    except (DamageError, WrongKey):
        return look(store.get_manifest(name))

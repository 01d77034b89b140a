"""A blob or manifest from wherever it lies: what seems damaged is fetched once more, since that may be on the way only.

Knows no key and no kind of store: what is good is for a function to say that the caller brings. The engine does the
same for what goes through Opener.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Protocol, TypeVar

from pogfast.errors import DamageError, MissingBlob, WrongKey
from pogfast.stores.protocols import CanDropCache, CanPrefetch

if TYPE_CHECKING:
    from pogfast._engine import BlobDirectory, Buffer

Result = TypeVar("Result")


class Holds(Protocol):
    """A store, as far as a blob is read from it."""

    def get_blob(self, name: str) -> Buffer: ...


class HoldsManifests(Protocol):
    """A store, as far as a manifest is read from it."""

    def get_manifest(self, name: str) -> bytes: ...


def expect(source: BlobDirectory | Callable[[str], Buffer], names: Iterable[str]) -> None:
    """Tells a source which blobs it will be asked for, in this order, if it can download ahead."""
    if isinstance(source, CanPrefetch):
        source.expect(names)


def fetched(store: Holds, name: str, look: Callable[[Buffer], Result]) -> Result:
    """Returns what `look` makes of the blob `name` of a store. If `look` finds it damaged, by DamageError or WrongKey,
    the blob is fetched a second time, from the disk rather than from the memory that it may be damaged in. Raises what
    `get_blob` and `look` raise."""
    try:
        return look(store.get_blob(name))
    except MissingBlob:
        raise
    except (DamageError, WrongKey):
        if isinstance(store, CanDropCache):
            store.forget(name)
    return look(store.get_blob(name))


def fetched_manifest(store: HoldsManifests, name: str, look: Callable[[bytes], Result]) -> Result:
    """The same for a manifest: a flipped bit in it would make an older archive the latest."""
    try:
        return look(store.get_manifest(name))
    except (DamageError, WrongKey):
        return look(store.get_manifest(name))

"""The manifests of a store: which there are, which blobs they need, and what is said of those that cannot be read.

Manifests of another key are told of by name, once for all of them.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pogfast.archives.catalog import Catalog
from pogfast.errors import NoArchives, NoSuchArchive, PogfastError
from pogfast.keys import Key
from pogfast.stores import MANIFEST, Stored, is_partial, is_removed
from pogfast.stores.protocols import Store

if TYPE_CHECKING:
    from pogfast.stores.mirrors import Mirrors


def _refuse(name: str, error: PogfastError) -> None:
    raise error


def needed_blobs(
    store: Store,
    key: Key,
    manifests: Sequence[Stored],
    unreadable: Callable[[str, PogfastError], None] = _refuse,
) -> Iterator[tuple[str, list[str]]]:
    """Yields (manifest's name, distinct names of the blobs that it needs) of archives, in their order; manifests are
    fetched in parallel, and those that were opened before are not fetched. `unreadable` hears of one that cannot be
    opened, and raises that unless it may be passed over."""
    with Catalog(store, key) as catalog:
        for seen in catalog.look(manifests, blobs=True):
            if seen.problem is not None:
                unreadable(seen.name, seen.problem)
            else:
                yield seen.name, seen.blobs or []


def manifests_of(store: Store | Mirrors) -> list[Stored]:
    """The manifests of a store, by name; none where all archives were removed and can be brought back.

    Raises NoSuchArchive if there is no store: neither an archive nor a blob. Raises NoArchives for blobs of which no
    archive is left; and StoreError.
    """
    manifests = store.manifests()
    if manifests or any(is_removed(mark.name) or is_partial(mark.name) for mark in store.marks()):
        return manifests
    if next(iter(store.blob_names()), None) is None:
        hint = "is the path right, and the disk mounted?" if os.path.isdir(store.path) else "is the name right?"
        raise NoSuchArchive(f"no store at {store.label}: there is neither an archive nor a blob", hint)
    raise NoArchives(
        f"{store.label} has blobs and no archive: its manifests are gone, or its first backup goes on or was killed",
        hint=f"nothing but the manifests (*{MANIFEST}) says what the blobs are: a copy of the store may have them",
    )


def locked_until(until: float) -> str:
    """`locked until ...` of a time in seconds since 1970."""
    return "locked" if until == math.inf else f"locked until {datetime.fromtimestamp(until, UTC):%Y-%m-%d %H:%M} UTC"

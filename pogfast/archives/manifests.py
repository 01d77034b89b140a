"""The manifests of a store: which there are, and which blobs they need.

The catalog opens them; what is done with archives that do not open is for the caller, and for refusals.py.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pogfast.archives.catalog import Catalog
from pogfast.errors import NoArchives, NoSuchArchive, PogfastError
from pogfast.stores import MANIFEST, Stored, is_partial, is_removed
from pogfast.stores.protocols import Store

if TYPE_CHECKING:
    from pogfast.stores.mirrors import Mirrors


def _raise(name: str, error: PogfastError) -> None:
    raise error


def needed_blobs(
    catalog: Catalog, manifests: Sequence[Stored], unreadable: Callable[[str, PogfastError], None] = _raise
) -> Iterator[tuple[str, list[str]]]:
    """Yields (manifest's name, distinct names of the blobs that it needs) for each manifest, in order.

    Manifests are fetched in parallel, and those in the catalog are not fetched again. `unreadable` is called with each
    manifest that cannot be opened, and why; it raises the error unless the manifest may be skipped.
    """
    for archive in catalog.read(manifests, blobs=True):
        if archive.problem is not None:
            unreadable(archive.name, archive.problem)
        else:
            yield archive.name, archive.blobs or []


def manifests_of(store: Store | Mirrors) -> list[Stored]:
    """Returns the manifests of a store, by name; none if all archives were removed and undelete can restore some.

    Raises NoSuchArchive if there is no store: neither an archive nor a blob. Raises NoArchives if there are blobs, but
    no archive, and StoreError.
    """
    manifests = store.manifests()
    if manifests or any(is_removed(mark.name) or is_partial(mark.name) for mark in store.marks()):
        return manifests
    if next(iter(store.blob_names()), None) is None:
        hint = "is the path right, and the disk mounted?" if os.path.isdir(store.path) else "is the name right?"
        raise NoSuchArchive(f"no store at {store.label}: there is neither an archive nor a blob", hint)
    raise NoArchives(
        f"{store.label} has blobs and no archive: its manifests are lost, or its first backup is running or was killed",
        hint=f"nothing but the manifests (*{MANIFEST}) says what the blobs are: a copy of the store may have them",
    )


def locked_until(until: float) -> str:
    """Returns `locked until ...` for a time in seconds since 1970, infinite for a legal hold."""
    return "locked" if until == math.inf else f"locked until {datetime.fromtimestamp(until, UTC):%Y-%m-%d %H:%M} UTC"

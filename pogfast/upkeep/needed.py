"""Which blobs of a store are needed, by all its manifests: prune reads this before it condemns or deletes any.

Blobs are needed by archives, by running backups (their partial manifests), and by removed archives, which undelete can
restore. A manifest that cannot be read stops the prune: nobody knows what its archive needs.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from pogfast.archives.catalog import Catalog
from pogfast.archives.manifests import needed_blobs
from pogfast.archives.refusals import hint_for_prune
from pogfast.errors import DamageError, NoSuchArchive, PogfastError, WrongKey
from pogfast.stores import Stored, is_partial, is_removed
from pogfast.stores.names import CONDEMNED, is_manifest, is_mark
from pogfast.stores.protocols import Store
from pogfast.system.clock import Stopwatch

# Seconds for which a reading of the manifests is good enough to delete blobs by. FORMAT.md says why.
MAX_AGE = 300.0
# A manifest that is listed and absent has been renamed: how often they are all read again, and the pause in seconds.
ATTEMPTS, PAUSE = 11, 0.2


@dataclass
class Needed:
    """The manifests and marks of a store, and the blobs that they need, as read after `watch` was started.

    The sets do not say which archive needs a blob: hundreds of archives need mostly the same millions of blobs.
    """

    watch: Stopwatch
    marks: dict[str, Stored]  # manifests and marks, by name
    archives: set[str] = field(default_factory=set)  # blobs of archives that stay
    runs: set[str] = field(default_factory=set)  # blobs of running backups
    removed: set[str] = field(default_factory=set)  # blobs of removed archives that undelete can restore

    def is_fresh(self) -> bool:
        """Returns True while this is recent enough to delete blobs by."""
        return self.watch.seconds() < MAX_AGE

    def is_live(self, blob: str) -> bool:
        """Returns True if an archive or a running backup needs a blob."""
        return blob in self.archives or blob in self.runs

    def is_kept(self, blob: str) -> bool:
        """Returns True if an archive, a running backup or a removed archive needs a blob."""
        return self.is_live(blob) or blob in self.removed

    def lists(self) -> list[Stored]:
        """Returns the lists of condemned blobs, the oldest first."""
        return sorted((mark for name, mark in self.marks.items() if name.startswith(CONDEMNED)), key=written)


class ManifestReader:
    """Reads all manifests of a store, as often as it takes. `counts` returns True for a manifest whose blobs
    must be kept.

    `allow_missing` passes over removed archives that cannot be read, and `warn` gets a sentence about each, once.
    """

    def __init__(
        self,
        store: Store,
        catalog: Catalog,
        counts: Callable[[Stored], bool],
        *,
        allow_missing: bool,
        warn: Callable[[str], None],
    ) -> None:
        self.store = store
        self.catalog = catalog
        self.counts = counts
        self.allow_missing = allow_missing
        self.warn = warn
        self._passed_over: set[str] = set()
        self._listed: set[str] | None = None  # the names of manifests in the last listing

    def marks(self) -> dict[str, Stored]:
        """Lists the manifests and marks, by name. In a flat store blobs and other files lie beside them."""
        listed = self.store.named("")
        marks = {each.name: each for each in listed if is_manifest(each.name) or is_mark(each.name)}
        self._listed = set(filter(_stands_for_archive, marks))
        return marks

    def read(self, going: Collection[str] = (), over: Collection[str] = ()) -> Needed:
        """Returns what is needed. Archives whose manifests are in `going` count as removed, those in `over` not at all.

        Raises NoSuchArchive for a manifest that is listed and always absent, StoreError, and what opening raises.
        """
        for _ in range(ATTEMPTS):
            with contextlib.suppress(NoSuchArchive):  # renamed since it was listed
                return self._read_once(frozenset(going), over)
            time.sleep(PAUSE)
        return self._read_once(frozenset(going), over)

    def _read_once(self, going: Collection[str], over: Collection[str]) -> Needed:
        """Reads after two equal listings: an archive that is removed or restored meanwhile changes its name, and one
        listing may show it under neither. The first of the two may be of an earlier reading."""
        watch = Stopwatch()
        marks: dict[str, Stored] = {}
        while True:
            before = self._listed
            marks.update(self.marks())
            if self._listed == before:
                break
        stand = [mark for name, mark in sorted(marks.items()) if _stands_for_archive(name) and name not in over]
        counted = [mark for mark in stand if self.counts(mark)]
        needed = Needed(watch, marks)
        for name, blobs in needed_blobs(self.catalog, counted, self._unreadable):
            if is_partial(name):
                needed.runs.update(blobs)
            elif is_removed(name) or name in going:
                needed.removed.update(blobs)
            else:
                needed.archives.update(blobs)
        return needed

    def _unreadable(self, name: str, error: PogfastError) -> None:
        """Raises the error, unless it is of a removed archive that may be skipped."""
        if not isinstance(error, DamageError | WrongKey):
            raise error
        if not (is_removed(name) and self.allow_missing):
            if is_removed(name) or is_partial(name) or not error.hint:
                error.hint = hint_for_prune(name, error)
            raise error
        if name not in self._passed_over:
            self._passed_over.add(name)
            self.warn(f"{error}: this removed archive is skipped, and deleted with the blobs that only it needs")


def written(mark: Stored) -> float:
    """Returns the time at which a mark was written, for sorting."""
    return mark.modified


def _stands_for_archive(name: str) -> bool:
    return is_manifest(name) or is_removed(name) or is_partial(name)

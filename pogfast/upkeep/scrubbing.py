"""`pogfast check` without a key: packs are checked against their names, tables and index objects.

A run that reads a part of them begins with those that have not been read for the longest time (reads.py).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from pogfast.errors import CorruptPack, StoreError
from pogfast.sizes import many
from pogfast.stores import open_store
from pogfast.stores.names import SETTINGS
from pogfast.stores.protocols import CanScrub, Found, InColdStorage, Scrub
from pogfast.upkeep.reads import Part, Reads, choose

if TYPE_CHECKING:
    from pogfast.stores.names import Stored

NO_KEY = "without a key only stores with packs can be checked"
MENDS = "`pogfast check --repair` mends it if an index object and its blobs tell what the table was"
UNMENDED = (
    "it cannot be mended: `pogfast create --force` stores again what is still on disk; `prune` then deletes the pack, "
    "if nothing that archives need is only in it"
)
UNINDEXED = (
    "it cannot be mended, and no index object says what is in it: if `pogfast check` with a key finds that no archive "
    "lacks a blob, delete the pack; else run `pogfast create --force` first"
)
REPAIRS = "`pogfast check --repair` makes it again, and needs no key"


def is_packed(text: str) -> bool:
    """Returns True if a store has packs. Raises as open_store does."""
    with contextlib.closing(open_store(text)) as store:
        return isinstance(store, CanScrub)


class Scrubbing:
    """The check of one store's packs. `tell` gets damage, `warn` what is none."""

    def __init__(self, store: CanScrub, tell: Callable[[Found], None], warn: Callable[[str], None]) -> None:
        self.store = store
        self.tell = tell
        self.warn = warn
        self.scrub: Scrub = store.scrub()
        self.wrong: set[str] = set()  # packs that cannot be read whole

    def look(self) -> None:
        """Checks what shows without reading any pack. Raises StoreError."""
        self._check(self.scrub.listed(), repair=False)

    def compare(self, *, repair: bool) -> None:
        """Checks the structure, and mends it. Raises StoreError."""
        self._check(self.scrub.compare(), repair=repair)
        mended = self._mend() if repair else 0
        if mended:
            self.warn(f"{self.store.label}: {many(mended, 'pack')} in a new index object")

    def _mend(self) -> int:
        """Returns how many packs are in a new index object. Raises StoreError."""
        try:
            return self.scrub.mend()
        except StoreError as error:
            if not isinstance(error.__cause__, IsADirectoryError):
                raise
            text = f"{error}, where an index object belongs: nothing is lost; delete the directory, and repair again"
            self.tell(Found("", CorruptPack(text), is_index=True))
            return 0

    def _check(self, wrong: Iterable[Found], *, repair: bool) -> None:
        label = self.store.label
        if self.store.lacks_settings:
            if repair:
                self.store.write_settings()
            self._found_wrong(f"{label} has packs, but no pogfast.store, which says so", None, repair)
        cold = 0
        for found in wrong:
            if not found.is_index:
                self.wrong.add(found.path)
            if found.is_index:
                self._found_wrong(str(found.error), found, repair)
            elif isinstance(found.error, InColdStorage):
                cold += 1
            elif isinstance(found.error, CorruptPack):
                self._found_damaged(found, repair)
            else:
                self.tell(found)
        if cold:
            self.warn(f"{label}: {many(cold, 'pack')} in cold storage could not be checked")
        if self.scrub.uncovered and not repair:
            number = many(self.scrub.uncovered, "pack")
            self.warn(
                f"{label}: {number} in no index object, as after a run that was killed: nothing is lost; {REPAIRS}"
            )

    def _found_wrong(self, text: str, found: Found | None, repair: bool) -> None:
        if repair:
            self.warn(f"{text}: mended")
            return
        path = found.path if found else SETTINGS
        self.tell(Found(path, CorruptPack(f"{text}; {REPAIRS}", path=path), is_index=True))

    def _found_damaged(self, found: Found, repair: bool) -> None:
        """Tells of a pack whose table is damaged; with `repair` only if it cannot be mended."""
        if repair and self.scrub.heal(found.path):
            self.wrong.discard(found.path)
            self.warn(f"{found.error}: mended")
            return
        todo = (UNMENDED if found.path in self.scrub.indexed else UNINDEXED) if repair else MENDS
        self.tell(found._replace(error=CorruptPack(f"{found.error}; {todo}", path=found.path)))

    def read(
        self, part: Part, reads: Reads, count: Callable[[Stored], None], started: Callable[[int, int], None]
    ) -> None:
        """Reads whole packs, those first that have not been read for the longest time."""
        packs = choose(self.scrub.packs, part, reads.times, _name, _size)
        started(len(packs), sum(pack.size for pack in packs))
        for path in self.wrong:
            reads.spoil(path)
        with reads.remembered(pack.name for pack in self.scrub.packs):
            for pack, damaged in self.scrub.read(packs):
                for found in damaged:
                    if not isinstance(found.error, InColdStorage):  # `compare` has said so
                        self.tell(found)
                count(pack)
                if not damaged:
                    reads.good(pack.name)


def _name(pack: Stored) -> str:
    return pack.name


def _size(pack: Stored) -> float:
    return pack.size

"""`pogfast check` without a key: packs are checked against their names, tables and index objects.

Which packs were read when is remembered in the user's cache directory, so that a run that reads a part begins with
those that have not been read for the longest time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from base64 import urlsafe_b64decode
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Literal, Protocol

from pogfast.errors import CorruptPack, DamageError, StoreError
from pogfast.sizes import many
from pogfast.stores import open_store
from pogfast.stores.names import SETTINGS
from pogfast.stores.protocols import CanScrub, Found, InColdStorage, Scrub
from pogfast.system.encoding import bytes_of
from pogfast.system.user_dirs import cache_directory, make_cache_directory

if TYPE_CHECKING:
    from pogfast.stores.names import Stored

SAVE_EVERY = 30.0  # seconds
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


class Part(Protocol):
    """A part of the data: checking.Subset."""

    @property
    def kind(self) -> Literal["percent", "part", "size"]: ...

    @property
    def number(self) -> float: ...

    @property
    def of(self) -> int: ...


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
            self.warn(f"{found.error}: mended")
            return
        todo = (UNMENDED if found.path in self.scrub.indexed else UNINDEXED) if repair else MENDS
        self.tell(found._replace(error=CorruptPack(f"{found.error}; {todo}", path=found.path)))

    def read(self, part: Part, count: Callable[[Stored], None], started: Callable[[int, int], None]) -> None:
        """Reads whole packs, those first that have not been read for the longest time."""
        read = ReadPacks(self.store.identity)
        packs = read.choose(self.scrub.packs, part)
        started(len(packs), sum(pack.size for pack in packs))
        with contextlib.closing(read):
            for pack, damaged in self.scrub.read(packs):
                for found in damaged:
                    if not isinstance(found.error, InColdStorage):  # `compare` has said so
                        self.tell(found)
                count(pack)
                if all(isinstance(found.error, DamageError) for found in damaged):
                    read.note(pack.name)


class ReadPacks:
    """When each pack of a store was last read whole, in the user's cache directory. No method raises."""

    def __init__(self, identity: str) -> None:
        name = hashlib.blake2b(bytes_of(identity), digest_size=16).hexdigest() + ".scrubbed"
        self.directory = cache_directory()
        self.path = os.path.join(self.directory, name) if self.directory else ""
        self.times: dict[str, float] = {}
        self.saved = time.monotonic()
        with contextlib.suppress(OSError, ValueError), open(self.path, encoding="utf-8") as file:
            found = json.load(file)
            if isinstance(found, dict):
                self.times = {str(pack): float(when) for pack, when in found.items() if isinstance(when, int | float)}

    def choose(self, packs: Sequence[Stored], part: Part) -> list[Stored]:
        """Returns the packs to read, the longest unread first. A percentage and a size are of bytes, and at least one
        pack is read."""
        there = {pack.name for pack in packs}
        self.times = {pack: when for pack, when in self.times.items() if pack in there}
        ordered = sorted(packs, key=lambda pack: (self.times.get(pack.name, 0.0), pack.name))
        if part.kind == "part":
            return [pack for pack in ordered if _number(pack.name) % part.of == part.number - 1]
        room = part.number if part.kind == "size" else sum(pack.size for pack in packs) * part.number / 100
        chosen: list[Stored] = []
        for pack in ordered:
            if chosen and pack.size > room:
                break
            room -= pack.size
            chosen.append(pack)
        return chosen

    def note(self, pack: str) -> None:
        self.times[pack] = round(time.time(), 3)
        if time.monotonic() - self.saved > SAVE_EVERY:
            self.close()

    def close(self) -> None:
        """Saves it."""
        self.saved = time.monotonic()
        if not self.path:
            return
        with contextlib.suppress(OSError):
            make_cache_directory(self.directory)
            unfinished = f"{self.path}.{os.getpid()}"
            with open(unfinished, "w", encoding="utf-8") as file:
                json.dump(self.times, file)
            os.replace(unfinished, self.path)


def _number(path: str) -> int:
    """Returns a number of a pack that is the same on every machine."""
    return int.from_bytes(urlsafe_b64decode(path.rpartition("/")[2])[:8], "big")

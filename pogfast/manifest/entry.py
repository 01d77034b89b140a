"""The objects of a manifest: `Entry`, one file, and `Manifest`, all entries and the trailer.

Also the limits of FORMAT.md for names and numbers, and the functions that check them.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from pogfast._engine import are_blob_names as _are_blob_names
from pogfast.errors import CorruptManifest

# Nanoseconds that the engine can represent: times before 1677 and after 2262 become these.
MAX_NS = 2**63 - 1
MAX_SIZE = 2**63 - 1
MAX_TIME = sys.float_info.max
MAX_NAME = 65_535  # characters of an archived name, or of a link's target
MAX_PARTS = 4096  # of an archived name, between its slashes


@dataclass(slots=True)
class Entry:
    """One file: its blobs in order, its times in seconds, and further keys in `more`.

    `origin` is where it was read, for messages. A property raises CorruptManifest if its own key is malformed, so that
    an entry can still be restored if another key is.
    """

    blobs: list[str]
    atime: float
    mtime: float
    more: dict[str, Any] = field(default_factory=dict)
    origin: str = field(default="an entry", compare=False, repr=False)

    @property
    def size(self) -> int | None:
        """Bytes of the file; None if the manifest does not say."""
        size = self.more.get("size")
        if size is None:
            known = not self.blobs or self.more.get("sizes") is not None
            return sum(self.sizes or []) if known else None
        if not is_length(size):
            raise CorruptManifest(f"{self.origin}: its size is malformed")
        return int(size)

    @property
    def sizes(self) -> list[int] | None:
        """Bytes of the file in each blob, if every blob is a frame of its own; None for a stream of several blobs, and
        if the manifest does not say."""
        sizes = self.more.get("sizes")
        known = self.more.get("size") is not None
        if sizes is None:
            return [self.size or 0] if known and len(self.blobs) == 1 else None
        if not isinstance(sizes, list) or len(sizes) != len(self.blobs) or not all(map(is_length, sizes)):
            raise CorruptManifest(f"{self.origin}: the sizes of its blobs are malformed")
        if not is_length(sum(sizes)) or (known and sum(sizes) != self.size):
            raise CorruptManifest(f"{self.origin}: the sizes of its blobs do not add up")
        return sizes

    @property
    def stored(self) -> list[int] | None:
        """Stored bytes of each blob when the archive was made; None if the manifest does not say."""
        stored = self.more.get("stored")
        if stored is None:
            return None
        if not isinstance(stored, list) or len(stored) != len(self.blobs) or not all(map(is_length, stored)):
            raise CorruptManifest(f"{self.origin}: the stored sizes of its blobs are malformed")
        return stored

    @property
    def mtime_ns(self) -> int:
        """Nanoseconds since 1970, limited to MAX_NS."""
        return self._ns("mtime_ns", self.mtime)

    @property
    def atime_ns(self) -> int:
        """Nanoseconds since 1970, limited to MAX_NS."""
        return self._ns("atime_ns", self.atime)

    def _ns(self, exact: str, seconds: float) -> int:
        ns = self.more.get(exact)
        if type(ns) is int and -MAX_NS <= ns <= MAX_NS:
            return ns
        if ns is None:
            whole = math.floor(seconds)  # rounded as by os.utime, so that a file gets the same time as from pog
            ns = whole * 10**9 + math.floor((seconds - whole) * 1e9)
        elif not isinstance(ns, int) or isinstance(ns, bool):
            raise CorruptManifest(f"{self.origin}: its {exact} is malformed")
        return max(-MAX_NS, min(ns, MAX_NS))


@dataclass(slots=True)
class Manifest:
    """An archive's entries by archived name, in order, and its trailer.

    The entries of an opened manifest are decoded at each access, which raises CorruptManifest if one is malformed.
    """

    entries: Mapping[str, Entry] = field(default_factory=dict)
    trailer: dict[str, Any] | None = None

    def blob_names(self) -> list[str]:
        """Returns the blobs of all entries in order, with repetitions."""
        return [name for entry in self.entries.values() for name in entry.blobs]


def is_blob_name(text: str) -> bool:
    return _are_blob_names([text])


def is_name(name: str) -> bool:
    """Returns True if an archived name is within the limits of FORMAT.md. Does not check where it leads."""
    return len(name) <= MAX_NAME and (len(name) < MAX_PARTS or name.count("/") < MAX_PARTS)


def in_order_of_paths(name: str) -> str:
    """Returns a sort key: a directory, what is below it, then what follows. The end of a part must sort before all
    else; no name has a zero byte, which does."""
    return name.replace("/", "\0")


def check_names(names: Collection[str], origin: str) -> None:
    """Raises CorruptManifest if a name is beyond the limits."""
    if max(map(len, names), default=0) >= MAX_PARTS and not all(map(is_name, names)):
        raise CorruptManifest(f"{origin}: a name in it is longer than {MAX_NAME} characters or {MAX_PARTS} parts")


def are_blob_names(value: object) -> bool:
    return isinstance(value, list) and _are_blob_names(value)


def is_length(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_SIZE


def is_time(value: object) -> bool:
    # JSON can have NaN, infinities, and integers beyond the range of a float: none of them is a time.
    if type(value) is float:
        return abs(value) <= MAX_TIME
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= MAX_TIME

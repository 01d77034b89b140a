"""Which parts of a store were read when, and were good: so that a check reads first what was not read for the longest.

A share is what has a name that begins with the same two characters: one of 4,096, as the folders of a directory are,
each about as large as the others. For each the last time is kept at which everything in it was read and was good: a
table of 16 KiB, in the store, where every machine that checks finds it. A run writes a table of the latest times that
it knows, and then deletes those that it has read: so machines that check at the same time lose nothing. Readers with a
key keep times of blobs, under a key that only they have; those without one keep times of packs, for what these are
worth. FORMAT.md has the bytes.

A copy is in the user's cache directory, for stores that may not be written to, and flat ones.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import sys
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import product
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, TypeVar

from pogfast._engine import secretbox, secretbox_open
from pogfast.errors import DamageError, NoSuchArchive, StoreError
from pogfast.stores.local import LocalStore
from pogfast.stores.names import VERIFIED_BLOBS, VERIFIED_PACKS, Stored
from pogfast.system.clock import FUTURE, now
from pogfast.system.encoding import bytes_of
from pogfast.system.user_dirs import cache_directory, make_cache_directory
from pogfast.upkeep.heartbeat import delete_marks, unique

if TYPE_CHECKING:
    from pogfast.keys import Key
    from pogfast.stores.protocols import Store

Item = TypeVar("Item")

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
NUMBERS = {first + second: number for number, (first, second) in enumerate(product(LETTERS, LETTERS))}
SHARES = len(NUMBERS)
MAGIC = b"pogread1"
TABLE = len(MAGIC) + 4 * SHARES
SEAL, SUM = 40, 32  # bytes that a box, and a sha256, add to a table
# Tables that are read: there are as many as machines that check at a time, and those that nobody may delete.
MAX_TABLES = 100
SAVE_EVERY = 600.0  # seconds of reading
# Parts of at most this number are made of whole shares, of which each then has nearly as many as the others.
MAX_PARTS = 64
NEVER: Sequence[int] = (0,) * SHARES


class Part(Protocol):
    """A part of the data: checking.Subset."""

    @property
    def kind(self) -> Literal["percent", "part", "size"]: ...

    @property
    def number(self) -> float: ...

    @property
    def of(self) -> int: ...


class ReadShare(NamedTuple):
    """How much of a store was last read completely at a time: `share` is from 0 to 1; never, if `read` is None."""

    share: float
    read: datetime | None


class Unread(NamedTuple):
    """Bytes that were not read for some time, and when the oldest of them were; never, if that is None."""

    size: int
    since: datetime | None


def share_of(name: str) -> int:
    """Returns the number of the share of a blob, or of a pack by its path."""
    start = name.rfind("/") + 1
    return NUMBERS[name[start : start + 2]]


def choose(
    items: Sequence[Item],
    part: Part,
    times: Sequence[int],
    name: Callable[[Item], str],
    weight: Callable[[Item], float],
) -> list[Item]:
    """Returns the items to read, of whole shares: those first that were not read for the longest time, and among equal
    ones at random. A percentage, and a size, is of weights. If a share is larger than that size, items are taken at
    random, and no share is complete."""
    if part.kind == "part":
        number = share_of if part.of <= MAX_PARTS else _number
        return [item for item in items if number(name(item)) % part.of == part.number - 1]
    if part.kind == "percent" and part.number == 100:
        return list(items)
    shares: dict[int, list[Item]] = {}
    for item in items:
        shares.setdefault(share_of(name(item)), []).append(item)
    groups = [shares[share] for share in sorted(shares, key=lambda share: (times[share], random.random()))]
    if part.kind == "percent":
        return list(_until(groups, part.number / 100 * sum(map(weight, items)), weight))
    if groups and sum(map(weight, groups[0])) > part.number:
        groups = [[item] for item in random.sample(items, len(items))]
    return list(_within(groups, part.number, weight))


def _until(groups: Iterable[list[Item]], wanted: float, weight: Callable[[Item], float]) -> Iterator[Item]:
    """Yields the items of groups until they weigh enough."""
    for group in groups:
        if wanted <= 0:
            return
        wanted -= sum(map(weight, group))
        yield from group


def _within(groups: Iterable[list[Item]], room: float, weight: Callable[[Item], float]) -> Iterator[Item]:
    """Yields the items of all groups for which there is room."""
    for group in groups:
        size = sum(map(weight, group))
        if size <= room:
            room -= size
            yield from group


def _number(name: str) -> int:
    """Returns a number of a name that is the same on every machine."""
    number = 0
    for letter in name.rpartition("/")[2][:10]:
        number = number * len(LETTERS) + LETTERS.index(letter)
    return number


class Reads:
    """The times of a store's shares, and what this run adds to them. With a key of blobs, without one of packs. `warn`
    gets what keeps them from being remembered in the store."""

    def __init__(self, store: Store, key: Key | None, warn: Callable[[str], None] = lambda text: None) -> None:
        self.store = store
        self.warn = warn
        self.began = int(now())
        self.times = array("I", NEVER)
        self._prefix = VERIFIED_PACKS if key is None else VERIFIED_BLOBS
        self._sealing = b"" if key is None else _sealing_key(key)
        self._left: Counter[int] = Counter()  # items of each share that were not read
        self._read: set[str] = set()  # the tables in the store that are contained in this one
        self._saved = time.monotonic()
        self._path = self._path_in_cache()
        self._load()

    def _path_in_cache(self) -> str:
        directory = cache_directory()
        name = hashlib.blake2b(bytes_of(self.store.identity), key=self._sealing, digest_size=16).hexdigest()
        return os.path.join(directory, f"{name}.verified") if directory else ""

    # ---- tables ----

    def _load(self) -> None:
        with contextlib.suppress(OSError), open(self._path, "rb") as file:
            self._merge(file.read(self._size + 1))
        try:
            listed = [table for table in self.store.named(self._prefix) if table.size == self._size]
            for table in sorted(listed, key=_written, reverse=True)[:MAX_TABLES]:
                with contextlib.suppress(NoSuchArchive, DamageError):  # another check has merged it
                    if self._merge(self.store.get_manifest(table.name)):
                        self._read.add(table.name)
        except StoreError as error:
            self.warn(f"{error}: what other machines have read is not known")

    @property
    def _size(self) -> int:
        return TABLE + (SEAL if self._sealing else SUM)

    def _merge(self, data: bytes) -> bool:
        """Takes the times from a table; returns False if it is none. Times of the future are ignored: a clock was
        wrong, or somebody forged them."""
        plain = secretbox_open(self._sealing, data) if self._sealing else _unsummed(data)
        if plain is None or len(plain) != TABLE or not plain.startswith(MAGIC):
            return False
        found = _little_endian(array("I", plain[len(MAGIC) :]))
        latest = self.began + FUTURE.total_seconds()
        for share, when in enumerate(found):
            if self.times[share] < when <= latest:
                self.times[share] = min(when, self.began)
        return True

    def _serialized(self) -> bytes:
        plain = MAGIC + _little_endian(array("I", self.times)).tobytes()
        return secretbox(self._sealing, plain) if self._sealing else plain + hashlib.sha256(plain).digest()

    # ---- what this run reads ----

    def spoil(self, name: str) -> None:
        """Is told that something in a share is missing or wrong."""
        self._left[share_of(name)] += 1

    def good(self, name: str) -> None:
        """Is told of each that was read and is good. Saves what is complete now and then."""
        self._left[share_of(name)] -= 1
        if time.monotonic() - self._saved > SAVE_EVERY:
            self.save()

    @contextlib.contextmanager
    def remembered(self, names: Iterable[str]) -> Iterator[None]:
        """Remembers what is read while entered, also if that ends early. It begins with everything that there is, by
        names: a share counts as read when all of it has been."""
        self._left.update(map(share_of, names))
        try:
            yield
        except StoreError:  # it may be down
            self._save_in_cache(self._completed())
            raise
        except BaseException:
            self.save()
            raise
        self.save()

    def _completed(self) -> bytes:
        """Returns the table, with the shares that were read completely, those without content among them."""
        for share in range(SHARES):
            if self._left[share] <= 0:
                self.times[share] = self.began
        return self._serialized()

    def save(self) -> None:
        """Records what has been read completely."""
        self._saved = time.monotonic()
        data = self._completed()
        self._save_in_cache(data)
        if isinstance(self.store, LocalStore) and not self.store.fan_out:
            return  # somebody's working directory
        name = self._prefix + unique()
        try:
            self.store.put_mark(name, data)
        except StoreError as error:
            self.warn(f"{error}: what was read is remembered on this machine only")
            return
        delete_marks(self.store, self._read)
        self._read = {name}

    def _save_in_cache(self, data: bytes) -> None:
        if not self._path:
            return
        with contextlib.suppress(OSError):
            make_cache_directory(os.path.dirname(self._path))
            unfinished = f"{self._path}.{os.getpid()}"
            with open(unfinished, "wb") as file:
                file.write(data)
            os.replace(unfinished, self._path)

    # ---- what is known ----

    def unread(self, sizes: Iterable[tuple[str, int]], max_age: float) -> Unread:
        """Returns how much of what there is, names and sizes, was not read for so many seconds."""
        old = [(self.times[share_of(name)], size) for name, size in sizes]
        old = [(when, size) for when, size in old if when < self.began - max_age]
        first = min((when for when, _ in old), default=0)
        return Unread(sum(size for _, size in old), _utc(first))

    def summary(self) -> list[ReadShare]:
        """Returns how much was read when, the newest first."""
        counts = sorted(Counter(self.times).items(), reverse=True)
        return [ReadShare(count / SHARES, _utc(when)) for when, count in counts]


def _sealing_key(key: Key) -> bytes:
    """Returns a key that nobody has who has only the public one."""
    secret = key.secret if key.private is None else key.private
    return hashlib.blake2b(b"verified", key=secret, digest_size=32, person=b"pogfast derive").digest()


def _utc(when: int) -> datetime | None:
    return datetime.fromtimestamp(when, UTC) if when else None


def _written(table: Stored) -> float:
    return table.modified


def _unsummed(data: bytes) -> bytes | None:
    """Returns a table without its sha256, None if that is wrong."""
    return data[:-SUM] if hashlib.sha256(data[:-SUM]).digest() == data[-SUM:] else None


def _little_endian(numbers: array[int]) -> array[int]:
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers

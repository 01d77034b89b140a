"""`pogfast check`: whether a store still has the blobs that its archives need, and whether they are intact.

Every blob that an archive names is looked up in one listing of the store. With `read_data` the engine reads the blobs
as for a restore (authenticated, right content for the name, decompressed, right length) and writes nothing. Damage is
traced to the files that need the blob. A blob that many files and archives need is read once.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
from base64 import urlsafe_b64decode
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, NamedTuple, Protocol, TypeVar

from pogfast import manifest
from pogfast._engine import VERDICT, Opened, Opener, Wanted, cores
from pogfast.archives.entry_file import EntryFile
from pogfast.archives.lookup import Tell, find_archive, telling
from pogfast.archives.manifests import manifests_of
from pogfast.archives.records import Record
from pogfast.archives.refusals import require_decryption, those_that_open
from pogfast.archives.trailer import Filter, Trailer
from pogfast.archives.verdicts import DAMAGE
from pogfast.errors import (
    CorruptBlob,
    CorruptManifest,
    DamageError,
    MissingBlob,
    NoSuchArchive,
    PogfastError,
    StoreError,
    UsageError,
    WrongKey,
    worst_code,
)
from pogfast.keys import Key
from pogfast.manifest import Entry, Manifest
from pogfast.sizes import check_jobs, parse_size
from pogfast.stores import is_partial, names_archive, open_store
from pogfast.stores.fetching import fetched_manifest, prefetch
from pogfast.stores.protocols import Store

Result = TypeVar("Result")

# What the engine is given at a time, so that a million of them are not all in its memory.
BATCH = 8192
# Malformed entries of an archive that are named; more are counted.
MAX_MALFORMED = 10


class Unit(NamedTuple):
    """What is read as one: a blob that is a frame of its own, or all blobs of a stream. `size` is of its plain bytes,
    -1 when it is not known."""

    blobs: tuple[str, ...]
    size: int


@dataclass(frozen=True)
class Subset:
    """A part of what is stored: 10% of the blobs, at random; 1/30, the first of 30 parts that make the whole; or 50G,
    at random and at most so many bytes."""

    kind: Literal["percent", "part", "size"]
    number: float  # percent, which part, or bytes
    of: int = 1  # parts

    @classmethod
    def parse(cls, text: str) -> Subset:
        """Raises UsageError."""
        with contextlib.suppress(ValueError, UsageError):
            if text.endswith("%"):
                percent = float(text[:-1])
                if 0 < percent <= 100:
                    return cls("percent", percent)
            elif "/" in text:
                part, parts = (int(number) for number in text.split("/"))
                if 1 <= part <= parts:
                    return cls("part", part, parts)
            else:
                return cls("size", parse_size("", text))
        raise UsageError(f"{text} is no part of the data", hint="write 10%, 1/30 or 50G")

    def choose(self, units: Sequence[Unit], stored: dict[str, int]) -> list[Unit]:
        """Those of `units` that are meant. `stored` are the bytes of the blobs."""
        if self.kind == "part":
            return [unit for unit in units if _number(unit.blobs[0]) % self.of == self.number - 1]
        if self.kind == "percent":
            count = round(len(units) * self.number / 100)
            return sorted(random.sample(units, max(count, min(1, len(units)))))
        room, chosen = self.number, []
        for unit in random.sample(units, len(units)):
            size = _stored_size(unit, stored)
            if size <= room:
                room -= size
                chosen.append(unit)
        return chosen


EVERYTHING = Subset("percent", 100)


def _number(blob: str) -> int:
    """The same for every archive and every machine, and spread evenly: names are hashes."""
    return int.from_bytes(urlsafe_b64decode(blob)[:8], "big")


def _stored_size(unit: Unit, stored: dict[str, int]) -> int:
    return sum(stored.get(blob, 0) for blob in set(unit.blobs))


@dataclass(slots=True)
class Damage(Record):
    """Something in an archive that cannot be restored as it was. What is damaged as a whole has no file, and a public
    key alone cannot tell which file it is."""

    archive: str  # its manifest's name
    name: str | None  # archived name of the file
    blob: str | None
    offset: int | None  # plain offset in the file from which on it is damaged; None: not known
    error: str


@dataclass
class Summary:
    """Counters that another thread may read while a check runs, and at the end what was found. Sizes are bytes."""

    total_archives: int = 0
    archives: int = 0  # looked at
    files: int = 0  # of these
    blobs: int = 0  # distinct ones that are needed and there
    stored: int = 0  # their bytes
    to_read: int = 0  # of these, blobs
    to_read_size: int = 0
    read: int = 0
    read_size: int = 0
    unsettled: Callable[[], int] = lambda: 0  # bytes that were read of what is not through
    damage: list[Damage] = field(default_factory=list)
    problems: list[PogfastError] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        damage = [DamageError.exit_code] if self.damage else []
        return worst_code([*damage, *(problem.exit_code for problem in self.problems)])


class Report(Protocol):
    """Receives what happens during a check. Every method does nothing unless it is overridden."""

    def started(self, progress: Summary) -> None:
        """Called first. The check goes on counting in `progress`."""
        return

    def damage(self, damage: Damage) -> None:
        """Called for each piece of damage."""
        return

    def problem(self, error: PogfastError) -> None:
        """Called for what could not be checked; the check continues."""
        return

    def warning(self, text: str) -> None:
        """Called for what a user should know, although it is no failure."""
        return


class Silent(Report):
    """Reports nothing."""


def check(
    archives: Sequence[str],
    key: Key,
    *,
    read_data: Subset | None = None,
    host: str | None = None,
    tags: Collection[str] = (),
    path: str | None = None,
    jobs: int | None = None,
    report: Report | None = None,
) -> Summary:
    """Checks archives and, of words that name a store, all its archives that `host`, `tags` and `path` choose. Of
    several words one that cannot be opened is reported, and the others are checked.

    Without `read_data` that all blobs are there, of the size that they were stored with as far as an archive tells it,
    and that the index of a key pair names them. With a public key alone only its index can be looked at. Raises
    UsageError, NoSuchArchive (also where none is chosen), NoArchives and StoreError; WrongKey when not one opens.
    """
    report = report or Silent()
    if read_data:
        require_decryption(key, "read data")
    check_jobs(jobs)
    wanted = Filter.of(host, tags, path)
    wanted.require(key)
    with contextlib.ExitStack() as opened:
        summary = Summary()

        stores = _stores(archives, key, wanted, opened, telling(report, summary.problems))
        summary.total_archives = sum(len(names) for _, names in stores)
        report.started(summary)
        if not key.can_open:
            report.warning(
                "an encryption key cannot open archives: only the presence and size of the blobs in their indexes are "
                "checked, and anybody with this key can write an index"
            )
        for store, names in stores:
            _Check(store, names, key, wanted, summary, report).run(read_data, jobs or cores())
    if wanted != Filter() and not summary.total_archives and not summary.problems:
        raise NoSuchArchive(
            f"no archive {wanted} in {', '.join(archives)}", hint="`pogfast list` shows those there are"
        )
    return summary


def _stores(
    texts: Sequence[str], key: Key, wanted: Filter, opened: contextlib.ExitStack, tell: Tell
) -> list[tuple[Store, list[str]]]:
    """Each store once, with the manifests to check in it. They are closed with `opened`."""
    found: dict[str, tuple[Store, list[str]]] = {}
    for text in texts:
        try:
            store, names = _named(text, key, wanted, opened, tell)
        except (NoSuchArchive, DamageError, StoreError) as error:
            if len(texts) == 1:
                raise
            tell(error)  # and the others are checked
            continue
        _, known = found.setdefault(os.path.realpath(store.path), (store, []))
        known += [name for name in names if name not in known]
    return list(found.values())


def _named(text: str, key: Key, wanted: Filter, opened: contextlib.ExitStack, tell: Tell) -> tuple[Store, list[str]]:
    """A store, and the manifests in it that a word means."""
    if names_archive(text):
        store, name = find_archive(text, key, host=wanted.host, tags=wanted.tags, path=wanted.path, tell=tell)
    else:
        store, name = open_store(text), ""
    opened.callback(store.close)
    there = store.marks() if is_partial(name) else manifests_of(store)
    names = [stored.name for stored in there if name in ("", stored.name)]
    if name and not names:
        raise NoSuchArchive(f"no such archive: {text}")
    return store, names


class _Check:
    """The archives of one store."""

    def __init__(
        self, store: Store, names: list[str], key: Key, wanted: Filter, summary: Summary, report: Report
    ) -> None:
        self.store = store
        self.names = names
        self.key = key
        self.wanted = wanted
        self.summary = summary
        self.report = report
        self.there = {blob.name: blob.size for blob in store.blob_names()}
        self.needed: set[str] = set()
        self.units: set[Unit] = set()
        self.done: set[str] = set()  # blobs that were read
        self.bad: dict[Unit, tuple[DamageError, str, int]] = {}  # what is wrong, with which blob, from which offset on

    def run(self, read_data: Subset | None, jobs: int) -> None:
        readable = self._look_at_archives() if self.key.can_open else self._look_at_indexes()
        there = self.needed & self.there.keys()
        self.summary.blobs += len(there)
        self.summary.stored += sum(self.there[blob] for blob in there)
        if read_data:
            self._read(read_data.choose(sorted(self.units), self.there), jobs)
            if self.bad:
                for name in readable:
                    self._trace(name)

    # ---- what is there ----

    def _opened(self, look: Callable[[str, bytes], Result]) -> Iterator[tuple[str, Result]]:
        """Yields (manifest's name, what `look` makes of its bytes) of the archives that open and are wanted, and
        reports the others. A `look` that returns None says that an archive is not wanted."""

        def found() -> Iterator[tuple[str, Result | PogfastError]]:
            for name in self.names:
                try:
                    content = fetched_manifest(self.store, name, partial(look, name))
                except PogfastError as error:
                    yield name, error
                else:
                    if content is None:
                        self.summary.total_archives -= 1
                    else:
                        yield name, content

        # Damage that was found in another store counts: that is reported, though the key opens nothing here.
        return those_that_open(found(), self._unreadable, others=len(self.summary.damage))

    def _look_at_indexes(self) -> list[str]:
        """Looks at all that a public key opens. Returns the names of the manifests."""
        names = []

        def look(name: str, data: bytes) -> tuple[list[str], dict[str, int]]:
            return manifest.blob_names(data, self.key, name), manifest.open_sizes(data, self.key, name)

        for name, (blobs, sizes) in self._opened(look):
            for blob in sorted(set(blobs)):
                wrong = self._wrong_size(blob, None, sizes.get(blob))
                if wrong:
                    self._tell(Damage(name, None, blob, None, str(wrong)))
            self.needed.update(blobs)
            self.summary.archives += 1
            names.append(name)
        return names

    def _look_at_archives(self) -> list[str]:
        """Looks at the archives that open and are wanted. Returns the names of their manifests."""
        names = []

        def look(name: str, data: bytes) -> tuple[bytes, Manifest] | None:
            opened = manifest.open(data, self.key, name)
            return (data, opened) if self.wanted.fits(Trailer(opened.trailer)) else None

        for name, found in self._opened(look):
            if found is not None:
                self._look_at_archive(name, *found)
                names.append(name)
        return names

    def _look_at_archive(self, name: str, data: bytes, opened: Manifest) -> None:
        """Looks at an archive's files. A malformed entry is damage; the others are looked at."""
        full = _full_size(opened, self.key)
        blobs: list[str] = []
        told = True  # how long each blob was when it was stored
        malformed = 0
        for file in opened.entries:
            try:
                entry = opened.entries[file]
                stored = entry.stored
                told = told and stored is not None
                blobs += entry.blobs
                self._look_at_file(name, file, entry, full, stored)
            except CorruptManifest as error:
                malformed += 1
                if malformed <= MAX_MALFORMED:
                    self._tell(Damage(name, file, None, None, str(error)))
        if malformed > MAX_MALFORMED:
            text = f"{name}: {malformed - MAX_MALFORMED:,} more of its entries are malformed"
            self._tell(Damage(name, None, None, None, text))
        self.needed.update(blobs)
        self._look_at_manifest(name, data, blobs, Trailer(None if told else opened.trailer))
        self.summary.archives += 1

    def _look_at_manifest(self, name: str, data: bytes, blobs: list[str], trailer: Trailer) -> None:
        """Whether its index names its blobs; and where entries do not say how long these were, whether all together
        are as long as they were."""
        try:
            self._check_index(name, data, blobs)
        except (CorruptManifest, WrongKey) as error:
            self._tell(Damage(name, None, None, None, str(error)))
        was = trailer.totals.get("stored")
        sizes = [self.there.get(blob) for blob in set(blobs)]
        known = [size for size in sizes if size is not None]
        if was is not None and len(known) == len(sizes) and abs(sum(known) - was) > manifest.PAD_MOST * len(known):
            text = f"its blobs have {sum(known):,} bytes, and had {was:,}: some are cut short or have grown"
            self._tell(Damage(name, None, None, None, f"{name}: {text}; --read-data finds which"))

    def _check_index(self, name: str, data: bytes, blobs: list[str]) -> None:
        """Raises CorruptManifest and WrongKey. What seems damaged is fetched once more."""
        try:
            manifest.check_index(blobs, data, self.key, name)
        except (CorruptManifest, WrongKey):
            manifest.check_index(blobs, self.store.get_manifest(name), self.key, name)

    def _look_at_file(
        self, archive: str, name: str, entry: Entry, full: int | None, sizes: Sequence[int] | None
    ) -> None:
        """`sizes`: the bytes that its blobs were stored with, as far as it tells."""
        self.summary.files += 1
        stored = dict(zip(entry.blobs, sizes or (), strict=False))
        for unit, offset in units_of(entry):
            whole = True
            for index, blob in enumerate(unit.blobs):
                wrong = self._wrong_size(blob, full if index < len(unit.blobs) - 1 else None, stored.get(blob))
                if wrong:
                    whole = False
                    self._tell(Damage(archive, name, blob, None if index else offset, f"{name}: {wrong}"))
            if whole:
                self.units.add(unit)

    def _wrong_size(self, blob: str, full: int | None, was: int | None) -> DamageError | None:
        """What is wrong with a blob as far as its size shows. `full` is the one that it must have, if it must; `was` is
        the one that it was stored with, with or without padding."""
        size = self.there.get(blob)
        if size is None:
            return MissingBlob(f"blob {blob} is missing")
        if size <= self.key.header_size + manifest.BOX or (full is not None and size < full):
            return CorruptBlob(f"blob {blob} is cut short: it has {size} bytes")
        if full is not None and size > full:
            return CorruptBlob(f"blob {blob} has {size} bytes instead of {full}")
        if was and size != was and not manifest.can_be_padded_to(size, was, self.key):
            return CorruptBlob(f"blob {blob} {'is cut short' if size < was else 'has grown'}: {size} bytes, not {was}")
        return None

    def _unreadable(self, name: str, error: PogfastError) -> None:
        if isinstance(error, DamageError):
            self._tell(Damage(name, None, None, None, str(error)))
        else:
            self._problem(error)

    def _problem(self, error: PogfastError) -> None:
        self.summary.problems.append(error)
        self.report.problem(error)

    def _tell(self, damage: Damage) -> None:
        self.summary.damage.append(damage)
        self.report.damage(damage)

    # ---- what is in it ----

    def _read(self, units: Sequence[Unit], jobs: int) -> None:
        wanted_blobs = {blob for unit in units for blob in unit.blobs}
        self.summary.to_read += len(wanted_blobs)
        self.summary.to_read_size += sum(self.there[blob] for blob in wanted_blobs)
        for start in range(0, len(units), BATCH):
            batch = units[start : start + BATCH]
            wanted = [
                Wanted(-1, b"", list(unit.blobs), [unit.size] if _is_frame(unit) else None, unit.size, 0, 0)
                for unit in batch
            ]
            key = self.key
            opener = Opener(key.secret, key.private, key.asymmetric, wanted, self.store.source, jobs=jobs)
            prefetch(self.store.source, (blob for unit in batch for blob in unit.blobs))
            self._watch(opener.read, self.summary.read_size)
            with contextlib.closing(opener.run()) as run:
                for unit, opened in zip(batch, run, strict=True):
                    self._judge(unit, opened)
            self.summary.unsettled = lambda: 0

    def _watch(self, read: Callable[[], int], settled: int) -> None:
        """Counts what is read of `settled` bytes on. A blob that is in several streams is read for each, and counts
        once."""
        left = self.summary.to_read_size - self.summary.read_size
        self.summary.unsettled = lambda: max(0, min(settled + left, settled + read()) - self.summary.read_size)

    def _judge(self, unit: Unit, opened: Opened) -> None:
        new = set(unit.blobs) - self.done
        self.done |= new
        self.summary.read += len(new)
        self.summary.read_size += sum(self.there[blob] for blob in new)
        if opened.verdict == VERDICT["good"]:
            return
        blob = unit.blobs[opened.blob]
        if opened.verdict in DAMAGE:
            kind, said = DAMAGE[opened.verdict]
        elif opened.errno == errno.EIO:  # the disk cannot give it back any more
            kind, said = CorruptBlob, f"cannot be read: {os.strerror(opened.errno)}"
        else:
            problem = StoreError(f"cannot read blob {blob} in {self.store.label}: {os.strerror(opened.errno)}")
            self._problem(problem)
            return
        self.bad[unit] = kind(f"blob {blob} {said}"), blob, opened.offset

    def _trace(self, archive: str) -> None:
        """Says of which files what is damaged is a part."""
        entries = fetched_manifest(self.store, archive, partial(manifest.open, key=self.key, name=archive)).entries
        for name in entries:
            with contextlib.suppress(CorruptManifest):  # it has been told
                entry = entries[name]
                for unit, start in units_of(entry):
                    if unit in self.bad:
                        self._tell_bad(archive, name, entry, unit, start)

    def _tell_bad(self, archive: str, name: str, entry: Entry, unit: Unit, start: int) -> None:
        error, blob, offset = self.bad[unit]
        if offset < 0:
            offset = self._good_bytes(name, entry)
            self.bad[unit] = error, blob, offset
        self._tell(Damage(archive, name, blob, start + offset, f"{name}: {error}"))

    def _good_bytes(self, name: str, entry: Entry) -> int:
        """How much of a damaged stream can be read: the engine stops where it is, before it knows."""
        good = 0
        with (
            ThreadPoolExecutor(1) as thread,
            EntryFile(name, entry, self.key, self.store, lambda: thread, 1) as file,
            contextlib.suppress(PogfastError),
        ):
            for piece in file.pieces():
                good += len(piece)
        return good


def units_of(entry: Entry) -> Iterator[tuple[Unit, int]]:
    """What of a file is read as one, and the plain offset where it begins."""
    sizes = entry.sizes if entry.blobs else []
    if sizes is None:
        yield Unit(tuple(entry.blobs), -1 if entry.size is None else entry.size), 0
        return
    offset = 0
    for blob, size in zip(entry.blobs, sizes, strict=True):
        yield Unit((blob,), size), offset
        offset += size


def _is_frame(unit: Unit) -> bool:
    return len(unit.blobs) == 1 and unit.size >= 0


def _full_size(opened: Manifest, key: Key) -> int | None:
    """Bytes of a blob of a stream that is not its last, where the trailer says how streams were cut."""
    trailer = Trailer(opened.trailer)
    if trailer.layout != "stream" or trailer.chunk_size is None:
        return None
    return key.header_size + manifest.BOX + trailer.chunk_size

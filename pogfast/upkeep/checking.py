"""`pogfast check`: verifies that a store has all blobs that its archives need, and that they are intact.

Every blob that an archive names is looked up in one listing of the store. With `read_data` the engine reads the blobs
as for a restore (authenticates, compares content and name, decompresses, compares lengths) and writes nothing. Damage
is traced to the files that need the blob. A blob that many files and archives need is read once.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache, partial
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

from pogfast import manifest
from pogfast._engine import VERDICT, Opened, Opener, Wanted, cores
from pogfast.archives.catalog import Catalog, in_parallel
from pogfast.archives.catalog_file import CatalogedArchive
from pogfast.archives.entry_file import EntryFile
from pogfast.archives.lookup import Reports, Tell, find_archive, telling
from pogfast.archives.manifests import manifests_of
from pogfast.archives.members import FILE, MemberTable, RawMember
from pogfast.archives.records import Record
from pogfast.archives.refusals import require_decryption, those_that_open
from pogfast.archives.trailer import Filter, Trailer
from pogfast.archives.verdicts import DAMAGE
from pogfast.cluster.tally import Tallies
from pogfast.errors import (
    CorruptBlob,
    CorruptManifest,
    DamageError,
    MissingBlob,
    NoSuchArchive,
    OtherKey,
    PogfastError,
    StoreError,
    Unproven,
    UsageError,
    WrongKey,
    worst_code,
)
from pogfast.keys import Key
from pogfast.manifest import Entry, Manifest
from pogfast.sizes import check_jobs, parse_size, show_size
from pogfast.stores import is_partial, names_archive, open_store
from pogfast.stores.fetching import fetched_manifest, prefetch
from pogfast.stores.names import Stored
from pogfast.stores.protocols import CanOrder, CanScrub, Found, Store
from pogfast.stores.publish import why_not_read
from pogfast.upkeep.reads import NEVER, Reads, choose
from pogfast.upkeep.rehearsing import Candidate, Rehearsal, rehearse
from pogfast.upkeep.scrubbing import NO_KEY, Scrubbing

if TYPE_CHECKING:
    from pogfast.cluster.crews import CrewOptions
    from pogfast.cluster.opening import ClusterOpener, Readers

# Units that the engine is given at a time: a million of them would take much memory.
BATCH = 8192
BATCH_OF_MANY = 65_536  # where others read them
# Malformed entries of an archive that are reported one by one; the others are counted.
MAX_MALFORMED = 10


class Unit(NamedTuple):
    """What is read as one: a blob that is a frame of its own, or all blobs of a stream. `size` is uncompressed, -1 if
    unknown."""

    blobs: tuple[str, ...]
    size: int


@dataclass(frozen=True)
class Subset:
    """The part of a store that `check --read-data` reads: `10%` of the blobs, those first that were not read for the
    longest time; `1/30`, the first of 30 parts that together are everything; or `50G`, as `10%`, up to this size."""

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

    def choose(self, units: Sequence[Unit], stored: dict[str, int], times: Sequence[int] = NEVER) -> list[Unit]:
        """Returns the units to read. `stored` are the sizes of the blobs in bytes, `times` when each share was read."""

        def weight(unit: Unit) -> int:
            return _stored_size(unit, stored) if self.kind == "size" else 1

        return sorted(choose(units, self, times, _first_blob, weight))


EVERYTHING = Subset("percent", 100)


def _first_blob(unit: Unit) -> str:
    """Returns the blob by which a unit belongs to a share."""
    return unit.blobs[0]


def _stored_size(unit: Unit, stored: dict[str, int]) -> int:
    return sum(stored.get(blob, 0) for blob in set(unit.blobs))


@dataclass(slots=True)
class Damage(Record):
    """A piece of damage in an archive. `name` is None if it is not of one file, or if only a public key is known."""

    archive: str  # its manifest's name; "" if it was found without a key
    name: str | None  # archived name of the damaged file
    blob: str | None
    offset: int | None  # in the file, from which on it is damaged; None: unknown
    error: str
    pack: str | None = None  # in which it was found without a key; also the path of an index object
    lost_pack: str | None = None  # that is missing, and that the blob was in


@dataclass
class Summary:
    """Counters, which another thread may read during the check, and what was found. Sizes are bytes."""

    total_archives: int = 0
    archives: int = 0  # that were checked
    files: int = 0  # in these
    blobs: int = 0  # distinct ones that are needed and exist
    stored: int = 0  # their bytes
    to_read: int = 0  # of these
    to_read_size: int = 0
    read: int = 0  # of these; packs, if there is no key
    read_size: int = 0
    unproven: int | None = None  # bytes that were not read for longer than is allowed; None: nobody has asked
    rehearsal: Rehearsal | None = None  # what was restored to nowhere
    packs: int = 0
    index_objects: int = 0
    packs_absent: int = 0  # that index objects name, as after a prune
    tallies: Tallies = field(default_factory=Tallies)  # of an executor
    in_progress: Callable[[], int] = lambda: 0  # bytes read of units that are not finished
    damage: list[Damage] = field(default_factory=list)
    problems: list[PogfastError] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        damage = [DamageError.exit_code] if self.damage else []
        return worst_code([*damage, *(problem.exit_code for problem in self.problems)])


class Report(Reports, Protocol):
    """Receives what happens during a check. Every method does nothing unless it is overridden."""

    def note(self, text: str) -> None:
        """Called for what the kind of the key does not allow, which is the same in every run: a warning, unless it is
        overridden."""
        self.warning(text)

    def started(self, progress: Summary) -> None:
        """Called first. The check goes on counting in `progress`."""
        return

    def damage(self, damage: Damage) -> None:
        """Called for each piece of damage."""
        return


class Silent(Report):
    """Reports nothing."""


def check(
    archives: Sequence[str],
    key: Key | None,
    *,
    read_data: Subset | None = None,
    max_age: float | None = None,
    restore_test: int | None = None,
    seed: int | None = None,
    repair: bool = False,
    host: str | None = None,
    tags: Collection[str] = (),
    path: str | None = None,
    jobs: int | None = None,
    report: Report | None = None,
    executor: object = None,
    crew_options: CrewOptions | None = None,
) -> Summary:
    """Checks `archives`; for each that is a store, all its archives that `host`, `tags` and `path` select. If there are
    several and one cannot be opened, it is reported and the others are checked.

    Without `read_data`, checks that all blobs exist, that they have the sizes that the archive says, if it does, and
    that the index names the same blobs. A public key alone can only check by the index. With `read_data`, `repair` or
    without any key, packs are checked against their index objects; without a key that is all, and `read_data` reads
    whole packs. What is read of whole stores is remembered in them (reads.py); with `max_age`, in seconds, it is a
    problem if something was not read for longer. `restore_test` restores so many files to nowhere, which `seed` chooses
    (rehearsing.py). `repair` makes index objects anew. `executor` has other processes and machines read the data
    (cluster/executors.py).
    Raises UsageError, NoSuchArchive (also if none is selected), NoArchives, StoreError, and WrongKey if no archive
    opens.
    """
    report = report or Silent()
    if executor is not None and (key is None or not read_data):
        raise UsageError("--executor is for --read-data with a key")
    if key is None:
        if host or tags or path:
            raise UsageError("archives cannot be selected without a key")
        if restore_test:
            raise UsageError("a restore is tested with a key", hint="give the key that restores")
        return _check_packs(archives, read_data, max_age, repair, report)
    if read_data or max_age is not None or restore_test:
        require_decryption(key, "read data")
    check_jobs(jobs)
    wanted = Filter.of(host, tags, path)
    wanted.require(key)
    if max_age is not None and (wanted != Filter() or any(map(names_archive, archives))):
        raise UsageError("whether all was read can be told of whole stores only")
    with contextlib.ExitStack() as opened:
        summary = Summary()

        stores = _stores(archives, key, wanted, opened, telling(report, summary.problems))
        summary.total_archives = sum(len(chosen.manifests) for chosen in stores)
        report.started(summary)
        if not key.can_open:
            report.note(
                "a public key cannot open archives: only the presence and size of the blobs in their indexes are "
                "checked, and anybody with this key can write an index"
            )
        readers = None
        if executor is not None:
            from pogfast.cluster.opening import Readers  # imported here: most runs need no crew

            readers = opened.enter_context(Readers(executor, crew_options, key, report.warning, jobs))
            summary.tallies = readers.tallies
        candidates: list[Candidate] = []
        for store, manifests, is_whole in stores:
            lost: Callable[[], dict[str, str]] = dict
            if isinstance(store, CanScrub):
                scrubbing = Scrubbing(store, partial(_tell_found, summary, report), report.warning)
                if repair or read_data:
                    scrubbing.compare(repair=repair)
                else:
                    scrubbing.look()
                _count_packs(summary, scrubbing)
                lost = scrubbing.scrub.lost
            elif repair:
                raise UsageError(f"{store.label} has no packs: there is nothing that --repair could mend")
            reads = Reads(store, key, report.warning) if is_whole and (read_data or max_age is not None) else None
            run = _Check(store, manifests, key, wanted, summary, report, lost, reads, readers)
            readable = run.run(read_data, max_age, jobs or cores())
            candidates += [Candidate(store, name) for name in readable]
        if restore_test:
            summary.rehearsal = _rehearse(candidates, key, restore_test, seed, jobs or cores(), summary, report)
    if wanted != Filter() and not summary.total_archives and not summary.problems:
        raise NoSuchArchive(f"no archive {wanted} in {', '.join(archives)}", hint="`pogfast list` lists the archives")
    return summary


def _rehearse(
    candidates: Sequence[Candidate],
    key: Key,
    count: int,
    seed: int | None,
    jobs: int,
    summary: Summary,
    report: Report,
) -> Rehearsal:
    """Restores files to nowhere, and reports what is damaged and was not found before."""
    known = {(damage.archive, damage.name) for damage in summary.damage}

    def problem(archive: str, name: str | None, error: PogfastError) -> None:
        if not isinstance(error, DamageError):
            summary.problems.append(error)
            report.problem(error)
        elif (archive, name) not in known:
            damage = Damage(archive, name, None, None, str(error))
            summary.damage.append(damage)
            report.damage(damage)

    return rehearse(candidates, key, count, seed, jobs, problem)


def _check_packs(
    texts: Sequence[str], read_data: Subset | None, max_age: float | None, repair: bool, report: Report
) -> Summary:
    """Checks the packs of stores, without a key. Raises UsageError, NoSuchArchive and StoreError."""
    summary = Summary()
    report.started(summary)
    for text in texts:
        if names_archive(text):
            raise UsageError(f"{text} is an archive: {NO_KEY}")
        with contextlib.closing(open_store(text)) as store:
            if not isinstance(store, CanScrub):
                raise UsageError(f"{text} has no packs: {NO_KEY}", hint="give the key, --keyfile=FILE or another")
            scrubbing = Scrubbing(store, partial(_tell_found, summary, report), report.warning)
            scrubbing.compare(repair=repair)
            _count_packs(summary, scrubbing)
            if read_data or max_age is not None:
                reads = Reads(store, None, report.warning)
                if read_data:
                    _read_packs(scrubbing, read_data, reads, summary)
                if max_age is not None:
                    sizes = [(pack.name, pack.size) for pack in scrubbing.scrub.packs]
                    _tell_unproven(store.label, reads, sizes, max_age, summary, report)
    return summary


def _count_packs(summary: Summary, scrubbing: Scrubbing) -> None:
    summary.packs += len(scrubbing.scrub.packs)
    summary.index_objects += scrubbing.scrub.index_objects
    summary.packs_absent += scrubbing.scrub.absent


def _tell_unproven(
    label: str, reads: Reads, sizes: Sequence[tuple[str, int]], max_age: float, summary: Summary, report: Report
) -> None:
    """Reports how much of a store was not read for longer than `max_age` seconds."""
    unread, total = reads.unread(sizes, max_age), sum(size for _, size in sizes)
    summary.unproven = (summary.unproven or 0) + unread.size
    if unread.size:
        since = f"some of it since {unread.since:%Y-%m-%d}" if unread.since else "some of it never"
        share = f"{100 * unread.size / total:.3g} % of the data, {show_size(unread.size)}"
        text = f"{label}: {share}, was not read for {max_age / 86400:.3g} days, {since}"
        hint = "`pogfast check --read-data-subset` reads first what was not read for the longest time"
        problem = Unproven(text, hint=hint)
        summary.problems.append(problem)
        report.problem(problem)


def _read_packs(scrubbing: Scrubbing, part: Subset, reads: Reads, summary: Summary) -> None:
    def started(packs: int, size: int) -> None:
        summary.to_read += packs
        summary.to_read_size += size

    def count(pack: Stored) -> None:
        summary.read += 1
        summary.read_size += pack.size

    scrubbing.read(part, reads, count, started)


def _tell_found(summary: Summary, report: Report, found: Found) -> None:
    """Reports what was found in packs: damage, or that something cannot be read."""
    if isinstance(found.error, DamageError):
        damage = Damage("", None, found.blob, None, str(found.error), found.path or None)
        summary.damage.append(damage)
        report.damage(damage)
    else:
        summary.problems.append(found.error)
        report.problem(found.error)


class _Chosen(NamedTuple):
    """A store, the manifests to check in it, and whether these are all."""

    store: Store
    manifests: list[Stored]
    is_whole: bool


def _stores(texts: Sequence[str], key: Key, wanted: Filter, opened: contextlib.ExitStack, tell: Tell) -> list[_Chosen]:
    """Returns each store once, with the manifests to check in it. Closing `opened` closes them."""
    found: dict[str, _Chosen] = {}
    for text in texts:
        try:
            store, manifests = _named(text, key, wanted, opened, tell)
        except (NoSuchArchive, DamageError, StoreError) as error:
            if len(texts) == 1:
                raise
            tell(error)
            continue
        place = os.path.realpath(store.path)
        before = found.get(place, _Chosen(store, [], is_whole=False))
        there = {stored.name for stored in before.manifests}
        known = [*before.manifests, *(stored for stored in manifests if stored.name not in there)]
        is_whole = before.is_whole or (wanted == Filter() and not names_archive(text))
        found[place] = _Chosen(before.store, known, is_whole)
    return list(found.values())


def _named(text: str, key: Key, wanted: Filter, opened: contextlib.ExitStack, tell: Tell) -> tuple[Store, list[Stored]]:
    """Returns a store, and the manifests in it that `text` means."""
    if names_archive(text):
        store, name = find_archive(text, key, host=wanted.host, tags=wanted.tags, path=wanted.path, tell=tell)
    else:
        store, name = open_store(text), ""
    opened.callback(store.close)
    there = store.marks() if is_partial(name) else manifests_of(store)
    manifests = [stored for stored in there if name in ("", stored.name)]
    if name and not manifests:
        raise NoSuchArchive(f"no such archive: {text}")
    return store, manifests


class _Whole(NamedTuple):
    """A manifest as it was fetched, and opened; nothing if it need not be looked at."""

    data: bytes = b""
    opened: Manifest | None = None


class _Check:
    """The check of one store."""

    def __init__(
        self,
        store: Store,
        manifests: list[Stored],
        key: Key,
        wanted: Filter,
        summary: Summary,
        report: Report,
        lost: Callable[[], dict[str, str]],
        reads: Reads | None,
        readers: Readers | None,
    ) -> None:
        """`lost` returns the packs that are missing, by the blobs that were in them. `reads` is None if not all of the
        store is checked, `readers` if this machine reads."""
        self.store = store
        self.manifests = manifests
        self.key = key
        self.wanted = wanted
        self.summary = summary
        self.report = report
        self._lost = cache(lost)
        self.reads = reads
        self.readers = readers
        self.incomplete: set[str] = set()  # first blobs of units that are not all there
        self.unknown = False  # an archive, or an entry, does not say what it needs
        self.there = {blob.name: blob.size for blob in store.blob_names()}
        self.needed: set[str] = set()
        self.units: set[Unit] = set()
        self.done: set[str] = set()  # blobs that were read
        self.bad: dict[Unit, tuple[DamageError, str, int]] = {}  # damage, blob, offset; -1: unknown

    def run(self, read_data: Subset | None, max_age: float | None, jobs: int) -> list[str]:
        """Returns the names of the archives that can be opened."""
        if self.key.can_open:
            readable = self._look_at_archives(read_data=read_data is not None)
        else:
            readable = self._look_at_indexes()
        there = self.needed & self.there.keys()
        self.summary.blobs += len(there)
        self.summary.stored += sum(self.there[blob] for blob in there)
        if read_data:
            with self._remembered():
                times = NEVER if self.reads is None or self.unknown else self.reads.times
                self._read(read_data.choose(sorted(self.units), self.there, times), jobs)
            if self.bad:
                for name in readable:
                    self._trace(name)
        if max_age is not None and self.reads is not None:
            sizes = [(unit.blobs[0], _stored_size(unit, self.there)) for unit in self.units]
            _tell_unproven(self.store.label, self.reads, sizes, max_age, self.summary, self.report)
        return readable

    @contextlib.contextmanager
    def _remembered(self) -> Iterator[None]:
        """Remembers in the store what is read meanwhile, if it is known what there is to read."""
        if self.reads is None:
            yield
            return
        if self.unknown:
            self.report.warning(f"{self.store.label}: not all archives can be read: it is not remembered what is read")
            self.reads = None
            yield
            return
        for blob in self.incomplete:
            self.reads.spoil(blob)
        with self.reads.remembered(map(_first_blob, self.units)):
            yield

    # ---- sizes ----

    def _look_at_indexes(self) -> list[str]:
        """Checks the blobs in indexes, which is all that a public key opens. Returns the manifests' names."""
        names = []

        def look(stored: Stored) -> tuple[str, tuple[list[str], dict[str, int]] | PogfastError]:
            def sizes_in(data: bytes) -> tuple[list[str], dict[str, int]]:
                return manifest.blob_names(data, self.key, stored.name), manifest.open_sizes(
                    data, self.key, stored.name
                )

            try:
                return stored.name, fetched_manifest(self.store, stored.name, sizes_in)
            except PogfastError as error:
                return stored.name, error

        found = in_parallel(look, self.manifests, self.store.parallel)
        for name, (blobs, sizes) in those_that_open(found, self._unreadable, others=len(self.summary.damage)):
            for blob in sorted(set(blobs)):
                wrong = self.wrong_size(blob, None, sizes.get(blob))
                if wrong:
                    self._tell(Damage(name, None, blob, None, str(wrong), lost_pack=self._lost_pack(blob)))
            self.needed.update(blobs)
            self.summary.archives += 1
            names.append(name)
        return names

    def _look_at_archives(self, *, read_data: bool) -> list[str]:
        """Checks the archives that open and are selected. Returns their manifests' names."""
        names = []
        with Catalog(self.store, self.key) as catalog:
            # Damage in another store counts: the check then ends with that, even if the key opens nothing here.
            found = self._found(catalog, read_data=read_data)
            for name, whole in those_that_open(found, self._unreadable, others=len(self.summary.damage)):
                if whole.opened is not None:
                    self._look_at_archive(name, whole.data, whole.opened)
                names.append(name)
                del whole  # a manifest at a time
        return names

    def _found(self, catalog: Catalog, *, read_data: bool) -> Iterator[tuple[str, _Whole | PogfastError]]:
        """Yields the selected archives, each with its manifest or why that does not open; with nothing if the catalog
        knows what is in it, and all of that is in order."""
        in_order = _InOrder(self, catalog.members)

        # A listing without versions does not tell whether a file is damaged. Reading it does, and takes little time
        # where the store is a directory.
        def again(stored: Stored) -> bool:
            return read_data or not stored.version

        for archive in catalog.read(self.manifests, members=True, again=again):
            if archive.problem is None and not self.wanted.fits(archive.trailer):
                self.summary.total_archives -= 1
            elif archive.problem is None and in_order.has(archive):
                yield archive.name, _Whole()
            elif archive.whole is not None:
                yield archive.name, _Whole(*archive.whole)
            else:
                yield archive.name, self._open(archive.name)

    def _open(self, name: str) -> _Whole | PogfastError:
        try:
            return fetched_manifest(self.store, name, lambda data: _Whole(data, manifest.open(data, self.key, name)))
        except PogfastError as error:
            return error

    def _look_at_archive(self, name: str, data: bytes, opened: Manifest) -> None:
        """Checks the files of an archive. A malformed entry is damage; the others are checked."""
        full = _full_size(opened, self.key)
        blobs: list[str] = []
        told = True  # entries say how large their blobs were stored
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
                self.unknown = True
                if malformed <= MAX_MALFORMED:
                    self._tell(Damage(name, file, None, None, str(error)))
        if malformed > MAX_MALFORMED:
            text = f"{name}: {malformed - MAX_MALFORMED:,} more of its entries are malformed"
            self._tell(Damage(name, None, None, None, text))
        self.needed.update(blobs)
        self._look_at_manifest(name, data, blobs, Trailer(None if told else opened.trailer))
        self.summary.archives += 1

    def _look_at_manifest(self, name: str, data: bytes, blobs: list[str], trailer: Trailer) -> None:
        """Checks that the index names the blobs, and, by a trailer that has it, that their total size is right."""
        try:
            self._check_index(name, data, blobs)
        except (CorruptManifest, WrongKey) as error:
            self._tell(Damage(name, None, None, None, str(error)))
        was = trailer.total("stored")
        sizes = [self.there.get(blob) for blob in set(blobs)]
        known = [size for size in sizes if size is not None]
        if was is not None and len(known) == len(sizes) and abs(sum(known) - was) > manifest.MAX_PAD * len(known):
            text = f"its blobs have {sum(known):,} bytes, and had {was:,}: some are cut short or have grown"
            self._tell(Damage(name, None, None, None, f"{name}: {text}; --read-data finds which"))

    def _check_index(self, name: str, data: bytes, blobs: list[str]) -> None:
        """Raises CorruptManifest and WrongKey. A manifest that seems damaged is fetched once more."""
        try:
            manifest.check_index(blobs, data, self.key, name)
        except (CorruptManifest, WrongKey):
            manifest.check_index(blobs, self.store.get_manifest(name), self.key, name)

    def _look_at_file(
        self, archive: str, name: str, entry: Entry, full: int | None, sizes: Sequence[int] | None
    ) -> None:
        """Checks the blobs of a file. `sizes` are those that they were stored with, if the archive says so."""
        self.summary.files += 1
        stored = dict(zip(entry.blobs, sizes or (), strict=False))
        for unit, offset in units_of(entry):
            whole = True
            for index, blob in enumerate(unit.blobs):
                wrong = self.wrong_size(blob, full if index < len(unit.blobs) - 1 else None, stored.get(blob))
                if wrong:
                    whole = False
                    start, pack = None if index else offset, self._lost_pack(blob)
                    self._tell(Damage(archive, name, blob, start, f"{name}: {wrong}", lost_pack=pack))
            if whole:
                self.units.add(unit)
            else:
                self.incomplete.add(unit.blobs[0])

    def _lost_pack(self, blob: str) -> str | None:
        """Returns the pack in which a missing blob was, if that is known."""
        return None if blob in self.there else self._lost().get(blob)

    def wrong_size(self, blob: str, full: int | None, was: int | None) -> DamageError | None:
        """Returns what is wrong with a blob by its size, None if nothing. `full` is the size that it must have, `was`
        the one that it was stored with, with or without padding; None if unknown."""
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
        self.unknown = self.unknown or not isinstance(error, OtherKey)
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

    # ---- content ----

    def _read(self, units: Sequence[Unit], jobs: int) -> None:
        wanted_blobs = {blob for unit in units for blob in unit.blobs}
        self.summary.to_read += len(wanted_blobs)
        self.summary.to_read_size += sum(self.there[blob] for blob in wanted_blobs)
        source = self.store.source
        if isinstance(source, CanOrder):
            units = [units[number] for number in source.order([unit.blobs for unit in units])]
        if not units:
            return
        at_a_time = BATCH if self.readers is None else BATCH_OF_MANY
        with self._opening(jobs) as open_all:
            for start in range(0, len(units), at_a_time):
                batch = units[start : start + at_a_time]
                wanted = [
                    Wanted(-1, b"", list(unit.blobs), [unit.size] if _is_frame(unit) else None, unit.size, 0, 0)
                    for unit in batch
                ]
                opener = open_all(wanted)
                self._watch(opener.read, self.summary.read_size)
                with contextlib.closing(opener.run()) as run:
                    for unit, opened in zip(batch, run, strict=True):
                        self._judge(unit, opened)
                self.summary.in_progress = lambda: 0

    @contextlib.contextmanager
    def _opening(self, jobs: int) -> Iterator[Callable[[Sequence[Wanted]], Opener | ClusterOpener]]:
        """Gives what has blobs read by this machine, or by others."""
        if self.readers is not None:
            from pogfast.cluster.units import Asked

            with self.readers.of(self.store, self.manifests[-1].name) as open_all:
                yield lambda wanted: open_all([Asked("", each) for each in wanted])
            return
        key, source = self.key, self.store.source

        def open_here(wanted: Sequence[Wanted]) -> Opener:
            prefetch(source, (blob for each in wanted for blob in each.blobs))
            return Opener(key.secret, key.private, key.asymmetric, wanted, source, jobs=jobs)

        yield open_here

    def _watch(self, read: Callable[[], int], finished: int) -> None:
        """Shows progress: `finished` bytes plus what the engine has read. A blob in several streams is read for each
        of them, and counts once."""
        left = self.summary.to_read_size - self.summary.read_size
        self.summary.in_progress = lambda: max(0, min(finished + left, finished + read()) - self.summary.read_size)

    def _judge(self, unit: Unit, opened: Opened) -> None:
        new = set(unit.blobs) - self.done
        self.done |= new
        self.summary.read += len(new)
        self.summary.read_size += sum(self.there[blob] for blob in new)
        if opened.verdict == VERDICT["good"]:
            if self.reads is not None:
                self.reads.good(unit.blobs[0])
            return
        blob = unit.blobs[opened.blob]
        if opened.verdict in DAMAGE:
            kind, said = DAMAGE[opened.verdict]
        elif opened.errno == errno.EIO:  # the disk is damaged there
            kind, said = CorruptBlob, f"cannot be read: {os.strerror(opened.errno)}"
        else:
            problem = StoreError(f"cannot read blob {blob} in {self.store.label}: {why_not_read(opened.errno)}")
            self._problem(problem)
            return
        self.bad[unit] = kind(f"blob {blob} {said}"), blob, opened.offset

    def _trace(self, archive: str) -> None:
        """Reports the files of an archive that need damaged blobs."""
        entries = fetched_manifest(self.store, archive, partial(manifest.open, key=self.key, name=archive)).entries
        for name in entries:
            with contextlib.suppress(CorruptManifest):  # reported before
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
        """Returns how many bytes of a damaged stream can be read. The engine does not know: it stops before it has
        decompressed them."""
        good = 0
        with (
            ThreadPoolExecutor(1) as thread,
            EntryFile(name, entry, self.key, self.store, lambda: thread, 1) as file,
            contextlib.suppress(PogfastError),
        ):
            for piece in file.pieces():
                good += len(piece)
        return good


class _InOrder:
    """Tells of archives that the catalog knows whether there is anything to report. What successive archives have in
    common is looked at once. Archives that may have something to report are looked at in full."""

    def __init__(self, check: _Check, table: MemberTable) -> None:
        self.check = check
        self.table = table
        # By number: how many files a member is, and whether the archive says how large its blobs were stored; None if
        # there is something to report.
        self.seen: dict[int, tuple[int, bool] | None] = {}

    def has(self, archive: CatalogedArchive) -> bool:
        """Counts an archive, and returns True, if its blobs are in the store with the sizes that they should have."""
        trailer = archive.trailer
        if archive.members is None or (trailer.layout == "stream" and trailer.chunk_size is not None):
            return False
        files, told = 0, True
        for number in archive.members:
            if number not in self.seen:
                self.seen[number] = self._look_at(self.table[number])
            found = self.seen[number]
            if found is None:
                return False
            files += found[0]
            told = told and found[1]
        if not told and trailer.total("stored") is not None:
            return False
        self.check.summary.files += files
        self.check.summary.archives += 1
        return True

    def _look_at(self, member: RawMember) -> tuple[int, bool] | None:
        if member.kind != FILE:
            return 0, True
        try:
            entry = member.parsed("").entry
            assert entry is not None
            stored = dict(zip(entry.blobs, entry.stored or (), strict=False))
            units = [unit for unit, _ in units_of(entry)]
        except CorruptManifest:
            return None
        if any(self.check.wrong_size(blob, None, stored.get(blob)) for blob in entry.blobs):
            return None
        self.check.needed.update(entry.blobs)
        self.check.units.update(units)
        return 1, entry.stored is not None


def units_of(entry: Entry) -> Iterator[tuple[Unit, int]]:
    """Yields the units of a file, each with its offset in the file."""
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
    """Returns the size of each blob of a stream but the last, if the trailer says how streams were cut."""
    trailer = Trailer(opened.trailer)
    if trailer.layout != "stream" or trailer.chunk_size is None:
        return None
    return key.header_size + manifest.BOX + trailer.chunk_size

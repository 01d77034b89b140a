"""`pogfast merge`: makes the archive of the parts that the shards of a set have stored (shards.py).

The archive has the entries that one create would have made, in its order. A key pair needs only the public key, which
opens partial manifests. Nothing is published unless every shard's part is there and complete, and every store holds all
blobs. Entries stay compressed, so the parts of a large archive take little more memory than its manifest.
"""

from __future__ import annotations

import contextlib
import hashlib
import heapq
import os
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby, islice, pairwise
from typing import Any, Protocol

from pogfast import manifest
from pogfast._engine import BlobSet
from pogfast.backup.report import Silent
from pogfast.backup.shards import OF_FILE, Part, check_set, job_in
from pogfast.errors import (
    CorruptManifest,
    DamageError,
    NoSuchArchive,
    PogfastError,
    SourceError,
    StoreError,
    StoreLost,
    UsageError,
    WrongKey,
)
from pogfast.keys import Key
from pogfast.manifest import Entry
from pogfast.sizes import many
from pogfast.stores import check_stores, open_stores
from pogfast.stores.protocols import Target
from pogfast.stores.publish import conclude
from pogfast.stores.reliance import stored_again
from pogfast.stores.targets import Targets
from pogfast.system.clock import now

# Seconds after which a part is too old: prunes ignore it a day later, and no two clocks are so far apart.
MAX_AGE = 6 * 24 * 3600.0
AT_A_TIME = 4096  # blobs that a store is asked for
SECTIONS = ("directories", "links", "fifos", "unreadable", "shard")
MAX_NAMED = 20  # shards in a message


class Report(Protocol):
    """Receives what happens during a merge."""

    def warning(self, text: str) -> None:
        """Called for what a user should know, although it is no failure."""

    def problem(self, error: PogfastError) -> None:
        """Called for each file that is left out and each store that is lost; the merge continues."""

    def concluding(self, manifest: str) -> None:
        """Called before the manifest of this name is stored. An exception aborts publication."""


@dataclass
class Merged:
    """What was made of the parts. Sizes are in bytes; `bytes_added` were written to the first store by the shards."""

    manifest: str = ""
    shards: int = 0
    files: int = 0
    directories: int = 0
    others: int = 0  # links, FIFOs and hard links
    bytes_source: int = 0
    bytes_stored: int = 0
    bytes_added: int = 0
    seconds: float = 0.0
    problems: list[PogfastError] = field(default_factory=list)


def merge(to: str, key: Key, *, set_name: str | None = None, report: Report | None = None) -> Merged:
    """Makes the archive of a set of shards in every store that `to` names, and deletes their parts. `set_name` is
    needed only if there are parts of several sets.

    Raises UsageError, NoSuchArchive if there are no parts, PogfastError if a shard has to be run first or again, and
    StoreError.
    """
    key.check_writes()
    check_stores(to)
    if set_name is not None:
        check_set(set_name)
    started = time.monotonic()
    merged = Merged()
    with contextlib.ExitStack() as stack:
        missing: list[StoreLost] = []
        targets = open_stores(to, missing.append, must_exist=True)
        for target in targets:
            stack.callback(target.close)
        run = _Merge(key, targets, report or Silent(), merged)
        for lost in missing:
            run.problem(lost)
        run.read(set_name)
        run.conclude()
    merged.seconds = time.monotonic() - started
    return merged


@dataclass
class _Read:
    """A part that was read: its entries in order, its trailer, and the sha256 of its bytes."""

    part: Part
    entries: manifest.Packed
    trailer: dict[str, Any]
    digest: bytes
    job: str
    is_complete: bool


class _Merge:
    """One merge: the parts, and the archive that is made of them."""

    def __init__(self, key: Key, targets: Sequence[Target], report: Report, merged: Merged) -> None:
        self.key = key
        self.report = report
        self.merged = merged
        self.targets = Targets(targets, self.problem, report.warning)
        self.parts: list[_Read] = []
        self.left_out: dict[str, str] = {}  # files by archived name, and why
        self._told: set[str] = set()

    def problem(self, error: PogfastError) -> None:
        self.merged.problems.append(error)
        self.report.problem(error)

    # ---- the parts ----

    def read(self, set_name: str | None) -> None:
        """Reads the parts of a set. Raises PogfastError unless they are complete and belong together."""
        first = self.targets.left[0]
        found = {part: mark.modified for mark in first.marks() if (part := Part.parse(mark.name)) is not None}
        parts = _one_set(found, set_name, first.label)
        of = parts[0].of
        there = {part.number for part in parts}
        told = {
            "not there": [number for number in range(1, of + 1) if number not in there],
            "too old": [part.number for part in parts if found[part] < now() - MAX_AGE],
        }
        if not any(told.values()):
            self.parts = [self._open(first, part) for part in parts]
            told["interrupted"] = [each.part.number for each in self.parts if not each.is_complete]
            job = self.parts[0].job
            told["of other paths or options"] = [each.part.number for each in self.parts if each.job != job]
        if any(told.values()):
            words = "; ".join(f"{_shards(numbers)} {what}" for what, numbers in told.items() if numbers)
            raise PogfastError(
                f"{first.label}: the set {parts[0].set} of {many(of, 'shard')} is not complete: {words}",
                hint="run these shards (again), and then merge",
            )
        self.targets.each(self._compare)
        self._check_blobs()

    def _open(self, target: Target, part: Part) -> _Read:
        """Reads a part. Raises PogfastError with its shard if that fails."""
        try:
            data = target.get_manifest(part.name)
            opened = manifest.open_partial(data, self.key, part.name)
            trailer = _checked(opened.trailer or {}, part.name)
            places = _Places(trailer)
            entries = manifest.Packed(places.in_order(opened.entries))
        except (NoSuchArchive, DamageError) as error:
            error.hint = f"run shard {part.number} again, and then merge"
            raise
        except WrongKey as error:
            error.hint = "merge with the key that the shards had"
            raise
        job, is_complete = job_in(trailer, part)
        return _Read(part, entries, trailer, hashlib.sha256(data).digest(), job, is_complete)

    def _compare(self, target: Target) -> None:
        """Raises StoreError if a store has not the same parts as the first one."""
        for each in self.parts if target is not self.targets.left[0] else []:
            with contextlib.suppress(NoSuchArchive):
                if hashlib.sha256(target.get_manifest(each.part.name)).digest() == each.digest:
                    continue
            number = each.part.number
            raise StoreError(
                f"{target.label} lacks what shard {number} has stored elsewhere", f"run shard {number} again"
            )

    # ---- the blobs ----

    def _check_blobs(self) -> None:
        """Raises StoreError with the shards whose blobs a store does not hold. A blob that a prune has condemned is
        there as long as parts name it."""

        def check(target: Target) -> None:
            for each in self.parts:
                blobs = self._blobs(each)
                while names := list(islice(blobs, AT_A_TIME)):
                    sizes = target.sizes_of(names)
                    doubtful = [name for name, size in zip(names, sizes, strict=True) if size is None]
                    if doubtful and (gone := target.missing(doubtful)):
                        self._refuse(target, gone)

        self.targets.each(check)

    def _refuse(self, target: Target, gone: Collection[str]) -> None:
        """Raises StoreError with the shards that need blobs which are gone."""
        lost = set(gone)
        numbers = [each.part.number for each in self.parts if not lost.isdisjoint(self._blobs(each))]
        raise StoreError(
            f"{target.label} lacks blobs of {_shards(numbers)}: a prune may have deleted them",
            "run these shards again, and then merge",
        )

    def _blobs(self, each: _Read) -> Iterator[str]:
        for name, text in each.entries:
            yield from manifest.content_of(text, f"{each.part.name}: the entry {name}").blobs

    def _still_there(self, names: Collection[str]) -> None:
        """Raises StoreError if blobs that a prune has condemned are gone: merging cannot store them again."""

        def check(target: Target) -> None:
            if gone := target.missing(names):
                self._refuse(target, gone)

        self.targets.each(check)

    # ---- the archive ----

    def conclude(self) -> None:
        """Publishes the archive, and deletes the parts."""
        self.merged.manifest = stored_again(self._publish, self._still_there)
        for each in self.parts:
            self.targets.delete_partial(each.part.name)

    def _publish(self) -> str:
        return conclude(
            self.targets,
            self._seal,
            lambda data: set(manifest.blob_names(data, self.key, "the manifest")),
            self.report.concluding,
        )

    def _seal(self) -> bytes:
        """Returns the manifest of all parts, with the entries in the order of a walk."""
        writer, distinct = manifest.Writer(self.key), BlobSet()
        merged = self.merged
        merged.shards, merged.files, merged.others = len(self.parts), 0, 0
        merged.bytes_source = merged.bytes_stored = 0
        self.left_out = {}
        for name, text in self._whole_files():
            content = manifest.content_of(text, f"the entry {name}")
            writer.add_text(name, text, content.blobs, content.stored)
            merged.bytes_stored += distinct.add(content.blobs, content.stored)
            if content.hardlink is None:
                merged.files += 1
                merged.bytes_source += content.size
            else:
                merged.others += 1
        return writer.seal(self._trailer(len(writer)))

    def _whole_files(self) -> Iterator[tuple[str, bytes]]:
        """Yields the entries of all parts in the order of a walk. Of a large file that shards have shared, the spans
        become one entry; if they do not fit together, the file is left out."""
        places = _Places(self.parts[0].trailer)
        entries = heapq.merge(*(each.entries for each in self.parts), key=lambda entry: places.of(entry[0]))
        for file, found in groupby(entries, key=lambda entry: entry[0].partition(OF_FILE)[0]):
            whole: tuple[str, bytes] | None = None
            spans: list[Entry] = []
            for name, text in found:
                if OF_FILE in name:
                    spans.append(manifest.parse_entry(text, f"the entry {name}"))
                else:
                    whole = name, text  # another shard has found it when it was small
            joined = _joined(spans) if whole is None else None
            if whole is not None:
                yield whole
            elif joined is not None:
                yield (
                    file,
                    manifest.encoded(
                        {"blobs": joined.blobs, "atime": joined.atime, "mtime": joined.mtime, **joined.more}
                    ),
                )
            else:
                self._leave_out(file)

    def _leave_out(self, file: str) -> None:
        """Reports a file of which shards have found different versions, once."""
        reason = "shards have found different versions of it, or could not read it"
        self.left_out[file] = reason
        if file not in self._told:
            self._told.add(file)
            hint = "run the shards again, and merge before it changes"
            self.problem(SourceError(f"{file}: left out, since {reason}", hint, path=file, reason=reason))

    def _trailer(self, entries: int) -> dict[str, Any]:
        """Returns the trailer: the first shard's, with what the others could not read."""
        trailers = [each.trailer for each in self.parts]
        first = {word: value for word, value in trailers[0].items() if word not in ("run", "since", "shard")}
        times = {"time": min(_texts(trailers, "time")), "ended": max(_texts(trailers, "ended"))}
        words = {**first, **{word: value.isoformat() for word, value in times.items()}}
        if unreadable := {**_sections(trailers, "unreadable"), **self.left_out}:
            words["unreadable"] = unreadable
        if changed := [name for trailer in trailers for name in trailer.get("changed", [])]:
            words["changed"] = changed
        counts = {word: len(words.get(word, {})) for word in ("directories", "links", "fifos")}
        self.merged.directories = counts["directories"]
        self.merged.others += counts["links"] + counts["fifos"]
        self.merged.bytes_added = sum(_added(trailer) for trailer in trailers)
        sizes = {"size": self.merged.bytes_source, "stored": self.merged.bytes_stored, "added": self.merged.bytes_added}
        return {**words, "totals": {"files": entries, **counts, **sizes}}


class _Places:
    """Where the walk comes to a name: inputs in their order, below each the names in a directory by their bytes."""

    def __init__(self, trailer: dict[str, Any]) -> None:
        inputs = trailer.get("shard", {}).get("inputs")
        self.first: dict[str, int] = {}
        for number, name in enumerate(map(str, inputs) if isinstance(inputs, list) else []):
            self.first.setdefault(name, number)

    def in_order(self, entries: Mapping[str, Entry]) -> Iterator[tuple[str, bytes]]:
        """Yields entries of an opened manifest by their places. They are so already, but for files that changed while
        they were read, and directories that two inputs share."""
        names: Iterable[str] = entries
        if any(self.of(before) > self.of(name) for before, name in pairwise(entries)):
            names = sorted(entries, key=self.of)
        for name in names:
            yield name, bytes(manifest.entry_text(entries, name))

    def of(self, name: str) -> tuple[int, list[bytes], int]:
        """Returns what to sort by: spans of a file come after each other."""
        file, _, span = name.partition(OF_FILE)
        number, above = self.first.get("", len(self.first)), file
        while above:
            number = min(number, self.first.get(above, number))
            above = above.rpartition("/")[0]
        return number, os.fsencode(file).split(b"/"), int(span) if span.isdecimal() else -1


def _joined(spans: Sequence[Entry]) -> Entry | None:
    """Returns the entry of a file from those of its spans, None if these are not all of one version of it."""
    first, at = spans[0], 0
    place = first.more.get("span")
    if not isinstance(place, list) or len(place) != 3:
        return None
    more = {word: value for word, value in first.more.items() if word not in ("span", "size", "sizes", "stored")}
    sizes: list[int] = []
    stored: list[int] = []
    for span in spans:
        if span.more.get("span") != [at, *place[1:]] or span.more.get("mtime_ns") != more.get("mtime_ns"):
            return None
        sizes += span.sizes or []
        stored += span.stored or []
        at += span.size or 0
    if at != place[1] or sum(sizes) != at:
        return None
    blobs = [name for span in spans for name in span.blobs]
    if any(span.more.get("sparse") for span in spans):
        more["sparse"] = True
    return Entry(blobs, first.atime, first.mtime, {"size": at, **more, "sizes": sizes, "stored": stored})


def _one_set(found: Collection[Part], set_name: str | None, label: str) -> list[Part]:
    """Returns the parts of the set that is meant, by their numbers. Raises NoSuchArchive and UsageError."""
    wanted = sorted(part for part in found if set_name in (None, part.set))
    sets = Counter((part.set, part.of) for part in wanted)
    if not wanted:
        of_set = "" if set_name is None else f" of the set {set_name}"
        raise NoSuchArchive(f"{label} has no parts{of_set}", hint="`pogfast create --shard 1/16` and so on make them")
    if len(sets) > 1:
        which = ", ".join(f"{name} (of {many(of, 'shard')})" for name, of in sets)
        hint = "name one with --set" if set_name is None else "delete those of a set that is not needed"
        raise UsageError(f"{label} has parts of several sets: {which}", hint=hint)
    return wanted


def _shards(numbers: Sequence[int]) -> str:
    """Returns `shards 3, 5-8` for people."""
    stretches: list[list[int]] = []
    for number in numbers:
        if stretches and stretches[-1][1] == number - 1:
            stretches[-1][1] = number
        else:
            stretches.append([number, number])
    words = [str(first) if first == last else f"{first}-{last}" for first, last in stretches]
    more = [f"{len(words) - MAX_NAMED} more"] if len(words) > MAX_NAMED else []
    return f"shard{'' if len(numbers) == 1 else 's'} {', '.join(words[:MAX_NAMED] + more)}"


def _checked(trailer: dict[str, Any], name: str) -> dict[str, Any]:
    """Returns the trailer of a part. Raises CorruptManifest if what merging needs of it is malformed."""
    sections = all(isinstance(trailer.get(word, {}), dict) for word in SECTIONS)
    if not sections or not isinstance(trailer.get("changed", []), list):
        raise CorruptManifest(f"{name}: its trailer is malformed")
    try:
        zones = [datetime.fromisoformat(str(trailer.get(word))).tzinfo for word in ("time", "ended")]
    except ValueError as error:
        raise CorruptManifest(f"{name}: its trailer has no times") from error
    if None in zones:
        raise CorruptManifest(f"{name}: its trailer has times without a zone")
    return trailer


def _texts(trailers: Iterable[dict[str, Any]], word: str) -> list[datetime]:
    return [datetime.fromisoformat(str(trailer.get(word))) for trailer in trailers]


def _sections(trailers: Iterable[dict[str, Any]], word: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for trailer in trailers:
        found.update(trailer.get(word, {}))
    return found


def _added(trailer: dict[str, Any]) -> int:
    totals = trailer.get("totals")
    added = totals.get("added") if isinstance(totals, dict) else None
    return added if type(added) is int else 0

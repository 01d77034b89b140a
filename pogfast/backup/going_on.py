"""What an interrupted run has stored, by its partial manifest, so that another one goes on from there: on any machine,
without the cache of the first.

A file is unchanged if it has the same size and time and was last changed before that run began, since it was read
after that. What is said of its blobs counts as far as the stores hold them, as with the cache: known.py asks them. With
a key pair anybody with the public key can forge a partial manifest, as every machine that makes backups can anyway.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pogfast import manifest
from pogfast._engine import Stat
from pogfast.backup.cache_rows import KnownBlobs
from pogfast.backup.options import Options
from pogfast.backup.shards import Part, Span
from pogfast.backup.walk import archived_name
from pogfast.errors import CorruptManifest, DamageError, NoSuchArchive, StoreError, WrongKey
from pogfast.files.metadata import kept_time
from pogfast.keys import Key
from pogfast.manifest import Entry
from pogfast.stores import PARTIAL, is_partial
from pogfast.stores.protocols import Target

# Nanoseconds by which a change must be older than the beginning of the other run: clocks of machines and of file
# servers differ.
MARGIN_NS = 60 * 10**9
MAX_LOOKED_AT = 16  # partial manifests of other runs that are fetched, the newest first
# Key of an entry that is only the beginning of a file, which has so many bytes. An archived file can be called
# NAME.partial as well.
BEGINS = "begins"


def identity_of(key: Key, options: Options, paths: Sequence[str], host: str) -> str:
    """Returns a digest of what two runs must have in common for one to go on from the other: the host, the inputs and
    their archived names, and how files are cut. It tells nobody without the key anything about these."""
    inputs = [[os.path.abspath(os.path.join(options.base or ".", path)), archived_name(path)] for path in paths]
    words = manifest.encoded([host, options.cut, inputs])
    return hashlib.blake2b(words, key=key.derive("identity of a run"), digest_size=16).hexdigest()


def words_of(identity: str, since: datetime) -> dict[str, str]:
    """Returns what the trailer of a partial manifest says besides that of an archive."""
    return {"run": identity, "since": since.isoformat()}


@dataclass
class Earlier:
    """The files in the partial manifest `name` that this run has not finished, by archived name, as JSON. `since`: all
    were read after this time."""

    name: str
    since: datetime
    options: Options
    files: dict[str, bytes]
    begun: dict[str, Entry]  # the beginnings of files, by the names of these

    @property
    def left(self) -> Iterator[tuple[str, Entry]]:
        """Yields the entries of files that this run has not finished."""
        for name, text in self.files.items():
            with contextlib.suppress(CorruptManifest):
                yield name, manifest.parse_entry(text, name)
        for name, entry in self.begun.items():
            yield name + PARTIAL, entry

    def __bool__(self) -> bool:
        return bool(self.files or self.begun)

    def __contains__(self, name: str) -> bool:
        return name in self.files or name in self.begun

    def forget(self, name: str) -> None:
        """Forgets a file that this run has finished."""
        self.files.pop(name, None)
        self.begun.pop(name, None)

    def blobs_of(self, name: str, stat: Stat | os.stat_result, span: Span | None = None) -> KnownBlobs | None:
        """Returns the blobs of a file that is unchanged, or the first ones; with `span` all of that part of it. None if
        nothing is known of it."""
        text, begun = self.files.get(name), self.begun.get(name)
        if stat.st_ctime_ns > int(self.since.timestamp() * 10**9) - MARGIN_NS:
            return None
        with contextlib.suppress(CorruptManifest):
            if text is not None:
                entry = manifest.parse_entry(text, name)
                size = span.length if span else stat.st_size
                fits = entry.more.get("span") == ([span.offset, stat.st_size, stat.st_ino] if span else None)
                if fits and entry.size == size and (known := self._blobs(entry, stat, size, complete=True)):
                    return known
            if begun is not None and begun.more.get(BEGINS) == stat.st_size:
                return self._blobs(begun, stat, stat.st_size, complete=False)
        return None

    def _blobs(self, entry: Entry, stat: Stat | os.stat_result, size: int, *, complete: bool) -> KnownBlobs | None:
        """Returns the blobs of an entry if it is of the file as it is now, which has `size` bytes, and cut as files are
        now."""
        stored = entry.stored
        times = entry.more.get("mtime_ns"), kept_time(stat.st_mtime_ns)
        if stored is None or times[0] != times[1] or entry.more.get("changed") or not entry.blobs:
            return None
        if self.options.layout == "stream":
            return KnownBlobs(entry.blobs, stored, complete) if complete else None
        sizes, cuts = entry.sizes or [], self.options.cuts
        if cuts.by_content:
            fits = not complete or sum(sizes) == size
            return KnownBlobs(entry.blobs, stored, complete, sizes) if fits and sizes else None
        chunk = cuts.maximum
        expected = [min(chunk, size - at) for at in range(0, size, chunk)] or [0]
        fits = sizes == (expected if complete else expected[: len(sizes)])
        return KnownBlobs(entry.blobs, stored, complete) if fits and sizes else None


def find(target: Target, key: Key, options: Options, identity: str) -> Earlier | None:
    """Returns what the newest partial manifest of the same run says, None if there is none that can be read."""
    with contextlib.suppress(StoreError):  # a writer may have no right to list
        found = [mark for mark in target.marks() if is_partial(mark.name) and Part.parse(mark.name) is None]
        for mark in sorted(found, key=lambda mark: mark.modified)[: -MAX_LOOKED_AT - 1 : -1]:
            if (earlier := read(target, mark.name, key, options, identity)) is not None:
                return earlier
    return None


def read(target: Target, name: str, key: Key, options: Options, identity: str) -> Earlier | None:
    """Returns what one partial manifest says; None if it is of another run, or cannot be read."""
    with contextlib.suppress(StoreError, NoSuchArchive, DamageError, WrongKey):
        opened = manifest.open_partial(target.get_manifest(name), key, name)
        trailer: dict[str, Any] = opened.trailer or {}
        since = _time(trailer.get("since"))
        if trailer.get("run") != identity or since is None:
            return None
        earlier = Earlier(name, since, options, {}, {})
        for file, text in manifest.entry_texts(opened.entries):
            entry = manifest.parse_entry(text, file) if file.endswith(PARTIAL) else None
            if entry is not None and BEGINS in entry.more:
                earlier.begun[file.removesuffix(PARTIAL)] = entry
            else:
                earlier.files[file] = text
        return earlier
    return None


def _time(text: object) -> datetime | None:
    """Returns a time in the past, with a time zone; None for anything else."""
    try:
        found = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    latest = datetime.now().astimezone() + timedelta(minutes=1)
    return found if found.tzinfo is not None and found < latest else None

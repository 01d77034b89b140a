"""`pog --decrypt`, `--dump-manifest` and `--dump-manifest-index`: restores files, replacing existing ones.

An entry that cannot be restored is reported, and the others are restored. With `--consume`, a blob is deleted only once
every file that needs it is on the disk.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO, Protocol

from pogfast import manifest
from pogfast._engine import MAX_BLOB, Opened, Wanted, open_blob
from pogfast.errors import (
    CorruptBlob,
    CorruptManifest,
    NoSuchArchive,
    NoSuchEntry,
    PogfastError,
    StoreError,
    TargetError,
    UnsafePath,
    WrongKey,
)
from pogfast.files.directories import Directories, many_open_files
from pogfast.files.metadata import Metadata, kept_metadata
from pogfast.files.paths import basename, parent_of, safe_path
from pogfast.keys import Key
from pogfast.manifest import Entry
from pogfast.pog.addresses import open_archive, open_stored
from pogfast.recovery.batches import restore_places
from pogfast.recovery.plan import Place, superseded
from pogfast.stores.fetching import fetched, fetched_manifest
from pogfast.stores.local import LocalStore, read_whole
from pogfast.stores.protocols import Source, Store

# Blobs deleted at a time by --consume: each batch costs one sync.
CONSUME_BATCH = 256


class Report(Protocol):
    """Callbacks of a run, called in the order of the manifest whatever the number of workers."""

    def file(self, index: int, total: int, name: str) -> None: ...

    def problem(self, error: PogfastError) -> None: ...


@dataclass
class Summary:
    """The result: number of restored files, and problems."""

    files: int = 0
    problems: list[PogfastError] = field(default_factory=list)


def read_archive(archive: str, key: Key) -> manifest.Manifest:
    """Opens the manifest at a path or address. Raises NoSuchArchive, WrongKey and CorruptManifest."""
    store, name = open_archive(archive)
    with contextlib.closing(store):
        return fetched_manifest(store, name, lambda data: manifest.open(data, key, archive))


def read_index(archive: str, key: Key) -> list[str]:
    """Returns the names of the blobs of an archive, with repetitions, in pogcli's order: sorted in an archive of a
    key pair, whose public key is enough. Raises as read_archive."""
    store, name = open_archive(archive)
    with contextlib.closing(store):
        names = fetched_manifest(store, name, lambda data: manifest.blob_names(data, key, archive))
    return sorted(names) if key.asymmetric else names


def restore(
    archive: str,
    key: Key,
    into: str,
    *,
    names: Collection[str] | None,
    consume: bool,
    jobs: int,
    report: Report,
) -> Summary:
    """Restores the entries `names` (None: all) below `into`, in the order in which the store is read fastest, and
    replaces existing files.

    With `consume`, a blob in the working directory is deleted once every entry that needs it is on the disk, and the
    manifest once all are. Nothing is deleted from a store, where other archives may need the blobs. Problems with
    single entries are reported. Raises NoSuchArchive, WrongKey, CorruptManifest and StoreError.
    """
    store, manifest_name = open_archive(archive)
    summary = Summary()
    with contextlib.closing(store), many_open_files() as max_open, Directories(into, max_open) as directories:
        opened = fetched_manifest(store, manifest_name, lambda data: manifest.open(data, key, archive))
        flat = isinstance(store, LocalStore) and not store.fan_out
        consumer = _Consumer(opened, store, directories) if consume and flat else None

        def ask(place: Place) -> Wanted:
            entry = opened.entries[place.name]
            directory, leaf = directories.open(parent_of(place.path)), basename(place.path)
            there = directories.look(place.path)
            kept = kept_metadata(directory, leaf, there) if there and stat.S_ISREG(there.st_mode) else Metadata()
            times = entry.atime_ns, entry.mtime_ns
            return Wanted(directory, os.fsencode(leaf), entry.blobs, entry.sizes, -1, *times, *kept[:3], kept.xattrs)

        def tell(problem: PogfastError) -> None:
            summary.problems.append(problem)
            report.problem(problem)

        places = _places(opened, names)
        with contextlib.closing(restore_places(places, ask, key, store.source, jobs, directories)) as results:
            for place, result in results:
                report.file(place.number + 1, len(opened.entries), place.name)
                if isinstance(result, PogfastError):
                    tell(result)
                    continue
                if isinstance(result, Opened) and result.soft:
                    why = os.strerror(result.soft)
                    tell(TargetError(f"{place.name}: not all of its times and permissions can be set: {why}"))
                summary.files += 1
                if consumer:
                    consumer.restored(opened.entries[place.name])
        for name in names or ():
            if name not in opened.entries:
                tell(NoSuchEntry(f"{name}: no such file in the archive"))
        if consumer:
            consumer.finish(manifest_name if summary.files == len(opened.entries) else None)
        else:
            directories.make_durable()
    return summary


def _places(opened: manifest.Manifest, names: Collection[str] | None) -> list[Place]:
    """Returns every selected entry with its target path. Of different files with the same path, the last wins."""
    wanted = None if names is None else set(names)
    places: list[Place] = []
    last: dict[str, str] = {}
    for index, name in enumerate(opened.entries):
        if wanted is not None and name not in wanted:
            continue
        try:
            places.append(Place(index, name, safe_path(name)))
            last[places[-1].path] = name
        except UnsafePath as error:
            places.append(Place(index, name, "", problem=error))

    def is_other(name: str, kept: str) -> bool:
        try:
            return name != kept and opened.entries[name].blobs != opened.entries[kept].blobs
        except CorruptManifest:  # one of them is malformed, and will be reported: it replaces no other
            return False

    return [superseded(place) if place.path and is_other(place.name, last[place.path]) else place for place in places]


class _Consumer:
    """Deletes each blob once every entry that needs it is on the disk."""

    def __init__(self, opened: manifest.Manifest, store: Source, directories: Directories) -> None:
        try:
            self.needed = Counter(blob for entry in opened.entries.values() for blob in set(entry.blobs))
        except CorruptManifest:  # its blobs are unknown: no count reaches 0, and no blob is deleted
            self.needed = Counter()
        self.store = store
        self.directories = directories
        self.done: list[str] = []

    def restored(self, entry: Entry) -> None:
        for blob in set(entry.blobs):
            self.needed[blob] -= 1
            if not self.needed[blob]:
                self.done.append(blob)
        if len(self.done) >= CONSUME_BATCH:
            self.finish(None)

    def finish(self, manifest_name: str | None) -> None:
        """Syncs what was restored, then deletes the blobs that are no longer needed."""
        self.directories.make_durable()
        self.store.delete_blobs(self.done)
        if manifest_name is not None:
            self.store.delete_manifests([manifest_name])
        self.done = []


def cat_blobs(paths: Sequence[str], key: Key, out: BinaryIO, *, consume: bool) -> None:
    """Decompresses blobs, in the given order, as one stream into `out`.

    A blob is given by the path of its file, or in a store as local:NAME or s3://BUCKET/NAME. If the file has a blob's
    name, its content must match it. With `consume`, each file is deleted after its content is written and
    flushed; blobs in a store are kept. Raises NoSuchArchive, MissingBlob, StoreError, WrongKey, CorruptBlob and
    WrongBlob; what was written before is the content of whole blobs.
    """
    from zstandard import ZstdDecompressor, ZstdError

    stream = ZstdDecompressor().decompressobj(read_across_frames=True)
    for path in paths:
        stored = open_stored(path)
        chunk = _open_stored_blob(*stored, key) if stored else _open_blob_file(path, key)
        try:
            out.write(stream.decompress(chunk))
        except ZstdError as error:
            hint = "are all blobs of the file given, in their order?"
            raise CorruptBlob(f"{path}: does not decompress", hint) from error
        out.flush()
        if consume and not stored:
            os.unlink(path)


def _open_stored_blob(store: Store, name: str, key: Key) -> bytes:
    with contextlib.closing(store):
        if not manifest.is_blob_name(name):
            raise NoSuchArchive(f"{name} is not a blob name in {store.label}")
        try:
            return fetched(store, name, lambda blob: open_blob(key.secret, key.private, blob, name))
        except WrongKey as error:
            raise WrongKey(f"{name} in {store.label}: this key does not open it") from error
        except CorruptBlob as error:
            raise CorruptBlob(f"{name} in {store.label} is damaged or cut short") from error


def _open_blob_file(path: str, key: Key) -> bytes:
    name = os.path.basename(path)
    try:
        with open(path, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK)) as file:
            blob = read_whole(file.fileno(), MAX_BLOB)
        if not blob:
            raise CorruptBlob("it is empty")
        return open_blob(key.secret, key.private, blob, name if manifest.is_blob_name(name) else None)
    except WrongKey as error:
        raise WrongKey(f"{path}: this key does not open it, or it is not a blob") from error
    except CorruptBlob as error:
        raise CorruptBlob(f"{path} is damaged or cut short, or it is not a blob") from error
    except FileNotFoundError as error:
        raise NoSuchArchive(f"no such blob: {path}") from error
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror}") from error

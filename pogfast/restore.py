"""Story 2, the mirror of create.py: manifest -> blobs -> files under temporary names -> their own names.

Decides where each entry may lie and what is reported; the engine opens, checks and writes. No entry leaves the
directory that is restored into, whether by `..`, by an absolute name or through a link. A file that cannot be
restored is reported and the rest comes back. Blobs are consumed only when every file that needs them is on the disk.
"""

from __future__ import annotations

import contextlib
import errno
import math
import mmap
import os
import stat
from collections import Counter
from collections.abc import Collection, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import BinaryIO, NamedTuple, Protocol

from pogfast import manifest
from pogfast._engine import VERDICT, Opened, Opener, Wanted, open_blob, sync_file_system
from pogfast.errors import (
    CorruptBlob,
    CorruptManifest,
    MissingBlob,
    NoSuchArchive,
    NoSuchEntry,
    PogfastError,
    StoreError,
    TargetError,
    UnsafePath,
    WrongBlob,
    WrongKey,
)
from pogfast.keys import Key
from pogfast.manifest import Entry
from pogfast.stores import Source, open_archive
from pogfast.stores.local import sweep, temporary_prefix

# Directories that are held open at a time; a process may hold 1,024 files by default.
MOST_DIRECTORIES = 256
# Nanoseconds that the engine can tell: times before 1677 and after 2262 become these.
MOST_NS = 2**63 - 1
# Blobs that wait to be consumed: each batch costs one sync.
CONSUME_BATCH = 256


class Report(Protocol):
    """What the caller wants to hear, in the order of the manifest whatever the number of workers."""

    def file(self, index: int, total: int, name: str) -> None: ...

    def problem(self, error: PogfastError) -> None: ...


@dataclass
class Summary:
    """What was done: files restored, and what went wrong."""

    files: int = 0
    problems: list[PogfastError] = field(default_factory=list)


class _Place(NamedTuple):
    """One entry on its way: its number in the archive, its path below the target, and why it cannot go there."""

    number: int
    name: str
    entry: Entry
    parts: tuple[str, ...]
    problem: PogfastError | None = None


def read_archive(archive: str, key: Key) -> manifest.Manifest:
    """The manifest at a path or `local:` URL. Raises NoSuchArchive, WrongKey, CorruptManifest."""
    store, name = open_archive(archive)
    with contextlib.closing(store):
        return manifest.open(store.get_manifest(name), key, archive)


def read_index(archive: str, key: Key) -> list[str]:
    """The names of the blobs that an archive needs; a public key is enough. Raises as read_archive does."""
    store, name = open_archive(archive)
    with contextlib.closing(store):
        return manifest.open_index(store.get_manifest(name), key, archive)


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
    """Restores the entries that `names` selects (None: all) below `into`, in the order of the manifest.

    With `consume` a blob is deleted when every entry that needs it is on the disk, and the manifest when all are.
    Raises NoSuchArchive, WrongKey, CorruptManifest and StoreError; what is wrong with one entry is reported.
    """
    store, manifest_name = open_archive(archive)
    summary = Summary()
    with contextlib.closing(store), _Directories(into) as directories:
        opened = manifest.open(store.get_manifest(manifest_name), key, archive)
        consumer = _Consumer(opened, store, directories) if consume else None

        def tell(problem: PogfastError) -> None:
            summary.problems.append(problem)
            report.problem(problem)

        for batch in _batches(_places(opened, names)):
            # Closed before the directories are, whatever happens: workers write through their descriptors.
            with contextlib.closing(_restore_batch(batch, key, store, directories, jobs)) as outcomes:
                for place in batch:
                    report.file(place.number + 1, len(opened.entries), place.name)
                    problem = next(outcomes)
                    if problem:
                        tell(problem)
                        continue
                    summary.files += 1
                    if consumer:
                        consumer.restored(place.entry)
            directories.close()
        for name in names or ():
            if name not in opened.entries:
                tell(NoSuchEntry(f"{name}: no such file in the archive"))
        if consumer:
            consumer.finish(manifest_name if summary.files == len(opened.entries) else None)
    return summary


def safe_parts(name: str) -> tuple[str, ...]:
    """The path of an entry below the directory that is restored into. Raises UnsafePath when it has none there."""
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if not parts or ".." in parts or "\0" in name:
        raise UnsafePath(f"{name}: not restored, its path leads out of the directory")
    try:
        os.fsencode(name)
    except UnicodeEncodeError as error:
        raise UnsafePath(f"{name}: not restored, no file here can have this name") from error
    return parts


def _places(opened: manifest.Manifest, names: Collection[str] | None) -> list[_Place]:
    """Every selected entry with the path where it goes. Of different files that would lie at one path the last is
    kept."""
    wanted = None if names is None else set(names)
    places: list[_Place] = []
    last: dict[tuple[str, ...], list[str]] = {}
    for index, (name, entry) in enumerate(opened.entries.items()):
        if wanted is not None and name not in wanted:
            continue
        try:
            places.append(_Place(index, name, entry, safe_parts(name)))
            last[places[-1].parts] = entry.blobs
        except UnsafePath as error:
            places.append(_Place(index, name, entry, (), error))
    return [_superseded(place) if place.parts and last[place.parts] != place.entry.blobs else place for place in places]


def _superseded(place: _Place) -> _Place:
    reason = f"{place.name}: not restored, a later entry of the archive has the same path"
    return place._replace(problem=UnsafePath(reason))


def _batches(places: Sequence[_Place]) -> Iterator[list[_Place]]:
    """Cuts a restore where it would hold too many directories open."""
    batch: list[_Place] = []
    parents: set[tuple[str, ...]] = set()
    for place in places:
        parents.add(place.parts[:-1])
        if len(parents) > MOST_DIRECTORIES:
            yield batch
            batch, parents = [], {place.parts[:-1]}
        batch.append(place)
    if batch:
        yield batch


def _restore_batch(
    batch: Sequence[_Place], key: Key, store: Source, directories: _Directories, jobs: int
) -> Generator[PogfastError | None, None, None]:
    """For each place in its turn: None when the file is whole and has its name, else what went wrong."""
    refused: dict[int, PogfastError] = {}
    files = []
    for place in batch:
        try:
            if place.problem:
                raise place.problem
            files.append(_job(place, directories.open(place.parts[:-1])))
        except PogfastError as error:
            refused[place.number] = error
    opener = Opener(
        key.secret, key.private, key.asymmetric, files, store.blobs, jobs=jobs, temporary=temporary_prefix()
    )
    with contextlib.closing(opener.run()) as run:
        for place in batch:
            if place.number in refused:
                yield refused[place.number]
            else:
                yield _problem(place, next(run))


def _job(place: _Place, directory: int) -> Wanted:
    """What the engine is asked for. FORMAT.md: `sizes` stands only where every blob is a frame of its own."""
    entry = place.entry
    sizes = entry.more.get("sizes")
    if sizes is not None and not _are_sizes(sizes, len(entry.blobs)):
        raise CorruptManifest(f"{place.name}: the sizes of its blobs are malformed")
    leaf = os.fsencode(place.parts[-1])
    return Wanted(directory, leaf, entry.blobs, sizes, -1, _ns(entry.atime), _ns(entry.mtime))


def _are_sizes(sizes: object, count: int) -> bool:
    return (
        isinstance(sizes, list)
        and len(sizes) == count
        and all(isinstance(size, int) and 0 <= size < 2**63 for size in sizes)
        and sum(sizes) < 2**63
    )


def _ns(seconds: float) -> int:
    """Nanoseconds, cut as os.utime cuts them, so that a file gets the time that pog would give it."""
    whole = math.floor(seconds)
    return max(-MOST_NS, min(whole * 10**9 + math.floor((seconds - whole) * 1e9), MOST_NS))


# What the engine found, as an error. A header that does not unwrap is damage here: the key has opened the manifest.
DAMAGE: dict[int, tuple[type[PogfastError], str]] = {
    VERDICT["bad header"]: (CorruptBlob, "is damaged: its header does not unwrap"),
    VERDICT["bad body"]: (CorruptBlob, "is damaged or cut short"),
    VERDICT["bad name"]: (WrongBlob, "holds the content of another blob"),
    VERDICT["bad frame"]: (CorruptBlob, "does not decompress to the end of the file"),
    VERDICT["not there"]: (MissingBlob, "is missing"),
}
# After these no further file can be restored, so the run ends.
HOPELESS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENOMEM, errno.EMFILE, errno.ENFILE}


def _problem(place: _Place, opened: Opened) -> PogfastError | None:
    if opened.verdict == VERDICT["good"]:
        return None
    blob = place.entry.blobs[opened.blob] if place.entry.blobs else ""
    if opened.verdict in DAMAGE:
        kind, text = DAMAGE[opened.verdict]
        return kind(f"{place.name}: blob {blob} {text}")
    reason = os.strerror(opened.errno)
    if opened.errno in HOPELESS:
        raise StoreError(f"cannot restore {place.name}: {reason}")
    if opened.verdict == VERDICT["bad read"]:
        return TargetError(f"{place.name}: cannot read blob {blob}: {reason}")
    return TargetError(f"{place.name}: cannot be written: {reason}")


class _Directories:
    """Open directories below the one that is restored into: made when needed, never reached through a link."""

    def __init__(self, into: str) -> None:
        try:
            os.makedirs(into, exist_ok=True)
            self.root = os.open(into, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise StoreError(f"cannot restore into {into}: {error.strerror}") from error
        self.into = into
        self.held: dict[tuple[str, ...], int] = {}

    def __enter__(self) -> _Directories:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        os.close(self.root)

    def open(self, parts: tuple[str, ...]) -> int:
        """A descriptor that stays open until `close`. Raises UnsafePath and TargetError."""
        if parts not in self.held:
            directory = os.dup(self.root)
            for depth, part in enumerate(parts, 1):
                try:
                    below = self._step(directory, part, "/".join(parts[:depth]))
                finally:
                    os.close(directory)
                directory = below
            sweep(directory)
            self.held[parts] = directory
        return self.held[parts]

    def _step(self, directory: int, part: str, shown: str) -> int:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(part, dir_fd=directory)
            return os.open(part, flags, dir_fd=directory)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR) and _is_link(directory, part):
                raise UnsafePath(f"{shown} is a link: nothing is restored through it") from error
            if error.errno in HOPELESS:
                raise StoreError(f"cannot make the directory {shown}: {error.strerror}") from error
            raise TargetError(f"cannot make the directory {shown}: {error.strerror}") from error

    def close(self) -> None:
        for directory in self.held.values():
            os.close(directory)
        self.held.clear()

    def make_durable(self) -> None:
        """Returns when all that was restored is on the disk. Raises StoreError."""
        try:
            sync_file_system(self.root)
        except OSError as error:
            raise StoreError(f"cannot restore into {self.into}: {error.strerror}") from error


def _is_link(directory: int, part: str) -> bool:
    return stat.S_ISLNK(os.stat(part, dir_fd=directory, follow_symlinks=False).st_mode)


class _Consumer:
    """Deletes each blob when every entry that needs it is on the disk."""

    def __init__(self, opened: manifest.Manifest, store: Source, directories: _Directories) -> None:
        self.needed = Counter(blob for entry in opened.entries.values() for blob in set(entry.blobs))
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
        """Deletes what may go, after a sync of what was restored."""
        self.directories.make_durable()
        self.store.delete(self.done, manifest_name)
        self.done = []


def cat_blobs(paths: Sequence[str], key: Key, out: BinaryIO, *, consume: bool) -> None:
    """Decompresses blobs, given by their files' paths in order, as one stream into `out`.

    A blob whose file has a blob's name must be the one that it is named after. Raises NoSuchArchive, WrongKey,
    CorruptBlob and WrongBlob; what was written before is whole blobs' content. With `consume` each file is deleted
    when its content was written and flushed.
    """
    from zstandard import ZstdDecompressor, ZstdError

    stream = ZstdDecompressor().decompressobj(read_across_frames=True)
    for path in paths:
        chunk = _open_blob_file(path, key)
        try:
            out.write(stream.decompress(chunk))
        except ZstdError as error:
            hint = "are all blobs of the file given, in their order?"
            raise CorruptBlob(f"{path}: does not decompress", hint) from error
        out.flush()
        if consume:
            os.unlink(path)


def _open_blob_file(path: str, key: Key) -> bytes:
    name = os.path.basename(path)
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if not size:
                raise CorruptBlob("it is empty")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as blob:
                return open_blob(key.secret, key.private, blob, name if manifest.is_blob_name(name) else None)
    except WrongKey as error:
        raise WrongKey(f"{path}: this key does not open it, or it is not a blob") from error
    except CorruptBlob as error:
        raise CorruptBlob(f"{path} is damaged or cut short, or it is not a blob") from error
    except FileNotFoundError as error:
        raise NoSuchArchive(f"no such blob: {path}") from error
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror}") from error

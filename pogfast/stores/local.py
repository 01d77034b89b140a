"""A directory as a store: blobs in data/ab/NAME and manifests at the root, or everything flat in it, as pog writes.

Knows names and bytes only. The engine's BlobDirectory reads and writes blobs; this module opens the directory, syncs
it, lists it, and reads and writes manifests. No file gets its name before it is complete; the next run on the same
machine removes the temporary files of killed processes.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import re
import stat
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

from pogfast._engine import MAX_BLOB, BlobDirectory, sync_file_system
from pogfast.errors import CorruptBlob, CorruptManifest, Exists, MissingBlob, NoSuchArchive, StoreError, UsageError
from pogfast.files.unfinished import HOST, UNFINISHED, remove_unfinished, temporary_prefix
from pogfast.stores.names import (
    CONDEMNED,
    LIKE_A_BLOB,
    MEASURING,
    NAME_LENGTH,
    OWN,
    PACKS,
    REMOVED,
    SETTINGS,
    SWEEP,
    TRASH,
    VERIFIED,
    Stored,
    is_like_a_blob,
    is_manifest,
    is_mark,
    is_path,
)
from pogfast.stores.protocols import Finding, ThawState, hint_of

if TYPE_CHECKING:
    from pogfast._engine import Buffer
    from pogfast.stores.settings import Lock

# Bytes of a sealed manifest: ten million files take about 1 GB. It must fit in memory several times, and an attacker
# can make a sparse file of any size at no cost.
MAX_MANIFEST = 1 << 30
# The errors of file systems without hard links, such as FAT and many network file systems.
LACKS_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EINVAL}
NO_FILE = "it is not a regular file"
# Bytes of a pack that are written, or read, in one system call.
PIECE = 8 << 20
# What a slash becomes in the name of an object that was moved aside to be deleted.
SLASH = "+"
MOVED_ASIDE = re.compile(re.escape(TRASH) + r"[0-9a-f]{16}-(packs(?:\+[\w=-]+)+)\+", re.ASCII)
# Others may write to a store: links are not followed, FIFOs not waited for, and only regular files are read.
READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
FOLDER = os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC


class InvalidFile(OSError):
    """A file that cannot be a blob or manifest: not a regular file, or far too large."""


def open_file(path: str, directory: int, *, follow: bool = False) -> int:
    """Opens a regular file in a store for reading. A symbolic link is not followed unless `follow`, and a FIFO is not
    waited for. Raises InvalidFile for other kinds of files, and OSError."""
    try:
        file = os.open(path, READ & ~os.O_NOFOLLOW if follow else READ, dir_fd=directory)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise InvalidFile(errno.ELOOP, "it is a symbolic link, which is not followed", path) from error
        if error.errno == errno.ENXIO:
            raise InvalidFile(errno.ENXIO, NO_FILE, path) from error
        raise
    kind = stat.S_IFMT(os.fstat(file).st_mode)
    if kind == stat.S_IFREG:
        return file
    os.close(file)
    if kind == stat.S_IFDIR:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    raise InvalidFile(errno.EINVAL, NO_FILE, path)


def open_folder(path: str, directory: int) -> int:
    """Opens a directory in a store; a symbolic link is not followed. Raises OSError."""
    try:
        return os.open(path, FOLDER, dir_fd=directory)
    except NotADirectoryError as error:
        if stat.S_ISLNK(os.stat(path, dir_fd=directory, follow_symlinks=False).st_mode):
            raise OSError(errno.ELOOP, f"{path} is a symbolic link, which is not followed", path) from error
        raise


def read_whole(file: int, limit: int) -> bytearray:
    """Reads an open file: as many bytes as it has now, or fewer if it is truncated meanwhile (mmap would end the
    process then). Raises InvalidFile if there are more than `limit`, and OSError."""
    size = os.fstat(file).st_size
    if size > limit:
        raise InvalidFile(errno.EFBIG, f"it has {size:,} bytes, more than any that pogfast writes")
    return _read_at(file, 0, size)


def read_part(file: int, start: int, size: int) -> bytearray:
    """Reads `size` bytes of an open file. Raises InvalidFile if it ends before, and OSError."""
    whole = os.fstat(file).st_size
    if start + size <= whole and len(data := _read_at(file, start, size)) == size:
        return data
    raise InvalidFile(errno.EINVAL, f"it ends at byte {whole:,}, and has to have {start + size:,}")


def _read_at(file: int, start: int, size: int) -> bytearray:
    """Reads `size` bytes from an offset on, or fewer if the file is truncated meanwhile."""
    data = bytearray(size)
    view, got = memoryview(data), 0
    while n := os.preadv(file, [view[got:]], start + got) if got < size else 0:
        got += n
    view.release()
    del data[got:]
    return data


def write_whole(file: int, data: Buffer) -> None:
    """Writes all bytes, in pieces and without a copy. Raises OSError."""
    with memoryview(data) as view, view.cast("B") as left:
        at = 0
        while at < len(left):
            at += os.write(file, left[at : at + PIECE])


def check_size(name: str, data: bytes) -> None:
    """Raises StoreError for a manifest that is too large to be read back."""
    if len(data) > MAX_MANIFEST:
        hint = "divide the sources among several archives"
        raise StoreError(f"{name} has {len(data):,} bytes; a manifest can have {MAX_MANIFEST:,}", hint)


def booted_ns() -> int:
    """Returns when this machine was booted, in ns since 1970; if that is not known, the present time."""
    running = time.clock_gettime_ns(time.CLOCK_BOOTTIME) if sys.platform == "linux" else 0
    return time.time_ns() - running


def is_flat(path: str) -> bool:
    """Returns True if a directory is a flat store, as pog makes its working directory: blobs beside the manifests.

    False for a missing or empty directory: a store is flat only if somebody made it so.
    """
    try:
        names = os.listdir(path)
        folders = os.listdir(os.path.join(path, "data")) if "data" in names else []
    except OSError:
        return False
    if not any(is_manifest(name) for name in names):
        return False
    # Manifests without blobs beside them may be a fan-out store without blobs; beside blobs, data/ may be a user's.
    return any(is_like_a_blob(name) for name in names) and not any(len(name) == 2 for name in folders)


def rename_new(old: str, directory: int, new: str, new_directory: int) -> None:
    """Renames a file without replacing another. Raises FileExistsError if the name is taken, and OSError."""
    try:
        os.link(old, new, src_dir_fd=directory, dst_dir_fd=new_directory, follow_symlinks=False)
        os.unlink(old, dir_fd=directory)
    except OSError as error:
        if error.errno not in LACKS_LINKS:
            raise
        with contextlib.suppress(FileNotFoundError):
            os.stat(new, dir_fd=new_directory, follow_symlinks=False)
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), new) from error
        os.rename(old, new, src_dir_fd=directory, dst_dir_fd=new_directory)


class LocalStore:
    """A directory of blobs and manifests. `path` is as the user wrote it."""

    def __init__(self, path: str, fan_out: bool, directory: int, *, follow: bool = False) -> None:
        self.path = path
        self.follow = follow
        self.label = "the working directory" if path == "." else path
        self.fan_out = fan_out
        self.directory = directory
        self.blobs = BlobDirectory(directory, fan_out, temporary_prefix(), self.label)
        self._seen: set[str] = set()  # folders that were found not to be links
        self._synced: set[str] = set()  # folders whose own names are on disk
        self._loose = (0, 0)
        self._doubted: frozenset[str] = frozenset()
        self.failed: OSError | None = None  # kept, since the system reports a failed write only once

    @classmethod
    def create(cls, path: str, *, fan_out: bool) -> LocalStore:
        """Opens a directory for writing, and makes it if need be. Raises StoreError."""
        try:
            os.makedirs(path, exist_ok=True)
            store = cls(path, fan_out, os.open(path, os.O_RDONLY | os.O_DIRECTORY))
        except OSError as error:
            raise StoreError(f"cannot use {path} as a store: {error.strerror}", hint_of(error)) from error
        if not os.access(path, os.W_OK | os.X_OK):
            reason = errno.EROFS if os.statvfs(path).f_flag & os.ST_RDONLY else errno.EACCES
            raise StoreError(f"cannot write to {path}: {os.strerror(reason)}")
        remove_unfinished(store.directory)
        store._put_back_all()
        store._distrust()
        return store

    def _distrust(self) -> None:
        """Marks blobs written after the newest manifest and before the last boot as suspect: they were never synced, so
        a power cut may have taken their bytes and left their size. If the clock is behind that manifest, the time of
        the boot is unknown, and all blobs after the manifest are suspect."""
        newest = max((int(stored.modified * 1e9) for stored in self.manifests()), default=-1)
        self._loose = (newest, booted_ns() if newest <= time.time_ns() else sys.maxsize)
        self.blobs.distrust(*self._loose)

    def distrust_all(self) -> None:
        """Treats all blobs after the newest manifest as suspect: other machines may write them, and lose power."""
        self._loose = (self._loose[0], sys.maxsize)
        self.blobs.distrust(*self._loose)

    @classmethod
    def open(cls, path: str, *, fan_out: bool, follow: bool = False) -> LocalStore:
        """Opens a directory for reading. With `follow` manifests may be symbolic links: only for names that the user
        gave. Raises NoSuchArchive."""
        try:
            store = cls(path, fan_out, os.open(path, os.O_RDONLY | os.O_DIRECTORY), follow=follow)
        except OSError as error:
            raise NoSuchArchive(f"no store at {path}: {error.strerror}") from error
        store._put_back_all()
        return store

    @property
    def source(self) -> BlobDirectory:
        return self.blobs

    parallel = 1  # more requests at a time do not make a disk faster
    requests: Mapping[str, int] = MappingProxyType({})

    @property
    def identity(self) -> str:
        return f"local:{os.path.realpath(self.path)}"

    def own_directories(self) -> dict[tuple[int, int], tuple[str, Callable[[str], bool]]]:
        """Returns its directories by device and inode, each with a description and a test of names; see Target."""
        found = os.fstat(self.directory)
        places: dict[tuple[int, int], tuple[str, Callable[[str], bool]]] = {
            (found.st_dev, found.st_ino): (f"the store {self.label}", self._is_own)
        }
        if self.fan_out:
            self._add_place(places, "data")
        if self._is_packed():
            self._add_place(places, PACKS.rstrip("/"))
        return places

    def _add_place(self, places: dict[tuple[int, int], tuple[str, Callable[[str], bool]]], folder: str) -> None:
        """Adds a folder of which all files are the store's, if it is there."""
        with contextlib.suppress(OSError):
            found = os.stat(folder, dir_fd=self.directory, follow_symlinks=False)
            places[found.st_dev, found.st_ino] = (f"in the store {self.label}", lambda name: True)

    def _is_packed(self) -> bool:
        """Returns True if packs/ is the store's, and not a user's directory of that name beside it."""
        with contextlib.suppress(OSError):
            return stat.S_ISREG(os.stat(SETTINGS, dir_fd=self.directory, follow_symlinks=False).st_mode)
        return False

    def _is_own(self, name: str) -> bool:
        """Returns True if a name in the store's directory belongs to the store, and is not a user's file beside it."""
        if name == "data" and self.fan_out:
            return True
        if name in (PACKS.rstrip("/"), SETTINGS):
            return self._is_packed()
        return (
            name.startswith((OWN, VERIFIED))
            or is_manifest(name)
            or is_mark(name)
            or (not self.fan_out and is_like_a_blob(name))
        )

    def make_folder(self) -> None:
        """Makes data/, which marks a store without blobs as not flat. Raises StoreError."""
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir("data", dir_fd=self.directory)
            os.close(open_folder("data", self.directory))
        except OSError as error:
            raise StoreError(f"cannot write to {self.label}: {error.strerror}", hint_of(error)) from error

    def has_folder(self) -> bool:
        """Returns True if there is a data/, as in a store without blobs yet."""
        try:
            return stat.S_ISDIR(os.stat("data", dir_fd=self.directory, follow_symlinks=False).st_mode)
        except OSError:
            return False

    def begin_durable(self) -> None:
        try:
            sync_file_system(self.directory)
        except OSError as error:
            self.failed = error

    def make_durable(self) -> None:
        try:
            sync_file_system(self.directory)
            if self.failed:
                raise self.failed
        except OSError as error:
            raise StoreError(f"cannot write to {self.label}: {error.strerror}", hint_of(error)) from error

    def put_manifest(self, name: str, data: bytes) -> None:
        self._put(name, data, replace=False)

    def put_mark(self, name: str, data: bytes) -> None:
        self._put(name, data, replace=True)

    def _put(self, name: str, data: bytes, *, replace: bool) -> None:
        check_size(name, data)
        try:
            # All blobs older than a manifest have to be on disk, those of other runs included.
            with self._written_aside(data, sync_file_system if is_manifest(name) else os.fsync) as unfinished:
                if replace or self._is_planted(name):
                    os.rename(unfinished, name, src_dir_fd=self.directory, dst_dir_fd=self.directory)
                else:
                    self._rename_new(unfinished, name)
            os.fsync(self.directory)
        except OSError as error:
            raise StoreError(f"cannot write {name} to {self.label}: {error.strerror}", hint_of(error)) from error

    @contextlib.contextmanager
    def _written_aside(self, data: Buffer, sync: Callable[[int], object]) -> Iterator[str]:
        """Writes and syncs a file, and yields its temporary name at the root; it is deleted if the caller fails to
        rename it. Raises OSError."""
        # The name is unpredictable, and a file that has it is neither followed nor truncated: others may write here.
        unfinished = f"{temporary_prefix().decode()}{os.urandom(8).hex()}.tmp"
        file = os.open(unfinished, WRITE, 0o666, dir_fd=self.directory)
        try:
            try:
                write_whole(file, data)
                sync(file)
            finally:
                os.close(file)
            yield unfinished
        except BaseException:
            with contextlib.suppress(OSError):  # the first error is the one to report
                os.unlink(unfinished, dir_fd=self.directory)
            raise

    def _rename_new(self, unfinished: str, name: str) -> None:
        """Raises OSError and Exists."""
        try:
            rename_new(unfinished, self.directory, name, self.directory)
        except FileExistsError as error:
            raise Exists(f"{self.label}: an archive {name} exists already") from error

    def _is_planted(self, name: str) -> bool:
        """Returns True if something other than a file, such as a link, has a manifest's name. Raises OSError."""
        try:
            return not stat.S_ISREG(os.stat(name, dir_fd=self.directory, follow_symlinks=False).st_mode)
        except FileNotFoundError:
            return False

    def manifests(self) -> list[Stored]:
        """Lists what ends in .mfn, sorted by name. Includes links and FIFOs, which are damage when they are read: if
        they were left out, prune would delete the blobs of the manifests that they replaced. Raises StoreError."""
        return sorted(self._files(".", is_manifest, is_meant=_is_no_directory))

    def marks(self) -> list[Stored]:
        return sorted(self._files(".", is_mark, is_meant=_is_no_directory))

    def missing(self, names: Iterable[str]) -> list[str]:
        return [name for name in names if self._look_for(name) is None]

    def doubt(self, names: Iterable[str]) -> None:
        self._doubted = frozenset(names)
        self.blobs.doubt(self._doubted)

    def blobs_only_in(self, objects: Collection[str], listed: Collection[str]) -> set[str]:
        return set(filter(is_like_a_blob, objects))

    def get_manifest(self, name: str) -> bytes:
        try:
            return bytes(self._read(name, self.directory, MAX_MANIFEST, follow=self.follow))
        except FileNotFoundError as error:
            where = "" if "/" in name else f" in {self.label}"
            raise NoSuchArchive(f"no such archive: {name}{where}") from error
        except OSError as error:
            kind = CorruptManifest if isinstance(error, InvalidFile) else StoreError
            raise kind(f"cannot read {name}: {error.strerror}") from error

    @staticmethod
    def _read(path: str, directory: int, limit: int, *, follow: bool = False) -> bytearray:
        file = open_file(path, directory, follow=follow)
        try:
            return read_whole(file, limit)
        finally:
            os.close(file)

    def blob_names(self) -> Iterator[Stored]:
        """Yields every blob while it lists the directories, in no order. Raises StoreError."""
        if not self.fan_out:
            yield from self._files(".", is_like_a_blob)
            return
        for folder in self._folders():
            for stored in self._files(f"data/{folder}", is_like_a_blob):
                if stored.name.startswith(folder):
                    yield stored

    holders = blob_names

    def unneeded(
        self, objects: Iterable[Stored] | None, is_needed: Callable[[str], bool], going: Collection[str] = ()
    ) -> list[Stored]:
        blobs = self.blob_names() if objects is None else objects
        return [blob for blob in blobs if not is_needed(blob.name)]

    def size_of(self, name: str) -> int | None:
        """Returns the bytes of a blob; None if it is missing, treated as absent, or suspect. Raises StoreError."""
        status = None if name in self._doubted else self._look_for(name)
        return None if status is None or self._loose[0] < status.st_mtime_ns < self._loose[1] else status.st_size

    def sizes_of(self, names: Sequence[str]) -> list[int | None]:
        """Returns what `size_of` does, of many blobs. Raises StoreError."""
        try:
            return self.blobs.sizes_of(names)
        except OSError as error:
            raise StoreError(f"cannot look for blobs in {self.label}: {error.strerror}") from error

    def _look_for(self, name: str) -> os.stat_result | None:
        try:
            folders = self._folders_of(name)
            if folders and "/".join(folders) not in self._seen:  # only once: it takes three system calls
                with self._folder(name):
                    self._seen.add("/".join(folders))
            status = os.stat(self._path(name), dir_fd=self.directory, follow_symlinks=False)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(f"cannot look for blob {name} in {self.label}: {error.strerror}") from error
        return status if stat.S_ISREG(status.st_mode) else None

    def get_blob(self, name: str) -> Buffer:
        """Returns a blob's bytes. Raises MissingBlob, StoreError, and CorruptBlob for a file that cannot be a blob."""
        return self._get(name, f"blob {name}", lambda file: read_whole(file, MAX_BLOB))

    def forget(self, name: str) -> None:
        """Has the system drop a blob from the page cache, if it can, so that the next read comes from disk."""
        if hasattr(os, "posix_fadvise"):  # not on macOS
            with (
                contextlib.suppress(OSError),
                self._folder(name) as folder,
                open(open_file(_leaf(name), folder), "rb") as file,
            ):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def _path(self, name: str) -> str:
        return name if is_path(name) or not self.fan_out else f"data/{name[:2]}/{name}"

    def _folders_of(self, name: str) -> list[str]:
        """Returns the directories above a blob, or above an object that is named by its path. Raises OSError."""
        folders = self._path(name).split("/")[:-1]
        if {"", ".", ".."}.intersection(folders):
            raise InvalidFile(errno.EINVAL, f"{name} leads out of the store")
        return folders

    @contextlib.contextmanager
    def _folder(self, name: str, *, make: bool = False) -> Iterator[int]:
        """Opens the directory of a blob or of an object that is named by its path; with `make`, makes it if need be.
        Raises OSError."""
        here = self.directory
        try:
            for folder in self._folders_of(name):
                above = here
                if make:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(folder, dir_fd=above)
                here = open_folder(folder, above)
                if above != self.directory:
                    os.close(above)
            yield here
        finally:
            if here != self.directory:
                os.close(here)

    # ---- objects that are named by their paths ----

    def objects(self, prefix: str) -> Iterator[Stored]:
        if not prefix.endswith("/"):
            status = self._look_for(prefix)
            if status is not None:
                yield Stored(prefix, status.st_size, status.st_mtime)
            return
        waiting = [prefix]
        while waiting:
            above = waiting.pop()
            for name, status in self._entries_of(above):
                if stat.S_ISREG(status.st_mode):
                    yield Stored(above + name, status.st_size, status.st_mtime)
                elif stat.S_ISDIR(status.st_mode):
                    waiting.append(f"{above}{name}/")

    def has_packs(self) -> bool:
        with contextlib.suppress(StoreError):  # where there is no order, the directory is a user's own
            for day, status in self._entries_of(PACKS):
                if stat.S_ISDIR(status.st_mode) and day[:1].isdigit():
                    from pogfast.stores.packs.layout import is_pack  # imported here: most stores have no packs

                    if any(is_pack(f"{PACKS}{day}/{name}") for name, _ in self._entries_of(f"{PACKS}{day}/")):
                        return True
        return False

    def _entries_of(self, folder: str) -> Iterator[tuple[str, os.stat_result]]:
        """Yields what a folder with a / at its end has, except files that vanish meanwhile; nothing if the folder is
        missing. Raises StoreError, also for a symbolic link to a directory in it."""
        try:
            with self._folder(folder) as directory, os.scandir(directory) as entries:
                for entry in entries:
                    if entry.is_symlink() and entry.is_dir():
                        what = f"{folder}{entry.name} in {self.label}"
                        raise StoreError(f"{what} is a symbolic link, which is not followed")
                    with contextlib.suppress(FileNotFoundError):
                        yield entry.name, entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            return
        except OSError as error:
            raise StoreError(f"cannot list {folder} in {self.label}: {error.strerror}") from error

    def put_object(self, path: str, data: Buffer, *, replace: bool = False) -> None:
        name = _leaf(path)
        try:
            with self._folder(path, make=True) as folder:
                if replace or self._size_in(folder, name) != memoryview(data).nbytes:
                    with self._written_aside(data, os.fsync) as unfinished:
                        os.rename(unfinished, name, src_dir_fd=self.directory, dst_dir_fd=folder)
                self._sync_folders(self._folders_of(path), folder)
        except OSError as error:
            raise StoreError(f"cannot write {path} to {self.label}: {error.strerror}", hint_of(error)) from error

    @staticmethod
    def _size_in(folder: int, name: str) -> int | None:
        """Returns the bytes of a regular file; None if there is none. Raises OSError."""
        try:
            status = os.stat(name, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            return None
        return status.st_size if stat.S_ISREG(status.st_mode) else None

    def _sync_folders(self, folders: list[str], innermost: int) -> None:
        """Syncs the innermost directory, and once those above it, which may be new. Raises OSError."""
        os.fsync(innermost)
        if not folders or "/".join(folders) in self._synced:
            return
        for depth in range(len(folders) - 1, 0, -1):
            with self._folder("/".join(folders[:depth]) + "/") as above:
                os.fsync(above)
        os.fsync(self.directory)
        self._synced.add("/".join(folders))

    def get_object(self, path: str, limit: int) -> Buffer:
        return self._get(path, path, lambda file: read_whole(file, limit))

    def read_range(self, path: str, start: int, size: int) -> Buffer:
        return self._get(path, path, lambda file: read_part(file, start, size))

    def _get(self, name: str, what: str, read: Callable[[int], bytearray]) -> bytearray:
        """Opens a blob or an object and returns what `read` returns. Raises MissingBlob, StoreError, and CorruptBlob
        for a file that cannot be it."""
        try:
            with self._folder(name) as folder:
                file = open_file(_leaf(name), folder)
                try:
                    return read(file)
                finally:
                    os.close(file)
        except FileNotFoundError as error:
            raise MissingBlob(f"{what} is missing from {self.label}") from error
        except OSError as error:
            kind = CorruptBlob if isinstance(error, InvalidFile) else StoreError
            raise kind(f"cannot read {what} in {self.label}: {error.strerror}") from error

    # ---- listing directories ----

    def _folders(self) -> list[str]:
        """Lists the directories in data/ that can have blobs, sorted by name."""
        try:
            with self._scan("data") as entries:
                found = [entry for entry in entries if len(entry.name) == 2]
                linked = next((entry.name for entry in found if entry.is_symlink()), None)
                if linked is not None:
                    raise StoreError(f"data/{linked} in {self.label} is a symbolic link, which is not followed")
                return sorted(entry.name for entry in found if entry.is_dir(follow_symlinks=False))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StoreError(f"cannot list data in {self.label}: {error.strerror}") from error

    def drop_empty_folders(self) -> None:
        for folder in self._folders():
            with contextlib.suppress(OSError):  # it has blobs, or nobody may delete it
                os.rmdir(f"data/{folder}", dir_fd=self.directory)

    def _files(
        self, folder: str, wanted: Callable[[str], bool], is_meant: Callable[[int], bool] = stat.S_ISREG
    ) -> Iterator[Stored]:
        """Yields the files of a directory with names that are `wanted` and modes that `is_meant` accepts. Files that
        vanish meanwhile are left out."""
        try:
            with self._scan(folder) as entries:
                for entry in entries:
                    if wanted(entry.name):
                        with contextlib.suppress(FileNotFoundError):
                            status = entry.stat(follow_symlinks=False)
                            if is_meant(status.st_mode):
                                yield Stored(entry.name, status.st_size, status.st_mtime)
        except OSError as error:
            raise StoreError(f"cannot list {folder} in {self.label}: {error.strerror}") from error

    @contextlib.contextmanager
    def _scan(self, folder: str) -> Iterator[Iterator[os.DirEntry[str]]]:
        directory = open_folder(folder, self.directory)
        try:
            with os.scandir(directory) as entries:
                yield entries
        finally:
            os.close(directory)

    def delete_blobs(self, names: Iterable[str]) -> None:
        for _, together in itertools.groupby(names, lambda name: self._path(name).rpartition("/")[0]):
            first, *others = together
            try:
                with self._folder(first) as folder:
                    self._delete(map(_leaf, (first, *others)), folder)
            except FileNotFoundError:  # the folder is gone, with all its blobs
                continue
            except OSError as error:
                raise StoreError(f"cannot delete {first} from {self.label}: {error.strerror}") from error

    def delete_old_blobs(self, blobs: Iterable[Stored], before: float, go_on: Callable[[], bool]) -> Iterator[Stored]:
        for blob in blobs:
            if not go_on():
                return
            try:
                if self._delete_old(blob.name, before):
                    yield blob
            except OSError as error:
                raise StoreError(f"cannot delete {blob.name} from {self.label}: {error.strerror}") from error

    def _delete_old(self, name: str, before: float) -> bool:
        """Deletes a blob if it was written before some time, and returns True if it is gone. Raises OSError.

        A new blob could replace it between the check of its time and its deletion, and would be deleted instead: so it
        is moved aside and checked again there."""
        aside = f"{TRASH}{os.urandom(8).hex()}-{_name_aside(name)}"
        leaf = _leaf(name)
        try:
            with self._folder(name) as folder:
                if self._written(leaf, folder) >= before:
                    return False
                os.rename(leaf, aside, src_dir_fd=folder, dst_dir_fd=self.directory)
                if self._written(aside, self.directory) >= before:
                    self._put_back(aside, leaf, folder)
                    return False
                os.unlink(aside, dir_fd=self.directory)
        except FileNotFoundError:
            return True
        return True

    @staticmethod
    def _written(name: str, directory: int) -> float:
        return os.stat(name, dir_fd=directory, follow_symlinks=False).st_mtime

    def _put_back(self, aside: str, name: str, folder: int) -> None:
        """Gives a blob that was moved aside its name again, unless a newer one has it. Raises OSError."""
        try:
            rename_new(aside, self.directory, name, folder)
        except FileExistsError:
            os.unlink(aside, dir_fd=self.directory)

    def _put_back_all(self) -> None:
        """Does what begin_sweep does, but tolerates a read-only store: an archive may need one of these blobs, if it
        was stored again while the prune was suspended."""
        with contextlib.suppress(StoreError):
            self.begin_sweep()

    def begin_sweep(self) -> None:
        """Puts back blobs that a killed prune had moved aside. A prune that is still running takes them for deleted;
        the next one deletes them. Raises StoreError."""
        for found in self.named(TRASH):
            name = _name_before(found.name)
            if name is None:
                continue
            try:
                with contextlib.suppress(FileNotFoundError), self._folder(name) as folder:
                    self._put_back(found.name, _leaf(name), folder)
            except OSError as error:
                raise StoreError(f"cannot put {name} back in {self.label}: {error.strerror}") from error

    def delete_as_listed(self, marks: Iterable[Stored], go_on: Callable[[], bool]) -> None:
        for mark in itertools.takewhile(lambda _: go_on(), marks):
            self.forget_removed(mark)
        self.delete_manifests([])  # and makes that durable

    def forget_removed(self, removed: Stored) -> None:
        aside = f"{temporary_prefix().decode()}{os.urandom(8).hex()}.tmp"
        try:
            os.rename(removed.name, aside, src_dir_fd=self.directory, dst_dir_fd=self.directory)
            if self._written(aside, self.directory) == removed.modified:
                os.unlink(aside, dir_fd=self.directory)
            else:
                os.rename(aside, removed.name, src_dir_fd=self.directory, dst_dir_fd=self.directory)
        except FileNotFoundError:
            return
        except OSError as error:
            raise StoreError(f"cannot delete {removed.name} from {self.label}: {error.strerror}") from error

    def remove_manifest(self, name: str) -> None:
        """Renames the manifest, which needs no space. Raises NoSuchArchive and StoreError."""
        try:
            # As long as it has its name, all blobs older than it count as synced.
            sync_file_system(self.directory)
            os.utime(name, dir_fd=self.directory, follow_symlinks=False)  # the grace period begins now
            os.rename(name, name + REMOVED, src_dir_fd=self.directory, dst_dir_fd=self.directory)
            os.fsync(self.directory)
        except FileNotFoundError as error:
            raise NoSuchArchive(f"no such archive: {name} in {self.label}") from error
        except OSError as error:
            raise StoreError(f"cannot remove {name} from {self.label}: {error.strerror}") from error

    def remove_manifests(self, names: Collection[str]) -> set[str]:
        removed = set()
        for name in names:
            with contextlib.suppress(NoSuchArchive):
                self.remove_manifest(name)
                removed.add(name)
        return removed

    def delete_manifests(self, names: Iterable[str]) -> None:
        self._delete(names, self.directory)
        try:
            os.fsync(self.directory)  # a power cut must not bring back an archive after its blobs were deleted
        except OSError as error:
            raise StoreError(f"cannot delete from {self.label}: {error.strerror}") from error

    def prune_marks(self) -> list[Stored]:
        """Makes two listings, lists first: a listing during deletions has no order."""
        return [*self.named(CONDEMNED), *self.named(SWEEP)]

    def named(self, prefix: str) -> list[Stored]:
        return sorted(self._files(".", lambda name: name.startswith(prefix), is_meant=_is_no_directory))

    def examine(self) -> Iterator[Finding]:
        status = os.statvfs(self.directory)
        if status.f_blocks:  # a file system of 0 blocks does not tell its size
            free, share = status.f_bavail * status.f_frsize, status.f_bavail / status.f_blocks
            text = f"{free / 1e9:,.1f} GB free ({share:.0%})"
            is_much = share > 0.05
            yield Finding(
                "room", "good" if is_much else "note", text, "" if is_much else "prune the store, or free some space"
            )
        if status.f_files and status.f_favail < 10_000:
            yield Finding("inodes", "bad", f"only {status.f_favail:,} inodes free", "every blob is a file of its own")
        names = os.listdir(self.directory)
        unfinished = filter(None, map(UNFINISHED.fullmatch, names))
        others = [found for found in unfinished if found[1] != HOST]
        if others:
            yield Finding(
                "leavings",
                "note",
                f"{len(others)} unfinished files of other machines",
                "if no backup is running there, delete .pogfast-*",
            )
        if measuring := sum(name.startswith(MEASURING) for name in names):
            said = f"{measuring} of a tune that is running or was killed"
            yield Finding("leavings", "note", said, f"when none runs, remove the directories {MEASURING}*")

    def locked(self, names: Iterable[str]) -> dict[str, float]:
        return {}

    def lock(self, names: Iterable[str], lock: Lock) -> Iterator[tuple[str, bool | None]]:
        raise UsageError(f"{self.label}: a directory cannot be locked", hint="object lock is for S3")

    def thaw(self, names: Iterable[str], tier: str, days: int) -> Iterator[tuple[str, ThawState]]:
        raise UsageError(f"{self.label}: a directory is never in cold storage")

    def _delete(self, names: Iterable[str], directory: int) -> None:
        for name in names:
            try:
                os.unlink(name, dir_fd=directory)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise StoreError(f"cannot delete {name} from {self.label}: {error.strerror}") from error

    def close(self) -> None:
        os.close(self.directory)


def _leaf(name: str) -> str:
    """Returns the last part of a path."""
    return name.rpartition("/")[2]


def _name_aside(name: str) -> str:
    """Returns the end of the name that a blob or object has at the root while it is deleted. That of an object does not
    end as a blob's does: releases without packs would put it back among the blobs."""
    return name.replace("/", SLASH) + SLASH if is_path(name) else name


def _name_before(aside: str) -> str | None:
    """Returns the name that something had before it was moved aside; None for a file that was not."""
    if LIKE_A_BLOB.fullmatch(aside[-NAME_LENGTH:]):
        return aside[-NAME_LENGTH:]
    found = MOVED_ASIDE.fullmatch(aside)
    return found[1].replace(SLASH, "/") if found else None


def _is_no_directory(mode: int) -> bool:
    return not stat.S_ISDIR(mode)

"""Index objects in the user's cache directory, so that a run fetches only those that are new.

There is a folder for each store, with the index objects under their names. A name is the sha256 of the content, which
is verified whenever a file is read, so nothing is synced. The cache is disposable: where it cannot be read or written,
index objects are fetched again, and no method raises.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from pogfast._engine import IndexFile, random_bytes
from pogfast.stores.packs.layout import MAX_INDEX, name_of, raw_name
from pogfast.system.encoding import bytes_of
from pogfast.system.user_dirs import make_cache_directory

if TYPE_CHECKING:
    from pogfast._engine import Buffer

_SUFFIX = ".packs"  # of the folder of a store
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC
# The names that this module gives: of index objects, and of those that are being written.
_OURS = re.compile(r"[A-Za-z0-9_-]{43}=(\.\d+-[0-9a-f]{8})?")
_HARMLESS = (OSError, ValueError)  # ValueError: a path that no file has, a file that is no index object
# Bytes of an index object from which on it is searched in its file rather than in memory. Merging leaves few below.
LARGE = 1 << 20


class IndexCache:
    """The cached index objects of one store, by their paths. Several threads and processes may use it at once."""

    def __init__(self, directory: str, identity: str) -> None:
        """`directory` is pogfast's cache directory, "" for none: then nothing is found. `identity` identifies the store
        among all others."""
        self._directory = directory
        name = hashlib.blake2b(bytes_of(identity), digest_size=16).hexdigest() + _SUFFIX
        self._path = os.path.join(directory, name) if directory else ""

    def get(self, path: str) -> bytes | IndexFile | None:
        """Returns an index object, a large one as a file, or None. A file that is not what its name says is deleted."""
        with contextlib.suppress(*_HARMLESS), self._folder() as folder:
            return _opened(folder, raw_name(path))
        return None

    def put(self, path: str, data: Buffer) -> None:
        """Keeps an index object."""
        with contextlib.suppress(*_HARMLESS):
            name = name_of(raw_name(path))
            if not self._path or len(data) > MAX_INDEX:
                return
            make_cache_directory(self._directory)
            with contextlib.suppress(FileExistsError):
                os.mkdir(self._path, 0o700)
            with self._folder() as folder:
                _write(folder, name, data)

    def keep_only(self, paths: Iterable[str]) -> None:
        """Deletes all files of this store but those index objects."""
        kept = {path.rpartition("/")[2] for path in paths}
        with contextlib.suppress(*_HARMLESS), self._folder() as folder:
            for name in os.listdir(folder):
                if _OURS.fullmatch(name) and name not in kept:
                    with contextlib.suppress(OSError):
                        os.unlink(name, dir_fd=folder)

    @contextlib.contextmanager
    def _folder(self) -> Iterator[int]:
        """Opens the folder of this store. Raises OSError and ValueError."""
        folder = os.open(self._path, _FOLDER)
        try:
            yield folder
        finally:
            os.close(folder)


def _opened(folder: int, raw: bytes) -> bytes | IndexFile | None:
    """Opens the file whose sha256 is `raw`, or deletes it if it has another. Raises OSError and ValueError."""
    name = name_of(raw)
    file = os.open(name, _READ, dir_fd=folder)
    try:
        found = os.fstat(file)
        if stat.S_ISREG(found.st_mode) and 0 < found.st_size <= MAX_INDEX:
            if found.st_size < LARGE:
                data = os.pread(file, LARGE, 0)
                if hashlib.sha256(data).digest() == raw:
                    return data
            elif _sha256(file) == raw:
                return IndexFile(file)
    finally:
        os.close(file)
    os.unlink(name, dir_fd=folder)
    return None


def _sha256(file: int) -> bytes:
    with open(file, "rb", buffering=0, closefd=False) as content:
        return hashlib.file_digest(content, "sha256").digest()


def _write(folder: int, name: str, data: Buffer) -> None:
    """Writes a file that appears when it is complete. Raises OSError."""
    unfinished = f"{name}.{os.getpid()}-{random_bytes(4).hex()}"
    file = os.open(unfinished, _WRITE, 0o600, dir_fd=folder)
    try:
        with open(file, "wb") as out:
            out.write(data)
        os.rename(unfinished, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(unfinished, dir_fd=folder)
        raise

"""A directory as a store: NAME flat in it as pog writes, or data/ab/NAME with manifests at the root.

It knows names and bytes only. Blobs come and go through the engine's BlobDirectory; this room opens the directory,
makes what was written durable, and handles manifests. Nothing appears under its name before it is whole; leavings of
runs that were killed are swept away by the next run on the same machine.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from collections.abc import Iterable

from pogfast._engine import BlobDirectory, sync_file_system
from pogfast.errors import NoSuchArchive, StoreError

# Begins every temporary name. The host is in it because another machine may write to the same directory.
HOST = re.sub(r"[^A-Za-z0-9]", "", os.uname().nodename)[:32] or "host"
UNFINISHED = re.compile(r"\.pogfast-([A-Za-z0-9]+)-([0-9]+)-[0-9]+-[0-9a-z]+\.(tmp|part)")
NUMBERS = itertools.count()


def temporary_prefix() -> bytes:
    """What the names of unfinished files begin with: no two calls, processes or machines give the same."""
    return f".pogfast-{HOST}-{os.getpid()}-{next(NUMBERS)}-".encode()


def sweep(directory: int) -> None:
    """Removes unfinished files of processes of this machine that are no more, from an open directory."""
    for name in os.listdir(directory):
        unfinished = UNFINISHED.fullmatch(name)
        if unfinished and unfinished[1] == HOST and not _is_alive(int(unfinished[2])):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=directory)


class LocalStore:
    """A directory of blobs and manifests."""

    def __init__(self, path: str, fan_out: bool, directory: int) -> None:
        self.label = "the working directory" if path == "." else path
        self.fan_out = fan_out
        self.directory = directory
        self.blobs = BlobDirectory(directory, fan_out, temporary_prefix(), self.label)

    @classmethod
    def create(cls, path: str, *, fan_out: bool) -> LocalStore:
        """Opens a directory to write to, making it if need be. Raises StoreError."""
        try:
            os.makedirs(path, exist_ok=True)
            store = cls(path, fan_out, os.open(path, os.O_RDONLY | os.O_DIRECTORY))
        except OSError as error:
            raise StoreError(f"cannot use {path} as a store: {error.strerror}") from error
        if not os.access(path, os.W_OK | os.X_OK):
            raise StoreError(f"cannot write to {path}: permission denied")
        sweep(store.directory)
        return store

    @classmethod
    def open(cls, path: str, *, fan_out: bool) -> LocalStore:
        """Opens a directory to read from. Raises NoSuchArchive."""
        try:
            return cls(path, fan_out, os.open(path, os.O_RDONLY | os.O_DIRECTORY))
        except OSError as error:
            raise NoSuchArchive(f"no store at {path}: {error.strerror}") from error

    def make_durable(self) -> None:
        try:
            sync_file_system(self.directory)
        except OSError as error:
            raise StoreError(f"cannot write to {self.label}: {error.strerror}") from error

    def put_manifest(self, name: str, data: bytes) -> None:
        unfinished = temporary_prefix().decode() + "manifest.tmp"
        try:
            file = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666, dir_fd=self.directory)
            try:
                with open(file, "wb") as out:
                    out.write(data)
                    out.flush()
                    os.fsync(file)
                os.rename(unfinished, name, src_dir_fd=self.directory, dst_dir_fd=self.directory)
            except BaseException:
                os.unlink(unfinished, dir_fd=self.directory)
                raise
            os.fsync(self.directory)
        except OSError as error:
            raise StoreError(f"cannot write {name} to {self.label}: {error.strerror}") from error

    def get_manifest(self, name: str) -> bytes:
        try:
            with open(os.open(name, os.O_RDONLY, dir_fd=self.directory), "rb") as manifest:
                return manifest.read()
        except FileNotFoundError as error:
            raise NoSuchArchive(f"no such archive: {name}") from error
        except OSError as error:
            raise StoreError(f"cannot read {name}: {error.strerror}") from error

    def delete(self, blobs: Iterable[str], manifest: str | None = None) -> None:
        paths = [f"data/{name[:2]}/{name}" if self.fan_out else name for name in blobs]
        for path in paths if manifest is None else [*paths, manifest]:
            try:
                os.unlink(path, dir_fd=self.directory)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise StoreError(f"cannot delete {path} from {self.label}: {error.strerror}") from error

    def close(self) -> None:
        os.close(self.directory)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True

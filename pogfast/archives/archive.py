"""An opened archive: a mapping of archived names to entries, whose files can be opened.

lookup.py finds an archive, entry_file.py reads a file of it, trailer.py says what a trailer is worth.
"""

from __future__ import annotations

import io
import os
import weakref
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from pogfast import manifest
from pogfast._engine import cores
from pogfast.archives.entry_file import EntryFile
from pogfast.archives.trailer import Trailer, time_of
from pogfast.errors import NoSuchEntry
from pogfast.keys import Key
from pogfast.manifest import Entry
from pogfast.stores.protocols import Store

if TYPE_CHECKING:
    from pogfast.stores.mirrors import Mirrors

    Readable = TypeVar("Readable", Store, Mirrors)

BUFFER = 1 << 16


class Archive(Mapping[str, Entry]):
    """An opened archive: maps archived names to entries, in the manifest's order. Must be closed.

    `trailer` is as it was written, `described` reads it with types, and so do the properties.
    """

    def __init__(
        self, store: Store | Mirrors, name: str, opened: manifest.Manifest, key: Key, jobs: int | None = None
    ) -> None:
        """Closing the archive closes the store. `jobs` threads read a file ahead (None: one per core)."""
        self.store = store
        self.name = name
        self.key = key
        self.jobs = jobs or cores()
        self.manifest = opened
        self.entries = opened.entries
        self.trailer: dict[str, Any] = opened.trailer or {}
        self.described = Trailer(self.trailer)
        self._threads: Executor | None = None
        self._files: weakref.WeakSet[io.BufferedReader[EntryFile]] = weakref.WeakSet()

    def __getitem__(self, name: str) -> Entry:
        return self.entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __contains__(self, name: object) -> bool:
        return name in self.entries

    def __repr__(self) -> str:
        return f"<Archive {os.path.join(self.store.path, self.name)}>"

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes all open files, ends their threads, and closes the store."""
        for file in list(self._files):
            file.close()
        if self._threads:
            self._threads.shutdown(cancel_futures=True)
            self._threads = None
        self.store.close()

    # ---- content ----

    def open(self, name: str) -> io.BufferedReader[EntryFile]:
        """Opens a file for reading and seeking. Only the blobs that are read are fetched.

        Raises NoSuchEntry; reading raises MissingBlob, CorruptBlob, WrongBlob and StoreError.
        """
        file = io.BufferedReader(self._raw(name), BUFFER)
        self._files.add(file)
        return file

    def read(self, name: str, offset: int = 0, length: int | None = None) -> Iterator[memoryview]:
        """Yields the bytes of a file from `offset` on, at most `length` (None: to the end), in pieces of any size.

        All cores fetch and decompress ahead, and only the blobs that have some of these bytes. Raises as `open` and
        reading do.
        """
        with self._raw(name) as file:
            yield from file.pieces(offset, None if length is None else offset + length)

    def _raw(self, name: str) -> EntryFile:
        if name not in self.entries:  # such as /etc/fstab, as `ls` and `restore` take it
            name = "/".join(part for part in name.split("/") if part not in ("", "."))
        if name not in self.entries:
            kind = next((kind for kind, names in self.others.items() if name in names), "")
            raise NoSuchEntry(f"{name}: a {kind}, not a file" if kind else f"{name}: no such file in the archive")
        return EntryFile(name, self.entries[name], self.key, self.store, self._pool, self.jobs)

    def _pool(self) -> Executor:
        if self._threads is None:
            from concurrent.futures import ThreadPoolExecutor  # imported here, since a small file needs no threads

            self._threads = ThreadPoolExecutor(self.jobs, "pogfast-read")
        return self._threads

    # ---- trailer ----

    @property
    def time(self) -> datetime | None:
        """When the backup began; without a trailer, the local time in the manifest's name."""
        return time_of(self.described, self.name)

    @property
    def host(self) -> str:
        return self.described.host

    @property
    def comment(self) -> str:
        return self.described.comment

    @property
    def tags(self) -> list[str]:
        return self.described.tags

    @property
    def paths(self) -> list[str]:
        """What was archived, as absolute paths."""
        return self.described.paths

    @property
    def totals(self) -> dict[str, int]:
        return self.described.totals

    @property
    def layout(self) -> str:
        """`frames` or `stream`; without a trailer it is pog's, which is `stream`."""
        return self.described.layout or "stream"

    @property
    def chunk_size(self) -> int | None:
        return self.described.chunk_size

    @property
    def chunker(self) -> str:
        """How files were cut by content, as Chunker.parse reads it; else ""."""
        return self.described.chunker

    @cached_property
    def directories(self) -> dict[str, dict[str, Any]]:
        return self.described.section("directories")

    @cached_property
    def links(self) -> dict[str, dict[str, Any]]:
        return self.described.section("links")

    @cached_property
    def fifos(self) -> dict[str, dict[str, Any]]:
        return self.described.section("fifos")

    @cached_property
    def not_files(self) -> frozenset[str]:
        """The names of everything that is not a file."""
        return frozenset().union(*self.others.values())

    @property
    def others(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Everything that is not a file: kind -> archived name -> metadata."""
        return {"directory": self.directories, "link": self.links, "fifo": self.fifos}

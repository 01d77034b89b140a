"""One file of an archive, as a seekable binary file that fetches only the blobs that are read.

archive.py opens manifests and passes entries to this module; blobs come from a store and go through the engine. A file
whose blobs are separate frames can be read from any offset, and is read ahead by several threads when read in order. A
file whose blobs are one stream is read in order: seeking forward skips, seeking back starts again. Every error names
the entry, the blob and the plaintext offset.
"""

from __future__ import annotations

import contextlib
import io
import itertools
from bisect import bisect_right
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from typing import TYPE_CHECKING, Any, Protocol

from zstandard import ZstdDecompressor, ZstdError

from pogfast._engine import open_blob, read_chunk
from pogfast.archives.verdicts import DAMAGE_BY_ERROR
from pogfast.errors import CorruptBlob, DamageError, StoreError
from pogfast.keys import Key
from pogfast.manifest import Entry
from pogfast.stores.fetching import fetched

if TYPE_CHECKING:
    from zstandard import ZstdDecompressionObj

    from pogfast._engine import Buffer

# Uncompressed bytes of a chunk: up to this size it is decompressed into memory, a longer one while it is read.
MAX_WHOLE = 128 << 20
# Uncompressed bytes of chunks that stay in memory after they were read, for reads in any order.
HELD = 64 << 20
# Compressed bytes that are decompressed at a time: 4 of them can become 128 KiB, so this is at most 64 MiB.
FEED = 2048


class HoldsBlobs(Protocol):
    """The method of a store that is used here."""

    def get_blob(self, name: str) -> Buffer:
        """Raises MissingBlob, and StoreError when it cannot be read."""


class EntryFile(io.RawIOBase):
    """The content of one entry. At most `jobs` chunks are in memory when it is read in order, and few otherwise.

    Reading raises MissingBlob, CorruptBlob, WrongBlob, and StoreError if a blob exists and cannot be read.
    """

    def __init__(
        self, name: str, entry: Entry, key: Key, store: HoldsBlobs, threads: Callable[[], Executor], jobs: int
    ) -> None:
        self.name = name
        self._blobs = _Blobs(name, entry.blobs, key, store)
        self._entry = entry
        self._threads = threads
        self._jobs = jobs
        self._opened: _Source | None = None
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readall(self) -> bytes:
        content = b"".join(self.pieces(self._position))
        self._position += len(content)
        return content

    def readinto(self, buffer: Any) -> int:
        out = memoryview(buffer).cast("B")
        piece = self._source.read_at(self._position)[: len(out)] if len(out) else b""
        out[: len(piece)] = piece
        self._position += len(piece)
        return len(piece)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_CUR:
            offset += self._position
        elif whence == io.SEEK_END:
            offset += self._source.size()
        elif whence != io.SEEK_SET:
            raise ValueError(f"invalid whence: {whence}")
        if offset < 0:
            raise ValueError(f"negative seek position {offset}")
        self._position = offset
        return offset

    def tell(self) -> int:
        return self._position

    def size(self) -> int:
        """Returns the uncompressed size; if the archive does not say it, reads the whole file for it."""
        return self._source.size()

    def pieces(self, start: int = 0, stop: int | None = None) -> Iterator[memoryview]:
        """Yields the bytes from `start` to `stop` (None: the end), in pieces of any size, without a copy. Reads ahead
        on all cores, and only blobs that have some of these bytes."""
        self._source.expect(start, stop)
        while stop is None or start < stop:
            piece = self._source.read_at(start)
            if not len(piece):
                return
            piece = piece if stop is None else piece[: stop - start]
            start += len(piece)
            yield piece

    def close(self) -> None:
        if self._opened:
            self._opened.close()
            self._opened = None
        super().close()

    @property
    def _source(self) -> _Source:
        """Chosen when the first byte is read, since for some files the first blob decides."""
        if self.closed:
            raise ValueError("I/O operation on closed file")
        self._opened = self._opened or _choose(self._blobs, self._entry, self._threads, self._jobs)
        return self._opened


class _Source(Protocol):
    """A way to read a file, which depends on how it was cut into blobs."""

    def read_at(self, at: int) -> memoryview:
        """Returns some bytes from this offset on, none at the end."""

    def size(self) -> int: ...

    def expect(self, start: int, stop: int | None) -> None:
        """Announces that exactly these bytes will be read, in order."""

    def close(self) -> None: ...


def _choose(blobs: _Blobs, entry: Entry, threads: Callable[[], Executor], jobs: int) -> _Source:
    sizes = entry.sizes if entry.blobs else []
    if sizes is not None and max(sizes, default=0) <= MAX_WHOLE:
        return _Chunks(blobs, sizes, threads, jobs)
    if sizes is not None:
        return _Stream(blobs, [0, *itertools.accumulate(sizes[:-1])], sum(sizes), threads)
    stream = _Stream(blobs, [0], entry.size, threads)
    content = stream.whole() if len(blobs.names) == 1 else None
    return stream if content is None else _Whole(content)


class _Blobs:
    """Fetches and opens the blobs of one entry. Every error names the file, the blob, and its offset in the file."""

    def __init__(self, name: str, names: list[str], key: Key, store: HoldsBlobs) -> None:
        self.name = name
        self.names = names
        self.key = key
        self.store = store

    def chunk(self, index: int) -> bytes:
        """Returns the content of a blob, compressed."""
        blob, key = self.names[index], self.key
        return fetched(self.store, blob, lambda data: open_blob(key.secret, key.private, data, blob))

    def uncompressed(self, index: int, offset: int, size: int) -> bytes:
        """Returns the content of a blob that is a frame of its own, uncompressed; `size` bytes."""
        blob, key = self.names[index], self.key
        with self.errors(index, offset):
            return fetched(self.store, blob, lambda data: read_chunk(key.secret, key.private, data, blob, size))

    @contextlib.contextmanager
    def errors(self, index: int, offset: int) -> Iterator[None]:
        try:
            yield
        except tuple(DAMAGE_BY_ERROR) as error:
            kind, text = next(what for known, what in DAMAGE_BY_ERROR.items() if isinstance(error, known))
            raise self.damage(kind, index, offset, text) from error
        except StoreError as error:
            raise StoreError(f"{self.name}, from byte {offset} on: {error}") from error

    def damage(self, kind: type[DamageError], index: int, offset: int, what: str) -> DamageError:
        return kind(f"{self.name}, from byte {offset} on: blob {self.names[index]} {what}")


class _Chunks:
    """A file whose blobs are frames of their own, of known uncompressed `sizes`."""

    def __init__(self, blobs: _Blobs, sizes: list[int], threads: Callable[[], Executor], jobs: int) -> None:
        self.blobs = blobs
        self.starts = [0, *itertools.accumulate(sizes)]
        self.threads = threads
        self.jobs = jobs
        self.held: dict[int, bytes | Future[bytes]] = {}  # in the order of their last use
        self.at = -1  # the chunk that was read last
        self.next = -1  # whoever reads this one next is reading in order
        self.end = len(sizes)  # chunks from this one on are not fetched ahead

    def size(self) -> int:
        return self.starts[-1]

    def read_at(self, at: int) -> memoryview:
        if at >= self.size():
            return memoryview(b"")
        index = self._index(at)
        if index != self.at:
            self._go_to(index)
        return memoryview(self._take(index))[at - self.starts[index] :]

    def expect(self, start: int, stop: int | None) -> None:
        if start < self.size():
            self.at, self.next = -1, self._index(start)
            self.end = self._index(min(self.size(), stop or self.size()) - 1) + 1

    def close(self) -> None:
        for index in list(self.held):
            self._drop(index)

    def _index(self, at: int) -> int:
        return bisect_right(self.starts, at) - 1

    def _go_to(self, index: int) -> None:
        """Moves to a chunk. If the previous one was read before it, the next ones are fetched ahead."""
        ahead = range(index, max(index + 1, min(index + self.jobs, self.end) if index == self.next else 0))
        room = HELD if len(ahead) == 1 else 0
        for other in reversed(list(self.held)):
            if other not in ahead:
                room -= self._length(other)
                if room < 0:
                    self._drop(other)
        if len(ahead) > 1:
            for wanted in ahead:
                if wanted not in self.held:
                    self.held[wanted] = self.threads().submit(self._fetch, wanted)
        self.at, self.next = index, index + 1

    def _take(self, index: int) -> bytes:
        held = self.held.pop(index, None)
        if held is None:
            held = self._fetch(index)
        elif isinstance(held, Future):
            held = held.result()
        self.held[index] = held
        return held

    def _fetch(self, index: int) -> bytes:
        return self.blobs.uncompressed(index, self.starts[index], self._length(index))

    def _length(self, index: int) -> int:
        return self.starts[index + 1] - self.starts[index]

    def _drop(self, index: int) -> None:
        held = self.held.pop(index)
        if isinstance(held, Future):
            held.cancel()


class _Stream:
    """One stream in several blobs, or frames that are too long for memory. `starts` are the offsets in the file of the
    blobs that reading can start with; `length` is the file's, if known."""

    def __init__(self, blobs: _Blobs, starts: list[int], length: int | None, threads: Callable[[], Executor]) -> None:
        self.blobs = blobs
        self.starts = starts
        self.length = length
        self.threads = threads
        self.coming: Iterator[bytes] = iter(())
        self.at = -1  # the offset of `piece` in the file; -1: reading has not started
        self.piece = b""
        self.made = 0  # the offset in the file of the next decompressed byte
        self.frame: ZstdDecompressionObj | None = None  # None: between two frames

    def size(self) -> int:
        if self.length is None:
            at, piece = max(self.at, 0), self.read_at(max(self.at, 0))
            while len(piece):
                at += len(piece)
                piece = self.read_at(at)
            self.length = at
        return self.length

    def read_at(self, at: int) -> memoryview:
        begin = bisect_right(self.starts, at) - 1
        if self.at < 0 or at < self.at or self.starts[begin] > self.at + len(self.piece):
            self.close()
            self.coming, self.at = self._pieces(begin), self.starts[begin]
        while at >= self.at + len(self.piece):
            try:
                piece = next(self.coming, b"")
            except BaseException:
                self.close()  # so that the next read raises the error again, instead of seeing the end of the file
                raise
            if not piece:
                return memoryview(b"")
            self.at += len(self.piece)
            self.piece = piece
        return memoryview(self.piece)[at - self.at :]

    def whole(self) -> bytes | None:
        """Returns the whole content if it is small enough for memory, else None."""
        pieces: list[bytes] = []
        made = 0
        while made <= HELD:
            piece = self.read_at(made)
            if not len(piece):
                return b"".join(pieces)
            pieces.append(bytes(piece))
            made += len(piece)
        self.close()
        return None

    def expect(self, start: int, stop: int | None) -> None:
        """Does nothing: a stream is always read in order."""

    def close(self) -> None:
        self.coming, self.at, self.piece = iter(()), -1, b""

    def _pieces(self, begin: int) -> Iterator[bytes]:
        """Yields the content from the blob `begin` on, in small pieces."""
        self.made, self.frame = self.starts[begin], None
        last = len(self.blobs.names) - 1
        for index, chunk in self._chunks(begin):
            if index < len(self.starts) and self.starts[index] != self.made:
                raise self.blobs.damage(CorruptBlob, index - 1, self.made, "has another length than its entry says")
            yield from self._decompress(index, chunk)
        if self.frame is not None:
            raise self.blobs.damage(CorruptBlob, last, self.made, "does not reach the end of the file")
        if self.length not in (None, self.made):
            raise self.blobs.damage(CorruptBlob, last, self.made, "has another length than its entry says")

    def _decompress(self, index: int, chunk: bytes) -> Iterator[bytes]:
        whole = memoryview(chunk)
        for at in range(0, len(whole), FEED):
            data: bytes | memoryview = whole[at : at + FEED]
            while data:
                self.frame = self.frame or ZstdDecompressor().decompressobj()
                try:
                    piece = self.frame.decompress(data)
                except ZstdError as error:
                    raise self.blobs.damage(CorruptBlob, index, self.made, "does not decompress") from error
                self.made += len(piece)
                if self.length is not None and self.made > self.length:
                    raise self.blobs.damage(CorruptBlob, index, self.length, "is longer than its entry says")
                if piece:
                    yield piece
                data = b""
                if self.frame.eof:
                    data, self.frame = self.frame.unused_data, None

    def _chunks(self, begin: int) -> Iterator[tuple[int, bytes]]:
        """Yields the opened blobs. From the second on, the next is opened while one is decompressed."""
        following: Future[bytes] | None = None
        try:
            for index in range(begin, len(self.blobs.names)):
                with self.blobs.errors(index, self.made):
                    chunk = following.result() if following else self.blobs.chunk(index)
                following = None
                if begin < index < len(self.blobs.names) - 1:
                    following = self.threads().submit(self.blobs.chunk, index + 1)
                yield index, chunk
        finally:
            if following:
                following.cancel()


class _Whole:
    """A small file of one blob, whose archive does not say how long it is: decompressed once, into memory."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def size(self) -> int:
        return len(self.content)

    def read_at(self, at: int) -> memoryview:
        return memoryview(self.content)[at:]

    def expect(self, start: int, stop: int | None) -> None:
        """Does nothing: all content is in memory."""

    def close(self) -> None:
        self.content = b""

"""The compiled engine (ext/): blobs in, blobs out. It knows no manifest, no path policy, and prints nothing.

Buffers are any contiguous bytes-like object. Sizes are bytes, times nanoseconds since 1970. Keys are 32 bytes:
`secret` is S of FORMAT.md (in X25519 mode the public key), `private` the private key or None.
"""

from collections.abc import Buffer, Callable, Iterator, Sequence
from typing import NamedTuple

ZSTD_VERSION: str
LEVELS: tuple[int, int]

# Small boxes, for manifests and headers. The *_open functions return None when the data does not authenticate.
def random_bytes(n: int) -> bytes: ...
def secretbox(key: bytes, message: Buffer) -> bytes: ...
def secretbox_open(key: bytes, data: Buffer) -> bytes | None: ...
def sealedbox(public: bytes, message: Buffer) -> bytes: ...
def sealedbox_open(public: bytes, private: bytes, data: Buffer) -> bytes | None: ...
def public_key(private: bytes) -> bytes: ...

# One zstd frame with its content size; and all frames of `data`, skippable ones skipped (ValueError when malformed).
def compress(data: Buffer, level: int = 3) -> bytes: ...
def decompress(data: Buffer) -> bytes: ...

# One blob at a time: the kernels that Sealer and Opener run, for tests, benchmarks and `pog --decrypt BLOB`.
def blob_name(secret: bytes, chunk: Buffer) -> str: ...
def seal_blob(secret: bytes, asymmetric: bool, chunk: Buffer, chunk_size: int) -> tuple[str, bytes]: ...
def open_blob(secret: bytes, private: bytes | None, blob: Buffer, name: str | None = None) -> bytes:
    """The chunk in a blob. Raises errors.WrongKey (the header does not unwrap), CorruptBlob, and WrongBlob when
    `name` is given and is not the content's (by neither naming rule)."""

def sync_file_system(fd: int) -> None: ...

class BlobDirectory:
    """A directory of blobs, reached without the GIL. `fan_out`: data/ab/NAME, else NAME flat in the directory."""

    def __init__(self, fd: int, fan_out: bool) -> None: ...

class Sealed(NamedTuple):
    """What became of one file: its blobs' names, and facts read when it was opened. `error` is an errno or 0."""

    index: int
    names: list[str]
    done: bool
    error: int
    size: int
    atime_ns: int
    mtime_ns: int

class Sealer:
    """Turns files into blobs: read, compress, cut, name, pad, encrypt, hand out. FORMAT.md's `stream` layout."""

    def __init__(
        self,
        secret: bytes,
        asymmetric: bool,
        paths: Sequence[bytes],
        sinks: Sequence[BlobDirectory | Callable[[str, memoryview], None]],
        *,
        chunk_size: int,
        level: int,
        jobs: int,
    ) -> None: ...
    def run(self) -> Iterator[Sealed]:
        """In the order of `paths`: news of the first file that is not done, until all are. A file's names may come in
        several pieces; the last has `done`. Raises what a sink raised (OSError for a BlobDirectory)."""

    def stop(self) -> None: ...

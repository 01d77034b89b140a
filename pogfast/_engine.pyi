"""The compiled engine (ext/): blobs in, blobs out. It knows no manifest, no path policy, and prints nothing.

Buffers are any contiguous bytes-like object. Sizes are bytes, times nanoseconds since 1970. Keys are 32 bytes:
`secret` is S of FORMAT.md (in X25519 mode the public key), `private` the private key or None.
"""

from collections.abc import Callable, Generator, Iterable, Sequence
from typing import NamedTuple

Buffer = bytes | bytearray | memoryview

ZSTD_VERSION: str
LEVELS: tuple[int, int]

# What is wrong with the kernels, a line each; importing the module raises ImportError with these. `longest`: bytes.
def check_kernels(longest: int = 1000) -> list[str]: ...

# Small boxes, for manifests and headers. The *_open functions return None when the data does not authenticate.
def random_bytes(n: int) -> bytes: ...
def secretbox(key: bytes, message: Buffer) -> bytes: ...
def secretbox_open(key: bytes, data: Buffer) -> bytes | None: ...
def sealedbox(public: bytes, message: Buffer) -> bytes: ...
def sealedbox_open(public: bytes, private: bytes, data: Buffer) -> bytes | None: ...
def public_key(private: bytes) -> bytes: ...
def is_valid_point(point: bytes) -> bool: ...

# One zstd frame with its content size; and all frames of `data`, skippable ones skipped (ValueError when malformed).
def compress(data: Buffer, level: int = 3) -> bytes: ...
def decompress(data: Buffer) -> bytes: ...

# The sizes of the chunks that Sealer cuts `data` into, with `chunk_size` and `content` as it is told them.
def cut(data: Buffer, chunk_size: int, content: tuple[int, int, bytes] | None) -> list[int]: ...

# One blob at a time: the kernels that Sealer and Opener run, for tests, benchmarks and `pog --decrypt BLOB`.
def blob_name(secret: bytes, chunk: Buffer) -> str: ...
def seal_blob(
    secret: bytes, asymmetric: bool, chunk: Buffer, chunk_size: int, even: bool = False
) -> tuple[str, bytes]: ...
def open_blob(secret: bytes, private: bytes | None, blob: Buffer, name: str | None = None) -> bytes:
    """The chunk in a blob. Raises errors.WrongKey (the header does not unwrap), CorruptBlob, and WrongBlob when
    `name` is given and is not the content's (by neither naming rule)."""

def read_chunk(secret: bytes, private: bytes | None, blob: Buffer, name: str, size: int) -> bytes:
    """The plain bytes of a blob that is a frame of its own, exactly `size` of them (-1: not known). Raises as
    open_blob does; CorruptBlob, too, when it does not decompress to that length."""

def use_nameless_files(wanted: bool) -> bool:
    """Switches files that have no name until they are whole off, and on again where the system has them. For tests."""

def cores() -> int:
    """How many this process may use."""

def sync_file_system(fd: int) -> None: ...

class BlobDirectory:
    """A directory of blobs, reached without the GIL: data/ab/NAME with `fan_out`, else NAME.

    The descriptor stays the caller's. `temporary` begins the names of unfinished files and must be unique to this
    process on every machine that writes here; `path` is for messages.
    """

    path: str
    def __init__(self, fd: int, fan_out: bool, temporary: bytes = ..., path: str = ...) -> None: ...
    def distrust(self, after: int, before: int) -> None:
        """Has blobs that were written between two times (ns since 1970) stored anew unless the key can tell that they
        are good."""
    def put(self, name: str, blob: Buffer) -> None:
        """Stores one blob, whole or not at all, in place of what may lie there, which a power cut does not take away
        before this one is on the disk. Raises OSError."""

    def doubt(self, names: Iterable[str]) -> None:
        """From now on blobs of these names count as absent, in place of the names of an earlier call: each run of a
        Sealer stores what it needs of them anew. Not while one runs. Raises ValueError for what is no blob's name."""

Sink = BlobDirectory | Callable[[str, memoryview], None]

class Known(NamedTuple):
    """A file of which an earlier run has stored the first chunks, or an earlier version: names and bytes of the blobs
    (`stored`), plain bytes in each (`sizes`).

    `facts` (size, mtime_ns, ctime_ns, inode) say what it was then: the blobs are its first ones, unless it is not that
    any more. None: it is not. Where it is read and cut by content, a chunk with one of the `plain_names` (32 bytes, or
    empty where there is none), as Sealed told them, is taken for that blob if every sink has it. Only for the `frames`
    layout.
    """

    path: bytes | int
    names: Sequence[str]
    stored: Sequence[int]
    sizes: Sequence[int]
    facts: tuple[int, int, int, int] | None
    plain_names: Sequence[bytes] = ()

class Sealed(NamedTuple):
    """What is new of one file: names of blobs stored since the last event, and facts read when it was opened.

    `stored` are the blobs' bytes; `sizes` the plain bytes in each, where each blob is a frame of its own. Where files
    are cut by content, `plain_names` are what each blob would be called were it not compressed; empty where that is not
    known (a file of one chunk, or one that does not compress: it is as quickly made again). `done` says
    that these are the last: then `error` is an errno or 0, `changed` says that the file is not what it was when it
    was opened, and `size` is how many plain bytes went into the blobs. `sparse`: it has holes.
    """

    file: int
    names: list[str]
    stored: list[int]
    sizes: list[int]
    plain_names: list[bytes]
    done: bool
    error: int
    changed: bool
    size: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    sparse: bool

class Tallied(NamedTuple):
    """What a Sealer has done so far. `blobs_known` lay in every sink already."""

    bytes_read: int
    bytes_stored: int
    blobs_new: int
    blobs_known: int

class Sealer:
    """Turns files into blobs: read, compress, cut, name, pad, encrypt, store. Both layouts of FORMAT.md.

    `source` gives what to archive, and is asked as the work goes on: a path, a `Known`, or a descriptor that is read
    to its end in order (a pipe; it stays the caller's). None: ask again at the next event of a file, of which one
    must be under way. With `frames` a file is cut every `chunk_size` plain bytes, or by its `content` (minimum and
    mean size, and a table of 256 numbers, 8 bytes each), and its chunks are made side by side; `slabs` bounds the
    chunks in flight, each a little more than twice `chunk_size` bytes; without it there is one more than workers,
    which waits for the disk or, in a stream, is filled. At most `readers` workers read at a time.
    `follow`: a link to a file is read as the file.

    A blob that lies in a BlobDirectory already, with the right size and (where the key can tell) authentic, is kept;
    a torn one is replaced. With `anew` each blob of the run is stored once, whatever lies there. `even`: new blobs are
    padded to sizes that hide how long their content is.
    A function gets each new blob as a read-only view of the engine's own buffer, which is not used again while a view
    of it lives; where it has a method `holds`, that is asked first how many bytes it has under the blob's name (None:
    none). Both are called from worker threads. A sink that fails (OSError, StoreError) gets no more blobs and is
    `lost`; the last of them ends the run. Where there is a method `abandon`, it is called when the run ends early.
    """

    lost: dict[int, BaseException]  # index of a sink -> why

    def __init__(
        self,
        secret: bytes,
        asymmetric: bool,
        source: Iterable[bytes | int | Known | None],
        sinks: Sequence[Sink],
        *,
        chunk_size: int,
        level: int,
        jobs: int,
        frames: bool = False,
        content: tuple[int, int, bytes] | None = None,
        slabs: int = 0,
        readers: int = 0,
        follow: bool = True,
        anew: bool = False,
        even: bool = False,
    ) -> None: ...
    def run(self) -> Generator[Sealed]:
        """In the order of `source`: events of the first file that is not done, until all are.

        Raises what `source` or the last sink raised, OSError for a BlobDirectory, MemoryError when a chunk does not
        fit. To be closed (contextlib.closing) when it is not read to its end: that ends the workers.
        """

    def progress(self) -> Tallied: ...
    def stop(self) -> None: ...

VERDICT: dict[str, int]
MAX_BLOB: int  # bytes of the longest blob that is opened on this machine

class Wanted(NamedTuple):
    """One file that an Opener is asked for."""

    directory: int  # descriptor; -1: nothing is written, the file is only verified
    leaf: bytes  # its name there; b"" when verifying
    blobs: list[str]
    sizes: list[int] | None  # plain length of each blob, where every blob is a frame of its own
    size: int  # plain length of the file, -1 when not known
    atime_ns: int
    mtime_ns: int
    mode: int = ...  # permission bits, which it has before its name (until then 0600); -1: 0666 & ~umask
    uid: int = ...  # -1: left alone
    gid: int = ...
    xattrs: Sequence[tuple[bytes, bytes]] = ...
    sparse: bool = ...  # blocks of 4 KiB that are zero become holes; else a large file of known size is preallocated
    replace: bool = ...  # False: EEXIST, a "bad write", when the name is there already

class Opened(NamedTuple):
    """What became of one file: a value of VERDICT, and where that is not "good" which of its blobs it was with.

    "no room": the file system has not the room for the `size` that was wanted; only this file needs it.
    `offset` is where the plain bytes of that blob begin in the file, -1 when not known or not damaged. `soft` is the
    errno of an owner, attribute, mode or times that could not be set, or 0: the file is there all the same.
    """

    file: int
    done: bool
    verdict: int
    blob: int
    errno: int
    offset: int
    soft: int

class Opener:
    """Turns blobs into files: read, authenticate, decrypt, check the name, decompress, write. Both layouts.

    With one blob, or with sizes, every blob is a frame of its own: blobs are restored in parallel, each to its place,
    and each is fetched once for all its places in all files, as long as at most 256 files need to be open for that;
    what then is left is fetched again. A length that is not what was said is a "bad frame". A file appears under its
    name when it is whole. A function as source is called from worker threads, and raises MissingBlob for what is not
    there and CorruptBlob for what it cannot give; anything else that it raises ends the run, but for MemoryError, which
    is a "bad read" of that file. What seems damaged is fetched once more. A blob that is longer than its plain bytes
    can make it, or than MAX_BLOB, is a "bad body" that is not read.
    """

    def __init__(
        self,
        secret: bytes,
        private: bytes | None,
        asymmetric: bool,
        files: Sequence[Wanted],
        source: BlobDirectory | Callable[[str], Buffer],
        *,
        jobs: int,
        temporary: bytes = ...,
    ) -> None: ...
    def start(self) -> None:
        """Lets the workers begin before `run` does. Then `stop` has to be called, whatever happens."""

    def run(self) -> Generator[Opened]:
        """In the order of `files`, one for each. To be closed when it is not read to its end."""

    def written(self) -> int:
        """Plain bytes that are in their places so far, in unfinished files as well. May be asked from any thread."""

    def read(self) -> int:
        """Bytes of blobs that were read so far. May be asked from any thread."""

    def stop(self) -> None: ...

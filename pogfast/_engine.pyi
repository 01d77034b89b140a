"""The compiled engine (ext/): files to blobs, and blobs to files. Knows no manifests and no path policy; never prints.

Buffers are contiguous bytes-like objects. Sizes are bytes, times nanoseconds since 1970. Keys are 32 bytes:
`secret` is S of FORMAT.md (in X25519 mode the public key), `private` the private key or None.
"""

from collections.abc import Callable, Generator, Iterable, Sequence
from typing import NamedTuple

Buffer = bytes | bytearray | memoryview

ZSTD_VERSION: str
LEVELS: tuple[int, int]

# Tests the kernels on data of up to `longest` bytes; returns a line for each that is wrong. Importing the module raises
# ImportError with these.
def check_kernels(longest: int = 1000) -> list[str]: ...

# libsodium's boxes, for manifests and headers. The *_open functions return None if the data does not authenticate.
def random_bytes(n: int) -> bytes: ...
def secretbox(key: bytes, message: Buffer) -> bytes: ...
def secretbox_open(key: bytes, data: Buffer) -> bytes | None: ...
def sealedbox(public: bytes, message: Buffer) -> bytes: ...
def sealedbox_open(public: bytes, private: bytes, data: Buffer) -> bytes | None: ...
def public_key(private: bytes) -> bytes: ...
def is_valid_point(point: bytes) -> bool: ...

# Returns one zstd frame with its content size; decompresses all frames of `data` but skippable ones (ValueError if
# malformed).
def compress(data: Buffer, level: int = 3) -> bytes: ...
def decompress(data: Buffer) -> bytes: ...

# Returns the sizes of the chunks that Sealer cuts `data` into; `chunk_size` and `content` are Sealer's.
def cut(data: Buffer, chunk_size: int, content: tuple[int, int, bytes] | None) -> list[int]: ...

# One blob at a time: the kernels that Sealer and Opener run, for tests, benchmarks and `pog --decrypt BLOB`.
def blob_name(secret: bytes, chunk: Buffer) -> str: ...

# Returns True if all are the 44 letters of a blob's name, which is all that is known of them.
def are_blob_names(values: list[object]) -> bool: ...
def seal_blob(
    secret: bytes, asymmetric: bool, chunk: Buffer, chunk_size: int, even: bool = False
) -> tuple[str, bytes]: ...
def open_blob(secret: bytes, private: bytes | None, blob: Buffer, name: str | None = None) -> bytes:
    """Returns the chunk in a blob. Raises errors.WrongKey (the header does not unwrap), CorruptBlob, and WrongBlob if
    `name` is given and does not match the content (by either naming rule)."""

def read_chunk(secret: bytes, private: bytes | None, blob: Buffer, name: str, size: int) -> bytes:
    """Returns the file's bytes in a blob that is a frame of its own, exactly `size` of them (-1: unknown). Raises as
    open_blob does, and CorruptBlob if it does not decompress to that length."""

def use_nameless_files(wanted: bool) -> bool:
    """Turns unnamed temporary files (O_TMPFILE) off, and on again if the system has them. For tests."""

def cores() -> int:
    """Returns the number of cores that this process may use."""

def map_large_buffers() -> None:
    """Has the C library return the memory of buffers of a MiB and more to the system as soon as they are freed, where
    it would keep it. For a program that does nothing else: it holds for the whole process."""

def sync_file_system(fd: int) -> None: ...

class Place(NamedTuple):
    """Where a blob lies in a pack, by an index object."""

    part: int  # position of the index object in PackIndex.replace
    pack: int  # which of its packs
    offset: int
    size: int

class Row(NamedTuple):
    """A row of an index object."""

    name: str
    pack: int
    offset: int
    size: int

class IndexFile:
    """An index object in a file, which stays there but for its beginning and a byte of each name. `fd` is duplicated.
    Raises ValueError if it is no index object, OSError if it cannot be read."""

    def __init__(self, fd: int) -> None: ...
    beginning: bytes  # what is before the names
    @property
    def failed(self) -> bool:
        """True once it could not be read: a search that finds nothing says nothing then."""

    def __len__(self) -> int: ...
    def read(self) -> bytearray:
        """Returns the whole index object. Raises OSError."""

class PackIndex:
    """Index objects, searched where they lie: in memory or in files. Nothing in them is believed: a row counts only if
    its span lies within its pack, by the size that the index says.

    All methods may be called from any thread; `replace` while others search.
    """

    def replace(self, parts: Sequence[tuple[Buffer | IndexFile, Buffer]]) -> None:
        """Searches these index objects from now on. With each comes a byte for each of its packs: 0 absent, 1 there,
        2 there with another size. They must not change, and are kept until they are replaced and no search is in them
        any more. Raises ValueError if one is no index object."""

    def find(self, name: str) -> Place | None:
        """Returns a place of the blob in a pack of state 1, else of state 2, else None."""

    def find_all(self, name: str) -> list[Place]:
        """Returns every place in packs of state 1 or 2, in the order of the index objects."""

    def find_many(self, names: Sequence[str]) -> list[Place | None]:
        """As find, for many names: without the GIL, and one index object after the other."""

    def rows(self, part: int, start: int, stop: int) -> list[Row]:
        """Returns rows [start, stop) of an index object, as far as it has them, in its order. Raises IndexError if
        there is no such index object, ValueError if a row lies beyond its pack, OSError if one cannot be read."""

def check_index(data: Buffer) -> None:
    """Raises ValueError, which says what is wrong, unless an index object is as build_index makes it, and its rows
    cover its packs without gaps and overlaps."""

def build_index(
    packs: Sequence[tuple[bytes, int, int]], tables: Sequence[Buffer], supersedes: Sequence[bytes] = ()
) -> bytearray:
    """Returns the index object of packs: (raw name, day, size) in any order, and the table of each, which must not
    change meanwhile. Raises ValueError if a table does not match the size of its pack."""

def build_plain_index(blobs: Iterable[tuple[str, int]]) -> bytearray:
    """Returns an index object, with one pack, that says how long blobs are that lie in no pack: for Packer's `plain`.
    Blobs of 4 GiB or more are left out."""

def merge_indexes(parts: Sequence[tuple[Buffer, Buffer]], supersedes: Sequence[bytes]) -> bytearray:
    """Returns one index object with the rows of all packs of state 1. `parts` as in PackIndex.replace, in memory; they
    must not change meanwhile. A pack in several of them counts once. Raises ValueError if one is malformed."""

class BlobDirectory:
    """A directory of blobs, accessed without the GIL: data/ab/NAME with `fan_out`, else NAME.

    The caller keeps the descriptor and closes it. `temporary` is the prefix of temporary files' names; it must be
    unique to this process among all machines that write here. `path` is for messages.
    """

    path: str
    def __init__(self, fd: int, fan_out: bool, temporary: bytes = ..., path: str = ...) -> None: ...
    def distrust(self, after: int, before: int) -> None:
        """Has blobs that were written between two times (ns since 1970) stored again, unless the key can show that they
        are intact."""
    def read_packs(self, index: PackIndex | None, refresh: Callable[[], bool] | None = None) -> None:
        """Has an Opener look for a blob in the packs of this directory first, packs/YYYY-MM-DD/NAME, as `index` says,
        and then for a file of its own. Where it finds none, it calls `refresh`, which lists the packs again and returns
        True if the blob is to be looked for again; an exception of it is a False. Not while an Opener runs."""
    def put(self, name: str, blob: Buffer) -> None:
        """Stores one blob atomically and replaces an existing one, which survives a power cut until the new one is on
        disk. Raises OSError."""

    def doubt(self, names: Iterable[str]) -> None:
        """Treats blobs of these names as absent, so that a Sealer stores those that it needs again. Replaces the names
        of an earlier call. Not while a Sealer runs. Raises ValueError for an invalid blob name."""

    def sizes_of(self, names: Iterable[str]) -> list[int | None]:
        """Returns the bytes of each blob that lies by itself; None for one that is missing, or counts as absent by
        `distrust` or `doubt`. Raises OSError, and ValueError for an invalid blob name."""

class Pack:
    """A finished pack, as a buffer that cannot be written to: blobs, table and footer of FORMAT.md. Its memory is used
    again when the last view of it is gone."""

    blobs: int  # how many
    @property
    def table(self) -> memoryview:
        """The table's rows, 44 bytes for each blob: a view into the pack."""

    def __buffer__(self, flags: int) -> memoryview: ...

class Packer:
    """A sink for a Sealer that puts blobs of at most `limit` bytes into packs, and passes larger ones on to `sink`.

    A pack is complete when its blobs have `size` bytes, or are `max_blobs`. `put` is called with each by the thread
    that completes it, which may be any worker; two at a time, beside `flush`: others wait before they begin another
    pack, so `put` must not add blobs. With a `limit` of 0 nothing is packed. What `index`
    has in packs of state 1 is not stored again. `plain`, from build_plain_index, says which blobs of at most `limit`
    bytes lie in the store by themselves; a Sealer then asks `sink` only for longer ones. Raises ValueError if a pack
    could have 4 GiB, or if `plain` is `index`.

    A Sealer adds blobs without the GIL. If `put` raises, the Sealer loses this sink as if a sink had raised.
    """

    def __init__(
        self,
        sink: Sink,
        index: PackIndex,
        put: Callable[[Pack], None],
        *,
        size: int,
        limit: int,
        max_blobs: int = 10_000,
        plain: PackIndex | None = None,
    ) -> None: ...
    def __call__(self, name: str, blob: Buffer) -> None:
        """Adds one blob, or passes it on. Raises what `put` and `sink` raise, and MemoryError."""

    def holds(self, name: str) -> int | None:
        """Returns the bytes of a blob that is stored: by `index`, by `plain`, or else by what `sink` says. Blobs of a
        pack that is not complete, or that `index` does not have yet, are not known."""

    def doubt(self, names: Iterable[str]) -> None:
        """Treats blobs of these names as absent from packs, and from `plain`. Replaces the names of an earlier call;
        `sink` is not told. Not while a Sealer runs. Raises ValueError for an invalid blob name."""

    def flush(self) -> None:
        """Ends the pack that is not complete, if there is one. Raises what `put` raises."""

    def abandon(self) -> None:
        """Passes on to `sink`, if that has such a method."""

    def idle(self) -> float | None:
        """Returns the seconds since a blob was added to the pack that is not complete; None if there is none."""

    def age(self) -> float | None:
        """Returns the seconds since the first blob was added to it."""

Sink = BlobDirectory | Packer | Callable[[str, memoryview], None]

class Stat:
    """What lstat says of a file: the fields of os.stat_result that an archive needs."""

    st_mode: int
    st_uid: int
    st_gid: int
    st_dev: int
    st_ino: int
    st_nlink: int
    st_size: int
    st_blocks: int
    @property
    def st_atime_ns(self) -> int: ...
    @property
    def st_mtime_ns(self) -> int: ...
    @property
    def st_ctime_ns(self) -> int: ...

class Listing:
    """The entries of a directory, sorted by the bytes of their names. The names are read at once, lstat is called for
    some thousand at a time. `path` ends in a slash. Raises OSError if the directory cannot be read."""

    path: bytes
    def __init__(self, path: bytes) -> None: ...
    def __len__(self) -> int: ...
    def name(self, number: int) -> str: ...
    def position(self, name: bytes) -> int:
        """Returns how many names are less than this one."""

    def stat(self, number: int) -> Stat:
        """Returns what lstat says of an entry. Raises OSError."""

    def end_of_files(self, first: int, largest: int) -> int:
        """Returns where a run of plain files ends that begins at `first`, at most some thousand further on; `first` if
        there is none. Plain files are regular, on one device, have one name and no extended attributes, and at most
        `largest` bytes."""

class FileRun:
    """Plain files that follow each other in a directory, as they were listed; numbered from 0. `above` is what comes
    before their archived names: the directory with a slash, or nothing.

    A file is unchanged if the cache says so, and which blob it has; it is read if the engine has read it; it is
    doubtful if the cache says something else, and fresh if that says nothing. What a run does with any file is in
    pogfast/backup; this does the same with the usual ones, which have one blob, many at a time."""

    above: str
    device: int
    newest_ns: int  # the latest ctime
    path: bytes  # of the directory, with a slash at its end
    def __init__(self, listing: Listing, first: int, last: int, above: str) -> None: ...
    def __len__(self) -> int: ...
    def leaf(self, number: int) -> bytes:
        """Returns the name of a file in its directory."""

    def node(self, number: int) -> tuple[str, str, Stat]:
        """Returns the path of a file, its archived name, and what lstat said."""

    def match(
        self,
        begin: int,
        rows: dict[bytes, tuple[bytes, bytes, bytes, int, int, int, bytes, bytes]],
        until: bytes | None,
        directory: bytes,
        trusted: set[int],
        stale: int,
        key: bytes,
        cut: bytes,
        seen: list[bytes],
    ) -> int:
        """Makes the files from `begin` on unchanged, or doubtful, that have rows: as backup/cache.py does, by the proof
        of each under `key`. Returns the first whose path in `directory` is greater than `until`, of which `rows` say
        nothing; their number if there is none. Paths of rows that no run after `stale` has seen are added to `seen`.

        Files of several blobs, on file systems of whole seconds, and with times before 1677 or after 2262 are doubtful.
        """

    def known(self) -> list[tuple[int, str, int]]:
        """Returns the number, blob and its bytes in a store of each unchanged file."""

    def doubt(self, number: int) -> None:
        """Makes a file doubtful."""

    def ordinary_until(self, begin: int) -> int:
        """Returns the first doubtful file from `begin` on; their number if there is none."""

    def next_fresh(self, begin: int) -> int:
        """Returns the first fresh file from `begin` on; their number if there is none."""

    def take(self, number: int, sealed: Sealed) -> bool:
        """Makes a fresh file read, as a Sealer reports it. Returns False if it is not finished, or not a usual one: it
        has several blobs, holes or an odd time, it has changed, is another than was listed, or could not be read."""

    def outcomes(self, begin: int, end: int) -> tuple[int, int, int, int]:
        """Returns the number of files that were read and their bytes, and the same of those that are unchanged."""

    def is_unchanged(self, number: int) -> bool: ...
    def blobs(self, begin: int, end: int) -> tuple[list[str], list[int]]:
        """Returns the blobs of some files, and the bytes of each in a store."""

    def plain_names(self, number: int) -> list[bytes]:
        """Returns the plain name of the chunk in a file's blob, if the engine has told it."""

    def entries(
        self,
        begin: int,
        end: int,
        above: bytes,
        owners: dict[tuple[int, int], bytes],
        owner: Callable[[int, int], bytes],
        encoded: Callable[[str], bytes],
    ) -> bytes:
        """Returns the entries of some files, as members of a manifest's JSON, with commas between them.

        `above` is self.above in JSON, without the last quotation mark. `owner` returns, for a uid and a gid, the
        members of an entry that name them; `owners` keeps what it has returned. `encoded` returns a name in JSON.
        Raises ValueError if the blob of one is not known."""

    def rows(
        self, begin: int, end: int, directory: bytes, run: int, key: bytes, cut: bytes, until_ns: int, by_content: bool
    ) -> tuple[list[tuple[bytes, bytes, bytes, int, int, int, bytes, bytes]], list[int]]:
        """Returns rows, as backup/cache.py makes them, for those of some files that were read; and which of these it
        leaves out, since a change after `until_ns` may not show in their timestamps."""

class BlobSet:
    """A set of blobs. Keeps 8 bytes of each name, which are random enough to tell them apart."""

    def add(self, names: list[str], sizes: list[int]) -> int:
        """Adds blobs, and returns the sum of the sizes of those that are new."""

class Known(NamedTuple):
    """A file of which an earlier run has stored the first chunks, or an earlier version: names and bytes of the blobs
    (`stored`), and the bytes of the file in each (`sizes`).

    `facts` (size, mtime_ns, ctime_ns, inode) are the file's then: if they still match, the blobs are its first ones.
    None: it has changed. If it is read and cut by content, a chunk with one of the `plain_names` (32 bytes, or empty
    if unknown), which come from Sealed, is not stored again if every sink has that blob. Only for the `frames` layout.
    """

    path: bytes | int
    names: Sequence[str]
    stored: Sequence[int]
    sizes: Sequence[int]
    facts: tuple[int, int, int, int] | None
    plain_names: Sequence[bytes] = ()

class FilePart(NamedTuple):
    """A part of a file: `length` bytes from `offset` on, which is where a chunk begins. Its blobs are those that the
    whole file has there.

    `facts` (size, mtime_ns, ctime_ns, inode) are the file's. If it has others when it is opened, nothing is read, and
    its event says `changed`. Only for files that are cut in fixed sizes, in the `frames` layout; ValueError otherwise.
    """

    path: bytes
    offset: int
    length: int
    facts: tuple[int, int, int, int]

class Sealed(NamedTuple):
    """An event of one file: the names of blobs stored since the last event, and the status of the open file.

    `stored` are the blobs' bytes; `sizes` the bytes of the file in each, if each blob is a frame of its own. If files
    are cut by content, `plain_names` are the names that the blobs would have without compression; empty if unknown (a
    file of one chunk, or one that does not compress: making it again is as quick). `done` marks the last event of a
    file: then `error` is an errno or 0, `changed` is True if the file changed while it was read, and `size` is how many
    of its bytes are in the blobs. `sparse`: it has holes.
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
    """What a Sealer has done so far. `blobs_known` were in every sink already."""

    bytes_read: int
    bytes_stored: int
    blobs_new: int
    blobs_known: int

class Sealer:
    """Turns files into blobs: reads, compresses, cuts, names, pads, encrypts, stores. Both layouts of FORMAT.md.

    `source` yields what to archive, and is read as the work goes on: a path, a `Known`, a `FilePart`, or a descriptor
    that is read sequentially to its end (a pipe; the caller closes it). None: read the source again after the next
    event of a file; one must be in progress. With `frames` a file is cut every `chunk_size` bytes, or by its `content`
    (minimum and mean size, and a table of 256 numbers, 8 bytes each), and its chunks are processed in parallel. `slabs`
    limits the chunks in memory, each a little more than twice `chunk_size` bytes; the default is one more than workers,
    so that one can wait for the disk or, in a stream, be filled. At most `readers` workers read at a time. `follow`: a
    symbolic link to a file is read as the file.

    A blob that exists in a BlobDirectory with the right size and is authentic (if the key can tell) is kept; a torn one
    is replaced. With `anew` each blob of the run is stored once, whatever exists. `even`: new blobs are padded to sizes
    that hide the length of their content.

    A function as sink gets each new blob as a read-only view of the engine's own buffer, which is not reused while a
    view of it exists. If it has a method `holds`, that is called first and returns the stored bytes of a blob (None:
    not stored). Both are called from worker threads. If it has a method `abandon`, that is called when the run ends
    early: see stores/protocols.py. A sink that fails (OSError, StoreError) gets no more blobs and is in `lost`; the run
    ends when the last one fails.
    """

    lost: dict[int, BaseException]  # index of a sink -> why

    def __init__(
        self,
        secret: bytes,
        asymmetric: bool,
        source: Iterable[bytes | int | Known | FilePart | None],
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
        """Yields events in the order of `source`: of the first file that is not done, until all are.

        Raises what `source` or the last sink raised, OSError for a BlobDirectory, MemoryError if there is not enough
        for a chunk. To be closed (contextlib.closing) if it is not read to its end: that ends the workers.
        """

    def progress(self) -> Tallied: ...
    def stop(self) -> None: ...

VERDICT: dict[str, int]
MAX_BLOB: int  # bytes of the longest blob that is opened on this machine

class Wanted(NamedTuple):
    """One file for an Opener to restore or verify."""

    directory: int  # descriptor; -1: nothing is written, the file is only verified
    leaf: bytes  # its name there; b"" when verifying
    blobs: list[str]
    sizes: list[int] | None  # bytes of the file in each blob, if every blob is a frame of its own
    size: int  # bytes of the file, -1 if unknown
    atime_ns: int
    mtime_ns: int
    mode: int = ...  # permission bits, set before it gets its name (0600 until then); -1: 0666 & ~umask
    uid: int = ...  # -1: not set
    gid: int = ...
    xattrs: Sequence[tuple[bytes, bytes]] = ...
    sparse: bool = ...  # zero blocks of 4 KiB become holes; otherwise a large file of known size is preallocated
    replace: bool = ...  # False: EEXIST, a "bad write", if the name exists
    # From 0 on: `directory` is a file that is open to be written to, of which this is the range that begins here. It
    # gets neither room nor metadata nor a name, and is never removed.
    start: int = ...

def give_room_to(fd: int, size: int) -> None:
    """Gives an empty file its room on the disk, as an Opener does, if its file system can. Raises OSError."""

def publish_written(wanted: Wanted, fd: int, name: bytes) -> Opened:
    """Gives a file the metadata and the name that an Opener would. It is complete, and called `name` in the same
    directory. The descriptor stays open, and a file that does not get its name keeps the other."""

class Opened(NamedTuple):
    """The result for one file: a value of VERDICT, and unless it is "good" the index of the blob that failed.

    "no room": the file system lacks space for this file's `size`; others may fit. `offset` is where the bytes of that
    blob start in the file, -1 if unknown or not damaged. `soft` is the errno of an owner, attribute, mode or time that
    could not be set, or 0: the file exists nevertheless.
    """

    file: int
    done: bool
    verdict: int
    blob: int
    errno: int
    offset: int
    soft: int

class Opener:
    """Turns blobs into files: reads, authenticates, decrypts, checks the name, decompresses, writes. Both layouts.

    With one blob, or with sizes, every blob is a frame of its own: blobs are restored in parallel, each to its offset,
    and each is fetched once for all offsets in all files, as long as at most 256 files need to be open for that; beyond
    that it is fetched again. A length other than `sizes` say is a "bad frame". A file gets its name when it is
    complete. A function as source is called from worker threads, and raises MissingBlob for a missing blob and
    CorruptBlob for one that cannot be read; any other exception ends the run, except MemoryError, which is a "bad read"
    of that file. A blob that seems damaged is fetched once more. A blob longer than its content can make it, or than
    MAX_BLOB, is a "bad body" and is not read.
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
        """Starts the workers before `run` does. Then `stop` must be called in any case."""

    def run(self) -> Generator[Opened]:
        """Yields one result per file, in the order of `files`. To be closed if it is not read to its end."""

    def written(self) -> int:
        """Returns the bytes written so far, including those of unfinished files. May be called from any thread."""

    def read(self) -> int:
        """Returns the bytes of blobs that were read so far. May be called from any thread."""

    def stop(self) -> None: ...

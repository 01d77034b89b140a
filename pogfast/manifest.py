"""Manifests: which blobs make which files, as sealed bytes and back. No I/O, no policy.

FORMAT.md, "The manifest", "Further keys" and "The trailer". create adds entries to a Writer, which keeps them only as
compressed JSON, and gets the bytes to store. A reader gets entries from the bytes that it fetched; each is decoded when
it is accessed, so that a million of them cost little either way. With a key pair an index of all blob names comes
first, which the public key can open; the entries need the private key. Bytes that do not parse or authenticate are
CorruptManifest; only a header that does not unwrap is WrongKey.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import sys
from array import array
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import msgspec
import zstandard

from pogfast._engine import compress, random_bytes, secretbox, secretbox_open
from pogfast.errors import CorruptManifest, PogfastError, WrongKey
from pogfast.keys import KEY_SIZE, Key
from pogfast.system.encoding import IS_UTF8, local, local_all, portable, portable_all

BOX = 40
INDEX_HEADER = BOX + 4 + KEY_SIZE
ZSTD_MAGIC = bytes.fromhex("28b52ffd")
PADDING_MAGIC = bytes.fromhex("502a4d18")
PAD_MOST = 263  # bytes of padding that does not hide sizes
PAD_EVEN = 16  # bytes of padding that does, at least
TRAILER_MAGIC = bytes.fromhex("5e2a4d18")
LEVEL = 3
# zstd's block that ends a frame and holds nothing (RFC 8878, 3.1.1.2).
LAST_BLOCK = bytes.fromhex("010000")
# JSON waits until there is this much before it is compressed: a call for each entry would cost as much as the work.
PIECE = 1 << 18
# 43 letters of urlsafe base64 for 32 bytes; the last carries 4 bits, so its low 2 are zero.
BLOB_NAME = re.compile(r"[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]=")
# Nanoseconds that the engine can tell: times before 1677 and after 2262 become these.
MAX_NS = 2**63 - 1
MAX_SIZE = 2**63 - 1
MAX_TIME = sys.float_info.max

# FORMAT.md, "Limits": a manifest that claims more is damage, and nothing is allocated for it.
# Text that decompresses further than its manifest's size suggests is refused. Ordinary manifests stay below 30 times.
MAX_RATIO = 128
SMALL_TEXT = 16 << 20  # bytes that any manifest may have of JSON
# But a file of zeros has equal blobs, which zstd makes 10,900 times smaller, and pogcli and pogfast until 0.5.3 wrote
# them so. Entries and indexes may be as dense as that if they are made of values as long as blob names are, which take
# four times their text at the most in memory: 60 bytes a blob with its sizes, ten million blobs.
DENSE_TEXT = 640 << 20
DENSE_VALUES = 20, 128  # bytes of such text for each value in it: a blob's name and its two sizes have 60
MAX_TEXT = 16 << 30
MAX_NAME = 65_535  # characters of an archived name, or of a link's target
MAX_PARTS = 4096  # of an archived name: what stands between its slashes
MAX_FRAMES = 256  # in a payload: pog writes two, pogfast three
MAX_OTHER = 4 << 20  # bytes of JSON that an entry may have beside its blobs
SECTIONS = ("parents", "directories", "links", "fifos")
FEED = 2048  # bytes that are decompressed at a time: 4 of them can become 128 KiB, so this is 64 MiB at the worst
TOO_DENSE = "it decompresses to more JSON than a manifest of its size may hold"

ENCODER = msgspec.json.Encoder()
DECODER = msgspec.json.Decoder()
ENTRIES = OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
STRINGS = msgspec.json.Decoder(list[str])
JSON = json.JSONDecoder()
# What stands between the values of a JSON text.
MARK = re.compile(r"[ \t\n\r]*([{}:,])[ \t\n\r]*")


@dataclass(slots=True)
class Entry:
    """One file: its blobs in order, its times in seconds, and whatever further keys its writer gave it.

    `origin` is where it was read, for messages. Properties raise CorruptManifest when the key that they tell of is
    malformed, so that an entry whose further keys nobody needs can still be restored.
    """

    blobs: list[str]
    atime: float
    mtime: float
    more: dict[str, Any] = field(default_factory=dict)
    origin: str = field(default="an entry", compare=False, repr=False)

    @property
    def size(self) -> int | None:
        """Plain bytes of the file; None when the manifest does not say."""
        size = self.more.get("size")
        if size is None:
            known = not self.blobs or self.more.get("sizes") is not None
            return sum(self.sizes or []) if known else None
        if not _is_length(size):
            raise CorruptManifest(f"{self.origin}: its size is malformed")
        return int(size)

    @property
    def sizes(self) -> list[int] | None:
        """Plain bytes of each blob, where every blob is a frame of its own; None for a stream of several blobs, and
        when the manifest does not say."""
        sizes = self.more.get("sizes")
        known = self.more.get("size") is not None
        if sizes is None:
            return [self.size or 0] if known and len(self.blobs) == 1 else None
        if not isinstance(sizes, list) or len(sizes) != len(self.blobs) or not all(map(_is_length, sizes)):
            raise CorruptManifest(f"{self.origin}: the sizes of its blobs are malformed")
        if not _is_length(sum(sizes)) or (known and sum(sizes) != self.size):
            raise CorruptManifest(f"{self.origin}: the sizes of its blobs do not add up")
        return sizes

    @property
    def stored(self) -> list[int] | None:
        """Bytes of each blob in the store, as they were when the archive was made; None when it does not say."""
        stored = self.more.get("stored")
        if stored is None:
            return None
        if not isinstance(stored, list) or len(stored) != len(self.blobs) or not all(map(_is_length, stored)):
            raise CorruptManifest(f"{self.origin}: the stored sizes of its blobs are malformed")
        return stored

    @property
    def mtime_ns(self) -> int:
        """Nanoseconds since 1970, at most what the engine can tell."""
        return self._ns("mtime_ns", self.mtime)

    @property
    def atime_ns(self) -> int:
        """Nanoseconds since 1970, at most what the engine can tell."""
        return self._ns("atime_ns", self.atime)

    def _ns(self, exact: str, seconds: float) -> int:
        ns = self.more.get(exact)
        if type(ns) is int and -MAX_NS <= ns <= MAX_NS:
            return ns
        if ns is None:
            whole = math.floor(seconds)  # cut as os.utime cuts, so that a file gets the time that pog would give it
            ns = whole * 10**9 + math.floor((seconds - whole) * 1e9)
        elif not isinstance(ns, int) or isinstance(ns, bool):
            raise CorruptManifest(f"{self.origin}: its {exact} is malformed")
        return max(-MAX_NS, min(ns, MAX_NS))


def _is_length(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_SIZE


@dataclass(slots=True)
class Manifest:
    """An archive's entries by archived name, in order, and its trailer.

    The entries of an opened one are decoded anew each time they are looked at, and raise CorruptManifest then.
    """

    entries: Mapping[str, Entry] = field(default_factory=dict)
    trailer: dict[str, Any] | None = None

    def blob_names(self) -> list[str]:
        """In the order of the entries, repeats kept."""
        return [name for entry in self.entries.values() for name in entry.blobs]


def is_blob_name(text: str) -> bool:
    return BLOB_NAME.fullmatch(text) is not None


def can_be_padded_to(size: int, stored: int, key: Key) -> bool:
    """Returns True if a blob of `size` bytes can hold the chunk that another of `stored` bytes held: how a chunk is
    padded depends on its writer. FORMAT.md, "A file's bytes"."""
    one, other = size - key.header_size - BOX, stored - key.header_size - BOX
    return min(one, other) >= 0 and (one in _payloads(other) or other in _payloads(one))


def _payloads(payload: int) -> set[int]:
    """How long the chunk in a payload is with one padding or another, if this one does not hide sizes."""
    before = range(max(0, payload - PAD_MOST), max(0, payload - 7))
    chunks = [payload, *(length for length in before if length + 8 + length % 256 == payload)]
    return {size for length in chunks for size in (length, length + 8 + length % 256, evened(length))}


def evened(length: int) -> int:
    """Bytes of a chunk and the padding that hides its size: PADME's next length. FORMAT.md, "A file's bytes"."""
    least = length + PAD_EVEN
    exponent = least.bit_length() - 1
    mask = (1 << (exponent - exponent.bit_length())) - 1
    return (least + mask) & ~mask


class Writer:
    """A manifest that is being written: of each entry its compressed JSON is kept, and its name.

    With a key pair also the names of all blobs and their stored sizes, for the index.
    """

    def __init__(self, key: Key) -> None:
        self._key = key
        self._names: set[str] = set()
        self._blobs = bytearray()  # names, a line each
        self._sizes = array("q")  # of these, as they are stored; 0: not known
        self._compressor = zstandard.ZstdCompressor(level=LEVEL).compressobj()
        self._frame = bytearray()
        self._size = 0
        self._waiting = bytearray()

    def __len__(self) -> int:
        return len(self._names)

    def add(self, name: str, entry: Entry) -> None:
        """Raises ValueError when there is an entry of this name already; PogfastError for a name beyond the limits."""
        if name in self._names:
            raise ValueError(f"there are two entries of the name {name!r}")
        if not is_name(portable(name)):
            raise PogfastError(f"the name is too long for an archive: {name[:60]}...")
        self._waiting += b"," if self._names else b"{"
        self._waiting += _member(name, entry)
        self._names.add(name)
        if self._key.asymmetric:
            _note_blobs(entry, self._blobs, self._sizes)
        if len(self._waiting) >= PIECE:
            self._compress()

    def seal(self, trailer: dict[str, Any] | None = None) -> bytes:
        """The bytes of the manifest's file; with a key pair the index stands in front. The writer is spent then."""
        self._waiting += b"}" if self._names else b"{}"
        self._compress()
        self._names.clear()
        frames = self._frame
        frames += self._compressor.flush()
        _write_size(frames, self._size)
        return _sealed(frames, self._size, trailer, self._blobs, self._sizes, self._key)

    def snapshot(self, more: Mapping[str, Entry], trailer: dict[str, Any]) -> bytes:
        """The bytes of a manifest of what was added so far, and of `more`; the writer goes on. pogfast opens it; the
        entries stand in two frames, as pogcli's never do."""
        blobs, sizes = bytearray(self._blobs), self._sizes[:]
        last = bytearray(b"" if self._names else b"{")
        for name, entry in more.items():
            last += (b"," if self._names or len(last) > 1 else b"") + _member(name, entry)
            if self._key.asymmetric:
                _note_blobs(entry, blobs, sizes)
        last += b"}"
        frames = self._closed_frame()
        frames += compress(last, LEVEL)
        return _sealed(frames, self._size + len(last), trailer, blobs, sizes, self._key)

    def _closed_frame(self) -> bytearray:
        """A frame of all that was added so far."""
        if not self._names:
            return bytearray()
        self._compress()
        self._frame += self._compressor.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
        frame = self._frame + LAST_BLOCK
        _write_size(frame, self._size)
        return frame

    def _compress(self) -> None:
        self._size += len(self._waiting)
        self._frame += self._compressor.compress(self._waiting)
        self._waiting.clear()


def _member(name: str, entry: Entry) -> bytes:
    """An entry as a member of the JSON object of all."""
    facts = {"blobs": entry.blobs, "atime": entry.atime, "mtime": entry.mtime}
    if entry.more:
        facts = {**facts, **entry.more, **facts}
    return _dumps(name) + b":" + _dumps(facts)


def _note_blobs(entry: Entry, blobs: bytearray, sizes: array[int]) -> None:
    """Adds an entry's blobs to what the index is made of."""
    for blob in entry.blobs:
        blobs += blob.encode() + b"\n"
    sizes.extend(entry.stored or [0] * len(entry.blobs))


def _sealed(
    frames: bytearray, size: int, trailer: dict[str, Any] | None, blobs: bytearray, sizes: array[int], key: Key
) -> bytes:
    """The bytes of a manifest's file, of frames that hold `size` bytes of JSON and are gone then."""
    text = size
    if trailer is not None:
        facts = _dumps(trailer)
        text = max(text, len(facts))
        content = compress(facts, LEVEL)
        frames += TRAILER_MAGIC + len(content).to_bytes(4, "little") + content
    file_key = random_bytes(KEY_SIZE)
    _pad(frames)
    _make_up(frames, text)
    box = secretbox(file_key, frames)
    frames.clear()
    index = _seal_index(blobs, sizes, key) if key.asymmetric else b""
    return b"".join((index, key.wrap(file_key), box))


def seal(manifest: Manifest, key: Key) -> bytes:
    """The bytes of the manifest's file; with a key pair the index stands in front."""
    writer = Writer(key)
    for name, entry in manifest.entries.items():
        writer.add(name, entry)
    return writer.seal(manifest.trailer)


def _dumps(value: Any) -> bytes:
    value = portable_all(value)
    try:
        return ENCODER.encode(value)
    except UnicodeEncodeError:  # a name that is not UTF-8: its surrogates are escaped, as pogcli escapes them
        return json.dumps(value, separators=(",", ":")).encode()


def _write_size(frame: bytearray, size: int) -> None:
    """Puts the content's size into the header of a frame that was begun when it was not known: pog reads no other."""
    assert frame[4] == 0, "zstd's header says: no size, no checksum, no dictionary; a window follows"
    frame[4] = 0b11 << 6  # the size has 8 bytes
    frame[6:6] = size.to_bytes(8, "little")


def _seal_index(blobs: bytearray, sizes: array[int], key: Key) -> bytes:
    """`blobs` are names, a line each, `sizes` their bytes in the store; a size of 0 is not known."""
    file_key = random_bytes(KEY_SIZE)
    names = blobs.decode().split()
    order = sorted(range(len(names)), key=names.__getitem__)
    names = [names[number] for number in order]
    frame = bytearray(compress(ENCODER.encode(names), LEVEL))
    names.clear()  # a hundred bytes for each blob of the archive
    if sizes and all(sizes):
        content = compress(ENCODER.encode({"stored": [sizes[number] for number in order]}), LEVEL)
        frame += TRAILER_MAGIC + len(content).to_bytes(4, "little") + content
    _pad(frame)
    _make_up(frame, len(order) * 48)
    box = secretbox(file_key, frame)
    return secretbox(key.secret, len(box).to_bytes(4, "big") + file_key) + box


def _pad(frames: bytearray) -> None:
    n = len(frames) % 256
    frames += PADDING_MAGIC + n.to_bytes(4, "little") + random_bytes(n)


def _make_up(frames: bytearray, text: int) -> None:
    """Makes frames large enough for `text` bytes of JSON in them: a file of zeros may have a million equal blobs."""
    missing = -(-text // MAX_RATIO) - len(frames) if text > SMALL_TEXT else 0
    if missing > 0:
        frames += PADDING_MAGIC + missing.to_bytes(4, "little") + bytes(missing)


def is_name(name: str) -> bool:
    """Returns True if an archived name is within the limits of FORMAT.md; nothing is said of where it leads."""
    return len(name) <= MAX_NAME and (len(name) < MAX_PARTS or name.count("/") < MAX_PARTS)


def open(data: bytes, key: Key, name: str) -> Manifest:
    """The manifest in the bytes of its file; `name` is for messages. Raises WrongKey and CorruptManifest.

    An entry that is JSON, but malformed, raises CorruptManifest when it is looked at.
    """
    frames = _open_frames(data, key, name)
    del data  # each of these has the size of the archive's names and facts: none stays longer than it is needed
    return _parsed(frames, name)


def _parsed(frames: list[_Frame], name: str) -> Manifest:
    """The manifest in these frames, which are cleared on the way."""
    trailer = _trailer(frames, name)
    return Manifest(_entries(frames, name), trailer)


def open_entries(data: bytes, key: Key, name: str) -> Mapping[str, Entry]:
    """The entries of a manifest; its trailer is not parsed. Raises as `open` does."""
    frames = _open_frames(data, key, name)
    del data
    return _entries(frames, name)


def _entries(frames: list[_Frame], name: str) -> Mapping[str, Entry]:
    """The entries in these frames, which are cleared on the way."""
    with _Parsing(name):
        text = _text(frames)
        frames.clear()
        members: Mapping[str, msgspec.Raw | bytes]
        try:
            members = ENTRIES.decode(text)
        except (ValueError, RecursionError):  # a name that is not UTF-8; or it is no JSON
            latin = text.decode("latin-1")
            del text
            members = _scan(latin)
        _check_names(members.keys(), name)
        if not IS_UTF8:
            members = {local(name): member for name, member in members.items()}
    return _Entries(members, name)


def open_trailer(data: bytes, key: Key, name: str) -> dict[str, Any] | None:
    """The trailer of a manifest, None where there is none; its entries are not parsed. Raises as `open` does."""
    return _trailer(_open_frames(data, key, name), name)


ABSENT = msgspec.Raw(b"")


class _Facts(msgspec.Struct):
    """What of a trailer is told of an archive in a list. What else is in it, which may be a million of names, is passed
    over, and costs no memory."""

    time: msgspec.Raw = ABSENT
    host: msgspec.Raw = ABSENT
    comment: msgspec.Raw = ABSENT
    tags: msgspec.Raw = ABSENT
    paths: msgspec.Raw = ABSENT
    totals: msgspec.Raw = ABSENT
    skipped: msgspec.Raw = ABSENT
    unreadable: msgspec.Raw = ABSENT
    changed: msgspec.Raw = ABSENT


FACTS = msgspec.json.Decoder(_Facts)
# What each of them can be: nothing else is made into objects.
FACT = msgspec.json.Decoder(str | list[str] | dict[str, str | int])


def open_facts(data: bytes, key: Key, name: str) -> dict[str, Any] | None:
    """What the trailer of a manifest tells in a list of archives, as far as it is of the right kind; None where there
    is none. Raises as `open` does."""
    text = _trailer_text(_open_frames(data, key, name), name)
    if text is None:
        return None
    found: Any
    try:
        found = msgspec.structs.asdict(FACTS.decode(text))
    except (ValueError, RecursionError):
        found = _trailer_of(text, name)
        return {word: found[word] for word in _Facts.__struct_fields__ if word in found}
    return {word: local_all(_fact(value)) for word, value in found.items() if value is not ABSENT}


def _fact(text: msgspec.Raw) -> Any:
    """One of them. None if it is of a kind that it cannot be."""
    try:
        return FACT.decode(text)
    except (ValueError, RecursionError):  # a name that is not UTF-8 is for the standard library to read
        return _loads(text) if b"\\ud" in bytes(text).lower() else None


def check_key(data: bytes, key: Key, name: str) -> None:
    """Raises WrongKey if a manifest's first bytes are another key's, CorruptManifest if they are nobody's. A public key
    can tell."""
    if key.asymmetric:
        _index_header(data, key, name)
    elif secretbox_open(key.secret, data[: key.header_size]) is None:
        raise _refused(data[: key.header_size], name)


def blob_names(data: bytes, key: Key, name: str) -> list[str]:
    """Returns the names of the blobs that an archive needs, repeats kept; all that delete, copy or count ask this.

    With a key that opens the entries they come from the entries, in their order; the index of a key pair must then name
    the same ones, since anybody with the public key can write another. A public key alone has only the index (sorted).
    Raises WrongKey and CorruptManifest.
    """
    if not key.can_open:
        return open_index(data, key, name)
    names = _names_in(_open_frames(data, key, name), name)
    check_index(names, data, key, name)
    return names


def check_index(names: Iterable[str], data: bytes, key: Key, name: str) -> None:
    """Raises CorruptManifest if the index of a key pair does not name these blobs of the entries, as often."""
    if key.asymmetric and sorted(open_index(data, key, name)) != sorted(names):
        raise CorruptManifest(
            f"{name}: its index does not name the blobs that its files need",
            hint="anybody with the public key can write an index; the files can still be restored",
        )


def open_index(data: bytes, key: Key, name: str) -> list[str]:
    """The names in the index that stands in front with a key pair: sorted, repeats kept. The public key opens it, and
    can write it, so with the private key `blob_names` is the function to ask. Raises WrongKey and CorruptManifest."""
    return _index(data, key, name)[0]


def open_sizes(data: bytes, key: Key, name: str) -> dict[str, int]:
    """The stored bytes of each blob as the index tells them; empty where it does not. Raises as `open_index` does."""
    names, frames = _index(data, key, name)
    trailer = _trailer(frames, name) or {}
    sizes = trailer.get("stored")
    if sizes is None:
        return {}
    if not isinstance(sizes, list) or len(sizes) != len(names) or not all(map(_is_length, sizes)):
        raise CorruptManifest(f"{name}: the stored sizes in its index are malformed")
    return dict(zip(names, sizes, strict=True))


def _index(data: bytes, key: Key, name: str) -> tuple[list[str], list[_Frame]]:
    """(the names of the index, its frames)."""
    file_key, length = _index_header(data, key, name)
    payload = secretbox_open(file_key, data[INDEX_HEADER : INDEX_HEADER + length])
    if payload is None:
        raise CorruptManifest(f"{name}: its index is damaged or cut short")
    with _Parsing(name):
        frames = list(_frames(payload))
        names = _loads(_text(frames))
    if not _are_blob_names(names):
        raise CorruptManifest(f"{name}: its index is malformed")
    return names, frames


def _names_in(frames: list[_Frame], name: str) -> list[str]:
    """The blobs of all entries, in order. Of each entry no more than its blobs has to be well formed."""
    with contextlib.suppress(ValueError, RecursionError, zstandard.ZstdError):
        names = [blob for entry in NAMES.decode(_text(frames)).values() for blob in entry.blobs]
        if all(map(BLOB_NAME.fullmatch, names)):
            return names
    return [blob for entry in _entries(frames, name).values() for blob in entry.blobs]


def _index_header(data: bytes, key: Key, name: str) -> tuple[bytes, int]:
    """(file key of the index, bytes of its box)."""
    if len(data) < INDEX_HEADER:
        raise CorruptManifest(f"{name} is too short to be a manifest")
    header = secretbox_open(key.secret, data[:INDEX_HEADER])
    if header is None:
        raise _refused(data[:INDEX_HEADER], name)
    return header[4:], int.from_bytes(header[:4], "big")


def _refused(header: bytes, name: str) -> PogfastError:
    """What is wrong with a manifest whose first bytes no key of ours opens. A flipped bit in them looks like another
    key; zeros, which power cuts leave, do not."""
    if not any(header):
        return CorruptManifest(f"{name} is damaged: it begins with zeros")
    return WrongKey(f"{name}: this key does not open it: it is of another key, or its first bytes are damaged")


class _Frame(NamedTuple):
    """One zstd frame; of a skippable one the content."""

    magic: bytes
    data: memoryview
    size: int  # bytes of all of it


def _open_frames(data: bytes, key: Key, name: str) -> list[_Frame]:
    payload = _payload(data, key, name)
    with _Parsing(name):
        return list(_frames(payload))


def _payload(data: bytes, key: Key, name: str) -> bytes:
    """What the box behind the index holds."""
    if not key.can_open:
        raise WrongKey(f"{name}: an encryption key cannot open it", hint="use --decryption-keyfile")
    full = memoryview(data)
    if key.asymmetric:
        _, length = _index_header(data, key, name)
        full = full[INDEX_HEADER + length :]
    if len(full) < key.header_size + BOX:
        raise CorruptManifest(f"{name} is too short to be a manifest")
    try:
        file_key = key.unwrap(bytes(full[: key.header_size]))
    except WrongKey as error:
        if key.asymmetric:  # the index opened, so the key is right
            raise CorruptManifest(f"{name} is damaged: its header does not unwrap") from error
        raise _refused(data[: key.header_size], name) from error
    payload = secretbox_open(file_key, full[key.header_size :])
    if payload is None:
        raise CorruptManifest(f"{name} is damaged or cut short")
    return payload


def _frames(payload: bytes | memoryview) -> Iterator[_Frame]:
    """Every frame of a payload, found by its own length. ValueError when one is cut short, or none."""
    view, at, count = memoryview(payload), 0, 0
    while at < len(view):
        count += 1
        if count > MAX_FRAMES:
            raise ValueError(f"it has more than {MAX_FRAMES} frames")
        magic = bytes(view[at : at + 4])
        if magic == ZSTD_MAGIC:
            begin, end = at, _frame_end(view, at)
        elif magic[1:] == PADDING_MAGIC[1:] and magic[0] >> 4 == PADDING_MAGIC[0] >> 4:  # 50 to 5F: skippable
            begin, end = at + 8, at + 8 + int.from_bytes(view[at + 4 : at + 8], "little")
        else:
            raise ValueError("it is not made of zstd frames")
        if end > len(view):
            raise ValueError("a zstd frame is cut short")
        yield _Frame(magic, view[begin:end], end - at)
        at = end


def _frame_end(payload: memoryview, at: int) -> int:
    """Where the zstd frame at `at` ends (RFC 8878, 3.1.1): header, blocks, checksum. Beyond the payload when cut."""
    descriptor = payload[at + 4] if at + 4 < len(payload) else 0
    single = descriptor >> 5 & 1  # then there is no window, and a size always
    at += 5 + (1 - single) + (0, 1, 2, 4)[descriptor & 3] + (single, 2, 4, 8)[descriptor >> 6]
    last = 0
    while not last and at < len(payload):
        block = int.from_bytes(payload[at : at + 3], "little")
        last, repeats, size = block & 1, block >> 1 & 3 == 1, block >> 3
        at += 3 + (1 if repeats else size)
    if not last:
        raise ValueError("a zstd frame is cut short")
    return at + 4 * (descriptor >> 2 & 1)


def _trailer(frames: list[_Frame], name: str) -> dict[str, Any] | None:
    """The object in the first frame of the trailer's magic."""
    text = _trailer_text(frames, name)
    return None if text is None else _trailer_of(text, name)


def _trailer_text(frames: list[_Frame], name: str) -> bytes | None:
    for frame in frames:
        if frame.magic == TRAILER_MAGIC:
            with _Parsing(name):
                return _decompressed(_frames(frame.data), _room(frames))
    return None


def _trailer_of(text: bytes, name: str) -> dict[str, Any]:
    with _Parsing(name):
        trailer = _loads(text)
    if not isinstance(trailer, dict):
        raise CorruptManifest(f"{name}: its trailer is malformed")
    for section in SECTIONS:
        names = trailer.get(section)
        if isinstance(names, dict):
            _check_names(names, name)
    with _Parsing(name):
        return cast(dict[str, Any], local_all(trailer))


def _check_names(names: Collection[str], origin: str) -> None:
    if max(map(len, names), default=0) >= MAX_PARTS and not all(map(is_name, names)):
        raise CorruptManifest(f"{origin}: a name in it is longer than {MAX_NAME} characters or {MAX_PARTS} parts")


def _room(frames: list[_Frame]) -> int:
    """Bytes of JSON that one of these frames may hold."""
    return min(MAX_TEXT, max(SMALL_TEXT, MAX_RATIO * sum(frame.size for frame in frames)))


def _decompressed(frames: Iterable[_Frame], room: int) -> bytes:
    """The content of the zstd frames among these, one after the other. Raises ValueError if one is cut short, or if it
    has more than `room` bytes in all."""
    pieces: list[bytes] = []
    for frame in frames:
        if frame.magic == ZSTD_MAGIC:
            content = _content(frame.data, room)
            room -= len(content)
            pieces.append(content)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _content(frame: memoryview, room: int) -> bytes:
    size = zstandard.frame_content_size(frame)
    if size > room:
        raise ValueError(TOO_DENSE)
    if size >= 0:
        return zstandard.ZstdDecompressor().decompress(frame)
    reader, pieces = zstandard.ZstdDecompressor().decompressobj(), []
    for at in range(0, len(frame), FEED):
        pieces.append(reader.decompress(frame[at : at + FEED]))
        room -= len(pieces[-1])
        if room < 0:
            raise ValueError(TOO_DENSE)
    if not reader.eof:
        raise ValueError("a zstd frame is cut short")
    return b"".join(pieces)


def _text(frames: list[_Frame]) -> bytes:
    """The JSON of the entries, or of the index. Raises ValueError for text that is too dense."""
    room = _room(frames)
    text = _decompressed(frames, max(room, DENSE_TEXT))
    if len(text) > room:
        least, most = DENSE_VALUES
        values = sum(map(text.count, (b",", b"[", b"{")))
        if not least * values <= len(text) <= most * values:
            raise ValueError(TOO_DENSE)
    return text


class _Parsing:
    """Makes what is no JSON, or no frame, CorruptManifest. (A generator would take a tenth of the time of a small
    manifest.)"""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, ValueError | RecursionError | zstandard.ZstdError):
            raise CorruptManifest(f"{self.name} does not parse: {error}") from error


def _loads(text: bytes | msgspec.Raw) -> Any:
    """The value of a JSON text. ValueError and RecursionError when it is none."""
    try:
        return DECODER.decode(text)
    except (ValueError, RecursionError):  # lone surrogates, NaN: only the standard library reads these
        return json.loads(bytes(text))


def _scan(text: str) -> dict[str, bytes]:
    """The members of a JSON object as their bytes, as ENTRIES takes it apart, of a text with lone surrogates.

    It is UTF-8 read as Latin-1, so that a character takes one byte whatever the names hold. One pair after the
    other, since a million entries as dictionaries would take gigabytes. Raises ValueError.
    """
    members: dict[str, bytes] = {}
    mark, at = _mark(text, 0, "{")
    if text.startswith("}", at):
        mark, at = _mark(text, at, "}")
    while mark != "}":
        name, at = _value(text, at)
        if not name.startswith(b'"'):
            raise ValueError(f"a name is expected at byte {at - len(name)}")
        _, at = _mark(text, at, ":")
        members[json.loads(name)], at = _value(text, at)
        mark, at = _mark(text, at, ",}")
    if at < len(text):
        raise ValueError(f"it goes on behind its end at byte {at}")
    return members


def _mark(text: str, at: int, wanted: str) -> tuple[str, int]:
    found = MARK.match(text, at)
    if not found or found[1] not in wanted:
        raise ValueError(f"one of {wanted} is expected at byte {at}")
    return found[1], found.end()


def _value(text: str, at: int) -> tuple[bytes, int]:
    """(the bytes of the JSON value at `at`, where it ends)."""
    _, end = JSON.raw_decode(text, at)
    return text[at:end].encode("latin-1"), end


class _Entries(Mapping[str, Entry]):
    """Entries as JSON, each decoded when it is looked at."""

    __slots__ = ("_manifest", "_members")

    def __init__(self, members: Mapping[str, msgspec.Raw | bytes], manifest: str) -> None:
        self._members = members
        self._manifest = manifest

    def __getitem__(self, name: str) -> Entry:
        """Raises CorruptManifest when it is malformed."""
        return _entry(self._members[name], f"{self._manifest}: the entry {name}")

    def text(self, name: str) -> msgspec.Raw | bytes:
        """Its JSON."""
        return self._members[name]

    def __contains__(self, name: object) -> bool:
        return name in self._members

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)


class _Needed(msgspec.Struct):
    blobs: list[str]


NAMES = msgspec.json.Decoder(dict[str, _Needed])


class _Outline(msgspec.Struct):
    size: int = -1
    hardlink: Any = None


OUTLINES = msgspec.json.Decoder(_Outline)


def outline(entries: Mapping[str, Entry], name: str) -> tuple[int | None, str]:
    """(plain bytes, the archived name that a hard link leads to or ""), at a quarter of the time of the whole entry
    where both are plain to see. Raises CorruptManifest, not for all that is malformed."""
    if isinstance(entries, _Entries):
        with contextlib.suppress(ValueError, RecursionError):
            found = OUTLINES.decode(entries.text(name))
            if 0 <= found.size <= MAX_SIZE:
                return found.size, local(found.hardlink) if isinstance(found.hardlink, str) else ""
    entry = entries[name]
    first = entry.more.get("hardlink")
    return entry.size, first if isinstance(first, str) else ""


def _entry(text: msgspec.Raw | bytes, origin: str) -> Entry:
    try:
        if len(memoryview(text)) > MAX_OTHER:
            _check_other(text)
        more = local_all(_loads(text))
    except (ValueError, RecursionError) as error:
        raise CorruptManifest(f"{origin} does not parse: {error}") from error
    if not isinstance(more, dict):
        raise CorruptManifest(f"{origin} is malformed")
    blobs, atime, mtime = more.pop("blobs", None), more.pop("atime", None), more.pop("mtime", None)
    if not _are_blob_names(blobs):
        raise CorruptManifest(f"{origin}: its list of blobs is malformed")
    if not _is_time(atime) or not _is_time(mtime):
        raise CorruptManifest(f"{origin}: one of its times is malformed")
    return Entry(blobs, atime, mtime, more, origin)


def _check_other(text: msgspec.Raw | bytes) -> None:
    """Raises ValueError if more of a long entry than its limit is something else than what its blobs are, or these are
    no strings: other objects would take thirty times their text."""
    values = OBJECT.decode(text)
    STRINGS.decode(values.get("blobs", b"[]"))
    lists = sum(len(memoryview(values.get(word, b""))) for word in ("blobs", "sizes", "stored"))
    if len(memoryview(text)) - lists > MAX_OTHER:
        raise ValueError(f"it has more than {MAX_OTHER:,} bytes beside its blobs")


def _are_blob_names(value: object) -> bool:
    try:
        return isinstance(value, list) and all(map(BLOB_NAME.fullmatch, value))
    except TypeError:  # not a string
        return False


def _is_time(value: object) -> bool:
    # JSON has NaN, infinities, and integers beyond what a float holds: not one of them is a time.
    if type(value) is float:
        return abs(value) <= MAX_TIME
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= MAX_TIME

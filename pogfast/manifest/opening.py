"""Opens the bytes of a manifest: all of it, its entries, its trailer, or the names and sizes of its blobs.

Bytes that do not parse or authenticate raise CorruptManifest; only a header that does not unwrap raises WrongKey.
`name` is for messages.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from typing import Any

from pogfast._engine import secretbox_open
from pogfast.errors import CorruptManifest, PogfastError, WrongKey
from pogfast.keys import KEY_SIZE, Key
from pogfast.manifest.decoding import entries_in, loads, names_in
from pogfast.manifest.entry import Entry, Manifest, are_blob_names, is_length
from pogfast.manifest.frames import Frame, Parsing, frames_of, size_of_text, text_of
from pogfast.manifest.padding import BOX
from pogfast.manifest.trailer import facts_of, trailer_in, trailer_text

INDEX_HEADER = BOX + 4 + KEY_SIZE


def open(data: bytes, key: Key, name: str) -> Manifest:
    """Opens a manifest. Raises WrongKey and CorruptManifest.

    An entry that is JSON, but malformed, raises CorruptManifest when it is accessed.
    """
    frames = _open_frames(data, key, name)
    del data  # frees memory: data, frames and JSON may have a gigabyte each
    return _manifest_in(frames, name)


def open_partial(data: bytes, key: Key, name: str) -> Manifest:
    """Opens a partial manifest as `open` does. Of a key pair the public key is enough: machines that make backups go on
    from it. Raises CorruptManifest also for one of a release whose partial manifests only the private key opens."""
    if key.can_open:
        return open(data, key, name)
    trailer = trailer_in(_index(data, key, name)[1], name) or {}
    _, length = index_header(data, key, name)
    with Parsing(name):
        file_key = base64.b64decode(str(trailer.get("entries_key", "")), validate=True)
    box = memoryview(data)[INDEX_HEADER + length + key.header_size :]
    payload = secretbox_open(file_key, box) if len(file_key) == KEY_SIZE else None
    if payload is None:
        raise CorruptManifest(f"{name}: its index does not open its entries")
    with Parsing(name):
        frames = list(frames_of(payload))
    return _manifest_in(frames, name)


def open_short(data: bytes, key: Key, name: str, limit: int) -> Manifest | None:
    """Opens a manifest as `open` does if its JSON has at most `limit` bytes; returns None if it has more."""
    frames = _open_frames(data, key, name)
    with Parsing(name):
        if size_of_text(frames) > limit:
            return None
    return _manifest_in(frames, name)


def _manifest_in(frames: list[Frame], name: str) -> Manifest:
    trailer = trailer_in(frames, name)
    return Manifest(entries_in(frames, name), trailer)


def open_entries(data: bytes, key: Key, name: str) -> Mapping[str, Entry]:
    """Opens the entries of a manifest without parsing its trailer. Raises as `open` does."""
    frames = _open_frames(data, key, name)
    del data
    return entries_in(frames, name)


def open_trailer(data: bytes, key: Key, name: str) -> dict[str, Any] | None:
    """Opens the trailer of a manifest, None if there is none, without parsing its entries. Raises as `open` does."""
    return trailer_in(_open_frames(data, key, name), name)


def open_facts(data: bytes, key: Key, name: str) -> dict[str, Any] | None:
    """Opens the part of the trailer that lists of archives show, without values of the wrong type; None if there is no
    trailer. Raises as `open` does."""
    text = trailer_text(_open_frames(data, key, name), name)
    return None if text is None else facts_of(text, name)


def check_key(data: bytes, key: Key, name: str) -> None:
    """Raises WrongKey if a manifest's header is of another key, CorruptManifest if it is of none. A public key is
    enough."""
    if key.asymmetric:
        index_header(data, key, name)
    elif secretbox_open(key.secret, data[: key.header_size]) is None:
        raise _refused(data[: key.header_size], name)


def blob_names(data: bytes, key: Key, name: str) -> list[str]:
    """Returns the names of the blobs that an archive needs, with repetitions. Whatever deletes, copies or counts blobs
    uses this.

    A key that opens the entries takes the names from them, in order; the index of a key pair must then name the same
    blobs, since anybody with the public key can write another index. A public key alone can only use the index, which
    is sorted. Raises WrongKey and CorruptManifest.
    """
    if not key.can_open:
        return open_index(data, key, name)
    names = names_in(_open_frames(data, key, name), name)
    check_index(names, data, key, name)
    return names


def check_index(names: Iterable[str], data: bytes, key: Key, name: str) -> None:
    """Raises CorruptManifest unless the index of a key pair names exactly these blobs, with repetitions."""
    if key.asymmetric and sorted(open_index(data, key, name)) != sorted(names):
        raise CorruptManifest(
            f"{name}: its index does not name the blobs that its files need",
            hint="anybody with the public key can write an index; the files can still be restored",
        )


def open_index(data: bytes, key: Key, name: str) -> list[str]:
    """Returns the blob names in the index of a key pair, sorted, with repetitions. The public key opens it and can
    write it, so with the private key use `blob_names`. Raises WrongKey and CorruptManifest."""
    return _index(data, key, name)[0]


def open_sizes(data: bytes, key: Key, name: str) -> dict[str, int]:
    """Returns the stored bytes of each blob from the index; empty if it does not have them. Raises as `open_index`
    does."""
    names, frames = _index(data, key, name)
    trailer = trailer_in(frames, name) or {}
    sizes = trailer.get("stored")
    if sizes is None:
        return {}
    if not isinstance(sizes, list) or len(sizes) != len(names) or not all(map(is_length, sizes)):
        raise CorruptManifest(f"{name}: the stored sizes in its index are malformed")
    return dict(zip(names, sizes, strict=True))


def _index(data: bytes, key: Key, name: str) -> tuple[list[str], list[Frame]]:
    """Returns (the names in the index, its frames)."""
    file_key, length = index_header(data, key, name)
    payload = secretbox_open(file_key, data[INDEX_HEADER : INDEX_HEADER + length])
    if payload is None:
        raise CorruptManifest(f"{name}: its index is damaged or cut short")
    with Parsing(name):
        frames = list(frames_of(payload))
        names = loads(text_of(frames))
    if not are_blob_names(names):
        raise CorruptManifest(f"{name}: its index is malformed")
    return names, frames


def index_header(data: bytes, key: Key, name: str) -> tuple[bytes, int]:
    """Returns (file key of the index, bytes of its box)."""
    if len(data) < INDEX_HEADER:
        raise CorruptManifest(f"{name} is too short to be a manifest")
    header = secretbox_open(key.secret, data[:INDEX_HEADER])
    if header is None:
        raise _refused(data[:INDEX_HEADER], name)
    return header[4:], int.from_bytes(header[:4], "big")


def _refused(header: bytes, name: str) -> PogfastError:
    """Returns the error for a manifest whose header this key does not open. A flipped bit looks like another key;
    zeros, which power cuts leave, do not."""
    if not any(header):
        return CorruptManifest(f"{name} is damaged: it begins with zeros")
    return WrongKey(f"{name}: cannot be opened: wrong key, or the header is damaged")


def _open_frames(data: bytes, key: Key, name: str) -> list[Frame]:
    payload = _payload(data, key, name)
    with Parsing(name):
        return list(frames_of(payload))


def _payload(data: bytes, key: Key, name: str) -> bytes:
    """Decrypts the box after the index."""
    if not key.can_open:
        raise WrongKey(f"{name}: a public key cannot open it", hint="use --decryption-keyfile")
    full = memoryview(data)
    if key.asymmetric:
        _, length = index_header(data, key, name)
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

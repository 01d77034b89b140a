"""Manifests: which blobs make which files, as sealed bytes and back. No I/O, no policy.

See FORMAT.md, "The manifest", "Further keys" and "The trailer". Writers add entries to a `Writer` (writing.py), which
keeps them as compressed JSON only, and get the bytes to store. Readers pass the bytes that they fetched to the
functions of opening.py; each entry is decoded when it is accessed, so that a million of them cost little either way.
With a key pair, an index of all blob names precedes the entries: the public key opens it, the entries need the private
key.
"""

from pogfast.manifest.decoding import (
    LazyEntries,
    PlainEntry,
    blobs_of,
    decoded,
    entry_text,
    entry_texts,
    in_order,
    outline,
    parse_entry,
    plain_entries,
    plain_entry,
)
from pogfast.manifest.entry import MAX_SIZE, Entry, Manifest, in_order_of_paths, is_blob_name, is_name
from pogfast.manifest.frames import TRAILER_MAGIC
from pogfast.manifest.opening import (
    INDEX_HEADER,
    blob_names,
    check_index,
    check_key,
    index_header,
    open,
    open_entries,
    open_facts,
    open_index,
    open_partial,
    open_short,
    open_sizes,
    open_trailer,
)
from pogfast.manifest.packed import Content, Packed, content_of
from pogfast.manifest.padding import BOX, MAX_PAD, can_be_padded_to, evened
from pogfast.manifest.trailer import facts_in
from pogfast.manifest.writing import Writer, encoded, seal

__all__ = [
    "BOX",
    "INDEX_HEADER",
    "MAX_PAD",
    "MAX_SIZE",
    "TRAILER_MAGIC",
    "Content",
    "Entry",
    "LazyEntries",
    "Manifest",
    "Packed",
    "PlainEntry",
    "Writer",
    "blob_names",
    "blobs_of",
    "can_be_padded_to",
    "check_index",
    "check_key",
    "content_of",
    "decoded",
    "encoded",
    "entry_text",
    "entry_texts",
    "evened",
    "facts_in",
    "in_order",
    "in_order_of_paths",
    "index_header",
    "is_blob_name",
    "is_name",
    "open",
    "open_entries",
    "open_facts",
    "open_index",
    "open_partial",
    "open_short",
    "open_sizes",
    "open_trailer",
    "outline",
    "parse_entry",
    "plain_entries",
    "plain_entry",
    "seal",
]

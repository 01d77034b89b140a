"""Padding of blobs: the sizes that a blob with a given chunk can have. FORMAT.md, "A file's bytes".

A stored size that is none of these shows damage without a download.
"""

from __future__ import annotations

from pogfast.keys import Key

BOX = 40
MAX_PAD = 263  # bytes of ordinary padding at most, which does not hide sizes
PAD_EVEN = 16  # bytes of padding that hides sizes, at least


def can_be_padded_to(size: int, stored: int, key: Key) -> bool:
    """Returns True if blobs of `size` and `stored` bytes can have the same chunk: its padding depends on the writer.
    FORMAT.md, "A file's bytes"."""
    one, other = size - key.header_size - BOX, stored - key.header_size - BOX
    return min(one, other) >= 0 and (one in _payloads(other) or other in _payloads(one))


def _payloads(payload: int) -> set[int]:
    """Returns the lengths that the chunk in a payload can have with other padding, if its own does not hide sizes."""
    before = range(max(0, payload - MAX_PAD), max(0, payload - 7))
    chunks = [payload, *(length for length in before if length + 8 + length % 256 == payload)]
    return {size for length in chunks for size in (length, length + 8 + length % 256, evened(length))}


def evened(length: int) -> int:
    """Returns the length of a chunk with padding that hides its size: the next PADME length. FORMAT.md, "A file's
    bytes"."""
    minimum = length + PAD_EVEN
    exponent = minimum.bit_length() - 1
    mask = (1 << (exponent - exponent.bit_length())) - 1
    return (minimum + mask) & ~mask

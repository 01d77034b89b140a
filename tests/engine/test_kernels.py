"""One blob at a time, against the oracle: lengths around every boundary, and every kind of damage."""

from __future__ import annotations

import os

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kit import oracle
from pogfast import selftest
from pogfast._engine import (
    blob_name,
    compress,
    decompress,
    open_blob,
    public_key,
    random_bytes,
    seal_blob,
    sealedbox,
    sealedbox_open,
    secretbox,
    secretbox_open,
)
from pogfast.errors import CorruptBlob, WrongBlob, WrongKey

SECRET = os.urandom(32)
PRIVATE = os.urandom(32)
PUBLIC = public_key(PRIVATE)
KEYS = [
    pytest.param(oracle.OracleKey(SECRET), id="symmetric"),
    pytest.param(oracle.OracleKey(PUBLIC, PRIVATE), id="x25519"),
]
PIECE = 256 << 10
# Around the cipher's first block, its blocks, the padding's modulus, and the pieces in which the engine works.
EDGES = sorted(
    {0, 1}
    | {
        edge + step
        for edge in (32, 64, 96, 128, 256, 263, 327, 512, PIECE, PIECE + 32, 2 * PIECE)
        for step in (-1, 0, 1)
    }
)


def test_selftest_finds_nothing_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    assert selftest.main() == 0
    assert "all kernels give the known answers" in capsys.readouterr().out


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("length", EDGES)
@pytest.mark.parametrize("full", [False, True])
def test_sealed_by_us_opens_for_the_oracle_and_back(key: oracle.OracleKey, length: int, full: bool) -> None:
    chunk = os.urandom(length)
    chunk_size = max(length, 1) if full else length + 1
    name, blob = seal_blob(key.secret, key.public, chunk, chunk_size)
    assert name == key.name(chunk) == blob_name(key.secret, chunk)
    payload = key.open(blob)
    assert oracle.chunk_of(key, payload, name) == chunk
    if full and length:
        assert payload == chunk
    else:
        assert payload[:length] == chunk
        assert payload[length : length + 8] == oracle.PADDING + (length % 256).to_bytes(4, "little")
        assert len(payload) == length + 8 + length % 256
    assert open_blob(key.secret, key.private, blob, name) == chunk
    theirs = key.seal(oracle.pad(chunk, chunk_size))
    assert open_blob(key.secret, key.private, theirs, name) == chunk


@given(st.binary(max_size=3000), st.integers(1, 3000))
@example(b"", 1)
@example(oracle.PADDING * 3, 5)
def test_any_chunk_comes_back(chunk: bytes, chunk_size: int) -> None:
    key = oracle.OracleKey(SECRET)
    name, blob = seal_blob(SECRET, False, chunk, chunk_size)
    assert open_blob(SECRET, None, blob, name) == chunk
    assert key.open(blob)[: len(chunk)] == chunk


@given(st.integers(0, 600), st.data())
def test_padding_inside_a_chunk_does_not_mislead(length: int, data: st.DataObject) -> None:
    """A chunk that ends in what looks like padding is told from one that is padded, by its name."""
    body = os.urandom(length)
    inner = body + oracle.PADDING + (length % 256).to_bytes(4, "little") + os.urandom(length % 256)
    for chunk, size in ((inner, len(inner)), (body, len(inner) + 1), (inner, len(inner) + 1)):
        name, blob = seal_blob(SECRET, False, chunk, size)
        assert open_blob(SECRET, None, blob, name) == chunk


@pytest.mark.parametrize("key", KEYS)
def test_what_is_random_in_a_blob_is_never_twice_the_same(key: oracle.OracleKey) -> None:
    """The file key, the nonces of header and box (or the ephemeral key), and the padding; none of them is all zeros."""
    seen: dict[str, set[bytes]] = {}
    for _ in range(20):
        _, blob = seal_blob(key.secret, key.public, b"x" * 1023, 10_000)
        header, box = blob[: key.header_size], blob[key.header_size :]
        parts = {
            "file key": key.unwrap(header),
            "header": header[:24],
            "nonce": box[:24],
            "padding": key.open(blob)[1031:],
        }
        assert len(parts["padding"]) == 1023 % 256
        for part, value in parts.items():
            seen.setdefault(part, set()).add(value)
    for part, values in seen.items():
        assert len(values) == 20, part
        assert all(len(set(value)) > 10 for value in values), f"{part}: bytes that repeat"
    for length in (16, 24):  # halves that are shared would do as much harm
        assert len({value[-length:] for part in ("file key", "nonce") for value in seen[part]}) == 40


@pytest.mark.parametrize("point", [0, 1, 2**255 - 20, 2**255 - 19])
def test_nothing_is_sealed_for_a_point_of_low_order(point: int) -> None:
    """Everybody could open it. Keys are refused when they are read; here is the last place to notice."""
    public = point.to_bytes(32, "little")
    with pytest.raises(ValueError, match="low order"):
        seal_blob(public, True, b"chunk", 100)
    with pytest.raises(ValueError):
        sealedbox(public, b"file key")


def test_two_blobs_of_one_chunk_share_no_secret() -> None:
    first, second = (seal_blob(SECRET, False, b"x" * 1000, 10_000)[1] for _ in range(2))
    assert len(first) == len(second)
    assert sum(a == b for a, b in zip(first, second, strict=True)) < 40


@pytest.mark.parametrize("key", KEYS)
def test_the_naming_rule_of_old_releases_is_accepted(key: oracle.OracleKey) -> None:
    chunk = os.urandom(1000)
    blob = key.seal(oracle.pad(chunk))
    assert open_blob(key.secret, key.private, blob, key.name(chunk, old_rule=True)) == chunk


@pytest.mark.parametrize("key", KEYS)
def test_a_flipped_bit_is_found_wherever_it_is(key: oracle.OracleKey) -> None:
    name, blob = seal_blob(key.secret, key.public, os.urandom(500), 1000)
    for at in range(len(blob)):
        damaged = bytearray(blob)
        damaged[at] ^= 1 << (at % 8)
        with pytest.raises(WrongKey if at < key.header_size else CorruptBlob):
            open_blob(key.secret, key.private, damaged, name)


@pytest.mark.parametrize("key", KEYS)
def test_a_cut_is_found_wherever_it_is(key: oracle.OracleKey) -> None:
    name, blob = seal_blob(key.secret, key.public, os.urandom(500), 1000)
    for length in range(len(blob)):
        with pytest.raises(CorruptBlob):
            open_blob(key.secret, key.private, blob[:length], name)


def test_a_swapped_blob_is_told_from_a_damaged_one() -> None:
    name, _ = seal_blob(SECRET, False, b"one", 1000)
    _, other = seal_blob(SECRET, False, b"two", 1000)
    with pytest.raises(WrongBlob, match=name):
        open_blob(SECRET, None, other, name)


def test_the_wrong_key_is_no_damage() -> None:
    name, blob = seal_blob(SECRET, False, b"one", 1000)
    with pytest.raises(WrongKey):
        open_blob(os.urandom(32), None, blob, name)


@pytest.mark.parametrize("name", ["", "x", "A" * 44, "A" * 43 + "!", "é" * 44])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError):
        open_blob(SECRET, None, seal_blob(SECRET, False, b"one", 1000)[1], name)


@given(st.binary(max_size=5000))
def test_boxes_and_frames_are_those_of_the_libraries(message: bytes) -> None:
    assert secretbox_open(SECRET, secretbox(SECRET, message)) == message
    assert sealedbox_open(PUBLIC, PRIVATE, sealedbox(PUBLIC, message)) == message
    assert secretbox_open(os.urandom(32), secretbox(SECRET, message)) is None
    assert sealedbox_open(PUBLIC, os.urandom(32), sealedbox(PUBLIC, message)) is None
    assert decompress(compress(message)) == message == oracle.decompress_all(compress(message))
    assert oracle.zstandard.frame_content_size(compress(message)) == len(message)


@pytest.mark.parametrize(
    "data", [b"", b"\0", b"nothing of the kind", compress(b"a" * 5000)[:-1], compress(b"abc") + b"x"]
)
def test_what_is_no_frame_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        decompress(data)


@pytest.mark.parametrize("length", [1 << 20, (1 << 20) - 1, 2 << 20])
def test_frames_that_end_with_a_buffer(length: int) -> None:
    assert decompress(compress(bytes(length))) == bytes(length)


def test_keys_have_32_bytes() -> None:
    for call in (lambda: secretbox(b"short", b""), lambda: public_key(b"x" * 33), lambda: blob_name(b"", b"")):
        with pytest.raises(ValueError, match="32 bytes"):
            call()
    assert len({random_bytes(16) for _ in range(100)}) == 100

"""Manifests: sealed and opened, against the oracle; damage told from a wrong key."""

from __future__ import annotations

import json
import os

import oracle
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pogfast import keys, manifest
from pogfast._engine import compress, public_key, secretbox
from pogfast.errors import CorruptManifest, WrongKey
from pogfast.manifest import Entry, Manifest

SECRET, PRIVATE = os.urandom(32), os.urandom(32)
SYMMETRIC = keys.Key("keyfile", SECRET)
PAIR = keys.Key("x25519", public_key(PRIVATE), PRIVATE)
PUBLIC = keys.Key("x25519", public_key(PRIVATE))
KEYS = [pytest.param(SYMMETRIC, id="symmetric"), pytest.param(PAIR, id="x25519")]


def oracle_of(key: keys.Key) -> oracle.OracleKey:
    return oracle.OracleKey(key.secret, key.private)


NAMES = st.builds(oracle.OracleKey(SECRET).name, st.binary(max_size=3))
# Paths as systems give them: any text, and bytes that are no UTF-8 as surrogates.
PATHS = st.binary(max_size=20).map(os.fsdecode) | st.text(max_size=20)
TIMES = st.floats(-(2**40), 2**40)
ENTRIES = st.builds(
    Entry,
    st.lists(NAMES, max_size=4),
    TIMES,
    TIMES,
    st.dictionaries(
        st.text(max_size=5).filter(lambda key: key not in ("blobs", "atime", "mtime")), st.integers(), max_size=2
    ),
)
MANIFESTS = st.builds(
    Manifest,
    st.dictionaries(PATHS, ENTRIES, max_size=5),
    st.none() | st.dictionaries(st.text(max_size=5), st.integers(), max_size=3),
)


@pytest.mark.parametrize("key", KEYS)
@given(archive=MANIFESTS)
def test_what_is_sealed_opens_again_for_us_and_the_oracle(key: keys.Key, archive: Manifest) -> None:
    data = manifest.seal(archive, key)
    assert manifest.open(data, key, "m") == archive
    assert list(manifest.open(data, key, "m").entries) == list(archive.entries)
    theirs = oracle.open_manifest(oracle_of(key), data)
    assert {path: entry["blobs"] for path, entry in theirs.items()} == {p: e.blobs for p, e in archive.entries.items()}
    assert oracle.open_trailer(oracle_of(key), data) == archive.trailer
    assert len(oracle.chunk_lengths(oracle.full_payload(oracle_of(key), data))) > 1, "it is padded"
    if key.asymmetric:
        assert manifest.open_index(data, PUBLIC, "m") == sorted(archive.blob_names())
        assert oracle.open_index(oracle_of(key), data) == sorted(archive.blob_names())
    else:
        assert manifest.open_index(data, key, "m") == archive.blob_names()


@pytest.mark.parametrize("key", KEYS)
def test_what_the_oracle_seals_opens(key: keys.Key) -> None:
    entries = {"ä\udcff": {"blobs": [], "atime": 1, "mtime": 2.5, "size": 0, "mode": 0o644}}
    data = oracle.seal_manifest(oracle_of(key), entries, {"host": "h"})
    opened = manifest.open(data, key, "m")
    assert opened.entries == {"ä\udcff": Entry([], 1, 2.5, {"size": 0, "mode": 0o644})}
    assert opened.trailer == {"host": "h"}


@pytest.mark.parametrize("key", KEYS)
def test_damage_is_never_taken_for_a_wrong_key(key: keys.Key) -> None:
    name = oracle_of(key).name(b"x")
    data = manifest.seal(Manifest({"file": Entry([name], 0, 0)}), key)
    header = 76 if key.asymmetric else 72  # what only the right key opens; behind it all is damage
    for at in range(len(data)):
        damaged = bytearray(data)
        damaged[at] ^= 1
        try:
            manifest.open(bytes(damaged), key, "the name")
        except WrongKey:
            assert at < header
        except CorruptManifest as error:
            assert at >= header
            assert "the name" in str(error)
        else:
            # With a key pair the index is not read when the entries are.
            assert key.asymmetric
            with pytest.raises(CorruptManifest):
                manifest.open_index(bytes(damaged), key, "the name")


@pytest.mark.parametrize("key", KEYS)
def test_a_cut_manifest_is_damaged(key: keys.Key) -> None:
    data = manifest.seal(Manifest({"file": Entry([oracle_of(key).name(b"x")], 0, 0)}), key)
    for length in range(len(data)):
        with pytest.raises(CorruptManifest):
            manifest.open(data[:length], key, "m")


@pytest.mark.parametrize("key", [SYMMETRIC, PAIR, PUBLIC])
def test_the_wrong_key_is_no_damage(key: keys.Key) -> None:
    data = manifest.seal(Manifest(), key)
    other = os.urandom(32)
    for wrong in (keys.Key("keyfile", other), keys.Key("x25519", public_key(other), other)):
        with pytest.raises(WrongKey):
            manifest.open(data + bytes(200), wrong, "m")
        with pytest.raises(WrongKey):
            manifest.open_index(data + bytes(200), wrong, "m")
    with pytest.raises(WrongKey, match="cannot open it"):
        manifest.open(manifest.seal(Manifest(), PUBLIC), PUBLIC, "m")


NAME = oracle.OracleKey(SECRET).name(b"")
MALFORMED = [
    [],
    "x",
    {"a": []},
    {"a": {}},
    {"a": {"blobs": [], "atime": 0}},
    {"a": {"blobs": NAME, "atime": 0, "mtime": 0}},
    {"a": {"blobs": [1], "atime": 0, "mtime": 0}},
    {"a": {"blobs": ["../" + NAME[3:]], "atime": 0, "mtime": 0}},
    {"a": {"blobs": [NAME + "\n"], "atime": 0, "mtime": 0}},
    {"a": {"blobs": [], "atime": "x", "mtime": 0}},
    {"a": {"blobs": [], "atime": True, "mtime": 0}},
    {"a": {"blobs": [], "atime": float("nan"), "mtime": 0}},
    {"a": {"blobs": [], "atime": 0, "mtime": float("inf")}},
    {"a": {"blobs": [], "atime": 10**400, "mtime": 0}},
]


@pytest.mark.parametrize("content", MALFORMED, ids=lambda content: repr(content)[:60])
def test_authentic_nonsense_is_refused(content: object) -> None:
    file_key = os.urandom(32)
    data = SYMMETRIC.wrap(file_key) + secretbox(file_key, compress(json.dumps(content).encode()))
    with pytest.raises(CorruptManifest):
        manifest.open(data, SYMMETRIC, "m")


@pytest.mark.parametrize(
    "frame", [b"", b"no frame", compress(b"no json"), compress(b'{"a": ')[:-1], compress(b"[" * 10**5)]
)
def test_authentic_noise_is_refused(frame: bytes) -> None:
    file_key = os.urandom(32)
    with pytest.raises(CorruptManifest):
        manifest.open(SYMMETRIC.wrap(file_key) + secretbox(file_key, frame), SYMMETRIC, "m")


def skippable(magic: bytes, content: bytes) -> bytes:
    return magic + len(content).to_bytes(4, "little") + content


LURE = oracle.TRAILER + b"\xff" * 4
TRAILER = skippable(oracle.TRAILER, compress(b'{"host": "h"}'))
LURED = skippable(oracle.PADDING, LURE)


@pytest.mark.parametrize(
    ("frames", "trailer"),
    [
        (compress(b"{}") + TRAILER, {"host": "h"}),
        (compress(b"{}") + TRAILER + LURED, {"host": "h"}),
        (LURED + compress(b"{}") + TRAILER + LURED, {"host": "h"}),
        (compress(b"{}") + LURED, None),
    ],
    ids=["alone", "before", "between", "none"],
)
def test_what_only_looks_like_a_trailer_is_none(frames: bytes, trailer: object) -> None:
    file_key = os.urandom(32)
    data = SYMMETRIC.wrap(file_key) + secretbox(file_key, frames)
    assert manifest.open(data, SYMMETRIC, "m").trailer == trailer


@pytest.mark.parametrize("content", [b"[]", b"1", b"{", b"null"])
def test_a_malformed_trailer_is_refused(content: bytes) -> None:
    file_key = os.urandom(32)
    frames = compress(b"{}") + skippable(oracle.TRAILER, compress(content))
    with pytest.raises(CorruptManifest):
        manifest.open(SYMMETRIC.wrap(file_key) + secretbox(file_key, frames), SYMMETRIC, "m")


def test_names_of_blobs() -> None:
    assert manifest.is_blob_name(NAME)
    for wrong in ("", NAME[:-1], NAME + "=", NAME.replace("=", "A"), "é" + NAME[1:], NAME[:-2] + "B=", "/" + NAME[1:]):
        assert not manifest.is_blob_name(wrong), wrong

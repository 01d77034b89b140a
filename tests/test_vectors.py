"""Every archive of tests/vectors, as real pogcli releases wrote it: read to its bytes, written to the same names."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
import zstandard

from kit import oracle
from kit.commands import Runner
from kit.vectors import Vector
from pogfast import keys, manifest
from pogfast._engine import BlobDirectory, Sealer, blob_name, open_blob

PASSWORD_KEYS: dict[str, keys.Key] = {}


def key_of(vector: Vector) -> keys.Key:
    if vector.mode == "keyfile":
        return keys.from_keyfile(str(vector.file("secret.keyfile")))
    if vector.mode == "x25519":
        return keys.from_decryption_keyfile(str(vector.file("pki.decrypt")))
    password = vector.expected["password"]
    if password not in PASSWORD_KEYS:
        PASSWORD_KEYS[password] = keys.from_password(password)
    return PASSWORD_KEYS[password]


def oracle_key(vector: Vector) -> oracle.OracleKey:
    key = key_of(vector)
    return oracle.OracleKey(key.secret, key.private)


def test_the_key_is_the_expected_one(vector: Vector) -> None:
    key = key_of(vector)
    expected = {
        "keyfile": vector.expected["keyfile_key_hex"],
        "password": vector.expected["password_key_hex"],
        "x25519": vector.file("pki.encrypt").read_bytes().hex(),
    }
    assert key.secret.hex() == expected[vector.mode]


def test_manifest_lists_the_expected_blobs(vector: Vector) -> None:
    opened = manifest.open(vector.manifest, key_of(vector), vector.name)
    assert {name: entry.blobs for name, entry in opened.entries.items()} == vector.archive["blobs"]
    assert {entry.mtime for entry in opened.entries.values()} == {1580000000.25}
    assert {
        name: entry["blobs"] for name, entry in oracle.open_manifest(oracle_key(vector), vector.manifest).items()
    } == (vector.archive["blobs"])


def test_index_lists_the_blobs(vector: Vector) -> None:
    blobs = [blob for names in vector.archive["blobs"].values() for blob in names]
    if vector.mode == "x25519":
        public = keys.from_encryption_keyfile(str(vector.file("pki.encrypt")))
        assert manifest.blob_names(vector.manifest, public, vector.name) == sorted(blobs)
        assert oracle.open_index(oracle_key(vector), vector.manifest) == sorted(blobs)
    else:
        assert manifest.blob_names(vector.manifest, key_of(vector), vector.name) == blobs


def test_every_blob_opens_and_is_its_names(vector: Vector) -> None:
    key = key_of(vector)
    for name, facts in vector.expected["files"].items():
        blobs = vector.archive["blobs"][name]
        sealed = [(vector.directory / blob).read_bytes() for blob in blobs]
        chunks = [open_blob(key.secret, key.private, data, blob) for data, blob in zip(sealed, blobs, strict=True)]
        assert [blob_name(key.secret, chunk) for chunk in chunks] == blobs
        for data, blob, chunk in zip(sealed, blobs, chunks, strict=True):
            assert oracle.chunk_of(oracle_key(vector), oracle_key(vector).open(data), blob) == chunk
        plain = oracle.decompress_all(b"".join(chunks))
        assert plain == oracle.open_file(oracle_key(vector), sealed)
        assert (len(plain), hashlib.sha256(plain).hexdigest()) == (facts["size"], facts["sha256"])


def test_pog_restores_it(vector: Vector, pog: Runner, tmp_path: Path) -> None:
    for file in vector.directory.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    options = {
        "keyfile": ["--keyfile", vector.file("secret.keyfile")],
        "x25519": ["--decryption-keyfile", vector.file("pki.decrypt")],
        "password": [],
    }[vector.mode]
    ran = pog("--decrypt", *options, vector.archive["manifest"], stdin=vector.expected["password"].encode() + b"\n")
    assert ran.code == 0, ran.err
    for name, facts in vector.expected["files"].items():
        restored = tmp_path / name
        assert hashlib.sha256(restored.read_bytes()).hexdigest() == facts["sha256"]
        assert restored.stat().st_mtime == facts["mtime"]


@pytest.mark.parametrize("jobs", [1, 2, 5])
def test_sealing_the_restored_files_gives_the_same_names(vector: Vector, tmp_path: Path, jobs: int) -> None:
    if zstandard.__version__ != vector.expected["zstandard"]:
        pytest.skip(f"the names are those of zstandard {vector.expected['zstandard']}")
    key = oracle_key(vector)
    names = sorted(vector.expected["files"])
    for number, name in enumerate(names):
        blobs = [(vector.directory / blob).read_bytes() for blob in vector.archive["blobs"][name]]
        (tmp_path / str(number)).write_bytes(oracle.open_file(key, blobs))
    store = tmp_path / "store"
    store.mkdir()
    directory = os.open(store, os.O_RDONLY)
    sealer = Sealer(
        key.secret,
        vector.mode == "x25519",
        [os.fsencode(tmp_path / str(number)) for number in range(len(names))],
        [BlobDirectory(directory, False)],
        chunk_size=vector.archive["chunk_size"],
        level=vector.archive["compresslevel"],
        jobs=jobs,
    )
    sealed: dict[str, list[str]] = {name: [] for name in names}
    for news in sealer.run():
        sealed[names[news.file]] += news.names
    os.close(directory)
    assert sealed == vector.archive["blobs"]
    for blob in store.iterdir():
        assert key.name(open_blob(key.secret, key.private, blob.read_bytes())) == blob.name

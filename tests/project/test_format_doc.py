"""Parses the worked example of FORMAT.md, computes it again with PyNaCl and zstandard, and opens it with pogfast."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from importlib.resources import files
from pathlib import Path

import nacl.secret
import pytest
import zstandard

from kit.commands import Runner
from pogfast import keys, manifest
from pogfast._engine import blob_name, open_blob

DOCUMENT = files("pogfast").joinpath("FORMAT.md").read_text(encoding="utf-8")
PADDING = bytes.fromhex("502a4d18")


def hex_blocks(document: str) -> dict[str, bytes]:
    """Returns the bytes of each ```hex NAME block; text after a | is a comment."""
    found = {}
    for name, text in re.findall(r"^```hex (\S+)\n(.*?)^```$", document, re.MULTILINE | re.DOTALL):
        assert name not in found, f"there are two blocks named {name}"
        found[name] = b"".join(bytes.fromhex(line.partition("|")[0]) for line in text.splitlines())
    return found


def parts(document: str, block: str) -> list[bytes]:
    """Returns the bytes of a block in parts; each line with a comment begins a part."""
    [text] = re.findall(rf"^```hex {block}\n(.*?)^```$", document, re.MULTILINE | re.DOTALL)
    cut: list[bytes] = []
    for line in text.splitlines():
        raw, bar, _ = line.partition("|")
        if bar:
            cut.append(bytes.fromhex(raw))
        else:
            cut[-1] += bytes.fromhex(raw)
    return cut


HEX = hex_blocks(DOCUMENT)
S = HEX["S"]
NAME = base64.urlsafe_b64encode(HEX["name-sha256"]).decode()
[JSON] = re.findall(r"^```json\n(.*?)\n```$", DOCUMENT, re.MULTILINE | re.DOTALL)
[MANIFEST_NAME] = re.findall(r"stored as `(\S+\.mfn)`", DOCUMENT)


def seal(file_key: bytes, payload: bytes, header_nonce: bytes, nonce: bytes) -> bytes:
    header = nacl.secret.SecretBox(S).encrypt(file_key, header_nonce)
    return bytes(header) + bytes(nacl.secret.SecretBox(file_key).encrypt(payload, nonce))


def unpad(payload: bytes, length: int) -> bytes:
    """Returns the payload without its padding, after checking that the padding has exactly the expected form."""
    assert payload[length : length + 4] == PADDING
    n = int.from_bytes(payload[length + 4 : length + 8], "little")
    assert n == length % 256
    assert len(payload) == length + 8 + n
    return payload[:length]


def test_every_block_is_used_here() -> None:
    assert set(HEX) == {
        "keyfile", "S", "name-secret", "content", "chunk", "chunk-sha256", "name-sha256", "payload", "file-key", "blob",
        "manifest-payload", "manifest-file-key", "manifest",
    }  # fmt: skip


def test_the_key() -> None:
    assert hashlib.sha256(HEX["keyfile"]).digest() == S
    assert hashlib.sha256(S).digest() == HEX["name-secret"]


def test_the_chunk_is_what_the_compressor_makes_of_the_content() -> None:
    assert b"".join(parts(DOCUMENT, "chunk")) == HEX["chunk"]
    stream = zstandard.ZstdDecompressor().decompressobj()
    assert stream.decompress(HEX["chunk"]) == HEX["content"]
    [release] = re.findall(r"by zstd (\d+\.\d+\.\d+)", DOCUMENT)
    if tuple(map(int, release.split("."))) == zstandard.ZSTD_VERSION:
        compressor = zstandard.ZstdCompressor(level=3).compressobj()
        assert compressor.compress(HEX["content"]) + compressor.flush() == HEX["chunk"]


def test_the_name() -> None:
    assert hashlib.sha256(HEX["chunk"]).digest() == HEX["chunk-sha256"]
    assert hashlib.sha256(HEX["name-secret"] + HEX["chunk-sha256"]).digest() == HEX["name-sha256"]
    assert f"`{NAME}`" in DOCUMENT
    assert blob_name(S, HEX["chunk"]) == NAME


def test_the_payload_is_the_chunk_and_padding() -> None:
    assert unpad(HEX["payload"], len(HEX["chunk"])) == HEX["chunk"]
    assert zstandard.ZstdDecompressor().decompressobj().decompress(HEX["payload"]) == HEX["content"]


@pytest.mark.parametrize(
    ("sealed", "file_key", "payload"),
    [("blob", "file-key", "payload"), ("manifest", "manifest-file-key", "manifest-payload")],
)
def test_what_is_sealed_opens_and_is_sealed_again_to_the_same_bytes(sealed: str, file_key: str, payload: str) -> None:
    header_nonce, _, _, nonce, _, _ = parts(DOCUMENT, sealed)
    assert nacl.secret.SecretBox(S).decrypt(HEX[sealed][:72]) == HEX[file_key]
    assert nacl.secret.SecretBox(HEX[file_key]).decrypt(HEX[sealed][72:]) == HEX[payload]
    assert seal(HEX[file_key], HEX[payload], header_nonce, nonce) == HEX[sealed]
    assert [len(part) for part in parts(DOCUMENT, sealed)] == [24, 16, 32, 24, 16, len(HEX[payload])]


def test_the_manifest_lists_the_file_and_its_blob() -> None:
    payload = HEX["manifest-payload"]
    assert zstandard.frame_content_size(payload) == len(JSON)
    assert zstandard.ZstdDecompressor().decompress(payload) == JSON.encode()
    *frame, magic, _, _ = parts(DOCUMENT, "manifest-payload")
    assert magic == PADDING
    assert unpad(payload, len(b"".join(frame))) == b"".join(frame)
    assert json.loads(JSON)["hello.txt"]["blobs"] == [NAME]


def test_the_engine_opens_the_blob() -> None:
    assert open_blob(S, None, HEX["blob"], NAME) == HEX["chunk"]
    assert f"has {len(HEX['blob'])} bytes" in DOCUMENT


def test_manifest_opens_the_manifest() -> None:
    opened = manifest.open(HEX["manifest"], keys.Key("keyfile", S), MANIFEST_NAME)
    assert opened.entries == {"hello.txt": manifest.Entry([NAME], 1580000000.0, 1580000000.25)}
    assert opened.trailer is None


@pytest.mark.parametrize("side", ["pog", "pogcli_014"])
def test_the_archive_is_restored(tmp_path: Path, request: pytest.FixtureRequest, side: str) -> None:
    command: Runner = request.getfixturevalue(side)
    (tmp_path / "key").write_bytes(HEX["keyfile"])
    (tmp_path / NAME).write_bytes(HEX["blob"])
    (tmp_path / MANIFEST_NAME).write_bytes(HEX["manifest"])
    ran = command("--keyfile=key", "--decrypt", MANIFEST_NAME, cwd=tmp_path)
    assert (ran.code, ran.out) == (0, b"*** 1/1: hello.txt\n"), ran.err
    assert (tmp_path / "hello.txt").read_bytes() == HEX["content"]
    assert (tmp_path / "hello.txt").stat().st_mtime == 1580000000.25


def keys_of(section: str) -> list[str]:
    """Returns the names in the first column of a section's table."""
    [text] = re.findall(rf"^## {section}\n(.*?)^## ", DOCUMENT, re.MULTILINE | re.DOTALL)
    return re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)))


def test_the_keys_that_are_written_are_described() -> None:
    metadata = ["mode", "uid", "gid", "user", "group", "mtime_ns", "atime_ns", "xattrs"]
    assert keys_of("Further keys of an entry") == [
        "size",
        "sizes",
        "stored",
        *metadata,
        "sparse",
        "hardlink",
        "changed",
    ]
    assert keys_of("The trailer") == [
        "program", "time", "ended", "host", "user", "tags", "comment", "paths", "layout", "chunk_size", "chunker",
        "level", "directories", "top", "parents", "links", "fifos", "skipped", "unreadable", "changed", "totals",
    ]  # fmt: skip
    [told] = re.findall(r"Metadata is an object of the keys (.*?),\s+each", DOCUMENT, re.DOTALL)
    assert re.findall(r"`(\w+)`", told) == metadata


def test_the_trailer_stands_where_it_is_said_to_stand() -> None:
    [magic] = re.findall(r"^    trailer = ((?:[0-9A-F]{2} ){4})\|\| u32le\(", DOCUMENT, re.MULTILINE)
    data = manifest.seal(manifest.Manifest({}, {"host": "h"}), keys.Key("keyfile", S))
    payload = nacl.secret.SecretBox(nacl.secret.SecretBox(S).decrypt(data[:72])).decrypt(data[72:])
    frame = zstandard.ZstdDecompressor().decompressobj()
    assert frame.decompress(payload) == b"{}"
    behind = frame.unused_data
    assert behind[:4] == bytes.fromhex(magic)
    length = int.from_bytes(behind[4:8], "little")
    assert json.loads(zstandard.ZstdDecompressor().decompress(behind[8 : 8 + length])) == {"host": "h"}
    unpad(payload, len(payload) - len(behind) + 8 + length)

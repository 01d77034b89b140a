"""Parses the worked example of FORMAT.md, computes it again with PyNaCl and zstandard, and opens it with pogfast."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import struct
from importlib.resources import files
from pathlib import Path

import nacl.secret
import pytest
import zstandard

from kit import packs
from kit.commands import Runner
from pogfast import keys, manifest
from pogfast._engine import blob_name, open_blob
from pogfast.stores.packs import layout

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
        "manifest-payload", "manifest-file-key", "manifest", "pack", "index",
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


# ---- the pack. What follows reads packs as the section "Packs" says, with none of our code.


class Reader:
    """Takes integers and names off the front of some bytes."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def take(self, size: int) -> bytes:
        taken, self.data = self.data[:size], self.data[size:]
        assert len(taken) == size
        return taken

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def numbers(self, size: int, count: int) -> list[int]:
        return [self.number(size) for _ in range(count)]

    def names(self, count: int) -> list[bytes]:
        return [self.take(32) for _ in range(count)]


def parse_pack(pack: bytes) -> list[tuple[bytes, int, bytes]]:
    """Returns (raw name, offset, blob) of each blob in a pack."""
    footer = Reader(pack[-48:])
    digest, count = footer.take(32), footer.number(4)
    assert (footer.number(2), footer.number(2), footer.data) == (1, 0, b"pogpack1")
    table = pack[-48 - 44 * count : -48]
    assert hashlib.sha256(table).digest() == digest
    rows, found, offset = Reader(table), [], 0
    for _ in range(count):
        raw, length, check = rows.take(32), rows.number(4), rows.take(8)
        blob = pack[offset : offset + length]
        assert blob
        assert hashlib.sha256(blob).digest()[:8] == check
        found.append((raw, offset, blob))
        offset += length
    assert offset + 44 * count + 48 == len(pack)
    return found


def parse_index(index: bytes) -> tuple[list[tuple[bytes, int, int]], list[bytes], list[tuple[bytes, int, int, int]]]:
    """Returns the packs (raw name, size, day), the superseded names, and the rows (raw name, pack, offset, length)."""
    reader = Reader(index)
    assert (reader.take(8), reader.number(4)) == (b"pogindx1", 1)
    p, n, s, bits = reader.number(4), reader.number(8), reader.number(4), reader.number(4)
    assert bits == min(bits for bits in range(17) if n <= 32 * 2**bits or bits == 16)
    listed = []
    for _ in range(p):
        raw, size, day, zero = reader.take(32), reader.number(8), reader.number(4), reader.number(4)
        assert zero == 0
        listed.append((raw, size, day))
    superseded = reader.names(s)
    fan_out = reader.numbers(8, 2**bits + 1)
    names, numbers, offsets, lengths = reader.names(n), *(reader.numbers(4, n) for _ in range(3))
    assert reader.data == b""
    for i, below in enumerate(fan_out):
        assert below == sum(int.from_bytes(name, "big") >> (256 - bits) < i for name in names)
    rows = list(zip(names, numbers, offsets, lengths, strict=True))
    assert (sorted(rows), sorted(set(superseded))) == (rows, superseded)
    assert sorted({raw for raw, _, _ in listed}) == [raw for raw, _, _ in listed]
    return listed, superseded, rows


def test_the_pack_holds_both_blobs() -> None:
    [first, second] = parse_pack(HEX["pack"])
    assert (first[0], first[2]) == (HEX["name-sha256"], HEX["blob"])
    [empty] = re.findall(r"empty frame, `(\w+)`", DOCUMENT.replace("\n", " "))
    name = blob_name(S, bytes.fromhex(empty))
    assert f"its name is `{name}`" in DOCUMENT.replace("\n", " ")
    assert base64.urlsafe_b64encode(second[0]).decode() == name
    assert open_blob(S, None, second[2], name) == bytes.fromhex(empty)
    stream = zstandard.ZstdDecompressor().decompressobj()
    assert stream.decompress(bytes.fromhex(empty)) == b""
    assert stream.eof


def test_the_paths_in_the_example_are_those_of_the_objects() -> None:
    for block, folder in (("pack", "packs/2026-01-31/"), ("index", "packs/index/")):
        digest = hashlib.sha256(HEX[block]).digest()
        assert f"`{folder}{base64.urlsafe_b64encode(digest).decode()}`" in DOCUMENT
        assert f"It has {len(HEX[block])} bytes" in DOCUMENT.replace("\n", " ")


def test_the_index_object_lists_the_pack() -> None:
    listed, superseded, rows = parse_index(HEX["index"])
    assert listed == [(hashlib.sha256(HEX["pack"]).digest(), len(HEX["pack"]), 20260131)]
    assert superseded == [bytes(range(0xD0, 0xF0))]
    assert rows == sorted((raw, 0, offset, len(blob)) for raw, offset, blob in parse_pack(HEX["pack"]))
    sizes = [len(part) for part in parts(DOCUMENT, "index")]
    assert sizes == [8, 4, 4, 8, 4, 4, 32, 8, 4, 4, 32, 8, 8, 32, 32, 8, 8, 8]


def test_pogfast_reads_the_pack_and_the_index_object() -> None:
    rows = layout.read_table(HEX["pack"], len(HEX["pack"]), "a pack")
    assert [(layout.raw_name(row.name), row.offset, row.size) for row in rows] == [
        (raw, offset, len(blob)) for raw, offset, blob in parse_pack(HEX["pack"])
    ]
    [path] = re.findall(r"`(packs/2026\S+)`", DOCUMENT)[-1:]
    assert layout.check_pack(HEX["pack"], path) == ("", rows, [])
    header = layout.read_header(HEX["index"])
    assert header.packs == [(path, len(HEX["pack"]))]
    assert header.supersedes == [layout.index_path(bytes(range(0xD0, 0xF0)))]
    assert header.blobs == 2


@pytest.mark.parametrize("count", [0, 1, 32, 33, 64, 65, 1000])
def test_the_packs_of_other_tests_are_read_as_it_says(count: int) -> None:
    blobs = [(packs.name_of(packs.sha256(struct.pack("<I", i))), bytes(i + 1)) for i in range(count)]
    contents = [blobs, blobs[:7]] if count > 7 else [blobs] if blobs else []
    for part in contents:
        assert [(packs.name_of(raw), blob) for raw, _, blob in parse_pack(packs.make_pack(part))] == part
    listed, superseded, rows = parse_index(packs.make_index(map(packs.listed, contents), [bytes(32)]))
    assert (len(listed), superseded, len(rows)) == (len(contents), [bytes(32)], sum(map(len, contents)))


def test_the_settings_of_a_store_are_those_that_are_written() -> None:
    [text] = re.findall(r'^    (\{"layout": 1.*\})$', DOCUMENT, re.MULTILINE)
    assert json.loads(text) == json.loads(layout.StoreSettings().serialize())
    [table] = re.findall(r"^### pogfast\.store\n(.*?)^###", DOCUMENT, re.MULTILINE | re.DOTALL)
    assert re.findall(r"^\| `(.*?)`", table, re.MULTILINE) == [
        "layout",
        "packs",
        "packs.size",
        "packs.limit",
        "requires",
    ]

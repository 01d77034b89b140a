"""A slow, obvious reader and writer of FORMAT.md, made of PyNaCl and python-zstandard. It shares no code with pogfast.

What it writes goes into dictionaries of name -> bytes; what it reads comes out of them.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import struct
from collections.abc import Mapping
from typing import Any

import nacl.public
import nacl.secret
import zstandard

PADDING = bytes.fromhex("502a4d18")
TRAILER = bytes.fromhex("5e2a4d18")


class OracleKey:
    """S, and for a key pair the private key."""

    def __init__(self, secret: bytes, private: bytes | None = None, public: bool = False) -> None:
        self.secret = secret
        self.private = private
        self.public = public or private is not None

    @classmethod
    def of_keyfile(cls, content: bytes) -> OracleKey:
        return cls(hashlib.sha256(content).digest())

    @classmethod
    def of_private(cls, private: bytes) -> OracleKey:
        return cls(bytes(nacl.public.PrivateKey(private).public_key), private)

    @property
    def header_size(self) -> int:
        return 80 if self.public else 72

    def wrap(self, file_key: bytes) -> bytes:
        if self.public:
            return bytes(nacl.public.SealedBox(nacl.public.PublicKey(self.secret)).encrypt(file_key))
        return bytes(nacl.secret.SecretBox(self.secret).encrypt(file_key))

    def unwrap(self, header: bytes) -> bytes:
        if self.public:
            assert self.private is not None, "a public key opens nothing"
            return nacl.public.SealedBox(nacl.public.PrivateKey(self.private)).decrypt(header)
        return nacl.secret.SecretBox(self.secret).decrypt(header)

    def seal(self, payload: bytes) -> bytes:
        file_key = os.urandom(32)
        return self.wrap(file_key) + bytes(nacl.secret.SecretBox(file_key).encrypt(payload))

    def open(self, sealed: bytes) -> bytes:
        file_key = self.unwrap(sealed[: self.header_size])
        return nacl.secret.SecretBox(file_key).decrypt(sealed[self.header_size :])

    def name(self, chunk: bytes, old_rule: bool = False) -> str:
        outer = self.secret if old_rule else hashlib.sha256(self.secret).digest()
        return base64.urlsafe_b64encode(hashlib.sha256(outer + hashlib.sha256(chunk).digest()).digest()).decode()


def pad(chunk: bytes, chunk_size: int | None = None) -> bytes:
    if chunk_size is not None and len(chunk) >= chunk_size:
        return chunk
    n = len(chunk) % 256
    return chunk + PADDING + struct.pack("<I", n) + os.urandom(n)


def compress_as_pog(data: bytes, level: int = 3) -> bytes:
    """One frame of unknown size; of an empty file one that says 0."""
    compressor = zstandard.ZstdCompressor(level=level).compressobj()
    return compressor.compress(data) + compressor.flush() if data else compressor.flush()


def stream_chunks(data: bytes, chunk_size: int, level: int = 3) -> list[bytes]:
    stream = compress_as_pog(data, level)
    return [stream[at : at + chunk_size] for at in range(0, len(stream), chunk_size)]


def frame_chunks(data: bytes, chunk_size: int, level: int = 3) -> list[bytes]:
    if len(data) <= chunk_size:
        return [compress_as_pog(data, level)]
    compressor = zstandard.ZstdCompressor(level=level, write_checksum=True, write_content_size=True)
    return [compressor.compress(data[at : at + chunk_size]) for at in range(0, len(data), chunk_size)]


def seal_file(
    key: OracleKey, data: bytes, chunk_size: int, level: int = 3, layout: str = "stream"
) -> tuple[list[str], dict[str, bytes]]:
    """(names in order, name -> blob)."""
    chunks = (stream_chunks if layout == "stream" else frame_chunks)(data, chunk_size, level)
    padded = chunk_size if layout == "stream" else None
    return [key.name(chunk) for chunk in chunks], {key.name(chunk): key.seal(pad(chunk, padded)) for chunk in chunks}


def names_of(key: OracleKey, data: bytes, chunk_size: int, level: int = 3) -> list[str]:
    return [key.name(chunk) for chunk in stream_chunks(data, chunk_size, level)]


def chunk_lengths(payload: bytes) -> list[int]:
    """The lengths that the chunk in a payload may have: all of it, or what stands before padding of the right size."""
    whole = len(payload)
    before = [at for at in range(max(0, whole - 263), whole - 7) if at + 8 + at % 256 == whole]
    return [whole] + [at for at in before if payload[at : at + 8] == PADDING + struct.pack("<I", at % 256)]


def chunk_of(key: OracleKey, payload: bytes, name: str) -> bytes:
    """The chunk in a payload that `name` belongs to, by either naming rule."""
    for length in chunk_lengths(payload):
        if name in (key.name(payload[:length]), key.name(payload[:length], old_rule=True)):
            return payload[:length]
    raise ValueError(f"the content is not that of {name}")


def open_file(key: OracleKey, blobs: list[bytes]) -> bytes:
    """The content of a file; payloads go to one decompressor, padding and all."""
    return decompress_all(b"".join(key.open(blob) for blob in blobs))


def decompress_all(frames: bytes) -> bytes:
    stream = zstandard.ZstdDecompressor().decompressobj(read_across_frames=True)
    return stream.decompress(frames) + stream.flush()


def seal_manifest(
    key: OracleKey, entries: Mapping[str, Mapping[str, Any]], trailer: Mapping[str, Any] | None = None
) -> bytes:
    frames = zstandard.ZstdCompressor().compress(json.dumps(entries).encode())
    if trailer is not None:
        content = zstandard.ZstdCompressor().compress(json.dumps(trailer).encode())
        frames += TRAILER + struct.pack("<I", len(content)) + content
    full = key.seal(pad(frames))
    if not key.public:
        return full
    names = sorted(name for entry in entries.values() for name in entry["blobs"])
    file_key = os.urandom(32)
    listed = zstandard.ZstdCompressor().compress(json.dumps(names).encode())
    box = bytes(nacl.secret.SecretBox(file_key).encrypt(pad(listed)))
    return bytes(nacl.secret.SecretBox(key.secret).encrypt(struct.pack(">I", len(box)) + file_key)) + box + full


def full_payload(key: OracleKey, data: bytes) -> bytes:
    """What the manifest's own box holds, behind the index where there is one."""
    if key.public:
        header = nacl.secret.SecretBox(key.secret).decrypt(data[:76])
        data = data[76 + struct.unpack(">I", header[:4])[0] :]
    return key.open(data)


def open_manifest(key: OracleKey, data: bytes) -> dict[str, dict[str, Any]]:
    entries: dict[str, dict[str, Any]] = json.loads(zstandard.ZstdDecompressor().decompress(full_payload(key, data)))
    return entries


def open_trailer(key: OracleKey, data: bytes) -> dict[str, Any] | None:
    """The trailer, where one stands right behind the manifest's frame."""
    frame = zstandard.ZstdDecompressor().decompressobj()
    frame.decompress(full_payload(key, data))
    magic, length = frame.unused_data[:4], struct.unpack("<I", frame.unused_data[4:8])[0]
    return json.loads(decompress_all(frame.unused_data[8 : 8 + length])) if magic == TRAILER else None


def open_index(key: OracleKey, data: bytes) -> list[str]:
    header = nacl.secret.SecretBox(key.secret).decrypt(data[:76])
    box = data[76 : 76 + struct.unpack(">I", header[:4])[0]]
    names: list[str] = json.loads(
        zstandard.ZstdDecompressor().decompress(nacl.secret.SecretBox(header[4:]).decrypt(box))
    )
    return names

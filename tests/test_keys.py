"""Keys: the three modes of FORMAT.md, files that are never overwritten, secrets that are never shown."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

import argon2.exceptions
import argon2.low_level
import nacl.public
import oracle
import pytest

from pogfast import keys
from pogfast.errors import KeyFileError, WrongKey

PRIVATE = bytes(range(32))


@pytest.fixture
def pair(tmp_path: Path) -> tuple[str, str]:
    return keys.create_pair("pair", str(tmp_path))


@pytest.mark.parametrize("content", [b"x", b"\n", os.urandom(32), os.urandom((1 << 20) + 1)])
def test_a_keyfile_is_hashed(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "key").write_bytes(content)
    key = keys.from_keyfile(str(tmp_path / "key"), writing=True)
    assert key.secret == hashlib.sha256(content).digest()
    assert (key.asymmetric, key.can_open, key.header_size) == (False, True, 72)


def test_an_empty_keyfile_reads_but_does_not_write(tmp_path: Path) -> None:
    (tmp_path / "key").touch()
    assert keys.from_keyfile(str(tmp_path / "key")).secret == hashlib.sha256(b"").digest()
    with pytest.raises(KeyFileError, match="empty"):
        keys.from_keyfile(str(tmp_path / "key"), writing=True)


def test_wrapping_is_what_the_oracle_unwraps(pair: tuple[str, str]) -> None:
    public, private = keys.from_encryption_keyfile(pair[0]), keys.from_decryption_keyfile(pair[1])
    assert public.secret == private.secret == bytes(nacl.public.PrivateKey(private.private).public_key)
    assert (public.can_open, private.can_open, public.header_size) == (False, True, 80)
    assert oracle.OracleKey.of_private(private.private).unwrap(public.wrap(PRIVATE)) == PRIVATE
    assert private.unwrap(public.wrap(PRIVATE)) == PRIVATE
    symmetric = keys.Key("keyfile", os.urandom(32))
    assert oracle.OracleKey(symmetric.secret).unwrap(symmetric.wrap(PRIVATE)) == PRIVATE
    assert symmetric.unwrap(symmetric.wrap(PRIVATE)) == PRIVATE


def test_the_wrong_key_unwraps_nothing(pair: tuple[str, str]) -> None:
    public = keys.from_encryption_keyfile(pair[0])
    with pytest.raises(WrongKey, match="cannot decrypt"):
        public.unwrap(public.wrap(PRIVATE))
    first, second = keys.Key("keyfile", os.urandom(32)), keys.Key("keyfile", os.urandom(32))
    with pytest.raises(WrongKey):
        second.unwrap(first.wrap(PRIVATE))
    with pytest.raises(WrongKey):
        first.unwrap(first.wrap(PRIVATE[1:]))


def test_a_pair_has_its_modes_whatever_the_umask(tmp_path: Path) -> None:
    for mask in (0, 0o077, 0o777):
        before = os.umask(mask)
        try:
            encrypt, decrypt = keys.create_pair(f"pair{mask}", str(tmp_path))
        finally:
            os.umask(before)
        assert stat.S_IMODE(os.stat(encrypt).st_mode) == 0o644
        assert stat.S_IMODE(os.stat(decrypt).st_mode) == 0o600


@pytest.mark.parametrize("kind", ["encrypt", "decrypt"])
def test_a_pair_overwrites_nothing_and_leaves_nothing_half_made(tmp_path: Path, kind: str) -> None:
    (tmp_path / f"pki.{kind}").write_bytes(b"precious")
    with pytest.raises(KeyFileError, match="exists already"):
        keys.create_pair(directory=str(tmp_path))
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [(f"pki.{kind}", b"precious")]


def test_a_dangling_link_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "pki.decrypt").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(KeyFileError):
        keys.create_pair(directory=str(tmp_path))
    assert not (tmp_path / "elsewhere").exists()


def test_a_pair_loses_a_race_for_its_name_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def derive(private: bytes) -> bytes:
        (tmp_path / "pki.encrypt").write_bytes(b"precious")
        return private

    monkeypatch.setattr(keys, "public_key", derive)
    with pytest.raises(KeyFileError, match=r"pki\.encrypt"):
        keys.create_pair(directory=str(tmp_path))
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("pki.encrypt", b"precious")]


@pytest.mark.parametrize(
    ("error", "seen"), [(OSError(5, "broken disk"), KeyFileError), (KeyboardInterrupt(), KeyboardInterrupt)]
)
@pytest.mark.parametrize("good", [0, 1])
def test_half_a_pair_is_taken_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, good: int, error: BaseException, seen: type[BaseException]
) -> None:
    synced = []

    def sync(file: int) -> None:
        synced.append(file)
        if len(synced) > good:
            raise error

    monkeypatch.setattr(os, "fsync", sync)
    with pytest.raises(seen):
        keys.create_pair(directory=str(tmp_path))
    assert (len(synced), list(tmp_path.iterdir())) == (good + 1, [])


@pytest.mark.parametrize("read", [keys.from_keyfile, keys.from_encryption_keyfile, keys.from_decryption_keyfile])
def test_files_that_are_no_keys(tmp_path: Path, read: object) -> None:
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(KeyFileError, match="cannot read"):
            read(str(path))
    (tmp_path / "short").write_bytes(b"x" * 31)
    (tmp_path / "long").write_bytes(b"x" * 33)
    if read is not keys.from_keyfile:
        for name in ("short", "long"):
            with pytest.raises(KeyFileError, match="32 bytes"):
                read(str(tmp_path / name))


def test_secrets_are_not_shown() -> None:
    key = keys.Key("x25519", b"S" * 32, b"P" * 32)
    assert repr(key) == str(key) == "<Key x25519>"


def test_a_password_without_the_memory_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def hash_secret_raw(*arguments: object, **more: object) -> bytes:
        raise argon2.exceptions.HashingError("Memory allocation error")

    monkeypatch.setattr(argon2.low_level, "hash_secret_raw", hash_secret_raw)
    with pytest.raises(KeyFileError, match="Memory allocation error") as caught:
        keys.from_password("hunter2")
    assert "hunter2" not in f"{caught.value} {caught.value.hint}"


def test_a_password_of_any_bytes() -> None:
    assert keys.from_password("pässwörd").secret == keys.from_password("pässwörd").secret
    assert keys.from_password(os.fsdecode(b"\xff")).secret != keys.from_password("ÿ").secret

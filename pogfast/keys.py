"""Keys: a keyfile, a password or a key pair becomes a `Key`, which wraps and unwraps file keys.

FORMAT.md, "Keys". This room knows nothing of blobs, manifests or stores. Secrets stay out of messages, reprs and
command lines; key files are made with their final permissions and never overwritten.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from dataclasses import dataclass
from typing import Literal

from pogfast._engine import public_key, random_bytes, sealedbox, sealedbox_open, secretbox, secretbox_open
from pogfast.errors import KeyFileError, WrongKey

KEY_SIZE = 32
READ_SIZE = 1 << 20


@dataclass(frozen=True, repr=False)
class Key:
    """A master secret and what it can do. `secret` is S of FORMAT.md; in X25519 mode that is the public key."""

    kind: Literal["keyfile", "password", "x25519"]
    secret: bytes
    private: bytes | None = None

    def __repr__(self) -> str:
        return f"<Key {self.kind}>"

    @property
    def asymmetric(self) -> bool:
        return self.kind == "x25519"

    @property
    def can_open(self) -> bool:
        """False for a public key alone: it seals, and opens manifest indexes only."""
        return not self.asymmetric or self.private is not None

    @property
    def header_size(self) -> int:
        """Bytes of a wrapped file key."""
        return 80 if self.asymmetric else 72

    def wrap(self, file_key: bytes) -> bytes:
        """A header that holds `file_key`."""
        return sealedbox(self.secret, file_key) if self.asymmetric else secretbox(self.secret, file_key)

    def unwrap(self, header: bytes) -> bytes:
        """The file key in a header. Raises WrongKey."""
        if not self.asymmetric:
            file_key = secretbox_open(self.secret, header)
        elif self.private is None:
            raise WrongKey("an encryption key cannot decrypt", hint="use --decryption-keyfile")
        else:
            file_key = sealedbox_open(self.secret, self.private, header)
        if file_key is None or len(file_key) != KEY_SIZE:
            raise WrongKey("the header does not unwrap with this key")
        return file_key


def from_keyfile(path: str, *, writing: bool = False) -> Key:
    """S is the sha256 of the file. Raises KeyFileError; with `writing` also for an empty file, which is no secret."""
    digest = hashlib.sha256()
    empty = True
    try:
        with open(path, "rb") as file:
            while piece := file.read(READ_SIZE):
                digest.update(piece)
                empty = False
    except OSError as error:
        raise KeyFileError(f"cannot read the keyfile {path}: {error.strerror}") from error
    if empty and writing:
        raise KeyFileError(f"the keyfile {path} is empty: everybody has that key", hint="put random bytes into it")
    return Key("keyfile", digest.digest())


def from_password(password: str) -> Key:
    """S is Argon2id of the password, with the parameters of FORMAT.md; takes 100 MiB and a fraction of a second.

    Raises KeyFileError when there is not the memory for it.
    """
    from argon2.exceptions import HashingError
    from argon2.low_level import Type, hash_secret_raw

    secret = password.encode("utf-8", "surrogateescape")
    try:
        hashed = hash_secret_raw(
            secret,
            hashlib.sha256(secret).digest(),
            time_cost=8,
            memory_cost=102400,
            parallelism=8,
            hash_len=KEY_SIZE,
            type=Type.ID,
        )
    except HashingError as error:
        raise KeyFileError(f"cannot hash the password: {error}", hint="it takes 100 MiB and 8 threads") from error
    return Key("password", hashed)


def from_encryption_keyfile(path: str) -> Key:
    """A public key: seals, and opens manifest indexes. Raises KeyFileError."""
    return Key("x25519", _read_raw_key(path))


def from_decryption_keyfile(path: str) -> Key:
    """A private key, and the public one derived from it. Raises KeyFileError."""
    private = _read_raw_key(path)
    return Key("x25519", public_key(private), private)


def _read_raw_key(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            raw = file.read(KEY_SIZE + 1)
    except OSError as error:
        raise KeyFileError(f"cannot read the keyfile {path}: {error.strerror}") from error
    if len(raw) != KEY_SIZE:
        raise KeyFileError(f"{path} is not a key of a pair: it must have {KEY_SIZE} bytes")
    return raw


def create_pair(name: str = "pki", directory: str = ".") -> tuple[str, str]:
    """Makes NAME.encrypt (public, mode 0644) and NAME.decrypt (private, 0600) and returns their paths.

    Raises KeyFileError when either exists or cannot be made; then neither was.
    """
    encrypt, decrypt = (os.path.join(directory, f"{name}.{kind}") for kind in ("encrypt", "decrypt"))
    for path in (encrypt, decrypt):
        if os.path.lexists(path):
            raise KeyFileError(f"{path} exists already and is not overwritten", hint="move it away, or work elsewhere")
    private = random_bytes(KEY_SIZE)
    _write_new(decrypt, private, 0o600)
    try:
        _write_new(encrypt, public_key(private), 0o644)
    except BaseException:  # Ctrl-C too
        with contextlib.suppress(OSError):
            os.unlink(decrypt)
        raise
    return encrypt, decrypt


def _write_new(path: str, data: bytes, mode: int) -> None:
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except OSError as error:
        raise KeyFileError(f"cannot make {path}: {error.strerror}") from error
    try:
        with open(file, "wb") as out:
            os.fchmod(file, mode)  # the umask may take away more than is meant
            out.write(data)
            out.flush()
            os.fsync(file)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(path)
        if isinstance(error, OSError):
            raise KeyFileError(f"cannot write {path}: {error.strerror}") from error
        raise

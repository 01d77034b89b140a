"""Keys: a keyfile, a password or a key pair becomes a `Key`, which wraps and unwraps file keys.

See FORMAT.md, "Keys". Knows nothing about blobs, manifests and stores, and does not prompt: callers pass a function for
that. Secrets stay out of messages, reprs and command lines; key files get their final permissions when they are made,
and are never overwritten.
"""

from __future__ import annotations

import codecs
import contextlib
import hashlib
import os
import stat
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from pogfast._engine import (
    is_valid_point,
    public_key,
    random_bytes,
    sealedbox,
    sealedbox_open,
    secretbox,
    secretbox_open,
)
from pogfast.errors import KeyFileError, UsageError, WrongKey
from pogfast.sizes import show_seconds
from pogfast.system.access import trusted_owners, who_can_enter
from pogfast.system.encoding import portable
from pogfast.system.environment import for_child

KEY_SIZE = 32
READ_SIZE = 1 << 20
PASSWORD_SIZE = 1 << 16  # bytes; a file with a longer first line is the wrong one
MAX_PIPED = 1 << 26  # bytes of a keyfile that is not a regular file: /dev/zero has no end
PRINTED = 1 << 24  # bytes that a password command may print
FINGERPRINT_SIZE = 8  # bytes: enough that two keys of one person have different ones
FIELD = 2**255 - 19  # the prime of Curve25519, RFC 7748
PUBLIC, PRIVATE = ".encrypt", ".decrypt"  # the suffixes of the two files of a key pair

# Called with a warning about a key that can be used nevertheless.
Tell = Callable[[str], None]
Kind = Literal["keyfile", "password", "x25519"]


def _silent(text: str) -> None:
    """Ignores warnings."""


@dataclass(frozen=True, repr=False)
class Key:
    """A master secret and its operations. `secret` is S of FORMAT.md; in X25519 mode it is the public key."""

    kind: Kind
    secret: bytes
    private: bytes | None = None

    def __repr__(self) -> str:
        return f"<Key {self.kind}>"

    @property
    def asymmetric(self) -> bool:
        return self.kind == "x25519"

    @property
    def can_open(self) -> bool:
        """False for a public key alone, which encrypts and opens manifest indexes only."""
        return not self.asymmetric or self.private is not None

    @property
    def header_size(self) -> int:
        """Bytes of a wrapped file key."""
        return 80 if self.asymmetric else 72

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits in groups of 4, for people to compare; the same for both keys of a pair.

        It reveals no more about the secret than a blob does: both let an attacker test guesses of a password.
        """
        digits = self.derive("fingerprint")[:FINGERPRINT_SIZE].hex()
        return "-".join(digits[i : i + 4] for i in range(0, len(digits), 4))

    def check_writes(self) -> None:
        """Raises KeyFileError for a key that must not encrypt: its public key is invalid, or not the private key's."""
        if self.asymmetric and not is_public_key(self.secret):
            raise KeyFileError("this is not a public key: no private key belongs to it")
        if self.private is not None and public_key(self.private) != self.secret:
            raise KeyFileError("the two keys are not a pair")

    def derive(self, purpose: str) -> bytes:
        """Derives 32 bytes for `purpose`, which reveal neither the secret nor the bytes for another purpose. Not for
        the name secret, nor anything else in FORMAT.md."""
        return hashlib.blake2b(purpose.encode(), key=self.secret, digest_size=32, person=b"pogfast derive").digest()

    def gears(self) -> bytes:
        """Returns the table by which fastcdc cuts: 256 numbers of 8 bytes. Who has it can recognize files by the sizes
        of their chunks."""
        return hashlib.shake_256(self.derive("fastcdc gear table")).digest(256 * 8)

    def wrap(self, file_key: bytes) -> bytes:
        """Returns the header with the wrapped `file_key`."""
        return sealedbox(self.secret, file_key) if self.asymmetric else secretbox(self.secret, file_key)

    def unwrap(self, header: bytes) -> bytes:
        """Returns the file key in a header. Raises WrongKey."""
        if not self.asymmetric:
            file_key = secretbox_open(self.secret, header)
        elif self.private is None:
            raise WrongKey("a public key cannot decrypt", hint="use --decryption-keyfile")
        else:
            file_key = sealedbox_open(self.secret, self.private, header)
        if file_key is None or len(file_key) != KEY_SIZE:
            raise WrongKey("the header does not unwrap with this key")
        return file_key


def is_public_key(raw: bytes) -> bool:
    """Returns True if 32 bytes can be an X25519 public key; one in 32 random strings can.

    A public key is a multiple of the base point. libsodium can check that for a point of edwards25519, which is the
    same curve in other coordinates: y = (u - 1) / (u + 1), RFC 7748, section 4.1.
    """
    u = int.from_bytes(raw, "little")
    if len(raw) != KEY_SIZE or u >= FIELD - 1:
        return False
    y = (u - 1) * pow(u + 1, -1, FIELD) % FIELD
    return is_valid_point(y.to_bytes(KEY_SIZE, "little"))


def _role(path: str, raw: bytes) -> Literal["public", "private", ""]:
    """Tells which key of a pair a file is: from the other key beside it, else from its name; "" if neither tells.

    A name does not count as a public key's if the bytes cannot be one.
    """
    if len(raw) != KEY_SIZE:
        return ""
    could_be_public = is_public_key(raw)
    for stem in {path.removesuffix(PUBLIC).removesuffix(PRIVATE), os.path.splitext(path)[0]}:
        if could_be_public and (private := _bytes_beside(path, stem + PRIVATE)) and public_key(private) == raw:
            return "public"
        if _bytes_beside(path, stem + PUBLIC) == public_key(raw):
            return "private"
    if path.endswith(PUBLIC) and could_be_public:
        return "public"
    return "private" if path.endswith(PRIVATE) else ""


def _bytes_beside(path: str, other: str) -> bytes | None:
    """Returns the 32 bytes of another key file, None if there is none."""
    if other == path or not os.path.isfile(other):
        return None
    with contextlib.suppress(KeyFileError):
        return _read_raw_key(other)
    return None


def _warn_about_access(path: str, tell: Tell, *, secret: bool) -> None:
    """Warns if other users can read a file with a secret, or replace a key. Directories that they cannot enter protect
    it."""
    try:
        found = os.stat(path)
    except OSError:
        return  # reading it raises the error
    if not stat.S_ISREG(found.st_mode):
        return
    what = "secret file" if secret else "key"
    if found.st_uid not in trusted_owners():
        tell(f"the {what} {path} belongs to another user, who can replace it")
    reach = who_can_enter(path)
    if secret and found.st_mode & (reach * 4):
        tell(f"other users can read the {what} {path}: run chmod 600 {path}")
    if found.st_mode & (reach * 2):
        tell(f"other users can replace the {what} {path}: run chmod go-w {path}")


def from_keyfile(path: str, *, writing: bool = False, tell: Tell = _silent) -> Key:
    """Reads a keyfile: S is its sha256. Raises KeyFileError; with `writing` also for an empty file, which is no secret,
    and for a key of a pair, which others may have."""
    digest, raw = _hash(path)
    if not raw and writing:
        raise KeyFileError(f"the keyfile {path} is empty: everybody has that key", hint="put random bytes into it")
    if len(raw) == KEY_SIZE:
        _check_no_pair(path, raw, writing, tell)
    _warn_about_access(path, tell, secret=True)
    return Key("keyfile", digest)


def _hash(path: str) -> tuple[bytes, bytes]:
    """Returns the sha256 of a file and its first READ_SIZE bytes. Raises KeyFileError."""
    digest, first, size = hashlib.sha256(), b"", 0
    try:
        with open(path, "rb") as file:
            limit = None if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else MAX_PIPED
            while piece := file.read(READ_SIZE):
                digest.update(piece)
                first = first or piece
                size += len(piece)
                if limit is not None and size > limit:
                    raise KeyFileError(f"{path} is not a regular file and has more than {limit:,} bytes: not a key")
    except OSError as error:
        raise KeyFileError(f"cannot read the keyfile {path}: {error.strerror}") from error
    return digest.digest(), first


def _check_no_pair(path: str, raw: bytes, writing: bool, tell: Tell) -> None:
    """Rejects a key of a pair as a keyfile when writing, and warns when reading: old archives stay readable. Raises
    KeyFileError."""
    role = _role(path, raw)
    if role == "public":
        text = f"{path} is the public key of a pair, not a keyfile: whoever has it can read what it encrypts"
        _refuse_or_warn(text, f"--encryption-keyfile {path}", writing, tell)
    elif role == "private":
        text = f"{path} is the private key of a pair, not a keyfile"
        _refuse_or_warn(text, f"--decryption-keyfile {path}", writing, tell)
    elif writing and is_public_key(raw):
        tell(f"{path} may be the public key of a pair: then whoever has it can read what it encrypts as a keyfile")


def _refuse_or_warn(text: str, option: str, writing: bool, tell: Tell) -> None:
    """Raises KeyFileError when writing; warns when reading."""
    if writing:
        raise KeyFileError(text, hint=f"give it as {option}")
    tell(text)


def from_password(password: str, *, writing: bool = False, source: str = "the password") -> Key:
    """Derives a key from a password: S is Argon2id with the parameters of FORMAT.md. Takes 100 MiB of memory and a
    fraction of a second.

    Raises KeyFileError if there is not enough memory; with `writing` also for an empty password. `source` names it in
    messages.
    """
    if writing and not password:
        raise KeyFileError(f"{source} is empty: it protects nothing")
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


def from_password_file(path: str, *, writing: bool = False, tell: Tell = _silent) -> Key:
    """Derives a key from the first line of a file, without its line ending. Raises KeyFileError."""
    _warn_about_access(path, tell, secret=True)
    try:
        with open(path, "rb") as file:
            line = file.readline(PASSWORD_SIZE)
    except OSError as error:
        raise KeyFileError(f"cannot read the password file {path}: {error.strerror}") from error
    if line.startswith(codecs.BOM_UTF8):
        tell(f"the password in {path} begins with a byte order mark, which is part of the password")
    return from_password(_password_in(line, path), writing=writing, source=f"the first line of {path}")


def from_password_command(command: str, *, writing: bool = False, timeout: float | None = None) -> Key:
    """Derives a key from the first line that a program prints. `command` is split as by a shell, but no shell runs.

    The program gets no standard input, which may be the data; its standard error is ours. It is killed after `timeout`
    seconds, as when it asks somebody who is not there. Raises KeyFileError if it cannot be run or fails, UsageError if
    `command` does not parse.
    """
    program, printed = _printed(command, "the password command", timeout)
    password = _password_in(printed.partition(b"\n")[0][:PASSWORD_SIZE], program)
    return from_password(password, writing=writing, source=f"the first line of what {program} printed")


def _printed(command: str, what: str, timeout: float | None = None) -> tuple[str, bytes]:
    """Runs a program that prints a secret. Returns its name and what it printed."""
    import shlex
    import subprocess

    try:
        arguments = shlex.split(command)
    except ValueError as error:
        raise UsageError(f"{what} does not parse: {error}") from error
    if not arguments:
        raise UsageError(f"{what} is empty")
    program = arguments[0]  # not its arguments, which may be as secret as the password
    try:
        with subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env=for_child(credentials=True),  # it may ask a service for the password
        ) as ran:
            try:
                assert ran.stdout is not None
                ends = None if timeout is None else time.monotonic() + timeout
                printed = _read_until(ran.stdout.fileno(), ends)
                if len(printed) == PRINTED:
                    raise KeyFileError(f"{what} {program} prints {PRINTED:,} bytes or more")
                ran.wait(None if ends is None else max(0.0, ends - time.monotonic()))
            except (TimeoutError, subprocess.TimeoutExpired):
                ran.kill()
                raise KeyFileError(f"{what} {program} took longer than {show_seconds(timeout or 0)}") from None
            except BaseException:
                ran.kill()
                raise
    except (OSError, ValueError) as error:  # ValueError: a NUL in it
        reason = error.strerror if isinstance(error, OSError) else error
        raise KeyFileError(f"cannot run {what} {program}: {reason}") from error
    if ran.returncode < 0:
        raise KeyFileError(f"{what} {program} was killed by signal {-ran.returncode}")
    if ran.returncode:
        raise KeyFileError(f"{what} {program} failed: exit status {ran.returncode}")
    return program, printed


def _read_until(pipe: int, ends: float | None) -> bytes:
    """Returns what comes through a pipe until it is closed, at most PRINTED bytes. Raises TimeoutError if it is not
    closed when the monotonic clock says `ends`."""
    import select

    data = b""
    while len(data) < PRINTED:
        if ends is not None and not select.select([pipe], [], [], max(0.0, ends - time.monotonic()))[0]:
            raise TimeoutError
        part = os.read(pipe, PRINTED - len(data))
        if not part:
            break
        data += part
    return data


def _password_in(line: bytes, source: str) -> str:
    if len(line) >= PASSWORD_SIZE:
        raise KeyFileError(f"{source} gives no password: its first line has {PASSWORD_SIZE} bytes or more")
    return line.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8", "surrogateescape")


def from_encryption_keyfile(path: str, *, tell: Tell = _silent) -> Key:
    """Reads a public key, which encrypts and opens manifest indexes. Raises KeyFileError if it is not one."""
    raw = _read_raw_key(path)
    if _role(path, raw) == "private":
        text = f"{path} is the private key of a pair: nothing could open what is encrypted to it"
        raise KeyFileError(text, hint=f"encrypt to the public key, NAME{PUBLIC}, or give --decryption-keyfile {path}")
    if not is_public_key(raw):
        text = f"{path} is not a public key: no private key belongs to it"
        raise KeyFileError(text, hint=f"pogfast keygen makes NAME{PUBLIC}; a keyfile is for --keyfile")
    _warn_about_access(path, tell, secret=False)
    return Key("x25519", raw)


def from_decryption_keyfile(path: str, *, writing: bool = False, tell: Tell = _silent) -> Key:
    """Reads a private key and derives the public one. Raises KeyFileError; with `writing` also for a public key, which
    others have."""
    private = _read_raw_key(path)
    role = _role(path, private)
    if role == "public":
        text = f"{path} is the public key of a pair, not the private one"
        if writing:
            text += ": whoever has it could read what is encrypted with it"
        _refuse_or_warn(text, f"--encryption-keyfile {path}", writing, tell)
    elif writing and not role and is_public_key(private):
        tell(f"{path} may be a public key: then whoever has it can read what is encrypted with it as a private one")
    _warn_about_access(path, tell, secret=True)
    return Key("x25519", public_key(private), private)


def check_reference(word: str) -> None:
    """Raises UsageError unless a word says where a key is: file:PATH or command:COMMAND."""
    kind, _, rest = word.partition(":")
    if kind not in ("file", "command") or not rest:
        raise UsageError(f"{word}: a key is at file:PATH, or printed by command:COMMAND")


def from_reference(word: str, kind: Kind) -> Key:
    """Reads a key of this kind, the private one of a pair, from file:PATH, or from what command:COMMAND prints: a
    password's line, or the bytes of a key's file. Raises KeyFileError and UsageError."""
    check_reference(word)
    where, _, rest = word.partition(":")
    if where == "file":
        readers = {"keyfile": from_keyfile, "password": from_password_file, "x25519": from_decryption_keyfile}
        return readers[kind](rest)
    if kind == "password":
        return from_password_command(rest)
    program, printed = _printed(rest, "the key command")
    if kind == "keyfile":
        return Key("keyfile", hashlib.sha256(printed).digest())
    if len(printed) != KEY_SIZE or not any(printed):
        raise KeyFileError(f"the key command {program} does not print the {KEY_SIZE} bytes of a private key")
    return Key("x25519", public_key(printed), printed)


def _read_raw_key(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            raw = file.read(KEY_SIZE + 1)
    except OSError as error:
        raise KeyFileError(f"cannot read the keyfile {path}: {error.strerror}") from error
    if len(raw) != KEY_SIZE:
        raise KeyFileError(f"{path} is not a key of a pair: it must have {KEY_SIZE} bytes")
    if not any(raw):
        raise KeyFileError(f"{path} is not a key of a pair: it is all zeros", hint="a copy that was cut short, perhaps")
    return raw


def from_options(
    *,
    keyfile: str | None = None,
    encryption_keyfile: str | None = None,
    decryption_keyfile: str | None = None,
    password_file: str | None = None,
    password_command: str | None = None,
    environ: Mapping[str, str],
    ask: Callable[[], str],
    writing: bool,
    tell: Tell = _silent,
) -> Key:
    """Returns the key of a command line: from its one option, else a variable POGFAST_... of `environ`, else a
    password.

    If both keys of a pair are in `environ`, `writing` takes the public one and reading the private one. `ask` prompts
    for the password, `tell` is called with warnings about key files. Raises UsageError if more than one key is given,
    and KeyFileError.
    """
    options = {
        "keyfile": keyfile,
        "encryption-keyfile": encryption_keyfile,
        "decryption-keyfile": decryption_keyfile,
        "password-file": password_file,
        "password-command": password_command,
    }
    given = {name: value for name, value in options.items() if value is not None}
    if len(given) > 1:
        raise UsageError(f"one key at a time: {' and '.join(f'--{name}' for name in given)} are given")
    given = given or _from_environment([*options, "password"], environ, writing)
    name, value = given.popitem() if given else ("", "")
    match name:
        case "keyfile":
            return from_keyfile(value, writing=writing, tell=tell)
        case "encryption-keyfile":
            return from_encryption_keyfile(value, tell=tell)
        case "decryption-keyfile":
            return from_decryption_keyfile(value, writing=writing, tell=tell)
        case "password-file":
            return from_password_file(value, writing=writing, tell=tell)
        case "password-command":
            return from_password_command(value, writing=writing)
    return from_password(portable(value) if name else ask(), writing=writing)


def _from_environment(names: list[str], environ: Mapping[str, str], writing: bool) -> dict[str, str]:
    """Returns the one of `names` that is set, and its value. An empty variable is not set."""
    variables = {name: "POGFAST_" + name.upper().replace("-", "_") for name in names}
    given = {name: environ[variable] for name, variable in variables.items() if environ.get(variable)}
    if given.keys() == {"encryption-keyfile", "decryption-keyfile"}:
        del given["decryption-keyfile" if writing else "encryption-keyfile"]
    if len(given) > 1:
        raise UsageError(f"one key at a time: {' and '.join(variables[name] for name in given)} are set")
    return given


class Description(NamedTuple):
    """The kind of a key file, and for each option that accepts it the fingerprint of the key."""

    kind: str
    fingerprints: dict[str, str]


def describe_file(path: str) -> Description:
    """Describes a key file. Whether 32 bytes are the private key of a pair or a keyfile can only be told from the other
    key beside it or from its name. Raises KeyFileError if it is no key at all.
    """
    digest, raw = _hash(path)
    if not raw:
        raise KeyFileError(f"the keyfile {path} is empty: everybody has that key")
    able = {"keyfile": Key("keyfile", digest).fingerprint}
    if len(raw) != KEY_SIZE or not any(raw):
        return Description("a keyfile", able)
    able["decryption-keyfile"] = Key("x25519", public_key(raw), raw).fingerprint
    if is_public_key(raw):
        able["encryption-keyfile"] = Key("x25519", raw).fingerprint
    kind, option = {
        "public": ("the public key of a pair", "encryption-keyfile"),
        "private": ("the private key of a pair", "decryption-keyfile"),
        "": ("a keyfile of 32 bytes, or a key of a pair", ""),
    }[_role(path, raw)]
    return Description(kind, {option: able[option]} if option else able)


def create_symmetric(path: str) -> None:
    """Makes a keyfile of 32 random bytes, mode 0600. Raises KeyFileError if it exists or cannot be made."""
    _check_name(path)
    _refuse_existing(path)
    _write_new(path, _random_secret(), 0o600)


def _random_secret() -> bytes:
    """Returns 32 random bytes that cannot be mistaken for a public key, as 31 of 32 strings cannot."""
    while is_public_key(raw := random_bytes(KEY_SIZE)):
        pass
    return raw


def create_pair(name: str = "pki", directory: str = ".") -> tuple[str, str]:
    """Makes NAME.encrypt (public, mode 0644) and NAME.decrypt (private, 0600) and returns their paths.

    Raises KeyFileError if either exists or cannot be made; then neither was.
    """
    _check_name(os.path.join(directory, name))
    encrypt, decrypt = (os.path.join(directory, f"{name}.{kind}") for kind in ("encrypt", "decrypt"))
    for path in (encrypt, decrypt):
        _refuse_existing(path)
    private = _random_secret()
    _write_new(decrypt, private, 0o600)
    try:
        _write_new(encrypt, public_key(private), 0o644)
    except BaseException:  # Ctrl-C too
        with contextlib.suppress(OSError):
            os.unlink(decrypt)
        raise
    return encrypt, decrypt


def _check_name(path: str) -> None:
    if os.path.basename(path) in ("", ".", ".."):
        raise UsageError(f"{path or 'an empty name'} is not a name for a key", hint="write pogfast keygen mine")


def _refuse_existing(path: str) -> None:
    """Raises KeyFileError early, with a hint; O_EXCL and link prevent the race."""
    if os.path.lexists(path):
        raise KeyFileError(f"{path} exists already and is not overwritten", hint="move it away, or work elsewhere")


def _sync_directory(path: str) -> None:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _write_new(path: str, data: bytes, mode: int) -> None:
    """Makes a file atomically and durably: after a power cut half a key would look like a key. Raises KeyFileError if
    the name is taken or the file cannot be made."""
    temporary = f"{path}.{random_bytes(8).hex()}.tmp"
    try:
        try:
            with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as out:
                os.fchmod(out.fileno(), mode)  # the umask may remove more than intended
                out.write(data)
                out.flush()
                os.fsync(out.fileno())
            _rename_new(temporary, path)
        finally:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
    except OSError as error:
        raise KeyFileError(f"cannot make {path}: {error.strerror}") from error
    try:
        _sync_directory(os.path.dirname(path) or ".")  # else a power cut could lose the key of an archive
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(path)
        if isinstance(error, OSError):
            raise KeyFileError(f"cannot write {path}: {error.strerror}") from error
        raise


def _rename_new(temporary: str, path: str) -> None:
    """Gives a temporary file its name, unless the name is taken. Raises OSError."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:  # the file system has no hard links
        with open(path, "xb"):
            pass
        os.rename(temporary, path)

"""Keys: the three modes of FORMAT.md, files that are never overwritten, secrets that are never shown."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import argon2.exceptions
import argon2.low_level
import nacl.public
import pytest

from kit import oracle
from pogfast import keys
from pogfast.errors import KeyFileError, UsageError, WrongKey

PRIVATE = bytes(range(32))
# X25519 has few points of low order (RFC 7748, section 6.1); these encodings, and all with the top bit set, are they.
P = 2**255 - 19
LOW_ORDER = [
    *(0, 1, P - 1, P, P + 1),
    0x00B8495F16056286FDB1329CEB8D09DA6AC49FF1FAE35616AEB8413B7C7AEBE0,
    0x57119FD0DD4E22D8868E1C58C45C44045BEF839C55B1D0B1248C50A3BC959C5F,
]


@pytest.fixture
def pair(tmp_path: Path) -> tuple[str, str]:
    return keys.create_pair("pair", str(tmp_path))


@pytest.mark.parametrize("content", [b"x", b"\n", bytes(range(32)), bytes(range(256)) * 5000])
def test_a_keyfile_is_hashed(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "key").write_bytes(content)
    key = keys.from_keyfile(str(tmp_path / "key"), writing=True)
    assert key.secret == hashlib.sha256(content).digest()
    assert (key.asymmetric, key.can_open, key.header_size) == (False, True, 72)


def test_an_empty_keyfile_decrypts_but_does_not_encrypt(tmp_path: Path) -> None:
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
def test_a_pair_overwrites_nothing_and_is_never_half_made(tmp_path: Path, kind: str) -> None:
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
def test_half_a_pair_is_deleted(
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


def test_a_password_without_enough_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def hash_secret_raw(*arguments: object, **more: object) -> bytes:
        raise argon2.exceptions.HashingError("Memory allocation error")

    monkeypatch.setattr(argon2.low_level, "hash_secret_raw", hash_secret_raw)
    with pytest.raises(KeyFileError, match="Memory allocation error") as caught:
        keys.from_password("hunter2")
    assert "hunter2" not in f"{caught.value} {caught.value.hint}"


def test_a_password_of_any_bytes() -> None:
    assert keys.from_password("pässwörd").secret == keys.from_password("pässwörd").secret
    assert keys.from_password(os.fsdecode(b"\xff")).secret != keys.from_password("ÿ").secret


@pytest.mark.parametrize("top", [0, 1 << 255])
@pytest.mark.parametrize("point", LOW_ORDER)
def test_a_public_key_that_protects_nothing_is_no_key(tmp_path: Path, point: int, top: int) -> None:
    path = tmp_path / "pki.encrypt"
    path.write_bytes((point | top).to_bytes(32, "little"))
    with pytest.raises(KeyFileError, match=r"pki\.encrypt is not"):
        keys.from_encryption_keyfile(str(path))


def test_a_private_key_of_zeros_is_no_key(tmp_path: Path) -> None:
    (tmp_path / "pki.decrypt").write_bytes(bytes(32))
    with pytest.raises(KeyFileError, match="all zeros"):
        keys.from_decryption_keyfile(str(tmp_path / "pki.decrypt"))


@pytest.fixture
def fast_argon2(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaces Argon2id, which is tested elsewhere."""

    def hash_secret_raw(secret: bytes, salt: bytes, **more: object) -> bytes:
        return hashlib.sha256(b"argon2" + secret).digest()

    monkeypatch.setattr(argon2.low_level, "hash_secret_raw", hash_secret_raw)


FIRST_LINES = [
    (b"hunter2", "hunter2"),
    (b"hunter2\n", "hunter2"),
    (b"hunter2\r\nrest\n", "hunter2"),
    (b"hunter2\nrest", "hunter2"),
    (b" hunter 2 \t\n", " hunter 2 \t"),
    (b"\nhunter2\n", ""),
    (b"", ""),
    ("pässwörd\n".encode(), "pässwörd"),
    (b"\xff\x00\n", "\udcff\0"),
    (b"x" * ((1 << 16) - 2) + b"\n", "x" * ((1 << 16) - 2)),
]


@pytest.mark.usefixtures("fast_argon2")
@pytest.mark.parametrize(("content", "password"), FIRST_LINES)
def test_the_password_is_the_first_line(tmp_path: Path, content: bytes, password: str) -> None:
    path = tmp_path / "pass word"
    path.write_bytes(content)
    expected = keys.from_password(password)
    assert expected.kind == "password"
    assert keys.from_password_file(str(path)) == expected
    assert keys.from_password_command(f"cat {shlex.quote(str(path))}") == expected
    if password:
        assert keys.from_password_file(str(path), writing=True) == expected
        return
    with pytest.raises(KeyFileError, match="pass word is empty"):
        keys.from_password_file(str(path), writing=True)
    with pytest.raises(KeyFileError, match="printed is empty"):
        keys.from_password_command(f"cat {shlex.quote(str(path))}", writing=True)


def test_a_first_line_without_end_is_no_password(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="/dev/zero gives no password"):
        keys.from_password_file("/dev/zero")
    (tmp_path / "long").write_bytes(b"x" * (1 << 16))
    with pytest.raises(KeyFileError, match="cat gives no password"):
        keys.from_password_command(f"cat {tmp_path}/long")


def test_a_password_command_that_never_ends_is_ended() -> None:
    """All its output was kept, until memory ran out."""
    with pytest.raises(KeyFileError, match="the password command yes prints 16,777,216 bytes or more"):
        keys.from_password_command("yes")


def test_a_password_file_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(KeyFileError, match=f"cannot read the password file {path}: "):
            keys.from_password_file(str(path))


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("sh -c 'exit 7' hunter2", "command sh failed: exit status 7"),
        ("sh -c 'echo hunter2; exit 1'", "command sh failed: exit status 1"),
        ("sh -c 'kill -9 $$'", "command sh was killed by signal 9"),
        ("/no/such/program hunter2", "cannot run the password command /no/such/program: No such file"),
        ("/ hunter2", "cannot run the password command /: Permission denied"),
        ("echo 'a\0b'", "cannot run the password command echo: embedded null byte"),
    ],
)
def test_a_password_command_that_fails(command: str, said: str) -> None:
    with pytest.raises(KeyFileError, match=re.escape(said)) as caught:
        keys.from_password_command(command)
    assert "hunter2" not in f"{caught.value} {caught.value.hint}"


@pytest.mark.parametrize(("command", "said"), [("echo 'x", "No closing quotation"), ("", "empty"), (" \t", "empty")])
def test_a_password_command_that_does_not_parse(command: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        keys.from_password_command(command)


@pytest.mark.usefixtures("fast_argon2")
def test_a_password_command_runs_without_a_shell() -> None:
    assert keys.from_password_command("echo $HOME '; exit 1'") == keys.from_password("$HOME ; exit 1")


def test_a_password_command_leaves_standard_input_and_error_alone() -> None:
    """Standard input may be the data for the backup; the command's errors are for the user."""
    program = (
        "import sys; from pogfast import keys; keys.from_password = lambda password, **more: print(repr(password))\n"
        "keys.from_password_command('sh -c \"cat; echo complaint >&2\"')\nprint(sys.stdin.read())"
    )
    ran = subprocess.run([sys.executable, "-c", program], input=b"data", capture_output=True, check=True)
    assert (ran.stdout, ran.stderr) == (b"''\ndata\n", b"complaint\n")


def test_a_symmetric_key_is_32_bytes_that_nobody_else_reads(tmp_path: Path) -> None:
    before = os.umask(0o777)
    try:
        keys.create_symmetric(str(tmp_path / "first"))
    finally:
        os.umask(before)
    keys.create_symmetric(str(tmp_path / "second"))
    first, second = (tmp_path / "first").read_bytes(), (tmp_path / "second").read_bytes()
    assert (len(first), len(second), first != second) == (32, 32, True)
    assert stat.S_IMODE(os.stat(tmp_path / "first").st_mode) == 0o600
    assert keys.from_keyfile(str(tmp_path / "first"), writing=True).secret == hashlib.sha256(first).digest()


def test_a_symmetric_key_overwrites_nothing(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b"precious")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for name in ("key", "link"):
        with pytest.raises(KeyFileError, match="exists already"):
            keys.create_symmetric(str(tmp_path / name))
    with pytest.raises(KeyFileError, match="cannot make"):
        keys.create_symmetric(str(tmp_path / "missing" / "key"))
    assert (tmp_path / "key").read_bytes() == b"precious"
    assert not (tmp_path / "elsewhere").exists()


def test_a_symmetric_key_loses_a_race_for_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "key").write_bytes(b"precious")
    monkeypatch.setattr(os.path, "lexists", lambda path: False)
    with pytest.raises(KeyFileError, match="cannot make"):
        keys.create_symmetric(str(tmp_path / "key"))
    assert (tmp_path / "key").read_bytes() == b"precious"


def test_a_fingerprint_tells_keys_apart_and_nothing_else(tmp_path: Path, pair: tuple[str, str]) -> None:
    public, private = keys.from_encryption_keyfile(pair[0]), keys.from_decryption_keyfile(pair[1])
    other = keys.from_keyfile(pair[0])
    assert re.fullmatch(r"[0-9a-f]{4}(-[0-9a-f]{4}){3}", public.fingerprint)
    assert public.fingerprint == private.fingerprint != other.fingerprint
    for key in (public, private, other):
        digits = key.fingerprint.replace("-", "")
        known = [key.secret, hashlib.sha256(key.secret).digest(), hashlib.blake2b(key.secret).digest()]
        assert not any(digits in data.hex() for data in [*known, key.private or b"", key.derive("another purpose")])


def test_derived_bytes_depend_on_key_and_purpose() -> None:
    first, second = keys.Key("keyfile", b"1" * 32), keys.Key("keyfile", b"2" * 32)
    derived = {key.derive(purpose) for key in (first, second) for purpose in ("a", "b", "ab", "")}
    assert len(derived) == 8
    assert {len(data) for data in derived} == {32}


def test_a_key_file_is_described_as_far_as_possible(tmp_path: Path, pair: tuple[str, str]) -> None:
    public = keys.from_encryption_keyfile(pair[0]).fingerprint
    described = [keys.describe_file(path) for path in pair]
    assert [kind.split(",")[0] for kind, _ in described] == [
        "the public key of a pair",
        "the private key of a pair",
    ]
    assert [found for _, found in described] == [{"encryption-keyfile": public}, {"decryption-keyfile": public}]

    renamed = tmp_path / "renamed"
    os.rename(pair[1], renamed)
    kind, found = keys.describe_file(str(renamed))
    assert kind == "a keyfile of 32 bytes, or a key of a pair"
    assert found.keys() == {"keyfile", "decryption-keyfile"}, "no private key that we make can be a public one"
    assert found["decryption-keyfile"] == public
    assert found["keyfile"] == keys.from_keyfile(str(renamed)).fingerprint


@pytest.mark.parametrize("content", [b"x" * 31, b"x" * 33, bytes(32), b"p"])
def test_other_files_are_keyfiles_whatever_their_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "some.encrypt"
    path.write_bytes(content)
    assert keys.describe_file(str(path)) == ("a keyfile", {"keyfile": keys.from_keyfile(str(path)).fingerprint})


def test_a_file_that_is_no_key_is_not_described(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    for name in ("empty", "missing", "."):
        with pytest.raises(KeyFileError):
            keys.describe_file(str(tmp_path / name))


NAMES = ["keyfile", "encryption_keyfile", "decryption_keyfile", "password_file", "password_command", "password"]


@pytest.fixture
def ways(tmp_path: Path, pair: tuple[str, str], fast_argon2: None) -> dict[str, tuple[str, keys.Key]]:
    """Each way to name a key: a value, and the key that it means."""
    (tmp_path / "key").write_bytes(b"key")
    (tmp_path / "password").write_bytes(b"from a file\n")
    return {
        "keyfile": (str(tmp_path / "key"), keys.from_keyfile(str(tmp_path / "key"))),
        "encryption_keyfile": (pair[0], keys.from_encryption_keyfile(pair[0])),
        "decryption_keyfile": (pair[1], keys.from_decryption_keyfile(pair[1])),
        "password_file": (str(tmp_path / "password"), keys.from_password("from a file")),
        "password_command": ("echo from a program", keys.from_password("from a program")),
        "password": ("from the environment", keys.from_password("from the environment")),
    }


def never() -> str:
    raise AssertionError("nobody is asked where a key was given")


Ways = dict[str, tuple[str, keys.Key]]


@pytest.mark.parametrize("writing", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_a_key_comes_from_an_option_or_a_variable(ways: Ways, name: str, writing: bool) -> None:
    value, key = ways[name]
    variable = {f"POGFAST_{name.upper()}": value}
    assert keys.from_options(environ=variable, ask=never, writing=writing) == key
    if name != "password":
        others = {f"POGFAST_{other.upper()}": ways[other][0] for other in NAMES}
        assert keys.from_options(**{name: value}, environ=others, ask=never, writing=writing) == key


@pytest.mark.parametrize("writing", [False, True])
def test_a_password_is_prompted_for_without_a_key_option(ways: Ways, writing: bool) -> None:
    environ = {"POGFAST_KEYFILE": "", "POGFAST_PASSWORD": "", "POGFAST_CACHE_DIR": "/x", "KEYFILE": "x"}
    key = keys.from_options(environ=environ, ask=lambda: "asked for", writing=writing)
    assert key == keys.from_password("asked for")


@pytest.mark.parametrize("first", NAMES)
@pytest.mark.parametrize("second", NAMES)
def test_two_keys_are_refused(ways: Ways, first: str, second: str) -> None:
    if first == second:
        return
    environ = {f"POGFAST_{name.upper()}": ways[name][0] for name in (first, second)}
    if {first, second} == {"encryption_keyfile", "decryption_keyfile"}:
        for writing, name in ((True, "encryption_keyfile"), (False, "decryption_keyfile")):
            assert keys.from_options(environ=environ, ask=never, writing=writing) == ways[name][1]
    else:
        with pytest.raises(UsageError, match=f"POGFAST_{first.upper()}.* set"):
            keys.from_options(environ=environ, ask=never, writing=True)
    if "password" not in (first, second):
        with pytest.raises(UsageError, match=f"--{first.replace('_', '-')} .*are given"):
            keys.from_options(**{name: ways[name][0] for name in (first, second)}, environ={}, ask=never, writing=True)


def test_an_empty_option_counts_as_given() -> None:
    with pytest.raises(KeyFileError, match="cannot read the keyfile"):
        keys.from_options(keyfile="", environ={"POGFAST_PASSWORD": "x"}, ask=never, writing=False)


def test_empty_secrets_decrypt_but_do_not_encrypt(tmp_path: Path, ways: Ways) -> None:
    (tmp_path / "empty").touch()
    empty = str(tmp_path / "empty")
    calls: list[Callable[[bool], keys.Key]] = [
        lambda writing: keys.from_options(keyfile=empty, environ={}, ask=never, writing=writing),
        lambda writing: keys.from_options(password_file=empty, environ={}, ask=never, writing=writing),
        lambda writing: keys.from_options(password_command="true", environ={}, ask=never, writing=writing),
        lambda writing: keys.from_options(environ={}, ask=str, writing=writing),
    ]
    for call in calls:
        assert len(call(False).secret) == 32
        with pytest.raises(KeyFileError, match="empty"):
            call(True)

"""`create --pad`: blobs whose sizes reveal less, which every reader still reads and whose names still match."""

from __future__ import annotations

import math
import os
import random
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kit import oracle
from kit.commands import Ran, Runner
from pogfast import keys, manifest
from pogfast._engine import open_blob, seal_blob
from pogfast.errors import CorruptBlob, WrongBlob

SECRET = os.urandom(32)
KEY = keys.Key("keyfile", SECRET)
HEAD = 72 + 40  # bytes before a payload
CHUNK = 100_000


def padme(length: int) -> int:
    """The paper's own formula (PURBs, figure 3), with floating point logarithms."""
    exponent = math.floor(math.log2(length))
    digits = math.floor(math.log2(exponent)) + 1
    mask = (1 << (exponent - digits)) - 1
    return (length + mask) & ~mask


# ---- the kernel ------------------------------------------------------------------------------------------------------


@given(st.one_of(st.integers(0, 600), st.integers(0, 300_000)), st.booleans())
@example(0, False)
@example(1 << 16, True)
def test_a_padded_chunk_comes_back_under_the_same_name(length: int, random_bytes: bool) -> None:
    chunk = os.urandom(length) if random_bytes else (oracle.PADDING * (length // 4 + 1))[:length]
    name, blob = seal_blob(SECRET, False, chunk, 1 << 40, True)
    assert name == seal_blob(SECRET, False, chunk, 1 << 40)[0]
    assert open_blob(SECRET, None, blob, name) == chunk
    payload = oracle.OracleKey(SECRET).open(blob)
    assert len(payload) == padme(length + 16)
    filler = len(payload) - length - 8
    assert payload[length:] == (
        oracle.PADDING + filler.to_bytes(4, "little") + bytes(filler - 8) + length.to_bytes(8, "little")
    )
    with pytest.raises(WrongBlob):
        open_blob(SECRET, None, blob, oracle.OracleKey(SECRET).name(b"another chunk"))
    with pytest.raises(CorruptBlob):
        open_blob(SECRET, None, blob[:-1], name)


@pytest.mark.parametrize("behind", [16, 17, 300, 70_000])
@pytest.mark.parametrize("length", [0, 5, 31, 32, 95, 96, 1000, 200_000])
def test_any_amount_of_padding_is_read(length: int, behind: int) -> None:
    """Another writer may hide more. One bit of it turned, and the name fits nothing."""
    key, chunk = oracle.OracleKey(SECRET), os.urandom(length)
    padding = oracle.PADDING + (behind - 8).to_bytes(4, "little") + bytes(behind - 16) + length.to_bytes(8, "little")
    assert open_blob(SECRET, None, key.seal(chunk + padding), key.name(chunk)) == chunk
    for at in (0, 4, behind - 8, behind - 1):
        wrong = bytearray(padding)
        wrong[at] ^= 1
        if length % 256 == behind - 8 and at >= 8:
            continue  # it is padding that hides nothing, whose content may be anything
        with pytest.raises(WrongBlob):
            open_blob(SECRET, None, key.seal(chunk + bytes(wrong)), key.name(chunk))


@given(st.integers(0, 100_000), st.integers(1, 100_000))
@example(8, 1)
def test_which_sizes_one_chunk_can_have(length: int, longer: int) -> None:
    def sizes(length: int) -> list[int]:
        return [HEAD + size for size in (length, length + 8 + length % 256, padme(length + 16))]

    another = length + length // 8 + 600 + longer  # beyond what any padding takes
    for one in sizes(length):
        assert all(manifest.can_be_padded_to(one, size, KEY) for size in sizes(length))
        assert not any(manifest.can_be_padded_to(one, size, KEY) for size in sizes(another))
        assert not any(manifest.can_be_padded_to(size, one, KEY) for size in sizes(another))


# ---- what a user has of it -------------------------------------------------------------------------------------------


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """Files of many lengths, which compress or not, alone in their chunk or in several."""
    (tmp_path / "key").write_bytes(b"a key")
    (tmp_path / "key").chmod(0o600)
    tree = tmp_path / "tree"
    tree.mkdir()
    numbers = random.Random(1)
    for length in (0, 1, 1000, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 650_000):
        (tree / f"random-{length}").write_bytes(numbers.randbytes(length))
        words = " ".join(f"word{numbers.randrange(10**6)}" for _ in range(length // 8 + 1))
        (tree / f"text-{length}").write_text(words[:length])
    return tmp_path


KEYS = {"key": ["--keyfile", "../key"], "pair": ["--decryption-keyfile", "../pair.decrypt"]}


def create(pogfast: Runner, work: Path, *words: str, key: str = "key") -> Ran:
    ran = pogfast("create", ".", "--to", "../store", "--chunk-size", "100kB", *KEYS[key], *words, cwd=work / "tree")
    assert ran.code == 0, ran.err
    return ran


def sizes(work: Path, key: str = "key") -> dict[str, int]:
    """Payloads by their blobs' names."""
    head = HEAD + 8 * (key == "pair")
    return {path.name: path.stat().st_size - head for path in (work / "store" / "data").rglob("*=")}


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.mark.parametrize("layout", ["frames", "stream"])
@pytest.mark.parametrize("key", ["key", "pair"])
def test_pogcli_and_we_restore_padded_archives(
    pogfast: Runner, pogcli: Runner, work: Path, layout: str, key: str
) -> None:
    assert pogfast("keygen", "pair", cwd=work).code == 0
    archive = create(pogfast, work, "--pad", "--layout", layout, key=key).lines[-1]
    found = sizes(work, key)
    full = {CHUNK} if layout == "stream" else set()  # all of these have one size anyway
    assert all(size == padme(size) or size in full for size in found.values())
    (work / "ours").mkdir()
    (work / "theirs").mkdir()
    (work / "theirs" / "data").symlink_to(work / "store" / "data")
    assert pogfast("check", "../store", "--read-data", *KEYS[key], cwd=work / "ours").code == 0
    assert pogfast("restore", "../store/latest", "--into", ".", *KEYS[key], cwd=work / "ours").code == 0
    assert contents(work / "ours") == contents(work / "tree")
    options = [f"{option}={file}" for option, file in zip(KEYS[key][::2], KEYS[key][1::2], strict=True)]
    done = pogcli(*options, "--decrypt", f"local:../store/{archive}", cwd=work / "theirs")
    assert done.code == 0, done.err
    (work / "theirs" / "data").unlink()
    assert contents(work / "theirs") == contents(work / "tree")


@pytest.mark.parametrize("before", [[], ["--pad"]], ids=["plain", "padded"])
def test_padded_and_other_runs_share_their_blobs(pogfast: Runner, work: Path, before: list[str]) -> None:
    """Only --force stores in the other form what is there, and check takes either."""
    after = [] if before else ["--pad"]
    create(pogfast, work, *before)
    first = sizes(work)
    ran = create(pogfast, work, *after, "--no-cache", "-v")
    assert "stored   0 B new in 0 blobs" in ran.err
    ran = create(pogfast, work, *after)
    ran = create(pogfast, work, *after)
    assert "16 unchanged" in ran.err, "the cache knows how long the blobs are that are there"
    assert sizes(work) == first
    create(pogfast, work, *after, "--force")
    assert sizes(work).keys() == first.keys()
    assert sizes(work) != first
    assert pogfast("check", "store", "--keyfile", "key").code == 0
    assert pogfast("check", "store", "--keyfile", "key", "--read-data").code == 0


def test_a_padded_blob_that_was_cut_is_found(pogfast: Runner, work: Path) -> None:
    """By its size alone beyond the 1/32 that padding takes, and by reading within that."""
    create(pogfast, work, "--pad")
    largest = max((work / "store" / "data").rglob("*="), key=lambda path: path.stat().st_size)
    whole = largest.read_bytes()
    largest.write_bytes(whole[: len(whole) * 15 // 16])
    assert pogfast("check", "store", "--keyfile", "key").code == 4
    create(pogfast, work, "--pad", "--no-cache")
    assert len(largest.read_bytes()) == len(whole), "it is stored anew"
    largest.write_bytes(whole[:-100])
    assert pogfast("check", "store", "--keyfile", "key", "--read-data").code == 4


def test_a_profile_can_say_it(pogfast: Runner, work: Path) -> None:
    (work / "hidden.toml").write_text("pad = true\n")
    create(pogfast, work, "--profile", str(work / "hidden.toml"))
    assert all(size == padme(size) for size in sizes(work).values())

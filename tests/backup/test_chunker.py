"""Content-defined chunking: compared with a slow implementation, pinned cut points, and as users see it."""

from __future__ import annotations

import hashlib
import json
import os
import random
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.commands import Runner
from kit.shelf import SECRET, Shelf, content, file_of, seal, text
from pogfast import keys
from pogfast._engine import Known, Sealer, cut
from pogfast.backup import Options
from pogfast.backup.chunker import Chunker
from pogfast.errors import UsageError

TABLE = hashlib.shake_256(b"a table").digest(2048)
SIZES = (100, 700, 5000)  # least, mean, most


def slow_cut(data: bytes, least: int, mean: int, most: int) -> list[int]:
    """FORMAT.md's rule, a byte at a time: each hash from its 64 bytes."""
    gear = [int.from_bytes(TABLE[8 * i : 8 * i + 8], "little") for i in range(256)]
    gear[0] = gear[0] >> 1 | 1
    top = 2**64 - 1
    sizes = []
    while data:
        length = min(most, len(data))
        for end in range(least, length):
            window = sum(gear[byte] << 63 - i for i, byte in enumerate(data[end - 64 : end])) & top
            if window < (top // mean // 4 if end <= mean else top // mean * 4):
                length = end
                break
        sizes.append(length)
        data = data[length:]
    return sizes


def fast_cut(data: bytes, least: int = SIZES[0], mean: int = SIZES[1], most: int = SIZES[2]) -> list[int]:
    return cut(data, most, (least, mean, TABLE))


def mixed(seed: int, length: int) -> bytes:
    """Noise, words, and runs of one byte, as files have them."""
    source = random.Random(seed)
    data = b""
    while len(data) < length:
        kind, n = source.randrange(4), source.randrange(1, 900)
        data += [source.randbytes(n), bytes(n), bytes([source.randrange(256)]) * n, b"some words " * (n // 11)][kind]
    return data[:length]


@given(seed=st.integers(0, 2**32), length=st.integers(0, 12_000))
def test_cuts_are_those_of_the_slow_twin(seed: int, length: int) -> None:
    data = mixed(seed, length)
    assert fast_cut(data) == slow_cut(data, *SIZES)


@pytest.mark.parametrize("length", [0, 1, 63, 64, 65, 99, 100, 101, 699, 700, 701, 4999, 5000, 5001, 10_000])
def test_cuts_beside_each_boundary(length: int) -> None:
    for seed in range(5):
        data = random.Random(seed).randbytes(length)
        assert fast_cut(data) == slow_cut(data, *SIZES)
    assert fast_cut(bytes(length)) == [min(5000, length - at) for at in range(0, length, 5000)], "zeros are not cut"


def test_cuts_are_pinned() -> None:
    """Changed cut points would make every user store everything again."""
    data = hashlib.shake_256(b"data").digest(20_000)
    assert fast_cut(data) == PINNED
    assert fast_cut(data, 64, 64, 64) == [64] * 312 + [32]


PINNED = [1639, 978, 276, 1197, 281, 744, 714, 810, 1138, 822, 968, 1056, 776, 780, 703, 433, 893, 878, 717, 165]
PINNED += [808, 180, 1348, 287, 746, 663]


def test_the_mean_is_about_what_was_asked_for() -> None:
    data = random.Random(1).randbytes(8_000_000)
    sizes = cut(data, 40_000, (2_500, 10_000, TABLE))
    assert 8_000 < len(data) / len(sizes) < 13_000
    assert min(sizes[:-1]) >= 2_500
    assert max(sizes) <= 40_000
    assert sum(sizes) == len(data)


@pytest.mark.parametrize(
    ("chunk_size", "by_content"),
    [
        (5000, (63, 700, TABLE)),
        (5000, (701, 700, TABLE)),
        (5000, (100, 5001, TABLE)),
        (5000, (100, 700, TABLE[1:])),
    ],
)
def test_cuts_that_cannot_be(chunk_size: int, by_content: tuple[int, int, bytes]) -> None:
    with pytest.raises(ValueError, match="minimum <= mean <= chunk_size"):
        cut(b"", chunk_size, by_content)


# ---- through the engine --------------------------------------------------------------------------------------------

BY_CONTENT = {"chunk_size": 900_000, "content": (60_000, 200_000, TABLE)}


def cuts_of(data: bytes) -> list[int]:
    return cut(data, 900_000, (60_000, 200_000, TABLE))


@given(
    size=st.sampled_from([0, 1, 59_999, 60_000, 60_001, 524_287, 524_288, 524_289, 1_500_000, 4_000_000]),
    compressible=st.booleans(),
    jobs=st.integers(1, 3),
    known=st.integers(0, 5),
)
def test_what_is_cut_by_content_comes_back(
    tmp_path_factory: pytest.TempPathFactory, size: int, compressible: bool, jobs: int, known: int
) -> None:
    place = tmp_path_factory.mktemp("cut")
    data = text(size) if compressible else os.urandom(size)
    path = file_of(place, data)
    [result] = seal([path], shelf := Shelf(), jobs=jobs, **BY_CONTENT)
    assert content(result, shelf) == data
    assert result.sizes == (cuts_of(data) or [0])
    assert result.last.size == size
    assert not result.last.changed
    with open(path, "rb") as opened:
        [piped] = seal([opened.fileno()], Shelf(), jobs=jobs, **BY_CONTENT)
    assert (piped.names, piped.sizes) == (result.names, result.sizes)
    known = min(known, len(result.names) - 1)
    facts = (size, result.last.mtime_ns, result.last.ctime_ns, result.last.inode)
    first = Known(path, result.names[:known], result.stored[:known], result.sizes[:known], facts)
    [continued] = seal([first], again := Shelf(), jobs=jobs, **BY_CONTENT)
    assert (continued.names, continued.sizes, continued.stored) == (result.names, result.sizes, result.stored)
    assert again.blobs.keys() <= set(result.names[known:])
    assert continued.last.size == size


class Store(Shelf):
    """A store in memory that can be asked which blobs it has."""

    def holds(self, name: str) -> int | None:
        return len(self.blobs[name]) if name in self.blobs else None


def test_a_chunk_of_an_earlier_version_is_not_made_anew(tmp_path: Path) -> None:
    data = text(3_000_000)
    path = file_of(tmp_path, data)
    [before] = seal([path], shelf := Store(), level=1, **BY_CONTENT)
    assert all(len(name) == 32 for name in before.plain_names)
    changed = data[:200_000] + b"and some more" + data[200_000:]
    file_of(tmp_path, changed)
    known = Known(path, before.names, before.stored, before.sizes, None, before.plain_names)
    # At another level each chunk would become another blob, were it compressed.
    [after] = seal([known], shelf, level=9, **BY_CONTENT)
    assert content(after, shelf) == changed
    assert after.sizes == cuts_of(changed)
    assert 1 <= len(set(after.names) - set(before.names)) <= 2
    assert [len(name) for name in after.plain_names] == [32] * len(after.names)
    same = dict(zip(before.plain_names, zip(before.names, before.stored, before.sizes, strict=True), strict=True))
    for name, stored, size, plain_name in zip(after.names, after.stored, after.sizes, after.plain_names, strict=True):
        assert same.get(plain_name, (name, stored, size)) == (name, stored, size)
    with open(path, "rb") as opened:
        [piped] = seal([known._replace(path=opened.fileno())], shelf, level=9, **BY_CONTENT)
    assert piped.names == after.names
    sealer = Sealer(SECRET, False, [known], [shelf], level=9, jobs=2, frames=True, **BY_CONTENT)
    list(sealer.run())
    assert (sealer.progress().blobs_new, sealer.progress().blobs_known) == (0, len(set(after.names)))


def test_an_earlier_chunk_that_a_sink_has_not_is_made_anew(tmp_path: Path) -> None:
    data = text(3_000_000)
    path = file_of(tmp_path, data)
    [before] = seal([path], shelf := Store(), level=1, **BY_CONTENT)
    known = Known(path, before.names, before.stored, before.sizes, None, before.plain_names)
    lost = before.names[3]
    del shelf.blobs[lost]
    [after] = seal([known], shelf, level=1, **BY_CONTENT)
    assert after.names == before.names
    assert lost in shelf.blobs
    sealer = Sealer(SECRET, False, [known], [shelf, empty := Store()], level=9, jobs=2, frames=True, **BY_CONTENT)
    assert [name for news in sealer.run() for name in news.names] != before.names
    assert len(empty.blobs) == len(set(before.names))


def test_what_is_said_of_earlier_chunks_is_not_believed_blindly(tmp_path: Path) -> None:
    data = text(3_000_000)
    path = file_of(tmp_path, data)
    [before] = seal([path], shelf := Store(), level=1, **BY_CONTENT)
    columns = (before.names, before.stored, before.sizes)
    for wrong in (
        Known(path, *columns, None, [name[:31] for name in before.plain_names]),
        Known(path, *columns, None, before.plain_names[1:]),
        Known(path, ["x"] * len(before.names), *columns[1:], None, before.plain_names),
    ):
        with pytest.raises(ValueError, match=r"."):
            seal([wrong], Store(), **BY_CONTENT)
    for harmless in (
        Known(path, before.names, [1] * len(before.names), before.sizes, None, before.plain_names),
        Known(path, before.names, [size + 1 for size in before.stored], before.sizes, None, before.plain_names),
        Known(path, before.names, before.stored, [size + 1 for size in before.sizes], None, before.plain_names),
        Known(path, *columns, None, [bytes(32)] * len(before.names)),
    ):
        [again] = seal([harmless], other := Store(), level=1, **BY_CONTENT)
        assert content(again, other) == data
    [fixed] = seal([Known(path, *columns, None, before.plain_names)], shelf, level=9, chunk_size=100_000)
    assert content(fixed, shelf) == data
    assert fixed.plain_names == []


@pytest.mark.parametrize("at", [0, 1, 70_000, 1_000_000])
@pytest.mark.parametrize("change", ["insert", "remove"])
def test_a_change_makes_two_chunks_new_at_most(tmp_path: Path, at: int, change: str) -> None:
    data = random.Random(at).randbytes(8_000_000)
    changed = data[:at] + b"inserted" + data[at:] if change == "insert" else data[:at] + data[at + 5 :]
    [before] = seal([file_of(tmp_path, data)], shelf := Shelf(), **BY_CONTENT)
    [after] = seal([file_of(tmp_path, changed)], shelf, **BY_CONTENT)
    assert content(after, shelf) == changed
    assert len(set(after.names) - set(before.names)) <= 2
    assert len(after.names) > 20


def test_holes_are_not_read_and_are_the_same_as_zeros(tmp_path: Path) -> None:
    noise = os.urandom(1_000_000)
    with (tmp_path / "sparse").open("wb") as out:
        out.write(noise)
        out.seek(60_000_000)
        out.write(noise)
        out.truncate(90_000_000)
    path = os.fsencode(tmp_path / "sparse")
    sealer = Sealer(SECRET, False, [path], [shelf := Shelf()], level=1, jobs=2, frames=True, **BY_CONTENT)
    names = [name for news in sealer.run() for name in news.names]
    assert sealer.progress().bytes_read < 5_000_000
    assert len(shelf.blobs) < 30
    data = (tmp_path / "sparse").read_bytes()
    [written] = seal([file_of(tmp_path, data, "written")], again := Shelf(), level=1, **BY_CONTENT)
    assert written.names == names
    assert content(written, again) == data


@pytest.mark.parametrize("left", [0, 5, 3_000_000])
def test_a_file_that_shrinks_while_it_is_cut_by_content(tmp_path: Path, left: int) -> None:
    data = os.urandom(6_000_000)
    path = file_of(tmp_path, data)
    shelf = Shelf()

    def shrink(name: str, blob: memoryview) -> None:
        shelf(name, blob)
        os.truncate(path, left)

    [result] = seal([path], shrink, jobs=1, **BY_CONTENT)  # type: ignore[arg-type]
    assert result.last.changed
    found = content(result, shelf)
    assert len(found) == result.last.size == sum(result.sizes) >= left
    assert data.startswith(found)


# ---- what a user writes --------------------------------------------------------------------------------------------


def test_what_a_chunker_is_called() -> None:
    assert Chunker.parse("fixed", 50) == (50, 50, 50)
    assert Chunker.parse("fastcdc", 50) == (1_000_000, 4_000_000, 16_000_000)
    assert Chunker.parse("fastcdc:8MB", 50) == (2_000_000, 8_000_000, 32_000_000)
    assert Chunker.parse("fastcdc:64k,1MiB,9000000", 50) == (64_000, 2**20, 9_000_000)
    for written in ("fixed", "fastcdc", "fastcdc:64k,1MiB,9000000"):
        assert Chunker.parse(str(Chunker.parse(written, 50)), 50) == Chunker.parse(written, 50)


@pytest.mark.parametrize(
    "wrong", ["", "fast", "fixed:", "fastcdc:", "fastcdc:1,2", "fastcdc:63,64,65", "fastcdc:2MB,1MB,3MB", "fastcdc:x"]
)
def test_no_such_chunker(wrong: str) -> None:
    with pytest.raises(UsageError):
        Options(chunker=wrong)


def test_it_is_not_for_streams() -> None:
    with pytest.raises(UsageError, match="fastcdc needs the frames layout"):
        Options(chunker="fastcdc", layout="stream")


def test_cuts_belong_to_the_key() -> None:
    chunker = Chunker.parse("fastcdc", 1)
    ours = chunker.content(keys.Key("keyfile", bytes(32)))
    theirs = chunker.content(keys.Key("keyfile", bytes(31) + b"1"))
    assert ours != theirs
    assert ours == chunker.content(keys.Key("keyfile", bytes(32)))
    assert Chunker.parse("fixed", 1).content(keys.Key("keyfile", bytes(32))) is None


@pytest.fixture
def work(tmp_path: Path, pogfast: Runner) -> Path:
    data = random.Random(3).randbytes(3_000_000)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "file").write_bytes(data)
    (tmp_path / "key").write_bytes(b"key")
    os.utime(tmp_path / "in" / "file", (1, 1))
    return tmp_path


CREATE = ("create", "in", "--to=store", "--keyfile=key", "--chunker=fastcdc:64k,250k,1MB")


def test_a_run_after_an_insertion_stores_little_and_says_so(work: Path, pogfast: Runner) -> None:
    assert pogfast(*CREATE).code == 0
    data = (work / "in" / "file").read_bytes()
    (work / "in" / "file").write_bytes(b"in front" + data)
    (work / "in" / "copy").write_bytes(data)
    ran = pogfast(*CREATE)
    assert ran.code == 0
    assert "already in the store" in ran.err
    assert "repeated within the archive" in ran.err
    ran = pogfast(*CREATE, "--no-cache", "--json")
    summary = json.loads(ran.lines[-1])
    assert summary["data_added_packed"] == 0
    assert summary["bytes_repeated"] > 2_000_000
    assert pogfast("restore", "store/latest", "--into=out", "--keyfile=key").code == 0
    assert (work / "out" / "in" / "file").read_bytes() == b"in front" + data
    assert (work / "out" / "in" / "copy").read_bytes() == data
    assert pogfast("check", "store", "--read-data", "--keyfile=key").code == 0
    info = pogfast("info", "store/latest", "--keyfile=key")
    assert "fastcdc:64000,250000,1000000" in info.out.decode()


def words(size: int) -> bytes:
    """Returns compressible text."""
    return b" ".join(b"%d" % number for number in range(size // 7))[:size]


def stored_at(work: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (work / "store" / "data").rglob("*=")}


@pytest.mark.parametrize("how", ["file", "stream"])
def test_only_changed_chunks_are_compressed(work: Path, pogfast: Runner, how: str) -> None:
    """The second run uses another level, so that chunks that are compressed again get other names."""
    data = words(5_000_000)
    more = ("in",) if how == "file" else ("-", "--name=in/file")

    def create(data: bytes, *flags: str) -> dict:
        (work / "in" / "file").write_bytes(data)
        time.sleep(0.3)  # what has changed just now is not remembered
        ran = pogfast("create", *more, *CREATE[2:], *flags, "--json", stdin=data if how == "stream" else b"")
        assert ran.code == 0, ran.err
        return json.loads(ran.lines[-1])

    assert create(data)["data_blobs"] > 10
    before = stored_at(work)
    changed = data[:2_000_000] + b"in the middle" + data[2_000_000:]
    assert create(changed, "--level=9")["data_blobs"] <= 2
    assert before.items() <= stored_at(work).items()
    assert pogfast("restore", "store/latest", "--into=out", "--keyfile=key").code == 0
    assert (work / "out" / "in" / "file").read_bytes() == changed
    # A blob that is gone or damaged is made again; with --force, all of them.
    one, other, *_ = (work / "store" / "data").rglob("*=")
    one.unlink()
    other.write_bytes(other.read_bytes()[:-1])
    create(data + b"!")
    assert pogfast("check", "store/latest", "--read-data", "--keyfile=key").code == 0
    assert create(data + b"!!", "--level=9", "--force")["data_blobs"] > 10
    assert pogfast("check", "store/latest", "--read-data", "--keyfile=key").code == 0


def test_unchanged_files_keep_their_sizes(work: Path, pogfast: Runner) -> None:
    time.sleep(0.3)  # what has changed just now is not believed to be unchanged
    assert pogfast(*CREATE).code == 0
    ran = pogfast(*CREATE, "--json")
    assert json.loads(ran.lines[-1])["files_unmodified"] == 1
    ran = pogfast("cat", "store/latest", "in/file", "--keyfile=key", "--offset=1000000", "--length=7")
    assert ran.out == (work / "in" / "file").read_bytes()[1_000_000:1_000_007]


def test_pogcli_restores_it(work: Path, pogfast: Runner, pogcli: Runner) -> None:
    ran = pogfast(*CREATE)
    name = ran.lines[0]
    (work / "out").mkdir()
    (work / "out" / "data").symlink_to(work / "store" / "data")
    done = pogcli("--keyfile=../key", "--decrypt", f"local:../store/{name}", cwd=work / "out")
    assert done.code == 0, done.err
    assert (work / "out" / "in" / "file").read_bytes() == (work / "in" / "file").read_bytes()


def test_a_chunk_size_beside_fastcdc_is_refused(work: Path, pogfast: Runner) -> None:
    ran = pogfast(*CREATE, "--chunk-size=1MB")
    assert ran.code == 2
    assert "fastcdc" in ran.err

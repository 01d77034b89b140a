"""Archives as they are looked at: their files read anywhere, their facts, and which of a store is meant."""

from __future__ import annotations

import contextlib
import gc
import io
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from kit import oracle
from kit.built import CHUNK, DAMAGE, KEY, ORACLE, Built, Silent
from kit.files import flip, text
from kit.vectors import Vector, key_of
from pogfast import keys, manifest
from pogfast.archives import entry_file
from pogfast.archives.archive import Archive
from pogfast.archives.lookup import find_archive, open_archive
from pogfast.archives.overview import archives
from pogfast.errors import (
    CorruptBlob,
    MissingBlob,
    NoArchives,
    NoSuchArchive,
    NoSuchEntry,
    PassedOver,
    PogfastError,
    StoreError,
    UsageError,
    WrongKey,
)
from pogfast.pog.create import Source, create
from pogfast.stores import LocalStore, open_store


@pytest.fixture
def built(tmp_path: Path) -> Built:
    return Built(tmp_path / "store")


def watch(archive: Archive) -> list[str]:
    """Names of the blobs that are fetched from now on."""
    fetched: list[str] = []
    get_blob = archive.store.get_blob

    def get(name: str) -> Any:
        fetched.append(name)
        return get_blob(name)

    archive.store.get_blob = get  # type: ignore[method-assign]
    return fetched


# ---- bytes ---------------------------------------------------------------------------------------------------------

LENGTHS = [0, 1, 2, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 5 * CHUNK + 7]
KINDS = ["frames", "stream", "stream, sized", "frames, no sizes"]


def add_as(built: Built, kind: str, name: str, content: bytes) -> list[str]:
    if kind == "frames, no sizes":
        return built.add(name, content, size=None, sizes=None)
    # 100 bytes of compressed text are some hundred of the file's.
    chunk_size = CHUNK if kind == "frames" else 100
    more = {"size": len(content)} if kind == "stream, sized" else {}
    return built.add(name, content, kind.partition(",")[0], chunk_size, **more)


@pytest.mark.parametrize("jobs", [1, 2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_every_file_reads_as_it_was(built: Built, kind: str, jobs: int) -> None:
    for length in LENGTHS:
        add_as(built, kind, str(length), text(length))
    with built.open(jobs=jobs) as archive:
        assert list(archive) == [str(length) for length in LENGTHS]
        for length in LENGTHS:
            content = text(length)
            with archive.open(str(length)) as file:
                assert (file.readable(), file.seekable(), file.writable()) == (True, True, False)
                assert file.read() == content
                assert file.read() == b""
            with archive.open(str(length)) as file:
                assert b"".join(iter(lambda f=file: f.read(7), b"")) == content
            with archive.open(str(length)) as file:
                assert file.seek(0, io.SEEK_END) == length
                assert file.read() == b""
                assert file.seek(-min(5, length), io.SEEK_CUR) == length - min(5, length)
                assert file.read() == content[max(0, length - 5) :]
            assert b"".join(archive.read(str(length))) == content
            assert b"".join(archive.read(str(length), 3, 2 * CHUNK)) == content[3 : 3 + 2 * CHUNK]
            with archive.open(str(length)) as file:
                assert list(io.TextIOWrapper(file)) == content.decode().splitlines(keepends=True)


WHENCE = st.sampled_from([io.SEEK_SET, io.SEEK_CUR, io.SEEK_END, -1])
STEPS = st.lists(st.tuples(WHENCE, st.integers(-6000, 6000), st.integers(-1, 3000)), max_size=20)


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    built = Built(tmp_path_factory.mktemp("opened"))
    for kind in KINDS:
        add_as(built, kind, kind, text(5 * CHUNK + 7))
    built.add("repeats", text(CHUNK) * 4)
    built.entries["odd chunks"] = {"blobs": [], "atime": 0, "mtime": 0, "sizes": [], "size": 0}
    for at, length in ((0, 5), (5, 0), (5, 1), (6, 0), (6, 3000), (3006, 0)):
        chunk = oracle.zstandard.ZstdCompressor().compress(text(5 * CHUNK)[at : at + length])
        built.put(ORACLE.name(chunk), ORACLE.seal(chunk))
        built.entries["odd chunks"]["blobs"].append(ORACLE.name(chunk))
        built.entries["odd chunks"]["sizes"].append(length)
        built.entries["odd chunks"]["size"] += length
    with built.open() as archive:
        yield archive


CONTENT = {kind: text(5 * CHUNK + 7) for kind in KINDS} | {"repeats": text(CHUNK) * 4, "odd chunks": text(3006)}


@pytest.mark.parametrize("held", [0, 2500, 10**6])
@pytest.mark.parametrize("whole", [10, 10**6])
@given(name=st.sampled_from(list(CONTENT)), steps=STEPS)
def test_it_is_read_and_sought_as_a_file_in_memory_is(
    opened: Archive, held: int, whole: int, name: str, steps: list[tuple[int, int, int]]
) -> None:
    """Also when little is held, and when chunks count as too long to be held at all."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(entry_file, "HELD", held)
        patch.setattr(entry_file, "MAX_WHOLE", whole)
        ours, theirs = opened.open(name), io.BytesIO(CONTENT[name])
        for whence, offset, length in steps:
            if whence >= 0:
                place = {io.SEEK_SET: 0, io.SEEK_CUR: theirs.tell(), io.SEEK_END: len(CONTENT[name])}[whence] + offset
                if place < 0:
                    with pytest.raises(ValueError):
                        ours.seek(offset, whence)
                    ours.seek(theirs.tell())
                else:
                    assert ours.seek(offset, whence) == theirs.seek(place)
            assert ours.tell() == theirs.tell()
            assert ours.read(length) == theirs.read(length)
        ours.close()


@given(name=st.sampled_from(list(CONTENT)), offset=st.integers(0, 7000), length=st.none() | st.integers(0, 7000))
def test_a_range_is_that_range(opened: Archive, name: str, offset: int, length: int | None) -> None:
    end = None if length is None else offset + length
    assert b"".join(opened.read(name, offset, length)) == CONTENT[name][offset:end]


def test_a_file_of_the_archive_is_a_file(opened: Archive) -> None:
    with opened.open("frames") as file:
        with pytest.raises(ValueError, match="whence"):
            file.raw.seek(0, 9)
        assert file.raw.name == "frames"
        assert file.raw.size() == 5 * CHUNK + 7
        assert file.read1(10**6) == CONTENT["frames"][:CHUNK]
        file.seek(10**9)
        assert file.read(10) == b""
    for call in (file.read, lambda: file.seek(0), lambda: file.raw.size()):
        with pytest.raises(ValueError, match="closed"):
            call()
    file.close()


@pytest.mark.parametrize("name", ["no such", "d", "l", "p"])
def test_what_is_no_file_does_not_open(built: Built, name: str) -> None:
    built.add("f", b"")
    facts = {"directories": {"d": {}}, "links": {"l": {"target": "f"}}, "fifos": {"p": {}}}
    with built.open(facts) as archive:
        said = {"no such": "no such file", "d": "a directory", "l": "a link", "p": "a fifo"}[name]
        with pytest.raises(NoSuchEntry, match=f"{name}: {said}"):
            archive.open(name)
        with pytest.raises(NoSuchEntry):
            next(archive.read(name))
        with pytest.raises(KeyError):
            archive[name]


@pytest.mark.parametrize("layout", ["frames", "stream"])
def test_the_blobs_of_real_files_are_read(tmp_path: Path, layout: str) -> None:
    """Written by `create`: a file of many blobs, one of one blob, and an empty one."""
    content = {"big": random.Random(1).randbytes(1_000_000) + text(2_000_000), "small": b"small", "empty": b""}
    for name, data in content.items():
        (tmp_path / name).write_bytes(data)
    sources = [Source(str(tmp_path / name), name) for name in content]
    target = open_store(str(tmp_path / "store"), create=True)
    create(sources, KEY, [target], chunk_size=200_000, level=3, jobs=2, report=Silent())
    target.close()
    with open_archive(f"{tmp_path}/store/latest", KEY) as archive:
        assert list(archive) == ["big", "empty", "small"], "in the order of archived names, as pogcli writes"
        assert len(archive["big"].blobs) > 5
        for name, data in content.items():
            with archive.open(name) as file:
                assert file.read() == data
                file.seek(len(data) // 2)
                assert file.read() == data[len(data) // 2 :]


def test_the_vectors_are_read(vector: Vector) -> None:
    with open_archive(str(vector.directory / vector.archive["manifest"]), key_of(vector)) as archive:
        assert archive.layout == "stream"
        assert archive.time is not None
        assert archive.time.year == 2026
        for name, facts in vector.expected["files"].items():
            with archive.open(name) as file:
                content = file.read()
                assert oracle.hashlib.sha256(content).hexdigest() == facts["sha256"]
                assert file.seek(0, io.SEEK_END) == facts["size"]
                middle = random.Random(name).randrange(facts["size"] + 1)
                file.seek(middle)
                assert file.read() == content[middle:]


# ---- only what is needed, and bounded ------------------------------------------------------------------------------


def test_only_the_blobs_that_are_looked_at_are_fetched(built: Built) -> None:
    names = built.add("f", text(10 * CHUNK))
    with built.open(jobs=3) as archive:
        fetched = watch(archive)
        with archive.open("f") as file:
            assert file.seek(0, io.SEEK_END) == 10 * CHUNK
            assert fetched == []
            file.seek(3 * CHUNK + 5)
            assert file.read(10) == text(10 * CHUNK)[3 * CHUNK + 5 : 3 * CHUNK + 15]
            assert fetched == [names[3]]
            file.seek(-1, io.SEEK_END)
            file.read()
            file.seek(3 * CHUNK)
            file.read(10)
            assert fetched == [names[3], names[9]]
        for offset, length, needed in (
            (0, 1, [0]),
            (0, CHUNK, [0]),
            (0, CHUNK + 1, [0, 1]),
            (4 * CHUNK - 1, 2, [3, 4]),
            (4 * CHUNK, 3 * CHUNK, [4, 5, 6]),
            (5 * CHUNK, 0, []),
            (10 * CHUNK, 5, []),
            (9 * CHUNK, 10**6, [9]),
        ):
            fetched.clear()
            assert b"".join(archive.read("f", offset, length)) == text(10 * CHUNK)[offset : offset + length]
            assert sorted(fetched) == sorted(names[index] for index in needed)


def test_the_beginning_of_a_stream_needs_its_first_blob(built: Built) -> None:
    names = built.add("f", random.Random(2).randbytes(10 * CHUNK), "stream")
    with built.open() as archive:
        fetched = watch(archive)
        with archive.open("f") as file:
            file.read(10)
            assert fetched == names[:1]


@pytest.mark.parametrize("layout", ["frames", "stream"])
def test_reading_in_order_fetches_each_blob_once(built: Built, layout: str) -> None:
    names = built.add("f", random.Random(2).randbytes(10 * CHUNK), layout)
    with built.open(jobs=3) as archive:
        fetched = watch(archive)
        with archive.open("f") as file:
            while file.read(77):
                pass
        assert sorted(fetched) == sorted(names)
        fetched.clear()
        for _ in archive.read("f"):
            pass
        assert sorted(fetched) == sorted(names)


@pytest.mark.parametrize("jobs", [1, 2, 4])
def test_reading_in_order_uses_every_core_and_no_more_chunks(built: Built, jobs: int) -> None:
    """As many fetches as jobs run at once, and never more chunks than jobs are fetched ahead."""
    names = built.add("f", text(20 * CHUNK))
    with built.open(jobs=jobs) as archive:
        get_blob, lock, running, most, begun = archive.store.get_blob, threading.Lock(), [0], [0], [0]

        def slow(name: str) -> Any:
            with lock:
                running[0] += 1
                begun[0] += 1
                most[0] = max(most[0], running[0])
            time.sleep(0.02)
            with lock:
                running[0] -= 1
            return get_blob(name)

        archive.store.get_blob = slow  # type: ignore[method-assign]
        for number, _ in enumerate(archive.read("f")):
            assert begun[0] <= number + jobs
        assert (number, most[0], begun[0]) == (len(names) - 1, jobs, len(names))


def test_a_chunk_too_long_to_be_held_is_read_in_pieces(built: Built) -> None:
    """A stream of one blob may be any number of bytes: here 300 MB of zeros, in 12 kB."""
    length = 300_000_000
    built.add("f", bytes(length), "stream", 10**6, size=length)
    with built.open() as archive:
        assert len(archive["f"].blobs) == 1
        pieces = [len(piece) for piece in archive.read("f")]
        assert sum(pieces) == length
        assert max(pieces) <= entry_file.HELD
        with archive.open("f") as file:
            file.seek(length - 1)
            assert file.read() == b"\0"


def test_nothing_is_left_when_an_archive_is_closed(built: Built) -> None:
    built.add("f", text(10 * CHUNK))
    where = built.seal()
    gc.collect()
    files, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    archive = open_archive(where, KEY, jobs=3)
    file = archive.open("f")
    file.read(3 * CHUNK)
    reader = archive.read("f")
    next(reader)
    assert threading.active_count() > threads
    archive.close()
    reader.close()
    assert file.closed
    assert (len(os.listdir("/proc/self/fd")), threading.active_count()) == (files, threads)
    with pytest.raises(NoSuchArchive):
        open_archive(f"{built.path}/no.mfn", KEY)
    with pytest.raises(WrongKey):
        open_archive(where, keys.Key("keyfile", bytes(32)))
    assert len(os.listdir("/proc/self/fd")) == files


# ---- damage --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["frames", "stream"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_named_with_its_place(built: Built, damage: str, layout: str) -> None:
    content = random.Random(3).randbytes(6 * CHUNK)
    names = built.add("dir/f", content, layout)
    kind, said, spoil = DAMAGE[damage]
    spoil(built, names[3], names[0])
    with built.open(jobs=3) as archive:
        for read in (lambda: archive.open("dir/f").read(), lambda: b"".join(archive.read("dir/f"))):
            with pytest.raises(kind, match=f"^dir/f, from byte [0-9]+ on: blob {names[3]} {said}") as caught:
                read()
            offset = int(str(caught.value).split()[3])
            assert offset == 3 * CHUNK if layout == "frames" else 0 <= 3 * CHUNK - offset < 1000
        with archive.open("dir/f") as file:
            good = file.read(offset)
            assert good == content[:offset]
            for _ in range(2):
                with pytest.raises(kind):
                    file.read(CHUNK)
            file.seek(10)
            assert file.read(10) == content[10:20], "what is whole is still read"
            if layout == "frames":
                file.seek(5 * CHUNK)
                assert file.read() == content[5 * CHUNK :]


def test_one_blob_that_is_missing_alone(built: Built) -> None:
    for name, more in (("a", {}), ("b", {"size": None})):
        [blob] = built.add(name, b"only " + name.encode(), **more)
        built.blob(blob).unlink()
    with built.open() as archive:
        for name in archive:
            with pytest.raises(MissingBlob, match=f"{name}, from byte 0 on"):
                archive.open(name).read()


def test_a_blob_that_cannot_be_read_is_no_damage(built: Built) -> None:
    [blob] = built.add("f", b"x")
    built.blob(blob).unlink()
    built.blob(blob).mkdir()
    with built.open() as archive, pytest.raises(StoreError, match="f, from byte 0 on: cannot read blob"):
        archive.open("f").read()


@pytest.mark.parametrize("off", [-1, 1, 10])
@pytest.mark.parametrize("whole", [10, 10**6])
def test_lengths_that_are_not_the_contents_are_damage(
    built: Built, monkeypatch: pytest.MonkeyPatch, whole: int, off: int
) -> None:
    monkeypatch.setattr(entry_file, "MAX_WHOLE", whole)
    content = random.Random(4).randbytes(3 * CHUNK)
    built.add("one", content[:CHUNK], size=CHUNK + off)
    built.add("several", content, sizes=[CHUNK, CHUNK + off, CHUNK], size=3 * CHUNK + off)
    built.add("last", content, sizes=[CHUNK, CHUNK, CHUNK + off], size=3 * CHUNK + off)
    built.add("middle", content, sizes=[CHUNK, CHUNK + off, CHUNK - off], size=3 * CHUNK)
    built.add("stream", content, "stream", size=3 * CHUNK + off)
    with built.open() as archive:
        for name in archive:
            with pytest.raises(CorruptBlob, match=name):
                archive.open(name).read()
            with pytest.raises(CorruptBlob, match=name):
                list(archive.read(name))


@pytest.mark.parametrize("kind", ["cut", "noise behind", "noise", "half"])
def test_authentic_noise_is_damage(built: Built, kind: str) -> None:
    stream = oracle.compress_as_pog(random.Random(5).randbytes(2 * CHUNK))
    content = {"cut": stream[:-1], "noise behind": stream + b"noise", "noise": b"noise", "half": stream[:CHUNK]}[kind]
    for name, cut in (("one", 10**6), ("several", 500)):
        chunks = [content[at : at + cut] for at in range(0, len(content), cut)]
        for chunk in chunks:
            built.put(ORACLE.name(chunk), ORACLE.seal(chunk))
        built.entries[name] = {"blobs": [ORACLE.name(chunk) for chunk in chunks], "atime": 0, "mtime": 0}
    with built.open() as archive:
        for name in archive:
            with pytest.raises(CorruptBlob, match=f"^{name}, from byte"):
                archive.open(name).read()


GREEDY = oracle.zstandard.MAGIC_NUMBER.to_bytes(4, "little") + b"\xe0" + (2**45).to_bytes(8, "little") + b"\x01\0\0"
FRAME = oracle.zstandard.ZstdCompressor().compress(text(CHUNK))


@pytest.mark.parametrize("chunk", [FRAME + b"noise", FRAME + FRAME, GREEDY], ids=["noise", "two", "greedy"])
def test_what_is_not_the_one_frame_that_it_should_be_is_damage(built: Built, chunk: bytes) -> None:
    """A frame that claims 32 TB gets no memory for them."""
    built.put(ORACLE.name(chunk), ORACLE.seal(chunk))
    facts = {"atime": 0, "mtime": 0, "size": 2 * CHUNK, "sizes": [CHUNK, CHUNK]}
    built.entries["f"] = {"blobs": [ORACLE.name(chunk)] * 2, **facts}
    with built.open() as archive, pytest.raises(CorruptBlob, match=r"^f, from byte 0 on"):
        archive.open("f").read()


def test_several_frames_in_a_blob_are_one_file(built: Built) -> None:
    chunk = oracle.compress_as_pog(b"one, ") + oracle.pad(b"", None) + oracle.compress_as_pog(b"two")
    built.put(ORACLE.name(chunk), ORACLE.seal(oracle.pad(chunk)))
    built.entries["f"] = {"blobs": [ORACLE.name(chunk)] * 2, "atime": 0, "mtime": 0}
    with built.open() as archive:
        assert archive.open("f").read() == b"one, twoone, two"


# ---- what a trailer says -------------------------------------------------------------------------------------------


def test_what_the_trailer_says(built: Built) -> None:
    built.add("d/f", b"x")
    trailer = {
        "time": "2026-01-02T03:04:05.5+02:00",
        "host": "h",
        "tags": ["t", "u"],
        "comment": "c",
        "paths": ["/d"],
        "layout": "frames",
        "chunk_size": 7,
        "totals": {"files": 1, "size": 1, "stored": 9},
        "directories": {"d": {"mode": 0o755}},
        "links": {"l": {"target": "d/f"}},
        "fifos": {"p": {"mode": 0o600}},
        "more": "kept",
    }
    with built.open(trailer) as archive:
        assert archive.time == datetime(2026, 1, 2, 1, 4, 5, 500_000, UTC)
        assert (archive.host, archive.tags, archive.comment, archive.paths) == ("h", ["t", "u"], "c", ["/d"])
        assert (archive.layout, archive.chunk_size, archive.totals["stored"]) == ("frames", 7, 9)
        assert (archive.directories, archive.links) == (trailer["directories"], trailer["links"])
        assert archive.fifos == {"p": {"mode": 0o600}}
        assert archive.trailer == trailer
        assert repr(archive) == f"<Archive {built.path}/a.mfn>"


NONSENSE = [None, 1, -1, "x", [], [1], ["x"], {}, {"a": 1}, {"a": {}}, True, 1e300, "9999999-01-01"]
WORDS = ["time", "host", "tags", "comment", "paths", "layout", "chunk_size", "totals", "directories", "links", "fifos"]


@given(trailer=st.dictionaries(st.sampled_from(WORDS), st.sampled_from(NONSENSE)))
def test_a_trailer_of_another_program_is_no_error(tmp_path: Path, trailer: dict[str, Any]) -> None:
    with Built(tmp_path).open(trailer) as archive:
        for word in WORDS:
            getattr(archive, word)
        archives(archive.store, KEY)


# ---- which archive -------------------------------------------------------------------------------------------------


def several(built: Built) -> None:
    """Archives whose names are not in the order of their times: hosts in different zones, and one renamed."""
    for name, trailer in {
        "2026-01-01T12:00:00.000000.mfn": {"time": "2026-01-01T12:00:00+00:00", "host": "a", "tags": ["x"]},
        "2026-01-02T06:00:00.000000.mfn": {"time": "2026-01-02T06:00:00+13:00", "host": "b", "tags": ["x", "y"]},
        "2026-01-01T20:00:00.000000.mfn": {"time": "2026-01-01T20:00:00-08:00", "host": "a", "paths": ["/p", "/q"]},
        "renamed.mfn": {"time": "2025-01-01T00:00:00+00:00", "host": "c", "tags": ["y"]},
    }.items():
        built.add("f", name.encode())
        built.seal(name, trailer)


def test_the_newest_is_newest_by_time(built: Built) -> None:
    several(built)
    store = str(built.path)

    def latest(**wanted: Any) -> str:
        with open_archive(f"{store}/latest", KEY, **wanted) as archive:
            found, name = find_archive(f"local:{store}/latest", KEY, **wanted)
            found.close()
            assert name == archive.name
            assert archive.open("f").read() == name.encode()
            return name

    assert latest() == "2026-01-01T20:00:00.000000.mfn"
    assert latest(host="a") == "2026-01-01T20:00:00.000000.mfn"
    assert latest(host="b") == "2026-01-02T06:00:00.000000.mfn"
    assert latest(tags=["x"]) == "2026-01-02T06:00:00.000000.mfn"
    assert latest(tags=["x"], host="a") == "2026-01-01T12:00:00.000000.mfn"
    assert latest(tags=["y", "x"]) == "2026-01-02T06:00:00.000000.mfn"
    assert latest(path="/p/../q/") == "2026-01-01T20:00:00.000000.mfn"
    assert latest(host="c") == "renamed.mfn"
    with pytest.raises(NoSuchArchive, match=f"^no archive from host no with tag x of /p in {store}$") as caught:
        latest(host="no", tags=["x"], path="/p")
    assert "2026-01-02T06:00:00.000000.mfn (b, x, y)" in caught.value.hint
    assert "\n" not in str(caught.value) + caught.value.hint
    with pytest.raises(UsageError, match="is one archive"):
        open_archive(f"{store}/renamed.mfn", KEY, host="c")


def test_no_more_manifests_than_needed_are_opened_for_the_newest(built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    for day in range(1, 29):
        built.seal(f"2026-01-{day:02}T12:00:00.000000.mfn", {"time": f"2026-01-{day:02}T12:00:00+00:00"})
    opened: list[str] = []
    get_manifest = LocalStore.get_manifest

    def get(store: LocalStore, name: str) -> bytes:
        opened.append(name[:10])
        return get_manifest(store, name)

    monkeypatch.setattr(LocalStore, "get_manifest", get)
    with open_archive(f"{built.path}/latest", KEY) as archive:
        assert archive.name.startswith("2026-01-28")
    assert opened == ["2026-01-28", "2026-01-28"], "its trailer, then the archive"


def test_without_a_trailer_the_name_tells_the_time(built: Built) -> None:
    for name in ("2026-01-01T00:00:00.000000.mfn", "2026-01-02T00:00:00.000000.mfn", "made.mfn"):
        built.seal(name)
    with open_archive(f"{built.path}/latest", KEY) as archive:
        assert archive.name == "2026-01-02T00:00:00.000000.mfn"
        assert archive.time == datetime(2026, 1, 2).astimezone()
    with open_archive(f"{built.path}/made.mfn", KEY) as archive:
        assert archive.time is None


def test_archives_of_other_keys_are_passed_over(built: Built) -> None:
    built.seal("2026-01-01T00:00:00.000000.mfn")
    (built.path / "2026-01-02T00:00:00.000000.mfn").write_bytes(
        oracle.seal_manifest(oracle.OracleKey(bytes(32)), {}, {})
    )
    heard: list[PogfastError | str] = []
    with open_archive(f"{built.path}/latest", KEY, tell=heard.append) as archive:
        assert archive.name == "2026-01-01T00:00:00.000000.mfn"
    assert [type(what) for what in heard] == [PassedOver]
    with pytest.raises(WrongKey):
        open_archive(f"{built.path}/latest", keys.Key("keyfile", bytes(31) + b"x"))


Spoiling = Callable[[Path], object]
SPOILED: dict[str, Spoiling] = {
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "empty": lambda path: path.write_bytes(b""),
    "cut in its header": lambda path: os.truncate(path, 60),
    "cut in its body": lambda path: os.truncate(path, path.stat().st_size - 1),
    "first bit": lambda path: flip(path, 0),
    "last byte of its header": lambda path: flip(path, 71),
    "body": lambda path: flip(path, 100),
    "tail": lambda path: flip(path, -1),
    "sealed, but no JSON": lambda path: path.write_bytes(
        oracle.OracleKey(KEY.secret).seal(oracle.pad(zstandard.compress(b"{")))
    ),
}


@pytest.mark.parametrize("kind", SPOILED)
def test_a_newer_archive_that_does_not_open_is_named_and_the_one_before_it_taken(built: Built, kind: str) -> None:
    built.seal("2026-01-01T00:00:00.000000.mfn")
    built.seal("2026-01-03T00:00:00.000000.mfn")
    SPOILED[kind](built.path / "2026-01-03T00:00:00.000000.mfn")
    heard: list[PogfastError | str] = []
    with open_archive(f"{built.path}/latest", KEY, tell=heard.append) as archive:
        assert archive.name == "2026-01-01T00:00:00.000000.mfn"
    assert [type(what) for what in heard] == [PassedOver]
    assert "2026-01-03" in str(heard[0])
    with pytest.warns(UserWarning, match="2026-01-03"):
        open_archive(f"{built.path}/latest", KEY).close()
    built.seal("2026-01-05T00:00:00.000000.mfn")
    heard.clear()
    with open_archive(f"{built.path}/latest", KEY, tell=heard.append) as archive:
        assert archive.name == "2026-01-05T00:00:00.000000.mfn"
    assert heard == [], "what is older is nobody's business"


def test_no_archive_at_all(built: Built) -> None:
    with pytest.raises(NoSuchArchive, match="neither an archive nor a blob"):
        open_archive(f"{built.path}/latest", KEY)
    with pytest.raises(NoSuchArchive, match="no store at"):
        open_archive(f"{built.path}/no/latest", KEY)
    with pytest.raises(UsageError, match="is not the address of an archive"):
        open_archive(str(built.path), KEY)
    built.add("f", b"a blob")
    with pytest.raises(NoArchives, match="blobs and no archive"):
        open_archive(f"{built.path}/latest", KEY)
    (built.path / "2026-01-01T00:00:00.000000.mfn.removed").write_bytes(b"one that can be brought back")
    with pytest.raises(NoSuchArchive, match="no archive"):
        open_archive(f"{built.path}/latest", KEY)


@pytest.mark.parametrize("forged", ["2026-01-02T00:00:00.000000.mfn", "2099-01-01T00:00:00.000000.mfn"])
def test_the_latest_is_never_of_the_future(built: Built, forged: str) -> None:
    built.seal("2026-01-01T00:00:00.000000.mfn", {"time": "2026-01-01T00:00:00+00:00", "host": "h"})
    built.seal(forged, {"time": "2099-01-01T00:00:00+00:00", "host": "h"})
    with pytest.warns(UserWarning, match=f"{forged} is skipped: it is dated 2099-01-01, in the future"):
        archive = open_archive(f"{built.path}/latest", KEY, host="h")
    assert archive.name == "2026-01-01T00:00:00.000000.mfn"
    archive.close()
    (built.path / "2026-01-01T00:00:00.000000.mfn").unlink()
    with (
        pytest.warns(UserWarning, match="in the future"),
        pytest.raises(NoSuchArchive, match="is dated in the future") as raised,
    ):
        open_archive(f"{built.path}/latest", KEY)
    assert "set the clock, if it is not" in raised.value.hint
    open_archive(f"{built.path}/{forged}", KEY).close()


def test_the_latest_of_a_public_key_is_never_of_the_future(tmp_path: Path) -> None:
    encrypt, _ = keys.create_pair("pair", str(tmp_path))
    key = keys.from_encryption_keyfile(encrypt)
    for name in ("2026-01-01T00:00:00.000000.mfn", "2099-01-01T00:00:00.000000.mfn"):
        (tmp_path / name).write_bytes(manifest.seal(manifest.Manifest(), key))
    with pytest.warns(UserWarning, match="2099-01-01T00:00:00.000000.mfn is skipped"):
        store, name = find_archive(f"{tmp_path}/latest", key)
    store.close()
    assert name == "2026-01-01T00:00:00.000000.mfn"


DENSE = """
import os, sys
from pogfast import keys, manifest
from pogfast._engine import compress, random_bytes, secretbox
if worker := os.fork():  # a process counts the memory of the one that began it, and pytest's is large
    _, status, usage = os.wait4(worker, 0)
    print(usage.ru_maxrss // (1024 if sys.platform == "darwin" else 1), file=sys.stderr)
    sys.exit(os.waitstatus_to_exitcode(status))
key = keys.Key("keyfile", bytes(32))
if sys.argv[1] == "write":
    many = b",".join([sys.argv[3].encode()] * (16_000_000 // (len(sys.argv[3]) + 1)))
    text = b'{"host":"h",' + sys.argv[2].encode().replace(b"MANY", many) + b"}"
    trailer = compress(text, 3)
    frames = compress(b"{}", 3) + manifest.TRAILER_MAGIC + len(trailer).to_bytes(4, "little") + trailer
    file_key = random_bytes(32)
    open("a.mfn", "wb").write(key.wrap(file_key) + secretbox(file_key, frames))
else:
    from pogfast.archives.overview import archives
    from pogfast.stores.local import LocalStore
    [info] = archives(LocalStore.open(".", fan_out=True), key)
    assert (info.host, info.files, info.problem) == ("h", 0, None), info
"""


@pytest.mark.parametrize(
    ("trailer", "item"),
    [('"x":[MANY]', "[]"), ('"skipped":[MANY]', "{}"), ('"tags":[[MANY]]', "[]"), ('"directories":{MANY}', '"d":{}')],
)
def test_a_list_takes_no_more_memory_than_a_few_times_the_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trailer: str, item: str
) -> None:
    """2 kB of manifest are 16 MB of JSON, and would be 500 to 900 MB of objects. Bounds in MB, of the whole process."""
    monkeypatch.setenv("POGFAST_CACHE_DIR", str(tmp_path / "cache"))
    command = [sys.executable, "-c", DENSE]
    subprocess.run([*command, "write", trailer, item], cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "a.mfn").stat().st_size < 10_000
    ran = subprocess.run([*command, "list"], cwd=tmp_path, check=True, capture_output=True)
    assert int(ran.stderr) / 1000 < 250


def test_all_archives_of_a_store(built: Built) -> None:
    several(built)
    built.add("a", text(3 * CHUNK))
    built.add("b", text(3 * CHUNK))
    built.seal("2026-01-09T00:00:00.000000.mfn")  # as pog writes it: without a trailer
    totals = {"files": 3, "size": 4, "stored": 5}
    built.seal("2026-01-10T00:00:00.000000.mfn", {"totals": totals, "paths": ["/p"], "comment": "c"})
    built.seal("2026-01-11T00:00:00.000000.mfn")
    flip(built.path / "2026-01-11T00:00:00.000000.mfn", -1)
    (built.path / "other.mfn").write_bytes(oracle.seal_manifest(oracle.OracleKey(bytes(32)), {}, {}))
    with contextlib.closing(open_store(str(built.path))) as store:
        listed = archives(store, KEY)
        stored = sum(blob.size for blob in store.blob_names() if blob.size > 300)
    assert [info.name.partition("T")[0] for info in listed] == [
        "other.mfn",
        "renamed.mfn",
        *("2026-01-01", "2026-01-02", "2026-01-01"),
        *("2026-01-09", "2026-01-10", "2026-01-11"),
    ]
    by_name = {info.name: info for info in listed}
    assert by_name["2026-01-01T20:00:00.000000.mfn"].host == "a"
    assert by_name["2026-01-02T06:00:00.000000.mfn"].tags == ["x", "y"]
    pogs = by_name["2026-01-09T00:00:00.000000.mfn"]
    assert (pogs.files, pogs.size, pogs.blobs, pogs.problem) == (2, 6000, 3, None)
    assert pogs.stored == stored
    ours = by_name["2026-01-10T00:00:00.000000.mfn"]
    assert (ours.files, ours.size, ours.stored, ours.paths, ours.comment) == (3, 4, 5, ["/p"], "c")
    assert "damaged" in (by_name["2026-01-11T00:00:00.000000.mfn"].problem or "")
    assert "cannot be opened: wrong key" in (by_name["other.mfn"].problem or "")
    shown = by_name["2026-01-02T06:00:00.000000.mfn"].as_dict()
    assert shown["time"] is not None
    assert datetime.fromisoformat(shown["time"]) == datetime(2026, 1, 1, 17, tzinfo=UTC)
    assert shown["tags"] == ["x", "y"]


def test_a_public_key_alone_lists_and_finds(tmp_path: Path) -> None:
    private = os.urandom(32)
    both = oracle.OracleKey.of_private(private)
    pair, public = keys.Key("x25519", both.secret, private), keys.Key("x25519", both.secret)
    built = Built(tmp_path, both)
    names = built.add("f", text(3 * CHUNK))
    built.add("g", text(3 * CHUNK))
    where = built.seal("2026-01-01T00:00:00.000000.mfn", {"host": "h"})
    built.seal("2026-01-02T00:00:00.000000.mfn", {"host": "i"})
    flip(tmp_path / "2026-01-02T00:00:00.000000.mfn", 80)
    with contextlib.closing(open_store(str(tmp_path))) as store:
        first, second = archives(store, public)
        assert (first.blobs, first.stored, first.host, first.files) == (3, sum(map(store.size_of, names)), "", None)
        assert "index is damaged" in (second.problem or "")
        assert [info.host for info in archives(store, pair)] == ["h", "i"]
        assert first.as_dict()["time"] == "2026-01-01T00:00:00", "of a zone that it does not know"
    built.seal("2026-01-03T00:00:00.000000.mfn", {"host": "i"})
    store, name = find_archive(f"{tmp_path}/latest", public)
    store.close()
    assert name == "2026-01-03T00:00:00.000000.mfn"
    for call in (
        lambda: open_archive(where, public),
        lambda: find_archive(f"{tmp_path}/latest", public, host="h"),
    ):
        with pytest.raises(WrongKey, match="public key"):
            call()

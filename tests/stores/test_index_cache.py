"""Index objects in the user's cache directory: found again if they are what they were, and never a reason to fail."""

from __future__ import annotations

import errno
import os
import stat
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from kit.files import flip
from kit.packs import listed, make_index, name_of, sha256
from pogfast._engine import IndexFile, build_index
from pogfast.stores.packs import index_cache
from pogfast.stores.packs.index_cache import IndexCache
from pogfast.stores.packs.layout import MAX_INDEX, index_path

DATA = [make_index([listed([(name_of(sha256(b"%d" % number)), b"blob")])]) for number in range(3)]
PATHS = [index_path(sha256(data)) for data in DATA]
NAMES = [path.rpartition("/")[2] for path in PATHS]

pytestmark = pytest.mark.usefixtures("index_objects")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "user" / "cache"


@pytest.fixture
def cache(directory: Path) -> IndexCache:
    return IndexCache(str(directory), "s3://bucket/")


@pytest.fixture
def filled(cache: IndexCache) -> IndexCache:
    for path, data in zip(PATHS, DATA, strict=True):
        cache.put(path, data)
    return cache


def folder_of(directory: Path) -> Path:
    [folder] = directory.glob("*.packs")
    return folder


def files_in(directory: Path) -> set[str]:
    return set(os.listdir(folder_of(directory)))


def content(found: bytes | IndexFile | None) -> bytes | bytearray | None:
    return found.read() if isinstance(found, IndexFile) else found


@pytest.mark.parametrize(("beyond", "kind"), [(0, IndexFile), (1, bytes)])
def test_what_was_put_is_found(cache: IndexCache, monkeypatch: pytest.MonkeyPatch, beyond: int, kind: type) -> None:
    """In its file from LARGE bytes on, else in memory."""
    monkeypatch.setattr(index_cache, "LARGE", len(DATA[0]) + beyond)
    assert cache.get(PATHS[0]) is None
    cache.put(PATHS[0], memoryview(DATA[0]))
    found = cache.get(PATHS[0])
    assert content(found) == DATA[0]
    assert type(found) is kind
    assert cache.get(PATHS[1]) is None


def test_what_is_large_but_no_index_object_is_none(cache: IndexCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_cache, "LARGE", 100)
    path = index_path(sha256(bytes(100)))
    cache.put(path, bytes(100))
    assert cache.get(path) is None


def test_another_run_finds_it(directory: Path, filled: IndexCache) -> None:
    assert content(IndexCache(str(directory), "s3://bucket/").get(PATHS[2])) == DATA[2]


def test_each_store_has_its_own(directory: Path, filled: IndexCache) -> None:
    other = IndexCache(str(directory), "s3://bucket/other")
    assert other.get(PATHS[0]) is None
    other.put(PATHS[0], DATA[0])
    other.keep_only([])
    assert content(filled.get(PATHS[0])) == DATA[0]
    assert len(list(directory.glob("*.packs"))) == 2


def test_only_the_user_can_read_it(directory: Path) -> None:
    """And what identifies the store, such as its address, is not in a name."""
    old = os.umask(0)
    try:
        IndexCache(str(directory), "s3://bucket/").put(PATHS[0], DATA[0])
    finally:
        os.umask(old)
    folder = folder_of(directory)
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (directory, folder, folder / NAMES[0])}
    assert list(modes.values()) == [0o700, 0o700, 0o600]
    assert "bucket" not in folder.name
    assert (directory / "CACHEDIR.TAG").read_text().startswith("Signature: 8a477f597d28d172789f06886806bc55")


def test_keep_only(directory: Path, filled: IndexCache) -> None:
    folder = folder_of(directory)
    unfinished = f"{NAMES[1]}.123-0123abcd"
    for name in (unfinished, "a user's file"):
        (folder / name).write_bytes(b"x")
    filled.keep_only([PATHS[1], index_path(bytes(32))])
    assert files_in(directory) == {NAMES[1], "a user's file"}
    assert content(filled.get(PATHS[1])) == DATA[1]


def test_what_was_found_stays_when_the_file_goes(filled: IndexCache) -> None:
    found = filled.get(PATHS[0])
    filled.keep_only([])
    assert content(found) == DATA[0]


def test_nothing_stays_open(filled: IndexCache) -> None:
    before = len(os.listdir("/dev/fd"))
    for path in (*PATHS, index_path(bytes(32))):
        filled.get(path)
        filled.put(path, b"x")
    filled.keep_only([])
    assert len(os.listdir("/dev/fd")) == before


# ---- files that are not what they were


def rot(path: Path) -> None:
    flip(path, 100)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def lengthen(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"x")


def make_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("act", [rot, cut_short, empty, lengthen, make_fifo])
def test_a_damaged_file_is_deleted(directory: Path, filled: IndexCache, act: Callable[[Path], None]) -> None:
    act(folder_of(directory) / NAMES[0])
    assert filled.get(PATHS[0]) is None
    assert files_in(directory) == set(NAMES[1:])
    filled.put(PATHS[0], DATA[0])
    assert content(filled.get(PATHS[0])) == DATA[0]


def test_an_empty_file_is_none_whatever_its_name(directory: Path, cache: IndexCache) -> None:
    cache.put(index_path(sha256(b"")), b"")
    assert cache.get(index_path(sha256(b""))) is None
    assert files_in(directory) == set()


def test_a_file_under_the_name_of_another(directory: Path, cache: IndexCache) -> None:
    cache.put(PATHS[0], DATA[1])
    assert cache.get(PATHS[0]) is None
    assert files_in(directory) == set()


def test_what_is_too_large(directory: Path, filled: IndexCache) -> None:
    data = bytes(MAX_INDEX + 1)
    path = index_path(sha256(data))
    filled.put(path, data)
    assert files_in(directory) == set(NAMES)
    (folder_of(directory) / path.rpartition("/")[2]).write_bytes(data)
    assert filled.get(path) is None
    assert files_in(directory) == set(NAMES)


def test_links_are_not_followed(directory: Path, filled: IndexCache, tmp_path: Path) -> None:
    there = folder_of(directory) / NAMES[0]
    outside = tmp_path / "outside"
    there.rename(outside)
    there.symlink_to(outside)
    assert filled.get(PATHS[0]) is None
    filled.put(PATHS[0], DATA[0])
    assert not there.is_symlink()
    assert content(filled.get(PATHS[0])) == DATA[0] == outside.read_bytes()


def test_a_folder_that_is_a_link(directory: Path, filled: IndexCache, tmp_path: Path) -> None:
    folder = folder_of(directory)
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    assert filled.get(PATHS[0]) is None
    filled.put(index_path(bytes(32)), b"x")
    filled.keep_only([])
    assert set(os.listdir(tmp_path / "elsewhere")) == set(NAMES)


def test_a_directory_in_place_of_a_file(directory: Path, filled: IndexCache) -> None:
    there = folder_of(directory) / NAMES[0]
    there.unlink()
    there.mkdir()
    for number in range(20):  # whichever is first in the directory
        filled.put(index_path(bytes([number]) * 32), b"x")
    filled.put(PATHS[0], DATA[0])
    filled.keep_only([])
    assert filled.get(PATHS[0]) is None
    assert files_in(directory) == {NAMES[0]}


# ---- no cache is no error


@pytest.fixture
def as_user() -> Iterator[Callable[[], None]]:
    """Gives up the rights of root, whom modes of files do not bind, until the test ends."""
    own = os.geteuid()
    yield lambda: None if own else os.seteuid(65534)
    os.seteuid(own)


def open_to_all(path: Path, base: Path) -> None:
    """Lets every user in, since pytest's directories are the user's own; `base` is that of this process's tests."""
    top = base.parent if base.name.startswith("popen-") else base
    while path.stat().st_uid == os.geteuid() and (path.is_relative_to(top) or path.name.startswith("pytest-")):
        path.chmod(0o755)
        path = path.parent


def use(cache: IndexCache) -> bytes | IndexFile | None:
    """All methods; whether something was found in the end."""
    cache.put(PATHS[0], DATA[0])
    found = cache.get(PATHS[0])
    cache.keep_only(PATHS[:1])
    return found


def test_no_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor the working directory."""
    monkeypatch.chdir(tmp_path)
    assert use(IndexCache("", "store")) is None
    assert os.listdir(tmp_path) == []
    IndexCache(str(tmp_path), "store").put(PATHS[0], DATA[0])
    assert use(IndexCache("", "store")) is None


@pytest.mark.parametrize("name", ["\0", "x" * 300, "file/below", "\udcff\0"])
def test_a_directory_that_cannot_be(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert use(IndexCache(f"{tmp_path}/{name}", "store")) is None


def test_a_directory_that_cannot_be_written_to(tmp_path: Path, as_user: Callable[[], None]) -> None:
    tmp_path.chmod(0o500)
    as_user()
    assert use(IndexCache(str(tmp_path / "cache"), "store")) is None


def test_a_read_only_folder_is_still_read(
    directory: Path, filled: IndexCache, as_user: Callable[[], None], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = folder_of(directory)
    open_to_all(directory, tmp_path_factory.getbasetemp())
    folder.chmod(0o555)
    for name in NAMES:
        (folder / name).chmod(0o444)
    as_user()
    assert content(filled.get(PATHS[0])) == DATA[0]
    filled.put(index_path(sha256(b"new")), b"new")
    filled.keep_only([])
    assert content(filled.get(PATHS[0])) == DATA[0]
    assert filled.get(index_path(sha256(b"new"))) is None


@pytest.mark.parametrize("path", ["", "packs/index/", "packs/index/x", "../../x", "packs/index/" + "A" * 44])
def test_a_path_of_nothing(directory: Path, cache: IndexCache, path: str) -> None:
    cache.put(path, b"x")
    assert cache.get(path) is None
    assert not directory.exists()


def test_a_full_disk(directory: Path, cache: IndexCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of which only the beginning could be written leaves nothing."""

    class Full:
        def __init__(self, file: IO[bytes]) -> None:
            self.file = file

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def write(self, data: bytes) -> None:
            self.file.write(data[:10])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def open_full(*arguments: Any, **more: Any) -> Full:
        return Full(open(*arguments, **more))

    monkeypatch.setattr(index_cache, "open", open_full, raising=False)
    cache.put(PATHS[0], DATA[0])
    assert files_in(directory) == set()


# ---- memory

MEASURE = """
import re, sys
from pathlib import Path
from pogfast._engine import PackIndex
from pogfast.stores.packs.index_cache import IndexCache
def most():
    return int(re.search("VmHWM:(.*)kB", Path("/proc/self/status").read_text())[1]) << 10
cache, index = IndexCache(sys.argv[1], "s3://bucket/"), PackIndex()
before = most()
found = cache.get(sys.argv[2])
index.replace([(found, bytes([1]))])
print(len(found), most() - before)
names = [index.rows(0, row, row + 1)[0].name for row in range(0, 900_000, 300)]
assert all(map(index.find, names)) and all(index.find_many(names))
print(most() - before)
found.read()
print(most() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured in /proc")
def test_a_large_index_object_takes_little_memory(directory: Path, cache: IndexCache) -> None:
    """Neither when it is verified nor when it is searched, unlike one that is mapped, whose pages count once they are
    used."""
    rows = 900_000
    table = bytearray(os.urandom(44 * rows))
    for at, byte in enumerate(struct.pack("<I", 1000)):
        table[32 + at :: 44] = bytes([byte]) * rows
    data = build_index([(bytes(32), 20261130, 1044 * rows + 48)], [table])
    path = index_path(sha256(data))
    cache.put(path, data)
    program = [sys.executable, "-c", MEASURE, str(directory), path]
    ran = subprocess.run(program, capture_output=True, text=True, check=True, cwd=directory.parent)
    size, verified, searched, read = map(int, ran.stdout.split())
    assert size == len(data)
    assert verified < 8 << 20
    assert searched < 8 << 20
    assert read > 30 << 20

"""Snapshots and coarse clocks: a file may have other content and the same timestamps; the cache must not trust it."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from kit.commands import Runner
from pogfast.backup.cache_rows import StatData, is_racy
from pogfast.backup.mounts import Mounts

DAY = 86400 * 10**9


# ---- the rule --------------------------------------------------------------------------------------------------------


def test_a_live_file_system_is_as_new_as_the_clock() -> None:
    mounts = Mounts([1])
    mounts.see(1, 5)
    assert mounts.time_of(1, 10 * DAY) == 10 * DAY


def test_another_one_is_as_new_as_the_newest_that_was_seen_in_it() -> None:
    mounts = Mounts([])
    for device, ctime in ((2, 5), (2, 9), (2, 7), (3, 4)):
        mounts.see(device, ctime)
    assert mounts.time_of(2, DAY) == 9
    assert mounts.time_of(3, DAY) == 4
    mounts.see(3, 2 * DAY)
    assert mounts.time_of(3, DAY) == DAY, "a clock of the future proves nothing"


@pytest.mark.parametrize(
    ("ctime", "newest", "unseen"),
    [
        (5 * DAY + 1, 5 * DAY + 1, True),
        (5 * DAY + 1, 5 * DAY + 50_000_000, True),
        (5 * DAY + 1, 5 * DAY + 200_000_000, False),
        (5 * DAY, 5 * DAY + 200_000_000, True),  # whole seconds
        (5 * DAY, 5 * DAY + 10**9, True),
        (5 * DAY, 5 * DAY + 3 * 10**9, False),
    ],
)
def test_stamps_as_new_as_the_newest_prove_nothing(ctime: int, newest: int, unseen: bool) -> None:
    data = StatData(1, ctime - DAY, ctime, 12)
    assert is_racy(data, newest) == unseen


def test_coarse_clocks_need_the_same_file_system(tmp_path: Path) -> None:
    mounts = Mounts([])
    stat = tmp_path.stat()
    here = SimpleNamespace(st_dev=stat.st_dev, st_ctime_ns=5 * 10**9)
    fine = SimpleNamespace(st_dev=stat.st_dev, st_ctime_ns=5 * 10**9 + 1)
    there = SimpleNamespace(st_dev=os.stat("/proc").st_dev, st_ctime_ns=5 * 10**9)
    assert mounts.identity(str(tmp_path), fine) == 0  # type: ignore[arg-type]
    numbers = {mounts.identity(str(tmp_path), here), mounts.identity("/proc", there)}  # type: ignore[arg-type]
    assert len(numbers) == 2
    assert 0 not in numbers


# ---- with real snapshots ---------------------------------------------------------------------------------------------


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "mnt"
    place.mkdir()
    yield place
    subprocess.run(["umount", "-q", place], check=False, capture_output=True)


def mount(image: Path, place: Path) -> None:
    command = ["mount", "-o", "loop", image, place]
    if os.geteuid() or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")


def unmount(place: Path) -> None:
    subprocess.run(["umount", place], check=True)


def image_of(path: Path, inode: int) -> None:
    if not shutil.which("mkfs.ext4"):
        pytest.skip("there is no mkfs.ext4 here")
    with open(path, "wb") as image:
        image.truncate(16 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-I", str(inode), path], check=True, capture_output=True)


def content(pogfast: Runner, name: str) -> bytes:
    return pogfast("cat", f"store/{name}", "mnt/f", "--keyfile", "key").out


@pytest.fixture
def create(tmp_path: Path, pogfast: Runner):
    (tmp_path / "key").write_bytes(b"key")

    def call() -> tuple[str, str]:
        ran = pogfast("create", "mnt", "--to", "store", "--keyfile", "key")
        assert ran.code == 0, ran.err
        return ran.lines[0], ran.err

    return call


def test_two_snapshots_within_one_second_at_the_same_place(
    tmp_path: Path, mounted: Path, pogfast: Runner, create
) -> None:
    image_of(tmp_path / "image", 128)
    mount(tmp_path / "image", mounted)
    (mounted / "old").write_bytes(b"an older file")
    (mounted / "f").write_bytes(b"0")
    time.sleep(2.1)
    time.sleep(1.05 - time.time() % 1)  # the beginning of a second
    (mounted / "f").write_bytes(b"one")
    subprocess.run(["sync", "-f", mounted], check=True)
    shutil.copyfile(tmp_path / "image", tmp_path / "first")
    (mounted / "f").write_bytes(b"two")
    after = (mounted / "f").stat()
    unmount(mounted)

    mount(tmp_path / "first", mounted)
    before = (mounted / "f").stat()
    if (before.st_ctime_ns, before.st_mtime_ns) != (after.st_ctime_ns, after.st_mtime_ns):
        pytest.skip("this machine was too slow to change it twice in a second")
    time.sleep(2.1)
    first, _ = create()
    unmount(mounted)
    mount(tmp_path / "image", mounted)
    second, said = create()
    assert (content(pogfast, first), content(pogfast, second)) == (b"one", b"two")
    assert "1 unchanged" in said, "the older file is known"


def test_two_file_systems_that_agree_in_all_stamps(tmp_path: Path, mounted: Path, pogfast: Runner, create) -> None:
    """Made by the same script in the same second, say: they are told apart."""
    time.sleep(1.02 - time.time() % 1)
    for name in (b"one", b"two"):
        image_of(tmp_path / name.decode(), 128)
    stamps = set()
    for name in (b"one", b"two"):
        mount(tmp_path / name.decode(), mounted)
        (mounted / "f").write_bytes(name)
        unmount(mounted)
    for name in ("one", "two"):  # something newer in each, so that stamps alone would be believed
        mount(tmp_path / name, mounted)
        data = (mounted / "f").stat()
        stamps.add((data.st_ino, data.st_ctime_ns, data.st_mtime_ns))
        unmount(mounted)
    if len(stamps) > 1:
        pytest.skip("this machine was too slow to make both in a second")
    time.sleep(2.5)
    for name in ("one", "two"):
        mount(tmp_path / name, mounted)
        (mounted / "newer").touch()
        unmount(mounted)
    made = []
    for name in ("one", "two"):
        mount(tmp_path / name, mounted)
        made.append(create()[0])
        unmount(mounted)
    assert [content(pogfast, name) for name in made] == [b"one", b"two"]


def test_a_snapshot_with_a_fine_clock_is_known_again(tmp_path: Path, mounted: Path, create) -> None:
    image_of(tmp_path / "image", 256)
    mount(tmp_path / "image", mounted)
    for name in ("f", "old"):
        (mounted / name).write_bytes(b"content")
    time.sleep(0.3)
    (mounted / "new").write_bytes(b"newest")
    unmount(mounted)
    shutil.copyfile(tmp_path / "image", tmp_path / "first")
    for image in ("first", "image"):
        mount(tmp_path / image, mounted)
        time.sleep(0.3)
        _, said = create()
        unmount(mounted)
    assert "2 unchanged" in said, "all but the newest"

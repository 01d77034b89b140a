"""Power cuts: files that a restore has reported are on the disk, and files that may not be are restored again.

An ext4 in a file is mounted. Its image is copied as it is at that moment, without what only the page cache has, and the
copy is mounted: that is the disk after a power cut.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit.commands import Ran, Runner, run
from kit.powercut import has_strace

MTIME = 1_600_000_001
SIZES = [6_000_000, 2_000_000, 70_000, 1]


class Disk:
    def __init__(self, top: Path, inode: int) -> None:
        self.image, self.place, self.after = top / "image", top / "disk", top / "after"
        for place in (self.place, self.after):
            place.mkdir()
        with open(self.image, "wb") as image:
            image.truncate(40 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-I", str(inode), self.image], check=True, capture_output=True)
        # Names, sizes and times are on the disk within a second, as they are within five by default; data in thirty.
        if subprocess.run(["mount", "-o", "loop,commit=1", self.image, self.place], capture_output=True).returncode:
            pytest.skip("nothing can be mounted here")

    def cut(self) -> Path:
        """The disk after a power cut now."""
        copy = self.image.with_name("copy")
        shutil.copyfile(self.image, copy)
        subprocess.run(["mount", "-o", "loop", copy, self.after], check=True)
        return self.after

    def unmount(self) -> None:
        for place in (self.place, self.after):
            subprocess.run(["umount", "-q", place], check=False, capture_output=True)


@pytest.fixture
def disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Disk]:
    """Its times have nanoseconds, or whole seconds when a test says so."""
    if sys.platform != "linux" or os.geteuid() or not shutil.which("mkfs.ext4"):
        pytest.skip("it needs the right to mount, and mkfs.ext4")
    disk = Disk(tmp_path, getattr(request, "param", 256))
    yield disk
    disk.unmount()


@pytest.fixture
def archive(tmp_path: Path, pogfast: Runner) -> list[str]:
    """A store made of `tree`, and how to restore from it."""
    (tmp_path / "key").write_bytes(b"key")
    for number, size in enumerate(SIZES):
        file = tmp_path / "tree" / "d" / f"{number}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(random.Random(number).randbytes(size))
        file.chmod(0o640)
        os.utime(file, (MTIME, MTIME))
    (tmp_path / "tree" / "link").symlink_to("d/0")
    os.link(tmp_path / "tree" / "d" / "1", tmp_path / "tree" / "linked")
    (tmp_path / "tree" / "d").chmod(0o750)
    ran = pogfast("create", "tree", "--to", "store", "--keyfile", "key", "--chunk-size", "1MB", "--no-cache")
    assert ran.code == 0, ran.err
    return ["restore", "store/latest", "--keyfile", "key", "--into"]


def facts(top: Path) -> dict[str, tuple[int, int, int | str]]:
    """Mode, time in seconds and content of all that is below."""
    found: dict[str, tuple[int, int, int | str]] = {}
    for path in sorted(top.rglob("*")):
        kept = path.lstat()
        content = os.readlink(path) if path.is_symlink() else "" if path.is_dir() else hash(path.read_bytes())
        found[str(path.relative_to(top))] = kept.st_mode, kept.st_mtime_ns // 10**9, content
    return found


def test_what_is_restored_outlasts_a_power_cut(tmp_path: Path, disk: Disk, archive: list[str], pogfast: Runner) -> None:
    ran = pogfast(*archive, "disk")
    assert ran.code == 0, ran.err
    assert facts(disk.cut() / "tree") == facts(tmp_path / "tree")


@pytest.mark.skipif(not has_strace(), reason="strace is not installed, or may not trace")
def test_the_disk_begins_on_a_file_while_the_rest_is_written(tmp_path: Path, pogfast: Runner) -> None:
    (tmp_path / "key").write_bytes(b"key")
    (tmp_path / "file").write_bytes(random.Random(1).randbytes(25 << 20))
    assert pogfast("create", "file", "--to", "store", "--keyfile", "key", "--chunk-size", "10MB").code == 0
    traced = ["strace", "-f", "-o", "traced", "-e", "trace=sync_file_range,syncfs", sys.executable, "-m", "pogfast"]
    ran = run([*traced, "restore", "store/latest", "--keyfile", "key", "--into", "out"], tmp_path)
    assert ran.code == 0, ran.err
    before, synced, _ = (tmp_path / "traced").read_text().partition("syncfs(")
    begun = [(int(at), int(at) + int(n)) for at, n in re.findall(r"sync_file_range\(\d+, (\d+), (\d+)", before)]
    assert synced
    for stretch in range(0, 24 << 20, 8 << 20):
        assert any(start <= stretch and stretch + (8 << 20) <= end for start, end in begun), begun
    assert all(end <= 24 << 20 for _, end in begun)


def test_every_file_system_below_the_directory_is_synced(
    tmp_path: Path, disk: Disk, archive: list[str], pogfast: Runner
) -> None:
    (tmp_path / "out" / "tree").mkdir(parents=True)
    (tmp_path / "out" / "tree" / "d").mkdir()
    subprocess.run(["mount", "--bind", disk.place, tmp_path / "out" / "tree" / "d"], check=True)
    try:
        ran = pogfast(*archive, "out", "--overwrite=if-changed")
    finally:
        subprocess.run(["umount", tmp_path / "out" / "tree" / "d"], check=True)
    assert ran.code == 0, ran.err
    after = facts(disk.cut())
    assert {name: after[name] for name in after if name != "lost+found"} == facts(tmp_path / "tree" / "d")


def test_a_file_system_makes_no_way_for_a_file(tmp_path: Path, disk: Disk, archive: list[str], pogfast: Runner) -> None:
    (disk.place / "precious").touch()
    (tmp_path / "out" / "tree" / "d" / "0").mkdir(parents=True)
    subprocess.run(["mount", "--bind", disk.place, tmp_path / "out" / "tree" / "d" / "0"], check=True)
    try:
        ran = pogfast(*archive, "out", "--overwrite=always", "--delete")
        kept = (disk.place / "precious").exists()
    finally:
        subprocess.run(["umount", tmp_path / "out" / "tree" / "d" / "0"], check=True)
    assert (ran.code, kept) == (3, True)
    assert "tree/d/0: not restored, a directory is in its place" in ran.err
    assert "it is another file system" in ran.err


def test_what_pog_has_restored_outlasts_a_power_cut(tmp_path: Path, disk: Disk, archive: list[str]) -> None:
    [manifest] = (tmp_path / "store").glob("*.mfn")
    arguments = ["--keyfile=../key", "--decrypt", f"local:../store/{manifest.name}"]
    ran = run([sys.executable, "-m", "pogfast.pog", *arguments], disk.place)
    assert ran.code == 0, ran.err
    after = facts(disk.cut())
    for name, (_, mtime, content) in facts(tmp_path / "tree").items():
        if not (tmp_path / "tree" / name).is_dir() and name != "link":
            assert after[f"tree/{name}"][1:] == (mtime, content)


@pytest.mark.parametrize("disk", [256, 128], indirect=True, ids=["nanoseconds", "seconds"])
def test_what_a_power_cut_has_interrupted_is_restored_again(
    tmp_path: Path, disk: Disk, archive: list[str], pogfast: Runner
) -> None:
    """Names and sizes are on the disk, and zeros for data."""
    environment = {**os.environ, "POGFAST_CACHE_DIR": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "pogfast", *archive, "disk"]
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (disk.place / "tree" / "d" / "0").exists() and time.monotonic() < deadline:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(2.5)
    after = disk.cut()
    kept = facts(tmp_path / "tree")
    for name, there in facts(after / "tree").items():
        if name.startswith("d/") and there[1] == MTIME and ".pogfast-" not in name:
            assert there == kept[name], "what has its time is whole"
    ran: Ran = pogfast(*archive, "after")
    assert ran.code == 0, ran.err
    assert facts(after / "tree") == kept

"""Trees of many nested directories: the work for each must not grow with its depth."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit.commands import Runner
from pogfast.files.directories import Directories

DEPTH = 1000


def test_nested_directories_are_not_walked_from_the_top_for_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The deepest first, as their metadata is set: 2,000 of them took three minutes."""
    steps = 0
    step = Directories._step

    def counted(self: Directories, directory: int, part: str, path: str) -> int | None:
        nonlocal steps
        steps += 1
        return step(self, directory, part, path)

    monkeypatch.setattr(Directories, "_step", counted)
    with Directories(str(tmp_path), 400) as directories:
        for depth in range(DEPTH, 0, -1):
            directories.make_room()
            directories.open("/".join("d" * depth))
            assert len(directories.held) <= 400
    subprocess.run(["rm", "-rf", tmp_path / "d"], check=True)  # shutil.rmtree of Python 3.11 cannot go so deep
    assert steps < 40 * DEPTH


@pytest.fixture
def deep(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "deep"
    subprocess.run(["rm", "-rf", tmp_path], check=True)


def build(top: Path, depth: int) -> int:
    """Makes nested directories of 200 letters, with a file in the last. Returns the descriptor of the half way."""
    top.mkdir()
    directory = half = os.open(top, os.O_RDONLY)
    for number in range(depth):
        os.mkdir("d" * 200, dir_fd=directory)
        directory = os.open("d" * 200, os.O_RDONLY, dir_fd=directory)
        half = directory if number == depth // 2 else half
    os.close(os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=directory))
    return half


def test_what_lies_deeper_than_a_path_can_say(tmp_path: Path, deep: Path, pogfast: Runner) -> None:
    """docs/guide.md, "Limits": create reports it and leaves it out; from a directory closer to it, it is archived, and
    restored to where no path leads."""
    half, here = build(deep, 36), os.getcwd()
    (tmp_path / "key").write_bytes(b"key")
    key = ("--keyfile", str(tmp_path / "key"))
    ran = pogfast("create", "deep", "--to", "store", *key)
    assert ran.code == 3
    assert "File name too long" in ran.err
    os.fchdir(half)  # where subprocess can start, though no path leads there
    try:
        store = str(tmp_path / "near")
        assert pogfast("create", ".", "--to", store, *key, cwd=None).code == 0
        into = tmp_path / "/".join(["e" * 200] * 10)
        assert pogfast("restore", f"{store}/latest", "--into", str(into), *key, cwd=None).code == 0
        ran = pogfast("check", f"{store}/latest", "--against", str(into), *key, cwd=None)
        assert (ran.code, ran.err.splitlines()[-1]) == (0, "compared 1 file, 0 B: 0 differences, 0 errors")
    finally:
        os.chdir(here)
        os.close(half)

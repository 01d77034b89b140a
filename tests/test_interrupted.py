"""Runs that are killed: nothing torn is ever visible, and the next run of the same command goes on."""

from __future__ import annotations

import filecmp
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kit.commands import Runner
from pogfast._engine import open_blob
from pogfast.keys import from_keyfile

ROUNDS = 50
COMMAND = [sys.executable, "-m", "pogfast", "create", "tree", "--to=store", "--keyfile=key", "--chunk-size=1MB"]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "tree"
    for number in range(400):
        place = top / f"{number % 20}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number}").write_bytes(os.urandom(random.randrange(20_000)))
    (top / "large").write_bytes(os.urandom(150_000_000))
    (tmp_path / "key").write_bytes(os.urandom(32))
    return top


def environment(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "POGFAST_CACHE_DIR": str(tmp_path / "cache")}


def start(tmp_path: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        COMMAND,
        cwd=tmp_path,
        env=environment(tmp_path),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # A shell that runs tests in the background has them ignore Ctrl-C, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def blobs(tmp_path: Path) -> set[Path]:
    return set((tmp_path / "store").glob("data/*/*"))


def whole(blob: Path, tmp_path: Path) -> None:
    key = from_keyfile(str(tmp_path / "key"))
    assert open_blob(key.secret, None, blob.read_bytes(), blob.name) is not None


def finish(tmp_path: Path, pogfast: Runner) -> None:
    done = pogfast(*COMMAND[3:], cwd=tmp_path, env=environment(tmp_path))
    assert done.code == 0, done.err
    checked = pogfast("check", "store", "--read-data", "--keyfile=key", cwd=tmp_path)
    assert checked.code == 0, checked.err
    restored = pogfast("restore", "store/latest", "--into=out", "--keyfile=key", cwd=tmp_path)
    assert restored.code == 0, restored.err
    for path in (tmp_path / "tree").rglob("*"):
        if path.is_file():
            assert filecmp.cmp(path, tmp_path / "out" / path.relative_to(tmp_path), shallow=False)


def test_killed_fifty_times_in_a_row(tmp_path: Path, tree: Path, pogfast: Runner) -> None:
    seen: set[Path] = set()
    killed = 0
    source = random.Random(1)
    while killed < ROUNDS:
        process = start(tmp_path)
        time.sleep(source.uniform(0.02, 0.5))
        process.kill()
        through = process.wait() != -signal.SIGKILL
        process.communicate()
        found = blobs(tmp_path)
        for blob in found - seen:
            whole(blob, tmp_path)
        seen = found
        if through:  # it was faster: there must be something left to do for the next
            shutil.rmtree(tmp_path / "store")
            seen = set()
        killed += not through
    finish(tmp_path, pogfast)
    # What is left of killed runs does not stay for ever.
    expected = [*(tmp_path / "store").glob("*.mfn"), *(tmp_path / "store").glob("verified.*")]
    assert {path.name for path in (tmp_path / "store").iterdir()} == {"data", *(path.name for path in expected)}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_by_a_signal(tmp_path: Path, tree: Path, pogfast: Runner, number: signal.Signals) -> None:
    process = start(tmp_path)
    while not blobs(tmp_path) and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert b"Traceback" not in err
    assert err.count(b"\n") <= 2
    assert b"interrupted" in err
    assert out == b""
    assert not list((tmp_path / "store").glob("*.mfn"))
    for blob in blobs(tmp_path):
        whole(blob, tmp_path)
    finish(tmp_path, pogfast)

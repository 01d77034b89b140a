"""Commands that run in forks (kit/forks.py) do what they do in processes of their own."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from kit import forks
from kit.commands import Ran, run

KEYFILE = ["--keyfile", "k"]


def both(*arguments: str, cwd: Path, stdin: bytes = b"", **variables: str) -> Ran:
    """Runs a command in both ways, which must not differ."""
    env = {**os.environ, "POGFAST_CACHE_DIR": str(cwd / "cache"), **variables}
    wanted = run([sys.executable, "-m", "pogfast", *arguments], cwd, stdin, env=env)
    assert forks.command("pogfast", *arguments, cwd=cwd, env=env, stdin=stdin) == wanted
    return wanted


@pytest.fixture
def store(tmp_path: Path) -> Path:
    (tmp_path / "k").write_bytes(bytes(32))
    (tmp_path / "f").write_bytes(os.urandom(300_000))
    create = ["create", "f", "--to", "store", *KEYFILE]
    assert forks.command("pogfast", *create, cwd=tmp_path).code == 0
    return tmp_path


def test_output_errors_and_exit_codes(store: Path) -> None:
    assert both("--version", cwd=store).code == 0
    assert both("cat", "store/latest", "f", *KEYFILE, cwd=store).out == (store / "f").read_bytes()
    assert both("cat", "store/latest", "none", *KEYFILE, cwd=store).code == 3
    assert both("list", "absent", *KEYFILE, cwd=store).code == 10
    assert both("no-such-verb", cwd=store).code == 2
    assert both("ls", "store/latest", cwd=store, stdin=b"wrong\n").code == 12


def test_variables(store: Path) -> None:
    zones = [both("list", "store", *KEYFILE, cwd=store, TZ=zone).out for zone in ("Asia/Tokyo", "America/Lima")]
    assert zones[0] != zones[1]
    assert both("list", *KEYFILE, cwd=store, POGFAST_STORE="store").code == 0
    assert both("--help", cwd=store, LC_ALL="C", PYTHONUTF8="0").code == 0


def test_a_command_that_is_killed(tmp_path: Path) -> None:
    (tmp_path / "dies.py").write_text("import os\nprint(os.getcwd(), flush=True)\nos.kill(os.getpid(), 9)\n")
    assert forks.command("dies", cwd=tmp_path) == Ran(-9, f"{tmp_path}\n".encode(), "")

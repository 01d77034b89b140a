"""What the tests share: the vectors, the real pogcli in environments of its own, and ways to run commands."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, settings

VECTORS = Path(__file__).parent / "vectors"
RELEASES = ("0.1.3", "0.1.4")
CACHE = Path(os.environ.get("POGFAST_TEST_CACHE", Path.home() / ".cache" / "pogfast-tests"))

# Timings vary on shared machines, and the engine's threads make no example slower than another.
settings.register_profile(
    "default", max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
settings.register_profile("quick", settings.get_profile("default"), max_examples=15)
settings.load_profile("quick" if os.environ.get("POGFAST_TEST_QUICK") else "default")


@dataclass(frozen=True)
class Vector:
    """One archive that a pogcli release wrote."""

    release: str
    name: str
    directory: Path
    expected: dict
    archive: dict

    @property
    def mode(self) -> str:
        return self.archive["mode"]

    @property
    def manifest(self) -> bytes:
        return (self.directory / self.archive["manifest"]).read_bytes()

    def file(self, name: str) -> Path:
        """A key file of this release."""
        return self.directory.parent / name


def all_vectors() -> list[Vector]:
    found = []
    for release in RELEASES:
        root = VECTORS / f"pogcli-{release}"
        expected = json.loads((root / "expected.json").read_text())
        for name, archive in sorted(expected["archives"].items()):
            found.append(Vector(release, name, root / name, expected, archive))
    assert len(found) == 12, "six archives of each release"
    return found


@pytest.fixture(params=all_vectors(), ids=lambda vector: f"{vector.release}-{vector.name}")
def vector(request: pytest.FixtureRequest) -> Vector:
    return request.param


@dataclass
class Ran:
    """A command that has ended."""

    code: int
    out: bytes
    err: str

    @property
    def lines(self) -> list[str]:
        return os.fsdecode(self.out).splitlines()


Runner = Callable[..., Ran]


def plant_socket(path: Path) -> None:
    """A socket of this name, bound from within its directory: an address of one has at most 107 bytes."""
    with socket.socket(socket.AF_UNIX) as listening, contextlib.chdir(path.parent):
        listening.bind(path.name)


def run(command: list[str | bytes | Path], cwd: Path, stdin: bytes = b"", **more: object) -> Ran:
    """Runs a command without a terminal, so that a password is read from `stdin`."""
    more.setdefault("start_new_session", True)
    done = subprocess.run(command, cwd=cwd, input=stdin, capture_output=True, check=False, timeout=300, **more)
    return Ran(done.returncode, done.stdout, done.stderr.decode(errors="replace"))


@pytest.fixture
def pog(tmp_path: Path) -> Runner:
    """Our `pog`, in tmp_path unless `cwd` says otherwise."""

    def call(*arguments: str | bytes | Path, cwd: Path = tmp_path, **more: object) -> Ran:
        ran = run([sys.executable, "-m", "pogfast.pog", *arguments], cwd, **more)
        assert "Traceback" not in ran.err, ran.err
        return ran

    return call


@pytest.fixture
def pogfast(tmp_path: Path) -> Runner:
    """The command `pogfast`, in tmp_path unless `cwd` says otherwise, with a cache of this test's own."""

    def call(*arguments: str | bytes | Path, cwd: Path = tmp_path, **more: object) -> Ran:
        more.setdefault("env", {**os.environ, "POGFAST_CACHE_DIR": str(tmp_path / "cache")})
        ran = run([sys.executable, "-m", "pogfast", *arguments], cwd, **more)
        assert "Traceback" not in ran.err, ran.err
        return ran

    return call


@pytest.fixture
def cli(work: Path) -> Runner:
    """The command `pogfast` in the directory that a test file's own fixture `work` furnishes, with its environment."""

    def call(*arguments: str | bytes | Path, cwd: Path = work, **more: object) -> Ran:
        ran = run([sys.executable, "-m", "pogfast", *arguments], cwd, **more)
        assert "Traceback" not in ran.err, ran.err
        assert "a defect" not in ran.err, ran.err
        return ran

    return call


def pogcli_python(release: str) -> Path:
    """The interpreter of an environment that holds the real pogcli; made once."""
    # The zstd inside decides the names, so both sides must have the same, also when ours is another than last time.
    home = CACHE / f"pogcli-{release}-zstandard-{zstandard.__version__}"
    return installed(home.name, f"pogcli=={release}", f"zstandard=={zstandard.__version__}") / "python"


def installed(name: str, *packages: str) -> Path:
    """The bin directory of an environment that holds these; made once, by whoever comes first."""
    home = CACHE / name
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (home / "ready").exists():
            subprocess.run([sys.executable, "-m", "venv", "--clear", home], check=True)
            subprocess.run([home / "bin" / "python", "-m", "pip", "install", "-q", *packages], check=True)
            (home / "ready").touch()
    return home / "bin"


@pytest.fixture(scope="session", params=RELEASES)
def pogcli(request: pytest.FixtureRequest) -> Runner:
    """The real pogcli, each release."""
    python = pogcli_python(request.param)

    def call(*arguments: str | bytes | Path, cwd: Path, **more: object) -> Ran:
        return run([python, "-m", "pog.pog", *arguments], cwd, **more)

    return call


@pytest.fixture(scope="session")
def pogcli_014() -> Runner:
    """The real pogcli 0.1.4, the only one with --concurrency."""
    python = pogcli_python("0.1.4")

    def call(*arguments: str | bytes | Path, cwd: Path, **more: object) -> Ran:
        return run([python, "-m", "pog.pog", *arguments], cwd, **more)

    return call

"""Environments of Python for what is not installed beside pogfast: pogcli's releases, and servers."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import zstandard

RELEASES = ("0.1.3", "0.1.4")  # of pogcli
CACHE = Path(os.environ.get("POGFAST_TEST_CACHE", Path.home() / ".cache" / "pogfast-tests"))


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

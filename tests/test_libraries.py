"""What the import says when a library that the engine needs is not there, or not the right one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from pogfast import _engine


def import_with(packages: Path) -> str:
    """The last line of what an import of the engine says, with `packages` before all installed ones."""
    environment = {**os.environ, "PYTHONPATH": f"{packages}:{Path(_engine.__file__).parent.parent}"}
    ran = subprocess.run(
        [sys.executable, "-c", "import pogfast._engine"], capture_output=True, text=True, check=False, env=environment
    )
    assert ran.returncode == 1
    return ran.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("package", "library", "name", "function"),
    [
        ("nacl", "_sodium.abi3.so", "PyNaCl", "sodium_init"),
        ("zstandard", "_cffi.so", "zstandard", "ZSTD_versionNumber"),
    ],
)
def test_a_library_that_lacks_a_function(tmp_path: Path, package: str, library: str, name: str, function: str) -> None:
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").touch()
    said = import_with(tmp_path)
    assert said.startswith(f"ImportError: pogfast needs {name}, which is not installed or cannot be loaded: pip")
    # Any other shared object will do for one that is too old.
    shutil.copy(find_spec("pogfast._engine").origin, tmp_path / package / library)
    said = import_with(tmp_path)
    assert said.startswith(f"ImportError: {name} ")
    assert f" lacks the function {function}: pip install '{name}" in said


def test_the_zstd_is_that_of_the_wheel() -> None:
    import zstandard

    assert ".".join(map(str, zstandard.ZSTD_VERSION)) == _engine.ZSTD_VERSION

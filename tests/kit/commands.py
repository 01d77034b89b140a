"""Commands that are run, and what is left of them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


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
SECONDS = 300  # after which a command hangs


def run(command: Sequence[str | bytes | Path], cwd: Path | None, stdin: bytes = b"", **more: Any) -> Ran:
    """Runs a command without a terminal, so that a password is read from `stdin`."""
    more.setdefault("start_new_session", True)
    done = subprocess.run(command, cwd=cwd, input=stdin, capture_output=True, check=False, timeout=SECONDS, **more)
    return Ran(done.returncode, done.stdout, done.stderr.decode(errors="replace"))

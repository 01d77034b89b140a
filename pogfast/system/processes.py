"""Ends programs that were started in a session of their own, with all that they have started.

Knows neither why they were started nor why they are to end.
"""

from __future__ import annotations

import contextlib
import os
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from subprocess import Popen  # not imported: most runs do not need it, and it takes time

KILL_AFTER = 5.0  # seconds between SIGTERM and SIGKILL


def end(process: Popen[bytes], *, kill_after: float = KILL_AFTER) -> None:
    """Ends a program, which leads its process group, and then what is left of the group: SIGTERM, and SIGKILL once the
    program has ended or `kill_after` seconds have passed."""
    from subprocess import TimeoutExpired

    _signal(process, signal.SIGTERM)
    with contextlib.suppress(TimeoutExpired):
        process.wait(kill_after)
    _signal(process, signal.SIGKILL)
    process.wait()


def _signal(process: Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)

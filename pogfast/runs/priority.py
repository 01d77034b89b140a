"""Lowers the priority of this process, and of the threads and programs that it starts from then on.

For good: the system lets nobody but root raise it again, so a program that goes on afterwards must not do this.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable

from pogfast.config.schema import Priority

CLASSES = {"low": ("-c2", "-n7"), "idle": ("-c3",)}  # best effort, at its lowest level; only when nobody else reads


def lower(priority: Priority, warn: Callable[[str], None]) -> None:
    """Lowers the priority of CPU and disks as far as `priority` says, never raises it. `warn` is called for what this
    system cannot do."""
    more = priority.nice - os.getpriority(os.PRIO_PROCESS, 0)
    if more > 0:
        os.nice(more)
    if priority.io != "normal":
        try:
            command = ["ionice", *CLASSES[priority.io], "-p", str(os.getpid())]
            ran = subprocess.run(command, capture_output=True, text=True, check=False)
            said = ran.stderr.strip() if ran.returncode else ""
        except OSError as error:
            said = f"ionice: {error.strerror}"
        if said:
            warn(f"the priority of disks stays as it is: {said}")

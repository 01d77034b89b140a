"""Temporary names of files that are being written, and removal of those that killed processes left.

Files in a store and restored files get their final names when they are complete. Until then their names contain the
machine and process that write them, so that the next run can remove the files of dead processes.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re

# Another machine may write to the same directory, and its processes are not visible from this one.
HOST = re.sub(r"[^A-Za-z0-9]", "", os.uname().nodename)[:32] or "host"
UNFINISHED = re.compile(r"\.pogfast-([A-Za-z0-9]+)-([0-9]+)-[0-9]+-[0-9a-z]+\.(tmp|part)")
NUMBERS = itertools.count()


def temporary_prefix() -> bytes:
    """Returns a prefix for the name of an unfinished file, different in each call, process and machine."""
    return f".pogfast-{HOST}-{os.getpid()}-{next(NUMBERS)}-".encode()


def remove_unfinished(directory: int) -> None:
    """Removes unfinished files of this machine's dead processes from an open directory. Anything that cannot be removed
    (a directory, another user's file) stays, and does no harm."""
    for name in os.listdir(directory):
        unfinished = UNFINISHED.fullmatch(name)
        if unfinished and unfinished[1] == HOST and not _is_alive(int(unfinished[2])):
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=directory)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True

"""Files that are being written, under temporary names, and those that processes left when they were killed.

A store's files and restored files get their own names when they are complete. Until then their names say which machine
and process writes them, so that the next run can remove what a dead one has left.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re

# Another machine may write to the same directory: its processes cannot be seen from here.
HOST = re.sub(r"[^A-Za-z0-9]", "", os.uname().nodename)[:32] or "host"
UNFINISHED = re.compile(r"\.pogfast-([A-Za-z0-9]+)-([0-9]+)-[0-9]+-[0-9a-z]+\.(tmp|part)")
NUMBERS = itertools.count()


def temporary_prefix() -> bytes:
    """Returns what the name of an unfinished file begins with. No two calls, processes or machines get the same."""
    return f".pogfast-{HOST}-{os.getpid()}-{next(NUMBERS)}-".encode()


def remove_unfinished(directory: int) -> None:
    """Removes unfinished files of this machine's dead processes from an open directory. What cannot be removed (a
    directory, another user's file) stays: it does no harm."""
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

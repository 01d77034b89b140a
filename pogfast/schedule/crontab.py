"""Schedules profiles with cron: a block of the user's crontab each, between two marked lines.

All other lines stay as they are, byte for byte. The crontab is read and written by the program `crontab`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shlex
import socket
import subprocess
from collections.abc import Iterator

from pogfast.errors import PogfastError, UsageError
from pogfast.schedule.jobs import Job, mark_of, plain
from pogfast.system.environment import for_child

PATH = "/usr/bin:/bin"  # of what cron runs
PATIENCE = 60.0  # seconds
EMPTY = b"no crontab for"  # what `crontab -l` says when there is none


class Cron:
    """The crontab of the user."""

    word = label = "cron"

    def planned(self, job: Job) -> dict[str, str]:
        """Returns the lines of a profile, below the name of what they are written to. Raises UsageError."""
        return {"crontab": self._block(job)}

    def enable(self, job: Job) -> bool:
        """Writes the lines of a profile. Returns False if they were there already. Raises PogfastError."""
        block = self._block(job).encode()
        before = _crontab()
        head, found, rest = _split(before, job.mark)
        if found == block:
            return False
        if not found and head and not head.endswith(b"\n"):
            head += b"\n"
        _write(head + block + rest)
        return True

    def disable(self, name: str, config_file: str) -> bool:
        """Removes the lines of a profile. Returns False if there were none. Raises PogfastError."""
        head, found, rest = _split(_crontab(), mark_of(name, config_file))
        if not found:
            return False
        _write(head + rest)
        return True

    def is_enabled(self, name: str, config_file: str) -> bool:
        """Returns True if the crontab has the lines of a profile. Raises PogfastError."""
        return bool(_split(_crontab(), mark_of(name, config_file))[1])

    def lacking(self, job: Job) -> Iterator[UsageError]:
        """Yields what a run of the profile would not have."""
        above = b""
        with contextlib.suppress(PogfastError):  # who only shows what would be written need not have one
            above = _split(_crontab(), job.mark)[0]
        hint = "write its value, or set it in the crontab, above the lines of pogfast: crontab -e"
        return job.lacking(PATH, lambda name: re.search(rb"^\s*%b\s*=" % name.encode(), above, re.M) is not None, hint)

    def remark(self) -> str:
        """Returns what the user should know, or ""."""
        return ""

    def _block(self, job: Job) -> str:
        calendar = job.calendar
        if job.credentials:
            raise UsageError(f"profile {job.name} has credentials of systemd, which cron cannot pass on")
        given = [f"{name}={value}" for name, value in job.environment.items()]
        words = ["env", *given, *job.command, "--quiet"]
        # cron takes % for the end of the line, in quotes as well.
        command = " ".join(shlex.quote(plain(word)) for word in words).replace("%", "\\%") + " >/dev/null"
        wait = _delay(job) if job.profile.spread else 0
        line = f"{calendar.cron} {f'sleep {wait}; ' if wait else ''}{command}"
        return f"# {job.mark}: begin\n{line}\n# {job.mark}: end\n"


def _delay(job: Job) -> int:
    """Returns the seconds to wait: as cron cannot draw a number, one that differs between machines and profiles."""
    drawn = hashlib.sha256(f"{socket.gethostname()}\0{job.mark}".encode()).digest()
    return int.from_bytes(drawn[:8]) % max(1, int(job.profile.spread or 0))


def _split(text: bytes, mark: str) -> tuple[bytes, bytes, bytes]:
    """Returns what is before the block of a profile, the block, and what is behind it. Raises PogfastError."""
    begin, end = (f"# {mark}: {word}\n".encode() for word in ("begin", "end"))
    lines = text.splitlines(keepends=True)
    if begin not in lines and end not in lines:
        return text, b"", b""
    if lines.count(begin) != 1 or lines.count(end) != 1 or lines.index(end) < lines.index(begin):
        raise PogfastError(f"the crontab has half a block of pogfast: {mark}", hint="remove it with crontab -e")
    first, last = lines.index(begin), lines.index(end) + 1
    return b"".join(lines[:first]), b"".join(lines[first:last]), b"".join(lines[last:])


def _crontab() -> bytes:
    ran = _run(["crontab", "-l"])
    if ran.returncode and EMPTY not in ran.stderr:
        raise _failed(ran)
    return b"" if ran.returncode else ran.stdout


def _write(text: bytes) -> None:
    ran = _run(["crontab", "-"], text)
    if ran.returncode:
        raise _failed(ran)


def _run(command: list[str], given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    environ = {**for_child(credentials=False), "LC_ALL": "C"}
    try:
        return subprocess.run(command, input=given, capture_output=True, check=False, env=environ, timeout=PATIENCE)
    except subprocess.TimeoutExpired as error:
        raise PogfastError(f"{' '.join(command)} does not end") from error
    except OSError as error:
        raise PogfastError(f"cannot run crontab: {error.strerror}", hint="install cron") from error


def _failed(ran: subprocess.CompletedProcess[bytes]) -> PogfastError:
    said = os.fsdecode(ran.stderr).strip().splitlines()
    return PogfastError(f"{' '.join(ran.args)}: {said[-1] if said else f'exit status {ran.returncode}'}")

"""Tells others of a run: pings and messages, a log of JSON lines, and metrics for Prometheus.

What cannot be told is a warning, and never fails a run.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Callable
from typing import Literal

from pogfast.config.loading import Config
from pogfast.errors import PogfastError
from pogfast.runs import messages, metrics
from pogfast.runs.records import Record

Warn = Callable[[str], None]


def started(config: Config, record: Record, warn: Warn) -> None:
    """Tells that a run begins to work."""
    secret = config.profiles[record.profile].ping
    if secret is not None:
        _try("the ping of the start cannot be sent", lambda: messages.ping(secret, "start", ""), warn)


def ended(config: Config, record: Record, warn: Warn) -> None:
    """Tells that a run has ended. `warn` is called with what could not be told."""
    profile = config.profiles[record.profile]
    if profile.log is not None:
        _try(f"the log {profile.log} cannot be written", lambda: _log(str(profile.log), record), warn)
    if profile.metrics is not None:
        _try(
            f"the metrics {profile.metrics} cannot be written",
            lambda: metrics.write(config, str(profile.metrics), record),
            warn,
        )
    secret = profile.ping
    if secret is not None and record.took_place:
        kind: Literal["success", "fail"] = "success" if record.succeeded else "fail"
        _try("the ping of the end cannot be sent", lambda: messages.ping(secret, kind, messages.summary(record)), warn)
    if profile.notify and record.took_place and record.outcome != "success":
        _try("the notification cannot be sent", lambda: messages.notify(profile.notify, record), warn)


def _try(what: str, tell: Callable[[], None], warn: Warn) -> None:
    try:
        tell()
    except (OSError, PogfastError) as error:
        said = (error.strerror if isinstance(error, OSError) else None) or error
        warn(f"{what}: {said}")


def _log(path: str, record: Record) -> None:
    """Appends the line of `pogfast run --json`. A FIFO that nobody reads is not waited for."""
    line = json.dumps({"message_type": "run", **record.as_dict()}).encode() + b"\n"
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
    with open(os.open(path, flags, 0o600), "ab", buffering=0) as file:
        if _ends_within_a_line(path, file.fileno()):
            line = b"\n" + line
        if file.write(line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)


def _ends_within_a_line(path: str, fd: int) -> bool:
    """Returns True for a file that a full disk has left with half a line."""
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode) or not status.st_size:
        return False
    try:
        with open(path, "rb") as file:
            return os.pread(file.fileno(), 1, status.st_size - 1) != b"\n"
    except OSError:  # it may only be written to
        return False

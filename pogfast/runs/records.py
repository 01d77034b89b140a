"""The record of a run: what was done, when, and how it ended; and the file in which a profile's records are kept.

Records are JSON lines in the user's state directory, appended when a run ends. What shows how the profiles are doing
reads them: nothing has to be asked of a store. A file has at most a megabyte; the oldest records go.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, Literal

import msgspec
from msgspec import Struct, field

from pogfast.errors import PogfastError, UsageError
from pogfast.system.user_dirs import state_directory

MAX_SIZE = 1 << 20  # bytes of a file, of which half is kept when it is full: some hundred runs
MAX_MESSAGES = 20  # warnings and problems that a record quotes; it counts all
MAX_TEXT = 500  # characters of each
AHEAD = 600.0  # seconds that a clock may have been ahead when a run ended

# success: all was done. incomplete: some files were not read, or one of several stores failed. failed: a verb or hook
# failed. unmet: nothing was run, since something was needed that is not there. busy: nothing was run, since another run
# of the profile was under way. interrupted: by a signal.
Outcome = Literal["success", "incomplete", "failed", "unmet", "busy", "interrupted"]


class Message(Struct):
    """A problem: its text, the file or entry that it is about, and its exit code."""

    message: str
    path: str = ""
    code: int = 1


class VerbRecord(Struct):
    """One verb of a run. `stores` are names of the configuration; of copy, the first is the source. `archives`
    are those that it made, by store. `figures` are numbers of its summary; sizes are bytes. `error` is why it failed.
    `lacking` are sources that were not there, and stores that were lost; single files that cannot be read are neither.
    """

    verb: Literal["create", "copy", "prune", "check"]
    stores: list[str]
    start: str = ""  # ISO 8601 with offset; "" if it was skipped: an earlier verb had failed, or lacked something
    seconds: float = 0.0
    exit_code: int = 0
    source: str = ""  # of create: the name of a source that is the output of a command; "" for files
    archives: dict[str, str] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)
    error: str = ""
    lacking: list[str] = []

    @property
    def skipped(self) -> bool:
        return not self.start


class Record(Struct):
    """One run of a profile. Times are ISO 8601 with offset. `message` says why it did not succeed."""

    profile: str
    config: str  # the path of the configuration
    host: str
    start: str
    version: int = 1
    group: str = ""  # that was run
    end: str = ""
    seconds: float = 0.0
    exit_code: int = 0
    outcome: Outcome = "success"
    message: str = ""
    verbs: list[VerbRecord] = field(default_factory=list)
    problem_count: int = 0
    warning_count: int = 0
    problems: list[Message] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def archives(self) -> dict[str, list[str]]:
        """The archives that the run made, by store."""
        found: dict[str, list[str]] = {}
        for verb in self.verbs:
            for store, name in verb.archives.items():
                found.setdefault(store, []).append(name)
        return found

    @property
    def succeeded(self) -> bool:
        """Returns True if all that the profile asks for was done, apart from files that could not be read."""
        return self.outcome in ("success", "incomplete") and not self.lacking

    @property
    def lacking(self) -> list[str]:
        """Sources that were not there, and stores that were lost."""
        return [*dict.fromkeys(one for verb in self.verbs for one in verb.lacking)]

    @property
    def took_place(self) -> bool:
        """Returns False if nothing was run, since something was not there or another run was under way."""
        return self.outcome not in ("unmet", "busy")

    def is_of_future(self) -> bool:
        """Returns True if a clock that was ahead has dated this run: what it says of times is not believed."""
        return seconds_of(self.end or self.start) > time.time() + AHEAD

    def add_problem(self, error: PogfastError) -> None:
        self.problem_count += 1
        if len(self.problems) < MAX_MESSAGES:
            self.problems.append(Message(str(error)[:MAX_TEXT], error.path[:MAX_TEXT], error.exit_code))

    def add_warning(self, text: str) -> None:
        self.warning_count += 1
        if len(self.warnings) < MAX_MESSAGES:
            self.warnings.append(text[:MAX_TEXT])

    def as_dict(self) -> dict[str, Any]:
        found = msgspec.to_builtins(self)
        assert isinstance(found, dict)
        return found


def seconds_of(text: str) -> float:
    """Returns a time of a record in seconds since 1970, 0 for text that is none."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return 0.0


def state_path(*names: str) -> str:
    """Returns a path in the user's state directory, whose directories are made. Raises UsageError and OSError."""
    parent = state_directory()
    if not parent:
        raise UsageError("there is no state directory: the user has no home", hint="set POGFAST_STATE_DIR")
    path = os.path.join(parent, *names)
    for directory in (parent, os.path.dirname(path)):
        os.makedirs(directory, mode=0o700, exist_ok=True)
    return path


def append(record: Record) -> None:
    """Appends a record to those of its profile, whole or not at all. Raises UsageError and OSError."""
    append_line(state_path("runs", f"{record.profile}.jsonl"), json.dumps(record.as_dict()).encode())


def append_line(path: str, line: bytes) -> None:
    """Appends a line to a file of records, whole or not at all. Raises OSError."""
    line += b"\n"
    with alone(path):
        lines = _trimmed(path)
        if lines is not None:
            _replace(path, b"".join([*lines, line]))
            return
        with open(os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600), "rb+", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            if size and os.pread(file.fileno(), 1, size - 1) != b"\n":  # the rest of a line, from before a power cut
                line = b"\n" + line
            try:
                if file.write(line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
            except OSError:
                file.truncate(size)
                raise
            os.fsync(file.fileno())


@contextlib.contextmanager
def alone(path: str) -> Iterator[None]:
    """Lets one process at a time append to a file, or replace it."""
    with open(os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _trimmed(path: str) -> Sequence[bytes] | None:
    """Returns the newest lines of a file that is full, None for one that is not."""
    try:
        if os.stat(path).st_size < MAX_SIZE:
            return None
    except FileNotFoundError:
        return None
    kept: list[bytes] = []
    room = MAX_SIZE // 2
    with open(path, "rb") as file:
        for line in reversed(file.read().splitlines(keepends=True)):
            room -= len(line)
            if room < 0:
                break
            kept.insert(0, line)
    return kept


def _replace(path: str, data: bytes) -> None:
    draft = f"{path}.tmp"
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, path)


def history(profile: str, config: str | None = None) -> list[Record]:
    """Returns the records of a profile, the oldest first; with `config`, those of that configuration's. Lines that are
    no records are left out. Raises OSError."""
    parent = state_directory()
    lines: list[bytes] = []
    with contextlib.suppress(FileNotFoundError), open(os.path.join(parent, "runs", f"{profile}.jsonl"), "rb") as file:
        lines = file.read().splitlines() if parent else []
    found: list[Record] = []
    for line in lines:
        with contextlib.suppress(ValueError, msgspec.ValidationError, RecursionError):
            found.append(msgspec.convert(json.loads(line), Record))
    return [record for record in found if config is None or record.config == config]


def last(profile: str, config: str | None = None) -> Record | None:
    """Returns the newest record of a profile, None if there is none. Raises OSError."""
    found = history(profile, config)
    return found[-1] if found else None

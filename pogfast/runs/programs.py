"""Runs a program of the configuration: a hook, or a command that a run needs.

Programs get no secrets in their environment and no terminal. What they print goes to whoever wants it, line by line,
and the last line into the error. One that takes too long is ended, with all that it has started.
"""

from __future__ import annotations

import os
import select
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import IO

from pogfast.errors import PogfastError
from pogfast.sizes import show_seconds
from pogfast.system.environment import for_child
from pogfast.system.processes import end

PAUSE = 0.1  # seconds between two looks whether the program has ended
LEFT = 1.0  # seconds in which what is left of the output is read
MAX_LINE = 2000  # bytes of a line of output; the rest is cut off
Line = Callable[[str], None]


class ProgramFailed(PogfastError):
    """A program could not be run, failed, or took too long."""


class CannotRun(ProgramFailed):
    """A program could not be run at all: it is not there, or is none."""


def _ignore(line: str) -> None:
    """Ignores what a program prints."""


def run_program(command: Sequence[str], timeout: float, *, stdin: bytes = b"", line: Line = _ignore) -> None:
    """Runs a program until it ends. `line` is called with each line that it prints. Raises ProgramFailed."""
    with tempfile.TemporaryFile() as given:  # not a pipe: a program need not read it
        given.write(stdin)
        given.seek(0)
        try:
            process = subprocess.Popen(
                command,
                stdin=given,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=for_child(credentials=False),
                start_new_session=True,  # Ctrl-C ends the run, which ends its hooks in order
            )
        except (OSError, ValueError) as error:  # ValueError: a NUL in an argument
            reason = error.strerror if isinstance(error, OSError) else error
            raise CannotRun(f"cannot run {command[0]}: {reason}") from error
        assert process.stdout is not None
        output = _Output(process.stdout, line)
        try:
            with process.stdout:
                in_time = _wait(process, output, timeout)
        except BaseException:
            end(process)
            raise
    if not in_time:
        raise ProgramFailed(f"{command[0]} took longer than {show_seconds(timeout)}, and was ended")
    if process.returncode:
        code = process.returncode
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit status {code}"
        raise ProgramFailed(f"{command[0]} {how}{f': {output.last}' if output.last else ''}")


def _wait(process: subprocess.Popen[bytes], output: _Output, timeout: float) -> bool:
    """Passes on the output until the program ends, even if something that it has started still holds the pipe. Returns
    False if it took too long, and was ended."""
    ends = time.monotonic() + timeout
    while process.poll() is None:
        output.read(PAUSE)
        if time.monotonic() > ends:
            end(process)
            output.finish()
            return False
    output.finish()
    return True


class _Output:
    """The output of a program, as lines."""

    def __init__(self, pipe: IO[bytes], line: Line) -> None:
        self.pipe = pipe.fileno()
        self.line = line
        self.rest = b""
        self.last = ""
        self.ended = False
        os.set_blocking(self.pipe, False)

    def read(self, seconds: float) -> bool:
        """Passes on what comes within this time. Returns False if nothing did."""
        if self.ended:
            time.sleep(seconds)
            return False
        if not select.select([self.pipe], [], [], seconds)[0]:
            return False
        data = os.read(self.pipe, 1 << 16)
        self.ended = not data
        *lines, self.rest = (self.rest + data).split(b"\n")
        if len(self.rest) > MAX_LINE:
            lines, self.rest = [*lines, self.rest], b""
        for each in lines:
            self._pass_on(each)
        return bool(data)

    def finish(self) -> None:
        """Passes on what has been printed. Something that the program has started may go on printing: no end of it is
        waited for."""
        ends = time.monotonic() + LEFT
        while self.read(0) and time.monotonic() < ends:
            pass
        if self.rest:
            self._pass_on(self.rest)

    def _pass_on(self, raw: bytes) -> None:
        text = os.fsdecode(raw[:MAX_LINE].rstrip(b"\r"))
        if text.strip():
            self.last = text.strip()
        self.line(text)

"""Runs the command whose output is archived (`create --command`).

The output is read from a pipe by its descriptor. If the command fails, the caller must make no archive.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator

from pogfast.errors import PogfastError, UsageError
from pogfast.system.environment import for_child


@contextlib.contextmanager
def output_of(command: str) -> Iterator[int]:
    """Runs a command and gives the descriptor of its output, for the duration of a with-block.

    Raises UsageError and PogfastError if it cannot be run, and PogfastError at the end of the block if it failed. If
    the block raises, the command is killed.
    """
    import subprocess  # here, because most runs do not need it, and it takes time

    words = _words(command)
    try:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env=for_child(credentials=False),
            start_new_session=True,  # so that it can be killed with what it has started, which holds the pipe, too
        )
    except OSError as error:
        raise PogfastError(f"cannot run {words[0]}: {error.strerror}") from error
    assert process.stdout is not None
    try:
        with process.stdout:
            yield process.stdout.fileno()
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    if process.wait():
        code = process.returncode
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit status {code}"
        raise PogfastError(f"{words[0]} {how}: no archive was made")


def _words(command: str) -> list[str]:
    """Splits a command as a shell does. Raises UsageError."""
    import shlex  # here, because most runs do not need it

    try:
        words = shlex.split(command)
    except ValueError as error:
        raise UsageError(f"cannot understand the command {command}: {error}") from error
    if not words:
        raise UsageError("the command is empty")
    return words

"""Runs the command whose output is archived (`create --command`).

The output is read from a pipe by its descriptor. If the command fails or takes too long, the caller must make no
archive.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from pogfast.errors import PogfastError, UsageError
from pogfast.sizes import show_seconds
from pogfast.system.environment import for_child
from pogfast.system.processes import end

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess


@contextlib.contextmanager
def output_of(command: str, timeout: float | None = None) -> Iterator[int]:
    """Runs a command and gives the descriptor of its output, for the duration of a with-block.

    Raises UsageError and PogfastError if it cannot be run, and PogfastError at the end of the block if it failed. It is
    ended, with what it has started, if the block raises or after `timeout` seconds, which is a failure.
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
    limit = None
    try:
        if timeout is not None:
            limit = _Limit(process, timeout)
        with process.stdout:
            yield process.stdout.fileno()
        process.wait()
    except BaseException:
        end(process, kill_after=0)
        raise
    finally:
        if limit is not None:
            limit.lift()
    if limit is not None and limit.exceeded:
        raise PogfastError(
            f"{words[0]} took longer than {show_seconds(limit.seconds)}, and was ended: no archive was made"
        )
    if process.returncode:
        code = process.returncode
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit status {code}"
        raise PogfastError(f"{words[0]} {how}: no archive was made")


class _Limit:
    """Ends a program after some seconds, whoever waits for its output meanwhile."""

    def __init__(self, process: subprocess.Popen[bytes], seconds: float) -> None:
        self.process = process
        self.seconds = seconds
        self.exceeded = False
        self.timer = threading.Timer(seconds, self._end)
        self.timer.daemon = True  # a process that ends does not wait for it
        self.timer.start()

    def _end(self) -> None:
        self.exceeded = True
        end(self.process)

    def lift(self) -> None:
        """Ends the timer. If it has run out, all of the program's processes have ended when this returns."""
        self.timer.cancel()
        self.timer.join()


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

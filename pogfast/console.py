"""What the user sees of a command: the answer on standard output, everything else on standard error, an exit code.

Shared by `pog` and `pogfast`. Knows no verb and no option; imports nothing but the standard library, and no more of it
than --help has time for. Names pass through as the bytes that they are; no failure ends in a traceback.
"""

from __future__ import annotations

import gc
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from pogfast.errors import PogfastError

    ConsoleType = TypeVar("ConsoleType", bound="Console")

# Names beyond these are counted, not shown, when there is something to know of each.
MOST_NOTES = 20
# New objects after which Python looks for cycles among them. Its own 700 are for programs that make many; ours and its
# modules are read in for half of a short run.
YOUNG = 10_000


class Console:
    """The lines of one command, and the exit code that they add up to."""

    def __init__(self, command: str) -> None:
        self.command = command
        self.exit_code = 0
        self.notes = 0
        self.watched = sys.stdout is not None and sys.stdout.isatty()

    def print(self, line: str) -> None:
        """A line of the answer. A name that is not UTF-8 is printed as the bytes that it is."""
        try:
            raw = os.fsencode(line)
        except UnicodeEncodeError:
            raw = line.encode("utf-8", "backslashreplace")
        self.write(raw + b"\n")

    def write(self, raw: bytes | memoryview) -> None:
        """Bytes of the answer. Raises PogfastError when nobody takes them."""
        from pogfast.errors import PogfastError

        if sys.stdout is None:
            raise PogfastError("standard output is closed")
        rest = memoryview(raw)
        try:
            while rest:  # `python -u` writes what the system takes at once
                rest = rest[sys.stdout.buffer.write(rest) :]
            if self.watched:
                sys.stdout.buffer.flush()
        except OSError as error:
            raise self.cannot_print(error) from error

    def flush(self) -> None:
        if sys.stdout is None:
            return
        try:
            sys.stdout.buffer.flush()
        except OSError as error:
            raise self.cannot_print(error) from error

    def cannot_print(self, error: OSError) -> PogfastError:
        from pogfast.errors import PogfastError

        # What could not be written would be tried again, and complained about, when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return PogfastError(f"cannot write to standard output: {error.strerror}")

    def note(self, kind: str, text: str, hint: str = "") -> None:
        """A line on standard error, and the hint on the next."""
        for line in (f"{self.command}: {kind}: {text}", hint and f"  {hint}"):
            if line:
                self.say(line)

    def say(self, line: str) -> None:
        """A line on standard error; control characters in it are shown, not sent to the terminal."""
        if sys.stderr is not None:
            print(visible(line), file=sys.stderr)

    def problem(self, error: PogfastError) -> None:
        """Something failed and the rest goes on. The exit code will tell the worst: damage before all else."""
        self.note("error", str(error), error.hint)
        self.exit_code = 4 if 4 in (self.exit_code, error.exit_code) else self.exit_code or error.exit_code

    def fail(self, exit_code: int, text: str, hint: str = "") -> int:
        """The end, with nothing done or not all of it. Returns the exit code."""
        self.note("error", text, hint)
        return exit_code

    def tell(self, what: PogfastError | str) -> None:
        """What was come across on the way: a problem, or something to know."""
        if not isinstance(what, str):
            self.problem(what)
            return
        self.notes += 1
        if self.notes <= MOST_NOTES:
            self.note("warning", what)

    def count_notes(self) -> None:
        if self.notes > MOST_NOTES:
            self.note("warning", f"{self.notes - MOST_NOTES} more like these")


def visible(text: str) -> str:
    """The text with its control characters and what is not UTF-8 as escapes."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def guarded(console: ConsoleType, command: Callable[[ConsoleType], None]) -> int:
    """Runs a command, the last thing that its process does. Whatever it ends in becomes one line on standard error and
    an exit code."""
    from pogfast.errors import PogfastError

    gc.set_threshold(YOUNG)
    try:
        _end_on_sigterm()
        command(console)
        console.flush()
    except PogfastError as error:
        return console.fail(error.exit_code, str(error), error.hint)
    except KeyboardInterrupt:
        return console.fail(130, "interrupted; what is stored already is kept, run the command again to go on")
    except MemoryError as error:
        return console.fail(1, str(error) or "out of memory")
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return console.fail(1, f"{where}{error.strerror or error}")
    finally:
        gc.freeze()  # else Python looks through all that is left before it ends: a tenth of a short run
    return console.exit_code


def _end_on_sigterm() -> None:
    """SIGTERM ends a run as Ctrl-C does: unfinished files are taken away."""
    import signal

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    try:
        signal.signal(signal.SIGTERM, interrupt)
    except ValueError:
        return  # called from another thread than the main one: signals are somebody else's there

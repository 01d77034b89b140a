"""Output of a command: the answer on standard output, everything else on standard error, and an exit code; and the
password prompt.

Shared by `pog` and `pogfast`. It knows no verb and no option, and imports only the standard library, no more of it than
--help has time for. Names are printed as the bytes that they are; no failure ends in a traceback.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import sys

from pogfast.system.encoding import bytes_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from typing import TypeVar

    from pogfast.errors import PogfastError

    ConsoleType = TypeVar("ConsoleType", bound="Console")

# Names beyond these are counted, not shown, when there is something to know of each.
MAX_NOTES = 20
# New objects after which Python looks for cycles among them. Its own 700 are for programs that make many; ours and its
# modules are read in for half of a short run.
YOUNG = 10_000


class Console:
    """The lines of one command, and the exit code that they add up to."""

    def __init__(self, command: str) -> None:
        self.command = command
        self.exit_code = 0
        self.notes = 0
        self.stays = ""  # what is left, and what to do, when the command is interrupted
        self.watched = sys.stdout is not None and sys.stdout.isatty()

    def print(self, line: str) -> None:
        """A line of the answer. A name that is not UTF-8 is printed as the bytes that it is."""
        self.write(bytes_of(line) + b"\n")

    def answer(self, line: str) -> None:
        """The same of a line with names in it: on a terminal nothing of it is obeyed."""
        self.print(visible(line) if self.watched else line)

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
        """The error that ends a command whose answer cannot be written."""
        from pogfast.errors import PogfastError, ReaderGone

        _discard(1)
        kind = ReaderGone if error.errno in (errno.EPIPE, errno.ECONNRESET) else PogfastError
        return kind(f"cannot write to standard output: {error.strerror}")

    def note(self, kind: str, text: str, hint: str = "") -> None:
        """A line on standard error, and the hint on the next."""
        for line in (f"{self.command}: {kind}: {text}", hint and f"  {hint}"):
            if line:
                self.say(line)

    def say(self, line: str) -> None:
        """Writes a line to standard error; control characters in it are shown, not sent to the terminal.

        A standard error that cannot be written to never ends a command: a backup is worth more than its messages.
        """
        if sys.stderr is None:
            return
        try:
            print(visible(line), file=sys.stderr, flush=True)
        except OSError:
            _discard(2)

    def problem(self, error: PogfastError) -> None:
        """Reports an error after which the command goes on. The exit code will be that of the worst one."""
        self.note("error", str(error), error.hint)
        self.raise_exit_code(error.exit_code)

    def raise_exit_code(self, exit_code: int) -> None:
        """Sets the exit code unless that of an earlier problem is worse."""
        from pogfast.errors import worst_code

        self.exit_code = worst_code((self.exit_code, exit_code))

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
        if self.notes <= MAX_NOTES:
            self.note("warning", what)

    def count_notes(self) -> None:
        if self.notes > MAX_NOTES:
            self.note("warning", f"{self.notes - MAX_NOTES} more like these")


def check_values(arguments: Sequence[str], names: Collection[str], valued: Mapping[str, str]) -> None:
    """Refuses an option of `names` where the value of another one should be: in `--to --json` it was forgotten.
    `valued` are those that take one, each with its long name. Raises UsageError."""
    rest = iter(arguments)
    for argument in rest:
        if argument == "--":
            return
        value = next(rest, "") if argument in valued else ""
        if value.partition("=")[0] in names:
            from pogfast.errors import UsageError

            hint = f"write {valued[argument]}={value} if it is meant"
            raise UsageError(f"{argument} has no value: {value} is an option", hint=hint)


def visible(text: str) -> str:
    """The text with its control characters and what is not UTF-8 as escapes."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def guarded(console: ConsoleType, command: Callable[[ConsoleType], None]) -> int:
    """Runs a command, the last thing that its process does. Whatever it ends in becomes one line on standard error and
    an exit code. When the reader of standard output is gone, as in `ls | head -1`, there is no line."""
    from pogfast.errors import PogfastError, ReaderGone

    gc.set_threshold(YOUNG)
    try:
        _open_standard_files()
        _dump_no_core()
        _end_on_signals()
        command(console)
        console.flush()
    except ReaderGone as error:
        return error.exit_code
    except PogfastError as error:
        return console.fail(error.exit_code, str(error), error.hint)
    except KeyboardInterrupt:
        return console.fail(130, "; ".join(filter(None, ("interrupted", console.stays))))
    except MemoryError as error:
        return console.fail(1, str(error) or "out of memory")
    except ImportError as error:  # a library that is missing, too old, or gives wrong answers
        return console.fail(1, str(error))
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return console.fail(1, f"{where}{error.strerror or error}")
    finally:
        gc.freeze()  # else Python looks through all that is left before it ends: a tenth of a short run
    return console.exit_code


def _discard(descriptor: int) -> None:
    """Sends what is written to a standard file from now on to nowhere: what could not be written would be tried again,
    and complained about, when Python ends."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    os.close(null)


def _open_standard_files() -> None:
    """Opens /dev/null for each standard file that is closed, so that no file of a store ever takes its number, and
    receives what a library prints."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number that is free is this one


def _dump_no_core() -> None:
    """Has no memory written to a file should this process crash: keys and files are in it."""
    import resource

    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def _end_on_signals() -> None:
    """Makes SIGTERM and SIGHUP end a run as Ctrl-C does: unfinished files are removed. The first signal does so; of
    those that follow (a closed terminal sends several) only a second Ctrl-C has an effect, and ends the process at
    once. Signals that are ignored, as under nohup, stay ignored."""
    import signal

    def interrupt(number: int, frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        raise KeyboardInterrupt

    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                signal.signal(number, interrupt)
    except ValueError:
        return  # called from another thread than the main one: signals are somebody else's there


def ask_password(*, twice: bool, stdin_is_data: bool = False, variables: bool = False) -> str:
    """What the user types, `twice` for a key that writes: until both are the same. With `stdin_is_data` only a terminal
    will do. `variables`: the command takes keys from the environment, too, and says so.

    Raises UsageError when there is nobody to ask.
    """
    from pogfast.errors import UsageError

    hint = _instead(twice, stdin_is_data, variables)
    while True:
        given = _ask(stdin_is_data, hint)
        if twice and not given:
            raise UsageError("an empty password protects nothing")
        if not twice or _ask(stdin_is_data, hint) == given:
            return given
        print("The passwords differ; try again.", file=sys.stderr)


def _instead(writing: bool, stdin_is_data: bool, variables: bool) -> str:
    """What to do where nobody can type a password."""
    option, variable = (
        ("--encryption-keyfile", "POGFAST_ENCRYPTION_KEYFILE")
        if writing
        else ("--decryption-keyfile", "POGFAST_DECRYPTION_KEYFILE")
    )
    keys = f"{option} or --keyfile" + (f" (or set {variable} or POGFAST_KEYFILE)" if variables else "")
    if stdin_is_data:
        return f"give {keys}, or --password-file"
    return f"give {keys}, or the password on standard input" + (", twice" if writing else "")


def _ask(stdin_is_data: bool, hint: str) -> str:
    from pogfast.errors import UsageError

    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        if stdin_is_data:
            raise UsageError(
                "no password: there is no terminal, and standard input is the data to archive",
                hint=hint,
            ) from None
        line = sys.stdin.buffer.readline().decode("utf-8", "surrogateescape") if sys.stdin is not None else ""
        if not line:
            raise UsageError(
                "no password: there is no terminal, and standard input has ended",
                hint=hint,
            ) from None
        return line.rstrip("\r\n")
    from getpass import getpass

    try:
        return getpass("Password: ")
    except EOFError:
        raise UsageError("no password was given") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"the terminal sent a password that is not {error.encoding}") from None

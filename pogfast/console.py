"""Output of a command, its exit code, and the password prompt: shared by `pog` and `pogfast`.

Results go to standard output, everything else to standard error. Names are printed as the bytes that they are; no
failure ends in a traceback. Knows no verb and no option, and imports only those parts of the standard library that do
not slow down --help.
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
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
    from typing import TypeVar

    from pogfast.errors import PogfastError

    ConsoleType = TypeVar("ConsoleType", bound="Console")

# Warnings beyond this number are counted instead of printed.
MAX_WARNINGS = 20
# Lines that are written at a time.
LINES = 1000
# New objects after which Python's garbage collector runs. Its default of 700 would run it again and again while modules
# are imported, which is half of a short run.
GC_THRESHOLD = 10_000


class Console:
    """The output of one command, and its exit code: that of the worst problem."""

    def __init__(self, command: str) -> None:
        self.command = command
        self.exit_code = 0
        self.warnings = 0
        self.kept = ""  # what an interrupted command keeps, and how to continue it
        self.to_terminal = sys.stdout is not None and sys.stdout.isatty()

    def print(self, line: str) -> None:
        """Prints a line of the result. A name that is not UTF-8 is printed as the bytes that it is."""
        self.write(bytes_of(line) + b"\n")

    def answer(self, line: str) -> None:
        """Prints a line of the result that contains names: on a terminal, control characters are escaped."""
        self.print(visible(line) if self.to_terminal else line)

    def answers(self, lines: Iterable[str]) -> None:
        """Prints lines as `answer` does, but many at a time: a million are written without a million calls. On a
        terminal, and before an error, none waits."""
        waiting: list[str] = []
        try:
            for line in lines:
                waiting.append(line)
                if self.to_terminal or len(waiting) == LINES:
                    self._answer_all(waiting)
        finally:
            self._answer_all(waiting)

    def _answer_all(self, lines: list[str]) -> None:
        if not lines:
            return
        text = "\n".join([*(map(visible, lines) if self.to_terminal else lines), ""])
        lines.clear()
        self.write(bytes_of(text))

    def write(self, raw: bytes | memoryview) -> None:
        """Writes bytes of the result. Raises PogfastError if they cannot be written."""
        from pogfast.errors import PogfastError

        if sys.stdout is None:
            raise PogfastError("standard output is closed")
        rest = memoryview(raw)
        try:
            while rest:  # with `python -u` a write may be partial
                rest = rest[sys.stdout.buffer.write(rest) :]
            if self.to_terminal:
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
        """Returns the error that ends a command whose result cannot be written."""
        from pogfast.errors import PogfastError, ReaderGone

        _discard(1)
        kind = ReaderGone if error.errno in (errno.EPIPE, errno.ECONNRESET) else PogfastError
        return kind(f"cannot write to standard output: {error.strerror}")

    def note(self, kind: str, text: str, hint: str = "") -> None:
        """Prints a line on standard error, and the hint on the next."""
        for line in (f"{self.command}: {kind}: {text}", hint and f"  {hint}"):
            if line:
                self.say(line)

    def say(self, line: str) -> None:
        """Writes a line to standard error; control characters in it are shown, not sent to the terminal.

        If standard error cannot be written to, the command goes on: a backup is worth more than its messages.
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
        """Prints the error that ended the command, and returns the exit code."""
        self.note("error", text, hint)
        return exit_code

    def tell(self, what: PogfastError | str) -> None:
        """Reports a problem or a warning after which the command goes on."""
        if not isinstance(what, str):
            self.problem(what)
            return
        self.warnings += 1
        if self.warnings <= MAX_WARNINGS:
            self.note("warning", what)

    def count_warnings(self) -> None:
        if self.warnings > MAX_WARNINGS:
            self.note("warning", f"{self.warnings - MAX_WARNINGS} more like these")


def check_values(arguments: Sequence[str], names: Collection[str], valued: Mapping[str, str]) -> None:
    """Raises UsageError for an option in the place of a value, which was forgotten, as in `--to --json`.

    `names` are all options; `valued` those that take a value, each with its long name.
    """
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
    """Returns the text with control characters, and bytes that are not UTF-8, escaped."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def guarded(console: ConsoleType, command: Callable[[ConsoleType], None]) -> int:
    """Runs a command and returns its exit code; the process must exit next.

    Every exception becomes one line on standard error and an exit code. If the reader of standard output has exited, as
    in `ls | head -1`, nothing is printed.
    """
    from pogfast.errors import PogfastError, ReaderGone

    gc.set_threshold(GC_THRESHOLD)
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
        return console.fail(130, "; ".join(filter(None, ("interrupted", console.kept))))
    except MemoryError as error:
        return console.fail(1, str(error) or "out of memory")
    except ImportError as error:  # a library that is missing, too old or faulty
        return console.fail(1, str(error))
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return console.fail(1, f"{where}{error.strerror or error}")
    finally:
        gc.freeze()  # otherwise Python's exit would collect garbage first, which takes a tenth of a short run
    return console.exit_code


def _discard(descriptor: int) -> None:
    """Redirects a standard file to /dev/null: otherwise Python would try to write the rest again at exit, and print an
    error."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    os.close(null)


def _open_standard_files() -> None:
    """Opens /dev/null for each closed standard file. Otherwise a file of a store could get its number, and receive what
    a library prints."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # gets this number, the lowest free one


def _dump_no_core() -> None:
    """Disables core dumps: the memory of this process contains keys and content of files."""
    import resource

    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def _end_on_signals() -> None:
    """Makes SIGTERM and SIGHUP end a run as Ctrl-C does, so that unfinished files are removed.

    Only the first signal does so. Of those that follow (a closed terminal sends several), only a second Ctrl-C has an
    effect: it ends the process at once. Signals that are ignored, as under nohup, stay ignored.
    """
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
        return  # not in the main thread, where alone signals can be handled


def ask_password(*, twice: bool, stdin_is_data: bool = False, variables: bool = False) -> str:
    """Asks for a password and returns it; with `twice`, for keys that write, until both entries are the same.

    Without a terminal it is read from standard input, unless `stdin_is_data`. With `variables`, the hint of the error
    also names environment variables. Raises UsageError if no password can be read.
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
    """Returns the hint for a run in which nobody can type a password."""
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
                "no key given, and no password: there is no terminal, and standard input is the data to archive",
                hint=hint,
            ) from None
        line = sys.stdin.buffer.readline().decode("utf-8", "surrogateescape") if sys.stdin is not None else ""
        if not line:
            raise UsageError(
                "no key given, and no password: there is no terminal, and standard input is empty",
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

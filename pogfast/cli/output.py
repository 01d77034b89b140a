"""What `pogfast` prints, as lines or JSON, at the chosen verbosity.

Results go to standard output; progress, summaries and errors to standard error. With --json, standard output has one
object per line with a `message_type`, and restic's keys where restic has one (docs/commands.md lists them). Knows no
verb, and imports nothing that would slow down --help.
"""

from __future__ import annotations

from pogfast.console import Console, visible
from pogfast.system.encoding import portable_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from pogfast.cli.progress import Display
    from pogfast.errors import PogfastError
    from pogfast.stores.limits import RateLimit


class Output(Console):
    """The console of `pogfast`. `volume` is -1 with --quiet, else the number of -v options."""

    def __init__(self) -> None:
        super().__init__("pogfast")
        self.quiet = False
        self.verbose = 0
        self.json = False
        self.debug = False
        self.errors = 0
        self.retries = 0  # retried requests to services
        self.during = ""  # the operation that errors belong to, in restic's words
        self.display: Display | None = None
        self.limits: dict[str, RateLimit] = {}  # of the options

    @property
    def volume(self) -> int:
        return -1 if self.quiet else self.verbose

    def check(self) -> None:
        """Raises UsageError for options that contradict each other."""
        if self.quiet and self.verbose:
            from pogfast.errors import UsageError

            raise UsageError("--quiet and --verbose cannot be combined")

    def table(self, head: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[int]) -> None:
        """Prints rows as columns under a head; columns in `right` are right-aligned."""
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        for row in [head, *rows]:
            cells = [
                cell.rjust(width) if i in right else cell.ljust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            self.answer("  ".join(cells).rstrip())

    def emit(self, message_type: str, **words: object) -> None:
        """Prints a JSON object if --json was given. Names that are not UTF-8 contain surrogate escapes. The number of
        retries is added to a summary."""
        if not self.json:
            return
        from json import dumps

        if message_type == "summary":
            words["retries"] = self.retries
        self.write(dumps(portable_all({"message_type": message_type, **words})).encode() + b"\n")

    def say(self, line: str) -> None:
        """Prints a line on standard error, above the progress bar if there is one."""
        if self.display is None:
            super().say(line)
        else:
            self.display.say(visible(line))

    def retried(self, text: str) -> None:
        """Counts and reports a retried request to a service. Called from any thread."""
        self.retries += 1
        self.info(f"pogfast: {text}", 1)

    def print_retries(self) -> None:
        """Prints the last line of a summary if requests were retried."""
        if self.retries:
            from pogfast.sizes import many

            were = "was" if self.retries == 1 else "were"
            self.info(f"retries  {many(self.retries, 'request')} to services failed and {were} retried; -v shows each")

    def info(self, line: str, volume: int = 0) -> None:
        """Prints a line for people if the volume is high enough; with --json, objects have the information."""
        if self.volume >= volume and not self.json:
            self.say(line)

    def item(self, outcome: str, name: str, size: int | None, dry_run: bool) -> None:
        """Prints what became of one archived name: the answer of a dry run; otherwise only shown with -vv."""
        if self.display:
            self.display.check()
        if not self.shows_items(dry_run):
            return
        if self.json:
            if dry_run or self.volume >= 2:
                self.emit("verbose_status", action=outcome, item=name, data_size=size)
        elif dry_run:
            self.answer(f"{outcome:10} {name}")
        else:
            self.info(f"{outcome:10} {name}", 2)

    def shows_items(self, dry_run: bool) -> bool:
        """Returns True if `item` prints anything."""
        return dry_run or self.verbose >= 2

    def remark(self, text: str) -> None:
        """Prints a note that would be the same in every run; not with --quiet."""
        if self.volume >= 0:
            self.note("note", text)
            self.emit("note", message=text)

    def problem(self, error: PogfastError) -> None:
        self.errors += 1
        super().problem(error)
        words = {"during": self.during, "item": error.path, "code": error.exit_code}
        self.emit("error", error={"message": str(error)}, **words)

    def refused(self, name: str, why: str) -> None:
        """Reports a name that was left alone because of an option: no error of its own, but the run is incomplete."""
        self.errors += 1
        self.note("error", f"{name}: {why}")
        self.emit("error", error={"message": why}, during=self.during, item=name, code=3)

    def damage(self, text: str, **words: object) -> None:
        """Reports damage."""
        self.errors += 1
        self.note("error", text)
        self.emit("error", error={"message": text}, during=self.during, code=4, **words)

    def warning(self, text: str) -> None:
        self.note("warning", text)
        self.emit("warning", message=text)

    def warn_of_unused_limits(self) -> None:
        """Warns of limits that have limited nothing."""
        for option, limit in self.limits.items():
            if not limit.services:
                self.warning(f"{option} limits services, and no store here is on one: nothing was limited")

    def fail(self, exit_code: int, text: str, hint: str = "") -> int:
        from pogfast.errors import PogfastError

        if self.debug:
            from traceback import print_exc

            print_exc()
        super().fail(exit_code, text, hint)
        try:
            self.emit("exit_error", code=exit_code, message=text)
            self.flush()
        except PogfastError:
            pass  # standard output is gone, and the reason has been printed
        return exit_code

"""The progress display of a long run: a bar on a terminal, otherwise a line now and then, or JSON.

A thread of its own reads the counters four times a second and on a signal (SIGUSR1, SIGINFO), whatever the main thread
does; the work is never interrupted for it. That thread imports rich only on a terminal, and only once there is
something to show. Knows no verb: it is given a label, a function that returns `Counters`, and where to print.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from pogfast.errors import PogfastError
from pogfast.sizes import many, show_size

if TYPE_CHECKING:
    from rich.progress import Progress

Style = Literal["bar", "lines", "json", "none"]

TICK = 0.25  # seconds between two reads of the counters
LINES_EVERY = 10.0  # seconds between two lines
JSON_EVERY = 1.0
PACE_OVER = 10.0  # seconds over which speed and remaining time are computed
BAR_WIDTH = 24
SIGNALS = [getattr(signal, name) for name in ("SIGUSR1", "SIGINFO") if hasattr(signal, name)]


class Counters(NamedTuple):
    """The state of a run. `size` is the original bytes that are finished; totals are None until they are known.

    `figures` are bytes by what was done with them ("read", "stored"); the first gives the speed. `noun` names what
    `files` counts.
    """

    files: int
    total_files: int | None
    size: int
    total_size: int | None
    figures: dict[str, int]
    noun: str = "file"
    workers: int | None = None  # threads of an executor's workers

    @property
    def share(self) -> float | None:
        """The finished fraction, 0 to 1; None if no total is known."""
        for done, total in ((self.size, self.total_size), (self.files, self.total_files)):
            if total:
                return min(done / total, 1.0)
        return None


class MovedBlobs(Protocol):
    """What a run counts that moves blobs; sizes are bytes."""

    blobs: int
    total_blobs: int
    size: int
    total_size: int


def of_blobs(run: MovedBlobs) -> Counters:
    """Returns the state of a run that moves blobs."""
    stored = {"stored": run.size}
    return Counters(run.blobs, run.total_blobs or None, run.size, run.total_size, stored, noun="blob")


class Pace:
    """Computes speed and remaining time from the last ten seconds."""

    def __init__(self) -> None:
        self.seen: deque[tuple[float, int, float]] = deque()  # time, bytes of the first figure, share

    def add(self, now: float, counters: Counters) -> None:
        self.seen.append((now, next(iter(counters.figures.values()), counters.size), counters.share or 0.0))
        while now - self.seen[0][0] > PACE_OVER:
            self.seen.popleft()

    def _gained(self) -> tuple[float, int, float]:
        (began, size, share), (now, size_now, share_now) = self.seen[0], self.seen[-1]
        return now - began, size_now - size, share_now - share

    @property
    def speed(self) -> float:
        """Bytes per second."""
        seconds, size, _ = self._gained() if self.seen else (0.0, 0, 0.0)
        return size / seconds if seconds else 0.0

    @property
    def seconds_left(self) -> float | None:
        seconds, _, share = self._gained() if self.seen else (0.0, 0, 0.0)
        return (1 - self.seen[-1][2]) * seconds / share if share > 0 else None


class Display:
    """Shows the progress of a run while entered.

    `say` writes a line to standard error, `emit` a JSON object to standard output. An error in `emit` is raised by
    `check` and on exit, in the thread that does the work.
    """

    def __init__(self, label: str, style: Style, say: Callable[[str], None], emit: Callable[[dict[str, Any]], None]):
        self.label = label
        self.style = style
        self.failure: PogfastError | None = None
        self._say = say
        self._emit = emit
        self._counters: Callable[[], Counters] | None = None
        self._began = self._told = time.monotonic()
        self._pace = Pace()
        self._bar: _Bar | None = None
        self._lock = threading.Lock()  # of the bar: lines and the bar itself come from two threads
        self._ended = False
        self._wake, self._waker = os.pipe()
        self._thread = threading.Thread(target=self._run, name="pogfast-progress", daemon=True)
        self._restore = contextlib.ExitStack()

    def __enter__(self) -> Display:
        for descriptor in (self._wake, self._waker):
            os.set_blocking(descriptor, False)
        if threading.current_thread() is threading.main_thread():
            self._restore.enter_context(_signals_to(self._waker))
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if error is None:
            self.check()

    def stop(self) -> None:
        """Removes the bar and shows no more progress; `say` still works."""
        if self._ended:
            return
        self._ended = True
        os.write(self._waker, b"\0")
        self._thread.join()
        self._restore.close()
        os.close(self._wake)
        os.close(self._waker)

    def watch(self, counters: Callable[[], Counters]) -> None:
        """Starts showing `counters`, which is called from another thread."""
        self._counters = counters

    def check(self) -> None:
        """Raises the error of the display thread, if there was one."""
        if self.failure:
            raise self.failure

    def say(self, line: str) -> None:
        """Prints a line on standard error, above the bar."""
        with self._lock:
            if self._bar:
                self._bar.say(line)
            else:
                self._say(line)

    # ---- the thread ----

    def _run(self) -> None:
        while not self._ended:
            ready, _, _ = select.select([self._wake], [], [], TICK)
            numbers = os.read(self._wake, 512) if ready else b""
            if any(number in numbers for number in SIGNALS):
                self.say(f"pogfast: {self.label}: {self._line()}")
            if not self._ended and self._counters:
                self._tick(time.monotonic(), self._counters())
        with self._lock:
            if self._bar:
                self._bar.stop()
                self._bar = None

    def _tick(self, now: float, counters: Counters) -> None:
        self._pace.add(now, counters)
        if self.style == "bar":
            with self._lock:
                self._bar = self._bar or _Bar(self.label)
                self._bar.show(counters.share, self._line())
        elif self.style == "lines" and now - self._told >= LINES_EVERY:
            self._told = now
            self.say(f"pogfast: {self.label}: {self._line()}")
        elif self.style == "json" and now - self._told >= JSON_EVERY and not self.failure:
            self._told = now
            try:
                self._emit(self._status(now, counters))
            except PogfastError as error:
                self.failure = error

    def _line(self) -> str:
        """Returns the state of the run as one line."""
        if not self._counters:
            return "starting"
        counters = self._counters()
        if not self._pace.seen:
            self._pace.add(self._began, counters._replace(files=0, size=0, figures=dict.fromkeys(counters.figures, 0)))
        total = "" if counters.total_files is None else f"/{counters.total_files:,}"
        parts = [f"{counters.files:,}{total} {counters.noun}s" if total else many(counters.files, counters.noun)]
        parts += [f"{show_size(size)} {word}" for word, size in counters.figures.items()]
        if counters.figures:
            parts.append(f"{show_size(self._pace.speed)}/s")
        if counters.workers is not None:
            parts.append(many(counters.workers, "worker"))
        left = self._pace.seconds_left
        return ", ".join(parts if left is None else [*parts, f"{show_seconds(left)} left"])

    def _status(self, now: float, counters: Counters) -> dict[str, Any]:
        """Returns the JSON object of a status: restic's keys, and one of ours for each figure."""
        words: dict[str, Any] = {"seconds_elapsed": int(now - self._began)}
        left = self._pace.seconds_left
        if left is not None:
            words["seconds_remaining"] = int(left)
        words["percent_done"] = counters.share or 0.0
        totals = ("total_files", counters.total_files), ("total_bytes", counters.total_size)
        for word, total in (*totals, ("workers", counters.workers)):
            if total is not None:
                words[word] = total
        return {
            **words,
            "files_done": counters.files,
            "bytes_done": counters.size,
            **{f"bytes_{word}": size for word, size in counters.figures.items()},
        }


@contextlib.contextmanager
def _signals_to(descriptor: int) -> Iterator[None]:
    """Writes a byte to `descriptor` for every signal, also while the main thread is in the engine."""
    before = signal.set_wakeup_fd(descriptor, warn_on_full_buffer=False)
    handlers = {number: signal.signal(number, lambda number, frame: None) for number in SIGNALS}
    for number in SIGNALS:
        signal.siginterrupt(number, False)  # so that no system call of the work fails with EINTR
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(before)


class _Bar:
    """A progress bar on the last line of the terminal, removed at the end."""

    def __init__(self, label: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn
        from rich.table import Column

        console = Console(file=sys.stderr)
        self.progress: Progress = Progress(
            TextColumn(label, table_column=Column(no_wrap=True, min_width=len(label))),
            BarColumn(min(BAR_WIDTH, console.width // 6)),
            TextColumn("{task.fields[line]}", table_column=Column(no_wrap=True, overflow="ellipsis")),
            console=console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self.task = self.progress.add_task("", total=None, line="")
        self.shown = False

    def show(self, share: float | None, line: str) -> None:
        total = None if share is None else 1.0
        percent = "" if share is None else f"{share:4.0%}  "
        self.progress.update(self.task, total=total, completed=share or 0.0, line=percent + line, refresh=self.shown)
        if not self.shown:
            self.progress.start()
            self.shown = True

    def say(self, line: str) -> None:
        from rich.text import Text

        self.progress.console.print(Text(line), soft_wrap=True)

    def stop(self) -> None:
        self.progress.stop()


def show_seconds(seconds: float) -> str:
    """Returns a duration as 0:07 or 1:20:00."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"

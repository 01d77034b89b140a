"""Jobs: what takes longer than a page, each in a thread of its own, however many tabs look at it.

A job has counters, lists of what happened, and at the end a summary; pages show these and never wait. Cancel raises
KeyboardInterrupt in the job's thread, as Ctrl-C does in a command, so what is kept is the same. Jobs end with the
server; history.py keeps what is known of those that have ended.
"""

from __future__ import annotations

import contextlib
import contextvars
import ctypes
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal, Protocol

from pogfast.errors import PogfastError, StoreLost, UsageError
from pogfast.system.notices import IGNORED, RETRIED

DAMAGE = "Damage"  # the list of what a check found
CHECKED = "checked"  # what a check does to a store
READ_ALL = " --read-data "  # in the command of one that reads all data
WENT_WELL = ("New and changed", "Steps")  # lists that are of no interest later
SHOWN = 200  # lines of each list that a job keeps; the others are counted
KEPT = 200  # jobs that have ended and stay in the history
PACE_OVER = 10.0  # seconds over which the present speed is measured
END_WITHIN = 10.0  # seconds that jobs get to stop when the server ends

State = Literal["running", "done", "warnings", "failed", "canceled"]
STATES: dict[State, str] = {
    "running": "Running",
    "done": "Done",
    "warnings": "Done, with warnings",
    "failed": "Failed",
    "canceled": "Canceled",
}
MOODS: dict[State, str] = {"running": "muted", "done": "good", "warnings": "warn", "failed": "bad", "canceled": "muted"}


@dataclass(frozen=True)
class Counters:
    """How far a job is; totals are None until they are known, sizes are bytes. `moved` gives the speed."""

    done: int = 0
    total: int | None = None
    size: int = 0
    total_size: int | None = None
    moved: int = 0
    noun: str = "file"

    @property
    def share(self) -> float | None:
        """The finished fraction, 0 to 1; None if no total is known."""
        for done, total in ((self.size, self.total_size), (self.done, self.total)):
            if total:
                return min(done / total, 1.0)
        return None


@dataclass
class Lines:
    """A list of what happened, of which the last lines are kept."""

    count: int = 0
    last: deque[str] = field(default_factory=lambda: deque(maxlen=SHOWN))

    def add(self, line: str) -> None:
        self.count += 1
        self.last.append(line)


@dataclass
class Place:
    """A store in a job: what is being done to it, a participle, how often requests to it were retried, and what
    follows if it was given up."""

    name: str  # on pages
    address: str
    label: str  # in messages
    done: str = ""
    retries: int = 0
    lost: str = ""


@dataclass
class Job:
    """One piece of work. Its thread writes, pages read; each field is replaced as a whole."""

    number: int
    title: str
    stores: tuple[Place, ...]
    command: str  # that does the same
    keeps: str  # what a canceled one leaves
    state: State = "running"
    began: datetime = field(default_factory=lambda: datetime.now(UTC))
    seconds: float | None = None
    exit_code: int | None = None
    error: str = ""
    hint: str = ""
    canceling: bool = False
    summary: list[tuple[str, str]] = field(default_factory=list)  # (label, text), when it has ended
    link: tuple[str, str] | None = None  # (address, text) of where to go on
    counters: Callable[[], Counters] = Counters
    table: tuple[list[str], list[list[str]]] | None = None  # heads and rows of results
    pictures: dict[str, bytes] = field(default_factory=dict)
    settings: dict[str, str | int] = field(default_factory=dict)  # that were found, for a profile
    lists: dict[str, Lines] = field(default_factory=dict)  # title -> lines
    thread: threading.Thread | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _started: float = field(default_factory=time.monotonic)
    _pace: deque[tuple[float, int, float]] = field(default_factory=deque)

    @property
    def ended(self) -> bool:
        return self.state != "running"

    @property
    def words(self) -> str:
        if self.is_damaged:
            return "Done, damage found"
        return "Canceling" if self.canceling and not self.ended else STATES[self.state]

    @property
    def is_damaged(self) -> bool:
        """True for a check that has ended and found damage."""
        return self.state == "warnings" and DAMAGE in self.lists

    @property
    def mood(self) -> str:
        """The class of the color in which the state is shown."""
        return "bad" if self.is_damaged else MOODS[self.state]

    @property
    def shape(self) -> str:
        return {"canceled": "○", "running": "…"}.get(self.state) or {"good": "✓", "warn": "▲", "bad": "✕"}[self.mood]

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self._started if self.seconds is None else self.seconds

    def note(self, title: str, line: str) -> None:
        """Adds a line to one of the lists."""
        self.lists.setdefault(title, Lines()).add(line)

    def problem(self, error: PogfastError) -> None:
        """Notes a problem that did not end the job."""
        if isinstance(error, StoreLost):
            for place in self.stores:
                if error.path in (place.address, place.label):
                    place.lost = f"given up: {error.hint}" if error.hint else "given up"
        self.note("Errors", f"{error}; {error.hint}" if error.hint else str(error))

    def warning(self, text: str) -> None:
        self.note("Warnings", text)

    def retried(self, text: str) -> None:
        """Notes that a request is made again, and to which store."""
        self.note("Requests that were retried", text)
        for place in self.stores:
            place.retries += place.label in text

    def pace(self) -> tuple[float, float, float | None]:
        """Returns bytes per second now and on average, and the seconds left, None if unknown."""
        now, counters = time.monotonic(), self.counters()
        with self._lock:
            seen = self._pace
            if not seen or now - seen[-1][0] > 0.2:
                seen.append((now, counters.moved, counters.share or 0.0))
            while len(seen) > 2 and now - seen[0][0] > PACE_OVER:
                seen.popleft()
            (first, moved, share), (last, moved_now, share_now) = seen[0], seen[-1]
        seconds, gained = last - first, share_now - share
        left = (1 - share_now) * seconds / gained if gained > 0 and seconds else None
        return (moved_now - moved) / seconds if seconds else 0.0, counters.moved / max(self.elapsed, 0.001), left

    def cancel(self) -> None:
        """Asks the job to stop, which it does at the next file or chunk."""
        with self._lock:
            if self.ended or self.thread is None or self.thread.ident is None:
                return
            self.canceling = True
            interrupt = ctypes.py_object(KeyboardInterrupt)
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self.thread.ident), interrupt)

    def _end(self, state: State) -> None:
        last = Counters()
        with contextlib.suppress(Exception):  # of a run that failed while it began
            last = self.counters()  # the function itself may hold on to a whole archive
        with self._lock:
            self.seconds = time.monotonic() - self._started
            self.counters = lambda: last
            self.state = state


# The work of a job: gets the job to report to. `exit_code` and `summary` may be set before it returns.
Work = Callable[[Job], None]


class History(Protocol):
    """Where jobs that have ended are written down: history.py."""

    def remember(self, job: Job) -> None:
        """Raises UsageError and OSError."""

    def remembered(self) -> Iterable[Job]:
        """Raises UsageError and OSError."""
        ...


class Jobs:
    """The jobs of this server, and those of earlier ones that the history has, the newest first."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._jobs: dict[int, Job] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._has_history = False

    def _load(self) -> None:
        """Adds the jobs of earlier servers, once; without a place for a history there are none."""
        with self._lock:
            if self._has_history:
                return
            self._has_history = True
            with contextlib.suppress(OSError, UsageError):
                for job in sorted(self._history.remembered(), key=lambda job: job.began)[-KEPT:]:
                    job.number = next(self._numbers)
                    self._jobs[job.number] = job

    def start(
        self,
        title: str,
        work: Work,
        *,
        stores: Iterable[Place] = (),
        command: str = "",
        keeps: str = "",
        finally_: Callable[[Job], None] = lambda job: None,
    ) -> Job:
        """Starts a job. `finally_` is called when it has ended, however it did."""
        self._load()
        with self._lock:
            job = Job(next(self._numbers), title, tuple(stores), command, keeps)
            self._jobs[job.number] = job
            ended = [each for each in self._jobs.values() if each.ended]
            for old in ended[: max(0, len(ended) - KEPT)]:
                del self._jobs[old.number]
        context = contextvars.copy_context()  # settings of services
        job.thread = threading.Thread(
            target=context.run, args=(self._run, job, work, finally_), name=f"pogfast-job-{job.number}", daemon=True
        )
        job.thread.start()
        return job

    def _run(self, job: Job, work: Work, finally_: Callable[[Job], None]) -> None:
        """Runs a job to its end. No exception leaves it: all are shown on the job's page."""
        try:
            _work(job, work)
        except KeyboardInterrupt:  # Cancel came when the work had ended just now
            job._end("canceled")
        finally:
            with contextlib.suppress(KeyboardInterrupt):
                finally_(job)
                self._remember(job)

    def _remember(self, job: Job) -> None:
        try:
            self._history.remember(job)
        except (OSError, UsageError) as error:
            job.note("Notes", f"the next server will not know of this job: {error}")

    def all(self) -> list[Job]:
        self._load()
        with self._lock:
            return sorted(self._jobs.values(), key=lambda job: -job.number)

    def running(self) -> list[Job]:
        with self._lock:
            return [job for job in reversed(self._jobs.values()) if not job.ended]

    def damage_in(self, address: str) -> Job | None:
        """Returns the last check that found damage in a store, unless one after it that read as much found none."""
        good: set[str] = set()  # the commands of later checks that found none
        for job in self.all():
            is_check = any((place.address, place.done) == (address, CHECKED) for place in job.stores)
            if is_check and job.is_damaged:
                return None if job.command in good or any(READ_ALL in command for command in good) else job
            if is_check and job.state == "done":
                good.add(job.command)
        return None

    def find(self, number: int) -> Job | None:
        self._load()
        return self._jobs.get(number)

    def end(self) -> list[Job]:
        """Cancels all jobs, and waits for them a little. Returns those that were running."""
        running = self.running()
        for job in running:
            job.cancel()
        until = time.monotonic() + END_WITHIN
        for job in running:
            if job.thread is not None:
                job.thread.join(max(0.0, until - time.monotonic()))
        return running


def _work(job: Job, work: Work) -> None:
    state: State
    RETRIED.set(job.retried)
    IGNORED.set(job.warning)
    try:
        work(job)
    except KeyboardInterrupt:
        job.exit_code, state = 130, "canceled"
    except PogfastError as error:
        job.error, job.hint, job.exit_code, state = str(error), error.hint, error.exit_code, "failed"
    except MemoryError:
        job.error, job.exit_code, state = "out of memory", 1, "failed"
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        job.error, job.exit_code, state = f"{where}{error.strerror or error}", 1, "failed"
    except ImportError as error:
        job.error, job.exit_code, state = str(error), 1, "failed"
    except Exception as error:  # noqa: BLE001 - shown on the page, as a command shows it
        job.error, job.exit_code, state = f"internal error: {type(error).__name__}: {error}", 1, "failed"
    else:
        job.exit_code = job.exit_code or 0
        warned = job.exit_code or any(title in job.lists for title in ("Errors", "Warnings", DAMAGE))
        state = "warnings" if warned else "done"
    job._end(state)

"""Has units done by a crew, a bounded number at a time, and returns what became of them in their order.

A unit may be done twice: one whose worker is lost, cannot do it, or cannot write is given to another.
"""

from __future__ import annotations

import contextlib
import queue
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pogfast.cluster.crews import Crew, Done
from pogfast.cluster.units import Failed, Job
from pogfast.errors import PogfastError

AHEAD = 3  # units that are submitted, for each that can be done at a time
UNREPORTED = 16  # times as many may be done behind one that takes long
TICK = 1.0  # seconds between two looks at the crew
MAX_PATIENCE = 600.0
ATTEMPTS = 3  # of a unit whose worker cannot write to the store, each by any worker
STRANDED = 2  # times that all workers are gone that might have done a unit, after which it counts as what they died of

U = TypeVar("U")
R = TypeVar("R")


@dataclass(eq=False)
class _Task(Generic[U, R]):
    unit: U
    future: Done | None = None
    result: R | None = None
    is_done: bool = False
    attempts: int = 0
    stranded: int = 0  # times that all workers were gone that might have done it
    patience: float = TICK  # seconds in which its result is fetched
    suspected: bool = False  # workers died of it, or of another unit that they had at the same time


class Line(Generic[U, R]):
    """Units in the order in which they are reported. `act(job, unit)` is what a worker does.

    `units` is read as the work goes on; None: read it again when the next unit has been reported. A unit whose workers
    die is reported without a result. With `certain` it is tried once more, while no other unit is being done, and so
    is certainly what they died of.
    """

    def __init__(
        self, crew: Crew, act: Callable[[Any, U], R | Failed], job: Job, units: Iterator[U | None], *, certain: bool
    ) -> None:
        self.crew = crew
        self.act = act
        self.job = job
        self.units = units
        self.certain = certain
        self.retries = 0
        self._tasks: deque[_Task[U, R]] = deque()
        self._running: set[_Task[U, R]] = set()
        self._suspects: deque[_Task[U, R]] = deque()
        self._ended: queue.SimpleQueue[tuple[_Task[U, R], Done]] = queue.SimpleQueue()
        self._later: list[tuple[_Task[U, R], Done]] = []  # results that could not be fetched
        self._paused = False
        self._exhausted = False
        self._looked = time.monotonic()

    def start(self) -> None:
        """Has the first units done before `run` does. Then `stop` must be called in any case."""
        self._submit_more()

    def stop(self) -> None:
        """Gives up what is being done."""
        for task in self._running:
            if task.future is not None:
                with contextlib.suppress(Exception):  # the executor may be gone
                    task.future.cancel()

    def run(self) -> Iterator[tuple[U, R | None]]:
        """Yields each unit and its result. To be closed if it is not read to its end. Raises what `units` raises,
        StoreError, and PogfastError if units cannot be done any more."""
        try:
            while True:
                self._submit_more()
                if not self._tasks:
                    assert self._exhausted, "units wait for one that is not there"
                    return
                first = self._tasks[0]
                if first.is_done:
                    self._tasks.popleft()
                    self._paused = False
                    yield first.unit, first.result
                else:
                    self._wait()
        finally:
            self.stop()

    def _submit_more(self) -> None:
        if self._suspects:
            if not self._running:
                self.crew.check()  # so that it is not given to workers that have just died
                self._submit(self._suspects.popleft())
            return
        if any(task.suspected for task in self._running):
            return
        most = AHEAD * max(1, self.crew.capacity())
        while len(self._running) < most and len(self._tasks) < most * UNREPORTED:
            if self._paused or self._exhausted:
                return
            try:
                unit = next(self.units)
            except StopIteration:
                self._exhausted = True
                return
            if unit is None:
                self._paused = True
                return
            task: _Task[U, R] = _Task(unit)
            self._tasks.append(task)
            self._submit(task)

    def _submit(self, task: _Task[U, R]) -> None:
        future = self.crew.submit(self.act, self.job, task.unit)
        task.future = future
        self._running.add(task)
        future.add_done_callback(lambda ended: self._ended.put((task, ended)))

    def _submit_again(self, task: _Task[U, R]) -> None:
        self.retries += 1
        self._submit(task)

    def _wait(self) -> None:
        """Takes a future that has ended; looks at the crew now and then, however many end."""
        left = self._looked + TICK - time.monotonic()
        if left <= 0:
            self._look()
            return
        try:
            task, future = self._ended.get(timeout=left)
        except queue.Empty:
            return
        if task.future is future:  # else it was stranded
            self._take(task, future)

    def _look(self) -> None:
        """Looks at the crew, and submits again what nobody will do."""
        self._looked = time.monotonic()
        self.crew.check()
        for ended in self._later:
            self._ended.put(ended)
        self._later.clear()
        for task in list(self._running):
            if task.future is not None and self.crew.is_stranded(task.future):
                with contextlib.suppress(Exception):
                    task.future.cancel()
                task.stranded += 1
                if task.stranded < STRANDED:
                    self._submit_again(task)
                else:  # all workers died each time: it may be what they die of
                    self._running.discard(task)
                    self._died(task)

    def _take(self, task: _Task[U, R], future: Done) -> None:
        if not future.done():  # its worker has died with the result, which another one makes again
            self._later.append((task, future))
            return
        try:
            result, error = _outcome(future, task.patience)
        except TimeoutError:
            if future.done():  # it is long
                task.patience = min(2 * task.patience, MAX_PATIENCE)
            self._later.append((task, future))
            return
        self._running.discard(task)
        task.future = None
        if error is not None:
            if not self.crew.is_death(error):
                raise PogfastError(f"the executor failed: {type(error).__name__}: {error}") from error
            self._died(task)
        elif not isinstance(result, Failed):
            task.result, task.is_done = result, True
        elif result.kind == "unsuitable":
            self.crew.refuse(result.worker, result.text)
            self._submit_again(task)
        elif result.kind == "store" and task.attempts < ATTEMPTS - 1:
            task.attempts += 1
            self._submit_again(task)
        else:
            raise result.error()

    def _died(self, task: _Task[U, R]) -> None:
        """Has a unit done alone whose workers died, or reports it so."""
        task.future = None
        if self.certain and not task.suspected:
            task.suspected, task.stranded = True, 0
            self._suspects.append(task)
        else:
            task.is_done = True


def _outcome(future: Done, patience: float) -> tuple[Any, BaseException | None]:
    """Returns what was returned, and why nothing was. Raises TimeoutError if that cannot be fetched now."""
    try:
        error = future.exception(timeout=patience)
        return (None, error) if error else (future.result(timeout=patience), None)
    except TimeoutError:
        raise
    except Exception as problem:  # noqa: BLE001 (of the executor: cancelled, or what it could not fetch)
        return None, problem

"""How many requests a service gets at a time, and the threads that make them. Knows neither requests nor bytes.

A transfer takes its latency, and then as long as its bytes share the line with those of others. While latency is a
large part of that, the line has room for more.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

from pogfast.sizes import MAX_PARALLEL

Result = TypeVar("Result")
Words = ParamSpec("Words")

# Requests at a time to begin with: enough for a service nearby.
START = 8
# Latencies that a transfer may take before the line counts as full: two are those of a body that is sent once the
# service has accepted the request.
PATIENCE = 3


class Concurrency:
    """The number of requests at a time: `fixed`, or what latency asks for.

    It begins with START. Each transfer that ends while others wait for it adds one if it took less than PATIENCE times
    the latency, which is the shortest time that a request has taken; if it took longer, it takes one away, down to
    START. When a service asks for fewer requests, the number is halved, and from then on as many transfers add one as
    run at a time."""

    def __init__(self, fixed: int | None = None) -> None:
        self.most = fixed or MAX_PARALLEL
        self._fixed = fixed is not None
        self._number = float(fixed or START)
        self._lock = threading.Lock()
        self._latency = math.inf  # seconds
        self._slowed = -math.inf  # when the service asked for fewer requests, by the monotonic clock

    @property
    def number(self) -> int:
        return int(self._number)

    def answered(self, began: float, *, others_wait: bool = False) -> None:
        """Is told of each request that was answered, and when it began, by the monotonic clock."""
        seconds = time.monotonic() - began
        with self._lock:
            self._latency = min(self._latency, seconds)
            if self._fixed or not others_wait:
                return
            if self._number < START or seconds < PATIENCE * self._latency:
                step = 1 / self._number if self._slowed > -math.inf else 1
                self._number = min(self._number + step, self.most)
            else:
                self._number = max(self._number - 1, START)

    def slow_down(self, began: float) -> None:
        """Is told that the service asks for fewer requests, and when the one began that it refused: those that were
        under way with it halve the number once."""
        with self._lock:
            if not self._fixed and began > self._slowed:
                self._slowed = time.monotonic()
                self._number = max(self._number / 2, 1)


class RequestPool:
    """Threads for requests: as many run at a time as `concurrency` says, the others wait in order."""

    def __init__(self, concurrency: Concurrency, name: str) -> None:
        self.concurrency = concurrency
        self._threads = ThreadPoolExecutor(concurrency.most, name)
        self._changed = threading.Condition()
        self._waiting: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._running = 0

    def submit(self, act: Callable[Words, Result], /, *args: Words.args, **kwargs: Words.kwargs) -> Future[Result]:
        future: Future[Result] = Future()
        with self._changed:
            self._waiting.append((future, partial(act, *args, **kwargs)))
            self._start()
        return future

    def _start(self) -> None:
        if self._waiting and self._running < self.concurrency.number:
            self._running += 1
            self._threads.submit(self._work)

    def _work(self) -> None:
        """Makes requests, one after the other, while there are any and not too many threads make them."""
        while True:
            with self._changed:
                if not self._waiting or self._running > self.concurrency.number:
                    self._running -= 1
                    self._changed.notify_all()
                    return
                future, act = self._waiting.popleft()
            began = time.monotonic()
            try:
                is_answered = _run(future, act)
            finally:
                del future, act  # these would keep the result, or the frames of an error
            with self._changed:
                if is_answered:
                    self.concurrency.answered(began, others_wait=bool(self._waiting))
                self._start()

    def shutdown(self, *, cancel: bool = False) -> None:
        """Returns when all requests have ended; with `cancel` drops those that wait."""
        with self._changed:
            if cancel:
                for future, _ in self._waiting:
                    future.cancel()
                self._waiting.clear()
            self._changed.wait_for(lambda: not self._waiting and not self._running)
        self._threads.shutdown(wait=True)

    def __enter__(self) -> RequestPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.shutdown()


def _run(future: Future[Result], act: Callable[[], Result]) -> bool:
    """Gives a future its result, unless it was cancelled; returns True if it has one, and no error."""
    if not future.set_running_or_notify_cancel():
        return False
    try:
        future.set_result(act())
    except BaseException as error:  # noqa: BLE001 (raised by result)
        future.set_exception(error)
        return False
    finally:
        del future, act
    return True

"""Executors: what a command line or a caller names becomes a crew.

An executor is an address (`dask:tcp://127.0.0.1:8786`, `dask:tls://HOST:PORT`, `dask:scheduler-file=PATH`), a
`dask.distributed.Client`, or any `concurrent.futures.Executor`.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
from collections.abc import Callable
from typing import Any

from pogfast._engine import cores
from pogfast.cluster.crews import Crew, CrewOptions, Done
from pogfast.cluster.units import Job
from pogfast.errors import PogfastError, UsageError

TOLD = 10.0  # seconds that workers have to hear something


class PoolCrew:
    """The workers of a concurrent.futures.Executor, which the caller owns."""

    def __init__(self, executor: concurrent.futures.Executor) -> None:
        self.executor = executor

    def begin(self, job: Job) -> None:
        """Does nothing: what a worker cannot do shows in its first unit."""

    def capacity(self) -> int:
        return int(getattr(self.executor, "_max_workers", 0)) or cores()

    def share(self) -> float:
        return 1.0 if isinstance(self.executor, concurrent.futures.ThreadPoolExecutor) else 1 / self.capacity()

    def submit(self, act: Callable[..., Any], *arguments: Any) -> Done:
        try:
            return self.executor.submit(act, *arguments)
        except RuntimeError as error:  # it has been shut down, or is broken
            raise PogfastError(f"the executor takes no more work: {error}") from error

    def tell_all(self, act: Callable[..., Any], *arguments: Any) -> None:
        with contextlib.suppress(RuntimeError):  # it takes no more
            told = [self.executor.submit(act, *arguments) for _ in range(self.capacity())]
            concurrent.futures.wait(told, timeout=TOLD)

    def refuse(self, worker: str, why: str) -> None:
        raise PogfastError(f"a worker cannot do its part: {why}")

    def check(self) -> None:
        """Does nothing: futures of a pool that breaks end with an error."""

    def is_stranded(self, future: Done) -> bool:
        return False

    def has_lost(self) -> bool:
        return False

    def is_death(self, error: BaseException) -> bool:
        if isinstance(error, concurrent.futures.BrokenExecutor):
            raise PogfastError("a process of the executor died", "run it again: it goes on") from error
        return False

    def close(self) -> None:
        """Leaves the executor to its owner."""


def open_crew(executor: object, options: CrewOptions, tell: Callable[[str], None]) -> Crew:
    """Returns the crew of an executor. `tell` is called with warnings about workers. Raises UsageError and
    PogfastError."""
    if isinstance(executor, str):
        kind, _, address = executor.partition(":")
        if kind != "dask" or not address:
            raise UsageError(
                f"{executor} is no executor",
                hint="write dask:tcp://127.0.0.1:8786, dask:tls://HOST:PORT or dask:scheduler-file=PATH",
            )
        from pogfast.cluster import dask

        return dask.connect(address, options, tell)
    if isinstance(executor, concurrent.futures.Executor):
        return PoolCrew(executor)
    from pogfast.cluster import dask

    return dask.crew_of(executor, options, tell)

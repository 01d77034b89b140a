"""What a crew of workers has to be able to do, whatever executor it is behind; executors.py has those there are.

A crew gets functions and what they are called with, and returns futures; it knows of no files and no stores.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from pogfast.cluster.units import Job


class Done(Protocol):
    """A future, as far as it is needed: those of concurrent.futures and of Dask are alike."""

    def done(self) -> bool: ...  # False again if the result is lost
    def add_done_callback(self, act: Callable[[Any], object], /) -> object: ...
    def exception(self, timeout: float | None = None) -> BaseException | None: ...
    def result(self, timeout: float | None = None) -> Any: ...
    def cancel(self) -> object: ...


class Crew(Protocol):
    """Workers that do units. Calls come from one thread."""

    def begin(self, job: Job) -> None:
        """Makes the crew ready for a job: finds out who can do its units. Raises PogfastError if nobody can."""

    def capacity(self) -> int:
        """Returns how many units can be done at a time."""

    def share(self) -> float:
        """Returns the fraction of all work that one process does: of a limit for all, it gets as much."""

    def submit(self, act: Callable[..., Any], *arguments: Any) -> Done:
        """Has a worker call a function."""

    def tell_all(self, act: Callable[..., Any], *arguments: Any) -> None:
        """Has every worker that did units call a function, as far as that can be done within some seconds."""

    def refuse(self, worker: str, why: str) -> None:
        """Leaves a worker out from now on. Raises PogfastError if that cannot be done."""

    def check(self) -> None:
        """Called about once a second while units are waited for. Raises PogfastError if none will be done any more."""

    def is_stranded(self, future: Done) -> bool:
        """Returns True if no worker is left that may do what was submitted: it has to be submitted again."""

    def has_lost(self) -> bool:
        """Returns True if a worker is gone that did units of this job."""

    def is_death(self, error: BaseException) -> bool:
        """Returns True if an error says that a unit's workers died again and again."""

    def close(self) -> None:
        """Ends what the crew itself has begun."""


@dataclass(frozen=True)
class CrewOptions:
    """How to reach and treat a cluster. `ca`, `certificate` and `key` are PEM files for tls://; without them, Dask's
    own configuration has them. `insecure` allows tcp:// to other machines."""

    ca: str | None = None
    certificate: str | None = None
    key: str | None = None
    insecure: bool = False
    worker_timeout: float = 300.0  # seconds without any worker that can do units
    worker_key: str = ""  # where each worker finds the key: file:PATH or command:COMMAND

"""What each worker of an executor has done, for summaries.

By itself, so that a summary can be made without importing what only runs with workers need.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class WorkerTally:
    """What one worker has done."""

    units: int = 0
    bytes_read: int = 0
    seconds: float = 0.0  # that its units took, in all threads together

    def plus(self, other: WorkerTally) -> WorkerTally:
        return WorkerTally(self.units + other.units, self.bytes_read + other.bytes_read, self.seconds + other.seconds)


@dataclass
class Tallies:
    """What the workers have done."""

    workers: dict[str, WorkerTally] = field(default_factory=dict)
    retries: int = 0  # units that were given to another worker

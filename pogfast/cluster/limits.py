"""Limits of a job in one process.

All its desks there share them, and get a share of what the job allows for all workers together.
"""

from __future__ import annotations

import copy
import threading
from weakref import WeakValueDictionary

from pogfast.cluster.units import Job
from pogfast.sizes import MIN_RATE
from pogfast.stores.limits import RateLimit

LIMITS = ("limit_upload", "limit_download")


class JobLimits:
    """What all desks of a job here may send and receive together. `settings` are those of the stores that they open."""

    def __init__(self, job: Job) -> None:
        self.allowed: dict[str, RateLimit | None] = {word: getattr(job.settings, word) for word in LIMITS}
        self.settings = {word: copy.copy(limit) for word, limit in self.allowed.items()}

    def share(self, fraction: float) -> None:
        """Limits this process to a fraction of what the job allows for all."""
        for word, allowed in self.allowed.items():
            limit = self.settings[word]
            if limit is not None and allowed is not None:
                rate = allowed.rate
                limit.set_rate(None if rate is None else max(MIN_RATE, rate * fraction))


_known: WeakValueDictionary[str, JobLimits] = WeakValueDictionary()  # by the number of the job, while a desk has them
_lock = threading.Lock()


def limits_of(job: Job) -> JobLimits:
    """Returns the limits of a job. They are kept for other desks as long as somebody has them."""
    with _lock:
        found = _known.get(job.number)
        if found is None:
            found = _known[job.number] = JobLimits(job)
        return found

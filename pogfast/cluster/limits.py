"""Limits of a job in one process.

All its desks there share them, and get a share of what the job allows for all workers together.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Collection

from pogfast.cluster.units import Job
from pogfast.sizes import MIN_RATE
from pogfast.stores.limits import RateLimit

LIMITS = ("limit_upload", "limit_download")
_limits: dict[str, dict[str, RateLimit | None]] = {}  # by the number of the job
_lock = threading.Lock()


def limits_of(job: Job) -> dict[str, RateLimit | None]:
    with _lock:
        if job.number not in _limits:
            _limits[job.number] = {word: copy.copy(getattr(job.settings, word)) for word in LIMITS}
        return _limits[job.number]


def limit(job: Job, share: float) -> None:
    """Limits this process to a share of what the job allows for all."""
    for word, limit in limits_of(job).items():
        allowed: RateLimit | None = getattr(job.settings, word)
        if limit is not None and allowed is not None:
            rate = allowed.rate
            limit.set_rate(None if rate is None else max(MIN_RATE, rate * share))


def forget_limits(kept: Collection[str]) -> None:
    """Forgets the limits of all jobs but these. A desk that is in use has a reference of its own."""
    with _lock:
        for number in _limits.keys() - set(kept):
            del _limits[number]

"""Who hears of the requests to services that are made again.

A context variable, so that no library function on the way from a command to a store has to pass it on. It knows no
store and no console.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar


def _nobody(text: str) -> None:
    """Retries are told to nobody unless somebody asks."""


# Called from several threads, once for each request that is made again, with what went wrong. Set it before a store is
# opened.
RETRIED: ContextVar[Callable[[str], None]] = ContextVar("retried", default=_nobody)

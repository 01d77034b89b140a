"""The callback that reports retried requests to services.

It is in a context variable, so that the functions between a command and a store need not pass it on. Knows no store and
no console.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar


def _nobody(text: str) -> None:
    """The default: retries are not reported."""


# Called with the error for each request that is retried, from several threads. To be set before a store is opened.
RETRIED: ContextVar[Callable[[str], None]] = ContextVar("retried", default=_nobody)

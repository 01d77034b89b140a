"""Callbacks for what stores report: requests that are retried, and what they ignore.

They are in context variables, so that the functions between a command and a store need not pass them on. Knows no store
and no console.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar


def _nobody(text: str) -> None:
    """The default: nothing is reported."""


# Called with the error for each request that is retried, from several threads. To be set before a store is opened.
RETRIED: ContextVar[Callable[[str], None]] = ContextVar("retried", default=_nobody)
# Called with a sentence for each thing that a store ignores, such as a damaged index of packs. To be set likewise.
IGNORED: ContextVar[Callable[[str], None]] = ContextVar("ignored", default=_nobody)

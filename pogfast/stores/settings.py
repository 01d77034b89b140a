"""How services are reached: what the environment says, unless a caller says otherwise.

A context variable, so that no library function on the way from a command to a store has to pass it on.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

from pogfast.errors import UsageError
from pogfast.sizes import MAX_PARALLEL, parse_seconds, parse_whole

# What `Lock.parse` takes for a length of time, in seconds.
UNITS = {"m": 60, "h": 3600, "d": 86400, "y": 365 * 86400}
MODES = ("compliance", "governance")


@dataclass(frozen=True)
class Lock:
    """S3's object lock. `compliance`: nobody can delete it or shorten the time; `governance`: who has a right can."""

    mode: str
    seconds: int  # from now on

    @classmethod
    def parse(cls, text: str) -> Lock:
        """compliance:90d. Raises UsageError."""
        mode, _, length = text.partition(":")
        found = re.fullmatch(r"([1-9]\d{0,5})([mhdy])", length)
        if mode not in MODES or not found:
            raise UsageError(f"{text} is no object lock", hint="write compliance:90d or governance:1y")
        return cls(mode, int(found[1]) * UNITS[found[2]])


@dataclass(frozen=True)
class Settings:
    """Of every service that is opened while they are in force."""

    s3_endpoint: str | None = None  # a URL; None: what boto3 finds (AWS_ENDPOINT_URL), else AWS
    b2_realm: str | None = None  # a URL; None: Backblaze's own
    storage_class: str | None = None  # of blobs in S3, never of manifests; None: the bucket's
    object_lock: Lock | None = None  # of what is written to S3; None: the bucket's
    parallel: int = 8  # requests at a time
    retry_for: float = 300.0  # seconds that a failure which may pass is tried again
    profile: str | None = None  # of credentials, as boto3 or the b2 command know it; None: those of the environment
    region: str | None = None  # of an S3 bucket; None: what boto3 finds

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Settings:
        """POGFAST_S3_ENDPOINT, POGFAST_B2_REALM, POGFAST_STORAGE_CLASS, POGFAST_OBJECT_LOCK, POGFAST_PARALLEL and
        POGFAST_RETRY_FOR. Raises UsageError."""
        return cls(
            environ.get("POGFAST_S3_ENDPOINT") or None,
            environ.get("POGFAST_B2_REALM") or None,
            environ.get("POGFAST_STORAGE_CLASS") or None,
            Lock.parse(environ["POGFAST_OBJECT_LOCK"]) if environ.get("POGFAST_OBJECT_LOCK") else None,
            parse_whole("POGFAST_PARALLEL", environ.get("POGFAST_PARALLEL") or str(cls.parallel), 1, MAX_PARALLEL),
            parse_seconds("POGFAST_RETRY_FOR", environ.get("POGFAST_RETRY_FOR") or str(cls.retry_for)),
        )


_SETTINGS: ContextVar[Settings | None] = ContextVar("settings", default=None)


def current() -> Settings:
    """Those in force. Raises UsageError."""
    return _SETTINGS.get() or Settings.of(os.environ)


def change(**words: Any) -> None:
    """From now on, in this context."""
    _SETTINGS.set(replace(current(), **words))


@contextlib.contextmanager
def using(**words: Any) -> Iterator[None]:
    """While the block runs. For libraries: `with using(s3_endpoint="http://nas:9000"): pogfast.create(...)`."""
    token = _SETTINGS.set(replace(current(), **words))
    try:
        yield
    finally:
        _SETTINGS.reset(token)

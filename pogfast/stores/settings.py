"""Settings of services: from the environment, unless a caller sets them.

They are in a context variable, so that the functions between a command and a store need not pass them on.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from pogfast.errors import UsageError
from pogfast.sizes import MAX_PARALLEL, parse_seconds, parse_size, parse_whole
from pogfast.stores.limits import RateLimit

# The units of time that `Lock.parse` knows, in seconds.
UNITS = {"m": 60, "h": 3600, "d": 86400, "y": 365 * 86400}
MODES = ("compliance", "governance")


@dataclass(frozen=True)
class Lock:
    """S3's object lock. `compliance`: nobody can delete the object or shorten the lock; `governance`: users with a
    special permission can."""

    mode: str
    seconds: int  # from now on

    @classmethod
    def parse(cls, text: str) -> Lock:
        """Parses a lock such as compliance:90d. Raises UsageError."""
        mode, _, length = text.partition(":")
        found = re.fullmatch(r"([1-9]\d{0,5})([mhdy])", length)
        if mode not in MODES or not found:
            raise UsageError(f"{text} is not an object lock", hint="write compliance:90d or governance:1y")
        return cls(mode, int(found[1]) * UNITS[found[2]])


def parse_packs(option: str, text: str) -> int:
    """Parses the size of packs into bytes; `yes` is the usual size. Raises UsageError."""
    from pogfast.stores.packs import layout  # imported here: most runs need no packs

    if text in ("no", "0", "off"):
        raise UsageError(f"{option}={text}: a store that has packs keeps them", "`pogfast unpack STORE` ends it")
    size = layout.DEFAULT_SIZE if text == "yes" else parse_size(option, text)
    if not layout.MIN_SIZE <= size <= layout.MAX_SIZE:
        raise UsageError(f"{option}={text}: packs have 1 MiB to 1 GiB", hint=f"{option}=16MiB is the usual size")
    return size


# Of a variable there is one limit, which all stores share.
_limit_of = cache(RateLimit.parse)


@dataclass(frozen=True)
class Settings:
    """The settings for every service that is opened while they are in force."""

    s3_endpoint: str | None = None  # a URL; None: what boto3 finds (AWS_ENDPOINT_URL), else AWS
    b2_realm: str | None = None  # a URL; None: Backblaze's own
    storage_class: str | None = None  # of blobs in S3, never of manifests; None: the bucket's
    object_lock: Lock | None = None  # of what is written to S3; None: the bucket's
    packs: int | None = None  # bytes of a pack, in stores that get new ones; None: each store as it is
    parallel: int | None = None  # concurrent requests; None: as many as latency asks for
    retry_for: float = 300.0  # seconds that transient errors are retried
    profile: str | None = None  # of credentials, as boto3 or the b2 command know it; None: those of the environment
    region: str | None = None  # of an S3 bucket; None: what boto3 finds
    limit_upload: RateLimit | None = None  # bytes a second to services, of all stores together; None: unlimited
    limit_download: RateLimit | None = None  # from them
    packs_of: Mapping[str, int] = field(default_factory=dict)  # sizes of packs by addresses of stores, instead

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Settings:
        """Reads POGFAST_S3_ENDPOINT, POGFAST_B2_REALM, POGFAST_STORAGE_CLASS, POGFAST_OBJECT_LOCK, POGFAST_PACKS,
        POGFAST_PARALLEL, POGFAST_RETRY_FOR, POGFAST_LIMIT_UPLOAD and POGFAST_LIMIT_DOWNLOAD. Raises UsageError."""
        return cls(
            environ.get("POGFAST_S3_ENDPOINT") or None,
            environ.get("POGFAST_B2_REALM") or None,
            environ.get("POGFAST_STORAGE_CLASS") or None,
            Lock.parse(environ["POGFAST_OBJECT_LOCK"]) if environ.get("POGFAST_OBJECT_LOCK") else None,
            parse_packs("POGFAST_PACKS", environ["POGFAST_PACKS"]) if environ.get("POGFAST_PACKS") else None,
            parse_whole("POGFAST_PARALLEL", environ["POGFAST_PARALLEL"], 1, MAX_PARALLEL)
            if environ.get("POGFAST_PARALLEL")
            else None,
            parse_seconds("POGFAST_RETRY_FOR", environ.get("POGFAST_RETRY_FOR") or str(cls.retry_for)),
            limit_upload=_limit_in(environ, "POGFAST_LIMIT_UPLOAD"),
            limit_download=_limit_in(environ, "POGFAST_LIMIT_DOWNLOAD"),
        )


def _limit_in(environ: Mapping[str, str], variable: str) -> RateLimit | None:
    return _limit_of(variable, environ[variable]) if environ.get(variable) else None


_SETTINGS: ContextVar[Settings | None] = ContextVar("settings", default=None)


def current() -> Settings:
    """Returns the settings in force. Raises UsageError."""
    return _SETTINGS.get() or Settings.of(os.environ)


def change(**words: Any) -> None:
    """Changes settings from now on, in this context."""
    _SETTINGS.set(replace(current(), **words))


@contextlib.contextmanager
def using(**words: Any) -> Iterator[None]:
    """Changes settings while the block runs: `with using(s3_endpoint="http://nas:9000"): pogfast.create(...)`."""
    token = _SETTINGS.set(replace(current(), **words))
    try:
        yield
    finally:
        _SETTINGS.reset(token)

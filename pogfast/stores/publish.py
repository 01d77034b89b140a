"""Publishes an archive: its manifest is stored last, in every store, once all blobs that it names are durable there.

So an archive that is visible is complete. What is in a manifest is up to its writers.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Collection, Iterator
from datetime import datetime
from functools import cache

from pogfast.errors import StoreError
from pogfast.stores import MANIFEST
from pogfast.stores.protocols import hint_of
from pogfast.stores.targets import Targets


def conclude(
    targets: Targets,
    seal: Callable[[], bytes],
    blobs: Callable[[bytes], Collection[str]],
    announce: Callable[[str], None],
) -> str:
    """Stores a manifest in every target once all blobs are durable there, and returns its name.

    `seal` makes the bytes, `blobs` returns the blobs that these name. `announce` is called with the name before the
    manifest is stored; an exception aborts publication. Raises StoreError, and its subclass Condemned for blobs that
    have to be stored again: then nothing was announced.
    """
    targets.each(lambda target: target.make_durable())
    data = seal()
    needed = cache(lambda: blobs(data))
    targets.check_reliance(needed)
    name = name_now()
    announce(name)
    targets.publish(name, data, needed)
    return name


def name_now() -> str:
    """Returns a manifest's name: the local time."""
    return datetime.now().isoformat(timespec="microseconds") + MANIFEST


def seconds_of(ns: int) -> float:
    """Returns nanoseconds as seconds, rounded as os.stat does and so as pog writes them."""
    seconds, rest = divmod(ns, 10**9)
    return seconds + rest * 1e-9


def why_not_read(code: int) -> str:
    """Returns the text for an errno of the engine about a file that was a regular one when it was found."""
    if code == errno.EOWNERDEAD:
        return "each worker that read it died"
    return "it is not a regular file any more" if code == errno.ENXIO else os.strerror(code)


@contextlib.contextmanager
def store_errors() -> Iterator[None]:
    """Turns an OSError of writing into a StoreError that says where, and what to do about it."""
    try:
        yield
    except OSError as error:
        text = f"cannot write to {error.filename or 'the store'}: {error.strerror}"
        raise StoreError(text, hint_of(error)) from error

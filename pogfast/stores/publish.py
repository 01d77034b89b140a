"""Publishing an archive: its manifest is stored last, in every store, when all that it names is durable there.

So an archive that can be seen is whole. What a manifest holds is for its writers to say.
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
    """Stores a manifest in every target when all blobs are durable there, and returns its name.

    `seal` makes its bytes, `blobs` says what these name; `announce` hears the name before the manifest is stored, and
    what it raises keeps it from appearing. Raises StoreError, and of these Condemned for blobs that are to be stored
    again: then nothing was announced.
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
    """A manifest's name: the local time."""
    return datetime.now().isoformat(timespec="microseconds") + MANIFEST


def seconds_of(ns: int) -> float:
    """As os.stat gives them, and so as pog writes them."""
    seconds, rest = divmod(ns, 10**9)
    return seconds + rest * 1e-9


def why_not_read(code: int) -> str:
    """What the engine's errno of a file means that was a regular one when it was found."""
    return "it is not a regular file any more" if code == errno.ENXIO else os.strerror(code)


@contextlib.contextmanager
def store_errors() -> Iterator[None]:
    """A system's refusal to write becomes a StoreError that says where, and what to do about it."""
    try:
        yield
    except OSError as error:
        text = f"cannot write to {error.filename or 'the store'}: {error.strerror}"
        raise StoreError(text, hint_of(error)) from error

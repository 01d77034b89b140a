"""What every store says in the same words: of itself, of blobs in cold storage, and when it is full.

Words only, for diagnosis.py, thawing.py and errors to show: nothing is asked or done here.
"""

from __future__ import annotations

import errno
from typing import Literal, NamedTuple

State = Literal["good", "note", "bad"]
Warmth = Literal["readable", "asked", "coming", "missing"]
MAKE_ROOM = "make room and run it again: what is stored is kept"


def hint_of(error: BaseException) -> str:
    """What to do about a system's refusal to write; "" where nothing can be said."""
    return MAKE_ROOM if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT) else ""


class Finding(NamedTuple):
    """`bad` has to be mended, a `note` is to be known."""

    what: str
    state: State
    said: str
    advice: str = ""

"""What every store says in the same words: of itself, and of blobs in cold storage.

Words only, for diagnosis.py and thawing.py to show: nothing is asked or done here.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

State = Literal["good", "note", "bad"]
Warmth = Literal["readable", "asked", "coming", "missing"]


class Finding(NamedTuple):
    """`bad` has to be mended, a `note` is to be known."""

    what: str
    state: State
    said: str
    advice: str = ""

"""What a card says of a store first: one verdict in words, with a shape, so that color is never alone.

A pure function of facts. `Protected` needs an archive that opens, and nothing known to be missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from pogfast.archives.overview import ArchiveInfo
from pogfast.errors import DamageError
from pogfast.sizes import many
from pogfast.upkeep.reads import ReadShare

Mood = Literal["bad", "warn", "good", "unknown"]
ORDER: dict[Mood, int] = {"bad": 0, "warn": 1, "unknown": 2, "good": 3}
SHAPES: dict[Mood, str] = {"bad": "✕", "warn": "▲", "good": "✓", "unknown": "○"}


@dataclass(frozen=True)
class Verdict:
    """A word or two, why, and how good that is."""

    mood: Mood
    words: str
    why: str = ""

    @property
    def shape(self) -> str:
        return SHAPES[self.mood]


def judge(infos: Sequence[ArchiveInfo], proven: Sequence[ReadShare] = (), now: datetime | None = None) -> Verdict:
    """Judges a store by its archives, as a key that reads them lists them, the newest last, and by what of it was read
    back."""
    now = now or datetime.now(UTC)
    damaged = [info for info in infos if isinstance(info.error, DamageError)]
    if damaged:
        return Verdict("bad", "Damaged", f"{many(len(damaged), 'archive')} cannot be opened: {damaged[-1].problem}")
    readable = [info for info in infos if info.problem is None]
    if not infos:
        return Verdict("bad", "Empty", "no archive")
    if not readable:
        return Verdict("bad", "Not readable", f"none of {many(len(infos), 'archive')} opens with this key")
    last = readable[-1]
    if last.time is not None and last.time - now > timedelta(days=1):
        return Verdict("warn", "Dated in the future", "a clock was wrong, or somebody forged the newest archive")
    if last.unreadable or last.changed:
        left_out = [
            f"{many(last.unreadable, 'file')} could not be read" if last.unreadable else "",
            f"{many(last.changed, 'file')} changed while being read" if last.changed else "",
        ]
        return Verdict("warn", "Protected, with warnings", ", ".join(filter(None, left_out)))
    if not any(share.read for share in proven):
        return Verdict("unknown", "Not proven", "its data was never read back; a check of a part of it does that")
    if len(readable) < len(infos):
        others = len(infos) - len(readable)
        return Verdict("good", "Protected", f"{many(others, 'archive')} need{'s' * (others == 1)} another key")
    return Verdict("good", "Protected")

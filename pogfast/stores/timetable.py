"""Rates that depend on the time of day, such as 1 MB a second during working hours.

A timetable is a pure function of a local time: it reads no clock and limits nothing. limits.py follows one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pogfast.errors import UsageError
from pogfast.sizes import parse_rate

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
DAY = 24 * 60  # minutes
CLOCK = re.compile(r"(\d{1,2}):(\d\d)")
KEYS = ("from", "to", "rate", "days")


@dataclass(frozen=True)
class Slot:
    """A span of the day, in minutes since midnight; one that ends before it begins, or when it does, ends on the next
    day. `days` are those on which it begins, 0 is Monday. `rate` is in bytes a second, None: unlimited."""

    begin: int
    end: int
    rate: int | None
    days: frozenset[int] = frozenset(range(7))

    def covers(self, weekday: int, minute: float) -> bool:
        """Returns True for a minute of a weekday."""
        if self.begin < self.end:
            return weekday in self.days and self.begin <= minute < self.end
        if minute >= self.begin:
            return weekday in self.days
        return minute < self.end and (weekday - 1) % 7 in self.days


@dataclass(frozen=True)
class Timetable:
    """Slots, of which the first that covers a time counts; outside of all the rate is unlimited."""

    slots: tuple[Slot, ...]

    @classmethod
    def parse(cls, option: str, slots: Sequence[Mapping[str, Any]]) -> Timetable:
        """Parses slots as profiles have them: {from = "08:00", to = "18:00", rate = "1MB", days = "mon-fri"}. All but
        the rate may be left out. Raises UsageError, which names the option."""
        return cls(tuple(_slot(option, slot) for slot in slots))

    def rate(self, when: datetime) -> int | None:
        """Returns the bytes a second at a local time, as clocks on the wall show it: an hour that a clock skips or
        repeats has the rate that its numbers say. None: unlimited."""
        weekday, minute = when.weekday(), when.hour * 60 + when.minute
        return next((slot.rate for slot in self.slots if slot.covers(weekday, minute)), None)


def _slot(option: str, words: Mapping[str, Any]) -> Slot:
    for word, value in words.items():
        if word not in KEYS:
            raise UsageError(f"{option}: unknown word: {word}", hint=f"a slot has {', '.join(KEYS)}")
        if not isinstance(value, str):
            raise UsageError(f"{option}: {word} must be a text, not {value!r}")
    if "rate" not in words:
        raise UsageError(f"{option}: a slot has no rate", hint='rate = "1MB", or "unlimited"')
    begin, end = _minute(option, words.get("from", "00:00")), _minute(option, words.get("to", "24:00"))
    return Slot(begin % DAY, end, parse_rate(option, words["rate"]), _days(option, words.get("days", "mon-sun")))


def _minute(option: str, text: str) -> int:
    found = CLOCK.fullmatch(text.strip())
    minute = int(found[1]) * 60 + int(found[2]) if found and int(found[2]) < 60 else DAY + 1
    if minute > DAY:
        raise UsageError(f"{option}: {text} is not a time of day", hint="write 08:00, or 24:00 for the end of the day")
    return minute


def _days(option: str, text: str) -> frozenset[int]:
    """Parses days such as mon-fri, or sat,sun; fri-mon are four."""
    days: set[int] = set()
    for part in text.lower().split(","):
        first, _, last = (word.strip() for word in part.partition("-"))
        if first not in DAYS or (last or first) not in DAYS:
            raise UsageError(f"{option}: {text}: not days of the week", hint="write mon-fri, or sat,sun")
        begin = DAYS.index(first)
        length = (DAYS.index(last or first) - begin) % 7
        days.update((begin + number) % 7 for number in range(length + 1))
    return frozenset(days)

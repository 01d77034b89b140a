"""When something is run: the calendar expressions of systemd's timers, as far as cron can be told the same.

    daily    Mon..Fri 02:30    *-*-01,15 04:00    *:0/15    00/6:30

Weekdays, months, days, hours and minutes; neither years, seconds nor time zones. Nothing is scheduled here.
"""

from __future__ import annotations

import re
from datetime import datetime, time, timedelta
from typing import NamedTuple

from pogfast.errors import UsageError

WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
LONG = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
SHORTHANDS = {
    "hourly": "*-*-* *:00",
    "daily": "*-*-* 00:00",
    "weekly": "Mon *-*-* 00:00",
    "monthly": "*-*-01 00:00",
    "quarterly": "*-01,04,07,10-01 00:00",
    "semiannually": "*-01,07-01 00:00",
    "yearly": "*-01-01 00:00",
    "annually": "*-01-01 00:00",
}
EXAMPLES = '"daily", "Mon..Fri 02:30", "*-*-01 04:00", "00/6:00"'
DAYS_AHEAD = 41 * 366  # a 29 February that has to be a Monday: 40 years around 2100
ITEM = re.compile(r"(\d{1,2})(?:\.\.(\d{1,2}))?(?:/(\d{1,2}))?")


class Calendar(NamedTuple):
    """A calendar expression. The fields are those of a line of cron, `*` for any."""

    text: str  # as systemd reads it
    minute: str
    hour: str
    day: str
    month: str
    weekday: str

    @classmethod
    def parse(cls, text: str) -> Calendar:
        """Reads an expression. Raises UsageError."""
        try:
            return cls._parsed(text)
        except (ValueError, IndexError) as error:
            hint = "see systemd.time(7): weekdays, months, days, hours and minutes are understood here"
            raise UsageError(f"{text!r} is no calendar expression such as {EXAMPLES}", hint=hint) from error

    @classmethod
    def _parsed(cls, text: str) -> Calendar:
        words = SHORTHANDS.get(text.lower(), text).split()
        if not words or not text.isprintable():
            raise ValueError(text)
        weekday = _weekdays(words.pop(0)) if words[0][0].isalpha() else "*"
        month, day = _date(words.pop(0)) if words and ":" not in words[0] else ("*", "*")
        hour, minute = _time(words.pop(0)) if words else ("0", "0")
        if words:
            raise ValueError(text)
        return cls(" ".join(text.split()), minute, hour, day, month, weekday)

    @property
    def cron(self) -> str:
        """The five fields of a line of cron. Raises UsageError for what cron understands in another way."""
        if self.weekday != "*" and self.day != "*":
            raise UsageError(
                f"cron cannot be told {self.text!r}: it would run on each such weekday and on each such day",
                hint="name weekdays or days of the month, not both",
            )
        return " ".join(self[1:])

    def after(self, moment: datetime) -> datetime | None:
        """Returns the first time after a moment, on this machine's clock; None if there is none, as on 30 February."""
        local = moment.astimezone().replace(tzinfo=None)
        months, days, weekdays = _numbers(self.month, 1, 12), _numbers(self.day, 1, 31), _numbers(self.weekday, 1, 7)
        times = [time(hour, minute) for hour in _numbers(self.hour, 0, 23) for minute in _numbers(self.minute, 0, 59)]
        for ahead in range(DAYS_AHEAD):
            day = local.date() + timedelta(days=ahead)
            if day.month in months and day.day in days and day.isoweekday() in weekdays:
                for found in (datetime.combine(day, each) for each in times):
                    if found > local:
                        return found.astimezone()
        return None


def _weekdays(text: str) -> str:
    found = []
    for item in text.lower().split(","):
        first, dots, last = item.partition("..")
        begin = _weekday(first)
        end = _weekday(last) if dots else begin
        if end < begin:
            raise ValueError(item)
        found.append(f"{begin}-{end}" if dots else f"{begin}")
    return ",".join(found)


def _weekday(name: str) -> int:
    return 1 + (LONG if name in LONG else WEEKDAYS).index(name)


def _date(text: str) -> tuple[str, str]:
    parts = text.split("-")
    if len(parts) == 3 and parts.pop(0) != "*":
        raise ValueError(text)
    month, day = parts
    return _field(month, 1, 12), _field(day, 1, 31)


def _time(text: str) -> tuple[str, str]:
    hour, minute, *seconds = text.split(":")
    if seconds not in ([], ["00"], ["0"]):
        raise ValueError(text)
    return _field(hour, 0, 23), _field(minute, 0, 59)


def _field(text: str, lowest: int, highest: int) -> str:
    """Returns a part of a date or time as a field of cron. Raises ValueError."""
    if text == "*":
        return text
    found = []
    for item in text.split(","):
        match = ITEM.fullmatch(item)
        if match is None or not item.isascii():
            raise ValueError(item)
        first = int(match[1])
        last = int(match[2]) if match[2] else highest if match[3] else first
        step = int(match[3] or 1)
        if not (lowest <= first <= last <= highest and 1 <= step <= highest):
            raise ValueError(item)
        found.append((f"{first}" if first == last else f"{first}-{last}") + (f"/{step}" if match[3] else ""))
    return ",".join(found)


def _numbers(field: str, lowest: int, highest: int) -> list[int]:
    """Returns the numbers that a field of cron stands for, in order."""
    found: set[int] = set()
    for item in field.replace("*", f"{lowest}-{highest}").split(","):
        span, _, step = item.partition("/")
        first, _, last = span.partition("-")
        found.update(range(int(first), int(last or first) + 1, int(step or 1)))
    return sorted(found)

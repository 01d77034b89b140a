"""Timetables of limits: which rate holds at which local time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from pogfast.errors import UsageError
from pogfast.stores.limits import RateLimit
from pogfast.stores.timetable import Timetable

OFFICE = [{"from": "08:00", "to": "18:00", "rate": "1MB"}, {"from": "18:00", "to": "23:30", "rate": "5MB"}]
MONDAY = datetime(2026, 11, 30)


def at(slots: list[dict[str, Any]], day: int, clock: str) -> int | None:
    """The rate on a day, 0 is Monday."""
    hour, minute = map(int, clock.split(":"))
    return Timetable.parse("limit-upload", slots).rate(MONDAY + timedelta(days=day, hours=hour, minutes=minute))


@pytest.mark.parametrize(
    ("clock", "rate"),
    [
        *(("00:00", None), ("07:59", None), ("08:00", 10**6), ("17:59", 10**6)),
        *(("18:00", 5 * 10**6), ("23:29", 5 * 10**6), ("23:30", None)),
    ],
)
def test_a_slot_ends_right_before_its_end(clock: str, rate: int | None) -> None:
    assert at(OFFICE, 0, clock) == rate


def test_a_slot_may_last_over_midnight() -> None:
    night = [{"from": "22:00", "to": "06:00", "rate": "2MB"}]
    found = {clock: at(night, 0, clock) for clock in ("21:59", "22:00", "23:59", "00:00", "05:59", "06:00")}
    assert [clock for clock, rate in found.items() if rate] == ["22:00", "23:59", "00:00", "05:59"]


def test_days_are_those_on_which_a_slot_begins() -> None:
    weekend = [{"from": "20:00", "to": "04:00", "rate": "1MB", "days": "fri,sat"}]
    inside = [(day, clock) for day in range(7) for clock in ("03:00", "12:00", "21:00") if at(weekend, day, clock)]
    assert inside == [(4, "21:00"), (5, "03:00"), (5, "21:00"), (6, "03:00")]
    sunday = [{"from": "23:00", "to": "01:00", "rate": "1MB", "days": "sun"}]
    assert (at(sunday, 6, "23:30"), at(sunday, 0, "00:30"), at(sunday, 6, "00:30")) == (10**6, 10**6, None)


def test_days_may_be_a_range_over_the_end_of_the_week() -> None:
    for text, days in (("mon-fri", [0, 1, 2, 3, 4]), ("sat-mon", [0, 5, 6]), ("Tue", [1]), ("mon, wed-thu", [0, 2, 3])):
        found = [day for day in range(7) if at([{"rate": "1MB", "days": text}], day, "12:00")]
        assert found == days, text


def test_a_slot_without_times_or_of_equal_ones_lasts_a_day() -> None:
    for slot in (
        {},
        {"from": "00:00", "to": "24:00"},
        {"from": "24:00", "to": "00:00"},
        {"from": "09:00", "to": "09:00"},
    ):
        assert {at([{**slot, "rate": "1MB"}], 3, clock) for clock in ("00:00", "08:59", "09:00", "23:59")} == {10**6}


def test_the_first_slot_that_covers_a_time_counts() -> None:
    slots = [{"from": "12:00", "to": "13:00", "rate": "unlimited"}, {"rate": "1MB"}]
    assert [at(slots, 0, clock) for clock in ("11:59", "12:00", "13:00")] == [10**6, None, 10**6]
    assert at([], 0, "12:00") is None


def test_hours_that_a_clock_skips_or_repeats() -> None:
    """In Berlin 02:00 to 03:00 is skipped on 29 March 2026, and there twice on 25 October."""
    table, berlin = Timetable.parse("", [{"from": "02:30", "to": "03:30", "rate": "1MB"}]), ZoneInfo("Europe/Berlin")

    def minutes(begin: datetime) -> list[str]:
        """The minutes of six hours from a moment on, as a clock in Berlin shows them, in which the limit holds."""
        times = [(begin + timedelta(minutes=minute)).astimezone(berlin) for minute in range(360)]
        return [f"{time:%H:%M}" for time in times if table.rate(time)]

    in_spring = minutes(datetime(2026, 3, 28, 23, tzinfo=UTC))
    assert (in_spring[0], in_spring[-1], len(in_spring)) == ("03:00", "03:29", 30)
    in_autumn = minutes(datetime(2026, 10, 24, 22, tzinfo=UTC))
    assert (in_autumn[0], in_autumn[-1], len(in_autumn)) == ("02:30", "03:29", 90)


@pytest.mark.parametrize(
    ("slot", "said"),
    [
        ({}, "has no rate"),
        ({"rate": "1MB", "till": "18:00"}, "unknown word: till"),
        ({"rate": 5}, "must be a text"),
        ({"rate": "5"}, "needs a unit"),
        ({"rate": "1MB", "from": "8"}, "not a time of day"),
        ({"rate": "1MB", "from": "24:01"}, "not a time of day"),
        ({"rate": "1MB", "to": "08:60"}, "not a time of day"),
        ({"rate": "1MB", "days": "mon-"}, ""),
        ({"rate": "1MB", "days": "monday"}, "not days of the week"),
        ({"rate": "1MB", "days": ""}, "not days of the week"),
    ],
)
def test_what_is_no_slot(slot: dict[str, Any], said: str) -> None:
    if said:
        with pytest.raises(UsageError, match=f"limit-upload: .*{said}|limit-upload=.*{said}"):
            at([slot], 0, "12:00")
    else:
        assert at([slot], 0, "12:00") == 10**6


def test_a_limit_follows_its_timetable() -> None:
    now, day = [0.0], [MONDAY + timedelta(hours=7, minutes=59, seconds=59)]
    limit = RateLimit(Timetable.parse("", OFFICE), clock=lambda: now[0], today=lambda: day[0])
    assert limit.rate is None
    assert limit.take(10**9) == 10**9
    day[0] += timedelta(seconds=1)
    assert limit.rate is None, "it is looked at once a second"
    now[0] += 1
    assert limit.rate == 10**6
    limit.set_rate(2000)
    assert limit.rate == 2000

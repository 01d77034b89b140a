"""Stopwatch: the clock that says that more time has passed counts."""

from __future__ import annotations

import time

import pytest

from pogfast.system.clock import Stopwatch


@pytest.mark.parametrize(
    ("uptime", "wall", "passed"),
    [
        (100.0, 100.0, 100.0),
        (7200.0, 0.0, 7200.0),  # the clock on the wall was set back
        (0.0, 7200.0, 7200.0),  # a virtual machine was paused
        (0.0, -7200.0, 0.0),
    ],
)
def test_the_longer_time_counts(monkeypatch: pytest.MonkeyPatch, uptime: float, wall: float, passed: float) -> None:
    clocks = {"uptime": 1000.0, "wall": 1_800_000_000.0}
    asked: set[int] = set()

    def gettime(which: int) -> float:
        asked.add(which)
        return clocks["uptime"]

    monkeypatch.setattr(time, "clock_gettime", gettime)
    monkeypatch.setattr(time, "time", lambda: clocks["wall"])
    watch = Stopwatch()
    clocks["uptime"] += uptime
    clocks["wall"] += wall
    assert watch.seconds() == passed
    assert asked == {getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)}, "suspend counts"

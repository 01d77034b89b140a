"""The progress display: what it shows, how often, and that it never disturbs the work; and sizes as text."""

from __future__ import annotations

import re
import threading
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pogfast.cli import progress
from pogfast.cli.progress import Counters, Display, Pace, show_seconds
from pogfast.errors import PogfastError, UsageError
from pogfast.sizes import many, parse_size, show_size


class Told:
    """Collects what a display prints."""

    def __init__(self, style: progress.Style) -> None:
        self.lines: list[str] = []
        self.objects: list[dict[str, Any]] = []
        self.display = Display("test", style, self.lines.append, self.objects.append)


def counters(done: int = 0, read: int = 0, total: int | None = 1000) -> Counters:
    return Counters(done // 100, None if total is None else 10, done, total, {"read": read, "stored": read // 2})


def wait_for(condition: Any) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_lines_every_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "TICK", 0.01)
    monkeypatch.setattr(progress, "LINES_EVERY", 0.1)
    told = Told("lines")
    with told.display as display:
        display.watch(lambda: counters(500, 250_000_000))
        wait_for(lambda: len(told.lines) >= 2)
    assert re.fullmatch(r"pogfast: test: 5/10 files, 250 MB read, 125 MB stored, .* B/s(, .* left)?", told.lines[0])
    count = len(told.lines)
    time.sleep(0.2)
    assert len(told.lines) == count, "nothing after the end"


def test_json_at_most_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "TICK", 0.01)
    told = Told("json")
    with told.display as display:
        display.watch(lambda: counters(250, 1000))
        time.sleep(1.3)
    [words] = told.objects
    assert words["percent_done"] == 0.25
    assert (words["files_done"], words["total_files"], words["bytes_done"], words["total_bytes"]) == (2, 10, 250, 1000)
    assert (words["bytes_read"], words["bytes_stored"], words["seconds_elapsed"]) == (1000, 500, 1)


@pytest.mark.parametrize("style", ["none", "lines", "json", "bar"])
def test_a_short_run_shows_no_progress(style: progress.Style, capfd: pytest.CaptureFixture[str]) -> None:
    told = Told(style)
    with told.display as display:
        display.watch(counters)
        display.say("a line")
    assert (told.lines, told.objects) == (["a line"], [])
    assert capfd.readouterr() == ("", "")


def test_an_error_of_the_display_is_raised_in_the_working_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "TICK", 0.01)
    monkeypatch.setattr(progress, "JSON_EVERY", 0.0)

    def fail(words: dict[str, Any]) -> None:
        assert threading.current_thread() is not threading.main_thread()
        raise PogfastError("closed")

    display = Display("test", "json", print, fail)
    with pytest.raises(PogfastError, match="closed"), display:  # noqa: PT012, the second call or the end raises
        display.watch(counters)
        wait_for(lambda: display.failure)
        with pytest.raises(PogfastError, match="closed"):
            display.check()


def test_the_display_stops_at_once_and_only_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "TICK", 100)
    began = time.monotonic()
    with Told("lines").display as display:
        display.watch(counters)
        display.stop()
        display.stop()
    assert time.monotonic() - began < 60
    with pytest.raises(KeyError), Told("lines").display:
        raise KeyError


def test_a_display_in_another_thread_leaves_signals_alone() -> None:
    failed: list[BaseException] = []

    def work() -> None:
        try:
            with Told("none").display as display:
                display.watch(counters)
        except BaseException as error:  # noqa: BLE001, whatever it is
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert failed == []


def test_speed_and_time_left() -> None:
    pace = Pace()
    assert (pace.speed, pace.seconds_left) == (0.0, None)
    pace.add(0.0, counters(0, 0))
    assert (pace.speed, pace.seconds_left) == (0.0, None)
    pace.add(2.0, counters(200, 4000))
    assert (pace.speed, pace.seconds_left) == (2000.0, pytest.approx(8.0))
    pace.add(12.0, counters(200, 4000))
    assert pace.speed == 0.0, "only the last seconds count"
    pace.add(14.0, counters(1000, 8000))
    assert pace.seconds_left == 0.0


def test_the_finished_fraction_is_of_bytes_or_else_of_files() -> None:
    assert counters(500).share == 0.5
    assert counters(2000).share == 1.0, "a file has grown"
    assert Counters(1, 4, 0, None, {}).share == 0.25
    assert counters(500, total=None).share is None
    assert Counters(0, 0, 0, 0, {}).share is None


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (9994, "9.99 kB"),
        (9996, "10.0 kB"),
        (99_940, "99.9 kB"),
        (99_960, "100 kB"),
        (999_400, "999 kB"),
        (999_600, "1.00 MB"),
        (5 * 10**13, "50.0 TB"),
        (2 * 10**18, "2000 PB"),
    ],
)
def test_sizes_have_three_digits(size: int, text: str) -> None:
    assert show_size(size) == text


@given(st.integers(1, 10**18))
def test_a_printed_size_is_parsed_as_about_the_same(size: int) -> None:
    assert parse_size("--size", show_size(size)) == pytest.approx(size, rel=0.006)


def test_errors_of_sizes_name_the_option() -> None:
    with pytest.raises(UsageError, match="--memory=x: not a size"):
        parse_size("--memory", "x")


def test_numbers_and_times() -> None:
    assert [many(n, "file") for n in (0, 1, 2000)] == ["0 files", "1 file", "2,000 files"]
    assert [many(n, "directory", "directories") for n in (1, 2)] == ["1 directory", "2 directories"]
    assert [show_seconds(n) for n in (0, 7.9, 61, 3600, 86461)] == ["0:00", "0:07", "1:01", "1:00:00", "24:01:01"]

"""Units that a crew does: their order, what is done again, limits for all, and that a busy crew is looked at."""

from __future__ import annotations

import pickle
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from pogfast.cluster import limits, line
from pogfast.cluster.executors import PoolCrew
from pogfast.cluster.line import Line
from pogfast.cluster.units import Failed, KeyReference, SealingJob
from pogfast.errors import PogfastError, StoreError
from pogfast.sizes import MIN_RATE
from pogfast.stores.limits import RateLimit
from pogfast.stores.settings import Settings


class Watched(PoolCrew):
    """Counts how often it is looked at."""

    looks = 0

    def check(self) -> None:
        self.looks += 1


def units_of(crew: PoolCrew, act: Any, units: Any) -> list[Any]:
    return list(Line(crew, act, None, iter(units), certain=False).run())  # type: ignore[arg-type]


def test_the_crew_is_looked_at_while_units_end_all_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else no worker that comes later would get a unit."""
    monkeypatch.setattr(line, "TICK", 0.05)
    with ThreadPoolExecutor(4) as threads:
        crew = Watched(threads)
        units_of(crew, lambda job, unit: time.sleep(0.004), range(400))
    assert crew.looks >= 4


def test_units_come_in_their_order_and_none_asks_again() -> None:
    asked: list[int] = []

    def units() -> Any:
        for number in range(50):
            asked.append(number)
            yield number
            if number % 7 == 0:
                yield None

    with ThreadPoolExecutor(3) as threads:
        done = units_of(PoolCrew(threads), lambda job, unit: unit * unit, units())
    assert done == [(number, number * number) for number in range(50)]
    assert asked == list(range(50))


@pytest.mark.parametrize(("failures", "fails"), [(2, False), (3, True)])
def test_a_store_that_fails_is_tried_by_others(failures: int, fails: bool) -> None:
    tried: list[int] = []

    def act(job: object, unit: int) -> int | Failed:
        tried.append(unit)
        if unit == 3 and tried.count(3) <= failures:
            return Failed.of(StoreError("no room", "make some"), "worker")
        return unit

    with ThreadPoolExecutor(2) as threads:
        if fails:
            with pytest.raises(StoreError, match="no room") as caught:
                units_of(PoolCrew(threads), act, range(6))
            assert caught.value.hint == "make some"
        else:
            assert len(units_of(PoolCrew(threads), act, range(6))) == 6
    assert tried.count(3) == 3


def test_a_defect_of_a_worker_is_reported() -> None:
    with ThreadPoolExecutor(1) as threads, pytest.raises(PogfastError, match="worker here failed: ZeroDivisionError"):
        units_of(PoolCrew(threads), lambda job, unit: Failed.of(ZeroDivisionError("x"), "here"), range(3))
    with ThreadPoolExecutor(1) as threads, pytest.raises(PogfastError, match="the executor failed: ZeroDivisionError"):
        units_of(PoolCrew(threads), lambda job, unit: 1 // 0, range(3))


def test_each_process_gets_its_share_of_a_limit() -> None:
    word = KeyReference("x25519", "", public=bytes(32))
    job = SealingJob("a job", "s3://bucket", "mark", word, Settings(limit_upload=RateLimit(1_000_000)), ())
    for share, rate in [(0.25, 250_000), (0.5, 500_000), (1e-9, MIN_RATE)]:
        limits.limit(pickle.loads(pickle.dumps(job)), share)
        upload, download = limits.limits_of(job).values()
        assert upload is not None
        assert (upload.rate, download) == (rate, None)
        assert upload is not job.settings.limit_upload, "what the job allows stays as it is"
    first = limits.limits_of(job)
    limits.forget_limits([])
    assert limits.limits_of(job) is not first


class Slow(Future[Any]):
    """Its result takes longer to fetch than one look at the crew."""

    def result(self, timeout: float | None = None) -> Any:
        if timeout is not None and timeout < 0.15:
            time.sleep(timeout)
            raise TimeoutError
        return super().result(timeout)


def test_a_result_that_takes_long_to_fetch_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line._Task, "patience", 0.02)

    class Crew(PoolCrew):
        def submit(self, act: Any, *arguments: Any) -> Future[Any]:
            future = Slow()
            future.set_result(act(*arguments))
            return future

    with ThreadPoolExecutor(1) as threads:
        assert units_of(Crew(threads), lambda job, unit: unit, range(2)) == [(0, 0), (1, 1)]

"""Units that a crew does: their order, what is done again, limits for all, and that a busy crew is looked at."""

from __future__ import annotations

import gc
import pickle
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pogfast.cluster import limits, line, worker
from pogfast.cluster.executors import PoolCrew
from pogfast.cluster.line import Line
from pogfast.cluster.units import Failed, KeyReference, SealingJob
from pogfast.errors import PogfastError, StoreError
from pogfast.keys import Key
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


def job_with_limit(store: Path) -> SealingJob:
    store.mkdir()
    (store / "mark").touch()
    word = KeyReference.of(Key("x25519", bytes(32)), "", writing=True)
    return SealingJob("a job", str(store), "mark", word, Settings(limit_upload=RateLimit(1_000_000)), ())


def test_each_process_gets_its_share_of_a_limit(tmp_path: Path) -> None:
    job = job_with_limit(tmp_path / "store")
    found = limits.limits_of(job)
    for share, rate in [(0.25, 250_000), (0.5, 500_000), (1e-9, MIN_RATE)]:
        limits.limits_of(pickle.loads(pickle.dumps(job))).share(share)
        upload, download = found.settings.values()
        assert upload is not None
        assert (upload.rate, download) == (rate, None)
        assert upload is not job.settings.limit_upload, "what the job allows stays as it is"


def test_the_limits_of_a_job_last_as_long_as_it_has_a_desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else each desk that is opened later might send as much again."""
    monkeypatch.setattr(worker, "KEPT", 0.0)
    job = job_with_limit(tmp_path / "store")
    with worker._borrowed(job) as first:
        with worker._borrowed(job):
            pass
        worker._close_idle()
        assert worker._idle == []
        with worker._borrowed(job) as another:
            assert another is not first
            assert another.limits is first.limits
    worker.end(job)
    del first, another
    gc.collect()
    assert job.number not in limits._known


class Slow(Future[Any]):
    """Its result takes longer to fetch than one look at the crew."""

    def result(self, timeout: float | None = None) -> Any:
        if timeout is not None and timeout < 0.15:
            time.sleep(timeout)
            raise TimeoutError
        return super().result(timeout)


def test_a_result_that_takes_long_to_fetch_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line._Task, "patience", 0.02)
    monkeypatch.setattr(line, "TICK", 0.02)

    class Crew(PoolCrew):
        def submit(self, act: Any, *arguments: Any) -> Future[Any]:
            future = Slow()
            future.set_result(act(*arguments))
            return future

    with ThreadPoolExecutor(1) as threads:
        assert units_of(Crew(threads), lambda job, unit: unit, range(2)) == [(0, 0), (1, 1)]


def test_a_result_that_is_lost_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its worker has died, and another one makes it again: meanwhile what others have done is reported."""
    monkeypatch.setattr(line, "TICK", 0.02)
    lost: list[Future[Any]] = []
    done: list[int] = []

    class Lost(Future[Any]):
        found = False

        def done(self) -> bool:
            return self.found

        def exception(self, timeout: float | None = None) -> BaseException | None:
            assert self.found, "nobody has it"
            return None

    class Crew(PoolCrew):
        def check(self) -> None:
            if len(done) == 3:
                for each in lost:
                    each.found = True  # type: ignore[attr-defined]

        def submit(self, act: Any, *arguments: Any) -> Future[Any]:
            future: Future[Any] = Future() if arguments[1] else Lost()
            lost.extend([future] if isinstance(future, Lost) else [])
            future.set_result(act(*arguments))
            future.add_done_callback(lambda ended: done.append(arguments[1]) if arguments[1] else None)
            return future

    with ThreadPoolExecutor(1) as threads:
        assert units_of(Crew(threads), lambda job, unit: unit, range(4)) == [(n, n) for n in range(4)]
    assert len(lost) == 1

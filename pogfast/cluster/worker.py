"""What runs on a worker: it opens the stores and the key of a job once, and then does its units.

A desk has what a job needs. Each unit borrows one of its own, so that a worker with several threads has several; they
are closed when nobody has borrowed one for some minutes. Keys are in memory only while a desk is open.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from typing import NoReturn, cast

from pogfast._engine import Sealed, Sealer
from pogfast.cluster.limits import limits_of
from pogfast.cluster.reading import OpeningDesk, check_is_theirs, check_sees
from pogfast.cluster.units import (
    Failed,
    Job,
    OpeningJob,
    OpeningResult,
    OpeningUnit,
    SealingJob,
    SealingResult,
    SealingUnit,
    Unsuitable,
)
from pogfast.errors import PogfastError, StoreError, StoreLost
from pogfast.stores import open_stores, settings
from pogfast.stores.addresses import is_service
from pogfast.stores.protocols import CanDistrust, HasPacks
from pogfast.stores.publish import store_errors
from pogfast.stores.targets import Targets

KEPT = 300.0  # seconds that an idle desk is kept
SEVERAL = 8  # idle desks of a process, of all jobs

_lock = threading.Lock()


def name_here() -> str:
    """Returns what this worker is called: its address if it is one of Dask's."""
    if "distributed" in sys.modules:
        from distributed import get_worker

        with contextlib.suppress(ValueError):  # not in a task of Dask's
            return str(get_worker().address)
    return f"{socket.gethostname()}:{os.getpid()}"


class SealingDesk:
    """The stores and the key of a create."""

    def __init__(self, job: SealingJob) -> None:
        self.job = job
        self.used = time.monotonic()
        self._is_open = False
        job.check_release()
        job.check_sources()
        self.key = job.key.resolve()
        for word in job.to.split(","):
            _check_store(word, job.mark)
        self.limits = limits_of(job)
        with settings.using(**vars(job.settings) | self.limits.settings):
            opened = open_stores(job.to, _refuse_lost)
        try:
            for target in opened:
                check_is_theirs(target, job.mark)
                if isinstance(target, CanDistrust):
                    target.distrust_all()
            self.targets = Targets(opened, self._lost)
        except BaseException:
            for target in opened:
                target.close()
            raise
        self._is_open = True

    def _lost(self, lost: StoreLost) -> NoReturn:
        """Raises what is wrong: with this worker if it cannot use a store at all, else with the store."""
        raise StoreError(str(lost), lost.hint) if self._is_open else Unsuitable(str(lost))

    def do(self, unit: SealingUnit) -> SealingResult:
        """Does a unit: when it returns, its blobs are durable. Raises StoreError."""
        job, started, targets = self.job, time.monotonic(), self.targets
        before = _requests(targets)
        self.limits.share(unit.share)
        sealer = Sealer(
            self.key.secret,
            self.key.asymmetric,
            iter(unit.pieces),
            targets.sinks,
            chunk_size=job.chunk_size,
            level=job.level,
            jobs=job.jobs,
            frames=job.frames,
            content=job.by_content and (*job.by_content, self.key.gears()),
            readers=job.jobs,
            follow=False,
            anew=job.anew,
            even=job.even,
        )
        events: list[Sealed] = []
        with store_errors(), contextlib.closing(sealer.run()) as run:
            for news in run:
                targets.drop(sealer.lost)
                if news.file == len(events):
                    events.append(news)
                else:
                    events[-1] = _joined(events[-1], news)
        targets.drop(sealer.lost)
        packs = []
        for target in targets.left:
            packs.append(target.hand_over() if isinstance(target, HasPacks) else [])
            if not isinstance(target, HasPacks):
                target.make_durable()
        self.used = time.monotonic()
        spent = dict(_requests(targets) - before)
        return SealingResult(events, sealer.progress(), packs, spent, name_here(), self.used - started)

    def close(self) -> None:
        for target in self.targets.left:
            with contextlib.suppress(PogfastError):
                target.close()


def _check_store(word: str, mark: str) -> None:
    """Raises Unsuitable for a directory that is not the coordinator's store, or cannot be written to."""
    check_sees(word, mark)
    if not is_service(word) and not os.access(word, os.W_OK | os.X_OK):
        raise Unsuitable(f"it has no permission to write to {word}")


def _refuse_lost(lost: StoreLost) -> NoReturn:
    raise Unsuitable(str(lost))


def _requests(targets: Targets) -> Counter[str]:
    return sum((Counter(dict(target.requests)) for target in targets.left), Counter())


def _joined(first: Sealed, news: Sealed) -> Sealed:
    """Returns two events of one file as one."""
    return news._replace(
        names=first.names + news.names,
        stored=first.stored + news.stored,
        sizes=first.sizes + news.sizes,
        plain_names=first.plain_names + news.plain_names,
    )


# ---- desks ----

Desk = SealingDesk | OpeningDesk
_idle: list[Desk] = []
_ended: deque[str] = deque(maxlen=64)  # numbers of jobs that have ended
_timer: threading.Timer | None = None


@contextlib.contextmanager
def _borrowed(job: SealingJob | OpeningJob) -> Iterator[Desk]:
    """Gives a desk of this job for the duration of a with-block. It is closed if the block raises."""
    with _lock:
        found = next((desk for desk in _idle if desk.job.number == job.number), None)
        if found is not None:
            _idle.remove(found)
    desk = found or (SealingDesk(job) if isinstance(job, SealingJob) else OpeningDesk(job))
    try:
        yield desk
    except BaseException:
        desk.close()
        raise
    with _lock:
        if job.number in _ended:
            surplus = [desk]
        else:
            _idle.append(desk)
            surplus = _idle[:-SEVERAL]
            del _idle[:-SEVERAL]
    for old in surplus:
        old.close()
    _close_later()


def _close_later() -> None:
    """Has idle desks closed, some time later."""
    global _timer
    with _lock:
        if _timer is None and _idle:
            _timer = threading.Timer(KEPT, _close_idle)
            _timer.daemon = True
            _timer.start()


def _close_idle() -> None:
    """Closes the desks that nobody has used for a while."""
    global _timer
    with _lock:
        _timer = None
        gone = [desk for desk in _idle if time.monotonic() - desk.used >= KEPT]
        _idle[:] = [desk for desk in _idle if desk not in gone]
    for desk in gone:
        desk.close()
    _close_later()


# ---- what a worker is asked to do ----


def seal(job: SealingJob, unit: SealingUnit) -> SealingResult | Failed:
    """Turns files into blobs. Raises nothing."""
    try:
        with _borrowed(job) as desk:
            return cast(SealingDesk, desk).do(unit)
    except Exception as error:  # noqa: BLE001 (see Failed)
        return Failed.of(error, name_here())


def open_blobs(job: OpeningJob, unit: OpeningUnit) -> OpeningResult | Failed:
    """Turns blobs into files, or verifies them. Raises nothing."""
    try:
        with _borrowed(job) as desk:
            result = cast(OpeningDesk, desk).do(unit)
        result.worker = name_here()
    except Exception as error:  # noqa: BLE001 (see Failed)
        return Failed.of(error, name_here())
    return result


def end(job: Job) -> None:
    """Closes the desks of a job, so that no key of it is kept; one that is in use is closed when it is given back."""
    with _lock:
        _ended.append(job.number)
        gone = [desk for desk in _idle if desk.job.number == job.number]
        _idle[:] = [desk for desk in _idle if desk not in gone]
    for desk in gone:
        desk.close()


def probe(job: Job) -> str:
    """Returns why this worker cannot do units of a job; "" if it can. Raises nothing."""
    try:
        if isinstance(job, SealingJob | OpeningJob):
            with _borrowed(job):
                return ""
        raise Unsuitable("it does not know this kind of job")
    except Exception as error:  # noqa: BLE001 (see Failed)
        return Failed.of(error, name_here()).text

"""Dask's workers as a crew. Each is asked, before it gets a unit, whether it can do units of the job.

Whoever reaches a scheduler of Dask can run code on its workers, and on every client: so tcp:// is for this machine
only, and tls:// needs a client's certificate.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import re
import threading
import time
import warnings
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from importlib import import_module
from typing import TYPE_CHECKING, Any

from pogfast.cluster.units import Job
from pogfast.cluster.worker import probe
from pogfast.errors import PogfastError, UsageError

if TYPE_CHECKING:
    from pogfast.cluster.crews import CrewOptions, Done

INSTALL = "pip install '.[dask]' in the source"
CONNECT = 30.0  # seconds until a connection to a scheduler must be there
GREETED = 5.0  # more, until it must have said something, which Dask would wait for without end
PROBED = 30.0  # seconds for which workers that do not answer are waited for, beside others that do
LOST = 30.0  # seconds without a connection to it after which it counts as gone
TOLD = 10.0  # seconds that workers have to hear something
AGAIN = "run the same command again: it goes on where this one ended"
POLL = 0.05  # seconds between two looks for a first worker
PORT = re.compile(r"[1-9][0-9]{0,4}")
NUMBERS = itertools.count()


def connect(address: str, options: CrewOptions, tell: Callable[[str], None]) -> DaskCrew:
    """Connects to a scheduler: tcp://HOST:PORT, tls://HOST:PORT, or scheduler-file=PATH. Raises UsageError and
    PogfastError."""
    distributed = _distributed()
    if address.startswith("scheduler-file="):
        address = _address_in(address.removeprefix("scheduler-file="))
    _check_address(address, options)
    _silence()
    if not address.startswith("tls://") and (options.ca or options.certificate or options.key):
        raise UsageError(f"{address} is not encrypted: certificates are for tls://")
    security = _security(distributed, options) if address.startswith("tls://") else None

    def make() -> Any:
        return distributed.Client(
            address, security=security, timeout=CONNECT, set_as_default=False, name="pogfast", direct_to_workers=False
        )

    try:
        client = _within(CONNECT + GREETED, make)
    except Exception as error:  # what something else that answers there leads to has no common class
        raise PogfastError(
            f"cannot reach the scheduler at {address}: {_cause(error)}", "is it running, and is the certificate right?"
        ) from error
    return DaskCrew(client, options, tell, owned=True)


def _within(seconds: float, make: Callable[[], Any]) -> Any:
    """Returns what a function returns, and raises what it raises; TimeoutError if that takes longer."""
    made: Future[Any] = Future()

    def run() -> None:
        try:
            made.set_result(make())
        except BaseException as error:  # noqa: BLE001 (it is the caller's)
            made.set_exception(error)

    threading.Thread(target=run, name="pogfast-connect", daemon=True).start()
    return made.result(timeout=seconds)


def crew_of(client: object, options: CrewOptions, tell: Callable[[str], None]) -> DaskCrew:
    """Returns the crew of a caller's Client. Raises UsageError for anything else."""
    if not isinstance(client, _distributed().Client):
        raise UsageError("the executor is a dask.distributed.Client, a concurrent.futures.Executor, or an address")
    return DaskCrew(client, options, tell, owned=False)


def _distributed() -> Any:
    try:
        import distributed
    except ImportError as error:
        raise UsageError("an executor needs distributed, which is not installed", INSTALL) from error
    return distributed


def _silence() -> None:
    """Has Dask's loggers say nothing: what goes wrong is reported by us, in a line."""
    for name in [name for name in logging.root.manager.loggerDict if name.partition(".")[0] == "distributed"]:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    logging.getLogger("asyncio").addFilter(_is_not_dasks)
    warnings.filterwarnings("ignore", "Sending large graph")  # units have the names of many blobs


def _is_not_dasks(record: logging.LogRecord) -> bool:
    """Returns False for what asyncio says of exceptions that Dask raised and nobody waited for."""
    kind = record.exc_info[0] if record.exc_info else None
    return kind is None or not kind.__module__.startswith("distributed")


def _address_in(path: str) -> str:
    """Returns the address in the file that a scheduler has written. Raises UsageError."""
    try:
        with open(path, encoding="utf-8", opener=_open_at_once) as file:
            address = json.loads(file.read(1 << 20))["address"]
    except OSError as error:
        raise UsageError(
            f"cannot read the scheduler's file {path}: {error.strerror}", "the scheduler writes it when it has started"
        ) from error
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise UsageError(f"{path} is no file of a Dask scheduler") from error
    return str(address)


def _open_at_once(path: str, flags: int) -> int:
    """Opens a file; a FIFO without waiting for a writer."""
    return os.open(path, flags | os.O_NONBLOCK)


def _check_address(address: str, options: CrewOptions) -> None:
    kind, _, place = address.partition("://")
    host, _, port = place.rpartition(":")
    if kind not in ("tcp", "tls") or not host or not PORT.fullmatch(port) or int(port) > 65535:
        raise UsageError(f"{address} is no scheduler's address", hint="write tcp://127.0.0.1:8786 or tls://HOST:PORT")
    if kind == "tcp" and not options.insecure and host not in ("127.0.0.1", "[::1]", "localhost"):
        raise UsageError(
            f"{address} is not encrypted, and whoever reaches it can run code on every worker",
            hint="use tls:// with --cluster-ca, --cluster-cert and --cluster-key; "
            "--insecure-cluster is for a network that you trust",
        )


def _security(distributed: Any, options: CrewOptions) -> Any:
    """Returns the certificates: those given, else those of Dask's configuration. Raises UsageError."""
    given = {
        "tls_ca_file": options.ca,
        "tls_client_cert": options.certificate,
        "tls_client_key": options.key,
    }
    found = distributed.Security(require_encryption=True, **{word: path for word, path in given.items() if path})
    options_of = zip(("--cluster-ca", "--cluster-cert", "--cluster-key"), given, strict=True)
    paths = {option: str(getattr(found, word) or "") for option, word in options_of}
    if missing := [option for option, path in paths.items() if not path]:
        raise UsageError(
            "a scheduler at tls:// asks for a client's certificate", f"give it with {' and '.join(missing)}"
        )
    for option, path in paths.items():
        if "\n" not in path and not os.access(path, os.R_OK):
            raise UsageError(f"cannot read {path}", hint=f"{option} names a PEM file")
    return found


def _cause(error: BaseException) -> str:
    """Returns the innermost words that say why."""
    said = "what answers is no scheduler" if isinstance(error, MemoryError) else str(error)
    while error.__cause__ is not None:
        error = error.__cause__
        said = str(error) or said
    return said or "it does not answer"


def _answer(act: Callable[..., Any], future: Any) -> str:
    """Returns why a worker cannot do units, "" if nothing is known."""
    try:
        if act is probe:
            return str(future.result(timeout=LOST))
        error = future.exception(timeout=LOST)
        return f"it cannot import {probe.__module__}: {error}"[:500] if error else ""
    except Exception as error:  # noqa: BLE001 (whatever it is, this worker cannot do units)
        return f"{type(error).__name__}: {error}"[:500]


class DaskCrew:
    """Workers of Dask. Those that cannot do units of the job are named once, and get none."""

    def __init__(self, client: Any, options: CrewOptions, tell: Callable[[str], None], *, owned: bool) -> None:
        self.client = client
        self.options = options
        self.tell = tell
        self.owned = owned
        self._job: Job | None = None
        self._threads: dict[str, int] = {}  # of the workers that are there
        self._good: set[str] = set()
        self._refused: dict[str, str] = {}
        self._probes: dict[str, tuple[Callable[..., Any], Any]] = {}  # what each is asked, and the future
        self._allowed: weakref.WeakKeyDictionary[Any, frozenset[str]] = weakref.WeakKeyDictionary()  # of each future
        self._seen = time.monotonic()  # when there was a worker that can do units
        self._reached = time.monotonic()

    def begin(self, job: Job) -> None:
        self._job = job
        self._good.clear()
        self._refused.clear()
        self._probes.clear()
        self._seen = self._reached = time.monotonic()
        begun = time.monotonic()
        self._await_anybody()
        while self._probes and time.monotonic() - begun < PROBED:
            self.check()
            time.sleep(POLL)

    def capacity(self) -> int:
        return sum(threads for worker, threads in self._threads.items() if worker in self._good)

    def share(self) -> float:
        return 1 / max(1, len(self._good & self._threads.keys()))

    def submit(self, act: Callable[..., Any], *arguments: Any) -> Done:
        self._await_anybody()
        allowed = frozenset(self._good & self._threads.keys())
        future = self._submit(act, arguments, sorted(allowed))
        self._allowed[future] = allowed
        return future  # type: ignore[no-any-return]

    def _await_anybody(self) -> None:
        """Returns when there is a worker that can do units. Raises PogfastError if none comes."""
        while not self._good & self._threads.keys():
            self.check()
            time.sleep(POLL)

    def _submit(self, act: Callable[..., Any], arguments: tuple[Any, ...], workers: list[str]) -> Any:
        assert self._job is not None
        key = f"pogfast-{act.__name__}-{self._job.number}-{next(NUMBERS)}"
        try:
            return self.client.submit(act, *arguments, key=key, pure=False, workers=workers, allow_other_workers=False)
        except Exception as error:  # what a closed client raises has no common class
            raise self._gone(error) from error

    def tell_all(self, act: Callable[..., Any], *arguments: Any) -> None:
        told = []
        with contextlib.suppress(Exception):  # whoever is gone keeps nothing
            for worker in self._good & self._threads.keys():
                told.append(self._submit(act, arguments, [worker]))
            _distributed().wait(told, timeout=TOLD)

    def refuse(self, worker: str, why: str) -> None:
        if worker not in self._refused:
            self._refused[worker] = why
            self.tell(f"worker {worker} is left out: {why}")
        self._good.discard(worker)

    def check(self) -> None:
        now = time.monotonic()
        try:
            self._threads = self.client.sync(self.client.scheduler.ncores, callback_timeout=LOST / 3)
            self._reached = now
        except Exception as error:
            if now - self._reached > LOST or self.client.status == "closed":
                raise self._gone(error) from error
            return
        self._look_at_probes()
        if self._good & self._threads.keys():
            self._seen = now
        self._check_any()

    def _look_at_probes(self) -> None:
        """Asks workers that are new whether they can do units. First they import what that takes: a worker that cannot
        would die of the probe, as it cannot even read it."""
        for worker in self._threads.keys() - self._good - self._refused.keys() - self._probes.keys():
            self._probe(worker, import_module, probe.__module__)
        for worker, (act, future) in list(self._probes.items()):
            if worker in self._threads and not future.done():
                continue
            del self._probes[worker]
            if worker not in self._threads:
                continue
            if why := _answer(act, future):
                self.refuse(worker, why)
            elif act is probe:
                self._good.add(worker)
            else:
                self._probe(worker, probe, self._job)

    def _probe(self, worker: str, act: Callable[..., Any], argument: object) -> None:
        self._probes[worker] = act, self._submit(act, (argument,), [worker])

    def _check_any(self) -> None:
        """Raises PogfastError if there has been no worker for too long."""
        if time.monotonic() - self._seen <= self.options.worker_timeout or self._good & self._threads.keys():
            return
        seconds = self.options.worker_timeout
        if self._refused:
            raise self._nobody()
        raise PogfastError(f"the scheduler has had no worker for {seconds:.0f} s", AGAIN)

    def _nobody(self) -> PogfastError:
        count = len(self._refused)
        left_out = f"all {count} workers are left out" if count > 1 else "the only worker is left out"
        return PogfastError(left_out, "mend what is reported above, and run it again")

    def is_stranded(self, future: Done) -> bool:
        allowed = self._allowed.get(future)
        return allowed is not None and not allowed & self._threads.keys() and bool(self._good & self._threads.keys())

    def has_lost(self) -> bool:
        with contextlib.suppress(Exception):  # then all that were there count as they were
            self._threads = self.client.sync(self.client.scheduler.ncores, callback_timeout=LOST / 3)
        return bool(self._good - self._threads.keys())

    def is_death(self, error: BaseException) -> bool:
        from distributed.scheduler import KilledWorker

        if isinstance(error, KilledWorker):
            return True
        if type(error).__name__ in ("CancelledError", "FutureCancelledError", "CommClosedError"):
            raise self._gone(error) from error
        return False

    def _gone(self, error: BaseException) -> PogfastError:
        return PogfastError(f"the connection to the scheduler is lost: {_cause(error)}", AGAIN)

    def close(self) -> None:
        if self.owned:
            with contextlib.suppress(Exception):  # it may be gone
                self.client.close(timeout=2)

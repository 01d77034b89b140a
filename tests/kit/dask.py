"""A Dask scheduler and workers on 127.0.0.1: real processes on free ports, stopped by their own pids."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import distributed

from kit.servers import Certificate

SETTINGS = {
    "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1",
    "DASK_DISTRIBUTED__NANNY__ENVIRON__MALLOC_TRIM_THRESHOLD_": "65536",
    "DASK_DISTRIBUTED__WORKER__MEMORY__TERMINATE": "false",
}
QUIET = ["--dashboard-address", "127.0.0.1:0"]


@dataclass
class Cluster:
    """A scheduler and its workers. `file` is what `dask:scheduler-file=` names."""

    directory: Path
    certificate: Certificate | None = None
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def file(self) -> Path:
        return self.directory / "scheduler.json"

    @property
    def executor(self) -> str:
        return f"dask:scheduler-file={self.file}"

    @property
    def address(self) -> str:
        return str(json.loads(self.file.read_text())["address"])

    @property
    def scheduler(self) -> subprocess.Popen[bytes]:
        return self.processes[0]

    @property
    def workers(self) -> list[subprocess.Popen[bytes]]:
        return self.processes[1:]

    def _start(self, *words: str, name: str, before: Sequence[str] = ()) -> subprocess.Popen[bytes]:
        command = [*before, sys.executable, "-m", *words, *QUIET]
        if self.certificate is not None:
            cert, key = str(self.certificate.cert), str(self.certificate.key)
            command += ["--tls-ca-file", cert, "--tls-cert", cert, "--tls-key", key]
        with open(self.directory / f"{name}.log", "ab") as log:
            process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                env={**os.environ, **SETTINGS},
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def start_scheduler(self) -> None:
        kind = "tls" if self.certificate else "tcp"
        address = ["--host", f"{kind}://127.0.0.1", "--port", "0"]
        self._start("distributed.cli.dask_scheduler", *address, "--scheduler-file", str(self.file), name="scheduler")
        _await(lambda: self.file.exists() and self.file.stat().st_size > 0)

    def start_worker(
        self, *, nanny: bool = True, preload: Path | None = None, before: Sequence[str] = ()
    ) -> subprocess.Popen[bytes]:
        """Starts a worker of one thread. A nanny starts it again when it is killed. `preload` is run in it first,
        `before` precedes its command line."""
        number = len(self.processes)
        words = ["--scheduler-file", str(self.file), "--nthreads", "1", "--name", f"worker{number}"]
        words += ["--local-directory", str(self.directory / f"spill{number}"), "--host", "127.0.0.1"]
        words += ["--nanny" if nanny else "--no-nanny"]
        if preload is not None:
            words += ["--preload", str(preload)]
        return self._start("distributed.cli.dask_worker", *words, name=f"worker{number}", before=before)

    def pids(self) -> list[int]:
        """Returns the pids of the workers themselves, which nannies have started."""
        connect: Any = distributed.Client
        with connect(self.address, set_as_default=False) as client:
            return [*client.run(os.getpid).values()]

    def log(self, name: str) -> str:
        return (self.directory / f"{name}.log").read_text()

    def stop(self) -> None:
        for process in reversed(self.processes):
            kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kills a process and those that it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _await(is_so: object, seconds: float = 60.0) -> None:
    ends = time.monotonic() + seconds
    while not is_so():  # type: ignore[operator]
        assert time.monotonic() < ends, "the scheduler does not start"
        time.sleep(0.02)


@contextlib.contextmanager
def cluster(directory: Path, workers: int = 2, certificate: Certificate | None = None) -> Iterator[Cluster]:
    directory.mkdir(parents=True, exist_ok=True)
    made = Cluster(directory, certificate)
    try:
        made.start_scheduler()
        for _ in range(workers):
            made.start_worker()
        yield made
    finally:
        made.stop()

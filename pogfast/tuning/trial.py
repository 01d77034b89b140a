"""One trial of tune: a whole create, or a whole restore of what it stored, in a process of its own.

So memory is measured for each trial alone, no trial warms up the next, and one that runs out of memory ends alone. The
key is random and is discarded: no secret of the user is needed, and nobody can read what is written.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
import resource
import signal
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, TypeVar

from pogfast import backup, recovery
from pogfast.backup.chunker import Chunker
from pogfast.errors import PogfastError
from pogfast.keys import Key
from pogfast.sizes import show_size
from pogfast.stores import open_store, settings
from pogfast.stores.names import PACKS, SETTINGS
from pogfast.stores.protocols import HasPacks, HoldsPacks

Result = TypeVar("Result")


class Setting(NamedTuple):
    """A combination of options of create."""

    chunker: str
    chunk_size: int
    level: int
    jobs: int

    @property
    def cuts(self) -> Chunker:
        return Chunker.parse(self.chunker, self.chunk_size)

    @property
    def kind(self) -> str:
        """`fixed` or `fastcdc`."""
        return self.chunker.partition(":")[0]

    @property
    def chunks(self) -> str:
        """How files are cut, as `--chunker` takes it."""
        return f"{self.kind}:{show_size(self.cuts.mean).replace(' ', '')}"

    def __str__(self) -> str:
        return f"{self.chunks}, level {self.level}, jobs {self.jobs}"


class Written(NamedTuple):
    """The measurements of a create, in seconds and bytes. `memory` is the peak of the process."""

    seconds: float
    cpu: float
    memory: int
    size: int
    stored: int
    repeated: int  # bytes that were not stored, since their blobs were stored before
    blobs: int
    requests: dict[str, int]
    manifest: str


class Restored(NamedTuple):
    """The measurements of a restore."""

    seconds: float
    cpu: float
    memory: int


def write(paths: Sequence[str], to: str, secret: bytes, setting: Setting) -> Written:
    """Archives `paths` as `pogfast create` does. Raises PogfastError, also if a file cannot be read."""
    options = backup.Options(
        chunker=setting.chunker,
        chunk_size=setting.chunk_size,
        level=setting.level,
        jobs=setting.jobs,
        cache_directory="",
    )
    summary = backup.create(paths, to, Key("keyfile", secret), options=options)
    if summary.problems:
        raise summary.problems[0]
    return Written(
        summary.seconds,
        time.process_time(),
        _peak(),
        summary.bytes_source,
        summary.bytes_stored,
        summary.bytes_repeated,
        summary.blobs_new,
        summary.requests,
        summary.manifest,
    )


def restore(archive: str, into: str, secret: bytes, jobs: int) -> Restored:
    """Restores all of an archive into an empty directory. Raises PogfastError."""
    summary = recovery.restore(archive, Key("keyfile", secret), into, jobs=jobs)
    if summary.problems:
        raise summary.problems[0]
    return Restored(summary.seconds, time.process_time(), _peak())


def empty(store: str) -> None:
    """Deletes everything in a temporary store. Raises PogfastError."""
    with contextlib.closing(open_store(store)) as opened:
        base = opened.base if isinstance(opened, HasPacks) else opened
        base.delete_manifests([manifest.name for manifest in base.manifests()])
        base.delete_blobs([blob.name for blob in base.blob_names()])
        if isinstance(base, HoldsPacks):
            base.delete_blobs([found.name for prefix in (PACKS, SETTINGS) for found in base.objects(prefix)])


def alone(cache: str, function: Callable[..., Result], *arguments: object) -> Result:
    """Calls one of these functions in a new process, whose cache directory is `cache`. Raises what it raises, and
    PogfastError if it is killed."""
    context = multiprocessing.get_context("spawn")  # a fork would start with all memory of this process
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(theirs, cache, settings.current(), function, arguments), daemon=True)
    # Only this process handles Ctrl-C, and kills the other one, which inherits the blocked signal for good.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    theirs.close()
    try:
        answer: Result | Exception = ours.recv()
    except EOFError:
        process.join()
        raise PogfastError(f"a trial was ended by signal {-(process.exitcode or 0)}: is there memory for it?") from None
    finally:
        process.kill()
        process.join()
        ours.close()
    if isinstance(answer, Exception):
        raise answer
    return answer


def _child(
    answer: Connection,
    cache: str,
    said: settings.Settings,
    function: Callable[..., Any],
    arguments: Sequence[Any],
) -> None:
    os.environ["POGFAST_CACHE_DIR"] = cache
    try:
        with settings.using(**vars(said)):
            result = function(*arguments)
    except Exception as error:  # noqa: BLE001 - raised in the parent process
        result = error
    answer.send(result)


def _peak() -> int:
    """Returns the peak of this process's memory in bytes. (On Linux, getrusage starts with that of the parent.)"""
    with contextlib.suppress(OSError), open("/proc/self/status", encoding="ascii", errors="replace") as file:
        if found := re.search(r"VmHWM:\s+(\d+) kB", file.read()):
            return int(found[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024

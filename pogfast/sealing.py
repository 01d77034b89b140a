"""Story 1: files -> blobs -> the manifest, last; as pog tells it (backup.py is pogfast's).

Takes what is to be archived as (path, archived name) pairs and knows neither patterns nor flags. The engine turns
files into blobs; the entries are collected here in the order of the sources. A manifest is stored only after every
blob that it names is durable, so an archive that can be seen is whole. A source that cannot be read is reported and
left out; a store that cannot be written to ends the run.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple, Protocol

from pogfast import manifest
from pogfast._engine import Sealer
from pogfast.errors import PogfastError, SourceError, StoreError
from pogfast.keys import Key
from pogfast.stores import Target
from pogfast.stores.targets import Targets

FULL = {errno.ENOSPC, errno.EDQUOT}


class Source(NamedTuple):
    """What is opened (and shown), and the name it gets in the archive."""

    path: str
    name: str


class Report(Protocol):
    """What the caller wants to hear, in the order of the sources whatever the number of workers."""

    def file(self, index: int, total: int, path: str) -> None: ...

    def blob(self, name: str) -> None: ...

    def flush(self) -> None:
        """Called before the manifest is stored: what is raised here keeps it from appearing."""

    def manifest(self, index: int, total: int, name: str) -> None:
        """The manifest of this name is stored."""

    def problem(self, error: PogfastError) -> None: ...


@dataclass
class Summary:
    """What was done: the manifest's name, files and plain bytes archived, and what could not be."""

    manifest_name: str = ""
    files: int = 0
    size: int = 0
    problems: list[PogfastError] = field(default_factory=list)


def create(
    sources: Sequence[Source],
    key: Key,
    targets: Sequence[Target],
    *,
    chunk_size: int,
    level: int,
    jobs: int,
    report: Report,
) -> Summary:
    """Archives `sources` to every target in pog's `stream` layout and returns what was done.

    `chunk_size` is in bytes, `level` one of zstd's, `jobs` the number of workers. Raises StoreError when no target
    can be written to, and PogfastError when not one source could be read; then no manifest appears.
    """
    key.check_writes()
    total = len(sources) + 1
    summary = Summary()

    def tell(problem: PogfastError) -> None:
        summary.problems.append(problem)
        report.problem(problem)

    kept = Targets(targets, tell)
    entries: dict[str, manifest.Entry] = {}
    blobs: list[str] = []
    shown = -1
    sealer = Sealer(
        key.secret,
        key.asymmetric,
        [os.fsencode(source.path) for source in sources],
        kept.sinks,
        chunk_size=chunk_size,
        level=level,
        jobs=jobs,
    )
    with kept.written_to(lambda: sealer.progress().blobs_new), store_errors(), contextlib.closing(sealer.run()) as run:
        for sealed in run:
            kept.drop(sealer.lost)
            source = sources[sealed.file]
            if sealed.file != shown:
                report.file(sealed.file + 1, total, source.path)
                shown = sealed.file
                blobs = []
            for name in sealed.names:
                report.blob(name)
            blobs += sealed.names
            if not sealed.done:
                continue
            if sealed.error:
                tell(SourceError(f"cannot read {source.path}: {os.strerror(sealed.error)}"))
                continue
            entries[source.name] = manifest.Entry(blobs, seconds_of(sealed.atime_ns), seconds_of(sealed.mtime_ns))
            summary.files += 1
            summary.size += sealed.size
    kept.drop(sealer.lost)
    if sources and not summary.files:
        raise PogfastError("not one of the inputs could be read: no archive was made")
    summary.manifest_name = conclude(
        kept,
        lambda: manifest.seal(manifest.Manifest(dict(sorted(entries.items()))), key),  # as pogcli 0.1.4 has them
        lambda data: {blob for entry in entries.values() for blob in entry.blobs},
        lambda name: report.flush(),
    )
    report.manifest(total, total, summary.manifest_name)
    return summary


def conclude(
    targets: Targets,
    seal: Callable[[], bytes],
    blobs: Callable[[bytes], Collection[str]],
    announce: Callable[[str], None],
) -> str:
    """Stores a manifest in every target when all blobs are durable there, and returns its name.

    `seal` makes its bytes, `blobs` says what these name; `announce` hears the name before the manifest is stored, and
    what it raises keeps it from appearing. Raises StoreError.
    """
    targets.each(lambda target: target.make_durable())
    name = datetime.now().isoformat(timespec="microseconds") + ".mfn"
    data = seal()
    announce(name)
    targets.publish(name, data, lambda: blobs(data))
    return name


def seconds_of(ns: int) -> float:
    """As os.stat gives them, and so as pog writes them."""
    seconds, rest = divmod(ns, 10**9)
    return seconds + rest * 1e-9


@contextlib.contextmanager
def store_errors() -> Iterator[None]:
    """A system's refusal to write becomes a StoreError that says where, and what to do about it."""
    try:
        yield
    except OSError as error:
        hint = "make room and run it again: what is stored is kept" if error.errno in FULL else ""
        raise StoreError(f"cannot write to {error.filename or 'the store'}: {error.strerror}", hint) from error

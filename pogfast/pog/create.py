"""`pog INPUT...`: files become blobs in pog's `stream` layout, and a manifest that names them, stored last.

Takes (path, archived name) pairs and knows neither patterns nor options. The engine turns files into blobs; the entries
are collected here in the order of the sources. A source that cannot be read is reported and left out; a store that
cannot be written to ends the run.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, Protocol

from pogfast import manifest
from pogfast._engine import Sealed, Sealer
from pogfast.errors import PogfastError, SourceError
from pogfast.keys import Key
from pogfast.stores import PARTIAL
from pogfast.stores.protocols import Target
from pogfast.stores.publish import conclude, name_now, seconds_of, store_errors, why_not_read
from pogfast.stores.reliance import stored_again
from pogfast.stores.targets import Partial, Targets


class Source(NamedTuple):
    """The path of a file and its archived name."""

    path: str
    name: str


class Report(Protocol):
    """Callbacks of a run, called in the order of the sources whatever the number of workers."""

    def file(self, index: int, total: int, path: str) -> None: ...

    def blob(self, name: str) -> None: ...

    def flush(self) -> None:
        """Called before the manifest is stored; an exception here aborts publication."""

    def manifest(self, index: int, total: int, name: str) -> None:
        """Called when the manifest is stored."""

    def problem(self, error: PogfastError) -> None: ...


@dataclass
class Summary:
    """The result: name of the manifest, number of files, their size in bytes, and problems."""

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
    """Archives `sources` to every target in pog's `stream` layout.

    `chunk_size` is in bytes, `level` a level of zstd, `jobs` the number of workers. Raises StoreError if no target can
    be written to, and PogfastError if no source could be read; then no manifest is stored.
    """
    key.check_writes()
    run = _Run(key, targets, report, chunk_size=chunk_size, level=level, jobs=jobs)
    run.archive(sources, len(sources) + 1)
    if sources and not run.entries:
        raise PogfastError("none of the inputs could be read: no archive was created")
    name = stored_again(run.conclude, lambda names: run.archive_again(sources, names))
    report.manifest(len(sources) + 1, len(sources) + 1, name)
    return Summary(name, len(run.entries), sum(run.sizes.values()), run.problems)


class _Run:
    """A run and the entries of its archive. `sizes` are original bytes."""

    def __init__(self, key: Key, targets: Sequence[Target], report: Report, **how: Any) -> None:
        self.key = key
        self.report = report
        self.how = how
        self.targets = Targets(targets, self.problem)
        self.partial = Partial(self.targets, name_now() + PARTIAL)
        self.entries: dict[str, manifest.Entry] = {}
        self.sizes: dict[str, int] = {}
        self.problems: list[PogfastError] = []

    def problem(self, error: PogfastError) -> None:
        self.problems.append(error)
        self.report.problem(error)

    def archive(self, sources: Sequence[Source], total: int) -> None:
        """Archives `sources`. `total` is the number of files to report; with 0 only problems are reported."""
        blobs: list[str] = []
        shown = -1
        paths = [os.fsencode(source.path) for source in sources]
        sealer = Sealer(self.key.secret, self.key.asymmetric, paths, self.targets.sinks, **self.how)
        with (
            self.targets.written_to(lambda: sealer.progress().blobs_new),
            store_errors(),
            contextlib.closing(sealer.run()) as run,
        ):
            for sealed in run:
                self.targets.drop(sealer.lost)
                source = sources[sealed.file]
                if sealed.file != shown:
                    if total:
                        self.report.file(sealed.file + 1, total, source.path)
                    shown = sealed.file
                    blobs = []
                if total:
                    for name in sealed.names:
                        self.report.blob(name)
                blobs += sealed.names
                if sealed.done:
                    self._take(source, sealed, blobs)
                elif self.partial.is_due():
                    entries = {**self.entries, source.name + PARTIAL: manifest.Entry(blobs, 0.0, 0.0)}
                    self.partial.put(partial(self._sealed, entries))
        self.targets.drop(sealer.lost)

    def _take(self, source: Source, sealed: Sealed, blobs: list[str]) -> None:
        """Adds the entry of a finished file, or reports why it could not be read."""
        if sealed.error:
            self.entries.pop(source.name, None)
            self.problem(SourceError(f"cannot read {source.path}: {why_not_read(sealed.error)}"))
            return
        self.entries[source.name] = manifest.Entry(blobs, seconds_of(sealed.atime_ns), seconds_of(sealed.mtime_ns))
        self.sizes[source.name] = sealed.size
        if self.partial.is_due():
            self.partial.put(lambda: self._sealed(self.entries))

    def archive_again(self, sources: Sequence[Source], names: Collection[str]) -> None:
        """Archives the files again that need one of the blobs `names`, which the stores now lack."""
        lacking = set(names)
        self.archive([each for each in sources if lacking.intersection(self._blobs_of(each))], 0)

    def _blobs_of(self, source: Source) -> list[str]:
        return self.entries[source.name].blobs if source.name in self.entries else []

    def conclude(self) -> str:
        """Stores the manifest and returns its name. Raises as publish.conclude."""
        name = conclude(
            self.targets,
            lambda: self._sealed(self.entries),
            lambda data: {blob for entry in self.entries.values() for blob in entry.blobs},
            lambda name: self.report.flush(),
        )
        self.partial.delete()
        return name

    def _sealed(self, entries: Mapping[str, manifest.Entry]) -> bytes:
        return manifest.seal(manifest.Manifest(dict(sorted(entries.items()))), self.key)  # sorted, as by pogcli 0.1.4

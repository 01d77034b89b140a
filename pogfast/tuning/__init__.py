"""Finds the chunk sizes, level and number of jobs that suit a user's data and store, by trying them.

The chunker comes first, at the default level on every core; then the level, with the best chunker; then the jobs, with
the best of both. Each round tries every setting once, so that other load on the machine affects all of them alike. A
setting needs no further round when its measurements agree, or when it is clearly slower. sampling.py selects the data,
trial.py runs a trial; this module decides what comes next and which is best. It handles no flags and prints nothing.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol, get_args

from pogfast._engine import Sealer, cores, random_bytes
from pogfast.backup import CHUNK_SIZE, Options
from pogfast.backup.chunker import Chunker
from pogfast.errors import NoSuchArchive, PogfastError, SourceError, StoreError, UsageError
from pogfast.keys import Key
from pogfast.sizes import parse_size, show_size
from pogfast.stores import check_stores, open_store, settings
from pogfast.stores.addresses import below, is_service
from pogfast.stores.names import MEASURING
from pogfast.stores.protocols import HasPacks
from pogfast.tuning import trial
from pogfast.tuning.sampling import Sample, regular_files, sample
from pogfast.tuning.trial import Restored, Setting, Written

try:
    import numpy
except ImportError as error:
    raise UsageError("tune needs numpy, which is not installed", hint="pip install '.[tune]' in the source") from error

SAMPLE = 500_000_000  # bytes
MIN_SAMPLE = 1_000_000  # bytes; less takes no longer than a process needs to start, so all settings would look alike
FIXED = (1_000_000, 4_000_000, 16_000_000, 50_000_000, 100_000_000, 256_000_000)
BY_CONTENT = ("fastcdc:1MB", "fastcdc:4MB", "fastcdc:16MB")
LEVELS = (1, 3, 6, 9)
COMPARED = ("50MB", "4MB", *BY_CONTENT)
MIN_ROUNDS, MAX_ROUNDS = 3, 7
MAX_SPREAD = 0.05  # a setting with a smaller spread needs no more runs
TOO_SLOW = 1.5  # a setting that is this many times slower than the best needs no more runs
SAME = 0.03  # a smaller difference counts as equal

Aim = Literal["both", "speed", "size"]


@dataclass
class Figures:
    """The runs of one setting, and statistics of them."""

    setting: Setting
    written: list[Written] = field(default_factory=list)
    restored: list[Restored] = field(default_factory=list)

    @property
    def write_speed(self) -> float:
        """Uncompressed bytes per second, the median."""
        return self.written[0].size / _median([run.seconds for run in self.written])

    @property
    def restore_speed(self) -> float:
        return self.written[0].size / _median([run.seconds for run in self.restored])

    @property
    def spread(self) -> float:
        """The interquartile range as a share of the median, of creates or restores, whichever is larger."""
        spreads = []
        for seconds in ([run.seconds for run in self.written], [run.seconds for run in self.restored]):
            low, middle, high = numpy.percentile(seconds, [25, 50, 75])
            spreads.append(float((high - low) / middle))
        return max(spreads)

    @property
    def cpu(self) -> float:
        """CPU seconds of a create, on all cores."""
        return _median([run.cpu for run in self.written])

    @property
    def memory(self) -> int:
        """Bytes: the peak of all runs."""
        return max(*(run.memory for run in self.written), *(run.memory for run in self.restored))

    @property
    def ratio(self) -> float:
        """Uncompressed bytes per stored byte."""
        return self.written[0].size / max(self.written[0].stored, 1)

    @property
    def repeated(self) -> float:
        """The share of bytes that did not have to be stored, since their blobs were stored before."""
        run = self.written[0]
        return run.repeated / max(run.repeated + run.stored, 1)

    @property
    def blobs_a_terabyte(self) -> float:
        return self.written[0].blobs / self.written[0].size * 1e12

    @property
    def writes_a_terabyte(self) -> float:
        """Objects that are stored in a service, without the manifest; with packs they are fewer than blobs."""
        run = self.written[0]
        return max(run.requests.get("put", 1) - 1, 0) / run.size * 1e12


class Report(Protocol):
    """Receives what happens while tune measures. Every method does nothing unless it is overridden."""

    def sampled(self, sample: Sample) -> None:
        """Called when the files to measure with have been chosen and read."""
        return

    def stage(self, what: str, settings: int) -> None:
        """Called before each stage: it tries this number of settings to find the best `what`."""
        return

    def trial(self, figures: Figures) -> None:
        """Called after each trial of a setting, with all its trials so far."""
        return

    def problem(self, error: PogfastError) -> None:
        """Called for each file that cannot be read; it is left out."""
        return


class Silent(Report):
    """Reports nothing."""


class Outcome(NamedTuple):
    """What was measured, the best setting, and why it is the best."""

    sample: Sample
    figures: list[Figures]
    best: Figures
    why: str
    packs: int | None = None  # bytes of a pack, if small blobs were stored in packs


def tune(
    paths: Sequence[str],
    to: str | None = None,
    *,
    report: Report | None = None,
    sample_size: int = SAMPLE,
    chunkers: Sequence[str] = (),
    levels: Sequence[int] = LEVELS,
    jobs: Sequence[int] = (),
    aim: Aim = "both",
) -> Outcome:
    """Measures with about `sample_size` bytes of the files at `paths`, in the store `to` (None: a temporary directory).

    `chunkers` are sizes of fixed chunks, or fastcdc with sizes; none: all that may be useful. Everything that is
    written is deleted again. Raises UsageError, NoSuchInput, StoreError, and what a trial raises.
    """
    if aim not in get_args(Aim):
        raise UsageError(f"no such aim: {aim}", hint=", ".join(get_args(Aim)))
    if not levels:
        raise UsageError("no level to try is given")
    report = report or Silent()
    cuttings = [_chunker_of(text) for text in chunkers]
    for level in levels:
        Options(level=level)  # raises UsageError before anything is read
    for number in jobs:
        Options(jobs=number)

    packs = _packs(to)
    with settings.using(packs=packs), _scratch(to) as (store, scratch):
        parts = os.path.join(scratch, "parts")
        os.mkdir(parts)
        taken = sample(paths, sample_size, parts, report.problem)
        if taken.size < MIN_SAMPLE:
            raise UsageError(
                f"{show_size(taken.size)} is too little to measure with: at least {show_size(MIN_SAMPLE)} is needed",
                hint="the defaults of create suit so little data; give tune what you want to archive",
            )
        report.sampled(taken)
        bench = _Bench(taken, store, scratch, report)
        everyone = max(jobs, default=cores())
        middle = 3 if 3 in levels else levels[0]
        cuttings = cuttings or _worth_trying(taken.largest)
        best = bench.best("how to cut", [Setting(*cutting, middle, everyone) for cutting in cuttings], aim)
        best = bench.best("the level", [best.setting._replace(level=level) for level in levels], aim)
        numbers = jobs or _powers(everyone)
        best = bench.best("the jobs", [best.setting._replace(jobs=number) for number in numbers], aim)
    figures = list(bench.figures.values())
    return Outcome(taken, figures, best, _reason(best, figures, aim), packs)


def _packs(to: str | None) -> int | None:
    """Returns the bytes of a pack in what a `create` writes into the store; None if it has no packs. Raises UsageError
    and StoreError."""
    size = settings.current().packs
    if size is not None or to is None:
        return size
    check_stores(to)
    with contextlib.suppress(NoSuchArchive), contextlib.closing(open_store(to)) as opened:
        return opened.pack_size if isinstance(opened, HasPacks) else None
    return None


def _chunker_of(text: str) -> tuple[str, int]:
    """Returns (chunker, chunk size) for text such as 50MB and fastcdc:4MB. Raises UsageError."""
    if text.startswith("fastcdc"):
        Chunker.parse(text, CHUNK_SIZE).check()
        return text, CHUNK_SIZE
    size = parse_size("--chunker", text.removeprefix("fixed:"))
    return "fixed", Chunker.parse("fixed", size).check().maximum


def _worth_trying(largest: int) -> list[tuple[str, int]]:
    """Returns the chunkers that may be useful: of sizes beyond the largest file only the smallest, as the others do the
    same."""
    fixed = [size for size in FIXED if size < largest]
    fixed += [size for size in FIXED if size >= largest][:1]
    content = [text for text in BY_CONTENT if Chunker.parse(text, 1).minimum < largest]
    return [("fixed", size) for size in sorted({*fixed, CHUNK_SIZE})] + [(text, CHUNK_SIZE) for text in content]


def _powers(maximum: int) -> list[int]:
    """Returns 1, 2, 4 ... and `maximum`."""
    return sorted({maximum, *(1 << bit for bit in range(maximum.bit_length()) if 1 << bit <= maximum)})


class _Bench:
    """Tries settings on one sample in one store, and keeps the measurements."""

    def __init__(self, sample: Sample, store: str, scratch: str, report: Report) -> None:
        self.sample = sample
        self.store = store
        self.scratch = scratch
        self.report = report
        self.secret = random_bytes(32)
        self.figures: dict[Setting, Figures] = {}

    def best(self, what: str, wanted: Sequence[Setting], aim: Aim) -> Figures:
        """Tries the settings that have not been tried, for as many rounds as needed, and returns the best of all."""
        fresh = [setting for setting in wanted if setting not in self.figures]
        if fresh:
            self.report.stage(what, len(fresh))
        for setting in fresh:
            self.figures[setting] = Figures(setting)
        for number in range(MAX_ROUNDS):
            left = [setting for setting in fresh if number < MIN_ROUNDS or self._needs_more_runs(self.figures[setting])]
            for setting in left:
                self._run(self.figures[setting])
        return choose([self.figures[setting] for setting in wanted], aim)

    def _needs_more_runs(self, figures: Figures) -> bool:
        first = max(other.write_speed for other in self.figures.values() if other.written)
        return figures.spread > MAX_SPREAD and figures.write_speed * TOO_SLOW >= first

    def _run(self, figures: Figures) -> None:
        into, cache = os.path.join(self.scratch, "restored"), os.path.join(self.scratch, "cache")
        written = trial.alone(cache, trial.write, self.sample.paths, self.store, self.secret, figures.setting)
        figures.written.append(written)
        archive = f"{self.store}/{written.manifest}"
        figures.restored.append(trial.alone(cache, trial.restore, archive, into, self.secret, figures.setting.jobs))
        for made in (into, cache):
            shutil.rmtree(made, ignore_errors=True)
        trial.empty(self.store)
        self.report.trial(figures)


@contextlib.contextmanager
def _scratch(to: str | None) -> Iterator[tuple[str, str]]:
    """Creates a temporary store and a temporary directory for the duration of a with-block.

    They are in the user's store, or beside it if it does not exist yet, so that its disk or service is measured.
    Raises UsageError and StoreError.
    """
    if to is not None:
        check_stores(to)
    if to is not None and is_service(to):
        with tempfile.TemporaryDirectory(prefix="pogfast-tune-") as scratch:
            store = below(to, f"pogfast-tune-{random_bytes(6).hex()}")
            try:
                yield store, scratch
            finally:
                with contextlib.suppress(NoSuchArchive):
                    trial.empty(store)
        return
    home = None
    if to is not None and "," in to:
        raise UsageError(f"{to}: tune measures one store at a time")
    if to is not None:
        path = to.removeprefix("local:")
        home = path if os.path.isdir(path) else os.path.dirname(os.path.abspath(path))
        if os.path.isfile(path):
            raise UsageError(f"{to} is a file: it cannot be restored from")
    try:
        directory = tempfile.TemporaryDirectory(prefix=MEASURING, dir=home, ignore_cleanup_errors=True)
    except OSError as error:
        raise StoreError(f"cannot write to {home}: {error.strerror}") from error
    with directory as scratch:
        yield os.path.join(scratch, "store"), scratch


# ---- the best setting ------------------------------------------------------------------------------------------------


def choose(figures: Sequence[Figures], aim: Aim) -> Figures:
    """Returns the setting with the lowest cost; of equal ones pogfast's default, else the one with the fewest blobs."""
    lowest = min(_cost(each, aim) for each in figures)
    equal = [each for each in figures if _cost(each, aim) <= lowest * (1 + SAME)]
    return min(equal, key=lambda each: (not _is_default(each.setting), each.blobs_a_terabyte, -each.ratio))


def _cost(figures: Figures, aim: Aim) -> float:
    """Returns the cost of a setting. For `both`, half the space is worth twice the time."""
    seconds, space = 1 / figures.write_speed, 1 / figures.ratio
    return {"speed": seconds, "size": space, "both": seconds * space}[aim]


def _is_default(setting: Setting) -> bool:
    default = Options()
    return setting == (default.chunker, default.chunk_size, default.level, cores())


def _reason(best: Figures, figures: Sequence[Figures], aim: Aim) -> str:
    """Returns in a sentence why a setting is the best."""
    meant = {"both": "time times space", "speed": "time", "size": "space"}[aim]
    others = [each for each in figures if each is not best]
    if not others:
        return "nothing else was tried"
    near = min(others, key=lambda each: _cost(each, aim))
    gap = _cost(near, aim) / _cost(best, aim) - 1
    if abs(gap) <= SAME:
        equal = sum(abs(_cost(each, aim) / _cost(best, aim) - 1) <= SAME for each in others)
        what = "the default" if _is_default(best.setting) else "the one with the fewest blobs"
        return (
            f"least {meant}; {equal} other{'s are' if equal > 1 else ' is'} equal within {SAME:.0%}, and this is {what}"
        )
    return f"least {meant}: {gap:.0%} less than the next, {near.setting}"


# ---- two versions of a tree ------------------------------------------------------------------------------------------


class Shared(NamedTuple):
    """What a newer version of a tree adds to a store that has an older one, with one chunker. Bytes are stored."""

    setting: Setting
    old: int
    new: int
    added: int
    blobs: int  # of both versions
    blobs_added: int


def compare(
    old: str, new: str, *, chunkers: Sequence[str] = (), level: int = 3, tell: Callable[[PogfastError], None]
) -> Iterator[Shared]:
    """Yields for each chunker how much of a tree at `new` is stored already if the one at `old` is. Reads both whole,
    once for each chunker, and writes nothing. Raises NoSuchInput and UsageError."""
    for text in chunkers or COMPARED:
        setting = Setting(*_chunker_of(text), level, cores())
        key = Key("keyfile", random_bytes(32))
        first, second = (_blobs_of(path, setting, key, tell) for path in (old, new))
        added = {name: size for name, size in second.items() if name not in first}
        yield Shared(
            setting,
            sum(first.values()),
            sum(second.values()),
            sum(added.values()),
            len(first.keys() | second.keys()),
            len(added),
        )


def _blobs_of(path: str, setting: Setting, key: Key, tell: Callable[[PogfastError], None]) -> dict[str, int]:
    """Returns the blobs that the files below a path become, with their sizes."""
    cuts, found, files = setting.cuts, dict[str, int](), list[str]()
    sealer = Sealer(
        key.secret,
        key.asymmetric,
        _files(path, files, tell),
        [_nothing],
        chunk_size=cuts.maximum,
        level=setting.level,
        jobs=setting.jobs,
        frames=True,
        content=cuts.content(key),
        follow=False,
    )
    with contextlib.closing(sealer.run()) as run:
        for news in run:
            found.update(zip(news.names, news.stored, strict=True))
            if news.error:
                why = os.strerror(news.error)
                tell(SourceError(f"cannot read {files[news.file]}: {why}", path=files[news.file], reason=why))
    return found


def _files(path: str, files: list[str], tell: Callable[[PogfastError], None]) -> Iterator[bytes]:
    """Yields the files below a path, and adds them to `files`."""
    for node in regular_files([path], tell):
        files.append(node.path)
        yield os.fsencode(node.path)


def _nothing(name: str, blob: memoryview) -> None:
    """A store that discards its blobs."""


def _median(values: Sequence[float]) -> float:
    return float(numpy.median(values))

"""`pogfast tune`: its options, and its measurements as a table or JSON.

The package `tuning` measures and decides what is best.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

import click

from pogfast.cli.command import PATH, SIZE, Whole, verb
from pogfast.cli.options import displayed, service_options
from pogfast.cli.output import Output
from pogfast.console import visible
from pogfast.errors import UsageError
from pogfast.sizes import LEVELS, MAX_JOBS, many, show_size

if TYPE_CHECKING:
    from pogfast.cli.progress import Display
    from pogfast.tuning import Figures, Outcome
    from pogfast.tuning.sampling import Sample
    from pogfast.tuning.trial import Setting

# Dollars per thousand write requests: AWS's list price for S3 Standard in us-east-1; Backblaze charges nothing.
PUT_PRICES = {"s3": 0.005, "b2": 0.0}


class Numbers(Whole):
    """Comma-separated whole numbers."""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return tuple(super(Numbers, self).convert(word, param, ctx) for word in value.split(","))


class Price(click.ParamType):  # type: ignore[type-arg]
    """An amount of money."""

    name = "price"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            price = float(value)
        except ValueError:
            price = -1.0
        if not 0 <= price < 1e9:
            raise UsageError(f"{param.opts[-1] if param else 'price'}={value}: not a price", hint="write 0.005")
        return price


@verb(
    "tune",
    examples=(
        "pogfast tune ~/photos --to /mnt/backup --save photos",
        "pogfast tune --compare old/ new/",
    ),
)
@click.argument("paths", nargs=-1, metavar="PATH...", type=PATH)
@click.option("--to", metavar="STORE", type=PATH, help="Store to measure.  [default: the disk of temporary files]")
@click.option(
    "--sample", metavar="SIZE", type=SIZE, default="500MB", show_default=True, help="Amount of data to measure with."
)
@click.option(
    "--chunker",
    "chunkers",
    metavar="CHUNKER",
    multiple=True,
    help="Chunker to try, 16MB or fastcdc:4MB; may be repeated.",
)
@click.option(
    "--levels",
    metavar="LIST",
    type=Numbers(*LEVELS),
    default="1,3,6,9",
    show_default=True,
    help="Compression levels to try.",
)
@click.option(
    "--jobs",
    metavar="LIST",
    type=Numbers(1, MAX_JOBS),
    help="Numbers of workers to try.  [default: 1, 2, 4 ... number of cores]",
)
@click.option(
    "--aim",
    type=click.Choice(["both", "speed", "size"]),
    default="both",
    show_default=True,
    help="Prefer the shortest time, the least space, or their product.",
)
@click.option("--put-price", metavar="USD", type=Price(), help="Price of 1,000 write requests.")
@click.option("--plot", metavar="FILE", type=PATH, help="Plot the results to FILE.png or FILE.svg.")
@click.option("--save", metavar="NAME", help="Save the best settings for create --profile NAME.")
@click.option("--compare", is_flag=True, help="Compare two versions of a tree, given as PATHs.")
@service_options
def tune(output: Output, paths: tuple[str, ...], to: str | None, compare: bool, **options: Any) -> None:
    """Find the fastest or smallest settings for your data and store.

    Tries chunkers, compression levels and numbers of workers on all of the data, or on a sample. Takes a few minutes,
    needs no key, and deletes what it writes.
    """
    output.during = "tune"
    if not paths:
        raise UsageError("nothing to measure: no PATH given", hint="see pogfast tune --help")
    price, plot, save = (options.pop(word) for word in ("put_price", "plot", "save"))
    if compare:
        if len(paths) != 2 or to is not None or plot or save:
            raise UsageError("--compare takes two PATHs, an old and a new version, and no --to, --plot or --save")
        _compare(output, *paths, options["chunkers"])
        return
    if save:
        from pogfast.backup.profiles import path_of

        path_of(save)  # fails now rather than after minutes of measuring
    if plot:
        from pogfast.tuning import plot as plotting

        plotting.check(plot)
    from pogfast import tuning

    options["jobs"] = options["jobs"] or ()
    with displayed(output, "tune", "tune") as display:
        outcome = tuning.tune(paths, to, report=Report(output, display), sample_size=options.pop("sample"), **options)
    _print_results(output, outcome, _put_price(to, price))
    if plot:
        plotting.draw(outcome.figures, outcome.best, plot)
    said = _settings(outcome.best.setting)
    if save:
        from pogfast.backup import profiles

        kept = profiles.save(save, said, f"made by: pogfast tune {visible(shlex.join(paths))}")
        output.info(f"saved in {kept}")
        said = {"profile": save}
    words = [f"--{word.replace('_', '-')}={value}" for word, value in said.items()]
    command = shlex.join(["pogfast", "create", *paths, "--to", to or "STORE", *words])
    output.emit("best", setting=str(outcome.best.setting), why=outcome.why, command=command)
    if not output.json:
        for line in ("", f"best     {outcome.best.setting}", f"why      {outcome.why}", f"command  {command}"):
            output.answer(line)


class Report:
    """Prints what is reported while measuring."""

    def __init__(self, output: Output, display: Display) -> None:
        self.output = output
        self.display = display
        self.problem = output.problem
        self.done = self.planned = 0

    def sampled(self, sample: Sample) -> None:
        self.output.emit("sample", **sample._asdict() | {"paths": None})
        speed = show_size(sample.size / max(sample.read_seconds, 1e-6))
        said = f"all {many(sample.files, 'file')}, {show_size(sample.size)}"
        if not sample.is_all:
            parts = f", {sample.parts:,} of them parts of larger ones" if sample.parts else ""
            whole = f"{show_size(sample.of_size)} in {many(sample.of_files, 'file')}"
            said = (
                f"a sample: {many(sample.files, 'file')}{parts}, {show_size(sample.size)} of {whole}; "
                "repetitions far apart may be missed"
            )
        self.output.info(f"measuring with {said}")
        self.output.info(f"first read at {speed}/s; later reads come from memory")

    def stage(self, what: str, settings: int) -> None:
        from pogfast.cli.progress import Counters
        from pogfast.tuning import MIN_ROUNDS

        self.planned = self.done + settings * MIN_ROUNDS
        self.display.watch(lambda: Counters(self.done, max(self.planned, self.done), 0, None, {}, "trial"))
        self.output.info(f"{what}: {many(settings, 'setting')} to try")

    def trial(self, figures: Figures) -> None:
        self.done += 1
        self.display.check()
        written, restored = figures.written[-1], figures.restored[-1]
        self.output.emit(
            "trial", **_setting(figures.setting), seconds_write=written.seconds, seconds_restore=restored.seconds
        )
        speeds = [show_size(written.size / seconds) for seconds in (written.seconds, restored.seconds)]
        run = f"  {figures.setting!s:36} run {len(figures.written)}"
        self.output.info(f"{run}: writes {speeds[0]}/s, restores {speeds[1]}/s", 1)


def _setting(setting: Setting) -> dict[str, Any]:
    return {
        "chunker": str(setting.cuts),
        "chunk_size": setting.cuts.maximum,
        "level": setting.level,
        "jobs": setting.jobs,
    }


def _settings(setting: Setting) -> dict[str, str | int]:
    """Returns a setting as options of `create`."""
    cut: dict[str, str | int] = {"chunker": setting.chunker}
    if not setting.cuts.by_content:
        cut = {"chunk_size": setting.chunk_size}
    return {**cut, "level": setting.level, "jobs": setting.jobs}


def _put_price(to: str | None, given: float | None) -> float | None:
    """Returns the price of one write request in dollars, or None if it is unknown."""
    if given is None and to is not None:
        from pogfast.stores import settings

        said = settings.current()
        elsewhere = {"s3": said.s3_endpoint, "b2": said.b2_realm}
        scheme, found, _ = to.partition("://")
        given = PUT_PRICES.get(scheme) if found and not elsewhere.get(scheme) else None
    return None if given is None else given / 1000


def _print_results(output: Output, outcome: Outcome, price: float | None) -> None:
    head = ["chunks", "level", "jobs", "writes MB/s", "restores MB/s", "+-", "ratio", "repeats", "CPU s/GB", "peak MB"]
    head += ["blobs/TB"] + (["$/TB"] if price is not None else [])
    rows = []
    for each in outcome.figures:
        cost = None if price is None else price * each.writes_a_terabyte
        output.emit(
            "setting",
            **_setting(each.setting),
            runs=len(each.written),
            write_speed=each.write_speed,
            restore_speed=each.restore_speed,
            spread=each.spread,
            ratio=each.ratio,
            repeated=each.repeated,
            cpu=each.cpu,
            memory=each.memory,
            blobs=each.written[0].blobs,
            requests=each.written[0].requests,
            dollars_a_terabyte=cost,
        )
        row = [each.setting.chunks, str(each.setting.level), str(each.setting.jobs)]
        row += [f"{each.write_speed / 1e6:.0f}", f"{each.restore_speed / 1e6:.0f}", f"{each.spread / 2:.0%}"]
        row += [f"{each.ratio:.3f}", f"{each.repeated:.1%}", f"{each.cpu / outcome.sample.size * 1e9:.2f}"]
        row += [f"{each.memory / 1e6:.0f}", f"{each.blobs_a_terabyte:,.0f}"]
        rows.append(row if cost is None else [*row, f"{cost:.2f}"])
    if not output.json:
        output.table(head, rows, set(range(1, len(head))))
        if outcome.packs:
            output.answer(f"packs    small blobs were stored together, in packs of {show_size(outcome.packs)}")


def _compare(output: Output, old: str, new: str, chunkers: tuple[str, ...]) -> None:
    from pogfast import tuning

    head = ["chunks", "old", "new alone", "new adds", "share", "blobs", "new blobs"]
    rows, best = [], None
    for shared in tuning.compare(old, new, chunkers=chunkers, tell=output.problem):
        words = {**shared._asdict(), **_setting(shared.setting)}
        output.emit("shared", **{word: value for word, value in words.items() if word != "setting"})
        share = shared.added / max(shared.new, 1)
        row = [shared.setting.chunks, *map(show_size, (shared.old, shared.new, shared.added)), f"{share:.1%}"]
        rows.append([*row, f"{shared.blobs:,}", f"{shared.blobs_added:,}"])
        best = shared if best is None or shared.old + shared.added < best.old + best.added else best
        output.info(f"{shared.setting.chunks}: the new version adds {show_size(shared.added)}")
    if not output.json and best is not None:
        output.table(head, rows, set(range(1, len(head))))
        output.answer("")
        output.answer(f"least space for both: {best.setting.chunks}, {show_size(best.old + best.added)}")


VERBS = {"tune": tune}

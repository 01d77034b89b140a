"""`pogfast run`: its options, and what becomes of each profile as lines or JSON.

The package `runs` runs profiles; priorities are lowered here, since they stay low as long as the process lives.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from pogfast.cli.command import PATH, verb
from pogfast.cli.options import displayed
from pogfast.cli.output import Output
from pogfast.errors import NotRun, PogfastError
from pogfast.sizes import many, show_size

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from pogfast.cli.progress import Counters, Display
    from pogfast.runs import Record, VerbRecord
    from pogfast.runs.report import Progress

config_option = click.option(
    "--config",
    metavar="FILE",
    type=PATH,
    help="The configuration.  [default: pogfast.toml in the user's configuration directory, else in /etc/pogfast]",
)


class ProfileName(click.ParamType):  # type: ignore[type-arg]
    """The name of a profile, or with `groups` of a group; the type only tells shell completion which there are."""

    name = "profile"

    def __init__(self, *, groups: bool) -> None:
        self.groups = groups

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        from pogfast.config import load

        try:
            loaded = load(ctx.params.get("config"))
        except PogfastError:
            return []
        names = [*loaded.profiles, *(loaded.groups if self.groups else ())]
        return [CompletionItem(name) for name in names if name.startswith(incomplete)]


@verb(
    "run",
    exit_codes={
        3: "incomplete: a source was not read, or one of several stores failed",
        4: "damage found",
        10: "no such store or archive",
        12: "wrong key",
        75: "nothing was run: something that a profile needs is not there, or another run is under way",
    },
    examples=(
        "pogfast run home",
        "pogfast run nightly --json",
    ),
)
@click.argument("names", nargs=-1, metavar="PROFILE|GROUP...", required=True, type=ProfileName(groups=True))
@config_option
def run(output: Output, names: tuple[str, ...], config: str | None) -> None:
    """Run profiles: create, copy, prune and check as the configuration says.

    Profiles are in pogfast.toml: docs/profiles.md describes it. A verb that fails ends the run of its profile; the
    other profiles are run. The exit code is the worst; each run is recorded.
    """
    from pogfast import runs
    from pogfast.config import load
    from pogfast.runs import priority

    loaded = load(config)
    chosen = [(profile, name if name in loaded.groups else "") for name in names for profile in loaded.members(name)]
    unprinted: PogfastError | None = None
    for profile, group in dict(chosen).items():
        priority.lower(loaded.profile(profile).priority, output.warning)
        try:
            with displayed(output, profile, "run") as display:
                record = runs.run(loaded, profile, group=group, report=Report(output, display))
                output.raise_exit_code(record.exit_code)
            _print_result(output, record)
            output.flush()
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            output.problem(PogfastError(f"{profile}: the run is not recorded: {where}{error.strerror or error}"))
        except PogfastError as error:  # nobody reads what is printed: the other profiles matter more
            unprinted = unprinted or error
    if unprinted is not None:
        raise unprinted


class Report:
    """Prints what a run reports."""

    def __init__(self, output: Output, display: Display) -> None:
        self.output = output
        self.display = display
        self.note = output.remark
        self.warning = output.warning

    def started(self, record: Record) -> None:
        self.name = record.profile

    def verb(self, verb: VerbRecord) -> None:
        self.output.info(f"pogfast: {self.name}: {_words_of(verb)}", 1)

    def progress(self, verb: VerbRecord, progress: Callable[[], Progress]) -> None:
        self.display.watch(lambda: _counters(progress()))

    def verb_ended(self, verb: VerbRecord) -> None:
        if not verb.error:
            self.output.info(f"{self.name}: {_words_of(verb)}: {_figures(verb)}")

    def waiting(self, text: str) -> None:
        self.output.info(f"pogfast: {self.name}: waiting for another run, {text}")

    def hook(self, line: str) -> None:
        self.output.info(f"{self.name}: {line}")

    def problem(self, error: PogfastError) -> None:
        self.output.problem(error)

    def ended(self, record: Record) -> None:
        if record.exit_code == NotRun.exit_code:
            self.output.problem(NotRun(f"{record.profile}: {record.message}: nothing was run"))


def _words_of(verb: VerbRecord) -> str:
    if verb.verb == "create":
        return f"create {verb.source}".rstrip()
    return f"{verb.verb} {' to '.join(verb.stores)}"


def _figures(verb: VerbRecord) -> str:
    """Returns the summary of a verb in a line."""
    now = {word: int(number) for word, number in verb.figures.items()}
    match verb.verb:
        case "create":
            files = f"{many(now['files_new'] + now['files_unchanged'], 'file')}, {now['files_new']:,} new"
            return f"{files}; {show_size(now['bytes_read'])} read, {show_size(now['bytes_added'])} stored"
        case "copy":
            return f"{many(now['archives'], 'archive')} copied, {show_size(now['size'])}"
        case "prune":
            return f"{many(now['kept'], 'archive')} kept, {now['removed']:,} removed; {show_size(now['size'])} deleted"
    damage = "damage found, named above" if now["damage"] else "no damage found"
    parts = [f"{many(now['archives'], 'archive')}, {many(now['blobs'], 'blob')}", f"{now['read']:,} read"]
    if "files_tested" in now:
        parts.append(f"{many(now['files_tested'], 'file')} restored to nowhere")
    return f"{'; '.join(parts)}: {damage}"


def _counters(progress: Progress) -> Counters:
    from pogfast.backup import Progress as Created
    from pogfast.cli.check import counters_of_check
    from pogfast.cli.create import counters_of_create
    from pogfast.cli.progress import of_blobs
    from pogfast.upkeep.checking import Summary as Checked

    if isinstance(progress, Created):
        return counters_of_create(progress)
    return counters_of_check(progress) if isinstance(progress, Checked) else of_blobs(progress)


def _print_result(output: Output, record: Record) -> None:
    """Prints one line a run."""
    if output.json:
        output.emit("run", **record.as_dict())
        return
    names = " ".join(f"{store}/{name}" for store, names in record.archives.items() for name in names)
    output.answer(f"{record.profile}  {record.outcome}  {record.seconds:.1f} s  {names}".rstrip())


VERBS = {"run": run}

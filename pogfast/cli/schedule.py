"""`pogfast schedule enable`, `disable` and `show`: when profiles are run, and by whom.

The package `schedule` writes units and cron lines.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pogfast.cli.command import Group, apply, verb
from pogfast.cli.output import Output
from pogfast.cli.run import ProfileName, config_option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pogfast.schedule import Cron, Job, Systemd

options = apply(
    (
        click.argument("names", nargs=-1, metavar="PROFILE|GROUP...", required=True, type=ProfileName(groups=True)),
        config_option,
        click.option(
            "--manager",
            type=click.Choice(("system", "user", "cron")),
            help="Who runs the profiles: systemd with units of the system or of the user, or cron.  "
            "[default: system for root, user for others, cron where systemd does not run]",
        ),
    )
)


@verb("enable", examples=("pogfast schedule enable home", "pogfast schedule enable home --manager cron"))
@options
def enable(output: Output, names: tuple[str, ...], config: str | None, manager: str | None) -> None:
    """Have profiles run at the times that their settings schedule and spread say.

    Writes a service and a timer of systemd for each profile, or a line of the crontab, and replaces its older ones.
    Nothing else is changed. A run that was missed, because the machine was off, is made up for by systemd, not by
    cron. Nothing is scheduled if a run would lack a variable, a program or a file. A group stands for its profiles,
    each with its own schedule.
    """
    from pogfast import schedule
    from pogfast.config import load

    jobs = schedule.jobs_of(load(config), names)
    chosen = schedule.manager(manager)
    for job in jobs:
        chosen.planned(job)  # all that is wrong is said before anything is changed
    if _report_lacking(output, chosen, jobs):
        return
    for job in jobs:
        changed = chosen.enable(job)
        said = "is scheduled" if changed else "is scheduled already"
        output.info(f"{job.name} {said}: {job.profile.schedule}, by {chosen.label}")
        output.emit("schedule", profile=job.name, manager=chosen.word, enabled=True, changed=changed)
    if said := chosen.remark():
        output.remark(said)


@verb("disable", examples=("pogfast schedule disable home",))
@options
def disable(output: Output, names: tuple[str, ...], config: str | None, manager: str | None) -> None:
    """Have profiles no longer run by themselves.

    Removes what `schedule enable` has written for them, also for profiles that are no longer in the configuration.
    """
    from pogfast import schedule
    from pogfast.config import examine

    loaded = examine(config)[0]  # whatever is wrong with it
    members = [
        profile for name in names for profile in (loaded.groups[name].profiles if name in loaded.groups else [name])
    ]
    chosen = schedule.manager(manager)
    for name in dict.fromkeys(members):
        changed = chosen.disable(schedule.checked(name), loaded.file)
        output.info(f"{name} {'is no longer' if changed else 'was not'} scheduled, by {chosen.label}")
        output.emit("schedule", profile=name, manager=chosen.word, enabled=False, changed=changed)


@verb("show", examples=("pogfast schedule show home", "pogfast schedule show home --manager system"))
@options
def show(output: Output, names: tuple[str, ...], config: str | None, manager: str | None) -> None:
    """Show what `schedule enable` would write, and what a run would lack. Nothing is written."""
    from pogfast import schedule
    from pogfast.config import load

    jobs = schedule.jobs_of(load(config), names)
    chosen = schedule.manager(manager)
    for job in jobs:
        for file, text in chosen.planned(job).items():
            if output.json:
                output.emit("planned", profile=job.name, manager=chosen.word, file=file, text=text)
                continue
            output.answer(f"{file}:")
            for line in text.splitlines():
                output.answer(f"    {line}".rstrip())
    _report_lacking(output, chosen, jobs)


def _report_lacking(output: Output, chosen: Systemd | Cron, jobs: Sequence[Job]) -> bool:
    """Reports what runs of profiles would lack, each once. Returns True if there is something."""
    found = {str(problem): problem for job in jobs for problem in chosen.lacking(job)}
    for problem in found.values():
        output.problem(problem)
    return bool(found)


schedule = Group(
    "schedule",
    no_args_is_help=False,
    help="Run profiles at the times that the configuration says.",
    subcommand_metavar="COMMAND ...",
)
for command in (enable, disable, show):
    schedule.add_command(command)


VERBS: dict[str, click.Command] = {"schedule": schedule}

"""`pogfast status`: verdicts on profiles, and an exit code for monitoring.

The package `runs` judges the records.
"""

from __future__ import annotations

import click

from pogfast.cli.command import Duration, verb
from pogfast.cli.output import Output
from pogfast.cli.run import config_option
from pogfast.sizes import many


@verb(
    "status",
    exit_codes={
        3: "a profile was never run, is late, or its last run was incomplete",
        4: "the last run of a profile found damage",
    },
    examples=(
        "pogfast status",
        "pogfast status --max-age 8d weekly",
    ),
)
@click.argument("names", nargs=-1, metavar="PROFILE|GROUP...")
@config_option
@click.option(
    "--max-age",
    type=Duration(bare=False),
    metavar="TIME",
    help="How old the last run of a profile may be, as in 26h or 8d.  [default: its max-age, else by its schedule, "
    "else 26h]",
)
def status(output: Output, names: tuple[str, ...], config: str | None, max_age: float | None) -> None:
    """Show whether profiles were run as they should.

    Reads the records of runs and opens no store. A run that did not take place, because something that the profile
    needs was not there, does not count. A profile is late if its next run should have ended: by its max-age, or by
    its schedule. The exit code is 1 if the last run has failed.
    """
    from pogfast import runs
    from pogfast.config import load

    found = runs.status(load(config), names, max_age=max_age)
    rows = []
    for one in found:
        output.emit("status", **one.as_dict())
        age = "" if one.age is None else f"{one.age / 3600:.1f} h ago"
        rows.append((one.profile, one.verdict, age, one.message))
    if not output.json:
        output.table(("profile", "verdict", "last run", ""), rows, (2,))
    bad = [one.profile for one in found if one.code]
    for one in found:
        output.raise_exit_code(one.code)
    if bad:
        are = "is" if len(bad) == 1 else "are"
        output.note("error", f"{len(bad)} of {many(len(found), 'profile')} {are} not ok: {', '.join(bad)}")


VERBS = {"status": status}

"""`pogfast config check` and `config show`: what is wrong with a configuration, and where each value comes from.

The package `config` reads and checks it.
"""

from __future__ import annotations

import click

from pogfast.cli.command import Group, verb
from pogfast.cli.output import Output
from pogfast.cli.run import ProfileName, config_option
from pogfast.errors import UsageError
from pogfast.sizes import many


@verb("check", examples=("pogfast config check", "pogfast config check --config /etc/pogfast/pogfast.toml"))
@config_option
def check(output: Output, config: str | None) -> None:
    """Check the configuration, and report every problem with its file and line.

    Neither stores nor keys are opened. The exit code is 2 if there are problems.
    """
    from pogfast.config import examine

    loaded, problems = examine(config)
    for problem in problems:
        output.raise_exit_code(UsageError.exit_code)
        if output.json:
            output.emit("problem", **problem._asdict())
        else:
            output.note("error", str(problem), problem.hint)
    if not problems:
        counts = {"profile": len(loaded.profiles), "store": len(loaded.stores), "group": len(loaded.groups)}
        found = ", ".join(many(count, word) for word, count in counts.items())
        output.info(f"{loaded.file}: {found}; no problems")


@verb("show", examples=("pogfast config show", "pogfast config show home --json"))
@click.argument("profile", metavar="PROFILE", required=False, type=ProfileName(groups=False))
@config_option
def show(output: Output, profile: str | None, config: str | None) -> None:
    """Show what is set in the configuration, and the file and line that each value comes from.

    With PROFILE, shows only that profile and its stores. What is inherited is shown with the profile that inherits it.
    """
    from json import dumps

    from pogfast.config import load

    rows = load(config).settings(profile)
    if output.json:
        for section, name, setting, value in rows:
            words = {"section": section, "name": name, "setting": setting, "value": value.plain}
            output.emit("value", **words, file=value.file, line=value.line)
        return
    shown = [(".".join(row[:3]), dumps(row.value.plain, ensure_ascii=False), row.value.where) for row in rows]
    output.table(("setting", "value", "from"), shown, ())


config = Group(
    "config",
    no_args_is_help=False,
    help="Check and show the configuration.",
    subcommand_metavar="COMMAND ...",
)
config.add_command(check)
config.add_command(show)


VERBS = {"config": config}

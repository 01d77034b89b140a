"""The command `pogfast`: a table of verbs, each of which calls one function of the packages below.

Each verb has a module of its name (`find` is in ls.py, `stats` in info.py, `unpack` in pack.py, `undelete` in prune.py,
`rewrite` in remove.py; `keygen`, `key`, `completion` and `help` are in keys.py; a module `list` would hide Python's).
command.py and options.py have what they share. Until a verb runs, nothing but click and the standard library is
imported, so that --help answers at once. Every failure becomes one line on standard error and an exit code; a traceback
is shown only with --debug.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from itertools import takewhile

import click

from pogfast.cli.command import Group, usage_error
from pogfast.cli.output import Output
from pogfast.console import guarded
from pogfast.errors import PogfastError
from pogfast.system.environment import take_secrets

COMPLETE = "_POGFAST_COMPLETE"
# Verb -> its module and its summary line in the help.
VERBS = {
    "create": ("pogfast.cli.create", "Create an archive of files and directories."),
    "merge": ("pogfast.cli.merge", "Make the archive of what the shards of create have stored."),
    "restore": ("pogfast.cli.restore", "Restore an archive, or parts of it."),
    "list": ("pogfast.cli.list_archives", "List the archives of a store."),
    "ls": ("pogfast.cli.ls", "List the contents of an archive."),
    "find": ("pogfast.cli.ls", "Find files in the archives of a store."),
    "cat": ("pogfast.cli.cat", "Print a file from an archive."),
    "diff": ("pogfast.cli.diff", "Show the differences between two archives."),
    "info": ("pogfast.cli.info", "Show the size and origin of an archive."),
    "stats": ("pogfast.cli.info", "Show the size of a store and how much of it is unneeded."),
    "check": ("pogfast.cli.check", "Check archives for damage, or compare one with files on disk."),
    "copy": ("pogfast.cli.copy", "Copy archives from one store to another."),
    "pack": ("pogfast.cli.pack", "Move small blobs of a store into packs."),
    "unpack": ("pogfast.cli.pack", "Move blobs out of packs."),
    "prune": ("pogfast.cli.prune", "Remove archives by a retention policy and delete unneeded blobs."),
    "remove": ("pogfast.cli.remove", "Remove single archives."),
    "rewrite": ("pogfast.cli.remove", "Remove paths from archives."),
    "undelete": ("pogfast.cli.prune", "Bring back removed archives."),
    "lock": ("pogfast.cli.lock", "Lock archives in S3 against deletion."),
    "run": ("pogfast.cli.run", "Run profiles: create, copy, prune and check as the configuration says."),
    "status": ("pogfast.cli.status", "Show whether profiles were run as they should."),
    "schedule": ("pogfast.cli.schedule", "Run profiles at the times that the configuration says."),
    "config": ("pogfast.cli.config", "Check and show the configuration."),
    "tune": ("pogfast.cli.tune", "Find the fastest or smallest settings for your data and store."),
    "doctor": ("pogfast.cli.doctor", "Test a store and report problems."),
    "ui": ("pogfast.cli.ui", "Show archives in a web browser."),
    "keygen": ("pogfast.cli.keys", "Create a key pair or a keyfile."),
    "key": ("pogfast.cli.keys", "Inspect key files."),
    "completion": ("pogfast.cli.keys", "Print a shell completion script."),
    "help": ("pogfast.cli.keys", "Show the help of a command."),
}

HELP = """\
Encrypted backups: create archives of files in a store, and restore them.

STORE is a directory (or local:/DIR), s3://BUCKET[/PREFIX], b2://BUCKET[/PREFIX], or (to write to) a program; where
several are allowed, commas separate them.
ARCHIVE is STORE/NAME.mfn, as `pogfast list STORE` shows it, or STORE/latest.
POGFAST_STORE is the default STORE.

The key is taken from --keyfile, --encryption-keyfile, --decryption-keyfile, --password-file or --password-command,
else from the variables POGFAST_KEYFILE and so on or POGFAST_PASSWORD; else a password is asked for.
"""
EXIT_CODES = {
    0: "success",
    1: "failed",
    2: "wrong usage",
    3: "incomplete: what was left out is reported",
    4: "damage found",
    10: "no such store or archive",
    12: "wrong key",
    75: "nothing was run: try again later",
    130: "interrupted",
    141: "the reader of standard output has exited",
}
EXAMPLES = (
    "pogfast keygen mine",
    "pogfast create ~/photos --to /mnt/backup --encryption-keyfile mine.encrypt",
    "pogfast restore /mnt/backup/latest --into restored --decryption-keyfile mine.decrypt",
)


def _version(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value and not context.resilient_parsing:
        from pogfast import __version__

        context.ensure_object(Output).print(f"pogfast {__version__}")
        context.exit()


group = Group(
    "pogfast",
    table=VERBS,
    no_args_is_help=False,
    help=HELP,
    exit_codes=EXIT_CODES,
    examples=EXAMPLES,
    subcommand_metavar="COMMAND ...",
)
group.params.append(
    click.Option(
        ["--version"],
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_version,
        help="Print the version and exit.",
    )
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command `pogfast` and returns its exit code."""
    return guarded(Output(), lambda output: _run(output, sys.argv[1:] if arguments is None else arguments))


def _run(output: Output, arguments: Sequence[str]) -> None:
    take_secrets()
    if COMPLETE in os.environ:
        from click.shell_completion import shell_complete

        try:
            output.exit_code = shell_complete(group, {}, "pogfast", COMPLETE, os.environ[COMPLETE])
        except OSError as error:
            raise output.cannot_print(error) from error
        return
    # Set before parsing, so that usage errors are printed as JSON, too.
    output.json = "--json" in takewhile(lambda argument: argument != "--", arguments)
    try:
        with group.make_context("pogfast", list(arguments), obj=output) as context:
            if not arguments:
                output.exit_code = 2
                for line in group.overview(context).splitlines():
                    output.say(line)
                return
            group.invoke(context)
    except click.exceptions.Exit as ended:
        output.exit_code = ended.exit_code
    except click.ClickException as error:
        raise usage_error(error) from error
    except (PogfastError, ImportError, MemoryError, OSError):
        raise
    except Exception as error:
        text = f"internal error: {type(error).__name__}: {error}"
        raise PogfastError(text, hint="please report it, with the output of --debug") from error

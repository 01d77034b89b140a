"""The command `pogfast`: a table of verbs, each of which calls one function of the packages below.

Each verb has a module of its name (`find` is in ls.py, `stats` in info.py, `undelete` in prune.py, `rewrite` in
remove.py; `keygen`, `key`, `completion` and `help` are in keys.py; a module `list` would hide Python's). frame.py and
options.py have what they share. Until a verb runs, nothing but click and the standard library is imported, so that
--help answers at once. Every failure becomes one line on standard error and an exit code; a traceback is shown only
with --debug.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from itertools import takewhile

import click

from pogfast.cli.frame import Group, usage_error
from pogfast.cli.output import Output
from pogfast.console import guarded
from pogfast.errors import PogfastError
from pogfast.system.environment import take_secrets

COMPLETE = "_POGFAST_COMPLETE"
# Verb -> the module that has it, and its line in the help.
VERBS = {
    "create": ("pogfast.cli.create", "Archive files and directories, with all that a restore needs."),
    "restore": ("pogfast.cli.restore", "Restore an archive, or parts of it."),
    "list": ("pogfast.cli.list_archives", "List the archives of a store."),
    "ls": ("pogfast.cli.ls", "List what is in an archive."),
    "find": ("pogfast.cli.ls", "Find names in the archives of a store."),
    "cat": ("pogfast.cli.cat", "Print a file of an archive, or a part of it."),
    "diff": ("pogfast.cli.diff", "Compare two archives."),
    "info": ("pogfast.cli.info", "Show what an archive is and how large it is."),
    "stats": ("pogfast.cli.info", "Show how large a store is, and what it could do without."),
    "check": ("pogfast.cli.check", "Check that archives can be restored, or compare one with the disk."),
    "copy": ("pogfast.cli.copy", "Copy archives from one store to another."),
    "prune": ("pogfast.cli.prune", "Remove archives that a policy does not keep, and the blobs that only they need."),
    "remove": ("pogfast.cli.remove", "Remove single archives."),
    "rewrite": ("pogfast.cli.remove", "Write archives anew without some paths, and remove the old ones."),
    "undelete": ("pogfast.cli.prune", "Bring back removed archives, as long as their grace period lasts."),
    "lock": ("pogfast.cli.lock", "Lock archives in S3, so that nobody can delete them for a time."),
    "tune": ("pogfast.cli.tune", "Find the chunker, level and jobs that fit your data and store."),
    "doctor": ("pogfast.cli.doctor", "Test what a store can do, and report what should be mended."),
    "keygen": ("pogfast.cli.keys", "Make a key pair, or a keyfile."),
    "key": ("pogfast.cli.keys", "Show the kind and the fingerprint of a key file."),
    "completion": ("pogfast.cli.keys", "Print the completion script of a shell."),
    "help": ("pogfast.cli.keys", "Show the help of a command."),
}

HELP = """\
Encrypt files into archives, and restore them.

STORE is a directory, local:/DIR, s3://BUCKET[/PREFIX], or (to write to) a program; several have commas between them.
ARCHIVE is STORE/NAME.mfn as `pogfast list STORE` shows it, or STORE/latest.

The key comes from --keyfile, --encryption-keyfile, --decryption-keyfile, --password-file or --password-command; without
one from the variables POGFAST_KEYFILE and so on, then from POGFAST_PASSWORD; then a password is asked for.
"""
EPILOG = """\
Exit codes: 0 done, 1 failed, 2 wrong usage, 3 done except for what is named, 4 damage found, 10 no such store or
archive, 12 wrong key, 130 interrupted, 141 the reader of standard output is gone.
"""


def _version(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value and not context.resilient_parsing:
        from pogfast import __version__

        context.ensure_object(Output).print(f"pogfast {__version__}")
        context.exit()


group = Group("pogfast", table=VERBS, no_args_is_help=False, help=HELP, epilog=EPILOG, subcommand_metavar="COMMAND ...")
group.params.append(
    click.Option(
        ["--version"],
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_version,
        help="Show the version, and exit.",
    )
)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command `pogfast`. Returns its exit code."""
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
    # Known before anything is parsed, so that what cannot be parsed is told of as it should be.
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
        text = f"a defect of pogfast: {type(error).__name__}: {error}"
        raise PogfastError(text, hint="please report it, with what --debug shows") from error

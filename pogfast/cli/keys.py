"""`pogfast keygen`, `key`, `completion` and `help`: the verbs that need neither store nor archive.

Never prints a secret: of a key, only its kind and its fingerprint are shown.
"""

from __future__ import annotations

import os
from typing import Any

import click

from pogfast.cli.command import PATH, Group, print_help, verb
from pogfast.cli.output import Output
from pogfast.errors import PogfastError, ReaderGone, UsageError

SHELLS = ("bash", "zsh", "fish")


@verb(
    "keygen",
    examples=(
        "pogfast keygen mine",
        "pogfast keygen backup.key --symmetric",
    ),
)
@click.argument("name", metavar="NAME")
@click.option("--symmetric", is_flag=True, help="Create a keyfile NAME that both writes and reads.")
def keygen(output: Output, name: str, symmetric: bool) -> None:
    """Create a key pair or a keyfile.

    NAME.encrypt, the public key, creates archives; NAME.decrypt, the private key, reads them. Existing files are never
    changed.
    """
    from pogfast import keys

    if symmetric:
        keys.create_symmetric(name)
        made = {name: "reads and writes: keep it secret, and a copy of it in a safe place"}
        fingerprint = keys.from_keyfile(name).fingerprint
    else:
        public, private = keys.create_pair(os.path.basename(name), os.path.dirname(name))
        made = {
            public: "writes: for machines that make archives",
            private: "reads: keep it secret, and a copy of it in a safe place",
        }
        fingerprint = keys.from_decryption_keyfile(private).fingerprint
    try:
        output.emit("key", paths=list(made), fingerprint=fingerprint)
        if not output.json:
            for path, what in made.items():
                output.answer(f"{path} {what}")
            output.answer(f"fingerprint {fingerprint}")
        output.flush()
    except ReaderGone:
        raise
    except PogfastError as error:
        error.hint, error.exit_code = f"the keys were created: {' and '.join(made)}", 3
        raise


@verb(
    "show",
    examples=("pogfast key show mine.encrypt",),
)
@click.argument("file", metavar="FILE", type=PATH)
def show(output: Output, file: str) -> None:
    """Show the kind and fingerprint of a key file.

    The key itself is never printed. A file of 32 bytes can be several kinds of key: each is shown with its fingerprint.
    """
    from pogfast.keys import describe_file

    found = describe_file(file)
    if output.json:
        output.emit("key", paths=[file], kind=found.kind, fingerprints=found.fingerprints)
        return
    output.answer(f"{file} is {found.kind}")
    for option, fingerprint in found.fingerprints.items():
        output.answer(f"fingerprint {fingerprint} (--{option})")


key = Group(
    "key",
    no_args_is_help=False,
    help="Inspect key files.",
    subcommand_metavar="COMMAND ...",
)
key.add_command(show)


@verb(
    "completion",
    examples=("pogfast completion fish > ~/.config/fish/completions/pogfast.fish",),
)
@click.argument("shell", type=click.Choice(SHELLS), metavar="bash|zsh|fish")
def completion(output: Output, shell: str) -> None:
    """Print a shell completion script.

    For bash, add eval "$(pogfast completion bash)" to ~/.bashrc; for zsh, the same with zsh to ~/.zshrc.
    """
    from click.shell_completion import get_completion_class

    from pogfast.cli import COMPLETE, group

    found = get_completion_class(shell)
    if found is None:
        raise UsageError(f"no completion for {shell}")
    output.print(found(group, {}, "pogfast", COMPLETE).source())


@verb(
    "help",
    examples=(
        "pogfast help restore",
        "pogfast help key show",
    ),
)
@click.argument("names", nargs=-1, metavar="[COMMAND]...")
@click.pass_context
def help_of(context: click.Context, output: Output, names: tuple[str, ...]) -> None:
    """Show the help of a command.

    Without a command, shows the help of pogfast.
    """
    shown: Any = context.parent
    for name in names:
        if not isinstance(shown.command, click.Group):
            raise UsageError(f"{shown.command_path} has no commands")
        _, command, _ = shown.command.resolve_command(shown, [name])
        if command is not None:
            shown = click.Context(command, parent=shown, info_name=name)
    print_help(shown)


VERBS = {"keygen": keygen, "key": key, "completion": completion, "help": help_of}

"""`pogfast keygen`, `key`, `completion` and `help`: the verbs that need no archive.

No secret is ever printed: of a key there is its kind and its fingerprint.
"""

from __future__ import annotations

import os
from typing import Any

import click

from pogfast.cli.frame import PATH, Group, print_help, verb
from pogfast.cli.output import Output
from pogfast.errors import PogfastError, ReaderGone, UsageError

SHELLS = ("bash", "zsh", "fish")


@verb("keygen")
@click.argument("name", metavar="NAME")
@click.option("--symmetric", is_flag=True, help="A keyfile NAME that both writes and reads.")
def keygen(output: Output, name: str, symmetric: bool) -> None:
    """Make a key pair, or a keyfile.

    NAME.encrypt (public) writes archives, NAME.decrypt (private) reads them. Files that are there are never touched.
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
        error.hint, error.exit_code = f"made all the same: {' and '.join(made)}", 3
        raise


@verb("show")
@click.argument("file", metavar="FILE", type=PATH)
def show(output: Output, file: str) -> None:
    """Print the kind and the fingerprint of a key file.

    Never the key. A file of 32 bytes can be several kinds of key: then each has its fingerprint.
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
    help="Show the kind and the fingerprint of a key file.",
    subcommand_metavar="COMMAND ...",
)
key.add_command(show)


@verb("completion")
@click.argument("shell", type=click.Choice(SHELLS), metavar="bash|zsh|fish")
def completion(output: Output, shell: str) -> None:
    """Print the completion script of a shell.

    bash: eval "$(pogfast completion bash)" in ~/.bashrc; zsh: the same in ~/.zshrc; fish: pogfast completion fish >
    ~/.config/fish/completions/pogfast.fish
    """
    from click.shell_completion import get_completion_class

    from pogfast.cli import COMPLETE, group

    found = get_completion_class(shell)
    if found is None:
        raise UsageError(f"no completion for {shell}")
    output.print(found(group, {}, "pogfast", COMPLETE).source())


@verb("help")
@click.argument("names", nargs=-1, metavar="[COMMAND]...")
@click.pass_context
def help_of(context: click.Context, output: Output, names: tuple[str, ...]) -> None:
    """Show the help of a command.

    Without a command: of pogfast.
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

"""How a verb of `pogfast` is made: its help, the options that stand before or after it, sizes, and usage errors.

Everything here is click's; what the options mean is for the verbs. Imports click and the standard library only, since
--help goes through here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from pogfast.cli.output import Output
from pogfast.console import check_values
from pogfast.errors import PogfastError, UsageError
from pogfast.system.retries import RETRIED

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

# What may be given without a word in it: it says nothing then.
MAY_BE_EMPTY = ("comment", "exclude", "group_by", "iexclude")
WIDTH = 100  # columns of help on a wide terminal, and without one


def _width() -> int:
    """Columns of help. (click would import shutil to ask, which takes as long as 20 % of Python's start.)"""
    for descriptor in (1, 2):
        try:
            return min(os.get_terminal_size(descriptor).columns - 2, WIDTH)
        except OSError:
            continue
    return WIDTH


def common_options() -> list[click.Parameter]:
    """What every verb takes, and `pogfast` itself before the verb."""
    return [
        _common("-q", "--quiet", "quiet", help="Show no progress and no summary: only results, warnings and errors."),
        _common("-v", "--verbose", "verbose", count=True, help="Show more; -vv names every file."),
        _common("--json", "json", help="Print JSON lines on standard output."),
        _common("--debug", "debug", help="Show a traceback when something fails."),
        click.Option(
            ["-h", "--help"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_help,
            help="Show this help, and exit.",
        ),
    ]


def _common(*names: str, count: bool = False, help: str) -> click.Option:
    return click.Option(
        names, is_flag=not count, count=count, expose_value=False, is_eager=True, callback=_set, help=help
    )


def _set(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    """The volume adds up, wherever it is said."""
    output = context.find_object(Output)
    if output is not None and value:
        setattr(output, str(parameter.name), value + getattr(output, str(parameter.name)))


def _help(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value and not context.resilient_parsing:
        print_help(context)
        context.exit()


def print_help(context: click.Context) -> None:
    context.ensure_object(Output).print(context.get_help())


class Verb(click.Command):
    """A command with the common options, and its help at a width that people read."""

    def __init__(self, name: str | None, **more: Any) -> None:
        super().__init__(name, **{**more, "add_help_option": False})
        self.params += common_options()

    def make_context(self, info_name: str | None, args: list[str], *rest: Any, **extra: Any) -> click.Context:
        return super().make_context(info_name, args, *rest, **extra, terminal_width=_width())

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Reads the options, and refuses values that were forgotten: an option stands in their place, or what a shell
        made of a variable that is not set."""
        options = [each for each in self.params if isinstance(each, click.Option)]
        valued = {
            name: each.opts[-1]
            for each in options
            if not (each.is_flag or each.count or isinstance(each.flag_value, str))
            for name in each.opts
        }
        check_values(args, [name for each in options for name in (*each.opts, *each.secondary_opts)], valued)
        rest = super().parse_args(ctx, args)
        for each in self.params if not ctx.resilient_parsing else ():
            value = ctx.params.get(str(each.name))
            if each.name not in MAY_BE_EMPTY and (value == "" or (isinstance(value, tuple) and "" in value)):
                name = each.opts[-1] if isinstance(each, click.Option) else each.make_metavar(ctx).strip("[].")
                raise UsageError(f"{name} is empty", hint="is a variable of the shell not set?")
        return rest

    def invoke(self, ctx: click.Context) -> Any:
        output = ctx.ensure_object(Output)
        output.check()
        RETRIED.set(output.retried)
        result = super().invoke(ctx)
        output.tell_retries()
        return result


def verb(name: str) -> Callable[[Callable[..., None]], click.Command]:
    """Makes a function a verb: its docstring is the help, its first argument the Output."""

    def decorate(function: Callable[..., None]) -> click.Command:
        return click.command(name, cls=Verb)(click.pass_obj(function))

    return decorate


class Group(click.Group):
    """A command with verbs. `table` has a module, imported when its verb runs, and one line of help for each."""

    def __init__(self, *arguments: Any, table: dict[str, tuple[str, str]] | None = None, **more: Any) -> None:
        super().__init__(*arguments, **more, add_help_option=False)
        self.table = table or {}
        self.params += common_options()

    def make_context(self, info_name: str | None, args: list[str], *rest: Any, **extra: Any) -> click.Context:
        return super().make_context(info_name, args, *rest, **extra, terminal_width=_width())

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*self.table, *self.commands]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in self.table:
            from importlib import import_module

            return import_module(self.table[cmd_name][0]).VERBS[cmd_name]  # type: ignore[no-any-return]
        return self.commands.get(cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name in self.list_commands(ctx):
            return super().resolve_command(ctx, args)
        from pogfast.cli.elsewhere import command_hint

        said = command_hint(name, self.list_commands(ctx), others=ctx.parent is None)
        raise UsageError(f"no such command: {name}", hint=_with_help(said, ctx.command_path))

    def overview(self, ctx: click.Context) -> str:
        """How it is used, and the commands."""
        formatter = ctx.make_formatter()
        self.format_usage(ctx, formatter)
        self.format_commands(ctx, formatter)
        return f"{formatter.getvalue()}\n{ctx.command_path} help COMMAND says more."

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(name, text) for name, (_, text) in self.table.items()]
        rows += [(name, command.get_short_help_str(80)) for name, command in self.commands.items()]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


class Whole(click.ParamType):  # type: ignore[type-arg]
    """A whole number, from `least` to `most`."""

    name = "number"

    def __init__(self, least: int, most: int) -> None:
        self.least = least
        self.most = most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        from pogfast.sizes import parse_whole

        if isinstance(value, int):
            return value
        return parse_whole(param.opts[-1] if param else "number", value, self.least, self.most)


class Size(click.ParamType):  # type: ignore[type-arg]
    """A number of bytes, with a unit; at least `least`."""

    name = "size"

    def __init__(self, least: int = 1) -> None:
        self.least = least

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        from pogfast.sizes import parse_size

        return value if isinstance(value, int) else parse_size(param.opts[-1] if param else "size", value, self.least)


class Duration(click.ParamType):  # type: ignore[type-arg]
    """A length of time, in seconds: 5m, 24h, 7d. Where `bare`, a number alone is seconds."""

    name = "duration"

    def __init__(self, *, bare: bool) -> None:
        self.bare = bare

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        from pogfast.sizes import parse_seconds

        if isinstance(value, float):
            return value
        return parse_seconds(param.opts[-1] if param else "time", value, bare=self.bare)


class PathText(click.ParamType):  # type: ignore[type-arg]
    """A path, as it is given: only the shell's completion has to know that it is one."""

    name = "path"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        return [CompletionItem(incomplete, type="file")]


def split_commas(context: click.Context, parameter: click.Parameter, given: tuple[str, ...]) -> tuple[str, ...]:
    """A callback for options that take words with commas between them, once or several times: all of the words."""
    return tuple(word for text in given for word in words_of(parameter.opts[-1], text))


def words_of(option: str, text: str) -> list[str]:
    """The words of a value with commas between them. Raises UsageError."""
    words = [word.strip() for word in text.split(",")]
    if not all(words):
        raise UsageError(f"{option}: there is an empty word between the commas")
    return words


SIZE = Size()
PATH = PathText()


def usage_error(error: click.ClickException) -> PogfastError:
    """click's complaint as one of ours: one line, and where the help is."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "pogfast"
    if isinstance(error, click.NoSuchOption):
        from pogfast.cli.elsewhere import option_hint

        command = context.command if context is not None else None
        known = [name for each in command.params for name in (*each.opts, *each.secondary_opts)] if command else []
        said = option_hint(error.option_name, command.name or "" if command else "", known)
        return UsageError(f"no such option: {error.option_name}", hint=_with_help(said, path))
    text = " ".join(error.format_message().split()).rstrip(".")
    return UsageError(text[:1].lower() + text[1:], hint=f"see {path} --help")


def _with_help(said: str, path: str) -> str:
    """A hint, and where the help is."""
    return f"{said}{' ' if said.endswith('?') else '; ' if said else ''}see {path} --help"


def apply(options: Sequence[Callable[[Any], Any]]) -> Callable[[Any], Any]:
    """Several decorators as one, in the order of the help."""

    def decorate(function: Any) -> Any:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate

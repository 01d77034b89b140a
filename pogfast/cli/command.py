"""The click classes that the verbs are made of: commands, their help, option types and usage errors.

Knows no verb. Imports click and the standard library only, since --help goes through here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from pogfast.cli.output import Output
from pogfast.console import check_values
from pogfast.errors import PogfastError, UsageError
from pogfast.system.notices import IGNORED, RETRIED

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

# Options whose value may be empty, which means the same as leaving them out.
MAY_BE_EMPTY = ("comment", "exclude", "group_by", "iexclude")
WIDTH = 100  # maximum columns of help, and the columns without a terminal


def _width() -> int:
    """Returns the columns of help. (click would import shutil for this, which takes 20 % of Python's start time.)"""
    for descriptor in (1, 2):
        try:
            return min(os.get_terminal_size(descriptor).columns - 2, WIDTH)
        except OSError:
            continue
    return WIDTH


def common_options() -> list[click.Parameter]:
    """Returns the options that every verb takes, and that may also stand before the verb."""
    return [
        _common("-q", "--quiet", "quiet", help="Print results, warnings and errors only."),
        _common("-v", "--verbose", "verbose", count=True, help="Print more; -vv prints every file."),
        _common("--json", "json", help="Print JSON lines on standard output."),
        _common("--debug", "debug", help="Print a traceback on failure."),
        click.Option(
            ["-h", "--help"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_help,
            help="Print this help and exit.",
        ),
    ]


def _common(*names: str, count: bool = False, help: str) -> click.Option:
    return click.Option(
        names, is_flag=not count, count=count, expose_value=False, is_eager=True, callback=_set, help=help
    )


def _set(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    """Stores the option in the Output; -v before and after the verb add up."""
    output = context.find_object(Output)
    if output is not None and value:
        setattr(output, str(parameter.name), value + getattr(output, str(parameter.name)))


def _help(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value and not context.resilient_parsing:
        print_help(context)
        context.exit()


def print_help(context: click.Context) -> None:
    context.ensure_object(Output).print(context.get_help())


class _Command(click.Command):
    """Adds exit codes and examples below the help of a command."""

    exit_codes_title = "Exit codes"

    def __init__(
        self,
        *arguments: Any,
        exit_codes: Mapping[int, str] | None = None,
        examples: Sequence[str] = (),
        **more: Any,
    ) -> None:
        super().__init__(*arguments, **more)
        self.exit_codes = exit_codes or {}
        self.examples = examples

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if self.exit_codes:
            with formatter.section(self.exit_codes_title):
                formatter.write_dl([(str(code), meaning) for code, meaning in self.exit_codes.items()])
        if self.examples:
            with formatter.section("Examples"):
                for example in self.examples:
                    formatter.write(f"  {example}\n")


class Verb(_Command):
    """A command with the common options, and its help at a readable width."""

    exit_codes_title = "Exit codes besides 0, 1, 2 and 130"

    def __init__(self, name: str | None, **more: Any) -> None:
        super().__init__(name, **{**more, "add_help_option": False})
        self.params += common_options()

    def make_context(self, info_name: str | None, args: list[str], *rest: Any, **extra: Any) -> click.Context:
        return super().make_context(info_name, args, *rest, **extra, terminal_width=_width())

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parses the options. Raises UsageError for a forgotten value: where another option stands in its place, or an
        unset shell variable left it empty."""
        options = [each for each in self.params if isinstance(each, click.Option)]
        valued = {
            name: each.opts[-1]
            for each in options
            if not (each.is_flag or each.count or isinstance(each.flag_value, str))
            for name in each.opts
        }
        args = _with_values(args, options)
        check_values(args, [name for each in options for name in (*each.opts, *each.secondary_opts)], valued)
        rest = super().parse_args(ctx, args)
        for each in self.params if not ctx.resilient_parsing else ():
            value = ctx.params.get(str(each.name))
            if each.name not in MAY_BE_EMPTY and (value == "" or (isinstance(value, tuple) and "" in value)):
                name = each.opts[-1] if isinstance(each, click.Option) else each.make_metavar(ctx).strip("[].")
                raise UsageError(f"{name} is empty", hint="is a shell variable unset?")
        return rest

    def invoke(self, ctx: click.Context) -> Any:
        from pogfast.stores import map_large_buffers  # imported here: help does without

        map_large_buffers()
        output = ctx.ensure_object(Output)
        output.check()
        RETRIED.set(output.retried)
        IGNORED.set(output.warning)
        result = super().invoke(ctx)
        output.print_retries()
        output.warn_of_unused_limits()
        return result


def _with_values(args: list[str], options: Sequence[click.Option]) -> list[str]:
    """Returns the arguments, in which --packs and its like have the value that they have alone: only =SIZE gives
    another, since the next argument is a path."""
    alone = {
        name: each.flag_value
        for each in options
        if isinstance(each.flag_value, str) and not isinstance(each.type, click.Choice)
        for name in each.opts
    }
    end = args.index("--") if "--" in args else len(args)
    return [f"{arg}={alone[arg]}" if arg in alone else arg for arg in args[:end]] + args[end:]


def verb(
    name: str, *, exit_codes: Mapping[int, str] | None = None, examples: Sequence[str] = ()
) -> Callable[[Callable[..., None]], click.Command]:
    """Makes a function a verb: its docstring is the help, its first argument the Output.

    `exit_codes` are those from 3 on that this verb ends in, each with its meaning; `examples` are command lines.
    """

    def decorate(function: Callable[..., None]) -> click.Command:
        make = click.command(name, cls=Verb, exit_codes=exit_codes, examples=examples)
        return make(click.pass_obj(function))

    return decorate


class Group(_Command, click.Group):
    """A command with subcommands. `table`: verb -> its module, imported when the verb runs, and its summary."""

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
        from pogfast.cli.hints import command_hint

        said = command_hint(name, self.list_commands(ctx), others=ctx.parent is None)
        raise UsageError(f"no such command: {name}", hint=_with_help(said, ctx.command_path))

    def overview(self, ctx: click.Context) -> str:
        """Returns the usage line and the list of commands."""
        formatter = ctx.make_formatter()
        self.format_usage(ctx, formatter)
        self.format_commands(ctx, formatter)
        return f"{formatter.getvalue()}\nRun {ctx.command_path} help COMMAND for details."

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(name, text) for name, (_, text) in self.table.items()]
        rows += [(name, command.get_short_help_str(80)) for name, command in self.commands.items()]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


class Whole(click.ParamType):  # type: ignore[type-arg]
    """A whole number from `minimum` to `maximum`."""

    name = "number"

    def __init__(self, minimum: int, maximum: int) -> None:
        self.minimum = minimum
        self.maximum = maximum

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        from pogfast.sizes import parse_whole

        if isinstance(value, int):
            return value
        return parse_whole(param.opts[-1] if param else "number", value, self.minimum, self.maximum)


class Size(click.ParamType):  # type: ignore[type-arg]
    """A number of bytes, with or without a unit; at least `minimum`."""

    name = "size"

    def __init__(self, minimum: int = 1) -> None:
        self.minimum = minimum

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        from pogfast.sizes import parse_size

        return value if isinstance(value, int) else parse_size(param.opts[-1] if param else "size", value, self.minimum)


class Duration(click.ParamType):  # type: ignore[type-arg]
    """A duration in seconds: 5m, 24h, 7d. With `bare`, a number without a unit is seconds."""

    name = "duration"

    def __init__(self, *, bare: bool) -> None:
        self.bare = bare

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        from pogfast.sizes import parse_seconds

        if isinstance(value, float):
            return value
        return parse_seconds(param.opts[-1] if param else "time", value, bare=self.bare)


class PathText(click.ParamType):  # type: ignore[type-arg]
    """A path, unchanged; the type only tells shell completion to complete file names."""

    name = "path"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        return [CompletionItem(incomplete, type="file")]


def split_commas(context: click.Context, parameter: click.Parameter, given: tuple[str, ...]) -> tuple[str, ...]:
    """A click callback: returns all words of an option whose values are comma-separated and may be repeated."""
    return tuple(word for text in given for word in words_of(parameter.opts[-1], text))


def words_of(option: str, text: str) -> list[str]:
    """Returns the words of a comma-separated value. Raises UsageError for an empty word."""
    words = [word.strip() for word in text.split(",")]
    if not all(words):
        raise UsageError(f"{option}: empty word between commas")
    return words


SIZE = Size()
PATH = PathText()


def usage_error(error: click.ClickException) -> PogfastError:
    """Returns click's usage error as ours: one line, and a hint with the help to read."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "pogfast"
    if isinstance(error, click.NoSuchOption):
        from pogfast.cli.hints import option_hint

        command = context.command if context is not None else None
        known = [name for each in command.params for name in (*each.opts, *each.secondary_opts)] if command else []
        said = option_hint(error.option_name, command.name or "" if command else "", known)
        return UsageError(f"no such option: {error.option_name}", hint=_with_help(said, path))
    text = " ".join(error.format_message().split()).rstrip(".")
    return UsageError(text[:1].lower() + text[1:], hint=f"see {path} --help")


def _with_help(said: str, path: str) -> str:
    """Returns the hint followed by the help command to run."""
    return f"{said}{' ' if said.endswith('?') else '; ' if said else ''}see {path} --help"


def apply(options: Sequence[Callable[[Any], Any]]) -> Callable[[Any], Any]:
    """Combines decorators into one; options appear in the help in this order."""

    def decorate(function: Any) -> Any:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate

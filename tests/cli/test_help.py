"""The end of each help text: its exit codes are those of docs/commands.md, and its examples parse."""

from __future__ import annotations

import re
import shlex
from contextvars import copy_context

import click
import pytest

from kit.pages import COMMANDS, section
from pogfast.cli import EXAMPLES, group
from pogfast.cli.command import Verb
from pogfast.cli.output import Output


def verb_of(name: str) -> Verb:
    command = COMMANDS[name]
    assert isinstance(command, Verb)
    return command


def documented_codes() -> dict[str, set[int]]:
    """Maps each command to the exit codes that its row of the table describes."""
    table = section("Exit codes").partition("| command |")[2]
    heads, rows = table.splitlines()[0], table.splitlines()[2:]
    codes = [int(code) for code in re.findall(r"\d+", heads)]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows if row.startswith("|")]
    return {row[0]: {code for code, cell in zip(codes, row[1:], strict=True) if cell} for row in cells}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_exit_codes_in_the_help_are_those_of_the_page(name: str) -> None:
    own = {code for code in verb_of(name).exit_codes if code not in (1, 75)}  # 75 is of `run` alone: in the text
    assert own == documented_codes()[name]


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_in_the_help_parse(name: str) -> None:
    examples = verb_of(name).examples
    assert examples
    for example in examples:
        parse(example, name)


def test_examples_of_the_program_parse() -> None:
    for example in EXAMPLES:
        parse(example, shlex.split(example)[1])


def parse(example: str, name: str) -> None:
    """Parses an example as the shell and click do, without running it."""
    words = shlex.split(re.split(r" [|>] ", example)[0])
    own = ["pogfast", *name.split()]
    assert words[: len(own)] == own
    parent = click.Context(group, info_name="pogfast", obj=Output())
    # In a context of its own: options such as --packs are settings, which would be in force in later tests.
    copy_context().run(verb_of(name).make_context, name, words[len(own) :], parent=parent)

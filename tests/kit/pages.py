"""docs/commands.md, and the commands that it describes."""

from __future__ import annotations

import re
from collections.abc import Iterator

import click

from kit.paths import DOCS
from pogfast.cli import group

PAGE = (DOCS / "commands.md").read_text(encoding="utf-8")


def commands(command: click.Command = group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, by its words."""
    if not isinstance(command, click.Group):
        yield " ".join(path), command
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        found = command.get_command(context, name)
        assert found is not None
        yield from commands(found, (*path, name))


COMMANDS = dict(commands())


def section(title: str) -> str:
    """What stands below a heading, up to the next of any level."""
    found = re.search(rf"^##+ {re.escape(title)}\n(.*?)(?=^##|\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found, f"no section {title}"
    return found[1]


def json_words() -> dict[str, set[str]]:
    """`message_type` -> the words that its objects can have."""
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \| (.*) \|$", section("JSON"), re.MULTILINE)
    words: dict[str, set[str]] = {}
    for name, cell in rows:
        found = set(re.findall(r"`([a-z_]+)`", re.sub(r"\([^)]*\)", "", cell)))
        words[name] = words.get(name, set()) | found
    del words["message_type"]  # the table's head
    assert len(words) > 10
    words["match"] |= words["node"]
    return words

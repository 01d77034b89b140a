"""`pogfast ls` and `find`: print entries of archives as names, as `ls -l` does, as a tree, or as JSON.

archives/listing.py selects the entries.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from pogfast.cli.command import PATH, verb
from pogfast.cli.formatting import iso_time, moment_of, time_text
from pogfast.cli.options import (
    archive_filter_options,
    key_of,
    key_options,
    open_archive,
    service_options,
    store_of,
    tag_option,
)
from pogfast.cli.output import Output
from pogfast.errors import UsageError
from pogfast.system.encoding import IS_UTF8

if TYPE_CHECKING:
    from pogfast.archives.listing import Found, Item

# Kind -> restic's type, and the file type bits whose letter `ls -l` shows.
TYPES = {"file": "file", "directory": "dir", "link": "symlink", "fifo": "fifo"}
MODES = {"file": stat.S_IFREG, "directory": stat.S_IFDIR, "link": stat.S_IFLNK, "fifo": stat.S_IFIFO}


@verb(
    "ls",
    exit_codes={
        3: "a NAME matches nothing",
        4: "the manifest is damaged",
        10: "no such store or archive",
        12: "wrong key",
    },
    examples=(
        "pogfast ls /mnt/backup/latest --long",
        "pogfast ls /mnt/backup/latest home/u '*.jpg'",
    ),
)
@click.argument("archive", metavar="ARCHIVE", type=PATH)
@click.argument("names", nargs=-1, metavar="[NAME|PATTERN]...")
@click.option("-l", "--long", is_flag=True, help="Show mode, owner, size and time.")
@click.option("--tree", is_flag=True, help="Print a tree.")
@archive_filter_options
@key_options
@service_options
def ls(output: Output, archive: str, names: tuple[str, ...], long: bool, tree: bool, **options: Any) -> None:
    """List the contents of an archive.

    All names, or those that NAMEs and PATTERNs select, as for `restore`.
    """
    from pogfast.archives.listing import select

    output.during = "ls"
    with open_archive(output, archive, options) as opened:
        items = select(opened, names, output.problem)
        if output.json:
            for item in items:
                output.emit("node", **_node(item))
        elif tree:
            _print_tree(output, items, long)
        else:
            output.answers(map(_long_line, items) if long else (item.name for item in items))


@verb(
    "find",
    exit_codes={
        3: "some archives need another key",
        4: "some archives are damaged",
        10: "no such store, or an empty one",
        12: "no archive opens with this key",
    },
    examples=(
        "pogfast find /mnt/backup 'report*.odt'",
        "pogfast find /mnt/backup '/home/u/**/cache'",
    ),
)
@click.argument("store", metavar="STORE", type=PATH, required=False)
@click.argument("patterns", nargs=-1, metavar="PATTERN...")
@click.option("-l", "--long", is_flag=True, help="Show mode, owner, size and time.")
@click.option("--host", metavar="NAME", help="Only in archives of this host.")
@tag_option("Only in archives with all of these tags.")
@key_options
@service_options
def find(output: Output, store: str | None, patterns: tuple[str, ...], long: bool, **options: Any) -> None:
    """Find files in the archives of a store.

    Prints the archive and the name of each match. A pattern without a / is compared with the last component of a name.
    """
    from pogfast.archives.listing import find as find_names
    from pogfast.stores import open_store

    output.during = "find"
    if store is not None and not patterns:  # a single argument is a PATTERN; the store is POGFAST_STORE
        patterns, store = (store,), None
    store = store_of(store)
    if not patterns:
        raise UsageError("no PATTERN given", hint="see pogfast find --help")
    key = key_of(options, store=store)
    opened = open_store(store)
    matched = False

    def matches() -> Iterator[Found]:
        nonlocal matched
        for found in find_names(opened, key, patterns, output.problem, **options):
            matched = True
            yield found

    try:
        if output.json:
            for found in matches():
                output.emit("match", snapshot=found.archive, time=iso_time(found.time), **_node(found.item))
        else:
            line = _long_line if long else lambda item: item.name
            output.answers(f"{found.archive}  {line(found.item)}" for found in matches())
    finally:
        opened.close()
    if not matched:
        output.info("nothing matches")


def _node(item: Item) -> dict[str, Any]:
    """Returns an entry with restic's JSON keys; unknown values are omitted."""
    words = {
        "name": item.name.rpartition("/")[2],
        "type": TYPES[item.kind],
        "path": item.name,
        "uid": item.uid,
        "gid": item.gid,
        "user": item.user,
        "group": item.group,
        "size": item.size,
        "mode": item.mode,
        "permissions": None if item.mode is None else stat.filemode(item.mode | MODES[item.kind]),
        "mtime": None if item.mtime_ns is None else iso_time(moment_of(item.mtime_ns)),
        "mtime_ns": item.mtime_ns,
        "linktarget": item.target,
        "hardlink": item.hardlink,
    }
    return {word: value for word, value in words.items() if value is not None}


def _long_line(item: Item) -> str:
    return f"{_long_columns(item)}  {item.name}" + (f" -> {item.target}" if item.target is not None else "")


def _long_columns(item: Item) -> str:
    """Returns mode, owner, size and time as `ls -l` shows them, with ? for unknown values."""
    mode = "?" * 10 if item.mode is None else stat.filemode(item.mode | MODES[item.kind])
    owner = item.user or ("?" if item.uid is None else str(item.uid))
    group = item.group or ("?" if item.gid is None else str(item.gid))
    size = "" if item.kind != "file" else "?" if item.size is None else f"{item.size}"
    time = None if item.mtime_ns is None else moment_of(item.mtime_ns)
    return f"{mode} {owner:8} {group:8} {size:>13} {time_text(time)}"


@dataclass
class _Branch:
    """A node of the tree: a path component and its children."""

    item: Item | None = None
    below: dict[str, _Branch] = field(default_factory=dict)

    def children(self, indent: str) -> list[tuple[str, str, _Branch, bool]]:
        """Returns (indent, name, child, is the last) of each child, in reverse, to be pushed on a stack."""
        return [(indent, name, self.below[name], index == 0) for index, name in enumerate(reversed(self.below))]


def _print_tree(output: Output, items: Iterable[Item], long: bool) -> None:
    top = _Branch()
    for item in items:
        branch = top
        for part in item.name.split("/"):
            branch = branch.below.setdefault(part, _Branch())
        branch.item = item
    fork, end, line = ("├── ", "└── ", "│   ") if IS_UTF8 else ("|-- ", "`-- ", "|   ")
    stack = top.children("")
    while stack:
        indent, name, branch, last = stack.pop()
        columns = target = ""
        if branch.item:
            columns = f"{_long_columns(branch.item)}  " if long else ""
            target = f" -> {branch.item.target}" if branch.item.target is not None else ""
        output.answer(f"{columns}{indent}{end if last else fork}{name}{target}")
        stack += branch.children(indent + ("    " if last else line))


VERBS = {"ls": ls, "find": find}

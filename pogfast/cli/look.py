"""`pogfast list`, `ls`, `find`, `diff`, `info` and `stats`: the read-only verbs.

The package `archives` returns records; this module prints them as lines for people, or as JSON with restic's keys.
"""

from __future__ import annotations

import stat
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from pogfast.archives import lookup
from pogfast.cli.frame import PATH, verb
from pogfast.cli.options import (
    choice_options,
    key_of,
    key_options,
    look_for_archive,
    look_for_store,
    open_archive,
    service_options,
    store_argument,
    store_of,
    tag_option,
    told,
)
from pogfast.cli.output import Output
from pogfast.errors import MissingBlob, UsageError
from pogfast.sizes import many, show_size
from pogfast.system.encoding import IS_UTF8

if TYPE_CHECKING:
    from pogfast.archives.archive import Archive
    from pogfast.archives.differences import Change
    from pogfast.archives.figures import Info
    from pogfast.archives.listing import Item
    from pogfast.archives.overview import ArchiveInfo
    from pogfast.archives.records import Record
    from pogfast.keys import Key

# A kind, in restic's word and in the first letter of `ls -l`.
TYPES = {"file": "file", "directory": "dir", "link": "symlink", "fifo": "fifo"}
MODES = {"file": stat.S_IFREG, "directory": stat.S_IFDIR, "link": stat.S_IFLNK, "fifo": stat.S_IFIFO}
# restic's modifiers; ? is ours: the archives are cut differently, so only reading would tell.
MODIFIERS = {"added": "+", "removed": "-", "modified": "M", "metadata": "U", "type": "T", "uncertain": "?"}


# ---- list ------------------------------------------------------------------------------------------------------------


@verb("list")
@store_argument
@click.option("--host", metavar="NAME", help="Only archives of this host.")
@tag_option("Only archives with all of these tags.")
@click.option("--path", metavar="PATH", type=PATH, help="Only archives of PATH.")
@click.option("--partial", is_flag=True, help="Runs that go on, or were killed, with what they have stored.")
@key_options
@service_options
def list_archives(output: Output, store: str, partial: bool, **options: Any) -> None:
    """List the archives of a store.

    By time, the newest last. Each with its host, files, their size, what its blobs take in the store, its tags and
    paths, its comment, and what was left out of it.
    """
    from pogfast.archives.overview import archives
    from pogfast.archives.trailer import Filter
    from pogfast.stores import open_store

    look_for_store(store)
    key = key_of(options)
    wanted = Filter.of(**options)
    opened = open_store(store)
    try:
        wanted.require(key)
        infos = archives(opened, key, partial=partial)
    finally:
        opened.close()
    shown = [info for info in infos if info.problem or info.fits(wanted)]
    for info in shown if output.json else ():
        output.emit("snapshot", id=info.name, hostname=info.host, **_without(info, "name"))
    if not output.json:
        none = f"no {'partial ' if partial else ''}archives {wanted}".rstrip()
        _print_table(output, [_row(info) for info in shown], none)
    _tell_problems(output, infos)


HEAD = ["time", "host", "files", "size", "stored", "archive", "tags", "paths", "comment", "notes"]
RIGHT = {2, 3, 4}
# Columns that are left out where no archive has anything in them.
MAY_BE_EMPTY = {6, 7, 8, 9}


def _row(info: ArchiveInfo) -> list[str]:
    return [
        _time(info.time, local=info.local),
        info.host,
        _number(info.files),
        _size(info.size),
        _size(info.stored),
        info.name,
        ", ".join(info.tags),
        ", ".join(info.paths),
        info.comment,
        PROBLEMS.get(info.code, info.problem) if info.problem else _left_out(info),
    ]


# What is said in a row of an archive that does not open, by exit code; all else as it is.
PROBLEMS = {12: "not opened by this key", 4: "damaged"}


def _left_out(found: ArchiveInfo | Info) -> str:
    """What is not in an archive, or may be of no single moment."""
    words = {"unreadable": found.unreadable, "skipped": found.skipped, "changed while read": found.changed}
    return ", ".join(f"{count:,} {word}" for word, count in words.items() if count)


def _tell_problems(output: Output, infos: list[ArchiveInfo]) -> None:
    """Reports why archives do not open. Raises WrongKey if the key opens none."""
    from pogfast.archives.refusals import those_that_open

    for _ in those_that_open(
        ((info.name, info.error or info) for info in infos), lambda _, error: output.problem(error)
    ):
        pass


# ---- ls and find -----------------------------------------------------------------------------------------------------


@verb("ls")
@click.argument("archive", metavar="ARCHIVE", type=PATH)
@click.argument("names", nargs=-1, metavar="[NAME|PATTERN]...")
@click.option("-l", "--long", is_flag=True, help="Show mode, owner, size and time, too.")
@click.option("--tree", is_flag=True, help="Show a tree.")
@choice_options
@key_options
@service_options
def ls(output: Output, archive: str, names: tuple[str, ...], long: bool, tree: bool, **options: Any) -> None:
    """List what is in an archive.

    All of it, or what the names and patterns mean, as `restore` would take them.
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
            for item in items:
                output.answer(_line(item, long))


@verb("find")
@click.argument("store", metavar="STORE", type=PATH, required=False)
@click.argument("patterns", nargs=-1, metavar="PATTERN...")
@click.option("-l", "--long", is_flag=True, help="Show mode, owner, size and time, too.")
@click.option("--host", metavar="NAME", help="Only in archives of this host.")
@tag_option("Only in archives with this tag; again for more.")
@key_options
@service_options
def find(output: Output, store: str | None, patterns: tuple[str, ...], long: bool, **options: Any) -> None:
    """Find names in the archives of a store.

    A pattern without a / is held against the last part of a name. Each line has the archive, and the name.
    """
    from pogfast.archives.listing import find as find_names
    from pogfast.stores import open_store

    output.during = "find"
    if store is not None and not patterns:  # with POGFAST_STORE a single word is a PATTERN
        patterns, store = (store,), None
    store = store_of(store)
    if not patterns:
        raise UsageError("no PATTERN is given", hint="see pogfast find --help")
    look_for_store(store)
    key = key_of(options)
    opened = open_store(store)
    matched = False
    try:
        for found in find_names(opened, key, patterns, output.problem, **options):
            matched = True
            if output.json:
                output.emit("match", snapshot=found.archive, time=_iso(found.time), **_node(found.item))
            else:
                output.answer(f"{found.archive}  {_line(found.item, long)}")
    finally:
        opened.close()
    if not matched:
        output.info("nothing matches")


def _node(item: Item) -> dict[str, Any]:
    """restic's words for something in an archive; what is not known is left out."""
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
        "mtime": None if item.mtime_ns is None else _iso(_moment(item.mtime_ns)),
        "mtime_ns": item.mtime_ns,
        "linktarget": item.target,
        "hardlink": item.hardlink,
    }
    return {word: value for word, value in words.items() if value is not None}


def _line(item: Item, long: bool) -> str:
    if not long:
        return item.name
    return f"{_facts(item)}  {item.name}" + (f" -> {item.target}" if item.target is not None else "")


def _facts(item: Item) -> str:
    """As `ls -l` has them, with ? for what the archive does not say."""
    mode = "?" * 10 if item.mode is None else stat.filemode(item.mode | MODES[item.kind])
    owner = item.user or ("?" if item.uid is None else str(item.uid))
    group = item.group or ("?" if item.gid is None else str(item.gid))
    size = "" if item.kind != "file" else "?" if item.size is None else f"{item.size}"
    time = None if item.mtime_ns is None else _moment(item.mtime_ns)
    return f"{mode} {owner:8} {group:8} {size:>13} {_time(time)}"


@dataclass
class _Branch:
    """A part of a path, with what is below it."""

    item: Item | None = None
    below: dict[str, _Branch] = field(default_factory=dict)

    def children(self, indent: str) -> list[tuple[str, str, _Branch, bool]]:
        """Backwards, as they are taken from a stack, with their indent; and whether one is the last."""
        return [(indent, name, self.below[name], place == 0) for place, name in enumerate(reversed(self.below))]


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
        facts = target = ""
        if branch.item:
            facts = f"{_facts(branch.item)}  " if long else ""
            target = f" -> {branch.item.target}" if branch.item.target is not None else ""
        output.answer(f"{facts}{indent}{end if last else fork}{name}{target}")
        stack += branch.children(indent + ("    " if last else line))


# ---- diff ------------------------------------------------------------------------------------------------------------


@verb("diff")
@click.argument("before", metavar="ARCHIVE", type=PATH)
@click.argument("after", metavar="ARCHIVE", type=PATH)
@click.option("--metadata/--no-metadata", default=True, help="Name also what has only other metadata, or do not.")
@choice_options
@key_options
@service_options
def diff(output: Output, before: str, after: str, metadata: bool, **options: Any) -> None:
    """Compare two archives.

    + added, - removed, M other content, U only other metadata, T another kind, ? may have other content: the archives
    are cut differently. No blob is read.
    """
    from pogfast.archives.differences import diff as differences

    look_for_archive(before)
    look_for_archive(after)
    key = key_of(options)
    counts: Counter[str] = Counter()
    with _one(output, before, key, options) as one, _one(output, after, key, options) as other:
        for change in differences(one, other, output.problem):
            if change.change != "metadata" or metadata:
                counts[change.change] += 1
                _tell_change(output, change)
    output.emit("statistics", source_snapshot=one.name, target_snapshot=other.name, **{w: counts[w] for w in MODIFIERS})
    if counts:
        output.info(", ".join(f"{count:,} {word}" for word, count in counts.items()))
    else:
        output.info("no difference")


def _one(output: Output, text: str, key: Key, options: dict[str, Any]) -> Archive:
    """An archive; --host and so on choose among those of STORE/latest."""
    from pogfast.stores import LATEST

    chosen = options if text.rpartition("/")[2] == LATEST else {}
    return lookup.open_archive(text, key, **chosen, tell=told(output))


def _tell_change(output: Output, change: Change) -> None:
    modifier = MODIFIERS[change.change]
    if output.json:
        output.emit("change", path=change.name, modifier=modifier, **_without(change, "name"))
        return
    why = f"  ({', '.join(change.metadata)})" if change.change == "metadata" else ""
    output.answer(f"{modifier} {change.name}{why}")


# ---- figures ---------------------------------------------------------------------------------------------------------


@verb("info")
@click.argument("archive", metavar="ARCHIVE", type=PATH)
@choice_options
@key_options
@service_options
def info(output: Output, archive: str, **options: Any) -> None:
    """Show what an archive is and how large it is.

    When and how it was made, what is in it, what its blobs take in the store, and what is in it twice.
    """
    from pogfast.archives.figures import info as figures
    from pogfast.archives.trailer import is_local

    with open_archive(output, archive, options) as opened:
        found = figures(opened, output.problem)
    _tell_missing(output, found.missing, found.name)
    if output.json:
        output.emit("info", id=found.name, hostname=found.host, **_without(found, "name"))
        return
    is_unknown = 0 < found.files == found.unknown
    _print_pairs(
        output,
        {
            "archive": found.name,
            "time": _time(found.time, local=is_local(opened.described, found.name)),
            "host": found.host,
            "tags": ", ".join(found.tags),
            "comment": found.comment,
            "paths": ", ".join(found.paths),
            "made by": found.program,
            "layout": found.layout + _cut(found),
            "files": f"{found.files:,}" + (f", {found.unknown:,} of unknown size" if found.unknown else ""),
            "directories": f"{found.directories:,}",
            "links": f"{found.links:,}",
            "fifos": f"{found.fifos:,}",
            "size": _size(None if is_unknown else found.size),
            "stored": f"{_size(found.stored)} in {many(found.blobs, 'blob')}" + _ratio(found.ratio),
            "missing": many(found.missing, "blob") if found.missing else "",
            "duplicates": many(found.duplicates, "file") + ("" if is_unknown else f", {_size(found.duplicate_size)}"),
            "left out": _left_out(found),
            "largest": f"{found.largest}, {_size(found.largest_size)}" if found.largest else "",
        },
    )


@verb("stats")
@store_argument
@key_options
@service_options
def stats(output: Output, store: str, **options: Any) -> None:
    """Show how large a store is, and what it could do without.

    Its archives, its blobs, what they take, and what no archive needs any more.
    """
    from pogfast.archives.figures import stats as figures
    from pogfast.stores import open_store

    output.during = "stats"
    look_for_store(store)
    key = key_of(options)
    opened = open_store(store)
    try:
        found = figures(opened, key, output.problem)
    finally:
        opened.close()
    _tell_missing(output, found.missing, store)
    if output.json:
        output.emit("stats", **found.as_dict())
        return
    _print_pairs(
        output,
        {
            "archives": f"{found.archives:,}"
            + (f", {found.unreadable:,} that do not open" if found.unreadable else ""),
            "files": _number(found.files),
            "size": _size(found.size),
            "stored": f"{_size(found.stored)} in {many(found.blobs, 'blob')}" + _ratio(found.ratio),
            "manifests": _size(found.manifests),
            "not needed": f"{_size(found.orphaned)} in {many(found.orphans, 'blob')}"
            + (" by the archives that open" if found.unreadable else ""),
            "missing": many(found.missing, "blob") if found.missing else "",
        },
    )


# ---- how things are shown --------------------------------------------------------------------------------------------


def _tell_missing(output: Output, missing: int, where: str) -> None:
    """Says that what was counted cannot be restored as it is."""
    if missing:
        error = MissingBlob(f"{where}: {many(missing, 'blob')} missing", hint="pogfast check names the files")
        error.path = where
        output.problem(error)


def _without(record: Record, *words: str) -> dict[str, Any]:
    return {word: value for word, value in record.as_dict().items() if word not in words}


def _moment(ns: int) -> datetime | None:
    try:
        return datetime.fromtimestamp(ns // 10**9).astimezone().replace(microsecond=ns % 10**9 // 1000)
    except (ValueError, OverflowError, OSError):
        return None


def _iso(time: datetime | None) -> str | None:
    return None if time is None else time.isoformat()


def _time(time: datetime | None, *, local: bool = False) -> str:
    """Local time, with its offset from UTC. A time that is `local` to another machine is shown without one."""
    return "?" if time is None else time.astimezone().strftime("%Y-%m-%d %H:%M:%S" + ("" if local else " %z"))


def _number(number: int | None) -> str:
    return "?" if number is None else f"{number:,}"


def _size(size: int | None) -> str:
    return "?" if size is None else show_size(size)


def _cut(found: Info) -> str:
    """How the files of an archive were cut."""
    if found.chunker:
        return f", cut by content, {found.chunker}"
    return f", chunks of {_size(found.chunk_size)}" if found.chunk_size else ""


def _ratio(ratio: float | None) -> str:
    return "" if ratio is None else f", {ratio:.2f} : 1"


def _print_table(output: Output, rows: list[list[str]], none: str) -> None:
    """The archives of `list`; none are none only if all were removed, a first run goes on, or a filter chose none."""
    if not rows:
        output.info(none)
        return
    columns = [i for i in range(len(HEAD)) if i not in MAY_BE_EMPTY or any(row[i] for row in rows)]
    shown = [[row[i] for i in columns] for row in rows]
    output.table([HEAD[i] for i in columns], shown, {at for at, i in enumerate(columns) if i in RIGHT})


def _print_pairs(output: Output, pairs: dict[str, str]) -> None:
    """Those that have something to say."""
    for word, text in pairs.items():
        if text:
            output.answer(f"{word:12} {text}")


VERBS = {"list": list_archives, "ls": ls, "find": find, "diff": diff, "info": info, "stats": stats}

"""Text of pages: names, times and sizes, and archived names as values of forms and links.

Templates pass every string through `visible`, so that control characters, bytes that are not UTF-8 and marks that turn
the direction of text are shown as escapes. Values that come back from the browser are therefore tokens: text that is
its own escape, from which `name_of` returns exactly the name.
"""

from __future__ import annotations

import re
import stat
from datetime import UTC, datetime, time, timedelta
from typing import Any
from urllib.parse import quote

from markupsafe import Markup, escape

from pogfast.archives.listing import Item
from pogfast.console import visible
from pogfast.errors import UsageError
from pogfast.sizes import many, show_size

ESCAPED = re.compile(r"%([0-9a-f]{1,6})\.")
MODES = {"file": stat.S_IFREG, "directory": stat.S_IFDIR, "link": stat.S_IFLNK, "fifo": stat.S_IFIFO}
FACTS = {"mtime_ns": "modified", "uid": "owner", "gid": "group", "user": "owner's name", "group": "group's name"}
FACTS |= {"xattrs": "attributes"}
NIGHT_ENDS = time(6)
NIGHT = timedelta(hours=NIGHT_ENDS.hour)
SPANS = ((86400 * 365, "year"), (86400 * 30, "month"), (86400, "day"), (3600, "hour"), (60, "minute"))


def token(name: str) -> str:
    """Returns a name as printable text: `%` and what is not printable becomes `%HEX.`, its code point."""
    return "".join(c if c.isprintable() and c != "%" else f"%{ord(c):x}." for c in name)


def name_of(text: str) -> str:
    """Returns the name of a token. Raises UsageError for text that is none."""
    try:
        name = ESCAPED.sub(lambda found: chr(int(found[1], 16)), text)
    except (ValueError, OverflowError) as error:
        raise UsageError("not a name") from error
    if token(name) != text:
        raise UsageError("not a name")
    return name


def part(name: str) -> str:
    """Returns a name as a part of a link's path, from which `name_of` returns it."""
    return quote(token(name), safe="")


def harmless(value: Any) -> Any:
    """Returns a value as templates print it: text without a character that does anything but stand there."""
    return visible(value) if type(value) is str else "" if value is None else value


def size(number: int | float | None) -> str:
    return "?" if number is None else show_size(number)


def number(count: int | None) -> str:
    return "?" if count is None else f"{count:,}"


def exact(moment: datetime) -> str:
    """Returns a local time with its offset from UTC, as the command line prints it."""
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S %z")


def ago(moment: datetime | None, now: datetime | None = None) -> Markup:
    """Returns a `<time>`: how long ago, with the exact time as its title."""
    if moment is None:
        return Markup('<span class="muted">unknown time</span>')
    local = moment.astimezone()
    return Markup('<time datetime="{}" title="{}">{}</time>').format(
        local.isoformat(timespec="seconds"), exact(local), relative(local, now)
    )


def stamp(moment: datetime | None) -> Markup:
    """Returns a `<time>` with date and minute, and the exact time as its title."""
    if moment is None:
        return Markup('<span class="muted">?</span>')
    local = moment.astimezone()
    return Markup('<time datetime="{}" title="{}">{}</time>').format(
        local.isoformat(timespec="seconds"), exact(local), local.strftime("%Y-%m-%d %H:%M")
    )


def modified(item: Item) -> Markup:
    """Returns when an entry was modified, as a `<time>`; nothing if the archive does not say."""
    moment = moment_of(item)
    return Markup("") if moment is None else stamp(moment)


def moment_of(item: Item) -> datetime | None:
    """Returns when an entry was modified; None if the archive does not say, or nothing sensible."""
    try:
        return None if item.mtime_ns is None else datetime.fromtimestamp(item.mtime_ns // 10**9).astimezone()
    except (ValueError, OverflowError, OSError):
        return None


def mode(item: Item) -> str:
    """Returns permissions as `ls -l` shows them."""
    return "?" * 10 if item.mode is None else stat.filemode(item.mode | MODES[item.kind])


def fact(word: str) -> str:
    """Returns a piece of metadata as a word: `mtime_ns` is the time of modification."""
    return FACTS.get(word, word)


def plain(value: object) -> str:
    """Returns a value of the configuration as text."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{word} = {plain(each)}" for word, each in value.items())
    return ", ".join(map(plain, value)) if isinstance(value, list | tuple) else str(value)


def relative(moment: datetime, now: datetime | None = None) -> str:
    """Returns "3 hours ago", "in 2 days" or "just now"."""
    seconds = ((now or datetime.now(UTC)) - moment).total_seconds()
    if abs(seconds) < SPANS[-1][0]:
        return "just now"
    return f"{span(seconds)} ago" if seconds > 0 else f"in {span(-seconds)}"


def span(seconds: float) -> str:
    """Returns a length of time in the largest unit that it fills: "3 hours"."""
    length, word = next((unit for unit in SPANS if seconds >= unit[0]), SPANS[-1])
    return many(int(seconds // length), word)


def upcoming(moment: datetime, now: datetime | None = None) -> Markup:
    """Returns a `<time>` that is to come, by its day: "today 14:00", "tonight 02:00", "tomorrow 09:00", else the date.
    A night belongs to the day before it."""
    local, today = moment.astimezone(), (now or datetime.now(UTC)).astimezone()
    if local.time() < NIGHT_ENDS and (local - NIGHT).date() == (today - NIGHT).date():
        day = "tonight"
    else:
        day = {0: "today", 1: "tomorrow"}.get((local.date() - today.date()).days, f"{local:%a %Y-%m-%d}")
    return Markup('<time datetime="{}" title="{}">{}</time>').format(
        local.isoformat(timespec="seconds"), exact(local), f"{day} {local:%H:%M}"
    )


def duration(seconds: float | None) -> str:
    """Returns a length of time as 0:07 or 1:20:00."""
    if seconds is None:
        return ""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def name(text: str) -> Markup:
    """Returns a name to be shown: isolated, so that its direction does not change the text around it."""
    return Markup("<bdi>{}</bdi>").format(escape(visible(text)))

"""Text for times, sizes, numbers and records, as the listing verbs print them.

Values that an archive does not contain are shown as a question mark.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pogfast.sizes import many, show_size

if TYPE_CHECKING:
    from pogfast.archives.figures import Info
    from pogfast.archives.overview import ArchiveInfo
    from pogfast.archives.records import Record
    from pogfast.cluster.tally import WorkerTally


def without(record: Record, *words: str) -> dict[str, Any]:
    return {word: value for word, value in record.as_dict().items() if word not in words}


def moment_of(ns: int) -> datetime | None:
    try:
        return datetime.fromtimestamp(ns // 10**9).astimezone().replace(microsecond=ns % 10**9 // 1000)
    except (ValueError, OverflowError, OSError):
        return None


def iso_time(time: datetime | None) -> str | None:
    return None if time is None else time.isoformat()


def time_text(time: datetime | None, *, local: bool = False) -> str:
    """Returns a local time with its offset from UTC; without it if the time is `local` to another machine."""
    return "?" if time is None else time.astimezone().strftime("%Y-%m-%d %H:%M:%S" + ("" if local else " %z"))


def number_text(number: int | None) -> str:
    return "?" if number is None else f"{number:,}"


def size_text(size: int | None) -> str:
    return "?" if size is None else show_size(size)


def left_out_text(found: ArchiveInfo | Info) -> str:
    """Returns how many files are missing from an archive or changed while they were read; "" if none."""
    words = {"unreadable": found.unreadable, "skipped": found.skipped, "changed while read": found.changed}
    return ", ".join(f"{count:,} {word}" for word, count in words.items() if count)


def workers_as_json(workers: Mapping[str, WorkerTally], retries: int) -> dict[str, Any]:
    """Returns fields of a summary: what each worker of an executor has done; none without one."""
    if not workers:
        return {}
    return {"workers": {name: vars(tally) for name, tally in workers.items()}, "retries": retries}


def lines_of_workers(workers: Mapping[str, WorkerTally], retries: int) -> Iterator[str]:
    """Yields a line for each worker of an executor."""
    for number, (name, tally) in enumerate(sorted(workers.items())):
        speed = show_size(tally.bytes_read / tally.seconds if tally.seconds else 0)
        head = "workers  " if number == 0 else "         "
        yield f"{head}{name}: {many(tally.units, 'unit')}, {show_size(tally.bytes_read)} read ({speed}/s a thread)"
    if retries:
        yield f"retries  {many(retries, 'unit')} given to another worker"

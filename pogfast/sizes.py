"""Parses and formats sizes, times and numbers as people write them: 100MB, 1.5k, 2 KiB, 5m.

Units are decimal; those with an i are binary. For command lines only: the rest of the package uses bytes and seconds.
Errors are UsageError, which names the option.
"""

from __future__ import annotations

import math
from typing import NamedTuple

UNITS = {"": 1, "b": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "p": 10**15}
UNITS |= {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40, "pib": 2**50}
WORDS = {"byte": "", "kilobyte": "k", "megabyte": "m", "gigabyte": "g", "terabyte": "t", "petabyte": "p"}
WORDS |= {"kibibyte": "kib", "mebibyte": "mib", "gibibyte": "gib", "tebibyte": "tib", "pebibyte": "pib"}
WORDS |= {"kb": "k", "mb": "m", "gb": "g", "tb": "t", "pb": "p"}
SPANS = {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 7 * 86400}  # in seconds
LEVELS = (-131072, 22)  # of zstd
MAX_JOBS = 1024  # worker threads: more than any machine has cores, and fewer than systems allow
MAX_PARALLEL = 64  # concurrent requests: more gain nothing, and services refuse them
MIN_RATE = 1000  # bytes a second: with less, connections would be silent for long enough to be closed
MAX_SECONDS = 100 * 365.25 * 86400
SHOWN = ("B", "kB", "MB", "GB", "TB", "PB")


def parse_whole(option: str, text: str, minimum: int, maximum: int) -> int:
    """Parses a whole number from `minimum` to `maximum`. Raises UsageError."""
    from pogfast.errors import UsageError

    try:
        number = int(text)
    except ValueError:  # also for too many digits
        number = minimum - 1
    if not minimum <= number <= maximum:
        raise UsageError(f"{option}={text}: not a whole number from {minimum} to {maximum}")
    return number


def check_jobs(jobs: int | None, what: str = "jobs") -> None:
    """Raises UsageError for an invalid number of threads; None is the default."""
    from pogfast.errors import UsageError

    if jobs is not None and not 1 <= jobs <= MAX_JOBS:
        raise UsageError(f"{what} must be 1 to {MAX_JOBS}, not {jobs}")


def parse_size(option: str, text: str, minimum: int = 1) -> int:
    """Parses a size into bytes, from `minimum` to 2**63 - 1. Raises UsageError."""
    from pogfast.errors import UsageError

    number = text.strip()
    unit = number.lstrip("0123456789.")
    digits = number[: len(number) - len(unit)]
    unit = unit.strip().lower()
    unit = WORDS.get(unit.removesuffix("s") if len(unit) > 3 else unit, unit)
    try:
        size = int(float(digits) * UNITS[unit]) if "." in digits else int(digits) * UNITS[unit]
    except (KeyError, OverflowError, ValueError) as error:  # ValueError also for too many digits
        raise UsageError(f"{option}={text}: not a size", hint="write 50MB, 4MiB or a number of bytes") from error
    if size < minimum:
        raise UsageError(f"{option}={text}: at least one byte")
    if size >= 2**63:
        raise UsageError(f"{option}={text}: more than 9 EB")
    return size


def parse_rate(option: str, text: str) -> int | None:
    """Parses a rate into bytes a second: 5MB, 500KB, 500KB/s; "unlimited" is None. Raises UsageError, also for a number
    without a unit, which is KiB elsewhere."""
    from pogfast.errors import UsageError

    plain = text.strip().removesuffix("/s")
    if plain == "unlimited":
        return None
    hint = "write 500KB or 5MB, for so many bytes a second, or unlimited"
    if plain.replace(".", "").isdigit():
        raise UsageError(f"{option}={text}: a rate needs a unit", hint)
    try:
        rate = parse_size(option, plain)
    except UsageError as error:
        raise UsageError(f"{option}={text}: not a rate", hint) from error
    if rate < MIN_RATE:
        raise UsageError(f"{option}={text}: at least 1KB a second", hint)
    return rate


class Share(NamedTuple):
    """A number of bytes: so many, and a percentage of a whole."""

    size: float = 0
    percent: float = 0

    def of(self, total: int) -> float:
        """Returns the bytes, infinity for all."""
        return self.size + self.percent * total / 100


def parse_share(option: str, text: str) -> Share:
    """Parses a size, a percentage or "unlimited". Raises UsageError."""
    from pogfast.errors import UsageError

    if text == "unlimited":
        return Share(math.inf)
    if not text.endswith("%"):
        return Share(parse_size(option, text, 0))
    try:
        percent = float(text.removesuffix("%"))
    except ValueError:
        percent = -1
    if not 0 <= percent <= 100:
        raise UsageError(f"{option}={text}: not a percentage from 0% to 100%")
    return Share(percent=percent)


def parse_seconds(option: str, text: str, *, bare: bool = True) -> float:
    """Parses a duration into seconds: 90s, 5m, 1.5h, 7d, 2w; 0; with `bare` also a number without a unit, in seconds.
    At most 100 years. Raises UsageError."""
    from pogfast.errors import UsageError

    number = text.strip().lower()
    unit = number.lstrip("0123456789.")
    try:
        count = float(number[: len(number) - len(unit)])
        seconds = count * (1 if unit == "" and (bare or count == 0) else SPANS[unit.strip()])
    except (KeyError, ValueError) as error:
        raise UsageError(f"{option}={text}: not a length of time", hint="write 90s, 5m, 24h or 7d") from error
    if not seconds <= MAX_SECONDS:
        raise UsageError(f"{option}={text}: more than 100 years")
    return seconds


def show_seconds(seconds: float) -> str:
    """Returns a length of time in the largest unit in which it is a whole number: 90 s, 24 h, 7 d."""
    unit = next((unit for unit in ("d", "h", "m") if seconds and not seconds % SPANS[unit]), "s")
    return f"{seconds / SPANS[unit]:g} {'min' if unit == 'm' else unit}"


def many(number: int, word: str, words: str = "") -> str:
    """Returns "1 file", "2,000 files"; `words` is the plural if it is not the word with an s."""
    return f"{number:,} {word if number == 1 else words or word + 's'}"


def show_size(size: float) -> str:
    """Returns a size with three digits and a unit: 1.23 GB."""
    unit = 0
    while size >= 999.5 and unit < len(SHOWN) - 1:
        size /= 1000
        unit += 1
    digits = 0 if unit == 0 or size >= 99.95 else 1 if size >= 9.995 else 2
    return f"{size:.{digits}f} {SHOWN[unit]}"

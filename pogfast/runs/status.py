"""Whether profiles were run as they should: one verdict a profile, from the records of their runs.

Nothing is asked of a store. A run that did not take place, since something was not there, is none: it is the age of the
last one that counts.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any, Literal

from msgspec import Struct
from msgspec.structs import asdict

from pogfast.config.checks import bases_of, is_run
from pogfast.config.loading import Config
from pogfast.config.schema import Profile
from pogfast.errors import DamageError, PogfastError, Unproven, UsageError
from pogfast.runs.lateness import expected, next_due
from pogfast.runs.records import Record, history, seconds_of
from pogfast.sizes import show_seconds

# Seconds that the last run of a profile may be old that says nothing of it: daily, and two hours for a machine that
# sleeps.
MAX_AGE = 26 * 3600.0
# From the worst to the best. damage: the last run found some. failed: it failed, or was interrupted. never: there is
# none. late: the last one is too old. incomplete: it left something out.
Word = Literal["damage", "failed", "never", "late", "incomplete", "ok"]
CODES: dict[Word, int] = {
    "damage": DamageError.exit_code,
    "failed": PogfastError.exit_code,
    "never": Unproven.exit_code,
    "late": Unproven.exit_code,
    "incomplete": Unproven.exit_code,
    "ok": 0,
}


class Verdict(Struct, frozen=True):
    """How a profile is doing. Times are ISO 8601 with offset, "" for none; `age` is in seconds, since the last run."""

    profile: str
    verdict: Word
    code: int  # the exit code that this means
    outcome: str = ""  # of the last run
    end: str = ""  # of the last run
    age: float | None = None
    success: str = ""  # the end of the last run that did what it should
    message: str = ""  # why it is not ok

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def status(config: Config, names: Iterable[str] = (), *, max_age: float | None = None) -> list[Verdict]:
    """Returns the verdicts on profiles, by default on all that are run or were run, the worst first. `max_age`, in
    seconds, is in place of what each profile says of the age of its last run. Raises UsageError for an unknown name and
    if there is no profile, and OSError."""
    chosen = dict.fromkeys(profile for name in names for profile in config.members(name)) or watched(config)
    if not chosen:
        raise UsageError(f"{config.file} has no profile that can be run", hint="add one: [profiles.NAME]")
    now = datetime.now().astimezone()
    found = [_verdict(config.profiles[name], runs_of(config, name), now, max_age) for name in chosen]
    order = [*CODES]
    return sorted(found, key=lambda one: order.index(one.verdict))


def watched(config: Config) -> list[str]:
    """Returns the names of the profiles that are run: not those that others only inherit from. One that makes archives
    and lacks nothing is run, too. Raises OSError."""
    bases = bases_of(config)
    return [name for name, profile in config.profiles.items() if is_run(profile, bases) or runs_of(config, name)]


def runs_of(config: Config, name: str) -> list[Record]:
    """Returns the records of the runs of a profile that took place, the oldest first, without those that a clock
    which was ahead has dated in the future. Raises OSError."""
    return [record for record in history(name, config.file) if record.took_place and not record.is_of_future()]


def _verdict(profile: Profile, runs: list[Record], now: datetime, max_age: float | None) -> Verdict:
    name = profile.name
    if not runs:
        return Verdict(name, "never", CODES["never"], message="it was never run")
    last = runs[-1]
    ended = datetime.fromtimestamp(seconds_of(last.end)).astimezone()  # without a time it is too old
    age = (now - ended).total_seconds()
    word: Word = "ok" if last.outcome == "success" else "incomplete"
    message = last.message
    if last.exit_code == DamageError.exit_code:
        word, message = "damage", message or "damage was found"
    elif last.outcome not in ("success", "incomplete"):
        word, message = "failed", message or last.outcome
    elif why := _late(profile, ended, last.seconds, now, max_age):
        word, message = "late", why
    elif word == "incomplete":
        message = message or next((problem.message for problem in last.problems), last.outcome)
    success = next((record.end for record in reversed(runs) if record.succeeded), "")
    return Verdict(name, word, CODES[word], last.outcome, last.end, round(age, 3), success, message)


def _late(profile: Profile, ended: datetime, seconds: float, now: datetime, max_age: float | None) -> str:
    """Returns why the last run of a profile, which took so many seconds, is too old; "" if it is not."""
    due = next_due(profile, ended, seconds) if max_age is None else None
    if due is not None:
        return f"there was no run since then; {expected(profile)}" if now > due.end else ""
    allowed = MAX_AGE if max_age is None else max_age
    return f"the last run is older than {show_seconds(allowed)}" if now > ended + timedelta(seconds=allowed) else ""

"""Schedules profiles: with systemd, or where it does not run with cron.

jobs.py says what is scheduled, units.py and crontab.py each have a manager that shows, enables and disables it. Nothing
is run here.
"""

from __future__ import annotations

import contextlib
import os

from pogfast.config.loading import NAMES
from pogfast.errors import PogfastError, UsageError
from pogfast.schedule.crontab import Cron
from pogfast.schedule.jobs import Job, jobs_of
from pogfast.schedule.units import BOOTED, Systemd

__all__ = ["Cron", "Job", "Systemd", "checked", "is_enabled", "jobs_of", "manager"]


def manager(word: str | None = None) -> Systemd | Cron:
    """Returns who runs scheduled profiles: by the word, else systemd for root's or the user's units, else cron."""
    if word is None:
        word = ("user" if os.geteuid() else "system") if os.path.isdir(BOOTED) else "cron"
    return Cron() if word == "cron" else Systemd(user=word == "user")


def is_enabled(name: str, config_file: str) -> bool:
    """Returns True if any manager runs a profile. One that cannot be asked runs nothing."""
    for each in (Systemd(user=True), Systemd(user=False), Cron()):
        with contextlib.suppress(PogfastError, OSError):
            if each.is_enabled(name, config_file):
                return True
    return False


def checked(name: str) -> str:
    """Returns the name of a profile that need not be there. Raises UsageError for what can be none."""
    if not NAMES.fullmatch(name):
        raise UsageError(f"{name!r} is not a name for a profile", hint="write letters, digits, . _ -")
    return name

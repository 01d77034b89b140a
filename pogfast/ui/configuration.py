"""The configuration `pogfast.toml`, as the pages use it: its stores and profiles, and the records of their runs.

It is the file that the command line reads, and it is read again when it has changed. Without one there are the stores
that the command names, and no profiles.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pogfast.errors import UsageError
from pogfast.stores import Stored
from pogfast.system.user_dirs import config_directory
from pogfast.ui.stores import KnownStore, shelved
from pogfast.ui.verdicts import Mood, Verdict

if TYPE_CHECKING:
    from pogfast.config import Config, Problem, Profile
    from pogfast.config.writing import Section
    from pogfast.runs import Record

NO_RUNS = ("unmet", "busy")  # outcomes of runs that did not take place
MOODS: dict[str, Mood] = {"success": "good", "incomplete": "warn", "interrupted": "warn"}


@dataclass
class Seen:
    """A configuration as it was read. `config` is None if there is no file."""

    config: Config | None = None
    problems: list[Problem] = field(default_factory=list)

    @property
    def profiles(self) -> dict[str, Profile]:
        return {} if self.config is None else self.config.profiles

    def names_of(self, store: KnownStore) -> list[str]:
        """Returns the names that the configuration has for a store, whatever the pages call it."""
        stores = self.config.stores.items() if self.config else ()
        return [name for name, each in stores if shelved(each.address) == store.address]

    def of_store(self, store: KnownStore) -> list[Profile]:
        """Returns the profiles whose runs leave archives in a store, without those that others only inherit from."""
        from pogfast.runs.status import watched

        profiles = [self.profiles[each] for each in watched(self.config)] if self.config else []
        return [profile for profile in profiles if not {*self.names_of(store)}.isdisjoint(profile.all_stores)]

    def pruning(self, store: KnownStore) -> Profile | None:
        """Returns the first profile that prunes a store."""
        names = {*self.names_of(store)}
        return next((each for each in self.profiles.values() if not names.isdisjoint(each.pruned)), None)

    def last_run(self, profile: str) -> Record | None:
        """Returns the record of the last run that took place."""
        return next((record for record in reversed(self.history(profile)) if record.outcome not in NO_RUNS), None)

    def last_success(self, profile: str) -> Record | None:
        """Returns the record of the last run that succeeded."""
        return next((record for record in reversed(self.history(profile)) if record.succeeded), None)

    def history(self, profile: str) -> list[Record]:
        """Returns the records of a profile's runs, the oldest first."""
        from pogfast import runs

        return [] if self.config is None else runs.history(profile, self.config.file)


class Configuration:
    """Reads the file when it has changed."""

    def __init__(self, file: str | None = None) -> None:
        """`file` is the path; None: the user's, else the system's."""
        self.file = file
        self._stamp: tuple[tuple[str, int], ...] | None = None
        self._seen = Seen()

    def read(self) -> Seen:
        """Returns the configuration. Problems of it are in the result."""
        from pogfast.config import examine, find

        try:
            file = self.file or find()
        except UsageError:
            return Seen()
        if self._stamp is None or self._stamp != self._times(
            [file, *(self._seen.config.files if self._seen.config else [])]
        ):
            self._seen = Seen(*examine(file))
            assert self._seen.config is not None
            self._stamp = self._times([file, *self._seen.config.files])
        return self._seen

    @property
    def path(self) -> str:
        """The file, or where the user's would be. Raises UsageError if there is no such place."""
        if self.file:
            return self.file
        from pogfast.config import find

        try:
            return find()
        except UsageError:
            if not (directory := config_directory()):
                raise
            return os.path.join(directory, "pogfast.toml")

    def add_store(self, name: str, address: str) -> None:
        """Writes a store into the file. Raises UsageError, also for a name that is there, and OSError."""
        seen = self.read()
        if seen.config is not None and name in seen.config.stores:
            raise UsageError(f"{self.path} has a store {name} already")
        self._edit("stores", name, {"address": address})

    def add_profile(self, name: str, settings: Mapping[str, Any], stores: Mapping[str, str]) -> None:
        """Writes a profile into the file, and those of its stores (name -> address) that are not there. Raises as
        `add_store`."""
        seen = self.read()
        if name in seen.profiles:
            raise UsageError(f"{self.path} has a profile {name} already", hint="profiles are changed in the file")
        for store, address in stores.items():
            if seen.config is None or store not in seen.config.stores:
                self._edit("stores", store, {"address": address})
        self._edit("profiles", name, settings)

    def _edit(self, section: Section, name: str, settings: Mapping[str, Any]) -> None:
        from pogfast.config.writing import edit

        path = self.path
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        edit(path, section, name, settings)

    @staticmethod
    def _times(files: Sequence[str]) -> tuple[tuple[str, int], ...]:
        return tuple((file, os.stat(file).st_mtime_ns) for file in files if os.path.exists(file))


def verdict_of_run(record: Record) -> Verdict:
    """Returns what the end of a run says."""
    words = {"success": "Success", "incomplete": "Incomplete", "interrupted": "Interrupted"}.get(
        record.outcome, "Failed"
    )
    return Verdict(MOODS.get(record.outcome, "bad"), words, record.message)


def ended_at(record: Record) -> datetime | None:
    """Returns when a run ended, or at least began."""
    for text in (record.end, record.start):
        try:
            return datetime.fromisoformat(text).astimezone()
        except (ValueError, OverflowError):
            continue
    return None


def after_runs(
    verdict: Verdict, names: Sequence[str], records: Sequence[Record], manifests: Sequence[Stored], late: Sequence[str]
) -> Verdict:
    """Returns the verdict of a store, by its names in the configuration, with what its last runs say: a failure
    counts, so does an archive that a run made last and that is not there, and then why profiles are late."""
    if verdict.mood == "bad":
        return verdict
    there = {stored.name for stored in manifests}
    for record in records:
        of = f"the last run of {record.profile}"
        gone = [last for name in names for last in record.archives.get(name, [])[-1:] if last not in there]
        if gone:
            return Verdict("bad", "Archive gone", f"{of} made {gone[0]}, which is not there")
        if record.outcome not in ("success", "incomplete"):
            stopped = record.outcome == "interrupted"
            why = f"{of} {'was interrupted' if stopped else 'failed'}"
            why += f": {record.message}" if record.message else ""
            return Verdict("warn" if stopped else "bad", "Last run failed", why)
    if late:
        return Verdict("warn", "Late", "; ".join(late))
    incomplete = [record.profile for record in records if record.outcome == "incomplete"]
    if incomplete and verdict.mood == "good":
        why = f"the last run of {incomplete[0]} left something out"
        return Verdict("warn", "Protected, with warnings", why)
    return verdict

"""Restores what is no file: symbolic links, FIFOs and directories.

run.py restores files and hard links before. Links come after files, so that nothing is written through them;
directories get their metadata last, when nothing is written into them any more.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable
from typing import Any

from pogfast.errors import CorruptManifest, PogfastError, StoreError
from pogfast.files.directories import Directories
from pogfast.files.metadata import SET_ID, is_other_metadata
from pogfast.files.paths import basename, parent_of
from pogfast.recovery.batches import Outcome, cannot_write
from pogfast.recovery.destination import Destination
from pogfast.recovery.options import Options
from pogfast.recovery.plan import Place, Plan
from pogfast.recovery.report import Reporter


class Special:
    """Restores the links, FIFOs and directories of a plan."""

    def __init__(
        self, plan: Plan, directories: Directories, options: Options, destination: Destination, reporter: Reporter
    ) -> None:
        self.plan = plan
        self.directories = directories
        self.options = options
        self.destination = destination
        self.reporter = reporter
        self.summary = reporter.summary

    def restore_links_and_fifos(self) -> None:
        for place in self.plan.places["link"]:
            self.summary.links += self._restore(place, self._link)
        for place in self.plan.places["fifo"]:
            self.summary.fifos += self._restore(place, self._fifo)

    def restore_directories(self) -> None:
        """Creates directories that do not exist, and sets the metadata of all, the deepest first: nothing is written
        any more.

        Those that were created only because they lead to something selected get theirs, too.
        """
        known, selected = self.plan.directories, self.plan.selected
        for place in _deepest_first(self.plan.places["directory"]):
            self.summary.directories += self._restore(place, self._directory)
        parents = [path for path in self.directories.incomplete if path in known and path not in selected]
        for place in _deepest_first(Place(-1, known[path], path) for path in parents):
            self._restore(place, self._parent)
        if self.plan.top is not None:
            self._restore(self.plan.top, self._parent)

    def _restore(self, place: Place, restore: Callable[[Place], Outcome | None]) -> bool:
        """Calls `restore` and reports the outcome or the problem. Returns True if something was restored."""
        self.directories.make_room()
        try:
            if place.problem:
                raise place.problem
            outcome = restore(place)
        except StoreError:
            raise
        except OSError as error:
            outcome = None
            self.reporter.problem(cannot_write(place.name, error.errno or 0), place.name)
        except PogfastError as error:
            outcome = None
            self.reporter.problem(error, place.name)
        if outcome:
            self.reporter.outcome(place, outcome)
        return outcome == "restored"

    def _link(self, place: Place) -> Outcome:
        facts = self.plan.facts["link"][place.name]
        target = facts.get("target") if isinstance(facts, dict) else None
        if not isinstance(target, str) or not _is_target(target):
            raise CorruptManifest(f"{place.name}: the target of the link is malformed")
        parent, leaf = parent_of(place.path), basename(place.path)

        def is_same(found: os.stat_result) -> bool:
            return stat.S_ISLNK(found.st_mode) and os.readlink(leaf, dir_fd=self.directories.find(parent)) == target

        return self._put(place, facts, is_same, lambda name, directory: os.symlink(target, name, dir_fd=directory))

    def _fifo(self, place: Place) -> Outcome:
        def make(name: str, directory: int) -> None:
            os.mkfifo(name, 0o600, dir_fd=directory)

        return self._put(place, self.plan.facts["fifo"][place.name], lambda found: stat.S_ISFIFO(found.st_mode), make)

    def _put(
        self,
        place: Place,
        facts: dict[str, Any],
        is_same: Callable[[os.stat_result], bool],
        make: Callable[[str, int], None],
    ) -> Outcome:
        """Creates a link or FIFO with `make`, unless what exists `is_same` or may not be replaced."""
        outcome = self.destination.decide(place, self.destination.existing(place), facts, is_same)
        if outcome:
            return outcome
        metadata = self.destination.metadata(place, facts)
        if not self.options.dry_run:
            replace = self.directories.look(place.path) is not None

            def finish(directory: int, name: str) -> None:
                self.destination.set_metadata(place, directory, name, metadata)

            self.directories.put(place.path, replace, make, finish)
        return "restored"

    def _directory(self, place: Place) -> Outcome | None:
        """Returns None if the directory existed. One whose whole name was stripped is not the target directory."""
        metadata = self.destination.metadata(place, self.plan.directory_facts[place.name], kept=SET_ID)
        if not place.path and place is not self.plan.top:
            return None
        if self.options.dry_run:
            return "restored" if self.directories.find(place.path) is None else None
        directory = self.directories.open(place.path)
        if place.path in self.directories.incomplete:
            self.destination.set_metadata(place, directory, ".", metadata)
        elif self.options.overwrite != "never" or self.options.delete:
            if is_other_metadata(directory, ".", os.fstat(directory), metadata):
                self.destination.set_metadata(place, directory, ".", metadata)
        else:  # adding a file to a directory changes its time
            self.summary.differing += is_other_metadata(
                directory, ".", os.fstat(directory), metadata._replace(times=None)
            )
        return "restored" if place.path in self.directories.made else None

    def _parent(self, place: Place) -> None:
        """Restores a directory that was not selected, so nothing is reported of it."""
        self._directory(place)


def _deepest_first(places: Iterable[Place]) -> list[Place]:
    return sorted(places, key=lambda place: place.path.count("/"), reverse=True)


def _is_target(text: str) -> bool:
    """Returns True if a link can have this target on this system."""
    try:
        return b"\0" not in os.fsencode(text) != b""
    except UnicodeEncodeError:
        return False

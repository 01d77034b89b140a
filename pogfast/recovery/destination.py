"""What already exists where entries are restored: whether it stays, is replaced, makes way or is deleted.

The rules of `overwrite`, `delete` and `set_id`, for entries of every kind. Nothing here reads blobs or creates entries.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from typing import Any

from pogfast.errors import TargetError
from pogfast.files.directories import Directories
from pogfast.files.metadata import (
    SET_ID,
    Metadata,
    is_other_metadata,
    is_other_owner,
    is_same_time,
    metadata_of,
    set_metadata,
    without_rights,
)
from pogfast.files.paths import basename, parent_of
from pogfast.manifest import Entry
from pogfast.recovery.batches import Outcome
from pogfast.recovery.options import Options
from pogfast.recovery.plan import Place, Plan
from pogfast.recovery.report import Reporter


class Destination:
    """The directory that is restored into, as this run finds it and may change it."""

    def __init__(self, plan: Plan, directories: Directories, options: Options, reporter: Reporter) -> None:
        self.plan = plan
        self.directories = directories
        self.options = options
        self.reporter = reporter
        self.removed: set[str] = set()  # paths that were deleted, or in a dry run would have been
        self.stripped = 0  # files and directories that were restored without privileges that the archive has

    def existing(self, place: Place) -> os.stat_result | None:
        """Returns what exists where something is to be restored. Raises TargetError and UnsafePath."""
        # A directory that this run created contains only what this run created: nothing of the user's is in the way.
        made = self.directories.made
        if place.path in self.removed or (parent_of(place.path) in made and place.path not in made):
            return None
        return self.directories.look(place.path)

    def decide(
        self,
        place: Place,
        found: os.stat_result | None,
        facts: Mapping[str, Any],
        is_same: Callable[[os.stat_result], bool],
    ) -> Outcome | None:
        """Returns None if something is to be restored, in place of `found` if that exists; else why it is not.
        Raises TargetError and UnsafePath."""
        if found is None:
            return None
        if stat.S_ISDIR(found.st_mode):
            self.make_way(place)
            return None
        if self.options.overwrite != "always" and is_same(found):
            return self._keep(place, found, facts)
        return "refused" if self.options.overwrite == "never" else None

    def _keep(self, place: Place, found: os.stat_result, facts: Mapping[str, Any]) -> Outcome | None:
        """Keeps what exists and gives it the metadata that it should have, unless nothing may be changed.

        Returns None if that takes a new file: what has other names may be another file of the archive, or lie outside,
        and these names would get the metadata, too."""
        metadata = self.metadata(place, facts, found)
        directory, leaf = self.directories.find(parent_of(place.path)), basename(place.path)
        if directory is None or not is_other_metadata(directory, leaf, found, metadata):
            return "unchanged"
        if self.options.overwrite == "never":
            return "differs"
        if found.st_nlink > 1:
            return None
        if not self.options.dry_run:
            self.set_metadata(place, self.directories.open(parent_of(place.path)), leaf, metadata, found)
        return "metadata"

    # ---- metadata ----

    def metadata(
        self, place: Place, facts: Mapping[str, Any], found: os.stat_result | None = None, kept: int = 0
    ) -> Metadata:
        """Returns the metadata to set. Without `set_id` it has only those set-id bits that are in `kept`, or that
        `found`, what exists already, has and may keep because its owner stays the same. Raises CorruptManifest."""
        metadata = self._archived_metadata(place, facts)
        if self.options.set_id:
            return metadata
        if found is not None and not is_other_owner(metadata, found):
            kept = found.st_mode & SET_ID
        safe = without_rights(metadata, kept)
        self.stripped += safe != metadata and (found is None or self.options.overwrite != "never")
        return safe

    def metadata_again(self, place: Place, facts: Mapping[str, Any]) -> Metadata:
        """Returns the metadata of a file that is restored already, and counted if it lost privileges."""
        metadata = self._archived_metadata(place, facts)
        return metadata if self.options.set_id else without_rights(metadata)

    def _archived_metadata(self, place: Place, facts: Mapping[str, Any]) -> Metadata:
        options = self.options
        return metadata_of(place.name, facts, numeric_owner=options.numeric_owner, no_owner=options.no_owner)

    def set_metadata(
        self, place: Place, directory: int, name: str, metadata: Metadata, found: os.stat_result | None = None
    ) -> None:
        """Sets the metadata of `name` in an open directory, and reports each part that could not be set."""
        for failed in set_metadata(directory, name, metadata, found):
            self.reporter.missed(f"{place.name}: {failed}")

    def report_stripped(self) -> None:
        """Warns if privileges that the archive has were left out."""
        if self.stripped:
            what = f"set-id bits or capabilities were left out ({self.stripped:,})"
            option = "--set-id --overwrite=if-changed"
            self.reporter.warn(f"{what}: {option} restores them, from an archive that you trust")

    # ---- removal ----

    def make_way(self, place: Place) -> None:
        """Removes a directory where something else is to be restored: an empty one, with `delete` also its contents.
        All of it, or nothing. Raises TargetError and UnsafePath."""
        problem = f"{place.name}: not restored, a directory is in its place"
        if self.options.overwrite == "never":
            raise TargetError(problem)
        if self.directories.is_mount(place.path):
            raise TargetError(problem, "it is another file system")
        extra = self._extra(place.path) if self.options.delete else []
        going = {path for path, _ in extra}
        try:
            if any(f"{place.path}/{leaf}" not in going for leaf in self.directories.names(place.path)):
                stays = "something in it has to stay" if self.options.delete else "--delete removes what is in it"
                raise TargetError(problem, f"it is not empty: {stays}")
            for path, is_directory in extra:
                self._delete(path, is_directory)
            if not self.options.dry_run:
                self.directories.remove(place.path, True)
        except OSError as error:
            raise TargetError(f"{problem}: {error.strerror}") from error
        self.removed.add(place.path)

    def delete_extra(self) -> None:
        """Deletes what lies below the selected directories and is not in the archive, unless it must stay."""
        for top in self.plan.tops():
            if self.plan.must_stay(top):
                continue
            for path, is_directory in self._extra(top):
                try:
                    self.directories.make_room()
                    self._delete(path, is_directory)
                except OSError as error:
                    problem = TargetError(f"{path}: cannot be deleted: {error.strerror}")
                    self.reporter.problem(problem, path)

    def _extra(self, top: str) -> list[tuple[str, bool]]:
        """Returns (path, is it a directory) of what is to be deleted below a directory, the deepest first."""
        found = self.directories.others(top, self.plan.kept, self.plan.must_stay, self.reporter.warn)
        return [(path, is_directory) for path, is_directory in found if path not in self.removed]

    def _delete(self, path: str, is_directory: bool) -> None:
        """Deletes a path, unless this is a dry run. Raises OSError, UnsafePath and TargetError."""
        if not self.options.dry_run:
            self.directories.remove(path, is_directory)
        self.removed.add(path)
        self.reporter.deleted(path)


def is_same_file(entry: Entry, found: os.stat_result) -> bool:
    """Returns True if a file has an entry's size, where the archive knows it, and its mtime, as far as the file system
    keeps it."""
    if not stat.S_ISREG(found.st_mode) or entry.size not in (None, found.st_size):
        return False
    return is_same_time(found.st_mtime_ns, entry.mtime_ns)

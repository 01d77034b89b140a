"""Files with several names: one of them is restored from its blobs, or exists already; the others are linked to it.

Where the file system cannot link, or the content differs, a file is restored from its blobs like any other.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator

from pogfast.errors import CorruptManifest, PogfastError, StoreError
from pogfast.files.directories import Directories
from pogfast.files.paths import basename, parent_of
from pogfast.recovery.batches import Outcome
from pogfast.recovery.destination import Destination, is_same_file
from pogfast.recovery.options import Options
from pogfast.recovery.plan import Place, Plan


class HardLinks:
    """Decides which files become hard links, and creates them.

    The first file of an inode is the one that the archive names in its other names' entries.
    """

    def __init__(self, plan: Plan, directories: Directories, options: Options, destination: Destination) -> None:
        self.plan = plan
        self.entries = plan.entries
        self.directories = directories
        self.options = options
        self.destination = destination
        # Archived name of the first file of an inode -> the path that its other names are linked to.
        self._sources: dict[str, str] = {}
        self._awaited: set[str] = set()  # these paths
        self._complete: set[str] = set()  # those of them that exist with their content
        self._absent: set[str] = set()  # directories that do not exist when the run begins

    def sort(self) -> tuple[list[Place], list[Place]]:
        """Returns (files to restore from their blobs, hard links to one of these or to a file that exists).

        Of the files of an inode the first is restored, or a later one if it exists already; the others become links.
        All of them do if another name exists, as the archive has it, that is not selected.
        """
        files, groups = self._grouped()
        selected = {place.name: place for place in files if not place.problem}
        unselected = self._unselected(selected.keys() | groups.keys())
        for name in unselected:
            groups.setdefault(name, [])
        hard_links: list[Place] = []
        for name, group in groups.items():
            if name in selected:
                group.insert(0, selected[name])
            source = self._source(name, group, unselected.get(name, ()))
            hard_links += [place for place in group if place is not source]
            if source is not None and source is not selected.get(name):
                files.append(source)
        linked = {place.name for place in hard_links}
        self._awaited = set(self._sources.values())
        return [place for place in files if place.name not in linked], hard_links

    def _grouped(self) -> tuple[list[Place], dict[str, list[Place]]]:
        """Returns the files that are no hard links, and the others by the name of the first file of their inode."""
        files: list[Place] = []
        groups: dict[str, list[Place]] = {}
        for place in self.plan.places["file"]:
            if self._is_hard_link(place):
                groups.setdefault(place.first, []).append(place)
            else:
                files.append(place)
        return files, groups

    def _source(self, name: str, group: list[Place], unselected: Iterable[Place]) -> Place | None:
        """Chooses what the files of an inode are linked to. Returns the one of `group` that is restored from its blobs,
        or None if an unselected name exists: then all become links to that."""
        existing = next(filter(self._exists, unselected), None)
        if existing:
            self._sources[name] = existing.path
            self._complete.add(existing.path)
            return None
        source = group[0] if self.options.overwrite == "always" else next(filter(self._exists, group), group[0])
        self._sources[name] = source.path
        return source

    def _unselected(self, firsts: Collection[str]) -> dict[str, list[Place]]:
        """Returns, for first files of inodes, names of these that are not selected but may exist all the same."""
        found: dict[str, list[Place]] = {}
        if self.plan.choice.everything or not self.directories.names(""):
            return found
        for place in self.plan.other_files():
            first = place.first if self._is_hard_link(place) else place.name
            if first in firsts and place.path not in self.plan.things:
                found.setdefault(first, []).append(place)
        return found

    def _is_hard_link(self, place: Place) -> bool:
        """Returns True if a file is a further name of one that the archive has, with the same content."""
        if place.problem or not place.first or place.first not in self.entries:
            return False
        try:
            first = self.entries[place.first]
            return first.blobs == self.entries[place.name].blobs and "hardlink" not in first.more
        except CorruptManifest:  # reported when that file is restored
            return False

    def _exists(self, place: Place) -> bool:
        """Returns True if a file exists as the archive has it."""
        parent = parent_of(place.path)
        if parent in self._absent:
            return False
        self.directories.make_room()
        try:
            if self.directories.find(parent) is None:
                self._absent.add(parent)
                return False
            found = self.directories.look(place.path)
            return found is not None and is_same_file(self.entries[place.name], found)
        except PogfastError:
            return False

    def completed(self, place: Place) -> None:
        """Notes that a file has its content, so that others can be linked to it."""
        if place.path in self._awaited:
            self._complete.add(place.path)

    def link(self, places: Iterable[Place]) -> Iterator[tuple[Place, Outcome | PogfastError | None]]:
        """Links files. Yields the outcome of each, or None if it has to be restored from its blobs."""
        for place in places:
            self.directories.make_room()
            try:
                result: Outcome | PogfastError | None = self._link(place)
            except StoreError:
                raise
            except PogfastError as error:
                result = error
            yield place, result

    def _link(self, place: Place) -> Outcome | None:
        """Links one file. Returns None if it cannot be a link."""
        entry = self.entries[place.name]
        path = self._sources[place.first or place.name]
        if path not in self._complete:
            return None
        source, found = self.directories.look(path), self.destination.existing(place)
        is_linked = source is not None and found is not None and os.path.samestat(source, found)
        if is_linked and self.options.overwrite != "always":
            return "unchanged"
        outcome = self.destination.decide(place, found, entry.more, lambda it: is_same_file(entry, it))
        if outcome and (outcome == "refused" or self.options.overwrite == "never"):
            return outcome
        if self.options.dry_run:
            return "restored"
        if source is None:
            return outcome
        if is_linked:
            return "unchanged"

        def make(name: str, directory: int) -> None:
            at = self.directories.open(parent_of(path))
            os.link(basename(path), name, src_dir_fd=at, dst_dir_fd=directory, follow_symlinks=False)

        try:
            replace = self.directories.look(place.path) is not None
            self.directories.put(place.path, replace, make, lambda directory, name: None)
        except OSError:
            return outcome  # the file system has no hard links, or allows no more of this file
        return "restored"

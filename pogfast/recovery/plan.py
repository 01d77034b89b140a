"""Which entries of an archive are restored, and to which paths.

Names and patterns select archived names, which become paths below the target directory, with leading parts stripped.
Reads neither the disk nor blobs.
"""

from __future__ import annotations

import contextlib
import functools
from collections import ChainMap
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import chain
from typing import Any, NamedTuple, Protocol

from pogfast.archives.selection import Choice
from pogfast.archives.trailer import SECTIONS, TOP, Kind, Trailer
from pogfast.errors import CorruptManifest, NoSuchEntry, PogfastError, UnsafePath, UsageError
from pogfast.files.paths import ancestors, normal_path, safe_path
from pogfast.manifest import Entry, outline


class Contents(Protocol):
    """The parts of an opened archive that a plan needs."""

    @property
    def entries(self) -> Mapping[str, Entry]: ...

    @property
    def trailer(self) -> Mapping[str, Any] | None: ...


class Place(NamedTuple):
    """An entry of the archive, and the path that it is restored to."""

    number: int  # its position in the archive
    name: str
    path: str  # below the target directory
    size: int = 0  # uncompressed bytes, if the archive knows them
    first: str = ""  # of a hard link: the archived name of the first file of its inode
    problem: PogfastError | None = None  # why it cannot be restored there


def superseded(place: Place) -> Place:
    """Returns the place with the problem that a later entry has the same path."""
    reason = f"{place.name}: not restored, a later entry of the archive has the same path"
    return place._replace(problem=UnsafePath(reason))


class Plan:
    """The selected entries of an archive by kind, in its order, each with its path.

    If several different entries have the same path, the last one is restored. Raises CorruptManifest if the trailer is
    malformed, and UsageError for a wrong pattern.
    """

    def __init__(
        self, opened: Contents, names: Collection[str], exclude: Collection[str], strip_components: int
    ) -> None:
        trailer = Trailer(opened.trailer)
        self.entries = opened.entries
        self.facts = {kind: trailer.required(key) for kind, key in SECTIONS.items()}
        self.choice = Choice(names, exclude, (normal_path(name) for _, name in self._all()))
        self.strip = strip_components
        self.prefixes: set[str] = set()  # leading parts that were stripped
        self.vanished = 0  # files, links and FIFOs of whose names nothing was left
        self.places: dict[Kind, list[Place]] = {"file": [], "directory": [], "link": [], "fifo": []}
        self._fill()
        self.parents = trailer.required("parents")
        top = (opened.trailer or {}).get("top")
        # The target directory itself, if an archive of `.` or `/` is restored completely.
        self.top = Place(-1, TOP, "") if top is not None and not strip_components and "" in self.choice.exact else None
        self.directory_facts = ChainMap({TOP: top}, self.facts["directory"], self.parents)
        self.directories = self._known_directories()
        self.selected = {place.path for place in self.places["directory"] if place.problem is None}
        if self.top is not None:
            self.selected.add("")
            self.prefixes.add("")
        self.not_read = _suffixes([*trailer.required("unreadable"), *trailer.required("skipped")])

    def _all(self) -> Iterator[tuple[Kind, str]]:
        """Yields (kind, archived name) of each entry."""
        for name in self.entries:
            yield "file", name
        for kind, facts in self.facts.items():
            for name in facts:
                yield kind, name

    def _fill(self) -> None:
        last: dict[str, int] = {}
        for number, (kind, name) in enumerate(self._all()):
            if not self.choice.picks(normal_path(name)):
                continue
            try:
                path = self.target(name, kind)
            except UnsafePath as error:
                self.places[kind].append(Place(number, name, "", problem=error))
                continue
            if path is None:
                self.vanished += kind != "directory"
                continue
            self.prefixes.add(self._prefix(name, path) if self.strip else "")
            self.places[kind].append(self._placed(number, kind, name, path))
            last[path] = number
        if len(last) < sum(map(len, self.places.values())):
            self._keep_last(last)

    def _placed(self, number: int, kind: Kind, name: str, path: str) -> Place:
        if kind != "file":
            return Place(number, name, path)
        try:
            size, first = outline(self.entries, name)
            return Place(number, name, path, size or 0, first)
        except CorruptManifest as error:
            return Place(number, name, path, problem=error)

    def other_files(self) -> Iterator[Place]:
        """Yields the files that are not selected, with the paths that they would have."""
        for number, name in enumerate(self.entries):
            if not self.choice.picks(normal_path(name)):
                with contextlib.suppress(UnsafePath):
                    path = self.target(name, "file")
                    if path is not None:
                        yield self._placed(number, "file", name, path)

    def _keep_last(self, last: Mapping[str, int]) -> None:
        """Keeps the last entry of each path. Earlier ones are dropped if they are the same, and else a problem."""
        things = {place.number: (kind, place.name) for kind, places in self.places.items() for place in places}
        for kind, places in self.places.items():
            kept = []
            for place in places:
                if place.problem or place.number == last[place.path]:
                    kept.append(place)
                elif self._differ((kind, place.name), things[last[place.path]]):
                    kept.append(superseded(place))
            self.places[kind] = kept

    def _differ(self, one: tuple[Kind, str], other: tuple[Kind, str]) -> bool:
        kind = one[0]
        if kind != other[0] or kind == "directory":
            return kind != other[0]
        if kind == "file":
            try:
                return self.entries[one[1]].blobs != self.entries[other[1]].blobs
            except CorruptManifest:  # of the one that is kept, it is reported when that is restored
                return True
        return bool(self.facts[kind][one[1]] != self.facts[kind][other[1]])

    def target(self, name: str, kind: Kind) -> str | None:
        """Returns the path that an entry is restored to; None if nothing is left of its name. Raises UnsafePath."""
        path = safe_path(name)
        if not self.strip:
            return path
        parts = path.split("/")
        if len(parts) > self.strip or (len(parts) == self.strip and kind == "directory"):
            return "/".join(parts[self.strip :])
        return None

    def _prefix(self, name: str, path: str) -> str:
        full = normal_path(name)
        return full[: len(full) - len(path)].rstrip("/")

    def _known_directories(self) -> dict[str, str]:
        """Returns the archived name for the path of every directory whose metadata is in the archive, including parents
        of inputs. Directories whose parts are all stripped are left out: the target directory replaces them."""
        known: dict[str, str] = {}
        for name in chain(self.parents, self.facts["directory"]):
            parts = normal_path(name).split("/")
            if len(parts) > self.strip:
                known["/".join(parts[self.strip :])] = name
        known.update((place.path, place.name) for place in self.places["directory"])
        known.pop("", None)
        return known if self.top is None else {**known, "": TOP}

    def missing(self) -> list[NoSuchEntry]:
        """Returns a problem for each name and pattern that matched nothing."""
        return [NoSuchEntry(f"{name}: matches nothing in the archive", path=name) for name in self.choice.unmatched]

    # ---- what may be deleted ----

    def check_delete(self) -> None:
        """Raises UsageError if stripped names make it ambiguous which directory of the archive to compare with."""
        if len(self.prefixes) > 1:
            some = " and ".join(sorted(self.prefixes)[:2])
            raise UsageError(
                f"cannot delete with stripped names: different directories would be merged, such as {some}",
                hint="select one of them",
            )

    def tops(self) -> list[str]:
        """Returns the selected directories that are in no other selected one."""
        selected = self.selected
        return sorted(path for path in selected if not any(directory in selected for directory in ancestors(path)))

    @functools.cached_property
    def things(self) -> set[str]:
        """The paths of everything but directories."""
        return {place.path for kind, places in self.places.items() for place in places if kind != "directory"}

    @functools.cached_property
    def kept(self) -> set[str]:
        """All paths that belong to the archive."""
        kept = {""}
        for places in self.places.values():
            for place in places:
                kept.add(place.path)
                for path in ancestors(place.path):
                    if path in kept:
                        break
                    kept.add(path)
        return kept

    def must_stay(self, path: str) -> bool:
        """Returns True if a path must not be deleted although the archive does not have it: it is excluded, or could
        not be archived."""
        [prefix] = self.prefixes
        name = f"{prefix}/{path}".strip("/")
        return name in self.not_read or self.choice.excludes(name)


def _suffixes(paths: Iterable[str]) -> set[str]:
    """Returns the archived names that source paths may have: how many leading parts were left out is not known."""
    names: set[str] = set()
    for path in paths:
        parts = normal_path(path).split("/")
        names.update("/".join(parts[start:]) for start in range(len(parts)))
    return names

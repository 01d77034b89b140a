"""Which entries of an archive are restored, and the path of each.

Names and patterns select archived names; these become paths below the target directory, with leading parts stripped.
Nothing is looked at on the disk, and blobs play no part.
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
from pogfast.files.paths import ancestors, plain_path, safe_path
from pogfast.manifest import Entry, outline


class Contents(Protocol):
    """What is looked at of an opened archive."""

    @property
    def entries(self) -> Mapping[str, Entry]: ...

    @property
    def trailer(self) -> Mapping[str, Any] | None: ...


class Place(NamedTuple):
    """Something in an archive on its way."""

    number: int  # in the archive
    name: str
    path: str  # below the directory that is restored into
    size: int = 0  # plain bytes, where the archive knows them
    first: str = ""  # of a hard link: the archived name of the first file of its inode
    problem: PogfastError | None = None  # why it cannot go there


def superseded(place: Place) -> Place:
    reason = f"{place.name}: not restored, a later entry of the archive has the same path"
    return place._replace(problem=UnsafePath(reason))


class Plan:
    """The selected things of an archive by kind, in its order, each with its place.

    Of different things that would lie at one path the last is kept. Raises CorruptManifest when the trailer is
    malformed.
    """

    def __init__(
        self, opened: Contents, names: Collection[str], exclude: Collection[str], strip_components: int
    ) -> None:
        trailer = Trailer(opened.trailer)
        self.entries = opened.entries
        self.facts = {kind: trailer.required(key) for kind, key in SECTIONS.items()}
        self.choice = Choice(names, exclude, (plain_path(name) for _, name in self._all()))
        self.strip = strip_components
        self.prefixes: set[str] = set()  # what was stripped
        self.vanished = 0  # files, links and FIFOs of which nothing was left
        self.places: dict[Kind, list[Place]] = {"file": [], "directory": [], "link": [], "fifo": []}
        self._fill()
        self.parents = trailer.required("parents")
        top = (opened.trailer or {}).get("top")
        # The directory that is restored into, where all of an archive of one directory goes there.
        self.top = Place(-1, TOP, "") if top is not None and not strip_components and "" in self.choice.exact else None
        self.directory_facts = ChainMap({TOP: top}, self.facts["directory"], self.parents)
        self.directories = self._known_directories()
        self.selected = {place.path for place in self.places["directory"] if place.problem is None}
        if self.top is not None:
            self.selected.add("")
            self.prefixes.add("")
        self.not_read = _suffixes([*trailer.required("unreadable"), *trailer.required("skipped")])

    def _all(self) -> Iterator[tuple[Kind, str]]:
        for name in self.entries:
            yield "file", name
        for kind, facts in self.facts.items():
            for name in facts:
                yield kind, name

    def _fill(self) -> None:
        last: dict[str, int] = {}
        for number, (kind, name) in enumerate(self._all()):
            if not self.choice.picks(plain_path(name)):
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
        """The files that are not selected, each where it would go."""
        for number, name in enumerate(self.entries):
            if not self.choice.picks(plain_path(name)):
                with contextlib.suppress(UnsafePath):
                    path = self.target(name, "file")
                    if path is not None:
                        yield self._placed(number, "file", name, path)

    def _keep_last(self, last: Mapping[str, int]) -> None:
        """Of what lies at one path the last stays; what is the same is passed over, what is not becomes a problem."""
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
            except CorruptManifest:  # of the one that is kept it is told when it is its turn
                return True
        return bool(self.facts[kind][one[1]] != self.facts[kind][other[1]])

    def target(self, name: str, kind: Kind) -> str | None:
        """The path where something goes; None when nothing is left of it. Raises UnsafePath."""
        path = safe_path(name)
        if not self.strip:
            return path
        parts = path.split("/")
        if len(parts) > self.strip or (len(parts) == self.strip and kind == "directory"):
            return "/".join(parts[self.strip :])
        return None

    def _prefix(self, name: str, path: str) -> str:
        full = plain_path(name)
        return full[: len(full) - len(path)].rstrip("/")

    def _known_directories(self) -> dict[str, str]:
        """Path -> archived name of every directory that the archive tells of, also of those that are only on the way. A
        directory whose parts are all stripped is not told of: another one takes its place."""
        known: dict[str, str] = {}
        for name in chain(self.parents, self.facts["directory"]):
            parts = plain_path(name).split("/")
            if len(parts) > self.strip:
                known["/".join(parts[self.strip :])] = name
        known.update((place.path, place.name) for place in self.places["directory"])
        known.pop("", None)
        return known if self.top is None else {**known, "": TOP}

    def missing(self) -> list[NoSuchEntry]:
        """A problem for each name and pattern that matched nothing."""
        return [NoSuchEntry(f"{name}: no such file in the archive", path=name) for name in self.choice.unmatched]

    # ---- what may be deleted ----

    def check_delete(self) -> None:
        """Raises UsageError where it would not be clear what lies in the directory but not in the archive."""
        if len(self.prefixes) > 1:
            some = " and ".join(sorted(self.prefixes)[:2])
            raise UsageError(
                f"cannot delete with stripped names: different directories would become one, as {some}",
                hint="select one of them",
            )

    def tops(self) -> list[str]:
        """The selected directories that are in no other."""
        selected = self.selected
        return sorted(path for path in selected if not any(directory in selected for directory in ancestors(path)))

    @functools.cached_property
    def things(self) -> set[str]:
        """The paths of what is no directory."""
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
        """Whether something is kept although the archive does not have it: it is excluded, or could not be archived."""
        [prefix] = self.prefixes
        name = f"{prefix}/{path}".strip("/")
        return name in self.not_read or self.choice.excludes(name)


def _suffixes(paths: Iterable[str]) -> set[str]:
    """The archived names that paths of a source may have had: a directory to start from is not in them."""
    names: set[str] = set()
    for path in paths:
        parts = plain_path(path).split("/")
        names.update("/".join(parts[start:]) for start in range(len(parts)))
    return names

"""Which entries of an archive the names and patterns of a command line select.

Text only: nothing here reads an archive or the disk.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from pogfast.files.paths import ancestors, normal_path, parent_of
from pogfast.files.patterns import Patterns


class Choice:
    """Selects by `names` (none: everything) from an archive that holds `paths`, except what `exclude` matches.

    A name that is a path of the archive, or a directory above one, selects that and everything below. Any other name is
    a pattern, by restic's rules. Everything below an excluded directory is excluded, since create does not look into
    it. Raises UsageError for an invalid pattern.
    """

    def __init__(self, names: Collection[str], exclude: Collection[str], paths: Iterable[str]) -> None:
        given = {name: normal_path(name) for name in names}
        self.exact = _found(set(given.values()), paths) if given else {""}
        self.patterns = {name: Patterns([name]) for name, path in given.items() if path not in self.exact}
        self.unmatched = dict.fromkeys(self.patterns)
        self.excluding = Patterns(list(exclude))
        self.everything = not given and not self.excluding
        self.chosen = {"": "" in self.exact}
        self.excluded = {"": False}

    def picks(self, path: str) -> bool:
        """Returns True if a path is selected."""
        if self.everything:
            return True
        inside = _inherited(self.chosen, parent_of(path), self._matches)
        return (self._matches(path) or inside) and not self.excludes(path)

    def excludes(self, path: str) -> bool:
        """Returns True if a path or a directory above it is excluded."""
        matches = self.excluding.matches
        return bool(self.excluding) and (matches(path) or _inherited(self.excluded, parent_of(path), matches))

    def _matches(self, path: str) -> bool:
        found = path in self.exact
        for name, pattern in self.patterns.items():
            if pattern.matches(path):
                found = True
                self.unmatched.pop(name, None)
        return found


def _found(wanted: set[str], paths: Iterable[str]) -> set[str]:
    """Returns the wanted names that are paths, or directories above paths."""
    found: set[str] = set()
    directories: set[str] = set()
    for path in paths:
        if path in wanted:
            found.add(path)
        for directory in ancestors(path):
            if directory in directories:
                break
            directories.add(directory)
    return found | (directories & wanted)


def _inherited(known: dict[str, bool], directory: str, matches: Callable[[str], bool]) -> bool:
    """Returns True if a directory or one above it matches. Each is matched once; `known` keeps the results."""
    asked = []
    while directory not in known:
        asked.append(directory)
        directory = parent_of(directory)
    found = known[directory]
    for path in reversed(asked):
        found = known[path] = matches(path) or found
    return found

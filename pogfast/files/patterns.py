"""restic's pattern rules: which names do a list of patterns mean?

Patterns go in as they are written on a command line and come out as a few regular expressions; names are absolute paths
or archived names, in text with surrogate escapes. Knows no file system, and not what becomes of a name that matches.
Where the rules come from: restic's manual ("Excluding Files") and Go's `filepath.Match`, which it refers to. No library
reads these: wcmatch and fnmatch take `[!a]` for `[^a]`, `[a` and `[]a]` for names; fnmatch has no `**` and no escapes.
One thing is mended: of several `**` restic lets only the last stand for nothing in some places; here each may in all.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

from pogfast.errors import UsageError
from pogfast.system.encoding import portable

# What one component is made of. A class is never empty, `]` and `-` stand in it with a backslash only, and a backslash
# takes the sign of what follows. Where none of these fits, the pattern is wrong.
TOKEN = re.compile(
    r"""(?P<stars> \*+ )
      | (?P<one> \? )
      | \[ (?P<negated> \^?+ ) (?P<ranges> (?: (?: \\. | [^]\\-] ) (?: - (?: \\. | [^]\\-] ) )? )+ ) \]
      | \\ (?P<escaped> . )
      | (?P<plain> [^*?\[\\]+ )""",
    re.DOTALL | re.VERBOSE,
)
RANGE = re.compile(r"\\?(.)(?:-\\?(.))?", re.DOTALL)
WILD = re.compile(r"[*?\[\\]")
COMPONENT_ENDS = "(?![^/])"


class Patterns:
    """Patterns, compiled once. Raises UsageError that names a pattern which cannot be read.

    `*`, `?`, `[a-z]`, `[^a-z]` and `\\x` stand for characters of one component, `**` for any number of components.
    A pattern matches whole components, at any depth unless it begins with `/`, and what it matches includes all that
    lies below. `!` in front takes back what patterns before it matched: the last that matches decides. A `/` at the
    end says nothing. Empty patterns are passed over. `ignore_case` compares in lower case, as restic does.
    """

    def __init__(self, patterns: Sequence[str], *, ignore_case: bool = False) -> None:
        self._ignore_case = ignore_case
        # What decides stands first: the last patterns. Those of one sign are tried in one go.
        self._tests: list[tuple[bool, Callable[[str], re.Match[str] | None]]] = []
        parsed = [_parse(portable(pattern), ignore_case) for pattern in reversed(patterns) if pattern]
        for verdict, group in groupby(parsed, key=lambda one: one[0]):
            self._tests += [(verdict, test) for test in _compile([(anchored, text) for _, anchored, text in group])]

    def __bool__(self) -> bool:
        """Whether there are any patterns, so that asking for a name makes sense."""
        return bool(self._tests)

    def matches(self, name: str) -> bool:
        """Whether the patterns mean `name`: an absolute path, or an archived name, which counts as one below `/`."""
        if name[:1] != "/":
            name = f"/{name}"
        name = portable(name)
        if self._ignore_case:
            name = name.lower()
        for verdict, test in self._tests:
            if test(name):
                return verdict
        return False


def is_wild(component: str) -> bool:
    """Whether a component is more than the name it spells."""
    return WILD.search(component) is not None


def translate(component: str) -> str:
    """The regular expression of one component, without what ends it. Raises UsageError."""
    runs = [""]  # what stands between the stars
    at = 0
    while at < len(component):
        token = TOKEN.match(component, at)
        if token is None:
            raise UsageError(
                f"not a pattern: {component}",
                hint=r"a [ needs its ], a \ what it stands before; \[ and \\ are the characters themselves",
            )
        if token["stars"]:
            runs.append("")
        else:
            runs[-1] += _characters(token)
        at = token.end()
    if len(runs) == 1:
        return runs[0]
    # A run between two stars is best found as early as can be, so there is no way back into it: linear time.
    return runs[0] + "".join(f"(?>[^/]*?{run})" for run in runs[1:-1]) + f"[^/]*{runs[-1]}"


def _characters(token: re.Match[str]) -> str:
    """A token as a regular expression that never takes a `/`."""
    if token["one"]:
        return "[^/]"
    if not token["ranges"]:
        return re.escape(token["plain"] or token["escaped"])
    pairs = [(first, last or first) for first, last in RANGE.findall(token["ranges"])]
    ranges = "".join(f"{re.escape(first)}-{re.escape(last)}" for first, last in pairs if first <= last)
    if token["negated"]:
        return f"[^/{ranges}]"
    return f"(?!/)[{ranges}]" if ranges else "(?!)"


def _parse(pattern: str, ignore_case: bool) -> tuple[bool, bool, str]:
    """Of one pattern: whether what it matches is meant, whether it begins at the root, its regular expression."""
    negated = pattern.startswith("!")
    text = pattern[negated:].lower() if ignore_case else pattern[negated:]
    anchored = text.startswith("/")
    clean = posixpath.normpath("/" + text.lstrip("/") if anchored else text)
    try:
        groups = list(_groups(part for part in clean.split("/") if part))
    except UsageError as error:
        raise UsageError(f"not a pattern: {pattern}", error.hint) from None
    # An empty group is a `**` at an end or beside another. At the end it adds nothing: what matches includes all below.
    anchored = anchored and (groups[0] != "" or not any(groups))
    first, *more = [group for group in groups if group] or [""]
    expression = first + COMPONENT_ENDS if first else ""
    expression += "".join(f"(?>(?:/[^/]++)*?{group}{COMPONENT_ENDS})" for group in more)
    return not negated, anchored, expression


def _groups(components: Iterator[str]) -> Iterator[str]:
    """The components between each `**`, as regular expressions that begin with `/` where they are not empty."""
    group = ""
    for component in components:
        if component == "**":
            yield group
            group = ""
        else:
            group += "/" + translate(component)
    yield group


def _compile(patterns: Sequence[tuple[bool, str]]) -> Iterator[Callable[[str], re.Match[str] | None]]:
    """One test of a name for the patterns that begin at the root, and one for those that begin anywhere."""
    for at_root in (True, False):
        texts = [text for anchored, text in patterns if anchored == at_root]
        if texts:
            # All begin with the same `/`, which the search can look for; one that is empty means everything.
            compiled = re.compile("/(?:" + "|".join(text[1:] for text in texts) + ")", re.DOTALL)
            yield compiled.match if at_root else compiled.search

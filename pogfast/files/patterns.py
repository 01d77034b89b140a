"""restic's pattern rules: which names does a list of patterns match?

Compiles patterns, as written on a command line, to a few regular expressions. Names are absolute paths or archived
names, as text with surrogate escapes. Accesses no file system, and does not know what a match is used for. The rules
are from restic's manual ("Excluding Files") and Go's `filepath.Match`, which it refers to. No library has them: wcmatch
and fnmatch read `[!a]` as `[^a]`, and `[a` and `[]a]` as names; fnmatch has no `**` and no escapes. One difference from
restic: if a pattern has several `**`, each may match nothing; restic allows that in some places for the last one only.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

from pogfast.errors import UsageError
from pogfast.system.encoding import portable

# The tokens of one component. A class is never empty, `]` and `-` need a backslash in it, and a backslash makes the
# next character literal. If no token matches, the pattern is invalid.
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
    """A list of compiled patterns. Raises UsageError, which names the invalid pattern.

    `*`, `?`, `[a-z]`, `[^a-z]` and `\\x` match characters of one component, `**` any number of components. A pattern
    matches whole components, at any depth unless it begins with `/`, and everything below a match matches, too. A
    leading `!` negates: the last pattern that matches decides. A trailing `/` has no meaning. Empty patterns are
    skipped. `ignore_case` compares in lower case, as restic does.
    """

    def __init__(self, patterns: Sequence[str], *, ignore_case: bool = False) -> None:
        self._ignore_case = ignore_case
        # The last patterns come first, since they decide. Adjacent ones with or without `!` are one expression.
        self._tests: list[tuple[bool, Callable[[str], re.Match[str] | None]]] = []
        parsed = [_parse(portable(pattern), ignore_case) for pattern in reversed(patterns) if pattern]
        for verdict, group in groupby(parsed, key=lambda one: one[0]):
            self._tests += [(verdict, test) for test in _compile([(anchored, text) for _, anchored, text in group])]

    def __bool__(self) -> bool:
        """Returns True if there are any patterns."""
        return bool(self._tests)

    def matches(self, name: str) -> bool:
        """Returns True if the patterns match `name`: an absolute path, or an archived name, which is taken as one below
        `/`."""
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
    """Returns True if a component has wildcards or escapes, and is no literal name."""
    return WILD.search(component) is not None


def translate(component: str) -> str:
    """Returns the regular expression of one component, without the end of the component. Raises UsageError."""
    runs = [""]  # the expressions between stars
    at = 0
    while at < len(component):
        token = TOKEN.match(component, at)
        if token is None:
            raise UsageError(
                f"not a pattern: {component}",
                hint=r"a [ needs its ], a \ needs a character after it; \[ and \\ are the characters themselves",
            )
        if token["stars"]:
            runs.append("")
        else:
            runs[-1] += _characters(token)
        at = token.end()
    if len(runs) == 1:
        return runs[0]
    # The first match of a run between two stars is as good as any, so atomic groups avoid backtracking: linear time.
    return runs[0] + "".join(f"(?>[^/]*?{run})" for run in runs[1:-1]) + f"[^/]*{runs[-1]}"


def _characters(token: re.Match[str]) -> str:
    """Returns a token as a regular expression that never matches a `/`."""
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
    """Returns of one pattern (False if it is negated, True if it is anchored at the root, its regular expression)."""
    negated = pattern.startswith("!")
    text = pattern[negated:].lower() if ignore_case else pattern[negated:]
    anchored = text.startswith("/")
    clean = posixpath.normpath("/" + text.lstrip("/") if anchored else text)
    try:
        groups = list(_groups(part for part in clean.split("/") if part))
    except UsageError as error:
        raise UsageError(f"not a pattern: {pattern}", error.hint) from None
    # An empty group is a `**` at an end or next to another. At the end it adds nothing: all below matches anyway.
    anchored = anchored and (groups[0] != "" or not any(groups))
    first, *more = [group for group in groups if group] or [""]
    expression = first + COMPONENT_ENDS if first else ""
    expression += "".join(f"(?>(?:/[^/]++)*?{group}{COMPONENT_ENDS})" for group in more)
    return not negated, anchored, expression


def _groups(components: Iterator[str]) -> Iterator[str]:
    """Yields the components between each `**` as regular expressions, which begin with `/` unless they are empty."""
    group = ""
    for component in components:
        if component == "**":
            yield group
            group = ""
        else:
            group += "/" + translate(component)
    yield group


def _compile(patterns: Sequence[tuple[bool, str]]) -> Iterator[Callable[[str], re.Match[str] | None]]:
    """Yields one test of a name for the anchored patterns, and one for the others."""
    for at_root in (True, False):
        texts = [text for anchored, text in patterns if anchored == at_root]
        if texts:
            # All begin with the same `/`, which the search can look for; an empty one matches everything.
            compiled = re.compile("/(?:" + "|".join(text[1:] for text in texts) + ")", re.DOTALL)
            yield compiled.match if at_root else compiled.search

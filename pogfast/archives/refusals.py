"""Archives that cannot be opened: one rule for all commands, and the messages.

Archives of another key are reported once, together, after all others; if the key opens none, that is WrongKey. A
damaged archive is reported by itself. prune needs all archives, so it stops, with a hint how to continue without one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from pogfast.errors import DamageError, OtherKey, PogfastError, WrongKey, without_frames
from pogfast.keys import Key
from pogfast.stores import is_partial, is_removed

Result = TypeVar("Result")

# How many names a message lists.
MAX_NAMES = 5

UNKNOWN = "what it needs is not known"
WITHOUT_IT = "`pogfast remove` it, and `pogfast prune --allow-missing` goes on without it"


def some_of(names: Sequence[str]) -> str:
    """Returns the first names, and how many more there are."""
    return ", ".join(
        [*names[:MAX_NAMES], *([f"{len(names) - MAX_NAMES} more"] if len(names) > MAX_NAMES else [])],
    )


def those_that_open(
    found: Iterable[tuple[str, Result | PogfastError]],
    problem: Callable[[str, PogfastError], None],
    *,
    others: int = 0,
) -> Iterator[tuple[str, Result]]:
    """Yields the archives of a store that open, from pairs (manifest's name, content or error).

    Calls `problem` with the manifest's name and the error of each that does not, but once for all archives of another
    key: at the end, with OtherKey and no name. Raises WrongKey instead if there is nothing else: no archive that opens,
    no other error, and `others`, those that the caller has found elsewhere, is 0.
    """
    refused: list[str] = []
    first: WrongKey | None = None
    for name, content in found:
        if isinstance(content, WrongKey):
            refused.append(name)
            first = first or without_frames(content)
            continue
        others += 1
        if isinstance(content, PogfastError):
            problem(name, content)
        else:
            yield name, content
        del content  # the next one is fetched before the loop replaces it
    if first and not others:
        raise first
    if first:
        text = f"some archives need another key, or their headers are damaged: {some_of(refused)}"
        problem("", OtherKey(text, hint="use the key that they were created with"))


def hint_for_prune(name: str, error: PogfastError) -> str:
    """Returns a hint how to prune a store with a manifest that cannot be read: prune must not delete what its archive
    needs."""
    if is_removed(name):
        return (
            "what this removed archive needs is not known: `pogfast prune --allow-missing` goes on without it, and "
            "deletes it a grace period later"
        )
    if is_partial(name):
        return (
            "what this unfinished backup needs is not known: run it again to its end, or delete this file; prune "
            "ignores it when it is 7 days old"
        )
    if isinstance(error, DamageError):
        return f"{UNKNOWN}: take it from another store; or {WITHOUT_IT}"
    if isinstance(error, WrongKey):
        return f"{UNKNOWN}: `pogfast copy` the archives of this key into another store; or {WITHOUT_IT}"
    return UNKNOWN


def require_decryption(key: Key, cannot: str, hint: str = "use --decryption-keyfile") -> None:
    """Raises WrongKey if the key is a public one; `cannot` says what it cannot do."""
    if not key.can_open:
        raise WrongKey(f"a public key alone cannot {cannot}", hint=hint)

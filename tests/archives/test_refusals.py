"""Archives that do not open: what is reported, and when it is a wrong key."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from weakref import WeakSet

import pytest

from pogfast.archives.refusals import hint_for_prune, those_that_open
from pogfast.errors import CorruptManifest, OtherKey, PogfastError, StoreError, WrongKey, worst_code

REFUSED = [("b.mfn", WrongKey("b")), ("c.mfn", WrongKey("c"))]


def opened(found: Iterable[tuple[str, int | PogfastError]], others: int = 0) -> tuple[list[str], list[tuple[str, str]]]:
    """Returns (names of what opens, (name, class of the error) of each report)."""
    reports: list[tuple[str, str]] = []
    content = those_that_open(found, lambda name, error: reports.append((name, type(error).__name__)), others=others)
    return [name for name, _ in content], reports


def test_archives_of_another_key_are_reported_once_and_last() -> None:
    assert opened([REFUSED[0], ("a.mfn", 1), ("d.mfn", CorruptManifest("d")), REFUSED[1]]) == (
        ["a.mfn"],
        [("d.mfn", "CorruptManifest"), ("", "OtherKey")],
    )


def test_a_key_that_opens_nothing_is_wrong() -> None:
    with pytest.raises(WrongKey, match=r"^b$"):
        opened([*REFUSED])
    assert opened([]) == ([], [])


@pytest.mark.parametrize("error", [CorruptManifest("d"), StoreError("d")])
def test_a_key_is_not_wrong_if_another_archive_cannot_be_read(error: PogfastError) -> None:
    assert opened([*REFUSED, ("d.mfn", error)])[1] == [("d.mfn", type(error).__name__), ("", "OtherKey")]
    assert opened([*REFUSED], others=1)[1] == [("", "OtherKey")]


def test_what_does_not_open_is_not_kept_in_memory() -> None:
    """The frames of an error hold the bytes of its manifest."""

    def found() -> Iterator[tuple[str, PogfastError]]:
        for number in range(5):
            content = Content(f"manifest {number}")
            alive.add(content)
            try:
                try:
                    raise WrongKey("first") if content else AssertionError
                except WrongKey:
                    raise WrongKey("again") if content else AssertionError  # noqa: B904
            except PogfastError as error:
                del content
                yield "b.mfn", error
            most.append(len(alive))

    class Content(str):
        pass

    alive: WeakSet[Content] = WeakSet()
    most: list[int] = []
    with pytest.raises(WrongKey) as raised:
        opened(found())
    gc.collect()
    assert raised.value.__context__ is raised.value.__cause__ is None
    assert len(alive) <= 1
    assert len(most) == 5


def test_a_prune_is_told_what_to_do() -> None:
    assert "another store; or `pogfast remove`" in hint_for_prune("a.mfn", CorruptManifest("a"))
    assert "`pogfast copy`" in hint_for_prune("a.mfn", WrongKey("a"))
    assert "--allow-missing" in hint_for_prune("a.mfn.removed", WrongKey("a"))
    assert "run it again to its end, or delete this file" in hint_for_prune("a.mfn.partial", WrongKey("a"))
    assert hint_for_prune("a.mfn", StoreError("a")) == "what it needs is not known"


def test_damage_gives_the_exit_code_and_else_the_highest_one() -> None:
    assert worst_code([]) == 0
    assert worst_code([StoreError.exit_code, OtherKey.exit_code]) == OtherKey.exit_code
    assert worst_code([WrongKey.exit_code, CorruptManifest.exit_code, StoreError.exit_code]) == 4

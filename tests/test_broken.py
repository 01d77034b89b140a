"""The kit of broken archives, tests/vectors/broken: our reader says of each what it must."""

from __future__ import annotations

import base64
import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import pytest

from kit.commands import Runner
from kit.paths import VECTORS
from pogfast import keys
from pogfast.errors import DamageError, MissingBlob, PogfastError, UnsafePath, WrongBlob, WrongKey
from pogfast.recovery import Silent, restore
from pogfast.upkeep.checking import EVERYTHING, check

BROKEN = VECTORS / "broken"
specification = importlib.util.spec_from_file_location("make", BROKEN / "make.py")
assert specification is not None
assert specification.loader is not None
maker = importlib.util.module_from_spec(specification)
specification.loader.exec_module(maker)
NAMES = sorted(path.stem for path in BROKEN.glob("*.json"))
assert len(NAMES) > 50


class Heard(Silent):
    """The problems of a restore."""

    def __init__(self) -> None:
        self.problems: list[PogfastError] = []

    def problem(self, error: PogfastError) -> None:
        self.problems.append(error)


@pytest.fixture(params=NAMES)
def vector(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[dict[str, Any], Path]:
    """What is written down of a vector, and a store with its files."""
    found = json.loads((BROKEN / f"{request.param}.json").read_text())
    store = tmp_path / "store"
    store.mkdir()
    for name, data in found["stored"].items():
        (store / name).write_bytes(base64.b64decode(data))
    return found, store


def key_of(found: dict[str, Any]) -> keys.Key:
    if found["key"] == "x25519":
        return keys.from_decryption_keyfile(str(BROKEN / "pki.decrypt"))
    return keys.from_keyfile(str(BROKEN / "secret.keyfile"))


def kind_of(error: PogfastError) -> str:
    """FORMAT.md's word."""
    kinds = {MissingBlob: "missing", WrongBlob: "wrong content", UnsafePath: "unsafe"}
    malformed = isinstance(error, DamageError) and "the entry " in str(error)
    return "malformed" if malformed else kinds.get(type(error), "damaged")


def is_as_it_must(act: Any, verdict: str) -> bool:
    """Whether a whole archive is refused as it must be."""
    expected = (WrongKey, DamageError) if verdict.startswith("wrong key") else (DamageError,)
    with pytest.raises(expected):
        act()
    return True


def test_a_restore_says_what_it_must(vector: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    found, store = vector
    must, heard, out = found["must"], Heard(), tmp_path / "out" / "inside"

    def act() -> None:
        restore(f"{store}/{maker.MANIFEST}", key_of(found), str(out), report=heard)

    if must["open"] != "good":
        assert is_as_it_must(act, must["open"])
        return
    act()
    for name, verdict in must["files"].items():
        if verdict == "good":
            assert (out / name).read_text() == found["content"][name]
        else:
            said = [kind_of(error) for error in heard.problems if name in str(error)]
            assert verdict in said, (name, heard.problems)
    bad = [name for name, verdict in must["files"].items() if verdict != "good"]
    assert len(heard.problems) == len(bad)
    assert os.listdir(out.parent) == ["inside"], "nothing lies outside"
    assert {name for name, verdict in must["files"].items() if verdict == "good"} == set(os.listdir(out))


def test_a_check_says_what_it_must(vector: tuple[dict[str, Any], Path]) -> None:
    found, store = vector
    must = found["must"]

    def act() -> None:
        summary = check([str(store)], key_of(found), read_data=EVERYTHING)
        if summary.damage:
            raise DamageError(str(summary.damage))

    if must["check"] == "good":
        act()
    else:
        assert is_as_it_must(act, must["check"])


def test_a_public_key_says_what_it_must(vector: tuple[dict[str, Any], Path]) -> None:
    found, store = vector
    verdict = found["must"].get("public")
    if verdict is None:
        return
    public = keys.from_encryption_keyfile(str(BROKEN / "pki.encrypt"))

    def act() -> None:
        summary = check([str(store)], public)
        if summary.damage:
            raise DamageError(str(summary.damage))

    if verdict == "good":
        act()
    else:
        assert is_as_it_must(act, verdict)


@pytest.mark.parametrize("name", NAMES)
def test_the_kit_is_as_it_is_made(name: str) -> None:
    """What is compressed depends on the zstd release: the rest does not."""
    made, found = maker.made(name), json.loads((BROKEN / f"{name}.json").read_text())
    assert {word: made[word] for word in ("broken", "key", "must")} == {w: found[w] for w in ("broken", "key", "must")}
    assert len(made["stored"]) == len(found["stored"])


def test_pogcli_was_asked() -> None:
    answers = json.loads((BROKEN / "pogcli-0.1.4.answers").read_text())
    assert sorted(answers) == NAMES


@pytest.mark.parametrize("name", ["entry-a-number", "name-leads-out", "name-with-surrogate", "name-with-nul"])
def test_no_verb_calls_it_a_defect(pogfast: Runner, tmp_path: Path, name: str) -> None:
    found = json.loads((BROKEN / f"{name}.json").read_text())
    for stored, data in found["stored"].items():
        (tmp_path / stored).write_bytes(base64.b64decode(data))
    archive, key = f"./{maker.MANIFEST}", ("--keyfile", str(BROKEN / "secret.keyfile"))
    strange = next(name for name, verdict in found["must"]["files"].items() if name not in maker.FILES)
    for words in (
        ("ls", archive),
        ("info", archive),
        ("stats", "."),
        ("find", ".", "*.txt"),
        ("diff", archive, archive),
        ("check", archive, "--against", "."),
        ("copy", ".", "other"),
        ("cat", archive, "a.txt"),
    ):
        ran = pogfast(*words, *key)
        assert ran.code in (0, 1, 3, 4), (words, ran)
        assert "defect" not in ran.err, strange

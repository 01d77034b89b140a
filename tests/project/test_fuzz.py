"""The targets of the fuzzer (tests/fuzz) on their corpus: what was found once stays mended, without atheris.

ci/fuzz.sh looks for more. A target is held against python-zstandard, and tried on what must fail.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit.paths import FUZZ
from pogfast.files import paths

sys.path.insert(0, str(FUZZ))

import targets

from pogfast import manifest, sizes
from pogfast.errors import PogfastError
from pogfast.files import directories
from pogfast.stores.packs import layout

CORPUS = sorted((FUZZ / "corpus").glob("*/*"))
assert len(CORPUS) > 50


@pytest.fixture(scope="module", autouse=True)
def swept() -> Iterator[None]:
    """The targets' sandbox is gone in the end, and what they set in the environment."""
    kept = os.environ.get("POGFAST_CACHE_DIR")
    yield
    os.environ.pop("POGFAST_CACHE_DIR", None)
    if kept is not None:
        os.environ["POGFAST_CACHE_DIR"] = kept
    shutil.rmtree(targets.sandbox().parents[4], ignore_errors=True)


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_the_corpus(path: Path) -> None:
    targets.TARGETS[path.parent.name](path.read_bytes())


def test_each_target_has_a_corpus() -> None:
    assert {path.parent.name for path in CORPUS} == targets.TARGETS.keys()


# ---- a target that could not fail would find nothing -----------------------------------------------------------------


def found_in(name: str) -> list[str]:
    """What a target fails with on its corpus: the errors' kinds and words."""
    found = []
    for path in CORPUS:
        if path.parent.name == name:
            try:
                targets.TARGETS[name](path.read_bytes())
            except Exception as error:  # noqa: BLE001
                found.append(f"{type(error).__name__}: {error}")
    return found


def test_an_error_that_is_not_ours_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes, "parse_size", lambda option, text: int(text))
    assert any(error.startswith("ValueError: invalid literal") for error in found_in("words"))


def test_a_name_that_leads_out_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a reader that believes names, which pogcli is."""
    monkeypatch.setattr("pogfast.recovery.plan.safe_path", paths.normal_path)
    monkeypatch.setattr(directories.Directories, "open", _through_anything)
    assert any(error.startswith("AssertionError: {") for error in found_in("restore")), "something outside is new"


def _through_anything(self: directories.Directories, path: str) -> int:
    place = os.path.join(self.into, path)
    os.makedirs(place, exist_ok=True)
    return self.held.setdefault(path, os.open(place, os.O_RDONLY | os.O_DIRECTORY))


def test_two_readers_that_disagree_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "open_facts", lambda data, key, name: {"host": "x"})
    monkeypatch.setattr(manifest.open_facts, "__name__", "open_facts")
    assert "AssertionError: two readers of host disagree" in found_in("sealed")


def test_an_intact_blob_that_is_refused_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> bytes:
        raise targets.CorruptBlob("refused")

    monkeypatch.setattr(targets, "open_blob", refuse)
    assert "AssertionError: refused, and nothing is wrong with it" in found_in("blob")


def test_a_command_that_ends_in_a_traceback_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise KeyError("x")

    monkeypatch.setattr(manifest, "open", fail)
    assert "KeyError: 'x'" in found_in("verbs")


def test_a_catalog_that_fails_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise PogfastError("x")

    monkeypatch.setattr("pogfast.archives.catalog_file.CatalogFile._read", fail)
    assert "PogfastError: x" in found_in("remembered")


def test_a_damaged_blob_in_a_pack_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "is_good_blob", lambda row, data: True)
    assert "AssertionError: a damaged blob passes" in found_in("packs")


def test_a_search_that_believes_an_index_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an index whose packs are taken for present, whatever the listing says."""

    class Believing:
        def __init__(self) -> None:
            self.index = targets_index()

        def replace(self, parts: list[tuple[bytes, bytes]]) -> None:
            self.index.replace([(data, b"\x01" * len(states)) for data, states in parts])

        def __getattr__(self, name: str) -> object:
            return getattr(self.index, name)

    targets_index = targets.PackIndex
    monkeypatch.setattr(targets, "PackIndex", Believing)
    assert "AssertionError: in a pack that is not there" in found_in("packs")

"""Which room may know which: the table of DESIGN's import rules, each with its reason."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

import pogfast

PACKAGE = Path(pogfast.__file__).parent

# module -> (modules of ours that it may import, why no more)
RULES: dict[str, tuple[set[str], str]] = {
    "__init__": (set(), "a command must answer --help before anything is loaded"),
    "errors": (set(), "everybody imports it"),
    "keys": ({"_engine", "errors"}, "a key knows nothing of what it opens"),
    "manifest": ({"_engine", "errors", "keys"}, "no I/O: bytes in, bytes out"),
    "stores": ({"_engine", "errors", "stores.local", "stores.program"}, "bytes under names; no key, no manifest"),
    "stores.local": ({"_engine", "errors"}, "bytes under names; no key, no manifest"),
    "stores.program": ({"errors"}, "bytes under names; no key, no manifest"),
    "create": ({"_engine", "errors", "keys", "manifest", "stores"}, "one story; it never knows the other"),
    "restore": ({"_engine", "errors", "keys", "manifest", "stores", "stores.local"}, "the mirror of create"),
    "inputs": ({"create", "errors"}, "names and kinds of files; it opens and stores nothing"),
    "selftest": ({"_engine", "errors"}, "kernels only"),
    "pog": (
        {"__init__", "errors", "keys", "inputs", "create", "restore", "stores"},
        "a command line talks to the stories, never to the engine",
    ),
}


def modules() -> dict[str, Path]:
    found = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(file.relative_to(PACKAGE).with_suffix("").parts)
        found[name.removesuffix(".__init__") if name != "__init__" else name] = file
    assert len(found) >= 11
    return found


def imported(file: Path) -> set[str]:
    """The modules of ours that a file imports, anywhere in it."""
    ours = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "absolute imports only"
            module = node.module or ""
            submodules = {f"{module}.{alias.name}" for alias in node.names}
            names = [name for name in submodules if is_module(name)] or [module]
        else:
            continue
        ours |= {name.partition(".")[2] or "__init__" for name in names if name.split(".")[0] == "pogfast"}
    return ours


def is_module(name: str) -> bool:
    return name.startswith("pogfast.") and (name.partition(".")[2] in modules() or name == "pogfast._engine")


@pytest.mark.parametrize("name", modules())
def test_imports_run_downwards(name: str) -> None:
    assert name in RULES, f"{name} is a new room: say what it may know"
    allowed, reason = RULES[name]
    assert imported(modules()[name]) <= allowed, reason


def test_the_table_names_no_room_that_is_gone() -> None:
    assert set(RULES) == set(modules())


def test_every_room_says_what_it_is_for() -> None:
    for name, file in modules().items():
        text = ast.get_docstring(ast.parse(file.read_text()))
        assert text, name
        assert len(text.splitlines()) >= 3, name


def test_the_errors_exit_codes_are_the_documented_ones() -> None:
    errors = importlib.import_module("pogfast.errors")
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    assert {kind.exit_code for kind in kinds} == {1, 2, 3, 4, 10, 12}

"""docs/engine.md names what is in the code: each name in backticks stands in ext/ or pogfast/."""

from __future__ import annotations

import re

from kit.paths import DOCS, PACKAGE, PROJECT


def sources() -> str:
    paths = [*(PROJECT / "ext").rglob("*.px[id]"), PROJECT / "ext" / "engine.pyx", *PACKAGE.rglob("*.py*")]
    return "\n".join(
        path.read_text(encoding="utf-8") for path in paths if path.suffix in {".pxi", ".pyx", ".py", ".pyi"}
    )


def test_the_names_on_the_page_of_the_engine_are_in_the_code() -> None:
    named = set(re.findall(r"`([^`]+)`", (DOCS / "engine.md").read_text(encoding="utf-8")))
    files = {name for name in named if "/" in name}
    assert len(named - files) > 100
    assert not {name for name in files if not (PROJECT / name).exists()}
    there = set(re.findall(r"\w+", sources()))
    assert not {name for name in named - files if not set(name.split()) <= there}


def test_every_state_of_a_slab_is_on_the_page_of_the_engine() -> None:
    page = (DOCS / "engine.md").read_text(encoding="utf-8")
    slab = (PROJECT / "ext" / "base" / "slab.pxi").read_text(encoding="utf-8")
    for enum in ("SlabState", "WriteState"):
        found = re.search(rf"^cdef enum {enum}:.*\n((?: +\w+.*\n)+)", slab, re.M)
        assert found, enum
        states = re.findall(r"^    ([A-Z_]+)\b", found[1], re.M)
        assert len(states) >= 3
        assert not [state for state in states if f"`{state}`" not in page]

"""Where the tests and what they look at lie."""

from __future__ import annotations

from pathlib import Path

import pogfast

TESTS = Path(__file__).parents[1]
PROJECT = TESTS.parent
DOCS = PROJECT / "docs"
VECTORS = TESTS / "vectors"
FUZZ = TESTS / "fuzz"
PACKAGE = Path(pogfast.__file__).parent  # the one that is tested: in CI not the one beside the tests

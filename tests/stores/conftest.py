from __future__ import annotations

from collections.abc import Iterator

import pytest

from pogfast.system.notices import RETRIED


@pytest.fixture
def told() -> Iterator[list[str]]:
    """The reported retries."""
    lines: list[str] = []
    token = RETRIED.set(lines.append)
    yield lines
    RETRIED.reset(token)

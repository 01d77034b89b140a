"""A store whose archives have hostile names, and a server that shows it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from kit.ui import CHROMIUM, Served, chromium, served
from kit.uistore import Work, fill
from pogfast import facade


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    path = tmp_path_factory.mktemp("ui")
    home = path / "home"
    fill(home)
    facade.keygen(path / "mine")
    key = facade.open_key(encryption_keyfile=path / "mine.encrypt")
    archives = []
    for number, (host, tag) in enumerate([("laptop", "evening"), ("laptop", "morning"), ("desktop", "evening")]):
        (home / "notes" / "hello").write_text("hello\n" * (number + 1))
        made = facade.create("home", path / "backup", key, directory=path, host=host, tags=tag, no_cache=True)
        archives.append(made.manifest)
    facade.check(path / "backup", facade.open_key(decryption_keyfile=path / "mine.decrypt"), read_data=True)
    return Work(path, archives)


@pytest.fixture(scope="module")
def server(work: Work) -> Iterator[Served]:
    arguments = ["backup", "--no-browser", "--root", work.path, "--decryption-keyfile", work.key]
    with served(*arguments, cwd=work.path) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Served) -> Iterator[Any]:
    with server.client() as client:
        yield client


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium; the test is skipped where there is none."""
    pytest.importorskip("playwright", reason="playwright is not installed: pip install '.[browser]'")
    if CHROMIUM is None:
        pytest.skip("there is no chromium: apt-get install chromium, or set POGFAST_TEST_CHROMIUM")
    with chromium() as running:
        yield running

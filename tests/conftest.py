"""The fixtures that test files share: the vectors, the real pogcli, our commands. What else they share is in kit/."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

pytest.register_assert_rewrite("kit")

from kit import descriptions, forks  # noqa: E402
from kit.commands import Ran, Runner, run  # noqa: E402
from kit.environments import RELEASES, pogcli_python  # noqa: E402
from kit.faultproxy import Proxy, proxied  # noqa: E402
from kit.servers import Server, moto  # noqa: E402
from kit.vectors import Vector, all_vectors  # noqa: E402
from pogfast.stores.packs import index_cache  # noqa: E402

descriptions.keep()
# Timings vary on shared machines, and the engine's threads make no example slower than another.
settings.register_profile(
    "default", max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
settings.register_profile("quick", settings.get_profile("default"), max_examples=15)
settings.load_profile("quick" if os.environ.get("POGFAST_TEST_QUICK") else "default")


@pytest.fixture(params=all_vectors(), ids=lambda vector: f"{vector.release}-{vector.name}")
def vector(request: pytest.FixtureRequest) -> Vector:
    return request.param


@pytest.fixture
def pog(tmp_path: Path) -> Runner:
    """Our `pog`, in tmp_path unless `cwd` says otherwise."""

    def call(*arguments: str | bytes | Path, cwd: Path = tmp_path, **more: object) -> Ran:
        ran = forks.command("pogfast.pog", *arguments, cwd=cwd, **more)
        assert "Traceback" not in ran.err, ran.err
        return ran

    return call


@pytest.fixture
def pogfast(tmp_path: Path) -> Runner:
    """The command `pogfast`, in tmp_path unless `cwd` says otherwise, with a cache of this test's own."""

    def call(*arguments: str | bytes | Path, cwd: Path = tmp_path, **more: object) -> Ran:
        more.setdefault("env", {**os.environ, "POGFAST_CACHE_DIR": str(tmp_path / "cache")})
        ran = forks.command("pogfast", *arguments, cwd=cwd, **more)
        assert "Traceback" not in ran.err, ran.err
        return ran

    return call


@pytest.fixture
def cli(work: Path) -> Runner:
    """The command `pogfast` in the directory that a test file's own fixture `work` furnishes, with its environment."""

    def call(*arguments: str | bytes | Path, cwd: Path = work, **more: object) -> Ran:
        ran = forks.command("pogfast", *arguments, cwd=cwd, **more)
        assert "Traceback" not in ran.err, ran.err
        assert "a defect" not in ran.err, ran.err
        return ran

    return call


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """An S3 server for the tests of a file; some files have another one."""
    with moto() as made:
        yield made


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    """What a test puts between the server and its clients."""
    with proxied(server.url) as made:
        yield made


@pytest.fixture
def index_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Index objects of packs are searched in their files, however small they are, but for those of other processes."""
    monkeypatch.setattr(index_cache, "LARGE", 1)


@pytest.fixture(params=["memory", "file"])
def index_objects(request: pytest.FixtureRequest) -> None:
    """Where the index objects of packs are searched."""
    if request.param == "file":
        request.getfixturevalue("index_files")


@pytest.fixture(scope="session", params=RELEASES)
def pogcli(request: pytest.FixtureRequest) -> Runner:
    """The real pogcli, each release."""
    python = pogcli_python(request.param)

    def call(*arguments: str | bytes | Path, cwd: Path, **more: object) -> Ran:
        return run([python, "-m", "pog.pog", *arguments], cwd, **more)

    return call


@pytest.fixture(scope="session")
def pogcli_014() -> Runner:
    """The real pogcli 0.1.4, the only one with --concurrency."""
    python = pogcli_python("0.1.4")

    def call(*arguments: str | bytes | Path, cwd: Path, **more: object) -> Ran:
        return run([python, "-m", "pog.pog", *arguments], cwd, **more)

    return call

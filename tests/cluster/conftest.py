"""What the tests of clusters have in common: workers that all tests of a file use, and a key pair."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kit import dask
from kit.dask import Cluster
from pogfast import backup, keys


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two workers for all tests of a file that leave them alive."""
    with dask.cluster(tmp_path_factory.mktemp("cluster")) as made:
        yield made


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """Where a key pair is: with .encrypt and .decrypt behind it."""
    keys.create_pair("key", str(tmp_path))
    return tmp_path / "key"


@pytest.fixture
def store(tmp_path: Path, tree: Path, pair: Path) -> Path:
    """A store with an archive of the tree that a file of tests makes, in chunks of 100 kB."""
    key = keys.from_encryption_keyfile(f"{pair}.encrypt")
    options = backup.Options(base=str(tree), chunk_size=100_000, cache_directory="")
    backup.create(["."], str(tmp_path / "store"), key, options=options)
    return tmp_path / "store"

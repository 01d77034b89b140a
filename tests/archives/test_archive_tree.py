"""The tree of an archive: directories first, directories that are only implied, totals, searches, malformed names."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pogfast import facade, keys
from pogfast.archives.archive import Archive
from pogfast.archives.tree import Total, Tree
from pogfast.errors import NoSuchEntry

KEY = keys.Key("keyfile", bytes(range(32)))


class Listed(dict[str, object]):
    """An archive of these names, as far as a tree without sizes asks for it."""

    def __init__(self, files: list[str], directories: list[str]) -> None:
        super().__init__(dict.fromkeys(files))
        self.entries = self
        self.directories = dict.fromkeys(directories)
        self.not_files = frozenset(directories)


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    home = tmp_path / "home"
    (home / "b" / "deep").mkdir(parents=True)
    (home / "empty").mkdir()
    (home / "b" / "deep" / "Report.odt").write_bytes(b"12345")
    (home / "b" / "two").write_bytes(b"12")
    (home / "a file").write_bytes(b"1")
    (home / "link").symlink_to("b")
    made = facade.create("home", tmp_path / "store", KEY, directory=tmp_path, no_cache=True)
    with facade.open_archive(tmp_path / "store" / made.manifest, KEY) as archive:
        yield Tree(archive)


def test_directories_come_first(tree: Tree) -> None:
    assert [(path, item.kind) for path, item in tree.children("home")] == [
        ("home/b", "directory"),
        ("home/empty", "directory"),
        ("home/a file", "file"),
        ("home/link", "link"),
    ]
    assert [path for path, _ in tree.children("home", 1, 3)] == ["home/empty", "home/a file"]
    assert (tree.count("home"), tree.count("home/empty")) == (4, 0)


def test_totals_are_of_files_below(tree: Tree) -> None:
    assert tree.total("") == tree.total("home") == Total(3, 8)
    assert tree.total("home/b") == Total(2, 7)
    assert tree.total("home/b/two") == Total(1, 2)
    assert tree.total("home/empty") == tree.total("home/link") == Total()


def test_searches_ignore_case_and_take_patterns(tree: Tree) -> None:
    assert [*tree.search("REPORT")] == ["home/b/deep/Report.odt"]
    assert [*tree.search("*.ODT")] == ["home/b/deep/Report.odt"]
    assert [*tree.search("e", "home/b")] == ["home/b/deep", "home/b/deep/Report.odt"]
    assert [*tree.search("**/deep/*")] == ["home/b/deep/Report.odt"]


@pytest.mark.parametrize("path", ["nothing", "home/nothing", "home/a file/below", ".."])
def test_what_is_not_there_is_an_error(tree: Tree, path: str) -> None:
    with pytest.raises(NoSuchEntry):
        tree.item(path)
    with pytest.raises(NoSuchEntry):
        tree.children(path)


def paths(tree: Tree) -> list[str]:
    return [*tree.walk("")]


def test_directories_that_are_no_entries_are_implied() -> None:
    made = Tree(archive(["x/y/z", "x/y/a", "w"], []))
    assert paths(made) == ["x", "x/y", "x/y/a", "x/y/z", "w"]
    assert all(made.is_directory(path) for path in ("", "x", "x/y"))


def test_malformed_names_are_shown_where_their_normal_form_is() -> None:
    """No name makes an endless walk, or hides another."""
    names = ["/abs/x", "a//b", "./c", "../up", "both", "both/below", "", "/", "d/../e"]
    made = Tree(archive(names, ["both", "a/", "."]))
    found = paths(made)
    assert len(found) == len(set(found))
    assert {"abs/x", "a/b", "c", "../up", "both", "both/below", "d/../e"} <= set(found)


def archive(files: list[str], directories: list[str]) -> Archive:
    made: object = Listed(files, directories)
    assert not isinstance(made, Archive)
    return made  # type: ignore[return-value]


def test_names_that_are_not_utf_8(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    name = os.fsdecode(b"\xff\xfe")
    (tmp_path / "home" / name).write_bytes(b"x")
    made = facade.create("home", tmp_path / "store", KEY, directory=tmp_path, no_cache=True)
    with facade.open_archive(tmp_path / "store" / made.manifest, KEY) as opened:
        [(path, item)] = Tree(opened).children("home")
    assert (path, item.name, item.size) == (f"home/{name}", f"home/{name}", 1)

"""The expansion of inputs, compared with the real pogcli where that loses no file."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from kit.commands import Runner
from pogfast.errors import NoSuchInput, PogfastError
from pogfast.pog.inputs import find_sources

Find = Callable[..., tuple[list[tuple[str, str]], list[str]]]


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("a", "d/a.txt", "d/e/x", "d-x/f", "x..y/f", "..f", "g[1]", "é", "D", "n\nl", os.fsdecode(b"b\xff")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name.encode(errors="surrogateescape").hex())
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "dirlink").symlink_to("d")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def find(*inputs: str, absolute: bool = False) -> tuple[list[tuple[str, str]], list[str]]:
    told: list[PogfastError | str] = []
    sources = find_sources(inputs, absolute=absolute, tell=told.append)
    return [tuple(source) for source in sources], [str(line) for line in told]


@pytest.mark.parametrize(
    "inputs",
    [["d"], ["d/"], ["d//"], ["./d"], [".//d"], ["a", "./a", "a"], ["d/*"], ["d/**"], ["d/?.txt"], ["g[1]"], ["*"],
     ["**"],
     ["x..y", "..f"], ["d/../a"], ["d/e/.."], ["link", "dirlink"], ["é", "D", "d", "d-x"], ["empty"], ["n\nl"],
     [os.fsdecode(b"b\xff")], ["/d"], ["/a", "a"], ["d", "d/a.txt"]],
    ids=repr,
)  # fmt: skip
def test_files_and_names_are_pogclis(
    tree: Path, pogcli_014: Runner, tmp_path_factory: pytest.TempPathFactory, inputs: list[str]
) -> None:
    inputs = [str(tree) + given if given.startswith("/") else given for given in inputs]
    key = tmp_path_factory.mktemp("key") / "key"
    key.write_text("key")
    ran = pogcli_014(f"--keyfile={key}", "--concurrency=1", "--save-to=/bin/true", *inputs, cwd=tree)
    assert ran.code == 0, ran.err
    printed = os.fsdecode(ran.out)
    sources, told = find(*inputs)
    assert told == []
    total = len(sources) + 1
    expected = "".join(f"*** {n}/{total}: {path}\n" for n, (path, _) in enumerate(sources, 1))
    kept = [line for line in printed.split("\n") if not (len(line) == 44 and line.endswith("="))]
    assert "\n".join(kept).startswith(expected)
    assert f"*** {total}/{total}: " in printed


def test_names(tree: Path) -> None:
    assert find("d", "./a", "d/../D")[0] == [
        ("./a", "./a"),
        ("d/../D", "D"),
        ("d/a.txt", "d/a.txt"),
        ("d/e/x", "d/e/x"),
    ]
    assert find(f"{tree}/d")[0] == [(f"{tree}/d/a.txt", "a.txt"), (f"{tree}/d/e/x", "x")]
    assert find("d/../a", "./link", absolute=True)[0] == [("./link", f"{tree}/link"), ("d/../a", f"{tree}/a")]


def test_hidden_files_are_found(tree: Path) -> None:
    (tree / "d" / ".hidden").write_text("x")
    (tree / "d" / ".dir").mkdir()
    (tree / "d" / ".dir" / "y").write_text("y")
    assert [path for path, _ in find("d")[0]] == ["d/.dir/y", "d/.hidden", "d/a.txt", "d/e/x"]


@pytest.mark.parametrize("given", ["nosuch", "no*such", "d/[z]", "", "empty/*", "d/a.txt/x"])
def test_an_input_without_a_match_is_an_error(tree: Path, given: str) -> None:
    with pytest.raises(NoSuchInput):
        find("a", given)


def test_fifos_and_broken_links_are_skipped(tree: Path) -> None:
    os.mkfifo(tree / "fifo")
    (tree / "broken").symlink_to("nowhere")
    for name in ("fifo", "broken"):
        with pytest.raises(NoSuchInput, match=name):
            find(name)
    os.rename(tree / "fifo", tree / "d" / "fifo")
    os.rename(tree / "broken", tree / "d" / "broken")
    sources, told = find("d")
    assert [path for path, _ in sources] == ["d/a.txt", "d/e/x"]
    assert sorted(told) == ["d/broken: a link to nothing: skipped", "d/fifo: a FIFO, not a file: skipped"]


def test_a_link_to_a_directory_above_is_not_followed(tree: Path) -> None:
    (tree / "d" / "e" / "up").symlink_to("..")
    sources, told = find("d")
    assert [path for path, _ in sources] == ["d/a.txt", "d/e/x"]
    assert told == ["d/e/up is a link to a directory above it: skipped"]


def test_very_deep_trees(tree: Path) -> None:
    os.chdir(tree)
    for _ in range(300):
        os.mkdir("deep")
        os.chdir("deep")
    Path("bottom").write_text("x")
    os.chdir(tree)
    assert len(find("deep")[0]) == 1


@pytest.mark.parametrize(
    ("files", "inputs", "names"),
    [
        # two files of one name: the later gets a parent
        (["a/x", "b/x"], ["{}/a/x", "{}/b/x"], ["x", "b/x"]),
        # one directory that holds a name twice: the path below the input, or with the input's own name
        (["d/e/x", "d/f/x", "d/x"], ["{}/d"], ["x", "f/x", "d/x"]),
        (["a/d/x", "b/d/x", "c/d/x"], ["{}/a", "{}/b", "{}/c"], ["x", "d/x", "c/d/x"]),
        # a file where another needs a directory
        (["p/d", "d/x"], ["{}/p/d", "d"], ["d", "x"]),
        # relative ones that go up
        (["a/x", "b/x"], ["a/../a/x", "b/../b/x"], ["x", "b/x"]),
    ],
)
def test_colliding_names_are_all_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: list[str], inputs: list[str], names: list[str]
) -> None:
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(file)
    monkeypatch.chdir(tmp_path)
    sources, told = find(*(given.format(tmp_path) for given in inputs))
    assert [name for _, name in sources] == names
    assert len(told) == 1 + ("c/d/x" in files) + ("d/f/x" in files)
    assert all("is archived as" in line for line in told)


def test_one_file_given_twice_is_no_collision(tree: Path) -> None:
    sources, told = find("a", "./a", "d/../a", f"{tree}/a")
    assert told == []
    assert [name for _, name in sources] == ["./a", "a", "a", "a"]

"""What create's inputs mean, on real trees: compared with GNU tar where both agree, and what goes wrong."""

from __future__ import annotations

import gc
import os
import random
import shutil
import subprocess
import sys
import tarfile
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from io import BytesIO, TextIOWrapper
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.files import plant_socket
from pogfast._engine import Listing
from pogfast.backup.input_lists import read_list, read_patterns
from pogfast.backup.walk import Note, Selection, archived_name, nodes_in, walk
from pogfast.errors import MissingSource, NoSuchInput, PogfastError, SourceError, UsageError

ODD = [
    "n\nl",
    os.fsdecode(b"b\xff"),
    "-dash",
    "--",
    "é",
    "x" * 255,
    "sp ace",
    "..f",
    "...",
    "*",
    "\\",
    "~",
    "'\"",
    "a:b",
]


class Walked:
    """Everything that a walk yielded and reported."""

    def __init__(self, *paths: str, base: str | None = None, **selection: object) -> None:
        self.told: list[PogfastError | str] = []
        self.nodes = list(nodes_in(walk(paths, Selection(**selection), base=base, tell=self.told.append)))

    @property
    def names(self) -> list[str]:
        return [node.name for node in self.nodes]

    @property
    def kinds(self) -> dict[str, str]:
        return {node.name: node.kind for node in self.nodes}

    @property
    def notes(self) -> list[str]:
        """Returns notes and warnings, except those about what archived names lose."""
        return [line for line in self.told if isinstance(line, str) and not line.endswith("from names in the archive")]

    @property
    def errors(self) -> list[str]:
        return [str(error) for error in self.told if isinstance(error, PogfastError)]


def make(top: Path, *names: str) -> None:
    """Files that hold their names; a name that ends with / is a directory's."""
    for name in names:
        path = top / name
        if name.endswith("/"):
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(os.fsencode(name))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty directory that the test stands in. Removed here: what pytest removes with does not go that deep."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    yield tmp_path / "here"
    subprocess.run(["rm", "-rf", tmp_path / "here"], check=True)


@pytest.fixture
def tree(here: Path) -> Path:
    make(here, "a", "d/a.txt", "d/e/x", "d-x/f", "d/.hidden/y", "D", "empty/", *(f"odd/{name}" for name in ODD))
    os.symlink("a", "link")
    os.symlink("d", "dirlink")
    os.symlink("nowhere", "broken")
    os.link("a", "hard")
    return here


def facts(stat: object) -> list[int]:
    words = "mode uid gid dev ino nlink size blocks mtime_ns ctime_ns"
    return [getattr(stat, f"st_{word}") for word in words.split()]


# ---- names and order -------------------------------------------------------------------------------------------------


def test_a_directory_comes_before_its_content_and_all_is_sorted(tree: Path) -> None:
    walked = Walked("d", "a")
    assert walked.names == ["d", "d/.hidden", "d/.hidden/y", "d/a.txt", "d/e", "d/e/x", "a"]
    assert [node.path for node in walked.nodes] == walked.names
    assert walked.told == []
    for node in walked.nodes:
        assert facts(node.stat) == facts(os.lstat(node.path))


def test_order_is_that_of_the_bytes(here: Path) -> None:
    names = [b"\xff", "\U0001f600".encode(), "\ue000".encode(), b"~", b"a", b"a.", b"a0", b"B", b"\x01", "é".encode()]
    for name in names:
        Path(os.fsdecode(name)).touch()
    assert [os.fsencode(name) for name in Walked(".").names] == sorted(names)


@pytest.mark.parametrize(
    "paths",
    [["d"], ["d/"], ["./d"], [".//d//"], ["d/e/.."], ["d/../d-x"], ["../here/d"], ["a", "d/e/x", "empty"],
     ["link", "dirlink"], ["dirlink/."], ["dirlink/e"], ["broken"], ["odd"], ["{}/d"], ["/{}/d"], ["{}/d/../a"],
     ["{}/../here"], ["D", "d"], ["./odd/--"], ["hard"]],
    ids=repr,
)  # fmt: skip
def test_names_are_tars(tree: Path, paths: list[str]) -> None:
    paths = [path.format(tree) for path in paths]
    names, stderr = tar_names(*paths)
    walked = Walked(*paths)
    assert walked.names == [name for name in names if name]
    assert len(walked.told) == ("Removing leading" in stderr)


def tar_names(*paths: str) -> tuple[list[str], str]:
    """What GNU tar calls them; its `.` parts left out, as ours are."""
    if b"GNU tar" not in subprocess.run(["tar", "--version"], capture_output=True, check=True).stdout:
        pytest.skip("not GNU tar")
    command = ["tar", "--sort=name", "--hard-dereference", "-cf", "-", "--", *paths]
    ran = subprocess.run(command, capture_output=True, check=True)
    with tarfile.open(fileobj=BytesIO(ran.stdout), errors="surrogateescape") as archive:
        names = [os.path.normpath(name) for name in archive.getnames()]
    return ["" if name == "." else name for name in names], ran.stderr.decode()


@given(st.text("ab./", max_size=12))
def test_names_never_leave(path: str) -> None:
    name = archived_name(path)
    parts = name.split("/")
    assert name == "" or not {"", ".", ".."} & set(parts)
    if ".." not in path.split("/"):
        assert os.path.normpath("/" + path.lstrip("/")) == "/" + name


@pytest.mark.parametrize("path", [".", "./", "./.", "d/..", "dirlink/e/../.."])
def test_the_top_has_no_name_of_its_own(tree: Path, path: str) -> None:
    expected = Walked(*sorted(os.listdir(), key=os.fsencode)).names
    assert Walked(path).names == expected
    assert Walked(path, base=f"{tree}/").names == expected
    assert len(expected) > 20


def test_what_is_stripped_is_said_once_for_each_kind(tree: Path) -> None:
    walked = Walked(f"{tree}/a", f"{tree}/D", "../here/d", "d/../d-x", "empty")
    assert walked.told == [
        "removing the leading / from names in the archive",
        "removing everything up to .. from names in the archive",
    ]
    assert {type(told) for told in walked.told} == {Note}, "information, no warning"
    assert walked.names[:2] == [f"{tree}/a"[1:], f"{tree}/D"[1:]]
    assert walked.names[-1] == "empty"


def test_from_another_directory(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    walked = Walked("d/e", f"{tree}/a", base=str(tree))
    assert walked.names == ["d/e", "d/e/x", f"{tree}/a"[1:]]
    assert [node.path for node in walked.nodes] == [f"{tree}/d/e", f"{tree}/d/e/x", f"{tree}/a"]
    with pytest.raises(NoSuchInput, match="nosuch"):
        walk(["a"], Selection(), base=f"{tree}/nosuch", tell=print)


def test_kinds(here: Path) -> None:
    make(here, "file", "directory/")
    os.symlink("directory", "link")
    os.mkfifo("fifo")
    plant_socket(here / "socket")
    walked = Walked(".", "/dev/null")
    assert walked.kinds == {"dev/null": "device"} | {
        kind: kind for kind in ("file", "directory", "link", "fifo", "socket")
    }  # fmt: skip


def test_links_are_not_followed_unless_a_given_one_ends_with_a_slash(tree: Path) -> None:
    assert Walked("dirlink", "link", "broken").kinds == {"dirlink": "link", "link": "link", "broken": "link"}
    walked = Walked("dirlink/")
    assert walked.kinds["dirlink"] == "directory"
    assert walked.names == [name.replace("d", "dirlink", 1) for name in Walked("d").names]
    assert all(os.path.lexists(node.path) for node in walked.nodes)
    os.symlink("..", "d/e/up")
    assert Walked("d").kinds["d/e/up"] == "link"


LEAVES = st.text("ab.é\udcff\n", min_size=1, max_size=3)


@given(st.recursive(st.none(), lambda below: st.dictionaries(LEAVES, below, max_size=4)))
def test_everything_is_found_once(tmp_path: Path, shape: dict | None) -> None:
    top = tmp_path / "top"
    shutil.rmtree(top, ignore_errors=True)
    expected = build(top, shape or {}, "top")
    nodes = list(nodes_in(walk(["top"], Selection(), base=str(tmp_path), tell=print)))
    assert {node.name: node.kind for node in nodes} == expected
    assert len(nodes) == len(expected)


def build(path: Path, shape: dict | None, name: str) -> dict[str, str]:
    if shape is None:
        path.touch()
        return {name: "file"}
    path.mkdir()
    found = {name: "directory"}
    for leaf, below in shape.items():
        if leaf not in (".", ".."):
            found |= build(path / leaf, below, f"{name}/{leaf}")
    return found


# ---- much ------------------------------------------------------------------------------------------------------------


def test_very_deep_trees(here: Path) -> None:
    for _ in range(1_900):
        os.mkdir("d")
        os.chdir("d")
    Path("bottom").touch()
    os.chdir(here)
    walked = Walked("d", exclude=["nothing"])
    assert len(walked.nodes) == 1_901
    assert walked.names[-1] == "/".join(["d"] * 1_900) + "/bottom"
    assert walked.told == []


def test_paths_longer_than_the_system_takes_are_told(here: Path) -> None:
    for _ in range(20):
        os.mkdir("d" * 250)
        os.chdir("d" * 250)
    os.chdir(here)
    make(here, "e")
    walked = Walked("d" * 250, "e")
    assert 10 < len(walked.nodes) < 20
    assert walked.names[-1] == "e"
    assert [type(error) for error in walked.told] == [SourceError]
    assert "too long" in walked.errors[0]


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> str:
    """4000 files in one directory, as many in 40; nothing may change them."""
    top = tmp_path_factory.mktemp("many")
    for directory in ("wide", *(f"high/{number}" for number in range(40))):
        make(top, *(f"{directory}/f{number}" for number in range(4_000 if directory == "wide" else 100)))
    return str(top)


def test_a_wide_directory_takes_the_memory_of_its_names(many: str) -> None:
    assert peak(Walking("wide", base=many)) < 1_000_000, "4000 names, twice for sorting: 600 kB; with their facts 3 MB"


@pytest.mark.parametrize("paths", [["high"], ["high", "wide/f0"], ["high", "high/7"]])
def test_what_was_given_out_is_forgotten(many: str, paths: list[str]) -> None:
    assert peak(Walking(*paths, base=many)) < 150_000, "4000 names and who has them take 1.5 MB"


def test_only_names_that_can_come_twice_are_remembered(many: str) -> None:
    assert peak(Walking("high", "high", base=many)) > 1_000_000


class Walking:
    """A walk that keeps nothing."""

    def __init__(self, *paths: str, base: str) -> None:
        self.paths = paths
        self.base = base

    def __call__(self) -> None:
        for _ in walk(self.paths, Selection(), base=self.base, tell=print):
            pass


def peak(work: Callable[[], None]) -> int:
    gc.collect()
    tracemalloc.start()
    work()
    found = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return found


def test_nodes_come_while_it_walks(here: Path) -> None:
    make(here, "a/x", "b/")
    nodes = nodes_in(walk(["."], Selection(), tell=print))
    assert [next(nodes).name, next(nodes).name] == ["a", "a/x"]
    make(here, "b/late")
    assert [node.name for node in nodes] == ["b", "b/late"]


# ---- the same name twice ---------------------------------------------------------------------------------------------


def everything(paths: list[str]) -> list[str]:
    """Archived names in the order in which they come up first."""
    return list(dict.fromkeys(name for path in paths for name in Walked(path).names))


@pytest.mark.parametrize(
    "paths",
    [["d", "d"], ["d", "./d", "d/"], ["d", "d/e"], ["d/e", "d"], ["d/e/x", "d"], ["d", "d/e/x", "d/a.txt"], [".", "d"],
     ["d", "."], ["d/e", "d/e/x", "."], [".", "."], ["a", "hard", "a"], ["d", "empty/../d"], ["link", "link"],
     ["{}", "{}/d", "{}/a"]],
    ids=repr,
)  # fmt: skip
def test_what_is_given_twice_comes_once(tree: Path, paths: list[str]) -> None:
    paths = [path.format(tree) for path in paths]
    walked = Walked(*paths)
    assert walked.names == everything(paths)
    assert walked.errors == walked.notes == []


def test_a_list_made_by_find_is_walked_once(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = Walked(".").names
    listed: list[str] = []
    real = Listing
    monkeypatch.setattr("pogfast.backup.walk.Listing", lambda path: listed.append(os.fsdecode(path)) or real(path))
    assert Walked(*expected).names == expected
    assert sorted(map(os.path.normpath, listed)) == sorted({os.path.normpath(path) for path in listed})


# `up` is there so that `one/up/../x` and `two/up/../x` are both archived as `x`.
ONE, TWO = "one/up/..", "two/up/.."


@pytest.mark.parametrize("paths", [[f"{ONE}/x", f"{TWO}/x"], [f"{TWO}/x", f"{ONE}/x"], [f"{TWO}/x", "x"]], ids=repr)
def test_of_two_files_with_one_name_the_first_is_archived(here: Path, paths: list[str]) -> None:
    make(here, "one/up/", "two/up/", "one/x", "two/x", "x", "y")
    walked = Walked(*paths, "y")
    assert [(node.name, node.path) for node in walked.nodes] == [("x", paths[0]), ("y", "y")]
    assert walked.errors == [f"cannot archive {paths[1]}: another input has the archived name x"]
    assert [type(error) for error in walked.told if not isinstance(error, str)] == [SourceError]


def test_an_absolute_path_and_a_relative_one_with_one_name(here: Path, tmp_path: Path) -> None:
    relative = str(tmp_path)[1:]
    make(tmp_path, "x")
    make(here, f"{relative}/x", f"{relative}/y")
    walked = Walked(f"{tmp_path}/x", relative)
    assert [(node.name, node.path) for node in walked.nodes if node.kind == "file"] == [
        (f"{relative}/x", f"{tmp_path}/x"),
        (f"{relative}/y", f"{relative}/y"),
    ]
    assert walked.errors == [f"cannot archive {relative}/x: another input has the archived name {relative}/x"]


def test_two_directories_with_one_name_become_one(here: Path) -> None:
    make(here, "one/up/", "two/up/", *(f"one/d/{name}" for name in ("x", "same", "e/1")))
    make(here, *(f"two/d/{name}" for name in ("y", "same", "e/2")))
    walked = Walked(f"{ONE}/d", f"{TWO}/d")
    assert walked.names == ["d", "d/e", "d/e/1", "d/same", "d/x", "d/e/2", "d/y"]
    assert walked.errors == [f"cannot archive {TWO}/d/same: another input has the archived name d/same"]
    assert walked.notes == [
        f"{TWO}/d and another directory are merged in the archive: d",
        f"{TWO}/d/e and another directory are merged in the archive: d/e",
    ]


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize(
    "paths",
    [
        [f"{ONE}/x", f"{TWO}/x"],  # a file; a directory of that name
        [f"{ONE}/x", f"{TWO}/x/y"],  # a file; something in a directory of that name
        [f"{ONE}/b", f"{TWO}/b/c/d"],  # the same, deeper
        [f"{ONE}/.", f"{TWO}/b"],  # below the top
        [f"{ONE}/.", f"{TWO}/."],
    ],
    ids=repr,
)
def test_no_file_is_where_another_needs_a_directory(here: Path, paths: list[str], order: int) -> None:
    make(here, "one/up/", "two/up/", "one/x", "two/x/y", "one/b/c", "one/b/d", "two/b/c/d", "two/b/e")
    paths = paths[::order]
    walked = Walked(*paths)
    above = {name[:end] for name in walked.names for end in range(len(name)) if name[end] == "/"}
    assert [node.name for node in walked.nodes if node.kind != "directory" and node.name in above] == []
    assert walked.names[: len(Walked(paths[0]).names)] == Walked(paths[0]).names, "the first wins"
    assert set(walked.names) <= set(everything(paths))
    assert len(walked.names) == len(set(walked.names))
    clashes = 1 + (paths == [f"{ONE}/.", f"{TWO}/."][::order])
    assert len(walked.errors) == clashes


# ---- what is left out ------------------------------------------------------------------------------------------------


def test_excluded_directories_are_not_entered(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed: list[str] = []
    real = Listing
    monkeypatch.setattr("pogfast.backup.walk.Listing", lambda path: listed.append(os.fsdecode(path)) or real(path))
    walked = Walked("d", "d-x", exclude=["e", "*.txt", f"{tree}/d-x/f"])
    assert walked.names == ["d", "d/.hidden", "d/.hidden/y", "d-x"]
    assert listed == ["d", "d/.hidden", "d-x"]
    assert walked.told == []


@pytest.mark.parametrize("given", ["d", "./d/", "../here/d", "{}/d", "empty/../d"])
def test_patterns_are_held_against_absolute_paths(tree: Path, given: str) -> None:
    for pattern in (f"{tree}/d/e", f"{tree.parent}/*/d/e", "here/d/e", "d/e"):
        walked = Walked(given.format(tree), exclude=[pattern])
        assert [os.path.basename(name) for name in walked.names] == ["d", ".hidden", "y", "a.txt"]
    assert len(Walked(given.format(tree), exclude=["/d/e", "/here/d", f"{tree}/e", f"/{tree}/d/f"]).names) == 6


def test_patterns_count_from_the_root_with_another_directory(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    assert Walked("d", base=str(tree), exclude=[f"{tree}/d/*", "!.hidden"]).names == ["d", "d/.hidden", "d/.hidden/y"]
    assert Walked(*os.path.split(tree)[1:], base=str(tree.parent), iexclude=[f"{tree}/[A-C]*".upper()]).names == [
        name for name in Walked("here", base=str(tree.parent)).names if name not in ("here/a", "here/broken")
    ]


def test_exclude_and_iexclude_do_not_touch_each_other(tree: Path) -> None:
    walked = Walked("d", "D", "a", exclude=["*.TXT"], iexclude=["A.*", "!x", "Y"])
    assert walked.names == ["d", "d/.hidden", "d/e", "d/e/x", "D", "a"]


def test_a_given_path_that_is_excluded_is_named(tree: Path) -> None:
    walked = Walked("d", "a", exclude=["d"])
    assert walked.names == ["a"]
    assert walked.told == ["d was given, but is also excluded: left out"]


def test_tags(here: Path) -> None:
    make(here, "a/x", "a/y/.nobackup", "a/y/z", "a/y/w/v", "b/.nobackup/x", "c/TAG", "c/x", "d/TAG", "d/x", "e/x")
    make(here, "f/TAG", "f/.nobackup", "f/x")
    Path("c/TAG").write_bytes(b"head: and more")
    Path("f/TAG").write_bytes(b"head: and more")
    Path("d/TAG").write_bytes(b"head")
    walked = Walked("a", "b", "c", "d", "e", "f", exclude_if_present=[".nobackup", "TAG:head: "])
    assert walked.names == [
        *("a", "a/x", "a/y", "a/y/.nobackup", "b", "b/.nobackup", "b/.nobackup/x", "c", "c/TAG", "d", "d/TAG", "d/x"),
        *("e", "e/x", "f", "f/.nobackup", "f/TAG"),
    ]
    assert walked.told == []
    assert Walked("c", "d", exclude_if_present=["TAG"]).names == ["c", "c/TAG", "d", "d/TAG"]
    assert Walked("c", exclude_if_present=["TAG"], exclude=["TAG"]).names == ["c"]


def test_a_tag_is_not_waited_for(here: Path) -> None:
    make(here, "a/x", "b/x", "b/TAG/")
    os.mkfifo("a/TAG")
    walked = Walked("a", "b", exclude_if_present=["TAG:head"])
    assert walked.names == ["a", "a/TAG", "a/x", "b", "b/TAG", "b/x"]
    assert walked.told == ["cannot read the tag b/TAG, so its directory is archived: Is a directory"]


def test_caches(here: Path) -> None:
    make(here, "cache/CACHEDIR.TAG", "cache/x", "other/CACHEDIR.TAG", "other/x")
    Path("cache/CACHEDIR.TAG").write_text("Signature: 8a477f597d28d172789f06886806bc55\n# This is a cache.\n")
    assert Walked(".", exclude_caches=True).names == [
        "cache",
        "cache/CACHEDIR.TAG",
        "other",
        "other/CACHEDIR.TAG",
        "other/x",
    ]
    assert len(Walked(".").names) == 6


def test_files_larger_than(here: Path) -> None:
    for name, size in (("d/4", 4), ("d/5", 5), ("6", 6)):
        make(here, name)
        Path(name).write_bytes(bytes(size))
    make(here, "d/e/5")
    for link in ("link", "d/link"):
        os.symlink("x" * 100, link)
    assert Walked("d", "6", "link", exclude_larger_than=4).names == ["d", "d/4", "d/e", "d/link", "link"]
    assert Walked("d", "6", exclude_larger_than=5).names == ["d", "d/4", "d/5", "d/e", "d/e/5", "d/link"]
    assert Walked("d", exclude_larger_than=0).names == ["d", "d/e", "d/link"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"exclude": ["x", "a[b"]},
        {"iexclude": ["A[B"]},
        {"exclude_if_present": [""]},
        {"exclude_if_present": [":x"]},
        {"exclude_if_present": ["d/x"]},
    ],
    ids=repr,
)
def test_wrong_selections_are_named_at_once(tree: Path, wrong: dict[str, list[str]]) -> None:
    with pytest.raises(UsageError) as raised:
        walk(["a"], Selection(**wrong), tell=print)
    assert str(raised.value).endswith(next(iter(wrong.values()))[-1])


@pytest.fixture
def mounted(here: Path) -> Iterator[Path]:
    """A directory that is another file system."""
    make(here, "d/mounted/", "d/x", "d/z")
    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "d/mounted"], capture_output=True, check=False).returncode:
        pytest.skip("this user cannot mount")
    try:
        make(here, "d/mounted/y")
        yield here
    finally:
        subprocess.run(["umount", here / "d" / "mounted"], check=True)


def test_one_file_system(mounted: Path) -> None:
    assert Walked("d").names == ["d", "d/mounted", "d/mounted/y", "d/x", "d/z"]
    assert Walked("d", one_file_system=True).names == ["d", "d/mounted", "d/x", "d/z"]
    assert Walked("d/mounted", one_file_system=True).names == ["d/mounted", "d/mounted/y"]
    assert Walked("d", "d/mounted", one_file_system=True).names == ["d", "d/mounted", "d/x", "d/z", "d/mounted/y"]


# ---- what goes wrong -------------------------------------------------------------------------------------------------


def test_given_paths_that_are_not_there(tree: Path) -> None:
    walked = Walked("nosuch", "", "a", "a/", "a/x", "nul\0", "d/e")
    assert walked.names == ["a", "d/e", "d/e/x"]
    assert {type(error) for error in walked.told} == {MissingSource}
    assert walked.errors == [
        "nosuch: No such file or directory",
        "an empty path: No such file or directory",
        "a/: Not a directory",
        "a/x: Not a directory",
        "nul\0: a path cannot have these characters",
    ]
    told: list[PogfastError | str] = []
    next(walk(["nosuch", "a"], Selection(), tell=told.append))
    assert len(told) == 1, "as soon as another is there, not at the end"
    walked = Walked("", "a", base=str(tree))
    assert walked.names == ["a"]
    assert walked.errors == ["an empty path: No such file or directory"]


def test_when_none_is_there(tree: Path) -> None:
    told: list[PogfastError | str] = []
    with pytest.raises(NoSuchInput, match=r"nosuch: No such file or directory"):
        list(walk(["nosuch"], Selection(), tell=told.append))
    assert told == []
    with pytest.raises(NoSuchInput, match=r"none of the inputs exists"):
        list(walk(["nosuch", "nor*this"], Selection(), tell=told.append))
    assert [str(error) for error in told] == [f"{name}: No such file or directory" for name in ("nosuch", "nor*this")]
    assert Walked().nodes == []


def test_files_that_vanish(tree: Path) -> None:
    told: list[PogfastError | str] = []
    nodes = nodes_in(walk(["d"], Selection(), tell=told.append))
    assert [next(nodes).name for _ in range(2)] == ["d", "d/.hidden"]
    for path in ("d/e", "d/.hidden"):
        shutil.rmtree(path)
    os.unlink("d/a.txt")
    assert [node.name for node in nodes] == ["d/a.txt", "d/e"], "there when d was listed"
    assert [str(error) for error in told] == [
        f"cannot read {path}: No such file or directory" for path in ("d/.hidden", "d/e")
    ]
    assert {type(error) for error in told} == {SourceError}


def test_under_a_busy_hand_the_rest_is_found(here: Path) -> None:
    """Files come and go while it walks; those that stay are all there, and nothing else is wrong than what vanished."""
    make(here, *(f"d{directory}/stays{number}" for directory in range(20) for number in range(20)))
    done = threading.Event()

    def stir() -> None:
        chance = random.Random(1)
        while not done.is_set():
            path = Path(f"d{chance.randrange(20)}/comes{chance.randrange(20)}")
            if path.exists():
                path.unlink()
            else:
                path.touch()

    hand = threading.Thread(target=stir)
    hand.start()
    try:
        for _ in range(20):
            walked = Walked(".")
            assert sum("stays" in name for name in walked.names) == 400
            assert all("comes" in error and "No such file" in error for error in walked.errors)
    finally:
        done.set()
        hand.join()


@pytest.fixture
def unprivileged(here: Path) -> Iterator[Path]:
    """As another user when it is root that tests; the directory stood in needs no way to it."""
    if os.geteuid() != 0:
        yield here
        return
    os.chown(here, 65534, 65534)
    os.seteuid(65534)
    try:
        yield here
    finally:
        os.seteuid(0)


def test_what_cannot_be_read_is_told(unprivileged: Path) -> None:
    top = Path()
    make(top, "a/x", "closed/x", "unsearchable/x", "z")
    Path("closed").chmod(0)
    Path("unsearchable").chmod(0o400)
    try:
        walked = Walked("a", "closed", "closed/x", "unsearchable", "z")
    finally:
        Path("closed").chmod(0o700)
        Path("unsearchable").chmod(0o700)
    assert walked.names == ["a", "a/x", "closed", "unsearchable", "z"]
    denied = "Permission denied"
    assert walked.errors == [
        f"cannot read closed: {denied}",
        f"cannot read closed/x: {denied}",
        f"cannot read unsearchable/x: {denied}",
    ]
    assert {type(error) for error in walked.told} == {SourceError, MissingSource}


# ---- lists -----------------------------------------------------------------------------------------------------------


def listed(content: bytes, **more: object) -> list[str]:
    Path("list").write_bytes(content)
    try:
        return read_list("list", **{"nul": False, **more})
    finally:
        os.unlink("list")


@pytest.mark.parametrize(
    ("lines", "paths"),
    [
        ("a\nd/e\n", ["a", "d/e"]),
        ("  a \n\n#d\n\td\r\n #x\nno newline", ["a", "d", "no newline"]),
        ("odd/sp ace\n", ["odd/sp ace"]),
        ("./d//e/\n", ["./d//e/"]),
        ("$HOME\n~\n!x", ["$HOME", "~", "!x"]),
        ("d*", ["d", "d-x", "dirlink"]),
        ("*/", ["d/", "d-x/", "dirlink/", "empty/", "odd/"]),
        ("d/*", ["d/.hidden", "d/a.txt", "d/e"]),
        ("dirlink/*/x", ["dirlink/e/x"]),
        ("?/[^b-z]*", ["d/.hidden", "d/a.txt"]),
        ("./[aD]", ["./D", "./a"]),
        ("d/**/x", ["d/e/x"]),
        ("**/x", ["d/e/x"]),
        ("**/e/", ["d/e/"]),
        ("d/**", ["d", "d/.hidden", "d/e"]),
        ("odd/\\*", ["odd/*"]),
        ("odd/[b]*", [os.fsdecode(b"odd/b\xff")]),
        ("no*such\na*x", ["no*such", "a*x"]),
        ("", []),
    ],
)  # fmt: skip
def test_lists_of_patterns(tree: Path, lines: str, paths: list[str]) -> None:
    assert listed(os.fsencode(lines)) == paths
    os.chdir("/")
    Path(tree / "list").write_bytes(os.fsencode(lines))
    assert [path for path in read_list(f"{tree}/list", nul=False, base=str(tree)) if path != "list"] == paths


def test_lists_of_absolute_patterns(tree: Path) -> None:
    assert listed(f"{tree}/d*\n".encode(), base="/nosuch") == [f"{tree}/d", f"{tree}/d-x", f"{tree}/dirlink"]


def test_lists_of_names(tree: Path) -> None:
    names = ["a", "#x", " *", "n\nl", os.fsdecode(b"\xff")]
    assert listed(b"".join(os.fsencode(name) + b"\0" for name in names), nul=True) == names
    assert listed(b"", nul=True) == []
    for torn in (b"a\0b", b"a\n", b"a\0\0"):
        with pytest.raises(UsageError, match=r"^list: "):
            listed(torn, nul=True)


def test_what_is_given_in_a_list_is_walked(tree: Path) -> None:
    found = subprocess.run(["find", ".", "-print0"], capture_output=True, check=True).stdout
    names = {node.name for node in Walked(*listed(found, nul=True)).nodes}
    assert names == set(Walked(".").names)


def test_lists_in_other_encodings(tree: Path) -> None:
    for content in (
        "é\na\n".encode("utf-16"),
        b"\xef\xbb\xbf" + "é\na\n".encode(),
        b"\xfe\xff" + "é\na".encode("utf-16-be"),
    ):
        assert listed(content) == ["é", "a"]
    with pytest.raises(UsageError, match=r"list: "):
        listed(b"\xff\xfea")


@pytest.mark.parametrize(
    "read", [lambda path: read_list(path, nul=False), lambda path: read_list(path, nul=True), read_patterns]
)
def test_lists_that_cannot_be_read_are_named(tree: Path, read: Callable[[str], list[str]]) -> None:
    with pytest.raises(NoSuchInput, match=r"^nosuch: No such file"):
        read("nosuch")
    with pytest.raises(UsageError, match=r"^cannot read d: Is a directory"):
        read("d")


def test_a_wrong_pattern_in_a_list_is_named(tree: Path) -> None:
    with pytest.raises(UsageError, match=r"^list: not a pattern: d/\[a"):
        listed(b"a\nd/[a\n")


def test_lists_from_standard_input(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for content, read, found in (
        (b"a\n#\nd*\n", lambda: read_list("-", nul=False), ["a", "d", "d-x", "dirlink"]),
        (b"d*\0", lambda: read_list("-", nul=True), ["d*"]),
        (b"*.o\n#\n", lambda: read_patterns("-"), ["*.o"]),
    ):
        monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO(content)))
        assert read() == found


def test_lists_of_exclude_patterns(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHERE", "/home/u")
    monkeypatch.setenv("A1", "one")
    monkeypatch.delenv("UNSET", raising=False)
    lines = {
        "*.o": "*.o",
        "  spaced out\t": "spaced out",
        "!keep": "!keep",
        "$WHERE/x": "/home/u/x",
        "${WHERE}x": "/home/ux",
        "!$WHERE/$A1-$A1.": "!/home/u/one-one.",
        "$UNSET/x": "/x",
        "$$WHERE": "$WHERE",
        "${$}x": "$x",
        "a$": "a$",
        "a$.b$/": "a$.b$/",
        "x$1y$*z": "xyz",
        "a${b": "ab",
        "a${}b": "ab",
        "~/x": "~/x",
        "\\#x": "\\#x",
    }
    Path("list").write_text("# a comment\n\n" + "\n".join(lines) + "\r\n   # another\n")
    assert read_patterns("list") == list(lines.values())

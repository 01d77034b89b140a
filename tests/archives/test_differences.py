"""What differs between two archives, and between an archive and the disk."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit import oracle
from kit.built import CHUNK, KEY, Built
from kit.commands import Runner
from kit.files import plant_socket, text
from pogfast.archives import differences
from pogfast.archives.archive import Archive
from pogfast.archives.differences import Change, Compared, Difference, compare, diff
from pogfast.archives.lookup import open_archive
from pogfast.errors import CorruptBlob, MissingBlob, PogfastError, SourceError, UnsafePath
from pogfast.files.metadata import facts_of


@pytest.fixture
def built(tmp_path: Path) -> Built:
    return Built(tmp_path / "store")


# ---- two archives ----------------------------------------------------------------------------------------------------

CUT = {"layout": "frames", "chunk_size": CHUNK, "level": 3}


def changes(
    built: Built, before: Callable[[], dict[str, Any] | None], after: Callable[[], dict[str, Any] | None]
) -> list[Change]:
    where = [built.seal(f"{number}.mfn", fill()) for number, fill in enumerate((before, after))]
    with open_archive(where[0], KEY) as one, open_archive(where[1], KEY) as other:
        return list(diff(one, other))


def test_all_that_can_differ(built: Built) -> None:
    def before() -> dict[str, Any]:
        for name in ("same", "touched", "chmodded", "becomes a directory", "gone"):
            built.add(name, text(2 * CHUNK), mode=0o644, uid=1, mtime_ns=5)
        built.add("changed", text(2 * CHUNK), mode=0o644, mtime_ns=5)
        built.add("same length", text(2 * CHUNK), mtime_ns=5)
        return {
            **CUT,
            "directories": {"d": {"mode": 0o755}, "d/gone": {}, "d/same": {"mode": 1}},
            "links": {"l": {"target": "same", "mode": 0o777}, "m": {"target": "same", "uid": 1}},
            "fifos": {"p": {"mode": 0o600, "mtime_ns": 1}},
        }

    def after() -> dict[str, Any]:
        built.add("same", text(2 * CHUNK), mode=0o644, uid=1, mtime_ns=5)
        built.add("touched", text(2 * CHUNK), mode=0o644, uid=1, mtime_ns=6)
        built.add("chmodded", text(2 * CHUNK), mode=0o600, uid=2, mtime_ns=5, xattrs={"user.a": "YQ=="})
        built.add("changed", text(2 * CHUNK) + b"more", mode=0o600, mtime_ns=6)
        built.add("same length", text(2 * CHUNK, 1), mtime_ns=5)
        built.add("d/new", b"new")
        return {
            **CUT,
            "directories": {"d": {"mode": 0o700}, "becomes a directory": {}, "d/same": {"mode": 1, "uid": 3}},
            "links": {"l": {"target": "other", "mode": 0o777}, "m": {"target": "same", "uid": 2}},
            "fifos": {"p": {"mode": 0o600, "mtime_ns": 2}},
        }

    size = 2 * CHUNK
    assert changes(built, before, after) == [
        Change("becomes a directory", "type", "directory", "file", size),
        Change("changed", "modified", "file", "file", size, size + 4, ["mode", "mtime_ns"]),
        Change("chmodded", "metadata", "file", "file", size, size, ["mode", "uid", "xattrs"]),
        Change("d", "metadata", "directory", "directory", metadata=["mode"]),
        Change("d/gone", "removed", "directory", "directory"),
        Change("d/new", "added", "file", "file", None, 3),
        Change("gone", "removed", "file", "file", size),
        Change("l", "modified", "link", "link"),
        Change("m", "metadata", "link", "link", metadata=["uid"]),
        Change("p", "metadata", "fifo", "fifo", metadata=["mtime_ns"]),
        Change("same length", "modified", "file", "file", size, size),
        Change("touched", "metadata", "file", "file", size, size, ["mtime_ns"]),
    ]


@pytest.mark.parametrize(
    ("size", "mtime", "change"), [(0, 0, None), (0, 1, "uncertain"), (1, 0, "modified"), (1, 1, "modified")]
)
@pytest.mark.parametrize("other", [{**CUT, "chunk_size": 600}, {**CUT, "level": 4}, {"layout": "stream"}, None])
def test_blobs_tell_nothing_when_cut_differently(
    built: Built, other: dict[str, Any] | None, size: int, mtime: int, change: str | None
) -> None:
    def before() -> dict[str, Any]:
        built.add("f", text(3 * CHUNK), mtime=1.5)
        built.add("small", b"small", mtime=1.5)
        return CUT

    def after() -> dict[str, Any] | None:
        built.add("f", text(3 * CHUNK + size), chunk_size=600, mtime=1.5 + mtime)
        built.add("small", b"small", mtime=1.5)
        return other

    found = [(one.name, one.change) for one in changes(built, before, after)]
    assert found == ([("f", change)] if change else [])


def test_pogs_archives_are_cut_alike_and_have_few_facts(built: Built) -> None:
    def before() -> None:
        built.add("same", b"x", "stream", mtime=2.0)
        built.add("touched", b"x", "stream", mtime=2.0)
        built.add("changed", b"x", "stream", mtime=2.0)

    def after() -> None:
        built.add("same", b"x", "stream", mtime=2.0, mode=0o600, mtime_ns=2 * 10**9, xattrs={"user.x": ""})
        built.add("touched", b"x", "stream", mtime=2.5)
        built.add("changed", b"y", "stream", mtime=2.0)

    assert changes(built, before, after) == [
        Change("changed", "modified", "file", "file"),
        Change("touched", "metadata", "file", "file", metadata=["mtime_ns"]),
    ]


NAMES = st.dictionaries(st.sampled_from("abcdef"), st.tuples(st.integers(0, 2), st.integers(0, 1)), max_size=6)


@given(before=NAMES, after=NAMES)
def test_what_differs_is_what_differs(
    tmp_path: Path, before: dict[str, tuple[int, int]], after: dict[str, tuple[int, int]]
) -> None:
    built = Built(tmp_path)

    def filling(names: dict[str, tuple[int, int]]) -> Callable[[], dict[str, Any]]:
        def fill() -> dict[str, Any]:
            for name, (content, mode) in names.items():
                built.add(name, b"x" * content, mode=mode)
            return CUT

        return fill

    found = {change.name: change.change for change in changes(built, filling(before), filling(after))}
    expected = dict.fromkeys(after.keys() - before.keys(), "added")
    expected |= dict.fromkeys(before.keys() - after.keys(), "removed")
    for name in before.keys() & after.keys():
        if before[name] != after[name]:
            expected[name] = "metadata" if before[name][0] == after[name][0] else "modified"
    assert found == expected
    assert list(found) == sorted(found)


# ---- an archive and the disk -----------------------------------------------------------------------------------------


class Heard:
    """What was reported."""

    def __init__(self) -> None:
        self.differences: list[Difference] = []
        self.problems: list[PogfastError] = []

    def started(self, progress: Compared) -> None:
        assert progress.files == 0
        self.progress = progress

    def difference(self, difference: Difference) -> None:
        self.differences.append(difference)

    def problem(self, error: PogfastError) -> None:
        self.problems.append(error)


class Tree:
    """A directory with all kinds of things, and an archive of it."""

    def __init__(self, built: Built, root: Path) -> None:
        self.built, self.root = built, root
        (root / "d" / "e").mkdir(parents=True)
        (root / "d" / "empty").mkdir()
        self.contents = {
            "d/f": text(3 * CHUNK + 5),
            "d/e/g": random.Random(1).randbytes(2 * CHUNK),
            "top": b"",
            "s": b"s",
        }
        for name, content in self.contents.items():
            (root / name).write_bytes(content)
        (root / "d" / "l").symlink_to("f")
        os.mkfifo(root / "d" / "p")

    def archive(self, *, pogs: bool = False, **more: Any) -> Archive:
        trailer: dict[str, Any] = {"directories": {}, "links": {}, "fifos": {}, **more}
        for name, content in self.contents.items():
            facts = facts_of(str(self.root / name), os.lstat(self.root / name))
            layout = "stream" if pogs or name == "s" else "frames"
            mtime = os.lstat(self.root / name).st_mtime
            self.built.add(name, content, layout, mtime=mtime, **({} if pogs else facts))
        for name, kind in {"d": "directories", "d/e": "directories", "d/empty": "directories", "d/p": "fifos"}.items():
            trailer[kind][name] = facts_of(str(self.root / name), os.lstat(self.root / name))
        trailer["links"]["d/l"] = {"target": "f", **facts_of(str(self.root / "d/l"), os.lstat(self.root / "d/l"))}
        return self.built.open(None if pogs else trailer)


@pytest.fixture
def tree(built: Built, tmp_path: Path) -> Tree:
    return Tree(built, tmp_path / "root")


def compared(tree: Tree, archive: Archive) -> tuple[list[Difference], Heard, Compared]:
    heard = Heard()
    with archive:
        done = compare(archive, str(tree.root), heard)
    assert done is heard.progress
    assert (done.files, done.total_files, done.differences) == (len(archive), len(archive), len(heard.differences))
    assert done.problems == heard.problems
    return heard.differences, heard, done


@pytest.mark.parametrize("pogs", [False, True])
def test_what_is_as_it_was_does_not_differ(tree: Tree, pogs: bool) -> None:
    found, heard, done = compared(tree, tree.archive(pogs=pogs))
    extra = ["d/empty", "d/l", "d/p"] if pogs else []
    assert [(one.name, one.difference) for one in found] == [(name, "extra") for name in extra]
    assert heard.problems == []
    assert done.size == sum(map(len, tree.contents.values()))
    assert done.exit_code == (1 if pogs else 0)


def write(path: Path, content: bytes) -> None:
    """Changes content, and nothing else."""
    times = os.stat(path)
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.mark.parametrize("at", [0, 1, CHUNK - 1, CHUNK, 3 * CHUNK + 4])
def test_the_first_byte_that_differs_is_told(tree: Tree, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    monkeypatch.setattr(differences, "PIECE", 300)
    archive = tree.archive()
    content = bytearray(tree.contents["d/f"])
    content[at] ^= 1
    content[-1] ^= 1 if at != len(content) - 1 else 0
    write(tree.root / "d/f", bytes(content))
    found, _, done = compared(tree, archive)
    assert found == [Difference("d/f", "content", "file", 3 * CHUNK + 5, 3 * CHUNK + 5, at)]
    assert done.exit_code == 1


@pytest.mark.parametrize("pogs", [False, True])
@pytest.mark.parametrize("content", [b"", b"longer", b"S"])
def test_other_lengths_are_other_content(tree: Tree, content: bytes, pogs: bool) -> None:
    archive = tree.archive(pogs=pogs)
    write(tree.root / "s", content)
    write(tree.root / "top", b"top")
    found, _, _ = compared(tree, archive)
    files = [one for one in found if one.difference == "content"]
    assert [(one.name, one.size_on_disk) for one in files] == [("s", len(content)), ("top", 3)]
    if pogs:
        assert [(one.size, one.offset) for one in files] == [(None, 0), (None, 0)]


def test_all_that_can_be_otherwise(tree: Tree) -> None:
    archive = tree.archive()
    root = tree.root
    (root / "s").unlink()
    (root / "d/e/new").write_bytes(b"new")
    (root / "d/e/dir" / "below").mkdir(parents=True)
    shutil.rmtree(root / "d/empty")
    (root / "d/empty").symlink_to("e")
    (root / "not of it").write_bytes(b"beside what was archived")
    (root / "d/l").unlink()
    (root / "d/l").symlink_to("elsewhere")
    (root / "d/p").unlink()
    plant_socket(root / "d/p")
    os.chmod(root / "top", 0o600)
    os.utime(root / "d/e/g", ns=(5, 5))
    os.chmod(root / "d/f", 0o600)
    write(root / "d/f", b"otherwise")
    found, _, done = compared(tree, archive)
    by_name = {one.name: (one.difference, one.kind, one.metadata) for one in found}
    times = ["mtime_ns"]
    assert by_name["d/e/dir"] == ("extra", "directory", [])
    assert by_name["d/e/new"] == ("extra", "file", [])
    assert by_name["s"] == ("missing", "file", [])
    assert by_name["d/empty"] == ("type", "directory", [])
    assert by_name["d/p"] == ("type", "fifo", [])
    assert by_name["d/l"][:2] == ("content", "link")
    assert by_name["top"] == ("metadata", "file", ["mode"])
    assert by_name["d/e/g"] == ("metadata", "file", times)
    assert by_name["d/f"] == ("content", "file", ["mode"])
    assert by_name["d"] == by_name["d/e"] == ("metadata", "directory", times)
    assert len(by_name) == len(found) == 11
    assert done.exit_code == 1
    assert found[0].as_dict()["name"] == "d"


def test_nothing_is_extra_behind_a_link(tree: Tree) -> None:
    """The target of a directory that is a link now is neither compared nor named."""
    archive = tree.archive()
    (tree.root / "d").rename(tree.root.parent / "moved")
    (tree.root / "d").symlink_to(tree.root.parent / "moved")
    (tree.root / "d" / "e" / "new").write_bytes(b"")
    found, _, _ = compared(tree, archive)
    below = [("d/e", "missing"), ("d/e/g", "missing")]
    rest = [(name, "missing") for name in ("d/empty", "d/f", "d/l", "d/p")]
    assert [(one.name, one.difference) for one in found] == [("d", "type"), *below, *rest]


def test_all_is_missing_from_an_empty_directory(tree: Tree, tmp_path: Path) -> None:
    archive = tree.archive()
    shutil.rmtree(tree.root)
    found, _, _ = compared(tree, archive)
    assert {one.difference for one in found} == {"missing"}
    assert len(found) == 9


def test_the_root_is_compared_where_the_archive_has_it(tree: Tree) -> None:
    archive = tree.archive()
    archive.directories[""] = {"mode": 0o755}
    os.chmod(tree.root, 0o700)
    (tree.root / "new").mkdir()
    found, _, _ = compared(tree, archive)
    assert [(one.name, one.difference) for one in found] == [("", "metadata"), ("new", "extra")]


def test_what_could_not_be_archived_is_not_extra(tree: Tree) -> None:
    for name in ("socket", "secret", "forgotten"):
        (tree.root / "d" / name).write_bytes(b"")
    left_out = {str(tree.root / "d" / "secret"): "permission denied"}
    archive = tree.archive(skipped={str(tree.root / "d" / "socket"): "a socket"}, unreadable=left_out)
    found, _, _ = compared(tree, archive)
    assert [(one.name, one.difference) for one in found] == [("d/forgotten", "extra")]


def test_what_is_never_archived_is_not_extra(tree: Tree) -> None:
    archive = tree.archive()
    plant_socket(tree.root / "d" / "socket")
    os.mkfifo(tree.root / "d" / "fifo")
    found, _, _ = compared(tree, archive)
    assert [one.name for one in found if one.difference == "extra"] == ["d/fifo"]


def test_damage_is_told_and_the_rest_compared(tree: Tree) -> None:
    archive = tree.archive()
    blobs = archive["d/f"].blobs
    tree.built.blob(blobs[2]).unlink()
    os.truncate(tree.built.blob(archive["d/e/g"].blobs[0]), 200)
    write(tree.root / "s", b"S")
    found, heard, done = compared(tree, archive)
    assert [(one.name, one.difference) for one in found] == [("s", "content")]
    assert [type(problem) for problem in heard.problems] == [CorruptBlob, MissingBlob]
    assert f"d/f, from byte {2 * CHUNK} on" in str(heard.problems[1])
    assert done.exit_code == 4


def test_what_cannot_be_read_on_the_disk_is_told(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = tree.archive()
    real = open

    def refuse(path: Any, *more: Any, **others: Any) -> Any:
        if str(path).endswith("d/f"):
            raise PermissionError(13, "Permission denied")
        return real(path, *more, **others)

    monkeypatch.setattr(differences, "open", refuse, raising=False)
    found, heard, done = compared(tree, archive)
    assert found == []
    assert [str(problem) for problem in heard.problems] == [f"cannot read {tree.root}/d/f: Permission denied"]
    assert isinstance(heard.problems[0], SourceError)
    assert done.exit_code == 3


def test_nothing_outside_is_looked_at(tree: Tree) -> None:
    tree.contents = {}
    archive = tree.archive()
    for name in ("../top", "d/../../x"):
        tree.built.add(name, b"x")
    tree.built.add("/s", b"s", mtime=os.stat(tree.root / "s").st_mtime)
    archive.close()
    found, heard, _ = compared(tree, tree.built.open())
    assert [one for one in found if one.difference != "extra"] == []
    assert [type(problem) for problem in heard.problems] == [UnsafePath, UnsafePath]


# ---- names that no archive of ours has -------------------------------------------------------------------------------

HOSTILE = [
    "\ud800",
    "a/\ud800",
    "../outside",
    "a/../../outside",
    "..",
    ".",
    "",
    "/",
    "nul\0",
    "/etc/passwd",
    "a//b",
    "d/",
]
HOSTILE += ["link/secret", "fifo", "fifo/below", "x" * 300, "\ud800/../y", "\udcff"]


@pytest.mark.parametrize("section", ["entries", "directories", "links", "fifos", "parents"])
def test_hostile_names_lead_nowhere(tmp_path: Path, pogfast: Runner, section: str) -> None:
    """Not one is a defect of ours, no link is followed, no FIFO waited for, and nothing outside of PATH is looked at
    or made."""
    built = Built(tmp_path / "store", oracle.OracleKey.of_keyfile(b"a key"))
    (tmp_path / "key").write_bytes(b"a key")
    (tmp_path / "key").chmod(0o600)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_bytes(b"secret")
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "link").symlink_to("../outside")
    os.mkfifo(tmp_path / "disk" / "fifo")
    facts = {"mode": 0o777, "user": "\ud800", "xattrs": {"user.\ud800": "AA=="}, "target": "\ud800"}
    trailer: dict[str, Any] = {"top": {"mode": 0o755}, "host": "\ud800", "tags": ["\ud800"], "comment": "\ud800"}
    for name in HOSTILE:
        if section == "entries":
            built.add(name, b"content")
        else:
            trailer.setdefault(section, {})[name] = facts
    built.add("good", b"good")
    one = built.seal("2026-01-01T00:00:00.000000.mfn", trailer)
    built.add("good", b"good")
    built.seal("2026-01-02T00:00:00.000000.mfn", {"top": {"mode": 0o700}})
    before = sorted(tmp_path.rglob("*"))
    for words in (
        ["check", one, "--against", "disk"],
        ["check", one, "--against", "disk", "--json"],
        ["restore", one, "--into", "disk", "--dry-run"],
        ["restore", one, "--into", "new", "--dry-run", "--json"],
        ["diff", one, "store/latest"],
        ["diff", "store/latest", one, "--json"],
        ["ls", "-l", one],
        ["ls", "--tree", one],
        ["find", "store", "*"],
    ):
        ran = pogfast(*words, "--keyfile", "key")
        assert "defect" not in ran.err, words
        assert b"outside/" not in ran.out, "what lies there is not listed"
    left = [path for path in sorted(tmp_path.rglob("*")) if "cache" not in path.parts]
    assert left == before
    ran = pogfast("restore", one, "--into", "disk", "--keyfile", "key", "--overwrite", "always")
    assert "defect" not in ran.err
    assert (tmp_path / "disk" / "good").read_bytes() == b"good"
    assert os.listdir(tmp_path / "outside") == ["secret"]
    assert (tmp_path / "outside" / "secret").read_bytes() == b"secret"
    assert {path.name for path in tmp_path.iterdir()} <= {"store", "key", "outside", "disk", "cache"}

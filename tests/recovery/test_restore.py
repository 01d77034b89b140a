"""pogfast's restore, on real trees: what is restored, left alone or refused, and that no path leaves the target."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit import oracle
from pogfast import manifest, recovery
from pogfast._engine import BlobDirectory
from pogfast.errors import (
    CorruptManifest,
    MissingBlob,
    NoSuchEntry,
    PogfastError,
    StoreError,
    TargetError,
    UnsafePath,
    UsageError,
)
from pogfast.files import directories as directories_module
from pogfast.files import metadata
from pogfast.files.directories import Directories, many_open_files
from pogfast.files.metadata import facts_of
from pogfast.files.paths import normal_path, safe_path
from pogfast.keys import from_keyfile
from pogfast.recovery import Options, Progress, Silent, Summary, restore_archive, run
from pogfast.recovery.batches import Outcome
from pogfast.recovery.plan import Place, Plan

KEY = oracle.OracleKey.of_keyfile(b"k")
ROAD = sys.modules["pogfast.recovery.batches"]  # `pogfast.restore` is the function
ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root may do this")
BAD = os.fsdecode(b"bad\xff\xfe")


# ---- archives of real trees ----------------------------------------------------------------------------------------


@dataclass
class Archive:
    """An archive as a restore sees it: a manifest, and a source of blobs that counts what is fetched."""

    entries: dict[str, Any] = field(default_factory=dict)
    trailer: dict[str, Any] = field(default_factory=lambda: {"directories": {}, "links": {}, "fifos": {}})
    blobs: dict[str, bytes] = field(default_factory=dict)
    fetched: list[str] = field(default_factory=list)

    def add(self, name: str, content: bytes, chunk_size: int = 10_000, layout: str = "frames", **more: object) -> None:
        names, blobs = oracle.seal_file(KEY, content, chunk_size, layout=layout)
        self.blobs |= blobs
        self.entries[name] = {"blobs": names, "atime": 0, "mtime": 0, "size": len(content), **more}
        if layout == "frames" and len(names) > 1:
            steps = range(0, len(content), chunk_size)
            self.entries[name]["sizes"] = [len(content[at : at + chunk_size]) for at in steps]

    def fetch(self, name: str) -> bytes:
        self.fetched.append(name)
        return self.blobs[name]

    def opened(self, key: Path) -> manifest.Manifest:
        """Through the bytes of a manifest, as a reader gets it."""
        data = oracle.seal_manifest(KEY, self.entries, self.trailer)
        return manifest.open(data, from_keyfile(str(key)), "made.mfn")


def archive_of(tree: Path, layout: str = "frames", prefix: str = "") -> Archive:
    """Archives everything in a tree except its top, as create does."""
    made = Archive()
    first: dict[int, str] = {}
    for path in sorted(tree.rglob("*"), key=os.fsencode):
        found = path.lstat()
        name, facts = prefix + str(path.relative_to(tree)), facts_of(str(path), found)
        if stat.S_ISDIR(found.st_mode):
            made.trailer["directories"][name] = facts
        elif stat.S_ISLNK(found.st_mode):
            made.trailer["links"][name] = {**facts, "target": os.readlink(path)}
        elif stat.S_ISFIFO(found.st_mode):
            made.trailer["fifos"][name] = facts
        else:
            if found.st_nlink > 1 and first.setdefault(found.st_ino, name) != name:
                facts["hardlink"] = first[found.st_ino]
            made.add(name, path.read_bytes(), layout=layout, **facts)
            made.entries[name] |= {"mtime": found.st_mtime, "atime": found.st_atime}
    return made


def tree_at(top: Path) -> dict[str, tuple[object, ...]]:
    """Returns everything below a directory that a restore should bring back."""
    found: dict[str, tuple[object, ...]] = {}
    inodes: dict[int, str] = {}
    for path in sorted(top.rglob("*"), key=os.fsencode):
        facts = path.lstat()
        content: object = None
        if stat.S_ISREG(facts.st_mode):
            content = path.read_bytes(), inodes.setdefault(facts.st_ino, str(path.relative_to(top)))
        elif stat.S_ISLNK(facts.st_mode):
            content = os.readlink(path)
        xattrs = metadata.facts_of(str(path), facts).get("xattrs")
        owner = facts.st_uid, facts.st_gid
        found[str(path.relative_to(top))] = (oct(facts.st_mode), owner, facts.st_mtime_ns, content, xattrs)
    return found


class Told(Silent):
    """A report that keeps what it receives."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, Outcome]] = []
        self.problems: list[PogfastError] = []
        self.warnings: list[str] = []
        self.progress: Callable[[], Progress] = lambda: Progress(0, 0, 0, 0, 0)

    def started(self, progress: Callable[[], Progress]) -> None:
        assert progress()[:3] == (0, 0, 0)
        self.progress = progress

    def entry(self, name: str, outcome: Outcome, size: int) -> None:
        self.entries.append((name, outcome))

    def problem(self, error: PogfastError) -> None:
        self.problems.append(error)

    def warning(self, text: str) -> None:
        self.warnings.append(text)

    def of(self, outcome: Outcome) -> list[str]:
        return sorted(name for name, what in self.entries if what == outcome)


@dataclass
class Work:
    """Directories of a test: `tree` to archive, `out` to restore into."""

    top: Path

    def __post_init__(self) -> None:
        self.tree, self.out, self.key = self.top / "tree", self.top / "out", self.top / "key"
        self.tree.mkdir()
        self.key.write_bytes(b"k")
        self.told = Told()

    def restore(self, made: Archive, source: object = None, **more: Any) -> Summary:
        """Restores into `out`. What is reported is in `told`, and agrees with the summary."""
        self.told = Told()
        made.fetched.clear()
        more.setdefault("jobs", 2)
        summary = restore_archive(
            made.opened(self.key),
            source or made.fetch,  # type: ignore[arg-type]
            from_keyfile(str(self.key)),
            str(self.out),
            report=self.told,
            **more,
        )
        assert summary.problems == self.told.problems
        assert summary.warnings == len(self.told.warnings)
        assert sorted(summary.refused) == self.told.of("refused")
        assert summary.unchanged == len(self.told.of("unchanged"))
        made_here = summary.files + summary.links + summary.fifos + summary.directories
        assert made_here == len(self.told.of("restored"))
        assert summary.deleted == len(self.told.of("deleted"))
        progress = self.told.progress()
        assert (progress.files, progress.bytes_done) == (progress.total_files, progress.total_bytes)
        assert progress.bytes_written == summary.bytes_written
        return summary

    def messages(self) -> list[str]:
        return [str(problem) for problem in self.told.problems]


@pytest.fixture
def work(tmp_path: Path) -> Work:
    return Work(tmp_path)


def write(path: Path, content: bytes, mode: int = 0o644, mtime_ns: int = 1_500_000_000_123_456_789) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(mode)
    os.utime(path, ns=(mtime_ns, mtime_ns))
    return path


def furnish(tree: Path) -> None:
    """One of everything."""
    write(tree / "plain", b"plain\n", 0o640)
    write(tree / "empty", b"", 0o400)
    write(tree / "d" / "big", random.Random(1).randbytes(55_555), 0o755)
    write(tree / "d" / "e" / "deep", b"x" * 30_000)
    write(tree / "d" / "e" / BAD, b"a name that is not UTF-8", mtime_ns=-1)
    (tree / "d" / BAD).symlink_to(os.fsdecode(b"../\xff/target"))
    os.link(tree / "d" / "big", tree / "again")
    os.link(tree / "d" / "big", tree / "d" / "third")
    (tree / "none" / "at" / "all").mkdir(parents=True)
    (tree / "link").symlink_to("d/e")
    (tree / "dangling").symlink_to("/nowhere/to/be found")
    os.mkfifo(tree / "fifo")
    (tree / "fifo").chmod(0o612)
    if sys.platform == "linux":
        os.setxattr(tree / "d", "user.of-a-directory", b"1")
        os.setxattr(tree / "plain", "user.of-a-file", b"\0\xff")
    for number, path in enumerate(sorted(tree.rglob("*"), reverse=True)):
        if path.is_dir() and not path.is_symlink():
            path.chmod((0o755, 0o700, 0o1777, 0o555)[number % 4])
        if path.is_symlink() or path.is_dir():
            os.utime(path, ns=(10**18 + number, 10**18 + number), follow_symlinks=False)


# ---- everything comes back -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["frames", "stream"])
@pytest.mark.parametrize("jobs", [1, 2, 5])
def test_a_tree_comes_back_with_all_that_was_kept(work: Work, layout: str, jobs: int) -> None:
    furnish(work.tree)
    made = archive_of(work.tree, layout)
    summary = work.restore(made, jobs=jobs)
    assert tree_at(work.out) == tree_at(work.tree)
    assert (work.told.problems, work.told.warnings) == ([], [])
    assert (summary.files, summary.links, summary.fifos, summary.directories) == (7, 3, 1, 5)
    assert summary.bytes_written == sum(e["size"] for e in made.entries.values() if "hardlink" not in e)
    assert summary.exit_code == 0
    assert len(made.fetched) == len(set(made.fetched)), "each blob once"


@pytest.mark.parametrize("no_sync", [False, True])
def test_both_times_of_a_file_come_back(work: Work, no_sync: bool) -> None:
    made = Archive()
    made.add("f", b"content", atime_ns=1_500_000_000_000_000_100, mtime_ns=1_600_000_000_000_000_200)
    work.restore(made, no_sync=no_sync)
    found = (work.out / "f").stat()
    assert (found.st_atime_ns, found.st_mtime_ns) == (1_500_000_000_000_000_100, 1_600_000_000_000_000_200)


def test_a_store_that_is_a_directory(work: Work) -> None:
    furnish(work.tree)
    made = archive_of(work.tree)
    store = work.top / "store"
    store.mkdir()
    for name, blob in made.blobs.items():
        (store / name).write_bytes(blob)
    descriptor = os.open(store, os.O_RDONLY)
    work.restore(made, BlobDirectory(descriptor, False))
    os.close(descriptor)
    assert tree_at(work.out) == tree_at(work.tree)


def test_an_archive_by_its_name(work: Work) -> None:
    """As the command line has it: the archive is found, and its store closed again."""
    furnish(work.tree)
    made, store, key = archive_of(work.tree), work.top / "store", from_keyfile(str(work.key))
    for name, blob in made.blobs.items():
        write(store / "data" / name[:2] / name, blob)
    write(store / "2026-01-01T00:00:00.000000.mfn", oracle.seal_manifest(KEY, made.entries, made.trailer))
    before = len(os.listdir("/dev/fd"))
    assert recovery.restore(f"{store}/latest", key, str(work.out), jobs=2).problems == []
    assert tree_at(work.out) == tree_at(work.tree)
    again = recovery.restore(f"{store}/2026-01-01T00:00:00.000000.mfn", key, str(work.out), names=["d"])
    assert (again.files, again.unchanged) == (0, 5)
    assert len(os.listdir("/dev/fd")) == before


@pytest.mark.parametrize(
    "wrong", [{"overwrite": "perhaps"}, {"strip_components": -1}, {"jobs": 0}, {"options": Options(), "dry_run": True}]
)
def test_options_that_cannot_be_meant(work: Work, wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        work.restore(Archive(), **wrong)
    assert not work.out.exists()


@ROOT
def test_owners_come_back_for_root(work: Work) -> None:
    furnish(work.tree)
    for number, path in enumerate([work.tree / "d", *work.tree.rglob("*")]):
        mode = path.lstat().st_mode
        os.chown(path, 30_000 + number, 40_000 + number, follow_symlinks=False)
        if not path.is_symlink():
            path.chmod(stat.S_IMODE(mode))
    write(work.tree / "setuid", b"s").chmod(0o6755)
    assert work.restore(archive_of(work.tree), set_id=True).exit_code == 0
    assert tree_at(work.out) == tree_at(work.tree)


@ROOT
def test_owners_by_number_or_by_name(work: Work) -> None:
    made = Archive()
    made.add("f", b"1", mode=0o644, uid=12345, gid=12345, user="root", group="root")
    made.trailer["directories"]["d"] = {"mode": 0o755, "uid": 12345, "gid": 12345, "user": "root", "group": "root"}
    work.restore(made)
    assert [(work.out / name).stat().st_uid for name in ("f", "d")] == [0, 0]
    work.restore(made, numeric_owner=True, overwrite="always")
    assert [(work.out / name).stat().st_gid for name in ("f", "d")] == [12345, 12345]


@contextlib.contextmanager
def as_nobody() -> Iterator[Work]:
    """The body of the `with` must be a call of `in_child`; the work directory is nobody's."""
    top = Path(tempfile.mkdtemp(prefix="pogfast-test-"))
    try:
        work = Work(top)
        for path in (top, work.tree):
            os.chown(path, 65534, 65534)
        yield work
    finally:
        shutil.rmtree(top)


def in_child(test: Callable[[], None]) -> None:
    """Runs a test as the user nobody."""
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            test()
        except BaseException:  # noqa: BLE001  whatever it is, the child must end here
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@ROOT
def test_a_tree_comes_back_for_others_than_root() -> None:
    def test() -> None:
        furnish(work.tree)
        made = archive_of(work.tree)
        assert work.restore(made).exit_code == 0
        assert work.told.warnings == []
        assert tree_at(work.out) == tree_at(work.tree)
        again = work.restore(made)
        assert (again.files, again.unchanged, again.exit_code) == (0, 11, 0)

    with as_nobody() as work:
        in_child(test)


@ROOT
def test_others_than_root_get_files_of_their_own() -> None:
    def test() -> None:
        made = Archive()
        made.add("f", b"1", mode=0o6751, uid=0, gid=0, user="root", group="root")
        made.add("own", b"1", mode=0o6777, uid=65534, gid=65534)
        made.trailer["directories"]["d"] = {"mode": 0o750, "uid": 0, "gid": 0}
        made.trailer["links"]["l"] = {"target": "f", "uid": 0, "gid": 0}
        assert work.restore(made).exit_code == 0
        assert [text.partition(":")[0] for text in work.told.warnings] == [
            "set-id bits or capabilities were left out (1)"
        ]
        assert [stat.S_IMODE((work.out / name).stat().st_mode) for name in ("f", "own")] == [0o751, 0o777]
        assert {(work.out / name).lstat().st_uid for name in ("f", "d", "l")} == {65534}
        assert work.restore(made, set_id=True, overwrite="if-changed").metadata == 1
        assert [stat.S_IMODE((work.out / name).stat().st_mode) for name in ("f", "own")] == [0o751, 0o6777]


@ROOT
def test_metadata_that_only_the_owner_can_restore() -> None:
    """Of what may be neither read nor written to."""

    def test() -> None:
        furnish(work.tree)
        (work.tree / "empty").chmod(0o600)
        os.setxattr(work.tree / "empty", "user.x", b"1")
        (work.tree / "empty").chmod(0o400)
        (work.tree / "none").chmod(0o755)
        os.setxattr(work.tree / "none", "user.x", b"1")
        (work.tree / "none").chmod(0o555)
        made = archive_of(work.tree)
        work.restore(made)
        for name in ("plain", "fifo"):
            (work.out / name).chmod(0)
        (work.out / "empty").chmod(0o600)
        os.setxattr(work.out / "empty", "user.x", b"changed")
        (work.out / "empty").chmod(0o400)
        (work.out / "d" / "big").chmod(0o111)
        (work.out / "d" / "e").chmod(0o500)
        (work.out / "d" / "e" / "deep").chmod(0o777)
        summary = work.restore(made, overwrite="if-changed")
        assert (summary.exit_code, summary.metadata, summary.files, work.told.warnings) == (0, 4, 3, [])
        assert tree_at(work.out) == tree_at(work.tree)
        (work.tree / "none").chmod(0o755)
        (work.out / "none").chmod(0o755)

    with as_nobody() as work:
        in_child(test)

    with as_nobody() as work:
        in_child(test)


@ROOT
def test_directories_that_their_owner_may_not_write_to_are_restored_into_again() -> None:
    def test() -> None:
        for name in ("d/e/f", "d/g/h", "alone/x"):
            write(work.tree / name, name.encode())
        for name in ("d/e", "d/g", "d", "alone"):
            (work.tree / name).chmod(0o555)
        made = archive_of(work.tree)
        work.restore(made)
        for name in ("d", "d/e", "alone"):
            (work.out / name).chmod(0o755)
        (work.out / "d" / "e" / "f").unlink()
        (work.out / "d" / "e").rmdir()
        write(work.out / "d" / "surplus", b"1")
        write(work.out / "alone" / "x", b"changed content")
        for name in ("d", "alone"):
            (work.out / name).chmod(0o555)
        assert work.restore(made, names=["alone/x"], overwrite="if-changed").exit_code == 3, "alone is not selected"
        assert work.messages() == ["alone/x: cannot be written: Permission denied"]
        assert work.restore(made, overwrite="if-changed", delete=True).exit_code == 0
        assert work.told.of("deleted") == ["d/surplus"]
        assert tree_at(work.out) == tree_at(work.tree)
        (work.out / "d" / "e").chmod(0o755)
        (work.out / "d" / "e" / "f").unlink()
        (work.out / "d" / "e").chmod(0o555)
        assert work.restore(made).exit_code == 0
        assert tree_at(work.out) == tree_at(work.tree), "what is opened up for writing gets its own again"
        for path in (*work.tree.rglob("*"), *work.out.rglob("*")):
            if path.is_dir():
                path.chmod(0o755)

    with as_nobody() as work:
        in_child(test)


def test_archives_of_pog_come_back_with_its_times_and_modes(work: Work) -> None:
    made = Archive()
    made.add("a/b", b"x" * 25_000, layout="stream")
    made.add("c", b"")
    made.entries = {
        name: {"blobs": entry["blobs"], "atime": 12.5, "mtime": 1_600_000_000.25}
        for name, entry in made.entries.items()
    }
    made.trailer.clear()
    before = os.umask(0o027)
    try:
        assert work.restore(made).files == 2
    finally:
        os.umask(before)
    modes = {name: stat.S_IMODE((work.out / name).stat().st_mode) for name in ("a", "a/b", "c")}
    assert modes == {"a": 0o750, "a/b": 0o640, "c": 0o640}
    assert (work.out / "a/b").read_bytes() == b"x" * 25_000
    assert (work.out / "c").stat().st_mtime_ns == 1_600_000_000_250_000_000
    assert work.restore(made).unchanged == 2


def test_what_cannot_be_set_is_a_warning(work: Work) -> None:
    made = Archive()
    made.add("f", b"1", mode=0o600, xattrs={"nonsense.x": "AA=="})
    made.trailer["directories"]["d"] = {"mode": 0o700, "xattrs": {"nonsense.y": "AA=="}}
    made.trailer["fifos"]["p"] = {"mode": 0o600, "xattrs": {"user.z": ""}}
    summary = work.restore(made)
    assert (summary.exit_code, summary.missed, summary.warnings) == (3, 3, 3)
    assert [text.partition(":")[0] for text in work.told.warnings] == ["f", "p", "d"]
    assert "its extended attribute nonsense.x cannot be set: Operation not supported" in work.told.warnings[0]
    assert all((work.out / name).exists() for name in ("f", "d", "p"))


def test_directories_are_private_until_they_are_done(work: Work) -> None:
    """Their permissions come last; what is in them must not be open to all until then."""
    made = Archive()
    made.trailer["directories"]["d"] = {"mode": 0o755}
    made.add("d/f", b"1", mode=0o644)
    made.add("no-facts/f", b"2")
    seen = {}

    class Watching(Told):
        def entry(self, name: str, outcome: Outcome, size: int) -> None:
            seen[name] = stat.S_IMODE((work.out / name).parent.stat().st_mode)
            super().entry(name, outcome, size)

    opened, key = made.opened(work.key), from_keyfile(str(work.key))
    restore_archive(opened, made.fetch, key, str(work.out), jobs=1, report=Watching())
    assert (seen["d/f"], seen["no-facts/f"]) == (0o1700, 0o755)
    assert stat.S_IMODE((work.out / "d").stat().st_mode) == 0o755


def test_directories_on_the_way_get_their_metadata_when_they_are_made(work: Work) -> None:
    furnish(work.tree)
    made = archive_of(work.tree)
    work.restore(made, names=["d/e/deep"])
    assert tree_at(work.out) == {name: tree_at(work.tree)[name] for name in ("d", "d/e", "d/e/deep")}
    (work.out / "d").chmod(0o711)
    before = (work.out / "d").stat()
    work.restore(made, names=["d/e/" + BAD])
    assert (work.out / "d").stat() == before, "what was there already is not the restore's"


# ---- what is selected ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["plain"], ["plain"]),
        (["d/e"], ["d", "d/e", f"d/e/{BAD}", "d/e/deep"]),
        (["/d/e/", "./plain"], ["d", "d/e", f"d/e/{BAD}", "d/e/deep", "plain"]),
        (["link", "fifo"], ["fifo", "link"]),
        (["none"], ["none", "none/at", "none/at/all"]),
        (["none/at/all", "again"], ["again", "none", "none/at", "none/at/all"]),
    ],
)
def test_names_select(work: Work, names: list[str], expected: list[str]) -> None:
    furnish(work.tree)
    assert work.restore(archive_of(work.tree), names=names).exit_code == 0
    assert sorted(tree_at(work.out)) == expected
    everything = tree_at(work.tree)
    for name, found in tree_at(work.out).items():
        if name != "again":  # its first name is not selected
            assert found == everything[name]


def test_slash_selects_everything(work: Work) -> None:
    furnish(work.tree)
    assert work.restore(archive_of(work.tree), names=["/"]).exit_code == 0
    assert tree_at(work.out) == tree_at(work.tree)


def test_a_directory_without_an_entry_of_its_own_is_a_name(work: Work) -> None:
    made = Archive(trailer={})
    for name in ("a/b/1", "a/b/c/2", "a/bc", "x"):
        made.add(name, name.encode())
    work.restore(made, names=["a/b"])
    assert work.told.of("restored") == ["a/b/1", "a/b/c/2"]


@pytest.mark.parametrize(
    ("names", "exclude", "expected"),
    [
        (["*.c"], [], ["src/a.c", "src/sub/b.c"]),
        (["src/*.c"], [], ["src/a.c"]),
        (["sub"], [], ["src/sub", "src/sub/b.c", "src/sub/b.h"]),
        (["src"], ["*.h"], ["src", "src/a.c", "src/sub", "src/sub/b.c"]),
        ([], ["sub", "*.txt"], ["src", "src/a.c", "src/a.h"]),
        (["src", "*.c"], ["sub"], ["src", "src/a.c", "src/a.h"]),
        (["[x].txt"], [], ["[x].txt"]),
        (["/src/sub/*"], [], ["src/sub/b.c", "src/sub/b.h"]),
        (["src"], ["src/sub", "!src/sub/b.c"], ["src", "src/a.c", "src/a.h"]),
        (["src"], ["*.c", "!a.*"], ["src", "src/a.c", "src/a.h", "src/sub", "src/sub/b.h"]),
    ],
)
def test_patterns_select(work: Work, names: list[str], exclude: list[str], expected: list[str]) -> None:
    for name in ("src/a.c", "src/a.h", "src/sub/b.c", "src/sub/b.h", "[x].txt", "x.txt"):
        write(work.tree / name, name.encode())
    assert work.restore(archive_of(work.tree), names=names, exclude=exclude).exit_code == 0
    on_the_way = {"src", "src/sub"} - set(expected)
    assert [name for name in sorted(tree_at(work.out)) if name not in on_the_way] == expected


def test_names_that_match_nothing_are_named_and_the_rest_restored(work: Work) -> None:
    furnish(work.tree)
    summary = work.restore(archive_of(work.tree), names=["plain", "nosuch", "no*such", "plain/below"])
    assert work.messages() == [
        f"{name}: matches nothing in the archive" for name in ("nosuch", "no*such", "plain/below")
    ]
    assert {type(problem) for problem in summary.problems} == {NoSuchEntry}
    assert summary.exit_code == 3
    assert sorted(tree_at(work.out)) == ["plain"]


def test_what_is_no_pattern_is_wrong_usage(work: Work) -> None:
    made = Archive()
    made.add("[x", b"1")
    assert work.restore(made, names=["[x"]).files == 1
    with pytest.raises(UsageError):
        work.restore(made, names=["[y"])
    with pytest.raises(UsageError):
        work.restore(made, exclude=["[y"])


# ---- what is there already -----------------------------------------------------------------------------------------


def there(work: Work) -> Archive:
    """`out` has: what is the same, what differs, and nothing, of each kind."""
    furnish(work.tree)
    made = archive_of(work.tree)
    work.restore(made)
    write(work.out / "plain", b"PLAIN\n", mtime_ns=1)
    os.utime(work.out / "d" / "e" / "deep", ns=(0, 0))
    for name in ("link", "fifo", "d/third"):
        (work.out / name).unlink()
    (work.out / "fifo").write_bytes(b"a file now")
    (work.out / "dangling").unlink()
    (work.out / "dangling").symlink_to("elsewhere")
    return made


def test_never_leaves_what_differs_and_lists_it(work: Work) -> None:
    made = there(work)
    before = tree_at(work.out)
    summary = work.restore(made)
    assert summary.refused == ["d/e/deep", "plain", "dangling", "fifo"]
    assert (summary.exit_code, summary.problems) == (3, [])
    assert work.told.of("restored") == ["d/third", "link"]
    after = tree_at(work.out)
    assert {name: after[name] for name in summary.refused} == {name: before[name] for name in summary.refused}
    assert made.fetched == []


def test_if_changed_replaces_what_differs(work: Work) -> None:
    made = there(work)
    summary = work.restore(made, overwrite="if-changed")
    assert (summary.exit_code, summary.refused) == (0, [])
    assert work.told.of("restored") == ["d/e/deep", "d/third", "dangling", "fifo", "link", "plain"]
    assert tree_at(work.out) == tree_at(work.tree)
    assert set(made.fetched) == set(made.entries["plain"]["blobs"] + made.entries["d/e/deep"]["blobs"])


def test_always_replaces_everything(work: Work) -> None:
    made = there(work)
    os.utime(work.out / "empty", ns=(0, made.entries["empty"]["mtime_ns"]))
    (work.out / "empty").chmod(0o777)
    summary = work.restore(made, overwrite="always")
    assert (summary.exit_code, summary.unchanged) == (0, 0)
    assert tree_at(work.out) == tree_at(work.tree)
    assert set(made.fetched) == set(made.blobs)


@pytest.mark.parametrize("overwrite", ["never", "if-changed"])
def test_a_second_run_fetches_nothing(work: Work, overwrite: str) -> None:
    furnish(work.tree)
    made = archive_of(work.tree)
    work.restore(made)
    before = {path: path.lstat() for path in work.out.rglob("*")}
    summary = work.restore(made, overwrite=overwrite)
    assert (summary.files, summary.unchanged, summary.exit_code) == (0, 11, 0)
    assert made.fetched == []
    for path, facts in before.items():
        assert (path.lstat().st_ino, path.lstat().st_mtime_ns) == (facts.st_ino, facts.st_mtime_ns)


def test_a_second_run_goes_on_where_the_first_was_interrupted(work: Work) -> None:
    furnish(work.tree)
    made = archive_of(work.tree)
    [deep] = set(made.entries["d/e/deep"]["blobs"])

    def fetch(name: str) -> bytes:
        if name == deep:
            raise KeyboardInterrupt
        return made.fetch(name)

    with pytest.raises(KeyboardInterrupt):
        work.restore(made, fetch, jobs=1)
    left = tree_at(work.out)
    assert "again" in left
    assert "d/e/deep" not in left
    assert not [name for name in left if ".pogfast-" in name]
    mtime = (work.out / "again").stat().st_mtime_ns
    assert mtime == run.unfinished_time((work.tree / "again").stat().st_mtime_ns), "it may not be on the disk"
    summary = work.restore(made)
    assert (summary.refused, summary.exit_code) == ([], 0)
    assert tree_at(work.out) == tree_at(work.tree)


@pytest.mark.parametrize("mtime_ns", [1_500_000_000_123_456_789, -1, 0, 2**63 - 1])
def test_what_an_interrupted_run_has_left_is_restored(work: Work, mtime_ns: int) -> None:
    """Whole, shorter or empty: a power cut takes what was not on the disk."""
    made = Archive()
    made.add("f", b"archived", mtime_ns=mtime_ns)
    mark = run.unfinished_time(mtime_ns)
    assert mark // 10**9 // 2 != mtime_ns // 10**9 // 2, "FAT keeps every other second"
    for left in (b"ARCHIVED", b"arch", b""):
        write(work.out / "f", left, mtime_ns=mark)
        assert work.restore(made).files == 1
        assert (work.out / "f").read_bytes() == b"archived"
        assert (work.out / "f").stat().st_mtime_ns == mtime_ns
    for other, time_ns in ((b"more than it", mark), (b"ARCHIVED", mark + 1), (b"ARCHIVED", mark // 10**9 * 10**9)):
        write(work.out / "f", other, mtime_ns=time_ns)
        assert work.restore(made).refused == ["f"]
    dry = work.restore(made, overwrite="if-changed", dry_run=True)
    assert (dry.files, (work.out / "f").read_bytes()) == (1, b"ARCHIVED")


@pytest.mark.parametrize("step", [100, 10**9, 2 * 10**9])
def test_file_systems_that_keep_coarser_times_do_not_make_files_differ(work: Work, step: int) -> None:
    made = Archive()
    made.add("f", b"1", mtime_ns=1_500_000_001_123_456_789)
    write(work.out / "f", b"1", mtime_ns=1_500_000_001_123_456_789 // step * step)
    assert work.restore(made).unchanged == 1
    write(work.out / "f", b"2", mtime_ns=1_500_000_001_123_000_000)
    assert work.restore(made).refused == ["f"]
    write(work.out / "f", b"22", mtime_ns=1_500_000_001_123_456_789)
    assert work.restore(made).refused == ["f"]


def in_the_way(work: Work) -> Archive:
    """`out` has directories where the archive has files, links and FIFOs, and files where it has directories."""
    furnish(work.tree)
    made = archive_of(work.tree)
    for name in ("plain/precious", "link/precious", "fifo/precious", "again/more/precious"):
        write(work.out / name, b"1")
    for name in ("d/big", "d/third", "dangling", "empty"):
        (work.out / name).mkdir(parents=True)
    for name in ("none", "d/e"):
        write(work.out / name, b"in the way")
    return made


@pytest.mark.parametrize("overwrite", ["never", "if-changed", "always"])
def test_what_is_in_a_directory_makes_no_way(work: Work, overwrite: str) -> None:
    made = in_the_way(work)
    summary = work.restore(made, overwrite=overwrite)
    blocked = ["again", "fifo", "link", "plain"]
    if overwrite == "never":
        blocked += ["d/big", "d/third", "dangling", "empty"]
    expected = [f"{name}: not restored, a directory is in its place" for name in blocked]
    if overwrite == "never":
        for path, count in (("d/e", 3), ("none", 3)):
            expected.append(f"cannot create the directory {path}: a file is in its place ({count} names)")
    assert sorted(work.messages()) == sorted(expected)
    assert {type(problem) for problem in summary.problems} <= {TargetError, run._Blocked}
    assert summary.exit_code == 3
    for name in ("plain/precious", "link/precious", "fifo/precious", "again/more/precious"):
        assert (work.out / name).read_bytes() == b"1"
    if overwrite == "never":
        assert (work.out / "none").read_bytes() == b"in the way"
    else:
        assert {problem.hint for problem in summary.problems} == {"it is not empty: --delete removes what is in it"}
        for name in blocked:
            shutil.rmtree(work.out / name)
        assert work.restore(made, overwrite="always").exit_code == 0
        assert tree_at(work.out) == tree_at(work.tree)


@pytest.mark.parametrize("overwrite", ["if-changed", "always"])
def test_directories_make_way_for_files_and_files_for_directories(work: Work, overwrite: str) -> None:
    made = in_the_way(work)
    dry = work.restore(made, overwrite=overwrite, delete=True, dry_run=True)
    assert (dry.exit_code, (work.out / "plain" / "precious").exists()) == (0, True)
    summary = work.restore(made, overwrite=overwrite, delete=True)
    assert (summary.exit_code, summary.problems) == (0, [])
    assert same(summary) == same(dry)
    assert tree_at(work.out) == tree_at(work.tree)
    assert work.told.of("deleted") == [
        "again/more",
        "again/more/precious",
        "fifo/precious",
        "link/precious",
        "plain/precious",
    ]
    assert work.restore(made, overwrite="if-changed", delete=True).unchanged == 11


def test_a_directory_with_something_that_must_stay_makes_no_way(work: Work) -> None:
    """All of it goes, or nothing."""
    made = in_the_way(work)
    write(work.out / "plain" / "mine", b"2")
    assert work.restore(made, names=["plain"], exclude=["mine"], overwrite="always", delete=True).exit_code == 3
    assert sorted(path.name for path in (work.out / "plain").iterdir()) == ["mine", "precious"]
    assert work.told.of("deleted") == []
    [problem] = work.told.problems
    assert problem.hint == "it is not empty: something in it has to stay"


def test_a_file_of_the_archive_makes_no_way_for_what_claims_to_be_below_it(work: Work) -> None:
    made = Archive()
    made.add("a", b"a file")
    made.add("a/x", b"below it")
    work.restore(made, names=["a"], exclude=["x"])
    assert work.restore(made, overwrite="always", delete=True).exit_code == 3
    assert work.messages() == ["cannot create the directory a: a file is in its place (1 name)"]
    assert (work.out / "a").read_bytes() == b"a file"


def test_a_file_that_appears_meanwhile_is_not_replaced(work: Work) -> None:
    made = Archive()
    made.add("f", b"archived")

    def fetch(name: str) -> bytes:
        (work.out / "f").write_bytes(b"new")
        return made.blobs[name]

    assert work.restore(made, fetch).exit_code == 3
    assert work.messages() == ["f: cannot be written: File exists"]
    assert (work.out / "f").read_bytes() == b"new"
    (work.out / "f").unlink()
    assert work.restore(made, fetch, overwrite="if-changed").exit_code == 0
    assert (work.out / "f").read_bytes() == b"archived"


# ---- dry runs ------------------------------------------------------------------------------------------------------


def same(summary: Summary) -> dict[str, object]:
    """What two runs can have in common."""
    return {**vars(summary), "problems": [str(problem) for problem in summary.problems], "seconds": 0}


def untouched(path: Path) -> tuple[int, ...]:
    facts = path.lstat()
    return facts.st_ino, facts.st_mode, facts.st_nlink, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns


@pytest.mark.parametrize("overwrite", ["never", "if-changed", "always"])
def test_a_dry_run_touches_nothing_and_says_what_would_be(work: Work, overwrite: str) -> None:
    made = there(work)
    write(work.out / "d" / "surplus", b"1")
    (work.out / "again").unlink()
    write(work.out / "again" / "x", b"a directory")
    shutil.rmtree(work.out / "none")
    write(work.out / "none", b"in the way")
    made.trailer["directories"]["new"] = made.trailer["directories"]["away"] = {"mode": 0o755}
    (work.out / "away").symlink_to("/etc")
    before = {path: untouched(path) for path in work.out.rglob("*")}
    options = {"overwrite": overwrite, "delete": True}
    dry = work.restore(made, dry_run=True, **options)
    told = work.told
    assert {path: untouched(path) for path in work.out.rglob("*")} == before
    assert made.fetched == []
    real = work.restore(made, **options)
    assert sorted(told.entries) == sorted(work.told.entries)
    blocked = "cannot create the directory none: a file is in its place (3 names)" in work.messages()
    assert blocked == (overwrite == "never")
    assert ("away is a link: nothing is restored through it (1 name)" in work.messages()) == blocked
    assert same(dry) == same(real)


def test_a_dry_run_into_nowhere_makes_nothing(work: Work) -> None:
    furnish(work.tree)
    made = archive_of(work.tree)
    dry = work.restore(made, dry_run=True)
    told = work.told
    assert not work.out.exists()
    real = work.restore(made)
    assert same(dry) == same(real)
    assert sorted(told.entries) == sorted(work.told.entries)


# ---- hard links ----------------------------------------------------------------------------------------------------


def names_of_inode(out: Path, name: str) -> list[str]:
    inode = (out / name).stat().st_ino
    return [str(path.relative_to(out)) for path in sorted(out.rglob("*")) if path.lstat().st_ino == inode]


@pytest.fixture
def linked(work: Work) -> Archive:
    """first <- b, c, and a file that only claims to be one of them."""
    write(work.tree / "first", b"x" * 25_000, 0o604)
    for name in ("b", "c"):
        os.link(work.tree / "first", work.tree / name)
    facts = facts_of(str(work.tree / "first"), (work.tree / "first").stat())
    made = Archive()
    for name in ("first", "b", "c"):
        made.add(name, b"x" * 25_000, **facts, **({} if name == "first" else {"hardlink": "first"}))
    made.add("liar", b"y" * 25_000, **facts, hardlink="first")
    made.add("lost", b"5", hardlink="not in the archive")
    return made


def test_hard_links_are_hard_links_again(work: Work, linked: Archive) -> None:
    summary = work.restore(linked)
    assert names_of_inode(work.out, "first") == ["b", "c", "first"]
    assert (work.out / "liar").read_bytes() == b"y" * 25_000
    assert (work.out / "lost").read_bytes() == b"5"
    assert (summary.files, summary.bytes_written) == (5, 25_000 + 25_000 + 1)


def test_a_hard_link_to_what_is_not_selected_is_a_copy_and_the_next_links_to_it(work: Work, linked: Archive) -> None:
    work.restore(linked, names=["c", "b"])
    assert names_of_inode(work.out, "b") == ["b", "c"]
    assert tree_at(work.out)["b"][:3] == tree_at(work.tree)["b"][:3]


def test_a_hard_link_to_what_is_there_already(work: Work, linked: Archive) -> None:
    work.restore(linked, names=["first"])
    work.restore(linked, names=["c"])
    assert linked.fetched == []
    assert names_of_inode(work.out, "first") == ["c", "first"]
    assert work.restore(linked, names=["c"], overwrite="always").unchanged == 1
    assert sorted(os.listdir(work.out)) == ["c", "first"]
    os.utime(work.out / "first", ns=(0, 0))  # no longer what the archive has
    work.restore(linked, names=["b"])
    assert names_of_inode(work.out, "b") == ["b"]


@pytest.mark.parametrize(("name", "others"), [("first", ["b", "c"]), ("first", ["c"]), ("b", ["c", "first"])])
@pytest.mark.parametrize("how", [{}, {"overwrite": "if-changed"}, {"dry_run": True}])
def test_a_name_becomes_a_hard_link_to_those_that_are_there_and_not_selected(
    work: Work, linked: Archive, name: str, others: list[str], how: dict[str, Any]
) -> None:
    work.restore(linked, names=others)
    linked.fetched.clear()
    summary = work.restore(linked, names=[name], **how)
    assert (summary.files, summary.bytes_written, linked.fetched) == (1, 0, [])
    assert names_of_inode(work.out, "c") == sorted([*others, *([] if how.get("dry_run") else [name])])


def test_a_name_does_not_become_a_hard_link_to_what_has_changed(work: Work, linked: Archive) -> None:
    work.restore(linked, names=["b", "c", "liar"])
    os.utime(work.out / "c", ns=(0, 0))
    work.restore(linked, names=["first"])
    assert names_of_inode(work.out, "first") == ["first"]


def test_a_hard_link_to_what_was_refused_is_a_copy(work: Work, linked: Archive) -> None:
    write(work.out / "first", b"mine")
    work.restore(linked)
    assert (work.out / "first").read_bytes() == b"mine"
    assert (work.out / "b").read_bytes() == (work.out / "c").read_bytes() == b"x" * 25_000


@pytest.mark.parametrize("overwrite", ["if-changed", "always"])
def test_hard_links_follow_a_file_that_is_replaced(work: Work, linked: Archive, overwrite: str) -> None:
    work.restore(linked)
    write(work.out / "first", b"changed, through all its names")
    work.restore(linked, overwrite=overwrite)
    assert names_of_inode(work.out, "first") == ["b", "c", "first"]
    assert (work.out / "c").read_bytes() == b"x" * 25_000


@pytest.mark.parametrize("missing", [["first"], ["b"], ["first", "c"]])
@pytest.mark.parametrize("overwrite", ["never", "if-changed"])
def test_names_that_are_missing_are_linked_to_those_that_are_there(
    work: Work, linked: Archive, missing: list[str], overwrite: str
) -> None:
    work.restore(linked)
    before = (work.out / "b").stat().st_ino if "b" not in missing else (work.out / "first").stat().st_ino
    for name in missing:
        (work.out / name).unlink()
    linked.fetched.clear()
    work.restore(linked, overwrite=overwrite)
    assert names_of_inode(work.out, "first") == ["b", "c", "first"]
    assert (work.out / "first").stat().st_ino == before
    assert linked.fetched == []


def test_names_that_have_come_apart_are_linked_again(work: Work, linked: Archive) -> None:
    """Unless nothing that is there may be changed, or there are no hard links."""
    work.restore(linked)
    apart = (work.out / "first").rename(work.out / "kept")
    shutil.copy2(apart, work.out / "first")
    apart.unlink()
    assert work.restore(linked, overwrite="never").files == 0
    assert names_of_inode(work.out, "first") == ["first"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "link", refuse_links)
        assert work.restore(linked, overwrite="if-changed").exit_code == 0
    assert names_of_inode(work.out, "first") == ["first"]
    assert work.restore(linked, overwrite="if-changed").files == 2
    assert names_of_inode(work.out, "first") == ["b", "c", "first"]
    assert work.restore(linked, overwrite="if-changed").files == 0


def test_metadata_of_a_file_with_other_names_is_not_changed_in_place(work: Work, linked: Archive) -> None:
    """Another name may lie outside, or be another file of the archive."""
    work.restore(linked)
    (work.out / "first").chmod(0o640)
    os.link(work.out / "first", work.top / "outside")
    work.restore(linked, overwrite="if-changed")
    assert names_of_inode(work.out, "first") == ["b", "c", "first"]
    assert stat.S_IMODE((work.out / "b").stat().st_mode) == 0o604
    assert stat.S_IMODE((work.top / "outside").stat().st_mode) == 0o640
    assert (work.top / "outside").stat().st_nlink == 1


def refuse_links(*_: object, **__: object) -> None:
    raise PermissionError(1, "no")


def test_a_hard_link_never_leads_out(work: Work, linked: Archive) -> None:
    """What lies at the first name is a link to a file outside, which must not get another name inside."""
    outside = write(work.top / "outside", b"x" * 25_000, mtime_ns=linked.entries["first"]["mtime_ns"])
    work.out.mkdir()
    (work.out / "first").symlink_to(outside)
    work.restore(linked, names=["b"])
    assert outside.stat().st_nlink == 1
    assert not (work.out / "b").is_symlink()


def test_where_hard_links_cannot_be_they_are_copies(
    work: Work, linked: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", refuse_links)
    assert work.restore(linked).exit_code == 0
    assert names_of_inode(work.out, "b") == ["b"]
    assert (work.out / "c").read_bytes() == b"x" * 25_000


# ---- no path leaves ------------------------------------------------------------------------------------------------


def outside_of(work: Work) -> Path:
    outside = work.top / "outside"
    write(outside / "precious", b"precious")
    return outside


@pytest.mark.parametrize("kind", ["entries", "directories", "links", "fifos"])
@pytest.mark.parametrize("name", ["..", "../escaped", "a/../../escaped", "a/..", "", "/", ".", "x\0y", "\ud800"])
def test_unsafe_names_are_refused(work: Work, kind: str, name: str) -> None:
    made = Archive()
    if kind == "entries":
        made.add(name, b"bad")
    else:
        made.trailer[kind][name] = {"mode": 0o777, "target": "x"}
    made.add("good", b"good")
    summary = work.restore(made, overwrite="always")
    assert [type(problem) for problem in summary.problems] == [UnsafePath]
    assert summary.exit_code == 3
    assert list(tree_at(work.out)) == ["good"]
    assert sorted(path.name for path in work.top.iterdir()) == ["key", "out", "tree"]


@pytest.mark.parametrize("overwrite", ["never", "if-changed", "always"])
def test_absolute_names_are_put_below(work: Work, overwrite: str) -> None:
    target = work.top / "elsewhere"
    made = Archive()
    made.add(f"{target}/file", b"x")
    made.trailer["directories"][f"{target}/d"] = {"mode": 0o700}
    made.trailer["links"][f"/{target}/l"] = {"target": "/etc"}
    made.trailer["fifos"][f"{target}/./p"] = {}
    assert work.restore(made, overwrite=overwrite).exit_code == 0
    assert not target.exists()
    assert sorted(path.name for path in (work.out / str(target)[1:]).iterdir()) == ["d", "file", "l", "p"]


@pytest.mark.parametrize("overwrite", ["never", "if-changed", "always"])
@pytest.mark.parametrize("runs", [1, 2])
def test_links_of_the_archive_are_not_written_through(work: Work, overwrite: str, runs: int) -> None:
    """The archive has a link and, as if it were a directory, things below it."""
    outside = outside_of(work)
    made = Archive()
    made.trailer["links"]["a"] = {"target": str(outside)}
    made.add("a/precious", b"bad")
    made.add("a/new", b"bad")
    made.trailer["directories"]["a/directory"] = {"mode": 0o777}
    made.trailer["links"]["a/link"] = {"target": "x"}
    made.trailer["fifos"]["a/fifo"] = {}
    made.trailer["links"]["b"] = {"target": str(outside)}
    made.trailer["links"]["b/link"] = {"target": "x"}
    made.trailer["directories"]["b/directory"] = {"mode": 0o777}
    for _ in range(runs):
        summary = work.restore(made, overwrite=overwrite)
        assert summary.exit_code == 3
    assert {path.name: path.read_bytes() for path in outside.iterdir()} == {"precious": b"precious"}
    assert "a: not restored, a directory is in its place" in work.messages()
    assert "b is a link: nothing is restored through it (2 names)" in work.messages()
    assert os.readlink(work.out / "b") == str(outside), "a link's target is what it is"


@pytest.mark.parametrize("overwrite", ["never", "if-changed", "always"])
def test_links_that_lie_there_are_not_followed(work: Work, overwrite: str) -> None:
    outside = outside_of(work)
    before = tree_at(outside)
    made = Archive()
    for name in ("dir/x", "dir/precious", "dir/deeper/x", "file", "dangling"):
        made.add(name, name.encode(), mode=0o777)
    made.trailer["directories"]["dir"] = {"mode": 0o777, "mtime_ns": 5}
    made.trailer["directories"]["other"] = {"mode": 0o777, "mtime_ns": 5}
    made.trailer["links"]["dir/link"] = {"target": "x"}
    made.trailer["fifos"]["dir/fifo"] = {"mode": 0o777}
    work.out.mkdir()
    for name, target in (("dir", ""), ("other", ""), ("file", "precious"), ("dangling", "new")):
        (work.out / name).symlink_to(outside / target)
    summary = work.restore(made, overwrite=overwrite, delete=True)
    assert tree_at(outside) == before
    unsafe = [str(problem) for problem in summary.problems if isinstance(problem, UnsafePath)]
    if overwrite == "never":
        assert unsafe == [
            "dir is a link: nothing is restored through it (6 names)",
            "other is a link: nothing is restored through it (1 name)",
        ]
        assert {problem.hint for problem in summary.problems} == {"--overwrite=if-changed replaces it"}
        assert (work.out / "dir").is_symlink()
    else:
        assert unsafe == []
        assert not (work.out / "dir").is_symlink()
        assert not (work.out / "other").is_symlink()
        assert sorted(path.name for path in (work.out / "dir").iterdir()) == ["deeper", "fifo", "link", "precious", "x"]
    replaced = [name for name in ("file", "dangling") if not (work.out / name).is_symlink()]
    assert (replaced, summary.refused) == (
        ([], ["file", "dangling"]) if overwrite == "never" else (["file", "dangling"], [])
    )


@pytest.mark.parametrize("kind", ["link", "fifo", "directory"])
def test_two_things_at_one_path(work: Work, kind: str) -> None:
    made = Archive()
    made.add("./x", b"first")
    made.add("y/z", b"fine")
    section = {"link": "links", "fifo": "fifos", "directory": "directories"}[kind]
    made.trailer[section]["x"] = {"target": "y", "mode": 0o700}
    summary = work.restore(made, overwrite="always")
    assert work.messages() == ["./x: not restored, a later entry of the archive has the same path"]
    assert summary.exit_code == 3
    assert tree_at(work.out)["x"][0][:4] == {"link": "0o12", "fifo": "0o10", "directory": "0o40"}[kind]


def test_the_same_thing_twice_is_one(work: Work) -> None:
    made = Archive()
    for name in ("x", "./x", "/x"):
        made.add(name, b"1")
    for section, name in (("links", "l"), ("fifos", "p"), ("directories", "d")):
        made.trailer[section] |= {name: {"target": "x", "mode": 0o700}, f"./{name}": {"target": "x", "mode": 0o700}}
    summary = work.restore(made)
    assert (summary.files, summary.links, summary.fifos, summary.directories, summary.exit_code) == (1, 1, 1, 1, 0)


@pytest.mark.parametrize("target", ["", "a\0b", "\ud800", 5, None])
def test_links_without_a_target_are_named(work: Work, target: object) -> None:
    made = Archive()
    made.trailer["links"]["l"] = {"target": target}
    made.add("f", b"1")
    assert work.restore(made).exit_code == 4
    assert work.messages() == ["l: the target of the link is malformed"]
    assert list(tree_at(work.out)) == ["f"]


@given(st.text(st.sampled_from("ab./\0\udcff\ud800"), max_size=12))
def test_a_safe_path_lies_below(name: str) -> None:
    try:
        path = safe_path(name)
    except UnsafePath:
        parts = name.split("/")
        assert ".." in parts or "\0" in name or "\ud800" in name or not set(parts) - {"", "."}
        return
    assert path == normal_path(name) == os.path.normpath(path)
    assert not path.startswith("/")
    assert ".." not in path.split("/")
    assert os.path.normpath("/" + name).lstrip("/") == path


# ---- stripped names ------------------------------------------------------------------------------------------------


PART = st.sampled_from(["a", "b", "c", "..", ".", ""])
NAMES = st.lists(st.lists(PART, min_size=1, max_size=5).map("/".join), unique=True, max_size=12)


@given(entries=NAMES, folders=NAMES, strip=st.integers(0, 4))
def test_stripped_paths_lie_below_and_lose_their_first_parts(
    entries: list[str], folders: list[str], strip: int
) -> None:
    opened = manifest.Manifest(
        {name: manifest.Entry([], 0, 0) for name in entries}, {"directories": {name: {} for name in folders}}
    )
    plan = Plan(opened, [], [], strip)
    places = [(kind, place) for kind in ("file", "directory") for place in plan.places[kind]]  # type: ignore[index]
    for kind, place in places:
        parts = normal_path(place.name).split("/")
        if isinstance(place.problem, UnsafePath) and not place.path:
            assert ".." in parts or parts == [""]
            continue
        assert place.path.split("/") == (parts[strip:] or [""])
        assert ".." not in place.path
        assert place.path or kind == "directory"
    parts_of = {name: normal_path(name).split("/") for name in entries}
    short = [name for name, parts in parts_of.items() if len(parts) <= strip and ".." not in parts and parts != [""]]
    assert plan.vanished == len(short)
    found = {tuple(parts_of[place.name][strip:]) for kind, place in places if kind == "file"}
    assert found == {tuple(parts[strip:]) for name, parts in parts_of.items() if name not in short}, "nothing is lost"


def test_strip_components(work: Work) -> None:
    furnish(work.tree)
    summary = work.restore(archive_of(work.tree, prefix="home/me/"), strip_components=2)
    assert summary.exit_code == 0
    assert tree_at(work.out) == tree_at(work.tree)
    assert work.told.warnings == []


def test_what_has_nothing_left_is_counted(work: Work) -> None:
    made = Archive()
    made.add("top", b"1")
    made.add("a/b", b"2")
    made.trailer["links"]["l"] = {"target": "x"}
    work.restore(made, strip_components=1)
    assert list(tree_at(work.out)) == ["b"]
    assert work.told.warnings == ["2 names have no more parts than are stripped: not restored"]


def test_stripped_names_that_meet_are_named(work: Work) -> None:
    made = Archive()
    made.add("a/x", b"1")
    made.add("b/x", b"2")
    assert work.restore(made, strip_components=1).exit_code == 3
    assert work.messages() == ["a/x: not restored, a later entry of the archive has the same path"]
    assert (work.out / "x").read_bytes() == b"2"


def test_hard_links_with_stripped_names(work: Work) -> None:
    furnish(work.tree)
    made = archive_of(work.tree, prefix="p/")
    work.restore(made, names=["p/again"], strip_components=1)
    work.restore(made, names=["p/d/third"], strip_components=1)
    assert names_of_inode(work.out, "again") == ["again", "d/third"], "the first of them is there already"
    work.restore(made, strip_components=1, overwrite="always")
    assert names_of_inode(work.out, "again") == ["again", "d/big", "d/third"]


# ---- what is not in the archive ------------------------------------------------------------------------------------


def surplus(out: Path) -> None:
    write(out / "d" / "surplus", b"1")
    write(out / "d" / "more" / "of" / "it", b"2")
    (out / "d" / "link").symlink_to("..")
    os.mkfifo(out / "d" / "e" / "pipe")
    write(out / "top", b"3")
    write(out / "none" / "x", b"4")


def test_delete_removes_what_is_not_in_the_archive(work: Work) -> None:
    furnish(work.tree)
    made = archive_of(work.tree)
    work.restore(made)
    before = tree_at(work.out)
    surplus(work.out)
    summary = work.restore(made, delete=True)
    assert summary.deleted == 7
    assert work.told.of("deleted") == sorted(
        ["d/surplus", "d/more", "d/more/of", "d/more/of/it", "d/link", "d/e/pipe", "none/x"]
    )
    after = tree_at(work.out)
    assert after.pop("top"), "the directory that is restored into is not one of the archive's"
    assert after == before


def test_delete_stays_within_what_is_selected(work: Work) -> None:
    furnish(work.tree)
    made = archive_of(work.tree)
    work.restore(made)
    surplus(work.out)
    work.restore(made, names=["d/e", "plain"], delete=True)
    assert work.told.of("deleted") == ["d/e/pipe"]
    work.restore(made, names=["plain"], delete=True)
    assert work.told.of("deleted") == []


def test_delete_keeps_what_is_excluded(work: Work) -> None:
    furnish(work.tree)
    made = archive_of(work.tree)
    work.restore(made)
    surplus(work.out)
    (work.out / "d" / "third").unlink()
    write(work.out / "d" / "third", b"mine")
    assert work.restore(made, exclude=["it", "third", "e"], delete=True).exit_code == 0
    assert work.told.of("deleted") == ["d/link", "d/surplus", "none/x"]
    assert (work.out / "d" / "more" / "of" / "it").exists()
    assert (work.out / "d" / "third").read_bytes() == b"mine"


def test_delete_does_not_follow_links(work: Work) -> None:
    outside = outside_of(work)
    furnish(work.tree)
    made = archive_of(work.tree)
    work.restore(made)
    shutil.rmtree(work.out / "d" / "e")
    (work.out / "d" / "e").symlink_to(outside)
    (work.out / "d" / "new").symlink_to(outside)
    (work.out / "none" / "at" / "all").rmdir()
    (work.out / "none" / "at" / "all").symlink_to(outside)
    assert work.restore(made, delete=True).exit_code == 3
    assert work.told.of("deleted") == ["d/new"]
    assert sorted(path.name for path in outside.iterdir()) == ["precious"]


def test_delete_keeps_what_could_not_be_archived(work: Work) -> None:
    """A file that create could not read is not in the archive: what lies there may be the only copy."""
    made = Archive()
    for name in ("d", "d/locked", "d/sub", "e"):
        made.trailer["directories"][name] = {"mode": 0o755}
    made.trailer["unreadable"] = {"/home/d/secret": "Permission denied", "d/locked": "Permission denied", "e": "no"}
    made.trailer["skipped"] = {"/home/d/sub/socket": "a socket"}
    for name in ("secret", "other", "locked/x/y", "sub/socket", "sub/other"):
        write(work.out / "d" / name, b"1")
    write(work.out / "e" / "x", b"1")
    work.restore(made, delete=True)
    assert work.told.of("deleted") == ["d/other", "d/sub/other"]
    assert (work.out / "d" / "locked" / "x" / "y").exists()


def test_delete_keeps_what_is_malformed_in_the_archive(work: Work) -> None:
    made = Archive()
    made.trailer["directories"]["d"] = {"mode": 0o755}
    made.add("d/f", b"1", size="many")
    write(work.out / "d" / "f", b"from an older run")
    write(work.out / "d" / "g", b"1")
    assert work.restore(made, delete=True).exit_code == 4
    assert work.told.of("deleted") == ["d/g"]


def test_delete_with_stripped_names(work: Work) -> None:
    furnish(work.tree)
    made = archive_of(work.tree, prefix="home/me/")
    made.trailer["directories"] |= {"home": {"mode": 0o755}, "home/me": {"mode": 0o700}}
    work.restore(made, strip_components=2)
    surplus(work.out)
    mode = work.out.stat().st_mode
    work.restore(made, strip_components=2, delete=True)
    assert work.out.stat().st_mode == mode != 0o40700, "which has no metadata in the archive"
    assert work.told.of("deleted") == sorted(
        ["d/surplus", "d/more", "d/more/of", "d/more/of/it", "d/link", "d/e/pipe", "none/x", "top"]
    ), "home/me has become the directory itself"
    assert tree_at(work.out) == tree_at(work.tree)


def test_delete_is_refused_where_different_directories_become_one(work: Work) -> None:
    made = Archive()
    for name in ("a/d", "b/d"):
        made.trailer["directories"][name] = {"mode": 0o755}
    write(work.out / "d" / "x", b"1")
    with pytest.raises(UsageError, match="a and b"):
        work.restore(made, strip_components=1, delete=True)
    assert (work.out / "d" / "x").exists()
    work.restore(made, names=["a"], strip_components=1, delete=True)
    assert work.told.of("deleted") == ["d/x"]


def test_delete_stays_on_the_file_system(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Archive()
    made.trailer["directories"]["d"] = {"mode": 0o755}
    write(work.out / "d" / "mount" / "x", b"1")
    write(work.out / "d" / "other", b"1")
    real = os.stat

    def elsewhere(path: Any, **more: Any) -> os.stat_result:
        found = real(path, **more)
        return os.stat_result((*found[:2], found.st_dev + 1, *found[3:])) if path == "mount" else found

    monkeypatch.setattr(os, "stat", elsewhere)
    work.restore(made, delete=True)
    assert work.told.of("deleted") == ["d/other"]
    assert work.told.warnings == ["d/mount: kept, it is another file system"]


# ---- damage, and what is malformed ---------------------------------------------------------------------------------


def test_damage_is_named_and_the_rest_restored(work: Work) -> None:
    furnish(work.tree)
    made = archive_of(work.tree)
    [blob] = set(made.entries["plain"]["blobs"])

    def fetch(name: str) -> bytes:
        if name == blob:
            raise MissingBlob(f"no blob {name}")
        return made.blobs[name]

    summary = work.restore(made, fetch, names=["plain", "d"])
    assert summary.exit_code == 4
    assert work.messages() == [f"plain: blob {blob} is missing"]
    assert not (work.out / "plain").exists()
    assert (work.out / "d" / "big").exists()


def test_damage_of_a_hard_linked_file_is_told_for_each_name(work: Work, linked: Archive) -> None:
    for name in linked.entries["first"]["blobs"]:
        linked.blobs[name] = b"damaged" * 100
    assert work.restore(linked).exit_code == 4
    assert [message.partition(":")[0] for message in work.messages()] == ["first", "b", "c"]
    assert sorted(tree_at(work.out)) == ["liar", "lost"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"size": -1}, "its size is malformed"),
        ({"sizes": [1, 2]}, "the sizes of its blobs are malformed"),
        ({"mtime_ns": "x"}, "its metadata is malformed"),
        ({"blobs": "x"}, ""),
        ({"mode": "x"}, "f: its metadata is malformed"),
        ({"xattrs": {"user.x": "?"}}, "f: its metadata is malformed"),
    ],
)
def test_malformed_entries_are_named(work: Work, more: dict[str, object], message: str) -> None:
    made = Archive()
    made.add("f", b"1", **more)
    made.add("g", b"2")
    made.trailer["directories"]["d"] = "not an object"
    assert work.restore(made).exit_code == 4
    assert message in work.messages()[0]
    assert work.messages()[1:] == ["d: its metadata is malformed"]
    assert [name for name in tree_at(work.out) if name != "d"] == ["g"]


def test_a_size_that_no_disk_has_costs_no_other_file(work: Work) -> None:
    made = Archive()
    made.add("huge", b"1", size=2**60)
    made.add("nothing", b"", blobs=[], size=5)
    made.add("small", b"2")
    summary = work.restore(made)
    assert work.messages() == [
        "huge: not enough space for it: No space left on device",
        "nothing: it has a size but no blobs",
    ]
    assert (summary.exit_code, sorted(tree_at(work.out))) == (4, ["small"])


@pytest.mark.parametrize("names", [(), ("linked", "./same", "same")])
@pytest.mark.parametrize("more", [{"blobs": "x"}, {"atime": "x"}, {"blobs": ["x"]}, {"blobs": [7]}])
def test_a_malformed_entry_that_others_are_compared_with(work: Work, names: tuple[str, ...], more: dict) -> None:
    """The first name of a hard link; and what lies at another one's path."""
    made = Archive()
    made.add("first", b"1", **more)
    made.add("linked", b"1", hardlink="first")
    made.add("./same", b"2", **more)
    made.add("same", b"3")
    assert work.restore(made, names=names).exit_code == (3 if names else 4)
    assert {name: (work.out / name).read_bytes() for name in tree_at(work.out)} == {"linked": b"1", "same": b"3"}
    told = [message for message in work.messages() if "malformed" in message]
    assert len(told) == (0 if names else 1)
    assert any("a later entry of the archive has the same path" in message for message in work.messages())


@pytest.mark.parametrize("key", ["directories", "links", "fifos", "unreadable", "skipped"])
def test_a_malformed_trailer_is_damage(work: Work, key: str) -> None:
    made = Archive(trailer={key: ["a list"]})
    with pytest.raises(CorruptManifest, match=key):
        work.restore(made)


def test_a_target_that_cannot_be(work: Work) -> None:
    made = Archive()
    made.add("f", b"1")
    work.out.write_bytes(b"a file")
    with pytest.raises(StoreError, match="cannot restore into"):
        work.restore(made)


def test_a_full_disk_ends_the_run(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Archive()
    made.add("d/f", b"1")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patch:
        patch.setattr(os, "mkdir", full)
        with pytest.raises(StoreError, match="No space left") as raised:
            work.restore(made)
    made.trailer["links"]["l"] = {"target": "x"}
    monkeypatch.setattr(os, "symlink", full)
    with pytest.raises(StoreError, match="No space left") as raised_again:
        work.restore(made)
    hints = {raised.value.hint, raised_again.value.hint}
    assert hints == {"make room and run it again: what is restored is kept"}


def test_what_may_not_be_written_is_named(work: Work) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, os.strerror(13))

    made = Archive()
    made.trailer["links"]["l"] = {"target": "x"}
    made.trailer["fifos"]["p"] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "symlink", refuse)
        patch.setattr(os, "mkfifo", refuse)
        assert work.restore(made).exit_code == 3
    assert work.messages() == ["l: cannot be written: Permission denied", "p: cannot be written: Permission denied"]


def test_nothing_is_left_of_what_could_not_be_put_in_place(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, os.strerror(13))

    made = Archive()
    made.trailer["links"]["l"] = {"target": "x"}
    made.trailer["fifos"]["p"] = {}
    write(work.out / "l", b"1")
    monkeypatch.setattr(os, "rename", refuse)
    monkeypatch.setattr("pogfast.recovery.destination.set_metadata", refuse)
    assert work.restore(made, overwrite="always").exit_code == 3
    assert os.listdir(work.out) == ["l"]
    assert (work.out / "l").read_bytes() == b"1"


# ---- many of everything --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("most_files", "most_directories"), [(1, 100), (7, 2), (10_000, 1), (10_000, 3)])
def test_batches_do_not_show(
    work: Work, monkeypatch: pytest.MonkeyPatch, most_files: int, most_directories: int
) -> None:
    furnish(work.tree)
    for number in range(40):
        write(work.tree / f"many{number % 7}" / f"{number}", str(number).encode())
    made = archive_of(work.tree)
    opened = []

    @contextlib.contextmanager
    def few() -> Iterator[int]:
        yield most_directories

    class Watching(Directories):
        def open(self, path: str) -> int:
            descriptor = super().open(path)
            opened.append(len(self.held))
            return descriptor

    class Counting(ROAD._Batch):
        def __init__(self, places: list[Place], *more: Any) -> None:
            assert len(places) <= most_files
            super().__init__(places, *more)

    monkeypatch.setattr(ROAD, "_Batch", Counting)
    monkeypatch.setattr(ROAD, "MAX_FILES", most_files)
    monkeypatch.setattr(ROAD, "FIRST_FILES", min(most_files, ROAD.FIRST_FILES))
    monkeypatch.setattr(recovery, "many_open_files", few)
    monkeypatch.setattr(recovery, "Directories", Watching)
    assert work.restore(made).exit_code == 0
    assert tree_at(work.out) == tree_at(work.tree)
    assert max(opened) <= most_directories + 2, "a hard link needs two at a time"
    again = work.restore(made, overwrite="if-changed", delete=True)
    assert (again.files, again.deleted) == (0, 0)


def test_the_limit_of_open_files_is_raised_for_a_while() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        with many_open_files() as most:
            raised = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
            assert raised == min(hard, directories_module.MAX_OPEN)
            assert raised // 4 <= most < raised
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 256
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    with many_open_files() as most:
        assert most < min(soft, directories_module.MAX_OPEN + 1)


def test_more_directories_than_files_may_be_open(work: Work) -> None:
    made = Archive()
    for number in range(300):
        made.add(f"d{number}/f", b"1")
        made.trailer["directories"][f"d{number}"] = {"mode": 0o750}
        made.trailer["directories"][f"d{number}/e"] = {"mode": 0o711}
    program = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (80, 80));"
        "from test_restore import *; work = Work(Path(sys.argv[1]));"
        "made = Archive(*__import__('pickle').load(open(sys.argv[2], 'rb')));"
        "print(work.restore(made).exit_code)"
    )
    import pickle

    (work.top / "pickled").write_bytes(pickle.dumps((made.entries, made.trailer, made.blobs)))
    (work.top / "other").mkdir()
    arguments = [sys.executable, "-c", program, str(work.top / "other"), str(work.top / "pickled")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    ran = subprocess.run(arguments, capture_output=True, text=True, env=environment, check=False)
    assert (ran.stdout, ran.stderr) == ("0\n", "")
    assert len(list((work.top / "other" / "out").rglob("*"))) == 900


def test_progress_is_known_beforehand(work: Work) -> None:
    furnish(work.tree)
    made = archive_of(work.tree)
    sizes = {name: entry["size"] for name, entry in made.entries.items()}
    seen: list[tuple[int, int]] = []

    class Watching(Told):
        def started(self, progress: Callable[[], Progress]) -> None:
            assert progress() == (0, 0, 0, 7, sum(sizes.values()))
            super().started(progress)

        def entry(self, name: str, outcome: Outcome, size: int) -> None:
            assert size == sizes.get(name, 0)
            seen.append(self.progress()[:2])

    opened, key = made.opened(work.key), from_keyfile(str(work.key))
    restore_archive(opened, made.fetch, key, str(work.out), jobs=2, report=Watching())
    assert seen == sorted(seen)
    assert seen[0][0] == 1
    assert seen[-1] == (7, sum(sizes.values()))


def test_a_report_that_fails_ends_the_workers(work: Work) -> None:
    made = Archive()
    for number in range(200):
        made.add(f"{number}", os.urandom(5000))

    class Failing(Told):
        def entry(self, name: str, outcome: Outcome, size: int) -> None:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        restore_archive(
            made.opened(work.key), made.fetch, from_keyfile(str(work.key)), str(work.out), jobs=2, report=Failing()
        )
    assert not any(thread.name.startswith("pogfast-") for thread in threading.enumerate())
    assert not [name for name in os.listdir(work.out) if name.startswith(".")]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_restore_leaves_whole_things_and_the_next_goes_on(work: Work, how: signal.Signals) -> None:
    furnish(work.tree)
    for number in range(60):
        write(work.tree / "z" / f"{number}", random.Random(number).randbytes(1_500_000))
    made = archive_of(work.tree)
    landed = 0
    for delay in (0.0, 0.02, 0.05):
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            try:
                work.restore(made)
            except KeyboardInterrupt:
                os._exit(130)
            os._exit(0)
        deadline = time.monotonic() + 120
        while not (work.out / "z").exists() and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(delay)
        os.kill(child, how)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        landed += code == (130 if how == signal.SIGINT else -9)
        for path in work.out.rglob("*"):
            if path.is_file() and not path.is_symlink() and ".pogfast-" not in path.name:
                original = work.tree / path.relative_to(work.out)
                assert path.read_bytes() == original.read_bytes()
                assert path.stat().st_mode == original.stat().st_mode
            if how == signal.SIGINT:
                assert ".pogfast-" not in path.name
    assert landed
    summary = work.restore(made)
    assert (summary.exit_code, summary.refused) == (0, [])
    assert tree_at(work.out) == tree_at(work.tree)

"""What a restore does about permissions, owners, ACLs and set-id bits, of new files and of existing ones."""

from __future__ import annotations

import json
import os
import stat
import struct
import sys
from pathlib import Path

import pytest

from kit.commands import Runner, run

pytestmark = pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="only root on Linux may do this")
MTIME = 1_600_000_000_123_456_789
NOBODY = 65534
ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
# cap_net_bind_service+ep
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)
POWERLESS = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", sys.executable, "-m", "pogfast"]


def acl(group: int, mask: int, *users: int) -> bytes:
    """Owner rwx, `users` rwx each, group and mask as given, no others."""
    entries = [(1, 7, 2**32 - 1), *((2, 7, user) for user in users), (4, group, 2**32 - 1), (16, mask, 2**32 - 1)]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in [*entries, (32, 0, 2**32 - 1)])


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with `tree`, one of each kind; `out` is where `restore` goes."""
    monkeypatch.setenv("POGFAST_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("POGFAST_KEYFILE", "key")
    (tmp_path / "key").write_bytes(b"key")
    tree = tmp_path / "tree"
    (tree / "d").mkdir(parents=True)
    for name, mode in {
        "private": 0o600,
        "group": 0o640,
        "d/read-only": 0o444,
        "d/large": 0o664,
        "first": 0o604,
    }.items():
        (tree / name).write_bytes(name.encode() * (500_000 if name == "d/large" else 1))
        (tree / name).chmod(mode)
    os.link(tree / "first", tree / "second")
    os.mkfifo(tree / "fifo", 0o620)
    (tree / "link").symlink_to("group")
    os.setxattr(tree / "group", "user.a", b"1")
    os.setxattr(tree / "d/read-only", "user.a", b"2")
    os.setxattr(tree / "d", "user.a", b"3")
    os.chown(tree / "group", 1001, 1002)
    os.chown(tree / "link", 1001, 1002, follow_symlinks=False)
    (tree / "d").chmod(0o750)
    for path in (*tree.rglob("*"), tree):
        os.utime(path, ns=(MTIME, MTIME), follow_symlinks=False)
    return tmp_path


def archived(cli: Runner) -> list[str]:
    """Makes an archive of `tree`. How to restore it."""
    ran = cli("create", "tree", "--to", "store", "--quiet")
    assert ran.code == 0, ran.err
    return ["restore", "store/latest", "--into", "out"]


def facts(top: Path) -> dict[str, tuple[object, ...]]:
    found = {}
    for path in sorted(top.rglob("*")):
        kept = path.lstat()
        names = os.listxattr(path, follow_symlinks=False)
        attributes = {name: os.getxattr(path, name, follow_symlinks=False) for name in names}
        owner = kept.st_uid, kept.st_gid
        found[str(path.relative_to(top))] = oct(kept.st_mode), owner, kept.st_mtime_ns, attributes
    return found


def summary(ran: object) -> dict[str, object]:
    [found] = [json.loads(line) for line in ran.out.splitlines() if b'"summary"' in line]  # type: ignore[attr-defined]
    return found


# ---- ACLs of the directory above -------------------------------------------------------------------------------------


def test_nothing_gets_the_default_acl_of_the_directory_above(work: Path, cli: Runner) -> None:
    restore = archived(cli)
    (work / "out").mkdir()
    os.setxattr(work / "out", DEFAULT, acl(7, 7, NOBODY))
    for options in ([], ["--overwrite=always"], ["--no-sync", "--overwrite=if-changed"]):
        ran = cli(*restore, *options)
        assert (ran.code, "warning" in ran.err) == (0, False), ran.err
        assert facts(work / "out" / "tree") == facts(work / "tree")


def test_acls_of_the_archive_come_back_and_others_go(work: Path, cli: Runner) -> None:
    for path, name in (("d", DEFAULT), ("d", ACCESS), ("d/large", ACCESS), ("group", ACCESS), ("fifo", ACCESS)):
        os.setxattr(work / "tree" / path, name, acl(4, 6, 1001))
    for path in (*(work / "tree").rglob("*"), work / "tree"):
        os.utime(path, ns=(MTIME, MTIME), follow_symlinks=False)
    restore = archived(cli)
    (work / "out").mkdir()
    os.setxattr(work / "out", DEFAULT, acl(7, 7, NOBODY))
    assert cli(*restore).code == 0
    assert facts(work / "out" / "tree") == facts(work / "tree")
    for path in ("d/large", "private", "d", "fifo"):
        os.setxattr(work / "out" / "tree" / path, ACCESS, acl(7, 7, NOBODY))
    os.setxattr(work / "out" / "tree" / "d", DEFAULT, acl(7, 7, NOBODY))
    assert cli(*restore, "--overwrite=if-changed").code == 0
    assert facts(work / "out" / "tree") == facts(work / "tree")


# ---- what is there already -------------------------------------------------------------------------------------------


def disturb(out: Path) -> list[str]:
    """Changes all but the content. What is to be mended, but for the file with two names, which is restored anew."""
    (out / "private").chmod(0o666)
    (out / "d" / "read-only").chmod(0)
    os.chown(out / "d" / "large", 1001, -1)
    (out / "first").chmod(0o777)
    (out / "fifo").chmod(0o666)
    os.chown(out / "link", 0, 0, follow_symlinks=False)
    os.setxattr(out / "group", "user.a", b"changed")
    (out / "d").chmod(0o777)
    os.removexattr(out / "d", "user.a")
    return ["d/large", "d/read-only", "fifo", "group", "link", "private"]


def inodes_below(out: Path) -> dict[Path, int]:
    """Of all but files with several names."""
    found = {path: path.lstat() for path in out.rglob("*")}
    return {path: it.st_ino for path, it in found.items() if it.st_nlink == 1 or stat.S_ISDIR(it.st_mode)}


def test_metadata_of_what_is_there_is_restored(work: Path, cli: Runner) -> None:
    restore = archived(cli)
    assert cli(*restore).code == 0
    changed = disturb(work / "out" / "tree")
    inodes = inodes_below(work / "out")
    before = facts(work / "out" / "tree")
    ran = cli(*restore, "--overwrite=if-changed", "--dry-run")
    assert sorted(line.split()[1] for line in ran.lines if line.startswith("metadata")) == [
        f"tree/{name}" for name in changed
    ]
    assert facts(work / "out" / "tree") == before
    ran = cli(*restore, "--overwrite=if-changed", "--json")
    assert ran.code == 0, ran.err
    counts = summary(ran)
    assert (counts["metadata_restored"], counts["files_restored"], counts["files_skipped"]) == (len(changed), 2, 0)
    assert facts(work / "out" / "tree") == facts(work / "tree")
    assert inodes_below(work / "out") == inodes
    again = cli(*restore, "--overwrite=if-changed")
    assert "8 unchanged" in again.err
    assert "metadata" not in again.err


def test_never_changes_nothing_that_is_there(work: Path, cli: Runner) -> None:
    restore = archived(cli)
    assert cli(*restore).code == 0
    disturb(work / "out" / "tree")
    before = facts(work / "out" / "tree")
    ran = cli(*restore)
    assert ran.code == 0
    said = "existing entries with other permissions, owners or attributes, left unchanged: 8 (--overwrite=if-changed"
    assert said in ran.err, "six, the first of two names, and a directory"
    found = summary(cli(*restore, "--json"))
    assert (found["metadata_differs"], found["files_skipped"], found["files_refused"]) == (8, 8, 0)
    assert "differs    tree/private" in cli(*restore, "--dry-run").lines
    assert facts(work / "out" / "tree") == before
    (work / "out" / "tree" / "d" / "large").unlink()
    assert cli(*restore).code == 0
    after = facts(work / "out" / "tree")
    assert (after["d"][0], after["d"][3]) == (before["d"][0], before["d"][3]), "that something is restored into it, too"


def test_a_directory_of_another_user_that_is_the_same_is_left_alone(work: Path, cli: Runner) -> None:
    (work / "tree" / "d").chmod(0o755)
    os.chown(work / "tree" / "d", 1001, 1002)
    restore = archived(cli)
    assert cli(*restore).code == 0
    more = ["--exclude=group", "--overwrite=if-changed"]
    ran = run([*POWERLESS, *restore, *more], work)
    assert (ran.code, "cannot be set" in ran.err) == (0, False), ran.err
    (work / "out" / "tree" / "d").chmod(0o775)
    ran = run([*POWERLESS, *restore, *more], work)
    assert (ran.code, "tree/d: its mode cannot be set" in ran.err) == (3, True), ran.err
    assert "ACL" not in ran.err, "it has none"
    os.setxattr(work / "out" / "tree" / "d", DEFAULT, acl(7, 7, NOBODY))
    assert run([*POWERLESS, *restore, *more], work).err.count("its default ACL cannot be removed") == 1


def test_root_without_its_capabilities_restores_into_its_read_only_directories(work: Path, cli: Runner) -> None:
    """As in a container. A file that is missing there comes back, and the directory is as it was."""
    (work / "tree" / "d").chmod(0o555)
    restore = archived(cli)
    assert cli(*restore).code == 0
    before = facts(work / "out" / "tree")
    (work / "out" / "tree" / "d" / "large").unlink()
    os.utime(work / "out" / "tree" / "d", ns=(0, 0))
    ran = run([*POWERLESS, *restore, "--no-owner", "--exclude=link"], work)
    assert ran.code == 0, ran.err
    assert facts(work / "out" / "tree") == before


@pytest.mark.parametrize("mode", [0o000, 0o300, 0o600])
def test_a_directory_that_its_owner_may_not_look_into_is_restored_into_again(
    work: Path, cli: Runner, mode: int
) -> None:
    (work / "tree" / "d").chmod(mode)
    restore = [*archived(cli), "--no-owner", "--exclude=link"]
    ran = run([*POWERLESS, *restore], work)
    assert ran.code == 0, ran.err
    before = facts(work / "out" / "tree")
    assert before["d"][0] == oct(stat.S_IFDIR | mode)
    (work / "out" / "tree" / "d" / "large").unlink()
    for options in ([], ["--overwrite=always"], []):
        ran = run([*POWERLESS, *restore, *options], work)
        assert (ran.code, "warning" in ran.err) == (0, False), ran.err
        assert facts(work / "out" / "tree") == before


# ---- what gives rights -----------------------------------------------------------------------------------------------


def with_rights(tree: Path) -> None:
    for name, mode in (("suid", 0o4755), ("sgid", 0o2755), ("both", 0o6777), ("capable", 0o755)):
        (tree / name).write_bytes(b"#!/bin/sh\n")
        (tree / name).chmod(mode)
    os.setxattr(tree / "capable", "security.capability", CAPABILITY)
    os.setxattr(tree / "capable", "trusted.t", b"1")
    os.setxattr(tree / "d", "trusted.t", b"2")
    (tree / "shared").mkdir()
    os.chown(tree / "shared", 0, 1002)
    (tree / "shared").chmod(0o2775)


def rights(top: Path) -> dict[str, tuple[str, list[str]]]:
    names = ("suid", "sgid", "both", "capable", "shared", "d")
    return {name: (oct((top / name).stat().st_mode & 0o7777), sorted(os.listxattr(top / name))) for name in names}


def test_rights_are_restored_only_when_asked_for(work: Path, cli: Runner) -> None:
    with_rights(work / "tree")
    restore, out = archived(cli), work / "out" / "tree"
    for options in ([], ["--numeric-owner", "--overwrite=always"]):
        ran = cli(*restore, *options)
        assert ran.code == 0
        assert "set-id bits or capabilities were left out (5): --set-id --overwrite=if-changed restores them" in ran.err
        assert rights(out) == {
            "suid": ("0o755", []),
            "sgid": ("0o755", []),
            "both": ("0o777", []),
            "capable": ("0o755", []),
            "shared": ("0o2775", []),
            "d": ("0o750", ["user.a"]),
        }
    assert "left unchanged" not in cli(*restore).err
    ran = cli(*restore, "--set-id")
    assert "left unchanged: 5 (--overwrite=if-changed restores these)" in ran.err, ran.err
    ran = cli(*restore, "--set-id", "--overwrite=if-changed")
    assert (ran.code, "warning" in ran.err) == (0, False)
    assert facts(out) == facts(work / "tree")
    ran = cli(*restore, "--set-id", "--into", "new")
    assert facts(work / "new" / "tree") == facts(work / "tree")


def test_rights_that_are_there_stay_unless_the_owner_changes(work: Path, cli: Runner) -> None:
    with_rights(work / "tree")
    restore, out = archived(cli), work / "out" / "tree"
    assert cli(*restore, "--set-id").code == 0
    before = rights(out)
    (out / "capable").chmod(0o700)
    assert cli(*restore, "--overwrite=if-changed").code == 0
    assert rights(out) == before
    for name in ("suid", "both"):
        os.chown(out / name, 1001, 1001)
    (out / "suid").chmod(0o4755)
    (out / "private").chmod(0o4700)
    assert cli(*restore, "--overwrite=if-changed").code == 0
    assert rights(out) == {**before, "suid": ("0o755", []), "both": ("0o777", [])}
    assert stat.S_IMODE((out / "private").stat().st_mode) == 0o600, "which the archive does not have"


@pytest.mark.parametrize("options", [[], ["--set-id"]])
def test_no_owner(work: Path, cli: Runner, options: list[str]) -> None:
    with_rights(work / "tree")
    restore, out = archived(cli), work / "out" / "tree"
    ran = cli(*restore, "--no-owner", *options)
    assert ran.code == 0
    kept, found = facts(work / "tree"), facts(out)
    for name, (mode, owner, mtime, _) in found.items():
        assert (owner, mtime) == ((0, 0), kept[name][2])
        assert int(mode, 8) == int(str(kept[name][0]), 8) & ~0o6000
    assert cli(*restore, "--no-owner", "--overwrite=if-changed", *options).code == 0
    assert facts(out) == found


def test_no_sync_restores_the_same(work: Path, cli: Runner) -> None:
    restore = archived(cli)
    assert cli(*restore, "--no-sync").code == 0
    assert facts(work / "out" / "tree") == facts(work / "tree")
    assert "8 unchanged" in cli(*restore).err

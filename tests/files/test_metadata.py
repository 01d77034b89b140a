"""Metadata of files, read and set again: nothing is reached through a link, and failures are reported."""

from __future__ import annotations

import base64
import errno
import os
import stat
import struct
import sys
import time
from pathlib import Path

import pytest

from pogfast.errors import CorruptManifest
from pogfast.files import metadata
from pogfast.files.metadata import MAX_NS, Metadata, facts_of, metadata_of, set_metadata

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="extended attributes are read on Linux only")
ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
# A POSIX ACL: version 2, then (tag, permissions, number) of the owner, user 12345, the group, the mask, and others.
ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", tag, bits, number)
    for tag, bits, number in (
        (1, 6, 2**32 - 1),
        (2, 4, 12345),
        (4, 4, 2**32 - 1),
        (16, 4, 2**32 - 1),
        (32, 0, 2**32 - 1),
    )
)


def facts(path: Path) -> dict[str, object]:
    return facts_of(str(path), path.lstat())


def put(path: Path, taken: dict[str, object], **more: bool) -> list[str]:
    """Sets facts on a path."""
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        return set_metadata(directory, path.name, metadata_of(path.name, taken, **more))
    finally:
        os.close(directory)


def make(kind: str, path: Path) -> Path:
    if kind == "file":
        path.write_bytes(b"content")
    elif kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to("nowhere")
    return path


def test_facts_are_those_of_format_md(tmp_path: Path) -> None:
    file = make("file", tmp_path / "f")
    file.chmod(0o6751)
    os.utime(file, ns=(5, 1_700_000_000_123_456_789))
    found = facts(file)
    assert found["mode"] == 0o6751
    assert (found["uid"], found["gid"]) == (os.geteuid(), file.stat().st_gid)
    assert (found["atime_ns"], found["mtime_ns"]) == (5, 1_700_000_000_123_456_789)
    assert found["user"] == metadata._user_name(os.geteuid())
    assert "xattrs" not in found


@pytest.mark.parametrize("kind", ["file", "directory", "fifo", "link"])
def test_mode_and_times_come_back(tmp_path: Path, kind: str) -> None:
    kept = make(kind, tmp_path / "kept")
    if kind != "link":
        kept.chmod(0o1750 if kind == "directory" else 0o640)
    os.utime(kept, ns=(-1_500_000_001, 1_234_567_890_987_654_321), follow_symlinks=False)
    there = make(kind, tmp_path / "there")
    assert put(there, facts(kept)) == []
    assert facts(there) == facts(kept)


@LINUX
@pytest.mark.parametrize("kind", ["file", "directory"])
def test_attributes_and_acls_come_back(tmp_path: Path, kind: str) -> None:
    kept, there = make(kind, tmp_path / "kept"), make(kind, tmp_path / "there")
    attributes = {"user.plain": b"v", "user.empty": b"", os.fsdecode(b"user.\xff"): bytes(range(256))}
    attributes["system.posix_acl_access"] = ACL
    if kind == "directory":
        attributes["system.posix_acl_default"] = ACL
    for name, value in attributes.items():
        os.setxattr(kept, name, value)
    found = facts(kept)
    assert found["xattrs"] == {name: base64.b64encode(value).decode() for name, value in attributes.items()}
    assert put(there, found) == []
    assert {name: os.getxattr(there, name) for name in os.listxattr(there)} == attributes
    assert stat.S_IMODE(there.stat().st_mode) == stat.S_IMODE(kept.stat().st_mode)


@LINUX
@ROOT
def test_attributes_of_a_link_are_its_own(tmp_path: Path) -> None:
    target = make("file", tmp_path / "target")
    for name in ("kept", "there"):
        (tmp_path / name).symlink_to("target")
    os.setxattr(tmp_path / "kept", "trusted.x", b"1", follow_symlinks=False)
    os.setxattr(target, "user.not-the-links", b"2")
    found = facts(tmp_path / "kept")
    assert found["xattrs"] == {"trusted.x": base64.b64encode(b"1").decode()}
    assert put(tmp_path / "there", found) == []
    assert os.getxattr(tmp_path / "there", "trusted.x", follow_symlinks=False) == b"1"
    assert os.listxattr(target) == ["user.not-the-links"]


def test_nothing_is_set_on_what_has_taken_the_place_of_a_file(tmp_path: Path) -> None:
    """A file of somebody else's, hard-linked there at the right moment, must not be given away."""
    file, other = make("file", tmp_path / "f"), make("file", tmp_path / "other")
    found = file.stat()
    file.unlink()
    os.link(other, file)
    directory = os.open(tmp_path, os.O_RDONLY)
    before = other.stat().st_mode
    assert set_metadata(directory, "f", Metadata(0o777), found) == [
        "its metadata is not set: another file has taken its place"
    ]
    os.close(directory)
    assert other.stat().st_mode == before


@LINUX
def test_labels_of_the_machines_policy_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = make("file", tmp_path / "f")
    monkeypatch.setattr(os, "listxattr", lambda path, follow_symlinks: ["security.selinux", "user.a"])
    monkeypatch.setattr(os, "getxattr", lambda path, name, follow_symlinks: b"v")
    assert list(facts(file)["xattrs"]) == ["user.a"]


@LINUX
@pytest.mark.parametrize("call", ["listxattr", "getxattr"])
@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.EPERM, errno.EACCES, errno.ENODATA])
def test_what_cannot_be_read_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int) -> None:
    file = make("file", tmp_path / "f")
    os.setxattr(file, "user.x", b"1")

    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, call, refuse)
    assert "xattrs" not in facts(file)
    assert facts(file)["mode"] == stat.S_IMODE(file.stat().st_mode)


def test_facts_are_cheap(tmp_path: Path) -> None:
    """A million files have some seconds for all of it: far below what a look-up of names costs each time."""
    file = make("file", tmp_path / "f")
    found, path = file.lstat(), str(file)
    best = min(_seconds(lambda: facts_of(path, found)) for _ in range(20))
    assert best < 20e-6


def _seconds(call: object, times: int = 200) -> float:
    begin = time.perf_counter()
    for _ in range(times):
        call()  # type: ignore[operator]
    return (time.perf_counter() - begin) / times


# ---- never through a link ------------------------------------------------------------------------------------------


def test_what_a_link_points_to_is_left_alone(tmp_path: Path) -> None:
    target = make("file", tmp_path / "target")
    target.chmod(0o644)
    os.utime(target, ns=(1, 1))
    link = tmp_path / "link"
    link.symlink_to("target")
    assert put(link, {"mode": 0o777, "mtime_ns": 5, "atime_ns": 5}) == []
    assert stat.S_IMODE(target.stat().st_mode) == 0o644
    assert target.stat().st_mtime_ns == 1
    assert link.lstat().st_mtime_ns == 5


def test_a_fifo_that_nobody_reads_does_not_block(tmp_path: Path) -> None:
    assert put(make("fifo", tmp_path / "p"), {"mode": 0o604}) == []
    assert stat.S_IMODE((tmp_path / "p").stat().st_mode) == 0o604


# ---- owners --------------------------------------------------------------------------------------------------------


@ROOT
@pytest.mark.parametrize("kind", ["file", "directory", "fifo", "link"])
def test_root_gives_files_back(tmp_path: Path, kind: str) -> None:
    there = make(kind, tmp_path / "there")
    assert put(there, {"uid": 12345, "gid": 23456, "mode": 0o4755}) == []
    assert (there.lstat().st_uid, there.lstat().st_gid) == (12345, 23456)
    if kind != "link":
        assert stat.S_IMODE(there.lstat().st_mode) == 0o4755, "the owner is set before the mode"


@ROOT
def test_a_name_that_is_known_here_wins_over_the_number() -> None:
    taken = {"uid": 12345, "gid": 12345, "user": "root", "group": "root"}
    assert metadata_of("f", taken)[1:3] == (0, 0)
    assert metadata_of("f", taken, numeric_owner=True)[1:3] == (12345, 12345)
    taken |= {"user": "no such user", "group": "no such\0group"}
    assert metadata_of("f", taken)[1:3] == (12345, 12345)


def test_others_give_nothing_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(os, "getegid", lambda: 1000)
    mine = {"uid": 1000, "gid": 1000, "mode": 0o6755}
    assert metadata_of("f", mine) == Metadata(0o6755)
    assert metadata_of("f", mine | {"uid": 0}) == Metadata(0o2755), "it would run as whoever restores it"
    assert metadata_of("f", mine | {"gid": 0}) == Metadata(0o4755)
    assert metadata_of("f", mine | {"user": "root", "group": "root"}) == Metadata(0o755)


def test_set_id_bits_need_an_owner() -> None:
    assert metadata_of("f", {"mode": 0o7711}).mode == 0o1711


def test_no_set_id_bits_where_the_owner_cannot_be_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = make("file", tmp_path / "there")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "chown", refuse)
    directory = os.open(tmp_path, os.O_RDONLY)
    assert set_metadata(directory, "there", Metadata(0o6755, 5, 5)) == [
        "its owner cannot be set: Operation not permitted"
    ]
    os.close(directory)
    assert stat.S_IMODE(there.stat().st_mode) == 0o755


# ---- what cannot be set, and what is malformed ---------------------------------------------------------------------


@LINUX
def test_what_cannot_be_set_is_told_and_the_rest_set(tmp_path: Path) -> None:
    fifo = make("fifo", tmp_path / "p")
    told = put(fifo, {"mode": 0o600, "mtime_ns": 7, "xattrs": {"user.no-fifo-has-these": "", "nonsense": "AA=="}})
    assert told == [
        "its extended attribute user.no-fifo-has-these cannot be set: Operation not permitted",
        "its extended attribute nonsense cannot be set: Operation not supported",
    ]
    assert fifo.stat().st_mtime_ns == fifo.stat().st_atime_ns == 7
    assert put(tmp_path / "gone", {}) == ["its metadata cannot be set: No such file or directory"]


def test_nothing_is_set_that_is_not_known(tmp_path: Path) -> None:
    there = make("file", tmp_path / "there")
    there.chmod(0o604)
    before = facts(there)
    assert metadata_of("f", {"blobs": [], "size": 5}) == Metadata()
    assert put(there, {}) == []
    assert facts(there) == before


@pytest.mark.parametrize(
    "wrong",
    [
        *({"mode": value} for value in (0o10000, -2, "644", 1.5, True, None)),
        *({"uid": value} for value in (2**32, -2, "root")),
        {"gid": 2**32 - 1},
        *({"mtime_ns": value} for value in ("1", 1.0, False)),
        {"atime_ns": [], "mtime_ns": 1},
        *({"xattrs": value} for value in ([], "x", {"user.x": "no base64!"}, {"user.x": 1}, {"": ""}, {"a\0b": ""})),
        {"xattrs": {"user.\ud800": ""}},
        {"xattrs": {"user.x": "é"}},
    ],
    ids=repr,
)
def test_malformed_facts_are_named(wrong: dict[str, object]) -> None:
    with pytest.raises(CorruptManifest, match=r"^the/name: its metadata is malformed$"):
        metadata_of("the/name", wrong)


def test_times_that_no_system_has_are_cut() -> None:
    assert metadata_of("f", {"mtime_ns": 10**30, "atime_ns": -(10**30)}).times == (-MAX_NS, MAX_NS)

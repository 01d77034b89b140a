"""Directories that an archive does not hold but its names pass through: those above an input, and `.` itself."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from conftest import Ran, Runner

import pogfast
from pogfast.keys import from_keyfile

LONG_AGO = 1_500_000_000_123_456_789


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """home/u/sub/f, where only the owner may enter u; a key in the environment, and a cache of its own."""
    (tmp_path / "home" / "u" / "sub").mkdir(parents=True)
    (tmp_path / "home" / "u" / "sub" / "f").write_bytes(b"hello\n")
    (tmp_path / "home" / "u").chmod(0o700)
    (tmp_path / "home").chmod(0o750)
    os.utime(tmp_path / "home" / "u", ns=(LONG_AGO, LONG_AGO))
    (tmp_path / "key").write_bytes(b"a key")
    monkeypatch.setenv("POGFAST_KEYFILE", str(tmp_path / "key"))
    monkeypatch.setenv("POGFAST_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path


def trailer(work: Path, ran: Ran) -> dict[str, Any]:
    assert ran.code == 0, ran.err
    name = ran.lines[-1]
    with pogfast.open_archive(f"{work}/store/{name}", from_keyfile(str(work / "key"))) as archive:
        return archive.trailer


def create(work: Path, cli: Runner, *arguments: str) -> dict[str, Any]:
    return trailer(work, cli("create", *arguments, "--to", "store"))


# ---- what create keeps -----------------------------------------------------------------------------------------------


def test_the_metadata_of_parents_is_kept(work: Path, cli: Runner) -> None:
    found = create(work, cli, "home/u/sub")
    assert {name: facts["mode"] for name, facts in found["parents"].items()} == {"home": 0o750, "home/u": 0o700}
    assert found["parents"]["home/u"]["mtime_ns"] == LONG_AGO
    assert found["parents"]["home"]["uid"] == os.getuid()
    assert set(found["directories"]) == {"home/u/sub"}, "they are not archived themselves"
    assert "top" not in found
    assert found["totals"]["directories"] == 1


def test_parents_of_absolute_paths_and_of_files(work: Path, cli: Runner) -> None:
    found = create(work, cli, f"{work}/home/./u//sub/f", "-q")
    tops = [name for name in found["parents"] if not name.endswith(("home", "home/u", "home/u/sub"))]
    assert tops, "the directories above the test's own"
    assert found["parents"][f"{work}/home/u".lstrip("/")]["mode"] == 0o700


def test_a_directory_that_is_archived_is_nobodys_parent(work: Path, cli: Runner) -> None:
    for inputs in (["home/u/sub/f", "home"], ["home", "home/u/sub/f"]):
        found = create(work, cli, *inputs)
        assert "parents" not in found
        assert set(found["directories"]) == {"home", "home/u", "home/u/sub"}


@pytest.mark.parametrize(
    "given", [["-C", "home/u", "."], ["home/u/sub/.."], ["-C", "home/u", "./"], ["-C", "home", "u/."]]
)
def test_the_directory_itself_is_kept(work: Path, cli: Runner, given: list[str]) -> None:
    found = create(work, cli, *given)
    top = found.get("top") or found["directories"]["u"]  # u/. has a name, as with tar
    assert (top["mode"], top["mtime_ns"], top["uid"]) == (0o700, LONG_AGO, os.getuid())
    assert "parents" not in found


def test_a_linked_parent_has_the_metadata_of_its_directory(work: Path, cli: Runner) -> None:
    (work / "link").symlink_to("home/u")
    if hasattr(os, "setxattr"):
        os.setxattr(work / "home" / "u", "user.mark", b"here")
    found = create(work, cli, "link/sub")
    assert found["parents"]["link"]["mode"] == 0o700
    assert found["parents"]["link"]["mtime_ns"] == LONG_AGO
    if hasattr(os, "setxattr"):
        assert found["parents"]["link"]["xattrs"] == {"user.mark": "aGVyZQ=="}


def test_nothing_is_kept_of_what_leads_to_nothing(work: Path, cli: Runner) -> None:
    """A path that is excluded, or not there, and one that stands for standard input."""
    (work / "other").mkdir()
    (work / "other" / "f").write_bytes(b"")
    found = create(work, cli, "home/u/sub", "other/f", "--exclude", "other")
    assert set(found["parents"]) == {"home", "home/u"}
    ran = cli("create", "home/u/sub/f", "other/nope", "--to", "store")
    assert ran.code == 3
    ran.code = 0
    assert set(trailer(work, ran)["parents"]) == {"home", "home/u", "home/u/sub"}
    ran = cli("create", "-", "--name", "home/u/dump", "--to", "store", stdin=b"content")
    assert "parents" not in trailer(work, ran)


def test_rewrite_drops_parents_with_what_was_below_them(work: Path, cli: Runner) -> None:
    (work / "secret" / "plan").mkdir(parents=True)
    (work / "secret" / "plan" / "f").write_bytes(b"psst")
    created = create(work, cli, "home/u/sub/f", "secret/plan/f")
    assert set(created["parents"]) == {"home", "home/u", "home/u/sub", "secret", "secret/plan"}
    assert cli("rewrite", "store/latest", "--exclude", "secret/plan/f", "--yes").code == 0
    with pogfast.open_archive(f"{work}/store/latest", from_keyfile(str(work / "key"))) as archive:
        assert list(archive) == ["home/u/sub/f"]
        assert archive.trailer["parents"] == {
            name: facts for name, facts in created["parents"].items() if name.startswith("home")
        }

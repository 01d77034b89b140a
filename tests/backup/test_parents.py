"""Directories that are not archived but are part of archived names: those above an input, and `.` itself."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import pogfast
from kit.commands import Ran, Runner
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


def test_diff_and_check_compare_the_directory_itself(work: Path, cli: Runner) -> None:
    create(work, cli, "-C", "home/u", ".")
    assert cli("check", "store/latest", "--against", "home/u").code == 0
    (work / "home" / "u").chmod(0o711)
    ran = cli("check", "store/latest", "--against", "home/u", "--json")
    assert ran.code == 1
    assert [line for line in ran.lines if '"mode"' in line and '"."' in line], ran.lines
    create(work, cli, "-C", "home/u", ".")
    first, second = sorted(path.name for path in (work / "store").glob("*.mfn"))
    ran = cli("diff", f"store/{first}", f"store/{second}")
    assert [line.split() for line in ran.lines] == [["U", ".", "(mode)"]] or "." in ran.lines[0].split()
    assert len(ran.lines) == 1


# ---- what restore makes of it ----------------------------------------------------------------------------------------


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


def test_parents_come_back_as_they_were(work: Path, cli: Runner) -> None:
    create(work, cli, "home/u/sub")
    ran = cli("restore", "store/latest", "--into", "out")
    assert ran.code == 0, ran.err
    assert (mode(work / "out/home"), mode(work / "out/home/u")) == (0o750, 0o700)
    assert (work / "out/home/u").stat().st_mtime_ns == LONG_AGO
    assert (work / "out/home/u/sub/f").read_bytes() == b"hello\n"
    assert cli("restore", "store/latest", "--into", "out").code == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_parents_go_back_to_their_owners(work: Path, cli: Runner) -> None:
    os.chown(work / "home" / "u", 1234, 4321)
    create(work, cli, "home/u/sub")
    assert cli("restore", "store/latest", "--into", "out").code == 0
    found = (work / "out/home/u").stat()
    assert (found.st_uid, found.st_gid) == (1234, 4321)
    assert (work / "out/home/u/sub").stat().st_uid == os.getuid()
    assert cli("restore", "store/latest", "--into", "mine", "--no-owner").code == 0
    assert (work / "mine/home/u").stat().st_uid == os.getuid()


@pytest.mark.parametrize("how", [[], ["--overwrite", "if-changed"], ["--overwrite", "always"], ["--delete"]])
def test_parents_that_are_there_are_left_alone(work: Path, cli: Runner, how: list[str]) -> None:
    """They are not in the archive: nobody expects that restoring sub changes the home of somebody."""
    create(work, cli, "home/u/sub")
    (work / "out" / "home").mkdir(parents=True)
    (work / "out" / "home" / "mine").write_bytes(b"mine")
    (work / "out" / "home").chmod(0o711)
    os.utime(work / "out" / "home", ns=(LONG_AGO, LONG_AGO))
    assert cli("restore", "store/latest", "--into", "out", *how).code == 0
    assert mode(work / "out" / "home") == 0o711
    assert mode(work / "out" / "home" / "u") == 0o700
    assert (work / "out" / "home" / "mine").exists()


def test_only_the_parents_that_are_needed_are_made(work: Path, cli: Runner) -> None:
    (work / "other" / "deep").mkdir(parents=True)
    (work / "other" / "deep" / "f").write_bytes(b"")
    create(work, cli, "home/u/sub/f", "other/deep/f")
    assert cli("restore", "store/latest", "home/u/sub/f", "--into", "out").code == 0
    assert os.listdir(work / "out") == ["home"]
    assert mode(work / "out/home/u") == 0o700
    assert cli("restore", "store/latest", "--exclude", "home", "--into", "rest").code == 0
    assert os.listdir(work / "rest") == ["other"]


def test_parents_of_which_parts_are_stripped(work: Path, cli: Runner) -> None:
    create(work, cli, "home/u/sub")
    assert cli("restore", "store/latest", "--into", "out", "--strip-components", "1").code == 0
    assert mode(work / "out/u") == 0o700
    assert mode(work / "out") != 0o750, "what is stripped is not the directory that is restored into"


def test_a_dry_run_makes_no_parents(work: Path, cli: Runner) -> None:
    create(work, cli, "home/u/sub")
    ran = cli("restore", "store/latest", "--into", "out", "--dry-run")
    assert ran.code == 0
    assert not (work / "out").exists()
    assert not any(line.split()[-1] in ("home", "home/u", ".") for line in ran.lines), "nothing is told of them"


@pytest.mark.parametrize("given", [["-C", "home/u", "."], ["home/u/sub/.."]])
def test_the_directory_that_is_restored_into_becomes_what_was_archived(
    work: Path, cli: Runner, given: list[str]
) -> None:
    create(work, cli, *given)
    (work / "empty").mkdir()
    for into in ("out", "deep/er/out", "empty"):
        assert cli("restore", "store/latest", "--into", into).code == 0
        assert (mode(work / into), (work / into).stat().st_mtime_ns) == (0o700, LONG_AGO)
    assert mode(work / "deep") != 0o700
    assert cli("check", "store/latest", "--against", "out").code == 0


def test_one_with_something_in_it_is_left_alone_unless_told_otherwise(work: Path, cli: Runner) -> None:
    create(work, cli, "-C", "home/u", ".")
    out = work / "out"
    out.mkdir()
    (out / "mine").write_bytes(b"mine")
    out.chmod(0o711)
    assert cli("restore", "store/latest", "--into", "out").code == 0
    assert mode(out) == 0o711
    assert cli("restore", "store/latest", "sub", "--into", "out", "--overwrite", "if-changed").code == 0
    assert mode(out) == 0o711, "a part was selected"
    assert cli("restore", "store/latest", "--into", "out", "--overwrite", "if-changed").code == 0
    assert (mode(out), out.stat().st_mtime_ns) == (0o700, LONG_AGO)
    assert (out / "mine").exists()


def test_delete_at_the_top(work: Path, cli: Runner) -> None:
    create(work, cli, "-C", "home/u", ".")
    out = work / "out"
    (out / "sub").mkdir(parents=True)
    for extra in ("mine", "sub/mine", ".hidden"):
        (out / extra).write_bytes(b"mine")
    assert cli("restore", "store/latest", "sub", "--into", "out", "--delete").code == 0
    assert sorted(os.listdir(out)) == [".hidden", "mine", "sub"]
    ran = cli("restore", "store/latest", "--into", "out", "--delete", "--dry-run")
    assert {".hidden", "mine"} <= {line.split()[-1] for line in ran.lines}
    assert cli("restore", "store/latest", "--into", "out", "--delete", "--exclude", "/.hidden").code == 0
    assert sorted(os.listdir(out)) == [".hidden", "sub"]
    assert os.listdir(out / "sub") == ["f"]
    assert mode(out) == 0o700


def test_delete_never_takes_the_store_itself(work: Path, cli: Runner) -> None:
    """create leaves it out, so it is not in the archive."""
    assert cli("create", "-C", "home", ".", "--to", "home/u/store").code == 0
    stored = sorted((work / "home/u/store").rglob("*"))
    (work / "home/u/store/mine").write_bytes(b"mine")
    (work / "home/mine").write_bytes(b"mine")
    ran = cli("restore", "home/u/store/latest", "--into", "home", "--delete")
    assert ran.code == 0, ran.err
    assert sorted((work / "home/u/store").rglob("*")) == stored
    assert not (work / "home/mine").exists()
    assert "store" in ran.err
    ran = cli("restore", "latest", "--from", "home/u/store", "--into", "home", "--delete")
    assert ran.code == 0, ran.err
    assert sorted((work / "home/u/store").rglob("*")) == stored


def test_an_interrupted_restore_is_finished(work: Path, cli: Runner) -> None:
    """What a killed run has left for its owner alone gets its own permissions from the next one."""
    (work / "home").chmod(0o755)
    (work / "home" / "u").chmod(0o755)
    create(work, cli, "home/u/sub")
    assert cli("create", "-C", "home", ".", "--to", "store2").code == 0
    for directory in ("out", "out/home", "out/home/u", "out/home/u/sub"):
        (work / directory).mkdir()
        (work / directory).chmod(0o1700)
    assert cli("restore", "store/latest", "--into", "out").code == 0
    assert [mode(work / "out" / place) for place in ("home", "home/u", "home/u/sub")] == [0o755] * 3
    for directory in ("back", "back/u"):
        (work / directory).mkdir()
        (work / directory).chmod(0o1700)
    assert cli("restore", "store2/latest", "--into", "back").code == 0
    assert [mode(work / "back" / place) for place in ("", "u")] == [0o755] * 2


HOSTILE = [
    {"parents": {"../out2": {"mode": 0o777}, "home": {"mode": 0o4777}}},
    {"parents": {"home": {"mode": "x"}}},
    {"parents": {"home": None}},
    {"top": {"mode": 0o6777}},
    {"top": {"mode": -5}},
    {"top": "nonsense"},
    {"parents": {"\ud800": {"mode": 0o777}, "": {"mode": 0o777}, ".": {"mode": 0}, "/": {"mode": 0}}},
]


@pytest.mark.parametrize("extra", HOSTILE, ids=range(len(HOSTILE)))
def test_what_an_archive_says_of_them_is_not_believed(work: Path, cli: Runner, extra: dict[str, Any]) -> None:
    from pogfast import manifest

    create(work, cli, "home/u/sub")
    key = from_keyfile(str(work / "key"))
    [path] = (work / "store").glob("*.mfn")
    opened = manifest.open(path.read_bytes(), key, "it")
    path.write_bytes(manifest.seal(manifest.Manifest(opened.entries, {**(opened.trailer or {}), **extra}), key))
    ran = cli("restore", "store/latest", "--into", "out")
    assert "defect" not in ran.err
    assert (work / "out/home/u/sub/f").read_bytes() == b"hello\n"
    assert mode(work / "out") & 0o7022 == 0 or "top" in extra
    assert not mode(work / "out/home") & 0o4000
    assert not (work / "out2").exists()
    for words in (["ls"], ["info"], ["check"]):
        assert "defect" not in cli(*words, "store/latest").err

"""`check --restore-test`: files chosen at random, and all that a restore of them would find."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

import pogfast
from kit.built import CHUNK, DAMAGE, KEY, Built
from kit.commands import Runner
from kit.files import flip, text
from kit.packed import KEY as PACKED_KEY
from kit.packed import create, make_tree
from pogfast.errors import UsageError, WrongKey
from pogfast.upkeep import rehearsing

SIZES = {"empty": 0, "small": 10, "frames": 5 * CHUNK + 3, "stream": 4 * CHUNK}


@pytest.fixture
def built(tmp_path: Path) -> Built:
    """Three archives of four files each."""
    made = Built(tmp_path / "store")
    for number in range(3):
        for name, size in SIZES.items():
            layout = "stream" if name == "stream" else "frames"
            made.add(f"{name} {number}", os.urandom(size + number), layout)
        made.seal(f"2026-01-0{number + 1}T00:00:00.000000.mfn", {"host": f"h{number}"})
    return made


def rehearsed(store: Path | str, count: int, seed: int | None = None, **more: Any) -> Any:
    return pogfast.check(str(store), KEY, restore_test=count, seed=seed, **more)


def restored(store: Path, count: int, seed: int, monkeypatch: pytest.MonkeyPatch, **more: Any) -> list[str]:
    """The names of the files that are chosen, in order."""
    names: list[str] = []
    restore = rehearsing.restore_to_nowhere

    def noted(name: str, *words: Any) -> Any:
        names.append(name)
        return restore(name, *words)

    with monkeypatch.context() as patched:
        patched.setattr(rehearsing, "restore_to_nowhere", noted)
        summary = rehearsed(store, count, seed, **more)
    assert (summary.exit_code, summary.rehearsal.seed, summary.rehearsal.files) == (0, seed, len(names))
    return names


def test_all_files_if_there_are_no_more(built: Built) -> None:
    rehearsal = rehearsed(built.path, 100).rehearsal
    assert rehearsal is not None
    total = sum(SIZES.values()) * 3 + 4 * 3
    assert (rehearsal.files, rehearsal.archives, rehearsal.size) == (12, 3, total)
    assert rehearsed(built.path, 5).rehearsal.files == 5
    assert pogfast.check(str(built.path), KEY).rehearsal is None


def test_a_seed_chooses_the_same_files_again(built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = [restored(built.path, 4, seed, monkeypatch) for seed in range(20)]
    assert drawn[3] == restored(built.path, 4, 3, monkeypatch)
    assert len({tuple(names) for names in drawn}) > 15
    assert {name for names in drawn for name in names} == {f"{name} {number}" for name in SIZES for number in range(3)}
    assert all(len(set(names)) == 4 for names in drawn)
    seeds = {rehearsed(built.path, 1).rehearsal.seed for _ in range(3)}
    assert len(seeds) == 3, "each run draws its own"


def test_only_files_of_the_archives_that_are_checked(built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sorted(restored(built.path, 9, 1, monkeypatch, host="h1")) == sorted(f"{name} 1" for name in SIZES)
    assert sorted(restored(built.path / "latest", 9, 1, monkeypatch)) == sorted(f"{name} 2" for name in SIZES)


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("name", ["small", "frames", "stream"])
def test_damage_is_found(built: Built, kind: str, name: str) -> None:
    with pogfast.open_archive(f"{built.path}/2026-01-02T00:00:00.000000.mfn", KEY) as archive:
        blobs = {each: archive[each].blobs for each in archive}
    _, _, spoil = DAMAGE[kind]
    spoil(built, blobs[f"{name} 1"][0], blobs["empty 1"][0])
    summary = rehearsed(built.path, 12)
    assert summary.exit_code == 4
    [damage] = {(each.archive, each.name) for each in summary.damage}
    assert damage == ("2026-01-02T00:00:00.000000.mfn", f"{name} 1")
    assert summary.rehearsal.files == 11
    assert len(summary.damage) == len({(each.name, each.blob) for each in summary.damage})


def test_what_a_check_without_reading_does_not_see(built: Built) -> None:
    for path in built.path.glob("data/*/*"):
        flip(path, -1)
    assert pogfast.check(str(built.path), KEY).exit_code == 0
    summary = rehearsed(built.path, 3)
    assert (summary.exit_code, len(summary.damage), summary.rehearsal.files) == (4, 3, 0)


def test_names_sizes_and_metadata_are_those_of_the_manifest(tmp_path: Path) -> None:
    made = Built(tmp_path / "store")
    made.add("../outside", text(10))
    made.add("long", text(3 * CHUNK), "stream", size=3 * CHUNK + 1)
    made.add("mode", text(20), mode="rwx")
    made.add("good", text(30))
    made.seal()
    summary = rehearsed(made.path, 10)
    said = " | ".join([*(str(each) for each in summary.problems), *(each.error for each in summary.damage)])
    assert "../outside" in said
    assert "long: " in said
    assert "mode: " in said
    assert "good" not in said
    assert (summary.rehearsal.files, summary.exit_code) == (1, 4)


def test_nothing_is_written(built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POGFAST_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    rehearsed(built.path, 1)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    rehearsed(built.path, 100)
    after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    cache = tmp_path / "cache"
    assert {path for path in after if after[path] != before.get(path)} <= {cache, *cache.glob("*")}


def test_an_archive_that_vanishes_meanwhile(built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    rehearse = rehearsing._plan

    def plan(candidate: Any, key: Any) -> Any:
        (built.path / candidate.name).unlink(missing_ok=True)
        return rehearse(candidate, key)

    monkeypatch.setattr(rehearsing, "_plan", plan)
    summary = rehearsed(built.path, 5)
    assert {problem.exit_code for problem in summary.problems} == {10}
    assert summary.rehearsal.files == 0


def test_who_cannot_restore_cannot_test_it(built: Built, tmp_path: Path) -> None:
    public = pogfast.open_key(encryption_keyfile=pogfast.keygen(str(tmp_path / "pair"))[0])
    with pytest.raises(WrongKey):
        pogfast.check(str(built.path), public, restore_test=3)
    with pytest.raises(UsageError):
        pogfast.check(str(built.path), None, restore_test=3)


def test_a_store_with_packs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POGFAST_CACHE_DIR", str(tmp_path / "cache"))
    tree = make_tree(tmp_path / "tree", 200)
    os.link(tree / "large", tree / "link")
    create(tree, tmp_path / "store", packs="yes")
    summary = pogfast.check(str(tmp_path / "store"), PACKED_KEY, restore_test=1000)
    assert (summary.exit_code, summary.rehearsal.files) == (0, 203)
    assert summary.rehearsal.size == sum(path.stat().st_size for path in tree.rglob("*") if path.is_file())


def test_the_command(tmp_path: Path, pogfast: Runner) -> None:
    (tmp_path / "key").write_bytes(b"key")
    (tmp_path / "tree").mkdir()
    for number in range(30):
        (tmp_path / "tree" / f"{number}").write_bytes(os.urandom(1000))
    assert pogfast("create", "tree", "--to", "store", "--keyfile=key").code == 0
    ran = pogfast("check", "store", "--keyfile=key", "--restore-test=5", "--json")
    summary = json.loads(ran.lines[-1])
    assert (ran.code, summary["files_tested"], summary["bytes_tested"]) == (0, 5, 5000)
    ran = pogfast("check", "store", "--keyfile=key", "--restore-test=5", f"--seed={summary['seed']}")
    said = f"restored 5 files of 1 archive, 5.00 kB, to nowhere; --seed {summary['seed']} tests the same files"
    assert said in ran.err.splitlines()
    for wrong in (["--restore-test=0"], ["--seed=5"], ["--restore-test=5", "--seed=-1"]):
        assert pogfast("check", "store", "--keyfile=key", *wrong).code == 2
    assert pogfast("check", "store/latest", "--keyfile=key", "--restore-test=5", "--against=.").code == 2

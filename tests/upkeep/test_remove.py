"""`pogfast remove` and `pogfast rewrite`: one archive goes, a path goes out of archives, and both can be undone."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from kit.commands import Ran, Runner
from pogfast import manifest
from pogfast.errors import CorruptManifest, NoSuchArchive, UsageError
from pogfast.keys import from_decryption_keyfile, from_encryption_keyfile
from pogfast.upkeep import removing
from pogfast.upkeep.pruning import prune
from pogfast.upkeep.retention import Policy

FILES = {"a": b"a", "secret/one": b"one" * 9, "secret/two": b"two" * 9, "b": b"b" * 100_000}


@pytest.fixture
def work(tmp_path: Path, pogfast: Runner, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, content in FILES.items():
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / name).write_bytes(content)
    (tmp_path / "tree" / "secret" / "link").symlink_to("one")
    monkeypatch.setenv("POGFAST_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("POGFAST_KEYFILE", raising=False)
    assert pogfast("keygen", "k").code == 0
    monkeypatch.setenv("POGFAST_DECRYPTION_KEYFILE", str(tmp_path / "k.decrypt"))
    monkeypatch.setenv("POGFAST_ENCRYPTION_KEYFILE", str(tmp_path / "k.encrypt"))
    return tmp_path


@pytest.fixture
def made(work: Path, pogfast: Runner) -> list[str]:
    """Two archives, the older one first."""
    created = [pogfast("create", "tree", "--to", "store", "-q", "--tag", tag, cwd=work) for tag in ("one", "two")]
    return [ran.lines[0] for ran in created]


def there(work: Path) -> list[str]:
    return sorted(path.name for path in (work / "store").glob("*.mfn*"))


def objects(ran: Ran) -> list[dict[str, Any]]:
    return [json.loads(line) for line in ran.out.splitlines()]


def test_nothing_is_removed_without_yes(work: Path, pogfast: Runner, made: list[str]) -> None:
    ran = pogfast("remove", f"store/{made[0]}")
    assert (ran.code, there(work)) == (0, made)
    [line] = ran.lines
    assert line.startswith(f"remove  {made[0]}  ")
    assert line.endswith(str(work / "tree"))
    assert "1 archive would be removed; add --yes to do it" in ran.err


def test_a_removed_archive_comes_back_until_its_grace_period_ends(work: Path, pogfast: Runner, made: list[str]) -> None:
    ran = pogfast("remove", f"store/{made[0]}", "--yes", "--json")
    [snapshot, summary] = objects(ran)
    assert (ran.code, snapshot["id"], snapshot["keep"], snapshot["tags"]) == (0, made[0], False, ["one"])
    assert (summary["snapshots_removed"], summary["snapshots_kept"], summary["dry_run"]) == (1, 0, False)
    assert there(work) == [f"{made[0]}.removed", made[1]]
    assert pogfast("undelete", "store", made[0]).code == 0
    assert pogfast("check", "store", "--read-data").code == 0
    assert there(work) == made


def test_the_last_archive_of_a_store_stays_unless_told(work: Path, pogfast: Runner, made: list[str]) -> None:
    both = [f"store/{name}" for name in made]
    for arguments in ([*both], [*both, "--yes"], [*both, "--yes", "--json"]):
        ran = pogfast("remove", *arguments)
        assert ran.code == 2
        assert "store would have no archive left: nothing was removed" in ran.err
        assert there(work) == made
    assert pogfast("remove", *both, "--yes", "--allow-empty").code == 0
    assert there(work) == [f"{name}.removed" for name in made]


def test_all_or_none(work: Path, pogfast: Runner, made: list[str]) -> None:
    for wrong, code in (("store/2020-01-01T00:00:00.000000.mfn", 10), ("nosuch/latest", 10), ("store", 2)):
        assert pogfast("remove", f"store/{made[0]}", wrong, "--yes").code == code
        assert there(work) == made


def test_no_key_is_needed_for_a_name(work: Path, pogfast: Runner, made: list[str]) -> None:
    keyless = {name: value for name, value in os.environ.items() if not name.startswith("POGFAST_")}
    ran = pogfast("remove", "store/latest", "--yes", env=keyless)
    assert (ran.code, ran.out) == (2, b"")
    assert "without a key" in ran.err
    (work / "store" / made[0]).write_bytes(b"damaged, and it must be possible to remove it")
    assert pogfast("remove", f"store/{made[0]}", f"store/{made[0]}", "--yes", env=keyless).code == 0
    assert there(work) == [f"{made[0]}.removed", made[1]]


def test_the_latest_that_fits(work: Path, pogfast: Runner, made: list[str]) -> None:
    assert pogfast("remove", "store/latest", "--tag", "one", "--yes").code == 0
    assert there(work) == [f"{made[0]}.removed", made[1]]


@pytest.mark.parametrize("verb", [["remove"], ["rewrite", "--exclude", "secret"]], ids=["remove", "rewrite"])
@pytest.mark.parametrize("newest", ["damaged", "of another key"])
def test_another_archive_than_the_latest_is_never_taken_for_it(
    work: Path, pogfast: Runner, made: list[str], verb: list[str], newest: str
) -> None:
    """What is read passes over archives that do not open."""
    if newest == "damaged":
        (work / "store" / made[1]).write_bytes(b"")
    else:
        (work / "other").write_bytes(b"other")
        without = {name: value for name, value in os.environ.items() if not name.endswith("CRYPTION_KEYFILE")}
        made += pogfast("create", "tree", "--to", "store", "-q", "--keyfile", "other", env=without).lines
    ran = pogfast(*verb, "store/latest", "--yes")
    assert (ran.code, there(work)) == (2, made)
    assert f"a newer archive is skipped: {made[-1]}" in ran.err
    assert "it is not sure which archive is the latest" in ran.err
    assert pogfast(*verb, f"store/{made[0]}", "--yes").code == 0


def test_rewriting_leaves_out_what_matches(work: Path, pogfast: Runner, made: list[str]) -> None:
    ran = pogfast("rewrite", f"store/{made[0]}", "--exclude", "secret")
    assert (ran.code, there(work)) == (0, made), "nothing without --yes"
    assert {line.split()[-1] for line in ran.lines} == {f"tree/secret{name}" for name in ("", "/one", "/two", "/link")}
    ran = pogfast("rewrite", f"store/{made[0]}", "--exclude", "secret", "--yes")
    [new] = ran.lines
    assert ran.code == 0
    assert there(work) == [f"{made[0]}.removed", new, made[1]], "it sorts where the old one did"
    assert pogfast("ls", f"store/{new}").lines == ["tree", "tree/a", "tree/b"]
    assert pogfast("check", "store", "--read-data").code == 0
    assert pogfast("restore", f"store/{new}", "--into", "out").code == 0
    assert (work / "out" / "tree" / "b").read_bytes() == FILES["b"]
    [info] = objects(pogfast("info", f"store/{new}", "--json"))
    assert (info["tags"], info["files"], info["size"], info["links"]) == (["one"], 2, 100_001, 0)
    listed = objects(pogfast("list", "store", "--json"))
    assert [found["id"] for found in listed if found["message_type"] == "snapshot"] == [new, made[1]]
    assert listed[0]["size"] == 100_001
    assert pogfast("undelete", "store", made[0]).code == 0
    assert "tree/secret/one" in pogfast("ls", f"store/{made[0]}").lines


def test_blobs_go_with_a_prune_after_the_grace_period(work: Path, made: list[str]) -> None:
    key = from_decryption_keyfile(str(work / "k.decrypt"))
    store = str(work / "store")
    done = removing.rewrite([f"{store}/{name}" for name in made], key, ["secret"], dry_run=False)
    assert [each.kept for each in done.archives] == [False, False]
    blobs = set((work / "store" / "data").rglob("*="))
    prune(store, key, Policy(everything=True), dry_run=False)
    assert set((work / "store" / "data").rglob("*=")) == blobs, "within the grace period they stay"
    prune(store, key, Policy(everything=True), dry_run=False, grace=0)
    assert len(blobs) - len(set((work / "store" / "data").rglob("*="))) == 2


def test_keep_keeps_the_old_archive(work: Path, pogfast: Runner, made: list[str]) -> None:
    ran = pogfast("rewrite", "store/latest", "--exclude", "*/one", "--keep", "--yes", "--json")
    [snapshot, summary] = objects(ran)
    assert (snapshot["original"], snapshot["keep"], snapshot["left_out"]) == (made[1], True, ["tree/secret/one"])
    assert (summary["snapshots_rewritten"], summary["snapshots_removed"]) == (1, 0)
    assert there(work) == [*made, snapshot["id"]]


def test_what_matches_nothing_or_everything_changes_nothing(work: Path, pogfast: Runner, made: list[str]) -> None:
    ran = pogfast("rewrite", f"store/{made[0]}", "--exclude", "nosuch", "--yes")
    assert (ran.code, there(work)) == (3, made)
    assert "no name in any of these archives matches" in ran.err
    ran = pogfast("rewrite", f"store/{made[0]}", "--exclude", "tree", "--yes")
    assert (ran.code, there(work)) == (2, made)
    assert pogfast("rewrite", f"store/{made[0]}", "--yes").code == 2


def test_a_public_key_cannot_rewrite(work: Path, made: list[str], pogfast: Runner) -> None:
    keyless = {name: value for name, value in os.environ.items() if not name.startswith("POGFAST_")}
    ran = pogfast("rewrite", f"store/{made[0]}", "--exclude", "a", "--encryption-keyfile", "k.encrypt", env=keyless)
    assert (ran.code, there(work)) == (12, made)


def test_hard_links_survive_their_first_name(work: Path, pogfast: Runner) -> None:
    os.link(work / "tree" / "a", work / "tree" / "z1")
    os.link(work / "tree" / "a", work / "tree" / "z2")
    assert pogfast("create", "tree", "--to", "store", "-q").code == 0
    ran = pogfast("rewrite", "store/latest", "--exclude", "tree/a", "--yes")
    assert ran.code == 0
    assert "content of tree/a stays in the archive under another name" in ran.err
    assert pogfast("restore", "store/latest", "--into", "out").code == 0
    ones = [(work / "out" / "tree" / name).stat() for name in ("z1", "z2")]
    assert ones[0].st_ino == ones[1].st_ino
    assert (work / "out" / "tree" / "z1").read_bytes() == b"a"


def test_what_was_not_read_is_left_out_too(work: Path) -> None:
    """Names are in several sections of a trailer."""
    public, key = from_encryption_keyfile(str(work / "k.encrypt")), from_decryption_keyfile(str(work / "k.decrypt"))
    (work / "store" / "data").mkdir(parents=True)
    trailer = {
        "time": "2026-01-01T00:00:00+00:00",
        "directories": {"d": {}, "d/secret": {}},
        "unreadable": {"/x/d/secret/f": "why", "/x/other": "why"},
        "skipped": {"/x/secret": "a socket"},
        "changed": ["d/secret/f", "d/g"],
    }
    name = "2026-01-01T00:00:00.000000.mfn"
    (work / "store" / name).write_bytes(manifest.seal(manifest.Manifest({}, trailer), public))
    done = removing.rewrite([f"{work}/store/{name}"], key, ["secret"], dry_run=False)
    [new] = [each.new for each in done.archives]
    data = (work / "store" / new).read_bytes()
    assert manifest.open_trailer(data, key, new) == {
        "time": "2026-01-01T00:00:00+00:00",
        "directories": {"d": {}},
        "unreadable": {"/x/other": "why"},
        "skipped": {},
        "changed": ["d/g"],
    }
    (work / "store" / name).write_bytes(manifest.seal(manifest.Manifest({}, {"links": 3}), public))
    with pytest.raises(CorruptManifest, match="links"):
        removing.rewrite([f"{work}/store/{name}"], key, ["secret"], dry_run=False)


def rewritten(work: Path, entries: Any, trailer: Any, exclude: str) -> Any:
    """The manifest that takes the place of one with these entries and this trailer."""
    key = from_decryption_keyfile(str(work / "k.decrypt"))
    (work / "store" / "data").mkdir(parents=True)
    name = "2026-01-01T00:00:00.000000.mfn"
    (work / "store" / name).write_bytes(manifest.seal(manifest.Manifest(entries, trailer), key))
    [done] = removing.rewrite([f"{work}/store/{name}"], key, [exclude], dry_run=False).archives
    return manifest.open((work / "store" / done.new).read_bytes(), key, done.new)


def test_directories_above_what_stays_keep_their_metadata(work: Path) -> None:
    """Those of directories that have nothing left below them are removed."""
    entries = {name: manifest.Entry([], 0.0, 0.0, {"size": 7}) for name in ("a/b/file", "gone/secret")}
    parents = {name: {"mode": number} for number, name in enumerate(("a", "a/b", "d", "l", "p", "gone", "no/secret"))}
    trailer = {
        "parents": parents,
        "directories": {"d/x": {}, "gone/d/secret": {}},
        "links": {"l/x": {"target": "y"}},
        "fifos": {"p/x": {}},
        "unreadable": {"u/x": "why"},
        "totals": {"files": 2, "directories": 2, "links": 1, "fifos": 1, "size": 14, "stored": 0},
    }
    left = rewritten(work, entries, trailer, "secret")
    assert list(left.entries) == ["a/b/file"]
    assert left.trailer["parents"] == {name: parents[name] for name in ("a", "a/b", "d", "l", "p")}
    assert left.trailer["totals"] == {"files": 1, "directories": 1, "links": 1, "fifos": 1, "size": 7, "stored": 0}


@pytest.mark.parametrize("section", ["directories", "links", "fifos", "skipped", "unreadable"])
def test_an_archive_without_files_is_rewritten_while_something_can_be_restored(work: Path, section: str) -> None:
    entries = {"secret": manifest.Entry([], 0.0, 0.0, {"size": 7})}
    trailer = {section: {"x": "why" if section in ("skipped", "unreadable") else {}}}
    if section in ("skipped", "unreadable"):
        with pytest.raises(UsageError, match="match everything in it"):
            rewritten(work, entries, trailer, "secret")
        assert there(work) == ["2026-01-01T00:00:00.000000.mfn"]
    else:
        assert rewritten(work, entries, trailer, "secret").trailer == trailer


def test_the_worst_problem_is_the_exit_code() -> None:
    problems = [removing.Locked("a"), CorruptManifest("b"), removing.Locked("c")]
    for summary in (removing.Removed(), removing.Summary()):
        assert summary.exit_code == 0
        summary.problems += problems
        assert summary.exit_code == CorruptManifest.exit_code > removing.Locked.exit_code


def test_the_errors_of_the_library(work: Path, made: list[str]) -> None:
    key = from_decryption_keyfile(str(work / "k.decrypt"))
    with pytest.raises(NoSuchArchive):
        removing.remove([f"{work}/store/x.mfn"], dry_run=False)
    with pytest.raises(UsageError):
        removing.rewrite([f"{work}/store/{made[0]}"], key, [])

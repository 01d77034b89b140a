"""Every exit code that docs/commands.md documents for a command is caused once, and those common to all commands."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import pogfast
from kit.pages import COMMANDS, section
from pogfast.cli import main

TABLE = section("Exit codes").partition("| command |")[2]
CODES = (3, 4, 10, 12)


def documented() -> set[tuple[str, int]]:
    """Returns (command, exit code) of each nonempty cell of the table."""
    rows = re.findall(r"^\| ([a-z ]+) \| ?([^|]*)\| ?([^|]*)\| ?([^|]*)\| ?([^|]*)\|$", TABLE, re.MULTILINE)
    assert [row[0] for row in rows] == list(COMMANDS)
    return {(name, code) for name, *cells in rows for code, cell in zip(CODES, cells, strict=True) if cell.strip()}


# Profiles that are called as they end.
PROFILES = """
[stores]
new = { address = "new" }
file = { address = "older" }
lost = { address = "lost" }
none = { address = "nosuch" }
good = { address = "good" }
[profiles.incomplete]
stores = ["new", "file"]
directory = "."
sources = ["tree"]
key = { file = "k.encrypt" }
[profiles.damage.check]
stores = ["lost"]
[profiles.damage.key]
file = "k.encrypt"
[profiles.nothing]
inherit = "damage"
[profiles.nothing.check]
stores = ["none"]
[profiles.never]
inherit = "damage"
[profiles.unseen]
inherit = "damage"
[profiles.other]
key = { file = "other.decrypt", kind = "private" }
[profiles.other.check]
stores = ["good"]
"""


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Stores in all states: `good` has two archives, of `lost` the large blob is gone, of `cut` the newer manifest is,
    `bare` has no manifest, `empty` nothing, `mixed` an archive of another key, `gone` a removed one without blobs."""
    place = tmp_path_factory.mktemp("stores")
    before = os.getcwd()
    os.chdir(place)
    (place / "tree").mkdir()
    (place / "tree" / "f").write_bytes(b"hello")
    (place / "tree" / "big").write_bytes(os.urandom(50_000))
    keys = [pogfast.open_key(decryption_keyfile=pogfast.keygen(name)[1]) for name in ("k", "other")]
    for tag in ("old", "new"):
        pogfast.create("tree", "good", keys[0], tags=tag, no_cache=True)
    older, newer = [info.name for info in pogfast.list_archives("good", keys[0])]
    for name in ("lost", "cut", "bare", "mixed", "gone"):
        shutil.copytree("good", name)
    max((place / "lost" / "data").rglob("*="), key=lambda blob: blob.stat().st_size).unlink()
    os.truncate(f"cut/{newer}", 100)
    for name in (older, newer):
        os.unlink(f"bare/{name}")
    for blob in (place / "bare" / "data").rglob("*="):  # younger ones may be those of a first run
        os.utime(blob, (1, 1))
    pogfast.create("tree", "mixed", keys[1], no_cache=True)
    pogfast.remove(f"gone/{older}", dry_run=False)
    shutil.rmtree("gone/data")
    (place / "empty").mkdir()
    (place / "older").write_text(older)
    (place / "pogfast.toml").write_text(PROFILES)
    yield place
    os.chdir(before)


@pytest.fixture
def call(stores: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., int]:
    for name in [name for name in os.environ if name.startswith("POGFAST_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("POGFAST_CACHE_DIR", str(stores / "cache"))
    monkeypatch.setenv("POGFAST_STATE_DIR", str(stores / "state"))

    def run(words: str) -> int:
        for word, meant in (
            ("KEY", "--decryption-keyfile k.decrypt"),
            ("OTHER", "--decryption-keyfile other.decrypt"),
            ("CONFIG", "--config pogfast.toml"),
            ("OLDER", (stores / "older").read_text()),
        ):
            words = words.replace(word, meant)
        code = main(words.split())
        said = capfd.readouterr().err
        assert "Traceback" not in said
        assert code == 0 or "pogfast: error: " in said or "errors " in said or "nothing was" in said
        return code

    return run


LOOKS = ("ls", "info", "check")
SCENES: dict[tuple[str, int], list[str]] = {
    ("create", 3): ["create tree nosuch --to out KEY", "create tree --to out,k.decrypt KEY"],
    ("create", 10): ["create tree --to nosuch --must-exist KEY"],
    **{("merge", code): [] for code in (3, 4, 12)},  # tests/backup/test_shards.py: parts are needed first
    ("merge", 10): ["merge nosuch KEY", "merge empty KEY", "merge good KEY"],
    ("restore", 3): ["restore good/latest nosuch --into out1 KEY", "restore cut/latest --into out2 KEY"],
    ("restore", 4): ["restore lost/latest --into out3 KEY", "restore bare/latest --into out4 KEY"],
    ("cat", 3): ["cat good/latest nosuch KEY", "cat cut/latest tree/f KEY"],
    ("cat", 4): ["cat lost/latest tree/big KEY", "cat bare/latest tree/f KEY"],
    ("ls", 3): ["ls good/latest nosuch KEY", "ls cut/latest KEY"],
    ("diff", 3): ["diff cut/latest cut/OLDER KEY"],
    ("diff", 4): ["diff bare/latest bare/latest KEY"],
    ("check", 3): ["check cut/latest KEY", "check mixed KEY"],
    ("check", 4): ["check lost KEY", "check cut KEY", "check bare KEY", "check lost/latest --read-data KEY"],
    ("copy", 3): ["copy mixed out5 KEY"],
    ("copy", 4): ["copy lost out6 KEY", "copy cut out7 KEY", "copy bare out8 KEY"],
    ("pack", 4): [],  # tests/upkeep/test_packing.py: a file that is cut while it is read
    ("unpack", 4): [],  # there as well: a pack with a flipped bit
    **{(verb, 10): [f"{verb} nosuch", f"{verb} empty"] for verb in ("pack", "unpack")},
    ("prune", 4): ["prune cut --keep-last 1 KEY", "prune bare --keep-last 1 KEY"],
    ("prune", 12): ["prune mixed --keep-last 1 KEY", "prune good --keep-last 1 OTHER"],
    ("remove", 3): [],  # tests/stores/test_locks.py: a directory cannot lock
    ("remove", 4): ["remove bare/latest KEY"],
    ("remove", 10): ["remove good/nosuch.mfn", "remove nosuch/latest KEY"],
    ("rewrite", 3): ["rewrite good/latest --exclude nosuch KEY"],
    ("rewrite", 4): ["rewrite bare/latest --exclude f KEY"],
    ("undelete", 4): ["undelete gone --all KEY"],
    ("undelete", 10): ["undelete nosuch KEY", "undelete good nosuch.mfn KEY"],
    ("undelete", 12): ["undelete gone --all OTHER"],
    ("run", 3): ["run incomplete CONFIG"],
    ("run", 4): ["run damage CONFIG", "run other damage incomplete CONFIG"],
    ("run", 10): ["run nothing CONFIG"],
    ("run", 12): ["run other CONFIG"],
    ("status", 3): ["status never CONFIG", "status never unseen CONFIG"],
    ("status", 4): [],  # tests/runs/test_telling.py: a run is needed first
    ("doctor", 3): [],  # tests/stores/test_locks.py: a bucket where a right is missing
    ("doctor", 10): ["doctor nosuch"],
    **{("lock extend", code): [] for code in (3, 4)},  # tests/stores/test_locks.py: a directory cannot lock
    ("lock extend", 10): ["lock extend nosuch compliance:1d KEY", "lock extend empty compliance:1d KEY"],
    ("lock extend", 12): [
        "lock extend good compliance:1d --host x --encryption-keyfile k.encrypt",
        "lock extend good compliance:1d OTHER",
    ],
}
for verb in ("list", "find", "stats"):
    word = " f" if verb == "find" else ""
    SCENES[verb, 3] = [f"{verb} mixed{word} KEY"]
    SCENES[verb, 4] = [f"{verb} cut{word} KEY", f"{verb} bare{word} KEY"]
    SCENES[verb, 10] = [f"{verb} nosuch{word} KEY", f"{verb} empty{word} KEY"]
    SCENES[verb, 12] = [f"{verb} good{word} OTHER"]
SCENES["stats", 4].append("stats lost KEY")
for verb, before, behind in (
    ("restore", "", " --into out9"),
    ("ls", "", ""),
    ("cat", "", " tree/f"),
    ("info", "", ""),
    ("check", "", ""),
    ("diff", "good/latest ", ""),
    ("copy", "", " out10"),
    ("rewrite", "", " --exclude f"),
    ("remove", "", ""),
):
    SCENES.setdefault(
        (verb, 10), [f"{verb} {before}nosuch/latest{behind} KEY", f"{verb} {before}empty/latest{behind} KEY"]
    )
    SCENES.setdefault((verb, 12), [f"{verb} {before}good/latest{behind} OTHER"])
SCENES["info", 3], SCENES["info", 4] = ["info cut/latest KEY"], ["info bare/latest KEY", "info lost/latest KEY"]
SCENES["ls", 4] = ["ls bare/latest KEY"]
SCENES["prune", 10] = ["prune nosuch --keep-last 1 KEY", "prune empty --keep-last 1 KEY"]


def test_every_documented_code_is_tried() -> None:
    assert SCENES.keys() == documented()


@pytest.mark.parametrize(
    ("code", "words"),
    [(code, words) for (_, code), scenes in SCENES.items() for words in scenes],
    ids=lambda value: str(value),
)
def test_a_code_of_a_command(call: Callable[..., int], code: int, words: str) -> None:
    assert call(words) == code


@pytest.mark.parametrize("verb", [name for name in COMMANDS if name not in ("help",)])
def test_wrong_usage_is_2(call: Callable[..., int], verb: str) -> None:
    assert call(f"{verb} --no-such-option") == 2

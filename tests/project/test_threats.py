"""Claims of docs/threat-model.md that no other test checks: what somebody can do, as well as what they cannot."""

from __future__ import annotations

import os
import stat
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from kit import oracle
from kit.commands import Runner
from pogfast import keys
from pogfast._engine import blob_name

LETTER = b"Dear customer,\nthe PIN of your new card is %04d. Keep it to yourself.\n"
PIN = 2718


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "letter").write_bytes(LETTER % PIN)
    (tmp_path / "key").write_bytes(os.urandom(32))
    (tmp_path / "key").chmod(0o600)
    return tmp_path


def guesses(work: Path, secret: bytes) -> list[int]:
    """Returns the PINs for which the letter is in the store, as far as somebody with this secret can tell."""
    names = {path.name for path in (work / "store" / "data").rglob("*=")}
    chunks = (oracle.compress_as_pog(LETTER % pin) for pin in range(10_000))
    return [pin for pin, chunk in enumerate(chunks) if blob_name(secret, chunk) in names]


def test_with_the_public_key_a_guess_is_confirmed(pogfast: Runner, work: Path) -> None:
    assert pogfast("keygen", "pair").code == 0
    assert pogfast("create", "tree", "--to", "store", "--encryption-keyfile", "pair.encrypt").code == 0
    assert guesses(work, (work / "pair.encrypt").read_bytes()) == [PIN]


def test_without_the_key_no_guess_is_confirmed(pogfast: Runner, work: Path) -> None:
    assert pogfast("create", "tree", "--to", "store", "--keyfile", "key").code == 0
    assert guesses(work, bytes(32)) == []
    assert guesses(work, keys.from_keyfile(str(work / "key")).secret) == [PIN]


@pytest.mark.parametrize("zone", ["UTC+11", "UTC-13"])
def test_the_name_of_an_archive_is_the_local_time(pogfast: Runner, work: Path, zone: str) -> None:
    env = {**os.environ, "TZ": zone, "POGFAST_CACHE_DIR": str(work / "cache")}
    name = pogfast("create", "tree", "--to", "store", "--keyfile", "key", env=env).lines[-1]
    local = datetime.now(UTC) - timedelta(hours=int(zone[3:]))
    told = datetime.fromisoformat(name.removesuffix(".mfn")).replace(tzinfo=UTC)
    assert abs(told - local) < timedelta(hours=1)


def test_an_archive_that_is_withheld_is_not_missed(pogfast: Runner, work: Path) -> None:
    """Nor can it be: the remaining archives are complete. A withheld blob is reported as missing."""
    for content in (b"old", b"new"):
        (work / "tree" / "file").write_bytes(content)
        newest = pogfast("create", "tree", "--to", "store", "--keyfile", "key", "--no-cache").lines[-1]
    (work / "store" / newest).rename(work / newest)
    assert pogfast("check", "store", "--keyfile", "key", "--read-data").code == 0
    assert pogfast("restore", "store/latest", "--into", "out", "--keyfile", "key").code == 0
    assert (work / "out" / "tree" / "file").read_bytes() == b"old"
    for path in (work / "store" / "data").rglob("*="):
        path.unlink()
    ran = pogfast("restore", "store/latest", "--into", "again", "--keyfile", "key")
    assert ran.code == 4
    assert "tree/file" in ran.err


def test_a_forged_list_of_condemned_blobs_deletes_nothing_that_is_needed(pogfast: Runner, work: Path) -> None:
    """Whoever can write to the store can write such lists; a prune reads the manifests before it relies on one."""
    assert pogfast("create", "tree", "--to", "store", "--keyfile", "key").code == 0
    blobs = {path.name: path.read_bytes() for path in (work / "store" / "data").rglob("*=")}
    unneeded = oracle.OracleKey(bytes(32)).name(b"of nobody")
    (work / "store" / "data" / unneeded[:2]).mkdir(exist_ok=True)
    (work / "store" / "data" / unneeded[:2] / unneeded).write_bytes(b"of nobody")
    list_of_all = work / "store" / "condemned-20200101T000000-00000000"
    list_of_all.write_text("".join(f"{name}\n" for name in sorted([*blobs, unneeded])))
    long_ago = time.time() - 100 * 3600
    for path in (list_of_all, *(work / "store" / "data").rglob("*=")):
        os.utime(path, (long_ago - (path != list_of_all), long_ago - (path != list_of_all)))
    ran = pogfast("prune", "store", "--keep-all", "--yes", "--keyfile", "key")
    assert ran.code == 0, ran.err
    assert not list_of_all.exists(), "the forged list was treated as a list"
    assert {path.name: path.read_bytes() for path in (work / "store" / "data").rglob("*=")} == blobs
    assert pogfast("check", "store", "--keyfile", "key", "--read-data").code == 0


def test_a_list_that_nobody_can_read_costs_one_of_several_stores(pogfast: Runner, work: Path) -> None:
    """It once ended the run with the exit code of damage, and the other store had no archive either."""
    assert pogfast("create", "tree", "--to", "store", "--keyfile", "key").code == 0
    os.mkfifo(work / "store" / "condemned-20200101T000000-00000000")
    ran = pogfast("create", "tree", "--to", "store,other", "--keyfile", "key")
    assert ran.code == 3, ran.err
    assert "store: cannot read condemned-20200101T000000-00000000: it is not a regular file" in ran.err
    assert "delete it while none runs" in ran.err
    assert len([*(work / "other").glob("*.mfn")]) == 1
    assert pogfast("check", "other", "--keyfile", "key", "--read-data").code == 0
    ran = pogfast("create", "tree", "--to", "store", "--keyfile", "key")
    assert (ran.code, len([*(work / "store").glob("*.mfn")])) == (1, 1), ran.err


def test_equal_passwords_give_equal_keys() -> None:
    one, two = keys.from_password("correct horse"), keys.from_password("correct horse")
    assert (one.secret, one.fingerprint) == (two.secret, two.fingerprint)
    assert keys.from_password("correct hors").secret != one.secret


def test_nobody_gets_the_rights_of_another_by_a_restore(pogfast: Runner, work: Path) -> None:
    """An archive may be forged: set-ID bits are restored only if the user says that it is not."""
    program = work / "tree" / "program"
    program.write_bytes(b"#!/bin/sh\n")
    program.chmod(0o6755)
    assert pogfast("create", "tree", "--to", "store", "--keyfile", "key").code == 0
    for words, mode in (([], 0o755), (["--set-id"], 0o6755), (["--no-owner"], 0o755)):
        into = "-".join(["out", *words])
        ran = pogfast("restore", "store/latest", "--into", into, "--keyfile", "key", *words)
        assert stat.S_IMODE((work / into / "tree" / "program").stat().st_mode) == mode, ran.err

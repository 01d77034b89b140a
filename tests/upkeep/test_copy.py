"""copy: archives from store to store, whole or not at all, checked on the way as far as a key allows."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pogfast as library
from kit.commands import Ran, Runner
from pogfast import keys, manifest
from pogfast.errors import CorruptBlob, StoreError, UsageError, WrongKey
from pogfast.stores import open_store
from pogfast.upkeep import copying

Command = Callable[..., Ran]
WITH_KEY = ["--keyfile", "key"]


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A store with two archives: of a, b and large; of b, c and large."""
    (tmp_path / "key").write_bytes(bytes(range(32)))
    (tmp_path / "tree").mkdir()
    for name in ("a", "b"):
        (tmp_path / "tree" / name).write_bytes(os.urandom(5000))
    (tmp_path / "tree" / "large").write_bytes(os.urandom(3_000_000))
    return tmp_path


@pytest.fixture
def command(pogfast: Runner, work: Path) -> Command:
    def call(*words: str, **more: Any) -> Ran:
        return pogfast(*words, cwd=work, **more)

    return call


@pytest.fixture
def names(command: Command, work: Path) -> list[str]:
    """The archives of `store`."""
    create = ["create", "tree", "--to", "store", "--chunk-size", "1MB", *WITH_KEY]
    first = command(*create).out.decode().strip()
    (work / "tree" / "a").rename(work / "a")
    (work / "tree" / "c").write_bytes(os.urandom(5000))
    return [first, command(*create).out.decode().strip()]


def files(store: Path) -> dict[str, bytes]:
    found = {path.name: path.read_bytes() for path in store.rglob("*") if path.is_file()}
    return {name: data for name, data in found.items() if not name.startswith(("sweep", "verified"))}


def summary(ran: Ran) -> dict[str, Any]:
    return next(line for line in map(json.loads, ran.out.splitlines()) if line["message_type"] == "summary")


@pytest.mark.parametrize("key", [WITH_KEY, []], ids=["with the key", "without a key"])
def test_a_whole_store(command: Command, work: Path, names: list[str], key: list[str]) -> None:
    ran = command("copy", "store", "other", "--dry-run", "--json", *key)
    assert (ran.code, summary(ran)["data_blobs"], summary(ran)["snapshots_copied"]) == (0, 6, 2)
    assert not (work / "other").exists()
    ran = command("copy", "store", "other", *key)
    assert ran.code == 0, ran.err
    assert ran.lines == names
    assert ("without a key" in ran.err) == (not key)
    assert files(work / "other") == files(work / "store")
    ran = command("copy", "store", "other", "--json", *key)
    assert (summary(ran)["data_blobs"], summary(ran)["snapshots_skipped"], summary(ran)["blobs_known"]) == (0, 2, 6)


def test_single_archives_need_a_key_and_no_more_than_the_public_one(command: Command, work: Path) -> None:
    assert command("keygen", "pair").code == 0
    public = ["--encryption-keyfile", "pair.encrypt"]
    first = command("create", "tree/a", "--to", "store", *public).out.decode().strip()
    assert command("create", "tree/b", "--to", "store", *public).code == 0
    ran = command("copy", "store", "other", first)
    assert (ran.code, "without a key it cannot be told" in ran.err) == (2, True)
    assert command("copy", "store", "other", first, *public).code == 0
    assert len(files(work / "other")) == 2
    assert command("check", "other", "--read-data", "--decryption-keyfile", "pair.decrypt").code == 0
    assert command("copy", "store", "other", "nosuch.mfn", *public).code == 10
    assert command("copy", "nosuch", "other", *public).code == 10
    assert command("copy", "store", "./store", *public).code == 2


@pytest.mark.parametrize("harm", ["flipped", "cut", "missing", "swapped", "header"])
def test_what_is_damaged_is_named_and_the_rest_is_copied(
    command: Command, work: Path, names: list[str], harm: str
) -> None:
    """The blob of a, which only the first archive needs."""
    before = set((work / "store" / "data").rglob("*="))
    shutil.copytree(work / "store", work / "second")
    (work / "second" / names[0]).unlink()
    assert command("copy", "second", "kept", *WITH_KEY).code == 0
    [only] = [path for path in before if path.name not in files(work / "kept")]
    data = only.read_bytes()
    if harm == "missing":
        only.unlink()
    else:
        at = 5 if harm == "header" else 2000
        changed = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        other = next(path for path in before if path != only)
        only.write_bytes({"cut": data[:-9], "swapped": other.read_bytes()}.get(harm, changed))
    ran = command("copy", "store", "other", *WITH_KEY)
    assert ran.code == 4, ran.err
    assert only.name in ran.err
    assert f"{names[0]}: not copied: 1 blob damaged or missing" in ran.err
    assert ran.lines == names[1:]
    assert only.name not in files(work / "other")
    assert command("check", "other", "--read-data", *WITH_KEY).code == 0


def test_archives_of_other_keys_are_named_and_stay(command: Command, work: Path, names: list[str]) -> None:
    (work / "another").write_bytes(b"another")
    ran = command("copy", "store", "other", "--keyfile", "another")
    assert ran.code == 12
    assert not list((work / "other").glob("*.mfn"))
    assert command("create", "tree/b", "--to", "store", "--keyfile", "another").code == 0
    ran = command("copy", "store", "other", *WITH_KEY)
    assert (ran.code, ran.lines) == (3, names)
    assert command("copy", "store", "all").code == 0
    assert len(list((work / "all").glob("*.mfn"))) == 3


def test_what_is_cut_short_in_the_target_is_not_taken_for_there(command: Command, work: Path, names: list[str]) -> None:
    """A blob is replaced, a manifest reported; neither is read for that."""
    assert command("copy", "store", "other", *WITH_KEY).code == 0
    (work / "other" / names[1]).unlink()
    blob = next((work / "other").rglob("*="))
    os.truncate(blob, blob.stat().st_size - 1)
    ran = command("copy", "store", "other", *WITH_KEY)
    assert (ran.code, ran.lines) == (0, [names[1]])
    assert command("check", "other", "--read-data", *WITH_KEY).code == 0
    cut = work / "other" / names[0]
    os.truncate(cut, cut.stat().st_size - 1)
    ran = command("copy", "store", "other", *WITH_KEY)
    assert ran.code == 1
    assert f"{names[0]}: other has another archive of that name, or a damaged one" in ran.err


def test_verify_deletes_no_manifest_that_it_cannot_store_anew(command: Command, work: Path, names: list[str]) -> None:
    assert command("copy", "store", "other", *WITH_KEY).code == 0
    blob = next(path.name for path in (work / "other").rglob("*=") if path.stat().st_size > 6000)
    for store in ("store", "other"):
        damaged = next((work / store).rglob(blob))
        damaged.chmod(0o644)
        damaged.write_bytes(bytes(damaged.stat().st_size))
    broken = work / "other" / names[0]
    data = broken.read_bytes()[:-1]
    broken.write_bytes(data)
    ran = command("copy", "store", "other", "--verify", *WITH_KEY)
    assert (ran.code, broken.read_bytes()) == (4, data)
    assert f"{names[0]}: not copied" in ran.err


@pytest.mark.parametrize("needed_by", ["first", "second", "both"])
def test_what_was_condemned_and_cannot_be_stored_again(
    work: Path, names: list[str], monkeypatch: pytest.MonkeyPatch, needed_by: str
) -> None:
    """A prune condemns a blob of the target while its archives are copied, and in the source it is damaged."""
    source, other = str(work / "store"), work / "other"
    key = keys.from_keyfile(str(work / "key"))
    assert library.copy(source, str(other), key=key).archives == 2
    for name in names:
        (other / name).unlink()
    first, second = (set(manifest.blob_names((work / "store" / name).read_bytes(), key, name)) for name in names)
    wanted = {"first": first - second, "second": second - first, "both": first & second}[needed_by]
    blob = next(path for path in other.rglob("*=") if path.name in wanted and path.stat().st_size < 6000)
    damaged = next((work / "store").rglob(blob.name))
    damaged.chmod(0o644)
    damaged.write_bytes(bytes(damaged.stat().st_size))
    good_manifest = copying._Copy._good_manifest

    def condemned(self: copying._Copy, name: str) -> bytes:
        (other / "condemned-20260101T000000-00000000").write_text(f"{blob.name}\n")
        return good_manifest(self, name)

    monkeypatch.setattr(copying._Copy, "_good_manifest", condemned)
    done = library.copy(source, str(other), key=key)
    there = {path.name for path in other.glob("*.mfn")}
    assert done.exit_code == 4
    assert done.archives == len(there) < 2
    opened = open_store(str(other))
    for name in there:
        assert blob.name not in manifest.blob_names(opened.get_manifest(name), key, name)
    opened.close()


@pytest.mark.parametrize("moment", range(0, 8, 2))
def test_a_copy_that_is_killed_is_continued(command: Command, work: Path, names: list[str], moment: int) -> None:
    program = (
        "import os, sys, pogfast.cli, pogfast.upkeep.copying as copying\n"
        f"left = [{moment}]\n"
        "for name in ('_put', '_copy_manifest'):\n"
        "    def act(self, *words, old=getattr(copying._Copy, name)):\n"
        "        if not left[0]: os.kill(os.getpid(), 9)\n"
        "        left[0] -= 1\n"
        "        return old(self, *words)\n"
        "    setattr(copying._Copy, name, act)\n"
        "pogfast.cli.main()\n"
    )
    words = ["copy", "store", "other", *WITH_KEY, "--jobs", "1"]
    subprocess.run([sys.executable, "-c", program, *words], cwd=work, check=False, capture_output=True)
    found = [*(work / "other").glob("*.mfn"), *(work / "other").rglob("*=")]
    code = 0 if any(path.name.endswith(".mfn") for path in found) else 4 if found else 10
    assert command("check", "other", "--read-data", *WITH_KEY).code == code
    assert command("copy", "store", "other", *WITH_KEY).code == 0
    assert files(work / "other") == files(work / "store")


def test_a_full_disk(command: Command, work: Path, names: list[str]) -> None:
    limited = ["sh", "-c", 'ulimit -f 600; trap "" XFSZ; exec "$@"', "sh", sys.executable, "-m", "pogfast"]
    ran = subprocess.run(
        [*limited, "copy", "store", "other", *WITH_KEY], cwd=work, capture_output=True, check=False, text=True
    )
    assert ran.returncode == 1
    assert ran.stderr.startswith("pogfast: error: cannot write to other: File too large")
    assert not list((work / "other").glob("*.mfn"))
    assert command("copy", "store", "other", *WITH_KEY).code == 0
    assert command("check", "other", "--read-data", *WITH_KEY).code == 0


def test_a_flat_store_of_pogs_becomes_one_that_is_not(command: Command, pog: Runner, work: Path) -> None:
    (work / "flat").mkdir()
    assert pog("--keyfile=../key", "../tree/a", "../tree/large", cwd=work / "flat").code == 0
    assert command("copy", "flat", "other", *WITH_KEY).code == 0
    assert command("check", "other", "--read-data", *WITH_KEY).code == 0
    assert files(work / "other") == files(work / "flat")


def test_to_and_from_a_bucket(command: Command, work: Path, names: list[str]) -> None:
    from kit.servers import rclone

    (work / "served" / "bucket").mkdir(parents=True)
    with rclone(work / "served") as server:
        env = {**os.environ, **server.environment, "POGFAST_CACHE_DIR": str(work / "cache")}
        assert command("copy", "store", "s3://bucket/x", *WITH_KEY, env=env).code == 0
        assert command("check", "s3://bucket/x", "--read-data", *WITH_KEY, env=env).code == 0
        assert command("copy", "s3://bucket/x", "s3://bucket/y", env=env).code == 0
        assert command("copy", "s3://bucket/y", "back", *WITH_KEY, env=env).code == 0
        assert (
            command("prune", "s3://bucket/y", "--keep-last", "1", "--yes", "--grace", "0", *WITH_KEY, env=env).code == 0
        )
        time.sleep(1.1)
        assert (
            command("prune", "s3://bucket/y", "--keep-last", "1", "--yes", "--grace", "0", *WITH_KEY, env=env).code == 0
        )
        assert command("check", "s3://bucket/y", "--read-data", *WITH_KEY, env=env).code == 0
        left = {path.name for path in (work / "served/bucket/y").rglob("*=")}
    assert files(work / "back") == files(work / "store")
    assert len(left) == 5


def test_the_library(work: Path, names: list[str]) -> None:
    key = keys.from_keyfile(str(work / "key"))
    done = library.copy(str(work / "store"), str(work / "other"), [names[1]], key)
    assert (done.archives, done.blobs, done.exit_code) == (1, 5, 0)
    with pytest.raises(UsageError):
        library.copy(str(work / "store"), str(work / "other"), [names[1]])


def copied(command: Command, *words: str) -> Ran:
    return command("copy", *words, *WITH_KEY)


def test_the_latest_archive_alone_is_copied(command: Command, work: Path, names: list[str]) -> None:
    for number, words in enumerate((["store/latest", "one"], ["store", "two", "latest"])):
        ran = copied(command, *words)
        assert (ran.code, ran.lines) == (0, [max(names)])
        assert [path.name for path in (work / ("one", "two")[number]).glob("*.mfn")] == [max(names)]
    ran = copied(command, f"store/{min(names)}", "three")
    assert (ran.code, ran.lines) == (0, [min(names)])
    assert command("copy", "store/latest", "four").code == 2, "without a key nobody knows what it needs"


SPOIL: dict[str, Callable[[Path, Path], object]] = {
    "bit flip": lambda blob, other: blob.write_bytes(blob.read_bytes()[:-1] + bytes([blob.read_bytes()[-1] ^ 1])),
    "header": lambda blob, other: blob.write_bytes(bytes([blob.read_bytes()[0] ^ 1]) + blob.read_bytes()[1:]),
    "truncation": lambda blob, other: os.truncate(blob, blob.stat().st_size // 2),
    "missing": lambda blob, other: blob.unlink(),
    "another blob's content": lambda blob, other: blob.write_bytes(other.read_bytes()),
    "zeros": lambda blob, other: blob.write_bytes(bytes(blob.stat().st_size)),
}


@pytest.mark.parametrize("kind", SPOIL)
def test_damaged_blobs_are_stored_anew(command: Command, work: Path, names: list[str], kind: str) -> None:
    """As `check` advises: from another store that has intact ones."""
    assert copied(command, "store", "other").code == 0
    good = files(work / "other")
    blob, another = sorted((work / "other" / "data").rglob("*="))[:2]
    SPOIL[kind](blob, another)
    ran = command("check", "other", "--read-data", *WITH_KEY)
    assert ran.code == 4
    assert "pogfast copy --verify" in ran.err
    ran = copied(command, "store", "other", "--verify")
    assert ran.code == 0, ran.err
    assert files(work / "other") == good
    assert command("check", "other", "--read-data", *WITH_KEY).code == 0


@pytest.mark.parametrize("kind", ["bit flip", "truncation", "missing", "zeros"])
def test_a_damaged_manifest_is_stored_anew(command: Command, work: Path, names: list[str], kind: str) -> None:
    assert copied(command, "store", "other").code == 0
    good = files(work / "other")
    SPOIL[kind](work / "other" / names[0], work)
    ran = copied(command, "store", "other", "--verify")
    assert ran.code == 0, ran.err
    assert files(work / "other") == good


def test_what_is_damaged_in_both_stores_is_named(command: Command, work: Path, names: list[str]) -> None:
    assert copied(command, "store", "other").code == 0
    for store in ("store", "other"):
        blob = min((work / store / "data").rglob("*="))
        SPOIL["bit flip"](blob, blob)
    ran = copied(command, "store", "other", "--verify")
    assert ran.code == 4
    assert blob.name in ran.err
    assert command("copy", "store", "other", "--verify").code == 2, "which needs a key"


def test_damage_is_the_exit_code_before_all_else() -> None:
    problems = [StoreError("a"), WrongKey("b"), CorruptBlob("c")]
    assert copying.Summary(problems=problems).exit_code == CorruptBlob.exit_code
    assert copying.Summary(problems=problems[:2]).exit_code == WrongKey.exit_code
    assert copying.Summary().exit_code == 0

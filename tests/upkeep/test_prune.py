"""prune and undelete: what goes, what stays, and that nothing an archive needs is deleted, whoever runs meanwhile."""

from __future__ import annotations

import contextlib
import json
import math
import os
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kit.commands import Ran, Runner, run
from pogfast import backup, keys, manifest
from pogfast._engine import blob_name, seal_blob
from pogfast.archives.trailer import Filter
from pogfast.backup import cache_rows
from pogfast.backup import run as run_module
from pogfast.errors import MissingBlob, NoSuchArchive, PogfastError, UsageError
from pogfast.manifest import Entry, Manifest
from pogfast.stores import REMOVED, LocalStore, Stored, open_store, publish, reliance, targets
from pogfast.stores.names import CONDEMNED, SWEEPING, TRASH
from pogfast.stores.reliance import Condemned, Reliance
from pogfast.stores.targets import Targets
from pogfast.upkeep import needed, pruning, sweeping
from pogfast.upkeep.retention import Policy
from pogfast.upkeep.sweeping import Sweep

KEEP = ["--keep-last", "1", "--group-by", ""]


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / "key").write_bytes(bytes(range(32)))
    (tmp_path / "tree").mkdir()
    return tmp_path


@pytest.fixture
def command(pogfast: Runner, work: Path) -> Callable[..., Ran]:
    def call(*words: str) -> Ran:
        return pogfast(*words, "--keyfile", "key", cwd=work)

    return call


@pytest.fixture
def store(command: Callable[..., Ran], work: Path) -> str:
    """Three archives: of a, b and c; of b and c; of c."""
    for name in "abc":
        (work / "tree" / name).write_bytes(os.urandom(5000))
    for gone in ("", "a", "b"):
        if gone:
            (work / "tree" / gone).unlink()
        assert command("create", "tree", "--to", "store").code == 0
    return "store"


def blobs(work: Path) -> int:
    return len(list((work / "store" / "data").rglob("*=")))


def archives(work: Path) -> list[str]:
    return sorted(path.name for path in (work / "store").glob("*.mfn"))


def said(ran: Ran, kind: str) -> list[dict[str, Any]]:
    return [line for line in map(json.loads, ran.out.splitlines()) if line["message_type"] == kind]


# ---- what a user sees ------------------------------------------------------------------------------------------------


def test_nothing_goes_without_yes(command: Callable[..., Ran], work: Path, store: str) -> None:
    before = sorted((work / "store").rglob("*"))
    ran = command("prune", store, *KEEP, "--grace", "0")
    assert ran.code == 0
    assert [line.split()[0] for line in ran.lines] == ["keep", "remove", "remove"]
    assert ran.lines[0].endswith("last")
    assert "nothing was removed; add --yes to do it" in ran.err
    ran = command("prune", store, *KEEP, "--grace", "0", "--json")
    [summary] = said(ran, "summary")
    assert (summary["snapshots_kept"], summary["snapshots_removed"], summary["blobs_removed"]) == (1, 2, 2)
    assert [one["keep"] for one in said(ran, "snapshot")] == [True, False, False]
    assert sorted((work / "store").rglob("*")) == before


def test_what_goes_can_come_back_until_its_time_is_over(command: Callable[..., Ran], work: Path, store: str) -> None:
    names = archives(work)
    assert command("prune", store, *KEEP, "--yes").code == 0
    assert archives(work) == names[2:]
    assert blobs(work) == 3
    assert command("undelete", store).lines == names[:2]
    assert command("undelete", store, names[0], names[0]).lines == [names[0]]
    assert archives(work) == [names[0], names[2]]
    assert command("check", store, "--read-data").code == 0
    ran = command("undelete", store, "nosuch.mfn")
    assert ran.code == 10
    assert "no removed archive nosuch.mfn in store" in ran.err
    assert command("undelete", store, "--all").lines == [names[1]]
    assert command("undelete", store, "--all", names[1]).code == 2
    ran = command("prune", store, *KEEP, "--yes", "--now")
    assert ran.code == 0
    assert "without a grace period, a backup that runs now" in ran.err
    assert (archives(work), blobs(work)) == (names[2:], 1)
    assert command("undelete", store).lines == []
    assert command("check", store, "--read-data").code == 0


def test_an_archive_that_lacks_a_blob_is_not_brought_back(command: Callable[..., Ran], work: Path, store: str) -> None:
    """The others are restored."""
    assert command("prune", store, *KEEP, "--yes").code == 0
    broken, whole = sorted(path.name.removesuffix(REMOVED) for path in (work / "store").glob(f"*{REMOVED}"))
    data = (work / "store" / f"{broken}{REMOVED}").read_bytes()
    oldest = set(manifest.blob_names(data, keys.from_keyfile(str(work / "key")), broken))
    data = (work / "store" / f"{whole}{REMOVED}").read_bytes()
    [lost] = oldest.difference(manifest.blob_names(data, keys.from_keyfile(str(work / "key")), whole))
    next((work / "store" / "data").rglob(lost)).unlink()
    ran = command("undelete", store, "--all")
    assert (ran.code, ran.lines) == (MissingBlob.exit_code, [whole])
    assert f"{broken}: 1 of its 3 blobs are gone: it cannot be restored" in ran.err
    assert (work / "store" / f"{broken}{REMOVED}").exists()
    assert command("check", store, "--read-data").code == 0


def test_what_interrupted_runs_have_left_goes_when_it_is_old(
    command: Callable[..., Ran], work: Path, store: str
) -> None:
    orphan = work / "store" / "data" / "AA" / f"AA{'x' * 41}="
    orphan.parent.mkdir(exist_ok=True)
    orphan.write_bytes(b"of a run that was killed")
    assert command("prune", store, "--keep-all", "--yes").code == 0
    assert orphan.exists()
    long_ago = time.time() - 25 * 3600
    os.utime(orphan, (long_ago, long_ago))
    assert command("prune", store, "--keep-all", "--yes").code == 0
    assert orphan.exists(), "it is listed"
    [marked] = (work / "store").glob("condemned-*")
    assert marked.read_text() == f"{orphan.name}\n"
    assert command("prune", store, "--keep-all", "--yes").code == 0
    assert orphan.exists(), "it was listed just now"
    os.utime(marked, (long_ago + 1, long_ago + 1))
    assert command("prune", store, "--keep-all", "--yes").code == 0
    assert not orphan.exists()
    assert not marked.exists()
    assert blobs(work) == 3


def test_policies_that_are_refused(command: Callable[..., Ran], work: Path, store: str) -> None:
    for words, code, hint in (
        ([], 2, "--keep-last N"),
        (["--keep-tag", "nosuch"], 2, "keep at least one"),
        (["--keep-last", "x"], 2, "--keep-last=x: not a whole number"),
        (["--keep-within", "x"], 2, "2y5m7d3h"),
        ([*KEEP, "--grace", "x"], 2, "90s, 5m, 24h"),
        ([*KEEP, "--group-by", "size"], 2, "not size"),
        ([*KEEP, "--now", "--grace", "1d"], 2, "not both"),
    ):
        ran = command("prune", store, "--yes", *words)
        assert (ran.code, len(archives(work))) == (code, 3), ran.err
        assert hint in ran.err
    assert command("prune", "nosuch", *KEEP).code == 10


def test_only_what_is_chosen_may_go_and_groups_are_apart(command: Callable[..., Ran], work: Path, store: str) -> None:
    assert command("create", "tree", "--to", store, "--host", "other", "--tag", "x").code == 0
    ran = command("prune", store, "--keep-last", "1", "--host", "other")
    assert [line.split()[0] for line in ran.lines] == ["host", "keep"]
    ran = command("prune", store, "--keep-last", "1")
    assert sorted(line.split()[0] for line in ran.lines) == ["host", "host", "keep", "keep", "remove", "remove"]
    ran = command("prune", store, "--keep-tag", "x", "--group-by", "tags", "--yes")
    assert ran.code == 2, "each group keeps something"
    assert "would remove every archive of tags -" in ran.err
    ran = command("prune", store, "--keep-tag", "typo", "--host", "other", "--yes")
    assert (ran.code, len(archives(work))) == (2, 4)
    assert "every archive of host other, paths" in ran.err
    assert "--allow-empty" in ran.err
    assert command("prune", store, "--keep-tag", "typo", "--host", "other", "--yes", "--allow-empty").code == 0
    assert len(archives(work)) == 3
    assert command("prune", store, "--keep-tag", "typo", "--yes", "--allow-empty").code == 0
    assert archives(work) == []
    assert len(command("undelete", store, "--all").lines) == 4


def test_archives_of_the_future_evict_none(pogfast: Runner, work: Path) -> None:
    """Anybody with the public key can write archives of any date."""
    assert pogfast("keygen", "pair", cwd=work).code == 0
    public, private = ["--encryption-keyfile", "pair.encrypt"], ["--decryption-keyfile", "pair.decrypt"]
    (work / "tree" / "a").write_bytes(b"a")
    for _ in range(2):
        assert pogfast("create", "tree", "--to", "store", "--host", "h", *public, cwd=work).code == 0
    real = archives(work)
    key = keys.from_encryption_keyfile(str(work / "pair.encrypt"))
    for day in range(1, 4):
        facts = {"time": f"2099-01-0{day}T00:00:00+00:00", "host": "h", "paths": [str(work / "tree")]}
        (work / "store" / f"2099-01-0{day}T00:00:00.000000.mfn").write_bytes(manifest.seal(Manifest({}, facts), key))
    for words in (["--keep-last", "1"], ["--keep-within", "14d"], ["--keep-yearly", "3"]):
        for who in ([*public, "--group-by", ""], private):
            ran = pogfast("prune", "store", *words, *who, cwd=work)
            assert "pogfast: warning: dated in the future, so kept" in ran.err, ran.err
            assert "2099-01-01T00:00:00.000000.mfn (2099-01-01)" in ran.err
            assert any(line.startswith(f"keep    {real[1]}") for line in ran.lines)
    assert pogfast("prune", "store", "--keep-tag", "typo", *private, cwd=work).code == 2
    assert pogfast("prune", "store", "--keep-last", "1", "--yes", *private, cwd=work).code == 0
    assert archives(work)[0] == real[1]
    ran = pogfast("restore", "store/latest", "--into", "out", *private, cwd=work)
    assert ran.code == 0, ran.err
    assert "2099-01-03T00:00:00.000000.mfn is skipped" in ran.err
    assert (work / "out" / "tree" / "a").read_bytes() == b"a"


@pytest.mark.parametrize("harm", ["damaged", "another key"])
def test_an_archive_that_does_not_open_can_be_removed_and_pruned(
    command: Callable[..., Ran], pogfast: Runner, work: Path, store: str, harm: str
) -> None:
    """The way out that the message names: `remove` needs no key, and --allow-missing goes on without it."""
    if harm == "damaged":
        bad = work / "store" / archives(work)[0]
        bad.write_bytes(bad.read_bytes()[:-40])
    else:
        (work / "other").write_bytes(b"another")
        assert pogfast("create", "tree", "--to", "store", "--keyfile", "other", cwd=work).code == 0
        bad = work / "store" / archives(work)[-1]
    code = {"damaged": 4, "another key": 12}[harm]
    ran = command("prune", store, *KEEP, "--yes")
    assert (ran.code, "`pogfast remove` it" in ran.err) == (code, True), ran.err
    assert pogfast("remove", f"store/{bad.name}", "--yes", cwd=work).code == 0
    ran = command("prune", store, *KEEP, "--yes")
    assert (ran.code, "--allow-missing` goes on" in ran.err) == (code, True), ran.err
    for _ in range(2):
        assert command("prune", store, *KEEP, "--yes", "--allow-missing").code == 0
        age(work / "store")
    assert command("prune", store, *KEEP, "--yes").code == 0
    assert [path.name for path in (work / "store").glob("*.removed")] == []
    assert (len(archives(work)), blobs(work)) == (1, 1)
    assert command("check", store, "--read-data").code == 0


@pytest.mark.parametrize("harm", ["damaged", "another key"])
def test_a_manifest_that_cannot_be_read_stops_everything(
    command: Callable[..., Ran], pogfast: Runner, work: Path, store: str, harm: str
) -> None:
    if harm == "damaged":
        path = work / "store" / archives(work)[0]
        path.write_bytes(path.read_bytes()[:-40])
    else:
        (work / "other").write_bytes(b"another")
        assert pogfast("create", "tree", "--to", "store", "--keyfile", "other", cwd=work).code == 0
    before = archives(work), blobs(work)
    ran = command("prune", store, *KEEP, "--yes", "--grace", "0")
    assert ran.code == {"damaged": 4, "another key": 12}[harm]
    assert ran.err.startswith("pogfast: error: nothing was removed: ")
    assert (archives(work), blobs(work)) == before


def test_a_public_key_is_enough(pogfast: Runner, work: Path) -> None:
    assert pogfast("keygen", "pair", cwd=work).code == 0
    public, private = ["--encryption-keyfile", "pair.encrypt"], ["--decryption-keyfile", "pair.decrypt"]
    for name in "ab":
        (work / "tree" / name).write_bytes(os.urandom(5000))
        assert pogfast("create", "tree", "--to", "store", *public, cwd=work).code == 0
        (work / "tree" / name).unlink()
    for _ in range(2):
        assert pogfast("prune", "store", *KEEP, "--yes", "--grace", "0", *public, cwd=work).code == 0
    assert (len(archives(work)), blobs(work)) == (1, 1)
    assert pogfast("check", "store", "--read-data", *private, cwd=work).code == 0
    ran = pogfast("prune", "store", "--keep-tag", "x", "--group-by", "", *public, cwd=work)
    assert (ran.code, "cannot tell tags" in ran.err) == (12, True), ran.err


def test_a_public_key_cannot_group(pogfast: Runner, work: Path) -> None:
    """All archives would be one group, and a policy would remove those of other hosts."""
    assert pogfast("keygen", "pair", cwd=work).code == 0
    public, private = ["--encryption-keyfile", "pair.encrypt"], ["--decryption-keyfile", "pair.decrypt"]
    (work / "tree" / "a").write_bytes(b"a")
    for host in ("web", "db"):
        assert pogfast("create", "tree", "--to", "store", "--host", host, *public, cwd=work).code == 0
    for by in ([], ["--group-by", "host,paths"], ["--group-by", "tags"]):
        ran = pogfast("prune", "store", "--keep-last", "1", *by, "--yes", *public, cwd=work)
        assert (ran.code, ran.out, "--group-by ''" in ran.err) == (12, b"", True), ran.err
        assert len(archives(work)) == 2
    assert pogfast("prune", "store", "--keep-all", "--yes", *public, cwd=work).code == 0
    assert pogfast("prune", "store", "--keep-last", "1", "--yes", *private, cwd=work).code == 0
    assert len(archives(work)) == 2
    assert pogfast("prune", "store", *KEEP, "--yes", *public, cwd=work).code == 0
    assert len(archives(work)) == 1


@pytest.mark.parametrize("moment", range(12))
def test_a_prune_that_is_killed_is_repeated(command: Callable[..., Ran], work: Path, store: str, moment: int) -> None:
    """kill -9 after some deletions: the next prune deletes the rest, and no backup has to wait."""
    program = (
        "import os, sys, pogfast.cli, pogfast.stores.local as local\n"
        f"left = [{moment}]\n"
        "for name in ('put_manifest', 'remove_manifest', 'delete_manifests', '_delete_old'):\n"
        "    def act(self, *words, old=getattr(local.LocalStore, name)):\n"
        "        if not left[0]: os.kill(os.getpid(), 9)\n"
        "        left[0] -= 1\n"
        "        return old(self, *words)\n"
        "    setattr(local.LocalStore, name, act)\n"
        "pogfast.cli.main()\n"
    )
    words = ["prune", store, *KEEP, "--yes", "--grace", "0", "--keyfile", "key"]
    subprocess.run([sys.executable, "-c", program, *words], cwd=work, check=False, capture_output=True)
    assert command("check", store, "--read-data").code == 0
    for path in (work / "store").glob(f"{SWEEPING}*"):
        long_ago = time.time() - 25 * 3600
        os.utime(path, (long_ago, long_ago))
    for _ in range(2):
        assert command("prune", store, *KEEP, "--yes", "--grace", "0").code == 0
    assert (len(archives(work)), blobs(work)) == (1, 1)
    assert command("create", "tree", "--to", store).code == 0
    assert command("check", store, "--read-data").code == 0
    assert not list((work / "store").glob(f"{SWEEPING}*"))


# ---- the library, and who runs at the same time ----------------------------------------------------------------------


def test_the_library(command: Callable[..., Ran], work: Path, store: str) -> None:
    key = keys.from_keyfile(str(work / "key"))
    with pytest.raises(UsageError):
        pruning.prune(str(work / store), key, Policy())
    summary = pruning.prune(str(work / store), key, Policy(last=1), group_by=())
    assert (summary.dry_run, summary.kept, summary.removed) == (True, 1, 2)


KEY = keys.Key("keyfile", bytes(32))
CONTENTS = ["one", "two", "three", "four"]
NAMES = {content: blob_name(KEY.secret, content.encode()) for content in CONTENTS}


class Stepped(LocalStore):
    """A store whose verbs wait until it is their turn."""

    actor: Actor | None = None  # while it is opened there is nobody else

    def _await_turn(self) -> None:
        if self.actor is not None:
            self.actor.await_turn()

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name in {
            "put_manifest",
            "remove_manifest",
            "delete_manifests",
            "named",
            "prune_marks",
            "marks",
            "manifests",
            "size_of",
            "missing",
            "get_manifest",
        }:
            self._await_turn()
        if name == "blob_names":
            self._await_turn()
            return lambda: list(found())
        if name == "delete_old_blobs":  # one at a time
            return lambda blobs, *more: (
                gone for blob in blobs for gone in [self._await_turn(), *found([blob], *more)] if gone is not None
            )
        return found


class Actor(threading.Thread):
    """Does something with a store, one verb at a time."""

    def __init__(self, directory: Path, act: Callable[[Stepped], None]) -> None:
        super().__init__(daemon=True)
        self.store = Stepped.open(str(directory), fan_out=True)
        self.store.actor = self
        self.act = act
        self.turn, self.waits = threading.Semaphore(0), threading.Semaphore(0)
        self.over = self.stopped = False
        self.failure: BaseException | None = None

    def await_turn(self) -> None:
        if threading.current_thread() is self and not self.stopped:
            self.waits.release()
            self.turn.acquire()
            if self.stopped:
                raise SystemExit

    def run(self) -> None:
        try:
            self.act(self.store)
        except PogfastError as error:
            self.failure = error
        except SystemExit:
            pass
        finally:
            self.over = True
            self.waits.release()

    def begin(self) -> None:
        self.start()
        self.waits.acquire()

    def step(self) -> None:
        if not self.over:
            self.turn.release()
            self.waits.acquire()

    def kill(self) -> None:
        """It never does anything again. (As it is killed it still tidies up in the thread that is stopped: what it
        writes then is taken away again.)"""
        if self.over:
            return
        marks = {path: path.read_bytes() for path in Path(self.store.path).iterdir() if path.is_file()}
        self.stopped = True
        self.step()
        self.join()
        for path in Path(self.store.path).iterdir():
            if path.is_file() and path not in marks:
                path.unlink()
        for path, data in marks.items():
            if not path.exists():
                path.write_bytes(data)


def back_up(contents: list[str], name: str) -> Callable[[Stepped], None]:
    """As create does, in small: what is there is believed, the rest is stored, and the manifest comes last."""

    def act(store: Stepped) -> None:
        kept = Targets([store], lambda lost: None)
        needed = {NAMES[content]: content for content in contents}
        data = manifest.seal(Manifest({"f": Entry([*needed], 0.0, 0.0)}), KEY)

        def store_blobs(names: Collection[str]) -> None:
            for blob in names:
                if store.size_of(blob) is None:
                    store.blobs.put(blob, seal_blob(KEY.secret, False, needed[blob].encode(), 1000)[1])

        def conclude() -> None:
            kept.check_reliance(lambda: needed)
            kept.publish(name, data, lambda: needed)

        store_blobs(needed)
        reliance.stored_again(conclude, store_blobs)

    return act


def prune_all_but_the_newest(store: Stepped) -> None:
    pruning._Prune(Sweep(store, KEY, 0.0)).run(Policy(last=1), (), Filter(), False)


def bring_back(name: str) -> Callable[[Stepped], None]:
    def act(store: Stepped) -> None:
        with contextlib.suppress(MissingBlob, NoSuchArchive, FileNotFoundError):
            written = os.stat(f"{store.path}/{name}{REMOVED}").st_mtime
            pruning._bring_back(store, KEY, Stored(name + REMOVED, 0, written))

    return act


def assert_no_archive_misses_a_blob(directory: Path) -> None:
    store = open_store(str(directory))
    for stored in store.manifests():
        assert store.missing(manifest.blob_names(store.get_manifest(stored.name), KEY, stored.name)) == []
    store.close()


subsets = st.lists(st.sampled_from(CONTENTS), min_size=1, max_size=4, unique=True)


@settings(max_examples=150)
@example(
    before=[["one"], ["one"]],
    orphans=[],
    now=[["one", "two"], ["one"]],
    order=[0, 0, 0, 2, 2, 3, 3, 2],
    killed=None,
)
@given(
    before=st.lists(subsets, min_size=1, max_size=3),
    orphans=st.lists(st.sampled_from(CONTENTS), max_size=2),
    now=st.lists(subsets, min_size=1, max_size=2),
    order=st.lists(st.integers(0, 4), max_size=60),
    killed=st.none() | st.integers(0, 40),
)
def test_whoever_runs_meanwhile_no_archive_misses_a_blob(
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    before: list[list[str]],
    orphans: list[str],
    now: list[list[str]],
    order: list[int],
    killed: int | None,
) -> None:
    """Backups, two prunes without a grace period, and an undelete: their store operations in any order."""
    directory = tmp_path_factory.mktemp("store")
    (directory / "data").mkdir()
    monkeypatch.setattr(reliance, "PAUSE", 0)
    monkeypatch.setattr(reliance, "STALE", 1.0)
    monkeypatch.setattr(sweeping, "PAUSE", 0.01)
    monkeypatch.setattr(needed, "PAUSE", 0.01)
    long_ago = time.time() - 10**6
    with contextlib.closing(Stepped.open(str(directory), fan_out=True)) as store:
        store.actor = Actor(directory, lambda store: None)
        for number, contents in enumerate(before):
            back_up(contents, f"2026-01-0{number + 1}.mfn")(store)
        for content in orphans:
            store.blobs.put(NAMES[content], seal_blob(KEY.secret, False, content.encode(), 1000)[1])
        store.remove_manifest("2026-01-01.mfn")
        store.put_manifest("2026-01-01.mfn", store.get_manifest("2026-01-01.mfn.removed"))
    for path in directory.rglob("*="):
        os.utime(path, (long_ago, long_ago))
    actors = [Actor(directory, back_up(contents, f"2026-02-0{number + 1}.mfn")) for number, contents in enumerate(now)]
    actors += [Actor(directory, prune_all_but_the_newest) for _ in range(2)]
    actors.append(Actor(directory, bring_back("2026-01-01.mfn")))
    for actor in actors:
        actor.begin()
    for count, number in enumerate(order):
        if count == killed:
            actors[-2].kill()
        actors[number % len(actors)].step()
    for _ in range(3000):
        for actor in actors:
            actor.step()
        if all(actor.over for actor in actors):
            break
    assert all(actor.over for actor in actors), "nobody waits for ever"
    assert_no_archive_misses_a_blob(directory)
    for actor in actors:
        if actor.failure is not None:
            assert isinstance(actor.failure, PogfastError)
        actor.store.close()


def test_what_is_condemned_while_a_backup_runs_is_stored_again(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    store = LocalStore.create(str(tmp_path), fan_out=True)
    store.blobs.put(NAMES["one"], b"one")
    relies = Reliance(store)
    assert store.size_of(NAMES["one"]) == 3
    store.put_mark("condemned-1", f"{NAMES['one']}\n{NAMES['two']}\n".encode())
    assert relies.lacking(lambda: {NAMES["three"]}) == set(), "another archive of the same copy"
    assert relies.lacking(lambda: {NAMES["one"], NAMES["three"]}) == {NAMES["one"]}
    assert store.size_of(NAMES["one"]) is None
    store.blobs.put(NAMES["one"], b"one")
    assert relies.lacking(lambda: {NAMES["one"]}) == set()
    relies.publish("a.mfn", b"manifest", lambda: {NAMES["one"]})
    assert [each.name for each in store.manifests()] == ["a.mfn"]
    store.close()


def test_an_archive_whose_blobs_were_deleted_meanwhile_does_not_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In slow motion: what a backup relied on goes before, or while, its manifest is stored."""
    (tmp_path / "data").mkdir()
    store = LocalStore.create(str(tmp_path), fan_out=True)
    relies = Reliance(store)
    store.put_mark("sweep.done-1", b"")
    assert relies.lacking(lambda: {NAMES["one"]}) == {NAMES["one"]}
    put = LocalStore.put_manifest

    def put_and_sweep(self: LocalStore, name: str, data: bytes) -> None:
        put(self, name, data)
        put(self, "sweep.done-2", b"")

    monkeypatch.setattr(LocalStore, "put_manifest", put_and_sweep)
    with pytest.raises(Condemned, match="a prune has removed"):
        relies.publish("a.mfn", b"manifest", lambda: {NAMES["one"]})
    assert store.manifests() == []
    store.close()


# ---- pog-cleanup -----------------------------------------------------------------------------------------------------


@pytest.fixture
def cleanup(work: Path) -> Callable[..., Ran]:
    def call(*words: str, cwd: Path | None = None) -> Ran:
        program = "import sys; from pogfast.pog import cleanup; sys.exit(cleanup())"
        ran = run([sys.executable, "-c", program, *words], cwd or work)
        assert "Traceback" not in ran.err, ran.err
        return ran

    return call


@pytest.fixture
def similar(pog: Runner, work: Path) -> list[str]:
    """Three of pog's archives in `store`: the second has all that the first has, and one file of 20 more."""
    made = []
    for number in range(22):
        (work / "tree" / f"{number}").write_bytes(os.urandom(100))
    for names in (range(20), range(21), range(21, 22)):
        ran = pog("--keyfile=key", "--save-to=local:store", *(f"tree/{name}" for name in names), cwd=work)
        assert ran.code == 0, ran.err
        made.append(ran.lines[-1].split()[-1])
    return made


def test_cleanup_names_what_a_newer_archive_is_similar_to(
    cleanup: Callable[..., Ran], work: Path, similar: list[str]
) -> None:
    ran = cleanup("--keyfile=key", "--backup=local:store")
    assert ran.code == 0, ran.err
    one, two, three = similar
    assert ran.lines == [
        f"{one} vs {two} similarity: {20 / 21}",
        f"{one} vs {three} similarity: 0.0",
        f"{two} vs {three} similarity: 0.0",
        "***",
        "final list:",
        two,
        three,
        "22",
        f"would remove {one}",
    ]
    assert archives(work) == similar


def test_cleanup_removes_with_abandon_and_nothing_is_lost(
    cleanup: Callable[..., Ran], command: Callable[..., Ran], work: Path, similar: list[str]
) -> None:
    orphan = work / "store" / "data" / "AA" / f"AA{'x' * 41}="
    orphan.parent.mkdir(exist_ok=True)
    orphan.write_bytes(b"of nobody")
    long_ago = time.time() - 25 * 3600
    os.utime(orphan, (long_ago, long_ago))
    ran = cleanup("--keyfile=key", "--backup=store", "--reckless-abandon")
    assert ran.lines[-1] == f"removed {similar[0]}"
    assert orphan.exists(), "it is listed"
    [marked] = (work / "store").glob(f"{CONDEMNED}*")
    os.utime(marked, (long_ago + 1, long_ago + 1))
    ran = cleanup("--keyfile=key", "--backup=store", "--reckless-abandon")
    assert ran.lines[-1] == f"removed data/AA/{orphan.name}"
    assert not orphan.exists()
    assert archives(work) == similar[1:]
    assert command("check", "store", "--read-data").code == 0
    assert command("undelete", "store", "--all").lines == similar[:1]
    assert command("check", "store", "--read-data").code == 0
    assert cleanup("--keyfile=key", "--backup=local", cwd=work / "store").code == 1, "no key of that name there"


def age(directory: Path) -> None:
    """Makes all that lies in a store older than any grace period."""
    long_ago = time.time() - 100 * 3600
    for path in directory.rglob("*"):
        when = long_ago + path.name.startswith(CONDEMNED)  # what it names was there before it
        os.utime(path, (when, when))


@pytest.mark.parametrize("program", ["prune", "pog-cleanup"])
def test_nothing_is_deleted_where_manifests_are_gone(
    command: Callable[..., Ran], cleanup: Callable[..., Ran], work: Path, store: str, program: str
) -> None:
    """If somebody has moved them away, all blobs look unneeded."""

    def call() -> Ran:
        if program == "prune":
            return command("prune", store, "--keep-last", "7", "--yes")
        return cleanup("--keyfile=key", f"--backup={store}", "--reckless-abandon")

    before = blobs(work)
    assert command("prune", store, *KEEP, "--yes").code == 0, "two archives can be brought back now"
    kept = work / store / archives(work)[0]
    moved = work / kept.name
    kept.rename(moved)
    age(work / store)
    ran = call()
    assert (ran.code, blobs(work)) == (4, before), ran.err
    assert "no archive but removed ones: nothing was deleted" in ran.err
    for mark in (work / store).glob("*.removed"):
        mark.unlink()
    ran = call()
    assert (ran.code, blobs(work)) == (4, before), ran.err
    assert "blobs and no archive" in ran.err
    partial = kept.with_name(f"{kept.name}.partial")  # of a run that goes on, the first into this store
    partial.write_bytes(moved.read_bytes())
    ran = call()
    assert (ran.code, blobs(work)) == (10, before), ran.err
    assert "no archive yet: nothing was deleted" in ran.err
    partial.unlink()
    moved.rename(kept)
    assert call().code == 0
    age(work / store)
    assert call().code == 0
    assert blobs(work) == 1


def test_cleanup_removes_nothing_for_an_archive_of_the_future(
    cleanup: Callable[..., Ran], work: Path, similar: list[str]
) -> None:
    ahead = "2099-01-01T00:00:00.000000.mfn"
    (work / "store" / similar[1]).rename(work / "store" / ahead)
    ran = cleanup("--keyfile=key", "--backup=local:store", "--reckless-abandon")
    assert archives(work) == [similar[0], similar[2], ahead], ran.out


@pytest.mark.parametrize("ending", ["", ".removed"])
@pytest.mark.parametrize("kind", ["link", "fifo"])
def test_a_manifest_that_is_no_file_stops_everything(
    command: Callable[..., Ran], cleanup: Callable[..., Ran], work: Path, store: str, kind: str, ending: str
) -> None:
    """If it were skipped, its blobs would look unneeded. git-annex, for example, turns files into links."""
    before = blobs(work)
    manifest = work / store / archives(work)[0]
    manifest.rename(work / "moved")
    lies = manifest.with_name(manifest.name + ending)
    if kind == "link":
        lies.symlink_to(work / "moved")
    else:
        os.mkfifo(lies)
    age(work / store)
    os.utime(lies, follow_symlinks=False)
    ran = command("prune", store, "--keep-last", "7", "--group-by", "", "--yes")
    assert (ran.code, blobs(work)) == (4, before), ran.err
    assert manifest.name in ran.err
    assert ("is a symbolic link" if kind == "link" else "not a regular file") in ran.err
    assert "--allow-missing` goes on without it" in ran.err
    assert cleanup("--keyfile=key", f"--backup={store}", "--reckless-abandon").code == 4
    assert blobs(work) == before
    if not ending:
        assert command("list", store).code == 4
        assert command("check", store).code == 4
        ran = command("copy", store, "other")
        assert (ran.code, ran.err.count(manifest.name)) == (4, 1), ran.err
        assert len(list((work / "other").glob("*.mfn"))) == 2, "the others are copied"
        newest = manifest.with_name("2100" + manifest.name[4:])
        lies.rename(newest)
        ran = command("restore", f"{store}/latest", "--into", "out")
        assert (ran.code, f"skipped: cannot read {newest.name}" in ran.err) == (3, True), ran.err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--help"], 0, ""),
        (["--bogus"], 2, "--bogus"),
        (["x"], 2, "unexpected argument: x"),
        (["--keyfile=key", "--encryption-keyfile=key"], 2, "more than one key given"),
        (["--keyfile=key", "--backup=nosuch"], 10, "no store at nosuch"),
        (["--keyfile=key", "--backup=tree"], 10, "no store at tree"),
        (["--keyfile=key", "--backup=s3"], 2, "S3_BUCKET_NAME"),
        (["--keyfile=key", "--backup=b2"], 2, "B2_BUCKET_NAME"),
    ],
)
def test_cleanups_command_line(cleanup: Callable[..., Ran], words: list[str], code: int, said: str) -> None:
    ran = cleanup(*words)
    assert ran.code == code
    assert said in ran.err
    assert ("pog-cleanup:" in ran.out.decode()) == (words == ["--help"])


# ---- runs that go on -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asymmetric", [False, True])
def test_a_long_run_says_what_it_has_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pogfast: Runner, asymmetric: bool
) -> None:
    """It is killed after its first large file: a prune leaves what it has stored, and it can be restored."""
    monkeypatch.chdir(tmp_path)
    secret = os.urandom(32)
    Path("key").write_bytes(secret)
    assert pogfast("keygen", "pair", cwd=tmp_path).code == 0
    public = keys.from_encryption_keyfile("pair.encrypt") if asymmetric else keys.from_keyfile("key")
    private = ["--decryption-keyfile", "pair.decrypt"] if asymmetric else ["--keyfile", "key"]
    Path("tree").mkdir()
    for name in ("a", "b"):
        (Path("tree") / name).write_bytes(os.urandom(300_000))
    monkeypatch.setattr(targets, "PARTIAL_EVERY", 0.0)
    monkeypatch.setattr(targets, "PARTIAL_SHARE", 0.0)
    monkeypatch.setattr(run_module, "SAVE_EVERY", 0.0)

    class Killed(BaseException):
        pass

    def kill(*_: object) -> str:
        raise Killed

    monkeypatch.setattr(run_module, "conclude", kill)
    with pytest.raises(Killed):
        backup.create(["tree"], "store", public, options=backup.Options(chunk_size=100_000, cache_directory=""))
    [partial] = Path("store").glob("*.mfn.partial")
    ran = pogfast("list", "store", "--partial", "--json", *private, cwd=tmp_path)
    assert (ran.code, [one["id"] for one in said(ran, "snapshot")]) == (0, [partial.name]), ran.err
    assert pogfast("restore", f"store/{partial.name}", "--into", "out", *private, cwd=tmp_path).code == 0
    ran = pogfast("check", f"store/{partial.name}", "--read-data", *private, cwd=tmp_path)
    assert ran.code == 0, ran.err
    ran = pogfast("copy", f"store/{partial.name}", "elsewhere", *private, cwd=tmp_path)
    assert (ran.code, f"{partial.name} is of an unfinished backup" in ran.err) == (2, True), ran.err
    restored = {path.name for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert restored & {"a", "b", "a.partial", "b.partial"}
    for name in restored:
        whole = (tmp_path / "tree" / name.removesuffix(".partial")).read_bytes()
        part = (tmp_path / "out" / "tree" / name).read_bytes()
        assert part
        assert whole.startswith(part)
        assert name.endswith(".partial") or part == whole
    monkeypatch.setattr(run_module, "conclude", publish.conclude)
    Path("c").write_bytes(b"c")
    backup.create(["c"], "store", public, options=backup.Options(cache_directory=""))
    long_ago = time.time() - 30 * 24 * 3600
    for path in Path("store", "data").rglob("*="):
        os.utime(path, (long_ago, long_ago))
    pruning.prune("store", public, Policy(everything=True), dry_run=False)
    assert not list(Path("store").glob(f"{CONDEMNED}*")), "it goes on, for all that is known"
    os.utime(partial, (long_ago, long_ago))
    pruning.prune("store", public, Policy(everything=True), dry_run=False)
    [marked] = Path("store").glob(f"{CONDEMNED}*")
    assert len(marked.read_text().split()) == blobs(tmp_path) - 1
    assert not partial.exists()


def test_of_a_file_that_is_begun_what_is_stored_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The backup is killed in the middle of it: the file takes several times as long as two looks at the engine."""
    monkeypatch.chdir(tmp_path)
    Path("large").write_bytes(os.urandom(30_000_000))
    monkeypatch.setattr(targets, "PARTIAL_EVERY", 0.0)
    monkeypatch.setattr(run_module, "SAVE_EVERY", 0.0)
    monkeypatch.setattr(run_module, "SAVE_BLOB", 0.0)

    class Killed(BaseException):
        pass

    put = targets.Partial.put

    def put_and_die(self: targets.Partial, seal: Callable[[], bytes]) -> None:
        put(self, seal)
        raise Killed

    monkeypatch.setattr(targets.Partial, "put", put_and_die)
    with pytest.raises(Killed):
        backup.create(["large"], "store", KEY, options=backup.Options(chunk_size=10_000, cache_directory="", jobs=1))
    [partial] = Path("store").glob("*.mfn.partial")
    opened = manifest.open(partial.read_bytes(), KEY, partial.name)
    assert list(opened.entries) == ["large.partial"]
    begun = opened.entries["large.partial"]
    assert 0 < len(begun.blobs) < 3000
    assert all(Path("store", "data", name[:2], name).exists() for name in begun.blobs)


def test_what_was_relied_on_and_is_condemned_meanwhile_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the file that needs it; and a later prune leaves what was stored anew."""
    monkeypatch.chdir(tmp_path)
    Path("tree").mkdir()
    for name in "ab":
        (Path("tree") / name).write_bytes(os.urandom(50_000))
    time.sleep(cache_rows.TICK_NS / 10**9 + 0.1)  # until their stamps prove that they do not change
    options = backup.Options(cache_directory=str(tmp_path / "cache"))
    backup.create(["tree"], "store", KEY, options=options)
    [first] = Path("store").glob("*.mfn")
    opened = manifest.open(first.read_bytes(), KEY, first.name)
    [condemned] = opened.entries["tree/a"].blobs
    stored = Path("store", "data", condemned[:2], condemned)
    before = stored.read_bytes()
    durable = LocalStore.make_durable
    calls: list[int] = []

    def condemn(store: LocalStore) -> None:
        durable(store)
        if not calls:
            store.put_mark(f"{CONDEMNED}1", f"{condemned}\n".encode())
        calls.append(1)

    monkeypatch.setattr(LocalStore, "make_durable", condemn)
    done = backup.create(["tree"], "store", KEY, options=options)
    assert (done.files_new, done.files_unchanged, done.problems) == (1, 1, [])
    assert stored.read_bytes() != before
    assert_no_archive_misses_a_blob(Path("store"))
    first.unlink()
    pruning.prune("store", KEY, Policy(last=1), dry_run=False, grace=0)
    assert_no_archive_misses_a_blob(Path("store"))
    assert not list(Path("store").glob(f"{CONDEMNED}*"))


def test_an_archive_that_lacks_a_blob_stops_a_prune(command: Callable[..., Ran], work: Path, store: str) -> None:
    """Otherwise `--keep-last 1` could keep only the broken one."""
    newest = archives(work)[-1]
    needed = manifest.blob_names((work / "store" / newest).read_bytes(), keys.from_keyfile(str(work / "key")), newest)
    next((work / "store" / "data").rglob(needed[0])).unlink()
    ran = command("prune", store, *KEEP, "--yes")
    assert (ran.code, len(archives(work))) == (4, 3), ran.err
    assert "1 blob missing from" in ran.err
    assert newest in ran.err
    assert command("prune", store, *KEEP, "--yes", "--allow-missing").code == 0
    assert archives(work) == [newest]


def test_a_removed_archive_that_is_damaged_stops_a_prune_unless_told(
    command: Callable[..., Ran], work: Path, store: str
) -> None:
    """What it alone needs goes as slowly as anything else."""
    kept = archives(work)[-1]
    assert command("prune", store, *KEEP, "--yes").code == 0
    damaged, other = sorted((work / "store").glob("*.removed"))
    damaged.write_bytes(damaged.read_bytes()[:-40])
    for words in (["--yes"], []):
        ran = command("prune", store, *KEEP, *words)
        assert (ran.code, blobs(work)) == (4, 3), ran.err
        assert damaged.name in ran.err
        assert "`pogfast prune --allow-missing` goes on" in ran.err
    for stays in (True, False):
        ran = command("prune", store, *KEEP, "--yes", "--allow-missing")
        assert (ran.code, blobs(work)) == (0, 3), ran.err
        assert f"{damaged.name} is damaged" in ran.err
        assert (damaged.exists(), other.exists()) == (stays, stays)
        age(work / "store")
    assert command("prune", store, *KEEP, "--yes").code == 0
    assert (archives(work), blobs(work)) == ([kept], 1)
    assert command("check", store, "--read-data").code == 0


@pytest.mark.parametrize("name", ["\udcff", "ä\x0bb\x85c", "a b"])
def test_a_damaged_removed_archive_of_any_name_goes(
    command: Callable[..., Ran], work: Path, store: str, name: str
) -> None:
    odd = work / "store" / f"{name}.mfn.removed"
    odd.write_bytes(b"?")
    for stays in (True, False):
        ran = command("prune", store, *KEEP, "--yes", "--allow-missing")
        assert (ran.code, odd.exists()) == (0, stays), ran.err
        age(work / "store")


def test_a_removed_archive_whose_name_is_of_two_lines_stays(
    command: Callable[..., Ran], work: Path, store: str
) -> None:
    """A list has one name on each line, so this could be made to name a blob."""
    odd = work / "store" / "a\nb.mfn.removed"
    odd.write_bytes(b"?")
    for _ in range(2):
        assert command("prune", store, *KEEP, "--yes", "--allow-missing").code == 0
        age(work / "store")
    assert odd.exists()


def test_what_another_prune_has_removed_is_not_counted(command: Callable[..., Ran], work: Path, store: str) -> None:
    first, second, _ = archives(work)
    assert command("remove", f"{store}/{first}", "--yes").code == 0
    opened = open_store(str(work / "store"))
    sweep = Sweep(opened, keys.from_keyfile(str(work / "key")), 0.0)
    assert sweep.run([second, "2020-01-01T00:00:00.000000.mfn"]).expired == 1, "the first, and not the second"
    opened.close()


def test_many_archives_of_the_same_blobs_take_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their names are in memory once, also if they come from the catalog."""
    monkeypatch.setenv("POGFAST_CACHE_DIR", str(tmp_path / "cache"))
    needed = [f"{number:042}A=" for number in range(5000)]
    data = manifest.seal(Manifest({"f": Entry(needed, 0.0, 0.0)}, {"totals": {"files": 1, "stored": 1}}), KEY)
    for number in range(100):
        path = tmp_path / f"2026-01-01T00:00:00.{number:06}.mfn"
        path.write_bytes(data)
        os.utime(path, (10**9, 10**9))
    with contextlib.closing(LocalStore.open(str(tmp_path), fan_out=True)) as store:
        for _ in range(2):
            tracemalloc.start()
            held = Sweep(store, KEY, 1.0, dry_run=True)._read()
            assert held.archives == set(needed)
            assert tracemalloc.get_traced_memory()[1] < 16e6
            tracemalloc.stop()


def test_a_blob_that_a_killed_prune_had_moved_aside_is_put_back(
    command: Callable[..., Ran], work: Path, store: str
) -> None:
    blob = next((work / "store" / "data").rglob("*="))
    blob.rename(work / "store" / f"{TRASH}0123456789abcdef-{blob.name}")
    assert command("check", store, "--read-data").code == 0
    assert not list((work / "store").glob(f"{TRASH}*"))


def test_what_is_written_anew_is_not_deleted(tmp_path: Path) -> None:
    """Even if it replaces the old one between the check and the deletion."""
    store = LocalStore.create(str(tmp_path), fan_out=True)
    for content in ("one", "two"):
        store.blobs.put(NAMES[content], b"old")
    found = list(store.blob_names())
    before = time.time() + 10
    written = LocalStore._written
    looks: list[str] = []

    def put_meanwhile(name: str, directory: int) -> float:
        looks.append(name)
        time_of_it = written(name, directory)
        if name == NAMES["one"]:
            store.blobs.put(name, b"new")
            os.utime(tmp_path / "data" / name[:2] / name, (before + 1, before + 1))
        return time_of_it

    store._written = put_meanwhile  # type: ignore[method-assign, assignment]
    gone = [blob.name for blob in store.delete_old_blobs(found, before, lambda: True)]
    assert gone == [NAMES["two"]]
    assert bytes(store.get_blob(NAMES["one"])) == b"new"
    assert len(looks) == 4
    assert list(store.delete_old_blobs(store.blob_names(), math.inf, lambda: False)) == [], "not when it may not go on"
    store.close()


def test_a_full_store_can_be_pruned(command: Callable[..., Ran], work: Path, small_disk: Path) -> None:
    """Full to the last byte and inode: archives are renamed, and expired ones are deleted first."""
    store = small_disk / "store"
    for name in "abc":
        (work / "tree" / name).write_bytes(os.urandom(5000))
        assert command("create", "tree", "--to", str(store)).code == 0
        (work / "tree" / name).unlink()
    long_ago = time.time() - 30 * 3600
    for path in (store / "data").rglob("*="):
        os.utime(path, (long_ago, long_ago))
    assert command("prune", str(store), *KEEP, "--yes").code == 0
    [marked] = store.glob(f"{CONDEMNED}*")
    os.utime(marked, (long_ago + 1, long_ago + 1))
    for path in store.glob("*.removed"):
        os.utime(path, (long_ago, long_ago))
    fill(small_disk)
    ran = command("prune", str(store), *KEEP, "--yes")
    assert ran.code == 0, ran.err
    assert len(list((store / "data").rglob("*="))) == 1
    assert command("check", str(store), "--read-data").code == 0
    fill(small_disk)
    assert command("prune", str(store), *KEEP, "--yes", "--now").code == 0


def fill(disk: Path) -> None:
    """Leaves no byte of a disk, and no inode."""
    with contextlib.suppress(OSError), open(disk / f"filler{time.time_ns()}", "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    with contextlib.suppress(OSError):
        for number in range(100_000):
            (disk / f"empty{number}-{time.time_ns()}").touch()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one megabyte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = ["mount", "-t", "tmpfs", "-o", "size=1m,nr_inodes=300", "tmpfs", str(disk)]
    if os.getuid() or subprocess.run(mounted, check=False, capture_output=True).returncode:
        pytest.skip("no small disk can be mounted here")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_list_that_is_gone_and_still_listed_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some services list deleted objects for a while."""
    store = LocalStore.create(str(tmp_path), fan_out=True)
    ghost = [Stored("condemned-1", 9, 0.0), Stored("sweep.done-1", 0, 0.0)]
    monkeypatch.setattr(store, "prune_marks", lambda: ghost)
    monkeypatch.setattr(store, "named", lambda prefix: ghost[1:])
    relies = reliance.Reliance(store)
    assert relies.lacking(lambda: {"A" * 43 + "="}) == set(), "nothing has changed since it began"
    store.close()


def test_a_prune_that_may_not_delete_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It leaves `sweep.running-` beside `sweep.done-`."""
    store = LocalStore.create(str(tmp_path), fan_out=True)
    store.put_mark(f"{SWEEPING}1", b"")
    store.put_mark(f"{SWEEPING}2", b"")
    store.put_mark("sweep.done-1", b"")
    monkeypatch.setattr(reliance, "PAUSE", 0.01)
    monkeypatch.setattr(reliance, "STALE", 0.2)
    told: list[str] = []
    assert reliance.await_no_sweep(store, told.append), "the second says nothing more: it was killed"
    assert len(told) == 1
    store.put_mark("sweep.done-2", b"")
    assert not reliance.await_no_sweep(store, told.append)
    assert len(told) == 1
    store.close()


def test_a_dry_run_says_what_a_run_does(command: Callable[..., Ran], work: Path, store: str) -> None:
    counts = ("blobs_removed", "bytes_removed", "blobs_waiting", "snapshots_removed", "snapshots_expired")
    for words in ([*KEEP], [*KEEP, "--now"], [*KEEP, "--now"]):
        [foretold] = said(command("prune", store, *words, "--json"), "summary")
        [done] = said(command("prune", store, *words, "--json", "--yes"), "summary")
        assert [foretold[count] for count in counts] == [done[count] for count in counts], words
    assert blobs(work) == 1

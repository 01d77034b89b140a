"""Prunes and backups that meet: each way in which one of them once lost a blob, on a directory and on S3, and random
schedules. `kit/sweeps.py` runs them step by step."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit import sweeps
from kit.sweeps import DAY, GRACE, HOUR, Actor, World
from pogfast.backup.shards import Shard
from pogfast.stores.remote import RemoteStore
from pogfast.upkeep import checking
from pogfast.upkeep.retention import Span

BLOB = re.compile(r"(os\.)?(_?delete|remove|unlink|rename|replace).*[A-Za-z0-9_-]{43}=")
MINUTE = 60.0
SCHEDULES = int(os.environ.get("POGFAST_SCHEDULES", "100"))
SOAK = SCHEDULES > 100


@pytest.fixture(scope="module")
def service() -> Iterator[sweeps.S3]:
    with sweeps.s3() as server:
        yield server


@pytest.fixture(scope="module")
def plain_service() -> Iterator[sweeps.S3]:
    with sweeps.s3(conditions=False) as server:
        yield server


class Stage:
    """Makes worlds with a store of one kind, each in a state that some prunes and backups have led to."""

    def __init__(self, service: sweeps.S3 | None, visits: int, *, packed: bool = False) -> None:
        self.service, self.visits, self.packed = service, visits, packed

    @contextlib.contextmanager
    def scene(self, *more: tuple[str, ...]) -> Iterator[World]:
        """Of two archives the first was removed long ago, and a run was killed before its manifest; blobs of both lie
        there, and `visits` quiet prunes have seen them. `more` archives are to go with the next prune but the last."""
        with World(self.service, packed=self.packed) as world:
            world.run_well(world.creating(["one", "two"]))
            world.run_well(world.creating(["two"]))
            world.run_well(world.pruning())
            world.creating(["three"], "killed").until(is_manifest).kill()
            world.advance(30 * DAY)
            for contents in more:
                world.run_well(world.creating(contents))
            for _ in range(self.visits):
                world.run_well(world.pruning("quiet", last=99))
                world.advance(GRACE + HOUR)
            world.log.append("---- the scene is set")
            yield world

    def steps(self, most: int, least: int = 0) -> range:
        """Which steps of a command are tried: some of them, and more in a soak."""
        return range(least + self.visits, most, (4 if SOAK else 20) if self.service else 1 if SOAK else 4)


@pytest.fixture(params=["directory", "s3"])
def place(request: pytest.FixtureRequest) -> sweeps.S3 | None:
    return request.getfixturevalue("service") if request.param == "s3" else None


@pytest.fixture(params=[("directory", 0), ("directory", 1), ("s3", 0), *([("s3", 1)] if SOAK else [])], ids=str)
def stage(request: pytest.FixtureRequest) -> Stage:
    kind, visits = request.param
    return Stage(request.getfixturevalue("service") if kind == "s3" else None, visits)


def is_manifest(verb: str) -> bool:
    """Returns True if a step publishes an archive."""
    return bool(re.match(r"(put|os\.rename|os\.link).*\.mfn$", verb))


def is_change(verb: str) -> bool:
    """Returns True if a step changes the store."""
    return bool(re.match(r"(put|delete|remove|os\.(rename|unlink|link|utime|mkdir)|copy)", verb))


def is_deletion(verb: str) -> bool:
    """Returns True if a step may delete blobs."""
    return bool(BLOB.match(verb))


def is_expiry(verb: str) -> bool:
    """Returns True if a step may delete a removed archive."""
    return bool(re.match(r"(_?delete|forget).*\.removed", verb))


def all_finish(*actors: Actor) -> None:
    """Runs actors in turn to their ends, since one may wait for another."""
    for _ in range(100):
        for actor in actors:
            actor.go(40)
    assert all(actor.over for actor in actors), f"they wait for ever\n{actors[0].world.story()}"


NEEDED = ("one", "two", "three")


# ---- one prune, one backup -------------------------------------------------------------------------------------------


def test_a_prune_announces_itself_between_two_looks_of_a_backup(stage: Stage) -> None:
    for steps in stage.steps(14):
        with stage.scene() as world:
            prune, create = world.pruning(), world.creating(NEEDED)
            create.go(steps)
            prune.until(is_deletion)
            create.go(25)
            all_finish(prune, create)
            world.expect_whole()


def test_a_backup_reuses_what_a_prune_has_just_chosen(stage: Stage) -> None:
    for steps in stage.steps(30):
        with stage.scene() as world:
            prune, create = world.pruning(), world.creating(NEEDED)
            prune.go(steps)
            create.go(25)
            all_finish(prune, create)
            world.expect_whole()


def test_pog_reuses_what_a_prune_has_just_chosen(stage: Stage) -> None:
    for steps in stage.steps(30):
        with stage.scene() as world:
            for _ in range(stage.visits):
                world.creating(NEEDED, "killed").until(is_manifest).kill()
                world.pogging(NEEDED, "killed").until(is_manifest).kill()
                world.advance(GRACE + HOUR)
                world.run_well(world.pruning("quiet", last=99))
                world.advance(GRACE + HOUR)
            prune, create = world.pruning(), world.pogging(NEEDED)
            prune.go(steps)
            create.go(25)
            all_finish(prune, create)
            world.expect_whole()


@pytest.mark.parametrize("suspends", [False, True], ids=["stopped", "suspended"])
@pytest.mark.parametrize("seconds", [HOUR, 8 * DAY], ids=["hour", "week"])
def test_a_prune_that_freezes_at_any_step(stage: Stage, suspends: bool, seconds: float) -> None:
    for steps in stage.steps(34, 3):
        with stage.scene() as world:
            prune = world.pruning().go(steps)
            if prune.over:
                break
            prune.freeze(seconds, suspends=suspends)
            create = world.creating(NEEDED).finish()
            world.expect_whole()
            world.advance(max(0.0, prune.frozen_until - world.now))
            all_finish(prune, create)
            world.expect_whole()


@pytest.mark.parametrize("seconds", [HOUR, 8 * DAY], ids=["hour", "week"])
def test_a_backup_that_freezes_at_any_step(stage: Stage, seconds: float) -> None:
    for steps in stage.steps(16, 1):
        with stage.scene() as world:
            create = world.creating(NEEDED).go(steps)
            if create.over:
                break
            create.freeze(seconds, suspends=True)
            for _ in range(3):
                world.run(world.pruning())
                world.advance(min(seconds / 3, GRACE + HOUR))
            prune = world.pruning().until(is_deletion)
            world.advance(max(0.0, create.frozen_until - world.now))
            create.go(25)
            all_finish(prune, create)
            world.expect_whole()


def test_a_request_that_takes_an_hour(stage: Stage) -> None:
    """The prune keeps up its heartbeat meanwhile."""
    for steps in stage.steps(34, 3):
        with stage.scene() as world:
            prune, create = world.pruning().go(steps), world.creating(NEEDED)
            if prune.over:
                break
            world.advance(HOUR)
            create.go(40)
            world.advance(HOUR)
            all_finish(prune, create)
            world.expect_whole()


def test_a_prune_that_is_killed_at_any_step(stage: Stage) -> None:
    """A backup is running beside it; another backup and the next prunes follow."""
    for steps in stage.steps(34, 2):
        with stage.scene(("four", "two"), ("two",)) as world:
            create = world.creating(NEEDED)
            prune = world.pruning().go(steps // 2)
            create.go(4)
            prune.go(steps - steps // 2)
            if prune.over:
                break
            prune.kill()
            world.advance(16 * MINUTE)
            all_finish(create, world.creating(NEEDED, "create again"))
            world.expect_whole()
            for _ in range(2):
                world.run_well(world.pruning("next"))
                world.expect_whole()
                world.advance(GRACE + HOUR)


@pytest.mark.parametrize("skew", [HOUR, -HOUR, 14 * MINUTE])
def test_a_backup_whose_clock_is_wrong(stage: Stage, skew: float) -> None:
    for steps in stage.steps(8, 2):
        with stage.scene() as world:
            prune, create = world.pruning(), world.creating(NEEDED, skew=skew)
            create.go(steps)
            prune.until(is_deletion)
            create.go(40)
            all_finish(prune, create)
            world.expect_whole()


@pytest.mark.parametrize("skew", [HOUR, -HOUR, 30 * DAY])
def test_a_prune_whose_clock_is_wrong_deletes_nothing_early(place: sweeps.S3 | None, skew: float) -> None:
    with Stage(place, 0).scene() as world:
        world.creating(["four"], "killed").until(is_manifest).kill()
        there = world.blobs()
        world.advance(23.5 * HOUR)
        for _ in range(3):
            world.run_well(world.pruning(skew=skew, last=99))
        assert world.blobs() == there, world.story()
        world.run_well(world.creating(["four"]))
        world.expect_whole()
        world.settle()


def test_a_listing_that_loses_what_vanishes(place: sweeps.S3 | None) -> None:
    """The names in a directory are read first, and each is looked up then: a mark that is deleted in between is
    not found, and the one that took its place is not among the names."""
    if place:
        pytest.skip("a service lists at once")
    for visits in (0, 1):
        for steps in range(0, 40, 1 if SOAK else 2):
            with Stage(None, visits).scene() as world:
                prune, create = world.pruning(), world.creating(NEEDED, fine=True)
                create.until(is_manifest)
                prune.until(is_deletion)
                create.go(steps)
                over = create.over
                all_finish(prune, create)
                world.expect_whole()
                if over:
                    break


@pytest.mark.parametrize("which", ["prune", "create"])
def test_calls_of_the_system_in_a_directory(which: str) -> None:
    """Between the system calls of one operation: a blob is moved aside, looked at, and moved back."""
    for visits in (0, 1):
        for steps in range(0, 160, 1 if SOAK else 7):
            with Stage(None, visits).scene() as world:
                prune, create = world.pruning(fine=which == "prune"), world.creating(NEEDED, fine=which == "create")
                first, second = (prune, create) if which == "prune" else (create, prune)
                first.go(steps)
                second.go(25)
                over = first.over
                all_finish(first, second)
                world.expect_whole()
                if over:
                    break


def test_a_prune_that_freezes_between_calls_of_the_system() -> None:
    """It freezes for so long that others take it for dead: it may then delete what a backup has stored again."""
    for visits in (0, 1):
        for steps in range(30, 160, 1 if SOAK else 2):
            with Stage(None, visits).scene() as world:
                prune = world.pruning(fine=True).go(steps)
                if prune.over:
                    break
                prune.freeze(HOUR, suspends=False)
                create = world.creating(NEEDED).finish()
                world.expect_whole()
                world.advance(max(0.0, prune.frozen_until - world.now))
                all_finish(prune, create)
                world.expect_whole()


def test_a_prune_that_is_killed_between_calls_of_the_system() -> None:
    for visits in (0, 1):
        for steps in range(3, 200, 1 if SOAK else 11):
            with Stage(None, visits).scene() as world:
                create = world.creating(NEEDED).go(3)
                prune = world.pruning(fine=True).go(steps)
                over = prune.over
                prune.kill()
                create.finish()
                world.expect_whole()
                world.run(world.pruning())
                world.expect_whole()
                world.settle()
                if over:
                    break


@pytest.mark.parametrize("opens", ["check", "create"])
def test_a_prune_that_is_killed_before_it_puts_a_blob_back(opens: str) -> None:
    """A backup has stored it again while the prune was frozen. The next command that opens the store finds it."""
    with Stage(None, 1).scene() as world:
        prune = world.pruning(fine=True).until(".pogfast-trash-")
        prune.freeze(HOUR, suspends=False)
        done = world.run_well(world.creating(NEEDED))
        world.advance(HOUR)
        prune.until("os.link .pogfast-trash-").kill()
        assert not world.is_whole(done.manifest), world.story()
        if opens == "create":
            world.run_well(world.creating(["four"]))
        else:
            assert checking.check([world.store], sweeps.KEY, jobs=1).exit_code == 0
        world.expect_whole()
        world.settle()


def test_a_backup_is_killed_before_its_last_look(stage: Stage) -> None:
    """The prunes that follow must not keep a broken archive in place of an intact one."""
    for steps in range(4):
        with stage.scene() as world:
            create, prune = world.creating(NEEDED).until(is_manifest), world.pruning().until(is_deletion)
            create.go(steps)
            create.kill()
            prune.finish()
            for _ in range(2):
                world.advance(GRACE + HOUR)
                world.run(world.pruning())
                assert any(map(world.is_whole, world.archives())), world.story()


# ---- what each rule is for -------------------------------------------------------------------------------------------


def test_a_manifest_that_is_late_is_looked_at_again(place: sweeps.S3 | None) -> None:
    """A backup slept before it stored its manifest, and the blobs that it relies on were deleted. A prune that was
    killed has left no marks that say so."""
    with Stage(place, 2).scene() as world:
        world.creating(["one", "three"], "killed").until(is_manifest).kill()
        world.advance(GRACE + HOUR)
        create = world.creating(NEEDED).until(is_manifest)
        create.freeze(9 * DAY, suspends=True)
        world.run_well(world.pruning("quiet", last=99))
        world.advance(GRACE + HOUR)
        world.pruning("killed", last=99).until(lambda verb: "put" in verb and "sweep.done" in verb).kill()
        assert len(world.blobs()) == 1, "that of the archive which is there"
        world.advance(2 * DAY)
        world.run_well(world.pruning("patient", grace=30 * DAY, last=99))
        world.advance(max(0.0, create.frozen_until - world.now))
        create.finish()
        world.expect_whole()
        assert all(map(world.is_whole, world.archives())), world.story()


def test_a_manifest_appears_when_all_that_it_needs_is_there(place: sweeps.S3 | None) -> None:
    """A backup that is killed right after that leaves an intact archive."""
    with Stage(place, 0).scene() as world:
        create = world.creating(NEEDED).until("file stored", 3)
        for _ in range(2):
            world.run_well(world.pruning("quiet", last=99))
            world.advance(GRACE + HOUR)
        create.until(is_manifest).go(1)
        create.kill()
        assert len(world.archives()) == 2
        assert all(map(world.is_whole, world.archives())), world.story()


def test_what_has_just_been_stored_is_not_condemned(place: sweeps.S3 | None) -> None:
    """A program that ignores lists, such as pogcli, has until the next prune but one to store its manifest."""
    with Stage(place, 0).scene() as world:
        world.creating(["four"], "knows no lists").until(is_manifest).kill()
        stored = {name for name, written in world.names().items() if written > world.now - HOUR} & world.blobs()
        for hours in (1, 25):
            world.advance(hours * HOUR)
            world.run_well(world.pruning("quiet", last=99))
        assert len(stored) == 1
        assert stored <= world.blobs(), world.story()


def test_a_stream_beside_a_prune_ends_well() -> None:
    """A stream cannot be read again to replace what was pruned."""
    with Stage(None, 1).scene() as world:
        create = world.creating((), stdin_name="s", command="printf new").until("file stored")
        world.run_well(world.pruning())
        done = world.run_well(create)
        assert (done.blobs_new, world.is_whole(done.manifest)) == (1, True)


def test_two_prunes_do_not_delete_at_a_time(plain_service: sweeps.S3) -> None:
    """If a service ignores conditions, the second would delete what has been stored again since the first did."""
    with Stage(plain_service, 1).scene() as world:
        one, other = world.pruning("PRUNE-A"), world.pruning("PRUNE-B")
        one.until(is_deletion)
        other.until(is_deletion)
        one.finish()
        world.run_well(world.creating(NEEDED))
        other.finish()
        world.expect_whole()


def test_what_a_prune_had_moved_aside_when_it_was_killed_is_put_back() -> None:
    """It was frozen right before it moved a blob aside; meanwhile an archive has stored that blob again."""
    with Stage(None, 1).scene() as world:
        prune = world.pruning(fine=True).until(is_deletion)
        prune.freeze(HOUR, suspends=False)
        done = world.run_well(world.creating(NEEDED))
        world.advance(max(0.0, prune.frozen_until - world.now))
        prune.until("os.link").kill()
        assert not world.is_whole(done.manifest)
        world.run_well(world.pruning("next"))
        world.expect_whole()
        assert world.is_whole(done.manifest)


def freeze_during_a_backup(world: sweeps.World, prune: sweeps.Actor) -> None:
    """Makes a backup while a prune is frozen, and asserts that no blob is lost when the prune continues."""
    prune.freeze(HOUR, suspends=False)
    create = world.creating(NEEDED).finish()
    world.advance(max(0.0, prune.frozen_until - world.now))
    all_finish(prune, create)
    world.expect_whole()


@pytest.fixture
def asking_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A prune asks each time whether a bucket has locks: so there is a step between its reading and its deletion."""
    monkeypatch.setattr(RemoteStore, "_has_locks", property(lambda self: None, lambda self, value: None), raising=False)


@pytest.mark.usefixtures("asking_again")
def test_a_prune_reads_the_manifests_again_when_it_has_stood_still(plain_service: sweeps.S3) -> None:
    """It is frozen right before it checks whether it may delete."""
    with Stage(plain_service, 1).scene() as world:
        prune = world.pruning().until("has_locks", 2)
        assert any("sweep.running" in name for name in world.others())
        freeze_during_a_backup(world, prune)


@pytest.mark.usefixtures("asking_again")
def test_a_prune_that_another_took_for_dead_deletes_nothing_more(plain_service: sweeps.S3) -> None:
    """Not even if its heartbeat has resumed and it has read the manifests again: a backup stores again what the other
    has deleted, and its manifest comes later."""
    with Stage(plain_service, 1).scene() as world:
        frozen = world.pruning("PRUNE-A").until("has_locks", 2)
        assert any("sweep.running" in name for name in world.others())
        frozen.freeze(HOUR, suspends=True)
        world.advance(50 * MINUTE)
        world.run_well(world.pruning("PRUNE-B"))
        create = world.creating(NEEDED).until(is_manifest)
        world.advance(12 * MINUTE)
        frozen.until(is_deletion)
        world.run_well(create)
        world.run_well(frozen)
        world.expect_whole()


def test_what_a_prune_has_deleted_before_it_was_killed_is_stored_again(plain_service: sweeps.S3) -> None:
    """Its marks do not change: a backup that has waited for it checks that its blobs exist."""
    with Stage(plain_service, 1).scene() as world:
        prune = world.pruning().until(is_deletion)
        create = world.creating(NEEDED).until("page sweep.").go(1)
        assert not create.next, "it waits"
        prune.until("sweep.done").kill()
        world.run_well(create)
        world.expect_whole()


def test_an_archive_that_is_brought_back_too_late_does_not_stay(place: sweeps.S3 | None) -> None:
    """Its manifest appears after a prune has read the others, right before that deletes its blobs."""
    with Stage(place, 2).scene(("four", "two")) as world:
        name = world.archives()[-1]
        world.run_well(world.removing(name))
        world.run_well(world.pruning("quiet", last=99))
        world.advance(GRACE + HOUR)
        undelete = world.undeleting(name).until(is_manifest)
        prune = world.pruning("quiet", last=99).until(is_deletion)
        assert world.run_well(undelete).done == []
        world.run_well(prune)
        assert name not in world.archives(), world.story()


def test_what_is_in_a_list_stays_for_a_grace_period(place: sweeps.S3 | None) -> None:
    with Stage(place, 0).scene() as world:
        world.run_well(world.pruning("quiet", last=99))
        there = world.blobs()
        world.advance(GRACE - HOUR)
        world.run_well(world.pruning("quiet", last=99))
        assert world.blobs() == there, world.story()
        world.advance(2 * HOUR)
        world.run_well(world.pruning("quiet", last=99))
        assert len(world.blobs()) == 1


def test_what_was_stored_anew_since_it_was_condemned_stays(place: sweeps.S3 | None) -> None:
    """Even from a backup that was killed: the next one needs it."""
    with Stage(place, 1).scene() as world:
        world.creating(NEEDED, "killed").until(is_manifest).kill()
        world.run_well(world.pruning("quiet", last=99))
        assert len(world.blobs()) == 3, world.story()


@pytest.mark.parametrize("where", ["get_manifest", "locked", "delete_old_blobs"])
def test_a_prune_that_takes_long_reads_the_manifests_again(where: str) -> None:
    """A program that ignores lists has stored an archive since. Unneeded blobs are deleted all the same, since the
    prune was not suspended."""
    with Stage(None, 2).scene() as world:
        name = world.run_well(world.creating(NEEDED)).manifest
        world.creating(["four"], "killed").until(is_manifest).kill()
        manifest = Path(world.store, name)
        data = manifest.read_bytes()
        manifest.unlink()
        del world.done[name]
        world.advance(GRACE + HOUR)
        world.run_well(world.pruning("quiet", last=99))
        world.advance(GRACE + HOUR)
        prune = world.pruning(last=99).until("put_mark sweep.running").until(where)
        manifest.write_bytes(data)
        world.advance(HOUR)
        assert world.run_well(prune).blobs == 1
        assert world.is_whole(name), world.story()


def test_an_archive_that_is_removed_once_more_can_be_brought_back_as_long(place: sweeps.S3 | None) -> None:
    """A list from its first removal names it."""
    with Stage(place, 2).scene(("four", "two")) as world:
        name = world.archives()[-1]
        world.run_well(world.removing(name))
        world.run_well(world.pruning("quiet", last=99))
        world.advance(GRACE - HOUR)
        world.run_well(world.undeleting(name))
        world.run_well(world.removing(name))
        world.advance(2 * HOUR)
        world.run_well(world.pruning("quiet", last=99))
        world.run_well(world.undeleting(name))
        world.expect_whole()
        assert world.is_whole(name)


@pytest.mark.parametrize("suspends", [False, True])
def test_an_archive_that_is_removed_once_more_while_a_prune_is_frozen(
    place: sweeps.S3 | None, plain_service: sweeps.S3, suspends: bool
) -> None:
    """Its bytes are those of the first removed manifest, so that no condition of a service can tell them apart."""
    for where in (place, plain_service) if place else (None,):
        with Stage(where, 2).scene(("four", "two")) as world:
            name = world.archives()[-1]
            world.run_well(world.removing(name))
            world.run_well(world.pruning("quiet", last=99))
            world.advance(GRACE + HOUR)
            prune = world.pruning("quiet", last=99).until(is_expiry)
            prune.freeze(HOUR, suspends=suspends)
            assert world.run_well(world.undeleting(name)).done, world.story()
            world.run_well(world.removing(name))
            world.advance(max(0.0, prune.frozen_until - world.now))
            assert world.run_well(prune).expired == 0
            world.run_well(world.undeleting(name))
            world.expect_whole()
            assert world.is_whole(name), world.story()


def test_an_archive_that_is_brought_back_while_it_is_listed() -> None:
    """A listing shows it under neither name: one is gone before it is looked up, the other came too late."""
    with Stage(None, 2).scene(("four", "two")) as world:
        name = world.archives()[-1]
        world.run_well(world.removing(name))
        world.run_well(world.pruning("quiet", last=99))
        world.advance(GRACE - HOUR)
        world.run_well(world.undeleting(name))
        world.run_well(world.removing(name))
        world.advance(2 * HOUR)
        prune = world.pruning(fine=True, last=99)
        prune.until(lambda verb: verb.startswith("os.rename") and "sweep.running" in verb)
        prune.until(f"stat {name}.removed")
        world.run_well(world.undeleting(name))
        world.run_well(prune)
        world.expect_whole()
        assert world.is_whole(name), world.story()


# ---- several prunes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("skew", [0.0, HOUR])
def test_two_prunes_at_a_time(stage: Stage, skew: float) -> None:
    """The first one to end must not delete the heartbeat of the other."""
    for steps in stage.steps(34, 2):
        with stage.scene(("four", "two"), ("two",)) as world:
            one, other = world.pruning("PRUNE-A", skew=skew), world.pruning("PRUNE-B")
            one.go(steps)
            other.until(lambda verb: is_deletion(verb) or verb == "")
            one.go(60)
            create = world.creating(NEEDED).go(25)
            all_finish(other, create, one)
            world.expect_whole()


def test_two_prunes_announce_themselves_together(stage: Stage) -> None:
    with stage.scene(("four", "two"), ("two",)) as world:
        one, other = world.pruning("PRUNE-A"), world.pruning("PRUNE-B")
        announced = re.compile(r"put.*sweep\.running").match
        one.until(lambda verb: bool(announced(verb)))
        other.until(lambda verb: bool(announced(verb)))
        one.go(1), other.go(1)
        other.until(is_deletion)
        one.finish()
        create = world.creating(NEEDED).go(25)
        all_finish(other, create)
        world.expect_whole()


def test_a_prune_that_was_frozen_leaves_the_lists_to_the_one_that_goes_on(place: sweeps.S3 | None) -> None:
    """A list must exist while its blobs are deleted: nothing else warns a backup that begins then."""
    for steps in range(4, 40, 4):
        with Stage(place, 1).scene() as world:
            one, other = world.pruning("PRUNE-A"), world.pruning("PRUNE-B")
            one.until(is_deletion).freeze(HOUR, suspends=True)
            world.advance(HOUR / 2)
            other.until(is_deletion)
            one.thaw()
            one.go(steps)
            create = world.creating(NEEDED).go(80)
            all_finish(other, create, one)
            world.expect_whole()


@pytest.mark.parametrize("visits", [0, 1])
def test_a_backup_waits_where_a_service_ignores_conditions(plain_service: sweeps.S3, visits: int) -> None:
    """The blob that it has stored again is in the request that a prune is about to send."""
    with Stage(plain_service, visits).scene() as world:
        prune = world.pruning().until(is_deletion)
        create = world.creating(NEEDED).go(40)
        all_finish(prune, create)
        world.expect_whole()


def test_a_prune_that_freezes_where_a_service_ignores_conditions(plain_service: sweeps.S3) -> None:
    """It reads the manifests again, whatever is in the requests that it was about to send. (It may not freeze between
    its last look at the clock and a request: such a service would delete what it was told to, an hour later.)"""
    for visits in (0, 1):
        for steps in range(14, 40, 1 if SOAK else 2):
            with Stage(plain_service, visits).scene() as world:
                prune = world.pruning().go(steps)
                if prune.over:
                    break
                freeze_during_a_backup(world, prune)


def test_two_prunes_where_a_service_ignores_conditions(plain_service: sweeps.S3) -> None:
    """The first deletes a blob and ends; a backup stores it again; the second is about to delete what it listed."""
    for visits in (0, 1):
        for steps in Stage(plain_service, visits).steps(20):
            with Stage(plain_service, visits).scene() as world:
                one, other = world.pruning("PRUNE-A"), world.pruning("PRUNE-B")
                one.until(is_deletion)
                other.until(is_deletion)
                one.go(60)
                create = world.creating(NEEDED).go(steps)
                other.go(40)
                all_finish(create, other, one)
                world.expect_whole()


# ---- long runs -------------------------------------------------------------------------------------------------------


def test_a_backup_of_three_days_beside_a_daily_prune(stage: Stage) -> None:
    with stage.scene() as world:
        create = world.creating(("one", "three", "four"))
        while not create.over:
            create.go(1)
            for _ in range(2):
                world.advance(2 * HOUR)
            world.advance(4 * HOUR)
            world.run(world.pruning(last=99))
        world.expect_whole()
        world.settle()


def test_an_upload_that_is_resumed_for_days_loses_nothing(stage: Stage) -> None:
    """Only what it has stored since its last partial manifest may be lost."""
    with stage.scene() as world:
        for _ in range(3):
            create = world.creating(sweeps.CONTENTS, "resumed")
            while not is_manifest(create.until(lambda verb: verb == "file stored" or is_manifest(verb)).next):
                world.advance(11 * MINUTE)
                create.go(1)
            create.kill()
            world.advance(GRACE + HOUR)
            world.run_well(world.pruning(last=99))
        done = world.run_well(world.creating(sweeps.CONTENTS))
        assert done.blobs_new <= 2, world.story()  # the engine tells of several files at a time
        world.expect_whole()
        world.settle()


# ---- shards ----------------------------------------------------------------------------------------------------------


def shards_of(world: World) -> list[Actor]:
    return [world.creating(NEEDED, f"create {number}/2", shard=Shard(number, 2)) for number in (1, 2)]


def merge_well(world: World) -> None:
    """Merges; shards whose blobs a prune has deleted before their parts were there are named, and run again."""
    merge = world.run(world.merging(NEEDED))
    if merge.failure is not None:
        assert "lacks blobs of shard" in str(merge.failure), world.story()
        for shard in shards_of(world):
            world.run_well(shard)
        world.run_well(world.merging(NEEDED))


def test_a_prune_while_shards_run(stage: Stage) -> None:
    for steps in stage.steps(40):
        with stage.scene() as world:
            prune, (one, two) = world.pruning(), shards_of(world)
            one.go(steps)
            prune.until(is_deletion)
            two.go(10)
            all_finish(prune, one, two)
            merge_well(world)
            world.expect_whole()
            world.settle()


def test_shards_at_any_step_of_a_prune(stage: Stage) -> None:
    for steps in stage.steps(34):
        with stage.scene() as world:
            prune, (one, two) = world.pruning().go(steps), shards_of(world)
            one.go(60)
            all_finish(prune, one, two)
            merge_well(world)
            world.expect_whole()


def test_a_prune_at_any_step_of_a_merge(stage: Stage) -> None:
    for steps in stage.steps(30):
        with stage.scene() as world:
            for shard in shards_of(world):
                world.run_well(shard)
            merge, prune = world.merging(NEEDED).go(steps), world.pruning()
            over = merge.over
            prune.go(40)
            all_finish(prune, merge)
            assert merge.failure is None, world.story()
            world.expect_whole()
            world.settle()
            if over:
                break


def test_a_merge_at_any_step_of_a_prune(stage: Stage) -> None:
    for steps in stage.steps(34):
        with stage.scene() as world:
            for shard in shards_of(world):
                world.run_well(shard)
            prune, merge = world.pruning().go(steps), world.merging(NEEDED)
            over = prune.over
            merge.go(60)
            all_finish(prune, merge)
            assert merge.failure is None, world.story()
            world.expect_whole()
            if over:
                break


def test_shards_that_take_days_beside_a_daily_prune(stage: Stage) -> None:
    with stage.scene() as world:
        for shard in shards_of(world):
            world.run_well(shard)
            for _ in range(2):
                world.advance(GRACE + HOUR)
                world.run_well(world.pruning(last=99))
        world.run_well(world.merging(NEEDED))
        world.expect_whole()
        world.settle()


def test_parts_that_prunes_have_forgotten_are_not_merged(stage: Stage) -> None:
    with stage.scene() as world:
        one, two = shards_of(world)
        world.run_well(one)
        world.advance(6 * DAY + HOUR)
        world.run_well(two)
        merge = world.run(world.merging(NEEDED))
        assert "shard 1 too old" in str(merge.failure), world.story()
        for _ in range(4):
            world.advance(GRACE + HOUR)
            world.run_well(world.pruning(last=99))
        merge = world.run(world.merging(NEEDED))
        assert "shard 1 not there" in str(merge.failure), world.story()
        world.expect_whole()


# ---- others that write -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("days", [0, 30])
def test_undelete_at_any_step_of_a_prune(stage: Stage, days: float) -> None:
    for steps in stage.steps(34, 2):
        with stage.scene(("four", "one"), ("two",)) as world:
            name = world.archives()[1]
            world.run_well(world.pruning())
            world.advance(days * DAY)
            prune, undelete = world.pruning().go(steps), world.undeleting(name)
            over = prune.over
            undelete.go(25)
            all_finish(prune, undelete)
            world.expect_whole()
            if over:
                break


@pytest.mark.parametrize("days", [0, 30])
def test_a_prune_at_any_step_of_undelete(stage: Stage, days: float) -> None:
    for steps in stage.steps(14, 1):
        with stage.scene(("four", "one"), ("two",)) as world:
            name = world.archives()[1]
            world.run_well(world.pruning())
            world.advance(days * DAY)
            prune, undelete = world.pruning(), world.undeleting(name).go(steps)
            over = undelete.over
            all_finish(prune, undelete)
            world.expect_whole()
            assert name in world.archives() or f"{name}.removed" in world.others() or days
            if over:
                break


def test_two_undeletes_at_a_time(stage: Stage) -> None:
    for steps in range(5, 9) if stage.service else range(16):
        with stage.scene(("four", "one"), ("two",)) as world:
            name = world.archives()[1]
            world.run_well(world.pruning())
            one, other = world.undeleting(name, "undelete A").go(steps), world.undeleting(name, "undelete B")
            over = one.over
            other.go(steps // 2)
            all_finish(one, other)
            world.expect_whole()
            assert name in world.archives(), world.story()
            if over:
                break


def test_copy_at_any_step_of_a_prune(stage: Stage) -> None:
    for steps in stage.steps(34, 2):
        with stage.scene() as world:
            source = world.make_source()
            prune, copy = world.pruning().go(steps), world.copying(source)
            over = prune.over
            copy.go(40)
            all_finish(prune, copy)
            world.expect_whole()
            if over:
                break


def test_a_cache_that_trusts_what_was_pruned_elsewhere(stage: Stage) -> None:
    with stage.scene() as world:
        world.run_well(world.creating(["four"], cache="cache"))
        world.run_well(world.creating(["two"]))
        for _ in range(4):
            world.run_well(world.pruning())
            world.advance(GRACE + HOUR)
        done = world.run_well(world.creating(["four"], cache="cache"))
        assert done.blobs_new == 1
        world.expect_whole()
        world.settle()


def test_quiet_prunes_leave_nothing_behind(stage: Stage) -> None:
    with stage.scene() as world:
        world.settle()
        assert len(world.blobs()) == 1


# ---- any schedule ----------------------------------------------------------------------------------------------------

subsets = st.lists(st.sampled_from(sweeps.CONTENTS), min_size=1, max_size=4, unique=True)
skews = st.sampled_from([0.0, 0.0, HOUR, -HOUR])
policies = st.sampled_from([{"last": 1}, {"last": 1}, {"last": 2}, {"daily": 1}, {"within": Span(days=1)}])
fine = st.sampled_from([False, False, False, True])
creates = st.tuples(st.sampled_from(["create", "create", "create by pog"]), subsets, skews, fine)
prunes = st.tuples(st.just("prune"), policies, skews, fine)
others = st.tuples(st.sampled_from(["undelete", "copy", "remove", "rewrite"]), st.none(), skews, fine)
casts = st.tuples(creates, prunes, st.lists(creates | prunes | others, min_size=1, max_size=3))
numbers = st.integers(0, 4)
times = st.sampled_from([MINUTE, HOUR, 30 * HOUR, 8 * DAY])
moves = (
    st.tuples(st.just("go"), numbers, st.sampled_from([1, 1, 2, 3, 5, 8, 40]))
    | st.tuples(st.just("go"), numbers, st.sampled_from([2, 60]))
    | st.tuples(st.just("until"), numbers, st.sampled_from([is_change, is_deletion, is_manifest]))
    | st.tuples(st.just("until"), numbers, st.sampled_from([is_change, is_deletion, is_manifest]))
    | st.tuples(st.sampled_from(["pass", "stop", "suspend"]), numbers, times)
    | st.tuples(st.just("kill"), numbers, st.none())
)


@dataclass
class Schedule:
    """A random schedule: the content of the store, the actors, and their steps."""

    before: list[list[str]]
    visits: int
    cast: list[tuple[str, Any, float, bool]]
    moves: list[tuple[str, int, Any]]

    def perform(self, service: sweeps.S3 | None, *, packed: bool = False) -> World:
        """Raises AssertionError for anything that is lost, or does not end well."""
        with Stage(service, self.visits, packed=packed).scene(*self.before) as world:
            source = world.make_source() if any(kind == "copy" for kind, *_ in self.cast) else ""
            actors = [self._actor(world, number, source, *one) for number, one in enumerate(self.cast)]
            for move, number, amount in self.moves:
                self._move(world, actors[number % len(actors)], move, amount)
                world.lost()
            self._end(world, actors)
            return world

    @staticmethod
    def _actor(world: World, number: int, source: str, kind: str, what: Any, skew: float, fine: bool) -> Actor:
        more = {"label": f"{kind} {number}", "skew": skew, "fine": fine}
        if kind.startswith("create"):
            return (world.pogging if kind == "create by pog" else world.creating)(what, **more)
        if kind == "prune":
            return world.pruning(**more, **what)
        if kind == "undelete":
            return world.undeleting(**more)
        if kind == "copy":
            return world.copying(source, **more)
        return (world.rewriting if kind == "rewrite" else world.removing)(world.archives()[0], **more)

    @staticmethod
    def _move(world: World, actor: Actor, move: str, amount: Any) -> None:
        if move == "go":
            actor.go(amount)
        elif move == "until":
            actor.go(1).go_until(amount, 60)
        elif move == "pass":
            world.advance(amount)
        elif move == "kill":
            actor.kill()
        else:
            actor.begin().freeze(amount, suspends=move == "suspend")

    @staticmethod
    def _end(world: World, actors: list[Actor]) -> None:
        for _ in range(300):
            for actor in actors:
                if actor.is_frozen:
                    world.advance(max(actor.frozen_until - world.now, 0.0))
                actor.go(40)
                world.lost()
            if all(actor.over for actor in actors):
                break
        all_finish(*actors)
        world.expect_whole()
        world.settle()


schedules = st.builds(
    Schedule,
    before=st.lists(subsets, max_size=2),
    visits=st.integers(0, 2),
    cast=casts.map(lambda cast: [*cast[:2], *cast[2]]),
    moves=st.lists(moves, min_size=12, max_size=40),
)


@settings(max_examples=SCHEDULES, database=None)
@given(schedule=schedules)
def test_no_schedule_loses_a_blob_in_a_directory(schedule: Schedule) -> None:
    schedule.perform(None)


@settings(max_examples=SCHEDULES // 16, database=None)
@given(schedule=schedules)
def test_no_schedule_loses_a_blob_in_s3(service: sweeps.S3, schedule: Schedule) -> None:
    schedule.perform(service)


@settings(max_examples=SCHEDULES, database=None)
@given(schedule=schedules)
def test_no_schedule_loses_a_blob_in_a_directory_with_packs(schedule: Schedule) -> None:
    schedule.perform(None, packed=True)


@settings(max_examples=SCHEDULES // 16, database=None)
@given(schedule=schedules)
def test_no_schedule_loses_a_blob_in_s3_with_packs(service: sweeps.S3, schedule: Schedule) -> None:
    schedule.perform(service, packed=True)

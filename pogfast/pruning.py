"""Removes archives that a policy does not keep, and the blobs that no archive needs any more.

An archive that is removed lies in the store as NAME.mfn.removed for a grace period, and its blobs with it: `undelete`
brings it back. Then mark and sweep: what no manifest names and is older than the grace period is deleted. A sweep
announces itself in the store before it reads the manifests, and a backup looks for that before and after it stores its
own (stores/targets.py): whichever comes first, the other sees it. A manifest that cannot be read stops everything.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from pogfast import manifest
from pogfast.archive import ArchiveInfo, Filter, Record, archives, manifests_of, some_of, time_of
from pogfast.errors import MissingBlob, NoArchives, NoSuchArchive, PogfastError, StoreError, UsageError, WrongKey
from pogfast.keys import Key
from pogfast.retention import Dated, Judged, Policy, is_future, judge, keeps_nothing
from pogfast.stores import REMOVED, SWEEPING, SWEPT, Store, Stored, open_store
from pogfast.stores.targets import STALE, await_no_sweep, publish

GRACE = 24 * 3600.0  # seconds
GROUPS = ("host", "paths", "tags")
BATCH = 10_000  # blobs that are deleted before it is said again that they are


@dataclass(slots=True)
class Choice(Record):
    """What becomes of an archive. `reasons`: why it is kept; none: it goes."""

    name: str
    time: datetime | None
    host: str
    tags: list[str]
    paths: list[str]
    group: str
    reasons: list[str]


@dataclass
class Summary:
    """What was done, or would be (`dry_run`). Sizes are bytes."""

    dry_run: bool = True
    choices: list[Choice] = field(default_factory=list)
    kept: int = 0
    removed: int = 0  # archives that go now; they can be brought back for a while
    expired: int = 0  # archives that went earlier and cannot be brought back any more
    blobs: int = 0  # that are deleted
    size: int = 0  # of these
    waiting: int = 0  # blobs that nothing needs, but are too young, or wait for an archive's grace period
    waiting_size: int = 0
    locked: int = 0  # blobs that nothing needs, and nobody can delete yet


def prune(
    store: str,
    key: Key,
    policy: Policy,
    *,
    group_by: Collection[str] = ("host", "paths"),
    host: str | None = None,
    tags: Collection[str] = (),
    path: str | None = None,
    allow_empty: bool = False,
    grace: float = GRACE,
    dry_run: bool = True,
    warn: Callable[[str], None] = lambda text: None,
) -> Summary:
    """Applies a policy to the archives that `host`, `tags` and `path` choose (none: all), by groups, and sweeps; `warn`
    hears what is waited for, and which archives are dated in the future.

    With a public key alone all archives are one group, by the times in their names. Raises UsageError for an empty
    policy and, unless `allow_empty`, for one that keeps nothing of a group; NoSuchArchive, NoArchives, StoreError, and
    what a manifest raises that cannot be read.
    """
    if policy.is_empty:
        hint = "give --keep-last N, --keep-daily N, ... or --keep-all"
        raise UsageError("nothing says which archives are kept", hint=hint)
    wanted = Filter.of(host, tags, path)
    if not key.can_open and (wanted != Filter() or policy.tags):
        raise WrongKey("an encryption key alone cannot tell hosts, tags and paths", hint="use --decryption-keyfile")
    opened = open_store(store)
    try:
        run = _Prune(opened, key, grace, dry_run, warn)
        return run.run(policy, group_by if key.can_open else (), wanted, allow_empty)
    finally:
        opened.close()


class _Prune:
    """One run over a store."""

    def __init__(
        self,
        store: Store,
        key: Key,
        grace: float,
        dry_run: bool,
        warn: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.store = store
        self.warn = warn
        self.key = key
        self.grace = grace
        self.summary = Summary(dry_run)
        self.announcement = ""
        self.said = 0.0
        self.deleted: list[str] = []

    def run(self, policy: Policy, group_by: Collection[str], wanted: Filter, allow_empty: bool = False) -> Summary:
        self.carry_out(self._choose(policy, group_by, wanted, allow_empty))
        return self.summary

    def spare_locked(self, going: Sequence[str]) -> dict[str, str]:
        """Why those of some archives are kept that nobody can delete yet: {name: reason}. Raises StoreError."""
        return {name: _locked_until(until) for name, until in self.store.locked(going).items()}

    def carry_out(self, going: Sequence[str]) -> None:
        """Removes archives, and what nothing needs. Raises StoreError."""
        if self.summary.dry_run:
            self._sweep(going, datetime.now(UTC).timestamp())
            return
        with self._announced() as now:
            for name in going:
                remove(self.store, name)
            self._sweep([], now)

    # ---- which archives ----

    def _choose(self, policy: Policy, group_by: Collection[str], wanted: Filter, allow_empty: bool) -> list[str]:
        """Names of the manifests that go. Raises UsageError if a group would lose all, unless `allow_empty`."""
        infos = archives(self.store, self.key)
        for info in infos:
            if info.problem:
                error = PogfastError(
                    f"nothing was removed: {info.problem}",
                    hint="what it needs is not known; prune with the key of all archives, or move it away",
                )
                error.exit_code = info.code
                raise error
        meant = [info for info in infos if _fits(info, wanted)]
        groups: dict[str, list[ArchiveInfo]] = defaultdict(list)
        for info in meant:
            groups[_group(info, group_by)].append(info)
        now = datetime.now(UTC)
        by_group = {group: judge(members, policy, now) for group, members in sorted(groups.items())}
        judged = [(one, group) for group, members in by_group.items() for one in members]
        self._tell_future([one.archive for one, _ in judged if one.of_future])
        emptied = [group for group, members in by_group.items() if keeps_nothing(members)]
        if emptied and not allow_empty:
            raise UsageError(
                f"that would remove every archive of {emptied[0] or 'the store'}: nothing was removed",
                hint="keep at least one: --keep-last 1; --allow-empty removes them all the same",
            )
        locked = self.spare_locked([one.archive.name for one, _ in judged if not one.reasons])
        going = []
        for one, group in judged:
            if one.archive.name in locked:
                one.reasons.append(locked[one.archive.name])
            self.summary.choices.append(_choice(one, group))
            if not one.reasons:
                going.append(one.archive.name)
        self.summary.removed, self.summary.kept = len(going), len(infos) - len(going)
        return going

    def _tell_future(self, ahead: Sequence[Dated]) -> None:
        if ahead:
            names = some_of([f"{archive.name} ({archive.time:%Y-%m-%d})" for archive in ahead])
            self.warn(
                f"dated in the future, so kept and counted by no rule: {names}; a clock was wrong, or somebody forged "
                "them: `pogfast remove` removes single archives"
            )

    # ---- mark and sweep ----

    @contextlib.contextmanager
    def _announced(self) -> Iterator[float]:
        """Says in the store that blobs are being deleted. The time by the store's own clock."""
        await_no_sweep(self.store, self.warn)
        own = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{os.urandom(4).hex()}"
        self.announcement = SWEEPING + own
        self._say_again()
        old: list[str] = []
        try:
            times = {mark.name: mark.modified for mark in self.store.marks() if mark.name.startswith((SWEPT, SWEEPING))}
            now = times.pop(self.announcement, None)
            if now is None:
                raise StoreError(f"what was written to {self.store.label} does not show there: nothing was deleted")
            old = [name for name, modified in times.items() if name.startswith(SWEPT) or now - modified > STALE]
            yield now
        finally:
            self.store.put_manifest(SWEPT + own, b"")
            self.store.delete_manifests([*old, self.announcement])  # nobody's who runs as well
            self.announcement = ""

    def _say_again(self) -> None:
        """That blobs are being deleted: who does not hear it for long thinks that this run was killed."""
        if self.announcement and time.monotonic() - self.said > STALE / 10:
            self.store.put_manifest(self.announcement, b"")
            self.said = time.monotonic()

    def _sweep(self, going: Sequence[str], now: float) -> None:
        """Deletes the blobs that nothing needs. `going`: manifests that are still there, and are not to count."""
        live = {stored.name for stored in self.store.manifests()}  # first: what another prune removes now is in either
        expired = [mark for mark in self._removed() if mark.modified <= now - self.grace]
        young = [mark.name for mark in self._removed() if mark not in expired]
        needed = self._named(live - set(going))
        waiting = self._named([*young, *(going if self.grace else ())]) - needed
        orphans = [blob for blob in self.store.blob_names() if blob.name not in needed]
        late = {stored.name for stored in self.store.manifests()} - live  # just before anything is deleted
        needed = self._named(late)
        gone = []
        for blob in orphans:
            if blob.name in needed:
                continue
            if blob.name in waiting or blob.modified > now - self.grace:
                self.summary.waiting += 1
                self.summary.waiting_size += blob.size
            else:
                gone.append(blob)
        if gone and not live:  # manifests that are not where they belong would name these
            raise NoArchives(
                f"{self.store.label} has no archive but removed ones: nothing was deleted",
                hint="`pogfast undelete` brings them back; if nothing here is needed, delete the store itself",
            )
        locked = self.store.locked(blob.name for blob in gone)
        self.summary.locked = len(locked)
        gone = [blob for blob in gone if blob.name not in locked]
        self.summary.blobs, self.summary.size = len(gone), sum(blob.size for blob in gone)
        self.summary.expired = len(expired)
        self.deleted = [blob.name for blob in gone]
        if not self.summary.dry_run:
            for start in range(0, len(gone), BATCH):
                self._say_again()
                self.store.delete_blobs(blob.name for blob in gone[start : start + BATCH])
            self.store.delete_manifests(mark.name for mark in expired)

    def _removed(self) -> list[Stored]:
        return [mark for mark in self.store.marks() if mark.name.endswith(REMOVED)]

    def _named(self, manifests: Collection[str]) -> set[str]:
        """The blobs that these name. Raises what one raises that cannot be read."""
        names: set[str] = set()
        for name in manifests:
            self._say_again()
            names.update(manifest.blob_names(self.store.get_manifest(name), self.key, name))
        return names


# ---- pog-cleanup -----------------------------------------------------------------------------------------------------

# An archive is obsolete when more than this share of its and a newer one's blobs is in both. pogcli's number.
SIMILAR = 0.9


@dataclass
class Cleaned:
    """`similar`: (older, newer, share of their blobs that is in both); what stays and what goes, and what was kept for
    the grace period."""

    similar: list[tuple[str, str, float]] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    obsolete: list[str] = field(default_factory=list)
    needed: int = 0  # blobs
    deleted: list[str] = field(default_factory=list)
    waiting: int = 0  # blobs


def clean_up(store: Store, key: Key, *, grace: float = GRACE, dry_run: bool = True) -> Cleaned:
    """pog-cleanup: archives go that a newer one is very similar to, and the blobs that no other needs.

    With the same care as `prune`: what goes can be brought back for the grace period. Raises NoSuchArchive,
    NoArchives, StoreError, and what a manifest raises that cannot be read.
    """
    run = _Prune(store, key, grace, dry_run)
    blobs = {stored.name: run._named([stored.name]) for stored in manifests_of(store)}
    cleaned = Cleaned()
    names = sorted(blobs)
    now = datetime.now(UTC)
    present = [name for name in names if not is_future(time_of({}, name), now)]
    for index, older in enumerate(present):
        for newer in present[index + 1 :]:
            either = blobs[older] | blobs[newer]
            share = len(blobs[older] & blobs[newer]) / len(either) if either else 1.0
            cleaned.similar.append((older, newer, share))
    obsolete = [name for name in names if any(one[0] == name and one[2] > SIMILAR for one in cleaned.similar)]
    locked = run.spare_locked(obsolete)
    cleaned.obsolete = [name for name in obsolete if name not in locked]
    cleaned.kept = [name for name in names if name not in cleaned.obsolete]
    cleaned.needed = len(set().union(*(blobs[name] for name in cleaned.kept)))
    run.carry_out(cleaned.obsolete)
    cleaned.deleted, cleaned.waiting = run.deleted, run.summary.waiting
    return cleaned


def remove(store: Store, name: str) -> None:
    """Takes an archive away; for the grace period it can be brought back. Raises StoreError."""
    store.put_manifest(name + REMOVED, store.get_manifest(name))
    store.delete_manifests([name])


def remove_all(store: Store, names: Collection[str], tell: Callable[[str], None] = lambda text: None) -> None:
    """Removes archives by their manifests' names when no blobs are being deleted; `tell` hears what is waited for.
    Raises StoreError."""
    if names:
        await_no_sweep(store, tell)
    for name in names:
        remove(store, name)


# ---- the way back ----------------------------------------------------------------------------------------------------


@dataclass
class Undeleted:
    """`there`: names of the removed archives that were found; `done`: of those brought back."""

    there: list[Stored] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    problems: list[PogfastError] = field(default_factory=list)


def undelete(
    store: str, key: Key, names: Collection[str], *, everything: bool = False, tell: Callable[[PogfastError], None]
) -> Undeleted:
    """Brings removed archives back, those of `names` or all; neither: only says which there are. One that misses blobs
    stays removed, and `tell` hears of it. Raises NoSuchArchive and StoreError."""
    opened = open_store(store)
    try:
        found = Undeleted([mark for mark in opened.marks() if mark.name.endswith(REMOVED)])
        if not found.there:
            manifests_of(opened)
        there = {mark.name.removesuffix(REMOVED) for mark in found.there}
        for name in sorted(there if everything else names):
            try:
                if name not in there:
                    raise NoSuchArchive(f"no removed archive {name} in {opened.label}")
                _bring_back(opened, key, name)
                found.done.append(name)
            except (NoSuchArchive, MissingBlob) as error:
                found.problems.append(error)
                tell(error)
        return found
    finally:
        opened.close()


def _bring_back(store: Store, key: Key, name: str) -> None:
    data = store.get_manifest(name + REMOVED)
    blobs = set(manifest.blob_names(data, key, name))
    lost = store.missing(blobs)
    if lost:
        raise MissingBlob(f"{name}: {len(lost)} of its {len(blobs)} blobs are gone: it cannot be brought back")
    publish(store, name, data, lambda: blobs, frozenset({"never looked"}))
    store.delete_manifests([name + REMOVED])


# ---- words -----------------------------------------------------------------------------------------------------------


def _fits(info: ArchiveInfo, wanted: Filter) -> bool:
    return wanted.fits({"host": info.host, "tags": info.tags, "paths": info.paths})


def _group(info: ArchiveInfo, by: Collection[str]) -> str:
    words = {"host": info.host, "paths": " ".join(sorted(info.paths)), "tags": " ".join(sorted(info.tags))}
    return ", ".join(f"{word} {words[word] or '-'}" for word in GROUPS if word in by)


def _locked_until(until: float) -> str:
    return "locked" if until == math.inf else f"locked until {datetime.fromtimestamp(until, UTC):%Y-%m-%d %H:%M} UTC"


def _choice(one: Judged, group: str) -> Choice:
    info = one.archive
    assert isinstance(info, ArchiveInfo)
    return Choice(info.name, info.time, info.host, info.tags, info.paths, group, one.reasons)

"""`pogfast prune` and `undelete`: removes archives that a policy does not keep, and the blobs that no archive needs.

A removed archive stays in the store as NAME.mfn.removed for a grace period, with its blobs, so that `undelete` can
restore it. sweeping.py deletes the blobs, while backups may run. A manifest that cannot be read stops the prune, and so
does an archive that is kept and lacks a blob.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from pogfast import manifest
from pogfast.archives.manifests import locked_until, manifests_of
from pogfast.archives.overview import ArchiveInfo, Described, archives_for_prune
from pogfast.archives.refusals import hint_for_prune, require_decryption, some_of
from pogfast.archives.trailer import Filter
from pogfast.errors import Exists, MissingBlob, NoSuchArchive, PogfastError, UsageError
from pogfast.keys import Key
from pogfast.sizes import Share
from pogfast.stores import REMOVED, Stored, open_store
from pogfast.stores.fetching import fetched_manifest
from pogfast.stores.protocols import Repacked, Store
from pogfast.stores.reliance import publish_while
from pogfast.upkeep.retention import Dated, Decision, Policy, judge, keeps_nothing
from pogfast.upkeep.sweeping import MAX_UNUSED, Sweep

GRACE = 24 * 3600.0  # seconds
GROUPS = ("host", "paths", "tags")
# What a summary tells of the deletion.
SWEPT = (
    *("expired", "blobs", "size", "waiting", "waiting_size", "locked"),
    *("packs", "waiting_packs", "locked_packs", "repacked", "until", "problems"),
)


@dataclass(slots=True)
class Choice(Described):
    """What happens to an archive. `reasons` say why it is kept; without a reason it is removed."""

    group: str
    reasons: list[str]


@dataclass
class Summary:
    """What was done, or in a dry run would be done. Sizes are bytes."""

    dry_run: bool = True
    choices: list[Choice] = field(default_factory=list)
    kept: int = 0
    removed: int = 0  # archives that are removed now; undelete can restore them for a while
    expired: int = 0  # archives that were removed earlier, and that undelete can no longer restore
    blobs: int = 0  # that are deleted
    size: int = 0  # of these
    waiting: int = 0  # unneeded blobs that stay for a grace period
    waiting_size: int = 0
    locked: int = 0  # unneeded blobs that nobody can delete yet
    packs: int = 0  # that are deleted; the numbers of blobs count the unneeded ones in packs, too
    waiting_packs: int = 0
    locked_packs: int = 0
    repacked: Repacked = field(default_factory=Repacked)
    until: float = 0.0  # seconds since 1970: the first prune after that deletes what waits
    problems: list[PogfastError] = field(default_factory=list)  # damaged blobs, for example, whose packs stay


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
    allow_missing: bool = False,
    grace: float = GRACE,
    max_unused: Share = MAX_UNUSED,
    max_repack: Share | None = None,
    dry_run: bool = True,
    warn: Callable[[str], None] = lambda text: None,
) -> Summary:
    """Applies a policy to the archives that `host`, `tags` and `path` select (none: all), group by group. Blobs that no
    archive needs are put into a list, and a prune that runs `grace` seconds later deletes them (0: this one).
    Calls `warn` for archives dated in the future, and for what is not safe. In packs with needed blobs at most
    `max_unused` stays of unneeded ones, as far as no more than `max_repack` has to be stored again for that (None: 10 %
    of the store, but at least 128 MiB).

    With a public key alone, which tells neither hosts nor paths, `group_by` must be empty unless all archives are kept,
    and archives are ordered by the times in their names; else raises WrongKey. Raises UsageError for an empty policy
    and, unless `allow_empty`, for one that keeps no archive of a group; MissingBlob if an archive that is kept lacks a
    blob, unless `allow_missing`; NoSuchArchive, NoArchives, StoreError, and what a manifest raises that cannot be read.
    """
    if policy.is_empty:
        hint = "give --keep-last N, --keep-daily N, ... or --keep-all"
        raise UsageError("no policy says which archives to keep", hint=hint)
    wanted = Filter.of(host, tags, path)
    wanted.require(key)
    if policy.tags:
        require_decryption(key, "tell tags: --keep-tag keeps none")
    if group_by and not policy.everything:
        hint = "use --decryption-keyfile, or --group-by '' to take all archives for one group"
        require_decryption(key, f"tell {' and '.join(group_by)}, by which archives are grouped", hint)
    opened = open_store(store)
    try:
        sweep = Sweep(
            opened,
            key,
            grace,
            dry_run=dry_run,
            allow_missing=allow_missing,
            max_unused=max_unused,
            max_repack=max_repack,
            warn=warn,
        )
        return _Prune(sweep).run(policy, group_by, wanted, allow_empty)
    finally:
        opened.close()


class _Prune:
    """One prune of a store."""

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep
        self.store = sweep.store
        self.key = sweep.key
        self.warn = sweep.warn
        self.summary = Summary(sweep.dry_run)

    def run(self, policy: Policy, group_by: Collection[str], wanted: Filter, allow_empty: bool) -> Summary:
        swept = self.sweep.run(self._choose(policy, group_by, wanted, allow_empty))
        for one in SWEPT:
            setattr(self.summary, one, getattr(swept, one))
        return self.summary

    # ---- which archives ----

    def _choose(self, policy: Policy, group_by: Collection[str], wanted: Filter, allow_empty: bool) -> list[str]:
        """Returns the manifests' names of the archives to remove. Raises UsageError if a group would lose all its
        archives, unless `allow_empty`."""
        infos = archives_for_prune(self.store, self.sweep.catalog)
        for info in infos:
            if info.error:
                hint = hint_for_prune(info.name, info.error)
                raise type(info.error)(f"nothing was removed: {info.error}", hint=hint)
        meant = [info for info in infos if info.fits(wanted)]
        if infos and not meant:
            hint = f"`pogfast list {self.store.path}` lists the archives"
            raise NoSuchArchive(f"no archive {wanted} in {self.store.label}: nothing was removed", hint)
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
                hint="keep at least one: --keep-last 1; --allow-empty removes them anyway",
            )
        locked = spared(self.store, [one.archive.name for one, _ in judged if not one.reasons])
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


def spared(store: Store, going: Sequence[str]) -> dict[str, str]:
    """Returns {name: reason} of those archives that nobody can delete yet. Raises StoreError."""
    return {name: locked_until(until) for name, until in store.locked(going).items()}


# ---- undelete --------------------------------------------------------------------------------------------------------


@dataclass
class Undeleted:
    """`there` are the removed archives that were found; `done` the names of those that were restored."""

    there: list[Stored] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    problems: list[PogfastError] = field(default_factory=list)


def undelete(
    store: str, key: Key, names: Collection[str], *, everything: bool = False, tell: Callable[[PogfastError], None]
) -> Undeleted:
    """Restores removed archives, those of `names` or all; without either only lists them. An archive that lacks blobs
    stays removed, and is reported to `tell`. Raises NoSuchArchive and StoreError."""
    opened = open_store(store)
    try:
        live = {stored.name for stored in opened.manifests()}
        removed = [mark for mark in opened.marks() if mark.name.endswith(REMOVED)]
        found = Undeleted([mark for mark in removed if mark.name.removesuffix(REMOVED) not in live])
        if not found.there:
            manifests_of(opened)
        there = {mark.name.removesuffix(REMOVED): mark for mark in found.there}
        for name in sorted(set(there if everything else names)):
            try:
                if name not in there:
                    raise NoSuchArchive(f"no removed archive {name} in {opened.label}")
                _bring_back(opened, key, there[name])
                found.done.append(name)
            except (NoSuchArchive, MissingBlob, Exists) as error:
                found.problems.append(error)
                tell(error)
        return found
    finally:
        opened.close()


def _bring_back(store: Store, key: Key, removed: Stored) -> None:
    name = removed.name.removesuffix(REMOVED)
    data, blobs = fetched_manifest(store, removed.name, lambda data: (data, set(manifest.blob_names(data, key, name))))
    lost = store.missing(blobs)
    if lost:
        raise MissingBlob(f"{name}: {len(lost)} of its {len(blobs)} blobs are gone: it cannot be restored")
    # A prune deletes expired removed manifests before it reads the others: if this one still exists, it will read ours.
    publish_while(store, name, data, {name + REMOVED})
    store.forget_removed(removed)


# ---- groups ----------------------------------------------------------------------------------------------------------


def _group(info: ArchiveInfo, by: Collection[str]) -> str:
    words = {"host": info.host, "paths": " ".join(sorted(info.paths)), "tags": " ".join(sorted(info.tags))}
    return ", ".join(f"{word} {words[word] or '-'}" for word in GROUPS if word in by)


def _choice(one: Decision, group: str) -> Choice:
    info = one.archive
    assert isinstance(info, ArchiveInfo)
    return Choice(info.name, info.time, info.host, info.tags, info.paths, group, one.reasons)

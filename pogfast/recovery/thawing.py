"""Requests blobs in cold storage that a restore needs, and only those.

A dry run of the restore finds which: files that are already there need no blob. Requests cost money and take hours, so
nothing is requested twice; once every blob is readable the restore can begin.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, cast, get_args

from pogfast.archives.archive import Archive
from pogfast.archives.lookup import open_archive
from pogfast.errors import PogfastError, UsageError
from pogfast.keys import Key
from pogfast.recovery import Options, Silent, restore_archive
from pogfast.stores.protocols import HasPacks, PackShare, Store, ThawState

if TYPE_CHECKING:
    from pogfast.recovery.batches import Outcome

Tier = Literal["standard", "bulk", "expedited"]
# How long retrieval takes according to Amazon, by tier.
TAKES = {
    "standard": "3 to 5 hours from GLACIER, 12 hours from DEEP_ARCHIVE",
    "bulk": "5 to 12 hours from GLACIER, 48 hours from DEEP_ARCHIVE",
    "expedited": "5 minutes from GLACIER (DEEP_ARCHIVE has no expedited retrieval)",
}
MAX_DAYS = 36500  # a century, the limit of all time spans


@dataclass
class Summary:
    """Counts of what the restore needs, by state: blobs, and packs instead of the blobs in them."""

    readable: int = 0
    asked: int = 0  # requested now
    coming: int = 0  # requested earlier
    missing: int = 0
    packs: int = 0  # of those that are not readable yet
    pack_bytes: int = 0  # of these packs
    needed_bytes: int = 0  # of the blobs in them that the restore needs
    problems: list[PogfastError] = field(default_factory=list)

    @property
    def waiting(self) -> int:
        return self.asked + self.coming

    def add(self, state: ThawState, share: PackShare | None) -> None:
        """Counts a blob, or a pack with its share."""
        setattr(self, state, getattr(self, state) + 1)
        if share and state in ("asked", "coming"):
            self.packs += 1
            self.pack_bytes += share.size
            self.needed_bytes += share.wanted


@dataclass
class Cold:
    """What a restore needs of cold storage: blobs, and packs, which thaw whole. Sizes are bytes."""

    objects: int = 0
    size: int = 0


class _Wanted(Silent):
    """Collects the blobs of the files that a dry run would restore."""

    def __init__(self, archive: Archive) -> None:
        self.archive = archive
        self.blobs: dict[str, None] = {}
        self.problems: list[PogfastError] = []

    def entry(self, name: str, outcome: Outcome, size: int) -> None:
        if outcome == "restored" and name in self.archive.entries:
            self.blobs.update(dict.fromkeys(self.archive.entries[name].blobs))

    def problem(self, error: PogfastError) -> None:
        self.problems.append(error)


def cold(archive: str, key: Key, into: str, *, names: Collection[str] = (), options: Options | None = None) -> Cold:
    """Returns what `recovery.restore` with the same arguments would need of cold storage. Requests nothing.

    What has been thawed is counted as well, since a listing does not tell. Raises as `restore` does.
    """
    with open_archive(archive, key) as opened:
        wanted = _wanted(opened, key, into, names, options)
        store = cast(Store, opened.store)
        packs = store.packs_with(wanted.blobs) if isinstance(store, HasPacks) else {}
        found = Cold()
        for holder in store.holders():
            if holder.is_cold and (holder.name in wanted.blobs or holder.name in packs):
                found.objects += 1
                found.size += holder.size
        return found


def _wanted(opened: Archive, key: Key, into: str, names: Collection[str], options: Options | None) -> _Wanted:
    wanted = _Wanted(opened)
    dry = Options(**{**vars(options or Options()), "dry_run": True})
    restore_archive(opened, opened.store.source, key, into, names=names, report=wanted, options=dry)
    return wanted


def thaw(
    archive: str,
    key: Key,
    into: str,
    *,
    tier: Tier = "standard",
    days: int = 7,
    names: Collection[str] = (),
    host: str | None = None,
    tags: Collection[str] = (),
    path: str | None = None,
    options: Options | None = None,
    tell: Callable[[int], None] = lambda done: None,
) -> Summary:
    """Requests the blobs that `recovery.restore` with the same arguments would read, to be readable for `days` days.

    `tell` is called with the number of blobs that have been looked at. Raises as `restore` does, and UsageError if the
    store has no cold storage.
    """
    if tier not in get_args(Tier):
        raise UsageError(f"not a retrieval tier: {tier}", hint=", ".join(get_args(Tier)))
    if not 1 <= days <= MAX_DAYS:
        raise UsageError(f"days must be 1 to {MAX_DAYS}, not {days}")
    with open_archive(archive, key, host=host, tags=tags, path=path) as opened:
        wanted = _wanted(opened, key, into, names, options)
        store = cast(Store, opened.store)  # never mirrors, since no `stores` were given
        summary = Summary(problems=wanted.problems)
        packs = store.packs_with(wanted.blobs) if isinstance(store, HasPacks) else {}
        for number, (name, state) in enumerate(store.thaw(wanted.blobs, tier, days), 1):
            summary.add(state, packs.get(name))
            tell(number)
    return summary

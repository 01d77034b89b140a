"""`pog-cleanup`: removes archives that are very similar to a newer one, and the blobs that only they need.

Deletes blobs by the code of `pogfast prune`, with the same grace period.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from pogfast.archives.manifests import manifests_of, needed_blobs
from pogfast.archives.trailer import Trailer, time_of
from pogfast.keys import Key
from pogfast.stores.protocols import Store
from pogfast.system.clock import is_future
from pogfast.upkeep.pruning import GRACE, spared
from pogfast.upkeep.sweeping import Sweep, Swept

# An archive is obsolete if more than this fraction of its blobs and those of a newer one is in both. pogcli's value.
SIMILAR = 0.9


@dataclass
class Cleaned:
    """`similar`: (older, newer, fraction of their blobs that is in both); `waiting`: blobs in their grace period."""

    similar: list[tuple[str, str, float]] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    obsolete: list[str] = field(default_factory=list)
    needed: int = 0  # blobs
    deleted: list[str] = field(default_factory=list)
    waiting: int = 0  # blobs


def clean_up(
    store: Store,
    key: Key,
    *,
    grace: float = GRACE,
    dry_run: bool = True,
    warn: Callable[[str], None] = lambda text: None,
) -> Cleaned:
    """Removes archives that are very similar to a newer one, and the blobs that only they need.

    As after `prune`, removed archives can be brought back for the grace period. Raises NoSuchArchive, NoArchives,
    StoreError, and the error of a manifest that cannot be read.
    """
    sweep = Sweep(store, key, grace, dry_run=dry_run, warn=warn)
    blobs = {name: set(names) for name, names in needed_blobs(sweep.catalog, manifests_of(store))}
    cleaned = Cleaned()
    names = sorted(blobs)
    now = datetime.now(UTC)
    present = [name for name in names if not is_future(time_of(Trailer(None), name), now)]
    for index, older in enumerate(present):
        for newer in present[index + 1 :]:
            either = blobs[older] | blobs[newer]
            share = len(blobs[older] & blobs[newer]) / len(either) if either else 1.0
            cleaned.similar.append((older, newer, share))
    obsolete = [name for name in names if any(one[0] == name and one[2] > SIMILAR for one in cleaned.similar)]
    locked = spared(store, obsolete)
    cleaned.obsolete = [name for name in obsolete if name not in locked]
    cleaned.kept = [name for name in names if name not in cleaned.obsolete]
    cleaned.needed = len(set().union(*(blobs[name] for name in cleaned.kept)))
    swept: Swept = sweep.run(cleaned.obsolete)
    cleaned.deleted, cleaned.waiting = swept.deleted, swept.waiting
    return cleaned

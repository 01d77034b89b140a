"""`pogfast check --restore-test N`: restores files chosen at random to nowhere, by all steps of a restore but writing.

Their manifests are fetched and opened anew, names become paths, metadata is parsed, and the engine fetches, decrypts
and decompresses the blobs, compares each with its name, and counts the bytes that it would write.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from pogfast import manifest
from pogfast.errors import CorruptManifest, DamageError, NoSuchArchive, PogfastError, WrongKey
from pogfast.files.metadata import metadata_of
from pogfast.keys import Key
from pogfast.manifest import Entry
from pogfast.recovery.batches import restore_to_nowhere
from pogfast.recovery.plan import Place, Plan
from pogfast.stores.fetching import fetched_manifest, prefetch
from pogfast.stores.protocols import Store

SEEDS = 2**32


class Candidate(NamedTuple):
    """An archive whose files may be chosen."""

    store: Store
    name: str


@dataclass
class Rehearsal:
    """What was restored to nowhere."""

    seed: int  # with which the same files of the same stores are chosen again
    files: int = 0
    size: int = 0  # uncompressed bytes
    archives: int = 0


def rehearse(
    candidates: Sequence[Candidate],
    key: Key,
    count: int,
    seed: int | None,
    jobs: int,
    problem: Callable[[str, str | None, PogfastError], None],
) -> Rehearsal:
    """Restores `count` files, or as many as there are: each of an archive, and in it of a file, that is drawn at
    random. Calls `problem` with archive, file and error. Raises StoreError."""
    chance = random.Random(seed := random.SystemRandom().randrange(SEEDS) if seed is None else seed)
    done = Rehearsal(seed)
    left = list(candidates)
    tested: dict[Candidate, set[str]] = {candidate: set() for candidate in left}
    while count and left:
        drawn = Counter(chance.choice(left) for _ in range(count))
        for candidate in [each for each in left if drawn[each]]:
            try:
                plan = _plan(candidate, key)
            except (DamageError, NoSuchArchive, WrongKey) as error:
                problem(candidate.name, None, error)
                left.remove(candidate)
                continue
            fresh = [place for place in plan.places["file"] if place.name not in tested[candidate]]
            chosen = chance.sample(fresh, min(drawn[candidate], len(fresh)))
            done.archives += bool(chosen) and not tested[candidate]
            count -= len(chosen)
            for place, wrong in _restored(plan, chosen, key, candidate.store, jobs, done):
                problem(candidate.name, place.name, wrong)
            tested[candidate].update(place.name for place in chosen)
            if len(chosen) == len(fresh):
                left.remove(candidate)
    return done


def _plan(candidate: Candidate, key: Key) -> Plan:
    """Opens an archive, and returns where each of its files would be restored to. Raises DamageError, NoSuchArchive,
    WrongKey and StoreError."""
    store, name = candidate
    return Plan(fetched_manifest(store, name, partial(manifest.open, key=key, name=name)), (), (), 0)


def _restored(
    plan: Plan, places: Sequence[Place], key: Key, store: Store, jobs: int, done: Rehearsal
) -> Iterator[tuple[Place, PogfastError]]:
    """Restores files to nowhere; yields those with a problem."""
    ready: list[tuple[Place, Entry]] = []
    for place in places:
        try:
            if place.problem is not None:
                raise place.problem
            entry = plan.entries[place.name]
            metadata_of(place.name, entry.more)
            ready.append((place, entry))
        except PogfastError as error:
            yield place, error
    prefetch(store.source, (blob for _, entry in ready for blob in entry.blobs))
    for place, entry in ready:
        problem: PogfastError | None
        size, problem = restore_to_nowhere(place.name, entry, key, store.source, jobs)
        if problem is None and entry.size not in (None, size):
            problem = CorruptManifest(f"{place.name}: it has {size:,} bytes, and the archive says {entry.size:,}")
        if problem is not None:
            yield place, problem
        else:
            done.files += 1
            done.size += size

"""`pogfast doctor`: examines a store, with what the credentials allow, how fast it is, and what is left over in it.

Everything is tried: a small object is written, read back and deleted. Checks for one kind of store are in the store's
`examine`. No key is needed, and archives are not read.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from statistics import median

from pogfast.errors import NoSuchArchive, PogfastError, StoreError
from pogfast.sizes import many, show_size
from pogfast.stores import REMOVED, open_store
from pogfast.stores.protocols import Finding, HasPacks, Store

PROBE = "doctor.probe-"  # begins the names of the objects that are written
SIZE = 4 << 20  # bytes of each
RUNS = 3
SKEW = 60.0  # seconds that clocks may differ


def examine(store: str) -> Iterator[Finding]:
    """Yields findings as they come. Raises UsageError, NoSuchArchive and StoreError if the store cannot be opened."""
    started = time.monotonic()
    opened = open_store(store)
    try:
        yield Finding("reach", "good", f"answers in {time.monotonic() - started:.2f} s")
        yield from _contents(opened)
        yield from _rights(opened)
        yield from opened.examine()
    finally:
        opened.close()


def _contents(store: Store) -> Iterator[Finding]:
    try:
        manifests = store.manifests()
        blobs = list(store.blob_names())
        removed = [mark for mark in store.marks() if mark.name.endswith(REMOVED)]
    except NoSuchArchive:  # no such bucket
        raise
    except StoreError as error:
        yield Finding("list", "bad", str(error), "every command needs permission to list")
        return
    size = sum(blob.size for blob in blobs)
    yield Finding("list", "good", f"{many(len(manifests), 'archive')}, {many(len(blobs), 'blob')}, {show_size(size)}")
    if isinstance(store, HasPacks):
        yield from _packs(store)
    if removed:
        yield Finding(
            "removed",
            "note",
            f"{many(len(removed), 'archive')} can be restored by undelete",
            "the first prune after their grace period deletes them",
        )


def _packs(store: HasPacks) -> Iterator[Finding]:
    found = store.pack_figures(lambda name: False)
    if store.lacks_settings:
        advice = "check --repair writes it again; until then new blobs are written plain"
        yield Finding("packs", "note", "pogfast.store is missing, which says that there are packs", advice)
    objects = many(found.index_objects, "index object")
    yield Finding("packs", "good", f"{many(found.packs, 'pack')}, {show_size(found.size)}, {objects}")
    if found.uncovered:
        said = f"{many(found.uncovered, 'pack')} in no index object, as after a run that was killed: nothing is lost"
        yield Finding("packs", "note", said, "the next create that writes packs, or check --repair, writes one")


def _rights(store: Store) -> Iterator[Finding]:
    """Tries to write, read and delete, with speeds, and compares the clocks."""
    names = [f"{PROBE}{os.urandom(6).hex()}" for _ in range(RUNS)]
    data = os.urandom(SIZE)
    began = time.time()
    written, speed = _timed(lambda name: store.put_manifest(name, data), names)
    if written:
        yield Finding("write", "note", f"not allowed: {written}", "these credentials can only read")
        return
    yield Finding("write", "good", f"{show_size(SIZE / speed)}/s, one request at a time")
    yield from _clock(store, names, began)

    def read(name: str) -> None:
        if store.get_manifest(name) != data:
            raise StoreError("the object that was read is not the one that was written")

    failed, speed = _timed(read, names)
    if failed:
        yield Finding("read", "note", f"not allowed: {failed}", "fine for a machine that only makes backups")
    else:
        yield Finding("read", "good", f"{show_size(SIZE / speed)}/s, one request at a time")
    try:
        store.delete_manifests(names)
    except PogfastError as error:
        hint = f"prune needs it, backups do not; {RUNS} objects {PROBE}... stay behind"
        yield Finding("delete", "note", f"not allowed: {error}", hint)
    else:
        yield Finding("delete", "good", "allowed")


def _timed(act: Callable[[str], None], names: list[str]) -> tuple[str, float]:
    """Returns (error message or "", median seconds)."""
    seconds = []
    for name in names:
        started = time.monotonic()
        try:
            act(name)
        except PogfastError as error:
            return str(error), 0.0
        seconds.append(time.monotonic() - started)
    return "", max(median(seconds), 1e-6)


def _clock(store: Store, names: list[str], began: float) -> Iterator[Finding]:
    times = [found.modified for found in store.named(PROBE) if found.name in names]
    if not times:
        yield Finding(
            "listing", "bad", "an object that was just written is not listed", "prune refuses to work with such a store"
        )
        return
    skew = 0.0 if began - 1 <= times[0] <= time.time() + 1 else times[0] - began
    if abs(skew) > SKEW:
        yield Finding(
            "clock", "bad", f"differs by {abs(skew):.0f} s from the store's", "set the clock: grace periods rely on it"
        )
    else:
        yield Finding("clock", "good", f"differs by {abs(skew):.0f} s from the store's")

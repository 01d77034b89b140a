#!/usr/bin/env bash
# Measures look-ups in the index of a large store with packs.
#
#   ci/index.sh
#
# Puts 20 million random rows in 14 index objects into a cache of its own (900 MB below TMPDIR), then looks up blobs that
# are there and blobs that are not, in another process, and prints how long a look-up took and how much memory that
# process needed: it fails from 300 MB on. PYTHON is an interpreter (python3) with pogfast.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d "${TMPDIR:-/tmp}/pogfast-index-XXXXXX")
trap 'rm -rf "$work"' EXIT

cat >"$work/index.py" <<'END'
import hashlib
import os
import random
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

from pogfast._engine import PackIndex, build_index
from pogfast.stores.packs.index_cache import IndexCache
from pogfast.stores.packs.layout import index_path, name_of

OBJECTS, PACKS, BLOBS, SIZE = 14, 143, 10_000, 5000
AT_ONCE = 10_000  # names for find_many
MOST = 300_000_000

work = Path(sys.argv[2])
cache = IndexCache(str(work / "cache"), "ci/index.sh")


def make() -> None:
    with open(work / "paths", "w") as paths, open(work / "names", "w") as names:
        for _ in range(OBJECTS):
            tables = [make_table() for _ in range(PACKS)]
            packs = [(os.urandom(32), 20261130, (SIZE + 44) * BLOBS + 48) for _ in tables]
            data = build_index(packs, tables)
            path = index_path(hashlib.sha256(data).digest())
            cache.put(path, data)
            print(path, file=paths)
            for table in tables:
                names.writelines(name_of(table[at : at + 32]) + "\n" for at in range(0, 44 * 50, 44))


def make_table() -> bytearray:
    table = bytearray(os.urandom(44 * BLOBS))
    for at, byte in enumerate(SIZE.to_bytes(4, "little")):
        table[32 + at :: 44] = bytes([byte]) * BLOBS
    return table


def measure() -> None:
    start = time.perf_counter()
    parts = [(cache.get(path), b"\1" * PACKS) for path in (work / "paths").read_text().split()]
    index = PackIndex()
    index.replace(parts)
    print(f"index: {OBJECTS * PACKS * BLOBS:,} rows in {len(parts)} objects, opened in {time.perf_counter() - start:.1f} s")
    hits = (work / "names").read_text().split()
    random.shuffle(hits)
    misses = [name_of(os.urandom(32)) for _ in hits]
    for act in (one_by_one, many):
        times = [1e6 * took(act, index, names, there) / len(names) for names, there in ((hits, True), (misses, False))]
        print("index: {}: {:.2f} us for a hit, {:.2f} us for a miss".format(act.__name__, *times))
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(f"index: {most / 1e6:.0f} MB of memory")
    sys.exit("index: that is too much" if most >= MOST else 0)


def took(act: Callable[[PackIndex, list[str]], int], index: PackIndex, names: list[str], there: bool) -> float:
    start = time.perf_counter()
    found = act(index, names)
    seconds = time.perf_counter() - start
    assert found == (len(names) if there else 0)
    return seconds


def one_by_one(index: PackIndex, names: list[str]) -> int:
    return sum(index.find(name) is not None for name in names)


def many(index: PackIndex, names: list[str]) -> int:
    places = (index.find_many(names[at : at + AT_ONCE]) for at in range(0, len(names), AT_ONCE))
    return sum(place is not None for some in places for place in some)


{"make": make, "measure": measure}[sys.argv[1]]()
END

export PYTHONPATH=$PWD
"${PYTHON:-python3}" "$work/index.py" make "$work"
"${PYTHON:-python3}" "$work/index.py" measure "$work"

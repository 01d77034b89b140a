"""The index of a store with very many blobs, which is searched where it lies: on the disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy
import pytest

from kit.packs import name_of, sha256
from pogfast._engine import build_index
from pogfast.stores.packs import layout

SOAK = bool(os.environ.get("POGFAST_TEST_SOAK"))
BLOBS = 20_000_000 if SOAK else 1_000_000
IN_OBJECT = 1_000_000 if SOAK else 250_000  # rows of an index object
IN_PACK = 10_000
SIZE = 1000  # bytes of each blob
MEGABYTES = 300  # that the process may take
ASKED = 50_000

# Looks up names that it reads, half of which are there, and prints what it has found and the memory that it took.
PROGRAM = r"""
import json, re, sys
from pogfast.stores import open_store
names = json.load(sys.stdin)
store = open_store(sys.argv[1])
sizes = store.sizes_of(names)
found = [store.size_of(name) for name in names[:1000]]
[peak] = re.findall(r"VmHWM:\s+(\d+) kB", open("/proc/self/status").read())
print(json.dumps([sizes, found, int(peak)]))
"""


def tables(rng: numpy.random.Generator) -> Iterator[tuple[bytes, bytes]]:
    """Yields the raw name and the table of each pack."""
    row = numpy.dtype([("name", "V32"), ("size", "<u4"), ("check", "V8")])
    while True:
        rows = numpy.zeros(IN_PACK, row)
        rows["name"] = numpy.frombuffer(rng.bytes(32 * IN_PACK), "V32")
        rows["size"] = SIZE
        table = rows.tobytes()
        yield sha256(table), table


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs the peak memory of a program alone")
def test_look_ups_in_an_index_of_many_millions_take_little_memory(tmp_path: Path) -> None:
    """PACKS.md's figure is for 20 million blobs (POGFAST_TEST_SOAK, 1 GB on the disk)."""
    store = tmp_path / "store"
    (store / "packs" / "index").mkdir(parents=True)
    (store / "packs" / "2026-01-31").mkdir()
    (store / "pogfast.store").write_bytes(layout.StoreSettings().serialize())
    made = tables(numpy.random.default_rng(1))
    asked: list[str] = []
    for _ in range(BLOBS // IN_OBJECT):
        some = [next(made) for _ in range(IN_OBJECT // IN_PACK)]
        size = IN_PACK * (SIZE + 44) + 48
        index = build_index([(raw, 20260131, size) for raw, _ in some], [table for _, table in some])
        (store / "packs" / "index" / name_of(sha256(bytes(index)))).write_bytes(index)
        for raw, _ in some:
            with open(store / "packs" / "2026-01-31" / name_of(raw), "wb") as pack:
                pack.truncate(size)
        asked += [name_of(table[44 * i : 44 * i + 32]) for _, table in some for i in range(0, IN_PACK, IN_PACK // 10)]
    there = asked[:: max(1, 2 * len(asked) // ASKED)]
    names = [name for pair in zip(there, (name_of(os.urandom(32)) for _ in there), strict=True) for name in pair]
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(store)],
        input=json.dumps(names),
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "POGFAST_CACHE_DIR": str(tmp_path / "cache")},
    )
    sizes, found, peak = json.loads(ran.stdout)
    assert sizes == [SIZE, None] * len(there)
    assert found == ([SIZE, None] * len(there))[:1000]
    assert peak / 1024 < MEGABYTES

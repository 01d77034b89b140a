"""What is in archives and stores: listed, selected, found, counted."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit import oracle
from kit.built import CHUNK, KEY, ORACLE, SECRET, Built
from kit.files import flip, text
from pogfast import keys, manifest
from pogfast.archives import listing
from pogfast.archives.figures import info, stats
from pogfast.archives.listing import find, list_items, select
from pogfast.errors import CorruptManifest, PogfastError, WrongKey
from pogfast.manifest import Entry
from pogfast.stores import open_store


@pytest.fixture
def built(tmp_path: Path) -> Built:
    return Built(tmp_path / "store")


TRAILER = {
    "program": "pogfast 0",
    "host": "h",
    "layout": "frames",
    "chunk_size": CHUNK,
    "directories": {"a": {"mode": 0o755, "uid": 1, "user": "u"}, "a/b": {}, "empty": {"mtime_ns": 5}},
    "links": {"a/l": {"target": "b/f", "mode": 0o777}},
    "fifos": {"a/b/p": {"mode": 0o600}},
}


def fill(built: Built) -> None:
    built.add("a/b/f", text(2 * CHUNK + 5), mode=0o640, uid=7, gid=8, user="x", group="y", mtime_ns=123)
    built.add("a-b", b"x", mode=0o600)
    built.add("a/z", b"x", hardlink="a-b")
    built.add("pogs", text(3000), "stream", 100)
    built.add("z\udcff/é", b"")


@pytest.mark.parametrize("mode", [-1, 0o10000, 2**70, True, "0644"])
def test_a_mode_that_is_none_is_not_known(built: Built, mode: object) -> None:
    built.add("f", b"x", mode=mode)
    with built.open({"directories": {"d": {"mode": mode}}}) as archive:
        assert [item.mode for item in list_items(archive)] == [None, None]


def test_a_listing_is_in_the_order_of_paths(built: Built) -> None:
    fill(built)
    with built.open(TRAILER) as archive:
        found = list(list_items(archive))
    assert [(item.name, item.kind, item.size) for item in found] == [
        ("a", "directory", None),
        ("a/b", "directory", None),
        ("a/b/f", "file", 2 * CHUNK + 5),
        ("a/b/p", "fifo", None),
        ("a/l", "link", None),
        ("a/z", "file", 1),
        ("a-b", "file", 1),
        ("empty", "directory", None),
        ("pogs", "file", None),
        ("z\udcff/é", "file", 0),
    ]
    by_name = {item.name: item for item in found}
    facts = {"mode": 0o640, "uid": 7, "gid": 8, "user": "x", "group": "y", "mtime_ns": 123}
    f = {"name": "a/b/f", "kind": "file", "size": 2 * CHUNK + 5, **facts, "target": None, "hardlink": None}
    assert by_name["a/b/f"].as_dict() == f
    assert (by_name["a"].mode, by_name["a"].uid, by_name["a"].user) == (0o755, 1, "u")
    assert (by_name["a/l"].target, by_name["a/z"].hardlink, by_name["empty"].mtime_ns) == ("b/f", "a-b", 5)
    assert by_name["pogs"].mtime_ns == 2_250_000_000
    json.dumps([item.as_dict() for item in found])


@given(names=st.sets(st.lists(st.sampled_from(["a", "a-", "a.b", "b", "é"]), min_size=1, max_size=4).map("/".join)))
def test_what_is_below_a_directory_comes_right_behind_it(names: set[str]) -> None:
    ordered = sorted(names, key=listing.in_order_of_paths)
    assert [name.split("/") for name in ordered] == sorted(name.split("/") for name in names)


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ([], ["a", "a/b", "a/b/f", "a/b/p", "a/l", "a/z", "a-b", "empty", "pogs", "z\udcff/é"]),
        (["a/b"], ["a/b", "a/b/f", "a/b/p"]),
        (["a/b/", "pogs"], ["a/b", "a/b/f", "a/b/p", "pogs"]),
        (["/a-b"], ["a-b"]),
        (["a/l", "*g?"], ["a/l", "pogs"]),
        (["z\udcff"], ["z\udcff/é"]),
        (["no", "pogs"], ["pogs"]),
    ],
)
def test_what_words_select(built: Built, words: list[str], names: list[str]) -> None:
    fill(built)
    problems: list[PogfastError] = []
    with built.open(TRAILER) as archive:
        assert [item.name for item in select(archive, words, problems.append)] == names
    assert [str(problem) for problem in problems] == [
        f"{word}: matches nothing in the archive" for word in words if word == "no"
    ]


def test_files_are_found_in_all_archives(built: Built) -> None:
    fill(built)
    built.seal("2026-01-01T00:00:00.000000.mfn", TRAILER)
    built.add("pogs", b"y")
    built.seal("2026-01-02T00:00:00.000000.mfn", {"time": "2026-01-02T01:00:00+00:00"})
    built.seal("2026-01-03T00:00:00.000000.mfn")
    flip(built.path / "2026-01-03T00:00:00.000000.mfn", -1)
    problems: list[PogfastError] = []
    with contextlib.closing(open_store(str(built.path))) as store:
        found = list(find(store, KEY, ["pog?", "empt*"], problems.append))
        assert next(store.blob_names()), "the store is still open"
    assert [(one.archive[:10], one.item.name, one.item.kind, one.item.size) for one in found] == [
        ("2026-01-01", "empty", "directory", None),
        ("2026-01-01", "pogs", "file", None),
        ("2026-01-02", "pogs", "file", 1),
    ]
    assert found[2].as_dict()["time"].startswith("2026-01-0")
    assert [type(problem) for problem in problems] == [CorruptManifest]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("b", ["a/b"]),
        ("[fz]", ["a/b/f", "a/z"]),
        ("a/b", ["a/b"]),
        ("/a/*", ["a/b", "a/l", "a/z"]),
        ("b/?", ["a/b/f", "a/b/p"]),
        ("/b", []),
        ("a/**/f", ["a/b/f"]),
    ],
)
def test_what_a_pattern_finds(built: Built, pattern: str, names: list[str]) -> None:
    """It does not find everything below a matching directory."""
    fill(built)
    built.seal("a.mfn", TRAILER)
    with contextlib.closing(open_store(str(built.path))) as store:
        assert [one.item.name for one in find(store, KEY, [pattern], print)] == names


def test_an_archive_in_figures(built: Built) -> None:
    fill(built)
    built.entries.pop("pogs")
    built.add("copy", text(2 * CHUNK + 5))
    [gone] = built.add("gone", b"gone")
    built.blob(gone).unlink()
    with built.open(TRAILER) as archive:
        found = info(archive)
        stored = sum(
            os.path.getsize(built.blob(blob)) for blob in {b for e in archive.values() for b in e.blobs} - {gone}
        )
    assert (found.files, found.directories, found.links, found.fifos, found.unknown) == (6, 3, 1, 1, 0)
    assert found.size == 2 * (2 * CHUNK + 5) + 1 + 1 + 0 + 4
    assert (found.blobs, found.missing, found.stored) == (6, 1, stored)
    assert (found.duplicates, found.duplicate_size) == (2, 2 * CHUNK + 5 + 1)
    assert (found.largest, found.largest_size) == ("a/b/f", 2 * CHUNK + 5)
    assert found.ratio == found.size / stored
    assert (found.layout, found.chunk_size, found.program, found.host) == ("frames", CHUNK, "pogfast 0", "h")
    json.dumps(found.as_dict())


def test_pogs_archives_do_not_say_how_long_files_are(built: Built) -> None:
    built.add("f", text(3000), "stream", 100)
    built.add("g", text(3000), "stream", 100)
    with built.open() as archive:
        found = info(archive)
    assert (found.files, found.unknown, found.ratio, found.duplicates, found.layout) == (2, 2, None, 1, "stream")


def test_a_store_in_figures(built: Built) -> None:
    first = built.add("f", text(3 * CHUNK))
    built.seal("1.mfn")
    second = built.add("f", text(2 * CHUNK) + b"other")
    built.seal("2.mfn")
    orphan = built.add("orphan", b"orphan")
    built.seal("3.mfn")
    flip(built.path / "3.mfn", -1)
    built.blob(second[0]).unlink()
    sizes = {blob: os.path.getsize(built.blob(blob)) for blob in {*first, *second, *orphan} - {second[0]}}
    problems: list[PogfastError] = []
    with contextlib.closing(open_store(str(built.path))) as store:
        found = stats(store, KEY, problems.append)
    assert (found.archives, found.unreadable, len(problems)) == (2, 1, 1)
    assert (found.blobs, found.stored) == (len(sizes), sum(sizes.values()))
    assert (found.orphans, found.orphaned, found.missing) == (1, sizes[orphan[0]], 1)
    assert (found.files, found.size) == (2, 5 * CHUNK + 5)
    assert found.ratio == (5 * CHUNK + 5) / (sum(sizes.values()) - sizes[orphan[0]])
    assert found.manifests == sum(os.path.getsize(built.path / f"{number}.mfn") for number in (1, 2, 3))


def test_a_store_in_figures_with_a_public_key(tmp_path: Path) -> None:
    both = oracle.OracleKey.of_private(SECRET)
    built = Built(tmp_path, both)
    built.add("f", text(3 * CHUNK))
    built.seal("1.mfn")
    with contextlib.closing(open_store(str(tmp_path))) as store:
        found = stats(store, keys.Key("x25519", both.secret), print)
        assert (found.archives, found.blobs, found.orphans, found.files, found.size) == (1, 3, 0, None, None)
        with pytest.raises(WrongKey):
            stats(store, KEY, print)


MILLION = """
import sys
from pogfast import keys; from pogfast.archives import listing as survey
from pogfast.archives.lookup import open_archive
with open_archive(sys.argv[1], keys.Key("keyfile", bytes(32))) as archive:
    count = sum(1 for _ in survey.list_items(archive))
memory = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(count, int(memory) // 1024)
"""


def test_a_million_entries_in_order_are_listed_in_little_memory(tmp_path: Path) -> None:
    """With all metadata that pogfast stores for a file. The goal is 300 MB; as objects they would have a gigabyte."""
    more: dict[str, Any] = {"size": 1, "mode": 0o644, "uid": 1000, "gid": 1000, "user": "somebody", "group": "somebody"}
    more |= {"mtime_ns": 1_500_000_000, "atime_ns": 1_500_000_000}
    blob = ORACLE.name(b"x")
    writer = manifest.Writer(keys.Key("keyfile", bytes(32)))
    for number in range(1_000_000):
        name = f"home/somebody/directory {number // 1000:03}/file number {number:06}"
        writer.add(name, Entry([f"{number:06}{blob[6:]}"], 1.5, 1.5, more))
    (tmp_path / "a.mfn").write_bytes(writer.seal({}))
    ran = subprocess.run(
        [sys.executable, "-c", MILLION, f"{tmp_path}/a.mfn"], capture_output=True, text=True, check=True
    )
    count, megabytes = ran.stdout.split()
    assert int(count) == 1_000_000
    assert int(megabytes) < 250, ran.stdout

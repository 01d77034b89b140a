"""Archives that are decompressed and parsed in pieces say the same as those that are parsed whole."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kit import oracle
from kit.vectors import Vector, key_of
from pogfast import keys, manifest
from pogfast._engine import compress, secretbox
from pogfast.archives.archive import Archive
from pogfast.archives.differences import diff
from pogfast.archives.listing import Item, list_items, select
from pogfast.errors import CorruptManifest, PogfastError
from pogfast.manifest import decoding, frames

KEY = keys.Key("keyfile", bytes(range(32)))
BLOB = oracle.OracleKey(KEY.secret).name(b"x")
OTHER = oracle.OracleKey(KEY.secret).name(b"y")


class NoStore:
    path = "nowhere"

    def close(self) -> None: ...


@contextmanager
def pieces_of(size: int) -> Iterator[None]:
    """Entries are parsed in pieces of this size, and none is kept."""
    with pytest.MonkeyPatch.context() as patch:
        for word, value in {"PIECE": size, "KEPT": 0 if size < 1 << 20 else 1 << 30, "FEW": 3}.items():
            patch.setattr(decoding, word, value)
        patch.setattr(frames, "AT_ONCE", 0 if size < 1 << 20 else 1 << 30)
        patch.setattr(frames, "FEED", 50)
        yield


SIZES = [1, 100, 1000, 1 << 30]  # the last: all at once


def sealed(text: bytes, trailer: dict[str, Any] | None = None) -> bytes:
    file_key = os.urandom(32)
    content = compress(json.dumps(trailer or {}).encode())
    skipped = frames.TRAILER_MAGIC + len(content).to_bytes(4, "little") + content
    return KEY.wrap(file_key) + secretbox(file_key, compress(text) + skipped)


def opened(data: bytes, key: keys.Key = KEY) -> Archive:
    return Archive(NoStore(), "a.mfn", manifest.open(data, key, "a.mfn"), key)  # type: ignore[arg-type]


def told(data: bytes, before: bytes, size: int, key: keys.Key = KEY) -> list[object]:
    """All that is said of an archive: what is in it, what is wrong with it, what differs from one before it."""
    said: list[object] = []

    def problem(error: PogfastError) -> None:
        said.append(str(error))

    with pieces_of(size):
        try:
            archive, earlier = opened(data, key), opened(before)
            said += list_items(archive, problem)
            said += select(archive, ["a", "b*"], problem)
            for one, other in ((earlier, archive), (archive, earlier), (archive, archive)):
                said += diff(one, other, problem)
            said += [list(archive), len(archive), dict(_entries(archive))]
            said += manifest.blob_names(data, key, "a.mfn")
        except PogfastError as error:
            said.append(f"{type(error)} {error}")
    return said


def _entries(archive: Archive) -> Iterator[tuple[str, str]]:
    for name in archive:
        try:
            yield name, repr(archive[name])
        except CorruptManifest as error:
            yield name, str(error)


def entry(**more: Any) -> dict[str, Any]:
    return {"blobs": [BLOB], "atime": 1.5, "mtime": 2.5, "size": 5, "mtime_ns": 7, "mode": 0o644, "user": "u", **more}


# What is odd in an entry, and what looks like the end of one.
ODD: list[Any] = [
    entry(),
    entry(blobs=[OTHER]),
    entry(blobs=[BLOB] * 30, sizes=[1] * 30, size=30),
    entry(hardlink="a"),
    entry(xattrs={"user.a": "x", "blobs": {"blobs": [{}, {}]}}, last=1),
    entry(note='},"a":{"blobs":[]}'),
    entry(user="\udcff"),
    {"blobs": [BLOB], "atime": 1.5, "mtime": 2.5},
    entry(size=-1),
    entry(blobs=["no name"]),
    entry(mtime_ns="x"),
    {"blobs": [BLOB]},
    [],
    None,
]
NAMES = st.sampled_from(
    ["a", "a/b", "a-b", "a/b/c", "b", "b},", '"},"', '{"blobs":', "c\udcff", "é", "z" * 300, "n\0", "n/"]
)
TEXTS = st.tuples(
    st.lists(st.tuples(NAMES | st.text(max_size=3), st.sampled_from(ODD)), max_size=12),
    st.booleans(),  # whether they are in the order of paths
    st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", " : ")]),
    st.sampled_from(["", ",", "}", " \n", "x"]),  # behind the last entry, or all
).map(lambda drawn: text_of(*drawn))


def text_of(entries: list[tuple[str, Any]], in_order: bool, marks: tuple[str, str], end: str) -> bytes:
    """JSON in which a name may occur twice."""
    if in_order:
        entries = sorted(dict(entries).items(), key=lambda each: each[0].replace("/", "\0"))
    members = [marks[1].join((json.dumps(name), json.dumps(each, separators=marks))) for name, each in entries]
    return f"{{{marks[0].join(members)}{',' if end == ',' else ''}}}{end.strip(',')}".encode()


@given(text=TEXTS, before=TEXTS, sections=st.dictionaries(NAMES, st.sampled_from([{}, {"mode": 1}]), max_size=3))
@example(b"", b"{}", {})
@example(b"{", b"{}", {})
@example(text_of([("a", entry()), ("b", entry())], True, (",", ":"), ","), b"{}", {})
def test_pieces_say_what_the_whole_says(text: bytes, before: bytes, sections: dict[str, Any]) -> None:
    trailer = {"directories": sections, "links": {"a-b": {"target": "x"}}, "fifos": {"zz": {}}}
    data, earlier = sealed(text, trailer), sealed(before, {"directories": {"a": {}}})
    whole = told(data, earlier, SIZES[-1])
    for size in SIZES[:-1]:
        assert told(data, earlier, size) == whole


def test_pieces_of_vectors_say_what_the_whole_says(vector: Vector) -> None:
    key, nothing = key_of(vector), sealed(b"{}")
    whole = told(vector.manifest, nothing, SIZES[-1], key)
    assert {item.name for item in whole if isinstance(item, Item)} == set(vector.expected["files"])
    for size in SIZES[:-1]:
        assert told(vector.manifest, nothing, size, key) == whole


def test_entries_in_order_are_never_all_in_memory() -> None:
    text = text_of([(f"d/{number:05}", entry()) for number in range(5000)], True, (",", ":"), "")
    with pieces_of(1000):
        archive = opened(sealed(text, {"directories": {"d": {}}}))
        assert len(list(list_items(archive))) == 5001
        assert not list(diff(archive, archive))
        assert archive.entries._members == {}  # type: ignore[attr-defined]
        parts = list(manifest.in_order(archive.entries))
        assert len(parts) > 3
        assert sum(map(len, parts)) == 5000


def test_too_dense_text_is_refused_before_it_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a few kB would become gigabytes of Python's lists."""
    monkeypatch.setattr(frames, "SMALL_TEXT", 1000)
    monkeypatch.setattr(decoding, "_members", lambda text: pytest.fail("it was parsed"))
    text = b'{"a":[' + b"[]," * (1 << 20) + b'[]}},"b":{"blobs":[]},"c":{"blobs":[]}}'
    with pytest.raises(CorruptManifest, match="more JSON than"):
        manifest.open(sealed(text), KEY, "m")


def test_what_is_a_file_and_a_directory_is_both() -> None:
    """Only a malformed archive has such a name."""
    text = text_of([("a", entry()), ("b", entry())], True, (",", ":"), "")
    file, both = opened(sealed(text)), opened(sealed(text, {"directories": {"a": {}}}))
    assert [(item.name, item.kind) for item in list_items(both)] == [("a", "file"), ("a", "directory"), ("b", "file")]
    assert [(change.name, change.change) for change in diff(file, both)] == [("a", "type")]

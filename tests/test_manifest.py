"""Manifests: sealed and opened, against the oracle and pogcli; damage against wrong keys; limits of memory."""

from __future__ import annotations

import itertools
import json
import math
import os
import subprocess
import sys
from array import array
from pathlib import Path

import pytest
import zstandard
from hypothesis import example, given
from hypothesis import strategies as st

from kit import oracle
from kit.commands import Runner
from kit.paths import VECTORS
from pogfast import keys, manifest
from pogfast._engine import compress, public_key, secretbox
from pogfast.errors import CorruptManifest, PogfastError, WrongKey
from pogfast.manifest import Entry, Manifest, writing
from pogfast.manifest.frames import pad_to_ratio

SECRET, PRIVATE = bytes(range(32)), bytes(range(32, 64))
SYMMETRIC = keys.Key("keyfile", SECRET)
PAIR = keys.Key("x25519", public_key(PRIVATE), PRIVATE)
PUBLIC = keys.Key("x25519", public_key(PRIVATE))
KEYS = [pytest.param(SYMMETRIC, id="symmetric"), pytest.param(PAIR, id="x25519")]


def oracle_of(key: keys.Key) -> oracle.OracleKey:
    return oracle.OracleKey(key.secret, key.private)


NAMES = st.builds(oracle.OracleKey(SECRET).name, st.binary(max_size=3))
# Paths as systems give them: any text, and bytes that are no UTF-8 as surrogates; and what JSON has to escape.
PATHS = (
    st.binary(max_size=20).map(os.fsdecode) | st.text(max_size=20) | st.text('"\\\\/u{}:,\\n\\0\\x7fäd8😀', max_size=9)
)
TIMES = st.floats(-(2**40), 2**40)
ENTRIES = st.builds(
    Entry,
    st.lists(NAMES, max_size=4),
    TIMES,
    TIMES,
    st.dictionaries(
        PATHS.filter(lambda key: key not in ("blobs", "atime", "mtime")),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | PATHS,
            lambda values: st.lists(values, max_size=3) | st.dictionaries(PATHS, values, max_size=3),
            max_leaves=4,
        ),
        max_size=2,
    ),
)
MANIFESTS = st.builds(
    Manifest,
    st.dictionaries(PATHS, ENTRIES, max_size=5),
    st.none() | st.dictionaries(PATHS, st.integers() | PATHS, max_size=3),
)


def sealed(frames: bytes, key: keys.Key = SYMMETRIC) -> bytes:
    """An authentic full manifest of these frames."""
    file_key = os.urandom(32)
    return key.wrap(file_key) + secretbox(file_key, frames)


@pytest.mark.parametrize("key", KEYS)
@given(archive=MANIFESTS)
def test_sealed_manifests_open_here_and_in_the_oracle(key: keys.Key, archive: Manifest) -> None:
    data = manifest.seal(archive, key)
    assert manifest.open(data, key, "m") == archive
    assert list(manifest.open(data, key, "m").entries) == list(archive.entries)
    theirs = oracle.open_manifest(oracle_of(key), data)
    assert list(theirs) == list(archive.entries)
    assert theirs == {
        path: {"blobs": e.blobs, "atime": e.atime, "mtime": e.mtime, **e.more} for path, e in archive.entries.items()
    }
    assert oracle.open_trailer(oracle_of(key), data) == archive.trailer
    assert manifest.open_trailer(data, key, "m") == archive.trailer
    assert len(oracle.chunk_lengths(oracle.full_payload(oracle_of(key), data))) > 1, "it is padded"
    if key.asymmetric:
        assert manifest.blob_names(data, PUBLIC, "m") == sorted(archive.blob_names())
        assert oracle.open_index(oracle_of(key), data) == sorted(archive.blob_names())
    assert manifest.blob_names(data, key, "m") == archive.blob_names()


@pytest.mark.parametrize("key", KEYS)
def test_manifests_of_the_oracle_open(key: keys.Key) -> None:
    entries = {"ä\udcff": {"blobs": [], "atime": 1, "mtime": 2.5, "size": 0, "mode": 0o644}}
    data = oracle.seal_manifest(oracle_of(key), entries, {"host": "h"})
    opened = manifest.open(data, key, "m")
    assert opened.entries == {"ä\udcff": Entry([], 1, 2.5, {"size": 0, "mode": 0o644})}
    assert opened.trailer == {"host": "h"}


@pytest.mark.parametrize("key", KEYS)
def test_damage_is_never_taken_for_a_wrong_key(key: keys.Key) -> None:
    name = oracle_of(key).name(b"x")
    data = manifest.seal(Manifest({"file": Entry([name], 0, 0)}), key)
    header = 76 if key.asymmetric else 72  # what only the right key opens; behind it all is damage
    for at in range(len(data)):
        damaged = bytearray(data)
        damaged[at] ^= 1
        try:
            manifest.open(bytes(damaged), key, "the name")
        except WrongKey:
            assert at < header
        except CorruptManifest as error:
            assert at >= header
            assert "the name" in str(error)
        else:
            # With a key pair the index is not read when the entries are; whoever asks for blobs reads both.
            assert key.asymmetric
            with pytest.raises(CorruptManifest):
                manifest.blob_names(bytes(damaged), key, "the name")


def test_an_index_that_does_not_name_the_entries_blobs_is_damage() -> None:
    """Anybody with the public key can replace the index."""
    names = [oracle_of(PAIR).name(bytes([number])) for number in range(3)]
    data = manifest.seal(Manifest({"one": Entry(names, 0, 0), "two": Entry(names[:1], 0, 0)}), PAIR)
    full = data[manifest.INDEX_HEADER + manifest.index_header(data, PAIR, "m")[1] :]
    for listed in ([], names, [*names, *names], [*names, oracle_of(PAIR).name(b"another")]):
        lines = bytearray("".join(f"{name}\n" for name in listed).encode())
        forged = writing.seal_index(lines, array("q", [0] * len(listed)), PUBLIC) + full
        assert manifest.blob_names(forged, PUBLIC, "m") == sorted(listed), "the public key cannot know better"
        assert list(manifest.open(forged, PAIR, "m").entries) == ["one", "two"]
        with pytest.raises(CorruptManifest, match="index"):
            manifest.blob_names(forged, PAIR, "m")
    assert manifest.blob_names(data, PAIR, "m") == [*names, names[0]]


@pytest.mark.parametrize("blobs", [None, [3], ["short"], "text", {}])
def test_names_of_malformed_entries_are_damage(blobs: object) -> None:
    text = json.dumps({"a": {"blobs": blobs, "atime": 0, "mtime": 0}}).encode()
    with pytest.raises(CorruptManifest):
        manifest.blob_names(sealed(compress(text)), SYMMETRIC, "m")


@pytest.mark.parametrize("key", KEYS)
def test_a_cut_manifest_is_damaged(key: keys.Key) -> None:
    data = manifest.seal(Manifest({"file": Entry([oracle_of(key).name(b"x")], 0, 0)}), key)
    for length in range(len(data)):
        with pytest.raises(CorruptManifest):
            manifest.open(data[:length], key, "m")


@pytest.mark.parametrize("key", [SYMMETRIC, PAIR, PUBLIC])
def test_a_wrong_key_is_not_damage(key: keys.Key) -> None:
    data = manifest.seal(Manifest(), key)
    other = os.urandom(32)
    for wrong in (keys.Key("keyfile", other), keys.Key("x25519", public_key(other), other)):
        with pytest.raises(WrongKey):
            manifest.open(data + bytes(200), wrong, "m")
        with pytest.raises(WrongKey):
            manifest.blob_names(data + bytes(200), wrong, "m")
    with pytest.raises(WrongKey, match="cannot open it"):
        manifest.open(manifest.seal(Manifest(), PUBLIC), PUBLIC, "m")


NAME = oracle.OracleKey(SECRET).name(b"")
MALFORMED_ENTRIES = [
    [],
    "x",
    {},
    {"blobs": [], "atime": 0},
    {"blobs": NAME, "atime": 0, "mtime": 0},
    {"blobs": [1], "atime": 0, "mtime": 0},
    {"blobs": ["../" + NAME[3:]], "atime": 0, "mtime": 0},
    {"blobs": [NAME + "\n"], "atime": 0, "mtime": 0},
    {"blobs": [], "atime": "x", "mtime": 0},
    {"blobs": [], "atime": True, "mtime": 0},
    {"blobs": [], "atime": float("nan"), "mtime": 0},
    {"blobs": [], "atime": 0, "mtime": float("inf")},
    {"blobs": [], "atime": 10**400, "mtime": 0},
    {"blobs": [], "atime": 10**5000, "mtime": 0},
]


@pytest.mark.parametrize("other", ["b", "\udcff"])
@pytest.mark.parametrize("entry", MALFORMED_ENTRIES, ids=lambda entry: json_of(entry)[:60])
def test_a_malformed_entry_is_refused_when_it_is_accessed(entry: object, other: str) -> None:
    """And its neighbors are not, whichever parser splits the manifest."""
    text = json_of({other: {"blobs": [NAME], "atime": 0, "mtime": 1}, "the path": None})
    data = sealed(compress(text.replace("null", json_of(entry)).encode()))
    with pytest.raises(CorruptManifest, match=r"the name.*the path|the name does not parse"):
        manifest.open(data, SYMMETRIC, "the name").entries["the path"]
    with pytest.raises(CorruptManifest):
        manifest.open(data, SYMMETRIC, "the name").blob_names()
    if entry != MALFORMED_ENTRIES[-1]:  # that number is no JSON for the standard library, nor all around it
        opened = manifest.open(data, SYMMETRIC, "the name").entries
        assert list(opened) == [other, "the path"]
        assert opened[other] == Entry([NAME], 0, 1)


def json_of(value: object) -> str:
    """As json.dumps, which refuses to write integers of more than 4,300 digits."""
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        return json.dumps(value)
    finally:
        sys.set_int_max_str_digits(limit)


@pytest.mark.parametrize("content", [[], "x", "\udcff", 1, None, [{}]], ids=repr)
def test_json_that_is_no_object_is_refused(content: object) -> None:
    with pytest.raises(CorruptManifest, match="the name"):
        manifest.open(sealed(compress(json.dumps(content).encode())), SYMMETRIC, "the name")


@pytest.mark.parametrize(
    "frame", [b"", b"no frame", compress(b"no json"), compress(b'{"a": ')[:-1], compress(b"[" * 10**5)]
)
def test_authentic_noise_is_refused(frame: bytes) -> None:
    with pytest.raises(CorruptManifest):
        manifest.open(sealed(frame), SYMMETRIC, "m")


# Each holds a lone surrogate, so that it is the standard library that takes the object apart.
FACTS = '{"blobs": [], "atime": 0, "mtime": 0}'
NO_OBJECTS = [
    '{"\\udcff": FACTS',
    '{"\\udcff": FACTS,',
    '{"\\udcff": FACTS,}',
    '{"\\udcff": FACTS}}',
    '{"\\udcff": FACTS} "x"',
    '{"\\udcff" FACTS}',
    '{"\\udcff", FACTS}',
    '{"\\udcff": FACTS "x": FACTS}',
    '{"\\udcff": FACTS: "x": FACTS}',
    '{"\\udcff": FACTS, 1: FACTS}',
    '{"\\udcff": FACTS, {}: FACTS}',
    '{"\\udcff": FACTS, "x": }',
    '{"\\udcff": FACTS, "x',
    '{,"\\udcff": FACTS}',
    '{},"\\udcff": FACTS}',
    '["\\udcff"]',
    '"\\udcff": FACTS}',
    '{"\\udcff": ' + "[" * 10**5,
]


@pytest.mark.parametrize("text", NO_OBJECTS, ids=lambda text: text[:40])
def test_an_almost_valid_object_is_refused(text: str) -> None:
    with pytest.raises(CorruptManifest, match="the name does not parse"):
        manifest.open(sealed(compress(text.replace("FACTS", FACTS).encode())), SYMMETRIC, "the name")


@pytest.mark.parametrize("more", [b"", b"\\udcff"], ids=["utf-8", "surrogate"])
def test_a_name_in_broken_utf_8_is_refused(more: bytes) -> None:
    with pytest.raises(CorruptManifest):
        manifest.open(sealed(compress(b'{"\xff' + more + b'": ' + FACTS.encode() + b"}")), SYMMETRIC, "m")


@given(
    entries=st.dictionaries(PATHS, ENTRIES, max_size=5).map(lambda entries: entries | {"ä\udcff": Entry([NAME], 0, 0)}),
    indent=st.none() | st.sampled_from([0, 3, "\t"]),
    ascii_only=st.booleans(),
)
def test_json_of_any_writer_opens(entries: dict[str, Entry], indent: int | str | None, ascii_only: bool) -> None:
    """With a lone surrogate, as pogcli escapes it, names that are escaped or not, and any white space."""
    content = {p: {**e.more, "mtime": e.mtime, "blobs": e.blobs, "atime": e.atime} for p, e in entries.items()}
    text = json.dumps(content, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    opened = manifest.open(sealed(compress(text)), SYMMETRIC, "m").entries
    assert list(opened) == list(entries)
    assert opened == entries


def test_the_last_of_two_members_with_one_name_counts() -> None:
    for name in (b"a", b"\\udcff"):
        first, last = (b'"' + name + b'": {"blobs": [], "atime": 0, "mtime": %d}' % time for time in (1, 2))
        opened = manifest.open(sealed(compress(b"{" + first + b", " + last + b"}")), SYMMETRIC, "m")
        assert [entry.mtime for entry in opened.entries.values()] == [2]


def skippable(magic: bytes, content: bytes) -> bytes:
    return magic + len(content).to_bytes(4, "little") + content


LURE = oracle.TRAILER + b"\xff" * 4
TRAILER = skippable(oracle.TRAILER, compress(b'{"host": "h"}'))
LURED = skippable(oracle.PADDING, LURE)


ODD = skippable(bytes.fromhex("532a4d18"), LURE)


@pytest.mark.parametrize(
    ("frames", "trailer"),
    [
        (compress(b"{}") + TRAILER, {"host": "h"}),
        (compress(b"{}") + TRAILER + LURED, {"host": "h"}),
        (LURED + compress(b"{}") + TRAILER + LURED, {"host": "h"}),
        (compress(b"{}") + ODD + TRAILER + LURED, {"host": "h"}),
        (compress(b"{}") + TRAILER + ODD + LURED, {"host": "h"}),
        (compress(b"{}") + LURED, None),
        (compress(b"{}") + ODD, None),
    ],
    ids=["alone", "before", "between", "behind", "in front", "none", "none, unknown"],
)
def test_other_frames_are_no_trailer(frames: bytes, trailer: object) -> None:
    assert manifest.open(sealed(frames), SYMMETRIC, "m").trailer == trailer
    assert manifest.open_trailer(sealed(frames), SYMMETRIC, "m") == trailer


CONTENTS = st.builds(
    lambda piece, times, noise: piece * times + os.urandom(noise),
    st.binary(min_size=1, max_size=9),
    st.integers(0, 70_000),
    st.sampled_from([0, 1, 255, 256, 65_791, 65_792, 131_072, 300_000]),
)


@example(content=b"a" * 400_000, checksum=False, size=True, level=3)  # repeating blocks
@given(content=CONTENTS, checksum=st.booleans(), size=st.booleans(), level=st.sampled_from([-5, 1, 3, 19]))
def test_the_end_of_a_frame_of_any_kind_is_found(content: bytes, checksum: bool, size: bool, level: int) -> None:
    """Raw, repeating and compressed blocks, every width of the size, a checksum or none. The trailer alone does not
    look at what the frame holds."""
    compressor = zstandard.ZstdCompressor(level=level, write_checksum=checksum, write_content_size=size)
    frames = compressor.compress(content) + TRAILER + LURED
    assert manifest.open_trailer(sealed(frames), SYMMETRIC, "m") == {"host": "h"}
    if size and not checksum:
        entries = {"a": {"blobs": [], "atime": 0, "mtime": 0, "note": content.hex()}}
        frames = compressor.compress(json.dumps(entries).encode()) + TRAILER
        assert manifest.open(sealed(frames), SYMMETRIC, "m").entries["a"].more == {"note": content.hex()}


@pytest.mark.parametrize("checksum", [True, False])
@pytest.mark.parametrize("size", [True, False])
def test_a_frame_that_is_cut_short_is_damage(size: bool, checksum: bool) -> None:
    compressor = zstandard.ZstdCompressor(write_checksum=checksum, write_content_size=size)
    frame = compressor.compress(b'{"a": ' + FACTS.encode() + b"}")
    for frames in (frame + TRAILER, TRAILER + frame):
        for length in range(1, len(frames)):
            if frames[:length] in (frame, TRAILER):
                continue
            for way in (manifest.open, manifest.open_trailer):
                with pytest.raises(CorruptManifest, match="m does not parse"):
                    way(sealed(frames[:length]), SYMMETRIC, "m")


@pytest.mark.parametrize("size", [2**20, 2**34, 2**62, 2**63, 2**64 - 2])
def test_a_frame_with_too_large_a_size_is_damage(size: int) -> None:
    frame = bytearray(compress(b"{}"))
    assert frame[4] == 0b100000
    frame[4:6] = bytes([0b11100000]) + size.to_bytes(8, "little")
    with pytest.raises(CorruptManifest):
        manifest.open(sealed(bytes(frame)), SYMMETRIC, "m")


@pytest.mark.parametrize("content", [b"[]", b"1", b"{", b"null", b'"\\udcff"', b"[" * 10**5])
def test_a_malformed_trailer_is_refused(content: bytes) -> None:
    data = sealed(compress(b"{}") + skippable(oracle.TRAILER, compress(content)))
    for way in (manifest.open, manifest.open_trailer):
        with pytest.raises(CorruptManifest, match="the name"):
            way(data, SYMMETRIC, "the name")


def test_the_trailer_opens_although_the_entries_are_damaged() -> None:
    data = sealed(compress(b"{") + TRAILER)
    assert manifest.open_trailer(data, SYMMETRIC, "m") == {"host": "h"}
    with pytest.raises(CorruptManifest):
        manifest.open(data, SYMMETRIC, "m")


@pytest.mark.parametrize("key", KEYS)
def test_a_writer_counts_its_entries(key: keys.Key) -> None:
    writer = manifest.Writer(key)
    assert len(writer) == 0
    writer.add("a", Entry([NAME, NAME], 0, 0))
    for name in ("b", "\udcff"):
        writer.add(name, Entry([], 1, 2))
    assert len(writer) == 3
    opened = manifest.open(writer.seal({"tags": ["\udcff"]}), key, "m")
    assert opened.entries == {"a": Entry([NAME, NAME], 0, 0), "b": Entry([], 1, 2), "\udcff": Entry([], 1, 2)}
    assert opened.trailer == {"tags": ["\udcff"]}


@pytest.mark.parametrize("key", KEYS)
def test_a_manifest_of_many_pieces(key: keys.Key) -> None:
    """Longer than a piece, than a block, and than the window: 2 MiB."""
    names = [oracle.OracleKey(SECRET).name(os.urandom(9)) for _ in range(30_000)]
    archive = Manifest({f"{number} ä": Entry([name], number, number + 0.5) for number, name in enumerate(names)})
    data = manifest.seal(archive, key)
    payload = oracle.full_payload(oracle_of(key), data)
    assert zstandard.frame_content_size(payload) > 2 << 20
    assert zstandard.get_frame_parameters(payload).has_checksum is False
    assert manifest.open(data, key, "m") == archive
    assert [entry["blobs"] for entry in oracle.open_manifest(oracle_of(key), data).values()] == [
        [name] for name in names
    ]
    assert manifest.blob_names(data, key, "m") == names
    if key.asymmetric:
        assert manifest.blob_names(data, PUBLIC, "m") == sorted(names)


def test_further_keys_never_replace_the_three() -> None:
    entry = Entry([NAME], 1, 2, {"mtime": 7, "mode": 0o600, "atime": 8, "blobs": []})
    opened = manifest.open(manifest.seal(Manifest({"a": entry}), SYMMETRIC), SYMMETRIC, "m")
    assert opened.entries["a"] == Entry([NAME], 1, 2, {"mode": 0o600})


def test_a_mapping_of_entries() -> None:
    entries = {"a": Entry([], 0, 1), "\udcff": Entry([NAME], 2, 3, {"x": {"y": [1]}})}
    opened = manifest.open(manifest.seal(Manifest(entries), SYMMETRIC), SYMMETRIC, "m").entries
    assert opened == entries
    assert dict(opened.items()) == entries
    assert len(opened) == 2
    assert "a" in opened
    assert "b" not in opened
    assert opened.get("b") is None
    opened["\udcff"].more.clear()
    assert opened == entries, "what is decoded belongs to who asked for it"


@pytest.mark.parametrize(
    ("blobs", "more", "size", "sizes"),
    [
        (0, {}, 0, None),
        (0, {"size": 0}, 0, None),
        (0, {"sizes": []}, 0, []),
        (1, {}, None, None),
        (1, {"size": None, "sizes": None}, None, None),
        (1, {"size": 0}, 0, [0]),
        (1, {"size": 5}, 5, [5]),
        (1, {"sizes": [5]}, 5, [5]),
        (2, {}, None, None),
        (2, {"size": 7}, 7, None),
        (2, {"sizes": [5, 2]}, 7, [5, 2]),
        (2, {"size": 7, "sizes": [5, 2]}, 7, [5, 2]),
        (2, {"size": 2**63 - 1, "sizes": [2**63 - 2, 1]}, 2**63 - 1, [2**63 - 2, 1]),
    ],
)
def test_sizes(blobs: int, more: dict[str, object], size: int | None, sizes: list[int] | None) -> None:
    entry = Entry([NAME] * blobs, 0, 0, more)
    assert entry.size == size
    assert entry.sizes == sizes


@pytest.mark.parametrize("size", [-1, 2**63, 10**400, True, 1.0, "5", [5], {}])
def test_a_malformed_size_is_damage(size: object) -> None:
    entries = {"the path": Entry([NAME], 0, 0, {"size": size}), "two": Entry([NAME], 0, 0, {"sizes": [size]})}
    opened = manifest.open(manifest.seal(Manifest(entries), SYMMETRIC), SYMMETRIC, "the name").entries
    for way in (lambda: opened["the path"].size, lambda: opened["the path"].sizes):
        with pytest.raises(CorruptManifest, match="the name: the entry the path: its size is malformed"):
            way()
    for way in (lambda: opened["two"].size, lambda: opened["two"].sizes):
        with pytest.raises(CorruptManifest, match="the name: the entry two: the sizes of its blobs are malformed"):
            way()


@pytest.mark.parametrize(
    "more",
    [{"sizes": 5}, {"sizes": [1]}, {"sizes": [1, 2, 3]}, {"sizes": [1, 2], "size": 4}, {"sizes": [2**63 - 1, 1]}],
)
def test_sizes_that_do_not_fit_are_damage(more: dict[str, object]) -> None:
    with pytest.raises(CorruptManifest, match="an entry: the sizes of its blobs"):
        _ = Entry([NAME, NAME], 0, 0, more).sizes


@given(seconds=TIMES)
def test_times_are_rounded_as_by_the_system(seconds: float) -> None:
    whole = math.floor(seconds)
    told = whole * 10**9 + math.floor((seconds - whole) * 1e9)
    entry = Entry([], seconds, -seconds, {})
    assert entry.atime_ns == max(-(2**63) + 1, min(told, 2**63 - 1))
    assert Entry([], 0, 0, {"atime_ns": told}).atime_ns == entry.atime_ns


def test_a_time_is_rounded_as_by_utime(tmp_path: Path) -> None:
    for seconds in (1580000000.25, 1700000000.1234567, -0.1, -1.5, 0.9999999999, 1):
        os.utime(tmp_path, (seconds, seconds))
        assert Entry([], 0, seconds).mtime_ns == tmp_path.stat().st_mtime_ns


@pytest.mark.parametrize(
    ("ns", "told"),
    [
        (1_700_000_000_123_456_789, 1_700_000_000_123_456_789),
        (-1, -1),
        (0, 0),
        (10**40, 2**63 - 1),
        (-(10**40), 1 - 2**63),
    ],
)
def test_exact_times_count(ns: int, told: int) -> None:
    entry = Entry([], 3, 4, {"atime_ns": ns, "mtime_ns": ns})
    assert (entry.atime_ns, entry.mtime_ns) == (told, told)
    assert Entry([], 3, 4, {"atime_ns": ns, "mtime_ns": None}).mtime_ns == 4 * 10**9


@pytest.mark.parametrize("ns", [True, 1.0, "5", [5], float("nan")])
def test_a_malformed_time_is_damage(ns: object) -> None:
    entry = Entry([], 0, 0, {"mtime_ns": ns, "atime_ns": ns})
    with pytest.raises(CorruptManifest, match="an entry: its mtime_ns is malformed"):
        _ = entry.mtime_ns
    with pytest.raises(CorruptManifest, match="an entry: its atime_ns is malformed"):
        _ = entry.atime_ns


ODD_NAMES = [
    "d/ä.txt",
    "日本",
    "😀",
    os.fsdecode(b"no utf-8 \xff\xc3"),
    'quote " and \\',
    "line\nfeed\x01\x7f",
    "\u2028",
]


@pytest.mark.parametrize("asymmetric", [False, True], ids=["keyfile", "x25519"])
def test_pogcli_restores_from_our_manifest(pogcli: Runner, tmp_path: Path, asymmetric: bool) -> None:
    """Names of every kind, further keys, frames, a trailer; the frame was begun before its size was known."""
    (tmp_path / "key").write_bytes(PRIVATE)
    key = PAIR if asymmetric else keys.from_keyfile(str(tmp_path / "key"))
    writer = manifest.Writer(key)
    contents = {name: name.encode("utf-8", "surrogateescape") * 1000 for name in ODD_NAMES}
    for name, content in contents.items():
        blobs, stored = oracle.seal_file(oracle_of(key), content, 3000, layout="frames")
        for blob, data in stored.items():
            (tmp_path / blob).write_bytes(data)
        more = {"size": len(content), "mtime_ns": 1_580_000_000_250_000_000, "user": "\udcff", "xattrs": {"user.x": ""}}
        writer.add(name, Entry(blobs, 1580000000.0, 1580000000.25, more))
    (tmp_path / "made.mfn").write_bytes(writer.seal({"program": "a test", "links": {"l": {"target": "\udcff"}}}))
    option = "--decryption-keyfile=key" if asymmetric else "--keyfile=key"
    ran = pogcli(
        option, "--decrypt", "made.mfn", cwd=tmp_path, env={**os.environ, "PYTHONIOENCODING": ":surrogateescape"}
    )
    assert ran.code == 0, ran.err
    for name, content in contents.items():
        assert (tmp_path / name).read_bytes() == content
        assert (tmp_path / name).stat().st_mtime == 1580000000.25


MANY = """
import hashlib, os, sys

if worker := os.fork():  # a process counts the memory of the one that began it, and pytest's is large
    _, status, usage = os.wait4(worker, 0)
    print(usage.ru_maxrss // (1024 if sys.platform == "darwin" else 1), file=sys.stderr)
    sys.exit(os.waitstatus_to_exitcode(status))

from base64 import urlsafe_b64encode
from pogfast.keys import Key
from pogfast.manifest import Entry, Writer, open
from pogfast._engine import public_key

key = Key("x25519", public_key(bytes(32)), bytes(32))
if sys.argv[1] == "write":
    writer = Writer(key)
    for number in range(200_000):
        ns = 1_700_000_000_000_000_000 + number * 7_919_123_457
        name = f"home/someone/projects/{number // 1000}/file-number-{number}.txt" + sys.argv[2] * (number == 150_000)
        writer.add(name, Entry([urlsafe_b64encode(hashlib.sha256(os.fsencode(name)).digest()).decode()], ns / 1e9,
            ns / 1e9, dict(size=number, mode=0o644, uid=1000, gid=1000, user="someone", group="someone", mtime_ns=ns,
            atime_ns=ns)))
    sys.stdout.buffer.write(writer.seal({}))
else:
    entries = open(sys.stdin.buffer.read(), key, "m").entries
    assert sum(entry.size for entry in entries.values() if entry.mtime_ns) == 200_000 * 199_999 // 2
"""


@pytest.mark.parametrize(("more", "listing"), [("", 150), ("\udcff", 200)], ids=["utf-8", "surrogate"])
def test_memory_grows_with_the_text_only(more: str, listing: int) -> None:
    """200,000 entries of 300 bytes: 60 MB of JSON. Bounds in MB, of the whole process."""
    wrote = subprocess.run([sys.executable, "-c", MANY, "write", more], capture_output=True, check=True)
    read = subprocess.run([sys.executable, "-c", MANY, "list", ""], input=wrote.stdout, capture_output=True, check=True)
    assert int(wrote.stderr) / 1000 < 120
    assert int(read.stderr) / 1000 < listing


def test_names_of_blobs() -> None:
    assert manifest.is_blob_name(NAME)
    for wrong in ("", NAME[:-1], NAME + "=", NAME.replace("=", "A"), "é" + NAME[1:], NAME[:-2] + "B=", "/" + NAME[1:]):
        assert not manifest.is_blob_name(wrong), wrong


# ---- FORMAT.md, "Limits" ----

LONGEST, DEEPEST = "n" * 65_535, "/".join(["p"] * 4096)


@pytest.mark.parametrize("name", [LONGEST, DEEPEST, "ä" * 65_535])
def test_a_name_at_the_limit(name: str) -> None:
    archive = Manifest({name: Entry([], 0, 0)}, {"directories": {name: {}}})
    assert manifest.open(manifest.seal(archive, SYMMETRIC), SYMMETRIC, "m") == archive


@pytest.mark.parametrize("name", [LONGEST + "n", DEEPEST + "/", "n/" * 32_768], ids=["long", "deep", "both"])
def test_a_name_beyond_the_limit(name: str) -> None:
    with pytest.raises(PogfastError, match="too long for an archive"):
        manifest.Writer(SYMMETRIC).add(name, Entry([], 0, 0))
    for word in ("directories", "links", "fifos"):
        data = manifest.seal(Manifest({}, {"host": "h", word: {"a": {}, name: {}}}), SYMMETRIC)
        for way in (manifest.open, manifest.open_trailer):
            with pytest.raises(CorruptManifest, match="m: a name in it is longer"):
                way(data, SYMMETRIC, "m")
    entries = compress(json.dumps({"a": json.loads(FACTS), name: json.loads(FACTS)}).encode())
    with pytest.raises(CorruptManifest, match="m: a name in it is longer"):
        manifest.open(sealed(entries), SYMMETRIC, "m")


def test_frames_up_to_the_limit() -> None:
    for more in (0, 1):
        data = sealed(compress(b"{}") + skippable(oracle.PADDING, b"") * (255 + more))
        if not more:
            assert manifest.open(data, SYMMETRIC, "m").entries == {}
            continue
        with pytest.raises(CorruptManifest, match="more than 256 frames"):
            manifest.open(data, SYMMETRIC, "m")


@pytest.mark.parametrize("first", [0x4F, 0x60])
def test_a_frame_that_is_almost_skippable_is_damage(first: int) -> None:
    odd = skippable(bytes([first]) + oracle.PADDING[1:], b"")
    with pytest.raises(CorruptManifest, match="not made of zstd frames"):
        manifest.open(sealed(compress(b"{}") + odd), SYMMETRIC, "m")


@pytest.mark.parametrize("size", [True, False])
def test_text_up_to_the_limit(size: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several frames together, with or without a content size."""
    monkeypatch.setattr("pogfast.manifest.frames.SMALL_TEXT", 300_000)
    monkeypatch.setattr("pogfast.manifest.frames.DENSE_TEXT", 0)
    monkeypatch.setattr("pogfast.manifest.frames.FEED", 64)
    compressor = zstandard.ZstdCompressor(write_content_size=size)
    noise = os.urandom(400).hex().encode()  # text in each of the pieces that are decompressed
    for length, content in itertools.product((300_000, 300_001), (b"", noise)):
        text = b'{"":"%s"}' % content[: length - 7]
        text += b" " * (length - len(text))
        for cuts in ((), (1000,), (299_999,)):
            pieces = [text[start:end] for start, end in zip((0, *cuts), (*cuts, length), strict=True)]
            data = sealed(b"".join(map(compressor.compress, pieces)))
            if length == 300_000:
                assert list(manifest.open(data, SYMMETRIC, "m").entries) == [""]
                continue
            with pytest.raises(CorruptManifest, match="more JSON than"):
                manifest.open(data, SYMMETRIC, "m")


def test_dense_text_needs_a_manifest_of_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """128 times the bytes of the payload, skippable frames and their headers included."""
    monkeypatch.setattr("pogfast.manifest.frames.SMALL_TEXT", 1000)
    monkeypatch.setattr("pogfast.manifest.frames.DENSE_TEXT", 0)
    text = b"{}" + b" " * 199_999
    frame = compress(text)
    short = -(-len(text) // 128) - len(frame) - 8
    for missing in (short - 1, short):
        data = sealed(frame + skippable(oracle.PADDING, bytes(missing)))
        if missing == short:
            assert manifest.open(data, SYMMETRIC, "m").entries == {}
            continue
        with pytest.raises(CorruptManifest, match="more JSON than"):
            manifest.open(data, SYMMETRIC, "m")


@pytest.mark.parametrize("key", KEYS)
def test_sealed_manifests_are_within_the_limit(key: keys.Key, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of zeros has many equal blobs, and a trailer may have as many equal values."""
    monkeypatch.setattr("pogfast.manifest.frames.SMALL_TEXT", 1000)
    for count in (10, 1000, *range(5000, 5030)):
        archive = Manifest({"a": Entry([NAME] * count, 0, 0)})
        data = manifest.seal(archive, key)
        assert manifest.open(data, key, "m") == archive
        assert manifest.blob_names(data, key, "m") == [NAME] * count
    archive = Manifest({}, {"tags": ["tag"] * 100_000})
    assert manifest.open(manifest.seal(archive, key), key, "m") == archive


def test_frames_are_padded_to_the_ratio_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pogfast.manifest.frames.SMALL_TEXT", 1000)
    for text in range(128 * 100, 128 * 103):
        frames = bytearray(101)
        pad_to_ratio(frames, text)
        assert len(frames) * 128 >= text
        assert len(frames) in (101, 101 + 8 + 1, 101 + 8 + 2)


def test_many_equal_blobs_that_0_5_3_wrote_are_opened() -> None:
    """A file of zeros in a million chunks: 48 MB of JSON in 10 kB, and as much in the index."""
    data = (VECTORS / "pogfast-0.5.3" / "zeros.mfn").read_bytes()
    assert len(data) < 20_000
    private = keys.from_decryption_keyfile(str(VECTORS / "broken" / "pki.decrypt"))
    public = keys.from_encryption_keyfile(str(VECTORS / "broken" / "pki.encrypt"))
    blobs = manifest.open(data, private, "m").entries["z/zeros"].blobs
    assert (len(blobs), len(set(blobs))) == (1_073_742, 2)
    assert manifest.blob_names(data, private, "m") == blobs
    assert manifest.open_index(data, public, "m") == sorted(blobs)


@pytest.mark.parametrize("value", [b"[]", b"{}", b'"a"', b"1000", b'{"a":[]}'])
def test_dense_text_of_short_values_is_refused(value: bytes) -> None:
    """It would take twenty times its text in memory."""
    text = b'{"a":{"atime":0,"mtime":0,"blobs":[' + b",".join([value] * ((17 << 20) // (len(value) + 1))) + b"]}}"
    for data in (sealed(compress(text)), sealed(zstandard.ZstdCompressor(write_content_size=False).compress(text))):
        for way in (manifest.open, manifest.blob_names):
            with pytest.raises(CorruptManifest, match="more JSON than"):
                way(data, SYMMETRIC, "m")


def test_dense_text_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pogfast.manifest.frames.SMALL_TEXT", 1000)
    monkeypatch.setattr("pogfast.manifest.frames.DENSE_TEXT", 200_000)
    for more in (0, 1):
        text = b'{"a":{"atime":0,"mtime":0,"blobs":[' + b",".join([b'"%s"' % NAME.encode()] * 4000)
        data = sealed(compress(text + b" " * (199_997 + more - len(text)) + b"]}}"))
        if not more:
            assert len(manifest.open(data, SYMMETRIC, "m").entries["a"].blobs) == 4000
            continue
        with pytest.raises(CorruptManifest, match="more JSON than"):
            manifest.open(data, SYMMETRIC, "m")


def test_dense_text_of_blanks_is_refused() -> None:
    """No archive has values so far apart."""
    with pytest.raises(CorruptManifest, match="more JSON than"):
        manifest.open(sealed(compress(b"{}" + b" " * (32 << 20))), SYMMETRIC, "m")


def test_a_file_of_many_equal_blobs_is_opened() -> None:
    archive = Manifest({"a": Entry([NAME] * 400_000, 0, 0)})
    data = manifest.seal(archive, SYMMETRIC)
    assert manifest.open(data, SYMMETRIC, "m") == archive


def test_an_entry_up_to_the_limit() -> None:
    """4 MiB besides its blobs, their sizes and their stored sizes, which have no such limit."""
    facts = {"blobs": [NAME] * 100_000, "sizes": [1] * 100_000, "stored": [1] * 100_000, "atime": 0, "mtime": 0}
    around = len(writing.ENCODER.encode(facts)) - sum(
        len(writing.ENCODER.encode(facts[word])) for word in ("blobs", "sizes", "stored")
    )
    for length in (4 << 20, (4 << 20) + 1):
        entry = {**facts, "note": "x" * (length - around - len(',"note":""'))}
        noise = skippable(oracle.PADDING, bytes(200_000))  # the text may be dense
        data = sealed(compress(writing.ENCODER.encode({"a": entry})) + noise)
        opened = manifest.open(data, SYMMETRIC, "m").entries
        if length == 4 << 20:
            assert opened["a"].sizes == facts["sizes"]
            continue
        with pytest.raises(CorruptManifest, match="m: the entry a does not parse: it has more than"):
            opened["a"]


# ---- sizes in the store ----


def test_the_index_tells_stored_sizes_only_where_all_are_known() -> None:
    names = [oracle_of(PAIR).name(bytes([number])) for number in range(3)]
    sized = Entry(names[:2], 0, 0, {"stored": [300, 200]})
    for other, told in (
        (Entry([names[2]], 0, 0, {"stored": [100]}), dict(zip(names, (300, 200, 100), strict=True))),
        (Entry([names[2]], 0, 0), {}),
        (Entry([], 0, 0), dict(zip(names, (300, 200), strict=False))),
    ):
        data = manifest.seal(Manifest({"sized": sized, "other": other}), PAIR)
        assert manifest.open_sizes(data, PUBLIC, "m") == told
        assert oracle.open_index(oracle_of(PAIR), data) == sorted([*names[:2], *other.blobs])


def indexed(frames: bytes) -> bytes:
    """An index of these frames, without entries."""
    file_key = os.urandom(32)
    box = secretbox(file_key, frames)
    return secretbox(PAIR.secret, len(box).to_bytes(4, "big") + file_key) + box


@pytest.mark.parametrize("stored", [5, {}, [], [1], [1, 2, 3], [1, "2"], [1, -1], [1, True], [1, 2**63]])
def test_malformed_stored_sizes_are_damage(stored: object) -> None:
    trailer = skippable(oracle.TRAILER, compress(json.dumps({"stored": stored}).encode()))
    other = oracle.OracleKey(SECRET).name(b"other")
    with pytest.raises(CorruptManifest, match="the stored sizes in its index are malformed"):
        manifest.open_sizes(indexed(compress(json.dumps([NAME, other]).encode()) + trailer), PUBLIC, "m")
    entry = Entry([NAME, other], 0, 0, {"stored": stored})
    with pytest.raises(CorruptManifest, match="the stored sizes of its blobs are malformed"):
        entry.stored  # noqa: B018


def test_an_index_in_any_order_is_the_entries() -> None:
    names = sorted(oracle_of(PAIR).name(bytes([number])) for number in range(5))
    data = manifest.seal(Manifest({"a": Entry(names, 0, 0)}), PAIR)
    full = data[manifest.INDEX_HEADER + manifest.index_header(data, PAIR, "m")[1] :]
    reverse = indexed(compress(json.dumps(names[::-1]).encode()))
    assert manifest.blob_names(reverse + full, PAIR, "m") == names


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("length", [0, 1, 7, 8, 255, 256, 257, 511, 512, 513, 2000])
def test_the_sizes_that_one_chunk_can_have(key: keys.Key, length: int) -> None:
    """Padded by one writer, not by another, or to hide its size; and no other sizes."""

    def sizes(length: int) -> set[int]:
        return {around + length, around + length + 8 + length % 256, around + manifest.evened(length)}

    around = key.header_size + 40
    for stored in sizes(length):
        assert all(manifest.can_be_padded_to(size, stored, key) for size in sizes(length))
        near = range(max(0, stored - 400), stored + 400)
        for size in (size for size in near if size != stored and manifest.can_be_padded_to(size, stored, key)):
            assert size >= around
            assert any({size, stored} <= sizes(length) for length in range(min(size, stored) - around + 1))


@pytest.mark.parametrize(("flag", "width"), [(0, 0), (1, 1), (2, 2), (3, 4)])
def test_a_frame_with_a_dictionary_is_skipped(flag: int, width: int) -> None:
    """RFC 8878, 3.1.1.1.3: its number has as many bytes as the descriptor says."""
    frame = bytes.fromhex("28b52ffd") + bytes([0b00100000 | flag]) + bytes([7] * width) + b"\2" + b"\x11\0\0{}"
    data = sealed(frame + TRAILER)
    assert manifest.open_trailer(data, SYMMETRIC, "m") == {"host": "h"}
    if flag:
        with pytest.raises(CorruptManifest):
            manifest.open(data, SYMMETRIC, "m")
    else:
        assert manifest.open(data, SYMMETRIC, "m").entries == {}


@pytest.mark.parametrize("time", [sys.float_info.max, -sys.float_info.max, 10**300])
def test_the_largest_times(time: float) -> None:
    opened = manifest.open(manifest.seal(Manifest({"a": Entry([], time, time)}), SYMMETRIC), SYMMETRIC, "m")
    assert opened.entries["a"].mtime == time
    assert abs(opened.entries["a"].mtime_ns) == 2**63 - 1


# ---- quick ways ----


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"size": 0}, (0, "")),
        ({"size": 2**63 - 1}, (2**63 - 1, "")),
        ({"size": 5, "hardlink": "first"}, (5, "first")),
        ({"size": 5, "hardlink": ["first"]}, (5, "")),
        ({"sizes": [5]}, (5, "")),
        ({"hardlink": "first"}, (None, "first")),
        ({"hardlink": 5}, (None, "")),
        ({"note": "\udcff", "size": 5, "hardlink": "\udcff"}, (5, "\udcff")),
    ],
)
def test_an_outline_agrees_with_the_entry(more: dict[str, object], told: tuple[int | None, str]) -> None:
    archive = Manifest({"a": Entry([NAME], 0, 0, more)})
    opened = manifest.open(manifest.seal(archive, SYMMETRIC), SYMMETRIC, "m")
    for entries in (archive.entries, opened.entries):
        assert manifest.outline(entries, "a") == told


@pytest.mark.parametrize("size", [-1, -(2**63), 2**63, 2**70, 0.5, "5"])
def test_an_outline_of_a_malformed_size_is_damage(size: object) -> None:
    opened = manifest.open(manifest.seal(Manifest({"a": Entry([], 0, 0, {"size": size})}), SYMMETRIC), SYMMETRIC, "m")
    with pytest.raises(CorruptManifest, match="its size is malformed"):
        manifest.outline(opened.entries, "a")


@pytest.mark.parametrize("host", ["h", "\udcff"])
def test_the_facts_of_a_trailer(host: str) -> None:
    trailer = {"host": host, "directories": {"d": {}}, "links": {}, "fifos": {"f": {}}, "tags": ["links"]}
    data = manifest.seal(Manifest({}, trailer), SYMMETRIC)
    assert manifest.open_facts(data, SYMMETRIC, "m") == {"host": host, "tags": ["links"]}
    assert manifest.open_facts(manifest.seal(Manifest({}), SYMMETRIC), SYMMETRIC, "m") is None


def test_a_manifest_that_begins_with_zeros_is_damaged() -> None:
    for key in (SYMMETRIC, PAIR):
        data = manifest.seal(Manifest({}), key)
        for way in (manifest.open, manifest.open_facts, manifest.blob_names):
            with pytest.raises(CorruptManifest, match="m is damaged: it begins with zeros"):
                way(bytes(len(data)), key, "m")


USUAL = {"size": 5, "mtime_ns": 7, "mode": 0o644, "uid": 1, "gid": 2, "user": "u", "group": "g", "hardlink": "b"}


@pytest.mark.parametrize(
    "change",
    [
        {},
        *({word: value} for word in USUAL for value in (-1, 2**63, 2**70, 0.5, 1.0, True, None, "x", "\udcff", [])),
        *({"blobs": value} for value in (["x"], [1], None, {}, [NAME, NAME])),
        *({word: value} for word in ("atime", "mtime") for value in (1, 2**70, 10**400, True, None, "1")),
    ],
)
def test_a_plain_entry_is_as_the_other_reader_says(change: dict[str, object]) -> None:
    words = {"blobs": [NAME], "atime": 1.5, "mtime": 2.5, **USUAL, **change}
    text = json.dumps(words).encode()
    plain = manifest.plain_entry(text)
    try:
        entry = manifest.parse_entry(text, "m")
        told = entry.size, entry.mtime_ns
    except CorruptManifest:
        assert plain is None
        return
    assert plain is not None or change, "the usual form"
    if plain is not None:
        assert (plain.blobs, plain.atime, plain.mtime) == (entry.blobs, entry.atime, entry.mtime)
        assert (plain.size, plain.mtime_ns) == told
        for word in ("mode", "uid", "gid", "user", "group", "hardlink"):
            assert getattr(plain, word) == entry.more.get(word)

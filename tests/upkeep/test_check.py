"""Whether a store has what its archives need: damage of all kinds, each found, named, and found once."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pogfast
from kit import oracle
from kit.built import CHUNK, DAMAGE, KEY, ORACLE, SECRET, Built, Silent
from kit.files import flip, text
from kit.vectors import Vector, key_of
from pogfast import keys, manifest
from pogfast._engine import open_blob, seal_blob
from pogfast.archives.lookup import open_archive
from pogfast.errors import NoSuchArchive, OtherKey, PogfastError, StoreError, UsageError, WrongKey
from pogfast.pog.create import Source, create
from pogfast.stores import open_store
from pogfast.stores.local import LocalStore
from pogfast.stores.names import Stored
from pogfast.upkeep.checking import Damage, Subset, Summary, Unit, check
from pogfast.upkeep.reads import share_of

module = sys.modules[Subset.__module__]  # pogfast.check is the function
EVERYTHING = Subset.parse("100%")


@pytest.fixture
def built(tmp_path: Path) -> Built:
    return Built(tmp_path / "store")


class Heard:
    """What was reported."""

    def __init__(self) -> None:
        self.damaged: list[Damage] = []
        self.problems: list[PogfastError] = []
        self.warnings: list[str] = []
        self.progress = Summary()

    def started(self, progress: Summary) -> None:
        assert progress.archives == 0
        self.progress = progress

    def damage(self, damage: Damage) -> None:
        self.damaged.append(damage)

    def problem(self, error: PogfastError) -> None:
        self.problems.append(error)

    def warning(self, text: str) -> None:
        self.warnings.append(text)

    note = warning


def checked(where: str | Path | Sequence[str], key: keys.Key = KEY, **more: Any) -> tuple[Summary, Heard]:
    heard = Heard()
    texts = [str(where)] if isinstance(where, str | Path) else where
    summary = check(texts, key, report=heard, **more)
    assert summary is heard.progress
    assert (summary.damage, summary.problems) == (heard.damaged, heard.problems)
    return summary, heard


def said(summary: Summary) -> list[tuple[str | None, int | None, str]]:
    """(file, offset, what is wrong with the blob) of each damage."""
    return [(one.name, one.offset, re.sub(r"^.*?blob \S+ ", "", one.error)) for one in summary.damage]


# ---- what the cache says of archives --------------------------------------------------------------------------------


class Service(LocalStore):
    """A directory that is listed with versions, as buckets are, and counts which manifests are fetched."""

    fetched: list[str]

    def manifests(self) -> list[Stored]:
        return [each._replace(version="etag") for each in super().manifests()]

    def get_manifest(self, name: str) -> bytes:
        Service.fetched.append(name)
        return super().get_manifest(name)


@pytest.fixture
def several(built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three archives, made long ago."""
    monkeypatch.setenv("POGFAST_CACHE_DIR", str(tmp_path / "cache"))
    for number in range(3):
        for name, content in (("same", b"same"), ("own", b"%d" % number), ("long", text(3 * CHUNK))):
            blobs = built.add(name, content)
            built.entries[name]["stored"] = [built.blob(blob).stat().st_size for blob in blobs]
        built.add(f"empty {number}", b"", stored=None)
        path = Path(built.seal(f"2026-01-0{number + 1}T00:00:00.000000.mfn", {"host": f"h{number}", "totals": {}}))
        os.utime(path, (1e9, 1e9))
    return built.path


@pytest.fixture
def service(several: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(module, "open_store", lambda text: Service.open(text, fan_out=True))
    Service.fetched = []
    return several


def test_manifests_in_a_directory_are_read_each_time(several: Path) -> None:
    """A flipped bit changes neither size nor time."""
    first, _ = checked(several)
    assert (first.exit_code, first.archives, first.files, first.total_archives) == (0, 3, 12, 3)
    again, _ = checked(several)
    assert (again.exit_code, again.archives, again.files, again.blobs, again.stored) == (
        *(0, 3, 12, first.blobs, first.stored),
    )
    path = several / "2026-01-02T00:00:00.000000.mfn"
    flip(path, 200)
    os.utime(path, (1e9, 1e9))
    for _ in range(2):
        summary, _ = checked(several)
        assert [damage.archive for damage in summary.damage] == [path.name]
    flip(path, 200)
    os.utime(path, (1e9, 1e9))
    assert checked(several)[0].exit_code == 0


def test_manifests_of_which_a_listing_tells_the_version_are_read_once(service: Path) -> None:
    for fetched in (3, 0):
        summary, _ = checked(service)
        assert (summary.exit_code, summary.archives, summary.files, len(Service.fetched)) == (0, 3, 12, fetched)
        Service.fetched.clear()
    assert checked(service, read_data=EVERYTHING)[0].exit_code == 0
    assert len(Service.fetched) == 3, "with --read-data each is read again"
    path = service / "2026-01-02T00:00:00.000000.mfn"
    flip(path, 200)
    os.utime(path, (1e9, 1e9))
    assert [damage.archive for damage in checked(service, read_data=EVERYTHING)[0].damage] == [path.name]


@pytest.mark.parametrize("how", ["missing", "longer", "shorter", "padded"])
def test_what_is_wrong_is_found_in_archives_that_are_known(
    service: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    checked(service)
    opened = manifest.open((service / "2026-01-01T00:00:00.000000.mfn").read_bytes(), KEY, "m")
    for name, archives in (("same", 3), ("own", 1)):
        [blob] = opened.entries[name].blobs
        path = service / "data" / blob[:2] / blob
        whole = path.read_bytes()
        size = {"longer": len(whole) + 300, "shorter": 80, "padded": 0}.get(how)
        path.unlink()
        if size == 0:
            path.write_bytes(seal_blob(SECRET, False, open_blob(SECRET, None, whole), 10**9, True)[1])
        elif size is not None:
            path.write_bytes((whole + bytes(300))[:size])
        Service.fetched.clear()
        known, _ = checked(service)
        assert len(Service.fetched) == (0 if how == "padded" else archives)
        monkeypatch.setenv("POGFAST_CACHE_DIR", os.fspath(service.parent / f"fresh-{how}-{name}"))
        fresh, _ = checked(service)
        assert known == replace(fresh, in_progress=known.in_progress)
        assert [damage.name for damage in known.damage] == [name] * (0 if how == "padded" else archives)
        monkeypatch.setenv("POGFAST_CACHE_DIR", os.fspath(service.parent / "cache"))
        path.write_bytes(whole)


def test_archives_that_are_known_are_selected(service: Path) -> None:
    for _ in range(2):
        summary, _ = checked(service, host="h1")
        assert (summary.archives, summary.total_archives, summary.files) == (1, 1, 4)


# ---- what is whole -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["frames", "stream"])
@pytest.mark.parametrize("read_data", [None, EVERYTHING])
def test_a_whole_archive_of_real_files(tmp_path: Path, layout: str, read_data: Subset | None) -> None:
    contents = {
        "big": random.Random(1).randbytes(700_000) + text(900_000),
        "small": b"small",
        "empty": b"",
        "same": b"small",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    target = open_store(str(tmp_path / "store"), create=True)
    sources = [Source(str(tmp_path / name), name) for name in contents]
    made = create(sources, KEY, [target], chunk_size=100_000, level=3, jobs=2, report=Silent())
    target.close()
    for where in (f"{tmp_path}/store", f"{tmp_path}/store/latest", f"local:{tmp_path}/store/{made.manifest_name}"):
        summary, heard = checked(where, read_data=read_data)
        stored = {path.name: path.stat().st_size for path in (tmp_path / "store/data").rglob("*=")}
        assert (summary.damage, summary.problems, heard.warnings, summary.exit_code) == ([], [], [], 0)
        assert (summary.total_archives, summary.archives, summary.files) == (1, 1, 4)
        assert (summary.blobs, summary.stored) == (len(stored), sum(stored.values()))
        read = (len(stored), sum(stored.values())) if read_data else (0, 0)
        assert (summary.to_read, summary.to_read_size) == (summary.read, summary.read_size) == read


def test_the_vectors_are_whole(vector: Vector) -> None:
    summary, _ = checked(vector.directory, key_of(vector), read_data=EVERYTHING)
    assert (summary.exit_code, summary.archives, summary.files) == (0, 1, len(vector.expected["files"]))
    assert summary.read == summary.blobs > 0


def test_an_archive_without_blobs_is_whole(built: Built) -> None:
    built.entries["no blobs"] = {"blobs": [], "atime": 0, "mtime": 0, "size": 0}
    built.seal()
    summary, _ = checked(built.path, read_data=EVERYTHING)
    assert (summary.files, summary.read, summary.exit_code) == (1, 0, 0)


def test_a_blob_of_several_streams_counts_once(built: Built) -> None:
    """Each stream is read separately; `24 of 15 blobs read` would make no sense."""
    content = random.Random(5).randbytes(10 * CHUNK)
    shared = set(built.add("f", content, "stream")) & set(built.add("g", content + b"more", "stream"))
    built.seal()
    assert len(shared) > 5
    summary, _ = checked(built.path, read_data=EVERYTHING)
    read = (summary.read, summary.read_size)
    assert read == (summary.to_read, summary.to_read_size) == (summary.blobs, summary.stored)


# ---- damage --------------------------------------------------------------------------------------------------------

BY_SIZE = ("missing", "empty")


@pytest.mark.parametrize("layout", ["frames", "stream"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_listed_by_archive_file_and_offset(built: Built, damage: str, layout: str) -> None:
    content = random.Random(3).randbytes(6 * CHUNK)
    names = built.add("dir/f", content, layout)
    built.add("whole", text(2 * CHUNK))
    built.seal("1.mfn")
    DAMAGE[damage][2](built, names[3], names[0])
    summary, _ = checked(built.path)
    if damage not in BY_SIZE:
        assert (summary.damage, summary.exit_code) == ([], 0), "it does not show without reading"
    summary, _ = checked(built.path, read_data=EVERYTHING)
    [one] = summary.damage
    assert (one.archive, one.name, one.blob) == ("1.mfn", "dir/f", names[3])
    assert one.error.startswith(f"dir/f: blob {names[3]} ")
    if layout == "frames":
        assert one.offset == 3 * CHUNK
    elif damage not in BY_SIZE:
        with open_archive(f"{built.path}/1.mfn", KEY) as archive, archive.open("dir/f") as file:
            assert file.read(one.offset) == content[: one.offset]
            assert one.offset is not None
            assert 0 <= 3 * CHUNK - one.offset < CHUNK
    assert (summary.exit_code, summary.archives) == (4, 1)
    json.dumps(one.as_dict())


def test_all_files_that_need_a_blob_are_listed_and_it_is_read_once(built: Built) -> None:
    for number in range(3):
        names = built.add("f", text(3 * CHUNK))
        built.add("g", text(3 * CHUNK) + b"tail")
        built.add("h", b"h")
        built.seal(f"{number}.mfn")
    flip(built.blob(names[1]), -1)
    summary, _ = checked(built.path, read_data=EVERYTHING)
    assert [(one.archive, one.name, one.offset) for one in summary.damage] == [
        (f"{number}.mfn", name, CHUNK) for number in range(3) for name in ("f", "g")
    ]
    assert (summary.read, summary.blobs) == (5, 5)
    summary, _ = checked([f"{built.path}/0.mfn", f"{built.path}/2.mfn", f"{built.path}/latest"], read_data=EVERYTHING)
    assert {one.archive for one in summary.damage} == {"0.mfn", "2.mfn"}
    assert (summary.archives, summary.read) == (2, 5)


def test_lengths_that_are_not_the_contents_are_damage(built: Built) -> None:
    built.add("one", text(CHUNK), size=CHUNK + 1)
    built.add("frames", text(2 * CHUNK, 500), sizes=[CHUNK + 1, CHUNK - 1])
    built.add("stream", text(3000, 900), "stream", 100, size=2999)
    built.add("good", text(3000, 900), "stream", 100, size=3000)
    built.seal()
    summary, _ = checked(built.path)
    assert summary.damage == []
    summary, _ = checked(built.path, read_data=EVERYTHING)
    assert {(one.name, one.offset) for one in summary.damage} >= {("one", 0), ("frames", 0), ("frames", CHUNK + 1)}
    assert {one.name for one in summary.damage} == {"one", "frames", "stream"}
    assert {error for _, _, error in said(summary)} == {"does not decompress to what its file should be"}


@pytest.mark.parametrize("off", [-200, -1, 1])
def test_the_size_of_a_streams_blobs_shows_damage_without_reading(built: Built, off: int) -> None:
    content = random.Random(3).randbytes(4 * CHUNK)
    names = built.add("f", content, "stream")
    blob = built.blob(names[1])
    blob.write_bytes((blob.read_bytes() + b"more")[: blob.stat().st_size + off])
    built.seal("1.mfn", {"layout": "stream", "chunk_size": CHUNK})
    summary, _ = checked(built.path)
    [one] = summary.damage
    assert (one.name, one.blob, one.offset) == ("f", names[1], None)
    assert ("cut short" if off < 0 else f"instead of {72 + 40 + CHUNK}") in one.error


@pytest.mark.parametrize("role", ["private", "public"])
@pytest.mark.parametrize("off", [-1, 1])
def test_the_size_that_a_blob_was_stored_with_shows_damage_without_reading(tmp_path: Path, role: str, off: int) -> None:
    keys.create_pair("k", str(tmp_path))
    public, private = (
        keys.from_encryption_keyfile(f"{tmp_path}/k.encrypt"),
        keys.from_decryption_keyfile(f"{tmp_path}/k.decrypt"),
    )
    (tmp_path / "file").write_bytes(os.urandom(3000))
    pogfast.create([str(tmp_path / "file")], str(tmp_path / "store"), public, chunk_size=1000, cache_dir="")
    damaged, *_ = (tmp_path / "store" / "data").rglob("*=")
    size = damaged.stat().st_size
    os.truncate(damaged, size + off)
    summary, _ = checked(tmp_path / "store", private if role == "private" else public)
    [one] = summary.damage
    assert (one.blob, summary.exit_code) == (damaged.name, 4)
    assert f"{'is cut short' if off < 0 else 'has grown'}: {size + off} bytes, not {size}" in one.error


@pytest.mark.parametrize("size", [100, 40_000])
def test_the_sum_of_an_older_archives_blobs_shows_damage_without_reading(built: Built, size: int) -> None:
    """Archives of pogfast 0.5 have the total size of their blobs only."""
    names = [*built.add("f", random.Random(4).randbytes(20_000)), *built.add("g", b"g")]
    trailer = {"totals": {"files": 2, "stored": sum(built.blob(name).stat().st_size for name in names)}}
    built.seal("1.mfn", trailer)
    assert checked(built.path)[0].damage == []
    for name in names[:10]:
        os.truncate(built.blob(name), 112 + size)
    summary, _ = checked(built.path)
    assert summary.exit_code == 4
    [one] = summary.damage
    assert "some are cut short or have grown; --read-data finds which" in one.error


def test_of_many_malformed_entries_the_first_are_named(built: Built) -> None:
    """Anybody with the public key can write a million of them."""
    for number in range(25):
        built.entries[f"bad{number:02}"] = {"blobs": 5}
    built.add("good", b"g")
    built.seal("1.mfn")
    summary, _ = checked(built.path)
    assert [one.name for one in summary.damage] == [f"bad{number:02}" for number in range(10)] + [None]
    assert summary.damage[-1].error == "1.mfn: 15 more of its entries are malformed"
    assert (summary.files, summary.blobs, summary.exit_code) == (1, 1, 4)


def test_a_damaged_manifest_is_damage_and_the_rest_is_checked(built: Built) -> None:
    for number in range(3):
        [name] = built.add("f", b"%d" % number)
        built.seal(f"{number}.mfn")
    flip(built.path / "1.mfn", -1)
    built.blob(name).unlink()
    summary, _ = checked(built.path, read_data=EVERYTHING)
    assert [(one.archive, one.name, one.error) for one in summary.damage] == [
        ("1.mfn", None, "1.mfn is damaged or cut short"),
        ("2.mfn", "f", f"f: blob {name} is missing"),
    ]
    assert (summary.archives, summary.exit_code) == (2, 4)
    with pytest.raises(NoSuchArchive):
        checked(f"{built.path}/no.mfn")
    with pytest.raises(NoSuchArchive):
        checked(f"{built.path}/no")


def test_archives_of_other_keys_are_named_and_the_rest_is_checked(built: Built) -> None:
    (built.path / "other.mfn").write_bytes(oracle.seal_manifest(oracle.OracleKey(bytes(32)), {}, {}))
    [blob] = built.add("f", b"x")
    built.seal("1.mfn")
    summary, heard = checked(built.path)
    assert [type(problem) for problem in heard.problems] == [OtherKey]
    assert "other.mfn" in str(heard.problems[0])
    assert (summary.archives, summary.damage, summary.exit_code) == (1, [], 3)
    with pytest.raises(WrongKey):
        checked(built.path, keys.Key("keyfile", bytes(31) + b"x"))
    built.blob(blob).unlink()
    summary, heard = checked(built.path)
    assert (len(heard.problems), len(summary.damage), summary.exit_code) == (1, 1, 4), "damage before all else"


def test_a_blob_that_goes_while_others_are_checked_is_missing(built: Built) -> None:
    """It existed when the blobs were listed."""
    [missing], [going] = built.add("f", b"f"), built.add("g", b"g")
    built.seal("1.mfn")
    built.blob(missing).unlink()

    class Takes(Heard):
        def damage(self, damage: Damage) -> None:
            super().damage(damage)
            built.blob(going).unlink(missing_ok=True)

    summary = check([str(built.path)], KEY, read_data=EVERYTHING, report=Takes())
    assert [(one.name, one.blob) for one in summary.damage] == [("f", missing), ("g", going)]
    assert "is missing" in summary.damage[1].error
    assert (summary.problems, summary.exit_code) == ([], 4)


def test_what_the_disk_gives_no_more_is_damage_and_what_is_forbidden_is_not(built: Built) -> None:
    names = built.add("f", text(3 * CHUNK))
    built.seal()
    heard, summary = Heard(), Summary()
    with_store = open_store(str(built.path))
    run = module._Check(with_store, with_store.manifests(), KEY, module.Filter(), summary, heard, dict, None, None)
    unit = Unit((names[0],), CHUNK)
    run._judge(unit, module.Opened(0, True, module.VERDICT["bad read"], 0, 5, 0, 0))
    assert "cannot be read: Input/output error" in str(run.bad[unit][0])
    run._judge(Unit((names[1],), CHUNK), module.Opened(0, True, module.VERDICT["bad read"], 0, 13, 0, 0))
    assert list(run.bad) == [unit]
    assert [str(problem) for problem in heard.problems] == [
        f"cannot read blob {names[1]} in {built.path}: Permission denied"
    ]
    assert isinstance(heard.problems[0], StoreError)
    assert summary.exit_code == 1
    with_store.close()


# ---- a public key alone --------------------------------------------------------------------------------------------


def test_a_public_key_checks_presence_and_size(tmp_path: Path) -> None:
    private = os.urandom(32)
    both = oracle.OracleKey.of_private(private)
    public = keys.Key("x25519", both.secret)
    built = Built(tmp_path, both)
    names = built.add("f", text(5 * CHUNK))
    built.add("g", text(5 * CHUNK))
    built.seal("1.mfn")
    built.seal("2.mfn")
    flip(tmp_path / "2.mfn", 80)
    summary, heard = checked(tmp_path, public)
    assert ["only the presence and size" in line for line in heard.warnings] == [True]
    assert [(one.archive, one.error) for one in summary.damage] == [
        ("2.mfn", "2.mfn: its index is damaged or cut short")
    ]
    assert (summary.blobs, summary.files) == (5, 0)
    built.blob(names[1]).unlink()
    os.truncate(built.blob(names[2]), 100)
    summary, _ = checked(f"{tmp_path}/1.mfn", public)
    assert {(one.archive, one.name, one.blob, one.offset) for one in summary.damage} == {
        ("1.mfn", None, names[1], None),
        ("1.mfn", None, names[2], None),
    }
    assert summary.exit_code == 4
    for more in ({"read_data": EVERYTHING}, {"host": "h"}):
        with pytest.raises(WrongKey, match="public key"):
            checked(tmp_path, public, **more)
    summary, _ = checked(tmp_path, keys.Key("x25519", both.secret, private), read_data=EVERYTHING)
    assert {(one.name, one.offset) for one in summary.damage} == {
        (None, None),  # the index of 2.mfn
        *((name, at * CHUNK) for name in ("f", "g") for at in (1, 2)),
    }


# ---- which archives ------------------------------------------------------------------------------------------------


def test_archives_are_chosen_by_host_tag_and_path(built: Built) -> None:
    for name, trailer in {"1": {"host": "a"}, "2": {"host": "b", "tags": ["t"]}, "3": {"paths": ["/p"]}}.items():
        [blob] = built.add("f", name.encode())
        built.seal(f"{name}.mfn", trailer)
        built.blob(blob).unlink()
    for more, names in (
        ({}, ["1.mfn", "2.mfn", "3.mfn"]),
        ({"host": "a"}, ["1.mfn"]),
        ({"tags": ["t"]}, ["2.mfn"]),
        ({"path": "/p/"}, ["3.mfn"]),
    ):
        summary, _ = checked(built.path, **more)
        assert [one.archive for one in summary.damage] == names
        assert summary.total_archives == summary.archives == len(names)
    with pytest.raises(NoSuchArchive, match="no archive from host c in"):
        checked(built.path, host="c")
    with pytest.raises(UsageError):
        checked(f"{built.path}/1.mfn", host="a")


# ---- a part of the data --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("10%", ("percent", 10.0, 1)),
        ("0.5%", ("percent", 0.5, 1)),
        ("100%", ("percent", 100.0, 1)),
        ("1/1", ("part", 1, 1)),
        ("30/30", ("part", 30, 30)),
        ("1", ("size", 1, 1)),
        ("50G", ("size", 50 * 10**9, 1)),
        ("1.5 MB", ("size", 1_500_000, 1)),
        ("2kib", ("size", 2048, 1)),
        ("7B", ("size", 7, 1)),
    ],
)
def test_how_a_part_is_written(written: str, meant: tuple[str, float, int]) -> None:
    subset = Subset.parse(written)
    assert (subset.kind, subset.number, subset.of) == meant


@pytest.mark.parametrize(
    "written",
    [
        "",
        "%",
        "0%",
        "101%",
        "-1%",
        "nan%",
        "inf%",
        "1/0",
        "0/3",
        "4/3",
        "1/2/3",
        "a/b",
        "0",
        "-5",
        "5X",
        "G",
        "1e3",
        "5iB5",
    ],
)
def test_what_is_no_part(written: str) -> None:
    with pytest.raises(UsageError, match="is no part of the data"):
        Subset.parse(written)


UNITS = st.sets(st.binary(min_size=1, max_size=2), max_size=40).map(
    lambda chunks: [Unit((ORACLE.name(chunk),), 1) for chunk in sorted(chunks)]
)


@given(units=UNITS, parts=st.integers(1, 9))
def test_parts_make_the_whole(units: list[Unit], parts: int) -> None:
    chosen = [Subset.parse(f"{part}/{parts}").choose(units, {}) for part in range(1, parts + 1)]
    assert Counter(unit for part in chosen for unit in part) == Counter(units)
    assert chosen[0] == Subset.parse(f"1/{parts}").choose(units, {}), "the same every time"


@given(units=UNITS, percent=st.floats(0.1, 100))
def test_so_many_of_a_hundred(units: list[Unit], percent: float) -> None:
    chosen = Subset.parse(f"{percent}%").choose(units, {})
    assert set(chosen) <= set(units)
    assert len(set(chosen)) == len(chosen)
    shares = Counter(share_of(unit.blobs[0]) for unit in units)
    assert 0 <= len(chosen) - len(units) * percent / 100 < max(shares.values(), default=1)
    assert chosen or not units


@given(units=UNITS, sizes=st.lists(st.integers(0, 50), min_size=40, max_size=40), room=st.integers(1, 1000))
def test_at_most_so_many_bytes(units: list[Unit], sizes: list[int], room: int) -> None:
    stored = {unit.blobs[0]: size for unit, size in zip(units, sizes, strict=False)}
    chosen = Subset.parse(str(room)).choose(units, stored)
    used = sum(stored[unit.blobs[0]] for unit in chosen)
    assert used <= room
    left: Counter[int] = Counter()
    for unit in set(units).difference(chosen):
        left[share_of(unit.blobs[0])] += stored[unit.blobs[0]]
    assert all(size > room - used for size in left.values()), "what fits is read"


def test_parts_differ_from_run_to_run_but_not_those_by_number() -> None:
    units = [Unit((ORACLE.name(bytes([number])),), 1) for number in range(200)]
    stored = {unit.blobs[0]: 1 for unit in units}
    for written in ("10%", "20"):
        assert len({frozenset(Subset.parse(written).choose(units, stored)) for _ in range(5)}) == 5
    sizes = [len(Subset.parse(f"{part}/4").choose(units, stored)) for part in range(1, 5)]
    assert min(sizes) > 25, "names spread evenly"


def test_only_the_part_is_read(built: Built) -> None:
    names = built.add("f", text(20 * CHUNK))
    built.seal()
    for name in names:
        flip(built.blob(name), -1)
    found: list[str | None] = []
    for part in range(1, 4):
        summary, _ = checked(built.path, read_data=Subset.parse(f"{part}/3"))
        assert summary.to_read == summary.read == len(summary.damage) < 20
        found += [one.blob for one in summary.damage]
    assert sorted(filter(None, found)) == sorted(names)
    summary, _ = checked(built.path, read_data=Subset.parse("25%"))
    assert len(summary.damage) == 5


def test_what_is_read_is_counted_before_it_is_through(built: Built) -> None:
    """A progress display of one huge file needs this; a caller may ignore it."""
    built.add("f", text(10 * CHUNK), "stream", CHUNK)
    built.seal()
    seen: list[int] = []

    class Watching(Heard):
        def started(self, progress: Summary) -> None:
            super().started(progress)
            watching = progress.__class__.__setattr__

            def watch(_: Summary, name: str, value: Any) -> None:
                watching(progress, name, value)
                if name == "read":  # the engine has told of the file, and it is not settled yet
                    seen.append(progress.in_progress())

            progress.__class__ = type("Watched", (Summary,), {"__setattr__": watch})

    summary = check([str(built.path)], KEY, read_data=EVERYTHING, report=Watching())
    assert seen[-1] == summary.stored == summary.read_size
    assert summary.in_progress() == 0
    assert check([str(built.path)], KEY).blobs == summary.blobs


def test_many_batches(built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH", 3)
    names = built.add("f", text(10 * CHUNK))
    built.add("g", text(3000), "stream", 100)
    built.seal()
    flip(built.blob(names[7]), -1)
    summary, _ = checked(built.path, read_data=EVERYTHING, jobs=3)
    assert [(one.name, one.offset) for one in summary.damage] == [("f", 7 * CHUNK)]
    assert summary.read == summary.blobs


def test_nothing_is_written_but_what_was_read_and_nothing_left_open(built: Built) -> None:
    names = built.add("f", text(10 * CHUNK))
    built.seal()
    flip(built.blob(names[7]), -1)
    before = {path: path.stat().st_mtime_ns for path in built.path.rglob("*")}
    files = len(os.listdir("/proc/self/fd"))
    checked([str(built.path), f"{built.path}/latest"], read_data=EVERYTHING)
    assert len(list(built.path.glob("verified.*"))) == 1
    after = {path: path.stat().st_mtime_ns for path in built.path.rglob("*") if not path.name.startswith("verified.")}
    assert after == before
    assert len(os.listdir("/proc/self/fd")) == files
    shutil.rmtree(built.path / "data")
    summary, _ = checked(built.path, read_data=EVERYTHING)
    assert len(summary.damage) == 10

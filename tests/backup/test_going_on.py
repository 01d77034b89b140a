"""Runs that go on from the partial manifest of an interrupted one, as on another machine, where no cache knows it."""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import pytest

import pogfast
from kit.commands import Runner
from pogfast import backup, keys, manifest
from pogfast.backup import going_on
from pogfast.backup import run as run_module
from pogfast.errors import CorruptManifest
from pogfast.manifest import opening, writing
from pogfast.stores import targets

CHUNK = 10_000
LARGE = 1000 * CHUNK + 1  # bytes: several times as long as two looks at the engine take
Entries = Mapping[str, manifest.Entry]
Create = Callable[..., backup.Summary]


class Killed(BaseException):
    """Ends a run as a signal does: nothing is concluded."""


@pytest.fixture(params=["keyfile", "pair"])
def key(request: pytest.FixtureRequest, tmp_path: Path) -> keys.Key:
    """What a machine that writes has: of a key pair the public key alone."""
    pogfast.keygen(str(tmp_path / "pair"))
    (tmp_path / "keyfile").write_bytes(b"a key")
    if request.param == "pair":
        return keys.from_encryption_keyfile(str(tmp_path / "pair.encrypt"))
    return keys.from_keyfile(str(tmp_path / "keyfile"))


@pytest.fixture
def reader(key: keys.Key, tmp_path: Path) -> keys.Key:
    """What opens archives."""
    return keys.from_decryption_keyfile(str(tmp_path / "pair.decrypt")) if key.asymmetric else key


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    # The files of a test are new; otherwise they count as changed for a minute.
    monkeypatch.setattr(going_on, "MARGIN_NS", 0)
    Path("tree", "d").mkdir(parents=True)
    for number in range(8):
        Path("tree", f"small-{number}").write_bytes(os.urandom(500))
    Path("tree", "d", "large").write_bytes(os.urandom(LARGE))
    Path("tree", "e").write_bytes(b"")
    os.link("tree/small-3", "tree/small-9")
    return tmp_path


@pytest.fixture
def create(key: keys.Key, monkeypatch: pytest.MonkeyPatch) -> Create:
    """Archives the tree, as on a machine of its own. It is killed when a partial manifest is what `killed_at` says."""
    machines = 0

    def call(*paths: str, killed_at: Callable[[Entries], bool] | None = None, **more: object) -> backup.Summary:
        nonlocal machines
        machines += 1
        more = {"chunk_size": CHUNK, "jobs": 1, "cache_directory": f"cache-{machines}", **more}
        if killed_at is None:
            return backup.create(paths or ["tree"], "store", key, **more)
        put = targets.Partial.put

        def put_and_die(self: targets.Partial, seal: Callable[[], bytes]) -> None:
            data = seal()
            put(self, lambda: data)
            if killed_at(manifest.open_partial(data, key, "it").entries):
                raise Killed

        with monkeypatch.context() as patched:
            patched.setattr(targets, "PARTIAL_EVERY", 0.0)
            patched.setattr(targets, "PARTIAL_SHARE", 0.0)
            patched.setattr(run_module, "SAVE_EVERY", 0.0)
            patched.setattr(run_module, "SAVE_BLOB", 0.0)
            patched.setattr(targets.Partial, "put", put_and_die)
            with pytest.raises(Killed):
                backup.create(paths or ["tree"], "store", key, **more)
        return backup.Summary()

    return call


def has_begun(entries: Entries) -> bool:
    return any(name.endswith("large.partial") for name in entries)


def has_several(entries: Entries) -> bool:
    return len(entries) >= 3


def partials() -> list[Path]:
    return sorted(Path("store").glob("*.partial"))


def entries_of(name: str, key: keys.Key) -> list[tuple[str, manifest.Entry]]:
    """The entries of an archive in its order, without when they were read."""
    found = manifest.open(Path("store", name).read_bytes(), key, name).entries
    entries = list(found.items())
    for _, entry in entries:
        entry.atime = 0.0
        del entry.more["atime_ns"]
    return entries


def expect_same(summary: backup.Summary, create: Create, reader: keys.Key, tmp_path: Path) -> None:
    """The archive is what one run makes that was never interrupted, and is whole."""
    again = create(force=True)
    assert entries_of(summary.manifest, reader) == entries_of(again.manifest, reader)
    assert pogfast.check(f"store/{summary.manifest}", reader, read_data=True).exit_code == 0


@pytest.mark.parametrize("killed_at", [has_begun, has_several])
def test_another_machine_goes_on(
    work: Path, create: Create, reader: keys.Key, tmp_path: Path, killed_at: Callable[[Entries], bool]
) -> None:
    create(killed_at=killed_at)
    [partial] = partials()
    opened = manifest.open(partial.read_bytes(), reader, partial.name)
    has = sum(entry.size or 0 for entry in opened.entries.values())
    assert has
    summary = create()
    whole = sum(path.stat().st_size for path in Path("tree").rglob("*") if path.is_file()) - 500
    assert summary.bytes_read == whole - has, "nothing that it has is read again"
    assert partials() == [], "the archive supersedes it"
    expect_same(summary, create, reader, tmp_path)


def test_the_beginning_of_a_large_file_is_not_read_again(work: Path, create: Create, reader: keys.Key) -> None:
    create("tree/d/large", killed_at=has_begun)
    [partial] = partials()
    [(name, begun)] = manifest.open(partial.read_bytes(), reader, partial.name).entries.items()
    assert name == "tree/d/large.partial"
    assert 0 < len(begun.blobs) < LARGE // CHUNK
    summary = create("tree/d/large")
    assert summary.bytes_read == LARGE - CHUNK * len(begun.blobs)
    [(_, entry)] = entries_of(summary.manifest, reader)
    assert entry.blobs[: len(begun.blobs)] == begun.blobs


def test_a_file_that_is_called_like_the_beginning_of_another(work: Path, create: Create, reader: keys.Key) -> None:
    """Both have the same time, as from a tar, and the one has chunks that the other could begin with."""
    Path("other").mkdir()
    Path("other/a.partial").write_bytes(os.urandom(3 * CHUNK))
    Path("other/a").write_bytes(os.urandom(5 * CHUNK))
    Path("other/large").write_bytes(os.urandom(LARGE))
    for name in ("a", "a.partial"):
        os.utime(f"other/{name}", (10**9, 10**9))
    create("other", killed_at=has_begun)
    [partial] = partials()
    key = keys.from_encryption_keyfile("pair.encrypt") if reader.asymmetric else reader
    writer, data = manifest.Writer(key), partial.read_bytes()
    opened = manifest.open(data, reader, "it")
    opened.trailer.pop("since")
    writer.add("other/a.partial", opened.entries["other/a.partial"])  # a was not there then
    more = {"since": datetime.now().astimezone().isoformat()}
    partial.write_bytes(writer.snapshot({}, {**opened.trailer, **more}))
    summary = create("other")
    assert summary.files_unchanged == 1
    assert pogfast.restore(f"store/{summary.manifest}", reader, into="out").exit_code == 0
    for path in Path("other").iterdir():
        assert Path("out/other", path.name).read_bytes() == path.read_bytes()


def test_interrupted_twice(work: Path, create: Create, reader: keys.Key, tmp_path: Path) -> None:
    """The second run is killed soon after it began: what the first has stored is not lost, and is in one manifest."""
    create(killed_at=has_several)
    [first] = partials()
    had = dict(manifest.open(first.read_bytes(), reader, first.name).entries)
    Path("tree/0").write_bytes(b"read before all else")
    written = count()
    create(killed_at=lambda entries: next(written) > 0)
    [second] = partials()
    assert first.name != second.name
    has = manifest.open(second.read_bytes(), reader, second.name).entries
    assert set(has) >= set(had)
    summary = create()
    assert summary.bytes_read < CHUNK
    expect_same(summary, create, reader, tmp_path)


# ---- what is not believed --------------------------------------------------------------------------------------------


def test_a_file_that_has_changed_is_read(work: Path, create: Create, reader: keys.Key) -> None:
    """It has the same size and time, so only the time of the change tells."""
    create(killed_at=has_several)
    path = Path("tree/d/large")
    found = path.stat()
    path.write_bytes(os.urandom(found.st_size))
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    summary = create("tree")
    assert pogfast.restore(f"store/{summary.manifest}", reader, into="out").exit_code == 0
    assert Path("out", path).read_bytes() == path.read_bytes()


def test_clocks_differ(work: Path, create: Create, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that was changed less than a minute before the other run began is read again."""
    create(killed_at=has_several)
    monkeypatch.undo()
    monkeypatch.chdir(work)
    assert create().files_unchanged == 0


@pytest.mark.parametrize("more", [{"host": "other"}, {"chunk_size": CHUNK + 1}, {"base": "elsewhere"}, {"force": True}])
def test_another_run(work: Path, create: Create, more: dict[str, object]) -> None:
    create(killed_at=has_several)
    if "base" in more:
        os.mkdir("elsewhere")
        os.rename("tree", "elsewhere/tree")
    assert create(**more).files_unchanged == 0
    assert len(partials()) == 1, "it is left to who can go on from it"


def test_tags_and_comments_make_no_difference(work: Path, create: Create) -> None:
    create(killed_at=has_several)
    assert create(tags=["daily"], comment="again").files_unchanged


def test_blobs_that_the_store_does_not_have_are_stored(
    work: Path, create: Create, reader: keys.Key, tmp_path: Path
) -> None:
    create(killed_at=has_several)
    for path in Path("store", "data").rglob("*="):
        path.unlink()
    summary = create()
    assert summary.files_unchanged == 0
    expect_same(summary, create, reader, tmp_path)


def test_a_partial_manifest_of_the_future(work: Path, create: Create, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would make every file look old."""

    def words(identity: str, since: datetime) -> dict[str, str]:
        return {"run": identity, "since": datetime(2100, 1, 1, tzinfo=UTC).isoformat()}

    monkeypatch.setattr(run_module, "words_of", words)
    create(killed_at=has_several)
    monkeypatch.undo()
    monkeypatch.chdir(work)
    assert create().files_unchanged == 0


# ---- who can open it -------------------------------------------------------------------------------------------------


def test_the_public_key_opens_partial_manifests_and_no_others(
    work: Path, create: Create, key: keys.Key, reader: keys.Key
) -> None:
    create(killed_at=has_several)
    [partial] = partials()
    opened = manifest.open_partial(partial.read_bytes(), key, partial.name)
    assert opened == manifest.open(partial.read_bytes(), reader, partial.name)
    data = Path("store", create().manifest).read_bytes()
    if key.asymmetric:
        _, frames = opening._index(data, key, "the archive")
        assert set(opening.trailer_in(frames, "the archive") or {}) == {"stored"}
        with pytest.raises(CorruptManifest, match="its index does not open its entries"):
            manifest.open_partial(data, key, "the archive")


@pytest.mark.parametrize("wrong", [bytes(32), bytes(16), b""])
def test_a_wrong_key_in_the_index_is_damage(tmp_path: Path, wrong: bytes) -> None:
    pogfast.keygen(str(tmp_path / "pair"))
    key = keys.from_encryption_keyfile(str(tmp_path / "pair.encrypt"))
    data = manifest.Writer(key).snapshot({}, {})
    assert not manifest.open_partial(data, key, "x").entries
    _, length = manifest.index_header(data, key, "x")
    forged = writing.seal_index(bytearray(), array("q"), key, wrong) + data[manifest.INDEX_HEADER + length :]
    with pytest.raises(CorruptManifest, match="x: its index does not open its entries"):
        manifest.open_partial(forged, key, "x")


def test_with_a_cache_that_knows_the_run_nothing_is_looked_for(
    work: Path, create: Create, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(cache_directory="cache")

    def refuse(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(run_module, "find", refuse)
    create(cache_directory="cache")


def test_the_command_says_that_it_goes_on(work: Path, create: Create, cli: Runner, key: keys.Key) -> None:
    create(killed_at=has_several)
    options = ["--encryption-keyfile", "pair.encrypt"] if key.asymmetric else ["--keyfile", "keyfile"]
    ran = cli("create", "tree", "--to", "store", f"--chunk-size={CHUNK}", "--cache-dir=other", *options)
    assert ran.code == 0
    assert "going on from " in ran.err

"""What is remembered of archives: a manifest is opened once, several at a time, and nothing outdated is believed."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from botocore.config import Config

from kit.commands import Ran, Runner
from kit.faultproxy import Proxy, proxied
from kit.servers import Server, rclone
from pogfast import keys, manifest
from pogfast.archives import catalog, members
from pogfast.archives.catalog import MIN_AGE, Catalog
from pogfast.archives.listing import find
from pogfast.archives.overview import archives
from pogfast.errors import CorruptManifest, WrongKey
from pogfast.keys import Key
from pogfast.stores.local import LocalStore
from pogfast.stores.names import Stored

KEY = Key("keyfile", bytes(range(32)))
LONG_AGO = time.time() - 1000


class Counting(LocalStore):
    """A store in a directory that says which manifests were fetched."""

    fetched: list[str]

    def get_manifest(self, name: str) -> bytes:
        self.fetched.append(name)
        return super().get_manifest(name)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("POGFAST_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Twelve archives, all of them some time ago."""
    (tmp_path / "store").mkdir()
    for number in range(12):
        put(tmp_path / "store", number)
    return tmp_path / "store"


def put(directory: Path, number: int, key: Key = KEY, host: str = "the-host", modified: float = LONG_AGO) -> Path:
    trailer = {"time": f"2026-01-{number + 1:02}T00:00:00+00:00", "host": host, "totals": {"files": 1, "stored": 5}}
    entry = manifest.Entry([f"{'A' * 41}{'AB'[number % 2]}A="], 0.0, 0.0)
    path = directory / f"2026-01-{number + 1:02}T00:00:00.000000.mfn"
    path.write_bytes(manifest.seal(manifest.Manifest({f"f{number}": entry}, trailer), key))
    os.utime(path, (modified, modified))
    return path


def look(directory: Path, key: Key = KEY, *, blobs: bool = False) -> tuple[list[str | None], list[str]]:
    """Returns (the hosts, None for archives that do not open; the manifests that were fetched)."""
    store = Counting.open(str(directory), fan_out=True)
    store.fetched = []
    with Catalog(store, key) as catalog:
        seen = list(catalog.read(store.manifests(), blobs=blobs))
    store.close()
    assert [each.name for each in seen] == sorted(path.name for path in directory.glob("*.mfn"))
    return [None if each.problem else each.trailer.host or None for each in seen], store.fetched


def test_each_manifest_is_fetched_once(directory: Path) -> None:
    assert len(look(directory)[1]) == 12
    for blobs in (False, True):
        assert look(directory, blobs=blobs) == (["the-host"] * 12, [])


def test_of_a_large_manifest_only_what_was_asked_for_is_remembered(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog, "SMALL", 100)
    for blobs in (False, True):
        assert len(look(directory, blobs=blobs)[1]) == 12, "names of blobs were not asked for before"
        assert look(directory, blobs=blobs) == (["the-host"] * 12, [])
    assert look(directory) == (["the-host"] * 12, [])
    for _ in range(2):
        assert [name for name, *_ in found(directory, "f*")[0]] == sorted(path.name for path in directory.glob("*.mfn"))
        assert len(found(directory, "f*")[1]) == 12


@pytest.mark.parametrize("kind", ["pog's", "of a public key"])
def test_what_has_to_be_counted_is_told_the_second_time_too(tmp_path: Path, kind: str) -> None:
    """An archive of pog has no trailer with its stored size, and a public key opens no trailer."""
    encrypt, _ = keys.create_pair("pair", str(tmp_path))
    key = KEY if kind == "pog's" else keys.from_encryption_keyfile(encrypt)
    (tmp_path / "store" / "data" / "AA").mkdir(parents=True)
    blob = f"{'A' * 41}AA="
    (tmp_path / "store" / "data" / "AA" / blob).write_bytes(b"x" * 300)
    for number in range(2):
        path = put(tmp_path / "store", number)
        entry = manifest.Entry([blob], 0.0, 0.0)
        path.write_bytes(manifest.seal(manifest.Manifest({f"f{number}": entry}), key))
        os.utime(path, (LONG_AGO, LONG_AGO))
    store = LocalStore.open(str(tmp_path / "store"), fan_out=True)
    first = archives(store, key)
    assert [(info.stored, info.blobs) for info in first] == [(300, 1)] * 2
    assert archives(store, key) == first
    store.close()


def test_what_is_new_changed_or_gone(directory: Path) -> None:
    look(directory)
    changed = put(directory, 3, host="another")
    os.utime(changed, (LONG_AGO + 1, LONG_AGO + 1))
    same_time = put(directory, 4, host="of another length")
    new = put(directory, 12)
    min(directory.glob("*.mfn")).unlink()
    hosts, fetched = look(directory)
    assert sorted(fetched) == [changed.name, same_time.name, new.name]
    assert (len(hosts), hosts[2], hosts[3]) == (12, "another", "of another length")
    assert look(directory)[1] == []


def test_what_may_still_change_unseen_is_not_remembered(directory: Path) -> None:
    """A clock of whole seconds hides a second change within the same one."""
    young = put(directory, 12, modified=time.time() - MIN_AGE / 5)
    for _ in range(2):
        assert young.name in look(directory)[1]


def test_a_catalog_may_be_read_several_times(directory: Path) -> None:
    """What the first reading has numbered must not mix with the numbers in the file."""
    put(directory, 11)
    look(directory, blobs=True)
    store = LocalStore.open(str(directory), fan_out=True)
    put(directory, 12, modified=time.time())
    manifests = store.manifests()
    wanted = [[f"{'A' * 41}{'AB'[number % 2]}A="] for number in range(13)]
    with Catalog(store, KEY) as catalog:
        for some in (slice(12, 13), slice(0, 13), slice(3, 4), slice(0, 13)):
            found = [list(archive.blobs or []) for archive in catalog.read(manifests[some], blobs=True)]
            assert found == wanted[some]
    store.close()


def test_a_young_manifest_is_remembered_by_its_version(directory: Path) -> None:
    """A service says of each listed object which version it is."""
    put(directory, 12, modified=time.time())
    store = Counting.open(str(directory), fan_out=True)
    manifests = [each._replace(version="one") for each in store.manifests()]
    with Catalog(store, KEY) as catalog:
        for version, fetched in (("one", 13), ("one", 0), ("two", 1)):
            store.fetched = []
            manifests[12] = manifests[12]._replace(version=version)
            list(catalog.read(manifests, blobs=True))
            assert len(store.fetched) == fetched
    store.close()


def test_damage_is_looked_at_each_time(directory: Path) -> None:
    path = directory / "2026-01-05T00:00:00.000000.mfn"
    good = path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    os.utime(path, (LONG_AGO, LONG_AGO))
    for _ in range(2):
        hosts, fetched = look(directory)
        assert hosts.count(None) == 1
        assert path.name in fetched
    path.write_bytes(good)
    os.utime(path, (LONG_AGO, LONG_AGO))
    assert look(directory) == (["the-host"] * 12, [path.name])


def test_what_is_written_down_is_for_who_has_the_key(directory: Path, cache: Path) -> None:
    look(directory, blobs=True)
    [written] = cache.rglob("*.archives")
    data = written.read_bytes()
    assert b"the-host" not in data
    assert b"2026-01" not in data
    assert written.stat().st_mode & 0o777 == 0o600
    hosts, fetched = look(directory, Key("keyfile", bytes(32)))
    assert (set(hosts), len(set(fetched))) == ({None}, 12)
    for spoiled in (data[:-1], data[:50] + bytes([data[50] ^ 1]) + data[51:], b"", os.urandom(500)):
        written.write_bytes(spoiled)
        assert look(directory, blobs=True)[0] == ["the-host"] * 12
    written.unlink()
    written.symlink_to(directory / "2026-01-01T00:00:00.000000.mfn")
    assert look(directory, blobs=True)[0] == ["the-host"] * 12
    assert not written.is_symlink(), "replaced, and not written through"


def test_the_public_key_learns_nothing_of_what_the_private_one_has_opened(tmp_path: Path) -> None:
    encrypt, decrypt = keys.create_pair("pair", str(tmp_path))
    public, private = keys.from_encryption_keyfile(encrypt), keys.from_decryption_keyfile(decrypt)
    (tmp_path / "store").mkdir()
    for number in range(3):
        put(tmp_path / "store", number, public)
    assert look(tmp_path / "store", private)[0] == ["the-host"] * 3
    for _ in range(2):
        hosts, fetched = look(tmp_path / "store", public)
        assert hosts == [None] * 3
    assert fetched == [], "its own is remembered as well"


def test_an_index_that_was_replaced_is_found_though_the_archive_is_known(tmp_path: Path) -> None:
    """prune and stats ask for the names of blobs."""
    _, decrypt = keys.create_pair("pair", str(tmp_path))
    private = keys.from_decryption_keyfile(decrypt)
    (tmp_path / "store").mkdir()
    first, second = (put(tmp_path / "store", number, private) for number in range(2))
    look(tmp_path / "store", private)
    one, other = first.read_bytes(), second.read_bytes()
    ends = [manifest.INDEX_HEADER + manifest.index_header(data, private, "")[1] for data in (one, other)]
    first.write_bytes(other[: ends[1]] + one[ends[0] :])
    os.utime(first, (LONG_AGO, LONG_AGO))
    store = LocalStore.open(str(tmp_path / "store"), fan_out=True)
    with Catalog(store, private) as catalog:
        seen = list(catalog.read(store.manifests(), blobs=True))
    store.close()
    assert [type(each.problem) for each in seen] == [CorruptManifest, type(None)]


def test_several_are_fetched_at_a_time(directory: Path) -> None:
    meeting = threading.Barrier(4, timeout=60)

    class Slow(Counting):
        parallel = 4

        def get_manifest(self, name: str) -> bytes:
            meeting.wait()  # nobody goes on before four are here
            return super().get_manifest(name)

    store = Slow.open(str(directory), fan_out=True)
    store.fetched = []
    with Catalog(store, KEY) as catalog:
        names = [stored.name for stored in store.manifests()]
        assert [seen.name for seen in catalog.read(store.manifests())] == names
        assert sorted(store.fetched) == names
        # One that is told of and is not there any more is a problem of its own.
        gone = [Stored("gone.mfn", 1, 1.0)] * 4
        assert all(seen.problem for seen in catalog.read(gone))
    store.close()


# ---- what is in archives ------------------------------------------------------------------------------------------


def found(directory: Path, *patterns: str, key: Key = KEY) -> tuple[list[tuple[str, str, str]], list[str], list[str]]:
    """Returns ((archive, name, kind) of what `find` finds; the manifests that were fetched; the problems)."""
    store = Counting.open(str(directory), fan_out=True)
    store.fetched = []
    problems: list[str] = []
    matches = [
        (each.archive, each.item.name, each.item.kind)
        for each in find(store, key, patterns, lambda error: problems.append(str(error)))
    ]
    store.close()
    return matches, store.fetched, problems


def put_tree(directory: Path, number: int, *malformed: str) -> Path:
    entry = manifest.Entry([f"{'A' * 41}AA="], 0.0, 0.0, {"size": 5, "mode": 0o644, "stored": [5]})
    trailer = {
        "time": f"2026-01-{number + 1:02}T00:00:00+00:00",
        "directories": {"d": {"mode": 0o755}, f"d/only-{number}": {}},
        "links": {"d/\udcff": {"target": "x"}},
        "fifos": {"d/f": {}},
        "totals": {"files": 3, "stored": 5},
    }
    entries = {"d-": entry, "d/f": entry, f"d/\udcff{number}": entry}
    entries |= {name: manifest.Entry(entry.blobs, 0.0, 0.0, {"size": "x"}) for name in malformed}
    path = directory / f"2026-01-{number + 1:02}T00:00:00.000000.mfn"
    path.write_bytes(manifest.seal(manifest.Manifest(entries, trailer), KEY))
    os.utime(path, (LONG_AGO, LONG_AGO))
    return path


@pytest.fixture
def trees(tmp_path: Path) -> Path:
    (tmp_path / "store").mkdir()
    for number in range(3):
        put_tree(tmp_path / "store", number, *(["d/wrong"] if number == 1 else []))
    return tmp_path / "store"


@pytest.mark.parametrize("pattern", ["*", "d/*", "f", "d/**", "*\udcff*", "nothing"])
def test_find_says_the_same_from_the_cache(trees: Path, pattern: str) -> None:
    first, fetched, problems = found(trees, pattern)
    assert len(set(fetched)) == 3
    assert found(trees, pattern) == (first, [], problems)
    assert (len(problems) == 1) == (pattern in ("*", "d/*"))
    if pattern == "*":
        names = [(name, kind) for archive, name, kind in first if archive.startswith("2026-01-01")]
        assert names == [
            *(("d", "directory"), ("d/f", "file"), ("d/f", "fifo"), ("d/only-0", "directory")),
            *(("d/\udcff", "link"), ("d/\udcff0", "file"), ("d-", "file")),
        ]


def test_find_forgets_what_was_replaced_and_removed(trees: Path) -> None:
    assert len(found(trees, "d-")[0]) == 3
    first, second, third = sorted(trees.glob("*.mfn"))
    put(trees, 0)
    second.rename(f"{second}.removed")
    assert [name for _, name, _ in found(trees, "d-", "f0")[0]] == ["f0", "d-"]
    Path(f"{second}.removed").rename(second)
    os.utime(second)
    matches, fetched, _ = found(trees, "d-", "f0")
    assert [(archive, name) for archive, name, _ in matches] == [
        *((first.name, "f0"), (second.name, "d-"), (third.name, "d-")),
    ]
    assert fetched == [second.name], "restored, and so written again"


def test_a_public_key_finds_nothing_and_says_so(tmp_path: Path) -> None:
    encrypt, _ = keys.create_pair("pair", str(tmp_path))
    public = keys.from_encryption_keyfile(encrypt)
    (tmp_path / "store").mkdir()
    for number in range(3):
        put(tmp_path / "store", number, public)
    look(tmp_path / "store", public)
    for _ in range(2):
        with pytest.raises(WrongKey, match="a public key cannot open it"):
            found(tmp_path / "store", "*", key=public)


def test_members_of_another_save_are_not_believed(trees: Path, cache: Path) -> None:
    found(trees, "*")
    [written] = cache.rglob("*.archives")
    before = written.read_bytes()
    put(trees, 2)
    found(trees, "*")
    after = written.read_bytes()
    ends = [8 + int.from_bytes(data[:8], "little") for data in (before, after)]
    written.write_bytes(after[: ends[1]] + before[ends[0] :])
    matches, fetched, _ = found(trees, "only-*", "f2")
    assert [name for _, name, _ in matches] == ["d/only-0", "d/only-1", "f2"]
    assert len(fetched) == 3


def test_a_manifest_that_is_too_large_for_the_table_is_found_in_all_the_same(
    trees: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(members, "MAX_TEXT", 600)
    wanted = [f"d/only-{number}" for number in range(3)]
    for fetched in (3, 1, 1):
        matches, names, _ = found(trees, "only-*")
        assert [name for _, name, _ in matches] == wanted
        assert len(names) == fetched


def test_another_version_of_an_object_is_another_manifest(directory: Path) -> None:
    """The ETag of S3."""

    class Versions(Counting):
        version = "one"

        def manifests(self) -> list[Stored]:
            return [each._replace(version=self.version) for each in super().manifests()]

    for version, fetched in (("one", 12), ("one", 0), ("other", 12)):
        store = Versions.open(str(directory), fan_out=True)
        store.fetched, store.version = [], version
        with Catalog(store, KEY) as catalog:
            list(catalog.read(store.manifests()))
        store.close()
        assert len(store.fetched) == fetched


# ---- what a service is asked for -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Server]]:
    home = tmp_path_factory.mktemp("rclone")
    with rclone(home) as made:
        yield home, made


@pytest.fixture
def proxy(server: tuple[Path, Server]) -> Iterator[Proxy]:
    with proxied(server[1].url) as made:
        yield made


def test_a_service_is_asked_once_for_each_manifest(
    server: tuple[Path, Server], proxy: Proxy, pogfast: Runner, tmp_path: Path
) -> None:
    """list, stats, latest and find --host."""
    home, made = server
    name = f"catalog-{time.monotonic_ns()}"
    config = Config(request_checksum_calculation="when_required", response_checksum_validation="when_required")
    secrets = {"aws_access_key_id": made.key, "aws_secret_access_key": made.secret, "region_name": "us-east-1"}
    boto3.client("s3", endpoint_url=made.url, config=config, **secrets).create_bucket(Bucket=name)
    (tmp_path / "key").write_bytes(bytes(range(32)))
    for number in range(5):
        put(home / name, number, keys.from_keyfile(str(tmp_path / "key")))
    environment = {**os.environ, **made.environment, "POGFAST_S3_ENDPOINT": proxy.url}
    environment["POGFAST_CACHE_DIR"] = str(tmp_path / "cache")

    def fetched(*words: str) -> list[int]:
        proxy.seen.clear()
        ran: Ran = pogfast(*words, "--keyfile", "key", env=environment)
        assert ran.code == (4 if words[0] == "stats" else 0), ran.err  # their blobs are not there
        return [proxy.count(f"GET /{name}/2026-01-{number + 1:02}T[0-9.:%A]*mfn") for number in range(5)]

    store = f"s3://{name}"
    assert fetched("stats", store) == [1] * 5
    for words in (["list", store], ["stats", store], ["find", store, "x", "--host", "no"], ["find", store, "x"]):
        assert fetched(*words) == [0] * 5, words
    assert fetched("ls", f"{store}/latest")[:4] == [0] * 4

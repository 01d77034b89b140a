"""Object lock, cold storage, permissions and copies within a service, through the commands, on moto."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from kit.commands import Ran, Runner
from kit.faultproxy import Proxy
from kit.packs import listed, make_index, make_pack, name_of, sha256
from kit.paths import DOCS
from kit.servers import Server, moto
from pogfast.stores.packs import layout

STORES = DOCS / "stores.md"
Command = Callable[..., Ran]


def client_of(server: Server, service: str = "s3", **more: str) -> Any:
    said = {"aws_access_key_id": server.key, "aws_secret_access_key": server.secret, "region_name": "us-east-1"}
    return boto3.client(service, endpoint_url=server.url, **{**said, **more})


@pytest.fixture
def client(server: Server) -> Any:
    return client_of(server)


@pytest.fixture
def bucket(client: Any) -> str:
    """A bucket with locks, and so with versions."""
    name = f"bucket-{time.monotonic_ns()}"
    client.create_bucket(Bucket=name, ObjectLockEnabledForBucket=True)
    return name


@pytest.fixture
def work(tmp_path: Path, pogfast: Runner) -> Path:
    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(4):
        (tree / str(number)).write_bytes(os.urandom(1000 + number))
    (tree / "large").write_bytes(os.urandom(600_000))
    assert pogfast("keygen", "k").code == 0
    return tmp_path


@pytest.fixture
def command(pogfast: Runner, work: Path, server: Server) -> Command:
    def call(*words: str, key: str = "decrypt", **more: str) -> Ran:
        option = {"decrypt": "--decryption-keyfile=k.decrypt", "encrypt": "--encryption-keyfile=k.encrypt"}
        environment = {**os.environ, **server.environment, "POGFAST_CACHE_DIR": str(work / "cache"), **more}
        return pogfast(*words, *([option[key]] if key else []), env=environment, cwd=work)

    return call


def create(to: str, *more: str) -> list[str]:
    return ["create", "tree", "--to", to, "--chunk-size", "200kB", *more]


def restored(work: Path, into: str) -> bool:
    return all(
        (work / into / "tree" / path.name).read_bytes() == path.read_bytes() for path in (work / "tree").iterdir()
    )


def days_left(client: Any, bucket: str) -> dict[str, float]:
    """The lock of each object."""
    left = {}
    for item in client.list_objects_v2(Bucket=bucket)["Contents"]:
        facts = client.head_object(Bucket=bucket, Key=item["Key"])
        until = facts.get("ObjectLockRetainUntilDate")
        left[item["Key"]] = (until - datetime.now(UTC)) / timedelta(days=1) if until else 0.0
    return left


# ---- object lock -----------------------------------------------------------------------------------------------------


def test_written_objects_are_locked(command: Command, client: Any, bucket: str, work: Path) -> None:
    store = f"s3://{bucket}"
    assert command(*create(store, "--object-lock", "governance:2d")).code == 0
    assert len(days_left(client, bucket)) == 4 + 3 + 1
    assert all(left == pytest.approx(2, abs=0.01) for left in days_left(client, bucket).values())
    key = next(iter(days_left(client, bucket)))
    [version] = client.list_object_versions(Bucket=bucket, Prefix=key)["Versions"]
    with pytest.raises(ClientError, match="AccessDenied"):
        client.delete_object(Bucket=bucket, Key=key, VersionId=version["VersionId"])
    (work / "tree" / "4").write_bytes(os.urandom(5000))
    assert command(*create(store), POGFAST_OBJECT_LOCK="compliance:90d").code == 0
    assert sorted(round(left) for left in days_left(client, bucket).values()) == [2] * 8 + [90] * 2
    ran = command("lock", "extend", store, "compliance:30d", "--json", key="encrypt")
    summary = json.loads(ran.lines[-1])
    assert (summary["snapshots"], summary["objects_locked"], summary["objects_locked_already"]) == (2, 8, 2)
    assert sorted(round(left) for left in days_left(client, bucket).values()) == [30] * 8 + [90] * 2
    assert command("restore", f"{store}/latest", "--into", "out").code == 0
    assert restored(work, "out")


def test_prune_keeps_locked_archives(command: Command, client: Any, bucket: str, work: Path) -> None:
    store = f"s3://{bucket}"
    [locked] = command(*create(store, "--object-lock", "compliance:1d")).lines
    for number in range(2):
        (work / "tree" / "large").write_bytes(os.urandom(600_000 + number))
        assert command(*create(store)).code == 0
    there = [item["Key"] for item in client.list_objects_v2(Bucket=bucket)["Contents"]]
    time.sleep(1.1)
    for _ in range(2):
        ran = command("prune", store, "--keep-last", "1", "--yes", "--grace", "0")
        assert ran.code == 0, ran.err
        assert re.search(rf"keep    {locked} .*locked until \d{{4}}-\d\d-\d\d \d\d:\d\d UTC", ran.out.decode())
        time.sleep(1.1)
    left = [item["Key"] for item in client.list_objects_v2(Bucket=bucket)["Contents"] if "sweep" not in item["Key"]]
    assert len(there) - len(left) == 3 + 1, "the second archive and what only it needs"
    assert command("restore", f"{store}/{locked}", "--into", "out").code == 0


def test_prune_keeps_locked_blobs_that_no_archive_needs(command: Command, client: Any, bucket: str) -> None:
    """The manifest of their archive was deleted by somebody else."""
    store = f"s3://{bucket}"
    [first] = command(*create(store, "--object-lock", "compliance:1d")).lines
    client.delete_object(Bucket=bucket, Key=first)
    assert command(*create(store, "--exclude", "large", "--no-cache")).code == 0
    time.sleep(1.1)
    ran = command("prune", store, "--keep-all", "--yes", "--grace", "0", "--json")
    summary = json.loads(ran.lines[-1])
    assert (summary["blobs_removed"], summary["blobs_locked"]) == (0, 3)


def test_the_lock_of_pog_cleanup(command: Command, pog: Runner, server: Server, bucket: str, work: Path) -> None:
    for _ in range(2):
        assert command(*create(f"s3://{bucket}", "--object-lock", "compliance:1d")).code == 0
    environment = {**os.environ, **server.environment, "S3_BUCKET_NAME": bucket}
    words = ["--backup=s3", "--decryption-keyfile=k.decrypt", "--reckless-abandon"]
    program = "import sys; from pogfast.pog import cleanup; sys.exit(cleanup())"
    ran = subprocess.run(
        [sys.executable, "-c", program, *words], cwd=work, env=environment, capture_output=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert len(command("list", f"s3://{bucket}", "--json").lines) == 2


@pytest.fixture
def many(work: Path) -> Path:
    """Enough small files for a pack, and a large one."""
    for number in range(40):
        (work / "tree" / f"small{number}").write_bytes(os.urandom(10_000))
    (work / "tree" / "huge").write_bytes(os.urandom(3_000_000))
    return work / "tree"


def kinds_of(keys: Iterable[str]) -> Counter[str]:
    return Counter(kind_of(key) for key in keys)


def kind_of(key: str) -> str:
    if key.startswith("packs/"):
        return "index" if key.startswith("packs/index/") else "pack"
    return "data" if key.startswith("data/") else key.rpartition(".")[2]


def test_packs_are_locked_as_blobs_are(command: Command, client: Any, bucket: str, many: Path, work: Path) -> None:
    store = f"s3://{bucket}"
    words = ["create", "tree", "--to", store]
    ran = command(*words, "--packs", "--object-lock", "governance:2d")
    assert ran.code == 0, ran.err
    left = days_left(client, bucket)
    assert kinds_of(left) == {"pack": 1, "data": 1, "index": 1, "mfn": 1, "store": 1}
    for key, days in left.items():
        assert days == pytest.approx(2 if kind_of(key) in ("pack", "data", "mfn") else 0, abs=0.01), key
    (many / "more").write_bytes(os.urandom(400_000))
    for number in range(40):
        (many / f"more{number}").write_bytes(os.urandom(10_000))
    assert command(*words, POGFAST_OBJECT_LOCK="compliance:90d").code == 0
    ran = command("lock", "extend", store, "compliance:30d", "--json", key="encrypt")
    summary = json.loads(ran.lines[-1])
    assert summary["snapshots"] == 2
    assert summary["objects_locked"] == 3, "a pack, a blob and a manifest, each once"
    assert summary["objects_locked_already"] == 2, "the second pack and manifest"
    left = days_left(client, bucket)
    assert kinds_of(key for key, days in left.items() if round(days) == 30) == {"pack": 1, "data": 1, "mfn": 1}
    assert kinds_of(key for key, days in left.items() if round(days) == 90) == {"pack": 1, "mfn": 1}
    assert kinds_of(key for key, days in left.items() if not days) == {"index": 2, "store": 1}
    assert command("restore", f"{store}/latest", "--into", "out").code == 0
    assert restored(work, "out")


def test_prune_keeps_locked_packs(command: Command, client: Any, bucket: str, many: Path, work: Path) -> None:
    store = f"s3://{bucket}"
    [first] = command("create", "tree", "--to", store, "--packs", "--object-lock", "compliance:1d").lines
    client.delete_object(Bucket=bucket, Key=first)  # somebody else does: only a mark, since it has versions
    ran = command("create", "tree", "--to", store, "--exclude", "small*", "--no-cache")
    assert ran.code == 0, ran.err
    [second] = ran.lines
    time.sleep(1.1)
    prune = ("prune", store, "--keep-all", "--yes", "--grace", "0", "--max-unused", "0")
    ran = command(*prune, "--json")
    summary = json.loads(ran.lines[-1])
    assert (summary["packs_removed"], summary["packs_locked"], summary["packs_repacked"]) == (0, 1, 0)
    ran = command(*prune)
    assert ran.code == 0, ran.err
    assert "locked" in ran.err
    assert kinds_of(days_left(client, bucket))["pack"] == 1
    ran = command("remove", f"{store}/{second}", "--yes", "--allow-empty")
    assert ran.code == 0, ran.err
    assert command("undelete", store, second).code == 0
    assert command("restore", f"{store}/{second}", "--into", "out").code == 0
    assert (work / "out/tree/0").read_bytes() == (many / "0").read_bytes()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--object-lock", "sometimes:3d"], 2, "sometimes:3d is not an object lock"),
        (["--object-lock", "compliance:0d"], 2, "compliance:0d is not an object lock"),
        (["--object-lock", "compliance:9d", "--to", "here"], 2, "--object-lock is for S3, and no store here is in S3"),
        (["--storage-class", "GLACIER", "--to", "here"], 2, "--storage-class is for S3, and no store here is in S3"),
    ],
)
def test_invalid_locks_are_refused(command: Command, bucket: str, words: list[str], code: int, said: str) -> None:
    ran = command(*create(f"s3://{bucket}", *words))
    assert (ran.code, said in ran.err) == (code, True), ran.err


def test_a_bucket_without_locks(command: Command, client: Any) -> None:
    bucket = f"plain-{time.monotonic_ns()}"
    client.create_bucket(Bucket=bucket)
    refused = command(*create(f"s3://{bucket}", "--object-lock", "compliance:1d"))
    assert command(*create(f"s3://{bucket}")).code == 0
    for ran in (refused, command("lock", "extend", f"s3://{bucket}", "compliance:1d")):
        assert ran.code == 1
        assert f"pogfast: error: s3://{bucket}: the bucket has no object lock\n" in ran.err
        assert "ObjectLockConfiguration" not in ran.err


def test_a_prune_asks_only_about_locks_of_packs_that_it_would_repack(
    command: Command, proxy: Proxy, bucket: str, many: Path, work: Path
) -> None:
    store = f"s3://{bucket}"
    assert command("create", "tree", "--to", store, "--packs").code == 0
    (many / "small1").unlink()
    assert command("create", "tree", "--to", store).code == 0
    prune = ("prune", store, "--keep-last", "1", "--group-by", "", "--now", "--yes")
    ran = command(*prune, POGFAST_S3_ENDPOINT=proxy.url)
    assert (ran.code, "unused " in ran.err) == (0, True), ran.err
    assert proxy.count(r"^HEAD .*/packs/") == 0
    ran = command(*prune, "--max-unused", "0", POGFAST_S3_ENDPOINT=proxy.url)
    assert (ran.code, "1 repacked" in ran.err) == (0, True), ran.err
    assert proxy.count(r"^HEAD .*/packs/2") >= 1
    assert command("restore", f"{store}/latest", "--into", "out").code == 0
    assert restored(work, "out")


# ---- cold storage ----------------------------------------------------------------------------------------------------


def test_exactly_what_a_restore_needs_is_thawed(command: Command, client: Any, bucket: str, work: Path) -> None:
    store = f"s3://{bucket}"
    assert command(*create(store, "--storage-class", "DEEP_ARCHIVE")).code == 0
    for words in (["list", store], ["ls", f"{store}/latest"], ["prune", store, "--keep-last", "1"], create(store)):
        assert command(*words).code == 0, "no blob is touched"
    ran = command("restore", f"{store}/latest", "tree/1", "--into", "out")
    assert ran.code != 0
    assert "cold storage" in ran.err
    assert "restore --thaw" in ran.err
    ran = command("restore", f"{store}/latest", "tree/1", "--into", "out", "--thaw=bulk", "--thaw-days", "2")
    assert ran.code == 3
    assert "requested 1 blob from cold storage; 0 requested earlier, 0 readable" in ran.err
    assert "retrieval takes 5 to 12 hours from GLACIER, 48 hours from DEEP_ARCHIVE; after" in ran.err
    assert "run the same command again" in ran.err
    warm = [
        item["Key"]
        for item in client.list_objects_v2(Bucket=bucket, Prefix="data/")["Contents"]
        if "Restore" in client.head_object(Bucket=bucket, Key=item["Key"])
    ]
    assert len(warm) == 1
    ran = command("restore", f"{store}/latest", "tree/1", "--into", "out", "--thaw")
    assert ran.code == 0, ran.err
    assert (work / "out/tree/1").read_bytes() == (work / "tree/1").read_bytes()
    ran = command("restore", f"{store}/latest", "--into", "out", "--thaw", "--json")
    told = next(line for line in map(json.loads, ran.lines) if line["message_type"] == "thaw")
    assert (told["asked"], told["readable"]) == (3 + 3, 0), "what is there already needs no blob"
    assert command("restore", f"{store}/latest", "--into", "out", "--thaw").code == 0
    assert restored(work, "out")


def test_packs_are_thawed_whole(command: Command, client: Any, bucket: str, many: Path, work: Path) -> None:
    store = f"s3://{bucket}"
    assert command("create", "tree", "--to", store, "--packs", "--storage-class", "GLACIER").code == 0
    listed = client.list_objects_v2(Bucket=bucket)["Contents"]
    classes = {kind_of(item["Key"]): item["StorageClass"] for item in listed}
    assert classes == {
        **dict.fromkeys(("pack", "data"), "GLACIER"),
        **dict.fromkeys(("index", "mfn", "store"), "STANDARD"),
    }
    for words in (["list", store], ["ls", f"{store}/latest"], ["create", "tree", "--to", store]):
        assert command(*words, POGFAST_CACHE_DIR=str(work / "another")).code == 0, "no blob is touched"
    [pack] = [item for item in listed if kind_of(item["Key"]) == "pack"]
    restore = ("restore", f"{store}/latest", "tree/small1", "tree/small2", "tree/huge", "--into", "out")
    assert "restore --thaw" in command(*restore).err
    ran = command(*restore, "--thaw", "--json")
    assert ran.code == 3, ran.err
    told = next(line for line in map(json.loads, ran.lines) if line["message_type"] == "thaw")
    assert (told["asked"], told["coming"], told["readable"], told["missing"]) == (2, 0, 0, 0), "a pack and a blob"
    assert (told["packs"], told["pack_bytes"]) == (1, pack["Size"])
    assert 20_000 < told["needed_bytes"] < 22_000
    assert "Restore" in client.head_object(Bucket=bucket, Key=pack["Key"])
    assert command(*restore, "--thaw").code == 0
    assert (work / "out/tree/small2").read_bytes() == (many / "small2").read_bytes()


def test_a_thaw_says_how_much_is_needed_of_how_much(command: Command, bucket: str, many: Path) -> None:
    store = f"s3://{bucket}"
    assert command("create", "tree", "--to", store, "--packs", "--storage-class", "DEEP_ARCHIVE").code == 0
    ran = command("restore", f"{store}/latest", "tree/small1", "tree/huge", "--into", "out", "--thaw")
    assert ran.code == 3
    assert "requested 2 objects from cold storage; 0 requested earlier, 0 readable" in ran.err
    said = re.search(r"1 pack among these: thaws (\S+) MB for (\S+) kB that the restore needs", ran.err)
    assert said, ran.err
    assert (float(said[1]) > 0.9, float(said[2]) < 11) == (True, True)


def test_a_cold_pack_in_no_index_ends_nothing(
    command: Command, client: Any, bucket: str, many: Path, work: Path
) -> None:
    """Its run was killed: nobody can read what is in it, so its blobs are stored again."""
    store = f"s3://{bucket}"
    assert command("create", "tree", "--to", store, "--packs", "--storage-class", "GLACIER").code == 0
    keys = [item["Key"] for item in client.list_objects_v2(Bucket=bucket)["Contents"]]
    client.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": key} for key in keys if kind_of(key) == "index"]})
    [pack] = [key for key in keys if kind_of(key) == "pack"]
    shutil.rmtree(work / "cache")
    for words in (["list", store], ["ls", f"{store}/latest"], ["check", store, "--repair"]):
        ran = command(*words, key="" if words[0] == "check" else "decrypt")
        assert ran.code == 0, ran.err
    assert f"{pack}: the object is in cold storage" in ran.err
    assert "1 pack in cold storage could not be checked" in ran.err
    ran = command("restore", f"{store}/latest", "tree/small1", "tree/huge", "--into", "out", "--thaw")
    assert "requested 1 " in ran.err, "the blob that lies by itself"
    assert command("create", "tree", "--to", store, "--no-cache").code == 0
    assert command("restore", f"{store}/latest", "tree/small1", "--into", "again", "--thaw").code == 0
    assert (work / "again/tree/small1").read_bytes() == (many / "small1").read_bytes()


def test_a_cold_pack_that_nobody_needs_stays(command: Command, client: Any, bucket: str, many: Path) -> None:
    """What is in it is told by its table, which cannot be read."""
    store = f"s3://{bucket}"
    words = ("create", "tree", "--to", store, "--packs", "--storage-class", "GLACIER")
    assert command(*words).code == 0
    for path in many.iterdir():
        path.write_bytes(os.urandom(20_000))
    assert command(*words).code == 0
    for more in (["--now"], ["--now", "--yes"]):
        ran = command("prune", store, "--keep-last", "1", "--group-by", "", *more)
        assert ran.code == 0, ran.err
        assert "1 in cold storage are neither repacked nor deleted" in ran.err
    kinds = Counter(kind_of(item["Key"]) for item in client.list_objects_v2(Bucket=bucket)["Contents"])
    assert kinds["pack"] == 2
    for words, said in ((["check", store], False), (["check", store, "--repair"], True)):
        ran = command(*words)
        assert (ran.code, "2 packs in cold storage could not be checked" in ran.err) == (0, said), ran.err
    ran = command("check", store, "--read-data", key="")
    assert (ran.code, "2 packs in cold storage could not be checked" in ran.err) == (0, True), ran.err


@pytest.mark.parametrize(("prefix", "is_good"), [("data/", True), ("packs/20", True), ("packs/", False), ("", False)])
def test_doctor_says_what_a_rule_for_a_colder_class_may_cover(
    command: Command, client: Any, bucket: str, prefix: str, is_good: bool
) -> None:
    rule = {"ID": "cold", "Status": "Enabled", "Filter": {"Prefix": prefix},
            "Transitions": [{"Days": 30, "StorageClass": "GLACIER"}]}  # fmt: skip
    client.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": [rule]})
    ran = command("doctor", f"s3://{bucket}", key="")
    assert ("limit it to data/ and packs/20" in ran.out.decode()) != is_good


def test_thaw_without_cold_storage(command: Command) -> None:
    assert command(*create("here")).code == 0
    assert command("restore", "here/latest", "--into", "out", "--thaw").code == 2
    assert command("restore", "here/latest", "--into", "out", "--thaw-days", "3").code == 2
    assert command("restore", "latest", "--from", "here", "--into", "out", "--thaw").code == 2


# ---- copies within a service -----------------------------------------------------------------------------------------


def test_copy_within_a_service(command: Command, client: Any, server: Server, bucket: str, work: Path) -> None:
    other = f"other-{time.monotonic_ns()}"
    client.create_bucket(Bucket=other)
    assert command(*create(f"s3://{bucket}/a")).code == 0
    ran = command("copy", f"s3://{bucket}/a", f"s3://{other}/b", key="encrypt")
    assert ran.code == 0, ran.err
    assert "7 blobs" in ran.err
    assert command("check", f"s3://{other}/b", "--read-data").code == 0
    assert command("copy", f"s3://{bucket}/a", f"s3://{other}/c", key="").code == 0
    names = {"a": bucket, "b": other, "c": other}
    listed = {
        prefix: {item["Key"][2:] for item in client.list_objects_v2(Bucket=name, Prefix=prefix)["Contents"]}
        for prefix, name in names.items()
    }
    listed["b"] = {name for name in listed["b"] if not name.startswith("verified.")}
    assert listed["a"] == listed["b"] == listed["c"]


# ---- rights ----------------------------------------------------------------------------------------------------------


def policy(name: str, bucket: str) -> str:
    found = re.search(rf"<!-- policy: {name} -->\n```json\n(.*?)```", STORES.read_text(encoding="utf-8"), re.DOTALL)
    assert found
    return found[1].replace("BUCKET", bucket)


OF_WRITERS = {"writes": "safe", "manifests": "safe", "writes-packs": "packed"}


@pytest.fixture(scope="module")
def strict() -> Iterator[Server]:
    """A server that checks permissions; the first client grants them to others."""
    with moto(INITIAL_NO_AUTH_ACTION_COUNT="15") as made:
        yield made


def client_with(server: Server, key: dict[str, str]) -> Any:
    return client_of(
        server,
        aws_access_key_id=key["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=key["AWS_SECRET_ACCESS_KEY"],
    )


def backups_with_packs(call: Callable[..., Ran], strict: Server, work: Path, keys: dict[str, dict[str, str]]) -> None:
    """A store with packs is written to with permission to read its indexes; packs are not read, even those that a
    killed run left without an index."""
    for number in range(40):
        (work / "tree" / str(number)).write_bytes(os.urandom(10_000))
    words = [*create("s3://packed"), "--encryption-keyfile", "k.encrypt"]
    ran = call("writes-packs", *words, "--packs")
    assert ran.code == 0, ran.err
    client, admin = (client_with(strict, keys[name]) for name in ("writes-packs", "admin"))
    stored = [item["Key"] for item in client.list_objects_v2(Bucket="packed")["Contents"]]
    [pack] = [key for key in stored if key.startswith("packs/2")]
    for act in (client.get_object, client.delete_object):
        with pytest.raises(ClientError, match="AccessDenied"):
            act(Bucket="packed", Key=pack)
    uncovered = pack[:-3] + ("AA=" if not pack.endswith("AA=") else "BA=")
    client.put_object(Bucket="packed", Key=uncovered, Body=bytes(1000))
    (work / "tree" / "new").write_bytes(bytes(1002))
    ran = call("writes-packs", *words)
    assert ran.code == 0, ran.err
    assert f"{uncovered}: access denied" in ran.err
    assert "no index object covers this pack" in ran.err
    writes_after_a_repack(lambda: call("writes-packs", *words), admin, pack)


def writes_after_a_repack(write: Callable[[], Ran], admin: Any, pack: str) -> None:
    """A prune has stored what is in a pack anew, and condemned it. Whether the new one has it cannot be read."""
    data = admin.get_object(Bucket="packed", Key=pack)["Body"].read()
    rows = layout.read_table(data, len(data), pack)
    blobs = [(row.name, data[row.offset : row.offset + row.size]) for row in reversed(rows)]
    new = listed(blobs)
    day = f"{new.day}"
    where = f"packs/{day[:4]}-{day[4:6]}-{day[6:]}/{name_of(new.raw)}"
    index = make_index([new])
    for key, body in (
        (where, make_pack(blobs)),
        (f"packs/index/{name_of(sha256(index))}", index),
        ("condemned-by-a-prune", pack.encode()),
    ):
        admin.put_object(Bucket="packed", Key=key, Body=body)
    before = admin.list_objects_v2(Bucket="packed", Prefix="packs/2")["KeyCount"]
    ran = write()
    assert ran.code == 0, ran.err
    assert admin.list_objects_v2(Bucket="packed", Prefix="packs/2")["KeyCount"] == before + 1, "stored again"


def test_credentials_that_only_list_and_write_can_back_up_but_not_read_or_delete(
    strict: Server, pogfast: Runner, work: Path
) -> None:
    s3, iam = client_of(strict), client_of(strict, "iam")
    s3.create_bucket(Bucket="safe", ObjectLockEnabledForBucket=True)
    s3.create_bucket(Bucket="packed")
    keys = {}
    everything = '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": ["*"], "Resource": "*"}]}'
    policies = {name: policy(name, of) for name, of in OF_WRITERS.items()}
    for name, document in {**policies, "admin": everything}.items():
        iam.create_user(UserName=name)
        iam.put_user_policy(UserName=name, PolicyName=name, PolicyDocument=document)
        made = iam.create_access_key(UserName=name)["AccessKey"]
        keys[name] = {"AWS_ACCESS_KEY_ID": made["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": made["SecretAccessKey"]}
    with contextlib.suppress(ClientError):
        while True:  # the rest of what is free
            s3.list_buckets()

    def call(who: str, *words: str) -> Ran:
        cache = {"POGFAST_CACHE_DIR": str(work / "cache")}
        return pogfast(*words, env={**os.environ, **strict.environment, **keys[who], **cache}, cwd=work)

    writing = ["--encryption-keyfile", "k.encrypt"]
    for number in range(2):
        (work / "tree" / "new").write_bytes(bytes(1000 + number))
        ran = call("writes", *create("s3://safe"), *writing)
        assert ran.code == 0, ran.err
    assert "access denied" in call("writes", "list", "s3://safe", *writing).out.decode()
    for words in (
        ["prune", "s3://safe", "--keep-last", "1", "--group-by", "", "--yes", "--grace", "0", *writing],
        ["restore", "s3://safe/latest", "--into", "out", "--decryption-keyfile", "k.decrypt"],
    ):
        ran = call("writes", *words)
        assert ran.code == 1
        assert "access denied" in ran.err
        assert len(ran.err.splitlines()) <= 2
    backups_with_packs(call, strict, work, keys)
    thief = client_with(strict, keys["writes"])
    key = thief.list_objects_v2(Bucket="safe", Prefix="data/")["Contents"][0]["Key"]
    for act in (thief.get_object, thief.delete_object):
        with pytest.raises(ClientError, match="AccessDenied"):
            act(Bucket="safe", Key=key)
    ran = call("manifests", "check", "s3://safe", *writing)
    assert ran.code == 0, ran.err
    assert "checked 2 archives" in ran.err
    ran = call("writes", "doctor", "s3://safe")
    assert ran.code == 0, ran.err
    states = {line.split()[1]: line.split()[0] for line in ran.lines if not line.startswith(" ")}
    assert (states["write"], states["read"], states["delete"]) == ("good", "note", "note")


def test_remove_and_rewrite_keep_locked_archives(command: Command, bucket: str) -> None:
    store = f"s3://{bucket}"
    made = [command(*create(store, "--object-lock", "governance:1d"), "-q").lines[0] for _ in range(2)]
    ran = command("remove", f"{store}/{made[0]}", "--yes")
    assert ran.code == 3
    assert f"{made[0]}: not removed, it is locked until " in ran.err
    assert "\n  run this again after that date; " in ran.err
    assert "undelete" not in ran.err, "nothing was removed"
    assert ran.lines[0].startswith(f"keep    {made[0]}  ")
    ran = command("rewrite", f"{store}/{made[1]}", "--exclude", "large", "--yes")
    assert ran.code == 3
    assert "the old archive stays, it is locked until " in ran.err
    [new] = ran.lines
    rows = [line.split() for line in command("list", store).lines[1:]]
    assert [word for row in rows for word in row if word.endswith(".mfn")] == [*made, new]

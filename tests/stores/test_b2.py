"""Backblaze B2: methods, commands, hidden versions and failures, on a server with its native protocol."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import b2sdk.v2 as sdk
import pytest

from kit.commands import Ran, Runner
from kit.servers import KEY, SECRET, Server, b2, b2_environment, free_port
from pogfast.errors import MissingBlob, StoreError
from pogfast.stores import open_store

NAMES = [f"{letter}{'-' * 42}=" for letter in "ABC"]
WITH_KEY = ["--keyfile", "key"]
Command = Callable[..., Ran]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with b2(tmp_path_factory.mktemp("b2")) as made:
        yield made


def api_of(server: Server) -> sdk.B2Api:
    api = sdk.B2Api(sdk.InMemoryAccountInfo())
    api.authorize_account(server.url, KEY, SECRET)
    return api


@pytest.fixture
def bucket(server: Server) -> sdk.Bucket:
    return api_of(server).create_bucket(f"bucket-{time.monotonic_ns()}", "allPrivate")


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / "key").write_bytes(bytes(range(32)))
    (tmp_path / "tree").mkdir()
    for number in range(8):
        (tmp_path / "tree" / f"{number}").write_bytes(os.urandom(1000 + number))
    (tmp_path / "tree" / "large").write_bytes(os.urandom(2_000_000))
    return tmp_path


@pytest.fixture
def command(pogfast: Runner, work: Path, server: Server) -> Command:
    def call(*words: str, url: str = server.url, **more: str) -> Ran:
        environment = {**os.environ, **b2_environment(url), "POGFAST_CACHE_DIR": str(work / "cache"), **more}
        return pogfast(*words, *WITH_KEY, env=environment, cwd=work)

    return call


def create(to: str, *more: str) -> list[str]:
    return ["create", "tree", "--to", to, "--chunk-size", "500kB", *more]


def fault(server: Server, **words: Any) -> None:
    urllib.request.urlopen(f"{server.url}/_fault", data=json.dumps(words).encode()).close()


def assert_restored(work: Path, ran: Ran) -> None:
    assert ran.code == 0, ran.err
    for path in (work / "tree").iterdir():
        assert (work / "out" / "tree" / path.name).read_bytes() == path.read_bytes()


def test_hidden_and_older_versions_are_deleted_with_the_last(
    server: Server, bucket: sdk.Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in b2_environment(server.url).items():
        monkeypatch.setenv(name, value)
    path = f"data/{NAMES[0][:2]}/{NAMES[0]}"
    for data in (b"older", b"newer"):
        bucket.upload_bytes(data, path)
    store = open_store(f"b2://{bucket.name}")
    assert [stored.size for stored in store.blob_names()] == [5]
    bucket.hide_file(path)
    assert list(store.blob_names()) == []
    with pytest.raises(MissingBlob):
        store.get_blob(NAMES[0])
    store.delete_blobs([NAMES[0]])
    assert list(bucket.ls(latest_only=False, recursive=True)) == []
    store.close()


def test_a_backup_a_restore_and_a_prune(command: Command, bucket: sdk.Bucket, work: Path) -> None:
    store = f"b2://{bucket.name}/laptop"
    assert command(*create(store)).code == 0
    assert_restored(work, command("restore", f"{store}/latest", "--into", "out"))
    assert command("check", store, "--read-data").code == 0
    assert len(command("list", store, "--json").lines) == 1
    (work / "tree" / "3").unlink()
    assert command(*create(store)).code == 0
    for _ in range(2):
        assert command("prune", store, "--keep-last", "1", "--yes", "--grace", "0").code == 0
        time.sleep(0.01)
    assert command("check", store, "--read-data").code == 0
    assert len([1 for version, _ in bucket.ls(recursive=True, latest_only=False) if "data/" in version.file_name]) == 11
    ran = command("copy", store, "back")
    assert (ran.code, len(ran.lines)) == (0, 1)


def test_pogs_addresses(pog: Runner, server: Server, bucket: sdk.Bucket, work: Path) -> None:
    environment = {**os.environ, **b2_environment(server.url), "B2_BUCKET_NAME": bucket.name}
    ran = pog("--keyfile=key", "--save-to=b2", "tree", env=environment, cwd=work)
    assert ran.code == 0, ran.err
    name = ran.lines[-1].split()[-1]
    (work / "out").mkdir()
    back = pog("--keyfile=../key", "--decrypt", f"b2://{bucket.name}/{name}", env=environment, cwd=work / "out")
    assert_restored(work, back)


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        ({"B2_APPLICATION_KEY": "wrong"}, 1, "access denied"),
        ({"B2_APPLICATION_KEY": "", "HOME": "/nonexistent", "XDG_CONFIG_HOME": ""}, 1, "B2"),
    ],
)
def test_a_wrong_setting_is_one_line(
    command: Command, bucket: sdk.Bucket, change: dict[str, str], code: int, said: str
) -> None:
    ran = command("list", f"b2://{bucket.name}", **change)
    assert ran.code == code, ran.err
    first, *more = ran.err.splitlines()
    assert first.startswith("pogfast: error: ")
    assert said in first
    assert len(more) <= 1


def test_a_missing_bucket(command: Command) -> None:
    for words in (["list", "b2://no-such-bucket"], create("b2://no-such-bucket")):
        ran = command(*words)
        assert ran.code == 10, ran.err
        assert "b2://no-such-bucket: there is no such bucket" in ran.err


def test_a_cap_that_is_used_up(tmp_path: Path, command: Command) -> None:
    with b2(tmp_path / "own") as own:
        bucket = api_of(own).create_bucket("bucket-that-is-full", "allPrivate")
        fault(own, match="b2_upload_file", status=403, code="storage_cap_exceeded", times=1000)
        ran = command(*create(f"b2://{bucket.name}"), url=own.url)
        assert ran.code == 1
        assert "the account's cap is used up" in ran.err


@pytest.mark.parametrize(
    "harm",
    [
        {"match": "b2_upload_file", "status": 503, "code": "service_unavailable", "times": 2},
        {"match": "b2_upload_file", "reset": True, "times": 2},
        {"match": "b2_list_file_names", "status": 500, "times": 1},
        {"match": "^/file/", "cut": 700, "times": 3},
        {"match": "^/file/", "status": 503, "times": 1},
    ],
    ids=lambda harm: "-".join(map(str, harm.values())),
)
def test_transient_errors(tmp_path: Path, command: Command, work: Path, harm: dict[str, Any]) -> None:
    with b2(tmp_path / "own") as own:
        bucket = api_of(own).create_bucket("bucket-of-faults", "allPrivate")
        fault(own, **harm)
        assert command(*create(f"b2://{bucket.name}"), url=own.url).code == 0
        assert_restored(work, command("restore", f"b2://{bucket.name}/latest", "--into", "out", url=own.url))


def test_a_run_that_is_killed_is_continued(command: Command, server: Server, bucket: sdk.Bucket, work: Path) -> None:
    environment = {**os.environ, **b2_environment(server.url), "POGFAST_CACHE_DIR": str(work / "cache")}
    words = [*create(f"b2://{bucket.name}", "--parallel", "1"), *WITH_KEY]
    process = subprocess.Popen([sys.executable, "-m", "pogfast", *words], cwd=work, env=environment)
    while not list(bucket.ls(recursive=True)) and process.poll() is None:
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert command(*create(f"b2://{bucket.name}")).code == 0
    assert command("check", f"b2://{bucket.name}", "--read-data").code == 0


def test_a_service_that_does_not_respond(command: Command) -> None:
    ran = command("list", "b2://bucket", "--retry-for", "0", url=f"http://127.0.0.1:{free_port()}")
    assert ran.code == 1
    assert ran.err.startswith("pogfast: error: cannot reach b2://bucket: ")


# ---- every answer that a service can give --------------------------------------------------------------------------


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server with a bucket `bucket-of-faults`, for the faults of one test."""
    with b2(tmp_path / "own") as made:
        api_of(made).create_bucket("bucket-of-faults", "allPrivate")
        for name, value in b2_environment(made.url).items():
            monkeypatch.setenv(name, value)
        yield made


def test_transient_answers_are_retried(own: Server, told: list[str]) -> None:
    answers = [(401, "expired_auth_token"), (408, "request_timeout"), (429, "too_many_requests")]
    answers += [(500, "internal_error"), (503, "service_unavailable"), (503, "bad_upload")]
    store = open_store("b2://bucket-of-faults", create=True)
    for verb, act in {
        "b2_upload_file": lambda: store.put_blob(NAMES[0], b"content"),
        "^/file/": lambda: store.get_blob(NAMES[0]),
        "b2_delete_file_version": lambda: store.delete_blobs([NAMES[0]]),
    }.items():
        for status, code in answers:
            if verb == "b2_delete_file_version":
                store.put_blob(NAMES[0], b"content")
            del told[:]
            fault(own, match=verb, status=status, code=code)
            act()
            assert len(told) <= 1, "once more, or a token was renewed"
            assert status == 401 or code in told[0] or "busy" in told[0]
    store.close()


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (400, "bad_request", "bad_request"),
        (400, "never_heard_of_it", "injected"),
        (403, "storage_cap_exceeded", "the account's cap is used up"),
        (403, "transaction_cap_exceeded", "the account's cap is used up"),
        (403, "access_denied", "not allowed for this auth token"),
    ],
)
def test_final_errors_are_reported_at_once(own: Server, told: list[str], status: int, code: str, said: str) -> None:
    store = open_store("b2://bucket-of-faults", create=True)
    fault(own, match="b2_upload_file", status=status, code=code, times=100)
    with pytest.raises(StoreError, match=said) as failed:
        store.put_blob(NAMES[0], b"content")
    assert "\n" not in str(failed.value)
    assert told == []
    store.close()


def test_blobs_are_deleted_several_at_a_time(own: Server) -> None:
    """With one listing for adjacent names."""
    names = [f"AA{number:040}A=" for number in range(60)]
    store = open_store("b2://bucket-of-faults", create=True)
    for name in names:
        store.put_blob(name, b"content")
    before = store.requests
    fault(own, match="b2_delete_file_version", status=503, code="service_unavailable", times=3)
    store.delete_blobs(names[1:])
    assert [blob.name for blob in store.blob_names()] == names[:1]
    assert store.requests["delete"] - before.get("delete", 0) == 59 + 3
    assert store.requests["list"] - before["list"] <= 4
    store.close()


def test_the_login_of_the_b2_command_is_never_changed(
    own: Server, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An older b2 command can still read it."""
    login = tmp_path / "account_info"
    api = sdk.B2Api(sdk.SqliteAccountInfo(str(login)))
    api.authorize_account(own.url, KEY, SECRET)
    with contextlib.closing(sqlite3.connect(login)) as file:
        file.execute("update account set account_auth_token = 'expired'")
        file.commit()
    before = login.read_bytes()
    login.chmod(0o400)
    words = {
        "B2_ACCOUNT_INFO": str(login),
        "B2_APPLICATION_KEY_ID": "",
        "B2_APPLICATION_KEY": "",
        "POGFAST_B2_REALM": "",
    }
    ran = command(*create("b2://bucket-of-faults"), url=own.url, **words)
    assert ran.code == 0, ran.err
    assert login.read_bytes() == before
    assert sorted(path.name for path in tmp_path.glob("account_info*")) == ["account_info"]

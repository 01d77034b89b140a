"""Addresses of stores: settings of one store among several, other programs' addresses, POGFAST_STORE."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import pogfast
from kit.commands import Runner
from kit.servers import Server, b2, b2_environment, environment_of, moto, rclone
from pogfast.errors import UsageError
from pogfast.keys import Key
from pogfast.stores import check_stores
from pogfast.stores.addresses import parse_service
from pogfast.stores.settings import Lock


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "f").write_bytes(b"hello\n")
    (tmp_path / "key").write_bytes(b"a key")
    for name in [name for name in os.environ if name.startswith(("POGFAST_", "AWS_", "B2_", "S3_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("POGFAST_KEYFILE", str(tmp_path / "key"))
    monkeypatch.setenv("POGFAST_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


# ---- what is no address of ours --------------------------------------------------------------------------------------

FOREIGN = {
    "s3:http://127.0.0.1:9000/bkt": "s3://bkt?endpoint=http://127.0.0.1:9000",
    "s3:https://minio.example/bkt/a/b": "s3://bkt/a/b?endpoint=https://minio.example",
    "s3:s3.amazonaws.com/bkt": "s3://bkt?",
    "s3:bucket": "s3://bucket",
    "s3:bucket/a/b": "s3://bucket/a/b",
    "s3:/bucket": "s3://bucket",
    "S3://bucket": "s3://bucket",
    "/s3://bucket": "s3://bucket",
    " s3://bucket": "s3://bucket",
    "s3://http://127.0.0.1/bkt": "s3://bkt?endpoint=http://127.0.0.1",
    "s3://bucket:a/b": "s3://bucket/a/b",
    "b2:bucket:path": "b2://bucket/path",
    "b2:bucket": "b2://bucket",
    "B2://bucket": "b2://bucket",
    "http://127.0.0.1:9000/bkt": "s3://bkt?endpoint=http://127.0.0.1:9000",
    "https://host/bkt/x": "s3://bkt/x?endpoint=https://host",
    "gs:bucket:/": "",
    "gs://bucket": "storage.googleapis.com",
    "azure:container:/": "",
    "swift:container:/": "",
    "rest:http://host:8000/": "",
    "rclone:remote:path": "rclone serve s3",
    "remote:path": "",
    "sftp:u@h:/x": "sshfs",
    "sftp://u@h/x": "sshfs",
    "ssh://u@h:22/./x": "sshfs",
    "user@host:path": "sshfs",
    "host:/path": "",
    "file:///srv/backup": "/srv/backup",
    "file://srv": "",
    "webdav://h/x": "",
    "smb://h/x": "",
    "~/backup": "$HOME/backup",
    "~": "$HOME",
}


@pytest.mark.parametrize("word", FOREIGN)
def test_another_programs_address_is_refused(work: Path, cli: Runner, word: str) -> None:
    before = sorted(work.rglob("*"))
    ran = cli("create", "tree", "--to", word)
    assert (ran.code, ran.out) == (2, b"")
    assert word.strip() in ran.err
    assert FOREIGN[word] in ran.err
    assert sorted(work.rglob("*")) == before


@pytest.mark.parametrize("word", [b"s3://bucket/\xe4", b"b2://b\xe4", b"s3://bucket/a/\xff\xfe/latest"])
def test_an_address_of_a_service_is_utf_8(work: Path, cli: Runner, word: bytes) -> None:
    for words in (["create", "tree", "--to", word], ["list", word], ["ls", word + b"/latest"]):
        ran = cli(*words)
        assert (ran.code, ran.out) == (2, b"")
        assert "this is not UTF-8, which services require" in ran.err


@pytest.mark.parametrize("word", ["s3:http://127.0.0.1:9000/bkt", "sftp:u@h:/x", "S3://bucket"])
def test_every_verb_refuses_another_programs_address(work: Path, cli: Runner, pog: Runner, word: str) -> None:
    (work / "store").mkdir()
    commands = [
        ["create", "tree", "--to", f"store,{word}"],
        ["create", "tree", "--to", word, "--dry-run"],
        ["list", word],
        ["stats", word],
        ["find", word, "x"],
        ["ls", f"{word}/latest"],
        ["cat", f"{word}/latest", "tree/f"],
        ["info", f"{word}/X.mfn"],
        ["diff", f"{word}/latest", "store/latest"],
        ["restore", f"{word}/latest", "--into", "out"],
        ["restore", "latest", "--from", f"store,{word}", "--into", "out"],
        ["check", word],
        ["check", f"{word}/latest"],
        ["copy", "store", word],
        ["copy", word, "store"],
        ["prune", word, "--keep-last", "1"],
        ["undelete", word],
        ["lock", "extend", word, "compliance:1d"],
        ["doctor", word],
        ["tune", "tree", "--to", word],
    ]
    for command in commands:
        ran = cli(*command)
        assert (ran.code, "did you mean" in ran.err or "sshfs" in ran.err) == (2, True), (command, ran.err)
    ran = pog("--keyfile=key", f"--save-to={word}", "tree/f", cwd=work)
    assert (ran.code, "did you mean" in ran.err or "sshfs" in ran.err) == (2, True), ran.err
    assert sorted(path.name for path in work.iterdir()) == ["key", "store", "tree"]
    with pytest.raises(UsageError):
        pogfast.create(["tree"], word, Key("keyfile", bytes(range(32))))
    with pytest.raises(UsageError):
        pogfast.open_store(word)


@pytest.mark.parametrize("word", ["s3://bucket/x", "sftp:u@h:/x", "user@host:x", "file:///x", "~/out", "local:x"])
def test_nothing_is_restored_to_an_address(work: Path, cli: Runner, word: str) -> None:
    """It would become a local directory of that name. (bash does not expand the ~ of --into=~/out.)"""
    assert cli("create", "tree", "--to", "store").code == 0
    before = sorted(work.iterdir())
    for more in ((), ("--dry-run",)):
        ran = cli("restore", "store/latest", f"--into={word}", *more)
        assert (ran.code, f"{word} is not a directory" in ran.err) == (2, True), ran.err
    assert sorted(work.iterdir()) == before
    assert cli("restore", "store/latest", f"--into=./{word}").code == 0
    assert cli("restore", "store/latest", "--into=at-12:30").code == 0
    assert (work / "at-12:30" / "tree").is_dir()


def test_a_directory_named_like_an_address(work: Path, cli: Runner) -> None:
    for number, name in enumerate(("./s3:x", "local:sftp:u@h:", f"{work}/gs:y", "../here:/z", "local:~/x")):
        (work / "here:").mkdir(exist_ok=True)
        assert cli("create", "../tree", "--to", name, cwd=work / "here:").code == 0, name
        assert cli("list", name, cwd=work / "here:").code == 0, number
    # One that is there already, and whose name no service has, goes on working.
    (work / "disk:2").mkdir()
    assert cli("create", "tree", "--to", "disk:2/store").code == 0
    assert cli("create", "tree", "--to", "disk:3/store").code == 2


def test_a_password_in_an_address_is_not_shown(cli: Runner) -> None:
    for word in ("https://me:hunter2@host/bkt", "s3://me:hunter2@host/bkt", "s3:http://me:hunter2@h/b"):
        ran = cli("create", "tree", "--to", word)
        assert ran.code == 2
        assert "hunter2" not in ran.err


# ---- settings of one service -----------------------------------------------------------------------------------------


def test_settings_are_typed() -> None:
    text = (
        "s3://b/p/q?endpoint=http://h:9000/&profile=a%20b&region=eu-1&storage-class=STANDARD_IA"
        "&object_lock=governance:1d&parallel=3&retry-for=5m"
    )
    place = parse_service(text)
    assert place[:3] == ("s3", "b", "p/q")
    assert place.settings == {
        "s3_endpoint": "http://h:9000",
        "profile": "a b",
        "region": "eu-1",
        "storage_class": "STANDARD_IA",
        "object_lock": Lock("governance", 86400),
        "parallel": 3,
        "retry_for": 300.0,
    }
    assert parse_service("s3://b?endpoint=").settings == {"s3_endpoint": None}, "the usual one"
    assert parse_service("b2://b/p?realm=http://h&profile=x").settings == {"b2_realm": "http://h", "profile": "x"}


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("endpont=http://h", "did you mean endpoint?"),
        ("end_point=http://h", "did you mean endpoint?"),
        ("secret-key=hunter2", "s3://b: unknown setting: secret-key"),
        ("realm=http://h", "unknown setting: realm"),
        ("", "unknown setting"),
        ("profile", "has no value"),
        ("profile=", "has no value"),
        ("region=", "has no value"),
        ("endpoint=host:9000", "is not a URL"),
        ("endpoint=http://me:hunter2@h", "is not a URL"),
        ("endpoint=ftp://h", "is not a URL"),
        ("parallel=0", "from 1 to 64"),
        ("parallel=many", "from 1 to 64"),
        ("retry-for=x", "length of time"),
        ("object-lock=never", "object lock"),
        ("profile=a&profile=b", "twice"),
    ],
)
def test_an_invalid_setting_is_refused(cli: Runner, query: str, said: str) -> None:
    for command in (["create", "tree", "--to", f"s3://b?{query}"], ["ls", f"s3://b?{query}/latest"]):
        ran = cli(*command)
        assert ran.code == 2
        assert said in ran.err
        assert "hunter2" not in ran.err


@pytest.fixture
def near_and_far(work: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Server, Server]]:
    """Two services that reject each other's credentials, with a profile for each and none in the environment."""
    (work / "near" / "b").mkdir(parents=True)
    (work / "far" / "b").mkdir(parents=True)
    with rclone(work / "near", "nearkey", "nearsecret") as near, rclone(work / "far", "farkey", "farsecret") as far:
        lines = []
        for server in (near, far):
            name = server.key.removesuffix("key")
            lines += [f"[{name}]", f"aws_access_key_id={server.key}", f"aws_secret_access_key={server.secret}"]
        (work / "credentials").write_text("\n".join(lines) + "\n")
        for name, value in environment_of(near.url).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(work / "credentials"))
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody's")
        monkeypatch.delenv("POGFAST_S3_ENDPOINT")
        yield near, far


def test_two_services_with_different_credentials_in_one_command(
    work: Path, cli: Runner, near_and_far: tuple[Server, Server]
) -> None:
    near, far = (
        f"s3://b/p?profile={name}&endpoint={server.url}"
        for name, server in zip(("near", "far"), near_and_far, strict=True)
    )
    ran = cli("create", "tree", "--to", f"{near},{far}")
    assert (ran.code, len(ran.lines)) == (0, 1), ran.err
    name = ran.lines[0]
    for place in ("near", "far"):
        assert (work / place / "b" / "p" / name).exists()
    behind = far.replace("?", "/latest?")
    for archive in (f"{near}/latest", f"{far}/{name}", behind):
        assert cli("ls", archive).lines == ["tree", "tree/f"], archive
    assert cli("restore", behind, "--into", "out").code == 0
    assert (work / "out" / "tree" / "f").read_bytes() == b"hello\n"
    other = near.replace("/p?", "/q?")
    ran = cli("copy", far, other)
    assert (ran.code, ran.lines) == (0, [name])
    ran = cli("restore", "latest", "--from", f"{other},{far}", "--into", "out2")
    assert ran.code == 0, ran.err
    # tune works below the store, and clears nothing but its own.
    (work / "noise").write_bytes(os.urandom(1_500_000))
    ran = cli("tune", "noise", "--to", far, "--levels=1", "--jobs=1", "--chunker=4MB", "-q")
    assert ran.code == 0, ran.err
    assert cli("check", far, "--read-data").code == 0
    assert [path.name for path in (work / "far" / "b").iterdir()] == ["p"]
    # The wrong profile is what a service refuses.
    ran = cli("list", near.replace("near", "far"))
    assert ran.code == 1
    assert cli("list", near.replace("profile=near", "profile=none")).code == 1


def test_settings_of_a_store_override_those_of_the_command(
    work: Path, cli: Runner, near_and_far: tuple[Server, Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    near, far = near_and_far
    monkeypatch.setenv("POGFAST_S3_ENDPOINT", "http://127.0.0.1:1")
    store = f"s3://b?profile=near&endpoint={near.url}"
    assert cli("create", "tree", "--to", store, "--s3-endpoint", far.url, "-q").err == ""
    assert cli("list", store).code == 0


def test_b2_has_settings_too(work: Path, cli: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    with b2(work / "b2") as server:
        for name, value in b2_environment(server.url).items():
            monkeypatch.setenv(name, value)
        import b2sdk.v2 as sdk

        api = sdk.B2Api(sdk.InMemoryAccountInfo())
        api.authorize_account(server.url, server.key, server.secret)
        api.create_bucket("bucket", "allPrivate")
        monkeypatch.delenv("POGFAST_B2_REALM")
        store = f"b2://bucket?realm={server.url}"
        assert cli("create", "tree", "--to", store).code == 0
        assert cli("ls", f"{store}/latest").lines == ["tree", "tree/f"]
        # A profile of the b2 command, and nothing in the environment.
        monkeypatch.setenv("XDG_CONFIG_HOME", str(work / "config"))
        monkeypatch.delenv("B2_APPLICATION_KEY")
        monkeypatch.delenv("B2_APPLICATION_KEY_ID")
        info = sdk.SqliteAccountInfo(profile="mine")
        sdk.B2Api(info).authorize_account(server.url, server.key, server.secret)
        assert cli("ls", f"{store}&profile=mine/latest").lines == ["tree", "tree/f"]
        assert cli("ls", f"{store}&profile=other/latest").code == 1


def test_a_service_copies_within_itself_only_with_the_same_credentials(
    work: Path, cli: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    (work / "credentials").write_text(
        "[a]\naws_access_key_id=x\naws_secret_access_key=y\n[b]\naws_access_key_id=z\naws_secret_access_key=y\n"
    )
    with moto() as server:
        for name, value in environment_of(server.url).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(work / "credentials"))
        import boto3

        boto3.client("s3", endpoint_url=server.url).create_bucket(Bucket="bucket")
        assert cli("create", "tree", "--to", "s3://bucket/one?profile=a").code == 0
        assert cli("copy", "s3://bucket/one?profile=a", "s3://bucket/two?profile=b").code == 0
        assert cli("check", "s3://bucket/two", "--read-data").code == 0


# ---- POGFAST_STORE ---------------------------------------------------------------------------------------------------


def test_the_store_of_the_environment(work: Path, cli: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = cli("create", "tree")
    assert (ran.code, "POGFAST_STORE" in ran.err) == (2, True)
    for verb in ("list", "stats", "prune", "undelete", "doctor", "check"):
        ran = cli(verb)
        assert (ran.code, "POGFAST_STORE" in ran.err) == (2, True), (verb, ran.err)
    monkeypatch.setenv("POGFAST_STORE", str(work / "store"))
    name = cli("create", "tree").lines[0]
    assert (work / "store" / name).exists()
    for command in (
        ["list"],
        ["stats"],
        ["prune", "--keep-last", "1"],
        ["undelete"],
        ["doctor"],
        ["check"],
        ["check", "latest"],
        ["check", name],
        ["ls", "latest"],
        ["ls", name, "tree"],
        ["cat", "latest", "tree/f"],
        ["info", "latest"],
        ["diff", name, "latest"],
        ["find", "f"],
        ["restore", "latest", "--into", "out"],
        ["copy", "other"],
        ["copy", "third", name],
    ):
        ran = cli(*command)
        assert ran.code == 0, (command, ran.err)
    assert (work / "third" / name).exists()
    assert cli("lock", "extend", "governance:1d").code == 2, "a directory cannot be locked"
    # What names a store means that one.
    assert cli("ls", "other/latest").code == 0
    assert cli("find", "other", "f").code == 0
    assert cli("ls", "./latest").code == 10
    assert cli("create", "tree", "--to", "fourth").code == 0
    assert len(list((work / "store").glob("*.mfn"))) == 1
    # An archive that was removed, by its name alone.
    cli("create", "tree")
    assert cli("prune", "--keep-last", "1", "--yes").code == 0
    assert cli("undelete", name).lines == [name]


def test_several_stores_of_the_environment(work: Path, cli: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POGFAST_STORE", "a,b")
    assert cli("create", "tree").code == 0
    assert (work / "a").exists()
    assert (work / "b").exists()
    ran = cli("list")
    assert (ran.code, "several stores" in ran.err) == (2, True)


def test_addresses_are_checked_before_anything_is_accessed() -> None:
    with pytest.raises(UsageError):
        check_stores("good,sftp:x")
    check_stores("good,./sftp:x,s3://b?profile=x")

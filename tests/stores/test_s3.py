"""S3: methods, commands, interoperability with pogcli, network failures and busy services, on real servers."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import pytest
import zstandard
from botocore.config import Config

import pogfast
from kit.commands import Ran, Runner, run
from kit.environments import installed, pogcli_python
from kit.faultproxy import Fault, Proxy, proxied
from kit.servers import Certificate, Server, environment_of, free_port, moto, rclone
from pogfast.errors import StoreError
from pogfast.keys import from_keyfile
from pogfast.stores import open_store
from pogfast.stores.remote import RemoteStore
from pogfast.upkeep.checking import EVERYTHING

NAMES = [f"{letter}{'-' * 42}=" for letter in "ABC"]


@pytest.fixture(scope="session")
def moto_server() -> Iterator[Server]:
    with moto() as server:
        yield server


@pytest.fixture(scope="session")
def rclone_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with rclone(tmp_path_factory.mktemp("rclone")) as server:
        yield server


@pytest.fixture(params=["moto", "rclone"])
def server(request: pytest.FixtureRequest) -> Server:
    return request.getfixturevalue(f"{request.param}_server")


@pytest.fixture
def proxy(rclone_server: Server) -> Iterator[Proxy]:
    with proxied(rclone_server.url) as made:
        yield made


def client_of(server: Server) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=server.url,
        aws_access_key_id=server.key,
        aws_secret_access_key=server.secret,
        region_name="us-east-1",
        config=Config(request_checksum_calculation="when_required", response_checksum_validation="when_required"),
    )


def new_bucket(server: Server, request: pytest.FixtureRequest) -> str:
    name = f"b{abs(hash(request.node.nodeid)) % 10**12}-{time.monotonic_ns()}"
    client_of(server).create_bucket(Bucket=name)
    return name


@pytest.fixture
def bucket(server: Server, request: pytest.FixtureRequest) -> str:
    return new_bucket(server, request)


@pytest.fixture
def shelf(rclone_server: Server, request: pytest.FixtureRequest) -> str:
    """A bucket behind the proxy."""
    return new_bucket(rclone_server, request)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / "key").write_bytes(bytes(range(32)))
    (tmp_path / "tree" / "d").mkdir(parents=True)
    for number in range(12):
        (tmp_path / "tree" / "d" / f"{number}").write_bytes(os.urandom(1000 + number))
    (tmp_path / "tree" / "large").write_bytes(os.urandom(3_000_000))
    (tmp_path / "tree" / "empty").touch()
    return tmp_path


Command = Callable[..., Ran]


@pytest.fixture
def command(pogfast: Runner, work: Path) -> Command:
    def call(url: str, *words: str, **more: str) -> Ran:
        environment = {**os.environ, **environment_of(url), "POGFAST_CACHE_DIR": str(work / "cache"), **more}
        return pogfast(*words, env=environment, cwd=work)

    return call


def with_key(*words: str) -> list[str]:
    return [*words, "--keyfile", "key"]


def create(*more: str, to: str) -> list[str]:
    return with_key("create", "tree", "--to", to, "--chunk-size", "500kB", *more)


def assert_restored(work: Path, ran: Ran, into: str = "out") -> None:
    assert ran.code == 0, ran.err
    wanted, got = work / "tree", work / into / "tree"
    files = [path.relative_to(wanted) for path in wanted.rglob("*") if path.is_file()]
    assert len(files) == 14
    for file in files:
        assert (got / file).read_bytes() == (wanted / file).read_bytes()


@contextlib.contextmanager
def opened(
    url: str, text: str, monkeypatch: pytest.MonkeyPatch, *, create: bool = False, **more: str
) -> Iterator[RemoteStore]:
    for name, value in {**environment_of(url), **more}.items():
        monkeypatch.setenv(name, value)
    store = open_store(text, create=create)
    yield store
    store.close()


# ---- the store's verbs ---------------------------------------------------------------------------------------------


def test_noise_in_a_bucket_is_not_a_blob(
    moto_server: Server, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = new_bucket(moto_server, request)
    client = client_of(moto_server)
    for key in ("data/x", f"data/ZZ/{NAMES[0]}", f"data/{NAMES[0]}", "deep/a.mfn", "note", f"other/data/AA/{NAMES[0]}"):
        client.put_object(Bucket=name, Key=key, Body=b"noise")
    with opened(moto_server.url, f"s3://{name}", monkeypatch) as store:
        assert (list(store.blob_names()), store.manifests()) == ([], [])


def test_a_listing_of_several_pages(
    moto_server: Server, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = new_bucket(moto_server, request)
    names = {f"{number:042}A=" for number in range(1100)}
    with opened(moto_server.url, f"s3://{name}", monkeypatch, create=True) as store:
        for blob in names:
            store.blobs(blob, memoryview(b"content"))
        store.make_durable()
        assert {stored.name for stored in store.blob_names()} == names
        listed = store.requests["list"]  # two of them for two pages; one more where a response is lost
        assert 4 <= listed < 10
        store.delete_blobs(names)
        assert list(store.blob_names()) == []
        assert 1100 <= store.requests["put"] < 1105
        assert store.requests["delete"] == 2


def test_a_listing_says_what_boto3_says(server: Server, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    client = client_of(server)
    with opened(server.url, f"s3://{bucket}", monkeypatch) as store:
        for key in ("one", "a folder/a+b & <c>.txt", "data/ü"):
            client.put_object(Bucket=bucket, Key=key, Body=key.encode())
            mine, theirs = (each.list_objects_v2(Bucket=bucket) for each in (store.service.client, client))
            words = "Key", "ETag", "Size", "LastModified", "StorageClass"
            assert mine["Contents"] == [{word: it[word] for word in words if word in it} for it in theirs["Contents"]]
            assert {**mine, "Contents": 0, "ResponseMetadata": 0} == {**theirs, "Contents": 0, "ResponseMetadata": 0}


def test_credentials_of_a_role(
    moto_server: Server, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They come from another service, whose responses are no XML of S3's."""
    name = new_bucket(moto_server, request)
    role = "role_arn = arn:aws:iam::123456789012:role/backup\nsource_profile = base\nregion = us-east-1\n"
    (tmp_path / "config").write_text(f"[profile base]\n[profile role]\n{role}")
    (tmp_path / "credentials").write_text("[base]\naws_access_key_id = base\naws_secret_access_key = secret\n")
    files = {"AWS_CONFIG_FILE": str(tmp_path / "config"), "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials")}
    more = {**files, "AWS_ENDPOINT_URL_STS": moto_server.url}
    with opened(moto_server.url, f"s3://{name}?profile=role", monkeypatch, **more) as store:
        assert store.manifests() == []
        assert store.service.client._request_signer._credentials.method == "assume-role"


def test_a_small_body_is_sent_without_a_round_trip(proxy: Proxy, shelf: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would cost a round trip for every small file."""
    with opened(proxy.url, f"s3://{shelf}", monkeypatch, create=True) as store:
        store.put_blob(NAMES[0], b"content")
        store.put_blob(NAMES[1], bytes(1 << 20))
        assert proxy.asked == []
        store.put_blob(NAMES[2], bytes((1 << 20) + 1))
        assert len(proxy.asked) == 1
        assert [len(store.get_blob(name)) for name in NAMES] == [7, 1 << 20, (1 << 20) + 1]


def test_a_service_that_requires_a_checksum_gets_one(proxy: Proxy, shelf: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(proxy.url, f"s3://{shelf}", monkeypatch, create=True) as store:
        store.put_manifest("without.mfn", b"content")
        assert proxy.sums == []
        proxy.faults = [Fault("PUT .*/data/", status=400, code="MissingContentMD5", times=3, delay=0.3)]
        for name in NAMES:  # all on their way before the first is refused
            store.blobs(name, memoryview(b"content"))
        store.make_durable()
        assert len(proxy.sums) == 3
        assert {stored.name for stored in store.blob_names()} == set(NAMES)
        proxy.faults = [Fault("PUT .*/data/", status=400, code="InvalidArgument")]
        with pytest.raises(StoreError, match="InvalidArgument"):
            store.put_blob(NAMES[0], b"content")
        assert proxy.count("PUT") == 1 + 6 + 1, "what is refused with a checksum is not sent again"


def test_an_object_larger_than_a_part(
    moto_server: Server, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pogfast.stores import s3

    monkeypatch.setattr(s3, "PART", 5 << 20)
    data = os.urandom(12_000_000)
    with opened(moto_server.url, f"s3://{new_bucket(moto_server, request)}", monkeypatch, create=True) as store:
        store.blobs(NAMES[0], memoryview(data))
        store.make_durable()
        assert bytes(store.get_blob(NAMES[0])) == data


# ---- the commands --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "/pre/fix"])
def test_a_backup_and_a_restore(command: Command, server: Server, bucket: str, work: Path, prefix: str) -> None:
    store = f"s3://{bucket}{prefix}"
    time.sleep(0.2)  # until the files are old enough for the cache
    ran = command(server.url, *create(to=store))
    assert ran.code == 0, ran.err
    assert_restored(work, command(server.url, *with_key("restore", f"{store}/latest", "--into", "out")))
    assert command(server.url, *with_key("check", store, "--read-data")).code == 0
    assert command(server.url, *with_key("cat", f"{store}/latest", "tree/d/3")).out == (work / "tree/d/3").read_bytes()
    listed = command(server.url, *with_key("list", store, "--json")).out.decode()
    assert len(listed.splitlines()) == 1
    assert command(server.url, *with_key("ls", f"{store}/{ran.out.decode().strip()}", "tree/d")).code == 0
    again = command(server.url, *create("--json", to=store))
    [summary] = [line for line in map(json.loads, again.out.splitlines()) if line["message_type"] == "summary"]
    assert (summary["files_new"], summary["files_unmodified"]) == (0, 14)
    assert summary["requests"]["put"] == 1, "the manifest"
    assert summary["requests"]["list"] <= 6
    assert "requests " in ran.err
    assert command(server.url, *with_key("stats", store, "--json")).code == 0


def test_pog_and_pogcli_share_a_bucket(
    pog: Runner, moto_server: Server, request: pytest.FixtureRequest, work: Path
) -> None:
    environment = {**os.environ, **moto_server.environment, "AWS_ENDPOINT_URL": moto_server.url}
    wanted = ("pogcli==0.1.4", f"zstandard=={zstandard.__version__}", "boto3")
    theirs = [str(installed(f"pogcli-s3-{zstandard.__version__}", *wanted) / "python"), "-m", "pog.pog"]
    bucket = new_bucket(moto_server, request)
    (work / "our").mkdir()
    (work / "their").mkdir()
    ran = pog("--keyfile=key", f"--save-to=s3://{bucket}", "tree/large", "tree/d", env=environment, cwd=work)
    assert ran.code == 0, ran.err
    [ours] = [line for line in ran.lines if line.endswith(".mfn")]
    ours = ours.split()[-1]
    back = run([*theirs, "--keyfile=../key", "--decrypt", f"s3://{bucket}/{ours}"], work / "their", env=environment)
    assert back.code == 0, back.err
    assert (work / "their" / "tree/d/3").read_bytes() == (work / "tree/d/3").read_bytes()
    known = {item["Key"] for item in client_of(moto_server).list_objects_v2(Bucket=bucket)["Contents"]}
    named = {**environment, "S3_BUCKET_NAME": bucket}
    assert run([*theirs, "--keyfile=key", "--save-to=s3", "tree/large", "tree/d"], work, env=named).code == 0
    added = {item["Key"] for item in client_of(moto_server).list_objects_v2(Bucket=bucket)["Contents"]} - known
    assert len(added) == 1, "the same blobs, and one more manifest"
    [theirs_manifest] = added
    back = pog("--keyfile=../key", "--decrypt", f"s3://{bucket}/{theirs_manifest}", env=named, cwd=work / "our")
    assert back.code == 0, back.err
    assert (work / "our" / "tree/large").read_bytes() == (work / "tree/large").read_bytes()
    assert pog("--keyfile=key", "--save-to=s3", "tree/empty", env=named, cwd=work).code == 0


def test_several_targets_one_of_them_a_bucket(command: Command, server: Server, bucket: str, work: Path) -> None:
    assert command(server.url, *create(to=f"s3://{bucket},local")).code == 0
    names = {path.name for path in (work / "local" / "data").rglob("*=")}
    listed = client_of(server).list_objects_v2(Bucket=bucket, Prefix="data/")["Contents"]
    assert {item["Key"].rpartition("/")[2] for item in listed} == names
    ran = command(server.url, *create("--force", to="s3://nosuchbucket-at-all,local"))
    assert ran.code == 3
    assert "s3://nosuchbucket-at-all: there is no such bucket" in ran.err


def test_blobs_have_the_requested_storage_class(
    command: Command, moto_server: Server, request: pytest.FixtureRequest
) -> None:
    bucket = new_bucket(moto_server, request)
    assert command(moto_server.url, *create("--storage-class", "GLACIER_IR", to=f"s3://{bucket}")).code == 0
    listed = client_of(moto_server).list_objects_v2(Bucket=bucket)["Contents"]
    assert {(item["Key"][:5] == "data/", item["StorageClass"]) for item in listed} == {
        (True, "GLACIER_IR"),
        (False, "STANDARD"),
    }


# ---- what cannot be ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, 1, "the secret key is wrong"),
        ({"AWS_ACCESS_KEY_ID": "nobody"}, 1, "the access key is not known there"),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, 1, "no credentials for S3"),
        ({"AWS_PROFILE": "nosuch"}, 1, "nosuch"),
        ({"POGFAST_S3_ENDPOINT": "not a url"}, 1, "not a url"),
        ({"POGFAST_RETRY_FOR": "x"}, 2, "POGFAST_RETRY_FOR=x: not a length of time"),
    ],
)
def test_a_wrong_setting_is_one_line(
    command: Command, rclone_server: Server, shelf: str, change: dict[str, str], code: int, said: str
) -> None:
    for words in (create(to=f"s3://{shelf}"), with_key("list", f"s3://{shelf}")):
        ran = command(rclone_server.url, *words, **change)
        assert ran.code == code, ran.err
        first, *more = ran.err.splitlines()
        assert first.startswith("pogfast: error: ")
        assert said in first
        assert len(more) <= 1


def test_a_missing_bucket(command: Command, server: Server) -> None:
    ran = command(server.url, *with_key("list", "s3://no-such-bucket-here"))
    assert ran.code == 10
    assert "s3://no-such-bucket-here: there is no such bucket" in ran.err
    assert command(server.url, *create(to="s3://no-such-bucket-here")).code == 10
    assert command(server.url, *with_key("list", "s3://")).code == 2
    ran = command(server.url, "doctor", "s3://no-such-bucket-here")
    assert (ran.code, b"only read" in ran.out) == (10, False), ran.out


def test_doctor_finds_incomplete_uploads(
    moto_server: Server, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = new_bucket(moto_server, request)

    def found(prefix: str) -> list[str]:
        with opened(moto_server.url, f"s3://{name}/{prefix}", monkeypatch) as store:
            return [finding.said for finding in store.examine() if finding.what == "leavings"]

    for prefix in ("a", "b"):
        client_of(moto_server).put_object(Bucket=name, Key=f"{prefix}/x.mfn", Body=b"")
    client_of(moto_server).create_multipart_upload(Bucket=name, Key="a/data/blob")  # moto's began in 2010
    assert found("a") == ["1 incomplete uploads, a day old or more, are paid for"]
    assert found("b") == ["no incomplete uploads"]


def test_a_service_that_does_not_respond(command: Command) -> None:
    ran = command(f"http://127.0.0.1:{free_port()}", *create("--retry-for", "0", to="s3://bucket"))
    assert ran.code == 1
    assert ran.err.startswith("pogfast: error: cannot reach s3://bucket: ")


@pytest.mark.parametrize(
    ("code", "status", "said"),
    [
        ("AccessDenied", 403, "access denied"),
        ("RequestTimeTooSkewed", 403, "the clock of this machine is wrong"),
        ("AuthorizationHeaderMalformed", 400, "the bucket is in another region"),
        ("SlowDown", 503, "the service is busy: SlowDown"),
        ("NeverHeardOfIt", 400, "NeverHeardOfIt injected"),
    ],
)
def test_a_services_errors_are_reported(
    command: Command, proxy: Proxy, shelf: str, code: str, status: int, said: str
) -> None:
    proxy.faults = [Fault("^PUT ", times=-1, status=status, code=code)]
    ran = command(proxy.url, *create("--retry-for", "0.5", to=f"s3://{shelf}"))
    assert ran.code == 1
    assert said in ran.err
    assert not any(line.endswith(".mfn") for line in ran.lines)
    proxy.faults = []
    assert command(proxy.url, *create(to=f"s3://{shelf}")).code == 0


@pytest.mark.parametrize(("status", "code"), [(501, "NotImplemented"), (405, "MethodNotAllowed")])
def test_a_service_that_deletes_one_object_a_request(
    proxy: Proxy, shelf: str, status: int, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy.faults = [Fault("^POST .*delete", times=-1, status=status, code=code)]
    names = [f"{number:0>42}A=" for number in range(12)]
    asked = proxy.count("^POST .*delete")
    with opened(proxy.url, f"s3://{shelf}/p", monkeypatch, create=True) as store:
        for name in names:
            store.blobs(name, memoryview(b"x" * 200))
        store.make_durable()
        store.delete_blobs([*names[2:], f"{'z' * 42}A="])  # one that is not there
        assert sorted(stored.name for stored in store.blob_names()) == sorted(names[:2])
        store.put_manifest("a.mfn", b"a")
        store.delete_manifests(["a.mfn", "b.mfn"])
        assert store.manifests() == []
        assert proxy.count("^POST .*delete") == asked + 1, "the service is asked once"
        denied = Fault("^DELETE ", times=-1, status=403, code="AccessDenied")
        proxy.faults = [Fault("^DELETE ", times=2, status=503, code="SlowDown"), denied]
        with pytest.raises(StoreError, match="access denied"):
            store.delete_blobs(names[:2])


# ---- what may pass -------------------------------------------------------------------------------------------------

WRITING = {
    "a burst of 503": Fault("^PUT ", times=5, status=503, code="SlowDown"),
    "500 on a listing": Fault("^GET .*list-type", times=2, status=500),
    "a connection cut in a PUT": Fault("^PUT ", times=3, skip=2, cut_request=True),
    "the answer of a blob lost": Fault("^PUT .*data", times=4, skip=1, lose_answer=True),
    "the answer of the manifest lost": Fault("^PUT .*mfn", times=1, lose_answer=True),
    "a listing cut": Fault("^GET .*list-type", times=1, cut_answer=100),
}
READING = {
    "a burst of 503": Fault("^GET .*data/", times=5, status=503, code="ServiceUnavailable"),
    "a blob cut": Fault("^GET .*data/", times=6, cut_answer=700),
    "a blob cut at its first byte": Fault("^GET .*data/", times=2, cut_answer=0),
    "the manifest cut": Fault("^GET .*mfn", times=1, cut_answer=50),
    "an answer lost": Fault("^GET ", times=3, lose_answer=True),
}


@pytest.mark.parametrize("case", WRITING)
def test_writing_survives_network_failures(command: Command, proxy: Proxy, shelf: str, work: Path, case: str) -> None:
    proxy.faults = [WRITING[case].__class__(**vars(WRITING[case]))]
    ran = command(proxy.url, *create(to=f"s3://{shelf}"))
    assert ran.code == 0, ran.err
    assert proxy.faults[0].times == 0, "it has happened"
    assert_restored(work, command(proxy.url, *with_key("restore", f"s3://{shelf}/latest", "--into", "out")))


@pytest.mark.parametrize("case", READING)
def test_an_interrupted_read_resumes(command: Command, proxy: Proxy, shelf: str, work: Path, case: str) -> None:
    assert command(proxy.url, *create(to=f"s3://{shelf}")).code == 0
    proxy.faults = [READING[case].__class__(**vars(READING[case]))]
    assert_restored(work, command(proxy.url, *with_key("restore", f"s3://{shelf}/latest", "--into", "out")))
    assert proxy.faults[0].times == 0, "it has happened"


def test_a_resumed_read_does_not_start_over(proxy: Proxy, shelf: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = os.urandom(5_000_000)
    with opened(proxy.url, f"s3://{shelf}", monkeypatch, create=True) as store:
        store.blobs(NAMES[0], memoryview(data))
        store.make_durable()
        proxy.faults = [Fault("^GET .*data/", times=1, cut_answer=4_000_000)]
        assert bytes(store.get_blob(NAMES[0])) == data
    assert [length for request, _, length in proxy.seen if "GET" in request and "data/A" in request] == [
        5_000_000,
        1_000_000,
    ]


def test_an_altered_body_is_never_accepted(command: Command, proxy: Proxy, shelf: str, work: Path) -> None:
    assert command(proxy.url, *create(to=f"s3://{shelf}")).code == 0
    proxy.faults = [Fault("^GET .*data/", times=1, flip=500)]
    ran = command(proxy.url, *with_key("restore", f"s3://{shelf}/latest", "--into", "out"))
    assert proxy.faults[0].times == 0, "it has happened, and was fetched once more"
    assert_restored(work, ran)


def test_an_upload_without_a_response_is_looked_up(proxy: Proxy, shelf: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store looks up the blob, and does not send it again."""
    with opened(proxy.url, f"s3://{shelf}", monkeypatch, create=True) as store:
        proxy.faults = [Fault("^PUT ", times=-1, lose_answer=True)]
        store.blobs(NAMES[0], memoryview(b"content"))
        store.make_durable()
    assert proxy.count("^PUT ") == 1


def test_ctrl_c_while_the_service_does_not_respond(shelf: str, proxy: Proxy, work: Path) -> None:
    proxy.faults = [Fault("^PUT ", times=-1, status=503, code="SlowDown")]
    process = subprocess.Popen(
        [sys.executable, "-m", "pogfast", *create(to=f"s3://{shelf}")],
        cwd=work,
        env={**os.environ, **environment_of(proxy.url), "POGFAST_CACHE_DIR": str(work / "cache")},
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # it may be ignored here
    )
    while not proxy.count("^PUT "):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)  # it would go on for minutes
    assert process.returncode == 130, said
    assert b"Traceback" not in said


@pytest.mark.parametrize("moment", [1, 4, 12])
def test_a_run_that_is_killed_is_continued(
    command: Command, proxy: Proxy, rclone_server: Server, shelf: str, work: Path, moment: int
) -> None:
    """kill -9 after some uploads; a second run, a check of every byte, and a restore by pogcli from a download."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pogfast", *create("--parallel", "1", to=f"s3://{shelf}")],
        cwd=work,
        env={**os.environ, **environment_of(proxy.url), "POGFAST_CACHE_DIR": str(work / "cache")},
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    while proxy.count("^PUT ") < moment and process.poll() is None:
        time.sleep(0.002)
    process.kill()
    process.wait()
    before = proxy.count("^PUT ")
    ran = command(proxy.url, *create(to=f"s3://{shelf}"))
    assert ran.code == 0, ran.err
    assert proxy.count("^PUT ") <= before + 20
    assert command(proxy.url, *with_key("check", f"s3://{shelf}", "--read-data")).code == 0
    assert_restored(work, command(proxy.url, *with_key("restore", f"s3://{shelf}/latest", "--into", "out")))
    client, down = client_of(rclone_server), work / "down"
    down.mkdir()
    for item in client.list_objects_v2(Bucket=shelf)["Contents"]:
        client.download_file(shelf, item["Key"], str(down / item["Key"].rpartition("/")[2]))
    [manifest] = down.glob("*.mfn")
    theirs = [pogcli_python("0.1.4"), "-m", "pog.pog", "--keyfile=../key", "--decrypt", manifest.name]
    assert_restored(work, run(theirs, down), "down")


WAYS = {
    "cut while it is sent": {"cut_request": True},
    "done, and nobody hears of it": {"lose_answer": True},
    "cut while it is answered": {"cut_answer": 20},
    "busy": {"status": 503, "code": "SlowDown"},
}


@pytest.mark.parametrize("way", WAYS)
def test_each_request_of_a_backup_and_a_restore_fails_once(
    proxy: Proxy, shelf: str, work: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """Each once, one after the other, of runs that make the same requests in the same order; every eighth unless there
    is time for all (POGFAST_TEST_SOAK, four minutes)."""
    for name, value in {**environment_of(proxy.url), "POGFAST_PARALLEL": "1"}.items():
        monkeypatch.setenv(name, value)
    key = from_keyfile(str(work / "key"))
    for path in list((work / "tree" / "d").iterdir())[3:]:
        path.unlink()

    def go(store: str) -> int:
        """Returns how many requests that took."""
        before = len(proxy.seen)
        made = pogfast.create([str(work / "tree")], store, key, no_cache=True, chunk_size=1_000_000, jobs=1)
        assert made.problems == []
        done = pogfast.restore(f"{store}/latest", key, str(work / store[-9:].replace("/", "-")), jobs=1)
        assert done.problems == []
        assert done.files == 5
        assert pogfast.check([store], key, read_data=EVERYTHING, jobs=1).exit_code == 0
        return len(proxy.seen) - before

    requests = go(f"s3://{shelf}/without")
    assert requests > 15
    every = 1 if os.environ.get("POGFAST_TEST_SOAK") else 8
    for number in range(list(WAYS).index(way), requests, every):
        fault = Fault(".", skip=number, **WAYS[way])
        proxy.faults = [fault]
        go(f"s3://{shelf}/{number:08}")
        assert fault.times == 0, "it has happened"


def test_a_server_that_is_killed_and_restarted(
    command: Command, tmp_path: Path, work: Path, request: pytest.FixtureRequest
) -> None:
    (tmp_path / "served").mkdir()
    with rclone(tmp_path / "served") as server, proxied(server.url) as proxy:
        bucket = new_bucket(server, request)
        process = subprocess.Popen(
            [sys.executable, "-m", "pogfast", *create("--parallel", "1", to=f"s3://{bucket}")],
            cwd=work,
            env={**os.environ, **environment_of(proxy.url), "POGFAST_CACHE_DIR": str(work / "cache")},
            stderr=subprocess.PIPE,
        )
        while proxy.count("^PUT ") < 4:
            time.sleep(0.002)
        server.kill()
        time.sleep(1)
        server.start_again()
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
        assert_restored(work, command(server.url, *with_key("restore", f"s3://{bucket}/latest", "--into", "out")))


def test_damage_in_a_bucket_is_named(command: Command, server: Server, bucket: str) -> None:
    assert command(server.url, *create(to=f"s3://{bucket}")).code == 0
    client = client_of(server)
    keys = [item["Key"] for item in client.list_objects_v2(Bucket=bucket, Prefix="data/")["Contents"]]
    client.put_object(Bucket=bucket, Key=keys[0], Body=b"x" * 1200)
    client.delete_object(Bucket=bucket, Key=keys[1])
    ran = command(server.url, *with_key("check", f"s3://{bucket}", "--read-data"))
    assert ran.code == 4
    for key in keys[:2]:
        assert key.rpartition("/")[2] in ran.err


def test_errors_are_raised_by_the_library(moto_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        pytest.raises(StoreError, match="no such bucket"),
        opened(moto_server.url, "s3://nobody-has-this", monkeypatch) as store,
    ):
        store.manifests()


# ---- every answer that a service can give --------------------------------------------------------------------------

TRANSIENT = [
    (429, "TooManyRequests"), (429, ""), (408, ""), (400, "RequestTimeout"), (503, "SlowDown"), (503, "SlowDownWrite"),
    (500, "InternalError"), (500, ""), (502, ""), (503, ""), (504, ""), (503, "ServiceUnavailable"), (520, ""),
    (400, "BadDigest"), (400, "XAmzContentSHA256Mismatch"), (400, "XAmzContentChecksumMismatch"),
    (400, "IncompleteBody"), (400, "ThrottlingException"), (400, "RequestLimitExceeded"), (409, "OperationAborted"),
    (409, "ConditionalRequestConflict"), (503, "NeverHeardOfIt"), (509, "BandwidthLimitExceeded"),
]  # fmt: skip
FINAL = [
    (403, "AccessDenied", "access denied"),
    (403, "", "access denied"),
    (401, "", "access denied"),
    (403, "RequestTimeTooSkewed", "the clock of this machine is wrong"),
    (403, "InvalidAccessKeyId", "the access key is not known there"),
    (400, "ExpiredToken", "the session's credentials have expired"),
    (400, "TokenRefreshRequired", "the session's credentials have expired"),
    (400, "EntityTooLarge", "takes no object of this size"),
    (507, "XMinioStorageFull", "the store is full"),
    (507, "", "the store is full"),
    (403, "QuotaExceeded", "the quota is used up"),
    (400, "NeverHeardOfIt", "NeverHeardOfIt injected"),
    (418, "", "418"),
]


def answer(verb: str, status: int, code: str, **more: Any) -> Fault:
    """An error in XML; without a code, one that only a proxy between can have sent."""
    return Fault(verb, status=status, code=code, body=None if code else b"<html><body>sorry</body></html>", **more)


@pytest.mark.parametrize(("status", "code"), TRANSIENT)
def test_transient_answers_are_retried(
    proxy: Proxy, shelf: str, monkeypatch: pytest.MonkeyPatch, told: list[str], status: int, code: str
) -> None:
    with opened(proxy.url, f"s3://{shelf}", monkeypatch, create=True) as store:
        proxy.faults = [answer("^PUT ", status, code, times=2), answer("^GET .*/data/", status, code, times=2)]
        store.put_blob(NAMES[0], b"content")
        assert bytes(store.get_blob(NAMES[0])) == b"content"
    assert proxy.count("^PUT ") == 3
    assert len(told) == 4
    assert all(line.startswith(f"s3://{shelf}: data/A-/{NAMES[0]}: ") for line in told)
    if code:
        assert all(code in line for line in told)


@pytest.mark.parametrize(("status", "code", "said"), FINAL)
def test_final_errors_are_reported_at_once(
    proxy: Proxy, shelf: str, monkeypatch: pytest.MonkeyPatch, told: list[str], status: int, code: str, said: str
) -> None:
    with opened(proxy.url, f"s3://{shelf}", monkeypatch, create=True) as store:
        proxy.faults = [answer("^(PUT|GET) .*data/", status, code, times=-1)]
        for act in (lambda: store.put_blob(NAMES[0], b"content"), lambda: store.get_blob(NAMES[0])):
            with pytest.raises(StoreError, match=said) as failed:
                act()
            assert "\n" not in f"{failed.value}{failed.value.hint}"
    assert told == []


def test_a_wrong_clock_is_reported_with_its_offset(proxy: Proxy, shelf: str, monkeypatch: pytest.MonkeyPatch) -> None:
    date = {"Date": formatdate(time.time() + 7200, usegmt=True)}
    with opened(proxy.url, f"s3://{shelf}", monkeypatch, create=True) as store:
        proxy.faults = [Fault("^PUT ", times=-1, status=403, code="RequestTimeTooSkewed", headers=date)]
        with pytest.raises(StoreError, match="the clock of this machine is wrong") as failed:
            store.put_blob(NAMES[0], b"content")
    assert failed.value.hint == "set the clock: it is 120 minutes behind the service's"


@pytest.mark.parametrize(("asked", "least"), [("1", 1.0), ("x", 0.0), ("-5", 0.0), ("", 0.0), ("99999999", 2.0)])
def test_retry_after_is_respected_within_bounds(
    proxy: Proxy, shelf: str, monkeypatch: pytest.MonkeyPatch, told: list[str], asked: str, least: float
) -> None:
    with opened(proxy.url, f"s3://{shelf}", monkeypatch, create=True, POGFAST_RETRY_FOR="2") as store:
        proxy.faults = [Fault("^PUT ", status=503, code="SlowDown", headers={"Retry-After": asked})]
        store.put_blob(NAMES[0], b"content")
    [line] = told
    pause = float(line.rpartition(" in ")[2].removesuffix(" s"))
    assert least <= pause <= 2.0, "never beyond --retry-for"


def test_the_last_error_says_how_often_it_was_retried(
    proxy: Proxy, shelf: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(proxy.url, f"s3://{shelf}", monkeypatch, create=True, POGFAST_RETRY_FOR="0.5") as store:
        proxy.faults = [Fault("^PUT ", times=-1, status=503, code="SlowDown")]
        with pytest.raises(StoreError, match="the service is busy: SlowDown") as failed:
            store.put_blob(NAMES[0], b"content")
    assert re.search(r"\d+ attempts in [01] s; --retry-for says for how long", failed.value.hint)


def test_retries_are_shown(command: Command, proxy: Proxy, shelf: str) -> None:
    def harm(verb: str) -> None:
        proxy.faults = [Fault(f"^{verb}", times=2, status=429, code="TooManyRequests")]

    harm("PUT")
    ran = command(proxy.url, *create("-v", to=f"s3://{shelf}"))
    assert ran.code == 0, ran.err
    assert ran.err.count("the service is busy: TooManyRequests") == 2
    assert "retries  2 requests to services failed and were retried" in ran.err
    for words in (
        ["restore", f"s3://{shelf}/latest", "--into", "out"],
        ["check", f"s3://{shelf}", "--read-data"],
        ["copy", f"s3://{shelf}", "back"],
        ["prune", f"s3://{shelf}", "--keep-last", "1", "--yes"],
    ):
        harm("GET")
        ran = command(proxy.url, *with_key(*words, "--json"))
        assert ran.code == 0, ran.err
        [summary] = [line for line in map(json.loads, ran.out.splitlines()) if line["message_type"] == "summary"]
        assert summary["retries"] == 2, words


def test_an_untrusted_certificate_is_reported_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: list[str]
) -> None:
    context = Certificate.make(tmp_path).context()
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        server.handle_error = lambda *_: None  # type: ignore[method-assign]
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        port = server.server_address[1]
        with (
            pytest.raises(StoreError, match="the service's certificate is not trusted"),
            opened(f"https://127.0.0.1:{port}", "s3://bucket", monkeypatch),
        ):
            pass
        server.shutdown()
    assert told == []


# ---- numbers and names that a service says, and that nobody has to believe -----------------------------------------


def test_an_invalid_length_is_damage_of_that_blob(command: Command, proxy: Proxy, shelf: str, work: Path) -> None:
    assert command(proxy.url, *create(to=f"s3://{shelf}")).code == 0
    victim = next(request.split()[1] for request, *_ in proxy.seen if request.startswith("PUT") and "/data/" in request)
    victim = victim.removesuffix("%3D")
    limit = ["prlimit", f"--as={3 * 10**9}"]
    for number, length in enumerate(("10000000000000", "-5", "", "x")):
        proxy.faults = [Fault(f"^GET {re.escape(victim)}", times=-1, headers={"Content-Length": length})]
        restore = with_key("restore", f"s3://{shelf}/latest", "--into", f"out{number}")
        ran = run([*limit, sys.executable, "-m", "pogfast", *restore], work,
                  env={**os.environ, **environment_of(proxy.url)})  # fmt: skip
        restored = sum(path.is_file() for path in (work / f"out{number}").rglob("*"))
        if ran.code:
            assert (ran.code, restored) == (4, 13), ran.err
            assert Path(victim).name in ran.err
        else:
            assert restored == 14, "what is there was whole, whatever was said of it"


def test_a_manifest_with_an_invalid_length_is_damage_of_that_archive(
    command: Command, proxy: Proxy, shelf: str
) -> None:
    for more in ([], ["--force"]):
        assert command(proxy.url, *create(*more, to=f"s3://{shelf}")).code == 0
    victim = next(request.split()[1] for request, *_ in proxy.seen if request.startswith("PUT") and ".mfn" in request)
    for length in ("10000000000000", "-5", ""):
        proxy.faults = [Fault(f"^GET {re.escape(victim)}", times=-1, headers={"Content-Length": length})]
        ran = command(proxy.url, *with_key("list", f"s3://{shelf}", "--json"))
        good = [line for line in map(json.loads, ran.out.splitlines()) if line.get("files") == 14]
        assert len(good) >= 1, ran.err
        assert ran.code in (0, 3, 4)


LISTING = "^GET .*list-type"


@pytest.mark.parametrize("tokens", ["aa", "ab"])
def test_a_listing_without_an_end_is_one_line(
    proxy: Proxy, shelf: str, monkeypatch: pytest.MonkeyPatch, tokens: str
) -> None:
    """The same token again, and other tokens for the same page."""
    pages = [
        f"<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>{token}</NextContinuationToken>"
        f"<Contents><Key>data/A-/{NAMES[0]}</Key><Size>7</Size></Contents></ListBucketResult>"
        for token in tokens
    ]
    with opened(proxy.url, f"s3://{shelf}", monkeypatch, create=True) as store:
        proxy.faults = [Fault(LISTING, status=200, body=page.encode()) for page in pages]
        with pytest.raises(StoreError, match="the service's listing repeats itself without end"):
            list(store.blob_names())


@pytest.mark.parametrize(
    ("pattern", "by"),
    [
        (rb"<LastModified>.*?</LastModified>", b"<LastModified>yesterday</LastModified>"),
        (rb"<LastModified>.*?</LastModified>", b"<LastModified>99999-01-01T00:00:00Z</LastModified>"),
        (rb"<LastModified>.*?</LastModified>", b""),
        (rb"<LastModified>.*?</LastModified>", b"<LastModified>2999-01-01T00:00:00.000Z</LastModified>"),
        (rb"<Size>.*?</Size>", b"<Size>-7</Size>"),
        (rb"<Size>.*?</Size>", b""),
        (rb"<Size>.*?</Size>", b"<Size>10000000000000</Size>"),
        (rb"<Key>data/B-", b"<Key>../../data/B-"),
        (rb"<Key>data/B-.*?</Key>", b"<Key>data/B-/%0A%FF%00</Key>"),
    ],
)
def test_an_invalid_listing_entry_does_not_affect_others(
    proxy: Proxy, shelf: str, monkeypatch: pytest.MonkeyPatch, pattern: bytes, by: bytes
) -> None:
    with opened(proxy.url, f"s3://{shelf}", monkeypatch, create=True) as store:
        for name in NAMES[:2]:
            store.put_blob(name, b"content")
        proxy.faults = [Fault(LISTING, times=-1, change=lambda body: re.sub(pattern, by, body))]
        before = time.time()
        listed = {stored.name: stored for stored in store.blob_names()}
        assert NAMES[0] in listed
        assert all(stored.size >= 0 for stored in listed.values())
        if b"2999" not in by and b"Last" in pattern:
            assert listed[NAMES[0]].modified >= before - 1, "nobody takes it for old"
        assert bytes(store.get_blob(NAMES[0])) == b"content"


@pytest.mark.parametrize("body", [b"", b"<html>log in to the hotel's network</html>", b"<ListBucketResult><Conte"])
def test_an_invalid_listing_is_one_line(proxy: Proxy, shelf: str, monkeypatch: pytest.MonkeyPatch, body: bytes) -> None:
    proxy.faults = [Fault(LISTING, times=-1, change=lambda _: body)]
    try:
        with opened(proxy.url, f"s3://{shelf}", monkeypatch, POGFAST_RETRY_FOR="0.3") as store:
            assert store.manifests() == []
    except StoreError as error:
        assert "\n" not in str(error)


# ---- rights --------------------------------------------------------------------------------------------------------


def test_reading_an_archive_needs_no_permission_to_list(
    command: Command, pog: Runner, proxy: Proxy, shelf: str, work: Path
) -> None:
    ran = command(proxy.url, *create(to=f"s3://{shelf}"))
    name = ran.lines[-1]
    proxy.faults = [Fault(LISTING, times=-1, status=403, code="AccessDenied")]
    assert_restored(work, command(proxy.url, *with_key("restore", f"s3://{shelf}/{name}", "--into", "out")))
    assert command(proxy.url, *with_key("cat", f"s3://{shelf}/{name}", "tree/d/3")).code == 0
    (work / "there").mkdir()
    environment = {**os.environ, **environment_of(proxy.url)}
    ran = pog("--keyfile=../key", "--decrypt", f"s3://{shelf}/{name}", env=environment, cwd=work / "there")
    assert_restored(work, ran, "there")
    ran = command(proxy.url, *with_key("list", f"s3://{shelf}"))
    assert (ran.code, len(ran.err.splitlines())) == (1, 2)
    assert "access denied" in ran.err

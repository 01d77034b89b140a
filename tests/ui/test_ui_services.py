"""Pages of stores on S3: adding one, cold storage before a restore, locks; against a real server."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from kit.servers import Server, moto
from kit.ui import ended, served
from pogfast import facade
from pogfast.ui.words import part, token


@pytest.fixture(scope="module")
def service() -> Iterator[Server]:
    with moto() as made:
        yield made


@pytest.fixture
def bucket(service: Server, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in service.environment.items():
        monkeypatch.setenv(name, value)
    said = {"aws_access_key_id": service.key, "aws_secret_access_key": service.secret, "region_name": "us-east-1"}
    name = f"ui-{time.monotonic_ns()}"
    client = boto3.client("s3", endpoint_url=service.url, **said)
    client.create_bucket(Bucket=name, ObjectLockEnabledForBucket=True)
    return name


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "one").write_bytes(b"x" * 5000)
    (tmp_path / "home" / "two").write_bytes(b"y" * 7000)
    facade.keygen(tmp_path / "mine")
    return tmp_path


def test_what_is_cold_is_said_before_it_is_requested(home: Path, bucket: str) -> None:
    key = facade.open_key(encryption_keyfile=home / "mine.encrypt")
    with facade.services(storage_class="GLACIER"):
        made = facade.create("home", f"s3://{bucket}", key, directory=home, no_cache=True)
    options = [f"s3://{bucket}", "--no-browser", "--root", home, "--decryption-keyfile", home / "mine.decrypt"]
    with served(*options, cwd=home) as server, server.client() as client:
        base = f"/stores/{bucket}/{part(made.manifest)}"
        wanted = {"name": "home/one", "into": token(str(home)), "new": "out"}
        text = client.post(f"{base}/restore/preview", data=wanted).text
        assert "In cold storage: 1 object, " in text
        assert "3 to 5 hours from GLACIER" in text
        assert "In cold storage: 1 object" in client.post(f"{base}/restore/preview", data=wanted).text, "not requested"
        text = ended(client, client.post(f"{base}/restore/thaw", data={**wanted, "tier": "bulk", "days": "2"}))
        assert "1 object; 0 objects requested earlier" in text
        assert "5 to 12 hours from GLACIER" in text
        assert "--thaw=bulk --thaw-days=2" in text
        assert ">Done in" in ended(client, client.post(f"{base}/restore", data=wanted))
    assert (home / "out" / "home" / "one").read_bytes() == b"x" * 5000


def test_a_bucket_is_tested_and_added(home: Path, bucket: str) -> None:
    options = ["--no-browser", "--root", home, "--encryption-keyfile", home / "mine.encrypt"]
    with served(*options, cwd=home) as server, server.client() as client:
        text = client.post("/settings/test", data={"address": f"s3://{bucket}"}).text
        assert "✓ good" in text
        assert client.post("/settings/add", data={"address": f"s3://{bucket}"}).status_code == 200
        wanted = {"path": token(str(home / "home")), "store": bucket}
        assert ">Done in" in ended(client, client.post("/create", data=wanted))
        assert re.search("1 archive", client.get(f"/stores/{bucket}").text)


def test_a_service_that_does_not_answer_keeps_no_page_waiting(home: Path, bucket: str, service: Server) -> None:
    """The card says so when it comes; the page is there before."""
    options = ["--no-browser", "--root", home, "--decryption-keyfile", home / "mine.decrypt"]
    address = f"s3://{bucket}?endpoint=http://127.0.0.1:9"
    with served(address, *options, cwd=home) as server, server.client() as client:
        assert client.get("/").status_code == 200
        card = client.get(f"/stores/{bucket}/card").text
        assert "Not reachable" in card
        assert "Protected" not in card


def test_archives_are_locked(home: Path, bucket: str) -> None:
    key = facade.open_key(encryption_keyfile=home / "mine.encrypt")
    made = facade.create("home", f"s3://{bucket}", key, directory=home, no_cache=True)
    options = [f"s3://{bucket}", "--no-browser", "--root", home, "--decryption-keyfile", home / "mine.decrypt"]
    with served(*options, cwd=home) as server, server.client() as client:
        assert "Lock all archives" in client.get(f"/stores/{bucket}/retention").text
        where = f"/stores/{bucket}/{part(made.manifest)}/lock"
        assert "locked" not in client.get(where).text
        text = ended(client, client.post(f"/stores/{bucket}/lock", data={"mode": "governance", "days": "3"}))
        assert "3 locked, 0 were locked as long" in text, "two blobs and the manifest"
        assert f"lock extend 's3://{bucket}'" in text or f"lock extend s3://{bucket} governance:3d" in text
        assert "locked until" in client.get(where).text


def test_locked_archives_are_shown(home: Path, bucket: str) -> None:
    key = facade.open_key(encryption_keyfile=home / "mine.encrypt")
    with facade.services(object_lock="governance:2d"):
        made = facade.create("home", f"s3://{bucket}", key, directory=home, no_cache=True)
    options = [f"s3://{bucket}", "--no-browser", "--root", home, "--decryption-keyfile", home / "mine.decrypt"]
    with served(*options, cwd=home) as server, server.client() as client:
        where = f"/stores/{bucket}/{part(made.manifest)}/lock"
        assert where in client.get(f"/stores/{bucket}").text
        assert "locked until" in client.get(where).text

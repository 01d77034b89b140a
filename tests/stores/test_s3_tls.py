"""S3 over TLS: what is signed there, what a service that refuses it gets, and who notices a body that was altered."""

from __future__ import annotations

import contextlib
import filecmp
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from kit.commands import Runner
from kit.faultproxy import Fault, Proxy, proxied
from kit.relay import relayed
from kit.servers import Certificate, Server, environment_of, moto, rclone
from kit.swift import swift
from pogfast.errors import StoreError
from pogfast.stores import open_store, s3
from pogfast.stores.remote import RemoteStore

NAMES = [f"{letter}{'-' * 42}=" for letter in "ABCD"]
UNSIGNED = "UNSIGNED-PAYLOAD"


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return Certificate.make(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="session", params=["moto", "rclone"])
def server(
    request: pytest.FixtureRequest, certificate: Certificate, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A server that speaks TLS itself."""
    directory = tmp_path_factory.mktemp("rclone")
    kinds = {"moto": lambda: moto(certificate), "rclone": lambda: rclone(directory, certificate=certificate)}
    with kinds[request.param]() as server:
        yield server


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with rclone(tmp_path_factory.mktemp("plain")) as server:
        yield server


@pytest.fixture
def proxy(plain: Server, certificate: Certificate) -> Iterator[Proxy]:
    """The end of TLS before a server."""
    with proxied(plain.url, certificate) as made:
        yield made


def new_bucket(server: Server, request: pytest.FixtureRequest) -> str:
    name = f"b{abs(hash(request.node.nodeid)) % 10**12}"
    bundle = server.environment.get("AWS_CA_BUNDLE")
    secrets = {"aws_access_key_id": server.key, "aws_secret_access_key": server.secret}
    client = boto3.client("s3", endpoint_url=server.url, verify=bundle, region_name="us-east-1", **secrets)
    client.create_bucket(Bucket=name)
    return name


@pytest.fixture
def shelf(plain: Server, request: pytest.FixtureRequest) -> str:
    """A bucket behind the proxy."""
    return new_bucket(plain, request)


@contextlib.contextmanager
def opened(
    url: str, text: str, certificate: Certificate, monkeypatch: pytest.MonkeyPatch, **more: str
) -> Iterator[RemoteStore]:
    for name, value in {**environment_of(url), "AWS_CA_BUNDLE": str(certificate.cert), **more}.items():
        monkeypatch.setenv(name, value)
    store = open_store(text, create=True)
    yield store
    store.close()


@pytest.mark.parametrize("packs", [(), ("--packs",)])
def test_a_backup_and_a_restore_over_tls(
    pogfast: Runner, server: Server, request: pytest.FixtureRequest, tmp_path: Path, packs: tuple[str, ...]
) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(20):
        (tree / f"{number}").write_bytes(os.urandom(50_000))
    (tree / "large").write_bytes(os.urandom(3_000_000))
    (tmp_path / "key").write_bytes(bytes(range(32)))
    environment = {**os.environ, **server.environment, "POGFAST_CACHE_DIR": str(tmp_path / "cache")}
    store = f"s3://{new_bucket(server, request)}"
    for words in (
        ["create", "tree", "--to", store, *packs],
        ["check", store, "--read-data"],
        ["restore", f"{store}/latest", "--into", "out"],
    ):
        ran = pogfast(*words, "--keyfile", "key", env=environment, cwd=tmp_path)
        assert ran.code == 0, ran.err
    names = [path.name for path in tree.iterdir()]
    assert filecmp.cmpfiles(tree, tmp_path / "out" / "tree", names, shallow=False) == (names, [], [])


def put_all_kinds(store: RemoteStore) -> list[bytes]:
    """Puts a small and a large blob, one in three parts, and a manifest; returns their bodies."""
    blobs = [b"content", os.urandom(s3.SMALL + 1), os.urandom(12_000_000)]
    for name, blob in zip(NAMES, blobs, strict=False):
        store.put_blob(name, blob)
        assert bytes(store.get_blob(name)) == blob
    store.put_manifest("a.mfn", b"manifest")
    parts = [blobs[2][at : at + s3.PART] for at in range(0, len(blobs[2]), s3.PART)]
    return [*blobs[:2], *parts, b"manifest"]


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "PART", 5 << 20)


@pytest.mark.usefixtures("small_parts")
def test_over_tls_no_body_is_hashed_and_each_has_a_checksum(
    proxy: Proxy, shelf: str, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(proxy.url, f"s3://{shelf}", certificate, monkeypatch) as store:
        bodies = put_all_kinds(store)
    assert proxy.signed == [UNSIGNED] * len(bodies)
    assert len([request for request in proxy.sums if request.startswith("PUT")]) == len(bodies)


@pytest.mark.usefixtures("small_parts")
def test_over_http_each_body_is_signed(
    plain: Server, shelf: str, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    with proxied(plain.url) as proxy, opened(proxy.url, f"s3://{shelf}", certificate, monkeypatch) as store:
        bodies = put_all_kinds(store)
        assert proxy.signed == [hashlib.sha256(body).hexdigest() for body in bodies]


def test_who_configured_signed_bodies_gets_them(
    proxy: Proxy, shelf: str, certificate: Certificate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "config"
    config.write_text("[default]\ns3 =\n  payload_signing_enabled = true\n")
    with opened(proxy.url, f"s3://{shelf}", certificate, monkeypatch, AWS_CONFIG_FILE=str(config)) as store:
        store.put_blob(NAMES[0], b"content")
    assert proxy.signed == [hashlib.sha256(b"content").hexdigest()]


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (403, "AccessDenied"),
        (403, "SignatureDoesNotMatch"),
        (400, "InvalidRequest"),
        (400, "XAmzContentSHA256Mismatch"),
        (501, "NotImplemented"),
    ],
)
def test_a_service_that_refuses_unsigned_bodies_gets_signed_ones(
    proxy: Proxy, shelf: str, certificate: Certificate, monkeypatch: pytest.MonkeyPatch, told: list[str], status: int,
    code: str,
) -> None:  # fmt: skip
    hashed = hashlib.sha256(b"content").hexdigest()
    with opened(proxy.url, f"s3://{shelf}", certificate, monkeypatch) as store:
        service = store.service
        assert isinstance(service, s3.S3Service)
        service.conditional = False  # 501 says that of conditions first
        proxy.faults = [Fault("PUT .*/data/", status=status, code=code)]
        for name in NAMES[:3]:
            store.put_blob(name, b"content")
        assert proxy.signed == [UNSIGNED, hashed, hashed, hashed], "it is asked once"
        assert {stored.name for stored in store.blob_names()} == set(NAMES[:3])
        proxy.faults = [Fault("PUT .*/data/", status=status, code=code, times=-1)]
        if code != "XAmzContentSHA256Mismatch":  # that is retried: a signed body may have been altered
            with pytest.raises(StoreError):
                store.put_blob(NAMES[3], b"content")
            assert len(proxy.signed) == 5, "what is refused with a signature is not sent again"
    assert told == []


def test_a_busy_service_gets_no_signed_bodies(
    proxy: Proxy, shelf: str, certificate: Certificate, monkeypatch: pytest.MonkeyPatch, told: list[str]
) -> None:
    with opened(proxy.url, f"s3://{shelf}", certificate, monkeypatch) as store:
        proxy.faults = [Fault("PUT .*/data/", status=503, code="SlowDown"), Fault("PUT .*/data/", lose_answer=True)]
        for name in NAMES[:2]:
            store.put_blob(name, b"content")
    assert set(proxy.signed) == {UNSIGNED}
    assert len(told) == 1, "of the lost answer the listing tells that it is there"


def test_a_bit_that_flips_within_tls_is_noticed(
    server: Server, request: pytest.FixtureRequest, certificate: Certificate, monkeypatch: pytest.MonkeyPatch,
    told: list[str],
) -> None:  # fmt: skip
    text = f"s3://{new_bucket(server, request)}"
    data = os.urandom(3_000_000)
    with relayed(server.url) as relay, opened(relay.url, text, certificate, monkeypatch) as store:
        relay.flip_at = 1_000_000
        store.put_blob(NAMES[0], data)
        assert relay.flipped == 1
        assert len(told) == 1
        assert bytes(store.get_blob(NAMES[0])) == data


def test_a_bit_that_flips_behind_tls_is_noticed_by_the_checksum(
    certificate: Certificate, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    told: list[str],
) -> None:  # fmt: skip
    """As between a load balancer and the service behind it. Swift compares the CRC32; rclone and moto do not."""

    def flip(body: bytes) -> bytes:
        return body[:500] + bytes([body[500] ^ 1]) + body[501:]

    data = os.urandom(1000)
    with swift(tmp_path) as server, proxied(server.url, certificate) as proxy:
        text = f"s3://{new_bucket(server, request)}"
        keys = {"AWS_ACCESS_KEY_ID": server.key, "AWS_SECRET_ACCESS_KEY": server.secret}
        with opened(proxy.url, text, certificate, monkeypatch, **keys) as store:
            proxy.faults = [Fault("PUT .*/data/", change_request=flip)]
            store.put_blob(NAMES[0], data)
            assert proxy.signed == [UNSIGNED, hashlib.sha256(data).hexdigest()], "and sent again, signed"
            assert bytes(store.get_blob(NAMES[0])) == data
    assert told == []

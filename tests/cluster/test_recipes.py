"""The recipes of docs/cluster.md for Dask, as they stand there: local processes take the place of nodes."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import pogfast
from kit.files import manifest_in
from kit.paths import DOCS
from pogfast import keys

PROGRAMS = {
    "ssh": '#!/bin/sh\nshift 2\nexec "$@"\n',
    "srun": '#!/bin/sh\n"$@" &\n"$@" &\nwait\n',
    "dask": f'#!/bin/sh\nword=$1\nshift\nexec {sys.executable} -m distributed.cli.dask_$word "$@"\n',
    "pogfast": f'#!/bin/sh\nexec {sys.executable} -m pogfast "$@"\n',
}


def recipes() -> list[str]:
    """The blocks of the page that make a certificate, and an archive with ssh, Slurm and Kubernetes."""
    page = (DOCS / "cluster.md").read_text(encoding="utf-8")
    page = page.partition("### TLS\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"^```(?:sh|yaml)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 4
    return blocks


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / "tree").mkdir()
    for number in range(20):
        (tmp_path / "tree" / f"{number}").write_bytes(os.urandom(1000))
    keys.create_pair("mine", str(tmp_path))
    (tmp_path / "bin").mkdir()
    for name, text in PROGRAMS.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    subprocess.run(["sh", "-ec", recipes()[0]], cwd=tmp_path, check=True, capture_output=True)
    return tmp_path


@pytest.fixture
def shell(work: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a script, with its processes in a session of their own, which end with the test."""
    started: list[subprocess.Popen[str]] = []

    def start(script: str, **variables: str) -> subprocess.Popen[str]:
        path = f"{work / 'bin'}:{os.environ['PATH']}"
        with open(work / "log", "a") as log:
            process = subprocess.Popen(
                ["sh", "-c", script],
                cwd=work,
                env={**os.environ, "PATH": path, "POGFAST_CACHE_DIR": str(work / "cache"), **variables},
                stdout=log,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        started.append(process)
        return process

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def here(script: str, *hosts: str) -> str:
    """Returns a script that does on a free port of this machine what it does on others."""
    port = free_port()
    for host in hosts:
        script = script.replace(f"--host {host} ", "--host 127.0.0.1 ").replace(f"{host}:8786", f"127.0.0.1:{port}")
    return script.replace(
        "--port 8786", f"--port {port} --host 127.0.0.1" if "--host" not in script else f"--port {port}"
    )


def expect_archive(work: Path) -> None:
    found = pogfast.check([work / "store"], keys.from_decryption_keyfile(str(work / "mine.decrypt")), read_data=True)
    assert (found.damage, found.problems, found.archives, found.files) == ([], [], 1, 20)
    assert manifest_in(work / "store")


def test_ssh(work: Path, shell: Callable[..., subprocess.Popen[str]]) -> None:
    """The script ends when all workers have; one that has not met the scheduler gives up."""
    ran = shell(here(recipes()[1], "node1").replace("--death-timeout 60", "--death-timeout 15"))
    assert ran.wait(150) == 0, (work / "log").read_text()
    expect_archive(work)


def test_slurm(work: Path, shell: Callable[..., subprocess.Popen[str]]) -> None:
    ran = shell(
        recipes()[2].replace("--death-timeout 60", "--death-timeout 15"), SLURM_JOB_ID="4711", SLURM_CPUS_PER_TASK="2"
    )
    assert ran.wait(150) == 0, (work / "log").read_text()
    expect_archive(work)


def test_kubernetes(work: Path, shell: Callable[..., subprocess.Popen[str]]) -> None:
    """The commands of the containers."""
    job = here(recipes()[3], "scheduler")
    commands = [
        " ".join(found.split()) for found in re.findall(r"- >-\n(.*?)(?:^---$|\Z)", job, re.MULTILINE | re.DOTALL)
    ]
    scheduler, worker, create = commands
    for command in (scheduler, worker, worker):
        shell(command)
    assert shell(create).wait(150) == 0, (work / "log").read_text()
    expect_archive(work)

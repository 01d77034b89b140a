"""Runs our commands in forks of a process that has imported them: a new interpreter takes a tenth of a second for that,
and three tenths with boto3.

A command sees what it would in a process of its own: arguments, environment, directory, pipes. Tests of how a process
starts and ends, or of one that is limited, signalled or measured, start it themselves.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import multiprocessing
import os
import pickle
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
from multiprocessing import connection
from pathlib import Path
from typing import Any

from kit.commands import SECONDS, Ran, run

MODULES = ("pogfast.pog.create", "pogfast.pog.restore", "pogfast.stores.s3", "pogfast.stores.b2")
BUFFERING = "PYTHONUNBUFFERED"  # it is never set: what is printed waits to be flushed, as for users
AT_START = ("PYTHON", "LC_", "LANG", "LD_", "MALLOC_", "OPENSSL_", "SSL_")  # variables that are read once, at the start
SERVE = "import sys; sys.path.insert(0, sys.argv[1]); from kit import forks; forks.serve(int(sys.argv[2]))"


def command(
    module: str, *arguments: str | bytes | Path, cwd: Path | None, env: dict[str, str] | None = None, stdin: bytes = b""
) -> Ran:
    """Runs `python -m MODULE` without a terminal, so that a password is read from `stdin`."""
    environment = dict(os.environ) if env is None else env
    server, started_with = _server()
    if cwd is None or _at_start(environment) != started_with:
        return run([sys.executable, "-m", module, *arguments], cwd, stdin, env=environment)
    (child_in, feed), (out, child_out), (err, child_err) = (os.pipe() for _ in range(3))
    ours, theirs = socket.socketpair()
    socket.send_fds(server, [b"!"], [child_in, child_out, child_err, theirs.fileno()])
    theirs.close()
    for file in (child_in, child_out, child_err):
        os.close(file)
    read = {out: b"", err: b""}

    def drain(file: int) -> None:
        with open(file, "rb") as pipe:
            read[file] = pipe.read()

    threads = [threading.Thread(target=drain, args=(file,)) for file in read]
    for thread in threads:
        thread.start()
    with ours, ours.makefile("rwb") as line:
        pickle.dump((module, [os.fsencode(word) for word in arguments], os.fspath(cwd), environment), line)
        line.flush()
        ends = threading.Timer(SECONDS, os.kill, (int(line.readline()), signal.SIGKILL))
        ends.start()
        with contextlib.suppress(BrokenPipeError), open(feed, "wb", buffering=0) as pipe:
            pipe.write(stdin)
        for thread in threads:
            thread.join()
        code = int(line.readline())
        ends.cancel()
    return Ran(code, read[out], read[err].decode(errors="replace"))


def _at_start(environment: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(AT_START) and name != BUFFERING}


@functools.cache
def _server() -> tuple[socket.socket, dict[str, str]]:
    """Starts what forks; it ends with this process. Returns how to reach it, and what it has read at its start."""
    ours, theirs = socket.socketpair()
    program = [sys.executable, "-c", SERVE, str(Path(__file__).parents[1]), str(theirs.fileno())]
    # With pipes for standard input and output, as commands have: Python's own objects for these stay as they are.
    subprocess.Popen(
        program,
        cwd="/",
        env={name: value for name, value in os.environ.items() if name != BUFFERING},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=[theirs.fileno()],
        start_new_session=True,
    )
    theirs.close()
    return ours, _at_start(dict(os.environ))


# ---- in the process that forks ---------------------------------------------------------------------------------------


def serve(file: int) -> None:
    """Forks for each command, which then runs, and tells its process id and its exit code."""
    import boto3

    from kit import descriptions
    from pogfast.cli import VERBS

    for name in {*MODULES, *(module for module, _ in VERBS.values())} - {"pogfast.cli.tune"}:  # NumPy starts threads
        importlib.import_module(name)
    descriptions.keep()
    boto3.client("s3", region_name="us-east-1", aws_access_key_id="-", aws_secret_access_key="-").close()
    del sys.path[0]  # of the tests
    gc.freeze()
    fork = multiprocessing.get_context("fork").Process
    requests, running = socket.socket(fileno=file), dict[int, tuple[Any, socket.socket]]()
    while True:
        ready = connection.wait([requests, *running])
        for sentinel in running.keys() & set(ready):
            process, line = running.pop(sentinel)
            process.join()
            with line, contextlib.suppress(OSError):
                line.sendall(b"%d\n" % process.exitcode)
        if requests in ready:
            word, files, *_ = socket.recv_fds(requests, 1, 4)
            if not word:
                return
            process = fork(target=_become, args=(files,))
            process.start()
            line = socket.socket(fileno=files.pop())
            with contextlib.suppress(OSError):  # whoever asked has failed meanwhile
                line.sendall(f"{process.pid}\n".encode())
            for one in files:
                os.close(one)
            running[process.sentinel] = process, line


def _become(files: list[int]) -> None:
    """Runs a command as `python -m` does."""
    with socket.socket(fileno=files.pop()) as line, line.makefile("rb") as said:
        module, arguments, cwd, environment = pickle.load(said)
    for number, one in enumerate(files):
        os.dup2(one, number)
        os.close(one)
    sys.stdin = open(0, encoding=sys.stdout.encoding, errors=sys.stdout.errors)  # noqa: SIM115 (instead of a closed one)
    os.setsid()
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    sys.argv = ["-m", *map(os.fsdecode, arguments)]
    sys.path[0] = os.getcwd()
    runpy.run_module(module, run_name="__main__", alter_sys=True)

"""A real `pogfast ui` process, a client that is signed in, what its jobs and commands do, and chromium."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Any

import httpx

CHROMIUM = os.environ.get("POGFAST_TEST_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
ENDS_WITHIN = 30  # seconds


@dataclass
class Served:
    """A running server: its process, its address, and a token that signs in once."""

    process: subprocess.Popen[str]
    url: str
    token: str

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @contextlib.contextmanager
    def client(self, **more: Any) -> Iterator[httpx.Client]:
        """A client that is signed in with the token, and sends what htmx sends."""
        with httpx.Client(base_url=self.url, timeout=60, **more) as client:
            assert client.get("/enter", params={"token": self.token}).status_code == 200
            client.headers.update({"Origin": self.url, "HX-Request": "true"})
            yield client

    def end(self, number: int = signal.SIGINT) -> tuple[int, str, str]:
        """Ends the server as Ctrl-C does; returns its exit code and what else it printed."""
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=ENDS_WITHIN)
        return self.process.returncode, out, err


@contextlib.contextmanager
def served(*arguments: str | Path, cwd: Path, env: dict[str, str] | None = None) -> Iterator[Served]:
    """Runs `pogfast ui` while entered."""
    command = [sys.executable, "-m", "pogfast", "ui", *map(str, arguments)]
    own = {f"POGFAST_{word.upper()}_DIR": str(cwd / word) for word in ("cache", "config", "state")}
    environment = {**os.environ, **own}
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env={**environment, **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # it may be ignored here
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.match(r"(https?://\S+:\d+)/enter(?:\?token=(\S+))?", line)
        assert found, (line, process.stderr.read() if process.stderr else "")
        yield Served(process, found[1], found[2] or "")
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def ended(client: httpx.Client, answer: httpx.Response) -> str:
    """The page of the job that an action started, when it has ended."""
    assert answer.status_code == 200, answer.text
    where = answer.headers["HX-Redirect"]
    assert where.startswith("/jobs/")
    for _ in range(600):
        text = client.get(where).text
        if "data-events" not in text:
            return text
        time.sleep(0.1)
    raise AssertionError("the job does not end")


def command(text: str) -> str:
    """The command that a page shows."""
    [line] = re.findall(r"<code>(.*?)</code><button type=\"button\"", text, re.DOTALL)
    return unescape(line)


def typed(line: str, cwd: Path) -> bytes:
    """Runs a line in a shell where `pogfast` is ours; returns what it prints."""
    (cwd / "bin").mkdir(exist_ok=True)
    script = cwd / "bin" / "pogfast"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m pogfast "$@"\n')
    script.chmod(0o755)
    environment = {**os.environ, "PATH": f"{script.parent}:{os.environ['PATH']}", "POGFAST_CACHE_DIR": str(cwd / "c")}
    return subprocess.run(["bash", "-c", line], env=environment, capture_output=True, check=True, cwd="/").stdout


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """Starts chromium without a window while entered."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        try:
            yield browser
        finally:
            browser.close()

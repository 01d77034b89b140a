"""`pogfast ui` starts, says where it is, opens a browser without an argument that tells the token, and ends."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from kit.commands import run
from kit.paths import PACKAGE
from kit.ui import served

UI = [sys.executable, "-m", "pogfast", "ui"]


def test_it_listens_when_it_has_printed_the_address(tmp_path: Path) -> None:
    with served("--no-browser", cwd=tmp_path) as server:
        assert server.url.startswith("http://127.0.0.1:")
        with socket.create_connection(("127.0.0.1", server.port), timeout=1):
            pass
        assert httpx.get(f"{server.url}/enter?token={server.token}").status_code == 200


def test_the_port_can_be_chosen_and_another_server_has_it(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        ran = run([*UI, "--no-browser", "--port", str(port)], tmp_path)
    assert ran.code == 1
    assert f"port {port}" in ran.err
    with served("--no-browser", "--port", port, cwd=tmp_path) as server:
        assert server.port == port


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_at_once(tmp_path: Path, number: int) -> None:
    with served("--no-browser", cwd=tmp_path) as server:
        code, _, err = server.end(number)
    assert (code, err) == (0, "")


def test_the_browser_is_opened_by_a_file_that_only_the_user_can_read(tmp_path: Path) -> None:
    """No argument of a program has the token, and the file is gone when the server has ended."""
    program = tmp_path / "browser"
    program.write_text(
        '#!/bin/sh\nprintf "%s\\n" "$@" > "$HOME/arguments.new"; mv "$HOME/arguments.new" "$HOME/arguments"\n'
    )
    program.chmod(0o755)
    with served(cwd=tmp_path, env={"BROWSER": str(program), "HOME": str(tmp_path)}) as server:
        told = tmp_path / "arguments"
        until = time.monotonic() + 20
        while not told.exists() and time.monotonic() < until:
            time.sleep(0.05)
        [address] = told.read_text().splitlines()
        assert address.startswith("file:///")
        page = Path(address.removeprefix("file://"))
        assert stat.S_IMODE(page.stat().st_mode) == 0o600
        assert stat.S_IMODE(page.parent.stat().st_mode) == 0o700
        token = page.read_text().partition("token=")[2].partition('"')[0]
        assert len(token) > 30
        assert token not in address
        assert token != server.token
        assert httpx.get(f"{server.url}/enter?token={token}").status_code == 200
        server.end()
    assert not page.exists()


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.0.2.1"])
def test_an_address_that_others_can_reach_needs_a_certificate_and_a_password(tmp_path: Path, address: str) -> None:
    ran = run([*UI, "--no-browser", "--listen", address], tmp_path)
    assert ran.code == 2
    assert "--tls-certificate" in ran.err


def certificate(tmp_path: Path) -> tuple[Path, Path]:
    made, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", str(key), "-out", str(made)]
    subprocess.run(command, check=True, capture_output=True)
    return made, key


def test_with_a_certificate_and_a_password_it_serves_others(tmp_path: Path) -> None:
    made, key = certificate(tmp_path)
    (tmp_path / "password").write_text("correct horse\n")
    options = ["--listen", "0.0.0.0", "--host-name", "localhost", "--tls-certificate", made, "--tls-key", key]
    with served("--no-browser", *options, "--login-password-file", tmp_path / "password", cwd=tmp_path) as server:
        assert server.token == ""
        import ssl

        trust = ssl.create_default_context(cafile=made)
        with httpx.Client(base_url=f"https://localhost:{server.port}", verify=trust) as client:
            assert client.get("/").status_code == 403
            assert "Password" in client.get("/enter").text
            client.headers.update({"Origin": f"https://localhost:{server.port}", "HX-Request": "true"})
            wrong = client.post("/enter", data={"password": "wrong"})
            assert (wrong.status_code, wrong.cookies) == (403, httpx.Cookies())
            assert client.get("/").status_code == 403
            right = client.post("/enter", data={"password": "correct horse"})
            assert right.headers["HX-Redirect"] == "/"
            assert "Secure" in right.headers["Set-Cookie"]
            assert client.get("/").status_code == 200


def test_without_its_libraries_it_says_what_to_install(tmp_path: Path) -> None:
    """A directory first on the path, whose module fails to import, stands for a library that is not there."""
    (tmp_path / "starlette.py").write_text("raise ModuleNotFoundError('no', name='starlette')\n")
    ran = run([*UI], tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert ran.code == 2
    assert ran.err.splitlines()[0] == "pogfast: error: ui needs starlette, which is not installed"
    assert "pip install '.[ui]'" in ran.err


def test_other_commands_import_nothing_of_it() -> None:
    program = "import sys; from pogfast.cli import main; main(['list', '/nonexistent']); print(*sys.modules)"
    environment = {**os.environ, "POGFAST_PASSWORD": "x"}
    ran = run([sys.executable, "-c", program], None, env=environment)
    loaded = set(ran.out.decode().split())
    assert "pogfast.cli.list_archives" in loaded
    assert not {name for name in loaded if name.startswith(("starlette", "uvicorn", "jinja2", "pogfast.ui"))}


def test_the_vendored_script_is_the_one_that_is_written_down() -> None:
    static = PACKAGE / "ui" / "static"
    page = (static / "README.md").read_text(encoding="utf-8")
    assert hashlib.sha256((static / "htmx.min.js").read_bytes()).hexdigest() in page
    assert (static / "htmx.LICENSE").read_text(encoding="utf-8").startswith("Zero-Clause BSD")
    script = (static / "htmx.min.js").read_text(encoding="utf-8")
    assert re.search(r"version ?= ?['\"]4\.0\.1['\"]", script)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="there is no /proc to see the memory in")
def test_a_server_that_nobody_uses_takes_little_memory(tmp_path: Path) -> None:
    with served("--no-browser", cwd=tmp_path) as server, server.client() as client:
        assert client.get("/").status_code == 200
        status = Path(f"/proc/{server.process.pid}/status").read_text()
    [peak] = re.findall(r"VmHWM:\s+(\d+) kB", status)
    assert int(peak) < 60_000

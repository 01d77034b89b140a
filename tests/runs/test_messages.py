"""Pings and messages: what a server gets, and that nobody else sees the URL."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import pogfast
from kit.profiles import Desk
from pogfast import schedule
from pogfast.config import load
from pogfast.config.schema import Secret
from pogfast.errors import PogfastError
from pogfast.runs import last, messages

SECRET = "s3cr3t-5f2a"
PROFILE = """\
[stores]
one = { address = "${PLACE}/one" }
[profiles.home]
stores = ["one"]
key = { file = "k.encrypt" }
sources = ["${PLACE}/tree"]
"""


class Endpoint(ThreadingHTTPServer):
    """A server that takes pings and messages, and notes them."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.got: list[tuple[str, str]] = []
        self.answer = 200
        self.drop = False
        self.drips = False
        self.moved_to = ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/{SECRET}"


class Handler(BaseHTTPRequestHandler):
    server: Endpoint

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.server.got.append((self.path, body))
        if self.server.drop:
            self.connection.close()
            return
        if self.server.drips:
            with contextlib.suppress(OSError):
                for letter in b"HTTP/1.1 200 OK\r\nx: " + bytes([120]) * 60:
                    self.wfile.write(bytes([letter]))
                    time.sleep(0.05)
            return
        self.send_response(self.server.answer)
        if self.server.moved_to:
            self.send_header("Location", self.server.moved_to)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_POST

    def log_message(self, *arguments: Any) -> None:
        """Says nothing."""


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    made = Desk(tmp_path)
    made.environ["NO_PROXY"] = "*"
    for name, value in made.environ.items():
        if name in ("PLACE", "NO_PROXY") or name.startswith("POGFAST_"):
            monkeypatch.setenv(name, value)
    return made


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    server = Endpoint()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def run(desk: Desk, more: str, *, code: int = 0, **environ: str) -> str:
    """Runs the profile and returns what was printed and recorded, in which the secret must not be."""
    desk.write(PROFILE + more)
    ran = desk.pogfast("run", "home", "--json", "--debug", "-vv", **environ)
    assert ran.code == code, ran.err
    kept = "".join(path.read_text() for path in (desk.place / "state").rglob("*.jsonl"))
    assert SECRET not in ran.err + ran.out.decode() + kept
    return ran.err


FAILS = '[profiles.home.hooks]\nafter = [["false"]]\n'


def test_pings_of_a_run(desk: Desk, endpoint: Endpoint) -> None:
    run(desk, f'ping = "{endpoint.url}"\n')
    (start, nothing), (end, body) = endpoint.got
    assert (start, nothing, end) == (f"/{SECRET}/start", "", f"/{SECRET}")
    assert body.startswith("home: success after ")
    assert "\ncreate one: exit code 0\n" in body
    endpoint.got.clear()
    run(desk, f'ping = "{endpoint.url}?create=1"\n' + FAILS, code=1)
    (start, _), (end, body) = endpoint.got
    assert (start, end) == (f"/{SECRET}/start?create=1", f"/{SECRET}/fail?create=1")
    assert "hook after: false ended with exit status 1" in body


def test_a_run_that_does_not_take_place_sends_nothing(desk: Desk, endpoint: Endpoint) -> None:
    more = f'ping = "{endpoint.url}"\nnotify = ["json{endpoint.url[4:]}"]\n'
    run(desk, more + '[profiles.home.needs]\nmounted = ["/nowhere"]\n', code=75)
    assert endpoint.got == []


@pytest.mark.parametrize("place", ["file", "variable", "credential"])
def test_a_url_by_reference(desk: Desk, endpoint: Endpoint, place: str) -> None:
    path = desk.place / "hook-url"
    path.write_text(f"{endpoint.url}\n")
    name = {"file": str(path), "variable": "PING_URL", "credential": path.name}[place]
    environ = {
        "file": {},
        "variable": {"PING_URL": endpoint.url},
        "credential": {"CREDENTIALS_DIRECTORY": str(desk.place)},
    }[place]
    run(desk, f'ping = {{ {place} = "{name}" }}\n', **environ)
    assert [path for path, _ in endpoint.got] == [f"/{SECRET}/start", f"/{SECRET}"]


def test_hooks_and_sources_do_not_get_variables_of_urls(desk: Desk, endpoint: Endpoint) -> None:
    """They would be in what a dump prints, and in what a hook logs."""
    source = '{ command = ["env"], name = "environment" }'
    text = PROFILE.replace("sources = [", f"sources = [{source}, ") + 'ping = { variable = "PING_URL" }\n'
    desk.write(text + f'[profiles.home.hooks]\nbefore = [["sh", "-c", "env > {desk.place}/hook"]]\n')
    assert desk.pogfast("run", "home", PING_URL=endpoint.url).code == 0
    assert len(endpoint.got) == 2
    assert "PLACE=" in (desk.place / "hook").read_text()
    assert SECRET not in (desk.place / "hook").read_text()
    key = pogfast.open_key(decryption_keyfile=desk.config.parent / "k.decrypt")
    record = last("home")
    assert record is not None
    dumped = next(verb for verb in record.verbs if verb.source).archives["one"]
    printed = b"".join(pogfast.cat(f"{desk.place}/one/{dumped}", key, "environment"))
    assert b"PLACE=" in printed
    assert SECRET.encode() not in printed


@pytest.mark.parametrize("how", ["refused", "500", "dropped", "moved", "no host"])
def test_a_ping_that_fails_is_a_warning(desk: Desk, endpoint: Endpoint, how: str) -> None:
    url = {"refused": f"http://127.0.0.1:1/{SECRET}", "no host": f"http:///{SECRET}"}.get(how, endpoint.url)
    endpoint.answer = {"500": 500, "moved": 302}.get(how, 200)
    endpoint.drop = how == "dropped"
    endpoint.moved_to = f"{endpoint.url}/elsewhere" if how == "moved" else ""
    said = run(desk, f'ping = "{url}"\n')
    assert "warning: the ping of the start cannot be sent: " in said
    assert "warning: the ping of the end cannot be sent: " in said
    assert {"refused": "Connection refused", "500": "answered 500", "moved": "answered 302"}.get(how, "") in said
    assert not [path for path, _ in endpoint.got if "elsewhere" in path]
    record = last("home")
    assert record is not None
    assert (record.outcome, record.warning_count) == ("success", 1)


def test_a_server_that_answers_byte_by_byte_is_not_waited_for(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(messages, "PATIENCE", 0.2)
    endpoint.drips = True
    with pytest.raises(PogfastError, match="the server does not end its answer"):
        messages.ping(Secret(endpoint.url), "start", "")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ('{ file = "/nowhere/url" }', "/nowhere/url: No such file or directory"),
        ('{ variable = "PING_NOWHERE" }', "the variable PING_NOWHERE is not set"),
        ('{ credential = "x" }', "there is no credential x"),
        ('{ file = "/dev/null" }', "/dev/null has no URL"),
        ('{ variable = "PLACE" }', "it is not an address of the web"),
    ],
)
def test_a_url_that_is_not_there_is_a_warning(desk: Desk, given: str, said: str) -> None:
    assert f"warning: the ping of the end cannot be sent: {said}" in run(desk, f"ping = {given}\n")


def test_a_message_about_a_run_that_fails(desk: Desk, endpoint: Endpoint) -> None:
    """By apprise, to a local server."""
    more = f'notify = ["json{endpoint.url[4:]}"]\n'
    run(desk, more)
    assert endpoint.got == []
    run(desk, more + FAILS, code=1)
    [(path, body)] = endpoint.got
    told = json.loads(body)
    assert path.rstrip("/") == f"/{SECRET}"
    assert told["title"].endswith(": home: failed")
    assert "hook after: false ended with exit status 1" in told["message"]
    endpoint.answer = 500
    assert "the notification cannot be sent: it was not accepted" in run(desk, more + FAILS, code=1)
    bad = more.replace("json:", "nosuch:")
    assert "the notification cannot be sent: it was not accepted" in run(desk, bad + FAILS, code=1)


@pytest.mark.parametrize("how", ["refused", "500", "no such scheme", "no host"])
def test_urls_are_not_logged(desk: Desk, endpoint: Endpoint, caplog: pytest.LogCaptureFixture, how: str) -> None:
    """Neither by apprise nor by the libraries that it uses, in a program that logs everything."""
    caplog.set_level(logging.DEBUG)
    endpoint.answer = 500
    urls = {"refused": f"json://127.0.0.1:1/{SECRET}", "500": f"json{endpoint.url[4:]}"}
    urls |= {"no such scheme": f"nosuch://{SECRET}", "no host": f"json:///{SECRET}"}
    desk.write(PROFILE + f'notify = ["{urls[how]}"]\n' + FAILS)
    [record] = pogfast.run("home")
    assert record.outcome == "failed"
    assert len(endpoint.got) == (how == "500")
    assert SECRET not in caplog.text
    for name in ("apprise", "urllib3.connectionpool"):
        logging.getLogger(name).warning("others are heard")
    assert caplog.text.count("others are heard") == 2


def test_urls_are_not_shown(desk: Desk) -> None:
    desk.write(PROFILE + f'ping = "https://example.org/{SECRET}"\nnotify = ["json://{SECRET}", {{ file = "/x/y" }}]\n')
    for options in ((), ("--json",)):
        ran = desk.pogfast("config", "show", *options)
        assert ran.code == 0
        assert SECRET not in ran.out.decode() + ran.err
        assert "(not shown)" in ran.out.decode()
        assert "/x/y" in ran.out.decode()
    assert SECRET not in repr(load(str(desk.config)))


@pytest.mark.parametrize(
    "given",
    [
        f'"{SECRET}"',
        f'["https://{SECRET}"]',
        f'{{ url = "https://{SECRET}" }}',
        f'"https://x/{SECRET} y"',
        '{ file = "relative" }',
        '{ file = "/a", variable = "B" }',
        '{ credential = "../x" }',
        "{ variable = 1 }",
        "7",
    ],
)
def test_what_is_no_url_is_refused_and_not_shown(desk: Desk, given: str) -> None:
    [problem] = desk.problems(PROFILE + f"ping = {given}\n")
    assert problem.line == 7
    assert problem.message.startswith("ping ")
    assert SECRET not in str(problem) + problem.hint


def test_a_unit_passes_credentials_of_urls(desk: Desk) -> None:
    desk.write(PROFILE + 'schedule = "daily"\nping = { credential = "ping" }\nnotify = [{ credential = "chat" }]\n')
    config = load(str(desk.config))
    texts = schedule.Systemd(user=False).planned(schedule.Job(config, config.profiles["home"]))
    for name in ("ping", "chat"):
        assert f"\nLoadCredential={name}:/etc/credstore/{name}\n" in "".join(texts.values())

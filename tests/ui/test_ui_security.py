"""Who is let in, and what every answer says: each threat is tried against a real server."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator

import httpx
import pytest
from starlette.routing import Mount, Route

from kit.ui import Served
from pogfast.ui.app import ROUTES

OPEN = {"/enter"}


@pytest.fixture
def stranger(server: Served) -> Iterator[httpx.Client]:
    """Another user of this machine: no token, no cookie."""
    with httpx.Client(base_url=server.url) as client:
        yield client


def paths() -> list[tuple[str, str]]:
    """(method, path) of every route, with something in place of its parameters."""
    found = []
    for route in ROUTES:
        assert isinstance(route, Route), "a mount would need a test of its own"
        path = re.sub(r"\{(\w+)(:\w+)?\}", lambda one: "1" if one[2] else "backup", route.path)
        found += [(method, path) for method in sorted(route.methods or ()) if method != "HEAD"]
    assert len(found) > 15
    return found


@pytest.mark.parametrize(("method", "path"), paths())
def test_a_stranger_gets_nothing(stranger: httpx.Client, method: str, path: str) -> None:
    own = {"Origin": str(stranger.base_url).rstrip("/"), "HX-Request": "true"}
    answer = stranger.request(method, path, headers=own)
    assert answer.status_code == 403
    assert "backup" not in answer.text
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(("method", "path"), paths())
def test_every_answer_forbids_to_keep_frame_or_run_it(client: httpx.Client, method: str, path: str) -> None:
    if (method, path) in (("POST", "/keys/forget"), ("POST", "/stores/backup/forget")):
        pytest.skip("would end the session's keys for the other tests")
    headers = client.request(method, path).headers
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "*" not in policy
    assert "frame-ancestors" in policy
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "access-control-allow-origin" not in headers


def test_everything_is_behind_the_guard(server: Served, stranger: httpx.Client) -> None:
    """Also paths without a route; only our own files and the page that signs in are for everybody."""
    assert stranger.get("/nothing").status_code == 403
    assert stranger.get("/static/../app.py").status_code == 403
    assert stranger.get("/static/pogfast.css").status_code == 200
    assert stranger.get("/static/%2e%2e/app.py").status_code == 404
    assert not [route for route in ROUTES if isinstance(route, Mount)]


def test_a_token_works_once(server: Served, client: httpx.Client, stranger: httpx.Client) -> None:
    again = stranger.get("/enter", params={"token": server.token})
    assert (again.status_code, again.cookies) == (403, httpx.Cookies())
    for wrong in ("", "x", server.token[:-1], "é"):
        assert stranger.get("/enter", params={"token": wrong}).status_code == 403


def test_the_cookie_is_for_this_port_and_our_pages_only(work, server: Served) -> None:
    from kit.ui import served

    with served("--no-browser", cwd=work.path) as other, httpx.Client(base_url=other.url) as fresh:
        answer = fresh.get("/enter", params={"token": other.token})
        cookie = answer.headers["Set-Cookie"]
        assert cookie.startswith(f"pogfast-{other.port}=")
        for word in ("HttpOnly", "SameSite=strict", "Path=/"):
            assert word in cookie
        # A cookie of one server is not one of another.
        [value] = answer.cookies.values()
        taken = httpx.get(server.url, cookies={f"pogfast-{server.port}": value})
        assert taken.status_code == 403


@pytest.mark.parametrize("host", ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", ""])
def test_another_host_is_refused(server: Served, client: httpx.Client, host: str) -> None:
    """As after DNS rebinding: the name of another site leads here, and the browser takes us for it."""
    answer = client.get("/", headers={"Host": host.format(port=server.port)})
    assert answer.status_code == 421
    assert client.get("/", headers={"Host": f"localhost:{server.port}"}).status_code == 200


@pytest.mark.parametrize("origin", [None, "null", "https://evil.example", "http://127.0.0.1:1", "http://localhost"])
def test_an_action_of_another_origin_is_refused(server: Served, client: httpx.Client, origin: str | None) -> None:
    headers = {name: value for name, value in client.headers.items() if name != "origin"}
    if origin is not None:
        headers["Origin"] = origin
    cookie = dict(client.cookies)
    answer = httpx.post(f"{server.url}/theme", data={"theme": "dark"}, headers=headers, cookies=cookie)
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers


def test_an_action_without_the_header_of_our_scripts_is_refused(server: Served, client: httpx.Client) -> None:
    headers = {"Origin": server.url}
    answer = httpx.post(f"{server.url}/theme", data={"theme": "dark"}, headers=headers, cookies=dict(client.cookies))
    assert answer.status_code == 403


def test_an_action_of_our_own_pages_is_done(client: httpx.Client) -> None:
    answer = client.post("/theme", data={"theme": "dark", "next": "/jobs"})
    assert (answer.status_code, answer.headers["HX-Redirect"]) == (200, "/jobs")
    assert 'data-theme="dark"' in client.get("/").text
    client.post("/theme", data={"theme": "auto"})


@pytest.mark.parametrize(
    "path", ["//evil.example", "/\\evil.example", "https://evil.example", "javascript:alert(1)", "/\tx"]
)
def test_no_action_leads_to_another_site(client: httpx.Client, path: str) -> None:
    assert client.post("/theme", data={"theme": "auto", "next": path}).headers["HX-Redirect"] == "/"


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_what_another_site_or_port_embeds_is_refused(client: httpx.Client, site: str) -> None:
    headers = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "no-cors"}
    assert client.get("/stores/backup", headers=headers).status_code == 403


def test_there_is_no_websocket(server: Served, client: httpx.Client) -> None:
    [cookie] = [
        f"{name}={value}"
        for name, value in client.cookies.items()
        if name.startswith("pogfast-") and name != "pogfast-theme"
    ]
    request = (
        f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nCookie: {cookie}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(request.encode())
        assert b" 101 " not in connection.recv(200).partition(b"\r\n")[0]


def test_a_form_that_is_too_large_is_refused(server: Served, client: httpx.Client) -> None:
    assert client.post("/theme", content=b"x" * (9 << 20)).status_code == 413
    chunks = (b"x" * (1 << 20) for _ in range(9))
    assert client.post("/theme", content=chunks).status_code == 400

"""Listens, signs the user's browser in, serves, and ends on Ctrl-C.

The socket listens before the address is printed, so that whoever reads it can connect. The browser gets the token from
a file that only the user can read: an argument of a program is seen by every user of the machine.
"""

from __future__ import annotations

import html
import os
import socket
import ssl
import sys
import tempfile
import threading
import webbrowser
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address
from pathlib import Path

import uvicorn

from pogfast.errors import PogfastError, UsageError
from pogfast.sizes import many
from pogfast.system.background import in_background
from pogfast.ui.app import make_app
from pogfast.ui.guard import ENTER
from pogfast.ui.site import Site

LOOPBACK = "127.0.0.1"
EXPIRE_EVERY = 60.0  # seconds
SHUTDOWN = 2  # seconds that open answers get to end
BACKLOG = 128


@dataclass(frozen=True)
class Listen:
    """Where to listen, and how. Anything but loopback needs a certificate and a password."""

    address: str = LOOPBACK
    port: int = 0  # 0: a free one
    certificate: str | None = None  # PEM files
    private_key: str | None = None
    has_password: bool = False

    def check(self) -> None:
        """Raises UsageError for an address that others can reach without TLS and a password."""
        try:
            local = ip_address(self.address).is_loopback
        except ValueError as error:
            raise UsageError(
                f"--listen={self.address}: not an IP address", hint="write 127.0.0.1 or 0.0.0.0"
            ) from error
        if (self.certificate is None) != (self.private_key is None):
            raise UsageError("--tls-certificate and --tls-key belong together")
        if not local and not (self.certificate and self.has_password):
            raise UsageError(
                f"--listen={self.address}: other machines can reach this address",
                hint="give --tls-certificate, --tls-key and --login-password-file; or leave --listen out, and use "
                "ssh -L PORT:127.0.0.1:PORT",
            )

    @property
    def scheme(self) -> str:
        return "https" if self.certificate else "http"


def serve(
    site: Site,
    listen: Listen,
    *,
    say: Callable[[str], None],
    open_browser: bool = True,
    hosts: tuple[str, ...] = (),
) -> None:
    """Serves the pages until Ctrl-C. `say` prints a line; `hosts` are further names that this server may be called by.

    Raises UsageError and PogfastError if it cannot listen.
    """
    listen.check()
    listener = _listener(listen)
    port = listener.getsockname()[1]
    shown = f"[{listen.address}]" if ":" in listen.address else listen.address
    names = {shown, *hosts} | ({"localhost"} if ip_address(listen.address).is_loopback else set())
    app = make_app(site, [f"{name}:{port}" for name in names], f"pogfast-{port}", listen.scheme)
    base = f"{listen.scheme}://{hosts[0] if hosts else shown}:{port}"
    site.enter = base + ENTER
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        ws="none",
        lifespan="off",
        timeout_graceful_shutdown=SHUTDOWN,
        ssl_certfile=listen.certificate,
        ssl_keyfile=listen.private_key,
    )
    try:
        config.load()
    except (OSError, ssl.SSLError) as error:
        raise UsageError(f"the TLS certificate or its key cannot be used: {error.strerror or error}") from error
    server = uvicorn.Server(config)
    try:
        _serve(site, server, listener, say, open_browser)
    except KeyboardInterrupt:
        pass  # the usual end: uvicorn raises the signal again when it has stopped
    finally:
        _end(site, say)


def _serve(
    site: Site, server: uvicorn.Server, listener: socket.socket, say: Callable[[str], None], open_browser: bool
) -> None:
    say(f"{site.enter}?token={site.sessions.new_token()}" if not site.sessions.wants_password else site.enter)
    once = "" if site.sessions.wants_password else "This address works once, in one browser. "
    say(f"{once}Ctrl-C ends the server.")
    with tempfile.TemporaryDirectory(prefix="pogfast-ui-") as private:
        if open_browser and _has_display() and not site.sessions.wants_password:
            threading.Thread(target=_open, args=(site, private), name="pogfast-browser", daemon=True).start()
        with in_background(partial(_expire, site), "pogfast-expire"):
            server.run(sockets=[listener])


def _expire(site: Site, ended: threading.Event) -> None:
    """Forgets keys that have not been used for long, also if nobody asks for a page any more."""
    while not ended.wait(EXPIRE_EVERY):
        if site.sessions.expire():
            site.forget()


def _listener(listen: Listen) -> socket.socket:
    """Returns a socket that listens. Raises PogfastError."""
    family = socket.AF_INET6 if ":" in listen.address else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((listen.address, listen.port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        where = f"{listen.address}, port {listen.port}"
        raise PogfastError(
            f"cannot listen on {where}: {error.strerror}", hint="--port names another; without it a free one is taken"
        ) from error
    return listener


def _open(site: Site, directory: str) -> None:
    """Opens the browser at a file that leads to the page that signs in; nothing is said if there is no browser."""
    address = f"{site.enter}?token={site.sessions.new_token()}"
    path = Path(directory) / "pogfast.html"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(
            '<!doctype html><html lang="en"><meta charset="utf-8"><title>pogfast</title>'
            f'<meta http-equiv="refresh" content="0;url={html.escape(address)}">'
            f'<p><a href="{html.escape(address)}">Open pogfast</a>'
        )
    webbrowser.open(path.as_uri())


def _has_display() -> bool:
    """Returns True if a browser would open a window of its own, and not take over the terminal."""
    return sys.platform == "darwin" or any(os.environ.get(word) for word in ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY"))


def _end(site: Site, say: Callable[[str], None]) -> None:
    """Forgets all keys, ends the jobs, and says so."""
    site.sessions.forget_keys()
    running = site.jobs.running()
    if running:
        say(f"ending {many(len(running), 'job')}; Ctrl-C again does not wait")
    for job in site.jobs.end():
        say(f"{job.title}: {'ended' if job.ended else 'is left unfinished'}" + (f"; {job.keeps}" if job.keeps else ""))
    site.forget()

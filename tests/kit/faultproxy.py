"""A proxy before an S3 server, in this process, that does to chosen requests what networks and busy services do.

It keeps the Host header, so that signatures stay valid. Bodies are read whole before they are sent on.
"""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from kit.servers import Certificate, url_of


@dataclass
class Fault:
    """What happens to requests whose "METHOD /path?query" the pattern finds: the first `skip` pass, then `times` do not
    (-1: for ever)."""

    match: str
    times: int = 1
    skip: int = 0
    status: int = 0  # answered instead of sending it on
    code: str = "InternalError"
    body: bytes | None = None  # of that answer, instead of an error in XML
    headers: dict[str, str] = field(default_factory=dict)  # of the answer, beside or instead of the server's
    change: Callable[[bytes], bytes] = bytes  # of the body of the server's answer
    whole: bool = False  # the Range of the request is not sent on
    change_request: Callable[[bytes], bytes] = bytes  # of the body of the request
    cut_request: bool = False  # the connection is reset when half of the request's body is there
    lose_answer: bool = False  # the server does it, and nobody hears of it
    cut_answer: int = -1  # the answer ends after so many bytes of its body, whatever it promised
    flip: int = -1  # a bit of this byte of the answer is another
    delay: float = 0.0  # seconds


class Proxy:
    """`url` is where it listens; `faults` may change at any time; `seen` has every request, its status and the bytes of
    the server's answer; `asked` those that waited for leave to send their body, `sums` those with a CRC32; `signed` has
    the SHA-256 of every PUT as its header says it, `ranges` every Range; `most` is how many requests were under way
    at once. With a certificate, clients speak TLS."""

    def __init__(self, upstream: str, certificate: Certificate | None = None) -> None:
        self.upstream = urlsplit(upstream).netloc
        self.faults: list[Fault] = []
        self.seen: list[tuple[str, int, int]] = []
        self.asked: list[str] = []
        self.sums: list[str] = []
        self.signed: list[str] = []
        self.ranges: list[str] = []
        self.open = self.most = 0
        self.lock = threading.Lock()
        self.server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"proxy": self}))
        self.url = url_of(self.server.server_address[1], certificate)
        if certificate:
            wrapped = certificate.context().wrap_socket(
                self.server.socket, server_side=True, do_handshake_on_connect=False
            )
            self.server.socket = wrapped

    def count(self, pattern: str) -> int:
        """How many requests were made that it finds."""
        return sum(bool(re.search(pattern, request)) for request, *_ in self.seen)

    def fault_of(self, request: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if re.search(fault.match, request) and fault.times:
                    if fault.skip:
                        fault.skip -= 1
                        continue
                    fault.times -= 1
                    return fault
        return None


@contextlib.contextmanager
def proxied(upstream: str, certificate: Certificate | None = None) -> Iterator[Proxy]:
    proxy = Proxy(upstream, certificate)
    thread = threading.Thread(target=proxy.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield proxy
    proxy.server.shutdown()
    proxy.server.server_close()
    thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_: object) -> None:
        """Connections break here all the time."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else the body of an answer waits for the client to acknowledge the headers: 40 ms
    proxy: Proxy

    def handle_expect_100(self) -> bool:
        self.proxy.asked.append(f"{self.command} {self.path}")
        return super().handle_expect_100()

    def handle_any(self) -> None:
        with self.proxy.lock:
            self.proxy.open += 1
            self.proxy.most = max(self.proxy.most, self.proxy.open)
        try:
            self.handle_request()
        finally:
            with self.proxy.lock:
                self.proxy.open -= 1

    def handle_request(self) -> None:
        request = f"{self.command} {self.path}"
        fault = self.proxy.fault_of(request) or Fault("")
        if "x-amz-checksum-crc32" in self.headers:
            self.proxy.sums.append(request)
        if self.command == "PUT":
            self.proxy.signed.append(self.headers.get("x-amz-content-sha256", ""))
        if "Range" in self.headers:
            self.proxy.ranges.append(self.headers["Range"])
        length = int(self.headers.get("Content-Length", 0))
        time.sleep(fault.delay)
        if fault.cut_request:
            self.rfile.read(length // 2)
            self.note(request, 0)
            self.reset()
            return
        body = fault.change_request(self.rfile.read(length))
        status, answer = fault.status, b""
        headers: dict[str, str] = {}
        if status:
            answer = f"<Error><Code>{fault.code}</Code><Message>injected</Message></Error>".encode()
            answer = answer if fault.body is None else fault.body
        else:
            try:
                status, headers, answer = self.ask(body, {"range"} if fault.whole else set())
            except OSError:
                self.note(request, 0)
                self.reset()
                return
        self.note(request, status, len(answer))
        if fault.lose_answer:
            self.reset()
            return
        self.answer(status, headers, answer, fault)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any

    def ask(self, body: bytes, without: set[str]) -> tuple[int, dict[str, str], bytes]:
        upstream = http.client.HTTPConnection(self.proxy.upstream, timeout=60)
        try:
            dropped = {"connection", "expect", *without}
            headers = {name: value for name, value in self.headers.items() if name.lower() not in dropped}
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in headers.items():
                upstream.putheader(name, value)
            upstream.endheaders(body or None)
            got = upstream.getresponse()
            return got.status, dict(got.getheaders()), got.read()
        finally:
            upstream.close()

    def answer(self, status: int, headers: dict[str, str], body: bytes, fault: Fault) -> None:
        if fault.flip >= 0:
            body = bytes(byte ^ (at == fault.flip) for at, byte in enumerate(body))
        if not fault.status:
            body = fault.change(body)
        self.send_response_only(status)
        for name, value in headers.items():
            dropped = {
                "content-length",
                "transfer-encoding",
                "connection",
                "keep-alive",
                *map(str.lower, fault.headers),
            }
            if name.lower() not in dropped:
                self.send_header(name, value)
        length = next((value for name, value in headers.items() if name.lower() == "content-length"), len(body))
        said = {"Content-Length": str(length if self.command == "HEAD" else len(body))} | fault.headers
        for name, value in said.items():
            if value:  # an empty one is left out
                self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault.cut_answer >= 0:
            self.wfile.write(body[: fault.cut_answer])
            self.close_connection = True
            return
        self.wfile.write(body)
        self.close_connection = self.close_connection or "Content-Length" in fault.headers

    def note(self, request: str, status: int, length: int = 0) -> None:
        with self.proxy.lock:
            self.proxy.seen.append((request, status, length))

    def reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""

"""A relay of bytes before a server, which knows no protocol: it can alter what a client sends, also within TLS."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit


class Relay:
    """`flip_at` is the byte of a connection, as its client sends it, of which a bit is flipped: once, then never."""

    def __init__(self, upstream: str) -> None:
        self.upstream = urlsplit(upstream)
        self.flip_at = -1
        self.flipped = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"{self.upstream.scheme}://127.0.0.1:{self.listener.getsockname()[1]}"

    def serve(self) -> None:
        with contextlib.suppress(OSError):  # it is closed
            while True:
                client, _ = self.listener.accept()
                server = socket.create_connection((self.upstream.hostname, self.upstream.port))
                for source, sink, altered in ((client, server, True), (server, client, False)):
                    threading.Thread(target=self.copy, args=(source, sink, altered), daemon=True).start()

    def copy(self, source: socket.socket, sink: socket.socket, altered: bool) -> None:
        at = 0
        with contextlib.suppress(OSError):
            while data := bytearray(source.recv(1 << 16)):
                if altered and 0 <= self.flip_at - at < len(data):
                    data[self.flip_at - at] ^= 1
                    self.flip_at, self.flipped = -1, self.flipped + 1
                at += len(data)
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def relayed(upstream: str) -> Iterator[Relay]:
    relay = Relay(upstream)
    threading.Thread(target=relay.serve, daemon=True).start()
    yield relay
    relay.listener.shutdown(socket.SHUT_RDWR)
    relay.listener.close()

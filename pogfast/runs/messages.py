"""Sends pings, as healthchecks takes them, and messages, through apprise: to URLs that are secrets.

A ping is a request to URL/start when a run begins, to URL or URL/fail when it ends, with a summary. No error has a URL
in it, nor what a server or a library said, which may quote one: only its kind.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator, Sequence
from http.client import HTTPException
from queue import Empty, SimpleQueue
from typing import Literal
from urllib.error import HTTPError
from urllib.parse import urlsplit, urlunsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from pogfast.config.schema import Secret
from pogfast.errors import PogfastError, UsageError
from pogfast.runs.keys import credential_path
from pogfast.runs.records import Record
from pogfast.system.environment import known

PATIENCE = 10.0  # seconds of each of at most two tries: a run must not wait for who is told of it
TRIES = 2
MAX_SECRET = 4096  # bytes of a file with a URL
MAX_QUOTED = 10  # problems in a summary


class _NoRedirects(HTTPRedirectHandler):
    """A secret is not sent to where a server points."""

    def redirect_request(self, *arguments: object, **more: object) -> None:
        return None


def reveal(secret: Secret) -> str:
    """Returns the URL. Raises UsageError, in which it is not."""
    if isinstance(secret.given, str):
        return secret.given
    assert isinstance(secret.given, dict)
    [(place, name)] = secret.given.items()
    if place == "variable":
        text = known().get(name, "")
        if not text:
            raise UsageError(f"the variable {name} is not set")
        return text.strip()
    path = secret.file or credential_path(name)
    try:
        with open(path, "rb") as file:
            raw = file.read(MAX_SECRET + 1)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    if not raw.strip() or len(raw) > MAX_SECRET or not raw.isascii():
        raise UsageError(f"{path} has no URL")
    return raw.decode().strip()


def ping(secret: Secret, kind: Literal["start", "success", "fail"], body: str) -> None:
    """Sends a ping. Raises PogfastError and UsageError."""
    said = "it is no URL"
    with contextlib.suppress(ValueError):
        parts = urlsplit(reveal(secret))
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError("it is not an address of the web, https://HOST/...")
        more = "" if kind == "success" else f"/{kind}"
        url = urlunsplit(parts._replace(path=parts.path.rstrip("/") + more))
        for _ in range(TRIES):
            said = _answer(url, body)
            if not said:
                return
    raise PogfastError(said)


def _answer(url: str, body: str) -> str:
    """Returns why a request failed, "" if it did not. A server that answers byte by byte is not waited for, either: the
    timeout of a request is one of each byte."""
    told: SimpleQueue[str] = SimpleQueue()
    threading.Thread(target=lambda: told.put(_sent(url, body)), name="pogfast-ping", daemon=True).start()
    try:
        return told.get(timeout=2 * PATIENCE)
    except Empty:
        return "the server does not end its answer"


def _sent(url: str, body: str) -> str:
    """Returns why a request failed, "" if it did not. Raises nothing: a traceback would have the URL in it."""
    request = Request(url, body.encode(errors="replace"), {"Content-Type": "text/plain; charset=utf-8"}, method="POST")
    try:
        with build_opener(_NoRedirects).open(request, timeout=PATIENCE):
            return ""
    except HTTPError as error:
        error.close()
        return f"the server answered {error.code}"
    except OSError as error:  # among them URLError, whose reason is another
        reason = getattr(error, "reason", error)
        return (reason.strerror if isinstance(reason, OSError) else None) or type(reason).__name__
    except (HTTPException, ValueError) as error:
        return type(error).__name__


def notify(secrets: Sequence[Secret], record: Record) -> None:
    """Sends a message about a run. Raises PogfastError, UsageError, and ImportError if apprise is not installed."""
    try:
        import apprise
    except ImportError as error:
        raise PogfastError("apprise is not installed: pip install '.[notify]'") from error
    failed = 0
    for secret in secrets:
        url = reveal(secret)
        with _unlogged():
            sender = apprise.Apprise()
            sent = sender.add(url) and sender.notify(body=summary(record), title=title(record))
        failed += not sent
    if failed:
        raise PogfastError(
            f"{failed} of {len(secrets)} was not accepted" if len(secrets) > 1 else "it was not accepted"
        )


@contextlib.contextmanager
def _unlogged() -> Iterator[None]:
    """Has nothing logged: apprise logs URLs, and so does each of the libraries that it sends messages with."""
    before = logging.root.manager.disable
    logging.disable()
    try:
        yield
    finally:
        logging.disable(before)


def title(record: Record) -> str:
    return f"pogfast on {record.host}: {record.profile}: {record.outcome}"


def summary(record: Record) -> str:
    """Returns what came of a run in a few lines."""
    lines = [f"{record.profile}: {record.outcome} after {record.seconds:.0f} s, exit code {record.exit_code}"]
    lines += [record.message] if record.message else []
    for verb in record.verbs:
        what = f"{verb.verb} {verb.source or ' to '.join(verb.stores)}"
        lines.append(f"{what}: {'skipped' if verb.skipped else verb.error or f'exit code {verb.exit_code}'}")
    lines += [problem.message for problem in record.problems[:MAX_QUOTED]]
    return "\n".join(lines) + "\n"

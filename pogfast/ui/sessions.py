"""Who is signed in, and what each browser has given: keys for reading, and ticked names.

Everything is in memory only and gone when the server ends. A sign-in token works once. Keys are forgotten when the user
says so, after half an hour without a request, or, if they were given for one restore, when that has ended.
"""

from __future__ import annotations

import hmac
import secrets
import threading
import time
from dataclasses import dataclass, field

from pogfast.keys import Key

KEYS_FOR = 30 * 60.0  # seconds without a request after which keys are forgotten
PATIENCE = 5.0  # seconds that a password waits for those that are being tried
WRONG_WAITS = 1.0  # seconds that a wrong password costs


@dataclass(frozen=True)
class GivenKey:
    """A key, and the options of a command line that would give it: none for a password, which a command asks for."""

    key: Key = field(repr=False)
    options: tuple[str, ...] = ()
    once: bool = False  # to be forgotten after one restore


class Session:
    """What one browser has given."""

    def __init__(self) -> None:
        self.keys: dict[str, GivenKey] = {}  # by store
        self.ticks: dict[tuple[str, str], dict[str, None]] = {}  # (store, archive) -> paths
        self.used = time.monotonic()
        self._lock = threading.Lock()

    def touch(self) -> None:
        """Notes a request."""
        self.expire()
        self.used = time.monotonic()

    def expire(self) -> bool:
        """Forgets keys that have not been used for long; returns True if there were any."""
        with self._lock:
            expired = bool(self.keys) and time.monotonic() - self.used > KEYS_FOR
            if expired:
                self.keys.clear()
            return expired

    def ticked(self, store: str, archive: str) -> dict[str, None]:
        """Returns the paths that are ticked in an archive, to be changed."""
        return self.ticks.setdefault((store, archive), {})

    def forget(self, store: str | None = None) -> None:
        """Forgets the key of a store, or all."""
        with self._lock:
            if store is None:
                self.keys.clear()
            else:
                self.keys.pop(store, None)


class Sessions:
    """The sessions by their cookies, and the tokens and the password that begin them."""

    def __init__(self, password: str | None = None) -> None:
        self._sessions: dict[str, Session] = {}
        self._tokens: set[str] = set()
        self._password = password
        self._lock = threading.Lock()
        self._turn = threading.Lock()  # wrong passwords wait one behind the other

    @property
    def wants_password(self) -> bool:
        return self._password is not None

    def new_token(self) -> str:
        """Returns a token that signs in once."""
        token = secrets.token_urlsafe(32)
        with self._lock:
            self._tokens.add(token)
        return token

    def begin(self, token: str) -> str | None:
        """Spends a token and returns the cookie of a new session, None for a token that is wrong or spent."""
        with self._lock:
            found = [
                each for each in self._tokens if hmac.compare_digest(each.encode(), token.encode("utf-8", "replace"))
            ]
            if not found:
                return None
            self._tokens.discard(found[0])
            return self._new()

    def begin_with_password(self, given: str) -> str | None:
        """Returns the cookie of a new session, None for a wrong password, after a second, and if many are tried."""
        if not self._turn.acquire(timeout=PATIENCE):
            return None
        try:
            if self._password is not None and hmac.compare_digest(
                self._password.encode("utf-8", "surrogateescape"), given.encode("utf-8", "replace")
            ):
                with self._lock:
                    return self._new()
            time.sleep(WRONG_WAITS)
            return None
        finally:
            self._turn.release()

    def _new(self) -> str:
        cookie = secrets.token_urlsafe(32)
        self._sessions[cookie] = Session()
        return cookie

    def find(self, cookie: str) -> Session | None:
        with self._lock:
            session = self._sessions.get(cookie)
        if session is not None:
            session.touch()
        return session

    def expire(self) -> bool:
        """Forgets keys that have not been used for long; returns True if there were any."""
        with self._lock:
            sessions = list(self._sessions.values())
        return sum(session.expire() for session in sessions) > 0

    def forget_keys(self) -> None:
        """Forgets the keys of all sessions, when the server ends."""
        for session in list(self._sessions.values()):
            session.forget()

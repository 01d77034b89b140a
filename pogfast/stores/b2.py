"""Backblaze B2 by its native protocol, through b2sdk. Knows objects below a bucket and a prefix, and no blobs.

The application key comes from B2_APPLICATION_KEY_ID and B2_APPLICATION_KEY, else from the login of the `b2` command, as
with pogcli. b2sdk makes each request once, and caches upload URLs. An object is deleted with all its versions.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import logging
import math
import os
import sqlite3
import tempfile
import threading
import time
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from pogfast.errors import NoSuchArchive, StoreError, UsageError
from pogfast.stores.concurrency import Concurrency, RequestPool
from pogfast.stores.limits import Limits, Transfer
from pogfast.stores.service import (
    AccessDenied,
    BasicService,
    Body,
    InvalidResponse,
    LimitedBody,
    NoSuchBucket,
    ObjectInfo,
    TransientError,
    extent,
    seconds_to_wait,
    skip,
)

try:
    import b2sdk.v2 as b2
    import b2sdk.v2.exception as failures
    from requests.exceptions import RequestException
    from urllib3.exceptions import HTTPError
except ImportError as error:
    raise UsageError("B2 needs b2sdk, which is not installed", hint="pip install '.[b2]' in the source") from error

if TYPE_CHECKING:
    from pogfast._engine import Buffer

# b2sdk warns about unknown errors although it raises them, too.
warnings.filterwarnings("ignore", module="b2sdk")
logging.getLogger("b2sdk").addHandler(logging.NullHandler())

PAGE = 1000  # objects in one response of a listing
FAR = (1 << 62) - 1  # beyond the last byte of any object
SMALL_PAGE = 10  # versions that are requested at a time if they are of one object
REALM = "production"
# Errors that another attempt would not change: what they mean, and the hint.
FINAL: list[tuple[Any, str, str]] = [
    (failures.NonExistentBucket, "there is no such bucket", "make it first, or look at its name"),
    (failures.StorageCapExceeded, "the account's cap is used up", "raise it: what is stored is kept"),
    (failures.CapExceeded, "the account's cap is used up", "raise it, or wait for tomorrow: what is stored is kept"),
    (failures.RestrictedBucket, "the application key is for another bucket", ""),
    (failures.ClockSkew, "the clock of this machine is wrong", "set the clock"),
    (
        failures.MissingAccountData,
        "no credentials for B2",
        "set B2_APPLICATION_KEY_ID and B2_APPLICATION_KEY, or log in with the b2 command",
    ),
]
# Transient errors that b2sdk itself would not retry: a renewed token that was refused, an altered body.
PASSING = (
    failures.InvalidAuthToken,
    failures.BadUploadUrl,
    failures.BrokenPipe,
    failures.ConnectionReset,
    failures.ChecksumMismatch,
    failures.Conflict,
    failures.InvalidJsonResponse,
)


class B2Service(BasicService):
    """A bucket, or the objects below a prefix in it."""

    def __init__(
        self,
        bucket: str,
        prefix: str,
        *,
        realm: str | None,
        profile: str | None = None,
        concurrency: Concurrency,
        limits: Limits,
    ) -> None:
        """`prefix` has no / at its ends. `realm` is a URL; None: Backblaze's own. `profile` is one of the b2 command's;
        None: the key in the environment, else that command's login. `concurrency` says how many objects are
        deleted at a time. Makes no request."""
        self.concurrency = concurrency
        self.limits = limits
        self.prefix = f"{prefix}/" if prefix else ""
        self.label = f"b2://{bucket}" + (f"/{prefix}" if prefix else "")
        self.identity = f"b2:{realm or REALM}/{bucket}/{prefix}"
        self.requests: Counter[str] = Counter()
        self._name = bucket
        self._realm = realm or REALM
        self._profile = profile
        self._session: Any = None
        self._bucket: Any = None
        self._lock = threading.Lock()

    def _connected(self) -> Any:
        """Returns b2sdk's session, and logs in at the first request. Raises b2sdk's errors."""
        with self._lock:
            if self._session is None:
                api = _authorized(self._realm, self._profile)
                self._bucket = api.get_bucket_by_name(self._name)
                self._session = api.session
            return self._session

    def put(self, path: str, data: Buffer, *, absent: bool) -> None:
        self.requests["put"] += 1
        with self._errors(path):
            self._connected()
            self._bucket.upload(_Upload(bytes(data), self.limits.sending()), self.prefix + path)

    def open(self, path: str, start: int, end: int | None = None) -> Body | None:
        self.requests["get"] += 1
        try:
            with self._errors(path):
                session = self._connected()
                url = session.get_download_url_by_name(self._name, self.prefix + path)
                wanted = (start, FAR if end is None else end - 1) if start or end is not None else None
                answer = session.download_file_from_url(url, range_=wanted)
                return _B2Body(self, path, answer.__enter__(), start, end)
        except _Gone:
            return None

    def size(self, path: str) -> int | None:
        found, _ = self._page(path, "", 1)
        return found[0].size if found and found[0].path == path else None

    def page(self, prefix: str, token: str, *, deep: bool, start: str = "") -> tuple[list[ObjectInfo], str]:
        found, after = self._page(prefix, token or (self.prefix + start if start else ""), PAGE)
        if deep:
            return found, after
        flat = list(itertools.takewhile(lambda each: "/" not in each.path[len(prefix) :], found))
        if len(flat) == len(found):
            return flat, after
        # The protocol lists everything below a prefix; continue with the first name after this folder.
        folder = found[len(flat)].path
        return flat, f"{self.prefix}{folder[: folder.index('/', len(prefix))]}0"

    def _page(self, prefix: str, token: str, count: int) -> tuple[list[ObjectInfo], str]:
        start = self.prefix + prefix
        self.requests["list"] += 1
        with self._errors():
            answer = self._connected().list_file_names(self._bucket.id_, token or start, count, start)
            found = [
                ObjectInfo(item["fileName"].removeprefix(self.prefix), max(item["contentLength"], 0), _seconds(item))
                for item in answer["files"]
                if item["fileName"].startswith(start)
            ]
            return found, answer["nextFileName"] or ""

    def delete(self, paths: Iterable[str]) -> None:
        """Deletes every version: hidden ones would still be paid for. One page of versions serves all names in it, and
        versions are deleted several at a time."""
        self._delete_versions(paths, math.inf, lambda: True)

    def delete_old(self, found: Sequence[ObjectInfo], before: float, go_on: Callable[[], bool]) -> list[str]:
        stay = self._delete_versions([each.path for each in found], before, go_on)
        return [each.path for each in found if self.prefix + each.path not in stay]

    def _delete_versions(self, paths: Iterable[str], before: float, go_on: Callable[[], bool]) -> set[str]:
        """Deletes the versions that were written before some time, and returns the names of which one is left."""
        names = sorted(self.prefix + path for path in paths)
        stay: set[str] = set()
        deleted: list[tuple[str, Future[bool]]] = []
        with RequestPool(self.concurrency, "pogfast-delete") as threads:
            for name, version, written in self._versions(names):
                if written < before:
                    deleted.append((name, threads.submit(self._delete, name, version, go_on)))
                else:
                    stay.add(name)
        return stay.union(name for name, is_gone in deleted if not is_gone.result())  # all have been tried

    def _versions(self, names: list[str]) -> Iterator[tuple[str, str, float]]:
        """Yields (name, version, when it was written) for the versions of sorted names. Raises StoreError."""
        wanted = deque(names)
        start: tuple[str, str | None] | None = None
        count, asked = PAGE, set()
        while wanted:
            start = start or (wanted[0], None)
            if start in asked:
                raise StoreError(f"{self.label}: the service's listing repeats itself without end")
            asked.add(start)
            found, last = self._page_of_versions(start, count, _common(names[0], names[-1]))
            here = len(wanted)
            for name, version, written in found:
                while wanted and wanted[0] < name:
                    wanted.popleft()
                if wanted and wanted[0] == name:
                    yield name, version, written
            if last is None:
                return
            while wanted and wanted[0] < last[0]:
                wanted.popleft()
            count = PAGE if here - len(wanted) > 1 else SMALL_PAGE  # names that are far apart share no page
            start = last if wanted and wanted[0] == last[0] else None

    def _page_of_versions(
        self, start: tuple[str, str | None], count: int, prefix: str
    ) -> tuple[list[tuple[str, str, float]], tuple[str, str | None] | None]:
        self.requests["list"] += 1
        with self._errors():
            answer = self._connected().list_file_versions(self._bucket.id_, *start, count, prefix)
            found = [(item["fileName"], item["fileId"], _seconds(item)) for item in answer["files"]]
            return found, (answer["nextFileName"], answer["nextFileId"]) if answer["nextFileName"] else None

    def _delete(self, name: str, version: str, go_on: Callable[[], bool]) -> bool:
        """Deletes a version; returns True if it is gone."""
        if not go_on():
            return False
        self.requests["delete"] += 1
        with self._errors(name.removeprefix(self.prefix)), contextlib.suppress(failures.FileNotPresent):
            self._connected().delete_file_version(version, name)
        return True

    def close(self) -> None:
        """Does nothing: b2sdk has nothing to close."""

    @contextlib.contextmanager
    def _errors(self, path: str = "") -> Iterator[None]:
        """Turns b2sdk's errors into ours, one line each. Raises TransientError for transient ones."""
        try:
            yield
        except failures.B2Error as error:
            raise self._error(error, path) from error
        except (RequestException, HTTPError, OSError) as error:
            raise self._unreachable(error) from error
        except (LookupError, TypeError, ValueError, AssertionError) as error:
            where = f"{self.label}: {path}" if path else self.label
            raise InvalidResponse(f"{where}: invalid response: {_one_line(error)[:200]}") from error

    def _error(self, error: Any, path: str) -> StoreError:
        where = f"{self.label}: {path}" if path else self.label
        if isinstance(error, failures.MaxRetriesExceeded) and error.exception_info_list:  # of an upload
            error = error.exception_info_list[-1]
        if isinstance(error, failures.UnsatisfiableRange):
            return InvalidResponse(f"{where} ends before the requested byte")
        for kinds, meaning, hint in FINAL:
            if isinstance(error, kinds):
                if kinds is failures.NonExistentBucket:
                    return NoSuchBucket(f"{self.label}: {meaning}", hint)
                return StoreError(f"{where}: {meaning}", hint)
        if isinstance(error, failures.FileNotPresent):
            return _Gone(f"{where}: there is no such object")
        if isinstance(error, failures.Unauthorized) and not isinstance(error, failures.InvalidAuthToken):
            hint = "the application key is wrong or lacks the capability"
            return AccessDenied(f"{where}: access denied: {_one_line(error)}", hint)
        if isinstance(error, failures.B2ConnectionError | failures.UnknownHost | failures.B2RequestTimeout):
            return self._unreachable(error)
        if error.should_retry_http() or error.should_retry_upload() or isinstance(error, PASSING):
            after = seconds_to_wait(str(getattr(error, "retry_after_seconds", None) or ""))
            said = f"{where}: the service is busy: {_one_line(error)}"
            slow_down = isinstance(error, failures.TooManyRequests)
            return TransientError(said, "try again later", answered=True, after=after, slow_down=slow_down)
        return StoreError(f"{where}: {_one_line(error)}")

    def _unreachable(self, error: Exception) -> StoreError:
        said = _one_line(error)
        if "CERTIFICATE_VERIFY_FAILED" in said or "certificate verify failed" in said:
            return StoreError(f"{self.label}: the service's certificate is not trusted: {said}", "is the clock right?")
        return TransientError(f"cannot reach {self.label}: {said}", "check the network connection")


class _Gone(StoreError, NoSuchArchive):
    """The object is missing."""


class _Upload(b2.UploadSourceBytes):  # type: ignore[misc]
    """Bytes that are read no faster than a limit allows."""

    def __init__(self, data: bytes, transfer: Transfer) -> None:
        super().__init__(data)
        self.transfer = transfer

    def open(self) -> io.BytesIO:
        return _Reader(self.data_bytes, self.transfer)


class _Reader(io.BytesIO):
    def __init__(self, data: bytes, transfer: Transfer) -> None:
        super().__init__(data)
        self.transfer = transfer

    def read(self, size: int | None = -1) -> bytes:
        """Returns as many bytes as were asked for: to b2sdk fewer are the end."""
        piece = super().read(size)
        self.transfer.spend(len(piece))
        return piece


class _B2Body(LimitedBody):
    def __init__(self, service: B2Service, path: str, response: Any, start: int, end: int | None) -> None:
        super().__init__(service.limits.receiving())
        self.service, self.path, self.response = service, path, response
        said = response.headers.get("Content-Length"), response.headers.get("Content-Range")
        try:
            first, self.size = extent(*said, start, end, status=response.status_code)
            if self.size is None or start <= self.size:  # else the size tells
                skip(self, start - first)
        except BaseException:
            self.close()
            raise

    def _readinto(self, view: memoryview) -> int:
        with self.service._errors(self.path):
            piece = self.response.raw.read(len(view))
        view[: len(piece)] = piece
        return len(piece)

    def close(self) -> None:
        self.response.close()


def _authorized(realm: str, profile: str | None) -> Any:
    key_id, key = os.environ.get("B2_APPLICATION_KEY_ID"), os.environ.get("B2_APPLICATION_KEY")
    if profile or not key_id or not key:
        realm, key_id, key = _logged_in(realm, profile)
    api = b2.B2Api(b2.InMemoryAccountInfo())
    _once(api)
    api.authorize_account(realm, key_id, key)
    return api


def _logged_in(realm: str, profile: str | None) -> tuple[str, str, str]:
    """Returns (realm, key id, key) of the `b2` command's login. Copies its file first: b2sdk migrates what it opens to
    its own release, and an older b2 command could no longer read it. Raises MissingAccountData."""
    info = b2.SqliteAccountInfo
    path = info.get_user_account_info_path(profile=profile)  # raises nothing; the file may not be there
    with tempfile.TemporaryDirectory(prefix="pogfast-") as directory:
        copy = os.path.join(directory, "account_info")
        try:
            theirs = sqlite3.connect(f"file:{quote(os.path.expanduser(path))}?mode=ro", uri=True)
            with contextlib.closing(theirs), contextlib.closing(sqlite3.connect(copy)) as ours:
                theirs.backup(ours)
        except sqlite3.Error as error:
            raise failures.MissingAccountData(str(error)) from error
        account = info(copy)
        realm = realm if realm != REALM else account.get_realm()
        return realm, account.get_application_key_id(), account.get_application_key()


def _once(api: Any) -> None:
    """Turns off b2sdk's retries: RemoteStore retries, reports it, and can be stopped while it waits."""
    http = api.session.raw_api.b2_http
    http._translate_and_retry = lambda act, tries, post_params=None: http._translate_errors(act, post_params)
    api.services.upload_manager.MAX_UPLOAD_ATTEMPTS = 1


def _common(first: str, last: str) -> str:
    """Returns the common prefix of two names."""
    together = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
    return "".join(letter for letter, _ in together)


def _seconds(item: dict[str, Any]) -> float:
    """Returns when an object in a listing was written, in seconds since 1970. An invalid time becomes the present: an
    object of unknown age must not count as old."""
    stamp = item.get("uploadTimestamp")
    return stamp / 1000 if isinstance(stamp, int | float) and abs(stamp) < 1e15 else time.time()


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())

"""Backblaze B2 by its own protocol, through b2sdk. Knows objects below a bucket and a prefix, and no blob.

An application key comes from B2_APPLICATION_KEY_ID and B2_APPLICATION_KEY, else from where the `b2` command keeps its
own, as with pogcli. b2sdk tries again what it can, and keeps upload URLs. What is deleted goes with all its versions.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from pogfast.errors import NoSuchArchive, StoreError, UsageError
from pogfast.stores.remote import Body, Found, NoSuchBucket, Plain, TryAgain

try:
    import b2sdk.v2 as b2
    import b2sdk.v2.exception as failures
    from requests.exceptions import RequestException
    from urllib3.exceptions import HTTPError
except ImportError as error:
    raise UsageError("B2 needs b2sdk, which is not installed", hint="pip install '.[b2]' in the source") from error

if TYPE_CHECKING:
    from pogfast._engine import Buffer

PAGE = 1000  # objects in one answer of a listing
FAR = (1 << 62) - 1  # beyond every object's last byte
REALM = "production"


class B2Service(Plain):
    """A bucket, or what is below a prefix in it."""

    def __init__(self, bucket: str, prefix: str, *, realm: str | None, profile: str | None = None) -> None:
        """`prefix` is without a / at its ends; `realm` a URL, None: Backblaze's own; `profile` one of the b2 command's,
        None: the key of the environment, else what that command has logged in with. Raises StoreError and
        NoSuchArchive."""
        self.prefix = f"{prefix}/" if prefix else ""
        self.label = f"b2://{bucket}" + (f"/{prefix}" if prefix else "")
        self.identity = f"b2:{realm or REALM}/{bucket}/{prefix}"
        self.requests: Counter[str] = Counter()
        with self._errors():
            self.api = _authorized(realm or REALM, profile)
            self.bucket = self.api.get_bucket_by_name(bucket)
            self.session = self.api.session

    def put(self, path: str, data: Buffer, *, absent: bool) -> None:
        self.requests["put"] += 1
        with self._errors(path):
            self.bucket.upload_bytes(bytes(data), self.prefix + path)

    def open(self, path: str, start: int) -> Body | None:
        self.requests["get"] += 1
        try:
            with self._errors(path):
                url = self.session.get_download_url_by_name(self.bucket.name, self.prefix + path)
                answer = self.session.download_file_from_url(url, range_=(start, FAR) if start else None)
                return _B2Body(self, path, answer.__enter__())
        except _Gone:
            return None

    def size(self, path: str) -> int | None:
        return next((found.size for found in self._listed(path, 1, deep=True) if found.path == path), None)

    def list(self, prefix: str, *, deep: bool) -> Iterator[Found]:
        return self._listed(prefix, PAGE, deep=deep)

    def _listed(self, prefix: str, page: int, *, deep: bool) -> Iterator[Found]:
        start: str | None = self.prefix + prefix
        while start is not None:
            self.requests["list"] += 1
            with self._errors():
                answer = self.session.list_file_names(self.bucket.id_, start, page, self.prefix + prefix)
            start = answer["nextFileName"]
            for item in answer["files"]:
                path = item["fileName"].removeprefix(self.prefix)
                if not deep and "/" in path[len(prefix) :]:
                    # The protocol lists all that is below; the next name that is not below this folder is asked for.
                    folder = path[: path.index("/", len(prefix))]
                    start = f"{self.prefix}{folder}0"
                    break
                yield Found(path, item["contentLength"], item["uploadTimestamp"] / 1000)
            if page == 1:
                return

    def delete(self, paths: Iterable[str]) -> None:
        for path in paths:
            self._delete(self.prefix + path)

    def _delete(self, name: str) -> None:
        """Every version: a hidden one would still be paid for."""
        with self._errors(name):
            self.requests["list"] += 1
            answer = self.session.list_file_versions(self.bucket.id_, name, None, PAGE, name)
            for item in answer["files"]:
                if item["fileName"] == name:
                    self.requests["delete"] += 1
                    with contextlib.suppress(failures.FileNotPresent):
                        self.session.delete_file_version(item["fileId"], name)

    def close(self) -> None:
        """b2sdk keeps nothing that would have to be closed."""

    @contextlib.contextmanager
    def _errors(self, path: str = "") -> Iterator[None]:
        """b2sdk's failures as ours: one line each. Raises TryAgain for what may pass."""
        place = f"{self.label}: {path}" if path else self.label
        try:
            yield
        except failures.NonExistentBucket as error:
            raise NoSuchBucket(
                f"{self.label}: there is no such bucket", "make it first, or look at its name"
            ) from error
        except failures.FileNotPresent as error:
            raise _Gone(f"{place}: there is no such object") from error
        except failures.CapExceeded as error:
            raise StoreError(f"{place}: the account's cap is used up", "raise it: what is stored is kept") from error
        except failures.RestrictedBucket as error:
            raise StoreError(f"{place}: the application key is for another bucket") from error
        except failures.Unauthorized as error:
            hint = "the application key lacks the right to do this, or is wrong"
            raise StoreError(f"{place}: access denied: {_one_line(error)}", hint) from error
        except failures.ClockSkew as error:
            raise StoreError(f"{place}: the clock of this machine is wrong", "set the clock") from error
        except failures.TooManyRequests as error:
            raise TryAgain(f"{place}: the service is busy", "try again later") from error
        except failures.MissingAccountData as error:
            hint = "set B2_APPLICATION_KEY_ID and B2_APPLICATION_KEY, or log in with the b2 command"
            raise StoreError(f"{self.label}: there are no credentials for B2", hint) from error
        except failures.B2Error as error:
            if error.should_retry_http():
                raise TryAgain(f"cannot reach {place}: {_one_line(error)}", "is the network there?") from error
            raise StoreError(f"{place}: {_one_line(error)}") from error
        except (RequestException, HTTPError, OSError) as error:
            raise TryAgain(f"cannot reach {place}: {_one_line(error)}", "is the network there?") from error


class _Gone(StoreError, NoSuchArchive):
    """There is no such object."""


class _B2Body:
    def __init__(self, service: B2Service, path: str, response: Any) -> None:
        self.service, self.path, self.response = service, path, response
        given = response.headers.get("Content-Range")
        self.size = int(given.rpartition("/")[2] if given else response.headers["Content-Length"])

    def readinto(self, view: memoryview) -> int:
        with self.service._errors(self.path):
            piece = self.response.raw.read(len(view))
        view[: len(piece)] = piece
        return len(piece)

    def close(self) -> None:
        self.response.close()


def _authorized(realm: str, profile: str | None) -> Any:
    key_id, key = os.environ.get("B2_APPLICATION_KEY_ID"), os.environ.get("B2_APPLICATION_KEY")
    if profile or not key_id or not key:
        api = b2.B2Api(b2.SqliteAccountInfo(profile=profile))
        api.account_info.get_account_id()  # raises where the b2 command has not logged in
        return api
    api = b2.B2Api(b2.InMemoryAccountInfo())
    api.authorize_account(realm, key_id, key)
    return api


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())

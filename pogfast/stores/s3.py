"""S3 and what speaks its protocol, through boto3. Knows objects below a bucket and a prefix, and no blob.

Credentials, profiles and regions come from where boto3 finds them. A blob is one PUT from the memory that it lies in.
No condition and no checksum of the server's is relied on, since some servers ignore both; the CRT transfer is never
used, since it ignores the endpoint.
"""

from __future__ import annotations

import contextlib
import io
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from pogfast.errors import StoreError, UsageError
from pogfast.stores.remote import Body, Found, NoSuchBucket, TryAgain

try:
    import boto3
    import botocore.exceptions as failures
    from botocore.config import Config
    from urllib3.exceptions import HTTPError
except ImportError as error:
    raise UsageError("S3 needs boto3, which is not installed", hint="pip install 'pogfast[s3]'") from error

if TYPE_CHECKING:
    from pogfast._engine import Buffer

PAGE = 1000  # objects in one answer of a listing, or named in one request to delete
PART = 1 << 30  # larger objects are sent in parts of so many bytes; S3 takes no more than 5 GiB in one
CONNECT_SECONDS = 10
READ_SECONDS = 60  # that a connection may be silent

# What a service says when it cannot do it now.
BUSY = {"SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout", "Throttling", "ThrottlingException",
        "RequestLimitExceeded", "OperationAborted", "500", "502", "503", "504"}  # fmt: skip
# What it says of a request that will not get better: what that means, and what to do about it.
REFUSED = {
    "InvalidAccessKeyId": ("the access key is not known there", "look at AWS_ACCESS_KEY_ID or the profile"),
    "SignatureDoesNotMatch": ("the secret key is wrong", "look at AWS_SECRET_ACCESS_KEY or the profile"),
    "ExpiredToken": ("the session's credentials have expired", "log in again"),
    "InvalidToken": ("the session token is not valid", "look at AWS_SESSION_TOKEN or the profile"),
    "AccessDenied": ("access denied", "the credentials lack the right to do this, or are wrong"),
    "403": ("access denied", "the credentials lack the right to do this, or are wrong"),
    "RequestTimeTooSkewed": ("the clock of this machine is wrong", "set the clock"),
    "AuthorizationHeaderMalformed": ("the bucket is in another region", "set AWS_REGION to the bucket's"),
    "PermanentRedirect": ("the bucket is in another region, or behind another endpoint", "set AWS_REGION"),
    "301": ("the bucket is in another region, or behind another endpoint", "set AWS_REGION to the bucket's"),
    "InvalidStorageClass": ("there is no such storage class", "see --storage-class"),
    "InvalidObjectState": ("the object is in cold storage", "thaw it first"),
    "QuotaExceeded": ("the quota is used up", "make room and run it again: what is stored is kept"),
}
GONE = {"NoSuchKey", "404", "NotFound"}


class S3Service:
    """A bucket, or what is below a prefix in it."""

    def __init__(
        self, bucket: str, prefix: str, *, endpoint: str | None, storage_class: str | None, parallel: int
    ) -> None:
        """`prefix` is without a / at its ends. Raises StoreError and UsageError; no request is made."""
        self.bucket = bucket
        self.prefix = f"{prefix}/" if prefix else ""
        self.label = f"s3://{bucket}" + (f"/{prefix}" if prefix else "")
        self.storage_class = storage_class
        self.requests: Counter[str] = Counter()
        with self._errors():
            self.client: Any = boto3.client("s3", endpoint_url=endpoint, config=_config(parallel))
        self.identity = f"{self.client.meta.endpoint_url}/{bucket}/{prefix}"
        self.client.meta.events.register("before-send.s3", self._count)

    def put(self, path: str, data: Buffer) -> None:
        # Manifests are read whenever anything is; only what they name may lie in a colder place.
        more = {"StorageClass": self.storage_class} if self.storage_class and path.startswith("data/") else {}
        with self._errors(path):
            if len(data) > PART:
                self._put_parts(path, memoryview(data), more)
            else:
                self.client.put_object(Bucket=self.bucket, Key=self.prefix + path, Body=_Reader(data), **more)

    def _put_parts(self, path: str, data: memoryview, more: dict[str, str]) -> None:
        where = {"Bucket": self.bucket, "Key": self.prefix + path}
        upload = self.client.create_multipart_upload(**where, **more)["UploadId"]
        try:
            parts = []
            for number, start in enumerate(range(0, len(data), PART), 1):
                part = self.client.upload_part(
                    **where, UploadId=upload, PartNumber=number, Body=_Reader(data[start : start + PART])
                )
                parts.append({"ETag": part["ETag"], "PartNumber": number})
            self.client.complete_multipart_upload(**where, UploadId=upload, MultipartUpload={"Parts": parts})
        except BaseException:
            with contextlib.suppress(failures.ClientError, failures.BotoCoreError):
                self.client.abort_multipart_upload(**where, UploadId=upload)
            raise

    def open(self, path: str, start: int) -> Body | None:
        more = {"Range": f"bytes={start}-"} if start else {}
        try:
            with self._errors(path):
                answer = self.client.get_object(Bucket=self.bucket, Key=self.prefix + path, **more)
                return _S3Body(self, path, answer, start)
        except _Gone:
            return None

    def size(self, path: str) -> int | None:
        # A listing, since it needs no right to read.
        for found in self._pages(path, more={"MaxKeys": 1}):
            return found.size if found.path == path else None
        return None

    def list(self, prefix: str, *, deep: bool) -> Iterator[Found]:
        return self._pages(prefix, more={} if deep else {"Delimiter": "/"})

    def _pages(self, prefix: str, more: dict[str, Any]) -> Iterator[Found]:
        pages = self.client.get_paginator("list_objects_v2")
        with self._errors():
            for page in pages.paginate(Bucket=self.bucket, Prefix=self.prefix + prefix, **more):
                for item in page.get("Contents", ()):
                    modified = item["LastModified"].timestamp()
                    yield Found(item["Key"].removeprefix(self.prefix), item["Size"], modified)

    def delete(self, paths: Iterable[str]) -> None:
        gone = [{"Key": self.prefix + path} for path in paths]
        for start in range(0, len(gone), PAGE):
            wanted = {"Objects": gone[start : start + PAGE], "Quiet": True}
            with self._errors():
                answer = self.client.delete_objects(Bucket=self.bucket, Delete=wanted)
            for failed in answer.get("Errors", ()):
                if failed["Code"] not in GONE:
                    raise self._error(failed["Code"], failed.get("Message", ""), failed["Key"])

    def close(self) -> None:
        self.client.close()

    # ---- what is counted, and what goes wrong ----

    def _count(self, request: Any, **_: object) -> None:
        """Every request that goes out, those that are sent again as well."""
        words = {"list-type=2": "list", "?delete": "delete"}
        self.requests[next((kind for word, kind in words.items() if word in request.url), request.method.lower())] += 1

    @contextlib.contextmanager
    def _errors(self, path: str = "") -> Iterator[None]:
        """boto3's failures as ours: one line each. Raises TryAgain for what may pass."""
        try:
            yield
        except failures.ClientError as error:
            said = error.response.get("Error", {})
            raise self._error(str(said.get("Code", "")), str(said.get("Message", "")), path) from error
        except (failures.NoCredentialsError, failures.PartialCredentialsError) as error:
            hint = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
            raise StoreError(f"{self.label}: there are no credentials for S3", hint) from error
        except (failures.ProfileNotFound, failures.NoRegionError, failures.InvalidRegionError, ValueError) as error:
            hint = "look at AWS_PROFILE, AWS_REGION and the endpoint"
            raise StoreError(f"{self.label}: {_one_line(error)}", hint) from error
        except failures.ParamValidationError as error:
            raise UsageError(f"{self.label}: {_one_line(error)}") from error
        except (failures.BotoCoreError, HTTPError, OSError) as error:
            raise TryAgain(f"cannot reach {self.label}: {_one_line(error)}", "is the network there?") from error

    def _error(self, code: str, message: str, path: str) -> StoreError:
        place = f"{self.label}: {path}" if path else self.label
        if code in GONE:
            return _Gone(f"{place}: there is no such object")
        if code == "NoSuchBucket":
            return NoSuchBucket(f"{self.label}: there is no such bucket", "make it first, or look at its name")
        if code in BUSY:
            return TryAgain(f"{place}: the service is busy: {code} {message}".rstrip(), "try again later")
        said, hint = REFUSED.get(code, (f"{code} {message}".strip(), ""))
        return StoreError(f"{place}: {said}", hint)


class _Gone(StoreError):
    """There is no such object."""


class _Reader(io.RawIOBase):
    """A view as a file, so that what is sent is read from the memory that it lies in; it can be sent again."""

    def __init__(self, data: Buffer) -> None:
        self.data = memoryview(data)
        self.at = 0

    def __len__(self) -> int:
        return len(self.data)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int, whence: int = 0) -> int:
        self.at = max(0, offset + (0, self.at, len(self.data))[whence])
        return self.at

    def read(self, n: int = -1) -> bytes:
        end = len(self.data) if n < 0 else self.at + n
        piece = bytes(self.data[self.at : end])
        self.at += len(piece)
        return piece


class _S3Body:
    def __init__(self, service: S3Service, path: str, answer: dict[str, Any], start: int) -> None:
        self.service, self.path = service, path
        self.stream = answer["Body"]
        length = answer["ContentLength"]
        given = answer.get("ContentRange")
        if start and not given:  # the server sends all of it, whatever it was asked for
            self.size = length
            self._skip(start)
        else:
            self.size = int(given.rpartition("/")[2]) if given else length

    def _skip(self, n: int) -> None:
        scratch = memoryview(bytearray(1 << 20))
        while n:
            got = self.readinto(scratch[:n])
            if not got:
                raise TryAgain(f"{self.path} in {self.service.label} breaks off")
            n -= got

    def readinto(self, view: memoryview) -> int:
        with self.service._errors(self.path):
            return int(self.stream.readinto(view))

    def close(self) -> None:
        self.stream.close()


def _config(parallel: int) -> Any:
    """Some servers do not know boto3's newer checksums. A store tries again itself, and can be stopped while it waits:
    boto3 does so once, at once."""
    return Config(
        max_pool_connections=parallel + 2,
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
        retries={"mode": "standard", "total_max_attempts": 2},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        user_agent_extra="pogfast",
    )


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())

"""S3 and what speaks its protocol, through boto3. Knows objects below a bucket and a prefix, and no blob.

Credentials, profiles and regions come from where boto3 finds them. A blob is one PUT from the memory that it lies in.
No condition and no checksum of the server's is relied on, since some servers ignore both; the CRT transfer is never
used, since it ignores the endpoint.
"""

from __future__ import annotations

import base64
import contextlib
import io
import os
import time
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from pogfast.errors import MissingBlob, StoreError, UsageError
from pogfast.stores.findings import Finding, Warmth
from pogfast.stores.remote import Body, Exists, Found, NoSuchBucket, Plain, TryAgain
from pogfast.stores.settings import Lock

try:
    import boto3
    import botocore.exceptions as failures
    from botocore.config import Config
    from urllib3.exceptions import HTTPError
except ImportError as error:
    raise UsageError("S3 needs boto3, which is not installed", hint="pip install '.[s3]' in the source") from error

if TYPE_CHECKING:
    from pogfast._engine import Buffer

PAGE = 1000  # objects in one answer of a listing, or named in one request to delete
PART = 1 << 30  # larger objects are sent in parts of so many bytes; S3 takes no more than 5 GiB in one
SMALL = 1 << 20  # a body of at most so many bytes is sent at once; a larger one when the service has agreed to it
PIECE = 1 << 20  # bytes that are given to the socket at a time
DAY = 24 * 3600
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
DENIED = {"AccessDenied", "403"}
GONE = {"NoSuchKey", "404", "NotFound"}
# What it says of a condition that does not hold, of one that another request is in the way of, of a thing it cannot do.
THERE = {"PreconditionFailed", "412"}
RACING = {"ConditionalRequestConflict"}
CANNOT = {"NotImplemented", "501", "MethodNotAllowed", "405", "XNotImplemented"}
# Where there is no lock to be found.
NO_LOCK = {"ObjectLockConfigurationNotFoundError", "NoSuchObjectLockConfiguration", "InvalidRequest", *CANNOT, *GONE}
# Storage classes whose objects have to be asked for before they can be read.
COLD = {"GLACIER", "DEEP_ARCHIVE"}


class S3Service(Plain):
    """A bucket, or what is below a prefix in it."""

    def __init__(
        self,
        bucket: str,
        prefix: str,
        *,
        endpoint: str | None,
        storage_class: str | None,
        object_lock: Lock | None,
        parallel: int,
        profile: str | None = None,
        region: str | None = None,
    ) -> None:
        """`prefix` is without a / at its ends. Raises StoreError and UsageError; no request is made."""
        self.bucket = bucket
        self.prefix = f"{prefix}/" if prefix else ""
        self.label = f"s3://{bucket}" + (f"/{prefix}" if prefix else "")
        self.profile = profile
        self.storage_class = storage_class
        self.object_lock = object_lock
        self.conditional = True  # until the service says that it does not know conditions
        self.requests: Counter[str] = Counter()
        with self._errors():
            # A session of its own: boto3's default one would know the credentials of the first store for ever.
            session = boto3.session.Session(profile_name=profile, region_name=region)
            self.client: Any = session.client("s3", endpoint_url=endpoint, config=_config(parallel))
        self.identity = f"{self.client.meta.endpoint_url}/{bucket}/{prefix}"
        # boto3 signs the body's sha256: a checksum says nothing more, and takes 0.3 s a GB. But AWS asks for one where
        # objects are locked, also when a bucket does that by itself. Who is reached by http gets one when it refuses.
        self.checksums = object_lock is not None or self.client.meta.endpoint_url.startswith("https:")
        self.client.meta.events.register("before-send.s3", self._count)
        for operation in ("PutObject", "UploadPart"):
            self.client.meta.events.register(f"before-sign.s3.{operation}", _send_at_once)

    def put(self, path: str, data: Buffer, *, absent: bool) -> None:
        condition = {"IfNoneMatch": "*"} if absent and self.conditional else {}
        # Parts have none; and other threads may learn meanwhile that they are wanted.
        checksums = self.checksums or len(data) > PART
        try:
            with self._errors(path):
                if len(data) > PART:
                    self._put_parts(path, memoryview(data), self._more(path))
                else:
                    more = {**self._more(path), **condition}
                    if checksums:
                        more |= {"ChecksumAlgorithm": "CRC32", "ChecksumCRC32": checksum(data)}
                    self.client.put_object(**self._where(path), Body=_Reader(data), **more)
        except (TryAgain, Exists, NoSuchBucket):
            raise
        except StoreError as error:
            if condition and isinstance(error, _Cannot):
                self.conditional = False
            elif not checksums:
                self.checksums = True
            else:
                raise
            self.put(path, data, absent=absent)

    def _where(self, path: str) -> dict[str, str]:
        return {"Bucket": self.bucket, "Key": self.prefix + path}

    def _more(self, path: str) -> dict[str, Any]:
        """Manifests are read whenever anything is: only what they name may lie in a colder place. What is neither is
        written anew at any time, and never locked."""
        blob = path.startswith("data/")
        more: dict[str, Any] = {}
        if self.storage_class and blob:
            more["StorageClass"] = self.storage_class
        if self.object_lock and (blob or path.endswith(".mfn")):
            more["ObjectLockMode"] = self.object_lock.mode.upper()
            more["ObjectLockRetainUntilDate"] = _until(self.object_lock)
        return more

    def _put_parts(self, path: str, data: memoryview, more: dict[str, str]) -> None:
        where = self._where(path)
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
                answer = self.client.get_object(**self._where(path), **more)
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

    # ---- what only S3 has ----

    def copy(self, path: str, source: object) -> bool:
        if not isinstance(source, S3Service):
            return False
        if (source.profile, source.client.meta.endpoint_url) != (self.profile, self.client.meta.endpoint_url):
            return False  # the credentials of one may not be good for the other
        with self._errors(path):
            answer = self.client.copy_object(**self._where(path), CopySource=source._where(path), **self._more(path))
        # A server that does not know such a request takes it for an empty object.
        return "ETag" in answer.get("CopyObjectResult", {})

    def has_locks(self) -> bool:
        try:
            return self._has_locks()
        except Refused:
            return True  # who may not know that has to look at every object

    def _has_locks(self) -> bool:
        try:
            with self._errors():
                answer = self.client.get_object_lock_configuration(Bucket=self.bucket)
        except (_NoLock, _Gone):
            return False
        return bool(answer.get("ObjectLockConfiguration", {}).get("ObjectLockEnabled") == "Enabled")

    def _facts(self, path: str) -> dict[str, Any] | None:
        """None when there is no such object."""
        try:
            with self._errors(path):
                return dict(self.client.head_object(**self._where(path)))
        except _Gone:
            return None

    def locked_until(self, path: str) -> float:
        return _locked_until(self._facts(path) or {})

    def can_lock(self) -> None:
        if not self._has_locks():
            hint = "object lock is chosen when a bucket is made, or in its settings"
            raise StoreError(f"{self.label}: the bucket has no object lock", hint)

    def lock(self, path: str, lock: Lock) -> bool:
        until = _until(lock)
        facts = self._facts(path)
        if facts is None:
            raise MissingBlob(f"{self.label}: {path}: there is no such object")
        if _locked_until(facts) >= until.timestamp() - 60:
            return False
        with self._errors(path):
            self.client.put_object_retention(
                **self._where(path), Retention={"Mode": lock.mode.upper(), "RetainUntilDate": until}
            )
        return True

    def thaw(self, path: str, tier: str, days: int) -> Warmth:
        facts = self._facts(path)
        if facts is None:
            return "missing"
        restore = facts.get("Restore", "")
        if facts.get("StorageClass") not in COLD or 'ongoing-request="false"' in restore:
            return "readable"
        if restore:
            return "coming"
        wanted = {"Days": days, "GlacierJobParameters": {"Tier": tier.capitalize()}}
        with self._errors(path):
            self.client.restore_object(**self._where(path), RestoreRequest=wanted)
        return "asked"

    def examine(self) -> Iterator[Finding]:
        for act in (self._examine_conditions, self._examine_versions, self._examine_lifecycle, self._examine_uploads):
            try:
                yield from act()
            except StoreError as error:  # servers do not know all of these
                yield Finding(act.__name__.rpartition("_")[2], "note", f"cannot be asked: {error}")

    def _examine_conditions(self) -> Iterator[Finding]:
        """Whether something that is there can be written over."""
        path = f"doctor.probe-{os.urandom(6).hex()}"
        self.put(path, b"one", absent=False)
        try:
            self.put(path, b"two", absent=True)
        except Exists:
            yield Finding("conditions", "good", "If-None-Match is obeyed")
        else:
            yield Finding("conditions", "note", "If-None-Match is not obeyed", "pogfast does not rely on it")
        with contextlib.suppress(StoreError):
            self.delete([path])

    def _examine_versions(self) -> Iterator[Finding]:
        with self._errors():
            versions = self.client.get_bucket_versioning(Bucket=self.bucket).get("Status") == "Enabled"
        locks = self.has_locks()
        advice = "who has the credentials can delete every backup: see 'Ransomware' in docs/stores.md"
        if not versions:
            yield Finding("versions", "note", "not kept: what is overwritten or deleted is gone", advice)
        else:
            advice = "" if locks else "what is deleted stays until somebody deletes its versions"
            yield Finding("versions", "good", "kept", advice)
        if locks:
            yield Finding("lock", "good", "objects can be locked", "create --object-lock, and lock extend now and then")
        else:
            yield Finding("lock", "note", "objects cannot be locked", "object lock is chosen when a bucket is made")

    def _examine_lifecycle(self) -> Iterator[Finding]:
        try:
            with self._errors():
                rules = self.client.get_bucket_lifecycle_configuration(Bucket=self.bucket).get("Rules", [])
        except _NoRules:
            rules = []
        live = [rule for rule in rules if rule.get("Status") == "Enabled"]
        if any(rule.get("Expiration", {}).keys() & {"Days", "Date"} for rule in live):
            advice = "blobs are needed for as long as an archive names them, however old: let prune decide"
            yield Finding("lifecycle", "bad", "a rule deletes objects by their age", advice)
        elif any("Transitions" in rule and "data/" not in str(rule) for rule in live):
            advice = "limit it to data/: manifests are read by every command"
            yield Finding("lifecycle", "note", "a rule moves all objects to another class", advice)
        elif any("AbortIncompleteMultipartUpload" in rule for rule in live):
            yield Finding("lifecycle", "good", f"{len(live)} rules, none in the way")
        else:
            advice = "one that ends incomplete multipart uploads after a week saves what interrupted runs leave"
            yield Finding("lifecycle", "note", f"{len(live)} rules", advice)

    def _examine_uploads(self) -> Iterator[Finding]:
        with self._errors():
            found = self.client.list_multipart_uploads(Bucket=self.bucket, Prefix=self.prefix).get("Uploads", [])
        old = [upload for upload in found if upload["Initiated"].timestamp() < time.time() - DAY]
        if old:
            said = f"{len(old)} incomplete uploads, a day old or more, are paid for"
            yield Finding("leavings", "note", said, "a lifecycle rule ends them")
        else:
            yield Finding("leavings", "good", "no incomplete uploads")

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
        if code in THERE:
            return Exists(f"{place}: there is an object of that name already")
        if code == "NoSuchLifecycleConfiguration":
            return _NoRules(f"{self.label}: there is no lifecycle")
        if code in NO_LOCK:
            kind = _Cannot if code in CANNOT else _NoLock
            return kind(f"{place}: {code} {message}".rstrip())
        if code == "NoSuchBucket":
            return NoSuchBucket(f"{self.label}: there is no such bucket", "make it first, or look at its name")
        if code in BUSY or code in RACING:
            return TryAgain(f"{place}: the service is busy: {code} {message}".rstrip(), "try again later")
        said, hint = REFUSED.get(code, (f"{code} {message}".strip(), ""))
        return (Refused if code in DENIED else StoreError)(f"{place}: {said}", hint)


class _Gone(StoreError):
    """There is no such object."""


class _NoLock(StoreError):
    """There is no lock, or there can be none."""


class _NoRules(StoreError):
    """There is no lifecycle."""


class _Cannot(_NoLock):
    """The service does not know such a request."""


class Refused(StoreError):
    """The credentials do not have the right to do this."""


def _locked_until(facts: dict[str, Any]) -> float:
    if facts.get("ObjectLockLegalHoldStatus") == "ON":
        return float("inf")
    until: datetime | None = facts.get("ObjectLockRetainUntilDate")
    return until.timestamp() if until else 0.0


def checksum(data: Buffer) -> str:
    """As S3 wants to be told it, to refuse what has been altered on its way."""
    return base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()


def _until(lock: Lock) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=lock.seconds)


class _Reader(io.RawIOBase):
    """A view as a file, so that what is sent is read from the memory that it lies in; it can be sent again.

    It gives pieces of PIECE, without a copy, also to urllib3, which asks for 16 kB: each costs a call of the system.
    """

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

    def read(self, n: int = -1) -> Any:
        end = len(self.data) if n < 0 else self.at + max(n, PIECE)
        piece = self.data[self.at : end]
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


def _send_at_once(request: Any, **_: object) -> None:
    """boto3 asks before it sends any body: for a small one that is a second round trip, and half of its time."""
    if len(request.data) <= SMALL:
        del request.headers["Expect"]
        request.data = bytes(request.data.data)


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

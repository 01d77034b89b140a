"""S3 and compatible services, through boto3. Knows objects below a bucket and a prefix, and no blobs.

boto3 finds credentials, profiles and regions. A blob is one PUT, without a copy in memory. Nothing relies on the
server's conditions and checksums, since some servers ignore both. The CRT transfer client is never used, since it
ignores the endpoint.
"""

from __future__ import annotations

import base64
import contextlib
import io
import os
import re
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any

from pogfast.errors import Exists, MissingBlob, StoreError, UsageError
from pogfast.stores.concurrency import Concurrency, RequestPool
from pogfast.stores.limits import Interrupted, Limits, Transfer
from pogfast.stores.protocols import MAKE_ROOM, Finding, InColdStorage, ThawState
from pogfast.stores.service import (
    AccessDenied,
    BasicService,
    Body,
    InvalidResponse,
    LimitedBody,
    NoSuchBucket,
    ObjectInfo,
    TransientError,
    byte_range,
    extent,
    http_time,
    seconds_to_wait,
    skip,
)
from pogfast.stores.settings import Lock

try:
    import boto3
    import botocore.exceptions as failures
    import botocore.session
    from botocore.config import Config
    from botocore.parsers import ResponseParserError, ResponseParserFactory, RestXMLParser
    from botocore.utils import parse_timestamp
    from urllib3.exceptions import HTTPError
except ImportError as error:
    raise UsageError("S3 needs boto3, which is not installed", hint="pip install '.[s3]' in the source") from error

if TYPE_CHECKING:
    from pogfast._engine import Buffer

PAGE = 1000  # objects in one response of a listing, or in one request to delete
PART = 1 << 30  # larger objects are sent in parts of this many bytes; S3 takes at most 5 GiB in one request
SMALL = 1 << 20  # bytes of a body that is sent at once; a larger one waits until the service has accepted the request
PIECE = 1 << 20  # bytes that are written to the socket at a time
DAY = 24 * 3600
CONNECT_SECONDS = 10
READ_SECONDS = 60  # without a byte before a connection counts as broken

# Error codes of a service that is busy. All statuses in BUSY_STATUSES mean the same, whatever the code.
BUSY = {
    "BandwidthLimitExceeded", "InternalError", "InternalFailure", "OperationAborted", "PriorRequestNotComplete",
    "RequestLimitExceeded", "RequestTimeout", "RequestTimeoutException", "ServerBusy", "ServiceUnavailable",
    "TransactionInProgressException",
}  # fmt: skip
BUSY_WORDS = ("SlowDown", "Throttl", "TooManyRequests", "LimitExceeded")  # parts of codes: each service has its own
SLOW_DOWN = {429, 503}
BUSY_STATUSES = {408, 425, 429, 500, 502, 503, 504, 509, *range(520, 531)}
# Error codes for a body that was altered or cut short in transit: another attempt may succeed.
ALTERED = {"BadDigest", "IncompleteBody", "InvalidDigest", "XAmzContentChecksumMismatch", "XAmzContentSHA256Mismatch",
           "XMinioContentSHA256Mismatch"}  # fmt: skip
# A multipart upload that is complete, with its response lost, or that was aborted.
LOST = {"NoSuchUpload"}
# The error code of an object in cold storage.
FROZEN = "InvalidObjectState"
# Error codes that another attempt would not change: what they mean, and the hint.
REFUSED = {
    "InvalidAccessKeyId": ("the access key is not known there", "look at AWS_ACCESS_KEY_ID or the profile"),
    "SignatureDoesNotMatch": ("the secret key is wrong", "look at AWS_SECRET_ACCESS_KEY or the profile"),
    "ExpiredToken": ("the session's credentials have expired", "log in again"),
    "ExpiredTokenException": ("the session's credentials have expired", "log in again"),
    "TokenRefreshRequired": ("the session's credentials have expired", "log in again"),
    "InvalidToken": ("the session token is not valid", "look at AWS_SESSION_TOKEN or the profile"),
    "AccessDenied": ("access denied", "the credentials are wrong or lack the permission"),
    "403": ("access denied", "the credentials are wrong or lack the permission"),
    "401": ("access denied", "the credentials are wrong or lack the permission"),
    "RequestTimeTooSkewed": ("the clock of this machine is wrong", "set the clock"),
    "RequestExpired": ("the clock of this machine is wrong", "set the clock"),
    "RequestInTheFuture": ("the clock of this machine is wrong", "set the clock"),
    "AuthorizationHeaderMalformed": ("the bucket is in another region", "set AWS_REGION to the bucket's"),
    "PermanentRedirect": ("the bucket is in another region, or behind another endpoint", "set AWS_REGION"),
    "301": ("the bucket is in another region, or behind another endpoint", "set AWS_REGION to the bucket's"),
    "InvalidStorageClass": ("there is no such storage class", "see --storage-class"),
    FROZEN: ("the object is in cold storage", "restore --thaw asks for it; try again when it is there"),
    "EntityTooLarge": ("the service takes no object of this size", "choose a smaller --chunk-size"),
    "413": ("the service takes no object of this size", "choose a smaller --chunk-size"),
    "InsufficientStorage": ("the store is full", MAKE_ROOM),
    "XMinioStorageFull": ("the store is full", MAKE_ROOM),
    "507": ("the store is full", MAKE_ROOM),
    "QuotaExceeded": ("the quota is used up", MAKE_ROOM),
}
DENIED = {"AccessDenied", "401", "403"}
CLOCK = {"RequestTimeTooSkewed", "RequestExpired", "RequestInTheFuture"}
GONE = {"NoSuchKey", "404", "NotFound"}
# Error codes for a condition that is false, for a concurrent request, and for an operation that is not supported.
THERE = {"PreconditionFailed", "412"}
RACING = {"ConditionalRequestConflict"}
CANNOT = {"NotImplemented", "501", "MethodNotAllowed", "405", "XNotImplemented"}
# Error codes of a bucket or service without object lock.
NO_LOCK = {"ObjectLockConfigurationNotFoundError", "NoSuchObjectLockConfiguration", "InvalidRequest", *CANNOT, *GONE}
# A pack, which is stored as blobs are; their index is not.
PACK = re.compile(r"packs/\d{4}-\d\d-\d\d/")
# What a lifecycle rule is limited to that moves only what holds blobs.
BLOBS = ("data/", "packs/2")
# Storage classes whose objects have to be requested before they can be read.
COLD = {"GLACIER", "DEEP_ARCHIVE"}


# Failures of the connection: another attempt may succeed.
PASSING = (failures.HTTPClientError, failures.ConnectionError, failures.ChecksumError, failures.FlexibleChecksumError,
           failures.IncompleteReadError, failures.MetadataRetrievalError, HTTPError, OSError)  # fmt: skip
# Credentials that should exist cannot be had, or have expired.
LOGINS = (failures.CredentialRetrievalError, failures.SSOError, failures.TokenRetrievalError,
          failures.NoAuthTokenError)  # fmt: skip


class S3Service(BasicService):
    """A bucket, or the objects below a prefix in it."""

    def __init__(
        self,
        bucket: str,
        prefix: str,
        *,
        endpoint: str | None,
        storage_class: str | None,
        object_lock: Lock | None,
        concurrency: Concurrency,
        limits: Limits,
        profile: str | None = None,
        region: str | None = None,
    ) -> None:
        """`prefix` has no / at its ends. Makes no request. Raises StoreError and UsageError."""
        self.bucket = bucket
        self.prefix = f"{prefix}/" if prefix else ""
        self.label = f"s3://{bucket}" + (f"/{prefix}" if prefix else "")
        self.profile = profile
        self.storage_class = storage_class
        self.object_lock = object_lock
        self.conditional = True  # until the service says that it has no conditions
        self.deletes_many = True  # until it says that it deletes only one object per request
        self.concurrency = concurrency
        self.limits = limits
        self.requests: Counter[str] = Counter()
        with self._errors(), self._settings():
            # A separate session: boto3's default one would keep the credentials of the first store.
            core = botocore.session.get_session()
            parsers = _Parsers()
            parsers.set_parser_defaults(timestamp_parser=_time)
            core.register_component("response_parser_factory", parsers)
            session = boto3.session.Session(profile_name=profile, region_name=region, botocore_session=core)
            self.client: Any = session.client("s3", endpoint_url=endpoint, config=_config(concurrency.most))
        self.identity = f"{self.client.meta.endpoint_url}/{bucket}/{prefix}"
        # Over http the signature covers the body's SHA-256: a checksum adds nothing. But AWS requires one for locked
        # objects, also if the bucket locks by default. A service over http gets one after it has refused. Over https
        # TLS protects the body on its way and a CRC32 does behind that, for 0.15 s of CPU a GB; SHA-256 takes 0.5 s.
        # A service that refuses such a body, or says that it was altered, gets signed ones from then on.
        secure = self.client.meta.endpoint_url.startswith("https:")
        self.checksums = object_lock is not None or secure
        s3 = self.client.meta.config.s3 or {}
        self.signed = not secure or bool(s3.get("payload_signing_enabled"))  # as the user has configured boto3
        self.unsigned = self.client.meta.config.merge(Config(s3={**s3, "payload_signing_enabled": False}))
        self.client.meta.events.register("before-send.s3", self._before_sending)
        self.client.meta.events.register("after-call.s3.ListObjectsV2", self._after_listing)
        for operation in ("PutObject", "UploadPart"):
            self.client.meta.events.register(f"before-sign.s3.{operation}", self._before_signing)

    def put(self, path: str, data: Buffer, *, absent: bool) -> None:
        condition = {"IfNoneMatch": "*"} if absent and self.conditional else {}
        # Kept, since other threads may learn meanwhile what is required.
        checksums, signed = self.checksums, self.signed
        algorithm = {"ChecksumAlgorithm": "CRC32"} if checksums else {}
        try:
            with self._errors(path):
                if len(data) > PART:
                    self._put_parts(path, memoryview(data), {**self._more(path), **algorithm}, checksums=checksums)
                else:
                    more = {**self._more(path), **condition, **algorithm, **(checksum(data) if checksums else {})}
                    self.client.put_object(**self._where(path), Body=self._reader(data), **more)
        except (TransientError, Exists, NoSuchBucket) as error:
            if signed or not isinstance(error, _Altered):
                raise
            self.signed = True
        except StoreError as error:
            if condition and isinstance(error, _Cannot):
                self.conditional = False
            elif not checksums:
                self.checksums = True
            elif not signed:
                self.signed = True
            else:
                raise
        else:
            return
        self.put(path, data, absent=absent)

    def _where(self, path: str) -> dict[str, str]:
        return {"Bucket": self.bucket, "Key": self.prefix + path}

    def _more(self, path: str) -> dict[str, Any]:
        """Returns the storage class and the lock for an object. Every command reads manifests and the index of packs:
        only what holds blobs gets another storage class. Marks are rewritten at any time, and so never locked."""
        blob = path.startswith("data/") or PACK.match(path) is not None
        more: dict[str, Any] = {}
        if self.storage_class and blob:
            more["StorageClass"] = self.storage_class
        if self.object_lock and (blob or path.endswith(".mfn")):
            more["ObjectLockMode"] = self.object_lock.mode.upper()
            more["ObjectLockRetainUntilDate"] = _until(self.object_lock)
        return more

    def _reader(self, data: Buffer) -> _Reader:
        return _Reader(data, self.limits.sending())

    def _put_parts(self, path: str, data: memoryview, more: dict[str, Any], *, checksums: bool) -> None:
        where = self._where(path)
        upload = self.client.create_multipart_upload(**where, **more)["UploadId"]
        try:
            parts = []
            for number, start in enumerate(range(0, len(data), PART), 1):
                part = data[start : start + PART]
                summed = checksum(part) if checksums else {}
                said = self.client.upload_part(
                    **where, UploadId=upload, PartNumber=number, Body=self._reader(part), **summed
                )
                parts.append({"ETag": said["ETag"], "PartNumber": number, **summed})
            self.client.complete_multipart_upload(**where, UploadId=upload, MultipartUpload={"Parts": parts})
        except BaseException:
            with contextlib.suppress(failures.ClientError, failures.BotoCoreError):
                self.client.abort_multipart_upload(**where, UploadId=upload)
            raise

    def open(self, path: str, start: int, end: int | None = None) -> Body | None:
        wanted = byte_range(start, end)
        more = {"Range": wanted} if wanted else {}
        try:
            with self._errors(path):
                answer = self.client.get_object(**self._where(path), **more)
                return _S3Body(self, path, answer, start, end)
        except _Gone:
            return None
        except AccessDenied as error:
            # S3 returns this also for a missing object if the credentials may not list.
            error.hint = f"{error.hint}; without permission to list, S3 says the same of a missing object"
            raise

    def size(self, path: str) -> int | None:
        # A listing, since it needs no permission to read.
        found, _ = self._page(path, "", more={"MaxKeys": 1})
        return found[0].size if found and found[0].path == path else None

    def page(self, prefix: str, token: str, *, deep: bool, start: str = "") -> tuple[list[ObjectInfo], str]:
        more = {} if deep else {"Delimiter": "/"}
        return self._page(prefix, token, more={**more, "StartAfter": self.prefix + start} if start else more)

    def _path(self, item: dict[str, Any]) -> str:
        return str(item["Key"]).removeprefix(self.prefix)

    def _page(self, prefix: str, token: str, more: dict[str, Any]) -> tuple[list[ObjectInfo], str]:
        if token:
            more = {**more, "ContinuationToken": token}
        with self._errors():
            answer = self.client.list_objects_v2(Bucket=self.bucket, Prefix=self.prefix + prefix, **more)
        found = [
            ObjectInfo(
                self._path(item),
                max(item.get("Size", 0), 0),
                _seconds(item),
                str(item.get("ETag", "")),
                item.get("StorageClass") in COLD,
            )
            for item in answer.get("Contents", ())
            if item.get("Key", "").startswith(self.prefix + prefix)
        ]
        return found, answer.get("NextContinuationToken", "") if answer.get("IsTruncated") else ""

    def delete_old(self, found: Sequence[ObjectInfo], before: float, go_on: Callable[[], bool]) -> list[str]:
        """Sends one request per object: most servers ignore conditions in a request for many."""
        with RequestPool(self.concurrency, "pogfast-delete") as threads:
            deleted = [(each.path, threads.submit(self._delete_as_it_was, each, go_on)) for each in found]
        return [path for path, is_gone in deleted if is_gone.result()]  # all have been tried

    def _delete_as_it_was(self, found: ObjectInfo, go_on: Callable[[], bool]) -> bool:
        """Deletes an object unless it was rewritten; returns True if it is gone. A blob that was stored again has the
        same ETag, so the condition cannot replace `go_on`."""
        condition = {"IfMatch": found.version} if found.version else {}
        try:
            if not go_on():
                return False
            with contextlib.suppress(_Gone), self._errors(found.path):
                self.client.delete_object(**self._where(found.path), **condition)
        except Exists:  # another object has the name now
            return False
        except _Cannot:
            if not go_on():
                return False
            self._delete_one(found.path)
        return True

    def delete(self, paths: Iterable[str]) -> None:
        waiting = iter(paths)
        while together := list(islice(waiting, PAGE)):
            if self.deletes_many:
                try:
                    self._delete_many(together)
                    continue
                except _Cannot:  # some services, such as Google's, have had no such request
                    self.deletes_many = False
            with RequestPool(self.concurrency, "pogfast-delete") as threads:
                deleted = [threads.submit(self._delete_one, path) for path in together]
            for each in deleted:  # all have been tried
                each.result()

    def _delete_many(self, paths: Sequence[str]) -> None:
        wanted = {"Objects": [{"Key": self.prefix + path} for path in paths], "Quiet": True}
        with self._errors():
            answer = self.client.delete_objects(Bucket=self.bucket, Delete=wanted)
        for failed in answer.get("Errors", ()):
            if failed.get("Code") not in GONE:
                raise self._error(failed.get("Code", ""), failed.get("Message", ""), failed.get("Key", ""))

    def _delete_one(self, path: str) -> None:
        with contextlib.suppress(_Gone), self._errors(path):
            self.client.delete_object(**self._where(path))

    def close(self) -> None:
        self.client.close()

    # ---- what only S3 has ----

    def copy(self, path: str, source: object) -> bool:
        if not isinstance(source, S3Service):
            return False
        if (source.profile, source.client.meta.endpoint_url) != (self.profile, self.client.meta.endpoint_url):
            return False  # the credentials may not be valid for both
        with self._errors(path):
            answer = self.client.copy_object(**self._where(path), CopySource=source._where(path), **self._more(path))
        # A server without this request stores an empty object instead.
        return "ETag" in answer.get("CopyObjectResult", {})

    def has_locks(self) -> bool:
        try:
            return self._has_locks()
        except AccessDenied:
            return True  # without permission to ask, every object has to be checked

    def _has_locks(self) -> bool:
        try:
            with self._errors():
                answer = self.client.get_object_lock_configuration(Bucket=self.bucket)
        except (_NoLock, _Gone):
            return False
        return bool(answer.get("ObjectLockConfiguration", {}).get("ObjectLockEnabled") == "Enabled")

    def _head(self, path: str) -> dict[str, Any] | None:
        """Returns the HEAD response of an object; None if it is missing."""
        try:
            with self._errors(path):
                return dict(self.client.head_object(**self._where(path)))
        except _Gone:
            return None

    def locked_until(self, path: str) -> float:
        return _locked_until(self._head(path) or {})

    def can_lock(self) -> None:
        if not self._has_locks():
            raise self._no_lock()

    def _no_lock(self) -> StoreError:
        hint = "object lock is chosen when a bucket is made, or in its settings"
        return _NoLock(f"{self.label}: the bucket has no object lock", hint)

    def lock(self, path: str, lock: Lock) -> bool:
        until = _until(lock)
        facts = self._head(path)
        if facts is None:
            raise MissingBlob(f"{self.label}: {path}: there is no such object")
        if _locked_until(facts) >= until.timestamp() - 60:
            return False
        with self._errors(path):
            self.client.put_object_retention(
                **self._where(path), Retention={"Mode": lock.mode.upper(), "RetainUntilDate": until}
            )
        return True

    def thaw(self, path: str, tier: str, days: int) -> ThawState:
        facts = self._head(path)
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
        for act in (
            self._examine_conditions,
            self._examine_ranges,
            self._examine_versions,
            self._examine_lifecycle,
            self._examine_uploads,
        ):
            try:
                yield from act()
            except StoreError as error:  # not every server supports all of these
                yield Finding(act.__name__.rpartition("_")[2], "note", f"cannot be asked: {error}")

    def _examine_conditions(self) -> Iterator[Finding]:
        """Checks whether the service obeys If-None-Match."""
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

    def _examine_ranges(self) -> Iterator[Finding]:
        """Checks whether the service sends a part of an object by itself, on which packs rely for their speed."""
        path = f"doctor.probe-{os.urandom(6).hex()}"
        self.put(path, b"some bytes", absent=False)
        try:
            with self._errors(path):
                answer = self.client.get_object(**self._where(path), Range=byte_range(5, 10))
                with contextlib.closing(answer["Body"]) as body:
                    sent = body.read()
        finally:
            with contextlib.suppress(StoreError):
                self.delete([path])
        if sent == b"bytes":
            yield Finding("ranges", "good", "a part of an object can be read")
        elif sent == b"some bytes":
            advice = "what is read from packs takes more bytes, and more time"
            yield Finding("ranges", "note", "a request for a part of an object gets all of it", advice)
        else:
            said = "a request for a part of an object gets other bytes"
            yield Finding("ranges", "bad", said, "do not use this server")

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
        elif any("Transitions" in rule and not any(map(str(rule).__contains__, BLOBS)) for rule in live):
            advice = "limit it to data/ and packs/20: every command reads the rest"
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

    # ---- requests and errors ----

    def _before_sending(self, request: Any, **_: object) -> None:
        """Counts every request that is sent, retries included, and limits the reading of its body from now on."""
        if isinstance(request.body, _Reader):
            request.body.is_sent = True
        words = {"list-type=2": "list", "?delete": "delete"}
        self.requests[next((kind for word, kind in words.items() if word in request.url), request.method.lower())] += 1

    def _after_listing(self, http_response: Any, **_: object) -> None:
        """Waits after a page of a listing, which boto3 has read at once, for as long as it should have taken."""
        with contextlib.suppress(Interrupted):
            self.limits.receiving().spend(len(http_response.content))

    def _before_signing(self, request: Any, **_: object) -> None:
        """Sends a small body without waiting: boto3's `Expect: 100-continue` costs a round trip, half of the time."""
        if len(request.data) <= SMALL:
            del request.headers["Expect"]
            if self.limits.upload is None:
                request.data = bytes(request.data.data)
        if not self.signed:
            request.context["client_config"] = self.unsigned  # boto3 has no such setting for single operations

    @contextlib.contextmanager
    def _settings(self) -> Iterator[None]:
        """Turns boto3's errors about an invalid endpoint, region or profile into StoreError."""
        try:
            yield
        except ValueError as error:
            hint = "look at AWS_PROFILE, AWS_REGION and the endpoint"
            raise StoreError(f"{self.label}: {_one_line(error)}", hint) from error

    @contextlib.contextmanager
    def _errors(self, path: str = "") -> Iterator[None]:
        """Turns boto3's errors into ours, one line each. Raises TransientError for transient ones."""
        try:
            yield
        except failures.ClientError as error:
            raise self._answered(error.response, path) from error
        except (failures.NoCredentialsError, failures.PartialCredentialsError) as error:
            hint = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
            raise StoreError(f"{self.label}: no credentials for S3", hint) from error
        except LOGINS as error:
            hint = "log in again, or look at AWS_PROFILE"
            raise StoreError(f"{self.label}: cannot get credentials: {_one_line(error)}", hint) from error
        except failures.ParamValidationError as error:
            raise UsageError(f"{self.label}: {_one_line(error)}") from error
        except (ResponseParserError, LookupError, ValueError) as error:
            if isinstance(error, failures.BotoCoreError):
                raise self._unset(error) from error
            where = f"{self.label}: {path}" if path else self.label
            said = f"{where}: invalid response: {_one_line(error)[:200]}"
            raise InvalidResponse(said, "is this an S3 service?") from error
        except PASSING as error:
            raise self._unreachable(error) from error
        except failures.BotoCoreError as error:
            raise self._unset(error) from error

    def _unset(self, error: Exception) -> StoreError:
        """Returns the error for an invalid setting, which no other attempt would change."""
        return StoreError(f"{self.label}: {_one_line(error)}", "look at AWS_PROFILE, AWS_REGION and the endpoint")

    def _unreachable(self, error: Exception) -> StoreError:
        said = _one_line(error)
        if "CERTIFICATE_VERIFY_FAILED" in said or "certificate verify failed" in said:
            hint = "AWS_CA_BUNDLE names the file of an authority of your own; is the clock right?"
            return StoreError(f"{self.label}: the service's certificate is not trusted: {said}", hint)
        if "WRONG_VERSION_NUMBER" in said:
            return StoreError(f"{self.label}: the service does not speak TLS: {said}", "is it http:// ?")
        return TransientError(f"cannot reach {self.label}: {said}", "check the network connection")

    def _answered(self, response: Any, path: str) -> StoreError:
        said, facts = response.get("Error", {}), response.get("ResponseMetadata", {})
        status, headers = facts.get("HTTPStatusCode", 0), facts.get("HTTPHeaders", {})
        error = self._error(str(said.get("Code") or status), str(said.get("Message", "")), path, status)
        if isinstance(error, TransientError):
            error.after = seconds_to_wait(headers.get("retry-after"))
            error.slow_down = status in SLOW_DOWN or any(word in said.get("Code", "") for word in BUSY_WORDS)
        if said.get("Code") in CLOCK:
            error.hint = _clock(headers.get("date")) or error.hint
        return error

    def _error(self, code: str, message: str, path: str, status: int = 0) -> StoreError:
        """Returns the error for a code; `status` is HTTP's, 0 if the code came without one."""
        where = f"{self.label}: {path}" if path else self.label
        text = _one_line(f"{code} {message}")
        if code in GONE:
            return _Gone(f"{where}: there is no such object")
        if code in THERE:
            return Exists(f"{where}: an object of that name exists already")
        if code in ("InvalidRange", "416"):
            return InvalidResponse(f"{where} ends before the requested byte")
        if code == "NoSuchLifecycleConfiguration":
            return _NoRules(f"{self.label}: there is no lifecycle")
        if code == "InvalidRequest" and "ObjectLockConfiguration" in message.replace(" ", ""):
            return self._no_lock()
        if code in NO_LOCK:
            kind = _Cannot if code in CANNOT else _NoLock
            return kind(f"{where}: {text}")
        if code == "NoSuchBucket":
            return NoSuchBucket(f"{self.label}: there is no such bucket", "make it first, or look at its name")
        if code in ALTERED:
            return _Altered(f"{where}: the body was altered in transit: {text}", "try again later", answered=True)
        if code in LOST:
            return TransientError(f"{where}: {text}")
        if code in REFUSED:
            said, hint = REFUSED[code]
            refusal = AccessDenied if code in DENIED else InColdStorage if code == FROZEN else StoreError
            return refusal(f"{where}: {said}", hint)
        if code in BUSY or code in RACING or status in BUSY_STATUSES or any(word in code for word in BUSY_WORDS):
            return TransientError(f"{where}: the service is busy: {text}", "try again later", answered=True)
        if code.isdigit() and int(code) in BUSY_STATUSES:
            return TransientError(f"{where}: the service is busy: {text}", "try again later", answered=True)
        return (AccessDenied if status in (401, 403) else StoreError)(f"{where}: {text or f'HTTP status {status}'}")


class _Gone(StoreError):
    """The object is missing."""


class _NoLock(StoreError):
    """The object or bucket has no lock."""


class _NoRules(StoreError):
    """The bucket has no lifecycle rules."""


class _Altered(TransientError):
    """The service says that a body is not what was sent."""


class _Cannot(_NoLock):
    """The service does not support the request."""


def _locked_until(facts: dict[str, Any]) -> float:
    if facts.get("ObjectLockLegalHoldStatus") == "ON":
        return float("inf")
    until: datetime | None = facts.get("ObjectLockRetainUntilDate")
    return until.timestamp() if until else 0.0


def checksum(data: Buffer) -> dict[str, str]:
    """Returns the CRC-32 as a parameter of a request: S3 rejects a body that was altered on its way."""
    return {"ChecksumCRC32": base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()}


def _until(lock: Lock) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=lock.seconds)


class _Reader(io.RawIOBase):
    """A buffer as a seekable file, so that it is sent without a copy, and can be sent again.

    A read returns PIECE bytes, also if urllib3 asks for 16 kB: each read costs a system call. Once it is sent, it
    returns as many as its limit allows; before that, boto3 may read it to sign it.
    """

    def __init__(self, data: Buffer, transfer: Transfer) -> None:
        self.data = memoryview(data)
        self.transfer = transfer
        self.at = 0
        self.is_sent = False

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
        size = len(self.data) - self.at
        if n >= 0:
            size = min(size, max(n, PIECE))
        if self.is_sent:
            size = self.transfer.take(size)
        piece = self.data[self.at : self.at + size]
        self.at += len(piece)
        return piece


class _S3Body(LimitedBody):
    def __init__(self, service: S3Service, path: str, answer: dict[str, Any], start: int, end: int | None) -> None:
        super().__init__(service.limits.receiving())
        self.service, self.path = service, path
        self.stream = answer["Body"]
        status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        try:
            said = answer.get("ContentLength"), answer.get("ContentRange")
            first, self.size = extent(*said, start, end, status=status)
            if self.size is None or start <= self.size:  # else the size tells
                skip(self, start - first)
        except BaseException:
            self.close()
            raise

    def _readinto(self, view: memoryview) -> int:
        with self.service._errors(self.path):
            return int(self.stream.readinto(view))

    def close(self) -> None:
        self.stream.close()


def _config(connections: int) -> Any:
    """Returns boto3's configuration: without its newer checksums, which some servers reject, and without its retries:
    RemoteStore retries, reports it, and can be stopped while it waits."""
    return Config(
        max_pool_connections=connections + 2,
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
        retries={"mode": "standard", "total_max_attempts": 1},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        user_agent_extra="pogfast",
    )


class _Parsers(ResponseParserFactory):  # type: ignore[misc]
    """Makes botocore's parsers of responses: of S3's, and of those of services that credentials come from."""

    def create_parser(self, protocol_name: str) -> Any:
        return _Parser(timestamp_parser=_time) if protocol_name == "rest-xml" else super().create_parser(protocol_name)


class _Parser(RestXMLParser):  # type: ignore[misc]
    """botocore's, which takes five times as long for the objects in a listing: it looks for all that one may have."""

    def _handle_list(self, shape: Any, node: Any) -> Any:
        if shape.name != "ObjectList":
            return super()._handle_list(shape, node)
        return [_listed(item) for item in (node if isinstance(node, list) else [node])]


def _listed(node: Iterable[Any]) -> dict[str, Any]:
    """Returns what a listing says of an object, as botocore does, as far as it is used. Raises ValueError."""
    said = {each.tag.rpartition("}")[2]: each.text or "" for each in node}
    found: dict[str, Any] = {word: said[word] for word in ("Key", "ETag", "StorageClass") if word in said}
    if "Size" in said:
        found["Size"] = int(said["Size"])
    if "LastModified" in said:
        found["LastModified"] = _time(said["LastModified"])
    return found


def _time(text: Any) -> datetime:
    """Parses a time in a response. An invalid one becomes the present: an object of unknown age must not count as
    old."""
    if isinstance(text, str) and text.endswith("Z"):  # boto3 takes thirty times as long for one of these
        with contextlib.suppress(ValueError):
            return datetime.fromisoformat(text)
    try:
        found: datetime = parse_timestamp(text)
        return found
    except (ValueError, TypeError, RuntimeError, OverflowError, OSError):
        return datetime.now(UTC)


def _seconds(item: dict[str, Any]) -> float:
    """Returns when an object in a listing was written, in seconds since 1970."""
    modified: datetime = item.get("LastModified") or datetime.now(UTC)
    return modified.timestamp()


def _clock(date: str | None) -> str:
    """Returns the hint for a wrong clock: how far it is from the service's, which is in the response; "" if it is
    not."""
    then = http_time(date)
    if then is None:
        return ""
    off = time.time() - then
    return f"set the clock: it is {abs(off) / 60:,.0f} minutes {'ahead of' if off > 0 else 'behind'} the service's"


def _one_line(error: object) -> str:
    return " ".join(str(error).split())

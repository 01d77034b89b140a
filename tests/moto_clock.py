"""moto's server with a clock that a test sets: `moto_clock.py PORT FILE WORD`, run by the interpreter of moto's
environment.

FILE holds seconds since 1970 as 8 bytes (a double of this machine); what is stored is as old as it says. With WORD
`conditions` a request to delete several objects obeys the ETag of each, as AWS does; moto by itself passes over them,
as most servers do.
"""

import mmap
import struct
import sys
from datetime import UTC, datetime
from typing import Any

import moto.core.utils

port, path, word = sys.argv[1:]
with open(path, "rb") as file:
    clock = mmap.mmap(file.fileno(), 8, access=mmap.ACCESS_READ)


def utcnow() -> datetime:
    return datetime.fromtimestamp(struct.unpack("d", clock[:8])[0], UTC).replace(tzinfo=None)


moto.core.utils.utcnow = utcnow

import moto.s3.models  # noqa: E402 (it takes the clock that it finds)
from moto.server import main  # noqa: E402

assert moto.s3.models.utcnow is utcnow
delete_objects = moto.s3.models.S3Backend.delete_objects


def delete_unchanged(self: Any, bucket: str, objects: list[dict[str, Any]], bypass: bool = False) -> Any:
    there = [(each, self.get_object(bucket, each["Key"])) for each in objects]
    wanted = [each for each, found in there if not found or each.get("ETag", found.etag).strip('"') in found.etag]
    return delete_objects(self, bucket, wanted, bypass)


if word == "conditions":
    moto.s3.models.S3Backend.delete_objects = delete_unchanged
main(["-H", "127.0.0.1", "-p", port])

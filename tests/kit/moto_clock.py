"""moto's server with a clock that a test sets: `moto_clock.py PORT FILE WORD`, run by the interpreter of moto's
environment.

FILE holds seconds since 1970 as 8 bytes (a double of this machine); what is stored is as old as it says. WORD is
`conditions`, or `none`: then an object is deleted whatever If-Match says, as by many servers.
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
import moto.s3.responses  # noqa: E402
from moto.server import main  # noqa: E402

assert moto.s3.models.utcnow is utcnow
delete_object = moto.s3.responses.S3Response.delete_object


def delete_anyway(self: Any) -> Any:
    self.headers = {name: value for name, value in self.headers.items() if name.lower() != "if-match"}
    return delete_object(self)


if word == "none":
    moto.s3.responses.S3Response.delete_object = delete_anyway
main(["-H", "127.0.0.1", "-p", port])

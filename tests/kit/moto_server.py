"""moto's server: `moto_server.py CLOCK CONDITIONS MOTO-ARGUMENTS...`, run by the interpreter of moto's environment.

CLOCK is empty, or a file whose 8 bytes (a double of this machine) a test sets to seconds since 1970: what is stored is
as old as they say. CONDITIONS is `yes`, or `no`: then an object is deleted whatever If-Match says, as by many servers.
"""

import logging
import mmap
import struct
import sys
from datetime import UTC, datetime
from typing import Any

import moto.backends
import moto.core.utils

path, conditions, *arguments = sys.argv[1:]
modules = frozenset(moto.backends.list_of_moto_modules())
moto.backends.list_of_moto_modules = lambda: modules  # it lists a directory for each request
logging.getLogger("werkzeug").setLevel(logging.ERROR)  # of which each would be told

if path:
    with open(path, "rb") as file:
        clock = mmap.mmap(file.fileno(), 8, access=mmap.ACCESS_READ)

    def utcnow() -> datetime:
        return datetime.fromtimestamp(struct.unpack("d", clock[:8])[0], UTC).replace(tzinfo=None)

    moto.core.utils.utcnow = utcnow

import moto.s3.models  # noqa: E402 (it takes the clock that it finds)
import moto.s3.responses  # noqa: E402
from moto.server import main  # noqa: E402

assert moto.s3.models.utcnow is moto.core.utils.utcnow
delete_object = moto.s3.responses.S3Response.delete_object


def delete_anyway(self: Any) -> Any:
    self.headers = {name: value for name, value in self.headers.items() if name.lower() != "if-match"}
    return delete_object(self)


if conditions == "no":
    moto.s3.responses.S3Response.delete_object = delete_anyway
main(arguments)

"""Archives that the oracle fills, and ways to damage them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kit import oracle
from kit.files import flip
from pogfast import keys
from pogfast.archives.archive import Archive
from pogfast.archives.lookup import open_archive
from pogfast.errors import CorruptBlob, DamageError, MissingBlob, WrongBlob

SECRET = os.urandom(32)
KEY = keys.Key("keyfile", SECRET)
ORACLE = oracle.OracleKey(SECRET)
CHUNK = 1000


class Built:
    """A store that the oracle fills."""

    def __init__(self, path: Path, key: oracle.OracleKey = ORACLE) -> None:
        self.path = path
        self.key = key
        self.entries: dict[str, dict[str, Any]] = {}
        (path / "data").mkdir(parents=True, exist_ok=True)

    def add(self, name: str, content: bytes, layout: str = "frames", chunk_size: int = CHUNK, **more: Any) -> list[str]:
        """An entry; of a `frames` file with the facts that pogfast gives it. Returns its blobs."""
        names, blobs = oracle.seal_file(self.key, content, chunk_size, layout=layout)
        for blob, data in blobs.items():
            self.put(blob, data)
        facts: dict[str, Any] = {"blobs": names, "atime": 1.5, "mtime": 2.25}
        if layout == "frames":
            facts["size"] = len(content)
            if len(names) > 1:
                facts["sizes"] = [min(chunk_size, len(content) - at) for at in range(0, len(content), chunk_size)]
        self.entries[name] = {key: value for key, value in {**facts, **more}.items() if value is not None}
        return names

    def put(self, name: str, data: bytes) -> None:
        self.blob(name).parent.mkdir(exist_ok=True)
        self.blob(name).write_bytes(data)

    def blob(self, name: str) -> Path:
        return self.path / "data" / name[:2] / name

    def seal(self, name: str = "a.mfn", trailer: dict[str, Any] | None = None) -> str:
        """Writes the manifest. Returns the archive's text."""
        (self.path / name).write_bytes(oracle.seal_manifest(self.key, self.entries, trailer))
        self.entries = {}
        return f"{self.path}/{name}"

    def open(self, trailer: dict[str, Any] | None = None, jobs: int = 2) -> Archive:
        return open_archive(self.seal("a.mfn", trailer), KEY, jobs=jobs)


class Silent:
    """A report that nobody reads."""

    def file(self, *_: object) -> None: ...
    def blob(self, *_: object) -> None: ...
    def flush(self) -> None: ...
    def manifest(self, *_: object) -> None: ...
    def problem(self, *_: object) -> None: ...


def swap(built: Built, blob: str, other: str) -> None:
    shutil.copy(built.blob(other), built.blob(blob))


Spoil = Callable[[Built, str, str], object]
DAMAGE: dict[str, tuple[type[DamageError], str, Spoil]] = {
    "missing": (MissingBlob, "is missing", lambda built, blob, other: built.blob(blob).unlink()),
    "empty": (CorruptBlob, "is damaged", lambda built, blob, other: built.blob(blob).write_bytes(b"")),
    "header": (CorruptBlob, "is damaged", lambda built, blob, other: flip(built.blob(blob), 30)),
    "tag": (CorruptBlob, "is damaged", lambda built, blob, other: flip(built.blob(blob), 100)),
    "body": (CorruptBlob, "is damaged", lambda built, blob, other: flip(built.blob(blob), 120)),
    "end": (CorruptBlob, "is damaged", lambda built, blob, other: flip(built.blob(blob), -1)),
    "cut": (CorruptBlob, "is damaged", lambda built, blob, other: os.truncate(built.blob(blob), 150)),
    "swapped": (WrongBlob, "holds the content of another", lambda built, blob, other: swap(built, blob, other)),
}

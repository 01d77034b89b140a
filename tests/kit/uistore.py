"""A tree with hostile names, and a store that has archives of it, for the tests of pages."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

HOSTILE = {
    b"<img src=x onerror=alert(1)>.txt": b"markup",
    b"not utf-8 \xff\xfe": b"bytes",
    b"escape \x1b[31m and\nline": b"control",
    "right to left \u202egnp.exe".encode(): b"bidi",
    b"quote \" and ' & %41. %2f": b"quotes",
    b"-rf": b"dash",
    b"..\\..\\up.exe": b"backslashes",
}

# A profile that writes to the store nas, and copies to another.
CONFIGURATION = """
[stores.nas]
address = "{path}/nas"

[stores.{second}]
address = "{path}/{second}"

[profiles.{profile}]
stores = ["nas"]
sources = ["{path}/{source}"]
key = {{ file = "{path}/mine.decrypt", kind = "private" }}
copy = {{ to = ["{second}"] }}
retention = {{ {retention} }}
"""


def configure(path: Path, profile: str, source: str, second: str, retention: str) -> None:
    """Writes the configuration into the directory that a served command looks into."""
    (path / "config").mkdir()
    words = {"profile": profile, "source": source, "second": second, "retention": retention}
    (path / "config" / "pogfast.toml").write_text(CONFIGURATION.format(path=path, **words))


@dataclass
class Work:
    """A directory with `home`, the store `backup` of three archives of it, and a key pair."""

    path: Path
    archives: list[str]

    @property
    def key(self) -> Path:
        return self.path / "mine.decrypt"

    @property
    def store(self) -> Path:
        return self.path / "backup"


def fill(home: Path) -> None:
    (home / "notes").mkdir(parents=True)
    (home / "notes" / "hello").write_text("hello\n")
    (home / "notes" / "numbers").write_text("".join(f"{number}\n" for number in range(100_000)))
    (home / "photos").mkdir()
    (home / "photos" / "cat.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(200))
    (home / "photos" / "link").symlink_to("../notes/hello")
    (home / "hostile").mkdir()
    for name, content in HOSTILE.items():
        (Path(os.fsdecode(bytes(home / "hostile") + b"/" + name))).write_bytes(content)

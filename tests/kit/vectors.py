"""The archives of tests/vectors that pogcli's releases wrote."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit.environments import RELEASES
from kit.paths import VECTORS
from pogfast import keys


@dataclass(frozen=True)
class Vector:
    """One archive that a pogcli release wrote."""

    release: str
    name: str
    directory: Path
    expected: dict[str, Any]
    archive: dict[str, Any]

    @property
    def mode(self) -> str:
        return str(self.archive["mode"])

    @property
    def manifest(self) -> bytes:
        return (self.directory / str(self.archive["manifest"])).read_bytes()

    def file(self, name: str) -> Path:
        """A key file of this release."""
        return self.directory.parent / name


def all_vectors() -> list[Vector]:
    found = []
    for release in RELEASES:
        root = VECTORS / f"pogcli-{release}"
        expected = json.loads((root / "expected.json").read_text())
        for name, archive in sorted(expected["archives"].items()):
            found.append(Vector(release, name, root / name, expected, archive))
    assert len(found) == 12, "six archives of each release"
    return found


def key_of(vector: Vector) -> keys.Key:
    if vector.mode == "password":
        return keys.from_password(vector.expected["password"])
    if vector.mode == "x25519":
        return keys.from_decryption_keyfile(str(vector.file("pki.decrypt")))
    return keys.from_keyfile(str(vector.file("secret.keyfile")))

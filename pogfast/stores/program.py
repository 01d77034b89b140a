"""A program as a store: run as `PROGRAM <stored name> <file>` for each blob and the manifest, as pog does.

What the file holds is encrypted; it is gone when the program has ended. What the program prints on its standard
output is dropped, its standard error is the user's. An exit status that is not 0 is an error.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from pogfast.errors import StoreError
from pogfast.system.environment import for_child

if TYPE_CHECKING:
    from pogfast.stores.names import Stored


class ProgramStore:
    """Hands every blob and manifest to a program of the user's. Writes only."""

    requests: Mapping[str, int] = MappingProxyType({})

    def __init__(self, program: str) -> None:
        self.label = program
        if os.path.isdir(program):
            raise StoreError(f"{program} is a directory, not a program", hint=f"to store in it, write local:{program}")
        if shutil.which(program) is None:
            raise StoreError(
                f"no program {program} to save to",
                hint="a target is a program that can be run, local, or local:/DIR",
            )
        self.program = program

    @property
    def identity(self) -> str:
        return f"program:{os.path.realpath(self.program)}"

    def size_of(self, name: str) -> int | None:
        """A program cannot be asked what it has stored."""
        return None

    def blobs(self, name: str, blob: memoryview) -> None:
        self._run(f"data/{name[:2]}/{name}", blob)

    def manifests(self) -> list[Stored]:
        """A program cannot be asked."""
        return []

    def marks(self) -> list[Stored]:
        """Nobody prunes where nothing can be listed."""
        return []

    def signs(self) -> list[Stored]:
        """As `marks`."""
        return []

    def named(self, prefix: str) -> list[Stored]:
        """As `marks`."""
        return []

    def get_manifest(self, name: str) -> bytes:
        """Raises StoreError."""
        raise StoreError(f"{self.label} is a program: nothing can be read from it")

    def put_mark(self, name: str, data: bytes) -> None:
        """A program stores archives; what is said to a prune would be said to nobody."""

    def doubt(self, names: Iterable[str]) -> None:
        """It is given every blob."""

    def missing(self, names: Iterable[str]) -> list[str]:
        """A program cannot be asked; what it has stored is thought to be there."""
        return []

    def begin_durable(self) -> None:
        """A program stores at once."""

    def own_places(self) -> dict[tuple[int, int], tuple[str, Callable[[str], bool]]]:
        """Nothing of it lies in a directory that could be archived, as far as can be known."""
        return {}

    def make_durable(self) -> None:
        """A program is trusted to have stored what it was given when it ends well."""

    def put_manifest(self, name: str, data: bytes) -> None:
        self._run(name, data)

    def delete_manifests(self, names: Iterable[str]) -> None:
        """A program only stores."""

    def close(self) -> None:
        """Nothing stays open between two runs."""

    def _run(self, stored_name: str, data: bytes | memoryview) -> None:
        try:
            with tempfile.TemporaryDirectory(prefix="pogfast-") as directory:
                path = os.path.join(directory, os.path.basename(stored_name))
                with open(path, "wb") as file:
                    file.write(data)
                ended = subprocess.run(
                    [self.program, stored_name, path],
                    stdout=subprocess.DEVNULL,
                    env=for_child(credentials=True),  # it may be what uploads to a service
                    check=False,
                )
        except OSError as error:
            raise StoreError(f"cannot run {self.program} for {stored_name}: {error.strerror}") from error
        if ended.returncode < 0:
            raise StoreError(f"{self.program} was killed by signal {-ended.returncode} while storing {stored_name}")
        if ended.returncode:
            raise StoreError(f"{self.program} failed to store {stored_name}: exit status {ended.returncode}")

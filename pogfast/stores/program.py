"""A program as a store: run as `PROGRAM <stored name> <file>` for each blob and manifest, as pog does.

The file is encrypted, and deleted when the program ends. The program's standard output is discarded; its standard
error is the user's. An exit status other than 0 is an error.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

from pogfast.errors import StoreError
from pogfast.system.environment import for_child

if TYPE_CHECKING:
    from pogfast.stores.names import Stored


class ProgramStore:
    """Passes every blob and manifest to a user's program. Write-only: a program cannot be asked what it has stored."""

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

    def sizes_of(self, names: Sequence[str]) -> list[int | None]:
        """Returns nothing but None: a program cannot be asked."""
        return [None] * len(names)

    def blobs(self, name: str, blob: memoryview) -> None:
        self._run(f"data/{name[:2]}/{name}", blob)

    def manifests(self) -> list[Stored]:
        """Returns nothing: a program cannot be asked."""
        return []

    def marks(self) -> list[Stored]:
        """Returns nothing: a store that cannot be listed is never pruned."""
        return []

    def prune_marks(self) -> list[Stored]:
        """As `marks`."""
        return []

    def named(self, prefix: str) -> list[Stored]:
        """As `marks`."""
        return []

    def get_manifest(self, name: str) -> bytes:
        """Raises StoreError."""
        raise StoreError(f"{self.label} is a program: nothing can be read from it")

    def put_mark(self, name: str, data: bytes) -> None:
        """Does nothing: no prune would read the mark."""

    def doubt(self, names: Iterable[str]) -> None:
        """Does nothing: the program gets every blob anyway."""

    def blobs_only_in(self, objects: Collection[str], listed: Collection[str]) -> set[str]:
        """Returns nothing: a program is never pruned."""
        return set()

    def missing(self, names: Iterable[str]) -> list[str]:
        """Returns nothing: a program cannot be asked, so what it has stored is assumed to exist."""
        return []

    def begin_durable(self) -> None:
        """Does nothing: a program stores at once."""

    def own_directories(self) -> dict[tuple[int, int], tuple[str, Callable[[str], bool]]]:
        """Returns none: where a program stores is not known."""
        return {}

    def make_durable(self) -> None:
        """Does nothing: a program that exits with status 0 is trusted to have stored what it got."""

    def put_manifest(self, name: str, data: bytes) -> None:
        self._run(name, data)

    def delete_manifests(self, names: Iterable[str]) -> None:
        """Does nothing: a program cannot delete."""

    def close(self) -> None:
        """Does nothing: nothing stays open between two runs."""

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

"""The errors of all commands, one class per kind, each with its exit code.

Imports nothing of ours. A message is one line and names the blob, file or store; `hint`, if not empty, says what to do
next. Damage is never reported as a wrong key, nor a wrong key as damage.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import TypeVar

    Error = TypeVar("Error", bound="PogfastError")


class PogfastError(Exception):
    """The base class. `exit_code` is the exit code of a command that fails with it; `path` and `reason` are the file or
    entry that it is about and what is wrong with it, if known."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "", *, path: str = "", reason: str = "") -> None:
        super().__init__(message)
        self.hint = hint
        self.path = path
        self.reason = reason


def worst_code(codes: Iterable[int]) -> int:
    """Returns the one exit code of a command that met several problems: damage (4) first, else the highest, but 75 only
    if nothing else failed; 0 for none."""
    found = set(codes)
    if found - {0, NotRun.exit_code}:
        found.discard(NotRun.exit_code)
    return DamageError.exit_code if DamageError.exit_code in found else max(found, default=0)


def without_frames(error: Error) -> Error:
    """Returns an error without its traceback and its causes. Their frames keep what they worked on in memory, such as a
    whole manifest."""
    error.__traceback__ = error.__context__ = error.__cause__ = None
    return error


class ReaderGone(PogfastError):
    """The program that reads standard output has exited, as `head` does. Not a failure: nothing is printed."""

    exit_code = 141  # what a shell shows for a program that was killed by SIGPIPE


class UsageError(PogfastError):
    """The command line, or an argument of a function, is invalid."""

    exit_code = 2


class SourceError(PogfastError):
    """A file could not be read for the archive; the rest was archived."""

    exit_code = 3


class MissingSource(SourceError):
    """A file or directory that was named is not there, as on a disk that is not mounted; the rest was archived."""


class TargetError(PogfastError):
    """A file could not be restored; the rest was."""

    exit_code = 3


class Unproven(PogfastError):
    """Part of a store's data was not read for longer than is allowed."""

    exit_code = 3


class UnsafePath(PogfastError):
    """An entry's path would lead outside the target directory, or through a symbolic link."""

    exit_code = 3


class NoSuchEntry(PogfastError):
    """A requested name is not in the archive."""

    exit_code = 3


class DamageError(PogfastError):
    """Stored data is missing or altered."""

    exit_code = 4


class MissingBlob(DamageError):
    """A blob that a manifest names is not in the store."""


class CorruptBlob(DamageError):
    """A blob does not authenticate, is truncated, or does not decompress."""


class WrongBlob(DamageError):
    """A blob authenticates, but its content does not match its name: it was swapped for another."""


class CorruptManifest(DamageError):
    """A manifest's header unwraps, but the rest does not authenticate or parse."""


class CorruptPack(DamageError):
    """A pack of blobs, or an index object of packs, is truncated, altered, or does not parse."""


class NoArchives(DamageError):
    """A store has blobs, but no archive that names them."""


class StoreError(PogfastError):
    """A store cannot be read or written: no space, no permission, or a program that failed."""


class Exists(StoreError):
    """The name exists in the store already."""


class StoreLost(PogfastError):
    """One of several stores can no longer be used; the others have the archive."""

    exit_code = 3


class OtherKey(PogfastError):
    """Some archives of a store do not open with this key; the others were processed."""

    exit_code = 3


class PassedOver(PogfastError):
    """A newer archive than the one that was used cannot be opened."""

    exit_code = 3


class NoSuchArchive(PogfastError):
    """The store, archive or blob does not exist."""

    exit_code = 10


class KeyFileError(PogfastError):
    """A key file is missing, unreadable, of the wrong size, unsuitable, or would be overwritten."""


class WrongKey(PogfastError):
    """The header does not unwrap with this key."""

    exit_code = 12


class NotRun(PogfastError):
    """Something that a run needs is not there, or another run is under way: nothing was run."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h: to be tried again later


class NoSuchInput(PogfastError):
    """An input of pog matches no file."""

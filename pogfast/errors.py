"""Every way a command of ours can fail, one class a kind, each with the exit code it ends in.

Imports nothing of ours. A message names the blob, file or store it is about and fits one line; `hint`, where there is
one, says what to do next. Damage never looks like a wrong key, nor the other way round.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


class PogfastError(Exception):
    """The root of the tree. `exit_code` is what a command that ends with it returns; `path` and `reason` say which file
    or entry it is about, and what is wrong with it, where that is known."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "", *, path: str = "", reason: str = "") -> None:
        super().__init__(message)
        self.hint = hint
        self.path = path
        self.reason = reason


def worst_code(codes: Iterable[int]) -> int:
    """Returns the one exit code of a command that met several problems: damage (4) first, else the highest; 0 for
    none."""
    found = set(codes)
    return DamageError.exit_code if DamageError.exit_code in found else max(found, default=0)


class ReaderGone(PogfastError):
    """The program that reads standard output has ended, as `head` does. It is no failure, and nothing is said."""

    exit_code = 141  # what a shell shows for a program that SIGPIPE has ended


class UsageError(PogfastError):
    """The command line asks for something that cannot be meant."""

    exit_code = 2


class SourceError(PogfastError):
    """A file that was to be archived could not be read; the rest was done."""

    exit_code = 3


class TargetError(PogfastError):
    """A file that was to be restored could not be written; the rest was done."""

    exit_code = 3


class UnsafePath(PogfastError):
    """An entry's path would leave the directory that is restored into, or pass through a link."""

    exit_code = 3


class NoSuchEntry(PogfastError):
    """A name that was asked for is not in the archive."""

    exit_code = 3


class DamageError(PogfastError):
    """What was stored is not there, or not what was stored."""

    exit_code = 4


class MissingBlob(DamageError):
    """A blob that the manifest names is not in the store."""


class CorruptBlob(DamageError):
    """A blob does not authenticate, is cut short, or does not decompress."""


class WrongBlob(DamageError):
    """A blob authenticates, but its content is not its name's: it was swapped for another."""


class CorruptManifest(DamageError):
    """A manifest's header unwraps, but the rest does not authenticate or parse."""


class NoArchives(DamageError):
    """A store has blobs, and not one archive that says what they are."""


class StoreError(PogfastError):
    """A store cannot be read or written: no space, no permission, a program that failed."""


class Exists(StoreError):
    """Something in a store has that name already."""


class StoreLost(PogfastError):
    """One of several stores cannot be written to any more; the others have the archive."""

    exit_code = 3


class OtherKey(PogfastError):
    """Some archives of a store do not open with this key; the others were dealt with."""

    exit_code = 3


class PassedOver(PogfastError):
    """A newer archive than the one that was taken cannot be opened."""

    exit_code = 3


class NoSuchArchive(PogfastError):
    """There is no such store, archive or blob."""

    exit_code = 10


class KeyFileError(PogfastError):
    """A key file is missing, unreadable, of the wrong size, or would be overwritten."""


class WrongKey(PogfastError):
    """No header unwraps with this key."""

    exit_code = 12


class NoSuchInput(PogfastError):
    """An input that was to be archived stands for no file."""

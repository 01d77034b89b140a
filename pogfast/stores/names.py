"""The names of what lies in a store: blobs, manifests, and the marks beside them. FORMAT.md lists them.

Text only: nothing here accesses a store.
"""

from __future__ import annotations

import re
from typing import NamedTuple

# A name that a blob can have. Whether a file of this name is a blob shows only when it is opened.
LIKE_A_BLOB = re.compile(r"[A-Za-z0-9_-]{43}=")
NAME_LENGTH = 44
MANIFEST = ".mfn"
# The marks beside the manifests: removed archives, which undelete restores; partial manifests of running backups; lists
# of blobs that no archive needs; marks of a prune that is deleting such blobs, and of one that has.
REMOVED = ".removed"
PARTIAL = ".partial"
CONDEMNED = "condemned-"
SWEEP = "sweep."
SWEEPING = SWEEP + "running-"
SWEPT = SWEEP + "done-"
# A file that prune writes to read the time of the store's clock.
STAMP = SWEEP + "time-"
# Tables of which parts of the store were read when: blobs by readers with a key, packs by those without one.
VERIFIED = "verified."
VERIFIED_BLOBS = VERIFIED + "blobs-"
VERIFIED_PACKS = VERIFIED + "packs-"
# Objects that are named by their paths: packs, their index, and what a store requires of its readers.
PACKS = "packs/"
SETTINGS = "pogfast.store"
MAX_SETTINGS = 64 << 10  # bytes; written are about a hundred
# Prefix of the temporary directories of tune.
MEASURING = ".pogfast-tune-"
# Prefix of blobs that were moved aside to be deleted, and can still be put back.
TRASH = ".pogfast-trash-"
# Prefix of all our other names; no user's file has it.
OWN = ".pogfast-"


class Stored(NamedTuple):
    """A blob, manifest or mark in a store: its name there, its size in bytes, and when it was written (seconds since
    1970, by the store's clock). `version` changes when it is rewritten; "" if the store has none. What `is_cold` has to
    be thawed before it can be read."""

    name: str
    size: int
    modified: float
    version: str = ""
    is_cold: bool = False


def is_manifest(name: str) -> bool:
    """Returns True for the name of a manifest. Hidden ones are metadata that other systems keep beside a file."""
    return name.endswith(MANIFEST) and not name.startswith(".")


def is_removed(name: str) -> bool:
    """Returns True for the manifest of a removed archive, which undelete can restore."""
    return name.endswith(MANIFEST + REMOVED) and not name.startswith(".")


def is_partial(name: str) -> bool:
    """Returns True for the partial manifest of a backup that is running or was killed."""
    return name.endswith(MANIFEST + PARTIAL) and not name.startswith(".")


def is_mark(name: str) -> bool:
    """Returns True for one of our files beside the manifests."""
    return is_removed(name) or is_partial(name) or name.startswith((SWEEP, CONDEMNED))


def is_path(name: str) -> bool:
    """Returns True for an object that is named by its path: a pack, an index object, or the store's file."""
    return "/" in name or name == SETTINGS


def is_like_a_blob(name: str) -> bool:
    return LIKE_A_BLOB.fullmatch(name) is not None

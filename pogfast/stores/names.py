"""The names that lie in a store: blobs, manifests and what stands beside them.

Names only: nothing here looks into a store. FORMAT.md lists them.
"""

from __future__ import annotations

import re
from typing import NamedTuple

# What lies where a blob can lie and is named like one; whether it is one shows when it is opened.
LIKE_A_BLOB = re.compile(r"[A-Za-z0-9_-]{43}=")
NAME_LENGTH = 44
MANIFEST = ".mfn"
# What else lies beside manifests: archives that were removed and can be brought back; what a run that goes on has
# stored so far; lists of blobs that nothing needs; what a prune says of itself while it deletes them, and afterwards.
REMOVED = ".removed"
PARTIAL = ".partial"
CONDEMNED = "condemned-"
SWEEP = "sweep."
SWEEPING = SWEEP + "running-"
SWEPT = SWEEP + "done-"
# What a prune writes to learn the store's own time.
STAMP = SWEEP + "time-"
# Begins the names of directories that tune makes for its time.
MEASURING = ".pogfast-tune-"
# Begins the names of blobs that are about to be deleted, and can still be put back.
TRASH = ".pogfast-trash-"
# Begins every other name that is ours and stands for nothing of a user's.
OWN = ".pogfast-"


class Stored(NamedTuple):
    """A blob or manifest that lies in a store: its name there, its bytes, and when it was written (seconds since
    1970, by the store's clock)."""

    name: str
    size: int
    modified: float
    version: str = ""


def is_manifest(name: str) -> bool:
    # Hidden ones are other systems' notes on a manifest, not manifests.
    return name.endswith(MANIFEST) and not name.startswith(".")


def is_removed(name: str) -> bool:
    """Whether it is the manifest of an archive that was removed and can be brought back."""
    return name.endswith(MANIFEST + REMOVED) and not name.startswith(".")


def is_partial(name: str) -> bool:
    """Whether it is the manifest of what a run that goes on, or was killed, has stored."""
    return name.endswith(MANIFEST + PARTIAL) and not name.startswith(".")


def is_mark(name: str) -> bool:
    """Whether something beside the manifests is ours."""
    return is_removed(name) or is_partial(name) or name.startswith((SWEEP, CONDEMNED))


def is_like_a_blob(name: str) -> bool:
    return LIKE_A_BLOB.fullmatch(name) is not None

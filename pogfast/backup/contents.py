"""The manifest of a run while it grows: entries of files, and the trailer with everything else.

Collects what is archived and what could not be. The key seals it; nothing here reads a file's content.
"""

from __future__ import annotations

import getpass
import os
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from pogfast import __version__, manifest
from pogfast._engine import BlobSet, FileRun
from pogfast.backup.options import Options
from pogfast.backup.report import Summary
from pogfast.backup.walk import Node
from pogfast.files.metadata import owner_names
from pogfast.keys import Key
from pogfast.stores.publish import seconds_of

# Sections of the trailer, see FORMAT.md.
SECTIONS = ("top", "parents", "directories", "links", "fifos", "skipped", "unreadable")


class Contents:
    """What an archive contains so far."""

    def __init__(self, key: Key, options: Options, paths: Sequence[str], begun: datetime, summary: Summary) -> None:
        self.writer = manifest.Writer(key)
        self.options = options
        self.cuts = options.cuts
        self.paths = paths
        self.begun = begun
        self.summary = summary
        self.sections: dict[str, dict[str, Any]] = {kind: {} for kind in SECTIONS}
        self.changed: list[str] = []  # files that changed each time they were read
        self.shared: dict[str, manifest.Entry] = {}  # of files with several names, by archived name
        self._distinct = BlobSet()
        self._owners: dict[tuple[int, int], bytes] = {}  # as entries have them, by uid and gid

    @property
    def is_empty(self) -> bool:
        """True if the archive has no entry of any kind."""
        return not len(self.writer) and not any(self.sections[kind] for kind in ("directories", "links", "fifos"))

    def add(self, node: Node, blobs: list[str], stored: list[int], more: dict[str, Any]) -> None:
        """Adds a file; `stored` are the bytes of each of its blobs in the store, `more` its facts and sizes."""
        more["stored"] = stored
        entry = manifest.Entry(blobs, seconds_of(more["atime_ns"]), seconds_of(more["mtime_ns"]), more)
        self.writer.add(node.name, entry)
        if node.stat.st_nlink > 1:
            self.shared[node.name] = entry
        self._count(blobs, stored)

    def add_files(self, files: FileRun, begin: int, end: int) -> None:
        """Adds some files of a run, whose blobs are known."""
        blobs, stored = files.blobs(begin, end)
        above = manifest.encoded(files.above)[:-1]  # without the quotation mark at its end
        members = files.entries(begin, end, above, self._owners, _encoded_owner, manifest.encoded)
        self.writer.add_encoded(members, blobs, stored)
        self._count(blobs, stored)

    def _count(self, blobs: list[str], stored: list[int]) -> None:
        new = self._distinct.add(blobs, stored)
        self.summary.bytes_stored += new
        self.summary.bytes_repeated += sum(stored) - new

    def add_hard_link(self, name: str, first: str) -> bool:
        """Adds a further name of the file `first`. Returns False if that is not in the archive."""
        entry = self.shared.get(first)
        if entry is None:
            return False
        more = {**entry.more, "hardlink": first}
        self.writer.add(name, manifest.Entry(entry.blobs, entry.atime, entry.mtime, more))
        return True

    def trailer(self) -> dict[str, Any]:
        """Returns the trailer as FORMAT.md describes it, without what is empty."""
        options, sections = self.options, self.sections
        directories = sections["directories"]
        words = {
            "program": f"pogfast {__version__}",
            "time": self.begun.isoformat(),
            "ended": datetime.now().astimezone().isoformat(),
            "host": options.host if options.host is not None else host_name(),
            "user": _user(),
            "tags": list(options.tags),
            "comment": options.comment,
            "paths": [os.path.abspath(os.path.join(options.base or ".", path)) for path in self.paths],
            "layout": options.layout,
            "chunk_size": self.cuts.maximum,
            "chunker": str(self.cuts) if self.cuts.by_content else "",
            "level": options.level,
            **sections,
            "parents": {name: facts for name, facts in sections["parents"].items() if name not in directories},
            "changed": self.changed,
        }
        return {**{word: value for word, value in words.items() if value not in ("", [], {})}, "totals": self._totals()}

    def _totals(self) -> dict[str, int]:
        return {
            "files": len(self.writer),
            "directories": len(self.sections["directories"]),
            "links": len(self.sections["links"]),
            "fifos": len(self.sections["fifos"]),
            "size": self.summary.bytes_source,
            "stored": self.summary.bytes_stored,
            "added": self.summary.bytes_added,
        }


def _encoded_owner(uid: int, gid: int) -> bytes:
    """Returns the facts that name an owner as they stand between others in an entry."""
    names = owner_names(uid, gid)
    return b"," + manifest.encoded(names)[1:-1] if names else b""


def host_name() -> str:
    """Returns what archives call this machine unless they are told."""
    return os.uname().nodename


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())

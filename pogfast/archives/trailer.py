"""The trailer of a manifest, read with types: host, time, tags, directories and more; and filters by these.

A trailer is authenticated, but any program with the key may have written it, and pog writes none. So a value of another
type than FORMAT.md says counts as absent when it is only shown or compared. If that would lose data, `required` raises
CorruptManifest instead.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, Protocol

from pogfast.archives.refusals import require_decryption
from pogfast.errors import CorruptManifest
from pogfast.keys import Key
from pogfast.stores import MANIFEST, PARTIAL

Kind = Literal["file", "directory", "link", "fifo"]
# The sections of a trailer that list what is not a file.
SECTIONS: dict[Kind, str] = {"directory": "directories", "link": "links", "fifo": "fifos"}
# Stands for the directory that was archived as `.` or `/`. No archived name is this.
TOP = "."


@dataclass(frozen=True, slots=True)
class Trailer:
    """A trailer as it was read (None: the manifest has none), with properties for its well-formed values."""

    words: Mapping[str, Any] | None

    def text(self, word: str) -> str:
        """Returns "" for anything but a string."""
        value = self._get(word)
        return value if isinstance(value, str) else ""

    def texts(self, word: str) -> list[str]:
        """Returns the strings in a list, [] for anything but a list."""
        value = self._get(word)
        return [text for text in value if isinstance(text, str)] if isinstance(value, list) else []

    def number(self, word: str) -> int | None:
        """Returns None for anything but an integer from 0 on."""
        value = self._get(word)
        return value if type(value) is int and value >= 0 else None

    def section(self, word: str) -> dict[str, dict[str, Any]]:
        """Returns the names in a section with their metadata, {} if any of it is malformed."""
        value = self._get(word)
        return value if isinstance(value, dict) and all(isinstance(each, dict) for each in value.values()) else {}

    def names(self, word: str) -> list[str]:
        """Returns the names in a section, whatever is said of them; [] for anything but a section."""
        value = self._get(word)
        return list(value) if isinstance(value, dict) else []

    def count(self, word: str) -> int:
        """Returns how many names a section or a list has, 0 for anything else."""
        value = self._get(word)
        return len(value) if isinstance(value, dict | list) else 0

    def required(self, word: str, archive: str = "the archive") -> dict[str, Any]:
        """Returns a section, {} if there is none. Raises CorruptManifest if it is malformed, for callers who would
        otherwise lose what is in it."""
        value = {} if self.words is None else self.words.get(word, {})
        if not isinstance(value, dict):
            raise CorruptManifest(f"{archive}'s trailer is malformed: {word}")
        return value

    def _get(self, word: str) -> Any:
        return None if self.words is None else self.words.get(word)

    # ---- values that FORMAT.md names ----

    @property
    def time(self) -> datetime | None:
        """When the backup began, with a time zone."""
        return _parsed(self.text("time"))

    @property
    def host(self) -> str:
        return self.text("host")

    @property
    def tags(self) -> list[str]:
        return self.texts("tags")

    @property
    def comment(self) -> str:
        return self.text("comment")

    @property
    def paths(self) -> list[str]:
        """What was archived, as absolute paths."""
        return self.texts("paths")

    @property
    def program(self) -> str:
        return self.text("program")

    @property
    def layout(self) -> str:
        """`frames` or `stream`; "" where the trailer does not say."""
        return self.text("layout")

    @property
    def chunk_size(self) -> int | None:
        return self.number("chunk_size")

    @property
    def chunker(self) -> str:
        """How files were cut by content, as Chunker.parse reads it; else ""."""
        return self.text("chunker")

    @property
    def level(self) -> int | None:
        value = self._get("level")
        return value if type(value) is int else None

    def total(self, word: str) -> int | None:
        """Returns one of the counts of an archive, such as `files`, `size` and `stored` bytes; None if unknown."""
        totals = self._get("totals")
        value = totals.get(word) if isinstance(totals, dict) else None
        return value if type(value) is int else None

    @property
    def totals(self) -> dict[str, int]:
        """Returns all counts of an archive."""
        value = self._get("totals")
        return {word: n for word, n in value.items() if type(n) is int} if isinstance(value, dict) else {}

    @property
    def top(self) -> dict[str, Any] | None:
        """The metadata of the directory that was archived as `.` or `/`."""
        value = self._get("top")
        return value if isinstance(value, dict) else None


def time_of(trailer: Trailer, name: str) -> datetime | None:
    """Returns when an archive was made, with a time zone: from its trailer, else from its manifest's name, which is
    taken for a time of this machine's zone. None if neither says."""
    return trailer.time or _parsed(_stem(name))


def is_local(trailer: Trailer, name: str) -> bool:
    """Returns True if an archive's time is known from its name alone: its writer's local time, in an unknown zone."""
    try:
        return not trailer.time and datetime.fromisoformat(_stem(name)).tzinfo is None
    except ValueError:
        return False


def _stem(name: str) -> str:
    return name.removesuffix(PARTIAL).removesuffix(MANIFEST)


def _parsed(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError, OSError):
        return None


class Filterable(Protocol):
    """What a filter looks at: a trailer, or an archive in a list."""

    @property
    def host(self) -> str: ...

    @property
    def tags(self) -> list[str]: ...

    @property
    def paths(self) -> list[str]: ...


@dataclass(frozen=True)
class Filter:
    """Selects archives: of this host, with all these tags, of this absolute path. Empty: all."""

    host: str | None = None
    tags: frozenset[str] = frozenset()
    path: str | None = None

    @classmethod
    def of(cls, host: str | None, tags: Collection[str], path: str | None) -> Filter:
        return cls(host, frozenset(tags), None if path is None else os.path.abspath(path))

    def require(self, key: Key) -> None:
        """Raises WrongKey if archives are to be selected by what this key cannot see."""
        if self != Filter():
            require_decryption(key, "tell hosts, tags and paths")

    def fits(self, archive: Filterable) -> bool:
        """Returns True if an archive is selected."""
        return (
            self.host in (None, archive.host)
            and self.tags <= set(archive.tags)
            and (self.path is None or self.path in archive.paths)
        )

    def __str__(self) -> str:
        words = [f"from host {self.host}"] if self.host is not None else []
        words += [f"with tag {tag}" for tag in sorted(self.tags)]
        return " ".join(words + ([f"of {self.path}"] if self.path is not None else []))

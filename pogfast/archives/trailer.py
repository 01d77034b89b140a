"""A trailer's words, as far as they are what FORMAT.md says, and the filter over them: host, tags, path.

A trailer is sealed, and still whoever could write into the store may have written it: what is of another type than it
should be counts as absent.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from pogfast.archives.refusals import require_decryption
from pogfast.keys import Key
from pogfast.stores import MANIFEST, PARTIAL


def time_of(trailer: Mapping[str, Any], name: str) -> datetime | None:
    """When an archive was made, with a zone. None when neither its trailer nor its manifest's name say so."""
    return _time(text_of(trailer, "time")) or _time(_stem(name))


def is_local(trailer: Mapping[str, Any], name: str) -> bool:
    """Returns True if all that is known of an archive's time is what its writer's clock showed, in whatever zone."""
    try:
        return not _time(text_of(trailer, "time")) and datetime.fromisoformat(_stem(name)).tzinfo is None
    except ValueError:
        return False


def _stem(name: str) -> str:
    return name.removesuffix(PARTIAL).removesuffix(MANIFEST)


def _time(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError, OSError):
        return None


def text_of(trailer: Mapping[str, Any], key: str) -> str:
    value = trailer.get(key)
    return value if isinstance(value, str) else ""


def texts_of(trailer: Mapping[str, Any], key: str) -> list[str]:
    value = trailer.get(key)
    return [text for text in value if isinstance(text, str)] if isinstance(value, list) else []


def number_of(trailer: Mapping[str, Any], key: str) -> int | None:
    value = trailer.get(key)
    return value if type(value) is int and value >= 0 else None


def totals_of(trailer: Mapping[str, Any]) -> dict[str, int]:
    """What a trailer counts."""
    value = trailer.get("totals")
    return {key: n for key, n in value.items() if type(n) is int} if isinstance(value, dict) else {}


def section_of(trailer: Mapping[str, Any], key: str) -> dict[str, dict[str, Any]]:
    value = trailer.get(key)
    return value if isinstance(value, dict) and all(isinstance(facts, dict) for facts in value.values()) else {}


@dataclass(frozen=True)
class Filter:
    """Which archives are meant: of this host, with all these tags, of this absolute path. Empty: all."""

    host: str | None = None
    tags: frozenset[str] = frozenset()
    path: str | None = None

    @classmethod
    def of(cls, host: str | None, tags: Collection[str], path: str | None) -> Filter:
        return cls(host, frozenset(tags), None if path is None else os.path.abspath(path))

    def require(self, key: Key) -> None:
        """Raises WrongKey if archives are to be chosen by what this key cannot see."""
        if self != Filter():
            require_decryption(key, "tell hosts, tags and paths")

    def fits(self, trailer: Mapping[str, Any]) -> bool:
        return (
            self.host in (None, text_of(trailer, "host"))
            and self.tags <= set(texts_of(trailer, "tags"))
            and (self.path is None or self.path in texts_of(trailer, "paths"))
        )

    def __str__(self) -> str:
        words = [f"of host {self.host}"] if self.host is not None else []
        words += [f"with tag {tag}" for tag in sorted(self.tags)]
        return " ".join(words + ([f"of {self.path}"] if self.path is not None else []))


Kind = Literal["file", "directory", "link", "fifo"]
# Where the trailer has what is no file.
SECTIONS: dict[Kind, str] = {"directory": "directories", "link": "links", "fifo": "fifos"}
# What the directory is called that was archived as `.` or `/`: no archived name is this.
TOP = "."

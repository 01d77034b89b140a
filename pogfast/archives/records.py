"""The base class of dataclasses that can be shown as JSON.

Lists and statistics of archives consist of these.
"""

from __future__ import annotations

from dataclasses import fields
from datetime import datetime
from typing import Any


class Record:
    """A dataclass that can be shown as JSON."""

    __slots__ = ()

    def as_dict(self) -> dict[str, Any]:
        """Returns the fields; times become ISO 8601 text, records in fields become dictionaries."""
        return {item.name: _shown(getattr(self, item.name)) for item in fields(self)}  # type: ignore[arg-type]


def _shown(value: Any) -> Any:
    if isinstance(value, Record):
        return value.as_dict()
    if isinstance(value, datetime):
        return value.isoformat()
    return [_shown(item) for item in value] if isinstance(value, list | tuple) else value

"""What lists and figures are made of: dataclasses that can be shown as JSON.

What is in them is for each to say.
"""

from __future__ import annotations

from dataclasses import fields
from datetime import datetime
from typing import Any


class Record:
    """A dataclass that can be shown as JSON."""

    __slots__ = ()

    def as_dict(self) -> dict[str, Any]:
        """Its fields; a time as ISO 8601 text, records within as dictionaries."""
        return {item.name: _shown(getattr(self, item.name)) for item in fields(self)}  # type: ignore[arg-type]


def _shown(value: Any) -> Any:
    if isinstance(value, Record):
        return value.as_dict()
    if isinstance(value, datetime):
        return value.isoformat()
    return [_shown(item) for item in value] if isinstance(value, list | tuple) else value

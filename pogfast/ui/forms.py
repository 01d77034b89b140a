"""Forms and links: what the browser sends, as text with limits, and names as tokens.

A value that is missing or malformed raises UsageError, which becomes a message on the page.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import parse_qs, urlencode

from pogfast.errors import UsageError
from pogfast.sizes import parse_whole
from pogfast.ui.words import name_of, token

MAX_FIELDS = 100_000  # of a form: ticked names, most of them


class Form:
    """The fields of a form or of a link."""

    def __init__(self, fields: Mapping[str, list[str]]) -> None:
        self._fields = fields

    @classmethod
    def parse(cls, raw: bytes) -> Form:
        """Raises UsageError."""
        try:
            text = raw.decode("ascii")
            return cls(parse_qs(text, keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS))
        except ValueError as error:
            raise UsageError("the form does not parse") from error

    def text(self, field: str, default: str = "") -> str:
        """Returns a field without spaces around it."""
        return self._fields.get(field, [default])[0].strip()

    def secret(self, field: str) -> str:
        """Returns a field exactly as it was typed."""
        return self._fields.get(field, [""])[0]

    def texts(self, field: str) -> list[str]:
        return [text for text in self._fields.get(field, []) if text]

    def lines(self, field: str) -> list[str]:
        """Returns the lines of a text area that are not empty."""
        return [line.strip() for line in self.text(field).splitlines() if line.strip()]

    def on(self, field: str) -> bool:
        return bool(self.text(field))

    def number(self, field: str, default: int, minimum: int = 0, maximum: int = 10**9) -> int:
        """Raises UsageError."""
        text = self.text(field)
        return parse_whole(field, text, minimum, maximum) if text else default

    def name(self, field: str) -> str:
        """Returns the name that a token means, "" if there is none. Raises UsageError."""
        return name_of(self._fields.get(field, [""])[0])

    def names(self, field: str) -> list[str]:
        """Raises UsageError."""
        return [name_of(text) for text in self.texts(field)]

    def choice(self, field: str, choices: tuple[str, ...]) -> str:
        """Returns one of the choices, the first if none is given. Raises UsageError."""
        found = self.text(field, choices[0]) or choices[0]
        if found not in choices:
            raise UsageError(f"{field} must be one of {', '.join(choices)}")
        return found


def link(page: str, /, **fields: object) -> str:
    """Returns the path of a page with a query; strings are names and become tokens, None and "" are left out."""
    given = {word: token(value) if isinstance(value, str) else value for word, value in fields.items()}
    query = urlencode({word: value for word, value in given.items() if value not in (None, "")})
    return f"{page}?{query}" if query else page

"""Converts names and other text between two encodings: the locale's in this process, and UTF-8 wherever it is stored.

In the process, text stands for bytes as os.fsdecode decodes them, so that all system functions accept it and the same
bytes are printed. Stored text (manifests, caches, JSON output) is the same bytes decoded as UTF-8 with surrogate
escapes, whatever the locale: else a name archived under LC_ALL=de_DE.ISO-8859-1 would be restored as another one
elsewhere. In UTF-8 locales both are the same and nothing is done. Text that stands for no bytes is left unchanged.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

IS_UTF8 = sys.getfilesystemencoding() == "utf-8"


def portable(text: str) -> str:
    """Converts text of this process to stored text."""
    return text if IS_UTF8 or text.isascii() else _recoded(text, os.fsencode, os.fsdecode, _from_utf8)


def local(text: str) -> str:
    """Converts stored text to text of this process."""
    return text if IS_UTF8 or text.isascii() else _recoded(text, _to_utf8, _from_utf8, os.fsdecode)


def portable_all(value: Any) -> Any:
    """Converts all text in a JSON value, including the keys of objects, to stored text."""
    return value if IS_UTF8 else _mapped(value, portable)


def local_all(value: Any) -> Any:
    """Converts all text in a JSON value to text of this process."""
    return value if IS_UTF8 else _mapped(value, local)


def bytes_of(text: str) -> bytes:
    """Returns the bytes of text; a character without any, such as \\u2026 in ISO 8859-1, becomes an escape."""
    try:
        return os.fsencode(text)
    except UnicodeEncodeError:
        return b"".join(map(_bytes_of, text))


def _bytes_of(character: str) -> bytes:
    try:
        return os.fsencode(character)
    except UnicodeEncodeError:
        return character.encode("ascii", "backslashreplace")


def _to_utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _from_utf8(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _recoded(
    text: str, encode: Callable[[str], bytes], decode: Callable[[bytes], str], other: Callable[[bytes], str]
) -> str:
    """Encodes text and decodes it with `other`; returns it unchanged if `decode` would not give the text back."""
    try:
        raw = encode(text)
    except UnicodeEncodeError:
        return text
    return other(raw) if decode(raw) == text else text


def _mapped(value: Any, recode: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return recode(value)
    if isinstance(value, dict):
        return {recode(key): _mapped(item, recode) for key, item in value.items()}
    return [_mapped(item, recode) for item in value] if isinstance(value, list | tuple) else value

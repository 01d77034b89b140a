"""Names and other words as text, in two encodings: the locale's within this process, UTF-8 wherever they are kept.

Within the process text stands for bytes as os.fsdecode has it, so that every function of the system takes it, and the
same bytes are printed. What is kept (manifests, caches, JSON output) says the same bytes in UTF-8 with surrogate
escapes, whatever the locale was: else a name that was archived under LC_ALL=de_DE.ISO-8859-1 would come back as another
one elsewhere. In UTF-8 locales both are the same and nothing is done. Text that stands for no bytes stays as it is.
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
    """Text of this process as it is kept."""
    return text if IS_UTF8 or text.isascii() else _recoded(text, os.fsencode, os.fsdecode, _from_utf8)


def local(text: str) -> str:
    """Text that was kept, as this process has it."""
    return text if IS_UTF8 or text.isascii() else _recoded(text, _to_utf8, _from_utf8, os.fsdecode)


def portable_all(value: Any) -> Any:
    """The same of all text in a value that can be written as JSON, the keys of objects included."""
    return value if IS_UTF8 else _mapped(value, portable)


def local_all(value: Any) -> Any:
    """The same of all text in a value that was read from JSON."""
    return value if IS_UTF8 else _mapped(value, local)


def bytes_of(text: str) -> bytes:
    """The bytes that text stands for; what stands for none, as \\u2026 does in ISO 8859-1, as an escape."""
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
    """Text as `other` reads its bytes; unchanged if `decode` would not have read it from them."""
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

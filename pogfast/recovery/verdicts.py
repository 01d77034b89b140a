"""The engine's verdicts on a blob, as errors and in words.

For restores and for checks alike.
"""

from __future__ import annotations

from pogfast._engine import VERDICT
from pogfast.errors import CorruptBlob, MissingBlob, PogfastError, WrongBlob

# What the engine found, as an error. A header that does not unwrap is damage here: the key has opened the manifest.
DAMAGE: dict[int, tuple[type[PogfastError], str]] = {
    VERDICT["bad header"]: (CorruptBlob, "is damaged: its header does not unwrap"),
    VERDICT["bad body"]: (CorruptBlob, "is damaged or cut short"),
    VERDICT["bad name"]: (WrongBlob, "holds the content of another blob"),
    VERDICT["bad frame"]: (CorruptBlob, "does not decompress to the end of the file"),
    VERDICT["not there"]: (MissingBlob, "is missing"),
}

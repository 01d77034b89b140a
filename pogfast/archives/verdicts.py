"""What is wrong with a damaged blob, as an error class and words that follow its name: the same in every command.

restore and check get a verdict from the engine's workers; what reads a single blob gets an exception.
"""

from __future__ import annotations

from pogfast._engine import VERDICT
from pogfast.errors import CorruptBlob, DamageError, MissingBlob, PogfastError, WrongBlob, WrongKey

Damage = tuple[type[DamageError], str]

# A header that does not unwrap is damage, not a wrong key: the key has opened the manifest.
BAD_HEADER: Damage = CorruptBlob, "is damaged: its header does not unwrap"
WRONG_CONTENT: Damage = WrongBlob, "holds the content of another blob"
MISSING: Damage = MissingBlob, "is missing"

DAMAGE: dict[int, Damage] = {
    VERDICT["bad header"]: BAD_HEADER,
    VERDICT["bad body"]: (CorruptBlob, "is damaged or cut short"),
    VERDICT["bad name"]: WRONG_CONTENT,
    VERDICT["bad frame"]: (CorruptBlob, "does not decompress to what its file should be"),
    VERDICT["not there"]: MISSING,
}

# What raises CorruptBlob does not say whether the blob fails to authenticate or to decompress.
DAMAGE_BY_ERROR: dict[type[PogfastError], Damage] = {
    WrongKey: BAD_HEADER,
    WrongBlob: WRONG_CONTENT,
    MissingBlob: MISSING,
    CorruptBlob: (CorruptBlob, "is damaged, cut short or of another length"),
}

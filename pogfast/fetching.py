"""A blob from wherever it lies: what seems damaged is fetched once more, since that may have happened on the way.

Knows no key and no store: what is good is for a function to say that the caller brings. The engine does the same for
what goes through Opener.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from pogfast.errors import DamageError, MissingBlob, WrongKey

if TYPE_CHECKING:
    from pogfast._engine import Buffer

Result = TypeVar("Result")


def fetched(get: Callable[[str], Buffer], name: str, look: Callable[[Buffer], Result]) -> Result:
    """Returns what `look` makes of the blob `name` that `get` gives. If `look` finds it damaged, by DamageError or
    WrongKey, the blob is fetched a second time. Raises what `get` and `look` raise."""
    data = get(name)
    try:
        return look(data)
    except MissingBlob:
        raise
    except (DamageError, WrongKey):
        del data
    return look(get(name))

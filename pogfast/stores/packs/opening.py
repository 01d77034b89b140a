"""Opens a store as one with packs, as its `pogfast.store` says, and writes that.

Imported only for stores that have packs, or are to have them.
"""

from __future__ import annotations

from pogfast.errors import CorruptPack
from pogfast.stores.names import SETTINGS
from pogfast.stores.packs import layout
from pogfast.stores.packs.store import PackedStore
from pogfast.stores.protocols import PackableStore


def with_packs(base: PackableStore, found: bytes | None, size: int | None, *, create: bool) -> PackedStore:
    """Returns a store with packs. `found` is its `pogfast.store`; with `size` new packs have so many bytes from now on,
    and None is no longer possible. Where nothing announces the packs, or what cannot be parsed, they can be read, and
    with `create` it is written first. Raises StoreError, also if a newer pogfast wrote it, and CorruptPack if it is to
    be written to and does not parse."""
    settings, lacks_settings = layout.StoreSettings(), found is None
    if found is not None:
        try:
            settings = layout.StoreSettings.parse(found, base.label)
        except CorruptPack as error:
            if create:
                error.hint = "pogfast check STORE --repair writes it again"
                raise
            lacks_settings = True
    if create and lacks_settings:
        size = size or settings.size
    if size is not None and (lacks_settings or not settings.is_packing or settings.size != size):
        settings, lacks_settings = settings.packing(size), False
        base.put_object(SETTINGS, settings.serialize(), replace=True)
    return PackedStore(base, settings, lacks_settings=lacks_settings)

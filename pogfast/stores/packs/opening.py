"""Opens a store as one with packs, as its `pogfast.store` says, and writes that.

Imported only for stores that have packs, or are to have them.
"""

from __future__ import annotations

from pogfast.stores.names import SETTINGS
from pogfast.stores.packs import layout
from pogfast.stores.packs.store import PackedStore
from pogfast.stores.protocols import PackableStore


def with_packs(base: PackableStore, found: bytes | None, size: int | None) -> PackedStore:
    """Returns a store with packs. `found` is its `pogfast.store`; with `size` new packs have so many bytes from now on,
    and None is no longer possible. With neither there are packs in it that nothing announces: they are read. Raises
    StoreError, also if a newer pogfast wrote it."""
    settings = layout.StoreSettings() if found is None else layout.StoreSettings.parse(found, base.label)
    if size is not None and (found is None or not settings.is_packing or settings.size != size):
        settings = settings.packing(size)
        base.put_object(SETTINGS, settings.serialize(), replace=True)
    return PackedStore(base, settings, lacks_settings=found is None and size is None)

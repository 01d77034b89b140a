"""Opens a store as one with packs, as its `pogfast.store` says, and writes that.

Imported only for stores that have packs, or are to have them.
"""

from __future__ import annotations

from typing import cast

from pogfast.stores.names import PACKS, SETTINGS
from pogfast.stores.packs import layout
from pogfast.stores.packs.store import PackedStore
from pogfast.stores.protocols import HoldsPacks, PackableStore, Store


def with_packs(base: PackableStore, found: bytes | None, size: int | None) -> PackedStore:
    """Returns a store with packs. `found` is its `pogfast.store`; with `size` new packs have so many bytes from now on,
    and None is no longer possible. Raises StoreError, also if a newer pogfast wrote it."""
    settings = layout.StoreSettings() if found is None else layout.StoreSettings.parse(found, base.label)
    if size is not None and (found is None or not settings.is_packing or settings.size != size):
        settings = settings.packing(size)
        base.put_object(SETTINGS, settings.serialize(), replace=True)
    return PackedStore(base, settings)


def without_settings(base: Store) -> Store:
    """Returns a store that does not say so as one with packs, if there are any in it. Raises StoreError."""
    if not isinstance(base, HoldsPacks) or not any(layout.is_pack(found.name) for found in base.objects(PACKS)):
        return base
    return PackedStore(cast(PackableStore, base), layout.StoreSettings(), lacks_settings=True)

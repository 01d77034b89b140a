"""The public names and their types; __init__.py looks them up when they are used."""

from pogfast import errors as errors
from pogfast.archive import open_archive as open_archive
from pogfast.backup import create as create
from pogfast.checking import check as check
from pogfast.copying import copy as copy
from pogfast.keys import Key as Key
from pogfast.pruning import prune as prune
from pogfast.pruning import undelete as undelete
from pogfast.recovery import restore as restore
from pogfast.stores import open_store as open_store
from pogfast.tuning import tune as tune

__version__: str
__all__ = [
    "Key",
    "__version__",
    "check",
    "copy",
    "create",
    "errors",
    "open_archive",
    "open_store",
    "prune",
    "restore",
    "tune",
    "undelete",
]

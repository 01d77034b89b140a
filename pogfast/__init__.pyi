"""The types of the public names, which __init__.py looks up when they are used."""

from pogfast import errors as errors
from pogfast.facade import cat as cat
from pogfast.facade import check as check
from pogfast.facade import check_against as check_against
from pogfast.facade import check_config as check_config
from pogfast.facade import copy as copy
from pogfast.facade import create as create
from pogfast.facade import diff as diff
from pogfast.facade import doctor as doctor
from pogfast.facade import find as find
from pogfast.facade import info as info
from pogfast.facade import keygen as keygen
from pogfast.facade import last_reads as last_reads
from pogfast.facade import list_archives as list_archives
from pogfast.facade import lock as lock
from pogfast.facade import ls as ls
from pogfast.facade import merge as merge
from pogfast.facade import open_archive as open_archive
from pogfast.facade import open_key as open_key
from pogfast.facade import open_store as open_store
from pogfast.facade import pack as pack
from pogfast.facade import prune as prune
from pogfast.facade import remove as remove
from pogfast.facade import restore as restore
from pogfast.facade import rewrite as rewrite
from pogfast.facade import run as run
from pogfast.facade import services as services
from pogfast.facade import show_config as show_config
from pogfast.facade import show_key as show_key
from pogfast.facade import stats as stats
from pogfast.facade import thaw as thaw
from pogfast.facade import tune as tune
from pogfast.facade import undelete as undelete
from pogfast.facade import unpack as unpack
from pogfast.keys import Key as Key
from pogfast.stores.limits import RateLimit as RateLimit
from pogfast.stores.settings import Lock as Lock
from pogfast.upkeep.checking import Subset as Subset
from pogfast.upkeep.retention import Policy as Policy
from pogfast.upkeep.retention import Span as Span

__version__: str
__all__ = [
    "Key",
    "Lock",
    "Policy",
    "RateLimit",
    "Span",
    "Subset",
    "__version__",
    "cat",
    "check",
    "check_against",
    "check_config",
    "copy",
    "create",
    "diff",
    "doctor",
    "errors",
    "find",
    "info",
    "keygen",
    "last_reads",
    "list_archives",
    "lock",
    "ls",
    "merge",
    "open_archive",
    "open_key",
    "open_store",
    "pack",
    "prune",
    "remove",
    "restore",
    "rewrite",
    "run",
    "services",
    "show_config",
    "show_key",
    "stats",
    "thaw",
    "tune",
    "undelete",
    "unpack",
]

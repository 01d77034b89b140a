"""pogfast: file encryption and backup at the speed of the machine, in the format of pog.

The Python interface has a function per command, in facade.py (`list` is called `list_archives`, since Python has a
`list`), and the classes that these take. Importing the package imports nothing else, so that the command answers --help
at once: each name is looked up in its module when it is used. __init__.pyi has the types. No module of the package may
have the name of one of these functions, since importing it would hide the function.
"""

__version__ = "0.6.0"
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

# Public name -> its module.
PUBLIC = {
    "Key": "pogfast.keys",
    "Lock": "pogfast.stores.settings",
    "Policy": "pogfast.upkeep.retention",
    "RateLimit": "pogfast.stores.limits",
    "Span": "pogfast.upkeep.retention",
    "Subset": "pogfast.upkeep.checking",
    "cat": "pogfast.facade",
    "check": "pogfast.facade",
    "check_against": "pogfast.facade",
    "check_config": "pogfast.facade",
    "copy": "pogfast.facade",
    "create": "pogfast.facade",
    "diff": "pogfast.facade",
    "doctor": "pogfast.facade",
    "find": "pogfast.facade",
    "info": "pogfast.facade",
    "keygen": "pogfast.facade",
    "last_reads": "pogfast.facade",
    "list_archives": "pogfast.facade",
    "lock": "pogfast.facade",
    "ls": "pogfast.facade",
    "merge": "pogfast.facade",
    "open_archive": "pogfast.facade",
    "open_key": "pogfast.facade",
    "open_store": "pogfast.facade",
    "pack": "pogfast.facade",
    "prune": "pogfast.facade",
    "remove": "pogfast.facade",
    "restore": "pogfast.facade",
    "rewrite": "pogfast.facade",
    "run": "pogfast.facade",
    "services": "pogfast.facade",
    "show_config": "pogfast.facade",
    "show_key": "pogfast.facade",
    "stats": "pogfast.facade",
    "thaw": "pogfast.facade",
    "tune": "pogfast.facade",
    "undelete": "pogfast.facade",
    "unpack": "pogfast.facade",
}


def __getattr__(name: str) -> object:
    if name in PUBLIC or name == "errors":
        from importlib import import_module

        module = import_module(PUBLIC.get(name, "pogfast.errors"))
        return getattr(module, name) if name in PUBLIC else module
    raise AttributeError(f"module 'pogfast' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

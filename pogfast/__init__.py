"""pogfast: file encryption and backup at the speed of the machine, in the format of pog.

`create`, `restore`, `check`, `copy`, `prune`, `undelete`, `tune`, `open_archive`, `open_store`, `Key` and `errors` are
the commands' words as a Python interface. Importing the package imports nothing else, since a command must be able to
answer --help at once: each name is looked up in its module when it is used. __init__.pyi tells type checkers what they
are.
"""

__version__ = "0.6.0"
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

# Name -> the module that has it.
PUBLIC = {
    "Key": "pogfast.keys",
    "check": "pogfast.checking",
    "copy": "pogfast.copying",
    "create": "pogfast.backup",
    "open_archive": "pogfast.archive",
    "open_store": "pogfast.stores",
    "prune": "pogfast.pruning",
    "restore": "pogfast.recovery",
    "tune": "pogfast.tuning",
    "undelete": "pogfast.pruning",
}


def __getattr__(name: str) -> object:
    if name in PUBLIC or name == "errors":
        from importlib import import_module

        module = import_module(PUBLIC.get(name, "pogfast.errors"))
        return getattr(module, name) if name in PUBLIC else module
    raise AttributeError(f"module 'pogfast' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

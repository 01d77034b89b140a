"""Fuzzes one target with atheris: python run.py TARGET [libFuzzer's options and corpus directories]."""

from __future__ import annotations

import contextlib
import importlib
import pkgutil
import resource
import sys

import atheris

with atheris.instrument_imports(include=["pogfast"]):
    import targets

    import pogfast
    from pogfast.errors import UsageError

    for module in pkgutil.walk_packages(pogfast.__path__, "pogfast.", onerror=lambda name: None):
        if module.name != "pogfast.__main__":
            with contextlib.suppress(UsageError, ModuleNotFoundError):  # it needs a package that is not there
                importlib.import_module(module.name)

MAX_FILE = 256 << 20  # bytes that a file may get: what is written stays small, whatever an archive says


def main() -> None:
    target = targets.TARGETS[sys.argv.pop(1)]
    resource.setrlimit(resource.RLIMIT_FSIZE, (MAX_FILE, MAX_FILE))
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()  # ends the process: who runs this removes the sandbox


main()

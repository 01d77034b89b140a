"""Who may import whom, as a table with a reason for each row, held against what the source says.

A row is a package, or a module that lies beside the packages. Imports run downwards only, between these and inside of
each; imports inside functions and for the type checker count as well.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from kit.paths import PACKAGE

# Package or module -> the packages and modules of ours that it may import, and why no others; the lowest first.
MAY_IMPORT: dict[str, tuple[set[str], str]] = {
    "": (set(), "importing the package costs nothing, so that every command answers --help at once"),
    "errors": (set(), "every module raises these, so they depend on none"),
    "system": (set(), "clocks, the environment, encodings and threads: nothing of archives"),
    "_engine": ({"errors"}, "the engine knows blobs only: no manifest, no path policy, no printing"),
    "console": (
        {"errors", "system"},
        "lines, passwords and exit codes: no verb, and nothing that --help has no time for",
    ),
    "sizes": ({"errors"}, "text and numbers of bytes"),
    "keys": ({"_engine", "errors", "sizes", "system"}, "a key wraps file keys wherever blobs and manifests lie"),
    "selftest": ({"_engine"}, "it judges the kernels, and so must not go through anything above them"),
    "files": (
        {"_engine", "errors", "system"},
        "files of this machine, their paths, patterns and metadata: no archive, no key, no blob",
    ),
    "stores": ({"_engine", "errors", "files", "sizes", "system"}, "bytes under names: no key, no manifest's content"),
    "manifest": ({"_engine", "errors", "keys", "system"}, "sealed bytes and back, without I/O"),
    "cluster": (
        {"", "_engine", "errors", "files", "keys", "manifest", "sizes", "stores"},
        "units of work and who does them: no walk and no policy, so that create, restore and check can use it",
    ),
    "archives": (
        {
            "_engine",
            "errors",
            "files",
            "keys",
            "manifest",
            "sizes",
            "stores",
            "system",
        },
        "what is in archives, shown and compared: nothing is restored or changed",
    ),
    "backup": (
        {"", "_engine", "cluster", "errors", "files", "keys", "manifest", "sizes", "stores", "system"},
        "files become blobs and a manifest: it never knows restore, flags or printing",
    ),
    "recovery": (
        {"_engine", "archives", "cluster", "errors", "files", "keys", "manifest", "sizes", "stores"},
        "blobs become files: it never knows create, flags or printing",
    ),
    "upkeep": (
        {
            "_engine",
            "archives",
            "cluster",
            "errors",
            "files",
            "keys",
            "manifest",
            "recovery",
            "sizes",
            "stores",
            "system",
        },
        "what is done to a store's archives after they are made, also restores to nowhere: no file of the user's is "
        "read or written",
    ),
    "pog": (
        {
            "",
            "_engine",
            "archives",
            "console",
            "errors",
            "files",
            "keys",
            "manifest",
            "recovery",
            "sizes",
            "stores",
            "system",
            "upkeep",
        },
        "pogcli's command lines and all that only they need",
    ),
    "tuning": (
        {"_engine", "backup", "errors", "keys", "recovery", "sizes", "stores"},
        "what is tried next, and what is best: the one place that needs both create and restore; no flags, no printing",
    ),
    "config": (
        {"archives", "backup", "errors", "sizes", "stores", "system", "upkeep"},
        "what profiles say, typed and checked against what the verbs take: nothing is opened or run",
    ),
    "runs": (
        {"backup", "config", "errors", "keys", "sizes", "stores", "system", "upkeep"},
        "profiles are run by calling the functions of the verbs: no restore, no flags, no printing",
    ),
    "schedule": (
        {"config", "errors", "stores", "system"},
        "units and cron lines of the command that runs a profile: nothing is run here",
    ),
    "cli": (
        {
            "",
            "archives",
            "backup",
            "cluster",
            "config",
            "console",
            "errors",
            "keys",
            "recovery",
            "runs",
            "schedule",
            "sizes",
            "stores",
            "system",
            "tuning",
            "ui",
            "upkeep",
        },
        "pogfast's verbs: one library call each",
    ),
    "ui": (
        {
            "",
            "archives",
            "backup",
            "config",
            "console",
            "errors",
            "files",
            "keys",
            "recovery",
            "runs",
            "schedule",
            "sizes",
            "stores",
            "system",
            "tuning",
            "upkeep",
        },
        "pages in a browser, beside the command line: each calls the function that a verb calls",
    ),
    "facade": (
        {
            "archives",
            "backup",
            "cluster",
            "config",
            "errors",
            "keys",
            "recovery",
            "runs",
            "sizes",
            "stores",
            "tuning",
            "upkeep",
        },
        "the functions of the package: each calls one of these, and does no work of its own",
    ),
    "__main__": ({"cli"}, "the command where its script is not on the PATH"),
}
# Package or module -> packages from outside the standard library, each with what for.
OUTSIDE: dict[str, dict[str, str]] = {
    "archives": {
        "msgspec": "what is known of ten thousand archives, read in a twentieth of a second",
        "zstandard": "what is written down is small; a file that is read is decompressed a little at a time",
    },
    "cluster": {"distributed": "Dask's scheduler and its protocol; imported when an executor is one"},
    "cli": {"click": "verbs, options, help and completion", "rich": "the bar, on a terminal only"},
    "config": {
        "msgspec": "values of TOML as types, with what is wrong in words",
        "tomlkit": "changes files and keeps their comments; imported when one is changed",
    },
    "keys": {"argon2": "Argon2id with 8 lanes, which libsodium's own cannot do; only when a password is used"},
    "manifest": {
        "msgspec": "a million entries in seconds; names that are not UTF-8 it leaves to json",
        "zstandard": "entries are compressed a few at a time, in memory",
    },
    "pog": {"zstandard": "blobs given by name are one stream to standard output; only for these"},
    "runs": {
        "apprise": "messages to a hundred services; imported when one is sent",
        "msgspec": "records of runs, read as types",
    },
    "stores": {
        "b2sdk": "Backblaze B2; imported when a bucket is opened",
        "boto3": "S3: signing, credentials, regions; imported when a bucket is opened",
        "botocore": "boto3's failures and settings",
        "requests": "what b2sdk lets through when a connection breaks",
        "urllib3": "what boto3 and b2sdk let through when a body breaks off",
    },
    "ui": {
        "jinja2": "templates, which escape",
        "markupsafe": "what jinja2 takes for safe: names and times that were escaped here",
        "starlette": "routes, requests, streamed answers",
        "uvicorn": "the server",
    },
    "tuning": {"matplotlib": "the picture; imported when one is asked for", "numpy": "medians and quartiles"},
}
# What a command that only prints its help has no time for.
HEAVY = [
    *("_cffi_backend", "argon2", "ctypes", "dataclasses", "hashlib", "json", "nacl", "subprocess", "tempfile"),
    *(
        "threading",
        "typing",
        "zstandard",
        "pogfast._engine",
        "pogfast.stores",
        "pogfast.pog.inputs",
        "pogfast.recovery.batches",
    ),
]


def modules() -> dict[str, Path]:
    """Our modules by name below the package, `` for the package itself; the engine by its stub."""
    found = {}
    for path in sorted([*PACKAGE.rglob("*.py"), PACKAGE / "_engine.pyi"]):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(part for part in parts if part != "__init__")] = path
    assert len(found) > 10
    return found


MODULES = modules()


def imports(path: Path) -> set[str]:
    """The full names of modules that a file imports, anywhere in it; `from a import b` is a.b where that is ours."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative imports say less"
            base = node.module or ""
            found |= {f"{base}.{name.name}" if is_ours(f"{base}.{name.name}") else base for name in node.names}
    return found


def is_ours(name: str) -> bool:
    return name == "pogfast" or (name.startswith("pogfast.") and name.removeprefix("pogfast.") in MODULES)


def of_ours(path: Path) -> set[str]:
    names = {name for name in imports(path) if name.partition(".")[0] == "pogfast"}
    assert all(is_ours(name) for name in names), names
    return {name.removeprefix("pogfast").removeprefix(".") for name in names}


def row_of(module: str) -> str:
    """The package that a module is in, or the module itself."""
    return module.partition(".")[0]


ROWS = sorted({row_of(module) for module in MODULES})


def imported_by(row: str) -> set[str]:
    """The other packages and modules that one imports."""
    mine = [path for module, path in MODULES.items() if row_of(module) == row]
    return {row_of(name) for path in mine for name in of_ours(path)} - {row}


def test_every_module_has_a_row() -> None:
    assert set(ROWS) == MAY_IMPORT.keys(), "a new module needs a row that says what it may import, and why"


@pytest.mark.parametrize("row", ROWS)
def test_a_module_imports_only_what_it_may(row: str) -> None:
    allowed, reason = MAY_IMPORT[row]
    assert imported_by(row) <= allowed, reason


def test_no_row_allows_more_than_is_used() -> None:
    """A permission that nobody uses is a rule that nobody checks. (The engine imports from compiled code.)"""
    unused = {row: MAY_IMPORT[row][0] - imported_by(row) for row in ROWS if row != "_engine"}
    assert {row: left for row, left in unused.items() if left} == {}


def test_imports_run_downwards() -> None:
    """No circle, neither between packages nor between modules."""
    order = list(TopologicalSorter({row: below for row, (below, _) in MAY_IMPORT.items()}).static_order())
    assert order.index("errors") < order.index("_engine") < order.index("keys") < order.index("manifest")
    list(TopologicalSorter({name: of_ours(path) for name, path in MODULES.items()}).static_order())


@pytest.mark.parametrize("row", ROWS)
def test_packages_from_outside_are_few(row: str) -> None:
    mine = [path for module, path in MODULES.items() if row_of(module) == row]
    names = {name.partition(".")[0] for path in mine for name in imports(path)}
    assert names - sys.stdlib_module_names - {"pogfast"} == set(OUTSIDE.get(row, {}))


@pytest.mark.parametrize("module", MODULES)
def test_a_module_says_what_it_is_for(module: str) -> None:
    text = ast.get_docstring(ast.parse(MODULES[module].read_text(encoding="utf-8"))) or ""
    assert len(text.splitlines()) >= 3


@pytest.mark.parametrize("command", ["main(['--help'])", "main(['--version'])", "create_keypair(['--help'])"])
def test_help_imports_nothing_heavy(command: str) -> None:
    program = f"import sys; from pogfast.pog import *; {command}; print(*sys.modules, file=sys.stderr)"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(ran.stderr.split())
    assert {"pogfast.pog", "pogfast.errors"} <= loaded
    assert loaded.isdisjoint(HEAVY), loaded & set(HEAVY)

"""Who may import whom, as a table with a reason for each row, held against what the source says.

Imports run downwards only: cli -> backup | recovery | check ..., pog -> inputs, and then create | restore -> manifest,
cache, stores -> keys -> _engine -> errors.
Imports inside functions and for the type checker count as well.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import pogfast

PACKAGE = Path(pogfast.__file__).parent

# Module -> the modules of ours that it may import, and why no others.
MAY_IMPORT: dict[str, tuple[set[str], str]] = {
    "": (set(), "importing the package costs nothing, so that every command can answer --help at once"),
    "errors": (set(), "everybody raises these, so they can depend on nobody"),
    "_engine": ({"errors"}, "the engine knows blobs only: no manifest, no path policy, no printing"),
    "selftest": ({"_engine"}, "it judges the kernels, and so must not go through anything above them"),
    "environment": (set(), "names of variables: what they mean is for others"),
    "encoding": (set(), "text and bytes, whatever they mean"),
    "keys": (
        {"_engine", "encoding", "environment", "errors"},
        "a key wraps file keys wherever blobs and manifests lie",
    ),
    "cache": (
        {"keys", "places", "encoding", "_engine"},
        "names by path and facts: whether a store holds them is for create to ask",
    ),
    "manifest": ({"keys", "encoding", "_engine", "errors"}, "sealed bytes and back, without I/O"),
    "stores": (
        {
            "stores.addresses",
            "stores.local",
            "stores.b2",
            "stores.findings",
            "stores.program",
            "stores.remote",
            "stores.s3",
            "stores.settings",
            "_engine",
            "errors",
        },
        "bytes under names: no key, no manifest",
    ),
    "stores.remote": (
        {"stores.local", "stores.findings", "stores.settings", "retries", "_engine", "errors"},
        "any object service: no vendor; blobs and manifests are named as in a directory",
    ),
    "stores.s3": (
        {"stores.remote", "stores.findings", "stores.settings", "_engine", "errors"},
        "one vendor's objects: no blob, no manifest",
    ),
    "stores.b2": ({"stores.remote", "_engine", "errors"}, "one vendor's objects: no blob, no manifest"),
    "stores.addresses": (
        {"stores.settings", "encoding", "sizes", "errors"},
        "how stores are written: it opens none",
    ),
    "stores.settings": ({"sizes", "errors"}, "what the environment says of services"),
    "stores.findings": (set(), "words that every store shares"),
    "stores.local": (
        {"stores.findings", "stores.settings", "_engine", "errors"},
        "a store knows no other; the engine's BlobDirectory writes for it",
    ),
    "stores.mirrors": (
        {"stores", "stores.local", "_engine", "errors"},
        "several stores as one to read from: no key, and of which kinds they are is not its business",
    ),
    "stores.targets": (
        {"beside", "clock", "stores", "stores.findings", "stores.reliance", "_engine", "errors"},
        "several stores as one: of which kinds is not its business",
    ),
    "stores.program": (
        {"stores.local", "environment", "errors"},
        "a store knows no other, and a program takes whole files",
    ),
    "clock": (set(), "what time it is, and how much has passed"),
    "stores.reliance": (
        {"clock", "sizes", "stores", "stores.local", "errors"},
        "what a writer and a prune tell each other in one store: no key, and which archive is not its business",
    ),
    "sealing": (
        {"manifest", "keys", "stores", "stores.findings", "stores.reliance", "stores.targets", "_engine", "errors"},
        "story 1: never knows restore, flags or patterns",
    ),
    "metadata": ({"errors"}, "what a file has beyond its content, on this system: no archive, no path policy"),
    "directories": (
        {"stores.local", "_engine", "errors"},
        "where a path may lie: no archive, no key; sweeps and names unfinished files as local stores do",
    ),
    "plan": (
        {"patterns", "directories", "manifest", "errors"},
        "what is meant and where it goes, before anything is looked at or fetched",
    ),
    "opening": (
        {"directories", "plan", "fetching", "manifest", "metadata", "keys", "stores", "stores.local", "_engine"}
        | {"errors"},
        "story 2: never knows create; names unfinished files as local stores do",
    ),
    "recovery": (
        {"opening", "archive", "plan", "directories", "metadata", "manifest", "keys", "stores.addresses", "_engine"}
        | {"sizes", "errors"},
        "pogfast's restore on restore's road: never knows create, flags or printing",
    ),
    "fetching": ({"_engine", "errors"}, "a blob that seems damaged is fetched once more: no store, no key"),
    "reading": (
        {"fetching", "manifest", "keys", "_engine", "errors"},
        "one entry's bytes: which archive it is in, and where it is restored to, is not its business",
    ),
    "catalog": (
        {"fetching", "manifest", "keys", "places", "stores", "encoding", "_engine", "errors"},
        "manifests opened once and remembered: which archive is meant, and what is shown of it, is not its business",
    ),
    "archive": (
        {
            "catalog",
            "reading",
            "retention",
            "fetching",
            "manifest",
            "keys",
            "stores",
            "stores.mirrors",
            "_engine",
            "sizes",
            "errors",
        },
        "an archive as it is looked at: blobs are reading's, and nothing is restored or changed",
    ),
    "copying": (
        {"archive", "beside", "catalog", "fetching", "manifest", "keys", "stores", "stores.reliance"}
        | {"_engine", "sizes", "errors"},
        "blobs as they lie from store to store: what is in an archive is not its business",
    ),
    "retention": ({"errors"}, "a policy over times and tags: no store, no manifest"),
    "pruning": (
        {"retention", "sweeping", "archive", "fetching", "manifest", "keys", "stores", "stores.reliance", "errors"},
        "which archives go, and the way back: what becomes of blobs is sweeping's",
    ),
    "sweeping": (
        {"archive", "beside", "clock", "keys", "sizes", "stores", "stores.local", "stores.reliance", "errors"},
        "what goes and when: names of blobs only, and never their bytes",
    ),
    "removing": (
        {"archive", "patterns", "fetching", "manifest", "keys", "stores", "stores.reliance", "errors"},
        "archives go as pruning removes them, and new manifests are stored as create stores them: no blob is read",
    ),
    "locking": (
        {"archive", "fetching", "manifest", "keys", "stores", "stores.settings", "errors"},
        "names of blobs only: what they are locked with is the store's business",
    ),
    "facade": (
        {"archive", "backup", "checking", "chunker", "copying", "diagnosis", "differences", "keys", "locking"}
        | {"profiles", "pruning", "recovery", "removing", "retention", "sizes", "stores", "stores.findings"}
        | {"stores.settings", "survey", "thawing", "tree", "tuning", "errors"},
        "the functions of the package: each calls one of these, and does no work of its own",
    ),
    "thawing": (
        {"recovery", "opening", "archive", "keys", "stores", "errors"},
        "what a restore would read, by a dry run of it",
    ),
    "diagnosis": (
        {"stores", "stores.findings", "sizes", "errors"},
        "a store's own words and what can be tried on any: no key, no archive",
    ),
    "survey": (
        {"archive", "catalog", "fetching", "manifest", "plan", "patterns", "directories", "keys", "stores", "errors"},
        "what is there, counted and listed: never a blob's content; names mean what they mean in restore",
    ),
    "differences": (
        {"survey", "archive", "manifest", "metadata", "plan", "directories", "errors"},
        "two archives, or one and the disk: facts are read as create reads them",
    ),
    "checking": (
        {"archive", "reading", "fetching", "manifest", "keys", "stores", "sizes", "_engine", "errors"},
        "reads as restore does, through the engine, and never writes: so it knows neither restore nor paths",
    ),
    "mounts": (set(), "stamps and devices: what is remembered of a file is not its business"),
    "patterns": (
        {"encoding", "errors"},
        "patterns and names are text: no file system, and no idea of what becomes of a match",
    ),
    "tree": ({"patterns", "encoding", "errors"}, "paths become nodes; their content is not its business"),
    "inputs": ({"sealing", "errors"}, "paths become sealing's sources; what is done with them is not its business"),
    "chunker": ({"keys", "sizes", "errors"}, "sizes and a table: it sees no file"),
    "backup": (
        {
            "",
            "sealing",
            "beside",
            "environment",
            "mounts",
            "chunker",
            "tree",
            "metadata",
            "cache",
            "manifest",
            "keys",
            "stores",
            "sizes",
            "stores.local",
            "stores.reliance",
            "stores.targets",
            "_engine",
            "errors",
        },
        "pogfast's create on create's road: never knows restore, flags or printing",
    ),
    "trial": (
        {"backup", "recovery", "chunker", "keys", "sizes", "stores", "stores.settings", "errors"},
        "a whole create and a whole restore as a user has them: the one place that needs both",
    ),
    "sampling": ({"tree", "errors"}, "files and parts of them: nothing of blobs"),
    "tuning": (
        {"trial", "sampling", "backup", "chunker", "keys", "sizes", "stores", "stores.addresses"}
        | {"stores.local", "_engine", "errors"},
        "what is tried next, and what is best: never flags or printing",
    ),
    "plot": ({"tuning", "errors"}, "figures become a picture"),
    "profiles": ({"places", "errors"}, "a small file of settings: what they do is not its business"),
    "places": (set(), "directories of the user's: what is kept there is not its business"),
    "beside": (set(), "a thread beside a block: it knows neither"),
    "console": ({"encoding", "errors"}, "lines and exit codes: no verb, and nothing that --help has no time for"),
    "prompt": ({"errors"}, "a password is asked for; what it becomes is for keys to know"),
    "sizes": ({"errors"}, "text and numbers of bytes"),
    "progress": ({"sizes", "errors"}, "counters are shown: of what is for the verbs to say"),
    "pog": (
        {
            "",
            "console",
            "prompt",
            "inputs",
            "sealing",
            "opening",
            "pruning",
            "stores",
            "keys",
            "_engine",
            "sizes",
            "errors",
        },
        "a command line: one library call a mode, on so many cores; blobs and manifests are below what it sees",
    ),
    "__main__": ({"cli"}, "the command where its script is not on the PATH"),
    "cli": (
        {"", "cli.frame", "cli.output", "console", "environment", "errors"},
        "the verbs' names: their modules are imported by name when they run, so that --help answers at once",
    ),
    "retries": (set(), "who hears of them: neither stores nor the console"),
    "cli.frame": (
        {"cli.elsewhere", "cli.output", "console", "retries", "sizes", "errors"},
        "what a verb is made of, whatever it does",
    ),
    "cli.elsewhere": (set(), "words of other programs: a table"),
    "cli.output": ({"console", "encoding", "progress", "sizes", "errors"}, "lines and objects: no verb, no archive"),
    "cli.options": (
        {"cli.frame", "cli.output", "console", "progress", "prompt", "archive", "stores", "stores.settings", "keys"}
        | {"environment", "sizes", "errors"},
        "what several verbs take: a key, an archive, a display",
    ),
    "cli.write": (
        {
            "cli.frame",
            "cli.options",
            "cli.output",
            "progress",
            "sizes",
            "backup",
            "chunker",
            "profiles",
            "tree",
            "stores",
            "errors",
        },
        "create: one library call",
    ),
    "cli.tune": (
        {"cli.frame", "cli.options", "cli.output", "console", "progress", "sizes", "errors"}
        | {"tuning", "trial", "sampling", "plot", "profiles", "stores.settings"},
        "tune: one library call, or one for each way to cut",
    ),
    "cli.read": (
        {"cli.frame", "cli.options", "cli.output", "cli.write", "progress", "sizes", "errors"}
        | {"archive", "recovery", "thawing", "checking", "differences", "stores", "keys"},
        "restore, cat and check: one library call each; what became of a name is told as by create",
    ),
    "cli.look": (
        {"cli.frame", "cli.options", "cli.output", "encoding", "sizes", "errors"}
        | {"archive", "survey", "differences", "stores", "keys"},
        "what there is to see: nothing that writes or reads blobs",
    ),
    "cli.transfer": (
        {"cli.frame", "cli.options", "cli.output", "progress", "sizes", "copying", "stores"},
        "copy: one library call",
    ),
    "cli.manage": (
        {"cli.frame", "cli.options", "cli.output", "sizes", "errors"}
        | {"pruning", "retention", "locking", "diagnosis", "stores", "stores.settings"},
        "prune, undelete, lock and doctor: one library call each",
    ),
    "cli.remove": (
        {"cli.frame", "cli.options", "cli.output", "sizes", "removing"},
        "remove and rewrite: one library call each",
    ),
    "cli.keys": ({"cli", "cli.frame", "cli.output", "keys", "errors"}, "no archive, no store"),
}
# Module -> packages from outside the standard library, each with what for.
OUTSIDE: dict[str, dict[str, str]] = {
    "keys": {"argon2": "Argon2id with 8 lanes, which libsodium's own cannot do; only when a password is used"},
    "reading": {
        "zstandard": "what is read is decompressed a little at a time; the engine does that for whole files only"
    },
    "manifest": {
        "msgspec": "a million entries in seconds; names that are not UTF-8 it leaves to json",
        "zstandard": "entries are compressed a few at a time, in memory",
    },
    "catalog": {
        "msgspec": "what is known of ten thousand archives, read in a twentieth of a second",
        "zstandard": "what is written down is small",
    },
    "progress": {"rich": "the bar, on a terminal only"},
    "stores.s3": {
        "boto3": "S3: signing, credentials, regions; imported when a bucket is opened",
        "botocore": "boto3's failures and settings",
        "urllib3": "what boto3 lets through when a body breaks off",
    },
    "stores.b2": {
        "b2sdk": "Backblaze B2; imported when a bucket is opened",
        "requests": "what b2sdk lets through when a connection breaks",
        "urllib3": "what it lets through when a body breaks off",
    },
    "tuning": {"numpy": "medians and quartiles"},
    "plot": {"matplotlib": "the picture; imported when one is asked for"},
    "opening": {"zstandard": "blobs given by name are one stream to standard output; only for these"},
}
for verbs in (
    "cli",
    "cli.frame",
    "cli.options",
    "cli.write",
    "cli.tune",
    "cli.read",
    "cli.look",
    "cli.transfer",
    "cli.manage",
    "cli.remove",
    "cli.keys",
):
    OUTSIDE[verbs] = {"click": "verbs, options, help and completion"}
# What a command that only prints its help has no time for.
HEAVY = [
    *("_cffi_backend", "argon2", "ctypes", "dataclasses", "hashlib", "json", "nacl", "subprocess", "tempfile"),
    *("threading", "typing", "zstandard", "pogfast._engine", "pogfast.sealing", "pogfast.inputs", "pogfast.opening"),
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


def test_every_module_has_a_row() -> None:
    assert MODULES.keys() == MAY_IMPORT.keys(), "a new module needs a row that says what it may import, and why"


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_what_it_may(module: str) -> None:
    allowed, reason = MAY_IMPORT[module]
    assert of_ours(MODULES[module]) <= allowed, reason


def test_no_row_allows_more_than_is_used() -> None:
    """A permission that nobody uses is a rule that nobody checks. (The engine imports from compiled code.)"""
    unused = {name: MAY_IMPORT[name][0] - of_ours(path) for name, path in MODULES.items() if name != "_engine"}
    assert {name: left for name, left in unused.items() if left} == {}


def test_imports_run_downwards() -> None:
    order = list(TopologicalSorter({name: below for name, (below, _) in MAY_IMPORT.items()}).static_order())
    assert order.index("errors") < order.index("_engine") < order.index("keys") < order.index("manifest")
    assert "opening" not in MAY_IMPORT["sealing"][0]
    assert "sealing" not in MAY_IMPORT["opening"][0]


@pytest.mark.parametrize("module", MODULES)
def test_packages_from_outside_are_few(module: str) -> None:
    names = {name.partition(".")[0] for name in imports(MODULES[module])}
    assert names - sys.stdlib_module_names - {"pogfast"} == set(OUTSIDE.get(module, {}))


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

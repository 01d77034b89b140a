"""`import pogfast` and the command agree: the same options, the same defaults, the same results.

Each option of each command has a keyword, or is listed below with the function that has it instead.
"""

from __future__ import annotations

import inspect
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

import pogfast
from kit.commands import Runner
from kit.pages import COMMANDS
from kit.paths import PROJECT
from pogfast import errors, facade, pog
from pogfast.cli.options import key_options, service_options

# Command -> its function; words that are called otherwise there, or are another function's or the display's (None).
FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{name: getattr(facade, name) for name in ("create", "restore", "ls", "find", "cat", "diff", "info", "stats")},
    **{
        name: getattr(facade, name)
        for name in ("check", "copy", "merge", "pack", "unpack", "prune", "remove", "rewrite", "undelete", "tune")
    },
    **{name: getattr(facade, name) for name in ("doctor", "keygen")},
    "list": facade.list_archives,
    "lock extend": facade.lock,
    "key show": facade.show_key,
    "run": facade.run,
    "config check": facade.check_config,
    "config show": facade.show_config,
}
OF_THE_COMMAND_LINE = {"completion", "help", "schedule disable", "schedule enable", "schedule show", "status", "ui"}
ELSEWHERE: dict[str, dict[str, str | None]] = {
    "restore": {"thaw": "thaw", "thaw_days": "thaw"},
    "check": {"against": "check_against"},
    "ls": {"long": None, "tree": None},
    "find": {"long": None},
    "prune": {"now": "grace"},
    "tune": {"put_price": None, "plot": None, "save": None, "compare": None},
}
# What only a caller in Python can give.
OF_PYTHON = {"key", "report", "tell", "warn", "policy"}


def names_of(options: Callable[[Any], Any]) -> set[str]:
    @click.command()
    @options
    def probe(**_: Any) -> None: ...

    return {str(parameter.name) for parameter in probe.params}


KEYS, SERVICES = names_of(key_options), names_of(service_options) | {"storage_class", "object_lock", "packs"}
DISPLAY = {"quiet", "verbose", "json", "debug", "help"}


def words(command: str) -> dict[str, click.Parameter]:
    """Returns the own parameters of a command, by the keywords of its function."""
    found = {str(parameter.name): parameter for parameter in COMMANDS[command].params}
    own = {name: found[name] for name in found.keys() - KEYS - SERVICES - DISPLAY - ELSEWHERE.get(command, {}).keys()}
    return {"dry_run" if name == "yes" else name: parameter for name, parameter in own.items()}


def test_every_command_has_a_function() -> None:
    assert set(COMMANDS) == FUNCTIONS.keys() | OF_THE_COMMAND_LINE


@pytest.mark.parametrize("command", FUNCTIONS)
def test_keywords_are_the_options(command: str) -> None:
    parameters = inspect.signature(FUNCTIONS[command]).parameters
    assert {kind.kind for kind in parameters.values()} <= {
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        inspect.Parameter.KEYWORD_ONLY,
    }, "explicit keywords only"
    assert set(words(command)) == set(parameters) - OF_PYTHON


@pytest.mark.parametrize("command", FUNCTIONS)
def test_the_defaults_are_the_same(command: str) -> None:
    parameters = inspect.signature(FUNCTIONS[command]).parameters
    for name, option in words(command).items():
        default = parameters[name].default
        if name == "dry_run" or default in (None, (), inspect.Parameter.empty):
            continue
        said = option.default if isinstance(option.default, str | int) and option.default else None
        plain = ",".join(map(str, default)) if isinstance(default, tuple) else default
        assert plain == (said or type(plain)()), name


def test_prune_and_the_like_are_dry_runs_unless_told() -> None:
    for command in FUNCTIONS:
        if any(parameter.name == "yes" for parameter in COMMANDS[command].params):
            assert inspect.signature(FUNCTIONS[command]).parameters["dry_run"].default is True


def test_the_defaults_of_create_are_those_of_the_command() -> None:
    from pogfast.sizes import parse_size

    said = {str(parameter.name): parameter.default for parameter in COMMANDS["create"].params}
    assert {
        "chunker": said["chunker"],
        "level": said["level"],
        "chunk_size": parse_size("", said["chunk_size"]),
    } == facade.DEFAULTS


def test_keys_and_services_have_all_keywords() -> None:
    assert inspect.signature(facade.open_key).parameters.keys() - {"password", "writing"} == KEYS
    assert inspect.signature(facade.services).parameters.keys() == SERVICES
    assert {"tier", "days"} <= inspect.signature(facade.thaw).parameters.keys()
    assert "against" in inspect.signature(facade.check_against).parameters


def test_no_module_hides_a_function() -> None:
    """`import pogfast.x` would replace the function pogfast.x."""
    modules = {path.stem for path in Path(facade.__file__).parent.iterdir()} - {"errors"}
    assert modules.isdisjoint(pogfast.__all__)
    # `pogfast.pog:cleanup` is the command pog-cleanup.
    modules = {path.stem for path in Path(pog.__file__).parent.iterdir()}
    assert modules.isdisjoint(name for name in vars(pog) if inspect.isfunction(getattr(pog, name)))


def test_the_stub_says_what_is_there() -> None:
    stub = (PROJECT / "pogfast" / "__init__.pyi").read_text()
    found = {
        name: module for module, name, _ in re.findall(r"^from pogfast\.([\w.]+) import (\w+) as (\2)$", stub, re.M)
    }
    assert found == {name: module.removeprefix("pogfast.") for name, module in pogfast.PUBLIC.items()}
    assert re.findall(r'^    "(\w+)",$', stub, re.MULTILINE) == pogfast.__all__
    for name in pogfast.__all__:
        assert getattr(pogfast, name) is not None


# ---- what a user does ------------------------------------------------------------------------------------------------


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("POGFAST_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("POGFAST_KEYFILE", "k")
    for name in ("dir/f", "dir/x.tmp", "dir/d/g"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode() * 1000)
    assert pogfast.keygen("k", symmetric=True) == ["k"]
    return tmp_path


@pytest.fixture
def key(work: Path) -> pogfast.Key:
    return pogfast.open_key(keyfile=Path("k"))


def contents(store: str | Path, key: pogfast.Key) -> set[str]:
    return {item.name for item in pogfast.ls(os.path.join(store, "latest"), key) if item.kind == "file"}


def test_a_single_path_may_be_a_string(work: Path, key: pogfast.Key) -> None:
    """0.5.3 iterated over the string, and archived ., d, i and r if they existed."""
    (work / "d").mkdir()
    for given in ("dir", b"dir", Path("dir"), ["dir"], iter([Path("dir")])):
        done = pogfast.create(given, work / "store", key, no_cache=True)
        assert done.files_new == 3
        assert contents("store", key) == {"dir/f", "dir/x.tmp", "dir/d/g"}


def test_arguments_are_converted_as_on_the_command_line(work: Path, key: pogfast.Key) -> None:
    done = pogfast.create("dir", b"store", key, exclude=["*.tmp", "d"], tags="a,b", chunk_size="16MB", comment="c")
    assert contents("store", key) == {"dir/f"}
    assert pogfast.create(["dir"], "store", key, exclude="*.tmp", tags=["a", "b"], chunker="fastcdc").files_new == 2
    first, second = pogfast.list_archives(Path("store"), key)
    assert first.name == done.manifest
    assert first.tags == second.tags == ["a", "b"]
    info = pogfast.info(f"store/{first.name}", key)
    assert (info.chunk_size, info.comment) == (16_000_000, "c")
    (work / "patterns").write_text("*.tmp\n")
    (work / "list").write_bytes(b"dir/f\0dir/x.tmp\0")
    pogfast.create((), "more", key, files_from=Path("list"), null=True, exclude_from="patterns")
    assert contents("more", key) == {"dir/f"}
    pogfast.create((), "more", key, name="out", from_command="echo hi")
    assert b"".join(pogfast.cat("more/latest", key, "out")) == b"hi\n"
    with pytest.raises(TypeError):
        pogfast.create("dir", "store", key, exlude="*.tmp")


@pytest.mark.parametrize(
    "call",
    [
        lambda key: pogfast.create("dir", Path("a,b"), key),
        lambda key: pogfast.create((), "store", key),
        lambda key: pogfast.create("dir", "store", key, chunk_size="1MB", chunker="fastcdc"),
        lambda key: pogfast.create("dir", "store", key, name="n"),
        lambda key: pogfast.create((), "store", key, from_command="true"),
        lambda key: pogfast.create("dir", "store", key, chunk_size="10"),
        lambda key: pogfast.create("dir", "store", key, tags="a,,b"),
        lambda key: pogfast.prune("store", key),
        lambda key: pogfast.prune("store", key, keep_last=1, grace=-5),
        lambda key: pogfast.prune("store", key, keep_last=1, grace=float("nan")),
        lambda key: pogfast.prune("store", key, pogfast.Policy(last=1), keep_last=1),
        lambda key: pogfast.prune("store", key, keep_last=1, group_by="hosts"),
        lambda key: pogfast.check("store", key, read_data=True, read_data_subset="10%"),
        lambda key: pogfast.open_key(),
        lambda key: pogfast.open_key(keyfile="k", password="x"),
    ],
)
def test_contradicting_arguments_are_usage_errors(work: Path, key: pogfast.Key, call: Callable[[Any], Any]) -> None:
    with pytest.raises(errors.UsageError):
        call(key)
    assert not (work / "store").exists()


def test_keywords_override_a_profile(work: Path, key: pogfast.Key) -> None:
    (work / "p.toml").write_text('chunker = "fastcdc"\nlevel = 7\njobs = 1\n')

    def made(**more: Any) -> tuple[str, int]:
        pogfast.create("dir", "store", key, profile=work / "p.toml", no_cache=True, **more)
        with pogfast.open_archive("store/latest", key) as archive:
            return archive.chunker.partition(":")[0], archive.trailer["level"]

    assert made() == ("fastcdc", 7)
    assert made(chunk_size="1MB", level=2) == ("", 2)
    (work / "q.toml").write_text("must_exist = true\npad = true\n")
    for more in ({}, {"must_exist": True, "pad": True}):
        assert pogfast.create("dir", "store", key, profile=work / "q.toml", **more).blobs_new == 0
    with pytest.raises(errors.NoSuchArchive):
        pogfast.create("dir", "nowhere", key, profile=work / "q.toml")


def test_the_whole_life_of_an_archive(work: Path, key: pogfast.Key) -> None:
    for tag in ("one", "two"):
        assert pogfast.create(Path("dir"), "store", key, tags=tag).problems == []
        (work / "dir" / "f").write_text(tag)
    assert pogfast.check("store", key, read_data=True).exit_code == 0
    assert pogfast.check(Path("store"), key, read_data_subset="1/1").read > 0
    assert pogfast.copy(Path("store"), Path("copy"), key=key).archives == 2
    one, two = pogfast.list_archives("store", key)
    changes = pogfast.diff(f"store/{one.name}", Path("store/latest"), key, metadata=False)
    assert [(change.change, change.name) for change in changes] == [("modified", "dir/f")]
    assert {found.archive for found in pogfast.find("store", key, "*.tmp")} == {one.name, two.name}
    assert [difference.name for difference in pogfast.check_against("store/latest", key, ".")] == ["dir/f"]
    assert pogfast.stats("store", key).archives == 2
    assert pogfast.prune("store", key, keep_last=1).removed == 1
    assert pogfast.prune("store", key, pogfast.Policy(last=1), dry_run=False, grace="7d").removed == 1
    assert pogfast.undelete("store", key, one.name).done == [one.name]
    assert pogfast.rewrite("store/latest", key, "x.tmp", dry_run=False).archives[0].left_out == ["dir/x.tmp"]
    assert pogfast.remove(f"store/{one.name}", dry_run=False).removed == 1
    done = pogfast.restore("store/latest", key, Path("out"), names="dir/f", tags="two", overwrite="always")
    assert (done.files, (work / "out" / "dir" / "f").read_text()) == (1, "one")
    assert {found.state for found in pogfast.doctor("store")} <= {"good", "note"}
    assert pogfast.show_key("k").kind.startswith("a keyfile")
    with pytest.raises(errors.NoSuchEntry):
        list(pogfast.ls("store/latest", key, "nosuch"))
    with pytest.raises(errors.UsageError), pogfast.services(parallel=2, retry_for="1m", s3_endpoint="http://x"):
        pogfast.lock("store", key, "compliance:1d")


def test_keywords_of_0_5_still_work_for_a_release(work: Path, key: pogfast.Key) -> None:
    with pytest.warns(DeprecationWarning, match=r"(cache_directory|base) is called (cache_dir|directory) now"):
        assert pogfast.create(["f"], "store", key, base="dir", cache_directory="").files_new == 1


def test_command_and_function_return_the_same(work: Path, key: pogfast.Key, pogfast: Runner) -> None:
    import pogfast as package

    for tag in ("one", "two"):
        package.create("dir", "store", key, tags=tag)
        (work / "dir" / "f").write_text(tag)

    def said(*arguments: str) -> list[dict[str, Any]]:
        environment = {**os.environ, "POGFAST_KEYFILE": "k"}
        return [json.loads(line) for line in pogfast(*arguments, "--json", env=environment).out.splitlines()]

    def without(words: dict[str, Any], *names: str) -> dict[str, Any]:
        return {word: value for word, value in words.items() if word not in ("message_type", *names)}

    listed = [without(info.as_dict(), "name") for info in package.list_archives("store", key)]
    assert [without(words, "id", "hostname") for words in said("list", "store")] == listed
    [info] = said("info", "store/latest")
    assert without(info, "id", "hostname") == without(package.info("store/latest", key).as_dict(), "name")
    [stats] = said("stats", "store")
    assert without(stats) == package.stats("store", key).as_dict()
    assert [node["path"] for node in said("ls", "store/latest")] == [i.name for i in package.ls("store/latest", key)]
    found = [(match.archive, match.item.name) for match in package.find("store", key, "f")]
    assert [(match["snapshot"], match["path"]) for match in said("find", "store", "f")] == found
    choices = package.prune("store", key, keep_tags="one", keep_last=1).choices
    pruned = said("prune", "store", "--keep-last=1", "--keep-tag=one")
    assert [words["reasons"] for words in pruned[:-1]] == [choice.reasons for choice in choices]


def test_the_types_are_checked_by_ci() -> None:
    """tests/facade_types.py has right calls, and wrong ones that mypy must refuse."""
    assert 'mypy" --strict pogfast tests/facade_types.py' in (PROJECT / "ci" / "test.sh").read_text()
    assert (PROJECT / "tests" / "facade_types.py").read_text().count("type: ignore[") > 5


@pytest.mark.parametrize("jobs", [0, 1025, 10**20])
def test_absurd_numbers_of_workers(tmp_path: Path, jobs: int) -> None:
    """They caused an OverflowError, or millions of threads."""
    (tmp_path / "f").write_bytes(b"content")
    (tmp_path / "key").write_bytes(b"key")
    key, store = pogfast.open_key(keyfile=tmp_path / "key"), tmp_path / "store"
    pogfast.create([tmp_path / "f"], store, key, no_cache=True)
    for call in (
        lambda: pogfast.create([tmp_path / "f"], store, key, jobs=jobs),
        lambda: pogfast.restore(f"{store}/latest", key, tmp_path / "out", jobs=jobs),
        lambda: pogfast.check(store, key, read_data=True, jobs=jobs),
        lambda: pogfast.copy(store, tmp_path / "other", key=key, jobs=jobs),
        lambda: pogfast.open_archive(f"{store}/latest", key, jobs=jobs),
    ):
        with pytest.raises(errors.UsageError, match=f"jobs must be 1 to 1024, not {jobs}"):
            call()

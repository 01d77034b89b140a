"""The command among other programs: closed pipes and files, commands of other tools, odd environments, secrets."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

import pogfast
from kit.commands import Ran, run
from kit.pages import COMMANDS
from pogfast.cli import VERBS, group, hints, main

COMMAND = [sys.executable, "-m", "pogfast"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with an archive, its key, and an environment of its own."""
    place = tmp_path_factory.mktemp("manners")
    (place / "tree").mkdir()
    for number in range(3):
        (place / "tree" / str(number)).write_bytes(b"x" * number)
    pogfast.keygen(place / "k", symmetric=True)
    pogfast.create("tree", place / "store", pogfast.open_key(keyfile=place / "k"), directory=place, no_cache=True)
    return place


def in_shell(place: Path, redirection: str, *arguments: str, **environment: str) -> Ran:
    env = {name: value for name, value in os.environ.items() if not name.startswith("POGFAST_")}
    env |= {"POGFAST_KEYFILE": "k", "POGFAST_CACHE_DIR": str(place / "cache"), **environment}
    return run(["/bin/sh", "-c", f'"$@" {redirection}', "sh", *COMMAND, *arguments], place, env=env)


ANSWERS = [
    ["--help"],
    ["--version"],
    ["list", "store"],
    ["list", "store", "--json"],
    ["ls", "store/latest"],
    ["ls", "store/latest", "--tree"],
    ["find", "store", "1"],
    ["cat", "store/latest", "tree/2"],
    ["info", "store/latest"],
    ["stats", "store"],
    ["check", "store", "--json"],
    ["prune", "store", "--keep-last", "1"],
    ["create", "tree", "--to", "store", "-n"],
    ["restore", "store/latest", "--into", "out", "-n"],
    ["key", "show", "k"],
    ["completion", "bash"],
    ["help", "create"],
]


@pytest.mark.parametrize("arguments", ANSWERS, ids=" ".join)
def test_nothing_is_printed_if_the_reader_has_exited(place: Path, arguments: list[str]) -> None:
    """As in `pogfast ls | head -1`; here the pipe has no reader from the start."""
    read, write = os.pipe()
    os.close(read)
    env = {**os.environ, "POGFAST_KEYFILE": "k", "POGFAST_CACHE_DIR": str(place / "cache")}
    done = subprocess.run(
        [*COMMAND, *arguments], cwd=place, env=env, stdout=write, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(write)
    assert done.returncode == 141
    assert "pogfast: error" not in done.stderr
    assert "Traceback" not in done.stderr


def test_ctrl_c_while_modules_are_imported_is_quiet(place: Path) -> None:
    (place / "stubs").mkdir(exist_ok=True)
    (place / "stubs" / "click.py").write_text("raise KeyboardInterrupt")
    ran = run([*COMMAND, "--help"], place, env={**os.environ, "PYTHONPATH": str(place / "stubs")})
    assert (ran.code, ran.out, ran.err) == (130, b"", "")


def test_completion_into_a_closed_pipe(place: Path) -> None:
    asked = {"_POGFAST_COMPLETE": "bash_complete", "COMP_WORDS": "pogfast cre", "COMP_CWORD": "1"}
    ran = in_shell(place, ">/dev/full", **asked)
    assert (ran.code, ran.err.count("\n")) == (1, 1)


@pytest.mark.parametrize("redirection", ["2>/dev/full", "2>&-", "<&-", "2>&- <&-"])
def test_a_run_goes_on_if_standard_error_cannot_be_written(place: Path, redirection: str) -> None:
    ran = in_shell(place, redirection, "create", "tree", "nosuch", "--to", "store")
    assert ran.code == 3
    assert ran.lines[0].endswith(".mfn")
    assert in_shell(place, redirection, "check", "store", "--read-data").code == 0


def test_no_file_of_a_store_gets_the_descriptor_of_a_standard_file(place: Path) -> None:
    """Otherwise a library that prints would write into a blob."""
    program = "import os, sys; from pogfast.cli import main; code = main(['--version']); "
    program += "os.write(2, b'x') if code else None; "
    program += "sys.exit(10 * code + os.open('k', os.O_RDONLY))"
    ran = run(["/bin/sh", "-c", '"$@" <&- >&- 2>&-', "sh", sys.executable, "-c", program], place)
    assert ran.code == 13, "1, standard output is closed, and 3, the first number that is free"


@pytest.mark.parametrize(
    "environment",
    [
        {"COLUMNS": "1"},
        {"COLUMNS": "x", "LINES": ""},
        {"NO_COLOR": "1", "TERM": ""},
        {"LC_ALL": "C", "LANG": ""},
        {"HOME": "/nonexistent", "XDG_CACHE_HOME": "/proc/nope", "POGFAST_CACHE_DIR": ""},
        {"POGFAST_CACHE_DIR": "/dev/null/x"},
        {"TMPDIR": "/nonexistent"},
    ],
    ids=str,
)
def test_odd_environments(place: Path, environment: dict[str, str]) -> None:
    for arguments in (["create", "tree", "--to", "store"], ["list", "store"], ["restore", "--help"]):
        ran = in_shell(place, "", *arguments, **environment)
        assert (ran.code, "Traceback" in ran.err, "error" in ran.err) == (0, False, False), ran.err


def test_names_in_tables_and_messages_are_escaped_on_a_terminal(place: Path) -> None:
    """Tags, comments and hosts are untrusted content of archives, too."""
    (place / "odd").mkdir(exist_ok=True)
    key = pogfast.open_key(keyfile=place / "k")
    pogfast.create("odd", place / "odds", key, directory=place, host="h\x1b[31m\n", comment="c\u202e", tags="t\n")
    import pexpect

    env = {**os.environ, "POGFAST_KEYFILE": "k", "POGFAST_CACHE_DIR": str(place / "cache")}
    for arguments in (["list", "odds"], ["info", "odds/latest"], ["prune", "odds", "--keep-last", "1"]):
        said, code = pexpect.run(
            shlex.join([*COMMAND, *arguments]), cwd=str(place), env=env, withexitstatus=True, timeout=60
        )
        assert code == 0
        assert b"\x1b[31m" not in said
        assert "\u202e".encode() not in said


# ---- words of other tools --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("backup", "pogfast create"),
        ("init", "keygen"),
        ("snapshots", "pogfast list"),
        ("forget", "pogfast prune"),
        ("dump", "pogfast cat"),
        ("extract", "pogfast restore"),
        ("mount", "there is no mount"),
        ("unlock", "nothing has to be unlocked"),
        ("recreate", "pogfast rewrite"),
        ("recover", "pogfast undelete"),
        ("repair", "pogfast check"),
        ("verify", "pogfast check"),
        ("purge", "pogfast prune"),
        ("compact", "pogfast prune"),
        ("delete", "pogfast remove"),
        ("snapshot", "pogfast list"),
        ("forgett", "pogfast prune"),
        ("creat", "did you mean create?"),
        ("list -r x", "STORE is an argument"),
        ("list --repo x", "STORE is an argument"),
        ("-r x list", "STORE is an argument"),
        ("prune x --dry-run", "without --yes"),
        ("prune x --keep 3", "--keep-last N"),
        ("check x -n", "changes no archive"),
        ("create x --password-fil y", "--password-file"),
        ("restore x --target y", "--into DIR"),
        ("restore x --include y", "names and patterns"),
        ("restore x --verify", "every restore checks each blob"),
        ("create x --compression max", "--level"),
    ],
)
def test_commands_and_options_of_other_tools_get_a_hint(
    given: str, meant: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(given.split()) == 2
    out, said = capfd.readouterr()
    assert out == ""
    assert meant in said
    assert len(said.splitlines()) == 2


@pytest.mark.parametrize(("given", "hint"), [("key add", ""), ("key sho", "did you mean show? "), ("lock list", "")])
def test_subcommands_get_no_hints_for_other_tools(given: str, hint: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(given.split()) == 2
    assert capfd.readouterr().err.splitlines()[1] == f"  {hint}see pogfast {given.split()[0]} --help"


def test_hints_name_commands_and_options_that_exist() -> None:
    said = [*hints.COMMANDS.values(), *hints.NEEDLESS.values(), *(text for _, _, text in hints.OPTIONS)]
    named = re.findall(r"pogfast ([a-z]+)([^`;]*)", " ; ".join(said))
    assert len(named) > 30
    for verb, rest in named:
        assert verb in VERBS
        known = {name for words, command in COMMANDS.items() if words.split()[0] == verb for name in flags(command)}
        assert set(re.findall(r"(?<!\S)--[a-z-]*[a-z](?=\s|$)", rest)) <= known, (verb, rest)
    options = {name for command in COMMANDS.values() for name in flags(command)}
    for text in said:
        for option in re.findall(r"(?<![\w`])--[a-z][a-z-]*[a-z]", text):
            assert option in options | {"--keep", "--version", "--help"}, text
    assert not (hints.COMMANDS.keys() | hints.NEEDLESS.keys()) & VERBS.keys()
    for _, commands, _ in hints.OPTIONS:
        assert set(commands.split()) <= VERBS.keys()


def flags(command: click.Command) -> set[str]:
    return {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}


# ---- secrets ---------------------------------------------------------------------------------------------------------


def test_no_secret_is_shown(place: Path) -> None:
    secret = "correct-horse-battery"
    (place / "password").write_text(secret)
    for arguments in (
        ["list", "store", "--debug", "--json"],
        ["ls", "nosuch/latest", "--debug"],
        ["create", "tree", "--to", "secret", "--debug", "-vv", "--json"],
        ["check", "store", "--debug", "--password-file", "password"],
        ["key", "show", "password", "--json"],
    ):
        environment = {"POGFAST_KEYFILE": "", "POGFAST_PASSWORD": secret}
        ran = in_shell(place, "", *arguments, **environment)
        assert secret not in ran.err
        assert secret.encode() not in ran.out


def test_core_dumps_are_disabled(place: Path) -> None:
    program = "import resource; from pogfast.cli import main; main(['--version']); "
    program += "print(resource.getrlimit(resource.RLIMIT_CORE)[0])"
    ran = run(["/bin/sh", "-c", 'ulimit -S -c 100; exec "$@"', "sh", sys.executable, "-c", program], place)
    assert ran.lines[-1] == "0"


def test_no_option_takes_a_secret() -> None:
    """Every user of the machine can see arguments."""
    words = ("password", "passphrase", "secret", "token")
    for command in [group, *COMMANDS.values()]:
        for name in flags(command):
            if any(word in name for word in words):
                assert name in ("--password-file", "--password-command", "--login-password-file")

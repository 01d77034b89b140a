"""`pogfast` as users and scripts see it: results, summaries, JSON lines, exit codes, and one line for every failure.

The packages below have tests of their own; here every verb and option is run once, as a command.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pexpect
import pytest

import pogfast
from kit.commands import Ran, Runner, run
from kit.files import flip, plant_socket
from kit.pages import json_words
from pogfast.cli import VERBS, group, main

JSON_WORDS = json_words()
COMMAND = [sys.executable, "-m", "pogfast"]
BIG = os.urandom(300_000)
FILES = {
    "tree/f": b"hi\n",
    "tree/d/big": BIG,
    "tree/d/e/x.tmp": b"x" * 20_000,
    "tree/empty": b"",
    "tree/é": b"\xc3\xa9",
}


# Seconds after which a file is told from one that was changed right after it was read (cache.TICK_NS, and more).
OLD_ENOUGH = 0.2


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree, a key in the environment, and a cache of its own."""
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    (tmp_path / "tree" / "link").symlink_to("f")
    (tmp_path / "key").write_bytes(b"a key")
    for name in [name for name in os.environ if name.startswith("POGFAST_")]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)  # as it is for users: what is printed waits to be flushed
    monkeypatch.setenv("POGFAST_KEYFILE", str(tmp_path / "key"))
    monkeypatch.setenv("POGFAST_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def store(cli: Runner) -> str:
    """A store with an archive of the tree."""
    time.sleep(OLD_ENOUGH)
    ran = cli("create", "tree", "--to", "store")
    assert ran.code == 0, ran.err
    return "store"


def one_line(ran: Ran, code: int, *words: str) -> None:
    """Asserts a failure: this exit code, one line (and a hint) on standard error, nothing on standard output."""
    assert (ran.code, ran.out) == (code, b""), ran.err
    lines = ran.err.splitlines()
    assert lines[0].startswith("pogfast: error: "), ran.err
    assert len(lines) == 1 or (len(lines) == 2 and lines[1].startswith("  ")), ran.err
    for word in words:
        assert word in ran.err


def objects(ran: Ran) -> list[dict[str, Any]]:
    """Returns the JSON lines of a run, and asserts that it printed nothing else and that all keys are documented."""
    found = [json.loads(line) for line in ran.out.splitlines()]
    for words in found:
        assert words.keys() <= JSON_WORDS[words["message_type"]] | {"message_type"}, words
    return found


def only(ran: Ran, message_type: str) -> list[dict[str, Any]]:
    return [found for found in objects(ran) if found["message_type"] == message_type]


def summary(ran: Ran) -> dict[str, Any]:
    [found] = only(ran, "summary")
    return found


def names(ran: Ran) -> set[str]:
    assert ran.code == 0, ran.err
    return set(ran.lines)


def everything(root: Path) -> dict[str, bytes | str | None]:
    return {
        str(path.relative_to(root)): os.readlink(path)
        if path.is_symlink()
        else path.read_bytes()
        if path.is_file()
        else None
        for path in root.rglob("*")
    }


# ---- what it says of itself ------------------------------------------------------------------------------------------


def test_help_and_version(cli: Runner) -> None:
    assert cli("--version").out.decode() == f"pogfast {pogfast.__version__}\n"
    text = cli("--help").out.decode()
    assert cli("-h").out.decode() == cli("help").out.decode() == text
    for verb, (_, line) in VERBS.items():
        assert f"  {verb} " in text
        assert line.split()[-1] in text


def test_the_help_of_a_verb_begins_with_its_summary() -> None:
    import click

    for verb, (_, line) in VERBS.items():
        command = group.get_command(click.Context(group), verb)
        assert command is not None
        assert command.name == verb
        assert (command.help or "").splitlines()[0] == line


@pytest.mark.parametrize("verb", [*((verb,) for verb in VERBS), ("key", "show")], ids=" ".join)
def test_help_of_a_verb(cli: Runner, verb: tuple[str, ...]) -> None:
    text = cli("help", *verb).out.decode()
    assert text.startswith(f"Usage: pogfast {' '.join(verb)} ")
    assert text == cli(*verb, "--help").out.decode()
    assert cli("help", *verb, "more").code == 2


def test_help_is_fast(work: Path) -> None:
    """Takes at most 6 times as long as Python takes to start and exit."""

    def seconds(command: list[str]) -> float:
        began = time.perf_counter()
        assert run(command, work).code == 0
        return time.perf_counter() - began

    program = "import sys; from pogfast.cli import main; sys.exit(main())"
    pairs = [
        (seconds([sys.executable, "-c", "pass"]), seconds([sys.executable, "-c", program, "--help"])) for _ in range(25)
    ]
    least = [min(times) for times in zip(*pairs, strict=True)]
    assert least[1] <= 6 * least[0], least


def test_help_imports_nothing_but_click(work: Path) -> None:
    program = "import sys; from pogfast.cli import main; main(['--help']); print(*sys.modules, file=sys.stderr)"
    loaded = set(run([sys.executable, "-c", program], work).err.split())
    of_ours = {name for name in loaded if name.split(".")[0] == "pogfast"}
    assert of_ours == {
        "pogfast",
        *(f"pogfast.cli{name}" for name in ("", ".command", ".output")),
        *(f"pogfast.{name}" for name in ("console", "errors", "system")),
        *(f"pogfast.system.{name}" for name in ("encoding", "environment", "notices")),
    }
    packages = {name.split(".")[0] for name in loaded} - sys.stdlib_module_names - {"pogfast", "__mp_main__"}
    before = set(run([sys.executable, "-c", "import sys; print(*sys.modules, file=sys.stderr)"], work).err.split())
    assert packages - {name.split(".")[0] for name in before} == {"click"}
    assert loaded.isdisjoint({"json", "dataclasses", "hashlib", "subprocess", "ctypes", "shutil"})


def test_the_help_of_a_verb_needs_no_engine(work: Path) -> None:
    program = "import sys; from pogfast.cli import main; main(sys.argv[1:]); print(*sys.modules, file=sys.stderr)"
    for verb in VERBS:
        loaded = set(run([sys.executable, "-c", program, verb, "--help"], work).err.split())
        assert loaded.isdisjoint({"pogfast._engine", "zstandard", "msgspec", "nacl", "numpy", "boto3"}), verb


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["key"], ["missing command", "pogfast key --help"]),
        (["creat"], ["no such command: creat", "did you mean create?"]),
        (["--bogus"], ["--bogus", "see pogfast --help"]),
        (["ls", "--bogus", "x"], ["--bogus", "see pogfast ls --help"]),
        (["ls"], ["'ARCHIVE'", "see pogfast ls --help"]),
        (["key", "sho"], ["no such command: sho", "did you mean show?", "pogfast key --help"]),
        (["create", "tree"], ["--to"]),
        (["create", "--to", "store"], ["nothing to archive"]),
        (["create", "tree", "--to", "b2://"], ["names no bucket"]),
        (["create", "tree", "--to", "s3://"], ["names no bucket"]),
        (["create", "tree", "--to", "store,"], ["the name of a store between the commas is empty"]),
        (["create", "-", "--to", "store"], ["name"]),
        (["create", "-", "tree", "--to", "store", "--name", "n"], ["no other PATHs beside it"]),
        (["create", "tree", "--to", "store", "--name", "n"], ["--name"]),
        (["create", "tree", "--to", "store", "--from-command", "true", "--name", "n"], ["--from-command"]),
        (["create", "tree", "--to", "store", "--chunk-size", "x"], ["--chunk-size=x", "50MB"]),
        (["create", "tree", "--to", "store", "--level", "99"], ["99"]),
        (["create", "tree", "--to", "store", "--layout", "x"], ["--layout", "frames"]),
        (["create", "tree", "--to", "store", "--jobs", "0"], ["--jobs"]),
        (["create", "tree", "--to", "store", "--readers", "0"], ["--readers"]),
        (["create", "tree", "--to", "store", "--memory", "1"], ["memory"]),
        (["create", "tree", "--to", "store", "--keyfile", "key", "--password-file", "key"], ["one key"]),
        (["create", "tree", "--to", "store", "-q", "-v"], ["--quiet"]),
        (["restore", "store/latest"], ["--into"]),
        (["restore", "store/latest", "--into", "out", "--overwrite", "x"], ["--overwrite"]),
        (["restore", "store", "--into", "out"], ["store is not the address of an archive", "latest"]),
        (["check", "store", "--read-data", "--against", "x"], ["cannot be combined"]),
        (["check", "store", "--read-data-subset", "x"], ["10%"]),
        (["check"], ["STORE", "POGFAST_STORE"]),
        (["cat", "store/latest", "f", "--length", "-1"], ["--length=-1: not a size"]),
        (["prune", "store", "--keep-tag", ""], ["--keep-tag: empty word between commas"]),
        (["prune", "store", "--keep-tag", ","], ["--keep-tag: empty word between commas"]),
        (["prune", "store", "--group-by", ","], ["--group-by: empty word between commas"]),
        (["create", "tree", "--to", "store", "--tag", ""], ["--tag: empty word between commas"]),
        (["create", "tree", "--to", ""], ["empty"]),
        (["create", "tree", "--to", "store", "--host", ""], ["--host is empty", "variable"]),
        (["create", "", "--to", "store"], ["PATH is empty"]),
        (["list", "store", "--path", ""], ["--path is empty"]),
        (["restore", "store/latest", "", "--into", "out"], ["NAME|PATTERN is empty"]),
        (["restore", "store/latest", "--from", "", "--into", "out"], ["--from"]),
        (["keygen", ""], ["NAME is empty"]),
        (["keygen", "tree/"], ["tree/ is not a name for a key"]),
        (["keygen", "--symmetric", "."], [". is not a name for a key"]),
        (["create", "tree", "--to", "--quiet"], ["--to has no value: --quiet is an option", "--to=--quiet"]),
        (["create", "tree", "--to", "--tag=x"], ["--to has no value: --tag=x is an option"]),
        (["create", "tree", "-C", "-v"], ["-C has no value: -v is an option", "--directory=-v"]),
        (["restore", "store/latest", "--into", "--delete"], ["--into has no value"]),
        (["create", "tree", "--to", "store", "--jobs", "9" * 20], ["--jobs=999", "from 1 to 1024"]),
        (["create", "tree", "--to", "store", "--jobs", "9" * 5000], ["from 1 to 1024"]),
        (["create", "tree", "--to", "store", "--jobs", "1e3"], ["--jobs=1e3: not a whole number"]),
        (["create", "tree", "--to", "store", "--readers", "1000000"], ["--readers=1000000"]),
        (["create", "tree", "--to", "store", "--memory", "9" * 30], ["--memory=999", "more than 9 EB"]),
        (["create", "tree", "--to", "store", "--parallel", "1e3"], ["--parallel=1e3: not a whole number from 1 to 64"]),
        (["check", "store", "--read-data", "--jobs", "9" * 20], ["from 1 to 1024"]),
        (["restore", "store/latest", "--into", "out", "--strip-components", "9" * 20], ["from 0 to 4096"]),
        (["restore", "store/latest", "--into", "out", "--thaw", "--thaw-days", "9" * 20], ["from 1 to 36500"]),
        (["prune", "store", "--keep-last", "1e30"], ["--keep-last=1e30: not a whole number"]),
        (["cat", "store/latest", "f", "--offset", "9" * 30], ["more than 9 EB"]),
        (["tune", "tree", "--put-price", "nan"], ["--put-price=nan: not a price"]),
        (["tune", "tree", "--put-price", "inf"], ["--put-price=inf: not a price"]),
        (["tune", "tree", "--put-price", "-1"], ["--put-price=-1: not a price"]),
        (["tune", "tree", "--jobs", "1,x"], ["--jobs=x: not a whole number"]),
        (["tune", "tree", "--levels", "9" * 30], ["--levels=999"]),
        (["completion", "csh"], ["csh"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_wrong_usage_is_one_line_and_code_2(work: Path, cli: Runner, arguments: list[str], words: list[str]) -> None:
    before = everything(work)
    one_line(cli(*arguments), 2, *words)
    assert everything(work) == before, "nothing was written"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["create", "nosuch", "--to", "store"], 1, ["nosuch"]),
        (["create", "tree", "--to", "key/x"], 1, ["key/x"]),
        (["create", "tree", "--to", "store", "--keyfile", "nosuch"], 1, ["nosuch"]),
        (["ls", "nosuch/latest"], 10, ["nosuch"]),
        (["list", "nosuch"], 10, ["nosuch"]),
        (["check", "nosuch"], 10, ["nosuch"]),
        (["key", "show", "nosuch"], 1, ["nosuch"]),
        (["keygen", "--symmetric", "key"], 1, ["key exists already"]),
        (["key", "show", "tree"], 1, ["cannot read the keyfile tree: Is a directory"]),
        (["key", "show", "/dev/zero"], 1, ["/dev/zero is not a regular file", "not a key"]),
        (["create", "tree", "--to", "store", "--keyfile", "/dev/zero"], 1, ["/dev/zero is not a regular file"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_failures_are_one_line(cli: Runner, arguments: list[str], code: int, words: list[str]) -> None:
    one_line(cli(*arguments), code, *words)


def test_values_that_look_like_options_and_empty_values_can_be_given(work: Path, cli: Runner) -> None:
    assert cli("create", "tree", "--to=--json", "--comment", "", "--exclude", "", "-q").code == 0
    assert cli("list", "--", "--json").code == 0
    assert cli("restore", "./--json/latest", "--thaw", "--into", "out").code == 2, "a directory is never cold"
    assert cli("restore", "./--json/latest", "--into", "out", "-q").code == 0
    assert everything(work / "out" / "tree") == everything(work / "tree")


def test_cat_with_offset_and_length(cli: Runner, store: str) -> None:
    for options, part in (
        (("--length", "0"), b""),
        (("--offset", "0", "--length", "5"), BIG[:5]),
        (("--offset", "299kB"), BIG[299_000:]),
        (("--offset", "300000"), b""),
        (("--offset", "4G"), b""),
    ):
        ran = cli("cat", f"{store}/latest", "tree/d/big", *options)
        assert (ran.code, ran.out, ran.err) == (0, part, "")


def test_common_options_before_or_after_the_verb(cli: Runner, store: str) -> None:
    behind = cli("ls", f"{store}/latest", "--json")
    assert cli("--json", "ls", f"{store}/latest").out == behind.out
    assert only(behind, "node")
    for arguments in (["-vv", "create"], ["create", "-v", "--verbose"], ["-v", "create", "-v"]):
        assert "unchanged  tree/f\n" in cli(*arguments, "tree", "--to", store).err
    assert "unchanged  tree/f\n" not in cli("-v", "create", "tree", "--to", store).err
    one_line(cli("-q", "create", "-v", "tree", "--to", store), 2, "--quiet")


def test_a_traceback_only_with_debug(work: Path) -> None:
    ran = run([*COMMAND, "ls", "nosuch/latest", "--debug"], work)
    assert "Traceback" in ran.err
    assert ran.err.splitlines()[-1].startswith("pogfast: error: ")


def test_an_internal_error_is_one_line(
    work: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(path: str) -> None:
        raise ValueError("a slip")

    monkeypatch.setattr("pogfast.keys.describe_file", fail)
    assert main(["key", "show", "x"]) == 1
    said = capfd.readouterr().err
    assert said.splitlines()[0] == "pogfast: error: internal error: ValueError: a slip"
    assert "Traceback" not in said


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["ls", "store/latest"]], ids=" ".join)
def test_standard_output_that_cannot_be_written(work: Path, store: str, arguments: list[str]) -> None:
    command = [*COMMAND, *arguments]
    with open("/dev/full", "wb") as full:
        ran = subprocess.run(command, cwd=work, stdout=full, stderr=subprocess.PIPE, check=False, text=True)
    line = "pogfast: error: cannot write to standard output: No space left on device\n"
    assert (ran.returncode, ran.stderr) == (1, line)
    closed = ["/bin/sh", "-c", '"$@" >&-', "sh", *command]
    ran = subprocess.run(closed, cwd=work, capture_output=True, check=False, text=True)
    assert (ran.returncode, ran.stderr) == (1, "pogfast: error: standard output is closed\n")
    read, write = os.pipe()
    os.close(read)
    ran = subprocess.run(command, cwd=work, stdout=write, stderr=subprocess.PIPE, check=False, text=True)
    os.close(write)
    assert (ran.returncode, ran.stderr) == (141, "")


def test_the_archive_is_stored_even_if_its_name_cannot_be_printed(work: Path, cli: Runner) -> None:
    """A cron job without standard output must still make its backup; the exit code reports the failure to print."""
    for redirection, why in ((">/dev/full", "cannot write to standard output"), (">&-", "standard output is closed")):
        before = set((work / "store").glob("*.mfn"))
        shell = ["/bin/sh", "-c", f'"$@" {redirection}', "sh", *COMMAND, "create", "tree", "--to", "store", "-q"]
        ran = subprocess.run(shell, cwd=work, capture_output=True, check=False, text=True)
        [made] = set((work / "store").glob("*.mfn")) - before
        assert ran.returncode == 3
        assert why in ran.stderr
        assert f"the archive is stored: {made.name}" in ran.stderr


@pytest.mark.parametrize("how", [["pair"], ["pair", "--json"], ["one", "--symmetric"]])
def test_keys_are_created_even_if_their_names_cannot_be_printed(work: Path, how: list[str]) -> None:
    shell = ["/bin/sh", "-c", '"$@" >/dev/full', "sh", *COMMAND, "keygen", *how]
    ran = subprocess.run(shell, cwd=work, capture_output=True, check=False, text=True)
    made = ["one"] if "one" in how else ["pair.encrypt", "pair.decrypt"]
    assert all((work / name).exists() for name in made)
    assert ran.returncode == 3
    assert f"the keys were created: {' and '.join(made)}" in ran.stderr


# ---- create and restore ----------------------------------------------------------------------------------------------


def test_create_and_restore(work: Path, cli: Runner) -> None:
    ran = cli("create", "tree", "--to", "store")
    assert ran.code == 0
    [name] = ran.lines
    assert (work / "store" / name).exists()
    for words in ("files    5: 5 new, 0 unchanged; 3 directories, 1 other\n", "read ", "stored "):
        assert words in ran.err
    for archive in (f"store/{name}", "store/latest", f"local:{work}/store/{name}"):
        shutil.rmtree(work / "out", ignore_errors=True)
        ran = cli("restore", archive, "--into", "out")
        assert (ran.code, ran.out) == (0, b"")
        assert "restored 5 files, 320 kB in " in ran.err
        assert everything(work / "out" / "tree") == everything(work / "tree")
    ran = cli("restore", "store/latest", "--into", "out", "-q")
    assert (ran.code, ran.out, ran.err) == (0, b"", "")
    assert "6 unchanged" in cli("restore", "store/latest", "--into", "out").err


def test_a_second_run_reads_no_file(cli: Runner, store: str) -> None:
    ran = cli("create", "tree", "--to", store)
    assert "5: 0 new, 5 unchanged" in ran.err
    assert summary(cli("create", "tree", "--to", store, "--json"))["bytes_read"] == 0
    for option in ("--force", "--no-cache", "--cache-dir=other"):
        assert summary(cli("create", "tree", "--to", store, "--json", option))["bytes_read"] == 320_005


def test_the_directory_of_the_cache(work: Path, cli: Runner) -> None:
    assert cli("create", "tree", "--to", "store", "--no-cache").code == 0
    assert not (work / "cache").exists()
    assert cli("create", "tree", "--to", "store", "--cache-dir", "mine").code == 0
    assert list((work / "mine").iterdir())
    assert not (work / "cache").exists()


def test_quiet_create_prints_only_the_name_of_the_archive(work: Path, cli: Runner) -> None:
    ran = cli("-q", "create", "tree", "--to", "store")
    [archive] = (work / "store").glob("*.mfn")
    assert (ran.code, ran.out.decode(), ran.err) == (0, f"{archive.name}\n", "")


def test_the_json_of_create_and_restore(cli: Runner) -> None:
    ran = cli("create", "tree", "--to", "store", "--json", "-vv")
    assert {(found["action"], found["item"]) for found in only(ran, "verbose_status")} >= {
        ("new", "tree/f"),
        ("directory", "tree/d"),
        ("link", "tree/link"),
    }
    found = summary(ran)
    assert (found["files_new"], found["dirs"], found["others"], found["total_bytes_processed"]) == (5, 3, 1, 320_005)
    assert found["data_added_packed"] == found["total_bytes_stored"] > 300_000
    assert found["snapshot_id"].endswith(".mfn")
    ran = cli("restore", f"store/{found['snapshot_id']}", "--into", "out", "--json")
    assert ran.err == ""
    assert summary(ran)["files_restored"] == 5
    assert summary(ran)["bytes_restored"] == 320_005
    assert summary(cli("restore", "store/latest", "--into", "out", "--json"))["files_skipped"] == 6


def test_archiving_standard_input_and_the_output_of_a_program(work: Path, cli: Runner) -> None:
    ran = cli("create", "-", "--name", "db/dump.sql", "--to", "store", stdin=BIG)
    assert ran.code == 0, ran.err
    assert cli("cat", "store/latest", "db/dump.sql").out == BIG
    ran = cli("create", "--from-command", "printf '%s' 'a b'", "--name", "out", "--to", "store")
    assert ran.code == 0, ran.err
    assert cli("cat", "store/latest", "out").out == b"a b"
    before = everything(work / "store")
    one_line(cli("create", "--from-command", "false", "--name", "out", "--to", "store"), 1, "false")
    assert {name for name in everything(work / "store").keys() - before.keys() if name.endswith(".mfn")} == set()
    closed = ["/bin/sh", "-c", '"$@" <&-', "sh", *COMMAND, "create", "-", "--name", "x", "--to", "store"]
    one_line(run(closed, work), 2, "cannot read standard input: it is closed")


@pytest.mark.parametrize("options", [["--chunk-size=64KiB"], ["--chunker=fastcdc:64KiB"], ["--layout=stream"]])
def test_a_file_with_holes_on_standard_input(work: Path, cli: Runner, options: list[str]) -> None:
    content = b"a" * 8192 + bytes(2**20) + b"b" * 5000 + bytes(2**20)
    with (work / "image").open("wb") as file:
        file.write(content[:8192])
        file.seek(8192 + 2**20)
        file.write(b"b" * 5000)
        file.truncate(len(content))
    for start in (0, 4098):
        with (work / "image").open("rb") as file:
            file.seek(start)
            arguments = ["create", "-", "--name", "image", "--to", "store", "--json", *options]
            ran = subprocess.run([*COMMAND, *arguments], cwd=work, stdin=file, capture_output=True, check=False)
        assert ran.returncode == 0, ran.stderr
        found = json.loads(ran.stdout.splitlines()[-1])
        assert found["bytes_read"] == found["total_bytes_processed"] == len(content) - start
        assert cli("cat", "store/latest", "image").out == content[start:]


def test_several_stores(work: Path, cli: Runner) -> None:
    ran = cli("create", "tree", "--to", f"one,local:{work}/two")
    [name] = ran.lines
    for place in ("one", "two"):
        assert cli("cat", f"{place}/{name}", "tree/f").out == b"hi\n"


@pytest.mark.parametrize(
    ("options", "left_out"),
    [
        (["--exclude", "*.tmp"], {"x.tmp"}),
        (["--exclude", "*.tmp", "--exclude", "d/big"], {"x.tmp", "big"}),
        (["--iexclude", "*.TMP"], {"x.tmp"}),
        (["--exclude-from", "patterns"], {"x.tmp", "empty"}),
        (["--exclude-if-present", "f"], {"d", "big", "e", "x.tmp", "empty", "é", "link"}),
        (["--exclude-caches"], {"x.tmp"}),
        (["--exclude-larger-than", "100kB"], {"big"}),
        (["--one-file-system"], set()),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_exclude_options(work: Path, cli: Runner, options: list[str], left_out: set[str]) -> None:
    (work / "patterns").write_text("*.tmp\n# a comment\n\nempty\n")
    (work / "tree" / "d" / "e" / "CACHEDIR.TAG").write_bytes(b"Signature: 8a477f597d28d172789f06886806bc55\n")
    assert cli("create", "tree", "--to", "all").code == 0
    ran = cli("create", "tree", "--to", "store", *options)
    assert ran.code == 0, ran.err
    listed = [{name.rpartition("/")[2] for name in cli("ls", f"{store}/latest").lines} for store in ("all", "store")]
    tags = {"CACHEDIR.TAG"} if "--exclude-if-present" in options else set()
    assert listed[0] - listed[1] == left_out | tags


def test_directory_and_files_from(work: Path, cli: Runner) -> None:
    assert cli("create", "d", "-C", "tree", "--to", "one").code == 0
    assert names(cli("ls", "one/latest")) == {"d", "d/big", "d/e", "d/e/x.tmp"}
    (work / "list").write_text("f\nemp*\n")
    assert cli("create", "--files-from", "list", "--directory", "tree", "--to", "two").code == 0
    assert names(cli("ls", "two/latest")) == {"f", "empty"}
    ran = cli("create", "-C", "tree", "--files-from", "-", "-0", "d/e", "--to", "three", stdin="f\0é\0".encode())
    assert ran.code == 0, ran.err
    assert names(cli("ls", "three/latest")) >= {"f", "é", "d/e/x.tmp"}


def test_host_tag_and_path_select_archives(cli: Runner) -> None:
    makes = [["--tag", "a", "--host", "one"], ["--tag", "a", "--tag", "b", "--host", "two"], ["--comment", "last"]]
    made = [
        cli("create", path, "--to", "store", *more).lines[0]
        for path, more in zip(["tree", "key", "tree"], makes, strict=True)
    ]

    def chosen(*options: str) -> str:
        [found] = only(cli("info", "store/latest", "--json", *options), "info")
        return str(found["id"])

    assert chosen() == made[2]
    assert chosen("--host", "one") == made[0]
    assert chosen("--tag", "a") == chosen("--tag", "a", "--tag", "b") == made[1]
    assert chosen("--path", "key") == made[1]
    assert chosen("--path", "tree", "--tag", "a") == made[0]
    one_line(cli("info", "store/latest", "--host", "three"), 10, "three")
    [found] = only(cli("info", "store/latest", "--json"), "info")
    assert found["comment"] == "last"
    for options, count in (([], 3), (["--host", "two"], 1), (["--tag", "a"], 2), (["--path", "tree"], 2)):
        assert len(only(cli("list", "store", "--json", *options), "snapshot")) == count


def test_chunker_options(cli: Runner) -> None:
    for options, layout in (
        (["--chunk-size", "100kB"], "frames"),
        (["--chunk-size=100kB", "--layout=stream"], "stream"),
    ):
        ran = cli("create", "tree/d/big", "--to", layout, "--level", "1", "--jobs", "1", "--readers", "1", *options)
        assert ran.code == 0, ran.err
        [found] = only(cli("info", f"{layout}/latest", "--json"), "info")
        assert (found["layout"], found["chunk_size"], found["blobs"] >= 3) == (layout, 100_000, True)
        assert (
            cli("cat", f"{layout}/latest", "tree/d/big", "--offset", "150000", "--length", "7").out
            == BIG[150_000:150_007]
        )
        assert cli("cat", f"{layout}/latest", "tree/d/big", "--offset", "999999").out == b""
    ran = cli("cat", "frames/latest", "tree/d/big", "--json")
    assert ran.code == 2, "what is printed is the file"


def test_verbose_prints_the_memory_of_chunks(cli: Runner) -> None:
    assert "chunks in flight" in cli("create", "tree", "--to", "store", "-v").err
    assert "chunks in flight" not in cli("create", "tree", "--to", "store").err


def test_a_dry_run_of_create_writes_nothing(work: Path, cli: Runner, store: str) -> None:
    (work / "tree" / "new").write_bytes(b"new")
    before = everything(work)
    ran = cli("create", "tree", "--to", store, "-n")
    assert ran.code == 0
    assert {"new        tree/new", "unchanged  tree/f", "link       tree/link"} <= set(ran.lines)
    assert "would archive 6 files" in ran.err
    ran = cli("create", "tree", "--to", store, "--dry-run", "--json")
    assert ("new", "tree/new") in {(found["action"], found["item"]) for found in only(ran, "verbose_status")}
    assert summary(ran)["dry_run"] is True
    assert everything(work).keys() == before.keys()
    ran = cli("create", "tree", "--to", "nosuch", "-n")
    assert not (work / "nosuch").exists()


def test_a_source_that_cannot_be_read_is_named_and_the_rest_is_archived(cli: Runner) -> None:
    unreadable = "/proc/self/mem"
    ran = cli("create", "tree/f", unreadable, "--to", "store", "--json")
    assert ran.code == 3
    assert any(line.startswith("pogfast: error: ") and unreadable in line for line in ran.err.splitlines())
    [error] = only(ran, "error")
    assert unreadable in error["error"]["message"]
    assert (error["during"], error["item"], error["code"]) == ("archival", unreadable, 3)
    assert summary(ran)["error_count"] == 1
    assert "tree/f" in names(cli("ls", "store/latest"))
    ran = cli("create", "tree/f", unreadable, "--to", "store")
    assert ran.code == 3
    assert "errors   1, named above" in ran.err


def test_restore_options(work: Path, cli: Runner, store: str) -> None:
    def restored(*options: str) -> set[str]:
        shutil.rmtree(work / "out", ignore_errors=True)
        ran = cli("restore", f"{store}/latest", "--into", "out", *options)
        assert ran.code == 0, ran.err
        return {name for name, content in everything(work / "out").items() if content is not None}

    assert restored("tree/f", "tree/d/e") == {"tree/f", "tree/d/e/x.tmp"}
    assert restored("*.tmp", "--jobs", "1") == {"tree/d/e/x.tmp"}
    assert restored("tree/d", "--exclude", "big", "--numeric-owner") == {"tree/d/e/x.tmp"}
    assert restored("tree/d", "--strip-components", "2") == {"big", "e/x.tmp"}
    ran = cli("restore", f"{store}/latest", "nosuch", "tree/f", "--into", "more")
    assert ran.code == 3
    assert "pogfast: error: nosuch: " in ran.err
    ran = cli("restore", f"{store}/latest", "nosuch", "--into", "more", "--json")
    assert [error["item"] for error in only(ran, "error")] == ["nosuch"]
    assert (work / "more" / "tree" / "f").read_bytes() == b"hi\n"


def test_restore_over_existing_files(work: Path, cli: Runner, store: str) -> None:
    command = ["restore", f"{store}/latest", "--into", "out"]
    assert cli(*command).code == 0
    (work / "out" / "tree" / "f").write_bytes(b"another")
    (work / "out" / "tree" / "extra").write_bytes(b"extra")
    ran = cli(*command)
    assert ran.code == 3
    assert "pogfast: error: tree/f: something else exists there and is not replaced\n" in ran.err
    assert "--overwrite=if-changed" in ran.err
    ran = cli(*command, "--json")
    assert [error["item"] for error in only(ran, "error")] == ["tree/f"]
    assert summary(ran)["files_refused"] == 1
    assert (work / "out" / "tree" / "f").read_bytes() == b"another"
    ran = cli(*command, "--overwrite=if-changed", "--delete", "-n")
    assert (ran.code, set(ran.lines) >= {"restored   tree/f", "deleted    tree/extra"}) == (0, True)
    assert (work / "out" / "tree" / "f").read_bytes() == b"another"
    ran = cli(*command, "--overwrite=if-changed", "--delete")
    assert ran.code == 0
    assert "restored 1 file," in ran.err
    assert "deleted 1 " in ran.err
    assert everything(work / "out" / "tree") == everything(work / "tree")
    assert summary(cli(*command, "--overwrite=always", "--json"))["files_restored"] == 5


# ---- looking ---------------------------------------------------------------------------------------------------------


def test_list(work: Path, cli: Runner, store: str) -> None:
    tags = ("--tag", "t1", "--tag", "t2")
    assert cli("create", "tree/f", "--to", store, *tags, "--host", "h", "--comment", "by hand").code == 0
    ran = cli("list", store)
    head, one, two = ran.lines
    assert head.split() == ["time", "host", "files", "size", "stored", "archive", "tags", "paths", "comment"]
    assert re.match(r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{4}  ", one)
    assert one.split()[4:7] == ["5", "320", "kB"]
    assert two.split()[3] == "h"
    assert re.search(rf"\.mfn  t1, t2  {work}/tree/f  by hand$", two)
    found = only(cli("list", store, "--json"), "snapshot")
    assert [item["files"] for item in found] == [5, 1]
    assert found[1]["hostname"] == found[1]["host"] == "h"
    assert found[1]["paths"] == [str(work / "tree" / "f")]
    shown = only(cli("info", f"{store}/latest", "--json"), "info")[0]
    assert shown["hostname"] == shown["host"] == "h"


def test_list_and_info_show_what_was_left_out(work: Path, cli: Runner, store: str) -> None:
    plant_socket(work / "tree" / "socket")
    assert cli("create", "tree", "--to", store).code == 0
    assert cli("list", store).lines[-1].endswith("1 skipped")
    assert only(cli("list", store, "--json"), "snapshot")[-1]["skipped"] == 1
    assert "left out     1 skipped" in cli("info", f"{store}/latest").lines


def test_archives_of_another_key_are_reported_once(work: Path, cli: Runner, store: str) -> None:
    (work / "other").write_bytes(b"another key")
    for verb in (["list", store], ["stats", store], ["find", store, "f"], ["check", store], ["ls", f"{store}/latest"]):
        ran = cli(*verb, "--keyfile", "other")
        assert ran.code == 12, verb
    assert "not opened by this key" in cli("list", store, "--keyfile", "other").lines[1]
    assert cli("create", "tree/f", "--to", store, "--keyfile", "other").code == 0
    other = next(info["id"] for info in only(cli("list", store, "--json"), "snapshot") if info["code"])
    for verb in (["list", store], ["stats", store], ["find", store, "f"], ["check", store], ["ls", f"{store}/latest"]):
        ran = cli(*verb)
        assert ran.code == 3, (verb, ran.err)
        assert ran.err.count(other) == 1, verb
    damaged = next(path for path in (work / store).glob("*.mfn") if path.name != other)
    flip(damaged, -1)
    assert cli("list", store).code == 4


@pytest.mark.parametrize("verb", ["list", "check", "stats", "find", "ls", "undelete", "copy"])
def test_no_store_or_no_archive(work: Path, cli: Runner, store: str, verb: str) -> None:
    """An empty mount point; and blobs whose manifests are gone."""
    (work / "void").mkdir()
    shutil.copytree(work / store, work / "blobs")
    for path in (work / "blobs").rglob("*"):
        os.utime(path, (1, 1))  # young blobs may be those of a first run
        if path.suffix == ".mfn":
            path.unlink()

    def run(where: str) -> Ran:
        more = {"find": ["f"], "copy": ["target"]}.get(verb, [])
        return cli(verb, f"{where}/latest" if verb == "ls" else where, *more)

    ran = run("void")
    assert (ran.code, ran.out) == (10, b""), ran.err
    assert ran.err.startswith("pogfast: error: no store at void")
    ran = run("blobs")
    assert (ran.code, ran.out) == (4, b""), ran.err
    assert "blobs has blobs and no archive" in ran.err


def test_ls(work: Path, cli: Runner, store: str) -> None:
    archive = f"{store}/latest"
    everyone = [
        "tree",
        "tree/d",
        "tree/d/big",
        "tree/d/e",
        "tree/d/e/x.tmp",
        "tree/empty",
        "tree/f",
        "tree/link",
        "tree/é",
    ]
    assert cli("ls", archive).lines == everyone
    assert cli("ls", archive, "tree/d/e", "link").lines == ["tree/d/e", "tree/d/e/x.tmp", "tree/link"]
    os.chmod(work / "tree" / "f", 0o640)
    assert cli("create", "tree", "--to", store).code == 0
    lines = cli("ls", "-l", archive).lines
    assert lines == cli("ls", "--long", archive).lines
    assert any(line.startswith("-rw-r-----") and " 3 " in line and line.endswith("  tree/f") for line in lines)
    assert any(line.startswith("l") and line.endswith("  tree/link -> f") for line in lines)
    assert cli("ls", "--tree", archive, "tree/d").lines == [
        "└── tree",
        "    └── d",
        "        ├── big",
        "        └── e",
        "            └── x.tmp",
    ]
    nodes = {node["path"]: node for node in only(cli("ls", archive, "--json"), "node")}
    assert list(nodes) == everyone
    assert {word: nodes["tree/f"][word] for word in ("name", "type", "size", "permissions", "mode")} == {
        "name": "f",
        "type": "file",
        "size": 3,
        "permissions": "-rw-r-----",
        "mode": 0o640,
    }
    assert nodes["tree/f"]["mtime_ns"] == (work / "tree" / "f").stat().st_mtime_ns
    assert (nodes["tree/link"]["type"], nodes["tree/link"]["linktarget"]) == ("symlink", "f")
    assert nodes["tree/d"]["type"] == "dir"
    ran = cli("ls", archive, "nosuch")
    assert (ran.code, ran.out) == (3, b"")
    assert "nosuch" in ran.err


def test_find(cli: Runner, store: str) -> None:
    assert cli("create", "tree/f", "--to", store).code == 0
    found = only(cli("find", store, "f", "--json"), "match")
    assert [(match["path"], match["type"]) for match in found] == [("tree/f", "file")] * 2
    assert found[0]["snapshot"] < found[1]["snapshot"]
    assert cli("find", store, "f").lines == [f"{match['snapshot']}  tree/f" for match in found]
    assert len(cli("find", store, "*.tmp", "big").lines) == 2
    assert cli("find", "-l", store, "big").lines[0].endswith("tree/d/big")
    assert "300000" in cli("find", "--long", store, "big").lines[0]
    ran = cli("find", store, "nosuch")
    assert (ran.code, ran.out) == (0, b"")


def test_cat_accepts_a_leading_slash_as_ls_and_restore_do(work: Path, cli: Runner, store: str) -> None:
    assert cli("create", work / "tree", "--to", "second").code == 0
    written = [f"{store}/latest"] * 4 + ["second/latest"] * 2
    names = ["tree/f", "/tree/f", "./tree/f", "//tree//f", f"{work}/tree/f", f"{work}/tree/f".lstrip("/")]
    for number, (archive, name) in enumerate(zip(written, names, strict=True)):
        assert cli("cat", archive, name).out == b"hi\n", name
        assert cli("ls", archive, name).lines == [names[0] if number < 4 else names[5]], name
        assert cli("restore", archive, name, "--into", f"out{number}").code == 0, name
    ran = cli("cat", f"{store}/latest", "/tree/d")
    assert (ran.code, "a directory, not a file" in ran.err) == (3, True), ran.err
    one_line(cli("cat", f"{store}/latest", "/nosuch"), 3, "nosuch: no such file in the archive")


def test_find_in_archives_of_a_host_or_a_tag(cli: Runner, store: str) -> None:
    made = {}
    for host, tags in (("laptop", "daily"), ("laptop", "daily,weekly"), ("server", "weekly")):
        ran = cli("create", "tree/f", "--to", store, "--host", host, "--tag", tags, "-q")
        made[host, tags] = ran.lines[0]

    def found(*words: str) -> list[str]:
        ran = cli("find", store, "f", *words, "--json")
        assert ran.code == 0, ran.err
        return [match["snapshot"] for match in only(ran, "match")]

    laptop, both, server = made.values()
    assert found("--host", "laptop") == [laptop, both]
    assert found("--tag", "weekly") == [both, server]
    assert found("--tag", "daily,weekly") == found("--tag", "daily", "--tag", "weekly") == [both]
    assert found("--host", "server", "--tag", "weekly") == [server]
    assert found("--host", "server", "--tag", "daily") == found("--host", "lap") == []
    assert len(found()) == 4


def test_diff(work: Path, cli: Runner, store: str) -> None:
    [first] = [path.name for path in (work / store).glob("*.mfn")]
    (work / "tree" / "f").write_bytes(b"changed")
    (work / "tree" / "empty").unlink()
    (work / "tree" / "more").write_bytes(b"more")
    os.chmod(work / "tree" / "é", 0o600)
    assert cli("create", "tree", "--to", store).code == 0
    command = ["diff", f"{store}/{first}", f"{store}/latest"]
    ran = cli(*command)
    assert ran.code == 0
    assert {line.split("  ")[0] for line in ran.lines} >= {"+ tree/more", "- tree/empty", "M tree/f", "U tree/é"}
    assert "1 added" in ran.err
    assert not [line for line in cli(*command, "--no-metadata").lines if line.startswith("U")]
    assert cli(*command, "--metadata").out == ran.out
    ran = cli(*command, "--json")
    changes = {found["path"]: found for found in only(ran, "change")}
    assert (changes["tree/f"]["modifier"], changes["tree/f"]["size_before"], changes["tree/f"]["size"]) == ("M", 3, 7)
    assert "mode" in changes["tree/é"]["metadata"]
    [statistics] = only(ran, "statistics")
    assert (statistics["added"], statistics["removed"], statistics["modified"]) == (1, 1, 1)
    assert cli("diff", f"{store}/latest", f"{store}/latest").err == "no difference\n"


def test_info_and_stats(cli: Runner, store: str) -> None:
    ran = cli("info", f"{store}/latest", "--host", os.uname().nodename)
    assert ran.code == 0
    pairs = {line[:12].strip(): line[13:] for line in ran.lines}
    assert (pairs["files"], pairs["size"], pairs["largest"]) == ("5", "320 kB", "tree/d/big, 300 kB")
    [found] = only(cli("info", f"{store}/latest", "--json"), "info")
    assert (found["files"], found["size"], found["missing"], found["links"]) == (5, 320_005, 0, 1)
    pairs = {line[:12].strip(): line[13:] for line in cli("stats", store).lines}
    assert (pairs["archives"], pairs["files"]) == ("1", "5")
    [found] = only(cli("stats", store, "--json"), "stats")
    assert (found["archives"], found["files"], found["orphans"]) == (1, 5, 0)


def test_check(work: Path, cli: Runner, store: str) -> None:
    for options in ([], ["--read-data"], ["--read-data-subset", "1/1"], ["--jobs", "1", "--read-data"]):
        ran = cli("check", store, f"{store}/latest", *options)
        assert (ran.code, ran.out) == (0, b""), ran.err
        assert "checked 1 archive, 5 files, " in ran.err
        assert "no damage found" in ran.err
    blob = max((work / store / "data").rglob("*="), key=lambda path: path.stat().st_size)
    flip(blob, 200_000)
    assert cli("check", store).code == 0, "what is not read is not found"
    ran = cli("check", store, "--read-data")
    assert (ran.code, ran.out) == (4, b"")
    assert "tree/d/big" in ran.err
    assert blob.name in ran.err
    ran = cli("check", store, "--read-data", "--json")
    [error] = only(ran, "error")
    assert (error["item"], error["blob"], error["code"]) == ("tree/d/big", blob.name, 4)
    assert (ran.code, summary(ran)["num_errors"]) == (4, 1)
    assert cli("cat", f"{store}/latest", "tree/d/big").code == 4
    assert "from byte" not in cli("check", store, "--read-data").err, "all of it is damaged"
    blob.unlink()
    ran = cli("check", f"{store}/latest")
    assert ran.code == 4
    assert "missing" in ran.err
    ran = cli("restore", f"{store}/latest", "--into", "out")
    assert ran.code == 4
    assert (work / "out" / "tree" / "f").exists()


def test_check_against_the_disk(work: Path, cli: Runner, store: str) -> None:
    assert cli("check", f"{store}/latest", "--against", ".").code == 0
    flip(work / "tree" / "d" / "big", 1000)
    (work / "tree" / "more").write_bytes(b"")
    (work / "tree" / "f").unlink()
    ran = cli("check", f"{store}/latest", "--against", ".")
    assert ran.code == 1
    kinds = {line.split()[1]: line.split()[0] for line in ran.lines}
    assert {"tree/d/big": "content", "tree/more": "extra", "tree/f": "missing"}.items() <= kinds.items()
    ran = cli("check", f"{store}/latest", "--against", ".", "--json")
    found = {item["name"]: item for item in only(ran, "difference")}
    assert found["tree/d/big"]["offset"] == 1000 or found["tree/d/big"]["difference"] == "content"
    assert summary(ran)["num_differences"] == len(found)


# ---- keys ------------------------------------------------------------------------------------------------------------


def test_key_pairs(work: Path, cli: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("POGFAST_KEYFILE")
    ran = cli("keygen", "pair")
    assert [line.split()[0] for line in ran.lines] == ["pair.encrypt", "pair.decrypt", "fingerprint"]
    assert (work / "pair.decrypt").stat().st_mode & 0o777 == 0o600
    one_line(cli("keygen", "pair"), 1, "exists already")
    fingerprint = ran.lines[2].split()[1]
    assert cli("create", "tree", "--to", "store", "--encryption-keyfile", "pair.encrypt").code == 0
    one_line(cli("ls", "store/latest", "--encryption-keyfile", "pair.encrypt"), 12, "--decryption-keyfile")
    assert "tree/f" in names(cli("ls", "store/latest", "--decryption-keyfile", "pair.decrypt"))
    for name in ("pair.encrypt", "pair.decrypt"):
        ran = cli("key", "show", name)
        assert fingerprint in ran.out.decode()
        assert (work / name).read_bytes() not in ran.out
        [found] = only(cli("key", "show", name, "--json"), "key")
        assert list(found["fingerprints"].values()) == [fingerprint]
    monkeypatch.setenv("POGFAST_ENCRYPTION_KEYFILE", "pair.encrypt")
    monkeypatch.setenv("POGFAST_DECRYPTION_KEYFILE", "pair.decrypt")
    assert cli("create", "tree", "--to", "store").code == 0
    assert cli("check", "store", "--read-data").code == 0
    ran = cli("keygen", "sub", "--symmetric", "--json")
    [found] = only(ran, "key")
    assert found["paths"] == ["sub"]
    assert found["fingerprint"] in cli("key", "show", "sub").out.decode()


def test_the_wrong_key(work: Path, cli: Runner, store: str) -> None:
    (work / "other").write_bytes(b"another key")
    for verb in (["ls"], ["restore", "--into", "out"], ["cat"], ["check"], ["info"]):
        arguments = [f"{store}/latest", "tree/f"] if verb == ["cat"] else [f"{store}/latest"]
        one_line(cli(*verb, *arguments, "--keyfile", "other"), 12)
    ran = cli("ls", f"{store}/latest", "--keyfile", "other", "--json")
    assert [(found["message_type"], found["code"]) for found in objects(ran)] == [("exit_error", 12)]
    assert ran.err.startswith("pogfast: error: ")


def test_passwords(work: Path, cli: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("POGFAST_KEYFILE")
    (work / "password").write_text("s3cret\nmore\n")
    assert cli("create", "tree/f", "--to", "store", "--password-file", "password").code == 0
    assert cli("cat", "store/latest", "tree/f", "--password-command", "printf s3cret").out == b"hi\n"
    assert cli("cat", "store/latest", "tree/f", stdin=b"s3cret\n").out == b"hi\n"
    one_line(cli("ls", "store/latest", stdin=b"wrong\n"), 12)
    one_line(
        cli("ls", "store/latest"), 2, "no password", "--decryption-keyfile", "POGFAST_DECRYPTION_KEYFILE", "--keyfile"
    )
    writing = ["--encryption-keyfile", "POGFAST_ENCRYPTION_KEYFILE", "--keyfile"]
    assert cli("create", "tree/f", "--to", "store", stdin=b"s3cret\ns3cret\n").code == 0
    one_line(cli("create", "tree/f", "--to", "store", stdin=b"s3cret\n"), 2, "no password", *writing)
    data_on_stdin = ["create", "-", "--name", "x", "--to", "store"]
    one_line(cli(*data_on_stdin, stdin=b"s3cret\ns3cret\n"), 2, "standard input is the data to archive", *writing)
    for variable, value in (
        ("POGFAST_PASSWORD", "s3cret"),
        ("POGFAST_PASSWORD_FILE", "password"),
        ("POGFAST_PASSWORD_COMMAND", "head -1 password"),
    ):
        monkeypatch.setenv(variable, value)
        assert cli("cat", "store/latest", "tree/f").out == b"hi\n"
        monkeypatch.delenv(variable)


def test_no_password_is_asked_for_before_cheap_checks(cli: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("POGFAST_KEYFILE")
    for arguments in (
        ["list", "nosuch"],
        ["ls", "nosuch/latest"],
        ["check", "nosuch"],
        ["create", "tree", "--to", "s3://"],
    ):
        assert "password" not in cli(*arguments).err


# ---- a terminal ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def terminal(work: Path, *arguments: str, **more: Any) -> Iterator[pexpect.spawn]:
    command = pexpect.spawn(
        COMMAND[0], [*COMMAND[1:], *arguments], cwd=str(work), timeout=60, dimensions=(24, 160), **more
    )
    try:
        yield command
    finally:
        command.close(force=True)


def test_a_password_at_the_terminal(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("POGFAST_KEYFILE")
    for arguments, answers, code in (
        (["create", "tree/f", "--to", "store"], ["one", "two", "s3cret", "s3cret"], 0),
        (["cat", "store/latest", "tree/f"], ["s3cret"], 0),
        (["cat", "store/latest", "tree/f"], ["wrong"], 12),
    ):
        with terminal(work, *arguments) as command:
            for answer in answers:
                command.expect("Password: ")
                command.sendline(answer)
            command.expect(pexpect.EOF)
            said = command.before.decode()
            command.close()
            assert command.exitstatus == code, said
            assert "s3cret" not in said


def slow(work: Path) -> tuple[Callable[[bytes], None], list[str]]:
    """Returns a function that feeds a slow backup of standard input, and its command line."""
    os.mkfifo(work / "pipe")
    arguments = ["create", "--from-command", f"cat {work}/pipe", "--name", "slow", "--to", "store"]
    ends: list[int] = []

    def feed(data: bytes) -> None:
        """Nothing: the end."""
        deadline = time.monotonic() + 60
        while not ends:
            try:
                ends.append(os.open(work / "pipe", os.O_WRONLY | os.O_NONBLOCK))
            except OSError as error:
                assert error.errno == errno.ENXIO, "nobody reads yet"
                assert time.monotonic() < deadline, "the command does not read"
                time.sleep(0.05)
        if data:
            os.write(ends[0], data)
        else:
            os.close(ends.pop())

    return feed, arguments


def test_the_bar_on_a_terminal(work: Path) -> None:
    feed, arguments = slow(work)
    with terminal(work, *arguments) as command:
        feed(b"x" * 1000)
        command.expect("create.*file.*read.*stored.*/s")
        command.kill(signal.SIGUSR1)
        command.expect("pogfast: create: 0 files, .* read, ")
        feed(b"")
        command.expect("files    1: 1 new")
        command.expect(r"\.mfn\r\n")
        command.expect(pexpect.EOF)
        command.close()
        assert command.exitstatus == 0
        assert b"\x1b[?25h" in command.before or b"\x1b[?25l" not in command.before, "the cursor is back"


def test_no_bar_without_a_terminal_or_with_quiet(work: Path, cli: Runner, store: str) -> None:
    for arguments, environment in ((["-q"], {}), ([], {"TERM": "dumb"}), (["--json"], {})):
        (work / "pipe").unlink(missing_ok=True)
        feed, command_line = slow(work)
        with terminal(work, *arguments, *command_line, env={**os.environ, **environment}) as command:
            feed(b"x")
            time.sleep(1)
            feed(b"")
            command.expect(pexpect.EOF)
            assert b"\x1b" not in command.before


def test_output_larger_than_the_buffer_of_a_pipe(work: Path, cli: Runner) -> None:
    """With unbuffered output, a signal interrupts a write, and the rest must still be written."""
    content = os.urandom(3_000_000)
    (work / "tree" / "f").write_bytes(content)
    assert cli("create", "tree/f", "--to", "store").code == 0
    program = "import signal, sys; from pogfast.cli import main; signal.signal(signal.SIGALRM, lambda *_: None); "
    program += (
        "signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01); code = main(); signal.setitimer(signal.ITIMER_REAL, 0); "
    )
    program += "sys.exit(code)"
    command = [sys.executable, "-u", "-c", program, "cat", "store/latest", "tree/f"]
    process = subprocess.Popen(command, cwd=work, stdout=subprocess.PIPE)
    assert process.stdout is not None
    pieces = []
    while piece := process.stdout.read(100_000):
        pieces.append(piece)
        time.sleep(0.01)
    assert (process.wait(60), b"".join(pieces) == content) == (0, True)


def test_control_characters_are_escaped_on_a_terminal_only(work: Path, cli: Runner) -> None:
    (work / "odd").mkdir()
    for name in (b"n\nl", b"\x1b[31mred", b"bad\xff"):
        (work / "odd" / os.fsdecode(name)).write_bytes(b"")
    assert cli("create", "odd", "--to", "store").code == 0
    with terminal(work, "ls", "store/latest") as command:
        command.expect(pexpect.EOF)
        said = command.before
    assert said.split(b"\r\n")[1:4] == [rb"odd/\x1b[31mred", rb"odd/bad\udcff", rb"odd/n\nl"]
    assert b"odd/bad\xff\n" in cli("ls", "store/latest").out
    paths = {found["path"] for found in only(cli("ls", "store/latest", "--json"), "node")}
    assert {os.fsencode(path) for path in paths} == {b"odd", b"odd/n\nl", b"odd/\x1b[31mred", b"odd/bad\xff"}
    ran = cli("restore", "store/latest", b"odd/bad\xff", "--into", "out")
    assert ran.code == 0, ran.err
    assert os.listdir(os.fsencode(work / "out" / "odd")) == [b"bad\xff"]
    ran = cli("restore", "store/latest", b"no\x1bsuch", "--into", "out")
    assert "no\\x1bsuch" in ran.err


def test_every_verb_escapes_archived_names_on_a_terminal(work: Path, cli: Runner) -> None:
    """In listings, differences, damage reports and verbose output."""
    title, mark, turn = b"\x1b]0;title\x07", b"\x9b31m", "\u202e".encode()
    odd = work / "odd"
    odd.mkdir()
    names = [b"a" + title, b"b" + mark, b"c" + turn + b"txt"]
    for name in names:
        (odd / os.fsdecode(name)).write_bytes(os.urandom(100))
        (odd / os.fsdecode(name + b"link")).symlink_to(os.fsdecode(b"to" + name))
    assert cli("create", "odd", "--to", "store").code == 0
    for name in names:
        (odd / os.fsdecode(name)).write_bytes(b"changed")
    assert cli("create", "odd", "--to", "store").code == 0
    old, new = sorted(path.name for path in (work / "store").glob("*.mfn"))
    for blob in (work / "store" / "data").rglob("*="):
        if blob.stat().st_size > 160:
            blob.write_bytes(b"?" * blob.stat().st_size)
    for words in (
        ["ls", f"store/{new}"],
        ["ls", "--long", f"store/{new}"],
        ["find", "store", "*"],
        ["diff", f"store/{old}", f"store/{new}"],
        ["check", "store", "--read-data"],
        ["check", f"store/{old}", "--against", "."],
        ["info", f"store/{new}"],
        ["cat", f"store/{old}", names[0].decode()],
        ["restore", f"store/{old}", "--into", "out", "-vv"],
        ["restore", f"store/{new}", "--into", "out", "-vv", "--delete"],
        ["restore", f"store/{new}", names[0].decode() + "not", "--into", "out"],
        ["rewrite", f"store/{new}", "--exclude", "*txt"],
        ["create", "odd", "--to", "second", "-vv"],
        ["create", "odd", "--to", "second", "--dry-run", "-vv"],
    ):
        with terminal(work, *words) as command:
            command.expect(pexpect.EOF)
            said = command.before
        assert said, words
        assert title not in said, words
        assert turn not in said, words
        assert mark not in said, words


# ---- while it runs ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def running(work: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        cwd=work,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )

    def end() -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its own session: what it has started as well

    watchdog = threading.Timer(60, end)  # what still holds its pipes would let a test wait for ever
    watchdog.start()
    try:
        yield process
    finally:
        watchdog.cancel()
        end()
        process.communicate()


def test_a_signal_prints_a_line_at_once(work: Path) -> None:
    feed, arguments = slow(work)
    with running(work, *arguments) as process:
        feed(b"x" * 1000)
        time.sleep(0.5)
        process.send_signal(signal.SIGUSR1)
        assert process.stderr is not None
        line = process.stderr.readline()
        assert line.startswith(b"pogfast: create: 0 files, "), line
        feed(b"")
        assert process.wait(60) == 0


def test_json_status_lines_while_it_runs(work: Path) -> None:
    feed, arguments = slow(work)
    with running(work, *arguments, "--json") as process:
        feed(b"x" * 1000)
        assert process.stdout is not None
        told = [json.loads(process.stdout.readline()) for _ in range(2)]
        feed(b"")
        rest = process.stdout.read()
        assert process.wait(60) == 0
    assert {found["message_type"] for found in told} == {"status"}
    assert told[1]["seconds_elapsed"] - told[0]["seconds_elapsed"] >= 1, "not more than one a second"
    assert told[0].keys() <= JSON_WORDS["status"] | {"message_type"}
    assert {"percent_done", "files_done", "bytes_done", "bytes_read", "bytes_stored", "error_count"} <= told[0].keys()
    assert json.loads(rest.splitlines()[-1])["message_type"] == "summary"


def test_the_reader_of_the_json_exits(work: Path) -> None:
    """A run whose reader has exited ends without an archive."""
    feed, arguments = slow(work)
    with running(work, *arguments, "--json") as process:
        feed(b"x" * 1000)
        assert process.stdout is not None
        assert process.stdout.readline()
        process.stdout.close()
        time.sleep(1.5)
        feed(b"")
        assert process.wait(60) == 141
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert not list((work / "store").glob("*.mfn"))


@pytest.mark.parametrize(
    ("during", "said"),
    [
        ("restore", "interrupted; restored files are kept, run the same command again to continue"),
        ("check", "interrupted"),
    ],
)
def test_an_interrupted_verb_says_what_is_kept(during: str, said: str, capfd: pytest.CaptureFixture[str]) -> None:
    script = f"""
import sys
from pogfast.cli.options import displayed
from pogfast.cli.output import Output
from pogfast.console import guarded

def interrupted(output):
    with displayed(output, "a verb", "{during}"):
        raise KeyboardInterrupt

sys.exit(guarded(Output(), interrupted))
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 130
    assert capfd.readouterr().err == f"pogfast: error: {said}\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted(work: Path, number: signal.Signals) -> None:
    feed, arguments = slow(work)
    # Each may be ignored here, as under nohup.
    program = ["import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"]
    program += [f"signal.signal({name}, signal.SIG_DFL)" for name in ("signal.SIGTERM", "signal.SIGHUP")]
    program += ["import sys; from pogfast.cli import main; sys.exit(main())"]
    command = [sys.executable, "-c", "; ".join(program), *arguments]
    process = subprocess.Popen(
        command, cwd=work, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    feed(b"x" * 1000)
    time.sleep(0.5)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, b"")
    assert err == b"pogfast: error: interrupted; stored data is kept, run the same command again to continue\n"
    assert not list((work / "store").glob("*.mfn"))


# ---- completion ------------------------------------------------------------------------------------------------------


@pytest.fixture
def on_path(work: Path) -> dict[str, str]:
    """Returns an environment with `pogfast` on the PATH."""
    (work / "bin").mkdir()
    (work / "bin" / "pogfast").write_text(
        f"#!{sys.executable}\nimport sys\nfrom pogfast.cli import main\nsys.exit(main())\n"
    )
    (work / "bin" / "pogfast").chmod(0o755)
    return {**os.environ, "PATH": f"{work}/bin:{os.environ['PATH']}", "HOME": str(work)}


COMPLETE = {
    "bash": (
        'eval "$(pogfast completion bash)"; COMP_WORDS=(pogfast %s); COMP_CWORD=%d; _pogfast_completion pogfast; '
        'printf "%%s\\n" "${COMPREPLY[@]}"'
    ),
    "zsh": (
        "compdef() { :; }; compadd() { print -l -- ${(P)@[-1]}; }; _describe() { print -l -- ${(P)3}; }; "
        'words=(pogfast %s); CURRENT=$((%d + 1)); eval "$(pogfast completion zsh)"; _pogfast_completion'
    ),
    "fish": "pogfast completion fish | source; complete -C 'pogfast %s' # %d",
}


@pytest.mark.parametrize("shell", COMPLETE)
def test_completion(work: Path, on_path: dict[str, str], shell: str) -> None:
    script = run([*COMMAND, "completion", shell], work)
    assert script.code == 0
    assert b"_POGFAST_COMPLETE" in script.out
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell} here")
    for words, count, expected in (
        ("cre", 1, "create"),
        ("create --exclude-c", 2, "--exclude-caches"),
        ("key s", 2, "show"),
    ):
        ran = run([shell, "-c", COMPLETE[shell] % (words, count)], work, env=on_path)
        assert expected in ran.out.decode(), ran.err


@pytest.mark.parametrize(
    ("words", "count", "expected"),
    [
        ("restore --overwrite ", 3, ["plain,never", "plain,if-changed", "plain,always"]),
        ("create tr", 2, ["file,tr"]),
        ("ls store/", 2, ["file,store/"]),
        ("create --keyfile k", 3, ["file,k"]),
        ("completion z", 2, ["plain,zsh"]),
    ],
)
def test_completions(work: Path, words: str, count: int, expected: list[str]) -> None:
    asked = {"_POGFAST_COMPLETE": "bash_complete", "COMP_WORDS": f"pogfast {words}", "COMP_CWORD": str(count)}
    ran = run(COMMAND, work, env={**os.environ, **asked})
    assert ran.lines == expected, ran.err


# ---- the same from Python --------------------------------------------------------------------------------------------


def test_importing_the_package_imports_nothing(work: Path) -> None:
    program = "import sys; before = set(sys.modules); import pogfast; print(*set(sys.modules) - before)"
    ran = run([sys.executable, "-c", program], work)
    assert ran.out.decode().split() == ["pogfast"]


def test_the_python_interface(work: Path) -> None:
    """Also after modules of the same names have been imported, in any order."""
    program = """
import sys, pogfast
if "early" in sys.argv: import pogfast.stores.publish, pogfast.recovery.batches, pogfast.upkeep.checking, pogfast.errors
from pogfast import Key, check, create, errors, open_archive, open_store, restore
from pogfast.keys import from_keyfile
import pogfast.stores.publish, pogfast.recovery.batches, pogfast.upkeep.checking
key = from_keyfile("key")
assert isinstance(key, Key)
done = pogfast.create(["tree"], "store", key, tags=["t"], no_cache=True)
with pogfast.open_archive("store/latest", key) as archive:
    assert archive.name == done.manifest
    assert archive.open("tree/f").read() == b"hi\\n"
assert pogfast.restore("store/latest", key, "out", names=["tree/f"]).files == 1
assert [stored.name for stored in pogfast.open_store("store").manifests()] == [done.manifest]
try: pogfast.open_archive("nosuch/latest", key)
except pogfast.errors.NoSuchArchive: pass
assert pogfast.check is check and pogfast.create is create and callable(check)
assert set(pogfast.__all__) <= set(dir(pogfast))
try: pogfast.nonsense
except AttributeError as error: assert "nonsense" in str(error)
"""
    for more in ([], ["early"]):
        ran = run([sys.executable, "-W", "error", "-c", program, *more], work)
        assert (ran.code, ran.err) == (0, "")
        assert (work / "out" / "tree" / "f").read_bytes() == b"hi\n"
        shutil.rmtree(work / "out")
        shutil.rmtree(work / "store")


# ---- damage that many archives have, and none ------------------------------------------------------------------------


def test_check_reports_a_blob_once(work: Path, cli: Runner, store: str) -> None:
    shutil.copy(work / "tree" / "d" / "big", work / "tree" / "big")
    assert cli("create", "tree", "--to", store).code == 0
    blob = max((work / store / "data").rglob("*="), key=lambda path: path.stat().st_size)
    for what in ("damaged", "missing"):
        if what == "missing":
            blob.unlink()
        else:
            blob.write_bytes(bytes(blob.stat().st_size))
        ran = cli("check", store, "--read-data")
        [line] = [line for line in ran.err.splitlines() if blob.name in line]
        assert line.startswith(f"pogfast: error: blob {blob.name} is {what}"), line
        assert line.endswith(": 2 files in 2 archives: tree/big, tree/d/big"), line
        assert "damaged: 1 blob, named above\nto repair blobs: `pogfast create --force`" in ran.err
        ran = cli("check", store, "--read-data", "--json")
        assert (len(only(ran, "error")), summary(ran)["num_errors"]) == (3, 3)
    [newest] = sorted((work / store).glob("*.mfn"))[1:]
    os.truncate(newest, 100)
    ran = cli("check", store)
    assert "damaged: 1 blob, 1 archive, named above" in ran.err
    os.truncate(sorted((work / store).glob("*.mfn"))[0], 100)
    ran = cli("check", store)
    assert "damaged: 2 archives, named above\nto repair archives: `pogfast copy --verify" in ran.err
    assert "create --force" not in ran.err


def test_a_first_backup_that_is_running_is_not_damage(work: Path, cli: Runner, store: str) -> None:
    ran = cli("list", store, "--partial")
    assert (ran.code, ran.err) == (0, "no partial archives\n")
    [manifest] = (work / store).glob("*.mfn")
    data = manifest.read_bytes()
    manifest.unlink()
    one_line(cli("check", store), 4, "its first backup is running")
    manifest.with_name(manifest.name + ".partial").write_bytes(data)
    for verb in ("list", "check", "stats"):
        assert cli(verb, store).code == 0
    one_line(cli("prune", store, "--keep-all"), 10, "store has no archive yet")


def test_without_a_command_the_commands_are_listed(cli: Runner) -> None:
    ran = cli()
    assert (ran.code, ran.out) == (2, b"")
    assert ran.err.startswith("Usage: pogfast ")
    assert all(f"  {verb} " in ran.err for verb in VERBS)


@pytest.mark.parametrize("words", [["nosuch"], ["ls", "--bogus"], ["ls"], ["create", "x", "--to", "s", "--jobs", "x"]])
def test_usage_errors_as_json(cli: Runner, words: list[str]) -> None:
    ran = cli(*words, "--json")
    [line] = ran.lines
    assert (ran.code, json.loads(line)["message_type"], json.loads(line)["code"]) == (2, "exit_error", 2)


def test_check_goes_on_after_a_missing_store(work: Path, cli: Runner, store: str) -> None:
    ran = cli("check", "nosuch", store)
    assert (ran.code, "no store at nosuch" in ran.err) == (10, True), ran.err
    assert "checked 1 archive, 5 files, " in ran.err
    next((work / store / "data").rglob("*=")).unlink()
    assert cli("check", "nosuch", store).code == 4
    one_line(cli("check", "nosuch"), 10, "no store at nosuch")


# ---- nothing that fits -----------------------------------------------------------------------------------------------


def test_a_host_without_archives(cli: Runner, store: str) -> None:
    """A script would take `no damage found` and `0 removed` for success."""
    for words in (["check", store], ["prune", store, "--keep-last", "1"], ["ls", f"{store}/latest"]):
        one_line(cli(*words, "--host", "typo"), 10, "no archive from host typo in store")
    ran = cli("list", store, "--host", "typo", "--tag", "t")
    assert (ran.code, ran.out, ran.err) == (0, b"", "no archives from host typo with tag t\n")


def test_the_json_error_of_a_missing_name(cli: Runner, store: str) -> None:
    assert [error["item"] for error in only(cli("ls", f"{store}/latest", "nosuch", "--json"), "error")] == ["nosuch"]


def test_find_without_a_match(cli: Runner, store: str) -> None:
    ran = cli("find", store, "nosuch")
    assert (ran.code, ran.out, ran.err) == (0, b"", "nothing matches\n")


# ---- a public key alone ----------------------------------------------------------------------------------------------


@pytest.fixture
def public(work: Path, cli: Runner, monkeypatch: pytest.MonkeyPatch) -> str:
    """A store with two archives of a key pair, and its public key in the environment."""
    assert cli("keygen", "pair").code == 0
    monkeypatch.delenv("POGFAST_KEYFILE")
    monkeypatch.setenv("POGFAST_ENCRYPTION_KEYFILE", "pair.encrypt")
    for _ in range(2):
        assert cli("create", "tree", "--to", "store", "--host", "web").code == 0
    return "store"


@pytest.mark.parametrize(
    "verb",
    [
        ["list"],
        ["check"],
        ["find", "*"],
        ["prune", "--keep-last", "1", "--group-by", ""],
        ["lock extend", "governance:1d"],
        ["copy", "other"],
        ["restore", "--into", "out"],
        ["ls"],
        ["info"],
        ["cat", "tree/f"],
        ["diff", "store/latest"],
    ],
    ids=lambda verb: verb[0],
)
def test_a_public_key_cannot_select_archives(cli: Runner, public: str, verb: list[str]) -> None:
    """It cannot see hosts, so neither `none matches` nor `all match` would be true."""
    name, *rest = verb
    of_store = name in ("list", "check", "find", "prune", "lock extend")
    for by in (["--host", "web"], ["--tag", "t"]):
        ran = cli(*name.split(), public if of_store else f"{public}/latest", *rest, *by)
        one_line(ran, 12, "a public key alone cannot tell hosts, tags and paths", "--decryption-keyfile")


def test_check_with_a_public_key_counts_no_files(cli: Runner, public: str) -> None:
    """It cannot see them: `0 files` would look as if the archives were empty."""
    private = {**os.environ, "POGFAST_DECRYPTION_KEYFILE": "pair.decrypt"}
    assert re.search(r"^checked 2 archives, [0-9]+ blobs?, ", cli("check", public).err, re.MULTILINE)
    assert re.search(r"^checked 2 archives, [0-9]+ files?, ", cli("check", public, env=private).err, re.MULTILINE)
    assert json.loads(cli("check", public, "--json").lines[-1])["files"] == 0


def test_a_public_key_cannot_select_archives_from_python(work: Path, public: str) -> None:
    with pytest.raises(pogfast.errors.WrongKey):
        pogfast.list_archives(work / public, pogfast.open_key(encryption_keyfile=work / "pair.encrypt"), host="web")


def test_a_public_key_shows_times_without_an_offset(work: Path, cli: Runner, public: str) -> None:
    """The time in the name of an archive is local time of the machine that wrote it."""
    [name, *_] = sorted(path.name for path in (work / public).glob("*.mfn"))
    day, _, time = name.removesuffix(".mfn").partition("T")
    line = cli("list", public, env={**os.environ, "TZ": "Asia/Tokyo"}).lines[1]
    assert line.split()[:3] == [day, time[:8], "?"], line
    shown = json.loads(cli("list", public, "--json").lines[0])
    assert (shown["local"], shown["time"]) == (True, f"{day}T{time}")
    private = {**os.environ, "POGFAST_DECRYPTION_KEYFILE": "pair.decrypt"}
    assert "+0900" in cli("list", public, env={**private, "TZ": "Asia/Tokyo"}).lines[1]
    assert json.loads(cli("list", public, "--json", env=private).lines[0])["local"] is False


@pytest.mark.parametrize("verb", [["ls"], ["info"], ["restore", "--into", "out"]], ids=lambda verb: verb[0])
def test_a_public_key_skips_no_archive(cli: Runner, public: str, verb: list[str]) -> None:
    name, *rest = verb
    one_line(cli(name, f"{public}/latest", *rest), 12, "a public key cannot open it")

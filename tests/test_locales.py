"""Names, link targets, tags and all other words are bytes, whatever the locale: what is archived under one comes back
under any other."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pexpect
import pytest

import pogfast
from kit.commands import Ran, run
from pogfast.keys import from_keyfile

# How a locale is asked for. Python takes UTF-8 for C and POSIX unless it is told not to.
ALL = {
    "utf-8": {"LC_ALL": "C.UTF-8"},
    "posix": {"LC_ALL": "POSIX"},
    "ascii": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "latin-1": {"LC_ALL": "de_DE.ISO-8859-1"},
    "euc-jp": {"LC_ALL": "ja_JP.EUC-JP"},
}
LOCALES = ("ascii", "latin-1")
MADE = ("de_DE.ISO-8859-1", "ja_JP.EUC-JP")
UMLAUT = "ä".encode()
NAMES = [
    UMLAUT,
    b"\xe4",  # the same in ISO 8859-1
    b"caf\xc3\xa0",  # ends with what is a space in ISO 8859-1
    b"\xff\xfe",  # nothing in UTF-8
    "日本".encode(),
    "日本".encode("euc-jp"),
    b"\xe3\x81\xc2\x85x",  # a character that is cut, and a line end of ISO 8859-1
    b"plain",
]


@pytest.fixture(scope="session")
def locales(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A directory of locales that this machine need not have. It needs the tool and the sources to make them."""
    if not shutil.which("localedef") or not os.path.isdir("/usr/share/i18n/charmaps"):
        pytest.skip("no localedef, or no sources of locales")
    made = tmp_path_factory.mktemp("locales")
    for name in MADE:
        territory, charmap = name.split(".", 1)
        subprocess.run(
            ["localedef", "-i", territory, "-f", charmap, str(made / name)], capture_output=True, check=False
        )
        assert (made / name / "LC_CTYPE").exists(), name
    return str(made)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A tree of files, directories, links and the like under all of NAMES."""
    tree = os.fsencode(tmp_path / "tree")
    os.mkdir(tree)
    for number, name in enumerate(NAMES):
        place = tree + b"/" + name + b".d"
        os.mkdir(place)
        Path(os.fsdecode(place + b"/" + name)).write_bytes(b"content %d\n" % number)
        os.link(place + b"/" + name, place + b"/same " + name)
        os.symlink(b"../" + name, place + b"/link " + name)
        os.mkfifo(place + b"/fifo " + name)
    if hasattr(os, "setxattr"):
        for name in (UMLAUT, b"\xe4"):
            os.setxattr(tree, b"user." + name, b"value")
    (tmp_path / "key").write_bytes(b"a key")
    return tmp_path


class Under:
    """Commands under a locale."""

    def __init__(self, work: Path, locales: str, name: str) -> None:
        self.work = work
        self.env = {
            **{word: value for word, value in os.environ.items() if not word.startswith(("LC_", "LANG", "PYTHON"))},
            **ALL[name],
            "LOCPATH": locales,
            "POGFAST_KEYFILE": str(work / "key"),
            "POGFAST_CACHE_DIR": str(work / "cache"),
        }

    def __call__(self, *words: str | bytes | Path, program: str = "pogfast", **more: object) -> Ran:
        more = {"env": self.env, "cwd": self.work, **more}
        ran = run([sys.executable, "-m", program, *words], **more)
        assert "Traceback" not in ran.err, ran.err
        return ran

    def ok(self, *words: str | bytes | Path, **more: object) -> Ran:
        ran = self(*words, **more)
        assert ran.code == 0, ran.err
        return ran


def seen(top: Path | bytes) -> dict[bytes, object]:
    """What lies below a directory: names as bytes, and of each what must not change."""
    top = os.fsencode(top)
    found: dict[bytes, object] = {b"": sorted(map(os.fsencode, os.listxattr(top))) if hasattr(os, "listxattr") else []}
    for place, directories, files in os.walk(top):
        for leaf in directories + files:
            path = place + b"/" + leaf
            there = os.lstat(path)
            kind = stat.S_IFMT(there.st_mode)
            content: object = os.readlink(path) if stat.S_ISLNK(kind) else None
            if stat.S_ISREG(kind):
                with open(path, "rb") as file:
                    content = file.read(), there.st_nlink
            found[path[len(top) + 1 :]] = kind, content
    return found


def everything_in(work: Path) -> dict[str, object]:
    with pogfast.open_archive(f"{work}/store/latest", from_keyfile(str(work / "key"))) as archive:
        entries = {name: (entry.blobs, entry.more) for name, entry in archive.items()}
        return {
            "entries": entries,
            **{word: archive.trailer[word] for word in ("directories", "links", "fifos", "paths")},
        }


@pytest.mark.parametrize("name", ALL)
def test_what_is_archived_under_a_locale_comes_back_under_any(work: Path, locales: str, name: str) -> None:
    under, utf8 = Under(work, locales, name), Under(work, locales, "utf-8")
    assert len(seen(work / "tree")) == 1 + 5 * len(NAMES)
    under.ok("create", "tree", "--to", "store", "--tag", UMLAUT, "--comment", UMLAUT)
    created = everything_in(work)
    for one in (utf8, under):
        one.ok("restore", "store/latest", "--into", "back")
        assert seen(work / "back" / "tree") == seen(work / "tree")
        shutil.rmtree(work / "back")
        ran = one.ok("check", "store/latest", "--against", ".", "--json")
        assert not [line for line in ran.lines if '"difference"' in line]
    utf8.ok("create", "tree", "--to", "store", "--tag", UMLAUT, "--comment", UMLAUT)
    assert everything_in(work) == created
    utf8.ok("restore", "store/latest", "--into", "other")
    under.ok("restore", "store/latest", "--into", "other", "--overwrite", "if-changed")
    assert seen(work / "other" / "tree") == seen(work / "tree")


@pytest.mark.parametrize("name", LOCALES)
def test_names_are_printed_as_bytes_and_in_json_as_ever(work: Path, locales: str, name: str) -> None:
    under, utf8 = Under(work, locales, name), Under(work, locales, "utf-8")
    utf8.ok("create", "tree", "--to", "store", "--tag", UMLAUT, "--comment", UMLAUT, "--host", UMLAUT)
    for words in (["ls", "store/latest"], ["ls", "-l", "store/latest"], ["find", "store", "*"], ["list", "store"]):
        ours, theirs = under.ok(*words), utf8.ok(*words)
        assert sorted(map(bytes.split, ours.out.splitlines())) == sorted(map(bytes.split, theirs.out.splitlines()))
        ours, theirs = under.ok(*words, "--json"), utf8.ok(*words, "--json")
        assert sorted(map(str, map(json.loads, ours.lines))) == sorted(map(str, map(json.loads, theirs.lines))), words
    assert under.ok("info", "store/latest").out == utf8.ok("info", "store/latest").out
    assert b"`-- " + NAMES[1] + b"\n" in under.ok("ls", "--tree", "store/latest").out.replace(
        b"\xe2\x94\x94\xe2\x94\x80\xe2\x94\x80", b"`--"
    )
    assert under.ok("cat", "store/latest", b"tree/" + UMLAUT + b".d/" + UMLAUT).out == b"content 0\n"


@pytest.mark.parametrize("name", LOCALES)
def test_words_of_a_command_line_mean_the_same(work: Path, locales: str, name: str) -> None:
    """Tags, hosts and paths that choose an archive, names that are restored, patterns that leave out."""
    under, utf8 = Under(work, locales, name), Under(work, locales, "utf-8")
    shutil.copytree(work / "tree", work / "tree2", symlinks=True, ignore=shutil.ignore_patterns("fifo*"))
    (work / "tree2").rename(os.fsdecode(os.fsencode(work) + b"/" + UMLAUT))
    under.ok("create", UMLAUT, "--to", "store", "--tag", UMLAUT, "--host", "日本".encode())
    for one in (utf8, under):
        choice = ["--tag", UMLAUT, "--host", "日本".encode(), "--path", UMLAUT]
        assert b"content 0" in one.ok("cat", "store/latest", UMLAUT + b"/%s.d/%s" % (UMLAUT, UMLAUT), *choice).out
        assert one("ls", "store/latest", "--tag", b"\xe4").code == 10
    into = os.fsencode(work) + b"/" + b"\xe4" + UMLAUT
    wanted = UMLAUT + b"/caf\xc3\xa0.d"
    under.ok("restore", "store/latest", wanted, "--into", into)
    assert os.listdir(into + b"/" + UMLAUT) == [b"caf\xc3\xa0.d"]


PATTERNS = [  # and what each of them means
    (b"?", {UMLAUT, b"\xe4"}),  # a character is a character; what is none counts by bytes
    ("[à-ö]".encode(), {UMLAUT}),
    ("日?".encode(), {"日本".encode()}),
    (b"caf\xc3\xa0", {b"caf\xc3\xa0"}),
]


@pytest.mark.parametrize("name", LOCALES)
def test_patterns_mean_the_same(work: Path, locales: str, name: str) -> None:
    under = Under(work, locales, name)
    top = os.fsencode(work) + b"/flat/"
    os.mkdir(top)
    for leaf in NAMES:
        Path(os.fsdecode(top + leaf)).write_bytes(b"")

    def archived(*words: str | bytes) -> set[bytes]:
        under.ok("create", *words, "--to", "store", "--no-cache")
        return {line.removeprefix(b"flat/") for line in under.ok("ls", "store/latest").out.splitlines()} - {b"flat"}

    for pattern, meant in PATTERNS:
        assert archived("flat", "--exclude", pattern) == set(NAMES) - meant, pattern
    meant = set().union(*(meant for _, meant in PATTERNS))
    (work / "patterns").write_bytes(b"# a comment\n" + b"\n".join(pattern for pattern, _ in PATTERNS) + b"\n")
    assert archived("flat", "--exclude-from", "patterns") == set(NAMES) - meant
    (work / "patterns").write_bytes(b"".join(b"flat/%s\n" % pattern for pattern, _ in PATTERNS))
    assert archived("--files-from", "patterns") == meant
    assert UMLAUT not in archived("flat", "--iexclude", "Ä".encode())


@pytest.mark.parametrize("name", LOCALES)
def test_lists_of_paths_mean_the_same(work: Path, locales: str, name: str) -> None:
    under = Under(work, locales, name)
    paths = sorted(b"tree/" + leaf + b".d/" + leaf for leaf in NAMES)
    for option, between in (["-0"], b"\0"), ([], b"\n"):
        (work / "list").write_bytes(b"".join(path + between for path in paths))
        under.ok("create", "--files-from", "list", *option, "--to", "store")
        assert sorted(under.ok("ls", "store/latest").out.splitlines()) == paths
    (work / "list").write_bytes("tree/ä.d/ä\n".encode("utf-16"))
    under.ok("create", "--files-from", "list", "--to", "store")
    assert under.ok("ls", "store/latest").out == b"tree/%s.d/%s\n" % (UMLAUT, UMLAUT)


@pytest.mark.parametrize("name", LOCALES)
def test_pog_in_any_locale(work: Path, locales: str, name: str) -> None:
    under, utf8 = Under(work, locales, name), Under(work, locales, "utf-8")
    flat = [b"tree/" + leaf + b".d/" + leaf for leaf in NAMES]
    made = under.ok("--keyfile=key", *flat, program="pogfast.pog").lines[-1]
    (archive,) = work.glob("*.mfn")
    assert made, "the archive's name"
    dumps = [
        one.ok("--keyfile=key", "--dump-manifest", archive.name, program="pogfast.pog").out for one in (under, utf8)
    ]
    assert dumps[0] == dumps[1]
    for one, place in ((utf8, "a"), (under, "b")):
        (work / place).mkdir()
        for blob in work.glob("*="):
            shutil.copy(blob, work / place)
        shutil.copy(archive, work / place)
        ran = one.ok("--keyfile=../key", "--decrypt", archive.name, program="pogfast.pog", cwd=work / place)
        assert ran.code == 0
        restored = os.fsencode(work / place / "tree")
        assert {leaf: os.listdir(restored + b"/" + leaf) for leaf in os.listdir(restored)} == {
            name + b".d": [name] for name in NAMES
        }


@pytest.mark.parametrize("name", LOCALES)
def test_a_password_is_bytes(work: Path, locales: str, name: str) -> None:
    """From the environment, a file or standard input: the same password, the same key."""
    under, utf8 = Under(work, locales, name), Under(work, locales, "utf-8")
    for one in (under, utf8):
        del one.env["POGFAST_KEYFILE"]
    (work / "password").write_bytes(UMLAUT + b"\xff\n")
    utf8.ok("create", "tree/plain.d/plain", "--to", "store", "--password-file", "password")
    environ = {**{os.fsencode(word): os.fsencode(value) for word, value in under.env.items()}}
    environ[b"POGFAST_PASSWORD"] = UMLAUT + b"\xff"
    assert under.ok("ls", "store/latest", env=environ).out == b"tree/plain.d/plain\n"
    assert under.ok("ls", "store/latest", stdin=UMLAUT + b"\xff\n").out == b"tree/plain.d/plain\n"


@pytest.mark.parametrize("name", LOCALES)
def test_a_terminal_of_a_locale_is_written_to(work: Path, locales: str, name: str) -> None:
    under = Under(work, locales, name)
    for words in (
        ["create", "tree", "--to", "store", "-v", "-v", "--comment", "\u2026"],
        ["ls", "--tree", "store/latest"],
        ["list", "store"],
        ["restore", "store/latest", "--into", "back", "-v"],
        ["check", "store/latest", "--read-data"],
        ["ls", "store/latest", os.fsdecode(UMLAUT + b"\xff\x9b")],
    ):
        child = pexpect.spawn(
            sys.executable, ["-m", "pogfast", *words], cwd=work, timeout=60, env={**under.env, "TERM": "xterm"}
        )
        said = child.read()
        child.close()
        assert child.exitstatus == (3 if len(words) == 3 and words[0] == "ls" and words[1] != "--tree" else 0), said
        assert b"Traceback" not in said
        assert b"\x9b" not in said.replace(b"\xe2\x94\x9b", b""), "a control character of ISO 8859-1"


@pytest.mark.parametrize("name", LOCALES)
def test_help_can_be_printed(work: Path, locales: str, name: str) -> None:
    under = Under(work, locales, name)
    verbs = [line.split()[0] for line in under.ok("--help").lines if line.startswith("  ") and line.strip()]
    assert len(verbs) > 10
    for program, words in [
        ("pogfast.pog", []),
        *[("pogfast", [verb]) for verb in ("create", "restore", "list", "prune")],
    ]:
        assert under.ok(*words, "--help", program=program).out

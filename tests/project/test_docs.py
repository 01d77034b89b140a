"""docs/commands.md has every command, flag, exit code, JSON key and variable, and no others.

The tests walk the click commands and search the source, so neither side can change without the other. Of other pages
they check that named tests and files exist, that links lead somewhere, and that decisions have their sections.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import click
import pytest

import pogfast
from kit.commands import run
from kit.pages import COMMANDS, PAGE, json_words, section
from kit.paths import DOCS, PACKAGE, PROJECT, TESTS
from pogfast import errors
from pogfast.cli import group


def documented(text: str) -> list[str]:
    """Returns the flags that have a line, each with its metavariable."""
    lines = re.findall(r"^- (`-.*?): .", text, re.MULTILINE)
    return [flag for line in lines for flag in re.findall(r"`(-[^`]+)`", line)]


def flags(parameter: click.Parameter) -> list[str]:
    """Returns an option's flags as the page documents them: the last one with its metavariable."""
    assert isinstance(parameter, click.Option)
    names = [*parameter.opts, *parameter.secondary_opts]
    if parameter.is_flag or parameter.count:
        return names
    value = parameter.metavar or "?"
    return [*names[:-1], f"{names[-1]}{'' if value.startswith('[=') else ' '}{value}"]


COMMON = documented(section("Every command"))
SHARED = {
    "keys": documented(section("Keys")),
    "services": documented(section("Services")),
    "workers": documented(section("Workers")),
    "which archive": documented(section("Which archive")),
    "every command": [flag for flag in COMMON if flag != "--version"],
}


def test_the_commands_are_those_that_there_are() -> None:
    headings = re.findall(r"^### (.*)$", PAGE, re.MULTILINE)
    assert headings == list(COMMANDS)
    assert re.findall(r"^\| \[`([^`]+)`\]\(#", PAGE, re.MULTILINE) == list(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_flags_of_a_command(name: str) -> None:
    text = section(name)
    shared = re.findall(r"\[([a-z ]+)\]\(#", text.partition("\nAlso: ")[2])
    expected = [
        flag for parameter in COMMANDS[name].params if isinstance(parameter, click.Option) for flag in flags(parameter)
    ]
    given = documented(text) + [flag for title in shared for flag in SHARED[title]]
    # A choice is documented by a word of its own.
    plain = [re.sub(r" (LAYOUT|HOW|WHAT)$", " ?", flag) for flag in given]
    assert sorted(plain) == sorted(expected)
    assert text.lstrip().startswith(f"pogfast {name}"), "how it is called comes first"


def test_the_flags_of_pogfast_itself() -> None:
    own = [flag for parameter in group.params for flag in flags(parameter)]
    assert sorted(own) == sorted(COMMON)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_arguments_of_a_command(name: str) -> None:
    usage = section(name).lstrip().splitlines()[0]
    arguments = [parameter for parameter in COMMANDS[name].params if isinstance(parameter, click.Argument)]
    assert all(argument.metavar in usage for argument in arguments)
    needed = [p for p in COMMANDS[name].params if isinstance(p, click.Option) and p.required]
    assert all(option.opts[-1] in usage for option in needed)


def test_the_exit_codes() -> None:
    codes = {int(code) for code in re.findall(r"^\| (\d+) \|", section("Exit codes"), re.MULTILINE)}
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.PogfastError)]
    assert codes == {kind.exit_code for kind in kinds} | {0, 130}


def test_the_json_objects() -> None:
    """The types that the source has; tests/cli/test_cli.py holds the words of what it sees against the table."""
    source = "\n".join(path.read_text(encoding="utf-8") for path in (PACKAGE / "cli").glob("*.py"))
    assert set(re.findall(r'\.emit\(\s*"(\w+)"', source)) == json_words().keys()


def test_the_variables() -> None:
    source = "\n".join(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py"))
    named = set(re.findall(r"(?<!_)\bPOGFAST_[A-Z_]*[A-Z]", source)) - {"POGFAST_"}
    keys = re.findall(r'"([a-z-]+)": (?:keyfile|encryption_keyfile|decryption_keyfile|password_\w+)', source)
    made = {"POGFAST_" + name.upper().replace("-", "_") for name in [*keys, "password"]}
    assert len(made) == 6
    shown = set(re.findall(r"POGFAST_[A-Z_]+", section("Environment")))
    assert shown == made | {name for name in named if "COMPLETE" not in name}


def test_the_python_page(tmp_path: Path) -> None:
    page = (DOCS / "python.md").read_text(encoding="utf-8")
    [program] = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"a picture")
    environment = {**os.environ, "POGFAST_CACHE_DIR": str(tmp_path / "cache")}
    ran = run([sys.executable, "-c", program.replace("/tmp/backup", "backup")], tmp_path, env=environment)
    assert (ran.code, ran.err) == (0, "")
    name, _, _ = ran.lines[0].split()
    assert ran.lines[1:] == ["photos/cat.jpg 9", "b'ture'", "1 0 []", f"{name} ['monthly'] 9", "1 0"]
    named = set(re.findall(r"`(\w+)(?:\(|`)", page))
    assert named >= set(pogfast.__all__) - {"__version__"}, set(pogfast.__all__) - named


# ---- the threat model ------------------------------------------------------------------------------------------------


def test_the_tests_that_the_threat_model_names_are_there() -> None:
    there = {
        name for path in TESTS.rglob("test_*.py") for name in re.findall(r"^def (test_\w+)", path.read_text(), re.M)
    }
    model = (DOCS / "threat-model.md").read_text(encoding="utf-8")
    named = re.findall(r"`(test_\w+)`", model)
    assert len(set(named)) > 50
    assert not set(named) - there
    for row in re.findall(r"^\| (.*) \| (.*) \|$", model, re.M):
        if "`test_" in row[1]:
            assert re.fullmatch(r"`test_\w+`(, `test_\w+`)*", row[1]), row


# ---- other pages -----------------------------------------------------------------------------------------------------


def test_links_between_pages_lead_somewhere() -> None:
    pages = [*PROJECT.glob("*.md"), *DOCS.rglob("*.md"), PACKAGE / "FORMAT.md"]
    for page in pages:
        for target, anchor in re.findall(r"\]\(([^)#:]*)(#[^)]*)?\)", page.read_text(encoding="utf-8")):
            led = page.parent / target if target else page
            assert led.exists(), (page.name, target)
            if anchor and led.suffix == ".md":
                titles = re.findall(r"^#+ (.*)$", led.read_text(encoding="utf-8"), re.M)
                slugs = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
                assert anchor[1:] in slugs, (page.name, target, anchor)


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/architecture.md"])
def test_files_that_a_page_for_developers_names_exist(page: str) -> None:
    text = (PROJECT / page).read_text(encoding="utf-8")
    named = re.findall(r"`([a-z_./-]+\.(?:py|pyi|md|sh|toml))`", text)
    assert len(named) > 8
    for name in named:
        assert (PROJECT / name).exists() or (PACKAGE / name).exists(), name


def test_the_picture_shows_every_package() -> None:
    picture = (DOCS / "architecture.md").read_text(encoding="utf-8")
    for package in PACKAGE.glob("*/__init__.py"):
        assert f"{package.parent.name}/" in picture, package


def test_decisions_are_listed_and_have_their_sections() -> None:
    listed = (DOCS / "decisions" / "README.md").read_text(encoding="utf-8")
    pages = [path for path in (DOCS / "decisions").glob("*.md") if path.name != "README.md"]
    assert sorted(re.findall(r"^\| \[[^]]+\]\((.*?)\) \|", listed, re.M)) == sorted(page.name for page in pages)
    for page in pages:
        text = page.read_text(encoding="utf-8")
        titles = re.findall(r"^## (.*)$", text, re.M)
        assert titles == ["Context", "What was measured", "Decision", "Consequences"], page.name
        assert 100 <= len(text.split()) <= 320, page.name

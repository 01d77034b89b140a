"""README.md and the guides in docs/: their examples run, options and exit codes are complete, figures are measured."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

from kit.paths import PROJECT
from pogfast import __version__, errors
from pogfast.pog import FLAGS, WITH_VALUE

README, GUIDE, POG = (
    (PROJECT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/guide.md", "docs/pog.md")
)
# Names of blobs and of manifests, which differ from run to run.
NAME = re.compile(r"[A-Za-z0-9_-]{43}=|\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}")
# Measured times, random values and clock times, and what replaces them before two outputs are compared.
VARIES = {
    r"in [\d.,]+ s \([^)]*\)": "in N s",
    r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d( [+-]\d{4})?": "A TIME",
    r"(/\S+)?/home/notes": "/home/notes",
    r"[0-9a-f]{4}(-[0-9a-f]{4}){3}": "A FINGERPRINT",
}
# Commands that ci/test.sh runs instead of this module: it builds, installs and runs the quick start.
BY_CI = {"ci/quickstart.sh", "ci/test.sh", "pip install ."}


def blocks(page: str, language: str) -> list[str]:
    found = re.findall(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert found
    return found


def steps(block: str) -> list[tuple[str, str]]:
    """Returns (command, expected output) for each `$` in a console block."""
    assert block.startswith("$ ")
    pairs = [step.partition("\n") for step in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]]
    return [(command, output) for command, _, output in pairs]


def still(text: str) -> str:
    """Replaces everything that differs from run to run."""
    for pattern, word in VARIES.items():
        text = re.sub(pattern, word, text)
    return text


class Shell:
    """Runs a page's examples one after the other, replacing the page's names of blobs and archives with this run's."""

    def __init__(self, home: Path) -> None:
        self.home = self.directory = home / "home"
        self.home.mkdir()
        self.names: dict[str, str] = {}
        commands = home / "bin"
        commands.mkdir()
        for command, module, function in (
            ("pog", "pogfast.pog", "main"),
            ("pog-create-keypair", "pogfast.pog", "create_keypair"),
            ("pogfast", "pogfast.cli", "main"),
        ):
            (commands / command).write_text(
                f"#!{sys.executable}\nimport sys\nfrom {module} import {function}\nsys.exit({function}())\n"
            )
            (commands / command).chmod(0o755)
        self.environment = {
            **os.environ,
            "PATH": f"{commands}:{os.environ['PATH']}",
            "POGFAST_CACHE_DIR": str(home / "cache"),
            "PYTHONUNBUFFERED": "1",  # lines of output and of errors come in the order that a terminal shows
        }

    def run(self, command: str, expected: str) -> None:
        """Runs a command in the directory where the last one ended, and compares its output with the page."""
        if command.startswith("export "):
            name, _, value = command.removeprefix("export ").partition("=")
            self.environment[name] = value
            return
        if command.startswith("pogfast create"):
            time.sleep(0.2)  # a reader takes longer than the tick of a file's stamps
        real = NAME.sub(lambda name: self.names.get(name[0], name[0]), command)
        where = self.home.parent / "where"
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", f"{real}\npwd > {where}"],
            cwd=self.directory,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}"
        self.directory = Path(where.read_text().rstrip("\n"))
        self.learn(expected, done.stdout)
        assert still(NAME.sub(lambda name: self.names[name[0]], expected)) == still(done.stdout), command

    def learn(self, expected: str, printed: str) -> None:
        """Maps each name that the page shows for the first time to the name that was printed in its place."""
        shown, real = NAME.findall(expected), NAME.findall(printed)
        assert len(shown) == len(real), printed
        for name, meant in zip(shown, real, strict=True):
            self.names.setdefault(name, meant)


@pytest.mark.parametrize("page", [README, GUIDE, POG], ids=["README.md", "guide.md", "pog.md"])
def test_the_examples_do_what_they_say(page: str, tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    for block in blocks(page, "console"):
        shell.directory = shell.home
        for command, output in steps(block):
            shell.run(command, output)
    if page is GUIDE:
        [program] = blocks(page, "python")
        python = [sys.executable, "-c", program]
        done = subprocess.run(
            python, cwd=shell.home, env=shell.environment, capture_output=True, text=True, check=False
        )
        assert (done.stdout, done.stderr) == ("b'35185'\n", "")
    assert len(set(shell.names.values())) == len(shell.names), "different names on the page are different things"


def test_the_version_and_the_extras_are_those_of_this_checkout() -> None:
    assert f"\nVersion {__version__}, " in README
    for page in (README, GUIDE, (PROJECT / "docs" / "commands.md").read_text(encoding="utf-8")):
        assert "pip install 'pogfast[" not in page, "it is not on PyPI: a checkout has extras as .[s3]"
    declared = (PROJECT / "pyproject.toml").read_text().partition("[project.optional-dependencies]\n")[2]
    extras = set(re.findall(r"^(\w+) = \[", declared.partition("\n[")[0], re.MULTILINE)) - {
        "test",
        "lint",
        "fuzz",
        "browser",
    }
    assert set(re.findall(r"`(?:pip install )?'\.\[(\w+)\]'`", GUIDE)) == extras


def test_other_commands_are_run_by_ci() -> None:
    shown = {line for page in (README, GUIDE) for block in blocks(page, "sh") for line in block.splitlines()}
    assert shown == BY_CI
    for script in ("ci/quickstart.sh", "ci/test.sh"):
        assert os.access(PROJECT / script, os.X_OK)
    assert "ci/quickstart.sh" in (PROJECT / "ci" / "test.sh").read_text()


@pytest.mark.parametrize("option", [*FLAGS, *WITH_VALUE])
def test_every_option_is_explained(option: str) -> None:
    table = POG.partition("## Every option\n")[2].partition("\n\n")[0]
    assert re.search(rf"`--{option}[`=]", table)


def test_the_exit_codes_are_those_of_the_errors() -> None:
    codes = {int(code) for code in re.findall(r"^\| (\d+) \|", GUIDE, re.MULTILINE)}
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.PogfastError)]
    assert codes == {kind.exit_code for kind in kinds} | {0, 130}


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(PROJECT / "bench")
    return importlib.import_module("tables")


def shown(page: str, part: str) -> str:
    assert page.count(f"<!-- {part} -->\n") == 1
    return page.partition(f"<!-- {part} -->\n")[2].partition(f"<!-- /{part} -->")[0]


def test_the_figures_are_the_measured_ones(tables: ModuleType) -> None:
    results = (PROJECT / "bench" / "RESULTS.md").read_text(encoding="utf-8")
    table = tables.pog_table(results)
    assert table.count("\n|") >= 5, "three kinds of data and the memory of two"
    assert shown(POG, "measured") == table, "bench/compare.py --readme updates it"
    peers = tables.readme_peers(results)
    assert peers.count("\n|") >= 5, "pogfast and four others"
    assert shown(README, "peers") == peers, "bench/compare.py --readme updates it"
    packs = tables.readme_packs(results)
    assert not packs or packs.count("\n|") >= 3, "pogfast with packs and without, and restic"
    assert shown(README, "packs") == packs, "bench/compare.py --readme updates it"


def test_the_table_is_read_out_of_the_results(tables: ModuleType) -> None:
    cells = "1.50 (1.60) | 5.40 (5.50) | 3.60 (3.44) | 1.2 (1.3) | 5.3 (5.4) | 4.42 (4.15) | 226 | 427"
    results = "# Measured\n\n<!-- speed -->\n2026-01-01, a machine. Command: `x`\n\n"
    for title in ("Writing", "Restoring", "Memory (writing)"):
        results += f"### {title}\n\n| | head |\n|---|---|\n| thing | {cells} |\n\n"
    table = tables.pog_table(results)
    assert "| thing | 1.50 | 5.40 | **3.6** | 1.50 | 5.40 | **3.6** |\n" in table
    assert "| peak memory, thing | 226 MB | 427 MB | **1.9** | | | |\n" in table
    assert "\n\n2026-01-01, a machine: [bench/RESULTS.md]" in table


def test_the_table_of_peers_is_read_out_of_the_results(tables: ModuleType) -> None:
    runs = importlib.import_module("runs")
    ours, theirs = (runs.Figures([wall, wall + 1], [1.0, 2.0], [10**6], 10**6) for wall in (2.0, 5.0))
    rows = {"thing": {"pogfast": ours, "pog": ours, "peer 1.2": theirs}, "other": {"pogfast": theirs, "peer 1.2": ours}}
    results = "# Measured\n\n<!-- peers -->\n2026-01-01, a machine. Command: `x`\n\n"
    results += "\n".join(tables.peers_table(title, rows) for title in (tables.WRITING, tables.RESTORING))
    table = tables.readme_peers(results)
    assert table.startswith(
        "| seconds, the best runs | thing: writing | thing: restoring | other: writing | other: restoring |\n"
    )
    assert "\n| pogfast | 2.00 (**1.0**) | 2.00 (**1.0**) | 5.00 (**1.0**) | 5.00 (**1.0**) |\n" in table
    assert "\n| peer 1.2 | 5.00 (**2.5**) | 5.00 (**2.5**) | 2.00 (**0.4**) | 2.00 (**0.4**) |\n" in table
    assert "\n| pog |" not in table
    assert "2026-01-01, a machine: [bench/RESULTS.md]" in table
    assert tables.readme_peers("# Measured\n") == ""


def test_the_table_of_packs_is_read_out_of_the_results(tables: ModuleType) -> None:
    runs = importlib.import_module("runs")
    ours, theirs = (runs.Figures([wall, wall + 1], [1.0, 2.0], [10**6], 10**6) for wall in (2.0, 5.0))
    local = {"small": {"pogfast --packs": ours, "pogfast, key pair": ours, "peer 1.2": theirs}}
    there = {"small": {"pogfast --packs": theirs, "other 3": ours}}
    results = "# Measured\n\n<!-- packs-s3 -->\n2026-01-01, a machine. Command: `x`\n\n"
    for title in tables.PACKS_IN_README.values():
        rows = local if "directory" in title else there
        for what in ("writing", "restoring"):
            results += tables.peers_table(f"{title}: {what}", rows, "pogfast --packs") + "\n"
    table = tables.readme_packs(results)
    assert table.startswith("| 20,000 small files | directory: writing | directory: restoring | S3: writing |")
    assert "\n| pogfast --packs | 2.00 (**1.0**) | 2.00 (**1.0**) | 5.00 (**1.0**) |" in table
    assert "\n| peer 1.2 | 5.00 (**2.5**) | 5.00 (**2.5**) |  |" in table
    assert "\n| other 3 |  |  | 2.00 (**0.4**) |" in table
    assert "key pair" not in table
    assert "2026-01-01, a machine" in table
    assert tables.readme_packs("# Measured\n") == ""


def test_a_minute_is_enough_to_read_the_readme() -> None:
    assert len(README.split()) < 1000

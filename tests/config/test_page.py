"""docs/profiles.md: its examples are read and run, and its table has the settings that there are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kit.paths import DOCS
from kit.profiles import Desk
from pogfast.config import load
from pogfast.config.schema import File, Profile, Store, Stream, Table
from pogfast.config.values import settings_of, table_type

PAGE = (DOCS / "profiles.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```toml\n(.*?)^```$", PAGE, re.M | re.S)
ROWS = dict(re.findall(r"^\| `([^`]+)` \| (.*) \|$", PAGE.partition("## Tables")[2], re.M))


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setenv("HOME", str(tmp_path))
    return Desk(tmp_path)


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 2
    assert len(ROWS) >= 9


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_has_no_problems(desk: Desk, example: str) -> None:
    assert desk.problems(example) == []


def test_the_first_example_is_run(desk: Desk) -> None:
    """With directories in place of a disk and a bucket."""
    here = str(desk.place)
    text = re.sub(r'"s3://[^"]*"', f'"{here}/offsite"', EXAMPLES[0]).replace("/mnt/backup/laptop", f"{here}/disk")
    for name in ("encrypt", "decrypt"):
        (desk.config.parent / f"k.{name}").rename(desk.config.parent / f"laptop.{name}")
    desk.write(text.replace('["~"]', f'["{desk.tree}"]'))
    ran = desk.pogfast("run", "nightly")
    assert ran.code == 0, ran.err
    assert re.fullmatch(r"home  success  [\d.]+ s  disk/\S+\.mfn", ran.lines[0])
    assert (desk.place / "offsite" / "pogfast.store").exists()
    [shown] = re.findall(r"config check\n.*: (.*)\n", PAGE)
    assert shown in desk.pogfast("config", "check").err
    assert len(load(str(desk.config)).profile("home").verbs) == 4


def words(row: str) -> set[str]:
    """The settings that a row of the table names: single words in code, without what stands in brackets."""
    return set(re.findall(r"`([a-z-]+)`", re.sub(r"\([^)]*\)|\[[^]]*\](?!\()", "", row)))


@pytest.mark.parametrize("title", ROWS)
def test_a_row_of_the_table_has_the_settings_of_the_schema(title: str) -> None:
    kind: type[Table] = File
    for part in re.findall(r"[a-z-]+", title.replace("the file", "").replace(".NAME", "")):
        if part in ("stores", "profiles", "groups"):
            [kind] = [each for each in _kinds(settings_of(File)[part].type) if each is not Stream]
        else:
            found = table_type(settings_of(kind)[part].type)
            assert found is not None
            kind = found
    known = settings_of(kind)
    own = {word for word in known if f"[profiles.NAME.{word}]" not in ROWS or word in words(ROWS[title])}
    if kind is File:
        own -= {"stores", "profiles", "groups"}
    assert words(ROWS[title]) == own


def _kinds(kind: object) -> set[type[Table]]:
    from typing import get_args

    return {each for each in get_args(kind) if isinstance(each, type) and issubclass(each, Table)}


def test_all_tables_have_a_row() -> None:
    inner = {word for word, field in settings_of(Profile).items() if table_type(field.type) and word != "key"}
    assert {f"[profiles.NAME.{word}]" for word in inner} <= ROWS.keys()
    assert {"[stores.NAME]", "[profiles.NAME]", "[groups.NAME]"} <= ROWS.keys()
    assert settings_of(Store).keys() == words(ROWS["[stores.NAME]"])

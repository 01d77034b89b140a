"""Changes of a configuration: what is written, what stays, and what is refused."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomlkit
from hypothesis import given
from hypothesis import strategies as st

from kit.profiles import Desk
from pogfast.config import ConfigError, edit, examine, load, remove
from pogfast.errors import UsageError

TEXT = """\
# what this machine does

[stores.disk]   # at home
address = '/mnt/disk' # quoted so

[profiles.home]
stores = [
  "disk", # the only one
]
key = {file="k.encrypt"}
sources = ["/home"]
# kept for a week
[profiles.home.retention]
keep-daily = 7
group-by = []
"""


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_only_what_is_changed_changes(desk: Desk) -> None:
    path = str(desk.write(TEXT))
    edit(path, "profiles", "home", {"level": 9, "retention": {"keep-daily": 14}})
    lines = desk.config.read_text().splitlines()
    lines.remove("level = 9")
    wanted = TEXT.replace("keep-daily = 7", "keep-daily = 14")
    assert [line for line in lines if line] == [line for line in wanted.splitlines() if line]
    home = load(path).profile("home")
    assert home.level == 9
    assert home.retention is not None
    assert home.retention.keep_daily == 14


def test_a_profile_and_a_store_are_added_and_removed(desk: Desk) -> None:
    path = str(desk.write(TEXT))
    edit(path, "stores", "away", {"address": "s3://bucket/x", "packs": "yes"})
    words = {"stores": ["away"], "key": {"file": "k.encrypt"}, "sources": ["/etc", {"command": ["a"], "name": "b"}]}
    edit(path, "profiles", "etc", {**words, "check": {}})
    edit(path, "groups", "all", {"profiles": ["home", "etc"]})
    loaded = load(path)
    assert loaded.profile("etc").verbs == ["create", "check"]
    assert loaded.profile("etc").streams[0].name == "b"
    assert loaded.members("all") == ["home", "etc"]
    with pytest.raises(ConfigError, match="there is no profile etc"):
        remove(path, "profiles", "etc")
    remove(path, "groups", "all")
    remove(path, "profiles", "etc")
    remove(path, "stores", "away")
    assert tomllib.loads(desk.config.read_text()) == tomllib.loads(TEXT)
    assert "# kept for a week" in desk.config.read_text()


def test_none_removes(desk: Desk) -> None:
    path = str(desk.write(TEXT))
    edit(path, "profiles", "home", {"retention": None, "no-such": None, "tags": ["x"]})
    home = load(path).profile("home")
    assert (home.retention, home.tags) == (None, ["x"])


def test_what_would_be_wrong_is_refused(desk: Desk) -> None:
    path = str(desk.write(TEXT))
    for settings, said in (
        ({"sources": None, "retention": None}, "there is nothing to do"),
        ({"levle": 3}, "unknown setting levle"),
        ({"level": "high"}, "level must be a whole number"),
        ({"stores": ["dsk"]}, "there is no store dsk"),
        ({"retention": {"group-by": ["host"]}}, "a public key cannot tell host"),
        ({"host": "${NO_SUCH}"}, "NO_SUCH is not set"),
    ):
        with pytest.raises(ConfigError, match=said):
            edit(path, "profiles", "home", settings)
    with pytest.raises(ConfigError, match="is not a name for a profile"):
        edit(path, "profiles", "../x", {"sources": ["/a"]})
    with pytest.raises(UsageError, match="has no store away"):
        remove(path, "stores", "away")
    with pytest.raises(UsageError, match="cannot be changed so"):
        edit(path, "profiles", "home", {"level": object()})
    assert desk.config.read_text() == TEXT
    assert not list(desk.config.parent.glob("*.tmp"))


def test_what_is_wrong_already_stays_so(desk: Desk) -> None:
    """Somebody mends a file step by step."""
    path = str(desk.write(TEXT + "nonsense = 3\n[profiles.other]\nlevle = 3\n"))
    edit(path, "profiles", "home", {"retention": {"nonsense": None}})
    assert [problem.message for problem in examine(path)[1]] == ["unknown setting levle"]


def test_a_file_that_is_too_long(desk: Desk) -> None:
    path = str(desk.write(TEXT + "#" * (1 << 15)))
    with pytest.raises(UsageError, match="is too long to be changed"):
        edit(path, "profiles", "home", {"level": 1})


def test_a_file_is_made(desk: Desk) -> None:
    path = desk.config.parent / "sub" / "pogfast.toml"
    edit(str(path), "stores", "disk", {"address": "/x"})
    assert path.stat().st_mode & 0o777 == 0o600
    assert load(str(path)).stores["disk"].address == "/x"


def test_a_link_and_a_mode_stay(desk: Desk) -> None:
    desk.write(TEXT, "real.toml").chmod(0o640)
    desk.config.symlink_to("real.toml")
    edit(str(desk.config), "profiles", "home", {"level": 1})
    assert desk.config.is_symlink()
    assert (desk.config.parent / "real.toml").stat().st_mode & 0o777 == 0o640
    assert load(str(desk.config)).profile("home").level == 1


def test_line_ends_stay(desk: Desk) -> None:
    desk.config.write_bytes(TEXT.replace("\n", "\r\n").encode())
    edit(str(desk.config), "stores", "disk", {"address": "/y"})
    assert desk.config.read_bytes().count(b"\r\n") == TEXT.count("\n")


SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "exclude": st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=6), max_size=3),
        "comment": st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=9),
        "level": st.integers(-100, 22) | st.none(),
        "pad": st.booleans() | st.none(),
        "retention": st.none() | st.fixed_dictionaries({"keep-last": st.integers(1, 9), "group-by": st.just([])}),
        "check": st.none() | st.fixed_dictionaries({}, optional={"every": st.sampled_from(["1d", "7d"])}),
    },
)


@given(st.lists(SETTINGS, max_size=5))
def test_any_changes_are_read_again(tmp_path_factory: pytest.TempPathFactory, drawn: list[dict[str, Any]]) -> None:
    desk = Desk(tmp_path_factory.mktemp("desk"))
    path = str(desk.write(TEXT))
    expected: dict[str, Any] = tomlkit.parse(TEXT).unwrap()
    for settings in drawn:
        plain = {
            word: [text.replace("$", "$$") for text in value] if word == "exclude" else value
            for word, value in settings.items()
        }
        if "comment" in plain:
            plain["comment"] = plain["comment"].replace("$", "$$")
        edit(path, "profiles", "home", plain)
        for word, value in plain.items():
            mine = expected["profiles"]["home"]
            if value is None:
                mine.pop(word, None)
            else:
                mine[word] = {**mine.get(word, {}), **value} if isinstance(value, dict) else value
    assert tomllib.loads(desk.config.read_text()) == expected
    assert "# at home" in desk.config.read_text()

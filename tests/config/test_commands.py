"""`pogfast config check` and `config show`: what they print, as lines and as JSON, and `create --profile`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import pogfast
from kit.pages import json_words
from kit.profiles import Desk

TEXT = """\
[stores]
disk = { address = "/d", packs = "2MiB" }
other = { address = "/e" }
[profiles.base]
key = { file = "k.encrypt" }
exclude = ["*.tmp"]
limit-upload = [{ to = "18:00", rate = "1MB" }]
[profiles.home]
inherit = "base"
stores = ["disk"]
sources = ["/home", { command = ["pg_dump"], name = "db" }]
[profiles.home.check]
every = "7d"
"""


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_check(desk: Desk) -> None:
    desk.write(TEXT)
    ran = desk.pogfast("config", "check")
    assert (ran.code, ran.err) == (0, f"{desk.config}: 2 profiles, 2 stores, 0 groups; no problems\n")
    desk.write(TEXT.replace("exclude", "exlude").replace('["disk"]', '["dsik"]'))
    ran = desk.pogfast("config", "check")
    assert (ran.code, ran.out) == (2, b"")
    assert ran.err == (
        f"pogfast: error: {desk.config}:6: unknown setting exlude\n  did you mean exclude?\n"
        f"pogfast: error: {desk.config}:10: there is no store dsik\n  did you mean disk?\n"
    )
    ran = desk.pogfast("config", "check", "--json")
    found = [json.loads(line) for line in ran.lines]
    assert ran.code == 2
    assert [(each["line"], each["hint"]) for each in found] == [
        (6, "did you mean exclude?"),
        (10, "did you mean disk?"),
    ]
    assert all(each.keys() - {"message_type"} == json_words()["problem"] for each in found)


def test_no_configuration(desk: Desk) -> None:
    for words in (("config", "check"), ("config", "show"), ("run", "home")):
        ran = desk.pogfast(*words)
        assert ran.code == 2
        assert f"there is no configuration: neither {desk.config} nor /etc/pogfast/pogfast.toml" in ran.err
    assert "cannot read the configuration" in desk.pogfast("config", "show", "--config", "none").err


def test_show(desk: Desk) -> None:
    desk.write(TEXT)
    ran = desk.pogfast("config", "show", "home", "--json")
    found = [json.loads(line) for line in ran.lines]
    assert all(each.keys() - {"message_type"} == json_words()["value"] for each in found)
    assert {each["file"] for each in found} == {str(desk.config)}
    shown = {(each["section"], each["name"], each["setting"]): (each["value"], each["line"]) for each in found}
    assert shown == {
        ("stores", "disk", "address"): ("/d", 2),
        ("stores", "disk", "packs"): (2 << 20, 2),
        ("profiles", "home", "inherit"): ("base", 9),
        ("profiles", "home", "key.file"): (str(desk.config.parent / "k.encrypt"), 5),
        ("profiles", "home", "exclude"): (["*.tmp"], 6),
        ("profiles", "home", "limit-upload"): ([{"to": "18:00", "rate": "1MB"}], 7),
        ("profiles", "home", "stores"): (["disk"], 10),
        ("profiles", "home", "sources"): (["/home", {"command": ["pg_dump"], "name": "db"}], 11),
        ("profiles", "home", "check.every"): (7 * 86400, 13),
    }
    lines = desk.pogfast("config", "show").lines
    assert lines[0].split() == ["setting", "value", "from"]
    assert any(line.split() == ["stores.other.address", '"/e"', f"{desk.config}:3"] for line in lines)
    assert len(lines) > len(found)
    ran = desk.pogfast("config", "show", "hme")
    assert (ran.code, "did you mean home?" in ran.err) == (2, True)


def test_create_takes_a_profile_of_the_configuration(desk: Desk) -> None:
    """What it leaves out and how it is described, unless the command line says otherwise; in Python as well."""
    (desk.tree / "x.tmp").write_text("x")
    desk.write('[profiles.p]\ninherit = "home"\ntags = ["night"]\nlevel = 9\n' + TEXT)
    key = desk.config.parent / "k.decrypt"
    words = ("create", str(desk.tree), "--to", "s", "--decryption-keyfile", str(key), "--profile", "p")
    assert desk.pogfast(*words).code == 0
    assert desk.pogfast(*words, "--tag", "day", "--exclude", "notes").code == 0
    with pytest.MonkeyPatch.context() as patch:
        for name, value in desk.environ.items():
            patch.setenv(name, value)
        opened = pogfast.open_key(decryption_keyfile=key)
        pogfast.create(desk.tree, desk.place / "s", opened, profile="p")
        pogfast.create(desk.tree, desk.place / "s", opened, profile="p", tags="day", exclude="notes")
        for info, (tags, names) in zip(
            pogfast.list_archives(desk.place / "s", opened),
            [(["night"], {"notes"}), (["day"], {"x.tmp"})] * 2,
            strict=True,
        ):
            with pogfast.open_archive(desk.place / "s" / info.name, opened) as archive:
                found = {name.rpartition("/")[2] for name in archive} & {"notes", "x.tmp"}
            assert (info.tags, found) == (tags, names)

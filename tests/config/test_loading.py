"""Configurations: what is read, what is inherited, and every problem with its file and line."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from kit.profiles import Desk
from pogfast.backup import profiles
from pogfast.config import ConfigError, create_settings, examine, load
from pogfast.errors import UsageError
from pogfast.stores.timetable import Timetable

GOOD = """\
[stores.disk]
address = "../store"
[profiles.base]
stores = ["disk"]
key = { file = "k.encrypt" }
exclude = ["*.tmp"]
[profiles.home]
inherit = "base"
sources = ["/home"]
chunk-size = "16MB"
[profiles.home.check]
"""


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def said(desk: Desk, text: str) -> list[str]:
    """The problems of a configuration, each as `LINE: MESSAGE (HINT)`."""
    found = desk.problems(text)
    assert {one.file for one in found} <= {str(desk.config)}
    return [f"{one.line}: {one.message}" + (f" ({one.hint})" if one.hint else "") for one in found]


# ---- what is read ----------------------------------------------------------------------------------------------------


def test_a_configuration(desk: Desk) -> None:
    loaded = load(str(desk.write(GOOD)))
    home = loaded.profile("home")
    assert loaded.stores["disk"].address == str(desk.place / "store"), "relative to the directory of the file"
    assert home.key is not None
    assert home.key.file == str(desk.config.parent / "k.encrypt")
    assert (home.name, home.stores, home.exclude, home.chunk_size) == ("home", ["disk"], ["*.tmp"], 16_000_000)
    assert home.verbs == ["create", "check"]
    assert loaded.values["profiles", "home"]["exclude",].line == 6
    assert loaded.values["profiles", "home"]["chunk-size",].where == f"{desk.config}:10"


def test_a_child_takes_precedence_and_tables_are_merged(desk: Desk) -> None:
    text = """\
[stores]
a = { address = "/a" }
b = { address = "/b" }
[profiles.one]
key = { file = "k.decrypt", kind = "private" }
stores = ["a"]
exclude = ["1"]
tags = ["one"]
[profiles.one.retention]
keep-last = 3
keep-daily = 7
[profiles.two]
exclude = ["2"]
level = 9
[profiles.three]
inherit = ["one", "two"]
key = { credential = "backup" }
stores = ["b"]
sources = ["/srv"]
[profiles.three.retention]
keep-last = 1
group-by = []
"""
    three = load(str(desk.write(text))).profile("three")
    assert (three.stores, three.exclude, three.tags, three.level) == (["b"], ["2"], ["one"], 9)
    assert three.retention is not None
    assert (three.retention.keep_last, three.retention.keep_daily) == (1, 7)
    assert three.key is not None
    assert (three.key.file, three.key.kind, three.key.credential) == (None, None, "backup"), "a key is replaced whole"


def test_variables(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHERE", "/somewhere")
    text = GOOD.replace('"/home"', '"${WHERE}/home"').replace('"*.tmp"', '"$$HOME $x ${WHERE}"')
    home = load(str(desk.write(text))).profile("home")
    assert home.paths == ["/somewhere/home"]
    assert home.exclude == ["$HOME $x /somewhere"]


def test_secrets_are_no_variables(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A value of the configuration is shown, and becomes an argument of programs."""
    for name in ("POGFAST_PASSWORD", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "secret")
        [problem] = said(desk, GOOD.replace('"*.tmp"', f'"${{{name}}}"'))
        assert problem.startswith(f"6: exclude: the variable {name} is not set")


def test_limits(desk: Desk) -> None:
    slots = '[{ from = "08:00", to = "18:00", days = "mon-fri", rate = "1MB" }, { rate = "${RATE}" }]'
    text = GOOD.replace("chunk-size", f'limit-download = "2MB"\nlimit-upload = {slots}\nchunk-size')
    os.environ["RATE"] = "9MB"
    try:
        home = load(str(desk.write(text))).profile("home")
    finally:
        del os.environ["RATE"]
    assert home.limit_download is not None
    assert home.limit_download.rate == 2_000_000
    assert home.limit_upload is not None
    assert isinstance(home.limit_upload.rate, Timetable)
    monday = datetime(2026, 11, 30, 12)
    assert [home.limit_upload.rate.rate(when) for when in (monday, monday.replace(hour=19))] == [1_000_000, 9_000_000]


def test_includes(desk: Desk) -> None:
    (desk.config.parent / "more.d").mkdir()
    desk.write('include = ["more.d/*.toml", "one.toml"]\n' + GOOD)
    desk.write('[profiles.etc]\ninherit = "base"\nsources = ["/etc"]\n', "more.d/etc.toml")
    desk.write('[stores.second]\naddress = "second"\n', "one.toml")
    loaded = load(str(desk.config))
    assert set(loaded.profiles) == {"base", "home", "etc"}
    assert [os.path.basename(file) for file in loaded.files] == ["pogfast.toml", "etc.toml", "one.toml"]
    assert loaded.values["profiles", "etc"]["sources",].file.endswith("more.d/etc.toml")


def test_a_profile_of_tune(desk: Desk) -> None:
    desk.write('chunker = "fastcdc:4MB"\nchunk_size = 50000000\nlevel = 9\npad = true\npacks = "yes"\n', "fast.toml")
    loaded = load(
        str(desk.write(GOOD.replace('inherit = "base"', 'inherit = ["base", "fast"]').replace("chunk-size", "#")))
    )
    home = loaded.profile("home")
    assert (home.level, home.pad, home.packs) == (9, True, 16 << 20)
    assert loaded.values["profiles", "home"]["level",].where.endswith("fast.toml:3")


def test_the_profile_of_create(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POGFAST_CONFIG_DIR", str(desk.config.parent))
    desk.write("level = 9\n", "fast.toml")
    assert create_settings("fast").level == 9
    desk.write(GOOD + "level = 3\n".replace("level", "[profiles.slow]\ninherit = 'base'\nsources = ['/x']\nlevel"))
    assert create_settings("slow").level == 3
    assert create_settings("fast").level == 9
    with pytest.raises(UsageError, match="there is no profile slwo"):
        create_settings("slwo")
    desk.write("level = 1\n", "slow.toml")
    with pytest.raises(UsageError, match="there are two profiles slow"):
        create_settings("slow")
    desk.write("broken")
    assert create_settings("fast").level == 9
    with pytest.raises(ConfigError):
        create_settings("home")


def test_tune_does_not_overwrite_the_configuration(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POGFAST_CONFIG_DIR", str(desk.write(GOOD).parent))
    for name in ("pogfast", str(desk.config)):
        with pytest.raises(UsageError, match="would be the configuration"):
            profiles.save(name, {"level": 3}, "")
    assert desk.config.read_text() == GOOD


def test_where_it_is_looked_for(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POGFAST_CONFIG_DIR", str(desk.config.parent))
    with pytest.raises(UsageError, match=f"neither {desk.config} nor /etc/pogfast/pogfast.toml"):
        load()
    desk.write(GOOD)
    assert load().file == str(desk.config)


# ---- what is wrong ---------------------------------------------------------------------------------------------------


def test_all_problems_are_reported(desk: Desk) -> None:
    text = """\
[store.disk]
[stores.disk]
adress = "x"
[profiles.home]
exclude = "*.tmp"
chunk_size = 3
level = 30
tags = [1]
on-conflict = "stay"
sources = ["/a", { command = ["x"], nmae = "n", name = "m" }]
host = "${NO_SUCH}"
[profiles.home.needs]
network = ["nas"]
[profiles.home.hooks]
before = ["systemctl", "stop"]
timeout = 5
[profiles.home.retention]
keep-daily = -1
grace = "soon"
[profiles.home.check]
read-data = "yes"
"""
    assert said(desk, text) == [
        "1: unknown table or setting store (did you mean stores?)",
        "2: address is missing",
        "3: unknown setting adress (did you mean address?)",
        "5: exclude must be a list",
        "6: unknown setting chunk_size (did you mean chunk-size?)",
        "7: level must be at most 22",
        "8: tags has an item that must be text in quotes",
        '9: on-conflict must be one of "wait", "skip"',
        "10: unknown setting sources.nmae (did you mean name?)",
        "11: host: the variable NO_SUCH is not set ($$ is a dollar sign)",
        "13: needs.network has an item that nas is not HOST:PORT",
        "15: hooks.before has an item that must be a list: a list of commands, each a list of words: "
        '[["systemctl", "stop"]]',
        "16: hooks.timeout must be a length of time such as 24h, in quotes",
        '18: retention.keep-daily must be a number of archives, or "unlimited"',
        "19: retention.grace soon: not a length of time: write 90s, 5m, 24h or 7d",
        "21: check.read-data must be true or false",
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("x = 1\ny = ?\n", "2: this is not TOML: invalid value, in column 5"),
        ("stores = 3\n", "1: stores must be a table"),
        ("[stores]\na = 1\n", "2: a must be a table"),
        ("[profiles.x]\ncheck = true\n", "2: check must be a table"),
        ('[profiles."../x"]\n', "1: '../x' is not a name for a profile (write letters, digits, . _ -)"),
        ('[profiles.x]\ninherit = "x"\n', "2: profiles inherit from each other: x from x"),
        ('[profiles.x]\ninherit = "y"\n', "2: there is no profile y (known: x)"),
        (
            '[profiles.x]\nstores = ["dsk"]\n[stores.disk]\naddress = "/d"\n',
            "2: there is no store dsk (did you mean disk?)",
        ),
        ('[groups.g]\nprofiles = ["no"]\n', "2: there is no profile no"),
        ("[groups.g]\nprofiles = []\n", "2: profiles must not be empty"),
        ("include = 3\n", "1: include must be"),
        ('include = "pogfast.toml"\n', "1: {file} includes itself"),
        ('[stores.a]\naddress = "sftp:host:/dir"\n', "2: address is not usable: sftp:host:/dir is not a store"),
        ('[stores.a]\naddress = "s3://bucket?endpont=x"\n', "2: address is not usable: s3://bucket: unknown setting"),
        ('[stores.a]\naddress = "/a,/b"\n', "2: address is the address of one store: no commas"),
        ("[profiles.x]\n", "1: profile x: there is nothing to do (set sources, or a table copy, retention or check)"),
        ('[profiles.x]\nsources = ["/a"]\nkey = {}\n', "3: profile x: a key is one of file, credential and command"),
        ('[profiles.x]\nkey = { file = "a", command = ["b"] }\n', "not file and command"),
        ('[profiles.x]\nkey = { credential = "../a" }\n', "../a is not the name of a credential"),
        ('[profiles.x]\nkey = { command = ["a"], kind = "public" }\n', "a command prints a password: no other kind"),
        (
            '[profiles.x]\nsources = ["a"]\n',
            "2: profile x: a is a relative path (write the whole path, or set directory)",
        ),
        ('[profiles.x]\nsources = ["/a"]\n', "1: profile x: there is no key"),
        (
            '[profiles.x]\nchunker = "fastcdc"\nchunk-size = "1MB"\n',
            "chunk-size cannot be combined with chunker fastcdc",
        ),
        ('[profiles.x]\nlimit-upload = "5"\n', "2: limit-upload"),
        ("[profiles.x]\nlimit-upload = 5\n", '2: limit-upload must be a rate such as "5MB", or a list of slots'),
        ('[profiles.x]\nlimit-upload = [{ rate = "5MB", form = "08:00" }]\n', "unknown word: form"),
        ('[profiles.x]\nlimit-upload = [{ rate = "5MB", from = "25:00" }]\n', "25:00 is not a time of day"),
        (
            '[stores.a]\naddress = "/a"\n[profiles.x]\nstores = ["a"]\n[profiles.x.copy]\nto = ["a"]\n',
            "copied to itself",
        ),
        ("[profiles.x.check]\nrestore-test = 3\n", "a restore is tested with a key"),
        ('[profiles.x.check]\nread-data-subset = "much"\n', "much is no part of the data"),
        ("[profiles.x.copy]\nverify = true\n", "1: copy.to is missing"),
        ("[profiles.x.retention]\n", "1: profile x: retention keeps no archive"),
        ('[profiles.x]\nschedule = "*-02-30"\n', "2: schedule *-02-30 never comes"),
        ('[profiles.x]\nwait-timeout = "0s"\n', "2: wait-timeout must be longer than 0"),
        (
            '[profiles.x]\nsources = [{ command = ["x"], name = "y", timeout = 6 }]\n',
            "2: sources has an item that must be a length of time such as 24h, in quotes",
        ),
        ("[profiles.x.check]\nrestore-test = 0\n", "2: check.restore-test must be at least 1"),
        ('[profiles.x.check]\nmax-age = "90"\n', "2: check.max-age 90: not a length of time"),
        (
            '[profiles.x]\nkey = { file = "a" }\n[profiles.x.check]\nmax-age = "90d"\n',
            "4: profile x: a public key cannot read data",
        ),
    ],
)
def test_a_problem(desk: Desk, text: str, problem: str) -> None:
    found = said(desk, text)
    assert any(problem.format(file=desk.config) in one for one in found), found


def test_the_error_has_all_problems(desk: Desk) -> None:
    desk.write("[x]\n[y]\n[z]\n")
    with pytest.raises(ConfigError) as caught:
        load(str(desk.config))
    assert len(caught.value.problems) == 3
    assert str(caught.value).startswith(f"{desk.config}:1: unknown table")
    assert "2 more problems: see `pogfast config check`" in caught.value.hint


def test_long_chains_end(desk: Desk) -> None:
    text = GOOD + "".join(f'[profiles.p{i}]\ninherit = "p{i + 1}"\n' for i in range(2000)) + "[profiles.p2000]\n"
    assert any("more than 16 profiles inherit from each other" in one for one in said(desk, text))
    for i in range(40):
        desk.write(f'include = "i{i + 1}.toml"\n', f"i{i}.toml")
    found = examine(str(desk.config.parent / "i0.toml"))[1]
    assert [one.message for one in found] == ["more than 16 files include each other"]


def test_rings_of_files_and_profiles(desk: Desk) -> None:
    desk.write('include = "b.toml"\n', "a.toml")
    desk.write('include = "a.toml"\n[profiles.x]\ninherit = "y"\n[profiles.y]\ninherit = "x"\n', "b.toml")
    found = [one.message for one in examine(str(desk.config.parent / "a.toml"))[1]]
    assert found == [
        f"{desk.config.parent}/a.toml includes itself",
        "profiles inherit from each other: x from y from x",
    ]


def test_a_name_that_is_there_twice(desk: Desk) -> None:
    desk.write('include = "b.toml"\n' + GOOD)
    desk.write('[stores.disk]\naddress = "other"\n', "b.toml")
    [problem] = examine(str(desk.config))[1]
    assert problem.message == f"the store disk is also in {desk.config}:2"


# ---- retention without groups ----------------------------------------------------------------------------------------

SERIES = """
[stores.disk]
address = "/d"
[stores.other]
address = "/e"
[profiles.one]
stores = ["disk"]
key = { file = "k.encrypt" }
sources = ["/a"]
[profiles.one.retention]
keep-daily = 7
group-by = []
"""
SECOND = '[profiles.two]\nstores = ["STORE"]\nkey = { file = "k.encrypt" }\nsources = ["/b"]\n'


def test_a_public_key_cannot_tell_groups(desk: Desk) -> None:
    [problem] = said(desk, SERIES.replace("group-by = []", ""))
    assert "a public key cannot tell host and paths of archives (set group-by = []" in problem
    [problem] = said(desk, SERIES + 'host = "h"\n')
    assert "a public key cannot tell hosts, tags and paths" in problem
    assert (
        said(desk, SERIES.replace('"k.encrypt" }', '"k.decrypt", kind = "private" }').replace("group-by = []", ""))
        == []
    )


def test_archives_of_several_series_are_not_pruned_as_one(desk: Desk) -> None:
    assert said(desk, SERIES) == []
    assert said(desk, SERIES + SECOND.replace("STORE", "other")) == []
    [problem] = said(desk, SERIES + SECOND.replace("STORE", "disk"))
    assert "profiles one and two make several archives in store disk" in problem
    [problem] = said(desk, SERIES.replace('["/a"]', '["/a", { command = ["x"], name = "y" }]'))
    assert "the profile makes several archives in store disk" in problem


SHARED = """
[stores.disk]
address = "/d"
[profiles.precious]
stores = ["disk"]
key = { file = "k.decrypt", kind = "private" }
sources = ["/a"]
[profiles.precious.retention]
keep-last = 100
[profiles.scratch]
inherit = "precious"
sources = ["/b"]
[profiles.scratch.retention]
keep-last = 1
"""


def test_retention_is_not_applied_to_archives_of_other_rules(desk: Desk) -> None:
    """Groups tell series apart, and do not say whose rules apply to which."""
    found = said(desk, SHARED)
    assert len(found) == 2
    assert "scratch: retention applies to archives of precious in store disk, too, which have other rules" in found[1]
    assert said(desk, SHARED.replace("keep-last = 1\n", "keep-last = 100\n")) == []
    none = SHARED.replace("[profiles.precious.retention]\nkeep-last = 100\n", "")
    [problem] = said(desk, none)
    assert "scratch: retention applies to archives of precious in store disk, too, which have other rules" in problem
    assert said(desk, none.replace('sources = ["/b"]', "sources = []")) == [], "it is there to prune those of others"
    assert said(desk, none.replace("[profiles.precious]", "[profiles.precious]\ntags = ['x']") + "tags = ['y']\n") == []
    assert said(desk, none.replace('sources = ["/b"]', "tags = ['hourly']")) == [], "of the same files"
    prunes = SHARED.replace('sources = ["/b"]', "sources = []")
    assert "profile scratch: retention applies to archives of precious" in said(desk, prunes)[-1]


def test_an_incomplete_profile_that_others_inherit_from_makes_no_archives(desk: Desk) -> None:
    base = SHARED.replace("[profiles.precious.retention]\nkeep-last = 100\n", "").replace('sources = ["/a"]\n', "")
    assert said(desk, base) == []


@pytest.mark.parametrize("setting", ['tags = ["t"]', 'path = "/a"', f'host = "{socket.gethostname()}"'])
def test_what_retention_selects_is_checked_as_well(desk: Desk, setting: str) -> None:
    """Two profiles whose archives are selected are not pruned by the rules of one; others do not matter."""
    text = SHARED.replace('sources = ["/a"]', 'sources = ["/a"]\ntags = ["t", "u"]').replace('["/b"]', '["/b", "/a"]')
    found = said(desk, text + f"{setting}\n")
    assert "scratch: retention applies to archives of precious" in found[-1]
    other = {"tags": 'tags = ["v"]', "path": 'path = "/b"', "host": 'host = "elsewhere"'}[setting.partition(" ")[0]]
    assert not [one for one in said(desk, text + f"{other}\n") if "profile scratch" in one]


def test_two_dumps_are_two_series(desk: Desk) -> None:
    """By the paths that their archives have; a dump of the same name is not told apart."""
    dump = '{ command = ["pg_dump", "NAME"], name = "NAME.sql" }'
    dumps = ", ".join(dump.replace("NAME", name) for name in ("one", "two"))
    text = SHARED.partition("[profiles.scratch]")[0].replace('"/a"', dumps)
    assert said(desk, text) == []
    [problem] = said(desk, text.replace("two.sql", "one.sql"))
    assert "the profile makes several archives in store disk" in problem
    [problem] = said(desk, text + 'group-by = ["host"]\n')
    assert "the profile makes several archives in store disk" in problem


# ---- pings -----------------------------------------------------------------------------------------------------------

PINGED = """
[stores.disk]
address = "/d"
[profiles.base]
stores = ["disk"]
key = { file = "k.encrypt" }
ping = PING
[profiles.one]
inherit = "base"
sources = ["/a"]
[profiles.two]
inherit = "base"
sources = ["/b"]
"""


@pytest.mark.parametrize("ping", ['"https://example.org/s3cr3t"', '{ file = "/p" }', '{ variable = "P" }'])
def test_profiles_do_not_share_a_ping(desk: Desk, ping: str) -> None:
    """A success of one would hide a failure of the other."""
    text = PINGED.replace("PING", ping)
    [problem] = said(desk, text)
    assert problem == (
        "7: profile two: the ping is that of one, too: a success of one would hide a failure of the other "
        "(give each profile a ping of its own)"
    )
    assert said(desk, text + 'ping = "https://example.org/other"\n') == []
    assert said(desk, text.partition("[profiles.two]")[0]) == [], "one that is only inherited from is not run"
    if ping.startswith('"'):
        assert said(desk, f'{text}ping = {ping[:-1]}/"\n') == [problem.replace("7:", "14:")]


def test_what_does_and_does_not_tell_archives_apart(desk: Desk) -> None:
    private = SERIES.replace('"k.encrypt" }', '"k.decrypt", kind = "private" }')
    dump = private.replace('["/a"]', '["/a", { command = ["x"], name = "y" }]')
    for groups in ('["host"]', '["tags"]', '["host", "tags"]'):
        [problem] = said(desk, dump.replace("group-by = []", f"group-by = {groups}"))
        assert "the profile makes several archives in store disk" in problem
    for apart in ('group-by = ["paths"]', 'group-by = []\npath = "/a"', 'group-by = []\ntags = ["t"]'):
        assert said(desk, dump.replace("group-by = []", apart)) == []
    [problem] = said(desk, dump + f'host = "{socket.gethostname()}"\n')
    assert "the profile makes several archives in store disk" in problem
    assert said(desk, dump + 'host = "another"\n') == []


def test_archives_come_to_a_store_by_copies_of_others(desk: Desk) -> None:
    courier = SECOND.replace('sources = ["/b"]', "").replace("two", "courier").replace("STORE", "third")
    courier += '[profiles.courier.copy]\nto = ["disk"]\n[stores.third]\naddress = "/f"\n'
    maker = SECOND.replace("STORE", "other")
    assert said(desk, SERIES + maker + courier) == []
    on = '[profiles.relay]\nstores = ["other"]\n[profiles.relay.copy]\nto = ["third"]\n'
    found = said(desk, SERIES + maker + courier + on)
    assert any("profiles one and two make several archives in store disk" in one for one in found), found


@pytest.mark.parametrize(
    ("one", "two"),
    [("/d", "local:/d"), ("/d", "local:/e/../d"), ("s3://b/h", "s3://b/h/?storage-class=STANDARD_IA")],
)
def test_one_store_in_two_spellings(desk: Desk, one: str, two: str) -> None:
    text = SERIES.replace('"/d"', f'"{one}"').replace('"/e"', f'"{two}"')
    found = said(desk, text + SECOND.replace("STORE", "other"))
    assert any("profiles one and two make several archives in store disk" in each for each in found), found
    elsewhere = text.replace(f'"{two}"', '"s3://b/h?endpoint=https://127.0.0.1:1"')
    assert said(desk, elsewhere + SECOND.replace("STORE", "other")) == []


# ---- hostile files ---------------------------------------------------------------------------------------------------


def message(path: Path) -> str:
    [problem] = examine(str(path))[1]
    return problem.message


def test_what_is_no_file(desk: Desk) -> None:
    desk.config.mkdir()
    assert message(desk.config) == "this is a directory: a configuration is a file"
    os.mkfifo(fifo := desk.place / "fifo")
    assert message(fifo) == "this is not a regular file: a configuration is a file"
    assert message(Path("/dev/zero")) == "this is not a regular file: a configuration is a file"
    assert message(desk.place / "none") == "cannot read the configuration: No such file or directory"
    (desk.place / "ring").symlink_to("ring")
    assert "Too many levels" in message(desk.place / "ring")


def test_files_that_are_too_much(desk: Desk) -> None:
    desk.config.write_text("#" * ((1 << 20) + 1))
    assert message(desk.config) == "a configuration has at most 1,048,576 bytes"
    desk.config.write_text("x = " + "[" * 100_000 + "]" * 100_000)
    assert message(desk.config) == "values are nested too deeply"
    desk.config.write_bytes(b'x = 1\ny = "\xff"\n')
    [problem] = examine(str(desk.config))[1]
    assert (problem.line, problem.message) == (2, "this is not UTF-8, which TOML requires")


def test_a_long_file_takes_linear_time(desk: Desk) -> None:
    """A megabyte of settings; a quadratic reader would take hours."""
    text = "".join(f'[stores.s{i}]\naddress = "/s{i}"\n' for i in range(25_000))
    assert len(text) < 1 << 20
    assert len(load(str(desk.write(text))).stores) == 25_000


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that everybody can enter, as those of pytest are not."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


@pytest.mark.parametrize("mode", [0o666, 0o664, 0o602])
def test_a_file_that_others_can_write_is_refused(public: Path, mode: int) -> None:
    path = public / "pogfast.toml"
    path.write_text(GOOD)
    path.chmod(0o644)
    assert examine(str(path))[1] == []
    path.chmod(mode)
    assert message(path) == "other users can write this configuration"
    public.chmod(0o700)
    assert examine(str(path))[1] == [], "nobody else can come there"


def test_an_included_file_that_others_can_write_is_refused(public: Path) -> None:
    (public / "pogfast.toml").write_text('include = "b.toml"\n')
    (public / "b.toml").write_text("")
    (public / "b.toml").chmod(0o666)
    assert message(public / "pogfast.toml") == "other users can write this configuration"


def test_a_directory_that_others_can_write_is_refused(public: Path) -> None:
    (public / "sub").mkdir()
    (public / "sub" / "pogfast.toml").write_text(GOOD)
    (public / "sub").chmod(0o777)
    assert message(public / "sub" / "pogfast.toml") == "other users can replace this configuration"
    (public / "sub").chmod(0o1777)
    assert examine(str(public / "sub" / "pogfast.toml"))[1] == [], "as /tmp"


def test_a_directory_above_and_one_of_a_link_are_looked_at(public: Path) -> None:
    """Whoever can rename them puts another file in place."""
    (public / "open" / "mine").mkdir(parents=True)
    (public / "open").chmod(0o777)
    (public / "mine").mkdir()
    (public / "mine" / "pogfast.toml").write_text(GOOD)
    (public / "open" / "mine" / "pogfast.toml").write_text(GOOD)
    (public / "open" / "link.toml").symlink_to(public / "mine" / "pogfast.toml")
    (public / "link.toml").symlink_to(public / "mine" / "pogfast.toml")
    assert message(public / "open" / "mine" / "pogfast.toml") == "other users can replace this configuration"
    assert message(public / "open" / "link.toml") == "other users can replace this configuration"
    assert examine(str(public / "link.toml"))[1] == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_file_of_another_user_is_refused(public: Path) -> None:
    path = public / "pogfast.toml"
    path.write_text(GOOD)
    shutil.chown(path, 12345)
    assert message(path) == "this configuration belongs to another user, who can change it"

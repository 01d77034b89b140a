"""Names as tokens, shell lines, allowed directories, filters and verdicts: functions of text, for any text."""

from __future__ import annotations

import os
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pogfast import keys
from pogfast.archives.overview import ArchiveInfo
from pogfast.errors import CorruptManifest, UsageError
from pogfast.ui import shell, verdicts, words
from pogfast.ui.forms import Form, link
from pogfast.ui.pages.archives import matches
from pogfast.ui.roots import Roots
from pogfast.ui.sessions import KEYS_FOR, GivenKey, Sessions
from pogfast.upkeep.reads import ReadShare

ANY = st.text(st.characters(exclude_categories=()), max_size=20)


@given(ANY)
def test_a_token_is_printable_and_means_its_name(name: str) -> None:
    found = words.token(name)
    assert found.isprintable()
    assert words.harmless(found) == found
    assert words.name_of(found) == name


@given(ANY)
def test_links_and_forms_bring_a_name_back(name: str) -> None:
    query = link("/page", path=name).partition("?")[2]
    assert Form.parse(query.encode()).name("path") == name


@given(ANY)
def test_whatever_is_shown_is_harmless(name: str) -> None:
    assert str(words.harmless(name)).isprintable() or not name
    shown = words.name(name)
    assert "<" not in shown.removeprefix("<bdi>").removesuffix("</bdi>")


@pytest.mark.parametrize("text", ["%", "%zz.", "%41", "%110000.", "\n", "a\u202eb", "%41."])
def test_what_is_no_token_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        words.name_of(text)


NAMES = [
    "plain",
    "a b",
    "",
    "-x",
    "it's",
    'q"`$(id)\\',
    "new\nline",
    "\x1b[31m",
    os.fsdecode(b"\xff\xfe"),
    "ü\u202e",
    "*?[",
]


def test_a_shell_reads_the_words_that_were_meant() -> None:
    line = shell.line(["printf", "%s\\0", *NAMES])
    assert line.isprintable()
    ran = subprocess.run(["bash", "-c", line], capture_output=True, check=True)
    assert ran.stdout == b"".join(os.fsencode(name) + b"\0" for name in NAMES)


def test_nothing_outside_of_the_roots(tmp_path: Path) -> None:
    root, other = tmp_path / "root", tmp_path / "rooted"
    (root / "inner").mkdir(parents=True)
    other.mkdir()
    (root / "out").symlink_to(other)
    roots = Roots([str(root)])
    assert roots.inside(str(root / "inner" / "new")) == str(root / "inner" / "new")
    for path in (other, root / "out", root / ".." / "rooted", root / "out" / "x", Path("/"), "relative", "", "/\0"):
        with pytest.raises(UsageError):
            roots.inside(str(path))
    assert roots.parent(str(root)) is None
    assert [each.name for each in roots.listing(str(root), files=True)[0]] == ["inner"]


def test_filters_of_months_and_years_have_ends() -> None:
    info = ArchiveInfo("x.mfn", datetime(2026, 5, 31, 12).astimezone(), host="laptop", tags=["a"], paths=["/etc/ssh"])
    for wanted in (
        "after:2026-05",
        "after:2026-05-31",
        "before:2026-06",
        "on:2026",
        "on:2026-05",
        "path:/etc",
        "LAP ssh",
    ):
        assert matches(wanted, info), wanted
    for wanted in ("after:2026-06", "before:2026-05-31", "on:2025", "path:/et", "tag:b", "host:x"):
        assert not matches(wanted, info), wanted
    for wanted in ("after:x", "on:2026-13", "before:0000", "after:99999"):
        with pytest.raises(UsageError):
            matches(wanted, info)


NOW = datetime(2026, 11, 30, tzinfo=UTC)


def info(**more: object) -> ArchiveInfo:
    return ArchiveInfo("x.mfn", NOW - timedelta(hours=3), files=1, **more)  # type: ignore[arg-type]


READ = [ReadShare(0.3, NOW - timedelta(days=12)), ReadShare(0.7, None)]


def test_verdicts() -> None:
    broken = info(problem="damaged", error=CorruptManifest("damaged"))
    assert verdicts.judge([info()], READ, NOW).words == "Protected"
    assert verdicts.judge([info()], READ[1:], NOW).words == "Not proven"
    assert verdicts.judge([], READ, NOW).words == "Empty"
    assert verdicts.judge([info(), broken], READ, NOW).words == "Damaged"
    assert verdicts.judge([info(unreadable=2)], READ, NOW).words == "Protected, with warnings"
    assert "2 files could not be read" in verdicts.judge([info(unreadable=2)], READ, NOW).why
    ahead = ArchiveInfo("y.mfn", NOW + timedelta(days=400))
    assert verdicts.judge([info(), ahead], READ, NOW).words == "Dated in the future"
    for infos in ([], [broken], [ahead]):
        assert "Protected" not in verdicts.judge(infos, READ, NOW).words


def test_keys_expire_without_another_request() -> None:
    sessions = Sessions()
    cookie = sessions.begin(sessions.new_token())
    assert cookie is not None
    session = sessions.find(cookie)
    assert session is not None
    session.keys["store"] = GivenKey(keys.Key("keyfile", bytes(range(32))))
    assert not sessions.expire()
    assert session.keys
    session.used -= KEYS_FOR + 1
    assert sessions.expire()
    assert not session.keys
    assert not sessions.expire()


def test_nothing_shows_a_key_that_was_given() -> None:
    given = GivenKey(keys.Key("keyfile", b"secret of 32 bytes, ASCII letters"[:32]), ("--keyfile=x",))
    assert "secret" not in repr(given)

"""Runs of profiles: real stores, real hooks, real signals, and what is recorded of them."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import pogfast
from kit.profiles import Desk
from pogfast.config import load
from pogfast.errors import worst_code
from pogfast.runs import records, status
from pogfast.runs.needs import on_mains
from pogfast.runs.programs import run_program
from pogfast.runs.records import Record, VerbRecord, append, history, last
from pogfast.runs.verbs import settings_of_stores
from pogfast.stores import settings

PROFILE = """\
[stores]
one = { address = "${PLACE}/one" }
two = { address = "${PLACE}/two" }
[profiles.home]
stores = ["one"]
key = { file = "k.encrypt" }
sources = ["${PLACE}/tree"]
"""
HOOKS = """\
[profiles.home.hooks]
before = [["${PLACE}/hook", "before"]]
after = [["${PLACE}/hook", "after"]]
after-failure = [["${PLACE}/hook", "after-failure"]]
finally = [["${PLACE}/hook", "finally"]]
[profiles.home.hooks.create]
before = [["${PLACE}/hook", "before create"]]
after = [["${PLACE}/hook", "after create"]]
after-failure = [["${PLACE}/hook", "after-failure create"]]
finally = [["${PLACE}/hook", "finally create"]]
"""
# Notes that it has run, what it was given, and its environment; then does what its file says.
HOOK = """\
#!/bin/sh
echo "$1" >> "$PLACE/calls"
cat > "$PLACE/told $1"
env > "$PLACE/environment"
if [ -f "$PLACE/do $1" ]; then . "$PLACE/do $1"; fi
"""


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    made = Desk(tmp_path)
    for name, value in made.environ.items():
        if name == "PLACE" or name.startswith("POGFAST_"):
            monkeypatch.setenv(name, value)
    (tmp_path / "hook").write_text(HOOK)
    (tmp_path / "hook").chmod(0o755)
    return made


def calls(desk: Desk) -> list[str]:
    path = desk.place / "calls"
    return path.read_text().splitlines() if path.exists() else []


def told(desk: Desk, hook: str) -> dict[str, Any]:
    found = json.loads((desk.place / f"told {hook}").read_text())
    assert isinstance(found, dict)
    return found


def recorded(desk: Desk, profile: str = "home") -> Record:
    found = last(profile, str(desk.config))
    assert found is not None
    return found


# ---- verbs -----------------------------------------------------------------------------------------------------------


def test_a_run_of_everything(desk: Desk) -> None:
    """With a public key only: create, copy, prune and check, and what is there afterwards."""
    desk.write(
        PROFILE
        + '[profiles.home.copy]\nto = ["two"]\n'
        + "[profiles.home.retention]\nkeep-last = 1\ngroup-by = []\n[profiles.home.check]\n"
        + '[groups.nightly]\nprofiles = ["home"]\n'
    )
    assert desk.pogfast("run", "home").code == 0
    (desk.tree / "more").write_text("more\n")
    ran = desk.pogfast("run", "nightly", "--json")
    assert ran.code == 0, ran.err
    [line] = [json.loads(line) for line in ran.lines if '"run"' in line]
    record = recorded(desk)
    assert {**record.as_dict(), "message_type": "run"} == line
    assert [(verb.verb, verb.stores) for verb in record.verbs] == [
        ("create", ["one"]),
        ("copy", ["one", "two"]),
        *(("prune", [store]) for store in ("one", "two")),
        *(("check", [store]) for store in ("one", "two")),
    ]
    assert (record.outcome, record.exit_code, record.group, record.problem_count) == ("success", 0, "nightly", 0)
    created = record.verbs[0].figures  # a file that was made just before the first run may be read again
    assert created["files_new"] >= 1
    assert created["files_new"] + created["files_unchanged"] == 2
    assert record.verbs[2].figures["removed"] == 1
    assert record.verbs[4].figures["damage"] == 0
    key = pogfast.open_key(decryption_keyfile=desk.config.parent / "k.decrypt")
    for store in ("one", "two"):
        [archive] = pogfast.list_archives(desk.place / store, key)
        assert archive.files == 2
    assert record.archives == {"one": [archive.name]}


def test_the_options_of_create(desk: Desk) -> None:
    (desk.tree / "x.tmp").write_text("x")
    (desk.tree / "x.BAK").write_text("x")
    (desk.config.parent / "patterns").write_text("*.log\n")
    (desk.tree / "x.log").write_text("x")
    (desk.config.parent / "list").write_text(f"{desk.place}/list*\n")
    (desk.place / "listed").write_text("x")
    options = """\
exclude = ["*.tmp"]
iexclude = ["*.bak"]
exclude-from = ["patterns"]
files-from = ["list"]
directory = "${PLACE}"
tags = ["daily"]
host = "elsewhere"
comment = "by night"
level = 1
pad = true
chunker = "fastcdc:1MB"
packs = "yes"
"""
    desk.write(PROFILE.replace('["${PLACE}/tree"]', '["tree"]') + options)
    ran = desk.pogfast("run", "home")
    assert ran.code == 0, ran.err
    key = pogfast.open_key(decryption_keyfile=desk.config.parent / "k.decrypt")
    with pogfast.open_archive(desk.place / "one" / "latest", key) as archive:
        names = {name for name in archive if not name.endswith("tree")}
    assert names == {"tree/notes", str(desk.place / "listed")[1:]}
    info = pogfast.info(desk.place / "one" / "latest", key)
    assert (info.tags, info.host, info.comment) == (["daily"], "elsewhere", "by night")
    assert (desk.place / "one" / "pogfast.store").exists(), "packs"


def test_packs_of_one_store_are_not_those_of_another(desk: Desk) -> None:
    text = PROFILE.replace('two" }', 'two", packs = "2MiB" }').replace('["one"]', '["one", "two"]')
    desk.write(text)
    assert desk.pogfast("run", "home").code == 0
    assert not (desk.place / "one" / "pogfast.store").exists()
    assert (desk.place / "two" / "pogfast.store").exists()


def test_a_proof_that_stores_can_be_read(desk: Desk) -> None:
    desk.write(PROFILE)
    assert desk.pogfast("run", "home").code == 0
    proof = PROFILE.replace('k.encrypt"', 'k.decrypt", kind = "private"').replace("sources", "tags")
    check = '[profiles.home.check]\nmax-age = "30d"\nrestore-test = 2\n'
    desk.write(proof + check)
    assert desk.pogfast("run", "home").code == 3
    record = recorded(desk)
    assert record.outcome == "incomplete"
    assert "was not read for 30 days" in record.problems[0].message
    desk.write(proof + check + "read-data = true\n")
    assert desk.pogfast("run", "home").code == 0
    figures = recorded(desk).verbs[0].figures
    assert (figures["unproven"], figures["files_tested"]) == (0, min(2, len(list(desk.tree.rglob("*")))))


def test_a_database(desk: Desk) -> None:
    dump = '["sh", "-c", "echo dumped; exit $(cat code)"]'
    desk.write(PROFILE.replace('["${PLACE}/tree"]', f'["${{PLACE}}/tree", {{ command = {dump}, name = "db.sql" }}]'))
    (desk.place / "code").write_text("0")
    assert desk.pogfast("run", "home").code == 0
    record = recorded(desk)
    assert [verb.source for verb in record.verbs] == ["", "db.sql"]
    assert len(record.archives["one"]) == 2
    key = pogfast.open_key(decryption_keyfile=desk.config.parent / "k.decrypt")
    assert b"".join(pogfast.cat(f"{desk.place}/one/{record.verbs[1].archives['one']}", key, "db.sql")) == b"dumped\n"

    (desk.place / "code").write_text("3")
    ran = desk.pogfast("run", "home")
    assert ran.code == 1
    record = recorded(desk)
    assert (record.outcome, record.message) == ("failed", "create: sh ended with exit status 3: no archive was made")
    assert len(record.archives["one"]) == 1, "the files are archived nevertheless"


def test_dumps_are_pruned_one_by_one(desk: Desk) -> None:
    """Each is a series of its own, as the files are: none makes another unneeded. Another's archives stay."""
    sources = ", ".join(f'{{ command = ["echo", "{name}"], name = "{name}.sql" }}' for name in ("one", "two"))
    text = PROFILE.replace('k.encrypt"', 'k.decrypt", kind = "private"').replace(
        "sources = [", f"sources = [{sources}, "
    )
    other = '[profiles.other]\ninherit = "home"\nsources = ["${PLACE}/config"]\ntags = ["other"]\n'
    desk.write(text + 'tags = ["home"]\n' + other)
    for _ in range(3):
        assert desk.pogfast("run", "home", "other").code == 0
    desk.write(
        text
        + 'tags = ["home"]\nretention = { keep-last = 1, tags = ["home"] }\n'
        + other
        + "retention.keep-all = true\n"
    )
    ran = desk.pogfast("run", "home", "other")
    assert ran.code == 0, ran.err
    key = pogfast.open_key(decryption_keyfile=desk.config.parent / "k.decrypt")
    there = sorted(info.paths for info in pogfast.list_archives(desk.place / "one", key))
    assert there == sorted([["/one.sql"], ["/two.sql"], [str(desk.tree)], *[[str(desk.config.parent)]] * 4])


def test_a_verb_that_fails_ends_the_run(desk: Desk) -> None:
    """Nothing is pruned where nothing was added."""
    desk.write(PROFILE + "[profiles.home.retention]\nkeep-last = 1\ngroup-by = []\n[profiles.home.check]\n")
    assert desk.pogfast("run", "home").code == 0
    assert desk.pogfast("run", "home").code == 0
    before = sorted(path.name for path in (desk.place / "one").glob("*.mfn*"))
    desk.tree.rename(desk.place / "elsewhere")
    ran = desk.pogfast("run", "home")
    assert ran.code not in (0, 3)
    record = recorded(desk)
    assert [verb.skipped for verb in record.verbs] == [False, True, True]
    assert sorted(path.name for path in (desk.place / "one").glob("*.mfn*")) == before


@pytest.mark.parametrize("what", ["a source", "a store", "a file"])
def test_nothing_is_pruned_where_something_was_not_there(desk: Desk, what: str) -> None:
    """As a disk that is not mounted; a single file that cannot be read is no reason."""
    (more := desk.place / "more").mkdir()
    text = PROFILE.replace('tree"]', 'tree", "${PLACE}/more"]').replace('["one"]', '["one", "two"]')
    retention = '[profiles.home.retention]\nkeep-last = 1\ngroup-by = []\nstores = ["one"]\n'
    desk.write(text + retention + '[profiles.home.check]\nstores = ["one"]\n')
    assert desk.pogfast("run", "home").code == 0
    lacking = {"a source": str(more), "a store": str(desk.place / "two")}.get(what)
    if what == "a source":
        more.rmdir()
    elif what == "a store":
        shutil.rmtree(desk.place / "two")
        (desk.place / "two").write_text("not a store")
    else:
        text = text.replace("sources = [", 'sources = ["/proc/self/mem", ')  # which nobody can read from its beginning
        desk.write(text + retention + '[profiles.home.check]\nstores = ["one"]\n')
    ran = desk.pogfast("run", "home")
    assert ran.code == 3, ran.err
    record = recorded(desk)
    assert record.outcome == "incomplete"
    assert [(verb.verb, verb.skipped) for verb in record.verbs] == [
        ("create", False),
        ("prune", lacking is not None),
        ("check", False),
    ]
    assert record.succeeded == (lacking is None)
    assert record.lacking == ([lacking] if lacking else [])
    assert (f"nothing is pruned, since not all was there: {lacking}" in ran.err) == (lacking is not None)


def test_one_of_two_stores_fails(desk: Desk) -> None:
    """The other has the archive, and the run goes on."""
    (desk.place / "two").write_text("not a store")
    desk.write(PROFILE.replace('["one"]', '["two", "one"]') + '[profiles.home.check]\nstores = ["one"]\n')
    ran = desk.pogfast("run", "home")
    assert ran.code == 3
    record = recorded(desk)
    assert (record.outcome, list(record.archives), record.problem_count) == ("incomplete", ["one"], 1)
    assert record.problems[0].code == 3
    assert record.verbs[1].exit_code == 0
    assert record.verbs[1].start


def test_the_other_profiles_are_run(desk: Desk) -> None:
    desk.write(PROFILE + '[profiles.bad.check]\nstores = ["two"]\n[groups.all]\nprofiles = ["bad", "home"]\n')
    ran = desk.pogfast("run", "all", "home")
    assert ran.code == 10 or ran.code == 2, ran.err
    assert [line.split()[:2] for line in ran.lines] == [["bad", "failed"], ["home", "success"]]


def test_data_is_read(desk: Desk) -> None:
    """With the private key, and in packs without any; a damaged blob is reported once, however many files need it."""
    for i in range(40):
        content = os.urandom(10_000)
        for j in range(10):
            (desk.tree / f"{i}-{j}").write_bytes(content)
    text = PROFILE.replace('"k.encrypt"', '"k.decrypt", kind = "private"') + 'packs = "yes"\n'
    check = '[profiles.home.check]\nread-data = true\nmax-age = "90d"\nrestore-test = 2\n'
    scrub = '[profiles.scrub]\nstores = ["one"]\n[profiles.scrub.check]\nread-data = true\n'
    desk.write(text + check + scrub)
    ran = desk.pogfast("run", "home", "scrub")
    assert ran.code == 0, ran.err
    figures = recorded(desk).verbs[1].figures
    assert (figures["read"], figures["unproven"], figures["files_tested"], figures["damage"]) == (41, 0, 2, 0)
    assert "2 files restored to nowhere: no damage found" in ran.err
    assert recorded(desk, "scrub").verbs[0].figures["read"] == 1
    [pack] = (desk.place / "one" / "packs").glob("2*/*")
    data = bytearray(pack.read_bytes())
    for at in range(len(data) // 2):
        data[at] ^= 1
    pack.chmod(0o644)
    pack.write_bytes(data)
    ran = desk.pogfast("run", "scrub", "home")
    assert ran.code == 4
    record = recorded(desk)
    assert (record.outcome, record.exit_code) == ("failed", 4)
    damage = record.verbs[1].figures["damage"]
    assert damage >= 100
    assert 10 <= record.problem_count < damage / 5
    assert len(record.problems) == min(record.problem_count, 20)
    assert recorded(desk, "scrub").exit_code == 4


def test_a_check_that_was_incomplete_is_repeated(desk: Desk) -> None:
    proof = PROFILE.replace('k.encrypt"', 'k.decrypt", kind = "private"')
    desk.write(proof + '[profiles.home.check]\nevery = "7d"\nmax-age = "30d"\n')
    for _ in range(2):
        assert desk.pogfast("run", "home").code == 3
        assert [verb.verb for verb in recorded(desk).verbs] == ["create", "check"]
    desk.write(proof + '[profiles.home.check]\nevery = "7d"\nmax-age = "30d"\nread-data = true\n')
    assert desk.pogfast("run", "home").code == 0
    assert desk.pogfast("run", "home").code == 0
    assert [verb.verb for verb in recorded(desk).verbs] == ["create"]


def test_a_record_of_the_future_is_not_believed(desk: Desk) -> None:
    """A clock was ahead, and what was done then would not be due for years."""
    desk.write(PROFILE + '[profiles.home.check]\nevery = "7d"\n')
    ahead = (datetime.now().astimezone() + timedelta(days=900)).isoformat()
    done = VerbRecord("check", ["one"], start=ahead)
    append(Record("home", str(desk.config), "host", ahead, end=ahead, verbs=[done]))
    assert [one.verdict for one in status(load(str(desk.config)))] == ["never"]
    assert desk.pogfast("run", "home").code == 0
    assert [verb.verb for verb in recorded(desk).verbs] == ["create", "check"]


def test_a_clock_that_is_set_during_a_run_does_not_make_it_long(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine that begins in 1970: the next run would not be late for half a century."""
    desk.write(PROFILE + 'schedule = "daily"\n')
    right = time.time
    times = iter([0.0])
    monkeypatch.setattr("pogfast.system.clock.now", lambda: next(times, right()))
    [record] = pogfast.run("home")
    assert record.seconds < 3600
    assert all(verb.seconds < 3600 for verb in record.verbs)


def test_a_verb_that_is_not_due(desk: Desk) -> None:
    """Checked when the last good check is long enough ago, store by store; a failed one does not count."""
    desk.write(PROFILE + '[profiles.home.check]\nevery = "7d"\nstores = ["one", "two"]\n')
    (desk.place / "two").write_text("not a store")
    assert desk.pogfast("run", "home").code not in (0, 3)
    assert [verb.stores for verb in recorded(desk).verbs] == [["one"], ["one"], ["two"]]
    assert desk.pogfast("run", "home").code not in (0, 3)
    assert [verb.stores for verb in recorded(desk).verbs] == [["one"], ["two"]]
    path = desk.place / "state/runs/home.jsonl"
    week = datetime.now().astimezone() - timedelta(days=6.5)
    path.write_text(re.sub(r'"start": "2[^"]*"', f'"start": "{week.isoformat()}"', path.read_text()))
    assert desk.pogfast("run", "home").code not in (0, 3)
    assert [verb.stores for verb in recorded(desk).verbs] == [["one"], ["one"], ["two"]]
    path.write_text(re.sub(r'"start": "2[^"]*"', '"start": "2 o\'clock"', path.read_text()))
    assert desk.pogfast("run", "home").code not in (0, 3)
    assert [verb.stores for verb in recorded(desk).verbs] == [["one"], ["one"], ["two"]]


def test_what_a_public_key_cannot_do_is_no_warning(desk: Desk) -> None:
    """It would be one every night."""
    desk.write(PROFILE + '[profiles.home.copy]\nto = ["two"]\n[profiles.home.check]\n')
    ran = desk.pogfast("run", "home", "--quiet")
    assert (ran.code, ran.err) == (0, "")
    assert recorded(desk).warning_count == 0


def test_limits(desk: Desk) -> None:
    text = PROFILE + 'limit-upload = [{ rate = "100KB" }]\n'
    loaded = load(str(desk.write(text)))
    with settings_of_stores(loaded, loaded.profile("home")):
        found = settings.current()
        assert found.limit_upload is not None
        assert (found.limit_upload.rate, found.limit_download) == (100_000, None)
    assert settings.current().limit_upload is None
    assert desk.pogfast("run", "home").code == 0


def test_a_profile_that_is_only_inherited_from_is_not_run(desk: Desk) -> None:
    """It succeeded if it had nothing to do."""
    desk.write(PROFILE + '[profiles.base]\nstores = ["one"]\n[profiles.other]\ninherit = ["base", "home"]\n')
    ran = desk.pogfast("run", "base", "home")
    assert ran.code == 2
    assert "profile base cannot be run: there is nothing to do" in ran.err
    assert recorded(desk).outcome == "success"
    assert history("base") == []


def test_nobody_reads_the_results(desk: Desk) -> None:
    """The other profiles are run nevertheless."""
    desk.write(PROFILE + '[profiles.other]\ninherit = "home"\n')
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "pogfast", "run", "home", "other"]
    ran = subprocess.run(command, env=desk.environ, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert ran.returncode == 141
    assert recorded(desk).outcome == recorded(desk, "other").outcome == "success"


def test_what_is_not_there(desk: Desk) -> None:
    desk.write(PROFILE)
    ran = desk.pogfast("run", "hme")
    assert (ran.code, "did you mean home?" in ran.err) == (2, True)
    desk.write(PROFILE + "[profiles.home.chek]\n")
    ran = desk.pogfast("run", "home")
    assert ran.code == 2
    assert "8: unknown setting chek" in ran.err
    assert history("home") == []


def test_names_are_completed(desk: Desk) -> None:
    desk.write(PROFILE + '[groups.holidays]\nprofiles = ["home"]\n')
    environ = {"_POGFAST_COMPLETE": "bash_complete", "COMP_CWORD": "2"}
    for words, names in (("run ho", ["home", "holidays"]), ("config show ho", ["home"]), ("run x", [])):
        ran = desk.pogfast(**{**environ, "COMP_WORDS": f"pogfast {words}", "COMP_CWORD": str(len(words.split()))})
        assert [line.removeprefix("plain,") for line in ran.lines if line] == names
    desk.write("broken")
    assert desk.pogfast(**environ, COMP_WORDS="pogfast run h").out.strip() == b""


# ---- keys ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "environ"),
    [
        ('{ credential = "backup" }', {"CREDENTIALS_DIRECTORY": "credentials"}),
        ('{ file = "k.decrypt", kind = "private" }', {}),
        ('{ file = "${PLACE}/tree/notes", kind = "keyfile" }', {}),
        ('{ command = ["sh", "-c", "echo word; echo $HOME"] }', {}),
        ('{ file = "${PLACE}/tree/notes", kind = "password" }', {}),
    ],
)
def test_a_key_by_reference(desk: Desk, key: str, environ: dict[str, str]) -> None:
    (desk.place / "credentials").mkdir()
    (desk.place / "credentials" / "backup").write_bytes((desk.config.parent / "k.encrypt").read_bytes())
    desk.write(PROFILE.replace('{ file = "k.encrypt" }', key))
    ran = desk.pogfast("run", "home", **{name: str(desk.place / value) for name, value in environ.items()})
    assert ran.code == 0, ran.err


def test_a_key_that_is_not_there(desk: Desk) -> None:
    for key, said in (
        ('{ credential = "backup" }', "there is no credential backup: CREDENTIALS_DIRECTORY is not set"),
        ('{ file = "k.decrypt" }', "k.decrypt is the private key of a pair"),
        ('{ command = ["false"] }', "the password command false failed: exit status 1"),
    ):
        desk.write(PROFILE.replace('{ file = "k.encrypt" }', key))
        ran = desk.pogfast("run", "home")
        assert ran.code == 1
        assert said in ran.err
        assert said in recorded(desk).message


# ---- hooks -----------------------------------------------------------------------------------------------------------

RIGHT = ["before", "before create", "after create", "finally create", "after", "finally"]


def test_hooks(desk: Desk) -> None:
    desk.write(PROFILE + HOOKS)
    ran = desk.pogfast("run", "home", POGFAST_PASSWORD="secret", AWS_SECRET_ACCESS_KEY="secret")
    assert ran.code == 0, ran.err
    assert calls(desk) == RIGHT
    assert "secret" not in (desk.place / "environment").read_text()
    [archive] = recorded(desk).archives["one"]
    assert told(desk, "before") | {"verbs": []} == told(desk, "before create") | {
        "verbs": [],
        "hook": "before",
        "verb": None,
    }
    after = told(desk, "after create")
    assert (after["hook"], after["verb"], after["profile"], after["exit_code"]) == ("after", "create", "home", 0)
    assert after["verbs"][0]["archives"] == {"one": archive}


def test_a_before_hook_that_fails_stops_the_run(desk: Desk) -> None:
    desk.write(PROFILE + HOOKS)
    (desk.place / "do before").write_text("echo the disk is asleep >&2; exit 7\n")
    ran = desk.pogfast("run", "home")
    assert ran.code == 1
    assert f"hook before: {desk.place}/hook ended with exit status 7: the disk is asleep" in ran.err
    assert calls(desk) == ["before", "after-failure", "finally"]
    assert not (desk.place / "one").exists()
    failed = told(desk, "after-failure")
    assert "the disk is asleep" in failed["message"]
    assert (failed["exit_code"], failed["outcome"]) == (1, "failed")
    assert recorded(desk).outcome == "failed"


def test_all_finally_hooks_are_run(desk: Desk) -> None:
    """One that fails does not keep the others from tidying up; of `before`, those that follow are not run."""
    hooks = HOOKS.replace('before = [["${PLACE}/hook", "before"]]', 'before = [["false"], ["${PLACE}/hook", "no"]]')
    desk.write(PROFILE + hooks.replace("finally = [", 'finally = [["false"], '))
    assert desk.pogfast("run", "home").code == 1
    assert calls(desk) == ["after-failure", "finally"]
    assert recorded(desk).problem_count == 2


def test_a_hook_of_a_verb_that_fails(desk: Desk) -> None:
    desk.write(PROFILE + HOOKS)
    (desk.place / "do before create").write_text("exit 1\n")
    assert desk.pogfast("run", "home").code == 1
    assert calls(desk) == [
        *("before", "before create", "after-failure create", "finally create"),
        *("after-failure", "finally"),
    ]
    assert recorded(desk).verbs[0].skipped


def test_an_after_hook_that_fails(desk: Desk) -> None:
    desk.write(PROFILE + HOOKS)
    (desk.place / "do after").write_text("exit 1\n")
    assert desk.pogfast("run", "home").code == 1
    assert calls(desk)[-3:] == ["after", "after-failure", "finally"]
    assert len(recorded(desk).archives["one"]) == 1


def test_a_hook_that_hangs_is_ended(desk: Desk) -> None:
    """With what it has started, also if that holds its output."""
    desk.write(PROFILE + HOOKS.replace("[profiles.home.hooks]", '[profiles.home.hooks]\ntimeout = "1s"', 1))
    (desk.place / "do before").write_text('sleep 1000 & echo $! > "$PLACE/child"; wait\n')
    ran = desk.pogfast("run", "home")
    assert ran.code == 1
    assert "took longer than 1 s, and was ended" in ran.err
    assert calls(desk) == ["before", "after-failure", "finally"]
    assert is_gone(int((desk.place / "child").read_text()))


def test_a_dump_that_hangs_is_ended(desk: Desk) -> None:
    """With what it has started, also what ignores SIGTERM; no archive is made, and hooks hear of it."""
    script = "trap '' TERM; sleep 1000 & echo $! > $PLACE/child; echo some rows; wait"
    source = f'{{ command = ["sh", "-c", "{script}"], name = "db.sql", timeout = "1s" }}'
    desk.write(PROFILE.replace("sources = [", f"sources = [{source}, ") + "[profiles.home.check]\n" + HOOKS)
    ran = desk.pogfast("run", "home")
    assert ran.code == 1
    record = recorded(desk)
    assert record.message == "create: sh took longer than 1 s, and was ended: no archive was made"
    assert [(verb.verb, verb.source, verb.exit_code, verb.skipped) for verb in record.verbs] == [
        ("create", "", 0, False),
        ("create", "db.sql", 1, False),
        ("check", "", 0, True),
    ]
    assert len(record.archives["one"]) == len([*(desk.place / "one").glob("*.mfn")]) == 1
    assert calls(desk)[-2:] == ["after-failure", "finally"]
    assert "took longer" in told(desk, "after-failure")["message"]
    assert is_gone(int((desk.place / "child").read_text()))


def test_a_dump_that_has_printed_all_and_does_not_end_is_ended(desk: Desk) -> None:
    source = '{ command = ["sh", "-c", "exec >&-; exec sleep 1000"], name = "db.sql", timeout = "1s" }'
    desk.write(PROFILE.replace("sources = [", f"sources = [{source}, "))
    ran = desk.pogfast("run", "home")
    assert (ran.code, "sh took longer than 1 s, and was ended: no archive was made" in ran.err) == (1, True)


def test_a_password_command_that_hangs_is_ended(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if what it has started holds its output."""
    monkeypatch.setattr("pogfast.runs.keys.TIMEOUT", 1.0)
    for script in (
        "sleep 1000 & echo $! > $PLACE/child; wait",
        "echo word; exec >&-; exec sleep 1000",
    ):
        desk.write(PROFILE.replace('{ file = "k.encrypt" }', f'{{ command = ["sh", "-c", "{script}"] }}'))
        [record] = pogfast.run("home")
        if "child" in script:
            os.kill(int((desk.place / "child").read_text()), signal.SIGKILL)
        assert record.outcome == "failed"
        assert "the password command sh took longer than 1 s" in record.message


def is_gone(process: int) -> bool:
    for _ in range(100):
        try:
            os.kill(process, 0)
            if f"{process} (sleep) Z" in Path(f"/proc/{process}/stat").read_text():
                return True
        except (ProcessLookupError, FileNotFoundError):
            return True
        time.sleep(0.05)
    return False


def test_a_hook_may_leave_something_behind(desk: Desk) -> None:
    """A program that goes on, and holds the pipe of the output, is not waited for."""
    desk.write(PROFILE + HOOKS)
    (desk.place / "do before").write_text('sleep 1000 & echo $! > "$PLACE/child"\n')
    try:
        assert desk.pogfast("run", "home").code == 0
    finally:
        os.kill(int((desk.place / "child").read_text()), signal.SIGKILL)


def test_a_hook_that_prints_much_and_reads_nothing(desk: Desk) -> None:
    desk.write(
        PROFILE + '[profiles.home.hooks]\nbefore = [["sh", "-c", "head -c 3000000 /dev/zero | tr \'\\\\000\' x"]]\n'
    )
    assert desk.pogfast("run", "home").code == 0


def test_hooks_that_cannot_be_run(desk: Desk) -> None:
    desk.write(PROFILE + '[profiles.home.hooks]\nbefore = [["no-such-program"]]\n')
    ran = desk.pogfast("run", "home")
    assert (ran.code, "cannot run no-such-program: No such file or directory" in ran.err) == (1, True)


# ---- what is needed --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("need", "said"),
    [
        ('mounted = ["${PLACE}"]', "{place} is not mounted"),
        ('network = ["127.0.0.1:PORT"]', "cannot reach 127.0.0.1:{port}: Connection refused"),
        ('network = ["no-such-host.invalid:1"]', "cannot reach no-such-host.invalid:1: "),
        ('commands = [["true"], ["sh", "-c", "echo not today; exit 1"]]', "sh ended with exit status 1: not today"),
    ],
)
def test_what_is_needed_is_not_there(desk: Desk, need: str, said: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    desk.write(PROFILE + HOOKS + f"[profiles.home.needs]\n{need.replace('PORT', str(port))}\n")
    ran = desk.pogfast("run", "home")
    assert ran.code == 75
    assert said.format(place=desk.place, port=port) in ran.err
    assert calls(desk) == []
    assert not (desk.place / "one").exists()
    record = recorded(desk)
    assert (record.outcome, record.exit_code, record.verbs) == ("unmet", 75, [])


def test_a_needed_command_that_is_none_is_a_failure(desk: Desk) -> None:
    """It would be waited for in vain, and nobody be told."""
    desk.write(PROFILE + '[profiles.home.needs]\ncommands = [["/no/such/command"]]\n')
    ran = desk.pogfast("run", "home")
    assert (ran.code, "cannot run /no/such/command: No such file" in ran.err) == (1, True)
    record = recorded(desk)
    assert (record.outcome, record.exit_code, record.problem_count) == ("failed", 1, 1)
    assert not (desk.place / "one").exists()


def test_a_child_that_goes_on_printing_is_not_waited_for() -> None:
    ends = time.monotonic() + 20

    def line(text: str) -> None:
        time.sleep(0.001)  # slower than who prints: there is always more
        assert time.monotonic() < ends, "still waiting"

    run_program(["sh", "-c", f"yes {'x' * 1000} & sleep 0.3"], 30, line=line)


def test_what_is_needed_is_there(desk: Desk) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        needs = f'network = ["127.0.0.1:{port}"]\nmounted = ["/proc"]\ncommands = [["true"]]\n'
        desk.write(PROFILE + f"[profiles.home.needs]\n{needs}")
        assert desk.pogfast("run", "home").code == 0


@pytest.mark.parametrize(
    ("supplies", "expected"),
    [
        ({}, True),
        ({"BAT0": ("Battery", None)}, True),
        ({"AC": ("Mains", "1"), "BAT0": ("Battery", None)}, True),
        ({"AC": ("Mains", "0"), "BAT0": ("Battery", None)}, False),
        ({"AC": ("Mains", "0"), "usb": ("USB", "1")}, True),
    ],
)
def test_mains_power(tmp_path: Path, supplies: dict[str, tuple[str, str | None]], expected: bool) -> None:
    for name, (kind, online) in supplies.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "type").write_text(kind + "\n")
        if online is not None:
            (tmp_path / name / "online").write_text(online + "\n")
    assert on_mains(str(tmp_path)) is expected
    assert on_mains(str(tmp_path / "none"))


def test_75_is_not_worse_than_a_failure() -> None:
    assert worst_code([75, 1]) == 1
    assert worst_code([0, 75]) == 75
    assert worst_code([75, 3, 4, 12]) == 4


# ---- two runs at a time, and signals ---------------------------------------------------------------------------------


def start(desk: Desk, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "pogfast", "run", "home", *arguments],
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # it may be ignored here
        env=desk.environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for(path: Path) -> None:
    for _ in range(600):
        if path.exists():
            return
        time.sleep(0.05)
    raise AssertionError(f"no {path}")


HELD = 'while [ ! -f "$PLACE/go" ]; do sleep 0.05; done\n'


def test_a_second_run_leaves(desk: Desk) -> None:
    desk.write(PROFILE + HOOKS)
    (desk.place / "do before").write_text(HELD)
    with start(desk) as first:
        wait_for(desk.place / "told before")
        ran = desk.pogfast("run", "home")
        assert ran.code == 75
        assert f"another run of home is under way: process {first.pid}: nothing was run" in ran.err
        assert recorded(desk).outcome == "busy"
        (desk.place / "go").touch()
        first.communicate()
        assert first.returncode == 0
    assert [record.outcome for record in history("home")] == ["busy", "success"]
    assert desk.pogfast("run", "home").code == 0


def test_a_second_run_waits(desk: Desk) -> None:
    desk.write(PROFILE + 'on-conflict = "wait"\n' + HOOKS)
    (desk.place / "do before").write_text(HELD)
    with start(desk) as first:
        wait_for(desk.place / "told before")
        with start(desk) as second:
            assert second.stderr is not None
            assert f"waiting for another run, process {first.pid}" in second.stderr.readline()
            assert calls(desk) == ["before"]
            (desk.place / "go").touch()
            first.communicate()
            second.communicate()
            assert (first.returncode, second.returncode) == (0, 0)
    assert calls(desk) == [*RIGHT, *RIGHT]


def test_a_second_run_does_not_wait_for_ever(desk: Desk) -> None:
    desk.write(PROFILE + 'on-conflict = "wait"\nwait-timeout = "1s"\n' + HOOKS)
    (desk.place / "do before").write_text(HELD)
    with start(desk) as first:
        wait_for(desk.place / "told before")
        ran = desk.pogfast("run", "home")
        assert ran.code == 1
        said = f"another run of home has not ended within 1 s: process {first.pid}"
        assert said in ran.err
        record = recorded(desk)
        assert (record.outcome, record.message, record.verbs) == ("failed", said, [])
        assert calls(desk) == ["before"], "hooks belong to the run that is under way"
        (desk.place / "go").touch()
        first.communicate()
        assert first.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("when", ["before", "create"])
def test_a_signal_ends_a_run_in_order(desk: Desk, number: int, when: str) -> None:
    """In a hook, and while a command is archived that does not end."""
    text = PROFILE + HOOKS
    if when == "before":
        (desk.place / "do before").write_text(HELD)
    else:
        os.mkfifo(desk.place / "pipe")
        command = '{ command = ["sh", "-c", "touch ${PLACE}/begun; sleep 1000"], name = "x" }'
        text = text.replace('["${PLACE}/tree"]', f"[{command}]")
    desk.write(text)
    with start(desk) as process:
        wait_for(desk.place / ("told before" if when == "before" else "begun"))
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in said
    of_create = ["before create", "after-failure create", "finally create"] if when == "create" else []
    assert calls(desk) == ["before", *of_create, "after-failure", "finally"]
    assert told(desk, "finally")["outcome"] == "interrupted"
    record = recorded(desk)
    assert (record.outcome, record.exit_code) == ("interrupted", 130)
    [verb] = record.verbs
    assert (verb.skipped, verb.error) == ((True, "") if when == "before" else (False, "interrupted"))
    assert list((desk.place / "one").glob("*.mfn")) == []


def test_priorities(desk: Desk) -> None:
    priority = '[profiles.home.priority]\nnice = 7\nio = "idle"\n'
    hooks = '[profiles.home.hooks]\nbefore = [["sh", "-c", "nice > ${PLACE}/nice; ionice > ${PLACE}/ionice"]]\n'
    desk.write(PROFILE + priority + hooks)
    before = os.nice(0)
    ran = desk.pogfast("run", "home")
    assert ran.code == 0, ran.err
    assert int((desk.place / "nice").read_text()) == max(before, 7)
    assert (desk.place / "ionice").read_text() == "idle\n"
    ran = desk.pogfast("run", "home", PATH=str(desk.place))
    assert "the priority of disks stays as it is: ionice: " in ran.err


# ---- records ---------------------------------------------------------------------------------------------------------


def a_record(number: int) -> Record:
    return Record("home", "/c", "h", "2026-11-30T02:00:00+00:00", message=f"{number} " + "x" * 5000)


def test_records_are_bounded(desk: Desk) -> None:
    for number in range(300):
        append(a_record(number))
        assert (desk.place / "state/runs/home.jsonl").stat().st_size < records.MAX_SIZE + 10_000
    found = history("home")
    assert 100 <= len(found) < 300
    assert [int(record.message.split()[0]) for record in found] == [*range(300 - len(found), 300)]


def test_records_are_private(desk: Desk) -> None:
    desk.write(PROFILE)
    before = os.umask(0)
    try:
        assert desk.pogfast("run", "home").code == 0
    finally:
        os.umask(before)
    state = desk.place / "state"
    modes = {path.stat().st_mode & 0o777 for path in [state, *state.rglob("*")] if path.is_dir()}
    assert modes == {0o700}
    assert {path.stat().st_mode & 0o777 for path in state.rglob("*") if path.is_file()} == {0o600}


def test_lines_that_are_no_records(desk: Desk) -> None:
    append(a_record(1))
    path = desk.place / "state/runs/home.jsonl"
    with path.open("ab") as file:
        file.write(
            b'\xff\n{"profile": 3}\n[]\n' + b"[" * 100_000 + b'\n{"profile": "ho'
        )  # the last as after a power cut
    append(a_record(2))
    assert [record.message[0] for record in history("home")] == ["1", "2"]
    assert history("other") == []
    assert last("other") is None
    assert path.stat().st_mode & 0o777 == 0o600


def test_processes_append_whole_lines(desk: Desk) -> None:
    program = "from pogfast.runs.records import *; [append(Record('home', str(i), 'h', 'x' * 3000)) for i in range(40)]"
    running = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(4)]
    assert [process.wait() for process in running] == [0] * 4
    assert len(history("home")) == 160
    assert len(history("home", "7")) == 4


def test_names_that_are_not_utf8(desk: Desk) -> None:
    name = os.fsdecode(b"bad\xff")
    (desk.tree / name).symlink_to("x")
    os.mkfifo(desk.tree / os.fsdecode(b"fifo\xfe"))
    record = a_record(1)
    record.add_warning(name)
    append(record)
    assert history("home")[0].warnings == [name]


def test_a_full_state_directory(desk: Desk) -> None:
    """The runs are made; that they cannot be recorded is an error."""
    desk.write(PROFILE + '[profiles.other]\ninherit = "home"\nstores = ["two"]\n')
    (desk.place / "state").mkdir()
    (desk.place / "state" / "runs").write_text("")
    ran = desk.pogfast("run", "home", "other")
    assert ran.code == 1
    assert ran.err.count("the run is not recorded: ") == 2
    assert ran.err.count("state/runs") == 2
    for store in ("one", "two"):
        assert len(list((desk.place / store).glob("*.mfn"))) == 1


def test_a_state_directory_that_cannot_be_used(desk: Desk) -> None:
    """Another run might be under way: nothing is run, and somebody hears of it."""
    desk.write(PROFILE + HOOKS)
    (desk.place / "state").write_text("")
    ran = desk.pogfast("run", "home")
    assert ran.code == 1
    assert "cannot lock the runs of home: " in ran.err
    assert ": nothing was run\n" in ran.err
    assert not (desk.place / "one").exists()
    assert calls(desk) == []


# ---- from Python -----------------------------------------------------------------------------------------------------


def test_from_python(desk: Desk) -> None:
    desk.write(PROFILE)
    [record] = pogfast.run("home")
    assert record.succeeded
    assert pogfast.check_config() == []
    shown = pogfast.show_config("home")
    assert [setting.name for setting in shown if setting.section == "stores"] == ["one"]
    assert {setting.setting: setting.value.line for setting in shown}["sources"] == 7

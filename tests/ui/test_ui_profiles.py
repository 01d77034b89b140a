"""Profiles of pogfast.toml on the pages: their stores, runs and records; and settings of stores."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from kit.commands import run
from kit.ui import Served, ended, served
from kit.uistore import configure
from pogfast import facade
from pogfast.schedule.jobs import mark_of


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "file").write_bytes(b"content")
    facade.keygen(tmp_path / "mine")
    configure(tmp_path, "home", "home", "away", "keep-daily = 7")
    return tmp_path


@pytest.fixture
def running(place: Path) -> Iterator[Served]:
    options = ["--no-browser", "--root", place, "--decryption-keyfile", place / "mine.decrypt"]
    with served(*options, cwd=place, env={"XDG_CONFIG_HOME": str(place / "xdg")}) as server:
        yield server


@pytest.fixture
def client(running: Served) -> Iterator[Any]:
    with running.client() as client:
        yield client


def test_stores_of_the_configuration_are_shown_by_their_names(client: Any) -> None:
    text = client.get("/").text
    assert 'href="/stores/nas"' in text
    assert 'href="/stores/away"' in text
    assert "never" in client.get("/profiles").text


def under_another_name(place: Path) -> str:
    """Returns the configuration with a name for the store that no page makes from its address."""
    text = (place / "config" / "pogfast.toml").read_text()
    return text.replace("[stores.nas]", "[stores.vault]").replace('"nas"', '"vault"') + 'schedule = "daily"\n'


def test_a_store_given_by_its_address_has_the_name_that_the_configuration_gives(place: Path) -> None:
    (place / "config" / "pogfast.toml").write_text(under_another_name(place))
    with served("nas", "--no-browser", cwd=place) as server, server.client() as client:
        home = client.get("/").text
        assert ">vault<" in home
        assert ">nas<" not in home


def test_a_store_that_the_configuration_names_later_is_that_of_its_profiles(place: Path) -> None:
    file = place / "config" / "pogfast.toml"
    later = under_another_name(place)
    file.unlink()
    facade.create(place / "home", place / "nas", facade.open_key(encryption_keyfile=place / "mine.encrypt"))
    options = ["nas", "--no-browser", "--root", place, "--decryption-keyfile", place / "mine.decrypt"]
    with served(*options, cwd=place) as server, server.client() as client:
        assert "no schedule" in client.get("/stores/nas/card").text
        file.write_text(later)
        assert "home: no archive yet; expected daily" in client.get("/stores/nas/card").text
        assert "The profile <a" in client.get("/stores/nas/retention").text
        assert "the configuration" in client.get("/settings").text
        form = {"path": str(place / "home"), "store": "nas", "kind": "keyfile", "profile": "other"}
        saved = client.post("/create/save", data={**form, "file": str(place / "mine.decrypt")})
        assert saved.headers.get("HX-Redirect") == "/profiles/other", saved.text
        assert 'stores = ["vault"]' in file.read_text().partition("[profiles.other]")[2]


def test_a_profile_is_run_and_its_record_is_that_of_the_command(client: Any, place: Path) -> None:
    text = ended(client, client.post("/profiles/home/run"))
    assert ">Done in" in text
    assert "1 file new, 0 unchanged" in text
    assert "Success" in client.get("/profiles").text
    assert len(facade.list_archives(place / "away", facade.open_key(decryption_keyfile=place / "mine.decrypt"))) == 1
    environment = {**os.environ, **{f"POGFAST_{w.upper()}_DIR": str(place / w) for w in ("cache", "config", "state")}}
    ran = run([sys.executable, "-m", "pogfast", "run", "home"], place, env=environment)
    assert ran.code == 0, ran.err
    text = client.get("/profiles/home").text
    assert text.count("✓ Success") == 2, "a run of the command is on the page as well"
    assert re.search(r"Last run</dt><dd><a href=\"/profiles/home\">.*Success", client.get("/").text)


def test_a_failed_run_is_never_protected(client: Any, place: Path) -> None:
    """The store has a good archive, and the last run failed: that counts."""
    ended(client, client.post("/profiles/home/run"))
    assert "Not proven" in client.get("/stores/nas/card").text
    ended(client, client.post("/stores/nas/check", data={"share": "100%"}))
    assert "✓" in (card := client.get("/stores/nas/card").text)
    assert "Protected" in card
    assert "100 % of the data was read back" in card
    (place / "home" / "file").unlink()
    (place / "home").rmdir()
    text = ended(client, client.post("/profiles/home/run"))
    assert "Failed" in text
    card = client.get("/stores/nas/card").text
    assert "Last run failed" in card
    assert "Protected" not in card
    assert "✕ Failed" in client.get("/profiles/home").text


def add(place: Path, text: str) -> None:
    """Adds lines to the configuration, which ends with the profile home."""
    path = place / "config" / "pogfast.toml"
    path.write_text(path.read_text() + text)


def enable_timer(place: Path) -> None:
    """Leaves what `pogfast schedule enable home` leaves, without a systemd that would start the timer."""
    units = place / "xdg" / "systemd" / "user"
    (units / "timers.target.wants").mkdir(parents=True)
    mark = mark_of("home", str(place / "config" / "pogfast.toml"))
    (units / "pogfast-home.timer").write_text(f"# {mark}\n[Timer]\nOnCalendar=daily\n")
    (units / "timers.target.wants" / "pogfast-home.timer").symlink_to(units / "pogfast-home.timer")


def age(place: Path, **by: float) -> None:
    """Has the runs of home end earlier."""
    path = place / "state" / "runs" / "home.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert records
    for record in records:
        record["end"] = (datetime.fromisoformat(record["end"]) - timedelta(**by)).isoformat()
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def test_a_store_without_an_archive_for_too_long_is_late(client: Any, place: Path) -> None:
    ended(client, client.post("/profiles/home/run"))
    ended(client, client.post("/stores/nas/check", data={"share": "100%"}))
    add(place, 'schedule = "daily"\n')
    card = client.get("/stores/nas/card").text
    assert ">Protected<" in card
    assert "Next run</dt><dd>none: the timer is not enabled</dd>" in card
    assert f"pogfast schedule enable home --config={place}/config/pogfast.toml" in card
    enable_timer(place)
    card = client.get("/stores/nas/card").text
    assert "schedule enable" not in card
    assert re.search(r'Next run</dt><dd><time datetime="[^"]+T00:00:00[^"]*" title="[^"]+">\w+ 00:00</time></dd>', card)
    age(place, days=3)
    for store in ("nas", "away"):
        card = client.get(f"/stores/{store}/card").text
        assert ">Late<" in card
        assert "home: no archive for 3 days; expected daily" in card
        assert re.search(r'late since <time datetime="[^"]+T00:00:00', card)
        assert "Protected" not in card
    add(place, 'spread = "7d"\n')
    assert ">Protected<" in client.get("/stores/nas/card").text


def test_a_run_that_failed_is_worse_than_one_that_is_late(client: Any, place: Path) -> None:
    ended(client, client.post("/profiles/home/run"))
    add(place, 'schedule = "daily"\n')
    (place / "home").rename(place / "elsewhere")
    ended(client, client.post("/profiles/home/run"))
    age(place, days=3)
    card = client.get("/stores/nas/card").text
    assert ">Last run failed<" in card
    assert ">Late<" not in card


def test_without_a_schedule_no_store_is_late(client: Any, place: Path) -> None:
    ended(client, client.post("/profiles/home/run"))
    ended(client, client.post("/stores/nas/check", data={"share": "100%"}))
    age(place, days=300)
    card = client.get("/stores/nas/card").text
    assert ">Protected<" in card
    assert "<dt>Next run</dt><dd>no schedule</dd>" in card


def test_a_profile_that_should_run_and_never_did_is_late(client: Any, place: Path) -> None:
    """Whatever else is in the store, and whether or not others inherit from it."""
    key = facade.open_key(encryption_keyfile=place / "mine.encrypt")
    facade.create(place / "home", place / "nas", key, no_cache=True)
    add(place, 'schedule = "daily"\n')
    assert "home: no archive yet; expected daily" in client.get("/stores/nas/card").text
    add(place, '[profiles.child]\ninherit = "home"\n')
    card = client.get("/stores/nas/card").text
    assert "child: no archive yet; expected daily" in card
    assert "home: no archive yet; expected daily" in card


def test_secrets_are_not_shown(client: Any, place: Path) -> None:
    add(place, 'ping = "https://ping.example/mine-alone"\nnotify = [{ file = "/etc/chat" }]\n')
    page = client.get("/profiles/home").text
    assert "(not shown)" in page
    assert "file = /etc/chat" in page
    assert "mine-alone" not in page
    assert "Secret" not in page


def test_an_archive_that_a_run_made_and_that_is_gone_is_said(client: Any, place: Path) -> None:
    ended(client, client.post("/profiles/home/run"))
    (place / "home" / "file").write_bytes(b"other")
    ended(client, client.post("/profiles/home/run"))
    newest = sorted((place / "nas").glob("*.mfn"))[-1]
    newest.unlink()
    time.sleep(5.1)  # a listing counts for five seconds
    card = client.get("/stores/nas/card").text
    assert "Archive gone" in card
    assert newest.name in card
    assert "Protected" not in card


def test_files_that_were_not_read_are_listed_with_the_run(client: Any, place: Path) -> None:
    path = place / "config" / "pogfast.toml"
    path.write_text(path.read_text().replace('/home"]', f'/home", "{place}/vanished"]'))
    text = ended(client, client.post("/profiles/home/run"))
    ended(client, client.post("/stores/nas/check", data={"share": "100%"}))
    assert "Done, with warnings" in text
    page = client.get("/profiles/home").text
    assert "▲ Incomplete" in page
    assert f"{place}/vanished" in page
    assert "Protected, with warnings" in client.get("/stores/nas/card").text


def test_a_wrong_configuration_is_shown_with_its_line(client: Any, place: Path) -> None:
    path = place / "config" / "pogfast.toml"
    path.write_text(path.read_text() + "levle = 3\n")
    text = client.get("/profiles").text
    assert re.search(r"pogfast.toml</bdi>, line \d+: .*levle", text)


def test_without_a_configuration_the_pages_say_so(tmp_path: Path) -> None:
    with served("--no-browser", cwd=tmp_path) as server, server.client() as client:
        assert "There is no profile yet" in client.get("/profiles").text
        assert client.get("/profiles/home").status_code == 404


def test_a_store_is_tested_and_added(client: Any, place: Path) -> None:
    (place / "other").mkdir()
    answer = client.post("/settings/test", data={"address": str(place / "other")})
    assert "✓ good" in answer.text
    assert "write" in answer.text
    assert [*(place / "other").iterdir()] == []
    answer = client.post("/settings/add", data={"address": str(place / "other")})
    assert answer.headers["HX-Redirect"] == "/stores/other"
    assert "other" in client.get("/settings").text
    assert client.post("/settings/add", data={"address": "/etc"}).status_code == 400
    assert client.post("/settings/add", data={"address": "sftp:host:/x"}).status_code == 400
    assert client.post("/settings/hide", data={"store": "other"}).status_code == 200
    assert client.get("/stores/other").status_code == 404
    assert (place / "other").is_dir()


def test_another_browser_is_signed_in_once(running: Served, client: Any) -> None:
    import httpx

    text = client.post("/settings/sign-in").text
    [address] = re.findall(r"(http://[^<]+)<", text)
    with httpx.Client() as other:
        assert other.get(address).status_code == 200
        assert other.get(running.url).status_code == 200
        assert httpx.get(address).status_code == 403


def test_a_form_is_saved_as_a_profile_that_the_command_runs(client: Any, place: Path) -> None:
    """Comments of the file stay, and a store that is not in it is added."""
    path = place / "config" / "pogfast.toml"
    path.write_text("# mine\n" + path.read_text())
    client.post("/settings/add", data={"address": str(place / "third")})
    wanted = {"path": str(place / "home"), "store": ["third", "nas"], "exclude": "*.tmp", "level": "5", "tags": "a, b"}
    assert client.post("/create/save", data=wanted).status_code == 400, "a profile needs a name"
    assert client.post("/create/save", data={**wanted, "profile": "new", "kind": "password"}).status_code == 400
    answer = client.post("/create/save", data={**wanted, "profile": "new"})
    assert answer.headers["HX-Redirect"] == "/profiles/new"
    text = path.read_text()
    assert text.startswith("# mine\n")
    assert "[stores.third]" in text
    environment = {**os.environ, **{f"POGFAST_{w.upper()}_DIR": str(place / w) for w in ("cache", "config", "state")}}
    ran = run([sys.executable, "-m", "pogfast", "run", "new"], place, env=environment)
    assert ran.code == 0, ran.err
    key = facade.open_key(decryption_keyfile=place / "mine.decrypt")
    assert [info.tags for info in facade.list_archives(place / "third", key)] == [["a", "b"]]
    assert client.post("/create/save", data={**wanted, "profile": "new"}).status_code == 400


def test_a_store_is_kept_in_the_configuration(client: Any, place: Path) -> None:
    answer = client.post("/settings/add", data={"address": str(place / "other"), "name": "kept"})
    assert answer.headers["HX-Redirect"] == "/stores/kept"
    assert f'[stores.kept]\naddress = "{place}/other"' in (place / "config" / "pogfast.toml").read_text()
    assert client.post("/settings/add", data={"address": str(place / "x"), "name": "kept"}).status_code == 400


def test_the_first_profile_makes_the_file(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    facade.keygen(tmp_path / "mine")
    options = ["store", "--no-browser", "--root", tmp_path]
    with served(*options, cwd=tmp_path) as server, server.client() as client:
        key = {"kind": "encryption-keyfile", "file": str(tmp_path / "mine.encrypt")}
        wanted = {"path": str(tmp_path / "home"), "store": "store", "profile": "first", **key}
        assert client.post("/create/save", data=wanted).status_code == 200
        assert "first" in client.get("/profiles").text
    assert (tmp_path / "config" / "pogfast.toml").stat().st_mode & 0o777 == 0o600


def test_the_settings_that_tune_kept_are_used(client: Any, place: Path) -> None:
    """Those that tune kept."""
    (place / "config" / "tuned.toml").write_text('chunker = "fastcdc"\nlevel = 7\n')
    assert 'value="tuned"' in client.get("/create").text
    wanted = {"path": str(place / "home"), "store": "nas", "use": "tuned", "level": "1"}
    text = ended(client, client.post("/create", data=wanted))
    assert ">Done in" in text
    assert "--profile=tuned" in text
    assert "--level" not in text
    key = facade.open_key(decryption_keyfile=place / "mine.decrypt")
    assert facade.info(place / "nas" / "latest", key).chunker.startswith("fastcdc")
    assert client.post("/create/save", data={**wanted, "profile": "new"}).status_code == 200
    assert 'chunker = "fastcdc"' in (place / "config" / "pogfast.toml").read_text()
    assert client.post("/create", data={**wanted, "use": "nothing"}).status_code == 400

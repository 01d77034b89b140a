"""What runs as a job, over HTTP: backups, restores, checks, copies and prunes; their progress, their end, Cancel."""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from kit.ui import Served, command, ended, served, typed
from kit.uistore import HOSTILE, Work, fill
from pogfast import facade
from pogfast.ui.words import part, token


@pytest.fixture
def place(tmp_path: Path) -> Work:
    """A store of a test's own, with three archives."""
    fill(tmp_path / "home")
    facade.keygen(tmp_path / "mine")
    key = facade.open_key(encryption_keyfile=tmp_path / "mine.encrypt")
    archives = []
    for number in range(3):
        (tmp_path / "home" / "notes" / "hello").write_text("hello\n" * (number + 1))
        made = facade.create("home", tmp_path / "backup", key, directory=tmp_path, host="laptop", no_cache=True)
        archives.append(made.manifest)
    return Work(tmp_path, archives)


@pytest.fixture
def running(place: Work) -> Iterator[Served]:
    options = ["--no-browser", "--root", place.path, "--decryption-keyfile", place.key]
    with served("backup", "second", *options, cwd=place.path) as server:
        yield server


@pytest.fixture
def client(running: Served) -> Iterator[Any]:
    with running.client() as client:
        yield client


def tree(path: Path) -> dict[bytes, bytes]:
    """The files below a path."""
    return {
        os.path.relpath(os.path.join(above, name), os.fsencode(path)): Path(
            os.fsdecode(os.path.join(above, name))
        ).read_bytes()
        for above, _, names in os.walk(os.fsencode(path))
        for name in names
        if not os.path.islink(os.path.join(above, name))
    }


# ---- restore ---------------------------------------------------------------------------------------------------------


def test_ticks_stay_and_are_restored(client: Any, place: Work) -> None:
    """Also hostile names. The command of the page restores the same into another directory."""
    base = f"/stores/backup/{part(place.archives[0])}"
    paths = ["home/notes", *(f"home/hostile/{os.fsdecode(name)}" for name in HOSTILE)]
    for path in paths:
        tray = client.post(f"{base}/tick", params={"path": token(path)}, data={"on": "1"}).text
    assert f"{len(paths)} items, {len(HOSTILE) + 2} files" in unescape(tray)
    assert "Restore" in client.get(base, params={"path": "home/photos"}).text
    form = client.get(f"{base}/restore").text
    names = [unescape(name) for name in re.findall(r'name="name" value="(.*?)"', form)]
    assert sorted(names) == sorted(map(token, paths))
    wanted = {"name": names, "into": token(str(place.path)), "new": "restored"}
    shown = client.post(f"{base}/restore/preview", data=wanted).text
    assert not (place.path / "restored").exists(), "a preview writes nothing"
    text = ended(client, client.post(f"{base}/restore", data=wanted))
    assert ">Done in" in text
    assert f"{len(HOSTILE) + 2} files" in text
    expected = {name: content for name, content in tree(place.path / "home").items() if not name.startswith(b"photos")}
    expected[b"notes/hello"] = b"hello\n"
    assert tree(place.path / "restored" / "home") == expected
    assert command(text) == command(shown)
    typed(command(text).replace("/restored", "/typed"), place.path)
    assert tree(place.path / "typed") == tree(place.path / "restored")


@pytest.mark.parametrize(
    ("overwrite", "after"), [("never", b"mine"), ("if-changed", b"hello\n"), ("always", b"hello\n")]
)
def test_a_preview_says_what_is_new_different_and_the_same(
    client: Any, place: Work, overwrite: str, after: bytes
) -> None:
    base = f"/stores/backup/{part(place.archives[0])}"
    there = place.path / "restored" / "home" / "notes"
    there.mkdir(parents=True)
    (there / "hello").write_bytes(b"mine")
    shutil.copy2(place.path / "home" / "notes" / "numbers", there)
    wanted = {"name": ["home/notes", "home/photos/cat.png"], "into": str(place.path), "new": "restored"}
    text = client.post(f"{base}/restore/preview", data={**wanted, "overwrite": overwrite}).text
    found = dict(re.findall(r"<dt>(.*?)</dt><dd>(\d+)", text))
    # New are photos/ and the picture.
    assert (found["Different"], found["The same"]) == ("1", "1")
    assert int(found["New"]) in (1, 2)
    assert (there / "hello").read_bytes() == b"mine"
    text = ended(client, client.post(f"{base}/restore", data={**wanted, "overwrite": overwrite}))
    assert (there / "hello").read_bytes() == after
    assert ("Left as they are" in text) == (overwrite == "never")
    assert ("Done, with warnings" in text) == (overwrite == "never")


@pytest.mark.parametrize("into", ["/tmp", "/", "relative", "{root}/../..", "{root}/out"])
def test_nothing_is_restored_outside_of_the_roots(client: Any, place: Work, into: str) -> None:
    (place.path / "out").symlink_to("/")
    base = f"/stores/backup/{part(place.archives[0])}"
    wanted = {"name": "home/notes", "into": token(into.format(root=place.path))}
    assert client.post(f"{base}/restore", data=wanted).status_code == 400
    assert client.post(f"{base}/restore/preview", data=wanted).status_code == 400
    wanted = {"name": "home/notes", "into": token(str(place.path)), "new": "../../escaped"}
    assert client.post(f"{base}/restore", data=wanted).status_code == 400
    assert client.get("/pick", params={"path": token(into.format(root=place.path))}).status_code == 400


def test_a_key_for_one_restore_is_forgotten(place: Work) -> None:
    base = f"/stores/backup/{part(place.archives[0])}"
    with served("backup", "--no-browser", "--root", place.path, cwd=place.path) as server, server.client() as client:
        give = {"kind": "decryption-keyfile", "file": str(place.key), "once": "1"}
        client.post("/stores/backup/key", data=give)
        assert client.get(base).status_code == 200
        wanted = {"name": "home/notes", "into": token(str(place.path)), "new": "restored"}
        ended(client, client.post(f"{base}/restore", data=wanted))
        assert client.get(base).status_code == 423


# ---- create ----------------------------------------------------------------------------------------------------------


def test_a_backup_is_previewed_and_made(client: Any, place: Work) -> None:
    (place.path / "home" / "junk.tmp").write_bytes(bytes(5000))
    wanted = {"path": token(str(place.path / "home")), "exclude": "*.tmp\nhostile", "store": "second", "tags": "a,b"}
    text = client.post("/create/preview", data=wanted).text
    assert re.search(rf"Left out</dt><dd>{len(HOSTILE) + 1} files", text)
    assert "junk.tmp" in text
    assert f"{place.path}/home/hostile/" in text
    assert not (place.path / "second").exists()
    text = ended(client, client.post("/create", data=wanted))
    assert ">Done in" in text
    assert "3 new, 0 unchanged" in text
    key = facade.open_key(decryption_keyfile=place.key)
    [made] = facade.list_archives(place.path / "second", key)
    assert (made.tags, made.files) == (["a", "b"], 3)
    typed(command(text), place.path)
    assert len(facade.list_archives(place.path / "second", key)) == 2


def test_a_backup_with_unreadable_files_looks_like_one(client: Any, place: Work) -> None:
    os.mkdir(place.path / "secret")
    (place.path / "secret" / "there").write_bytes(b"x")
    wanted = {"path": [token(str(place.path / "secret")), token(str(place.path / "vanished"))], "store": "second"}
    text = ended(client, client.post("/create", data=wanted))
    assert "Done, with warnings" in text
    assert "vanished" in text.partition("Errors")[2]
    assert "exit code 3" in text
    assert "▲" in client.get("/jobs").text


def test_paths_outside_of_the_roots_are_not_archived(client: Any, place: Work) -> None:
    assert client.post("/create", data={"path": "/etc", "store": "second"}).status_code == 400
    assert client.post("/create", data={"store": "second"}).status_code == 400
    assert client.post("/create", data={"path": str(place.path / "home")}).status_code == 400


def test_a_typed_password_makes_an_archive_and_is_not_shown(client: Any, place: Work) -> None:
    secret = "correct horse battery"
    wanted = {"path": str(place.path / "home"), "store": "second", "kind": "password", "password": secret}
    assert client.post("/create", data={**wanted, "again": "other"}).status_code == 400
    text = ended(client, client.post("/create", data={**wanted, "again": secret}))
    assert ">Done in" in text
    assert secret not in text
    [made] = facade.list_archives(place.path / "second", facade.open_key(password=secret))
    assert made.problem is None


# ---- check, retention, remove, copy ----------------------------------------------------------------------------------


def test_a_check_finds_damage_and_says_which_files(client: Any, place: Work) -> None:
    text = ended(client, client.post("/stores/backup/check", data={"share": "100%"}))
    assert "no damage found" in text
    key = facade.open_key(decryption_keyfile=place.key)
    with facade.open_archive(place.store / place.archives[0], key) as archive:
        [blob] = archive["home/notes/numbers"].blobs
    [path] = (place.store / "data").rglob(blob)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    text = ended(client, client.post("/stores/backup/check", data={"share": "100%"}))
    assert "1 file in 3 archives damaged" in text
    assert "home/notes/numbers" in text
    assert "exit code 4" in text


def test_damage_that_a_check_found_is_on_the_card_until_one_finds_none(place: Work) -> None:
    """Also of the next server."""
    options = ["backup", "--no-browser", "--root", place.path, "--decryption-keyfile", place.key]
    blob = max((place.path / "backup" / "data").rglob("*"), key=lambda path: path.stat().st_size)
    content = blob.read_bytes()
    with served(*options, cwd=place.path) as server, server.client() as client:
        ended(client, client.post("/stores/backup/check", data={"share": "100%"}))
        assert ">Protected<" in client.get("/stores/backup/card").text
        blob.unlink()
        text = ended(client, client.post("/stores/backup/check", data={"share": "100%"}))
        assert "Done, damage found in" in text
        assert ">Damaged<" in client.get("/stores/backup/card").text
        blob.write_bytes(content)
    with served(*options, cwd=place.path) as server, server.client() as client:
        for share in ("", "10%"):
            ended(client, client.post("/stores/backup/check", data={"share": share}))
            card = client.get("/stores/backup/card").text
            assert ">Damaged<" in card
            assert "found 1 file in 3 archives damaged" in card
        ended(client, client.post("/stores/backup/check", data={"share": "100%"}))
        assert ">Protected<" in client.get("/stores/backup/card").text


@pytest.mark.parametrize("exists", [True, False])
def test_a_store_without_archives_leads_to_the_first_backup(client: Any, place: Work, exists: bool) -> None:
    if exists:
        (place.path / "second").mkdir()
    answer = client.get("/stores/second")
    assert answer.status_code == 200
    assert "No archive yet" in answer.text
    assert 'href="/create?store=second"' in answer.text


def test_retention_shows_every_fate_before_anything_is_removed(client: Any, place: Work) -> None:
    text = client.get("/stores/backup/retention", params={"preview": "1", "last": "1"}).text
    assert "1 stay, 2 archives would be removed" in text
    assert re.findall(r"(✓ keep|✕ remove)", text) == ["✓ keep", "✕ remove", "✕ remove"]
    assert len(facade.list_archives(place.store, facade.open_key(decryption_keyfile=place.key))) == 3
    assert "Nothing has been removed" in text
    nothing = client.get("/stores/backup/retention", params={"preview": "1"}).text
    assert "no policy says which archives to keep" in nothing
    ended(client, client.post("/stores/backup/prune", data={"last": "1"}))
    assert "1 archive" in client.get("/stores/backup").text
    text = client.get("/stores/backup/retention").text
    assert place.archives[0] in text
    text = ended(client, client.post("/stores/backup/undelete", data={"archive": place.archives[0]}))
    assert "Brought back</dt><dd>1 archive" in text
    assert "2 archives" in client.get("/stores/backup").text
    again = ended(client, client.post("/stores/backup/undelete", data={"archive": place.archives[0]}))
    assert f"no removed archive {place.archives[0]}" in again
    typed(command(text).replace(place.archives[0], place.archives[1]), place.path)
    assert "3 archives" in client.get("/stores/backup").text


def test_ticked_archives_are_removed_after_a_look(client: Any, place: Work) -> None:
    text = client.get("/stores/backup/remove", params={"archive": place.archives[:2]}).text
    assert "Remove 2 archives" in text
    assert "3 archives" in client.get("/stores/backup").text
    assert client.post("/stores/backup/remove", data={"archive": place.archives[:2]}).status_code == 200
    assert "1 archive" in client.get("/stores/backup").text
    answer = client.post("/stores/backup/remove", data={"archive": place.archives[2]})
    assert answer.status_code == 400, "the last archive of a store stays"


def test_archives_are_copied_to_another_store(client: Any, place: Work) -> None:
    answer = client.post("/stores/backup/copy", data={"archive": place.archives[0], "target": "second"})
    assert ">Done in" in ended(client, answer)
    key = facade.open_key(decryption_keyfile=place.key)
    assert [info.name for info in facade.list_archives(place.path / "second", key)] == [place.archives[0]]


# ---- jobs themselves -------------------------------------------------------------------------------------------------


@pytest.fixture
def slow(client: Any, place: Work) -> str:
    """A backup that takes a while, and its page."""
    with (place.path / "home" / "large").open("wb") as file:
        for _ in range(60):
            file.write(os.urandom(10_000_000))
    wanted = {"path": str(place.path / "home"), "store": "second", "level": "19"}
    return str(client.post("/create", data=wanted).headers["HX-Redirect"])


def test_progress_comes_as_events_and_cancel_keeps_the_store_whole(client: Any, place: Work, slow: str) -> None:
    event = client.get(f"{slow}/events")
    assert event.headers["content-type"].startswith("text/event-stream")
    assert event.text.startswith("retry: ")
    assert "<progress" in event.text
    assert "Running" in client.get("/jobs").text
    assert client.post(f"{slow}/cancel").status_code == 200
    for _ in range(300):
        if "event: ended" in (event := client.get(f"{slow}/events")).text:
            break
        time.sleep(0.1)
    assert "Canceled" in event.text
    assert "Stored data is kept" in event.text
    key = facade.open_key(decryption_keyfile=place.key)
    if (place.path / "second").exists() and any((place.path / "second").glob("*.mfn")):
        facade.check(place.path / "second", key, read_data=True)
    wanted = {"path": str(place.path / "home"), "store": "second", "level": "1"}
    assert ">Done in" in ended(client, client.post("/create", data=wanted))
    assert facade.check(place.path / "second", key, read_data=True).exit_code == 0


def test_ten_tabs_see_a_job_and_ctrl_c_says_what_is_kept(running: Served, client: Any, slow: str) -> None:
    """Each asks again and again, and none keeps the server from ending."""
    states = [client.get(f"{slow}/events").text for _ in range(10)]
    assert all("Running" in state for state in states)
    code, out, err = running.end(signal.SIGINT)
    assert (code, err) == (0, "")
    assert "ending 1 job" in out
    assert "Back up to second: ended; Stored data is kept" in out


def test_a_job_that_is_not_there(client: Any) -> None:
    assert client.get("/jobs/99").status_code == 404
    assert client.post("/jobs/99/cancel").status_code == 404


# ---- tune and keys ---------------------------------------------------------------------------------------------------


def test_tune_measures_shows_a_table_and_a_plot_and_keeps_the_best(client: Any, place: Work) -> None:
    (place.path / "home" / "data").write_bytes(os.urandom(1_500_000))
    wanted = {"path": str(place.path / "home"), "sample": "2MB", "store": "second", "aim": "speed", "levels": "3"}
    wanted["chunkers"] = "1MB"
    answer = client.post("/tune", data=wanted)
    text = ended(client, answer)
    assert ">Done in" in text
    assert "(best)" in text
    assert "--sample=2MB --aim=speed --levels=3 --chunker=1MB" in command(text)
    plot = client.get(f"{answer.headers['HX-Redirect']}/plot.svg")
    assert (plot.headers["content-type"], plot.text[:5]) == ("image/svg+xml", "<?xml")
    assert "sandbox" in plot.headers["content-security-policy"]
    where = f"{answer.headers['HX-Redirect']}/save"
    assert client.post(where, data={"name": "../evil"}).status_code == 400
    assert "--profile measured" in client.post(where, data={"name": "measured"}).text
    assert "level = " in (place.path / "config" / "measured.toml").read_text()


def test_a_key_pair_is_made_and_described(client: Any, place: Work) -> None:
    wanted = {"name": "new", "into": token(str(place.path))}
    text = client.post("/keys/make", data=wanted).text
    found = facade.show_key(place.path / "new.decrypt")
    assert found.fingerprints["decryption-keyfile"] in text
    assert client.post("/keys/make", data=wanted).status_code == 500, "existing files are not changed"
    assert facade.show_key(place.path / "new.decrypt") == found
    assert client.post("/keys/make", data={"name": "x/y", "into": token(str(place.path))}).status_code == 400
    assert client.post("/keys/make", data={"name": "x", "into": "/etc"}).status_code == 400
    text = client.post("/keys/show", data={"file": str(place.path / "new.encrypt")}).text
    assert "the public key of a pair" in text
    assert client.post("/keys/show", data={"file": "/etc/hostname"}).status_code == 400
    assert found.fingerprints["decryption-keyfile"] in typed(command(text), place.path).decode()


def test_the_recovery_sheet_has_the_private_key_only_if_asked_for(client: Any, place: Work) -> None:
    """What is printed makes the file again, and the commands restore."""
    digits = place.key.read_bytes().hex().upper()
    text = client.post("/keys/sheet", data={"file": str(place.key)}).text
    assert digits[:8] not in text
    text = client.post("/keys/sheet", data={"file": str(place.key), "private": "1"}).text
    [shown] = re.findall(r'class="code">([0-9A-F ]{64,})<', text)
    assert shown.replace(" ", "") == digits
    [line] = re.findall(r"printf %s DIGITS \| (.*?) &gt;", text)
    made = typed(f"printf %s {shown.replace(' ', '')} | {line}", place.path)
    assert made == place.key.read_bytes()
    restore = next(line for line in re.findall(r'class="code">(pogfast restore .*?)<', text) if "/backup/" in line)
    typed(f"cd {place.path} && {restore.replace('FILE', str(place.key))}", place.path)
    assert (place.path / "restored/home/notes/hello").read_bytes() == b"hello\n" * 3


def test_no_page_or_log_has_a_secret(place: Work) -> None:
    """A password that was given is in no page, not in what the server prints, and in no file."""
    secret = "correct horse battery staple"
    facade.create("home", place.path / "locked", facade.open_key(password=secret), directory=place.path)
    options = ["locked", "--no-browser", "--root", place.path]
    with served(*options, cwd=place.path) as server, server.client() as client:
        assert client.post("/stores/locked/key", data={"kind": "password", "password": secret}).status_code == 200
        for page in ("/", "/stores/locked", "/keys", "/jobs", "/stores/locked/retention"):
            assert secret not in client.get(page).text
        assert client.post("/keys/forget").status_code == 200
        assert client.get("/stores/locked/retention").status_code == 423
        _, out, err = server.end()
    assert secret not in out + err
    for above, _, names in os.walk(place.path):
        for name in names:
            assert secret.encode() not in Path(above, name).read_bytes(), name


def test_jobs_are_known_to_the_next_server(place: Work) -> None:
    options = ["second", "--no-browser", "--root", place.path, "--decryption-keyfile", place.key]
    with served(*options, cwd=place.path) as first, first.client() as client:
        wanted = {"path": str(place.path / "home"), "store": "second", "kind": "password"}
        client.post("/create", data={**wanted, "password": "tiger7", "again": "tiger7"})
        before = ended(client, client.post("/create", data={"path": str(place.path / "nothing"), "store": "second"}))
        assert "Failed" in before
        assert first.end()[0] == 0
    file = place.path / "state" / "ui" / "jobs.jsonl"
    assert file.stat().st_mode & 0o777 == 0o600
    assert "tiger7" not in file.read_text()
    file.write_text(f'nonsense\n{{"title": 1}}\n[]\n{file.read_text()}')
    with served(*options, cwd=place.path) as second, second.client() as client:
        text = client.get("/jobs").text
        assert text.count("Back up to second") == 2
        after = client.get("/jobs/2").text
        for words in (before, after):
            assert "Failed" in words
            assert "nothing" in words
        assert ">Done in" in client.get("/jobs/1").text
        client.post("/stores/second/key", data={"kind": "password", "password": "tiger7"})
        ended(client, client.post("/stores/second/check", data={"share": "100%"}))
        assert client.get("/jobs").text.count("Check second") == 1
        assert "Check second" in client.get("/jobs/3").text


def test_a_store_that_fails_is_named_with_what_follows(place: Work) -> None:
    """Also while the others go on."""
    (place.path / "second").write_text("not a directory")
    options = ["--no-browser", "--root", place.path, "--decryption-keyfile", place.key]
    with served("backup", "second", "third", *options, cwd=place.path) as server, server.client() as client:
        wanted = {"path": str(place.path / "home"), "store": ["backup", "second", "third"]}
        text = ended(client, client.post("/create", data=wanted))
        assert ">Done, with warnings in" in text
        lines = re.findall(r'<li><a href="/stores/(\w+)">.*?</a> (.*?)</li>', text)
        assert {name: "given up" in words for name, words in lines} == {"backup": False, "second": True, "third": False}
        assert all("✓ written" in words for name, words in lines if name != "second")


def manifests(store: Path) -> list[str]:
    return sorted(path.name for path in store.glob("*.mfn"))


@pytest.mark.parametrize("action", ["prune", "remove", "copy", "copy all"])
def test_the_command_of_an_action_leaves_what_the_action_left(client: Any, place: Work, action: str) -> None:
    """The same stores once more, and the command in a shell."""
    stores = [place.path / name for name in ("backup", "second")]
    shutil.copytree(stores[0], place.path / "as it was")
    chosen = {} if action == "copy all" else {"archive": place.archives[:1]}
    if action == "prune":
        page = client.get("/stores/backup/retention", params={"preview": "1", "last": "1"}).text
        text = ended(client, client.post("/stores/backup/prune", data={"last": "1"}))
        assert command(text) != command(page), "the preview's removes nothing"
        typed(command(page), place.path)
    elif action == "remove":
        text = client.get("/stores/backup/remove", params=chosen).text
        assert client.post("/stores/backup/remove", data=chosen).status_code == 200
    else:
        text = ended(client, client.post("/stores/backup/copy", data={**chosen, "target": "second"}))
    left = [manifests(store) for store in stores]
    assert left != [sorted(place.archives), []]
    for store in stores:
        shutil.rmtree(store, ignore_errors=True)
    shutil.copytree(place.path / "as it was", stores[0])
    typed(command(text), place.path)
    assert [manifests(store) for store in stores] == left


@pytest.mark.parametrize("share", ["", "10%", "100%"])
def test_the_command_of_a_check_finds_what_the_check_found(client: Any, place: Work, share: str) -> None:
    text = ended(client, client.post("/stores/backup/check", data={"share": share}))
    assert "no damage found" in text
    typed(command(text), place.path)  # exit code 0


def test_every_option_of_a_backup_is_in_its_command(client: Any, place: Work) -> None:
    (place.path / "home" / "cache").mkdir()
    (place.path / "home" / "cache" / "CACHEDIR.TAG").write_bytes(b"Signature: 8a477f597d28d172789f06886806bc55")
    (place.path / "home" / "cache" / "content").write_bytes(b"content")
    (place.path / "home" / "large").write_bytes(os.urandom(300_000))
    wanted = {
        "path": str(place.path / "home"),
        "store": ["backup", "second"],
        "exclude": "*.png\n/nothing/**\n",
        "caches": "1",
        "one_file_system": "1",
        "larger": "200KB",
        "tags": "evening, it's",
        "host": "an 'other'",
        "comment": '$HOME "x"',
        "chunker": "fastcdc",
        "level": "5",
    }
    text = ended(client, client.post("/create", data=wanted))
    typed(command(text), place.path)
    key = facade.open_key(decryption_keyfile=place.key)
    for name in ("backup", "second"):
        page, shell = facade.list_archives(place.path / name, key)[-2:]
        for word in ("host", "tags", "comment", "paths", "files", "size"):
            assert getattr(page, word) == getattr(shell, word), word
        assert (page.host, page.comment, page.tags) == ("an 'other'", '$HOME "x"', ["evening", "it's"])
        with facade.open_archive(place.path / name / page.name, key) as archive:
            names = " ".join(archive)
        assert not [word for word in ("large", "content", ".png") if word in names]
        assert "hello" in names

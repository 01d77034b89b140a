"""What the pages show, over HTTP: lists, directories, files, versions, differences and downloads; hostile names too."""

from __future__ import annotations

import asyncio
import io
import os
import re
import subprocess
import tarfile
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import pytest

from kit.ui import command, served, typed
from kit.uistore import HOSTILE, Work
from pogfast import facade
from pogfast.sizes import show_size
from pogfast.ui.app import make_app
from pogfast.ui.pages import archives as archives_page
from pogfast.ui.roots import Roots
from pogfast.ui.sessions import GivenKey, Sessions
from pogfast.ui.site import Site
from pogfast.ui.stores import Shelf
from pogfast.ui.words import part, token

CUT = r"peer closed|incomplete|disconnected"  # what the client says of an answer that breaks off


class Page(HTMLParser):
    """A page as a browser reads it: its text, its links, and the elements and attributes that it has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = ""
        self.links: dict[str, str] = {}
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self._link = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes.update(name for name, _ in attrs)
        if tag == "a":
            self._link = dict(attrs).get("href") or ""

    def handle_endtag(self, tag: str) -> None:
        if tag == "a":
            self._link = ""

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._link:
            self.links[data.strip()] = self._link


def page(client: Any, where: str, **query: str) -> Page:
    answer = client.get(where, params=query)
    assert answer.status_code == 200, answer.text
    return Page(answer.text)


def base(work: Work, number: int = 0) -> str:
    return f"/stores/backup/{part(work.archives[number])}"


# ---- home and archives -----------------------------------------------------------------------------------------------


def test_home_says_in_words_how_a_store_is(client: Any) -> None:
    text = page(client, "/").text
    assert "Protected" in text
    assert re.search(r"just now from\s+desktop, 10 files, 589 kB|ago from\s+desktop, 10 files, 589 kB", text)


def test_a_store_that_is_gone_or_empty_is_never_protected(work: Work, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "gone").mkdir()
    options = ["--decryption-keyfile", work.key, "--no-browser", "--root", tmp_path]
    with served(tmp_path / "nowhere", tmp_path / "empty", *options, cwd=tmp_path) as server, server.client() as client:
        text = page(client, "/").text
        assert "Protected" not in text
        assert text.count("No archives") == 2


def test_the_worst_store_comes_first(work: Work, tmp_path: Path) -> None:
    options = ["--decryption-keyfile", work.key, "--no-browser", "--root", tmp_path]
    with served(work.store, tmp_path / "nowhere", *options, cwd=work.path) as server, server.client() as client:
        text = page(client, "/").text
        assert text.index("No archives") < text.index("Protected")


def test_the_table_of_archives(client: Any, work: Work) -> None:
    text = page(client, "/stores/backup").text
    assert "3 archives" in text
    for word in ("laptop", "desktop", "evening", "morning", str(work.path / "home")):
        assert word in text


@pytest.mark.parametrize(
    ("wanted", "hosts"),
    [
        ("host:lap", ["laptop", "laptop"]),
        ("tag:evening", ["desktop", "laptop"]),
        ("host:laptop tag:evening", ["laptop"]),
        ("after:2020", ["desktop", "laptop", "laptop"]),
        ("before:2020-05-03", []),
        ("desk", ["desktop"]),
        ("path:/nowhere", []),
    ],
)
def test_the_filter(client: Any, wanted: str, hosts: list[str]) -> None:
    text = client.get("/stores/backup", params={"filter": wanted}).text
    assert re.findall(r"<td class=\"host\"><bdi>(laptop|desktop)</bdi>", text) == hosts


def test_what_names_say_is_shown_until_all_archives_are_read(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives_page, "PATIENCE", 0.0)
    key = facade.open_key(decryption_keyfile=work.key)
    site = Site(Shelf(), Roots([str(work.path)]), Sessions(), reading=GivenKey(key))
    store = site.shelf.add(str(work.path / "backup"))
    transport = httpx.ASGITransport(make_app(site, ["127.0.0.1:1"], "pogfast-1", "http"))

    async def fetched() -> Page:
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:1") as client:
            await client.get("/enter", params={"token": site.sessions.new_token()})
            return Page((await client.get("/stores/backup")).text)

    def shown() -> Page:
        with ThreadPoolExecutor(1) as aside:  # tests in a browser may have left a loop running in this thread
            return aside.submit(asyncio.run, fetched()).result()

    with store._reading:  # as if another page read them
        first = shown()
        for _ in range(3):
            shown()
        assert sum(each.name == "pogfast-archives-backup" for each in threading.enumerate()) == 1, "one thread reads"
    assert "Reading 3 archives for the first time" in first.text
    assert work.archives[0][:10] in first.text
    assert "laptop" not in first.text
    assert len(store.archives(key)) == 3
    monkeypatch.undo()
    then = shown()
    assert "for the first time" not in then.text
    assert "laptop" in then.text


def test_a_filter_that_does_not_parse_is_said(client: Any) -> None:
    assert "not a date" in page(client, "/stores/backup", filter="after:yesterday").text


def test_sorting_by_every_column(client: Any) -> None:
    for sort in ("time", "host", "paths", "tags", "files", "size", "stored", "flags"):
        for order in ("up", "down"):
            assert client.get("/stores/backup", params={"sort": sort, "order": order}).status_code == 200
    up = client.get("/stores/backup", params={"sort": "size", "order": "up"}).text
    down = client.get("/stores/backup", params={"sort": "size", "order": "down"}).text
    order = [re.findall(r'href="/stores/backup/(2[^"/?]*)"', text) for text in (up, down)]
    assert len(order[0]) == 3
    assert order[0] == order[1][::-1]


def test_comparing_two_ticked_archives_puts_the_older_first(client: Any, work: Work) -> None:
    chosen = [token(work.archives[2]), token(work.archives[0])]
    answer = client.get("/stores/backup/compare", params={"archive": chosen})
    assert answer.headers["location"] == f"{base(work, 0)}/diff/{part(work.archives[2])}"
    assert client.get("/stores/backup/compare", params={"archive": chosen[:1]}).status_code == 400


def test_a_store_is_locked_without_a_key_and_opens_with_one(work: Work) -> None:
    with served("backup", "--no-browser", "--root", work.path, cwd=work.path) as server, server.client() as client:
        assert "Protected" not in page(client, "/").text
        assert "Locked" in page(client, "/").text
        assert "laptop" not in page(client, "/stores/backup").text
        assert client.get(base(work)).status_code == 423
        give = {"kind": "decryption-keyfile", "next": base(work)}
        assert client.post("/stores/backup/key", data={**give, "file": "/etc/passwd"}).status_code == 400
        assert client.post("/stores/backup/key", data={"kind": "password", "password": "no"}).status_code == 500
        answer = client.post("/stores/backup/key", data={**give, "file": str(work.key)})
        assert answer.headers["HX-Redirect"] == base(work)
        assert "laptop" in page(client, "/stores/backup").text
        client.post("/stores/backup/forget")
        assert client.get(base(work)).status_code == 423


def test_a_key_is_of_one_browser(work: Work) -> None:
    """Another session of the same server has to give the key itself."""
    with served("backup", "--no-browser", "--root", work.path, cwd=work.path) as server, server.client() as client:
        client.post("/stores/backup/key", data={"kind": "decryption-keyfile", "file": str(work.key)})
        assert client.get(base(work)).status_code == 200
    with served("backup", "--no-browser", "--root", work.path, cwd=work.path) as server, server.client() as client:
        assert client.get(base(work)).status_code == 423


# ---- one archive -----------------------------------------------------------------------------------------------------


def test_browsing_shows_directories_first(client: Any, work: Work) -> None:
    found = page(client, base(work), path="home")
    assert [name for name in found.links if name in ("hostile", "notes", "photos")] == ["hostile", "notes", "photos"]
    found = page(client, base(work), path="home/photos")
    assert "../notes/hello" in found.text
    assert "208 B" in found.text


def test_host_and_time_are_on_every_page_of_an_archive(client: Any, work: Work) -> None:
    for path in ("", "home", "home/notes"):
        assert "laptop" in page(client, base(work), path=path).text
    assert "laptop" in page(client, f"{base(work)}/file", path="home/notes/hello").text


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_harmless_and_lead_to_their_files(client: Any, work: Work, name: bytes) -> None:
    """Every page shows them as text, and what comes back from the page is exactly the name."""
    path = "home/hostile/" + os.fsdecode(name)
    listed = client.get(base(work), params={"path": "home/hostile"}).text
    for text in (
        listed,
        client.get(f"{base(work)}/file", params={"path": token(path)}).text,
        client.get(f"{base(work)}/search", params={"q": os.fsdecode(name)[:4]}).text,
        client.get("/stores/backup/find", params={"q": "*"}).text,
    ):
        found = Page(text)
        assert "img" not in found.tags
        assert "onerror" not in found.attributes
        assert not set(text) & {chr(code) for code in (*range(9), *range(11, 32), 127, 0x202E, *range(0xD800, 0xE000))}
    links = [link for link in Page(listed).links.values() if "/file?" in link]
    assert len(links) == len(HOSTILE)
    contents = {client.get(link.replace("/file?", "/download?")).content for link in links}
    assert contents == set(HOSTILE.values())


def test_searching_an_archive(client: Any, work: Work) -> None:
    assert "home/notes/hello" in page(client, f"{base(work)}/search", q="HELL").text
    assert "home/photos/cat.png" in page(client, f"{base(work)}/search", q="*.png").text
    assert "Nothing here" in page(client, f"{base(work)}/search", q="hello", path="home/photos").text
    assert client.get(f"{base(work)}/search", params={"q": "[a"}).status_code == 400


def test_finding_in_all_archives_lists_each_name_once(client: Any) -> None:
    text = client.get("/stores/backup/find", params={"q": "hell"}).text
    assert text.count(">home/notes/hello<") == 1
    assert re.search(r'data-label="archives">3<', text)


def test_the_versions_of_a_file(client: Any, work: Work) -> None:
    text = page(client, f"{base(work)}/file", path="home/notes/hello").text
    assert re.findall(r"6 B|12 B|18 B", text.partition("Versions")[2]) == ["18 B", "12 B", "6 B"]
    assert "larger" in text


def test_the_differences_of_two_archives(client: Any, work: Work) -> None:
    text = page(client, f"{base(work, 0)}/diff/{part(work.archives[2])}").text
    assert "± modified" in text
    assert "6 B" in text
    assert "18 B" in text


def test_previews_are_text_or_pictures_in_a_sandbox(client: Any, work: Work) -> None:
    hello = client.get(f"{base(work)}/preview", params={"path": "home/notes/hello"})
    assert (hello.text, hello.headers["content-type"]) == ("hello\n", "text/plain; charset=utf-8")
    cat = client.get(f"{base(work)}/preview", params={"path": "home/photos/cat.png"})
    assert cat.headers["content-type"] == "image/png"
    markup = client.get(
        f"{base(work)}/preview", params={"path": token("home/hostile/<img src=x onerror=alert(1)>.txt")}
    )
    for answer in (hello, cat, markup):
        assert answer.headers["content-security-policy"].startswith("sandbox; default-src 'none'")
    assert markup.headers["content-type"].startswith("text/plain")


# ---- downloads -------------------------------------------------------------------------------------------------------


def test_a_file_is_downloaded(client: Any, work: Work) -> None:
    answer = client.get(f"{base(work)}/download", params={"path": "home/notes/numbers"})
    assert answer.content == (work.path / "home" / "notes" / "numbers").read_bytes()
    assert answer.headers["content-disposition"].startswith('attachment; filename="numbers"')
    assert answer.headers["content-length"] == str(len(answer.content))


def test_a_directory_is_downloaded_as_tar(client: Any, work: Work) -> None:
    answer = client.get(f"{base(work)}/download", params={"path": "home", "as": "tar"})
    with tarfile.open(fileobj=io.BytesIO(answer.content)) as tar:
        members = {os.fsencode(member.name): member for member in tar}
        for name, content in HOSTILE.items():
            opened = tar.extractfile(members[b"home/hostile/" + name])
            assert opened is not None
            assert opened.read() == content
        link = members[b"home/photos/link"]
        assert (link.issym(), link.linkname) == (True, "../notes/hello")
        hello = members[b"home/notes/hello"]
        assert hello.mode == 0o644
    (work.path / "untar").mkdir()
    subprocess.run(["tar", "xf", "-", "-C", work.path / "untar"], input=answer.content, check=True)
    assert (work.path / "untar/home/notes/numbers").read_bytes() == (work.path / "home/notes/numbers").read_bytes()


def test_a_directory_is_downloaded_as_zip(client: Any, work: Work) -> None:
    answer = client.get(f"{base(work)}/download", params={"path": "home", "as": "zip"})
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.testzip() is None
        assert archive.read("home/notes/hello") == b"hello\n"
        assert archive.read("home/hostile/-rf") == b"dash"
        assert archive.read("home/hostile/.._.._up.exe") == b"backslashes"
        assert not [name for name in archive.namelist() if "\\" in name or ".." in name.split("/")]
        assert "home/photos/link: a link" in archive.read("NOT-INCLUDED.txt").decode()


def test_damage_breaks_a_download_off(work: Work, tmp_path: Path) -> None:
    """A half is never taken for a whole: an error before the first byte, or a connection that is cut."""
    home = tmp_path / "home"
    home.mkdir()
    for number in range(3):
        (home / f"file{number}").write_bytes(os.urandom(3_000_000))
    key = facade.open_key(encryption_keyfile=work.path / "mine.encrypt")
    made = facade.create("home", tmp_path / "store", key, directory=tmp_path, chunk_size=1_000_000, no_cache=True)
    with facade.open_archive(
        tmp_path / "store" / made.manifest, facade.open_key(decryption_keyfile=work.key)
    ) as archive:
        first, last = archive["home/file1"].blobs[0], archive["home/file1"].blobs[-1]
    options = ["store", "--decryption-keyfile", work.key, "--no-browser", "--root", tmp_path]
    with served(*options, cwd=tmp_path) as server, server.client() as client:
        [blob] = (tmp_path / "store" / "data").rglob(last)
        blob.unlink()
        where = f"/stores/store/{part(made.manifest)}/download"
        with pytest.raises(Exception, match=CUT):
            client.get(where, params={"path": "home/file1"})
        with pytest.raises(Exception, match=CUT):
            client.get(where, params={"path": "home", "as": "tar"})
        [blob] = (tmp_path / "store" / "data").rglob(first)
        blob.unlink()
        answer = client.get(where, params={"path": "home/file1"})
        assert answer.status_code == 500
        assert first in answer.text


# ---- commands --------------------------------------------------------------------------------------------------------


def test_the_commands_of_pages_print_what_the_pages_show(client: Any, work: Work) -> None:
    """Copied into a shell they do the same: they list the same names, and print the same file."""

    def printed(line: str) -> bytes:
        return typed(line, work.path)

    listed = printed(command(client.get("/stores/backup").text)).decode()
    assert all(name in listed for name in work.archives)
    names = printed(command(client.get(base(work), params={"path": "home/hostile"}).text))
    for name, content in HOSTILE.items():
        path = b"home/hostile/" + name
        assert path in names
        shown = client.get(f"{base(work)}/file", params={"path": token(os.fsdecode(path))}).text
        assert printed(command(shown)) == content
    assert b"home/notes/hello" in printed(command(client.get("/stores/backup/find", params={"q": "hell"}).text))
    searched = printed(command(client.get(f"{base(work)}/search", params={"q": "HELL", "path": "home/notes"}).text))
    assert searched == b"home/notes/hello\n"
    changes = printed(command(client.get(f"{base(work, 0)}/diff/{part(work.archives[1])}").text))
    assert b"home/notes/hello" in changes


def test_new_bytes_are_what_the_archive_before_does_not_have(client: Any, work: Work) -> None:
    """The second archive of a host shares all but one file with the first."""
    first, second, other = (client.get(f"{base(work, number)}/new").text for number in range(3))
    infos = facade.list_archives(work.store, facade.open_key(decryption_keyfile=work.key))
    assert show_size(infos[0].stored or 0) in first
    assert re.search(r">\d+ B<", second)
    assert show_size(infos[2].stored or 0) in other, "another host's"

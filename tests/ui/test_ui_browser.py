"""The pages in a real browser: with and without scripts, by keyboard, on narrow screens, in both color schemes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kit.environments import CACHE
from kit.ui import Served, ended, served
from kit.uistore import HOSTILE, Work, configure, fill
from pogfast.ui.app import ROUTES
from pogfast.ui.words import part, token

AXE = "4.14.1"
WIDTHS = {"wide": 1280, "narrow": 360}


@pytest.fixture
def page(browser: Any, server: Served, client: Any) -> Iterator[Any]:
    """A tab that is signed in. It fails for every error that the browser reports, such as a blocked script."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    context.add_cookies([cookie_of(client, server)])
    tab = context.new_page()
    said: list[str] = []
    tab.on("console", lambda message: said.append(message.text) if is_fault(message) else None)
    tab.on("pageerror", lambda error: said.append(str(error)))
    yield tab
    context.close()
    assert said == []


def is_fault(message: Any) -> bool:
    """Returns True for an error of a script or of the policy; answers with an error are looked at where they come."""
    return message.type == "error" and not message.text.startswith("Failed to load resource")


def cookie_of(client: Any, server: Served) -> dict[str, Any]:
    [value] = [value for name, value in client.cookies.items() if name == f"pogfast-{server.port}"]
    return {"name": f"pogfast-{server.port}", "value": value, "url": server.url, "sameSite": "Strict"}


@pytest.fixture(scope="session")
def axe() -> str:
    """The source of axe-core, from npm."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed, which gets axe-core")
    CACHE.mkdir(parents=True, exist_ok=True)
    package = CACHE / f"axe-core-{AXE}.tgz"
    if not package.exists():
        ran = subprocess.run(["npm", "pack", f"axe-core@{AXE}"], cwd=CACHE, capture_output=True, check=False)
        if ran.returncode:
            pytest.skip("npm cannot get axe-core")
    with tarfile.open(package) as tar:
        member = tar.extractfile("package/axe.min.js")
        assert member is not None
        return member.read().decode()


# Routes that answer with a part of a page, a file, or nothing to look at.
PARTS = {
    "/enter",
    "/jobs/count",
    "/jobs/{number:int}/events",
    "/jobs/{number:int}/plot.svg",
    "/pick",
    "/pick/add",
    "/stores/{store}/card",
    "/stores/{store}/compare",
    "/stores/{store}/{archive}/new",
    "/stores/{store}/{archive}/lock",
    "/stores/{store}/{archive}/preview",
    "/stores/{store}/{archive}/download",
}
# What else a page is asked for than its path: a query, or several.
QUERIES = {
    "/stores/{store}": ["", "?filter=nothing"],
    "/stores/{store}/find": ["?q=hello", "?q=nothing"],
    "/stores/{store}/retention": ["", "?preview=1&last=1"],
    "/stores/{store}/remove": ["?archive={archive}"],
    "/stores/{store}/{archive}": ["", "?path=home/hostile"],
    "/stores/{store}/{archive}/search": ["?q=e"],
    "/stores/{store}/{archive}/file": ["?path=home/notes/hello", "?path=home/photos/link"],
    "/stores/{store}/{archive}/restore": ["?path=home/notes"],
}


def pages(work: Work) -> list[str]:
    """The address of every page that the table of routes has, and of one that it has not."""
    values = {
        "store": "nas",
        "archive": part(work.archives[0]),
        "other": part(work.archives[2]),
        "name": "home",
        "number": "1",
    }
    found = ["/nothing"]
    for route in ROUTES:
        if "GET" in (route.methods or ()) and route.path not in PARTS:
            for query in QUERIES.get(route.path, [""]):
                found.append((route.path.replace(":int", "") + query).format(**values))
    return found


@pytest.fixture(scope="module")
def everything(work: Work, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server whose store has the archives of `work`, and that has a profile, and a job that left a file out."""
    path = tmp_path_factory.mktemp("everything")
    fill(path / "home")
    shutil.copytree(work.store, path / "nas")
    shutil.copy(work.key, path / "mine.decrypt")
    configure(path, "home", "home", "disk", "keep-last = 100")
    options = ["--no-browser", "--root", path, "--decryption-keyfile", path / "mine.decrypt"]
    with served(*options, cwd=path) as server:
        yield server


@pytest.fixture(scope="module")
def signed_in(everything: Served) -> Iterator[Any]:
    """A client of that server, after a run of the profile."""
    with everything.client() as client:
        ended(client, client.post("/profiles/home/run"))
        yield client


# ---- signing in ------------------------------------------------------------------------------------------------------


def test_the_printed_address_signs_a_browser_in(browser: Any, work: Work) -> None:
    with served("--no-browser", cwd=work.path) as server:
        context = browser.new_context()
        tab = context.new_page()
        tab.goto(f"{server.url}/enter?token={server.token}")
        tab.wait_for_url(f"{server.url}/")
        assert tab.locator("h1").inner_text() == "Home"
        assert tab.evaluate("document.cookie") == ""
        [cookie] = context.cookies()
        assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
        other = browser.new_context().new_page()
        assert other.goto(f"{server.url}/").status == 403
        assert other.goto(f"{server.url}/enter?token={server.token}").status == 403
        context.close()


def test_the_file_that_the_browser_is_opened_with_signs_in(browser: Any, work: Work, tmp_path: Path) -> None:
    """From file:// to the server: the cookie is Strict, and has to be sent with the next request all the same."""
    with served("--no-browser", cwd=work.path) as server:
        page = tmp_path / "pogfast.html"
        page.write_text(f'<meta http-equiv="refresh" content="0;url={server.url}/enter?token={server.token}">')
        context = browser.new_context()
        tab = context.new_page()
        tab.goto(page.as_uri())
        tab.wait_for_url(f"{server.url}/")
        assert tab.locator("h1").inner_text() == "Home"
        context.close()


# ---- every page ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_no_page_has_a_serious_fault_of_accessibility_or_overflows(
    browser: Any, everything: Served, signed_in: Any, work: Work, axe: str, scheme: str, width: str
) -> None:
    # axe is put into the page from outside, which the policy would forbid.
    size = {"width": WIDTHS[width], "height": 740}
    context = browser.new_context(viewport=size, color_scheme=scheme, bypass_csp=True)
    context.add_cookies([cookie_of(signed_in, everything)])
    tab = context.new_page()
    for path in pages(work):
        answer = tab.goto(everything.url + path)
        assert answer.status == (404 if path == "/nothing" else 200), path
        tab.wait_for_load_state("networkidle")
        over = tab.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert over == 0, path
        tab.evaluate(axe)
        found = tab.evaluate("axe.run(document, {resultTypes: ['violations']})")
        serious = [
            (each["id"], [node["html"] for node in each["nodes"]])
            for each in found["violations"]
            if each["impact"] in ("serious", "critical")
        ]
        assert serious == [], path
        assert {"main", "navigation", "banner"} <= set(tab.evaluate(LANDMARKS)), path
    context.close()


LANDMARKS = """[...document.querySelectorAll('main, nav, header')].map(
    (each) => ({MAIN: 'main', NAV: 'navigation', HEADER: 'banner'})[each.tagName])"""


def test_pages_that_read_work_without_scripts(browser: Any, server: Served, client: Any, work: Work) -> None:
    context = browser.new_context(java_script_enabled=False)
    context.add_cookies([cookie_of(client, server)])
    tab = context.new_page()
    tab.goto(server.url)
    tab.click("section.card a.button >> text=Browse")
    tab.fill("#filter", "host:desktop")
    tab.press("#filter", "Enter")
    tab.wait_for_url("**filter=host*")
    assert tab.locator("tbody tr").count() == 1
    tab.click("tbody tr a")
    tab.click("text=home/")
    tab.click("text=notes/")
    tab.click("text=hello")
    assert "18 B" in tab.inner_text("main")
    with tab.expect_download() as got:
        tab.click("a.primary >> text=Download")
    assert Path(got.value.path()).read_bytes() == b"hello\n" * 3
    context.close()


def test_hostile_names_run_nothing(page: Any, server: Served, work: Work) -> None:
    dialogs: list[str] = []
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    for archive in work.archives[:1]:
        base = f"{server.url}/stores/backup/{part(archive)}"
        page.goto(f"{base}?path=home/hostile")
        assert page.locator("tbody tr").count() == len(HOSTILE)
        for name in HOSTILE:
            page.goto(f"{base}/file?path={_quoted(token('home/hostile/' + os.fsdecode(name)))}")
            page.click("summary:text('Preview')")
            page.wait_for_load_state("networkidle")
            assert page.locator("h1").inner_text()
    assert dialogs == []
    assert page.locator("img").count() == 0


def _quoted(text: str) -> str:
    from urllib.parse import quote

    return quote(text)


def test_the_menu_of_a_narrow_screen(page: Any, server: Served) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    page.goto(server.url)
    assert not page.is_visible("nav >> text=Jobs")
    page.click("button:text('Menu')")
    page.click("nav >> text=Jobs")
    page.wait_for_url(f"{server.url}/jobs")


def test_the_keyboard_comes_to_the_content_and_out_of_the_menu(page: Any, server: Served) -> None:
    """The first stop leads past the menu, each stop is seen, and Escape closes what was opened."""
    page.goto(f"{server.url}/stores/backup")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "To the content"
    assert page.evaluate("document.activeElement.getBoundingClientRect().left") >= 0
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('main') !== null")
    for _ in range(25):
        page.keyboard.press("Tab")
        width = page.evaluate("getComputedStyle(document.activeElement).outlineWidth")
        assert page.evaluate("document.activeElement === document.body") or width == "2px"
    page.set_viewport_size({"width": 360, "height": 740})
    page.focus("button:text('Menu')")
    page.keyboard.press("Enter")
    assert page.is_visible("nav >> text=Jobs")
    page.keyboard.press("Escape")
    assert not page.is_visible("nav >> text=Jobs")
    assert page.evaluate("document.activeElement.textContent") == "Menu"


def test_the_color_scheme_is_remembered(page: Any, server: Served) -> None:
    page.goto(server.url)
    page.click("button:text('Dark')")
    page.wait_for_selector("html[data-theme=dark]")
    page.goto(f"{server.url}/jobs")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(22, 23, 25)"
    page.click("button:text('Light')")
    page.wait_for_selector("html[data-theme=light]")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(250, 250, 248)"


# ---- work ------------------------------------------------------------------------------------------------------------


def test_files_are_ticked_and_restored_by_keyboard_alone(page: Any, server: Served, work: Work) -> None:
    """From the home page to the end of a restore, with Tab, Space and Enter."""

    def go_to(selector: str) -> None:
        for _ in range(80):
            page.keyboard.press("Tab")
            if page.evaluate("(selector) => document.activeElement.matches(selector)", selector):
                return
        raise AssertionError(f"Tab does not lead to {selector}")

    page.goto(server.url)
    go_to("section.card a.button")
    page.keyboard.press("Enter")
    page.wait_for_url("**/stores/backup")
    go_to("td.main a")
    page.keyboard.press("Enter")
    page.wait_for_selector("h1 time")
    go_to("td.main a")
    page.keyboard.press("Enter")
    page.wait_for_selector("h1:has-text('home')")
    go_to("input[aria-label='Tick home/notes']")
    page.keyboard.press("Space")
    page.wait_for_selector(".tray")
    go_to(".tray a.primary")
    page.keyboard.press("Enter")
    page.wait_for_selector(".picker")
    go_to("#new")
    page.keyboard.press("Control+A")
    page.keyboard.type("by keyboard")
    go_to("button.primary")
    page.keyboard.press("Enter")
    page.wait_for_selector("#preview h2")
    go_to("#preview button")
    page.keyboard.press("Enter")
    page.wait_for_url("**/jobs/*")
    page.wait_for_selector("text=Done in")
    assert (work.path / "by keyboard/home/notes/hello").read_bytes() == b"hello\n" * 3


def test_the_next_rows_come_as_one_scrolls(browser: Any, tmp_path: Path, work: Work) -> None:
    from pogfast import facade

    (tmp_path / "many").mkdir()
    for number in range(1200):
        (tmp_path / "many" / f"{number:04}").touch()
    key = facade.open_key(encryption_keyfile=work.path / "mine.encrypt")
    made = facade.create("many", tmp_path / "store", key, directory=tmp_path, no_cache=True)
    options = ["store", "--no-browser", "--root", tmp_path, "--decryption-keyfile", work.key]
    with served(*options, cwd=tmp_path) as server:
        tab = browser.new_page()
        tab.goto(f"{server.url}/enter?token={server.token}")
        tab.wait_for_url(f"{server.url}/")
        tab.goto(f"{server.url}/stores/store/{part(made.manifest)}?path=many")
        assert tab.locator("tbody tr").count() == 501
        for count in (1001, 1200):
            tab.locator("tbody tr").last.scroll_into_view_if_needed()
            tab.wait_for_function("(count) => document.querySelectorAll('tbody tr').length === count", arg=count)
        assert tab.locator("tbody tr").last.inner_text().startswith("1199") or "1199" in tab.inner_text("tbody")
        tab.close()


def back_up_large(page: Any, server: Served, work: Work, size: int, level: int) -> None:
    """Starts a backup of a file that takes a while, by what one clicks, and comes to the page of its job."""
    (work.path / "large").mkdir(exist_ok=True)
    with (work.path / "large" / "file").open("wb") as file:
        for _ in range(0, size, 10_000_000):
            file.write(os.urandom(10_000_000))
    page.goto(f"{server.url}/create?store=backup")
    page.locator("li.entry", has_text="large/").get_by_role("button", name="Add large").click()
    page.wait_for_selector("#chosen input")
    page.click("summary:text('More')")
    page.fill("#level", str(level))
    page.click("button:text('Back up now')")
    page.wait_for_url("**/jobs/*")


def test_a_job_is_seen_in_ten_tabs_and_survives_a_closed_one(page: Any, server: Served, work: Work) -> None:
    back_up_large(page, server, work, 400_000_000, level=9)
    where = page.url
    tabs = [page.context.new_page() for _ in range(9)]
    for tab in tabs:
        tab.goto(where)
    tabs.pop().close()
    for tab in tabs:
        tab.wait_for_selector("text=Done in", timeout=120_000)
    assert "1 new, 0 unchanged" in tabs[0].inner_text("#state")
    for tab in tabs:
        tab.close()
    shutil.rmtree(work.path / "large")


def test_the_command_is_copied(page: Any, server: Served) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.goto(f"{server.url}/stores/backup")
    page.click("summary:text('Show the command')")
    page.click("[data-copy]")
    page.wait_for_selector("button:text('Copied')")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert re.match(r"pogfast list /\S+/backup --decryption-keyfile=/\S+/mine.decrypt$", copied)


def test_an_error_of_an_action_stays_on_the_page(page: Any, server: Served) -> None:
    page.goto(f"{server.url}/create")
    with page.expect_response("**/create"):
        page.click("button:text('Back up now')")
    page.wait_for_selector("#problem .problem")
    assert "nothing to back up is chosen" in page.inner_text("#problem")


def test_a_store_is_opened_with_a_key_file(browser: Any, work: Work) -> None:
    """The form shows the fields of the chosen kind of key, and leads back to the page that needed it."""
    with served("backup", "--no-browser", "--root", work.path, cwd=work.path) as server:
        context = browser.new_context()
        tab = context.new_page()
        tab.goto(f"{server.url}/enter?token={server.token}")
        tab.wait_for_url(f"{server.url}/")
        where = f"{server.url}/stores/backup/{part(work.archives[0])}"
        tab.goto(where)
        assert tab.locator("h1").inner_text() == "A key is needed"
        assert not tab.is_visible("#file")
        tab.check("[value=decryption-keyfile]")
        assert not tab.is_visible("#password")
        tab.fill("#file", str(work.key))
        tab.click("button:text('Open')")
        tab.wait_for_selector("text=home/")
        assert tab.url.startswith(f"{server.url}/stores/backup/2")
        context.close()


def test_progress_has_a_bar_with_the_time_left(page: Any, server: Served, work: Work) -> None:
    back_up_large(page, server, work, 600_000_000, level=15)
    page.wait_for_selector("progress[value]", timeout=60_000)
    assert re.search(r"\d+ % · \d of 1 files · .* of 600 MB · .*/s now", page.inner_text("#state"))
    assert page.inner_text("nav >> text=running") == "1 running"
    page.click("button:text('Cancel')")
    page.wait_for_selector("text=Canceled in", timeout=60_000)
    assert not page.is_visible("button:text('Cancel')")
    page.wait_for_function("() => !document.querySelector('nav').innerText.includes('running')")
    shutil.rmtree(work.path / "large")

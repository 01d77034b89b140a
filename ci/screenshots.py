#!/usr/bin/env python3
"""Takes the pictures of docs/ui.md, or of every page for a look at all of them.

    python ci/screenshots.py                  the pictures of the page, into docs/ui/
    python ci/screenshots.py --all DIRECTORY  every page, light and dark, 1280 and 360 pixels wide

Makes a store with some archives in a temporary directory, serves it, and drives chromium (pip install '.[browser,ui]').
"""

from __future__ import annotations

import os
import sys
import tempfile
from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(CHECKOUT), str(CHECKOUT / "tests")]

from kit.ui import chromium, served  # noqa: E402
from kit.uistore import configure  # noqa: E402
from pogfast import facade  # noqa: E402

HEIGHT = 760
FILES = {
    "Documents/report.odt": 48_000,
    "Documents/letters/aunt.txt": 2_300,
    "Documents/letters/landlord.txt": 1_900,
    "Pictures/2026/garden.jpg": 3_400_000,
    "Pictures/2026/lake.jpg": 2_900_000,
    "Pictures/2026/mountains.jpg": 4_100_000,
    "Music/song.flac": 9_800_000,
    "notes.txt": 740,
}


def furnish(work: Path) -> list[str]:
    """Makes files, keys, stores with archives and a configuration; returns the archives of the store nas."""
    home = work / "home" / "anna"
    for name, size in FILES.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_bytes(os.urandom(size // 3) * 3)
    facade.keygen(work / "mine")
    key = facade.open_key(decryption_keyfile=work / "mine.decrypt")
    configure(work, "laptop", "home/anna", "disk", "keep-daily = 7, keep-weekly = 5, keep-monthly = 12")
    archives = []
    for number, (host, tag) in enumerate([("laptop", "evening"), ("desktop", ""), ("laptop", "morning")]):
        (home / "notes.txt").write_text("milk, bread\n" * (60 + 10 * number))
        (home / f"Documents/draft {number}.odt").write_bytes(os.urandom(30_000))
        made = facade.create("home", work / "nas", key, directory=work, host=host, tags=tag or (), no_cache=True)
        archives.append(made.manifest)
    facade.check(work / "nas", key, read_data_subset="30%")
    facade.copy(work / "nas", work / "disk", archives[:1], key)
    return archives


def pages(archives: list[str]) -> dict[str, str]:
    """The pages by the names of their pictures."""
    first, last = (f"/stores/nas/{quote(name, safe='')}" for name in (archives[0], archives[2]))
    return {
        "home": "/",
        "archives": "/stores/nas",
        "browse": f"{last}?path=home/anna",
        "file": f"{last}/file?path=home/anna/notes.txt",
        "diff": f"{first}/diff/{quote(archives[2], safe='')}",
        "restore": f"{last}/restore?path=home/anna/Documents",
        "create": "/create",
        "retention": "/stores/nas/retention?preview=1&last=1",
        "check": "/stores/nas/check",
        "find": "/stores/nas/find?q=draft",
        "profiles": "/profiles",
        "profile": "/profiles/laptop",
        "jobs": "/jobs",
        "job": "/jobs/1",
        "tune": "/tune",
        "keys": "/keys",
        "settings": "/settings",
        "key": "/stores/disk/key",
        "error": "/nothing",
    }


def shots(*, everything: bool) -> Iterator[tuple[str, int, str]]:
    """Yields (page, width, color scheme) of the pictures."""
    if not everything:
        yield from [
            ("home", 1280, "light"),
            ("browse", 1280, "dark"),
            ("restore", 1280, "light"),
            ("archives", 360, "dark"),
        ]
        return
    for width in (1280, 360):
        for scheme in ("light", "dark"):
            for page in pages(["a", "b", "c"]):
                yield page, width, scheme


def take(server: Any, browser: Any, archives: list[str], into: Path, *, everything: bool) -> None:
    tab = browser.new_page()
    tab.goto(f"{server.url}/enter?token={server.token}")
    tab.wait_for_url(f"{server.url}/")
    tab.request.post(f"{server.url}/profiles/laptop/run", headers={"Origin": server.url, "HX-Request": "true"})
    tab.goto(f"{server.url}/jobs/1")
    tab.wait_for_selector("text=Done in")
    addresses = pages(archives)
    for page, width, scheme in shots(everything=everything):
        tab.set_viewport_size({"width": width, "height": HEIGHT})
        tab.emulate_media(color_scheme=scheme)
        tab.goto(server.url + addresses[page])
        tab.wait_for_load_state("networkidle")
        name = f"{page}-{width}-{scheme}.png" if everything else f"{page}.png"
        tab.screenshot(path=str(into / name))
        print(into / name)


def main() -> None:
    parser = ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--all", metavar="DIRECTORY", type=Path, help="take pictures of every page")
    chosen: Path | None = parser.parse_args().all
    into = chosen or CHECKOUT / "docs" / "ui"
    into.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="pogfast-pictures-") as directory:
        work = Path(directory)
        archives = furnish(work)
        options = ["--no-browser", "--root", work / "home" / "anna", "--decryption-keyfile", work / "mine.decrypt"]
        with served(*options, cwd=work) as server, chromium() as browser:
            take(server, browser, archives, into, everything=chosen is not None)


if __name__ == "__main__":
    main()

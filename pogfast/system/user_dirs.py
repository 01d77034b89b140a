"""Where pogfast keeps what belongs to a user: by a variable of ours, by the XDG specification, or as macOS has it.

It makes no more than directories, and does not know what is kept there.
"""

from __future__ import annotations

import os
import sys

TAG = "Signature: 8a477f597d28d172789f06886806bc55\n# pogfast's cache; to delete it costs some reading.\n"


def of_user(variable: str, xdg: str, mac: str, elsewhere: str) -> str:
    """$`variable`, else pogfast's place below $`xdg`, or below `mac` or `elsewhere` in the home; empty for a user
    without a home."""
    if chosen := os.environ.get(variable):
        return chosen
    base = os.environ.get(xdg, "")
    if not os.path.isabs(base):  # the XDG specification has relative ones ignored
        base = os.path.expanduser(mac if sys.platform == "darwin" else elsewhere)
    return os.path.join(base, "pogfast") if os.path.isabs(base) else ""


def cache_directory() -> str:
    """$POGFAST_CACHE_DIR, else pogfast's place among the user's caches; empty for a user without a home."""
    return of_user("POGFAST_CACHE_DIR", "XDG_CACHE_HOME", "~/Library/Caches", "~/.cache")


def make_cache_directory(path: str) -> None:
    """Makes a directory that only its user can look into, and that backups can leave out (CACHEDIR.TAG)."""
    try:
        os.makedirs(path, mode=0o700)
    except FileExistsError:
        return
    with open(os.path.join(path, "CACHEDIR.TAG"), "w", encoding="utf-8") as tag:
        tag.write(TAG)

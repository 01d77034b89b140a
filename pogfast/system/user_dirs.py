"""The user's directories of pogfast: from a variable of ours, the XDG specification, or the rules of macOS.

Makes directories, but does not know what is in them.
"""

from __future__ import annotations

import os
import sys

TAG = "Signature: 8a477f597d28d172789f06886806bc55\n# pogfast's cache; to delete it costs some reading.\n"


def of_user(variable: str, xdg: str, mac: str, elsewhere: str) -> str:
    """Returns $`variable`, else the directory pogfast below $`xdg`, or below `mac` or `elsewhere`, which start with ~;
    "" for a user without a home directory."""
    if chosen := os.environ.get(variable):
        return chosen
    base = os.environ.get(xdg, "")
    if not os.path.isabs(base):  # the XDG specification: relative paths are ignored
        base = os.path.expanduser(mac if sys.platform == "darwin" else elsewhere)
    return os.path.join(base, "pogfast") if os.path.isabs(base) else ""


def cache_directory() -> str:
    """Returns $POGFAST_CACHE_DIR, else pogfast's directory in the user's cache directory; "" for a user without a home
    directory."""
    return of_user("POGFAST_CACHE_DIR", "XDG_CACHE_HOME", "~/Library/Caches", "~/.cache")


def config_directory() -> str:
    """Returns $POGFAST_CONFIG_DIR, else pogfast's directory in the user's configuration directory; "" for a user
    without a home directory."""
    return of_user("POGFAST_CONFIG_DIR", "XDG_CONFIG_HOME", "~/Library/Application Support", "~/.config")


def state_directory() -> str:
    """Returns $POGFAST_STATE_DIR, else pogfast's directory in the user's state directory; "" for a user without a home
    directory."""
    return of_user("POGFAST_STATE_DIR", "XDG_STATE_HOME", "~/Library/Application Support", "~/.local/state")


def make_cache_directory(path: str) -> None:
    """Makes a directory that only the user can read, and that backup programs can exclude (CACHEDIR.TAG)."""
    try:
        os.makedirs(path, mode=0o700)
    except FileExistsError:
        return
    with open(os.path.join(path, "CACHEDIR.TAG"), "w", encoding="utf-8") as tag:
        tag.write(TAG)

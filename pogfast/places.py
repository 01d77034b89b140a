"""Where pogfast keeps what belongs to a user: by a variable of ours, by the XDG specification, or as macOS has it.

It makes nothing, and does not know what is kept there.
"""

from __future__ import annotations

import os
import sys


def of_user(variable: str, xdg: str, mac: str, elsewhere: str) -> str:
    """$`variable`, else pogfast's place below $`xdg`, or below `mac` or `elsewhere` in the home; empty for a user
    without a home."""
    if chosen := os.environ.get(variable):
        return chosen
    base = os.environ.get(xdg, "")
    if not os.path.isabs(base):  # the XDG specification has relative ones ignored
        base = os.path.expanduser(mac if sys.platform == "darwin" else elsewhere)
    return os.path.join(base, "pogfast") if os.path.isabs(base) else ""

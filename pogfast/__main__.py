"""Entry point of `pogfast` and `python -m pogfast`.

Imports cli/ within a function, so that Ctrl-C during imports prints no traceback.
"""

from __future__ import annotations

import sys


def main() -> int:
    """Runs the command `pogfast` and returns its exit code."""
    try:
        from pogfast.cli import main as command
    except KeyboardInterrupt:  # nothing has started
        return 130
    return command()


if __name__ == "__main__":
    sys.exit(main())

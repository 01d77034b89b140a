"""`pogfast`, also as `python -m pogfast`: begins before there is anything to import, so that Ctrl-C is quiet then, too.

Knows nothing; cli/ has it all.
"""

from __future__ import annotations

import sys


def main() -> int:
    """The command `pogfast`. Returns its exit code."""
    try:
        from pogfast.cli import main as command
    except KeyboardInterrupt:  # nothing has begun
        return 130
    return command()


if __name__ == "__main__":
    sys.exit(main())

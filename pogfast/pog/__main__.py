"""`python -m pogfast.pog` runs the command `pog`, where its script is not on the PATH.

It only calls `main`.
"""

from __future__ import annotations

import sys

from pogfast.pog import main

if __name__ == "__main__":
    sys.exit(main())

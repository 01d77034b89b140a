"""`python -m pogfast.pog`: the command `pog` where its script is not on the PATH.

Nothing is done here.
"""

from __future__ import annotations

import sys

from pogfast.pog import main

if __name__ == "__main__":
    sys.exit(main())

"""`python -m pogfast`: the command `pogfast`, where its script is not on the PATH.

Knows nothing; cli/ has it all.
"""

from __future__ import annotations

import sys

from pogfast.cli import main

sys.exit(main())

"""`python -m pogfast.pog`: the command `pog` where its script is not on the PATH.

Nothing is done here.
"""

import sys

from pogfast.pog import main

sys.exit(main())

"""Known answers for the compiled kernels: `python -m pogfast.selftest`.

The engine asks each kernel when it is imported, on short data (ext/blob/answers.pxi). This asks again, also on a chunk
that is sealed in several pieces, in a few milliseconds, touches no file, and says which kernel is wrong on which
machine.
"""

from __future__ import annotations

import sys

LONGEST = 768_000  # bytes: three pieces of what is hashed and encrypted at a time


def main() -> int:
    try:
        from pogfast._engine import ZSTD_VERSION, check_kernels
    except ImportError as error:
        print(f"pogfast selftest: {error}", file=sys.stderr)
        return 1
    wrong = check_kernels(LONGEST)
    for line in wrong:
        print(f"pogfast selftest: {line}", file=sys.stderr)
    if not wrong:
        print(f"pogfast selftest: all kernels give the known answers (zstd {ZSTD_VERSION})")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

"""Known-answer tests of the compiled kernels: `python -m pogfast.selftest`.

The engine tests each kernel on short data when it is imported (ext/blob/answers.pxi). This tests again, also with a
chunk that is sealed in several pieces. It takes a few milliseconds, accesses no file, and reports which kernel is wrong
on which machine.
"""

from __future__ import annotations

import sys

LONGEST = 768_000  # bytes: three of the pieces in which data is hashed and encrypted


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

"""Runs one target on files: python replay.py TARGET FILE..."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import targets


def main() -> None:
    try:
        for path in sys.argv[2:]:
            targets.TARGETS[sys.argv[1]](Path(path).read_bytes())
    finally:
        shutil.rmtree(targets.sandbox().parents[4], ignore_errors=True)


main()

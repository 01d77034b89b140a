"""Runs a helper thread for the duration of a with-block.

For optional work only: the thread's errors are not raised here.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def in_background(act: Callable[[threading.Event], None], name: str) -> Iterator[None]:
    """Runs `act` in a thread of this name while the block runs. `act` gets an event, which is set when the block ends;
    then the thread is joined."""
    ended = threading.Event()
    thread = threading.Thread(target=act, args=(ended,), name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()

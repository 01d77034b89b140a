"""Something small that goes on beside the work: a thread that lives exactly as long as a block of code.

It knows neither of the two. For what only helps, and whose failure nobody has to hear of here.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def in_background(act: Callable[[threading.Event], None], name: str) -> Iterator[None]:
    """Runs `act` in a thread of this name while the block runs. It is given an event, which is set when the block has
    ended; then it is waited for."""
    ended = threading.Event()
    thread = threading.Thread(target=act, args=(ended,), name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()

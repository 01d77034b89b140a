"""botocore's descriptions of its services, read once in a process instead of for each client, which takes 50 ms."""

from __future__ import annotations

from typing import Any

import botocore.session

_new_session = botocore.session.get_session
_LOADER = _new_session().get_component("data_loader")


def _get_session(*words: Any) -> Any:
    session = _new_session(*words)
    session.register_component("data_loader", _LOADER)
    return session


def keep() -> None:
    """From now on the clients of this process share what they read."""
    botocore.session.get_session = _get_session

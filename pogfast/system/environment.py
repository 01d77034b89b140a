"""Secrets in the environment: removed from it before anything else runs, and not passed to the programs that we start.

POGFAST_PASSWORD and POGFAST_PASSWORD_COMMAND (whose arguments may be as secret) are passed to no child process. Only
programs that may need the credentials of services get them: one that is a store, and one that prints a password. A
program whose output is archived gets none. Knows neither keys nor stores.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

SECRETS = ("POGFAST_PASSWORD", "POGFAST_PASSWORD_COMMAND")
CREDENTIALS = (
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN"),
    *("B2_APPLICATION_KEY_ID", "B2_APPLICATION_KEY"),
)

_taken: dict[str, str] = {}
_hidden: set[str] = set()


def take_secrets() -> None:
    """Removes the secrets from this process's environment. `known` still returns them, those of the last call."""
    _taken.clear()
    _taken.update((name, os.environ.pop(name)) for name in SECRETS if name in os.environ)


def known() -> Mapping[str, str]:
    """Returns the environment, including the removed secrets."""
    return {**os.environ, **_taken}


def hide(names: Iterable[str]) -> None:
    """Has no child process get these variables, as those that a configuration has secrets in."""
    _hidden.update(names)


def for_child(*, credentials: bool) -> dict[str, str]:
    """Returns the environment for a child process; with `credentials` it includes those of services."""
    hidden = SECRETS if credentials else (*SECRETS, *CREDENTIALS)
    return {name: value for name, value in os.environ.items() if name not in hidden and name not in _hidden}

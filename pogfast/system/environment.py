"""Secrets in the environment: taken out of it before anything else runs, and kept from the programs that we start.

POGFAST_PASSWORD and POGFAST_PASSWORD_COMMAND (whose arguments may be as secret) go to no child. Credentials of services
go to programs that may need them: one that stores what it is given, and one that fetches a password. A program whose
output is archived gets none. Knows neither keys nor stores.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

SECRETS = ("POGFAST_PASSWORD", "POGFAST_PASSWORD_COMMAND")
CREDENTIALS = (
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN"),
    *("B2_APPLICATION_KEY_ID", "B2_APPLICATION_KEY"),
)

_taken: dict[str, str] = {}


def take_secrets() -> None:
    """Takes the secrets out of this process's environment. `known` still has them, those of the last call."""
    _taken.clear()
    _taken.update((name, os.environ.pop(name)) for name in SECRETS if name in os.environ)


def known() -> Mapping[str, str]:
    """The environment with the secrets that were taken out of it."""
    return {**os.environ, **_taken}


def for_child(*, credentials: bool) -> dict[str, str]:
    """What a program that we start gets; with `credentials` those of services as well."""
    hidden = SECRETS if credentials else (*SECRETS, *CREDENTIALS)
    return {name: value for name, value in os.environ.items() if name not in hidden}

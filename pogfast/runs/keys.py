"""Opens the key that a profile refers to: a file, a credential of systemd, or a command that prints a password.

A key never passes through the configuration, nor through an environment.
"""

from __future__ import annotations

import os
import shlex

from pogfast import keys
from pogfast.config.schema import Key as Reference
from pogfast.errors import KeyFileError

TIMEOUT = 600.0  # seconds of a command that prints a password: it may ask for one, and nobody is there
CREDENTIALS = "CREDENTIALS_DIRECTORY"  # set by systemd for units with LoadCredential=


def open_key(reference: Reference, *, writing: bool, tell: keys.Tell) -> keys.Key:
    """Returns the key. `tell` is called with warnings about its file. Raises KeyFileError."""
    if reference.command is not None:
        return keys.from_password_command(shlex.join(reference.command), writing=writing, timeout=TIMEOUT)
    path = reference.file if reference.file is not None else credential_path(reference.credential or "")
    match reference.is_of:
        case "private":
            return keys.from_decryption_keyfile(path, writing=writing, tell=tell)
        case "keyfile":
            return keys.from_keyfile(path, writing=writing, tell=tell)
        case "password":
            return keys.from_password_file(path, writing=writing, tell=tell)
    return keys.from_encryption_keyfile(path, tell=tell)


def credential_path(name: str) -> str:
    directory = os.environ.get(CREDENTIALS)
    if not directory:
        raise KeyFileError(
            f"there is no credential {name}: {CREDENTIALS} is not set",
            hint="systemd sets it for units with LoadCredential=",
        )
    return os.path.join(directory, name)

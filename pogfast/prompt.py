"""Asking for a password: at the terminal, and without one on standard input, a line each time.

Shared by `pog` and `pogfast`. What becomes of the password is for keys.py to know; it is not shown, kept or put into a
message here.
"""

from __future__ import annotations

import os
import sys


def password(*, twice: bool, stdin_is_data: bool = False, variables: bool = False) -> str:
    """What the user types, `twice` for a key that writes: until both are the same. With `stdin_is_data` only a terminal
    will do. `variables`: the command takes keys from the environment, too, and says so.

    Raises UsageError when there is nobody to ask.
    """
    from pogfast.errors import UsageError

    hint = _instead(twice, stdin_is_data, variables)
    while True:
        given = _ask(stdin_is_data, hint)
        if twice and not given:
            raise UsageError("an empty password protects nothing")
        if not twice or _ask(stdin_is_data, hint) == given:
            return given
        print("The passwords differ, once more.", file=sys.stderr)


def _instead(writing: bool, stdin_is_data: bool, variables: bool) -> str:
    """What to do where nobody can type a password."""
    option, variable = (
        ("--encryption-keyfile", "POGFAST_ENCRYPTION_KEYFILE")
        if writing
        else ("--decryption-keyfile", "POGFAST_DECRYPTION_KEYFILE")
    )
    keys = f"{option} or --keyfile" + (f" (or set {variable} or POGFAST_KEYFILE)" if variables else "")
    if stdin_is_data:
        return f"give {keys}, or --password-file"
    return f"give {keys}, or the password on standard input" + (", twice" if writing else "")


def _ask(stdin_is_data: bool, hint: str) -> str:
    from pogfast.errors import UsageError

    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        if stdin_is_data:
            raise UsageError(
                "no password: there is no terminal, and standard input is what is archived",
                hint=hint,
            ) from None
        line = sys.stdin.buffer.readline().decode("utf-8", "surrogateescape") if sys.stdin is not None else ""
        if not line:
            raise UsageError(
                "no password: there is no terminal, and standard input has ended",
                hint=hint,
            ) from None
        return line.rstrip("\r\n")
    from getpass import getpass

    try:
        return getpass("Password: ")
    except EOFError:
        raise UsageError("no password was given") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"the password is not {error.encoding}, as the terminal should send it") from None

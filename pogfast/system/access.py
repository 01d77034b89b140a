"""Who else on this machine can reach a file: by the permissions of the directories above it.

For files whose content other users must not read or replace: keys, and configurations that name commands.
"""

from __future__ import annotations

import os


def who_can_enter(path: str) -> int:
    """Returns who can enter every directory above a file: the group (0o10), all others (0o1), or both. Raises
    OSError."""
    reach = 0o11
    above = os.path.dirname(os.path.realpath(path))
    while reach:
        mode = os.stat(above).st_mode
        # A member of the file's group may count as "others" for a directory.
        reach &= (0o10 if mode & 0o11 else 0) | (mode & 0o1)
        if above == "/":
            break
        above = os.path.dirname(above)
    return reach


def trusted_owners() -> tuple[int, ...]:
    """Returns the users whose files are as good as our own: this one, root, and the one who has become root by sudo."""
    return os.geteuid(), 0, _sudo_user()


def _sudo_user() -> int:
    """Returns the uid of the user who has become root by sudo, else root's."""
    given = os.environ.get("SUDO_UID", "")
    return int(given) if given.isdecimal() and os.geteuid() == 0 else 0

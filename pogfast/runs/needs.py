"""What a run needs: a network, mains power, mounted file systems, commands that succeed.

Only looks: nothing is mounted or connected. Power supplies are those that Linux shows in /sys, and pmset on macOS.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys

from pogfast.config.schema import Needs
from pogfast.runs.programs import CannotRun, ProgramFailed, run_program

PATIENCE = 10.0  # seconds in which a host must answer
COMMAND_PATIENCE = 60.0  # seconds for a command
SUPPLIES = "/sys/class/power_supply"


def unmet(needs: Needs) -> str:
    """Returns what is missing, in words; "" if nothing is. What takes longest is tried last. Raises CannotRun for a
    command that is none: waiting for it would be in vain."""
    for path in needs.mounted:
        if not os.path.ismount(path):
            return f"{path} is not mounted"
    if needs.mains_power and not on_mains():
        return "the machine runs on battery"
    for endpoint in needs.network:
        if said := _unreachable(endpoint):
            return f"cannot reach {endpoint}: {said}"
    for command in needs.commands:
        try:
            run_program(command, COMMAND_PATIENCE)
        except CannotRun:
            raise
        except ProgramFailed as error:
            return str(error)
    return ""


def _unreachable(endpoint: str) -> str:
    """Returns why no connection can be made, "" if one can."""
    host, _, port = endpoint.rpartition(":")
    try:
        socket.create_connection((host.removeprefix("[").removesuffix("]"), int(port)), PATIENCE).close()
    except TimeoutError:
        return f"no answer within {PATIENCE:g} s"
    except (OSError, UnicodeError) as error:
        return (error.strerror if isinstance(error, OSError) else None) or str(error)
    return ""


def on_mains(supplies: str = SUPPLIES) -> bool:
    """Returns False if the machine has an external power supply that is not connected, and none that is. Machines
    without any, such as servers, are on mains."""
    if sys.platform == "darwin":
        ran = subprocess.run(["pmset", "-g", "batt"], capture_output=True, text=True, check=False)
        return "Battery Power" not in ran.stdout
    try:
        names = os.listdir(supplies)
    except OSError:
        return True
    connected = [_read(os.path.join(supplies, name, "online")) for name in names if _is_external(supplies, name)]
    return not connected or any(online not in ("0", "") for online in connected)


def _is_external(supplies: str, name: str) -> bool:
    return _read(os.path.join(supplies, name, "type")) in ("Mains", "USB")


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""

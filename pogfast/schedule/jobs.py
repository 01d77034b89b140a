"""What is scheduled: the command that runs a profile, and what whoever runs it has to know of the profile.

A scheduled command has none of the variables that a shell has: those that say where things are go along with it.
Credentials do not.
"""

from __future__ import annotations

import os
import stat
import sys
from dataclasses import dataclass

from pogfast.config.loading import Config
from pogfast.config.schema import Hooks, Profile
from pogfast.errors import UsageError
from pogfast.stores.addresses import is_service
from pogfast.system.user_dirs import cache_directory, state_directory

MARK = "pogfast schedule"  # begins what is ours
# The variables that say where things are.
PLACES = (
    *("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME"),
    *("POGFAST_CACHE_DIR", "POGFAST_CONFIG_DIR", "POGFAST_STATE_DIR"),
)


@dataclass(frozen=True)
class Job:
    """A profile that is scheduled."""

    config: Config
    profile: Profile

    @property
    def name(self) -> str:
        return self.profile.name

    @property
    def mark(self) -> str:
        return mark_of(self.name, self.config.file)

    @property
    def command(self) -> list[str]:
        """The command that runs the profile. -P: a directory that is called pogfast is not what is run."""
        return [sys.executable, "-P", "-m", "pogfast", "run", self.name, "--config", self.config.file]

    @property
    def environment(self) -> dict[str, str]:
        """Where the run finds its cache, its records and its configuration: where they are for this process."""
        return {name: os.environ[name] for name in PLACES if os.path.isabs(os.environ.get(name, ""))}

    @property
    def runs_programs(self) -> bool:
        """Returns True if programs of the user's belong to a run: nobody knows what they need."""
        profile = self.profile
        hooks: list[Hooks] = [profile.hooks, *(getattr(profile.hooks, verb) for verb in profile.verbs)]
        has_hooks = any(each.before or each.after or each.after_failure or each.finally_ for each in hooks)
        has_commands = profile.streams or profile.needs.commands or (profile.key and profile.key.command)
        return bool(has_hooks or has_commands or any(map(_is_program, self._local())))

    def _local(self) -> list[str]:
        """The paths of the stores on this machine."""
        profile = self.profile
        names = dict.fromkeys([*profile.all_stores, *profile.pruned, *profile.checked])
        if profile.copy is not None and profile.copy.from_ is not None:
            names[profile.copy.from_] = None
        addresses = [address for address in self.config.addresses(names) if not is_service(address)]
        return [os.path.normpath(address.removeprefix("local:")) for address in addresses]

    @property
    def credentials(self) -> list[str]:
        """The names of the credentials that a run takes from systemd."""
        profile = self.profile
        given = [profile.key, profile.ping, *profile.notify]
        return [*dict.fromkeys(each.credential for each in given if each is not None and each.credential is not None)]

    @property
    def needs_network(self) -> bool:
        """Returns True if a run uses stores on services, or waits for other machines."""
        profile = self.profile
        names = {*profile.all_stores, *profile.pruned, *profile.checked}
        return bool(profile.needs.network or profile.ping or profile.notify) or any(
            map(is_service, self.config.addresses(names))
        )

    @property
    def own_directories(self) -> list[str]:
        """The directories of the cache and of the records."""
        found = [self.profile.cache_dir or cache_directory(), state_directory()]
        return [os.path.abspath(path) for path in found if path]

    @property
    def written(self) -> list[str]:
        """The directories that a run writes to. Of a store it is the one above: create makes what is missing."""
        told = filter(None, (self.profile.log, self.profile.metrics))
        return sorted({*self.own_directories, *(os.path.dirname(path) for path in [*self._local(), *told])})

    @property
    def paths(self) -> list[str]:
        """The absolute paths that a run reads or writes, as far as the configuration names them."""
        profile = self.profile
        base = profile.directory or "/"
        sources = [os.path.join(base, path) for path in profile.paths]
        keys = [profile.key.file] if profile.key and profile.key.file else []
        lists = [*profile.files_from, *profile.exclude_from]
        return [*sources, *lists, *keys, *self._local(), *self.written, *self.config.files]


def mark_of(name: str, config_file: str) -> str:
    """Returns the words by which what is written for a profile is recognized."""
    return f"{MARK}: profile {name} of {plain(config_file)}"


def plain(text: str) -> str:
    """Returns text that can be in a line of a unit or crontab. Raises UsageError for control characters, which neither
    can be told, and for what is not UTF-8."""
    if any(ord(letter) < 32 or 127 <= ord(letter) < 160 or 0xD800 <= ord(letter) < 0xE000 for letter in text):
        raise UsageError(f"{text!r} cannot be scheduled: it has control characters, or is not UTF-8", hint="rename it")
    return text


def _is_program(path: str) -> bool:
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return False

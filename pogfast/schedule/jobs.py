"""What is scheduled: the command that runs a profile, and what whoever runs it has to know of the profile.

A scheduled command has none of the variables that a shell has: those that say where things are go along with it.
Credentials do not.
"""

from __future__ import annotations

import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from pogfast.config.calendar import Calendar
from pogfast.config.loading import Config
from pogfast.config.schema import Hooks, Profile
from pogfast.errors import UsageError
from pogfast.stores.addresses import is_service
from pogfast.system.user_dirs import cache_directory, state_directory

PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # of pogfast
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
    def calendar(self) -> Calendar:
        """When the profile is run. Raises UsageError if it does not say."""
        if self.profile.schedule is None:
            raise UsageError(f"profile {self.name} has no schedule", hint='set one, as in schedule = "daily"')
        return self.profile.schedule.calendar

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
        return bool(self.programs or any(map(_is_program, self._local())))

    @property
    def programs(self) -> list[str]:
        """The programs that a run starts: of hooks, of sources, of what it needs, and of its key."""
        profile = self.profile
        hooks: list[Hooks] = [profile.hooks, *(getattr(profile.hooks, verb) for verb in profile.verbs)]
        commands = [command for each in hooks for command in each.commands]
        commands += [stream.command for stream in profile.streams] + profile.needs.commands
        if profile.key is not None and profile.key.command is not None:
            commands.append(profile.key.command)
        return [*dict.fromkeys(command[0] for command in commands)]

    @property
    def files(self) -> list[str]:
        """The files that a run reads, apart from its sources and its configuration."""
        profile = self.profile
        key = [profile.key.file] if profile.key and profile.key.file else []
        urls = [each.file for each in (profile.ping, *profile.notify) if each is not None and each.file is not None]
        return [*key, *profile.files_from, *profile.exclude_from, *urls]

    def lacking(self, path: str, is_set: Callable[[str], bool], hint: str) -> Iterator[UsageError]:
        """Yields what a scheduled run would not have: variables, programs and files. `path` is the PATH of whoever runs
        it, `is_set` says whether that sets a variable, and `hint` how to have it do so."""
        for name, where in self.config.variables.items():
            if name not in self.environment and not is_set(name):
                yield UsageError(
                    f"{where} uses the variable {name}, which no scheduled run of {self.name} has", hint=hint
                )
        for each in (self.profile.ping, *self.profile.notify):
            if each is not None and each.variable is not None and not is_set(each.variable):
                text = f"a URL is in the variable {each.variable}, which no scheduled run of {self.name} has"
                yield UsageError(text, hint="use { credential = NAME } or { file = PATH }")
        for program in self.programs:
            if "/" in program and not os.path.isabs(program):
                yield UsageError(f"{program} is a relative path of a program", hint="write the whole path")
            elif shutil.which(program, path=None if is_set("PATH") else path) is None:
                where = "" if "/" in program else f" in {path}"
                yield UsageError(
                    f"there is no program {program}{where}", hint="" if where == "" else "write the whole path"
                )
        for file in self.files:
            if not os.access(file, os.R_OK):
                is_there = os.path.lexists(file)
                yield UsageError(f"{file} {'cannot be read' if is_there else 'is missing'}: {self.name} needs it")
        for file in filter(None, (self.profile.log, self.profile.metrics)):
            if not os.path.isdir(os.path.dirname(file)):
                yield UsageError(
                    f"there is no directory {os.path.dirname(file)}: {self.name} writes to it", hint="make it"
                )

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
        base = self.profile.directory or "/"
        sources = [os.path.join(base, path) for path in self.profile.paths]
        own = [sys.executable, PACKAGE]
        return [*sources, *self.files, *self._local(), *self.written, *self.config.files, *own]


def jobs_of(config: Config, names: Iterable[str]) -> list[Job]:
    """Returns the jobs of profiles, and of those that groups stand for. Raises UsageError for what cannot be run, or
    has no schedule."""
    profiles = dict.fromkeys(profile for name in names for profile in config.members(name))
    jobs = [Job(config, config.runnable(name)) for name in profiles]
    for job in jobs:
        assert job.calendar
    return jobs


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

"""Loads a configuration: finds its file, reads the files that it includes, merges profiles, and checks all of it.

`load` raises an error with all problems; `examine` returns them. What a profile inherits is merged here. checks.py says
what contradicts. Files are only read: writing.py changes them.
"""

from __future__ import annotations

import contextlib
import glob
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from pogfast.backup import profiles
from pogfast.config.checks import contradictions, missing, unknown_names
from pogfast.config.files import parse
from pogfast.config.problems import ConfigError, Problem, did_you_mean
from pogfast.config.schema import CreateSettings, File, Group, Profile, Store, Table
from pogfast.config.values import Reader, Section, Value, Values, built, merged, settings_of
from pogfast.errors import UsageError
from pogfast.system import environment
from pogfast.system.user_dirs import config_directory

NAME = profiles.CONFIGURATION
SYSTEM = "/etc/pogfast"
MAX_INCLUDES = 16  # of files in each other
# A name becomes part of the names of files and of systemd's units.
NAMES = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
KINDS: dict[str, type[Table]] = {"stores": Store, "profiles": Profile, "groups": Group}


def find() -> str:
    """Returns the path of the configuration: pogfast.toml in the user's configuration directory, else in /etc/pogfast.
    Raises UsageError if there is none."""
    places = [os.path.join(place, NAME) for place in (config_directory(), SYSTEM) if place]
    for path in places:
        if os.path.lexists(path):
            return path
    raise UsageError(
        f"there is no configuration: neither {' nor '.join(places)}", hint="write one, or name it: --config FILE"
    )


class Setting(NamedTuple):
    """Something that is set: in a section (stores, profiles or groups) for a name, with its value."""

    section: str
    name: str
    setting: str
    value: Value


@dataclass
class Config:
    """A configuration. `file` is its main file, `files` are all that were read."""

    file: str
    files: list[str] = field(default_factory=list)
    stores: dict[str, Store] = field(default_factory=dict)
    profiles: dict[str, Profile] = field(default_factory=dict)
    groups: dict[str, Group] = field(default_factory=dict)
    values: dict[tuple[str, str], Values] = field(default_factory=dict)  # ("profiles", NAME) and so on; all inherited
    variables: dict[str, str] = field(default_factory=dict)  # of the environment -> where they are used, as FILE:LINE

    def profile(self, name: str) -> Profile:
        """Returns a profile, with what it inherits. Raises UsageError."""
        if name not in self.profiles:
            raise UsageError(f"{self.file} has no profile {name}", hint=did_you_mean(name, self.profiles))
        return self.profiles[name]

    def runnable(self, name: str) -> Profile:
        """Returns a profile that has all that a run needs, as one that is only inherited from need not. Raises
        UsageError."""
        profile = self.profile(name)
        for _, message, hint in missing(profile):
            raise UsageError(f"profile {name} cannot be run: {message}", hint=hint)
        return profile

    def members(self, name: str) -> list[str]:
        """Returns the names of the profiles that a group, or a profile, stands for. Raises UsageError."""
        if name in self.groups:
            return self.groups[name].profiles
        if name not in self.profiles:
            known = [*self.profiles, *self.groups]
            raise UsageError(f"{self.file} has no profile or group {name}", hint=did_you_mean(name, known))
        return [name]

    def addresses(self, names: Iterable[str]) -> list[str]:
        """Returns the addresses of stores."""
        return [self.stores[name].address for name in names]

    def settings(self, profile: str | None = None) -> list[Setting]:
        """Returns what is set, for everything or for one profile and its stores. Raises UsageError."""
        wanted = None
        if profile is not None:
            found = self.profile(profile)
            names = {*found.all_stores, *found.pruned, *found.checked}
            wanted = {("profiles", profile), *(("stores", name) for name in names)}
        return [
            Setting(section, name, ".".join(path), value)
            for (section, name), values in self.values.items()
            if wanted is None or (section, name) in wanted
            for path, value in sorted(values.items())
            if value.value != {} or not any(other[: len(path)] == path and other != path for other in values)
        ]


def load(path: str | None = None) -> Config:
    """Loads the configuration in `path`, else in the user's directory or the system's. Raises UsageError; it is a
    ConfigError, with all problems, for what is in the files."""
    config, problems = examine(path)
    if problems:
        raise ConfigError(problems)
    return config


def examine(path: str | None = None, *, text: str | None = None) -> tuple[Config, list[Problem]]:
    """Loads a configuration as far as it can be, and returns it with all problems. `text` is what the main file is to
    have instead of what it has. Raises UsageError if there is none."""
    loading = _Loading(os.path.abspath(find() if path is None else path))
    loading.read(loading.config.file, (), text)
    loading.resolve()
    return loading.config, sorted(loading.problems, key=lambda one: (loading.order(one.file), one.line))


class _Loading:
    """The sections of all files, and the problems that were found."""

    def __init__(self, path: str) -> None:
        self.config = Config(path)
        self.problems: list[Problem] = []
        self.sections: dict[str, dict[str, Section]] = {kind: {} for kind in KINDS}
        self.environ: Mapping[str, str] = environment.for_child(credentials=False)
        self.tuned: dict[str, Values] = {}
        self.whole: dict[str, Values | None] = {}

    def order(self, file: str) -> int:
        return self.config.files.index(file) if file in self.config.files else len(self.config.files)

    # ---- files ----

    def read(self, path: str, chain: tuple[str, ...], text: str | None = None) -> None:
        """Reads a file, and those that it includes. `chain` are the files that include it."""
        self.config.files.append(path)
        try:
            parsed = parse(path, text)
        except ConfigError as error:
            self.problems += error.problems
            return
        reader = Reader(parsed, self.environ, self.problems)
        known = settings_of(File)
        include: Values = {}
        for word, given in parsed.tables.items():
            if word == "include":
                reader.value((word,), given, known[word], (word,), include)
            elif word not in KINDS:
                reader.report((word,), f"unknown table or setting {word}", did_you_mean(word, known))
            elif not isinstance(given, dict):
                reader.report((word,), f"{word} must be a table")
            else:
                for name, table in given.items():
                    self._add(word, reader.section((word, name), table, KINDS[word]))
        for name, where in reader.variables.items():
            self.config.variables.setdefault(name, where)
        if include:
            value = include["include",]
            names = [value.value] if isinstance(value.value, str) else value.value
            for name in names:
                self._include(value, name, (*chain, os.path.realpath(path)))

    def _add(self, kind: str, section: Section) -> None:
        one = kind.removesuffix("s")
        if not NAMES.fullmatch(section.name):
            text = f"{section.name!r} is not a name for a {one}"
            self._report(section.file, section.line, text, "write letters, digits, . _ -")
        elif section.name in self.sections[kind]:
            there = self.sections[kind][section.name]
            self._report(section.file, section.line, f"the {one} {section.name} is also in {there.file}:{there.line}")
        else:
            self.sections[kind][section.name] = section

    def _include(self, value: Value, name: str, chain: tuple[str, ...]) -> None:
        pattern = os.path.join(os.path.dirname(value.file), os.path.expanduser(name))
        found = sorted(glob.glob(pattern)) if glob.has_magic(pattern) else [pattern]
        for path in map(os.path.normpath, found):
            if os.path.realpath(path) in chain:
                self._report(value.file, value.line, f"{path} includes itself")
            elif len(chain) > MAX_INCLUDES:
                self._report(value.file, value.line, f"more than {MAX_INCLUDES} files include each other")
            elif path not in self.config.files:
                self.read(path, chain)

    def _report(self, file: str, line: int, message: str, hint: str = "") -> None:
        self.problems.append(Problem(file, line, message, hint))

    # ---- profiles ----

    def resolve(self) -> None:
        """Merges profiles, and checks everything that several settings say together."""
        is_readable = not self.problems
        for name, section in self.sections["stores"].items():
            self.config.values["stores", name] = section.values
            if ("address",) in section.values:
                self.config.stores[name] = built(Store, section.values, name=name)
        for name in self.sections["profiles"]:
            values = self._inherited(name, ())
            self.config.values["profiles", name] = values
            with contextlib.suppress(TypeError):  # a required setting of a table is missing, which has been reported
                self.config.profiles[name] = built(Profile, values, name=name)
        secrets = [one for each in self.config.profiles.values() for one in (each.ping, *each.notify) if one]
        environment.hide(one.variable for one in secrets if one.variable)
        for name, section in self.sections["groups"].items():
            self.config.values["groups", name] = section.values
            if ("profiles",) in section.values:
                self.config.groups[name] = built(Group, section.values, name=name)
        self.problems += unknown_names(self.sections)
        if is_readable and not self.problems:
            self.problems += contradictions(self.config, self.sections["profiles"])

    def _inherited(self, name: str, chain: tuple[str, ...]) -> Values:
        """Returns the values of a profile with those that it inherits."""
        if name in self.whole:
            return self.whole[name] or {}
        self.whole[name] = None
        section = self.sections["profiles"][name]
        said = section.values.get(("inherit",))
        values: Values = {}
        for parent in [] if said is None else [said.value] if isinstance(said.value, str) else said.value:
            assert said is not None
            if parent in (*chain, name):
                self._report(
                    said.file, said.line, f"profiles inherit from each other: {' from '.join((*chain, name, parent))}"
                )
            elif len(chain) > MAX_INCLUDES:
                self._report(said.file, said.line, f"more than {MAX_INCLUDES} profiles inherit from each other")
            elif parent in self.sections["profiles"]:
                values = merged(values, self._inherited(parent, (*chain, name)))
            else:
                values = merged(values, self._tuned(parent, said))
        values = merged(values, section.values)
        self.whole[name] = values
        return values

    def _tuned(self, name: str, said: Value) -> Values:
        """Returns the values of a profile that `tune --save` wrote beside the file."""
        path = os.path.join(os.path.dirname(said.file), name + profiles.SUFFIX)
        if NAMES.fullmatch(name) and os.path.isfile(path):
            try:
                return tuned_values(path)
            except UsageError as error:
                self._report(said.file, said.line, str(error), error.hint)
                return {}
        self._report(said.file, said.line, f"there is no profile {name}", did_you_mean(name, self.sections["profiles"]))
        return {}


# ---- profiles of `tune --save` ---------------------------------------------------------------------------------------


def tuned_values(path: str) -> Values:
    """Returns the values of a profile that `tune --save` wrote. Raises UsageError."""
    found = profiles.load(path)
    problems: list[Problem] = []
    parsed = parse(path)
    reader = Reader(parsed, {}, problems)
    values: Values = {}
    known = settings_of(CreateSettings)
    if not str(found.get("chunker", "fixed")).startswith("fixed"):
        found.pop("chunk_size", None)  # tune writes it with every chunker
    for word, given in found.items():
        name = word.replace("_", "-")
        reader.value((word,), given, known[name], (name,), values)
    if problems:
        raise ConfigError(problems)
    return values


def create_settings(name: str, path: str | None = None) -> CreateSettings:
    """Returns the settings of `create --profile NAME`: of a profile that `tune --save` wrote, given by its name or its
    path, or of one in the configuration. Raises UsageError."""
    if "/" in name or name.endswith(profiles.SUFFIX):
        return built(CreateSettings, tuned_values(profiles.path_of(name)))
    tuned = profiles.path_of(name)
    is_tuned = os.path.lexists(tuned) and name + profiles.SUFFIX != NAME
    config = None
    try:
        config = load(path)
    except UsageError as error:  # there is none, or it is faulty, which must not stop what needs none
        if isinstance(error, ConfigError) and not is_tuned:
            raise
    if config is not None and name in config.profiles:
        if is_tuned:
            raise UsageError(f"there are two profiles {name}: in {config.file}, and {tuned}", hint="rename one")
        return config.profiles[name]
    if is_tuned or config is None:
        return built(CreateSettings, tuned_values(tuned))
    raise UsageError(
        f"there is no profile {name}, neither in {config.file} nor as {tuned}", hint=did_you_mean(name, config.profiles)
    )

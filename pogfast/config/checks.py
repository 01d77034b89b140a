"""Checks what several settings say together: names of stores and profiles, and what a profile needs to be run.

Each problem has the file and line of the setting that it is about, which may be inherited. Nothing is opened: neither
stores nor keys.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from pogfast.config.problems import Problem, did_you_mean
from pogfast.config.schema import Profile, Store
from pogfast.config.settings import check_options, create_options, prune_options
from pogfast.config.values import Section, Value, Values
from pogfast.errors import UsageError

Sections = Mapping[str, Mapping[str, Section]]  # "stores", "profiles" and "groups" -> their sections by name
# The settings of a profile that name stores.
NAMING_STORES = (("stores",), ("copy", "to"), ("copy", "from"), ("retention", "stores"), ("check", "stores"))
OF_ONE_SERIES = "set group-by = [] to take all archives of a store for one series"
SCRUB = "check the packs of a store in a profile without a key, or archives where the private key is"
OWN_STORE = "give each a store of its own: another prefix or directory"


class Loaded(Protocol):
    """A configuration, as far as it is looked at here."""

    stores: dict[str, Store]
    profiles: dict[str, Profile]
    values: dict[tuple[str, str], Values]


def unknown_names(sections: Sections) -> Iterator[Problem]:
    """Yields stores and profiles that are named, and are not there."""
    for section in sections["profiles"].values():
        for path in NAMING_STORES:
            yield from _unknown(section.values.get(path), "store", sections["stores"])
    for name, section in sections["groups"].items():
        yield from _unknown(section.values.get(("profiles",)), "profile", sections["profiles"])
        if name in sections["profiles"]:
            yield Problem(section.file, section.line, f"{name} is the name of a profile, too")


def _unknown(value: Value | None, kind: str, known: Mapping[str, Section]) -> Iterator[Problem]:
    names = [] if value is None else [value.value] if isinstance(value.value, str) else value.value
    for name in names:
        if value is not None and name not in known:
            yield Problem(value.file, value.line, f"there is no {kind} {name}", did_you_mean(name, known))


def contradictions(config: Loaded, sections: Mapping[str, Section]) -> Iterator[Problem]:
    """Yields what is wrong with profiles that can be read. `sections` are those of the profiles."""
    bases = {parent for profile in config.profiles.values() for parent in profile.parents}
    for name, profile in config.profiles.items():
        section, values = sections[name], config.values["profiles", name]
        found = [*_wrong(profile), *_series(profile, config)]
        if name not in bases:
            found += missing(profile)
        for path, message, hint in found:
            value = values.get(path) or values.get(path[:1])
            file, line = (value.file, value.line) if value else (section.file, section.line)
            yield Problem(file, line, f"profile {name}: {message}", hint)


Wrong = Iterator[tuple[tuple[str, ...], str, str]]  # the setting, a message and a hint


def _wrong(profile: Profile) -> Wrong:
    """Yields settings that contradict each other."""
    if profile.key is not None and (text := profile.key.problem()):
        yield ("key",), text, ""
    for path in profile.paths if profile.directory is None else ():
        if not os.path.isabs(path):
            yield ("sources",), f"{path} is a relative path", "write the whole path, or set directory"
    checks: dict[str, Callable[[Profile], object]] = {
        "sources": create_options,
        "retention": prune_options,
        "check": check_options,
    }
    for setting, check in checks.items():
        try:
            if setting == "sources" or getattr(profile, setting) is not None:
                check(profile)
        except UsageError as error:
            yield (setting,), str(error), error.hint
    if profile.copy is not None:
        source = profile.copy.from_ or next(iter(profile.stores), None)
        if source in profile.copy.to:
            yield ("copy", "to"), f"store {source} is copied to itself", ""
    if profile.check is not None and profile.key is not None and profile.key.is_of == "public":
        for word in ("read_data", "read_data_subset", "max_age", "restore_test"):
            if getattr(profile.check, word):
                yield ("check", word.replace("_", "-")), "a public key cannot read data", SCRUB
    said = profile.retention
    if said is not None and profile.key is not None and profile.key.is_of == "public":
        if said.keep_tags or said.tags or said.host or said.path:
            yield ("retention",), "a public key cannot tell hosts, tags and paths of archives", OF_ONE_SERIES
        elif said.group_by and not said.keep_all:
            words = " and ".join(said.group_by)
            yield ("retention",), f"a public key cannot tell {words} of archives", OF_ONE_SERIES


def _series(profile: Profile, config: Loaded) -> Wrong:
    """Yields stores in which the archives of others would count for the retention of a profile's. Without groups all
    are one series: a daily archive of a database would make that of the files of the same day unneeded."""
    said = profile.retention
    if said is None or said.group_by or said.keep_all or said.tags or said.host or said.path:
        return
    for store in profile.pruned:
        makers = [
            name
            for name, other in config.profiles.items()
            for _ in range(_archives_a_run(other))
            if config.stores[store].address in [config.stores[name].address for name in other.all_stores]
        ]
        if len(makers) > 1:
            names = [*dict.fromkeys(makers)]
            makes = f"profiles {' and '.join(names)} make" if len(names) > 1 else "the profile makes"
            message = f"{makes} several archives in store {store}, and retention has no groups to tell them apart"
            yield ("retention", "group-by"), message, OWN_STORE


def _archives_a_run(profile: Profile) -> int:
    return bool(profile.paths or profile.files_from) + len(profile.streams)


def missing(profile: Profile) -> Wrong:
    """Yields what a profile lacks to be run. Those that others inherit from need not be complete."""
    if not profile.verbs:
        yield (), "there is nothing to do", "set sources, or a table copy, retention or check"
    if profile.creates and not profile.stores:
        yield (), "there is no store for its archives", "set stores"
    if profile.key is None and (profile.creates or profile.retention is not None):
        yield (), "there is no key", 'set key, as in key = { file = "laptop.encrypt" }'
    if profile.copy is not None and profile.copy.from_ is None and not profile.stores:
        yield ("copy",), "there is no store to copy from", "set stores, or copy.from"
    for table, names in (("retention", profile.pruned), ("check", profile.checked)):
        if getattr(profile, table) is not None and not names:
            yield (table,), f"{table} has no stores", "set stores"

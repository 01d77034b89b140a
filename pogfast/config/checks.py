"""Checks what several settings say together: names of stores and profiles, and what a profile needs to be run.

Each problem has the file and line of the setting that it is about, which may be inherited. Nothing is opened: neither
stores nor keys.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

from pogfast.archives.trailer import Filter
from pogfast.config.problems import Problem, did_you_mean
from pogfast.config.schema import Profile, Store
from pogfast.config.settings import check_options, create_options, prune_options
from pogfast.config.values import Section, Value, Values
from pogfast.errors import UsageError
from pogfast.stores import local_path
from pogfast.stores.addresses import is_service, parse_service

Sections = Mapping[str, Mapping[str, Section]]  # "stores", "profiles" and "groups" -> their sections by name
# The settings of a profile that name stores.
NAMING_STORES = (("stores",), ("copy", "to"), ("copy", "from"), ("retention", "stores"), ("check", "stores"))
OF_ONE_SERIES = "set group-by = [] to take all archives of a store for one series"
SCRUB = "check the packs of a store in a profile without a key, or archives where the private key is"
OWN_STORE = "give each a store of its own: another prefix or directory"
SAME_RULES = f"{OWN_STORE}; or give them the same retention, or tags that retention.tags names"
OWN_PING = "give each profile a ping of its own"


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
    bases = bases_of(config)
    makers = _makers(config)
    pings: dict[object, str] = {}
    for name, profile in config.profiles.items():
        section, values = sections[name], config.values["profiles", name]
        found = [*_wrong(profile), *_series(profile, config, makers)]
        if name not in bases:
            found += missing(profile)
        if is_run(profile, bases):
            found += _shared_ping(profile, pings)
        for path, message, hint in found:
            value = values.get(path) or values.get(path[:1])
            file, line = (value.file, value.line) if value else (section.file, section.line)
            yield Problem(file, line, f"profile {name}: {message}", hint)


def bases_of(config: Loaded) -> set[str]:
    """Returns the names of the profiles that others inherit from."""
    return {parent for profile in config.profiles.values() for parent in profile.parents}


def is_run(profile: Profile, bases: Collection[str]) -> bool:
    """Returns True unless others only inherit from a profile. One that makes archives and lacks nothing is run, too."""
    return profile.name not in bases or (profile.creates and not any(missing(profile)))


Makers = Mapping[object, Sequence[str]]  # the place of a store -> profiles whose archives are there
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


def _shared_ping(profile: Profile, pings: dict[object, str]) -> Wrong:
    """Yields that a profile has the ping of another: who is told hears of the success of one after the failure of the
    other. `pings` are those of the profiles before it."""
    if profile.ping is None:
        return
    given = profile.ping.given
    place = given.rstrip("/") if isinstance(given, str) else repr(given)
    if (other := pings.setdefault(place, profile.name)) != profile.name:
        yield (
            ("ping",),
            f"the ping is that of {other}, too: a success of one would hide a failure of the other",
            OWN_PING,
        )


class _Archive(NamedTuple):
    """An archive that a run makes, as far as retention looks at it."""

    profile: Profile
    host: str
    tags: list[str]
    paths: list[str]
    command: tuple[str, ...] = ()  # whose output it is


def _archives(profile: Profile) -> Iterator[_Archive]:
    """Yields the archives that a run of a profile makes."""
    words = (profile, _host(profile), profile.tags)
    if profile.paths or profile.files_from:
        yield _Archive(
            *words, [os.path.abspath(os.path.join(profile.directory or "/", path)) for path in profile.paths]
        )
    for stream in profile.streams:
        yield _Archive(*words, [os.path.join("/", stream.name)], tuple(stream.command))


def _series(profile: Profile, config: Loaded, makers: Makers) -> Wrong:
    """Yields stores in which the retention of a profile would apply to archives that it is not for: those of profiles
    with other rules, or without any, and those that its groups do not tell apart. Without groups all are one series: a
    daily archive of a database would make that of the files of the same day unneeded."""
    said = profile.retention
    if said is None or said.keep_all:
        return
    wanted = Filter.of(said.host, said.tags, said.path)
    for store in profile.pruned:
        made_by = [config.profiles[name] for name in makers.get(_place(config.stores[store].address), ())]
        found = [archive for maker in made_by for archive in _archives(maker) if wanted.fits(archive)]
        series: dict[object, list[_Archive]] = {}
        for archive in found:
            host, tags = "host" in said.group_by and archive.host, "tags" in said.group_by and frozenset(archive.tags)
            series.setdefault((host, tags, "paths" in said.group_by and tuple(archive.paths)), []).append(archive)
        if mixed := next((members for members in series.values() if _are_mixed(members, said.group_by)), None):
            names = [*dict.fromkeys(archive.profile.name for archive in mixed)]
            makes = f"profiles {' and '.join(names)} make" if len(names) > 1 else "the profile makes"
            message = f"{makes} several archives in store {store}, and retention has no groups to tell them apart"
            yield ("retention", "group-by"), message, OWN_STORE
        elif strangers := _of_other_rules(profile, made_by, series.values(), config, store):
            others = " and ".join(strangers)
            message = f"retention applies to archives of {others} in store {store}, too, which have other rules"
            yield ("retention",), message, SAME_RULES


def _are_mixed(members: Sequence[_Archive], group_by: Sequence[str]) -> bool:
    """Returns True if the archives of a group are not all of the same files, or of the same command."""
    return len(members) > 1 and ("paths" not in group_by or len({archive.command for archive in members}) > 1)


def _of_other_rules(
    profile: Profile, makers: Sequence[Profile], series: Iterable[Sequence[_Archive]], config: Loaded, store: str
) -> list[str]:
    """Returns the names of the profiles whose archives are in a store, and that have other rules for them. No rules are
    other ones, too, unless the profile makes archives of the same series, or none at all: then it is there to prune
    those of others."""
    place, mine = _place(config.stores[store].address), _rules(profile)
    strangers: list[str] = []
    for members in series:
        is_its_own = profile not in makers or any(archive.profile is profile for archive in members)
        for other in [archive.profile for archive in members if archive.profile is not profile]:
            is_pruned = place in [_place(config.stores[name].address) for name in other.pruned]
            if (_rules(other) != mine) if is_pruned else not is_its_own:
                strangers.append(other.name)
    return [*dict.fromkeys(strangers)]


def _rules(profile: Profile) -> object:
    said = profile.retention
    return said and (said.policy(), frozenset(said.group_by))


def _host(profile: Profile) -> str:
    return profile.host or socket.gethostname()


def _place(address: str) -> object:
    """Returns what is the same for two addresses of one store, however they are written."""
    if is_service(address):
        place = parse_service(address)
        return (*place[:3], place.settings.get("s3_endpoint"))
    return os.path.abspath(local_path(address))


def _makers(config: Loaded) -> Makers:
    """Returns who makes the archives of each place, also those that come there as copies, of whatever profile."""
    copies = []
    for profile in config.profiles.values():
        if profile.copy is not None and (source := profile.copy.from_ or next(iter(profile.stores), None)):
            targets = [_place(config.stores[name].address) for name in profile.copy.to]
            copies.append((_place(config.stores[source].address), targets))
    found: dict[object, list[str]] = {}
    bases = bases_of(config)
    for name, profile in config.profiles.items():
        if not is_run(profile, bases):
            continue
        places = dict.fromkeys(_place(config.stores[store].address) for store in profile.stores if profile.creates)
        waiting = [*places]
        while waiting:
            place = waiting.pop()
            new = [target for source, targets in copies if source == place for target in targets]
            waiting += [target for target in new if target not in places]
            places.update(dict.fromkeys(new))
        for place in places:
            found.setdefault(place, []).append(name)
    return found


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

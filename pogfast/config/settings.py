"""What the settings of a profile mean for the verbs: the options of create, and the address of a store.

Impossible combinations raise UsageError. Opens no store and no key.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pogfast.backup.chunker import Chunker
from pogfast.backup.options import Options
from pogfast.backup.walk import Selection
from pogfast.config.schema import CreateSettings, Profile
from pogfast.errors import UsageError
from pogfast.sizes import parse_share
from pogfast.upkeep.checking import EVERYTHING, Subset

SELECTION = ("exclude", "iexclude", "exclude_if_present", "exclude_caches", "exclude_larger_than", "one_file_system")


def cut_settings(settings: CreateSettings) -> dict[str, Any]:
    """Returns those settings of chunks and threads that are set, by the names of create's options. Raises
    UsageError."""
    words = ("chunker", "chunk_size", "level", "jobs")
    found = {word: getattr(settings, word) for word in words if getattr(settings, word) is not None}
    if "chunk_size" in found and found.get("chunker", "fixed") != "fixed":
        raise UsageError(
            f"chunk-size cannot be combined with chunker {found['chunker']}",
            hint="a chunker takes sizes of its own: fixed:16MB, fastcdc:1MB,4MB,16MB",
        )
    return found


def of_command_line(settings: CreateSettings) -> dict[str, Any]:
    """Returns the settings that `create --profile` takes, by the names of its options: of a profile of the
    configuration also what it leaves out, and the description of archives. Raises UsageError."""
    found = cut_settings(settings)
    words = ["pad", "must_exist", "packs"]
    if isinstance(settings, Profile):
        words += [*SELECTION, "exclude_from", "tags", "host", "comment", "layout", "readers", "memory"]
        words += ["no_cache", "cache_dir"]
    given = {word: value for word in words if (value := getattr(settings, word))}
    return {**found, **{word: tuple(value) if isinstance(value, list) else value for word, value in given.items()}}


def create_options(profile: Profile, patterns: Sequence[str] = (), *, count_ahead: bool = False) -> Options:
    """Returns the options of create. `patterns` are those of the files of `exclude-from`. Raises UsageError."""
    words = ("layout", "readers", "memory", "host")
    given = {word: getattr(profile, word) for word in words if getattr(profile, word) is not None}
    chosen = {word: getattr(profile, word) for word in SELECTION}
    chosen["exclude"] = [*profile.exclude, *patterns]
    options = Options(
        **cut_settings(profile),
        **given,
        selection=Selection(**chosen),
        base=profile.directory,
        tags=profile.tags,
        comment=profile.comment,
        cache_directory="" if profile.no_cache else profile.cache_dir,
        pad=profile.pad,
        must_exist=profile.must_exist,
        count_ahead=count_ahead,
    )
    Chunker.parse(options.chunker, options.chunk_size).check()
    return options


def prune_options(profile: Profile) -> dict[str, Any]:
    """Returns the options of prune, among them the policy. Raises UsageError."""
    said = profile.retention
    assert said is not None
    policy = said.policy()
    if policy.is_empty:
        raise UsageError("retention keeps no archive", hint="set keep-last, keep-daily, ... or keep-all")
    found = {
        "grace": said.grace,
        "max_unused": None if said.max_unused is None else parse_share("", said.max_unused),
        "max_repack": None if said.max_repack is None else parse_share("", said.max_repack),
    }
    filters = {"host": said.host, "tags": said.tags, "path": said.path}
    given = {word: value for word, value in found.items() if value is not None}
    return {"policy": policy, "group_by": said.group_by, **filters, **given}


def check_options(profile: Profile) -> dict[str, Any]:
    """Returns the options of check. Raises UsageError."""
    said = profile.check
    assert said is not None
    if said.read_data and said.read_data_subset is not None:
        raise UsageError("read-data and read-data-subset cannot be combined")
    wanted = EVERYTHING if said.read_data else None
    if said.read_data_subset is not None:
        wanted = Subset.parse(said.read_data_subset)
    if said.restore_test is not None and profile.key is None:
        raise UsageError("a restore is tested with a key", hint="set key")
    return {"read_data": wanted, "max_age": said.max_age, "restore_test": said.restore_test}

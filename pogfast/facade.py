"""The Python interface: one function per command of `pogfast`, with the same options as keyword arguments.

Paths may be str, bytes or path objects, one or several; sizes and times may be numbers or text ("16MB", "7d"). A string
is always a single path, pattern or name. Each function converts its arguments and calls one function of another
package, which is imported then. Nothing is printed.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeAlias, TypeVar

from pogfast.archives import figures
from pogfast.errors import PogfastError, UsageError

if TYPE_CHECKING:
    from pogfast import backup, recovery, runs, tuning
    from pogfast.archives import differences, listing
    from pogfast.archives.archive import Archive
    from pogfast.archives.overview import ArchiveInfo
    from pogfast.backup import merging
    from pogfast.cluster.crews import CrewOptions
    from pogfast.config import Problem, Setting
    from pogfast.keys import Description, Key
    from pogfast.recovery import thawing
    from pogfast.sizes import Share
    from pogfast.stores.limits import RateLimit
    from pogfast.stores.protocols import Finding, Store
    from pogfast.stores.settings import Lock
    from pogfast.upkeep import checking, copying, locking, packing, pruning, removing
    from pogfast.upkeep.checking import Subset
    from pogfast.upkeep.reads import ReadShare
    from pogfast.upkeep.retention import Policy, Span

StrPath: TypeAlias = "str | bytes | os.PathLike[str] | os.PathLike[bytes]"
Paths: TypeAlias = "StrPath | Iterable[StrPath]"
Words: TypeAlias = "str | Iterable[str]"
Size: TypeAlias = "int | str"
Seconds: TypeAlias = "float | str"
Tell: TypeAlias = "Callable[[PogfastError], None]"
P = ParamSpec("P")
R = TypeVar("R")

# The settings of create, unless a keyword or a profile overrides them.
DEFAULTS: dict[str, str | int] = {"chunker": "fixed", "chunk_size": 50_000_000, "level": 3}


# ---- arguments -------------------------------------------------------------------------------------------------------


def _path(given: StrPath) -> str:
    """Returns a path as str; bytes that are not UTF-8 become surrogate escapes."""
    return os.fsdecode(given)


def _paths(given: Paths) -> list[str]:
    """Returns one path or several as a list."""
    if isinstance(given, str | bytes | os.PathLike):
        return [_path(given)]
    return [_path(each) for each in given]


def _words(given: Words) -> list[str]:
    """Returns one string or several as a list."""
    return [given] if isinstance(given, str) else [*given]


def _tags(given: Words) -> tuple[str, ...]:
    """Returns tags as --tag does: "a,b" and ["a", "b"] are the same. Raises UsageError for an empty tag."""
    tags = tuple(tag.strip() for text in _words(given) for tag in text.split(","))
    if not all(tags):
        raise UsageError("empty tag")
    return tags


def _size(word: str, given: Size) -> int:
    from pogfast.sizes import parse_size

    return parse_size(word, given) if isinstance(given, str) else given


def _share(word: str, given: Size) -> Share:
    from pogfast.sizes import parse_share

    return parse_share(word, str(given))


def _seconds(word: str, given: Seconds, *, bare: bool) -> float:
    from pogfast.sizes import parse_seconds

    seconds = parse_seconds(word, given, bare=bare) if isinstance(given, str) else float(given)
    if not seconds >= 0:
        raise UsageError(f"{word} must be a time of 0 or more, not {given}")
    return seconds


def _limit(word: str, given: RateLimit | Size | None) -> RateLimit | None:
    """Returns a limit; a number is bytes a second."""
    from pogfast.stores.limits import RateLimit

    if isinstance(given, str):
        return RateLimit.parse(word, given)
    return given if given is None or isinstance(given, RateLimit) else RateLimit(given)


def _stores(given: Paths) -> str:
    """Returns stores in the form of `--to`. Raises UsageError for a path object with a comma, which would be two."""
    for each in [given] if isinstance(given, str | bytes | os.PathLike) else (given := [*given]):
        if not isinstance(each, str) and "," in _path(each):
            raise UsageError(f"{_path(each)}: a store's path cannot have a comma")
    return ",".join(_paths(given))


def _optional(given: StrPath | None) -> str | None:
    return None if given is None else _path(given)


def _raise(error: PogfastError) -> None:
    raise error


def _renamed(**words: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Accepts keywords from before 0.6 with a DeprecationWarning: old keyword -> new keyword."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def call(*arguments: P.args, **given: P.kwargs) -> R:
            for old in words.keys() & given.keys():
                from warnings import warn

                warn(f"{function.__name__}: {old} is called {words[old]} now", DeprecationWarning, stacklevel=2)
                given[words[old]] = given.pop(old)
            return function(*arguments, **given)

        return call

    return decorate


# ---- keys ------------------------------------------------------------------------------------------------------------


def open_key(
    *,
    keyfile: StrPath | None = None,
    encryption_keyfile: StrPath | None = None,
    decryption_keyfile: StrPath | None = None,
    password_file: StrPath | None = None,
    password_command: str | None = None,
    password: str | None = None,
    writing: bool = False,
) -> Key:
    """Returns the key that one of the arguments gives. With `writing`, for create, keys that could not be restored from
    are refused.

    Never asks for a password, and ignores the environment. Raises UsageError and KeyFileError.
    """
    from pogfast import keys

    words = [keyfile, encryption_keyfile, decryption_keyfile, password_file, password_command, password]
    if sum(word is not None for word in words) != 1:
        raise UsageError("give exactly one keyfile or password")
    if password is not None:
        return keys.from_password(password, writing=writing)
    return keys.from_options(
        keyfile=_optional(keyfile),
        encryption_keyfile=_optional(encryption_keyfile),
        decryption_keyfile=_optional(decryption_keyfile),
        password_file=_optional(password_file),
        password_command=password_command,
        environ={},
        ask=str,
        writing=writing,
    )


def keygen(name: StrPath, *, symmetric: bool = False) -> list[str]:
    """Creates NAME.encrypt and NAME.decrypt, or with `symmetric` the keyfile NAME. Existing files are never changed.

    Returns the paths, the public key first. Raises KeyFileError.
    """
    from pogfast import keys

    path = _path(name)
    if symmetric:
        keys.create_symmetric(path)
        return [path]
    return [*keys.create_pair(os.path.basename(path), os.path.dirname(path))]


def show_key(file: StrPath) -> Description:
    """Returns the kind and fingerprint of a key file, never the key. Raises KeyFileError."""
    from pogfast.keys import describe_file

    return describe_file(_path(file))


# ---- archives --------------------------------------------------------------------------------------------------------


@_renamed(stdin_name="name", command="from_command", base="directory", cache_directory="cache_dir")
def create(
    paths: Paths,
    to: Paths,
    key: Key,
    *,
    name: str | None = None,
    from_command: str | None = None,
    directory: StrPath | None = None,
    exclude: Words = (),
    iexclude: Words = (),
    exclude_from: Paths = (),
    exclude_if_present: Words = (),
    exclude_caches: bool = False,
    exclude_larger_than: Size | None = None,
    one_file_system: bool = False,
    files_from: Paths = (),
    null: bool = False,
    tags: Words = (),
    host: str | None = None,
    comment: str = "",
    chunk_size: Size | None = None,
    chunker: str | None = None,
    level: int | None = None,
    layout: backup.Layout = "frames",
    profile: StrPath | None = None,
    jobs: int | None = None,
    readers: int | None = None,
    memory: Size | None = None,
    no_cache: bool = False,
    cache_dir: StrPath | None = None,
    force: bool = False,
    pad: bool = False,
    must_exist: bool = False,
    dry_run: bool = False,
    shard: str | None = None,
    set_name: str | None = None,
    executor: object = None,
    worker_key: str | None = None,
    worker_timeout: Seconds = "5m",
    cluster_ca: StrPath | None = None,
    cluster_cert: StrPath | None = None,
    cluster_key: StrPath | None = None,
    insecure_cluster: bool = False,
    report: backup.Report | None = None,
) -> backup.Summary:
    """Creates an archive of `paths` and everything below them in the stores `to`, as `pogfast create`.

    With `name` and no paths, standard input or the output of `from_command` is archived under that name. Settings that
    are None are taken from `profile`, else the defaults of the command (chunks of 50 MB, level 3). Sources that cannot
    be read are in the summary's problems. With a `shard`, such as "3/16", it archives only that part, for `merge`. An
    `executor` does the work: an address as of --executor, a dask.distributed.Client or a concurrent.futures.Executor.
    Raises UsageError, NoSuchInput, StoreError, and PogfastError if nothing could be archived; then no archive is
    created.
    """
    from pogfast import backup
    from pogfast.backup.input_lists import read_list, read_patterns
    from pogfast.backup.shards import Shard
    from pogfast.backup.walk import Selection

    kept = _kept(profile)
    exclude, iexclude = exclude or kept.get("exclude", ()), iexclude or kept.get("iexclude", ())
    exclude_from = exclude_from or kept.get("exclude_from", ())
    exclude_if_present = exclude_if_present or kept.get("exclude_if_present", ())
    exclude_caches = exclude_caches or kept.get("exclude_caches", False)
    exclude_larger_than = exclude_larger_than or kept.get("exclude_larger_than")
    one_file_system = one_file_system or kept.get("one_file_system", False)
    tags, comment = tags or kept.get("tags", ()), comment or kept.get("comment", "")
    host = host or kept.get("host")
    layout = kept.get("layout", layout) if layout == "frames" else layout
    readers, memory = readers or kept.get("readers"), memory or kept.get("memory")
    no_cache, cache_dir = no_cache or kept.get("no_cache", False), cache_dir or kept.get("cache_dir")
    pad, must_exist = pad or kept.get("pad", False), must_exist or kept.get("must_exist", False)
    base = _optional(directory)
    patterns = [*_words(exclude), *(line for file in _paths(exclude_from) for line in read_patterns(file))]
    selection = Selection(
        exclude=patterns,
        iexclude=_words(iexclude),
        exclude_if_present=_words(exclude_if_present),
        exclude_caches=exclude_caches,
        exclude_larger_than=None if exclude_larger_than is None else _size("exclude_larger_than", exclude_larger_than),
        one_file_system=one_file_system,
    )
    lists = _paths(files_from)
    sources = _paths(paths)
    if name is not None and (lists or [source for source in sources if source != "-"]):
        raise UsageError("name is for standard input and from_command: no paths beside it")
    sources += [path for file in lists for path in read_list(file, nul=null, base=base)]
    if name is None and not sources:
        raise UsageError("nothing to archive")
    if from_command is not None and name is None:
        raise UsageError("the archived stream needs a name", hint="give name=...")
    if shard is not None and name is not None:
        raise UsageError("a stream has no shards")
    if shard is None and set_name is not None:
        raise UsageError("set_name is for shards")
    cut = _how_to_cut(chunk_size, chunker, level, jobs, kept)
    options = backup.Options(
        layout=layout,
        readers=readers,
        memory=None if memory is None else _size("memory", memory),
        selection=selection,
        base=base,
        tags=_tags(tags),
        host=host,
        comment=comment,
        cache_directory="" if no_cache else _optional(cache_dir),
        force=force,
        pad=pad,
        must_exist=must_exist,
        dry_run=dry_run,
        shard=None if shard is None else Shard.parse(shard, set_name),
        **cut,
    )
    with services(packs=kept.get("packs")):
        return backup.create(
            [] if name is not None else sources,
            _stores(to),
            key,
            report=report,
            stdin_name=name,
            command=from_command,
            options=options,
            executor=executor,
            crew_options=_crew_options(
                worker_key, worker_timeout, cluster_ca, cluster_cert, cluster_key, insecure_cluster
            ),
        )


def _crew_options(
    worker_key: str | None,
    worker_timeout: Seconds,
    ca: StrPath | None,
    certificate: StrPath | None,
    key: StrPath | None,
    insecure: bool,
) -> CrewOptions:
    from pogfast.cluster.crews import CrewOptions

    timeout = _seconds("worker_timeout", worker_timeout, bare=True)
    return CrewOptions(_optional(ca), _optional(certificate), _optional(key), insecure, timeout, worker_key or "")


def merge(
    store: Paths, key: Key, *, set_name: str | None = None, report: merging.Report | None = None
) -> merging.Merged:
    """Makes the archive of what the shards of `create` have stored, as `pogfast merge`. Raises UsageError, StoreError,
    NoSuchArchive if there are no parts, and PogfastError, with their numbers, if shards have to be run first or again.
    """
    from pogfast.backup.merging import merge

    return merge(_stores(store), key, set_name=set_name, report=report)


def _kept(profile: StrPath | None) -> dict[str, Any]:
    """Returns the settings of a profile, by the keywords of `create`. Raises UsageError."""
    if profile is None:
        return {}
    from pogfast.config import create_settings
    from pogfast.config.settings import of_command_line

    return of_command_line(create_settings(_path(profile)))


def _how_to_cut(
    chunk_size: Size | None, chunker: str | None, level: int | None, jobs: int | None, kept: dict[str, Any]
) -> dict[str, Any]:
    """Returns chunker, level and jobs: as given, else from the profile, `kept`, else the defaults. Raises
    UsageError."""
    from pogfast.backup.chunker import Chunker

    if chunk_size is not None and chunker not in (None, "fixed"):
        raise UsageError(
            f"chunk_size cannot be combined with chunker={chunker}", hint="fixed:16MB and fastcdc:4MB have sizes"
        )
    given = {
        "chunk_size": None if chunk_size is None else _size("chunk_size", chunk_size),
        "chunker": chunker,
        "level": level,
        "jobs": jobs,
    }
    words = ("level", "jobs") if chunk_size is not None or chunker is not None else tuple(given)
    found = {
        **DEFAULTS,
        **{word: kept[word] for word in words if word in kept},
        **{word: value for word, value in given.items() if value is not None},
    }
    cuts = Chunker.parse(str(found["chunker"]), int(found["chunk_size"]))
    if not isinstance(
        chunk_size, int
    ):  # a text such as "16" may lack its unit, and is checked as on the command line; a number is intended
        cuts.check()
    return found


def restore(
    archive: StrPath,
    key: Key,
    into: StrPath,
    *,
    names: Words = (),
    stores: Paths = (),
    exclude: Words = (),
    overwrite: recovery.Overwrite = "never",
    delete: bool = False,
    strip_components: int = 0,
    numeric_owner: bool = False,
    no_owner: bool = False,
    set_id: bool = False,
    no_sync: bool = False,
    dry_run: bool = False,
    jobs: int | None = None,
    host: str | None = None,
    tags: Words = (),
    path: StrPath | None = None,
    executor: object = None,
    worker_key: str | None = None,
    worker_timeout: Seconds = "5m",
    cluster_ca: StrPath | None = None,
    cluster_cert: StrPath | None = None,
    cluster_key: StrPath | None = None,
    insecure_cluster: bool = False,
    report: recovery.Report | None = None,
) -> recovery.Summary:
    """Restores an archive, or the `names` and patterns in it, below `into`, as `pogfast restore`.

    `host`, `tags` and `path` select the archive of STORE/latest. With `stores` (`--from`), `archive` is `latest` or
    NAME.mfn alone. An `executor`, as of `create`, writes the files; each worker finds the key at `worker_key`. Problems
    with single files are in the summary. Raises NoSuchArchive, WrongKey, CorruptManifest,
    UsageError and StoreError.
    """
    from pogfast import recovery

    options = recovery.Options(
        exclude=_words(exclude),
        overwrite=overwrite,
        strip_components=strip_components,
        delete=delete,
        dry_run=dry_run,
        numeric_owner=numeric_owner,
        no_owner=no_owner,
        set_id=set_id,
        no_sync=no_sync,
        jobs=jobs,
    )
    return recovery.restore(
        _path(archive),
        key,
        _path(into),
        names=_words(names),
        stores=_paths(stores),
        host=host,
        tags=_tags(tags),
        path=_optional(path),
        report=report,
        options=options,
        executor=executor,
        crew_options=_crew_options(worker_key, worker_timeout, cluster_ca, cluster_cert, cluster_key, insecure_cluster),
    )


def thaw(
    archive: StrPath,
    key: Key,
    into: StrPath,
    *,
    tier: thawing.Tier = "standard",
    days: int = 7,
    names: Words = (),
    host: str | None = None,
    tags: Words = (),
    path: StrPath | None = None,
) -> thawing.Summary:
    """Requests the blobs in cold storage that `restore` with the same arguments would read, as `restore --thaw`.

    Restore once nothing of the summary is `waiting`. Raises as `restore`, and UsageError for stores without cold
    storage.
    """
    from pogfast.recovery import thawing

    return thawing.thaw(
        _path(archive),
        key,
        _path(into),
        tier=tier,
        days=days,
        names=_words(names),
        host=host,
        tags=_tags(tags),
        path=_optional(path),
    )


def open_archive(
    archive: StrPath,
    key: Key,
    *,
    host: str | None = None,
    tags: Words = (),
    path: StrPath | None = None,
    stores: Paths = (),
    jobs: int | None = None,
) -> Archive:
    """Opens an archive: a mapping of archived names to entries, from which files can be opened. To be closed.

    `archive` is STORE/NAME.mfn, or STORE/latest, for which `host`, `tags` and `path` select. Raises UsageError,
    NoSuchArchive, WrongKey, CorruptManifest and StoreError.
    """
    from pogfast.archives import lookup

    return lookup.open_archive(
        _path(archive), key, host=host, tags=_tags(tags), path=_optional(path), stores=_paths(stores), jobs=jobs
    )


def open_store(store: StrPath) -> Store:
    """Opens a store, to list its manifests and blobs and their sizes. To be closed. Raises UsageError and
    NoSuchArchive."""
    from pogfast import stores

    return stores.open_store(_path(store))


# ---- reading ---------------------------------------------------------------------------------------------------------


def list_archives(
    store: StrPath,
    key: Key,
    *,
    host: str | None = None,
    tags: Words = (),
    path: StrPath | None = None,
    partial: bool = False,
) -> list[ArchiveInfo]:
    """Returns the archives of a store by time, the newest last, as `pogfast list`; with `partial`, unfinished runs.

    An archive that does not open is in the list with its `problem`. Raises NoSuchArchive and StoreError.
    """
    from pogfast.archives.overview import archives
    from pogfast.archives.trailer import Filter

    wanted = Filter.of(host, _tags(tags), _optional(path))
    with contextlib.closing(open_store(store)) as opened:
        wanted.require(key)
        return [info for info in archives(opened, key, partial=partial) if info.problem or info.fits(wanted)]


def ls(
    archive: StrPath,
    key: Key,
    names: Words = (),
    *,
    host: str | None = None,
    tags: Words = (),
    path: StrPath | None = None,
    tell: Tell = _raise,
) -> Iterator[listing.Item]:
    """Yields the entries of an archive, sorted by path: all, or those that `names` and patterns select.

    `tell` is called for names without a match; by default they are raised at the end (NoSuchEntry). Raises as
    `open_archive`.
    """
    from pogfast.archives.listing import select

    with open_archive(archive, key, host=host, tags=tags, path=path) as opened:
        yield from select(opened, _words(names), tell)


def find(
    store: StrPath, key: Key, patterns: Words, *, host: str | None = None, tags: Words = (), tell: Tell = _raise
) -> Iterator[listing.Found]:
    """Yields what matches a pattern in the archives of a store, or in those of `host` and with all of `tags`.

    `tell` is called for archives that do not open; by default their error is raised. Raises NoSuchArchive, StoreError,
    and UsageError for a malformed pattern.
    """
    from pogfast.archives import listing

    with contextlib.closing(open_store(store)) as opened:
        yield from listing.find(opened, key, _words(patterns), tell, host=host, tags=_tags(tags))


def cat(
    archive: StrPath,
    key: Key,
    name: str,
    *,
    offset: int = 0,
    length: Size | None = None,
    jobs: int | None = None,
    host: str | None = None,
    tags: Words = (),
    path: StrPath | None = None,
) -> Iterator[memoryview]:
    """Yields the bytes of a file in an archive, from `offset` on and at most `length`, in pieces.

    Raises as `open_archive`, and NoSuchEntry, MissingBlob, CorruptBlob and WrongBlob.
    """
    with open_archive(archive, key, host=host, tags=tags, path=path, jobs=jobs) as opened:
        yield from opened.read(name, offset, None if length is None else _size("length", length))


def diff(
    before: StrPath,
    after: StrPath,
    key: Key,
    *,
    metadata: bool = True,
    host: str | None = None,
    tags: Words = (),
    path: StrPath | None = None,
) -> list[differences.Change]:
    """Returns the differences between two archives; with `metadata`, also those in metadata alone.

    `host`, `tags` and `path` select the archive of STORE/latest. Raises as `open_archive`.
    """
    from pogfast.archives.differences import diff as changes
    from pogfast.stores import LATEST

    def opened(archive: StrPath) -> Archive:
        if _path(archive).rpartition("/")[2] == LATEST:
            return open_archive(archive, key, host=host, tags=tags, path=path)
        return open_archive(archive, key)

    with opened(before) as one, opened(after) as other:
        return [change for change in changes(one, other) if metadata or change.change != "metadata"]


def info(
    archive: StrPath, key: Key, *, host: str | None = None, tags: Words = (), path: StrPath | None = None
) -> figures.Info:
    """Returns the figures of an archive. Raises as `open_archive`."""
    from pogfast.archives import figures

    with open_archive(archive, key, host=host, tags=tags, path=path) as opened:
        return figures.info(opened)


def stats(store: StrPath, key: Key, *, tell: Tell = _raise) -> figures.Stats:
    """Returns the figures of a store. Raises NoSuchArchive and StoreError.

    `tell` is called for archives that do not open; by default their error is raised.
    """
    from pogfast.archives import figures

    with contextlib.closing(open_store(store)) as opened:
        return figures.stats(opened, key, tell)


def check(
    archives: Paths,
    key: Key | None,
    *,
    read_data: bool | Subset | None = None,
    read_data_subset: str | None = None,
    max_age: Seconds | None = None,
    restore_test: int | None = None,
    seed: int | None = None,
    repair: bool = False,
    host: str | None = None,
    tags: Words = (),
    path: StrPath | None = None,
    jobs: int | None = None,
    executor: object = None,
    worker_key: str | None = None,
    worker_timeout: Seconds = "5m",
    cluster_ca: StrPath | None = None,
    cluster_cert: StrPath | None = None,
    cluster_key: StrPath | None = None,
    insecure_cluster: bool = False,
    report: checking.Report | None = None,
) -> checking.Summary:
    """Checks archives, and the archives of stores that `host`, `tags` and `path` select.

    `read_data` reads all blobs, `read_data_subset` a part of them ("10%", "1/30", "50G"). Without a key, the packs of
    stores are checked, and read whole. With `max_age` it is a problem if something was not read for longer, which
    `last_reads` tells. `restore_test` restores so many files to nowhere, with the `seed` of an earlier summary's
    `rehearsal` the same ones. `repair` makes index objects and tables of packs anew. An `executor`, as of `create`,
    reads the data; each worker finds the key at `worker_key`. Damage is in the summary. Raises UsageError,
    NoSuchArchive, StoreError, and WrongKey if no archive opens.
    """
    from pogfast.upkeep import checking

    if read_data and read_data_subset is not None:
        raise UsageError("read_data and read_data_subset cannot be combined")
    wanted = checking.EVERYTHING if read_data is True else read_data or None
    if read_data_subset is not None:
        wanted = checking.Subset.parse(read_data_subset)
    return checking.check(
        _paths(archives),
        key,
        read_data=wanted,
        max_age=None if max_age is None else _seconds("max_age", max_age, bare=False),
        restore_test=restore_test,
        seed=seed,
        repair=repair,
        host=host,
        tags=_tags(tags),
        path=_optional(path),
        jobs=jobs,
        report=report,
        executor=executor,
        crew_options=_crew_options(worker_key, worker_timeout, cluster_ca, cluster_cert, cluster_key, insecure_cluster),
    )


def last_reads(store: StrPath, key: Key | None) -> list[ReadShare]:
    """Returns how much of a store was last read completely, and was good, when: pairs (share, read), the newest first.

    Shares add up to 1; `read` is None for what was never read. Without a key, it is of packs, as anybody may have
    written it down. Raises NoSuchArchive, StoreError, and WrongKey for a public key.
    """
    from pogfast.archives.refusals import require_decryption
    from pogfast.upkeep.reads import Reads

    if key is not None:
        require_decryption(key, "read data")
    with contextlib.closing(open_store(store)) as opened:
        return Reads(opened, key).summary()


def check_against(
    archive: StrPath,
    key: Key,
    against: StrPath,
    *,
    host: str | None = None,
    tags: Words = (),
    path: StrPath | None = None,
    jobs: int | None = None,
    tell: Tell = _raise,
) -> list[differences.Difference]:
    """Compares an archive with the files below `against`, byte for byte, as `check --against`.

    `tell` is called for damage and for files that cannot be read; by default the error is raised. Raises as
    `open_archive`.
    """
    from pogfast.archives.differences import compare

    with open_archive(archive, key, host=host, tags=tags, path=path, jobs=jobs) as opened:
        report = _Differences(tell)
        compare(opened, _path(against), report)
    return report.found


class _Differences:
    """A differences.Report that collects the differences."""

    def __init__(self, tell: Tell) -> None:
        self.found: list[differences.Difference] = []
        self.problem = tell

    def started(self, progress: differences.Compared) -> None:
        pass

    def difference(self, difference: differences.Difference) -> None:
        self.found.append(difference)


# ---- stores ----------------------------------------------------------------------------------------------------------


def copy(
    source: StrPath,
    target: StrPath,
    archives: Words = (),
    key: Key | None = None,
    *,
    host: str | None = None,
    tags: Words = (),
    path: StrPath | None = None,
    jobs: int | None = None,
    verify: bool = False,
    dry_run: bool = False,
    report: copying.Report | None = None,
) -> copying.Summary:
    """Copies archives, by the names of their manifests (none: all), from one store to another.

    `source` may be an archive, STORE/NAME.mfn or STORE/latest, for which `host`, `tags` and `path` select. With
    `verify`, data in the target is read, and stored again if it is damaged. Without a key, all archives must be copied.
    Damage is in the summary's problems. Raises UsageError, NoSuchArchive, NoArchives, StoreError, and WrongKey if no
    archive opens.
    """
    from pogfast.upkeep import copying

    return copying.copy(
        _path(source),
        _path(target),
        _words(archives),
        key,
        host=host,
        tags=_tags(tags),
        path=_optional(path),
        jobs=jobs,
        verify=verify,
        dry_run=dry_run,
        report=report,
    )


def pack(store: StrPath, *, dry_run: bool = False, report: packing.Report | None = None) -> packing.Summary:
    """Moves the small blobs of a store into packs, of the size that `services` sets (else that of the store, else
    16 MiB). Later archives in the store are packed, too. Needs no key; a second run continues the first.

    Damage is in the summary's problems. Raises UsageError, NoSuchArchive and StoreError.
    """
    from pogfast.upkeep import packing

    return packing.pack(_path(store), dry_run=dry_run, report=report)


def unpack(store: StrPath, *, dry_run: bool = False, report: packing.Report | None = None) -> packing.Summary:
    """Stores each blob in packs as an object of its own, as later archives do, and deletes the packs. Needs no key; a
    second run continues the first.

    Damaged blobs stay in their packs, and are in the summary's problems. Raises UsageError, NoSuchArchive and
    StoreError.
    """
    from pogfast.upkeep import packing

    return packing.unpack(_path(store), dry_run=dry_run, report=report)


def prune(
    store: StrPath,
    key: Key,
    policy: Policy | None = None,
    *,
    keep_last: int = 0,
    keep_hourly: int = 0,
    keep_daily: int = 0,
    keep_weekly: int = 0,
    keep_monthly: int = 0,
    keep_yearly: int = 0,
    keep_within: Span | str | None = None,
    keep_within_hourly: Span | str | None = None,
    keep_within_daily: Span | str | None = None,
    keep_within_weekly: Span | str | None = None,
    keep_within_monthly: Span | str | None = None,
    keep_within_yearly: Span | str | None = None,
    keep_tags: Words = (),
    keep_all: bool = False,
    group_by: Words = ("host", "paths"),
    host: str | None = None,
    tags: Words = (),
    path: StrPath | None = None,
    allow_empty: bool = False,
    allow_missing: bool = False,
    grace: Seconds = "24h",
    max_unused: Size = "10%",
    max_repack: Size | None = None,
    dry_run: bool = True,
    warn: Callable[[str], None] = lambda text: None,
) -> pruning.Summary:
    """Removes archives by a retention policy and deletes unneeded blobs, as `pogfast prune`; only with `dry_run=False`.

    The policy is a `Policy`, or given by the keywords that begin with keep (-1: all; times as "2y5m7d3h"; each of
    `keep_tags` is "TAG" or "TAG,TAG"). Raises, with nothing removed, UsageError for a policy that keeps nothing of a
    group (unless `allow_empty`), MissingBlob for a kept archive that lacks blobs (unless `allow_missing`),
    NoSuchArchive, StoreError, and the error of a manifest that cannot be read.
    """
    from pogfast.upkeep import pruning
    from pogfast.upkeep.retention import Policy, Span

    def span(given: Span | str | None) -> Span | None:
        return Span.parse(given) if isinstance(given, str) else given

    said = Policy(
        keep_last,
        keep_hourly,
        keep_daily,
        keep_weekly,
        keep_monthly,
        keep_yearly,
        span(keep_within),
        span(keep_within_hourly),
        span(keep_within_daily),
        span(keep_within_weekly),
        span(keep_within_monthly),
        span(keep_within_yearly),
        tuple(frozenset(_tags(text)) for text in _words(keep_tags)),
        keep_all,
    )
    if policy is not None and not said.is_empty:
        raise UsageError("give a policy, or single rules, not both")
    groups = [word.strip() for text in _words(group_by) for word in text.split(",") if word.strip()]
    if unknown := set(groups) - set(pruning.GROUPS):
        raise UsageError(f"group_by takes {', '.join(pruning.GROUPS)}, not {sorted(unknown)[0]}")
    return pruning.prune(
        _path(store),
        key,
        policy or said,
        group_by=groups,
        host=host,
        tags=_tags(tags),
        path=_optional(path),
        allow_empty=allow_empty,
        allow_missing=allow_missing,
        grace=_seconds("grace", grace, bare=False),
        max_unused=_share("max_unused", max_unused),
        max_repack=None if max_repack is None else _share("max_repack", max_repack),
        dry_run=dry_run,
        warn=warn,
    )


def remove(
    archives: Paths,
    key: Key | None = None,
    *,
    host: str | None = None,
    tags: Words = (),
    path: StrPath | None = None,
    allow_empty: bool = False,
    dry_run: bool = True,
    warn: Callable[[str], None] = lambda text: None,
) -> removing.Removed:
    """Removes single archives; only with `dry_run=False`.

    `undelete` can bring them back until a prune after their grace period. Locked archives are in the result's problems.
    Raises, with nothing removed, UsageError (also if no archive would be left), NoSuchArchive and StoreError.
    """
    from pogfast.upkeep import removing

    return removing.remove(
        _paths(archives),
        key,
        host=host,
        tags=_tags(tags),
        path=_optional(path),
        allow_empty=allow_empty,
        dry_run=dry_run,
        warn=warn,
    )


def rewrite(
    archives: Paths,
    key: Key,
    exclude: Words,
    *,
    keep: bool = False,
    host: str | None = None,
    tags: Words = (),
    path: StrPath | None = None,
    dry_run: bool = True,
    warn: Callable[[str], None] = lambda text: None,
) -> removing.Summary:
    """Writes new archives without the names that match `exclude`, and removes the old ones unless `keep`; only with
    `dry_run=False`. Raises UsageError, NoSuchArchive, WrongKey, CorruptManifest and StoreError."""
    from pogfast.upkeep import removing

    return removing.rewrite(
        _paths(archives),
        key,
        _words(exclude),
        keep=keep,
        host=host,
        tags=_tags(tags),
        path=_optional(path),
        dry_run=dry_run,
        warn=warn,
    )


def undelete(
    store: StrPath,
    key: Key,
    names: Words = (),
    *,
    everything: bool = False,
    tell: Tell = lambda error: None,
) -> pruning.Undeleted:
    """Brings back removed archives, by the names of their manifests, or `everything`; with neither, lists them only.

    What cannot be brought back is in the result's problems. Raises NoSuchArchive and StoreError.
    """
    from pogfast.upkeep import pruning

    return pruning.undelete(_path(store), key, _words(names), everything=everything, tell=tell)


def lock(
    store: StrPath,
    key: Key,
    lock: Lock | str,
    *,
    host: str | None = None,
    tags: Words = (),
    path: StrPath | None = None,
) -> locking.Summary:
    """Locks the archives of a store in S3, and all blobs that they need, from now on, for example "compliance:90d".

    Missing blobs are in the summary's problems. Raises NoSuchArchive, StoreError, UsageError and WrongKey.
    """
    from pogfast.stores.settings import Lock
    from pogfast.upkeep import locking

    wanted = Lock.parse(lock) if isinstance(lock, str) else lock
    return locking.extend(_path(store), key, wanted, host=host, tags=_tags(tags), path=_optional(path))


def run(names: Words, *, config: StrPath | None = None, report: runs.Report | None = None) -> list[runs.Record]:
    """Runs profiles, or groups of them, of the configuration, as `pogfast run`, but at the priority of this process.

    What fails is in the records. Raises UsageError for a faulty configuration, and OSError if a record cannot be kept.
    """
    from pogfast import runs
    from pogfast.config import load

    loaded = load(_optional(config))
    chosen = {
        profile: name if name in loaded.groups else "" for name in _words(names) for profile in loaded.members(name)
    }
    return [runs.run(loaded, profile, group=group, report=report) for profile, group in chosen.items()]


def check_config(config: StrPath | None = None) -> list[Problem]:
    """Returns everything that is wrong with the configuration. Raises UsageError if there is none."""
    from pogfast.config import examine

    return examine(_optional(config))[1]


def show_config(profile: str | None = None, *, config: StrPath | None = None) -> list[Setting]:
    """Returns what is set in the configuration, or for one profile, and where. Raises UsageError."""
    from pogfast.config import load

    return load(_optional(config)).settings(profile)


def doctor(store: StrPath) -> list[Finding]:
    """Tests a store; writes some small objects and deletes them again. Raises UsageError, NoSuchArchive and
    StoreError."""
    from pogfast.upkeep.doctor import examine

    return [*examine(_path(store))]


@_renamed(most="sample")
def tune(
    paths: Paths,
    to: StrPath | None = None,
    *,
    sample: Size = "500MB",
    chunkers: Words = (),
    levels: Iterable[int] = (1, 3, 6, 9),
    jobs: Iterable[int] = (),
    aim: Literal["both", "speed", "size"] = "both",
    report: tuning.Report | None = None,
) -> tuning.Outcome:
    """Measures which chunker, level and jobs suit the data at `paths` and the store `to` (None: a temporary directory).

    Trials run in processes of their own, so a script that calls this needs `if __name__ == "__main__":`. What they
    write is deleted again. Raises UsageError, NoSuchInput, StoreError and the error of a trial.
    """
    from pogfast import tuning

    return tuning.tune(
        _paths(paths),
        _optional(to),
        report=report,
        sample_size=_size("sample", sample),
        chunkers=_words(chunkers),
        levels=[*levels],
        jobs=[*jobs],
        aim=aim,
    )


@contextlib.contextmanager
def services(
    *,
    s3_endpoint: str | None = None,
    b2_realm: str | None = None,
    storage_class: str | None = None,
    object_lock: Lock | str | None = None,
    packs: Size | Literal["yes"] | None = None,
    parallel: int | None = None,
    retry_for: Seconds | None = None,
    limit_upload: RateLimit | Size | None = None,
    limit_download: RateLimit | Size | None = None,
) -> Iterator[None]:
    """Sets options of stores, most of them of S3 and B2 services, during a with-block; None leaves an option unchanged.
    `packs` is the size of packs that stores get which are written to, or "yes". The stores that are opened in the block
    share a limit, in bytes a second or as text such as "5MB"; that of a `RateLimit` can be changed while they are used,
    by `set_rate`. Raises UsageError."""
    from pogfast.stores.settings import Lock, parse_packs, using

    words = {
        "s3_endpoint": s3_endpoint,
        "b2_realm": b2_realm,
        "storage_class": storage_class,
        "object_lock": Lock.parse(object_lock) if isinstance(object_lock, str) else object_lock,
        "packs": None if packs is None else parse_packs("packs", str(packs)),
        "parallel": parallel,
        "retry_for": None if retry_for is None else _seconds("retry_for", retry_for, bare=True),
        "limit_upload": _limit("limit_upload", limit_upload),
        "limit_download": _limit("limit_download", limit_download),
    }
    with using(**{word: value for word, value in words.items() if value is not None}):
        yield

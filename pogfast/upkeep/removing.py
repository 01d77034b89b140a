"""`pogfast remove` and `rewrite`: removes single archives, and removes paths from archives by writing new manifests.

As after a prune, a removed archive stays in the store as NAME.mfn.removed, `undelete` can restore it until its grace
period ends, and only prune deletes blobs. No blob is read here. Locked archives stay.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import chain
from typing import Any

from pogfast import manifest
from pogfast.archives.archive import Archive
from pogfast.archives.lookup import find_archive
from pogfast.archives.manifests import locked_until
from pogfast.archives.overview import Described
from pogfast.archives.records import Record
from pogfast.archives.trailer import Trailer
from pogfast.errors import (
    DamageError,
    NoSuchArchive,
    NoSuchEntry,
    PogfastError,
    UsageError,
    WrongKey,
    worst_code,
)
from pogfast.files.patterns import Patterns
from pogfast.keys import Key
from pogfast.manifest import Entry, Manifest
from pogfast.stores import LATEST, MANIFEST, REMOVED, find_manifest
from pogfast.stores.fetching import fetched_manifest
from pogfast.stores.protocols import Store
from pogfast.stores.reliance import publish_while

# The sections of a trailer, by archived names or paths.
SECTIONS = ("directories", "links", "fifos", "skipped", "unreadable")


@dataclass(slots=True)
class Choice(Described):
    """An archive that was named. `reason` says why it stays; "" means that it is removed."""

    reason: str = ""


@dataclass
class _Done:
    """What remove and rewrite have in common."""

    dry_run: bool = True
    problems: list[PogfastError] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        return worst_code(problem.exit_code for problem in self.problems)


@dataclass
class Removed(_Done):
    """What was removed, or in a dry run would be."""

    choices: list[Choice] = field(default_factory=list)

    @property
    def removed(self) -> int:
        return sum(not choice.reason for choice in self.choices)


class Locked(PogfastError):
    """An archive was not removed, since nobody can delete it yet."""

    exit_code = 3


def remove(
    archives: Collection[str],
    key: Key | None = None,
    *,
    host: str | None = None,
    tags: Collection[str] = (),
    path: str | None = None,
    allow_empty: bool = False,
    dry_run: bool = True,
    tell: Callable[[PogfastError], None] = lambda error: None,
    warn: Callable[[str], None] = lambda text: None,
) -> Removed:
    """Removes archives by name (STORE/NAME.mfn), or STORE/latest of `host`, `tags` and `path`.

    Only STORE/latest needs a key; with a key that opens the archives, the result describes them. All archives must
    exist, and each store must keep at least one unless `allow_empty`. Calls `tell` with each that is locked, `warn`
    with warnings. Raises UsageError, NoSuchArchive and StoreError; then nothing is removed.
    """
    summary = Removed(dry_run)
    problem = _noted(summary.problems, tell)
    with contextlib.ExitStack() as stack:
        hear = _either(problem, warn)
        found = _by_store(archives, key, stack, host=host, tags=tags, path=path, tell=hear)
        going = [(store, _judged(store, names, key, summary, problem)) for store, names in found]
        for store, names in going:
            if not allow_empty and not {stored.name for stored in store.manifests()} - set(names):
                hint = "--allow-empty removes it anyway"
                raise UsageError(f"{store.label} would have no archive left: nothing was removed", hint=hint)
        if not dry_run:
            for store, names in going:
                for name in names:
                    store.remove_manifest(name)
    return summary


def _by_store(
    archives: Collection[str], key: Key | None, stack: contextlib.ExitStack, **wanted: Any
) -> list[tuple[Store, list[str]]]:
    """Returns each store, opened, with the manifests that are named in it. Raises NoSuchArchive and UsageError."""
    found: dict[str, tuple[Store, list[str]]] = {}
    for text in archives:
        store, name = _find(text, key, **wanted)
        stack.callback(store.close)
        if name not in {stored.name for stored in store.manifests()}:
            raise NoSuchArchive(f"no such archive: {text}", hint=f"`pogfast list {store.path}` lists the archives")
        _, names = found.setdefault(store.identity, (store, []))
        if name not in names:
            names.append(name)
    return list(found.values())


def _find(
    text: str, key: Key | None, *, tell: Callable[[PogfastError | str], None], **wanted: Any
) -> tuple[Store, str]:
    """Raises UsageError also if a newer archive is skipped: the user may not mean the one that would be removed."""
    store, name = find_manifest(text)
    if name != LATEST:
        return store, name
    store.close()
    if key is None:
        raise UsageError(f"{text}: without a key nothing tells which archive is the latest", hint="give a key")
    passed_over: list[PogfastError | str] = []

    def hear(what: PogfastError | str) -> None:
        passed_over.append(what)
        tell(what)

    store, name = find_archive(text, key, tell=hear, **wanted)
    if passed_over:
        store.close()
        hint = f"give its name: `pogfast list {store.path}` lists the archives"
        raise UsageError(f"{text}: it is not sure which archive is the latest, nothing was changed", hint=hint)
    return store, name


def _noted(problems: list[PogfastError], tell: Callable[[PogfastError], None]) -> Callable[[PogfastError], None]:
    """Returns a function that adds a problem to a list and passes it on to `tell`."""

    def note(error: PogfastError) -> None:
        problems.append(error)
        tell(error)

    return note


def _either(
    problem: Callable[[PogfastError], None], warn: Callable[[str], None]
) -> Callable[[PogfastError | str], None]:
    """Returns a function that passes a warning to `warn` and a problem to `problem`."""
    return lambda what: warn(what) if isinstance(what, str) else problem(what)


def _judged(
    store: Store, names: list[str], key: Key | None, summary: Removed, problem: Callable[[PogfastError], None]
) -> list[str]:
    """Returns the archives that can be removed, and adds all to the summary."""
    locked = store.locked(names)
    for name in names:
        choice = _describe(store, name, key)
        if name in locked:
            choice.reason = locked_until(locked[name])
            problem(_locked(f"{name}: not removed, it is", locked[name], name))
        summary.choices.append(choice)
    return [name for name in names if name not in locked]


def _locked(text: str, until: float, name: str) -> Locked:
    hint = (
        "run this again after that date; in S3, users with s3:BypassGovernanceRetention can lift a governance lock "
        "earlier"
    )
    if until == math.inf:
        hint = "it has a legal hold: release it in S3, then run this again"
    return Locked(f"{text} {locked_until(until)}", hint, path=name)


def _describe(store: Store, name: str, key: Key | None) -> Choice:
    """Returns what a key tells of an archive; only the name if it is damaged or of another key."""
    opened = Manifest()
    if key is not None and key.can_open:
        with contextlib.suppress(DamageError, WrongKey):
            trailer = fetched_manifest(store, name, lambda data: manifest.open_trailer(data, key, name))
            opened = Manifest(trailer=trailer)
    shown = Archive(store, name, opened, key or Key("keyfile", bytes(32)))
    return Choice(name, shown.time, shown.host, shown.tags, shown.paths)


# ---- rewrite ---------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Rewritten(Record):
    """An archive that was rewritten. `new` is the new manifest's name, "" in a dry run, and if nothing matched. `size`
    are the uncompressed bytes of the files that were left out."""

    name: str
    new: str = ""
    left_out: list[str] = field(default_factory=list)
    size: int = 0
    kept: bool = False  # the old archive still exists


@dataclass
class Summary(_Done):
    """What was rewritten, or in a dry run would be."""

    archives: list[Rewritten] = field(default_factory=list)


def rewrite(
    archives: Collection[str],
    key: Key,
    exclude: Collection[str],
    *,
    host: str | None = None,
    tags: Collection[str] = (),
    path: str | None = None,
    keep: bool = False,
    dry_run: bool = True,
    tell: Callable[[PogfastError], None] = lambda error: None,
    warn: Callable[[str], None] = lambda text: None,
) -> Summary:
    """Writes a new manifest for each archive, without the names that the patterns of `exclude` match (restic's rules),
    and removes the old archive as `remove` does unless `keep`.

    The new archive has the old one's time, host, tags and paths, and a name one microsecond later, so that policies
    treat it as the old one. A prune deletes blobs that only the old one needs, after its grace period. The key must
    open the archives. Raises UsageError, NoSuchArchive, WrongKey, CorruptManifest and StoreError.
    """
    patterns = Patterns(list(exclude))
    if not patterns:
        raise UsageError("no pattern says what to leave out", hint="give --exclude PATTERN")
    summary = Summary(dry_run)
    problem = _noted(summary.problems, tell)
    with contextlib.ExitStack() as stack:
        hear = _either(problem, warn)
        found = _by_store(archives, key, stack, host=host, tags=tags, path=path, tell=hear)
        for store, names in found:
            for name in names:
                summary.archives.append(_rewrite(store, name, key, patterns, keep, dry_run, problem, warn))
    if not any(done.left_out for done in summary.archives):
        problem(NoSuchEntry("no name in any of these archives matches: nothing was rewritten"))
    return summary


def _rewrite(
    store: Store,
    name: str,
    key: Key,
    patterns: Patterns,
    keep: bool,
    dry_run: bool,
    problem: Callable[[PogfastError], None],
    warn: Callable[[str], None],
) -> Rewritten:
    done = Rewritten(name, kept=True)
    opened = fetched_manifest(store, name, lambda data: manifest.open(data, key, name))
    writer = manifest.Writer(key)
    needed, size = _copy_entries(opened.entries, writer, patterns, done, store)
    _warn_of_copies(opened.entries, done, needed, warn)
    trailer = _without(opened.trailer, patterns, done, name)
    if not done.left_out:
        return done
    if not len(writer) and not any(trailer.get(section) for section in SECTIONS[:3]):
        raise UsageError(f"{name}: the patterns match everything in it", hint="`pogfast remove` removes an archive")
    if dry_run:
        return done
    if "parents" in trailer:
        trailer["parents"] = _parents(trailer, set(opened.entries).difference(done.left_out))
    if "totals" in trailer:
        trailer["totals"] = _totals(trailer, needed, len(writer), size)
    data = writer.seal(trailer or None)
    done.new = _next_name(store, name)
    publish_while(store, done.new, data, {name, name + REMOVED})
    if not keep:
        done.kept = bool(locked := store.locked([name]))
        if locked:
            problem(_locked(f"{name}: the old archive stays, it is", locked[name], name))
        else:
            store.remove_manifest(name)
    return done


def _copy_entries(
    entries: Mapping[str, Entry], writer: manifest.Writer, patterns: Patterns, done: Rewritten, store: Store
) -> tuple[dict[str, int], int]:
    """Adds the entries that stay to a new manifest. Returns (the blobs that they need, with their stored sizes; the
    uncompressed bytes of their files).

    If the first name of several hard links is left out, the next one becomes the first."""
    firsts: dict[str, str] = {}
    needed: dict[str, int] = {}
    size = 0
    for name, entry in entries.items():
        if patterns.matches(name):
            done.left_out.append(name)
            done.size += entry.size or 0
            firsts.setdefault(name, "")
            continue
        first = entry.more.get("hardlink")
        if isinstance(first, str) and first in firsts:
            entry.more["hardlink"] = firsts[first]
            if not firsts[first]:
                del entry.more["hardlink"]
                firsts[first] = name
        writer.add(name, entry)
        size += 0 if "hardlink" in entry.more else entry.size or 0
        for blob in entry.blobs:
            if blob not in needed:
                needed[blob] = store.size_of(blob) or 0
    return needed, size


def _warn_of_copies(
    entries: Mapping[str, Entry], done: Rewritten, needed: Mapping[str, int], warn: Callable[[str], None]
) -> None:
    """Warns if the content of a name that is left out stays in the archive under another name."""
    copied = [name for name in done.left_out if any(blob in needed for blob in entries[name].blobs)]
    if copied:
        warn(f"{done.name}: content of {copied[0]} stays in the archive under another name that no pattern matches")


def _without(trailer: Mapping[str, Any] | None, patterns: Patterns, done: Rewritten, name: str) -> dict[str, Any]:
    """Returns the trailer without the names that are left out. Raises CorruptManifest."""
    left = dict(trailer or {})
    for section in SECTIONS:
        known = Trailer(trailer).required(section, name)
        gone = [each for each in known if patterns.matches(each)]
        if gone:
            done.left_out += gone
            left[section] = {each: metadata for each, metadata in known.items() if not patterns.matches(each)}
    if isinstance(changed := left.get("changed"), list):
        left["changed"] = [each for each in changed if isinstance(each, str) and not patterns.matches(each)]
    return left


def _parents(trailer: Mapping[str, Any], files: Iterable[str]) -> dict[str, Any]:
    """Returns the metadata of those parent directories that the new archive still has something below."""
    parents = trailer["parents"]
    passed: set[str] = set()
    for name in chain(files, *(trailer.get(section, ()) for section in SECTIONS[:3])):
        above = name.rpartition("/")[0]
        while above and above not in passed:
            passed.add(above)
            above = above.rpartition("/")[0]
    return {name: metadata for name, metadata in parents.items() if name in passed} if isinstance(parents, dict) else {}


def _totals(trailer: Mapping[str, Any], needed: Mapping[str, int], files: int, size: int) -> dict[str, int]:
    counts = {section: len(trailer.get(section, {})) for section in SECTIONS[:3]}
    return {"files": files, **counts, "size": size, "stored": sum(needed.values())}


def _next_name(store: Store, name: str) -> str:
    """Returns an unused name for a manifest that follows another in time as closely as possible."""
    taken = {stored.name.removesuffix(REMOVED) for stored in [*store.manifests(), *store.marks()]}
    return next(free for free in _names_after(name.removesuffix(MANIFEST)) if free not in taken)


def _names_after(stem: str) -> Iterator[str]:
    try:
        time = datetime.fromisoformat(stem)
    except ValueError:
        time = datetime.now()
    while True:
        time += timedelta(microseconds=1)
        yield time.isoformat(timespec="microseconds") + MANIFEST

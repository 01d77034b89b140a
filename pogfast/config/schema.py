"""The schema of `pogfast.toml`: which tables and settings there are, their types, and what each means.

Words are those of the command line, without the dashes in front. Values are read by msgspec; sizes, durations and the
like by classes with a method `read`. Knows neither files nor inheritance: values.py reads tables by this schema, and
loading.py merges them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, ClassVar, Literal, TypeVar

from msgspec import Meta, Struct, field

from pogfast.config.calendar import Calendar
from pogfast.errors import UsageError
from pogfast.sizes import LEVELS, MAX_JOBS, parse_rate, parse_seconds, parse_share, parse_size, parse_whole
from pogfast.stores.settings import parse_packs
from pogfast.stores.timetable import Timetable
from pogfast.upkeep.retention import UNLIMITED, Policy, Span

Kind = TypeVar("Kind")
URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s]+")
HOOK_TIMEOUT = 3600.0  # seconds: a hook that hangs must not prevent all later backups
LONG_TIMEOUT = (
    86400.0  # seconds of a command whose output is archived, and of waiting for another run: nothing is for ever
)


# ---- values ----------------------------------------------------------------------------------------------------------


def _text(given: object, what: str) -> str:
    if not isinstance(given, str):
        raise ValueError(f"must be {what}, in quotes")
    return given


def _parsed(parse: Callable[[str], Kind], given: object, what: str) -> Kind:
    """Returns what `parse` makes of text. Raises ValueError with its message, without the option that it names."""
    try:
        return parse(_text(given, what))
    except UsageError as error:
        hint = f": {error.hint}" if error.hint else ""
        raise ValueError(str(error).removeprefix("=") + hint) from error


class Size(int):
    """Bytes: 50MB, 4MiB, or a number."""

    @classmethod
    def read(cls, given: object) -> Size:
        if isinstance(given, int) and not isinstance(given, bool) and 1 <= given < 2**63:
            return cls(given)
        return cls(_parsed(lambda text: parse_size("", text), given, "a size such as 50MB"))


class Seconds(float):
    """A length of time: 90s, 5m, 24h, 7d."""

    @classmethod
    def read(cls, given: object) -> Seconds:
        return cls(_parsed(lambda text: parse_seconds("", text, bare=False), given, "a length of time such as 24h"))


class Timeout(Seconds):
    """A length of time that is not 0."""

    @classmethod
    def read(cls, given: object) -> Timeout:
        found = cls(super().read(given))
        if not found:
            raise ValueError("must be longer than 0")
        return found


class Count(int):
    """A number of archives, or "unlimited"."""

    @classmethod
    def read(cls, given: object) -> Count:
        if given == "unlimited":
            return cls(UNLIMITED)
        if isinstance(given, int) and not isinstance(given, bool) and 0 <= given <= 10**9:
            return cls(given)
        raise ValueError('must be a number of archives, or "unlimited"')


class CalendarSpan(str):
    """A length of time in calendar units: 2y5m7d3h."""

    @classmethod
    def read(cls, given: object) -> CalendarSpan:
        return cls(_parsed(lambda text: Span.parse(text) and text, given, "a length of time such as 1y6m"))


class ShareOf(str):
    """A size, a percentage, or "unlimited"."""

    @classmethod
    def read(cls, given: object) -> ShareOf:
        return cls(_parsed(lambda text: parse_share("", text) and text, given, "a size or a percentage"))


class Packs(int):
    """The size of packs in bytes: "yes" for the usual one, or a size."""

    @classmethod
    def read(cls, given: object) -> Packs:
        return cls(_parsed(lambda text: parse_packs("packs", text), str(given), '"yes" or a size such as 16MiB'))


class Endpoint(str):
    """HOST:PORT."""

    @classmethod
    def read(cls, given: object) -> Endpoint:
        host, _, port = _text(given, "HOST:PORT").rpartition(":")
        try:
            parse_whole("the port", port, 1, 65535)
        except UsageError:
            host = ""
        if not host:
            raise ValueError(f"{given} is not HOST:PORT")
        return cls(given)


class When(str):
    """A calendar expression: daily, Mon..Fri 02:30."""

    @classmethod
    def read(cls, given: object) -> When:
        calendar = _parsed(Calendar.parse, given, "a calendar expression")
        if calendar.after(datetime.now()) is None:
            raise ValueError(f"{given} never comes")
        return cls(calendar.text)

    @property
    def calendar(self) -> Calendar:
        return Calendar.parse(self)


class Secret:
    """A URL that only its user knows: text, or where it is: { file = PATH }, { variable = NAME } of the environment, or
    { credential = NAME } that systemd passes. Neither shown nor part of any text."""

    PLACES = ("file", "variable", "credential")

    def __init__(self, given: object) -> None:
        self.given = given

    @classmethod
    def read(cls, given: object) -> Secret:
        if isinstance(given, str) and URL.fullmatch(given):
            return cls(given)
        if not isinstance(given, dict) or len(given) != 1 or next(iter(given)) not in cls.PLACES:
            raise ValueError("must be a URL, { file = PATH }, { variable = NAME } or { credential = NAME }")
        [(place, name)] = given.items()
        if not isinstance(name, str) or not name or "\0" in name:
            raise ValueError(f"has a {place} that is no text")
        if place == "file" and not os.path.isabs(os.path.expanduser(name)):
            raise ValueError("has a file that is a relative path: write the whole path")
        if place == "credential" and ("/" in name or name in (".", "..")):
            raise ValueError("has a credential that is not the name of one")
        return cls(given)

    @property
    def credential(self) -> str | None:
        return self.given.get("credential") if isinstance(self.given, dict) else None

    @property
    def variable(self) -> str | None:
        return self.given.get("variable") if isinstance(self.given, dict) else None

    @property
    def file(self) -> str | None:
        return os.path.expanduser(self.given["file"]) if isinstance(self.given, dict) and "file" in self.given else None

    def __repr__(self) -> str:
        return "Secret()"


class Path(str):
    """A path. Relative ones start from the directory of the file that they are written in; ~ is the home directory."""


class Address(str):
    """The address of a store, as on the command line. A relative directory is like a relative `Path`."""


Word = Annotated[str, Meta(min_length=1)]
Command = Annotated[list[Word], Meta(min_length=1)]  # a program and its arguments; no shell is involved
Jobs = Annotated[int, Meta(ge=1, le=MAX_JOBS)]


class Table(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab", omit_defaults=True):
    """What is common to all tables."""

    NOT_IN_FILES: ClassVar[tuple[str, ...]] = ()  # fields that are no settings: who reads the table sets them


# ---- tables ----------------------------------------------------------------------------------------------------------


class Store(Table, frozen=True, kw_only=True):
    """[stores.NAME]: where archives are kept."""

    NOT_IN_FILES: ClassVar[tuple[str, ...]] = ("name",)

    address: Address
    name: str = ""
    packs: Packs | None = None  # bytes


class Stream(Table, frozen=True, kw_only=True):
    """A source that is the output of a command."""

    command: Command
    name: Word  # that it is archived under
    timeout: Timeout = Timeout(LONG_TIMEOUT)  # after which the command is ended, and no archive is made


class Key(Table, frozen=True, kw_only=True):
    """Where a key is: in a file, in a credential that systemd passes, or printed by a command (a password)."""

    file: Path | None = None
    credential: str | None = None
    command: Command | None = None
    kind: Literal["public", "private", "keyfile", "password"] | None = None

    @property
    def is_of(self) -> str:
        """The kind of the key."""
        return self.kind or ("password" if self.command is not None else "public")

    def problem(self) -> str:
        """Returns what is wrong with this key, or ""."""
        given = [word for word in ("file", "credential", "command") if getattr(self, word) is not None]
        if len(given) != 1:
            return "a key is one of file, credential and command" + (f", not {' and '.join(given)}" if given else "")
        if self.command is not None and self.is_of != "password":
            return "a command prints a password: no other kind"
        if self.credential is not None and ("/" in self.credential or self.credential in ("", ".", "..")):
            return f"{self.credential} is not the name of a credential"
        return ""


class Copy(Table, frozen=True, kw_only=True):
    """[profiles.NAME.copy]: stores that get what another store has."""

    to: list[str]
    from_: str | None = field(default=None, name="from")  # None: the first of the profile's stores
    verify: bool = False


class Retention(Table, frozen=True, kw_only=True):
    """[profiles.NAME.retention]: which archives prune keeps."""

    stores: list[str] = []  # none: all stores of the profile, and those that it copies to
    every: Seconds | None = None  # as in Check
    keep_last: Count = Count(0)
    keep_hourly: Count = Count(0)
    keep_daily: Count = Count(0)
    keep_weekly: Count = Count(0)
    keep_monthly: Count = Count(0)
    keep_yearly: Count = Count(0)
    keep_within: CalendarSpan | None = None
    keep_within_hourly: CalendarSpan | None = None
    keep_within_daily: CalendarSpan | None = None
    keep_within_weekly: CalendarSpan | None = None
    keep_within_monthly: CalendarSpan | None = None
    keep_within_yearly: CalendarSpan | None = None
    keep_tags: list[str] = []  # each is TAG or TAG,TAG
    keep_all: bool = False
    group_by: list[Literal["host", "paths", "tags"]] = field(default_factory=lambda: ["host", "paths"])
    host: str | None = None
    tags: list[str] = []
    path: str | None = None
    grace: Seconds | None = None
    max_unused: ShareOf | None = None
    max_repack: ShareOf | None = None

    def policy(self) -> Policy:
        """Returns the policy of the rules."""
        rules = ("last", "hourly", "daily", "weekly", "monthly", "yearly")
        spans = ("within", *(f"within_{rule}" for rule in rules[1:]))
        given = {rule: getattr(self, f"keep_{rule}") for rule in (*rules, *spans)}
        spans_given = {rule: Span.parse(given[rule]) for rule in spans if given[rule] is not None}
        tags = tuple(frozenset(tag.strip() for tag in text.split(",")) for text in self.keep_tags)
        return Policy(**{**given, **spans_given}, tags=tags, everything=self.keep_all)


class Check(Table, frozen=True, kw_only=True):
    """[profiles.NAME.check]: looks for damage."""

    stores: list[str] = []  # none: all stores of the profile, and those that it copies to
    every: Seconds | None = None  # not in each run, but when the last time is that long ago
    read_data: bool = False
    read_data_subset: str | None = None
    max_age: Seconds | None = None  # it is a problem if data was not read for longer
    restore_test: Annotated[int, Meta(ge=1, le=10**6)] | None = None  # files that are restored to nowhere


class Hooks(Table, frozen=True, kw_only=True):
    """[profiles.NAME.hooks.VERB]: commands that run around a verb."""

    before: list[Command] = []
    after: list[Command] = []
    after_failure: list[Command] = []
    finally_: list[Command] = field(default_factory=list, name="finally")
    timeout: Timeout = Timeout(HOOK_TIMEOUT)  # of each command

    @property
    def commands(self) -> list[Command]:
        """All of them."""
        return [*self.before, *self.after, *self.after_failure, *self.finally_]


class RunHooks(Hooks, frozen=True, kw_only=True):
    """[profiles.NAME.hooks]: commands that run around a run, and around each of its verbs."""

    create: Hooks = Hooks()
    copy: Hooks = Hooks()
    prune: Hooks = Hooks()
    check: Hooks = Hooks()


class Needs(Table, frozen=True, kw_only=True):
    """[profiles.NAME.needs]: without which nothing is run."""

    network: list[Endpoint] = []  # that accept connections
    mounted: list[Path] = []
    mains_power: bool = False
    commands: list[Command] = []  # that succeed


class Priority(Table, frozen=True, kw_only=True):
    """[profiles.NAME.priority]: lower than that of other programs."""

    nice: Annotated[int, Meta(ge=0, le=19)] = 0
    io: Literal["normal", "low", "idle"] = "normal"


class Limit:
    """A limit of bytes a second: a rate such as "5MB", or a timetable of rates."""

    def __init__(self, given: object) -> None:
        self.given = given
        self.rate = parse_rate("", given) if isinstance(given, str) else Timetable.parse("the timetable", _slots(given))

    @classmethod
    def read(cls, given: object) -> Limit:
        try:
            return cls(given)
        except UsageError as error:
            raise ValueError(f"{str(error).removeprefix('=')}{f': {error.hint}' if error.hint else ''}") from error

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Limit) and self.rate == other.rate

    def __hash__(self) -> int:
        return hash(self.rate)


def _slots(given: object) -> list[dict[str, str]]:
    if not isinstance(given, list) or not given or not all(isinstance(slot, dict) for slot in given):
        raise ValueError(
            'must be a rate such as "5MB", or a list of slots: [{ from = "08:00", to = "18:00", rate = "1MB" }]'
        )
    return given


class CreateSettings(Table, frozen=True, kw_only=True):
    """The settings of create, which a profile that `tune --save` wrote may have, too."""

    chunker: str | None = None
    chunk_size: Size | None = None
    level: Annotated[int, Meta(ge=LEVELS[0], le=LEVELS[1])] | None = None
    jobs: Jobs | None = None
    pad: bool = False
    must_exist: bool = False
    packs: Packs | None = None  # for the stores that have no setting of their own


class Profile(CreateSettings, frozen=True, kw_only=True):
    """[profiles.NAME]: what is archived, where to, and what is done to these stores afterwards."""

    NOT_IN_FILES: ClassVar[tuple[str, ...]] = ("name",)

    name: str = ""
    inherit: list[str] | str = []  # other profiles; what is set here takes precedence, then the last of them
    stores: list[str] = []
    key: Key | None = None
    sources: list[str | Stream] = []
    directory: Path | None = None  # from which relative sources start
    exclude: list[str] = []
    iexclude: list[str] = []
    exclude_from: list[Path] = []
    exclude_if_present: list[str] = []
    exclude_caches: bool = False
    exclude_larger_than: Size | None = None
    one_file_system: bool = False
    files_from: list[Path] = []
    null: bool = False
    tags: list[str] = []
    host: str | None = None
    comment: str = ""
    layout: Literal["frames", "stream"] | None = None
    readers: Jobs | None = None
    memory: Size | None = None
    no_cache: bool = False
    cache_dir: Path | None = None
    copy: Copy | None = None
    retention: Retention | None = None
    check: Check | None = None
    hooks: RunHooks = RunHooks()
    needs: Needs = Needs()
    priority: Priority = Priority()
    limit_upload: Limit | None = None  # to services, of all stores together
    limit_download: Limit | None = None  # from them
    on_conflict: Literal["wait", "skip"] = "skip"  # while another run of the profile is under way
    wait_timeout: Timeout = Timeout(LONG_TIMEOUT)  # after which a run that waits for another fails
    log: Path | None = None  # a line of JSON for each run
    metrics: Path | None = None  # for Prometheus
    ping: Secret | None = None  # is told of the start and the end of each run
    notify: list[Secret] = []  # are told of runs that did not succeed
    schedule: When | None = None  # when `schedule enable` has it run
    spread: Seconds | None = None  # it starts up to this much later, so that not all machines start at once
    max_age: Timeout | None = None  # of the last run, after which the profile is late; None: as its schedule says

    @property
    def parents(self) -> list[str]:
        return [self.inherit] if isinstance(self.inherit, str) else self.inherit

    @property
    def paths(self) -> list[str]:
        """The sources that are files and directories."""
        return [os.path.expanduser(source) for source in self.sources if isinstance(source, str)]

    @property
    def streams(self) -> list[Stream]:
        """The sources that are the output of commands."""
        return [source for source in self.sources if isinstance(source, Stream)]

    @property
    def creates(self) -> bool:
        """Returns True if there is something to archive."""
        return bool(self.sources or self.files_from)

    @property
    def verbs(self) -> list[str]:
        """The verbs that a run consists of, in order."""
        wanted = {
            "create": self.creates,
            "copy": self.copy is not None,
            "prune": self.retention is not None,
            "check": self.check is not None,
        }
        return [verb for verb, is_wanted in wanted.items() if is_wanted]

    @property
    def all_stores(self) -> list[str]:
        """The names of the stores that a run leaves archives in."""
        return [*dict.fromkeys([*self.stores, *(self.copy.to if self.copy else [])])]

    @property
    def pruned(self) -> list[str]:
        """The names of the stores that are pruned."""
        return (self.retention.stores or self.all_stores) if self.retention else []

    @property
    def checked(self) -> list[str]:
        """The names of the stores that are checked."""
        return (self.check.stores or self.all_stores) if self.check else []


class Group(Table, frozen=True, kw_only=True):
    """[groups.NAME]: profiles that are run one after the other."""

    NOT_IN_FILES: ClassVar[tuple[str, ...]] = ("name",)

    profiles: Annotated[list[str], Meta(min_length=1)]
    name: str = ""


class File(Table, frozen=True, kw_only=True):
    """A whole file."""

    include: list[str] | str = []  # other files, and patterns of these
    stores: dict[str, Store] = {}
    profiles: dict[str, Profile] = {}
    groups: dict[str, Group] = {}

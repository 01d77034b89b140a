"""Runs the real commands over one store in exact interleavings: a test decides who runs, how far, and what time it is.

An `Actor` is a command (create, prune, undelete ...) in a thread of its own. It stops before every operation of its
store: a method of a directory (or, if `fine`, each of its system calls), or a request to a service. A test lets it do
one step, or many, or kills it there, or freezes it while time passes. Time belongs to the `World`: the wall clock and
the elapsed time of the commands, the times of change that a store writes, and the length of sleeps. Nothing waits in
real time, and a schedule is the same in every run.

Nothing here knows how prunes and backups coordinate: it wraps stores, clocks and threads, and calls public functions.
"""

from __future__ import annotations

import contextlib
import datetime as real_datetime
import mmap
import os
import shutil
import struct
import sys
import tempfile
import threading
import time as real_time
import traceback
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any

import pogfast
import pogfast._engine as engine
from pogfast import backup, keys, manifest
from pogfast.archives import archive
from pogfast.backup import going_on, merging
from pogfast.errors import MissingBlob, PogfastError
from pogfast.pog import create as pog_create
from pogfast.pog.addresses import open_targets
from pogfast.sizes import Share
from pogfast.stores import publish
from pogfast.stores.local import LocalStore
from pogfast.stores.names import PACKS, SETTINGS
from pogfast.stores.packs import index_cache, layout, opening, repacking, sink
from pogfast.stores.s3 import S3Service
from pogfast.system import background
from pogfast.upkeep import checking, copying, pruning
from pogfast.upkeep.retention import Policy

LOADED = (
    *(archive, backup, background, going_on, merging, checking, copying, keys, manifest, pog_create, pruning, publish),
    *(index_cache, opening, repacking, sink),
)
KEY = keys.Key("keyfile", bytes(32))
CONTENTS = ("one", "two", "three", "four")
START = 4_000_000_000.0  # seconds since 1970: far from now, so that times written by the system can be recognized
REAL = 3_900_000_000.0  # earlier times were written by the system
TICK = 0.037  # seconds for each step
NAP = 20.0  # the shortest sleep in seconds, for loops that poll
HOUR, DAY = 3600.0, 86400.0
GRACE = DAY
HANGS = 120.0  # real seconds after which an actor hangs
IDLE = 0.1


class Killed(BaseException):
    """Raised in an actor that is killed, and in its threads at their next step."""


# ---- who stops where -------------------------------------------------------------------------------------------------


class Task:
    """The state of one thread of an actor."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.at = ""  # the operation that it is about to do; "" while it runs or sleeps
        self.until: float | None = None  # when its sleep ends
        self.go = False


WORLDS: list[World] = []


def current_actor() -> Actor | None:
    """Returns the actor that this thread works for."""
    return getattr(threading.current_thread(), "actor", None)


class Actor(threading.Thread):
    """A command that runs step by step. `skew` is how many seconds its clock is ahead of the world's."""

    def __init__(self, world: World, label: str, act: Callable[[], Any], skew: float = 0.0, *, fine: bool = False):
        super().__init__(daemon=True, name=label)
        self.world, self.label, self.act, self.skew, self.fine = world, label, act, skew, fine
        self.actor = self
        self.tasks: dict[int, Task] = {}
        self.over = self.killed = self.begun = False
        self.result: Any = None
        self.failure: PogfastError | None = None
        self.crash = ""
        self.arrivals = 0
        self.granted: Task | None = None
        self.slept = False  # for an hour or more, so that it may give up
        self.frozen_at: float | None = None
        self.frozen_until = 0.0
        self.suspended = 0.0  # seconds that CLOCK_MONOTONIC has missed
        self.suspends = False
        self.steps = 0
        world.actors.append(self)

    # -- in its threads --

    def run(self) -> None:
        try:
            self.stop_before("begin")
            self.result = self.act()
        except Killed:
            pass
        except PogfastError as error:
            self.failure = error
        except BaseException:  # noqa: BLE001 (a test shows it)
            self.crash = traceback.format_exc()
        finally:
            with self.world.changed:
                self.over = True
                self.arrivals += 1
                self.world.changed.notify_all()

    def _task(self) -> Task:
        me = threading.get_ident()
        if me not in self.tasks:
            self.tasks[me] = Task(threading.current_thread().name)
        return self.tasks[me]

    def stop_before(self, verb: str) -> None:
        """Waits until the test lets this thread do an operation."""
        with self.world.changed:
            task = self._task()
            task.at, task.until = verb, None
            self._wait(task, lambda: False)

    def sleep(self, seconds: float, awake: Callable[[], bool] = lambda: False) -> None:
        with self.world.changed:
            task = self._task()
            task.at, task.until = "", self.world.now + seconds
            self._wait(task, awake)

    def _wait(self, task: Task, awake: Callable[[], bool]) -> None:
        """Must be called with the lock held."""
        if self.killed:
            raise Killed
        task.go = False
        if task.at or task in (self.main, self.granted):  # else a thread has come beside what still works
            self.arrivals += 1
        self.world.changed.notify_all()
        self.world.changed.wait_for(lambda: task.go or self.killed or awake())
        task.at, task.until = "", None
        if self.killed:
            raise Killed

    def thread_ended(self) -> None:
        with self.world.changed:
            self.tasks.pop(threading.get_ident(), None)
            if self.main and (self.main.at or self.main.until is not None):
                self.arrivals += 1
            self.world.changed.notify_all()

    # -- for who directs --

    @property
    def next(self) -> str:
        """The operation that it is about to do; "" if it has ended, or sleeps."""
        return next((task.at for task in self.tasks.values() if task.at), "")

    @property
    def main(self) -> Task | None:
        return self.tasks.get(self.ident or 0)

    @property
    def is_frozen(self) -> bool:
        if self.frozen_at is not None and self.frozen_until <= self.world.now:
            self.thaw()
        return self.frozen_at is not None

    def begin(self) -> Actor:
        if not self.begun:
            self.begun = True
            before = self.arrivals
            self.start()
            self._until(lambda: self.arrivals > before)
        return self

    def step(self) -> Actor:
        """Does one step. A sleeping actor wakes up, and the time of its sleep passes."""
        self.begin()
        if self.over or self.is_frozen:
            return self
        with self.world.changed:
            task = next((task for task in self.tasks.values() if task.at), self.main)
            assert task is not None
            assert task.at or task.until is not None, f"{self.label} waits for a thread that sleeps"
            nap = max(task.until - self.world.now, NAP) if task.until is not None else 0.0
        if nap:
            self.world.advance(nap, but=task)
            if self.over or self.is_frozen:
                return self
        self.world.note(self, task.at or "wakes up")
        self._grant(task)
        return self

    def _grant(self, task: Task) -> None:
        self.world.now += TICK
        self.world.show_time()
        with self.world.changed:
            before = self.arrivals
            self.granted = task
            task.at, task.until, task.go = "", None, True
            self.world.changed.notify_all()
            # A thread that has nothing more to do waits where that is not seen; then another one is ready.
            others = any(other.at for other in self.tasks.values())
            self.world.changed.wait_for(lambda: self.arrivals > before or self.over, IDLE if others else 0)
            others = others and any(other.at for other in self.tasks.values())
        self._until(lambda: self.arrivals > before or self.over or others)
        self.steps += 1
        self.world.date_files()

    def _until(self, arrived: Callable[[], bool]) -> None:
        with self.world.changed:
            assert self.world.changed.wait_for(arrived, HANGS), f"{self.label} hangs: {self._stacks()}"

    def _stacks(self) -> str:
        stacks = [traceback.format_stack(frame) for me, frame in sys._current_frames().items() if me in self.tasks]
        return "\n".join(map("".join, stacks))

    def go(self, steps: int) -> Actor:
        for _ in range(steps):
            if self.over or self.is_frozen:
                break
            self.step()
        return self

    def until(self, wanted: Callable[[str], bool] | str, nth: int = 1) -> Actor:
        """Continues until it is about to do the nth operation from here whose text contains `wanted`."""
        is_wanted = (lambda verb: wanted in verb) if isinstance(wanted, str) else wanted
        for _ in range(3000):
            self.begin()
            if self.over or self.is_frozen:
                return self
            if is_wanted(self.next):
                nth -= 1
                if not nth:
                    return self
            self.step()
        raise AssertionError(f"{self.label} never comes to that")

    def go_until(self, wanted: Callable[[str], bool], steps: int) -> Actor:
        """Continues until it is about to do a wanted operation, for a maximum number of steps."""
        for _ in range(steps):
            self.begin()
            if self.over or self.is_frozen or wanted(self.next):
                break
            self.step()
        return self

    def finish(self) -> Actor:
        """Continues to its end, however long it waits for others."""
        return self.until(lambda verb: False)

    def kill(self) -> None:
        """Kills it, as kill -9 does: nothing reaches the store any more."""
        if self.over or not self.begun:
            self.over = self.killed = True
            return
        self.world.note(self, f"kill -9 before {self.next}")
        with self.world.changed:
            self.killed = True
            self.world.changed.notify_all()
        self.join(HANGS)
        assert not self.is_alive(), f"{self.label} outlives its end: {self._stacks()}"

    def freeze(self, seconds: float, *, suspends: bool) -> None:
        """Stops it for a number of seconds; with `suspends` its CLOCK_MONOTONIC stops as well."""
        if self.over or self.is_frozen:
            return
        self.world.note(self, f"freezes for {seconds:.0f} s before {self.next}")
        self.frozen_at, self.frozen_until, self.suspends = self.world.now, self.world.now + seconds, suspends

    def thaw(self) -> None:
        if self.frozen_at is not None:
            if self.suspends:
                self.suspended += self.world.now - self.frozen_at
            self.frozen_at = None
            self.world.note(self, "goes on")


# ---- what is put in the place of clocks, threads and stores ----------------------------------------------------------


class Clock:
    """The module `time` with the world's clock for actors, and the real one for all others."""

    def __getattr__(self, name: str) -> Any:
        return getattr(real_time, name)

    def time(self) -> float:
        actor = current_actor()
        return actor.world.read_clock() + actor.skew if actor else real_time.time()

    def time_ns(self) -> int:
        return int(self.time() * 1e9) if current_actor() else real_time.time_ns()

    def boottime(self) -> float:
        actor = current_actor()
        return actor.world.read_clock() - START + 1000.0 if actor else real_time.clock_gettime(7)

    def monotonic(self) -> float:
        actor = current_actor()
        return self.boottime() - actor.suspended if actor else real_time.monotonic()

    def monotonic_ns(self) -> int:
        return int(self.monotonic() * 1e9)

    def clock_gettime(self, which: int) -> float:
        if not current_actor():
            return real_time.clock_gettime(which)
        clocks = {real_time.CLOCK_REALTIME: self.time, real_time.CLOCK_MONOTONIC: self.monotonic}
        return clocks.get(which, self.boottime)()

    def clock_gettime_ns(self, which: int) -> int:
        return int(self.clock_gettime(which) * 1e9)

    def sleep(self, seconds: float) -> None:
        actor = current_actor()
        if actor:
            actor.sleep(seconds)
        else:
            real_time.sleep(seconds)


CLOCK = Clock()


class _Anything(type):
    def __instancecheck__(cls, thing: object) -> bool:
        return isinstance(thing, real_datetime.datetime)


class Dated(real_datetime.datetime, metaclass=_Anything):
    """`datetime` with an actor's clock."""

    @classmethod
    def now(cls, tz: real_datetime.tzinfo | None = None) -> Dated:
        return cls.fromtimestamp(CLOCK.time(), tz)


class Event(threading.Event):
    """An event that an actor's threads wait for by the world's clock."""

    def wait(self, timeout: float | None = None) -> bool:
        actor = current_actor()
        if actor is None or timeout is None:
            return super().wait(timeout)
        if threading.current_thread().name == "pogfast-sync":
            return super().wait()  # every half second, for what is not seen here
        if not self.is_set():
            actor.sleep(timeout, self.is_set)
        return self.is_set()

    def set(self) -> None:
        super().set()
        for world in WORLDS:
            with world.changed:
                world.changed.notify_all()


class Threading:
    """The module `threading`, with such events."""

    Event = Event

    def __getattr__(self, name: str) -> Any:
        return getattr(threading, name)


class Inline:
    """A pool without threads: tasks run at once, so that their order is always the same."""

    def __init__(self, *words: object, **more: object) -> None: ...

    def submit(self, act: Callable[..., Any], *words: Any, **more: Any) -> Future[Any]:
        future: Future[Any] = Future()
        actor = current_actor()
        if actor is not None and "delete" in getattr(act, "__name__", ""):  # a request of its own
            actor.stop_before(f"{act.__name__} {_words(words)[1]}")
        try:
            future.set_result(act(*words, **more))
        except Exception as error:  # noqa: BLE001 (it is raised where the result is asked for)
            future.set_exception(error)
        return future

    def map(self, act: Callable[..., Any], *lists: Any) -> Iterator[Any]:
        return iter([act(*words) for words in zip(*lists, strict=False)])

    def shutdown(self, wait: bool = True, cancel_futures: bool = False) -> None: ...

    def __enter__(self) -> Inline:
        return self

    def __exit__(self, *failure: object) -> None: ...


def Paced(secret: bytes, asymmetric: bool, source: Any, sinks: Any, **more: Any) -> Any:
    """A Sealer that takes one file after the other, with a step between two."""
    actor = current_actor()
    if actor is None:
        return engine.Sealer(secret, asymmetric, source, sinks, **more)
    sealer: Any = None

    def paced() -> Iterator[Any]:
        files = 0
        for one in source:
            yield one
            if one is None:
                continue
            files += 1
            while sealer.progress().blobs_new + sealer.progress().blobs_known < files:
                yield None
            actor.stop_before("file stored")

    sealer = engine.Sealer(secret, asymmetric, paced(), sinks, **more)
    return sealer


class Calls:
    """The module `os` as a directory's store sees it: an actor that is `fine` stops before each call that reads or
    changes the directory."""

    def __getattr__(self, name: str) -> Any:
        found = getattr(os, name)
        if name not in {"rename", "replace", "link", "unlink", "remove", "stat", "mkdir", "rmdir", "utime", "listdir"}:
            return found

        def call(*words: Any, **more: Any) -> Any:
            _stop_fine(f"os.{name} {' '.join(word for word in words if isinstance(word, str))}")
            return found(*words, **more)

        return call

    def open(self, path: Any, flags: int, *words: Any, **more: Any) -> int:
        if not flags & os.O_DIRECTORY:
            _stop_fine(f"os.open {path}")
        return os.open(path, flags, *words, **more)

    @contextlib.contextmanager
    def scandir(self, path: Any = ".") -> Iterator[Iterator[Any]]:
        _stop_fine("os.scandir")
        with os.scandir(path) as entries:
            yield iter([_Entry(entry) for entry in sorted(entries, key=lambda entry: entry.name)])


class _Entry:
    """A directory entry whose name was read earlier than its metadata."""

    def __init__(self, entry: os.DirEntry[str]) -> None:
        self.entry, self.name, self.path = entry, entry.name, entry.path

    def stat(self, **more: Any) -> os.stat_result:
        _stop_fine(f"stat {self.name}")
        return self.entry.stat(**more)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.entry, name)


def _stop_fine(verb: str) -> None:
    actor = current_actor()
    if actor is not None and actor.fine:
        actor.stop_before(verb)


def _words(words: tuple[Any, ...]) -> tuple[tuple[Any, ...], str]:
    """Returns arguments with lists in place of iterators, and their text."""
    kept = tuple(list(word) if hasattr(word, "__next__") else word for word in words)
    return kept, " ".join(map(_said, kept))


def _said(word: Any) -> str:
    """Returns names, for anything that has one."""
    if isinstance(word, list | tuple):
        return " ".join(map(_said, word))
    return word if isinstance(word, str) else getattr(word, "name", "")


def _stepped(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    def verb(self: Any, *words: Any, **more: Any) -> Any:
        actor = current_actor() or getattr(self, "actor", None)
        if actor is None or (actor.fine and isinstance(self, LocalStore)):
            return method(self, *words, **more)
        words, said = _words(words)
        actor.stop_before(f"{name} {said}".rstrip())
        found = method(self, *words, **more)
        if not hasattr(found, "__next__"):
            return found
        return _one_by_one(found, name, actor) if "delete" in name else iter(list(found))

    return verb


def _one_by_one(found: Iterator[Any], name: str, actor: Actor) -> Iterator[Any]:
    for one in found:
        yield one
        actor.stop_before(f"{name} goes on")


# What asks nothing of the store, or only of this side.
NO_VERBS = {
    "create", "open", "close", "own_directories", "begin_durable", "source", "identity", "has_folder", "make_folder",
    "can_lock", "examine", "thaw", "abandon", "prefetch", "doubt",
}  # fmt: skip
SERVICE_VERBS = {"open"}


def _verbs(kind: type) -> Iterator[tuple[str, Callable[..., Any]]]:
    for name, found in vars(kind).items():
        wanted = name not in NO_VERBS or (kind is not LocalStore and name in SERVICE_VERBS)
        if not name.startswith("_") and callable(found) and wanted:
            yield name, found


def _noting(method: Callable[..., None]) -> Callable[..., None]:
    """A constructor that keeps the actor for which it makes a store."""

    def make(self: Any, *words: Any, **more: Any) -> None:
        method(self, *words, **more)
        self.actor = current_actor()

    return make


_start = threading.Thread.start


def _start_for(thread: threading.Thread) -> None:
    """Starts a thread that works for the same actor."""
    actor = current_actor()
    if actor is None or isinstance(thread, Actor):
        _start(thread)
        return
    thread.actor = actor  # type: ignore[attr-defined]
    run = thread.run

    def run_and_tell() -> None:
        try:
            run()
        except Killed:
            pass
        finally:
            actor.thread_ended()

    thread.run = run_and_tell  # type: ignore[method-assign]
    _start(thread)


def _replacements() -> list[tuple[Any, str, Any]]:
    """Yields (module or class, attribute, replacement) for everything that reads a clock, starts threads or accesses a
    store."""
    instead: list[tuple[Any, Any]] = [
        (real_time, CLOCK),
        (real_datetime.datetime, Dated),
        (threading, Threading()),
        (engine.Sealer, Paced),
        *((getattr(real_time, name), getattr(CLOCK, name)) for name in vars(Clock) if hasattr(real_time, name)),
    ]
    found: list[tuple[Any, str, Any]] = []
    for module_name, module in list(sys.modules.items()):
        if module is None or not module_name.startswith("pogfast") or module is engine:
            continue
        for name, value in list(vars(module).items()):
            found += [(module, name, new) for old, new in instead if value is old]
            if getattr(value, "__name__", "") == "ThreadPoolExecutor":
                found.append((module, name, Inline))
            if value is os and module_name.startswith("pogfast.stores"):
                found.append((module, name, Calls()))
    for kind in (LocalStore, S3Service):
        found += [(kind, name, _stepped(name, method)) for name, method in _verbs(kind)]
        found.append((kind, "__init__", _noting(kind.__init__)))
    found.append((threading.Thread, "start", _start_for))
    return found


# ---- the world -------------------------------------------------------------------------------------------------------


class World:
    """A store, what is known of it, and the time."""

    def __init__(self, service: S3 | None = None, *, packed: bool = False) -> None:
        """Makes a directory, or a new bucket of `service`. If `packed`, even a single blob is put into a pack, and each
        prune repacks all that it may."""
        self.service = service
        self.packed = packed
        self.tables: dict[str, list[str]] = {}  # the blobs of each pack
        self.changed = threading.Condition()
        self.actors: list[Actor] = []
        self.now = START
        self.log: list[str] = []
        self.done: dict[str, frozenset[str]] = {}  # archives that were reported as done, and what is in them
        self.gone: dict[str, float] = {}  # those that were removed: when that was seen first
        self.expired: set[str] = set()  # those of them that need not be there any more
        self.indexes: dict[str, frozenset[str]] = {}
        self.home = Path(tempfile.mkdtemp(prefix="pogfast-sweeps-", dir=SHM if os.path.isdir(SHM) else None))
        self.store = service.new_store() if service else str(self.home / "store")

    def __enter__(self) -> World:
        instead = [*replacements(), *(PACKING if self.packed else ())]
        self.replaced = [(place, name, vars(place)[name]) for place, name, _ in instead]
        for place, name, new in instead:
            setattr(place, name, new)
        WORLDS.append(self)
        self.show_time()
        if self.service:
            os.environ.update(self.service.server.environment)
        for content in CONTENTS:
            self.write(content, content.encode())
        if not self.service:
            os.makedirs(f"{self.store}/data")
        if self.packed:
            self.environment = os.environ.get("POGFAST_CACHE_DIR")
            os.environ["POGFAST_CACHE_DIR"] = str(self.home / "indexes")
            self._put(SETTINGS, layout.StoreSettings().serialize())
        return self

    def __exit__(self, kind: object, failure: object, trace: TracebackType | None) -> None:
        for actor in self.actors:
            actor.kill()
        WORLDS.remove(self)
        for place, name, old in reversed(self.replaced):
            setattr(place, name, old)
        if self.packed:
            os.environ.pop("POGFAST_CACHE_DIR")
            if self.environment is not None:
                os.environ["POGFAST_CACHE_DIR"] = self.environment
        if self.service:
            self.service.drop(self.store)
        shutil.rmtree(self.home, ignore_errors=True)

    def write(self, name: str, data: bytes) -> str:
        path = self.home / name
        path.write_bytes(data)
        os.utime(path, (10**9, 10**9))
        return str(path)

    def note(self, actor: Actor | None, what: str) -> None:
        self.log.append(f"{self.now - START:12.2f} {actor.label if actor else '':10} {what}")

    # -- time --

    def read_clock(self) -> float:
        self.now += 1e-6
        return self.now

    def show_time(self) -> None:
        if self.service:
            self.service.clock[:8] = struct.pack("d", self.now)

    def advance(self, seconds: float, but: Task | None = None) -> None:
        """Lets time pass. Background threads do their periodic work meanwhile; in more than two hours whole machines
        sleep."""
        if seconds >= 60:
            self.note(None, f"---- {seconds:.0f} s pass")
        self.date_files()
        self.lost()  # sees what has been removed by now
        for actor in self.actors:
            actor.slept |= actor.begun and seconds >= HOUR
        ends = self.now + seconds
        pace = 60.0 if seconds <= 2 * HOUR else seconds
        while self.now < ends:
            self.now = min(ends, self.now + pace)
            self.show_time()
            for actor in self.actors:
                self._wake(actor, but)
        if seconds >= HOUR:
            self.lost()  # and what need not be there any more

    def _wake(self, actor: Actor, but: Task | None) -> None:
        """Runs the background threads of an actor that are due, until they sleep again."""
        if actor.over or actor.is_frozen or not actor.begun:
            return
        for me, task in list(actor.tasks.items()):
            if me == actor.ident or task is but:
                continue
            if task.until is not None and task.until <= self.now:
                actor._grant(task)
                for _ in range(20):
                    if me not in actor.tasks or not task.at or actor.over:
                        break
                    self.note(actor, f"{task.at} (beside)")
                    actor._grant(task)

    def date_files(self) -> None:
        """Gives files that were written since the last call times of the world's clock."""
        if not self.service:
            _date(self.store, self.now)

    # -- who runs --

    def paths(self, contents: Collection[str]) -> list[str]:
        return [str(self.home / content) for content in contents]

    def creating(self, contents: Collection[str], label: str = "create", **more: Any) -> Actor:
        skew, fine = more.pop("skew", 0.0), more.pop("fine", False)
        cache = str(self.home / more.pop("cache")) if "cache" in more else ""

        def act() -> backup.Summary:
            done = backup.create(self.paths(contents), self.store, KEY, cache_directory=cache, jobs=1, **more)
            if not done.part:
                self.done[done.manifest] = frozenset(contents)
            return done

        return Actor(self, label, act, skew, fine=fine)

    def merging(self, contents: Collection[str], label: str = "merge") -> Actor:
        """Merges the shards that have stored `contents`."""

        def act() -> merging.Merged:
            done = merging.merge(self.store, KEY)
            self.done[done.manifest] = frozenset(contents)
            return done

        return Actor(self, label, act)

    def pruning(self, label: str = "PRUNE", grace: float = GRACE, **more: Any) -> Actor:
        skew, fine = more.pop("skew", 0.0), more.pop("fine", False)
        policy = Policy(**(more or {"last": 1}))

        def act() -> Any:
            unused = Share(percent=0 if self.packed else 10)
            return pruning.prune(self.store, KEY, policy, group_by=(), grace=grace, max_unused=unused, dry_run=False)

        return Actor(self, label, act, skew, fine=fine)

    def undeleting(self, name: str = "", label: str = "undelete", **more: Any) -> Actor:
        """Restores one removed archive, or all."""

        def act() -> Any:
            found = pruning.undelete(
                self.store, KEY, [name] if name else [], everything=not name, tell=lambda error: None
            )
            for back in found.done:
                self.gone.pop(back, None)
                self.expired.discard(back)
            return found

        return Actor(self, label, act, **more)

    def pogging(self, contents: Collection[str], label: str = "create by pog", **more: Any) -> Actor:
        """Runs pog's create."""

        def act() -> pog_create.Summary:
            sources = [pog_create.Source(path, path) for path in self.paths(contents)]
            [target] = open_targets(self.store.replace("//", "", 1) if self.service else f"local:{self.store}", _ignore)
            with contextlib.closing(target):
                done = pog_create.create(sources, KEY, [target], chunk_size=10**6, level=3, jobs=1, report=_Silent())
            self.done[done.manifest_name] = frozenset(contents)
            return done

        return Actor(self, label, act, **more)

    def rewriting(self, name: str, label: str = "rewrite", **more: Any) -> Actor:
        """Rewrites an archive without `one`."""

        def act() -> Any:
            found = pogfast.rewrite(f"{self.store}/{name}", KEY, "one", dry_run=False)
            for made in found.archives:
                if made.new:
                    self.done[made.new] = frozenset(CONTENTS)
            return found

        return Actor(self, label, act, **more)

    def removing(self, name: str, label: str = "remove", **more: Any) -> Actor:
        return Actor(self, label, lambda: pogfast.remove(f"{self.store}/{name}", dry_run=False), **more)

    def copying(self, source: str, label: str = "copy", **more: Any) -> Actor:
        """Copies from another store, whose archives have all CONTENTS."""

        def act() -> Any:
            found = copying.copy(source, self.store, key=KEY, jobs=1)
            for name in (path.name for path in Path(source).glob("*.mfn")):
                self.done[name] = frozenset(CONTENTS)
            return found

        return Actor(self, label, act, **more)

    def make_source(self) -> str:
        """Returns another store, with an archive of all CONTENTS."""
        source = str(self.home / "source")
        backup.create(self.paths(CONTENTS), source, KEY, cache_directory="", jobs=1)
        return source

    def run(self, actor: Actor) -> Actor:
        """Runs to the end while nothing else happens."""
        actor.finish()
        assert not actor.crash, actor.crash
        return actor

    def run_well(self, actor: Actor) -> Any:
        self.run(actor)
        assert actor.failure is None, actor.failure
        return actor.result

    # -- the content of the store --

    def names(self) -> dict[str, float]:
        """Returns when everything in the store was written, by name; of blobs and marks alike. For a pack that are its
        blobs, by its own table."""
        found: dict[str, float] = {}
        for path, when in self.paths_there().items():
            if layout.is_pack(path):
                found.update((blob, max(when, found.get(blob, 0.0))) for blob in self._blobs_of(path))
            elif not path.startswith(PACKS) and path != SETTINGS:
                name = path.rpartition("/")[2]
                found[name] = max(when, found.get(name, 0.0))
        return found

    def paths_there(self) -> dict[str, float]:
        """Returns when every object was written, by its path."""
        if self.service:
            return self.service.paths(self.store)
        found: dict[str, float] = {}

        def see(entry: os.DirEntry[str]) -> None:
            found[os.path.relpath(entry.path, self.store)] = entry.stat().st_mtime

        _walk(self.store, see)
        return found

    def _blobs_of(self, pack: str) -> list[str]:
        if pack not in self.tables:
            data = self._read(pack)
            self.tables[pack] = [row.name for row in layout.read_table(data, len(data), "a pack")]
        return self.tables[pack]

    def _put(self, path: str, data: bytes) -> None:
        if self.service:
            self.service.put(self.store, path, data)
        else:
            Path(self.store, path).write_bytes(data)

    def index(self, name: str) -> frozenset[str]:
        """Returns the blobs that an archive names."""
        bare = name.removesuffix(".removed")
        if bare not in self.indexes:
            self.indexes[bare] = frozenset(manifest.blob_names(self._read(name), KEY, bare))
        return self.indexes[bare]

    def _read(self, name: str) -> bytes:
        if self.service:
            return self.service.read(self.store, name)
        return Path(self.store, name).read_bytes()

    def lost(self) -> list[str]:
        """Returns broken promises: archives that were reported as done, or were removed less than a grace period ago,
        and that lack blobs or do not exist."""
        there = self.names()
        return [wrong for name in self.done if (wrong := self._wrong_with(name, there))]

    def _wrong_with(self, name: str, there: dict[str, float]) -> str:
        removed = f"{name}.removed"
        if name not in there:
            since = self.gone.setdefault(name, self.now)
            if removed not in there and self.now - since < GRACE - 10:
                return f"{name} is neither there nor removed"
        is_over = there[removed] <= self.now - GRACE + 2 if removed in there else name not in there
        if is_over and name in self.gone:
            self.expired.add(name)
        if name in self.expired:  # until undelete says that it is back
            return ""
        shown = name if name in there else removed
        missing = sum(blob not in there for blob in self.index(shown))
        return f"{shown} misses {missing} of its blobs" if missing else ""

    def archives(self) -> list[str]:
        return sorted(name for name in self.names() if name.endswith(".mfn"))

    def blobs(self) -> set[str]:
        return {name for name in self.names() if name.endswith("=") and len(name) == 44}

    def others(self) -> list[str]:
        """Returns what is neither an archive nor a blob."""
        return sorted(
            name for name in self.names() if not name.endswith(".mfn") and not (name.endswith("=") and len(name) == 44)
        )

    def is_whole(self, name: str) -> bool:
        return self.index(name) <= self.blobs()

    def story(self) -> str:
        return "\n".join(self.log[-400:])

    def expect_whole(self) -> None:
        """Asserts that every promise is kept, and that no backup failed because of a prune."""
        for actor in self.actors:
            assert not actor.crash, f"{actor.label}: {actor.crash}\n{self.story()}"
            failed = actor.failure and actor.label.startswith("create") and not actor.slept
            assert not failed, f"{actor.label} failed: {actor.failure!r}\n{self.story()}"
        wrong = self.lost()
        assert not wrong, f"{'; '.join(wrong)}\n{self.story()}"

    def _prune_quietly(self) -> None:
        """Removes first what a backup left that was killed after its manifest, before it could take that back."""
        prune = self.run(self.pruning("quiet", last=99))
        broken = [name for name in self.archives() if name not in self.done and not self.is_whole(name)]
        if isinstance(prune.failure, MissingBlob) and broken:
            for name in broken:
                self.run_well(self.removing(name))
            prune = self.run(self.pruning("quiet", last=99))
        assert prune.failure is None, f"{prune.failure!r}\n{self.story()}"

    def settle(self) -> None:
        """Prunes undisturbed, until only archives and their blobs are left, and asserts that these can be read."""
        self.advance(8 * DAY)
        for _ in range(6 if self.packed else 4):
            self._prune_quietly()
            self.expect_whole()
            self.advance(GRACE + HOUR)
        needed = frozenset().union(*(self.index(name) for name in self.archives()))
        there = self.blobs()
        assert there == needed, f"{len(there - needed)} blobs leak, {len(needed - there)} are lost\n{self.story()}"
        # Those of the last sweep stay; what is half written by this process would go with its end.
        packs = [blob for path in self.paths_there() if layout.is_pack(path) for blob in self._blobs_of(path)]
        assert len(packs) == len(set(packs)), f"blobs in several packs leak\n{self.story()}"
        left = [name for name in self.others() if not name.startswith(("sweep.done-", ".pogfast-"))]
        assert not left, f"{left} leak\n{self.story()}"
        checked = checking.check([self.store], KEY, read_data=checking.EVERYTHING, jobs=1)
        assert checked.exit_code == 0, f"{checked.problems}\n{self.story()}"


def _ignore(what: object) -> None: ...


class _Silent:
    """Reports nothing."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *words: None


# What a packed world has instead: no pack is too small.
PACKING: list[tuple[Any, str, Any]] = [(sink, "MIN_BLOBS", 1), (sink, "MIN_SIZE", 0)]
SHM = "/dev/shm"
_REPLACED: list[tuple[Any, str, Any]] = []


def replacements() -> list[tuple[Any, str, Any]]:
    if not _REPLACED:
        _REPLACED.extend(_replacements())
    return _REPLACED


def _walk(directory: str, see: Callable[[os.DirEntry[str]], object]) -> None:
    with contextlib.suppress(FileNotFoundError), os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                _walk(entry.path, see)
            else:
                with contextlib.suppress(FileNotFoundError):
                    see(entry)


def _date(directory: str, now: float) -> None:
    def date(entry: os.DirEntry[str]) -> None:
        if entry.stat(follow_symlinks=False).st_mtime < REAL:
            os.utime(entry.path, (now, now), follow_symlinks=False)

    _walk(directory, date)


# ---- S3 --------------------------------------------------------------------------------------------------------------


class S3:
    """A server of S3's protocol with the clock of a world."""

    def __init__(self, server: Any, clock: mmap.mmap) -> None:
        import boto3

        self.server, self.clock, self.count = server, clock, 0
        self.client = boto3.client(
            "s3",
            endpoint_url=server.url,
            region_name="us-east-1",
            aws_access_key_id=server.key,
            aws_secret_access_key=server.secret,
        )

    def new_store(self) -> str:
        self.count += 1
        self.client.create_bucket(Bucket=f"bucket{self.count}")
        return f"s3://bucket{self.count}"

    def _bucket(self, store: str) -> str:
        return store.removeprefix("s3://")

    def paths(self, store: str) -> dict[str, float]:
        listed = self.client.list_objects_v2(Bucket=self._bucket(store)).get("Contents", ())
        return {item["Key"]: item["LastModified"].timestamp() for item in listed}

    def put(self, store: str, path: str, data: bytes) -> None:
        self.client.put_object(Bucket=self._bucket(store), Key=path, Body=data)

    def read(self, store: str, name: str) -> bytes:
        data: bytes = self.client.get_object(Bucket=self._bucket(store), Key=name)["Body"].read()
        return data

    def drop(self, store: str) -> None:
        bucket = self._bucket(store)
        for item in self.client.list_objects_v2(Bucket=bucket).get("Contents", ()):
            self.client.delete_object(Bucket=bucket, Key=item["Key"])
        self.client.delete_bucket(Bucket=bucket)


@contextlib.contextmanager
def s3(*, conditions: bool = True) -> Iterator[S3]:
    """With `conditions` an object is deleted only if it has the ETag in the request; many servers ignore that."""
    from kit.servers import free_port, moto_command, running

    with tempfile.TemporaryFile() as file:
        file.write(struct.pack("d", START))
        file.flush()
        clock = mmap.mmap(file.fileno(), 8)
        port = free_port()
        path = f"/proc/{os.getpid()}/fd/{file.fileno()}"
        command = moto_command(port, clock=path, conditions=conditions)
        with running("moto", command, f"http://127.0.0.1:{port}") as server:
            yield S3(server, clock)

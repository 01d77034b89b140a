"""The cache: its answers are right or missing, whatever happens to its file, its machine or concurrent processes."""

from __future__ import annotations

import base64
import contextlib
import functools
import os
import pwd
import random
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
import textwrap
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pogfast.backup import cache as cache_module
from pogfast.backup.cache import (
    BATCH,
    KEPT_RUNS,
    SPARE_PAGES,
    Cache,
    default_directory,
)
from pogfast.backup.cache_rows import COARSE_NS, TICK_NS, KnownBlobs, StatData
from pogfast.keys import Key

KEY = Key("keyfile", b"k" * 32)
CUT = "frames 50000000"
NOW = 1_700_000_000_123_456_789
FACTS = StatData(12345, NOW - 10**12, NOW - 10**12 + 7, 4711)
STORE = "/backups/store"
DAY = 24 * 3600


def name_of(i: int) -> str:
    return base64.urlsafe_b64encode(i.to_bytes(32, "big")).decode()


def known_of(i: int, blobs: int = 1, complete: bool = True) -> KnownBlobs:
    return KnownBlobs([name_of(i * 1000 + j) for j in range(blobs)], [100 + i + j for j in range(blobs)], complete)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def memory() -> Iterator[Path]:
    """Like `home`, but in memory if the system allows it: syncing a thousand damaged files takes minutes on a disk."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as directory:
        yield Path(directory) / "cache"


def opened(home: Path, *, store: str = STORE, key: Key = KEY) -> Cache:
    return Cache.open(str(home), store, key)


def remember(cache: Cache, path: str, known: KnownBlobs, facts: StatData = FACTS, cut: str = CUT) -> None:
    cache.remember(path, facts, cut, known, read_at_ns=NOW)


def filled(home: Path, n: int, *, blobs: int = 1, durable: bool = True) -> None:
    cache = opened(home)
    for i in range(n):
        remember(cache, f"/tree/{i}", known_of(i, blobs))
    cache.save(durable)
    cache.close()
    assert cache.warning == ""


def found(home: Path, n: int, *, blobs: int = 1) -> int:
    """Returns how many of `filled` are found; none may be wrong."""
    cache = opened(home)
    number = found_in(cache, n, blobs=blobs)
    cache.close()
    return number


def found_in(cache: Cache, n: int, *, blobs: int = 1) -> int:
    answers = [cache.find(f"/tree/{i}", FACTS, CUT) for i in range(n)]
    assert all(answer in (None, known_of(i, blobs)) for i, answer in enumerate(answers))
    return sum(answer is not None for answer in answers)


def database(home: Path) -> Path:
    [path] = home.glob("*.sqlite")
    return path


# -- what it remembers


def test_what_was_saved_is_found_again(home: Path) -> None:
    filled(home, 3)
    assert found(home, 3) == 3
    cache = opened(home)
    assert cache.find("/tree/3", FACTS, CUT) is None
    assert cache.warning == ""


def test_it_is_found_before_it_is_saved_as_well(home: Path) -> None:
    cache = opened(home)
    for i in range(BATCH + 1):
        remember(cache, f"/tree/{i}", known_of(i))
    assert found_in(cache, BATCH + 1) == BATCH + 1


@pytest.mark.parametrize("field", StatData._fields)
def test_every_fact_has_to_be_the_same(home: Path, field: str) -> None:
    filled(home, 1)
    cache = opened(home)
    for step in (1, -1):
        assert cache.find("/tree/0", FACTS._replace(**{field: getattr(FACTS, field) + step}), CUT) is None
    assert cache.find("/tree/0", FACTS, CUT) == known_of(0)


@pytest.mark.parametrize("cut", ["frames 5000000", "frames 500000000", "stream 50000000", ""])
def test_the_cut_has_to_be_the_same(home: Path, cut: str) -> None:
    filled(home, 1)
    assert opened(home).find("/tree/0", FACTS, cut) is None


def test_the_last_word_counts(home: Path) -> None:
    cache = opened(home)
    for blobs in (1, 5, 3):
        remember(cache, "/tree/0", known_of(0, blobs, complete=False))
        assert cache.find("/tree/0", FACTS, CUT) == known_of(0, blobs, complete=False)
        cache.save(False)
    remember(cache, "/tree/0", known_of(1, 2), FACTS._replace(size=1))
    cache.close()
    cache = opened(home)
    assert cache.find("/tree/0", FACTS, CUT) is None
    assert cache.find("/tree/0", FACTS._replace(size=1), CUT) == known_of(1, 2)


@pytest.mark.parametrize("saved", [False, True])
def test_what_is_forgotten_stays_forgotten(home: Path, saved: bool) -> None:
    cache = opened(home)
    for i in range(2):
        remember(cache, f"/tree/{i}", known_of(i))
    if saved:
        cache.save(True)
    cache.forget("/tree/0")
    cache.forget("/tree/missing")
    assert found_in(cache, 2) == 1
    cache.close()
    assert found(home, 2) == 1


def test_stores_and_keys_do_not_see_each_other(home: Path) -> None:
    filled(home, 1)
    others = [(STORE + "2", KEY), ("", KEY), (STORE, Key("keyfile", b"l" * 32)), (os.fsdecode(b"\xff"), KEY)]
    for store, key in others:
        cache = opened(home, store=store, key=key)
        assert (cache.find("/tree/0", FACTS, CUT), cache.warning) == (None, "")
        cache.close()
    assert len(list(home.glob("*.sqlite"))) == 1 + len(others)


def test_both_keys_of_a_pair_have_one_cache(home: Path) -> None:
    cache = opened(home, key=Key("x25519", b"p" * 32))
    remember(cache, "/tree/0", known_of(0))
    cache.close()
    assert opened(home, key=Key("x25519", b"p" * 32, b"s" * 32)).find("/tree/0", FACTS, CUT) == known_of(0)


def test_one_keys_rows_mean_nothing_under_another(home: Path) -> None:
    filled(home, 1)
    other = opened(home, key=Key("keyfile", b"l" * 32))
    other.close()
    [theirs] = set(home.glob("*.sqlite")) - {Path(opened(home)._path)}
    shutil.copy(opened(home)._path, theirs)
    cache = opened(home, key=Key("keyfile", b"l" * 32))
    assert (cache.find("/tree/0", FACTS, CUT), cache.warning) == (None, "")


NUMBERS = st.integers(0, 2**64 - 1)
FACTS_OF_FILES = st.builds(StatData, NUMBERS, st.integers(-(2**40), NOW - 2 * COARSE_NS), st.just(5), NUMBERS)
SIZES = st.one_of(
    st.lists(st.integers(0, 2**63), max_size=6),
    st.lists(st.integers(0, 1), max_size=6),
    st.tuples(NUMBERS, st.integers(1, 20), NUMBERS).map(lambda parts: [parts[0]] * parts[1] + [parts[2]]),
    st.tuples(NUMBERS, NUMBERS, st.integers(1, 20)).map(lambda parts: [parts[0]] + [parts[1]] * parts[2]),
)
FILES = st.dictionaries(
    st.binary(min_size=1, max_size=60),
    st.tuples(FACTS_OF_FILES, st.text(max_size=20), SIZES, st.booleans(), st.binary(min_size=32, max_size=32)),
    max_size=8,
)


@given(files=FILES, durable=st.booleans())
def test_any_file_comes_back_as_it_was(memory: Path, files: dict, durable: bool) -> None:
    expected = {}
    cache = opened(memory)
    for raw, (facts, cut, sizes, complete, digest) in files.items():
        names = [base64.urlsafe_b64encode(bytes([i % 256]) + digest[1:]).decode() for i in range(len(sizes))]
        plain = tuple(size // 2 for size in sizes) if cut > "m" else ()  # as where files are cut by content
        plain_names = [digest if size % 2 else b"" for size in sizes] if cut > "m" else []
        known = KnownBlobs(names, sizes, complete, plain, plain_names if any(plain_names) else ())
        expected[os.fsdecode(raw)] = (facts, cut, known)
        cache.remember(os.fsdecode(raw), facts, cut, KnownBlobs(*known[:4], plain_names), read_at_ns=NOW)
    cache.save(durable)
    cache.close()
    cache = opened(memory)
    assert {path: (facts, cut, cache.find(path, facts, cut)) for path, (facts, cut, _) in expected.items()} == expected
    for path, (_, _, known) in expected.items():
        earlier = known._replace(complete=False) if known.plain_names else None
        assert cache.find_earlier(path) == earlier
    cache.close()
    assert cache.warning == ""
    shutil.rmtree(memory)


@given(
    steps=st.lists(st.tuples(st.sampled_from(["find", "remember", "forget", "save"]), st.integers(0, 40)), max_size=60),
    ahead=st.integers(1, 50),
    size=st.sampled_from([1, 300, 1 << 20]),
)
def test_what_is_read_ahead_is_what_is_there(memory: Path, steps: list, ahead: int, size: int) -> None:
    expected: dict[int, KnownBlobs] = {}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(cache_module, "AHEAD", ahead)
        patched.setattr(cache_module, "AHEAD_SIZE", size)
        patched.setattr(cache_module, "BATCH", 7)
        cache = opened(memory)
        for number, (step, i) in enumerate(steps):
            if step == "remember":
                expected[i] = known_of(number)
                remember(cache, f"/tree/{i}", expected[i])
            elif step == "forget":
                expected.pop(i, None)
                cache.forget(f"/tree/{i}")
            elif step == "save":
                cache.save(durable=i % 2 == 0)
            else:
                assert cache.find(f"/tree/{i}", FACTS, CUT) == expected.get(i)
        assert {i: cache.find(f"/tree/{i}", FACTS, CUT) for i in expected} == expected
        cache.close()
    assert cache.warning == ""
    shutil.rmtree(memory)


def test_the_blobs_of_a_huge_file_in_the_middle_of_it(home: Path) -> None:
    """A terabyte in blobs of 50 MB, saved as it grows."""
    cache = opened(home)
    names, sizes = [name_of(i) for i in range(20_000)], [50_000_264 + i % 3 for i in range(20_000)]
    for n in range(0, 20_001, 2000):
        remember(cache, "/disk.img", KnownBlobs(names[:n], sizes[:n], False))
        cache.save(durable=n % 4000 == 0)
    cache.close()
    assert opened(home).find("/disk.img", FACTS, CUT) == KnownBlobs(names, sizes, False)
    assert database(home).stat().st_size < 4 << 20


def test_of_more_blobs_than_a_row_holds_the_first_are_kept(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "MAX_BLOBS", 10)
    cache = opened(home)
    for i, blobs in enumerate((9, 10, 11)):
        remember(cache, f"/{i}", known_of(i, blobs))
    assert [cache.find(f"/{i}", FACTS, CUT) for i in range(3)] == [
        known_of(0, 9),
        known_of(1, 10),
        known_of(2, 10, complete=False),
    ]


# -- files that change while nobody looks


@pytest.mark.parametrize("field", ["mtime_ns", "ctime_ns"])
@pytest.mark.parametrize(("whole", "blind"), [(False, TICK_NS), (True, COARSE_NS)])
@pytest.mark.parametrize("complete", [False, True])
def test_a_file_changed_just_before_is_read_again(
    home: Path, field: str, whole: bool, blind: int, complete: bool
) -> None:
    """A file system of whole seconds cannot show a second change within them."""
    old = 1_600_000_000 * 10**9 + (0 if whole else 1)
    young = 1_700_000_000 * 10**9 + (0 if whole else 1)
    facts = FACTS._replace(mtime_ns=old, ctime_ns=old)._replace(**{field: young})
    cache = opened(home)
    for age in (0, 1, blind - 1):
        cache.remember("/tree/0", facts, CUT, known_of(0, complete=complete), read_at_ns=young + age)
        assert cache.find("/tree/0", facts, CUT) is None
    cache.remember("/tree/0", facts, CUT, known_of(0, complete=complete), read_at_ns=young + blind)
    assert cache.find("/tree/0", facts, CUT) == known_of(0, complete=complete)


def test_times_of_the_future(home: Path) -> None:
    """Anybody can set an mtime; a ctime in the future is an error of a clock, and proves nothing until that time."""
    cache = opened(home)
    future = NOW + 10**18
    touched, mistaken = FACTS._replace(mtime_ns=future), FACTS._replace(ctime_ns=future)
    remember(cache, "/touched", known_of(1), touched)
    remember(cache, "/mistaken", known_of(2), mistaken)
    assert cache.find("/touched", touched, CUT) == known_of(1)
    assert cache.find("/mistaken", mistaken, CUT) is None


def test_a_real_file_that_is_rewritten_has_other_facts(home: Path, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"first")
    while (begin := time.time_ns()) - path.stat().st_ctime_ns < TICK_NS:
        time.sleep(0.01)
    facts = facts_of(path)
    cache = opened(home)
    cache.remember(str(path), facts, CUT, known_of(1), read_at_ns=begin)
    path.write_bytes(b"other")
    os.utime(path, ns=(facts.mtime_ns, facts.mtime_ns))
    assert facts_of(path)._replace(ctime_ns=facts.ctime_ns) == facts
    assert cache.find(str(path), facts_of(path), CUT) is None


def facts_of(path: Path) -> StatData:
    found = path.stat()
    return StatData(found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)


# -- power and boots


@pytest.mark.parametrize(("durable", "expected"), [(False, 0), (True, 3)])
def test_what_was_not_durable_is_not_trusted_after_a_boot(
    home: Path, monkeypatch: pytest.MonkeyPatch, durable: bool, expected: int
) -> None:
    filled(home, 3, durable=durable)
    assert found(home, 3) == 3
    monkeypatch.setattr(cache_module, "_boot_id", lambda: "another boot")
    assert found(home, 3) == expected


def test_durable_is_what_came_before(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = opened(home)
    remember(cache, "/tree/0", known_of(0))
    cache.save(False)
    remember(cache, "/tree/1", known_of(1))
    cache.save(True)
    remember(cache, "/tree/2", known_of(2))
    assert found_in(cache, 3) == 3
    cache.save(False)
    cache.save(False)
    assert found_in(cache, 3) == 3
    cache.close()
    monkeypatch.setattr(cache_module, "_boot_id", lambda: "another boot")
    cache = opened(home)
    assert [cache.find(f"/tree/{i}", FACTS, CUT) for i in range(3)] == [known_of(0), known_of(1), None]


def test_an_earlier_run_is_not_made_durable_by_a_later_one(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its blobs are not among those that the later run has synced."""
    filled(home, 1, durable=False)
    cache = opened(home)
    remember(cache, "/tree/1", known_of(1))
    cache.save(True)
    cache.close()
    monkeypatch.setattr(cache_module, "_boot_id", lambda: "another boot")
    assert found(home, 2) == 1


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("place", ["PRAGMA synchronous = FULL", "UPDATE runs", "PRAGMA synchronous = NORMAL"])
def test_what_follows_an_interrupted_save_is_not_durable(
    home: Path, monkeypatch: pytest.MonkeyPatch, place: str, late: bool
) -> None:
    """Ctrl-C comes before or after any SQL statement, and the run still saves what it has done."""
    armed = []

    class Interrupted(sqlite3.Connection):
        def execute(self, sql: str, *parameters: object) -> sqlite3.Cursor:
            hit = armed and sql.startswith(place)
            if hit and not late:
                raise KeyboardInterrupt
            cursor = super().execute(sql, *parameters)
            if hit:
                raise KeyboardInterrupt
            return cursor

    monkeypatch.setattr(sqlite3, "connect", functools.partial(sqlite3.connect, factory=Interrupted))
    cache = opened(home)
    remember(cache, "/tree/0", known_of(0))
    armed.append(place)
    with pytest.raises(KeyboardInterrupt):
        cache.save(True)
    armed.clear()
    remember(cache, "/tree/1", known_of(1))
    cache.close()
    assert found(home, 2) == 2
    monkeypatch.setattr(cache_module, "_boot_id", lambda: "another boot")
    assert opened(home).find("/tree/1", FACTS, CUT) is None


def test_rows_of_a_lost_boot_go_with_the_next_complete_run(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(home, 3, durable=False)
    monkeypatch.setattr(cache_module, "_boot_id", lambda: "another boot")
    cache = opened(home)
    remember(cache, "/tree/1", known_of(1))
    cache.save(True)
    cache.close(complete=True)
    assert query(home, "SELECT path FROM files") == [(b"/tree/1",)]
    assert {boot for (boot,) in query(home, "SELECT boot FROM runs")} == {"durable", "another boot"}


def query(home: Path, sql: str) -> list[tuple]:
    with contextlib.closing(sqlite3.connect(database(home))) as connection, connection:
        return connection.execute(sql).fetchall()


def test_every_beginning_of_the_log_is_a_state_that_was(home: Path, tmp_path: Path) -> None:
    """After a power loss any part of the unsynced data may be on the disk."""
    cache = opened(home)
    for i in range(120):
        remember(cache, f"/tree/{i}", known_of(i))
        if i % 10 == 9:
            cache.save(i % 20 == 19)
    name, log = database(home).name, next(home.glob("*-wal")).read_bytes()
    whole = {path.name: path.read_bytes() for path in home.iterdir()}
    assert len(log) > 30 * 4096
    counts = []
    for n in [*range(0, len(log), 4096 + 24), len(log)]:
        copy = tmp_path / f"copy{n}"
        copy.mkdir()
        for file, data in whole.items():
            (copy / file).write_bytes(data[:n] if file == f"{name}-wal" else data)
        again = opened(copy)
        counts.append(found_in(again, 120))
        assert again.warning == ""
        again.close()
    assert counts == sorted(counts)
    assert set(counts) == set(range(0, 121, 10))


def test_the_boot_id_is_that_of_this_boot() -> None:
    here = cache_module._boot_id()
    ran = run_python("from pogfast.backup import cache; print(cache._boot_id())")
    assert ran.stdout.strip() == here


def test_without_a_boot_id_only_what_is_durable_is_trusted(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(path: str, *arguments: object, **more: object) -> object:
        if path.startswith(("/proc/", "kern.")):
            raise OSError
        return open(path, *arguments, **more)

    monkeypatch.setattr(cache_module, "open", unknown, raising=False)
    monkeypatch.setattr(cache_module, "_sysctl", unknown)
    filled(home, 2, durable=False)
    assert found(home, 2) == 0
    filled(home, 2, durable=True)
    assert found(home, 2) == 2


# -- processes


def run_python(program: str, *arguments: str | Path, **more: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", textwrap.dedent(program), *map(str, arguments)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, **more)
    assert "Traceback" not in ran.stderr, ran.stderr
    return ran


HERE = str(Path(__file__).parent)
OPEN = f"""
import os, sys, time; sys.path.insert(0, {HERE!r})
from pathlib import Path; from test_cache import *
home = Path(sys.argv[1])
"""


@pytest.fixture
def other_run(home: Path) -> Iterator[subprocess.Popen]:
    """A process that keeps the cache open, with rows of its own, until it is told to exit."""
    program = OPEN + (
        "cache = opened(home)\nfor i in range(5): remember(cache, f'/tree/{i}', known_of(i))\ncache.save(True)\n"
        "print('ready', flush=True); sys.stdin.read(); cache.close(complete=True); print(cache.warning)"
    )
    command = [sys.executable, "-c", program, str(home)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_run_waits_shortly_then_works_without(home: Path, other_run: subprocess.Popen) -> None:
    begin = time.monotonic()
    cache = opened(home)
    assert 0.3 < time.monotonic() - begin < 60
    assert cache.warning.startswith(
        f"the cache {database(home)} is in use by another run: this one reads all files again"
    )
    assert cache.find("/tree/0", FACTS, CUT) is None
    remember(cache, "/tree/0", known_of(99))
    cache.forget("/tree/1")
    cache.save(True)
    cache.close(complete=True)
    assert other_run.communicate("")[0] == "\n"
    assert found(home, 5) == 5


def test_a_second_run_gets_it_when_the_first_ends_in_time(home: Path, other_run: subprocess.Popen) -> None:
    other_run.stdin.close()
    cache = opened(home)
    assert found_in(cache, 5) == 5
    assert cache.warning == ""
    other_run.stdin = None


def test_a_run_that_was_killed_locks_nobody_out(home: Path, other_run: subprocess.Popen) -> None:
    other_run.kill()
    other_run.wait()
    assert found(home, 5) == 5


def test_two_of_one_process_are_two_runs(home: Path) -> None:
    first, second = opened(home), opened(home)
    assert (first.warning, second._database) == ("", None)
    remember(first, "/tree/0", known_of(0))
    first.close()
    assert found(home, 1) == 1


@pytest.mark.parametrize("damaged", [False, True])
def test_many_runs_begin_at_once(home: Path, damaged: bool) -> None:
    filled(home, 1)
    if damaged:
        database(home).write_bytes(b"damage" * 1000)
    else:
        shutil.rmtree(home)
    program = OPEN + (
        "cache = opened(home)\nfor i in range(2000):\n"
        "  assert cache.find(f'/tree/{i}', FACTS, CUT) in (None, known_of(i))\n"
        "  remember(cache, f'/tree/{i}', known_of(i))\ncache.save(True); cache.close(True); print(cache.warning)"
    )
    command = [sys.executable, "-c", program, str(home)]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(6)]
    ends = [(*process.communicate(timeout=120), process.returncode) for process in runs]
    assert {(err, code) for _, err, code in ends} == {("", 0)}
    assert found(home, 2000) in ([0, 2000] if damaged else [2000])
    filled(home, 5)
    assert found(home, 5) == 5


@pytest.mark.parametrize("seed", range(12))
def test_a_process_that_is_killed_loses_what_was_not_saved(home: Path, seed: int) -> None:
    """It is killed in the middle of saving, too: it saves as fast as it can."""
    program = OPEN + (
        "cache = opened(home)\nassert cache.warning == ''\n"
        "for i in range(10**9):\n"
        "  remember(cache, f'/tree/{i % 3000}', known_of(i % 3000))\n"
        "  if i % 100 == 99: cache.save(i % 1000 == 999); print(min(i + 1, 3000), flush=True)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(home)], stdout=subprocess.PIPE, text=True)
    process.stdout.readline()
    time.sleep(random.Random(seed).random() * 0.4)
    process.kill()
    said = process.communicate()[0].split()
    assert process.returncode == -signal.SIGKILL
    cache = opened(home)
    assert found_in(cache, 3000) >= int(said[-1] if said else 100)
    cache.close()
    assert cache.warning == ""


# -- damage


def damage(home: Path) -> str:
    """Opens a damaged cache, finds, remembers, closes; returns the warning. After that the cache works."""
    cache = opened(home)
    found_in(cache, 300, blobs=3)
    for i in range(300):
        remember(cache, f"/tree/{i}", known_of(i, 3))
    cache.forget("/tree/300")
    cache.save(True)
    cache.close(complete=True)
    again = opened(home)
    found_in(again, 300, blobs=3)
    again.close()
    if cache.warning or again.warning:
        filled(home, 300, blobs=3)
        assert found(home, 300, blobs=3) == 300
    return cache.warning


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of an undamaged cache file."""
    home = tmp_path_factory.mktemp("whole")
    filled(home, 300, blobs=3)
    return database(home).read_bytes()


def placed(home: Path, data: bytes) -> None:
    shutil.rmtree(home, ignore_errors=True)
    opened(home).close()
    database(home).write_bytes(data)


def test_a_file_cut_short_at_every_page(memory: Path, whole: bytes) -> None:
    assert len(whole) > 15 * 4096
    for n in range(0, len(whole), 4096):
        for size in (n, n + 1, n + 100, n + 4095):
            placed(memory, whole[:size])
            warning = damage(memory)
            assert "\n" not in warning
            # What is left of a page can look like one, so that its rows are not damage but not found.
            if size > 1 and size % 4096 < 2:
                assert "all files are read again: " in warning, size


def test_a_page_lost_from_the_middle(memory: Path, whole: bytes) -> None:
    for n in range(0, len(whole), 4096):
        for page in (bytes(4096), b"\xff" * 4096, whole[:4096], random.Random(n).randbytes(4096)):
            placed(memory, whole[:n] + page + whole[n + 4096 :])
            damage(memory)


def test_every_byte_of_the_header(memory: Path, whole: bytes) -> None:
    """Damages the bytes that give the file's format, and whether it may be written to."""
    for at in range(100):
        placed(memory, whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        damage(memory)


@pytest.mark.parametrize("piece", [b"\xff\xfe", b'"\n', b" \x1b"])
def test_what_is_damaged_is_not_shown_as_it_is(home: Path, whole: bytes, piece: bytes) -> None:
    assert whole.count(b"CREATE TABLE files") == 1
    placed(home, whole.replace(b"TABLE files", b"TABLE" + piece + b"iles"))
    warning = damage(home)
    assert "all files are read again: " in warning
    assert warning.isprintable()


@settings(max_examples=200)
@given(places=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=40)), min_size=1))
def test_random_bytes_anywhere(memory: Path, whole: bytes, places: list) -> None:
    data = bytearray(whole)
    for place, piece in places:
        at = int(place * len(data))
        data[at : at + len(piece)] = piece[: len(data) - at]
    placed(memory, bytes(data))
    damage(memory)
    shutil.rmtree(memory)


@pytest.mark.parametrize("data", [b"x", b"not a database" * 1000, bytes(8192), b"SQLite format 3\0" * 512])
def test_a_file_that_is_none_of_ours(home: Path, data: bytes) -> None:
    placed(home, data)
    path = database(home)
    cache = opened(home)
    assert data == b"x" or cache.warning.startswith(f"deleted the cache {path}, all files are read again: ")
    cache.close()
    filled(home, 2)
    assert found(home, 2) == 2


@pytest.mark.parametrize(
    "sql",
    [
        "PRAGMA user_version = 3",
        "PRAGMA user_version = 0",
        "ALTER TABLE files ADD COLUMN more",
        "CREATE TABLE more (x)",
        "DROP TABLE runs",
        "CREATE TRIGGER more AFTER INSERT ON files BEGIN DELETE FROM files; END",
        "CREATE VIEW more AS SELECT * FROM files",
    ],
)
def test_another_version_is_thrown_away(home: Path, sql: str) -> None:
    filled(home, 2)
    query(home, sql)
    cache = opened(home)
    assert cache.warning.endswith("files are read again: it was written by another version or another program")
    assert found_in(cache, 2) == 0
    remember(cache, "/tree/0", known_of(0))
    cache.close()
    assert found(home, 2) == 1


def test_rows_that_were_tampered_with_are_not_found(home: Path) -> None:
    """An attacker with write access but without the key can at most bring back old answers."""
    changes = [
        "digests = randomblob(32)",
        "digests = NULL",
        "digests = 7",
        "stored = zeroblob(8)",
        "stored = ''",
        "complete = 0",
        "complete = 'x'",
        "run = run + 1",
        "run = 'x'",
        "run = 1.0",
        "proof = NULL",
        "path = CAST('/tree/1' AS BLOB)",
    ]
    for change in changes:
        shutil.rmtree(home, ignore_errors=True)
        filled(home, 1)
        opened(home).close()
        connection = sqlite3.connect(database(home))
        connection.execute(f"UPDATE files SET {change}")
        connection.commit()
        connection.close()
        cache = opened(home)
        assert cache.find("/tree/0", FACTS, CUT) is None or change == "run = 1.0"
        assert cache.find("/tree/1", FACTS, CUT) is None
        cache.close()
        assert cache.warning == ""


@pytest.mark.parametrize(
    "change",
    [
        "plain = CAST(substr(plain, 1, 47) || X'00' || substr(plain, 49) AS BLOB)",
        "plain = substr(plain, 1, 48)",
        "plain = X''",
        "plain = NULL",
        "plain = 7",
        "plain = X'00'",
        "digests = CAST(substr(digests, 33) || substr(digests, 1, 32) AS BLOB)",
        "stored = CAST(substr(stored, 9) || substr(stored, 1, 8) AS BLOB)",
        "run = run + 1",
    ],
)
def test_no_chunk_is_taken_for_another_one(home: Path, change: str) -> None:
    known = KnownBlobs([name_of(1), name_of(2)], [100, 200], True, (1000, 2000), [b"1" * 32, b"2" * 32])
    cache = opened(home)
    remember(cache, "/disk.img", known)
    cache.save(True)
    cache.close()
    cache = opened(home)
    assert cache.find_earlier("/disk.img") == known._replace(complete=False)
    assert cache.find_earlier("/other.img") is None
    cache.close()
    query(home, f"UPDATE files SET {change}")
    cache = opened(home)
    assert cache.find_earlier("/disk.img") is None


def test_damage_in_the_middle_of_a_run_is_said_once_and_survived(home: Path) -> None:
    filled(home, 3000)
    cache = opened(home)
    data = bytearray(database(home).read_bytes())
    data[4096 * 20 :] = b"\xff" * (len(data) - 4096 * 20)
    with database(home).open("r+b", buffering=0) as file:
        file.write(data)  # SQLite's cache holds the first pages, not these
    assert found_in(cache, 3000) < 3000
    assert "deleted the cache" in cache.warning
    for i in range(3000):
        remember(cache, f"/tree/{i}", known_of(i))
    cache.save(True)
    cache.close(complete=True)
    assert found(home, 3000) == 3000


# -- places that cannot be written to


def useless(home: Path) -> str:
    """Calls every method of a cache that cannot be opened. Returns the warning."""
    cache = opened(home)
    assert cache.find("/tree/0", FACTS, CUT) is None
    remember(cache, "/tree/0", known_of(0))
    assert cache.find("/tree/0", FACTS, CUT) is None
    cache.forget("/tree/0")
    cache.save(False)
    cache.save(True)
    cache.close(complete=True)
    cache.close()
    return cache.warning


def test_no_directory_is_no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cache = Cache.open("", STORE, KEY)
    remember(cache, "/tree/0", known_of(0))
    assert cache.find("/tree/0", FACTS, CUT) is None
    cache.close(complete=True)
    assert (cache.warning, list(tmp_path.iterdir())) == ("", [])


def test_places_where_no_file_can_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for home in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/no/such")):
        assert useless(home).startswith(f"cannot use the cache {home}/")


def test_a_directory_in_its_place(home: Path) -> None:
    opened(home).close()
    path = database(home)
    path.unlink()
    (path / "precious").mkdir(parents=True)
    assert useless(home).startswith(f"cannot use the cache {path}, files are read again: ")
    assert (path / "precious").exists()


@pytest.mark.skipif(os.getuid() != 0, reason="needs another user to be")
@pytest.mark.parametrize("mode", [0o555, 0o777])
def test_somebody_elses_cache(tmp_path: Path, mode: int) -> None:
    home = Path("/tmp") / f"pogfast-test-{os.getpid()}-{mode:o}"  # pytest's own directories are closed to others
    try:
        filled(home, 1)
        before = database(home).read_bytes()
        home.chmod(mode)
        database(home).chmod(0o444)
        program = f"{OPEN}os.setgid(65534); os.setuid(65534); print(useless(home))"
        ran = run_python(program, home)
        assert ran.stdout.startswith(f"cannot use the cache {database(home)}, files are read again: ")
        assert database(home).read_bytes() == before
    finally:
        shutil.rmtree(home)


FILL = (
    OPEN
    + """
cache = opened(home)
print(cache.warning)
for i in range(20_000):
    remember(cache, f"/tree/{i}", known_of(i))
    if i % 500 == 499: cache.save(i % 1000 == 999)
    if i == 5000: print(found_in(cache, 300))
cache.close(complete=True)
print(cache.warning)
"""
)


def test_a_file_that_may_not_grow(home: Path) -> None:
    """Every write beyond some length fails; what was saved before is still there."""
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
    said = run_python(limit + FILL, home).stdout.split("\n")
    assert said[:2] == ["", "300"]
    assert said[2].startswith(f"the cache {database(home)} fails, some files may be read again: ")
    assert found(home, 20_000) > 1000


def test_a_disk_that_is_full(tmp_path: Path) -> None:
    """A file system of 1 MB of its own, in a namespace that ends with the process."""
    mount = ["unshare", "-rm", "sh", "-c", 'mount -t tmpfs -o size=1m none "$1" && shift && exec "$@"', "sh", tmp_path]
    if not shutil.which("unshare") or subprocess.run([*mount, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no namespaces here")
    program = FILL + textwrap.dedent("""
        print(found(home, 20_000))
        shutil.rmtree(home)
        filled(home, 300)
        with open(home / "more", "wb", 0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(512))
        cache = opened(home)
        print(found_in(cache, 300), cache.warning.endswith("full"))
        remember(cache, "/tree/300", known_of(300))
        cache.save(True)
        os.unlink(home / "more")
        remember(cache, "/tree/301", known_of(301))
        cache.save(True)
        cache.close(complete=True)
        print(found(home, 302))
    """)
    ran = subprocess.run(
        [*mount, sys.executable, "-c", program, tmp_path / "cache"], capture_output=True, text=True, check=False
    )
    assert "Traceback" not in ran.stderr
    said = ran.stdout.split("\n")
    assert said[:2] == ["", "300"]
    assert said[2].endswith(" fails, some files may be read again: database or disk is full")
    assert int(said[3]) > 1000
    assert said[4] == "300 True", "it can be read where nothing can be written"
    assert said[5] == "301"


# -- bounds


def complete_run(home: Path, paths: range, *, day: float, monkeypatch: pytest.MonkeyPatch) -> int:
    """Simulates a run at a given time that sees these files; returns how many the cache knew."""
    monkeypatch.setattr(time, "time", lambda: NOW / 10**9 + day * DAY)
    cache = opened(home)
    knew = 0
    for i in paths:
        if cache.find(f"/tree/{i}", FACTS, CUT) is not None:
            knew += 1
        else:
            remember(cache, f"/tree/{i}", known_of(i))
    cache.save(True)
    cache.close(complete=True)
    assert cache.warning == ""
    return knew


def paths_in(home: Path) -> set[int]:
    return {int(os.path.basename(path)) for (path,) in query(home, "SELECT path FROM files")}


def test_what_no_run_has_met_for_long_goes(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    complete_run(home, range(20), day=0, monkeypatch=monkeypatch)
    for run in range(KEPT_RUNS + 10):
        knew = complete_run(home, range(10), day=30 + 10 * run, monkeypatch=monkeypatch)
        assert knew == 10
        assert paths_in(home) == set(range(20 if run < KEPT_RUNS - 1 else 10)), run
    assert len(query(home, "SELECT number FROM runs")) <= 2 * (KEPT_RUNS + 2)


def test_many_runs_within_a_month_drop_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second set of files, backed up once a week between hourly runs, is not read again each time."""
    complete_run(home, range(20), day=0, monkeypatch=monkeypatch)
    for run in range(KEPT_RUNS + 20):
        complete_run(home, range(10), day=run / 24, monkeypatch=monkeypatch)
    assert complete_run(home, range(20), day=29, monkeypatch=monkeypatch) == 20


def test_interrupted_runs_drop_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    complete_run(home, range(20), day=0, monkeypatch=monkeypatch)
    monkeypatch.setattr(time, "time", lambda: NOW / 10**9 + 400 * DAY)
    for _ in range(3 * KEPT_RUNS):
        cache = opened(home)
        assert cache.find("/tree/0", FACTS, CUT) == known_of(0)
        cache.close()
    assert paths_in(home) == set(range(20))


def test_space_is_given_back(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    complete_run(home, range(5000), day=0, monkeypatch=monkeypatch)
    large = database(home).stat().st_size
    for run in range(KEPT_RUNS):
        complete_run(home, range(10), day=31 + run, monkeypatch=monkeypatch)
    assert paths_in(home) == set(range(10))
    assert database(home).stat().st_size < large / 10


def test_a_cache_that_fills_up_loses_its_oldest_first(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "MAX_PAGES", 256)
    for run in range(20):
        complete_run(home, range(run * 500, run * 500 + 500), day=run / 24, monkeypatch=monkeypatch)
        assert database(home).stat().st_size <= (256 + SPARE_PAGES) * 4096
    kept = sorted(paths_in(home))
    assert kept == list(range(kept[0], 10_000))
    assert kept[0] % 500 == 0
    assert 6000 <= len(kept) < 9_000


def test_more_files_than_it_holds_are_not_remembered_and_drop_no_others(
    memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "MAX_PAGES", 256)
    for run in range(8):
        cache = opened(memory)
        if run:
            assert found_in(cache, 20_000) >= 10_000
        for i in range(20_000):
            if cache.find(f"/tree/{i}", FACTS, CUT) is None:
                remember(cache, f"/tree/{i}", known_of(i))
            if i % 500 == 499:
                cache.save(True)
        cache.close(complete=True)
        assert cache.warning.endswith("database or disk is full")
        assert database(memory).stat().st_size <= (256 + SPARE_PAGES) * 4096


def test_a_cache_that_is_full_can_still_be_opened_and_emptied(memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever number of runs its last pages hold."""
    monkeypatch.setattr(cache_module, "MAX_PAGES", 32)
    for run in range(200):
        monkeypatch.setattr(time, "time", lambda day=run: NOW / 10**9 + day * DAY)
        cache = opened(memory)
        assert cache.warning == ""
        for i in range(1500 if run == 0 else 0):
            remember(cache, f"/tree/{i}", known_of(i))
            cache.save(i % 50 == 49)
        if run in (1, 10):
            assert found_in(cache, 1500) > 700
        cache.save(True)
        cache.close(complete=True)
    assert paths_in(memory) == set()


# -- manners


def test_nobody_else_reads_it(home: Path) -> None:
    before = os.umask(0)
    try:
        cache = opened(home / "below")
        remember(cache, "/tree/0", known_of(0))
        cache.save(True)
    finally:
        os.umask(before)
    assert stat.S_IMODE((home / "below").stat().st_mode) == 0o700
    files = {path.name.partition(".")[2]: stat.S_IMODE(path.stat().st_mode) for path in (home / "below").iterdir()}
    assert files == {"sqlite": 0o600, "sqlite-wal": 0o600, "TAG": 0o644 | 0o666}
    cache.close()
    assert sorted(path.name.partition(".")[2] for path in (home / "below").iterdir()) == ["TAG", "sqlite"]


def test_the_directory_says_that_it_is_a_cache(home: Path) -> None:
    opened(home).close()
    assert (home / "CACHEDIR.TAG").read_bytes().startswith(b"Signature: 8a477f597d28d172789f06886806bc55\n")


def test_the_key_is_not_in_it(home: Path) -> None:
    secret = os.urandom(32)
    key = Key("x25519", secret, os.urandom(32))
    cache = opened(home, key=key)
    remember(cache, "/tree/0", known_of(0))
    cache.save(True)
    content = b"".join(path.read_bytes() + path.name.encode() for path in home.iterdir())
    assert b"/tree/0" in content
    for part in (secret, key.private, key.derive("cache rows"), key.derive("cache name"), STORE.encode()):
        assert part[:8] not in content
        assert part[:8].hex().encode() not in content


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"POGFAST_CACHE_DIR": "/a/b", "XDG_CACHE_HOME": "/x", "HOME": "/h"}, "/a/b"),
        ({"XDG_CACHE_HOME": "/x", "HOME": "/h"}, "/x/pogfast"),
        ({"XDG_CACHE_HOME": "x", "HOME": "/h"}, "/h/.cache/pogfast"),
        ({"POGFAST_CACHE_DIR": "", "XDG_CACHE_HOME": "", "HOME": "/h"}, "/h/.cache/pogfast"),
        ({}, ""),
    ],
)
def test_the_default_directory(monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], expected: str) -> None:
    def nobody(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("POGFAST_CACHE_DIR", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert default_directory() == expected


def test_the_default_directory_of_a_mac(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setenv("HOME", "/Users/me")
    for name in ("POGFAST_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert default_directory() == "/Users/me/Library/Caches/pogfast"


def test_many_files_are_found_fast_in_little_memory(home: Path) -> None:
    filled(home, 20_000)
    cache = opened(home)
    paths = [f"/tree/{i}" for i in range(20_000)]
    seconds = []
    for _ in range(3):
        begin = time.process_time()  # other work on the machine is not its fault
        assert all(cache.find(path, FACTS, CUT) for path in paths)
        seconds.append(time.process_time() - begin)
    assert min(seconds) < 0.6, "it takes 0.16 s here"
    tracemalloc.start()
    assert all(cache.find(path, FACTS, CUT) for path in paths)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20

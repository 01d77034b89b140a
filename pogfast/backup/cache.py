"""The local cache: which blobs a file had when it was last read, so that an unchanged file is not read again.

If only a part of a file has changed, only the changed chunks are encrypted again. There is one SQLite file for each
store and key. The cache contains no blobs and asks no store: callers check that the store still has a blob. It is
disposable: if the file is damaged, written by another program, or locked, that costs one warning and some reading, but
never a backup. It never gives a wrong answer, since each row has a keyed hash of its content. The key cannot be derived
from it, but paths are in clear text, as in restic's and borg's caches. Its size is bounded: rows are dropped if their
files were seen neither in the last 20 complete runs with this store and key nor within 30 days, and the oldest rows of
a full cache (4 GiB, about 20 million rows) are dropped as well.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
import sys
import time
from collections.abc import Iterator, Sequence

from pogfast._engine import FileRun, random_bytes
from pogfast.backup.cache_rows import (
    DIGEST_SIZE,
    NOT_NAMED,
    KnownBlobs,
    StatData,
    is_racy,
    packed_digests,
    packed_sizes,
    unpacked_names,
    unpacked_sizes,
)
from pogfast.keys import Key
from pogfast.system.encoding import bytes_of
from pogfast.system.user_dirs import cache_directory, make_cache_directory

VERSION = 2  # of the rows' meaning; a cache of another version is deleted
SCHEMA = (
    # `run`: the run that wrote the row; `seen`: the run that last saw the file, or one of the FRESH_RUNS before that.
    "CREATE TABLE files (path BLOB PRIMARY KEY, digests BLOB, stored BLOB, complete INTEGER, run INTEGER, "
    "seen INTEGER, proof BLOB, plain BLOB) WITHOUT ROWID",
    # A part of a run, up to a durable save. `boot`: DURABLE, or the boot in which its blobs were stored but not synced.
    "CREATE TABLE runs (number INTEGER PRIMARY KEY, boot TEXT, ended INTEGER)",
)
DURABLE = "durable"
PROOF_SIZE = 16
MAX_BLOBS = 1 << 21  # in one row: 100 TB in blobs of 50 MB; of a larger file only the first ones are kept
BATCH = 4096  # rows that are written at a time; a million take 5 s, most of it in SQLite
WAIT = 1.0  # seconds to wait for the lock of another run
FRESH_RUNS = 5  # marking a million rows as seen takes 3 s, so it is not done in every run
KEPT_RUNS = 20
KEPT_SECONDS = 30 * 24 * 3600
PAGE_SIZE = 4096
MAX_PAGES = 4 * 2**30 // PAGE_SIZE
SPARE_PAGES = 16  # beyond MAX_PAGES, for the table of runs: a full cache can still drop rows
ROW_OVERHEAD = 40  # bytes of a row besides its four long columns, about
PRAGMAS = (
    f"page_size = {PAGE_SIZE}",
    "cell_size_check = ON",  # finds damage when a page is loaded
    "trusted_schema = OFF",
    # The lock is held until the end: cheap where a lock is a request to a server. It also keeps the WAL out of shared
    # memory, which network file systems do not have.
    "locking_mode = EXCLUSIVE",
    "journal_mode = WAL",
    "synchronous = NORMAL",  # consistent after a power loss; save() syncs what must not be lost
    "wal_autocheckpoint = 16384",
    "cache_size = -16384",
)
# Errors of the system. All others (CORRUPT, NOTADB, ERROR for a newer format) mean that the file is damaged.
REFUSALS = {
    *(sqlite3.SQLITE_PERM, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_READONLY),
    *(sqlite3.SQLITE_INTERRUPT, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN),
    *(sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_NOLFS, sqlite3.SQLITE_AUTH),
}
NEW_RUN = "INSERT OR IGNORE INTO runs VALUES (?, ?, NULL)"
# In the order of paths, which is nearly that of a walk: one query for many files takes a tenth of a query for each.
FIND = "SELECT path, digests, stored, complete, run, seen, proof, plain FROM files WHERE path >= ? ORDER BY path"
AHEAD = 512  # rows that are read at a time
FEW = 16  # of them before their size is looked at
AHEAD_SIZE = 1 << 20  # bytes that they may have together, but for the last few


Row = tuple[bytes, bytes, bytes, int, int, int, bytes, bytes]  # as FIND has it


class _Foreign(Exception):
    """The file was written by another program or another version."""


# UnicodeDecodeError: Python cannot decode SQLite's message about some damage.
FAILURES = (sqlite3.Error, OSError, UnicodeDecodeError, _Foreign)


class Cache:
    """The cache of one store and key, for one thread at a time. No method raises because of the disk or the database;
    `warning` describes in one line what went wrong first, or is empty."""

    def __init__(self, path: str, proof_key: bytes) -> None:
        self.warning = ""
        self.is_first = True  # as far as the cache knows, no run with this store and key has been completed
        self._path = path
        self._key = proof_key
        self._keyed = hashlib.blake2b(key=proof_key, digest_size=PROOF_SIZE)
        self._boot = _boot_id()
        self._database: sqlite3.Connection | None = None
        self._run = 0
        self._stale = 0
        self._trusted: set[int] = set()
        self._durable: set[int] = set()  # of these, those of which every blob was stored
        self._rows: dict[bytes, Row] = {}
        self._met: list[bytes] = []
        # All rows from one path to another, both included; `_ahead_to` None: up to the last row.
        self._ahead: dict[bytes, Row] = {}
        self._ahead_from: bytes = b""
        self._ahead_to: bytes | None = b""

    @classmethod
    def open(cls, directory: str, store: str, key: Key) -> Cache:
        """Opens the cache of `store` (any label, always the same) and `key` in a directory, which is created if needed.

        With an empty `directory` there is no cache, and nothing is found.
        """
        label = bytes_of(store)
        name = hashlib.blake2b(label, key=key.derive("cache name"), digest_size=16).hexdigest()
        cache = cls(os.path.join(directory, f"{name}.sqlite"), key.derive("cache rows"))
        if directory:
            cache._start(directory)
        return cache

    def find(self, path: str, data: StatData, cut: str) -> KnownBlobs | None:
        """Returns the blobs of the file at `path`, an absolute path, if the file still has this stat data and was cut
        in the same way (`cut` is any text that says how)."""
        if self._database is None:
            return None
        raw = os.fsencode(path)
        row = self._row(raw)
        if row is None:
            return None
        _, digests, stored, complete, run, seen, proof, plain = row
        if self._proof(raw, data, cut, digests, stored, complete, run) != proof:
            return None
        if not isinstance(seen, int) or seen <= self._stale:
            self._met.append(raw)
            self._write_batch()
        stored_sizes, sizes = unpacked_sizes(stored, len(digests) // DIGEST_SIZE)
        plain_names = self._plain_names(digests, stored, plain, run) if plain else ()
        return KnownBlobs(unpacked_names(digests), stored_sizes, bool(complete), sizes, plain_names)

    def match(self, files: FileRun, directory: str, cut: str) -> None:
        """Has `files` note which of them are unchanged, as `find` would say, and which are doubtful: of these `find` or
        `find_earlier` may say more. `directory` is their absolute path, with a slash at its end."""
        at, above, how = 0, os.fsencode(directory), cut.encode()
        while at < len(files) and self._covers(above + files.leaf(at)):
            at = files.match(
                at, self._ahead, self._ahead_to, above, self._trusted, self._stale, self._key, how, self._met
            )
        self._write_batch()

    def _covers(self, raw: bytes) -> bool:
        """Returns True once the rows that were read ahead include those from this path on; False if that fails."""
        if self._database is None:
            return False
        if raw < self._ahead_from or (self._ahead_to is not None and raw > self._ahead_to):
            with self._excused():
                self._read_ahead(self._database, raw)
        return raw >= self._ahead_from and (self._ahead_to is None or raw <= self._ahead_to)

    def is_durable(self, path: str) -> bool:
        """Returns True if what is known of the file at `path` is from a run that has ended: its blobs were stored."""
        row = self._row(os.fsencode(path))
        return row is not None and row[4] in self._durable

    def find_earlier(self, path: str) -> KnownBlobs | None:
        """Returns the chunks that the file at `path` had when it was last read, whether or not it has changed since.
        None if the names of their uncompressed content are not known."""
        row = self._row(os.fsencode(path))
        if row is None:
            return None
        _, digests, stored, _, run, _, _, plain = row
        plain_names = self._plain_names(digests, stored, plain, run)
        if not plain_names:
            return None
        stored_sizes, sizes = unpacked_sizes(stored, len(digests) // DIGEST_SIZE)
        return KnownBlobs(unpacked_names(digests), stored_sizes, False, sizes, plain_names)

    def _plain_names(self, digests: bytes, stored: bytes, plain: bytes, run: int) -> Sequence[bytes]:
        """Returns the plain names of a row; none if their hash does not match."""
        proof, joined = plain[:PROOF_SIZE], plain[PROOF_SIZE:]
        if self._plain_proof(digests, stored, joined, run) != proof:
            return ()
        pieces = (joined[at : at + DIGEST_SIZE] for at in range(0, len(joined), DIGEST_SIZE))
        return [b"" if piece == NOT_NAMED else piece for piece in pieces]

    def _row(self, raw: bytes) -> Row | None:
        """Returns the row of a path, if it is of a run whose blobs are still in the store. It is not verified yet."""
        row = self._rows.get(raw)
        if row is None and self._covers(raw):
            row = self._ahead.get(raw)
        # A damaged row can have other types than it was written with.
        if row is None or row[4] not in self._trusted:
            return None
        whole = isinstance(row[1], bytes) and isinstance(row[2], bytes) and isinstance(row[7], bytes)
        return row if whole else None

    def remember(self, path: str, data: StatData, cut: str, known: KnownBlobs, *, read_at_ns: int) -> None:
        """Replaces the row of `path`. `data` is the stat data from when reading began, at `read_at_ns`.

        Does nothing if the file was changed so shortly before that another change may not show in its timestamps. Takes
        1 us for each blob, so do not call it often for a file with more than 100,000.
        """
        if self._database is None or is_racy(data, read_at_ns):
            return
        if len(known.names) > MAX_BLOBS:
            known = KnownBlobs(
                known.names[:MAX_BLOBS],
                known.stored[:MAX_BLOBS],
                False,
                known.sizes[:MAX_BLOBS],
                known.plain_names[:MAX_BLOBS],
            )
        raw = os.fsencode(path)
        digests, stored, complete = (
            packed_digests(known.names),
            packed_sizes(known.stored, known.sizes),
            int(known.complete),
        )
        proof = self._proof(raw, data, cut, digests, stored, complete, self._run)
        plain = b""
        if known.plain_names and any(known.plain_names):
            plain = b"".join([name or NOT_NAMED for name in known.plain_names])
            plain = self._plain_proof(digests, stored, plain, self._run) + plain
        self._rows[raw] = (raw, digests, stored, complete, self._run, self._run, proof, plain)
        if len(self._rows) >= BATCH:
            self._write_batch()

    def remember_all(
        self, files: FileRun, begin: int, end: int, directory: str, cut: str, *, by_content: bool, until_ns: int
    ) -> list[int]:
        """Replaces the rows of those of some files that were read. Returns which are too new for that: a change after
        `until_ns` may not show in their timestamps."""
        if self._database is None:
            return []
        rows, late = files.rows(
            begin, end, os.fsencode(directory), self._run, self._key, cut.encode(), until_ns, by_content
        )
        self._rows.update((row[0], row) for row in rows)
        if len(self._rows) >= BATCH:
            self._write_batch()
        return late

    def forget(self, path: str) -> None:
        """Removes the row of a file whose blobs the store does not have."""
        database, raw = self._database, os.fsencode(path)
        if database is None:
            return
        self._rows.pop(raw, None)
        self._forget_ahead()
        with self._excused():
            _begin(database)
            database.execute("DELETE FROM files WHERE path = ?", (raw,))

    def save(self, durable: bool) -> None:
        """Saves what was remembered so far, with `durable` also against a power loss: then all blobs in it must be on
        the disk already. Otherwise the rows are trusted only until the machine is rebooted."""
        database = self._database
        if database is None:
            return
        with self._excused():
            self._write(database)
            if database.in_transaction:
                database.execute("COMMIT")
            if durable:
                self._make_durable(database)

    def close(self, complete: bool = False) -> None:
        """Saves and closes. After a `complete` run, one that has seen all of its files, old rows are dropped."""
        self.save(False)
        if complete and self._database is not None:
            with self._excused():
                self._end_run(self._database, int(time.time()))
        self._disconnect()

    # -- the database

    def _start(self, directory: str) -> None:
        try:
            make_cache_directory(directory)
            self._connect()
        except FAILURES as error:
            if self._is_damage(error):
                self._fail(error)
            else:
                self._give_up(error)

    def _connect(self) -> None:
        """Opens the database and begins a run. Raises one of FAILURES."""
        _make_file(self._path)
        database = sqlite3.connect(self._path, timeout=WAIT, isolation_level=None, check_same_thread=False)
        self._database = database
        database.text_factory = bytes  # a damaged text need not be UTF-8
        for pragma in PRAGMAS:
            database.execute(f"PRAGMA {pragma}")
        _limit(database, MAX_PAGES + SPARE_PAGES)
        _begin(database)
        _check_schema(database)
        self._read_runs(database)
        try:
            database.execute(NEW_RUN, (self._run, self._boot))  # fails now if the file cannot be written to
            database.execute("COMMIT")
        except sqlite3.OperationalError as error:
            if _code(error) != sqlite3.SQLITE_FULL:
                raise
            self._fail(error)  # a full cache can still be read
        _limit(database, MAX_PAGES)

    def _read_runs(self, database: sqlite3.Connection) -> None:
        boots = database.execute("SELECT number, boot FROM runs").fetchall()
        trusted = (DURABLE.encode(), self._boot.encode())
        # By the clock, so that a number that was lost in a power loss is not used again.
        self._run = max([int(time.time()), *(number + 1 for number, _ in boots)])
        self._trusted = {number for number, boot in boots if boot in trusted} | {self._run}
        self._durable = {number for number, boot in boots if boot == trusted[0]}
        self._stale = _complete_run(database, FRESH_RUNS)
        self.is_first = not _complete_run(database, 1)

    def _read_ahead(self, database: sqlite3.Connection, first: bytes) -> None:
        self._forget_ahead()
        ahead: dict[bytes, Row] = {}
        size = 0
        last = None
        with contextlib.closing(database.execute(FIND, (first,))) as rows:
            while some := rows.fetchmany(FEW):
                ahead.update((row[0], row) for row in some)
                size += sum(len(row[1]) for row in some if isinstance(row[1], bytes))
                if size > AHEAD_SIZE or len(ahead) >= AHEAD:
                    last = some[-1][0]
                    break
        self._ahead, self._ahead_from, self._ahead_to = ahead, first, last

    def _forget_ahead(self) -> None:
        """Drops the rows that were read ahead, as they may be outdated."""
        self._ahead = {}
        self._ahead_from = self._ahead_to = b""

    def _write_batch(self) -> None:
        if self._database is not None and max(len(self._rows), len(self._met)) >= BATCH:
            with self._excused():
                self._write(self._database)

    def _write(self, database: sqlite3.Connection) -> None:
        if not (self._rows or self._met):
            return
        _begin(database)
        database.execute(NEW_RUN, (self._run, self._boot))
        rows = self._rows.values()
        database.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
        marks = ((self._run, raw) for raw in self._met)
        database.executemany("UPDATE files SET seen = ? WHERE path = ?", marks)
        self._drop_waiting()

    def _make_durable(self, database: sqlite3.Connection) -> None:
        """Marks the run as durable in a synced transaction, which makes all earlier ones durable as well. Rows that
        are written later belong to another run number, even if this is interrupted."""
        number = self._run
        self._trusted.add(number + 1)
        self._run += 1
        database.execute("PRAGMA synchronous = FULL")
        try:
            database.execute("UPDATE runs SET boot = ? WHERE number = ?", (DURABLE, number))
        finally:
            database.execute("PRAGMA synchronous = NORMAL")

    def _end_run(self, database: sqlite3.Connection, now: int) -> None:
        """Ends a complete run: drops rows whose files have not been seen for long, rows of boots whose blobs may be
        lost, and the oldest rows of a database that fills up."""
        _limit(database, MAX_PAGES + SPARE_PAGES)
        _begin(database)
        database.execute("INSERT OR REPLACE INTO runs VALUES (?, ?, ?)", (self._run, self._boot, now))
        query = "SELECT max(number) FROM runs WHERE number <= ? AND ended <= ?"
        last = _complete_run(database, KEPT_RUNS + 1)
        old = database.execute(query, (last, now - KEPT_SECONDS)).fetchone()[0] or 0
        boots = (DURABLE, self._boot)
        lost = "SELECT number FROM runs WHERE boot NOT IN (?, ?)"
        if old or database.execute(f"{lost} LIMIT 1", boots).fetchone():
            database.execute(f"DELETE FROM files WHERE seen <= ? OR run IN ({lost})", (old, *boots))
            done = f"(number <= ? OR number IN ({lost})) AND number NOT IN (SELECT DISTINCT run FROM files)"
            database.execute(f"DELETE FROM runs WHERE {done}", (old, *boots))
        self._drop_oldest(database)
        database.execute("COMMIT")
        if _pragma(database, "freelist_count") > _pragma(database, "page_count") // 2:
            database.execute("VACUUM")

    def _drop_oldest(self, database: sqlite3.Connection) -> None:
        """Frees a quarter of the maximum size for the next run, by dropping rows that no recent run has seen."""
        used = _pragma(database, "page_count") - _pragma(database, "freelist_count")
        excess = (used - MAX_PAGES * 3 // 4) * PAGE_SIZE
        if excess <= 0:
            return
        size = f"sum(length(path) + length(digests) + length(stored) + length(plain) + {ROW_OVERHEAD})"
        query = f"SELECT seen, {size} FROM files WHERE seen <= ? GROUP BY seen ORDER BY seen"
        last = 0
        for seen, n in database.execute(query, (self._stale,)).fetchall():
            if excess <= 0:
                break
            last, excess = seen, excess - n
        database.execute("DELETE FROM files WHERE seen <= ?", (last,))

    # -- failures

    @contextlib.contextmanager
    def _excused(self) -> Iterator[None]:
        """Turns failures of the database into a warning."""
        try:
            yield
        except FAILURES as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        """Continues after a failure, without what was not saved yet; replaces a damaged database by a new one, once."""
        if not self._is_damage(error):
            self._drop_waiting()
            if self._database is not None and self._database.in_transaction:
                with contextlib.suppress(sqlite3.Error):
                    self._database.execute("ROLLBACK")
            self._warn(f"the cache {self._path} fails, some files may be read again: {_reason(error)}")
            return
        first = not self.warning
        try:
            self._throw_away(error)
            if first:
                self._connect()
        except FAILURES as again:
            self._give_up(again)

    def _is_damage(self, error: Exception) -> bool:
        """Returns True if the file is not what this program wrote."""
        if _code(error) == sqlite3.SQLITE_READONLY:  # also reported for a damaged header
            return os.access(self._path, os.W_OK)
        return not isinstance(error, OSError) and _code(error) not in REFUSALS

    def _throw_away(self, error: Exception) -> None:
        self._disconnect()
        for ending in ("", "-wal", "-journal"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path + ending)
        self._warn(f"deleted the cache {self._path}, all files are read again: {_reason(error)}")

    def _give_up(self, error: Exception) -> None:
        self._disconnect()
        if _code(error) == sqlite3.SQLITE_BUSY:
            lost = "this one reads all files again, and stores nothing that the store has"
            self._warn(f"the cache {self._path} is in use by another run: {lost}")
        else:
            self._warn(f"cannot use the cache {self._path}, files are read again: {_reason(error)}")

    def _drop_waiting(self) -> None:
        self._rows.clear()
        self._met.clear()
        self._forget_ahead()

    def _disconnect(self) -> None:
        database, self._database = self._database, None
        self._drop_waiting()
        if database is not None:
            with contextlib.suppress(sqlite3.Error):
                database.close()

    def _warn(self, text: str) -> None:
        self.warning = self.warning or text

    def _proof(
        self, raw: bytes, data: StatData, cut: str, digests: bytes, stored: bytes, complete: int, run: int
    ) -> bytes:
        """Returns the keyed hash of a row and of the stat data and `cut` that it is valid for, which are stored nowhere
        else. With the lengths in it, no two different rows give the same input."""
        size, mtime_ns, ctime_ns, inode, system = data
        head = f"{size} {mtime_ns} {ctime_ns} {inode} {complete} {run} {len(raw)} {len(digests)} {len(stored)} {cut}\n"
        if system:
            head = f"system {system} {head}"
        return self._prove(head, raw, digests, stored)

    def _plain_proof(self, digests: bytes, stored: bytes, plain_names: bytes, run: int) -> bytes:
        """Returns the keyed hash that binds plain names to the blobs that contain them, whatever file they are of."""
        head = f"plain {run} {len(digests)} {len(stored)} {len(plain_names)}\n"
        return self._prove(head, digests, stored, plain_names)

    def _prove(self, head: str, *columns: bytes) -> bytes:
        proof = self._keyed.copy()
        proof.update(head.encode() + b"".join(columns))
        return proof.digest()


def default_directory() -> str:
    """Returns the directory of the caches, "" if the user has no home."""
    return cache_directory()


def _make_file(path: str) -> None:
    """Creates the database file, which SQLite would make readable to everybody. An existing one is not opened here:
    closing it would release SQLite's locks."""
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))


def _limit(database: sqlite3.Connection, pages: int) -> None:
    """Limits the size of the database. Writing beyond it fails as on a full disk."""
    database.execute(f"PRAGMA max_page_count = {pages}")


def _begin(database: sqlite3.Connection) -> None:
    if not database.in_transaction:
        database.execute("BEGIN IMMEDIATE")


def _check_schema(database: sqlite3.Connection) -> None:
    """Creates the tables of an empty database. Raises _Foreign if others exist."""
    found = [sql for (sql,) in database.execute("SELECT sql FROM sqlite_master ORDER BY name").fetchall()]
    if not found:
        for statement in SCHEMA:
            database.execute(statement)
        database.execute(f"PRAGMA user_version = {VERSION}")
    elif found != [statement.encode() for statement in SCHEMA] or _pragma(database, "user_version") != VERSION:
        raise _Foreign("it was written by another version or another program")


def _complete_run(database: sqlite3.Connection, n: int) -> int:
    """Returns the number of the n-th complete run, counted from the last; 0 if there are fewer."""
    query = "SELECT number FROM runs WHERE ended IS NOT NULL ORDER BY number DESC LIMIT 1 OFFSET ?"
    found = database.execute(query, (n - 1,)).fetchone()
    return int(found[0]) if found else 0


def _pragma(database: sqlite3.Connection, name: str) -> int:
    return int(database.execute(f"PRAGMA {name}").fetchone()[0])


def _code(error: Exception) -> int:
    """Returns SQLite's primary result code, the low byte; 0 for other errors."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _reason(error: Exception) -> str:
    if _code(error) == sqlite3.SQLITE_BUSY:
        return "another run is using it"
    text = str(error.strerror if isinstance(error, OSError) else error)
    return "".join(letter if letter.isprintable() else "?" for letter in text)  # it can quote damaged bytes


def _boot_id() -> str:
    """Returns an identifier of the current boot. Where the system has none, each process gets another one."""
    with contextlib.suppress(OSError):
        if sys.platform == "darwin":
            return _sysctl("kern.bootsessionuuid")
        with open("/proc/sys/kernel/random/boot_id", encoding="utf-8") as file:
            return file.read().strip()
    return random_bytes(16).hex()


def _sysctl(name: str) -> str:
    """Returns a text value of a BSD kernel. Raises OSError."""
    import ctypes

    value = ctypes.create_string_buffer(256)
    size = ctypes.c_size_t(len(value))
    if ctypes.CDLL(None, use_errno=True).sysctlbyname(name.encode(), value, ctypes.byref(size), None, 0):
        raise OSError(ctypes.get_errno(), f"no {name}")
    return value.value.decode()

"""Power cuts, played: what a disk can hold when a command that writes to it is cut off at any moment.

`record` runs a command under strace and returns every change that it made below a directory, in order, with what was
synced and what was printed when. `Trace.states` makes of these what a POSIX file system may have on its disk after a
power cut, as ALICE (OSDI 2014) and CrashMonkey (OSDI 2018) do: until a sync covers them, any of the changes may be
missing. The bytes of a file, its size, its times, and each entry of a directory are changes of their own, so that a
file may have its full size and hold zeros, or have its name and be empty; a rename happens whole or not at all. fsync
of a file covers its bytes, size and times but not its name; fsync of a directory covers its entries; syncfs covers
everything. A sync covers what had ended when it began.

Linux alone, where strace is installed. A system call that changes files and is not known here is an error.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import re
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import NamedTuple

UMASK = 0o022
NAMES = 8  # of the newest entries of directories each is tried alone
BLOCK = 4096  # bytes: a part of a write begins and ends at one of these
PARTS = 4  # of a write, which reach the disk one by one
MAX_SHOWN = 1 << 28  # bytes of a string that strace shows
CALLS = (
    "open openat openat2 creat close close_range dup dup2 dup3 fcntl chdir fchdir clone clone3 fork vfork "
    "read readv write writev pwrite64 pwritev pwritev2 lseek truncate ftruncate fallocate copy_file_range sendfile "
    "splice mmap ioctl link linkat symlink symlinkat rename renameat renameat2 unlink unlinkat rmdir mkdir mkdirat "
    "mknod mknodat chmod fchmod fchmodat utime utimes utimensat futimesat fsync fdatasync sync syncfs"
)
LINE = re.compile(r"(\d+) +(\d+)\.(\d+) (?:(\w+)\((.*)|<\.\.\. (\w+) resumed>(.*))", re.DOTALL)
ENDED = re.compile(r"(.*)\) += (-?\d+|\?|0x[0-9a-f]+)(?: .*)?", re.DOTALL)
UNFINISHED = re.compile(r"(.*)<unfinished \.\.\.>", re.DOTALL)
BYTES = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')


def has_strace() -> bool:
    """Returns True if commands can be recorded here: strace is there and may trace."""
    if shutil.which("strace") is None:
        return False
    return subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True, check=False).returncode == 0


# ---- what is on a disk -----------------------------------------------------------------------------------------------


@dataclass
class Node:
    """A file, directory or link as a disk has it. Bytes behind `size` do not show, those that are missing are zeros."""

    kind: int
    mode: int
    data: bytes = b""  # of a link: where it leads
    size: int = 0
    mtime_ns: int = 0
    was_set: bool = False  # mtime_ns: by a program, not by a write
    names: dict[bytes, int] = field(default_factory=dict)

    def copy(self) -> Node:
        return dataclasses.replace(self, names=dict(self.names))

    def content(self) -> bytes:
        return self.data if len(self.data) == self.size else self.data[: self.size].ljust(self.size, b"\0")

    def write(self, at: int, data: bytes) -> None:
        self.data = self.data[:at].ljust(at, b"\0") + data + self.data[at + len(data) :]

    def cut(self, size: int) -> None:
        self.data, self.size = self.data[:size], size

    def touch(self, mtime_ns: int, was_set: bool) -> None:
        self.mtime_ns, self.was_set = mtime_ns, was_set


@dataclass
class Change:
    """One thing that a disk can have or lack. `covered`: the nodes whose fsync makes it durable."""

    kind: str  # data, size, mtime, mode or name
    covered: tuple[int, ...]
    apply: Callable[[dict[int, Node]], None]
    at: int  # when it was made, by the trace's clock
    durable: int | None = None  # when a sync that covers it had ended


class Facts(NamedTuple):
    """What is seen of a node; its time if a program has set it."""

    kind: int
    mode: int
    mtime_ns: int | None
    digest: bytes


ROOT = 0


class Disk:
    """The nodes below a directory, by number; the directory is number 0."""

    def __init__(self, nodes: dict[int, Node]) -> None:
        self.nodes = nodes

    @classmethod
    def scan(cls, path: Path) -> Disk:
        disk = cls({})
        disk._scan(os.fsencode(path), {})
        return disk

    def _scan(self, path: bytes, seen: dict[int, int]) -> int:
        facts = os.lstat(path)
        if facts.st_ino in seen:
            return seen[facts.st_ino]
        number = seen[facts.st_ino] = len(self.nodes)
        node = self.nodes[number] = Node(stat.S_IFMT(facts.st_mode), stat.S_IMODE(facts.st_mode))
        node.mtime_ns = facts.st_mtime_ns
        if stat.S_ISREG(facts.st_mode):
            with open(path, "rb") as file:
                node.data = file.read()
        elif stat.S_ISLNK(facts.st_mode):
            node.data = os.readlink(path)
        elif stat.S_ISDIR(facts.st_mode):
            node.names = {name: self._scan(os.path.join(path, name), seen) for name in os.listdir(path)}
        node.size = len(node.data)
        return number

    def copy(self) -> Disk:
        return Disk({number: node.copy() for number, node in self.nodes.items()})

    def build(self, path: Path, off_ns: int) -> None:
        """Makes the directory `path`, which must not exist, as the disk has it when the power was off for so long."""
        self._build(ROOT, os.fsencode(path), off_ns, {})

    def _build(self, number: int, path: bytes, off_ns: int, made: dict[int, bytes]) -> None:
        node = self.nodes[number]
        if number in made:
            os.link(made[number], path, follow_symlinks=False)
            return
        made[number] = path
        if node.kind == stat.S_IFLNK:
            os.symlink(node.content(), path)
        elif node.kind == stat.S_IFREG:
            with open(path, "wb") as file:
                file.write(node.content())
            os.chmod(path, node.mode)
        elif node.kind == stat.S_IFDIR:
            os.mkdir(path)
            for name, inner in sorted(node.names.items()):
                self._build(inner, os.path.join(path, name), off_ns, made)
            os.chmod(path, node.mode)
        else:
            os.mknod(path, node.kind | node.mode)
        mtime_ns = node.mtime_ns if node.was_set else node.mtime_ns - off_ns
        os.utime(path, ns=(mtime_ns, mtime_ns), follow_symlinks=False)

    def tree(self) -> dict[bytes, Facts]:
        """Returns what can be seen, by path."""
        found = {}
        waiting = [(b"", ROOT)]
        while waiting:
            path, number = waiting.pop()
            node = self.nodes[number]
            time = node.mtime_ns if node.was_set else None
            found[path] = Facts(node.kind, node.mode, time, _hash(node.content()))
            waiting += [(path + b"/" + name, inner) for name, inner in node.names.items()]
        return found

    def digest(self) -> bytes:
        """The same for disks that look alike."""
        return _hash(repr(sorted(self.tree().items())).encode())


@functools.lru_cache(maxsize=1 << 12)
def _hash(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


# ---- what a command does ---------------------------------------------------------------------------------------------


@dataclass
class Call:
    """A system call that has succeeded. `begun`: how many such had ended when it began; then what the clock showed."""

    name: str
    arguments: list[str]
    result: int
    time_ns: int
    begun: int


def calls_of(lines: Iterator[str]) -> Iterator[Call]:
    """Yields the calls that strace has written down (-f -xx -ttt), in the order in which they ended."""
    open_calls: dict[str, tuple[str, str, int]] = {}
    ended = 0
    for line in lines:
        found = LINE.fullmatch(line.rstrip("\n"))
        if found is None:  # signals and exits
            continue
        thread, seconds, fraction, name, rest, resumed, more = found.groups()
        begun = ended
        if resumed:
            name, head, begun = open_calls.pop(thread)
            rest = head + more
        elif unfinished := UNFINISHED.fullmatch(rest):
            if name == "close":  # another thread may get the number before this call is seen to end
                ended += 1
                yield Call(name, _split(unfinished[1]), 0, 0, begun)
            open_calls[thread] = (name, unfinished[1], ended)
            continue
        if resumed == "close":
            continue
        done = ENDED.fullmatch(rest)
        if done is None:
            raise ValueError(f"strace wrote what is not understood: {line[:200]}")
        if done[2] == "?" or done[2].startswith("-"):
            continue
        ended += 1
        time_ns = int(seconds) * 10**9 + int(fraction.ljust(6, "0")) * 1000
        yield Call(name, _split(done[1]), int(done[2], 0), time_ns, begun)


def _split(text: str) -> list[str]:
    """The arguments of a call: commas between brackets separate nothing, and strings have none."""
    parts, depth, start = [], 0, 0
    for found in re.finditer(r"[][{}(),]", text):
        mark = found[0]
        depth += mark in "[{("
        depth -= mark in "]})"
        if mark == "," and depth == 0:
            parts.append(text[start : found.start()].strip())
            start = found.end()
    return [*parts, text[start:].strip()]


def _bytes(text: str) -> bytes:
    """All the strings in an argument, one behind the other."""
    return b"".join(bytes.fromhex(found.replace("\\x", "")) for found in BYTES.findall(text))


@dataclass
class Opened:
    """An open file; descriptors that were duplicated share one."""

    node: int
    at: int = 0
    appends: bool = False
    writes: bool = False


class Trace:
    """What a command has done to a disk. Its clock counts changes, syncs and prints; `said` is (when, bytes)."""

    def __init__(self, root: Path, cwd: Path, before: Disk, calls: Iterator[Call]) -> None:
        self.before = before
        self.changes: list[Change] = []
        self.said: list[tuple[int, bytes]] = []
        self._root = os.fsencode(root)
        self._cwd = os.fsencode(cwd)
        self.after = before.copy()
        self._files: dict[int, Opened] = {}
        self._clock = 0
        ended = [0]  # what the clock showed when so many calls had ended
        for call in calls:
            method = getattr(self, f"_on_{call.name}", None)
            if method is None:
                raise ValueError(f"{call.name} is not known here")
            call.begun = ended[min(call.begun, len(ended) - 1)]
            method(call, *call.arguments)
            ended.append(self._clock)

    # ---- paths and files ----

    def _place(self, directory: str, text: str) -> tuple[int, bytes] | None:
        """(directory, name) of a path; the name is b"" for the root itself. None for what is not on the disk."""
        path = _bytes(text)
        held = self._descriptor(directory)
        if path.startswith(b"/") or held is None:
            if not path.startswith(b"/") and directory != "AT_FDCWD":
                return None
            path = os.path.normpath(os.path.join(self._cwd, path))
            if path != self._root and not path.startswith(self._root + b"/"):
                return None
            path, at = path[len(self._root) + 1 :], ROOT
        else:
            at = held.node
        parts = [part for part in path.split(b"/") if part not in (b"", b".")]
        for part in parts[:-1]:
            node = self.after.nodes[at]
            if node.kind != stat.S_IFDIR or part == b"..":
                raise ValueError(f"a path that is not followed here: {path!r}")
            at = node.names[part]
        return at, parts[-1] if parts else b""

    def _descriptor(self, text: str) -> Opened | None:
        return self._files.get(int(text)) if text.isdigit() else None

    def _node(self, directory: str, text: str) -> int | None:
        """What lies at a path on the disk."""
        found = re.fullmatch(rb"/proc/self/fd/(\d+)", _bytes(text))
        if found:
            opened = self._files.get(int(found[1]))
            return opened.node if opened else None
        place = self._place(directory, text)
        if place is None:
            return None
        return self.after.nodes[place[0]].names.get(place[1]) if place[1] else place[0]

    def _change(self, kind: str, covered: Sequence[int], apply: Callable[[dict[int, Node]], None]) -> None:
        apply(self.after.nodes)
        self._clock += 1
        self.changes.append(Change(kind, tuple(covered), apply, self._clock))

    def _make(self, kind: int, mode: str, call: Call, data: bytes = b"") -> int:
        """A new node. A disk never has the name of one that it does not have."""
        number = len(self.after.nodes)
        mask = 0 if kind == stat.S_IFLNK else UMASK
        node = Node(kind, int(mode, 8) & ~mask, data, len(data), call.time_ns)
        self.after.nodes[number] = node
        self.before.nodes[number] = node.copy()
        return number

    def _name(self, *entries: tuple[int, bytes, int | None]) -> None:
        """Entries of directories change together: (directory, name, node or None)."""

        def apply(nodes: dict[int, Node]) -> None:
            for directory, name, node in entries:
                if node is None:
                    nodes[directory].names.pop(name, None)
                else:
                    nodes[directory].names[name] = node

        self._change("name", [directory for directory, _, _ in entries], apply)

    # ---- opening and closing ----

    def _opens(self, call: Call, directory: str, path: str, flags: str, mode: str) -> None:
        place = self._place(directory, path)
        if place is None:
            self._files.pop(call.result, None)
            return
        at, name = place
        if "O_TMPFILE" in flags:
            node = self._make(stat.S_IFREG, mode, call)
        else:
            found = self.after.nodes[at].names.get(name) if name else at
            node = self._make(stat.S_IFREG, mode, call) if found is None else found
            if found is None:
                self._name((at, name, node))
            elif "O_TRUNC" in flags and self.after.nodes[node].size:
                self._set_size(node, 0, call)
        if self.after.nodes[node].kind == stat.S_IFLNK:
            raise ValueError(f"a link that is not followed here: {name!r}")
        writes = "O_WRONLY" in flags or "O_RDWR" in flags
        self._files[call.result] = Opened(node, 0, "O_APPEND" in flags, writes)

    def _on_open(self, call: Call, path: str, flags: str, mode: str = "0") -> None:
        self._opens(call, "AT_FDCWD", path, flags, mode)

    def _on_openat(self, call: Call, directory: str, path: str, flags: str, mode: str = "0") -> None:
        self._opens(call, directory, path, flags, mode)

    def _on_openat2(self, call: Call, directory: str, path: str, how: str, size: str) -> None:
        mode = re.search(r"mode=(0\d*)", how)
        self._opens(call, directory, path, how, mode[1] if mode else "0")

    def _on_close(self, call: Call, file: str) -> None:
        self._files.pop(int(file), None)

    def _on_close_range(self, call: Call, first: str, last: str, flags: str) -> None:
        if "CLOEXEC" not in flags:
            for file in [file for file in self._files if int(first) <= file <= int(last)]:
                del self._files[file]

    def _on_dup(self, call: Call, file: str, *_: str) -> None:
        opened = self._descriptor(file)
        self._files.pop(call.result, None)
        if opened:
            self._files[call.result] = opened

    _on_dup2 = _on_dup3 = _on_dup

    def _on_fcntl(self, call: Call, file: str, command: str, *_: str) -> None:
        if command.startswith("F_DUPFD"):
            self._on_dup(call, file)

    def _on_clone(self, call: Call, *arguments: str) -> None:
        if "CLONE_FILES" not in " ".join(arguments):
            raise ValueError("a process that is not followed here")

    _on_clone3 = _on_fork = _on_vfork = _on_clone

    def _on_chdir(self, call: Call, *_: str) -> None:
        raise ValueError("the working directory changes")

    _on_fchdir = _on_chdir

    # ---- bytes ----

    def _writes(self, file: str, data: bytes, at: int | None, call: Call) -> None:
        opened = self._descriptor(file)
        if opened is None:
            if file in "12":
                self._clock += 1
                self.said.append((self._clock, data[: call.result]))
            return
        data = data[: call.result]
        where = self.after.nodes[opened.node].size if opened.appends else opened.at if at is None else at
        if at is None:
            opened.at = where + len(data)
        step = max(BLOCK, -(-len(data) // PARTS // BLOCK) * BLOCK)
        for start in range(0, len(data), step):
            self._set_data(opened.node, where + start, data[start : start + step])
        if where + len(data) > self.after.nodes[opened.node].size:
            self._set_size(opened.node, where + len(data), call)
        else:
            self._set_mtime(opened.node, call.time_ns, was_set=False)

    def _set_data(self, number: int, at: int, data: bytes) -> None:
        self._change("data", [number], lambda nodes: nodes[number].write(at, data))

    def _set_size(self, number: int, size: int, call: Call) -> None:
        def apply(nodes: dict[int, Node]) -> None:
            if size < nodes[number].size:
                nodes[number].cut(size)
            nodes[number].size = size
            nodes[number].touch(call.time_ns, False)

        self._change("size", [number], apply)

    def _set_mtime(self, number: int, mtime_ns: int, *, was_set: bool = True) -> None:
        self._change("mtime", [number], lambda nodes: nodes[number].touch(mtime_ns, was_set))

    def _on_write(self, call: Call, file: str, data: str, size: str) -> None:
        self._writes(file, _bytes(data), None, call)

    _on_writev = _on_write

    def _on_pwrite64(self, call: Call, file: str, data: str, size: str, at: str) -> None:
        self._writes(file, _bytes(data), int(at), call)

    def _on_pwritev(self, call: Call, file: str, data: str, count: str, at: str, *_: str) -> None:
        self._writes(file, _bytes(data), int(at), call)

    _on_pwritev2 = _on_pwritev

    def _on_read(self, call: Call, file: str, *_: str) -> None:
        opened = self._descriptor(file)
        if opened:
            opened.at += call.result

    _on_readv = _on_read

    def _on_lseek(self, call: Call, file: str, *_: str) -> None:
        opened = self._descriptor(file)
        if opened:
            opened.at = call.result

    def _on_ftruncate(self, call: Call, file: str, size: str) -> None:
        opened = self._descriptor(file)
        if opened:
            self._set_size(opened.node, int(size), call)

    def _on_truncate(self, call: Call, path: str, size: str) -> None:
        node = self._node("AT_FDCWD", path)
        if node is not None:
            self._set_size(node, int(size), call)

    def _on_fallocate(self, call: Call, file: str, mode: str, at: str, size: str) -> None:
        opened = self._descriptor(file)
        if opened and mode != "0":
            raise ValueError(f"fallocate {mode} is not known here")
        if opened and int(at) + int(size) > self.after.nodes[opened.node].size:
            self._set_size(opened.node, int(at) + int(size), call)

    def _refuse(self, call: Call, *arguments: str) -> None:
        """For calls that write to a file in ways that are not modelled."""
        if any(opened.writes for opened in map(self._descriptor, arguments) if opened):
            raise ValueError(f"{call.name} writes to a file")

    _on_copy_file_range = _on_sendfile = _on_splice = _refuse

    def _on_mmap(self, call: Call, at: str, size: str, allows: str, flags: str, file: str, *_: str) -> None:
        if "MAP_SHARED" in flags and "PROT_WRITE" in allows:
            self._refuse(call, file)

    def _on_ioctl(self, call: Call, file: str, request: str, *_: str) -> None:
        if "CLONE" in request or "_IOC_WRITE" in request:
            self._refuse(call, file)

    # ---- names ----

    def _links(self, call: Call, directory: str, path: str, to_directory: str, to: str) -> None:
        place = self._place(to_directory, to)
        if place is not None:
            node = self._node(directory, path)
            assert node is not None, "a link to what is not on this disk"
            self._name((*place, node))

    def _on_link(self, call: Call, path: str, to: str) -> None:
        self._links(call, "AT_FDCWD", path, "AT_FDCWD", to)

    def _on_linkat(self, call: Call, directory: str, path: str, to_directory: str, to: str, *_: str) -> None:
        self._links(call, directory, path, to_directory, to)

    def _on_renameat(self, call: Call, directory: str, path: str, to_directory: str, to: str, flags: str = "") -> None:
        if "RENAME_EXCHANGE" in flags:
            raise ValueError(f"rename with {flags} is not known here")
        source, target = self._place(directory, path), self._place(to_directory, to)
        if source is None or target is None:
            assert source is target, "a rename from one disk to another"
            return
        node = self.after.nodes[source[0]].names[source[1]]
        if self.after.nodes[target[0]].names.get(target[1]) != node:
            self._name((*target, node), (*source, None))

    _on_renameat2 = _on_renameat

    def _on_rename(self, call: Call, path: str, to: str) -> None:
        self._on_renameat(call, "AT_FDCWD", path, "AT_FDCWD", to)

    def _on_unlinkat(self, call: Call, directory: str, path: str, *_: str) -> None:
        place = self._place(directory, path)
        if place is not None:
            self._name((*place, None))

    def _on_unlink(self, call: Call, path: str) -> None:
        self._on_unlinkat(call, "AT_FDCWD", path)

    _on_rmdir = _on_unlink

    def _makes(self, call: Call, directory: str, path: str, kind: int, mode: str, data: bytes = b"") -> None:
        place = self._place(directory, path)
        if place is not None:
            self._name((*place, self._make(kind, mode, call, data)))

    def _on_mkdirat(self, call: Call, directory: str, path: str, mode: str) -> None:
        self._makes(call, directory, path, stat.S_IFDIR, mode)

    def _on_mkdir(self, call: Call, path: str, mode: str) -> None:
        self._makes(call, "AT_FDCWD", path, stat.S_IFDIR, mode)

    def _on_symlinkat(self, call: Call, to: str, directory: str, path: str) -> None:
        self._makes(call, directory, path, stat.S_IFLNK, "777", _bytes(to))

    def _on_symlink(self, call: Call, to: str, path: str) -> None:
        self._on_symlinkat(call, to, "AT_FDCWD", path)

    def _on_mknodat(self, call: Call, directory: str, path: str, mode: str, *_: str) -> None:
        self._makes(call, directory, path, stat.S_IFIFO, mode.rpartition("|")[2])

    def _on_mknod(self, call: Call, path: str, mode: str, *_: str) -> None:
        self._on_mknodat(call, "AT_FDCWD", path, mode)

    # ---- facts ----

    def _set_mode(self, number: int | None, mode: str) -> None:
        def apply(nodes: dict[int, Node]) -> None:
            if number is not None:
                nodes[number].mode = int(mode, 8)

        if number is not None:
            self._change("mode", [number], apply)

    def _on_fchmod(self, call: Call, file: str, mode: str) -> None:
        opened = self._descriptor(file)
        self._set_mode(opened.node if opened else None, mode)

    def _on_fchmodat(self, call: Call, directory: str, path: str, mode: str, *_: str) -> None:
        self._set_mode(self._node(directory, path), mode)

    def _on_chmod(self, call: Call, path: str, mode: str) -> None:
        self._set_mode(self._node("AT_FDCWD", path), mode)

    def _on_utimensat(self, call: Call, directory: str, path: str, times: str, flags: str) -> None:
        held = self._descriptor(directory)
        node = (held.node if held else None) if path == "NULL" else self._node(directory, path)
        if node is None:
            return
        if times == "NULL":
            self._set_mtime(node, call.time_ns, was_set=False)
            return
        mtime = _split(times[1:-1])[1]
        found = re.search(r"tv_sec=(-?\d+), tv_nsec=(\d+)", mtime)
        if found:
            self._set_mtime(node, int(found[1]) * 10**9 + int(found[2]))
        elif "UTIME_NOW" in mtime:
            self._set_mtime(node, call.time_ns, was_set=False)

    # ---- syncs ----

    def _covers(self, call: Call, wanted: Callable[[Change], bool]) -> None:
        self._clock += 1
        for change in self.changes:
            if change.at <= call.begun and change.durable is None and wanted(change):
                change.durable = self._clock

    def _on_fsync(self, call: Call, file: str) -> None:
        opened = self._descriptor(file)
        if opened:
            self._covers(call, lambda change: opened.node in change.covered)

    _on_fdatasync = _on_fsync

    def _on_syncfs(self, call: Call, file: str) -> None:
        if self._descriptor(file):
            self._covers(call, lambda change: True)

    def _on_sync(self, call: Call) -> None:
        self._covers(call, lambda change: True)

    # ---- cuts ----

    def states(self, random: Random, orders: int) -> list[State]:
        """Returns what a disk may hold after a cut at each moment: all of the changes, none of those that no sync
        covers, names without bytes, bytes without names, names of empty files, each name alone or missing, and `orders`
        random parts. Of disks that look alike the last is there, when the most had been printed."""
        found: dict[bytes, State] = {}
        for cut in range(self._clock + 1):
            made = [change for change in self.changes if change.at <= cut]
            loose = [change for change in made if change.durable is None or change.durable > cut]
            said = b"".join(data for at, data in self.said if at <= cut)
            for what, kept in self._choices(loose, random, orders):
                lost = {id(change) for change in loose} - {id(change) for change in kept}
                disk = self._with([change for change in made if id(change) not in lost])
                digest = disk.digest()
                found.pop(digest, None)
                found[digest] = State(disk, said, cut == self._clock, f"cut at {cut} of {self._clock}: {what}")
        return list(found.values())

    @staticmethod
    def _choices(loose: list[Change], random: Random, orders: int) -> Iterator[tuple[str, list[Change]]]:
        names = [change for change in loose if change.kind == "name"]
        yield "all", loose
        yield "none", []
        yield "no bytes", [change for change in loose if change.kind != "data"]
        yield "no names", [change for change in loose if change.kind != "name"]
        yield "names of empty files", names
        for name in names[-NAMES:]:
            yield f"not the name of {name.at}", [change for change in loose if change is not name]
            yield f"only the name of {name.at}", [change for change in loose if change is name or change.kind != "name"]
        for number in range(orders):
            share = random.choice((0.1, 0.5, 0.9))
            yield f"order {number}", [change for change in loose if random.random() < share]

    def _with(self, changes: Sequence[Change]) -> Disk:
        disk = self.before.copy()
        for change in changes:
            change.apply(disk.nodes)
        return disk


@dataclass
class State:
    """What a disk may hold after a cut, and what had been said by then."""

    disk: Disk
    printed: bytes
    ended: bool  # the command had, with success
    what: str


def record(command: Sequence[str | Path], root: Path, cwd: Path, env: Mapping[str, str], log: Path) -> Trace:
    """Runs a command, which must succeed, in `cwd`, and returns what it has done below `root`. `log` is where strace
    writes; it must not lie below `root`."""
    before = Disk.scan(root)
    calls = ",".join(f"?{call}" for call in CALLS.split())  # those that this machine has
    strace = ["strace", "-f", "-xx", "-ttt", "-s", str(MAX_SHOWN), "-e", f"trace={calls}", "-o", str(log)]
    done = subprocess.run(
        [*strace, *command], cwd=cwd, env=env, umask=UMASK, stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    with open(log, encoding="ascii") as lines:
        trace = Trace(root, cwd, before, calls_of(lines))
    assert _timeless(trace.after) == _timeless(Disk.scan(root)), "the model has missed something"
    return trace


def _timeless(disk: Disk) -> dict[bytes, Facts]:
    return {path: facts._replace(mtime_ns=None) for path, facts in disk.tree().items()}

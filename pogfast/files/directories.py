"""Opens a directory and those below it, and keeps them open; never follows a symbolic link.

A restore gets descriptors from here to pass to the engine, and asks what exists at a path; `check --against` reads the
disk through it. Nothing here deals with archives, keys or blobs. Paths are relative, with `/` between their parts; ""
is the directory itself. Missing directories are created if needed. Temporary files of dead processes are removed from
each directory that is written to.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import stat
import sys
from collections.abc import Callable, Container, Iterator, Mapping
from types import MappingProxyType, TracebackType

from pogfast._engine import sync_file_system
from pogfast.errors import PogfastError, StoreError, TargetError, UnsafePath
from pogfast.files.paths import ancestors, basename, parent_of
from pogfast.files.unfinished import remove_unfinished, temporary_prefix

# Files that a restore may hold open, most of them directories. Many systems allow 1,024 by default.
MAX_OPEN = 8192
# How many of these are reserved for everything else: temporary files, blobs, and other files of the program.
RESERVED = 512
# Each so-many-th directory on the path to a deep one is held open as well: walking to each of 2,000 nested directories
# from the top takes three minutes.
HELD_EVERY = 32
# Permissions of a directory while something is written below it. The sticky bit, which has no effect if only the owner
# may write, tells the next run that this one was interrupted.
UNFINISHED_MODE = 0o1700
# Directories by device and inode: what each is, and a function that says which names in it belong to that.
Own = Mapping[tuple[int, int], tuple[str, Callable[[str], bool]]]
NOTHING: Own = MappingProxyType({})
# After these errors no further file can be restored, so the run ends.
FATAL_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENOMEM, errno.EMFILE, errno.ENFILE}

# The reason of an error about a path that is not a directory: every path below it fails with the same error.
IN_THE_WAY = "it is not a directory"


def no_more(what: str, code: int) -> StoreError:
    """Returns the error for an errno after which no further file could be restored."""
    hint = "make room and run it again: what is restored is kept" if code in (errno.ENOSPC, errno.EDQUOT) else ""
    return StoreError(f"{what}: {os.strerror(code)}", hint)


@contextlib.contextmanager
def many_open_files() -> Iterator[int]:
    """Raises the limit of open files for the duration of a with-block. Gives the number of directories to hold open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_OPEN if hard == resource.RLIM_INFINITY else min(hard, MAX_OPEN)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        yield max(wanted - RESERVED, wanted // 4)
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):
        wanted = soft
    try:
        yield max(wanted - RESERVED, wanted // 4)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Directories:
    """Open directories below a target directory, `into`.

    About `max_open` are open at a time (see `make_room`). Directories with a path in `private` are created for the
    owner alone, because their permissions are set last. Existing ones in `selected` become accessible to the owner
    until then. `incomplete` contains those whose permissions are still to be set. A file or link is replaced by a
    directory if `may_replace` its path; no link is ever followed. `hint` returns what the user can do about such a
    path. With `make` False nothing is created, and `open` must not be called. Files in `own` are never deleted.
    """

    def __init__(
        self,
        into: str,
        max_open: int,
        *,
        private: Container[str] = (),
        selected: Container[str] = (),
        may_replace: Callable[[str], bool] = lambda path: False,
        hint: Callable[[str], str] = lambda path: "",
        make: bool = True,
        own: Own = NOTHING,
    ) -> None:
        self.into = into
        self.max_open = max_open
        self.private = private
        self.selected = selected
        self.may_replace = may_replace
        self.hint = hint
        self.make = make
        self.own = own
        self.made: set[str] = set()
        self.incomplete: set[str] = set()  # created or made accessible by this run or by an interrupted one
        self.held: dict[str, int] = {}
        self.cleaned: set[str] = set()  # paths of directories without unfinished files of dead processes
        self.systems: dict[int, int] = {}  # device number -> descriptor, for each file system that was written to
        self.root = -1
        try:
            if make:
                self._make_root()
            with contextlib.nullcontext() if make else contextlib.suppress(FileNotFoundError):
                self.root = os.open(into, os.O_RDONLY | os.O_DIRECTORY)
            if make and "" in private and ("" in self.made or not os.listdir(self.root)):
                self.incomplete.add("")
        except OSError as error:
            raise no_more(f"cannot restore into {into}", error.errno or 0) from error

    def _make_root(self) -> None:
        """Creates the target directory if it does not exist. Raises OSError."""
        if not os.path.isdir(self.into):
            os.makedirs(os.path.dirname(os.path.abspath(self.into)), exist_ok=True)
            with contextlib.suppress(FileExistsError):
                os.mkdir(self.into, UNFINISHED_MODE if "" in self.private else 0o777)
                self.made.add("")

    def __enter__(self) -> Directories:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        for directory in (self.root, *self.systems.values()):
            if directory >= 0:
                os.close(directory)

    def open(self, path: str) -> int:
        """Returns a descriptor of a directory, which is created if needed; it stays open until `close`. Raises
        UnsafePath and TargetError, and StoreError if no further directory could be created."""
        if path not in self.held:
            directory = self._walk(path, self._make)
            if directory is None:
                raise TargetError(f"cannot create the directory {path}: it was removed meanwhile")
            self._replace_held(path, directory)
        if path not in self.cleaned:
            self.cleaned.add(path)
            self._note(path, self.held[path])
            if path not in self.made:
                self._allow(self.held[path], path)
                remove_unfinished(self.held[path])
        return self.held[path]

    def find(self, path: str) -> int | None:
        """Returns a descriptor of a directory; None if it does not exist. Raises as `open` does."""
        if path not in self.held:
            directory = self._walk(path, self._step)
            if directory is None:
                return None
            self._replace_held(path, directory)
        return self.held[path]

    def look(self, path: str) -> os.stat_result | None:
        """Returns the lstat of a path; None if nothing exists there. Raises UnsafePath and TargetError."""
        directory = self.find(parent_of(path))
        if directory is None:
            return None
        try:
            return os.stat(basename(path), dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise TargetError(f"cannot stat {path}: {error.strerror}") from error

    def make_room(self) -> None:
        """Closes all directories if many are open. Call it only while no worker writes through them."""
        if len(self.held) >= self.max_open:
            self.close()

    def close(self, keep: Container[str] = ()) -> None:
        """Closes all directories except those of the paths in `keep`."""
        for path in [path for path in self.held if path not in keep]:
            os.close(self.held.pop(path))

    def make_durable(self) -> None:
        """Syncs each file system that was written to. Raises StoreError."""
        try:
            for directory in self.systems.values():
                sync_file_system(directory)
        except OSError as error:
            raise no_more(f"cannot restore into {self.into}", error.errno or 0) from error

    def _note(self, path: str, directory: int) -> None:
        """Keeps a descriptor of each file system from before the first write to it: only then does a sync report
        failed writes. Notes directories that an interrupted run has left."""
        found = os.fstat(directory)
        if found.st_dev not in self.systems:
            self.systems[found.st_dev] = os.dup(directory)
        self._see(path, found)

    def _see(self, path: str, found: os.stat_result) -> None:
        if path in self.private and stat.S_IMODE(found.st_mode) == UNFINISHED_MODE:
            self.incomplete.add(path)

    def put(
        self, path: str, replace: bool, make: Callable[[str, int], None], finish: Callable[[int, str], None]
    ) -> None:
        """Creates a link or FIFO atomically, with `replace` in place of an existing file or link.

        `make` gets a name and the directory to create it in; `finish` gets the directory and the name, before the
        existing file is replaced. Raises UnsafePath, TargetError, and OSError from either function.
        """
        directory = self.open(parent_of(path))
        leaf = basename(path)
        draft = temporary_prefix().decode() + "0.part" if replace else leaf
        make(draft, directory)
        try:
            finish(directory, draft)
            if replace:
                os.rename(draft, leaf, src_dir_fd=directory, dst_dir_fd=directory)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(draft, dir_fd=directory)
            raise

    def others(
        self, top: str, kept: Container[str], must_stay: Callable[[str], bool], tell: Callable[[str], None]
    ) -> list[tuple[str, bool]]:
        """Returns (path, is it a directory) of everything below a directory that is not in `kept`, the deepest first.

        Leaves out paths that `must_stay`; directories that cannot be read, other file systems and `own` files, each
        with a warning to `tell`; and all parents of these. Follows no link.
        """
        waiting, found, staying = [top], [], set[str]()
        while waiting:
            path = waiting.pop()
            self.make_room()
            try:
                listed = self._listed(path)
            except (PogfastError, OSError):
                tell(f"{path}: kept, it cannot be read")
                staying.update((path, *ancestors(path)))
                continue
            for leaf, is_directory, reason in listed:
                below = f"{path}/{leaf}" if path else leaf
                if must_stay(below) or reason:
                    staying.update(ancestors(below))
                    if reason:
                        tell(f"{below}: kept, it is {reason}")
                    continue
                if below not in kept:
                    found.append((below, is_directory))
                if is_directory:
                    waiting.append(below)
        return [(path, is_directory) for path, is_directory in reversed(found) if path not in staying]

    def _listed(self, path: str) -> list[tuple[str, bool, str]]:
        """Returns (name, is it a directory, why it must stay) of everything in a directory; [] if it does not exist."""
        directory = self.find(path)
        if directory is None:
            return []
        found = os.fstat(directory)
        what, is_own = self.own.get((found.st_dev, found.st_ino), ("", lambda name: False))
        listed = []
        for leaf in sorted(os.listdir(directory)):
            there = os.stat(leaf, dir_fd=directory, follow_symlinks=False)
            is_directory = stat.S_ISDIR(there.st_mode)
            is_mount = is_directory and there.st_dev != found.st_dev
            listed.append((leaf, is_directory, "another file system" if is_mount else what if is_own(leaf) else ""))
        return listed

    def names(self, path: str) -> list[str]:
        """Returns the names in a directory, in no order. Raises OSError, UnsafePath and TargetError."""
        directory = self.find(path)
        return [] if directory is None else os.listdir(directory)

    def is_mount(self, path: str) -> bool:
        """Returns True if a directory is another file system than the one it is in. Raises as `names` does."""
        found = self.find(path), self.find(parent_of(path))
        return len({os.fstat(directory).st_dev for directory in found if directory is not None}) > 1

    def remove(self, path: str, is_directory: bool) -> None:
        """Deletes a file or an empty directory. Raises OSError, UnsafePath and TargetError."""
        directory = self.open(parent_of(path))
        (os.rmdir if is_directory else os.unlink)(basename(path), dir_fd=directory)

    def _walk(self, path: str, step: Callable[[int, str, str], int | None]) -> int | None:
        """Walks to a directory from the nearest one that is open. Returns a new descriptor, or None if `step` does."""
        start = path
        while start and start not in self.held:
            start = parent_of(start)
        above = self.held.get(start, self.root)
        if above < 0:
            return None
        directory: int | None = os.dup(above)
        at = start
        for part in path[len(start) :].split("/"):
            if part and directory is not None:
                at = f"{at}/{part}" if at else part
                above = directory
                try:
                    directory = step(above, part, at)
                finally:
                    os.close(above)
                if directory is not None:
                    self._hold(at, directory)
        return directory

    def _replace_held(self, path: str, directory: int) -> None:
        """Keeps the descriptor of a walk's end; the walk may have kept another of the same directory."""
        if path in self.held:
            os.close(self.held[path])
        self.held[path] = directory

    def _hold(self, path: str, directory: int) -> None:
        """Keeps a directory on the path to a deep one open, unless too few would be left for those of a batch."""
        if (path.count("/") + 1) % HELD_EVERY == 0 and path not in self.held and len(self.held) < self.max_open // 2:
            self.held[path] = os.dup(directory)

    def _make(self, directory: int, part: str, path: str) -> int | None:
        """Opens a directory, and creates it if needed."""
        self._allow(directory, parent_of(path))
        mode = UNFINISHED_MODE if path in self.private else 0o777
        with self._errors(directory, part, path), contextlib.suppress(FileExistsError):
            if self._is_replaced(directory, part, path):
                os.unlink(part, dir_fd=directory)
            os.mkdir(part, mode, dir_fd=directory)
            self.made.add(path)
            self.incomplete.add(path)
        opened = self._step(directory, part, path)
        if opened is not None and path in self.private and path not in self.incomplete:
            self._see(path, os.fstat(opened))
        return opened

    def _is_replaced(self, directory: int, part: str, path: str) -> bool:
        """Returns True if a directory is to take the place of what lies there. Raises OSError."""
        try:
            kind = stat.S_IFMT(os.stat(part, dir_fd=directory, follow_symlinks=False).st_mode)
        except FileNotFoundError:
            return False
        return kind != stat.S_IFDIR and self.may_replace(path)

    def _allow(self, directory: int, path: str, wanted: int = os.W_OK | os.X_OK) -> None:
        """Gives the owner of a directory access to it: in a container without its capabilities even root needs that."""
        at = f"/proc/self/fd/{directory}"
        if not self.make or path not in self.selected or os.access(at, wanted, effective_ids=True):
            return
        if os.fstat(directory).st_uid == os.geteuid():
            with contextlib.suppress(OSError):  # then writing to it reports why that fails
                os.chmod(at if sys.platform == "linux" else directory, UNFINISHED_MODE)
                self.incomplete.add(path)

    def _step(self, directory: int, part: str, path: str) -> int | None:
        """Opens a directory; None if it does not exist, or is to be replaced by one."""
        with self._errors(directory, part, path, "open"), contextlib.suppress(FileNotFoundError):
            try:
                return self._opened(directory, part, path)
            except NotADirectoryError:
                if not self._is_replaced(directory, part, path):
                    raise
        return None

    def _opened(self, directory: int, part: str, path: str) -> int:
        """Opens a directory, and makes it accessible to its owner. Raises OSError."""
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
        try:
            opened = os.open(part, flags, dir_fd=directory)
        except PermissionError:
            if sys.platform != "linux":
                raise
            at = os.open(part, flags | os.O_PATH, dir_fd=directory)
            try:
                self._allow(at, path, os.R_OK)
                return os.open(part, flags, dir_fd=directory)
            finally:
                os.close(at)
        self._allow(opened, path, os.X_OK)
        return opened

    @contextlib.contextmanager
    def _errors(self, directory: int, part: str, path: str, verb: str = "create") -> Iterator[None]:
        """Turns OSError, except FileNotFoundError, into UnsafePath, TargetError or StoreError."""
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR):
                if _is_link(directory, part):
                    text = f"{path} is a link: nothing is restored through it"
                    raise UnsafePath(text, self.hint(path), path=path, reason=IN_THE_WAY) from error
                text = f"cannot create the directory {path}: a file is in its place"
                raise TargetError(text, self.hint(path), path=path, reason=IN_THE_WAY) from error
            if error.errno in FATAL_ERRNOS:
                raise no_more(f"cannot {verb} the directory {path}", error.errno or 0) from error
            raise TargetError(f"cannot {verb} the directory {path}: {error.strerror}") from error


def _is_link(directory: int, part: str) -> bool:
    return stat.S_ISLNK(os.stat(part, dir_fd=directory, follow_symlinks=False).st_mode)

"""Reads and sets the metadata of a file: permissions, owner, times, extended attributes.

create stores it in entries and the trailer; restore passes it to the engine for files, and sets it here for
directories, links and FIFOs once nothing more is written below them. Setting works on a name in an open directory and
never follows a link. Metadata that the system or the user cannot set is reported, not raised. `facts` are the metadata
of an entry as FORMAT.md has them, `Metadata` is what can be set here. POSIX ACLs are the attributes system.posix_acl_*.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import errno
import functools
import grp
import os
import pwd
import stat
import sys
from collections.abc import Callable, Container, Iterator, Mapping
from typing import Any, NamedTuple

from pogfast._engine import Stat
from pogfast.errors import CorruptManifest

# Labels and signatures that a machine's own policy gives to every file: on another machine they are wrong.
FOREIGN = {"security.selinux", "security.SMACK64", "security.ima", "security.evm"}
# The limit of times in the engine, in nanoseconds: earlier ones than 1677 and later ones than 2262 become this.
MAX_NS = 2**63 - 1
# Errors of a file system without attributes; and of a file or attribute that was removed meanwhile.
NO_XATTRS = {errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOENT, errno.ENOTDIR, errno.ELOOP}
VANISHED = {errno.ENODATA, errno.ENOENT, errno.ENOTDIR, errno.ELOOP}
# The resolution of times in file systems, in ns: full, NTFS's and SMB's ticks, whole seconds, FAT's two seconds.
TIME_STEPS = (1, 100, 10**9, 2 * 10**9)
SET_ID = stat.S_ISUID | stat.S_ISGID
# Attributes that give privileges: capabilities, labels, everything that only root may set. Anybody with the public key
# can have put them into an archive.
RIGHTS = (b"security.", b"trusted.")
ACCESS_ACL, DEFAULT_ACL = b"system.posix_acl_access", b"system.posix_acl_default"


class Metadata(NamedTuple):
    """The metadata that this user can set on this system; -1 and None: leave it as it is."""

    mode: int = -1
    uid: int = -1
    gid: int = -1
    times: tuple[int, int] | None = None  # atime and mtime in ns
    xattrs: tuple[tuple[bytes, bytes], ...] = ()


def _ignore(reason: str) -> None:
    """For callers that only compare."""


# ---- from a file ---------------------------------------------------------------------------------------------------


def facts_of(path: str, found: Stat | os.stat_result, missed: Callable[[str], None] = _ignore) -> dict[str, Any]:
    """Returns the facts (FORMAT.md) of the file at `path`, given its lstat. Never raises.

    For entries and for the trailer's directories, links and FIFOs. Attributes, including ACLs, that cannot be read are
    left out, and `missed` is called with which and why.
    """
    facts: dict[str, Any] = {
        "mode": found.st_mode & 0o7777,
        "uid": found.st_uid,
        "gid": found.st_gid,
        "mtime_ns": kept_time(found.st_mtime_ns),
        "atime_ns": kept_time(found.st_atime_ns),
    }
    facts |= owner_names(found.st_uid, found.st_gid)
    if xattrs := _xattrs(path, missed):
        facts["xattrs"] = xattrs
    return facts


def owner_names(uid: int, gid: int) -> dict[str, str]:
    """Returns the facts that name an owner and a group, as far as they have names here."""
    names = {"user": _user_name(uid), "group": _group_name(gid)}
    return {word: name for word, name in names.items() if name}


def kept_time(ns: int) -> int:
    """Returns the nearest time that an archive and the engine can represent, from 1677 to 2262, in nanoseconds since
    1970."""
    return ns if -MAX_NS <= ns <= MAX_NS else max(-MAX_NS, min(ns, MAX_NS))


@functools.cache
def _user_name(number: int) -> str | None:
    try:
        return pwd.getpwuid(number).pw_name
    except (KeyError, OverflowError):
        return None


@functools.cache
def _group_name(number: int) -> str | None:
    try:
        return grp.getgrgid(number).gr_name
    except (KeyError, OverflowError):
        return None


if sys.platform == "linux":

    def _xattrs(path: str, missed: Callable[[str], None]) -> dict[str, str]:
        """Returns the attributes, with values in base64. One system call if there are none."""
        try:
            names = os.listxattr(path, follow_symlinks=False)
        except OSError as error:
            if error.errno not in NO_XATTRS:
                missed(f"its extended attributes cannot be listed: {error.strerror}")
            return {}
        return dict(_read_xattrs(path, names, missed)) if names else {}

    def _read_xattrs(path: str, names: list[str], missed: Callable[[str], None]) -> Iterator[tuple[str, str]]:
        for name in names:
            if name not in FOREIGN:
                try:
                    value = os.getxattr(path, name, follow_symlinks=False)
                except OSError as error:
                    if error.errno not in VANISHED:
                        missed(f"its {_attribute(name)} cannot be read: {error.strerror}")
                    continue
                yield name, base64.b64encode(value).decode()

else:

    def _xattrs(path: str, missed: Callable[[str], None]) -> dict[str, str]:
        """Returns nothing: Python reads attributes on Linux only."""
        return {}


def _attribute(name: str) -> str:
    return "ACL" if name.startswith("system.posix_acl_") or name.endswith("_acl") else f"extended attribute {name}"


def kept_metadata(directory: int, leaf: str, there: os.stat_result) -> Metadata:
    """Returns the permissions, owner and attributes that a new regular file takes over from the one that it replaces,
    as if that had been overwritten.

    Set-id bits and capabilities belonged to the old content, and are left out. If the user cannot give the new file the
    old one's group, or cannot read its ACL, the permissions of these are left out, so that nobody else gets them.
    """
    unread: list[str] = []
    path = f"/proc/self/fd/{directory}/{leaf}"
    xattrs = tuple((os.fsencode(name), base64.b64decode(value)) for name, value in _xattrs(path, unread.append).items())
    root = os.geteuid() == 0
    mode, uid, gid = stat.S_IMODE(there.st_mode), there.st_uid if root else -1, there.st_gid
    if not root and gid not in (os.getegid(), *os.getgroups()):
        mode, gid = mode & ~stat.S_IRWXG, -1
    if unread:
        mode &= ~(stat.S_IRWXG | stat.S_IRWXO)
    return without_rights(Metadata(mode, uid, gid, None, xattrs))


# ---- and back ------------------------------------------------------------------------------------------------------


def metadata_of(
    name: str, facts: Mapping[str, Any], *, numeric_owner: bool = False, no_owner: bool = False
) -> Metadata:
    """Returns the metadata to set, given the facts of `name`, an entry or one of the trailer's. Raises CorruptManifest.

    Only root sets owners. An owner whose name exists here is that user, whatever the number, unless `numeric_owner`;
    with `no_owner` no owner is set. A file that does not get its owner loses its set-id bits, so that it does not run
    with the privileges of the user who restores it.
    """
    try:
        user, group = (None, None) if numeric_owner else (facts.get("user"), facts.get("group"))
        user, group = user if isinstance(user, str) else None, group if isinstance(group, str) else None
        numbers = facts.get("mode", -1), facts.get("uid", -1), facts.get("gid", -1)
        mode, uid, gid = _permissions(*numbers, user, group, os.geteuid(), os.getegid())
        xattrs = tuple(_decoded(facts["xattrs"])) if "xattrs" in facts else ()
        mtime_ns, atime_ns = _time(facts, "mtime_ns"), _time(facts, "atime_ns")
    except (ValueError, TypeError, AttributeError) as error:
        raise CorruptManifest(f"{name}: its metadata is malformed") from error
    times = None if mtime_ns is None else (mtime_ns if atime_ns is None else atime_ns, mtime_ns)
    if no_owner:
        mode, uid, gid = mode & ~SET_ID if mode >= 0 else mode, -1, -1
    return Metadata(mode, uid, gid, times, xattrs)


def without_rights(metadata: Metadata, kept: int = 0) -> Metadata:
    """Returns the metadata without attributes that give privileges, and without set-id bits that are not in `kept`."""
    taken = SET_ID & ~kept
    if not metadata.xattrs and (metadata.mode < 0 or not metadata.mode & taken):
        return metadata  # the usual case
    mode = metadata.mode & ~taken if metadata.mode >= 0 else metadata.mode
    xattrs = tuple((name, value) for name, value in metadata.xattrs if not name.startswith(RIGHTS))
    return metadata._replace(mode=mode, xattrs=xattrs)


def is_same_time(there_ns: int, ns: int) -> bool:
    """Returns True if a file's time can be `ns`, as far as its file system keeps it. Both are in nanoseconds."""
    return any(there_ns == ns // step * step for step in TIME_STEPS)


def is_other_owner(metadata: Metadata, there: os.stat_result) -> bool:
    """Returns True if the metadata has another owner or group than the file that exists."""
    return metadata.uid not in (-1, there.st_uid) or metadata.gid not in (-1, there.st_gid)


def is_other_metadata(directory: int, leaf: str, there: os.stat_result, metadata: Metadata) -> bool:
    """Returns True if an existing file (`leaf` in an open directory, with the lstat `there`) has another owner,
    permissions, modification time or attributes. Attributes that the archive does not have count only if they are
    ACLs."""
    if is_other_owner(metadata, there):
        return True
    if metadata.mode >= 0 and stat.S_IMODE(there.st_mode) != metadata.mode and not stat.S_ISLNK(there.st_mode):
        return True
    if metadata.times is not None and not is_same_time(there.st_mtime_ns, metadata.times[1]):
        return True
    path = f"/proc/self/fd/{directory}/{leaf}"
    found = {os.fsencode(name): base64.b64decode(value) for name, value in _xattrs(path, _ignore).items()}
    wanted = dict(metadata.xattrs)
    acls = (ACCESS_ACL, DEFAULT_ACL) if metadata.mode >= 0 else ()
    return any(found.get(name) != value for name, value in wanted.items()) or any(
        name in found and name not in wanted for name in acls
    )


@functools.lru_cache(maxsize=256, typed=True)  # a million files have a handful of different ones
def _permissions(
    mode: int, uid: int, gid: int, user: str | None, group: str | None, own_uid: int, own_gid: int
) -> tuple[int, int, int]:
    """Returns (mode, uid, gid), with -1 for an owner that cannot be set. Raises ValueError, and TypeError for values
    that cannot be hashed."""
    for value, maximum in ((mode, 0o7777), (uid, 2**32 - 2), (gid, 2**32 - 2)):
        if type(value) is not int or not -1 <= value <= maximum:
            raise ValueError(value)
    uid = _known(_user_number, user, uid)
    gid = _known(_group_number, group, gid)
    root = own_uid == 0
    if mode >= 0:
        mode &= ~0 if uid >= 0 and (root or uid == own_uid) else ~stat.S_ISUID
        mode &= ~0 if gid >= 0 and (root or gid == own_gid) else ~stat.S_ISGID
    return (mode, uid, gid) if root else (mode, -1, -1)


def _time(facts: Mapping[str, Any], key: str) -> int | None:
    value = facts.get(key)
    if value is not None and type(value) is not int:
        raise ValueError(key)
    return value if value is None else kept_time(value)


def _decoded(xattrs: Mapping[str, str]) -> Iterator[tuple[bytes, bytes]]:
    for name, value in xattrs.items():
        raw = os.fsencode(name)
        if not raw or b"\0" in raw:
            raise ValueError(name)
        yield raw, binascii.a2b_base64(value, strict_mode=True)


def _known(number_of: Callable[[str], int | None], name: str | None, number: int) -> int:
    found = None if name is None else number_of(name)
    return number if found is None else found


@functools.cache
def _user_number(name: str) -> int | None:
    try:
        return pwd.getpwnam(name).pw_uid
    except (KeyError, ValueError):
        return None


@functools.cache
def _group_number(name: str) -> int | None:
    try:
        return grp.getgrnam(name).gr_gid
    except (KeyError, ValueError):
        return None


def set_metadata(directory: int, leaf: str, metadata: Metadata, there: os.stat_result | None = None) -> list[str]:
    """Sets the metadata of the file `leaf` in an open directory, of a link itself and not of its target. If the lstat
    `there` is given, sets nothing if another file has taken its place.

    The owner is set first, because that clears mode bits and capabilities; attributes before the mode, because they can
    be set only on a writable file; times last. Returns a phrase for each part that could not be set. For directories,
    links, FIFOs and files.
    """
    try:
        found = os.stat(leaf, dir_fd=directory, follow_symlinks=False)
        if stat.S_ISLNK(found.st_mode):
            return _set_on_link(directory, leaf, metadata)
        fd = _open(directory, leaf, metadata.mode >= 0)
    except OSError as error:
        return [f"its metadata cannot be set: {error.strerror}"]
    try:
        if not os.path.samestat(os.fstat(fd), there or found):
            return ["its metadata is not set: another file has taken its place"]
        return _set_on_descriptor(fd, metadata)
    finally:
        os.close(fd)


def _open(directory: int, leaf: str, gets_mode: bool) -> int:
    """Opens a file that is no link; if it `gets_mode`, even one that its owner may not read. Never waits for a FIFO."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        return os.open(leaf, flags, dir_fd=directory)
    except PermissionError:
        if sys.platform != "linux" or not gets_mode:
            raise
    at = os.open(leaf, os.O_PATH | os.O_NOFOLLOW, dir_fd=directory)
    try:
        os.chmod(f"/proc/self/fd/{at}", 0o700)
        return os.open(leaf, flags, dir_fd=directory)
    finally:
        os.close(at)


def _set_on_descriptor(fd: int, metadata: Metadata) -> list[str]:
    """Sets the metadata of an open file. Returns what failed."""
    failed: list[str] = []
    found, mode = os.fstat(fd), metadata.mode
    owner = metadata.uid, metadata.gid
    if is_other_owner(metadata, found) and not _done(failed, "owner", os.chown, fd, *owner) and mode >= 0:
        mode &= ~SET_ID
    if mode >= 0:
        failed += _remove_acls(fd, {name for name, _ in metadata.xattrs})
    if metadata.xattrs and not found.st_mode & stat.S_IWUSR:
        _done(failed, "mode", os.chmod, fd, stat.S_IMODE(found.st_mode) | stat.S_IWUSR)
    for name, value in metadata.xattrs:
        _done(failed, _attribute(os.fsdecode(name)), _set_xattr, fd, name, value)
    if mode >= 0:
        _done(failed, "mode", os.chmod, fd, mode)
    if metadata.times:
        _done(failed, "times", os.utime, fd, ns=metadata.times)
    return failed


def _remove_acls(fd: int, but: Container[bytes]) -> Iterator[str]:
    """Removes ACLs that the archive does not have: new files inherit them from the parent directory. Yields what could
    not be removed, if it exists: some systems refuse to remove an ACL that does not."""
    if sys.platform == "linux":
        for name, what in ((ACCESS_ACL, "ACL"), (DEFAULT_ACL, "default ACL")):
            if name not in but:
                try:
                    os.removexattr(fd, name)
                except OSError as error:
                    if error.errno not in NO_XATTRS | VANISHED and _has_xattr(fd, name):
                        yield f"its {what} cannot be removed: {error.strerror}"


def _has_xattr(fd: int, name: bytes) -> bool:
    with contextlib.suppress(OSError):
        os.getxattr(fd, name)
        return True
    return False


def _set_on_link(directory: int, leaf: str, metadata: Metadata) -> list[str]:
    """Sets the metadata of a link, which has no mode on Linux, but may have attributes. Returns what failed."""
    failed: list[str] = []
    at = {"dir_fd": directory, "follow_symlinks": False}
    if (metadata.uid, metadata.gid) != (-1, -1):
        _done(failed, "owner", os.chown, leaf, metadata.uid, metadata.gid, **at)
    if metadata.mode >= 0 and os.chmod in os.supports_follow_symlinks and sys.platform != "linux":
        _done(failed, "mode", os.chmod, leaf, metadata.mode, **at)
    for name, value in metadata.xattrs:
        path = f"/proc/self/fd/{directory}/{leaf}"
        _done(failed, _attribute(os.fsdecode(name)), _set_xattr, path, name, value, follow_symlinks=False)
    if metadata.times:
        _done(failed, "times", os.utime, leaf, ns=metadata.times, **at)
    return failed


def _done(failed: list[str], what: str, call: Any, *arguments: Any, **more: Any) -> bool:
    """Calls a function. Returns False, and adds to `failed`, if it raises OSError."""
    try:
        call(*arguments, **more)
    except OSError as error:
        failed.append(f"its {what} cannot be set: {error.strerror}")
        return False
    return True


def _set_xattr(where: int | str, name: bytes, value: bytes, *, follow_symlinks: bool = True) -> None:
    if sys.platform != "linux":
        raise OSError(0, "not on this system")
    os.setxattr(where, name, value, follow_symlinks=follow_symlinks)

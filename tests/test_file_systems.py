"""File systems that lack something: hard links, files without a name, renames that do not replace, a known size.

A small library in front of libc refuses what such a file system refuses; where the tests may mount, a real one is used.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kit.commands import run

# Refuses with the errno in NO_LINK, NO_NAMELESS, NO_RENAMEAT2, NO_OPENAT2, NO_TIMES, NO_OWNER, NO_MODE or NO_ATTRIBUTES
# what the variable is named after; attributes also when they are to be removed.
SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
static int refused(const char *what) {
    const char *code = getenv(what);
    if (!code) return 0;
    errno = atoi(code);
    return 1;
}
int linkat(int a, const char *from, int b, const char *to, int flags) {
    static int (*real)(int, const char *, int, const char *, int);
    if (refused("NO_LINK")) return -1;
    if (!real) real = dlsym(RTLD_NEXT, "linkat");
    return real(a, from, b, to, flags);
}
int openat(int dir, const char *path, int flags, ...) {
    static int (*real)(int, const char *, int, ...);
    va_list rest;
    if ((flags & O_TMPFILE) == O_TMPFILE && refused("NO_NAMELESS")) return -1;
    if (!real) real = dlsym(RTLD_NEXT, "openat");
    va_start(rest, flags);
    return real(dir, path, flags, va_arg(rest, int));
}
#define REFUSES(what, name, declared, passed) \
    int name declared { \
        static int (*real) declared; \
        if (refused(what)) return -1; \
        if (!real) real = dlsym(RTLD_NEXT, #name); \
        return real passed; \
    }
REFUSES("NO_TIMES", futimens, (int fd, const struct timespec *t), (fd, t))
REFUSES("NO_TIMES", utimensat, (int dir, const char *p, const struct timespec *t, int f), (dir, p, t, f))
REFUSES("NO_OWNER", fchown, (int fd, uid_t u, gid_t g), (fd, u, g))
REFUSES("NO_OWNER", fchownat, (int dir, const char *p, uid_t u, gid_t g, int f), (dir, p, u, g, f))
REFUSES("NO_MODE", fchmod, (int fd, mode_t m), (fd, m))
REFUSES("NO_ATTRIBUTES", fsetxattr, (int fd, const char *n, const void *v, size_t s, int f), (fd, n, v, s, f))
REFUSES("NO_ATTRIBUTES", lsetxattr, (const char *p, const char *n, const void *v, size_t s, int f), (p, n, v, s, f))
REFUSES("NO_ATTRIBUTES", fremovexattr, (int fd, const char *n), (fd, n))
long syscall(long number, ...) {
    static long (*real)(long, ...);
    va_list rest;
    long a[6];
    if (number == SYS_renameat2 && refused("NO_RENAMEAT2")) return -1;
    if (number == SYS_openat2 && refused("NO_OPENAT2")) return -1;
    if (!real) real = dlsym(RTLD_NEXT, "syscall");
    va_start(rest, number);
    for (int i = 0; i < 6; i++) a[i] = va_arg(rest, long);
    return real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
"""
EPERM, ENOSYS, EINVAL, EOPNOTSUPP = "1", "38", "22", "95"
LACKS = {
    "no hard links, as on FAT": {"NO_LINK": EPERM},
    "no hard links, as on SMB": {"NO_LINK": EOPNOTSUPP, "NO_NAMELESS": EOPNOTSUPP},
    "no hard links, as on FUSE": {"NO_LINK": ENOSYS, "NO_NAMELESS": EOPNOTSUPP, "NO_RENAMEAT2": EINVAL},
    "an old system": {"NO_NAMELESS": EOPNOTSUPP, "NO_RENAMEAT2": ENOSYS, "NO_OPENAT2": ENOSYS},
}


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if sys.platform != "linux":
        pytest.skip("the shim is for Linux")
    folder = tmp_path_factory.mktemp("shim")
    (folder / "shim.c").write_text(SHIM)
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", folder / "shim.so", folder / "shim.c", "-ldl"], check=True)
    return folder / "shim.so"


@pytest.mark.parametrize("lacks", LACKS.values(), ids=LACKS)
def test_archives_are_made_and_restored(tmp_path: Path, shim: Path, lacks: dict[str, str]) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "small").write_bytes(b"small")
    (source / "empty").touch()
    (source / "large").write_bytes(os.urandom(3_000_000))
    with open(source / "sparse", "wb") as file:
        file.truncate(4_000_000)
        file.write(b"begin")
    os.link(source / "small", source / "another name")
    for number, path in enumerate(sorted(source.iterdir())):
        path.chmod(0o640)
        os.utime(path, (1_500_000_000 + number, 1_600_000_000 + number))
    (tmp_path / "key").write_bytes(b"k" * 40)
    environment = {**os.environ, **lacks, "LD_PRELOAD": str(shim), "POGFAST_CACHE_DIR": str(tmp_path / "cache")}

    def pogfast(*arguments: str, code: int = 0) -> str:
        command = [sys.executable, "-m", "pogfast", *arguments, "--keyfile", "key"]
        ran = run(command, tmp_path, env=environment)
        assert ran.code == code, ran.err
        return ran.out.decode().strip()

    name = pogfast("create", "source", "--to", "store", "--chunk-size", "1MB")
    pogfast("restore", f"store/{name}", "--into", "restored")
    for path in sorted(source.iterdir()):
        restored = tmp_path / "restored" / "source" / path.name
        assert restored.read_bytes() == path.read_bytes()
        assert restored.stat().st_mode == path.stat().st_mode
        assert restored.stat().st_mtime_ns == path.stat().st_mtime_ns
    assert not list((tmp_path / "restored").rglob(".pogfast-*"))
    assert not list((tmp_path / "store").rglob(".pogfast-*"))
    (tmp_path / "restored" / "source" / "large").write_bytes(b"mine")
    pogfast("restore", f"store/{name}", "--into", "restored", "--overwrite", "if-changed")
    assert (tmp_path / "restored" / "source" / "large").read_bytes() == (source / "large").read_bytes()


def test_a_file_system_of_unknown_size(tmp_path: Path) -> None:
    """ramfs has 0 of 0 blocks, as some FUSE file systems do."""
    mount = tmp_path / "ram"
    mount.mkdir()
    mounted = sys.platform == "linux" and not os.geteuid()
    mounted = mounted and not subprocess.run(["mount", "-t", "ramfs", "none", mount], capture_output=True).returncode
    if not mounted:
        pytest.skip("it needs the right to mount a ramfs")
    try:
        (tmp_path / "large").write_bytes(os.urandom(5_000_000))
        (tmp_path / "key").write_bytes(b"k" * 40)
        for arguments in (
            ["create", "large", "--to", mount / "store"],
            ["restore", mount / "store" / "latest", "--into", mount / "out"],
        ):
            ran = run([sys.executable, "-m", "pogfast", *arguments, "--keyfile", "key"], tmp_path)
            assert ran.code == 0, ran.err + ran.out.decode()
        ran = run([sys.executable, "-m", "pogfast", "doctor", mount / "store"], tmp_path)
        assert ran.code == 0, ran.err + ran.out.decode()
        assert "0.0 GB free" not in ran.out.decode()
        assert (mount / "out" / "large").read_bytes() == (tmp_path / "large").read_bytes()
    finally:
        subprocess.run(["umount", mount], check=True)


@pytest.mark.parametrize("planted", ["fifo", "link", "directory"])
@pytest.mark.parametrize("openat2", [True, False])
def test_what_lies_in_place_of_a_blob(tmp_path: Path, shim: Path, planted: str, openat2: bool) -> None:
    """It is neither followed nor waited for: that file is damaged, the others come back, and a new archive mends it."""
    (tmp_path / "one").write_bytes(b"one" * 1000)
    (tmp_path / "two").write_bytes(b"two" * 1000)
    (tmp_path / "key").write_bytes(b"k" * 40)
    environment = {**os.environ, "LD_PRELOAD": str(shim)} | ({} if openat2 else {"NO_OPENAT2": ENOSYS})

    def pogfast(*arguments: str) -> tuple[int, str]:
        ran = run([sys.executable, "-m", "pogfast", *arguments, "--keyfile", "key"], tmp_path, env=environment)
        return ran.code, ran.err

    pogfast("create", "one", "--to", "store", "--no-cache")
    (blob,) = (tmp_path / "store" / "data").glob("*/*")
    pogfast("create", "two", "one", "--to", "store", "--no-cache")
    elsewhere = tmp_path / "elsewhere"
    blob.rename(elsewhere)
    if planted == "fifo":
        os.mkfifo(blob)
    elif planted == "link":
        blob.symlink_to(elsewhere)
    else:
        blob.mkdir()
    code, said = pogfast("restore", "store/latest", "--into", "out")
    assert code in (3, 4)
    assert "one" in said
    assert (tmp_path / "out" / "two").exists()
    assert not (tmp_path / "out" / "one").exists()
    if planted != "directory":
        assert pogfast("create", "one", "--to", "store", "--no-cache")[0] == 0
        assert elsewhere.is_file()
        assert blob.is_file()
        assert not blob.is_symlink()


@pytest.mark.parametrize("openat2", [True, False])
@pytest.mark.parametrize("part", ["data", "data/ab"])
def test_a_link_in_place_of_a_folder_of_a_store(tmp_path: Path, shim: Path, part: str, openat2: bool) -> None:
    """Nothing is written or read through it."""
    (tmp_path / "one").write_bytes(b"one" * 1000)
    (tmp_path / "key").write_bytes(b"k" * 40)
    environment = {**os.environ, "LD_PRELOAD": str(shim)} | ({} if openat2 else {"NO_OPENAT2": ENOSYS})
    command = [sys.executable, "-m", "pogfast"]
    key = ["--keyfile", "key", "--no-cache"]
    assert run([*command, "create", "one", "--to", "store", *key], tmp_path, env=environment).code == 0
    (folder,) = (tmp_path / "store" / "data").iterdir()
    moved = tmp_path / "store" / "data" if part == "data" else folder
    moved.rename(tmp_path / "elsewhere")
    moved.symlink_to(tmp_path / "elsewhere")
    before = sorted((tmp_path / "elsewhere").rglob("*"))
    read = run([*command, "restore", "store/latest", "--into", "out", "--keyfile", "key"], tmp_path, env=environment)
    assert read.code in (3, 4), read.err
    assert not (tmp_path / "out" / "one").exists()
    written = run([*command, "create", "one", "--to", "store", *key], tmp_path, env=environment)
    assert written.code == 1, written.err
    assert "Too many levels of symbolic links" in written.err or "is a symbolic link" in written.err
    assert sorted((tmp_path / "elsewhere").rglob("*")) == before


REFUSED = {  # what refuses, with what, and what is said of files, directories, links and FIFOs
    "times": ({"NO_TIMES": EPERM}, "its times cannot be set: Operation not permitted", "fdlp"),
    "permissions": ({"NO_MODE": EPERM}, "its mode cannot be set: Operation not permitted", "fdp"),
    "owners": ({"NO_OWNER": EPERM}, "its owner cannot be set: Operation not permitted", "fdlp"),
    "attributes": (
        {"NO_ATTRIBUTES": "28"},
        "its extended attribute user.one cannot be set: No space left on device",
        "fd",
    ),
}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize("sync", [[], ["--no-sync"]], ids=["sync", "no sync"])
@pytest.mark.parametrize("refused", REFUSED)
def test_metadata_that_is_refused_is_named_and_the_rest_restored(
    tmp_path: Path, shim: Path, refused: str, sync: list[str]
) -> None:
    source = tmp_path / "tree"
    (source / "d").mkdir(parents=True)
    (source / "f").write_bytes(b"content")
    (source / "f").chmod(0o641)
    (source / "d").chmod(0o751)
    (source / "l").symlink_to("f")
    os.mkfifo(source / "p", 0o604)
    for leaf in "fd":
        os.setxattr(source / leaf, "user.one", b"1")
    for leaf in "fdlp":
        os.chown(source / leaf, 1234, 4321, follow_symlinks=False)
        os.utime(source / leaf, (1_500_000_000, 1_500_000_000), follow_symlinks=False)
    (tmp_path / "key").write_bytes(b"k" * 40)
    without, said, leaves = REFUSED[refused]

    def pogfast(*arguments: str, **more: str) -> tuple[int, str]:
        environment = {**os.environ, "LD_PRELOAD": str(shim), **more}
        ran = run([sys.executable, "-m", "pogfast", *arguments, "--keyfile", "key"], tmp_path, env=environment)
        return ran.code, ran.err

    assert pogfast("create", "tree", "--to", "store", "--no-cache")[0] == 0
    code, told = pogfast("restore", "store/latest", "--into", "out", *sync, **without)
    assert code == 3, told
    for leaf in leaves:
        assert told.count(f"warning: tree/{leaf}: {said}") == 1, told
    assert "could not be set" in told
    assert (tmp_path / "out/tree/f").read_bytes() == b"content"
    for leaf in "fdlp":
        was, now = (source / leaf).lstat(), (tmp_path / "out/tree" / leaf).lstat()
        assert refused == "times" or was.st_mtime_ns == now.st_mtime_ns
        assert refused == "owners" or (was.st_uid, was.st_gid) == (now.st_uid, now.st_gid)
        assert refused == "permissions" or was.st_mode == now.st_mode
        assert was.st_mode & now.st_mode == now.st_mode or leaf == "d", "never more than it was"
        if leaf in "fd" and refused != "attributes":
            assert os.getxattr(tmp_path / "out/tree" / leaf, "user.one") == b"1"
    code, told = pogfast("restore", "store/latest", "--into", "out", "--overwrite", "if-changed")
    assert code == 0, told
    assert (tmp_path / "out/tree/f").stat().st_mode == (source / "f").stat().st_mode

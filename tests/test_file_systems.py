"""File systems that lack something: hard links, files without a name, renames that do not replace, a known size.

A small library in front of libc refuses what such a file system refuses; where the tests may mount, a real one is used.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import run

# Refuses with the errno in NO_LINK, NO_NAMELESS, NO_RENAMEAT2 or NO_OPENAT2 what the variable is named after.
SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/syscall.h>
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

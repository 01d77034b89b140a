"""Blobs that are damaged in transit or at rest, too large, or truncated while they are read: what a user sees."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from botocore.config import Config

from kit.commands import Ran, Runner
from kit.faultproxy import Fault, Proxy, proxied
from kit.servers import environment_of, rclone
from pogfast._engine import MAX_BLOB

SECRET = bytes(range(32))


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with rclone(tmp_path_factory.mktemp("rclone")) as server, proxied(server.url) as made:
        yield made


@pytest.fixture
def bucket(proxy: Proxy) -> str:
    proxy.faults = []
    name = f"mending-{time.monotonic_ns()}"
    settings = Config(request_checksum_calculation="when_required", response_checksum_validation="when_required")
    environment = environment_of(proxy.url)
    boto3.client(
        "s3",
        endpoint_url=proxy.url,
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        region_name="us-east-1",
        config=settings,
    ).create_bucket(Bucket=name)
    return f"s3://{name}"


class Place:
    """A directory with a tree and keys, and the command in it."""

    def __init__(self, path: Path, pogfast: Runner, proxy: Proxy) -> None:
        self.path = path
        self.runner = pogfast
        self.environment = {**os.environ, **environment_of(proxy.url), "POGFAST_CACHE_DIR": str(path / "cache")}
        (path / "key").write_bytes(SECRET)
        self.key = ["--keyfile", "key"]
        (path / "tree").mkdir()
        for number in range(6):
            (path / "tree" / f"{number}").write_bytes(os.urandom(1000 + number))
        (path / "tree" / "large").write_bytes(os.urandom(700_000))

    def __call__(self, *words: str, code: int = 0) -> Ran:
        ran = self.runner(*words, *self.key, env=self.environment, cwd=self.path)
        assert ran.code == code, (ran.out, ran.err)
        return ran

    def create(self, to: str, *more: str) -> str:
        ran = self("create", "tree", "--to", to, "--chunk-size", "500kB", *more)
        return ran.out.decode().strip()

    def assert_restored(self, into: str = "out") -> None:
        for path in (self.path / "tree").iterdir():
            assert (self.path / into / "tree" / path.name).read_bytes() == path.read_bytes(), path.name

    def blobs(self, store: str) -> list[Path]:
        return sorted((self.path / store / "data").rglob("*="))


@pytest.fixture
def place(tmp_path: Path, pogfast: Runner, proxy: Proxy) -> Place:
    return Place(tmp_path, pogfast, proxy)


# ---- on the way ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verb", "at"),
    [("restore", 30), ("restore", 100), ("restore", 700), ("check", 30), ("copy", 100), ("copy", 30), ("cat", 700)],
    ids=lambda value: {30: "header", 100: "tag", 700: "body"}.get(value, value),
)
def test_a_bit_that_flips_on_the_way_is_fetched_again(
    place: Place, proxy: Proxy, bucket: str, verb: str, at: int
) -> None:
    """Once: two flips could meet one blob twice. What is damaged where it lies is damage all the same."""
    name = place.create(bucket)
    words = {
        "restore": ["restore", f"{bucket}/{name}", "--into", "out"],
        "check": ["check", bucket, "--read-data"],
        "copy": ["copy", bucket, "second"],
        "cat": ["cat", f"{bucket}/{name}", "tree/large"],
    }
    proxy.faults = [Fault("GET .*/data/", flip=at, times=1)]
    ran = place(*words[verb])
    assert not proxy.faults[0].times, "all of them were met"
    if verb == "restore":
        place.assert_restored()
    elif verb == "cat":
        assert ran.out == (place.path / "tree" / "large").read_bytes()
    elif verb == "copy":
        place("check", "second", "--read-data")
        shutil.rmtree(place.path / "second")
    proxy.faults = [Fault("GET .*/data/", flip=at, times=-1)]
    shutil.rmtree(place.path / "out", ignore_errors=True)
    place(*words[verb], code=4)


def test_pog_fetches_a_blob_again_too(place: Place, proxy: Proxy, bucket: str, pog: Runner) -> None:
    content = os.urandom(5000)
    (place.path / "f").write_bytes(content)
    ran = pog("--keyfile=key", f"--save-to={bucket}", "f", env=place.environment, cwd=place.path)
    assert ran.code == 0, ran.err
    proxy.faults = [Fault("GET .*/data/", flip=700, times=1)]
    ran = pog("--keyfile=key", "--decrypt", f"{bucket}/{ran.lines[1]}", env=place.environment, cwd=place.path)
    assert (ran.code, ran.out == content) == (0, True), ran.err
    assert not proxy.faults[0].times


@pytest.mark.parametrize(
    ("part", "verbs"),
    [("header", "restore check find copy rewrite list"), ("box", "restore copy"), ("index", "check copy prune")],
)
def test_a_manifest_is_fetched_again_too(place: Place, proxy: Proxy, bucket: str, part: str, verbs: str) -> None:
    """The newest archive is no other one because a bit flipped, and nothing damaged is copied."""
    assert place.runner("keygen", "pair", cwd=place.path).code == 0
    place.key = KEYS["key pair"] if part == "index" else place.key
    place.create(bucket)
    name = place.create(bucket)
    if part == "index":
        place.key = ["--decryption-keyfile", "pair.decrypt"]
    at = {"header": 20, "box": 80, "index": 100}[part]
    for words in (
        ["restore", f"{bucket}/latest", "--into", "out"],
        ["check", bucket],
        ["find", bucket, "large"],
        ["copy", bucket, "second"],
        ["rewrite", f"{bucket}/{name}", "--exclude", "large"],
        ["list", bucket],
        ["prune", bucket, "--keep-last", "1"],
    ):
        if words[0] not in verbs.split():
            continue
        place.environment["POGFAST_CACHE_DIR"] = str(place.path / "none" / words[0])
        for skip in (0, 1) if words[0] in ("copy", "restore") else (0,):
            shutil.rmtree(place.path / "second", ignore_errors=True)
            shutil.rmtree(place.path / "out", ignore_errors=True)
            proxy.faults = [Fault(f"GET .*{name[:10]}.*mfn", flip=at, times=1, skip=skip)]
            ran = place(*words)
            assert not proxy.faults[0].times, (words, "it was met")
            assert "error" not in ran.err, words
            assert "damaged" not in ran.err.replace("no damage found", ""), words
            if words[0] == "copy":
                place("check", "second", "--read-data")


# Changes a byte of every blob that is read, until the system was told to forget what it keeps of that file: as memory
# does that holds a page of it.
FLIP = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>
static char forgotten[64][4096];
static int count;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int is_bad(int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 1 || path[length - 1] != '=') return 0;
    path[length] = 0;
    int bad = 1;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < count; i++)
        if (!strcmp(forgotten[i], path)) bad = 0;
    pthread_mutex_unlock(&lock);
    return bad;
}
static ssize_t flip(int fd, char *p, ssize_t got) {
    if (got > 300 && is_bad(fd)) {
        p[300] ^= 1;
        if (write(2, "flipped\\n", 8) < 0) return got;
    }
    return got;
}
ssize_t read(int fd, void *p, size_t n) {
    ssize_t (*real)(int, void *, size_t) = dlsym(RTLD_NEXT, "read");
    return flip(fd, p, real(fd, p, n));
}
ssize_t pread(int fd, void *p, size_t n, off_t at) {
    ssize_t (*real)(int, void *, size_t, off_t) = dlsym(RTLD_NEXT, "pread");
    return flip(fd, p, real(fd, p, n, at));
}
ssize_t pread64(int fd, void *p, size_t n, off64_t at) {
    ssize_t (*real)(int, void *, size_t, off64_t) = dlsym(RTLD_NEXT, "pread64");
    return flip(fd, p, real(fd, p, n, at));
}
ssize_t readv(int fd, const struct iovec *p, int n) {
    ssize_t (*real)(int, const struct iovec *, int) = dlsym(RTLD_NEXT, "readv");
    return flip(fd, p[0].iov_base, real(fd, p, n));
}
#define FLIPPING_PREADV(name) \\
    ssize_t name(int fd, const struct iovec *p, int n, off_t at, int flags) { \\
        ssize_t (*real)(int, const struct iovec *, int, off_t, int) = dlsym(RTLD_NEXT, #name); \\
        return flip(fd, p[0].iov_base, real(fd, p, n, at, flags)); \\
    }
FLIPPING_PREADV(preadv2)
FLIPPING_PREADV(preadv64v2)
static void forget(int fd, int advice) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    char path[4096];
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (advice != POSIX_FADV_DONTNEED || length < 1) return;
    path[length] = 0;
    pthread_mutex_lock(&lock);  // several threads read
    if (count < 64) strcpy(forgotten[count++], path);
    pthread_mutex_unlock(&lock);
}
int posix_fadvise(int fd, off_t at, off_t n, int advice) { forget(fd, advice); return 0; }
int posix_fadvise64(int fd, off64_t at, off64_t n, int advice) { forget(fd, advice); return 0; }
"""


def test_a_bit_that_flips_between_disk_and_memory_is_read_again_from_the_disk(place: Place) -> None:
    if sys.platform != "linux":
        pytest.skip("the shim is for Linux")
    (place.path / "flip.c").write_text(FLIP)
    shim = str(place.path / "flip.so")
    subprocess.run(["cc", "-shared", "-fPIC", "-pthread", "-o", shim, place.path / "flip.c", "-ldl"], check=True)
    name = place.create("store")
    place.environment["LD_PRELOAD"] = shim
    assert "flipped" in place("restore", f"store/{name}", "--into", "out").err
    place.assert_restored()
    assert "flipped" in place("check", "store", "--read-data").err
    ran = place("cat", f"store/{name}", "tree/large")
    assert "flipped" in ran.err
    assert ran.out == (place.path / "tree" / "large").read_bytes()
    assert "flipped" in place("copy", "store", "second").err
    del place.environment["LD_PRELOAD"]
    place("check", "second", "--read-data")


# ---- cut short, and found without reading ----------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["cut", "grown"])
@pytest.mark.parametrize("layout", ["frames", "stream"])
def test_check_finds_a_blob_of_another_size_without_reading(place: Place, bucket: str, layout: str, how: str) -> None:
    assert place.runner("keygen", "pair", cwd=place.path).code == 0
    place.key = KEYS["key pair"]
    place.create("store", "--layout", layout)
    victim = max(place.blobs("store"), key=lambda path: path.stat().st_size)
    size = victim.stat().st_size
    os.truncate(victim, size // 20 if how == "cut" else size + 600)
    place.key = []  # without a key nothing that is copied can be looked at
    place("copy", "store", bucket)
    for store in ("store", bucket):
        for key in ("--encryption-keyfile=pair.encrypt", "--decryption-keyfile=pair.decrypt"):
            place.key = [key]
            said = place("check", store, code=4).err
            assert victim.name in said
            assert "cut short" in said if how == "cut" else ("has grown" in said or "instead of" in said)


# ---- too large -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", ["200 MB", "15 TB"])
@pytest.mark.parametrize("layout", ["frames", "stream"])
def test_a_blob_that_has_grown_is_damage_of_its_file_alone(place: Place, layout: str, size: str) -> None:
    """It is sparse: it costs nobody anything to make it, and whoever read it would need that much memory and time."""
    name = place.create("store", "--layout", layout)
    victim = min(place.blobs("store"), key=lambda path: path.stat().st_size)
    length = 200 * 10**6 if size == "200 MB" else 15 * 10**12
    try:
        os.truncate(victim, length)
    except OSError:
        pytest.skip("this file system has no files of 15 TB")
    assert length == 200 * 10**6 or length > MAX_BLOB
    command = [sys.executable, "-m", "pogfast", "restore", f"store/{name}", "--into", "out", *place.key]
    limited = (
        "import resource, os, sys; resource.setrlimit(resource.RLIMIT_DATA, (150 << 20,) * 2); os.execv({!r}, {!r})"
    )
    limited = limited.format(sys.executable, [*command, "--jobs", "1"])
    ran = subprocess.run([sys.executable, "-c", limited], cwd=place.path, env=place.environment, capture_output=True)
    assert ran.returncode == 4, ran.stderr
    assert victim.name.encode() in ran.stderr
    there = {path.name for path in (place.path / "out" / "tree").iterdir()}
    assert len(there) == 6, "all but one"
    for leaf in there:
        assert (place.path / "out" / "tree" / leaf).read_bytes() == (place.path / "tree" / leaf).read_bytes()
    place("check", "store", code=4)


# ---- cut while it is read --------------------------------------------------------------------------------------------


# Cuts a blob right after this process has asked for its length the CUT_AFTER-th time: there is no worse moment.
CUT = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
static void cut(int fd) {
    static int asked;
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 1 || path[length - 1] != '=') return;
    path[length] = 0;
    if (++asked == atoi(getenv("CUT_AFTER")) && truncate(path, 4096) == 0 && write(2, "cut\\n", 4) < 0) return;
}
int fstat(int fd, struct stat *facts) {
    int (*real)(int, struct stat *) = dlsym(RTLD_NEXT, "fstat"), code = real(fd, facts);
    cut(fd);
    return code;
}
int fstat64(int fd, struct stat64 *facts) {
    int (*real)(int, struct stat64 *) = dlsym(RTLD_NEXT, "fstat64"), code = real(fd, facts);
    cut(fd);
    return code;
}
"""


def test_a_blob_that_is_cut_while_it_is_read_is_damage(place: Place) -> None:
    """A mapped one would end the process by SIGBUS."""
    if sys.platform != "linux":
        pytest.skip("the shim is for Linux")
    (place.path / "cut.c").write_text(CUT)
    shim = str(place.path / "cut.so")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", shim, place.path / "cut.c", "-ldl"], check=True)
    shutil.rmtree(place.path / "tree")
    (place.path / "tree").mkdir()
    content = os.urandom(8_000_000)
    (place.path / "tree" / "f").write_bytes(content)
    place("create", "tree", "--to", "store")
    [blob] = place.blobs("store")
    whole = blob.read_bytes()
    ours = [sys.executable, "-m", "pogfast"]
    reading = {
        "pog": [sys.executable, "-m", "pogfast.pog", "--keyfile=key", "--decrypt", str(blob)],
        "cat": [*ours, "cat", "store/latest", "tree/f", *place.key],
        "restore": [*ours, "restore", "store/latest", "--into", "out", *place.key],
        "copy": [*ours, "copy", "store", "second", *place.key],
    }
    for verb, command in reading.items():
        was_cut = 0
        for moment in range(1, 4):
            shutil.rmtree(place.path / "out", ignore_errors=True)
            shutil.rmtree(place.path / "second", ignore_errors=True)
            environment = {**place.environment, "LD_PRELOAD": shim, "CUT_AFTER": str(moment)}
            ran = subprocess.run(command, cwd=place.path, env=environment, capture_output=True)
            if blob.stat().st_size == len(whole):
                assert ran.returncode == 0, (verb, ran.stderr)
                continue
            was_cut += 1
            assert ran.returncode in (0, 4), (verb, moment, ran.returncode, ran.stderr)  # 0: it had been read
            assert not ran.stdout or ran.stdout == content or verb == "copy"
            blob.write_bytes(whole)
        assert was_cut, verb


# ---- damaged where it lies -------------------------------------------------------------------------------------------

KEYS = {"symmetric": ["--keyfile", "key"], "key pair": ["--encryption-keyfile", "pair.encrypt"]}


def flip(path: Path, at: int) -> None:
    with open(path, "r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 4]))


@pytest.mark.parametrize("kind", KEYS)
@pytest.mark.parametrize("layout", ["frames", "stream"])
def test_force_mends_each_kind_of_damage_in_a_directory(place: Place, kind: str, layout: str) -> None:
    if kind == "key pair":
        place.key = []
        place("keygen", "pair")
    reading = ["--decryption-keyfile", "pair.decrypt"] if kind == "key pair" else KEYS[kind]
    place.key = KEYS[kind]
    name = place.create("store", "--layout", layout)
    flipped, cut, emptied, swapped, other, gone, *_ = place.blobs("store")
    flip(flipped, 200)
    os.truncate(cut, cut.stat().st_size - 1)
    os.truncate(emptied, 0)
    swapped.write_bytes(other.read_bytes())
    gone.unlink()
    second = place.create("store", "--layout", layout, "--force")
    place.key = reading
    place("check", "store", "--read-data")
    for archive in (name, second):
        place("restore", f"store/{archive}", "--into", archive)
        place.assert_restored(archive)
    assert not list((place.path / "store").rglob(".pogfast-*"))


@pytest.mark.parametrize("kind", KEYS)
def test_force_mends_objects(place: Place, bucket: str, kind: str) -> None:
    if kind == "key pair":
        place.key = []
        place("keygen", "pair")
    place.key = KEYS[kind]
    name = place.create("store")
    for blob in place.blobs("store")[:3]:
        flip(blob, 200)
    with_all = KEYS[kind] if kind == "symmetric" else ["--decryption-keyfile", "pair.decrypt"]
    place.key = []  # without a key nothing that is copied can be looked at
    place("copy", "store", bucket)
    place.key = KEYS[kind]
    place.create(bucket)
    place.key = with_all
    place("check", bucket, "--read-data", code=4)
    place.key = KEYS[kind]
    place.create(bucket, "--force")
    place.key = with_all
    place("check", bucket, "--read-data")
    place("restore", f"{bucket}/{name}", "--into", "out")
    place.assert_restored()

"""Power cuts: whatever of a command's writes had reached the disk, nothing is lost that was reported as done.

Each command is recorded once (kit/powercut.py); then a sample of the disks that a power cut could leave behind is made
and looked at: archives that were there are whole, what can be seen is whole, and the same command completes. The sample
is POGFAST_POWER_CUTS disks of each command, 0 for all of them (ci/powercuts.sh).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import shutil
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit import powercut
from pogfast import facade, keys
from pogfast.backup import cache, profiles
from pogfast.errors import KeyFileError
from pogfast.stores import local

SAMPLE = int(os.environ.get("POGFAST_POWER_CUTS", "8"))
ORDERS = int(os.environ.get("POGFAST_POWER_CUT_ORDERS", "3"))
SEED = int(os.environ.get("POGFAST_POWER_CUT_SEED", "0"))

pytestmark = pytest.mark.skipif(not powercut.has_strace(), reason="strace is not installed, or may not trace")


class World:
    """A disk whose power is cut, and sources on another one."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.disk = home / "disk"
        self.source = home / "source"
        self.env = {**os.environ, "POGFAST_CACHE_DIR": str(self.disk / "cache")}
        for directory in (self.disk, self.source):
            directory.mkdir(exist_ok=True)
        facade.keygen(self.disk / "k")
        facade.keygen(self.disk / "sym", symmetric=True)
        self.public = facade.open_key(encryption_keyfile=self.disk / "k.encrypt", writing=True)
        self.private = facade.open_key(decryption_keyfile=self.disk / "k.decrypt")
        self.keyfile = facade.open_key(keyfile=self.disk / "sym")
        self.store = self.disk / "S"
        self.off_ns = 3600 * 10**9  # the power is off for so long: nobody waits for a prune that was cut off
        self.reboot = lambda: None
        self.write("small", b"small\n")
        self.write("large", random.Random(1).randbytes(1_200_000))  # goes to the disk while it is made
        self.write("deep/er/file", bytes(100_000))

    def write(self, name: str, data: bytes) -> None:
        path = self.source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def create(self, key: keys.Key, store: Path | None = None, **more: object) -> str:
        """The name of a new archive of the sources."""
        return facade.create(self.source, store or self.store, key, cache_dir=self.disk / "cache", **more).manifest

    def states(self, *command: str | Path) -> Iterator[powercut.State]:
        """Runs a command of the package, and gives the sampled disks, each in its turn on the real one."""
        chance = random.Random(SEED)
        line = [sys.executable, "-m", *command] if command[0] != "-c" else [sys.executable, *command]
        trace = powercut.record(line, self.disk, self.disk, self.env, self.home / "strace")
        states = trace.states(chance, ORDERS)
        assert len(states) > 1, "there was something to cut"
        self.reboot()
        for state in chance.sample(states, min(SAMPLE, len(states))) if SAMPLE else states:
            shutil.rmtree(self.disk)
            state.disk.build(self.disk, self.off_ns)
            try:
                yield state
            except BaseException as error:
                error.add_note(state.what)
                raise

    def manifests(self, store: Path) -> set[str]:
        return {path.name for path in store.glob("*.mfn") if not path.name.startswith(".")}

    def check(self, key: keys.Key, *done: str, store: Path | None = None) -> None:
        """All archives that can be seen are whole, and those that are `done` can be seen."""
        store = store or self.store
        assert self.manifests(store) >= set(done), "an archive is lost"
        if self.manifests(store):
            summary = facade.check(store, key, read_data=True)
            assert (summary.damage, summary.problems) == ([], [])


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    (tmp_path / "cut").mkdir(exist_ok=True)
    made = World(tmp_path / "cut")
    monkeypatch.setenv("POGFAST_CACHE_DIR", made.env["POGFAST_CACHE_DIR"])
    made.reboot = lambda: reboot(monkeypatch)
    return made


def reboot(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes this process one of another boot, a minute ago."""
    monkeypatch.setattr(cache, "_boot_id", lambda: "after the cut")
    monkeypatch.setattr(local, "booted_ns", lambda: time.time_ns() - 60 * 10**9)


def named(printed: bytes) -> list[str]:
    """The archives that a command has reported."""
    return [word for word in printed.decode().split() if word.endswith(".mfn")]


REPLACE = """
import os, sys

with open("draft", "wb") as file:
    file.write(b"new")
    file.flush()
    if "file" in sys.argv:
        os.fsync(file.fileno())
os.rename("draft", "name")
if "directory" in sys.argv:
    os.fsync(os.open(".", os.O_RDONLY))
print("done")
"""


@pytest.mark.parametrize(
    ("synced", "found", "done"),
    [
        ((), {b"old", b"new", b"", b"\0\0\0"}, {b"old", b"new", b"", b"\0\0\0"}),
        (("file",), {b"old", b"new"}, {b"old", b"new"}),
        (("file", "directory"), {b"old", b"new"}, {b"new"}),
    ],
)
def test_what_a_power_cut_leaves(tmp_path: Path, synced: tuple[str, ...], found: set[bytes], done: set[bytes]) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    (disk / "name").write_bytes(b"old")
    command = [sys.executable, "-c", REPLACE, *synced]
    trace = powercut.record(command, disk, disk, os.environ, tmp_path / "strace")
    seen: dict[bool, set[bytes]] = {False: set(), True: set()}
    for number, state in enumerate(trace.states(random.Random(SEED), 30)):
        built = tmp_path / str(number)
        state.disk.build(built, 0)
        seen[b"done" in state.printed].add((built / "name").read_bytes())
    assert (seen[False] | seen[True], seen[True]) == (found, done)


PUT = """
import sys
from pogfast.stores import LocalStore

store = LocalStore.create("S", fan_out=True)
for path in ("2026-11-30/1", "2026-11-30/2", "index/3"):
    store.put_object(f"packs/{path}", b"a pack" * 1000)
    print(f"packs/{path}", flush=True)
"""


def test_objects_are_durable_and_whole(world: World) -> None:
    """In folders that are new."""
    world.store.mkdir()
    for state in world.states("-c", PUT):
        there = list(world.store.glob("packs/*/*"))
        assert {path.read_bytes() for path in there} <= {b"a pack" * 1000}
        assert {str(path.relative_to(world.store)) for path in there} >= set(state.printed.decode().split())


# ---- archives that are made ------------------------------------------------------------------------------------------

KEYS = {"pair": ("--encryption-keyfile", "k.encrypt"), "keyfile": ("--keyfile", "sym")}


@pytest.mark.parametrize("kind", KEYS)
def test_create_in_a_new_store(world: World, kind: str) -> None:
    writes, reads = (world.public, world.private) if kind == "pair" else (world.keyfile, world.keyfile)
    for state in world.states("pogfast", "create", world.source, "--to", "S", *KEYS[kind]):
        world.check(reads, *named(state.printed))
        world.create(writes)
        world.check(reads)


@pytest.mark.parametrize("kind", KEYS)
@pytest.mark.parametrize("force", [(), ("--force",)])
def test_create_beside_an_archive(world: World, kind: str, force: tuple[str, ...]) -> None:
    writes, reads = (world.public, world.private) if kind == "pair" else (world.keyfile, world.keyfile)
    first = world.create(writes)
    world.write("new", b"new" * 1000)
    for state in world.states("pogfast", "create", world.source, "--to", "S", *KEYS[kind], *force):
        world.check(reads, first, *named(state.printed))
        world.create(writes)
        world.check(reads, first)


PARTIAL = """
from pogfast import facade
from pogfast.backup import run
from pogfast.stores import targets

targets.PARTIAL_EVERY = targets.PARTIAL_SHARE = run.SAVE_EVERY = 0
key = facade.open_key(encryption_keyfile="k.encrypt", writing=True)
print(facade.create({source!r}, "S", key, chunk_size="100kB").manifest)
"""


def test_create_with_partial_manifests(world: World) -> None:
    for number in range(10):  # so that it is not over before it is written
        world.write(f"more/{number}", random.Random(number).randbytes(150_000))
    first = world.create(world.public)
    seen = 0
    for state in world.states("-c", PARTIAL.format(source=str(world.source))):
        seen += any(world.store.glob("*.partial"))
        world.check(world.private, first, *named(state.printed))
        facade.prune(world.store, world.private, keep_last=5, dry_run=False)
        world.create(world.public)
        world.check(world.private, first)
    assert seen, "there was a partial manifest"


def test_pog(world: World) -> None:
    for state in world.states("pogfast.pog", "--keyfile=sym", world.source):
        world.check(world.keyfile, *named(state.printed), store=world.disk)
        world.create(world.keyfile, world.disk)
        world.check(world.keyfile, store=world.disk)


@pytest.mark.parametrize("there", [False, True], ids=["new", "there"])
def test_copy(world: World, there: bool) -> None:
    world.create(world.public)
    target = world.disk / "T"
    done = []
    if there:
        facade.copy(world.store, target)
        done = sorted(world.manifests(target))
        world.write("new", b"new" * 1000)
        world.create(world.public)
    for state in world.states("pogfast", "copy", "S", "T", "--decryption-keyfile", "k.decrypt"):
        world.check(world.private, *done, *named(state.printed), store=target)
        assert facade.copy(world.store, target, key=world.private).exit_code == 0
        world.check(world.private, *world.manifests(world.store), store=target)


def wipe(blob: Path) -> None:
    """Gives a blob what a power cut can leave of it: its size and its time."""
    facts = blob.stat()
    blob.write_bytes(bytes(facts.st_size))
    os.utime(blob, ns=(facts.st_atime_ns, facts.st_mtime_ns))


def test_what_a_power_cut_left_is_not_known_by_its_size(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted = world.create(world.public, no_cache=True)
    (world.store / interrupted).unlink()
    again = facade.create(world.source, world.store, world.public, no_cache=True)
    assert (again.blobs_known, again.blobs_new) == (3, 0), "without a boot nothing is lost"
    (world.store / again.manifest).unlink()
    for blob in world.store.glob("data/*/*"):
        wipe(blob)
    monkeypatch.setattr(local, "booted_ns", time.time_ns)
    again = facade.create(world.source, world.store, world.public, no_cache=True)
    assert (again.blobs_known, again.blobs_new) == (0, 3)
    world.check(world.private, again.manifest)
    again = facade.create(world.source, world.store, world.public, no_cache=True)
    assert (again.blobs_known, again.blobs_new) == (3, 0), "a manifest that is newer has synced them"


def test_a_clock_that_is_behind_does_not_know_when_it_was_booted(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    first = world.store / world.create(world.public, no_cache=True)
    world.write("small", b"another\n")
    interrupted = world.store / world.create(world.public, no_cache=True)
    interrupted.unlink()
    wipe(max(world.store.glob("data/*/*"), key=lambda blob: blob.stat().st_mtime_ns))
    earlier = first.stat().st_mtime_ns - 3600 * 10**9
    monkeypatch.setattr(time, "time_ns", lambda: earlier)
    world.check(world.private, world.create(world.public, no_cache=True))


# ---- archives that go ------------------------------------------------------------------------------------------------


def three(world: World) -> list[str]:
    names = []
    for number in range(3):
        world.write("new", b"%d" % number * 1000)
        names.append(world.create(world.public))
    return names


def test_prune(world: World) -> None:
    *_, kept = three(world)
    for _ in world.states(
        "pogfast", "prune", "S", "--keep-last", "1", "--grace", "0", "--yes", "--decryption-keyfile", "k.decrypt"
    ):
        world.check(world.private, kept)
        facade.prune(world.store, world.private, keep_last=1, grace=0, dry_run=False)
        world.check(world.private, kept)
        assert world.manifests(world.store) == {kept}


def test_what_prune_removes_comes_back(world: World) -> None:
    names = three(world)
    for _ in world.states("pogfast", "prune", "S", "--keep-last", "1", "--yes", "--decryption-keyfile", "k.decrypt"):
        world.check(world.private, names[-1])
        facade.undelete(world.store, world.private, everything=True)
        world.check(world.private, *names)


def test_undelete(world: World) -> None:
    names = three(world)
    facade.remove([world.store / name for name in names[:2]], dry_run=False)
    for _ in world.states("pogfast", "undelete", "S", "--all", "--decryption-keyfile", "k.decrypt"):
        world.check(world.private, names[-1])
        facade.undelete(world.store, world.private, everything=True)
        world.check(world.private, *names)


def test_remove(world: World) -> None:
    names = three(world)
    for _ in world.states("pogfast", "remove", f"S/{names[0]}", "--yes"):
        world.check(world.private, *names[1:])
        facade.undelete(world.store, world.private, everything=True)
        world.check(world.private, *names)


REMOVE_BESIDE = """
import sys
from pogfast.stores.local import LocalStore

store = LocalStore.create("S", fan_out=True)
store.blobs.put(sys.argv[1], b"blob" * 1000)
store.remove_manifest(sys.argv[2])
"""


def test_remove_beside_a_run_that_has_synced_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The size of a blob says nothing then, whatever is younger."""
    monkeypatch.setattr(sys.modules[__name__], "SAMPLE", 0)
    blob = "A" * 43 + "="
    for _ in world.states("-c", REMOVE_BESIDE, blob, three(world)[-1]):
        opened = local.LocalStore.create(str(world.store), fan_out=True)
        assert opened.size_of(blob) is None or bytes(opened.get_blob(blob)) == b"blob" * 1000
        opened.close()


def test_rewrite(world: World) -> None:
    names = three(world)
    for _ in world.states(
        "pogfast", "rewrite", f"S/{names[0]}", "--exclude", "small", "--yes", "--decryption-keyfile", "k.decrypt"
    ):
        world.check(world.private, *names[1:])
        facade.undelete(world.store, world.private, everything=True)
        world.check(world.private, *names)


# ---- keys, profiles --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("symmetric", [False, True])
def test_keygen(world: World, symmetric: bool) -> None:
    files = ["new"] if symmetric else ["new.encrypt", "new.decrypt"]
    for state in world.states("pogfast", "keygen", "new", *(["--symmetric"] if symmetric else [])):
        there = [world.disk / name for name in files if (world.disk / name).exists()]
        assert len(there) == len(files) or not state.printed, "a key that was reported is lost"
        assert all(len(set(path.read_bytes())) > 8 and path.stat().st_size == 32 for path in there), "half a key"
        assert all(path.stat().st_mode & 0o777 == (0o644 if path.suffix == ".encrypt" else 0o600) for path in there)
        if there:
            with pytest.raises(KeyFileError, match="exists already"):
                facade.keygen(world.disk / "new", symmetric=symmetric)
        else:
            facade.keygen(world.disk / "new", symmetric=symmetric)


def test_profiles(world: World) -> None:
    profile = world.disk / "p.toml"
    profiles.save(str(profile), {"level": 1}, "old")
    for _ in world.states("-c", "from pogfast.backup.profiles import save; save('p.toml', {'level': 9}, 'new')"):
        assert profiles.load(str(profile)) in ({"level": 1}, {"level": 9})


# ---- files that are restored -----------------------------------------------------------------------------------------


def furnish(world: World) -> Path:
    """Sources with links and a hole, and an archive of them on another disk."""
    (world.source / "link").symlink_to("small")
    os.link(world.source / "small", world.source / "other name of small")
    with open(world.source / "hole", "wb") as file:
        file.truncate(1 << 20)
    os.utime(world.source / "small", ns=(10**18, 10**18))
    name = world.create(world.keyfile, world.home / "archives")
    return world.home / "archives" / name


@pytest.mark.parametrize("overwrite", [None, "if-changed"])
def test_restore(world: World, overwrite: str | None) -> None:
    archive, into, world.off_ns = furnish(world), world.disk / "out", 0
    options = ["--overwrite", overwrite] if overwrite else []
    if overwrite:
        facade.restore(archive, world.keyfile, into)
        place = into / str(world.source).lstrip("/")
        for name in ("small", "large"):
            (place / name).unlink()
            (place / name).write_bytes(b"another")

    def differing() -> set[str]:
        return {found.name for found in facade.check_against(archive, world.keyfile, into)}

    for state in world.states("pogfast", "restore", archive, "--keyfile", "sym", "--into", "out", *options):
        if state.printed or state.ended:
            assert not differing(), "a file that was reported as restored is wrong"
        summary = facade.restore(archive, world.keyfile, into, overwrite=overwrite or "never")
        assert not summary.problems
        # One of two linked names may be refused, and the other restored as a file of its own.
        found = [one for one in facade.check_against(archive, world.keyfile, into) if one.metadata != ["hardlink"]]
        files = {one.name for one in found if stat.S_ISREG(os.lstat(into / one.name).st_mode)}
        assert files <= set(summary.refused), "half a file was taken for a whole one"
        facade.restore(archive, world.keyfile, into, overwrite="if-changed")
        assert not differing()


@pytest.mark.parametrize("consume", [(), ("--consume",)])
def test_pog_decrypt(world: World, consume: tuple[str, ...]) -> None:
    pog = [sys.executable, "-m", "pogfast.pog", "--keyfile=sym"]
    subprocess.run([*pog, world.source], cwd=world.disk, check=True)
    (name,) = world.manifests(world.disk)
    command = ("pogfast.pog", "--keyfile=sym", "--decrypt", *consume, name)
    content = {path.name: path.read_bytes() for path in world.source.rglob("*") if path.is_file()}

    def is_restored() -> bool:
        return all(
            (world.disk / path).is_file() and (world.disk / path).read_bytes() == content[path] for path in content
        )

    for state in world.states(*command):
        if not consume:
            world.check(world.keyfile, name, store=world.disk)
        assert is_restored() or not state.ended
        if is_restored():
            continue
        world.check(world.keyfile, name, store=world.disk)
        assert subprocess.run([sys.executable, "-m", *command], cwd=world.disk, check=False).returncode == 0
        assert is_restored()


# ---- a real file system ----------------------------------------------------------------------------------------------

SHUTDOWN = 0x8004587D  # FS_IOC_SHUTDOWN: the file system ends at once, and nothing more reaches its disk
WITH_JOURNAL, WITHOUT = 1, 2  # the journal is written before, or not; data that waits is lost in either case


class Ext4:
    """ext4 in a file, mounted at a directory, whose power can be cut. For root."""

    def __init__(self, image: Path, at: Path) -> None:
        self.image, self.at = image, at
        with open(image, "wb") as file:
            file.truncate(256 << 20)  # room for what fifty cuts leave
        subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True, stderr=subprocess.DEVNULL)

    def mount(self) -> None:
        subprocess.run(["mount", "-o", "loop", self.image, self.at], check=True)

    def unmount(self) -> None:
        subprocess.run(["umount", self.at], check=True)

    def cut(self, how: int) -> None:
        directory = os.open(self.at, os.O_RDONLY)
        try:
            fcntl.ioctl(directory, SHUTDOWN, struct.pack("I", how))
        finally:
            os.close(directory)


@pytest.fixture
def ext4(tmp_path: Path) -> Iterator[Ext4]:
    if os.geteuid() or not shutil.which("mkfs.ext4"):
        pytest.skip("only root can mount an image, and mkfs.ext4 makes it")
    at = tmp_path / "cut" / "disk"
    at.mkdir(parents=True)
    made = Ext4(tmp_path / "image", at)
    try:
        made.mount()
    except subprocess.CalledProcessError:
        pytest.skip("no loop device can be mounted here")
    yield made
    made.unmount()


def cut_off(world: World, ext4: Ext4, after: float, how: int, *command: str | Path) -> tuple[bool, bytes]:
    """Runs a command and cuts the power some seconds later. Whether it has ended with success, and what it printed."""
    line = [sys.executable, "-m", "pogfast", *command]
    with subprocess.Popen(
        line, cwd=world.disk, env=world.env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(after)
        ext4.cut(how)
        printed = process.stdout.read() if process.stdout else b""
    ext4.unmount()
    ext4.mount()
    world.reboot()
    return process.returncode == 0, printed


def moments(number: int) -> Iterator[tuple[float, int]]:
    """When and how the power is cut: seconds after a command begins, which takes some tenths of one; the first time it
    has just ended."""
    chance = random.Random(SEED)
    yield 60.0, WITHOUT
    for _ in range(number - 1 if SAMPLE else 50):
        yield chance.uniform(0.05, 0.6), chance.choice((WITH_JOURNAL, WITHOUT))


def test_create_on_ext4(ext4: Ext4, world: World) -> None:
    done = [world.create(world.public)]
    for number, (after, how) in enumerate(moments(4)):
        world.write("large", random.Random(number).randbytes(1_200_000))
        ended, printed = cut_off(world, ext4, after, how, "create", world.source, "--to", "S", *KEYS["pair"])
        assert bool(named(printed)) if ended else after < 60
        world.check(world.private, *done, *named(printed))
        done.append(world.create(world.public))
        world.check(world.private, *done)


def test_restore_on_ext4(ext4: Ext4, world: World) -> None:
    archive = furnish(world)
    for after, how in moments(4):
        shutil.rmtree(world.disk / "out", ignore_errors=True)
        ended, _ = cut_off(world, ext4, after, how, "restore", archive, "--keyfile", "sym", "--into", "out")
        assert ended or after < 60
        if ended:
            assert not facade.check_against(archive, world.keyfile, world.disk / "out")
        assert facade.restore(archive, world.keyfile, world.disk / "out", overwrite="if-changed").exit_code == 0
        assert not facade.check_against(archive, world.keyfile, world.disk / "out")

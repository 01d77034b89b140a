"""Several stores at once: files are read, compressed and encrypted once; if a store fails, the others are complete."""

from __future__ import annotations

import os
import stat
import sys
import threading
from pathlib import Path

import pytest

from kit.commands import Ran, Runner, run
from pogfast._engine import BlobDirectory, Sealer
from pogfast.errors import StoreError, StoreLost
from pogfast.stores import LocalStore
from pogfast.stores.publish import conclude
from pogfast.stores.targets import Partial, Targets

SECRET = bytes(range(32))


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / "key").write_bytes(SECRET)
    (tmp_path / "tree").mkdir()
    for number in range(20):
        (tmp_path / "tree" / f"{number}").write_bytes(os.urandom(1000 + number))
    (tmp_path / "tree" / "large").write_bytes(os.urandom(9_000_000))
    return tmp_path


@pytest.fixture
def fails_after(work: Path) -> Path:
    """A program that stores what it gets in `kept`, and fails when it has stored as many as `allowed` says."""
    program = work / "program"
    program.write_text(
        f"#!{sys.executable}\n"
        "import os, pathlib, shutil, sys\n"
        f"kept = pathlib.Path({str(work / 'kept')!r}, sys.argv[1])\n"
        f"allowed = int(pathlib.Path({str(work / 'allowed')!r}).read_text())\n"
        f"if sum(len(files) for _, _, files in os.walk({str(work / 'kept')!r})) >= allowed: sys.exit(7)\n"
        "kept.parent.mkdir(parents=True, exist_ok=True)\n"
        "shutil.copy(sys.argv[2], kept)\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return program


def create(pogfast: Runner, *targets: str | Path, more: tuple[str, ...] = ()) -> Ran:
    return pogfast("create", "tree", "--to", ",".join(map(str, targets)), "--keyfile", "key", *more)


def assert_whole(pogfast: Runner, store: str | Path, archives: int) -> None:
    ran = pogfast("check", str(store), "--read-data", "--keyfile", "key")
    assert ran.code == 0, ran.err
    assert len(list(Path(store).glob("*.mfn"))) == archives


def contents(place: Path) -> dict[str, bytes]:
    return {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*") if path.is_file()}


def test_every_target_gets_the_same_bytes(pogfast: Runner, work: Path, fails_after: Path) -> None:
    (work / "allowed").write_text("1000")
    assert create(pogfast, work / "one", work / "two", fails_after).code == 0
    assert contents(work / "one") == contents(work / "two") == contents(work / "kept")
    assert_whole(pogfast, work / "one", 1)


@pytest.mark.parametrize("order", ["good first", "bad first"])
def test_a_target_that_cannot_be_opened_is_named_and_the_next_run_completes_it(
    pogfast: Runner, work: Path, order: str
) -> None:
    (work / "bad").write_text("a file where a directory should be")
    targets = ["good", "bad"] if order == "good first" else ["bad", "good"]
    ran = create(pogfast, *targets)
    assert ran.code == 3
    assert "pogfast: error: bad is a file, not a store\n" in ran.err
    assert_whole(pogfast, work / "good", 1)
    (work / "bad").unlink()
    assert create(pogfast, *targets).code == 0
    assert_whole(pogfast, work / "good", 2)
    assert_whole(pogfast, work / "bad", 1)


@pytest.mark.parametrize("allowed", [0, 5, 21])
def test_a_target_that_fails_during_the_run_gets_no_manifest(
    pogfast: Runner, work: Path, fails_after: Path, allowed: int
) -> None:
    """At the first blob, at some blob, and at the manifest itself."""
    (work / "allowed").write_text(str(allowed))
    ran = create(pogfast, fails_after, "good")
    assert ran.code == 3
    assert f"pogfast: error: {fails_after} failed to store " in ran.err
    assert ran.err.count(": error: ") == 1
    assert not list((work / "kept").glob("*.mfn"))
    assert_whole(pogfast, work / "good", 1)
    (work / "allowed").write_text("1000")
    assert create(pogfast, fails_after, "good").code == 0
    good, kept = (
        {name for name in contents(work / store) if not name.endswith(".mfn") and not name.startswith("verified.")}
        for store in ("good", "kept")
    )
    assert good == kept


def test_a_read_only_file_system_is_named_as_the_reason(work: Path) -> None:
    (work / "frozen").mkdir()
    mounted = ["unshare", "-rm", "sh", "-c", 'mount -t tmpfs -o ro none frozen && exec "$@"', "sh"]
    if run([*mounted, "true"], work).code:
        pytest.skip("no file system can be mounted here")
    ran = run([*mounted, sys.executable, "-m", "pogfast", "create", "tree", "--to", "frozen", "--keyfile", "key"], work)
    assert (ran.code, ran.err.splitlines()[0]) == (1, "pogfast: error: cannot write to frozen: Read-only file system")


def test_a_cache_that_fails_during_the_run_is_reported(work: Path) -> None:
    """Otherwise nobody could tell why the next run reads everything."""
    (work / "small").mkdir()
    (work / "many").mkdir()
    for number in range(600):
        (work / "many" / str(number)).write_bytes(b"%d" % number)
    mounted = ["unshare", "-rm", "sh", "-c", 'mount -t tmpfs -o size=64k none small && exec "$@"', "sh"]
    if run([*mounted, "true"], work).code:
        pytest.skip("no file system can be mounted here")
    words = ["create", "many", "--to", "store", "--keyfile", "key", "--cache-dir", "small"]
    ran = run([*mounted, sys.executable, "-m", "pogfast", *words], work)
    assert ran.code == 0, ran.err
    assert "fails, some files may be read again: " in ran.err
    assert ran.err.count("small/") == 1, "once"


def test_a_full_disk_among_two(pogfast: Runner, work: Path) -> None:
    """Two BlobDirectories: the large blob, which is written while it is made, does not fit in one."""
    full = work / "full"
    full.mkdir()
    (work / "wider").mkdir()
    mounted = [
        "unshare",
        "-rm",
        "sh",
        "-c",
        f'mount -t tmpfs -o size=5m none {full} && "$@"; c=$?; ls {full}; exit $c',
        "sh",
    ]
    if run([*mounted, "true"], work).code:
        pytest.skip("no file system can be mounted here")
    words = ["create", "tree", "--to", "full,wider", "--keyfile", "key", "--no-cache"]
    ran = run([*mounted, sys.executable, "-m", "pogfast", *words], work)
    assert ran.code == 3, ran.err
    assert f"pogfast: error: cannot write to full: {os.strerror(28)}: the archive is not in full\n" in ran.err
    assert "\n  make room and run it again" in ran.err
    assert ran.out.decode().split()[-1] == "data", "no manifest"
    assert_whole(pogfast, work / "wider", 1)


def test_nothing_is_made_when_every_target_fails(pogfast: Runner, work: Path, fails_after: Path) -> None:
    (work / "allowed").write_text("3")
    ran = create(pogfast, fails_after, fails_after)
    assert ran.code == 1
    assert not list((work / "kept").glob("*.mfn"))
    (work / "file").write_text("")
    assert create(pogfast, "file", "file").code == 1


@pytest.mark.parametrize("more", [(), ("--dry-run",)])
def test_the_same_store_twice_is_refused(pogfast: Runner, work: Path, more: tuple[str, ...]) -> None:
    """It was written twice, and the second manifest failed: the store had the archive, but was reported without it."""
    assert create(pogfast, "store").code == 0
    (work / "link").symlink_to("store")
    for others in (("store",), ("./store",), ("other", "link"), (f"local:{work}/store",)):
        ran = create(pogfast, "store", *others, more=more)
        assert ran.code == 2, ran.err
        assert "two of these are the same store" in ran.err
    assert_whole(pogfast, work / "store", 1)
    assert not (work / "other").exists() or contents(work / "other") == {}


def test_pog_continues_with_the_other_targets(pog: Runner, pogfast: Runner, work: Path, fails_after: Path) -> None:
    (work / "allowed").write_text("5")
    ran = pog("--keyfile=key", f"--save-to={fails_after},local:{work / 'good'}", "tree")
    assert ran.code == 3
    assert f"pog: error: {fails_after} failed to store " in ran.err
    assert not list((work / "kept").glob("*.mfn"))
    assert_whole(pogfast, work / "good", 1)


# ---- the engine ----------------------------------------------------------------------------------------------------


class Sink:
    """A sink that has some blobs, and fails at a given call."""

    def __init__(self, error: BaseException | None = None, at: int = 0, known: dict[str, int] | None = None) -> None:
        self.error, self.at, self.known = error, at, known or {}
        self.got: dict[str, int] = {}  # bytes of each blob
        self.asked: set[str] = set()

    def __call__(self, name: str, blob: memoryview) -> None:
        if self.error is not None and len(self.got) >= self.at:
            raise self.error
        self.got[name] = len(blob)

    def holds(self, name: str) -> int | None:
        self.asked.add(name)
        return self.known.get(name)


def seal(paths: list[Path], sinks: list[object]) -> tuple[Sealer, list[str]]:
    sources = [os.fsencode(path) for path in paths]
    sealer = Sealer(SECRET, False, sources, sinks, chunk_size=1_000_000, level=1, jobs=2, frames=True)
    return sealer, [name for news in sealer.run() for name in news.names]


def test_a_sink_does_not_get_blobs_that_it_has(work: Path) -> None:
    paths = sorted((work / "tree").iterdir())
    _, names = seal(paths, [everything := Sink()])
    assert sorted(everything.got) == sorted(names)
    assert everything.asked == set(names)
    half = {name: everything.got[name] for name in names[::2]}
    sealer, again = seal(paths, [some := Sink(known=half), nothing := Sink(known=everything.got)])
    assert again == names
    assert sorted(some.got) == sorted(names[1::2])
    assert nothing.got == {}
    assert sealer.progress().blobs_new == len(names[1::2])
    _, again = seal(paths, [cut := Sink(known={name: size - 1 for name, size in everything.got.items()})])
    assert sorted(cut.got) == sorted(again), "they are of no size that these chunks can have"


def test_only_the_failing_store_is_given_up(work: Path) -> None:
    paths = sorted((work / "tree").iterdir())
    directory = os.open(work, os.O_RDONLY)
    sinks = [Sink(StoreError("one"), 3), BlobDirectory(directory, True), Sink(OSError(5, "two")), Sink()]
    sealer, names = seal(paths, sinks)
    os.close(directory)
    assert {number: str(error) for number, error in sealer.lost.items()} == {0: "one", 2: "[Errno 5] two"}
    assert sorted(sinks[3].got) == sorted(names) == sorted(path.name for path in (work / "data").rglob("*="))
    with pytest.raises(StoreError, match="last"):
        seal(paths, [Sink(StoreError("last"), 2), Sink(StoreError("last"), 4)])
    with pytest.raises(KeyboardInterrupt):
        seal(paths, [Sink(KeyboardInterrupt()), Sink()])


@pytest.fixture
def two(tmp_path: Path) -> list[LocalStore]:
    return [LocalStore.create(str(tmp_path / name), fan_out=True) for name in ("one", "two")]


def test_every_target_gets_the_partial_manifest(two: list[LocalStore]) -> None:
    lost: list[StoreLost] = []
    targets = Targets(two, lost.append)
    partial = Partial(targets, "a.mfn.partial")
    assert not partial.is_due(), "not before the tenth minute"
    two[0].put_mark("a.mfn.partial", b"another run's")
    partial.delete()
    assert [mark.name for mark in two[0].marks()] == ["a.mfn.partial"], "it was not put by this one"
    partial.put(lambda: b"so far")
    partial.put(lambda: b"and further")
    assert [store.get_manifest("a.mfn.partial") for store in two] == [b"and further"] * 2
    partial.delete()
    assert [store.marks() for store in two] == [[], []]
    assert lost == []


def test_a_write_that_failed_earlier_prevents_the_manifest(
    two: list[LocalStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system reports it only once."""
    lost: list[StoreLost] = []
    targets = Targets(two, lost.append)

    def fail(directory: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr("pogfast.stores.local.sync_file_system", fail)
        two[0].begin_durable()
    conclude(targets, lambda: b"manifest", lambda data: [], lambda name: None)
    assert [len(store.manifests()) for store in two] == [0, 1]
    assert [str(error) for error in lost] == [
        f"cannot write to {two[0].label}: Input/output error: the archive is not in {two[0].label}"
    ]


@pytest.mark.parametrize("hint", ["", "make room"])
def test_the_last_target_ends_the_run(two: list[LocalStore], hint: str) -> None:
    lost: list[StoreLost] = []
    targets = Targets(two, lost.append)

    def fail(target: object) -> None:
        raise StoreError("it is full", hint)

    with pytest.raises(StoreError, match="it is full"):
        targets.each(fail)
    assert targets.left == [two[1]]
    assert [str(error) for error in lost] == [f"it is full: the archive is not in {two[0].label}"]
    assert lost[0].hint == (hint or "the next run completes it")


def test_many_blobs_are_synced_in_the_background(two: list[LocalStore], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pogfast.stores.targets.SYNC_EVERY", 0.005)
    monkeypatch.setattr("pogfast.stores.targets.MIN_SYNCED", 100)
    begun = threading.Semaphore(0)
    for store in two:
        monkeypatch.setattr(store, "begin_durable", begun.release)
    count = 99
    with Targets(two, lambda error: None).written_to(lambda: count):
        assert not begun.acquire(timeout=0.05)
        for more in (100, 250):
            count = more
            assert begun.acquire(timeout=30)
            assert begun.acquire(timeout=30)
            assert not begun.acquire(timeout=0.05), "once"
        count = 349
        assert not begun.acquire(timeout=0.05)

"""What pogcli does wrong (FORMAT.md, "What pogfast does differently"), each as a test that its behaviour fails."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from kit import oracle
from kit.commands import Ran, Runner
from kit.files import manifest_in, restored
from pogfast.errors import PogfastError
from pogfast.keys import from_keyfile
from pogfast.pog.restore import restore

KEY = oracle.OracleKey.of_keyfile(b"k")


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / "key").write_bytes(b"k")
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    return tmp_path


def entry(names: list[str], mtime: float = 0) -> dict[str, object]:
    return {"blobs": names, "atime": 0, "mtime": mtime}


def archive(directory: Path, files: dict[str, bytes], **more: object) -> str:
    """A flat archive of these names, made by the oracle. Returns the manifest's name."""
    entries = {}
    for name, content in files.items():
        names, blobs = oracle.seal_file(KEY, content, 10_000)
        entries[name] = {**entry(names), **more}
        for blob, data in blobs.items():
            (directory / blob).write_bytes(data)
    (directory / "made.mfn").write_bytes(oracle.seal_manifest(KEY, entries))
    return "made.mfn"


def decrypt(pog: Runner, work: Path, *arguments: str) -> Ran:
    return pog("--keyfile=../key", "--decrypt", *arguments, cwd=work / "out")


def test_files_of_one_name_are_all_kept(work: Path, pog: Runner) -> None:
    for name in ("a/x", "b/x"):
        (work / name).parent.mkdir()
        (work / name).write_text(name)
    ran = pog("--keyfile=../key", f"{work}/a/x", f"{work}/b/x", cwd=work / "out")
    assert ran.code == 0
    assert ran.err == f"pog: warning: {work}/b/x is archived as b/x: another file has its short name\n"
    assert decrypt(pog, work, manifest_in(work / "out")).code == 0
    assert restored(work / "out") == {"x": b"a/x", "b/x": b"b/x"}


def test_an_input_that_matches_nothing_makes_no_archive(work: Path, pog: Runner) -> None:
    (work / "f").touch()
    for wrong in ("no*such", "nosuch"):
        assert pog("--keyfile=../key", "../f", wrong, cwd=work / "out").code == 1
    assert os.listdir(work / "out") == []


def test_an_unreadable_file_does_not_stop_the_run(work: Path, pog: Runner) -> None:
    """A file that reads with an error: this process's memory at address 0."""
    good = work / "good"
    good.write_text("good")
    ran = pog("--keyfile=../key", "--store-absolute-paths", "/proc/self/mem", str(good), cwd=work / "out")
    assert ran.code == 3
    assert ran.err == "pog: error: cannot read /proc/self/mem: Input/output error\n"
    assert decrypt(pog, work, manifest_in(work / "out")).code == 0
    assert restored(work / "out") == {str(good)[1:]: b"good"}


@pytest.mark.parametrize("name", ["../escaped", "a/../../escaped", "..", "/..", "a/..", "", "/", "."])
def test_nothing_is_restored_outside(work: Path, pog: Runner, name: str) -> None:
    (work / "out" / "a").mkdir()
    made = archive(work / "out", {name: b"bad", "good": b"good"})
    ran = decrypt(pog, work, made)
    assert ran.code == 3
    assert ran.err.count("\n") == 1
    assert "leads out of the directory" in ran.err
    assert not (work / "escaped").exists()
    assert (work / "out" / "good").read_bytes() == b"good"


def test_absolute_names_are_restored_below_the_directory(work: Path, pog: Runner) -> None:
    target = work / "elsewhere" / "file"
    assert decrypt(pog, work, archive(work / "out", {str(target): b"x"})).code == 0
    assert not target.exists()
    assert (work / "out" / str(target)[1:]).read_bytes() == b"x"


def test_no_link_is_followed_out(work: Path, pog: Runner) -> None:
    outside = work / "outside"
    outside.mkdir()
    (outside / "precious").write_bytes(b"precious")
    (work / "out" / "dir").symlink_to(outside)
    (work / "out" / "file").symlink_to(outside / "precious")
    (work / "out" / "dangling").symlink_to(outside / "new")
    made = archive(work / "out", {"dir/x": b"1", "dir/precious": b"2", "file": b"3", "dangling": b"4", "ok": b"5"})
    ran = decrypt(pog, work, made)
    assert ran.code == 3
    assert ran.err.splitlines() == ["pog: error: dir is a link: nothing is restored through it"] * 2
    assert {file.name: file.read_bytes() for file in outside.iterdir()} == {"precious": b"precious"}
    for name, content in (("file", b"3"), ("dangling", b"4"), ("ok", b"5")):
        assert not (work / "out" / name).is_symlink()
        assert (work / "out" / name).read_bytes() == content


def test_what_is_in_the_way_is_told_and_the_rest_restored(work: Path, pog: Runner) -> None:
    (work / "out" / "folder" / "full").mkdir(parents=True)
    (work / "out" / "plain").write_bytes(b"a file")
    made = archive(work / "out", {"folder": b"1", "plain/x": b"2", "ok": b"3"})
    ran = decrypt(pog, work, made)
    assert ran.code == 3
    assert ran.err.splitlines() == [
        "pog: error: folder: cannot be written: Is a directory",
        "pog: error: cannot create the directory plain: a file is in its place",
    ]
    assert restored(work / "out") == {"plain": b"a file", "ok": b"3"}


def test_a_file_and_a_directory_of_one_name_in_one_archive(work: Path, pog: Runner) -> None:
    made = archive(work / "out", {"d": b"file", "d/x": b"below", "./d": b"other"})
    ran = decrypt(pog, work, made)
    assert ran.code == 3
    assert "a later entry of the archive has the same path" in ran.err
    assert (work / "out" / "d").exists()


def test_swapped_blobs_are_found(work: Path, pog: Runner) -> None:
    made = archive(work / "out", {"one": b"1" * 50, "two": b"2" * 50, "three": b"3"})
    names = [oracle.names_of(KEY, content, 10_000)[0] for content in (b"1" * 50, b"2" * 50)]
    first, second = ((work / "out" / name).read_bytes() for name in names)
    (work / "out" / names[0]).write_bytes(second)
    (work / "out" / names[1]).write_bytes(first)
    ran = decrypt(pog, work, made)
    assert ran.code == 4
    assert ran.err.splitlines() == [
        f"pog: error: one: blob {names[0]} holds the content of another blob",
        f"pog: error: two: blob {names[1]} holds the content of another blob",
    ]
    assert restored(work / "out") == {"three": b"3"}


@pytest.mark.parametrize("damage", ["torn", "empty", "missing", "flipped"])
def test_damaged_blobs_are_named_and_the_other_files_come_back(work: Path, pog: Runner, damage: str) -> None:
    made = archive(work / "out", {"bad": b"b" * 500, "good": b"g"})
    [name] = oracle.names_of(KEY, b"b" * 500, 10_000)
    blob = work / "out" / name
    content = blob.read_bytes()
    if damage == "missing":
        blob.unlink()
    else:
        blob.write_bytes({"torn": content[:-1], "empty": b"", "flipped": content[:-1] + b"\0"}[damage])
    ran = decrypt(pog, work, made)
    assert ran.code == 4
    assert ran.err.startswith(f"pog: error: bad: blob {name} is ")
    assert restored(work / "out") == {"good": b"g"}


def test_an_older_file_stays_when_the_new_one_is_damaged(work: Path, pog: Runner) -> None:
    made = archive(work / "out", {"file": b"new" * 100})
    (work / "out" / "file").write_bytes(b"old")
    (work / "out" / oracle.names_of(KEY, b"new" * 100, 10_000)[0]).write_bytes(b"damaged")
    assert decrypt(pog, work, made).code == 4
    assert (work / "out" / "file").read_bytes() == b"old"


def test_a_report_that_fails_ends_the_workers_first(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers write through descriptors that are closed, and used again, once the restore has ended."""
    made = archive(work / "out", {f"{number}": os.urandom(5000) for number in range(300)})
    monkeypatch.chdir(work / "out")
    started: list[threading.Thread] = []
    start = threading.Thread.start

    def noted(thread: threading.Thread) -> None:
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", noted)

    class Report:
        def file(self, index: int, total: int, name: str) -> None:
            if index == 3:
                raise ZeroDivisionError

        def problem(self, error: PogfastError) -> None:
            raise error

    try:
        restore(made, from_keyfile("../key"), ".", names=None, consume=False, jobs=2, report=Report())
    except ZeroDivisionError:
        # The traceback, and so the frames of the restore, are alive here.
        assert len(started) == 2
        assert not any(thread.is_alive() for thread in started)
    else:
        pytest.fail("the report's error was lost")


# ---- --consume -----------------------------------------------------------------------------------------------------


def blobs_in(directory: Path) -> set[str]:
    return {name for name in os.listdir(directory) if name.endswith("=")}


def test_consume_deletes_what_is_restored(work: Path, pog: Runner) -> None:
    files = {f"f{number}": os.urandom(30_000) for number in range(20)} | {"same": b"s", "again": b"s"}
    made = archive(work / "out", files)
    assert decrypt(pog, work, "--consume", made).code == 0
    assert restored(work / "out") == files
    assert blobs_in(work / "out") == set()
    assert made not in os.listdir(work / "out")


def test_consume_keeps_what_a_damaged_file_needs(work: Path, pog: Runner) -> None:
    shared = b"shared"
    made = archive(work / "out", {"good": shared, "fine": b"fine"})
    bad_names, blobs = oracle.seal_file(KEY, os.urandom(30_000), 10_000)
    for name, data in blobs.items():
        (work / "out" / name).write_bytes(data)
    [common], [fine] = (oracle.names_of(KEY, content, 10_000) for content in (shared, b"fine"))
    (work / "out" / bad_names[2]).unlink()
    entries = {"good": entry([common]), "fine": entry([fine]), "bad": entry([common, *bad_names])}
    (work / "out" / made).write_bytes(oracle.seal_manifest(KEY, entries))
    assert decrypt(pog, work, "--consume", made).code == 4
    assert blobs_in(work / "out") == {common, *bad_names} - {bad_names[2]}
    assert made in os.listdir(work / "out")


def test_consume_of_single_files_keeps_the_others(work: Path, pog: Runner) -> None:
    made = archive(work / "out", {"one": b"1", "two": b"2"})
    assert decrypt(pog, work, "--consume", made, "one").code == 0
    assert blobs_in(work / "out") == set(oracle.names_of(KEY, b"2", 10_000))
    ran = decrypt(pog, work, "--consume", made, "nosuch")
    assert (ran.code, ran.err) == (3, "pog: error: nosuch: no such file in the archive\n")
    assert made in os.listdir(work / "out")
    assert decrypt(pog, work, made, "two").code == 0


# ---- interrupted runs ----------------------------------------------------------------------------------------------


def start(command: list[str], directory: Path) -> subprocess.Popen[str]:
    """A command that Ctrl-C reaches, also where these tests run in the background of a shell, which ignores it."""
    return subprocess.Popen(
        command,
        cwd=directory,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def sizes_of(directory: Path) -> dict[str, int]:
    return {file.name: file.stat().st_size for file in directory.rglob("*") if file.is_file()}


def assert_all_whole(store: Path) -> None:
    """Every blob that can be seen is whole."""
    for blob in store.rglob("*="):
        payload = KEY.open(blob.read_bytes())
        ends = [at for at in range(max(len(payload) - 263, 0), len(payload)) if payload[at : at + 4] == oracle.PADDING]
        assert any(KEY.name(payload[:end]) == blob.name for end in (*ends, len(payload)))


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("target", [[], ["--save-to=local"]])
def test_an_interrupted_run_leaves_nothing_torn_and_the_next_completes(
    work: Path, pog: Runner, target: list[str], how: signal.Signals
) -> None:
    contents = {f"big{number}": os.urandom(6_000_000) for number in range(8)}
    contents |= {f"small{number}": os.urandom(500) for number in range(400)}
    for name, content in contents.items():
        (work / "in" / name).write_bytes(content)
    out = work / "out"
    command = [sys.executable, "-m", "pogfast.pog", "--keyfile=../key", "--chunk-size=300k", *target, "../in"]
    landed = 0
    for delay in (0.0, 0.01, 0.03, 0.06):
        process = start(command, out)
        deadline = time.monotonic() + 120
        before = len(list(out.rglob("*=")))
        while len(list(out.rglob("*="))) <= before and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(delay)
        process.send_signal(how)
        _, error = process.communicate(timeout=120)
        if manifests := list(out.glob("*.mfn")):  # it was faster
            for made in manifests:
                made.unlink()
            continue
        landed += 1
        assert process.returncode == (-9 if how == signal.SIGKILL else 130)
        if how != signal.SIGKILL:
            assert error.startswith("pog: error: interrupted")
            assert error.count("\n") == 1
            assert not [name for name in sizes_of(out) if name.startswith(".")]
        assert_all_whole(out)
    assert landed
    assert pog("--keyfile=../key", "--chunk-size=300k", *target, "../in", cwd=out).code == 0
    assert not [name for name in sizes_of(out) if name.startswith(".")], "the next run sweeps what was left"
    assert_all_whole(out)
    made = manifest_in(out)
    assert pog("--keyfile=../key", "--decrypt", f"local:{made}" if target else made, cwd=out).code == 0
    assert {name: (out / name).read_bytes() for name in contents} == contents


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_restore_leaves_whole_files_only(work: Path, pog: Runner, how: signal.Signals) -> None:
    contents = {f"f{number}": os.urandom(2_000_000) for number in range(30)}
    made = archive(work / "out", contents)
    command = [sys.executable, "-m", "pogfast.pog", "--keyfile=../key", "--decrypt", made]
    for _ in range(3):
        process = start(command, work / "out")
        while not (work / "out" / "f3").exists() and process.poll() is None:
            time.sleep(0.001)
        process.send_signal(how)
        process.communicate(timeout=120)
        found = {name: content for name, content in restored(work / "out").items() if not name.startswith(".")}
        assert all(contents[name] == content for name, content in found.items())
        for name in found:
            (work / "out" / name).unlink()
    assert decrypt(pog, work, made).code == 0
    assert restored(work / "out") == contents


def test_leavings_of_dead_processes_are_swept_and_of_living_ones_kept(work: Path, pog: Runner) -> None:
    from pogfast.files.unfinished import HOST

    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    dead, other = (
        work / "out" / f".pogfast-{HOST}-{process.pid}-0-7f.tmp",
        work / "out" / ".pogfast-elsewhere-1-0-7f.tmp",
    )
    alive = work / "out" / f".pogfast-{HOST}-{os.getpid()}-0-7f.tmp"
    for file in (dead, other, alive):
        file.touch()
    (work / "f").write_text("x")
    assert pog("--keyfile=../key", "../f", cwd=work / "out").code == 0
    assert [file.exists() for file in (dead, other, alive)] == [False, True, True]


def test_a_torn_blob_of_an_earlier_run_is_repaired(work: Path, pog: Runner) -> None:
    (work / "f").write_bytes(b"x" * 1000)
    [name] = oracle.names_of(KEY, b"x" * 1000, 10**8)
    for torn in (b"", b"torn", os.urandom(72 + 40 + 17 + 8 + 17)):
        (work / "out" / name).write_bytes(torn)
        assert pog("--keyfile=../key", "../f", cwd=work / "out").code == 0
        assert_all_whole(work / "out")

"""`pog` as users and scripts see it: standard output to the byte, exit codes, and one line for every failure."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import struct
import subprocess
import sys
from pathlib import Path

import pexpect
import pytest

from kit import oracle
from kit.commands import Ran, Runner, run
from kit.files import manifest_in, restored
from pogfast import __version__

MANIFEST_NAME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\.mfn")
FILES = {"f": b"hi\n", "d/z": os.urandom(300_000), "d/e/x": b"x" * 20_000, "empty": b"", "é": b"\xc3\xa9"}


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A directory with files, a key, a pair, and places to restore to."""
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    (tmp_path / "key").write_bytes(b"a key")
    for name in ("out", "other"):
        (tmp_path / name).mkdir()
    ran = run([sys.executable, "-c", "from pogfast.pog import create_keypair as c; c([])"], tmp_path)
    assert ran.code == 0
    return tmp_path


KEYS = {
    "keyfile": (["--keyfile=../key"], ["--keyfile=../key"], b""),
    "x25519": (["--encryption-keyfile=../pki.encrypt"], ["--decryption-keyfile=../pki.decrypt"], b""),
    "password": ([], ["--decrypt"], b"secret\nsecret\n"),
}
INPUTS = ["../f", "../d", "../empty", "../é"]


def without_time(output: bytes) -> str:
    return MANIFEST_NAME.sub("TIME.mfn", os.fsdecode(output))


def one_line(ran: Ran, code: int, *words: str) -> None:
    """Asserts a failure: this exit code, one line (and a hint) on standard error, no traceback."""
    assert ran.code == code, (ran.code, ran.err)
    lines = ran.err.splitlines()
    assert lines[0].startswith("pog: error: "), ran.err
    assert len(lines) == 1 or (len(lines) == 2 and lines[1].startswith("  ")), ran.err
    for word in words:
        assert word in ran.err


# ---- pogcli on the other side --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", KEYS)
def test_pogcli_restores_ours_and_we_restore_its(work: Path, pog: Runner, pogcli: Runner, mode: str) -> None:
    write, read, stdin = KEYS[mode]
    for writer, reader in ((pog, pogcli), (pogcli, pog)):
        shutil.rmtree(work / "out")
        (work / "out").mkdir()
        ran = writer("--chunk-size=50k", *write, *INPUTS, cwd=work / "out", stdin=stdin)
        assert ran.code == 0, ran.err
        manifest = manifest_in(work / "out")
        ran = (
            reader(*read, "--decrypt", manifest, cwd=work / "out", stdin=stdin)
            if mode != "password"
            else reader(*read, manifest, cwd=work / "out", stdin=stdin)
        )
        assert ran.code == 0, ran.err
        names = {"f": "f", "d/z": "z", "d/e/x": "x", "empty": "empty", "é": "é"}
        assert restored(work / "out") == {names[name]: content for name, content in FILES.items()}
        for name, short in names.items():
            assert (work / "out" / short).stat().st_mtime == pytest.approx((work / name).stat().st_mtime, abs=1e-6)


@pytest.mark.parametrize("mode", ["keyfile", "x25519"])
@pytest.mark.parametrize("jobs", [1, 8])
def test_standard_output_is_pogclis_to_the_byte(
    work: Path, pog: Runner, pogcli_014: Runner, mode: str, jobs: int
) -> None:
    write, read, _ = KEYS[mode]
    (work / os.fsdecode(b"bad\xff")).write_bytes(b"1")
    (work / "n\nl").write_bytes(b"2")
    inputs = [*INPUTS, b"../bad\xff", "../n\nl"]
    theirs = pogcli_014("--concurrency=1", "--chunk-size=50k", *write, *inputs, cwd=work / "out")
    mine = pog(f"--concurrency={jobs}", "--chunk-size=50k", *write, *inputs, cwd=work / "other")
    assert theirs.code == mine.code == 0, (theirs.err, mine.err)
    assert without_time(mine.out) == without_time(theirs.out)
    assert mine.err == ""
    manifest = manifest_in(work / "out")
    index_keys = [read, write] if mode == "x25519" else [read]
    commands = [["--dump-manifest", *read], *(["--dump-manifest-index", *key] for key in index_keys)]
    commands += [["--decrypt", *read], ["--decrypt", *read]]
    for number, command in enumerate(commands):
        names = ["f", "z"] if number == len(commands) - 1 else []
        theirs = pogcli_014(*command, manifest, *names, cwd=work / "out")
        mine = pog(*command, manifest, *names, cwd=work / "out")
        assert (mine.code, mine.out, mine.err) == (0, theirs.out, theirs.err), command


def test_blobs_by_name_go_to_standard_output(work: Path, pog: Runner, pogcli_014: Runner) -> None:
    ran = pog("--keyfile=../key", "--chunk-size=50k", "../d/z", cwd=work / "out")
    blobs = [line for line in ran.lines if line.endswith("=")]
    assert len(blobs) > 5
    command = ["--keyfile=../key", "--decrypt", *(f"./{blob}" for blob in blobs)]
    assert pog(*command, cwd=work / "out").out == FILES["d/z"]
    ran = pog(*command[:2], "--consume", *command[2:], cwd=work / "out")
    assert ran.out == FILES["d/z"]
    assert os.listdir(work / "out") == [manifest_in(work / "out")]
    ran = pog("--keyfile=../key", "../d/z", cwd=work / "out")
    command = ["--keyfile=../key", "--decrypt", f"./{ran.lines[1]}"]
    assert pog(*command, cwd=work / "out").out == pogcli_014(*command, cwd=work / "out").out == FILES["d/z"]


def test_blobs_of_several_files_follow_each_other(work: Path, pog: Runner) -> None:
    ran = pog("--keyfile=../key", "../f", "../é", cwd=work / "out")
    blobs = [f"./{line}" for line in ran.lines if line.endswith("=")]
    ran = pog("--keyfile=../key", "--decrypt", *blobs, cwd=work / "out")
    assert (ran.code, ran.out) == (0, FILES["f"] + FILES["é"])


@pytest.mark.parametrize("target", ["local", "local:../other", "local:STORE", "local,local:../other"])
def test_local_stores(work: Path, pog: Runner, target: str) -> None:
    ran = pog(
        "--keyfile=../key",
        f"--save-to={target.replace('STORE', str(work / 'new' / 'store'))}",
        "../d",
        cwd=work / "out",
    )
    assert ran.code == 0, ran.err
    places = {"local": work / "out", "local:../other": work / "other", "local:STORE": work / "new" / "store"}
    for word in target.split(","):
        place = places[word]
        manifest = manifest_in(place)
        blobs = [line for line in ran.lines if line.endswith("=")]
        assert all((place / "data" / blob[:2] / blob).exists() for blob in blobs)
        shutil.rmtree(work / "back", ignore_errors=True)
        (work / "back").mkdir()
        ran2 = pog("--keyfile=../key", "--decrypt", f"local:{place}/{manifest}", cwd=work / "back")
        assert ran2.code == 0, ran2.err
        assert restored(work / "back") == {"x": FILES["d/e/x"], "z": FILES["d/z"]}


def test_pogcli_restores_a_local_store_as_the_format_says(work: Path, pog: Runner, pogcli_014: Runner) -> None:
    assert pog("--keyfile=../key", "--save-to=local:../store", "../d", cwd=work / "out").code == 0
    (work / "other" / "data").symlink_to(work / "store" / "data")
    manifest = f"local:../store/{manifest_in(work / 'store')}"
    ran = pogcli_014("--keyfile=../key", "--decrypt", manifest, cwd=work / "other")
    assert ran.code == 0, ran.err
    assert (work / "other" / "z").read_bytes() == FILES["d/z"]


def test_a_program_as_target_is_run_as_pogcli_runs_it(work: Path, pog: Runner, pogcli_014: Runner) -> None:
    program = work / "save.sh"
    program.write_text(
        f'#!/bin/sh\necho noise\necho "$1" >> "{work}/$WHO.log"\ncp "$2" "{work}/other/$(basename "$2")"\n'
    )
    program.chmod(0o755)
    for who, command in (("mine", pog), ("theirs", pogcli_014)):
        environment = {**os.environ, "WHO": who}
        ran = command(
            "--keyfile=../key", "--concurrency=1", f"--save-to={program}", *INPUTS, cwd=work / "out", env=environment
        )
        assert ran.code == 0, ran.err
        assert b"noise" not in ran.out
    logs = [without_time((work / f"{who}.log").read_bytes()).splitlines() for who in ("mine", "theirs")]
    assert sorted(logs[0]) == sorted(logs[1])
    assert logs[0][-1] == "TIME.mfn"
    manifest = sorted(name for name in os.listdir(work / "other") if name.endswith(".mfn"))[0]
    assert pog("--keyfile=../key", "--decrypt", manifest, cwd=work / "other").code == 0
    assert (work / "other" / "z").read_bytes() == FILES["d/z"]


def test_a_failing_program_is_named_with_its_exit_status(work: Path, pog: Runner) -> None:
    program = work / "fail.sh"
    program.write_text("#!/bin/sh\nexit 7\n")
    program.chmod(0o755)
    one_line(pog("--keyfile=key", f"--save-to={program}", "f"), 1, str(program), "exit status 7")
    one_line(pog("--keyfile=key", "--save-to=./nosuch", "f"), 1, "./nosuch")
    one_line(pog("--keyfile=key", "--save-to=out", "f"), 1, "local:out")


# ---- refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--keyfile=key", "--chunk-size=abc", "f"], 2, ["--chunk-size=abc"]),
        (["--keyfile=key", "--chunk-size=0", "f"], 2, ["--chunk-size=0"]),
        (["--keyfile=key", "--chunk-size=-1", "f"], 2, ["--chunk-size=-1"]),
        (["--keyfile=key", "--compresslevel=99", "f"], 2, ["--compresslevel=99", "22"]),
        (["--keyfile=key", "--compresslevel=x", "f"], 2, ["--compresslevel=x"]),
        (["--keyfile=key", "--concurrency=0", "f"], 2, ["--concurrency=0"]),
        (["--keyfile=missing", "f"], 1, ["missing", "No such file"]),
        (["--keyfile=d", "f"], 1, ["Is a directory"]),
        (["--keyfile=empty", "f"], 1, ["empty"]),
        (["--encryption-keyfile=f", "f"], 1, ["32 bytes"]),
        (["--keyfile=key", "nosuch"], 1, ["nosuch"]),
        (["--keyfile=key", "no*such", "f"], 1, ["no*such"]),
        (["--keyfile=key", "--save-to=s3://", "f"], 2, ["names no bucket", "s3://BUCKET"]),
        (["--keyfile=key", "--save-to=s3", "f"], 2, ["S3_BUCKET_NAME"]),
        (["--keyfile=key", "--save-to=local,b2", "f"], 2, ["B2_BUCKET_NAME"]),
        (["--keyfile=key", "--save-to=local,", "f"], 2, ["empty target"]),
        (["--keyfile=key", "--save-to=local:f/x", "f"], 1, ["f/x"]),
        (["--keyfile=key", "--decrypt", "b2:///x.mfn"], 2, ["names no bucket"]),
        (["--keyfile=key", "--decrypt", "nosuch.mfn"], 10, ["nosuch.mfn"]),
        (["--keyfile=key", "--decrypt", "local:nosuch/x.mfn"], 10, ["nosuch"]),
        (["--keyfile=key", "--decrypt", "nosuch"], 10, ["nosuch"]),
        (["--keyfile=key", "--decrypt", "d"], 1, ["Is a directory"]),
        (["--keyfile=key", "--decrypt", "empty"], 4, ["not a blob"]),
        (["--keyfile=key", "--decrypt", "d/z"], 12, ["d/z"]),
        (["--keyfile=key", "--dump-manifest", "empty"], 4, ["too short"]),
        (["--keyfile=key", "--dump-manifest", "d/z"], 12, ["d/z"]),
        (["--keyfile=key", "--dump-manifest", "d"], 1, ["Is a directory"]),
        (["--bogus", "f"], 2, ["--bogus"]),
        (["--decrypt", "--save-to=x", "f"], 2, ["--decrypt", "--save-to"]),
        ([], 2, ["no input"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_bad_input(work: Path, pog: Runner, arguments: list[str], code: int, words: list[str]) -> None:
    before = sorted(str(path) for path in work.rglob("*"))
    one_line(pog(*arguments), code, *words)
    assert sorted(str(path) for path in work.rglob("*")) == before, "nothing was written"


def test_an_empty_file_is_no_manifest(work: Path, pog: Runner) -> None:
    (work / "empty.mfn").touch()
    for verb in ("--decrypt", "--dump-manifest", "--dump-manifest-index"):
        one_line(pog("--keyfile=key", verb, "empty.mfn"), 4, "empty.mfn")


@pytest.mark.parametrize("mode", ["keyfile", "x25519"])
def test_wrong_keys(work: Path, pog: Runner, mode: str) -> None:
    assert pog(*KEYS[mode][0], "../f", cwd=work / "out").code == 0
    manifest = manifest_in(work / "out")
    (work / "wrong").write_bytes(b"w" * 32)
    for key in ("--keyfile=../wrong", "--decryption-keyfile=../wrong"):
        for verb in ("--decrypt", "--dump-manifest", "--dump-manifest-index"):
            if not (verb == "--dump-manifest-index" and mode == "x25519" and "decryption" not in key):
                one_line(pog(key, verb, manifest, cwd=work / "out"), 12, manifest)
    assert restored(work / "out") == {}


@pytest.mark.parametrize("arguments", [["--keyfile=key", "f"], ["--help"], ["--version"]], ids=" ".join)
def test_standard_output_that_cannot_be_written(work: Path, arguments: list[str]) -> None:
    command = [sys.executable, "-m", "pogfast.pog", *arguments]
    with open("/dev/full", "wb") as full:
        ran = subprocess.run(command, cwd=work, stdout=full, stderr=subprocess.PIPE, check=False, text=True)
    assert (ran.returncode, ran.stderr) == (1, "pog: error: cannot write to standard output: No space left on device\n")
    assert not list(work.glob("*.mfn")), "no archive that nobody was told of"
    closed = subprocess.run(
        ["/bin/sh", "-c", '"$@" >&-', "sh", *command], cwd=work, capture_output=True, check=False, text=True
    )
    assert closed.returncode == 1
    assert closed.stderr == "pog: error: standard output is closed\n"
    read, write = os.pipe()
    os.close(read)
    ran = subprocess.run(command, cwd=work, stdout=write, stderr=subprocess.PIPE, check=False, text=True)
    os.close(write)
    assert (ran.returncode, ran.stderr) == (141, "")


def test_a_full_disk_is_one_line_and_nothing_half_written(work: Path, pog: Runner) -> None:
    """A file size limit stands for a full disk: the write in the middle of a blob fails."""
    limited = ["/bin/sh", "-c", 'ulimit -f 100; trap "" XFSZ; exec "$@"', "sh", sys.executable, "-m", "pogfast.pog"]
    ran = run([*limited, "--keyfile=../key", "../d"], work / "out")
    one_line(ran, 1, "File too large")
    assert {name for name in os.listdir(work / "out") if not name.endswith("=")} == set()
    assert pog("--keyfile=../key", "../d", cwd=work / "out").code == 0
    ran = run([*limited, "--keyfile=../key", "--decrypt", manifest_in(work / "out")], work / "out")
    assert ran.code == 3
    assert ran.err == "pog: error: z: cannot be written: File too large\n"
    assert restored(work / "out") == {"x": FILES["d/e/x"]}


# Everything is imported before root is given up: another user need not be able to read this environment.
UNPRIVILEGED = """
import os, sys, glob, json, signal
import pogfast.pog.create, pogfast.pog.inputs, pogfast.pog, pogfast.pog.restore, pogfast.pog.addresses, pogfast.stores
if os.getuid() == 0:
    os.setgroups([]), os.setgid(65534), os.setuid(65534)
from pogfast.pog import main
sys.exit(main())
"""


def unprivileged(arguments: list[str], cwd: Path) -> Ran:
    """Our `pog`; tests may run as root, whom no permission stops."""
    return run([sys.executable, "-c", UNPRIVILEGED, *arguments], cwd)


@pytest.fixture
def open_work(work: Path) -> Path:
    """`work`, where somebody else may enter and write into out/."""
    if os.getuid() == 0:
        shutil.copytree(work, place := Path(f"/tmp/pogfast-test-{os.getpid()}"), symlinks=True)
        for path in (place, place / "out", place / "d", place / "d" / "e"):
            path.chmod(0o777)
        os.chown(place / "key", 65534, 65534)
        (place / "key").chmod(0o600)  # pogfast warns of a secret key that others can read
        return place
    (work / "key").chmod(0o600)
    return work


def test_no_permission(open_work: Path) -> None:
    try:
        (open_work / "other").chmod(0o555)
        one_line(unprivileged(["--keyfile=../key", "../f"], open_work / "other"), 1, "ermission denied")
        (open_work / "f").chmod(0)
        (open_work / "d" / "e").chmod(0)
        ran = unprivileged(["--keyfile=../key", *INPUTS], open_work / "out")
        assert ran.code == 3
        assert sorted(ran.err.splitlines()) == [
            "pog: error: cannot read ../d/e: Permission denied",
            "pog: error: cannot read ../f: Permission denied",
        ]
        ran = unprivileged(["--keyfile=../key", "--decrypt", manifest_in(open_work / "out")], open_work / "out")
        assert ran.code == 0
        assert restored(open_work / "out") == {"z": FILES["d/z"], "empty": b"", "é": FILES["é"]}
        ran = unprivileged(["--keyfile=../key", "../f"], open_work / "out")
        assert (ran.code, len(ran.err.splitlines())) == (1, 2)
        assert "no archive was created" in ran.err
    finally:
        if os.getuid() == 0:
            shutil.rmtree(open_work)


# ---- passwords -----------------------------------------------------------------------------------------------------


def test_a_password_from_standard_input(work: Path, pog: Runner) -> None:
    assert pog("../f", cwd=work / "out", stdin=b"one\ntwo\nthree\nthree\n").code == 0
    manifest = manifest_in(work / "out")
    for stdin, code in ((b"three\n", 0), (b"three", 0), (b"three\nthree\n", 0), (b"one\n", 12)):
        assert pog("--decrypt", manifest, cwd=work / "out", stdin=stdin).code == code
    for stdin in (b"", b"once\n"):
        one_line(pog("../f", cwd=work / "out", stdin=stdin), 2, "no password", "--encryption-keyfile or --keyfile, or")
    one_line(pog("--decrypt", manifest, cwd=work / "out"), 2, "no password", "--decryption-keyfile or --keyfile, or")
    one_line(pog("../f", cwd=work / "out", stdin=b"\n\n"), 2, "empty password")


def test_a_password_at_the_terminal(work: Path) -> None:
    def talk(arguments: list[str], answers: list[str]) -> tuple[str, int]:
        command = pexpect.spawn(sys.executable, ["-m", "pogfast.pog", *arguments], cwd=str(work / "out"), timeout=60)
        for answer in answers:
            command.expect("Password: ")
            command.sendline(answer)
        command.expect(pexpect.EOF)
        command.close()
        return command.before.decode(), command.exitstatus

    said, code = talk(["../f"], ["s3cret", "other", "s3cret", "s3cret"])
    assert code == 0
    assert "s3cret" not in said
    manifest = manifest_in(work / "out")
    assert talk(["--decrypt", manifest], ["s3cret"])[1] == 0
    assert restored(work / "out") == {"f": FILES["f"]}
    said, code = talk(["--decrypt", manifest], ["wrong"])
    assert code == 12
    assert "pog: error:" in said


def test_no_password_is_asked_for_before_cheap_checks(work: Path, pog: Runner) -> None:
    for arguments in (["nosuch"], ["--save-to=s3", "f"], ["--chunk-size=x", "f"]):
        assert "password" not in pog(*arguments).err


# ---- what it says of itself ----------------------------------------------------------------------------------------


def test_help_and_version(work: Path, pog: Runner) -> None:
    assert pog("--version").out.decode() == f"Pog 0.1.4 (pogfast {__version__})\n"
    text = pog("--help").out.decode()
    assert pog("-h").out.decode() == pog("--hel").out.decode() == text
    from pogfast.pog import FLAGS, WITH_VALUE

    for option in (*FLAGS, *WITH_VALUE):
        assert f"--{option}" in text


def test_help_imports_nothing_heavy(work: Path) -> None:
    ran = run([sys.executable, "-X", "importtime", "-m", "pogfast.pog", "--help"], work)
    imported = {line.rsplit("|", 1)[1].strip() for line in ran.err.splitlines()}
    assert "getopt" in imported
    for module in ("pogfast._engine", "nacl", "zstandard", "argon2", "json", "dataclasses", "typing", "threading"):
        assert module not in imported


def test_create_keypair(tmp_path: Path, pogcli_014: Runner) -> None:
    command = [sys.executable, "-c", "import sys; from pogfast.pog import create_keypair as c; sys.exit(c())"]
    ran = run(command, tmp_path)
    (tmp_path / "theirs").mkdir()
    from kit.environments import pogcli_python

    theirs = run([pogcli_python("0.1.4").with_name("pog-create-keypair")], tmp_path / "theirs")
    assert (ran.code, ran.out, ran.err) == (0, theirs.out, "")
    assert stat.S_IMODE((tmp_path / "pki.decrypt").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "pki.encrypt").stat().st_mode) == 0o644
    public = (tmp_path / "pki.encrypt").read_bytes()
    assert oracle.OracleKey.of_private((tmp_path / "pki.decrypt").read_bytes()).secret == public
    again = run(command, tmp_path)
    assert (again.code, again.out) == (1, b"")
    assert "exists already" in again.err
    assert (tmp_path / "pki.encrypt").read_bytes() == public
    assert run([*command, "--help"], tmp_path).code == 0


# ---- where things are ----------------------------------------------------------------------------------------------


def data_of(store: Path) -> list[str]:
    return sorted(path.name for path in (store / "data").rglob("*") if path.is_file())


def test_consume_deletes_nothing_in_a_store(pog: Runner, work: Path) -> None:
    """As with pogcli: other archives may need the blobs."""
    for _ in range(2):
        assert pog("--keyfile=key", "--save-to=local", "f", "d", cwd=work).code == 0
    first, second = sorted(path.name for path in work.glob("*.mfn"))
    before = data_of(work)
    for written in (f"local:{first}", f"local:{work}/{first}"):
        ran = pog("--keyfile=key", "--decrypt", "--consume", written, cwd=work)
        assert ran.code == 0, ran.err
        assert data_of(work) == before
    assert (work / first).exists()
    (work / "d" / "z").unlink()
    assert pog("--keyfile=key", "--decrypt", f"local:{second}", cwd=work).code == 0
    assert (work / "d" / "z").read_bytes() == FILES["d/z"]


@pytest.mark.parametrize("written", ["local:{}", "local:/{}", "local:///{}", "local://nas/{}"])
def test_the_directory_of_a_local_address(pog: Runner, pogcli_014: Runner, work: Path, written: str) -> None:
    """As for pogcli, it is the working directory in every spelling; the same for blobs."""
    ran = pog("--keyfile=key", "--save-to= local , local:/" + str(work / "second"), "f", cwd=work)
    assert ran.code == 0, ran.err
    blob, manifest = ran.lines[1], manifest_in(work)
    for name in (manifest, blob):
        words = ["--keyfile=key", "--decrypt", written.format(name)]
        (work / "f").unlink(missing_ok=True)
        theirs = pogcli_014(*words, cwd=work)
        (work / "f").unlink(missing_ok=True)
        ours = pog(*words, cwd=work)
        assert (ours.code, ours.out) == (theirs.code, theirs.out) != (0, b""), ours.err
    assert pog("--keyfile=../key", "--decrypt", f"local://{work}/second/{manifest}", cwd=work / "out").code == 0
    assert restored(work / "out") == {"f": FILES["f"]}


def test_a_missing_archive_names_the_searched_directories(pog: Runner, work: Path) -> None:
    one_line(pog("--keyfile=key", "--decrypt", "local:///nosuch.mfn", cwd=work), 10, "looked in", "working directory")
    one_line(pog("--keyfile=key", "--decrypt", "nosuch.mfn", cwd=work), 10, "nosuch.mfn in the working directory")
    one_line(pog("--keyfile=key", "--decrypt", "local:nosuch", cwd=work), 10, "no such blob: nosuch")


def test_a_manifest_can_be_a_link(pog: Runner, work: Path) -> None:
    """The link is the user's own; links in a store are not followed."""
    assert pog("--keyfile=key", "f", cwd=work).code == 0
    name = manifest_in(work)
    (work / "kept").mkdir()
    (work / name).rename(work / "kept" / name)
    (work / "newest.mfn").symlink_to(f"kept/{name}")
    (work / "f").unlink()
    for words in (["--dump-manifest"], ["--decrypt"], ["--decrypt", "--consume"]):
        ran = pog("--keyfile=key", *words, "newest.mfn", cwd=work)
        assert ran.code == 0, ran.err
        assert "f" in " ".join(ran.lines)
    assert restored(work)["f"] == FILES["f"]
    assert not (work / "newest.mfn").is_symlink(), "consumed: the link, not what it leads to"
    assert (work / "kept" / name).exists()
    os.mkfifo(work / "fifo.mfn")
    one_line(pog("--keyfile=key", "--decrypt", "fifo.mfn", cwd=work), 4, "not a regular file")


def test_entries_are_in_the_order_of_archived_names(pog: Runner, pogcli_014: Runner, work: Path) -> None:
    for side, run_pog in (("out", pog), ("other", pogcli_014)):
        (work / "p").mkdir(exist_ok=True)
        (work / "q").mkdir(exist_ok=True)
        (work / "p" / "z").write_bytes(b"z")
        (work / "q" / "a").write_bytes(b"a")
        assert run_pog("--keyfile=../key", "../p/z", "../q/a", cwd=work / side).code == 0
        ran = pog("--keyfile=../key", "--dump-manifest", manifest_in(work / side), cwd=work / side)
        assert [line for line in ran.lines if line.startswith("* ")] == ["* a:", "* z:"]


def test_a_terminal_gets_no_escape_sequences(work: Path) -> None:
    name = "a\x1b]0;title\x07\u202etxt"
    (work / name).write_bytes(b"x")
    command = [sys.executable, "-m", "pogfast.pog", "--keyfile=key"]
    assert run([*command, name], work).code == 0
    for words in (["--dump-manifest"], ["--decrypt"]):
        asked = [*command, *words, manifest_in(work)]
        assert name.encode() in run(asked, work).out, "a script gets the name as it is"
        shown = pexpect.run(" ".join(map(str, asked)), cwd=str(work))
        assert b"\x1b" not in shown
        assert "\u202e".encode() not in shown
        assert b"\\x1b]0;title\\x07\\u202etxt" in shown


def test_help_names_the_services(pog: Runner) -> None:
    assert "s3://BUCKET, b2://BUCKET" in pog("--help").out.decode()


# ---- what a file keeps that is restored over -----------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o666, 0o400, 0o755])
def test_a_replaced_file_keeps_its_mode(work: Path, pog: Runner, mode: int) -> None:
    """As if it were opened and written to."""
    made = pog("--keyfile=../key", "../f", "../d", "../empty", cwd=work / "out")
    assert made.code == 0
    there = work / "out" / "f"
    there.write_bytes(b"secret so far")
    there.chmod(mode)
    (work / "out" / "d").mkdir()
    (work / "out" / "d" / "z").write_bytes(b"")
    (work / "out" / "d" / "z").chmod(mode)
    assert pog("--keyfile=../key", "--decrypt", manifest_in(work / "out"), cwd=work / "out").code == 0
    assert there.read_bytes() == FILES["f"]
    assert [stat.S_IMODE((work / "out" / name).stat().st_mode) for name in ("f", "d/z")] == [mode, mode]
    fresh = stat.S_IMODE((work / "out" / "empty").stat().st_mode)
    before = os.umask(0)
    os.umask(before)
    assert fresh == 0o666 & ~before, "a new one is the umask's"


def test_set_id_bits_go_with_the_content_they_were_for(work: Path, pog: Runner) -> None:
    assert pog("--keyfile=../key", "../f", cwd=work / "out").code == 0
    (work / "out" / "f").write_bytes(b"a program")
    (work / "out" / "f").chmod(0o6755)
    assert pog("--keyfile=../key", "--decrypt", manifest_in(work / "out"), cwd=work / "out").code == 0
    assert stat.S_IMODE((work / "out" / "f").stat().st_mode) == 0o755


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_replaced_file_keeps_its_owner_and_acl(work: Path, pog: Runner) -> None:
    """Group permissions of a file with an ACL are the mask: without the ACL, the whole group would get them."""
    assert pog("--keyfile=../key", "../f", cwd=work / "out").code == 0
    there = work / "out" / "f"
    there.write_bytes(b"secret so far")
    os.chown(there, 1234, 4321)
    entries = [(1, 6, -1), (2, 6, 1000), (4, 0, -1), (0x10, 6, -1), (0x20, 0, -1)]  # user 1000 may, the group may not
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)
    try:
        os.setxattr(there, "system.posix_acl_access", acl)
        os.setxattr(there, "user.mark", b"mine")
    except OSError as error:
        pytest.skip(f"no ACLs here: {error}")
    was = there.stat()
    assert pog("--keyfile=../key", "--decrypt", manifest_in(work / "out"), cwd=work / "out").code == 0
    now = there.stat()
    assert there.read_bytes() == FILES["f"]
    assert (now.st_uid, now.st_gid, now.st_mode) == (was.st_uid, was.st_gid, was.st_mode)
    assert os.getxattr(there, "system.posix_acl_access") == acl
    assert os.getxattr(there, "user.mark") == b"mine"


@pytest.mark.parametrize("planted", ["fifo", "link"])
def test_what_is_not_a_file_gives_no_mode(work: Path, pog: Runner, planted: str) -> None:
    assert pog("--keyfile=../key", "../f", cwd=work / "out").code == 0
    there, outside = work / "out" / "f", work / "outside"
    outside.write_bytes(b"outside")
    outside.chmod(0o777)
    if planted == "fifo":
        os.mkfifo(there, 0o777)
    else:
        there.symlink_to(outside)
    assert pog("--keyfile=../key", "--decrypt", manifest_in(work / "out"), cwd=work / "out").code == 0
    assert outside.read_bytes() == b"outside"
    assert stat.S_ISREG(there.lstat().st_mode)
    assert not there.stat().st_mode & 0o111


@pytest.mark.parametrize(
    ("module", "arguments", "words"),
    [
        (
            "pog",
            ["--save-to", "--consume", "a"],
            ["--save-to has no value: --consume is an option", "--save-to=--consume"],
        ),
        ("pog", ["--keyf", "--save=x", "a"], ["--keyf has no value", "--keyfile=--save=x"]),
        ("pog", ["--keyfile", "", "a"], ["--keyfile is empty"]),
        ("pog", ["--save-to=", "a"], ["--save-to is empty"]),
        ("pog", ["--keyfile=k", ""], ["an input is empty"]),
        ("pog", ["--keyfile=k", "--compresslevel=" + "9" * 30, "a"], ["not a whole number from -131072 to 22"]),
        ("pog", ["--keyfile=k", "--concurrency=1e3", "a"], ["--concurrency=1e3: not a whole number"]),
        ("cleanup", ["--backup", "--reckless-abandon"], ["--backup has no value"]),
        ("cleanup", ["--keyfile="], ["--keyfile is empty"]),
    ],
)
def test_forgotten_values(tmp_path: Path, module: str, arguments: list[str], words: list[str]) -> None:
    """pogcli takes an option for the value of another, and asks for a password if the name of a keyfile is empty."""
    (tmp_path / "k").write_bytes(b"key")
    program = f"import sys; from pogfast.pog import *; sys.exit({'main' if module == 'pog' else module}())"
    ran = run([sys.executable, "-c", program, *arguments], tmp_path)
    assert (ran.code, ran.out) == (2, b""), ran.err
    for word in words:
        assert word in ran.err
    assert [path.name for path in tmp_path.iterdir()] == ["k"]


def test_archives_without_sizes(tmp_path: Path, pog: Runner, pogfast: Runner) -> None:
    for name, size in (("one", 5000), ("two", 700)):
        (tmp_path / name).write_bytes(os.urandom(size))
    (tmp_path / "key").write_bytes(b"key")
    assert pog("--keyfile=key", "--save-to=local:pogs", "one", "two").code == 0
    [archive] = (tmp_path / "pogs").glob("*.mfn")
    ran = pogfast("restore", str(archive), "--into", "out", "--keyfile", "key", "--json")
    assert json.loads(ran.lines[-1])["bytes_restored"] == 5700, ran.err
    lines = pogfast("info", str(archive), "--keyfile", "key").lines
    assert [line.split()[1:] for line in lines if line.startswith(("size", "duplicates"))] == [["?"], ["0", "files"]]

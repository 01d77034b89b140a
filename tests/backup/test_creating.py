"""`pogfast create` as people use it: its output, and what is refused before anything is written."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pexpect
import pytest

import pogfast
from kit.commands import Ran, Runner, run
from kit.files import plant_socket
from pogfast.files.metadata import MAX_NS
from pogfast.keys import from_keyfile

COMMAND = [sys.executable, "-m", "pogfast"]
# Seconds after which a file is told from one that was changed right after it was read.
OLD_ENOUGH = 0.2


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree, a key in the environment, and a cache of its own."""
    (tmp_path / "tree" / "d").mkdir(parents=True)
    (tmp_path / "tree" / "f").write_bytes(b"hello\n")
    (tmp_path / "tree" / "d" / "big").write_bytes(os.urandom(100_000))
    (tmp_path / "key").write_bytes(b"a key")
    for name in [name for name in os.environ if name.startswith("POGFAST_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("POGFAST_KEYFILE", str(tmp_path / "key"))
    monkeypatch.setenv("POGFAST_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path


def names(ran: Ran) -> list[str]:
    assert ran.code == 0, ran.err
    return ran.lines


# ---- sources that are not there --------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [[], ["--json"], ["-v"]], ids=["plain", "json", "verbose"])
def test_a_source_that_is_not_there_is_left_out_and_the_rest_archived(cli: Runner, more: list[str]) -> None:
    ran = cli("create", "tree/f", "nope", "--to", "store", *more)
    assert ran.code == 3
    assert "nope: No such file or directory" in ran.err
    assert names(cli("ls", "store/latest")) == ["tree/f"]
    ran = cli("create", "nope", "tree/f/below", "tree/f", "--to", "store", *more)
    assert ran.code == 3


@pytest.mark.parametrize("more", [[], ["--json"]], ids=["plain", "json"])
def test_when_no_source_is_there_nothing_is_written(work: Path, cli: Runner, more: list[str]) -> None:
    for missing in (["nope"], ["nope", "nor this"]):
        ran = cli("create", *missing, "--to", "store", *more)
        assert ran.code == 1
        assert "nope: No such file or directory" in ran.err
        assert not list((work / "store").glob("*.mfn"))


def test_a_missing_source_on_a_terminal(work: Path) -> None:
    """The thread that counts what is left must not end in a traceback."""
    command = [*COMMAND, "create", "tree/f", "nope", "--to", "store"]
    for arguments, code in ((command, 3), ([*COMMAND, "create", "nope", "--to", "store"], 1)):
        child = pexpect.spawn(arguments[0], [str(word) for word in arguments[1:]], cwd=work, timeout=60)
        said = child.read().decode()
        child.close()
        assert child.exitstatus == code, said
        assert "Traceback" not in said
        assert "nope: No such file" in said


# ---- another key ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [[], ["--no-cache"]], ids=["cache", "no cache"])
@pytest.mark.parametrize("earlier", ["key", "pair"])
@pytest.mark.parametrize("later", ["other", "pair"])
def test_a_store_of_another_key_is_told_of_once(
    work: Path, cli: Runner, earlier: str, later: str, more: list[str]
) -> None:
    """The public key alone can tell; that the key was used in the store before is remembered."""
    (work / "other").write_bytes(b"another key")
    assert cli("keygen", "pair").code == 0
    options = {name: ["--keyfile", name] for name in ("key", "other")} | {
        "pair": ["--encryption-keyfile", "pair.encrypt"]
    }
    ran = cli("create", "tree", "--to", "store", *options[earlier])
    assert "another key" not in ran.err, "there was no archive"
    [first] = [path.name for path in (work / "store").glob("*.mfn")]
    shown = cli("key", "show", "pair.encrypt" if later == "pair" else later).out.decode()
    fingerprint = next(line.split()[1] for line in shown.splitlines() if options[later][0] in line)
    ran = cli("create", "tree", "--to", "store", *options[later], *more)
    assert ran.code == 0
    told = f"created with another key than this one (fingerprint {fingerprint}), or with damaged headers: {first}"
    assert (told in ran.err) == (earlier != later), ran.err
    assert "another key" not in cli("create", "tree", "--to", "store", *options[later], *more).err


@pytest.mark.parametrize("more", [[], ["--no-cache"]], ids=["cache", "no cache"])
def test_a_mistyped_password_is_told_of_in_each_run(work: Path, cli: Runner, more: list[str]) -> None:
    """Otherwise the user would learn it on the day of the restore."""
    right, wrong = ({**os.environ, "POGFAST_PASSWORD": password} for password in ("right", "rigth"))
    for each in (right, wrong):
        del each["POGFAST_KEYFILE"]
    for env, told in ((right, 0), (wrong, 1), (wrong, 1), (right, 0)):
        ran = cli("create", "tree", "--to", "store", *more, env=env)
        assert (ran.code, ran.err.count("is the password right?")) == (0, told), ran.err


def test_a_damaged_newest_archive_is_not_in_the_way(work: Path, cli: Runner) -> None:
    assert cli("create", "tree", "--to", "store").code == 0
    [manifest] = (work / "store").glob("*.mfn")
    manifest.write_bytes(bytes(manifest.stat().st_size))
    ran = cli("create", "tree", "--to", "store", "--no-cache")
    assert (ran.code, ran.err.count("another key")) == (0, 0), ran.err


# ---- what is said ----------------------------------------------------------------------------------------------------


def test_a_quiet_run_says_nothing_but_the_name(work: Path, cli: Runner) -> None:
    """Absolute paths and sockets are the same every night: cron would send a mail each time."""
    plant_socket(work / "tree" / "socket")
    paths = [str(work / "tree" / "f"), str(work / "tree")]
    ran = cli("create", *paths, "--to", "store", "-q")
    assert (ran.code, ran.err, len(ran.lines)) == (0, "", 1)
    ran = cli("create", *paths, "--to", "store")
    assert ran.code == 0
    assert ran.err.count("removing the leading /") == 1
    assert ran.err.count("tree/socket") == 1
    assert "warning" not in ran.err


def test_the_name_is_printed_last_when_the_archive_is_there(work: Path, cli: Runner) -> None:
    ran = run(["/bin/sh", "-c", '"$@" 2>&1', "sh", *COMMAND, "create", "tree", "--to", "a,b"], work)
    assert ran.code == 0
    assert re.fullmatch(r"\S+\.mfn", ran.lines[-1])
    assert all((work / store / ran.lines[-1]).exists() for store in ("a", "b"))
    # In the store's place nothing can be stored: no name is printed.
    (work / "c").mkdir()
    script = "#!/bin/sh\ncase $1 in *.mfn) exit 1;; esac\n"
    (work / "program").write_text(script)
    (work / "program").chmod(0o755)
    ran = cli("create", "tree", "--to", "./program")
    assert (ran.code, ran.out) == (1, b"")
    # One of two: the other has it.
    ran = cli("create", "tree", "--to", "a,./program")
    assert ran.code == 3
    assert (work / "a" / ran.lines[0]).exists()


# ---- what the run itself writes --------------------------------------------------------------------------------------


def test_a_store_below_a_source_is_left_out(work: Path, cli: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """All stores, the cache, and what tune has left; by device and inode, so that links make no difference."""
    tree = work / "tree"
    (tree / "other").symlink_to("store")
    (work / "again").symlink_to("tree/store")
    (tree / ".pogfast-tune-x").mkdir()
    (tree / ".pogfast-tune-x" / "f").touch()
    monkeypatch.setenv("POGFAST_CACHE_DIR", str(tree / "cache"))
    (tree / "store").mkdir()
    (tree / "store" / "mine.txt").touch()
    (tree / "second").mkdir()
    (tree / "second" / "flat.mfn").touch()
    (tree / "second" / f"{'A' * 43}=").touch()  # a store without data/, as pog writes
    for _ in range(2):
        ran = cli("create", "tree", "again/", "--to", f"{tree}/other,tree/second")
        assert ran.code == 0, ran.err
    for what in ("the store", "tree/second", "the cache", ".pogfast-tune-x"):
        assert what in ran.err
    found = set(names(cli("ls", f"tree/store/{ran.lines[0]}")))
    expected = {"tree", *(f"tree/{name}" for name in ("other", "d", "d/big", "f", "cache", "second", "store"))}
    assert found == expected | {"tree/store/mine.txt", "again", "again/mine.txt"}
    ran = cli("create", "tree", "--to", "tree/store", "-q")
    assert (ran.code, ran.err) == (0, ""), "it is the same each night"


def test_a_store_that_is_the_source(work: Path, cli: Runner) -> None:
    for _ in range(2):
        assert cli("create", ".", "--to", ".", cwd=work / "tree").code == 0
    assert [name for name in names(cli("ls", "tree/latest")) if name not in ("", ".")] == ["d", "d/big", "f"]


def test_a_store_behind_a_bind_mount(work: Path, cli: Runner) -> None:
    (work / "store").mkdir()
    (work / "tree" / "bound").mkdir()
    if os.geteuid() or subprocess.run(["mount", "--bind", "store", "tree/bound"], cwd=work, check=False).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        for _ in range(2):
            assert cli("create", "tree", "--to", "store").code == 0
        assert names(cli("ls", "store/latest")) == ["tree", "tree/bound", "tree/d", "tree/d/big", "tree/f"]
    finally:
        subprocess.run(["umount", work / "tree" / "bound"], check=True)


# ---- values of options -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [["--chunk-size", "10"], ["--chunk-size", "4095"], ["--chunker", "fixed:10"], ["--chunker", "fastcdc:64,100,200"]],
    ids=" ".join,
)
def test_chunks_that_nobody_can_want_are_refused(work: Path, cli: Runner, arguments: list[str]) -> None:
    ran = cli("create", "tree", "--to", "store", *arguments)
    assert ran.code == 2
    assert "4,096" in ran.err
    assert not (work / "store").exists()
    ran = cli("tune", "tree", "--chunker", arguments[1])
    assert ran.code == 2
    assert "4,096" in ran.err


def test_the_smallest_chunks(cli: Runner) -> None:
    for arguments in (["--chunk-size=4096"], ["--chunker=fixed:4KiB"], ["--chunker", "fixed:16.0 MB"]):
        assert cli("create", "tree", "--to", "store", *arguments).code == 0
    info = json.loads(cli("info", "store/latest", "--json").out)
    assert (info["chunk_size"], info["chunker"]) == (16_000_000, "")
    ran = cli("create", "tree", "--to", "store", "--chunker=fixed:16MB", "--chunk-size=8MB")
    assert ran.code == 2
    assert "--chunk-size" in ran.err
    for wrong in ("fixed:", "fixed:0", "fixed:many", "fixe:1MB"):
        assert cli("create", "tree", "--to", "store", "--chunker", wrong).code == 2


def test_tune_recommends_nothing_for_next_to_nothing(work: Path, cli: Runner) -> None:
    (work / "two").write_bytes(b"hi")
    ran = cli("tune", "two")
    assert ran.code == 2
    assert "2 B" in ran.err
    assert "1.00 MB" in ran.err
    assert ran.out == b""


def test_lengths_of_time(cli: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    for good in ("5m", "90s", "1.5h", "0", "300", "1d"):
        assert cli("create", "tree", "--to", "store", "--retry-for", good).code == 0
        monkeypatch.setenv("POGFAST_RETRY_FOR", good)
        assert cli("doctor", "store").code == 0
    for wrong in ("5x", "-1", "m", "", "1e3s", "nan", "inf", "200000d"):
        ran = cli("create", "tree", "--to", "store", "--retry-for", wrong)
        assert (ran.code, "length of time" in ran.err or "100 years" in ran.err) == (2, True), (wrong, ran.err)
    monkeypatch.delenv("POGFAST_RETRY_FOR")
    for grace, code in (("5m", 0), ("0", 0), ("2w", 0), ("24", 2)):
        assert cli("prune", "store", "--keep-last", "1", "--grace", grace).code == code


def test_tags_with_commas_are_several_everywhere(work: Path, cli: Runner) -> None:
    one = names(cli("create", "tree", "--to", "store", "--tag", "a,b"))[-1]
    other = names(cli("create", "tree", "--to", "store", "--tag", "a", "--tag", "c"))[-1]
    told = [json.loads(line) for line in cli("list", "store", "--json").lines]
    assert [found["tags"] for found in told] == [["a", "b"], ["a", "c"]]
    listed = cli("list", "store", "--tag", "a,b").out.decode()
    assert one in listed
    assert other not in listed
    assert names(cli("ls", "store/latest", "--tag", "b, a"))
    ran = cli("prune", "store", "--keep-tag", "a,b", "--group-by", "")
    assert f"keep    {one}" in ran.out.decode()
    assert f"remove  {other}" in ran.out.decode()
    assert cli("create", "tree", "--to", "store", "--tag", "a,").code == 2


# ---- keys in the wrong role ------------------------------------------------------------------------------------------


@pytest.fixture
def keyed(work: Path, cli: Runner, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pair `mine` and a keyfile `sym` of 32 bytes."""
    monkeypatch.delenv("POGFAST_KEYFILE")
    assert cli("keygen", "mine").code == 0
    assert cli("keygen", "--symmetric", "sym").code == 0
    return work


WRONG = [
    ("encryption-keyfile", "mine.decrypt", "private key of a pair"),
    ("encryption-keyfile", "sym", "not a public key"),
    ("decryption-keyfile", "mine.encrypt", "public key of a pair"),
    ("keyfile", "mine.encrypt", "public key of a pair"),
    ("keyfile", "mine.decrypt", "private key of a pair"),
]


@pytest.mark.parametrize(("option", "file", "said"), WRONG)
def test_key_material_in_the_wrong_role_is_refused(
    keyed: Path, cli: Runner, pog: Runner, option: str, file: str, said: str
) -> None:
    create = ["create", "tree", "--to", "store"]
    variable = {**os.environ, "POGFAST_" + option.upper().replace("-", "_"): file}
    for ran in (cli(*create, f"--{option}={file}"), cli(*create, env=variable)):
        assert (ran.code, said in ran.err, file in ran.err) == (1, True, True), ran.err
    if option != "decryption-keyfile":  # with it pog only reads
        ran = pog(f"--{option}={file}", "--save-to=local:store", "tree/f", cwd=keyed)
        assert (ran.code, said in ran.err) == (1, True), ran.err
    assert not list(keyed.rglob("*.mfn"))


def test_a_renamed_key_in_the_wrong_role_is_found_by_the_key_beside_it(keyed: Path, cli: Runner) -> None:
    (keyed / "mine.pub").write_bytes((keyed / "mine.encrypt").read_bytes())
    (keyed / "mine.key").write_bytes((keyed / "mine.decrypt").read_bytes())
    for option, file, said in (
        ("encryption-keyfile", "mine.key", "private key of a pair"),
        ("decryption-keyfile", "mine.pub", "public key of a pair"),
        ("keyfile", "mine.pub", "public key of a pair"),
        ("keyfile", "mine.key", "private key of a pair"),
    ):
        ran = cli("create", "tree", "--to", "store", f"--{option}", file)
        assert (ran.code, said in ran.err) == (1, True), ran.err
    # With nothing beside it, a point of the curve is a reason to warn, and no more.
    (keyed / "elsewhere").mkdir()
    (keyed / "mine.pub").rename(keyed / "elsewhere" / "k")
    for option in ("decryption-keyfile", "keyfile"):
        ran = cli("create", "tree", "--to", "other", f"--{option}=elsewhere/k")
        assert (ran.code, "may be" in ran.err) == (0, True), ran.err


def test_what_is_right_is_not_refused(keyed: Path, cli: Runner) -> None:
    (keyed / "k").mkdir()
    for name, content in (("public", "mine.encrypt"), ("private", "mine.decrypt"), ("sym.encrypt", "sym")):
        (keyed / "k" / name).write_bytes((keyed / content).read_bytes())
        (keyed / "k" / name).chmod(0o600)
    (keyed / "k" / "long.decrypt").write_bytes(b"a keyfile that has 33 and more bytes, whatever its name")
    for store, option, file in (
        ("pair", "encryption-keyfile", "mine.encrypt"),
        ("pair", "encryption-keyfile", "k/public"),
        ("pair", "decryption-keyfile", "mine.decrypt"),
        ("pair", "decryption-keyfile", "k/private"),
        ("sym", "keyfile", "sym"),
        ("sym", "keyfile", "k/sym.encrypt"),
        ("long", "keyfile", "k/long.decrypt"),
    ):
        ran = cli("create", "tree", "--to", f"store-{store}", f"--{option}", file, "-q")
        assert (ran.code, ran.err) == (0, ""), (option, file)


def test_what_was_written_in_the_wrong_role_can_still_be_read(keyed: Path, cli: Runner) -> None:
    """0.5.3 and pogcli take any file for a keyfile; that archive must not be lost."""
    (keyed / "other").write_bytes((keyed / "mine.encrypt").read_bytes())
    assert cli("create", "tree", "--to", "store", "--keyfile=other").code == 0
    assert cli("create", "tree", "--to", "pair", "--decryption-keyfile=other").code == 0
    for store, option in (("store", "keyfile"), ("pair", "decryption-keyfile")):
        ran = cli("ls", f"{store}/latest", f"--{option}", "mine.encrypt")
        assert ran.code == 0
        assert "public key of a pair" in ran.err


def test_the_library_does_not_write_with_what_is_no_key(keyed: Path) -> None:
    from pogfast.errors import KeyFileError
    from pogfast.keys import Key

    private = (keyed / "mine.decrypt").read_bytes()
    for wrong in (Key("x25519", private), Key("x25519", bytes(32)), Key("x25519", (9).to_bytes(32, "little"), private)):
        with pytest.raises(KeyFileError):
            pogfast.create([str(keyed / "tree")], str(keyed / "store"), wrong)
    assert not list(keyed.rglob("*.mfn"))


# ---- who else can have the key ---------------------------------------------------------------------------------------


@pytest.fixture
def reachable(keyed: Path) -> Path:
    """A directory that everybody can enter: pytest's own is closed."""
    import shutil
    import tempfile

    place = Path(tempfile.mkdtemp(dir="/var/tmp"))
    place.chmod(0o755)
    for name in ("mine.encrypt", "mine.decrypt", "sym"):
        shutil.copy(keyed / name, place / name)
        (place / name).chmod(0o600)
    yield place
    shutil.rmtree(place)


def test_a_secret_that_others_can_read_is_named(reachable: Path, cli: Runner) -> None:
    for option, name in (("decryption-keyfile", "mine.decrypt"), ("keyfile", "sym"), ("password-file", "sym")):
        create = ["create", "tree", "--to", f"{option}", f"--{option}", reachable / name, "-q"]
        for mode, warned in ((0o600, False), (0o400, False), (0o604, True), (0o640, True), (0o622, True)):
            (reachable / name).chmod(mode)
            ran = cli(*create)
            assert ran.code == 0
            assert ("warning: other users can" in ran.err and name in ran.err) == warned, (mode, ran.err)
        (reachable / name).chmod(0o644)
        reachable.chmod(0o700)
        assert cli(*create).err == "", "nobody can get there"
        reachable.chmod(0o755)
    (reachable / "mine.encrypt").chmod(0o644)
    create = ["create", "tree", "--to", "public", "--encryption-keyfile", reachable / "mine.encrypt", "-q"]
    assert cli(*create).err == "", "a public key is for everybody"
    (reachable / "mine.encrypt").chmod(0o666)
    assert "other users can replace" in cli(*create).err


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_key_of_another_user_is_named(reachable: Path, cli: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    os.chown(reachable / "sym", 12345, -1)
    create = ["create", "tree", "--to", "store", "--keyfile", reachable / "sym", "-q"]
    monkeypatch.delenv("SUDO_UID", raising=False)
    assert "belongs to another user" in cli(*create).err
    monkeypatch.setenv("SUDO_UID", "12345")
    assert cli(*create).err == "", "who has become root by sudo uses his own key"


# ---- secrets in the environment --------------------------------------------------------------------------------------

SECRETS = {
    "POGFAST_PASSWORD": "hunter2",
    "AWS_ACCESS_KEY_ID": "an access key",
    "AWS_SECRET_ACCESS_KEY": "a secret key",
    "AWS_SESSION_TOKEN": "a token",
    "B2_APPLICATION_KEY_ID": "an id",
    "B2_APPLICATION_KEY": "an application key",
}


def test_children_get_no_secrets(work: Path, cli: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("POGFAST_KEYFILE")
    environ = {**os.environ, **SECRETS, "PLAIN": "plain"}
    assert cli("create", "--from-command", "env -0", "--name", "env", "--to", "store", env=environ).code == 0
    seen = cli("cat", "store/latest", "env", env=environ).out
    assert b"PLAIN=plain" in seen
    assert not [name for name in SECRETS if name.encode() in seen]
    # A program that stores may be what uploads: it gets the services' credentials, and no password.
    (work / "program").write_text(f"#!/bin/sh\nenv > {work}/seen\n")
    (work / "program").chmod(0o755)
    assert cli("create", "tree", "--to", "./program", env=environ).code == 0
    seen = (work / "seen").read_bytes()
    assert b"AWS_SECRET_ACCESS_KEY" in seen
    assert b"POGFAST_PASSWORD" not in seen
    # So does one that fetches a password; its own command line, which may be secret, is not repeated to others.
    fetch = f"sh -c 'env > {work}/seen; echo hunter2'"
    environ = {**os.environ, "POGFAST_PASSWORD_COMMAND": fetch, "AWS_ACCESS_KEY_ID": "id"}
    assert cli("ls", "store/latest", env=environ).code == 0
    seen = (work / "seen").read_bytes()
    assert b"POGFAST_PASSWORD" not in seen
    assert b"AWS_ACCESS_KEY_ID" in seen


def test_the_password_is_taken_out_of_the_environment(work: Path) -> None:
    program = (
        "import os; from pogfast.cli import main; os.environ['POGFAST_PASSWORD'] = 'hunter2'; "
        "code = main(['create', 'tree', '--to', 'store']); assert 'POGFAST_PASSWORD' not in os.environ; "
        "import subprocess; assert b'hunter2' not in subprocess.check_output(['env']); raise SystemExit(code)"
    )
    environ = {name: value for name, value in os.environ.items() if name != "POGFAST_KEYFILE"}
    ran = run([sys.executable, "-c", program], work, env=environ)
    assert ran.code == 0, ran.err


# ---- metadata that cannot be read ------------------------------------------------------------------------------------


def test_attributes_that_cannot_be_listed(work: Path, cli: Runner) -> None:
    """More than 64 KB of names: the kernel gives none of them."""
    place = work / "tree" / "mnt"
    place.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "tmpfs", place], check=False).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        (place / "f").write_bytes(b"content")
        (place / "d").mkdir()
        try:
            for number in range(400):
                for name in ("f", "d"):
                    os.setxattr(place / name, f"trusted.{number:0200}", b"x")
            os.listxattr(place / "f")
        except OSError as error:
            if error.errno != errno.E2BIG:
                pytest.skip(f"this tmpfs has no room for so many attributes: {error}")
        else:
            pytest.skip("this kernel lists as many attributes as there are")
        ran = cli("create", "tree", "--to", "store")
    finally:
        subprocess.run(["umount", place], check=True)
    assert ran.code == 3
    for name in ("f", "d"):
        assert f"tree/mnt/{name}: its extended attributes cannot be listed" in ran.err
    assert cli("cat", "store/latest", "tree/mnt/f").out == b"content"
    store = pogfast.open_archive(str(work / "store" / "latest"), from_keyfile(str(work / "key")))
    with store as archive:
        assert {"tree/mnt/f", "tree/mnt/d"} <= archive.trailer["unreadable"].keys()


@pytest.mark.parametrize("code", [errno.E2BIG, errno.ERANGE, errno.EACCES, errno.EIO])
def test_attributes_and_acls_that_cannot_be_read(work: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """As a file system would refuse them; what cannot have any, or has just gone, is no problem."""
    names = {"f": "user.a", "d": "system.posix_acl_access", "d/big": ""}
    failing = [code]

    def listed(path: str, *, follow_symlinks: bool) -> list[str]:
        name = os.path.relpath(path, work / "tree")
        if name == "d/big":
            raise OSError(failing[0], os.strerror(failing[0]))
        return [names[name]] if name in names else []

    def read(path: str, name: str, *, follow_symlinks: bool) -> bytes:
        raise OSError(failing[0], os.strerror(failing[0]))

    monkeypatch.setattr(os, "listxattr", listed)
    monkeypatch.setattr(os, "getxattr", read)
    # Where the engine finds no attributes, Python does not ask.
    monkeypatch.setattr("pogfast.manifest.writing.Writer.takes_encoded", lambda self, above: False)
    key = from_keyfile(str(work / "key"))
    summary = pogfast.create([str(work / "tree")], str(work / "store"), key)
    said = sorted(str(problem) for problem in summary.problems)
    why = os.strerror(code)
    assert said == [
        f"{work}/tree/d/big: its extended attributes cannot be listed: {why}",
        f"{work}/tree/d: its ACL cannot be read: {why}",
        f"{work}/tree/f: its extended attribute user.a cannot be read: {why}",
    ]
    assert {problem.exit_code for problem in summary.problems} == {3}
    with pogfast.open_archive(str(work / "store" / "latest"), key) as archive:
        assert len(archive.trailer["unreadable"]) == 3
    failing[0] = errno.ENOENT
    assert pogfast.create([str(work / "tree")], str(work / "store"), key).problems == []


@pytest.mark.parametrize("year", [2300, 1600])
def test_times_that_no_archive_can_have_are_told_of(work: Path, cli: Runner, year: int) -> None:
    """Such a file is not read again in every run."""
    time_ns = (year - 1970) * 31_556_952 * 10**9
    for path in (work / "tree" / "f", work / "tree" / "d"):
        os.utime(path, ns=(time_ns, time_ns))
    if (work / "tree" / "f").stat().st_mtime_ns != time_ns:
        pytest.skip("the file system has no such times")
    time.sleep(OLD_ENOUGH)
    for unchanged in (0, 2):
        ran = cli("create", "tree", "--to", "store", "--json")
        assert ran.code == 0
        told = [line for line in ran.err.splitlines() if "times outside of 1677 to 2262 are archived" in line]
        assert len(told) == 2
        assert json.loads(ran.lines[-1])["files_unmodified"] == unchanged
    assert cli("check", "store/latest", "--against", ".").code == 0
    assert cli("restore", "store/latest", "--into", "out").code == 0
    nearest = MAX_NS if year > 2000 else -MAX_NS
    assert {(work / "out" / "tree" / name).stat().st_mtime_ns for name in ("f", "d")} == {nearest}


def test_hard_links_that_have_come_apart_differ(work: Path, cli: Runner) -> None:
    os.link(work / "tree" / "f", work / "tree" / "g")
    assert cli("create", "tree", "--to", "store").code == 0
    compare = ["check", "store/latest", "--against", "."]
    assert cli(*compare).code == 0
    shutil.copy2(work / "tree" / "g", work / "tree" / "new")
    (work / "tree" / "new").replace(work / "tree" / "g")
    times = (work / "tree" / "f").stat()
    os.utime(work / "tree" / "g", ns=(times.st_atime_ns, times.st_mtime_ns))
    ran = cli(*compare)
    assert (ran.code, [line for line in ran.lines if "hardlink" in line]) == (1, ["metadata  tree/g (hardlink)"])
    (work / "tree" / "f").unlink()
    assert "hardlink" not in cli(*compare).out.decode()


def test_a_byte_order_mark_in_a_password_file_is_told_of(
    work: Path, cli: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("POGFAST_KEYFILE")
    for data, told in ((b"\xef\xbb\xbfsecret\n", True), (b"secret\n", False)):
        (work / "password").write_bytes(data)
        (work / "password").chmod(0o600)
        ran = cli("create", "tree", "--to", f"store{told}", "--password-file", "password")
        assert (ran.code, "begins with a byte order mark" in ran.err) == (0, told), ran.err

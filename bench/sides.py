"""The tools that compare.py measures, each with the commands that archive a directory and restore it.

It runs nothing that is timed. Every tool runs with its defaults, at zstd level 3 where it has a choice, with a key that
needs no typing. A tool that is not installed is None in the table at the end.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from data import files_below

Pipeline = list[list[str]]  # commands, each reads the output of the one before it
PASSWORD = "of a benchmark"


@dataclass(frozen=True)
class Side:
    """One tool. `home` is a directory for its keys and caches, which no run measures; a store belongs to one run."""

    name: str
    command: tuple[str, ...]
    home: Path

    # Sides with the same value must write the same blobs; None: what is stored differs from run to run.
    naming: str | None = None
    remembers = False  # a second run stores only what is new

    def environment(self) -> dict[str, str]:
        return {}

    def prepare(self, store: Path) -> Pipeline | None:
        """Returns commands to run before the first write to a store; they are not timed."""
        return None

    def write(self, source: Path, store: Path) -> Pipeline:
        """Returns commands to run in `store`, which is empty except for what `prepare` has left there."""
        raise NotImplementedError

    def write_on(self, source: Path, store: Path, number: int) -> Pipeline:
        """Returns the commands of one of several runs into the same store, for tools that remember. The last has the
        `number` 1, and is what `restore` restores; the one before it has 0, and so on."""
        return self.write(source, store)

    def prune(self, store: Path) -> Pipeline:
        """Returns commands that delete all but the last of several runs, for tools that remember."""
        raise NotImplementedError

    def lay_out(self, store: Path, into: Path) -> None:
        """Puts the files that `restore` expects into the empty directory `into`; this is not timed."""

    def restore(self, store: Path, into: Path) -> Pipeline:
        """Returns commands to run in `into`."""
        raise NotImplementedError


def keyfile(home: Path) -> Path:
    key = home / "key"
    if not key.exists():
        key.write_bytes(os.urandom(32))
    return key


def key_pair(home: Path) -> Path:
    """Returns the path of both keys, without the endings."""
    pair = home / "pair"
    if not pair.with_suffix(".decrypt").exists():
        subprocess.run([*our("pogfast"), "keygen", pair.name], cwd=home, check=True, stdout=subprocess.DEVNULL)
    return pair


class Pog(Side):
    """The command `pog`, pogfast's or pogcli's, with blobs flat in the working directory."""

    def write(self, source: Path, store: Path) -> Pipeline:
        return [[*self.command, f"--keyfile={keyfile(self.home)}", str(source)]]

    def lay_out(self, store: Path, into: Path) -> None:
        for blob in store.iterdir():
            os.link(blob, into / blob.name)

    def restore(self, store: Path, into: Path) -> Pipeline:
        [manifest] = store.glob("*.mfn")
        return [[*self.command, f"--keyfile={keyfile(self.home)}", "--decrypt", manifest.name]]


@dataclass(frozen=True)
class Pogfast(Side):
    """The command `pogfast`, without its cache, so that every run is a first run."""

    options: tuple[str, ...] = ()  # options of create
    restoring: tuple[str, ...] = ()  # options of restore
    pair: bool = False  # a key pair, not a keyfile
    remembers = True

    def environment(self) -> dict[str, str]:
        return {"XDG_CACHE_HOME": str(self.cache)}

    @property
    def cache(self) -> Path:
        return self.home / "cache"

    def address(self, store: Path) -> str:
        return str(store)

    def key(self, purpose: str) -> list[str]:
        if self.pair:
            return [f"--{purpose}ion-keyfile", str(key_pair(self.home).with_suffix(f".{purpose}"))]
        return ["--keyfile", str(keyfile(self.home))]

    def create(self, source: Path, store: Path, *words: str) -> Pipeline:
        command = [*self.command, "create", str(source), "--to", self.address(store)]
        return [[*command, *self.key("encrypt"), *self.options, *words]]

    def write(self, source: Path, store: Path) -> Pipeline:
        return self.create(source, store, "--no-cache")

    def write_on(self, source: Path, store: Path, number: int) -> Pipeline:
        return self.create(source, store)

    def lay_out(self, store: Path, into: Path) -> None:
        shutil.rmtree(self.cache, ignore_errors=True)  # restores on a machine that has not seen the store

    def restore(self, store: Path, into: Path) -> Pipeline:
        command = [*self.command, "restore", f"{self.address(store)}/latest", "--into", str(into)]
        return [[*command, *self.key("decrypt"), *self.restoring]]

    def prune(self, store: Path) -> Pipeline:
        command = [*self.command, "prune", self.address(store), "--keep-last", "1", "--now", "--yes"]
        return [[*command, *self.key("decrypt")]]


class Age(Side):
    """zstd on every core piped to age with a key pair; tar before it if there are several files."""

    TREE = "tree.tar.zst.age"  # name of a packed directory; a single file keeps its own

    def identity(self) -> Path:
        identity = self.home / "identity"
        if not identity.exists():
            subprocess.run(["age-keygen", "-o", identity], check=True, stderr=subprocess.DEVNULL)
        return identity

    def recipient(self) -> str:
        return subprocess.check_output(["age-keygen", "-y", self.identity()], text=True).strip()

    def write(self, source: Path, store: Path) -> Pipeline:
        files = files_below(source)
        encrypt = ["age", "-r", self.recipient(), "-o"]
        if len(files) == 1:
            name = f"{files[0].name}.zst.age"
            return [["zstd", "-q", "-T0", "-3", "-c", str(files[0])], [*encrypt, str(store / name)]]
        pack = ["tar", "-c", "-C", str(source), "."]
        return [pack, ["zstd", "-q", "-T0", "-3", "-c"], [*encrypt, str(store / self.TREE)]]

    def restore(self, store: Path, into: Path) -> Pipeline:
        [archive] = store.iterdir()
        decrypt = ["age", "-d", "-i", str(self.identity()), str(archive)]
        if archive.name == self.TREE:
            return [decrypt, ["zstd", "-q", "-d", "-c"], ["tar", "-x", "-C", str(into)]]
        return [decrypt, ["zstd", "-q", "-d", "-o", str(into / archive.name.removesuffix(".zst.age"))]]


@dataclass(frozen=True)
class Restic(Side):
    cached: bool = False  # with its cache, which is empty when it restores
    remembers = True

    def environment(self) -> dict[str, str]:
        return {"RESTIC_PASSWORD": PASSWORD}

    @property
    def cache(self) -> Path:
        return self.home / "restic"

    def address(self, store: Path) -> str:
        return str(store)

    def ask(self, store: Path, *words: str) -> Pipeline:
        cache = ["--cache-dir", str(self.cache)] if self.cached else ["--no-cache"]
        return [[*self.command, *cache, "--repo", self.address(store), *words]]

    def prepare(self, store: Path) -> Pipeline:
        return self.ask(store, "init")

    def write(self, source: Path, store: Path) -> Pipeline:
        return self.ask(store, "backup", str(source))

    def lay_out(self, store: Path, into: Path) -> None:
        shutil.rmtree(self.cache, ignore_errors=True)

    def restore(self, store: Path, into: Path) -> Pipeline:
        return self.ask(store, "restore", "latest", "--target", str(into))

    def prune(self, store: Path) -> Pipeline:
        return self.ask(store, "forget", "--keep-last", "1", "--prune", "--max-unused", "0")


class Borg(Side):
    remembers = True

    def environment(self) -> dict[str, str]:
        # Its caches are like those of a user with this one repository.
        return {"BORG_PASSPHRASE": PASSWORD, "BORG_BASE_DIR": str(self.home / "borg")}

    def prepare(self, store: Path) -> Pipeline:
        return [[*self.command, "init", "--encryption", "repokey", str(store)]]

    def write(self, source: Path, store: Path) -> Pipeline:
        return self.write_on(source, store, 1)

    def write_on(self, source: Path, store: Path, number: int) -> Pipeline:
        archive = f"{store}::archive" if number == 1 else f"{store}::earlier{1 - number}"
        return [[*self.command, "create", "--compression", "zstd,3", archive, str(source)]]

    def restore(self, store: Path, into: Path) -> Pipeline:
        return [[*self.command, "extract", f"{store}::archive"]]

    def prune(self, store: Path) -> Pipeline:
        borg = shlex.join(self.command)
        return [["sh", "-c", f"{borg} prune --keep-last 1 {store} && {borg} compact --threshold 0 {store}"]]


class Rclone(Side):
    """rclone crypt, which uses the same encryption. It neither compresses nor deduplicates."""

    def remote(self, store: Path) -> str:
        return str(store)

    def crypt(self, store: Path) -> list[str]:
        secret = subprocess.check_output([self.command[0], "obscure", PASSWORD], text=True).strip()
        return [f"--crypt-remote={self.remote(store)}", f"--crypt-password={secret}", "--transfers=8"]

    def write(self, source: Path, store: Path) -> Pipeline:
        return [[*self.command, "copy", str(source), ":crypt:", *self.crypt(store)]]

    def restore(self, store: Path, into: Path) -> Pipeline:
        return [[*self.command, "copy", ":crypt:", str(into), *self.crypt(store)]]


# ---- installed tools -----------------------------------------------------------------------------------------------


def our(script: str) -> tuple[str, ...]:
    """Returns one of pogfast's commands in this interpreter's environment, or in the checkout."""
    path = Path(sys.executable).with_name(script)
    return (str(path),) if path.exists() else (sys.executable, "-m", {"pog": "pogfast.pog"}.get(script, script))


def pog(home: Path) -> Side:
    return Pog("pog", our("pog"), home, naming="pog")


def pogfast(home: Path) -> Side:
    return Pogfast("pogfast", our("pogfast"), home)


def no_sync(home: Path) -> Side:
    return Pogfast("pogfast restore --no-sync", our("pogfast"), home, restoring=("--no-sync",))


def before(home: Path) -> Side:
    """Returns the earlier release in the environment of POGFAST_BEFORE."""
    python = os.environ.get("POGFAST_BEFORE") or sys.exit(
        "set POGFAST_BEFORE to the interpreter of an environment with an earlier release"
    )
    release = subprocess.check_output([python, "-c", "import pogfast; print(pogfast.__version__)"], cwd=home, text=True)
    return Pogfast(f"pogfast {release.strip()}", (python, "-m", "pogfast"), home)


def fastcdc(home: Path) -> Side:
    return Pogfast("pogfast fastcdc", our("pogfast"), home, options=("--chunker=fastcdc",))


def pogcli(home: Path) -> Side:
    place = environment_with(home, "pogcli-0.1.4", "pogcli==0.1.4")
    return Pog("pogcli 0.1.4", (str(place / "pog"),), home, naming="pog")


def age(home: Path) -> Side | None:
    if not (installed("tar") and installed("age-keygen")):
        return None
    names = [released("zstd", "zstd", "-q", "--version"), released("age", "age", "--version")]
    return Age(" and ".join(names), ("age",), home) if all(names) else None


def restic(home: Path) -> Side | None:
    name = released("restic", "restic", "version")
    return Restic(name, ("restic",), home) if name else None


def borg(home: Path) -> Side | None:
    name = released("borg", "borg", "--version")
    return Borg(name, ("borg",), home) if name else None


def rclone(home: Path) -> Side | None:
    name = released("rclone", "rclone", "version")
    return Rclone(f"{name} crypt", ("rclone", "--config", os.devnull), home) if name else None


def environment_with(home: Path, name: str, *packages: str) -> Path:
    """Returns the bin directory of a separate environment, made once, with the same release of zstandard, which decides
    how much work compressing is."""
    place = home / name
    if not (place / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", place], check=True)
        wanted = [*packages, f"zstandard=={version('zstandard')}"]
        subprocess.run([place / "bin" / "python", "-m", "pip", "install", "-q", *wanted], check=True)
        (place / "ready").touch()
    return place / "bin"


def installed(program: str) -> bool:
    return shutil.which(program) is not None


def released(program: str, *command: str) -> str:
    """Returns the program's name and the release that `command` prints, or "" if it is not installed."""
    if not installed(program):
        return ""
    release = re.search(r"\d+(\.\d+)+", subprocess.check_output(command, text=True))
    return f"{program} {release[0]}" if release else program


SIDES: dict[str, Callable[[Path], Side | None]] = {
    "pogfast": pogfast,
    "fastcdc": fastcdc,
    "pog": pog,
    "pogcli": pogcli,
    "age": age,
    "restic": restic,
    "borg": borg,
    "rclone": rclone,
}

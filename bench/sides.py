"""The tools that compare.py measures, each with the commands that write a directory and bring it back.

It runs none of what is timed. Every tool is asked for what it does by default, at zstd level 3 where it has a choice,
with a key that needs no typing. A side that is not installed is None in the table at the end.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from data import files_below

Pipeline = list[list[str]]  # commands, each reads what the one before it prints
PASSWORD = "of a benchmark"


@dataclass(frozen=True)
class Side:
    """One tool. `home` is where it may keep what no run measures; a store is a directory of one run."""

    name: str
    command: tuple[str, ...]
    home: Path

    # Runs that write the same blobs have this in common; None: what is stored differs from run to run.
    naming: str | None = None
    remembers = False  # a second run stores only what is new

    def environment(self) -> dict[str, str]:
        return {}

    def prepare(self, store: Path) -> Pipeline | None:
        """What must run before the first write to a store; it is not timed."""
        return None

    def write(self, source: Path, store: Path) -> Pipeline:
        """To be run in `store`, which is empty but for what `prepare` has left there."""
        raise NotImplementedError

    def write_on(self, source: Path, store: Path, number: int) -> Pipeline:
        """Run `number` (0 or 1) of two into the same store, of those that remember; what `restore` brings back is the
        second."""
        return self.write(source, store)

    def lay_out(self, store: Path, into: Path) -> None:
        """Puts what `restore` expects there into the empty directory `into`; it is not timed."""

    def restore(self, store: Path, into: Path) -> Pipeline:
        """To be run in `into`."""
        raise NotImplementedError


def keyfile(home: Path) -> Path:
    key = home / "key"
    if not key.exists():
        key.write_bytes(os.urandom(32))
    return key


class Pog(Side):
    """pog's command line, ours or pogcli's: flat in the working directory."""

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
    """Our own command; without its cache, so that every run is a first run."""

    options: tuple[str, ...] = ()  # of create
    restoring: tuple[str, ...] = ()  # options of restore
    remembers = True

    def create(self, source: Path, store: Path, *words: str) -> Pipeline:
        key = str(keyfile(self.home))
        command = [*self.command, "create", str(source), "--to", str(store), "--keyfile", key]
        return [[*command, *self.options, *words]]

    def write(self, source: Path, store: Path) -> Pipeline:
        return self.create(source, store, "--no-cache")

    def write_on(self, source: Path, store: Path, number: int) -> Pipeline:
        return self.create(source, store, f"--cache-dir={self.home / 'cache'}")

    def restore(self, store: Path, into: Path) -> Pipeline:
        key = str(keyfile(self.home))
        return [[*self.command, "restore", f"{store}/latest", "--into", str(into), "--keyfile", key, *self.restoring]]


class Age(Side):
    """zstd on every core, and age with a key pair; tar before it where there is more than one file."""

    TREE = "tree.tar.zst.age"  # what is packed; one file keeps its name

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


class Restic(Side):
    remembers = True

    def environment(self) -> dict[str, str]:
        return {"RESTIC_PASSWORD": PASSWORD}

    def ask(self, store: Path, *words: str) -> Pipeline:
        return [[*self.command, "--no-cache", "--repo", str(store), *words]]

    def prepare(self, store: Path) -> Pipeline:
        return self.ask(store, "init")

    def write(self, source: Path, store: Path) -> Pipeline:
        return self.ask(store, "backup", str(source))

    def restore(self, store: Path, into: Path) -> Pipeline:
        return self.ask(store, "restore", "latest", "--target", str(into))


class Borg(Side):
    remembers = True

    def environment(self) -> dict[str, str]:
        # Its caches are those of a user who has only this repository.
        return {"BORG_PASSPHRASE": PASSWORD, "BORG_BASE_DIR": str(self.home / "borg")}

    def prepare(self, store: Path) -> Pipeline:
        return [[*self.command, "init", "--encryption", "repokey", str(store)]]

    def write(self, source: Path, store: Path) -> Pipeline:
        return self.write_on(source, store, 1)

    def write_on(self, source: Path, store: Path, number: int) -> Pipeline:
        archive = f"{store}::{['first', 'archive'][number]}"
        return [[*self.command, "create", "--compression", "zstd,3", archive, str(source)]]

    def restore(self, store: Path, into: Path) -> Pipeline:
        return [[*self.command, "extract", f"{store}::archive"]]


class Rclone(Side):
    """rclone's crypt, which boxes as we do. It neither compresses nor finds what is the same."""

    def remote(self, store: Path) -> str:
        return str(store)

    def crypt(self, store: Path) -> list[str]:
        secret = subprocess.check_output([self.command[0], "obscure", PASSWORD], text=True).strip()
        return [f"--crypt-remote={self.remote(store)}", f"--crypt-password={secret}", "--transfers=8"]

    def write(self, source: Path, store: Path) -> Pipeline:
        return [[*self.command, "copy", str(source), ":crypt:", *self.crypt(store)]]

    def restore(self, store: Path, into: Path) -> Pipeline:
        return [[*self.command, "copy", ":crypt:", str(into), *self.crypt(store)]]


# ---- who is here ---------------------------------------------------------------------------------------------------


def our(script: str) -> tuple[str, ...]:
    """One of our commands in the environment of this interpreter; where it is a checkout, the checkout's."""
    path = Path(sys.executable).with_name(script)
    return (str(path),) if path.exists() else (sys.executable, "-m", {"pog": "pogfast.pog"}.get(script, script))


def pog(home: Path) -> Side:
    return Pog("pog", our("pog"), home, naming="pog")


def pogfast(home: Path) -> Side:
    return Pogfast("pogfast", our("pogfast"), home)


def no_sync(home: Path) -> Side:
    return Pogfast("pogfast restore --no-sync", our("pogfast"), home, restoring=("--no-sync",))


def before(home: Path) -> Side:
    """The earlier release that POGFAST_BEFORE has."""
    python = os.environ.get("POGFAST_BEFORE") or sys.exit("POGFAST_BEFORE must name an interpreter that has a release")
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
    """The bin of an environment of its own, made once, with the zstandard that we use: its release decides the work."""
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
    """The program's name and its release, as `command` prints it; "" when it is not there."""
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

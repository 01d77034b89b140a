"""Makes the input data of the benchmarks, once for each workload and scale, and keeps it.

It knows nothing of tools. Random bytes cost the ciphers and the hash as much as any others, and the compressor nothing;
a tar of /usr compresses; many small files stress the file system and the interpreter.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

# Titles of the data at scale 1.
TITLES = {
    "random": "1 GB random",
    "tar": "1 GB tar of /usr",
    "small": "20,000 small files",
    "one": "one file of 1 GB",
    "eight": "eight files of 200 MB",
    "large": "10 GB random",
    "millions": "2 million files",
}
LARGE = 10  # multiple of the random data
BIG = 10**9  # bytes of the random data and of the tar
FILES = 20_000  # small files, in 200 directories, log-normal sizes around 5 KB
EIGHT_SIZE = 200_000_000
MILLIONS, LARGEST = 2_000_000, 4096  # files of `millions`, and the size of the largest; 500 in a directory
RELEASES = [f"botocore==1.44.{number}" for number in range(4, 9)]  # 3,500 files each


def title(workload: str, scale: float) -> str:
    """Returns the title of a workload in tables, with the scale unless it is 1."""
    return TITLES[workload] + ("" if scale == 1 else f", times {scale:g}")


def make_data(home: Path, workload: str, scale: float) -> Path:
    """Returns the directory with the input of a workload, and makes it if it does not exist."""
    if workload == "one":
        return make_data(home, "random", scale)
    place = home / f"{workload}-{scale:g}"
    if not (place / "made").exists():
        shutil.rmtree(place, ignore_errors=True)
        (place / "data").mkdir(parents=True)
        MAKERS[workload](place / "data", scale)
        (place / "made").touch()
    return place / "data"


def _write(path: Path, pieces: Iterator[bytes]) -> None:
    with path.open("wb") as out:
        for piece in pieces:
            out.write(piece)


def _random(place: Path, scale: float) -> None:
    _write(place / "random", _random_pieces(int(BIG * scale)))


def _random_pieces(size: int) -> Iterator[bytes]:
    while size > 0:
        yield os.urandom(min(size, 1 << 20))
        size -= 1 << 20


def _tar(place: Path, scale: float) -> None:
    _write(place / "usr.tar", usr_tar(int(BIG * scale)))


def usr_tar(size: int) -> Iterator[bytes]:
    """Yields the first `size` bytes of a tar of /usr."""
    with subprocess.Popen(["tar", "cf", "-", "/usr"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as tar:
        assert tar.stdout is not None
        while size > 0 and (piece := tar.stdout.read(min(size, 1 << 20))):
            yield piece
            size -= len(piece)
        tar.kill()


def _small(place: Path, scale: float) -> None:
    count = max(int(FILES * scale), 10)
    source = random.Random(1)
    sizes = [int(source.lognormvariate(8.5, 1.3)) for _ in range(count)]
    _write(place.with_name("source"), usr_tar(sum(sizes)))
    with place.with_name("source").open("rb") as source_file:
        for number, size in enumerate(sizes):
            directory = place / f"{number % 200:03}"
            directory.mkdir(exist_ok=True)
            (directory / f"{number}").write_bytes(source_file.read(size))
    place.with_name("source").unlink()


def _millions(place: Path, scale: float) -> None:
    source, text = random.Random(1), b"".join(usr_tar(1 << 29))
    for number in range(max(int(MILLIONS * scale), 10)):
        directory = place / f"{number // 500_000}" / f"{number // 500}"
        if number % 500 == 0:
            directory.mkdir(parents=True)
        size = source.randrange(LARGEST) + 1
        at = source.randrange(max(len(text) - size, 1))
        (directory / f"{number}").write_bytes(text[at : at + size])


def releases(home: Path) -> list[Path]:
    """Returns the unpacked sources of successive releases, oldest first, from the package index that pip is set up for.
    (Wheels have their data compressed, each file anew for each release.)"""
    places = []
    for name, release in (each.split("==") for each in RELEASES):
        places.append(home / f"{name}-{release}")
        if not places[-1].exists():
            command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:", "-d", home]
            subprocess.run([*command, f"{name}=={release}"], check=True)
            shutil.unpack_archive(home / f"{name}-{release}.tar.gz", home / "unpacking")
            (home / "unpacking" / places[-1].name).rename(places[-1])
    return places


def _eight(place: Path, scale: float) -> None:
    for number in range(8):
        _write(place / f"{number}", _random_pieces(int(EIGHT_SIZE * scale)))


MAKERS = {
    "random": _random,
    "tar": _tar,
    "small": _small,
    "eight": _eight,
    "millions": _millions,
    "large": lambda place, scale: _random(place, scale * LARGE),
}


class Change:
    """Changes one percent of a workload and back: 20 ranges of a large file, or every hundredth small file."""

    PLACES = 20

    def __init__(self, source: Path) -> None:
        files = files_below(source)
        self.pieces: list[tuple[Path, int, bytes]] = []
        if len(files) == 1:
            size = files[0].stat().st_size
            with files[0].open("rb") as file:
                for place in range(self.PLACES):
                    file.seek(size * (2 * place + 1) // (2 * self.PLACES))
                    self.pieces.append((files[0], file.tell(), file.read(size // 100 // self.PLACES)))
        else:
            self.pieces = [(file, 0, file.read_bytes()) for file in files[::100]]

    def make(self) -> None:
        self._write(lambda old: random.Random(len(old)).randbytes(len(old)))

    def undo(self) -> None:
        self._write(lambda old: old)

    def _write(self, bytes_for: Callable[[bytes], bytes]) -> None:
        for path, at, old in self.pieces:
            with path.open("r+b") as file:
                file.seek(at)
                file.write(bytes_for(old))


def warm(directory: Path) -> None:
    """Reads all files into the page cache, so that no run waits for the disk to read."""
    for file in files_below(directory):
        with file.open("rb") as source:
            while source.read(1 << 20):
                pass


def files_below(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())


def size_of(directory: Path) -> int:
    """Returns the total size of all files below the directory, in bytes."""
    return sum(file.stat().st_size for file in files_below(directory))

"""Shards: `create --shard 3/16` archives one of 16 parts of a tree, on any machine, and knows nothing of the others.

Each shard walks the whole tree and takes what is its own: files by a digest of their archived names, so that what
belongs to a shard depends on nothing else; the first one also takes everything that has no content. Large files are
shared, in spans. What a shard has stored is its part: a partial manifest under a fixed name, which says when it is
complete. merging.py makes the archive.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import astuple
from typing import Any, NamedTuple

from pogfast import manifest
from pogfast._engine import FileRun
from pogfast.backup.walk import Selection, archived_name
from pogfast.errors import UsageError
from pogfast.keys import Key
from pogfast.stores import MANIFEST, PARTIAL

MAX_SHARDS = 10_000
SPAN_SIZE = 256_000_000  # bytes of a file, about, that one shard takes
OF_FILE = "//"  # between the name of a file and the number of a span: no archived name has this
SET = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")
SET_LENGTH = 16  # of the usual name: digits of the digest
PREFIX = "shards-"
PART = re.compile(rf"{PREFIX}({SET.pattern})-([0-9]+)-of-([0-9]+){re.escape(MANIFEST + PARTIAL)}")


class Shard(NamedTuple):
    """One shard of so many, counted from 1; `set` is the name that they share, "" for the usual one."""

    number: int
    of: int
    set: str = ""

    @classmethod
    def parse(cls, text: str, set_name: str | None = None) -> Shard:
        """Parses 3/16. Raises UsageError."""
        number, slash, of = text.partition("/")
        if not (slash and number.isascii() and number.isdigit() and of.isascii() and of.isdigit()):
            raise UsageError(f"no such shard: {text}", hint="3/16 is the third of 16")
        shard = cls(int(number), int(of), "" if set_name is None else check_set(set_name))
        if not 1 <= shard.number <= shard.of <= MAX_SHARDS:
            raise UsageError(f"no such shard: {text}", hint=f"they are counted from 1, and are at most {MAX_SHARDS:,}")
        return shard

    def owns(self, name: str) -> bool:
        """Returns True if a file of this archived name belongs to the shard; or a span, as of `span_name`."""
        digest = hashlib.blake2b(os.fsencode(name.removesuffix(f"{OF_FILE}0")), digest_size=8).digest()
        return int.from_bytes(digest, "little") % self.of == self.number - 1

    def stretches(self, files: FileRun, shared: Collection[int] = ()) -> Iterator[tuple[int, int]]:
        """Yields (begin, end) of files that follow each other and belong to the shard, and each of the `shared` ones,
        in their order."""
        begin = -1
        for number in range(len(files)):
            if number not in shared and self.owns(files.above + os.fsdecode(files.leaf(number))):
                begin = number if begin < 0 else begin
                continue
            if begin >= 0:
                yield begin, number
                begin = -1
            if number in shared:
                yield number, number + 1
        if begin >= 0:
            yield begin, len(files)

    def spans(self, name: str, size: int, span: int) -> Iterator[Span]:
        """Yields the spans of a file that belong to the shard; `span` is the size of each but the last. The first span
        belongs to the shard that a file of this name belongs to, so that none is forgotten that grows meanwhile."""
        for number, offset in enumerate(range(0, size, span)):
            if self.owns(span_name(name, number)):
                yield Span(number, offset, min(span, size - offset))

    @property
    def takes_others(self) -> bool:
        """True for the shard that takes directories, links and FIFOs."""
        return self.number == 1


class Span(NamedTuple):
    """A part of a large file, in bytes."""

    number: int
    offset: int
    length: int


def span_name(name: str, number: int) -> str:
    """Returns what the entry of a span is called."""
    return f"{name}{OF_FILE}{number}"


def span_size(chunk_size: int) -> int:
    """Returns the bytes of a span, for chunks of this size."""
    return max(SPAN_SIZE // chunk_size, 1) * chunk_size


class Part(NamedTuple):
    """The part of a shard, by its name in a store."""

    set: str
    number: int
    of: int

    @property
    def name(self) -> str:
        return f"{PREFIX}{self.set}-{self.number}-of-{self.of}{MANIFEST}{PARTIAL}"

    @classmethod
    def parse(cls, name: str) -> Part | None:
        """Returns None for the name of anything else."""
        found = PART.fullmatch(name)
        part = cls(found[1], int(found[2]), int(found[3])) if found else None
        return part if part and part.name == name and 1 <= part.number <= part.of <= MAX_SHARDS else None


def check_set(name: str) -> str:
    """Returns the name of a set. Raises UsageError if it cannot be one."""
    if not SET.fullmatch(name):
        raise UsageError(f"not a name for a set of shards: {name}", hint="up to 64 letters, digits, and . _ - in it")
    return name


def job_of(key: Key, selection: Selection, identity: str, of: int) -> str:
    """Returns a digest of what all shards of a set must have in common: the inputs, what is left out of them, how files
    are cut, and how many shards there are. It tells nobody without the key anything about these."""
    words = manifest.encoded([identity, astuple(selection), of])
    return hashlib.blake2b(words, key=key.derive("set of shards"), digest_size=16).hexdigest()


def words_of(shard: Shard, job: str, paths: Sequence[str], *, complete: bool) -> dict[str, Any]:
    """Returns what the trailer of a part says besides that of another partial manifest."""
    words = {"number": shard.number, "of": shard.of, "job": job, "complete": complete}
    return {"shard": {**words, "inputs": list(map(archived_name, paths))}}


def job_in(trailer: Mapping[str, Any], part: Part) -> tuple[str, bool]:
    """Returns (the job of a part, True if it is complete); ("", False) if the trailer is not of this part."""
    words = trailer.get("shard")
    if not isinstance(words, dict) or (words.get("number"), words.get("of")) != (part.number, part.of):
        return "", False
    job = words.get("job")
    return (job, words.get("complete") is True) if isinstance(job, str) else ("", False)

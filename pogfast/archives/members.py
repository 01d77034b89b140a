"""The members of archives: files, directories, links and FIFOs; and a table that has each distinct one once, as JSON.

Successive archives have mostly the same members. In the catalog an archive is therefore a list of numbers, and what is
done with a member, such as matching its name or looking for its blobs, is done once for all archives that have it.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pogfast import manifest
from pogfast.archives.trailer import SECTIONS, Kind, Trailer
from pogfast.errors import CorruptManifest
from pogfast.manifest import Entry
from pogfast.system.encoding import local, portable

KINDS: tuple[Kind, ...] = ("file", *SECTIONS)
FILE = 0  # the number of the first
# Limits of a table: members of all archives together, 4 bytes for each; bytes of the names and JSON of distinct ones.
MAX_NUMBERS = 1 << 22
MAX_TEXT = 64 << 20


class Member(NamedTuple):
    """A file, directory, link or FIFO in an archive, as it is written there. Only files have an `entry`."""

    name: str
    kind: Kind
    metadata: Mapping[str, Any]
    entry: Entry | None = None

    @property
    def size(self) -> int | None:
        """Uncompressed bytes of a file, if known."""
        return self.entry.size if self.entry else None


class RawMember(NamedTuple):
    """A member as JSON: of a file its entry, of others their metadata. `kind` is its position in KINDS."""

    kind: int
    path: bytes  # the archived name in UTF-8
    text: bytes

    @property
    def name(self) -> str:
        return local(self.path.decode("utf-8", "surrogatepass"))

    def parsed(self, archive: str) -> Member:
        """Returns the member; `archive` is for messages. Raises CorruptManifest if it is malformed."""
        name, kind = self.name, KINDS[self.kind]
        if self.kind == FILE:
            entry = manifest.parse_entry(self.text, f"{archive}: the entry {name}")
            return Member(name, kind, entry.more, entry)
        try:
            metadata = manifest.decoded(self.text)
        except (ValueError, RecursionError):
            metadata = None
        if not isinstance(metadata, dict):
            raise CorruptManifest(f"{archive}: the {kind} {name} is malformed")
        return Member(name, kind, metadata)


def raw_members(opened: manifest.Manifest) -> list[RawMember]:
    """Returns the members of an archive, files first. Raises OverflowError for a number that JSON does not have."""
    described = Trailer(opened.trailer)
    found = [RawMember(FILE, _path(name), text) for name, text in manifest.entry_texts(opened.entries)]
    for number, kind in enumerate(KINDS):
        if kind != "file":
            section = described.section(SECTIONS[kind])
            found += [RawMember(number, _path(name), manifest.encoded(words)) for name, words in section.items()]
    return found


def _path(name: str) -> bytes:
    return portable(name).encode("utf-8", "surrogatepass")


class MemberTable:
    """Distinct members, by their numbers."""

    def __init__(self) -> None:
        self._members: list[RawMember] = []
        self._numbers: dict[RawMember, int] = {}
        self._room = MAX_NUMBERS
        self._text = 0

    def fill(self, members: list[RawMember], used: int) -> None:
        """Fills an empty table; `used` is how many members its archives have together."""
        self._members, self._room = members, MAX_NUMBERS - used
        self._text = sum(len(member.path) + len(member.text) for member in members)

    def __getitem__(self, number: int) -> RawMember:
        return self._members[number]

    def __iter__(self) -> Iterator[RawMember]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)

    def add(self, members: Sequence[RawMember]) -> array[int] | None:
        """Adds those that are new and returns the numbers of all; None if there is no room."""
        if len(self._numbers) < len(self._members):
            self._numbers = {member: number for number, member in enumerate(self._members)}
        new = dict.fromkeys(member for member in members if member not in self._numbers)
        text = self._text + sum(len(member.path) + len(member.text) for member in new)
        if len(members) > self._room or text > MAX_TEXT:
            return None
        self._room -= len(members)
        self._text = text
        self._numbers.update((member, number) for number, member in enumerate(new, len(self._members)))
        self._members += new
        return array("I", map(self._numbers.__getitem__, members))

"""What a backup would take and what its excludes leave out, as counts and examples, without reading a file.

Two walks go side by side, one with the excludes and one without: what only the latter has is left out.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from pogfast.backup.walk import Node, Selection, nodes_in, walk
from pogfast.files.paths import parent_of

PATIENCE = 4.0  # seconds that are spent on counting
EXAMPLES = 20


@dataclass
class Preview:
    """Counts of files, and their bytes. `is_whole` is False if there was no time to walk all."""

    files: int = 0
    size: int = 0
    left_out: int = 0
    left_out_size: int = 0
    examples: list[str] = field(default_factory=list)  # the uppermost names that are left out
    is_whole: bool = True


def preview(paths: Sequence[str], selection: Selection) -> Preview:
    """Walks the paths. Raises UsageError for an invalid pattern, and NoSuchInput if no path exists."""
    found, until = Preview(), time.monotonic() + PATIENCE
    taken = _nodes(paths, selection)
    following = next(taken, None)
    out: set[str] = set()  # directories that are left out, and what is in them
    for node in _nodes(paths, Selection(one_file_system=selection.one_file_system)):
        if time.monotonic() > until:
            found.is_whole = False
            break
        size = node.stat.st_size if node.kind == "file" else 0
        if following is not None and node.name == following.name:
            found.files += node.kind == "file"
            found.size += size
            following = next(taken, None)
            continue
        found.left_out += node.kind == "file"
        found.left_out_size += size
        if node.kind == "directory":
            out.add(node.name)
        if parent_of(node.name) not in out and len(found.examples) < EXAMPLES:
            found.examples.append(node.path + "/" * (node.kind == "directory"))
    return found


def _nodes(paths: Sequence[str], selection: Selection) -> Iterator[Node]:
    return nodes_in(walk(paths, selection, tell=lambda what: None))
